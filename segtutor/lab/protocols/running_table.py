"""The one protocol behind the running table: every model of the book, on the same data, trained alike."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segtutor.lab.harness import BenchmarkError, Log, Measurement, Values, experiment, load_experiments
from segtutor.lab.harness.stopwatch import in_turns, milliseconds, step_seconds
from segtutor.lab.protocols import real_data
from segtutor.lab.protocols.real_data import Split

if TYPE_CHECKING:
    from segtutor.probe import ReceptiveField

SIZE, CROP, STEPS, BATCH, LR = (120, 160), (96, 128), 400, 8, 2e-3
FIELD = 832  # side of the square image on which receptive fields are measured
CONFIG = {"data": "camvid", "size": list(SIZE), "crop": list(CROP), "steps": STEPS, "batch": BATCH, "lr": LR}
CONDITIONS = (
    f"CamVid at {SIZE[0]}x{SIZE[1]}, {STEPS} steps of batch {BATCH} on crops of {CROP[0]}x{CROP[1]}, AdamW, the tiny "
    "preset from random weights, scored on the whole test split; FLOPs of one image at that size, receptive field of "
    f"one output pixel on an image of {FIELD}x{FIELD}, where {FIELD} means all of it, memory kept for the "
    f"backward pass of a training step (batch {BATCH} at {CROP[0]}x{CROP[1]})"
)
# For other experiments whose networks are trained in this way.
TRAINED = (
    f"CamVid at {SIZE[0]}x{SIZE[1]}, {STEPS} steps of batch {BATCH} on "
    f"crops of {CROP[0]}x{CROP[1]}, AdamW, tiny presets from "
    "random weights, scored on the whole test split"
)
UNITS = {
    "miou": "mIoU",
    "boundary_miou": "mIoU within 3 pixels of a border",
    "pixel_accuracy": "share of pixels",
    "parameters": "parameters",
    "flops": "FLOPs",
    "receptive_field": "pixels",
    "kept_memory": "MiB",
}
Build = Callable[[int], nn.Module]  # build(num_classes) makes a model
BUILDERS: dict[str, Build] = {}  # key of the running table -> the model's tiny preset


def table_row(key: str, build: Build) -> None:
    """Enter a model into the running table, as the experiment ``table/<key>`` and a part of ``table/cost``.

    Args:
        key: Its key in ``segtutor.lab.chapter``.
        build: ``build(num_classes)`` makes the model's tiny preset.
    """
    BUILDERS[key] = build

    @experiment(f"table/{key}", group="table", unit=UNITS, config=CONFIG, conditions=CONDITIONS)
    def row(seed: int, quick: bool, log: Log) -> Values:
        """One model of the running table, trained and scored under the common protocol."""
        return measure(build, seed, quick, log)


def camvid() -> tuple[Split, Split]:
    """The running table's training set, kept in memory, and its test set."""
    return real_data.camvid(SIZE, CROP)


def measure(build: Build, seed: int, quick: bool, log: Log) -> Mapping[str, float]:
    """Train and score one model under the protocol.

    Args:
        build: ``build(num_classes)`` makes the model; it is called after torch is seeded.
        seed: Seeds weights, order and augmentation.
        quick: A run of seconds that only shows that the code works.
        log: Prints a progress line.

    Returns:
        One value for each key of ``UNITS``.
    """
    from segtutor import probe
    from segtutor.training import evaluate, fit

    train, test = camvid()
    torch.manual_seed(seed)
    model = build(train.spec.num_classes)
    values = {
        "parameters": probe.count_parameters(model),
        "flops": probe.count_flops(model, SIZE),
        "kept_memory": probe.count_saved_bytes(model, CROP, batch=BATCH) / 2**20,
        "receptive_field": longer_side(probe.receptive_field(model, (FIELD, FIELD))),
    }
    steps = 5 if quick else STEPS

    def progress(step: int, loss: float) -> None:
        if step % 100 == 0:
            log(f"step {step} of {steps}, loss {loss:.3f}")

    history = fit(
        model,
        train,
        steps=steps,
        batch_size=BATCH,
        lr=LR,
        seed=seed,
        precision="fp32",
        on_step=progress,
    )
    log(f"{history}")
    scores = evaluate(model, test, limit=8 if quick else None)
    return values | {name: getattr(scores, name) for name in ("miou", "boundary_miou", "pixel_accuracy")}


def longer_side(field: "ReceptiveField", side: int = FIELD) -> int:
    """The longer side of a receptive field that was measured in the middle of a square image; ``side`` is all of it.

    Args:
        field: As `segtutor.probe.receptive_field` returns it.
        side: Side of the image.

    Raises:
        BenchmarkError: The field reaches one border of the image and not all of them, so that its size is unknown.
    """
    if (field.height, field.width) == (side, side):
        return side
    if field.clipped:
        raise BenchmarkError(f"The receptive field is cut off by the border of an image of {side}x{side}: {field}")
    return max(field.height, field.width)


@cache
def _camvid_once(quick: bool) -> tuple[Split, list[tuple[Tensor, Tensor]]]:
    """The training set, and the test images, drawn once."""
    train, test = camvid()
    return train, [test[i] for i in range(8 if quick else len(test))]


@cache  # several experiments of one run look at the same networks
def trained(build: Build, seed: int, quick: bool) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A model trained as for the running table, and that table's test images.

    Args:
        build: ``build(num_classes)`` makes the model.
        seed: Seeds weights, order and augmentation.
        quick: Five steps, eight test images.

    Returns:
        The model, in evaluation mode, and a list of (image, label).
    """
    from segtutor.training import fit

    train, test = _camvid_once(quick)
    torch.manual_seed(seed)
    model = build(train.spec.num_classes)
    fit(model, train, steps=5 if quick else STEPS, batch_size=BATCH, lr=LR, seed=seed, precision="fp32")
    return model.eval(), test


@experiment(
    "table/cost",
    group="table",
    unit={"ms_per_step": "ms", "peak_memory": "MiB"},
    seeds=(0,),
    config={"crop": list(CROP), "batch": BATCH},
    conditions=f"a training step of batch {BATCH} at {CROP[0]}x{CROP[1]}: processor time of one thread, all models in "
    "turns in one run, median and quartiles of 15 rounds; bytes alive at its peak, weights apart, counted",
)
def costs(seed: int, quick: bool, log: Log) -> Values:
    """Time and memory of a training step of every model of the running table, in turns: a busy machine slows all."""
    from segtutor import probe

    load_experiments()
    torch.manual_seed(seed)
    images = torch.rand(BATCH, 3, *CROP).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(BATCH, *CROP, dtype=torch.long)
    models = {key: build(11).train().to(memory_format=torch.channels_last) for key, build in BUILDERS.items()}
    values: dict[str, float | Measurement] = {
        f"{key}/peak_memory": probe.count_peak_bytes(model, CROP, batch=BATCH) / 2**20 for key, model in models.items()
    }
    seconds = in_turns({key: step_seconds(m, images, target) for key, m in models.items()}, 1 if quick else 15)
    log(f"{len(models)} models, in turns")
    return values | {f"{key}/ms_per_step": milliseconds(times) for key, times in seconds.items()}
