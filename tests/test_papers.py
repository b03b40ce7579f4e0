"""The published facts: read-only, cited, and equal to what can be counted without them."""

import ast
import dataclasses
import json
import re
import unicodedata
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segtutor.lab.papers import PAPERS, Fact, Paper

ROOT = Path(__file__).parents[1]
KEYS = list(PAPERS)
MODELS = [path for path in sorted((ROOT / "segtutor" / "models").glob("*.py")) if path.name != "__init__.py"]


def value(paper: str, fact: str):
    return PAPERS[paper].facts[fact].value


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---- The table itself ------------------------------------------------------------------------------------------------


def test_all_papers_are_there():
    assert all(paper.key == key for key, paper in PAPERS.items())
    known = {paper.arxiv for paper in PAPERS.values()}
    for path in MODELS:
        named = re.findall(r"arXiv (\d{4}\.\d{4,5})", path.read_text(encoding="utf-8").split('"""')[1])
        assert known & set(named), f"{path.name} names arXiv {named}, of which segtutor.lab.papers has none"


def test_facts_are_read_only():
    with pytest.raises(TypeError):
        PAPERS["fcn"] = PAPERS["unet"]
    with pytest.raises(TypeError):
        PAPERS["fcn"].facts["momentum"] = Fact(0.9, "", "nowhere")
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPERS["fcn"].year = 2014
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPERS["fcn"].facts["momentum"].value = 0.9


@pytest.mark.parametrize("key", KEYS)
def test_every_fact_has_a_name_a_plain_value_and_a_source(key):
    paper = PAPERS[key]
    assert isinstance(paper, Paper) and paper.facts
    assert paper.innovation and not paper.innovation.endswith(".")
    assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    for name, fact in paper.facts.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert isinstance(fact.value, (int, float, str, tuple)), name
        assert fact.where, name
        if name.startswith("parameters") and name != "parameters_published":
            assert "parameters" in fact.unit and "computed" in fact.where, name
        if "_miou" in name:
            assert fact.unit.startswith("percent"), name
            values = fact.value if isinstance(fact.value, tuple) else (fact.value,)
            assert all(1 < v < 100 for v in values), name


def possible_facts(call: ast.Call) -> list[tuple[str, Fact]]:
    """The facts that `chapter.paper(key, name)` can mean, where either may have a variable in it."""
    patterns = []
    for argument in call.args:
        parts = argument.values if isinstance(argument, ast.JoinedStr) else [argument]
        patterns.append("".join(re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in parts))
    named = [(key, name, fact) for key, paper in PAPERS.items() for name, fact in paper.facts.items()]
    return [(f"{key}/{name}", fact) for key, name, fact in named if all(map(re.fullmatch, patterns, (key, name)))]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_chapter_calls_published_only_what_a_paper_prints(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "published" in source and "chapter.paper(" in source:
            calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
            for call in (call for call in calls if ast.unparse(call.func) == "chapter.paper"):
                counted = [name for name, fact in possible_facts(call) if fact.where.startswith("computed")]
                assert not counted, f"{path.name} calls published what this book counted: {counted}"


# ---- The bibliography ------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Lower case, no TeX marks, no accents: what two spellings of one name have in common."""
    text = re.sub(r"\\[\"'`^~=.cuvHk]|[{}\\]", "", text)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", text).strip().lower()


def bibliography() -> dict[str, dict[str, str]]:
    entries = {}
    for block in re.split(r"^@", (ROOT / "book/references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]:
        key = re.match(r"\w+\{([^,]+),", block).group(1)
        assert key not in entries, f"{key} stands twice in references.bib"
        fields = re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", block, flags=re.M)
        entries[key] = {name.lower(): text for name, text in fields}
    return entries


@pytest.mark.parametrize("key", KEYS)
def test_bibliography_agrees_with_the_facts(key):
    paper, entry = PAPERS[key], bibliography()[PAPERS[key].bibkey]
    assert plain(entry["title"]) == plain(paper.title)
    assert int(entry["year"]) == paper.year
    assert entry["eprint"] == paper.arxiv
    authors = [" ".join(reversed(name.split(", "))) for name in entry["author"].split(" and ")]
    assert [plain(name) for name in authors] == [plain(name) for name in paper.authors]


def test_bibliography_entries_are_complete():
    for key, entry in bibliography().items():
        assert {"author", "title", "year"} <= entry.keys(), key
        assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]+", key), key
        assert entry["year"] in key, key
        first = entry["author"].split(",")[0]
        assert key.startswith(re.split(r"[ -]", plain(first))[0]), key


# ---- FCN, rebuilt from the prototxt: one channel where only sizes matter --------------------------------------------


def vgg_stages(widths, pad: int) -> OrderedDict:
    """The five stages of VGG16; Caffe's pooling rounds up."""
    stages, channels = OrderedDict(), 3
    for index, (width, depth) in enumerate(zip(widths, value("vgg", "convolutions_per_stage_vgg16"), strict=True)):
        layers = []
        for layer in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=pad if (index, layer) == (0, 0) else 1)]
            channels = width
        stages[f"pool{index + 1}"] = nn.Sequential(*layers, nn.MaxPool2d(2, ceil_mode=True))
    return stages


