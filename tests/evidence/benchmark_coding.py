"""Speed and memory of coding, beside peers and beside the bars that this project sets itself.

    python tests/evidence/benchmark_coding.py [folder of clean music] [--files 24] [--runs 5]
                                              [--clips 2000] [--opened 8000]

Without a folder: clean scores, rendered. Excerpts of 30 s become stereo MP3s of 44.1 kHz with
pink noise at 10 dB, so that it is really removed. Every process has one thread, and the methods
of a comparison take turns. All files lie in a temporary folder and disappear; with the defaults
about 3 GB and 7 minutes on two free cores.
"""

import argparse
import json
import os
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
import threadpoolctl

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import Music  # noqa: E402  (the path comes first)

SECONDS = 30
SNR_DB = 10
FMA_FULL = 106_574   # clips
BARS = {
    "speed over the recipe": (1.25, "", "at least"),
    "time over decoding and resampling alone": (1.8, "", "at most"),
    "speed of two processes over one": (1.8, "", "at least"),
    "peak memory of the main process": (1.5, " GiB", "at most"),
    "peak memory of a worker": (1.5, " GiB", "at most"),
    "seconds to open the finished folder again": (20, " s", "at most"),
    "seconds of import over numpy": (0.5, " s", "at most"),
}


def first_clips(music):
    for path in Music.labels_in_turn(Music.audio_files(music)[0], music):
        clip = next(Music.audio_clips(path, SECONDS), None)
        if clip is not None:
            yield clip


def noisy_mp3s(music, target, count):
    """Write excerpts of `music` as noisy stereo MP3s; returns the folder."""
    target.mkdir()
    for i, clip in zip(range(count), first_clips(music)):
        clip = soxr.resample(clip, Music.SR, 44100)
        noisy = Music.add_pink_noise(np.stack([clip, clip]), SNR_DB, i)
        noisy /= max(1, np.abs(noisy).max())
        soundfile.write(target / f"{i}.mp3", noisy.T, 44100)
    return target


def multiplied(folder, target, count):
    """Give the files of a folder `count` names, without copying where the system can."""
    target.mkdir()
    files = sorted(folder.iterdir())
    for i in range(count):
        name = target / f"clip-{i:05d}.mp3"
        try:
            os.link(files[i % len(files)], name)
        except OSError:
            shutil.copy(files[i % len(files)], name)
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


METHODS = {"ours, noise removed": ours, "librosa.load + melspectrogram": usual_recipe,
           "librosa.load alone": decode_only}


def timed(call, *arguments):
    started = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - started


def report(what, value):
    bar, unit, kind = BARS[what]
    met = value >= bar if kind == "at least" else value <= bar
    missed = "" if met else "; MISSED"
    print(f"    {what}: {value:.2f}{unit} (bar: {kind} {bar}{unit}{missed})", flush=True)


def one_core(folder, files, runs):
    """Compare with the usual recipe, which removes no noise; returns our seconds a clip."""
    seconds = {name: [] for name in METHODS}
    for _ in range(runs):
        for name, method in METHODS.items():
            seconds[name].append(timed(method, folder))
    print(f"one core, {files} noisy MP3s of {SECONDS} s, medians of n = {runs} runs in turn:")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"    {name:32} {files / median:6.1f} clips a second "
              f"({1000 * median / files:.1f} ms a clip)")
    mine, recipe, decoding = (np.array(values) for values in seconds.values())
    report("speed over the recipe", np.median(recipe / mine))
    report("time over decoding and resampling alone", np.median(mine / decoding))
    return np.median(mine) / files


def peak():
    """Number of this process, and its peak resident memory in GiB."""
    status = Path("/proc/self/status")
    if status.exists():    # getrusage counts what a parent had before it forked
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return os.getpid(), int(lines["VmHWM"].split()[0]) / 2 ** 20
    import resource
    unit = 2 ** 30 if sys.platform == "darwin" else 2 ** 20
    return os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def memory():
    """Peak memory of the main process and of the largest worker, GiB."""
    workers = dict(Music.parallel(peak, [()] * 16, 2))
    _, main = peak()
    return {"main": main, "worker": max(workers.values())}


def two_processes(*quarters):
    """Code the same clips in one and in two processes, in turn."""
    ours(quarters[0], 2)   # starts the workers
    speed = []
    for folder in quarters:
        alone = timed(ours, folder, 1)
        together = timed(ours, folder, 2)
        speed.append(alone / together)
    return memory() | {"speed": statistics.median(speed)}


def opened(folder):
    """Code a folder, look at a few clips, and open it again."""
    started = time.perf_counter()
    coded = Music.get_musics_coded(folder, SECONDS, n_jobs=2)
    seconds = time.perf_counter() - started
    assert np.isfinite(coded.codes[::500]).all()
    again = timed(Music.get_musics_coded, folder, SECONDS)
    files = [path for path in (folder / ".codes").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return memory() | {"clips": len(coded.codes), "bytes": size, "seconds": seconds,
                       "again": again}


def apart(function, *folders):
    """Call a function of this file in a fresh process, whose workers import it by name."""
    code = ("import json, pathlib, sys, benchmark_coding; "
            "folders = map(pathlib.Path, sys.argv[1:]); "
            f"print(json.dumps(benchmark_coding.{function.__name__}(*folders)))")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=True,
                          env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def report_memory(found):
    report("peak memory of the main process", found["main"])
    report("peak memory of a worker", found["worker"])


def many(folder, where, clips, count):
    """Two processes, memory, and what is on disk: bytes a clip."""
    quarters = [multiplied(folder, where / f"quarter{i}", clips // 4) for i in range(4)]
    found = apart(two_processes, *quarters)
    print(f"{clips} clips, a quarter at a time (n = 4 pairs in turn), workers warm:")
    report("speed of two processes over one", found["speed"])
    report_memory(found)
    found = apart(opened, multiplied(folder, where / "all", count))
    print(f"{found['clips']} clips coded by two processes in {found['seconds']:.0f} s and opened, "
          f"{found['bytes'] / 1e9:.2f} GB on disk:")
    report_memory(found)
    report("seconds to open the finished folder again", found["again"])
    return found["bytes"] / found["clips"]


IMPORT = "import time, numpy; t = time.perf_counter(); import Music; print(time.perf_counter() - t)"


def import_seconds(runs=9):
    seconds = []
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True,
                              text=True, check=True)
        seconds.append(float(done.stdout))
    return statistics.median(seconds)


def benchmark(music, where, options):
    versions = [f"{name} {version(name)}" for name in ("numpy", "librosa", "soundfile", "joblib")]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          + ", ".join(versions))
    folder = noisy_mp3s(music, where / "noisy", options.files)
    files = len(list(folder.iterdir()))
    ours(folder)    # warm up
    decode_only(folder)
    cost = one_core(folder, files, options.runs)
    size = many(folder, where, options.clips, options.opened)
    print(f"all of FMA, {FMA_FULL} clips, on paper: {FMA_FULL * cost / 3600:.2f} hours of one core,"
          f" {FMA_FULL * size / 1e9:.1f} GB of codes (half of it the one array)")
    print("import in a fresh process, median of n = 9:")
    report("seconds of import over numpy", import_seconds())


def use_one_thread():
    """One thread in every process that starts from here, and in the libraries loaded here."""
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    threadpoolctl.threadpool_limits(1)


def main():
    use_one_thread()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--opened", type=int, default=8000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rendered-") as temporary:
        where = Path(temporary)
        music = options.folder or Music.render_scores(where / "scores", options.files, None)
        benchmark(music, where, options)


if __name__ == "__main__":
    main()
