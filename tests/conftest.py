"""Fixtures."""

import numpy as np
import pytest
import soundfile
from helpers import tune

import Music


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """A folder of audio in two genres."""
    for genre, seed in (("jazz", 0), ("rock", 1)):
        (tmp_path / "audio" / genre).mkdir(parents=True)
        soundfile.write(tmp_path / "audio" / genre / "a.flac", tune(4.0, seed=seed), Music.SR)
    return tmp_path / "audio"


@pytest.fixture(scope="session")
def scores(tmp_path_factory):
    """Nine rendered clips of 4 s with noise."""
    return Music.render_scores(tmp_path_factory.mktemp("scores"), 9, seconds=4, n_jobs=1)
