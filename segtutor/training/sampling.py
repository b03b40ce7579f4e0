"""Which images a step sees, and with which random numbers: everything follows from the seed and the step."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

Sample = tuple[Tensor, Tensor]


class Samples(Protocol):
    """What training and evaluation read: anything with a length and an index, such as a data set or a list of pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch, numpy and `random` inside the block; put the caller's states back after it."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def loader(
    dataset: Samples,
    batch_size: int,
    seed: int,
    num_workers: int,
    start: int = 0,
    *,
    pin: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Batches for training, pass after pass over the set, each pass in a new order.

    Of several processes each loads every `world_size`-th image of a batch, so that together they see what one would.

    Args:
        dataset: see :func:`check_dataset`.
        batch_size: images per batch, those of all processes together.
        seed: of the order, and of the numbers that the workers draw.
        num_workers: processes that load; 0 loads in this one.
        start: how many batches to skip, because an earlier part of the run has had them.
        pin: put batches into memory from which a GPU copies while the host goes on.
        rank: which of the processes that train this one is.
        world_size: how many there are.

    Raises:
        ValueError: no images, or an empty batch.
    """
    batch_sizes(len(dataset), batch_size, world_size)
    # Two generators: the order of the images must not depend on how many numbers the loader draws to seed its workers.
    order, workers = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    batches = itertools.islice(index_batches(len(dataset), batch_size, order, world_size), start, None)
    items: Any = dataset
    places: Iterator[list[Any]] = (batch[rank::world_size] for batch in batches)
    if num_workers:
        items, numbered = _Placed(dataset, seed), enumerate(batches, start)
        places = (
            [(number * batch_size + i, index) for i, index in enumerate(batch)][rank::world_size]
            for number, batch in numbered
        )
    return DataLoader(
        items,
        batch_sampler=places,
        num_workers=num_workers,
        generator=workers,
        worker_init_fn=_leave_signals_to_the_trainer,
        collate_fn=collate,
        pin_memory=pin,
    )


def index_batches(count: int, batch_size: int, generator: torch.Generator, world_size: int = 1) -> Iterator[list[int]]:
    """Indices of one shuffled batch after the other, pass after pass over the set, without end."""
    sizes = batch_sizes(count, batch_size, world_size)
    while True:
        order = torch.randperm(count, generator=generator)
        for batch, _ in zip(order.split(batch_size), sizes, strict=False):
            yield batch.tolist()


def batch_sizes(count: int, batch_size: int, world_size: int = 1) -> list[int]:
    """How many images each batch of a pass over the set has, those of all processes together.

    The last one may be smaller. It is left out where a process would get one image of it, from which batch
    normalisation learns nothing, unless it is all that there is.

    Raises:
        ValueError: no images, an empty batch, or one that the processes cannot share.
    """
    if count == 0 or batch_size < 1:
        raise ValueError(f"cannot train on {count} images in batches of {batch_size}: both must be at least 1")
    if batch_size % world_size:
        raise ValueError(
            f"batch_size is {batch_size}, which {world_size} processes cannot share equally: choose a multiple of "
            f"{world_size}"
        )
    full, rest = divmod(count, batch_size)
    if not full and rest < world_size:
        raise ValueError(f"{world_size} processes cannot share {count} images: start fewer, or add images")
    return [batch_size] * full + ([rest] if rest >= 2 * world_size or not full else [])


def seed_of(seed: int, rank: int, step: int = 0) -> int:
    """The seed of a process: the run's own in the first one, and another in each of the others.

    Args:
        seed: of the run.
        rank: of the process.
        step: where it takes up a run that had fewer processes.
    """
    return int(np.random.SeedSequence((seed % 2**32, rank, step)).generate_state(1)[0]) if rank else seed


def check_dataset(dataset: Any, role: str) -> None:
    """Refuse what is not a data set of (image, mask) pairs that can be counted and read by index.

    Args:
        dataset: what somebody gave as data.
        role: what it was given for, as the error calls it: "dataset", "validation".

    Raises:
        ValueError: a DataLoader, or an object without a length or an index.
    """
    if isinstance(dataset, DataLoader):
        raise ValueError(
            f"{role} is a DataLoader, and a data set is needed: give loader.dataset, with batch_size= and num_workers= "
            "as arguments of this call"
        )
    for method, what in (("__len__", "length"), ("__getitem__", "index")):
        if not hasattr(dataset, method):
            raise ValueError(
                f"{role} is a {type(dataset).__name__}, which has no {what}: give a data set whose len() and [index] "
                "work, such as a list of (image, mask) pairs"
            )


def collate(samples: list[Any]) -> Sample:
    """Stack samples to images (B, C, H, W) and masks (B, H, W).

    Raises:
        ValueError: a sample is no pair of an image and a mask, or the images differ in size.
    """
    pairs = [_pair(sample) for sample in samples]
    sizes = {tuple(image.shape[-2:]) for image, _ in pairs}
    if len(sizes) > 1:
        found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise ValueError(
            f"images of one batch differ in size ({found}): crop or resize all to one (data.augmentation.crop or "
            "data.size in a configuration; a transform or size= of the dataset), or use batch_size=1"
        )
    images, masks = default_collate(pairs)
    return images, masks


def collate_by_size(samples: list[Any]) -> list[Sample]:
    """Stack the samples of one size each, so that images of several sizes can come in one batch."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for image, mask in map(_pair, samples):
        groups.setdefault(tuple(image.shape), []).append((image, mask))
    return [collate(group) for group in groups.values()]


