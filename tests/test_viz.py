"""Figures: colours that everybody can tell apart, opaque paper, readable text, and the right content."""

import functools
import io
from dataclasses import dataclass
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib import colors as mcolors
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from torch import nn

from segtutor import viz
from segtutor.probe import shape_trace
from segtutor.training import History
from segtutor.viz.architecture import _broken
from segtutor.viz.charts import _smoothed, _spread_labels
from segtutor.viz.style import ink_on, luminance

SPEC = SimpleNamespace(classes=("sky", "house_front", "car"), palette=viz.PALETTE[3:6], ignore_index=255)


def scene(height=36, width=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=generator)
    truth = torch.zeros(height, width, dtype=torch.long)
    truth[height // 2 :] = 1
    truth[height // 2 : height // 2 + 6, 5:15] = 2
    truth[-3:] = 255
    return image, truth


def run(valid=True):
    steps = list(range(1, 41))
    scores = [(20, {"miou": 0.3}), (40, {"miou": 0.5})] if valid else []
    return History(steps, [2.0 / s for s in steps], [1e-3] * 40, [0.1] * 40, scores, 4.0)


@dataclass
class Row:
    name: str
    in_shape: tuple
    out_shape: tuple


ROWS = [
    Row("encoder.stage_one", (1, 3, 64, 64), (1, 16, 32, 32)),
    Row("middle", (1, 16, 32, 32), (1, 64, 32, 32)),
    Row("decoder", (1, 64, 32, 32), (1, 2, 64, 64)),
]

IMAGE, TRUTH = scene()
FIGURES = {
    "show_panels": lambda: viz.show_panels(IMAGE, TRUTH, TRUTH.roll(2, 0), spec=SPEC, title="One"),
    "show_panels_truth": lambda: viz.show_panels(IMAGE, TRUTH, spec=SPEC),
    "show_panels_rows": lambda: viz.show_panels(
        [IMAGE, IMAGE], [TRUTH, TRUTH], [TRUTH, TRUTH.roll(1, 1)], spec=SPEC, names=["a", "b"]
    ),
    "show_panels_plain": lambda: viz.show_panels(IMAGE[:1], TRUTH, TRUTH),
    "overlay": lambda: viz.overlay(IMAGE, TRUTH, SPEC, title="Overlay"),
    "legend": lambda: viz.legend(SPEC),
    "show_images": lambda: viz.show_images([IMAGE, IMAGE[0], TRUTH], ["a", "b", "c"], spec=SPEC, title="Grid"),
    "show_tensor": lambda: viz.show_tensor(torch.arange(6).reshape(2, 3), torch.randn(2, 2), titles=["x", "y"]),
    "show_tensor_labels": lambda: viz.show_tensor(TRUTH[16:22, 3:9], spec=SPEC, highlight=[(0, 0)]),
    "plot_history": lambda: viz.plot_history(run()),
    "plot_history_many": lambda: viz.plot_history({"first": run(), "second": run(False)}, title="Two"),
    "plot_bars": lambda: viz.plot_bars({"sky": 0.9, "car": float("nan")}, reference=("mean", 0.5), title="IoU"),
    "plot_bars_groups": lambda: viz.plot_bars(
        {"A": {"sky": 1.0, "car": 2.0}, "B": {"sky": -3.0}}, spread={"A": {"sky": 0.5}}, label="gain", title="Gain"
    ),
    "draw_architecture": lambda: viz.draw_architecture(ROWS, skips=[("encoder.stage_one", "decoder")], title="Net"),
}


@functools.cache
def drawn(name):
    """(figure, its pixels), drawn once for all tests that only look."""
    figure = FIGURES[name]()
    return figure, pixels(figure)


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches="tight")  # as notebooks do
    buffer.seek(0)
    return plt.imread(buffer)


def texts(figure):
    found = [t.get_text() for t in figure.findobj(matplotlib.text.Text)]
    return [t for t in found if t]


# ------------------------------------------------------------------------------------------------------------- colour
# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
SIMULATION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(palette, simulation):
    rgb = np.asarray(palette, float) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.asarray(simulation).T, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = linear @ np.asarray(to_xyz).T / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


def ciede2000(first, second):
    """Sharma, Wu and Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(c**7 / (c**7 + 25.0**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    dh = np.where(c1 * c2 == 0, 0, (h2 - h1 + 180) % 360 - 180)
    big_dh = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(dh / 2))
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = np.where(c1 * c2 == 0, h1 + h2, (h1 + dh / 2) % 360)
    t = (
        1
        - 0.17 * np.cos(np.radians(h - 30))
        + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6))
        - 0.20 * np.cos(np.radians(4 * h - 63))
    )
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    x, y, z = (l2 - l1) / sl, (c2 - c1) / sc, big_dh / sh
    return np.sqrt(x**2 + y**2 + z**2 + rotation * y * z)


@pytest.mark.parametrize(
    ("first", "second", "expected"),  # rows of the paper's table of test pairs
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ],
)
def test_the_colour_difference_itself(first, second, expected):
    assert ciede2000(np.array(first, float), np.array(second, float)) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("vision", SIMULATION)
def test_palette_can_be_told_apart(vision):
    seen = lab(viz.PALETTE, SIMULATION[vision])
    distances = ciede2000(seen[:, None], seen[None])[np.triu_indices(len(viz.PALETTE), 1)]
    assert len(viz.PALETTE) >= 12
    assert distances.min() > (18 if vision == "normal" else 10)


@pytest.mark.parametrize("vision", SIMULATION)
def test_series_can_be_told_apart(vision):
    rgb = [[255 * v for v in mcolors.to_rgb(color)] for color in viz.SERIES]
    seen = lab(rgb, SIMULATION[vision])
    assert ciede2000(seen[:, None], seen[None])[np.triu_indices(len(rgb), 1)].min() > 10


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ink", [viz.INK, viz.MUTED, *viz.SERIES])
def test_text_stands_out_from_the_card(ink):
    assert contrast(ink, viz.CARD) >= 4.5


@pytest.mark.parametrize("color", viz.PALETTE)
def test_names_stand_out_from_their_class(color):
    color = np.array(color) / 255
    assert contrast(ink_on(color), color) >= 4.5


def test_more_classes_than_the_palette():
    many = SimpleNamespace(classes=tuple("abcdefghijklmnopqrstu"), palette=[(i, 2 * i, 255) for i in range(21)])
    assert np.allclose(viz.class_colors(many)[20], [20 / 255, 40 / 255, 1])
    assert np.allclose(viz.class_colors(SPEC), np.array(viz.PALETTE[3:6]) / 255)
    with pytest.raises(ValueError, match="21 classes"):
        viz.class_colors(None, 21)


# ------------------------------------------------------------------------------------------------------- every figure
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.filterwarnings("error")
def test_figure_is_an_opaque_light_card_of_the_right_width(name):
    figure, image = drawn(name)
    assert isinstance(figure, Figure)
    assert image.shape[2] == 3 or float(image[..., 3].min()) == 1.0
    border = np.concatenate([image[:3].reshape(-1, image.shape[2]), image[:, :3].reshape(-1, image.shape[2])])[:, :3]
    assert np.allclose(border, 1.0)
    assert image.shape[1] <= 960  # 7 inches and the margin at 130 dots per inch


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_legible_in_a_column_of_700_pixels(name):
    figure, image = drawn(name)
    shrink = min(1.0, 700 / image.shape[1])
    sizes = [t.get_fontsize() * 130 / 72 * shrink for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip()]
    assert min(sizes) >= 8.5  # pixels


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_leaves_the_figure(name):
    figure, _ = drawn(name)
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend() is not None)]
    found = [*figure.texts, *(text for one in legends for text in one.get_texts())]
    found += [text for axes in figure.axes for text in (*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label)]
    for text in found:
        if text.get_text().strip():
            box = text.get_window_extent()
            assert box.x0 > -1 and box.x1 < width + 1 and box.y0 > -1 and box.y1 < height + 1, text.get_text()


def test_east_asian_names_are_written_where_a_font_can(monkeypatch):
    from matplotlib import font_manager

    from segtutor.viz.style import fonts

    known = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    assert fonts() == ["DejaVu Sans"]
    other = font_manager.FontEntry(fname=known[0].fname, name="Yu Gothic")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*known, other])
    assert fonts() == ["DejaVu Sans", "Yu Gothic"]


def test_figures_are_shown_once_and_leave_the_style_alone():
    before, size = plt.get_fignums(), matplotlib.rcParams["font.size"]
    with plt.rc_context({"font.size": 17, "savefig.facecolor": "none"}):
        for make in FIGURES.values():
            make()
        assert matplotlib.rcParams["font.size"] == 17
    assert plt.get_fignums() == before and matplotlib.rcParams["font.size"] == size


def test_apply_style_makes_any_figure_a_card():
    with plt.rc_context():
        viz.apply_style()
        figure = plt.figure()
        plt.close(figure)
        assert mcolors.to_hex(figure.get_facecolor()) == "#ffffff"
        assert matplotlib.rcParams["savefig.facecolor"] == "#ffffff" and not matplotlib.rcParams["savefig.transparent"]


# ------------------------------------------------------------------------------------------------------------- panels
def test_error_panel_counts_what_is_wrong():
    truth = torch.zeros(10, 10, dtype=torch.long)
    truth[:2] = 255  # 80 pixels count
    predicted = truth.clone()
    predicted[4, :8] = 1  # 8 of them are wrong
    predicted[0] = 2  # void does not count
    figure = viz.show_panels(torch.rand(3, 10, 10), truth, predicted, spec=SPEC)
    assert "Error: 10.0 % of pixels" in texts(figure)
    error = figure.axes[3].images[0].get_array()
    wrong = np.all(np.isclose(error, mcolors.to_rgb(viz.WRONG)), axis=-1)
    assert wrong.sum() == 8 and wrong[4, :8].all()
    shown = figure.axes[2].images[0].get_array()
    assert np.allclose(shown[0], mcolors.to_rgb(viz.VOID))  # predictions on void are not shown


def test_panels_are_in_the_order_of_the_book():
    figure = FIGURES["show_panels"]()
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == [
        "Image",
        "Truth",
        "Prediction",
        "Error",
    ]


def test_truth_panel_has_the_colours_of_the_data_set():
    painted = FIGURES["show_panels"]().axes[1].images[0].get_array()
    assert np.allclose(painted[0, 0] * 255, viz.PALETTE[3]) and np.allclose(painted[20, 30] * 255, viz.PALETTE[4])


def test_legend_has_the_classes_that_occur_and_no_others():
    image, truth = scene()
    truth[truth == 2] = 1
    names = [t.get_text() for t in viz.show_panels(image, truth, spec=SPEC).legends[0].get_texts()]
    assert names == ["sky", "house front", "void"]
    truth[truth == 255] = 0
    names = [t.get_text() for t in viz.show_panels(image, truth, truth, spec=SPEC).legends[0].get_texts()]
    assert names == ["sky", "house front"]


def test_names_are_written_where_they_fit():
    figure = viz.show_panels(IMAGE, TRUTH, spec=SPEC)
    written = {t.get_text(): t.get_position() for t in figure.axes[1].texts}
    assert set(written) == {"sky", "house front"} or set(written) == {"sky", "house front", "car"}
    for name, (column, row) in written.items():
        assert TRUTH[round(row), round(column)] == ["sky", "house front", "car"].index(name)
    narrow = torch.zeros(36, 48, dtype=torch.long)
    narrow[:, 20] = 2
    assert [t.get_text() for t in viz.show_panels(IMAGE, narrow, spec=SPEC).axes[1].texts] == ["sky"]


def test_panels_take_batches_and_logits():
    images, truths = torch.stack([IMAGE, IMAGE]), torch.stack([TRUTH, TRUTH])
    logits = torch.nn.functional.one_hot(truths.clamp(max=2), 3).permute(0, 3, 1, 2).float()
    figure = viz.show_panels(images, truths, logits, spec=SPEC)
    assert len(figure.axes) == 8 and texts(figure).count("0.0 %") == 2
    assert "Error: 0.0 % of pixels" in texts(viz.show_panels(IMAGE, TRUTH, logits[0], spec=SPEC))
    several = viz.show_panels(IMAGE, TRUTH, [TRUTH, TRUTH, TRUTH], spec=SPEC, names=["x", "y", "z"])
    assert len(several.axes) == 12  # one image, three models


def test_one_logit_is_drawn_as_the_two_classes_that_it_tells_apart():
    truth = (TRUTH == 1).long()
    logits = (2.0 * truth - 1)[None] * torch.rand(truth.shape).clamp(min=0.01)
    assert "Error: 0.0 % of pixels" in texts(viz.show_panels(IMAGE, truth, logits))
    assert "Error: 0.0 % of pixels" in texts(viz.show_panels(IMAGE[None], truth[None], logits[None]))
    assert "Error: 0.0 % of pixels" in texts(viz.show_panels(IMAGE, truth, truth[None]))


def test_panels_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="denormalize"):
        viz.show_panels(IMAGE * 4 - 2, TRUTH)
    with pytest.raises(ValueError, match="differ in size"):
        viz.show_panels(IMAGE, TRUTH[:-1])
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        viz.show_panels([IMAGE, IMAGE], [TRUTH])
    with pytest.raises(ValueError, match="not numbers"):
        viz.show_panels(torch.rand(3, 8, 8), torch.zeros(8, 8).long(), torch.full((2, 8, 8), float("nan")))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        viz.show_panels(IMAGE, [TRUTH[0]])
    with pytest.raises(ValueError, match="differ in size"):
        viz.overlay(IMAGE, TRUTH[:-1], SPEC)


def test_images_have_as_many_titles():
    with pytest.raises(ValueError, match="2 pictures have 1"):
        viz.show_images([IMAGE, IMAGE], ["a"])
    with pytest.raises(ValueError, match="no image"):
        viz.show_images([])


# ------------------------------------------------------------------------------------------------------------ numbers
def test_tensor_shows_its_numbers():
    assert texts(viz.show_tensor(torch.tensor([[1, -2], [30, 4]]))) == ["1", "\N{MINUS SIGN}2", "30", "4"]
    assert texts(viz.show_tensor(torch.tensor([0.5, 0.25]))) == ["0.50", "0.25"]
    assert texts(viz.show_tensor(torch.zeros(1, 1, 1, 1), decimals=1)) == ["0.0"]
    with pytest.raises(ValueError, match="up to 16"):
        viz.show_tensor(torch.zeros(17, 2))


def test_smoothing_is_a_running_mean():
    values = np.random.default_rng(0).random(100)
    smooth = _smoothed(values)
    assert smooth[0] == values[0] and smooth[50] == pytest.approx(values[46:51].mean())


def test_history_draws_loss_and_score():
    figure = viz.plot_history({"first": run(), "second": run()})
    assert "first 50.0" in texts(figure) and "Validation mIoU (%)" in texts(figure)
    assert list(figure.axes[1].lines[0].get_ydata()) == [30.0, 50.0]
    with pytest.raises(ValueError, match="no steps"):
        viz.plot_history(History())


def test_labels_of_curves_do_not_overlap():
    places = _spread_labels([0.5, 0.5, 0.51, 0.9], 0.0, 1.0, 0.08)
    assert np.diff(sorted(places)).min() >= 0.08 - 1e-6
    assert places[0] < places[2] < places[3]


def test_bars_are_as_long_as_their_values():
    figure = viz.plot_bars({"sky": 0.9, "car": 0.25, "post": float("nan")}, spread={"sky": 0.1})
    assert sorted(patch.get_width() for patch in figure.axes[0].patches) == [0.25, 0.9]
    assert {"0.90 ± 0.10", "0.25"} <= set(texts(figure)) and any("absent" in t for t in texts(figure))
    with pytest.raises(ValueError, match="no bars"):
        viz.plot_bars({})


# ------------------------------------------------------------------------------------------------------- architecture
def test_architecture_is_drawn_from_the_trace():
    model = nn.Sequential()
    model.add_module("down", nn.Conv2d(3, 8, 3, stride=2, padding=1))
    model.add_module("up", nn.ConvTranspose2d(8, 2, 2, stride=2))
    figure = viz.draw_architecture(shape_trace(model, (32, 48)), labels={"up": "enlarge"})
    assert {"input", "down", "enlarge", "8 ch", "16×24", "1/2", "2 ch", "32×48"} <= set(texts(figure))
    fronts = [p for p in figure.axes[0].patches if isinstance(p, Polygon)][::3]
    size = [np.ptp(p.get_xy(), axis=0) for p in fronts]
    assert size[0][1] == pytest.approx(size[2][1]) and size[1][1] < size[0][1]  # heights follow the sides
    assert size[1][0] > size[0][0] > size[2][0]  # thickness follows the channels
    colours = [mcolors.to_hex(p.get_facecolor()) for p in fronts]
    assert colours[1:] == [viz.LOWERS, viz.RAISES]


def test_architecture_joins_only_what_fits():
    def arrows(rows):
        figure = viz.draw_architecture(rows)
        return sum(t.arrow_patch is not None for t in figure.axes[0].texts if hasattr(t, "arrow_patch"))

    assert arrows(ROWS) == 3
    assert arrows([ROWS[0], Row("other", (1, 3, 64, 64), (1, 2, 64, 64))]) == 1


def test_architecture_of_tokens_and_vectors():
    rows = [Row("embed", (1, 3, 32, 32), (1, 16, 24)), Row("head", (1, 24), (1, 10))]
    assert {"16 tokens", "24 ch", "10 ch", "vector"} <= set(texts(viz.draw_architecture(rows)))


def test_architecture_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="'decode'.*encoder.stage_one"):
        viz.draw_architecture(ROWS, skips=[("middle", "decode")])
    with pytest.raises(ValueError, match="1 to 20"):
        viz.draw_architecture(ROWS * 7)


def test_long_names_break_where_they_can():
    assert _broken("encoder.stage_one", 8) == ["encoder.", "stage_", "one"]
    assert _broken("upscore2", 4) == ["upscore2"]
    assert "".join(_broken("a.b_c", 99)) == "a.b_c"
