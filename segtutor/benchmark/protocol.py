"""The one protocol behind the running table: every model of the book, on the same data, trained alike."""

import statistics
import time

from segtutor.benchmark import BenchmarkError

SIZE, CROP, STEPS, BATCH, LR = (120, 160), (96, 128), 400, 8, 2e-3
FIELD = 832  # side of the square image on which receptive fields are measured
CONFIG = {"data": "camvid", "size": list(SIZE), "crop": list(CROP), "steps": STEPS, "batch": BATCH, "lr": LR}
CONDITIONS = (
    f"CamVid at {SIZE[0]}x{SIZE[1]}, {STEPS} steps of batch {BATCH} on crops of {CROP[0]}x{CROP[1]}, AdamW, the tiny "
    "preset from random weights, scored on the whole test split; FLOPs of one image at that size, receptive field of "
    f"one output pixel on an image of {FIELD}x{FIELD}, where {FIELD} means all of it, time of a training step (batch 8 "
    "at 96x128) as processor time of one thread, memory kept for the backward pass of that step"
)
UNITS = {
    "miou": "mIoU",
    "boundary_miou": "mIoU within 3 pixels of a border",
    "pixel_accuracy": "share of pixels",
    "parameters": "parameters",
    "flops": "FLOPs",
    "receptive_field": "pixels",
    "ms_per_step": "ms",
    "kept_memory": "MiB",
}


def _data():
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

    train, test = _data()
    torch.manual_seed(seed)
    model = build(train.spec.num_classes)
    values = {
        "parameters": probe.count_parameters(model),
        "flops": probe.count_flops(model, SIZE),
        "kept_memory": probe.count_saved_bytes(model, CROP, batch=BATCH) / 2**20,
        "receptive_field": max_side(probe.receptive_field(model, (FIELD, FIELD))),
        "ms_per_step": processor_ms(model),
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


def processor_ms(model, repeats=7) -> float:
    """Median processor time of a forward and backward pass, in ms: other programs on the machine do not count."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, *CROP, generator=generator).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(BATCH, *CROP, dtype=torch.long)
    model.train().to(memory_format=torch.channels_last)
    times = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(repeats + 2):
            model.zero_grad(set_to_none=True)
            begun = time.process_time()
            F.cross_entropy(model(images), target).backward()
            times.append(1000 * (time.process_time() - begun))
    model.zero_grad(set_to_none=True)
    return statistics.median(times[2:])
