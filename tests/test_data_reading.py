"""Image and mask files are read as numbers, in the range of their set, the way round in which a viewer shows them."""

import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from segtutor.data import SegmentationFolder, check_dataset
from segtutor.data.errors import DataError, MaskError
from segtutor.data.labels import LabelMapping, likely_cause
from segtutor.data.ranges import NAMED, as_range, to_unit
from segtutor.data.reading import glance, measure_range, read_image, read_raw_mask, read_size, read_values, turn

rng = np.random.default_rng(0)
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def photo(height=6, width=8):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(*values, height=6, width=8):
    return np.resize(np.array(values, np.uint8), (height, width))


def save_png(path, array):
    """A PNG of 16 bits and 1 to 4 channels, which Pillow does not write."""
    height, width, channels = array.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def save_tiff(path, array, kind=1):
    """A TIFF of any depth and any number of channels; kind is 1 for unsigned, 2 for signed numbers, 3 for floats."""
    height, width, channels = array.shape
    bits, content = array.dtype.itemsize * 8, array.tobytes()
    long = channels > 2  # two numbers of 16 bits fit into the entry itself
    many_at = 8 + 2 + 12 * 11 + 4
    data_at = many_at + 4 * channels

    def entry(tag, type_, count, value):
        return struct.pack("<HHII", tag, type_, count, value)

    def each(tag, value, at):
        return entry(tag, 3, channels, at if long else value | (value << 16 if channels == 2 else 0))

    tags = [
        entry(256, 4, 1, width), entry(257, 4, 1, height), each(258, bits, many_at), entry(259, 3, 1, 1),
        entry(262, 3, 1, 2 if channels > 2 else 1), entry(273, 4, 1, data_at), entry(277, 3, 1, channels),
        entry(278, 4, 1, height), entry(279, 4, 1, len(content)), entry(338, 3, 1, 2),
        each(339, kind, many_at + 2 * channels),
    ]  # fmt: skip
    if channels in (1, 3):
        tags[9] = entry(284, 3, 1, 1)  # no further channel: say "interleaved" in its place
    pair = struct.pack(f"<{channels}H", *[bits] * channels) + struct.pack(f"<{channels}H", *[kind] * channels)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 11) + b"".join(tags) + struct.pack("<I", 0) + pair + content)
    return path


