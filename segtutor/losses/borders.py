"""U-Net's border weights: cross-entropy that counts most where two cells nearly touch, and the map of those places."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segtutor.losses.base import SegmentationLoss
from segtutor.losses.class_weights import checked_weights, weight_per_class
from segtutor.losses.tensors import class_scores, mean


class BorderWeightedLoss(SegmentationLoss):
    r"""Cross-entropy in which the narrow gaps between two touching cells count most.

    .. math:: L = \operatorname{mean}_i \; w_i \, (-\log p_i[y_i]), \qquad
              w_i = w_{y_i} + w_0 \exp\!\left(-\frac{(d_{1,i} + d_{2,i})^2}{2 \sigma^2}\right)

    d1 and d2 are the distances in pixels to the nearest and to the second nearest cell. Ronneberger et al. 2015
    (U-Net, section 3, equation 2); here it is the mean over the pixels that are not void where the paper has the sum.
    :func:`border_weight_map` says what a cell is in a class mask. The map is made on the CPU and kept for masks that
    come again, so on CUDA this loss makes the host wait.

    Args:
        w0: extra weight of a pixel in a gap of width 0.
        sigma: width of the gaps that matter, in pixels.
        weight: w of each class, 1 unless given (binary: for 0 and for 1).
        border_classes: the classes that lie between cells: background, membrane.
        cache_size: how many maps to keep; 0: none.
    """

    weight: Tensor | None

    def __init__(
        self,
        task: str = "multiclass",
        *,
        w0: float = 10.0,
        sigma: float = 5.0,
        weight: Sequence[float] | Tensor | None = None,
        border_classes: Sequence[int] = (0,),
        ignore_index: int | None = 255,
        cache_size: int = 256,
    ):
        super().__init__(task, ignore_index=ignore_index)
        if task == "multilabel" or w0 < 0 or sigma <= 0:
            raise ValueError(
                "BorderWeightedLoss needs task 'multiclass' or 'binary', w0 of at least 0 and sigma above 0; "
                f"got task={task!r}, w0={w0}, sigma={sigma}"
            )
        if cache_size < 0:
            raise ValueError(f"cache_size is {cache_size}; choose 0 to keep no map, or how many")
        self.register_buffer("weight", checked_weights(weight, "weight"))
        self.w0, self.sigma, self.border_classes = w0, sigma, tuple(border_classes)
        self.cache_size = cache_size
        self._maps: OrderedDict[bytes, Tensor] = OrderedDict()

    def compute(self, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        scores = class_scores(logits, self.task)  # (B, K, H, W)
        surprise = F.cross_entropy(scores, target, reduction="none")  # (B, H, W)
        masks = zip(target.cpu(), valid.cpu(), strict=True)
        border = torch.stack([self._map(mask, known) for mask, known in masks]).to(surprise)  # (B, H, W)
        return mean(surprise * (weight_per_class(self.weight, scores)[target] + border), valid, valid)

    def _map(self, mask: Tensor, known: Tensor) -> Tensor:
        """The map of one mask (H, W), from the cache if this mask was seen before."""
        mask = mask.masked_fill(~known, -1)
        key = hashlib.blake2b(mask.numpy().tobytes() + repr(mask.shape).encode()).digest()
        if key not in self._maps:
            self._maps[key] = border_weight_map(
                mask, w0=self.w0, sigma=self.sigma, border_classes=self.border_classes, ignore_index=-1
            )
        self._maps.move_to_end(key)
        found = self._maps[key]
        while len(self._maps) > self.cache_size:
            self._maps.popitem(last=False)
        return found


def border_weight_map(
    mask: Tensor,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    border_classes: Sequence[int] = (0,),
    ignore_index: int | None = 255,
) -> Tensor:
    """U-Net's border term for one class mask (Ronneberger et al. 2015, section 3, equation 2, without w_c).

    The paper has a list of cells; a class mask has none. Here a cell is a connected component of everything that is
    neither a border class nor void, so a mitochondrion belongs to the cell around it. Components connect through pixel
    sides, not corners, so a diagonal membrane one pixel wide separates. The term goes to pixels of the border classes
    only, since those are the gaps. Distances are Euclidean, to the nearest pixel *of* the cell: 1 for its neighbour.
    With fewer than two cells there is no gap, and the map is 0.

    Args:
        mask: integer labels, (H, W).
        w0: weight for d1 + d2 = 0.
        sigma: in pixels.
        border_classes: labels of what lies between cells.
        ignore_index: label of void pixels; they are no cell and no gap, and get 0.

    Returns:
        float32 (H, W) on the CPU, between 0 and w0. Terms below w0 * exp(-18), from d1 + d2 > 6 sigma, are left at 0.
    """
    import numpy as np
    from scipy import ndimage

    labels = mask.cpu().numpy()
    gap = np.isin(labels, border_classes)  # (H, W)
    void = np.zeros_like(gap) if ignore_index is None else labels == ignore_index
    gap &= ~void
    cells, _ = ndimage.label(~gap & ~void)  # (H, W): 0 for no cell, else the number of the cell
    reach = int(np.ceil(6 * sigma))  # beyond it the term is nothing, so each cell needs a look at its surroundings only
    d1, d2 = (np.full(labels.shape, np.inf) for _ in range(2))
    for number, box in enumerate(ndimage.find_objects(cells), start=1):
        around = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        d = ndimage.distance_transform_edt(cells[around] != number)
        d2[around] = np.minimum(d2[around], np.maximum(d, d1[around]))
        d1[around] = np.minimum(d1[around], d)
    reached = gap & (d1 + d2 <= 6 * sigma)
    term = np.zeros(labels.shape, dtype=np.float32)
    term[reached] = w0 * np.exp(-((d1[reached] + d2[reached]) ** 2) / (2 * sigma**2))
    return torch.from_numpy(term)
