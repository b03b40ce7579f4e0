"""Every figure of the book in one style: the same palette, the same panels in the same order, on an opaque white card.

Each function returns a matplotlib figure and shows nothing by itself: as the last line of a notebook cell it appears
once, and in a script ``figure.savefig(path)`` writes it. Classes have the colours of their data set, else those of
:data:`PALETTE`; the `spec` argument, anything with ``classes``, ``palette`` and ``ignore_index``, supplies both names
and colours.
"""

from segtutor.viz.architecture import KEEPS, LOWERS, RAISES, draw_architecture
from segtutor.viz.charts import plot_bars, plot_history, show_tensor
from segtutor.viz.masks import legend, overlay, painted_over, show_images, show_panels
from segtutor.viz.style import (
    CARD,
    HAIRLINE,
    INK,
    MUTED,
    PALETTE,
    SERIES,
    STYLE,
    VOID,
    WIDTH,
    WRONG,
    apply_style,
    class_colors,
)

__all__ = [
    "CARD",
    "HAIRLINE",
    "INK",
    "KEEPS",
    "LOWERS",
    "MUTED",
    "PALETTE",
    "RAISES",
    "SERIES",
    "STYLE",
    "VOID",
    "WIDTH",
    "WRONG",
    "apply_style",
    "class_colors",
    "draw_architecture",
    "legend",
    "overlay",
    "painted_over",
    "plot_bars",
    "plot_history",
    "show_images",
    "show_panels",
    "show_tensor",
]
