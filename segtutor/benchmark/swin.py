"""Chapter 11: the row of Swin with UPerNet in the running table, and both beside torchvision and transformers."""

import statistics
from copy import deepcopy

from segtutor.benchmark import Measurement, experiment, protocol
from segtutor.benchmark.speed import forward_seconds, in_turns, quartiles, step_seconds


def _tiny(num_classes):
    from segtutor.models import SwinUPerNet
    from segtutor.models.upernet import PRESETS

    return SwinUPerNet(num_classes, **PRESETS["tiny"])


protocol.table_row("swin_upernet", _tiny)


# ---------------------------------------------------------------------------------------------------------------- speed


def torchvision_swin():
    """torchvision's Swin-T without stochastic depth: images (B, 3, H, W) to its last map (B, 768, h, w)."""
    from torch import nn
    from torchvision.models.swin_transformer import SwinTransformer

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            depths, heads = [2, 2, 6, 2], [3, 6, 12, 24]
            self.network = SwinTransformer([4, 4], 96, depths, heads, [7, 7], stochastic_depth_prob=0.0)

        def forward(self, images):
            return self.network.features(images).permute(0, 3, 1, 2)

    return Reference()


def transformers_upernet(num_classes):
    """transformers' UPerNet on Swin-T without stochastic depth: images (B, 3, H, W) to logits."""
    from torch import nn
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = UperNetConfig(
        backbone_config=SwinConfig(depths=[2, 2, 6, 2], out_features=stages, drop_path_rate=0.0),
        num_labels=num_classes,
        use_auxiliary_head=False,
    )

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = UperNetForSemanticSegmentation(config)

        def forward(self, images):
            return self.network(images).logits

    return Reference()


def trunks():
    """Our Swin-T, its last map alone, and torchvision's with the same weights."""
    from torch import nn

    from segtutor.models import SwinTransformer
    from segtutor.weights import transplant

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = SwinTransformer(drop_path=0.0)

        def forward(self, images):
            return self.network(images)[-1]

    ours, theirs = Last(), torchvision_swin()
    transplant(theirs.network, ours.network)
    return ours, theirs


def networks():
    """Our Swin-T with UPerNet and transformers' with the same weights."""
    from segtutor.models import SwinUPerNet
    from segtutor.weights import transplant

    ours, theirs = SwinUPerNet(CLASSES, drop_path=0.0, dropout=0.0), transformers_upernet(CLASSES)
    transplant(theirs.network, ours)
    return ours, theirs


def faster_formats(models, timer, images, target):
    """For each model the memory format in which the second of two runs is faster, by a small image."""
    import torch

    best = {}
    for name, model in models.items():
        seconds = {}
        for layout in (torch.contiguous_format, torch.channels_last):
            once = timer(deepcopy(model).to(memory_format=layout), images.to(memory_format=layout), target)
            once()
            seconds[layout] = once()
        best[name] = min(seconds, key=seconds.get)
    return best


def frozen(model):
    """The model in training mode, its batch normalisation at the running statistics.

    One image has one value per channel in the pyramid's coarsest bin, of which transformers' takes no statistics.
    """
    from torch import nn

    for layer in model.train().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    return model


TIMERS = {
    "forward": lambda model, images, target: forward_seconds(model, images),
    "step": lambda model, images, target: step_seconds(frozen(model), images, target),
}


