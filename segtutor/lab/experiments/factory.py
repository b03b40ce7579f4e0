"""Chapter 15: every head on every backbone, the factory's models beside smp's, and what building a model costs."""

import math
import statistics
import tempfile

from segtutor.factory import list_heads
from segtutor.factory.backbones import list_backbone_names
from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import (
    at_faster_format,
    forward_seconds,
    median_ratio,
    paired_ratio,
    seconds_of,
    step_seconds,
)

# ---------------------------------------------------------------------------------------------------------------- FAC-1

SIZES = ((65, 97), (128, 128))
HEADS = tuple(head for head in list_heads() if not head.startswith("smp:"))  # without smp's decoders


def check_cell(config):
    """Build one combination and use it as a student would; returns its FLOPs for one image of 512x512.

    Raises:
        ArithmeticError: a number is not finite, a gradient is missing, or the reloaded model gives other logits.
    """
    import torch
    import torch.nn.functional as F

    from segtutor import probe
    from segtutor.factory import SegmentationModel, create_model
    from segtutor.layers import resize

    model = create_model(config, seed=0)
    flops = probe.count_flops(model.eval(), (512, 512))
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        images = torch.randn(1, 3, height, width, generator=generator)
        with torch.inference_mode():
            logits = model.eval()(images)
        if logits.shape != (1, config["num_classes"], height, width) or not logits.isfinite().all():
            raise ArithmeticError(
                f"logits {tuple(logits.shape)} at {height}x{width}, finite: {logits.isfinite().all()}"
            )
        target = torch.randint(0, config["num_classes"], (1, height, width), generator=generator)
        model.train().zero_grad(set_to_none=True)
        features, output = model.forward_features(images)
        loss = F.cross_entropy(resize(output.logits, images.shape[2:]), target)
        # What only an unread map needs, such as its normalisation, has no gradient of the loss, which is not an error.
        (loss + 0 * sum(map_.sum() for map_ in features.maps)).backward()
        missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        if missing:
            raise ArithmeticError(f"no gradient for {missing[0]} and {len(missing) - 1} more")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-4 * parameter.grad.clamp(-1, 1)
    model.zero_grad(set_to_none=True)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        before = model.eval()(images)
        model.save_pretrained(folder)
        again = SegmentationModel.from_pretrained(folder)
        if not again(images).equal(before):
            raise ArithmeticError("the reloaded model gives other logits than the model that was saved")
    return flops


def _matrix_row(backbone, section):
    @experiment(
        f"FAC-1/{backbone}",
        group="compatibility",
        claim="FAC-1",
        seeds=(0,),
        unit={"works": "heads", **dict.fromkeys(HEADS, "GFLOPs")},
        config={"heads": len(HEADS), "classes": 19},
        conditions="random weights, 19 classes; a cell has a value where the model was built, gave finite logits of "
        "the images' size at 65x97 and at 128x128, took one training step of batch 1 at each with a gradient for every "
        "parameter that the maps read need, and computed the same after saving and reloading; the value: FLOPs of one "
        "image of 512x512",
    )
    def row(seed, quick, log):
        """One row of the compatibility matrix: a backbone under every head."""
        values = {}
        for head in HEADS[:2] if quick else HEADS:
            try:
                values[head] = check_cell({"backbone": section, "head": {"type": head}, "num_classes": 19}) / 1e9
                assert math.isfinite(values[head])
            except Exception as error:  # a cell that fails is a result, and the others go on
                log(f"{backbone} with {head} fails: {type(error).__name__}: {error}")
        log(f"{backbone}: {len(values)} of {len(HEADS)} heads")
        return {**values, "works": len(values)}


for _backbone, _section in list_backbone_names().items():
    _matrix_row(_backbone, _section)


# ---------------------------------------------------------------------------------------------------------------- speed

SIDE, BATCH, CLASSES = 256, 2, 19
# head -> (its settings that are nearest to smp's, backbone section, smp's model, its encoder and options)
NEAREST = {
    "fpn": ({}, {"type": "resnet", "depth": 50}, "FPN", "resnet50", {}),
    "aspp": (
        {"separable": True},
        {"type": "resnet", "depth": 50, "output_stride": 16},
        "DeepLabV3Plus",
        "resnet50",
        {"encoder_output_stride": 16, "decoder_atrous_rates": (6, 12, 18)},
    ),
    "uper": ({"proj_dim": 256}, {"type": "resnet", "depth": 50}, "UPerNet", "resnet50", {}),
    "segformer": ({}, {"type": "segformer", "variant": "mit-b0"}, "Segformer", "mit_b0", {}),
}


