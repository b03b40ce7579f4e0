"""torchvision's Swin into ours and into UPerNet; transformers' UPerNet on a Swin."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from segtutor.models.swin import SwinTransformer
from segtutor.models.upernet import SwinUPerNet
from segtutor.weights.keymap import KeyMap, Tensors, register_map, register_model, register_source

STEM = "stages.0.entry.project.weight"
register_model(SwinTransformer, stem=STEM)
register_model(SwinUPerNet, scores=r"(classifier|auxiliary\.2)\.", optional=r"auxiliary\.", stem=f"backbone.{STEM}")


@register_source
def _swin(tensors: Tensors) -> str | None:
    if "features.1.0.attn.relative_position_bias_table" in tensors:
        return "torchvision swin"
    return "transformers upernet" if "decode_head.psp_modules.0.1.conv.weight" in tensors else None


def _torchvision_map(prefix: str, reinitialized: str) -> KeyMap:
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
            return prefix + name
        number, rest = int(found[1]), found[2]
        if number == 0:
            rest = re.sub(r"^0\.", "project.", re.sub(r"^2\.", "norm.", rest))
        for theirs, ours in parts.items():
            rest = re.sub(theirs, ours, rest)
        return f"{prefix}stages.{number // 2}.{'blocks' if number % 2 else 'entry'}.{rest}"

    return KeyMap(rename, reinitialized=reinitialized)


def _join_qkv(source: Tensors) -> dict[str, Tensor]:
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


_UPERNET: Mapping[str, str] = {
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


def _counted(match: re.Match[str], beyond: int) -> str:
    """Their stages are numbered otherwise: merging ends a stage there and begins one here, norms count from 1."""
    return str(int(match[0]) + beyond)


def _upernet_name(name: str) -> str | None:
    if name.endswith("relative_position_index") or name.startswith("backbone.swin.layernorm."):
        return None
    for theirs, ours in _UPERNET.items():
        name = re.sub(theirs, ours, name)
    if ".downsample." in name:
        name = re.sub(r"(?<=stages\.)\d", lambda match: _counted(match, 1), name).replace("downsample", "entry")
    if name.startswith("backbone.hidden_states_norms.stage"):
        name = name.replace("backbone.hidden_states_norms.stage", "backbone.norms.")
        name = re.sub(r"(?<=norms\.)\d", lambda match: _counted(match, -1), name)
    return name


register_map("torchvision swin", SwinTransformer, _torchvision_map("", r"norms\."))
register_map(
    "torchvision swin",
    SwinUPerNet,
    _torchvision_map("backbone.", r"(backbone\.norms|decoder|classifier|auxiliary)\."),
)
register_map(
    "transformers upernet",
    SwinUPerNet,
    KeyMap(_upernet_name, reinitialized=r"auxiliary\.", optional=r"auxiliary\.", prepare=_join_qkv),
)
