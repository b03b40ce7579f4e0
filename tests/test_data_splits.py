"""Which files count, which belong together, and how a folder of one's own is parted."""

import os
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segtutor.data import CamVid, SegmentationFolder
from segtutor.data.check import check_path
from segtutor.data.errors import DataError
from segtutor.data.finding import list_files, same_images
from segtutor.data.root import DataNotFoundError
from segtutor.data.splits import Parts, draw, find_folders, part_name, read_list
from segtutor.files import write_text

rng = np.random.default_rng(0)
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pair(images, masks, *names):
    """Write an image and a mask for each name, no two images alike."""
    for name in names:
        for folder, array in ((images, rng.integers(0, 256, (6, 8, 3), np.uint8)),
                              (masks, np.resize(np.array([0, 1], np.uint8), (6, 8)))):  # fmt: skip
            path = folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def names(pairs):
    return [image.stem for image, _ in pairs]


@pytest.fixture
def flat(tmp_path):
    """Ten images and masks in two folders."""
    pair(tmp_path / "images", tmp_path / "masks", *(f"{i:02d}" for i in range(10)))
    return tmp_path


# ------------------------------------------------------------------------------------------------------------ parts
@pytest.mark.parametrize("val", ["val", "valid", "validation", "Valid"])
@pytest.mark.parametrize("layout", ["{part}/images {part}/masks", "images/{part} masks/{part}", "img/{part} GT/{part}"])
def test_parts_by_folders(tmp_path, layout, val):
    for part, inside in {"train": "ab", val: "cd", "testing": "e"}.items():
        pair(*(tmp_path / folder for folder in layout.format(part=part).split()), *inside)
    parts = Parts(tmp_path)
    assert parts.names == ("train", "val", "test") and parts.how == "folders"
    for split, inside in {"train": "ab", "val": "cd", "valid": "cd", "validation": "cd", "test": "e"}.items():
        assert names(parts.pairs(split)) == list(inside)
        dataset = SegmentationFolder.from_path(split, path=tmp_path, classes=2)
        assert names(dataset.pairs) == list(inside) and dataset.split == part_name(split)
    report = check_path(tmp_path)
    assert report.ok and report.images == 5 and "train 2, val 2, test 1 (by folders)" in str(report)


def test_nothing_is_called_test_that_nobody_named_so(flat):
    for split in ("test", "all", "trian"):
        with pytest.raises(DataError, match=f"has no part '{split}': choose train or val, or make one as a folder"):
            SegmentationFolder.from_path(split, path=flat, classes=2)
    assert Parts(flat).names == ("train", "val")


def test_a_test_folder_beside_images_that_nobody_parted(flat):
    pair(flat / "test" / "images", flat / "test" / "masks", "x", "y")
    parts = Parts(flat)
    assert parts.names == ("train", "val", "test") and names(parts.pairs("test")) == ["x", "y"]
    assert sorted(names(parts.pairs("train")) + names(parts.pairs("val"))) == [f"{i:02d}" for i in range(10)]


def test_a_training_folder_without_validation_is_drawn_from(tmp_path):
    pair(tmp_path / "train" / "images", tmp_path / "train" / "masks", *map(str, range(10)))
    parts = Parts(tmp_path, held_out=0.5)
    assert parts.how == "drawn" and len(parts.pairs("train")) + len(parts.pairs("val")) == 10


def test_folders_that_part_only_half(tmp_path):
    pair(tmp_path / "images" / "train", tmp_path / "masks" / "train", "a")
    pair(tmp_path / "images" / "val", tmp_path / "masks", "b")
    with pytest.raises(DataError, match="images is parted into train, val, but .*masks has no val: part both alike"):
        Parts(tmp_path)
    pair(tmp_path / "images" / "val", tmp_path / "masks" / "val", "b")
    (tmp_path / "masks" / "b.png").unlink()
    pair(tmp_path / "images", tmp_path / "masks", "loose")
    with pytest.raises(DataError, match=r"holds the parts train, val and 1 images outside of them \(loose.png\)"):
        Parts(tmp_path)
    assert "loose.png" in str(check_path(tmp_path))


def test_a_folder_that_only_happens_to_be_called_train(tmp_path):
    for subject in ("train", "bus", "car"):
        pair(tmp_path / "images" / subject, tmp_path / "masks" / subject, "1")
    assert find_folders(tmp_path) == {"train": (tmp_path / "images", tmp_path / "masks")}


