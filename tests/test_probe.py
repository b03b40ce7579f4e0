"""The measuring instruments against hand-worked numbers and independent counts."""

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segtutor.lab.source import show_source
from segtutor.probe import (
    compare_speed,
    cost,
    count_flops,
    count_parameters,
    count_peak_bytes,
    count_saved_bytes,
    effective_receptive_field,
    receptive_field,
    receptive_field_formula,
    shape_trace,
    time_step,
    timing,
    trace,
)
from segtutor.probe.running import train_mode

VGG16 = [layer for count in (2, 2, 3, 3, 3) for layer in [(3, 1, 1)] * count + [(2, 2, 1)]]


class Branches(nn.Module):
    """Two paths, a pooling used twice, a functional resize, a dictionary as output."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.paths = nn.ModuleList([nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, padding=2, dilation=2)])

    def forward(self, images):
        x = self.pool(self.pool(self.stem(images)))
        paths = [F.interpolate(path(x), images.shape[2:], mode="bilinear", align_corners=False) for path in self.paths]
        return {"logits": torch.cat(paths, 1), "features": [x]}


def untouched(model, function):
    """Runs `function(model)` and checks that weights, statistics, modes, gradients and random state do not change."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    rng = torch.get_rng_state()
    result = function(model)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    return result


# ------------------------------------------------------------------------------------------------------------- counts
def test_parameters_count_shared_tensors_once():
    first, second = nn.Linear(4, 5), nn.Linear(4, 5)
    assert count_parameters(nn.Sequential(first, second)) == 50
    second.weight = first.weight
    assert count_parameters(nn.Sequential(first, second)) == 30
    first.bias.requires_grad_(False)
    assert count_parameters(nn.Sequential(first, second), trainable_only=True) == 25


def test_flops_of_convolutions_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, groups=4))
    by_hand = 2 * (8 * 3 * 9 * 6 * 5 + 8 * 2 * 9 * 6 * 5)
    assert untouched(model, lambda m: count_flops(m, (12, 10))) == by_hand
    assert count_flops(model, (12, 10), batch=3) == count_flops(model, (3, 3, 12, 10)) == 3 * by_hand


def test_flops_of_attention_by_hand():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(16, 48, bias=False)

        def forward(self, images):
            q, k, v = self.qkv(images.flatten(2).transpose(1, 2)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v)

    tokens = 5 * 7
    assert count_flops(Attention(), (16, 5, 7)) == 2 * (tokens * 16 * 48 + 2 * tokens * tokens * 16)


def test_published_gflops_are_multiply_adds():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        vgg = models.vgg16()
    assert count_parameters(vgg) == 138_357_544
    assert count_flops(vgg, (224, 224)) / 2e9 == pytest.approx(15.47, abs=0.01)  # "GFLOPS" of torchvision's table


def test_counts_of_a_model_that_has_to_see_numbers():
    class Peeks(nn.Sequential):
        def forward(self, images):
            return super().forward(images) if float(images.sum()) >= 0 else images

    model = Peeks(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Dropout())
    assert untouched(model, lambda m: count_flops(m, (5, 5))) == 2 * 3 * 4 * 25
    plain = nn.Sequential(*model)
    assert untouched(model, lambda m: count_saved_bytes(m, (5, 5), batch=2)) >= count_saved_bytes(
        plain[:2], (5, 5), batch=2
    )


def test_saved_bytes_by_hand():
    maps = 4 * 16 * 16  # bytes of one float32 channel
    assert count_saved_bytes(nn.Conv2d(3, 8, 3, padding=1), (16, 16)) == 3 * maps  # its input; the weights do not count
    two = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    assert untouched(two, lambda m: count_saved_bytes(m, (16, 16))) == (3 + 8) * maps  # ReLU's output is the next input
    pool = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2))
    # max-pool keeps its input, and 8-byte indices of a quarter as many pixels
    assert count_saved_bytes(pool, (16, 16)) == (3 + 8 + 2 * 8 / 4) * maps
    assert count_saved_bytes(two, (16, 16), batch=4) == 4 * (3 + 8) * maps


