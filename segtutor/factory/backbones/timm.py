"""timm's networks as backbones; the one file of the package that imports timm."""

import contextlib
import copy
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from segtutor.factory.backbones.norms import KeepsActivations, adapt_norms
from segtutor.factory.backbones.packaged import PACKAGES, packaged_weights
from segtutor.factory.backbones.pretrained import check_connection, check_names, local_weights, unreachable
from segtutor.factory.backbones.registry import STRIDES, Backbone, Features, Statistics
from segtutor.factory.config import ConfigError
from segtutor.factory.messages import suggest
from segtutor.layers import crop, pad_to_multiple, rounded_up
from segtutor.weights.notices import licence_notice


def _say_licence(name: str, licence: str | None) -> None:
    terms = f"licence {licence}" if licence else "no licence stated: ask their authors before you publish or sell"
    licence_notice(f"{name}: pretrained weights by way of timm, {terms}.")


@contextlib.contextmanager
def _no_word_of_the_classifier() -> Iterator[None]:
    """Keep timm from warning that a backbone does not use the weights of the classifier."""
    builder = logging.getLogger("timm.models._builder")

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Unexpected keys")

    builder.addFilter(wanted)
    try:
        yield
    finally:
        builder.removeFilter(wanted)


def published(name: str) -> dict[str, Any]:
    """What timm knows of the weights that were published for a network: size of its images, licence, classifier.

    Args:
        name: timm's name of the network, or "hf-hub:owner/name" for one whose configuration is on the Hugging Face hub.

    Raises:
        ConfigError: the hub could not be reached, or holds no such network.
    """
    import timm

    _, of_hub, repository = name.partition(":")
    if not of_hub:
        known = timm.models.get_pretrained_cfg(name)
        return {} if known is None else known.to_dict()
    reason = unreachable(repository, ("config.json",))
    if reason:
        raise ConfigError(f"backbone.name: {name} is not on this machine, and the hub cannot be reached ({reason}).")
    try:
        with torch.device("meta"):
            network: Any = timm.create_model(name)
            return dict(network.pretrained_cfg)
    except Exception as error:  # offline, no such repository, no network of timm in it: each has a type of its own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"backbone.name: {name} could not be read from the hub ({reason}): connect to the internet once, or choose "
            "a name that timm knows."
        ) from None


def timm_network(name: str, in_channels: int, pretrained: bool | str = False, **options: Any) -> Any:
    """Build a timm network, with random, published or local weights, and never one for another.

    Args:
        name: timm's name of the network.
        in_channels: channels of the images; weights of the first layer are adapted.
        pretrained: False, True (timm's default weights, downloaded once) or the path of a weights file.
        options: passed on to timm.

    Returns:
        The network; of what timm's networks have beside layers, torch's types know nothing.

    Raises:
        ConfigError: weights that cannot be had or do not fit.
    """
    import timm  # costs seconds to import, so only when a backbone is built

    known = published(name) if pretrained else {}
    weights: dict[str, Any] = {"pretrained": pretrained is True}
    packaged = None
    if pretrained is True and name in PACKAGES and PACKAGES[name].path() is not None:
        with torch.device("meta"):
            packaged = packaged_weights(name, timm.create_model(name))
    if packaged is not None:
        weights["pretrained_cfg_overlay"] = {"state_dict": packaged}
    elif isinstance(pretrained, str):
        tensors = local_weights(pretrained)
        with torch.device("meta"):
            names = timm.create_model(name).state_dict()
        classifier = known.get("classifier") or ()
        spare = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        check_names(tensors, names, pretrained, name, spare)
        weights = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
    elif pretrained and not any(known.get(source) for source in ("url", "file", "hf_hub_id")):
        raise ConfigError(f"backbone.pretrained: nobody published weights of {name}; use false, or the path of a file.")
    elif pretrained:
        check_connection(known.get("hf_hub_id"), name)
    try:
        with _no_word_of_the_classifier():
            network = timm.create_model(name, in_chans=in_channels, **weights, **options)
    except Exception as error:
        if pretrained is False:
            raise
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"backbone.pretrained: the weights of {name} could not be fetched or do not fit ({reason}): connect to "
            "the internet once, give the path of a local file, or use false."
        ) from error
    if pretrained is True and packaged is None:
        _say_licence(name, known.get("license"))
    return adapt_norms(network)