def _theirs(name, encoder, options):
    import segmentation_models_pytorch as smp

    return getattr(smp, name)(encoder, encoder_weights=None, classes=CLASSES, **options)


def _ratio(ours, theirs, once, rounds, log):
    return median_ratio(*at_faster_format({"ours": ours, "theirs": theirs}, once, rounds, log).values())


def _words(settings):
    return f" ({', '.join(f'{key}: {value}' for key, value in settings.items())})" if settings else ""


def called_dilated(model):
    """Mark the 1x1 convolutions of a ResNet's last stage as dilated, as smp does.

    A single tap has nothing to spread, so the numbers stay. But on one thread PyTorch uses a slower kernel for 1x1
    convolutions that are not marked so.
    """
    from torch import nn

    for layer in model.backbone.network.layer4.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.dilation = (2, 2)
    return model


def _speed_row(head, settings, backbone, name, encoder, options, key="", change=lambda model: model, note=""):
    @experiment(
        f"speed/factory_{key or head}",
        group="speed",
        seeds=(0,),
        unit=dict.fromkeys(("inference", "step", "flops", "parameters", "peak_memory"), "ratio"),
        config={"size": SIDE, "batch": BATCH, "classes": CLASSES, **settings},
        conditions=f"create_model with {encoder} and the head {head}{_words(settings)}{note} over smp.{name} on the "
        f"same encoder: batch {BATCH} at {SIDE}x{SIDE}, {CLASSES} classes, fp32, random weights, inference and forward "
        "plus backward, each side at its faster memory format, 9 rounds in turns after 2 to warm up, processor time of "
        "one thread, median and quartiles; FLOPs, parameters and peak memory of a training step counted. The decoders "
        "are not the same",
    )
    def row(seed, quick, log):
        """A factory model over smp's nearest one: time of inference and training step, FLOPs, parameters, memory."""
        import torch

        from segtutor import probe
        from segtutor.factory import create_model

        side = 64 if quick else SIDE
        torch.manual_seed(seed)
        ours = change(create_model({"backbone": backbone, "head": {"type": head, **settings}, "num_classes": CLASSES}))
        theirs = _theirs(name, encoder, options)
        images, target = torch.randn(BATCH, 3, side, side), torch.randint(0, CLASSES, (BATCH, side, side))

        def inference(model, layout):
            return forward_seconds(model, images.to(memory_format=layout))

        def step(model, layout):
            return step_seconds(model.train(), images.to(memory_format=layout), target)

        pair, size, rounds = (ours, theirs), (side, side), 2 if quick else 9
        flops = [probe.count_flops(model.eval(), size) for model in pair]
        peak = [probe.count_peak_bytes(model.train(), size, batch=BATCH) for model in pair]
        parameters = [probe.count_parameters(model) for model in pair]
        values = {
            "inference": _ratio(ours, theirs, inference, rounds, log),
            "step": _ratio(ours, theirs, step, rounds, log),
            "flops": flops[0] / flops[1],
            "peak_memory": peak[0] / peak[1],
            "parameters": parameters[0] / parameters[1],
        }
        log(f"{head}: {values}")
        return values


for _head, _case in NEAREST.items():
    _speed_row(_head, *_case)
_speed_row(
    "aspp",
    *NEAREST["aspp"],
    key="aspp_called_dilated",
    change=called_dilated,
    note=" and the 1x1 convolutions of its last stage called dilated",
)


@experiment(
    "speed/create_model",
    group="speed",
    seeds=(0,),
    unit={"ratio": "ratio", "channels_ms": "ms"},
    conditions="create_model('resnet50-aspp') over timm.create_model(features_only) plus the head, processor time in "
    "turns, median and quartiles of 7 pairs; channels_ms: the slowest get_backbone_channels of all short names, the "
    "median of 5 calls each, after import",
)
def building(seed, quick, log):
    """What create_model takes beside the calls that it makes, and how long get_backbone_channels takes."""
    import timm

    from segtutor.factory import create_head, create_model, get_backbone_channels

    config = {"backbone": {"type": "resnet", "depth": 50}, "head": {"type": "aspp"}, "num_classes": 19}

    def underneath():
        network = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
        return network, create_head(config, network.feature_info.channels(), 19)

    ratio = paired_ratio(seconds_of(lambda: create_model(config)), seconds_of(underneath), 2 if quick else 7)
    slowest = 0.0
    for section in list_backbone_names().values():
        ask = seconds_of(lambda section=section: get_backbone_channels({"backbone": section}))
        slowest = max(slowest, statistics.median(ask() for _ in range(5)))
    log(f"{ratio}, channels in {1000 * slowest:.2f} ms at most")
    return {"ratio": ratio, "channels_ms": 1000 * slowest}
