"""Oxford-IIIT Pets: 7,349 photographs of cats and dogs, each with a trimap of pet, background and border."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .download import download_archives
from .labels import LabelMapping
from .pairs import PairDataset, choose_split
from .registry import Layout, Size, register_dataset
from .root import open_root
from .spec import DatasetSpec

BORDER = ("void", "class")

SPEC = DatasetSpec(
    name="oxford_pets",
    title="Oxford-IIIT Pets",
    classes=("background", "pet"),
    palette=((86, 80, 88), (243, 205, 36)),
    # ImageNet's statistics, the DatasetSpec default: photographs of every kind, and what pretrained weights expect.
    licence="CC BY-SA 4.0",
    citation="parkhi2012pets",
    homepage="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    urls=(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
    ),
)
SPEC_WITH_BORDER = dataclasses.replace(SPEC, classes=(*SPEC.classes, "border"), palette=(*SPEC.palette, (34, 62, 204)))


@register_dataset(
    "oxford_pets",
    whole=("trainval", "test"),
    layout=Layout(
        folders=("oxford_pets",),
        needs=(("oxford-iiit-pet/images", "oxford-iiit-pet/annotations/trimaps"),),
    ),
)
class OxfordPets(PairDataset):
    """Pets against background, read through torchvision and checked by its MD5s.

    ``dataset[i]`` is image (3, H, W) float32 in [0, 1] and mask (H, W) int64; sizes differ from image to image. The
    files say 1 pet, 2 background, 3 "not classified", the border drawn around each pet. Here 0 is background, 1 is
    pet, and the border is void (255), as its name in the files asks for; ``border="class"`` makes it class 2, as many
    tutorials do, which is another task with other scores.

    Args:
        split: ``"train"`` and ``"val"`` (every tenth image of the official trainval), ``"trainval"`` or ``"test"``.
        root: Folder that holds ``oxford_pets/oxford-iiit-pet/``, or any folder above ``oxford-iiit-pet/`` that
            torchvision would be given; None: ``SEGTUTOR_DATA``, then ``~/.cache/segtutor``.
        size: (height, width) to resize to; None: as in the file.
        border: ``"void"`` or ``"class"``.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        download: Fetch the files (800 MB) when they are not there.

    Raises:
        DataNotFoundError: If the files are not there and ``download`` is false.
        ValueError: If split or border are not valid.
    """

    spec = SPEC

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike | None = None,
        size: Size | None = None,
        border: Literal["void", "class"] = "void",
        transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        split = self.split = choose_split("OxfordPets", split, ("train", "val", "trainval", "test"))
        if border not in BORDER:
            raise ValueError(f"border={border!r} is not valid: choose one of {', '.join(BORDER)}")
        self.root = open_root("oxford_pets", root, fetch if download else None)
        from torchvision.datasets import OxfordIIITPet

        upstream = "test" if split == "test" else "trainval"
        source = OxfordIIITPet(self.root, split=upstream, target_types="segmentation", download=False)
        pairs = list(zip(source._images, source._segs, strict=True))
        if split in ("train", "val"):
            pairs = [pair for i, pair in enumerate(pairs) if (i % 10 == 9) == (split == "val")]
        spec = SPEC if border == "void" else SPEC_WITH_BORDER
        values = {1: 1, 2: 0, 3: SPEC.ignore_index if border == "void" else 2}
        super().__init__(pairs, spec, LabelMapping(spec.num_classes, values=values), size=size, transform=transform)


def fetch(folder: Path) -> None:
    """Download and unpack both archives into ``folder``, checked against torchvision's MD5s."""
    from torchvision.datasets import OxfordIIITPet

    download_archives(SPEC.title, OxfordIIITPet._RESOURCES, folder, within="oxford-iiit-pet")
