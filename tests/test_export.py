"""Models that leave Python: exported, as ONNX, compiled, traced, over several processes; for images of any size.

An exported program remembers every decision that was made by a size, so each is tried on images of other, odd sizes
and of another number than it was exported with. PyTorch's exporter itself holds a side of 1 apart from all others: the
example's maps have no such side, and a program refuses images whose maps have one.
"""

import copy
import pickle
import warnings

import onnxruntime
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from contract import images, seeded
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segtutor.factory import create_model, list_heads
from segtutor.models import (
    VGG16,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    FCN8s,
    FCN16s,
    FCN32s,
    MixTransformer,
    PSPNet,
    ResNet,
    SegFormer,
    SegNet,
    SwinTransformer,
    SwinUPerNet,
    UNet,
    ViT,
    ViTSegmenter,
    deeplab_v1,
    fcn,
    pspnet,
    resnet,
    segformer,
    segnet,
    unet,
    upernet,
    vgg,
    vit,
)

MIT = {"channels": (8, 16), "depths": (1, 1), "heads": (1, 2), "reductions": (4, 1), "drop_path": 0.0}
SWIN = {"width": 8, "depths": (2, 1), "heads": (1, 2), "window": 4, "drop_path": 0.0}
VIT = {**vit.PRESETS["tiny"], "depth": 1}
QUICK = {
    "FCN32s": lambda: FCN32s(3, **fcn.PRESETS["tiny"]),
    "FCN8s": lambda: FCN8s(3, **fcn.PRESETS["tiny"]),
    "UNet": lambda: UNet(3, **unet.PRESETS["tiny"]),
    "SegNet": lambda: SegNet(3, **segnet.PRESETS["tiny"]),
    "PSPNet": lambda: PSPNet(3, **pspnet.PRESETS["tiny"]),
    "DeepLabV1": lambda: DeepLabV1(3, **deeplab_v1.PRESETS["tiny"]),
    "DeepLabV2": lambda: DeepLabV2(3, backbone="tiny"),
    "DeepLabV3": lambda: DeepLabV3(3, backbone="tiny", multi_grid=None),
    "DeepLabV3Plus": lambda: DeepLabV3Plus(3, backbone="tiny", multi_grid=None),
    "ViT": lambda: ViT(3, **VIT),
    "ViTSegmenter": lambda: ViTSegmenter(3, **VIT),
    "SwinTransformer": lambda: SwinTransformer(**SWIN),
    "MixTransformer": lambda: MixTransformer(**MIT),
    "VGG16": lambda: VGG16(**vgg.PRESETS["tiny"]),
    "ResNet": lambda: ResNet(**resnet.PRESETS["tiny"]),
}
WEEKLY = {
    "FCN16s": lambda: FCN16s(3, **fcn.PRESETS["tiny"]),
    "FCN8s, paper": lambda: FCN8s(3, **{**fcn.PRESETS["tiny"], "padding": "paper"}),
    "PSPNet, auxiliary": lambda: BothOutputs(PSPNet(3, **pspnet.PRESETS["tiny"], auxiliary=True)),
    "DeepLabV2, multi-scale": lambda: DeepLabV2(3, backbone="tiny", multi_scale=True),
    "ViTSegmenter, progressive": lambda: ViTSegmenter(3, decoder="progressive", **VIT),
    "SwinTransformer, always shifted": lambda: SwinTransformer(**SWIN, always_shift=True),
    "SwinUPerNet": lambda: SwinUPerNet(3, **upernet.PRESETS["tiny"]),
    "SegFormer": lambda: SegFormer(3, **segformer.PRESETS["tiny"]),
}


class BothOutputs(nn.Module):
    """A model that is always asked for its auxiliary logits too."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images, auxiliary=True)


def headed(head: str, backbone: str = "resnet18", **options) -> nn.Module:
    """The factory's model of a head, on a small backbone."""
    return create_model({"backbone": backbone, "head": head, "num_classes": 3, **options})


