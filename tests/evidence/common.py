"""What the scripts that record evidence share.

Importing it puts the project and its tests on the path, so that a script runs from any working
directory, and reads the notebook's definitions: `gan` is the same module in every script and
test. Nothing else changes on import; threads are set by `use_one_thread`, in a script's `main`.
"""

import argparse
import io
import json
import os
import re
import sys
from contextlib import contextmanager, nullcontext, redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent.parent
for folder in (TESTS, TESTS.parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import numpy as np  # noqa: E402  (the path comes first)
import threadpoolctl  # noqa: E402
import torch  # noqa: E402
from torch import distributed  # noqa: E402

import Music  # noqa: E402
from helpers import ROOT  # noqa: E402
from notebook_definitions import load  # noqa: E402

gan = load("HW_04_music_gan")
RECORDED = ROOT / "runs" / "recorded"

# options that several scripts take, each with the same meaning
OPTIONS = {
    "--scores": {"type": Path, "default": ROOT / "data" / "scores-500",
                 "help": "folder of the embedded default, rendered where it is missing"},
    "--music": {"type": Path, "help": "folder of recorded music"},
    "--device": {"default": "auto", "help": "cpu, cuda, mps or auto"},
    "--worker": {"type": int, "default": 0, "help": "number of this worker, from 0"},
    "--of": {"type": int, "default": 1, "help": "how many workers share the list"},
    "--only": {"default": "", "help": "only runs whose name holds this text"},
    "--list": {"action": "store_true", "help": "print the runs and stop"},
    "--events": {"type": Path, "help": "folder to write what is recorded to, for TensorBoard"},
}


# ---------------------------------------------------------------- command line

def command_line(doc, *names):
    """A parser of those of the shared options, with the first line of `doc` as its help."""
    title, *_ = doc.splitlines()
    parser = argparse.ArgumentParser(description=title)
    for name in names:
        parser.add_argument(name, **OPTIONS[name])
    return parser


def own_share(runs, options):
    """Those of the runs (with a `name`) that this worker was asked for, in their order."""
    asked = [run for run in runs if options.only in run.name]
    return asked[options.worker::options.of]


def use_one_thread():
    """Compute in one thread: workers with two threads each would thrash."""
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)


# ---------------------------------------------------------------- several processes

PATIENCE = timedelta(days=1)    # while the first renders or judges; of a dead one, torchrun tells


def join_processes():
    """Join the others that `torchrun` started, if it did. Returns the `device` of a `Config`.

    Each computes on the GPU of its number; where there are too few, all on the processor.
    """
    if not distributed.is_torchelastic_launched():
        return "auto"
    if torch.cuda.device_count() < int(os.environ["LOCAL_WORLD_SIZE"]):
        distributed.init_process_group("gloo", timeout=PATIENCE)
        return "auto" if gan.pick_device().type == "cpu" else "cpu"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    distributed.init_process_group("nccl", timeout=PATIENCE, device_id=device)
    return "auto"


def leave_processes():
    """Go on alone."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def first_before_others():
    """A block that the first process runs before the others, who find what it has kept.

    The others run it without the progress bars.
    """
    rank, _number = gan.processes()
    if rank:
        gan.meet()
    with redirect_stderr(io.StringIO()) if rank else nullcontext():
        yield
    if not rank:
        gan.meet()


# ---------------------------------------------------------------- JSON

def rounded(found, digits=4):
    """The same lists and dicts with floats of so many significant digits."""
    if isinstance(found, dict):
        return {key: rounded(value, digits) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [rounded(value, digits) for value in found]
    if isinstance(found, float):
        return float(f"{found:.{digits}g}")
    return found


def one_line(match):
    """A list, found by a regular expression in JSON, without its line breaks."""
    values = json.loads(match[0])
    return json.dumps(values, ensure_ascii=False)


def write_json(path, found):
    """Write a JSON file, atomically; innermost lists take one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^][{}]*\]", one_line, text)
    with Music.atomic(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


# ---------------------------------------------------------------- music and judges

class Prepared(NamedTuple):
    """What a training needs: patches to train on, unseen ones, and judges."""

    training: object
    unseen: object
    judges: object


def as_bytes(codes):
    """Codes in [-1, 1] rounded to 256 levels, uint8."""
    levels = np.round((np.asarray(codes, np.float32) + 1) * 127.5)
    return levels.astype(np.uint8)


def eight_bits(codes):
    """Codes in [-1, 1] rounded to 256 levels, float32."""
    return as_bytes(codes) / np.float32(127.5) - 1


def read_patches(folder, to_eight_bits=False):
    """Patches to train on, unseen ones, and the names of the repertoires, of a folder."""
    coded = Music.get_musics_coded(folder)
    names, target = np.unique(coded.labels, return_inverse=True)
    codes = eight_bits(coded.codes) if to_eight_bits else coded.codes
    train_clips, unseen_clips = gan.split_by_piece(coded)
    training = gan.Patches(codes, train_clips, target=target)
    unseen = gan.Patches(codes, unseen_clips, target=target)
    return training, unseen, names.tolist()


def kept_classifier(path, training, classes, seed=0):
    """The classifier in a file, trained and put there where it is missing."""
    if not path.exists():
        trained = gan.train_classifier(training, training.target, classes, seed=seed)
        with Music.atomic(path) as unfinished:
            torch.save(trained.state_dict(), unfinished)
    net = gan.Classifier(classes)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def prepare(folder, n=1000):
    """Patches and judges of `n` patches; their classifier is kept in the folder."""
    training, unseen, names = read_patches(folder)
    classifier = kept_classifier(Path(folder) / ".classifier.pt", training, len(names))
    judges = gan.Judges(training, unseen, classifier, names, n)
    return Prepared(training, unseen, judges)
