"""Chapter 08: v2 and v3 in the running table, ASPP by object size, output stride 16 against 8, and what v3 changed."""

import torch

from segtutor.lab.harness import experiment
from segtutor.lab.protocols import crf, running_table
from segtutor.lab.protocols.networks import deeplab_v3_at_stride_16
from segtutor.lab.protocols.reference_speed import speed_row


def _tiny(num_classes, **options):
    from segtutor.models import DeepLabV3
    from segtutor.models.deeplab_v3 import PRESETS

    return DeepLabV3(num_classes, **{**PRESETS["tiny"], **options})


def _tiny_v2(num_classes, **options):
    from segtutor.models import DeepLabV2
    from segtutor.models.deeplab_v2 import PRESETS

    return DeepLabV2(num_classes, **{**PRESETS["tiny"], **options})


running_table.table_row("deeplab_v2", _tiny_v2)
running_table.table_row("deeplab_v3", _tiny)


# ----------------------------------------------------------------------------------------------------------------- DL-3

SIZE, STEPS, SCENES, BORDERS = (96, 128), 300, 600, (8, 16)
THINGS = ("car", "pedestrian", "bicyclist")
# Backbone to heads; but for image pooling, all heads behind one backbone have equal parameters: three 3x3 and a 1x1.
HEADS = {
    "resnet": {
        "one_rate": {"rates": (4, 4, 4), "image_pooling": False},
        "aspp": {"rates": (2, 4, 6), "image_pooling": False},
        "aspp_pooling": {"rates": (2, 4, 6), "image_pooling": True},
    },
    "stem": {
        "rate_1": {"rates": (1, 1, 1), "image_pooling": False},
        "rate_6": {"rates": (6, 6, 6), "image_pooling": False},
        "aspp": {"rates": (1, 3, 6), "image_pooling": False},
        "aspp_pooling": {"rates": (1, 3, 6), "image_pooling": True},
    },
}


def with_head(backbone, options):
    """The tiny DeepLab v3 with another ASPP, on its whole backbone or on the stem, which sees 11 pixels at stride 4."""
    from segtutor.models.deeplab_v3 import ASPP

    model = _tiny(11)
    channels, width = model.backbone.channels[3], model.head.context.out_channels
    if backbone == "stem":
        channels = model.backbone.conv1.out_channels
        for stage in ("conv2_x", "conv3_x", "conv4_x", "conv5_x"):
            setattr(model.backbone, stage, torch.nn.Identity())
    model.head.context = ASPP(channels, width, **options)
    return model


def size_masks(label, classes, borders=BORDERS):
    """Masks of the pixels of small, medium and large things: connected regions by the square root of their area.

    Args:
        label: classes (H, W), a numpy array.
        classes: the classes that are things.
        borders: square roots of areas, in pixels, at which medium and large begin.
    """
    import numpy as np
    from scipy import ndimage

    sizes = np.full(label.shape, -1)
    for thing in classes:
        regions, count = ndimage.label(label == thing)
        areas = np.bincount(regions.ravel(), minlength=count + 1)
        sizes = np.where(regions > 0, np.searchsorted(np.square(borders), areas[regions], side="right"), sizes)
    return [sizes == size for size in range(len(borders) + 1)]


def found_by_size(model, dataset, classes):
    """Share of the pixels of small, medium and large things that get their own class."""
    right, pixels = [0, 0, 0], [0, 0, 0]
    with torch.inference_mode():
        for image, label in dataset:
            predicted, label = model.eval()(image[None]).argmax(dim=1)[0].numpy(), label.numpy()
            for size, mask in enumerate(size_masks(label, classes)):
                right[size] += int((predicted == label)[mask].sum())
                pixels[size] += int(mask.sum())
    return {name: right[i] / max(1, pixels[i]) for i, name in enumerate(("small", "medium", "large"))}


@experiment(
    "DL-3",
    claim="DL-3",
    unit={"miou": "mIoU", "small": "share of pixels", "medium": "share of pixels", "large": "share of pixels"},
    config={"size": list(SIZE), "steps": STEPS, "scenes": SCENES, "borders": list(BORDERS)},
    conditions="synthetic scenes at 96x128 whose cars, people and bicyclists differ 16 to 1 in size; ASPP of the tiny "
    "DeepLab v3 with three branches at one rate, at three rates, and with image pooling besides, on its ResNet at "
    "output stride 8 (resnet: rates 4 or 2, 4, 6) and on the first convolution and pool alone, which see 11 pixels at "
    "stride 4 (stem: rates 1, 6 or 1, 3, 6); 300 steps of batch 8 on 600 scenes, scored on 100 others: share of the "
    "pixels of connected things found, small below 8 pixels (square root of the area), large from 16 on",
)
def object_sizes(seed, quick, log):
    """How much of small, medium and large things is found with one rate, three rates, and image pooling."""
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import eval_transform
    from segtutor.training import evaluate, fit

    def scenes(length, seed):
        knobs = {**SyntheticScenes.PRESETS["scales"], "transform": eval_transform(SyntheticScenes.spec)}
        dataset = SyntheticScenes(size=SIZE, length=length, seed=seed, **knobs)
        return [dataset[i] for i in range(length)]

    train, test = scenes(16 if quick else SCENES, 800 + seed), scenes(8 if quick else 100, 7)
    classes, values = [SyntheticScenes.spec.classes.index(name) for name in THINGS], {}
    for backbone, heads in HEADS.items():
        for head, options in heads.items():
            name = f"{backbone}/{head}"
            torch.manual_seed(seed)
            model = with_head(backbone, options)
            log(f"{name}: {fit(model, train, steps=5 if quick else STEPS, lr=2e-3, seed=seed, precision='fp32')}")
            values |= {f"{name}/{size}": share for size, share in found_by_size(model, test, classes).items()}
            values[f"{name}/miou"] = evaluate(model, test).miou
    return values


