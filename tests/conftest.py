"""Fixtures."""

import numpy as np
import pytest
import soundfile

import Music
from helpers import tune


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
