"""Checkpoints, event files and verdicts of a training: what is kept, and what is not mixed up."""

import dataclasses
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import Music
from helpers import TESTS, read_events
from notebook_definitions import load

gan = load("HW_04_music_gan")
TINY = gan.Config(name="tiny", steps=6, batch_size=4, generator_width=4, style_dim=8, event_dim=4,
                  discriminator_width=2, device="cpu", bfloat16=False)


def patches_of(seed):
    """Patches of six clips of noise."""
    rng = np.random.default_rng(seed)
    codes = rng.uniform(-1, 1, (6, Music.N_MELS, 100))
    return gan.Patches(codes.astype(np.float16), range(6))


@pytest.fixture
def patches():
    return patches_of(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few batches for the statistics of BatchNorm, silence for sound."""
    settle = gan.settle

    def settle_quickly(generator, frames, batches=2):
        return settle(generator, frames, batches=2, n=4)

    def silence(code):
        return np.zeros(1000, np.float32)

    monkeypatch.setattr(gan, "settle", settle_quickly)
    monkeypatch.setattr(Music, "music_from_code", silence)


def train(patches, folder, config=TINY, runs=None):
    return gan.train(config, patches, runs, folder, views=3, progress=False)


class Steps:
    """Makes training steps, counts them, and stops before one."""

    def __init__(self, last=None):
        self.last = last
        self.made = []
        self.step = gan.train_step

    def __call__(self, trainer, patches, watch):
        if trainer.step == self.last:
            raise KeyboardInterrupt
        self.made.append(trainer.step)
        return self.step(trainer, patches, watch)


def steps_made(monkeypatch, patches, folder, config=TINY, runs=None, last=None):
    """The steps that a training makes, in a folder that may hold a checkpoint."""
    steps = Steps(last)
    with monkeypatch.context() as patched:
        patched.setattr(gan, "train_step", steps)
        if last is None:
            train(patches, folder, config, runs)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(patches, folder, config, runs)
    return steps.made


# ---------------------------------------------------------------- going on

@pytest.fixture
def no_pictures(monkeypatch):
    def nothing(writer, name, codes, code, step):
        return None

    monkeypatch.setattr(gan, "write_example", nothing)


@pytest.mark.usefixtures("no_pictures")
def test_a_stopped_training_leaves_the_event_files_of_a_whole_one(patches, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    live = train(patches, whole, runs=whole)
    steps_made(monkeypatch, patches, stopped, runs=stopped, last=5)     # its checkpoint: step 4
    train(patches, stopped, runs=stopped)
    assert read_events(stopped / "tiny") == read_events(whole / "tiny")
    _, scalars = read_events(stopped / "tiny")
    for tag, values in live.scalars.items():
        np.testing.assert_allclose(scalars[tag], values, rtol=1e-6)
    assert [step for step, _ in scalars["loss/D"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_pictures_of_the_checkpoints_step_are_kept(patches, tmp_path, monkeypatch):
    steps_made(monkeypatch, patches, tmp_path, runs=tmp_path, last=3)   # its checkpoint: step 2
    train(patches, tmp_path, runs=tmp_path)
    run = EventAccumulator(str(tmp_path / "tiny"), {"images": 0, "audio": 0}).Reload()
    pictures = [event.step for event in run.Images("samples/mel")]
    sounds = [event.step for event in run.Audio("samples/audio")]
    assert pictures == sounds == [2, 4, 6]
    real = EventAccumulator(str(tmp_path / "real"), {"images": 0}).Reload()
    assert len(real.Images("samples/mel")) == 1


def test_what_was_written_before_a_kill_is_not_lost(tmp_path):
    """A process that is killed closes nothing: all is on disk when a checkpoint is."""
    writer = gan.open_run(tmp_path / "run", TINY, 0)
    recorder = gan.Recorder(gan.History(TINY), writer, path=tmp_path / "tiny.pt", key={})
    recorder.scalars({"loss/D": 1.5}, 7)
    recorder.save(gan.Trainer(TINY))
    _, scalars = read_events(tmp_path / "run")
    writer.close()
    assert scalars["loss/D"] == [(7, 1.5)]
    assert (tmp_path / "tiny.pt").exists()


def test_a_run_folder_that_went_missing_is_begun_anew(tmp_path):
    writer = gan.open_run(tmp_path / "run", TINY, resumed_at=4)
    writer.add_scalar("loss/D", 1.0, 5)
    gan.close_run(writer, "tiny")
    settings, scalars = read_events(tmp_path / "run")
    assert int(settings["steps"]) == 6
    assert scalars["loss/D"] == [(5, 1.0)]


def test_many_stops_leave_one_event_file(tmp_path):
    for stop in range(12):
        writer = gan.open_run(tmp_path, TINY, resumed_at=stop)
        writer.add_scalar("loss/D", stop, stop + 1)
        writer.add_scalar("loss/D", -1, stop + 2)        # beyond the checkpoint
        writer.close()
    gan.close_run(writer, "tiny")
    _, scalars = read_events(tmp_path)
    assert scalars["loss/D"] == [*((stop + 1, stop) for stop in range(12)), (13, -1)]
    assert [path.name for path in tmp_path.iterdir()] == ["events.out.tfevents.0.tiny"]


def test_joining_again_after_a_kill_in_the_middle_doubles_nothing(tmp_path):
    writer = gan.open_run(tmp_path, TINY, resumed_at=0)
    writer.add_scalar("loss/D", 1.0, 1)
    writer.close()
    first, = tmp_path.iterdir()
    kept = first.read_bytes()
    gan.join_events(tmp_path, "tiny")
    joined, = tmp_path.iterdir()
    content = joined.read_bytes()
    first.write_bytes(kept[:-5])          # was not removed yet; and its last record was cut
    gan.join_events(tmp_path, "tiny")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [content]


KILLED = """
import os, random, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
import torch
import Music
from notebook_definitions import load

torch.set_num_threads(1)
gan = load("HW_04_music_gan")
settle = gan.settle
config = gan.Config(name="tiny", steps=20, batch_size=4, generator_width=4, style_dim=8,
                    event_dim=4, discriminator_width=2, device="cpu", bfloat16=False)
codes = np.random.default_rng(0).uniform(-1, 1, (6, Music.N_MELS, 100)).astype(np.float16)
patches = gan.Patches(codes, range(6))


def picture(writer, name, codes, code, step):
    writer.add_image(f"{name}/mel", codes[:1] / 2 + .5, step)


def train(folder):
    gan.write_example = picture
    gan.settle = lambda generator, *args, **options: settle(generator, 64, batches=1, n=2)
    measure = lambda generator: {"quality/frechet": 1.0}
    gan.train(config, patches, folder, folder, measure, views=10, progress=False)


def child(folder):
    pid = os.fork()
    if not pid:
        train(folder)
        os._exit(0)
    return pid


whole, killed = map(Path, sys.argv[2:4])
for _ in range(2):                                  # the first one also loads what is used
    started = time.monotonic()
    train(whole)
    seconds = time.monotonic() - started
moments = random.Random(0)
kills = 0
while True:
    pid = child(killed)
    if kills == int(sys.argv[4]):
        break
    time.sleep(moments.uniform(0, seconds))
    done, _ = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        kills += 1
    if (killed / "tiny-generator.pt").exists():     # finished: begun anew, to be killed again
        (killed / "tiny-generator.pt").unlink()
os.waitpid(pid, 0)
print(kills)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_a_training_that_is_killed_is_the_one_that_never_was(tmp_path, kills):
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(TESTS), str(whole), str(killed), str(kills)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.stdout.split() == [str(kills)], made.stderr
    assert read_events(killed / "tiny") == read_events(whole / "tiny")
    for run in (whole, killed):
        assert len(list((run / "tiny").iterdir())) == 1
        events = EventAccumulator(str(run / "tiny"), {"images": 0}).Reload()
        pictures = [event.step for event in events.Images("samples/mel")]
        assert pictures == list(range(2, 21, 2))
        assert len(events.Images("piece/mel")) == 1
    weights = [torch.load(run / "tiny-generator.pt", weights_only=True) for run in (whole, killed)]
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value)


