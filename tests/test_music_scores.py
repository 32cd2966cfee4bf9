"""Playing scores into audio."""

import errno
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from music21 import converter

import Music
from helpers import ROOT, tune

TUNES = {"repertoires": ("chinese", "german"), "seconds": 2, "n_jobs": 1}
CHINESE = TUNES | {"repertoires": ("chinese",)}
QUARTETS = {"repertoires": ("quartet",), "seconds": 5, "n_jobs": 1}


def paths(folder):
    """The audio files of a folder."""
    found, _ = Music.audio_files(folder)
    return found


def sounds(folder):
    """The waveform of each file."""
    found = {}
    for path in paths(folder):
        name = path.relative_to(folder).as_posix()
        found[name], _ = soundfile.read(path)
    return found


def file_bytes(folder):
    return {path.relative_to(folder): path.read_bytes() for path in paths(folder)}


def times_written(folder):
    return {path: path.stat().st_mtime_ns for path in paths(folder)}


def count_written(folder):
    """How many clips lie in the sub-folders, while they are being written."""
    clips = folder.rglob("*.flac")
    return len(list(clips))


def shares(folder):
    """How many clips each repertoire has."""
    return Counter(path.parent.name for path in paths(folder))


def known(folder):
    """What the call of a folder remembers of pieces."""
    text = (folder / ".pieces.json").read_text()
    return json.loads(text)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The clips of `scores` without noise."""
    folder = tmp_path_factory.mktemp("truth")
    return Music.render_scores(folder, 9, None, seconds=4, n_jobs=1)


@pytest.fixture
def parsed(monkeypatch):
    """What is parsed, in order: paths of scores, texts of tunes."""
    sources = []
    parse = converter.parse

    def noted(source, **options):
        sources.append(source)
        return parse(source, **options)

    monkeypatch.setattr(converter, "parse", noted)
    return sources


@pytest.fixture
def leave(monkeypatch):
    """Leave only some pieces of a repertoire."""
    whole = Music.list_pieces
    left = {}

    def list_pieces(repertoire):
        return left.get(repertoire) or whole(repertoire)

    def leave(label, some):
        repertoire = Music.REPERTOIRES[label]
        left[repertoire] = whole(repertoire)[some]

    monkeypatch.setattr(Music, "list_pieces", list_pieces)
    return leave


def test_every_repertoire_is_a_folder(scores):
    folders = {path.name for path in scores.iterdir() if path.is_dir()}
    assert folders == set(Music.REPERTOIRES)
    assert len(Music.REPERTOIRES) >= 8


def test_clips_have_the_promised_form(scores):
    for path in paths(scores):
        info = soundfile.info(path)
        assert info.samplerate == Music.SR
        assert info.channels == 1
        assert info.frames == 4 * Music.SR
        assert info.format == "FLAC"
        _, number = path.stem.rsplit("-", 1)
        assert number.isdigit()


def test_noisy_minus_clean_is_noise_at_the_stated_level(scores, truth):
    noisy = sounds(scores)
    clean = sounds(truth)
    assert noisy.keys() == clean.keys()
    for name, y in clean.items():
        noise = noisy[name] - y
        ratio = np.mean(y ** 2) / np.mean(noise ** 2)
        snr = 10 * np.log10(ratio)
        stated = Music.clip_info(scores / name)["snr_db"]
        assert snr == pytest.approx(stated, abs=0.1)
        assert 5 <= stated <= 20
        assert Music.clip_info(truth / name)["snr_db"] is None


def test_noisy_minus_clean_is_pink(scores, truth):
    noisy = sounds(scores)
    clean = sounds(truth)
    edges = 100 * 2 ** np.arange(0, 6.5, 0.5)   # Hz, half octaves
    for name, y in clean.items():
        spectrum = np.fft.rfft(noisy[name] - y)
        power = np.abs(spectrum) ** 2
        f = np.fft.rfftfreq(len(y), 1 / Music.SR)
        bands = np.digitize(f, edges)
        levels = []
        octaves = []
        for band in range(1, len(edges)):
            inside = bands == band
            levels.append(np.log2(power[inside].mean()))
            octaves.append(np.log2(f[inside].mean()))
        slope, _ = np.polyfit(octaves, levels, 1)
        assert slope == pytest.approx(-1, abs=0.15)


def test_same_seed_same_bytes_whatever_the_number_of_workers(scores, tmp_path):
    again = Music.render_scores(tmp_path, 9, seconds=4, n_jobs=2)
    assert file_bytes(again) == file_bytes(scores)


def test_another_seed_plays_other_pieces_in_place_of_the_first(tmp_path):
    first = set(paths(Music.render_scores(tmp_path, 6, **TUNES)))
    second = set(paths(Music.render_scores(tmp_path, 6, seed=1, **TUNES)))
    assert len(second) == 6
    assert second != first


def test_a_second_call_keeps_what_is_there(tmp_path):
    before = times_written(Music.render_scores(tmp_path, 2, **TUNES))
    after = times_written(Music.render_scores(tmp_path, 4, **TUNES))
    assert len(after) == 4
    assert before.items() <= after.items()


def test_fewer_clips_are_the_first_of_more(tmp_path):
    some = file_bytes(Music.render_scores(tmp_path / "some", 3, **TUNES))
    Music.render_scores(tmp_path / "more", 6, **TUNES)
    assert file_bytes(Music.render_scores(tmp_path / "more", 3, **TUNES)) == some


@pytest.mark.parametrize("other", [
    {"seconds": 3},
    {"snr_db": None},
    {"snr_db": (0, 3)},
    {"repertoires": ("german", "scottish")},
])
def test_clips_of_other_arguments_do_not_stay(tmp_path, other):
    options = TUNES | other
    Music.render_scores(tmp_path / "mixed", 4, **TUNES)
    mixed = Music.render_scores(tmp_path / "mixed", 4, **options)
    fresh = Music.render_scores(tmp_path / "fresh", 4, **options)
    assert file_bytes(mixed) == file_bytes(fresh)


def test_files_of_others_stay(tmp_path):
    (tmp_path / "german").mkdir()
    soundfile.write(tmp_path / "german" / "Artist - Title.flac", tune(2), Music.SR)
    rendered = paths(Music.render_scores(tmp_path, 4, **TUNES))
    clip = next(path for path in rendered if Music.clip_info(path))
    copy = clip.with_name("my copy-0.flac")
    copy.write_bytes(clip.read_bytes())
    left = paths(Music.render_scores(tmp_path, 4, seed=1, **TUNES))
    names = {path.name for path in left}
    assert {"Artist - Title.flac", "my copy-0.flac"} <= names
    assert len(left) == 6


def test_a_file_of_others_is_never_written_over(tmp_path):
    clip, *_ = paths(Music.render_scores(tmp_path, 1, **TUNES))
    soundfile.write(clip, tune(2), Music.SR)
    with pytest.raises(FileExistsError, match=clip.name):
        Music.render_scores(tmp_path, 1, **TUNES)


@pytest.mark.parametrize("comment", [
    "{}",
    "[]",
    "7",
    "so nice",
    "[" * 5000,
    '{"piece": "a", "clip": 0}',
])
def test_tags_of_others_say_nothing_of_clips(tmp_path, comment):
    path = tmp_path / "a-0.flac"
    with soundfile.SoundFile(path, "w", Music.SR, 1) as file:
        file.comment = comment
        file.write(tune(1))
    assert Music.clip_info(path) == {}


def test_no_tags_where_no_audio_is(tmp_path):
    path = tmp_path / "a-0.flac"
    path.write_bytes(b"fLaC")
    assert Music.clip_info(path) == {}
    assert Music.clip_info(tmp_path / "missing.flac") == {}


def test_unreadable_pieces_are_replaced_and_counted(tmp_path):
    Music.render_scores(tmp_path, 12, **CHINESE)
    text = (tmp_path / ".report.json").read_text()
    report = json.loads(text)["chinese"]
    replaced = report["replaced"].values()
    assert report["clips"] == 12
    assert sum(replaced) > 0


def test_unreadable_pieces_are_not_tried_again(tmp_path, parsed):
    Music.render_scores(tmp_path, 8, **CHINESE)
    assert len(parsed) > 8
    Music.render_scores(tmp_path, 12, **CHINESE)
    assert len(parsed) == len(set(parsed))


def test_pieces_that_are_over_are_not_tried_again(tmp_path, parsed, leave):
    leave("chorale", slice(2))
    chorales = {"repertoires": ("chorale",), "seconds": 20, "n_jobs": 1}
    for _ in range(2):
        with pytest.raises(ValueError, match="not 50"):
            Music.render_scores(tmp_path, 50, **chorales)
    assert len(parsed) == 2


def test_what_is_known_holds_for_one_length_of_clip(tmp_path):
    Music.render_scores(tmp_path, 2, **TUNES)
    longer = Music._Ledger(tmp_path, 30)
    assert known(tmp_path)["gives"]
    assert not longer.gives


def test_a_damaged_memory_is_made_again(tmp_path):
    before = file_bytes(Music.render_scores(tmp_path, 2, **TUNES))
    for damaged in ("", "[]", '{"key": 0}', "\x00"):
        (tmp_path / ".pieces.json").write_text(damaged)
        after = file_bytes(Music.render_scores(tmp_path, 2, **TUNES))
        assert after == before


@pytest.mark.parametrize("trouble", [MemoryError(), PermissionError(errno.EACCES, "no", "a.mxl")])
def test_troubles_of_the_machine_are_not_held_against_a_piece(tmp_path, monkeypatch, trouble):
    def fail(*args, **options):
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(converter, "parse", fail)
        with pytest.raises(type(trouble)):
            Music.render_scores(tmp_path, 1, **TUNES)
    assert known(tmp_path)["gives"] == {}
    assert known(tmp_path)["trouble"] == {}
    rendered = paths(Music.render_scores(tmp_path, 1, **TUNES))
    assert len(rendered) == 1


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"No space left.*-0\.flac"):
        Music.render_scores(tmp_path, 1, **TUNES)


@pytest.mark.slow
def test_a_killed_call_goes_on_where_it_was(tmp_path, parsed):
    killed = tmp_path / "killed"
    code = f"import Music; Music.render_scores({str(killed)!r}, 30, **{TUNES})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    while count_written(tmp_path) < 12 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() != 0
    before = times_written(killed)
    gone_on = Music.render_scores(killed, 30, **TUNES)
    after = times_written(gone_on)
    assert before.items() <= after.items()
    assert len(parsed) < 30
    fresh = Music.render_scores(tmp_path / "fresh", 30, **TUNES)
    assert file_bytes(gone_on) == file_bytes(fresh)


def test_what_was_learnt_before_a_stop_is_kept(tmp_path, monkeypatch, parsed):
    write = Music._write_clip

    def stop_at_fifth(rendering, clip, y):
        if count_written(tmp_path) == 4:
            raise KeyboardInterrupt
        write(rendering, clip, y)

    with monkeypatch.context() as patch:
        patch.setattr(Music, "_write_clip", stop_at_fifth)
        with pytest.raises(KeyboardInterrupt):
            Music.render_scores(tmp_path, 12, **TUNES)
    stopped_in = parsed.pop()
    Music.render_scores(tmp_path, 12, **TUNES)
    assert len(parsed) == len(set(parsed))
    assert stopped_in in parsed


def test_few_pieces_give_several_clips_each(tmp_path, leave):
    leave("quartet", slice(-2, None))
    played = sounds(Music.render_scores(tmp_path, 4, None, **QUARTETS))
    assert len(played) == 4
    pieces = {name.rsplit("-", 1)[0] for name in played}
    assert len(pieces) == 2
    first, second, *_ = sorted(played)
    assert not np.allclose(played[first], played[second])


def test_a_piece_is_parsed_once_for_all_its_clips(tmp_path, leave, parsed):
    leave("quartet", slice(-2, None))
    Music.render_scores(tmp_path, 6, None, **QUARTETS)
    assert len(parsed) == 2


def test_clips_of_one_parse_equal_those_of_several(tmp_path, leave):
    leave("quartet", slice(-1, None))
    at_once = Music.render_scores(tmp_path / "once", 3, **QUARTETS)
    for count in (1, 2, 3):
        one_by_one = Music.render_scores(tmp_path / "apart", count, **QUARTETS)
    assert file_bytes(one_by_one) == file_bytes(at_once)


def test_a_piece_in_two_formats_counts_once():
    files = Music.list_pieces(Music.REPERTOIRES["trecento"])
    names = [piece.name for piece in Music._in_seeded_order("trecento", 0)]
    assert len(names) == len(set(names))
    assert len(names) < len(files)


def test_what_a_spent_repertoire_lacks_goes_to_the_others(tmp_path, leave):
    leave("chorale", slice(1))
    options = {"repertoires": ("chorale", "german", "chinese"), "seconds": 20, "n_jobs": 1}
    found = shares(Music.render_scores(tmp_path, 14, **options))
    assert found["chorale"] == 3      # all that the piece gives
    difference = found["german"] - found["chinese"]
    assert abs(difference) <= 1
    assert sum(found.values()) == 14


def test_clips_run_out_with_a_clear_error(tmp_path, leave):
    leave("chorale", slice(1))
    with pytest.raises(ValueError, match="not 5"):
        Music.render_scores(tmp_path, 5, repertoires=("chorale",), seconds=20, n_jobs=1)
    assert paths(tmp_path)


@pytest.mark.parametrize("wrong", [
    {"repertoires": ("jazz",)},
    {"snr_db": (-20, 0)},
    {"snr_db": (9, 3)},
    {"seconds": 0},
    {"pieces": -1},
])
def test_wrong_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError):
        Music.render_scores(tmp_path, **wrong)


LABELS = st.text("abcdef", min_size=1, max_size=3)
SUPPLY = st.dictionaries(LABELS, st.integers(0, 200), min_size=1)
CLIPS_GIVEN = st.lists(st.integers(0, 5), max_size=6)      # of each piece of a repertoire
LENGTHS = st.dictionaries(LABELS, CLIPS_GIVEN, min_size=1, max_size=4)


@given(st.integers(0, 500), SUPPLY)
@settings(deadline=None)
def test_shares_are_even_and_within_supply(total, supply):
    found = Music._shares(total, supply)
    supplied = sum(supply.values())
    assert sum(found.values()) == min(total, supplied)
    unmet = []
    for label, available in supply.items():
        share = found[label]
        assert share <= available
        if share < available:
            unmet.append(share)
    largest = max(found.values())
    assert not unmet or largest - min(unmet) <= 1


def every_clip(label, queue, gives):
    """The first clip of each piece, then the second of those that give one, and so on."""
    clips = []
    for number in range(Music.MAX_CLIPS_PER_PIECE):
        for piece in queue:
            if number < gives[piece.name]:
                clips.append(Music._Clip(label, piece, number))
    return clips


def one_after_another(total, queues, gives):
    """Choose clip by clip, each of the repertoire that has the fewest."""
    chosen = {label: [] for label in queues}
    waiting = {}
    for label, queue in queues.items():
        waiting[label] = every_clip(label, queue, gives)
    for _ in range(total):
        unspent = [label for label in reversed(queues) if waiting[label]]
        if unspent:
            label = min(unspent, key=lambda label: len(chosen[label]))
            clip = waiting[label].pop(0)
            chosen[label].append(clip)
    return chosen


def made_up_pieces(lengths):
    """Pieces of each label, and how many clips each gives by its name."""
    queues = {}
    gives = {}
    for label, counts in lengths.items():
        queues[label] = []
        for i, count in enumerate(counts):
            piece = Music.Piece(f"{label}-{i}", "", None)
            queues[label].append(piece)
            gives[piece.name] = count
    return queues, gives


@given(st.integers(0, 60), LENGTHS)
@settings(deadline=None)
def test_the_choice_does_not_depend_on_when_pieces_turn_out_short(total, lengths):
    queues, gives = made_up_pieces(lengths)
    rendering = Music._Rendering(Path(), 2, None, 0)
    ledger = Music._Ledger(Path(), 2)
    made = set()
    chosen = Music._choose(total, queues, ledger)
    while groups := Music._missing(chosen, rendering, made):
        for clip in groups[0]:
            name = clip.piece.name
            if clip.number < gives[name]:
                made.add(rendering.path(clip))
            else:
                ledger.gives[name] = gives[name]
        chosen = Music._choose(total, queues, ledger)
    assert chosen == one_after_another(total, queues, gives)
    wanted = [clip for clips in chosen.values() for clip in clips]
    assert made == {rendering.path(clip) for clip in wanted}


def test_repertoires_take_turns_for_a_steady_progress(tmp_path):
    queues = {label: Music._in_seeded_order(label, 0) for label in Music.REPERTOIRES}
    rendering = Music._Rendering(tmp_path, 30, None, 0)
    chosen = Music._choose(8000, queues, Music._Ledger(tmp_path, 30))
    groups = Music._missing(chosen, rendering, set())
    for at in range(0, 360, 9):
        turn = {clips[0].label for clips in groups[at:at + 9]}
        assert turn == set(Music.REPERTOIRES)
