"""The scripts that record evidence: importing, options, fitted limits."""

import json
import subprocess
import sys

import common
import numpy as np
import pytest
import torch
from common import gan

import fit_limits
import notebook_definitions
import record_failures

TINY = {"generator_width": 2, "discriminator_width": 2, "bfloat16": False}
SHARES = (0.5, 0.5)
IMPORT_ALL = """
import os, sys, torch
import sklearn     # sets two variables of its own
sys.path.insert(0, {folder!r})
before = dict(os.environ), torch.get_num_threads()
for name in {scripts!r}:
    __import__(name)
import common
assert (dict(os.environ), torch.get_num_threads()) == before
print(*common.gan.GENERATORS, *common.gan.JUDGES)
"""


@pytest.mark.slow
def test_importing_a_script_changes_nothing(tmp_path):
    folder = common.TESTS / "evidence"
    scripts = [path.stem for path in folder.glob("*.py")]
    code = IMPORT_ALL.format(folder=str(folder), scripts=scripts)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    generators = ["convolutional", "recurrent", "trunk"]
    assert done.stdout.split() == [*generators, "picture", "bands", "frames"]


def test_definitions_are_loaded_once():
    assert notebook_definitions.load("HW_04_music_gan") is gan
    assert sys.modules["HW_04_music_gan"] is gan


def test_a_worker_takes_its_share_of_what_was_asked_for():
    names = ("--worker", "--of", "--only")
    parser = common.command_line("Title.", *names)
    runs = record_failures.all_runs()
    shares = []
    for worker in ("0", "1"):
        words = ["--only", "greedy", "--of", "2", "--worker", worker]
        options = parser.parse_args(words)
        shares.append(common.own_share(runs, options))
    first, second = shares
    assert not {run.name for run in first} & {run.name for run in second}
    assert len(first) + len(second) == sum("greedy" in run.name for run in runs)


def test_json_is_rounded_and_innermost_lists_take_a_line(tmp_path):
    path = tmp_path / "found.json"
    found = {"é": [[1.23456, None], ["a", 2]], "whole": 123456}
    common.write_json(path, common.rounded(found))
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"é": [[1.235, None], ["a", 2]], "whole": 123456}
    assert "[1.235, null]" in text
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


def test_eight_bits_keep_the_ends_and_move_no_code_by_more_than_half_a_level(rng):
    codes = rng.uniform(-1, 1, 1000).astype(np.float32)
    assert np.abs(common.eight_bits(codes) - codes).max() <= 1.001 / 255
    assert common.eight_bits([-1, 1]).tolist() == [-1, 1]


def test_classifier_is_trained_once_and_then_read(rng, tmp_path, monkeypatch):
    codes = rng.uniform(-1, 1, (4, 128, 64)).astype(np.float32)
    patches = gan.Patches(codes, range(4), target=np.arange(4) % 2)
    trained = gan.Classifier(2)
    monkeypatch.setattr(gan, "train_classifier", lambda *args, seed: trained)
    path = tmp_path / "classifier.pt"
    common.kept_classifier(path, patches, 2)
    monkeypatch.delattr(gan, "train_classifier")
    read = common.kept_classifier(path, patches, 2)
    assert not read.training
    assert torch.equal(read.head.weight, trained.head.weight)


@pytest.mark.parametrize("classes", [(), SHARES])
def test_a_gru_alone_writes_the_matrix(classes):
    config = gan.Config(**TINY, generator="recurrent", classes=classes)
    generator = gan.GENERATORS["recurrent"](config)
    codes = generator(*generator.latents(2, 64))
    assert codes.shape == (2, 1, 128, 64)
    assert codes.abs().max() <= 1


def test_limits_are_the_thirds_of_the_gap():
    ill = np.array([0.1, 0.4, 0.9])
    others = np.array([0.0, 0.1])
    assert fit_limits.fitted_limits(ill, others, rises=True) == pytest.approx((0.2, 0.3))
    falling = fit_limits.fitted_limits(-ill, -others, rises=False)
    assert falling == pytest.approx((-0.2, -0.3))
    alone = fit_limits.fitted_limits(np.array([0.7]), np.array([]), rises=False)
    assert alone == pytest.approx((0.9, 0.8))
    with pytest.raises(ValueError, match="beyond all others"):
        fit_limits.fitted_limits(others, ill, rises=True)


def test_rules_ask_the_symptoms_of_diagnose():
    asked = [symptom for rule in fit_limits.RULES for symptom in rule.symptoms]
    assert set(asked) == set(gan.LIMITS)
    for rule in fit_limits.RULES:
        assert record_failures.SETTINGS[rule.setting].made == rule.verdict
        for symptom in rule.symptoms:
            fine, alarming = gan.LIMITS[symptom]
            assert (alarming > fine) == rule.rises


def test_recorded_limits_belong_to_the_notebook_and_part_most_runs():
    kept = json.loads(fit_limits.RECORDED.read_text(encoding="utf-8"))
    shipped = kept["shipped"]["limits"]
    assert shipped == {name: list(limits) for name, limits in gan.LIMITS.items()}
    for which in ("fitted", "shipped"):
        assert kept[which]["known"]["runs"] == 78
        assert kept[which]["unseen"]["runs"] == 60
        for runs in ("known", "unseen"):
            assert kept[which][runs]["balanced accuracy"] > 0.95


@pytest.mark.slow
def test_fitting_again_gives_the_recorded_limits():
    known, _ = fit_limits.read_runs()
    kept = json.loads(fit_limits.RECORDED.read_text(encoding="utf-8"))
    limits = fit_limits.fit(known)
    again = common.rounded(limits)
    assert again == kept["fitted"]["limits"]
