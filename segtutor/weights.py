"""Carrying published weights into the from-scratch models.

`transplant` copies tensors from a reference network into one of ours, by a map of names that is written here once and
used by tests, chapters and `load_pretrained` alike. It copies everything or nothing: a tensor on either side that the
map does not mention is an error, so that a model is never half loaded in silence.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn


class WeightsError(RuntimeError):
    """Published weights could not be fetched or read."""


@dataclass(frozen=True)
class Report:
    """What `transplant` did.

    Attributes:
        copied: pairs (name in the source, name in the target).
        left: names in the source that the map leaves out.
        fresh: names in the target that keep their own initialisation.
    """

    copied: tuple[tuple[str, str], ...]
    left: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"copied  {len(self.copied)} tensors"]
        lines += [f"left    {', '.join(self.left)}"] if self.left else []
        lines += [f"fresh   {', '.join(self.fresh)}"] if self.fresh else []
        return "\n".join(lines)


@dataclass(frozen=True)
class KeyMap:
    """How the names of a source become the names of a target.

    Attributes:
        rename: source name to target name, or None where the source's tensor is left out.
        fresh: pattern of the target's names that have no source.
        reshape: pattern of the target's names whose tensor is a reshaped one of the source (a fully connected layer
            that became a convolution).
        optional: pattern of names that a target may lack; the source's tensors are then left out (an auxiliary head).
        prepare: what happens to the source's tensors first.
        decimate: layer of the target to the kernel's side in the source, where the target may have fewer filters,
            channels and taps: evenly spaced ones of the source are copied as they are (DeepLab v1, Section 3.2).
    """

    rename: Callable[[str], str | None]
    fresh: str = r"(?!)"  # matches nothing
    reshape: str = r"(?!)"
    optional: str = r"(?!)"
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda source: source
    decimate: Mapping[str, int] = field(default_factory=dict)


def _vgg_features(batch_norm: bool, depths: tuple[int, ...] = (2, 2, 3, 3, 3)) -> dict[str, str]:
    """torchvision's ``features.<index>`` to the paper's names, by counting its layers."""
    names, index = {}, 0
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            names[f"features.{index}"] = f"stage{stage}.conv{stage}_{i}"
            if batch_norm:
                names[f"features.{index + 1}"] = f"stage{stage}.bn{stage}_{i}"
            index += 3 if batch_norm else 2  # convolution, (normalisation), ReLU
        index += 1  # pool
    return names


def _vgg_map(batch_norm: bool, *, backbone: str = "", classifier: Mapping[str, str] | None = None, **options) -> KeyMap:
    layers = {source: backbone + target for source, target in _vgg_features(batch_norm).items()}
    layers |= classifier or {}

    def rename(name: str) -> str | None:
        layer, _, tensor = name.rpartition(".")
        if layer.startswith("classifier.") and layer not in layers:
            return None
        return f"{layers[layer]}.{tensor}" if layer in layers else name

    return KeyMap(rename, **options)


def _resnet_rename(name: str) -> str | None:
    if name.startswith("fc."):
        return None
    name = re.sub(r"^layer(\d)", lambda match: f"conv{int(match[1]) + 1}_x", name)
    return name.replace(".downsample.", ".shortcut.")


def _resnet_map(*, backbone: str = "", **options) -> KeyMap:
    def rename(name: str) -> str | None:
        renamed = _resnet_rename(name)
        return None if renamed is None else backbone + renamed

    return KeyMap(rename, **options)


def _by_prefix(parts: Mapping[str, str | None]) -> Callable[[str], str | None]:
    """Rename by the longest known beginning of a name; None leaves a part out, a backbone is named as in `ResNet`."""

    def rename(name: str) -> str | None:
        known = [part for part in parts if name.startswith(part + ".")]
        if not known:
            return name
        source = max(known, key=len)
        target, rest = parts[source], name[len(source) + 1 :]
        if target is None:
            return None
        return f"{target}.{_resnet_rename(rest) if target == 'backbone' else rest}"

    return rename


def _torchvision_deeplab_map() -> KeyMap:
    parts = {
        "backbone": "backbone",
        "classifier.0.convs.4.1": "head.context.image_pooling.0",
        "classifier.0.convs.4.2": "head.context.image_pooling.1",
        "classifier.0.convs": "head.context.branches",
        "classifier.0.project": "head.context.project",
        "classifier.1": "head.refine.0",
        "classifier.2": "head.refine.1",
        "classifier.4": "head.classifier",
        "aux_classifier.0": "auxiliary.0.0",
        "aux_classifier.1": "auxiliary.0.1",
        "aux_classifier.4": "auxiliary.2",
    }
    return KeyMap(_by_prefix(parts), fresh=r"auxiliary\.", optional=r"auxiliary\.")


def _smp_deeplab_map() -> KeyMap:
    """smp's convolution between ASPP and the upsampling stays out, and the decoder's second one stays fresh."""
    parts: dict[str, str | None] = {
        "encoder": "backbone",
        "decoder.aspp.0.convs.4.1": "aspp.image_pooling.0",
        "decoder.aspp.0.convs.4.2": "aspp.image_pooling.1",
        "decoder.aspp.0.convs.0": "aspp.branches.0",
        **{f"decoder.aspp.0.convs.{i}.0": f"aspp.branches.{i}" for i in (1, 2, 3)},
        **{f"decoder.aspp.0.convs.{i}.1": f"aspp.branches.{i}.2" for i in (1, 2, 3)},
        "decoder.aspp.0.project": "aspp.project",
        "decoder.aspp.1": None,
        "decoder.aspp.2": None,
        "decoder.block1": "decoder.project",
        "decoder.block2.0": "decoder.refine.0",
        "decoder.block2.1": "decoder.refine.0.2",
        "segmentation_head.0": "classifier",
    }
    return KeyMap(_by_prefix(parts), fresh=r"decoder\.refine\.1\.")


def _torchvision_vit_map(head: str | None, **options) -> KeyMap:
    """Both generations of names: the MLP has linear_1 and linear_2 in torchvision's files, 0 and 3 in its code."""
    parts = {
        "conv_proj": "project",
        "encoder.ln": "norm",
        "heads.head": head,
        **{f"encoder.layers.encoder_layer_{i}": f"blocks.{i}" for i in range(48)},
    }
    by_prefix = _by_prefix(parts)
    layers = {".ln_1.": ".norm1.", ".self_attention.": ".attention.", ".in_proj_": ".qkv.", ".out_proj.": ".project."}
    layers |= {".ln_2.": ".norm2.", ".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.2.", ".mlp.3.": ".mlp.2."}

    def rename(name: str) -> str | None:
        renamed = "positions" if name == "encoder.pos_embedding" else by_prefix(name)
        for theirs, ours in layers.items() if renamed else ():
            renamed = renamed.replace(theirs, ours)
        return renamed

    return KeyMap(rename, **options)


