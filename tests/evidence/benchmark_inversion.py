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

import common  # noqa: F401  (puts the project on the path)
import librosa
import numpy as np

import Music
from train_gain import excerpts

SIZE = {"n_fft": Music.N_FFT, "hop_length": Music.HOP_LENGTH}


def librosas(code):
    """librosa's own way back: least squares for the magnitude, then fast Griffin-Lim."""
    mel = 10 ** (Music.db_from_code(code) / 10)
    return librosa.feature.inverse.mel_to_audio(mel, sr=Music.SR, n_iter=32, htk=True, norm=None,
                                                **SIZE)


def fixed_magnitude(code):
    """Pseudo-inverse for the magnitude, then fast Griffin-Lim."""
    filters = Music.mel_filters(Music.SR, Music.N_FFT, len(code)).toarray()
    power = np.maximum(np.linalg.pinv(filters) @ 10 ** (Music.db_from_code(code) / 10), 0)
    return librosa.griffinlim(np.sqrt(power), n_iter=32, random_state=0, **SIZE)


METHODS = {"librosa mel_to_audio": librosas, "pseudo-inverse + Griffin-Lim": fixed_magnitude,
           "ours": Music.music_from_code}


def measure(y, method):
    """RMSE and mean absolute error in dB, correlation of onsets, seconds that it took."""
    code = Music.code_from_mel(Music.mel_spectrogram(y))
    started = time.process_time()
    sound = method(code)
    seconds = time.process_time() - started
    again = Music.code_from_mel(Music.mel_spectrogram(sound))[:, :code.shape[1]]
    foot = Music.db_from_code(code).max() - 80
    error = (np.maximum(Music.db_from_code(again), foot)
             - np.maximum(Music.db_from_code(code), foot))
    onsets = [librosa.onset.onset_strength(y=s, sr=Music.SR) for s in (y, sound[:len(y)])]
    return (np.sqrt(np.mean(error ** 2)), np.abs(error).mean(),
            np.corrcoef(*(o[:min(map(len, onsets))] for o in onsets))[0, 1], seconds)


def benchmark(folder, count):
    tracks = Music.labels_in_turn(Music.audio_files(folder)[0], Path(folder))[:count]
    clips = [clip for p in tracks for clip in excerpts(p, (0,))]
    print(f"corpus {Path(folder).name}, {len(clips)} tracks, 10 s of each; {Music.N_FFT} / "
          f"{Music.HOP_LENGTH} / {Music.N_MELS} bands; librosa {version('librosa')}, "
          f"numpy {version('numpy')}\n")
    print(f"{'':30} RMSE (worst)  mean abs. (dB)  onsets  times real time")
    for name, method in METHODS.items():
        method(Music.code_from_mel(Music.mel_spectrogram(clips[0][:3 * Music.SR])))   # warm up
        values = np.array([measure(y, method) for y in clips])
        rmse, absolute, onsets, seconds = values.mean(0)
        print(f"{name:30} {rmse:5.2f} ({values[:, 0].max():4.2f})  {absolute:14.2f}  {onsets:6.2f}"
              f"  {len(clips[0]) / Music.SR / seconds:15.1f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clips", type=int, default=27)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        benchmark(options.folder or Music.render_scores(temporary, options.clips, None, seconds=10),
                  options.clips)
