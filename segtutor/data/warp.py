"""Rotation and elastic deformation: where each pixel of the result lies in the image, and one sampling at those places.

Places are (..., h, w, 2) of (x, y), -1 to 1 from edge to edge of the image, as `torch.nn.functional.grid_sample` takes
them. `segtutor.data.transforms` samples one image so, `segtutor.data.batch_transforms` a whole batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .spec import DatasetSpec

NODES = 3  # on a side of the coarse grid, as in U-Net's paper


def check_warp(rotation: float, elastic: float) -> None:
    """Refuse angles and displacements out of their range.

    Raises:
        ValueError: If one is.
    """
    if not 0 <= rotation <= 180:
        raise ValueError(f"rotation={rotation} is not valid: give the largest angle in degrees, 0 (none) to 180")
    if not 0 <= elastic < math.inf:
        raise ValueError(f"elastic={elastic} is not valid: give pixels, 0 (none) or more, such as one in 50 of a side")


def pixel_places(height: int, width: int) -> Tensor:
    """Where the pixels of an image are: (1, height, width, 2)."""
    rows, columns = ((torch.arange(side) * 2 + 1) / side - 1 for side in (height, width))
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]


def warped(places: Tensor, size: tuple[int, int], *, rotation: float = 0.0, elastic: float = 0.0) -> Tensor:
    """Turn places about the centre of the image by a random angle, and move each by a smooth random displacement.

    The deformation is that of U-Net (Ronneberger et al. 2015, section 3.1): random vectors on a coarse 3 x 3 grid, and
    between them bicubic interpolation. ``torchvision.transforms.v2.ElasticTransform`` is another one: it draws a vector
    for each pixel and smooths them by a Gaussian, so that two parameters together decide how far a pixel moves.

    Random numbers are drawn for each image of the batch, by torch's CPU generator, and none for what is 0.

    Args:
        places: (B, h, w, 2).
        size: (height, width) of the images.
        rotation: Largest angle in degrees, to either side.
        elastic: Standard deviation of the vectors along each axis, in pixels of the image.

    Returns:
        Places (B, h, w, 2), some of them beyond the image.
    """
    height, width = size
    half = places.new_tensor((width / 2, height / 2))  # pixels per unit
    moved = places
    if rotation:
        angle = torch.empty(len(places)).uniform_(-math.radians(rotation), math.radians(rotation))
        cosine, sine = (value.to(places)[:, None, None] for value in (angle.cos(), angle.sin()))  # (B, 1, 1)
        x, y = (places * half).unbind(-1)  # in pixels, where an angle is an angle
        moved = torch.stack([x * cosine - y * sine, x * sine + y * cosine], dim=-1) / half
    if elastic:
        vectors = (elastic * torch.randn(len(places), 2, NODES, NODES)).to(places)
        smooth = F.grid_sample(vectors, places, mode="bicubic", padding_mode="border", align_corners=False)
        moved = moved + smooth.permute(0, 2, 3, 1) / half  # (B, h, w, 2)
    return moved


def sample(images: Tensor, masks: Tensor, places: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Images between their pixels, and masks at the nearest one, at the same places: labels stay labels.

    Args:
        images: (B, C, H, W), in which 0 stands for what lies beyond the image.
        masks: (B, H, W), integers.
        places: (B, h, w, 2).
        ignore_index: Label of what lies beyond the image.

    Returns:
        Images (B, C, h, w) and masks (B, h, w).
    """
    view = F.grid_sample(images, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    # Labels are sampled one higher, so that the zeros beyond the image can be told from class 0
    labels = (masks[:, None] + 1).to(images.dtype)
    labels = F.grid_sample(labels, places, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]
    labels = labels.round().to(masks.dtype) - 1
    return view, labels.masked_fill(labels < 0, ignore_index)


class RandomWarp:
    """Rotate an image and its mask about the centre and deform them elastically, see `warped`; sizes stay.

    Pixels from beyond the image are the set's mean in the image and ``spec.ignore_index`` in the mask.

    Args:
        spec: The set's mean and ignore_index.
        rotation: Largest angle in degrees, to either side; 0: none.
        elastic: Standard deviation of the displacements in pixels; 0: none.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, spec: DatasetSpec, *, rotation: float = 0.0, elastic: float = 0.0) -> None:
        check_warp(rotation, elastic)
        self.spec, self.rotation, self.elastic = spec, float(rotation), float(elastic)

    def __repr__(self) -> str:
        return f"RandomWarp(rotation={self.rotation}, elastic={self.elastic})"

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) in [0, 1] and mask (H, W) to both of the same sizes."""
        from torchvision import tv_tensors

        if not self.rotation and not self.elastic:
            return image, mask
        plain, labels = image.as_subclass(Tensor)[None], mask.as_subclass(Tensor)[None]
        height, width = labels.shape[1:]
        places = warped(pixel_places(height, width), (height, width), rotation=self.rotation, elastic=self.elastic)
        mean = plain.new_tensor(self.spec.mean)[:, None, None]
        view, labels = sample(plain - mean, labels, places, self.spec.ignore_index)
        return tv_tensors.Image((view + mean)[0].clamp_(0, 1)), tv_tensors.Mask(labels[0])