class PaperFCN(nn.Module):
    """Shapes and parameters of the released nets; `name` is "32s", "16s" or "8s"."""

    def __init__(self, name: str, classes=21, widths=(64, 128, 256, 512, 512), hidden=4096):
        super().__init__()
        self.stages = nn.ModuleDict(vgg_stages(widths, value("fcn", "pad_conv1_1")))
        self.fc6 = nn.Conv2d(widths[-1], hidden, value("fcn", "kernel_fc6"))
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.score = nn.Conv2d(hidden, classes, 1)
        skips = {"32s": (), "16s": (widths[3],), "8s": (widths[3], widths[2])}[name]
        self.skips = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in skips)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(classes, classes, kernel, stride, bias=False)
            for kernel, stride in value("fcn", f"deconvolutions_fcn{name}")
        )
        self.crops = [value("fcn", "crop_pool4"), value("fcn", "crop_pool3")]
        self.final_crop = value("fcn", f"crop_final_fcn{name}")
        self.sides = {}

    def forward(self, x):
        height, width = x.shape[-2:]
        features = {}
        for name, stage in self.stages.items():
            features[name] = x = stage(x)
            self.sides[name] = x.shape[-1]
        x = self.score(self.fc7(self.fc6(x)))
        self.sides["score"] = x.shape[-1]
        for up, skip, level, crop in zip(self.ups, self.skips, ("pool4", "pool3"), self.crops, strict=False):
            x, finer = up(x), skip(features[level])
            x = x + finer[..., crop : crop + x.shape[-2], crop : crop + x.shape[-1]]
            self.sides["fuse" + level[-1]] = x.shape[-1]
        x = self.ups[-1](x)
        self.sides["before_crop"] = x.shape[-1]
        crop = self.final_crop
        return x[..., crop : crop + height, crop : crop + width]


@pytest.mark.parametrize("name", ["32s", "16s", "8s"])
def test_fcn_parameters(name):
    with torch.device("meta"):
        net = PaperFCN(name)
    assert count(net) == value("fcn", f"parameters_fcn{name}")
    assert count(net) - count(net.ups) == value("fcn", f"parameters_fcn{name}_without_deconvolutions")
    assert count(net.fc6) == value("fcn", "parameters_fc6")
    assert count(net.fc7) == value("fcn", "parameters_fc7")


@pytest.mark.parametrize("side", [224, 500])
def test_fcn_sides(side):
    before = []
    for name in ("32s", "16s", "8s"):
        net = PaperFCN(name, classes=1, widths=(1, 1, 1, 1, 1), hidden=1).to("meta")
        assert net(torch.empty(1, 3, side, side, device="meta")).shape[-2:] == (side, side)
        before.append(net.sides["before_crop"])
    assert tuple(before) == value("fcn", f"sides_before_crop_input_{side}")
    names = ("pool3", "pool4", "pool5", "score", "fuse4", "fuse3")
    assert tuple(net.sides[name] for name in names) == value("fcn", f"sides_input_{side}")