def _statistics(network: nn.Module) -> Statistics | None:
    known = getattr(network, "pretrained_cfg", None) or {}
    if not known.get("mean") or not known.get("std"):
        return None
    return Statistics(tuple(known["mean"]), tuple(known["std"]))


class TimmBackbone(KeepsActivations, Backbone):
    """A timm network behind the interface of this package.

    Args:
        name: timm's name of the network.
        in_channels: channels of the images.
        pretrained: False, True (timm's default weights, downloaded once) or the path of a weights file.
        output_stride: 32, or 16 or 8 to dilate instead of striding.
        out_indices: which of timm's maps are c1 .. c4.
        multiple: pad images to sides that are multiples of this, and cut the maps to size again.
        options: passed on to timm.

    Attributes:
        channels: channel counts of c1 .. c4.
        strides: output strides of c1 .. c4.
        statistics: what images are normalised by for the published weights; None: timm does not say.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        *,
        pretrained: bool | str = False,
        output_stride: int = 32,
        out_indices: tuple[int, ...] = (1, 2, 3, 4),
        multiple: int = 1,
        **options: Any,
    ):
        super().__init__()
        if output_stride != 32:  # networks without the option need not be asked for what they do anyway
            options["output_stride"] = output_stride
        self.network: Any = timm_network(
            name, in_channels, pretrained, features_only=True, out_indices=out_indices, **options
        )
        self.statistics = _statistics(self.network)
        self.multiple = multiple
        self.channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        self.channels = tuple(self.network.feature_info.channels())
        self.strides = tuple(self.network.feature_info.reduction())

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        maps = self.network(images if self.multiple == 1 else pad_to_multiple(images, self.multiple))
        if self.channels_last:
            maps = [map_.permute(0, 3, 1, 2) for map_ in maps]  # (B, h, w, C) to (B, C, h, w)
        if self.multiple > 1:
            height, width = images.shape[2:]
            sizes = [(rounded_up(height, stride), rounded_up(width, stride)) for stride in self.strides]
            maps = [crop(map_, size) for map_, size in zip(maps, sizes, strict=True)]
        return Features(*maps)


class ResNetV2Backbone(KeepsActivations, Backbone):
    """timm's pre-activation ResNet: what leaves its stages are raw sums, so each is normalised and activated here.

    c4 goes through the network's own last normalisation. c1 .. c3 get copies of the one that the next stage reads
    them through, so that with pretrained weights a head sees what that stage sees.
    """

    def __init__(self, name: str, in_channels: int, *, pretrained: bool | str = False, output_stride: int = 32):
        super().__init__()
        dilation = {} if output_stride == 32 else {"output_stride": output_stride}
        self.network: Any = timm_network(name, in_channels, pretrained, num_classes=0, **dilation)
        self.statistics = _statistics(self.network)
        self.norms = nn.ModuleList(copy.deepcopy(stage.blocks[0].norm1) for stage in self.network.stages[1:])
        self.channels = tuple(info["num_chs"] for info in self.network.feature_info[1:])
        self.strides = tuple(info["reduction"] for info in self.network.feature_info[1:])

    def leave_unread(self, levels: Collection[int]) -> None:
        """Take the norms of maps that nobody reads, 0 for c1, out of training, where they would get no gradients."""
        for level in set(levels) & {0, 1, 2}:
            self.norms[level].requires_grad_(False)

    def forward(self, images: Tensor) -> Features:
        """images (B, in_channels, H, W) to the four maps."""
        x, maps = self.network.stem(images), []
        for stage, norm in zip(self.network.stages, [*self.norms, self.network.norm], strict=True):
            x = stage(x)
            maps.append(norm(x))
        return Features(*maps)


RESERVED = {"features_only", "in_chans", "multiple", "num_classes", "out_indices", "output_stride", "strict_img_size"}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse arguments of timm that are not the user's to give."""
    for key in options:
        if key in RESERVED or key.startswith(("pretrained", "checkpoint")):
            raise ConfigError(f"backbone.options.{key}: the other keys of the configuration decide it; leave it out.")


