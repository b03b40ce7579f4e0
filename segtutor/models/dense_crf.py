r"""The dense CRF: every pixel talks to every other one, and alike pixels talk each other into one label.

**Paper.** Krähenbühl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS
2011, arXiv 1210.5644. Read Section 2 (the energy: two Gaussian kernels) and Section 3 with Algorithm 1 (mean field,
whose one expensive step is a Gaussian filter). The filter is the permutohedral lattice of Adams, Baek and Davis, *Fast
High-Dimensional Filtering Using the Permutohedral Lattice*, Computer Graphics Forum 29(2), 2010.

With logits :math:`u`, Potts compatibility and :math:`Q = \mathrm{softmax}(u)` to begin with, one iteration is

.. math:: Q_i(c) \propto \exp\Big(u_i(c) + \sum_m w_m \sum_{j \ne i} k_m(i, j)\, Q_j(c)\Big)

**Departures ledger**

* Kernels are normalised, :math:`D^{-1/2} K D^{-1/2}`, as in the authors' released library; the paper's equations have
  the plain :math:`K` (``normalization="none"``). DeepLab's weights, 3 to 10, belong to normalised kernels: a plain sum
  counts hundreds of alike pixels, and any such weight makes every pixel certain.
* :math:`D` counts the pixel itself, as the library's does, so that a pixel unlike all others is left alone instead of
  being given to the least unlike one. The message leaves the pixel itself out, as the paper's sum does.
* ``method="fast"`` filters with two lattices, the second shifted against the first, and takes the mean: the errors of
  the two partly cancel. A lattice knows the kernel up to a factor, which is calibrated on 64 pixels, and smears the
  weight of a pixel on itself, which is taken as 1. Kernel sums then agree with the exact ones to about a tenth,
  probabilities to 0.01 on average (tests). The Gaussian of positions alone is separable, hence exact.
* The compatibility of labels is Potts', as in DeepLab, and nothing is learned.

**Shapes.** images (B, 3, H, W), 0 to 255, and logits (B, C, H, W), such as log-probabilities, to probabilities
(B, C, H, W).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pixel_features(image: Tensor, sigma_alpha: float, sigma_beta: float) -> Tensor:
    """(3, H, W) to (HW, 5): row, column and colours, each in units of its own standard deviation."""
    height, width = image.shape[1:]
    rows = torch.arange(height, device=image.device).view(1, -1, 1).expand(1, height, width) / sigma_alpha
    columns = torch.arange(width, device=image.device).expand(1, height, width) / sigma_alpha
    return torch.cat([rows, columns, image / sigma_beta]).flatten(1).T.contiguous()  # (HW, 5)


class ExactKernel:
    """exp(-|f_i - f_j|^2 / 2) for every pair, zero for a pixel and itself: N x N numbers for N pixels."""

    def __init__(self, features: Tensor):
        if len(features) > 2**14:
            raise ValueError(f'{len(features)} pixels have {len(features)}^2 pairs: choose method="fast".')
        distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")  # (N, N)
        self.kernel = torch.exp(-distance.square() / 2).fill_diagonal_(0)

    def __call__(self, values: Tensor) -> Tensor:
        """values (N, C) to their sums over all other pixels (N, C)."""
        return self.kernel @ values


class SpatialKernel:
    """The same for positions alone. exp(a + b) = exp(a) exp(b), so one matrix per axis does it, and does it exactly."""

    def __init__(self, size: tuple[int, ...], sigma: float, device: torch.device):
        self.size, axes = size, [torch.arange(n, device=device, dtype=torch.float32) / sigma for n in size]
        self.rows, self.columns = (torch.exp(-(a[:, None] - a).square() / 2) for a in axes)  # (H, H), (W, W)

    def __call__(self, values: Tensor) -> Tensor:
        """values (HW, C) to their sums over all other pixels (HW, C)."""
        maps = values.T.reshape(-1, *self.size)  # (C, H, W)
        return (self.rows @ maps @ self.columns).flatten(1).T - values


class Lattice:
    """The permutohedral lattice: splat onto the vertices of simplices, blur there, slice back.

    In D dimensions it is the integer points of D + 1 coordinates that sum to zero and are equal modulo D + 1. A pixel
    lies in a simplex of D + 1 vertices (a grid cell has 2^D), and only vertices near some pixel are stored.
    """

    def __init__(self, features: Tensor):
        number, dims = features.shape
        self.corners = dims + 1
        remainder, rank, self.weights = self.enclosing_simplex(features)
        # One integer names a vertex: its first D coordinates, each with room for a blur's step on either side.
        low = remainder[:, :dims].amin(0) - 2 * self.corners
        span = remainder[:, :dims].amax(0) + 2 * self.corners - low + 1
        self.radix = F.pad(span.cumprod(0)[:-1], (1, 0), value=1)
        if torch.prod(span.double()) > 2**62:
            raise ValueError("the kernel is too narrow for the lattice's names: choose larger sigmas.")
        corner = torch.arange(self.corners, device=features.device)
        beyond = rank[:, None, :dims] > dims - corner[:, None]  # (N, D+1, D)
        vertices = remainder[:, None, :dims] - low + corner[:, None] - self.corners * beyond.long()
        self.index((vertices * self.radix).sum(2))  # (N, D+1)

    def enclosing_simplex(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) to a vertex of each pixel's simplex, its coordinates' order, barycentric weights: (N, D+1) each."""
        i = torch.arange(1, self.corners, device=features.device)
        # Onto the plane where coordinates sum to zero, at the scale at which splat, blur and slice have variance 1.
        scaled = features * (self.corners * (2 / 3) ** 0.5 / (i * (i + 1)).sqrt())
        lifted = F.pad(scaled.flip(1).cumsum(1).flip(1), (0, 1)) - F.pad(i * scaled, (1, 0))  # (N, D+1)
        nearest = (lifted / self.corners).round().long() * self.corners
        rank = (lifted - nearest).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        rank = rank + nearest.sum(1, keepdim=True) // self.corners  # rounding may have left the plane: walk back
        wrap = self.corners * ((rank < 0).long() - (rank >= self.corners).long())
        nearest, rank = nearest + wrap, rank + wrap
        sorted_ = torch.empty_like(lifted).scatter_(1, rank, (lifted - nearest) / self.corners).flip(1)
        weights = sorted_ - sorted_.roll(1, 1)
        weights[:, 0] += 1
        return nearest, rank, weights

    def index(self, names: Tensor) -> None:
        """From vertex names (N, D+1): who splats where, and each vertex's neighbours along the D + 1 axes."""
        ordered, order = names.flatten().sort()
        vertices, inverse, count = ordered.unique_consecutive(return_inverse=True, return_counts=True)
        self.vertex = torch.empty_like(order).scatter_(0, order, inverse).view_as(names)
        self.pixel, self.first = order // self.corners, count.cumsum(0) - count
        self.splat_weights = self.weights.flatten()[order]
        steps = self.radix.sum() - self.corners * F.pad(self.radix, (0, 1))
        self.neighbours = []
        for step in [direction * step for step in steps for direction in (1, -1)]:
            place = torch.searchsorted(vertices, vertices + step).clamp(max=len(vertices) - 1)
            found = vertices[place] == vertices + step
            self.neighbours.append(torch.where(found, place, len(vertices)))  # the one past the end holds zeros

    def __call__(self, values: Tensor) -> Tensor:
        """values (N, C) to sums over all pixels, themselves too, (N, C), up to a factor."""
        maps = F.embedding_bag(self.pixel, values, self.first, mode="sum", per_sample_weights=self.splat_weights)
        for ahead, behind in zip(self.neighbours[::2], self.neighbours[1::2], strict=True):
            padded = F.pad(maps, (0, 0, 0, 1))  # (vertices + 1, C)
            maps = maps / 2 + (padded[ahead] + padded[behind]) / 4
        return F.embedding_bag(self.vertex, maps, mode="sum", per_sample_weights=self.weights)


