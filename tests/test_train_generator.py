"""The script that trains a generator to keep: its split, its openings of tunes, its card."""

import json

import numpy as np
import pytest
import torch

import Music
import train_generator
from train_generator import gan

ABC = """X:1
T:A tune
K:G
|: "G"GAB c2d | {e}d'D, !trill!E F3 |
w: la la
G A :|"""


def test_a_tune_opens_with_steps_of_its_scale():
    assert train_generator.scale_steps(ABC) == [1, 1, 1, 1, 7, -21, 8, 1, 1, 1]


def test_a_tune_in_another_key_opens_alike():
    higher = ABC.replace("GAB c2d", "ABc d2e").replace("d'D, !trill!E F3", "e'E, !trill!F G3")
    opening = train_generator.scale_steps(ABC)
    assert train_generator.scale_steps(higher)[:8] == opening[:8]


def test_every_tune_is_on_one_side_and_every_label_on_three():
    rng = np.random.default_rng(0)
    tunes = [f"tune {number}" for number in rng.integers(0, 90, 400)]
    labels = ["a" if int(tune[5:]) % 3 else "b" for tune in tunes]
    labels[0] = "b" if labels[0] == "a" else "a"           # a tune of both labels
    split = train_generator.three_ways(labels, tunes)
    sides = []
    for clips in split:
        sides.append({tunes[clip] for clip in clips})
        assert {labels[clip] for clip in clips} == {"a", "b"}
    together = set.union(*sides)
    assert together == set(tunes)
    assert sum(map(len, sides)) == len(together)
    assert len(split.training) > 6 * len(split.judging) > 0


def test_a_label_of_three_tunes_has_one_for_each_side():
    split = train_generator.three_ways(["a"] * 3, ["x", "y", "z"])
    assert sorted(map(len, split)) == [1, 1, 1]


def test_cuts_are_parts_of_pieces_of_their_kind():
    whole = torch.arange(2.0)[:, None, None, None].expand(2, 1, 4, 200)
    patches = train_generator.cuts(whole, np.array([0, 1]), [0.25, 0.75], 400)
    assert patches.shape == (400, 1, 4, 64)
    assert patches[:, 0, 0, 0].mean() == pytest.approx(0.75, abs=0.07)


# ---------------------------------------------------------------- what is kept

KEPT = pytest.mark.parametrize("name", ["scores", "recorded"])


@KEPT
def test_a_kept_generator_plays_each_of_its_kinds(name):
    path = train_generator.OUT / name / "generator.npz"
    assert path.stat().st_size < 8e6
    generator, names = gan.load_generator(path)
    codes = gan.sample(generator, len(names), 128, kind=torch.arange(len(names)))
    assert codes.shape == (len(names), 1, Music.N_MELS, 128)
    assert codes.isfinite().all()
    flat = codes.flatten(1)
    apart = torch.cdist(flat, flat)
    same = torch.eye(len(names), dtype=torch.bool)
    assert apart[~same].min() > 1


@KEPT
def test_the_card_says_what_was_judged(name):
    folder = train_generator.OUT / name
    judged = (folder / "judged.json").read_text(encoding="utf-8")
    found = json.loads(judged)
    generator, names = gan.load_generator(folder / "generator.npz")
    command = {"scores": "scores", "recorded": "recorded --music folder"}[name]
    text = train_generator.card(name, found, generator, names, command)
    kept = (folder / "README.md").read_text(encoding="utf-8")
    assert kept == text
    assert found["config"]["steps"] == generator.config.steps
    shared = train_generator.card(name, found | {"processes": 2}, generator, names, command)
    assert f"`torchrun --nproc_per_node 2 tests/evidence/train_generator.py {command}`" in shared
    assert "hours of 2 processes." in shared
