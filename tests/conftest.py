"""Fixtures."""

import numpy as np
import pytest
import soundfile

import covered
import Music
from helpers import tune


def pytest_terminal_summary(terminalreporter):
    """Say how much of the code was run, where that is measured."""
    found = covered.lines_run()
    if found is not None:
        terminalreporter.section("coverage")
        for sentence in covered.report(found):
            terminalreporter.line(sentence)


@pytest.fixture
def rng():
    """Random numbers, the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """A folder of audio in two genres."""
    audio = tmp_path / "audio"
    for seed, genre in enumerate(("jazz", "rock")):
        (audio / genre).mkdir(parents=True)
        soundfile.write(audio / genre / "a.flac", tune(4.0, seed=seed), Music.SR)
    return audio


@pytest.fixture(scope="session")
def scores(tmp_path_factory):
    """Nine rendered clips of 4 s with noise."""
    folder = tmp_path_factory.mktemp("scores")
    return Music.render_scores(folder, 9, seconds=4, n_jobs=1)
