"""What every segmentation model promises, as one class of tests to inherit.

A model joins in a few lines; another variant of it is one more entry in ``models``:

    class TestFCN(ModelContract):
        models = {cls.__name__: partial(cls, **PRESETS["tiny"]) for cls in (FCN32s, FCN16s, FCN8s)}

Each entry is called as ``build(num_classes, in_channels=3)`` and returns a module from images (B, in_channels, H, W) to
logits (B, num_classes, H, W).
"""

import copy
import inspect
import io

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

SIZES = [(32, 32), (33, 47), (64, 96), (97, 65)]


def perturb_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every normalisation statistics and weights of its own; the default 1 and 0 hide mistakes in a key map."""
    generator = torch.Generator().manual_seed(seed)

    def random(like, low, high):
        return torch.rand(like.shape, generator=generator).to(like) * (high - low) + low

    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)) and layer.weight is not None:
                layer.weight.copy_(random(layer.weight, 0.5, 1.5))
                layer.bias.copy_(random(layer.bias, -0.3, 0.3))
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.copy_(random(layer.running_mean, -0.3, 0.3))
                layer.running_var.copy_(random(layer.running_var, 0.5, 1.5))
    return model


def seeded(build, *args, seed: int = 0, **options) -> nn.Module:
    """Build a model from a seed without disturbing the other tests' random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(*args, **options)


