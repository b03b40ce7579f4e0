"""Datasets, synthetic and real: ``dataset[i]`` is always an image (C, H, W) in [0, 1] and a mask (H, W) of labels.

Names load on first use, so that importing one dataset does not import what the others need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker sees; a program looks names up on first use
    from segtutor.data import transforms
    from segtutor.data.camvid import CamVid
    from segtutor.data.check import check_dataset
    from segtutor.data.cityscapes import Cityscapes
    from segtutor.data.drosophila_vnc import DrosophilaVNC
    from segtutor.data.folder import SegmentationFolder
    from segtutor.data.isbi2012 import ISBI2012
    from segtutor.data.oxford_pets import OxfordPets
    from segtutor.data.registry import list_datasets, register_dataset
    from segtutor.data.report import DatasetReport
    from segtutor.data.root import available, find_root
    from segtutor.data.spec import DatasetSpec
    from segtutor.data.synthetic import CellKnobs, SceneKnobs, SyntheticCells, SyntheticScenes
    from segtutor.data.voc import VOC

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
    "DatasetReport": "report",
    "find_root": "root",
    "available": "root",
    "list_datasets": "registry",
    "register_dataset": "registry",
}

__all__ = [
    "DatasetSpec",
    "SyntheticScenes",
    "SyntheticCells",
    "SceneKnobs",
    "CellKnobs",
    "CamVid",
    "DrosophilaVNC",
    "ISBI2012",
    "OxfordPets",
    "VOC",
    "Cityscapes",
    "SegmentationFolder",
    "check_dataset",
    "DatasetReport",
    "find_root",
    "available",
    "list_datasets",
    "register_dataset",
    "transforms",
]

# Hidden from type checkers, which would take any name for one that is here
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "transforms":
            return import_module("segtutor.data.transforms")
        if name in _HOME:
            value = getattr(import_module(f"segtutor.data.{_HOME[name]}"), name)
        elif name[0].isupper():  # a dataset in a file of this folder, which nobody had to list
            from segtutor.data.registry import datasets

            value = next((entry.build for entry in datasets().values() if entry.title == name), None)
        else:
            value = None
        if value is None:
            raise AttributeError(f"module 'segtutor.data' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
