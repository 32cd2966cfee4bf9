"""From codes back to sound: the learned inversion beside the bands alone, a peer and a bound.

    python tests/evidence/benchmark_inversion.py [folder of music] [--clips 45] [--record name]

Without a folder: clean scores, rendered into a temporary one. Clips of 10 s of tracks that the
inversion was not trained on, the sub-folders (repertoires, styles) in turn. *True magnitudes*
gives the phase alone to fast Griffin-Lim, from the magnitudes of the music itself: a bound for
whatever guesses them. *Audible* is the share of third octaves and frames in which the difference
lies over the masking threshold of the music (`masking.py`). `--record` keeps means, worst values
and the means of each sub-folder in `runs/recorded/inversion`. (librosa's own `mel_to_audio` is
left out: its least squares take minutes a clip.) Run with OMP_NUM_THREADS=1 for speeds of one
core.
"""

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import common  # first of the project's own: it puts them on the path
import librosa
import numpy as np
from masking import CENTRES, FFT, LEVEL, noise_to_mask

import Music
from train_gain import SECONDS, excerpts, is_held_out

RECORDED = common.RECORDED / "inversion"
SIZE = {"n_fft": Music.N_FFT, "hop_length": Music.HOP_LENGTH}
PITCHES = {"sr": Music.SR, "n_fft": 8192, "hop_length": 2048, "fmin": 80, "fmax": 2000}
SAMPLES = SECONDS * Music.SR // Music.HOP_LENGTH * Music.HOP_LENGTH
STEPS = 96
EDGE = 2          # frames at either end whose codes depend on what lies beyond


class Measured(NamedTuple):
    """What is measured of a clip that became a code, and sound again."""

    convergence: float     # dB: energy of the magnitudes over that of their error
    log_stft: float        # dB, root mean square, down to 60 dB below the clip's maximum
    code: float            # dB: RMSE of the code of the sound
    cents: float           # median distance of the strongest partials of a frame
    onsets: float          # correlation of their strengths
    audible: float         # share of third octaves and frames with a difference over the mask
    speed: float           # times real time
    over_mask: np.ndarray  # median level of the difference over the mask in each third octave, dB


NUMBERS = [name for name in Measured._fields if name != "over_mask"]


class Example(NamedTuple):
    """Ten seconds of a track."""

    label: str
    y: np.ndarray       # (n,)
    code: np.ndarray    # (n_mels, t)


# ---------------------------------------------------------------- ways back

def code_of(y):
    """Code (n_mels, t) of a waveform."""
    return Music.code_from_mel(Music.mel_spectrogram(y)).astype(np.float32)


def mel_power(code):
    """Mel power that a code stands for."""
    db = Music.db_from_code(code)
    return 10 ** (db / 10)


def pseudo_inverse(example):
    """Pseudo-inverse for the magnitude, then fast Griffin-Lim."""
    filters = Music.mel_filters(Music.SR, Music.N_FFT, Music.N_MELS).toarray()
    inverse = np.linalg.pinv(filters)
    power = np.maximum(inverse @ mel_power(example.code), 0)
    return librosa.griffinlim(np.sqrt(power), n_iter=STEPS, random_state=0, **SIZE)


def bands_alone(example):
    """Ours without the learned magnitudes."""
    return Music.music_from_code(example.code, learned=False)


def learned(example):
    """Ours."""
    return Music.music_from_code(example.code)


def true_magnitudes(example):
    """Phase alone is lost."""
    magnitude = np.abs(librosa.stft(example.y, **FFT))
    return librosa.griffinlim(magnitude, n_iter=STEPS, random_state=0, **FFT)


METHODS = {
    "pseudo-inverse + Griffin-Lim": pseudo_inverse,
    "ours, bands alone": bands_alone,
    "ours, learned": learned,
    "true magnitudes (bound)": true_magnitudes,
}


# ---------------------------------------------------------------- measures

def decibels(ratio):
    """A ratio of amplitudes in dB."""
    return 20 * np.log10(ratio)


def convergence_db(truth, found):
    """Spectral convergence of magnitudes, as a level above the error; more is better."""
    error = np.linalg.norm(found - truth)
    return decibels(np.linalg.norm(truth) / error)


def log_distance_db(truth, found):
    """RMS difference in dB where the truth lies at most 60 dB below its maximum."""
    loudest = truth.max()
    seen = truth > loudest * 1e-3
    heard = np.maximum(found[seen], loudest * 1e-4)
    difference = decibels(heard / truth[seen])
    return np.sqrt(np.mean(difference ** 2))


