"""Chapter 12: SegFormer's row of the running table, and its time and memory beside transformers."""

import statistics
from copy import deepcopy

from segtutor.benchmark import Measurement, experiment, protocol
from segtutor.benchmark.speed import forward_seconds, in_turns, quartiles, step_seconds


def _tiny(num_classes):
    from segtutor.models import SegFormer
    from segtutor.models.segformer import PRESETS

    return SegFormer(num_classes, **PRESETS["tiny"])


protocol.table_row("segformer", _tiny)


# ---------------------------------------------------------------------------------------------------------------- speed


def transformers_segformer(num_classes, name):
    """transformers' SegFormer without dropout: images (B, 3, H, W) to logits (B, num_classes, H, W).

    Args:
        num_classes: classes to score.
        name: a preset of `segtutor.models.segformer`.
    """
    from torch import nn
    from torch.nn import functional as F
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    from segtutor.models.segformer import PRESETS

    options = {"channels": (32, 64, 160, 256), "depths": (2, 2, 2, 2), "heads": (1, 2, 5, 8), **PRESETS[name]}
    config = SegformerConfig(
        hidden_sizes=list(options["channels"]),
        depths=list(options["depths"]),
        num_attention_heads=list(options["heads"]),
        decoder_hidden_size=options["proj_dim"],
        num_labels=num_classes,
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
    )

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = SegformerForSemanticSegmentation(config)

        def forward(self, images):
            logits = self.network(images).logits
            return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    return Reference()


def same_weights(ours, theirs) -> None:
    """Copy the weights of our SegFormer into transformers', by the key map that goes the other way."""
    import torch

    from segtutor.weights import transplant

    names, state = transplant(theirs, deepcopy(ours)).copied, ours.state_dict()
    with torch.no_grad():
        for source, place in names:
            theirs.state_dict()[source].copy_(state[place])


def at_faster_format(make):
    """Of the runs that ``make(layout)`` returns, the one in the memory format that is faster after a run to warm up."""
    import torch

    runs = {layout: make(layout) for layout in (torch.contiguous_format, torch.channels_last)}
    trials = {layout: [once() for _ in range(3)] for layout, once in runs.items()}
    return runs[min(trials, key=lambda layout: min(trials[layout][1:]))]


def beside_transformers(name, sizes, seed, quick, log):
    """Time and memory of SegFormer over transformers', forward and with the backward pass, at several sizes.

    Args:
        name: a preset.
        sizes: side of the image to (rounds of the forward pass, rounds with the backward pass; 0 leaves it out).
        seed: of weights and images.
        quick: one round, at the smallest size alone.
        log: prints a progress line.
    """
    import torch

    from segtutor import probe
    from segtutor.models import SegFormer
    from segtutor.models.segformer import PRESETS

    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = SegFormer(CLASSES, drop_path=0.0, dropout=0.0, **PRESETS[name])
    theirs = transformers_segformer(CLASSES, name)
    same_weights(ours, theirs.network)
    models, values = {"segtutor": ours.to(device), "transformers": theirs.to(device)}, {}
    x = torch.randn(1, 3, 96, 128, device=device)
    with torch.inference_mode():  # a ratio means nothing if the two do not compute the same
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-3, atol=1e-3)
    for side, (forwards, steps) in sizes.items() if not quick else [(64, (1, 1))]:
        images = torch.randn(1, 3, side, side, device=device)
        target = torch.randint(0, CLASSES, (1, side, side), device=device)
        kinds = {
            "forward": (forwards, False, lambda model, images: forward_seconds(model, images)),
            "step": (steps, True, lambda model, images, target=target: step_seconds(model.train(), images, target)),
        }
        for kind, (rounds, training, timer) in kinds.items():
            peaks = [probe.count_peak_bytes(m, (side, side), batch=1, training=training) for m in models.values()]
            values[f"{side}/{kind}_memory"] = peaks[0] / peaks[1]
            if rounds == 0:
                continue

            def maker(model, timer=timer, images=images):
                def make(layout):
                    return timer(deepcopy(model).to(memory_format=layout), images.to(memory_format=layout))

                return make

            seconds = in_turns({key: at_faster_format(maker(model)) for key, model in models.items()}, rounds, warmup=1)
            ratios = [mine / other for mine, other in zip(*seconds.values(), strict=True)]
            values[f"{side}/{kind}"] = Measurement(statistics.median(ratios), quartiles(ratios))
            for key, times in seconds.items():
                values[f"{side}/{kind}_ms_{key}"] = 1000 * statistics.median(times)
            log(f"{side} {kind}: {values[f'{side}/{kind}']}, memory {values[f'{side}/{kind}_memory']:.3f}")
    return values


CLASSES = 19
SIZES = {
    "b0": {256: (15, 15), 512: (9, 9), 1024: (5, 5)},
    # With the backward pass at 1024 pixels: a minute for each run, and more memory than many machines have.
    "b2": {256: (9, 9), 512: (7, 5), 1024: (3, 0)},
}
_UNITS = {
    **dict.fromkeys(("forward", "step", "forward_memory", "step_memory"), "ratio"),
    **{f"{kind}_ms_{side}": "ms" for kind in ("forward", "step") for side in ("segtutor", "transformers")},
}


def _register(name):
    @experiment(
        f"speed/segformer_{name}",
        seeds=(0,),
        device="auto",
        unit=_UNITS,
        config={"classes": CLASSES, "sizes": {str(side): list(rounds) for side, rounds in SIZES[name].items()}},
        conditions=f"SegFormer-{name.upper()} over transformers' with the same weights, no dropout, 19 classes, logits "
        "enlarged to the image, batch 1, fp32, each side at its faster memory format; forward: in evaluation mode; "
        "step: forward, cross-entropy and backward; processor time where one thread runs, in turns in one process, "
        "median and quartiles of the ratios; memory: most bytes alive at once beside the weights, counted",
    )
    def row(seed, quick, log):
        """SegFormer beside transformers' at 256, 512 and 1024 pixels: time, and memory at its peak."""
        return beside_transformers(name, SIZES[name], seed, quick, log)


for _name in SIZES:
    _register(_name)
