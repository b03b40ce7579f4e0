"""The one list of datasets: a class enters it by a decorator, and everything that asks for a dataset by name reads it.

Adding a dataset takes one file in this folder, or one of your own that is imported before it is used::

    @register_dataset("street", splits=("train", "val"))
    class Street(PairDataset):
        spec = DatasetSpec(name="street", ...)
        def __init__(self, split="train", *, root=None, size: Size | None = None, transform=None): ...

The arguments of the class, but for ``split`` and ``transform``, are the keys of the configuration's section ``data``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Interval

from .spec import DatasetSpec

SPLITS = ("train", "val", "test")
Side = Annotated[int, Interval(ge=1, le=65_536)]  # of an image, in pixels
Size = tuple[Side, Side]  # height and width

Registered = TypeVar("Registered", bound=Callable[..., Any])


@dataclass(frozen=True)
class Layout:
    """How the folder of a dataset on disk is recognised.

    Attributes:
        folders: folders to look in, below the data folder, in this order; a download makes the first.
        needs: alternatives; the dataset is there when all the paths of one alternative exist.
    """

    folders: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]

    def matches(self, folder: Path) -> bool:
        """Whether ``folder`` itself holds the dataset."""
        return any(all((folder / path).exists() for path in paths) for paths in self.needs)

    def locate(self, base: Path) -> Path | None:
        """The folder of the dataset, where ``base`` is that folder or holds it."""
        for folder in (base, *(base / name for name in self.folders)):
            if self.matches(folder):
                return folder
        return None


@dataclass(frozen=True)
class DatasetEntry:
    """A registered dataset.

    Attributes:
        name: the ``type`` by which configurations ask for it.
        title: the name of its class.
        build: ``build(split=..., **settings)``, a dataset of images in [0, 1] with its ``spec`` and ``transform``.
        splits: the splits that are trained on, validated on and tested on, as far as there are such.
        whole: splits that together hold every image once.
        spec: what the set says about itself; None where that depends on the settings.
        layout: how its folder is recognised; None where it has none.
    """

    name: str
    title: str
    build: Callable[..., Any]
    splits: tuple[str, ...]
    whole: tuple[str, ...]
    spec: DatasetSpec | None
    layout: Layout | None


_ENTRIES: dict[str, DatasetEntry] = {}


def register_dataset(
    name: str,
    *,
    splits: tuple[str, ...] = SPLITS,
    whole: tuple[str, ...] | None = None,
    layout: Layout | None = None,
) -> Callable[[Registered], Registered]:
    """Decorate a class (or a function that makes an instance) to make it a dataset that can be asked for by name.

    It is called as ``build(split=..., **settings)``. A class has its `DatasetSpec` as the attribute ``spec``.

    Args:
        name: the ``type`` by which configurations ask for it, equal to the spec's name.
        splits: those of "train", "val" and "test" that it has.
        whole: splits that together hold every image once, for looking at all of them; None: ``splits``.
        layout: how its folder is recognised among the data on a machine.

    Raises:
        ValueError: the name is taken, or is not the spec's.
    """

    def register(build: Registered) -> Registered:
        spec = getattr(build, "spec", None)
        if name in _ENTRIES:
            raise ValueError(f"a dataset '{name}' is already registered; choose another name")
        if spec is not None and spec.name != name:
            raise ValueError(f"the dataset '{name}' has a spec named '{spec.name}'; give both the same name")
        title = getattr(build, "__self__", build).__name__  # of a class method, the class
        _ENTRIES[name] = DatasetEntry(name, title, build, splits, splits if whole is None else whole, spec, layout)
        return build

    return register


def datasets() -> dict[str, DatasetEntry]:
    """Every registered dataset by its name, sorted: the order of registration depends on who imported what first."""
    _import_all()
    return dict(sorted(_ENTRIES.items()))


def list_datasets() -> list[str]:
    """The dataset types that a configuration may name."""
    return list(datasets())


def find_dataset(name: str) -> DatasetEntry:
    """A registered dataset by its name ("camvid") or its class ("CamVid"), in any case.

    Raises:
        ValueError: there is none of that name.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    known, wanted = datasets(), _key(name)
    for entry in known.values():
        if wanted in (_key(entry.name), _key(entry.title)):
            return entry
    close = difflib.get_close_matches(name, known, n=3, cutoff=0)
    raise ValueError(f"there is no dataset {name!r}: did you mean {', '.join(close)}?")


def _key(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


@cache
def _import_all() -> None:
    """Import every file beside this one: those that hold a dataset register it."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
