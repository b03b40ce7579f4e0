"""``segtutor predict``: label image files with a run's model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from segtutor.runs.data import is_read_from_files
from segtutor.runs.folder import load_model, recipe_of


def predict(
    run: Path | str, images: Sequence[Path | str], out: Path | str, *, weights: str | None = None
) -> tuple[list[Path], list[str]]:
    """Predict image files: for each a label PNG with the size of the image, and a picture of it with a legend.

    Args:
        run: the run's folder.
        images: files, and folders that are searched for them.
        out: where the pictures go.
        weights: as for `segtutor.runs.evaluate`.

    Returns:
        The label files, and one sentence for each image that was refused.

    Raises:
        RunError: the folder is not a run, or has no such model yet.
    """
    from segtutor import inference
    from segtutor.data.reading import read_image

    run, out = Path(run), Path(out)
    recipe = recipe_of(run)
    model, _ = load_model(run, weights)
    size = recipe.data.get("size") if is_read_from_files(recipe.data) else None
    written, refused = [], []
    for path, stem in _named(images):
        try:
            image = torch.from_numpy(read_image(path, model.in_channels, model.info.value_range))
            labels = inference.predict(model, image, size=size)
        except (ValueError, OSError) as error:
            refused.append(f"{path} was left out: {error}")
            continue
        out.mkdir(parents=True, exist_ok=True)
        written.append(inference.save_labels(labels, out / f"{stem}.png", model.info))
        inference.save_overlay(image, labels, out / f"{stem}_overlay.png", model.info)
    return written, refused


def _named(images: Sequence[Path | str]) -> list[tuple[Path, str]]:
    """Each file with a name for its results that no other has."""
    from segtutor.data.finding import list_files

    files: list[Path] = []
    for path in map(Path, images):
        files += list_files(path).values() if path.is_dir() else [path]
    named, taken = [], set()
    for path in files:
        stem, number = path.stem, 2
        while stem in taken:
            stem, number = f"{path.stem}-{number}", number + 1
        taken.add(stem)
        named.append((path, stem))
    return named
