"""The synthetic sets: no download, any size, and knobs that isolate what each architecture is about."""

from .synthetic_cells import CellKnobs, SyntheticCells
from .synthetic_scenes import SceneKnobs, SyntheticScenes

__all__ = ["CellKnobs", "SceneKnobs", "SyntheticCells", "SyntheticScenes"]
