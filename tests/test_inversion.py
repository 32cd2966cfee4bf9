"""The learned inversion: its training, its numpy twin, and what `music_from_code` does with it."""

import sys
import warnings

import librosa
import numpy as np
import pytest
import soundfile
import torch

import Music
from helpers import ROOT, tune

sys.path.insert(0, str(ROOT / "tests" / "evidence"))

import benchmark_inversion
import refine_inversion
import train_inversion
from benchmark_inversion import code_of
from masking import FFT, noise_to_mask
from networks import plain_weights, write_weights


@pytest.fixture
def weights_at(monkeypatch):
    """A function that makes `Music` read its inversion from another file, until the test ends."""
    def read_from(path):
        monkeypatch.setattr(Music, "INVERSION", path)
        Music.inversion_weights.cache_clear()

    yield read_from
    Music.inversion_weights.cache_clear()


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Ten seconds of held-out pieces, each of another repertoire."""
    folder = tmp_path_factory.mktemp("pieces")
    Music.render_scores(folder, 16, None, seconds=22,
                        repertoires=("chorale", "german", "irish", "chinese"))
    return benchmark_inversion.held_out_examples(folder, 3)


def test_weights_are_small_and_need_no_pickle():
    assert Music.INVERSION.stat().st_size <= 3e6
    with np.load(Music.INVERSION, allow_pickle=False) as kept:
        kinds = {kept[name].dtype.kind for name in kept.files}
    assert kinds <= {"i", "f"}


def test_numpy_gives_what_torch_gives(tmp_path, weights_at):
    torch.manual_seed(3)
    net = train_inversion.Inversion()
    torch.nn.init.normal_(net.head.weight, std=0.05)
    write_weights(tmp_path / "inversion.npz", plain_weights(net.state_dict()))
    weights_at(tmp_path / "inversion.npz")
    read = {name: torch.tensor(value) for name, value in Music.inversion_weights().items()}
    net.load_state_dict(read)
    code = code_of(tune(2.0))
    with torch.no_grad():
        expected = net(torch.tensor(code.T)[None])[0].T.numpy()
    found = Music.fine_magnitudes(code)
    assert found.shape == (1025, 2 * code.shape[1] - 1)
    assert np.abs(found - expected).max() < 1e-3


def test_eight_bits_move_no_weight_by_more_than_half_a_unit(tmp_path, weights_at):
    torch.manual_seed(4)
    net = train_inversion.Inversion()
    write_weights(tmp_path / "inversion.npz", plain_weights(net.state_dict()))
    weights_at(tmp_path / "inversion.npz")
    kept = Music.inversion_weights()["head.weight"]
    truth = net.head.weight.detach().numpy()
    unit = np.abs(truth).max(1, keepdims=True) / 127
    assert (np.abs(kept - truth) <= 0.51 * unit).all()


def test_learned_magnitudes_beat_the_bands_alone(held_out):
    assert len({example.label for example in held_out}) > 1
    for example in held_out:
        before = benchmark_inversion.measure(example, benchmark_inversion.bands_alone)
        after = benchmark_inversion.measure(example, benchmark_inversion.learned)
        assert after.convergence > before.convergence + 2
        assert after.log_stft < before.log_stft - 1
        assert after.code < 1


def test_blocks_meet_without_a_seam(held_out, monkeypatch):
    code = held_out[0].code
    whole = Music.music_from_code(code)
    monkeypatch.setattr(Music, "SOUND_BLOCK", 60)
    parts = Music.music_from_code(code)
    errors = []
    for sound in (whole, parts):
        again = code_of(sound)[:, :code.shape[1]]
        difference = Music.db_from_code(again) - Music.db_from_code(code)
        errors.append(np.sqrt(np.mean(difference ** 2, axis=0)))
    around = np.concatenate([errors[1][at - 4:at + 12] for at in (60, 120, 180)])
    assert around.mean() < errors[0].mean() + 0.5


def test_a_silent_passage_stays_silent():
    code = np.concatenate([code_of(tune(2.0)), -np.ones((Music.N_MELS, 40), np.float32)], axis=1)
    sound = Music.music_from_code(code)
    assert np.abs(sound[-30 * Music.HOP_LENGTH:]).max() < 1e-3
    assert np.abs(sound).max() > 0.05


def test_without_weights_sound_is_made_from_the_bands_and_says_so_once(tmp_path, weights_at):
    code = code_of(tune(1.0))
    weights_at(tmp_path / "none.npz")
    with pytest.warns(UserWarning, match=r"none\.npz"):
        sound = Music.music_from_code(code)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Music.music_from_code(code)
        alone = Music.music_from_code(code, learned=False)
    assert np.array_equal(sound, again)
    assert np.array_equal(sound, alone)


@pytest.mark.slow
def test_training_learns_stops_and_goes_on(tmp_path, monkeypatch):
    for name, small in (("BATCH", 4), ("TONES", 1), ("WIDTH", 48), ("HIDDEN", 64), ("FRAMES", 9)):
        monkeypatch.setattr(train_inversion, name, small)
    monkeypatch.setattr(train_inversion, "KEEP_EVERY", 10)
    monkeypatch.setattr(train_inversion, "is_held_out", lambda path: False)
    music = tmp_path / "music"
    music.mkdir()
    for number in range(3):
        soundfile.write(music / f"{number}.flac", tune(5.0), Music.SR)
    (music / "broken.ogg").write_bytes(b"OggS" + bytes(500))
    sources = [train_inversion.Music16("tunes", music, n_jobs=1)]
    assert len(sources[0].sounds) == 3
    fresh = train_inversion.new_state(0)
    code, size = train_inversion.Examples(sources, 9).draw()
    first = train_inversion.losses(fresh.net(code), size)
    work = tmp_path / "work"
    train_inversion.train(sources, 10, work, tmp_path)
    train_inversion.train(sources, 80, work, tmp_path)
    state = train_inversion.new_state(0)
    state.load(work / "inversion.pt")
    assert state.step == 80
    last = train_inversion.losses(state.net(code), size)
    assert last["loss/log"] < 0.9 * first["loss/log"]
    written = sorted(path.name for path in tmp_path.glob("*.*"))
    assert written[-1] == "inversion.npz"
    assert "events.out.tfevents.0.inversion" in written


def test_a_critic_learns_to_tell_blurred_pictures():
    torch.manual_seed(5)
    critic = refine_inversion.Critic()
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    true = 3 * torch.randn(6, 16, 64)
    blurred = torch.nn.functional.avg_pool1d(true, 5, stride=1, padding=2)
    for _ in range(40):
        loss = refine_inversion.critics_loss(critic, true, blurred, blurred)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.5      # of 2 where it tells nothing
    good = refine_inversion.losses_by_critic(critic, true, true, blurred)
    bad = refine_inversion.losses_by_critic(critic, true, blurred, blurred)
    assert good["loss/critic"] < bad["loss/critic"] - 1
    assert good["loss/features"] == 0 < bad["loss/features"]


def test_refining_goes_on_from_the_shipped_weights(tmp_path, monkeypatch):
    for name, small in (("BATCH", 4), ("FRAMES", 9)):
        monkeypatch.setattr(train_inversion, name, small)
    path = tmp_path / "refined.npz"
    refine_inversion.refine([train_inversion.Tones()], 2, path)
    with np.load(path) as refined, np.load(Music.INVERSION) as shipped:
        assert refined.files == shipped.files
        moved = [np.abs(refined[name] - shipped[name].astype(float)).max()
                 for name in refined.files if name.endswith("bias")]
    assert 0 < max(moved) < 0.1


def test_weights_are_compared_each_by_its_own_sounds(tmp_path, held_out, weights_at):
    untrained = tmp_path / "untrained.npz"
    write_weights(untrained, plain_weights(train_inversion.Inversion().state_dict()))
    weights_at(untrained)
    shipped = ROOT / "runs" / "recorded" / "inversion" / "inversion.npz"
    before = refine_inversion.measured(held_out[:1], untrained)
    after = refine_inversion.measured(held_out[:1], shipped)
    assert after["convergence"] > before["convergence"] + 2
    assert after["onsets of the worst"] <= after["onsets"]


def sine(hz, level_db):
    """Two seconds of a tone, float32, so many dB below an amplitude of 0.5."""
    t = np.arange(2 * Music.SR) / Music.SR
    return np.float32(0.5 * 10 ** (level_db / 20) * np.sin(2 * np.pi * hz * t))


def over_mask(music, sound):
    """Level of the difference of two waveforms over the mask of the first."""
    truth, found = (np.abs(librosa.stft(y, **FFT)) for y in (music, sound))
    return noise_to_mask(truth, found, np.mean(music ** 2))


def test_a_mask_hides_what_is_near_and_soft():
    music = sine(1000, 0)
    changed = over_mask(music, 1.01 * music)
    assert changed.max() < 0
    near = over_mask(music, music + sine(1150, -40))
    far = over_mask(music, music + sine(4000, -40))
    assert near[:, 10:-10].max() < 0
    assert far[:, 10:-10].max() > 10


def test_what_is_softer_than_the_threshold_in_quiet_is_not_heard():
    music = sine(4000, 0)
    below = over_mask(music, music + sine(63, -40))
    assert below[:, 10:-10].max() < 0
