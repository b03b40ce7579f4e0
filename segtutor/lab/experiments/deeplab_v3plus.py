"""Chapter 09: v3+ in the running table, its borders against v3's, and what separable convolution saves and costs."""

import torch

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import paired_ratio, seconds_of, step_seconds
from segtutor.lab.protocols import crf, running_table
from segtutor.lab.protocols.networks import deeplab_v3_at_stride_16


def _tiny(num_classes, **options):
    from segtutor.models import DeepLabV3Plus
    from segtutor.models.deeplab_v3plus import PRESETS

    return DeepLabV3Plus(num_classes, **{**PRESETS["tiny"], **options})


def _separable(num_classes):
    return _tiny(num_classes, separable=True)


running_table.table_row("deeplab_v3plus", _tiny)


# ----------------------------------------------------------------------------------------------------------------- DL-5

WIDTHS = (1, 2, 3, 5, 8)  # pixels on either side of a true border


def trimap(model, test):
    """mIoU within bands of several widths around the true borders, and over all pixels."""
    from segtutor.metrics import ConfusionMatrix

    classes = model.classifier.out_channels if hasattr(model, "classifier") else model.head.classifier.out_channels
    matrices = {width: ConfusionMatrix(classes, boundary_width=width) for width in WIDTHS}
    with torch.inference_mode():
        for image, label in test:
            predicted = model(image[None]).argmax(dim=1)
            for matrix in matrices.values():
                matrix.update(predicted, label[None])
    bands = {f"band{width}": matrix.boundary_miou for width, matrix in matrices.items()}
    return bands | {"miou": matrices[WIDTHS[0]].miou}


@experiment(
    "DL-5",
    claim="DL-5",
    unit={"miou": "mIoU", **{f"band{width}": f"mIoU within {width} pixels of a border" for width in WIDTHS}},
    config={**running_table.CONFIG, "widths": list(WIDTHS)},
    conditions=f"{running_table.TRAINED}; DeepLab v3 and v3+ with the same backbone and ASPP, both at output stride 16",
)
def borders(seed, quick, log):
    """Scores in bands of several widths around the borders, without the decoder and with it."""
    values = {}
    for name, build in (("v3", deeplab_v3_at_stride_16), ("v3plus", _tiny)):
        values |= {
            f"{name}/{band}": value for band, value in trimap(*running_table.trained(build, seed, quick)).items()
        }
        log(f"{name}: {values[f'{name}/band3']:.3f}")
    return values


# ----------------------------------------------------------------------------------------------------------------- DL-2


@experiment("DL-2/deeplab_v3plus", claim="DL-2", unit=crf.UNITS, config=crf.CONFIG, conditions=crf.CONDITIONS)
def crf_after_v3plus(seed, quick, log):
    """Scores of DeepLab v3+ on scenes, before the CRF and after it."""
    return crf.with_and_without_crf(_tiny, seed, quick, log)


# ----------------------------------------------------------------------------------------------------------------- DL-4


@experiment(
    "DL-4/cost",
    claim="DL-4",
    seeds=(0,),
    unit={"parameters": "ratio", "flops": "ratio", "head_flops": "ratio", "head_time": "ratio", "step_time": "ratio"},
    conditions="DeepLab v3+ with ResNet-50, 21 classes, separable over dense: parameters, FLOPs at 513x513 of the "
    "whole and of ASPP and decoder alone; processor time of a training step of the tiny presets (batch 8 at 96x128) "
    "and of the forward pass of ASPP and decoder at the paper's widths (one image of 192x256), one thread, channels "
    "last, in turns, median and quartiles",
)
def separable_cost(seed, quick, log):
    """What separable convolutions save: counted, and timed."""
    from segtutor import probe
    from segtutor.models import DeepLabV3Plus, ResNet

    with torch.device("meta"):
        dense, separable = (DeepLabV3Plus(21, separable=chosen) for chosen in (False, True))
        backbone = ResNet(50, output_stride=16)
    parameters = [probe.count_parameters(model) for model in (separable, dense)]
    flops = [probe.count_flops(model, (513, 513)) for model in (separable, dense)]
    rest = probe.count_flops(backbone, (513, 513))
    torch.manual_seed(seed)
    images = torch.rand(8, 3, *running_table.CROP).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(8, *running_table.CROP, dtype=torch.long)
    nets = [build(11).train().to(memory_format=torch.channels_last) for build in (_separable, _tiny)]
    steps = [step_seconds(net, images, target) for net in nets]
    maps = [torch.rand(1, channels, 192 // stride, 256 // stride) for channels, stride in ((2048, 16), (256, 4))]
    maps = [map_.contiguous(memory_format=torch.channels_last) for map_ in maps]

    def head_seconds(chosen):
        from segtutor.layers import conv_norm_relu
        from segtutor.models.deeplab_v3 import ASPP
        from segtutor.models.deeplab_v3plus import Decoder, separable_conv_norm_relu

        convolution = separable_conv_norm_relu if chosen else conv_norm_relu
        parts = (ASPP(2048, convolution=convolution), Decoder(256, 256, 48, convolution))
        aspp, decoder = (part.eval().to(memory_format=torch.channels_last) for part in parts)

        @torch.inference_mode()
        def forward():
            decoder(aspp(maps[0]), maps[1])

        return seconds_of(forward)

    pairs = 2 if quick else 11
    values = {
        "parameters": parameters[0] / parameters[1],
        "flops": flops[0] / flops[1],
        "head_flops": (flops[0] - rest) / (flops[1] - rest),
        "head_time": paired_ratio(head_seconds(True), head_seconds(False), pairs),
    }
    log(f"{values}")
    return values | {"step_time": paired_ratio(*steps, pairs)}


@experiment(
    "DL-4",
    claim="DL-4",
    unit={"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border"},
    config=running_table.CONFIG,
    conditions=f"{running_table.TRAINED}; DeepLab v3+ with dense and with separable convolutions in ASPP and decoder",
)
def separable_score(seed, quick, log):
    """Scores of v3+ with dense and with separable convolutions."""
    from segtutor.training import evaluate

    values = {}
    for name, build in (("dense", _tiny), ("separable", _separable)):
        model, test = running_table.trained(build, seed, quick)
        scores = evaluate(model, test)
        log(f"{name}: {scores.miou:.3f}")
        values |= {f"{name}/miou": scores.miou, f"{name}/boundary_miou": scores.boundary_miou}
    return values


# ----------------------------------------------------------------------------------------------------------------- DL-6


@experiment(
    "DL-6",
    claim="DL-6",
    seeds=(0,),
    unit="depthwise convolutions",
    conditions="convolutions with one filter per channel, counted in the networks as published (v3+: its separable "
    "variant, on ResNet-50)",
)
def depthwise_convolutions(seed, quick, log):
    """How many depthwise convolutions v2, v3 and v3+ have."""
    from torch import nn

    from segtutor import models

    with torch.device("meta"):
        nets = {
            "v2": models.DeepLabV2(21),
            "v3": models.DeepLabV3(21),
            "v3plus": models.DeepLabV3Plus(21, separable=True),
        }
    return {
        name: sum(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in net.modules())
        for name, net in nets.items()
    }
