"""Passages that return: what is measured in music, and what a generator's events do with it."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from pytest import approx

import Music
from notebook_definitions import load

gan = load("HW_04_music_gan")
STEP = Music.STEP_FRAMES


def melody(steps, seed):
    """Code (n_mels, steps * STEP) of a melody of single tones, one a step."""
    rng = np.random.default_rng(seed)
    code = np.full((Music.N_MELS, steps * STEP), -1.0, np.float32)
    for step, band in enumerate(rng.integers(10, 90, steps)):
        code[band, step * STEP:(step + 1) * STEP] = 0.5
    return code


def abac():
    """A piece of 96 steps in four passages of 24, of which the third is the first again."""
    a, b, c = (melody(24, seed) for seed in range(3))
    return np.concatenate([a, b, a, c], 1)


def config(**changes):
    settings = {"returns": True, "classes": (0.5, 0.5), "generator_width": 4, "batch_size": 8,
                "discriminator_width": 2, "joined": 4, "steps": 4, "bfloat16": False,
                "device": "cpu"}
    return gan.modern_recipe(**settings | changes)


@pytest.fixture(scope="module")
def patches():
    """Four clips of kind 0 that return, four of kind 1 that do not."""
    codes = [abac()] * 4 + [melody(96, seed) for seed in range(10, 14)]
    return gan.Patches(np.stack(codes).astype(np.float16), range(8),
                       target=np.repeat([0, 1], 4))


@pytest.fixture(scope="module")
def learnt(patches):
    """A generator that knows the forms of the patches."""
    return gan.Trainer(config(), patches).generator.eval()


@pytest.fixture
def generator(learnt):
    return deepcopy(learnt)


# ---------------------------------------------------------------- measures

def test_a_passage_that_returns_is_found_with_its_lag():
    passages = Music.returning_passages(abac())
    longest = max(passages, key=lambda passage: passage.length)
    assert longest.lag == 48
    assert longest.start <= 2 and abs(longest.length - 24) <= 3


def test_music_that_never_returns_has_no_passages():
    assert Music.returning_passages(melody(96, 5)) == []


def test_the_map_sends_a_return_to_its_source_and_the_rest_to_itself():
    source = Music.return_map(abac())
    assert_array_equal(source[:46], np.arange(46))
    assert_array_equal(source[51:69], np.arange(3, 21))
    assert_array_equal(source[76:], np.arange(76, 96))


def test_a_third_hearing_is_sent_to_the_first():
    piece = np.concatenate([melody(24, 1), melody(24, 2)] * 3, 1)
    source = Music.return_map(piece)
    assert source[100:118].max() < 48


@pytest.mark.parametrize("rate", [1.5, 2, 3.1])
def test_the_beat_is_that_of_the_strokes(rate):
    frames = np.arange(646)
    since = frames * Music.HOP_LENGTH / Music.SR * rate % 1
    code = np.tile(0.5 - 1.4 * since, (Music.N_MELS, 1)).astype(np.float32)
    assert Music.beat_hz(code) == approx(rate, abs=0.03)


def test_form_is_what_the_order_of_passages_gives():
    returning = np.concatenate([abac(), abac()], 1)
    found = Music.form_measures(np.stack([returning, melody(192, 9)]))
    assert found["returning"][0] > 0.5 > 0.1 > found["returning"][1]
    assert found["longest"][0] > found["longest"][1] + 1
    assert set(found) == {"longest", "returning", "beat kept"}


# ---------------------------------------------------------------- events

def test_events_return_where_those_of_a_real_piece_do(generator):
    rng = torch.Generator().manual_seed(0)
    _style, events = generator.latents(2, gan.FORM_STEPS * STEP, rng, [0, 1])
    returning, new = events[:, :generator.config.event_dim]
    maps = generator.form.maps[0, 0].long()
    assert (maps != torch.arange(gan.FORM_STEPS)).any()
    torch.testing.assert_close(returning, returning[:, maps])
    assert not torch.isclose(new[:, 51:69], new[:, 3:21]).all(0).any()


def test_the_law_of_single_events_stays(generator):
    rng = torch.Generator().manual_seed(1)
    _style, events = generator.latents(400, 64, rng)
    own = events[:, :generator.config.event_dim]
    assert own.mean() == approx(0, abs=0.03)
    assert own.std() == approx(1, abs=0.03)


def test_phases_turn_with_the_beat(generator):
    generator.form.beats.fill_(0.5)
    generator.form.maps[:] = torch.arange(gan.FORM_STEPS)
    _style, events = generator.latents(1, 64, torch.Generator().manual_seed(0), [1])
    sines, cosines = events[0, -8:-4], events[0, -4:]
    angle = torch.atan2(sines, cosines)
    turned = angle[:, 1:] - angle[:, :-1]
    expected = 2 * np.pi * 0.5 * torch.tensor(gan.BEATS)[:, None].expand(-1, 15)
    torch.testing.assert_close(turned.cos(), expected.cos(), atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.sin(), expected.sin(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seconds", [3, 30, 100])
def test_pieces_of_any_length_have_form(generator, seconds):
    code = gan.generate(generator, seconds, kind=1)
    assert code.shape == (Music.N_MELS, gan.frames_of(seconds))


def test_one_kind_of_music_has_one_set_of_forms(patches):
    alone = gan.Patches(patches.codes, patches.clips)
    generator = gan.Trainer(config(classes=()), alone).generator
    assert len(generator.form.maps) == 1


def test_every_other_step_cuts_its_patches_from_pieces(patches, monkeypatch):
    trainer = gan.Trainer(config())
    lengths = []
    forward = trainer.generator.forward

    def watched(style, events):
        lengths.append(events.shape[2])
        return forward(style, events)

    monkeypatch.setattr(trainer.generator, "forward", watched)
    codes = np.tile(patches.codes, (1, 1, 2))
    longer = gan.Patches(codes, patches.clips, target=patches.target)
    for _ in range(2):
        gan.train_step(trainer, longer)
    assert lengths == [64, 16]


def test_cut_patches_follow_each_other():
    codes = torch.arange(24.0).reshape(2, 1, 1, 12)
    assert gan.cut(codes, 3)[:, 0, 0].tolist() == codes.reshape(6, 4).tolist()


# ---------------------------------------------------------------- a file of a generator

@pytest.fixture
def kept(generator, tmp_path):
    gan.save_generator(generator, ["a", "b"], tmp_path / "generator.npz")
    return generator, tmp_path / "generator.npz"


def test_a_kept_generator_sounds_as_before(kept):
    generator, path = kept
    again, names = gan.load_generator(path)
    assert names == ["a", "b"]
    assert again.config == generator.config
    torch.testing.assert_close(gan.sample(again, 2), gan.sample(generator, 2), atol=5e-3, rtol=0)


def test_a_damaged_generator_is_named(kept):
    _generator, path = kept
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"generator\.npz: not a generator of this version"):
        gan.load_generator(path)


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_foreign_file_is_named(tmp_path, content):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.npz: not a generator"):
        gan.load_generator(path)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        gan.load_generator(tmp_path / "none.npz")
