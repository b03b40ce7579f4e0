"""Chapter 01: which pixels the gradient comes from under each loss, and what that does to a rare class."""

from segtutor.lab.harness import experiment

SIZE = (64, 64)
SHARES = (0.02, 0.005, 0.002)
STEPS = 120
BATCH = 8


def _scenes(share, length, seed):
    """(image, mask) pairs drawn once and kept, since six losses train on the same ones."""
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import eval_transform

    scenes = SyntheticScenes(
        SIZE, length, seed=seed, rare=share, texture=0.5, transform=eval_transform(SyntheticScenes.spec)
    )
    return scenes.spec, [scenes[i] for i in range(length)]


def _net(num_classes, width=20):
    """Half resolution, five dilated convolutions, a 1x1 classifier: small, and it sees about sixty pixels."""
    from torch import nn

    layers, channels = [nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()], width
    for dilation in (1, 2, 4, 8):
        layers += [nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.Conv2d(width, num_classes, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
    return nn.Sequential(*layers)


def _share_of_gradient(loss, logits, target, label):
    """Part of the gradient with respect to the logits (sum of absolute values) that falls on pixels of one class."""
    logits = logits.clone().requires_grad_()
    loss(logits, target).backward()
    pull = logits.grad.abs().sum(dim=1)  # (B, H, W)
    return (pull[target == label].sum() / pull.sum()).item()


@experiment(
    "LOSS-1",
    claim="LOSS-1",
    unit={
        "pixels": "share of the pixels",
        "ce": "share of the gradient",
        "dice": "share of the gradient",
        "dice_lowest": "Dice coefficient",
        "dice_highest": "Dice coefficient",
        "dice_disjoint": "Dice coefficient",
        "dice_perfect": "Dice coefficient",
    },
    conditions="bicyclist pixels of 64 synthetic scenes at 64x64 with the rare class at 0.5 %, logits drawn from "
    "N(0, 0.1); Dice coefficient of 1,000 pairs of random 16x16 masks, of a mask with its complement and with itself",
)
def gradient_shares(seed, quick, log):
    """Gradient share of a rare class under cross-entropy and Dice, and the range of the Dice coefficient."""
    import torch

    from segtutor.data import SyntheticScenes
    from segtutor.losses import CrossEntropyLoss, DiceLoss
    from segtutor.metrics import ConfusionMatrix

    spec, scenes = _scenes(0.005, 8 if quick else 64, seed=100 + seed)
    rare = spec.classes.index("bicyclist")
    target = torch.stack([mask for _, mask in scenes])  # (B, H, W)
    generator = torch.Generator().manual_seed(seed)
    logits = 0.1 * torch.randn(len(target), SyntheticScenes.spec.num_classes, *SIZE, generator=generator)
    coefficients = []
    for _ in range(50 if quick else 1000):
        dark, bright = torch.rand(2, generator=generator)
        truth, guess = (torch.rand(1, 16, 16, generator=generator) < share for share in (dark, bright))
        coefficients.append(ConfusionMatrix(2).update(guess.long(), truth.long()).dice[1].item())
    coefficients = [value for value in coefficients if value == value]  # both masks empty: no score
    return {
        "pixels": (target == rare).float().mean().item(),
        "ce": _share_of_gradient(CrossEntropyLoss(), logits, target, rare),
        "dice": _share_of_gradient(DiceLoss(), logits, target, rare),
        "dice_lowest": min(coefficients),
        "dice_highest": max(coefficients),
        "dice_disjoint": ConfusionMatrix(2).update(1 - truth.long(), truth.long()).dice[1].item(),
        "dice_perfect": ConfusionMatrix(2).update(truth.long(), truth.long()).dice[1].item(),
    }


def _losses(share_of_class):
    """The losses that are compared, by their names in the rows; weights by SegNet's median frequency balancing."""
    import torch

    from segtutor.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss

    median = share_of_class[share_of_class > 0].median()
    weight = torch.where(share_of_class > 0, median / share_of_class.clamp_min(1e-9), 0.0)
    return {
        "ce": CrossEntropyLoss(),
        "weighted_ce": CrossEntropyLoss(weight=weight),
        "focal": FocalLoss(),
        "dice": DiceLoss(),
        "ce_dice": CombinedLoss([(1.0, CrossEntropyLoss()), (1.0, DiceLoss())]),
        "lovasz": LovaszLoss(),
    }


def _rarity(id, shares, steps):
    """Enter a comparison of the losses on classes that cover little, after so many steps."""
    *most, last = (f"{100 * share:g}" for share in shares)
    percent = f"{', '.join(most)} and {last}" if most else last

    @experiment(
        id,
        claim="LOSS-1",
        unit={"rare_iou": "IoU of the rare class", "miou": "mIoU"},
        config={"size": list(SIZE), "steps": steps, "shares": list(shares)},
        conditions=f"synthetic scenes at 64x64, bicyclists at {percent} % of the pixels, a net of 6 convolutions, "
        f"{steps:,} steps of batch 8, AdamW, learning rate 0.01, scored on 200 other scenes",
    )
    def rare_class(seed, quick, log):
        """IoU of a class that covers little, for six losses."""
        import torch

        from segtutor.training import evaluate, fit

        values = {}
        for share in shares:
            spec, train = _scenes(share, 16 if quick else 400, seed=1000 + seed)
            _, test = _scenes(share, 8 if quick else 200, seed=7)
            counts = torch.stack([mask for _, mask in train]).flatten().bincount(minlength=256)[: spec.num_classes]
            for name, loss in _losses(counts / counts.sum()).items():
                torch.manual_seed(seed)
                net = _net(spec.num_classes)
                history = fit(net, train, steps=3 if quick else steps, batch_size=BATCH, loss=loss, lr=1e-2, seed=seed,
                              precision="fp32")  # fmt: skip
                scores = evaluate(net, test, boundary_width=None)
                key = f"{name}/share_{share:g}"
                values[f"{key}/rare_iou"] = scores.iou[spec.classes.index("bicyclist")].nan_to_num().item()
                values[f"{key}/miou"] = scores.miou
                log(f"{key}: rare {values[f'{key}/rare_iou']:.3f}, mIoU {scores.miou:.3f}, {history}")
        return values


_rarity("LOSS-1/rarity", SHARES, STEPS)
_rarity("LOSS-1/lasting", SHARES[:1], 10 * STEPS)
