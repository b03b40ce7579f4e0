"""Chapter 11: the row of Swin with UPerNet in the running table, and both beside torchvision and transformers."""

from segtutor.lab.protocols.reference_speed import speed_rows
from segtutor.lab.protocols.running_table import table_row


def _tiny(num_classes):
    from segtutor.models import SwinUPerNet
    from segtutor.models.upernet import PRESETS

    return SwinUPerNet(num_classes, **PRESETS["tiny"])


table_row("swin_upernet", _tiny)


# ---------------------------------------------------------------------------------------------------------------- speed


def torchvision_swin():
    """torchvision's Swin-T without stochastic depth: images (B, 3, H, W) to the last of its four maps."""
    from torch import nn
    from torchvision.models.swin_transformer import SwinTransformer

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            depths, heads = [2, 2, 6, 2], [3, 6, 12, 24]
            self.network = SwinTransformer([4, 4], 96, depths, heads, [7, 7], stochastic_depth_prob=0.0)

        def forward(self, images):
            x, maps = images, []
            for number, layer in enumerate(self.network.features):
                x = layer(x)
                if number % 2:  # the end of a stage: a decoder needs all four
                    maps.append(x.permute(0, 3, 1, 2))
            return maps[-1]

    return Reference()


def transformers_upernet(num_classes):
    """transformers' UPerNet on Swin-T without stochastic depth: images (B, 3, H, W) to logits."""
    from torch import nn
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = UperNetConfig(
        backbone_config=SwinConfig(depths=[2, 2, 6, 2], out_features=stages, drop_path_rate=0.0),
        num_labels=num_classes,
        use_auxiliary_head=False,
    )

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = UperNetForSemanticSegmentation(config)

        def forward(self, images):
            return self.network(images).logits

    return Reference()


def backbones(side):
    """Our Swin-T and torchvision's with the same weights; both make four maps and return the last."""
    from torch import nn

    from segtutor.models import SwinTransformer
    from segtutor.weights import transplant

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = SwinTransformer(drop_path=0.0)

        def forward(self, images):
            return self.network(images)[-1]

    ours, theirs = Last(), torchvision_swin()
    transplant(theirs.network, ours.network)
    return ours, theirs


def networks(side):
    """Our Swin-T with UPerNet and transformers' with the same weights."""
    from segtutor.models import SwinUPerNet
    from segtutor.weights import transplant

    ours, theirs = SwinUPerNet(CLASSES, drop_path=0.0, dropout=0.0), transformers_upernet(CLASSES)
    transplant(theirs.network, ours)
    return ours, theirs


def frozen(model):
    """Put a model into training mode, but its batch normalisation at the running statistics.

    One image has one value per channel in the pyramid's coarsest bin, of which transformers' takes no statistics.
    """
    from torch import nn

    for layer in model.train().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


CLASSES = 19
speed_rows(
    "swin",
    backbones,
    "torchvision",
    "Swin-T",
    "no stochastic depth, four maps",
    # Windows of 7 divide the maps at 224 alone.
    {224: (7, 7), 256: (7, 7), 512: (5, 5), 1024: (5, 5)},
)
speed_rows(
    "swin_upernet",
    networks,
    "transformers",
    "Swin-T with UPerNet",
    f"{CLASSES} classes, no dropout, no stochastic depth, batch normalisation at its running statistics",
    {256: (7, 5), 512: (3, 3), 1024: (2, 2)},
    training=frozen,
)
