"""Transplanting and loading, with small files that the tests make; nothing here reaches the network."""

import copy
import pickle
import urllib.error
from functools import partial

import pytest
import timm
import torch
import torchvision
from contract import images, perturb_norms, seeded
from safetensors.torch import save_file
from torch import nn

from segtutor.models.deeplab_v1 import DeepLabV1
from segtutor.models.deeplab_v2 import PRESETS as DEEPLAB_V2
from segtutor.models.deeplab_v2 import DeepLabV2
from segtutor.models.deeplab_v3 import PRESETS as DEEPLAB_V3
from segtutor.models.deeplab_v3 import DeepLabV3
from segtutor.models.deeplab_v3plus import PRESETS as DEEPLAB_V3PLUS
from segtutor.models.deeplab_v3plus import DeepLabV3Plus
from segtutor.models.fcn import FCN8s, FCN16s, FCN32s
from segtutor.models.pspnet import PRESETS as PSPNETS
from segtutor.models.pspnet import PSPNet
from segtutor.models.resnet import ResNet
from segtutor.models.segformer import PRESETS as SEGFORMERS
from segtutor.models.segformer import SegFormer
from segtutor.models.segnet import SegNet
from segtutor.models.unet import UNet
from segtutor.models.upernet import PRESETS as UPERNETS
from segtutor.models.upernet import SwinUPerNet
from segtutor.models.vgg import VGG16
from segtutor.models.vit import PRESETS as VITS
from segtutor.models.vit import ViT, ViTSegmenter
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
    return fetch


def test_report_says_what_was_loaded_skipped_and_reinitialized():
    report = transplant(narrow_vgg(), FCN8s(3, **NARROW))
    assert len(report.loaded) == 2 * 15
    assert ("features.28.weight", "backbone.stage5.conv5_3.weight") in report.loaded
    assert ("classifier.3.bias", "fc7.bias") in report.loaded
    assert report.skipped == ("classifier.6.weight", "classifier.6.bias")
    assert {name.split(".")[0] for name in report.reinitialized} == {
        "score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8",
    }  # fmt: skip
    text = str(report)
    assert "30 tensors" in text and "classifier.6.bias" in text and "score_fr.weight" in text


