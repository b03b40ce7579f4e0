"""The runs of chapter 16: each differs from the base in what it says, and is scored on every image once."""

import dataclasses

import pytest
import torch

from segtutor.data import SyntheticScenes
from segtutor.lab import harness
from segtutor.lab.protocols import ingredients
from segtutor.lab.protocols.converged import InMemory
from segtutor.lab.protocols.ingredients import BASE, INGREDIENTS, Ingredient

SEEDS = {"train": 0, "val": 1, "test": 2}
BY_ID = {ingredient.id: ingredient for ingredient in INGREDIENTS}


@pytest.fixture
def drawn(monkeypatch):
    """Drawn scenes in the place of CamVid, and a base of a few steps on small crops."""
    sets = {
        split: InMemory(
            SyntheticScenes((48, 64), 8, seed=seed),
            {"new_recording": [0, 1, 2], "seen_recording": [3, 4, 5, 6, 7]} if split == "test" else {},
        )
        for split, seed in SEEDS.items()
    }
    monkeypatch.setattr(ingredients, "data", lambda split, name="street": sets[split])
    ingredients.measured_weights.cache_clear()
    for key, value in {"steps": 4, "batch_size": 4, "warmup": 1, "crop": [32, 48]}.items():
        monkeypatch.setitem(ingredients.BASE, key, value)
    yield sets
    ingredients.measured_weights.cache_clear()


def test_every_ingredient_changes_the_base_and_is_an_experiment():
    experiments = harness.load_experiments()
    assert len(BY_ID) == len(INGREDIENTS) and BY_ID["base"].config == {**BASE, "mean": 0.99}
    for ingredient in INGREDIENTS:
        entry = experiments[f"training/{ingredient.id}"]
        assert entry.seeds == (0, 1, 2) and entry.conditions.endswith(f"Changed: {ingredient.title}")
        changed = {key for key, value in ingredient.config.items() if value != BASE.get(key)} - {"mean"}
        assert bool(changed) == (ingredient.id != "base"), ingredient.id
        assert ingredient.conditions.startswith("CamVid" if ingredient.data == "street" else "DrosophilaVNC, tiles")
        rules = ingredient.recipe((1.0,) * 11, seed=1, quick=False)
        assert rules.seed == 1 and rules.lr == ingredient.config["lr"]
        if ingredient.id != "steps/double":  # as many images for each
            assert abs(rules.steps * rules.batch_size - BASE["steps"] * BASE["batch_size"]) < rules.batch_size


def test_a_run_is_repeated_by_its_seed_and_scored_on_the_whole_set(drawn):
    torch.set_num_threads(1)
    frozen = dataclasses.replace(BY_ID["freeze/backbone"], mean=0.5)
    values = ingredients.run(frozen, 0, False, lambda _: None)
    assert values == ingredients.run(frozen, 0, False, lambda _: None)
    assert values["miou"] != ingredients.run(frozen, 1, False, lambda _: None)["miou"]
    assert values["mean/miou"] != values["miou"]  # the last weights and their mean are two models
    assert {"validation_miou", "new_recording/miou", "seen_recording/miou", "training_loss"} <= set(values)
    unit = harness.load_experiments()["training/freeze/backbone"].unit_of
    assert all(unit(name) for name in values)


def test_the_whole_test_set_is_in_the_score(drawn, monkeypatch):
    class Sky(torch.nn.Module):
        def forward(self, images):
            scores = images.new_zeros(len(images), drawn["test"].spec.num_classes, *images.shape[2:])
            scores[:, 0] = 1
            return scores

    masks = drawn["test"].masks
    values = ingredients.scores_of(Sky(), "street", quick=False)
    counted = masks[masks != drawn["test"].spec.ignore_index]
    assert values["pixel_accuracy"] == pytest.approx((counted == 0).float().mean().item())


def test_measured_class_weights_reach_the_loss(drawn):
    weights = ingredients.measured_weights()
    rules = Ingredient("x", "x", training={"class_weights": "measured"}).recipe(weights, 0, quick=False)
    assert tuple(rules.class_weights) == weights and max(weights) > 2