def timm_options(name: str, output_stride: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a timm network give four maps of images of any size, found by trying, on the meta device.

    Args:
        name: timm's name of the network.
        output_stride: that its last map shall have.
        options: further arguments for timm.

    Raises:
        ConfigError: timm has no such network, or it cannot be made to.
    """
    try:
        options_text = json.dumps(options, sort_keys=True)
    except TypeError as error:
        raise ConfigError(f"backbone.options: {error}; a configuration holds numbers, text and lists.") from None
    return dict(_found_options(name, output_stride, options_text))


@cache
def _found_options(name: str, output_stride: int, options_text: str) -> dict[str, Any]:
    import timm

    given: dict[str, Any] = json.loads(options_text)
    if ":" not in name and not timm.is_model(name):
        raise ConfigError(f"backbone.name: timm has no '{name}'; {suggest(name, timm.list_models())}")
    usual = published(name).get("input_size", (3, 224, 224))[-1]
    with torch.device("meta"):
        options = {**given, "strict_img_size": False}  # of Swin and its kin; the others do not know it
        try:
            network: Any = timm.create_model(name, features_only=True, **options)
        except Exception:  # networks differ in how they refuse
            options = given
            network = _maps_or_error(name, given)
        reductions = [info["reduction"] for info in network.feature_info.info]
        if not set(STRIDES) <= set(reductions):
            has = ", ".join(map(str, sorted(set(reductions))))
            raise ConfigError(f"backbone.name: {name} has maps at strides {has}, and a backbone needs 4, 8, 16 and 32.")
        last = {stride: index for index, stride in enumerate(reductions)}
        options = {**options, "out_indices": tuple(last[stride] for stride in STRIDES)}
        if output_stride != 32:
            _check_dilates(name, output_stride, **options)
        return options | {"multiple": _smallest_multiple(TimmBackbone(name, 3, **options), usual, name)}


def _maps_or_error(name: str, options: Mapping[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, features_only=True, **options)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if options:
            _maps_or_error(name, {})  # the options are to blame, or the network
            raise ConfigError(f"backbone.options: timm's {name} refuses {dict(options)} ({reason}).") from None
        raise ConfigError(f"backbone.name: {name} cannot give four maps ({reason}); choose another network.") from None


def _check_dilates(name: str, output_stride: int, **options: Any) -> None:
    wanted = tuple(min(stride, output_stride) for stride in STRIDES)
    with contextlib.suppress(Exception):
        if TimmBackbone(name, 3, output_stride=output_stride, **options).strides == wanted:
            return
    raise ConfigError(
        f"backbone.output_stride: {name} cannot be dilated to {output_stride}; resnet, resnetv2, mobilenetv2, "
        "efficientnet_lite and convnext can."
    )


@torch.no_grad()
def _smallest_multiple(backbone: TimmBackbone, usual: int, name: str) -> int:
    """The least of a few numbers whose multiples the network takes as sides of images."""
    backbone.eval()
    for multiple in (1, 32, 64, usual):
        with contextlib.suppress(Exception):
            if all(_maps_fit(backbone, size, multiple) for size in ((33, 47), (32, 65 + multiple))):
                return multiple
    raise ConfigError(f"backbone.name: {name} gives no four maps of images of every size; choose another network.")


def _maps_fit(backbone: TimmBackbone, size: tuple[int, int], multiple: int) -> bool:
    """Whether an image gives maps of the promised channels and, give or take one, the promised sizes."""
    padded = [-(-side // multiple) * multiple for side in size]
    features = backbone(torch.empty(1, 3, *padded))
    return all(
        map_.shape[1] == channels
        and all(0 <= -(-side // stride) - got <= 1 for side, got in zip(padded, map_.shape[2:], strict=True))
        for map_, channels, stride in zip(features.maps, backbone.channels, backbone.strides, strict=True)
    )


@torch.no_grad()
def check_larger_images(backbone: TimmBackbone, name: str, in_channels: int) -> None:
    """Refuse a network whose tables of positions end at the size of the images that it was published for.

    The meta device, on which all else is found out, looks nothing up in a table. A network that is padded to whole
    windows of the published size has its tables for each window, and need not be tried.

    Raises:
        ConfigError: it fails at a larger image.
    """
    known = published(name)
    usual = known.get("input_size", (3, 224, 224))[-1]
    first = next(backbone.parameters())
    if not known.get("fixed_input_size") or backbone.multiple >= usual or first.is_meta:
        return
    training = backbone.training
    try:
        backbone.eval()(torch.zeros(1, in_channels, usual + 1, 32, device=first.device, dtype=first.dtype))
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"backbone.name: {name} fails at images of more than {usual} pixels ({reason}); choose another network."
        ) from None
    finally:
        backbone.train(training)
