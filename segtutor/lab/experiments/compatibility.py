"""Chapter 15: every head on every backbone, built, run, trained for a step, saved and reloaded."""

import math
import tempfile

from segtutor.factory import list_heads
from segtutor.factory.backbones import list_backbone_names
from segtutor.lab.harness import experiment

SIZES = ((65, 97), (128, 128))
HEADS = tuple(head for head in list_heads() if not head.startswith("smp:"))  # smp's decoders are guests


def check_cell(config):
    """Build one combination and use it as a student would; returns its FLOPs for one image of 512x512.

    Raises:
        ArithmeticError: a number is not finite, or the reloaded model computes something else.
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
        features, output = model.forward_head(images)
        loss = F.cross_entropy(resize(output.logits, images.shape[2:]), target)
        # What only an unread map needs, such as its normalisation, has no gradient of the loss, and is no fault.
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
            raise ArithmeticError("the reloaded model computes something else")
    return flops


def _register(backbone, section):
    @experiment(
        f"FAC-1/{backbone}",
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
    _register(_backbone, _section)
