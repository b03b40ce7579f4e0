"""Discs whose class depends on their surroundings alone: a network's accuracy shows how far it sees."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Discs(Dataset):
    """Context scenes in which only the disc counts: 0 where it is a sign, 1 where it is a fence, void elsewhere.

    Every scene is in the set twice, once with either light, so an answer that does not see the light is right on
    exactly half of the pixels.

    Args:
        scenes: How many scenes; the set is twice as long.
        seed: Of the scenes.
        distance: Pixels from the light to the disc's edge.
        size: (height, width) of the images.
    """

    def __init__(self, scenes: int, seed: int, distance: int, size: tuple[int, int]):
        from segtutor.data import SyntheticScenes

        self.scenes = SyntheticScenes(size=size, length=scenes, seed=seed, context=distance, objects=0)

    def __len__(self) -> int:
        return 2 * len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from segtutor.data.transforms import normalize

        (image, label), (_, other) = (
            self.scenes.draw(index // 2, counterpart=bool(t)) for t in (index % 2, 1 - index % 2)
        )
        fence = self.scenes.spec.classes.index("fence")
        target = torch.where(torch.from_numpy(label != other), torch.from_numpy(label == fence).long(), 255)
        return normalize(torch.from_numpy(image), self.scenes.spec), target
