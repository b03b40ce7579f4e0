"""Chapter 05: SegNet in the running table, and what its indices save and cost beside the maps that they replace."""

import torch
import torch.nn.functional as F
from torch import nn

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import forward_seconds, paired_ratio, step_seconds
from segtutor.lab.protocols import membranes, real_data
from segtutor.lab.protocols.reference_speed import speed_row
from segtutor.lab.protocols.running_table import table_row
from segtutor.lab.protocols.skips import unet_skip_bytes
from segtutor.layers import resize
from segtutor.models.segnet import PRESETS, SegNet

STAGES = (1, 2, 3, 4, 5)
SIZE = (360, 480)  # of the paper's CamVid images


class Upsampled(SegNet):
    """SegNet without its indices: each decoder stage receives the map below it, resized, and nothing else."""

    def across(self, x, skip):
        return resize(x, skip)

    def carry(self, skip):
        return skip.shape[2:]

    def forward(self, images):
        x, skips = images, []
        for stage in self.encoder.children():
            x = stage(x)
            skips.append(self.carry(x))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        for stage in self.decoder:
            x = self.across(x, skips.pop())  # bound before the stage runs, so that the smaller map is gone by then
            x = stage(x)
        return x


class Added(Upsampled):
    """SegNet with the encoder's maps in place of its indices, added to the resized ones: the same parameters."""

    def across(self, x, skip):
        return resize(x, skip.shape[2:]).add_(skip)  # in place: a third map of that size would only raise the peak

    def carry(self, skip):
        return skip


class Concatenated(Added):
    """SegNet with the encoder's maps in place of its indices, side by side with the resized ones as in U-Net."""

    def __init__(self, num_classes, **options):
        super().__init__(num_classes, **options)
        for stage in self.decoder:
            first = stage[0]
            stage[0] = nn.Conv2d(2 * first.in_channels, first.out_channels, 3, padding=1)
            nn.init.kaiming_normal_(stage[0].weight, nonlinearity="relu")
            nn.init.zeros_(stage[0].bias)

    def across(self, x, skip):
        return torch.cat([skip, resize(x, skip.shape[2:])], dim=1)


def _networks(num_classes, width=64, **options):
    """SegNet, the same network with other things sent across, and U-Net of equal width at the four levels of both."""
    from segtutor.models import UNet

    widths = tuple(width * factor for factor in (1, 2, 4, 8, 8))
    kinds = {"segnet": SegNet, "upsampled": Upsampled, "added": Added, "concatenated": Concatenated}
    built = {name: net(num_classes, widths=widths, **options) for name, net in kinds.items()}
    return built | {"unet": UNet(num_classes, base=width, batch_norm=True, dropout=0.0, **options)}


table_row("segnet", lambda num_classes: SegNet(num_classes, **PRESETS["tiny"]))


# ---------------------------------------------------------------------------------------------------------------- SEG-1


