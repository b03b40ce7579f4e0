"""How long things take: imports, synthetic images, and our FCN-8s beside the same layers from torchvision."""

import statistics
import subprocess
import sys
import time
from copy import deepcopy

from segtutor.lab.harness import Measurement, experiment

_TIMER = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
_PARTS = "segtutor.models.fcn, segtutor.losses, segtutor.metrics, segtutor.training, segtutor.probe"


def quartiles(values) -> tuple[float, float]:
    """The lower and upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def paired_ratio(ours, theirs, pairs, *, warmup=2) -> Measurement:
    """The median over pairs of seconds(ours) / seconds(theirs), with its quartiles.

    The two sides of a pair run one after the other, in turns first and second, so that a machine that slows down or
    is shared slows both.

    Args:
        ours: Runs one side once and returns the seconds it took.
        theirs: The other side.
        pairs: How many pairs.
        warmup: Pairs that are run and forgotten.
    """
    ratios = []
    for number in range(warmup + pairs):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        a, b = first(), second()
        ratio = a / b if number % 2 == 0 else b / a
        if number >= warmup:
            ratios.append(ratio)
    return Measurement(statistics.median(ratios), quartiles(ratios))


def _import_seconds(modules: str):
    def once() -> float:
        code = _TIMER.format(modules)
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(answer.stdout)

    return once


@experiment(
    "speed/import",
    unit="ratio",
    seeds=(0,),
    conditions="seconds to import, each in a fresh process, 9 pairs in turns after 2 warm-up pairs, median of the "
    "ratios and their quartiles",
)
def import_ratio(seed, quick, log):
    """Import time of the package, alone and with its models, losses and loop, over that of torch."""
    pairs = 3 if quick else 9
    torch = _import_seconds("torch")
    alone = paired_ratio(_import_seconds("segtutor"), torch, pairs)
    log("package done")
    return {"package": alone, "parts": paired_ratio(_import_seconds(_PARTS), torch, pairs)}


@experiment(
    "speed/synthetic",
    unit="images/s",
    seeds=(0,),
    config={"size": 128},
    conditions="images of 128x128 made one after the other on one thread, per second of processor time, median and "
    "quartiles of 20 rounds of 50",
)
def synthetic(seed, quick, log):
    """Images per second of the two synthetic sets."""
    import torch

    from segtutor.data import SyntheticCells, SyntheticScenes

    rounds, images = (3, 10) if quick else (20, 50)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = {}
        for name, kind in (("scenes", SyntheticScenes), ("cells", SyntheticCells)):
            dataset = kind(size=(128, 128), length=(rounds + 1) * images, seed=seed)
            rates = []
            for start in range(rounds + 1):
                begun = time.process_time()  # other programs on the machine do not count
                for index in range(start * images, (start + 1) * images):
                    dataset[index]
                rates.append(images / (time.process_time() - begun))
            measured[name] = Measurement(statistics.median(rates[1:]), quartiles(rates[1:]))
            log(f"{name}: {measured[name].value:.0f} images/s")
    finally:
        torch.set_num_threads(threads)
    return measured


# ------------------------------------------------------------------------------------ our FCN-8s beside the same layers


def torchvision_fcn8s(num_classes, hidden):
    """FCN-8s (padded) on torchvision's VGG-16 features: images (B, 3, H, W) to logits, H and W multiples of 32.

    Its parameters come in the order of ``segtutor.models.FCN8s``.
    """
    from torch import nn
    from torchvision.models import vgg

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = vgg.make_layers(vgg.cfgs["D"])
            self.classifier = nn.Sequential(
                nn.Conv2d(512, hidden, 7, padding=3),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Conv2d(hidden, hidden, 1),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Conv2d(hidden, num_classes, 1),
            )
            self.up5 = nn.ConvTranspose2d(num_classes, num_classes, 4, 2, 1, bias=False)
            self.score4 = nn.Conv2d(512, num_classes, 1)
            self.up4 = nn.ConvTranspose2d(num_classes, num_classes, 4, 2, 1, bias=False)
            self.score3 = nn.Conv2d(256, num_classes, 1)
            self.up3 = nn.ConvTranspose2d(num_classes, num_classes, 16, 8, 4, bias=False)

        def forward(self, images):
            pool3 = self.features[:17](images)
            pool4 = self.features[17:24](pool3)
            score = self.up5(self.classifier(self.features[24:](pool4))) + self.score4(pool4)
            return self.up3(self.up4(score) + self.score3(pool3))

    return Reference()


def step_seconds(model, images, target, *, mixed=False):
    """A function that runs one forward and backward pass and returns its seconds.

    Args:
        model: In the mode that is to be timed.
        images: (B, C, H, W), on the model's device.
        target: (B, H, W), or (B,) where the model gives one answer per image.
        mixed: bfloat16 autocast where the images are on a GPU.
    """
    import torch

    def step():
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed and images.is_cuda):
            loss = torch.nn.functional.cross_entropy(model(images), target)
        loss.backward()

    return _timed(step, images.device.type, before=lambda: model.zero_grad(set_to_none=True))


def forward_seconds(model, images, *, mixed=False):
    """A function that runs one forward pass in evaluation mode and returns its seconds.

    Args:
        model: Any model.
        images: (B, C, H, W), on the model's device.
        mixed: bfloat16 autocast where the images are on a GPU.
    """
    import torch

    @torch.inference_mode()
    def forward():
        with torch.autocast(images.device.type, torch.bfloat16, enabled=mixed and images.is_cuda):
            model(images)

    return _timed(forward, images.device.type, before=model.eval)


def _timed(run, device, before):
    """A function that calls ``before`` and ``run`` and returns the seconds of ``run``."""
    import torch

    # On a CPU with one thread, processor time: what else runs on the machine does not count.
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def once() -> float:
        before()
        wait()
        begun = clock()
        run()
        wait()
        return clock() - begun

    return once


def in_turns(runs, rounds, warmup=2):
    """Seconds of each run, by its name, all in turns: a machine that slows down or is shared slows all.

    Args:
        runs: Name to a function that runs something once and returns its seconds.
        rounds: Rounds that count, every second one from last to first.
        warmup: Rounds before these.
    """
    seconds = {name: [] for name in runs}
    for number in range(warmup + rounds):
        for name in list(runs) if number % 2 == 0 else reversed(list(runs)):
            seconds[name].append(runs[name]())
    return {name: times[warmup:] for name, times in seconds.items()}


def each_at_its_best(models, once, rounds, log):
    """Time models in turns, each at its faster memory format.

    Args:
        models: Name to model.
        once: ``once(model, layout)`` returns a function that runs something and returns its seconds.
        rounds: Rounds that count, after 2 to warm up.
        log: Prints a progress line.

    Returns:
        dict: Name to the seconds of each round.
    """
    import torch

    layouts = (torch.contiguous_format, torch.channels_last)
    runs = {
        (name, layout): once(deepcopy(model).to(memory_format=layout), layout)
        for name, model in models.items()
        for layout in layouts
    }
    seconds = in_turns(runs, rounds)
    best = {}
    for name in models:
        layout = min(layouts, key=lambda layout: statistics.median(seconds[name, layout]))
        best[name] = seconds[name, layout]
        log(f"{name}: {layout}, {1000 * statistics.median(best[name]):.0f} ms")
    return best


def beside(ours, theirs, images, target, quick, log, *, name="torchvision"):
    """A training step of our model over that of a reference with the same layers, each at its faster memory format.

    Args:
        ours: Our model, on the device of the images.
        theirs: The reference; its parameters come in the same order and are overwritten by ours.
        images: (B, C, H, W).
        target: (B, H, W).
        quick: 2 rounds in place of 15.
        log: Prints a progress line.
        name: What the reference is called in the rows.

    Returns:
        dict: ``ratio``, ``ms_segtutor`` and ``ms_<name>``, each a Measurement.
    """
    import torch

    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
        # A ratio means nothing if the two do not compute the same.
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-3, atol=1e-3)
    best = each_at_its_best(
        {"segtutor": ours.train(), name: theirs.train()},
        lambda model, layout: step_seconds(model, images.to(memory_format=layout), target),
        2 if quick else 15,
        log,
    )
    ratios = [mine / other for mine, other in zip(*best.values(), strict=True)]
    measured = {"ratio": Measurement(statistics.median(ratios), quartiles(ratios))}
    for side, times in best.items():
        times = [1000 * each for each in times]
        measured[f"ms_{side}"] = Measurement(statistics.median(times), quartiles(times))
    return measured


def rival(key, ours, theirs, what, **config) -> None:
    """Register ``speed/<key>``: a training step of our network over that of a reference with the same layers.

    Args:
        key: The network, in lower case.
        ours: ``ours(num_classes)`` builds it.
        theirs: ``theirs(num_classes)`` builds the reference; its parameters come in the same order.
        what: The network in words, for the conditions.
        **config: Settings beyond the images' size, the batch and the classes.
    """
    config = {"size": 96, "batch": 2, "classes": 21, **config}

    @experiment(
        f"speed/{key}",
        group="speed",
        unit={"ratio": "ratio", "ms_segtutor": "ms", "ms_torchvision": "ms"},
        seeds=(0,),
        device="auto",
        config=config,
        conditions=f"forward and backward of {what}, batch 2 at 96x96, fp32, the same weights on both sides, each at "
        "its faster memory format, 15 rounds in turns after 2 to warm up in one process, processor time where one "
        "thread runs, median and quartiles",
    )
    def row(seed, quick, log):
        """Our network over the same layers built from torchvision, forward and backward."""
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(2, 3, 96, 96, generator=generator).to(device)
        target = torch.randint(0, 21, (2, 96, 96), generator=generator).to(device)
        return beside(ours(21).to(device), theirs(21).to(device), images, target, quick, log)


FORMAT_SIDE = 512  # the memory format of larger images is chosen here


def rival_at_sizes(key, build, reference, what, settings, rounds, *, training=None) -> None:
    """Register ``speed/<key>/<side>``: our network over a reference with the same weights, at several image sizes.

    Args:
        key: The network, in lower case.
        build: ``build(side)`` makes ours and the reference, with the same weights.
        reference: The library that the reference comes from, for the rows.
        what: The network in words, for the conditions.
        settings: Of both networks, in words.
        rounds: Side of the image to (rounds of the forward pass, rounds with the backward pass).
        training: Puts a network into the mode of the backward pass; left out, training mode.
    """
    times = {f"{kind}_ms_{side}": "ms" for kind in ("forward", "step") for side in ("segtutor", reference)}
    unit = {**dict.fromkeys(("forward", "step", "forward_memory", "step_memory"), "ratio"), **times}
    for side, (forwards, steps) in rounds.items():

        @experiment(
            f"speed/{key}/{side}",
            seeds=(0,),
            group="speed",
            device="auto",
            unit=unit,
            config={"side": side, "rounds": [forwards, steps]},
            conditions=f"{what} over that of {reference}; the same weights, {settings}; batch 1, fp32 on a CPU and "
            "bfloat16 autocast on a GPU, each side at its faster memory format (above "
            f"{FORMAT_SIDE} pixels, at that of {FORMAT_SIDE}); forward in evaluation mode; step: forward, "
            "cross-entropy and backward; processor time where one thread runs, in turns in one process after a round "
            "to warm up, median and quartiles; memory: most bytes alive at once beside the weights, counted at batch 2",
        )
        def row(seed, quick, log, side=side, rounds=(forwards, steps)):
            """Our network beside a reference: time and peak memory, forward and with the backward pass."""
            import torch

            torch.manual_seed(seed)
            side, trial, rounds = (64, 64, (2, 2)) if quick else (side, min(side, FORMAT_SIDE), rounds)
            device, names = "cuda" if torch.cuda.is_available() else "cpu", ("segtutor", reference)
            formats = faster_formats(_sides(build, names, trial, device), trial, device, training)
            log("; ".join(f"{name}, {kind}: {layout}" for (kind, name), layout in formats.items()))
            return over_reference(_sides(build, names, side, device), side, device, training, formats, rounds, log)


def _sides(build, names, side, device):
    return {name: model.to(device) for name, model in zip(names, build(side), strict=True)}


def _runs(model, side, device, training, layout):
    """Functions that time one forward pass, and one with the backward pass, of a copy of the model."""
    import torch

    generator = torch.Generator().manual_seed(side)
    model = deepcopy(model).to(memory_format=layout)
    images = torch.randn(1, 3, side, side, generator=generator).to(device, memory_format=layout)
    with torch.inference_mode():
        scores = model.eval()(images)
    target = torch.randint(0, scores.shape[1], (1, *scores.shape[2:]), generator=generator).to(device)
    step = step_seconds(model, images, target, mixed=True)

    def in_training() -> float:
        (training or torch.nn.Module.train)(model)
        return step()

    return {"forward": forward_seconds(model, images, mixed=True), "step": in_training}, scores


def faster_formats(models, side, device, training):
    """For each pass and model the memory format in which the second of two runs is faster."""
    import torch

    seconds = {}
    for name, model in models.items():
        for layout in (torch.contiguous_format, torch.channels_last):
            for kind, once in _runs(model, side, device, training, layout)[0].items():
                once()
                seconds.setdefault((kind, name), {})[layout] = once()
    return {key: min(times, key=times.get) for key, times in seconds.items()}


def over_reference(models, side, device, training, formats, rounds, log):
    """Time and counted memory of the first model over the second.

    Args:
        models: Name to model, two of them, with the same weights.
        side: Side of the image.
        device: Where the models are.
        training: Puts a network into the mode of the backward pass, or None.
        formats: (pass, name) to memory format, from :func:`faster_formats`.
        rounds: Of the forward pass, and with the backward pass.
        log: Prints a progress line.
    """
    import torch

    from segtutor import probe

    names, values = list(models), {}
    for kind, count in zip(("forward", "step"), rounds, strict=True):
        peaks = [probe.count_peak_bytes(m, (side, side), batch=2, training=kind == "step") for m in models.values()]
        values[f"{kind}_memory"] = peaks[0] / peaks[1]
        made = {name: _runs(m, side, device, training, formats[kind, name]) for name, m in models.items()}
        ours, theirs = (scores for _, scores in made.values())
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)  # else a ratio means nothing
        seconds = in_turns({name: runs[kind] for name, (runs, _) in made.items()}, count, warmup=1)
        ratios = [mine / other for mine, other in zip(*seconds.values(), strict=True)]
        values[kind] = Measurement(statistics.median(ratios), quartiles(ratios))
        for name, times in seconds.items():
            values[f"{kind}_ms_{name}"] = Measurement(
                1000 * statistics.median(times), quartiles([1000 * t for t in times])
            )
        log(f"{kind}: {values[kind].value:.3f} of the time of {names[1]}, {values[f'{kind}_memory']:.3f} of its memory")
    return values


def _fcn8s(num_classes):
    from segtutor.models import FCN8s

    # A narrow classifier: at 4,096 channels a step is mostly fc6 reading its 103 million weights, on both sides alike.
    return FCN8s(num_classes, hidden=512, score_init="he")


rival(
    "fcn8s",
    _fcn8s,
    lambda num_classes: torchvision_fcn8s(num_classes, 512),
    "FCN-8s with VGG-16's own widths and 512 channels in fc6 and fc7, dropout on",
    hidden=512,
)