def test_fcn_crops_follow_from_the_geometry():
    """Follow the centre of image pixel 0 through both branches: the crop is where they differ."""

    def down(x, kernel=2, stride=2, pad=0):
        return (x + pad - (kernel - 1) / 2) / stride

    def up(x, kernel, stride):
        return x * stride + (kernel - 1) / 2

    pools = [down(down(0, 3, 1, value("fcn", "pad_conv1_1")))]
    for _ in range(4):
        pools.append(down(pools[-1]))
    x = down(pools[4], value("fcn", "kernel_fc6"), 1)
    assert up(x, 64, 32) == value("fcn", "crop_final_fcn32s")
    x = up(x, 4, 2)
    assert pools[3] - x == value("fcn", "crop_pool4")
    assert up(x, 32, 16) == value("fcn", "crop_final_fcn16s")
    x = up(x, 4, 2)
    assert pools[2] - x == value("fcn", "crop_pool3")
    assert up(x, 16, 8) == value("fcn", "crop_final_fcn8s")


@pytest.mark.parametrize("name", ["32s", "8s"])
def test_fcn_cost(name):
    with torch.device("meta"):
        net, image = PaperFCN(name), torch.empty(1, 3, 500, 500)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    published = value("fcn", f"gmac_500_fcn{name}")
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, abs=0.1)


# ---- Backbones, against torchvision ----------------------------------------------------------------------------------


