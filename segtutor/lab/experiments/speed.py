"""How long the library itself takes: importing it, and drawing synthetic images."""

import subprocess
import sys

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import in_turns, median_of, paired_ratio, seconds_of

_TIMER = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
_PARTS = "segtutor.models.fcn, segtutor.losses, segtutor.metrics, segtutor.training, segtutor.probe"


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
    conditions="seconds to import, each in a fresh process, 9 pairs in turns after 2 warm-up pairs, median of the "
    "ratios and their quartiles",
)
def import_ratio(seed, quick, log):
    """Import time of the package, alone and with its models, losses and loop, over that of torch."""
    pairs = 3 if quick else 9
    torch = _import_seconds("torch")
    alone = paired_ratio(_import_seconds("segtutor"), torch, pairs)
    log("package done")
    return {"package": alone, "parts": paired_ratio(_import_seconds(_PARTS), torch, pairs)}


@experiment(
    "speed/synthetic",
    unit="images/s",
    seeds=(0,),
    config={"size": 128},
    conditions="images of 128x128 made one after the other on one thread, per second of processor time, median and "
    "quartiles of 20 rounds of 50",
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
            places = iter(range(len(dataset)))

            def draw(dataset=dataset, places=places):
                for _ in range(images):
                    dataset[next(places)]

            seconds = in_turns({name: seconds_of(draw)}, rounds, warmup=1)[name]
            measured[name] = median_of([images / each for each in seconds])
            log(f"{name}: {measured[name].value:.0f} images/s")
    finally:
        torch.set_num_threads(threads)
    return measured
