"""Networks that more than one chapter trains, so that a run trains them once."""

from torch import nn


def deeplab_v3_at_stride_16(num_classes: int) -> nn.Module:
    """The tiny DeepLab v3 at output stride 16 in place of 8."""
    from segtutor.models import DeepLabV3
    from segtutor.models.deeplab_v3 import PRESETS

    return DeepLabV3(num_classes, **{**PRESETS["tiny"], "output_stride": 16})
