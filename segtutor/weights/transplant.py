"""Copying tensors from one network into another, all or nothing, with a report of what was done."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segtutor.weights.keymap import KeyMap, Parts, Tensors, find_map, kind_of, parts_of

WRAPPERS = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name


@dataclass(frozen=True)
class Report:
    """What `transplant` did; it prints as a short table.

    Attributes:
        loaded: pairs (name in the source, name in the target).
        skipped: names in the source that are not used.
        reinitialized: names in the target that keep their own initialisation.
        adapted: names among those loaded whose weights for RGB images were fitted to another number of channels.
    """

    loaded: tuple[tuple[str, str], ...]
    skipped: tuple[str, ...] = ()
    reinitialized: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"loaded         {len(self.loaded)} tensors"]
        for kind in ("skipped", "reinitialized", "adapted"):
            lines += [f"{kind:<15}{', '.join(names)}"] if (names := getattr(self, kind)) else []
        return "\n".join(lines)


def unwrapped(tensors: Tensors) -> Tensors:
    """A state dict without the prefix that DistributedDataParallel or torch.compile put before all of its names."""
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrapped({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def transplant(source: nn.Module | Mapping[str, Tensor], target: nn.Module) -> Report:
    """Copy the tensors of a reference network, or of a model of the same class, into one of the from-scratch models.

    Another number of classes is allowed: layers that score classes then keep their own initialisation. So is another
    number of image channels than three: weights for RGB images are summed for one channel, else repeated and scaled.

    Args:
        source: the network, or its state dict.
        target: the model to fill, in place; dtype and device stay the target's.

    Returns:
        Report: what was loaded, skipped, reinitialized and adapted.

    Raises:
        ValueError: no map for this pair, a tensor on either side that the map does not mention, or a shape that
            differs. The target is then unchanged.
    """
    tensors = unwrapped(source.state_dict() if isinstance(source, nn.Module) else source)
    own, parts = target.state_dict(), parts_of(target)
    key_map = _own_map(tensors, own, parts) or find_map(kind_of(tensors), target)
    tensors = key_map.prepare(tensors)
    places = {name: key_map.rename(name) for name in tensors}
    pairs = {n: p for n, p in places.items() if p is not None and (p in own or not _may_lack(p, own, key_map, parts))}
    if nowhere := [name for name, place in pairs.items() if place not in own]:
        raise ValueError(f"The source's {_some(nowhere)} have no place in the target: is it the same architecture?")
    values = {name: _fitted(tensors[name], place, own[place].shape, key_map, parts) for name, place in pairs.items()}
    for name in _of_other_classes(values, pairs, own, parts):
        del pairs[name], values[name]
    skipped = tuple(name for name in places if name not in pairs)
    reinitialized = tuple(place for place in own if place not in set(pairs.values()))
    _check_rest([places[name] for name in skipped], reinitialized, key_map, parts)
    for name, place in pairs.items():
        _check_shape(name, values[name], place, own[place])
    target.load_state_dict({place: values[name] for name, place in pairs.items()}, strict=False)
    adapted = tuple(p for n, p in pairs.items() if p == parts.stem and tensors[n].shape[1] != own[p].shape[1])
    return Report(tuple(pairs.items()), skipped, reinitialized, adapted)


def _own_map(tensors: Tensors, own: Tensors, parts: Parts) -> KeyMap | None:
    """The map of a source that is named as the target, but for layers that either may lack or have replaced."""
    special = f"{parts.scores}|{parts.optional}"
    fixed, wanted = ({name for name in names if not re.match(special, name)} for names in (tensors, own))
    if not wanted or fixed != wanted:
        return None
    return KeyMap(lambda name: name, reinitialized=special, optional=parts.optional)


def _may_lack(place: str, own: Tensors, key_map: KeyMap, parts: Parts) -> bool:
    """Whether the target may lack this name: a replaced scoring layer, or a part that it was built without."""
    part = re.match(key_map.optional, place)
    missing = part is not None and not any(name.startswith(part[0]) for name in own)
    return missing or re.match(parts.scores, place) is not None


def _fitted(tensor: Tensor, place: str, wanted: torch.Size, key_map: KeyMap, parts: Parts) -> Tensor:
    """A source's tensor in the form that its place needs."""
    layer = place.rpartition(".")[0]
    if re.match(key_map.reshape, place) and tensor.numel() == wanted.numel() and tensor.shape[0] == wanted[0]:
        # A fully connected layer reads a flattened (C, h, w) map: the same order that a kernel is stored in.
        return tensor.reshape(wanted)
    if layer in key_map.subsample:
        return _subsampled(tensor, wanted, key_map.subsample[layer])
    if place == parts.stem and tensor.dim() == len(wanted) == 4 and tensor.shape[1] == 3 != wanted[1]:
        return _for_channels(tensor, wanted[1])
    return tensor


def _subsampled(tensor: Tensor, wanted: torch.Size, side: int) -> Tensor:
    """A dense layer's tensor as a convolution's, thinned out evenly along each axis, the first and the last kept."""
    if tensor.dim() == 2:
        tensor = tensor.unflatten(1, (-1, side, side))  # (out, in, side, side)
    if tensor.dim() != len(wanted) or any(size > there for size, there in zip(wanted, tensor.shape, strict=True)):
        return tensor  # refused by whoever compares the shapes
    for axis, size in enumerate(wanted):
        kept = torch.linspace(0, tensor.shape[axis] - 1, size, dtype=torch.float64).round().long()
        tensor = tensor.index_select(axis, kept.to(tensor.device))
    return tensor


def _for_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weight for RGB images (out, 3, k, k) as one for so many channels, as timm makes it."""
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)  # a grey image as RGB has the same value three times
    # Scaled, so that a layer sees sums of the same size as before.
    return weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels] * (3 / channels)


def _of_other_classes(values: Tensors, pairs: Mapping[str, str], own: Tensors, parts: Parts) -> list[str]:
    """Names of the source whose layer scores another number of classes than that of the target."""
    scoring = {name: place for name, place in pairs.items() if re.match(parts.scores, place)}
    other = {place.rpartition(".")[0] for n, place in scoring.items() if values[n].shape != own[place].shape}
    return [name for name, place in scoring.items() if place.rpartition(".")[0] in other]


def _check_rest(skipped: list[str | None], reinitialized: tuple[str, ...], key_map: KeyMap, parts: Parts) -> None:
    """Raise ValueError for a tensor of the target that should have found one in the source."""
    scores_differ = any(place is not None and re.match(parts.scores, place) for place in skipped)
    allowed = f"{key_map.reinitialized}|{parts.scores}" if scores_differ else key_map.reinitialized
    if missing := [place for place in reinitialized if not re.match(allowed, place)]:
        raise ValueError(f"The target's {_some(missing)} find no tensor in the source: is it the same architecture?")


def _check_shape(name: str, value: Tensor, place: str, wanted: Tensor) -> None:
    """Raise ValueError where a source's tensor does not have the shape of its place."""
    if value.shape != wanted.shape:
        raise ValueError(
            f"{name} is {tuple(value.shape)} in the source, but {place} is {tuple(wanted.shape)} in the target: "
            "build the target with the source's widths and in_channels."
        )


def _some(names: list[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
