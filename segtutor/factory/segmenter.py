"""The model that the factory builds: a backbone, a head, and logits at the size of the images."""

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.fx
from torch import Tensor, nn

from segtutor.factory.backbones.freezing import Frozen, freeze
from segtutor.factory.backbones.registry import STRIDES, Features, Statistics, build_backbone
from segtutor.factory.config import ConfigError, ModelConfig
from segtutor.factory.heads.base import HeadOutput, build_head
from segtutor.factory.heads.fcn import FCNHead
from segtutor.factory.parse import parse_config
from segtutor.factory.saved import read_model, upload, write_model
from segtutor.layers import check_auxiliary, check_images, resize

torch.fx.wrap("check_images")  # one step of a traced graph, which looks at the images when it runs


@dataclass(frozen=True)
class ModelInfo:
    """What a trained model must say about its images and its labels, so that anyone can use it.

    Attributes:
        classes: names, in the order of the labels. A model with one logit has two: the background and the class.
        palette: one RGB colour in 0-255 per class; () where nobody chose any.
        ignore_index: the label of void pixels.
        mean: of each channel of images in [0, 1]; the model's images are (image - mean) / std.
        std: of each channel.
        input_size: (height, width) of the images that it was trained on; None: unknown.
        value_range: the values in image files that became 0 and 1.
        resize: (height, width) to which whole images were resized before anything else; None: they were not.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...] = ()
    ignore_index: int = 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: tuple[int, int] | None = None
    value_range: tuple[float, float] = (0.0, 255.0)
    resize: tuple[int, int] | None = None

    def check(self, num_classes: int, in_channels: int) -> None:
        """Raise ConfigError unless these facts fit a model of so many classes and channels."""
        labels = count_labels(num_classes)
        if len(self.classes) != labels:
            both = "; one logit tells two apart, so name the background and the class" if num_classes == 1 else ""
            raise ConfigError(f"num_classes: {num_classes}, but info names {len(self.classes)} classes{both}.")
        if self.palette and len(self.palette) != labels:
            raise ConfigError(f"info.palette: {len(self.palette)} colours for {labels} classes; give one for each.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != in_channels:
                raise ConfigError(
                    f"info.{name}: {len(values)} values, but the model's images have in_channels={in_channels}; give "
                    "one for each channel."
                )
            if not all(math.isfinite(value) for value in values):
                raise ConfigError(f"info.{name}: {list(values)} are not all finite numbers.")
        if min(self.std) <= 0:
            raise ConfigError(f"info.std: images are divided by {list(self.std)}, so each must be above 0.")

    @classmethod
    def of(
        cls, spec: Any, input_size: tuple[int, int] | None = None, resize: tuple[int, int] | None = None
    ) -> "ModelInfo":
        """What a data set's spec knows, and the sizes of its images."""
        palette = tuple(tuple(color) for color in spec.palette)
        size = None if input_size is None else (input_size[0], input_size[1])
        values = tuple(getattr(spec, "value_range", cls.value_range))
        return cls(
            tuple(spec.classes), palette, spec.ignore_index, tuple(spec.mean), tuple(spec.std), size, values, resize
        )

    @classmethod
    def unknown(cls, num_classes: int, in_channels: int, statistics: Statistics | None = None) -> "ModelInfo":
        """Names and statistics to go on with where there is no data set.

        Statistics are the pretrained backbone's where they are given, else ImageNet's for colour images.
        """
        names = ("background", "foreground") if num_classes == 1 else tuple(f"class {i}" for i in range(num_classes))
        if statistics is not None:
            return cls(names, **statistics.of_channels(in_channels)._asdict())
        if in_channels == 3:
            return cls(names)
        return cls(names, mean=(0.5,) * in_channels, std=(0.5,) * in_channels)