def test_saved_bytes_agree_with_a_real_forward_pass():
    model, kept = Branches(), {}
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.rand(2, 3, 32, 48))
    expected = sum(size for pointer, size in kept.items() if pointer not in weights)
    assert output["logits"].requires_grad
    assert untouched(Branches(), lambda m: count_saved_bytes(m, (32, 48), batch=2)) == expected


class Attending(nn.Module):
    """Attention over the positions of a map, in two heads, with a bias that learns or does not."""

    def __init__(self, learns, together):
        super().__init__()
        self.qkv, self.together = nn.Conv2d(3, 24, 1), together
        bias = torch.randn(2, 48, 48)
        self.register_parameter("bias", nn.Parameter(bias)) if learns else self.register_buffer("bias", bias)

    def forward(self, x):
        qkv = self.qkv(x).unflatten(1, (6, 4)).flatten(3).transpose(2, 3)  # (B, 6, N, 4)
        query, key, value = (qkv.contiguous() if self.together else qkv).chunk(3, dim=1)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias[None]).sum((1, 3))


@pytest.mark.parametrize(("learns", "together"), [(False, True), (True, True), (False, False)])
def test_saved_bytes_of_attention_are_those_of_the_kernel_that_runs(learns, together):
    """On the meta device PyTorch would write the N x N weights down, which no device does unless it must."""
    model, kept = Attending(learns, together), {}
    weights = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.rand(2, 3, 6, 8))
    expected = sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in weights)
    before = F.scaled_dot_product_attention
    assert output.requires_grad and untouched(model, lambda m: count_saved_bytes(m, (6, 8), batch=2)) == expected
    assert F.scaled_dot_product_attention is before
    written_down = 4 * 2 * 2 * 48 * 48
    fused = together and not learns
    assert (count_peak_bytes(model, (6, 8), batch=2) - expected > written_down) != fused


def convolution(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options)


def test_peak_bytes_of_a_chain_by_hand():
    channel = 4 * 16 * 16  # bytes
    chain = nn.Sequential(convolution(3, 8), convolution(8, 8), convolution(8, 4))
    # Second convolution: the images, which the caller holds, its input and its output. The first map is then free.
    assert untouched(chain, lambda m: count_peak_bytes(m, (16, 16), training=False)) == (3 + 8 + 8) * channel
    # Backward through the last one: all maps, the gradients of its output and input, and the gradient of its weights
    maps, gradients, weights, loss = 3 + 8 + 8 + 4, 4 + 8, 4 * (8 * 4 * 9), 4 + 4  # a number, and its gradient
    assert untouched(chain, lambda m: count_peak_bytes(m, (16, 16))) == (maps + gradients) * channel + weights + loss
    assert count_peak_bytes(chain, (16, 16), batch=3) == 3 * (maps + gradients) * channel + weights + loss
    for parameter in chain.parameters():
        parameter.requires_grad_(False)
    assert count_peak_bytes(chain, (16, 16)) == (3 + 8 + 8) * channel  # nothing to train: nothing is kept


def test_peak_bytes_of_a_skip_by_hand():
    class Skip(nn.Module):
        def __init__(self, skip):
            super().__init__()
            self.skip, self.first, self.pool = skip, convolution(1, 8), nn.MaxPool2d(2)
            self.last = convolution(16 if skip else 8, 2)

        def forward(self, images):
            x = self.first(images)
            kept = [x] if self.skip else []
            x = F.interpolate(self.pool(x), scale_factor=2)
            return self.last(torch.cat([*kept, x], 1) if kept else x)

    channel = 4 * 16 * 16
    # Without the skip, while resizing: the image, the map (still named x), its pooled quarter and the upsampled map
    assert count_peak_bytes(Skip(False), (16, 16), training=False) == (1 + 8 + 8 / 4 + 8) * channel
    # With it, at the last convolution: the image, the map, the upsampled map, both side by side, and the output
    assert count_peak_bytes(Skip(True), (16, 16), training=False) == (1 + 8 + 8 + 16 + 2) * channel


