"""Speed and memory of coding, beside peers and beside the bars that this project sets itself.

    python tests/evidence/benchmark_coding.py [folder of clean music] [--files 24] [--runs 5]
                                     [--clips 2000] [--opened 8000]

Without a folder: clean scores, rendered. Excerpts of 30 s become stereo MP3s of 44.1 kHz with
pink noise at 10 dB, so that it is really removed. Every process has one thread, and the methods
of a comparison take turns. All files lie in a temporary folder and disappear; with the defaults
about 3 GB and 7 minutes on two free cores.
"""

import os

for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
    os.environ[f"{library}_NUM_THREADS"] = "1"   # before numpy is loaded, here and in workers

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
from helpers import ROOT

import Music

SECONDS, FMA_FULL = 30, 106_574


def noisy_mp3s(music, target, count):
    """Write excerpts of `music` as noisy stereo MP3s; returns the folder."""
    target.mkdir()
    clips = (y for path in Music.labels_in_turn(Music.audio_files(music)[0], music)
             for y in [next(Music.audio_clips(path, SECONDS), None)] if y is not None)
    for i, y in zip(range(count), clips):
        y = soxr.resample(y, Music.SR, 44100)
        noise = np.stack([Music.pink_noise(len(y), [i, side]) for side in (0, 1)], 1)
        mix = y[:, None] + noise * np.sqrt(np.mean(y ** 2) / 10)
        soundfile.write(target / f"{i}.mp3", mix / max(1, np.abs(mix).max()), 44100)
    return target


def multiplied(folder, target, count):
    """Give the files of a folder `count` names, without copying where the system can."""
    target.mkdir()
    files = sorted(folder.iterdir())
    for i in range(count):
        try:
            os.link(files[i % len(files)], target / f"{i:05d}.mp3")
        except OSError:
            shutil.copy(files[i % len(files)], target / f"{i:05d}.mp3")
    return target


def ours(folder, n_jobs=1):
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:   # fresh: nothing is reused
        coded = Music.get_musics_coded(folder, SECONDS, n_jobs=n_jobs, cache=cache)
    assert not coded.skipped


def usual_recipe(folder):
    for path in sorted(folder.iterdir()):
        y, _ = librosa.load(path, sr=Music.SR)
        librosa.feature.melspectrogram(y=y, sr=Music.SR, n_fft=Music.N_FFT,
                                       hop_length=Music.HOP_LENGTH, n_mels=Music.N_MELS)


def decode_only(folder):
    for path in sorted(folder.iterdir()):
        librosa.load(path, sr=Music.SR)


def timed(call, *arguments):
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def in_turn(calls, runs):
    """Seconds of each call: `{name: [one a run]}`."""
    seconds = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            seconds[name].append(timed(call))
    return seconds


def verdict(what, value, bar, unit="", least=True):
    met = value >= bar if least else value <= bar
    print(f"    {what}: {value:.2f}{unit} (bar: {'at least' if least else 'at most'} {bar}{unit}"
          f"{'' if met else '; MISSED'})", flush=True)


def one_core(folder, files, runs):
    """Compare with the usual recipe, which removes no noise; returns our seconds a clip."""
    seconds = in_turn({"ours, noise removed": lambda: ours(folder),
                       "librosa.load + melspectrogram": lambda: usual_recipe(folder),
                       "librosa.load alone": lambda: decode_only(folder)}, runs)
    print(f"one core, {files} noisy MP3s of {SECONDS} s, medians of n = {runs} runs in turn:")
    for name, values in seconds.items():
        print(f"    {name:32} {files / statistics.median(values):6.1f} clips a second "
              f"({1000 * statistics.median(values) / files:.1f} ms a clip)")
    mine, recipe, decode = seconds.values()
    verdict("speed over the recipe", statistics.median(np.divide(recipe, mine)), 1.25)
    verdict("time over decoding and resampling alone",
            statistics.median(np.divide(mine, decode)), 1.8, least=False)
    return statistics.median(mine) / files


def peak():
    """Peak resident memory of this process in GiB, and its number."""
    status = Path("/proc/self/status")
    if status.exists():    # getrusage counts what a parent had before it forked
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 2 ** 20, os.getpid()
    import resource
    unit = 2 ** 30 if sys.platform == "darwin" else 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, os.getpid()


def two_processes(*quarters):
    """Code the same clips in one and in two processes, in turn: seconds, and peaks in GiB."""
    ours(quarters[0], 2)   # starts the workers
    seconds = [(timed(ours, folder, 1), timed(ours, folder, 2)) for folder in quarters]
    workers = dict(found[::-1] for found in Music.parallel(peak, [()] * 16, 2))
    return seconds, peak()[0], max(workers.values())


def opened(folder):
    """Code a folder and look at a few clips: clips, bytes on disk, peaks in GiB."""
    coded = Music.get_musics_coded(folder, SECONDS, n_jobs=2)
    assert np.isfinite(coded.codes[::500]).all()
    size = sum(p.stat().st_size for p in (folder / ".codes").rglob("*") if p.is_file())
    workers = dict(found[::-1] for found in Music.parallel(peak, [()] * 16, 2))
    return len(coded.codes), size, peak()[0], max(workers.values())


def apart(function, *folders):
    """Call a function of this file in a fresh process, whose workers import it by name."""
    code = ("import json, pathlib, sys; sys.path[:0] = ['tests']; import benchmark_coding as b; "
            f"print(json.dumps(b.{function.__name__}(*map(pathlib.Path, sys.argv[1:]))))")
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def many(folder, where, clips, count):
    """Two processes, memory, and what is on disk: bytes a clip."""
    quarters = [multiplied(folder, where / f"quarter{i}", clips // 4) for i in range(4)]
    seconds, main, worker = apart(two_processes, *quarters)
    print(f"{clips} clips, a quarter at a time (n = 4 pairs in turn), workers warm:")
    verdict("speed of two processes over one", statistics.median(a / b for a, b in seconds), 1.8)
    verdict("peak memory of the main process", main, 1.5, " GiB", least=False)
    verdict("peak memory of a worker", worker, 1.5, " GiB", least=False)
    found, size, main, worker = apart(opened, multiplied(folder, where / "all", count))
    print(f"{found} clips coded by two processes and opened, {size / 1e9:.2f} GB on disk:")
    verdict("peak memory of the main process", main, 1.5, " GiB", least=False)
    verdict("peak memory of a worker", worker, 1.5, " GiB", least=False)
    return size / found


def import_seconds(runs=9):
    code = ("import time, numpy; t = time.perf_counter(); import Music; "
            "print(time.perf_counter() - t)")
    return statistics.median(float(subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        check=True).stdout) for _ in range(runs))


def benchmark(music, where, options):
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          + ", ".join(f"{n} {version(n)}" for n in ("numpy", "librosa", "soundfile", "joblib")))
    folder = noisy_mp3s(music, where / "noisy", options.files)
    files = len(list(folder.iterdir()))
    in_turn({"": lambda: (ours(folder), decode_only(folder))}, 1)    # warm up
    cost = one_core(folder, files, options.runs)
    size = many(folder, where, options.clips, options.opened)
    print(f"all of FMA, {FMA_FULL} clips, on paper: {FMA_FULL * cost / 3600:.2f} hours of one core,"
          f" {FMA_FULL * size / 1e9:.1f} GB of codes (half of it the one array)")
    print("import in a fresh process, median of n = 9:")
    verdict("seconds over numpy", import_seconds(), 0.5, " s", least=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--opened", type=int, default=8000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        benchmark(arguments.folder or Music.render_scores(
            Path(temporary) / "scores", arguments.files, None), Path(temporary), arguments)
