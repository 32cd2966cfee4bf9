"""The record of notes: notes that are known, measures with known answers, and its page."""

import json

import numpy as np
import pytest
import symusic
import torch

import Music
import record_notes
from record_notes import FRAME, LOWEST, Limits, Notes

SCALE = 60 + np.array([0, 2, 4, 5, 7, 9, 11, 12])
CHROMATIC = np.arange(60, 72)
HARP = 46


def melody(pitches, gap=6, length=None):
    """Notes one after the other, one every `gap` frames, `length` frames long."""
    start = gap * FRAME * np.arange(len(pitches))
    end = start + (length or gap) * FRAME
    return Notes(start, end, np.asarray(pitches))


def seconds_of(notes):
    """The length of a piece that ends with its last note."""
    return notes.end.max()


def roll_with(*onsets):
    """Where (t, PITCHES) those (frame, pitch) are."""
    roll = np.zeros((40, record_notes.PITCHES), bool)
    for frame, pitch in onsets:
        roll[frame, pitch - LOWEST] = True
    return roll


# ---------------------------------------------------------------- notes and rolls

def score_of(*notes):
    """A score of symusic of notes (start, duration [s], pitch)."""
    score = symusic.Score(ttype="second")
    track = symusic.Track(ttype="second")
    for start, duration, pitch in notes:
        track.notes.append(symusic.Note(start, duration, pitch, 90, ttype="second"))
    score.tracks.append(track)
    return score


def test_a_short_tune_is_played_again_and_cut_at_the_end():
    notes = record_notes.played(score_of((0, 1, 60), (1, 1, 62)), 4.5)
    assert notes.start.tolist() == [0, 1, 2, 3, 4]
    assert notes.end.tolist() == [1, 2, 3, 4, 4.5]
    assert notes.pitch.tolist() == [60, 62, 60, 62, 60]


def test_a_doubled_note_counts_once_and_the_longer_stays():
    notes = record_notes.played(score_of((0, 1, 60), (0, 2, 60), (0, 1, 64)), 2)
    assert notes.pitch.tolist() == [60, 64]
    assert notes.end.tolist() == [2, 1]


def test_notes_are_read_as_they_were_kept(tmp_path):
    notes = melody(SCALE)
    path = tmp_path / ".notes" / "a.npy"
    record_notes.keep_notes(notes, path)
    kept = record_notes.read_notes(path)
    assert kept.pitch.tolist() == notes.pitch.tolist()
    np.testing.assert_allclose(kept.end, notes.end, rtol=1e-6)


@pytest.mark.slow
def test_the_notes_of_a_clip_are_those_that_were_rendered(tmp_path, monkeypatch):
    rendered = {}
    play = Music._play

    def listen(score, program, seconds):
        rendered[program] = record_notes.played(score, seconds)
        return play(score, program, seconds)

    monkeypatch.setattr(Music, "_play", listen)
    Music.render_scores(tmp_path, 2, None, 6, repertoires=("irish", "german"), n_jobs=1)
    monkeypatch.undo()
    paths, _ = Music.audio_files(tmp_path)
    found = record_notes.notes_of_clips(paths)
    assert len(found) == 2
    for path, notes in zip(paths, found):
        wanted = rendered[Music.REPERTOIRES[path.parent.name].program]
        assert notes.pitch.tolist() == wanted.pitch.tolist()
        np.testing.assert_allclose(notes.start, wanted.start, atol=1e-5)


def test_a_roll_and_its_decoding_give_the_notes_back():
    notes = record_notes.in_order(
        [0, 6 * FRAME, 12 * FRAME, 3 * FRAME],
        [6 * FRAME, 9 * FRAME, 20 * FRAME, 30 * FRAME],
        [60, 60, 62, 48])
    roll = record_notes.roll_of(notes, 40)
    decoded = record_notes.decoded(roll.astype(float), Limits(0.5, 0.5))
    for found, wanted in zip(decoded, notes):
        np.testing.assert_allclose(found, wanted)


def test_a_note_that_sounds_without_a_beginning_is_none():
    roll = record_notes.roll_of(melody(SCALE), 60).astype(float)
    roll[1] = 0
    decoded = record_notes.decoded(roll, Limits(0.5, 0.5))
    assert not len(decoded.pitch)