# ---------------------------------------------------------------- what does not go on

def test_the_same_music_goes_on(patches, tmp_path, monkeypatch):
    assert steps_made(monkeypatch, patches, tmp_path, last=5) == [0, 1, 2, 3, 4]
    assert steps_made(monkeypatch, patches_of(0), tmp_path) == [4, 5]


def test_other_music_does_not_go_on(patches, tmp_path, monkeypatch):
    steps_made(monkeypatch, patches, tmp_path, last=5)
    kept = (tmp_path / "tiny.pt").read_bytes()
    with pytest.warns(UserWarning, match="tiny.*: of another configuration or other music"):
        steps = steps_made(monkeypatch, patches_of(1), tmp_path)
    assert steps == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "tiny.refused").read_bytes() == kept


def test_other_clips_of_the_same_music_do_not_go_on(patches):
    fewer = gan.Patches(patches.codes, range(5))
    labelled = gan.Patches(patches.codes, range(6), target=np.arange(6) % 2)
    longer = gan.Patches(patches.codes, range(6), frames=80)
    keys = [gan.checkpoint_key(TINY, some) for some in (patches, fewer, labelled, longer)]
    digests = {key["patches"] for key in keys}
    assert len(digests) == 4
    assert gan.checkpoint_key(TINY, patches_of(0)) == keys[0]