for head in list_heads():
    quick = not head.startswith("smp:") and head != "extremely_fast_segformer" or head == "smp:unet"
    (QUICK if quick else WEEKLY)[head] = lambda head=head: headed(head)
WEEKLY["extremely_fast_segformer on mit-b0"] = lambda: headed("extremely_fast_segformer", "mit-b0")


def cases(quick, weekly):
    """Parameters for pytest: the quick names, and the others once a week."""
    return [*quick, *(pytest.param(name, marks=pytest.mark.weekly) for name in weekly if name not in quick)]


def built(name: str) -> nn.Module:
    """One of the models above, in evaluation mode; attention that starts at nothing is given something to add."""
    model = seeded({**QUICK, **WEEKLY}[name]).eval()
    for part in model.modules():
        if isinstance(getattr(part, "out", None), nn.Conv2d):
            nn.init.normal_(part.out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return model


def listed(outputs) -> list[torch.Tensor]:
    """One tensor or several, as a list."""
    return [outputs] if isinstance(outputs, torch.Tensor) else [torch.as_tensor(output) for output in outputs]


def assert_same(found, expected):
    """Equal shapes and, on the scale of the largest value, equal numbers to 1e-5."""
    found, expected = listed(found), listed(expected)
    assert [x.shape for x in found] == [x.shape for x in expected]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(1.0, wanted.abs().max().item()))


# -------------------------------------------------------------------------------------------------------- torch.export
@pytest.mark.parametrize("name", cases(QUICK, WEEKLY))
def test_an_exported_program_is_right_at_other_sizes(name):
    model, dynamic = built(name), torch.export.Dim.DYNAMIC
    example = images(2, 3, 160, 192)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)).module()
    for shape in ((1, 3, 163, 225), (3, 3, 131, 150)):
        with torch.no_grad():
            assert_same(program(images(*shape)), model(images(*shape)))


def test_an_exported_program_refuses_what_it_cannot_score():
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(built("FCN32s"), (images(2, 3, 96, 160),), dynamic_shapes=({2: dynamic, 3: dynamic},))
    for shape in ((2, 3, 31, 96), (2, 3, 32, 96), (1, 3, 96, 96)):  # too small; a map with a side of 1; a fixed batch
        with pytest.raises((AssertionError, RuntimeError), match="Guard failed|Expected input"):
            program.module()(images(*shape))


# ---------------------------------------------------------------------------------------------------------------- ONNX
@pytest.mark.parametrize(
    "name",
    cases(("PSPNet", "ViTSegmenter", "smp:unet"), ("FCN8s", "UNet", "SegNet", "SegFormer", "smp:upernet")),
)
def test_onnx_is_right_at_other_sizes(name, tmp_path):
    model = built(name)
    dynamic = ({0: "batch", 2: "height", 3: "width"},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (images(2, 3, 96, 160),), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 33, 47), (3, 3, 97, 165), (1, 3, 32, 32)):
        found = session.run(None, {session.get_inputs()[0].name: images(*shape).numpy()})
        with torch.no_grad():
            assert_same(found, model(images(*shape)))


# --------------------------------------------------------------------------------------------------- compiled, traced
COMPILED = ("FCN8s", "UNet", "SegNet", "PSPNet, auxiliary", "DeepLabV3Plus", "ViTSegmenter", "SwinTransformer",
            "MixTransformer", "aspp_ocnet", "smp:unet")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "eager") for name in COMPILED), pytest.param("UNet", "inductor", marks=pytest.mark.weekly)],
)
def test_a_compiled_model_is_one_graph_with_the_same_answers(name, backend):
    """Nothing in a model sends the compiler back to Python half-way; one that could not be a graph would be refused."""
    model = built(name)
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    with torch.no_grad():
        assert_same(compiled(images(2, 3, 96, 64)), model(images(2, 3, 96, 64)))
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["FCN8s", "UNet", "PSPNet", "ViTSegmenter", "smp:unet", "smp:deeplabv3plus", "uper"])
def test_a_trace_is_right_at_other_sizes(name):
    model = built(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, images(2, 3, 96, 64), check_trace=False)
    for shape in ((1, 3, 33, 47), (3, 3, 97, 165)):
        with torch.no_grad():
            assert_same(traced(images(*shape)), model(images(*shape)))


