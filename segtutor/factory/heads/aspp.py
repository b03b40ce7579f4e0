"""Atrous spatial pyramid pooling with the decoder of DeepLab v3+: the default head.

After Chen et al. 2018 (arXiv 1802.02611); the modules are `segtutor.models.deeplab_v3.ASPP` and
`segtutor.models.deeplab_v3plus.Decoder`.

**When to use it.** When nothing speaks for another head, on convolutional backbones above all: it looks far, and draws
its borders at stride 4. Dilate the backbone to stride 16 where it can be; at 8 it costs much more (that it gains a
little there is the paper's result, not ours).

Unlike the paper's network it takes c4 at any stride, and its rates go with it: 6, 12, 18 at 16, doubled at 8, halved
at 32.
"""

from collections.abc import Sequence

from segtutor.factory.config import Count, Probability
from segtutor.factory.heads.base import register_head
from segtutor.factory.heads.context import ContextHead, rates_at
from segtutor.layers import conv_norm_relu
from segtutor.models.deeplab_v3 import ASPP
from segtutor.models.deeplab_v3plus import separable_conv_norm_relu


@register_head("aspp")
class ASPPHead(ContextHead):
    """ASPP on c4, the decoder at c1.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of ASPP's branches, of the decoder and of the embedding.
        rates: of the atrous branches at c4's own stride; None: see the module.
        low_level_dim: channels to which c1 is reduced.
        separable: make the 3x3 convolutions depthwise separable: a tenth of their FLOPs, and not as much of their time.
        dropout: share of ASPP's result dropped in training.
    """

    when = "The default: looks at several distances on c4, draws with c1, and its rates follow the backbone's stride."

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        proj_dim: Count = 256,
        rates: tuple[Count, ...] | None = None,
        low_level_dim: Count = 48,
        separable: bool = False,
        dropout: Probability = 0.1,
    ):
        convolution = separable_conv_norm_relu if separable else conv_norm_relu
        rates = rates_at(strides[3], rates)
        context = ASPP(channels[3], proj_dim, rates, convolution=convolution, dropout=dropout)
        super().__init__(context, channels[0], num_classes, proj_dim, low_level_dim, convolution)