def kept_state(patches, folder):
    """A checkpoint after one step: its path and key."""
    trainer = gan.Trainer(TINY)
    gan.train_step(trainer, patches)
    path = folder / "tiny.pt"
    key = gan.checkpoint_key(TINY, patches)
    gan.save_state(trainer, gan.History(TINY), key, path)
    return path, key


def test_another_configuration_does_not_go_on(patches, tmp_path):
    path, _ = kept_state(patches, tmp_path)
    other = dataclasses.replace(TINY, lr=1e-3)
    key = gan.checkpoint_key(other, patches)
    with pytest.warns(UserWarning, match="of another configuration"):
        trainer, _ = gan.start_or_resume(other, key, path)
    assert trainer.step == 0


def cut_in_half(path):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half])


def empty(path):
    path.write_bytes(b"")


def no_checkpoint(path):
    path.write_text("not a checkpoint")


def of_another_version(path):
    torch.save({"step": 4}, path)


def with_other_weights(path):
    state = torch.load(path, weights_only=True)
    state["parts"]["discriminator"] = {}
    torch.save(state, path)


@pytest.mark.parametrize("damage, trouble", [
    (cut_in_half, "damaged, or not a checkpoint"),
    (empty, "damaged, or not a checkpoint"),
    (no_checkpoint, "damaged, or not a checkpoint"),
    (of_another_version, "of another version"),
    (with_other_weights, "of another version"),
])
def test_a_damaged_checkpoint_is_named_and_the_training_starts_anew(patches, tmp_path, damage,
                                                                    trouble):
    path, key = kept_state(patches, tmp_path)
    damage(path)
    with pytest.warns(UserWarning, match=rf"tiny\.pt: {trouble}.* or starts anew"):
        trainer, history = gan.start_or_resume(TINY, key, path)
    assert trainer.step == 0
    assert history.scalars == {}
    fresh = gan.Trainer(TINY)
    for ours, theirs in zip(trainer.generator.parameters(), fresh.generator.parameters()):
        assert torch.equal(ours, theirs)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(patches, tmp_path, monkeypatch):
    """And what comes of it is what would have come of the last one."""
    expected = train(patches, tmp_path / "whole")
    steps_made(monkeypatch, patches, tmp_path, last=5)       # checkpoints: steps 2 and 4
    cut_in_half(tmp_path / "tiny.pt")
    with pytest.warns(UserWarning, match="goes on from the checkpoint before it"):
        assert steps_made(monkeypatch, patches, tmp_path) == [2, 3, 4, 5]
    kept = torch.load(tmp_path / "tiny-generator.pt", weights_only=True)
    for name, weights in expected.generator.state_dict().items():
        assert torch.equal(kept[name], weights)


def test_no_flipped_bit_of_a_checkpoint_is_trained_on(patches, tmp_path):
    """What a flip leaves readable, in the padding between members, is the same state."""
    path, _ = kept_state(patches, tmp_path)
    cpu = torch.device("cpu")
    state = gan.read_state(path, cpu)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(8 * len(content), size=200):
        flipped = content.copy()
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = gan.read_state(path, cpu)
        except ValueError:
            refused += 1
        else:
            assert found["rng"] == state["rng"]
            weights = found["parts"]["average"]
            for name, value in state["parts"]["average"].items():
                assert torch.equal(weights[name], value)
    assert refused > 100


