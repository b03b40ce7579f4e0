"""torchvision's ViT into ViT and its segmenter."""

from segtutor.models.vit import ViT, ViTSegmenter
from segtutor.weights.keymap import KeyMap, Tensors, by_prefix, register_map, register_model, register_source

register_model(ViT, scores=r"head\.", stem="project.weight")


@register_source
def _vit(tensors: Tensors) -> str | None:
    return "torchvision vit" if {"class_token", "encoder.pos_embedding"} <= tensors.keys() else None


def _vit_map(head: str | None, reinitialized: str = r"(?!)") -> KeyMap:
    """Both generations of names: the MLP has linear_1 and linear_2 in torchvision's files, 0 and 3 in its code."""
    parts = {
        "conv_proj": "project",
        "encoder.ln": "norm",
        "heads.head": head,
        **{f"encoder.layers.encoder_layer_{i}": f"blocks.{i}" for i in range(48)},
    }
    prefixes = by_prefix(parts)
    layers = {".ln_1.": ".norm1.", ".self_attention.": ".attention.", ".in_proj_": ".qkv.", ".out_proj.": ".project."}
    layers |= {".ln_2.": ".norm2.", ".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.2.", ".mlp.3.": ".mlp.2."}

    def rename(name: str) -> str | None:
        renamed = "positions" if name == "encoder.pos_embedding" else prefixes(name)
        for theirs, ours in layers.items():
            renamed = renamed and renamed.replace(theirs, ours)
        return renamed

    return KeyMap(rename, reinitialized=reinitialized)


register_map("torchvision vit", ViT, _vit_map("head"))
register_map("torchvision vit", ViTSegmenter, _vit_map(None, r"head\."))
