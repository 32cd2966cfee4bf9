"""Pink noise removal beside its peers, on tracks that the shipped gain was not trained on.

    python tests/evidence/benchmark_noise.py [folder of clean music] [--tracks 48]
                                             [--scores-only gain.npz]
                                    [--record name]

Without a folder: clean scores, rendered into a temporary one. Of each held-out track one excerpt
of 10 s is mixed with pink noise at known levels. Blind methods get the mix alone; the last two
rows know the noise: a log-spectral-amplitude gain (Ephraim and Malah 1985) with the noise's
expected spectrum, and the ideal ratio mask, which knows both signals: the bound. Needs
`noisereduce` for two rows (left out where it is missing). `--scores-only` adds weights that were
trained elsewhere, for instance on rendered scores alone (`train_gain.py --out`). `--record`
writes the figures to `runs/recorded/pink-gain/<name>.json`, which the notebook tabulates.
"""

import argparse
import contextlib
import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import common  # noqa: F401  (puts the project on the path)
import librosa
import numpy as np
import scipy.signal
import scipy.special

import Music
from train_gain import ROOT, excerpts, is_held_out, mixed

LEVELS = (0, 5, 10, 20, 60)
FRAME = {"n_fft": 2048, "hop_length": 512}


def log_mel(power):
    """dB of 128 HTK bands of a power spectrogram."""
    filters = librosa.filters.mel(sr=Music.SR, n_fft=2048, n_mels=128, htk=True, norm=None)
    return 10 * np.log10(np.maximum(filters @ power, 1e-12))


def rmse(estimate, truth):
    """Root mean square error in dB, down to 80 dB below the truth's maximum."""
    foot = truth.max() - 80
    return float(np.sqrt(np.mean((np.maximum(estimate, foot) - np.maximum(truth, foot)) ** 2)))


def known_spectrum_lsa(noisy, noise):
    """Log-spectral-amplitude gain, decision-directed, given the noise's expected spectrum."""
    S = librosa.stft(noisy, **FRAME)
    ratio = np.abs(S) ** 2 / (Music.pink_template(2048, Music.SR) * np.var(noise))
    gain, before = np.empty_like(ratio), np.ones(len(ratio))
    for t, gamma in enumerate(ratio.T):
        xi = np.maximum(0.98 * before + 0.02 * np.maximum(gamma - 1, 0), 10 ** -2.5)
        v = np.maximum(xi / (1 + xi) * gamma, 1e-8)
        gain[:, t] = np.clip(xi / (1 + xi) * np.exp(scipy.special.exp1(v) / 2), 0.1, 1)
        before = gain[:, t] ** 2 * gamma
    return librosa.istft(S * gain, hop_length=512, length=len(noisy))


def ideal_ratio_mask(y, noise, n_fft=2048):
    """Wiener's gain from both true spectrograms, cell by cell."""
    Y, N = (librosa.stft(s, n_fft=n_fft) for s in (y, noise))
    gain = np.abs(Y) ** 2 / (np.abs(Y) ** 2 + np.abs(N) ** 2 + 1e-20)
    return librosa.istft((Y + N) * gain, length=len(y))


def spectral_subtraction(noisy):
    """Boll 1979: the 10 % quantile of each bin's magnitude over time, taken off."""
    S = librosa.stft(noisy, **FRAME)
    magnitude = np.abs(S)
    floor = np.quantile(magnitude, 0.1, axis=1, keepdims=True)
    gain = np.maximum(1 - floor / np.maximum(magnitude, 1e-9), 0.1)
    return librosa.istft(S * gain, hop_length=512, length=len(noisy))


@contextlib.contextmanager
def weights_from(path):
    """Let Music use other weights for a while; a path that does not exist means the formula."""
    shipped, Music.WEIGHTS = Music.WEIGHTS, Path(path)
    Music.gain_weights.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Music.WEIGHTS = shipped
        Music.gain_weights.cache_clear()


def ours(path):
    def remove(noisy):
        with weights_from(path):
            power = Music.mel_spectrogram(noisy, n_mels=128, denoise=True, **FRAME)
            return Music.remove_pink_noise(noisy), 10 * np.log10(np.maximum(power, 1e-12))
    return remove


def methods(other):
    """Blind methods by name: noisy to waveform, or to (waveform, log-mel of its code)."""
    found = {"nothing": lambda x: x,
             "scipy.signal.wiener": lambda x: scipy.signal.wiener(x, 29),
             "spectral subtraction": spectral_subtraction}
    with contextlib.suppress(ImportError):
        from noisereduce import reduce_noise
        for name, stationary in (("stationary", True), ("non-stationary", False)):
            found[f"noisereduce, {name}"] = lambda x, s=stationary: reduce_noise(
                y=x, sr=Music.SR, stationary=s)
    found["ours, formula (no weights)"] = ours("none")
    if other:
        found["ours, trained on rendered scores"] = ours(other)
    found["ours, as shipped"] = ours(Music.WEIGHTS)
    return found


