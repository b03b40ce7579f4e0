"""ViT: torchvision's numbers, transformers' positions, and the behaviour the chapter explains."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from contract import ModelContract, images, perturb_norms, seeded
from torch import nn

from segtutor import probe
from segtutor.lab.papers import PAPERS
from segtutor.models import vit
from segtutor.models.vit import PRESETS, SelfAttention, ViT, ViTSegmenter, progressive_upsampling
from segtutor.weights import load_pretrained, transplant

SMALL = {"patch": 16, "image_size": 64, "width": 24, "depth": 2, "heads": 3}


class TestViTSegmenter(ModelContract):
    untraced = ("tiny", "progressive")
    models = {
        "tiny": partial(ViTSegmenter, **PRESETS["tiny"]),
        "progressive": partial(ViTSegmenter, decoder="progressive", **SMALL),
    }


def lively(network):
    """Random tensors of a size at which attention is far from even, and no bias at a value that hides a mistake."""
    with torch.no_grad():
        for number, tensor in enumerate(network.parameters()):
            scale = 0.3 if tensor.dim() == 1 else 1.5 * tensor[0].numel() ** -0.5 if tensor.dim() != 3 else 1
            tensor.copy_(scale * images(*tensor.shape, seed=number))
    return perturb_norms(network).eval()


def torchvision_vit(classes=7, image_size=64, patch=16, width=24, depth=2, heads=3):
    """torchvision's network at any width."""
    sizes = {"num_layers": depth, "num_heads": heads, "hidden_dim": width, "mlp_dim": 4 * width}
    return lively(torchvision.models.VisionTransformer(image_size, patch, **sizes, num_classes=classes))


def torchvision_tokens(network, x):
    """What torchvision's encoder makes of the class token and the patches."""
    tokens = torch.cat([network.class_token.expand(len(x), -1, -1), network._process_input(x)], dim=1)
    return network.encoder(tokens)


# ---------------------------------------------------------------------------------------------------- the paper's model
@pytest.mark.parametrize(
    ("preset", "fact"), [("b16", "parameters_base16"), ("b32", "parameters_base32"), ("l16", "parameters_large16")]
)
def test_parameter_counts_are_the_papers(preset, fact):
    with torch.device("meta"):
        model = ViT(1000, **PRESETS[preset])
    assert probe.count_parameters(model) == PAPERS["vit"].facts[fact].value


def test_the_default_is_the_papers_model():
    facts = {name: fact.value for name, fact in PAPERS["vit"].facts.items()}
    with torch.device("meta"):
        model, segmenter = ViT(1000), ViTSegmenter(150, image_size=512)
        tokens, grid = model.embed(torch.empty(1, 3, 224, 224))
    assert (tokens.shape, grid) == ((1, facts["tokens_224"], facts["width_base"]), (14, 14))
    assert len(model.blocks) == facts["layers_base"]
    assert {block.attention.heads for block in model.blocks} == {facts["heads_base"]}
    assert probe.count_parameters(segmenter) == facts["parameters_base16_512_linear"]
    assert probe.count_flops(model, (224, 224)) / 2e9 == pytest.approx(facts["gmac_224_base16"], abs=0.005)


def test_transformers_counts_as_many():
    from transformers import ViTConfig, ViTModel

    with torch.device("meta"):
        theirs, ours = ViTModel(ViTConfig(), add_pooling_layer=False), ViT(1000)
    assert probe.count_parameters(theirs) == probe.count_parameters(ours) - probe.count_parameters(ours.head)


@torch.no_grad()
def test_numbers_are_torchvisions_at_the_papers_size():
    with torch.device("meta"):  # an initialisation that is overwritten would cost seconds
        theirs, ours = torchvision.models.vit_b_16(), ViT(1000).eval()
    theirs, ours, generator = (
        theirs.to_empty(device="cpu"),
        ours.to_empty(device="cpu"),
        torch.Generator().manual_seed(0),
    )
    for tensor in theirs.parameters():
        tensor.normal_(std=0.04, generator=generator)
    perturb_norms(theirs).eval()
    report = transplant(theirs, ours)
    assert report.skipped == report.reinitialized == () and len(report.loaded) == len(ours.state_dict())
    x = images(1, 3, 224, 224)
    expected = torchvision_tokens(theirs, x)
    assert expected.std() > 0.1 and theirs(x).std() > 0.1
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    patches = expected[:, 1:].transpose(1, 2).reshape(1, 768, 14, 14)
    torch.testing.assert_close(ours.features(x), patches, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("patch", "heads"), [(16, 3), (32, 3), (16, 8)])
@torch.no_grad()
def test_numbers_are_torchvisions_in_float64(patch, heads):
    theirs = torchvision_vit(patch=patch, heads=heads).double()
    model = ViT(7, **{**SMALL, "patch": patch, "heads": heads}).double().eval()
    transplant(theirs, model)
    x = images(2, 3, 64, 64, dtype=torch.float64)
    expected = torchvision_tokens(theirs, x)
    tokens, grid = model.encode(x)
    assert expected.std() > 0.1 and grid == (64 // patch, 64 // patch)
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(model(x), theirs(x), rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_segmenter_reads_torchvisions_patches():
    """The linear decoder, written out: a class for each patch, enlarged by the patch."""
    theirs = torchvision_vit().double()
    model = seeded(ViTSegmenter, 5, **SMALL).double().eval()
    report = transplant(theirs, model)
    assert report.skipped == ("heads.head.weight", "heads.head.bias") and report.reinitialized == (
        "head.weight",
        "head.bias",
    )
    x = images(2, 3, 64, 64, dtype=torch.float64)
    scores = torchvision_tokens(theirs, x)[:, 1:] @ model.head.weight.flatten(1).T + model.head.bias
    expected = F.interpolate(scores.transpose(1, 2).reshape(2, 5, 4, 4), scale_factor=16, mode="bilinear")
    assert expected.std() > 0.1
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------ positions
def transformers_positions(positions, grid, patch, size):
    """transformers' interpolation of the same positions to an image of another size."""
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    width = positions.shape[2]
    theirs = ViTEmbeddings(ViTConfig(hidden_size=width, image_size=grid * patch, patch_size=patch))
    theirs.position_embeddings.data = positions
    count = (size[0] // patch) * (size[1] // patch)
    return theirs.interpolate_pos_encoding(torch.empty(1, 1 + count, width), *size)


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (32, 32), (64, 96), (96, 64), (160, 32), (32, 112)], ids=str)
@torch.no_grad()
def test_positions_are_transformers(size):
    model = seeded(ViT, 3, **SMALL).double()
    expected = transformers_positions(model.positions, 4, 16, size)
    found = model.positions_for(size[0] // 16, size[1] // 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found[:, 0].equal(model.positions[:, 0]), "the class token keeps its own"
    assert (found is model.positions) == (size == (64, 64)), "on their own grid they are read as they are"


@torch.no_grad()
def test_positions_are_torchvisions_but_for_the_corners(monkeypatch):
    from torchvision.models.vision_transformer import interpolate_embeddings

    model = seeded(ViT, 3, **SMALL).double()
    state = {"encoder.pos_embedding": model.positions.data.clone()}
    expected = interpolate_embeddings(160, 16, state)["encoder.pos_embedding"]
    assert (model.positions_for(10, 10) - expected).abs().max() > 1e-3
    centres = F.interpolate
    monkeypatch.setattr(vit.F, "interpolate", lambda x, **given: centres(x, **{**given, "align_corners": True}))
    torch.testing.assert_close(model.positions_for(10, 10), expected, rtol=0, atol=1e-12)


# theirs: ours, the third of it where queries, keys and values are one tensor
TRANSFORMERS = {
    "layernorm_before": ("norm1", None),
    "attention.q_proj": ("attention.qkv", 0),
    "attention.k_proj": ("attention.qkv", 1),
    "attention.v_proj": ("attention.qkv", 2),
    "attention.o_proj": ("attention.project", None),
    "layernorm_after": ("norm2", None),
    "mlp.fc1": ("mlp.0", None),
    "mlp.fc2": ("mlp.2", None),
}


def as_transformers(own, depth):
    """Our state dict under transformers' names."""
    state = {
        "embeddings.cls_token": own["class_token"],
        "embeddings.position_embeddings": own["positions"],
        **{f"embeddings.patch_embeddings.projection.{kind}": own[f"project.{kind}"] for kind in ("weight", "bias")},
        **{f"layernorm.{kind}": own[f"norm.{kind}"] for kind in ("weight", "bias")},
    }
    for theirs, (ours, third) in TRANSFORMERS.items():
        for name in (f"{i}.{{}}.{kind}" for i in range(depth) for kind in ("weight", "bias")):
            tensor = own["blocks." + name.format(ours)]
            state["layers." + name.format(theirs)] = tensor if third is None else tensor.chunk(3)[third]
    return state


@pytest.mark.parametrize("size", [(96, 96), (48, 112)], ids=str)
@torch.no_grad()
def test_whole_networks_agree_at_other_sizes(size):
    """transformers' ViT with our tensors, on images that neither of them was built for."""
    from transformers import ViTConfig, ViTModel

    options = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    theirs = ViTModel(ViTConfig(image_size=64, patch_size=16, layer_norm_eps=1e-6, **options), add_pooling_layer=False)
    ours = lively(ViT(3, **SMALL)).double()
    theirs.double().eval().load_state_dict(as_transformers(ours.state_dict(), 2))
    x = images(2, 3, *size, dtype=torch.float64)
    expected = theirs(x, interpolate_pos_encoding=True).last_hidden_state
    tokens, grid = ours.encode(x)
    assert grid == (size[0] // 16, size[1] // 16) and expected.std() > 0.1
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------ attention
@torch.no_grad()
def test_attention_in_the_open_is_the_fused_one(monkeypatch):
    model = lively(ViTSegmenter(5, **SMALL)).double()
    layer, x = model.blocks[0].attention, images(2, 13, 24, dtype=torch.float64)
    mixed, weights = layer.forward_with_weights(x)
    assert weights.shape == (2, 3, 13, 13) and weights.max() > 0.5
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 13, dtype=torch.float64))
    torch.testing.assert_close(mixed, layer(x), rtol=0, atol=1e-12)
    x = images(2, 3, 48, 96, dtype=torch.float64)
    expected = model(x)
    monkeypatch.setattr(vit, "attention", lambda *qkv: vit.softmax_attention(*qkv)[0])
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_attention_is_torchs_multihead_attention():
    theirs = lively(nn.MultiheadAttention(24, 3, batch_first=True)).double()
    ours = SelfAttention(24, 3).double()
    state = theirs.state_dict()
    for kind in ("weight", "bias"):
        ours.qkv.state_dict()[kind].copy_(state[f"in_proj_{kind}"])
        ours.project.state_dict()[kind].copy_(state[f"out_proj.{kind}"])
    x = images(2, 9, 24, dtype=torch.float64)
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.forward_with_weights(x)[1], weights, rtol=0, atol=1e-12)


@torch.no_grad()
def test_attention_maps_are_those_of_the_forward_pass():
    """transformers returns its weights too, after a softmax that it always takes in float32."""
    from transformers import ViTConfig, ViTModel

    options = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    config = ViTConfig(image_size=64, layer_norm_eps=1e-6, attn_implementation="eager", **options)
    theirs = ViTModel(config, add_pooling_layer=False).double().eval()
    ours = lively(ViTSegmenter(3, **SMALL)).double()
    theirs.load_state_dict(as_transformers(ours.state_dict(), 2))
    x = images(2, 3, 64, 64, dtype=torch.float64)
    found, expected = ours.attention_maps(x), theirs(x, output_attentions=True).attentions
    assert len(found) == len(expected) == 2 and found[1].shape == (2, 3, 17, 17)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


@torch.no_grad()
def test_without_positions_a_patch_does_not_know_where_it_is():
    model = lively(ViT(3, **SMALL)).double()
    x, order = images(1, 3, 64, 64, dtype=torch.float64), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    patches = F.unfold(x, 16, stride=16)
    shuffled = F.fold(patches[:, :, order], (64, 64), 16, stride=16)
    assert (model(x) - model(shuffled)).abs().max() > 0.01
    model.positions.zero_()
    torch.testing.assert_close(model(x), model(shuffled), rtol=0, atol=1e-12)
    features = model.features(x).flatten(2)[:, :, order]
    torch.testing.assert_close(model.features(shuffled).flatten(2), features, rtol=0, atol=1e-12)


def test_every_pixel_reaches_every_pixel():
    model = ViTSegmenter(2, patch=16, image_size=64, width=12, depth=1, heads=2)
    for at in (None, (0, 0), (95, 143)):
        found = probe.receptive_field(model, (96, 144), at=at)
        assert (found.height, found.width, found.clipped) == (96, 144, True)


# ------------------------------------------------------------------------------------------------------------- any size
@pytest.mark.parametrize("size", [(64, 64), (48, 112), (33, 81)], ids=str)
def test_each_patch_stays_where_its_pixels_are(size):
    model = lively(ViT(3, **{**SMALL, "depth": 0})).double()
    x = images(1, 3, *size, dtype=torch.float64).requires_grad_()
    features = model.features(x)
    height, width = -(-size[0] // 16), -(-size[1] // 16)
    assert features.shape == (1, 24, height, width)
    for row, column in ((0, 0), (1, 2), (height - 1, width - 1)):
        (gradient,) = torch.autograd.grad(features[0, :, row, column].square().sum(), x, retain_graph=True)
        rows, columns = gradient[0].abs().sum(0).nonzero().unbind(1)
        assert (rows.min(), rows.max()) == (16 * row, min(16 * row + 15, size[0] - 1))
        assert (columns.min(), columns.max()) == (16 * column, min(16 * column + 15, size[1] - 1))


@pytest.mark.parametrize("decoder", ["linear", "progressive"])
@pytest.mark.parametrize("size", [(33, 47), (50, 64), (64, 50)], ids=str)
@torch.no_grad()
def test_odd_sizes_are_padded_on_the_right_and_below_and_cut_back(size, decoder):
    model = lively(ViTSegmenter(4, decoder=decoder, **SMALL)).double()
    x = images(2, 3, *size, dtype=torch.float64)
    padded = x.new_zeros(2, 3, -(-size[0] // 16) * 16, 64 if size[1] > 48 else 48)
    padded[:, :, : size[0], : size[1]] = x
    assert model(x).std() > 0.1
    torch.testing.assert_close(model(x), model(padded)[:, :, : size[0], : size[1]], rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- the other decoder
@pytest.mark.parametrize(("patch", "doublings"), [(8, 3), (16, 4), (32, 5), (14, 4)])
def test_progressive_upsampling_doubles_as_often_as_the_patch_can_be_halved(patch, doublings):
    layers = progressive_upsampling(12, 5, patch, 8)
    kernels = [m.kernel_size for m in layers.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(3, 3)] * doublings + [(1, 1)]
    assert layers.eval()(images(1, 12, 2, 3)).shape == (1, 5, 2**doublings, 3 * 2 ** (doublings - 1))


@torch.no_grad()
def test_progressive_upsampling_is_the_papers_order():
    """Four times convolution, normalisation, ReLU and a doubling, and the classifier last of all."""
    model = lively(ViTSegmenter(5, decoder="progressive", **SMALL)).double()
    x = images(1, 3, 48, 80, dtype=torch.float64)
    out, state = model.features(x), model.head.state_dict()
    for layer in (0, 2, 4, 6):
        norm = [state[f"{layer}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        out = F.batch_norm(F.conv2d(out, state[f"{layer}.0.weight"], padding=1), *norm).relu()
        out = F.interpolate(out, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(out, state["7.weight"], state["7.bias"])
    assert expected.shape == (1, 5, 48, 80) and expected.std() > 0.05
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)


def test_progressive_upsampling_is_as_wide_as_the_papers_at_most():
    with torch.device("meta"):
        wide, narrow = (ViTSegmenter(3, decoder="progressive", **options) for options in ({}, SMALL))
    assert wide.head[-1].in_channels == 256 and narrow.head[-1].in_channels == SMALL["width"]


# ------------------------------------------------------------------------------------------------------------- the rest
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heads": 5}, "heads=5 must divide width=24"),
        ({"image_size": 60}, "patch=16 image_size=60"),
        ({"decoder": "mask"}, '"mask".*"linear" or "progressive"'),
    ],
    ids=str,
)
def test_unknown_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        ViTSegmenter(3, **{**SMALL, **options})


def test_the_classifier_refuses_as_segmentation_models_do():
    with pytest.raises(ValueError, match="num_classes.*at least 1"):
        ViT(0, **SMALL)
    model = ViT(3, **SMALL)
    for call in (model, model.features, model.attention_maps):
        with pytest.raises(ValueError, match="31x64.*32"):
            call(images(1, 3, 31, 64))
        with pytest.raises(ValueError, match="2 channels.*in_channels=2"):
            call(images(1, 2, 64, 64))


def test_presets_build():
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            assert ViTSegmenter(3, **preset).patch == (32 if name == "b32" else 8 if name == "tiny" else 16)


def test_heads_have_64_channels_in_the_papers_models():
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            model = ViT(3, **preset)
        assert model.class_token.shape[2] / model.blocks[0].attention.heads == (32 if name == "tiny" else 64), name


def test_tokens_start_alike_and_know_little_of_where_they_are():
    model = seeded(ViT, 30, width=192, depth=2, heads=3)
    assert not model.class_token.any() and model.positions.std().item() == pytest.approx(0.02, rel=0.1)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1) and not layer.bias.any()


# --------------------------------------------------------------------------------------------------------- its weights
@pytest.mark.parametrize(("cls", "preset"), [(ViT, "b16"), (ViTSegmenter, "b32"), (ViTSegmenter, "l16")])
def test_imagenet_weights_are_torchvisions(monkeypatch, cls, preset):
    asked = []
    monkeypatch.setattr("segtutor.weights.published.fetch_url", lambda url, progress: asked.append(url) or {})
    monkeypatch.setattr("segtutor.weights.published.transplant", lambda source, model: "report")
    with torch.device("meta"):
        assert load_pretrained(cls(7, **PRESETS[preset])) == "report"
    letter, patch = preset[0].upper(), preset[1:]
    assert asked == [getattr(torchvision.models, f"ViT_{letter}_{patch}_Weights").IMAGENET1K_V1.url]


@pytest.mark.parametrize("old", [False, True], ids=["module's names", "file's names"])
@pytest.mark.parametrize(
    ("cls", "options"),
    [(ViT, {}), (ViTSegmenter, {"patch": 32}), (ViTSegmenter, {"depth": 3, "decoder": "progressive"})],
)
def test_torchvisions_names_are_known(tmp_path, cls, options, old):
    options = {**SMALL, "depth": 2, **options}
    source = torchvision_vit(patch=options["patch"], depth=options["depth"])
    state = source.state_dict()
    if old:  # as the published files have it: torchvision's module renames when it loads them
        renamed = {key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): key for key in state}
        state = {new: state[key] for new, key in renamed.items()}
        copy.deepcopy(source).load_state_dict(state)
    torch.save(state, tmp_path / "vit.pth")
    model = cls(7, **options)
    report = load_pretrained(model, path=tmp_path / "vit.pth")
    heads = cls is ViTSegmenter
    assert report.skipped == (("heads.head.weight", "heads.head.bias") if heads else ())
    assert {key.split(".")[0] for key in report.reinitialized} == ({"head"} if heads else set())
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        expected = torchvision_tokens(source, x)
        torch.testing.assert_close(model.eval().encode(x)[0], expected, rtol=0, atol=1e-5 * expected.abs().max().item())
