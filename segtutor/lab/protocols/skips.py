"""The bytes that cross from encoder to decoder, counted from a model's traced shapes."""

from collections.abc import Sequence

from torch import nn

LEVELS = (1, 2, 3, 4)  # of U-Net


def unet_skip_bytes(model: nn.Module, size: Sequence[int]) -> tuple[list[int], list[int]]:
    """Bytes of one image's skips in U-Net, in float32.

    Args:
        model: A `segtutor.models.UNet`.
        size: (height, width) of the image.

    Returns:
        What is laid beside the upsampled maps, and the whole maps that are held for it: one number per level each,
        finest last.
    """
    from segtutor import probe

    carried, held = [], []
    for row in probe.shape_trace(model, size, names=[f"contract{level}" for level in LEVELS]):
        held.append(4 * row.out_shape[1] * row.out_shape[2] * row.out_shape[3])
    for row in probe.shape_trace(model, size, names=[f"expand{level}" for level in reversed(LEVELS)]):
        carried.append(4 * row.in_shape[1] // 2 * row.in_shape[2] * row.in_shape[3])
    return carried, held[::-1]
