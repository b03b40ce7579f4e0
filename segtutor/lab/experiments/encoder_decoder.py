"""Chapter 02: one small experiment for each of the five reasons for an encoder and a decoder."""

import statistics

import torch
from torch import nn
from torch.nn import functional as F

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import in_turns, step_seconds
from segtutor.lab.protocols.discs import Discs
from segtutor.layers import conv_norm_relu, resize

SIZE, LR, WIDTHS = (64, 64), 4e-3, (16, 24, 32, 48)


class Small(nn.Module):
    """Four 3x3 convolutions and a 1x1 classifier; the same parameters whatever ``shape`` is.

    Args:
        num_classes: Classes to score.
        shape: "pooled" halves the map before each convolution but the first (receptive field 46 pixels, upsampling
            included), "dilated" spaces the taps 1, 2, 4, 8 instead (31 pixels), "local" does neither (9 pixels).
        skips: Adds the scores of the finer stages on the way up, as FCN does: 1x1 convolutions on stages 1 to 3.
    """

    def __init__(self, num_classes, shape="pooled", *, skips=False):
        super().__init__()
        dilations = (1, 2, 4, 8) if shape == "dilated" else (1, 1, 1, 1)
        channels = (3, *WIDTHS)
        self.stages = nn.ModuleList(
            conv_norm_relu(channels[i], channels[i + 1], dilation=dilations[i]) for i in range(4)
        )
        self.pooled = shape == "pooled"
        self.scores = nn.ModuleList(nn.Conv2d(w, num_classes, 1) for w in (WIDTHS if skips else WIDTHS[-1:]))

    def features(self, x):
        """images (B, 3, H, W) to the four stages' maps, at strides 1, 2, 4, 8 when pooled, else 1."""
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if self.pooled and i else x)
            maps.append(x)
        return maps

    def forward(self, images):
        """images (B, 3, H, W) to logits (B, num_classes, H, W)."""
        maps = self.features(images)
        z = self.scores[-1](maps[-1])
        for score, finer in zip(reversed(self.scores[:-1]), reversed(maps[:-1]), strict=False):
            z = resize(z, finer.shape[2:]) + score(finer)
        return resize(z, images.shape[2:])


def _scenes(length, seed, size=SIZE, **knobs):
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import eval_transform

    return SyntheticScenes(size=size, length=length, seed=seed, transform=eval_transform(SyntheticScenes.spec), **knobs)


def _train(model, dataset, steps, seed, log):
    from segtutor.training import fit

    log(str(fit(model, dataset, steps=steps, batch_size=8, lr=LR, seed=seed, precision="fp32")))
    return model


def _built(num_classes, seed, *args, **options):
    torch.manual_seed(seed)
    return Small(num_classes, *args, **options)


# ----------------------------------------------------------------------------------------------------------------- ED-1


def linear_probe(model, train, test, stage, images=60):
    """How well a linear map of a stage's features predicts the class, fitted by least squares.

    Returns:
        ConfusionMatrix: Over the test images, with a boundary band of 3 pixels.
    """
    from segtutor.metrics import ConfusionMatrix

    def features(image):
        x = resize(model.features(image[None])[stage], image.shape[1:])  # (1, D, H, W)
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)[0].flatten(1).T.double()  # (H W, D + 1)

    classes = train.spec.num_classes
    with torch.inference_mode():
        gram = moment = 0
        for i in range(images):
            image, label = train[i]
            x, y = features(image), F.one_hot(label.flatten(), classes).double()
            gram, moment = gram + x.T @ x, moment + x.T @ y
        weights = torch.linalg.solve(gram + 1e-3 * torch.eye(len(gram), dtype=gram.dtype), moment)
        confusion = ConfusionMatrix(classes, boundary_width=3)
        for i in range(images):
            image, label = test[i]
            confusion.update((features(image) @ weights).argmax(dim=1).view(1, *label.shape), label[None])
    return confusion


@experiment(
    "ED-1",
    claim="ED-1",
    unit="IoU",
    config={"size": list(SIZE), "steps": 300},
    conditions="synthetic scenes at 64x64, four stages trained 300 steps of batch 8 with skips, then a linear map from "
    "each stage's features (resized to the image) to the classes, fitted on 60 images and scored on 60 others; inside: "
    "pixels farther than 3 from a border, border: the others",
)
def hierarchy(seed, quick, log):
    """How well a linear map predicts the classes from each stage of an encoder, inside regions and at borders."""
    train, test = _scenes(2400, 100 + seed), _scenes(60, 7)
    model = _train(_built(11, seed, skips=True), train, 5 if quick else 300, seed, log).eval()
    values = {}
    for stage in range(4):
        confusion = linear_probe(model, train, test, stage, images=8 if quick else 60)
        inside = type(confusion)(11)
        inside.matrix += confusion.matrix - confusion.boundary_matrix
        values[f"stage{stage + 1}/inside"], values[f"stage{stage + 1}/border"] = inside.miou, confusion.boundary_miou
    return values


