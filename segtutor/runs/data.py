"""The section ``data`` of a configuration: the arguments of a registered dataset, and what is done to its images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from annotated_types import Interval
from torch import Tensor

from segtutor.data import transforms
from segtutor.data.batch_transforms import RandomView
from segtutor.data.mixing import ClassMix, CutMix, InTurn
from segtutor.data.registry import Size, datasets
from segtutor.data.spec import DatasetSpec
from segtutor.data.splits import part_name
from segtutor.factory.config import ConfigError, parse_typed, path_keys, section_of

Factor = Annotated[float, Interval(ge=0.1, le=10)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Degrees = Annotated[float, Interval(ge=0, le=180)]
Pixels = Annotated[float, Interval(ge=0, le=1000)]
BatchTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
OWN_TO_SPLITS = ("split",)  # arguments of every dataset that are not keys


class Normalization(Protocol):
    """What knows the mean and std of the channels: a spec, a model's info, a backbone's statistics."""

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Augmentation:
    """What is done at random to training images, and to their masks; the keys of the section ``data.augmentation``.

    Attributes:
        crop: (height, width) that is cut out; None: the whole image.
        flip: mirror left to right, every other image.
        scale: smallest and largest factor of the image's size, before the crop; None: not scaled.
        color: strength of random brightness, contrast and saturation, from 0 to 1.
        flip_vertically: mirror upside down, every other image, where images have no up, as under a microscope.
        rotation: largest angle in degrees, to either side.
        elastic: deform the image as U-Net's authors do, by displacements of this standard deviation in pixels; theirs
            is 10, on images of 512 pixels.
        mix: "cutmix" pastes a rectangle of another image of the batch into an image, with its labels, "classmix" the
            pixels of half of its classes; None: images stay whole.
        mix_probability: share of the images that something is pasted into.
        on_device: do all this to whole batches where the network is, such as on a GPU, rather than to one image after
            the other where they are read; the images need one size then, and a crop.
    """

    crop: Size | None = None
    flip: bool = True
    scale: tuple[Factor, Factor] | None = None
    color: Fraction = 0.0
    flip_vertically: bool = False
    rotation: Degrees = 0.0
    elastic: Pixels = 0.0
    mix: Literal["cutmix", "classmix"] | None = None
    mix_probability: Fraction = 0.5
    on_device: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and self.crop is None:
            raise ValueError("images of random size make no batch; set crop beside scale")
        if self.on_device and self.crop is None:
            raise ValueError("views that are made on the device need a size; set crop beside on_device")

    @property
    def of_an_image(self) -> dict[str, Any]:
        """The settings of what is done to a single image, as `train_transform` and `RandomView` take them."""
        others = ("mix", "mix_probability", "on_device")
        return {key: value for key, value in vars(self).items() if key not in others}

    def batch_transform(self, spec: DatasetSpec) -> BatchTransform | None:
        """What is done to each training batch on the device; None: nothing."""
        steps: list[BatchTransform] = [RandomView(spec, **self.of_an_image)] if self.on_device else []
        if self.mix == "cutmix":
            steps.append(CutMix(self.mix_probability))
        elif self.mix == "classmix":
            steps.append(ClassMix(spec, self.mix_probability))
        return InTurn(*steps) if steps else None


def of_every_dataset(*, augmentation: Augmentation = Augmentation(), keep_in_memory: bool = False) -> None:  # noqa: B008
    """The keys that every dataset has.

    Args:
        augmentation: what is done at random to training images.
        keep_in_memory: keep every image once it is read and resized, one copy for all loading processes.
    """


def parse_data(config: Any) -> dict[str, Any]:
    """Check the section ``data``, a name or keys and values, and fill in its defaults.

    Returns:
        ``type``, the arguments of that dataset, ``augmentation`` and ``keep_in_memory``; paths are absolute.

    Raises:
        ConfigError: an unknown, missing or impossible setting, with its key path.
    """
    builds = {name: entry.build for name, entry in datasets().items()}
    section = parse_typed(section_of(config, "data"), "data", builds, common=of_every_dataset, skip=OWN_TO_SPLITS)
    for key in path_keys(builds[section["type"]]) & section.keys():  # a run may go on from another folder
        section[key] = section[key] and os.path.abspath(os.path.expanduser(section[key]))
    return section


def open_data(
    section: Mapping[str, Any], split: str, *, augment: bool = False, normalization: Normalization | None = None
) -> Any:
    """Open a split: normalised whole images, or what training makes of them.

    Args:
        section: as `parse_data` returns it.
        split: "train", "val" (or "valid", "validation") or "test".
        augment: scale, crop, mirror and recolour at random, as the section says; where that is done to batches on the
            device (`Augmentation.batch_transform`), images are left as they are, in [0, 1].
        normalization: what has the mean and std by which images are normalised, such as a saved model's ``info``; the
            spec then says so too. None: the data set's own.

    Returns:
        The dataset, with its ``spec``.

    Raises:
        ConfigError: the files are not there, or do not fit the settings.
    """
    entry, split = datasets()[section["type"]], part_name(split)
    if split not in entry.splits:
        raise ConfigError(f"data: {entry.name} has no split '{split}'; choose {' or '.join(entry.splits)}.")
    settings = {key: value for key, value in section.items() if key not in ("type", "augmentation", "keep_in_memory")}
    augmentation: Augmentation = section["augmentation"]
    try:
        opened = entry.build(split=split, **settings)
        if section["keep_in_memory"]:
            opened = _kept(opened, entry.title)
        if normalization is not None:
            known = {"mean": tuple(normalization.mean), "std": tuple(normalization.std)}
            opened.spec = dataclasses.replace(opened.spec, **known)
        if not augment:
            opened.transform = transforms.eval_transform(opened.spec)
        elif augmentation.on_device:
            augmentation.batch_transform(opened.spec)  # settings that it refuses are named now
        else:
            opened.transform = transforms.train_transform(opened.spec, **augmentation.of_an_image)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(f"data: {error}") from None
    return opened


def splits_of(section: Mapping[str, Any]) -> tuple[str, ...]:
    """The splits that the data have, of a folder of one's own those that somebody made."""
    parts = getattr(open_data(section, "train"), "parts", None)
    return datasets()[section["type"]].splits if parts is None else parts.names


def is_read_from_files(section: Mapping[str, Any]) -> bool:
    """Whether ``size`` resizes images of another size, as it does not where they are drawn at that size."""
    from segtutor.data.pairs import PairDataset

    build: Any = datasets()[section["type"]].build
    owner = getattr(build, "__self__", build)  # of a class method, the class
    return isinstance(owner, type) and issubclass(owner, PairDataset)


def _kept(opened: Any, title: str) -> Any:
    if not hasattr(opened, "keep_in_memory"):
        raise ConfigError(f"data.keep_in_memory: {title} does not read its images from files; leave it out.")
    return opened.keep_in_memory()