# ---------------------------------------------------------------------------------------------------------- several
class Joined(nn.Module):
    """A model whose loss is computed inside, on both outputs where it has two."""

    def __init__(self, model: nn.Module, auxiliary: bool):
        super().__init__()
        self.model, self.auxiliary = model, auxiliary

    def forward(self, batch, truth):
        outputs = self.model(batch, auxiliary=True) if self.auxiliary else self.model(batch)
        return sum(F.cross_entropy(logits, truth) for logits in listed(outputs))


def steps(network: nn.Module, share: slice) -> None:
    """Three steps of SGD on a share of the same batches; in evaluation mode, so that the statistics stay the same."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for step in range(3):
        truth = images(4, 64, 48, seed=step).gt(0).long()
        optimizer.zero_grad()
        network(images(4, 3, 64, 48, seed=10 + step)[share], truth[share]).backward()
        optimizer.step()


TRAINED = {
    "PSPNet": lambda auxiliary: PSPNet(3, **pspnet.PRESETS["tiny"], auxiliary=auxiliary),
    "segformer head": lambda auxiliary: headed("segformer", "mobilenetv2", auxiliary=auxiliary),
    "DeepLabV3": lambda auxiliary: DeepLabV3(3, backbone="tiny", multi_grid=None, auxiliary=auxiliary),
    "SwinUPerNet": lambda auxiliary: SwinUPerNet(3, **upernet.PRESETS["tiny"], auxiliary=auxiliary),
    **{head: lambda auxiliary, head=head: headed(head, auxiliary=auxiliary) for head in list_heads()},
}


def share_the_work(rank: int, names: list[str], folder: str) -> None:
    """One of two processes: trains each model with and without its auxiliary head and, as the first, saves it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in names:
        for auxiliary in (False, True):
            model = Joined(seeded(TRAINED[name], auxiliary), auxiliary).eval()
            steps(DistributedDataParallel(model, find_unused_parameters=False), slice(2 * rank, 2 * rank + 2))
            if rank == 0:
                torch.save(model.state_dict(), f"{folder}/{name.replace(':', ' ')} {auxiliary}")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "names",
    [
        ["PSPNet", "segformer head"],
        pytest.param([name for name in TRAINED if name not in ("PSPNet", "segformer head")], marks=pytest.mark.weekly),
    ],
    ids=["two", "others"],
)
def test_two_processes_learn_what_one_learns(names, tmp_path):
    """Every parameter takes part, with and without the auxiliary head; gradients are those of the whole batch."""
    torch.multiprocessing.spawn(share_the_work, (names, str(tmp_path)), nprocs=2)
    for name in names:
        for auxiliary in (False, True):
            model = Joined(seeded(TRAINED[name], auxiliary), auxiliary).eval()
            before = copy.deepcopy(model.state_dict())
            steps(model, slice(None))
            together = torch.load(tmp_path / f"{name.replace(':', ' ')} {auxiliary}", weights_only=True)
            for key, value in model.state_dict().items():
                torch.testing.assert_close(together[key], value, rtol=0, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
            assert any(not before[key].equal(value) for key, value in together.items())


def through_safetensors(model: nn.Module) -> nn.Module:
    """The model with its weights written and read by safetensors, which refuses tensors that share their memory."""
    again = copy.deepcopy(model)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    return again


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "safetensors": through_safetensors,
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_gives_the_same_answers(way):
    for name in QUICK:
        model = built(name)
        again = COPIES[way](model)
        with torch.no_grad():
            assert_same(again(images(1, 3, 40, 48)), model(images(1, 3, 40, 48)))
        places = [{parameter.data_ptr() for parameter in one.parameters()} for one in (model, again)]
        assert places[0].isdisjoint(places[1]), f"the copy of {name} shares its weights"
