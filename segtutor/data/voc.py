"""PASCAL VOC: photographs with 20 classes of objects and a background."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .download import download_archives
from .labels import LabelMapping
from .pairs import PairDataset, choose_split
from .registry import Layout, Size, register_dataset
from .root import DataNotFoundError, open_root
from .spec import DatasetSpec

YEARS = (2007, 2008, 2009, 2010, 2011, 2012)


def voc_color(label: int) -> tuple[int, int, int]:
    """The colour of a label in the files: its bits, dealt in turn to red, green and blue from the highest bit down."""
    color = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            color[channel] |= (label >> (3 * place + channel) & 1) << (7 - place)
    red, green, blue = color
    return red, green, blue


SPEC = DatasetSpec(
    name="voc",
    title="PASCAL VOC",
    classes=(
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "dining table",
        "dog",
        "horse",
        "motorbike",
        "person",
        "potted plant",
        "sheep",
        "sofa",
        "train",
        "tv/monitor",
    ),
    # The set's own colours: 21 colours cannot all be told apart by colour-blind readers, so custom decides.
    palette=tuple(voc_color(label) for label in range(21)),
    # ImageNet's statistics, the DatasetSpec default: photographs of every kind, and what pretrained weights expect.
    licence="terms of the photographs on Flickr; research use",
    citation="everingham2015voc",
    homepage="http://host.robots.ox.ac.uk/pascal/VOC/",
    urls=("https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",),
)


@register_dataset(
    "voc",
    splits=("train", "val"),
    layout=Layout(folders=("voc",), needs=(("VOCdevkit",), ("TrainVal/VOCdevkit",))),
)
class VOC(PairDataset):
    """PASCAL VOC segmentation, read through torchvision and checked by its MD5s.

    ``dataset[i]`` is image (3, H, W) float32 in [0, 1] and mask (H, W) int64; sizes differ from image to image. Masks
    are palette files whose indices are the labels; 255, drawn around objects, is void. For 2012 there are 1,464
    training and 1,449 validation images.

    Args:
        split: ``"train"``, ``"val"`` or ``"trainval"``; ``"test"`` for 2007 only, the other test labels are withheld.
        root: Folder that holds ``voc/VOCdevkit/``, or any folder that torchvision would be given; None:
            ``SEGTUTOR_DATA``, then ``~/.cache/segtutor``.
        year: 2007 to 2012.
        size: (height, width) to resize to; None: as in the file.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        download: Fetch the files (2 GB for 2012) when they are not there.

    Raises:
        DataNotFoundError: If the files are not there and ``download`` is false.
        ValueError: If split or year are not valid.
    """

    spec = SPEC

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike | None = None,
        year: Literal[2007, 2008, 2009, 2010, 2011, 2012] = 2012,
        size: Size | None = None,
        transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        if year not in YEARS:
            raise ValueError(f"VOC has no year {year!r}: choose one of {', '.join(map(str, YEARS))}")
        splits = ("train", "val", "trainval", "test") if year == 2007 else ("train", "val", "trainval")
        split = self.split = choose_split(f"VOC {year}", split, splits)
        self.year = year
        self.root = open_root("voc", root, functools.partial(fetch, year=year, split=split) if download else None)
        from torchvision.datasets import VOCSegmentation

        try:
            source = VOCSegmentation(self.root, year=str(year), image_set=split, download=False)
        except (RuntimeError, OSError) as error:
            raise DataNotFoundError(
                f"{self.root} holds no VOC {year} {split}: unpack its archive there, or pass another root with "
                "download=True"
            ) from error
        pairs = [(Path(image), Path(mask)) for image, mask in zip(source.images, source.masks, strict=True)]
        super().__init__(pairs, SPEC, LabelMapping(SPEC.num_classes, SPEC.ignore_index), size=size, transform=transform)


def fetch(folder: Path, year: int = 2012, split: str = "train") -> None:
    """Download and unpack the archive of one year into ``folder``, checked against torchvision's MD5."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    source = DATASET_YEAR_DICT["2007-test" if split == "test" else str(year)]
    download_archives(f"{SPEC.title} {year}", [(source["url"], source["md5"])], folder)
