"""Checkpoints, event files and verdicts of a training: what is kept, and what is not mixed up."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch

import Music
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
    expected = gan.read_history(whole / "tiny")
    found = gan.read_history(stopped / "tiny")
    assert found.scalars == expected.scalars
    assert found.config == expected.config
    for tag, values in live.scalars.items():
        np.testing.assert_allclose(found.scalars[tag], values, rtol=1e-6)
    steps, _ = found.series("loss/D")
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_pictures_of_the_checkpoints_step_are_kept(patches, tmp_path, monkeypatch):
    steps_made(monkeypatch, patches, tmp_path, runs=tmp_path, last=3)   # its checkpoint: step 2
    train(patches, tmp_path, runs=tmp_path)
    run = gan.EventAccumulator(str(tmp_path / "tiny"), {"images": 0, "audio": 0}).Reload()
    pictures = [event.step for event in run.Images("samples/mel")]
    sounds = [event.step for event in run.Audio("samples/audio")]
    assert pictures == sounds == [2, 4, 6]
    assert len(run.Images("real/mel")) == 1


def test_what_was_written_before_a_kill_is_not_lost(tmp_path):
    """A process that is killed closes nothing: all is on disk when a checkpoint is."""
    writer = gan.open_run(tmp_path / "run", TINY, 0)
    recorder = gan.Recorder(gan.History(TINY), writer, path=tmp_path / "tiny.pt", key={})
    recorder.scalars({"loss/D": 1.5}, 7)
    recorder.save(gan.Trainer(TINY))
    read = gan.read_history(tmp_path / "run")
    writer.close()
    assert read.scalars["loss/D"] == [(7, 1.5)]
    assert (tmp_path / "tiny.pt").exists()


def test_a_run_folder_that_went_missing_is_begun_anew(tmp_path):
    writer = gan.open_run(tmp_path / "run", TINY, resumed_at=4)
    writer.add_scalar("loss/D", 1.0, 5)
    gan.close_run(writer, "tiny")
    read = gan.read_history(tmp_path / "run")
    assert int(read.config["steps"]) == 6
    assert read.scalars["loss/D"] == [(5, 1.0)]


def test_event_files_of_many_stops_are_read_in_their_order(tmp_path):
    for stop in range(12):
        writer = gan.open_run(tmp_path, TINY, resumed_at=stop)
        writer.add_scalar("loss/D", stop, stop + 1)
        writer.close()
        path = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        path.rename(tmp_path / f"events.out.tfevents.{1000 + stop}.host")
    gan.close_run(writer, "tiny")
    read = gan.read_history(tmp_path)
    _, values = read.series("loss/D")
    assert values.tolist() == list(range(12))
    assert not list(tmp_path.glob("*host*"))


# ---------------------------------------------------------------- what does not go on

def test_the_same_music_goes_on(patches, tmp_path, monkeypatch):
    assert steps_made(monkeypatch, patches, tmp_path, last=5) == [0, 1, 2, 3, 4]
    assert steps_made(monkeypatch, patches_of(0), tmp_path) == [4, 5]


def test_other_music_does_not_go_on(patches, tmp_path, monkeypatch):
    steps_made(monkeypatch, patches, tmp_path, last=5)
    with pytest.warns(UserWarning, match="tiny.pt: of another configuration or other music"):
        steps = steps_made(monkeypatch, patches_of(1), tmp_path)
    assert steps == [0, 1, 2, 3, 4, 5]


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


@pytest.mark.parametrize("damage", [cut_in_half, empty, no_checkpoint, of_another_version,
                                    with_other_weights])
def test_a_damaged_checkpoint_is_named_and_the_training_starts_anew(patches, tmp_path, damage):
    path, key = kept_state(patches, tmp_path)
    damage(path)
    with pytest.warns(UserWarning, match=r"tiny\.pt: damaged.*; the training starts anew"):
        trainer, history = gan.start_or_resume(TINY, key, path)
    assert trainer.step == 0
    assert history.scalars == {}
    fresh = gan.Trainer(TINY)
    for ours, theirs in zip(trainer.generator.parameters(), fresh.generator.parameters()):
        assert torch.equal(ours, theirs)


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


# ---------------------------------------------------------------- records

@pytest.mark.usefixtures("no_pictures")
def test_shares_of_foreign_names_are_read_back_as_they_were(patches, tmp_path):
    shares = gan.share_scalars(["R&B", "R B", "民謡", "$x|y$"], np.full(4, 0.25), np.eye(4)[0])
    config = dataclasses.replace(TINY, steps=2)
    live = gan.train(config, patches, tmp_path, measure=lambda generator: shares, views=1,
                     progress=False)
    read = gan.read_history(tmp_path / "tiny")
    for tag, value in shares.items():
        assert live.scalars[tag] == [(2, value)]
        assert read.scalars[tag] == [(2, value)]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=tmp_path.name):
        gan.read_history(tmp_path)


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
