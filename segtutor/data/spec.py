"""What every dataset says about itself: classes, colours, statistics, licence and source, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetSpec:
    """The facts about one dataset that models, losses, figures and downloads need.

    Attributes:
        name: Key of the dataset: lower case, also the name of its folder under ``SEGTUTOR_DATA``.
        title: Name for readers.
        classes: Class names; the position is the label value.
        palette: One RGB colour in 0-255 per class.
        mean: Mean of each channel of images in [0, 1], over the training split.
        std: Standard deviation of each channel of images in [0, 1], over the training split.
        ignore_index: Label value of void pixels; they count in no loss and no score.
        in_channels: Channels of an image: 3 colour, 1 grey.
        value_range: The values in the image files that become 0 and 1; what lies outside is cut off.
        licence: Terms of use, in one phrase.
        citation: Key in ``book/references.bib``; empty when there is nothing to cite.
        homepage: Where people read about the dataset.
        urls: Where ``download=True`` fetches from, in the order tried.
        digest: SHA-256 that guards a download; empty when nothing is downloaded or the source brings its own checksums.

    Raises:
        ValueError: If palette, mean or std do not have the right number of entries, ignore_index is a class label, or
            the range is none.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    in_channels: int = 3
    licence: str = ""
    citation: str = ""
    homepage: str = ""
    urls: tuple[str, ...] = ()
    digest: str = ""
    value_range: tuple[float, float] = (0.0, 255.0)

    def __post_init__(self) -> None:
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"dataset spec {self.name!r} has {len(self.classes)} classes but {len(self.palette)} colours: "
                "give one colour per class"
            )
        for field in ("mean", "std"):
            if len(getattr(self, field)) != self.in_channels:
                raise ValueError(
                    f"dataset spec {self.name!r} has {len(getattr(self, field))} values in {field} for "
                    f"{self.in_channels} channels: give one value per channel"
                )
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise ValueError(
                f"dataset spec {self.name!r} has value_range={self.value_range}: give (low, high), low below high"
            )
        if 0 <= self.ignore_index < len(self.classes):
            raise ValueError(
                f"dataset spec {self.name!r} ignores label {self.ignore_index}, which is class "
                f"{self.classes[self.ignore_index]!r}: use a value that no class has, such as 255"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, void not counted."""
        return len(self.classes)
