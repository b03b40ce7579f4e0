"""Chapter 14: joint pyramid upsampling beside the dilation that it stands in for."""

import time

import torch
from torch.nn import functional as F

from segtutor.lab.experiments.speed import paired_ratio
from segtutor.lab.harness import experiment

COUNTED, TIMED = 512, 192


def _model(which):
    """ResNet-50 with a map at stride 8 under the plain head, made by the one or by the other."""
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
            model = _model(name)
        values |= {
            f"{name}/parameters": probe.count_parameters(model),
            f"{name}/gflops": probe.count_flops(model, size) / 1e9,
            f"{name}/training_peak": probe.count_peak_bytes(model, size) / 2**20,
        }
    side, rounds = (64, 2) if quick else (TIMED, 9)
    torch.manual_seed(seed)
    images = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    target = torch.zeros(1, side, side, dtype=torch.long)
    models = {name: _model(name).to(memory_format=torch.channels_last) for name in ("dilated", "jpu", "coarse")}

    def inference(model):
        def run() -> float:
            begun = time.process_time()
            with torch.inference_mode():
                model.eval()(images)
            return time.process_time() - begun

        return run

    def step(model):
        def run() -> float:
            model.train().zero_grad(set_to_none=True)
            begun = time.process_time()
            F.cross_entropy(model(images), target).backward()
            return time.process_time() - begun

        return run

    for name in ("jpu", "coarse"):
        for metric, timed in (("inference_time", inference), ("step_time", step)):
            pair = timed(models[name]), timed(models["dilated"])
            values[f"{name}/{metric}"] = paired_ratio(*pair, rounds, warmup=1 if quick else 2)
            log(f"{name}, {metric}: {values[f'{name}/{metric}']}")
    return values
