"""Chapter 06: its row of the running table, what pyramid pooling sees, what it costs, and what the second loss does."""

import statistics

import torch
from torch import nn

from segtutor.lab.harness import BenchmarkError, experiment
from segtutor.lab.harness.stopwatch import paired_ratio, step_seconds
from segtutor.lab.protocols import running_table
from segtutor.lab.protocols.discs import Discs
from segtutor.lab.protocols.reference_speed import speed_row

PYRAMID = (1, 2, 3, 6)


def _tiny(num_classes, **options):
    from segtutor.models import PSPNet
    from segtutor.models.pspnet import PRESETS

    return PSPNet(num_classes, **{**PRESETS["tiny"], **options})


running_table.table_row("pspnet", _tiny)


# ---------------------------------------------------------------------------------------------------------------- PSP-1

SIZE, DISTANCE, SCENES, STEPS, LONG = (96, 128), 72, 250, 300, 600


def short(num_classes, bins, widths=(16, 32, 32, 32)):
    """PSPNet whose backbone ends with conv3_x: stride 8 already, and without a pyramid a field of 123 pixels."""
    from segtutor.models import PSPNet

    model = PSPNet(num_classes, depth=18, widths=widths, bins=bins)
    model.backbone.conv4_x = model.backbone.conv5_x = nn.Identity()
    return model


