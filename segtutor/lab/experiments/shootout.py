"""Chapter 18: every network under the protocols of `segtutor.lab.protocols.converged`, and bounds of their tables."""

from typing import Any

from segtutor.lab.harness import experiment
from segtutor.lab.protocols.converged import (
    NETWORKS,
    OUTPUT_STRIDES,
    RATE_STEPS,
    RATES,
    STREET,
    TISSUE,
    Protocol,
    chosen_rate,
    scores_of,
    through_stride,
    trained,
)

UNITS = {
    "miou": "mIoU",
    "boundary_miou": "mIoU within 3 pixels of a border",
    "pixel_accuracy": "share of pixels",
    "validation_miou": "mIoU",
    "last_validation_miou": "mIoU",
    "best_step": "steps",
    "lr": "learning rate",
}


class IouUnits(dict):
    """`UNITS`, and IoU for every class by name."""

    def __contains__(self, metric):
        return super().__contains__(metric) or metric.startswith("iou/")

    def __getitem__(self, metric):
        return "IoU" if metric.startswith("iou/") else super().__getitem__(metric)


def register(protocol: Protocol, key: str) -> None:
    """Enter a network into a protocol: its learning rate, then its rows."""
    shared: dict[str, Any] = {
        "group": protocol.name,
        "device": "auto",
        "config": protocol.config,
        "conditions": protocol.conditions,
    }

    @experiment(f"{protocol.name}/rate/{key}", seeds=(0,), unit="mIoU of the best validation", **shared)
    def rate(seed, quick, log):
        """Validation mIoU of one network at three learning rates."""
        curves = {lr: trained(protocol, key, lr, RATE_STEPS, seed, quick, log)[1] for lr in RATES}
        return {f"{lr:g}": max(score for _, score in curve) for lr, curve in curves.items()}

    @experiment(f"{protocol.name}/{key}", unit=IouUnits(UNITS), **shared)
    def row(seed, quick, log):
        """One network trained to convergence: test scores, and what validation said."""
        lr = RATES[1] if quick else chosen_rate(protocol, key)
        model, curve = trained(protocol, key, lr, protocol.steps, seed, quick, log)
        return {"lr": lr, **scores_of(protocol, model, curve, quick)}


def register_bounds(protocol: Protocol) -> None:
    """Enter the bounds that stand in every table of a protocol."""

    @experiment(
        f"{protocol.name}/bounds",
        group=protocol.name,
        seeds=(0,),
        unit={"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border"},
        config={"strides": list(OUTPUT_STRIDES)},
        conditions=f"{protocol.title}, test set; majority: the most frequent training class everywhere; stride: the "
        "true labels as shares of each class in cells of that many pixels, enlarged bilinearly as a network's scores "
        "are, the largest share taken at each pixel",
    )
    def bounds(seed, quick, log):
        """What the laziest answer scores, and what no network of a given output stride can exceed by much."""
        import torch

        from segtutor.metrics import ConfusionMatrix

        test, train = protocol.data("test"), protocol.data("train")
        void, classes = test.spec.ignore_index, test.spec.num_classes
        majority = int(torch.bincount(train.masks[train.masks != void], minlength=classes).argmax())
        masks = test.masks[:4] if quick else test.masks
        answers = {"majority": lambda mask: torch.full_like(mask, majority)}
        answers |= {f"stride{s}": lambda mask, s=s: through_stride(mask, s, classes) for s in OUTPUT_STRIDES}
        values = {}
        for name, answer in answers.items():
            confusion = ConfusionMatrix(classes, ignore_index=void, boundary_width=3)
            for mask in masks.split(16):
                confusion.update(answer(mask), mask)
            values |= {f"{name}/miou": confusion.miou, f"{name}/boundary_miou": confusion.boundary_miou}
            log(f"{name}: {confusion.miou:.3f}")
        return values


for _protocol in (STREET, TISSUE):
    register_bounds(_protocol)
    for _key in NETWORKS:
        register(_protocol, _key)
