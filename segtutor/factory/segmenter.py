"""The model that the factory builds: a backbone, a head, and logits at the size of the images."""

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segtutor.factory.backbones.registry import Features, build_backbone
from segtutor.factory.config import ConfigError, ModelConfig
from segtutor.factory.heads.base import HeadOutput, build_head
from segtutor.factory.heads.fcn import FCNHead
from segtutor.factory.parse import parse_config
from segtutor.factory.saved import read_model, upload, write_model
from segtutor.layers import check_auxiliary, check_images, resize


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
        value_range: the values in image files that became 0 and 1.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...] = ()
    ignore_index: int = 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: tuple[int, int] | None = None
    value_range: tuple[float, float] = (0.0, 255.0)

    @classmethod
    def of(cls, spec: Any, input_size: tuple[int, int] | None = None) -> "ModelInfo":
        """What a data set's spec knows."""
        palette = tuple(tuple(color) for color in spec.palette)
        size = None if input_size is None else tuple(input_size)
        values = tuple(getattr(spec, "value_range", cls.value_range))
        return cls(tuple(spec.classes), palette, spec.ignore_index, tuple(spec.mean), tuple(spec.std), size, values)

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
        self.auxiliary = FCNHead((channels[2],) * 4, strides, config.num_classes) if config.auxiliary else None

    def forward_features(self, images: Tensor) -> tuple[Features, HeadOutput]:
        """Everything before the final resize: the four maps, and logits and embedding at the head's stride."""
        check_images(images, self.in_channels)
        features = self.backbone(images)
        return features, self.head(features)

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """images (B, C, H, W) to logits (B, num_classes, H, W).

        Args:
            images: to score.
            auxiliary: return ``(logits, auxiliary_logits)``, both (B, num_classes, H, W), as training needs them.

        Raises:
            ValueError: auxiliary logits of a model that was built without an auxiliary head.
        """
        check_auxiliary(auxiliary, self.auxiliary)
        features, output = self.forward_features(images)
        logits = resize(output.logits, images.shape[2:])  # (B, num_classes, H, W)
        if not auxiliary:
            return logits
        coarse = self.auxiliary(features._replace(c4=features.c3)).logits  # (B, num_classes, H/16, W/16)
        return logits, resize(coarse, images.shape[2:])  # (B, num_classes, H, W) twice

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``model.safetensors`` and ``config.json`` into a folder, each complete or not at all.

        Args:
            folder: made where it is missing.

        Returns:
            The folder.
        """
        return write_model(folder, self.config.to_dict(), dataclasses.asdict(self.info), self.state_dict())

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
        folder, facts, tensors = read_model(name)
        plain = {**facts["config"], "seed": None, "device": None}
        if "pretrained" in plain["backbone"]:  # its weights are in the folder
            plain["backbone"] = {**plain["backbone"], "pretrained": False}
        model = cls(parse_config(plain))
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
        with tempfile.TemporaryDirectory() as folder:
            return upload(self.save_pretrained(folder), name, private=private, token=token)


def _kept(config: Mapping) -> dict:
    """Settings of a saved configuration that say where its weights came from, not what to build."""
    return {"backbone": _tuples_in(config["backbone"]), "seed": config.get("seed")}


def _tuples_in(section: Mapping) -> dict:
    return {key: _tuples(value) for key, value in section.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
