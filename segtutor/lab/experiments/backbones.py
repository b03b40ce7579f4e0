"""Chapter 13: what a backbone costs in time and memory, the order of five of them, and what checkpointing saves."""

import torch

from segtutor.lab.harness import Measurement, experiment
from segtutor.lab.harness.stopwatch import (
    in_turns,
    median_of,
    median_ratio,
    milliseconds,
    paired_ratio,
    seconds_of,
    step_seconds,
)

SIDE, BATCH, TIMED, CLASSES = 512, 8, 2, 19
# Each with the head and the stride of its recommended combination.
FIVE = {
    "resnet50-aspp": {"backbone": {"type": "resnet", "depth": 50, "output_stride": 16}, "head": {"type": "aspp"}},
    "resnet101-aspp": {"backbone": {"type": "resnet", "depth": 101, "output_stride": 16}, "head": {"type": "aspp"}},
    "convnext-tiny-aspp": {
        "backbone": {"type": "convnext", "variant": "tiny", "output_stride": 16},
        "head": {"type": "aspp"},
    },
    "mit-b0-segformer": {"backbone": {"type": "segformer", "variant": "mit-b0"}, "head": {"type": "segformer"}},
    "mit-b5-segformer": {"backbone": {"type": "segformer", "variant": "mit-b5"}, "head": {"type": "segformer"}},
}


def build(name, **backbone):
    """Build one of the five models, with some settings of its backbone replaced."""
    from segtutor.factory import create_model

    config = FIVE[name]
    return create_model({**config, "backbone": {**config["backbone"], **backbone}, "num_classes": CLASSES, "seed": 0})


def weightless(make, *args, **settings):
    """Build on the meta device, where shapes are known and nothing is stored: enough to count."""
    with torch.device("meta"):
        return make(*args, **settings)


def batch_of(images, side, device="cpu"):
    """Images in the memory format that convolutions are fastest in, and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, side, side, generator=generator).to(device, memory_format=torch.channels_last)
    return x, torch.randint(0, CLASSES, (images, side, side), generator=generator).to(device)


# ----------------------------------------------------------------------------------------------------------------- BB-1


@experiment(
    "BB-1",
    claim="BB-1",
    seeds=(0,),
    device="auto",
    unit={"images_per_second": "images/s", "relative": "ratio", "batch8": "ratio", "flops": "FLOPs"},
    config={"side": SIDE, "timed_batch": TIMED},
    conditions="forward and backward of 512x512 images in fp32, 19 classes, aspp on backbones dilated to 16, segformer "
    "of 256 channels; batches of 2, all five in turns in one process, processor time where one thread runs, median and "
    "quartiles of 4 rounds after 1; relative: seconds per image over those of resnet50-aspp in the same round; batch8: "
    "seconds per image in a batch of 8 over those in a batch of 2, median of 2; FLOPs of one forward pass",
)
def throughput(seed, quick, log):
    """Images per second of a training step, of five backbones with their heads."""
    from segtutor import probe

    device, side = ("cuda" if torch.cuda.is_available() else "cpu"), 64 if quick else SIDE
    values = {f"{name}/flops": probe.count_flops(weightless(build, name), (side, side)) for name in FIVE}
    steps = {}
    for name in FIVE:
        model = build(name).train().to(device, memory_format=torch.channels_last)
        steps[name] = step_seconds(model, *batch_of(TIMED, side, device))
    seconds = in_turns(steps, 1 if quick else 4, warmup=1)
    for name, times in seconds.items():
        values[f"{name}/images_per_second"] = median_of([TIMED / each for each in times])
        values[f"{name}/relative"] = median_ratio(times, seconds["resnet50-aspp"])
        log(f"{name}: {values[f'{name}/images_per_second'].value:.2f} images/s")
    del steps
    for name in ("resnet50-aspp", "mit-b0-segformer"):
        model = build(name).train().to(device, memory_format=torch.channels_last)
        small, large = (step_seconds(model, *batch_of(images, side, device)) for images in (TIMED, BATCH))
        ratio = paired_ratio(large, small, 1 if quick else 2, warmup=0 if quick else 1)
        values[f"{name}/batch8"] = Measurement(
            ratio.value * TIMED / BATCH, tuple(end * TIMED / BATCH for end in ratio.spread)
        )
    return values


# ----------------------------------------------------------------------------------------------------------------- BB-2


def step_memory(model, side):
    """GiB of a training step at batch 8 with AdamW: weights, two moments of each, and the step's own peak."""
    from segtutor import probe

    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    moments = 2 * sum(tensor.nbytes for tensor in model.parameters())
    return (weights + moments + probe.count_peak_bytes(model, (side, side), batch=BATCH)) / 2**30


@experiment(
    "BB-2",
    claim="BB-2",
    seeds=(0,),
    unit="GiB",
    config={"side": SIDE, "batch": BATCH},
    conditions="a training step of batch 8 at 512x512 in fp32, counted and not allocated: weights, AdamW's two moments "
    "of each, and the most bytes held at once beside them by images, maps, gradients of maps and of weights; without "
    "the workspaces and the rounding of an allocator; aspp on backbones dilated to 16, 19 classes; os32: not dilated; "
    "checkpointing: of the backbone; forward: evaluation, no moments",
)
def memory(seed, quick, log):
    """Memory of a training step, of five backbones with their heads."""
    from segtutor import probe

    side = 64 if quick else SIDE
    values = {}
    for name, config in FIVE.items():
        values[f"{name}/training"] = step_memory(weightless(build, name), side)
        values[f"{name}/checkpointing"] = step_memory(weightless(build, name, checkpointing=True), side)
        model = weightless(build, name)
        weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
        peak = probe.count_peak_bytes(model, (side, side), batch=BATCH, training=False)
        values[f"{name}/forward"] = (weights + peak) / 2**30
        if "output_stride" in config["backbone"]:
            values[f"{name}/os32"] = step_memory(weightless(build, name, output_stride=32), side)
        log(f"{name}: {values[f'{name}/training']:.2f} GiB")
    return values


