"""Prediction: normalised as in training, at the size of the image, and files that say what they hold."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from segtutor.inference import predict, probabilities, save_labels, save_legend, save_overlay

SPEC = SimpleNamespace(
    classes=("dark", "light"), palette=((0, 0, 0), (250, 240, 0)), ignore_index=255, mean=(0.5,) * 3, std=(0.1,) * 3
)


class Threshold(nn.Module):
    """Class 1 where the normalised image is above zero, that is where the image is above its mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.sizes, self.modes, self.seen = [], [], []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        self.modes.append(self.training)
        self.seen.append(images)
        score = images.mean(1, keepdim=True) * self.weight
        return torch.cat([-score, score], 1)


def picture(height=33, width=47):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(1, 1, 5, 6, generator=generator)
    return F.interpolate(smooth, size=(height, width), mode="bilinear", align_corners=False)[0].expand(3, -1, -1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_image_gets_the_precision_of_the_model(dtype):
    model, image = Threshold().to(dtype), picture()
    labels = predict(model, image, spec=SPEC)
    assert model.seen[0].dtype == dtype and labels.shape == (33, 47) and labels.float().mean() > 0.2


def test_normalised_as_in_training_and_left_as_it_was():
    model, image = Threshold().train(), picture()
    labels = predict(model, image, spec=SPEC)
    assert labels.equal((image[0] > 0.5).long()) and labels.shape == (33, 47)
    assert model.training and model.modes == [False] and not labels.requires_grad
    model.info = SPEC
    assert predict(model, image).equal(labels)


def test_each_channel_has_its_own_statistics():
    model, image = Threshold(), picture() * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    spec = SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    predict(model, image, spec=spec)
    for seen, channel, mean, std in zip(model.seen[0][0], image, spec.mean, spec.std, strict=True):
        torch.testing.assert_close(seen, (channel - mean) / std)


def test_tensors_pictures_and_arrays_agree():
    model, image = Threshold(), (picture() * 255).round() / 255
    array = (image * 255).round().byte().permute(1, 2, 0).numpy()
    expected = predict(model, image, spec=SPEC)
    assert predict(model, array, spec=SPEC).equal(expected)
    assert predict(model, Image.fromarray(array), spec=SPEC).equal(expected)
    grey = SimpleNamespace(mean=(0.5,), std=(0.1,))
    assert predict(model, array[..., 0], spec=grey).equal(expected)


def test_pictures_are_turned_and_coloured_as_a_viewer_shows_them():
    array = np.zeros((40, 64, 3), np.uint8)
    array[:20] = 255
    expected = predict(Threshold(), Image.fromarray(array), spec=SPEC)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(array)))
    turned.getexif()[274] = 6  # "turn right to view"
    for picture in (turned, Image.fromarray(array).convert("P"), Image.fromarray(array).convert("RGBA")):
        assert torch.equal(predict(Threshold(), picture, spec=SPEC), expected)


def test_numbers_are_scaled_by_the_range_of_the_training_images():
    array = np.zeros((40, 64, 3), np.uint8)
    array[:20] = 255
    expected = predict(Threshold(), array, spec=SPEC)
    deep = copy.copy(SPEC)
    deep.value_range = (0.0, 4095.0)
    for values in (array.astype(np.uint16) * 16, array.astype(np.float64) * 16, array.astype(np.int64) * 17):
        assert torch.equal(predict(Threshold(), values, spec=deep), expected)
    for wrong in (array, np.full(array.shape, np.nan)):
        with pytest.raises(ValueError, match="give .* of more than 8 bits, in 0 to 4095, or a tensor"):
            predict(Threshold(), wrong, spec=deep)


def test_the_model_sees_the_size_it_was_trained_at_and_scores_come_back_to_the_images():
    model, image = Threshold(), picture(60, 80)
    labels = predict(model, image, size=(40, 50), spec=SPEC)
    assert model.sizes == [(1, 3, 40, 50)] and labels.shape == (60, 80)
    assert (labels == (image[0] > 0.5)).float().mean() > 0.97


def test_one_logit_is_foreground_above_zero():
    class One(Threshold):
        def forward(self, images):
            return super().forward(images)[:, 1:]

    labels = predict(Threshold(), picture(), spec=SPEC)
    assert predict(One(), picture(), spec=SPEC).equal(labels)
    for model in (One(), Threshold()):
        sure = probabilities(model, picture(), spec=SPEC)
        assert sure.shape == (2, 33, 47) and sure.argmax(0).equal(labels)
        torch.testing.assert_close(sure.sum(0), torch.ones(33, 47))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (picture() * 255, r"give them in \[0, 1\]"),
        (picture() - 0.5, "not normalised"),
        (picture()[:1], "has 1 channels, but the model was trained on 3: convert it to colour"),
        (picture()[0], "is no image"),
        ((picture() * 255).byte(), "is no image"),
        (np.zeros((4, 4, 3), np.float32), "is no picture"),
        (np.zeros((4, 4, 3), np.uint16), "is no picture for this model: give .* in 0-255"),
        (np.full((4, 4, 3), "x"), "is no picture"),
        (torch.full((3, 40, 40), float("nan")), "values go from nan"),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused(image, says):
    with pytest.raises(ValueError, match=says):
        predict(Threshold(), image, spec=SPEC)