def _pair(sample: Any) -> Sample:
    """A sample as (image (C, H, W) float32, mask of integers), or one sentence that says what else it is."""
    wanted = "dataset[i] must be (image (C, H, W) float32, mask (H, W) integer labels)"
    if isinstance(sample, dict):
        keys = ", ".join(map(repr, sample))
        raise ValueError(f"{wanted}, not a dictionary ({keys}): wrap the data set so that it returns the two as a pair")
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        found = f"{len(sample)} values" if isinstance(sample, (tuple, list)) else f"a {type(sample).__name__}"
        raise ValueError(f"{wanted}, not {found}: wrap the data set so that it returns the two as a pair")
    try:
        image, mask = (torch.as_tensor(value) for value in sample)
    except (TypeError, ValueError, RuntimeError):
        kinds = " and ".join(type(value).__name__ for value in sample)
        raise ValueError(f"{wanted}, not {kinds}: convert both to tensors, images divided by 255") from None
    if image.dtype == torch.uint8:
        raise ValueError(f"{wanted}, and the image is uint8: convert it by image.float() / 255, then normalise it")
    if image.dtype == torch.float64 or not image.is_floating_point():
        raise ValueError(f"{wanted}, and the image is {str(image.dtype)[6:]}: convert it by image.float()")
    if image.dim() != 3:
        raise ValueError(f"{wanted}, and the image is {tuple(image.shape)}: it needs three dimensions, channels first")
    if image.shape[-1] in (1, 3, 4) and image.shape[:2] == mask.shape[-2:] and image.shape[-2:] != mask.shape[-2:]:
        raise ValueError(f"{wanted}, and the image is {tuple(image.shape)}, channels last: use image.permute(2, 0, 1)")
    if mask.is_floating_point() or mask.is_complex():
        raise ValueError(f"{wanted}, and the mask is {str(mask.dtype)[6:]}: convert it by mask.long()")
    return image, mask


class _Placed(Dataset):
    """Seeds the n-th image of a run by n, so that it looks the same whichever worker loads it and after any break."""

    def __init__(self, dataset: Samples, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, place_and_index: tuple[int, int]) -> Any:
        place, index = place_and_index
        number = int(np.random.SeedSequence((self.seed % 2**32, place)).generate_state(1)[0])
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        return self.dataset[index]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A terminal or a batch system signals the whole group; the process that trains hears it, and decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _obey_next_time)


def _obey_next_time(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # the trainer itself ends a worker that hangs so, and asks twice
