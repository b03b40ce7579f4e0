"""Rows of speed: a network of the book beside a reference that computes the same."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from segtutor.lab.harness import Log, Values, experiment
from segtutor.lab.harness.stopwatch import compare_at_size, compare_steps, faster_formats

FORMAT_SIDE = 512  # the memory format of larger images is chosen here


def speed_row(
    key: str, ours: Callable[[int], nn.Module], theirs: Callable[[int], nn.Module], what: str, **config: object
) -> None:
    """Register ``speed/<key>``: a training step of our network over that of a reference with the same layers.

    Args:
        key: The network, in lower case.
        ours: ``ours(num_classes)`` builds it.
        theirs: ``theirs(num_classes)`` builds the reference; its parameters come in the same order.
        what: The network in words, for the conditions.
        **config: Settings beyond the images' size, the batch and the classes.
    """

    @experiment(
        f"speed/{key}",
        group="speed",
        unit={"ratio": "ratio", "ms_segtutor": "ms", "ms_torchvision": "ms"},
        seeds=(0,),
        device="auto",
        config={"size": 96, "batch": 2, "classes": 21, **config},
        conditions=f"forward and backward of {what}, batch 2 at 96x96, fp32, the same weights on both sides, each at "
        "its faster memory format, 15 rounds in turns after 2 to warm up in one process, processor time where one "
        "thread runs, median and quartiles",
    )
    def row(seed: int, quick: bool, log: Log) -> Values:
        """Our network over the same layers built from torchvision, forward and backward."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(2, 3, 96, 96, generator=generator).to(device)
        target = torch.randint(0, 21, (2, 96, 96), generator=generator).to(device)
        pair, rounds = (ours(21).to(device), theirs(21).to(device)), 2 if quick else 15
        return compare_steps(*pair, images, target, rounds, log, name="torchvision")


def speed_rows(
    key: str,
    build: Callable[[int], tuple[nn.Module, nn.Module]],
    reference: str,
    what: str,
    settings: str,
    rounds: Mapping[int, tuple[int, int]],
    *,
    training: Callable[[nn.Module], Any] | None = None,
) -> None:
    """Register ``speed/<key>/<side>``: our network over a reference with the same weights, at several image sizes.

    Args:
        key: The network, in lower case.
        build: ``build(side)`` makes ours and the reference, with the same weights.
        reference: The library that the reference comes from, for the rows.
        what: The network in words, for the conditions.
        settings: Of both networks, in words.
        rounds: Side of the image to (rounds of the forward pass, rounds with the backward pass).
        training: Puts a network into the mode of the backward pass; None: training mode.
    """
    times = {f"{kind}_ms_{name}": "ms" for kind in ("forward", "step") for name in ("segtutor", reference)}
    unit = {**dict.fromkeys(("forward", "step", "forward_memory", "step_memory"), "ratio"), **times}
    for side, (forwards, steps) in rounds.items():

        @experiment(
            f"speed/{key}/{side}",
            seeds=(0,),
            group="speed",
            device="auto",
            unit=unit,
            config={"side": side, "rounds": [forwards, steps]},
            conditions=f"{what} over that of {reference}; the same weights, {settings}; batch 1, fp32 on a CPU and "
            "bfloat16 autocast on a GPU, each side at its faster memory format (above "
            f"{FORMAT_SIDE} pixels, at that of {FORMAT_SIDE}); forward in evaluation mode; step: forward, "
            "cross-entropy and backward; processor time where one thread runs, in turns in one process after a round "
            "to warm up, median and quartiles; memory: most bytes alive at once beside the weights, counted at batch 2",
        )
        def row(
            seed: int, quick: bool, log: Log, side: int = side, rounds: tuple[int, int] = (forwards, steps)
        ) -> Values:
            """Our network beside a reference: time and peak memory, forward and with the backward pass."""
            torch.manual_seed(seed)
            side, trial, rounds = (64, 64, (2, 2)) if quick else (side, min(side, FORMAT_SIDE), rounds)
            device, names = "cuda" if torch.cuda.is_available() else "cpu", ("segtutor", reference)
            formats = faster_formats(_by_name(build, names, trial, device), trial, device, training)
            log("; ".join(f"{name}, {kind}: {layout}" for (kind, name), layout in formats.items()))
            return compare_at_size(_by_name(build, names, side, device), side, device, training, formats, rounds, log)


def _by_name(
    build: Callable[[int], tuple[nn.Module, nn.Module]], names: tuple[str, str], side: int, device: str
) -> dict[str, nn.Module]:
    return {name: model.to(device) for name, model in zip(names, build(side), strict=True)}
