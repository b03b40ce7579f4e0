"""Joint transforms: image and mask go through the same random geometry, and masks never through an interpolation.

Built from ``torchvision.transforms.v2`` on ``tv_tensors``. What these functions return is called with an image and a
mask, can be sent to DataLoader workers, and draws from torch's random numbers only: one seed, one result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .pairs import check_size, resize_image, resize_mask
from .spec import DatasetSpec
from .warp import RandomWarp


def train_transform(
    spec: DatasetSpec,
    crop: tuple[int, int] | None,
    flip: bool = True,
    scale: tuple[float, float] | None = (0.75, 1.5),
    color: float = 0.0,
    *,
    flip_vertically: bool = False,
    rotation: float = 0.0,
    elastic: float = 0.0,
) -> JointTransform:
    """Random rotation and deformation, scale, crop, mirror and colour, then normalisation.

    Args:
        spec: The set's statistics and ignore_index.
        crop: (height, width) of every result. Where the scaled image is smaller, the image is padded with the set's
            mean and the mask with ``spec.ignore_index``, so that no padded pixel counts in a loss or score.
        flip: Mirror left to right with probability 1/2.
        scale: Smallest and largest factor of the image's size; None: not scaled.
        color: Strength of random brightness, contrast and saturation, 0 to 1; 0 leaves colours alone.
        flip_vertically: Mirror upside down with probability 1/2 as well, for images that have no up.
        rotation: Largest angle in degrees, to either side, about the centre of the image; the corners that come into
            view are filled as the crop is padded.
        elastic: Standard deviation, in pixels of the image, of the displacements on a coarse grid by which the image is
            deformed as for U-Net, whose authors take 10 on images of 512 pixels; see
            :func:`segtutor.data.warp.warped`.

    Returns:
        A function of image (C, H, W) in [0, 1] and mask (H, W) that returns an image of C channels and a mask,
        both of the size ``crop``, the image normalised.

    Raises:
        ValueError: If an argument is out of its range, or ``color`` is used on images with other than 1 or 3 channels.
    """
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    crop = check_size(crop)
    steps: list[Callable] = []
    if rotation or elastic:
        steps.append(RandomWarp(spec, rotation=rotation, elastic=elastic))
    if scale is not None:
        steps.append(RandomScale(scale))
    if crop is not None:
        fill = {tv_tensors.Image: list(spec.mean), tv_tensors.Mask: spec.ignore_index}
        steps.append(v2.RandomCrop(crop, pad_if_needed=True, fill=fill))
    if flip:
        steps.append(v2.RandomHorizontalFlip(0.5))
    if flip_vertically:
        steps.append(v2.RandomVerticalFlip(0.5))
    if not 0 <= color <= 1:
        raise ValueError(f"color={color} is not valid: give a strength from 0 (leave colours alone) to 1")
    if color:
        if spec.in_channels not in (1, 3):
            raise ValueError(f"color={color} needs images with 1 or 3 channels, not {spec.in_channels}: use color=0")
        saturation = color if spec.in_channels == 3 else None
        steps.append(v2.ColorJitter(brightness=color, contrast=color, saturation=saturation))
    steps.append(v2.Normalize(list(spec.mean), list(spec.std)))
    return JointTransform(steps)


def eval_transform(spec: DatasetSpec) -> JointTransform:
    """Normalisation only: whole images, for validation, test and prediction.

    Args:
        spec: The set's statistics.

    Returns:
        A function of image (C, H, W) in [0, 1] and mask (H, W) that returns both, the image normalised.
    """
    from torchvision.transforms import v2

    return JointTransform([v2.Normalize(list(spec.mean), list(spec.std))])


def normalize(image: Tensor, spec: DatasetSpec) -> Tensor:
    """Images (..., C, H, W) in [0, 1] to mean 0 and standard deviation 1 over the set."""
    mean, std = _statistics(image, spec)
    return (image - mean) / std


def denormalize(image: Tensor, spec: DatasetSpec) -> Tensor:
    """Normalised images (..., C, H, W) back to [0, 1], for looking at."""
    mean, std = _statistics(image, spec)
    return (image * std + mean).clamp(0, 1)


def _statistics(image: Tensor, spec: DatasetSpec) -> tuple[Tensor, Tensor]:
    if image.ndim < 3 or image.shape[-3] != spec.in_channels:
        raise ValueError(
            f"images of {spec.title} have {spec.in_channels} channels, (..., {spec.in_channels}, H, W), but this one "
            f"has shape {tuple(image.shape)}: pass the spec of the set it comes from"
        )
    mean, std = (image.new_tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    return mean, std


class JointTransform:
    """Steps applied to an image and its mask together.

    Plain tensors are accepted too: torchvision alone would take the mask for a second image, or leave it as it is.

    Args:
        steps: Called one after another as ``step(image, mask)`` on tv_tensors.
    """

    def __init__(self, steps: Sequence[Callable]) -> None:
        self.steps = list(steps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.steps))})"

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) float and mask (H, W) to image and mask, as plain tensors.

        Raises:
            ValueError: If image and mask differ in size, or the image does not hold floats.
        """
        from torchvision import tv_tensors

        if tuple(image.shape[-2:]) != tuple(mask.shape[-2:]) or image.ndim != 3 or mask.ndim != 2:
            raise ValueError(
                f"the image has shape {tuple(image.shape)} and the mask {tuple(mask.shape)}: they must be (C, H, W) "
                "and (H, W) with the same H and W"
            )
        if not image.is_floating_point():
            raise ValueError(f"the image holds {image.dtype}: give floats in [0, 1], e.g. image / 255")
        image, mask = tv_tensors.Image(image), tv_tensors.Mask(mask)
        for step in self.steps:
            image, mask = step(image, mask)
        return image.as_subclass(Tensor).contiguous(), mask.as_subclass(Tensor).contiguous()


class RandomScale:
    """Resize image and mask by one random factor; the image bilinear, the mask by picking pixels.

    torchvision's own nearest resize of masks takes the pixel under the corner, half a pixel from where the bilinear
    image is; :func:`segtutor.data.pairs.resize_mask` takes the one under the centre.

    Args:
        scale: Smallest and largest factor.

    Raises:
        ValueError: If the factors are not 0 < smallest <= largest.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        if len(tuple(scale)) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={scale} is not valid: give the smallest and the largest factor, e.g. (0.75, 1.5)")
        self.scale = (float(scale[0]), float(scale[1]))

    def __repr__(self) -> str:
        return f"RandomScale({self.scale})"

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) and mask (H, W) to the same scaled size."""
        from torchvision import tv_tensors

        factor = float(torch.empty(1).uniform_(*self.scale))
        size = tuple(max(1, round(side * factor)) for side in image.shape[-2:])
        image = tv_tensors.Image(resize_image(image.as_subclass(Tensor), size))
        return image, tv_tensors.Mask(resize_mask(mask.as_subclass(Tensor), size))
