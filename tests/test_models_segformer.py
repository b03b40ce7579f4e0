"""SegFormer: transformers' numbers with the same weights, the paper's counts, and files in the hub's format."""

import copy
import re
from functools import partial

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from contract import ModelContract, images, perturb_norms, seeded
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.layers import DropPath, softmax_attention
from segtutor.models.pspnet import PSPNet
from segtutor.models.segformer import MIT_PRESETS, PRESETS, EfficientAttention, MixTransformer, MLPDecoder, SegFormer
from segtutor.weights import WeightsError, load_pretrained, transplant

# Every number differs from its neighbours, so that a stage that reads another's setting shows.
NARROW = {"channels": (4, 6, 10, 16), "depths": (1, 2, 3, 1), "heads": (1, 3, 5, 4)}


class TestSegFormer(ModelContract):
    models = {"tiny": partial(SegFormer, **PRESETS["tiny"])}


def upsample_first(*args, **options):
    model = SegFormer(*args, **PRESETS["tiny"], **options)
    model.decoder.upsample_first = True
    return model


class TestUpsampleFirst(ModelContract):
    models = {"upsample first": upsample_first}


# ---------------------------------------------------------------------------------------------------- the paper's model
def test_parameter_counts_are_the_papers():
    facts = {name: fact.value for name, fact in PAPERS["segformer"].facts.items()}
    for place, name in enumerate(("b0", "b1", "b2", "b3", "b4", "b5")):
        with torch.device("meta"):
            model, backbone = SegFormer(150, **PRESETS[name]), MixTransformer(**MIT_PRESETS[name])
        assert probe.count_parameters(model) == facts["parameters_150_classes"][place]
        assert probe.count_parameters(backbone) == facts["parameters_backbone"][place]
        assert round(probe.count_parameters(model) / 1e6, 1) == pytest.approx(
            facts["parameters_published"][place], abs=0.11
        )
    assert model.backbone.channels == backbone.channels == (64, 128, 320, 512)


def test_operations_are_the_papers_in_the_papers_order():
    facts = {name: fact.value for name, fact in PAPERS["segformer"].facts.items()}
    with torch.device("meta"):
        model = SegFormer(150)
    sides = (128, 64, 32, 16)
    projections = sum(side**2 * c * 256 for side, c in zip(sides, (32, 64, 160, 256), strict=True))
    rest = probe.count_flops(model.backbone, (512, 512)) / 2 + 128**2 * 256 * 150 + projections

    def found():
        return probe.count_flops(model, (512, 512)) / 2

    assert found() == pytest.approx(rest + sum(side**2 for side in sides) * 256 * 256, rel=1e-9)
    model.decoder.upsample_first = True
    assert found() == pytest.approx(rest + 128**2 * 1024 * 256, rel=1e-9)
    assert found() / 1e9 == pytest.approx(facts["gmac_512_b0"], abs=0.005)
    model.decoder.upsample_first = False
    model.decoder.merge()
    assert found() == pytest.approx(rest, rel=1e-9)


def test_the_fusion_starts_as_the_one_matrix_of_the_paper_would():
    decoder = seeded(MLPDecoder, (32, 64, 160, 256))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        paper = nn.Conv2d(1024, 256, 1, bias=False).weight
    whole = torch.cat([layer.weight for layer in decoder.fuse], dim=1)
    assert whole.shape == paper.shape[:2] and whole.std().item() == pytest.approx(paper.std().item(), rel=0.01)
    assert whole.abs().max().item() == pytest.approx(paper.abs().max().item(), rel=0.01)


def test_every_layer_of_the_decoder_is_called():
    """Hooks, adapters, pruning and quantisation know a layer by its call: none may only lend its weight."""
    for build in (partial(SegFormer, **PRESETS["tiny"]), upsample_first):
        model, called = seeded(build, 3), []
        for name, layer in model.decoder.named_modules():
            if not list(layer.children()) and list(layer.parameters()):
                layer.register_forward_hook(lambda *_, name=name, called=called: called.append(name))
        model(images(1, 3, 32, 32))
        assert sorted(called) == sorted(
            [f"{kind}.{level}" for kind in ("project", "fuse") for level in range(4)] + ["norm"]
        )