# --------------------------------------------------------------------------------------------------- output stride


@experiment(
    "DL-STRIDE",
    unit={"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border", "flops": "ratio"},
    config=running_table.CONFIG,
    conditions=f"{running_table.TRAINED}; DeepLab v3 trained at output stride 16, then the same weights at 16 and, "
    "with every rate doubled, at 8; FLOPs of ResNet-50 with ASPP on 513x513, stride 8 over stride 16",
)
def same_weights_at_8(seed, quick, log):
    """The scores of one set of weights at output stride 16 and 8."""
    from segtutor import probe
    from segtutor.models import DeepLabV3
    from segtutor.training import evaluate

    coarse, test = running_table.trained(deeplab_v3_at_stride_16, seed, quick)
    fine = _tiny(coarse.head.classifier.out_channels)
    fine.load_state_dict(coarse.state_dict())
    values = {}
    for name, model in (("stride16", coarse), ("stride8", fine)):
        scores = evaluate(model, test)
        log(f"{name}: {scores.miou:.3f}")
        values |= {f"{name}/miou": scores.miou, f"{name}/boundary_miou": scores.boundary_miou}
    with torch.device("meta"):
        flops = [probe.count_flops(DeepLabV3(21, output_stride=stride), (513, 513)) for stride in (8, 16)]
    return values | {"flops": flops[0] / flops[1]}


# ----------------------------------------------------------------------------------------------------------------- DL-2


@experiment("DL-2/deeplab_v3", claim="DL-2", unit=crf.UNITS, config=crf.CONFIG, conditions=crf.CONDITIONS)
def crf_after_v3(seed, quick, log):
    """Scores of DeepLab v3 on scenes, before the CRF and after it."""
    return crf.with_and_without_crf(_tiny, seed, quick, log)


# ----------------------------------------------------------------------------------------------------------------- DL-7


@experiment(
    "DL-7",
    claim="DL-7",
    seeds=(0,),
    unit={
        "branches": "atrous branches",
        "largest_rate": "dilation",
        "depth": "layers of the ResNet",
        "norms": "normalisations",
        "pooled": "branches",
    },
    conditions="the networks as published, ResNet-101, counted: 3x3 branches of ASPP and their largest rate (v3 at its "
    "training stride, 16), batch normalisations in ASPP, branches that see the whole image",
)
def v2_and_v3(seed, quick, log):
    """What distinguishes v3 from v2, counted in the networks."""
    from torch import nn

    from segtutor.models import DeepLabV2, DeepLabV3
    from segtutor.models.deeplab_v3 import PRESETS

    with torch.device("meta"):
        nets = {"v2": DeepLabV2(21), "v3": DeepLabV3(21, **PRESETS["paper"])}
    values = {}
    for name, aspp in (("v2", nets["v2"].aspp), ("v3", nets["v3"].head.context)):
        layers = list(aspp.modules())
        rates = [m.dilation[0] for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        values |= {
            f"{name}/branches": len(rates),
            f"{name}/largest_rate": max(rates),
            f"{name}/depth": nets[name].backbone.depth,
            f"{name}/norms": sum(isinstance(m, nn.BatchNorm2d) for m in layers),
            f"{name}/pooled": int(getattr(aspp, "image_pooling", None) is not None),
        }
    return values


# ---------------------------------------------------------------------------------------------------------------- speed


def _torchvision_preset(num_classes):
    from segtutor.models import DeepLabV3
    from segtutor.models.deeplab_v3 import PRESETS

    return DeepLabV3(num_classes, **PRESETS["torchvision_resnet50"])


def torchvision_deeplab(num_classes):
    """torchvision's DeepLab v3, returning its logits alone."""
    import torch
    from torchvision.models.segmentation import deeplabv3_resnet50

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes)

        def forward(self, images):
            return self.network(images)["out"]

    return Reference()


speed_row("deeplab_v3", _torchvision_preset, torchvision_deeplab, "DeepLab v3 with torchvision's rates and dropout")
