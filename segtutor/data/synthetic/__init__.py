"""The synthetic sets: no download, any size, and knobs that isolate what each architecture is about."""

from segtutor.data.synthetic.cells import CellKnobs, SyntheticCells
from segtutor.data.synthetic.scenes import SceneKnobs, SyntheticScenes

__all__ = ["CellKnobs", "SceneKnobs", "SyntheticCells", "SyntheticScenes"]
