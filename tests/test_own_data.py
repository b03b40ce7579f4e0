"""The page on one's own data, followed to the letter: its files are written, its commands run, its outputs compared."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segtutor import cli
from segtutor.data import SegmentationFolder, check_dataset
from segtutor.data.splits import Parts
from segtutor.factory.config import parse_yaml, read_yaml
from segtutor.runs import read_recipe
from segtutor.runs.data import Augmentation, of_every_dataset

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "own_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.S | re.M)
NAMED = re.compile(r"# (\w+\.yaml)\n")
random = np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------ following the page
def halved(folder: Path) -> None:
    """Masks of half the size."""
    shutil.copytree("leaves", folder)
    for path in (folder / "masks").iterdir():
        Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)


def doubled(folder: Path) -> None:
    """A validation image under a second name, which the draw puts on the other side."""
    for part in ("images", "masks"):
        shutil.copytree(Path("leaves", part), folder / part)
    for old, new in ((folder / "images/south-5.jpg", "copy.jpg"), (folder / "masks/south-5.png", "copy.png")):
        shutil.copy(old, old.with_name(new))


PREPARED = {"half": halved, "twice": doubled}  # folders that the page speaks of and that nobody wrote


def run_commands(text: str) -> str:
    """Run the lines of a block by the command line's main, and return all that they print."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "segtutor", line
            for name in set(arguments) & set(PREPARED):
                if not Path(name).exists():
                    PREPARED[name](Path(name))
            assert cli.main(arguments) in (0, 1), f"{line}\n{printed.getvalue()}"
    return printed.getvalue()


def follow() -> list[tuple[str, str, str]]:
    """Do what the page says in this folder: (what was run, what the page shows, what it printed) for each output."""
    outputs, done, printed, names = [], "", "", {}
    for language, text in BLOCKS:
        if language == "bash":
            printed = run_commands(text)
        elif language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "own_data.md", "exec"), names)
            printed = out.getvalue()
        elif language == "yaml" and (name := NAMED.match(text)):
            Path(name[1]).write_text(text, encoding="utf-8")
        elif language == "text":
            outputs.append((done, text, printed))
        if language in ("bash", "python"):
            done = text
    return outputs


def as_pattern(shown: str, exact: bool) -> str:
    """What the page shows as a pattern: three dots are what was left out, line breaks are free.

    Args:
        exact: whether decimal numbers, which depend on machine and version, are compared.
    """
    pattern = re.escape(" ".join(shown.split())).replace(r"\.\.\.\ ", "(?:.* )?").replace(r"\ \.\.\.", "(?: .*)?")
    if not exact:
        pattern = re.sub(
            r"\d+(?:\\\.\d+)?(?:e\\-\d+)?(?=\\ ms/step)|\d+(?=\\ MiB)|\d+:\d\d(?=\\ left)",
            lambda found: r"[\d:]+",
            pattern,
        )
        pattern = re.sub(r"\d+\\\.\d{3,}", lambda found: r"\\d+\\.\\d+".replace("\\\\", "\\"), pattern)
    return pattern


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    here = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("own_data"))
    try:
        yield follow()
    finally:
        os.chdir(here)


def test_the_page_followed_to_the_letter(outputs):
    assert len(outputs) > 10
    for done, shown, printed in outputs:
        exact = "check-data" in done or "predict runs" in done
        real = " ".join(printed.split())
        assert re.fullmatch(as_pattern(shown, exact), real), (
            f"after\n{done}\nthe page shows\n{shown}\nand not\n{printed}"
        )


def test_the_model_learns_what_the_page_shows(outputs):
    """The scores on the page are those of a model that has learnt, and so are the ones of the model trained here."""
    texts = [text for done, *both in outputs if "segtutor evaluate" in done for text in both]
    assert len(texts) == 4
    for text in texts:
        assert 0.7 < float(re.search(r"^mIoU ([\d.]+)", text, re.M)[1]) < 1


def test_how_many_of_the_test_part_were_trained_on(outputs):
    trained, tested = (Path(path).read_text().split() for path in ("runs/leaves/split/train.txt", "leaves/test.txt"))
    assert (len(set(trained) & set(tested)), len(tested)) == (4, 6)
    assert "four of the six photographs of the west field" in " ".join(PAGE.split())


def test_a_changed_output_is_noticed():
    shown = "step 10/40  loss 0.5000  lr 1e-3  20 ms/step  0:01 left\nDone: runs/a"
    assert re.fullmatch(as_pattern(shown, False), "step 10/40 loss 0.4321 lr 1e-3 7 ms/step 1:22 left Done: runs/a")
    assert not re.fullmatch(as_pattern(shown, False), "step 11/40 loss 0.4321 lr 1e-3 7 ms/step 1:22 left Done: runs/a")
    assert not re.fullmatch(as_pattern("0 soil 81.00 %", True), "0 soil 81.01 %")
    assert re.fullmatch(as_pattern("a\n...\nd ...", True), "a b c d e") and not re.fullmatch(
        as_pattern("a\n...\nd", True), "a b"
    )