def test_peak_bytes_know_views_in_place_work_and_models_that_need_numbers():
    class Thrifty(nn.Sequential):
        def forward(self, images):
            x = super().forward(images)
            return x.relu_().flatten(2).mul_(2).transpose(1, 2)[:, ::2]

    class Curious(nn.Sequential):
        def forward(self, images):
            x = super().forward(images) * 2
            return x + 1 if float(images.sum()) == 0 else x

    class Projecting(nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1))

    channel = 4 * 16 * 16
    assert count_peak_bytes(Thrifty(convolution(3, 8)), (16, 16), training=False) == (3 + 8) * channel
    # The transposed weights are a view of the weights
    assert count_peak_bytes(Projecting(768, 10), (3, 16, 16), training=False) == 3 * channel + 4 * 10
    # On real zeros: the sum takes four bytes while it lives; what the attempt without numbers left does not count.
    curious = Curious(convolution(3, 8))
    count = untouched(curious, lambda m: count_peak_bytes(m, (16, 16), training=False))
    assert count == (3 + 8 + 8) * channel
    assert untouched(curious, lambda m: count_peak_bytes(m, (16, 16))) >= (3 + 3 * 8) * channel
    assert untouched(Branches(), lambda m: count_peak_bytes(m, (32, 48))) > count_saved_bytes(Branches(), (32, 48))


class Mixing(nn.Module):
    """A 1x1 convolution written as a matrix product, for which no library allocates a workspace."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x):
        return (self.weight @ x.flatten(2)).unflatten(2, x.shape[2:])


class Unpooling(nn.Module):
    """A skip by concatenation, another by indices, normalisation, an in-place ReLU and a sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(Mixing(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(Mixing(8, 12), nn.BatchNorm2d(12), nn.ReLU())
        self.join, self.score = Mixing(20, 8), Mixing(8, 5)

    def forward(self, images):
        skip = self.stem(images)
        pooled, indices = F.max_pool2d(skip, 2, return_indices=True)
        deep = F.interpolate(self.deep(pooled), scale_factor=2, mode="bilinear", align_corners=False)
        joined = self.join(torch.cat([skip, deep], 1))
        return self.score(F.relu(joined + F.max_unpool2d(pooled, indices, 2)))


def one_step(model, images, training):
    with train_mode(model, training), torch.set_grad_enabled(training):
        output = model(images)
        if training:
            (1 * output).sum().backward()  # the product's gradient is as large as the output, and nobody holds it


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 64, 96), (1, 3, 128, 96)])
def test_peak_bytes_are_the_profilers(shape, training):
    from torch.profiler import ProfilerActivity, profile

    model, images = Unpooling(), torch.rand(shape)
    counted = untouched(model, lambda m: count_peak_bytes(m, shape, training=training))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        one_step(model, images, training)
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now, peak = images.nbytes, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert counted == pytest.approx(peak, rel=0.005)  # equal to the byte where this was written


@pytest.mark.gpu
@pytest.mark.parametrize("training", [False, True])
def test_peak_bytes_are_the_gpu_allocators(training):
    model, images = Unpooling().cuda(), torch.rand(4, 3, 256, 320, device="cuda")
    counted = count_peak_bytes(model, images.shape, training=training)
    for _ in range(2):  # the first step also makes the libraries' handles and their lasting workspaces
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - images.nbytes
        one_step(model, images, training)
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
    assert counted == pytest.approx(peak, rel=0.02)  # blocks are rounded up to 512 bytes


# -------------------------------------------------------------------------------------------------------- shape trace
def test_trace_follows_the_data():
    trace = untouched(Branches(), lambda m: shape_trace(m, (16, 24)))
    assert [(row.name, row.in_shape, row.out_shape) for row in trace] == [
        ("stem", (1, 3, 16, 24), (1, 6, 16, 24)),
        ("pool", (1, 6, 16, 24), (1, 6, 8, 12)),
        ("pool", (1, 6, 8, 12), (1, 6, 4, 6)),
        ("paths.0", (1, 6, 4, 6), (1, 4, 4, 6)),
        ("paths.1", (1, 6, 4, 6), (1, 4, 4, 6)),
    ]
    assert sum(row.params for row in trace) == count_parameters(Branches())