# ----------------------------------------------------------------------------------------------------------------- ED-2


@experiment(
    "ED-2",
    claim="ED-2",
    unit="share of disc pixels",
    config={"size": list(SIZE), "steps": 200, "distance": 5},
    conditions="synthetic scenes at 64x64; a grey disc is a sign or a fence by the colour of a light 5 pixels from its "
    "edge, each scene with both lights, so that chance is 0.5; four convolutions of equal parameters, receptive field "
    "9 (local), 46 (pooled) and 31 pixels (dilated); 200 steps of batch 8",
)
def context(seed, quick, log):
    """Accuracy on discs whose class depends on their surroundings alone."""
    from segtutor.training import evaluate

    train, test, values = Discs(800, 200 + seed, 5, SIZE), Discs(8 if quick else 75, 7, 5, SIZE), {}
    for shape in ("local", "pooled", "dilated"):
        model = _train(_built(2, seed, shape), train, 5 if quick else 200, seed, log)
        values[shape] = evaluate(model, test, boundary_width=None).pixel_accuracy
    return values


# ----------------------------------------------------------------------------------------------------------------- ED-3


@experiment(
    "ED-3",
    claim="ED-3",
    unit={"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border"},
    config={"size": list(SIZE), "steps": 300},
    conditions="synthetic scenes at 64x64, the same pooled encoder with plain upsampling and with a decoder that adds "
    "the finer stages' scores, 300 steps of batch 8, scored on 150 other scenes",
)
def decoder(seed, quick, log):
    """The same encoder with and without a decoder that sees the finer stages."""
    from segtutor.training import evaluate

    train, test, values = _scenes(2400, 300 + seed), _scenes(16 if quick else 150, 7), {}
    for name, skips in (("upsampling", False), ("decoder", True)):
        scores = evaluate(_train(_built(11, seed, skips=skips), train, 5 if quick else 300, seed, log), test)
        values |= {f"{name}/miou": scores.miou, f"{name}/boundary_miou": scores.boundary_miou}
    return values


# ----------------------------------------------------------------------------------------------------------------- ED-4


@experiment(
    "ED-4",
    claim="ED-4",
    seeds=(0,),
    unit="ratio",
    conditions="four convolutions of equal parameters dilated at full resolution (receptive field 31 pixels) over "
    "pooled (46 pixels): FLOPs of the forward pass, bytes kept for the backward pass, processor time of a training "
    "step; batch 8 at 64x64, one thread, the two measured in turns",
)
def cost(seed, quick, log):
    """What the same convolutions cost at full resolution and behind pooling."""
    from segtutor import probe

    models = {shape: _built(11, seed, shape) for shape in ("dilated", "pooled")}
    images, target = torch.rand(8, 3, *SIZE), torch.zeros(8, *SIZE, dtype=torch.long)
    images = images.contiguous(memory_format=torch.channels_last)
    for model in models.values():
        model.to(memory_format=torch.channels_last)
    steps = {shape: step_seconds(model, images, target) for shape, model in models.items()}
    times = in_turns(steps, 1 if quick else 10)
    flops, kept = (
        {shape: count(model, (8, 3, *SIZE)) for shape, model in models.items()}
        for count in (probe.count_flops, probe.count_saved_bytes)
    )
    seconds = {shape: statistics.median(values) for shape, values in times.items()}
    ratios = zip(("flops", "kept_memory", "step_time"), (flops, kept, seconds), strict=True)
    return {name: values["dilated"] / values["pooled"] for name, values in ratios}


# ----------------------------------------------------------------------------------------------------------------- ED-5


@experiment(
    "ED-5",
    claim="ED-5",
    unit="mIoU",
    config={"size": list(SIZE), "steps": 150},
    conditions="synthetic scenes at 64x64, equal parameters, pooled (receptive field 46 pixels) against dilated "
    "at full resolution (31 pixels), both without skips, trained 150 steps of batch 8 and scored on 100 other scenes, "
    "at noise of standard deviation 0 and 0.3 (images in 0..1) in training and test alike",
)
def noise(seed, quick, log):
    """How much noise costs a net that pools and one that keeps full resolution."""
    from segtutor.training import evaluate

    values = {}
    for level in (0.0, 0.3):
        train, test = _scenes(1200, 400 + seed, noise=level), _scenes(16 if quick else 100, 7, noise=level)
        for shape in ("pooled", "dilated"):
            model = _train(_built(11, seed, shape), train, 5 if quick else 150, seed, log)
            values[f"{shape}/noise{level:g}"] = evaluate(model, test, boundary_width=None).miou
    return values
