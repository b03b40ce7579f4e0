"""How a chapter starts: the size of its run, and the data that it runs on."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from segtutor.lab import results

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The size of this run: ``mode`` is ``"quick"`` or ``"full"``, ``device`` is ``"cpu"`` or ``"cuda"``."""

    mode: str
    device: str

    def pick(self, quick: T, full: T) -> T:
        """The first value in a quick run, the second in a full one."""
        return quick if self.mode == "quick" else full


def settings() -> Settings:
    """Decide the size of the run, apply the house style to figures, and say so in one printed line.

    What the package logs, such as a line of progress every so many steps, is printed from now on.

    A GPU means a full run, a CPU a quick one; the environment variable ``SEGTUTOR_MODE`` (``quick`` or ``full``)
    overrides that. The number of torch threads and the random state stay as they are.

    Raises:
        ValueError: When ``SEGTUTOR_MODE`` is neither ``quick`` nor ``full``.
    """
    import torch

    from segtutor import logs, viz

    device = "cuda" if torch.cuda.is_available() else "cpu"
    mode = os.environ.get("SEGTUTOR_MODE") or ("full" if device == "cuda" else "quick")
    if mode not in ("quick", "full"):
        raise ValueError(f"SEGTUTOR_MODE is {mode!r}; set it to 'quick' or 'full', or unset it.")
    viz.apply_style()
    logs.show()
    # Said by tqdm when timm first loads, with a path of this machine in it; no chapter shows a progress bar.
    warnings.filterwarnings("ignore", message="IProgress not found")
    found = [_title(name) for name in _STAND_INS if _available(name)]
    data = f"Real data: {', '.join(found)} found." if found else "No real data found: synthetic images stand in."
    print(f"{mode.capitalize()} run on the {'GPU' if device == 'cuda' else 'CPU'}. {data}")
    return Settings(mode, device)


# ---------------------------------------------------------------------------------------------------------------- data

# The real sets of the chapters, each with the synthetic one that is drawn where its files are absent
_STAND_INS = {"camvid": "scenes", "vnc": "cells"}


def _available(name: str) -> bool:
    from segtutor import data

    return data.available(name)


def _title(name: str) -> str:
    from segtutor.data.registry import find_dataset

    return find_dataset(name).title


def dataset(
    name: str,
    split: str = "train",
    *,
    size: tuple[int, int] | None = None,
    tile: int | tuple[int, int] | None = None,
    transform: Callable[..., Any] | None = None,
    length: int | None = None,
    seed: int | None = None,
    **knobs: Any,
) -> Any:
    """The data that a chapter runs on, and one printed line that says which it is.

    Args:
        name: ``"camvid"`` or ``"vnc"`` (the synthetic set stands in where the files are absent), ``"scenes"`` or
            ``"cells"`` (always synthetic).
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: (height, width) of the images; None: the set's own.
        tile: For ``"vnc"``: cut the large slices into tiles of this side; synthetic images are made at that size.
        transform: Called as ``transform(image, mask)`` on tv_tensors.
        length: How many images a synthetic set has; default 1000, 100 and 200 for the three splits.
        seed: Seed of a synthetic set; default: a different one for each split.
        **knobs: Knobs of the synthetic set; real images have none and ignore them.

    Returns:
        A dataset of image (C, H, W) and mask (H, W) with ``.spec``.

    Raises:
        ValueError: When the name or the split is unknown.
    """
    from segtutor.data.registry import SPLITS, find_dataset

    if name not in (*_STAND_INS, *_STAND_INS.values()):
        known = ", ".join([*_STAND_INS, *_STAND_INS.values()])
        raise ValueError(f"There is no data set {name!r}; use one of {known}.")
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; use {', '.join(SPLITS)}.")
    if tile is not None and name == "camvid":
        raise ValueError("CamVid is not cut into tiles; use size=(height, width).")
    if name in _STAND_INS and _available(name):
        options = {} if tile is None else {"tile": tile}
        chosen: Any = find_dataset(name).build(split, size=size, transform=transform, **options)
        if size is not None:  # small images, seen many times
            chosen.keep_in_memory()
        print(f"Data: {_title(name)}, {split}, {results.plural(len(chosen), 'image')}, {_classes(chosen)}.")
        return chosen
    stand_in = _STAND_INS.get(name, name)
    draw: Any = find_dataset(stand_in).build
    default_seed, most = draw.SPLITS[split]
    if size is not None or tile is not None:
        knobs["size"] = size or ((tile, tile) if isinstance(tile, int) else tile)
    chosen = draw(
        length=min(1000, most) if length is None else length,
        seed=default_seed if seed is None else seed,
        transform=transform,
        **knobs,
    )
    why = f" in place of {_title(name)}, which is not on this machine" if name in _STAND_INS else ""
    count = results.plural(len(chosen), "image")
    print(f"Data: synthetic {stand_in}{why}, {split}, {count}, {_classes(chosen)}.")
    return chosen


def _classes(chosen: Any) -> str:
    return f"{chosen.spec.num_classes} classes"
