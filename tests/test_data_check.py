"""check_dataset names the file, the values found, the values allowed and the likely cause, one test for each cause."""

import numpy as np
import pytest
import torch
from PIL import Image

from segtutor.data import DatasetReport, SegmentationFolder, check_dataset
from segtutor.data.check import before_training, check_path
from segtutor.data.spec import DatasetSpec

rng = np.random.default_rng(0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def photo(height=12, width=16):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(*values, height=12, width=16):
    """A mask that holds these values and no other."""
    return np.resize(np.array(values, dtype=np.uint8), (height, width))


@pytest.fixture
def folder(tmp_path):
    """A good data set of two images with three classes and void."""
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.jpg", photo())
        save(tmp_path / "masks" / f"{name}.png", labels(0, 1, 2, 255))
    return tmp_path


def only_problem(report):
    assert isinstance(report, DatasetReport) and not report.ok
    assert len(report.problems) == 1, str(report)
    return report.problems[0]


def test_a_good_folder(folder):
    report = check_path(folder, num_classes=3)
    assert report.ok and report.problems == []
    assert (report.images, report.checked, report.sizes[12, 16]) == (2, 2, 2)
    assert report.class_frequencies == pytest.approx(dict.fromkeys(("class 0", "class 1", "class 2"), 1 / 3))
    assert report.void == 2 * 12 * 16 // 4
    text = str(report)
    assert "No problems found" in text and "33.33 %" in text and "25.00 % of all pixels" in text


def test_the_number_of_classes_is_taken_from_the_masks(folder):
    report = check_path(folder)
    assert report.ok and report.inferred and len(report.classes) == 3
    assert "as many as the masks hold" in str(report)


def test_rare_and_absent_classes_are_pointed_out(folder):
    mask = np.zeros((12, 16), np.uint8)
    mask[0, 0] = 1
    for name in ("a", "b"):
        save(folder / "masks" / f"{name}.png", mask)
    text = str(check_path(folder, num_classes=3))
    assert "rare" in text and "never occurs" in text


@pytest.mark.parametrize("num_classes", [None, 2, 5])
def test_binary_0_255(folder, num_classes):
    for name in ("a", "b"):
        save(folder / "masks" / f"{name}.png", labels(0, 255))
    problem = only_problem(check_path(folder, num_classes=num_classes))
    assert problem.kind == "binary" and problem.found == (0, 255)
    assert "label_map={0: 0, 255: 1}" in problem.message
    fixed = check_dataset(folder / "images", folder / "masks", classes=2, label_map={0: 0, 255: 1})
    assert fixed.ok and fixed.pixels == (192, 192)


def test_binary_0_255_where_255_is_not_void(folder):
    for name in ("a", "b"):
        save(folder / "masks" / f"{name}.png", labels(0, 255))
    report = check_dataset(folder / "images", folder / "masks", classes=2, ignore_index=254)
    assert len(report.problems) == 2 and "0/255 binary" in report.problems[0].message


def test_rgb_mask(folder):
    colored = np.zeros((12, 16, 3), np.uint8)
    colored[:6] = (128, 64, 0)
    path = save(folder / "masks" / "b.png", colored)
    problem = only_problem(check_path(folder, num_classes=3))
    assert problem.kind == "colors" and problem.file == str(path)
    assert set(problem.found) == {(0, 0, 0), (128, 64, 0)} and "RGB mask; pass palette=" in problem.message


def test_a_colour_that_the_palette_lacks(folder):
    colored = np.zeros((12, 16, 3), np.uint8)
    colored[:6], colored[6] = (255, 0, 0), (250, 0, 0)
    for name in ("a", "b"):
        path = save(folder / "masks" / f"{name}.png", colored)
    options = {"classes": ["ground", "roof"], "palette": [(0, 0, 0), (255, 0, 0)]}
    report = check_dataset(folder / "images", folder / "masks", **options)
    assert [problem.kind for problem in report.problems] == ["colors", "colors"]
    assert "(250, 0, 0)" in report.problems[1].message and report.problems[1].file == str(path)
    colored[6] = (255, 0, 0)
    for name in ("a", "b"):
        save(folder / "masks" / f"{name}.png", colored)
    assert check_dataset(folder / "images", folder / "masks", **options).pixels == (5 * 32, 7 * 32)


def test_palette_file_is_no_problem_but_its_colours_as_rgb_are(folder):
    image = Image.fromarray(labels(0, 1, 2))
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(folder / "masks" / "a.png")
    assert check_path(folder, num_classes=3).ok
    image.convert("RGB").save(folder / "masks" / "a.png")
    assert only_problem(check_path(folder, num_classes=3)).kind == "colors"


def test_size_mismatch(folder):
    path = save(folder / "masks" / "b.png", labels(0, 1, 2, height=6, width=8))
    problem = only_problem(check_path(folder, num_classes=3))
    assert (problem.kind, problem.file, problem.found, problem.allowed) == ("size", str(path), (6, 8), (12, 16))
    assert "b.jpg" in problem.message and "nearest neighbour" in problem.message


def test_height_and_width_swapped(folder):
    save(folder / "masks" / "b.png", labels(0, 1, height=16, width=12))
    assert "swapped" in only_problem(check_path(folder, num_classes=3)).message
    exif = Image.Exif()
    exif[274] = 6  # a viewer shows it 16 x 12, so the mask fits now
    save(folder / "images" / "b.jpg", photo(), exif=exif)
    report = check_path(folder, num_classes=3)
    assert report.ok and "turn: 1" in str(report)
    save(folder / "masks" / "b.png", labels(0, 1, height=12, width=16))
    assert "EXIF" in only_problem(check_path(folder, num_classes=3)).message


def test_labels_from_one(folder):
    for name, values in (("a", (1, 2, 3)), ("b", (1, 2))):
        path = save(folder / "masks" / f"{name}.png", labels(*values))
    problem = only_problem(check_path(folder, num_classes=3))
    assert problem.kind == "values" and problem.found == (1, 2, 3) and problem.allowed == (0, 1, 2, 255)
    assert "1..3 instead of 0..2" in problem.message and problem.file == str(path).replace("b.png", "a.png")
    assert only_problem(check_path(folder)).kind == "off by one"


def test_the_cause_is_told_from_all_masks(folder):
    """A mask of 1, 2, 3 alone looks like labels from one; beside a mask with 0 it does not."""
    save(folder / "masks" / "a.png", labels(1, 2, 3))
    message = only_problem(check_path(folder, num_classes=3)).message
    assert "instead of" not in message and "4 classes, or 3 is void" in message


def test_void_that_is_not_named(folder):
    report = check_dataset(folder / "images", folder / "masks", classes=3, ignore_index=254)
    assert len(report.problems) == 2 and "ignore_index=255" in report.problems[0].message


def test_grey_levels_spread_to_be_seen(folder):
    for name in ("a", "b"):
        save(folder / "masks" / f"{name}.png", labels(0, 80, 160, 240))
    report = check_path(folder, num_classes=4)
    assert "spread over the grey levels" in report.problems[0].message
    assert "gaps" in only_problem(check_path(folder)).message


def test_masks_that_were_smoothed(folder):
    for name in ("a", "b"):
        save(folder / "masks" / f"{name}.png", labels(*range(150)))
    assert "interpolation" in check_path(folder, num_classes=3).problems[0].message
    assert "interpolation" in only_problem(check_path(folder)).message
    colored = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    colored[0, :, 0] = np.arange(16)
    save(folder / "masks" / "a.png", np.tile(colored, (4, 4, 1)))
    save(folder / "images" / "a.jpg", photo(48, 64))
    save(folder / "masks" / "b.png", labels(0, 1))
    save(folder / "masks" / "a.png", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    assert "photograph" in only_problem(check_path(folder, num_classes=3)).message


def test_jpeg_masks(folder):
    (folder / "masks" / "b.png").unlink()
    path = save(folder / "masks" / "b.jpg", labels(0, 40, 90), quality=40)
    problem = only_problem(check_path(folder, num_classes=3))
    assert problem.file == str(path) and "JPEG" in problem.message


@pytest.mark.parametrize("which", ["images/b.jpg", "masks/b.png"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_unreadable_files(folder, which, damage):
    path = folder / which
    whole = save(path, photo(200, 200) if "images" in which else labels(*range(3), height=200, width=200)).read_bytes()
    path.write_bytes({"empty": b"", "text": b"no picture", "cut": whole[: len(whole) // 2]}[damage])
    problem = only_problem(check_path(folder, num_classes=3))
    assert problem.kind == "unreadable" and problem.file == str(path) and "damaged" in problem.message


def test_missing_partner(folder):
    save(folder / "images" / "lonely.png", photo())
    save(folder / "masks" / "orphan.png", labels(0))
    report = check_path(folder, num_classes=3)
    assert [problem.kind for problem in report.problems] == ["unmatched"] * 2
    assert "lonely.png" in report.problems[0].message and "orphan.png" in report.problems[1].message
    assert report.checked == 2  # the others are looked at all the same


def test_the_report_is_short_however_many_files_are_wrong(folder):
    for i in range(40):
        save(folder / "images" / f"{i}.png", photo())
        save(folder / "masks" / f"{i}.png", labels(0, 9))
    report = check_path(folder, num_classes=3)
    assert len(report.problems) == 40
    assert "40 problems" in str(report) and "and 35 more" in str(report) and len(str(report).splitlines()) < 20


@pytest.mark.parametrize("images, masks", [("images", "masks"), ("img", "label"), ("JPEGImages", "SegmentationClass"),
                                           ("Image", "annotations"), ("train/images", "train/masks")])  # fmt: skip
def test_names_of_folders(tmp_path, images, masks):
    save(tmp_path / images / "a.png", photo())
    save(tmp_path / masks / "a.png", labels(0, 1))
    report = check_path(tmp_path)
    assert report.ok and report.images == 1


def test_splits_are_added_up(tmp_path):
    for part in ("train", "val"):
        save(tmp_path / part / "images" / "a.png", photo())
        save(tmp_path / part / "masks" / "a.png", labels(0, 1))
    assert check_path(tmp_path).images == 2


def test_a_folder_without_data_and_no_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert "images" in only_problem(check_path(tmp_path / "empty")).message
    assert "does not exist" in only_problem(check_path(tmp_path / "nowhere")).message
    assert "not a folder" in only_problem(check_path(tmp_path / "file")).message
    (tmp_path / "empty" / "images").mkdir()
    (tmp_path / "empty" / "masks").mkdir()
    assert "no image files" in only_problem(check_path(tmp_path / "empty")).message


def test_limit_is_spread_over_the_set(folder):
    for i in range(20):
        save(folder / "images" / f"{i:02d}.png", photo())
        save(folder / "masks" / f"{i:02d}.png", labels(0, 1))
    report = check_path(folder, limit=4)
    assert (report.images, report.checked) == (22, 4)
    assert "4 of 22 images checked" in str(report)


def test_a_dataset_object_with_files(folder):
    dataset = SegmentationFolder(folder / "images", folder / "masks", classes=["x", "y", "z"])
    assert check_dataset(dataset).class_frequencies == pytest.approx({"x": 1 / 3, "y": 1 / 3, "z": 1 / 3})
    path = save(folder / "masks" / "b.png", labels(0, 7))
    assert only_problem(check_dataset(dataset)).file == str(path)


class Items:
    spec = DatasetSpec("toy", "Toy", ("a", "b"), ((0, 0, 0), (255, 255, 255)))

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


def item(*values, channels=3):
    return torch.rand(channels, 4, 6), torch.from_numpy(np.resize(np.array(values), (4, 6))).long()


def test_a_dataset_object_without_files():
    report = check_dataset(Items(item(0, 1, 255), item(0, 1)))
    assert report.ok and report.classes == ("a", "b") and report.void == 8 and report.pixels == (20, 20)
    problem = only_problem(check_dataset(Items(item(0, 1), item(0, 2))))
    assert problem.file == "item 1" and problem.found == (0, 1, 2) and problem.allowed == (0, 1, 255)
    assert only_problem(check_dataset(Items(item(0, 255)))).kind == "binary"
    assert "instead of 0..1" in only_problem(check_dataset(Items(item(1, 2)))).message


@pytest.mark.parametrize(
    "bad, message",
    [
        (RuntimeError("broken"), "RuntimeError: broken"),
        ((torch.rand(3, 4, 6), torch.zeros(4, 5).long()), "same H and W"),
        ((torch.zeros(3, 4, 6).byte(), torch.zeros(4, 6).long()), "floats"),
        ((torch.rand(3, 4, 6), torch.zeros(4, 6)), "int64"),
        ((torch.full((3, 4, 6), float("nan")), torch.zeros(4, 6).long()), "not finite"),
        ((np.zeros((3, 4, 6)), torch.zeros(4, 6).long()), "two tensors"),
    ],
)
def test_items_that_are_not_of_the_agreed_form(bad, message):
    problem = only_problem(check_dataset(Items(item(0, 1), bad)))
    assert problem.file == "item 1" and message in problem.message


def test_a_known_set_is_recognised(tmp_path):
    for split in ("train", "val", "test"):
        save(tmp_path / split / "a.png", photo())
        save(tmp_path / f"{split}annot" / "a.png", labels(*range(12)))
    report = check_path(tmp_path)
    assert report.ok and report.name == "CamVid" and report.images == 3 and report.void == 3 * 16
    save(tmp_path / "valannot" / "a.png", labels(0, 40))
    problem = only_problem(check_path(tmp_path))
    assert problem.found == (0, 40) and problem.allowed == tuple(range(12))
    (tmp_path / "testannot" / "a.png").unlink()
    assert {problem.kind for problem in check_path(tmp_path).problems} == {"values", "missing"}


# ------------------------------------------------------------------------------------------- what only all masks show
def two_folders(tmp_path, *masks, **options):
    """A folder of one image for each mask."""
    for number, mask in enumerate(masks):
        save(tmp_path / "images" / f"{number:02d}.png", photo())
        save(tmp_path / "masks" / f"{number:02d}.png", mask)
    return SegmentationFolder(tmp_path / "images", tmp_path / "masks", **{"classes": 2, **options})


ONE_CLASS = {
    "0 and 255": ([labels(0, 255)] * 3, {}, "binary", "--label-map 0:0,255:1"),
    "1 and 255": ([labels(1, 255)] * 3, {}, "binary", "--label-map 1:0,255:1"),
    "0 and another void": ([labels(0, 200)] * 3, {"ignore_index": 200}, "binary", "--label-map 0:0,200:1"),
    "all void": ([labels(255)] * 3, {}, "void", "there is nothing to learn"),
    "all void by a label map": ([labels(0, 255)] * 3, {"label_map": {0: 255, 255: 255}}, "void", "nothing to learn"),
    "one class": ([labels(0)] * 3, {}, "one class", "hold one class only, 0 (class 0)"),
    "the other class": ([labels(1)] * 3, {}, "one class", "hold one class only, 1 (class 1)"),
    "one class by a label map": ([labels(0, 255)] * 3, {"label_map": {0: 1, 255: 1}}, "one class", "one class only, 1"),
    "one class by colour": ([labels(0)] * 3, {"palette": [(0, 0, 0), (9, 9, 9)]}, "one class", "one class only, 0"),
    "one class named": ([labels(0, 255)] * 3, {"classes": ["car"]}, "binary", "give two classes"),
}


def found(*data, **options):
    """What is wrong before training, in sentences."""
    return [str(problem) for problem in before_training(*data, **options).problems]


@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class_alone_is_told(tmp_path, name):
    masks, options, kind, words = ONE_CLASS[name]
    dataset = two_folders(tmp_path, *masks, **options)
    problem = only_problem(check_dataset(dataset))
    assert problem.kind == kind and words in problem.message
    assert [words in sentence for sentence in found(dataset)] == [True]
    other = two_folders(tmp_path / "good", labels(0, 1))
    training, validation = found(dataset, dataset)[0], found(other, dataset)
    assert training.startswith("training: ") and [text.partition(":")[0] for text in validation] == ["validation"]


def test_a_rare_class_is_looked_for_beyond_the_sample(tmp_path):
    for value, words in ((0, "one class"), (255, "nothing to learn")):
        dataset = two_folders(tmp_path, *[labels(value)] * 30)
        assert words in found(dataset, limit=4)[0]
        save(tmp_path / "masks" / "13.png", labels(0, 0, 0, 1))
        assert found(dataset, limit=4) == []
    assert check_dataset(dataset, limit=4).ok


def test_a_sample_is_read_and_the_others_are_glanced_at(tmp_path):
    """40 pairs of a large set are read before training; sizes and palettes are told by the start of a file."""
    dataset = two_folders(tmp_path, *[labels(0, 1)] * 30)
    save(tmp_path / "masks" / "17.png", labels(0, 1, height=4))
    (tmp_path / "images" / "19.png").write_bytes(b"no image")
    first, second = sorted(found(dataset, limit=2))
    assert "19.png: cannot be read as an image" in first and "17.png: is 4 x 16 pixels" in second


def test_random_numbers_stay_as_they_were(tmp_path):
    from segtutor.data.transforms import train_transform

    dataset = two_folders(tmp_path, labels(0, 1))
    dataset.transform = train_transform(dataset.spec, (8, 8))

    class Noisy(Items):
        def __getitem__(self, index):
            torch.rand(1), np.random.rand(1)
            return super().__getitem__(index)

    noisy = Noisy(item(0, 1), item(0, 1))
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    assert found(dataset, noisy) == []
    assert torch.equal(states[0], torch.random.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


def test_items_of_one_class_are_told_too():
    for values, words in (((0, 255), "binary masks"), ((255,), "nothing to learn"), ((1,), "one class only, 1 (b)")):
        assert words in only_problem(check_dataset(Items(item(*values), item(*values)))).message


def test_of_sets_without_files_a_few_items_are_made():
    class Counting(Items):
        asked = 0

        def __getitem__(self, index):
            self.asked += 1
            return super().__getitem__(index)

    several, one = Counting(*[item(0, 1)] * 30), Counting(*[item(0)] * 29, item(0, 1))
    assert found(several, one) == [] and several.asked == 4 and one.asked == 30


def test_images_in_both_parts_are_told_found(tmp_path):
    train, other = two_folders(tmp_path / "a", labels(0, 1)), two_folders(tmp_path / "b", labels(0, 1))
    (tmp_path / "b" / "images" / "00.png").write_bytes((tmp_path / "a" / "images" / "00.png").read_bytes())
    assert "is the same image as" in found(train, other)[0]


# -------------------------------------------------------------------------------------------------------- palettes
def indexed(path, mask, *colors):
    image = Image.fromarray(mask).convert("P")
    image.putpalette([part for color in colors for part in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


RED, GREEN, BLACK = (200, 0, 0), (0, 200, 0), (0, 0, 0)


@pytest.mark.parametrize("limit", [None, 1])
def test_palettes_that_differ_from_file_to_file(folder, limit):
    mask = labels(0, 1, 2)
    indexed(folder / "masks" / "a.png", mask, BLACK, RED, GREEN)
    indexed(folder / "masks" / "b.png", mask, BLACK, RED, GREEN, (9, 9, 9))  # an index more that nobody uses
    assert check_path(folder, num_classes=3, limit=limit).ok
    indexed(folder / "masks" / "b.png", mask, BLACK, GREEN, RED)
    problem = only_problem(check_path(folder, num_classes=3, limit=limit))
    assert problem.kind == "palette" and problem.file.endswith("b.png")
    assert "index 1 as (0, 200, 0), but a.png shows it as (200, 0, 0)" in problem.message
    assert "pass palette=" in problem.message
    assert check_path(folder, palette=[BLACK, RED, GREEN], limit=limit).ok  # the cure that the message names


def test_greys_that_are_colours_in_one_mask_and_labels_in_another(folder):
    save(folder / "masks" / "a.png", labels(0, 255))
    save(folder / "masks" / "b.png", labels(0, 1))
    problem = only_problem(check_path(folder, palette=[BLACK, (255, 255, 255)]))
    assert "holds greys that are colours of palette=, but b.png holds labels" in problem.message


def test_a_colour_that_is_almost_one_of_the_palette(folder):
    for name in "ab":
        save(folder / "masks" / f"{name}.png", np.array([BLACK, (201, 0, 0)], np.uint8)[labels(0, 1)])
    report = check_path(folder, palette=["#000000", "#c80000"])
    assert len(report.problems) == 2 and "(201, 0, 0) is almost (200, 0, 0)" in report.problems[0].message


# ------------------------------------------------------------------------------------------------- one finding a file
def test_what_loses_labels_has_a_kind_of_its_own(folder):
    save(folder / "masks" / "a.png", np.dstack([labels(0), labels(0), labels(0), labels(0, 1)]))
    assert only_problem(check_path(folder, num_classes=3)).kind == "alpha"
    Image.fromarray(labels(0, 1)).save(folder / "masks" / "a.png", format="JPEG")
    assert only_problem(check_path(folder, num_classes=3)).kind == "lossy"
    (folder / "masks" / "a.png").unlink()
    pages = [Image.fromarray(labels(0, 1))] * 2
    pages[0].save(folder / "masks" / "a.tif", save_all=True, append_images=pages[1:])
    assert only_problem(check_path(folder, num_classes=3)).kind == "pages"


def test_image_values_that_do_not_fit(folder):
    for name in "ab":
        (folder / "images" / f"{name}.jpg").unlink()
        save(folder / "images" / f"{name}.png", np.full((12, 16), 2000, np.uint16))
    assert "value_range=(0, 4095)" in str(check_path(folder, num_classes=3))
    assert "100.0% lie outside and are cut off" in str(check_path(folder, num_classes=3, value_range=(0, 1000)))
    save(folder / "images" / "b.png", photo())
    assert "b.png has 8: save all images alike" in str(check_path(folder, num_classes=3))
    for name, value in (("a", 1), ("b", 3)):
        save(folder / "images" / f"{name}.png", np.full((12, 16, 3), value, np.uint8))
    assert "no image has a value above 3" in only_problem(check_path(folder, num_classes=3)).message
    save(folder / "images" / "a.png", np.zeros((12, 16), np.uint8))
    save(folder / "images" / "b.png", np.zeros((12, 16), np.uint8), compress_level=0)
    assert "every image is black" in only_problem(check_path(folder, num_classes=3)).message
    (folder / "images" / "b.png").unlink()
    (folder / "images" / "a.png").unlink()
    values = np.ones((12, 16), np.float32)
    save(folder / "images" / "a.tif", values)
    values[0, 0] = np.nan
    save(folder / "images" / "b.tif", values)
    problem = only_problem(check_path(folder, num_classes=3))
    assert problem.file.endswith("b.tif") and "not finite" in problem.message


def test_a_label_map_that_forgets_a_value(folder):
    report = check_path(folder, label_map={0: 0, 1: 1, 255: 255})
    assert len(report.problems) == 2
    assert "holds the values 0, 1, 2, 255" in report.problems[0].message and "which label 2 is" in str(report)