def count_labels(num_classes: int) -> int:
    """How many labels so many logits tell apart: as many, but two where one logit stands against the background."""
    return max(2, num_classes)


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
        if info is not None:
            info.check(config.num_classes, config.in_channels)
        self.in_channels = config.in_channels
        self.backbone = build_backbone(config.backbone, config.in_channels)
        if info is None:
            known = getattr(self.backbone, "statistics", None) if config.backbone.get("pretrained") else None
            info = ModelInfo.unknown(config.num_classes, config.in_channels, known)
        self.info = info
        channels, strides = self.backbone.channels, self.backbone.strides
        self.head = build_head(config.head, channels, strides, config.num_classes)
        # The plain head reads a backbone's last map; shown c3 in its place, it is the auxiliary head of PSPNet's paper.
        self.auxiliary = FCNHead((channels[2],) * 4, strides, config.num_classes) if config.auxiliary else None
        self._leave_unread()

    def _leave_unread(self) -> None:
        """Where a backbone has layers for each map, those of maps that nobody reads are not trained."""
        read = {STRIDES.index(stride) for stride in getattr(self.head, "in_strides", STRIDES)}
        if self.auxiliary is not None:
            read.add(2)
        leave_unread = getattr(self.backbone, "leave_unread", None)
        if leave_unread is not None:
            leave_unread({0, 1, 2, 3} - read)

    def forward_features(self, images: Tensor) -> tuple[Features, HeadOutput]:
        """Everything before the final resize: the four maps, and logits and embedding at the head's stride."""
        check_images(images, self.in_channels, next(self.parameters(), None))
        # Tools whose hooks change what a layer returns, such as captum's, give back a plain tuple.
        features = Features(*self.backbone(images))
        return features, HeadOutput(*self.head(features))

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """images (B, C, H, W) to logits (B, num_classes, H, W).

        Args:
            images: to score.
            auxiliary: return ``(logits, auxiliary_logits)``, both (B, num_classes, H, W), as training needs them.

        Raises:
            ValueError: auxiliary logits of a model that was built without an auxiliary head.
        """
        wanted = auxiliary is True  # where torch.fx traces, it is a stand-in that has no truth value
        check_auxiliary(wanted, self.auxiliary)
        features, output = self.forward_features(images)
        logits = resize(output.logits, images.shape[2:])  # (B, num_classes, H, W)
        if not wanted or self.auxiliary is None:
            return logits
        coarse = self.auxiliary(features._replace(c4=features.c3)).logits  # (B, num_classes, H/16, W/16)
        return logits, resize(coarse, images.shape[2:])  # (B, num_classes, H, W) twice

    def freeze_backbone(self, what: Frozen = True) -> "SegmentationModel":
        """Freeze the backbone, its first stages or its normalisations alone, or thaw it.

        What is frozen gets no gradients, and stays in evaluation mode while the rest trains.

        Args:
            what: True: the whole backbone; 1 to 4: its stem and so many stages; "norms": its layers that normalise by
                running statistics; False: nothing.

        Returns:
            The model, changed in place.

        Raises:
            ConfigError: there are no such layers.
        """
        freeze(self.backbone, what)
        self._leave_unread()
        self.backbone.train(self.training)
        self.config = dataclasses.replace(self.config, backbone={**self.config.backbone, "frozen": what})
        return self

    def save_pretrained(self, folder: Path | str) -> Path:
        """Write ``model.safetensors``, ``config.json`` and a model card into a folder, each complete or not at all.

        Args:
            folder: made where it is missing.

        Returns:
            The folder.
        """
        return write_model(folder, self.config.to_dict(), dataclasses.asdict(self.info), self.state_dict())

    @classmethod
    def from_pretrained(
        cls, name: Path | str, *, device: str | None = None, frozen: Frozen = False
    ) -> "SegmentationModel":
        """Rebuild a saved model from its folder, or from a repository of the Hugging Face hub.

        Args:
            name: the folder, or the repository as "owner/name".
            device: where the model is put; None leaves it on the CPU.
            frozen: what of the backbone is frozen, as for `freeze_backbone`; what was frozen when the model was saved
                is not frozen again.

        Returns:
            The model, in evaluation mode.

        Raises:
            ConfigError: the folder is missing or holds no saved model, or the hub could not be reached.
        """
        folder, facts, tensors = read_model(name)
        config = {**facts["config"], "seed": None, "device": None}
        weights = {"pretrained": False} if "pretrained" in config["backbone"] else {}  # they are in the folder
        config["backbone"] = {**config["backbone"], "frozen": frozen, **weights}
        model = cls(parse_config(config))
        origin = {key: _tuples(facts["config"]["backbone"][key]) for key in weights}  # where they came from at first
        model.config = dataclasses.replace(
            model.config, backbone={**model.config.backbone, **origin}, seed=facts["config"].get("seed")
        )
        try:
            model.info = ModelInfo(**{key: _tuples(value) for key, value in facts["info"].items()})
            model.load_state_dict(tensors)
            model.info.check(model.config.num_classes, model.config.in_channels)
        except (RuntimeError, TypeError, ValueError) as error:
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


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