def test_scores_that_are_no_numbers_are_no_labels():
    model = Threshold()
    nn.init.constant_(model.weight, float("nan"))
    with pytest.raises(ValueError, match="not numbers"):
        predict(model, picture(), spec=SPEC)


def test_each_module_has_its_own_mode_back():
    model = nn.Sequential(Threshold(), nn.BatchNorm2d(2)).train()
    model[1].eval()
    predict(model, picture(), spec=SPEC)
    assert model.training and model[0].training and not model[1].training and model[0].modes == [False]


def test_without_statistics_it_does_not_guess():
    with pytest.raises(ValueError, match="pass spec=dataset.spec"):
        predict(Threshold(), picture())


def test_label_files_hold_labels_and_show_colours(tmp_path):
    labels = torch.tensor([[0, 1, 255], [1, 1, 0]])
    path = save_labels(labels, tmp_path / "labels.png", SPEC)
    read = Image.open(path)
    assert read.mode == "P" and np.array_equal(np.asarray(read), labels.numpy())
    assert np.asarray(read.convert("RGB"))[0].tolist() == [[0, 0, 0], [250, 240, 0], [228, 228, 228]]
    from segtutor import viz

    plain = Image.open(save_labels(labels, tmp_path / "plain.png"))
    assert tuple(np.asarray(plain.convert("RGB"))[0, 1]) == viz.PALETTE[1]
    for wrong in (torch.tensor([[256]]), torch.tensor([[-1]]), labels[None]):
        with pytest.raises(ValueError, match="0 to 255"):
            save_labels(wrong, tmp_path / "wrong.png")


@pytest.mark.parametrize("size", [(120, 900), (33, 5001)])
@pytest.mark.parametrize("block", [2**22, 2000])  # pixels that are painted at once
def test_overlays_have_the_size_of_their_images(tmp_path, monkeypatch, size, block):
    """Whatever lies at a pixel of the overlay lies at that pixel of the image."""
    from segtutor import viz

    monkeypatch.setattr("segtutor.inference.results.BLOCK", block)

    image, spec = picture(*size), SimpleNamespace(classes=("a", "b"), palette=((255, 0, 0), (0, 0, 255)))
    spec.ignore_index, labels = 255, torch.zeros(size).long()
    labels[:, 40:] = 1
    labels[20:, 10] = 1  # with borders between its rows, too
    labels[22:, 10] = 0
    labels[:, -3:] = 255
    written = np.asarray(Image.open(save_overlay(image, labels, tmp_path / "overlay.png", spec)))
    assert written.shape == (*size, 3) and (written == viz.painted_over(image, labels, spec)).all()
    grey = 255 * image.mean(0).numpy()
    assert (written[[20, 22], 10] == 255).all() and (written[21, 11] == 255).all()
    for columns, color in ((slice(0, 10), (255, 0, 0)), (slice(12, 40), (255, 0, 0)), (slice(41, -3), (0, 0, 255))):
        expected = 0.45 * grey[:, columns, None] + 0.55 * np.asarray(color)
        assert np.abs(written[:, columns] - expected).max() <= 1, "the colours of the classes over the grey image"
    assert (written[:, [40, -3]] == 255).all(), "a white line where the class changes"
    assert np.abs(written[:, -2:] - grey[:, -2:, None]).max() <= 1, "void is not coloured"


def test_legends_name_every_class(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    many = SimpleNamespace(classes=tuple(f"kind {i}" for i in range(150)), palette=(), ignore_index=255)
    first, again = (save_legend(tmp_path / name, many).read_bytes() for name in ("one.png", "two.png"))
    assert first == again and plt.get_fignums() == before
    labels = torch.arange(150).view(1, 150)
    with Image.open(save_labels(labels, tmp_path / "labels.png", many)) as image:
        colors = np.asarray(image.convert("RGB"))[0]
    assert len(np.unique(colors, axis=0)) == 150, "as many colours as classes, though nobody chose any"
    legend = np.asarray(Image.open(tmp_path / "one.png").convert("RGB")).reshape(-1, 3)
    drawn = {tuple(color) for color in np.unique(legend, axis=0)}
    assert {tuple(color) for color in colors} <= drawn, "each in its colour"