@pytest.mark.parametrize("pitch", [72, 79, 84])
def test_a_rendered_note_is_found_at_its_pitch_and_time(pitch):
    """The notes of a score lie where its code has them."""
    score = score_of((1.0, 1.0, pitch), (2.0, 0.5, pitch + 5))
    y = Music._play(score, HARP, 2.4)
    code = Music.code_from_mel(Music.mel_spectrogram(y))
    true = record_notes.roll_of(record_notes.played(score, 2.4), code.shape[1])
    found = record_notes.strongest(code)
    sounding = true[0].any(1)
    agree = (found[0] & true[0])[sounding].any(1)
    assert agree.mean() > 0.9
    assert record_notes.matched(true[1], found[1]) == 2


@pytest.mark.slow
def test_a_transcriber_learns_a_rendered_scale_and_goes_on_where_it_stopped(
        tmp_path, monkeypatch):
    small = {"BATCH": 2, "CROP": 64, "WIDTH": 96, "DILATIONS": (1,)}
    for name, value in small.items():
        monkeypatch.setattr(record_notes, name, value)
    monkeypatch.setattr(record_notes, "softened", lambda codes, rng: codes)
    score = score_of(*((0.4 * i, 0.4, 60 + pitch) for i, pitch in enumerate((0, 4, 7, 12, 5) * 4)))
    code = Music.code_from_mel(Music.mel_spectrogram(Music._play(score, HARP, 8)))
    roll = record_notes.roll_of(record_notes.played(score, 8), code.shape[1])
    path = tmp_path / "transcriber.pt"
    record_notes.trained(code[None], [roll], [0], path, steps=20)
    assert torch.load(path, weights_only=True)["step"] == 20
    net = record_notes.trained(code[None], [roll], [0], path, steps=200)
    assert torch.load(path, weights_only=True)["step"] == 200
    probabilities = record_notes.likely(net, code[None])
    limits = record_notes.chosen_limits(probabilities, [roll])
    transcribed = record_notes.thresholded(probabilities[0], limits)
    found = record_notes.agreement([roll], [transcribed])
    trivial = record_notes.agreement([roll], [record_notes.strongest(code)])
    assert found["frames"][2] > max(0.9, trivial["frames"][2])


def test_softened_codes_keep_their_shape_and_are_not_all_the_same(rng):
    codes = torch.zeros(2, 1, Music.N_MELS, 64)
    codes[..., 32] = 1
    found = [record_notes.softened(codes, rng) for _ in range(20)]
    assert {one.shape for one in found} == {codes.shape}
    heights = [float(one[..., 32].mean()) for one in found]
    assert max(heights) == pytest.approx(1, abs=0.05)      # sharp
    assert min(heights) == pytest.approx(1 / 5, abs=0.05)  # over five frames


# ---------------------------------------------------------------- agreement

@pytest.mark.parametrize("frame, pitch, pairs", [
    (10, 60, 1), (11, 60, 1), (9, 60, 1), (12, 60, 0), (8, 60, 0), (10, 61, 0),
])
def test_an_onset_counts_within_a_frame_at_its_pitch(frame, pitch, pairs):
    true = roll_with((10, 60))
    assert record_notes.matched(true, roll_with((frame, pitch))) == pairs


def test_each_onset_is_in_one_pair_and_the_pairs_are_as_many_as_can_be():
    true = roll_with((10, 60), (12, 60))
    assert record_notes.matched(true, roll_with((11, 60))) == 1
    assert record_notes.matched(true, roll_with((11, 60), (13, 60))) == 2
    assert record_notes.matched(roll_with((11, 60)), true) == 1


def test_scores_of_known_matches():
    true = np.stack([roll_with(), roll_with((10, 60), (20, 64), (30, 67))])
    found = np.stack([roll_with(), roll_with((11, 60), (20, 65))])
    agreement = record_notes.agreement([true], [found])
    assert agreement["onsets"] == pytest.approx([1 / 2, 1 / 3, 2 / 5])
    assert agreement["frames"] == [0, 0, 0]


# ---------------------------------------------------------------- measures

def test_a_scale_moves_in_steps_within_one_scale():
    notes = melody(np.concatenate([SCALE, SCALE[::-1]]))
    found = record_notes.measures(notes, seconds_of(notes))
    assert found["in scale"] == 1
    assert found["steps"] == 1
    assert found["interval"] == pytest.approx(24 / 15)
    assert found["duration"] == pytest.approx(6 * FRAME)
    assert found["commonest gap"] == 1
    assert found["polyphony"] == pytest.approx(1)
    assert found["notes/s"] == pytest.approx(1 / (6 * FRAME))
    low, high = np.percentile(notes.pitch, (5, 95))
    assert (found["lowest pitch"], found["highest pitch"]) == (low, high)