@torch.no_grad()
def test_loaded_values_arrive_and_the_rest_stays():
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
    assert len(report.loaded) == (8 * 6 if batch_norm else 8 * 2)
    assert ("features.0.weight", "contract1.conv1.weight") in report.loaded
    stage5 = (
        ("features.28", "features.29", "features.31", "features.32") if batch_norm else ("features.20", "features.22")
    )
    assert {name.rpartition(".")[0] for name in report.skipped} >= {*stage5, "classifier.0"}
    assert {name.split(".")[0][:-1] for name in report.reinitialized} == {"botto", "up", "expand", "scor"}
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
        (narrow_vgg, lambda: ResNet(18), "No key map"),
        (narrow_vgg, lambda: UNet(3, base=2), "No key map.*vgg16.*UNet"),
        (narrow_vgg13, lambda: UNet(3, base=2, batch_norm=True), "no place in the target"),
        (narrow_vgg, lambda: SegNet(3, widths=WIDTHS), "No key map"),
        (lambda: nn.Linear(2, 2), lambda: VGG16(widths=WIDTHS), "unknown"),
        (narrow_resnet, lambda: ResNet(34), "find no tensor in the source"),
        (lambda: {**narrow_resnet().state_dict(), "extra": torch.zeros(1)}, lambda: ResNet(18), "extra"),
    ],
    ids=[
        "bn into plain",
        "plain into bn",
        "widths",
        "pair",
        "vgg16 into unet",
        "plain into bn unet",
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


def test_imagenet_weights_come_from_torchvisions_address_with_their_hash_checked(downloader, notices):
    source = narrow_vgg()
    downloader.answer = source.state_dict()
    model = FCN8s(3, **NARROW)
    report = load_pretrained(model, progress=False)
    assert len(report.loaded) == 30 and model.fc7.bias.equal(source.classifier[3].bias)
    ((url, options),) = downloader.calls
    assert url == torchvision.models.VGG16_Weights.IMAGENET1K_V1.url
    assert options["check_hash"] is True and options["weights_only"] is True and options["progress"] is False
    load_pretrained(model, progress=False)
    (record,) = notices.records
    assert record.name == "segtutor" and record.levelname == "WARNING"
    assert all(word in record.message for word in ("ImageNet", "research", "BSD"))


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
def test_coco_weights_are_torchvisions_deeplab_v3(downloader, monkeypatch, notices, depth):
    # The published file holds an auxiliary head; a small source of the same names stands in for 160 MB.
    monkeypatch.setattr("segtutor.weights.published.transplant", lambda source, model: (source, model))
    downloader.answer = {"classifier.0.convs.0.0.weight": torch.zeros(1)}
    with torch.device("meta"):
        model = DeepLabV3(21, **DEEPLAB_V3[f"torchvision_resnet{depth}"])
    assert load_pretrained(model, "coco") == (downloader.answer, model)
    ((url, options),) = downloader.calls
    expected = getattr(torchvision.models.segmentation, f"DeepLabV3_ResNet{depth}_Weights")
    assert url == expected.COCO_WITH_VOC_LABELS_V1.url
    assert options["check_hash"] is True and options["weights_only"] is True
    assert all(word in notices.text for word in ("COCO", "Flickr", "BSD")) and "ImageNet" not in notices.text


def test_coco_weights_fill_the_whole_network(downloader, tmp_path):
    source = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    perturb_norms(source)
    downloader.answer = source.state_dict()
    model = DeepLabV3(21, **DEEPLAB_V3["torchvision_resnet50"])
    report = load_pretrained(model, "coco", progress=False)
    assert report.reinitialized == () and len(report.loaded) == len(model.state_dict())
    assert all(name.startswith("aux_classifier.") for name in report.skipped)
    assert model.head.context.image_pooling[1].running_var.equal(source.classifier[0].convs[4][2].running_var)
    fewer = DeepLabV3(11, **DEEPLAB_V3["torchvision_resnet50"])
    report = load_pretrained(fewer, "coco", progress=False)
    assert set(report.reinitialized) == {"head.classifier.weight", "head.classifier.bias"}
    assert {"classifier.4.weight", "classifier.4.bias"} < set(report.skipped)
    torch.save(source.state_dict(), tmp_path / "coco.pth")
    other = DeepLabV3(21, auxiliary=True, **DEEPLAB_V3["torchvision_resnet50"])
    assert load_pretrained(other, path=tmp_path / "coco.pth").skipped == ()
    assert other.auxiliary[2].bias.equal(source.aux_classifier[4].bias)


# ------------------------------------------------------------------------------------------ the same model, otherwise
SAME = {
    "FCN32s": (partial(FCN32s, score_init="he", **NARROW), {"score_fr", "upscore32"}),
    "FCN16s": (partial(FCN16s, score_init="he", **NARROW), {"score_fr", "score_pool4", "upscore2", "upscore16"}),
    "FCN8s": (
        partial(FCN8s, score_init="he", **NARROW),
        {"score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8"},
    ),
    "UNet": (partial(UNet, base=2, batch_norm=True), {"score"}),
    "SegNet": (partial(SegNet, widths=WIDTHS), {"decoder.stage1.conv1_1"}),
    "PSPNet": (partial(PSPNet, auxiliary=True, **PSPNETS["tiny"]), {"head.2", "auxiliary.2"}),
    "DeepLabV1": (partial(DeepLabV1, **NARROW), {"fc8"}),
    "DeepLabV2": (partial(DeepLabV2, **DEEPLAB_V2["tiny"]), {f"aspp.{i}" for i in range(4)}),
    "DeepLabV3": (partial(DeepLabV3, auxiliary=True, **DEEPLAB_V3["tiny"]), {"head.classifier", "auxiliary.2"}),
    "DeepLabV3Plus": (partial(DeepLabV3Plus, **DEEPLAB_V3PLUS["tiny"]), {"classifier"}),
    "ViT": (partial(ViT, **VITS["tiny"]), {"head"}),
    "ViTSegmenter": (partial(ViTSegmenter, **VITS["tiny"]), {"head"}),
    "progressive": (partial(ViTSegmenter, decoder="progressive", **VITS["tiny"]), {"head.5"}),
    "SwinUPerNet": (partial(SwinUPerNet, auxiliary=True, **UPERNETS["tiny"]), {"classifier.1", "auxiliary.2"}),
    "SegFormer": (partial(SegFormer, **SEGFORMERS["tiny"]), {"classifier"}),
}
same = pytest.mark.parametrize(("build", "scoring"), SAME.values(), ids=SAME)


@same
def test_another_number_of_classes_starts_the_scoring_layers_fresh_and_says_so(build, scoring):
    source, target = perturb_norms(seeded(build, 4)), seeded(build, 3, seed=1)
    before, after = copy.deepcopy(target.state_dict()), target.state_dict()
    report = transplant(source, target)
    assert {name.rpartition(".")[0] for name in report.reinitialized} == scoring
    assert set(report.skipped) == set(report.reinitialized) and report.adapted == ()
    for name, value in source.state_dict().items():
        assert after[name].equal(before[name] if name in report.reinitialized else value), name
    assert "reinitialized" in str(report) and sorted(scoring)[0] in str(report)


@same
def test_the_same_number_of_classes_is_loaded_whole(build, scoring):
    source, target = perturb_norms(seeded(build, 4)), seeded(build, 4, seed=1)
    report = transplant(source, target)
    assert report.skipped == report.reinitialized == () and len(report.loaded) == len(source.state_dict())
    assert all(value.equal(target.state_dict()[name]) for name, value in source.state_dict().items())


@same
@torch.no_grad()
def test_weights_for_rgb_images_read_grey_ones(build, scoring):
    """A grey image is an RGB image with the same value three times."""
    source, target = seeded(build, 3).double().eval(), seeded(build, 3, in_channels=1, seed=1).double().eval()
    (stem,) = transplant(source, target).adapted
    x = images(1, 1, 64, 48, dtype=torch.float64)
    torch.testing.assert_close(target(x), source(x.expand(-1, 3, -1, -1)), rtol=0, atol=1e-10)
    assert stem in str(transplant(source, target))


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
@pytest.mark.parametrize(
    ("source", "build", "theirs", "ours"),
    [
        (narrow_vgg, partial(FCN8s, 3, **NARROW), "features.0.weight", "backbone.stage1.conv1_1.weight"),
        (narrow_vgg13, partial(UNet, 3, base=2), "features.0.weight", "contract1.conv1.weight"),
        (narrow_resnet, partial(ResNet, 18), "conv1.weight", "conv1.weight"),
    ],
    ids=["vgg", "unet", "resnet"],
)
def test_weights_for_rgb_images_are_adapted_as_timm_does_it(source, build, theirs, ours, channels):
    source, target = source(), seeded(build, in_channels=channels)
    report = transplant(source, target)
    expected = timm.models.adapt_input_conv(channels, source.state_dict()[theirs])
    torch.testing.assert_close(target.state_dict()[ours], expected, rtol=1e-6, atol=0)
    assert report.adapted == (ours,)


def test_weights_for_grey_images_are_refused_for_rgb():
    with pytest.raises(ValueError, match="score_fr|conv1_1.*in_channels"):
        transplant(FCN8s(3, in_channels=1, **NARROW), FCN8s(3, **NARROW))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("source", [narrow_vgg, lambda: seeded(FCN8s, 3, **NARROW)], ids=["torchvision", "own"])
def test_what_wrappers_put_before_a_name_is_taken_off(source, prefix):
    source, plain, wrapped = source().state_dict(), seeded(FCN8s, 3, **NARROW), seeded(FCN8s, 3, **NARROW)
    transplant(source, plain)
    transplant({prefix + name: tensor for name, tensor in source.items()}, wrapped)
    assert all(value.equal(plain.state_dict()[name]) for name, value in wrapped.state_dict().items())


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(96, 4, 1), nn.Sequential(nn.Dropout(), nn.Conv2d(96, 4, 1))], ids=["plain", "other names"]
)
def test_a_replaced_scoring_layer_can_be_loaded_again(tmp_path, layer):
    trained = seeded(DeepLabV3, 3, **DEEPLAB_V3["tiny"])
    trained.head.classifier = layer
    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    replaced, plain = (seeded(DeepLabV3, 3, seed=seed, **DEEPLAB_V3["tiny"]) for seed in (1, 2))
    replaced.head.classifier = copy.deepcopy(layer)
    report = load_pretrained(replaced, path=tmp_path / "trained.pth")
    assert report.reinitialized == () and len(report.loaded) == len(trained.state_dict())
    report = load_pretrained(plain, path=tmp_path / "trained.pth")
    assert report.reinitialized == ("head.classifier.weight", "head.classifier.bias") and len(report.skipped) == 2
    assert plain.backbone.conv1.weight.equal(trained.backbone.conv1.weight)


