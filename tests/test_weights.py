"""Transplanting and loading, with small files that the tests make; nothing here reaches the network."""

import copy
import pickle
import urllib.error

import pytest
import torch
import torchvision
from contract import images, perturb_norms, seeded
from safetensors.torch import save_file
from torch import nn

from segtutor import weights
from segtutor.models.deeplab_v2 import DeepLabV2
from segtutor.models.deeplab_v3 import PRESETS as DEEPLAB_V3
from segtutor.models.deeplab_v3 import DeepLabV3
from segtutor.models.deeplab_v3plus import DeepLabV3Plus
from segtutor.models.fcn import FCN8s, FCN32s
from segtutor.models.pspnet import PSPNet
from segtutor.models.resnet import ResNet
from segtutor.models.segnet import SegNet
from segtutor.models.unet import UNet
from segtutor.models.vgg import VGG16
from segtutor.weights import WeightsError, load_pretrained, transplant

WIDTHS, HIDDEN = (2, 3, 4, 5, 6), 7
NARROW = {"widths": WIDTHS, "hidden": HIDDEN}


def narrow_vgg(batch_norm=False):
    """torchvision's VGG-16, a few channels wide."""
    cfg = [width for w, depth in zip(WIDTHS, (2, 2, 3, 3, 3), strict=True) for width in [w] * depth + ["M"]]
    network = nn.Module()
    network.features = torchvision.models.vgg.make_layers(cfg, batch_norm=batch_norm)
    layers = (nn.Linear(WIDTHS[-1] * 49, HIDDEN), nn.ReLU(), nn.Dropout(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU())
    network.classifier = nn.Sequential(*layers, nn.Dropout(), nn.Linear(HIDDEN, 10))
    return perturb_norms(network).eval()


def narrow_vgg13(batch_norm=False):
    """torchvision's VGG-13 with the widths of a U-Net of base 2, the fifth stage included."""
    cfg = [width for w in (2, 4, 8, 16, 16) for width in (w, w, "M")]
    network = nn.Module()
    network.features = torchvision.models.vgg.make_layers(cfg, batch_norm=batch_norm)
    network.classifier = nn.Sequential(nn.Linear(16 * 49, HIDDEN))
    return perturb_norms(network).eval()


def narrow_resnet(depth=18):
    network = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=4)
    return perturb_norms(network).eval()


@pytest.fixture
def downloader(monkeypatch):
    """Stand in for torch hub: record the call, answer with ``answer`` or raise it."""
    calls = []

    def fetch(url, **options):
        calls.append((url, options))
        if isinstance(fetch.answer, BaseException):
            raise fetch.answer
        return fetch.answer

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    fetch.calls = calls
    weights._say_licence.cache_clear()
    return fetch


def test_report_says_what_was_copied_left_and_kept():
    report = transplant(narrow_vgg(), FCN8s(3, **NARROW))
    assert len(report.copied) == 2 * 15
    assert ("features.28.weight", "backbone.stage5.conv5_3.weight") in report.copied
    assert ("classifier.3.bias", "fc7.bias") in report.copied
    assert report.left == ("classifier.6.weight", "classifier.6.bias")
    assert {name.split(".")[0] for name in report.fresh} == {
        "score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8",
    }  # fmt: skip
    text = str(report)
    assert "30 tensors" in text and "classifier.6.bias" in text and "score_fr.weight" in text


@torch.no_grad()
def test_copied_values_arrive_and_the_rest_stays():
    source, target = narrow_vgg().double(), FCN32s(3, **NARROW).double().eval()
    upscore = target.upscore32.weight.clone()
    transplant(source, target)
    assert target.upscore32.weight.equal(upscore)
    x = images(1, 3, 224, 224, dtype=torch.float64)
    expected = source.classifier[:5](source.features(x).flatten(1))[0]
    torch.testing.assert_close(target.classify(x)[2][0, :, 3, 3], expected, rtol=0, atol=1e-10)


def test_the_targets_dtype_stays():
    target = VGG16(widths=WIDTHS).double()
    transplant(narrow_vgg(), target)
    assert target.stage1.conv1_1.weight.dtype == torch.float64


def test_batch_norm_statistics_travel():
    source, target = narrow_vgg(batch_norm=True), VGG16(widths=WIDTHS, batch_norm=True)
    transplant(source, target)
    assert target.stage1.bn1_2.running_var.equal(source.features[4].running_var)


