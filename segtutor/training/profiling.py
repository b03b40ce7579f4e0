"""Where the time of a step goes: waiting for data, forward, backward or the optimiser."""

from __future__ import annotations

import logging
import time

import torch

PHASES = ("data", "forward", "backward", "optimiser")
WARM_UP = 2  # steps in which loading processes start and kernels are chosen
logger = logging.getLogger(__name__)


class StepClock:
    """Adds up the time of each phase over some steps, then says it once; a clock without steps costs nothing.

    A GPU works on while the host goes on, so at the end of each phase of those steps the host waits for it; nothing
    but the time is changed by that.

    Args:
        steps: how many to time; None: none.
        device: where the model is.
        num_workers: processes that load data, for the advice.
    """

    def __init__(self, steps: int | None, device: torch.device, num_workers: int) -> None:
        self.left, self.device, self.num_workers = steps or 0, device, num_workers
        self.ahead, self.counted = WARM_UP, 0
        self.seconds = dict.fromkeys((*PHASES, "rest"), 0.0)
        self._last = 0.0

    def lap(self, phase: str) -> None:
        """The phase ends here; all that was since the last lap is its time."""
        if not self.left:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if not self.ahead:
            self.seconds[phase] += now - self._last
        self._last = now

    def begin(self) -> None:
        """A step begins; what was since the last one, such as a validation, is not its time."""
        if self.left:
            self._last = time.perf_counter()

    def end(self) -> None:
        """A step ends; after the last of those to be timed the shares are logged."""
        if not self.left:
            return
        self.lap("rest")
        if self.ahead:
            self.ahead -= 1
            return
        self.left, self.counted = self.left - 1, self.counted + 1
        if not self.left:
            logger.info("%s", self.report())

    def report(self) -> str:
        """The shares of the time, and what to change."""
        total = sum(self.seconds.values()) or 1.0
        share = {phase: 100 * seconds / total for phase, seconds in self.seconds.items()}
        parts = f"{share['data']:.0f} % waiting for data, " + ", ".join(
            f"{share[phase]:.0f} % {phase}" for phase in ("forward", "backward", "optimiser", "rest")
        )
        each = 1000 * total / max(1, self.counted)
        return f"Profile of {self.counted} steps of {each:.0f} ms: {parts}. {self._advice(share)}"

    def _advice(self, share: dict[str, float]) -> str:
        if share["data"] >= 20:
            more = f"num_workers {'above' if self.num_workers else 'to 1 or more, from'} {self.num_workers}"
            return f"Loading is the brake: set {more}, keep small sets in memory, or resize the files once."
        if share["optimiser"] >= 25:
            return (
                "The optimiser is the brake: accumulate batches, or make batches larger, so that it steps less often."
            )
        if share["rest"] >= 25:
            return "Reading losses, observers and saving are the brake: log and save less often."
        return (
            "The network is the brake, as it should be: a smaller crop, bf16 or a lighter backbone make steps faster."
        )