@pytest.mark.parametrize("with_head", [True, False])
def test_an_auxiliary_head_may_be_missing_on_either_side(with_head):
    build = partial(PSPNet, **PSPNETS["tiny"])
    source, target = seeded(build, 3, auxiliary=with_head), seeded(build, 3, auxiliary=not with_head, seed=1)
    report = transplant(source, target)
    assert bool(report.skipped) == with_head and bool(report.reinitialized) == (not with_head)
    assert {name.split(".")[0] for name in report.skipped + report.reinitialized} == {"auxiliary"}


def test_maps_belong_to_classes_and_not_to_their_names():
    derived = type("Mine", (VGG16,), {})(widths=WIDTHS)
    assert transplant(narrow_vgg(), derived).reinitialized == ()
    namesake = type("VGG16", (nn.Module,), {})()
    namesake.stage = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="No key map"):
        transplant(narrow_vgg(), namesake)
    with pytest.raises(ValueError, match="no ImageNet weights for VGG16"):
        load_pretrained(namesake)


@pytest.mark.parametrize(
    "options",
    [{"width": 96, "heads": 3, "depth": 24}, {"patch": 8}, {"width": 768, "depth": 2}],
    ids=["as deep as L", "patch", "shallow"],
)
def test_a_vit_of_another_size_has_no_published_weights(downloader, options):
    with torch.device("meta"):
        model = ViT(3, **{"width": 48, "heads": 3, "depth": 1, **options})
    with pytest.raises(ValueError, match="no ImageNet weights for a ViT of this size.*b16, b32, l16"):
        load_pretrained(model)
    assert downloader.calls == []


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints_that_hold_weights_beside_other_things_are_read(tmp_path, key):
    torch.save({"epoch": 3, key: narrow_vgg().state_dict()}, tmp_path / "checkpoint.pth")
    assert len(load_pretrained(FCN8s(3, **NARROW), path=tmp_path / "checkpoint.pth").loaded) == 30


# -------------------------------------------------------------------------------------------------- files and addresses
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
    torch.save(FCN8s(3, widths=WIDTHS, hidden=9).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="fc6.*source's widths"):
        load_pretrained(model, path=tmp_path / "other.pth")
    with pytest.raises(ValueError, match='"laion".*"imagenet" or "coco"'):
        load_pretrained(model, "laion")
    with pytest.raises(ValueError, match='"nvidia/mit-b0/main".*"owner/repository"'):
        load_pretrained(model, "nvidia/mit-b0/main")
    with pytest.raises(ValueError, match="no COCO weights for FCN8s.*DeepLabV3"):
        load_pretrained(model, "coco")
    with pytest.raises(ValueError, match="no COCO weights for a DeepLabV3 of this size.*torchvision_resnet50"):
        load_pretrained(DeepLabV3(3, backbone="tiny", multi_grid=(1, 2)), "coco")
    with pytest.raises(ValueError, match="no ImageNet weights for Linear"):
        load_pretrained(nn.Linear(1, 1))
