"""UPerNet: the decoder beside transformers' with the same weights, and what its sizes promise."""

from functools import partial

import pytest
import torch
import torchvision
from contract import AuxiliaryContract, ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.models import swin
from segtutor.models.upernet import PRESETS, SwinUPerNet, UPerNetDecoder
from segtutor.weights import load_pretrained, transplant

CHANNELS = (6, 8, 10, 12)
FACTS = PAPERS["swin"].facts


class TestSwinUPerNet(ModelContract):
    untraced = ("tiny",)
    models = {"tiny": partial(SwinUPerNet, **PRESETS["tiny"])}


class Both(nn.Module):
    """The sum of the two outputs, so that the contract covers ``model(images, auxiliary=True)`` as well."""

    def __init__(self, num_classes, **options):
        super().__init__()
        self.model = SwinUPerNet(num_classes, auxiliary=True, **PRESETS["tiny"], **options)

    def forward(self, x):
        logits, auxiliary_logits = self.model(x, auxiliary=True)
        return logits + auxiliary_logits


class TestBothOutputs(ModelContract):
    untraced = ("both",)
    models = {"both": Both}


class TestAuxiliary(AuxiliaryContract):
    build = staticmethod(partial(SwinUPerNet, **PRESETS["tiny"]))

    def test_the_auxiliary_output_reads_conv4_x(self):
        """Here: stage 3."""
        model = seeded(self.build, 3, auxiliary=True)
        _, auxiliary_logits = model(images(2, 3, 64, 64), auxiliary=True)
        auxiliary_logits.square().mean().backward()
        learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        own = {name for name, _ in model.named_parameters() if name.startswith("auxiliary.")}
        assert own and own <= learning
        reached = {".".join(name.split(".")[:3]) for name in learning - own}
        assert reached == {"backbone.stages.0", "backbone.stages.1", "backbone.stages.2", "backbone.norms.2"}