# ----------------------------------------------------------------------------------------------------- ranges
RANGES = {
    "float in [0, 1]": (rng.random((6, 8)).astype(np.float32), (0, 1)),
    "float in [0, 255]": ((rng.random((6, 8)) * 255).astype(np.float32), (0, 255)),
    "float mask as an image": (np.eye(6, 8, dtype=np.float32), (0, 1)),
    "12 of 16 bits": (rng.integers(1024, 4096, (6, 8), dtype=np.uint16), (0, 4095)),
    "8 of 16 bits": (rng.integers(128, 256, (6, 8), dtype=np.uint16), (0, 255)),
    "16 bits": (rng.integers(32768, 65536, (6, 8), dtype=np.uint16), (0, 65535)),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_range_is_measured_over_the_set(tmp_path, name, channels):
    values, expected = RANGES[name]
    for number, part in enumerate((values, values // 2 if values.dtype.kind == "u" else values / 2)):
        save(tmp_path / "images" / f"{number}.tif", part)
        save(tmp_path / "masks" / f"{number}.png", labels(0, 1))
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2, channels=channels)
    assert dataset.spec.value_range == expected
    image, _ = dataset[0]
    assert image.shape == (channels, 6, 8) and torch.allclose(image[0], torch.from_numpy(values / expected[1]).float())
    assert 0.3 < image.mean() / (values.mean() / expected[1]) * 0.5 < 0.7
    assert dataset[1][0].max() < image.max()  # one range for all: a darker image stays darker


def test_ct_numbers(tmp_path):
    values = rng.integers(-1000, 3000, (6, 8)).astype(np.int16)
    values[0, :2] = -1000, 2999
    save_tiff(tmp_path / "a.tif", values[..., None], kind=2)
    assert read_values(tmp_path / "a.tif").min() == -1000
    low, high = measure_range([tmp_path / "a.tif"])
    assert (low, high) == (-1000, 2999)
    image = read_image(tmp_path / "a.tif", 1, (low, high))
    assert image.min() == 0 and image.max() == 1
    window = read_image(tmp_path / "a.tif", 1, (-160.0, 240.0))[0]  # a declared window cuts the rest off
    inside = (values > -160) & (values < 240)
    assert np.allclose(window[inside], (values[inside] + 160) / 400, atol=1e-6)
    assert (window[values < -160] == 0).all() and (window[values > 240] == 1).all()


def test_unsigned_numbers_of_32_bits_stay_so(tmp_path):
    values = np.array([[0, 2**31 + 5, 2**32 - 1]], np.uint32)
    save_tiff(tmp_path / "a.tif", values[..., None])
    assert read_values(tmp_path / "a.tif").tolist() == values.tolist()
    assert measure_range([tmp_path / "a.tif"]) == (0, 2**32 - 1)
    assert np.array_equal(read_raw_mask(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_one_sentence(tmp_path, bad):
    values = rng.random((6, 8)).astype(np.float32)
    values[2, 3] = bad
    save(tmp_path / "images" / "a.tif", values)
    save(tmp_path / "masks" / "a.png", labels(0, 1))
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2)
    with pytest.raises(DataError, match=r"a.tif holds values that are not finite .* in 1 of 48 places: replace them"):
        dataset[0]
    values[:] = bad
    save(tmp_path / "images" / "a.tif", values)
    with pytest.raises(DataError, match="hold no finite value"):
        SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2)


def test_a_declared_range_is_used_and_kept(tmp_path):
    save(tmp_path / "images" / "a.png", np.full((6, 8), 2000, np.uint16))
    save(tmp_path / "masks" / "a.png", labels(0, 1))
    for given_range, value in (("uint12", 2000 / 4095), ((1000, 3000), 0.5), ("uint16", 2000 / 65535)):
        dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2, value_range=given_range)
        assert dataset.spec.value_range == as_range(given_range)
        assert dataset[0][0].mean().item() == pytest.approx(value)
    for wrong in ("12 bits", (3, 1), (0, float("nan")), (0,)):
        with pytest.raises(ValueError, match="value_range"):
            SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2, value_range=wrong)


def test_bits_of_two_kinds_are_not_mixed(tmp_path):
    deep, plain = save(tmp_path / "a.png", np.full((6, 8), 2000, np.uint16)), save(tmp_path / "b.png", labels(0, 200))
    with pytest.raises(
        DataError, match=r"a.png has more than 8 bits a value, but .*b.png has 8: save all images alike"
    ):
        measure_range([deep, plain])
    with pytest.raises(DataError, match="b.png holds 8-bit values, up to 200, but the images of this set go from 0 to"):
        read_image(plain, 1, NAMED["uint12"])
    with pytest.raises(
        DataError, match="a.png holds values from 2000 to 2000, but the images of this set go from 0 to"
    ):
        read_image(deep, 1)
    with pytest.raises(DataError, match="declare the range of all images with value_range"):
        read_image(save(tmp_path / "c.tif", rng.random((6, 8)).astype(np.float32)), 1)


def test_files_that_cannot_be_read_do_not_hide_the_range_of_the_others(tmp_path):
    deep = [save(tmp_path / f"{i}.png", np.full((6, 8), 2000, np.uint16)) for i in range(3)]
    (tmp_path / "broken.png").write_bytes(b"no image")
    cut = save(tmp_path / "cut.png", rng.integers(0, 60000, (60, 80), np.uint16))
    cut.write_bytes(cut.read_bytes()[:2000])
    assert measure_range([tmp_path / "broken.png", cut, *deep]) == (0, 4095)
    assert measure_range([tmp_path / "broken.png"]) == measure_range([cut]) == (0, 255)


