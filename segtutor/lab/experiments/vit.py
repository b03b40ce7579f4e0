"""Chapter 10: ViT's row of the running table, what it costs as images grow, and its speed beside torchvision's."""

import contextlib
import math
import statistics
from unittest import mock

import torch

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import forward_seconds, in_turns, milliseconds
from segtutor.lab.protocols.reference_speed import speed_rows
from segtutor.lab.protocols.running_table import table_row


def _tiny(num_classes):
    from segtutor.models import ViTSegmenter
    from segtutor.models.vit import PRESETS

    return ViTSegmenter(num_classes, **PRESETS["tiny"])


table_row("vit_segmenter", _tiny)


# ---------------------------------------------------------------------------------------------------------------- ATT-1

SIZES, ROUNDS = (256, 512, 768, 1024), 3
NARROW = {"width": 192, "depth": 4, "heads": 3}


def explicit():
    """A context in which the ViT computes its attention weights in place of calling the fused kernel."""
    from segtutor.models import vit

    return mock.patch.object(vit, "attention", lambda *qkv: vit.softmax_attention(*qkv)[0])


def swin(preset):
    """A Swin backbone, four maps."""
    from segtutor.models import SwinTransformer
    from segtutor.models.swin import PRESETS

    return SwinTransformer(**PRESETS[preset])


def _within(context, once):
    """``once``, run inside ``context()``."""

    def run() -> float:
        with context():
            return once()

    return run


def exponent(values) -> float:
    """The exponent p of value ~ pixels**p, fitted to {side: value} by least squares on logarithms."""
    x, y = [2 * math.log(side) for side in values], [math.log(value) for value in values.values()]
    return statistics.linear_regression(x, y).slope


@experiment(
    "ATT-1",
    claim="ATT-1",
    seeds=(0,),
    unit={
        "flops": "FLOPs",
        "attention": "share of FLOPs",
        "memory": "MiB",
        "ms": "ms",
        "flops_exponent": "power of the pixels",
        "memory_exponent": "power of the pixels",
        "ms_exponent": "power of the pixels",
    },
    config={"sizes": list(SIZES), "rounds": ROUNDS, "narrow": 192},
    conditions="one square image of 256, 512, 768 and 1024 pixels; ViT-B/16 and Swin-T: FLOPs of a forward pass and "
    "memory kept for the backward pass, both counted, attention by the fused kernel or with its weights written down "
    "(explicit); ms: forward pass of a ViT/16 of width 192 (4 blocks, 3 heads) and of the tiny Swin, fp32, processor "
    "time of one thread, median and quartiles of 3 rounds in turns; exponents: slope of the logarithms over the four "
    "sizes; attention: FLOPs of queries times keys and weights times values, of all",
)
def growth(seed, quick, log):
    """FLOPs, memory and time of ViT and Swin as the image grows."""
    from segtutor import probe
    from segtutor.models import ViT

    torch.manual_seed(seed)
    sizes = (64, 128) if quick else SIZES
    plain, base = contextlib.nullcontext, lambda: ViT(1000)
    builds = {"vit": (base, plain), "vit_explicit": (base, explicit), "swin": (lambda: swin("swin_t"), plain)}
    values, series = {}, {}
    for name, (build, way) in builds.items():
        with torch.device("meta"):
            model = build()
        with way():
            series[name, "flops"] = {side: probe.count_flops(model, (side, side)) for side in sizes}
            series[name, "memory"] = {side: probe.count_saved_bytes(model, (side, side)) / 2**20 for side in sizes}
    for side in sizes:
        tokens = 1 + (side // 16) ** 2
        values[f"vit/{side}/attention"] = 12 * 4 * tokens**2 * 768 / series["vit", "flops"][side]
    narrow = ViT(1000, **NARROW).eval()
    timed = {"vit": (narrow, plain), "vit_explicit": (narrow, explicit), "swin": (swin("tiny").eval(), plain)}
    spreads = {}
    for side in sizes:
        images = torch.randn(1, 3, side, side)
        passes = {name: _within(way, forward_seconds(model, images)) for name, (model, way) in timed.items()}
        for name, seconds in in_turns(passes, 1 if quick else ROUNDS, warmup=1).items():
            spreads[name, side] = milliseconds(seconds)
            series.setdefault((name, "ms"), {})[side] = spreads[name, side].value
        log(f"{side}: " + ", ".join(f"{name} {spreads[name, side].value:.0f} ms" for name in passes))
    for (name, metric), measured in series.items():
        values |= {
            f"{name}/{side}/{metric}": spreads[name, side] if metric == "ms" else value
            for side, value in measured.items()
        }
        values[f"{name}/{metric}_exponent"] = exponent(measured)
    return values


# ---------------------------------------------------------------------------------------------------------------- speed


def classifiers(side):
    """Our ViT-B/16 for images of a side, and torchvision's with the same weights."""
    from torchvision.models import vit_b_16

    from segtutor.models import ViT
    from segtutor.weights import transplant

    theirs, ours = vit_b_16(image_size=side), ViT(1000, image_size=side)
    torch.nn.init.normal_(theirs.heads.head.weight, std=0.02)  # zero at first: any two networks would agree
    transplant(theirs, ours)
    return ours, theirs


speed_rows(
    "vit_b16",
    classifiers,
    "torchvision",
    "ViT-B/16",
    "1000 classes, both built for the size",
    {256: (9, 9), 512: (5, 5), 1024: (3, 2)},
)
