"""``SegmentationFolder``: your own images and masks, from two folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .labels import LabelMapping, shorten
from .pairs import PairDataset, unmatched
from .reading import list_files
from .root import DataNotFoundError
from .spec import DatasetSpec

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
    palette files, whose indices are then the labels. Each mask is checked when it is read; ``check_dataset`` looks at
    all of them and says what is wrong.

    Args:
        images: Folder with images, in any format that Pillow reads, also in subfolders.
        masks: Folder with masks, one for each image, with the same name before the extension.
        classes: Names of the classes in the order of the labels, or how many there are.
        palette: For masks that are colour pictures: one RGB colour in 0-255 per class, or a mapping of colours to
            labels (``ignore_index`` for void). It also gives the colours of figures.
        ignore_index: Label of void pixels.
        label_map: File value -> label, for masks that hold other numbers, e.g. ``{0: 0, 255: 1}``.
        mask_suffix: What the names of masks have in addition, e.g. ``"_mask"`` for ``7_mask.png``.
        channels: 3 for colour, 1 for grey images.
        mean: Mean of each channel over the training images; None: ImageNet's.
        std: Standard deviation of each channel over the training images; None: ImageNet's.
        size: (height, width) to resize to; None: as in the file.
        transform: Called as ``transform(image, mask)`` on tv_tensors.

    Raises:
        DataNotFoundError: If a folder does not exist or holds no images.
        ValueError: If a file has no partner (the message names it), or the classes and colours do not fit.
    """

    def __init__(
        self,
        images: str | os.PathLike,
        masks: str | os.PathLike,
        *,
        classes: Sequence[str] | int,
        palette: Sequence[tuple[int, int, int]] | Mapping[tuple[int, int, int], int] | None = None,
        ignore_index: int = 255,
        label_map: Mapping[int, int] | None = None,
        mask_suffix: str = "",
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
        transform: Callable | None = None,
    ) -> None:
        names = tuple(f"class {i}" for i in range(classes)) if isinstance(classes, int) else tuple(classes)
        if not names:
            raise ValueError("classes is empty: name at least one class")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels} is not valid: give 3 for colour or 1 for grey images")
        mapping, colors = label_mapping(len(names), palette, ignore_index, label_map)
        spec = DatasetSpec(
            name="folder",
            title=Path(images).resolve().parent.name or "folder",
            classes=names,
            palette=colors,
            ignore_index=ignore_index,
            in_channels=channels,
            # The weighted mean of ImageNet's three channels, for grey images.
            mean=tuple(mean) if mean else ((0.485, 0.456, 0.406) if channels == 3 else (0.459,)),
            std=tuple(std) if std else ((0.229, 0.224, 0.225) if channels == 3 else (0.226,)),
        )
        pairs, problems = find_pairs(images, masks, mask_suffix)
        if problems:
            raise ValueError(f"{'; '.join(problems)}: give each image one mask of the same name, or set mask_suffix")
        super().__init__(pairs, spec, mapping, size=size, transform=transform)


def label_mapping(
    count: int,
    palette: Sequence[tuple[int, int, int]] | Mapping[tuple[int, int, int], int] | None,
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
        colors = {(int(red), int(green), int(blue)): int(label) for (red, green, blue), label in items}
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
        wrong = sorted(set(label_map.values()) - labels)
        if wrong:
            raise ValueError(f"label_map maps to {shorten(wrong)}; allowed are 0..{count - 1}, {ignore_index}")
    return LabelMapping(count, ignore_index, values=label_map, colors=colors), shown


def default_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """One colour for each of ``count`` classes; the first twelve are told apart by colour-blind readers too."""
    colors = list(_COLORS[:count])
    for index in range(len(colors), count):  # hues a golden angle apart never come close to their neighbours
        import colorsys

        rgb = colorsys.hsv_to_rgb(index * 0.61803 % 1, 0.55 + 0.4 * (index % 2), 0.95 - 0.45 * (index // 2 % 2))
        red, green, blue = (round(255 * part) for part in rgb)
        colors.append((red, green, blue))
    return tuple(colors)


def find_pairs(
    images: str | os.PathLike, masks: str | os.PathLike, mask_suffix: str = ""
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Pairs of two folders in alphabetical order, and one phrase for each kind of file without a partner.

    Raises:
        DataNotFoundError: If a folder does not exist or holds no images.
        ValueError: If two files differ in their extension only.
    """
    images, masks = Path(images).expanduser(), Path(masks).expanduser()
    for folder, what in ((images, "images"), (masks, "masks")):
        if not folder.is_dir():
            raise DataNotFoundError(f"there is no folder {folder}: give the folder that holds the {what}")
    left, right = list_files(images), list_files(masks)
    for files, folder in ((left, images), (right, masks)):
        if not files:
            raise DataNotFoundError(f"{folder} holds no image files: give the folder that holds them")
    if mask_suffix:
        right = {key.removesuffix(mask_suffix): path for key, path in right.items()}
    pairs = [(path, right[key]) for key, path in left.items() if key in right]
    return pairs, unmatched(left, right)