@many
@given(
    st.sampled_from(["uint8", "uint16", "int32", "float32"]),
    st.floats(-1e4, 1e5),
    st.floats(1, 1e5),
    st.lists(st.integers(0, 255), min_size=1, max_size=9),
)
def test_scaling_keeps_order_and_ends(dtype, low, width, numbers):
    values = np.array([numbers]).astype(dtype)
    assume(1 < low + width <= 255 if dtype == "uint8" else (low, width) != (0, 255))  # others are refused
    scaled = to_unit(values, (low, low + width), "x")
    assert scaled.dtype == np.float32 and 0 <= scaled.min() and scaled.max() <= 1
    expected = np.clip((values.astype(float) - low) / width, 0, 1)
    assert np.allclose(scaled, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_of_16_bits_is_not_cut_to_8(tmp_path, channels):
    path = save_png(tmp_path / "a.png", rng.integers(0, 4096, (6, 8, channels), dtype=np.uint16))
    assert glance(path).deep
    for read in (read_image, read_raw_mask):
        with pytest.raises(DataError, match="a.png has several channels of 16 bits, .*: save it"):
            read(path)
    grey = rng.integers(0, 4096, (6, 8, 1), dtype=np.uint16)
    path = save_png(tmp_path / "a.png", grey)
    assert glance(path).deep and np.array_equal(read_raw_mask(path), grey[..., 0])


@pytest.mark.parametrize(
    ("array", "kind", "says"),
    [
        (np.zeros((6, 8, 4), np.uint16), 1, r"several channels of 16 bits|4 channels of 16 bits"),
        (np.zeros((6, 8, 3), np.uint16), 1, r"several channels of 16 bits|3 channels of 16 bits"),
        (np.zeros((6, 8, 2), np.uint16), 1, "2 channels of 16 bits"),
        (np.zeros((6, 8, 3), np.float32), 3, r"3 channels of 32 bits \(floats\)"),
        (np.zeros((6, 8, 1), np.float64), 3, r"1 channel of 64 bits \(floats\)"),
        (np.zeros((6, 8, 1), np.float16), 3, r"1 channel of 16 bits \(floats\)"),
    ],
)
def test_sound_files_of_another_kind_are_not_called_damaged(tmp_path, array, kind, says):
    path = save_tiff(tmp_path / "a.tif", array, kind)
    for read in (read_image, read_raw_mask):
        with pytest.raises(DataError, match=says) as caught:
            read(path)
        assert "damaged" not in str(caught.value) and "save it " in str(caught.value)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError):
        read_image(path)


def test_a_tiff_that_breaks_off_is_damaged(tmp_path):
    path = save_tiff(tmp_path / "a.tif", np.zeros((60, 80, 1), np.uint8))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DataError, match="damaged"):
        read_image(path)


# ---------------------------------------------------------------------------------------------------- orientation
VIEWERS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def exif(how):
    data = Image.Exif()
    data[274] = how
    return data


@pytest.mark.parametrize("how", range(1, 9))
def test_images_and_masks_are_turned_as_viewers_show_them(tmp_path, how):
    array, mask = photo(), labels(*range(4), 1, 1, 3)
    files = {"a.png": {}, "a.tif": {}, "lzw.tif": {"compression": "tiff_lzw"}, "a.webp": {"lossless": True}}
    for name, options in files.items():
        for picture, read in (
            (array, lambda p: (read_image(p) * 255).round().transpose(1, 2, 0)),
            (mask, read_raw_mask),
        ):
            path = save(tmp_path / name, picture, exif=exif(how), **options)
            shown = picture if how == 1 else np.asarray(Image.fromarray(picture).transpose(VIEWERS[how]))
            assert np.array_equal(read(path), shown), name
            assert read_size(path) == shown.shape[:2]
            assert glance(path).turned == (how != 1)
    path = save(tmp_path / "a.jpg", array, exif=exif(how), quality=95)
    assert read_size(path) == read_image(path).shape[1:] == ((8, 6) if how > 4 else (6, 8))
    assert turn(array, how).shape == ((8, 6, 3) if how > 4 else (6, 8, 3))
    wide = rng.integers(0, 65536, (6, 8), dtype=np.uint16)
    path = save(tmp_path / "w.png", wide, exif=exif(how))
    assert np.array_equal(read_values(path), turn(wide, how)) and read_size(path) == turn(wide, how).shape
    palette = Image.fromarray(mask).convert("P")
    palette.save(tmp_path / "p.png", exif=exif(how))
    assert np.array_equal(read_raw_mask(tmp_path / "p.png"), turn(mask, how))


