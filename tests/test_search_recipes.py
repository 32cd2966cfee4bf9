"""The search for a recipe: what is recorded belongs to its list, and a run is made once."""

import functools
import json

import numpy as np
import pytest

import Music
import search_recipes

gan = search_recipes.gan
TINY = {"batch_size": 4, "generator_width": 2, "discriminator_width": 2, "bfloat16": False}
SHARES = (0.5, 0.5)


def read(path):
    """What a JSON file holds."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text)


@pytest.fixture
def material(rng):
    """Patches of noise, judged by classifiers that nobody trained."""
    codes = rng.uniform(-1, 1, (8, Music.N_MELS, 80)).astype(np.float32)
    target = np.arange(8) % 2
    training = gan.Patches(codes, range(6), target=target)
    unseen = gan.Patches(codes, range(6, 8), target=target)
    classifier = gan.Classifier(2).eval()
    eyes = gan.Classifier(2).eval()
    judges = gan.Judges(training, unseen, classifier, ["a", "b"], n=20)
    return search_recipes.Material(
        training,
        unseen,
        judges,
        limits=np.zeros(2),
        shares=np.array(SHARES),
        eyes=eyes,
    )


def test_every_recorded_run_is_in_the_list():
    listed = search_recipes.all_runs()
    runs = {run.recipe.path(run.seed): run for run in listed}
    assert len(runs) == len(listed)
    recorded = search_recipes.RECORDED.glob("*/*.json")
    assert set(runs) == set(recorded)
    for path, (recipe, seed) in runs.items():
        found = read(path)
        assert found["recipe"] == recipe.name
        assert found["seed"] == seed
        assert found["stage"] == recipe.stage
        assert found["steps"] == recipe.steps
        changes = json.dumps(recipe.changes)
        assert found["changes"] == json.loads(changes)
        measured = list(found["quality"].values())
        assert np.isfinite(measured).all()
        assert ("curve" in found) == (recipe.stage == 3)


def test_winner_is_the_notebooks_default():
    best, *_ = (recipe for recipe in search_recipes.all_recipes() if recipe.stage == 3)
    default = gan.Config(name=best.name, steps=best.steps, classes=SHARES)
    assert best.config(0, SHARES) == default


def test_tutorial_dcgan_is_the_plain_recipe_twice_as_wide():
    tutorial = search_recipes.all_recipes()[-1]
    wide = gan.plain_recipe(name=tutorial.name, steps=tutorial.steps, batch_size=128,
                            generator_width=64, discriminator_width=64)
    assert tutorial.config(0, SHARES) == wide


def test_a_run_is_kept_and_then_skipped(material, monkeypatch, tmp_path):
    recorded = search_recipes.RECORDED
    monkeypatch.setattr(gan, "GENERATORS", {**gan.GENERATORS})
    monkeypatch.setattr(gan, "JUDGES", {**gan.JUDGES})
    monkeypatch.setattr(search_recipes, "RECORDED", tmp_path)
    quick = functools.partial(gan.settle, batches=2, n=4)
    monkeypatch.setattr(gan, "settle", quick)
    recipe = search_recipes.Recipe("tiny, odd: one", 3, 4, 1, TINY)
    search_recipes.record(recipe, 0, lambda: material, "cpu")
    written = list(tmp_path.glob("**/*.json"))
    path = tmp_path / "3" / "tiny-odd-one-0.json"
    assert written == [path]
    found = read(path)
    like = read(recorded / "3" / "trunk-0.json")
    assert list(found) == list(like)
    assert list(found["quality"]) == list(like["quality"])
    assert list(found["panel"]) == list(like["panel"])
    curve = found["curve"]["Fréchet, fixed"]
    assert [step for step, _ in curve] == [1, 2, 3, 4]
    search_recipes.record(recipe, 0, lambda: pytest.fail("made twice"), "cpu")


def test_floor_has_the_measures_of_a_run(material, monkeypatch, tmp_path):
    recorded = search_recipes.RECORDED
    monkeypatch.setattr(search_recipes, "RECORDED", tmp_path)
    search_recipes.record_floor(lambda: material)
    floor = read(tmp_path / "floor.json")
    like = read(recorded / "floor.json")
    assert list(floor) == list(like)
    for part, values in floor.items():
        names = values.keys()
        assert names == like[part].keys()


def test_the_page_is_that_of_the_records():
    path = search_recipes.RECORDED / "README.md"
    assert path.read_text(encoding="utf-8") == search_recipes.page()
