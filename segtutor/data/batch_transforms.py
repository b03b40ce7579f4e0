"""Augmentation of whole batches on the device where the network is: one sampling grid instead of eight images in turn.

What `segtutor.data.transforms.train_transform` does to one image on a CPU, `RandomView` does to a batch anywhere. Give
`segtutor.training.fit` a dataset of plain images in [0, 1], all of one size, and the view as ``batch_transform``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .pairs import check_size
from .spec import DatasetSpec
from .warp import check_warp, sample, warped


class RandomView:
    """Random scale, crop, mirror, rotation, deformation and colour of each image of a batch, then normalisation.

    All geometry is one bilinear sampling of the image and one nearest sampling of the mask at the same places, so
    labels stay labels. Pixels beyond the image are the set's mean in the image and ``spec.ignore_index`` in the mask.
    Unlike `train_transform` it enlarges and shrinks without anti-aliasing, and draws contrast before the crop.

    Random numbers come from torch's CPU generator, whatever the device, so that one seed gives one result.

    Args:
        spec: The set's statistics and ignore_index.
        crop: (height, width) of every result.
        scale: Smallest and largest factor of the image's size; None: not scaled.
        flip: Mirror left to right with probability 1/2.
        flip_vertically: Mirror upside down with probability 1/2 as well, for images that have no up.
        color: Strength of random brightness, contrast and saturation, 0 to 1; 0 leaves colours alone.
        rotation: Largest angle in degrees, to either side, about the centre of the image.
        elastic: Standard deviation of the displacements of U-Net's deformation, in pixels of the image; see
            :func:`segtutor.data.warp.warped`.

    Raises:
        ValueError: If an argument is out of its range, or ``color`` is used on images with other than 1 or 3 channels.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        crop: tuple[int, int],
        *,
        scale: tuple[float, float] | None = (0.75, 1.5),
        flip: bool = True,
        flip_vertically: bool = False,
        color: float = 0.0,
        rotation: float = 0.0,
        elastic: float = 0.0,
    ) -> None:
        check_warp(rotation, elastic)
        if scale is not None and not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={scale} is not valid: give the smallest and the largest factor, e.g. (0.75, 1.5)")
        if not 0 <= color <= 1:
            raise ValueError(f"color={color} is not valid: give a strength from 0 (leave colours alone) to 1")
        if color and spec.in_channels not in (1, 3):
            raise ValueError(f"color={color} needs images with 1 or 3 channels, not {spec.in_channels}: use color=0")
        self.spec, self.crop, self.scale, self.color = spec, check_size(crop), scale, color
        self.flip, self.flip_vertically = flip, flip_vertically
        self.rotation, self.elastic = float(rotation), float(elastic)

    def __repr__(self) -> str:
        return (
            f"RandomView(crop={self.crop}, scale={self.scale}, flip={self.flip}, "
            f"flip_vertically={self.flip_vertically}, color={self.color}, rotation={self.rotation}, "
            f"elastic={self.elastic})"
        )

    def __call__(self, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] and masks (B, H, W) to normalised images (B, C, h, w) and masks (B, h, w).

        Raises:
            ValueError: If images and masks differ in batch or size.
        """
        if images.dim() != 4 or masks.shape != (len(images), *images.shape[2:]):
            raise ValueError(
                f"images have shape {tuple(images.shape)} and masks {tuple(masks.shape)}: they must be (B, C, H, W) "
                "and (B, H, W) with the same B, H and W"
            )
        if self.color:
            images = jitter(images, self.color)
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.spec.mean, self.spec.std))
        height, width = images.shape[2:]
        places = self.grid(len(images), height, width).to(images.device)  # (B, h, w, 2)
        places = warped(places, (height, width), rotation=self.rotation, elastic=self.elastic)
        return sample((images - mean) / std, masks, places, self.spec.ignore_index)

    def grid(self, batch: int, height: int, width: int) -> Tensor:
        """Where each pixel of each view lies in its image, not yet turned or deformed: (batch, h, w, 2) of (x, y)."""
        factor = torch.empty(batch).uniform_(*self.scale) if self.scale else torch.ones(batch)
        axes = []
        for side, crop, flips in ((height, self.crop[0], self.flip_vertically), (width, self.crop[1], self.flip)):
            window = crop / factor  # pixels of the image that the view covers
            room = side - window  # negative where the view is larger than the image
            start = torch.rand(batch) * room
            centres = (torch.arange(crop) + 0.5) / crop  # (crop,)
            places = (start[:, None] + window[:, None] * centres) * 2 / side - 1  # (B, crop)
            mirrored = torch.rand(batch) < 0.5 if flips else torch.zeros(batch, dtype=torch.bool)
            axes.append(torch.where(mirrored[:, None], places.flip(1), places))
        rows, columns = axes
        h, w = self.crop
        return torch.stack(
            [columns[:, None, :].expand(batch, h, w), rows[:, :, None].expand(batch, h, w)], dim=-1
        )  # (B, h, w, 2)


def jitter(images: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and, in colour, saturation of each image by factors of 1 - strength to 1 + strength.

    Args:
        images: (B, C, H, W) in [0, 1], C 1 or 3.
        strength: 0 to 1.

    Returns:
        Images (B, C, H, W) in [0, 1].
    """
    factors = torch.empty(3, len(images), 1, 1, 1).uniform_(1 - strength, 1 + strength).to(images)
    brightness, contrast, saturation = factors
    images = (images * brightness).clamp(0, 1)
    grey = _grey(images)
    mean = grey.mean(dim=(1, 2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 1)
    if images.shape[1] == 3:
        grey = _grey(images)
        images = (grey + saturation * (images - grey)).clamp(0, 1)
    return images


def _grey(images: Tensor) -> Tensor:
    """Luma (B, 1, H, W), by the weights of ITU-R BT.601."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor((0.299, 0.587, 0.114))[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)
