"""Chapter 15: the factory's models beside the library's nearest ones, and what building a model costs."""

import statistics
import time

from segtutor.lab.experiments.speed import each_at_its_best, forward_seconds, paired_ratio, quartiles, step_seconds
from segtutor.lab.harness import Measurement, experiment

SIDE, BATCH, CLASSES = 256, 2, 19
# head -> (its settings that are nearest to the library's, backbone section, how the library builds its model)
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
    best = each_at_its_best({"ours": ours, "theirs": theirs}, once, rounds, log)
    ratios = [mine / other for mine, other in zip(best["ours"], best["theirs"], strict=True)]
    return Measurement(statistics.median(ratios), quartiles(ratios))


def _words(settings):
    return f" ({', '.join(f'{key}: {value}' for key, value in settings.items())})" if settings else ""


def called_dilated(model):
    """Say of the 1x1 convolutions of a ResNet's last stage that they are dilated, as the library does.

    A single tap has nothing to spread, so the numbers stay. But on one thread PyTorch keeps a slower kernel for 1x1
    convolutions that are not called dilated.
    """
    from torch import nn

    for layer in model.backbone.network.layer4.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            layer.dilation = (2, 2)
    return model


def _register(head, settings, backbone, name, encoder, options, key="", change=lambda model: model, note=""):
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
        """A factory model over the library's nearest one: inference, training step, FLOPs, parameters, memory."""
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
    _register(_head, *_case)
_register(
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
    """What the factory adds to the calls underneath, and how long asking for channels takes."""
    import timm

    from segtutor.factory import create_head, create_model, get_backbone_channels
    from segtutor.factory.backbones import list_backbone_names

    config = {"backbone": {"type": "resnet", "depth": 50}, "head": {"type": "aspp"}, "num_classes": 19}

    def timed(build):
        def once() -> float:
            begun = time.process_time()
            build()
            return time.process_time() - begun

        return once

    def underneath():
        network = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
        return network, create_head(config, network.feature_info.channels(), 19)

    ratio = paired_ratio(timed(lambda: create_model(config)), timed(underneath), 2 if quick else 7)
    slowest = 0.0
    for section in list_backbone_names().values():
        ask = timed(lambda section=section: get_backbone_channels({"backbone": section}))
        slowest = max(slowest, statistics.median(ask() for _ in range(5)))
    log(f"{ratio}, channels in {1000 * slowest:.2f} ms at most")
    return {"ratio": ratio, "channels_ms": 1000 * slowest}
