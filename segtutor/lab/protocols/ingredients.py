"""Training runs that differ in one ingredient: a pretrained backbone on CamVid, and one setting changed at a time.

Deformations are tried on tissue, of which a few tiles are kept: that is what U-Net proposes them for.

Each run is the base of :data:`BASE` with one :class:`Ingredient` in the place of its own. Keys are those of a
configuration, built by the same code as `segtutor train`, so that what is measured is what a reader switches. The
weights are those of the last step: nothing is chosen within a run.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from segtutor.lab.protocols.converged import InMemory, read, street

if TYPE_CHECKING:
    from torch import nn

    from segtutor.runs.recipe import Training

SIZE, CROP = (120, 160), (96, 128)
STEPS, BATCH, WARMUP = 120, 8, 20
TILES, TISSUE_CROP = 12, (128, 128)  # one tile of each training slice
SMALL = ("pole", "sign", "pedestrian", "bicyclist")  # classes of few pixels, whose scores are kept by themselves
BACKBONE = {"type": "efficientnet_lite", "variant": "lite0", "pretrained": True}
BASE: dict[str, Any] = {
    "backbone": BACKBONE,
    "head": "ultrafast_segformer",
    "steps": STEPS,
    "batch_size": BATCH,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "warmup": WARMUP,
    "size": list(SIZE),
    "crop": list(CROP),
    "scale": [0.75, 1.5],
    "color": 0.3,
    "flip": True,
}
CONDITIONS = (
    f"CamVid at {SIZE[0]}x{SIZE[1]} (367 training, 101 validation, 233 test images); EfficientNet-Lite0 with ImageNet "
    f"weights and head ultrafast_segformer, {STEPS} steps of batch {BATCH} on crops of {CROP[0]}x{CROP[1]}, mirrored, "
    f"scaled by 0.75 to 1.5, colour 0.3; AdamW 1e-3, weight decay 1e-4, poly decay after {WARMUP} steps of warm-up; "
    "weights of the last step, scored once on the whole validation and test sets"
)
TISSUE_CONDITIONS = CONDITIONS.replace(
    f"CamVid at {SIZE[0]}x{SIZE[1]} (367 training, 101 validation, 233 test images)",
    f"DrosophilaVNC, tiles of 256x256 ({TILES} training, 32 validation, 64 test tiles)",
).replace(f"{CROP[0]}x{CROP[1]}, mirrored", f"{TISSUE_CROP[0]}x{TISSUE_CROP[1]}, mirrored both ways")


@dataclass(frozen=True)
class Ingredient:
    """One change of the base.

    Attributes:
        id: Last parts of the experiment's id, such as "schedule/cosine".
        title: The change in words.
        training: Keys of the section ``training`` that differ.
        view: Arguments of `RandomView` that differ.
        backbone: Keys of the section ``backbone`` that differ.
        mean: Share of the mean weights that a step keeps, where the mean is scored beside the last weights.
        data: "street" for CamVid, "tissue" for DrosophilaVNC.
    """

    id: str
    title: str
    training: Mapping[str, Any] = field(default_factory=dict)
    view: Mapping[str, Any] = field(default_factory=dict)
    backbone: Mapping[str, Any] = field(default_factory=dict)
    mean: float | None = None
    data: str = "street"

    @property
    def config(self) -> dict[str, Any]:
        """What makes a row another row when it changes: the base's settings with this ingredient's."""
        more: dict[str, Any] = {} if self.mean is None else {"mean": self.mean}
        if self.data == "tissue":
            more |= {"data": self.data, "size": [256, 256], "tiles": TILES, "crop": list(TISSUE_CROP)}
        return {**BASE, **self.training, **self.view, "backbone": {**BACKBONE, **self.backbone}, **more}

    @property
    def conditions(self) -> str:
        """The run in words."""
        mean = "" if self.mean is None else f"; mean: an exponential moving average of the weights, decay {self.mean}"
        return f"{CONDITIONS if self.data == 'street' else TISSUE_CONDITIONS}{mean}. Changed: {self.title}"

    def recipe(self, weights: tuple[float, ...], seed: int, quick: bool) -> Training:
        """The checked section ``training``; measured class weights are those given."""
        from segtutor.runs.recipe import parse_training

        keys = ("steps", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "warmup")
        section = {**{key: BASE[key] for key in keys}, "precision": "fp32", "seed": seed, **self.training}
        if section.get("class_weights") == "measured":
            section["class_weights"] = weights
        return parse_training(section | ({"steps": 3, "warmup": 1} if quick else {}))


INGREDIENTS = (
    Ingredient("base", "nothing", mean=0.99),
    Ingredient("start/random", "random weights in the place of ImageNet's", backbone={"pretrained": False}),
    Ingredient("lr/3e-4", "learning rate 3e-4", training={"lr": 3e-4}),
    Ingredient("lr/3e-3", "learning rate 3e-3", training={"lr": 3e-3}),
    Ingredient("schedule/constant", "the learning rate stays", training={"schedule": "constant"}, mean=0.99),
    Ingredient("schedule/cosine", "cosine decay", training={"schedule": "cosine"}),
    Ingredient("optimizer/sgd-0.03", "SGD, momentum 0.9, rate 0.03", training={"optimizer": "sgd", "lr": 0.03}),
    Ingredient("freeze/backbone", "the backbone frozen", backbone={"frozen": True}),
    Ingredient("loss/weighted", "class weights by median frequency", training={"class_weights": "measured"}),
    Ingredient("color/none", "no colour augmentation", view={"color": 0.0}),
    Ingredient("scale/none", "no random scale", view={"scale": None}),
    Ingredient("warmup/none", "no warm-up", training={"warmup": 0}),
    Ingredient("head_lr/10", "ten times the learning rate for the head", training={"head_lr": 10.0}),
    Ingredient("tissue/base", "nothing", view={"flip_vertically": True}, data="tissue"),
    Ingredient(
        "tissue/warped", "rotated by up to 180 degrees and deformed elastically by 10 pixels",
        view={"flip_vertically": True, "rotation": 180.0, "elastic": 10.0}, data="tissue",
    ),
    Ingredient("optimizer/sgd-0.1", "SGD, momentum 0.9, rate 0.1", training={"optimizer": "sgd", "lr": 0.1}),
    Ingredient("optimizer/sgd-0.01", "SGD, momentum 0.9, rate 0.01", training={"optimizer": "sgd", "lr": 0.01}),
    Ingredient(
        "batch/2", "batch 2, as many images, the learning rate kept",
        training={"batch_size": 2, "steps": 4 * STEPS, "warmup": 4 * WARMUP},
    ),
    Ingredient(
        "batch/32", "batch 32, as many images, the learning rate kept",
        training={"batch_size": 32, "steps": STEPS // 4, "warmup": WARMUP // 4},
    ),
    Ingredient(
        "batch/32-scaled", "batch 32, as many images, four times the learning rate",
        training={"batch_size": 32, "steps": STEPS // 4, "warmup": WARMUP // 4, "lr": 4e-3},
    ),
    Ingredient("loss/ohem", "cross-entropy of the hard pixels alone", training={"loss": "OHEMCrossEntropyLoss"}),
    Ingredient(
        "loss/ce_dice", "cross-entropy plus Dice loss", training={"loss": ["CrossEntropyLoss", "DiceLoss"]}
    ),
    Ingredient("crop/64x96", "crops of 64x96", view={"crop": [64, 96]}),
    Ingredient("flip/none", "not mirrored", view={"flip": False}),
    Ingredient("freeze/norms", "the backbone's normalisations frozen", backbone={"frozen": "norms"}),
    Ingredient("crop/whole", "crops of the image's size, 120x160", view={"crop": list(SIZE)}),
    Ingredient("decay/no_norms", "no weight decay on norms and biases", training={"decay_norms": False}),
    Ingredient(
        "batch/2-scaled", "batch 2, as many images, a quarter of the learning rate",
        training={"batch_size": 2, "steps": 4 * STEPS, "warmup": 4 * WARMUP, "lr": 2.5e-4},
    ),
    Ingredient("steps/double", "twice the steps", training={"steps": 2 * STEPS, "warmup": 2 * WARMUP}),
)  # fmt: skip


@functools.cache
def data(split: str, name: str = "street") -> InMemory:
    """A split in memory, normalised as the pretrained backbone expects, for every start alike."""
    from segtutor.data.transforms import normalize
    from segtutor.factory.backbones import get_backbone_statistics

    own = street(split, SIZE) if name == "street" else copy.copy(read(name, split))
    if name == "tissue" and split == "train":
        every = len(own) // TILES
        own.images, own.masks = own.images[::every], own.masks[::every]
    statistics = cast(Any, get_backbone_statistics({"backbone": BACKBONE, "in_channels": own.spec.in_channels}))
    own.spec = dataclasses.replace(own.spec, mean=tuple(statistics.mean), std=tuple(statistics.std))
    own.normalised = normalize(own.images, own.spec)
    return own


@functools.cache
def measured_weights() -> tuple[float, ...]:
    """Class weights counted in the training masks of the street."""
    from segtutor.losses import median_frequency_weights

    train = data("train")
    weights = median_frequency_weights(train.masks, train.spec.num_classes, ignore_index=train.spec.ignore_index)
    return tuple(round(weight, 6) for weight in weights.tolist())


def run(ingredient: Ingredient, seed: int, quick: bool, log: Callable[[str], object]) -> dict[str, float]:
    """Train once and score: the last weights, and their mean where the ingredient asks for it."""
    import torch

    from segtutor.data.batch_transforms import RandomView
    from segtutor.factory import create_model
    from segtutor.training import fit

    train = data("train", ingredient.data)
    model = create_model(
        {
            "backbone": {**BACKBONE, **ingredient.backbone},
            "head": BASE["head"],
            "num_classes": train.spec.num_classes,
            "in_channels": train.spec.in_channels,
            "seed": seed,
        }
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    weights = measured_weights() if ingredient.training.get("class_weights") == "measured" else ()
    rules = ingredient.recipe(weights, seed, quick)
    config = ingredient.config
    view = {key: config[key] for key in ("scale", "color", "flip")} | dict(ingredient.view)
    view["crop"] = tuple(config["crop"])
    last: dict[str, Any] = {}

    def keep(step: int, loss: float) -> None:
        if step == rules.steps and ingredient.mean is not None:
            last.update({name: value.clone() for name, value in model.state_dict().items()})

    history = fit(
        model,
        train,
        steps=rules.steps,
        batch_size=rules.batch_size,
        loss=rules.make_loss(train.spec.ignore_index, auxiliary=False, num_classes=train.spec.num_classes),
        optimizer=rules.make_optimizer(model),
        schedule=rules.make_schedule(),
        ema=ingredient.mean,
        seed=seed,
        precision=rules.precision,
        batch_transform=RandomView(train.spec, **view),
        on_step=keep,
    )
    values = {"training_loss": sum(history.loss[-20:]) / len(history.loss[-20:])}
    if ingredient.mean is not None:
        scores = scores_of(model, ingredient.data, quick)
        values |= {f"mean/{name}": value for name, value in scores.items() if "iou/" not in name}
        model.load_state_dict(last)
    values |= scores_of(model, ingredient.data, quick)
    log(f"validation mIoU {values['validation_miou']:.3f}, test {values['miou']:.3f}")
    return values


def scores_of(model: nn.Module, name: str, quick: bool) -> dict[str, float]:
    """Scores on validation and test, whole, by recording and of the small classes."""
    import torch

    from segtutor.training import evaluate

    def scored(split: str, picks: Any) -> Any:
        whole: Any = data(split, name).scored()
        return evaluate(model, torch.utils.data.Subset(whole, list(picks)[: 2 if quick else None]), boundary_width=None)

    test = data("test", name)
    values = {"validation_miou": scored("val", range(len(data("val", name)))).miou}
    parts = {group: scored("test", picks) for group, picks in test.groups.items()}
    values |= {f"{group}/miou": part.miou for group, part in parts.items()}
    whole, *others = parts.values() or [scored("test", range(len(test)))]
    for part in others:  # every pixel of the test set in one matrix
        whole.merge(part)
    values |= {"miou": whole.miou, "pixel_accuracy": whole.pixel_accuracy}
    by_class = dict(zip(test.spec.classes, whole.iou.tolist(), strict=True))
    small = {f"iou/{key}": by_class[key] for key in SMALL if key in by_class}
    return values | {key: iou for key, iou in small.items() if iou == iou}  # nan: not there
