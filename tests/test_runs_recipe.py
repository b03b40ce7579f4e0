"""The switches of a training recipe, each against a reference that knows nothing of it."""

import importlib
import json

import pytest
import torch
import yaml

from segtutor import cli, factory, inference, runs
from segtutor.data import SyntheticScenes
from segtutor.factory import SegmentationModel, create_model, get_backbone_statistics

train_module = importlib.import_module("segtutor.runs.train")  # the package has a function of that name
pytestmark = pytest.mark.filterwarnings("ignore:.*collapsed:UserWarning")

PRETRAINED = {
    "model": {"backbone": {"type": "efficientnet_lite", "pretrained": True}, "head": "fcn"},
    "data": {"type": "scenes", "size": [32, 48], "length": 2, "augmentation": {"flip": False}},
    "training": {"steps": 1, "batch_size": 2, "precision": "fp32"},
}


# ------------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    "section, timm_name",
    [
        ({"type": "efficientnet_lite"}, "tf_efficientnet_lite0"),
        ({"type": "resnet", "depth": 18}, "resnet18"),
        ({"type": "resnetv2", "depth": 50}, "resnetv2_50"),
        ({"type": "timm", "name": "regnetx_002"}, "regnetx_002"),
    ],
)
def test_a_pretrained_backbone_knows_what_its_images_were_normalised_by(section, timm_name):
    import timm

    published = timm.models.get_pretrained_cfg(timm_name)
    known = get_backbone_statistics({**section, "pretrained": True})
    assert known == (published.mean, published.std)
    assert get_backbone_statistics(section) is None


def test_statistics_follow_the_weights_of_the_first_layer_to_other_channels():
    """A first layer that sees a grey image answers alike, whether it gets it as three channels or as one."""
    section, answers = {"type": "efficientnet_lite", "pretrained": True}, []
    for channels in (3, 1):
        known = get_backbone_statistics({"backbone": section, "head": "fcn", "num_classes": 2, "in_channels": channels})
        image = torch.stack([(torch.full((9, 9), 0.8) - m) / s for m, s in zip(*known, strict=True)])
        with torch.no_grad():
            answers.append(factory.create_backbone(section, channels).eval().network.conv_stem(image[None]))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-4)
    mit = {"backbone": {"type": "segformer", "pretrained": True}, "head": "fcn", "num_classes": 2}
    assert get_backbone_statistics({**mit, "in_channels": 1}).std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))
    assert get_backbone_statistics({**mit, "in_channels": 4}).mean == (0.485, 0.456, 0.406, 0.485)
    assert get_backbone_statistics({"type": "vovnet", "pretrained": "mine.pth"}) is None


def test_a_model_without_data_knows_its_backbones_statistics():
    model = create_model(PRETRAINED["model"], num_classes=2)
    assert (model.info.mean, model.info.std) == ((0.5,) * 3, (0.5,) * 3)


def test_training_and_the_saved_model_normalise_alike_and_as_the_backbone_was_trained(tmp_path, monkeypatch):
    seen, fit = [], train_module.training.fit

    def watched(model, data, **settings):
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
        return fit(model, data, **settings)

    monkeypatch.setattr(train_module.training, "fit", watched)
    path = tmp_path / "street.yaml"
    path.write_text(yaml.safe_dump(PRETRAINED), encoding="utf-8")
    assert cli.main(["train", "--config", str(path), "--out", str(tmp_path / "run")]) == 0
    trained_on, validated_on = seen
    sets = {split: SyntheticScenes((32, 48), 2, split=split) for split in ("train", "val")}
    raw = {split: torch.stack([image for image, _ in images]) for split, images in sets.items()}
    by_hand = {split: (images - 0.5) / 0.5 for split, images in raw.items()}
    order = [0, 1] if torch.allclose(trained_on[0], by_hand["train"][0], atol=1e-6) else [1, 0]
    torch.testing.assert_close(trained_on[order], by_hand["train"])
    torch.testing.assert_close(validated_on, by_hand["val"])

    model = SegmentationModel.from_pretrained(tmp_path / "run" / "last")
    assert (
        (model.info.mean, model.info.std) == ((0.5,) * 3, (0.5,) * 3) != (sets["val"].spec.mean, sets["val"].spec.std)
    )
    with torch.no_grad():
        pipeline = model(validated_on).argmax(1)
    assert torch.stack([inference.predict(model, image) for image in raw["val"]]).equal(pipeline)
    [[_, validated]] = json.loads((tmp_path / "run" / "history.json").read_text())["validation"]
    assert runs.evaluate(tmp_path / "run", "val", weights="last")["miou"] == validated["miou"]
