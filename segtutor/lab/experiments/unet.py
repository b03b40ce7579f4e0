"""Chapter 04: U-Net in the running table, with its skips cut, and what the skips cost."""

import torch

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import paired_ratio, step_seconds
from segtutor.lab.protocols import membranes, real_data
from segtutor.lab.protocols.reference_speed import speed_row
from segtutor.lab.protocols.running_table import table_row
from segtutor.lab.protocols.skips import LEVELS, unet_skip_bytes
from segtutor.models.unet import PRESETS, UNet, double_conv


class Cut(UNet):
    """U-Net with zeros where the skips would arrive: every other number, and every parameter, as it was."""

    def bridge(self, skip, up):
        return super().bridge(torch.zeros_like(skip), up)


class Skipless(UNet):
    """U-Net without bridges, of equal width elsewhere: the first convolution after each reads half the channels."""

    def __init__(self, num_classes, *, padding="same", batch_norm=False, **options):
        super().__init__(num_classes, padding=padding, batch_norm=batch_norm, **options)
        for level in LEVELS:
            width = getattr(self, f"up{level}").out_channels
            stage = double_conv(width, width, padding=int(padding == "same"), batch_norm=batch_norm)
            setattr(self, f"expand{level}", stage)

    def contract(self, images):
        shapes = []
        for level in LEVELS:
            images = getattr(self, f"contract{level}")(images)
            shapes.append(images.new_empty(len(images), 0, *images.shape[2:]))  # what is left of a skip: its sides
            images = getattr(self, f"pool{level}")(images)
        return *shapes, self.dropout(self.bottom(images))

    def bridge(self, skip, up):
        return up if self.valid else up[:, :, : skip.shape[2], : skip.shape[3]]


table_row("unet", lambda num_classes: UNet(num_classes, **PRESETS["tiny"]))


# --------------------------------------------------------------------------------------------------------------- UNET-1


def _networks():
    from segtutor.models import FCN8s
    from segtutor.models.fcn import PRESETS as FCN_PRESETS

    return {
        "fcn8s": lambda: FCN8s(5, in_channels=1, **FCN_PRESETS["tiny"]),
        "cut": lambda: Cut(5, in_channels=1, **PRESETS["tiny"]),
        "unet": lambda: UNet(5, in_channels=1, **PRESETS["tiny"]),
    }


_NETS = "FCN-8s, U-Net with zeros in the skips' place and U-Net, tiny presets from random weights"


@experiment(
    "UNET-1/cells",
    claim="UNET-1",
    unit=membranes.UNITS,
    config={"size": [96, 96], "steps": 300, "thickness": 2},
    conditions=f"synthetic cells at 96x96 with membranes 2 pixels thick; {_NETS}, 300 steps of batch 8, AdamW at "
    "learning rate 2e-3, scored on 100 other images",
)
def cells(seed, quick, log):
    """FCN-8s, U-Net with its skips cut, and U-Net on thin synthetic membranes."""
    return membranes.compare(_networks(), membranes.synthetic_cells(seed, quick), seed, quick, log)


@experiment(
    "UNET-1/vnc",
    claim="UNET-1",
    unit=membranes.UNITS,
    config={"tile": 128, "steps": 300},
    conditions=f"Drosophila VNC in tiles of 128x128, 12 slices to train on and 4 others to score; {_NETS}, 300 steps "
    "of batch 8, AdamW at learning rate 2e-3",
)
def vnc(seed, quick, log):
    """FCN-8s, U-Net with its skips cut, and U-Net on real tissue."""
    return membranes.compare(_networks(), real_data.tissue(quick), seed, quick, log)


# --------------------------------------------------------------------------------------------------------------- UNET-2


@experiment(
    "UNET-2",
    claim="UNET-2",
    seeds=(0,),
    unit={
        "carried": "MiB",
        "held": "MiB",
        **{f"{name}/{what}": "MiB" for name in ("unet", "skipless") for what in ("kept", "peak", "peak_inference")},
        "unet/parameters": "parameters",
        "skipless/parameters": "parameters",
        "flops": "ratio",
        "step_time": "ratio",
    },
    config={"side": 572, "timed_side": 96, "timed_batch": 2},
    conditions="the paper's network (1 channel, 2 classes, no padding, 572x572, batch 1, float32) beside the same "
    "without bridges, all else of equal width; bytes and FLOPs counted; processor time of a training step at the same "
    "widths, padded, batch 2 at 96x96, one thread, 15 pairs in turns",
)
def cost(seed, quick, log):
    """What the skips cost: bytes, FLOPs and time of U-Net over those of the same net without them."""
    from segtutor import probe

    size, values, counted = (572, 572), {}, {}
    with torch.device("meta"):
        nets = {
            "unet": UNet(2, in_channels=1, padding="valid"),
            "skipless": Skipless(2, in_channels=1, padding="valid"),
        }
    values["carried"], values["held"] = (sum(part) / 2**20 for part in unet_skip_bytes(nets["unet"], size))
    for name, net in nets.items():
        counted[name] = probe.count_flops(net, size)
        values |= {
            f"{name}/parameters": probe.count_parameters(net),
            f"{name}/kept": probe.count_saved_bytes(net, size) / 2**20,
            f"{name}/peak": probe.count_peak_bytes(net, size) / 2**20,
            f"{name}/peak_inference": probe.count_peak_bytes(net, size, training=False) / 2**20,
        }
    values["flops"] = counted["unet"] / counted["skipless"]
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 1, 96, 96, generator=generator).contiguous(memory_format=torch.channels_last)
    target, steps = torch.zeros(2, 96, 96, dtype=torch.long), []
    for net in (UNet, Skipless):
        model = net(2, in_channels=1, dropout=0.0).to(memory_format=torch.channels_last)
        steps.append(step_seconds(model, images, target))
    values["step_time"] = paired_ratio(*steps, 2 if quick else 15)
    return values


# ------------------------------------------------------------------------------------- our U-Net beside the same layers


def torchvision_unet(num_classes):
    """A padded U-Net on torchvision's VGG layers: images (B, 3, H, W) to logits, H and W multiples of 16.

    Its parameters come in the order of ``segtutor.models.UNet``.
    """
    from torch import nn
    from torchvision.models import vgg

    def double(inputs, outputs):
        first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = vgg.make_layers([64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 1024, 1024])
            self.decoder = nn.ModuleList()
            for width in (512, 256, 128, 64):
                self.decoder.append(nn.ConvTranspose2d(2 * width, width, 2, 2))
                self.decoder.append(double(2 * width, width))
            self.classifier = nn.Conv2d(64, num_classes, 1)

        def forward(self, x):
            skips = []
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    skips.append(x)
                x = layer(x)
            for up, convolve in zip(self.decoder[::2], self.decoder[1::2], strict=True):
                x = convolve(torch.cat([skips.pop(), up(x)], dim=1))
            return self.classifier(x)

    return Reference()


speed_row(
    "unet",
    lambda num_classes: UNet(num_classes, dropout=0.0),
    torchvision_unet,
    "U-Net at the paper's widths, padded, no dropout",
)
