"""ISBI 2012: the 30 annotated slices of fly neural tissue on which U-Net was shown, cell against membrane."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .download import checksums, download_files
from .drosophila_vnc import with_channels
from .labels import LabelMapping
from .pairs import PairDataset, choose_split, matched
from .registry import Layout, Size, register_dataset
from .root import DataNotFoundError, open_root
from .spec import DatasetSpec

# The challenge keeps the labels of its test volume, so the annotated volume is split by depth, as DrosophilaVNC is.
SLICES = {"train": tuple(range(20)), "val": (21, 22, 23), "test": tuple(range(25, 30)), "all": tuple(range(30))}
_COMMIT = "b45af4d458437d8281cc218a07fd4380818ece4a"

SPEC = DatasetSpec(
    name="isbi2012",
    title="ISBI 2012",
    classes=("membrane", "cell"),
    palette=((0, 35, 93), (155, 215, 254)),
    # Round numbers, not measured: fixed values near the middle of the range serve as well.
    mean=(0.5,),
    std=(0.2,),
    in_channels=1,
    licence="terms of the ISBI 2012 EM segmentation challenge; research use",
    citation="arganda2015isbi",
    homepage="https://imagej.net/events/isbi-2012-segmentation-challenge",
    urls=(
        f"https://raw.githubusercontent.com/zhixuhao/unet/{_COMMIT}/data/membrane",
        f"https://github.com/zhixuhao/unet/raw/{_COMMIT}/data/membrane",
    ),
    digest="e82ced2765584d5d4a4ace0484518fa7a6ca64d0f9a3c116befbce08aac96cd0",
)


@register_dataset(
    "isbi2012", whole=("all",), layout=Layout(folders=("isbi2012",), needs=(("train/image", "train/label"),))
)
class ISBI2012(PairDataset):
    """30 slices of 512 x 512 pixels: 20 for training, 3 for validation, 5 for test; two lie between as gaps.

    ``dataset[i]`` is image (C, 512, 512) float32 in [0, 1] and mask (512, 512) int64: 0 membrane, 1 cell. There are no
    void pixels. Files are ``train/image/<number>.png`` and ``train/label/<number>.png``, the layout of zhixuhao/unet;
    its label values are 0 and 255.

    Args:
        split: ``"train"`` (slices 0-19), ``"val"`` (21-23), ``"test"`` (25-29) or ``"all"``.
        root: Folder that holds ``isbi2012/``, or that folder; None: ``SEGTUTOR_DATA``, then ``~/.cache/segtutor``.
        size: (height, width) to resize to; None: 512 x 512.
        channels: 1, or 3 to repeat the grey image for models that expect colour.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        download: Fetch the files when they are not there; each is checked against its SHA-256.

    Raises:
        DataNotFoundError: If the files are not there and ``download`` is false.
        ValueError: If split or channels are not valid, or a file has no partner.
    """

    spec = SPEC

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike | None = None,
        size: Size | None = None,
        channels: Literal[1, 3] = 1,
        transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        split = self.split = choose_split("ISBI2012", split, tuple(SLICES))
        self.root = open_root("isbi2012", root, fetch if download else None)
        # By number: in alphabetical order slice 10 would follow slice 1.
        found = {image.stem: (image, mask) for image, mask in pair_files(self.root)}
        missing = [str(number) for number in SLICES[split] if str(number) not in found]
        if missing:
            raise DataNotFoundError(f"ISBI2012 {split} has no slices {', '.join(missing)} in {self.root}: restore them")
        pairs = [found[str(number)] for number in SLICES[split]]
        super().__init__(pairs, with_channels(SPEC, channels), label_mapping(), size=size, transform=transform)


def pair_files(root: Path) -> list[tuple[Path, Path]]:
    """All images with their labels, in alphabetical order."""
    return matched(root / "train" / "image", root / "train" / "label", "ISBI2012")


def label_mapping() -> LabelMapping:
    """File values 0 (membrane) and 255 (cell) to 0 and 1."""
    return LabelMapping(SPEC.num_classes, SPEC.ignore_index, values={0: 0, 255: 1})


def fetch(folder: Path) -> None:
    """Download all slices into ``folder``."""
    download_files(SPEC.title, SPEC.urls, checksums("isbi2012", SPEC.digest), folder)
