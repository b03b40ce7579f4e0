"""``segtutor predict``: label image files with a saved model, of which it needs the folder and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtutor.factory import SegmentationModel
from segtutor.files import whole_file
from segtutor.runs.faults import is_out_of_memory, sentence
from segtutor.runs.folder import find_model, load_model
from segtutor.runs.naming import place_of_legend, plan

_CURES = {True: "look at it in tiles with --tile 512", False: "make --tile smaller"}


def predict(
    folder: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    weights: str | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    tile: int | None = None,
    overlap: int = 128,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> tuple[list[Path], list[str]]:
    """Predict image files: for each a label PNG and an overlay of the size of the image, and one legend.

    Args:
        folder: a run, its ``best`` or ``last``, or any other folder of a saved model.
        images: files, folders, whose sub-folders are kept, and patterns such as ``"photos/*.jpg"``.
        out: where the pictures go; made where it is missing.
        weights: "best" or "last" of a run; None: the best ones where they were kept.
        probabilities: write an npz file with the probability of each class at each pixel, too.
        overwrite: earlier results may be replaced; images never are.
        tile: look at each image in tiles of that side, for which little memory is needed; see `predict_tiled`.
        overlap: pixels that neighbouring tiles share.
        scales, flip: average over several views of each image; see `segtutor.inference.predict`.

    Returns:
        The label files, and one sentence for each image that was refused.

    Raises:
        RunError: the folder holds no model, a folder of images none, or something would be replaced.
        ValueError: tiles or scales that do not fit.
        OSError: the results cannot be written.
    """
    from segtutor import inference
    from segtutor.data.reading import read_image
    from segtutor.inference.predictor import check_views

    check_views(tile, overlap, scales)
    place = find_model(Path(folder), weights)
    planned = plan(images, Path(out), probabilities=probabilities, overwrite=overwrite)
    model = load_model(place)
    written, refused = [], []
    for path, labels_path, overlay_path, probabilities_path in planned:
        try:
            image = torch.from_numpy(read_image(path, model.in_channels, model.info.value_range))
            labels, sure = _answers(model, image, probabilities, tile, overlap, {"scales": scales, "flip": flip})
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            memory = is_out_of_memory(error)
            if isinstance(error, RuntimeError) and not memory:
                raise
            why = (
                f"there is not enough memory for an image of its size; {_CURES[tile is None]}"
                if memory
                else sentence(error)
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


def _answers(
    model: SegmentationModel, image: Tensor, wanted: bool, tile: int | None, overlap: int, views: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Labels of an image, and its probabilities where they are wanted."""
    from segtutor import inference

    if not wanted:
        if tile is None:
            return inference.predict(model, image, **views), None
        return inference.predict_tiled(model, image, tile=tile, overlap=overlap, **views), None
    if tile is None:
        sure = inference.probabilities(model, image, **views)
    else:
        parts = inference.strips(model, image, tile=tile, overlap=overlap, **views)
        sure = torch.cat([part for _, part, _ in parts], dim=1)
    return sure.argmax(0), sure


def _write_legend(out: Path, info: Any) -> None:
    """One legend for all overlays, beside that of another model if there is one."""
    from segtutor import inference

    with tempfile.TemporaryDirectory() as folder:
        legend = inference.save_legend(Path(folder, "legend.png"), info).read_bytes()
    place = place_of_legend(out, lambda path: path.read_bytes() == legend)
    if not place.exists():
        with whole_file(place) as part:
            part.write_bytes(legend)
