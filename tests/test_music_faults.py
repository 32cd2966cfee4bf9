"""Files, folders and systems that fail: nothing is lost, left out or remembered in silence."""

import contextlib
import errno
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.testing import assert_allclose, assert_array_equal

import Music
from helpers import ROOT, memory_peak, tune


def code(folder, seconds=2, **options):
    return Music.get_musics_coded(folder, seconds, denoise=False, n_jobs=1, **options)


def sound(path, seconds=4.0, seed=0, **options):
    """Write a tune; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sr = 48000 if path.suffix == ".opus" else Music.SR
    soundfile.write(path, tune(seconds, sr, seed), sr, **options)
    return path


OPUS = {"format": "OGG", "subtype": "OPUS"}
FRAMES = {".mp3": {}, ".ogg": {}, ".opus": OPUS, ".flac": {}}


# ---------------------------------------------------------------- audio ends before the file does


def without_length(mp3):
    """Drop the first frame, which holds the length, of an MP3's bytes."""
    sync = mp3[:2]
    second = mp3.index(sync, 100)
    return mp3[second:]


def test_an_mp3_without_its_length_is_read_to_its_end(tmp_path, rng):
    sr = 44100
    y = tune(13.0, sr)
    y[:sr] = rng.uniform(-0.9, 0.9, sr)   # makes the rest seem short
    whole, bare = tmp_path / "a.mp3", tmp_path / "b.mp3"
    soundfile.write(whole, y, sr, bitrate_mode="VARIABLE", compression_level=0.5)
    bare.write_bytes(without_length(whole.read_bytes()))
    coded = code(tmp_path)
    assert coded.paths == [whole] * 6 + [bare] * 6
    first, second = np.array_split(coded.codes.astype(float), 2)
    change = np.abs(first[1:] - second[1:])    # 52 ms later
    assert change.mean() < 0.3
    assert not coded.damaged


@pytest.mark.parametrize("suffix", FRAMES)
def test_sounds_behind_one_another_in_a_file_are_all_read(tmp_path, suffix):
    first = sound(tmp_path / f"a{suffix}", seed=1, **FRAMES[suffix])
    second = sound(tmp_path / f"b{suffix}", seed=2, **FRAMES[suffix])
    both = tmp_path / f"c{suffix}"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    coded = code(tmp_path)
    assert coded.paths == [first] * 2 + [second] * 2 + [both] * 4
    apart, together = np.array_split(coded.codes, 2)
    assert_array_equal(apart, together)
    assert not coded.damaged