@pytest.mark.parametrize("in_paper_order", [True, False], ids=["upsample first", "fuse first"])
@torch.no_grad()
def test_one_matrix_for_each_level_gives_the_same_scores(in_paper_order):
    model = perturb_norms(seeded(SegFormer, 5, proj_dim=12, **NARROW)).double().eval()
    model.decoder.upsample_first = in_paper_order
    x = images(2, 3, 65, 97, dtype=torch.float64)
    expected, before = model(x), probe.count_parameters(model)
    model.decoder.merge()
    assert expected.std() > 0.01 and probe.count_parameters(model) == before - 4 * 12 * 12
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    model.decoder.merge()  # nothing is left to do
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_the_default_is_b0():
    with torch.device("meta"):
        model, named = SegFormer(5), SegFormer(5, **PRESETS["b0"])
        backbone = MixTransformer()
    assert str(model) == str(named) and str(backbone) == str(named.backbone)
    assert backbone.channels == (32, 64, 160, 256) and backbone.strides == (4, 8, 16, 32)
    assert [block.attention.heads for stage in backbone.stages for block in stage.blocks] == [1, 1, 2, 2, 5, 5, 8, 8]


def test_presets_build():
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            model, backbone = SegFormer(3, **preset), MixTransformer(**MIT_PRESETS[name])
        assert str(model.backbone) == str(backbone)