def beside(build, name, stride, sizes, seed, quick, log):
    """Time and memory of our network over a reference's, forward and with the backward pass, at several sizes.

    Args:
        build: makes both, with the same weights.
        name: of the reference, in the rows.
        stride: of what they return.
        sizes: side of the image to (rounds of the forward pass, rounds with the backward pass; 0 leaves it out).
        seed: of weights and images.
        quick: one round, at 64 pixels alone.
        log: prints a progress line.
    """
    import torch

    from segtutor import probe

    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = dict(zip(("segtutor", name), (model.to(device) for model in build()), strict=True))
    x, values = torch.randn(1, 3, 256, 288, device=device), {}
    with torch.inference_mode():  # a ratio means nothing if the two do not compute the same
        first, second = (model.eval()(x) for model in models.values())
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    small = 128 // stride
    formats = faster_formats(models, TIMERS["step"], x[..., :128, :128], x[:, 0, :small, :small].argsort(1) % CLASSES)
    log(f"formats: {formats}")
    for side, rounds in sizes.items() if not quick else [(64, (1, 1))]:
        images = torch.randn(1, 3, side, side, device=device)
        target = torch.randint(0, CLASSES, (1, -(-side // stride), -(-side // stride)), device=device)
        for (kind, timer), count in zip(TIMERS.items(), rounds, strict=True):
            peaks = [
                probe.count_peak_bytes(model, (side, side), batch=2, training=kind == "step")
                for model in models.values()
            ]
            values[f"{side}/{kind}_memory"] = peaks[0] / peaks[1]
            if count == 0:
                continue
            runs = {
                key: timer(deepcopy(model).to(memory_format=layout), images.to(memory_format=layout), target)
                for (key, model), layout in zip(models.items(), formats.values(), strict=True)
            }
            seconds = in_turns(runs, count, warmup=1)
            ratios = [mine / other for mine, other in zip(*seconds.values(), strict=True)]
            values[f"{side}/{kind}"] = Measurement(statistics.median(ratios), quartiles(ratios))
            for key, times in seconds.items():
                values[f"{side}/{kind}_ms_{key}"] = 1000 * statistics.median(times)
            log(f"{side} {kind}: {values[f'{side}/{kind}']}, memory {values[f'{side}/{kind}_memory']:.3f}")
    return values


CLASSES = 19
TRUNK_SIZES = {224: (7, 7), 256: (7, 7), 512: (3, 3)}
# At 1024 pixels a run takes the best part of a minute: memory alone, which is counted.
NETWORK_SIZES = {256: (5, 3), 512: (3, 1), 1024: (0, 0)}
_SAME = (
    "no dropout and no stochastic depth, batch 1, fp32, each side at the memory format that is faster at 128 pixels; "
    "forward: in evaluation mode; step: forward, cross-entropy and backward, batch normalisation at its running "
    "statistics; processor time where one thread runs, in turns in one process after a round to warm up, median and "
    "quartiles of the ratios; memory: most bytes alive at once beside the weights, counted at batch 2, attention as a "
    "CPU runs it: fused in the forward pass, its weights written out where the position biases learn"
)


def _units(name):
    times = {f"{kind}_ms_{side}": "ms" for kind in TIMERS for side in ("segtutor", name)}
    return {**dict.fromkeys(("forward", "step", "forward_memory", "step_memory"), "ratio"), **times}


@experiment(
    "speed/swin",
    seeds=(0,),
    device="auto",
    unit=_units("torchvision"),
    config={"sizes": {str(side): list(rounds) for side, rounds in TRUNK_SIZES.items()}},
    conditions=f"Swin-T over torchvision's with the same weights, {_SAME}",
)
def trunk(seed, quick, log):
    """Swin-T beside torchvision's: at 224 pixels every map divides into windows, at 256 and 512 none does."""
    return beside(trunks, "torchvision", 32, TRUNK_SIZES, seed, quick, log)


@experiment(
    "speed/swin_upernet",
    seeds=(0,),
    device="auto",
    unit=_units("transformers"),
    config={"classes": CLASSES, "sizes": {str(side): list(rounds) for side, rounds in NETWORK_SIZES.items()}},
    conditions=f"Swin-T with UPerNet over transformers' with the same weights, 19 classes, {_SAME}",
)
def network(seed, quick, log):
    """Swin-T with UPerNet beside transformers'."""
    return beside(networks, "transformers", 1, NETWORK_SIZES, seed, quick, log)
