"""How long things take: imports, synthetic images, and our FCN-8s beside the same layers from torchvision."""

import statistics
import subprocess
import sys
import time

from segtutor.benchmark import Measurement, experiment

_TIMER = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
_PARTS = "segtutor.models, segtutor.losses, segtutor.metrics, segtutor.training, segtutor.probe"


def quartiles(values) -> tuple[float, float]:
    """The lower and upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def paired_ratio(ours, theirs, pairs, *, warmup=2) -> Measurement:
    """The median over pairs of seconds(ours) / seconds(theirs), with its quartiles.

    The two sides of a pair run one after the other, in turns first and second, so that a machine that slows down or
    is shared slows both.

    Args:
        ours: Runs one side once and returns the seconds it took.
        theirs: The other side.
        pairs: How many pairs.
        warmup: Pairs that are run and forgotten.
    """
    ratios = []
    for number in range(warmup + pairs):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        a, b = first(), second()
        ratio = a / b if number % 2 == 0 else b / a
        if number >= warmup:
            ratios.append(ratio)
    return Measurement(statistics.median(ratios), quartiles(ratios))


def _import_seconds(modules: str):
    def once() -> float:
        code = _TIMER.format(modules)
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(answer.stdout)

    return once


@experiment(
    "speed/import",
    unit="ratio",
    seeds=(0,),
    conditions="seconds to import, each in a fresh process, 15 pairs in turns after 2 warm-up pairs, median of the "
    "ratios and their quartiles",
)
def import_ratio(seed, quick, log):
    """Import time of the package, alone and with its models, losses and loop, over that of torch."""
    pairs = 3 if quick else 15
    torch = _import_seconds("torch")
    alone = paired_ratio(_import_seconds("segtutor"), torch, pairs)
    log("package done")
    return {"package": alone, "parts": paired_ratio(_import_seconds(_PARTS), torch, pairs)}


@experiment(
    "speed/synthetic",
    unit="images/s",
    seeds=(0,),
    config={"size": 128},
    conditions="images of 128x128 made one after the other on one thread, median and quartiles of 20 rounds of 50",
)
def synthetic(seed, quick, log):
    """Images per second of the two synthetic sets."""
    import torch

    from segtutor.data import SyntheticCells, SyntheticScenes

    rounds, images = (3, 10) if quick else (20, 50)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = {}
        for name, kind in (("scenes", SyntheticScenes), ("cells", SyntheticCells)):
            dataset = kind(size=(128, 128), length=(rounds + 1) * images, seed=seed)
            rates = []
            for start in range(rounds + 1):
                begun = time.perf_counter()
                for index in range(start * images, (start + 1) * images):
                    dataset[index]
                rates.append(images / (time.perf_counter() - begun))
            measured[name] = Measurement(statistics.median(rates[1:]), quartiles(rates[1:]))
            log(f"{name}: {measured[name].value:.0f} images/s")
    finally:
        torch.set_num_threads(threads)
    return measured
