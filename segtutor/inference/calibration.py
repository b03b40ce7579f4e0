"""Whether a model is right as often as it says: reliability, calibration error, temperature, and when not to answer.

A model that gives 0.9 to a pixel's class should be right at nine of ten such pixels. Guo et al. 2017 found that modern
networks are not, and that one number, the temperature by which all logits are divided, mends most of it and changes no
label.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segtutor.modes import kept_modes


class Reliability(NamedTuple):
    """What a reliability diagram shows, one entry for each bin of confidence.

    Attributes:
        confidence: mean of what the model said; NaN in an empty bin.
        accuracy: share of pixels where it was right; NaN in an empty bin.
        share: of all pixels.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


class Abstention(NamedTuple):
    """What happens where only the surest pixels are answered, from all of them to the surest bin.

    Attributes:
        threshold: least confidence that is answered.
        answered: share of the pixels that are.
        miou: over these pixels.
        accuracy: over these pixels.
    """

    threshold: Tensor
    answered: Tensor
    miou: Tensor
    accuracy: Tensor


class Calibration:
    """Probabilities beside the truth, counted in bins of confidence over a whole set.

    Args:
        num_classes: how many probabilities a pixel has.
        ignore_index: label of pixels that do not count.
        bins: of equal width over 0 to 1.

    Example:
        >>> calibration = Calibration(11)
        >>> for image, mask in dataset:
        ...     calibration.update(probabilities(model, image)[None], mask[None])
        >>> calibration.error
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, bins: int = 15) -> None:
        if num_classes < 2 or bins < 1:
            raise ValueError(f"num_classes is {num_classes} and bins {bins}; give at least two classes and one bin")
        self.num_classes, self.ignore_index, self.bins = num_classes, ignore_index, bins
        # [confidence, true, predicted], so that one count gives accuracy, calibration and the abstention curve
        self.counts = torch.zeros(bins, num_classes, num_classes, dtype=torch.int64)
        self.confidence = torch.zeros(bins, dtype=torch.float64)
        self.class_counts = torch.zeros(num_classes, bins, dtype=torch.int64)
        self.class_hits = torch.zeros(num_classes, bins, dtype=torch.int64)
        self.class_confidence = torch.zeros(num_classes, bins, dtype=torch.float64)
        self._surprise = 0.0

    def update(self, probabilities: Tensor, target: Tensor) -> Calibration:
        """Count a batch.

        Args:
            probabilities: (B, num_classes, H, W), summing to 1 over the classes.
            target: (B, H, W) labels.

        Raises:
            ValueError: shapes that do not fit, labels that are no class, or numbers that are no probabilities.
        """
        expected = (len(target), self.num_classes, *target.shape[1:])
        if target.dim() != 3 or probabilities.shape != expected:
            raise ValueError(
                f"probabilities have shape {tuple(probabilities.shape)} and labels {tuple(target.shape)}: they must be "
                f"(B, {self.num_classes}, H, W) and (B, H, W) with the same B, H and W"
            )
        valid = target != self.ignore_index
        sure, true = probabilities.detach().permute(0, 2, 3, 1)[valid].double(), target[valid].long()  # (N, K), (N,)
        if not len(true):
            return self
        if not bool(((sure >= 0) & (sure <= 1.0001)).all()) or float((sure.sum(1) - 1).abs().max()) > 0.01:
            raise ValueError("the probabilities do not lie in [0, 1] with a sum of 1: give softmax(logits), not logits")
        if int(true.min()) < 0 or int(true.max()) >= self.num_classes:
            raise ValueError(f"labels go from {int(true.min())} to {int(true.max())} with {self.num_classes} classes")
        confidence, predicted = sure.max(1)
        place, classes = self._bin(confidence), self.num_classes
        pairs = (place * classes + true) * classes + predicted
        self.counts += pairs.bincount(minlength=self.counts.numel()).view_as(self.counts).cpu()
        self.confidence += torch.bincount(place, confidence, minlength=self.bins).cpu()
        places = self._bin(sure) + self.bins * torch.arange(classes, device=sure.device)  # (N, K)
        hits = places.gather(1, true[:, None]).flatten()
        shape, many = self.class_counts.shape, self.class_counts.numel()
        self.class_counts += places.flatten().bincount(minlength=many).view(shape).cpu()
        self.class_hits += hits.bincount(minlength=many).view(shape).cpu()
        self.class_confidence += torch.bincount(places.flatten(), sure.flatten(), minlength=many).view(shape).cpu()
        self._surprise -= float(sure.gather(1, true[:, None]).clamp(min=1e-12).log().sum())
        return self

    def _bin(self, confidence: Tensor) -> Tensor:
        return (confidence * self.bins).long().clamp(max=self.bins - 1)

    @property
    def pixels(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    @property
    def reliability(self) -> Reliability:
        """The reliability diagram of the predicted classes."""
        many = self.counts.sum((1, 2)).double()
        right = self.counts.diagonal(dim1=1, dim2=2).sum(1)
        return Reliability(self.confidence / many, right / many, many / max(1, self.pixels))

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): mean distance of accuracy from confidence, by pixels."""
        found = self.reliability
        return _weighted(found.confidence, found.accuracy, found.share)

    @property
    def class_errors(self) -> Tensor:
        """The same for the probability of each class, whether it was predicted or not (Nixon et al. 2019): (K,)."""
        many = self.class_counts.double()
        said, right, share = self.class_confidence / many, self.class_hits / many, many / max(1, self.pixels)
        return torch.tensor([_weighted(*of_class) for of_class in zip(said, right, share, strict=True)])

    @property
    def surprise(self) -> float:
        """Negative log likelihood of the true classes, a mean over the pixels; what a temperature makes least."""
        return self._surprise / self.pixels if self.pixels else math.nan

    @property
    def abstention(self) -> Abstention:
        """Scores over the surest pixels, where the others are left to somebody else."""
        kept = self.counts.flip(0).cumsum(0).flip(0).double()  # [from this bin on, true, predicted]
        hits, many = kept.diagonal(dim1=1, dim2=2), kept.sum((1, 2))
        union = kept.sum(1) + kept.sum(2) - hits
        miou = torch.where(union > 0, hits / union, torch.nan).nanmean(1)
        return Abstention(torch.arange(self.bins) / self.bins, many / max(1, self.pixels), miou, hits.sum(1) / many)


