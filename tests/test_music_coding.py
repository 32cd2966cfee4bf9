"""From a folder of audio to codes."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import Music
from helpers import ROOT, tune


def code(folder, seconds, *settings, **options):
    return Music.get_musics_coded(folder, seconds, *settings, n_jobs=1, **options)


def write(path, y, sr=Music.SR, **options):
    soundfile.write(path, y, sr, **options)


def test_codes_have_the_promised_form(folder):
    codes, labels, paths, starts, skipped, damaged = code(folder, 2)
    frames = 1 + 2 * Music.SR // Music.HOP_LENGTH
    assert codes.shape == (4, Music.N_MELS, frames)
    assert codes.min() >= -1
    assert codes.max() <= 1
    assert labels == ["jazz", "jazz", "rock", "rock"]
    assert paths == [folder / label / "a.flac" for label in labels]
    assert starts == [0, 2, 0, 2]
    assert not skipped
    assert not damaged


def test_code_is_the_mel_spectrogram_in_db(folder):
    coded = code(folder, 4, denoise=False)
    y = soundfile.read(folder / "rock" / "a.flac")[0]
    expected = Music.code_from_mel(Music.mel_spectrogram(y))
    assert_allclose(coded.codes[1], expected, atol=1e-3)


def test_noise_is_removed_from_codes(tmp_path):
    y = tune(8.0)
    noisy = Music.add_pink_noise(y, 10, 0)
    write(tmp_path / "a.wav", noisy, subtype="FLOAT")
    truth = Music.code_from_mel(Music.mel_spectrogram(y))
    error = {}
    for denoise in (False, True):
        coded = code(tmp_path, 8, denoise=denoise)
        error[denoise] = np.mean((coded.codes[0] - truth) ** 2)
    assert error[True] < 0.5 * error[False]


@pytest.fixture
def noisy(tmp_path):
    """Six tunes in noise that is found and removed."""
    for seed in range(6):
        y = Music.add_pink_noise(tune(4.0, seed=seed), 10, seed)
        write(tmp_path / f"{seed}.flac", y)
    return tmp_path


@pytest.mark.slow
def test_codes_do_not_depend_on_n_jobs_or_backend(noisy):
    one = code(noisy, 4, cache=noisy / ".one")
    two = Music.get_musics_coded(noisy, 4, n_jobs=2, cache=noisy / ".two")
    with joblib.parallel_config(backend="threading", n_jobs=3):
        threads = Music.get_musics_coded(noisy, 4, cache=noisy / ".threads")
    bare = code(noisy, 4, denoise=False, cache=noisy / ".bare")
    for other in (two, threads):
        assert_array_equal(one.codes, other.codes)
        assert one.paths == other.paths
    assert len(one.codes) == 6
    for with_gain, without in zip(one.codes.astype(float), bare.codes):
        change = np.abs(with_gain - without)
        assert change.mean() > 0.05    # the gain was at work


@pytest.mark.parametrize("suffix, options", [
    (".mp3", {"format": "MP3"}), (".ogg", {"format": "OGG", "subtype": "VORBIS"}),
    (".opus", {"format": "OGG", "subtype": "OPUS"}), (".flac", {}), (".wav", {})])
def test_every_format_is_read_at_any_rate_in_stereo(tmp_path, suffix, options):
    sr = 48000
    y = tune(3.2, sr)
    stereo = np.stack([y, y], 1)
    write(tmp_path / f"a{suffix}", stereo, sr, **options)
    codes = code(tmp_path, 3, denoise=False).codes
    assert len(codes) == 1
    y = soxr.resample(y, sr, Music.SR)
    mel = Music.mel_spectrogram(y[:3 * Music.SR])
    expected = Music.code_from_mel(mel)
    found_db = Music.db_from_code(codes[0])
    expected_db = Music.db_from_code(expected)
    heard = expected > 0.2    # lossy formats drop what is quieter
    error = found_db[heard] - expected_db[heard]
    assert np.sqrt(np.mean(error ** 2)) < 3


@pytest.mark.parametrize("length, clips", [(3.4, 1), (3.5, 2), (4.0, 2), (1.6, 1), (1.4, 0)])
def test_remainders_are_padded_or_dropped(tmp_path, length, clips):
    write(tmp_path / "a.wav", tune(length))
    coded = code(tmp_path, 2)
    assert len(coded.codes) == clips
    assert bool(coded.skipped) == (clips == 0)


def test_bad_files_are_skipped_with_a_reason_and_the_run_goes_on(folder):
    (folder / "empty.mp3").touch()
    (folder / "text.mp3").write_text("no music here " * 100)
    (folder / "cover.jpg").write_bytes(b"\xff\xd8")
    n = 3 * Music.SR
    write(folder / "short.wav", tune(0.5))
    write(folder / "silent.wav", np.zeros(n))
    write(folder / "nan.wav", np.full(n, np.nan), subtype="FLOAT")
    coded = code(folder, 2)
    assert len(coded.codes) == 4
    expected = {"empty.mp3": "empty", "text.mp3": "not audio", "cover.jpg": "not audio",
                "short.wav": "too short", "silent.wav": "silent", "nan.wav": "not finite"}
    assert {path.name for path in coded.skipped} == set(expected)
    for path, reason in coded.skipped.items():
        assert expected[path.name] in reason


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
def test_a_cut_file_keeps_its_whole_clips(tmp_path, suffix):
    whole = tmp_path / f"a{suffix}"
    write(whole, tune(12.0))
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[:len(data) // 2])
    coded = code(tmp_path, 3)
    clips = Counter(coded.paths)
    assert clips[whole] == 4
    assert 1 <= clips[cut] <= 2


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


def recorded(patch):
    """Record the arguments of each file that is really coded."""
    real, work = Music.code_clips, []

    def code_clips(*arguments):
        work.append(arguments)
        return real(*arguments)

    patch.setattr(Music, "code_clips", code_clips)
    return work


def test_results_are_reused_and_a_changed_file_is_coded_again(folder, monkeypatch):
    first = np.array(code(folder, 2).codes)
    work = recorded(monkeypatch)
    again = code(folder, 2).codes
    assert_array_equal(again, first)
    assert not work
    write(folder / "rock" / "a.flac", tune(4.0, seed=5))
    second = code(folder, 2).codes
    assert [path.parent.name for path, *_ in work] == ["rock"]
    assert_array_equal(second[:2], first[:2])
    assert not np.array_equal(second[2:], first[2:])


def test_a_run_that_was_stopped_goes_on(folder, monkeypatch):
    expected = np.array(code(folder, 2).codes)
    shutil.rmtree(folder / ".codes")
    real = Music.code_clips
    work = []

    def stops(path, *rest):
        if path.parent.name == "rock" and len(work) < 2:
            work.append("killed")
            raise KeyboardInterrupt
        work.append(path.parent.name)
        return real(path, *rest)

    monkeypatch.setattr(Music, "code_clips", stops)
    with pytest.raises(KeyboardInterrupt):
        code(folder, 2)
    coded = code(folder, 2)
    assert_array_equal(coded.codes, expected)
    assert work == ["jazz", "killed", "rock"]
    assert not list(folder.rglob("*.part*"))


SLOW_CODING = """
import sys, time, Music
real = Music.code_clips
Music.code_clips = lambda *arguments: time.sleep(float(sys.argv[2])) or real(*arguments)
Music.get_musics_coded(sys.argv[1], 1, n_jobs=1)
"""


def other_process(folder, sleep):
    """Code a folder in a process of its own that sleeps before each file."""
    command = [sys.executable, "-c", SLOW_CODING, str(folder), str(sleep)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def stored(folder):
    """When each file's codes were written."""
    stores = folder.glob(".codes/*/[!.]*.npz")
    return {path: path.stat().st_mtime_ns for path in stores}


