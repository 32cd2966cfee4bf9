"""The search for a recipe: what is recorded belongs to its list, and a run is made once."""

import functools
import json

import numpy as np
import pytest
import search_recipes
import torch

import Music

gan = search_recipes.gan
TINY = {"batch_size": 4, "generator_width": 2, "discriminator_width": 2, "bfloat16": False}
SHARES = (0.5, 0.5)


@pytest.fixture
def material(rng):
    """Patches of noise, judged by classifiers that nobody trained."""
    codes, target = rng.uniform(-1, 1, (8, Music.N_MELS, 80)).astype(np.float32), np.arange(8) % 2
    sides = [gan.Patches(codes, clips, target=target) for clips in (range(6), range(6, 8))]
    judges = gan.Judges(*sides, gan.Classifier(2).eval(), ["a", "b"], n=20)
    return search_recipes.Material(*sides, judges, np.zeros(2), np.array(SHARES))


def test_every_recorded_run_is_in_the_list():
    runs = {recipe.path(seed): (recipe, seed) for recipe, seed in search_recipes.all_runs()}
    assert len(runs) == len(search_recipes.all_runs())
    kept = sorted(search_recipes.RECORDED.glob("*/*.json"))
    assert set(kept) == set(runs)
    for path in kept:
        found, (recipe, seed) = json.loads(path.read_text(encoding="utf-8")), runs[path]
        assert (found["recipe"], found["stage"], found["seed"], found["steps"]) == (
            recipe.name, recipe.stage, seed, recipe.steps)
        assert found["changes"] == json.loads(json.dumps(recipe.changes))
        assert all(np.isfinite(value) for value in found["quality"].values())
        assert ("curve" in found) == (recipe.stage == 3)


def test_winner_is_the_notebooks_default():
    best = search_recipes.RECIPES[[r.stage for r in search_recipes.RECIPES].index(3)]
    default = gan.Config(name=best.name, steps=best.steps, classes=SHARES)
    assert best.config(0, SHARES) == default


@pytest.mark.parametrize("classes", [(), SHARES])
def test_every_variant_makes_and_judges_codes(monkeypatch, classes):
    monkeypatch.setattr(search_recipes.ProjectedDiscriminator, "eyes", gan.Classifier(2).eval())
    codes = None
    for kind in {gan.Config(**search_recipes.BASES[r.stage] | r.changes).generator
                 for r in search_recipes.RECIPES}:
        for memory in ("convolutions", "gru"):
            generator = gan.GENERATORS[kind](gan.Config(**TINY, generator=kind, memory=memory,
                                                        classes=classes))
            codes = generator(*generator.latents(2, 64))
            assert codes.shape == (2, 1, 128, 64) and codes.abs().max() <= 1
    discriminator = gan.Discriminator(gan.Config(**TINY, discriminators=tuple(gan.JUDGES),
                                                 classes=classes))
    kind = torch.eye(2)[:, :len(classes)] if classes else None
    assert discriminator(codes, kind).shape == (2, len(gan.JUDGES))
    hidden = set(discriminator.judges[list(gan.JUDGES).index("projected")].frozen[0].parameters())
    assert not hidden & set(discriminator.parameters())


def test_a_run_is_kept_and_then_skipped(material, monkeypatch, tmp_path):
    monkeypatch.setattr(search_recipes, "RECORDED", tmp_path)
    monkeypatch.setattr(gan, "settle", functools.partial(gan.settle, batches=2, n=4))
    recipe = search_recipes.Recipe("tiny, odd: one", 3, 4, 1, TINY)
    search_recipes.record(recipe, 0, lambda: material, "cpu")
    path, = tmp_path.glob("**/*.json")
    assert path == tmp_path / "3" / "tiny-odd-one-0.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    like = json.loads((search_recipes.ROOT / "runs" / "recorded" / "recipes" / "3" / "trunk-0.json")
                      .read_text(encoding="utf-8"))
    for part in (found, like), (found["quality"], like["quality"]), (found["panel"], like["panel"]):
        assert list(part[0]) == list(part[1])
    assert [step for step, _ in found["curve"]["Fréchet, fixed"]] == [1, 2, 3, 4]
    search_recipes.record(recipe, 0, lambda: pytest.fail("made twice"), "cpu")
    search_recipes.record_floor(lambda: material)
    floor = json.loads((tmp_path / "floor.json").read_text(encoding="utf-8"))
    assert set(floor) == {"quality", "panel", "unseen"} and "nearest" in floor["quality"]