def with_length(path, samples):
    """Change the length that the header of a FLAC or WAV file gives."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".flac":
        data[22:26] = samples.to_bytes(4, "big")
    else:
        at = data.index(b"data") + 4
        data[at:at + 4] = (2 * samples).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
@pytest.mark.parametrize("seconds", [0, 3, 100])
def test_a_wrong_length_in_the_header_loses_nothing_in_silence(tmp_path, suffix, seconds):
    path = sound(tmp_path / f"a{suffix}", 10.0)
    with_length(path, seconds * Music.SR)
    coded = code(tmp_path)
    said = str(coded.damaged | coded.skipped)
    assert len(coded.codes) == 5 or "bytes stand behind the end" in said
    assert (seconds == 3) <= bool(coded.damaged)
    if (suffix, seconds) == (".flac", 100):
        assert "ends after 10.0 s, 90.0 s before" in said


def test_a_file_that_was_cut_says_how_much_is_missing(tmp_path):
    path = sound(tmp_path / "a.mp3", 12.0)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    coded = code(tmp_path)
    assert 2 <= len(coded.codes) <= 3
    assert "before the end that its header gives" in coded.damaged[path]


TAILS = [b"TAG" + b"x" * 125, b"APETAGEX" + b"x" * 5000, bytes(50_000)]


@pytest.mark.parametrize("tail", TAILS, ids=["ID3", "APE", "zeros"])
@pytest.mark.parametrize("suffix", FRAMES)
def test_tags_and_zeros_behind_the_sound_need_no_word(tmp_path, suffix, tail):
    path = sound(tmp_path / f"a{suffix}", **FRAMES[suffix])
    tagged = tmp_path / f"b{suffix}"
    tagged.write_bytes(path.read_bytes() + tail)
    coded = code(tmp_path)
    assert not coded.damaged
    assert not coded.skipped
    assert coded.paths == [path] * 2 + [tagged] * 2
    first, second = np.array_split(coded.codes, 2)
    assert_array_equal(first, second)


def test_further_chunks_of_a_wav_file_need_no_word(tmp_path):
    path = sound(tmp_path / "a.wav")
    with path.open("ab") as file:
        file.write(b"id3 " + (9000).to_bytes(4, "little") + b"x" * 9000)
    coded = code(tmp_path)
    assert len(coded.codes) == 2 and not coded.damaged


# ---------------------------------------------------------------- files that nobody mentions


def test_a_genre_on_another_drive_is_coded_under_its_link(folder, tmp_path):
    sound(tmp_path / "drive" / "b.flac")
    (folder / "blues").symlink_to(tmp_path / "drive")
    coded = code(folder)
    assert coded.labels == ["blues"] * 2 + ["jazz"] * 2 + ["rock"] * 2
    assert coded.paths[0] == folder / "blues" / "b.flac"


def test_links_to_what_is_coded_already_are_named(folder):
    (folder / "jazz" / "loop").symlink_to(folder)
    (folder / "again").symlink_to(folder / "rock")
    coded = code(folder)
    assert coded.labels == ["jazz"] * 2 + ["rock"] * 2
    assert set(coded.skipped) == {folder / "again", folder / "jazz" / "loop"}
    assert all("listed already" in reason for reason in coded.skipped.values())


def test_broken_links_and_other_things_are_named(folder):
    (folder / "gone.mp3").symlink_to(folder / "nowhere.mp3")
    (folder / "self").symlink_to("self")
    os.mkfifo(folder / "pipe.wav")
    reasons = code(folder).skipped
    assert "broken link" in reasons[folder / "gone.mp3"]
    assert "broken link" in reasons[folder / "self"]
    assert "neither" in reasons[folder / "pipe.wav"]


def test_a_folder_without_permission_is_named(folder, monkeypatch):
    real = os.listdir

    def listdir(path):
        if Path(path).name == "rock":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    coded = code(folder)
    assert coded.labels == ["jazz"] * 2
    assert "Permission denied" in coded.skipped[folder / "rock"]
    shutil.rmtree(folder / "jazz")
    with pytest.raises(ValueError, match=r"no audio.*rock.*Permission denied"):
        code(folder)


def test_everything_below_the_folder_is_coded_or_named(folder, tmp_path):
    sound(tmp_path / "drive" / "deep" / "er" / "b.ogg")
    (folder / "link").symlink_to(tmp_path / "drive")
    (folder / "link" / "back").symlink_to(folder)
    (folder / "notes.txt").write_text("x")
    (folder / "empty.wav").touch()
    (folder / ".hidden.wav").touch()
    coded = code(folder)
    named = {path.name for path in (*coded.paths, *coded.skipped)}
    assert named == {"a.flac", "b.ogg", "back", "notes.txt", "empty.wav"}


def test_stored_codes_inside_the_folder_are_not_named(folder):
    code(folder, cache=folder / "codes")
    assert not code(folder, cache=folder / "codes").skipped


# ---------------------------------------------------------------- a passing failure


@pytest.mark.parametrize("failure", [MemoryError, PermissionError, OSError, RuntimeError])
def test_a_passing_failure_is_not_remembered(folder, monkeypatch, failure):
    real = Music.decode_blocks

    def fails(path, sr):
        with contextlib.closing(real(path, sr)) as blocks:
            yield next(blocks)
            if path.parent.name == "rock":
                raise failure("the system's fault")
            yield from blocks

    with monkeypatch.context() as patch:
        patch.setattr(Music, "decode_blocks", fails)
        coded = code(folder)
    assert coded.labels == ["jazz"] * 2
    assert failure.__name__ in coded.skipped[folder / "rock" / "a.flac"]
    coded = code(folder)
    assert coded.labels == ["jazz"] * 2 + ["rock"] * 2 and not coded.skipped


class FailingDrive:
    """A file whose drive fails after some bytes."""

    def __init__(self, path, mode, buffering):
        self.file = Path(path).open(mode, buffering)   # noqa: SIM115
        self.read = self.file.read
        self.seek = self.file.seek
        self.tell = self.file.tell
        self.left = 20_000

    def readinto(self, buffer):
        self.left -= len(buffer)
        if self.left < 0:
            raise OSError(errno.EIO, "Input/output error")
        return self.file.readinto(buffer)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


@pytest.mark.parametrize("suffix", FRAMES)
def test_a_drive_that_fails_is_not_the_end_of_a_file(tmp_path, monkeypatch, suffix):
    path = sound(tmp_path / f"a{suffix}", 12.0, **FRAMES[suffix])
    monkeypatch.setattr(Music, "open", FailingDrive, raising=False)
    monkeypatch.setattr(Music, "DESCRIPTORS", False)
    with pytest.raises(OSError, match="Input/output"):
        list(Music.audio_clips(path, 2))


@pytest.mark.parametrize("number, kind", [(2, OSError), (17, MemoryError)])
def test_the_decoder_tells_failures_of_the_system(tmp_path, monkeypatch, number, kind):
    path = sound(tmp_path / "a.mp3")

    def read(*arguments, **options):
        raise soundfile.LibsndfileError(number)

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    with pytest.raises(kind):
        list(Music.audio_clips(path, 2))


@pytest.mark.parametrize("suffix", FRAMES)
def test_a_file_without_descriptor_gives_the_same(tmp_path, monkeypatch, suffix):
    path = sound(tmp_path / f"a{suffix}", **FRAMES[suffix])
    expected = list(Music.audio_clips(path, 2))
    monkeypatch.setattr(Music, "DESCRIPTORS", False)
    assert_array_equal(list(Music.audio_clips(path, 2)), expected)


def test_an_interrupt_while_decoding_is_not_the_end_of_a_file(tmp_path, monkeypatch):
    path = sound(tmp_path / "a.mp3", 12.0)
    real = Music._Part.readinto

    def interrupted(self, buffer):
        signal.raise_signal(signal.SIGINT)
        return real(self, buffer)

    monkeypatch.setattr(Music._Part, "readinto", interrupted)
    monkeypatch.setattr(Music, "DESCRIPTORS", False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)   # in the background: ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            list(Music.audio_clips(path, 2))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_verdicts_last_but_not_beyond_the_decoder(folder, monkeypatch):
    (folder / "text.mp3").write_text("no music here " * 100)
    work = []
    real = Music.code_clips
    monkeypatch.setattr(Music, "code_clips", lambda path, *a: work.append(path) or real(path, *a))
    assert "not audio" in code(folder).skipped[folder / "text.mp3"]
    code(folder)
    assert len(work) == 3
    monkeypatch.setattr(soundfile, "__libsndfile_version__", "9.9")
    code(folder)
    assert len(work) == 6


def test_codes_are_made_again_with_other_weights(folder, tmp_path, monkeypatch):
    first = Music.get_musics_coded(folder, 2, n_jobs=1)
    monkeypatch.setattr(Music, "WEIGHTS", tmp_path / "missing.npz")
    second = Music.get_musics_coded(folder, 2, n_jobs=1)
    assert Path(first.codes.filename).parent != Path(second.codes.filename).parent


# ---------------------------------------------------------------- neighbours


def test_a_sidecar_beside_a_good_file_changes_nothing(tmp_path):
    path = sound(tmp_path / "a.mp3")
    expected = np.array(code(tmp_path, cache=tmp_path / ".before").codes)
    sidecar = b"\0\5\x16\7\0\2\0\0Mac OS X        \0\2\0\0\0\x09\0\0\0\x32\0\0\0\xb0"
    (tmp_path / "._a.mp3").write_bytes(sidecar + bytes(200))
    assert not path.read_bytes().startswith(b"ID3")
    coded = code(tmp_path)
    assert not coded.skipped
    assert_array_equal(coded.codes, expected)
    assert Music.clip_info(path) == {}
    assert Music.clip_info(tmp_path / "none.mp3") == {}


# ---------------------------------------------------------------- messages with a remedy


def test_a_cache_that_cannot_be_written_names_the_way_out(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"argument cache.*file"):
        code(folder, cache=tmp_path / "file" / "codes")


def test_a_full_disk_names_path_and_way_out(folder, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left.*argument cache.*\.codes") as caught:
        code(folder)
    assert caught.value.errno == errno.ENOSPC
    assert not list(folder.rglob("*.part*"))


def test_channels_that_cancel_are_coded_by_the_first(tmp_path):
    y = tune(4.0)
    inverted = np.stack([y, -y], 1)
    soundfile.write(tmp_path / "a.wav", y, Music.SR)
    soundfile.write(tmp_path / "b.wav", inverted, Music.SR)
    soundfile.write(tmp_path / "c.mp3", inverted, Music.SR)
    coded = code(tmp_path)
    names = [path.stem for path in coded.paths]
    assert names == list("aabbcc")
    one, exact, lossy = np.array_split(coded.codes.astype(float), 3)
    assert_array_equal(one, exact)
    heard = one > 0.3
    assert_allclose(one[heard], lossy[heard], atol=0.2)


def test_ordinary_stereo_is_the_mean_of_its_channels(tmp_path, rng):
    y = np.stack([tune(4.0, seed=1), tune(4.0, seed=2)], 1)
    soundfile.write(tmp_path / "a.wav", y, Music.SR, subtype="FLOAT")
    clip, = Music.audio_clips(tmp_path / "a.wav", 4)
    assert_allclose(clip, y.mean(1), atol=1e-7)


@pytest.fixture
def published(tmp_path):
    """FMA as published: folders of numbers."""
    for name in ("000/000002", "000/000005", "012/012345"):
        sound(tmp_path / "fma_small" / f"{name}.mp3", 2.0)
    return tmp_path / "fma_small"


def write_metadata(path):
    tracks = (",set,track\n,subset,genre_top\ntrack_id,,\n"
              "2,small,Hip-Hop\n5,small,Rock\n12345,small,Old-Time / Historic\n")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fma_metadata/tracks.csv", tracks)


@pytest.mark.parametrize("folder, place", [("fma_small", "fma_small"), ("fma_small", "."),
                                           (".", ".")])
def test_tracks_of_fma_as_published_get_their_genres(published, folder, place):
    write_metadata(published.parent / place / "fma_metadata.zip")
    coded = code(published.parent / folder)
    assert coded.labels == ["Hip-Hop", "Rock", "Old-Time_Historic"]


def test_tracks_of_fma_without_metadata_are_warned_of(published):
    with pytest.warns(UserWarning, match=r"fma_metadata\.zip.*download_fma_small"):
        assert code(published).labels == ["000", "000", "012"]


def test_tracks_that_the_metadata_lacks_are_warned_of(published):
    write_metadata(published / "fma_metadata.zip")
    sound(published / "012" / "012999.mp3", 2.0)
    with pytest.warns(UserWarning, match=r"no genre of 1 tracks.*012999"):
        assert code(published).labels[-1] == "unknown"


def test_own_folders_keep_their_names_whatever_the_files_are_called(tmp_path, recwarn):
    sound(tmp_path / "jazz" / "000002.mp3", 2.0)
    sound(tmp_path / "000" / "tune.mp3", 2.0)
    assert code(tmp_path).labels == ["000", "jazz"] and not recwarn.list


def test_the_folder_at_hand_has_a_name(tmp_path, monkeypatch):
    sound(tmp_path / "a.wav", 2.0)
    monkeypatch.chdir(tmp_path)
    assert code(".").labels == [tmp_path.name]


@pytest.mark.parametrize("wrong, error", [
    ({"seconds": "30"}, TypeError), ({"seconds": None}, TypeError), ({"n_mels": 64.0}, TypeError),
    ({"limit": 2.5}, TypeError), ({"denoise": "no"}, TypeError),
    ({"seconds": float("nan")}, ValueError), ({"seconds": float("inf")}, ValueError),
    ({"seconds": 1e-6}, ValueError)])
def test_arguments_of_another_kind_are_named(folder, wrong, error):
    with pytest.raises(error, match=next(iter(wrong))):
        Music.get_musics_coded(folder, **wrong)


# ---------------------------------------------------------------- what stays on disk


def arrays(folder):
    return list(folder.glob(".codes/*/all-*.npy"))


def test_a_growing_folder_keeps_one_array_and_harms_none_in_use(tmp_path):
    earlier = []
    for i in range(5):
        sound(tmp_path / f"{i}.flac", 2.0, seed=i)
        earlier.append(code(tmp_path).codes)
        assert len(arrays(tmp_path)) == 1
    for i, codes in enumerate(earlier):
        assert_array_equal(codes, earlier[-1][:i + 1])
    code(tmp_path, limit=2)
    assert len(code(tmp_path).codes) == 5 and len(arrays(tmp_path)) == 2


def test_leftovers_of_killed_processes_go_and_files_at_work_stay(folder):
    code(folder)
    store = arrays(folder)[0].parent
    old, fresh = store / ".a.part.npz", store / ".b.part.npy"
    for part in (old, fresh):
        part.touch()
    long_ago = time.time() - 2 * Music.LEFTOVER_AGE
    os.utime(old, (long_ago, long_ago))
    code(folder)
    assert not old.exists() and fresh.exists()


def test_a_finished_folder_opens_without_its_stores(folder, monkeypatch):
    (folder / "empty.wav").touch()
    first = code(folder)
    monkeypatch.setattr(Music, "_read_store", lambda job: pytest.fail("opened"))
    again = code(folder)
    assert_array_equal(first.codes, again.codes)
    assert first[1:] == again[1:]


@pytest.mark.parametrize("damage", ["lost", "cut", "index"])
def test_what_was_lost_from_the_cache_is_made_again(folder, damage):
    expected = np.array(code(folder).codes)
    for path in arrays(folder):
        path.unlink()
    if damage == "index":
        next(folder.glob(".codes/*/index.json")).write_text("{")
    for store in folder.glob(".codes/*/*.npz"):
        if damage == "lost":
            store.unlink()
        elif damage == "cut":
            store.write_bytes(b"PK")
    assert_array_equal(code(folder).codes, expected)


def test_starts_lead_to_the_exact_clip(tmp_path):
    y = tune(8.0)
    y[4 * Music.SR:6 * Music.SR] = 0    # the third clip is silent and left out
    soundfile.write(tmp_path / "a.wav", y, Music.SR)
    coded = code(tmp_path)
    assert coded.starts == [0, 2, 6]
    number = round(coded.starts[2] / 2)
    clip = next(itertools.islice(Music.audio_clips(coded.paths[2], 2), number, None))
    expected = Music.code_from_mel(Music.mel_spectrogram(clip))
    assert_allclose(coded.codes[2], expected, atol=1e-3)


# ---------------------------------------------------------------- headers and stores that lie

def pcm_header(rate, channels, samples=b"\x01\x20" * 400_000):
    """The bytes of a WAV whose header gives a rate [Hz] and channels."""
    block = 2 * channels
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2 ** 32, block % 2 ** 16, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("rate, channels, words", [
    (1, 1, "a rate of 1 Hz"),
    (999, 1, "a rate of 999 Hz"),
    (2_000_000, 1, "2,000,000 Hz"),
    (22050, 65, "65 channels"),
])
def test_what_only_a_damaged_header_gives_is_refused(tmp_path, rate, channels, words):
    good = sound(tmp_path / "good.wav")
    wrong = tmp_path / "wrong.wav"
    wrong.write_bytes(pcm_header(rate, channels))
    coded = code(tmp_path)
    assert set(coded.paths) == {good}
    assert words in coded.skipped[wrong]


def test_65535_channels_take_no_memory(tmp_path):
    sound(tmp_path / "good.wav")
    wrong = tmp_path / "wrong.wav"
    wrong.write_bytes(pcm_header(44100, 65535))
    with memory_peak() as traced:
        coded = code(tmp_path)
    assert wrong in coded.skipped
    assert traced.peak < 200e6


def decoded(path):
    """All sound of a file, mono, at the rate of codes."""
    return np.concatenate(list(Music.decode_blocks(path, Music.SR)))


@pytest.mark.parametrize("rate, channels", [(1000, 1), (8000, 1), (192000, 2), (44100, 64)])
def test_unusual_rates_and_channels_are_read(tmp_path, rate, channels):
    silence = np.zeros((2 * rate, channels))
    silence[:, 0] = tune(2.0, rate)[:2 * rate]
    soundfile.write(tmp_path / "a.wav", silence, rate)
    assert abs(len(decoded(tmp_path / "a.wav")) - 2 * Music.SR) < 10


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
@pytest.mark.parametrize("then", [(22050, 2), (44100, 1), (48000, 2)])
def test_a_file_whose_rate_or_channels_change_is_read_to_its_end(tmp_path, suffix, then):
    parts = []
    for seed, (rate, channels) in enumerate([(44100, 2), then]):
        part = tmp_path / f"part{seed}{suffix}"
        soundfile.write(part, np.stack([tune(3.0, rate, seed)] * channels, 1), rate)
        parts.append(part)
    path = tmp_path / f"whole{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = np.concatenate([decoded(part) for part in parts])
    assert abs(len(expected) / Music.SR - 6) < 0.2
    assert_array_equal(decoded(path), expected)


@pytest.mark.parametrize("then", [(22050, 2), (44100, 1), (48000, 2)])
def test_an_mp3_that_changes_without_a_header_says_what_is_lost(tmp_path, then):
    whole = b""
    for rate, channels in ((44100, 2), then):
        part = tmp_path / "part.mp3"
        soundfile.write(part, np.stack([tune(3.0, rate)] * channels, 1), rate)
        whole += without_length(part.read_bytes())
    part.unlink()
    path = tmp_path / "whole.mp3"
    path.write_bytes(whole)
    coded = code(tmp_path, 1)
    assert len(coded.codes) == 3
    assert "bytes stand behind the end" in coded.damaged[path]


def test_the_hours_of_all_sounds_in_a_file_are_counted(tmp_path, monkeypatch):
    part = sound(tmp_path / "part.ogg", 2.0)
    expected = decoded(part)
    path = tmp_path / "whole.ogg"
    path.write_bytes(3 * part.read_bytes())
    part.unlink()
    monkeypatch.setattr(Music, "MAX_HOURS", 3 / 3600)
    coded = code(tmp_path, 1)
    assert coded.starts == [0, 1, 2]
    assert "holds more than" in coded.damaged[path]
    monkeypatch.setattr(Music, "MAX_HOURS", 3 * len(expected) / Music.SR / 3600)
    assert len(decoded(path)) == 3 * len(expected)


@pytest.mark.filterwarnings("ignore:Empty filters")   # of librosa, for 512 bands
@pytest.mark.slow
def test_an_hour_takes_little_more_memory_than_its_codes(tmp_path):
    minute = np.full(60 * Music.SR, 0.25)    # takes a few kilobytes
    with soundfile.SoundFile(tmp_path / "a.flac", "w", Music.SR, 1) as file:
        for _ in range(60):
            file.write(minute)
    with memory_peak() as traced:
        codes = code(tmp_path, 30, n_mels=512).codes
    assert len(codes) == 120
    assert traced.peak < 1.8 * codes.nbytes    # two copies would be more


def flipped(path, byte, bit=0x10):
    """Turn over a bit of a file, counted from its end where `byte` is negative."""
    data = bytearray(path.read_bytes())
    data[byte] ^= bit
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flipped", "cut", "cut to its header", "empty", "no checksum"])
def test_a_damaged_array_of_codes_is_made_again(folder, damage):
    good = np.array(code(folder).codes)
    array, = (folder / ".codes").rglob("all-*.npy")
    if damage == "flipped":
        flipped(array, -1001)
    elif damage == "no checksum":
        Music._beside(array).unlink()
    else:
        kept = {"cut": -2, "cut to its header": 128, "empty": 0}[damage]
        array.write_bytes(array.read_bytes()[:kept])
    again = code(folder)
    assert_array_equal(again.codes, good)
    assert not again.skipped


def test_a_pickle_in_place_of_the_array_is_not_opened(folder):
    good = np.array(code(folder).codes)
    array, = (folder / ".codes").rglob("all-*.npy")
    np.save(array, np.array([{"any": "object"}], dtype=object))
    Music._beside(array).write_text(Music._checksum(array))
    assert_array_equal(code(folder).codes, good)


@pytest.mark.parametrize("written, read", [("2.0", "3.0"), ("2.0", "2,0")])
def test_an_index_with_a_flipped_bit_is_not_believed(folder, written, read):
    good = code(folder)
    expected = np.array(good.codes)
    index, = (folder / ".codes").rglob(Music.INDEX)
    text = index.read_text()
    assert written in text
    index.write_text(text.replace(written, read, 1))
    again = code(folder)
    assert again[1:] == good[1:]
    assert_array_equal(again.codes, expected)


def fails(part, text, number):
    """Write half of what was asked for, as a full disk does, and raise."""
    Path(part).write_bytes(text)
    raise OSError(number, os.strerror(number), str(part))


def fail_at(stage, number, patch):
    """Let writing fail where codes are stored."""
    def failing(part, *rest, **options):
        fails(part, b"PK", number)

    def failing_header(file, header):
        fails(file.name, b"\x93NUMPY", number)

    def failing_move(part, target):
        raise OSError(number, os.strerror(number), str(part), None, str(target))

    place, name, replacement = {
        "store": (np, "savez", failing),
        "array": (np.lib.format, "write_array_header_1_0", failing_header),
        "checksum": (Path, "write_text", failing),
        "move": (os, "replace", failing_move)}[stage]
    patch.setattr(place, name, replacement)


@pytest.mark.parametrize("stage", ["store", "array", "checksum", "move"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_nothing_half_written_is_taken_for_whole(folder, monkeypatch, stage, number):
    expected = np.array(code(folder, cache=folder.parent / "other").codes)
    with monkeypatch.context() as patch:
        fail_at(stage, number, patch)
        with pytest.raises(OSError, match=r"argument cache.*\.codes") as caught:
            code(folder)
        assert caught.value.errno == number
    assert not list(folder.rglob("*.part*"))
    assert_array_equal(code(folder).codes, expected)


def test_a_music_folder_that_is_read_only_names_the_way_out(folder, monkeypatch):
    def mkdir(path, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(OSError, match=r"Read-only.*argument cache.*\.codes"):
        code(folder)


def test_a_finished_folder_opens_though_nothing_can_be_written(folder, monkeypatch):
    expected = np.array(code(folder).codes)
    for stage in ("store", "array", "checksum", "move"):
        fail_at(stage, errno.EROFS, monkeypatch)
    assert_array_equal(code(folder).codes, expected)


def test_a_thousand_damaged_files_are_named_once(folder, rng, monkeypatch):
    starts = {".mp3": b"\xff\xfb\x90\x00", ".ogg": b"OggS", ".flac": b"fLaC", ".wav": b"RIFF"}
    damaged = set()
    for number, (suffix, start) in zip(range(1000), itertools.cycle(starts.items())):
        path = folder / "rock" / f"{number}{suffix}"
        path.write_bytes(start + rng.bytes(200))
        damaged.add(path)
    coded = code(folder)
    assert coded.labels == ["jazz"] * 2 + ["rock"] * 2
    assert set(coded.skipped) == damaged
    assert all(coded.skipped.values())
    monkeypatch.setattr(Music, "_code_file", lambda job: pytest.fail("coded again"))
    assert code(folder).skipped == coded.skipped


@pytest.mark.slow
def test_a_store_with_any_bit_flipped_is_made_again_or_gives_the_same(tmp_path):
    path = sound(tmp_path / "a.wav")
    good = np.array(code(tmp_path).codes)
    store, = (tmp_path / ".codes").rglob("*.npz")
    whole = store.read_bytes()
    job = Music.Job(path, store, "", 2.0, Music.N_MELS, False)
    with np.load(store) as kept:
        job = job._replace(key=str(kept["key"]))
    for byte in [*range(0, 400, 3), *range(len(whole) - 700, len(whole), 3)]:
        store.write_bytes(whole)
        flipped(store, byte, 1 << byte % 8)
        found = Music._read_store(job)
        if found is not None:
            codes, result = found
            assert_array_equal(codes, good)
            assert result.starts == [0.0, 2.0]


def test_a_pickle_in_place_of_a_store_is_not_opened(tmp_path):
    path = sound(tmp_path / "a.wav")
    code(tmp_path)
    store, = (tmp_path / ".codes").rglob("*.npz")
    with np.load(store) as kept:
        key = str(kept["key"])
    np.savez(store, key=key, codes=np.array([{"any": "object"}], dtype=object), starts=[0.0],
             trouble="")
    job = Music.Job(path, store, key, 2.0, Music.N_MELS, False)
    assert Music._read_store(job) is None


WITHOUT_CACHE = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = [caching.UserProvidedCacheLocator]
import Music
coded = Music.get_musics_coded({folder!r}, seconds=2, n_jobs=1)
assert len(coded.codes) == 2 and not coded.skipped, coded.skipped
"""


@pytest.mark.slow
def test_files_are_coded_where_numba_may_write_nowhere(tmp_path):
    sound(tmp_path / "a.wav")
    script = WITHOUT_CACHE.format(folder=str(tmp_path))
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    variables["NUMBA_OPT"] = "0"     # compiles sooner
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=variables,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
