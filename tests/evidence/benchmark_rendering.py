"""Time, progress and memory of playing the embedded scores, stopped once and gone on with.

    python tests/evidence/benchmark_rendering.py folder/for/audio [--pieces 8000] [--n-jobs -1]
                                                 [--kill-at 0.4] [--record name]

The first process is killed when it has made the given share of the clips, the second goes on,
the third finds everything there. The folder is kept: with the defaults 5.5 GB, some 20 minutes of
two free cores. Figures go to `runs/recorded/rendering/<name>.json`.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil
from common import ROOT  # first: it puts the project on the path

import Music

RECORD = ROOT / "runs" / "recorded" / "rendering"
CALL = ("import sys, Music; "
        "Music.render_scores(sys.argv[1], int(sys.argv[2]), n_jobs=int(sys.argv[3]))")
BARS = {"minutes of two free cores": 30, "GiB a process": 2, "seconds of a second call": 20}


class Watched:
    """A process and its children, looked at twice a second.

    Attributes
    ----------
    cpu : dict
        Processor time [s] of each process, by number.
    memory : dict
        Largest resident memory [bytes] of each process, by number.
    """

    def __init__(self, command):
        self.messages = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads fills)
        environment = {**os.environ}
        for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
            environment[f"{library}_NUM_THREADS"] = "1"
        self.process = psutil.Popen(command, cwd=ROOT, stderr=self.messages, env=environment)
        self.start = time.monotonic()
        self.cpu = {}
        self.memory = {}

    def family(self):
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def look(self):
        for member in self.family():
            try:
                times = member.cpu_times()
                resident = member.memory_info().rss
            except psutil.Error:   # it has just ended
                continue
            self.cpu[member.pid] = times.user + times.system
            self.memory[member.pid] = max(resident, self.memory.get(member.pid, 0))

    def last_words(self):
        self.messages.seek(0)
        return self.messages.read().decode()[-2000:]

    def seconds(self):
        return time.monotonic() - self.start


def clips_in(folder):
    return list(folder.glob("*/*.flac"))


def watch(folder, pieces, n_jobs, stop_at=None):
    """Render in a process of its own, killed at `stop_at` clips; returns its figures."""
    command = [sys.executable, "-c", CALL, folder, str(pieces), str(n_jobs)]
    watched = Watched(command)
    progress = [len(clips_in(folder))]
    while watched.process.poll() is None:
        watched.look()
        time.sleep(0.5)
        if watched.seconds() >= 60 * len(progress):
            progress.append(len(clips_in(folder)))
            print(f"  {len(progress) - 1} min: {progress[-1]} clips", flush=True)
        if stop_at and len(clips_in(folder)) >= stop_at:
            watched.process.kill()
            watched.process.wait()
    if watched.process.returncode and not stop_at:
        raise RuntimeError(watched.last_words())
    seconds = watched.seconds()
    return {"seconds": round(seconds, 1),
            "processor seconds": round(sum(watched.cpu.values()), 1),
            "share of the cores": round(sum(watched.cpu.values()) / seconds / os.cpu_count(), 3),
            "clips at each minute": progress, "clips": len(clips_in(folder)),
            "processes": len(watched.cpu),
            "largest process, MiB": round(max(watched.memory.values()) / 2 ** 20)}


def pieces_known(folder):
    path = folder / ".pieces.json"
    if not path.exists():
        return {}
    return json.loads(path.read_text())["gives"]


def benchmark(folder, options):
    """Render, kill, go on, call again; returns all figures."""
    if clips_in(folder):
        raise ValueError(f"{folder} holds clips already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"pieces": options.pieces, "cores": os.cpu_count(),
               "python": platform.python_version()}
    figures |= {name: version(name) for name in ("music21", "symusic", "numpy", "joblib")}
    print("until it is killed", flush=True)
    stop_at = round(options.pieces * options.kill_at)
    figures["killed"] = watch(folder, options.pieces, options.n_jobs, stop_at)
    time.sleep(5)   # workers end what they were at
    before = {path: path.stat().st_mtime_ns for path in clips_in(folder)}
    figures["pieces known when killed"] = len(pieces_known(folder))
    print("going on", flush=True)
    figures["going on"] = watch(folder, options.pieces, options.n_jobs)
    kept = [path for path, written in before.items() if path.stat().st_mtime_ns == written]
    figures["clips made before the kill"] = len(before)
    figures["of these kept"] = len(kept)
    print("a second call", flush=True)
    figures["second call"] = watch(folder, options.pieces, options.n_jobs)
    return figures


def summary(figures):
    """Compare with the bars: minutes that two free cores would take, memory, second call."""
    parts = [figures["killed"], figures["going on"]]
    processor = sum(part["processor seconds"] for part in parts)
    measured = [processor / 2 / 60, max(part["largest process, MiB"] for part in parts) / 1024,
                figures["second call"]["seconds"]]
    return {name: {"measured": round(value, 2), "bar": bar}
            for (name, bar), value in zip(BARS.items(), measured)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pieces", type=int, default=8000)
    parser.add_argument("--n-jobs", type=int, default=-1)
    parser.add_argument("--kill-at", type=float, default=0.4)
    parser.add_argument("--record", default="scores")
    arguments = parser.parse_args()
    result = benchmark(arguments.folder.resolve(), arguments)
    result["summary"] = summary(result)
    with Music.atomic(RECORD / f"{arguments.record}.json") as part:
        part.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["summary"], indent=1))
