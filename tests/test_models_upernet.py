"""UPerNet: the decoder beside transformers' with the same weights, and what its sizes promise."""

import pytest
import torch
from contract import images, perturb_norms, seeded

from segtutor import probe
from segtutor.models.upernet import UPerNetDecoder
from segtutor.papers import PAPERS

CHANNELS = (6, 8, 10, 12)


def pyramid(*sizes, channels=CHANNELS, batch=2, dtype=torch.float64):
    """One random map for each size."""
    return [images(batch, c, *size, seed=c, dtype=dtype) for c, size in zip(channels, sizes, strict=True)]


def their_decoder(width, classes, bins=(1, 2, 3, 6)):
    """transformers' decoder with its classifier."""
    from transformers import UperNetConfig
    from transformers.models.upernet.modeling_upernet import UperNetHead

    return UperNetHead(UperNetConfig(hidden_size=width, num_labels=classes, pool_scales=list(bins)), list(CHANNELS))


def renamed(state):
    """Their names to ours, written out beside the map in segtutor.weights."""
    names = {"bottleneck": "bottleneck", "fpn_bottleneck": "fuse"}
    names |= {f"psp_modules.{i}.1": f"pyramid.levels.{i}" for i in range(4)}
    for i in range(3):
        names |= {f"lateral_convs.{i}": f"laterals.{i}", f"fpn_convs.{i}": f"smooth.{i}"}
    layers = {"conv": "0", "batch_norm": "1"}
    out = {}
    for name, tensor in state.items():
        part, layer, kind = name.rsplit(".", 2)
        out[f"{names[part]}.{layers[layer]}.{kind}"] = tensor
    return out


SIZES = {
    "halved": [(32, 48), (16, 24), (8, 12), (4, 6)],
    "odd": [(25, 13), (13, 7), (7, 4), (4, 2)],
    "rounded down": [(25, 19), (12, 9), (6, 4), (3, 2)],
    "dilated": [(17, 20), (9, 10), (9, 10), (9, 10)],
    "one position": [(8, 8), (4, 4), (2, 2), (1, 1)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@torch.no_grad()
def test_decoder_is_transformers(sizes):
    theirs = perturb_norms(seeded(their_decoder, 5, 4)).double().eval()
    ours = UPerNetDecoder(CHANNELS, 5).double().eval()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not name.startswith("classifier.")}
    ours.load_state_dict(renamed(state))
    read = []
    theirs.classifier.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    maps = pyramid(*sizes)
    theirs(maps)
    embedding = ours(maps)
    assert embedding.std() > 1e-3, "a constant compares nothing"
    torch.testing.assert_close(embedding, read[0], rtol=0, atol=1e-11)
    assert embedding.shape == (2, ours.out_channels, *sizes[0])


def test_the_papers_decoder_has_its_parameters():
    with torch.device("meta"):
        decoder = UPerNetDecoder((96, 192, 384, 768))
    classifier = 512 * 150 + 150
    fact = PAPERS["upernet"].facts["parameters_head_swin_tiny"].value
    assert probe.count_parameters(decoder) + classifier == fact


def test_the_maps_stay_as_they_were_given():
    decoder = seeded(UPerNetDecoder, CHANNELS, 4).double().eval()
    maps = pyramid((16, 16), (8, 8), (4, 4), (2, 2))
    before = [x.clone() for x in maps]
    given = list(maps)
    decoder(given)
    assert all(x is y and x.equal(z) for x, y, z in zip(maps, given, before, strict=True))


def test_each_level_carries_what_is_coarser():
    decoder = seeded(UPerNetDecoder, CHANNELS, 4).double().eval()
    maps = [x.requires_grad_() for x in pyramid((16, 16), (8, 8), (4, 4), (2, 2))]
    for number, level in enumerate(decoder.top_down(maps)):
        assert level.shape[2:] == maps[number].shape[2:]
        reached = torch.autograd.grad(level.square().sum(), maps, retain_graph=True, allow_unused=True)
        assert [gradient is not None and bool(gradient.any()) for gradient in reached] == [
            other >= number for other in range(4)
        ]


def test_takes_other_numbers_of_maps():
    decoder = UPerNetDecoder((3, 5), 4, bins=(1,)).double().eval()
    maps = [images(1, 3, 9, 7, dtype=torch.float64), images(1, 5, 4, 3, dtype=torch.float64)]
    assert decoder(maps).shape == (1, 4, 9, 7)
