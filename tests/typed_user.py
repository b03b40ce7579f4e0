"""What somebody writes who builds on the package, with types; `test_types.py` lets mypy read it in strict mode."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import segtutor
from segtutor import data, factory, losses, metrics, models, probe, training, viz, weights
from segtutor.data import DatasetSpec, SegmentationFolder, SyntheticScenes, check_dataset, transforms
from segtutor.factory import ModelInfo, SegmentationModel, create_model, register_head
from segtutor.inference import predict
from segtutor.losses import CombinedLoss, CrossEntropyLoss, DiceLoss
from segtutor.metrics import ConfusionMatrix
from segtutor.models import DeepLabV3Plus, SegFormer, UNet
from segtutor.models.unet import PRESETS
from segtutor.training import History, evaluate, fit

SPEC: DatasetSpec = SyntheticScenes.spec


class Doubled:
    """A data set of one's own: a length and an index are all that training asks for."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pairs[index // 2]


def networks(num_classes: int) -> list[nn.Module]:
    """Models by hand: presets are constructor arguments."""
    small = UNet(num_classes, **PRESETS["tiny"])
    plain = DeepLabV3Plus(num_classes, in_channels=1, output_stride=8)
    channels: tuple[int, ...] = models.ResNet(18).channels
    return [small, plain, SegFormer(num_classes), nn.Conv2d(channels[0], num_classes, 1)]


def train(model: nn.Module, folder: Path) -> tuple[History, float]:
    """Data, a loss, a run, and its score."""
    prepare = transforms.eval_transform(SPEC)
    scenes = SyntheticScenes((64, 64), 16, seed=1, transform=prepare)
    image, mask = scenes[0]
    own = SegmentationFolder(folder / "images", folder / "masks", classes=("road", "other"), size=(96, 96))
    print(check_dataset(own))
    loss = CombinedLoss([(1.0, CrossEntropyLoss(label_smoothing=0.1)), (0.5, DiceLoss())])
    history = fit(model, scenes, steps=10, loss=loss, precision="fp32", validation=Doubled([(image, mask)]))
    steps: list[int] = history.steps
    scores: ConfusionMatrix = evaluate(model, [(image, mask)], boundary_width=None)
    best: float = scores.miou + len(steps)
    return history, best


def produce(pixels: Tensor) -> Tensor:
    """A production model, from a configuration to labels."""
    model: SegmentationModel = create_model(
        {"backbone": "resnet18", "head": "fcn", "num_classes": 11}, info=ModelInfo.of(SPEC)
    )
    names: list[str] = factory.list_backbones() + factory.list_heads()
    widths: list[int] = factory.get_backbone_channels("resnet18")
    flops: int = probe.count_flops(model, (64, 64))
    print(len(names), widths, flops, segtutor.__version__)
    labels: Tensor = predict(model, pixels)
    again: Tensor = metrics.boundary_band(labels, 3)
    with torch.no_grad():
        viz.show_panels(pixels, labels, model(pixels[None])[0], spec=SPEC)
    return again


def more() -> None:
    """The rest of the parts exists, and functions are what they say."""
    weights.load_pretrained(models.VGG16())
    print(losses.LovaszLoss(), data.find_root("camvid"), training.poly(1, 10), register_head)