@pytest.mark.parametrize("batch_norm", [False, True])
@torch.no_grad()
def test_contracting_path_of_unet_is_torchvisions_vgg13(batch_norm):
    source, target = narrow_vgg13(batch_norm).double(), UNet(3, base=2, batch_norm=batch_norm).double().eval()
    report = transplant(source, target)
    assert len(report.copied) == (8 * 6 if batch_norm else 8 * 2)
    assert ("features.0.weight", "contract1.conv1.weight") in report.copied
    stage5 = (
        ("features.28", "features.29", "features.31", "features.32") if batch_norm else ("features.20", "features.22")
    )
    assert {name.rpartition(".")[0] for name in report.left} >= {*stage5, "classifier.0"}
    assert {name.split(".")[0][:-1] for name in report.fresh} == {"botto", "up", "expand", "scor"}
    x, skips = images(1, 3, 64, 48, dtype=torch.float64), []
    maps = x
    for layer in source.features:
        if isinstance(layer, nn.MaxPool2d):
            skips.append(maps)
        maps = layer(maps)
    for ours, theirs in zip(target.contract(x)[:4], skips, strict=False):
        assert theirs.std() > 1e-3, "a map without variation compares nothing"
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_imagenet_weights_for_unet_leave_the_source_as_it_was(downloader):
    """Folding biases into means must not write into what the hub keeps in memory."""
    source = narrow_vgg13(True)
    before = copy.deepcopy(source.state_dict())
    downloader.answer = source.state_dict()
    load_pretrained(UNet(3, base=2, batch_norm=True))
    assert all(value.equal(before[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (lambda: narrow_vgg(batch_norm=True), lambda: VGG16(widths=WIDTHS), "no place in the target"),
        (narrow_vgg, lambda: VGG16(widths=WIDTHS, batch_norm=True), "find no tensor in the source"),
        (narrow_vgg, lambda: VGG16(widths=(2, 3, 4, 5, 8)), r"\(6, 5, 3, 3\) in the source.*\(8, 5, 3, 3\)"),
        (narrow_vgg, lambda: FCN8s(3, in_channels=1, **NARROW), "in_channels"),
        (narrow_vgg, lambda: ResNet(18), "No key map"),
        (narrow_vgg, lambda: UNet(3, base=2), "No key map.*vgg16.*UNet"),
        (narrow_vgg13, lambda: UNet(3, base=2, batch_norm=True), "no place in the target"),
        (narrow_vgg13, lambda: UNet(3, base=2, in_channels=1), "in_channels"),
        (narrow_vgg, lambda: SegNet(3, widths=WIDTHS), "No key map"),
        (lambda: nn.Linear(2, 2), lambda: VGG16(widths=WIDTHS), "unknown"),
        (narrow_resnet, lambda: ResNet(34), "find no tensor in the source"),
        (lambda: {**narrow_resnet().state_dict(), "extra": torch.zeros(1)}, lambda: ResNet(18), "extra"),
    ],
    ids=[
        "bn into plain",
        "plain into bn",
        "widths",
        "channels",
        "pair",
        "vgg16 into unet",
        "plain into bn unet",
        "unet channels",
        "plain into segnet",
        "kind",
        "depth",
        "extra tensor",
    ],  # fmt: skip
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(source, target, says):
    target = seeded(target)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=says):
        transplant(source(), target)
    assert all(value.equal(before[name]) for name, value in target.state_dict().items())


def test_imagenet_weights_come_from_torchvisions_address_with_their_hash_checked(downloader, capsys):
    source = narrow_vgg()
    downloader.answer = source.state_dict()
    model = FCN8s(3, **NARROW)
    report = load_pretrained(model, progress=False)
    assert len(report.copied) == 30 and model.fc7.bias.equal(source.classifier[3].bias)
    ((url, options),) = downloader.calls
    assert url == torchvision.models.VGG16_Weights.IMAGENET1K_V1.url
    assert options["check_hash"] is True and options["weights_only"] is True and options["progress"] is False
    load_pretrained(model, progress=False)
    printed = capsys.readouterr().out
    assert printed.count("ImageNet") == 1 and "research" in printed and "BSD" in printed


@pytest.mark.parametrize(
    ("model", "source", "expected"),
    [
        (lambda: VGG16(widths=WIDTHS), narrow_vgg, "VGG16_Weights"),
        (lambda: VGG16(widths=WIDTHS, batch_norm=True), lambda: narrow_vgg(True), "VGG16_BN_Weights"),
        (lambda: SegNet(3, widths=WIDTHS), lambda: narrow_vgg(True), "VGG16_BN_Weights"),
        (lambda: ResNet(18), narrow_resnet, "ResNet18_Weights"),
        (lambda: PSPNet(3, depth=18), narrow_resnet, "ResNet18_Weights"),
        (lambda: DeepLabV2(3, backbone="resnet18"), narrow_resnet, "ResNet18_Weights"),
        (lambda: DeepLabV3(3, backbone="resnet18", multi_grid=(1, 2)), narrow_resnet, "ResNet18_Weights"),
        (lambda: DeepLabV3Plus(3, backbone="resnet18", multi_grid=(1, 2)), narrow_resnet, "ResNet18_Weights"),
        (lambda: UNet(3, base=2), narrow_vgg13, "VGG13_Weights"),
        (lambda: UNet(3, base=2, batch_norm=True), lambda: narrow_vgg13(True), "VGG13_BN_Weights"),
    ],
)
def test_each_backbone_asks_for_its_own_weights(downloader, model, source, expected):
    downloader.answer = source().state_dict()
    load_pretrained(model())
    assert downloader.calls[0][0] == getattr(torchvision.models, expected).IMAGENET1K_V1.url


@pytest.mark.parametrize("depth", [50, 101])
def test_coco_weights_are_torchvisions_deeplab_v3(downloader, monkeypatch, capsys, depth):
    # The published file holds an auxiliary head; a small source of the same names stands in for 160 MB.
    monkeypatch.setattr("segtutor.weights.transplant", lambda source, model: (source, model))
    downloader.answer = {"classifier.0.convs.0.0.weight": torch.zeros(1)}
    with torch.device("meta"):
        model = DeepLabV3(21, **DEEPLAB_V3[f"torchvision_resnet{depth}"])
    assert load_pretrained(model, "coco") == (downloader.answer, model)
    ((url, options),) = downloader.calls
    expected = getattr(torchvision.models.segmentation, f"DeepLabV3_ResNet{depth}_Weights")
    assert url == expected.COCO_WITH_VOC_LABELS_V1.url
    assert options["check_hash"] is True and options["weights_only"] is True
    printed = capsys.readouterr().out
    assert "COCO" in printed and "Flickr" in printed and "BSD" in printed and "ImageNet" not in printed


def test_coco_weights_fill_the_whole_network(downloader, tmp_path):
    source = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    perturb_norms(source)
    downloader.answer = source.state_dict()
    model = DeepLabV3(21, **DEEPLAB_V3["torchvision_resnet50"])
    report = load_pretrained(model, "coco", progress=False)
    assert report.fresh == () and len(report.copied) == len(model.state_dict())
    assert all(name.startswith("aux_classifier.") for name in report.left)
    assert model.head.context.image_pooling[1].running_var.equal(source.classifier[0].convs[4][2].running_var)
    with pytest.raises(ValueError, match="num_classes"):
        load_pretrained(DeepLabV3(11, **DEEPLAB_V3["torchvision_resnet50"]), "coco", progress=False)
    torch.save(source.state_dict(), tmp_path / "coco.pth")
    other = DeepLabV3(21, auxiliary=True, **DEEPLAB_V3["torchvision_resnet50"])
    assert load_pretrained(other, path=tmp_path / "coco.pth").left == ()
    assert other.auxiliary[2].bias.equal(source.aux_classifier[4].bias)


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("Name or service not known"), ConnectionResetError("reset"), TimeoutError("timed out")],
    ids=lambda error: type(error).__name__,
)
def test_without_a_network_one_sentence_says_what_to_do(downloader, error):
    downloader.answer = error
    with pytest.raises(WeightsError, match="could not be fetched.*path=") as caught:
        load_pretrained(FCN8s(3, **NARROW))
    assert "\n" not in str(caught.value) and "vgg16" in str(caught.value)


def test_a_wrong_hash_says_what_to_do(downloader):
    downloader.answer = RuntimeError('invalid hash value (expected "397923af", got "00000000")')
    with pytest.raises(WeightsError, match="damaged.*delete"):
        load_pretrained(FCN8s(3, **NARROW))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("own", [True, False], ids=["own state", "torchvision's"])
def test_local_files(downloader, tmp_path, suffix, own):
    saved = seeded(FCN8s, 3, seed=3, **NARROW) if own else narrow_vgg()
    path = tmp_path / f"weights{suffix}"
    state = {name: tensor.contiguous() for name, tensor in saved.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = FCN8s(3, **NARROW)
    load_pretrained(model, path=path)
    first = saved.backbone.stage1.conv1_1 if own else saved.features[0]
    assert model.backbone.stage1.conv1_1.weight.equal(first.weight)
    assert downloader.calls == []


class Bomb:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_a_file_that_carries_code_is_not_executed(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"weight": Bomb()}, path)
    with pytest.raises(WeightsError, match="could not be read"):
        load_pretrained(FCN8s(3, **NARROW), path=path)
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(WeightsError, match="could not be read"):
        load_pretrained(FCN8s(3, **NARROW), path=path)
    assert "ran" not in capsys.readouterr().out


def test_files_and_names_that_cannot_be_used_are_refused(tmp_path):
    model = FCN8s(3, **NARROW)
    with pytest.raises(WeightsError, match="not a file"):
        load_pretrained(model, path=tmp_path / "missing.pth")
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="no plain state dict"):
        load_pretrained(model, path=tmp_path / "checkpoint.pth")
    torch.save(FCN8s(4, **NARROW).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="differ in shape"):
        load_pretrained(model, path=tmp_path / "other.pth")
    with pytest.raises(ValueError, match='"laion".*"imagenet" or "coco"'):
        load_pretrained(model, "laion")
    with pytest.raises(ValueError, match='"nvidia/mit-b0/main".*"owner/repository"'):
        load_pretrained(model, "nvidia/mit-b0/main")
    with pytest.raises(ValueError, match="no COCO weights for FCN8s.*DeepLabV3"):
        load_pretrained(model, "coco")
    with pytest.raises(ValueError, match="no weights DeepLabV3_ResNet18.*another backbone"):
        load_pretrained(DeepLabV3(3, backbone="tiny", multi_grid=(1, 2)), "coco")
    with pytest.raises(ValueError, match="no ImageNet weights for Linear"):
        load_pretrained(nn.Linear(1, 1))