@pytest.mark.parametrize("base", ["", "images"])
def test_two_names_for_one_part(tmp_path, base):
    for part in ("train", "val", "valid"):
        places = (f"{part}/images", f"{part}/masks") if not base else (f"images/{part}", f"masks/{part}")
        pair(*(tmp_path / place for place in places), "a")
    with pytest.raises(DataError, match="holds both val and valid, which are names of one part: keep one"):
        Parts(tmp_path)


def test_the_known_sets_take_the_same_names(tmp_path):
    for part in ("train", "val", "test"):
        pair(tmp_path / part, tmp_path / f"{part}annot", part)
    for split in ("val", "valid", "validation"):
        assert names(CamVid(split, root=tmp_path).pairs) == ["val"] and CamVid(split, root=tmp_path).split == "val"


# ------------------------------------------------------------------------------------------------------------ lists
@pytest.mark.parametrize("folder", [".", "splits", "lists", "ImageSets/Segmentation"])
@pytest.mark.parametrize("form", ["{}", "{}.png", "images/{}.png", "./images/{}.png", "images/{}.png masks/{}.png",
                                  "/data/mine/images/{}.png", "{}.png,masks/{}.png", "images\\{}.png"])  # fmt: skip
def test_list_files(flat, folder, form):
    (flat / folder).mkdir(parents=True, exist_ok=True)
    for part, inside in (("train", ("03", "01")), ("valid", ("02",)), ("test", ("09",))):
        lines = ["# names", "", *(form.format(name, name) for name in inside)]
        (flat / folder / f"{part}.txt").write_text("\ufeff" + "\r\n".join(lines))
    parts = Parts(flat)
    assert parts.how == "lists" and parts.names == ("train", "val", "test")
    assert [names(parts.pairs(part)) for part in parts.names] == [["01", "03"], ["02"], ["09"]]
    assert "train 2, val 1, test 1; 6 in no list (by lists of names)" in str(check_path(flat))