def fit_temperature(
    model: nn.Module, dataset: Any, *, ignore_index: int = 255, pixels: int = 2000, seed: int = 0
) -> float:
    """The temperature that makes the true classes of a validation set most likely.

    Dividing logits by it changes no label. Fit it on images that the model was neither trained nor chosen on where
    there are some, and score it on others.

    Args:
        model: maps images (B, C, H, W) to logits (B, num_classes, H, W); with one logit, background against foreground.
        dataset: ``dataset[i]`` is (normalised image (C, H, W), mask (H, W)).
        ignore_index: label of pixels that do not count.
        pixels: of each image that are looked at, drawn at random.
        seed: of that draw.

    Returns:
        A number above 0; above 1 where the model is too sure of itself.

    Raises:
        ValueError: there is nothing to fit on.
    """
    from scipy.optimize import minimize_scalar

    weights = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    generator, scores, labels = torch.Generator().manual_seed(seed), [], []
    with kept_modes(model), torch.inference_mode():
        model.eval()
        for number in range(len(dataset)):
            image, mask = dataset[number]
            places = (mask.flatten() != ignore_index).nonzero().flatten()
            places = places[torch.randperm(len(places), generator=generator)[:pixels]]
            logits = model(image[None].to(weights.device, weights.dtype))[0].double().cpu()  # (K, H, W)
            logits = torch.cat([torch.zeros_like(logits), logits]) if len(logits) == 1 else logits
            scores.append(logits.flatten(1)[:, places])
            labels.append(mask.flatten()[places])
    if not sum(map(len, labels)):
        raise ValueError("there is nothing to fit a temperature on: the dataset has no pixel that counts")
    score, label = torch.cat(scores, 1).T, torch.cat(labels).long()  # (N, K), (N,)

    def surprise(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(score / math.exp(log_temperature), label))

    found = minimize_scalar(surprise, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-4})
    return float(math.exp(found.x))


def entropy(probabilities: Tensor) -> Tensor:
    """How undecided a model is at each pixel, from 0 (sure of one class) to 1 (all alike).

    Args:
        probabilities: (num_classes, H, W) or (B, num_classes, H, W).

    Returns:
        (H, W) or (B, H, W).
    """
    terms = torch.special.entr(probabilities)
    return terms.sum(-3) / math.log(probabilities.shape[-3])


def _weighted(confidence: Tensor, accuracy: Tensor, share: Tensor) -> float:
    """Mean distance of two quantities over bins, of which empty ones do not count."""
    return float(((confidence - accuracy).abs().nan_to_num() * share).sum())
