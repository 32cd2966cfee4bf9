"""From codes back to sound: ours beside librosa's, and beside Griffin-Lim on fixed magnitudes.

    python tests/evidence/benchmark_inversion.py [folder of music] [--clips 27]

Without a folder: clean scores, rendered into a temporary one. Clips of 10 s, one a track. Error
is that of the code of the sound against the code that it was made from, in dB, down to 80 dB
below the clip's maximum. Run with OMP_NUM_THREADS=1 for speeds of one core.
"""

import argparse
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import common  # noqa: F401  (puts the project on the path)
import librosa
import numpy as np

import Music
from train_gain import SECONDS, excerpts

SIZE = {"n_fft": Music.N_FFT, "hop_length": Music.HOP_LENGTH}


class Measured(NamedTuple):
    """What is measured of a clip that became a code, and sound again."""

    rmse: float         # dB
    absolute: float     # mean absolute error, dB
    onsets: float       # correlation of their strengths
    seconds: float      # that the way back took


def code_of(y):
    """Code (n_mels, t) of a waveform."""
    return Music.code_from_mel(Music.mel_spectrogram(y))


def mel_power(code):
    """Mel power that a code stands for."""
    db = Music.db_from_code(code)
    return 10 ** (db / 10)


def librosas(code):
    """librosa's own way back: least squares for the magnitude, then fast Griffin-Lim."""
    return librosa.feature.inverse.mel_to_audio(mel_power(code), sr=Music.SR, n_iter=32, htk=True,
                                                norm=None, **SIZE)


def fixed_magnitude(code):
    """Pseudo-inverse for the magnitude, then fast Griffin-Lim."""
    filters = Music.mel_filters(Music.SR, Music.N_FFT, len(code)).toarray()
    inverse = np.linalg.pinv(filters)
    power = np.maximum(inverse @ mel_power(code), 0)
    return librosa.griffinlim(np.sqrt(power), n_iter=32, random_state=0, **SIZE)


METHODS = {
    "librosa mel_to_audio": librosas,
    "pseudo-inverse + Griffin-Lim": fixed_magnitude,
    "ours": Music.music_from_code,
}


def error_db(code, again):
    """Error of the second code in dB, down to 80 dB below the maximum of the first."""
    truth = Music.db_from_code(code)
    estimate = Music.db_from_code(again)
    foot = truth.max() - 80
    return np.maximum(estimate, foot) - np.maximum(truth, foot)


def onset_correlation(y, sound):
    """Correlation of the onset strengths of two waveforms, as far as both go."""
    first = librosa.onset.onset_strength(y=y, sr=Music.SR)
    second = librosa.onset.onset_strength(y=sound[:len(y)], sr=Music.SR)
    frames = min(len(first), len(second))
    return np.corrcoef(first[:frames], second[:frames])[0, 1]


def measure(y, method):
    """Send a clip through its code and back: `Measured`."""
    code = code_of(y)
    started = time.process_time()
    sound = method(code)
    seconds = time.process_time() - started
    frames = code.shape[1]
    again = code_of(sound)[:, :frames]
    error = error_db(code, again)
    rmse = np.sqrt(np.mean(error ** 2))
    absolute = np.abs(error).mean()
    return Measured(rmse, absolute, onset_correlation(y, sound), seconds)


def first_clips(folder, count):
    """The first 10 s of so many tracks, spread over the sub-folders."""
    found, _ = Music.audio_files(folder)
    tracks = Music.labels_in_turn(found, Path(folder))
    clips = []
    for path in tracks[:count]:
        clips += excerpts(path, (0,))
    return clips


def print_row(name, measured):
    """Print means of a method over all clips, and its worst RMSE."""
    mean = Measured(*np.mean(measured, axis=0))
    worst = max(each.rmse for each in measured)
    speed = SECONDS / mean.seconds
    print(f"{name:30} {mean.rmse:5.2f} ({worst:4.2f})  {mean.absolute:14.2f}  {mean.onsets:6.2f}"
          f"  {speed:15.1f}", flush=True)


def benchmark(folder, count):
    """Print a row of each method."""
    clips = first_clips(folder, count)
    print(f"corpus {Path(folder).name}, {len(clips)} tracks, 10 s of each; {Music.N_FFT} / "
          f"{Music.HOP_LENGTH} / {Music.N_MELS} bands; librosa {version('librosa')}, "
          f"numpy {version('numpy')}\n")
    print(f"{'':30} RMSE (worst)  mean abs. (dB)  onsets  times real time")
    start = clips[0][:3 * Music.SR]
    for name, method in METHODS.items():
        method(code_of(start))      # warms up
        measured = [measure(y, method) for y in clips]
        print_row(name, measured)


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clips", type=int, default=27)
    options = parser.parse_args()
    count = options.clips
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        folder = options.folder or Music.render_scores(temporary, count, None, seconds=10)
        benchmark(folder, count)


if __name__ == "__main__":
    main()