def test_trace_counts_a_module_that_is_called_twice_once():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.step(self.step(x))

    assert [row.params for row in shape_trace(Recurrent(), (4, 8, 8))] == [148, 0]


def test_trace_depth_names_and_batch():
    assert [row.name for row in shape_trace(Branches(), (16, 16), depth=2)][:3] == ["stem.0", "stem.1", "stem.2"]
    chosen = shape_trace(Branches(), (3, 16, 16), names=["paths.1", "stem"], batch=2)
    assert [row.name for row in chosen] == ["stem", "paths.1"]
    assert chosen[0].in_shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="'decoder'.*paths.0"):
        shape_trace(Branches(), (16, 16), names=["decoder"])


def test_trace_of_the_whole_and_of_several_outputs():
    model = Branches()
    trace = shape_trace(model, (16, 16), names=[""])
    assert trace[0].out_shapes == ((1, 8, 16, 16), (1, 6, 4, 4))
    assert "(+1 more)" in repr(trace)
    assert shape_trace(nn.Conv2d(3, 2, 1), (4, 4))[0].kind == "Conv2d"


def test_trace_prints_as_a_table():
    lines = repr(shape_trace(Branches(), (16, 24))).splitlines()
    assert lines[0].split() == ["module", "kind", "input", "output", "parameters"]
    assert lines[2].startswith("stem") and "1 x 6 x 16 x 24" in lines[2] and lines[2].endswith("180")
    assert len({len(line) for line in lines}) == 1


def test_size_must_make_sense():
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        shape_trace(Branches(), (16,))


# ---------------------------------------------------------------------------------------------------- receptive field
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], 1),
        ([(3,)], 3),
        ([(3, 1, 1), (3, 1, 1)], 5),
        ([(3, 2), (3, 1)], 7),  # 3 + 2 * 2
        ([(3, 1, 2)], 5),
        ([(3, 1, 1), (3, 1, 2), (3, 1, 4)], 15),  # 3, then + 4, then + 8
        ([(7, 2, 1), (3, 2, 1)], 11),  # ResNet's stem: 7 + 2 * 2
        (VGG16, 212),  # pool5
        ([*VGG16, (7, 1, 1)], 404),  # fc6 as a convolution
    ],
)
def test_formula_by_hand(layers, expected):
    assert receptive_field_formula(layers) == expected


def test_formula_reads_a_backbone():
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 4, 3, dilation=2)
    )
    assert receptive_field_formula(backbone) == 3 + 2 * 2 + 4 * 4
    with pytest.raises(ValueError, match="0's geometry.*square"):
        receptive_field_formula(nn.Sequential(nn.Conv2d(3, 4, (3, 5))))
    with pytest.raises(ValueError, match="upsamples"):
        receptive_field_formula(nn.Sequential(nn.ConvTranspose2d(3, 4, 2)))


def chain(layers, pool, norm=nn.BatchNorm2d):
    modules = []
    for kernel, stride, dilation in layers:
        if kernel == 2:
            modules.append(pool(2, stride))
        else:
            padding = dilation * (kernel // 2)
            modules += [nn.Conv2d(2, 2, kernel, stride, padding, dilation), norm(2), nn.ReLU()]
    model = nn.Sequential(nn.Conv2d(3, 2, 1), *modules)
    for module in model.modules():  # statistics and weights that a careless measurement would stumble over
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(100.0)
            module.running_var.uniform_(0.1, 3.0)
    return model


class FunctionalPool(nn.Module):
    def __init__(self, kernel, stride):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x):
        return F.max_pool2d(x, self.kernel, self.stride)


