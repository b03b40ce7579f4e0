"""Chapter 12: SegFormer's row of the running table, and its time and memory beside transformers."""

from segtutor.lab.protocols.reference_speed import speed_rows
from segtutor.lab.protocols.running_table import table_row


def _tiny(num_classes):
    from segtutor.models import SegFormer
    from segtutor.models.segformer import PRESETS

    return SegFormer(num_classes, **PRESETS["tiny"])


table_row("segformer", _tiny)


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


def networks(preset):
    """A function that makes our SegFormer and transformers', with the same weights and without dropout."""

    def build(side):
        from segtutor.models import SegFormer
        from segtutor.models.segformer import PRESETS
        from segtutor.weights import transplant

        ours = SegFormer(CLASSES, drop_path=0.0, dropout=0.0, **PRESETS[preset])
        theirs = transformers_segformer(CLASSES, preset)
        transplant(theirs.network, ours)
        return ours, theirs

    return build


CLASSES = 19
for _preset, _rounds in {
    "b0": {256: (15, 15), 512: (9, 9), 1024: (5, 5)},
    "b2": {256: (9, 9), 512: (5, 5), 1024: (3, 2)},
}.items():
    speed_rows(
        f"segformer_{_preset}",
        networks(_preset),
        "transformers",
        f"SegFormer-{_preset.upper()}",
        f"{CLASSES} classes, no dropout, no stochastic depth, scores enlarged to the image",
        _rounds,
    )
