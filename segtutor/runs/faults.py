"""What ends a run from outside, as one sentence: what happened, what is kept, and what to do."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Callable, Iterator

import torch

from segtutor.runs.errors import RunError
from segtutor.runs.recipe import Recipe
from segtutor.training.distributed import PeerError, rank

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


@contextlib.contextmanager
def explained(recipe: Recipe, kept: Callable[[], str]) -> Iterator[None]:
    """Turn what ends training inside the block into a RunError of one sentence.

    Args:
        recipe: what is trained, for the advice.
        kept: says which state is kept and how to go on from it.

    Raises:
        RunError: memory or disk are full, the loss is not a number, an image or a process that loads images failed.
    """
    try:
        yield
    except PeerError as error:
        if rank():  # one of them is enough
            raise
        raise RunError(f"{error}. {kept()}") from error
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise RunError(f"{out_of_memory(error, recipe)} {kept()}") from error
        if "DataLoader worker" in str(error) and not str(error).startswith("Caught "):
            raise RunError(
                "a process that loads images was ended by the system, mostly for want of memory: set "
                f"training.num_workers lower ({recipe.training.num_workers} now). {kept()}"
            ) from error
        raise
    except (ValueError, OSError, ArithmeticError) as error:
        raise RunError(f"{sentence(error).rstrip('.')}. {kept()}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the GPU or of the computer, was not enough."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)


def out_of_memory(error: BaseException, recipe: Recipe) -> str:
    """What to change in the configuration so that the run fits."""
    rules = recipe.training
    if any(frame.name == "evaluate" for frame in traceback.extract_tb(error.__traceback__)):
        batch = recipe.evaluation.batch_size or rules.batch_size
        smaller = f"set evaluation.batch_size lower ({batch} now)" if batch > 1 else "set data.size, which is smaller"
        return f"out of memory in the validation: {smaller}."
    cures = [f"training.batch_size lower ({rules.batch_size} now)"] if rules.batch_size > 1 else []
    crop = recipe.data["augmentation"].crop
    cures.append(f"data.augmentation.crop {'smaller' if crop else 'in place of whole images'} ({_size(crop)} now)")
    if not recipe.model.backbone.get("checkpointing"):
        cures.append("model.backbone.checkpointing=true, which a run may change on its way")
    return f"out of memory in training: set {', or '.join(cures)}."


def sentence(error: BaseException) -> str:
    """What an error says, on one line, without the traceback of the process that it comes from."""
    text = str(error)
    if text.startswith("Caught ") and "\n" in text:  # of a process that loads images
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    if isinstance(error, OSError) and error.errno in _FULL:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where} ({error.strerror or text}): make room"
    return " ".join(text.split()) or type(error).__name__


def _size(crop: tuple[int, int] | None) -> str:
    return "none" if crop is None else f"{crop[0]} x {crop[1]}"
