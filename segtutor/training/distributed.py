"""Several processes that train one model together, each on its share of every batch.

``torchrun`` and ``accelerate launch`` start the same program several times, once per GPU, and tell each copy its rank
by the environment. :func:`joined` is all of them, or this process alone, so that the loop reads the same in both cases.
Wrapping the model, so that gradients are averaged while they are computed, is Hugging Face Accelerate's. A process on
its own neither loads nor needs it: there is nothing to share out, and its numbers stay what plain PyTorch gives.

Processes that wait for one another hang where one stays away. So what one process alone finds out is told to all
(:meth:`Processes.once`), a request to stop is agreed on between two steps (:meth:`Processes.any`), and where a process
dies its connections break, which the others report as :class:`PeerError`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # for the first process, which may have a whole data set to look through
BROKEN = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe", "store->get")


class PeerError(RuntimeError):
    """Another process of the run has ended, and has said itself why."""


class Processes:
    """This process alone: it is the first of one, and everybody agrees.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
    """

    rank = 0
    world_size = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, locks and speaks."""
        return self.rank == 0

    def once(self, work: Callable[[], T]) -> T:
        """Let the first process work; all get what it returns.

        Raises:
            PeerError: in the other processes, where `work` raised in the first one.
        """
        return work()

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return flag

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each value over the processes."""
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of their ranks."""
        return [value]

    def place(self, device: torch.device) -> torch.device:
        """The device of that kind that is this process's own."""
        return device

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as it is called in training: its gradients are averaged over the processes."""
        return model

    def step_part(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """A forward and backward pass; only after the last ones before a step are gradients averaged."""
        return contextlib.nullcontext()

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the running statistics of the first one."""

    def faults(self) -> AbstractContextManager[Any]:
        """A block in which a broken connection is raised as PeerError."""
        return contextlib.nullcontext()


class Several(Processes):
    """The processes of ``torch.distributed``.

    Raises:
        ImportError: Accelerate is not installed.
    """

    def __init__(self) -> None:
        try:
            import accelerate  # noqa: F401
        except ImportError:
            raise ImportError(
                "training in several processes is done with accelerate, which is not installed: pip install accelerate"
            ) from None
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        # Flags and sentences go from host to host by gloo, so that no GPU is waited for, nor waits.
        self.control: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.accelerator: Any = None

    def once(self, work: Callable[[], T]) -> T:
        outcome: list[Any] = [None, None]  # the value, and what went wrong
        error: BaseException | None = None
        if self.first:
            try:
                outcome[0] = work()
            except BaseException as raised:  # Ctrl-C as well
                error, outcome[1] = raised, " ".join(str(raised).split()) or type(raised).__name__
        with self.faults():
            dist.broadcast_object_list(outcome, src=0, group=self.control, device=torch.device("cpu"))
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise PeerError(f"process 0 has ended: {outcome[1]}")
        value: T = outcome[0]
        return value

    def any(self, flag: bool) -> bool:
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, group=self.control)
        return bool(flags)

    def mean(self, values: Tensor) -> Tensor:
        total = values.double().cpu()
        dist.all_reduce(total, group=self.control)
        return total / self.world_size

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def place(self, device: torch.device) -> torch.device:
        return torch.device("cuda", _local_gpu()) if device.type == "cuda" else device

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
        kind = self.accelerator.distributed_type.value
        if self.accelerator.num_processes != self.world_size or not kind.startswith("MULTI_"):
            raise ValueError(
                f"accelerate offers {kind} in {self.accelerator.num_processes} processes, and {self.world_size} copies "
                "of the model were to be trained side by side: start with torchrun --nproc-per-node N"
            )
        wrapped: nn.Module = self.accelerator.prepare_model(model)
        return wrapped

    def step_part(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        part: AbstractContextManager[Any] = contextlib.nullcontext() if last else self.accelerator.no_sync(wrapped)
        return part

    def share_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        try:
            yield
        except PeerError:
            raise
        except FloatingPointError as error:  # all have read the same mean of the losses, and the first one says so
            if self.first:
                raise
            raise PeerError(str(error)) from error
        except RuntimeError as error:
            if not any(words in str(error) for words in BROKEN):
                raise
            raise PeerError(
                "another process of this run has ended: its own message says why; where there is none the system "
                "ended it, mostly for want of memory"
            ) from error


def joined() -> Processes:
    """The processes that torchrun or ``accelerate launch`` started with this one, or this one alone.

    The first call in each of several processes waits until all have made it.

    Raises:
        ImportError: there are several, and Accelerate is not installed.
        ValueError: there are more processes on this computer than GPUs.
    """
    global _several
    if not dist.is_available():
        return Processes()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not {"RANK", "LOCAL_RANK", "MASTER_ADDR"} <= set(os.environ):
            return Processes()
        gpu = torch.cuda.is_available() and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count()
        if gpu:
            torch.cuda.set_device(_local_gpu())
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
        _several = None
    if dist.get_world_size() < 2:
        return Processes()
    if _several is None:
        _several = Several()
    return _several


_several: Several | None = None


def check_synchronised_norms(device: torch.device) -> None:
    """Raise ValueError on a CPU, for which PyTorch has no batch normalisation over several processes."""
    if device.type != "cuda":
        raise ValueError(
            "sync_batchnorm: PyTorch's SyncBatchNorm trains on GPUs only; leave it out, or give each process a larger "
            "share of a larger batch_size"
        )


def check_all_read(model: nn.Module) -> None:
    """Raise ValueError if the loss does not depend on a parameter, for whose gradient all processes would wait."""
    unread = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    if unread:
        more = f" and {len(unread) - 1} more" if unread[1:] else ""
        raise ValueError(
            f"the loss does not depend on {unread[0]}{more}, and several processes wait for its gradient: give it "
            "requires_grad_(False), read it (auxiliary=True where it is of an auxiliary head), or train in one process"
        )


def rank() -> int:
    """The number of this process among those that torchrun started, before they have met; 0 on its own."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def local_processes() -> int:
    """How many of the processes run on this computer."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 1


def _local_gpu() -> int:
    """The number of this process's GPU on its computer."""
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise ValueError(
            f"process {local} of this computer has no GPU of its own, for there are {count}: start at most {count} "
            "processes (--nproc-per-node), or train on the CPU (model.device=cpu)"
        )
    return local