def strongest_partials(y):
    """Frequency of the strongest partial of each frame, Hz."""
    hz, magnitude = librosa.piptrack(y=y, **PITCHES)
    strongest = magnitude.argmax(0)
    return np.take_along_axis(hz, strongest[None], 0)[0]


def cents_off(y, sound):
    """Median distance of the strongest partials where both lie within a semitone, cents."""
    first = strongest_partials(y)
    second = strongest_partials(sound)
    both = (first > 0) & (second > 0)
    cents = 1200 * np.abs(np.log2(second[both] / first[both]))
    return np.median(cents[cents < 100])


def code_error_db(code, sound):
    """RMSE of the code of a sound against the code that it was made from, dB."""
    again = code_of(sound)[:, :code.shape[1]]
    error = Music.db_from_code(again) - Music.db_from_code(code)
    inner = error[:, EDGE:-EDGE]
    return np.sqrt(np.mean(inner ** 2))


def measure(example, method):
    """Send an example through its code and back: `Measured`."""
    y = example.y
    started = time.process_time()
    sound = method(example)
    seconds = time.process_time() - started
    sound = np.resize(sound[:len(y)], len(y)).astype(np.float32)
    truth = np.abs(librosa.stft(y, **FFT))
    found = np.abs(librosa.stft(sound, **FFT))
    over_mask = noise_to_mask(truth, found, np.mean(y ** 2))
    return Measured(
        convergence_db(truth, found),
        log_distance_db(truth, found),
        code_error_db(example.code, sound),
        cents_off(y, sound),
        Music.onset_agreement(sound, y),
        float(np.mean(over_mask > 0)),
        len(y) / Music.SR / seconds,
        np.median(over_mask, axis=1),
    )


# ---------------------------------------------------------------- music, tables, record

def held_out_examples(folder, count):
    """Ten seconds of so many held-out tracks, the sub-folders in turn."""
    found, _ = Music.audio_files(folder)
    held_out = [path for path in found if is_held_out(path)]
    examples = []
    for path in Music.labels_in_turn(held_out, Path(folder)):
        if len(examples) == count:
            break
        for y in excerpts(path, (1,)):
            y = y[:SAMPLES].astype(np.float32)
            label = path.relative_to(folder).parts[0]
            examples.append(Example(label, y, code_of(y)))
    return examples


def by_label(examples, rows, measure):
    """Mean of a measure for each label."""
    values = collections.defaultdict(list)
    for example, row in zip(examples, rows):
        values[example.label].append(getattr(row, measure))
    return {label: float(np.mean(values[label])) for label in sorted(values)}


def means_of(rows):
    """Mean of each number over the clips."""
    return {name: float(np.mean([getattr(row, name) for row in rows])) for name in NUMBERS}


def summary(examples, rows):
    """What is kept of a method: means, the worst clip's convergence, and means by label."""
    over_mask = np.mean([row.over_mask for row in rows], axis=0)
    return {
        **means_of(rows),
        "worst convergence": float(min(row.convergence for row in rows)),
        "convergence by label": by_label(examples, rows, "convergence"),
        "audible by label": by_label(examples, rows, "audible"),
        "over the mask by third octave": over_mask.tolist(),
    }


def benchmark(examples):
    """Measure and print each method: a summary by name."""
    print(f"{'':30}" + "".join(f"{name:>12}" for name in NUMBERS))
    rows = {}
    for name, method in METHODS.items():
        measure(examples[0], method)     # warms up
        rows[name] = [measure(example, method) for example in examples]
        means = means_of(rows[name]).values()
        print(f"{name:30}" + "".join(f"{value:12.2f}" for value in means), flush=True)
    gains = []
    for before, after in zip(rows["ours, bands alone"], rows["ours, learned"]):
        gains.append(after.convergence - before.convergence)
    print(f"convergence gained by learning: {np.mean(gains):.1f} dB, at least {min(gains):.1f} dB")
    found = {name: summary(examples, rows[name]) for name in METHODS}
    return {
        "clips": len(examples),
        "least gain": float(min(gains)),
        "level (dB SPL)": LEVEL,
        "third octaves (Hz)": CENTRES.round().tolist(),
        "methods": found,
    }


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clips", type=int, default=45)
    parser.add_argument("--record", help="name of the record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        folder = options.folder
        if folder is None:
            folder = Music.render_scores(temporary, 8 * options.clips, None)
        found = benchmark(held_out_examples(folder, options.clips))
    if options.record:
        common.write_json(RECORDED / f"{options.record}.json", common.rounded(found))


if __name__ == "__main__":
    main()