class IndexPool(FunctionalPool):
    def forward(self, x):
        return F.max_pool2d(x, self.kernel, self.stride, return_indices=True)[0]


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d, FunctionalPool, IndexPool])
@pytest.mark.parametrize(
    "layers",
    [
        [(3, 1, 1), (2, 2, 1), (3, 1, 1), (2, 2, 1), (3, 1, 1)],
        [(5, 2, 1), (3, 1, 3), (2, 2, 1), (3, 2, 1)],
        VGG16[:10],
    ],
)
def test_measured_field_equals_the_formula(layers, pool):
    model = chain(layers, pool)
    expected = receptive_field_formula(layers)
    found = untouched(model, lambda m: receptive_field(m, (expected + 61, expected + 48)))
    assert (found.height, found.width, found.clipped) == (expected, expected, False)


def test_measured_field_ignores_weights_that_are_zero():
    model = chain([(3, 1, 1), (3, 1, 1)], nn.MaxPool2d)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert receptive_field(model, (21, 21)).height == 5


def test_measured_field_place_and_clipping():
    model = nn.Conv2d(3, 2, 3, stride=2, padding=1)
    found = receptive_field(model, (17, 33), at=(2, 5))
    assert (found.top, found.left, found.position) == (3, 9, (2, 5))
    assert receptive_field(model, (17, 33), at=(0, 0)).clipped
    assert "reaches the border" in repr(receptive_field(model, (17, 33), at=(0, 0)))
    with pytest.raises(ValueError, match="outside the 9 x 17"):
        receptive_field(model, (17, 33), at=(9, 0))


def test_measured_field_of_a_named_layer_and_of_attention():
    model = chain([(3, 1, 1), (3, 1, 1), (3, 1, 1)], nn.MaxPool2d)
    assert receptive_field(model, (31, 31), layer="1").height == 3
    assert receptive_field(model, (31, 31), layer="4").height == 5
    with pytest.raises(ValueError, match="'stage9'"):
        receptive_field(model, (31, 31), layer="stage9")

    class Global(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.mix = nn.LayerNorm(3), nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, images):
            x = self.norm(images.flatten(2).transpose(1, 2))
            return self.mix(x, x, x, need_weights=False)[0].transpose(1, 2).reshape(images.shape)

    found = receptive_field(Global(), (3, 9, 11))
    assert (found.height, found.width, found.clipped) == (9, 11, True)
    with pytest.raises(ValueError, match="needs a map"):
        receptive_field(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), (8, 8))


def test_effective_field_is_narrower_and_sums_to_one():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular") for _ in range(12)])
    images = torch.randn(4, 4, 48, 48)
    found = untouched(model, lambda m: effective_receptive_field(m, images))
    assert float(found.map.sum()) == pytest.approx(1.0, abs=1e-4)
    assert 5 <= found.side < 25 == receptive_field_formula(model)
    assert "95 %" in repr(found)
    assert images.grad is None and not images.requires_grad


def test_effective_field_of_a_box_filter_by_hand():
    model = nn.Conv2d(1, 1, 9, padding=4, bias=False)
    nn.init.ones_(model.weight)
    found = effective_receptive_field(model, torch.rand(1, 1, 31, 31))
    assert torch.allclose(found.map[11:20, 11:20], torch.full((9, 9), 1 / 81))
    assert found.side == 9
    assert effective_receptive_field(model, torch.rand(1, 1, 31, 31), share=0.5).side == 7  # 49/81 > 0.5 > 25/81


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layer", ["2", "3"])
def test_what_a_layer_returns_is_read_before_a_later_layer_changes_it_in_place(inplace, layer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(8), nn.Identity(), nn.ReLU(inplace), nn.Conv2d(8, 1, 1)
    )
    nn.init.constant_(model[2].bias, -3.0)  # nearly every value is negative, so the ReLU would hide it
    images = torch.randn(1, 1, 9, 9)
    found = effective_receptive_field(model, images, layer=layer)
    assert torch.equal(found.map, effective_receptive_field(model[:3], images).map)
    seen = receptive_field(model, (9, 9), layer=layer)
    assert (seen.height, seen.width) == (3, 3)


def test_effective_field_of_dead_units():
    model = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.zeros_(model.weight)
    with pytest.raises(ValueError, match="zero everywhere"):
        effective_receptive_field(model, torch.rand(1, 1, 9, 9))