# ----------------------------------------------------------------------------------------------------------------- BB-6


def checkpointed(name):
    """Register ``BB-6/<name>``: what gradient checkpointing costs and saves in one of the five."""

    @experiment(
        f"BB-6/{name}",
        claim="BB-6",
        seeds=(0,),
        device="auto",
        unit={"time": "ratio", "kept": "ratio", "peak": "ratio"},
        config={"side": SIDE, "batch": BATCH, "timed_side": 256},
        conditions="a training step with the backbone's blocks computed twice over the step without; time: batch 2 "
        "at 256x256, processor time where one thread runs, 4 pairs in turns after 1, median and quartiles; kept: bytes "
        "kept from forward to backward, peak: most bytes held at once beside the weights, batch 8 at 512x512, counted",
    )
    def costs(seed, quick, log):
        """Time and memory of a training step with gradient checkpointing, over those without."""
        from segtutor import probe

        device, side = ("cuda" if torch.cuda.is_available() else "cpu"), 64 if quick else SIDE
        plain, saving = weightless(build, name), weightless(build, name, checkpointing=True)
        values = {}
        for key, count in (("kept", probe.count_saved_bytes), ("peak", probe.count_peak_bytes)):
            values[key] = count(saving, (side, side), batch=BATCH) / count(plain, (side, side), batch=BATCH)
        images, target = batch_of(TIMED, 64 if quick else 256, device)
        steps = []
        for again in (True, False):
            model = build(name, checkpointing=again).train().to(device, memory_format=torch.channels_last)
            steps.append(step_seconds(model, images, target))
        return values | {"time": paired_ratio(*steps, 1 if quick else 4, warmup=1)}


for _name in FIVE:
    checkpointed(_name)


# ------------------------------------------------------------------------------------------------ the table of all rows


def backbone_seconds(backbone, images, training):
    """A function that runs one forward pass, or one forward and backward pass, and returns its seconds."""

    def prepare():
        backbone.train(training)
        backbone.zero_grad(set_to_none=True)

    def run():
        with torch.set_grad_enabled(training):
            loss = sum(map_.square().mean() for map_ in backbone(images).maps)
        if training:
            loss.backward()

    return seconds_of(run, images.device.type, before=prepare)


def row(name):
    """Register ``backbones/<name>``: the costs of one row of the table."""

    @experiment(
        f"backbones/{name}",
        group="backbones",
        seeds=(0,),
        device="auto",
        unit={
            "parameters": "parameters",
            "flops": "FLOPs",
            "forward_ms": "ms",
            "training_ms": "ms",
            "forward_relative": "ratio",
            "training_relative": "ratio",
            "forward_memory": "GiB",
            "training_memory": "GiB",
            "kept_memory": "GiB",
        },
        config={"side": SIDE, "batch": BATCH},
        conditions="the backbone alone at stride 32, fp32, 512x512; ms per image at batch 1, forward in evaluation "
        "mode, training is forward and backward; processor time where one thread runs, in turns with resnet50, median "
        "and quartiles of 3 rounds after 1; relative: over resnet50 in the same round; memory at batch 8 counted, not "
        "allocated: weights and the most bytes held at once beside them, training without an optimiser's state; kept: "
        "bytes kept from forward to backward; FLOPs of one forward pass",
    )
    def costs(seed, quick, log):
        """Parameters, FLOPs, time and memory of one backbone."""
        from segtutor import probe
        from segtutor.factory import create_backbone

        device, side = ("cuda" if torch.cuda.is_available() else "cpu"), 64 if quick else SIDE
        empty = weightless(create_backbone, name)
        weights = sum(tensor.nbytes for tensor in [*empty.parameters(), *empty.buffers()])
        values = {
            "parameters": probe.count_parameters(empty),
            "flops": probe.count_flops(empty, (side, side)),
            "kept_memory": probe.count_saved_bytes(empty, (side, side), batch=BATCH) / 2**30,
        }
        for key, training in (("forward", False), ("training", True)):
            peak = probe.count_peak_bytes(empty, (side, side), batch=BATCH, training=training)
            values[f"{key}_memory"] = (weights + peak) / 2**30
        torch.manual_seed(seed)
        images, _ = batch_of(1, side, device)
        pair = [create_backbone(each).to(device, memory_format=torch.channels_last) for each in (name, "resnet50")]
        for key, training in (("forward", False), ("training", True)):
            passes = {place: backbone_seconds(each, images, training) for place, each in enumerate(pair)}
            ours, other = in_turns(passes, 1 if quick else 3, warmup=1).values()
            values[f"{key}_ms"], values[f"{key}_relative"] = milliseconds(ours), median_ratio(ours, other)
        log(f"{values['forward_ms'].value:.0f} ms forward, {values['training_ms'].value:.0f} ms training")
        return values


def _names():
    from segtutor.factory.backbones import list_backbone_names

    return list(list_backbone_names())


for _name in _names():
    row(_name)
