"""Fixtures."""

import os

# Threads that wait for each other make a step several times as long where the machine is busy; one
# is about as fast at a test's sizes. Libraries read this as they are imported, kernels inherit it.
for library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402  (the number of threads comes first)
import pytest  # noqa: E402
import soundfile  # noqa: E402

import covered  # noqa: E402
import Music  # noqa: E402
from helpers import tune  # noqa: E402


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