@pytest.fixture
def many(tmp_path):
    for seed in range(8):
        write(tmp_path / f"{seed}.flac", tune(2.0, seed=seed))
    return tmp_path


@pytest.mark.slow
def test_a_killed_process_loses_at_most_the_file_at_hand(many):
    process = other_process(many, 0.2)
    while len(stored(many)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    before = stored(many)
    assert 3 <= len(before) < 8
    coded = code(many, 1)
    assert len(stored(many)) == 8 and before.items() <= stored(many).items()
    fresh = code(many, 1, cache=many / ".fresh")
    assert_array_equal(coded.codes, fresh.codes)


@pytest.mark.slow
def test_two_processes_on_one_folder_give_the_same_codes(many):
    first, second = other_process(many, 0.05), other_process(many, 0.05)
    for process in (first, second):
        _, said = process.communicate()
        assert process.returncode == 0 and "Error" not in said
    written = stored(many)
    coded = code(many, 1)
    fresh = code(many, 1, cache=many / ".fresh")
    assert_array_equal(coded.codes, fresh.codes)
    assert stored(many) == written and not list(many.rglob("*.part*"))


CALLS = st.tuples(st.sampled_from([1, 2.0]), st.sampled_from([40, 128]), st.booleans(),
                  st.sampled_from([7, 8]))


@given(st.lists(CALLS, min_size=1, max_size=5))
@settings(max_examples=12, deadline=None)
def test_only_what_changed_is_coded_again(calls):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        write(Path(folder) / "a.wav", tune(2.0))
        work = recorded(patch)
        for seconds, n_mels, denoise, code_version in calls:
            patch.setattr(Music, "CODE_VERSION", code_version)
            codes = code(folder, seconds, n_mels, denoise).codes
            assert codes.shape[:2] == (2 // seconds, n_mels)
            del codes    # an open file cannot be removed on every system
    assert len(work) == len(set(calls))


@given(st.integers(1, 60_000), st.floats(0.02, 1.5), st.integers(500, 40_000))
@settings(max_examples=40, deadline=None)
def test_clips_are_the_file_cut_up_whatever_the_blocks(length, seconds, block):
    rng = np.random.default_rng(length)
    y = rng.uniform(-1, 1, length).astype(np.float32)
    n = round(seconds * Music.SR)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Music, "BLOCK", block)
        path = Path(folder) / "a.wav"
        write(path, y, subtype="FLOAT")
        clips = list(Music.audio_clips(path, seconds))
    count, rest = divmod(length, n)
    missing = n - rest
    if rest and missing <= Music.PAD_SECONDS * Music.SR:
        count += 1
    assert len(clips) == count
    padded = np.pad(y, (0, n))
    expected = padded[:count * n].reshape(count, n)
    assert_array_equal(np.reshape(clips, (count, n)), expected)


def test_mp3_read_in_blocks_is_mp3_read_at_once(tmp_path, monkeypatch):
    write(tmp_path / "a.mp3", tune(4.0), format="MP3")
    monkeypatch.setattr(Music, "BLOCK", 1000)
    blocks = np.concatenate(list(Music.decode_blocks(tmp_path / "a.mp3", Music.SR)))
    at_once, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    assert_allclose(blocks, at_once, atol=1e-6)   # seeking makes errors of 0.2


def test_limit_takes_from_every_genre(folder):
    for genre in ("jazz", "rock"):
        shutil.copy(folder / genre / "a.flac", folder / genre / "b.flac")
    coded = code(folder, 4, limit=2)
    assert coded.labels == ["jazz", "rock"]
    assert len(code(folder, 2, limit=3).codes) == 3
    coded = Music.get_musics_coded(folder, 2, limit=4, n_jobs=2)
    assert coded.labels == ["jazz", "jazz", "rock", "rock"]


def test_codes_are_memory_mapped_half_floats(folder):
    codes = code(folder, 2).codes
    assert isinstance(codes, np.memmap) and codes.dtype == np.float16
    assert not codes.flags.writeable
