"""Chapter 07: what dilation buys and costs, what the dense CRF does to borders, and how long it takes."""

import subprocess
import sys

import torch

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import in_turns, median_of, seconds_of
from segtutor.lab.protocols import crf
from segtutor.lab.protocols.running_table import table_row
from segtutor.models.deeplab_v1 import PRESETS, DeepLabV1

table_row("deeplab_v1", lambda num_classes: DeepLabV1(num_classes, **PRESETS["tiny"]))

# ----------------------------------------------------------------------------------------------------------------- DL-1

PHOTOGRAPH = (1, 3, 360, 480)


def dense_at_32():
    """LargeFOV's layers on VGG-16 as it was: all five pools halve the map, and no kernel is dilated."""
    from segtutor.models.vgg import VGG16

    model = DeepLabV1(21, rate=1)
    model.backbone = VGG16()
    return model


@experiment(
    "DL-1",
    claim="DL-1",
    seeds=(0,),
    unit={
        "parameters": "ratio",
        "field_rate1": "pixels",
        "field_rate12": "pixels",
        "positions_rate12": "positions",
        "positions_rate1": "positions",
        "positions_stride32": "positions",
        "flops": "ratio",
        "training_peak": "ratio",
        "inference_peak": "ratio",
    },
    config={"size": list(PHOTOGRAPH)},
    conditions="DeepLab v1 LargeFOV at the paper's widths with 21 classes on one image of 360x480; receptive fields of "
    "fc8 measured by gradients with one channel per layer; FLOPs and the most bytes held at once are those of output "
    "stride 8 with dilation over output stride 32 without",
)
def dilation(seed, quick, log):
    """Parameters, field, resolution and cost of a dilated fc6 and of the output stride that dilation makes possible."""
    from segtutor import probe

    narrow = {rate: DeepLabV1(2, rate=rate, widths=(1,) * 5, hidden=1) for rate in (1, 12)}
    with torch.device("meta"):
        at_8, at_8_dense, at_32 = DeepLabV1(21), DeepLabV1(21, rate=1), dense_at_32()
        positions = {m: m.score(torch.empty(PHOTOGRAPH)).shape[2:].numel() for m in (at_8, at_8_dense, at_32)}

    def ratio(count):
        return count(at_8, PHOTOGRAPH) / count(at_32, PHOTOGRAPH)

    return {
        "parameters": probe.count_parameters(at_8) / probe.count_parameters(at_8_dense),
        "field_rate1": probe.receptive_field(narrow[1], (480, 480), layer="fc8").height,
        "field_rate12": probe.receptive_field(narrow[12], (480, 480), layer="fc8").height,
        "positions_rate12": positions[at_8],
        "positions_rate1": positions[at_8_dense],
        "positions_stride32": positions[at_32],
        "flops": ratio(probe.count_flops),
        "training_peak": ratio(probe.count_peak_bytes),
        "inference_peak": ratio(lambda model, size: probe.count_peak_bytes(model, size, training=False)),
    }


# ----------------------------------------------------------------------------------------------------------------- DL-2


@experiment("DL-2/deeplab_v1", claim="DL-2", unit=crf.UNITS, config=crf.CONFIG, conditions=crf.CONDITIONS)
def crf_after_v1(seed, quick, log):
    """Scores of DeepLab v1 on scenes, before the CRF and after it."""
    return crf.with_and_without_crf(lambda n: DeepLabV1(n, **PRESETS["tiny"]), seed, quick, log)


# ----------------------------------------------------------------------------------------------------------------- DL-8


def without_strides():
    """LargeFOV with no stride at all: every pool keeps the size, every later kernel is dilated to reach as far."""
    from torch import nn

    model = DeepLabV1(21)
    for stage in range(1, 6):
        setattr(model.backbone, f"pool{stage}", nn.MaxPool2d(3, 1, 1))
        for layer in getattr(model.backbone, f"stage{stage}"):
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (2 ** (stage - 1),) * 2
    model.fc6.dilation = model.fc6.padding = (8 * 12,) * 2
    return model


@experiment(
    "DL-8",
    claim="DL-8",
    seeds=(0,),
    unit={
        "pixels_per_score": "pixels",
        "enlarged": "ratio",
        "flops": "ratio",
        "training_peak": "ratio",
        "training_gib": "GiB",
    },
    config={"size": list(PHOTOGRAPH)},
    conditions="DeepLab v1 LargeFOV at the paper's widths with 21 classes, one image of 360x480; the same weights "
    "with every stride replaced by dilation over the published net at output stride 8; most bytes that a training step "
    "holds on top of the weights",
)
def remaining_stride(seed, quick, log):
    """How many pixels share a score, and what it would cost to give each its own."""
    from segtutor import probe

    with torch.device("meta"):
        published, whole = DeepLabV1(21), without_strides()
        rows = published.score(torch.empty(PHOTOGRAPH)).shape[2:]
    flops = [probe.count_flops(model, PHOTOGRAPH) for model in (whole, published)]
    peaks = [probe.count_peak_bytes(model, PHOTOGRAPH) for model in (whole, published)]
    return {
        "pixels_per_score": PHOTOGRAPH[2] * PHOTOGRAPH[3] / rows.numel(),
        "enlarged": PHOTOGRAPH[2] / rows[0],
        "flops": flops[0] / flops[1],
        "training_peak": peaks[0] / peaks[1],
        "training_gib": peaks[0] / 2**30,
    }


# ---------------------------------------------------------------------------------------------------------------- speed


def photograph(size):
    """A drawn street, 0 to 255, and random logits of 12 classes: (1, 3, H, W), (1, 12, H, W)."""
    from segtutor.data import SyntheticScenes

    generator = torch.Generator().manual_seed(0)
    image, _ = SyntheticScenes(size, 1, seed=0)[0]
    return 255 * image[None], torch.randn(1, 12, *size, generator=generator)


def peak_memory(height, width) -> float:
    """MiB at this process's peak, after a CRF has run; call it in a fresh process."""
    import resource

    from segtutor.models import DenseCRF

    DenseCRF()(*photograph((height, width)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # in KiB on Linux


@experiment(
    "speed/dense_crf",
    group="speed",
    seeds=(0,),
    unit={"seconds": "s", "memory": "MiB"},
    config={"size": [360, 480], "classes": 12, "iterations": 10},
    conditions="one image of 360x480, 12 classes, 10 iterations, the default settings, one thread; seconds of "
    "processor time, median and quartiles of 5 runs after one; memory is the peak of a fresh process, torch included",
)
def crf_speed(seed, quick, log):
    """Time and memory of the fast dense CRF on one image."""
    from segtutor.models import DenseCRF

    size = (60, 80) if quick else (360, 480)
    code = f"from segtutor.lab.experiments.deeplab_v1 import peak_memory; print(peak_memory{size})"
    peak = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    network, pair = DenseCRF(), photograph(size)
    times = in_turns({"crf": seconds_of(lambda: network(*pair))}, 1 if quick else 5, warmup=1)["crf"]
    return {"seconds": median_of(times), "memory": float(peak)}
