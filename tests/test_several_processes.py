"""Two processes, started by `torchrun`, train what one of the same whole batch does.

`PYTHONPATH=tests/evidence torchrun --nproc_per_node 2 tests/test_several_processes.py folder`
trains every case. A process draws the random numbers of the whole batch and computes its part;
gradients become the means over the parts. All is in float32. BatchNorm would see the part of a
process: it has fixed statistics, but in the case of its name.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import common
import numpy as np
import pytest
import torch
from common import gan

import Music
from helpers import ROOT, TESTS, read_events

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5       # of a weight; Adam moves each by about `lr`, 4e-4, in a step
SETTINGS = {"steps": 4, "batch_size": 8, "generator_width": 4, "style_dim": 8, "event_dim": 4,
            "discriminator_width": 2, "discriminator_norm": False, "input_noise": 0.1,
            "r1_gamma": 0.1, "r1_every": 1, "classes": (0.5, 0.5), "bfloat16": False}
MODERN = gan.modern_recipe(**SETTINGS | {"joined": 2})
PACKED = gan.plain_recipe(**SETTINGS | {"classes": (), "pack": 2, "generator_steps": 2})
CASES = {"modern": MODERN, "packed": PACKED, "BatchNorm": MODERN, "apart": MODERN,
         "resumed": MODERN}


class Quick(gan.Trainer):
    """A trainer that learns no forms, which would take seconds."""

    def __init__(self, config, patches=None):
        super().__init__(config)


class FixedScales(Quick):
    """A trainer whose generator normalises by fixed numbers, not by the statistics of a batch."""

    def __init__(self, config, patches=None):
        super().__init__(config)
        for module in self.generator.modules():
            if isinstance(module, gan.NORMS):
                module.eval()


def train(case, folder):
    """Train a case on six clips of noise of two kinds: scalars and weights."""
    rng = np.random.default_rng(0)
    codes = rng.uniform(-1, 1, (6, Music.N_MELS, 200))
    patches = gan.Patches(codes.astype(np.float16), range(6), target=np.arange(6) % 2)
    settle = gan.settle

    def settle_quickly(generator, frames, batches=2):
        return settle(generator, frames, batches=2, n=4)

    changes = {"settle": settle_quickly, "write_example": mock.Mock(),
               "Trainer": Quick if case == "BatchNorm" else FixedScales}
    if case == "apart":
        changes["average_in_place"] = mock.Mock()
    with mock.patch.multiple(gan, **changes):
        history = gan.train(CASES[case], patches, folder, folder, views=2, progress=False)
    weights = {}
    for net in (history.generator, history.discriminator):
        for name, values in net.named_parameters():
            weights[f"{type(net).__name__}.{name}"] = values.detach()
    return {"scalars": history.scalars, "weights": weights}


def stop_in_the_middle(folder):
    """Leave the checkpoint of a training by one process, after two of four steps."""
    save = gan.Recorder.save

    def save_and_stop(recorder, trainer):
        save(recorder, trainer)
        raise KeyboardInterrupt

    with mock.patch.object(gan.Recorder, "save", save_and_stop), pytest.raises(KeyboardInterrupt):
        train("resumed", folder)


def main(folder):
    """What each of the processes does: train every case, and keep what came of it."""
    torch.set_num_threads(1)
    common.join_processes()
    rank, _number = gan.processes()
    with common.first_before_others():
        (folder / "order").open("a").write(f"{rank}\n")
    for case in CASES:
        found = train(case, folder / case)
        torch.save(found, folder / f"{case}-{rank}.pt")
    common.leave_processes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes left what they trained."""
    folder = tmp_path_factory.mktemp("processes")
    stop_in_the_middle(folder / "resumed")
    environment = os.environ | {"PYTHONPATH": str(TESTS / "evidence"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--local-addr", "127.0.0.1", "--nproc-per-node", "2", __file__, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process trains of each case."""
    return {case: train(case, tmp_path_factory.mktemp(case))
            for case in ("modern", "packed", "BatchNorm")}


def kept(folder, case, rank=0):
    return torch.load(folder / f"{case}-{rank}.pt", weights_only=True)


def farthest(one, other):
    """The largest difference of a weight."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((values - other["weights"][name]).abs().max())
               for name, values in one["weights"].items())


@pytest.mark.parametrize("case", ["modern", "packed"])
def test_two_processes_reach_the_weights_of_one(folder, alone, case):
    assert farthest(kept(folder, case), alone[case]) < TOLERANCE


@pytest.mark.parametrize("case", ["modern", "packed"])
def test_two_processes_record_what_one_does(folder, alone, case):
    found = kept(folder, case)["scalars"]
    expected = alone[case]["scalars"]
    assert found.keys() == expected.keys() >= {"loss/D", "penalty/r1", "grad_norm/fake",
                                               "diversity/nearest"}
    for tag, values in expected.items():
        np.testing.assert_allclose(found[tag], values, rtol=1e-4, err_msg=tag)


def test_without_the_mean_of_the_gradients_they_would_not(folder, alone):
    first, second = (kept(folder, "apart", rank) for rank in range(2))
    assert farthest(first, alone["modern"]) > 10 * TOLERANCE
    assert farthest(first, second) > 10 * TOLERANCE


def test_batchnorm_sees_the_part_of_its_process(folder, alone):
    assert farthest(kept(folder, "BatchNorm"), alone["BatchNorm"]) > 10 * TOLERANCE


@pytest.mark.parametrize("case", ["modern", "packed", "BatchNorm", "resumed"])
def test_both_processes_have_the_same_weights(folder, case):
    assert farthest(kept(folder, case, 0), kept(folder, case, 1)) == 0


def test_two_processes_go_on_where_one_was_stopped(folder, alone):
    for rank in range(2):
        found = kept(folder, "resumed", rank)
        assert farthest(found, alone["modern"]) < TOLERANCE
        assert [step for step, _value in found["scalars"]["loss/D"]] == [2, 4]


def test_the_first_process_alone_writes(folder):
    for case in CASES:
        names = sorted(path.name for path in (folder / case).iterdir())
        name = CASES[case].name
        assert names == [name, f"{name}-generator.pt", "real"]
        events, = (folder / case / name).iterdir()
        _settings, scalars = read_events(events.parent)
        assert scalars.keys() == kept(folder, case)["scalars"].keys()


def test_the_first_process_goes_before_the_others(folder):
    assert (folder / "order").read_text().split() == ["0", "1"]


def test_a_batch_that_cannot_be_shared_equally_is_refused(monkeypatch):
    batch = torch.arange(12).reshape(6, 2)
    monkeypatch.setattr(gan, "processes", lambda: (1, 3))
    assert gan.own_part(batch).tolist() == [[4, 5], [6, 7]]
    monkeypatch.setattr(gan, "processes", lambda: (0, 4))
    with pytest.raises(RuntimeError, match="4"):
        gan.own_part(batch)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
