"""The protocols of the shoot-out: how every network of the book is trained until validation stops rising.

``street`` is CamVid at 180x240, ``tissue`` is DrosophilaVNC in tiles of 256 pixels, split by depth. A network's
learning rate is the best of three on validation, in shorter runs of one seed; its weights are those of the best
validation; the test set is looked at once, at the end.
"""

from __future__ import annotations

import copy
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from segtutor.lab.harness import BenchmarkError, default_folder
from segtutor.lab.results import read_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

NETWORKS = {
    "one_pixel": "",  # no model of the book: a baseline
    "fcn32s": "FCN32s",
    "fcn16s": "FCN16s",
    "fcn8s": "FCN8s",
    "unet": "UNet",
    "segnet": "SegNet",
    "pspnet": "PSPNet",
    "deeplab_v1": "DeepLabV1",
    "deeplab_v2": "DeepLabV2",
    "deeplab_v3": "DeepLabV3",
    "deeplab_v3plus": "DeepLabV3Plus",
    "vit_segmenter": "ViTSegmenter",
    "swin_upernet": "SwinUPerNet",
    "segformer": "SegFormer",
}
RATES = (7e-4, 2e-3, 5e-3)
RATE_STEPS = 1000  # of the runs that choose the learning rate
BATCH, WARMUP, EVERY = 8, 100, 250
OUTPUT_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Protocol:
    """How the networks are trained on one data set.

    Attributes:
        name: First part of the experiments' ids.
        steps: Optimiser steps.
        crop: (height, width) of the training crops.
        title: The data in words.
        scale: Smallest and largest factor of the random scale.
        color: Strength of the colour augmentation.
        vertical: Mirror upside down too.
    """

    name: str
    steps: int
    crop: tuple[int, int]
    title: str
    scale: tuple[float, float] = (0.75, 1.5)
    color: float = 0.3
    vertical: bool = False

    @property
    def config(self) -> dict:
        """What makes a row another row when it changes."""
        return {
            "steps": self.steps,
            "batch": BATCH,
            "crop": list(self.crop),
            "scale": list(self.scale),
            "color": self.color,
            "rates": list(RATES),
            "rate_steps": RATE_STEPS,
        }

    @property
    def conditions(self) -> str:
        """The protocol in words."""
        mirrors = "mirrored both ways" if self.vertical else "mirrored"
        return (
            f"{self.title}; the tiny preset from random weights, {self.steps} steps of batch {BATCH} on crops of "
            f"{self.crop[0]}x{self.crop[1]}, {mirrors}, scaled by {self.scale[0]} to {self.scale[1]}, colour "
            f"{self.color}; AdamW, poly decay after {WARMUP} steps of warm-up, learning rate the best of "
            f"{', '.join(f'{rate:g}' for rate in RATES)} on validation in {RATE_STEPS} steps with seed 0, "
            f"weights of the best of the validations every {EVERY} steps; scored once on the whole test set"
        )

    def data(self, split: str) -> InMemory:
        """A split in memory: images in [0, 1], masks, ``.spec``, and for the test set ``.groups`` of image numbers."""
        return read(self.name, split)


@functools.cache
def read(protocol: str, split: str) -> InMemory:
    """A split of a protocol's data, read from disk once a process.

    Raises:
        BenchmarkError: The data are not on this machine.
    """
    from segtutor.data import DrosophilaVNC, available

    if protocol == "street":
        return street(split, (180, 240))
    if not available("DrosophilaVNC"):
        raise BenchmarkError(f"{protocol} needs DrosophilaVNC: set SEGTUTOR_DATA to the folder that holds it")
    return InMemory(DrosophilaVNC(split, tile=256), {})


def street(split: str, size: tuple[int, int]) -> InMemory:
    """A split of CamVid at a size, the test set also by recordings that training has seen or not.

    Raises:
        BenchmarkError: CamVid is not on this machine.
    """
    from segtutor.data import CamVid, available

    if not available("CamVid"):
        raise BenchmarkError("street needs CamVid: set SEGTUTOR_DATA to the folder that holds it")
    files = CamVid(split, size=size)
    new = [i for i, (image, _) in enumerate(files.pairs) if image.name.startswith("Seq05VD")]
    seen = [i for i in range(len(files)) if i not in set(new)]
    return InMemory(files, {"new_recording": new, "seen_recording": seen} if split == "test" else {})


STREET = Protocol("street", 3000, (144, 192), "CamVid at 180x240 (367 training, 101 validation, 233 test images)")
TISSUE = Protocol(
    "tissue",
    3000,
    (160, 160),
    "DrosophilaVNC, tiles of 256x256, slices 0-11 for training, 13-14 for validation, 16-19 for the test",
    vertical=True,
)


class InMemory:
    """A data set read once: plain images in [0, 1], or normalised ones for scoring.

    Args:
        files: The data set to read.
        groups: Name to image numbers that are also scored by themselves.
    """

    def __init__(self, files: Any, groups: dict[str, list[int]]) -> None:
        import torch

        from segtutor.data.transforms import normalize

        pairs = [files[i] for i in range(len(files))]
        self.spec, self.groups = files.spec, groups
        self.images = torch.stack([image for image, _ in pairs])  # (N, C, H, W)
        self.masks = torch.stack([mask for _, mask in pairs])  # (N, H, W)
        self.normalised = normalize(self.images, self.spec)
        self.for_scoring = False

    def scored(self) -> InMemory:
        """The same images, normalised."""
        same = copy.copy(self)
        same.for_scoring = True
        return same

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return (self.normalised if self.for_scoring else self.images)[index], self.masks[index]