@pytest.mark.parametrize("how", [3, 6])
def test_a_turned_photograph_fits_its_upright_mask(tmp_path, how):
    """Square and half turned photographs have the size of their masks either way, so no other check would notice."""
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255
    back = {3: 3, 6: 8}[how]  # what undoes it
    save(tmp_path / "images" / "a.png", turn(upright, back), exif=exif(how))
    save(tmp_path / "masks" / "a.png", upright[..., 0] // 255)
    image, mask = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2)[0]
    assert torch.equal(image[0].long(), mask)


def test_exif_data_behind_the_pixels(tmp_path):
    """A PNG may say only at its end which way round it is, further than a glance reads; the check then reads on."""
    upright, back = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), 8
    for number in range(3):
        path = save(tmp_path / "images" / f"{number}.png", turn(upright, back), exif=exif(6))
        save(tmp_path / "masks" / f"{number}.png", labels(0, 1))
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert np.array_equal(read_values(path), upright) and read_size(path) == (8, 6)
    dataset = SegmentationFolder(tmp_path / "images", tmp_path / "masks", classes=2)
    assert check_dataset(dataset, limit=1).ok


def test_damaged_exif_data_are_passed_over(tmp_path):
    path = save(tmp_path / "a.png", photo(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert read_image(path).shape == (3, 6, 8)
    path = save(tmp_path / "b.png", photo(), exif=exif(99))
    assert read_image(path).shape == (3, 6, 8)


# ----------------------------------------------------------------------------------------------------------- masks
def test_further_pages_are_not_dropped(tmp_path):
    pages = [Image.fromarray(labels(0, 1)), Image.fromarray(labels(1, 1))]
    for name in ("a.tif", "a.gif", "a.webp"):
        options = {"lossless": True} if name == "a.webp" else {}
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
        for read in (read_raw_mask, read_image):
            with pytest.raises(DataError, match=f"{name} holds 2 pages, of which only the first would be read: save"):
                read(tmp_path / name)
    thumbnail = Image.fromarray(labels(1, 1, height=2, width=2))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}  # a smaller copy of the page before it, which many cameras add
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=[thumbnail])
    assert np.array_equal(read_raw_mask(tmp_path / "b.tif"), labels(0, 1))


LOSSY = {
    "a.jpg": {},
    "b.jpg": {"quality": 100, "subsampling": 0},
    "jpeg.png": {"format": "JPEG"},
    "a.jp2": {"irreversible": True},
    "a.webp": {"quality": 90},
    "a.tif": {"compression": "jpeg"},
}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_masks_are_refused_whatever_values_come_out(tmp_path, name):
    path = save(tmp_path / name, labels(0, 1, 2, height=32, width=32), **LOSSY[name])
    with pytest.raises(
        MaskError, match=f"{name} is a .* file, which changes the values of labels: export the masks as"
    ):
        read_raw_mask(path)


def test_labels_in_the_alpha_channel(tmp_path):
    mask = labels(0, 1, 2)
    for base in (np.zeros((6, 8, 3), np.uint8), np.full((6, 8, 1), 200, np.uint8)):
        path = save(tmp_path / "a.png", np.concatenate([base, mask[..., None]], -1))
        with pytest.raises(MaskError, match="one colour that differ in transparency, so labels may stand in the alpha"):
            read_raw_mask(path)
    picture = np.repeat(mask[..., None], 3, -1)
    for alpha in (np.full((6, 8, 1), 255), np.where(mask == 0, 0, 255)[..., None]):  # says nothing of its own
        path = save(tmp_path / "a.png", np.concatenate([picture, alpha.astype(np.uint8)], -1))
        assert np.array_equal(read_raw_mask(path), mask)


def palette_file(path, mask, colors):
    image = Image.fromarray(mask).convert("P") if isinstance(mask, np.ndarray) else mask
    image.putpalette([part for color in colors for part in color])
    image.save(path)
    return path


RED, GREEN, BLACK, WHITE = (200, 0, 0), (0, 200, 0), (0, 0, 0), (255, 255, 255)


def folder_of(tmp_path, *masks, **options):
    """A dataset of one image for each mask; a mask is an array, or an array with the colours of its palette."""
    (tmp_path / "masks").mkdir(exist_ok=True)
    for number, mask in enumerate(masks):
        if isinstance(mask, tuple):
            palette_file(tmp_path / "masks" / f"{number}.png", *mask)
        else:
            save(tmp_path / "masks" / f"{number}.png", mask)
        save(tmp_path / "images" / f"{number}.png", photo())
    return SegmentationFolder(tmp_path / "images", tmp_path / "masks", **options)