def test_a_flipped_bit_of_the_weights_is_refused(patches, tmp_path):
    path, _ = kept_state(patches, tmp_path)
    content = bytearray(path.read_bytes())
    state = gan.read_state(path, torch.device("cpu"))
    _name, weights = next(iter(state["parts"]["generator"].items()))
    place = content.index(weights.numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"the checksum of .* is wrong"):
        gan.read_state(path, torch.device("cpu"))


def test_a_checkpoint_that_may_not_be_read_is_an_error(patches, tmp_path):
    (tmp_path / "tiny.pt").mkdir()
    with pytest.raises(OSError, match=r"tiny\.pt"):
        gan.start_or_resume(TINY, gan.checkpoint_key(TINY, patches), tmp_path / "tiny.pt")


def test_a_finished_training_leaves_its_weights_alone(patches, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = train(patches, tmp_path)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["tiny-generator.pt"]
    kept = torch.load(tmp_path / "tiny-generator.pt", weights_only=True)
    for name, weights in history.generator.state_dict().items():
        assert torch.equal(kept[name], weights)


# ---------------------------------------------------------------- what is not a number

def test_codes_that_are_no_numbers_stop_the_training_and_name_the_clip(patches, tmp_path):
    patches.codes[3] = np.nan
    drawn = gan.Trainer(TINY).rng
    step = next(step for step in range(6) if 3 in patches.draw(4, drawn)[1])
    cause = rf"tiny, step {step + 1}: loss/D is nan; the codes of clip 3 are not finite"
    with pytest.raises(FloatingPointError, match=cause):
        train(patches, tmp_path)


def test_an_infinite_loss_stops_the_training_and_the_checkpoint_stays(patches, tmp_path,
                                                                      monkeypatch):
    generator_loss = gan.generator_loss
    calls = []

    def explodes(kind, real, fake):
        calls.append(kind)
        loss = generator_loss(kind, real, fake)
        return loss * math.inf if len(calls) == 5 else loss

    with monkeypatch.context() as patched:
        patched.setattr(gan, "generator_loss", explodes)
        with pytest.raises(FloatingPointError, match="tiny, step 5: loss/G is inf"):
            train(patches, tmp_path)
    assert steps_made(monkeypatch, patches, tmp_path) == [4, 5]


@pytest.mark.parametrize("lr", [1e20, 1e38])
def test_a_rate_that_is_too_high_stops_the_training(patches, tmp_path, lr):
    config = dataclasses.replace(TINY, lr=lr)
    with pytest.raises(FloatingPointError, match=r"tiny, step [12]: .*; a lower learning rate"):
        train(patches, tmp_path, config)
    assert not list(tmp_path.glob("*.pt"))


def test_weights_that_are_not_finite_are_not_kept(patches, tmp_path, monkeypatch):
    """They may be so after a step whose losses still were finite."""
    train_step = gan.train_step

    def overflows(trainer, patches, watch):
        record = train_step(trainer, patches, watch)
        if trainer.step == 4:
            next(trainer.discriminator.parameters()).data[0] = math.inf
        return record

    monkeypatch.setattr(gan, "train_step", overflows)
    with pytest.raises(FloatingPointError, match="tiny, step 4: a weight of D is not finite"):
        train(patches, tmp_path)
    kept = gan.read_state(tmp_path / "tiny.pt", torch.device("cpu"))
    assert kept["step"] == 2


# ---------------------------------------------------------------- records

@pytest.mark.usefixtures("no_pictures")
def test_shares_of_foreign_names_are_read_back_as_they_were(patches, tmp_path):
    shares = gan.share_scalars(["R&B", "R B", "民謡", "$x|y$"], np.full(4, 0.25), np.eye(4)[0])
    config = dataclasses.replace(TINY, steps=2)
    live = gan.train(config, patches, tmp_path, measure=lambda generator: shares, views=1,
                     progress=False)
    _, scalars = read_events(tmp_path / "tiny")
    for tag, value in shares.items():
        assert live.scalars[tag] == [(2, value)]
        assert scalars[tag] == [(2, value)]


@pytest.mark.parametrize("content", [b"", b"no training", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_recorded_training_is_named(tmp_path, content):
    path = tmp_path / "plain-0.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"plain-0\.npz: not a recorded training"):
        gan.read_recorded(path)


@pytest.mark.usefixtures("no_pictures")
def test_every_tag_says_what_it_is(patches, tmp_path):
    """And says it once, so that event files stay small."""
    gan.train(dataclasses.replace(TINY, steps=12, r1_every=2), patches, tmp_path, progress=False)
    path, = (tmp_path / "tiny").iterdir()
    about = {}
    for record in gan.RawEventFileLoader(str(path)).Load():
        for value in gan.Event.FromString(record).summary.value:
            text = value.metadata.summary_description
            about.setdefault(value.tag, []).append(text)
    groups = {tag.split("/")[0] for tag in about if not tag.startswith("_hparams_")}
    assert groups == {"loss", "score", "penalty", "grad_norm", "weight_norm", "diversity",
                      "config"}
    for tag, texts in about.items():
        if not tag.startswith("_hparams_"):
            assert [text for text in texts if text] == [gan.ABOUT[tag.split("/")[0]]]


def test_the_last_value_of_nothing_is_not_a_number():
    history = gan.History(TINY)
    assert math.isnan(history.last("loss/D"))
    history.keep({"loss/D": torch.tensor(2.0)}, 1)
    assert history.scalars == {"loss/D": [(1, 2.0)]}
    assert history.last("loss/D") == 2


# ---------------------------------------------------------------- verdicts

@pytest.mark.parametrize("value, fine, alarming, level", [
    (0.5, 1, 2, 0), (1, 1, 2, 0), (1.5, 1, 2, 1), (2, 1, 2, 1), (3, 1, 2, 2),
    (3, 2, 1, 0), (2, 2, 1, 1), (1.5, 2, 1, 1), (1, 2, 1, 2), (0.5, 2, 1, 2),
])
def test_alarm_is_0_1_or_2(value, fine, alarming, level):
    assert gan.alarm(value, fine, alarming) == level


def test_every_rule_has_its_limits_and_its_cure():
    measured = {"starved", "growth", "swing", "margin", "nearest", "dimensions"}
    assert set(gan.LIMITS) == measured
    assert all(fine != alarming for fine, alarming in gan.LIMITS.values())


# ---------------------------------------------------------------- sampling

def test_settled_statistics_are_means_over_batches_and_momenta_stay():
    trainer = gan.Trainer(TINY)
    trainer.generator.train()
    norms = [net for net in trainer.generator.modules() if hasattr(net, "running_mean")]
    before = [norm.momentum for norm in norms]
    gan.settle(trainer.generator, 64)
    assert norms
    assert [norm.momentum for norm in norms] == before
    assert {int(norm.num_batches_tracked) for norm in norms} == {2}
    assert not trainer.generator.training


@pytest.mark.parametrize("seconds", [0, -1, math.nan])
def test_a_piece_without_length_is_an_error(seconds):
    generator = gan.Trainer(TINY).generator
    with pytest.raises(ValueError, match="its length must be above 0"):
        gan.generate(generator, seconds)


def test_a_piece_is_what_sampling_draws():
    generator = gan.Trainer(TINY).generator.eval()
    piece = gan.generate(generator, 3, seed=5)
    drawn = gan.sample(generator, 1, piece.shape[1], seed=5)
    np.testing.assert_array_equal(piece, drawn[0, 0])


def test_batches_of_samples_hold_the_kinds_asked_for():
    asked = []

    class Generator(torch.nn.Module):
        def latents(self, n, frames, rng, kind):
            asked.append((n, kind.tolist()))
            return [torch.zeros(n, 1, 2, frames)]

        def forward(self, x):
            return x

    codes = gan.sample(Generator(), 5, 8, batch=2, kind=torch.arange(5))
    assert codes.shape == (5, 1, 2, 8)
    assert asked == [(2, [0, 1]), (2, [2, 3]), (1, [4])]
