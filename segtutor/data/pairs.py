"""What all datasets on disk share: pairs of an image file and a mask file, resized alike and turned into tensors.

Resizing picks pixels of a mask, so that no label appears that was not in the file.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from .errors import DataError
from .finding import list_files, unmatched
from .labels import LabelMapping
from .reading import read_image, read_raw_mask
from .spec import DatasetSpec
from .splits import part_name


def resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (C, H, W) to (C, *size), bilinear, smoothed first where it shrinks (corners not aligned)."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized = F.interpolate(image[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return resized[0].clamp_(0, 1)


def resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (H, W) to ``size``: every pixel is the source pixel under its centre, whatever the dtype.

    The plain ``nearest`` of torch takes the pixel under the corner, half a pixel away from where the bilinear image is.
    """
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    (height, width), (rows, columns) = mask.shape[-2:], size
    row = ((torch.arange(rows) * 2 + 1) * height) // (2 * rows)
    column = ((torch.arange(columns) * 2 + 1) * width) // (2 * columns)
    return mask[..., row[:, None], column]


@overload
def check_size(size: None) -> None: ...
@overload
def check_size(size: Sequence[int]) -> tuple[int, int]: ...
def check_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) as two whole numbers, or None.

    Raises:
        ValueError: If it is something else.
    """
    if size is None:
        return None
    if len(tuple(size)) != 2 or min(size) < 1:
        raise ValueError(f"size={tuple(size)} is not valid: give (height, width) in pixels")
    return int(size[0]), int(size[1])


class PairDataset(Dataset):
    """Images and masks in files, as pairs.

    ``dataset[i]`` is image (C, H, W) float32 in [0, 1] and mask (H, W) int64, not normalised.

    Args:
        pairs: (image file, mask file) of each item.
        spec: What the set says about itself.
        mapping: How file values become labels.
        size: (height, width) to resize to; None: as in the file.
        transform: Called as ``transform(image, mask)`` on ``tv_tensors.Image`` and ``tv_tensors.Mask``.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        spec: DatasetSpec,
        mapping: LabelMapping,
        *,
        size: tuple[int, int] | None = None,
        transform: Callable | None = None,
    ) -> None:
        self.pairs = list(pairs)
        self.spec = spec
        self.mapping = mapping
        self.size = check_size(size)
        self.transform = transform
        self._kept: dict[int, tuple[Tensor, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def keep_in_memory(self) -> PairDataset:
        """Keep every pair once it is read and resized, before the transform; returns the dataset itself.

        Worth it where small images are seen many times: decoding a file takes longer than a small network's step. The
        cost is 4 (C + 2) H W bytes an image. Loading processes of a DataLoader share what was read before they started,
        and each keeps for itself what it reads later: call :meth:`load` first, as `segtutor train` does.
        """
        self._kept = {} if self._kept is None else self._kept
        return self

    def load(self) -> PairDataset:
        """Read every pair now, once, and keep it in memory; returns the dataset itself.

        Raises:
            ValueError: As :meth:`read`.
        """
        self._kept = {} if self._kept is None else self._kept
        for index in range(len(self)):
            if index not in self._kept:
                self._kept[index] = self._resized(index)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {self.spec.num_classes} classes)"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (C, H, W) float32 and labels (H, W) int64 as they are in the files.

        Raises:
            ValueError: If a file cannot be read, a mask holds no labels, or image and mask differ in size.
        """
        image_path, mask_path = self.pairs[index]
        image = read_image(image_path, self.spec.in_channels, self.spec.value_range)
        labels = self.mapping.decode(
            read_raw_mask(mask_path, self.mapping.colors, self.mapping.ignore_index), str(mask_path)
        )
        if image.shape[1:] != labels.shape:
            raise DataError(
                f"{image_path} is {image.shape[1]} x {image.shape[2]} pixels (height x width) but {mask_path} is "
                f"{labels.shape[0]} x {labels.shape[1]}: export the mask at the size of its image",
                kind="size",
            )
        return image, labels

    def _resized(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.read(index)
        image, mask = torch.from_numpy(pixels), torch.from_numpy(labels)
        if self.size is None:
            return image, mask
        return resize_image(image, self.size), resize_mask(mask, self.size)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) and mask (H, W).

        Raises:
            IndexError: If the set has no such index.
            ValueError: As :meth:`read`.
        """
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{type(self).__name__} has {len(self)} images: index {index} is out of range")
        index %= len(self)
        if self._kept is None:
            image, mask = self._resized(index)
        else:
            if index not in self._kept:
                self._kept[index] = self._resized(index)
            image, mask = (tensor.clone() for tensor in self._kept[index])  # a caller may write into what it gets
        if self.transform is None:
            return image, mask
        from torchvision import tv_tensors

        return self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))


def matched(images: Path, masks: Path, title: str) -> list[tuple[Path, Path]]:
    """Pairs of the files of two folders with equal stems.

    Raises:
        DataNotFoundError: If a folder is not there or holds no images.
        ValueError: If a file has no partner; the message names it.
    """
    from .root import DataNotFoundError

    for folder in (images, masks):
        if not folder.is_dir():
            raise DataNotFoundError(f"{title} has no folder {folder}: restore it, or choose another split")
    left, right = list_files(images), list_files(masks)
    if not left:
        raise DataNotFoundError(f"{title} has no images in {images}: restore them, or choose another split")
    problems = unmatched(left, right)
    if problems:
        raise ValueError(f"{title}: {'; '.join(problems)}: give each image one mask of the same name")
    return [(path, right[key]) for key, path in left.items()]


def choose_split(title: str, split: str, splits: Sequence[str]) -> str:
    """The split, if there is one of that name; "valid" and "validation" are names of "val".

    Raises:
        ValueError: If there is none.
    """
    split = split if split in splits else part_name(split)
    if split not in splits:
        raise ValueError(f"{title} has no split {split!r}: choose one of {', '.join(splits)}")
    return split
