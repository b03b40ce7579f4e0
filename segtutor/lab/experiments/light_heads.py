"""Chapter 14: what the light SegFormer heads save, and what they lose."""

import statistics

from segtutor.lab.experiments.speed import forward_seconds, in_turns, quartiles
from segtutor.lab.harness import BenchmarkError, Measurement, experiment

HEADS = {"full": "segformer", "ultrafast": "ultrafast_segformer", "extremely_fast": "extremely_fast_segformer"}
SIZE, CROP, STEPS, BATCH, LR = (180, 240), (144, 192), 600, 4, 1e-3


def _model(head, num_classes, **settings):
    from segtutor.factory import create_model

    return create_model({"backbone": "mit-b0", "head": {"type": head}, "num_classes": num_classes, **settings})


@experiment(
    "SF-1/speed",
    claim="SF-1",
    seeds=(0,),
    device="auto",
    unit={"faster": "ratio", "faster_than_reordered": "ratio", "of_bound": "share", "ms": "ms", "gflops": "GFLOPs"},
    config={"size": 512, "classes": 19},
    conditions="inference of one image of 512x512, 19 classes, MiT-B0, logits enlarged to the image; full: the "
    "segformer head (256) in the paper's order, reordered: the same fused before it is enlarged; faster: throughput "
    "over full, minus 1; of_bound: throughput over that of the encoder alone; processor time of one thread on a CPU, "
    "channels last, all in turns in one run, each run once before it is timed, median and quartiles of 25 rounds",
)
def speed(seed, quick, log):
    """Throughput of the three heads beside the encoder alone."""
    import torch

    from segtutor import probe

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, rounds = (64, 1) if quick else (512, 25)
    models = {"full": _model("segformer", 19), "reordered": _model("segformer", 19)}
    models |= {name: _model(head, 19) for name, head in HEADS.items() if name != "full"}
    for module in models["full"].modules():
        if hasattr(module, "paper_order"):
            module.paper_order = True
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
            ratios = [other / mine - less for other, mine in zip(others, times, strict=True)]
            values[f"{name}/{metric}"] = Measurement(statistics.median(ratios), quartiles(ratios))
        milliseconds = [1000 * each for each in times]
        values[f"{name}/ms"] = Measurement(statistics.median(milliseconds), quartiles(milliseconds))
        if name != "encoder":
            values[f"{name}/gflops"] = probe.count_flops(model, (side, side)) / 1e9
        log(f"{name}: {values[f'{name}/ms'].value:.0f} ms, {values[f'{name}/of_bound'].value:.2f} of the bound")
    return values


def _register(name, head):
    @experiment(
        f"SF-1/{name}",
        claim="SF-1",
        unit={"miou": "mIoU", "boundary_miou": "mIoU within 3 pixels of a border"},
        config={"size": list(SIZE), "crop": list(CROP), "steps": STEPS, "batch": BATCH, "lr": LR},
        conditions=f"CamVid at {SIZE[0]}x{SIZE[1]}, MiT-B0 from random weights, {STEPS} steps of batch {BATCH} on "
        f"crops of {CROP[0]}x{CROP[1]}, AdamW, the same schedule for all three heads, scored on the whole test split",
    )
    def score(seed, quick, log):
        """Scores of MiT-B0 with one of the three heads, all trained alike."""
        from segtutor.data import CamVid, available
        from segtutor.data.transforms import eval_transform, train_transform
        from segtutor.training import evaluate, fit

        if not available("CamVid"):
            raise BenchmarkError("SF-1 needs CamVid: set SEGTUTOR_DATA to the folder that holds camvid/")
        spec = CamVid("train").spec
        train = CamVid("train", size=SIZE, transform=train_transform(spec, crop=CROP, scale=(0.8, 1.25)))
        model = _model(head, spec.num_classes, seed=seed)
        history = fit(
            model,
            train.keep_in_memory(),
            steps=5 if quick else STEPS,
            batch_size=BATCH,
            lr=LR,
            seed=seed,
            precision="fp32",
            on_step=lambda step, loss: step % 100 == 0 and log(f"step {step} of {STEPS}, loss {loss:.3f}"),
        )
        log(f"{history}")
        test = CamVid("test", size=SIZE, transform=eval_transform(spec))
        scores = evaluate(model, test, limit=8 if quick else None)
        return {"miou": scores.miou, "boundary_miou": scores.boundary_miou}


for _name, _head in HEADS.items():
    _register(_name, _head)