# --------------------------------------------------------------------------------------------------------------- time
@pytest.mark.parametrize("training", [True, False])
def test_time_step(training):
    timing = untouched(Branches().train(), lambda m: time_step(m, (16, 16), batch=2, repeats=5, training=training))
    assert 0 < timing.low <= timing.median <= timing.high and timing.repeats == 5 and timing.unit == "ms"


def test_compare_speed_sees_a_factor_of_two():
    ratio = compare_speed(lambda: time.sleep(0.008), lambda: time.sleep(0.004), repeats=7)
    assert ratio.median == pytest.approx(2.0, rel=0.3)
    assert "x (quartiles" in repr(ratio)


def test_compare_speed_alternates_the_order():
    calls = []
    compare_speed(lambda: calls.append("a"), lambda: calls.append("b"), repeats=4, warmup=0)
    assert "".join(calls) == "abbaabba"


# ------------------------------------------------------------------------------------------------------------- source
class Shown(nn.Module):
    """First line of the docstring.

    More that a skeleton leaves out.
    """

    factor = 2  # a class attribute

    def __init__(
        self,
        width: int,
    ):
        super().__init__()
        self.width = width

    @property
    def doubled(self) -> int:
        """Twice the width.

        And more."""
        return self.factor * self.width

    @staticmethod
    def fence():
        return "```"

    def short(self): return 1  # fmt: skip


def test_source_as_it_stands():
    assert repr(show_source(Shown)).startswith("class Shown(nn.Module):")
    assert repr(show_source(Shown(3))) == repr(show_source(Shown))
    assert repr(show_source(Shown, part="__init__")).splitlines()[-1] == "    self.width = width"
    assert repr(show_source(Shown, part="doubled")).startswith("@property\ndef doubled")
    assert "def fence" in repr(show_source(Shown, part="fence"))
    assert repr(show_source(Shown(1).forward, part=None)).startswith("def ")


def test_skeleton():
    assert repr(show_source(Shown, skeleton=True)) == (
        "class Shown(nn.Module):\n"
        '    """First line of the docstring."""\n'
        "    factor = 2  # a class attribute\n"
        "\n"
        "    def __init__(\n"
        "        self,\n"
        "        width: int,\n"
        "    ):\n"
        "        ...\n"
        "\n"
        "    @property\n"
        "    def doubled(self) -> int:\n"
        '        """Twice the width."""\n'
        "        ...\n"
        "\n"
        "    @staticmethod\n"
        "    def fence():\n"
        "        ...\n"
        "\n"
        "    def short(self): return 1  # fmt: skip"
    )


def test_without_docstrings():
    code = repr(show_source(Shown, docstring=False))
    assert '"""' not in code and "factor = 2" in code and "return self.factor * self.width" in code
    compile(code, "shown", "exec")


@pytest.mark.parametrize("skeleton", [True, False])
@pytest.mark.parametrize("module", [cost, timing, trace], ids=lambda module: module.__name__)
def test_every_view_of_a_module_is_python(module, skeleton):
    compile(repr(show_source(module, skeleton=skeleton)), "module", "exec")
    compile(repr(show_source(module, docstring=False)), "module", "exec")


def test_notebooks_get_a_code_block_that_their_theme_colours():
    assert show_source(count_flops)._repr_markdown_().startswith("```python\ndef count_flops")
    fenced = show_source(Shown, part="fence")._repr_markdown_().splitlines()
    assert fenced[0] == "````python" and fenced[-1] == "````"
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(show_source(count_flops))
    assert set(data) == {"text/markdown", "text/plain"}


def test_skeleton_keeps_backslashes_raw():
    assert 'r"""Receptive field of a chain of layers: :math:`r = 1 + \\sum_i' in repr(
        show_source(receptive_field_formula, skeleton=True)
    )


def test_source_that_is_not_there():
    with pytest.raises(ValueError, match="no part named 'decode'"):
        show_source(Shown, part="decode")
    with pytest.raises(ValueError, match="no Python source"):
        show_source(len)
