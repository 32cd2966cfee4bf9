"""What tests share: where the project lies, and music made of a few lines."""

import ast
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import Music

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
NOTE_SECONDS = 0.35    # of every 0.4 s; the rest is silence
DECAY = 6.0            # of a note's amplitude, per second


def tone(hz, seconds, sr=Music.SR):
    """A decaying tone of four harmonics: [shape=(seconds * sr,)]."""
    samples = int(seconds * sr)
    t = np.arange(samples) / sr
    wave = np.zeros(samples)
    for harmonic in (1, 2, 3, 4):
        angle = 2 * np.pi * harmonic * hz * t
        wave += np.sin(angle) / harmonic
    fading = np.exp(-DECAY * t)
    return wave * fading


def tune(seconds, sr=Music.SR, seed=0, level=0.05):
    """A melody of decaying harmonic tones with rests, so that silence shows between notes."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * sr)
    y = np.zeros(samples)
    for second in np.arange(0, seconds, 0.4):
        start = int(second * sr)
        semitones = rng.integers(0, 24)
        octaves = semitones / 12
        hz = 220 * 2 ** octaves
        note = tone(hz, NOTE_SECONDS, sr)
        stop = min(start + len(note), samples)
        length = stop - start
        y[start:stop] += note[:length]
    power = np.mean(y ** 2)
    rms = np.sqrt(power)
    scaled = level * y / rms
    return scaled.astype(np.float32)


def read_events(folder):
    """The settings, as text, and the scalars `{tag: [(step, value)]}` of a TensorBoard run."""
    run = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}).Reload()
    text = run.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    settings = {}
    for line in text.splitlines()[2:]:
        _, name, value, _ = map(str.strip, line.split("|"))
        settings[name] = value
    scalars = {}
    for tag in run.Tags()["scalars"]:
        scalars[tag] = [(event.step, event.value) for event in run.Scalars(tag)]
    return settings, scalars


@contextmanager
def memory_peak():
    """Trace the memory of a block of code: `peak` of what it gives is its largest, in bytes."""
    traced = SimpleNamespace(peak=None)
    tracemalloc.start()
    try:
        yield traced
        _now, traced.peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def run_cell(source, namespace, label="<cell>"):
    """Run a cell in this process; its last expression is shown by `display`, as in a notebook."""
    tree = ast.parse(source, label)
    *before, last = tree.body
    if not isinstance(last, ast.Expr):
        before.append(last)
    exec(compile(ast.Module(before, []), label, "exec"), namespace)
    if isinstance(last, ast.Expr):
        shown = eval(compile(ast.Expression(last.value), label, "eval"), namespace)
        namespace["display"](shown)
