"""From a folder of audio to codes."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile
import soxr
from helpers import ROOT, tune
from hypothesis import given, settings, strategies as st

import Music


def test_codes_have_the_promised_form(folder):
    coded = Music.get_musics_coded(folder, seconds=2, n_jobs=1)
    frames = 1 + 2 * Music.SR // Music.HOP_LENGTH
    assert coded.codes.shape == (4, Music.N_MELS, frames)
    assert -1 <= coded.codes.min() and coded.codes.max() <= 1
    assert coded.labels == ["jazz", "jazz", "rock", "rock"]
    assert [p.name for p in coded.paths] == ["a.flac"] * 4 and coded.starts == [0, 2, 0, 2]
    assert not coded.skipped and not coded.damaged


def test_code_is_the_mel_spectrogram_in_db(folder):
    coded = Music.get_musics_coded(folder, seconds=4, denoise=False, n_jobs=1)
    y = soundfile.read(folder / "rock" / "a.flac")[0]
    expected = Music.code_from_mel(Music.mel_spectrogram(y))
    np.testing.assert_allclose(coded.codes[1], expected, atol=1e-3)


def test_noise_is_removed_from_codes(tmp_path):
    y = tune(8.0)
    noise = Music.pink_noise(len(y), 0) * np.sqrt(np.mean(y ** 2) / 10)
    soundfile.write(tmp_path / "a.wav", y + noise, Music.SR, subtype="FLOAT")
    truth = Music.code_from_mel(Music.mel_spectrogram(y))
    error = {d: np.mean((Music.get_musics_coded(tmp_path, 8, denoise=d, n_jobs=1).codes[0]
                         - truth) ** 2) for d in (False, True)}
    assert error[True] < 0.5 * error[False]


def test_codes_do_not_depend_on_n_jobs_or_backend(folder, tmp_path):
    one = Music.get_musics_coded(folder, 1, n_jobs=1, cache=tmp_path / "one")
    two = Music.get_musics_coded(folder, 1, n_jobs=2, cache=tmp_path / "two")
    with joblib.parallel_config(backend="threading"):
        threads = Music.get_musics_coded(folder, 1, cache=tmp_path / "three")
    np.testing.assert_array_equal(one.codes, two.codes)
    np.testing.assert_array_equal(one.codes, threads.codes)
    assert one.paths == two.paths == threads.paths


@pytest.mark.parametrize("suffix, options", [
    (".mp3", {"format": "MP3"}), (".ogg", {"format": "OGG", "subtype": "VORBIS"}),
    (".opus", {"format": "OGG", "subtype": "OPUS"}), (".flac", {}), (".wav", {})])
def test_every_format_is_read_at_any_rate_in_stereo(tmp_path, suffix, options):
    sr = 48000
    y = tune(3.2, sr)
    soundfile.write(tmp_path / f"a{suffix}", np.stack([y, y], 1), sr, **options)
    coded = Music.get_musics_coded(tmp_path, 3, denoise=False, n_jobs=1)
    y = soxr.resample(y, sr, Music.SR)[:3 * Music.SR]
    expected = Music.code_from_mel(Music.mel_spectrogram(y))
    assert len(coded.codes) == 1
    heard = expected > 0.2    # lossy formats drop what is quieter
    error = Music.db_from_code(coded.codes[0]) - Music.db_from_code(expected)
    assert np.sqrt(np.mean(error[heard] ** 2)) < 3


@pytest.mark.parametrize("length, clips", [(3.4, 1), (3.5, 2), (4.0, 2), (1.6, 1), (1.4, 0)])
def test_remainders_are_padded_or_dropped(tmp_path, length, clips):
    soundfile.write(tmp_path / "a.wav", tune(length), Music.SR)
    coded = Music.get_musics_coded(tmp_path, 2, n_jobs=1)
    assert len(coded.codes) == clips
    assert bool(coded.skipped) == (clips == 0)


def test_bad_files_are_skipped_with_a_reason_and_the_run_goes_on(folder):
    (folder / "empty.mp3").touch()
    (folder / "text.mp3").write_text("no music here " * 100)
    (folder / "cover.jpg").write_bytes(b"\xff\xd8")
    soundfile.write(folder / "short.wav", tune(0.5), Music.SR)
    soundfile.write(folder / "silent.wav", np.zeros(3 * Music.SR), Music.SR)
    soundfile.write(folder / "nan.wav", np.full(3 * Music.SR, np.nan), Music.SR, subtype="FLOAT")
    coded = Music.get_musics_coded(folder, seconds=2, n_jobs=1)
    assert len(coded.codes) == 4
    reasons = {p.name: reason for p, reason in coded.skipped.items()}
    for name, word in {"empty.mp3": "empty", "text.mp3": "not audio", "cover.jpg": "not audio",
                       "short.wav": "too short", "silent.wav": "silent",
                       "nan.wav": "not finite"}.items():
        assert word in reasons[name]
    assert len(reasons) == 6


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
def test_a_cut_file_keeps_its_whole_clips(tmp_path, suffix):
    whole = tmp_path / f"a{suffix}"
    soundfile.write(whole, tune(12.0), Music.SR)
    (tmp_path / f"cut{suffix}").write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    coded = Music.get_musics_coded(tmp_path, 3, n_jobs=1)
    cut = sum(p.name.startswith("cut") for p in coded.paths)
    assert 1 <= cut <= 2 and sum(p == whole for p in coded.paths) == 4


def test_missing_folder_and_folder_without_audio_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Music.get_musics_coded(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=str(tmp_path.name)):
        Music.get_musics_coded(tmp_path)
    (tmp_path / "file.wav").touch()
    with pytest.raises(ValueError, match="not a folder"):
        Music.get_musics_coded(tmp_path / "file.wav")


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"n_mels": 0}, {"limit": 0}])
def test_wrong_arguments_are_refused(folder, wrong):
    with pytest.raises(ValueError, match="positive"):
        Music.get_musics_coded(folder, **wrong)


def test_only_broken_files_give_no_codes_and_say_why(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF" + bytes(50))
    coded = Music.get_musics_coded(tmp_path, n_jobs=1)
    assert coded.codes.shape[0] == 0 and len(coded.skipped) == 1


def test_results_are_reused_and_a_changed_file_is_coded_again(folder, monkeypatch):
    first = np.array(Music.get_musics_coded(folder, 2, n_jobs=1).codes)
    work = []
    real = Music.code_clips
    monkeypatch.setattr(Music, "code_clips", lambda path, *a: work.append(path) or real(path, *a))
    np.testing.assert_array_equal(Music.get_musics_coded(folder, 2, n_jobs=1).codes, first)
    assert not work
    soundfile.write(folder / "rock" / "a.flac", tune(4.0, seed=5), Music.SR)
    second = Music.get_musics_coded(folder, 2, n_jobs=1).codes
    assert [p.parent.name for p in work] == ["rock"]
    np.testing.assert_array_equal(second[:2], first[:2])
    assert not np.array_equal(second[2:], first[2:])


def test_a_run_that_was_stopped_goes_on(folder, monkeypatch):
    expected = np.array(Music.get_musics_coded(folder, 2, n_jobs=1).codes)
    shutil.rmtree(folder / ".codes")
    real, work = Music.code_clips, []

    def stops(path, *rest):
        if path.parent.name == "rock" and len(work) < 2:
            work.append("killed")
            raise KeyboardInterrupt
        work.append(path.parent.name)
        return real(path, *rest)

    monkeypatch.setattr(Music, "code_clips", stops)
    with pytest.raises(KeyboardInterrupt):
        Music.get_musics_coded(folder, 2, n_jobs=1)
    np.testing.assert_array_equal(Music.get_musics_coded(folder, 2, n_jobs=1).codes, expected)
    assert work == ["jazz", "killed", "rock"]
    assert not list(folder.rglob("*.part*"))


def other_process(folder, slower=0.0):
    """Code a folder in a process of its own that sleeps before each file."""
    code = ("import sys, time, Music; real = Music.code_clips; "
            f"Music.code_clips = lambda *a: time.sleep({slower}) or real(*a); "
            "Music.get_musics_coded(sys.argv[1], 1, n_jobs=1)")
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT,
                            stderr=subprocess.PIPE, text=True)


def stored(folder):
    """When each file's codes were written."""
    return {p: p.stat().st_mtime_ns for p in folder.glob(".codes/*/[!.]*.npz")}


