"""Pink noise removal beside its peers, on tracks that the shipped gain was not trained on.

    python tests/evidence/benchmark_noise.py [folder of clean music] [--tracks 48]
                                             [--scores-only gain.npz]
                                    [--record name]

Without a folder: clean scores, rendered into a temporary one. Of each held-out track one excerpt
of 10 s is mixed with pink noise at known levels. Blind methods get the mix alone; the last two
rows know the noise: a log-spectral-amplitude gain (Ephraim and Malah 1985) with the noise's
expected spectrum, and the ideal ratio mask, which knows both signals. That mask bounds what gains
of magnitudes reach in SI-SDR; the error of a code in dB it does not bound. Needs `noisereduce`
for two rows (left out where it is missing). `--scores-only` adds weights that were trained
elsewhere, for instance on rendered scores alone (`train_gain.py --only-scores --out`). The same
excerpts, stored at low rates and as small MP3s, are measured with and without the shipped gain.
`--record` writes the figures to `runs/recorded/pink-gain/<name>.json`, which the notebook
tabulates.
"""

import argparse
import contextlib
import functools
import json
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import common  # noqa: F401  (puts the project on the path)
import librosa
import numpy as np
import scipy.signal
import scipy.special
from band_gain import decibels

import Music
from train_gain import RECORDED, STORED, excerpts, is_held_out, mixed

LEVELS = (0, 5, 10, 20, 25, 30, 35, 40, 60)     # dB
STORED_LEVELS = (5, 10)     # dB
FRAME = {"n_fft": 2048, "hop_length": 512}
PACKAGES = ("numpy", "scipy", "librosa", "noisereduce")


class Cleaned(NamedTuple):
    """What a method makes of a noisy waveform."""

    sound: np.ndarray
    code: np.ndarray | None = None      # dB of mel bands, None: those of the sound


class Score(NamedTuple):
    """How good that is, in dB: SI-SDR, log-mel RMSE of the sound, of the code."""

    si_sdr: float
    sound: float
    code: float


class Table(NamedTuple):
    """How one part of the score is shown and recorded."""

    part: str
    name: str           # in the record
    worst: Callable
    title: str


TABLES = (
    Table("si_sdr", "SI-SDR", np.min, "SI-SDR in dB, mean (worst)"),
    Table("sound", "sound", np.max, "log-mel RMSE in dB of the sound, mean (worst)"),
    Table("code", "code", np.max, "log-mel RMSE in dB of the code (2048 / 512), mean (worst)"),
)


# ---------------------------------------------------------------- measures

def log_mel(y):
    """dB of 128 HTK bands of a waveform."""
    spectrum = librosa.stft(y, **FRAME)
    power = np.abs(spectrum) ** 2
    filters = librosa.filters.mel(sr=Music.SR, n_fft=2048, n_mels=128, htk=True, norm=None)
    return decibels(filters @ power)


def rmse(estimate, truth):
    """Root mean square error in dB, down to 80 dB below the truth's maximum."""
    foot = truth.max() - 80
    error = np.maximum(estimate, foot) - np.maximum(truth, foot)
    square = np.mean(error ** 2)
    return float(np.sqrt(square))


# ---------------------------------------------------------------- methods

def nothing(noisy):
    """Leave the noise."""
    return noisy


def wiener(noisy):
    """Wiener's filter of samples, 29 at a time."""
    return scipy.signal.wiener(noisy, 29)


def spectral_subtraction(noisy):
    """Boll 1979: the 10 % quantile of each bin's magnitude over time, taken off."""
    S = librosa.stft(noisy, **FRAME)
    magnitude = np.abs(S)
    floor = np.quantile(magnitude, 0.1, axis=1, keepdims=True)
    share = floor / np.maximum(magnitude, 1e-9)
    gain = np.maximum(1 - share, 0.1)
    return librosa.istft(S * gain, hop_length=512, length=len(noisy))


def known_spectrum_lsa(noisy, noise):
    """Log-spectral-amplitude gain, decision-directed, given the noise's expected spectrum."""
    S = librosa.stft(noisy, **FRAME)
    expected = Music.pink_template(2048, Music.SR) * np.var(noise)
    ratio = np.abs(S) ** 2 / expected
    gain = np.empty_like(ratio)
    before = np.ones(len(ratio))
    for t, gamma in enumerate(ratio.T):
        excess = np.maximum(gamma - 1, 0)
        xi = np.maximum(0.98 * before + 0.02 * excess, 10 ** -2.5)
        wiener_gain = xi / (1 + xi)
        v = np.maximum(wiener_gain * gamma, 1e-8)
        rise = np.exp(scipy.special.exp1(v) / 2)
        gain[:, t] = np.clip(wiener_gain * rise, 0.1, 1)
        before = gain[:, t] ** 2 * gamma
    return librosa.istft(S * gain, hop_length=512, length=len(noisy))


