"""The comparison of recipes: what is recorded belongs to its list, and a run is made once."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

import compare_recipes
import Music

gan = compare_recipes.gan
SHARES = (0.5, 0.5)
TINY = {"batch_size": 4, "generator_width": 2, "discriminator_width": 2, "bfloat16": False}


def read(path):
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def material(rng):
    """Patches of noise, judged by a classifier that nobody trained."""
    codes = rng.uniform(-1, 1, (8, Music.N_MELS, 80)).astype(np.float32)
    target = np.arange(8) % 2
    training = gan.Patches(codes, range(6), target=target)
    judging = gan.Patches(codes, range(6, 8), target=target)
    judges = gan.Judges(training, judging, gan.Classifier(2).eval(), ["a", "b"], n=20)
    return compare_recipes.Material(
        training,
        judges,
        limits=np.zeros(2),
        shares=np.array(SHARES),
        clips=[6, 0, 2],
    )


def test_every_recorded_run_is_in_the_list():
    runs = {run.path: run for run in compare_recipes.all_runs()}
    assert len(runs) == len(compare_recipes.all_runs())
    others = {compare_recipes.RECORDED / "costs.json", compare_recipes.RECORDED / "floor.json"}
    recorded = set(compare_recipes.RECORDED.glob("*.json")) - others
    assert recorded
    for path in recorded:
        found = read(path)
        assert found["recipe"] == runs[path].name
        assert found["seed"] == runs[path].seed
        assert found["steps"] == compare_recipes.steps_of(runs[path].recipe)


def test_the_ladder_leads_from_the_plain_to_the_modern_recipe():
    recipes = {recipe.name: recipe for recipe in compare_recipes.all_recipes()}
    plain = recipes["plain"].config(SHARES)
    assert plain == gan.plain_recipe(name="plain", steps=1, device="cpu")
    common = {"steps": 1, "device": "cpu", "classes": SHARES}
    modern = recipes["+ form"].config(SHARES)
    assert dataclasses.replace(modern, name="modern") == gan.modern_recipe(**common)
    recurrent = recipes["GRU in the trunk"].config(SHARES)
    wanted = gan.recurrent_recipe(**common, returns=False, joined=1)
    assert dataclasses.replace(recurrent, name="recurrent") == wanted


def test_equal_cost_means_steps_in_proportion(monkeypatch, tmp_path):
    monkeypatch.setattr(compare_recipes, "RECORDED", tmp_path)
    costs = {recipe.name: 100.0 for recipe in compare_recipes.all_recipes()}
    costs["plain"] = 400.0
    (tmp_path / "costs.json").write_text(json.dumps(costs), encoding="utf-8")
    recipes = {recipe.name: recipe for recipe in compare_recipes.all_recipes()}
    steps = {name: compare_recipes.steps_of(recipe) for name, recipe in recipes.items()}
    assert steps["plain"] == steps["plain, R1 0.2"] == compare_recipes.MODERN_STEPS / 4
    assert steps[compare_recipes.MODERN] == compare_recipes.MODERN_STEPS
    assert steps[compare_recipes.LONGER] == compare_recipes.MODERN_STEPS


def test_a_run_is_kept_with_the_measures_of_the_others_and_then_skipped(
        material, monkeypatch, tmp_path):
    first, *_ = sorted(compare_recipes.RECORDED.glob("plain-*.json"))
    like = read(first)
    floor_like = read(compare_recipes.RECORDED / "floor.json")
    monkeypatch.setattr(compare_recipes, "RECORDED", tmp_path)
    monkeypatch.setattr(compare_recipes, "MODERN_STEPS", 4)
    monkeypatch.setattr(compare_recipes, "PIECES", 1)
    monkeypatch.setattr(gan, "settle", functools.partial(gan.settle, batches=2, n=4))
    recipe = compare_recipes.Recipe("tiny, odd: one", TINY, compare_recipes.MODERN)
    costs = {compare_recipes.MODERN: 1.0}
    (tmp_path / "costs.json").write_text(json.dumps(costs), encoding="utf-8")
    run = compare_recipes.Run(recipe, 0)
    compare_recipes.record(run, lambda: material)
    assert run.path.name == "tiny-odd-one-0.json"
    found = read(run.path)
    assert found.keys() == like.keys()
    with np.load(run.path.with_suffix(".npz")) as kept:
        assert kept["samples"].dtype == np.uint8
        assert kept["samples"].shape == (4, Music.N_MELS, 64)
    assert found["patches"].keys() == found["out of 30 s"].keys() == like["patches"].keys()
    compare_recipes.record(run, lambda: pytest.fail("made twice"))
    compare_recipes.record_floor(lambda: material)
    assert read(tmp_path / "floor.json").keys() == floor_like.keys()


def test_the_page_is_that_of_the_records():
    path = compare_recipes.RECORDED / "README.md"
    assert path.read_text(encoding="utf-8") == compare_recipes.page()


def test_total_variation_of_the_same_shares_is_nothing(material):
    assert gan.apart(material.judges, material.judges.real) == [0, 0]
    elsewhere = torch.ones_like(material.judges.real)
    assert all(0 <= value <= 1 for value in gan.apart(material.judges, elsewhere))