@many
@given(st.permutations([BLACK, RED, GREEN, (0, 0, 90)]), st.permutations([BLACK, RED, GREEN, (0, 0, 90)]))
def test_with_a_palette_files_are_read_by_colour(tmp_path, one, two):
    known = [BLACK, RED, GREEN, (0, 0, 90)]
    mask = labels(0, 1, 2, 3)
    dataset = folder_of(tmp_path, (mask, one), (mask, two), classes=4, palette=known)
    for index, colors in enumerate((one, two)):
        assert np.array_equal(dataset[index][1], np.array([known.index(color) for color in colors])[mask])


@many
@given(st.integers(0, 2), st.sampled_from([-1, 1]), st.booleans())
def test_a_colour_that_is_off_by_one_is_named(tmp_path, channel, step, indexed):
    off = list((100, 100, 50))
    off[channel] += step
    mask = labels(0, 1)
    file = (mask, [BLACK, tuple(off)]) if indexed else np.array([BLACK, off], np.uint8)[mask]
    dataset = folder_of(tmp_path, file, classes=2, palette=[BLACK, (100, 100, 50)])
    with pytest.raises(MaskError, match=r"0.png holds the colours .* is almost \(100, 100, 50\); correct palette="):
        dataset[0]


def test_greys_may_be_colours_of_the_palette(tmp_path):
    """0/255 masks with a palette of black and white: white is class 1, not void."""
    mask = labels(0, 255)
    dataset = folder_of(tmp_path, mask, labels(0, 1), labels(0, 1, 255), classes=2, palette=[BLACK, WHITE])
    assert np.array_equal(dataset[0][1], mask // 255)
    assert np.array_equal(dataset[1][1], labels(0, 1))  # labels, and the palette is for the figures
    with pytest.raises(MaskError, match="of which 0, 255 are colours of palette= and 1 are not: use either"):
        dataset[2]
    by_number = folder_of(tmp_path, mask, classes=2, palette=[WHITE, BLACK], label_map={0: 0, 255: 1})
    assert np.array_equal(by_number[0][1], mask // 255)  # a label_map says what the numbers are


def test_a_palette_of_greys_is_read_as_its_indices(tmp_path):
    """What Pillow and other programs give to a file whose palette nobody chose."""
    mask = labels(0, 1, 2, 255)
    dataset = folder_of(tmp_path, (mask, [(i,) * 3 for i in range(256)]), classes=3, palette=[BLACK, RED, GREEN])
    assert np.array_equal(dataset[0][1], mask)


def test_void_with_a_colour_of_its_own(tmp_path):
    """As in PASCAL VOC's files: indices are labels, 255 is drawn in a colour that no class has."""
    cream, mask = (224, 224, 192), labels(0, 1, 255)
    colors = [BLACK, RED, *[BLACK] * 253, cream]
    dataset = folder_of(tmp_path, (mask, colors), classes=2, palette=[BLACK, RED])
    assert np.array_equal(dataset[0][1], mask)
    for other in ([RED, BLACK, *colors[2:]], [BLACK, (9, 9, 9), *colors[2:]]):  # here colour and index disagree
        with pytest.raises(MaskError, match="to palette=, as void in a mapping of colours to labels"):
            folder_of(tmp_path, (mask, other), classes=2, palette=[BLACK, RED])[0]
    named = {BLACK: 0, RED: 1, cream: 255}
    assert np.array_equal(folder_of(tmp_path, (mask, colors), classes=2, palette=named)[0][1], mask)


def test_colours_as_text(tmp_path):
    mask = np.array([BLACK, RED, WHITE], np.uint8)[labels(0, 1, 2)]
    options = {"classes": 2, "palette": {"#000000": 0, "c80000": 1, "#FFFFFF": 255}}
    assert np.array_equal(folder_of(tmp_path, mask, **options)[0][1], np.array([0, 1, 255])[labels(0, 1, 2)])
    for wrong in ("#00", "red", (0, 0), (0, 0, 256), 7):
        with pytest.raises(ValueError, match="is no colour: give red, green and blue"):
            folder_of(tmp_path, mask, classes=2, palette=[wrong, "#000000"])


def test_a_label_map_whose_numbers_became_text(tmp_path):
    """As JSON and some YAML files have them."""
    dataset = folder_of(tmp_path, labels(0, 255), classes=2, label_map={"0": 0, "255": 1})
    assert dataset[0][1].unique().tolist() == [0, 1]
    with pytest.raises(ValueError, match="label_map=.*: give whole numbers"):
        folder_of(tmp_path, labels(0, 255), classes=2, label_map={"black": 0})


def test_a_label_map_that_forgets_a_value_says_which_and_how_many_pixels(tmp_path):
    mask = labels(0, 255)
    mask[0, :5] = 7
    dataset = folder_of(tmp_path, mask, classes=2, label_map={0: 0, 255: 1})
    with pytest.raises(
        MaskError, match=r"0.png holds .* nothing says which label 7 \(5 pixels\) is; .* e.g. 7: 255 for"
    ):
        dataset[0]


@st.composite
def values_in_masks(draw):
    """A number of classes and values that masks hold: any, labels from one, a class too many, spread grey levels."""
    classes, void = draw(st.integers(1, 9)), draw(st.sampled_from([set(), {255}]))
    some = draw(st.sets(st.integers(0, 255), min_size=1, max_size=12))
    step = draw(st.integers(2, 25))
    kinds = [some, {0, 255}, set(range(1, classes + 1)), set(range(classes + 1)), {step * i for i in range(classes)}]
    return classes, draw(st.sampled_from(kinds)) | void


@many
@given(values_in_masks())
def test_advice_on_a_label_map_works_when_it_is_followed(example):
    """Every label_map= that a message spells out maps what the mask holds."""
    classes, found = example
    mapping = LabelMapping(classes)
    wrong = found - set(mapping.allowed())
    advice = likely_cause(sorted(found), mapping)
    if not wrong or "label_map={" not in advice:
        return
    text = advice.partition("label_map={")[2].partition("}")[0]
    label_map = {int(value): int(label) for value, label in (entry.split(":") for entry in text.split(","))}
    mask = np.resize(np.array(sorted(found)), (4, 4))
    more = re.search(r"give (\d+) classes", advice)
    given = int(more[1]) if more else max(classes, 2)
    decoded = LabelMapping(given, values=label_map).decode(mask, "a.png")
    assert set(decoded.ravel().tolist()) <= {*range(given), 255}
    option = advice.partition("--label-map ")[2].rstrip(")")
    assert {int(k): int(v) for k, v in (pair.split(":") for pair in option.split(","))} == label_map


# ------------------------------------------------------------------------------------------------------ one bad file
@pytest.mark.parametrize("workers", [0, 2])
def test_one_unreadable_image_in_a_batch_is_one_sentence(tmp_path, workers):
    dataset = folder_of(tmp_path, *[labels(0, 1)] * 4, classes=2)
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        for _ in DataLoader(dataset, batch_size=2, num_workers=workers):
            pass
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'images' / '2.png'} cannot be read as an image") and "\n" not in text
    assert text.endswith("it is damaged, or no image file")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mask_of_another_size_is_one_sentence(tmp_path, workers):
    dataset = folder_of(tmp_path, labels(0, 1), labels(0, 1, height=3), classes=2)
    with pytest.raises(ValueError) as caught:
        list(DataLoader(dataset, num_workers=workers))
    assert str(caught.value) == (
        f"{tmp_path / 'images' / '1.png'} is 6 x 8 pixels (height x width) but {tmp_path / 'masks' / '1.png'} is "
        "3 x 8: export the mask at the size of its image"
    )


def test_what_pillow_takes_for_an_attack_is_one_sentence(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", photo(30, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="a.png has more than .* million pixels, .*: cut it into tiles"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)  # 900 are read, of which Pillow by itself would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (3, 30, 30)


def test_files_that_are_not_there_or_may_not_be_read(tmp_path):
    with pytest.raises(DataError, match="a.png is not there: restore it"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(DataError, match="b.png"):
        read_image(tmp_path / "b.png")
