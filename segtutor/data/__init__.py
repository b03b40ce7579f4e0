"""Datasets, synthetic and real: ``dataset[i]`` is always an image (C, H, W) in [0, 1] and a mask (H, W) of labels.

Names load on first use, so that importing one dataset does not import what the others need.
"""

from __future__ import annotations

import importlib

_HOME = {
    "DatasetSpec": "spec",
    "SyntheticScenes": "synthetic",
    "SyntheticCells": "synthetic",
    "SceneKnobs": "synthetic",
    "CellKnobs": "synthetic",
    "CamVid": "camvid",
    "DrosophilaVNC": "drosophila_vnc",
    "ISBI2012": "isbi2012",
    "OxfordPets": "oxford_pets",
    "VOC": "voc",
    "Cityscapes": "cityscapes",
    "SegmentationFolder": "folder",
    "check_dataset": "check",
    "DatasetReport": "check",
    "find_root": "root",
    "available": "root",
}
__all__ = sorted(_HOME) + ["transforms"]


def __getattr__(name: str):
    if name == "transforms":
        return importlib.import_module("segtutor.data.transforms")
    if name not in _HOME:
        raise AttributeError(f"module 'segtutor.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"segtutor.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