def ideal_ratio_mask(y, noise, n_fft=2048):
    """Wiener's gain from both true spectrograms, cell by cell."""
    Y = librosa.stft(y, n_fft=n_fft)
    N = librosa.stft(noise, n_fft=n_fft)
    music_power = np.abs(Y) ** 2
    noise_power = np.abs(N) ** 2
    gain = music_power / (music_power + noise_power + 1e-20)
    return librosa.istft((Y + N) * gain, length=len(y))


@contextlib.contextmanager
def weights_from(path):
    """Let Music use other weights for a while; a path that does not exist means the formula."""
    shipped = Music.WEIGHTS
    Music.WEIGHTS = Path(path)
    Music.gain_weights.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Music.WEIGHTS = shipped
        Music.gain_weights.cache_clear()


def ours(path):
    """Our removal with the weights in a file."""
    def remove(noisy):
        with weights_from(path):
            power = Music.mel_spectrogram(noisy, n_mels=128, denoise=True, **FRAME)
            sound = Music.remove_pink_noise(noisy)
        return Cleaned(sound, decibels(power))
    return remove


def noise_gates():
    """Both gates of noisereduce by name, none where it is missing."""
    try:
        from noisereduce import reduce_noise
    except ImportError:
        return {}
    gate = functools.partial(reduce_noise, sr=Music.SR)
    return {
        "noisereduce, stationary": functools.partial(gate, stationary=True),
        "noisereduce, non-stationary": functools.partial(gate, stationary=False),
    }


def methods(other):
    """Blind methods by name: noisy to waveform, or to `Cleaned`."""
    found = {
        "nothing": nothing,
        "scipy.signal.wiener": wiener,
        "spectral subtraction": spectral_subtraction,
        **noise_gates(),
        "ours, formula (no weights)": ours("none"),
    }
    if other:
        found["ours, trained on rendered scores"] = ours(other)
    found["ours, as shipped"] = ours(Music.WEIGHTS)
    return found


# ---------------------------------------------------------------- measuring

def score(made, y, truth):
    """Score of what a method made, beside the clean waveform and its log-mel."""
    cleaned = made if isinstance(made, Cleaned) else Cleaned(made)
    sound = np.asarray(cleaned.sound, np.float32)
    error = rmse(log_mel(sound), truth)
    of_code = error if cleaned.code is None else rmse(cleaned.code, truth)
    return Score(Music.si_sdr(cleaned.sound, y), error, of_code)


def measure(y, seed, other):
    """Each level's `{method: Score}`."""
    truth = log_mel(y)
    results = []
    for level in LEVELS:
        noisy, noise = mixed(y, level, seed)
        found = {}
        for name, method in methods(other).items():
            found[name] = method(noisy)
        found["LSA, noise spectrum known"] = known_spectrum_lsa(noisy, noise)
        found["ideal ratio mask"] = ideal_ratio_mask(y, noise)
        row = {name: score(made, y, truth) for name, made in found.items()}
        results.append(row)
    return results


def code_of(y, denoise):
    """dB of the bands of a code, with or without the shipped gain."""
    return decibels(Music.mel_spectrogram(y, n_mels=128, denoise=denoise, **FRAME))


def measure_stored(y, seed):
    """Errors of the code and belief in a floor, `{how: (levels, 3)}`, of excerpts stored so."""
    found = {}
    for how, store in STORED.items():
        rows = []
        for level in STORED_LEVELS:
            noisy, _noise = mixed(y, level, seed)
            noisy = np.asarray(store(noisy), np.float32)
            clean = np.asarray(store(y), np.float32)[:len(noisy)]
            noisy = noisy[:len(clean)]
            truth = code_of(clean, denoise=False)
            untreated = rmse(code_of(noisy, denoise=False), truth)
            treated = rmse(code_of(noisy, denoise=True), truth)
            power = Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH)
            rows.append((untreated, treated, Music.pink_floor(power).presence > 0))
        found[how] = rows
    return found


def table_of_stored(measured):
    """Means over excerpts by way of storing, as they are recorded."""
    found = {}
    for how in STORED:
        values = np.array([excerpt[how] for excerpt in measured], float)
        means = values.mean(0).round(3).T.tolist()
        found[how] = dict(zip(("nothing", "ours, as shipped", "floors believed"), means))
    return {"levels": STORED_LEVELS, "code": found}


