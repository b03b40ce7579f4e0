"""CutMix and ClassMix: whose pixel is it, and has it that image's label?"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segtutor.data import SyntheticScenes
from segtutor.data.batch_transforms import RandomView
from segtutor.data.mixing import ClassMix, CutMix, InTurn

SPEC = SyntheticScenes().spec
CLASSES, VOID = SPEC.num_classes, SPEC.ignore_index


def signed(batch, height, width, seed):
    """Images in which every pixel has the number of its image, its place and its label; and their masks."""
    random = torch.Generator().manual_seed(seed)
    known = torch.randint(1, CLASSES + 1, (batch, 1, 1), generator=random)  # so many classes occur
    masks = torch.randint(CLASSES + 1, (batch, height, width), generator=random) % (known + 1)
    masks = torch.where(masks == known, torch.tensor(VOID), masks)
    number = torch.arange(batch).view(-1, 1, 1).expand_as(masks)
    place = torch.arange(height * width).view(1, height, width).expand_as(masks)
    return torch.stack([number, place, masks], dim=1).float(), masks


def check_signatures(images, masks):
    """Every pixel has the label of the image that it comes from, and stayed at its place; returns whose it is."""
    number, place, label = images.unbind(1)
    assert torch.equal(label.long(), masks) and masks.dtype == torch.int64
    assert torch.equal(place, torch.arange(place[0].numel()).view_as(place[0]).float().expand_as(place))
    return number.long()


def before(batch):
    return torch.arange(batch).roll(1).view(-1, 1, 1)


batches = {
    "batch": st.integers(2, 5),
    "height": st.integers(1, 20),
    "width": st.integers(1, 20),
    "seed": st.integers(0, 10**6),
    "probability": st.sampled_from([0.0, 0.5, 1.0]),
}


@settings(max_examples=100, deadline=None)
@given(**batches)
def test_cutmix_pastes_a_rectangle_of_half_the_area(batch, height, width, seed, probability):
    images, masks = signed(batch, height, width, seed)
    torch.manual_seed(seed)
    whose = check_signatures(*CutMix(probability)(images, masks))
    own, other = (whose == torch.arange(batch).view(-1, 1, 1)), whose == before(batch)
    assert (own | other).all()
    for part in other:
        if not part.any():
            assert probability < 1
            continue
        assert probability > 0
        rows, columns = part.any(1), part.any(0)
        assert torch.equal(part, rows[:, None] & columns)  # a product of two sets
        for line in (rows, columns):
            places = line.nonzero()
            assert places[-1] - places[0] + 1 == len(places) >= round(len(line) / 2)  # without a gap
        if min(height, width) >= 10:
            assert abs(part.float().mean() - 0.5) < 0.08  # but for rounding to whole pixels


@settings(max_examples=100, deadline=None)
@given(**batches)
def test_classmix_pastes_half_of_the_classes_whole(batch, height, width, seed, probability):
    images, masks = signed(batch, height, width, seed)
    torch.manual_seed(seed)
    whose = check_signatures(*ClassMix(SPEC, probability)(images, masks))
    other = whose == before(batch)
    assert (other | (whose == torch.arange(batch).view(-1, 1, 1))).all()
    for part, source in zip(other, masks.roll(1, 0), strict=True):
        there, taken = set(source.unique().tolist()) - {VOID}, set(source[part].unique().tolist())
        assert VOID not in taken
        assert torch.equal(part, torch.isin(source, torch.tensor(sorted(taken)))), "a class is pasted whole"
        if probability == 1:
            assert len(taken) == (len(there) + 1) // 2
        elif taken:
            assert probability > 0 and len(taken) == (len(there) + 1) // 2


@pytest.mark.parametrize("mix", [CutMix(1.0), ClassMix(SPEC, 1.0)], ids=repr)
def test_a_batch_of_one_is_left_as_it_is(mix):
    images, masks = signed(1, 8, 9, 0)
    mixed, labels = mix(images, masks)
    assert torch.equal(mixed, images) and torch.equal(labels, masks)


@pytest.mark.parametrize("mix", [CutMix(0.3), ClassMix(SPEC, 0.3)], ids=repr)
def test_so_many_images_are_mixed_and_none_is_written_into(mix):
    images, masks = signed(400, 12, 12, 1)
    copies = images.clone(), masks.clone()
    torch.manual_seed(0)
    mixed, _ = mix(images, masks)
    assert torch.equal(images, copies[0]) and torch.equal(masks, copies[1])
    changed = (mixed[:, 0] != images[:, 0]).flatten(1).any(1).float().mean()
    assert 0.22 < changed < 0.38


def test_every_class_is_pasted_as_often_as_another():
    images, masks = signed(2, 12, 12, 0)
    masks = (torch.arange(144) % 4).view(1, 12, 12).expand(300, 12, 12)
    images = torch.stack([torch.arange(300).view(-1, 1, 1).expand_as(masks)] * 3, 1).float()
    torch.manual_seed(0)
    mixed, _ = ClassMix(SPEC, 1.0)(images, masks)
    pasted = (mixed[:, 0] != images[:, 0]).flatten(1)[:, :4].float()  # the first pixel of each class
    assert torch.equal(pasted.sum(1), torch.full((300,), 2.0))
    assert (pasted.mean(0) - 0.5).abs().max() < 0.1


def test_places_and_shapes_of_rectangles_vary():
    images, masks = signed(300, 20, 20, 0)
    torch.manual_seed(0)
    mixed, _ = CutMix(1.0)(images, masks)
    pasted = mixed[:, 0] != images[:, 0]
    heights = pasted.any(2).sum(1)
    assert heights.min() == 10 and heights.max() == 20 and len(heights.unique()) > 8
    assert pasted.float().mean(0).min() > 0, "every place is pasted at times"


def test_one_seed_one_result_and_transforms_come_in_turn():
    images, masks = torch.rand(4, 3, 24, 24), torch.randint(0, CLASSES, (4, 24, 24))
    view = RandomView(SPEC, (16, 16), scale=None)
    for mix in (CutMix(0.5), ClassMix(SPEC, 0.5)):
        results = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            results.append(InTurn(view, mix)(images, masks)[0])
        torch.manual_seed(0)
        assert torch.equal(results[0], mix(*view(images, masks))[0])
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_a_batch_draws_as_many_numbers_whatever_it_holds():
    states = []
    for seed in (0, 1):
        torch.manual_seed(0)
        for mix in (CutMix(), ClassMix(SPEC)):
            mix(*signed(3, 9, 9, seed))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_impossible_probabilities_are_refused(probability):
    for make in (CutMix, lambda p: ClassMix(SPEC, p)):
        with pytest.raises(ValueError, match="probability"):
            make(probability)


@pytest.mark.gpu
def test_the_same_mix_on_a_gpu():
    images, masks = signed(4, 20, 30, 0)
    for mix in (CutMix(), ClassMix(SPEC)):
        results = []
        for device in ("cpu", "cuda"):
            torch.manual_seed(0)
            results.append([t.cpu() for t in mix(images.to(device), masks.to(device))])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
