"""Playing scores into audio."""

import collections
import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings, strategies as st

import Music


def clips(folder):
    return {p.relative_to(folder).as_posix(): soundfile.read(p)[0]
            for p in Music.audio_files(folder)[0]}


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return Music.render_scores(tmp_path_factory.mktemp("truth"), 9, None, seconds=4, n_jobs=1)


def test_every_repertoire_is_a_folder(scores):
    assert {p.name for p in scores.iterdir() if p.is_dir()} == set(Music.REPERTOIRES)
    assert len(Music.REPERTOIRES) >= 8


def test_clips_have_the_promised_form(scores):
    for path in Music.audio_files(scores)[0]:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.frames) == (Music.SR, 1, 4 * Music.SR)
        assert info.format == "FLAC" and path.stem.rsplit("-", 1)[1].isdigit()


def test_noisy_minus_clean_is_pink_noise_at_the_stated_level(scores, truth):
    noisy, clean = clips(scores), clips(truth)
    assert noisy.keys() == clean.keys()
    for name, y in clean.items():
        noise = noisy[name] - y
        snr = 10 * np.log10(np.mean(y ** 2) / np.mean(noise ** 2))
        assert snr == pytest.approx(Music.clip_info(scores / name)["snr_db"], abs=0.1)
        assert 5 <= Music.clip_info(scores / name)["snr_db"] <= 20
        f = np.fft.rfftfreq(len(noise), 1 / Music.SR)
        power, keep = np.abs(np.fft.rfft(noise)) ** 2, (f > 100) & (f < 8000)
        octaves = np.floor(np.log2(f[keep]) * 2)
        means = [(f[keep][octaves == o].mean(), power[keep][octaves == o].mean())
                 for o in np.unique(octaves)]
        assert np.polyfit(*np.log10(means).T, 1)[0] == pytest.approx(-1, abs=0.15)
    assert Music.clip_info(truth / name)["snr_db"] is None


def test_same_seed_same_bytes_whatever_the_number_of_workers(scores, tmp_path):
    again = Music.render_scores(tmp_path, 9, seconds=4, n_jobs=2)
    for path in Music.audio_files(scores)[0]:
        assert (again / path.relative_to(scores)).read_bytes() == path.read_bytes()


def test_another_seed_plays_other_pieces(scores, tmp_path):
    other = Music.render_scores(tmp_path, 9, seconds=4, seed=1, n_jobs=1)
    assert clips(other).keys() != clips(scores).keys()


def test_a_second_call_keeps_what_is_there(tmp_path):
    some = {"repertoires": ("chorale", "irish"), "seconds": 2, "n_jobs": 1}
    Music.render_scores(tmp_path, 2, **some)
    before = {p: p.stat().st_mtime_ns for p in Music.audio_files(tmp_path)[0]}
    Music.render_scores(tmp_path, 4, **some)
    after = {p: p.stat().st_mtime_ns for p in Music.audio_files(tmp_path)[0]}
    assert len(after) == 4 and before.items() <= after.items()


def test_unreadable_pieces_are_replaced_and_counted(tmp_path):
    Music.render_scores(tmp_path, 12, repertoires=("chinese",), seconds=2, n_jobs=1)
    report = json.loads((tmp_path / ".report.json").read_text())["chinese"]
    assert report["clips"] == 12 and sum(report["replaced"].values()) > 0


def test_few_pieces_give_several_clips_each(tmp_path, monkeypatch):
    few = Music.list_pieces(Music.REPERTOIRES["quartet"])[-2:]
    monkeypatch.setattr(Music, "list_pieces", lambda repertoire: few)
    Music.render_scores(tmp_path, 4, None, repertoires=("quartet",), seconds=5, n_jobs=1)
    played = clips(tmp_path)
    assert len(played) == 4 and len({name.rsplit("-", 1)[0] for name in played}) == 2
    first, second = (played[n] for n in sorted(played)[:2])
    assert not np.allclose(first, second)


def test_clips_run_out_with_a_clear_error(tmp_path, monkeypatch):
    few = Music.list_pieces(Music.REPERTOIRES["chorale"])[:1]
    monkeypatch.setattr(Music, "list_pieces", lambda repertoire: few)
    with pytest.raises(ValueError, match="not 5"):
        Music.render_scores(tmp_path, 5, repertoires=("chorale",), seconds=20, n_jobs=1)
    assert Music.audio_files(tmp_path)[0]


@pytest.mark.parametrize("wrong", [{"repertoires": ("jazz",)}, {"snr_db": (-20, 0)},
                                   {"snr_db": (9, 3)}, {"seconds": 0}, {"pieces": -1}])
def test_wrong_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError):
        Music.render_scores(tmp_path, **wrong)


@given(st.integers(0, 500), st.dictionaries(st.text(max_size=3), st.integers(0, 200), min_size=1))
@settings(deadline=None)
def test_shares_are_even_and_within_supply(total, supply):
    queues = {k: iter([("piece", i) for i in range(n)]) for k, n in supply.items()}
    wave = Music._next_wave(total, {k: [] for k in supply}, queues)
    shares = collections.Counter(label for label, _, _ in wave)
    assert len(wave) == min(total, sum(supply.values()))
    unmet = [shares[k] for k in supply if shares[k] < supply[k]]
    assert all(shares[k] <= supply[k] for k in supply)
    assert not unmet or max(shares.values(), default=0) - min(unmet) <= 1