class FastKernel:
    """What `ExactKernel` computes, by two lattices, in time and memory proportional to the pixels."""

    def __init__(self, features: Tensor):
        # The shift is any vector that is no period of the lattice.
        shift = torch.linspace(0.3, 1.1, features.shape[1], device=features.device)
        self.lattices = (Lattice(features), Lattice(features + shift))
        self.scale: float | Tensor = 1.0
        sample = torch.arange(64, device=features.device) * len(features) // 64
        exact = torch.exp(-torch.cdist(features[sample], features).square() / 2).sum(1)  # (64,)
        self.scale = (exact / self.sum(torch.ones_like(features[:, :1]))[sample, 0]).median()

    def sum(self, values: Tensor) -> Tensor:
        """values (N, C) to their sums over all pixels, themselves too, (N, C)."""
        return self.scale * (self.lattices[0](values) + self.lattices[1](values)) / 2

    def __call__(self, values: Tensor) -> Tensor:
        """values (N, C), not negative, to their sums over all other pixels (N, C)."""
        return (self.sum(values) - values).clamp(min=0)


def check_pair(images: Tensor, logits: Tensor) -> None:
    """Raise ValueError, saying what to do, unless logits (B, C, H, W) fit images (B, 3, H, W) of values 0 to 255."""
    if images.dim() != 4 or logits.dim() != 4 or (len(images), *images.shape[2:]) != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"images {tuple(images.shape)} and logits {tuple(logits.shape)} must be (B, 3, H, W) and (B, C, H, W) of "
            "one size: resize the logits, not the probabilities, to the images."
        )
    if logits.shape[1] < 2:
        raise ValueError("logits have 1 class, and there is nothing to choose: stack zeros (background) before them.")
    if logits.amin() >= 0 and (logits.float().sum(1) - 1).abs().amax() < 0.01:
        raise ValueError(
            "logits lie in 0 .. 1 and sum to 1 over the classes, so they are probabilities: pass their logarithms, "
            "probabilities.clamp(min=1e-8).log()."
        )
    if images.is_floating_point() and not (images.amin() >= 0 and images.amax() > 1):
        raise ValueError(
            f"images lie in {images.amin():.3g} .. {images.amax():.3g}, but sigma_beta is in grey levels of 0 .. 255: "
            "pass uint8, or undo the normalisation and multiply by 255."
        )


