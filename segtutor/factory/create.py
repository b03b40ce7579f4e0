"""A model from a configuration: backbone, head, logits at the size of the images; saved and loaded as one folder.

The one file of the factory that imports segmentation_models_pytorch, whose decoders serve as heads.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import segtutor
from segtutor.factory.backbones import (
    Features,
    build_backbone,
    list_backbone_names,
    list_backbones,
    parse_backbone,
)
from segtutor.factory.config import ConfigError, Count, ModelConfig, parse, read_config, shipped_configs, suggest
from segtutor.factory.heads import HEADS, HeadOutput, build_head, parse_head, register_head
from segtutor.factory.heads.context import rates_at
from segtutor.layers import BatchNorm2d, check_images, conv_norm_relu, resize

_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class ModelInfo:
    """What a trained model must say about its images and its labels, so that anyone can use it.

    Attributes:
        classes: names, in the order of the labels.
        palette: one RGB colour in 0-255 per class; () where nobody chose any.
        ignore_index: the label of void pixels.
        mean: of each channel of images in [0, 1]; the model's images are (image - mean) / std.
        std: of each channel.
        input_size: (height, width) of the images that it was trained on; None: unknown.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...] = ()
    ignore_index: int = 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, spec: Any, input_size: tuple[int, int] | None = None) -> "ModelInfo":
        """What a data set's spec knows."""
        palette = tuple(tuple(color) for color in spec.palette)
        size = None if input_size is None else tuple(input_size)
        return cls(tuple(spec.classes), palette, spec.ignore_index, tuple(spec.mean), tuple(spec.std), size)

    @classmethod
    def unknown(cls, num_classes: int, in_channels: int) -> "ModelInfo":
        """Names and statistics to go on with where there is no data set: ImageNet's for colour images."""
        names = tuple(f"class {i}" for i in range(num_classes))
        if in_channels == 3:
            return cls(names)
        return cls(names, mean=(0.5,) * in_channels, std=(0.5,) * in_channels)