def reach(model, side):
    """How many pixels far an output pixel can see, straight up or down."""
    from segtutor import probe

    farthest = 0
    for offset in range(8):  # the field is placed differently around each pixel of a stride
        field = probe.receptive_field(model, (side, side), at=(side // 2 + offset, side // 2 + offset))
        if field.clipped:
            return side
        farthest = max(farthest, field.position[0] - field.top, field.top + field.height - 1 - field.position[0])
    return farthest


@experiment(
    "PSP-1",
    claim="PSP-1",
    unit={"reach": "pixels", "share": "share of disc pixels"},
    config={"size": list(SIZE), "steps": STEPS, "long": LONG, "distance": DISTANCE, "scenes": SCENES},
    conditions="synthetic scenes at 96x128; a grey disc is a sign or a fence by the colour of a light 72 pixels from "
    "its edge, each of 250 scenes with both lights, so that chance is 0.5; the tiny ResNet-18 at output stride 8 "
    "(deep), or its stages up to conv3_x (short), with no pyramid, with one bin (mean) or with bins 1, 2, 3, 6 "
    "(pyramid), and the tiny SegNet; 300 steps of batch 8, deep_long 600; scored on 75 other scenes; reach: farthest "
    "pixel up or down that an output pixel can see",
)
def context(seed, quick, log):
    """Accuracy on discs whose class is decided by a light outside the backbone's receptive field."""
    from segtutor import models
    from segtutor.models import segnet
    from segtutor.training import evaluate, fit

    def pairs(dataset):
        return [dataset[i] for i in range(len(dataset))]

    train, test = (
        pairs(Discs(8 if quick else SCENES, 600 + seed, DISTANCE, SIZE)),
        pairs(Discs(8 if quick else 75, 7, DISTANCE, SIZE)),
    )
    builds = {
        "short": lambda: short(2, ()),
        "short_mean": lambda: short(2, (1,)),
        "short_pyramid": lambda: short(2, PYRAMID),
        "deep": lambda: _tiny(2, bins=()),
        "deep_pyramid": lambda: _tiny(2),
        "deep_long": lambda: _tiny(2, bins=()),
        "segnet": lambda: models.SegNet(2, **segnet.PRESETS["tiny"]),
    }
    narrow = (4, 4, 4, 4)  # sight does not depend on channels
    sights = {"short": short(2, (), narrow), "deep": _tiny(2, bins=(), widths=narrow)}
    sights["segnet"] = models.SegNet(2, widths=(4,) * 5)
    values = {f"{name}/reach": reach(model, 640) for name, model in sights.items()}
    if not values["short/reach"] < DISTANCE:
        seen = values["short/reach"]
        raise BenchmarkError(f"The short network must see less than {DISTANCE} pixels far, but sees {seen}.")
    for name, build in builds.items():
        torch.manual_seed(seed)
        model, steps = build(), 5 if quick else LONG if name == "deep_long" else STEPS
        log(f"{name}: {fit(model, train, steps=steps, batch_size=8, lr=2e-3, seed=seed, precision='fp32')}")
        values[f"{name}/share"] = evaluate(model, test, boundary_width=None).pixel_accuracy
    return values


# ---------------------------------------------------------------------------------------------------------------- PSP-2

COUNTED, TIMED = (360, 480), (192, 256)


@experiment(
    "PSP-2",
    claim="PSP-2",
    seeds=(0,),
    unit={
        "parameters": "parameters",
        "flops": "FLOPs",
        "kept_memory": "MiB",
        "peak_memory": "MiB",
        "step_time": "ratio",
        "ms": "ms",
    },
    config={"counted": list(COUNTED), "timed": list(TIMED)},
    conditions="PSPNet-50, SegNet, U-Net (padded) and FCN-8s (padded) at the papers' widths, 11 classes; FLOPs of one "
    "image, memory kept for the backward pass and most memory held in a training step of one image, at 360x480; "
    "step_time: forward and backward of PSPNet-50 over the other net's, batch 1 at 192x256, channels last, fp32, "
    "processor time of one thread, 5 pairs in turns after 1 warm-up pair, median and quartiles",
)
def cost(seed, quick, log):
    """What the four networks cost, side by side."""
    from segtutor import models, probe

    builds = {
        "pspnet": lambda: models.PSPNet(11),
        "fcn8s": lambda: models.FCN8s(11),
        "unet": lambda: models.UNet(11),
        "segnet": lambda: models.SegNet(11),
    }
    values = {}
    for name, build in builds.items():
        with torch.device("meta"):
            model = build()
        values |= {
            f"{name}/parameters": probe.count_parameters(model),
            f"{name}/flops": probe.count_flops(model, COUNTED),
            f"{name}/kept_memory": probe.count_saved_bytes(model, COUNTED) / 2**20,
            f"{name}/peak_memory": probe.count_peak_bytes(model, COUNTED) / 2**20,
        }
    size = (64, 64) if quick else TIMED
    images = torch.rand(1, 3, *size).contiguous(memory_format=torch.channels_last)
    target, times = torch.zeros(1, *size, dtype=torch.long), {}

    def stepper(name):
        torch.manual_seed(seed)
        once = step_seconds(builds[name]().train().to(memory_format=torch.channels_last), images, target)
        times[name] = []

        def step() -> float:
            times[name].append(once())
            return times[name][-1]

        return step

    ours = stepper("pspnet")
    for name in ("fcn8s", "unet", "segnet"):
        values[f"{name}/step_time"] = paired_ratio(ours, stepper(name), 2 if quick else 5, warmup=1)
        log(f"{name}: {values[f'{name}/step_time']}")
    return values | {f"{name}/ms": 1000 * statistics.median(seconds) for name, seconds in times.items()}


# ----------------------------------------------------------------------------------------------------- the second loss


@experiment(
    "PSP-AUX",
    unit={"miou": "mIoU", "loss": "nats per pixel", "steps": "steps"},
    config=running_table.CONFIG,
    conditions="the tiny preset under the protocol of the running table (CamVid at 120x160, 400 steps of batch 8 on "
    "crops of 96x128), with and without the auxiliary loss of weight 0.4; loss: cross-entropy of the main output, mean "
    "of the last 100 steps; steps: until the mean of the last 20 of these falls below 0.9",
)
def auxiliary(seed, quick, log):
    """Score and speed of learning with and without the auxiliary loss."""
    from segtutor.losses import CrossEntropyLoss
    from segtutor.training import evaluate, fit

    train, test = running_table.camvid()
    ce, steps, values = CrossEntropyLoss(), 5 if quick else running_table.STEPS, {}
    for name, weight in (("without", 0.0), ("with", 0.4)):
        torch.manual_seed(seed)
        model, main = _tiny(train.spec.num_classes, auxiliary=True), []

        def loss(outputs, target, weight=weight, main=main):
            own, other = (ce(output, target) for output in outputs)
            main.append(own.item())
            return own + weight * other

        settings = {
            "steps": steps,
            "batch_size": running_table.BATCH,
            "lr": running_table.LR,
            "seed": seed,
            "precision": "fp32",
        }
        log(f"{name}: {fit(model, train, loss=loss, auxiliary=True, **settings)}")
        smooth = [statistics.fmean(main[max(0, i - 19) : i + 1]) for i in range(len(main))]
        reached = [i + 1 for i, value in enumerate(smooth) if i >= 19 and value < 0.9]
        values[f"{name}/miou"] = evaluate(model, test, boundary_width=None, limit=8 if quick else None).miou
        values[f"{name}/loss"] = statistics.fmean(main[-100:])
        values[f"{name}/steps"] = reached[0] if reached else steps
    return values


# ---------------------------------------------------------------------------------------------------------------- speed


def torchvision_pspnet(num_classes):
    """PSPNet-50 on torchvision's dilated ResNet: images (B, 3, H, W) to logits (B, num_classes, H, W).

    Its parameters come in the order of ``segtutor.models.PSPNet``.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torchvision.models import resnet50
    from torchvision.ops import Conv2dNormActivation

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            backbone = resnet50(replace_stride_with_dilation=[False, True, True])
            self.backbone = nn.Sequential(*list(backbone.children())[:-2])
            self.bins = (1, 2, 3, 6)
            self.levels = nn.ModuleList(Conv2dNormActivation(2048, 512, 1) for _ in self.bins)
            self.fuse = Conv2dNormActivation(4096, 512, 3)
            self.score = nn.Conv2d(512, num_classes, 1)

        def forward(self, images):
            def grown(x, size):
                return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

            x = self.backbone(images)
            pooled = [level(F.adaptive_avg_pool2d(x, n)) for n, level in zip(self.bins, self.levels, strict=True)]
            x = torch.cat([x, *(grown(summary, x.shape[2:]) for summary in pooled)], dim=1)
            return grown(self.score(self.fuse(x)), images.shape[2:])

    return Reference()


def _without_dropout(num_classes):
    from segtutor.models import PSPNet

    return PSPNet(num_classes, dropout=0.0, first_dilation="previous")


speed_row("pspnet", _without_dropout, torchvision_pspnet, "PSPNet-50, no dropout, torchvision's dilation")