@pytest.mark.parametrize(("written", "other"), [("train", "val"), ("val", "train")])
def test_one_list_alone_says_of_the_others_what_they_are(flat, written, other):
    (flat / f"{written}.txt").write_text("00\n05\n")
    parts = Parts(flat)
    assert names(parts.pairs(written)) == ["00", "05"] and len(parts.pairs(other)) == 8


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"train": "00\n77\n", "val": "01\n"}, r"train.txt, line 2, names '77', which is not among the 10 images"),
        ({"train": "00\n01\n", "val": "01\n"}, r"val.txt names 01, which train.txt names too"),
        ({"train": "00\n", "val": "\n# nothing\n"}, r"val.txt names no image: write one name on each line"),
        ({"val": "\n".join(f"{i:02d}" for i in range(10))}, r"the lists leave no image for part 'train'"),
        ({"val": "01\n", "valid": "02\n"}, r"holds both val.txt and valid.txt: keep one of them"),
    ],
)
def test_lists_that_do_not_fit(flat, lists, says):
    for name, text in lists.items():
        (flat / f"{name}.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        Parts(flat).pairs("train")
    problem = next(problem for problem in check_path(flat).problems if problem.kind == "split")
    assert says.split()[-1] in str(problem)


def test_a_list_that_is_no_text(flat):
    (flat / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="train.txt cannot be read as a list of names .*: write it as UTF-8 text"):
        Parts(flat).pairs("train")


@many
@given(
    st.data(),
    st.sets(
        st.text(st.characters(exclude_characters="\n\0/\ufeff", codec="utf-8"), min_size=1, max_size=9),
        min_size=1,
        max_size=20,
    ),
)
def test_names_survive_being_written_and_read(tmp_path_factory, data, keys):
    """Also those that look like comments, begin with a blank, or hold commas, dots and what ends a line elsewhere."""
    folder = tmp_path_factory.mktemp("lists")
    keys = sorted({unicodedata.normalize("NFC", key) for key in keys})
    part = data.draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
    write_text(folder / "train.txt", "".join(f"{key}\n" for key in part))
    assert read_list(folder / "train.txt", keys, folder / "images", folder) == part


def test_a_line_means_the_name_that_it_spells_before_a_part_of_it(flat):
    pair(flat / "images", flat / "masks", "old 03", "old", "old.v2", "#5", "a,b")
    (flat / "train.txt").write_text("old 03.png\nold.v2.png\n#5\n# 00\na,b.png\n")
    assert names(Parts(flat).pairs("train")) == ["#5", "a,b", "old 03", "old.v2"]


def test_lists_from_another_folder(flat, tmp_path):
    with pytest.raises(DataError, match="it holds no train.txt and no val.txt; leave lists= out"):
        Parts(flat, lists="splits")
    pair(flat / "val" / "images", flat / "val" / "masks", "x")
    (flat / "splits").mkdir()
    (flat / "splits" / "train.txt").write_text("00\n")
    with pytest.raises(DataError, match="folders part the images already"):
        Parts(flat, lists="splits")


# ------------------------------------------------------------------------------------------------------------- draws
@many
@given(st.sets(st.text(min_size=1, max_size=9), min_size=2, max_size=40), st.floats(0.01, 0.99), st.data())
def test_a_new_image_moves_no_old_one(keys, held_out, data):
    """An image validates or not whatever others there are, so that what validated once is never trained on."""
    keys = {unicodedata.normalize("NFC", key) for key in keys}
    if len(keys) < 2:
        return
    held = set(draw(sorted(keys), held_out))
    assert 0 < len(held) < len(keys) and held <= keys
    more = keys | {unicodedata.normalize("NFC", key) for key in data.draw(st.sets(st.text(min_size=1, max_size=9)))}
    later = set(draw(sorted(more), held_out))
    moved = (held ^ later) & keys
    # One image has to stand in where the draw left a part empty, and gives way when there is a better one.
    assert len(moved) <= (1 if len(held) in (1, len(keys) - 1) or len(later) in (1, len(more) - 1) else 0)


@pytest.mark.parametrize("held_out", [0.05, 0.2, 0.5, 0.8, 0.9, 0.95])
def test_the_share_held_out_is_the_share_asked_for(held_out):
    for count in (200, 2000):
        held = draw([f"IMG_{i:05d}" for i in range(count)], held_out)
        spread = (held_out * (1 - held_out) / count) ** 0.5
        assert abs(len(held) / count - held_out) < 3 * spread


def test_a_drawn_split_is_written_and_read_back(flat, tmp_path):
    parts = Parts(flat, held_out=0.4)
    before = {part: names(parts.pairs(part)) for part in parts.names}
    parts.write_lists(tmp_path / "run" / "split")
    pair(flat / "images", flat / "masks", *(f"new {i}" for i in range(9)))
    again = Parts(flat, lists=tmp_path / "run" / "split")
    assert again.how == "lists" and {part: names(again.pairs(part)) for part in again.names} == before
    (flat / "images" / f"{before['train'][0]}.png").unlink()
    (flat / "masks" / f"{before['train'][0]}.png").unlink()
    with pytest.raises(
        DataError, match=f"line 1, names '{before['train'][0]}', which is not among .* or add the image"
    ):
        again = Parts(flat, lists=tmp_path / "run" / "split").pairs("val")


@pytest.mark.parametrize("held_out", [0, 1, -0.2, 20])
def test_a_share_that_is_none(flat, held_out):
    with pytest.raises(ValueError, match="held_out=.* is not valid: give a share between 0 and 1"):
        Parts(flat, held_out=held_out)


def test_one_image_makes_no_two_parts(tmp_path):
    pair(tmp_path / "images", tmp_path / "masks", "a")
    with pytest.raises(DataError, match="holds one image: training and validation need one each"):
        Parts(tmp_path).pairs("train")


def test_folders_without_data(tmp_path):
    with pytest.raises(DataNotFoundError, match="there is no folder .*nowhere"):
        Parts(tmp_path / "nowhere")
    with pytest.raises(DataNotFoundError, match="holds no folder of images and folder of masks: make"):
        Parts(tmp_path)


# ------------------------------------------------------------------------------------------------- the same image twice
@pytest.mark.parametrize("layout", ["{part}/images {part}/masks", "images/{part} masks/{part}"])
def test_identical_images_in_two_parts_are_found(tmp_path, layout):
    for part, inside in {"train": "ab", "val": "cd", "test": "e"}.items():
        pair(*(tmp_path / folder for folder in layout.format(part=part).split()), *inside)
    assert check_path(tmp_path).ok
    images = {part: tmp_path / layout.format(part=part).split()[0] for part in ("train", "val", "test")}
    (images["val"] / "d.png").write_bytes((images["train"] / "b.png").read_bytes())
    (images["train"] / "a.png").write_bytes((images["train"] / "b.png").read_bytes())  # twice in one part is no harm
    report = check_path(tmp_path)
    assert [problem.kind for problem in report.problems] == ["duplicate"]
    assert report.problems[0].file == str(images["val"] / "d.png")
    assert "is the same image as" in str(report) and "part 'train' and the other in 'val'" in str(report)
    found = same_images({part: sorted(folder.iterdir()) for part, folder in images.items()})
    assert [(part, other) for part, _, other, _ in found] == [("train", "val")]


def test_files_of_one_length_are_not_taken_for_one_image(tmp_path):
    for part, end in (("train", b"a"), ("val", b"b")):
        for number in range(2):
            (tmp_path / f"{part}{number}").write_bytes(b"x" * 9000 + (end if number else b"-"))
    found = same_images({part: [tmp_path / f"{part}{number}" for number in range(2)] for part in ("train", "val")})
    assert [(one.name, two.name) for _, one, _, two in found] == [("train0", "val0")]


def test_identical_images_on_two_sides_of_a_draw_are_found(flat):
    held = Parts(flat).pairs("val")[0][0]
    other = Parts(flat).pairs("train")[0][0]
    held.write_bytes(other.read_bytes())
    assert [problem.kind for problem in check_path(flat).problems] == ["duplicate"]


# ------------------------------------------------------------------------------------------------- files that count
def test_what_programs_keep_for_themselves_is_no_data(flat):
    for folder in (".ipynb_checkpoints", "@eaDir/00.png", "__MACOSX", ".hidden", "#recycle", "lost+found"):
        for place in (flat / "images", flat / "masks", flat / "images" / "sub"):
            pair(place / folder, place / folder, "00-checkpoint")
    (flat / "images" / "._00.png").write_bytes(b"x")
    (flat / "images" / ".DS_Store").write_bytes(b"x")
    assert sorted(list_files(flat / "images")) == [f"{i:02d}" for i in range(10)]
    for folder in (".ipynb_checkpoints", "@eaDir", ".train"):
        pair(flat / folder / "images", flat / folder / "masks", "x")
    assert check_path(flat).images == 10 and Parts(flat).names == ("train", "val")


def test_linked_folders_are_entered(tmp_path):
    pair(tmp_path / "disk" / "images", tmp_path / "disk" / "masks", "1", "2")
    for kind in ("images", "masks"):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        for town in ("rome", "oslo"):  # two links to one folder are two folders
            (tmp_path / "mine" / kind / town).symlink_to(tmp_path / "disk" / kind)
        (tmp_path / "mine" / kind / "round").symlink_to(tmp_path / "mine")  # and one leads back to where it stands
    found = sorted(list_files(tmp_path / "mine" / "images"))
    assert found[:4] == ["oslo/1", "oslo/2", "rome/1", "rome/2"]
    assert all(key.startswith("round/masks/") for key in found[4:])
    (tmp_path / "linked").mkdir()
    for kind in ("images", "masks"):
        (tmp_path / "linked" / kind).symlink_to(tmp_path / "disk" / kind)
    assert check_path(tmp_path / "linked").images == 2
    os.symlink(tmp_path / "nothing.png", tmp_path / "disk" / "images" / "3.png")  # leads nowhere
    assert check_path(tmp_path / "linked").images == 2


@many
@given(st.text(st.characters(categories=["L", "M", "N"]), min_size=1, max_size=8), st.sampled_from(["NFC", "NFD"]),
       st.sampled_from(["NFC", "NFD"]))  # fmt: skip
def test_accents_stored_in_two_ways_are_one_name(tmp_path_factory, name, one, two):
    base = tmp_path_factory.mktemp("accents")
    stems = [unicodedata.normalize(form, name) for form in (one, two)]
    if max(len(os.fsencode(stem)) for stem in stems) > 200:
        return
    for kind, stem in zip(("images", "masks"), stems, strict=True):
        (base / kind).mkdir()
        Image.fromarray(np.resize(np.array([0, 1], np.uint8), (6, 8))).save(base / kind / f"{stem}.png")
    assert len(SegmentationFolder(base / "images", base / "masks", classes=2)) == 1
    (base / "a.txt").write_text(unicodedata.normalize(two, name))
    (base / "a.txt").rename(base / "train.txt")
    assert len(Parts(base)._listed([unicodedata.normalize("NFC", name), "other"])) == 2


def test_twins_whose_names_look_the_same(flat):
    for form in ("NFC", "NFD"):
        pair(flat / "images", flat / "masks", unicodedata.normalize(form, "caf\u00e9"))
    with pytest.raises(DataError, match="whose names look the same and are stored differently: keep one of them"):
        list_files(flat / "images")
    assert "stored differently" in str(check_path(flat))


def test_a_mask_suffix_with_an_accent(tmp_path):
    pair(tmp_path / "images", tmp_path / "x", "a")
    pair(tmp_path / "y", tmp_path / "masks", unicodedata.normalize("NFD", "a_\u00e9"))
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2, mask_suffix="_\u00e9")
    assert len(dataset) == 1