def images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal random images from a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class ModelContract:
    """Inherit, set ``models``; see the module's docstring.

    Attributes:
        models: name to ``build(num_classes, in_channels=3)``.
        overfit: steps and learning rate of Adam with which each model learns one batch by heart.
        unused: parameters that no gradient reaches in a plain forward (an auxiliary head), by prefix.
        untraced: models that compute with the sides of their images, which torch.fx cannot trace.
    """

    models: dict = {}
    overfit = (60, 2e-3)
    unused: tuple[str, ...] = ()
    untraced: tuple[str, ...] = ()

    def pytest_generate_tests(self, metafunc):
        if "build" in metafunc.fixturenames:
            metafunc.parametrize("build", list(self.models.values()), ids=list(self.models))

    @pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
    def test_logits_have_the_size_of_the_images(self, build, size):
        model = seeded(build, 5).eval()
        with torch.no_grad():
            assert model(images(2, 3, *size)).shape == (2, 5, *size)

    @pytest.mark.parametrize("in_channels", [1, 3, 4])
    def test_takes_any_number_of_channels(self, build, in_channels):
        model = seeded(build, 3, in_channels=in_channels).eval()
        with torch.no_grad():
            assert model(images(1, in_channels, 32, 40)).shape == (1, 3, 32, 40)

    @pytest.mark.parametrize("num_classes", [1, 2])
    def test_takes_few_classes(self, build, num_classes):
        with torch.no_grad():
            assert seeded(build, num_classes).eval()(images(1, 3, 32, 32)).shape == (1, num_classes, 32, 32)

    @pytest.mark.parametrize("size", [(32, 32), (45, 64)], ids=str)
    def test_trains_on_a_batch_of_one(self, build, size):
        model = seeded(build, 4).train()
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        loss = F.cross_entropy(model(images(1, 3, *size)), torch.randint(0, 4, (1, *size)))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        for name, value in model.state_dict().items():
            assert value.isfinite().all(), f"{name} is not finite after one step"
        changed = [name for name, _ in model.named_parameters() if not model.state_dict()[name].equal(before[name])]
        assert changed, "the step changed no parameter"

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
    def test_runs_in_other_dtypes(self, build, dtype):
        model = seeded(build, 3).eval().to(dtype)
        with torch.no_grad():
            logits = model(images(1, 3, 32, 48, dtype=dtype))
        assert logits.dtype == dtype and logits.isfinite().all()

    def test_is_determined_by_the_seed(self, build):
        first, second, other = (seeded(build, 3, seed=seed).eval() for seed in (1, 1, 2))
        x = images(1, 3, 40, 32)
        with torch.no_grad():
            assert first(x).equal(second(x))
            assert not first(x).equal(other(x))

    def test_training_is_determined_by_the_seed(self, build):
        model = seeded(build, 3).train()
        twin = copy.deepcopy(model)
        x = images(2, 3, 32, 32)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            first = model(x)
            torch.manual_seed(7)
            assert first.equal(twin(x))

    def test_survives_saving_and_loading(self, build):
        model, other = perturb_norms(seeded(build, 3)).eval(), seeded(build, 3, seed=5).eval()
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        buffer.seek(0)
        other.load_state_dict(torch.load(buffer, weights_only=True))
        x = images(1, 3, 33, 64)
        with torch.no_grad():
            assert other(x).equal(model(x))

    def test_is_the_same_for_any_batch_size(self, build):
        model = perturb_norms(seeded(build, 3)).double().eval()
        x = images(3, 3, 48, 33, dtype=torch.float64)
        with torch.no_grad():
            together, alone = model(x), torch.cat([model(image[None]) for image in x])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)

    def test_gives_every_parameter_a_gradient(self, build):
        # Perturbed, because residual blocks often start with a zero weight in their last normalisation.
        model = perturb_norms(seeded(build, 3)).train()
        model(images(2, 3, 64, 64)).square().mean().backward()
        for name, parameter in model.named_parameters():
            if self.unused and name.startswith(self.unused):
                continue
            assert parameter.grad is not None, f"{name} has no gradient"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero"

    @staticmethod
    def written_here(model):
        """The part of the model whose layers are this package's own; hooks must see into it."""
        return model

    def test_hooks_see_what_a_layer_returned(self, build):
        """Nothing that comes later may write into a layer's output, or whoever kept it keeps something else."""
        model, seen = seeded(build, 3).eval(), []

        def keep(name):
            return lambda module, args, output: seen.append((name, output, copy.deepcopy(output)))

        for name, layer in self.written_here(model).named_modules():
            layer.register_forward_hook(keep(name))
        with torch.no_grad():
            model(images(1, 3, 32, 45))
        changed = [
            name for name, output, before in seen if isinstance(output, torch.Tensor) and not output.equal(before)
        ]
        assert seen and changed == []

    def test_backward_hooks_see_every_layer(self, build):
        model, seen = seeded(build, 3).train(), set()
        parts = dict(self.written_here(model).named_modules())
        layers = {
            name: layer
            for name, layer in parts.items()
            if list(layer.parameters(recurse=False)) and not list(layer.children())
        }
        for name, layer in layers.items():
            layer.register_full_backward_hook(lambda module, inner, outer, name=name: seen.add(name))
        model(images(2, 3, 32, 45)).square().mean().backward()
        assert layers.keys() - seen == {name for name in layers if self.unused and name.startswith(self.unused)}

    def test_survives_the_conversion_to_synchronised_norms(self, build):
        model = perturb_norms(seeded(build, 3)).eval()
        x = images(2, 3, 40, 33)
        with torch.no_grad():
            expected = model(x)
            converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
            torch.testing.assert_close(converted(x), expected, rtol=0, atol=1e-6)
        norms = [
            sum(isinstance(m, kind) for m in net.modules())
            for net, kind in ((model, nn.BatchNorm2d), (converted, nn.SyncBatchNorm))
        ]
        assert norms[0] == norms[1]

    def test_learns_one_batch_by_heart(self, build):
        steps, lr = self.overfit
        # Two images of blocks: the colour of a block says its class.
        truth = torch.tensor([[[0, 1], [2, 0]], [[2, 2], [1, 0]]]).repeat_interleave(32, 1).repeat_interleave(32, 2)
        x = F.one_hot(truth, 3).permute(0, 3, 1, 2).float() * 2 - 1 + 0.1 * images(2, 3, 64, 64)
        model = seeded(build, 3).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = F.cross_entropy(model(x), truth).item()
            for _ in range(steps):
                loss = F.cross_entropy(model(x), truth)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert loss.item() < 0.35 * min(first, 1.1), f"the loss went from {first:.3f} to {loss.item():.3f}"

    def test_is_traced_symbolically_once_for_all_sizes(self, build):
        """Tools for quantisation and for cutting out features begin with this trace."""
        model = perturb_norms(seeded(build, 3)).eval()
        switches = {"auxiliary": False} if "auxiliary" in inspect.signature(model.forward).parameters else None
        if any(build is self.models[name] for name in self.untraced):
            with pytest.raises((torch.fx.proxy.TraceError, TypeError), match="control flow|Proxy"):
                torch.fx.symbolic_trace(model, concrete_args=switches)
            return
        traced = torch.fx.symbolic_trace(model, concrete_args=switches)
        for x in (images(1, 3, 64, 64), images(2, 3, 45, 70)):
            with torch.no_grad():
                torch.testing.assert_close(traced(x), model(x))

    @pytest.mark.parametrize(
        ("shape", "says"),
        [
            ((1, 3, 31, 64), "31x64.*32"),
            ((1, 3, 64, 16), "64x16.*32"),
            ((1, 2, 64, 64), "2 channels.*in_channels=2"),
            ((3, 64, 64), r"images\[None\]"),
            ((1, 64, 64, 3), r"channels last.*permute\(0, 3, 1, 2\)"),
        ],
        ids=str,
    )
    def test_refuses_images_with_a_sentence(self, build, shape, says):
        with pytest.raises(ValueError, match=says):
            seeded(build, 3)(images(*shape))

    @pytest.mark.parametrize(
        ("dtype", "says"),
        [
            (torch.uint8, "torch.uint8.*float.*255"),
            (torch.float64, r"torch.float64.*torch.float32.*images.to\(torch.float32\)"),
            (torch.bfloat16, "torch.bfloat16.*torch.float32"),
        ],
        ids=str,
    )
    def test_refuses_numbers_of_another_type_with_a_sentence(self, build, dtype, says):
        model, wrong = seeded(build, 3).eval(), torch.zeros(1, 3, 64, 64, dtype=dtype)
        with pytest.raises(ValueError, match=says):
            model(wrong)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            if dtype is torch.bfloat16:
                assert model(wrong).shape[2:] == (64, 64), "autocast sees to it"
            else:
                with pytest.raises(ValueError, match=says):
                    model(wrong)

    @pytest.mark.parametrize("num_classes", [0, -1])
    def test_refuses_to_score_nothing(self, build, num_classes):
        with pytest.raises(ValueError, match="num_classes.*at least 1"):
            build(num_classes)


