"""Cityscapes: street scenes of 50 cities, 19 classes, 2048 x 1024 pixels. Its files need a login; none is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .labels import LabelMapping, shorten
from .pairs import PairDataset, choose_split
from .registry import Layout, Size, register_dataset
from .root import DataNotFoundError, open_root
from .spec import DatasetSpec

# Name, id in the files, colour. The position is the "train id", the label that papers report on.
_CLASSES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
HOW = (
    "it needs a login, so download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from "
    "https://www.cityscapes-dataset.com/downloads/ and unpack both into cityscapes/ "
    "in the folder that SEGTUTOR_DATA names"
)

SPEC = DatasetSpec(
    name="cityscapes",
    title="Cityscapes",
    classes=tuple(name for name, _, _ in _CLASSES),
    # The set's own colours, which every paper shows.
    palette=tuple(color for _, _, color in _CLASSES),
    # ImageNet's statistics, the DatasetSpec default: what pretrained weights expect.
    licence="Cityscapes terms of use: non-commercial, login required",
    citation="cordts2016cityscapes",
    homepage="https://www.cityscapes-dataset.com",
)


@register_dataset(
    "cityscapes",
    splits=("train", "val"),
    layout=Layout(folders=("cityscapes",), needs=(("leftImg8bit", "gtFine"),)),
)
class Cityscapes(PairDataset):
    """Cityscapes with fine annotations in the 19 classes of its benchmark: 2,975 training and 500 validation images.

    ``dataset[i]`` is image (3, 1024, 2048) float32 in [0, 1] and mask (1024, 2048) int64. The label files read are
    the ``*_labelIds.png`` of the archive, so nothing needs to be prepared; every id that the benchmark does not score
    is void (255).

    Args:
        split: ``"train"`` or ``"val"``; the test labels are withheld.
        root: Folder that holds ``cityscapes/``, or that folder; None: ``SEGTUTOR_DATA``, then ``~/.cache/segtutor``.
        size: (height, width) to resize to; None: 1024 x 2048.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        download: Always refused, with a sentence saying what to fetch and where to put it.

    Raises:
        DataNotFoundError: If the files are not there.
        ValueError: If the split is unknown or an image has no label file.
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
        split = self.split = choose_split("Cityscapes", split, ("train", "val"))
        self.root = open_root("cityscapes", root, None, how=HOW)
        super().__init__(pair_files(self.root, split), SPEC, label_mapping(), size=size, transform=transform)


def pair_files(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Images of a split with their ``labelIds`` files.

    Raises:
        DataNotFoundError: If the split has no images.
        ValueError: If an image has no label file.
    """
    images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    if not images:
        raise DataNotFoundError(f"{root / 'leftImg8bit' / split} holds no images: unpack leftImg8bit_trainvaltest.zip")
    pairs = []
    for image in images:
        stem = image.name.removesuffix("_leftImg8bit.png")
        pairs.append((image, root / "gtFine" / split / image.parent.name / f"{stem}_gtFine_labelIds.png"))
    missing = [image.name for image, mask in pairs if not mask.exists()]
    if missing:
        raise ValueError(f"Cityscapes {split} has images without a *_gtFine_labelIds.png: {shorten(missing, 5)}")
    return pairs


def label_mapping() -> LabelMapping:
    """Ids in the files to train ids; every other id is void. The licence plate's -1 is 255 in 8 bits."""
    values = dict.fromkeys([*range(34), 255], SPEC.ignore_index)
    values.update({file_value: label for label, (_, file_value, _) in enumerate(_CLASSES)})
    return LabelMapping(SPEC.num_classes, SPEC.ignore_index, values=values)