def build(key: str, num_classes: int, in_channels: int) -> nn.Module:
    """The tiny preset of a network, from the present state of torch's random numbers."""
    import importlib

    from segtutor import models

    if key == "one_pixel":
        return one_pixel(num_classes, in_channels)
    network = getattr(models, NETWORKS[key])
    presets = importlib.import_module(network.__module__).PRESETS
    return network(num_classes, in_channels=in_channels, **presets["tiny"])


def one_pixel(num_classes: int, in_channels: int, width: int = 48) -> nn.Module:
    """Chapter 00's baseline: class scores from the colour and the place of a single pixel, and from nothing else."""
    import torch
    from torch import nn

    class OnePixel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(in_channels + 2, width, 1),
                nn.ReLU(),
                nn.Conv2d(width, width, 1),
                nn.ReLU(),
                nn.Conv2d(width, num_classes, 1),
            )

        def forward(self, images: Tensor) -> Tensor:
            rows = torch.linspace(-1, 1, images.shape[2], device=images.device).view(1, 1, -1, 1)
            columns = torch.linspace(-1, 1, images.shape[3], device=images.device).view(1, 1, 1, -1)
            place = torch.broadcast_tensors(images[:, :1], rows, columns)[1:]
            return self.net(torch.cat([images, *place], dim=1))  # (B, num_classes, H, W)

    return OnePixel()


def trained(
    protocol: Protocol, key: str, lr: float, steps: int, seed: int, quick: bool, log: Callable[[str], object]
) -> tuple[nn.Module, list[tuple[int, float]]]:
    """Train one network; the model with the weights of its best validation, and [(step, validation mIoU)].

    Every score is of the whole validation set. The best validation is the first of equal ones.
    """
    import torch

    from segtutor.data.batch_transforms import RandomView
    from segtutor.training import fit, warmed_up

    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, validation = protocol.data("train"), cast(Any, protocol.data("val").scored())
    if quick:
        validation = torch.utils.data.Subset(validation, range(4))
    torch.manual_seed(seed)
    model = build(key, train.spec.num_classes, train.spec.in_channels).to(device)
    options: dict[str, Any] = {"scale": protocol.scale, "color": protocol.color, "flip_vertically": protocol.vertical}
    curve: list[tuple[int, float]] = []
    best: dict[str, Any] = {}

    def keep(state: dict[str, Any]) -> None:
        scored = state["history"]["validation"]
        if len(curve) == len(scored):  # a state handed out before the validation
            return
        step, scores = scored[-1]
        curve.append((step, scores["miou"]))
        log(f"lr {lr:g}, step {step}: validation mIoU {scores['miou']:.3f}")
        if scores["miou"] > best.get("miou", -1):
            best.update(miou=scores["miou"], weights=copy.deepcopy(model.state_dict()))

    fit(
        model,
        train,
        steps=4 if quick else steps,
        batch_size=BATCH,
        lr=lr,
        weight_decay=1e-4,
        schedule=warmed_up("poly", 2 if quick else WARMUP),
        seed=seed,
        precision="fp32",
        batch_transform=RandomView(train.spec, protocol.crop, **options),
        validation=validation,
        validate_every=2 if quick else EVERY,
        save=keep,
    )
    model.load_state_dict(best["weights"])
    return model, curve


def chosen_rate(protocol: Protocol, key: str) -> float:
    """The learning rate whose row scored best on validation.

    Raises:
        BenchmarkError: The rates were not tried yet.
    """
    rows = read_rows(folder=default_folder())
    scores = {rate: [r.value for r in rows if r.id == f"{protocol.name}/rate/{key}/{rate:g}"] for rate in RATES}
    if not all(scores.values()):
        wanted = f"{protocol.name}/rate/{key}"
        raise BenchmarkError(f"the learning rate of {key} is not chosen yet: run `segtutor benchmark {wanted}` first")
    return max(RATES, key=lambda rate: statistics.fmean(scores[rate]))


def scores_of(protocol: Protocol, model: nn.Module, curve: list[tuple[int, float]], quick: bool) -> dict[str, float]:
    """Test scores of a trained network, whole and by group, with what validation said."""
    import torch

    from segtutor.training import evaluate

    test = protocol.data("test").scored()
    whole: Any = torch.utils.data.Subset(cast(Any, test), range(8)) if quick else test
    scores = evaluate(model, whole)
    best = max(curve, key=lambda point: point[1])
    values = {
        "miou": scores.miou,
        "boundary_miou": scores.boundary_miou,
        "pixel_accuracy": scores.pixel_accuracy,
        "validation_miou": best[1],
        "best_step": best[0],
        "last_validation_miou": curve[-1][1],
    }
    for name, iou in zip(test.spec.classes, scores.iou.tolist(), strict=True):
        values[f"iou/{name}"] = iou
    for group, picks in {} if quick else test.groups.items():
        values[f"{group}/miou"] = evaluate(
            model, torch.utils.data.Subset(cast(Any, test), picks), boundary_width=None
        ).miou
    return {name: value for name, value in values.items() if value == value}  # a class that does not occur has no row


def through_stride(masks: Tensor, stride: int, num_classes: int) -> Tensor:
    """Labels (B, H, W) as the best that scores at a stride can say of them: down to cells of shares, up again."""
    import torch.nn.functional as F

    from segtutor.layers import resize

    height, width = masks.shape[1:]
    inside = (masks >= 0) & (masks < num_classes)
    shares = F.one_hot(masks.where(inside, masks.new_zeros(())), num_classes).permute(0, 3, 1, 2).float()
    shares = shares * inside[:, None]  # void belongs to no class
    cells = F.avg_pool2d(shares, stride, ceil_mode=True)  # (B, num_classes, ceil(H / stride), ceil(W / stride))
    size = (cells.shape[2] * stride, cells.shape[3] * stride)
    return resize(cells, size)[..., :height, :width].argmax(dim=1)  # (B, H, W)
