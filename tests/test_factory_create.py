"""Models as folders: what is saved comes back, and what is broken is refused in one sentence."""

import json

import pytest
import torch
import yaml
from contract import AuxiliaryContract, images, perturb_norms, seeded
from PIL import Image

from segtutor.data import SyntheticScenes
from segtutor.factory import ConfigError, ModelInfo, SegmentationModel, create_model
from segtutor.factory.saved import model_card
from segtutor.inference import predict, save_labels, save_overlay


def tiny(num_classes=5, **settings):
    return create_model("resnet18-fcn", num_classes=num_classes, **settings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model that has everything a saved one may have, its folder, and images for it."""
    spec = SyntheticScenes(length=1).spec
    config = {"backbone": {"type": "resnet", "depth": 18, "output_stride": 16}, "head": {"type": "fcn", "proj_dim": 8}}
    info = ModelInfo.of(spec, input_size=(64, 96))
    model = create_model(config, num_classes=spec.num_classes, auxiliary=True, seed=3, info=info)
    perturb_norms(model).eval()
    folder = tmp_path_factory.mktemp("models") / "new" / "folder"
    assert model.save_pretrained(folder) == folder
    return model, folder, images(2, 3, 45, 64)


def test_a_saved_model_comes_back_from_its_folder_alone(saved):
    model, folder, x = saved
    again = SegmentationModel.from_pretrained(folder)
    with torch.no_grad():
        assert again(x).equal(model(x)) and not again.training
        assert again(x, auxiliary=True)[1].equal(model(x, auxiliary=True)[1])
    assert again.info == model.info and again.config == model.config
    assert again.info.palette == tuple(SyntheticScenes(length=1).spec.palette) and again.info.input_size == (64, 96)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    facts = json.loads((folder / "config.json").read_text())
    assert facts["config"]["backbone"]["output_stride"] == 16 and facts["config"]["seed"] == 3
    assert facts["info"]["ignore_index"] == 255 and len(facts["info"]["mean"]) == 3
    second = again.save_pretrained(folder.parent / "second")
    assert (second / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_saved_model_has_a_card_that_its_owner_may_write(saved, tmp_path):
    model, folder, _ = saved
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "segtutor", "pipeline_tag": "image-segmentation"}
    for label, name in enumerate(model.info.classes):
        assert f"| {label} | {name} |" in card
    assert str(tuple(model.info.mean)) in card and f"{sum(t.numel() for t in model.state_dict().values()):,}" in card
    (tmp_path / "README.md").write_text("Mine.")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "Mine."


def test_the_card_of_nvidias_weights_says_what_they_are_for():
    config = {"backbone": {"type": "segformer", "pretrained": True}, "head": {"type": "fcn"}, "num_classes": 2}
    card = model_card(config, {"classes": None, "mean": (0.5,), "std": (0.5,)}, 10)
    assert "license: other" in card and "non-commercial" in card and "| 1 | class 1 |" in card
    ours = model_card({**config, "backbone": {"type": "segformer", "pretrained": False}}, {}, 10)
    assert "license" not in ours and "NVIDIA" not in ours


def test_the_weights_named_in_the_configuration_are_not_fetched_again(saved, tmp_path):
    from safetensors.torch import save_file

    model, folder, x = saved
    backbone = tmp_path / "backbone.safetensors"
    save_file(model.backbone.network.state_dict() | {"fc.weight": torch.zeros(1)}, backbone)
    config = {"backbone": {"type": "resnet", "depth": 18, "pretrained": str(backbone)}, "head": "fcn", "num_classes": 2}
    first = create_model(config).eval()
    first.save_pretrained(tmp_path / "model")
    backbone.unlink()
    again = SegmentationModel.from_pretrained(tmp_path / "model")
    assert again.config.backbone["pretrained"] == str(backbone) and again(x).equal(first(x))


def test_a_repository_of_the_hub_is_a_folder_elsewhere(saved, monkeypatch):
    import huggingface_hub

    model, folder, x = saved
    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "someone/model":
            raise OSError("Name or service not known\nand a long story")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with torch.no_grad():
        assert SegmentationModel.from_pretrained("someone/model")(x).equal(model(x))
    assert asked == [("someone/model", ["config.json", "model.safetensors"])]
    with pytest.raises(ConfigError, match=r"someone/other is no folder, .*\(Name or service not known\)\.$"):
        SegmentationModel.from_pretrained("someone/other")


def test_what_is_pushed_is_what_would_be_saved(saved, monkeypatch):
    import huggingface_hub

    model, folder, _ = saved
    calls = {}

    class Hub:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, name, private, exist_ok):
            calls["repository"] = (name, private, exist_ok)
            return type("Url", (), {"repo_id": f"someone/{name}"})

        def upload_folder(self, repo_id, folder_path, commit_message):
            from pathlib import Path

            files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            calls["uploaded"] = repo_id, files
            return "the address of a commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert model.push_to_hub("model", private=True, token="secret") == "the address of a commit"
    assert calls["repository"] == ("model", True, True) and calls["token"] == "secret"
    assert calls["uploaded"] == ("someone/model", {path.name: path.read_bytes() for path in folder.iterdir()})


def _break(folder, how):
    config, weights = folder / "config.json", folder / "model.safetensors"
    facts = json.loads(config.read_text())
    if how == "no weights":
        weights.unlink()
    elif how == "no config":
        config.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "cut config":
        config.write_text(config.read_text()[:40])
    elif how == "a list":
        config.write_text("[1, 2]")
    elif how == "no info":
        config.write_text(json.dumps({"config": facts["config"]}))
    elif how == "other info":
        config.write_text(json.dumps({**facts, "info": {**facts["info"], "colour": 1}}))
    elif how == "another model":
        config.write_text(json.dumps({**facts, "config": {**facts["config"], "num_classes": 3}}))
    elif how == "another backbone":
        facts["config"]["backbone"]["type"] = "resnt"
        config.write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no weights", "model.safetensors is missing"),
        ("no config", "config.json is missing"),
        ("cut weights", "no readable model"),
        ("cut config", "no readable model"),
        ("a list", "no readable model"),
        ("no info", "no readable model"),
        ("other info", "are not of one model: .*colour"),
        ("another model", "are not of one model: .*head.classifier"),
        ("another backbone", "backbone.type: 'resnt' is unknown"),
    ],
)
def test_broken_folders_are_refused_in_a_sentence(saved, tmp_path, how, says):
    import shutil

    folder = shutil.copytree(saved[1], tmp_path / "copy")
    _break(folder, how)
    with pytest.raises(ConfigError, match=says) as caught:
        SegmentationModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_saving_is_whole_or_not_at_all(saved, tmp_path, monkeypatch):
    model, folder, x = saved
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(tensors, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_same_seed_same_weights_and_the_callers_numbers_go_on():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = tiny(seed=1)
    assert torch.rand(3).equal(expected), "the caller's random numbers were disturbed"
    second, other, free = tiny(seed=1), tiny(seed=2), tiny()
    weights = [model.backbone.network.conv1.weight for model in (first, second, other, free)]
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2]) and not weights[0].equal(weights[3])
    assert first.head.classifier.weight.equal(second.head.classifier.weight)


def test_the_device_is_a_setting():
    assert tiny(device="cpu").head.classifier.weight.device.type == "cpu"
    assert next(tiny(device="meta").parameters()).is_meta
    for device in ("gpu", "cuda:99", "tpu"):
        with pytest.raises(ConfigError, match=f"^device: '{device}' cannot be used here .*leave it out") as caught:
            tiny(device=device)
        assert "\n" not in str(caught.value)


def test_what_a_model_knows_of_its_data():
    assert tiny().info.classes == tuple(f"class {i}" for i in range(5)) and tiny().info.mean[0] == 0.485
    assert len(tiny(in_channels=4).info.mean) == 4
    with pytest.raises(ConfigError, match="num_classes: 5, but info names 2 classes"):
        tiny(info=ModelInfo(("a", "b")))


def test_one_logit_has_the_names_and_colours_of_two_classes(tmp_path):
    assert tiny(num_classes=1).info.classes == ("background", "foreground")
    info = ModelInfo(("tissue", "membrane"), ((0, 0, 0), (250, 240, 0)))
    model = tiny(num_classes=1, info=info, auxiliary=True).eval()
    again = SegmentationModel.from_pretrained(model.save_pretrained(tmp_path))
    assert again.info == info and again.config.num_classes == 1
    image = images(1, 3, 45, 64)
    with torch.no_grad():
        logits = model(image)
        assert logits.shape == (1, 1, 45, 64) and again(image).equal(logits)
    labels = predict(again, image[0].sigmoid())
    assert set(labels.unique().tolist()) <= {0, 1}
    written = Image.open(save_labels(logits[0, 0] > 0, tmp_path / "labels.png", again.info))
    assert written.getpalette()[:6] == [0, 0, 0, 250, 240, 0]
    save_overlay(image[0].sigmoid(), logits[0, 0] > 0, tmp_path / "overlay.png", again.info)
    for wrong in (ModelInfo(("membrane",)), ModelInfo(("a", "b", "c"))):
        with pytest.raises(ConfigError, match="num_classes: 1, but info names . classes; .*name the background and"):
            tiny(num_classes=1, info=wrong)
    with pytest.raises(ConfigError, match="info.palette: 1 colours for 2 classes"):
        tiny(num_classes=1, info=ModelInfo(info.classes, ((0, 0, 0),)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "info.mean: 3 values, but the model's images have in_channels=1"),
        ({"std": ()}, "info.std: 0 values"),
        ({"std": (0.0,)}, r"info.std: images are divided by \[0.0\], so each must be above 0"),
        ({"mean": (float("nan"),)}, r"info.mean: \[nan\] are not all finite"),
        ({"palette": ((0, 0, 0),)}, "info.palette: 1 colours for 2 classes; give one"),
    ],
    ids=str,
)
def test_facts_that_do_not_fit_the_model(change, says):
    info = ModelInfo(**{"classes": ("a", "b"), "mean": (0.5,), "std": (0.2,), **change})
    with pytest.raises(ConfigError, match=says):
        create_model("resnet18-fcn", num_classes=2, in_channels=1, info=info)


def test_a_reloaded_model_is_frozen_only_where_that_is_asked_for(tmp_path):
    frozen = create_model({"backbone": {"type": "resnet", "depth": 18, "frozen": True}, "head": "fcn"}, num_classes=2)
    frozen.save_pretrained(tmp_path)
    for what in (False, "norms", True):
        again = SegmentationModel.from_pretrained(tmp_path, **({} if what is False else {"frozen": what})).train()
        norms = [layer for layer in again.backbone.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        learns = [parameter.requires_grad for parameter in again.backbone.parameters()]
        assert again.config.backbone["frozen"] is what or again.config.backbone["frozen"] == what
        assert all(layer.training for layer in norms) == (what is False)
        assert (all(learns), any(learns)) == {False: (True, True), "norms": (False, True), True: (False, False)}[what]


class TestAuxiliaryOutput(AuxiliaryContract):
    def build(self, num_classes, auxiliary=False):
        return tiny(num_classes, auxiliary=auxiliary)

    def test_the_auxiliary_output_reads_conv4_x(self):
        model = seeded(self.build, 3, auxiliary=True)
        model(images(2, 3, 64, 64), auxiliary=True)[1].square().mean().backward()
        learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        reached = {".".join(name.split(".")[:3]) for name in learning if not name.startswith("auxiliary.")}
        assert reached == {f"backbone.network.{part}" for part in ("conv1", "bn1", "layer1", "layer2", "layer3")}
        assert model.auxiliary.project[0].out_channels == 64, "a quarter of c3"
