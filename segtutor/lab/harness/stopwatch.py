"""The one stopwatch of the experiments: what is timed takes turns with what it is compared with, on one clock.

Everything that is timed is a function that runs something once and returns the seconds that it took; ``seconds_of``
makes one. ``in_turns`` runs several of them alternately, so that a machine that slows down or is shared slows all, and
``median_of`` and ``median_ratio`` say what came out, with quartiles.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segtutor import probe
from segtutor.lab.harness.registry import Log, Measurement

Once = Callable[[], float]  # runs something once and returns its seconds
Key = TypeVar("Key", bound=Hashable)

LAYOUTS = (torch.contiguous_format, torch.channels_last)


# ------------------------------------------------------------------------------------------------------------ numbers


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The lower and upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def median_of(values: Sequence[float]) -> Measurement:
    """The median with its quartiles."""
    return Measurement(statistics.median(values), quartiles(values))


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Measurement:
    """The median, with its quartiles, of our seconds over theirs in the same round."""
    return median_of([mine / other for mine, other in zip(ours, theirs, strict=True)])


def milliseconds(seconds: Sequence[float]) -> Measurement:
    """The median of seconds, with its quartiles, in milliseconds."""
    return median_of([1000 * each for each in seconds])


# -------------------------------------------------------------------------------------------------------------- timing


def seconds_of(run: Callable[[], Any], device: str = "cpu", *, before: Callable[[], Any] | None = None) -> Once:
    """A function that calls ``run`` and returns the seconds it took.

    On a CPU with one torch thread these are seconds of processor time, so that other programs on the machine do not
    count; else of real time. A GPU is waited for.

    Args:
        run: What is timed.
        device: ``"cpu"`` or ``"cuda"``: where ``run`` computes.
        before: Called ahead of each run, and not timed.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def once() -> float:
        clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        if before is not None:
            before()
        wait()
        begun = clock()
        run()
        wait()
        return clock() - begun

    return once


def step_seconds(model: nn.Module, images: Tensor, target: Tensor, *, mixed: bool = False) -> Once:
    """A function that runs one forward and backward pass with cross-entropy and returns its seconds.

    Args:
        model: In the mode that is to be timed.
        images: (B, C, H, W), on the model's device.
        target: (B, H, W), or (B,) where the model gives one answer per image.
        mixed: bfloat16 autocast where the images are on a GPU.
    """

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed and images.is_cuda):
            loss = F.cross_entropy(model(images), target)
        loss.backward()

    return seconds_of(step, images.device.type, before=lambda: model.zero_grad(set_to_none=True))


def forward_seconds(model: nn.Module, images: Tensor, *, mixed: bool = False) -> Once:
    """A function that runs one forward pass in evaluation mode and returns its seconds.

    Args:
        model: Any model; it stays in evaluation mode.
        images: (B, C, H, W), on the model's device.
        mixed: bfloat16 autocast where the images are on a GPU.
    """

    @torch.inference_mode()
    def forward() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed and images.is_cuda):
            model(images)

    return seconds_of(forward, images.device.type, before=model.eval)