def test_drop_path_grows_block_by_block():
    backbone = MixTransformer(**NARROW, drop_path=0.3)
    rates = [block.drop_path.rate for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
    assert all(
        layer.rate == 0 for layer in MixTransformer(**MIT_PRESETS["tiny"]).modules() if isinstance(layer, DropPath)
    )


def test_both_branches_of_a_block_can_be_dropped():
    block, x = seeded(MixTransformer, **NARROW).stages[-1].blocks[-1], images(2, 3, 4, 16)
    assert not block(x).equal(x)
    block.drop_path.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    assert block(x).equal(x), "a dropped branch adds nothing"


def rates(model):
    return model.backbone.stages[-1].blocks[-1].drop_path.rate, model.decoder.dropout.p


def test_rates_are_the_published_ones_unless_others_are_asked_for():
    """The released configurations are transformers' defaults."""
    from transformers import SegformerConfig

    published = SegformerConfig()
    with torch.device("meta"):
        default, asked = SegFormer(3), SegFormer(3, drop_path=0.3, dropout=0.4)
    assert rates(default) == pytest.approx((published.drop_path_rate, published.classifier_dropout_prob))
    assert MLPDecoder((4, 6)).dropout.p == published.classifier_dropout_prob
    assert rates(asked) == pytest.approx((0.3, 0.4))


def test_heads_are_as_wide_in_every_stage():
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            stages = SegFormer(3, **preset).backbone.stages
        widths = {stage.norm.weight.numel() // stage.blocks[0].attention.heads for stage in stages}
        assert widths == {{"tiny": 16, "b0": 32}.get(name, 64)}, name


def test_the_backbone_starts_as_the_ledger_says():
    for layer in seeded(MixTransformer).modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            he = (2 / layer.weight[0].numel()) ** 0.5
            expected = he if isinstance(layer, nn.Conv2d) else 0.02
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1) and not layer.bias.any(), layer


# ------------------------------------------------------------------------------------------------ transformers' numbers
def reference(name="SegformerForSemanticSegmentation", **options):
    """transformers' network, norms perturbed, with the eps of the authors' code."""
    import transformers

    torch.manual_seed(3)
    model = getattr(transformers, name)(transformers.SegformerConfig(**options))
    for place, layer in model.named_modules():
        if isinstance(layer, nn.LayerNorm):
            small = "patch_embeddings" in place or "sequence_reduction" in place or "self.layer_norm" in place
            layer.eps = 1e-5 if small else 1e-6
        if isinstance(layer, nn.Conv2d):  # theirs are too small for a mistake in them to show
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return perturb_norms(model).eval()


def theirs(config, **options):
    """The arguments of transformers for ours."""
    names = {"channels": "hidden_sizes", "depths": "depths", "heads": "num_attention_heads"}
    return {names[name]: list(value) for name, value in config.items()} | options


@pytest.fixture(scope="module")
def narrow():
    with torch.random.fork_rng():
        return reference(**theirs(NARROW, num_labels=5, decoder_hidden_size=12))


@pytest.mark.parametrize("in_paper_order", [True, False], ids=["upsample first", "fuse first"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (130, 33)], ids=str)
@torch.no_grad()
def test_logits_are_transformers(narrow, size, in_paper_order):
    source, model = copy.deepcopy(narrow), SegFormer(5, proj_dim=12, **NARROW).eval()
    report = transplant(source, model)
    assert report.skipped == report.reinitialized == () and len(report.loaded) == len(model.state_dict())
    model.decoder.upsample_first = in_paper_order
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = images(2, 3, *size, dtype=dtype)
        expected = source.to(dtype)(x).logits
        assert expected.std() > 0.1, "logits without variation compare nothing"
        found = model.to(dtype).classifier(model.decoder(model.backbone(x)))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        enlarged = F.interpolate(expected, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(x), enlarged, rtol=0, atol=tolerance)


@torch.no_grad()
def test_b0_is_transformers():
    source, model = reference(num_labels=150), SegFormer(150).eval()
    transplant(source, model)
    x = images(1, 3, 96, 65)
    found, expected = model.classifier(model.decoder(model.backbone(x))), source(x).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_b0_is_smps():
    """A second reference, with the eps of the authors' code as it stands."""
    import segmentation_models_pytorch as smp

    with torch.random.fork_rng():
        source = perturb_norms(smp.Segformer("mit_b0", encoder_weights=None, classes=7)).eval()
    model = SegFormer(7).eval()
    report = transplant(source, model)
    assert report.skipped == report.reinitialized == () and len(report.loaded) == len(model.state_dict())
    x = images(1, 3, 64, 96)
    maps = source.encoder(x)
    for found, wanted in zip(model.backbone(x), maps[-4:], strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    expected = source.segmentation_head[0](source.decoder(maps))  # its last enlargement aligns corners
    assert expected.std() > 1e-3
    torch.testing.assert_close(model.classifier(model.decoder(model.backbone(x))), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_four_maps_are_transformers(narrow):
    source, backbone = copy.deepcopy(narrow).double(), MixTransformer(**NARROW).double().eval()
    report = transplant(source, backbone)
    assert {name.split(".")[0] for name in report.skipped} == {"decode_head"} and report.reinitialized == ()
    x = images(1, 3, 70, 101, dtype=torch.float64)
    maps, expected = backbone(x), source.segformer(x, output_hidden_states=True).hidden_states
    assert [tuple(c.shape[1:]) for c in maps] == [(4, 18, 26), (6, 9, 13), (10, 5, 7), (16, 3, 4)]
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_gradients_are_transformers(narrow):
    source, model = copy.deepcopy(narrow).double(), SegFormer(5, proj_dim=12, **NARROW).double().eval()
    names = dict(transplant(source, model).loaded)
    x = images(1, 3, 64, 75, dtype=torch.float64)
    truth = images(1, 5, 16, 19, seed=4, dtype=torch.float64)
    (source(x).logits * truth).sum().backward()
    (model.classifier(model.decoder(model.backbone(x))) * truth).sum().backward()
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    names["decode_head.linear_fuse.weight"] = "whole"
    own["whole"] = torch.cat([layer.weight.grad for layer in model.decoder.fuse][::-1], dim=1)[..., None, None]
    for name, parameter in source.named_parameters():
        found, scale = own[names[name]], parameter.grad.abs().max()
        torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-10 * max(1.0, float(scale)))


# ----------------------------------------------------------------------------------------------------------- the bricks
@pytest.mark.parametrize("reduction", [1, 2, 4])
@torch.no_grad()
def test_attention_is_its_softmax_in_the_open(reduction):
    layer = perturb_norms(seeded(EfficientAttention, 12, 3, reduction)).double()
    x = images(2, 9, 14, 12, dtype=torch.float64)
    query, key, value = layer.queries_keys_values(x)
    assert query.shape == (2, 3, 9 * 14, 4) and key.shape == value.shape
    assert key.shape[2] == (9 // reduction) * (14 // reduction)
    gathered, shares = softmax_attention(query, key, value)
    assert shares.std() > 1e-4, "uniform weights compare nothing"
    expected = layer.out(gathered.transpose(1, 2).flatten(2)).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_fusing_before_enlarging_is_the_papers_sum(training):
    first = perturb_norms(seeded(MLPDecoder, (4, 6, 10, 16), 12, dropout=0.0)).double().train(training)
    paper = copy.deepcopy(first)
    paper.upsample_first = True
    sizes = ((17, 22), (9, 11), (5, 6), (3, 3))
    maps = [images(2, c, *s, seed=c, dtype=torch.float64) for c, s in zip((4, 6, 10, 16), sizes, strict=True)]
    twins = [m.clone().requires_grad_() for m in maps]
    maps = [m.requires_grad_() for m in maps]
    found, expected = first(maps), paper(twins)
    assert found.shape == (2, 12, 17, 22) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    truth = images(*found.shape, seed=9, dtype=torch.float64)
    (found * truth).sum().backward()
    (expected * truth).sum().backward()
    pairs = [*zip(maps, twins, strict=True), *zip(first.parameters(), paper.parameters(), strict=True)]
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-10)


def test_the_decoder_takes_any_number_of_maps():
    decoder = MLPDecoder((4, 6), 8).eval()
    maps = [images(1, 4, 9, 7), images(1, 6, 2, 3)]
    found = decoder(maps)
    decoder.upsample_first = True
    assert found.shape == (1, 8, 9, 7)
    torch.testing.assert_close(found, decoder(maps), rtol=0, atol=1e-5)


def test_fusing_first_keeps_less_and_holds_less():
    """What the fusion reads is kept for its gradient: in the order of the paper four maps at 1/4."""
    with torch.device("meta"):
        model = SegFormer(19)

    def counts():
        return [count(model, (256, 256), batch=1) for count in (probe.count_saved_bytes, probe.count_peak_bytes)]

    first = counts()
    model.decoder.upsample_first = True
    less = 4 * 256 * (4 * 64**2 - 64**2 - 32**2 - 16**2 - 8**2)
    assert [paper - ours for paper, ours in zip(counts(), first, strict=True)] == [less, less] and less > 0.15 * first[
        1
    ]


def test_rows_that_fill_no_cell_of_the_reduction_are_no_keys():
    layer = seeded(EfficientAttention, 4, 1, 4)
    x = images(1, 10, 9, 4).requires_grad_()
    _, key, value = layer.queries_keys_values(x)
    (key.square().sum() + value.square().sum()).backward()
    read = x.grad.abs().sum(dim=(0, 3)) > 0
    assert read[:8, :8].all() and not read[8:].any() and not read[:, 8:].any()


def test_every_pixel_reaches_every_pixel():
    field = probe.receptive_field(SegFormer(2, proj_dim=8, **NARROW), (256, 320))
    assert (field.height, field.width) == (256, 320)


def test_a_stage_is_a_step_that_can_be_taken_alone():
    backbone = perturb_norms(seeded(MixTransformer, **NARROW)).train()
    for layer in backbone.modules():
        if isinstance(layer, DropPath):
            layer.rate = 0.0
    x = images(2, 3, 50, 64)
    whole, steps = backbone(x), [x]
    for stage in backbone.stages:
        steps.append(checkpoint(stage, steps[-1], use_reentrant=False))
    gradients = []
    for maps in (whole, steps[1:]):
        backbone.zero_grad()
        sum(c.square().mean() for c in maps).backward()
        gradients.append([parameter.grad.clone() for parameter in backbone.parameters()])
    assert all(a.equal(b) for a, b in zip(whole, steps[1:], strict=True))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_maps_lie_in_memory_as_tokens():
    """Whoever makes a copy of each map at each convolution loses the time that this layout saves."""
    for c in MixTransformer(**NARROW)(images(2, 3, 64, 64)):
        assert c.is_contiguous(memory_format=torch.channels_last)


def test_dropout_takes_whole_channels_in_training_only():
    decoder = seeded(MLPDecoder, (4, 6), 64, dropout=0.5).train()
    with torch.no_grad():
        decoder.norm.bias.fill_(9.0)  # no zeros but those of dropout
    maps = [images(2, 4, 8, 8), images(2, 6, 4, 4)]
    alive = (seeded(lambda: decoder(maps)) != 0).flatten(2)
    assert alive.all(2).equal(alive.any(2)) and 0.2 < alive.float().mean() < 0.8
    assert (decoder.eval()(maps) != 0).all()


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="10 channels.*3 heads"):
        SegFormer(3, channels=(8, 10, 12, 16), heads=(1, 3, 3, 4))


@pytest.mark.parametrize(("size", "says"), [((31, 64), "31x64"), ((64, 64), "2 channels")], ids=str)
def test_the_backbone_refuses_images_with_a_sentence(size, says):
    with pytest.raises(ValueError, match=says):
        MixTransformer(**NARROW)(images(1, 2 if "channels" in says else 3, *size))


# ---------------------------------------------------------------------------------------------------- files of the hub
GENERATIONS = (  # names of releases before 5, and since
    (".encoder.patch_embeddings.{}.", ".stages.{}.patch_embeddings."),
    (".encoder.block.{}.", ".stages.{}.blocks."),
    (".encoder.layer_norm.{}.", ".stages.{}.layer_norm."),
    (".attention.self.query.", ".attention.q_proj."),
    (".attention.self.key.", ".attention.k_proj."),
    (".attention.self.value.", ".attention.v_proj."),
    (".attention.self.sr.", ".attention.sequence_reduction.sequence_reduction."),
    (".attention.self.layer_norm.", ".attention.sequence_reduction.layer_norm."),
    (".attention.output.dense.", ".attention.o_proj."),
    (".mlp.dense1.", ".mlp.fc1."),
    (".mlp.dense2.", ".mlp.fc2."),
    (".layer_norm_1.", ".layernorm_before."),
    (".layer_norm_2.", ".layernorm_after."),
    (".linear_c.", ".linear_projections."),
)


def in_names_of(generation, state):
    """The state dict of the installed transformers in the names of release 4 or 5."""
    renamed = {}
    for name, tensor in state.items():
        name = "." + name
        for old, new in GENERATIONS:
            for stage in range(4) if "{}" in old else (0,):
                pair = old.format(stage), new.format(stage)
                name = name.replace(*(pair if generation == 5 else pair[::-1]))
        renamed[name[1:]] = tensor.contiguous()
    return renamed


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Stand in for the hub: what lies in the folder can be fetched, or ``answer`` is raised."""

    def fetch(repository, name):
        fetch.calls.append((repository, name))
        if fetch.answer is not None:
            raise fetch.answer
        if not (tmp_path / name).is_file():
            response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
            try:
                raise EntryNotFoundError(f"404: no {name}", response=response)
            except TypeError:  # another release's signature
                raise EntryNotFoundError(f"404: no {name}") from None
        return str(tmp_path / name)

    fetch.calls, fetch.answer, fetch.folder = [], None, tmp_path
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return fetch


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("generation", [4, 5])
def test_published_networks_are_read_from_the_hub(hub, narrow, notices, generation, file):
    state = in_names_of(generation, narrow.state_dict())
    marks = ("segformer.encoder.block.1.1.attention.self.sr.weight", "decode_head.linear_c.3.proj.weight")
    assert all((mark in state) == (generation == 4) for mark in marks)
    save(state, hub.folder / file)
    model = seeded(SegFormer, 5, proj_dim=12, **NARROW)
    report = load_pretrained(model, "nvidia/segformer-b0-finetuned-ade-512-512")
    assert report.skipped == report.reinitialized == () and len(report.loaded) == len(model.state_dict())
    expected = SegFormer(5, proj_dim=12, **NARROW)
    transplant(narrow, expected)
    assert all(value.equal(expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert hub.calls[-1] == ("nvidia/segformer-b0-finetuned-ade-512-512", file)
    load_pretrained(model, "nvidia/segformer-b0-finetuned-ade-512-512")
    (said,) = notices.messages
    assert all(word in said for word in ("non-commercial", "NVIDIA", "segformer-b0"))


@pytest.mark.parametrize("generation", [4, 5])
@pytest.mark.parametrize("prefix", ["segformer.", ""], ids=["classifier", "bare"])
def test_imagenet_backbones_are_read_from_a_folder(hub, narrow, notices, generation, prefix):
    whole = in_names_of(generation, narrow.state_dict())
    backbone = {prefix + n.removeprefix("segformer."): t for n, t in whole.items() if n.startswith("segformer.")}
    extra = {"classifier.weight": torch.zeros(7, 16), "classifier.bias": torch.zeros(7)} if prefix else {}
    save({**backbone, **extra}, hub.folder / "model.safetensors")
    model, alone = seeded(SegFormer, 3, **NARROW), seeded(MixTransformer, **NARROW)
    before = copy.deepcopy(model.state_dict())
    report = load_pretrained(model, path=hub.folder)
    assert set(report.skipped) == set(extra)
    assert {name.split(".")[0] for name in report.reinitialized} == {"decoder", "classifier"}
    assert load_pretrained(alone, path=hub.folder / "model.safetensors").reinitialized == ()
    for name, value in model.state_dict().items():
        expected = alone.state_dict()[name.removeprefix("backbone.")] if name.startswith("backbone.") else before[name]
        assert value.equal(expected), name
    source = {names[1]: names[0] for names in transplant(narrow, MixTransformer(**NARROW)).loaded}
    for name, value in alone.state_dict().items():
        assert value.equal(narrow.state_dict()[source[name]]), name
    assert hub.calls == [] and "non-commercial" in notices.text


def test_another_number_of_classes_starts_the_classifier_fresh(narrow):
    model = seeded(SegFormer, 3, proj_dim=12, **NARROW)
    before = copy.deepcopy(model.state_dict())
    report = transplant(narrow, model)
    assert report.skipped == ("decode_head.classifier.weight", "decode_head.classifier.bias")
    assert report.reinitialized == ("classifier.weight", "classifier.bias")
    assert len(report.loaded) == len(before) - 2
    assert all(model.state_dict()[name].equal(before[name]) for name in report.reinitialized)


@pytest.mark.parametrize("whole", [True, False], ids=["network", "backbone"])
@torch.no_grad()
def test_nvidias_own_files_are_read(hub, notices, whole):
    """smp has the encoder of NVIDIA's code, name for name; the decoder's names are those of the released files."""
    import segmentation_models_pytorch as smp

    with torch.random.fork_rng():
        source = perturb_norms(smp.Segformer("mit_b0", encoder_weights=None, classes=7)).eval()
    state = {}
    for name, tensor in source.state_dict().items():
        name = re.sub(r"^encoder\.", "backbone.", name)
        name = re.sub(r"^decoder\.mlp_stage\.(\d)\.linear", lambda m: f"decode_head.linear_c{4 - int(m[1])}.proj", name)
        name = re.sub(r"^decoder\.fuse_stage\.0", "decode_head.linear_fuse.conv", name)
        name = re.sub(r"^decoder\.fuse_stage\.1", "decode_head.linear_fuse.bn", name)
        state[re.sub(r"^segmentation_head\.0", "decode_head.linear_pred", name)] = tensor
    state["decode_head.conv_seg.weight"] = torch.zeros(7, 128, 1, 1)
    if not whole:
        state = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
        state |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save({"meta": {"epoch": 160}, "state_dict": state}, hub.folder / "mit_b0.pth")
    expected, model = SegFormer(7), SegFormer(7)
    transplant(source, expected)
    report = load_pretrained(model, path=hub.folder / "mit_b0.pth")
    assert report.skipped == (("decode_head.conv_seg.weight",) if whole else ("head.weight", "head.bias"))
    assert {name.split(".")[0] for name in report.reinitialized} == (set() if whole else {"decoder", "classifier"})
    for _, place in report.loaded:
        assert model.state_dict()[place].equal(expected.state_dict()[place]), place
    assert load_pretrained(MixTransformer(), path=hub.folder / "mit_b0.pth").reinitialized == ()
    assert "mit_b0.pth" in notices.text and "non-commercial" in notices.text


def test_safetensors_are_read_where_there_are_both(hub, narrow):
    (hub.folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody needs to open")
    save(in_names_of(4, narrow.state_dict()), hub.folder / "model.safetensors")
    for where in ({"name": "nvidia/segformer-b0"}, {"path": hub.folder}):
        assert load_pretrained(SegFormer(5, proj_dim=12, **NARROW), **where).reinitialized == ()
    assert [name for _, name in hub.calls] == ["model.safetensors"]


def test_the_licence_names_the_file_it_is_about(hub, narrow, notices):
    save(in_names_of(5, narrow.state_dict()), hub.folder / "mine.safetensors")
    for _ in range(2):
        load_pretrained(SegFormer(5, proj_dim=12, **NARROW), path=hub.folder / "mine.safetensors")
    (said,) = notices.messages
    assert said.startswith("mine.safetensors: NVIDIA")


def test_a_backbones_file_of_another_depth_is_refused(narrow):
    backbone = {name: tensor for name, tensor in narrow.state_dict().items() if name.startswith("segformer.")}
    deeper = SegFormer(5, proj_dim=12, **{**NARROW, "depths": (1, 2, 4, 1)})
    with pytest.raises(ValueError, match=r"backbone\.stages\.2\.blocks\.3.*find no tensor"):
        transplant(backbone, deeper)


def test_what_cannot_be_fetched_is_said_in_one_sentence(hub):
    model = MixTransformer(**NARROW)
    with pytest.raises(WeightsError, match="pytorch_model.bin of nvidia/mit-b9.*path="):
        load_pretrained(model, "nvidia/mit-b9")
    assert [name for _, name in hub.calls] == ["model.safetensors", "pytorch_model.bin"]
    for answer in (LocalEntryNotFoundError("offline\nand more"), ConnectionError("no route\nat all")):
        hub.answer, hub.calls[:] = answer, []
        with pytest.raises(WeightsError, match="could not be fetched.*connect to the internet") as caught:
            load_pretrained(model, "nvidia/mit-b0")
        assert len(hub.calls) == 1 and "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="model.safetensors or pytorch_model.bin"):
        load_pretrained(model, path=hub.folder)


def test_a_damaged_download_says_which_file(hub):
    (hub.folder / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match=r"^\S*model\.safetensors could not be read as weights"):
        load_pretrained(MixTransformer(**NARROW), "nvidia/mit-b0")


def test_a_network_of_another_size_is_refused(narrow):
    with pytest.raises(ValueError, match="decoder.project.*source's widths"):
        transplant(narrow, SegFormer(5, proj_dim=8, **NARROW))
    with pytest.raises(ValueError, match="find no tensor"):
        transplant(narrow, SegFormer(5, proj_dim=12, **{**NARROW, "depths": (1, 2, 4, 1)}))
    with pytest.raises(ValueError, match="No key map.*transformers segformer"):
        transplant(narrow, PSPNet(5, depth=18, widths=(4, 6, 8, 12)))
    lost = ("decode_head.linear_projections.2.proj.bias", "decode_head.linear_c.2.proj.bias")
    without = {name: tensor for name, tensor in narrow.state_dict().items() if name not in lost}
    with pytest.raises(ValueError, match=r"decoder\.project\.2\.bias.*find no tensor"):
        transplant(without, SegFormer(5, proj_dim=12, **NARROW))