# ------------------------------------------------------------------------------------------------------------- tables
def rows(head: str) -> dict[str, str]:
    """The rows of the table with that first cell in its head: left cell -> right cell."""
    table = re.search(rf"^\| {re.escape(head)} \|.*\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.M)[1]
    return dict([cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines())


def written(cell: str) -> dict:
    """The settings in the right cell of a row: the first code in it, or none."""
    code = re.match(r"`(.*?)`", cell)
    return yaml.safe_load(code[1]) if code else {}


COLORS = np.array([(0, 0, 0), (200, 30, 30), (30, 60, 200), (255, 255, 255)], np.uint8)
LABELS = np.zeros((40, 48), np.uint8)
LABELS[5:20, 8:24], LABELS[22:35, 20:40] = 1, 2
VOID = LABELS.copy()
VOID[:3] = 3


def through(*values: int, dtype: type = np.uint8):
    return lambda mask, number: Image.fromarray(np.array(values, dtype)[mask])


def indexed(orders: list[tuple[int, ...]]):
    """Palette files, whose palettes are in these orders by turns."""

    def make(mask: np.ndarray, number: int) -> Image.Image:
        order = orders[number % len(orders)]
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
        image.putpalette(COLORS[list(order)].ravel().tolist())
        return image

    return make


def colored(mask: np.ndarray, number: int) -> Image.Image:
    """RGB and, by turns, RGBA."""
    return Image.fromarray(COLORS[mask]).convert(("RGB", "RGBA")[number % 2])


def two_kinds(mask: np.ndarray, number: int) -> Image.Image:
    return through(0, (1, 3)[number % 2], 2)(mask, number)


# What stands in the left cell of a row -> the labels that the files mean, and how the files keep them
MASKS = {
    "grey, 0 for the first class, 1 for the second": (LABELS, through(0, 1, 2)),
    "a palette file, whose numbers are the labels": (LABELS, indexed([(0, 1, 2)])),
    "palette files whose colours agree and whose numbers do not": (LABELS, indexed([(0, 1, 2), (0, 2, 1)])),
    "RGB or RGBA, a colour for each class": (LABELS, colored),
    "RGB, and white is void": (VOID, colored),
    "black and white, 0 and 255": (LABELS > 1, through(0, 255)),
    "black and white, one bit": (LABELS > 1, lambda mask, number: Image.fromarray(mask.astype(bool))),
    "grey, labels from 1": (LABELS, through(1, 2, 3)),
    "grey levels to be seen, 0, 127, 255": (LABELS, through(0, 127, 255)),
    "16 bits, codes such as 0, 1000, 2000": (LABELS, through(0, 1000, 2000, dtype=np.uint16)),
    "labels, and 255 is void": (VOID, through(0, 1, 2, 255)),
    "labels, and 250 is void": (VOID, through(0, 1, 2, 250)),
    "0 is void, labels from 1": (VOID, through(1, 2, 3, 0)),
    "leaf in two kinds, 1 and 3, that are one to you": (LABELS, two_kinds),
    "names that go on, `7_mask.png` for `7.jpg`": (LABELS, through(0, 1, 2)),
}  # fmt: skip


def test_every_row_of_the_masks_is_tried():
    assert list(rows("your masks")) == list(MASKS)


@pytest.mark.parametrize("row", MASKS)
def test_masks_are_read_as_the_table_says(tmp_path, row):
    truth, keep = MASKS[row]
    suffix = "_mask" if "_mask" in row else ""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(tmp_path / f"images/{number}.jpg")
        keep(truth.astype(np.uint8), number).save(tmp_path / f"masks/{number}{suffix}.png")
    classes = ["soil", "leaf", "fruit"][: 2 if truth.max() == 1 else 3]
    for part in ("train", "val"):
        dataset = SegmentationFolder.from_path(part, path=tmp_path, classes=classes, **written(rows("your masks")[row]))
        wanted = np.where(truth == 3, dataset.spec.ignore_index, truth)
        for _, mask in dataset:
            assert (mask.numpy() == wanted).all()
        assert check_dataset(dataset).ok
    if rows("your masks")[row].startswith("nothing"):
        return
    with pytest.raises((AssertionError, ValueError)):  # and without it, something is wrong
        dataset = SegmentationFolder.from_path("train", path=tmp_path, classes=classes)
        assert check_dataset(dataset).ok and (dataset[1][1].numpy() == wanted).all()


IMAGES = {
    "8 bits, colour or grey": ((0, 255), lambda unit: (255 * unit).astype(np.uint8), "png"),
    "8 bits, and grey is enough (X-rays, microscopes)": ((0, 255), lambda unit: (255 * unit).astype(np.uint8), "png"),
    "16 bits, of which the camera fills 12": ((0, 4095), lambda unit: (4095 * unit).astype(np.uint16), "png"),
    "floats from 0 to 1": ((0, 1), lambda unit: unit.astype(np.float32), "tif"),
    "CT numbers, negative ones among them": ((-160, 240), lambda unit: (2000 * unit - 1000).astype(np.float32), "tif"),
}


def test_every_row_of_the_images_is_tried():
    assert list(rows("your images")) == list(IMAGES)


@pytest.mark.parametrize("row", IMAGES)
def test_values_are_read_as_the_table_says(tmp_path, row):
    value_range, keep, ending = IMAGES[row]
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(3):
        Image.fromarray(keep(random.random((40, 48)))).save(tmp_path / f"images/{number}.{ending}")
        Image.fromarray(LABELS).save(tmp_path / f"masks/{number}.png")
    settings = written(rows("your images")[row])
    dataset = SegmentationFolder.from_path("train", path=tmp_path, classes=3, **settings)
    assert dataset.spec.value_range == value_range and check_dataset(dataset).ok
    image = dataset[0][0]
    assert image.shape == (settings.get("channels", 3), 40, 48) and 0 <= image.min() < 0.1 and 0.9 < image.max() <= 1
    for name in re.findall(r"`value_range: (\w+)`", rows("your images")[row]):
        named = SegmentationFolder.from_path("train", path=tmp_path, classes=3, value_range=name)
        assert named.spec.value_range == value_range


LAYOUTS = rows("what lies in your folder")


@pytest.mark.parametrize("row", LAYOUTS)
def test_a_folder_is_parted_as_the_table_says(tmp_path, row):
    names = [f"{group}-{number}" for group in "abc" for number in range(4)]
    places = re.findall(r"`([\w/.]+)`", row)
    for place in places:
        path = tmp_path / place
        if place.endswith(".txt"):
            part = ("train", "val", "test").index(path.stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(names[4 * part : 4 * part + 4]))
        else:
            path.mkdir(parents=True)
            for name in names:
                image = random.integers(0, 256, (40, 48, 3), np.uint8) if "images" in place else LABELS
                Image.fromarray(image).save(path / f"{name}.png")
    parts = Parts(tmp_path)
    found = {part: [image.stem for image, _ in parts.pairs(part)] for part in parts.names}
    assert ("test" in found) == ("test" in row)
    says = LAYOUTS[row]
    if says.startswith("the images in `val`"):
        assert parts.how == "folders" and found["val"] == names
        assert all("val" in image.relative_to(tmp_path).parts for image, _ in parts.pairs("val"))
    elif says.startswith("the names in `val.txt`"):
        assert parts.how == "lists" and found["val"] == names[4:8]
        assert found["train"] == (names[:4] if "train.txt" in row else names[:4] + names[8:])
    else:
        assert says.startswith("drawn") and parts.how == "drawn"
        assert sorted(found["train"] + found["val"]) == names and found["val"]
        if "train/images" in row:
            assert all("train" in image.relative_to(tmp_path).parts for image, _ in parts.pairs("val"))


# ------------------------------------------------------------------------------------------------------ configurations
def test_pieces_of_configurations_fit_into_the_whole(outputs):
    whole = read_yaml("leaves.yaml")
    pieces = [
        parse_yaml(text, "own_data.md") for language, text in BLOCKS if language == "yaml" and not NAMED.match(text)
    ]
    assert len(pieces) >= 2
    for piece in pieces:
        read_recipe({section: {**whole.get(section, {}), **piece.get(section, {})} for section in {*whole, *piece}})


def test_the_whole_section_shows_every_key_and_its_default(outputs):
    section = yaml.safe_load(Path("all.yaml").read_text(encoding="utf-8"))["data"]
    read_recipe("all.yaml", ["data.label_map={0: 0, 255: 1}"])
    arguments = inspect.signature(SegmentationFolder.from_path).parameters
    defaults = {
        key: argument.default for key, argument in arguments.items() if key not in ("split", "transform")
    }  # fmt: skip
    assert set(section) == {"type", *defaults, *inspect.signature(of_every_dataset).parameters}
    for key, default in defaults.items():
        if default is not inspect.Parameter.empty:
            assert section[key] == default, key
    assert section["augmentation"] == vars(Augmentation())
