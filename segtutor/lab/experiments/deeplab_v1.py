"""Chapter 07: what holes in a kernel buy and cost, what the dense CRF does to borders, and how long it takes."""

import statistics
import subprocess
import sys
import time

import torch

from segtutor.lab import protocols
from segtutor.lab.experiments.speed import quartiles
from segtutor.lab.harness import Measurement, experiment
from segtutor.models.deeplab_v1 import PRESETS, DeepLabV1

protocols.table_row("deeplab_v1", lambda num_classes: DeepLabV1(num_classes, **PRESETS["tiny"]))

# ----------------------------------------------------------------------------------------------------------------- DL-1

PHOTOGRAPH = (1, 3, 360, 480)


def dense_at_32():
    """LargeFOV's layers on VGG-16 as it was: all five pools halve the map, and no kernel has holes."""
    from segtutor.models.vgg import VGG16

    model = DeepLabV1(21, rate=1)
    model.trunk = VGG16()
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
def holes(seed, quick, log):
    """Parameters, field, resolution and cost of fc6's holes and of the output stride that they make possible."""
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

SCENES = (64, 96)
# (w1, sigma_alpha, sigma_beta, w2, sigma_gamma): the papers choose theirs on validation images too.
GRID = (
    (2, 10, 10, 1, 1),
    (4, 10, 10, 1, 1),
    (4, 10, 20, 1, 1),
    (4, 25, 10, 1, 1),
    (5, 50, 10, 3, 3),
    (8, 10, 20, 1, 1),
)
CRF_CONDITIONS = (
    "synthetic scenes at 64x96, 300 steps of batch 8, the tiny preset from random weights; the CRF's five numbers are "
    f"the best of {len(GRID)} choices on 20 validation scenes, 10 iterations, scored on 100 other scenes"
)
CRF_UNITS = {
    "boundary_miou": "mIoU within 3 pixels of a border",
    "miou": "mIoU",
    "pixel_accuracy": "share of pixels",
    "chosen": "place in the grid",
}
CRF_CONFIG = {"size": list(SCENES), "steps": 300, "grid": [list(entry) for entry in GRID]}


def scored(model, scenes, crf=None):
    """Scores of a model on drawn scenes (image in [0, 1], mask), with a CRF after it or without."""
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import normalize
    from segtutor.metrics import ConfusionMatrix

    scores = ConfusionMatrix(11, boundary_width=3)
    with torch.inference_mode():
        for image, mask in scenes:
            logits = model(normalize(image, SyntheticScenes.spec)[None])
            scores.update(logits if crf is None else crf(255 * image[None], logits), mask[None])
    return scores


def with_and_without_crf(build, seed, quick, log):
    """Train a model on scenes, choose a CRF on validation scenes, score both on others: the rows of DL-2.

    Args:
        build: ``build(num_classes)`` makes the model's tiny preset.
        seed: Seeds weights, scenes and their order.
        quick: A run of seconds that only shows that the code works.
        log: Prints a progress line.
    """
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import eval_transform
    from segtutor.models import DenseCRF
    from segtutor.training import fit

    prepare = eval_transform(SyntheticScenes.spec)
    train = SyntheticScenes(SCENES, 40 if quick else 2400, seed=500 + seed, transform=prepare)
    drawn = [SyntheticScenes(SCENES, 100, seed=place)[i] for place, n in ((8, 20), (7, 100)) for i in range(n)]
    valid, test = (drawn[:2], drawn[20:24]) if quick else (drawn[:20], drawn[20:])
    torch.manual_seed(seed)
    model = build(11)
    log(fit(model, train, steps=5 if quick else 300, lr=2e-3, seed=seed, precision="fp32"))
    model.eval()
    names = ("w1", "sigma_alpha", "sigma_beta", "w2", "sigma_gamma")
    crfs = [DenseCRF(**dict(zip(names, entry, strict=True))) for entry in GRID]
    found = [scored(model, valid, crf).boundary_miou for crf in crfs]
    log("validation: " + ", ".join(f"{value:.3f}" for value in found))
    chosen = max(range(len(GRID)), key=found.__getitem__)
    values = {"chosen": chosen}
    for name, crf in (("without_crf", None), ("with_crf", crfs[chosen])):
        scores = scored(model, test, crf)
        for metric in ("boundary_miou", "miou", "pixel_accuracy"):
            values[f"{name}/{metric}"] = getattr(scores, metric)
    return values


@experiment("DL-2/deeplab_v1", claim="DL-2", unit=CRF_UNITS, config=CRF_CONFIG, conditions=CRF_CONDITIONS)
def crf_after_v1(seed, quick, log):
    """Scores of DeepLab v1 on scenes, before the CRF and after it."""
    return with_and_without_crf(lambda n: DeepLabV1(n, **PRESETS["tiny"]), seed, quick, log)


# ----------------------------------------------------------------------------------------------------------------- DL-8


def without_strides():
    """LargeFOV with no stride at all: every pool keeps the size, every later kernel is dilated to reach as far."""
    from torch import nn

    model = DeepLabV1(21)
    for stage in range(1, 6):
        setattr(model.trunk, f"pool{stage}", nn.MaxPool2d(3, 1, 1))
        for layer in getattr(model.trunk, f"stage{stage}"):
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
def strides_that_are_left(seed, quick, log):
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
    """What the fast dense CRF takes on a photograph."""
    from segtutor.models import DenseCRF

    size = (60, 80) if quick else (360, 480)
    code = f"from segtutor.lab.experiments.deeplab_v1 import peak_memory; print(peak_memory{size})"
    peak = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    crf, pair, times = DenseCRF(), photograph(size), []
    for _ in range(2 if quick else 6):
        begun = time.process_time()
        crf(*pair)
        times.append(time.process_time() - begun)
    return {"seconds": Measurement(statistics.median(times[1:]), quartiles(times[1:])), "memory": float(peak)}
