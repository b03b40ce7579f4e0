"""The section ``data`` of a configuration: one function per data set, whose keyword-only arguments are its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval
from torch.utils.data import Dataset

from segtutor import data
from segtutor.data.splits import part_name
from segtutor.factory.config import ConfigError, Count, parse, section_of, type_of

Side = Annotated[int, Interval(ge=32, le=8192)]
Factor = Annotated[float, Interval(ge=0.1, le=10)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Level = Annotated[int, Interval(ge=0, le=255)]


@dataclass(frozen=True)
class Source:
    """A data set that a configuration can name.

    Attributes:
        build: ``build(split, **settings)``, images in [0, 1] without a transform.
        splits: the names of its splits.
    """

    build: Callable[..., Dataset]
    splits: tuple[str, ...] = ("train", "val", "test")


def _synthetic(title: str) -> Callable[..., Dataset]:
    # Splits are different seeds: no image of one is ever an image of another.
    places = {"train": (0, 8192), "val": (1, 100), "test": (2, 200)}

    def build(
        split: str, *, size: tuple[Side, ...] = (128, 128), length: Count = 1000, knobs: str | dict | None = None
    ) -> Dataset:
        seed, most = places[split]
        preset = {"knobs": knobs} if isinstance(knobs, str) else dict(knobs or {})
        return getattr(data, title)(_pair(size, "size"), min(length, most), seed=seed, **preset)

    return build


def _camvid(
    split: str,
    *,
    root: str | None = None,
    size: tuple[Side, ...] | None = None,
    download: bool = False,
    keep_in_memory: bool = False,
) -> Dataset:
    return _kept(data.CamVid(split, root=root, size=_pair(size, "size"), download=download), keep_in_memory)


def _vnc(
    split: str,
    *,
    root: str | None = None,
    size: tuple[Side, ...] | None = None,
    tile: Side | None = 256,
    channels: Literal[1, 3] = 1,
    download: bool = False,
    keep_in_memory: bool = False,
) -> Dataset:
    settings = {"root": root, "size": _pair(size, "size"), "tile": tile, "channels": channels, "download": download}
    return _kept(data.DrosophilaVNC(split, **settings), keep_in_memory)


def _isbi2012(
    split: str,
    *,
    root: str | None = None,
    size: tuple[Side, ...] | None = None,
    channels: Literal[1, 3] = 1,
    download: bool = False,
    keep_in_memory: bool = False,
) -> Dataset:
    settings = {"root": root, "size": _pair(size, "size"), "channels": channels, "download": download}
    return _kept(data.ISBI2012(split, **settings), keep_in_memory)


def _oxford_pets(
    split: str,
    *,
    root: str | None = None,
    size: tuple[Side, ...] | None = None,
    border: Literal["void", "class"] = "void",
    download: bool = False,
    keep_in_memory: bool = False,
) -> Dataset:
    settings = {"root": root, "size": _pair(size, "size"), "border": border, "download": download}
    return _kept(data.OxfordPets(split, **settings), keep_in_memory)


def _voc(
    split: str,
    *,
    root: str | None = None,
    size: tuple[Side, ...] | None = None,
    year: Literal[2007, 2008, 2009, 2010, 2011, 2012] = 2012,
    download: bool = False,
    keep_in_memory: bool = False,
) -> Dataset:
    settings = {"root": root, "size": _pair(size, "size"), "year": str(year), "download": download}
    return _kept(data.VOC(split, **settings), keep_in_memory)


def _cityscapes(
    split: str, *, root: str | None = None, size: tuple[Side, ...] | None = None, keep_in_memory: bool = False
) -> Dataset:
    return _kept(data.Cityscapes(split, root=root, size=_pair(size, "size")), keep_in_memory)


def _folder(
    split: str,
    *,
    path: str,
    classes: tuple[str, ...] | Count,
    palette: tuple[tuple[Level, ...], ...] | tuple[str, ...] | dict | None = None,
    ignore_index: Level = 255,
    label_map: dict | None = None,
    mask_suffix: str = "",
    channels: Literal[1, 3] = 3,
    mean: tuple[Fraction, ...] | None = None,
    std: tuple[Fraction, ...] | None = None,
    size: tuple[Side, ...] | None = None,
    value_range: tuple[float, ...] | Literal["uint8", "uint10", "uint12", "uint14", "uint16", "unit"] | None = None,
    held_out: Annotated[float, Interval(ge=0.01, le=0.99)] = 0.2,
    lists: str | None = None,
    keep_in_memory: bool = False,
) -> Dataset:
    """A part of a folder of images and masks; see `segtutor.data.SegmentationFolder.from_path`."""
    names = {"classes": classes, "palette": palette, "ignore_index": ignore_index, "label_map": label_map}
    reading = {"mask_suffix": mask_suffix, "channels": channels, "mean": mean, "std": std, "value_range": value_range}
    where = {"path": path, "held_out": held_out, "lists": lists}
    found = data.SegmentationFolder.from_path(split, **where, **names, **reading, size=_pair(size, "size"))
    return _kept(found, keep_in_memory)


SOURCES = {
    "scenes": Source(_synthetic("SyntheticScenes")),
    "cells": Source(_synthetic("SyntheticCells")),
    "camvid": Source(_camvid),
    "vnc": Source(_vnc),
    "isbi2012": Source(_isbi2012),
    "oxford_pets": Source(_oxford_pets),
    "voc": Source(_voc, ("train", "val")),
    "cityscapes": Source(_cityscapes, ("train", "val")),
    "folder": Source(_folder),
}


def _augment(
    *,
    crop: tuple[Side, ...] | None = None,
    flip: bool = True,
    scale: tuple[Factor, ...] | None = None,
    color: Fraction = 0.0,
) -> dict[str, Any]:
    """What is done to training images; see `segtutor.data.transforms.train_transform`."""
    if scale is not None and crop is None:
        raise ConfigError("scale: images of random size make no batch; set crop too.")
    return {"crop": _pair(crop, "crop"), "flip": flip, "scale": _pair(scale, "scale"), "color": color}


_AUGMENT = ("crop", "flip", "scale", "color")


def parse_data(config: Any) -> dict[str, Any]:
    """Check the section ``data``, a name or keys and values, and fill in its defaults.

    Raises:
        ConfigError: an unknown, missing or impossible setting, with its key path.
    """
    section = section_of(config, "data")
    name = type_of(section, "data", SOURCES)
    settings = parse(SOURCES[name].build, section, "data", known=("type", *_AUGMENT))
    return {"type": name, **settings, **parse(_augment, section, "data", known=("type", *settings))}


def open_data(section: Mapping[str, Any], split: str, *, augment: bool = False) -> Dataset:
    """Open a split: normalised whole images, or what training makes of them.

    Args:
        section: as `parse_data` returns it.
        split: "train", "val" or "test".
        augment: scale, crop, mirror and recolour at random, as the section says.

    Raises:
        ConfigError: the files are not there, or do not fit the settings.
    """
    from segtutor.data import transforms

    source, split = SOURCES[section["type"]], part_name(split)
    if split not in source.splits:
        raise ConfigError(f"data: {section['type']} has no split '{split}'; choose {' or '.join(source.splits)}.")
    settings = {key: value for key, value in section.items() if key not in {"type", *_AUGMENT}}
    try:
        opened = source.build(split, **settings)
        options = _augment(**{key: section[key] for key in _AUGMENT})
        opened.transform = (
            transforms.train_transform(opened.spec, **options) if augment else transforms.eval_transform(opened.spec)
        )
    except ConfigError as error:
        raise ConfigError(f"data.{error}") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"data: {error}") from None
    return opened


def _pair(values: tuple | None, key: str) -> tuple | None:
    if values is not None and len(values) != 2:
        raise ConfigError(f"{key}: {len(values)} numbers, expected two, such as [256, 256].")
    return values


def _kept(opened: Dataset, keep: bool) -> Dataset:
    return opened.keep_in_memory() if keep else opened
