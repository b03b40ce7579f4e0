"""Drosophila ventral nerve cord: one volume of serial-section electron microscopy, five kinds of tissue.

20 slices of 1024 x 1024 pixels. Neighbouring slices show nearly the same tissue, so the set is split by depth with a
slice left out in between; a random split would test on what was trained on.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from .download import checksums, download_files
from .labels import LabelMapping
from .pairs import PairDataset, check_size, choose_split
from .registry import Layout, Side, Size, register_dataset
from .root import DataNotFoundError, open_root
from .spec import DatasetSpec

SLICES = {"train": tuple(range(12)), "val": (13, 14), "test": (16, 17, 18, 19)}  # 12 and 15 lie between
# Values in the label files. Membrane is drawn by its angle (0, 45, 90, 135 degrees) and at junctions.
_FILE_VALUES = {0: 0, 32: 0, 64: 0, 96: 0, 128: 0, 159: 1, 191: 2, 223: 3, 255: 4}
_COMMIT = "4a5f051466d24d8dc1e855ab55658bb1b1dcd6bf"

SPEC = DatasetSpec(
    name="vnc",
    title="Drosophila VNC",
    classes=("membrane", "glia", "mitochondria", "synapse", "intracellular"),
    # Membrane dark and cell interior light, as in the micrographs; the rest apart for colour-blind readers.
    palette=((0, 35, 93), (255, 200, 24), (160, 44, 23), (97, 218, 127), (155, 215, 254)),
    # Over all pixels of the 12 training slices.
    mean=(0.5046,),
    std=(0.2138,),
    in_channels=1,
    licence="CC BY-NC-SA 3.0",
    citation="gerhard2013vnc",
    homepage="https://github.com/unidesigner/groundtruth-drosophila-vnc",
    urls=(
        f"https://raw.githubusercontent.com/unidesigner/groundtruth-drosophila-vnc/{_COMMIT}",
        f"https://github.com/unidesigner/groundtruth-drosophila-vnc/raw/{_COMMIT}",
    ),
    digest="9ea4822d506964e73c906db1f24db5624ebd880336e4b3b80272623b1cd11ad3",
)


@register_dataset("vnc", layout=Layout(folders=("vnc",), needs=(("stack1/raw", "stack1/labels"),)))
class DrosophilaVNC(PairDataset):
    """Fly nerve tissue: 12 training, 2 validation and 4 test slices.

    ``dataset[i]`` is image (C, 1024, 1024) float32 in [0, 1] and mask (1024, 1024) int64. There are no void pixels.

    Args:
        split: ``"train"`` (slices 0-11), ``"val"`` (13, 14) or ``"test"`` (16-19).
        root: Folder that holds ``vnc/``, or that folder; None: ``SEGTUTOR_DATA``, then ``~/.cache/segtutor``.
        size: (height, width) to resize a slice or tile to; None: not resized.
        tile: (height, width) or one number: cut every slice into tiles without overlap, row by row; it must divide
            1024. Item ``i`` is tile ``i % n`` of slice ``i // n``, where n is the number of tiles of a slice.
        channels: 1, or 3 to repeat the grey image for models that expect colour.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        download: Fetch the files when they are not there; each is checked against its SHA-256.

    Raises:
        DataNotFoundError: If the files are not there and ``download`` is false.
        ValueError: If split, tile or channels are not valid.
    """

    spec = SPEC

    def __init__(
        self,
        split: str = "train",
        *,
        root: str | os.PathLike | None = None,
        size: Size | None = None,
        tile: Side | Size | None = None,
        channels: Literal[1, 3] = 1,
        transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        split = self.split = choose_split("DrosophilaVNC", split, tuple(SLICES))
        self.root = open_root("vnc", root, fetch if download else None)
        pairs = [slice_files(self.root, number) for number in SLICES[split]]
        for path in (path for pair in pairs for path in pair if not path.exists()):
            raise DataNotFoundError(f"DrosophilaVNC {split} has no file {path}: restore it, or choose another split")
        super().__init__(pairs, with_channels(SPEC, channels), label_mapping(), size=size, transform=transform)
        self.tile = check_size((tile, tile) if isinstance(tile, int) else tile)
        if self.tile and any(1024 % side for side in self.tile):
            raise ValueError(f"tile={self.tile} does not divide 1024 x 1024: give powers of two, e.g. 256")
        self._slices: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.pairs) * self._tiles

    @property
    def _tiles(self) -> int:
        return (1024 // self.tile[0]) * (1024 // self.tile[1]) if self.tile else 1

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, H, W) float32 and labels (H, W) int64 of a slice or tile, not resized."""
        if not self.tile:
            return super().read(index)
        number, place = divmod(index, self._tiles)
        if number not in self._slices:  # 3 MiB a slice, in place of reading one file for each tile
            image, labels = super().read(number)
            self._slices[number] = np.round(image[:1] * 255).astype(np.uint8), labels.astype(np.uint8)
        image, labels = self._slices[number]
        height, width = self.tile
        top, left = place // (1024 // width) * height, place % (1024 // width) * width
        window = np.s_[..., top : top + height, left : left + width]
        cut = np.repeat(image[window], self.spec.in_channels, axis=0).astype(np.float32) / 255
        return cut, labels[window].astype(np.int64)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_slices": {}}  # a worker process reads what it needs itself


def slice_files(root: Path, number: int) -> tuple[Path, Path]:
    """The image file and the label file of a slice."""
    stack = root / "stack1"
    return stack / "raw" / f"{number:02d}.tif", stack / "labels" / f"labels{number:08d}.png"


def with_channels(spec: DatasetSpec, channels: int) -> DatasetSpec:
    """The spec of a grey set whose images are repeated over 1 or 3 channels.

    Raises:
        ValueError: If channels is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels} is not valid for {spec.title}: give 1, or 3 to repeat the grey image")
    return dataclasses.replace(spec, in_channels=channels, mean=spec.mean * channels, std=spec.std * channels)


@functools.cache
def label_mapping() -> LabelMapping:
    """File values to the five classes."""
    return LabelMapping(SPEC.num_classes, SPEC.ignore_index, values=_FILE_VALUES)


def fetch(folder: Path) -> None:
    """Download all 20 slices into ``folder``."""
    download_files(SPEC.title, SPEC.urls, checksums("vnc", SPEC.digest), folder)
