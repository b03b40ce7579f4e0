"""Chapter 03: the running table's first three rows, what the FCN paper's nets are made of, and FCN-8s' speed."""

from segtutor.lab.harness import experiment
from segtutor.lab.protocols.reference_speed import speed_row
from segtutor.lab.protocols.running_table import table_row


def _tiny(classname):
    def build(num_classes):
        from segtutor import models
        from segtutor.models.fcn import PRESETS

        return getattr(models, classname)(num_classes, **PRESETS["tiny"])

    return build


for _classname in ("FCN32s", "FCN16s", "FCN8s"):
    table_row(_classname.lower(), _tiny(_classname))


@experiment(
    "FCN-1",
    claim="FCN-1",
    seeds=(0,),
    unit={
        "any_size": "share of sizes that work",
        "fc6_share": "share of parameters",
        "dense_share": "share of parameters",
        "vgg16": "parameters",
        "fcn32s": "parameters",
        "without_dense": "parameters",
    },
    conditions="21 classes; sizes 32 to 97 in steps of 13 for either side, tiny preset; parameters counted on the "
    "paper's net and on VGG-16 with its classifier of 1,000 classes",
)
def sizes_and_parameters(seed, quick, log):
    """Which sizes FCN-32s takes, and where the parameters of the paper's net are."""
    import torch

    from segtutor.lab.papers import PAPERS
    from segtutor.models import FCN32s
    from segtutor.models.fcn import PRESETS
    from segtutor.probe import count_parameters

    sides, tiny, good = range(32, 98, 13), FCN32s(21, **PRESETS["tiny"]).eval(), 0
    with torch.inference_mode():
        for height in sides:
            good += sum(tiny(torch.rand(1, 3, height, w)).shape == (1, 21, height, w) for w in sides)
    with torch.device("meta"):
        paper = FCN32s(21, **PRESETS["paper"])
    whole, fc6, fc7 = (count_parameters(module) for module in (paper, paper.fc6, paper.fc7))
    return {
        "any_size": good / len(sides) ** 2,
        "fc6_share": fc6 / whole,
        "dense_share": (fc6 + fc7) / whole,
        "vgg16": PAPERS["vgg"].facts["parameters_vgg16"].value,
        "fcn32s": whole,
        "without_dense": whole - fc6 - fc7,
    }


@experiment(
    "FCN-2",
    claim="FCN-2",
    unit={"boundary_miou": "mIoU within 3 pixels of a border", "pole_iou": "IoU"},
    config={"size": [96, 128], "steps": 400, "thickness": 2},
    conditions="synthetic scenes at 96x128 with poles 2 pixels thick, 400 steps of batch 8, tiny presets from random "
    "weights, scored on 200 other scenes",
)
def skips_on_thin_poles(seed, quick, log):
    """Boundary score and IoU of thin poles for FCN-32s, 16s and 8s."""
    import torch

    from segtutor import models
    from segtutor.data import SyntheticScenes
    from segtutor.data.transforms import eval_transform
    from segtutor.models.fcn import PRESETS
    from segtutor.training import evaluate, fit

    scenes = {"size": (96, 128), "thickness": 2, "transform": eval_transform(SyntheticScenes.spec)}
    train = SyntheticScenes(length=3200, seed=1000 + seed, **scenes)
    test = SyntheticScenes(length=16 if quick else 200, seed=7, **scenes)
    pole, values = SyntheticScenes.spec.classes.index("pole"), {}
    for name in ("FCN32s", "FCN16s", "FCN8s"):
        torch.manual_seed(seed)
        model = getattr(models, name)(11, **PRESETS["tiny"])
        log(f"{name}: {fit(model, train, steps=5 if quick else 400, lr=2e-3, seed=seed, precision='fp32')}")
        scores = evaluate(model, test)
        values[f"{name.lower()}/boundary_miou"] = scores.boundary_miou
        values[f"{name.lower()}/pole_iou"] = scores.iou[pole].item()
    return values


@experiment(
    "FCN-3",
    claim="FCN-3",
    seeds=(0,),
    unit="skip connections",
    conditions="1x1 score layers on pooling layers, counted in the paper's networks as built in segtutor.models.fcn",
)
def skips_in_the_paper(seed, quick, log):
    """How many skips the three networks of the FCN paper have."""
    import torch

    from segtutor import models

    with torch.device("meta"):
        nets = {name: getattr(models, name)(21, padding="paper") for name in ("FCN32s", "FCN16s", "FCN8s")}
    return {n.lower(): sum(k.startswith("score_pool") for k, _ in net.named_children()) for n, net in nets.items()}


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


def _fcn8s(num_classes):
    from segtutor.models import FCN8s

    # A narrow classifier: at 4,096 channels a step is mostly fc6 reading its 103 million weights, on both sides alike.
    return FCN8s(num_classes, hidden=512, score_init="he")


speed_row(
    "fcn8s",
    _fcn8s,
    lambda num_classes: torchvision_fcn8s(num_classes, 512),
    "FCN-8s with VGG-16's own widths and 512 channels in fc6 and fc7, dropout on",
    hidden=512,
)