def _torchvision_swin_map(backbone: str = "", **options) -> KeyMap:
    """torchvision counts entries and blocks in one list: embedding, stage 1, merging, stage 2, ..."""
    parts = {
        r"attn\.relative_position_bias_table": "attention.bias_table",
        r"attn\.proj\.": "attention.project.",
        r"attn\.qkv\.": "attention.qkv.",
        r"mlp\.3\.": "mlp.2.",  # a dropout stands between
    }

    def rename(name: str) -> str | None:
        if name.startswith(("norm.", "head.")) or name.endswith("relative_position_index"):
            return None
        found = re.fullmatch(r"features\.(\d)\.(.+)", name)
        if found is None:
            return backbone + name
        number, rest = int(found[1]), found[2]
        if number == 0:
            rest = re.sub(r"^0\.", "project.", re.sub(r"^2\.", "norm.", rest))
        for theirs, ours in parts.items():
            rest = re.sub(theirs, ours, rest)
        return f"{backbone}stages.{number // 2}.{'blocks' if number % 2 else 'entry'}.{rest}"

    return KeyMap(rename, **options)


def _join_qkv(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Three projections become one, in the order query, key, value; newer and older names of transformers."""
    joined = {}
    for name, tensor in source.items():
        found = re.fullmatch(r"(.+\.attention)\.(?:self\.(query|key|value)|([qkv])_proj)\.(weight|bias)", name)
        if found is None:
            joined[name] = tensor
        elif (found[2] or found[3])[0] == "q":
            others = (name.replace("query", other).replace("q_proj", f"{other[0]}_proj") for other in ("key", "value"))
            joined[f"{found[1]}.qkv.{found[4]}"] = torch.cat([tensor, *(source[other] for other in others)])
    return joined


def _transformers_upernet_map() -> KeyMap:
    parts = {
        r"^backbone\.(swin\.)?embeddings\.patch_embeddings\.projection": "backbone.stages.0.entry.project",
        r"^backbone\.(swin\.)?embeddings\.norm": "backbone.stages.0.entry.norm",
        r"^backbone\.(swin\.)?encoder\.layers": "backbone.stages",
        r"attention\.(self|relative_position_bias)\.relative_position_bias_table": "attention.bias_table",
        r"attention\.(o_proj|output\.dense)": "attention.project",
        r"layernorm_before": "norm1",
        r"layernorm_after": "norm2",
        r"mlp\.fc1|intermediate\.dense": "mlp.0",
        r"mlp\.fc2|output\.dense": "mlp.2",
        r"^decode_head\.psp_modules\.(\d)\.1": r"decoder.pyramid.levels.\1",
        r"^decode_head\.lateral_convs": "decoder.laterals",
        r"^decode_head\.fpn_convs": "decoder.smooth",
        r"^decode_head\.fpn_bottleneck": "decoder.fuse",
        r"^decode_head\.bottleneck": "decoder.bottleneck",
        r"^decode_head\.classifier": "classifier.1",
        r"^auxiliary_head\.convs\.0": "auxiliary.0",
        r"^auxiliary_head\.classifier": "auxiliary.2",
        r"\.conv\.weight": ".0.weight",
        r"\.batch_norm\.": ".1.",
    }

    def later(match: re.Match, beyond: int) -> str:
        """Their stages are numbered otherwise: merging ends a stage there and begins one here, norms count from 1."""
        return str(int(match[0]) + beyond)

    def rename(name: str) -> str | None:
        if name.endswith("relative_position_index") or name.startswith("backbone.swin.layernorm."):
            return None
        for theirs, ours in parts.items():
            name = re.sub(theirs, ours, name)
        if ".downsample." in name:
            name = re.sub(r"(?<=stages\.)\d", lambda match: later(match, 1), name).replace("downsample", "entry")
        if name.startswith("backbone.hidden_states_norms.stage"):
            name = name.replace("backbone.hidden_states_norms.stage", "backbone.norms.")
            name = re.sub(r"(?<=norms\.)\d", lambda match: later(match, -1), name)
        return name

    return KeyMap(rename, fresh=r"auxiliary\.", optional=r"auxiliary\.", prepare=_join_qkv)


def _unet_map(batch_norm: bool) -> KeyMap:
    """The first eight convolutions of VGG-13 have the widths of U-Net's contracting path; its fifth stage stays out."""
    layers = {}
    for source, target in _vgg_features(batch_norm, depths=(2, 2, 2, 2, 2)).items():
        stage, kind, number = re.fullmatch(r"stage(\d)\.(conv|bn)\d_(\d)", target).groups()
        layers[source] = f"contract{stage}.{kind}{number}" if stage != "5" else None

    def rename(name: str) -> str | None:
        layer, _, tensor = name.rpartition(".")
        if layer.startswith("classifier."):
            return None
        target = layers.get(layer, layer)
        if target is None or (batch_norm and ".conv" in target and tensor == "bias"):
            return None
        return f"{target}.{tensor}"

    return KeyMap(rename, r"(bottom|up\d|expand\d|score)\.", prepare=_fold_biases if batch_norm else lambda s: s)


def _fold_biases(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take each convolution's bias off the mean that the normalisation after it subtracts: the same function."""
    folded = dict(source)
    for name, mean in source.items():
        if name.endswith(".running_mean"):
            folded[name] = mean - source[f"features.{int(name.split('.')[1]) - 1}.bias"]
    return folded


def _decimated(tensor: Tensor, wanted: torch.Size, side: int) -> Tensor:
    """A dense layer's tensor as a convolution's, thinned out evenly along each axis, the first and the last kept."""
    if tensor.dim() == 2:
        tensor = tensor.unflatten(1, (-1, side, side))  # (out, in, side, side)
    if tensor.dim() != len(wanted) or any(size > there for size, there in zip(wanted, tensor.shape, strict=True)):
        return tensor  # refused by whoever compares the shapes
    for axis, size in enumerate(wanted):
        kept = torch.linspace(0, tensor.shape[axis] - 1, size, dtype=torch.float64).round().long()
        tensor = tensor.index_select(axis, kept.to(tensor.device))
    return tensor


# Names of transformers, of both its generations (encoder.block.0.1 before release 5, stages.0.blocks.1 since), as
# regular expressions in the order in which they apply.
_MIT = (
    (r"^segformer\.", ""),
    (r"^encoder\.block\.(\d)\.", r"stages.\1.blocks."),
    (r"^encoder\.patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
    (r"^encoder\.layer_norm\.(\d)\.", r"stages.\1.norm."),
    (r"^(stages\.\d)\.layer_norm\.", r"\1.norm."),
    (r"\.patch_embeddings\.proj\.", ".embed."),
    (r"\.patch_embeddings\.layer_norm\.", ".embed_norm."),
    (r"\.(layer_norm_1|layernorm_before)\.", ".norm1."),
    (r"\.(layer_norm_2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.(self\.query|q_proj)\.", ".attention.query."),
    (r"\.attention\.(self\.key|k_proj)\.", ".attention.key."),
    (r"\.attention\.(self\.value|v_proj)\.", ".attention.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attention.out."),
    (r"\.attention\.(self\.sr|sequence_reduction\.sequence_reduction)\.", ".attention.reduce."),
    (r"\.attention\.(self|sequence_reduction)\.layer_norm\.", ".attention.reduce_norm."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)
_MLP_DECODER = (
    (r"^(linear_c|linear_projections)\.(\d)\.proj\.", r"decoder.project.\2."),
    (r"^linear_fuse\.(\d)\.", r"decoder.fuse.\1."),
    (r"^batch_norm\.", "decoder.norm."),
)


def _substituted(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _split_fusion(fusion: str) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    """The one matrix over the concatenated maps c4 .. c1 becomes four, one for each of c1 .. c4."""

    def split(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(source)
        if f"{fusion}.weight" in found:
            whole = found.pop(f"{fusion}.weight").flatten(1)  # (E, 4 E)
            parts = whole.split(len(whole), dim=1)[::-1]
            found |= {f"{fusion}.{level}.weight": part for level, part in enumerate(parts)}
        return found

    return split


def _segformer_map(*, backbone: str = "", decoder: bool = False, **options) -> KeyMap:
    def rename(name: str) -> str | None:
        if name.startswith("decode_head."):
            return _substituted(name[len("decode_head.") :], _MLP_DECODER) if decoder else None
        # The classifier of an image, which mit-b0 and its kin were pretrained with.
        return None if name.startswith("classifier.") else backbone + _substituted(name, _MIT)

    return KeyMap(rename, prepare=_split_fusion("decode_head.linear_fuse"), **options)


def _smp_segformer_map() -> KeyMap:
    """smp counts stages from 1, in the decoder from the deepest, and keeps keys and values together."""
    parts = {"patch_embed": "patch_embed", "block": "blocks", "norm": "norm"}
    layers = (
        (r"\.patch_embed\.proj\.", ".embed."),
        (r"\.patch_embed\.norm\.", ".embed_norm."),
        (r"\.attn\.q\.", ".attention.query."),
        (r"\.attn\.k\.", ".attention.key."),
        (r"\.attn\.v\.", ".attention.value."),
        (r"\.attn\.proj\.", ".attention.out."),
        (r"\.attn\.sr\.", ".attention.reduce."),
        (r"\.attn\.norm\.", ".attention.reduce_norm."),
        (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
        (r"^decoder\.fuse_stage\.0\.(\d)\.", r"decoder.fuse.\1."),
        (r"^decoder\.fuse_stage\.1\.", "decoder.norm."),
        (r"^segmentation_head\.0\.", "classifier."),
    )

    def split(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in _split_fusion("decoder.fuse_stage.0")(source).items():
            pair = (name.replace(".attn.kv.", f".attn.{part}.") for part in "kv")
            found |= zip(pair, tensor.chunk(2), strict=True) if ".attn.kv." in name else {name: tensor}
        return found

    def rename(name: str) -> str:
        stage = r"^encoder\.(patch_embed|block|norm)(\d)\."
        name = re.sub(stage, lambda match: f"backbone.stages.{int(match[2]) - 1}.{parts[match[1]]}.", name)
        level = r"^decoder\.mlp_stage\.(\d)\.linear\."
        name = re.sub(level, lambda match: f"decoder.project.{3 - int(match[1])}.", name)
        return _substituted(name, layers)

    return KeyMap(rename, prepare=split)


_FCN = {
    "backbone": "backbone.",
    "classifier": {"classifier.0": "fc6", "classifier.3": "fc7"},
    "fresh": r"(score_|upscore)",
    "reshape": r"fc[67]\.weight",
}

# (kind of source, class of target): the one place where a new pair is added.
MAPS: dict[tuple[str, str], KeyMap] = {
    ("torchvision vgg16", "VGG16"): _vgg_map(False),
    ("torchvision vgg16_bn", "VGG16"): _vgg_map(True),
    ("torchvision vgg16", "FCN"): _vgg_map(False, **_FCN),
    ("torchvision vgg13", "UNet"): _unet_map(False),
    ("torchvision vgg13_bn", "UNet"): _unet_map(True),
    ("torchvision vgg16_bn", "SegNet"): _vgg_map(True, backbone="encoder.", fresh=r"decoder\."),
    ("torchvision resnet", "ResNet"): _resnet_map(),
    ("torchvision resnet", "PSPNet"): _resnet_map(backbone="backbone.", fresh=r"(pyramid|head|auxiliary)\."),
    ("torchvision vgg16", "DeepLabV1"): _vgg_map(
        False, backbone="backbone.", classifier=_FCN["classifier"], fresh=r"fc8\.", decimate={"fc6": 7, "fc7": 1}
    ),
    ("torchvision resnet", "DeepLabV2"): _resnet_map(backbone="backbone.", fresh=r"aspp\."),
    ("torchvision resnet", "DeepLabV3"): _resnet_map(backbone="backbone.", fresh=r"(head|auxiliary)\."),
    ("torchvision resnet", "DeepLabV3Plus"): _resnet_map(backbone="backbone.", fresh=r"(aspp|decoder|classifier)\."),
    ("torchvision deeplabv3", "DeepLabV3"): _torchvision_deeplab_map(),
    ("smp deeplabv3plus", "DeepLabV3Plus"): _smp_deeplab_map(),
    ("torchvision vit", "ViT"): _torchvision_vit_map("head"),
    ("torchvision vit", "ViTSegmenter"): _torchvision_vit_map(None, fresh=r"head\."),
    ("torchvision swin", "SwinTransformer"): _torchvision_swin_map(fresh=r"norms\."),
    ("torchvision swin", "SwinUPerNet"): _torchvision_swin_map(
        "backbone.", fresh=r"(backbone\.norms|decoder|classifier|auxiliary)\."
    ),
    ("transformers upernet", "SwinUPerNet"): _transformers_upernet_map(),
    ("smp segformer", "SegFormer"): _smp_segformer_map(),
    ("transformers mit", "MixTransformer"): _segformer_map(),
    ("transformers mit", "SegFormer"): _segformer_map(backbone="backbone.", fresh=r"(decoder|classifier)\."),
    ("transformers segformer", "MixTransformer"): _segformer_map(),
    ("transformers segformer", "SegFormer"): _segformer_map(backbone="backbone.", decoder=True),
}


def _kind(names: Mapping[str, Tensor]) -> str:
    """Name the reference library and family that a state dict comes from, by its keys."""
    if "features.0.weight" in names and "classifier.0.weight" in names:
        depth = 3 + sum(name.startswith("features.") and tensor.dim() == 4 for name, tensor in names.items())
        return f"torchvision vgg{depth}{'_bn' if 'features.1.running_mean' in names else ''}"
    if "layer1.0.conv1.weight" in names and "conv1.weight" in names:
        return "torchvision resnet"
    if "classifier.0.convs.0.0.weight" in names:
        return "torchvision deeplabv3"
    if "decoder.aspp.0.convs.0.0.weight" in names and "decoder.block1.0.weight" in names:
        return "smp deeplabv3plus"
    if "encoder.patch_embed1.proj.weight" in names and "decoder.fuse_stage.0.weight" in names:
        return "smp segformer"
    if "class_token" in names and "encoder.pos_embedding" in names:
        return "torchvision vit"
    if "features.1.0.attn.relative_position_bias_table" in names:
        return "torchvision swin"
    if "decode_head.psp_modules.0.1.conv.weight" in names:
        return "transformers upernet"
    patches = r"(segformer\.)?(stages\.0\.patch_embeddings|encoder\.patch_embeddings\.0)\.proj\.weight"
    if any(re.fullmatch(patches, name) for name in names):
        return "transformers segformer" if "decode_head.linear_fuse.weight" in names else "transformers mit"
    return "unknown"


def _find_map(kind: str, target: nn.Module) -> KeyMap:
    for cls in type(target).__mro__:
        if (kind, cls.__name__) in MAPS:
            return MAPS[kind, cls.__name__]
    known = "; ".join(f"{source} into {cls}" for source, cls in MAPS)
    raise ValueError(f"No key map from a source of kind '{kind}' into {type(target).__name__}. Known: {known}.")


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _lacks(own: Mapping[str, Tensor], target: str, key_map: KeyMap) -> bool:
    """Whether the target was built without the optional part that this name belongs to."""
    part = re.match(key_map.optional, target)
    return part is not None and not any(name.startswith(part[0]) for name in own)


def _match(source: Mapping[str, Tensor], own: Mapping[str, Tensor], key_map: KeyMap):
    """Pair the names and refuse whatever stays unpaired without the map saying so."""
    renamed = {name: key_map.rename(name) for name in source}
    renamed = {name: None if target and _lacks(own, target, key_map) else target for name, target in renamed.items()}
    copied = tuple((name, target) for name, target in renamed.items() if target is not None)
    left = tuple(name for name, target in renamed.items() if target is None)
    reached = {target for _, target in copied}
    fresh = tuple(name for name in own if name not in reached)
    nowhere = [name for name, target in copied if target not in own]
    if nowhere:
        raise ValueError(f"The source's {_some(nowhere)} have no place in the target: is it the same architecture?")
    missing = [name for name in fresh if not re.match(key_map.fresh, name)]
    if missing:
        raise ValueError(f"The target's {_some(missing)} find no tensor in the source: is it the same architecture?")
    return copied, left, fresh


def transplant(source: nn.Module | Mapping[str, Tensor], target: nn.Module) -> Report:
    """Copy the tensors of a reference network into one of the from-scratch models.

    Args:
        source: the reference network, or its state dict.
        target: the model to fill, in place; dtype and device stay the target's.

    Returns:
        Report: what was copied, left out, and kept fresh; it prints as a short table.

    Raises:
        ValueError: no map for this pair, a tensor on either side that the map does not mention, or a shape that
            differs. The target is then unchanged.
    """
    source = source.state_dict() if isinstance(source, nn.Module) else source
    key_map = _find_map(_kind(source), target)
    source = key_map.prepare(source)
    own = target.state_dict()
    copied, left, fresh = _match(source, own, key_map)
    tensors = {}
    for name, place in copied:
        tensor, wanted = source[name], own[place].shape
        if re.match(key_map.reshape, place) and tensor.numel() == wanted.numel() and tensor.shape[0] == wanted[0]:
            # A fully connected layer reads a flattened (C, h, w) map: the same order that a kernel is stored in.
            tensor = tensor.reshape(wanted)
        layer = place.rpartition(".")[0]
        if layer in key_map.decimate:
            tensor = _decimated(tensor, wanted, key_map.decimate[layer])
        if tensor.shape != wanted:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} in the source, but {place} is {tuple(wanted)} in the target: "
                "build the target with the source's widths, in_channels and num_classes."
            )
        tensors[place] = tensor
    with torch.no_grad():
        for place, tensor in tensors.items():
            own[place].copy_(tensor)
    return Report(copied, left, fresh)


def _swin_weights(backbone: nn.Module) -> str:
    """torchvision's name for the weights of a backbone as wide and as deep; a name that it lacks for any other."""
    size = {(96, 6): "T", (96, 18): "S", (128, 18): "B"}.get(
        (backbone.channels[0], len(backbone.stages[2].blocks)), "OTHER"
    )
    return f"Swin_{size}_Weights.IMAGENET1K_V1"


# Class of the model: how torchvision enumerates the weights of its backbone.
_IMAGENET: dict[str, Callable[[nn.Module], str]] = {
    "FCN": lambda model: "VGG16_Weights.IMAGENET1K_V1",
    "SegNet": lambda model: "VGG16_BN_Weights.IMAGENET1K_V1",
    "DeepLabV1": lambda model: "VGG16_Weights.IMAGENET1K_V1",
    "VGG16": lambda model: f"VGG16{'_BN' if hasattr(model.stage1, 'bn1_1') else ''}_Weights.IMAGENET1K_V1",
    "UNet": lambda model: f"VGG13{'_BN' if hasattr(model.contract1, 'bn1') else ''}_Weights.IMAGENET1K_V1",
    "ResNet": lambda model: f"ResNet{model.depth}_Weights.IMAGENET1K_V1",
    **dict.fromkeys(
        ("PSPNet", "DeepLabV2", "DeepLabV3", "DeepLabV3Plus"),
        lambda model: f"ResNet{model.backbone.depth}_Weights.IMAGENET1K_V1",
    ),
    "ViT": lambda model: f"ViT_{'L' if len(model.blocks) == 24 else 'B'}_{model.patch}_Weights.IMAGENET1K_V1",
    "SwinTransformer": lambda model: _swin_weights(model),
    "SwinUPerNet": lambda model: _swin_weights(model.backbone),
}
# The same for whole networks.
_COCO: dict[str, Callable[[nn.Module], str]] = {
    "DeepLabV3": lambda model: f"DeepLabV3_ResNet{model.backbone.depth}_Weights.COCO_WITH_VOC_LABELS_V1",
}
# Name for `load_pretrained`: (title, class of the model to torchvision's name, terms of the images).
_PUBLISHED = {
    "imagenet": ("ImageNet", _IMAGENET, "whose images are for research use"),
    "coco": ("COCO", _COCO, "whose images stand under the terms of Flickr; 21 classes of PASCAL VOC"),
}


@cache
def _say_licence(weights: str, title: str, terms: str) -> None:
    print(f"{weights}: from torchvision (BSD-3-Clause), trained on {title}, {terms}.")


def _download(url: str, progress: bool) -> dict[str, Tensor]:
    """Fetch into torch hub's cache; the file's name carries its hash, which is checked before the file is kept."""
    return torch.hub.load_state_dict_from_url(
        url, map_location="cpu", progress=progress, check_hash=True, weights_only=True
    )


def _fetch(model: nn.Module, published: str, progress: bool) -> dict[str, Tensor]:
    title, models, terms = _PUBLISHED[published]
    name = next((models[cls.__name__](model) for cls in type(model).__mro__ if cls.__name__ in models), None)
    if name is None:
        known = ", ".join(models)
        raise ValueError(f"There are no {title} weights for {type(model).__name__}; there are for {known}.")
    from torchvision.models import get_weight  # costs seconds to import, so only here

    try:
        url = get_weight(name).url
    except ValueError:
        raise ValueError(f"torchvision has no weights {name}: build the model with another backbone.") from None
    try:
        tensors = _download(url, progress)
    except OSError as error:
        raise WeightsError(
            f"{url} could not be fetched ({error}): connect to the internet once, or pass path= to a local copy."
        ) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise WeightsError(
            f"The file fetched from {url} is damaged ({error}): delete it from {torch.hub.get_dir()} and try again."
        ) from error
    _say_licence(name, title, terms)
    return tensors


# What a repository of the hub, or its local copy, keeps its weights in: the first that is there is read.
_FILES = ("model.safetensors", "pytorch_model.bin")


@cache
def _say_nvidia_licence(weights: str) -> None:
    print(f"{weights}: NVIDIA's weights are for non-commercial use only (NVIDIA Source Code License for SegFormer).")


def _fetch_from_hub(repository: str) -> dict[str, Tensor]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in _FILES:
        try:
            return read_weights(hf_hub_download(repository, name))
        except WeightsError:
            raise
        except Exception as error:  # no network, no such repository, a full disk: each has its own error
            absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if not absent or name == _FILES[-1]:
                reason = str(error).partition("\n")[0]
                raise WeightsError(
                    f"{name} of {repository} could not be fetched from the Hugging Face hub ({reason}): connect to the "
                    "internet once, check the name, or pass path= to a local copy."
                ) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a file of weights, without executing anything that is in it.

    Args:
        path: a .safetensors, .pth or .bin file, or a folder copied from the Hugging Face hub.

    Raises:
        WeightsError: no such file, or no plain state dict in it.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in _FILES if (path / name).is_file()), path)
    if not path.is_file():
        raise WeightsError(
            f"{path} is not a file: pass the path of a .safetensors, .pth or .bin file of weights, or of a folder with "
            f"{' or '.join(_FILES)} in it."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors, and a reader needs one answer
        raise WeightsError(
            f"{path} could not be read as weights: it must be .safetensors or a saved state dict."
        ) from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise WeightsError(f"{path} holds no plain state dict: save model.state_dict() and pass that file.")
    return dict(tensors)


def load_pretrained(
    model: nn.Module, name: str = "imagenet", *, path: str | Path | None = None, progress: bool = True
) -> Report:
    """Fill a model with published weights.

    Args:
        model: an FCN, a `UNet`, a `SegNet`, a `PSPNet`, a `DeepLabV1`, `DeepLabV2`, `DeepLabV3` or `DeepLabV3Plus`,
            a `ViT`, a `ViTSegmenter`, a `VGG16`, a `ResNet`, a `SwinTransformer` or a `SwinUPerNet` of the paper's
            widths; a `SegFormer` or a `MixTransformer`.
        name: "imagenet": torchvision's classification weights for the model's backbone; "coco": the whole of
            torchvision's DeepLab v3, for ``DeepLabV3(21, **PRESETS["torchvision_resnet50"])`` or its "resnet101";
            for a `SegFormer` or its backbone a repository of the Hugging Face hub, such as "nvidia/mit-b0" (the
            backbone, from ImageNet) or "nvidia/segformer-b0-finetuned-ade-512-512" (all of it, 150 classes). NVIDIA's
            licence allows non-commercial use only, and one printed line says so.
        path: a local file instead (.safetensors, or .pth and .bin read with ``weights_only=True``), or a folder
            copied from the hub: the weights of the reference library, or a state dict of the model itself.
        progress: show the download's progress.

    Returns:
        Report: what was copied, left out, and kept fresh.

    Raises:
        ValueError: an unknown name, or weights that do not fit the model.
        WeightsError: the file could not be fetched or read.
    """
    if path is not None:
        tensors = read_weights(path)
    elif name in _PUBLISHED:
        tensors = _fetch(model, name, progress)
    elif name.count("/") == 1:
        tensors = _fetch_from_hub(name)
    else:
        known = " or ".join(f'"{published}"' for published in _PUBLISHED)
        raise ValueError(
            f'There are no weights named "{name}"; choose {known}, or "owner/repository" of the hub, or pass path= to '
            "a file."
        )
    own = model.state_dict()
    if tensors.keys() == own.keys():
        mismatch = [key for key in own if own[key].shape != tensors[key].shape]
        if mismatch:
            raise ValueError(f"{_some(mismatch)} differ in shape: build the model as the one that was saved.")
        model.load_state_dict(tensors)
        return Report(tuple((key, key) for key in own), (), ())
    report = transplant(tensors, model)
    if _kind(tensors) in ("transformers mit", "transformers segformer"):
        _say_nvidia_licence(name if path is None else Path(path).name)
    return report