def carried_bytes(model, size):
    """Bytes that cross from encoder to decoder for one image of a SegNet, by what they are carried as.

    Returns:
        dict: ``maps`` (float32, before pooling), ``int64`` (indices as torch stores them), ``two_bits``.
    """
    from segtutor import probe

    shapes = [r.out_shape for r in probe.shape_trace(model, size, names=[f"encoder.stage{s}" for s in STAGES])]
    places = sum(channels * height * width for _, channels, height, width in shapes)
    windows = sum(channels * -(-height // 2) * -(-width // 2) for _, channels, height, width in shapes)
    return {"maps": 4 * places, "int64": 8 * windows, "two_bits": windows / 4}


@experiment(
    "SEG-1/memory",
    claim="SEG-1",
    seeds=(0,),
    unit={
        **{name: "MiB" for name in ("maps", "int64", "two_bits", "unet_maps", "kept", "peak", "peak_inference")},
        "parameters": "parameters",
        "flops": "FLOPs",
    },
    config={"size": list(SIZE), "classes": 11},
    conditions="11 classes, batch 1 at 360x480, float32, the paper's widths, counted: what crosses, what a training "
    "step keeps from forward for backward, and the most that a training step and an inference hold at once beside the "
    "weights; U-Net has 64 channels at its first level and batch normalisation",
)
def memory(seed, quick, log):
    """Bytes sent across, kept and at the peak: SegNet, the same network that sends maps across, and U-Net."""
    from segtutor import probe

    with torch.device("meta"):
        nets = _networks(11)
    values = {name: count / 2**20 for name, count in carried_bytes(nets["segnet"], SIZE).items()}
    values["unet_maps"] = sum(unet_skip_bytes(nets["unet"], SIZE)[0]) / 2**20
    for name, net in nets.items():
        values |= {
            f"{name}/parameters": probe.count_parameters(net),
            f"{name}/flops": probe.count_flops(net, SIZE),
            f"{name}/kept": probe.count_saved_bytes(net, SIZE) / 2**20,
            f"{name}/peak": probe.count_peak_bytes(net, SIZE) / 2**20,
            f"{name}/peak_inference": probe.count_peak_bytes(net, SIZE, training=False) / 2**20,
        }
    return values


@experiment(
    "SEG-1/time",
    claim="SEG-1",
    seeds=(0,),
    unit="ratio",
    config={"side": [96, 128], "batch": 1},
    conditions="time of a step of SegNet over that of the other net, the paper's widths, batch 1 at 96x128, fp32, "
    "channels last, 15 pairs in turns after 2 warm-up pairs in one process, processor time of one thread, median and "
    "quartiles",
)
def step_time(seed, quick, log):
    """A training step and an inference of SegNet over those of the networks that send maps across."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(1, 3, 96, 128, generator=generator).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(1, 96, 128, dtype=torch.long)
    nets = {name: net.to(memory_format=torch.channels_last) for name, net in _networks(11).items()}

    values, pairs = {}, 2 if quick else 15
    for name in ("added", "concatenated", "unet"):
        pair = nets["segnet"], nets[name]
        training = (step_seconds(net.train(), images, target) for net in pair)
        values[f"training/{name}"] = paired_ratio(*training, pairs)
        values[f"inference/{name}"] = paired_ratio(*(forward_seconds(net, images) for net in pair), pairs)
        log(f"{name}: training {values[f'training/{name}'].value:.3f}")
    return values


# ---------------------------------------------------------------------------------------------------------------- SEG-2


def _compare(names, data, seed, quick, log):
    builds = {name: lambda name=name: _networks(5, width=8, in_channels=1)[name] for name in names}
    return membranes.compare(builds, data, seed, quick, log)


@experiment(
    "SEG-2/cells",
    claim="SEG-2",
    unit=membranes.UNITS,
    config={"size": [96, 96], "steps": 300, "thickness": 2, "width": 8},
    conditions="synthetic cells at 96x96 with membranes 2 pixels thick; SegNet, the same net with nothing, added "
    "maps or concatenated maps crossing, and U-Net, 8 channels at first, from random weights, 300 steps of batch 8, "
    "AdamW at learning rate 2e-3, scored on 100 other images",
)
def cells(seed, quick, log):
    """Borders of SegNet and of networks that send maps across on thin synthetic membranes."""
    names = ("segnet", "upsampled", "added", "concatenated", "unet")
    return _compare(names, membranes.synthetic_cells(seed, quick), seed, quick, log)


@experiment(
    "SEG-2/vnc",
    claim="SEG-2",
    unit=membranes.UNITS,
    config={"tile": 128, "steps": 300, "width": 8},
    conditions="Drosophila VNC in tiles of 128x128, 12 slices to train on and 4 others to score; SegNet, the same net "
    "with concatenated maps crossing, and U-Net, 8 channels at first, from random weights, 300 steps of batch 8, AdamW "
    "at learning rate 2e-3",
)
def vnc(seed, quick, log):
    """Borders of SegNet and of networks that send maps across on real tissue."""
    return _compare(("segnet", "concatenated", "unet"), real_data.tissue(quick), seed, quick, log)


# ---------------------------------------------------------------------------------------------------------------- SEG-3


@experiment(
    "SEG-3",
    claim="SEG-3",
    seeds=(0,),
    unit={"dense_share": "share of parameters", "times": "ratio", **dict.fromkeys(("encoder", "vgg16"), "parameters")},
    conditions="SegNet's encoder as built here, with biases and batch normalisation, and torchvision's VGG-16 with "
    "batch normalisation and its three dense layers for 1,000 classes; parameters counted",
)
def parameters(seed, quick, log):
    """Parameters of SegNet's encoder and of the classifier that it was cut from."""
    from torchvision.models import vgg16_bn

    from segtutor.probe import count_parameters

    with torch.device("meta"):
        encoder, classifier = SegNet(11).encoder, vgg16_bn(weights=None, init_weights=False)
    whole, dense = count_parameters(classifier), count_parameters(classifier.classifier)
    kept = count_parameters(encoder)
    return {"encoder": kept, "vgg16": whole, "dense_share": dense / whole, "times": whole / kept}


# ------------------------------------------------------------------------------------ our SegNet beside the same layers


def torchvision_segnet(num_classes):
    """SegNet on torchvision's VGG-16 layers and torch's unpooling modules: images (B, 3, H, W) to logits.

    Its parameters come in the order of ``segtutor.models.SegNet``.
    """
    from torchvision.models import vgg

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
            for place, layer in enumerate(self.features):
                if isinstance(layer, nn.MaxPool2d):
                    self.features[place] = nn.MaxPool2d(2, 2, ceil_mode=True, return_indices=True)
            plan = [512, 512, 512, "U", 512, 512, 256, "U", 256, 256, 128, "U", 128, 64, "U", 64]
            self.decoder, previous = nn.ModuleList([nn.MaxUnpool2d(2)]), 512
            for width in plan:
                if width == "U":
                    self.decoder.append(nn.MaxUnpool2d(2))
                    continue
                convolution = nn.Conv2d(previous, width, 3, padding=1)
                self.decoder.extend([convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
                previous = width
            self.score = nn.Conv2d(64, num_classes, 3, padding=1)

        def forward(self, x):
            stack = []
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    size = x.shape[2:]
                    x, indices = layer(x)
                    stack.append((indices, size))
                else:
                    x = layer(x)
            for layer in self.decoder:
                if isinstance(layer, nn.MaxUnpool2d):
                    indices, size = stack.pop()
                    x = layer(x, indices, output_size=size)
                else:
                    x = layer(x)
            return self.score(x)

    return Reference()


speed_row("segnet", SegNet, torchvision_segnet, "SegNet at the paper's widths")