@pytest.fixture
def many(tmp_path):
    for seed in range(8):
        soundfile.write(tmp_path / f"{seed}.flac", tune(2.0, seed=seed), Music.SR)
    return tmp_path


def test_a_killed_process_loses_at_most_the_file_at_hand(many):
    process = other_process(many, slower=0.2)
    while len(stored(many)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = stored(many)
    assert 3 <= len(before) < 8
    coded = Music.get_musics_coded(many, 1, n_jobs=1)
    assert len(stored(many)) == 8 and before.items() <= stored(many).items()
    fresh = Music.get_musics_coded(many, 1, n_jobs=1, cache=many / ".fresh")
    np.testing.assert_array_equal(coded.codes, fresh.codes)


def test_two_processes_on_one_folder_give_the_same_codes(many):
    both = [other_process(many, slower=0.05) for _ in range(2)]
    assert [(p.communicate()[1].count("Error"), p.returncode) for p in both] == [(0, 0)] * 2
    written = stored(many)
    coded = Music.get_musics_coded(many, 1, n_jobs=1)
    fresh = Music.get_musics_coded(many, 1, n_jobs=1, cache=many / ".fresh")
    np.testing.assert_array_equal(coded.codes, fresh.codes)
    assert stored(many) == written and not list(many.rglob("*.part*"))


@given(st.lists(st.tuples(st.sampled_from([1, 2.0]), st.sampled_from([40, 128]), st.booleans(),
                          st.sampled_from([7, 8])), min_size=1, max_size=5))
@settings(max_examples=12, deadline=None)
def test_only_what_changed_is_coded_again(calls):
    real, work = Music.code_clips, []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        soundfile.write(Path(folder) / "a.wav", tune(2.0), Music.SR)
        patch.setattr(Music, "code_clips", lambda path, *a: work.append(a) or real(path, *a))
        for seconds, n_mels, denoise, code_version in calls:
            patch.setattr(Music, "CODE_VERSION", code_version)
            codes = Music.get_musics_coded(folder, seconds, n_mels, denoise, n_jobs=1).codes
            assert codes.shape[:2] == (2 // seconds, n_mels)
            del codes    # an open file cannot be removed on every system
    assert len(work) == len(set(calls))


@given(st.integers(1, 60_000), st.floats(0.02, 1.5), st.integers(500, 40_000))
@settings(max_examples=40, deadline=None)
def test_clips_are_the_file_cut_up_whatever_the_blocks(length, seconds, block):
    y = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    n = round(seconds * Music.SR)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Music, "BLOCK", block)
        soundfile.write(Path(folder) / "a.wav", y, Music.SR, subtype="FLOAT")
        clips = list(Music.audio_clips(Path(folder) / "a.wav", seconds))
    rest = length % n
    assert len(clips) == length // n + (rest > 0 and n - rest <= Music.PAD_SECONDS * Music.SR)
    whole = np.concatenate([*clips, np.zeros(0, np.float32)])
    np.testing.assert_array_equal(whole, np.pad(y, (0, n))[:len(whole)])


def test_mp3_read_in_blocks_is_mp3_read_at_once(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.mp3", tune(4.0), Music.SR, format="MP3")
    monkeypatch.setattr(Music, "BLOCK", 1000)
    blocks = np.concatenate(list(Music.decode_blocks(tmp_path / "a.mp3", Music.SR)))
    at_once = soundfile.read(tmp_path / "a.mp3", dtype="float32")[0]
    np.testing.assert_allclose(blocks, at_once, atol=1e-6)   # seeking makes errors of 0.2


def test_limit_takes_from_every_genre(folder):
    shutil.copy(folder / "jazz" / "a.flac", folder / "jazz" / "b.flac")
    coded = Music.get_musics_coded(folder, 4, limit=2, n_jobs=1)
    assert coded.labels == ["jazz", "rock"]
    assert len(Music.get_musics_coded(folder, 2, limit=3, n_jobs=1).codes) == 3
    shutil.copy(folder / "rock" / "a.flac", folder / "rock" / "b.flac")
    coded = Music.get_musics_coded(folder, 2, limit=4, n_jobs=2)
    assert coded.labels == ["jazz", "jazz", "rock", "rock"]


def test_codes_are_memory_mapped_half_floats(folder):
    codes = Music.get_musics_coded(folder, 2, n_jobs=1).codes
    assert isinstance(codes, np.memmap) and codes.dtype == np.float16
    assert not codes.flags.writeable
