"""Validation images beside their masks and what a model makes of them, for TensorBoard and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.data.transforms import denormalize
from segtutor.metrics import ConfusionMatrix, foreground
from segtutor.modes import kept_modes
from segtutor.training import History, Observer
from segtutor.training.sampling import seeded

SAMPLES = 3  # images that TensorBoard shows


class Samples(Observer):
    """Writes the same few validation images, with truth and prediction, for TensorBoard at each validation.

    They are a run of their own, ``samples``, beside the curves.

    Args:
        folder: of the TensorBoard files.
        data: the validation data, with its spec.
    """

    def __init__(self, folder: Path, data: Any) -> None:
        self.folder, self.data = folder / "samples", data
        count = min(SAMPLES, len(data))
        self.chosen = [number * len(data) // count for number in range(count)]

    def validated(self, history: History, confusion: ConfusionMatrix, model: nn.Module) -> None:
        """Write the panels of this model."""
        from torch.utils.tensorboard import SummaryWriter

        from segtutor import viz

        step = history.validation[-1][0]
        with SummaryWriter(self.folder) as board:
            for index in self.chosen:
                image, mask, answer = answered(model, self.data, index)
                figure = viz.show_panels(picture(image, self.data.spec), mask, answer, spec=self.data.spec)
                board.add_figure(f"validation/image {index}", figure, step)


def answered(model: nn.Module, data: Any, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """An image as the model sees it (C, H, W), its mask (H, W), and the labels (H, W) that the model answers."""
    device = next(model.parameters()).device
    with kept_modes(model), torch.inference_mode(), seeded(0, device):
        model.eval()
        image, mask = data[index]
        logits = model(image[None].to(device)).float().cpu()
    labels = foreground(logits).long() if logits.shape[1] == 1 else logits.argmax(1)
    return image, mask, labels[0]


def picture(image: Tensor, spec: Any) -> Tensor:
    """An image (C, H, W) in [0, 1] that can be shown: of more channels than a picture has, the first alone."""
    shown = denormalize(image, spec)
    return shown if len(shown) in (1, 3, 4) else shown[:1]