class SegmentationModel(nn.Module):
    """A backbone and a head: images (B, C, H, W), sides of 32 pixels or more, to logits (B, num_classes, H, W).

    Args:
        config: the checked configuration that it is built from.
        info: what it knows of images and labels.

    Attributes:
        config, info: as given; ``save_pretrained`` writes them beside the weights.
        backbone: images to `Features`.
        head: `Features` to `HeadOutput`.
        auxiliary: None, or the plain head on c3.
    """

    def __init__(self, config: ModelConfig, info: ModelInfo | None = None):
        super().__init__()
        self.config = config
        self.info = ModelInfo.unknown(config.num_classes, config.in_channels) if info is None else info
        self.in_channels = config.in_channels
        self.backbone = build_backbone(config.backbone, config.in_channels)
        channels, strides = self.backbone.channels, self.backbone.strides
        self.head = build_head(config.head, channels, strides, config.num_classes)
        # The plain head reads a backbone's last map; shown c3 in its place, it is the auxiliary head of PSPNet's paper.
        fcn = HEADS["fcn"]
        self.auxiliary = fcn((channels[2],) * 4, strides, config.num_classes) if config.auxiliary else None

    def forward_head(self, images: Tensor) -> tuple[Features, HeadOutput]:
        """Everything before the final resize: the four maps, and logits and embedding at the head's stride."""
        check_images(images, self.in_channels)
        features = self.backbone(images)
        return features, self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) to logits (B, num_classes, H, W)."""
        _, output = self.forward_head(images)
        return resize(output.logits, images.shape[2:])  # (B, num_classes, H, W)

    def forward_with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, C, H, W) to logits and auxiliary logits, (B, num_classes, H, W) each, for training.

        Raises:
            ValueError: the model has no auxiliary head.
        """
        if self.auxiliary is None:
            raise ValueError("This model has no auxiliary head: set auxiliary: true, or call model(images).")
        features, output = self.forward_head(images)
        coarse = self.auxiliary(dataclasses.replace(features, c4=features.c3)).logits  # (B, num_classes, H/16, W/16)
        logits, auxiliary_logits = (resize(map_, images.shape[2:]) for map_ in (output.logits, coarse))
        return logits, auxiliary_logits  # (B, num_classes, H, W) twice

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``model.safetensors`` and ``config.json`` into a folder, each complete or not at all.

        Args:
            folder: made where it is missing.

        Returns:
            The folder.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "segtutor": segtutor.__version__,
            "config": self.config.to_dict(),
            "info": dataclasses.asdict(self.info),
        }
        config, weights = (folder / name for name in _FILES)
        with _whole(weights) as path:
            save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, path)
        with _whole(config) as path:
            path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def from_pretrained(cls, name: Path | str, *, device: str | None = None) -> "SegmentationModel":
        """Rebuild a saved model from its folder, or from a repository of the Hugging Face hub.

        Args:
            name: the folder, or the repository as "owner/name".
            device: where the model is put; None leaves it on the CPU.

        Returns:
            The model, in evaluation mode.

        Raises:
            ConfigError: the folder is missing or holds no saved model, or the hub could not be reached.
        """
        folder = Path(name) if Path(name).is_dir() else _from_hub(str(name))
        facts, tensors = _read_saved(folder)
        plain = {**facts["config"], "seed": None, "device": None}
        if "pretrained" in plain["backbone"]:  # its weights are in the folder
            plain["backbone"] = {**plain["backbone"], "pretrained": False}
        model = create_model(plain)
        model.config = dataclasses.replace(model.config, **_kept(facts["config"]))
        try:
            model.info = ModelInfo(**{key: _tuples(value) for key, value in facts["info"].items()})
            model.load_state_dict(tensors)
        except (RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{folder}: config.json and model.safetensors are not of one model: {reason}") from None
        return model.eval() if device is None else model.eval().to(device)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the saved model to the Hugging Face hub.

        Args:
            name: the repository as "owner/name"; made where it is missing.
            private: make it visible to its owner alone.
            token: of the hub; None takes the one of ``hf auth login``.

        Returns:
            The address of the commit.
        """
        import tempfile

        from huggingface_hub import HfApi

        hub = HfApi(token=token)
        repository = hub.create_repo(name, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Save the model"))


@contextlib.contextmanager
def _whole(path: Path):
    """A path beside ``path`` to write to, moved onto it at the end: a reader never meets half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # offline, no such repository, no such name: each has a type of its own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{name} is no folder, and could not be fetched from the hub ({reason}).") from None


def _read_saved(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config, weights = (folder / name for name in _FILES)
    for path in (config, weights):
        if not path.is_file():
            raise ConfigError(f"{folder} holds no saved model: {path.name} is missing.")
    try:
        facts, tensors = json.loads(config.read_text(encoding="utf-8")), load_file(weights)
        if not all(isinstance(facts[key], dict) for key in ("config", "info")):
            raise KeyError("config and info")
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{folder} holds no readable model ({error}): save it again, or fetch it again.") from None
    return facts, tensors


def _kept(config: Mapping) -> dict:
    """Settings of a saved configuration that say where its weights came from, not what to build."""
    return {"backbone": _tuples_in(config["backbone"]), "seed": config.get("seed")}


def _tuples_in(section: Mapping) -> dict:
    return {key: _tuples(value) for key, value in section.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def parse_config(config: Any, **settings) -> ModelConfig:
    """Check a configuration and fill in its defaults; see `create_model` for its forms."""
    if isinstance(config, str) and not config.endswith((".yaml", ".yml")) and config not in shipped_configs():
        config = expand(config)
    config = read_config(config)
    config = {**config.get("model", config), **settings} if isinstance(config.get("model", {}), Mapping) else config
    for name, check in (("backbone", parse_backbone), ("head", parse_head)):
        if name in config:
            config = {**config, name: check({name: config[name]})}
    return ModelConfig(**parse(ModelConfig, config, ""))


def expand(name: str) -> dict:
    """Read "resnet18-fcn" as the short name of a backbone and a head: the two sections that it stands for."""
    backbone, dash, head = name.rpartition("-")
    names = {**{name: {"type": name} for name in list_backbones()}, **list_backbone_names()}
    if not dash or not backbone or not head:
        raise ConfigError(
            f"config: '{name}' is not of the form 'backbone-head', such as 'resnet18-fcn', and no shipped "
            f"configuration; {suggest(name, [*shipped_configs(), *names])}"
        )
    if backbone not in names:
        raise ConfigError(f"config: '{backbone}' in '{name}' is no backbone; {suggest(backbone, names)}")
    return {"backbone": names[backbone], "head": {"type": head}}


def create_model(config: Any, *, info: ModelInfo | None = None, **settings) -> SegmentationModel:
    """Build a segmentation model.

    Args:
        config: a mapping or dataclass, the path of a YAML file, the name of a shipped configuration, or a backbone and
            a head such as "resnet18-fcn". A section ``model`` in it is taken in its place.
        info: what the model is to know of its images and labels; see `ModelInfo.of`.
        settings: top-level keys that replace the configuration's, such as ``num_classes=11``.

    Returns:
        A model from images (B, in_channels, H, W) to logits (B, num_classes, H, W).

    Raises:
        ConfigError: an unknown, missing or impossible setting, with its key path.

    Example:
        >>> model = create_model({
        ...     "backbone": {"type": "resnet", "depth": 18},
        ...     "head": {"type": "fcn"},
        ...     "num_classes": 11,
        ... })
        >>> model = create_model("resnet18-fcn", num_classes=11)
    """
    checked = parse_config(config, **settings)
    if info is not None and len(info.classes) != checked.num_classes:
        raise ConfigError(f"num_classes: {checked.num_classes}, but info names {len(info.classes)} classes.")
    with _seeded(checked.seed):
        model = SegmentationModel(checked, info)
    return model if checked.device is None else model.to(_device(checked.device))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: '{name}' cannot be used here ({reason}); leave it out for the CPU.") from None
    return device


@contextlib.contextmanager
def _seeded(seed: int | None):
    """The same weights for the same seed, and the caller's random numbers as if nothing had happened."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


# ------------------------------------------------------------------------------------------------------- smp's decoders


@dataclass(frozen=True)
class _Guest:
    """A decoder of segmentation_models_pytorch: its class, its own width, and which of the four maps it reads."""

    decoder: str
    width: int
    when: str
    in_strides: tuple[int, ...] = (4, 8, 16, 32)
    out_stride: int = 4


_U_SHAPED = ("unet", "unetplusplus", "manet", "linknet")
_GUESTS = {
    "unet": _Guest("unet.UnetDecoder", 64, "U-Net's skips on any backbone, where borders count more than context."),
    "unetplusplus": _Guest("unetplusplus.UnetPlusPlusDecoder", 64, "U-Net's skips made dense: finer, and much dearer."),
    "manet": _Guest("manet.MAnetDecoder", 64, "U-Net's skips, weighted by attention over positions and channels."),
    "linknet": _Guest("linknet.LinknetDecoder", 32, "Skips that are added, not laid beside: few parameters, quick."),
    "fpn": _Guest("fpn.FPNDecoder", 128, "To go on from weights of smp.FPN; otherwise take fpn."),
    "pspnet": _Guest("pspnet.PSPDecoder", 512, "To compare with smp.PSPNet; otherwise take psp.", (32,), 32),
    "deeplabv3plus": _Guest(
        "deeplabv3.DeepLabV3PlusDecoder", 256, "To go on from weights of smp.DeepLabV3Plus; otherwise aspp.", (4, 32)
    ),
    "upernet": _Guest("upernet.UPerNetDecoder", 256, "To go on from weights of smp.UPerNet; otherwise take uper."),
    "segformer": _Guest("segformer.SegformerDecoder", 256, "To go on from weights of smp.Segformer; else segformer."),
}


class SMPHead(nn.Module):
    """A decoder of segmentation_models_pytorch on the four maps, 1x1 classifier.

    These decoders enlarge by factors of two, so maps of other sizes are brought to a grid where that fits, and the
    result back to c1's size. U-shaped ones stop at c1: beyond it they read no map of the backbone.

    **When to use it.** To compare with a network of that library, to go on from its weights, or for its U-shapes.

    Args:
        channels, strides: of c1 .. c4.
        num_classes: classes to score.
        proj_dim: channels of the embedding; None: the decoder's own.

    Attributes:
        in_strides: nominal strides of the maps that it reads.
        out_stride: nominal stride of its logits.
        when: when to use it, in one line.
    """

    name: str

    def __init__(self, channels, strides, num_classes, *, proj_dim: Count | None = None):
        super().__init__()
        proj_dim = _GUESTS[self.name].width if proj_dim is None else proj_dim
        # smp's lists begin with the image and, but for U-shapes on four maps, a map of stride 2: here both are empty.
        self.empty = 1 if self.name in _U_SHAPED else 2
        self.factors = (8, 4, 2, 1)
        if self.name == "deeplabv3plus":  # enlarges c4 by 4, or by 2
            self.factors = (4, 2, 1, 1) if strides[3] > 8 else (2, 1, 1, 1)
        known = (0,) * self.empty + tuple(channels)
        self.decoder, width = _decoder(self.name, known, proj_dim, 4 * self.factors[0])
        self.fit = nn.Identity() if width == proj_dim else conv_norm_relu(width, proj_dim, kernel=1)
        self.classifier = nn.Conv2d(proj_dim, num_classes, 1)

    def arranged(self, features: Features) -> list[Tensor]:
        """The maps as smp lists them, those that it reads with sides in the ratios of ``factors``."""
        maps = list(features.maps)
        if self.out_stride == 4:
            least = [-(-side // self.factors[0]) for side in features.c1.shape[2:]]
            for level in (0, 3) if len(self.in_strides) == 2 else range(4):
                size = tuple(self.factors[level] * side for side in least)
                maps[level] = maps[level] if maps[level].shape[2:] == size else resize(maps[level], size)
        batch, _, height, width = maps[0].shape
        scales = (2,) if self.empty == 1 else (4, 2)
        return [maps[0].new_empty(batch, 0, scale * height, scale * width) for scale in scales] + maps

    def forward(self, features: Features) -> HeadOutput:
        """Four maps to logits and embedding at c1's stride, or c4's where only c4 is read."""
        embedding = self.fit(self.decoder(self.arranged(features)))  # (B, E, ~H/4, ~W/4)
        size = (features.c1 if self.out_stride == 4 else features.c4).shape[2:]
        embedding = embedding if embedding.shape[2:] == size else resize(embedding, size)  # (B, E, H/4, W/4)
        return HeadOutput(self.classifier(embedding), embedding)  # (B, num_classes, H/4, W/4)


def _decoder(name: str, channels: tuple[int, ...], width: int, stride: int) -> tuple[nn.Module, int]:
    """Build smp's decoder for a list of maps, c4 at ``stride``; also returns how many channels come out."""
    import importlib

    from segmentation_models_pytorch.base.initialization import initialize_decoder

    module, kind = _GUESTS[name].decoder.split(".")
    build = getattr(importlib.import_module(f"segmentation_models_pytorch.decoders.{module}.decoder"), kind)
    widths = (4 * width, 2 * width, width)
    atrous = {"output_stride": stride, "aspp_separable": True, "aspp_dropout": 0.5, "encoder_depth": 5}
    options = {
        "unet": {"decoder_channels": widths, "n_blocks": 3},
        "unetplusplus": {"decoder_channels": (*widths, width), "n_blocks": 4},
        "manet": {"decoder_channels": widths, "n_blocks": 3},
        "linknet": {"n_blocks": 3},
        "fpn": {},
        "pspnet": {"out_channels": width},
        "deeplabv3plus": {"out_channels": width, "atrous_rates": rates_at(stride, None), **atrous},
        "upernet": {"decoder_channels": width},
        "segformer": {"segmentation_channels": width},
    }[name]
    decoder = build(encoder_channels=list(channels), **options)
    if name == "unetplusplus":  # c1 has been read in the block before; the last one only enlarges and convolves
        decoder.blocks["x_0_3"] = nn.Identity()
    initialize_decoder(decoder)
    for layer in decoder.modules():
        if type(layer) is nn.BatchNorm2d:  # so that a single image can train on a 1x1 map
            layer.__class__ = BatchNorm2d
    return decoder, {"linknet": channels[-4], "fpn": 128}.get(name, width)


def _register_guests() -> None:
    for name, guest in _GUESTS.items():
        facts = {"name": name, "when": guest.when, "in_strides": guest.in_strides, "out_stride": guest.out_stride}
        head = type(f"SMP{guest.decoder.split('.')[1]}", (SMPHead,), {"__doc__": SMPHead.__doc__, **facts})
        register_head(f"smp:{name}")(head)


_register_guests()
