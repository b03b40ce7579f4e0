"""Production heads: one file each, all `Features` to `HeadOutput`."""

from segtutor.factory.heads import (  # noqa: F401 (each file registers its head)
    aspp,
    aspp_ocnet,
    extremely_fast_segformer,
    fcn,
    fpn,
    jpu,
    ksac,
    ocnet,
    psp,
    segformer,
    smp,
    ultrafast_segformer,
    uper,
)
from segtutor.factory.heads.base import HEADS, Head, HeadOutput, create_head, list_heads, register_head

__all__ = ["HEADS", "Head", "HeadOutput", "create_head", "list_heads", "register_head"]
