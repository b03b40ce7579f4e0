"""``segtutor predict``: label image files with a saved model, of which it needs the folder and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segtutor.files import whole_file
from segtutor.runs.faults import is_out_of_memory, sentence
from segtutor.runs.folder import find_model, load_model
from segtutor.runs.naming import place_of_legend, plan


def predict(
    folder: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    weights: str | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
) -> tuple[list[Path], list[str]]:
    """Predict image files: for each a label PNG and an overlay of the size of the image, and one legend.

    Args:
        folder: a run, its ``best`` or ``last``, or any other folder of a saved model.
        images: files, folders, whose sub-folders are kept, and patterns such as ``"photos/*.jpg"``.
        out: where the pictures go; made where it is missing.
        weights: "best" or "last" of a run; None: the best ones where they were kept.
        probabilities: write an npz file with the probability of each class at each pixel, too.
        overwrite: earlier results may be replaced; images never are.

    Returns:
        The label files, and one sentence for each image that was refused.

    Raises:
        RunError: the folder holds no model, a folder of images none, or something would be replaced.
        OSError: the results cannot be written.
    """
    from segtutor import inference
    from segtutor.data.reading import read_image

    place = find_model(Path(folder), weights)
    planned = plan(images, Path(out), probabilities=probabilities, overwrite=overwrite)
    model = load_model(place)
    written, refused = [], []
    for path, labels_path, overlay_path, probabilities_path in planned:
        try:
            image = torch.from_numpy(read_image(path, model.in_channels, model.info.value_range))
            sure = inference.probabilities(model, image) if probabilities else None
            labels = inference.predict(model, image) if sure is None else sure.argmax(0)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            memory = is_out_of_memory(error)
            if isinstance(error, RuntimeError) and not memory:
                raise
            why = (
                "there is not enough memory for an image of its size; cut it into tiles" if memory else sentence(error)
            )
            refused.append(f"{path} was left out: {why}")
            continue
        labels_path.parent.mkdir(parents=True, exist_ok=True)
        written.append(inference.save_labels(labels, labels_path, model.info))
        inference.save_overlay(image, labels, overlay_path, model.info)
        if sure is not None:
            inference.save_probabilities(sure, probabilities_path, model.info)
    if written:
        _write_legend(Path(out), model.info)
    return written, refused


def _write_legend(out: Path, info: Any) -> None:
    """One legend for all overlays, beside that of another model if there is one."""
    from segtutor import inference

    with tempfile.TemporaryDirectory() as folder:
        legend = inference.save_legend(Path(folder, "legend.png"), info).read_bytes()
    place = place_of_legend(out, lambda path: path.read_bytes() == legend)
    if not place.exists():
        with whole_file(place) as part:
            part.write_bytes(legend)