def measure(y, seed, other):
    """Each level's `{method: (SI-SDR in dB, log-mel RMSE of the sound, of the code)}`."""
    truth, results = log_mel(np.abs(librosa.stft(y, **FRAME)) ** 2), []
    for level in LEVELS:
        noisy, noise = mixed(y, level, seed)
        found = {}
        for name, method in methods(other).items():
            found[name] = method(noisy)
        found["LSA, noise spectrum known"] = known_spectrum_lsa(noisy, noise)
        found["ideal ratio mask (bound)"] = ideal_ratio_mask(y, noise)
        row = {}
        for name, made in found.items():
            sound, code = made if isinstance(made, tuple) else (made, None)
            mel = log_mel(np.abs(librosa.stft(np.asarray(sound, np.float32), **FRAME)) ** 2)
            error = rmse(mel, truth)
            of_code = error if code is None else rmse(code, truth)
            row[name] = (Music.si_sdr(sound, y), error, of_code)
        results.append(row)
    return results


def held_out_excerpts(folder, tracks):
    """One excerpt of 10 s of each held-out track, spread over the sub-folders."""
    audio = [p for p in Music.labels_in_turn(Music.audio_files(folder)[0], Path(folder))
             if is_held_out(p)]
    found = Music.parallel(excerpts, [(p, (4,)) for p in audio[:tracks]], -1)
    return [clips[0] for clips in found if clips]


def print_table(title, results, index, worst):
    names = list(results[0][0])
    print(f"\n{title}\n{'':34}" + "".join(f"{f'{level} dB':>15}" for level in LEVELS))
    for name in names:
        values = np.array([[row[name][index] for row in clip] for clip in results])
        edge = worst(values, 0)
        print(f"{name:34}" + "".join(f"{m:8.1f} ({w:4.1f})" for m, w in zip(values.mean(0), edge)))


def verdict(results):
    """The differences that matter, paired by excerpt: `{what: one value a level}`."""
    get = {n: np.array([[row[n] for row in clip] for clip in results]) for n in results[0][0]}
    mine, known, none = (get[n] for n in ("ours, as shipped", "LSA, noise spectrum known",
                                          "nothing"))
    change = mine[:, :, 0] - none[:, :, 0]
    above = mine[:, :, 0] - known[:, :, 0]
    return {"above the LSA gain that knows the spectrum, dB": above.mean(0),
            "its standard error": above.std(0, ddof=1) / np.sqrt(len(above)),
            "worst change of an excerpt, dB": change.min(0),
            "log-mel error of the code over the untreated one's":
                mine[:, :, 2].mean(0) / none[:, :, 2].mean(0)}


def record(path, corpus, versions, results, differences):
    """Keep mean and worst of every method at every level, for the notebook."""
    tables = {}
    for index, title, worst in ((0, "SI-SDR", np.min), (1, "sound", np.max), (2, "code", np.max)):
        values = {n: np.array([[row[n][index] for row in clip] for clip in results])
                  for n in results[0][0]}
        tables[title] = {n: {"mean": v.mean(0).round(3).tolist(),
                             "worst": worst(v, 0).round(3).tolist()} for n, v in values.items()}
    path.write_text(json.dumps({
        "corpus": corpus, "excerpts": len(results), "versions": versions, "levels": LEVELS,
        "tables": tables,
        "verdict": {k: np.round(v, 3).tolist() for k, v in differences.items()}}, indent=1))


def benchmark(folder, tracks, other, name):
    clips = held_out_excerpts(folder, tracks)
    results = list(Music.parallel(measure, [(y, i, other) for i, y in enumerate(clips)], -1))
    names = [n for n in ("numpy", "scipy", "librosa", "noisereduce") if _has(n)]
    versions = ", ".join(f"{n} {version(n)}" for n in names)
    corpus = "rendered scores" if folder.name.startswith("rendered-") else folder.name
    print(f"{corpus}, {len(clips)} held-out tracks, an excerpt of 10 s of each; {versions}")
    print_table("SI-SDR in dB, mean (worst)", results, 0, np.min)
    print_table("log-mel RMSE in dB of the sound, mean (worst)", results, 1, np.max)
    print_table("log-mel RMSE in dB of the code (2048 / 512), mean (worst)", results, 2, np.max)
    differences = verdict(results)
    for what, values in differences.items():
        by_level = [f"{level} dB: {value:+.2f}" for level, value in zip(LEVELS, values)]
        print(f"{what}: " + ", ".join(by_level))
    if name:
        record(ROOT / "runs" / "recorded" / "pink-gain" / f"{name}.json", corpus, versions,
               results, differences)


def _has(package):
    with contextlib.suppress(Exception):
        return bool(version(package))
    return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--tracks", type=int, default=48)
    parser.add_argument("--scores-only", type=Path)
    parser.add_argument("--record", metavar="name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        where = options.folder or Music.render_scores(temporary, 400, None, seconds=50)
        benchmark(where, options.tracks, options.scores_only, options.record)
