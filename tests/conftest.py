import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import Music  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tune(seconds, sr=Music.SR, seed=0, level=0.05):
    """A melody of decaying harmonic tones with rests, so that silence shows between notes."""
    rng = np.random.default_rng(seed)
    y = np.zeros(int(seconds * sr))
    for start in np.arange(0, seconds, 0.4):
        t = np.arange(min(int(0.35 * sr), len(y) - int(start * sr))) / sr
        pitch = 220 * 2 ** (rng.integers(0, 24) / 12)
        note = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in range(1, 5)) * np.exp(-6 * t)
        y[int(start * sr):int(start * sr) + len(t)] += note
    return (level * y / np.sqrt(np.mean(y ** 2))).astype(np.float32)


def si_sdr(estimate, truth):
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux 2019)."""
    target = truth * np.dot(estimate, truth) / np.dot(truth, truth)
    return 10 * np.log10(np.sum(target ** 2) / np.sum((estimate - target) ** 2))


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