def in_turns(runs: Mapping[Key, Once], rounds: int, warmup: int = 2) -> dict[Key, list[float]]:
    """Seconds of each run, by its name, all in turns: a machine that slows down or is shared slows all.

    Args:
        runs: Name to a function that runs something once and returns its seconds.
        rounds: Rounds that count. Every second round goes from last to first, so that none always follows another.
        warmup: Rounds before these.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in runs}
    for number in range(warmup + rounds):
        for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
            seconds[name].append(runs[name]())
    return {name: times[warmup:] for name, times in seconds.items()}


def paired_ratio(ours: Once, theirs: Once, pairs: int, *, warmup: int = 2) -> Measurement:
    """The median over pairs of seconds(ours) / seconds(theirs), with its quartiles.

    Args:
        ours: Runs one side once and returns the seconds it took.
        theirs: The other side.
        pairs: How many pairs, run as :func:`in_turns` does.
        warmup: Pairs before these.
    """
    return median_ratio(*in_turns({"ours": ours, "theirs": theirs}, pairs, warmup).values())


# ------------------------------------------------------------------------------------ a network beside a reference


def at_faster_format(
    models: Mapping[str, nn.Module],
    once: Callable[[nn.Module, torch.memory_format], Once],
    rounds: int,
    log: Log,
) -> dict[str, list[float]]:
    """Time models in turns, each at its faster memory format.

    Args:
        models: Name to model.
        once: ``once(model, layout)`` returns a function that runs something and returns its seconds.
        rounds: Rounds that count, after 2 to warm up.
        log: Prints a progress line.

    Returns:
        Name to the seconds of each round.
    """
    runs = {
        (name, layout): once(deepcopy(model).to(memory_format=layout), layout)
        for name, model in models.items()
        for layout in LAYOUTS
    }
    seconds, best = in_turns(runs, rounds), {}
    for name in models:
        layout = min(LAYOUTS, key=lambda layout: statistics.median(seconds[name, layout]))
        best[name] = seconds[name, layout]
        log(f"{name}: {layout}, {1000 * statistics.median(best[name]):.0f} ms")
    return best


def compare_steps(
    ours: nn.Module, theirs: nn.Module, images: Tensor, target: Tensor, rounds: int, log: Log, *, name: str
) -> dict[str, Measurement]:
    """A training step of our model over that of a reference with the same layers, each at its faster memory format.

    Args:
        ours: Our model, on the device of the images.
        theirs: The reference; its parameters come in the same order and are overwritten by ours.
        images: (B, C, H, W).
        target: (B, H, W).
        rounds: Rounds that count.
        log: Prints a progress line.
        name: What the reference is called in the rows.

    Returns:
        ``ratio``, ``ms_segtutor`` and ``ms_<name>``.

    Raises:
        AssertionError: When the two do not compute the same.
    """
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
        # A ratio means nothing if the two do not compute the same.
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-3, atol=1e-3)
    seconds = at_faster_format(
        {"segtutor": ours.train(), name: theirs.train()},
        lambda model, layout: step_seconds(model, images.to(memory_format=layout), target),
        rounds,
        log,
    )
    times = {f"ms_{side}": milliseconds(each) for side, each in seconds.items()}
    return {"ratio": median_ratio(*seconds.values()), **times}


def faster_formats(
    models: Mapping[str, nn.Module], side: int, device: str, training: Callable[[nn.Module], Any] | None = None
) -> dict[tuple[str, str], torch.memory_format]:
    """For each (pass, model) the memory format in which the second of two runs is faster.

    Args:
        models: Name to model.
        side: Side of the image.
        device: Where the models are.
        training: Puts a network into the mode of the backward pass; None: training mode.
    """
    seconds: dict[tuple[str, str], dict[torch.memory_format, float]] = {}
    for name, model in models.items():
        for layout in LAYOUTS:
            for kind, once in _passes(model, side, device, training, layout)[0].items():
                once()
                seconds.setdefault((kind, name), {})[layout] = once()
    return {key: min(times, key=times.__getitem__) for key, times in seconds.items()}


def compare_at_size(
    models: Mapping[str, nn.Module],
    side: int,
    device: str,
    training: Callable[[nn.Module], Any] | None,
    formats: Mapping[tuple[str, str], torch.memory_format],
    rounds: tuple[int, int],
    log: Log,
) -> dict[str, float | Measurement]:
    """Time and counted memory of the first model over the second, on square images.

    Args:
        models: Name to model, two of them, with the same weights.
        side: Side of the image.
        device: Where the models are.
        training: Puts a network into the mode of the backward pass; None: training mode.
        formats: (pass, name) to memory format, from :func:`faster_formats`.
        rounds: Of the forward pass, and with the backward pass.
        log: Prints a progress line.

    Returns:
        For the passes ``forward`` and ``step``: the ratio of the times under the pass's name, that of the memories
        under ``<pass>_memory``, and each model's milliseconds under ``<pass>_ms_<name>``.

    Raises:
        AssertionError: When the two do not compute the same.
    """
    names = list(models)
    values: dict[str, float | Measurement] = {}
    for kind, count in zip(("forward", "step"), rounds, strict=True):
        peaks = [probe.count_peak_bytes(m, (side, side), batch=2, training=kind == "step") for m in models.values()]
        values[f"{kind}_memory"] = peaks[0] / peaks[1]
        made = {name: _passes(m, side, device, training, formats[kind, name]) for name, m in models.items()}
        ours, theirs = (scores for _, scores in made.values())
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)  # else a ratio means nothing
        seconds = in_turns({name: runs[kind] for name, (runs, _) in made.items()}, count, warmup=1)
        values[kind] = ratio = median_ratio(*seconds.values())
        values |= {f"{kind}_ms_{name}": milliseconds(times) for name, times in seconds.items()}
        log(f"{kind}: {ratio.value:.3f} of the time of {names[1]}, {values[f'{kind}_memory']:.3f} of its memory")
    return values


def _passes(
    model: nn.Module,
    side: int,
    device: str,
    training: Callable[[nn.Module], Any] | None,
    layout: torch.memory_format,
) -> tuple[dict[str, Once], Tensor]:
    """Functions that time one forward pass, and one with the backward pass, of a copy of the model; and its scores."""
    generator = torch.Generator().manual_seed(side)
    model = deepcopy(model).to(memory_format=layout)
    images = torch.randn(1, 3, side, side, generator=generator).to(device, memory_format=layout)
    with torch.inference_mode():
        scores = model.eval()(images)
    target = torch.randint(0, scores.shape[1], (1, *scores.shape[2:]), generator=generator).to(device)
    step = step_seconds(model, images, target, mixed=True)

    def in_training() -> float:
        (training or nn.Module.train)(model)
        return step()

    return {"forward": forward_seconds(model, images, mixed=True), "step": in_training}, scores
