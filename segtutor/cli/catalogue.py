"""Every backbone and head on one page: what it costs, what it fits, when to use it. Counted, not typed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from segtutor import probe
from segtutor.factory import create_backbone, create_model, list_heads
from segtutor.factory.backbones import list_backbone_names, list_backbone_uses
from segtutor.factory.backbones.registry import output_strides
from segtutor.factory.config import shipped_configs
from segtutor.factory.messages import suggest

SIZE, CLASSES, UNDER = (512, 512), 19, "resnet50"


@dataclass(frozen=True)
class BackboneCard:
    """What there is to know about a backbone before choosing it.

    Attributes:
        name: its short name.
        parameters: weights that are learned.
        gflops: for one image of 512x512, a multiply-add counted as two.
        channels: of c1 .. c4.
        strides: the output strides that it can end at.
        licence: of its pretrained weights; "" where nobody published any.
        when: when to use it.
    """

    name: str
    parameters: int
    gflops: float
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    licence: str
    when: str


@dataclass(frozen=True)
class HeadCard:
    """What there is to know about a head before choosing it.

    Attributes:
        name: its name.
        parameters: what it adds to a ResNet-50, with 19 classes.
        gflops: what it adds there, for one image of 512x512.
        in_strides: of the maps that it reads.
        out_stride: of its logits.
        when: when to use it.
    """

    name: str
    parameters: int
    gflops: float
    in_strides: tuple[int, ...]
    out_stride: int
    when: str


def backbone_card(name: str) -> BackboneCard:
    """Count one backbone, without allocating its weights."""
    section = list_backbone_names()[name]
    with torch.device("meta"):
        backbone = create_backbone(section)
    gflops = probe.count_flops(backbone, SIZE) / 1e9
    published = getattr(getattr(backbone, "network", None), "pretrained_cfg", None) or {}
    licence = "non-commercial (NVIDIA)" if section["type"] == "segformer" else published.get("license") or ""
    use = list_backbone_uses()[name]
    strides = output_strides(section["type"])
    return BackboneCard(name, probe.count_parameters(backbone), gflops, backbone.channels, strides, licence, use)


def head_card(name: str) -> HeadCard:
    """Count what one head adds to a ResNet-50."""
    with torch.device("meta"):
        model = create_model({"backbone": UNDER, "head": name, "num_classes": CLASSES})
    gflops = (probe.count_flops(model, SIZE) - probe.count_flops(model.backbone, SIZE)) / 1e9
    head = model.head
    when = getattr(head, "when", "")
    return HeadCard(name, probe.count_parameters(head), gflops, head.in_strides, head.out_stride, when)


def listing(names: Iterable[str] = ()) -> str:
    """The page that ``segtutor models`` prints.

    Args:
        names: backbones and heads to show; none: all of them.

    Raises:
        ValueError: an unknown name.
    """
    names = list(names)
    backbones, heads = list(list_backbone_names()), list_heads()
    for name in names:
        if name not in (*backbones, *heads):
            raise ValueError(f"there is no backbone or head '{name}'; {suggest(name, [*backbones, *heads])}")
    lines = []
    shown = [name for name in backbones if not names or name in names]
    if shown:
        lines += ["Backbones, one image of 512x512, a multiply-add counted as two:", _BACKBONE_HEAD]
        for name in shown:
            card = backbone_card(name)
            lines.append(
                f"{name:<16}{card.parameters / 1e6:>8.1f} M{card.gflops:>9.1f}  {_slashed(card.channels):<20}"
                f"{_slashed(card.strides):<9}{card.licence or 'no weights'}"
            )
            lines += _when(card.when)
    shown = [name for name in heads if name in names or not names and ":" not in name]
    if shown:
        lines += ["", f"Heads, what each adds to {UNDER} with {CLASSES} classes:", _HEAD_HEAD]
        for name in shown:
            added = head_card(name)
            lines.append(
                f"{name:<26}{added.parameters / 1e6:>7.2f} M{added.gflops:>9.1f}  "
                f"{_slashed(added.in_strides):<12}{added.out_stride}"
            )
            lines += _when(added.when)
    if not names:
        decoders = len([name for name in heads if ":" in name])
        lines += [
            "",
            f"Any other timm network with four maps: backbone {{type: timm, name: ...}}. Heads from smp: {decoders}, "
            "as smp:unet; name one to see it.",
        ]
        lines += [f"Shipped configurations: {', '.join(shipped_configs())}."]
    return "\n".join(lines).strip("\n")


_BACKBONE_HEAD = f"{'name':<16}{'parameters':>10}{'GFLOPs':>9}  {'channels':<20}{'strides':<9}licence of the weights"
_HEAD_HEAD = f"{'name':<26}{'parameters':>9}{'GFLOPs':>9}  {'reads':<12}stride of its logits"


def _slashed(values: Iterable[int]) -> str:
    return "/".join(map(str, values))


def _when(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, 96, initial_indent="    ", subsequent_indent="    ")