# ---------------------------------------------------------------------------------------------------- the paper's model
def their_network(preset, *, classes=150, auxiliary=True, width=512, auxiliary_width=256):
    """transformers' UPerNet on a Swin like a preset of ours."""
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    options = {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7, **swin.PRESETS[preset]}
    backbone = SwinConfig(
        embed_dim=options["width"],
        depths=list(options["depths"]),
        num_heads=list(options["heads"]),
        window_size=options["window"],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = UperNetConfig(
        backbone_config=backbone,
        num_labels=classes,
        hidden_size=width,
        use_auxiliary_head=auxiliary,
        auxiliary_in_channels=4 * options["width"],
        auxiliary_channels=auxiliary_width,
    )
    return UperNetForSemanticSegmentation(config)


@pytest.mark.parametrize(
    ("preset", "auxiliary", "fact"),
    [
        ("swin_t", False, "parameters_tiny_upernet_plain"),
        ("swin_t", True, "parameters_tiny_upernet"),
        ("swin_s", True, "parameters_small_upernet"),
        ("swin_b", True, "parameters_base_upernet"),
    ],
)
def test_parameters_are_theirs_less_a_norm_that_nothing_reads(preset, auxiliary, fact):
    with torch.device("meta"):
        theirs, ours = (
            their_network(preset, auxiliary=auxiliary),
            SwinUPerNet(150, auxiliary=auxiliary, backbone=preset),
        )
    unread = 2 * ours.backbone.channels[-1]
    assert probe.count_parameters(theirs.backbone.swin.layernorm) == unread
    # On Swin-B the authors' auxiliary head is as wide as on Swin-T.
    assert probe.count_parameters(ours) + unread == probe.count_parameters(theirs) == FACTS[fact].value


def test_operations_are_the_published_ones_less_the_products_with_padding():
    with torch.device("meta"):
        model = SwinUPerNet(150)
    spared = 0  # projections of positions that are nothing but padding, which the references multiply
    for stage, channels, stride in zip(model.backbone.stages, model.backbone.channels, (4, 8, 16, 32), strict=True):
        height, width = 512 // stride, 2048 // stride
        padding = (height + -height % 7) * (width + -width % 7) - height * width
        spared += len(stage.blocks) * padding * 4 * channels**2
    found = probe.count_flops(model, (512, 2048)) / 2
    assert (found + spared) / 1e9 == pytest.approx(FACTS["gmac_512x2048_tiny_upernet"].value, abs=0.05)


def test_the_default_is_the_papers_model():
    with torch.device("meta"):
        model = SwinUPerNet(150)
    assert model.backbone.channels == (96, 192, 384, 768) and model.auxiliary is None
    assert model.decoder.out_channels == PAPERS["upernet"].facts["width"].value
    assert model.backbone.stages[-1].blocks[-1].drop_path.rate == pytest.approx(FACTS["drop_path_upernet"].value)
    shapes = {row.name: row.out_shape[1:] for row in probe.shape_trace(model, (512, 512)) if row.name != "backbone"}
    assert shapes == {"decoder": (512, 128, 128), "classifier": (150, 128, 128)}


@pytest.fixture(scope="module")
def pair():
    """transformers' network and ours, narrow, with the same weights in double precision."""
    theirs = seeded(their_network, "tiny", classes=5, width=6, auxiliary_width=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in perturb_norms(theirs).named_parameters():
            if name.endswith(("bias", "bias_table")):  # fresh ones are zero there
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    ours = SwinUPerNet(5, backbone="tiny", width=6, auxiliary=True).double().eval()
    report = transplant(theirs.double().eval(), ours)
    assert (
        report.skipped == ("backbone.swin.layernorm.weight", "backbone.swin.layernorm.bias")
        and not report.reinitialized
    )
    return theirs, ours


@pytest.mark.parametrize("size", [(64, 64), (100, 100), (60, 132), (33, 47)], ids=str)
@torch.no_grad()
def test_logits_are_transformers(pair, size):
    theirs, ours = pair
    x = images(2, 3, *size, dtype=torch.float64)
    expected = theirs(x).logits
    assert expected.std() > 1e-3, "logits without variation compare nothing"
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-11)
    auxiliary = theirs.auxiliary_head(theirs.backbone(x).feature_maps)
    auxiliary = nn.functional.interpolate(auxiliary, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours(x, auxiliary=True)[1], auxiliary, rtol=0, atol=1e-11)


@torch.no_grad()
def test_older_names_of_transformers_load_as_well(pair):
    theirs, ours = pair
    older = {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("backbone.swin.", "backbone.").replace("attention.o_proj", "attention.output.dense")
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            name = name.replace(f"attention.{letter}_proj", f"attention.self.{word}")
        name = name.replace("attention.relative_position_bias.", "attention.self.")
        name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        if not name.startswith("backbone.layernorm."):
            older[name] = tensor
    index = "backbone.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    older[index] = torch.zeros(16, 16, dtype=torch.long)
    other = SwinUPerNet(5, backbone="tiny", width=6).double().eval()
    report = transplant(older, other)
    assert {name.split(".")[0] for name in report.skipped} == {
        "backbone",
        "auxiliary_head",
    } and not report.reinitialized
    x = images(1, 3, 64, 40, dtype=torch.float64)
    assert other(x).equal(ours(x))


def test_weights_that_are_not_nvidias_are_not_said_to_be(pair, tmp_path, notices):
    torch.save(pair[0].state_dict(), tmp_path / "upernet.bin")
    load_pretrained(SwinUPerNet(5, backbone="tiny", width=6), path=tmp_path / "upernet.bin")
    assert notices.messages == []


@torch.no_grad()
def test_imagenet_weights_go_into_the_backbone_alone(tmp_path):
    network = torchvision.models.swin_transformer.SwinTransformer
    options = {"embed_dim": 32, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": [4, 4]}
    source = perturb_norms(seeded(network, patch_size=[4, 4], num_classes=2, **options))
    torch.save(source.state_dict(), tmp_path / "swin.pth")
    model = seeded(SwinUPerNet, 3, auxiliary=True, **PRESETS["tiny"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_pretrained(model, path=tmp_path / "swin.pth")
    fresh = {
        ".".join(name.split(".")[:2]) if name.startswith("backbone") else name.split(".")[0]
        for name in report.reinitialized
    }
    assert fresh == {"backbone.norms", "decoder", "classifier", "auxiliary"}
    backbone = swin.SwinTransformer(**swin.PRESETS["tiny"])
    transplant(source, backbone)
    for name, value in model.state_dict().items():
        expected = (
            backbone.state_dict()[name.removeprefix("backbone.")]
            if name.startswith("backbone.stages")
            else before[name]
        )
        assert value.equal(expected), name


def test_channels_are_dropped_in_training_only():
    model = seeded(SwinUPerNet, 3, backbone="tiny", width=48, drop_path=0.0, dropout=0.5)
    read = []
    model.decoder.register_forward_hook(lambda module, args, out: out.add_(1))  # no zeros but those of dropout
    model.classifier[1].register_forward_pre_hook(lambda module, args: read.append(args[0]))
    for training in (True, False):
        model.train(training)(images(2, 3, 32, 40))
        alive = (read[-1] != 0).flatten(2)
        assert alive.all(2).equal(alive.any(2)), "a channel is dropped as a whole"
        assert alive.all() != training


def test_a_tenth_of_the_channels_is_dropped_before_both_classifiers_unless_asked_otherwise():
    with torch.device("meta"):
        default, asked = (SwinUPerNet(3, auxiliary=True, **options) for options in ({}, {"dropout": 0.4}))
    for model, rate in ((default, 0.1), (asked, 0.4)):
        assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout2d)] == [rate, rate]


def test_unknown_backbones_are_refused():
    with pytest.raises(ValueError, match="swin_t, swin_s"):
        SwinUPerNet(3, backbone="swin_x")


def test_presets_are_named_after_their_backbones_and_skip_as_many_branches():
    for name, preset in PRESETS.items():
        rate = 0.0 if name == "tiny" else FACTS["drop_path_upernet"].value
        options = {**swin.PRESETS[name], "drop_path": rate, "norms": True}
        with torch.device("meta"):
            assert str(SwinUPerNet(3, **preset).backbone) == str(swin.SwinTransformer(**options)), name


# ---------------------------------------------------------------------------------------------------------- the decoder


def pyramid(*sizes, channels=CHANNELS, batch=2, dtype=torch.float64):
    """One random map for each size."""
    return [images(batch, c, *size, seed=c, dtype=dtype) for c, size in zip(channels, sizes, strict=True)]


def their_decoder(width, classes, bins=(1, 2, 3, 6)):
    """transformers' decoder with its classifier."""
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetHead

    return UperNetHead(UperNetConfig(hidden_size=width, num_labels=classes, pool_scales=list(bins)), list(CHANNELS))


def renamed(state):
    """Their names to ours, written out beside the map in segtutor.weights."""
    names = {"bottleneck": "bottleneck", "fpn_bottleneck": "fuse"}
    names |= {f"psp_modules.{i}.1": f"pyramid.levels.{i}" for i in range(4)}
    for i in range(3):
        names |= {f"lateral_convs.{i}": f"laterals.{i}", f"fpn_convs.{i}": f"smooth.{i}"}
    layers = {"conv": "0", "batch_norm": "1"}
    out = {}
    for name, tensor in state.items():
        part, layer, kind = name.rsplit(".", 2)
        out[f"{names[part]}.{layers[layer]}.{kind}"] = tensor
    return out


SIZES = {
    "halved": [(32, 48), (16, 24), (8, 12), (4, 6)],
    "odd": [(25, 13), (13, 7), (7, 4), (4, 2)],
    "rounded down": [(25, 19), (12, 9), (6, 4), (3, 2)],
    "dilated": [(17, 20), (9, 10), (9, 10), (9, 10)],
    "one position": [(8, 8), (4, 4), (2, 2), (1, 1)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_decoder_is_transformers(sizes):
    theirs = perturb_norms(seeded(their_decoder, 5, 4)).double().eval()
    ours = UPerNetDecoder(CHANNELS, 5).double().eval()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("classifier.")}
    ours.load_state_dict(renamed(state))
    read = []
    theirs.classifier.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    maps = pyramid(*sizes)
    theirs(maps)
    embedding = ours(maps)
    assert embedding.std() > 1e-3, "a constant compares nothing"
    torch.testing.assert_close(embedding, read[0], rtol=0, atol=1e-11)
    assert embedding.shape == (2, ours.out_channels, *sizes[0])


def test_the_papers_decoder_has_its_parameters():
    with torch.device("meta"):
        decoder = UPerNetDecoder((96, 192, 384, 768))
    classifier = 512 * 150 + 150
    fact = PAPERS["upernet"].facts["parameters_head_swin_tiny"].value
    assert probe.count_parameters(decoder) + classifier == fact


def test_the_maps_stay_as_they_were_given():
    decoder = seeded(UPerNetDecoder, CHANNELS, 4).double().eval()
    maps = pyramid((16, 16), (8, 8), (4, 4), (2, 2))
    before = [x.clone() for x in maps]
    given = list(maps)
    decoder(given)
    assert all(x is y and x.equal(z) for x, y, z in zip(maps, given, before, strict=True))


def test_each_level_carries_what_is_coarser():
    decoder = seeded(UPerNetDecoder, CHANNELS, 4).double().eval()
    maps = [x.requires_grad_() for x in pyramid((16, 16), (8, 8), (4, 4), (2, 2))]
    for number, level in enumerate(decoder.top_down(maps)):
        assert level.shape[2:] == maps[number].shape[2:]
        reached = torch.autograd.grad(level.square().sum(), maps, retain_graph=True, allow_unused=True)
        assert [gradient is not None and bool(gradient.any()) for gradient in reached] == [
            other >= number for other in range(4)
        ]


def test_takes_other_numbers_of_maps():
    decoder = UPerNetDecoder((3, 5), 4, bins=(1,)).double().eval()
    maps = [images(1, 3, 9, 7, dtype=torch.float64), images(1, 5, 4, 3, dtype=torch.float64)]
    assert decoder(maps).shape == (1, 4, 9, 7)
