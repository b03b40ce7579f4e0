"""What ``segtutor models`` lists, what ``segtutor doctor`` finds, and that shipped configurations can be trained."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from segtutor import cli, data, factory, probe
from segtutor.cli import catalogue, doctor
from segtutor.factory import SegmentationModel, create_model
from segtutor.factory.backbones import list_backbone_names, list_backbone_uses
from segtutor.factory.config import read_yaml, shipped_configs
from segtutor.factory.heads import HEADS
from segtutor.runs import read_recipe

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = shipped_configs()
NATIVE = [name for name in factory.list_heads() if ":" not in name]
RECOMMENDED = {
    "max_accuracy": ("segformer", {"variant": "mit-b5"}, {"type": "segformer", "proj_dim": 256}),
    "balanced": ("resnet", {"depth": 101}, {"type": "aspp"}),
    "max_speed": ("segformer", {"variant": "mit-b0"}, {"type": "extremely_fast_segformer", "proj_dim": 64}),
    "budget_gpu": ("resnet", {"depth": 50}, {"type": "aspp"}),
}
STREETS = {name: path for name, path in CONFIGS.items() if name.startswith("camvid_")}
every_config = pytest.mark.parametrize("name", CONFIGS)


def drawn(name):
    """Overrides that put drawn images in the place of those that are not everywhere."""
    return ["data.type=scenes", "data.keep_in_memory=false"] if name in STREETS else []


def on_meta(name):
    config = read_recipe(name, ["model.backbone.pretrained=false", *drawn(name)]).model
    with torch.device("meta"):
        return create_model(config)


# ---------------------------------------------------------------------------------------------------- configurations
def test_there_is_one_for_each_recommendation_and_each_head():
    assert set(CONFIGS) == {*RECOMMENDED, *NATIVE, *STREETS} and STREETS
    for name, (kind, variant, head) in RECOMMENDED.items():
        model = read_yaml(CONFIGS[name])["model"]
        assert model["backbone"]["type"] == kind and variant.items() <= model["backbone"].items()
        assert head.items() <= model["head"].items() and model["backbone"]["pretrained"] is True
    for name in NATIVE:
        assert read_yaml(CONFIGS[name])["model"]["head"]["type"] == name


@every_config
def test_it_says_when_to_use_it(name):
    text = CONFIGS[name].read_text(encoding="utf-8")
    when = read_yaml(CONFIGS[name])["when"]
    assert text.startswith("# ") and when.endswith(".") and "\n" not in when
    if name in HEADS:
        assert when == HEADS[name].when


@every_config
def test_it_can_be_trained(name):
    recipe = read_recipe(name, drawn(name))
    assert (recipe.model.num_classes, recipe.model.in_channels, recipe.data["type"]) == (11, 3, "scenes")
    assert recipe.training.warmup < recipe.training.validate_every <= recipe.training.steps
    model = on_meta(name)
    assert isinstance(model, SegmentationModel)
    crop = recipe.data["augmentation"].crop
    images = torch.empty(2, 3, *crop, device="meta")
    loss = recipe.training.make_loss(255, recipe.model.auxiliary)
    outputs = model(images, auxiliary=recipe.model.auxiliary)
    first = outputs[0] if recipe.model.auxiliary else outputs
    assert first.shape == (2, 11, *crop) and isinstance(loss, nn.Module)


@pytest.mark.parametrize("name", sorted(STREETS))
def test_a_configuration_for_photographs_starts_from_weights_that_are_installed(name):
    config = read_yaml(CONFIGS[name])
    assert config["data"]["type"] == "camvid" and config["model"]["backbone"]["type"] == "efficientnet_lite"
    assert config["model"]["backbone"]["pretrained"] is True


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - STREETS.keys()))
def test_the_line_for_camvid_in_it_works(name):
    [line] = [line for line in CONFIGS[name].read_text().splitlines() if "CamVid:" in line]
    overrides = re.search(r"CamVid: ([^,]*),", line).group(1).split()
    assert overrides == ["data.type=camvid", "data.size=null"]
    if data.available("camvid"):
        assert read_recipe(name, overrides).data["size"] is None


def test_budget_gpu_trains_in_less_than_8_gb():
    recipe, model = read_recipe("budget_gpu"), on_meta("budget_gpu")
    peak = probe.count_peak_bytes(model, tuple(recipe.data["augmentation"].crop), batch=recipe.training.batch_size)
    moments = 2 * 4 * probe.count_parameters(model)
    assert peak + moments < 7e9, "a gigabyte is CUDA's own"


def test_a_wheel_has_them():
    assert 'targets.wheel]\npackages = ["segtutor"]\n\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(path.is_relative_to(ROOT / "segtutor") for path in CONFIGS.values())
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert "yaml" not in ignored and "configs" not in ignored, "hatch leaves out what git ignores"


# ----------------------------------------------------------------------------------------------------------- models
def test_models_shows_a_decoder_of_smp(capsys):
    assert cli.main(["models", "smp:unet"]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("smp:unet ")]
    assert row.split()[2] == "M" and float(row.split()[1]) > 1


def test_models_shows_what_it_is_asked_for(capsys):
    assert cli.main(["models", "resnet18", "mit-b0", "fcn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 110
    [row] = [line for line in lines if line.startswith("resnet18 ")]
    # torchvision publishes 1.82 GMAC at 224x224; at 512x512, without the classifier, twice (512/224)^2 times as much
    assert row.split() == ["resnet18", "11.2", "M", "18.9", "64/128/256/512", "32/16/8", "apache-2.0"]
    assert abs(2 * 1.814 * (512 / 224) ** 2 - 18.95) < 0.1
    [row] = [line for line in lines if line.startswith("mit-b0 ")]
    assert row.split()[5:] == ["32", "non-commercial", "(NVIDIA)"]
    [row] = [line for line in lines if line.startswith("fcn ")]
    assert row.split() == ["fcn", "9.45", "M", "4.8", "32", "32"], "3x3x2048x512 weights on a 16x16 map"
    assert list_backbone_uses()["resnet18"] in " ".join(line.strip() for line in lines)
    assert cli.main(["models", "resnet17"]) == 2
    assert "did you mean 'resnet18'" in (error := capsys.readouterr().err) or "resnet152" in error


def test_models_knows_every_name(monkeypatch):
    card = catalogue.BackboneCard("x", 1, 1.0, (1, 2, 3, 4), (32,), "", "When.")
    monkeypatch.setattr(catalogue, "backbone_card", lambda name: card)
    monkeypatch.setattr(catalogue, "head_card", lambda name: catalogue.HeadCard(name, 1, 1.0, (4,), 4, "When."))
    asked = []
    monkeypatch.setattr(catalogue, "_when", lambda sentence: asked.append(sentence) or [])
    text = catalogue.listing()
    assert len(asked) == len(list_backbone_names()) + len(NATIVE)
    assert "no weights" in text and all(name in text for name in (*NATIVE, *RECOMMENDED))


def test_a_card_that_cannot_dilate_says_so():
    assert catalogue.backbone_card("ghostnet").strides == (32,)
    card = catalogue.backbone_card("vovnet27")
    assert (card.licence, card.channels, card.parameters) == ("", (128, 256, 384, 512), 3_012_736)


# ----------------------------------------------------------------------------------------------------------- doctor
def test_doctor_knows_the_bounds_of_the_package():
    wanted = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, least in doctor.LEAST.items():
        assert f'"{name}>={least}"' in wanted


def test_doctor_says_what_to_do(monkeypatch, capsys, tmp_path):
    versions = {"timm": "0.9.16", "torch": "2.10.1+cu126"}
    monkeypatch.setattr(doctor.metadata, "version", lambda name: versions.get(name) or gone())
    monkeypatch.setenv("SEGTUTOR_DATA", str(tmp_path / "typo"))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**9}))
    monkeypatch.setattr(doctor, "fit_of_torchvision", lambda: doctor.Finding("torchvision fits torch"))

    def gone():
        raise doctor.metadata.PackageNotFoundError

    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert "!! timm 0.9.16, older than 1.0.22" in lines and "   torch 2.10.1+cu126" in lines
    advice = lines[lines.index("What to do:") + 1 :]
    assert [line.split(". ")[0] for line in advice] == [str(i) for i in range(1, len(advice) + 1)]
    text = "\n".join(advice)
    for words in ("pip install --upgrade timm", "'numpy>=1.26'", "HF_HOME", "typo"):
        assert words in text


def test_doctor_tells_a_torchvision_of_another_torch(monkeypatch):
    import torchvision

    def broken(*_):
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(torchvision.ops, "nms", broken)
    finding = doctor.fit_of_torchvision()
    assert "nms does not exist" in finding.text and "pip install --upgrade torch torchvision" in finding.advice
    assert "\n" not in finding.text
    monkeypatch.undo()
    assert doctor.fit_of_torchvision().advice == ""


@pytest.mark.parametrize(
    ("available", "built", "card", "says", "advice"),
    [
        (False, None, True, "built for the CPU", "pytorch.org"),
        (False, "12.6", True, "does not answer", "Update the driver"),
        (False, None, False, "none found", ""),
        (True, "12.6", True, "H100, 79 GiB, CUDA 12.6", ""),
    ],
)
def test_doctor_says_why_there_is_no_gpu(monkeypatch, available, built, card, says, advice):
    about = type("About", (), {"name": "H100", "total_memory": 79 * 2**30, "major": 9})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "somewhere" if card else None)
    if torch.backends.mps.is_available():
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    finding = doctor.accelerator()
    assert says in finding.text and advice in finding.advice and bool(finding.advice) == bool(advice)


def test_doctor_minds_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    assert "OMP_NUM_THREADS=" in doctor.machine().advice


def test_the_resolved_configuration_of_a_shipped_one_is_yaml(name="fcn"):
    recipe = read_recipe(name)
    assert read_recipe(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe
