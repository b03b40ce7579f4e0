"""Every registered head keeps the same promises; each is then held against its paper or a reference."""

import copy
import inspect
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from contract import images, perturb_norms, seeded
from torch import nn

from segtutor.factory import ConfigError, Features, HeadOutput, create_head, list_heads
from segtutor.factory.heads import HEADS, aspp_ocnet, jpu, ksac, ocnet
from segtutor.factory.heads.context import rates_at
from segtutor.factory.heads.smp import UShapedHead
from segtutor.layers import softmax_attention
from segtutor.models.deeplab_v3 import ASPP

CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
RESNET50 = (256, 512, 1024, 2048)
SIZES = [(32, 32), (65, 97), (128, 128)]
every_head = pytest.mark.parametrize("name", list_heads())
# Settings under which a head is small; what a head does not have is left out.
NARROW = {"proj_dim": 8, "pyramid_dim": 8, "low_level_dim": 4}


def features(size, *, batch=1, channels=CHANNELS, strides=STRIDES, rounding=math.ceil, dtype=torch.float32):
    """Four random maps as a backbone would return them, each a leaf that takes a gradient."""
    sides = [[max(1, rounding(side / stride)) for side in size] for stride in strides]
    maps = [
        images(batch, c, *side, seed=i, dtype=dtype) for i, (c, side) in enumerate(zip(channels, sides, strict=True))
    ]
    return Features(*(map_.requires_grad_() for map_ in maps))


def build(name, *, strides=STRIDES, **settings):
    """A narrow head, none of its parameters zero: a zero at the start would hide what a gradient does not reach."""
    known = HEADS[name].__init__.__annotations__
    narrow = {key: value for key, value in NARROW.items() if key in known}
    head = seeded(HEADS[name], CHANNELS, strides, 5, **narrow, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            if not parameter.any():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) / 4)  # positive: no unit is dead
    return perturb_norms(head)


def batch_of(head, *args, **options):
    with torch.no_grad():
        return head(features(*args, **options))


@every_head
@pytest.mark.parametrize("rounding", [math.ceil, math.floor], ids=["up", "down"])
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_logits_have_the_declared_stride(name, size, rounding):
    head = build(name).eval()
    given = features(size, batch=2, rounding=rounding)
    with torch.no_grad():
        output = head(given)
    assert isinstance(output, HeadOutput)
    expected = given.maps[STRIDES.index(head.out_stride)].shape[2:]
    assert output.logits.shape == (2, 5, *expected)
    assert output.embedding.shape == (2, output.embedding.shape[1], *expected)


@every_head
@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_dilated_backbone_is_read_or_refused_in_a_sentence(name, output_stride):
    strides = tuple(min(stride, output_stride) for stride in STRIDES)
    try:
        head = build(name, strides=strides).eval()
    except ConfigError as error:
        assert "\n" not in str(error) and "output_stride" in str(error) and str(error).endswith(".")
        assert name == "jpu", "only what stands in for dilation may refuse it"
        return
    given = features((65, 97), strides=strides)
    with torch.no_grad():
        output = head(given)
    stride = min(head.out_stride, output_stride)
    assert output.logits.shape[2:] == given.maps[strides.index(stride)].shape[2:]
    assert torch.isfinite(output.logits).all()


@every_head
def test_the_classifier_reads_the_embedding(name):
    head, calls = build(name).eval(), []
    for module in head.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, given, result: calls.append((given[0], result)))
    output = head(features((65, 97)))
    assert any(given is output.embedding and result is output.logits for given, result in calls)


@every_head
def test_proj_dim_is_the_width_of_the_embedding(name):
    annotations = HEADS[name].__init__.__annotations__
    assert "proj_dim" in annotations
    least = next((bound.ge for bound in getattr(annotations["proj_dim"], "__metadata__", ())), 1)
    for width in (least, 3, 24):
        head = create_head({"type": name, "proj_dim": width}, CHANNELS, 2).train()
        assert batch_of(head, (32, 32)).embedding.shape[1] == width
    with pytest.raises(ConfigError, match="head.proj_dim"):
        create_head({"type": name, "proj_dim": least - 1}, CHANNELS, 2)


@every_head
def test_gradients_reach_every_parameter_and_the_maps_of_in_strides_alone(name):
    head, given = build(name).train(), features((128, 128), batch=2)
    head(given).logits.square().mean().backward()
    for key, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"the gradient of {key} is zero"
    reached = tuple(stride for stride, map_ in zip(STRIDES, given.maps, strict=True) if map_.grad is not None)
    assert reached == tuple(head.in_strides)
    assert all(map_.grad.any() for map_ in given.maps if map_.grad is not None)


@every_head
@pytest.mark.parametrize("size", [(32, 32), (65, 97)], ids=str)
def test_trains_on_a_batch_of_one(name, size):
    head = build(name).train()
    optimizer, before = torch.optim.SGD(head.parameters(), lr=0.1), copy.deepcopy(head.state_dict())
    head(features(size)).logits.square().mean().backward()
    optimizer.step()
    assert all(value.isfinite().all() for value in head.state_dict().values())
    assert any(not value.equal(before[key]) for key, value in head.named_parameters())


@every_head
def test_survives_saving_and_loading(name, tmp_path):
    head, other = build(name).eval(), create_head({"type": name, **settings_of(name)}, CHANNELS, 5).eval()
    torch.save(head.state_dict(), tmp_path / "head.pth")
    other.load_state_dict(torch.load(tmp_path / "head.pth", weights_only=True))
    assert batch_of(head, (65, 97)).logits.equal(batch_of(other, (65, 97)).logits)


def settings_of(name):
    return {key: value for key, value in NARROW.items() if key in HEADS[name].__init__.__annotations__}


@every_head
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_every_layer_that_has_weights_is_called(name, training):
    """Hooks, LoRA, pruning and quantisation work on calls; a weight that is only read passes them by."""
    head, called = build(name).train(training), set()
    owners = {key for key, layer in head.named_modules() if any(True for _ in layer.parameters(recurse=False))}
    for key in owners:
        head.get_submodule(key).register_forward_hook(lambda *_, key=key: called.add(key))
    batch_of(head, (65, 97), batch=2)
    assert called == owners


@every_head
def test_can_be_pickled(name):
    head = build(name).eval()
    assert batch_of(pickle.loads(pickle.dumps(head)), (65, 97)).logits.equal(batch_of(head, (65, 97)).logits)


@every_head
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_runs_in_other_dtypes(name, dtype):
    logits = batch_of(build(name).eval().to(dtype), (65, 97), dtype=dtype).logits
    assert logits.dtype == dtype and logits.isfinite().all()


@every_head
def test_an_image_is_scored_alike_in_any_batch(name):
    head, given = build(name).double().eval(), features((65, 97), batch=3, dtype=torch.float64)
    alone = [Features(*(m[i : i + 1] for m in given)) for i in range(3)]
    with torch.no_grad():
        torch.testing.assert_close(head(given).logits, torch.cat([head(one).logits for one in alone]))


@every_head
def test_says_when_to_use_it(name):
    head = HEADS[name]
    assert isinstance(head.when, str) and 20 < len(head.when) <= 110 and head.when.endswith(".")
    assert "\n" not in head.when
    assert "**When to use it.**" in inspect.getmodule(head).__doc__ + inspect.getdoc(head)
    assert set(head.in_strides) <= set(STRIDES) and head.out_stride in STRIDES


def test_no_two_heads_say_the_same():
    assert len({HEADS[name].when for name in list_heads()}) == len(list_heads())


# ---------------------------------------------------------------------------------------------------------- parameters


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(name, channels=RESNET50, num_classes=21, **settings):
    with torch.device("meta"):
        return create_head({"type": name, **settings}, channels, num_classes)


def classifier(width, num_classes=21):
    return width * num_classes + num_classes


def test_parameters_are_those_of_a_second_count():
    fpn = on_meta("fpn", num_classes=150)
    assert count(fpn.pyramid) == 3_344_384
    assert count(fpn.branches) == 1_623_808
    assert count(fpn.branches) + count(fpn.classifier) == 1_643_158
    assert count(on_meta("jpu").upsampling) == 19_735_552
    assert count(on_meta("aspp").context) == 15_535_104
    assert count(on_meta("psp")) == 23_084_565
    assert count(on_meta("psp").pyramid) == 4_198_400
    assert count(on_meta("uper", (96, 192, 384, 768), 150)) == 31_497_366
    assert count(on_meta("fcn", num_classes=21)) == 9_448_981, "torchvision's"


@pytest.mark.parametrize(
    ("channels", "proj_dim", "decoder", "with_150_classes"),
    [
        ((32, 64, 160, 256), 256, 394_752, 433_302),
        ((64, 128, 320, 512), 256, 525_824, 564_374),
        ((64, 128, 320, 512), 768, 3_150_336, 3_265_686),
        (RESNET50, 256, 1_246_720, 1_285_270),
    ],
)
def test_segformer_has_the_parameters_of_its_description(channels, proj_dim, decoder, with_150_classes):
    head = on_meta("segformer", channels, 150, proj_dim=proj_dim)
    assert (count(head.decoder), count(head)) == (decoder, with_150_classes)


def test_ksac_and_ocnet_have_the_parameters_of_their_references():
    with torch.device("meta"):
        summed, side_by_side = (ksac.SharedKernelPooling(2048, 256, (6, 12, 18), f, 0.1) for f in ("sum", "concat"))
        aspp = ASPP(2048, 256, (6, 12, 18))
        asp_oc = aspp_ocnet.ASPPWithContext(512, 256, (12, 24, 36), 512, 0.1)
    assert count(summed) - count(summed.project) == 5_769_728
    assert (count(summed), count(side_by_side)) == (5_966_848, 6_097_920)
    kept = (count(summed) - count(summed.project)) / (count(aspp) - count(aspp.project))
    assert round(100 * (1 - kept), 2) == 62.06, "the saving that is quoted"
    # The references carry biases before normalisations: one for each channel that ours normalises after a convolution.
    assert count(on_meta("ocnet", num_classes=19)) == 10_369_043 - (512 + 256 + 512)
    assert count(asp_oc) == 5_739_904 - (256 + 128 + 256)
    assert count(on_meta("aspp_ocnet").context[0]) == 9_438_720 - 512


# ------------------------------------------------------------------------------------------- against the papers' models


def test_aspp_is_the_head_of_deeplab_v3plus():
    from segtutor.models.deeplab_v3plus import PRESETS, DeepLabV3Plus

    theirs = perturb_norms(seeded(DeepLabV3Plus, 4, **PRESETS["tiny"])).double().eval()
    channels = theirs.backbone.channels
    settings = {"proj_dim": theirs.aspp.out_channels, "rates": (1, 2, 3), "low_level_dim": 24}
    ours = HEADS["aspp"](channels, (4, 8, 16, 16), 4, **settings).double().eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("backbone.")}
    ours.load_state_dict({key.replace("aspp.", "context."): value for key, value in state.items()})
    x = images(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        logits = ours(Features(*theirs.backbone(x))).logits
        assert F.interpolate(logits, (65, 97), mode="bilinear", align_corners=False).equal(theirs(x))


def test_psp_is_the_head_of_pspnet():
    from segtutor.models.pspnet import PRESETS, PSPNet

    theirs = perturb_norms(seeded(PSPNet, 4, **PRESETS["tiny"])).double().eval()
    channels = theirs.backbone.channels
    ours = HEADS["psp"](channels, (4, 8, 8, 8), 4, proj_dim=channels[3] // 4).double().eval()
    names = {"head.0": "project", "head.2": "classifier", "pyramid": "pyramid"}
    state = {
        names[old] + key.removeprefix(old): value
        for key, value in theirs.state_dict().items()
        for old in names
        if key.startswith(old)
    }
    ours.load_state_dict(state)
    x = images(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        logits = ours(Features(*theirs.backbone(x))).logits
        assert F.interpolate(logits, (65, 97), mode="bilinear", align_corners=False).equal(theirs(x))


@pytest.mark.parametrize("upsample_first", [True, False])
@torch.no_grad()
def test_segformer_is_transformers(upsample_first):
    from transformers import SegformerConfig
    from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

    config = SegformerConfig(hidden_sizes=list(CHANNELS), decoder_hidden_size=6, num_labels=5)
    theirs = perturb_norms(seeded(SegformerDecodeHead, config)).double().eval()
    ours = HEADS["segformer"](CHANNELS, STRIDES, 5, proj_dim=6, upsample_first=upsample_first).double().eval()
    names = {f"linear_projections.{i}.proj": f"decoder.project.{i}" for i in range(4)}
    names |= {f"linear_fuse.{i}": f"decoder.fuse.{i}" for i in range(4)}
    names |= {"batch_norm": "decoder.norm", "classifier": "classifier"}
    state = theirs.state_dict()
    parts = state.pop("linear_fuse.weight").flatten(1).chunk(4, dim=1)  # of the concatenation c4 .. c1
    state |= {f"linear_fuse.{i}.weight": part for i, part in enumerate(reversed(parts))}
    ours.load_state_dict({
        f"{names[part]}.{kind}": value
        for key, value in state.items()
        for part, kind in [key.rsplit(".", 1)]
    })  # fmt: skip
    given = features((65, 97), batch=2, dtype=torch.float64)
    torch.testing.assert_close(ours(given).logits, theirs(given.maps), rtol=0, atol=1e-12)


@torch.no_grad()
def test_uper_is_transformers():
    from test_models_upernet import renamed
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetHead

    config = UperNetConfig(hidden_size=6, num_labels=5, pool_scales=[1, 2, 3, 6])
    theirs = perturb_norms(seeded(UperNetHead, config, list(CHANNELS))).double().eval()
    ours = HEADS["uper"](CHANNELS, STRIDES, 5, proj_dim=6).double().eval()
    state = theirs.state_dict()
    own = renamed({key: value for key, value in state.items() if not key.startswith("classifier")})
    own = {f"decoder.{key}": value for key, value in own.items()}
    ours.load_state_dict(own | {key: value for key, value in state.items() if key.startswith("classifier")})
    given = features((65, 97), batch=2, dtype=torch.float64)
    torch.testing.assert_close(ours(given).logits, theirs(given.maps), rtol=0, atol=1e-11)


@torch.no_grad()
def test_fpn_is_smps_where_their_structures_agree(monkeypatch):
    from segmentation_models_pytorch.decoders.fpn import decoder as smp

    class Functional:
        """smp's functions, with pixels where this package has them when a map is enlarged bilinearly."""

        @staticmethod
        def interpolate(x, scale_factor, mode, align_corners=None):
            return F.interpolate(
                x, scale_factor=scale_factor, mode=mode, **({"align_corners": False} if align_corners else {})
            )

    monkeypatch.setattr(smp, "F", Functional)
    theirs = perturb_norms(seeded(smp.FPNDecoder, [3, 3, *CHANNELS], 5, 12, 128)).double().eval()
    ours = HEADS["fpn"](CHANNELS, STRIDES, 5, proj_dim=128, pyramid_dim=12).double().eval()
    for layer in ours.pyramid.smooth:  # smp has none
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    state = ours.state_dict()
    for key, value in theirs.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "seg_blocks":
            level, _, step, _, layer = rest.split(".", 4)
            state[f"branches.{3 - int(level)}.{step}.{layer}"] = value
        else:
            state[f"pyramid.laterals.{int(part[1]) - 2}.{rest.removeprefix('skip_conv.')}"] = value
    ours.load_state_dict(state)
    given = features((64, 96), batch=2, dtype=torch.float64)
    torch.testing.assert_close(ours(given).embedding, theirs(list(given.maps)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "name", ["unet", "unetplusplus", "manet", "linknet", "fpn", "deeplabv3plus", "upernet", "segformer"]
)
@torch.no_grad()
def test_smp_decoders_are_smps(name):
    import segmentation_models_pytorch as smp

    dilated = {"encoder_output_stride": 16, "decoder_atrous_rates": (6, 12, 18)} if name == "deeplabv3plus" else {}
    # Its SegFormer reads a map of stride 2 where a backbone has one; those that it is made for have none.
    kind = "fpn" if name == "segformer" else name
    theirs = seeded(smp.create_model, kind, "resnet18", encoder_weights=None, **dilated)
    if name == "segformer":
        theirs.decoder = smp.decoders.segformer.model.SegformerDecoder([3, 0, 64, 128, 256, 512])
    theirs = perturb_norms(theirs).double().eval()
    strides = (4, 8, 16, 16 if dilated else 32)
    ours = HEADS[f"smp:{name}"]((64, 128, 256, 512), strides, 2).double().eval()
    state = theirs.decoder.state_dict()
    ours.decoder.load_state_dict({key: state[key] for key in ours.decoder.state_dict()})
    # U-shapes go on beyond c1 there; what they have made when they have read it is what a head here returns.
    last = {"unetplusplus": "blocks.x_0_2"}.get(name, "blocks.2" if isinstance(ours, UShapedHead) else "")
    seen = []
    theirs.decoder.get_submodule(last).register_forward_hook(lambda _, given, result: seen.append(result))
    maps = theirs.encoder(images(2, 3, 64, 96, dtype=torch.float64))
    maps[1] = maps[1][:, :0] if name == "segformer" else maps[1]
    theirs.decoder(list(maps))
    expected = ours.fit(seen[0])
    assert expected.std() > 1e-3
    assert ours(Features(*maps[2:])).embedding.equal(expected)


@torch.no_grad()
def test_smp_decoders_bring_maps_to_a_grid_and_leave_fitting_ones_alone():
    head = build("smp:unet").eval()
    for size, least in (((65, 97), (3, 4)), ((64, 96), (2, 3)), ((32, 32), (1, 1))):
        given = features(size)
        image, *arranged = head.arranged(given)
        assert [tuple(x.shape[2:]) for x in arranged] == [(k * least[0], k * least[1]) for k in (8, 4, 2, 1)]
        assert all(x is y for x, y in zip(arranged, given.maps, strict=True)) == (size != (65, 97))
        assert image.shape[2:] == (16 * least[0], 16 * least[1])


# ----------------------------------------------------------------------------------------------------------- each alone


def test_rates_go_with_the_stride_of_c4():
    assert [rates_at(stride, None) for stride in (8, 16, 32)] == [(12, 24, 36), (6, 12, 18), (3, 6, 9)]
    assert rates_at(8, (1, 2)) == (1, 2) and rates_at(512, None) == (1, 1, 1)

    def dilations(name, stride, **settings):
        head = HEADS[name](CHANNELS, (4, 8, min(16, stride), stride), 2, proj_dim=4, **settings)
        used = {m.dilation[0] for m in head.context.modules() if isinstance(m, nn.Conv2d)} - {1}
        return tuple(sorted(used)) or head.context.rates

    for name in ("aspp", "ksac", "aspp_ocnet"):
        for stride in (8, 16, 32):
            assert dilations(name, stride) == rates_at(stride, None)
        assert dilations(name, 16, rates=(5, 7)) == (5, 7)


def test_ksac_uses_one_kernel_at_every_rate():
    context = seeded(ksac.SharedKernelPooling, 5, 3, (1, 2, 4), "sum", 0.0).double().eval()
    perturb_norms(context)
    x = images(1, 5, 9, 11, dtype=torch.float64)
    apart = [copy.deepcopy(context.kernel.weight.detach()).requires_grad_() for _ in context.rates]
    maps = [
        norm(F.conv2d(x, weight, padding=rate, dilation=rate))
        for weight, rate, norm in zip(apart, context.rates, context.norms, strict=True)
    ]
    for ours, theirs in zip(context.responses(x), maps, strict=True):
        assert ours.equal(theirs)
    summary = context.image_pooling(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 9, 11)
    joined = torch.cat([context.point(x), F.relu(maps[0] + maps[1] + maps[2]), summary], dim=1)
    torch.testing.assert_close(context(x), context.project(joined), rtol=0, atol=1e-12)
    context(x).square().sum().backward()
    context.project(joined).square().sum().backward()
    torch.testing.assert_close(context.kernel.weight.grad, sum(weight.grad for weight in apart))


def test_ksac_side_by_side_rectifies_each_rate():
    context = perturb_norms(seeded(ksac.SharedKernelPooling, 5, 3, (1, 3), "concat", 0.0)).double().eval()
    x = images(1, 5, 9, 11, dtype=torch.float64)
    summary = context.image_pooling(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 9, 11)
    joined = torch.cat([context.point(x), *(F.relu(r) for r in context.responses(x)), summary], dim=1)
    torch.testing.assert_close(context(x), context.project(joined), rtol=0, atol=1e-12)


def test_ksac_grows_by_a_normalisation_for_each_rate():
    few, many = (on_meta("ksac", rates=rates) for rates in ((6,), (2, 4, 6, 8, 10)))
    assert count(many) - count(few) == 4 * 2 * 256
    with pytest.raises(ConfigError, match="head.rates: an empty list.*at least one"):
        on_meta("ksac", rates=[])


def test_ocnet_gathers_by_likeness():
    layer = perturb_norms(seeded(ocnet.SelfAttention, 6, 4, 3, 5)).double().eval()
    x = images(2, 6, 3, 5, dtype=torch.float64)
    assert not layer(x).any(), "it starts without a context"
    nn.init.normal_(layer.out.weight)
    keys, values = layer.key(x), layer.value(x)
    scores = torch.einsum("bcij,bckl->bijkl", keys, keys) / 4**0.5
    weights = scores.flatten(3).softmax(dim=-1)
    gathered = torch.einsum("bijn,bcn->bcij", weights, values.flatten(2))
    torch.testing.assert_close(layer(x), layer.out(gathered), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.weights(x), weights.flatten(1, 2), rtol=0, atol=1e-12)
    assert softmax_attention(*[keys.flatten(2).transpose(1, 2)] * 2, values.flatten(2).transpose(1, 2))[1].shape == (
        2,
        15,
        15,
    )


@torch.no_grad()
def test_ocnet_attends_at_stride_8_and_leaves_a_map_of_that_stride_alone():
    head = build("ocnet").eval()
    given = features((64, 96))
    reduced = head.reduce(given.c4)
    assert head.reduced(given).equal(F.interpolate(reduced, (8, 12), mode="bilinear", align_corners=False))
    dilated = features((64, 96), strides=(4, 8, 8, 8))
    assert head.reduced(dilated).equal(head.reduce(dilated.c4))
    x = head.reduced(given)
    expected = head.project(torch.cat([head.attention(x), x], dim=1))
    assert head(given).embedding.equal(expected)


@torch.no_grad()
def test_asp_oc_looks_around_at_half_the_resolution():
    context = perturb_norms(seeded(aspp_ocnet.ObjectContext, 6, 4)).double().eval()
    nn.init.normal_(context.attention.out.weight)
    x, seen = images(1, 6, 7, 10, dtype=torch.float64), []
    context.attention.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    out = context(x)
    reduced = context.reduce(x)
    assert seen[0].shape == (1, 4, 4, 5) and seen[0][0, :, 3, 0].equal(reduced[0, :, 6, :2].amax(dim=-1))
    enlarged = F.interpolate(context.attention(seen[0]), (7, 10), mode="bilinear", align_corners=False)
    assert out.equal(context.project(enlarged)) and out.shape == (1, 4, 7, 10)


@torch.no_grad()
def test_jpu_reads_three_maps_side_by_side_at_four_rates():
    module = perturb_norms(seeded(jpu.JointPyramidUpsampling, CHANNELS[1:], 4)).double().eval()
    given = features((65, 97), dtype=torch.float64)
    narrow = [F.interpolate(layer(x), (9, 13), mode="bilinear", align_corners=False)
              for layer, x in zip(module.narrow, given.maps[1:], strict=True)]  # fmt: skip
    joint, expected = torch.cat(narrow[::-1], dim=1), []
    for rate, branch in zip((1, 2, 4, 8), module.rates, strict=True):
        spread = F.conv2d(joint, branch[0].weight, padding=rate, dilation=rate, groups=12)
        expected.append(F.relu(branch[3](branch[2](branch[1](spread)))))
    torch.testing.assert_close(module(given.maps[1:]), torch.cat(expected, dim=1), rtol=0, atol=1e-12)


@torch.no_grad()
def test_jpu_at_the_papers_stride():
    fine, paper = build("jpu").eval(), build("jpu", out_stride=8).eval()
    given = features((65, 97))
    assert (fine.out_stride, paper.out_stride) == (4, 8)
    logits = paper(given).logits
    assert logits.shape[2:] == (9, 13)
    # The classifier is linear: enlarging what it reads is enlarging its scores.
    enlarged = F.interpolate(logits, (17, 25), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fine(given).logits, enlarged, rtol=0, atol=1e-5)


def test_jpu_says_what_to_do_about_dilation():
    for output_stride in (16, 8):
        config = {"backbone": {"type": "resnet", "depth": 18, "output_stride": output_stride}, "head": "jpu"}
        with pytest.raises(ConfigError, match=f"stride {output_stride}: set backbone.output_stride to 32.*'aspp'"):
            create_head(config, CHANNELS, 2)


@pytest.mark.parametrize("name", ["ultrafast_segformer", "extremely_fast_segformer"])
@torch.no_grad()
def test_light_heads_add_from_coarse_to_fine(name):
    head, given = build(name).double(), features((65, 97), batch=2, dtype=torch.float64)
    norm, total = head.decoder.norm, None
    for layer, x in list(zip(head.decoder.project, given.maps, strict=True))[::-1]:
        level = layer(x)
        if total is not None:
            level = level + F.interpolate(total, x.shape[2:], mode="bilinear", align_corners=False)
        total = level
    torch.testing.assert_close(head.eval()(given).embedding, F.relu(norm.eval()(total)), rtol=0, atol=1e-12)
    head.decoder.dropout.p = 0.0
    torch.testing.assert_close(head.train()(given).embedding, F.relu(copy.deepcopy(norm).train()(total)))


@pytest.mark.parametrize("name", ["ultrafast_segformer", "extremely_fast_segformer"])
@torch.no_grad()
def test_light_heads_at_stride_8_average_c1(name):
    head, given = build(name, out_stride=8).eval(), features((64, 96))
    pooled = Features(F.avg_pool2d(given.c1, 2), *given[1:])
    assert head(given).logits.shape[2:] == (8, 12)
    torch.testing.assert_close(head(given).logits, head(pooled).logits)


def test_light_heads_are_light():
    full = count(on_meta("segformer", (32, 64, 160, 256), 19))
    light = [count(on_meta(f"{name}_segformer", (32, 64, 160, 256), 19)) for name in ("ultrafast", "extremely_fast")]
    assert full > 4 * light[0] and light[0] > 1.9 * light[1]


@pytest.mark.parametrize("width", [2, 5, 8, 12, 24, 128])
def test_fpn_normalises_groups_of_at_least_two_values(width):
    head = create_head({"type": "fpn", "proj_dim": width, "pyramid_dim": 4}, CHANNELS, 2)
    norms = [module for module in head.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 7 and {norm.num_groups for norm in norms} == {32 if width == 128 else norms[0].num_groups}
    assert width // norms[0].num_groups >= 2
    given = features((32, 32))
    assert head(given).embedding.std() > 0
