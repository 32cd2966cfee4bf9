"""What tests share: where the project lies, and music made of a few lines."""

from pathlib import Path

import numpy as np

import Music

ROOT = Path(__file__).resolve().parent.parent


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