def test_vgg_against_torchvision():
    from torchvision.models import vgg16, vgg16_bn

    with torch.device("meta"):
        plain_net, norm_net = vgg16(), vgg16_bn()
    assert count(plain_net) == value("vgg", "parameters_vgg16")
    assert count(norm_net) == value("vgg", "parameters_vgg16_batch_norm")
    assert count(plain_net.features) == value("vgg", "parameters_vgg16_convolutions")
    assert count(plain_net.classifier) == value("vgg", "parameters_vgg16_classifier")
    convolutions = [m for m in plain_net.features if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == value("vgg", "convolutions_vgg16")
    assert sum(value("vgg", "convolutions_per_stage_vgg16")) == len(convolutions)
    assert value("vgg", "dropout_classifier") == plain_net.classifier[2].p
    assert count(norm_net.features) == value("segnet", "parameters_encoder")


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_against_torchvision(depth):
    from torchvision import models

    with torch.device("meta"):
        net = getattr(models, f"resnet{depth}")()
    assert count(net) == value("resnet", f"parameters_resnet{depth}")
    assert count(net) - count(net.fc) == value("resnet", f"parameters_resnet{depth}_backbone")
    meta = models.get_weight(f"ResNet{depth}_Weights.IMAGENET1K_V1").meta
    assert meta["_metrics"]["ImageNet-1K"]["acc@1"] == value("resnet", f"imagenet_top1_resnet{depth}")
    assert meta["_ops"] == value("resnet", f"gmac_224_resnet{depth}")
    channels = value("resnet", "channels_basic" if depth < 50 else "channels_bottleneck")
    x = torch.empty(1, 3, 64, 64, device="meta")
    x = net.maxpool(net.bn1(net.conv1(x)))
    for stage, width, stride in zip((1, 2, 3, 4), channels, value("resnet", "strides"), strict=True):
        x = getattr(net, f"layer{stage}")(x)
        assert x.shape[1:] == (width, 64 // stride, 64 // stride)


@pytest.mark.parametrize(
    ("paper", "fact", "builder", "keywords"),
    [
        ("resnet", "parameters_fcn_resnet50", "segmentation.fcn_resnet50", {"num_classes": 21}),
        ("resnet", "parameters_fcn_resnet101", "segmentation.fcn_resnet101", {"num_classes": 21}),
        ("deeplab_v3", "parameters_torchvision_resnet50", "segmentation.deeplabv3_resnet50", {"num_classes": 21}),
        ("deeplab_v3", "parameters_torchvision_resnet101", "segmentation.deeplabv3_resnet101", {"num_classes": 21}),
        ("vit", "parameters_base16", "vit_b_16", {}),
        ("vit", "parameters_base32", "vit_b_32", {}),
        ("vit", "parameters_large16", "vit_l_16", {}),
        ("swin", "parameters_tiny", "swin_t", {}),
        ("swin", "parameters_small", "swin_s", {}),
        ("swin", "parameters_base", "swin_b", {}),
    ],
)
def test_counts_against_torchvision(paper, fact, builder, keywords):
    from torchvision import models

    module = models
    for name in builder.split("."):
        module = getattr(module, name)
    if builder.startswith("segmentation"):
        keywords = {**keywords, "weights": None, "weights_backbone": None}
    with torch.device("meta"):
        net = module(**keywords)
    assert count(net) == value(paper, fact)


# ---- Counts of other papers, layer by layer --------------------------------------------------------------------------


def conv(inputs, outputs, kernel, bias=True):
    return inputs * outputs * kernel**2 + (outputs if bias else 0)


@pytest.mark.parametrize(("fact", "channels", "classes"), [("parameters", 1, 2), ("parameters_3_to_21", 3, 21)])
def test_unet_parameters_and_convolutions(fact, channels, classes):
    widths, layers = (64, 128, 256, 512, 1024), []
    for before, width in zip((channels, *widths), widths, strict=False):
        layers += [conv(before, width, 3), conv(width, width, 3)]
    for width in widths[-2::-1]:
        layers += [conv(2 * width, width, 2), conv(2 * width, width, 3), conv(width, width, 3)]
    layers += [conv(widths[0], classes, 1)]
    assert sum(layers) == value("unet", fact)
    assert len(layers) == value("unet", "convolutions")


def test_unet_sides():
    side, sides, skips = value("unet", "input_side"), [], []
    for _ in range(4):
        side -= 4
        sides.append(side)
        skips.append(side)
        assert side % 2 == 0
        side //= 2
    side -= 4
    sides.append(side)
    crops = []
    for skip in reversed(skips):
        crops.append((skip, 2 * side))
        side = 2 * side - 4
        sides.append(side)
    assert tuple(sides) == value("unet", "sides_input_572")
    assert tuple(crops) == value("unet", "skip_crops")
    assert side == value("unet", "output_side") == value("unet", "input_side") - value("unet", "lost_border")
    remainder, modulus = value("unet", "valid_input_remainder")
    assert value("unet", "input_side") % modulus == remainder


@pytest.mark.parametrize(
    ("fact", "classes", "bias"),
    [("parameters", 11, True), ("parameters_21_classes", 21, True), ("parameters_without_biases", 11, False)],
)
def test_segnet_parameters(fact, classes, bias):
    encoder = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    encoder += [(512, 512)] * 5
    decoder = [(512, 512)] * 5 + [(512, 256), (256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    normed = encoder + decoder
    total = sum(conv(i, o, 3, bias) + 2 * o for i, o in normed) + conv(64, classes, 3)
    assert total == value("segnet", fact)
    assert len(normed) == value("segnet", "batch_norms")
    assert len(normed) + 1 == value("segnet", "convolutions")
    assert sum(conv(i, o, 3) + 2 * o for i, o in encoder) == value("segnet", "parameters_encoder")


@pytest.mark.parametrize(
    ("fact", "kernel", "hidden"),
    [("parameters_largefov", 3, 1024), ("parameters_7x7", 7, 4096), ("parameters_4x4", 4, 4096)],
)
def test_deeplab_v1_parameters(fact, kernel, hidden):
    head = conv(512, hidden, kernel) + conv(hidden, hidden, 1) + conv(hidden, 21, 1)
    assert value("vgg", "parameters_vgg16_convolutions") + head == value("deeplab_v1", fact)


def test_deeplab_v2_parameters():
    head = len(value("deeplab_v2", "rates_aspp_l")) * conv(2048, 21, 3)
    assert head == value("deeplab_v2", "parameters_resnet101_head")
    assert value("resnet", "parameters_resnet101_backbone") + head == value("deeplab_v2", "parameters_resnet101")
    branch = conv(512, 1024, 3) + conv(1024, 1024, 1) + conv(1024, 21, 1)
    assert value("vgg", "parameters_vgg16_convolutions") + 4 * branch == value("deeplab_v2", "parameters_vgg_aspp_l")


def test_pspnet_parameters():
    bins = value("pspnet", "bins")
    pyramid = len(bins) * (conv(2048, 512, 1, bias=False) + 2 * 512)
    head = conv(4096, 512, 3, bias=False) + 2 * 512 + conv(512, 21, 1)
    auxiliary = conv(1024, 256, 3, bias=False) + 2 * 256 + conv(256, 21, 1)
    total = value("resnet", "parameters_resnet50_backbone") + pyramid + head
    assert pyramid == value("pspnet", "parameters_pyramid_pooling")
    assert total == value("pspnet", "parameters_resnet50")
    assert total + auxiliary == value("pspnet", "parameters_resnet50_auxiliary")
    stem = conv(3, 64, 7, bias=False) + 2 * 64
    deep_stem = sum(conv(i, o, 3, bias=False) + 2 * o for i, o in ((3, 64), (64, 64), (64, 128)))
    # 128 channels leave the deep stem, and the first block of layer1 reads them twice: its conv1 and its downsample.
    wider = conv(64, 64, 1, bias=False) + conv(64, 256, 1, bias=False)
    assert total - stem + deep_stem + wider == value("pspnet", "parameters_resnet50_deep_stem")


def test_upernet_head_parameters():
    stages, width, classes = (96, 192, 384, 768), 512, 150
    norm = 2 * width
    pyramid = 4 * (conv(stages[-1], width, 1, False) + norm)
    bottleneck = conv(stages[-1] + 4 * width, width, 3, False) + norm
    laterals = sum(conv(stage, width, 1, False) + norm for stage in stages[:3])
    smoothing = 3 * (conv(width, width, 3, False) + norm)
    fusion = conv(4 * width, width, 3, False) + norm
    head = pyramid + bottleneck + laterals + smoothing + fusion + conv(width, classes, 1)
    assert head == value("upernet", "parameters_head_swin_tiny")
    auxiliary = conv(stages[2], 256, 3, False) + 2 * 256 + conv(256, classes, 1)
    assert auxiliary == value("upernet", "parameters_auxiliary_swin_tiny")


def segformer_backbone(dims, depths) -> int:
    total, before = 0, 3
    for dim, depth, kernel, reduction in zip(dims, depths, (7, 3, 3, 3), (8, 4, 2, 1), strict=True):
        block = 2 * 2 * dim + 4 * (dim * dim + dim)  # two norms; q, k, v and the projection
        block += conv(dim, dim, reduction) + 2 * dim if reduction > 1 else 0
        block += (dim * 4 * dim + 4 * dim) + (4 * dim * 9 + 4 * dim) + (4 * dim * dim + dim)  # Mix-FFN
        total += conv(before, dim, kernel) + 2 * dim + depth * block + 2 * dim
        before = dim
    return total


def test_segformer_parameters():
    wide = (64, 128, 320, 512)
    dims = [(32, 64, 160, 256)] + [wide] * 5
    depths = [(2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 18, 3), (3, 8, 27, 3), (3, 6, 40, 3)]
    backbones = tuple(segformer_backbone(d, n) for d, n in zip(dims, depths, strict=True))
    assert backbones == value("segformer", "parameters_backbone")
    totals = []
    for backbone, dim, width in zip(backbones, dims, (256, 256, 768, 768, 768, 768), strict=True):
        head = sum(d * width + width for d in dim) + conv(4 * width, width, 1, False) + 2 * width + conv(width, 150, 1)
        totals.append(backbone + head)
    assert tuple(totals) == value("segformer", "parameters_150_classes")
    # Printed to one decimal, with the decoder of the paper: never further away than one unit of that decimal.
    for total, printed in zip(totals, value("segformer", "parameters_published"), strict=True):
        assert total / 1e6 == pytest.approx(printed, abs=0.1)


def test_published_tuples_have_matching_lengths():
    pairs = [
        ("deeplab_v3", "cascade_output_strides", "cascade_voc2012val_miou"),
        ("deeplab_v3plus", "low_level_channels_tried", "low_level_channels_voc2012val_miou"),
        ("segformer", "variants", "ade20k_val_miou"),
        ("segformer", "variants", "ade20k_val_miou_multi_scale"),
        ("segformer", "variants", "cityscapes_val_miou"),
        ("segformer", "variants", "gmac_512_published"),
    ]
    for paper, left, right in pairs:
        assert len(value(paper, left)) == len(value(paper, right)), (paper, right)
    assert len(value("segnet", "camvid_class_weights")) == 11