def test_chromatic_notes_fit_no_scale():
    assert record_notes.in_scale(CHROMATIC) == pytest.approx(7 / 12)
    minor = 57 + np.array(record_notes.HARMONIC_MINOR)
    assert record_notes.in_scale(minor) == 1


@pytest.mark.parametrize("tonic", [0, 3, 10])
def test_pitch_classes_are_counted_from_the_tonic(tonic):
    tune = melody(np.array([60, 62, 64, 65, 67, 69, 71, 72, 67, 64, 60]) + tonic)
    shares = record_notes.from_the_tonic(tune)
    assert shares[0] == pytest.approx(3 / 11)
    assert shares[[1, 3, 6, 8, 10]].sum() == 0


def test_the_top_voice_is_the_highest_line():
    upper = melody([72, 74, 76], gap=8)
    lower = melody([60, 55, 60, 55, 60, 55], gap=4)
    both = record_notes.in_order(*(np.concatenate(pair) for pair in zip(upper, lower)))
    top = record_notes.top_voice(both)
    assert top.pitch.tolist() == [72, 74, 76]
    pause = record_notes.in_order(
        np.append(upper.start, 30 * FRAME), np.append(upper.end, 32 * FRAME),
        np.append(upper.pitch, 50))
    assert record_notes.top_voice(pause).pitch.tolist() == [72, 74, 76, 50]


def test_gaps_within_a_frame_of_the_commonest_count():
    gaps = np.array([5, 6, 5, 4, 12, 20])
    commonest, share = record_notes.near_the_commonest(gaps)
    assert commonest == 5
    assert share == pytest.approx(4 / 6)


def test_a_motif_that_returns_beats_its_shuffle_and_chance_does_not(rng):
    gaps = np.full(80, 6)
    motif = np.tile([60, 64, 62, 67, 65, 60, 69, 62], 10)
    motif = np.append(motif, 60)
    assert record_notes.repeating(motif, gaps) == 1
    assert record_notes.repeated(motif, gaps) > 0.5
    chance = rng.integers(55, 80, 81)
    assert abs(record_notes.repeated(chance, gaps)) < 0.05


def test_a_motif_returns_in_another_key_but_not_in_another_rhythm():
    motif = np.array([60, 64, 62, 67, 65])
    pitches = np.concatenate([motif, motif + 5])
    even = np.full(9, 6)
    assert record_notes.repeating(pitches, even) == pytest.approx(2 / 6)
    uneven = np.array([6, 6, 6, 6, 6, 24, 24, 6, 6])
    assert record_notes.repeating(pitches, uneven) == 0


def test_too_few_notes_have_no_measures():
    found = record_notes.measures(melody([60, 62, 64]), 1.0)
    assert found.keys() == record_notes.UNITS.keys()
    assert np.isnan(list(found.values())).all()


# ---------------------------------------------------------------- what is recorded

def test_pieces_are_no_distance_from_themselves_and_some_from_others():
    kinds = np.zeros(4, int)
    scales = record_notes.Source([melody(np.tile(SCALE, 3)) for _ in range(4)], kinds, kinds)
    others = record_notes.Source([melody(np.tile(CHROMATIC, 2)) for _ in range(4)], kinds, kinds)
    real = record_notes.summary(scales, ["a"], 10)
    found = record_notes.apart(real, real)["a"]
    assert set(found.values()) == {0.0}
    found = record_notes.apart(real, record_notes.summary(others, ["a"], 10))["a"]
    assert found["in scale"] == pytest.approx(5 / 12)
    assert found["pitch classes"] > 0.3


def test_the_page_is_that_of_the_record():
    path = record_notes.RECORDED / "README.md"
    assert path.read_text(encoding="utf-8") == record_notes.page()


def test_the_record_has_all_kinds_and_measures():
    found = json.loads((record_notes.RECORDED / "notes.json").read_text(encoding="utf-8"))
    kinds = set(Music.REPERTOIRES)
    for side in ("score", "real", "invented", "training"):
        assert set(found["measures"][side]) == kinds
        for row in found["measures"][side].values():
            assert row.keys() == record_notes.UNITS.keys()
            for value, low, high in row.values():
                assert low <= value <= high
    for what in ("unseen", "training", "blurred"):
        better = found["errors"][what]["all"]["onsets"][2]
        assert better > found["errors"]["strongest band"]["all"]["onsets"][2]