def held_out_excerpts(folder, tracks):
    """One excerpt of 10 s of each held-out track, spread over the sub-folders."""
    found, _ = Music.audio_files(folder)
    audio = Music.labels_in_turn(found, Path(folder))
    held_out = [path for path in audio if is_held_out(path)]
    jobs = [(path, (4,)) for path in held_out[:tracks]]
    return [clips[0] for clips in Music.parallel(excerpts, jobs, -1) if clips]


# ---------------------------------------------------------------- report

def method_names(results):
    """Names of the methods, in the order of the tables."""
    first_excerpt, *_ = results
    return list(first_excerpt[0])


def values_of(results, name, part):
    """One part of a method's scores: an array (excerpts, levels)."""
    rows = []
    for excerpt in results:
        rows.append([getattr(level[name], part) for level in excerpt])
    return np.array(rows)


def print_table(table, results):
    """Print mean and worst of every method at every level."""
    heads = [f"{level} dB" for level in LEVELS]
    print(f"\n{table.title}\n{'':34}" + "".join(f"{head:>15}" for head in heads))
    for name in method_names(results):
        values = values_of(results, name, table.part)
        both = zip(values.mean(0), table.worst(values, 0))
        cells = [f"{mean:8.1f} ({worst:4.1f})" for mean, worst in both]
        print(f"{name:34}" + "".join(cells))


def verdict(results):
    """The differences that matter, paired by excerpt: `{what: one value a level}`."""
    mine = values_of(results, "ours, as shipped", "si_sdr").astype(np.float64)
    known = values_of(results, "LSA, noise spectrum known", "si_sdr")
    untreated = values_of(results, "nothing", "si_sdr")
    code = values_of(results, "ours, as shipped", "code")
    untreated_code = values_of(results, "nothing", "code")
    change = mine - untreated
    above = mine - known
    deviation = above.std(0, ddof=1)
    return {
        "above the LSA gain that knows the spectrum, dB": above.mean(0),
        "its standard error": deviation / np.sqrt(len(above)),
        "worst change of an excerpt, dB": change.min(0),
        "log-mel error of the code over the untreated one's":
            code.mean(0) / untreated_code.mean(0),
    }


def print_verdict(differences):
    """Print each difference at every level."""
    for what, values in differences.items():
        by_level = [f"{level} dB: {value:+.2f}" for level, value in zip(LEVELS, values)]
        print(f"{what}: " + ", ".join(by_level))


def recorded_table(table, results):
    """Mean and worst at every level by method, as they are recorded."""
    found = {}
    for name in method_names(results):
        values = values_of(results, name, table.part)
        mean = values.mean(0).round(3)
        worst = table.worst(values, 0).round(3)
        found[name] = {"mean": mean.tolist(), "worst": worst.tolist()}
    return found


def record(path, corpus, versions, results, differences, stored):
    """Keep mean and worst of every method at every level, for the notebook."""
    kept = {
        "corpus": corpus,
        "excerpts": len(results),
        "versions": versions,
        "levels": LEVELS,
        "tables": {table.name: recorded_table(table, results) for table in TABLES},
        "stored": stored,
        "verdict": {what: np.round(value, 3).tolist() for what, value in differences.items()},
    }
    path.write_text(json.dumps(kept, indent=1))


def installed_versions():
    """Those of the packages that are there, with their versions."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def benchmark(folder, tracks, other, name):
    """Measure, print, and record under a name where there is one."""
    clips = held_out_excerpts(folder, tracks)
    jobs = [(y, seed, other) for seed, y in enumerate(clips)]
    results = list(Music.parallel(measure, jobs, -1))
    versions = installed_versions()
    corpus = "rendered scores" if folder.name.startswith("rendered-") else folder.name
    print(f"{corpus}, {len(clips)} held-out tracks, an excerpt of 10 s of each; {versions}")
    for table in TABLES:
        print_table(table, results)
    differences = verdict(results)
    print_verdict(differences)
    jobs = [(y, seed) for seed, y in enumerate(clips)]
    stored = table_of_stored(list(Music.parallel(measure_stored, jobs, -1)))
    print(json.dumps(stored, indent=1))
    if name:
        record(RECORDED / f"{name}.json", corpus, versions, results, differences, stored)


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--tracks", type=int, default=48)
    parser.add_argument("--scores-only", type=Path)
    parser.add_argument("--record", metavar="name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        where = options.folder or Music.render_scores(temporary, 400, None, seconds=50)
        benchmark(where, options.tracks, options.scores_only, options.record)


if __name__ == "__main__":
    main()
