"""``SegmentationFolder``: your own images and masks, from two folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from .errors import DataError
from .finding import Pairs, find_pairs
from .labels import LabelMapping, shorten
from .pairs import PairDataset
from .ranges import as_range
from .reading import measure_range
from .registry import Size, register_dataset
from .spec import DatasetSpec
from .splits import Parts, part_name

Color = Sequence[int] | str
Palette = Sequence[Color] | Mapping[Color, int]
Classes = Sequence[str] | Annotated[int, Interval(ge=1)]  # their names, or how many there are

# Okabe and Ito's colours for colour-blind readers, then Tol's "muted" ones.
_COLORS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (51, 34, 136),
    (153, 153, 51),
    (136, 34, 85),
    (136, 204, 238),
    (68, 170, 153),
)


class SegmentationFolder(PairDataset):
    """Images and masks of your own, matched by name: ``images/street/7.jpg`` belongs to ``masks/street/7.png``.

    ``dataset[i]`` is image (C, H, W) float32 in [0, 1] and mask (H, W) int64. Masks may hold 1, 8, 16 or 32 bits or be
    palette files, whose indices are then the labels. Each file is checked when it is read; ``check_dataset`` looks at
    all of them and says what is wrong. :meth:`from_path` opens a part of a folder that holds both.

    Args:
        images: Folder with images, in any format that Pillow reads, also in subfolders.
        masks: Folder with masks, one for each image, with the same name before the extension.
        classes: Names of the classes in the order of the labels, or how many there are.
        palette: For masks that are colour pictures: one RGB colour in 0-255 per class, or a mapping of colours to
            labels (``ignore_index`` for void); a colour is three numbers or text such as ``"#ff8000"``. Palette files
            are then read by colour, not by index. It also gives the colours of figures.
        ignore_index: Label of void pixels.
        label_map: File value -> label, for masks that hold other numbers, e.g. ``{0: 0, 255: 1}``.
        mask_suffix: What the names of masks have in addition, e.g. ``"_mask"`` for ``7_mask.png``.
        channels: 3 for colour, 1 for grey images.
        value_range: The values in image files that become 0 and 1, or ``"uint12"``, ``"uint16"``, ``"unit"``, ...; see
            :func:`~segtutor.data.ranges.as_range`. None: 0 to 255 for files of 8 bits, otherwise measured over the
            images. The spec holds it, and so does a model that is trained on it.
        mean: Mean of each channel over the training images; None: ImageNet's.
        std: Standard deviation of each channel over the training images; None: ImageNet's.
        size: (height, width) to resize to; None: as in the file.
        transform: Called as ``transform(image, mask)`` on tv_tensors.

    Attributes:
        split: "train", "val" or "test", where :meth:`from_path` opened it; else None.
        parts: All parts of its folder, likewise.

    Raises:
        DataNotFoundError: If a folder does not exist or holds no images.
        ValueError: If a file has no partner (the message names it), or the classes and colours do not fit.
    """

    split: str | None = None
    parts: Parts | None = None

    def __init__(
        self,
        images: str | os.PathLike,
        masks: str | os.PathLike,
        *,
        classes: Sequence[str] | int,
        palette: Palette | None = None,
        ignore_index: int = 255,
        label_map: Mapping[int, int] | None = None,
        mask_suffix: str = "",
        channels: int = 3,
        value_range: Sequence[float] | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        transform: Callable | None = None,
    ) -> None:
        pairs, problems, cure = find_pairs(images, masks, mask_suffix)
        if problems:
            raise DataError(f"{Path(images).parent}: {'; '.join(problems)}: {cure}", kind="unmatched")
        self._open(
            pairs, Path(images).resolve().parent.name, pairs, classes=classes, palette=palette,
            ignore_index=ignore_index, label_map=label_map, channels=channels, value_range=value_range, mean=mean,
            std=std, size=size, transform=transform,
        )  # fmt: skip

    @classmethod
    def from_path(
        cls,
        split: str = "train",
        *,
        path: str | os.PathLike,
        classes: Classes,
        palette: Palette | None = None,
        ignore_index: int = 255,
        label_map: Mapping[int, int] | None = None,
        mask_suffix: str = "",
        channels: Literal[1, 3] = 3,
        value_range: Sequence[float] | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: Size | None = None,
        held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.2,
        lists: str | None = None,
        transform: Callable | None = None,
    ) -> SegmentationFolder:
        """One part of a folder that holds images and masks.

        The folder is parted by subfolders (``train/images`` or ``images/train``), by lists (``train.txt``), or by a
        draw, in which a hash of its name alone decides on which side an image is: :mod:`segtutor.data.splits`.

        Args:
            split: ``"train"``, ``"val"`` (or ``"valid"``, ``"validation"``) or, where somebody made one, ``"test"``.
            path: The folder.
            classes, palette, ignore_index, label_map, mask_suffix, channels, mean, std, size, transform: As for the
                class.
            value_range: As for the class; measured over the training images, whichever part is opened.
            held_out: Share of the training images that validates, where no validation images are named.
            lists: Folder with ``train.txt`` and ``val.txt``, which then decide, relative to ``path``.

        Raises:
            DataNotFoundError: If the folder or its images are not there.
            ValueError: If there is no such part, or as for the class.
        """
        parts = Parts(path, mask_suffix=mask_suffix, held_out=held_out, lists=lists)
        pairs = parts.pairs(split)
        measured = pairs if value_range is not None else parts.pairs("train")
        dataset = cls.__new__(cls)
        dataset._open(
            pairs, parts.path.resolve().name, measured, classes=classes, palette=palette, ignore_index=ignore_index,
            label_map=label_map, channels=channels, value_range=value_range, mean=mean, std=std, size=size,
            transform=transform,
        )  # fmt: skip
        dataset.split, dataset.parts = part_name(split), parts
        return dataset

    def _open(
        self,
        pairs: Pairs,
        title: str,
        measured: Pairs,
        *,
        classes: Sequence[str] | int,
        palette: Palette | None,
        ignore_index: int,
        label_map: Mapping[int, int] | None,
        channels: int,
        value_range: Sequence[float] | str | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        size: tuple[int, int] | None,
        transform: Callable | None,
    ) -> None:
        """What both ways of making one have in common; ``measured`` are the pairs that a range is measured on."""
        names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
        if not names:
            raise ValueError("classes is empty: name at least one class")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} is not valid: give 3 for colour or 1 for grey images")
        mapping, colors = label_mapping(len(names), palette, ignore_index, label_map)
        images = [image for image, _ in measured]
        spec = DatasetSpec(
            name="folder",
            title=title or "folder",
            classes=names,
            palette=colors,
            ignore_index=ignore_index,
            in_channels=channels,
            value_range=measure_range(images) if value_range is None else as_range(value_range),
            # The weighted mean of ImageNet's three channels, for grey images.
            mean=tuple(mean) if mean else ((0.485, 0.456, 0.406) if channels == 3 else (0.459,)),
            std=tuple(std) if std else ((0.229, 0.224, 0.225) if channels == 3 else (0.226,)),
        )
        PairDataset.__init__(self, pairs, spec, mapping, size=size, transform=transform)


register_dataset("folder")(SegmentationFolder.from_path)


def label_mapping(
    count: int,
    palette: Palette | None,
    ignore_index: int,
    label_map: Mapping[int, int] | None,
) -> tuple[LabelMapping, tuple[tuple[int, int, int], ...]]:
    """How the values in the files become labels, and one colour per class.

    Raises:
        ValueError: If colours or mapped labels do not fit the classes.
    """
    labels = {*range(count), ignore_index}
    colors = None
    shown = default_colors(count)
    if palette is not None:
        items = palette.items() if isinstance(palette, Mapping) else ((c, i) for i, c in enumerate(palette))
        colors = {as_color(color): int(label) for color, label in items}
        if not isinstance(palette, Mapping) and len(colors) != count:
            raise ValueError(
                f"palette has {len(colors)} different colours for {count} classes: give one for each, or a mapping of "
                "colours to labels"
            )
        wrong = sorted(set(colors.values()) - labels)
        if wrong:
            raise ValueError(f"palette maps to the labels {shorten(wrong)}; allowed are 0..{count - 1}, {ignore_index}")
        by_label = {label: color for color, label in reversed(colors.items())}
        shown = tuple(by_label.get(label, shown[label]) for label in range(count))
    if label_map is not None:
        try:
            label_map = {int(value): int(label) for value, label in label_map.items()}
        except (TypeError, ValueError):
            raise ValueError(
                f"label_map={dict(label_map)} is not valid: give whole numbers, as {{0: 0, 255: 1}}"
            ) from None
        wrong = sorted(set(label_map.values()) - labels)
        if wrong:
            raise ValueError(f"label_map maps to {shorten(wrong)}; allowed are 0..{count - 1}, {ignore_index}")
    return LabelMapping(count, ignore_index, values=label_map, colors=colors), shown


def as_color(color: Sequence[int] | str) -> tuple[int, int, int]:
    """A colour as three numbers in 0-255, given so or as text such as ``"#ff8000"``.

    Raises:
        ValueError: If it is neither.
    """
    try:
        parts = list(bytes.fromhex(color.removeprefix("#"))) if isinstance(color, str) else [int(c) for c in color]
        if len(parts) == 3 and all(0 <= part <= 255 for part in parts):
            return parts[0], parts[1], parts[2]
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{color!r} is no colour: give red, green and blue in 0-255, or text such as '#ff8000'")


def default_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """One colour for each of ``count`` classes; the first twelve are told apart by colour-blind readers too."""
    colors = list(_COLORS[:count])
    for index in range(len(colors), count):  # hues a golden angle apart never come close to their neighbours
        import colorsys

        rgb = colorsys.hsv_to_rgb(index * 0.61803 % 1, 0.55 + 0.4 * (index % 2), 0.95 - 0.45 * (index // 2 % 2))
        red, green, blue = (round(255 * part) for part in rgb)
        colors.append((red, green, blue))
    return tuple(colors)
