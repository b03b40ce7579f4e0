"""SegFormer and its MiT from transformers, from smp, and from NVIDIA's own files."""

import re
from collections.abc import Mapping

from torch import Tensor

from segtutor.models.segformer import MixTransformer, SegFormer
from segtutor.weights.keymap import KeyMap, Tensors, register_map, register_model, register_source, substituted

STEM = "stages.0.embed.weight"
register_model(MixTransformer, stem=STEM)
register_model(SegFormer, scores=r"classifier\.", stem=f"backbone.{STEM}")


@register_source
def _segformer(tensors: Tensors) -> str | None:
    patches = r"(segformer\.)?(stages\.0\.patch_embeddings|encoder\.patch_embeddings\.0)\.proj\.weight"
    if any(re.fullmatch(patches, name) for name in tensors):
        return "transformers segformer" if "decode_head.linear_fuse.weight" in tensors else "transformers mit"
    if {"encoder.patch_embed1.proj.weight", "decoder.fuse_stage.0.weight"} <= tensors.keys():
        return "smp segformer"
    if {"backbone.patch_embed1.proj.weight", "decode_head.linear_fuse.conv.weight"} <= tensors.keys():
        return "nvidia segformer"
    return "nvidia mit" if {"patch_embed1.proj.weight", "block1.0.attn.kv.weight"} <= tensors.keys() else None


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
    (r"^decode_head\.(linear_c|linear_projections)\.(\d)\.proj\.", r"decoder.project.\2."),
    (r"^decode_head\.linear_fuse\.(\d)\.", r"decoder.fuse.\1."),
    (r"^decode_head\.batch_norm\.", "decoder.norm."),
    (r"^decode_head\.classifier\.", "classifier."),
)
# NVIDIA's own names of a block, which smp has too
_NVIDIA_MIT = (
    (r"\.patch_embed\.proj\.", ".embed."),
    (r"\.patch_embed\.norm\.", ".embed_norm."),
    (r"\.attn\.q\.", ".attention.query."),
    (r"\.attn\.k\.", ".attention.key."),
    (r"\.attn\.v\.", ".attention.value."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.sr\.", ".attention.reduce."),
    (r"\.attn\.norm\.", ".attention.reduce_norm."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
)
_NVIDIA_DECODER = (
    (r"^decode_head\.linear_fuse\.conv\.(\d)\.", r"decoder.fuse.\1."),
    (r"^decode_head\.linear_fuse\.bn\.", "decoder.norm."),
    (r"^decode_head\.linear_pred\.", "classifier."),
)
_SMP_DECODER = (
    (r"^decoder\.fuse_stage\.0\.(\d)\.", r"decoder.fuse.\1."),
    (r"^decoder\.fuse_stage\.1\.", "decoder.norm."),
    (r"^segmentation_head\.0\.", "classifier."),
)


def _split_fusion(tensors: Tensors, fusion: str) -> dict[str, Tensor]:
    """The one matrix over the concatenated maps c4 .. c1 becomes four, one for each of c1 .. c4."""
    split = dict(tensors)
    if f"{fusion}.weight" in split:
        whole = split.pop(f"{fusion}.weight").flatten(1)  # (E, 4 E)
        parts = whole.split(len(whole), dim=1)[::-1]
        split |= {f"{fusion}.{level}.weight": part for level, part in enumerate(parts)}
    return split


def _split_keys_values(tensors: Tensors) -> dict[str, Tensor]:
    """NVIDIA and smp keep keys and values in one layer."""
    split: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        pair = (name.replace(".attn.kv.", f".attn.{part}.") for part in "kv")
        split |= zip(pair, tensor.chunk(2), strict=True) if ".attn.kv." in name else {name: tensor}
    return split


def _nvidia_mit(name: str) -> str:
    """NVIDIA counts stages from 1, in names without dots: ``block1.0.attn.q.weight``."""
    parts: Mapping[str, str] = {"patch_embed": "patch_embed", "block": "blocks", "norm": "norm"}
    stage = r"^(patch_embed|block|norm)(\d)\."
    name = re.sub(stage, lambda match: f"stages.{int(match[2]) - 1}.{parts[match[1]]}.", name)
    return substituted(name, _NVIDIA_MIT)


def _transformers_map(*, prefix: str = "", decoder: bool = False, reinitialized: str = r"(?!)") -> KeyMap:
    def rename(name: str) -> str | None:
        if name.startswith("decode_head."):
            return substituted(name, _MLP_DECODER) if decoder else None
        # The classifier of an image, which mit-b0 and its kin were pretrained with.
        return None if name.startswith("classifier.") else prefix + substituted(name, _MIT)

    return KeyMap(rename, reinitialized, prepare=lambda source: _split_fusion(source, "decode_head.linear_fuse"))


def _nvidia_map(*, prefix: str = "", decoder: bool = False, reinitialized: str = r"(?!)") -> KeyMap:
    """Files of the authors: a MiT's, with the classifier ``head`` of an image, or a whole network's."""

    def rename(name: str) -> str | None:
        # conv_seg is a classifier that OpenMMLab's base class makes and SegFormer does not use.
        if name.startswith(("head.", "decode_head.conv_seg.")) or (name.startswith("decode_head.") and not decoder):
            return None
        level = r"^decode_head\.linear_c(\d)\.proj\."
        name = re.sub(level, lambda match: f"decoder.project.{int(match[1]) - 1}.", name)
        name = substituted(name, _NVIDIA_DECODER)
        own = name.startswith(("decoder.", "classifier."))
        return name if own else prefix + _nvidia_mit(name.removeprefix("backbone."))

    def prepare(source: Tensors) -> Tensors:
        return _split_keys_values(_split_fusion(source, "decode_head.linear_fuse.conv"))

    return KeyMap(rename, reinitialized, prepare=prepare)


def _smp_map() -> KeyMap:
    """smp counts the decoder's levels from the deepest."""

    def rename(name: str) -> str:
        if name.startswith("encoder."):
            return "backbone." + _nvidia_mit(name.removeprefix("encoder."))
        level = r"^decoder\.mlp_stage\.(\d)\.linear\."
        name = re.sub(level, lambda match: f"decoder.project.{3 - int(match[1])}.", name)
        return substituted(name, _SMP_DECODER)

    return KeyMap(rename, prepare=lambda source: _split_keys_values(_split_fusion(source, "decoder.fuse_stage.0")))


_REST = r"(decoder|classifier)\."
register_map("smp segformer", SegFormer, _smp_map())
for _source, _map in (("transformers", _transformers_map), ("nvidia", _nvidia_map)):
    register_map(f"{_source} mit", MixTransformer, _map())
    register_map(f"{_source} mit", SegFormer, _map(prefix="backbone.", reinitialized=_REST))
    register_map(f"{_source} segformer", MixTransformer, _map())
    register_map(f"{_source} segformer", SegFormer, _map(prefix="backbone.", decoder=True))
