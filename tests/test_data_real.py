"""The real datasets: their files where SEGTUTOR_DATA names them, and small files of the same layout everywhere."""

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from segtutor import data
from segtutor.data import (
    ISBI2012,
    CamVid,
    Cityscapes,
    DrosophilaVNC,
    OxfordPets,
    SegmentationFolder,
    camvid,
    cityscapes,
    drosophila_vnc,
    isbi2012,
    oxford_pets,
    voc,
)
from segtutor.data.download import checksums
from segtutor.data.folder import default_colors
from segtutor.data.registry import find_dataset
from segtutor.data.root import DataNotFoundError, available, find_root

SPECS = [module.SPEC for module in (camvid, drosophila_vnc, isbi2012, oxford_pets, voc, cityscapes)]
# Set: every test below runs, and a missing folder is an error. Unset: the tests of real files have nothing to read.
needs_data = pytest.mark.skipif(not os.environ.get("SEGTUTOR_DATA"), reason="SEGTUTOR_DATA is not set")
rng = np.random.default_rng(0)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def photo(height=10, width=14):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


# ----------------------------------------------------------------------------------------------------- the real files
@needs_data
@pytest.mark.parametrize("split, count", [("train", 367), ("val", 101), ("test", 233)])
def test_camvid(split, count):
    dataset = CamVid(split)
    assert len(dataset) == count and dataset.spec.num_classes == 11
    for index in (0, count // 2, -1):
        image, mask = dataset[index]
        assert image.shape == (3, 360, 480) and image.dtype == torch.float32
        assert 0 <= image.min() < 0.2 and 0.8 < image.max() <= 1
        assert mask.shape == (360, 480) and mask.dtype == torch.int64
        raw = np.asarray(Image.open(dataset.pairs[index][1]))
        assert np.array_equal(mask.numpy(), np.where(raw == 11, 255, raw))
    with pytest.raises(IndexError):
        dataset[count]


@needs_data
def test_camvid_classes_lie_where_streets_have_them():
    """Sky above, road below: an off-by-one in the order of the classes would show."""
    dataset = CamVid("train", size=(45, 60))
    masks = torch.stack([dataset[i][1] for i in range(0, 367, 12)])
    rows = torch.arange(45.0).reshape(1, 45, 1).expand_as(masks)
    height = {name: rows[masks == label].mean() for label, name in enumerate(dataset.spec.classes)}
    assert height["sky"] < height["building"] < height["car"] < height["road"]
    images = torch.stack([dataset[i][0] for i in range(0, 367, 12)])
    sky, road = (images.mean(1)[masks == label].mean() for label in (0, 3))
    assert sky > road + 0.3


@needs_data
def test_camvid_labels_are_the_published_bytes():
    root, expected = find_root("camvid"), checksums("camvid")
    for path in list(expected)[700::97]:
        if "annot" in path:
            assert hashlib.sha256((root / path).read_bytes()).hexdigest() == expected[path]


@needs_data
@pytest.mark.parametrize("split, slices", [("train", 12), ("val", 2), ("test", 4)])
def test_vnc(split, slices):
    dataset = DrosophilaVNC(split)
    assert len(dataset) == slices
    image, mask = dataset[-1]
    assert image.shape == (1, 1024, 1024) and mask.shape == (1024, 1024)
    assert mask.unique().tolist() == [0, 1, 2, 3, 4]
    raw = np.asarray(Image.open(dataset.pairs[-1][1]))
    assert np.array_equal(mask.numpy() == 0, raw <= 128)
    for value, label in ((159, 1), (191, 2), (223, 3), (255, 4)):
        assert np.array_equal(mask.numpy() == label, raw == value)


@needs_data
def test_vnc_slices_are_apart():
    files = [{image.name for image, _ in DrosophilaVNC(split).pairs} for split in ("train", "val", "test")]
    used = set.union(*files)
    assert sum(map(len, files)) == len(used) == 18
    assert {f"{i:02d}.tif" for i in range(20)} - used == {"12.tif", "15.tif"}
    assert len(list((find_root("vnc") / "stack1" / "raw").glob("*.tif"))) == 20


@needs_data
def test_vnc_membrane_is_dark():
    image, mask = DrosophilaVNC("val")[0]
    assert image[0][mask == 0].mean() < image[0][mask == 4].mean() - 0.2


@needs_data
@pytest.mark.parametrize("tile", [256, (512, 128)])
def test_vnc_tiles_make_up_the_slice(tile):
    height, width = (tile, tile) if isinstance(tile, int) else tile
    whole, tiles = DrosophilaVNC("val", channels=3), DrosophilaVNC("val", tile=tile, channels=3)
    across, per_slice = 1024 // width, 1024 // height * (1024 // width)
    assert len(tiles) == 2 * per_slice
    image, mask = whole[1]
    for place in (0, across - 1, across, per_slice - 1):
        top, left = place // across * height, place % across * width
        cut, labels = tiles[per_slice + place]
        assert torch.equal(cut, image[:, top : top + height, left : left + width])
        assert torch.equal(labels, mask[top : top + height, left : left + width])
    assert pickle.loads(pickle.dumps(tiles))._slices == {}
    sized = DrosophilaVNC("val", tile=tile, size=(64, 32))[0]
    assert sized[0].shape == (1, 64, 32) and sized[1].shape == (64, 32)


@needs_data
@pytest.mark.parametrize("dataset, step", [(lambda: CamVid("train"), 6), (lambda: DrosophilaVNC("train"), 2)])
def test_statistics_are_those_of_the_training_images(dataset, step):
    dataset = dataset()
    images = [dataset[i][0] for i in range(0, len(dataset), step)]
    pixels = torch.stack(images).transpose(0, 1).flatten(1).double()
    assert torch.allclose(pixels.mean(1), torch.tensor(dataset.spec.mean).double(), atol=0.02)
    assert torch.allclose(pixels.std(1), torch.tensor(dataset.spec.std).double(), atol=0.02)


@needs_data
def test_known_folders_pass_the_check():
    from segtutor.data.check import check_path

    for name, images in (("camvid", 701), ("vnc", 18)):
        report = check_path(find_root(name), limit=3)
        assert report.ok and report.images == images, str(report)


@needs_data
def test_workers_read_the_same():
    dataset = CamVid("val", size=(48, 64))
    (images, masks) = next(iter(DataLoader(dataset, 4, num_workers=2)))
    for i in range(4):
        assert torch.equal(images[i], dataset[i][0]) and torch.equal(masks[i], dataset[i][1])


# ------------------------------------------------------------------------------------------------------ finding data
@pytest.fixture
def home(monkeypatch, tmp_path):
    """No data anywhere: an empty home folder and no SEGTUTOR_DATA."""
    monkeypatch.delenv("SEGTUTOR_DATA", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path / "home")
    return tmp_path / "home"


def small_camvid(folder, splits=("train", "val", "test"), suffix="png"):
    for split in splits:
        for name in ("b", "a"):
            save(folder / split / f"{name}.{suffix}", photo())
            save(folder / f"{split}annot" / f"{name}.png", np.resize(np.arange(12, dtype=np.uint8), (10, 14)))
    return folder


def test_the_variable_comes_before_the_cache(home, monkeypatch, tmp_path):
    assert find_root("camvid") is None and not available("CamVid")
    cache = small_camvid(home / ".cache" / "segtutor" / "camvid")
    assert find_root("camvid") == cache and available("CamVid") and CamVid().root == cache
    monkeypatch.setenv("SEGTUTOR_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    assert find_root("camvid") == cache  # the folder is there, this set is not in it
    mine = small_camvid(tmp_path / "data" / "camvid")
    assert find_root("camvid") == mine and data.find_root("CamVid") == mine


def test_a_variable_that_points_nowhere_is_an_error(home, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGTUTOR_DATA", str(tmp_path / "typo"))
    for call in (lambda: find_root("vnc"), lambda: available("vnc"), CamVid, lambda: CamVid(download=True)):
        with pytest.raises(DataNotFoundError, match="typo.*not a folder: correct or unset it"):
            call()
    with pytest.raises(ValueError):
        available("vnc")
    with pytest.raises(FileNotFoundError):
        available("vnc")


def test_names_of_sets():
    for spec in SPECS:
        entry = find_dataset(spec.name)
        assert entry.spec is spec and getattr(data, entry.title) is entry.build and spec.name in data.list_datasets()
    with pytest.raises(ValueError, match="there is no dataset 'camvit': did you mean camvid, "):
        available("camvit")
    with pytest.raises(ValueError, match="'scenes' has no files of its own: choose one of camvid, "):
        available("scenes")


@pytest.mark.parametrize("make", [CamVid, DrosophilaVNC, ISBI2012, OxfordPets, data.VOC])
def test_missing_data_says_what_to_do(home, make):
    with pytest.raises(DataNotFoundError, match="download=True, or set SEGTUTOR_DATA"):
        make()
    with pytest.raises(ValueError, match="has no split 'validate': choose one of train, val"):
        make("validate")


# ------------------------------------------------------------------------------------------------- small files, by set
@pytest.mark.parametrize("suffix", ["png", "jpg", "JPG"])
def test_camvid_reads_both_forms(tmp_path, suffix):
    root = small_camvid(tmp_path, suffix=suffix)
    dataset = CamVid("val", root=root)
    assert [pair[0].stem for pair in dataset.pairs] == ["a", "b"]
    image, mask = dataset[0]
    exact = np.asarray(Image.open(dataset.pairs[0][0]))
    assert np.array_equal(np.round(image.numpy() * 255).astype(np.uint8), exact.transpose(2, 0, 1))
    assert mask.unique().tolist() == [*range(11), 255]
    assert CamVid("val", root=tmp_path.parent / tmp_path.name).root == tmp_path


def test_camvid_names_what_is_wrong(tmp_path):
    root = small_camvid(tmp_path / "camvid", splits=("train",))
    with pytest.raises(DataNotFoundError, match="val"):
        CamVid("val", root=tmp_path)
    (root / "trainannot" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"without a mask \(b.png\)"):
        CamVid("train", root=tmp_path)
    save(root / "trainannot" / "b.png", np.full((10, 14), 12, np.uint8))
    with pytest.raises(ValueError, match=r"b.png holds the values 12; allowed are 0..11"):
        CamVid("train", root=tmp_path)[1]
    save(root / "trainannot" / "b.png", np.zeros((5, 7), np.uint8))
    with pytest.raises(ValueError, match=r"10 x 14 .* 5 x 7"):
        CamVid("train", root=tmp_path)[1]
    (root / "train" / "b.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        CamVid("train", root=tmp_path)[1]


def test_resizing_gives_no_new_labels(tmp_path):
    root = small_camvid(tmp_path)
    for size in ((7, 9), (33, 40), (10, 14)):
        image, mask = CamVid("val", root=root, size=size)[0]
        assert image.shape == (3, *size) and mask.shape == size
        assert set(mask.unique().tolist()) <= {*range(11), 255} and 0 <= image.min() and image.max() <= 1
    with pytest.raises(ValueError, match="size"):
        CamVid("val", root=root, size=(0, 5))


def test_what_is_kept_in_memory_stays_what_it_was(tmp_path):
    dataset = CamVid("val", root=small_camvid(tmp_path), size=(5, 7))
    before = dataset[1]
    kept = dataset.keep_in_memory()
    for _ in range(2):
        image, mask = kept[-1]
        assert torch.equal(image, before[0]) and torch.equal(mask, before[1])
        image.zero_(), mask.zero_()
    dataset.pairs[1][0].unlink()
    assert torch.equal(kept[1][0], before[0])  # not read again


def test_what_is_loaded_is_shared_by_loading_processes(tmp_path):
    from torch.utils.data import DataLoader

    dataset = CamVid("val", root=small_camvid(tmp_path), size=(5, 7))
    before = [dataset[index] for index in range(len(dataset))]
    assert dataset.load() is dataset
    for pair in dataset.pairs:
        pair[0].unlink()  # a process that kept images of its own would have to read them
    for (image, mask), (images, masks) in zip(before, DataLoader(dataset, 1, num_workers=1), strict=True):
        assert torch.equal(images[0], image) and torch.equal(masks[0], mask)


def test_transforms_get_image_and_mask(tmp_path):
    from torchvision import tv_tensors

    seen = []
    dataset = CamVid("val", root=small_camvid(tmp_path), transform=lambda *pair: seen.append(pair) or pair)
    image, mask = dataset[1]
    assert isinstance(seen[0][0], tv_tensors.Image) and isinstance(seen[0][1], tv_tensors.Mask)
    assert mask.shape == (10, 14)


def test_vnc_mistakes(tmp_path):
    for i in range(20):
        save(tmp_path / "stack1" / "raw" / f"{i:02d}.tif", np.zeros((4, 4), np.uint8))
        save(tmp_path / "stack1" / "labels" / f"labels{i:08d}.png", np.zeros((4, 4), np.uint8))
    for options, message in (({"tile": 300}, "divide"), ({"channels": 2}, "channels"), ({"split": "all"}, "split")):
        with pytest.raises(ValueError, match=message):
            DrosophilaVNC(root=tmp_path, **options)
    assert DrosophilaVNC(root=tmp_path, channels=3).spec.mean == drosophila_vnc.SPEC.mean * 3
    (tmp_path / "stack1" / "raw" / "03.tif").unlink()
    with pytest.raises(DataNotFoundError, match="03.tif"):
        DrosophilaVNC(root=tmp_path)


def test_isbi2012(tmp_path):
    for i in range(30):
        save(tmp_path / "isbi2012" / "train" / "image" / f"{i}.png", np.full((8, 8), i, np.uint8))
        save(tmp_path / "isbi2012" / "train" / "label" / f"{i}.png", np.resize(np.array([0, 255], np.uint8), (8, 8)))
    sets = {split: ISBI2012(split, root=tmp_path) for split in isbi2012.SLICES}
    numbers = {split: [round(float(image.max()) * 255) for image, _ in dataset] for split, dataset in sets.items()}
    assert numbers["train"] == list(range(20)) and numbers["val"] == [21, 22, 23]
    assert numbers["test"] == [25, 26, 27, 28, 29] and numbers["all"] == list(range(30))
    image, mask = ISBI2012(root=tmp_path, channels=3)[0]
    assert image.shape == (3, 8, 8) and mask[0].tolist() == [0, 1] * 4
    (tmp_path / "isbi2012" / "train" / "image" / "4.png").unlink()
    (tmp_path / "isbi2012" / "train" / "label" / "4.png").unlink()
    assert len(ISBI2012("test", root=tmp_path)) == 5
    with pytest.raises(DataNotFoundError, match="no slices 4 "):
        ISBI2012(root=tmp_path)


def test_cityscapes(tmp_path, home):
    for download in (False, True):
        with pytest.raises(DataNotFoundError, match="needs a login") as caught:
            Cityscapes(download=download)
        for part in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip", "SEGTUTOR_DATA"):
            assert part in str(caught.value)
    root = tmp_path / "cityscapes"
    ids = np.resize(np.arange(34, dtype=np.uint8), (6, 10))
    for split, city in (("train", "ulm"), ("val", "bonn")):
        save(root / "leftImg8bit" / split / city / f"{city}_000000_000019_leftImg8bit.png", photo(6, 10))
        save(root / "gtFine" / split / city / f"{city}_000000_000019_gtFine_labelIds.png", ids)
        save(root / "gtFine" / split / city / f"{city}_000000_000019_gtFine_color.png", photo(6, 10))
    dataset = Cityscapes("val", root=tmp_path)
    assert len(dataset) == 1
    # The mapping through torchvision's table of the same set, an independent reference.
    from torchvision.datasets import Cityscapes as Reference

    train_id = {entry.id: entry.train_id for entry in Reference.classes}
    expected = np.vectorize(lambda value: 255 if train_id[value] in (-1, 255) else train_id[value])(ids)
    assert np.array_equal(dataset[0][1].numpy(), expected)
    table = {entry.train_id: (entry.name, entry.color) for entry in Reference.classes if 0 <= entry.train_id < 19}
    assert [table[i] for i in range(19)] == list(zip(dataset.spec.classes, dataset.spec.palette, strict=True))
    with pytest.raises(ValueError, match="split 'test'"):
        Cityscapes("test", root=tmp_path)
    next((root / "gtFine" / "val").rglob("*labelIds.png")).unlink()
    with pytest.raises(ValueError, match="bonn_000000_000019_leftImg8bit.png"):
        Cityscapes("val", root=tmp_path)


def test_pets_and_voc_arguments(home):
    with pytest.raises(ValueError, match="border"):
        OxfordPets(border="none")
    with pytest.raises(ValueError, match="year"):
        data.VOC(year="1999")


# -------------------------------------------------------------------------------------------------------- own folders
def own(tmp_path, masks, **options):
    """A folder of one image for each mask: names to arrays or images."""
    for name, mask in masks.items():
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        save(tmp_path / "images" / f"{Path(name).stem}.jpg", photo(image.height, image.width))
        (tmp_path / "masks").mkdir(exist_ok=True)
        image.save(tmp_path / "masks" / name)
    return SegmentationFolder(tmp_path / "images", tmp_path / "masks", **options)


LABELS = np.resize(np.array([0, 1, 2, 255], np.uint8), (5, 7))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.PNG", "a.webp", "a.pgm"])
def test_masks_of_any_extension(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    (tmp_path / "masks").mkdir()
    Image.fromarray(LABELS).save(tmp_path / "masks" / name, **options)
    save(tmp_path / "images" / "a.jpeg", photo(5, 7))
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=["x", "y", "z"])
    assert np.array_equal(dataset[0][1].numpy(), LABELS)
    assert dataset.spec.classes == ("x", "y", "z") and len(set(dataset.spec.palette)) == 3


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(tmp_path, suffix):
    wide = np.resize(np.array([0, 1, 300, 65535], np.uint16), (5, 7))
    dataset = own(tmp_path, {f"a.{suffix}": wide}, classes=301, ignore_index=65535)
    assert np.array_equal(dataset[0][1].numpy(), wide.astype(np.int64))
    save(tmp_path / "images" / "a.png", wide)  # a 16-bit image, too
    (tmp_path / "images" / "a.jpg").unlink()
    for channels in (1, 3):
        options = {"classes": 301, "ignore_index": 65535, "channels": channels}
        image, _ = SegmentationFolder(tmp_path / "images", tmp_path / "masks", **options)[0]
        assert image.shape == (channels, 5, 7)
        assert np.allclose(image.numpy(), wide / 65535, atol=1e-6)


def test_palette_files_are_indices(tmp_path):
    image = Image.fromarray(LABELS)
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0] + [1, 2, 3] * 253)
    assert np.array_equal(own(tmp_path, {"a.png": image}, classes=3)[0][1].numpy(), LABELS)


def test_palette_files_follow_the_palette_when_it_has_their_colours(tmp_path):
    image = Image.fromarray(np.resize(np.array([5, 9], np.uint8), (5, 7)))
    colors = [0] * 768
    colors[15:18], colors[27:30] = (0, 0, 200), (200, 0, 0)
    image.putpalette(colors)
    dataset = own(tmp_path, {"a.png": image}, classes=["red", "blue"], palette=[(200, 0, 0), (0, 0, 200)])
    assert dataset[0][1].unique().tolist() == [0, 1] and dataset[0][1][0, 0] == 1


@pytest.mark.parametrize("alpha", [False, True])
def test_rgb_masks_by_palette(tmp_path, alpha):
    colors = np.array([(128, 0, 0), (0, 128, 0), (0, 0, 0)], np.uint8)
    which = rng.integers(0, 3, (5, 7))
    picture = colors[which]
    if alpha:
        picture = np.concatenate([picture, np.full((5, 7, 1), 128, np.uint8)], -1)
    palette = {(128, 0, 0): 0, (0, 128, 0): 1, (0, 0, 0): 255}
    dataset = own(tmp_path, {"a.png": picture}, classes=["red", "green"], palette=palette)
    assert np.array_equal(dataset[0][1].numpy(), np.array([0, 1, 255])[which])
    assert dataset.spec.palette == ((128, 0, 0), (0, 128, 0))
    without = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2)
    with pytest.raises(ValueError, match=r"a.png holds the colours .* pass palette="):
        without[0]
    save(tmp_path / "masks" / "a.png", np.full((5, 7, 3), (1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(1, 2, 3\)"):
        dataset[0]


def test_grey_labels_saved_as_rgb(tmp_path):
    dataset = own(tmp_path, {"a.png": np.repeat(LABELS[..., None], 3, -1)}, classes=3)
    assert np.array_equal(dataset[0][1].numpy(), LABELS)


def test_one_bit_and_0_255_masks(tmp_path):
    bits = rng.integers(0, 2, (5, 7)).astype(bool)
    assert np.array_equal(own(tmp_path, {"a.png": bits}, classes=2)[0][1].numpy(), bits)
    grey = np.where(bits, 255, 0).astype(np.uint8)
    dataset = own(tmp_path, {"a.png": grey}, classes=2, label_map={0: 0, 255: 1})
    assert np.array_equal(dataset[0][1].numpy(), bits)


def test_values_that_are_no_labels_are_named(tmp_path):
    dataset = own(tmp_path, {"a.png": np.full((5, 7), 4, np.uint8)}, classes=3)
    with pytest.raises(ValueError, match=r"a.png holds the values 4; allowed are 0, 1, 2, 255"):
        dataset[0]


def test_files_without_a_partner_are_named(tmp_path):
    own(tmp_path, {"a.png": LABELS, "b.png": LABELS}, classes=3)
    save(tmp_path / "images" / "c.png", photo())
    save(tmp_path / "masks" / "d.png", LABELS)
    with pytest.raises(ValueError, match=r"without a mask \(c.png\).*without an image \(d.png\)"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=3)
    (tmp_path / "images" / "c.png").unlink()
    (tmp_path / "masks" / "d.png").unlink()
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")  # what systems leave behind is no image
    (tmp_path / "images" / "._a.jpg").write_bytes(b"x")
    assert len(SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=3)) == 2
    save(tmp_path / "images" / "a.png", photo())
    with pytest.raises(ValueError, match="both a.jpg and a.png"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=3)


def test_subfolders_and_suffixes(tmp_path):
    for town in ("rome", "oslo"):
        save(tmp_path / "images" / town / "1.final.jpg", photo(5, 7))
        save(tmp_path / "masks" / town / "1.final_mask.png", LABELS)
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=3, mask_suffix="_mask")
    assert [mask.parent.name for _, mask in dataset.pairs] == ["oslo", "rome"]
    with pytest.raises(ValueError, match="mask_suffix"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": []}, "classes is empty"),
        ({"classes": 3, "palette": [(0, 0, 0)]}, "1 different colours for 3 classes"),
        ({"classes": 3, "palette": {(0, 0, 0): 7}}, "palette maps to the labels 7"),
        ({"classes": 3, "label_map": {0: 7}}, "label_map maps to 7"),
        ({"classes": 3, "channels": 4}, "channels"),
        ({"classes": 3, "ignore_index": 1}, "ignores label 1"),
    ],
)
def test_folder_mistakes(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        own(tmp_path, {"a.png": LABELS}, **options)


def test_folders_that_do_not_exist(tmp_path):
    with pytest.raises(DataNotFoundError, match="there is no folder"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2)


# -------------------------------------------------------------------------------------------------------------- specs
def lab(colors):
    """CIELAB (D65) of RGB colours in [0, 1], linear."""
    xyz = colors @ np.array([[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920],
                             [0.1804375, 0.0721750, 0.9503041]])  # fmt: skip
    f = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(f > (6 / 29) ** 3, np.cbrt(np.maximum(f, 0)), f / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


SIGHT = {  # Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
    "all": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    "palette",
    [*(m.SPEC.palette for m in (camvid, drosophila_vnc, isbi2012)), oxford_pets.SPEC_WITH_BORDER.palette],
    ids=["camvid", "vnc", "isbi2012", "pets"],
)
def test_colours_can_be_told_apart(palette, sight):
    rgb = np.array(palette) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = lab(np.clip(linear @ SIGHT[sight].T, 0, 1))
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e9 * np.eye(len(seen))
    assert distance.min() > 14, np.unravel_index(distance.argmin(), distance.shape)


def test_camvid_colours_are_those_of_the_figures():
    from segtutor.viz import PALETTE

    assert camvid.SPEC.palette == tuple(PALETTE[:11])


def test_voc_colours_are_those_in_its_files():
    # The start of the devkit's colour map, as in the released masks.
    assert voc.SPEC.palette[:6] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert voc.SPEC.palette[20] == (0, 64, 128) and voc.voc_color(255) == (224, 224, 192)
    assert voc.SPEC.num_classes == 21


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_specs_are_complete(spec):
    assert spec.ignore_index == 255 and spec.licence and spec.homepage.startswith("http")
    assert len(set(spec.classes)) == len(spec.classes) and len(set(spec.palette)) == len(spec.palette)
    assert spec.urls or spec.name == "cityscapes"
    assert spec.in_channels == (1 if spec.name in ("vnc", "isbi2012") else 3)
    bibliography = Path(__file__).parent.parent / "book" / "references.bib"
    assert f"{{{spec.citation}," in bibliography.read_text(encoding="utf-8")


def test_torchvision_still_has_the_addresses_and_digests():
    from torchvision.datasets import OxfordIIITPet
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    assert tuple(url for url, _ in OxfordIIITPet._RESOURCES) == oxford_pets.SPEC.urls
    assert all(len(md5) == 32 for _, md5 in OxfordIIITPet._RESOURCES)
    assert {"url", "md5"} <= set(DATASET_YEAR_DICT["2012"]) and set(map(str, voc.YEARS)) < set(DATASET_YEAR_DICT)


@pytest.mark.parametrize("count", [1, 12, 40])
def test_default_colours_differ(count):
    colors = default_colors(count)
    assert len(set(colors)) == count and all(0 <= part <= 255 for color in colors for part in color)
