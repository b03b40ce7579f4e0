"""The one protocol behind the running table: every model of the book, on the same data, trained alike."""

import statistics
import time

from segtutor.lab.experiments.speed import quartiles
from segtutor.lab.harness import BenchmarkError, Measurement, experiment, load_experiments

SIZE, CROP, STEPS, BATCH, LR = (120, 160), (96, 128), 400, 8, 2e-3
FIELD = 832  # side of the square image on which receptive fields are measured
CONFIG = {"data": "camvid", "size": list(SIZE), "crop": list(CROP), "steps": STEPS, "batch": BATCH, "lr": LR}
CONDITIONS = (
    f"CamVid at {SIZE[0]}x{SIZE[1]}, {STEPS} steps of batch {BATCH} on crops of {CROP[0]}x{CROP[1]}, AdamW, the tiny "
    "preset from random weights, scored on the whole test split; FLOPs of one image at that size, receptive field of "
    f"one output pixel on an image of {FIELD}x{FIELD}, where {FIELD} means all of it, memory kept for the "
    f"backward pass of a training step (batch {BATCH} at {CROP[0]}x{CROP[1]})"
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
BUILDERS = {}  # key of the running table -> build(num_classes)


def table_row(key, build) -> None:
    """Enter a model into the running table, as the experiment ``table/<key>`` and a part of ``table/cost``.

    Args:
        key: Its key in ``segtutor.lab.chapter``.
        build: ``build(num_classes)`` makes the model's tiny preset.
    """
    BUILDERS[key] = build

    @experiment(f"table/{key}", group="table", unit=UNITS, config=CONFIG, conditions=CONDITIONS)
    def row(seed, quick, log):
        """One model of the running table, trained and scored under the common protocol."""
        return measure(build, seed, quick, log)


def tissue(quick):
    """Training and test tiles of 128x128 of the Drosophila set; eight test tiles in a quick run."""
    from torch.utils.data import Subset

    from segtutor.data import DrosophilaVNC, available
    from segtutor.data.transforms import eval_transform

    if not available("DrosophilaVNC"):
        raise BenchmarkError("this experiment needs DrosophilaVNC: set SEGTUTOR_DATA to the folder that holds vnc/")
    prepare = eval_transform(DrosophilaVNC("train").spec)
    train, test = (DrosophilaVNC(split, tile=128, transform=prepare) for split in ("train", "test"))
    if quick:
        spec, test = test.spec, Subset(test, range(8))
        test.spec = spec
    return train, test


def camvid():
    """The running table's training set, kept in memory, and its test set."""
    from segtutor.data import CamVid, available
    from segtutor.data.transforms import eval_transform, train_transform

    if not available("CamVid"):
        raise BenchmarkError("the running table needs CamVid: set SEGTUTOR_DATA to the folder that holds camvid/")
    spec = CamVid("train").spec
    train = CamVid("train", size=SIZE, transform=train_transform(spec, crop=CROP, scale=(0.8, 1.25)))
    return train.keep_in_memory(), CamVid("test", size=SIZE, transform=eval_transform(spec))


def measure(build, seed, quick, log):
    """Train and score one model under the protocol.

    Args:
        build: ``build(num_classes)`` makes the model; it is called after torch is seeded.
        seed: Seeds weights, order and augmentation.
        quick: A run of seconds that only shows that the code works.
        log: Prints a progress line.

    Returns:
        dict: One value for each key of ``UNITS``.
    """
    import torch

    from segtutor import probe
    from segtutor.training import evaluate, fit

    train, test = camvid()
    torch.manual_seed(seed)
    model = build(train.spec.num_classes)
    values = {
        "parameters": probe.count_parameters(model),
        "flops": probe.count_flops(model, SIZE),
        "kept_memory": probe.count_saved_bytes(model, CROP, batch=BATCH) / 2**20,
        "receptive_field": max_side(probe.receptive_field(model, (FIELD, FIELD))),
    }
    steps = 5 if quick else STEPS
    history = fit(
        model,
        train,
        steps=steps,
        batch_size=BATCH,
        lr=LR,
        seed=seed,
        precision="fp32",
        on_step=lambda step, loss: step % 100 == 0 and log(f"step {step} of {steps}, loss {loss:.3f}"),
    )
    log(f"{history}")
    scores = evaluate(model, test, limit=8 if quick else None)
    return values | {name: getattr(scores, name) for name in ("miou", "boundary_miou", "pixel_accuracy")}


def max_side(field, side=FIELD) -> int:
    """The longer side of a receptive field that was measured in the middle of a square image; ``side`` is all of it.

    Raises:
        BenchmarkError: The field reaches one border of the image and not all of them, so that its size is unknown.
    """
    if (field.height, field.width) == (side, side):
        return side
    if field.clipped:
        raise BenchmarkError(f"the receptive field is cut off by the border of an image of {side}x{side}: {field}")
    return max(field.height, field.width)


@experiment(
    "table/cost",
    group="table",
    unit={"ms_per_step": "ms", "peak_memory": "MiB"},
    seeds=(0,),
    config={"crop": list(CROP), "batch": BATCH},
    conditions=f"a training step of batch {BATCH} at {CROP[0]}x{CROP[1]}: processor time of one thread, all models in "
    "turns in one run, median and quartiles of 15 rounds; bytes alive at its peak, weights apart, counted",
)
def costs(seed, quick, log):
    """Time and memory of a training step of every model of the running table, in turns: a busy machine slows all."""
    import torch
    from torch.nn import functional as F

    from segtutor import probe

    load_experiments()
    torch.manual_seed(seed)
    images = torch.rand(BATCH, 3, *CROP).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(BATCH, *CROP, dtype=torch.long)
    models = {key: build(11).train().to(memory_format=torch.channels_last) for key, build in BUILDERS.items()}
    values = {f"{key}/peak_memory": probe.count_peak_bytes(m, CROP, batch=BATCH) / 2**20 for key, m in models.items()}
    times = {key: [] for key in models}
    for _ in range(3 if quick else 17):
        for key, model in models.items():
            model.zero_grad(set_to_none=True)
            begun = time.process_time()  # other programs on the machine do not count
            F.cross_entropy(model(images), target).backward()
            times[key].append(1000 * (time.process_time() - begun))
    log(f"{len(models)} models, in turns")
    timed = {key: Measurement(statistics.median(ms[2:]), quartiles(ms[2:])) for key, ms in times.items()}
    return values | {f"{key}/ms_per_step": measured for key, measured in timed.items()}
