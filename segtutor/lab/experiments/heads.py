"""Chapter 14: joint pyramid upsampling beside dilation, and what the light SegFormer heads save and lose."""

import torch

from segtutor.lab.harness import experiment
from segtutor.lab.harness.stopwatch import (
    forward_seconds,
    in_turns,
    median_of,
    milliseconds,
    paired_ratio,
    step_seconds,
)
from segtutor.lab.protocols import real_data

# ------------------------------------------------------------------------------------------------------------------ JPU

COUNTED, TIMED = 512, 192


def _at_stride_8(which):
    """ResNet-50 under the plain head at stride 8, by dilation ("dilated") or "jpu", or at stride 32 ("coarse")."""
    from segtutor.factory import create_model

    backbone, head = {"type": "resnet", "depth": 50}, {"type": "fcn", "proj_dim": 512}
    if which == "dilated":
        backbone["output_stride"] = 8
    if which == "jpu":
        head = {"type": "jpu", "out_stride": 8}
    return create_model({"backbone": backbone, "head": head, "num_classes": 19})


@experiment(
    "JPU",
    seeds=(0,),
    unit={
        "parameters": "parameters",
        "gflops": "GFLOPs",
        "training_peak": "MiB",
        "inference_time": "ratio",
        "step_time": "ratio",
    },
    config={"counted": COUNTED, "timed": TIMED},
    conditions="ResNet-50 and the plain head of 512 channels at stride 8, 19 classes: the backbone dilated, or joint "
    "pyramid upsampling on the backbone as it is; coarse: that head on c4 at stride 32; FLOPs and most memory held in "
    "a training step, weights apart, for one image of 512x512; times: over the dilated network's, batch 1 at 192x192, "
    "channels last, fp32, processor time of one thread, 9 pairs in turns after 2 to warm up, median and quartiles",
)
def jpu(seed, quick, log):
    """Cost of a map at stride 8 by dilation and by joint pyramid upsampling, in turns."""
    from segtutor import probe

    values, size = {}, (COUNTED, COUNTED)
    for name in ("dilated", "jpu", "coarse"):
        with torch.device("meta"):
            model = _at_stride_8(name)
        values |= {
            f"{name}/parameters": probe.count_parameters(model),
            f"{name}/gflops": probe.count_flops(model, size) / 1e9,
            f"{name}/training_peak": probe.count_peak_bytes(model, size) / 2**20,
        }
    side, rounds = (64, 2) if quick else (TIMED, 9)
    torch.manual_seed(seed)
    images = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(1, side, side, dtype=torch.long)
    models = {name: _at_stride_8(name).to(memory_format=torch.channels_last) for name in ("dilated", "jpu", "coarse")}

    def step(model):
        return step_seconds(model.train(), images, target)

    def inference(model):
        return forward_seconds(model, images)

    for name in ("jpu", "coarse"):
        for metric, timed in (("inference_time", inference), ("step_time", step)):
            pair = timed(models[name]), timed(models["dilated"])
            values[f"{name}/{metric}"] = paired_ratio(*pair, rounds, warmup=1 if quick else 2)
            log(f"{name}, {metric}: {values[f'{name}/{metric}']}")
    return values


# ----------------------------------------------------------------------------------------------------------------- SF-1

HEADS = {"full": "segformer", "ultrafast": "ultrafast_segformer", "extremely_fast": "extremely_fast_segformer"}
SIZE, CROP, STEPS, BATCH, LR = (180, 240), (144, 192), 600, 4, 1e-3


def _model(head, num_classes, **settings):
    from segtutor.factory import create_model

    return create_model({"backbone": "mit-b0", "head": {"type": head}, "num_classes": num_classes, **settings})


@experiment(
    "SF-1/speed",
    group="light_heads",
    claim="SF-1",
    seeds=(0,),
    device="auto",
    unit={"faster": "ratio", "faster_than_reordered": "ratio", "of_bound": "share", "ms": "ms", "gflops": "GFLOPs"},
    config={"size": 512, "classes": 19},
    conditions="inference of one image of 512x512, 19 classes, MiT-B0, logits enlarged to the image; full: the "
    "segformer head (256) in the paper's order, reordered: the same fused before it is enlarged, one matrix for each "
    "level; faster: throughput over full, minus 1; of_bound: throughput over that of the encoder alone; processor "
    "time of one thread on a CPU, channels last, all in turns in one run, each run once before it is timed, "
    "median and quartiles of 25 rounds",
)
def speed(seed, quick, log):
    """Throughput of the three heads beside the encoder alone."""
    from segtutor import probe

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, rounds = (64, 1) if quick else (512, 25)
    models = {"full": _model("segformer", 19), "reordered": _model("segformer", 19)}
    models |= {name: _model(head, 19) for name, head in HEADS.items() if name != "full"}
    models["full"].head.decoder.upsample_first = True
    models["reordered"].head.decoder.merge()
    models["encoder"] = models["full"].backbone
    images = torch.rand(1, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    models = {name: model.eval().to(device, memory_format=torch.channels_last) for name, model in models.items()}
    runs = {name: forward_seconds(model, images) for name, model in models.items()}
    # The second of two passes, as in use, where the image before went through the same model.
    seconds = in_turns({name: lambda once=once: (once(), once())[1] for name, once in runs.items()}, rounds)
    values = {}
    for name, model in models.items():
        times = seconds[name]
        compared = {"of_bound": (seconds["encoder"], 0), "faster": (seconds["full"], 1)}
        compared["faster_than_reordered"] = (seconds["reordered"], 1)
        for metric, (others, less) in compared.items():
            values[f"{name}/{metric}"] = median_of([other / t - less for other, t in zip(others, times, strict=True)])
        values[f"{name}/ms"] = milliseconds(times)
        if name != "encoder":
            values[f"{name}/gflops"] = probe.count_flops(model, (side, side)) / 1e9
        log(f"{name}: {values[f'{name}/ms'].value:.0f} ms, {values[f'{name}/of_bound'].value:.2f} of the bound")
    return values


def _score_row(name, head):
    @experiment(
        f"SF-1/{name}",
        group="light_heads",
        claim="SF-1",
        unit={"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border"},
        config={"size": list(SIZE), "crop": list(CROP), "steps": STEPS, "batch": BATCH, "lr": LR},
        conditions=f"CamVid at {SIZE[0]}x{SIZE[1]}, MiT-B0 from random weights, {STEPS} steps of batch {BATCH} on "
        f"crops of {CROP[0]}x{CROP[1]}, AdamW, the same schedule for all three heads, scored on the whole test split",
    )
    def score(seed, quick, log):
        """Scores of MiT-B0 with one of the three heads, all trained alike."""
        from segtutor.training import evaluate, fit

        train, test = real_data.camvid(SIZE, CROP)
        model = _model(head, train.spec.num_classes, seed=seed)
        history = fit(
            model,
            train,
            steps=5 if quick else STEPS,
            batch_size=BATCH,
            lr=LR,
            seed=seed,
            precision="fp32",
            on_step=lambda step, loss: step % 100 == 0 and log(f"step {step} of {STEPS}, loss {loss:.3f}"),
        )
        log(f"{history}")
        scores = evaluate(model, test, limit=8 if quick else None)
        return {"miou": scores.miou, "boundary_miou": scores.boundary_miou}


for _name, _head in HEADS.items():
    _score_row(_name, _head)
