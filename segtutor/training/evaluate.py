"""Scoring a model on a data set: one confusion matrix over every pixel of the whole set."""

from __future__ import annotations

import itertools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from segtutor.metrics import ConfusionMatrix
from segtutor.modes import kept_modes
from segtutor.training.distributed import Processes
from segtutor.training.precision import in_float32, prepare
from segtutor.training.sampling import Samples, check_dataset, collate_by_size, seeded


def evaluate(
    model: nn.Module,
    dataset: Samples,
    *,
    batch_size: int = 8,
    num_classes: int | None = None,
    ignore_index: int = 255,
    boundary_width: int | None = 3,
    device: str | torch.device | None = None,
    limit: int | None = None,
    precision: str = "fp32",
    processes: Processes | None = None,
) -> ConfusionMatrix:
    """Score `model` on `dataset`: one confusion matrix over every pixel of the whole set.

    Args:
        model: maps images (B, C, H, W) to logits (B, num_classes, H, W); one logit per pixel means background (below
            zero) against foreground. It runs in evaluation mode; afterwards each module has its own mode back.
        dataset: as for :func:`fit`, but the images may differ in size.
        batch_size: images at a time, where their sizes agree; has no influence on the scores.
        num_classes: None: as many as the model has logits.
        ignore_index: label of pixels that do not count.
        boundary_width: pixels on either side of a true border that the boundary score looks at; None: no such score.
        device: None: where the model is.
        limit: score only so many images, spread evenly over the set.
        precision: as for :func:`fit`, but fp32 unless asked.
        processes: those that share the work, batch by batch, and all get the matrix of the whole set, equal to that of
            one process; see ``segtutor.training.distributed.joined``. None: each call scores the whole set.

    Returns:
        The filled matrix: ``.miou``, ``.iou``, ``.summary()``, ...

    Raises:
        ValueError: no images, samples that are no (image, mask) pairs, labels that are no class, or logits that are
            not a number.
    """
    check_dataset(dataset, "dataset")
    device, dtype = prepare(model, device, precision)  # not in inference mode, or what it moves could train no more
    scored = cast(Dataset, dataset)
    if limit is not None and limit < len(dataset):
        scored = Subset(scored, [i * len(dataset) // limit for i in range(limit)])
    processes = Processes() if processes is None else processes
    confusion = None
    # Whole batches, as one process would make them, so that every logit is the same; nothing twice, nothing padded
    numbers = torch.arange(len(cast(Samples, scored))).split(max(1, batch_size))[processes.rank :: processes.world_size]
    # Seeded, so that a dataset that draws random numbers is scored alike each time.
    with kept_modes(model), torch.inference_mode(), seeded(0, device), processes.faults():
        model.eval()
        batches = DataLoader(scored, batch_sampler=[batch.tolist() for batch in numbers], collate_fn=collate_by_size)
        for images, masks in itertools.chain.from_iterable(batches):
            images = images.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = in_float32(model(images))
            if not isinstance(logits, Tensor):
                raise ValueError("the model returned several tensors: wrap it so that it returns its logits alone")
            if confusion is None:
                num_classes = num_classes or max(2, logits.shape[1])
                confusion = ConfusionMatrix(num_classes, ignore_index=ignore_index, boundary_width=boundary_width)
            confusion.update(logits, masks.to(device))
        known = max(processes.gather(0 if confusion is None else confusion.num_classes))
        if confusion is None and known:  # more processes than batches
            confusion = ConfusionMatrix(known, ignore_index=ignore_index, boundary_width=boundary_width)
        if confusion is None:
            raise ValueError("there is nothing to score: the dataset (or limit) has no images")
        return confusion if processes.world_size == 1 else confusion.synchronize()


def evaluate_each(model: nn.Module, dataset: Samples, **settings: Any) -> list[ConfusionMatrix]:
    """Score each image of a set by itself, for what asks how far scores of images differ.

    Args:
        model, dataset: as for :func:`evaluate`.
        **settings: further arguments of it.

    Returns:
        One matrix for each image; merged, they are the matrix of the whole set.
    """
    check_dataset(dataset, "dataset")
    images = cast(Dataset, dataset)
    return [evaluate(model, cast(Samples, Subset(images, [i])), **settings) for i in range(len(dataset))]