class DenseCRF(nn.Module):
    """Mean-field inference in a fully connected CRF. It has no parameters, and no gradient passes through it.

    Args:
        iterations: of mean field; 0 returns the softmax.
        w1: weight of the appearance kernel, near and of like colour.
        sigma_alpha: its reach in pixels.
        sigma_beta: its tolerance of colour, on the scale 0 to 255.
        w2: weight of the smoothness kernel, near whatever the colour.
        sigma_gamma: its reach in pixels.
        normalization: "symmetric" or "none" (see the ledger).
        method: "fast", or "exact", which holds a number for every pair of pixels.

    Raises:
        ValueError: an unknown normalization or method, or a sigma that is not positive.
    """

    def __init__(
        self,
        *,
        iterations: int = 10,
        w1: float = 5.0,
        sigma_alpha: float = 50.0,
        sigma_beta: float = 10.0,
        w2: float = 3.0,
        sigma_gamma: float = 3.0,
        normalization: str = "symmetric",
        method: str = "fast",
    ):
        super().__init__()
        for name, value, known in (
            ("normalization", normalization, ("symmetric", "none")),
            ("method", method, ("fast", "exact")),
        ):
            if value not in known:
                raise ValueError(f'{name} is "{value}"; choose "{known[0]}" or "{known[1]}".')
        if min(sigma_alpha, sigma_beta, sigma_gamma) <= 0:
            raise ValueError(f"sigmas are {sigma_alpha}, {sigma_beta}, {sigma_gamma}; each must be above 0.")
        self.iterations, self.w1, self.w2 = iterations, w1, w2
        self.sigma_alpha, self.sigma_beta, self.sigma_gamma = sigma_alpha, sigma_beta, sigma_gamma
        self.symmetric, self.kernel = normalization == "symmetric", FastKernel if method == "fast" else ExactKernel

    def messages(self, image: Tensor, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from beliefs (HW, C) to the weighted sum of what all other pixels say (HW, C)."""
        parts: list[tuple[float, Callable[[Tensor], Tensor]]] = []
        if self.w1:
            parts.append((self.w1, self.kernel(pixel_features(image, self.sigma_alpha, self.sigma_beta))))
        if self.w2:
            parts.append((self.w2, SpatialKernel(image.shape[1:], self.sigma_gamma, device)))
        ones = torch.ones(image[0].numel(), 1, device=device)
        roots = [(1 + kernel(ones)).rsqrt() if self.symmetric else ones for _, kernel in parts]  # D^-1/2, (HW, 1)

        def send(belief: Tensor) -> Tensor:
            sent = (w * root * kernel(root * belief) for (w, kernel), root in zip(parts, roots, strict=True))
            return sum(sent, torch.zeros_like(belief))

        return send

    @torch.no_grad()
    def steps(self, image: Tensor, logits: Tensor) -> Iterator[Tensor]:
        """image (3, H, W), 0 to 255, and logits (C, H, W) to Q (C, H, W) before and after each iteration."""
        unary, send = logits.float(), self.messages(image.float(), logits.device)
        belief = unary.softmax(0)  # a constant per pixel, such as the difference to log-probabilities, drops out
        yield belief
        for _ in range(self.iterations):
            message = send(belief.flatten(1).T.contiguous())  # (HW, C)
            belief = (unary + message.T.reshape(unary.shape)).softmax(0)  # (C, H, W)
            yield belief

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """images (B, 3, H, W), 0 to 255, and logits (B, C, H, W) to probabilities (B, C, H, W)."""
        check_pair(images, logits)
        return torch.stack([list(self.steps(*pair))[-1] for pair in zip(images, logits, strict=True)])


PRESETS: dict[str, dict[str, Any]] = {
    "deeplab_v1": {},  # w2 and sigma_gamma as published, the others within the published ranges of the search
    "deeplab_v2_vgg16": {"w1": 4.0, "sigma_alpha": 65.0, "sigma_beta": 3.0, "w2": 2.0, "sigma_gamma": 2.0},
    "deeplab_v2_resnet101": {"w1": 4.0, "sigma_alpha": 67.0, "sigma_beta": 3.0, "w2": 3.0, "sigma_gamma": 1.0},
}