class AuxiliaryContract:
    """What a model with an auxiliary head promises besides; inherit, set ``build``.

    Attributes:
        build: ``build(num_classes, auxiliary=False)``, a narrow model on the ResNet backbone.
    """

    build = None

    def test_forward_is_the_same_with_and_without_the_auxiliary_output(self):
        model = perturb_norms(seeded(self.build, 3, auxiliary=True)).eval()
        plain = self.build(3).eval()
        plain.load_state_dict({name: v for name, v in model.state_dict().items() if not name.startswith("auxiliary")})
        x = images(2, 3, 41, 64)
        with torch.no_grad():
            logits, auxiliary_logits = model(x, auxiliary=True)
            assert isinstance(model(x), torch.Tensor) and model(x).equal(logits) and plain(x).equal(logits)
        assert auxiliary_logits.shape == logits.shape and not auxiliary_logits.equal(logits)

    def test_the_auxiliary_output_reads_conv4_x(self):
        model = seeded(self.build, 3, auxiliary=True)
        _, auxiliary_logits = model(images(2, 3, 64, 64), auxiliary=True)
        auxiliary_logits.square().mean().backward()
        learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        own = {name for name, _ in model.named_parameters() if name.startswith("auxiliary.")}
        assert own and own <= learning
        reached = {".".join(name.split(".")[:2]) for name in learning - own}
        assert reached == {"backbone.conv1", "backbone.bn1", "backbone.conv2_x", "backbone.conv3_x", "backbone.conv4_x"}

    def test_hooks_on_the_model_see_both_outputs(self):
        model, seen = seeded(self.build, 3, auxiliary=True).eval(), []
        model.register_forward_hook(lambda module, args, output: seen.append(output))
        outputs = model(images(1, 3, 32, 32), auxiliary=True)
        assert len(seen) == 1 and seen[0] is outputs and len(outputs) == 2

    def test_without_an_auxiliary_head_one_sentence_says_what_to_do(self):
        with pytest.raises(ValueError, match="auxiliary=True"):
            self.build(3)(images(1, 3, 32, 32), auxiliary=True)
        with pytest.raises(ValueError, match="smallest side"):
            self.build(3, auxiliary=True)(images(1, 3, 16, 32), auxiliary=True)
