"""Music as mel spectrograms, and back: collections, pink noise, coding, sound.

The sections of this file follow the data path, so that none uses a later one::

    audio files - decode, mono, resample - STFT - pink-noise floor - gain - mel power - dB - code
    code - dB - mel power - linear magnitude - phase - waveform

then what music is like (partials, tuning, chroma, onsets, rhythm, form), and last
`get_musics_coded`, which uses all.

Collections come from any folder of audio, from FMA-small (`download_fma_small`), or from
scores that install with pip (`render_scores`). `get_musics_coded` turns a folder into codes,
`music_from_code` a code into sound.
"""

import atexit
import copy
import csv
import errno
import functools
import hashlib
import importlib
import importlib.metadata
import io
import itertools
import json
import numbers
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used
import threadpoolctl

SR = 22050           # Hz
N_FFT = 2048         # samples, 93 ms
HOP_LENGTH = 1024    # samples, 46 ms
N_MELS = 128         # bands between 0 Hz and SR / 2
DB_RANGE = (-40.0, 50.0)  # mel power in dB that the codes -1 and 1 stand for
CODE_VERSION = 4     # part of the key of every stored code: raise it when codes change


# ---------------------------------------------------------------- tools

SILENCE = 1e-4       # a clip whose peak is lower counts as silent
LEFTOVER_AGE = 3600  # s without a change after which nobody writes a temporary file any more


def _progress(iterable, **options):
    """Wrap in a tqdm bar, on stdout in a notebook, where stderr reads as an error."""
    from tqdm import tqdm
    stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(iterable, file=stream, mininterval=1, dynamic_ncols=False, ncols=90, **options)


def parallel(function: Callable, calls: Iterable[tuple], n_jobs: int) -> Iterator:
    """Yield `function(*call)` for each call, in order, on joblib's active backend.

    To be exhausted: joblib stops its workers where a generator is left before its end.
    """
    from joblib.parallel import Parallel, delayed, get_active_backend
    tasks = (delayed(function)(*call) for call in calls)
    with warnings.catch_warnings():
        # joblib replaces a worker that has grown, as music21's do, and says so
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        backend, _ = get_active_backend()
        if backend.supports_return_generator:
            yield from Parallel(n_jobs=n_jobs, return_as="generator")(tasks)
        while batch := list(itertools.islice(tasks, 256)):   # Ray gives nothing but lists
            yield from Parallel(n_jobs=n_jobs)(batch)


_LIMITED = threading.Lock()


@functools.lru_cache(maxsize=1)
def _librosa():
    """The package librosa, also where numba, with which it compiles, may write nowhere."""
    try:
        importlib.import_module("librosa.filters")
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        from numba.core import config
        os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="numba-")
        atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)
        config.reload_config()
    import librosa
    return librosa


@functools.lru_cache(maxsize=1)
def _thread_pools():
    return threadpoolctl.ThreadpoolController()


@contextmanager
def _one_thread():
    """Let matrix products of this context run on one thread of BLAS.

    Several threads cut a product otherwise, and some kernels then round otherwise: codes would
    depend on the machine's load. The limit holds for the process, hence one caller at a time.
    """
    with _LIMITED, _thread_pools().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def _interrupt_later():
    """Let Ctrl-C wait for the end of this context.

    A library that calls Python back cannot pass an exception on: it would print the interrupt,
    go on, and take the file to be over.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield    # no interrupt can come here
        return
    interrupts: list = []
    signal.signal(signal.SIGINT, lambda *interrupt: interrupts.append(interrupt))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if interrupts:
            handler(*interrupts[0])


def _peak(y):
    return max(y.max(initial=0), -y.min(initial=0))   # of abs(y), without a copy


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place when the block succeeds.

    Raises
    ------
    OSError
        Naming `path` where the system names none, as it does not when a disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.urandom(8).hex()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike, age: float = LEFTOVER_AGE) -> None:
    """Remove the temporary files, older than `age` [seconds], that killed processes left."""
    for part in Path(folder).glob(".*.part*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > age:
                part.unlink()


def _seeded(seed, *words):
    name = "/".join(map(str, words))
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _digest(*words):
    return hashlib.sha1(json.dumps(words).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- pink noise

PINK_CORNER = 20.0   # Hz: 1/f above, flat below, so that inaudible rumble holds little power
FEW_SAMPLES = 64     # a last axis that is shorter, and shorter than the one before, holds channels


def check_waveform(y: Any, name: str = "y") -> np.ndarray:
    """Give a waveform as an array, or say what is wrong with it.

    Parameters
    ----------
    y : array [shape=(..., n)]
        Floating point; channels come first, time last.
    name : str
        Of the argument, for messages.

    Returns
    -------
    np.ndarray [shape=(..., n)]

    Raises
    ------
    TypeError
        If the samples are not floating point.
    ValueError
        If time is not the last axis, or samples are not finite numbers.
    """
    y = np.asarray(y)
    if y.dtype.kind != "f":
        remedy = "scale to [-1, 1] first, such as y / 32768 for int16"
        raise TypeError(f"{name} holds {y.dtype}, not floating point: {remedy}")
    if y.ndim == 0:
        raise ValueError(f"{name} is a single number, not a waveform")
    if y.ndim > 1 and y.shape[-1] < min(FEW_SAMPLES, y.shape[-2]):
        remedy = f"the last axis is time, channels come first: pass {name}.T"
        raise ValueError(f"{name} has the shape {y.shape}: {remedy}")
    if not np.isfinite(y).all():
        raise ValueError(f"{name} holds samples that are not finite numbers")
    return y


def pink_psd(n: int, sr: float, slope: float = 1.0) -> np.ndarray:
    """Power spectral density of unit-variance 1/f^slope noise on the bins of an rfft."""
    hz = np.fft.rfftfreq(n, 1 / sr)
    psd = np.maximum(hz, PINK_CORNER) ** -slope
    psd[0] = 0
    return psd / psd.mean()


def pink_noise(n: int, rng: np.random.Generator | int | None = None) -> np.ndarray:
    """Generate pink noise: power falls as 1/f above 20 Hz, 3 dB an octave.

    Parameters
    ----------
    n : int [samples]
    rng : np.random.Generator or int, optional

    Returns
    -------
    np.ndarray [shape=(n,)], float64
        Zero mean and unit variance.

    Raises
    ------
    ValueError
        If `n` is negative.

    References
    ----------
    J. Timmer and M. Koenig, "On generating power law noise", A&A 300, 1995.
    """
    if n < 0:
        raise ValueError(f"cannot make {n} samples")
    if n < 2:
        return np.zeros(n)
    white = np.random.default_rng(rng).standard_normal(n)
    magnitude = np.sqrt(pink_psd(n, SR))
    noise = np.fft.irfft(np.fft.rfft(white) * magnitude, n)
    return (noise - noise.mean()) / noise.std()


def add_pink_noise(
    y: np.ndarray,
    snr_db: float,
    rng: np.random.Generator | int | None = None,
) -> np.ndarray:
    """Add pink noise to a recording at a signal-to-noise ratio.

    Parameters
    ----------
    y : np.ndarray [shape=(..., n)]
        Waveform; each channel gets noise of its own.
    snr_db : float [dB]
        Power of the recording over that of the noise, each over all channels.
    rng : np.random.Generator or int, optional

    Returns
    -------
    np.ndarray [shape=(..., n)], float64

    Raises
    ------
    TypeError, ValueError
        As `check_waveform`.
    """
    y = check_waveform(y)
    if y.shape[-1] < 2:
        return y.astype(np.float64)
    rng = np.random.default_rng(rng)
    noise = np.empty(y.shape)
    for channel in np.ndindex(y.shape[:-1]):
        noise[channel] = pink_noise(y.shape[-1], rng)
    power_ratio = np.mean(np.square(y)) / np.mean(np.square(noise))
    return y + noise * np.sqrt(power_ratio / 10 ** (snr_db / 10))


# ---------------------------------------------------------------- collections: scores


class Repertoire(NamedTuple):
    """A body of compositions and the General MIDI program (counted from 0) that plays it."""

    patterns: tuple
    program: int
    instrument: str
    licence: str = "public domain, encoding distributed with music21"

REPERTOIRES = {
    "chorale": Repertoire(("bach/bwv*.mxl",), 19, "church organ"),
    "madrigal": Repertoire(("monteverdi/*[0-9].mxl",), 52, "choir"),
    "trecento": Repertoire(("trecento/*.mxl", "trecento/*.xml"), 46, "harp"),
    "quartet": Repertoire(("haydn/*/*.mxl", "mozart/k[148]*/*.mxl", "beethoven/**/*.mxl"), 48,
                          "strings"),
    "reel": Repertoire(("ryansMammoth/*.abc",), 40, "fiddle"),
    "irish": Repertoire(("oneills1850/*.abc",), 73, "flute"),
    "german": Repertoire(("essenFolksong/[abekz]*.abc", "essenFolksong/fink*.abc"), 24, "guitar",
                         "Essen folk songs, non-commercial use"),
    "chinese": Repertoire(("essenFolksong/han*.abc",), 107, "koto, nearest to the guzheng",
                          "Essen folk songs, non-commercial use"),
    "scottish": Repertoire(("airdsAirs/*.abc",), 109, "bagpipe"),
}
CLEAN_RMS, CLEAN_PEAK = 0.05, 0.5  # level of the music: leaves room for noise down to -5 dB
MAX_CLIPS_PER_PIECE = 20
MAX_LONE_ENDS = 3    # ends of repeats without a beginning: each doubles all that was played


class Piece(NamedTuple):
    """A composition: a file of the corpus, or one tune of an ABC book."""

    name: str
    path: str
    tune: str | None    # its number in the book


class _Clip(NamedTuple):
    """A part of a piece, numbered from 0."""

    label: str
    piece: Piece
    number: int


class _Outcome(NamedTuple):
    """What came of the clips that one piece was asked for."""

    piece: Piece
    written: list
    gives: int          # clips that the piece gives at most, as far as known
    trouble: str        # why it cannot be read further


class _Rendering(NamedTuple):
    """The arguments of `render_scores` that fix what each clip sounds like."""

    folder: Path
    seconds: float
    snr_db: tuple[float, float] | None
    seed: int

    def path(self, clip):
        return self.folder / clip.label / f"{clip.piece.name}-{clip.number}.flac"

    def note(self, label, name, number):
        """What a clip's tags say."""
        snr = None
        if self.snr_db is not None:
            snr = round(float(_seeded(self.seed, name).uniform(*self.snr_db)), 2)
        return {"piece": name, "clip": number, "program": REPERTOIRES[label].program,
                "snr_db": snr, "seconds": self.seconds, "seed": self.seed}


@functools.cache   # a few MB: each book is read once
def _tunes(path):
    """Split an ABC book into `{number: text}`."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    tunes = re.finditer(r"(?ms)^(X:\s*(\w*).*?)(?=^X:|\Z)", text)
    return {tune[2]: tune[1] for tune in tunes}


def list_pieces(repertoire: Repertoire) -> list[Piece]:
    """List the pieces of a repertoire by path, tunes of a book in its order."""
    import music21
    root = Path(music21.__file__).parent / "corpus"
    paths = {path for pattern in repertoire.patterns for path in root.glob(pattern)}
    pieces = []
    for path in sorted(paths):
        stem = str(path.relative_to(root).with_suffix(""))
        name = re.sub(r"\W+", "_", stem).strip("_")
        if path.suffix == ".abc":
            pieces += [Piece(f"{name}_{tune}", str(path), tune) for tune in _tunes(str(path))]
        else:
            pieces.append(Piece(name, str(path), None))
    return pieces


def _to_seconds(stream):
    """Turn a stream of music21 into a score of symusic, with times in seconds."""
    import symusic
    from music21 import midi
    data = midi.translate.streamToMidiFile(stream).writestr()
    return symusic.Score.from_midi(data, "second")


def _is_enough(score, start, number, seconds):
    """Tell whether a score has music for a clip that begins at `start` seconds."""
    least = seconds / 2 if number else 1.0
    return score.note_num() > 0 and score.end() - start >= least


def _lone_ends(score):
    """Count the ends of repeats in a score that have no beginning."""
    from music21 import bar
    signs = score.recurse().getElementsByClass(bar.Repeat)
    count = Counter(sign.direction for sign in signs)
    return count["end"] - count["start"]


def _drop_repeats(score):
    from music21 import bar, repeat
    signs = (bar.Repeat, repeat.RepeatExpression, "RepeatBracket")
    for sign in list(score.recurse().getElementsByClass(signs)):
        sign.activeSite.remove(sign)


class _Tune:
    """A tune of an ABC book, played with its repeats and cut in time.

    One with many ends of repeats and no beginnings is played without: music21 goes back to the
    first bar at each, so that five variations of "Yankee Doodle" would last six hours.
    """

    def __init__(self, piece, seconds):
        from music21 import converter
        text = _tunes(piece.path)[piece.tune]
        self.seconds = float(seconds)
        score = converter.parse(text, forceSource=True, format="abc")
        if _lone_ends(score) > MAX_LONE_ENDS:
            _drop_repeats(score)
        self.score = _to_seconds(score)
        self.gives = max(1, int(self.score.end() / seconds + 0.5))

    def cut(self, number):
        """Give the score of a clip, or None where the tune is over."""
        start = number * self.seconds
        if not _is_enough(self.score, start, number, self.seconds):
            return None
        if not number:
            return self.score
        rest = self.score.clip(start, self.score.end(), clip_end=False)
        return rest.shift_time(-start)


class _Movement:
    """A score in measures, cut before it becomes MIDI: a whole quartet would take seconds.

    It is played without repeats, whose two ends a cut may separate.
    """

    def __init__(self, piece, seconds):
        from music21 import converter, tempo
        self.seconds = seconds
        self.score = converter.parse(piece.path, forceSource=True)
        mark = self.score.recurse().getElementsByClass(tempo.MetronomeMark).first()
        beats_per_minute = (mark.getQuarterBPM() if mark else None) or 120
        beats = seconds * beats_per_minute / 60
        measures = self.score.parts[0].getElementsByClass("Measure")
        beats_per_measure = measures[min(1, len(measures) - 1)].barDuration.quarterLength
        self.length = int(np.ceil(beats / beats_per_measure))   # measures of a clip, less one
        last = max(measure.number for measure in measures) or len(measures)
        self.gives = last // (self.length + 1) + 1

    def cut(self, number):
        """Give the score of a clip, or None where the movement is over."""
        first = number * (self.length + 1)
        part = self.score.measures(first, first + self.length)
        _drop_repeats(part)
        score = _to_seconds(part)
        return score if _is_enough(score, 0, number, self.seconds) else None


@functools.lru_cache(maxsize=1)
def _synthesizer():
    import pretty_midi
    import symusic
    sound_font = Path(pretty_midi.__file__).parent / "TimGM6mb.sf2"
    return symusic.Synthesizer(str(sound_font), 2 * SR, 4)


def _play(score, program, seconds):
    """Synthesise a score with one instrument, again and again as players do, for `seconds`."""
    import soxr
    for track in score.tracks:
        track.program = program
        track.is_drum = False
    sound = np.asarray(_synthesizer().render(score, stereo=False))[0]
    sound = soxr.resample(sound, 2 * SR, SR)
    n = round(seconds * SR)
    period = max(1, round(score.end() * SR))
    y = np.zeros(n, np.float32)
    for start in range(0, n, period):
        y[start:start + len(sound)] += sound[:n - start]
    rms = np.sqrt(np.mean(y ** 2))
    return y * min(CLEAN_RMS / max(rms, 1e-9), CLEAN_PEAK / max(_peak(y), 1e-9))


def _write_clip(rendering, clip, y):
    """Add noise to a clip and write it; in memory first, so that a full disk is told as such."""
    import soundfile
    path = rendering.path(clip)
    if path.exists() and not clip_info(path):
        raise FileExistsError(f"{path} is no clip of render_scores: move it, or delete it")
    name = clip.piece.name
    note = rendering.note(clip.label, name, clip.number)
    if note["snr_db"] is not None:
        y = add_pink_noise(y, note["snr_db"], _seeded(rendering.seed, name, clip.number))
    encoded = io.BytesIO()
    with soundfile.SoundFile(encoded, "w", SR, 1, format="FLAC") as file:
        file.title = name
        file.genre = clip.label
        file.comment = json.dumps(note)
        file.license = REPERTOIRES[clip.label].licence
        file.write(y)
    _write(path, encoded.getvalue())


@contextmanager
def _naming(path):
    """Name the file that cannot be written: where the disk is full, the system does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None:   # of requests, not of the disk
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path, data):
    """Write a file whole or not at all."""
    with _naming(path), atomic(path) as part:
        part.write_bytes(data)


def _render_piece(rendering, clips):
    """Parse a piece once and write its clips up to the first that it cannot give."""
    label, piece, _ = clips[0]
    kind = _Movement if piece.tune is None else _Tune
    music: Any = None
    written: list = []
    trouble = ""
    for clip in clips:
        try:
            with warnings.catch_warnings(action="ignore"):   # of measures too full, by the hundred
                music = music or kind(piece, rendering.seconds)
                score = music.cut(clip.number)
        except (MemoryError, OSError):   # the machine's trouble, not the piece's
            raise
        except Exception as error:   # music21 raises a dozen kinds for what it cannot read
            trouble = type(error).__name__
            break
        if score is None:
            break
        y = _play(score, REPERTOIRES[label].program, rendering.seconds)
        if _peak(y) < SILENCE:
            trouble = "silent"
            break
        _write_clip(rendering, clip, y)
        written.append(clip)
    done = len(written) == len(clips)
    gives = music.gives if done else clips[len(written)].number
    return _Outcome(piece, written, gives, trouble)


NOTE_TYPES: dict[str, Any] = {"piece": str, "clip": int, "program": int,
                              "snr_db": (float, int, type(None)), "seconds": (float, int),
                              "seed": int}   # of what a clip's tags say


def _opened(source):
    """A sound file, by its number: given a path, libsndfile reads a macOS sidecar beside it."""
    import soundfile
    return soundfile.SoundFile(source.fileno(), closefd=False)


def clip_info(path: str | os.PathLike) -> dict:
    """Read what `render_scores` recorded in a file's tags.

    Returns
    -------
    dict
        piece, clip, program, snr_db [dB, None without noise], seconds, seed; empty for
        other files, whatever their tags say, and where there is none.
    """
    import soundfile
    try:
        with open(path, "rb") as source, _opened(source) as file:
            note = json.loads(file.comment or "{}")
    except (OSError, soundfile.LibsndfileError, ValueError, RecursionError):
        return {}
    if not isinstance(note, dict) or note.keys() != NOTE_TYPES.keys():
        return {}
    if all(isinstance(note[key], types) for key, types in NOTE_TYPES.items()):
        return note
    return {}


def _own_clips(folder):
    """Find the clips that `render_scores` wrote to a folder: `{path: what their tags say}`."""
    own = {}
    for label in REPERTOIRES:
        for path in (folder / label).glob("*-*.flac"):
            info = clip_info(path)
            if info and path.name == f"{info['piece']}-{info['clip']}.flac":
                own[path] = info
    return own


def _in_seeded_order(label, seed):
    """Shuffle a repertoire; a piece that the corpus holds in two formats counts once."""
    pieces = list_pieces(REPERTOIRES[label])
    order = _seeded(seed, label).permutation(len(pieces))
    named: dict = {}
    for i in order:
        named.setdefault(pieces[i].name, pieces[i])
    return list(named.values())


class _Ledger:
    """What is known of pieces for one length of clip, kept beside the clips for the next call.

    Attributes
    ----------
    gives : dict
        Name of a piece to the number of clips that it gives at most, once it was parsed.
    trouble : dict
        Name of a piece that cannot be read further, to the reason.
    """

    def __init__(self, folder, seconds):
        self.path = folder / ".pieces.json"
        made_by = {name: importlib.metadata.version(name) for name in ("music21", "symusic")}
        self.key = {"seconds": seconds, **made_by}
        self.gives: dict = {}
        self.trouble: dict = {}
        self.saved = 0.0
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept["key"] == self.key:
                self.gives.update(kept["gives"])
                self.trouble.update(kept["trouble"])

    def learn(self, outcome):
        name = outcome.piece.name
        self.gives[name] = outcome.gives
        if outcome.trouble:
            self.trouble[name] = outcome.trouble
        if time.monotonic() - self.saved > 1:
            self.save()

    def save(self):
        kept = {"key": self.key, "gives": self.gives, "trouble": self.trouble}
        _write(self.path, json.dumps(kept, indent=0).encode())
        self.saved = time.monotonic()

    def supply(self, piece):
        """Number of clips that a piece gives at most, as far as known."""
        return min(self.gives.get(piece.name, MAX_CLIPS_PER_PIECE), MAX_CLIPS_PER_PIECE)


def _shares(total, supply):
    """Share a number of clips evenly, within what each label has; the last get the rest."""
    shares = dict.fromkeys(supply, 0)
    for _ in range(min(total, sum(supply.values()))):
        unspent = [label for label in reversed(supply) if shares[label] < supply[label]]
        least = min(unspent, key=shares.__getitem__)
        shares[least] += 1
    return shares


def _first_clips(label, queue, ledger, count):
    """List `count` clips: the first of every piece, then the second of those that have one."""
    clips: list = []
    for number in range(MAX_CLIPS_PER_PIECE):
        for piece in queue:
            if len(clips) == count:
                return clips
            if number < ledger.supply(piece):
                clips.append(_Clip(label, piece, number))
    return clips


def _choose(total, queues, ledger):
    """Choose clips as if every piece not parsed yet gave as many as wanted: `{label: clips}`.

    What is chosen stays chosen as more becomes known, but for what a piece turns out not to
    give; hence all that is rendered is wanted, and the choice depends on no order of events.
    """
    supply = {label: sum(map(ledger.supply, queue)) for label, queue in queues.items()}
    shares = _shares(total, supply)
    return {label: _first_clips(label, queue, ledger, shares[label])
            for label, queue in queues.items()}


def _by_piece(clips):
    """Group clips by piece: a list of lists."""
    groups: dict = {}
    for clip in clips:
        groups.setdefault(clip.piece.name, []).append(clip)
    return list(groups.values())


def _missing(chosen, rendering, made):
    """Group the clips that are not made yet by piece; labels take turns, for a steady progress."""
    columns = []
    for clips in chosen.values():
        missing = [clip for clip in clips if rendering.path(clip) not in made]
        columns.append(_by_piece(missing))
    rows = itertools.zip_longest(*columns)
    return [group for row in rows for group in row if group]


def _render_missing(rendering, total, queues, ledger, made, n_jobs):
    """Choose clips and render those that are not in `made`, until nothing is missing.

    Pieces turn out to be shorter than hoped for, or unreadable: then others are chosen.
    """
    chosen = _choose(total, queues, ledger)
    paths = {rendering.path(clip) for clips in chosen.values() for clip in clips}
    with _progress(None, total=total, initial=len(paths & made), desc="render",
                   unit="clip") as bar:
        while groups := _missing(chosen, rendering, made):
            calls = [(rendering, group) for group in groups]
            try:
                for outcome in parallel(_render_piece, calls, n_jobs):
                    ledger.learn(outcome)
                    made.update(map(rendering.path, outcome.written))
                    bar.update(len(outcome.written))
            finally:
                with suppress(OSError):   # what stopped the rendering matters more
                    ledger.save()
            chosen = _choose(total, queues, ledger)
    return chosen


def _write_report(folder, chosen, queues, ledger):
    report = {}
    for label, clips in chosen.items():
        names = [piece.name for piece in queues[label]]
        replaced = Counter(ledger.trouble[name] for name in names if name in ledger.trouble)
        report[label] = {"clips": len(clips), "pieces": len(_by_piece(clips)),
                         "replaced": replaced, "instrument": REPERTOIRES[label].instrument}
    _write(folder / ".report.json", json.dumps(report, indent=1).encode())


def _check_rendering(pieces, snr_db, seconds, repertoires):
    if not repertoires or not set(repertoires) <= set(REPERTOIRES):
        raise ValueError(f"repertoires must be some of {list(REPERTOIRES)}, not {repertoires}")
    if snr_db is not None and not -5 <= snr_db[0] <= snr_db[1]:
        raise ValueError(f"snr_db must be a rising pair from -5 dB up, not {snr_db}")
    if seconds < 1 or pieces < 0:
        raise ValueError(f"cannot render {pieces} clips of {seconds} s: at least 1 s each")


def render_scores(folder: str | os.PathLike, pieces: int = 500,
                  snr_db: tuple[float, float] | None = (5, 20), seconds: float = 30,
                  seed: int = 0, repertoires: Sequence[str] = tuple(REPERTOIRES),
                  n_jobs: int = -1) -> Path:
    """Play real compositions out of music21's corpus into audio files.

    Writes `folder/<repertoire>/<piece>-<clip>.flac`, 22,050 Hz, mono, 16 bit, with the true
    noise level in the tags (`clip_info`), and `folder/.report.json`: clips and pieces of each
    repertoire, and the pieces that could not be read and were replaced, counted by reason.
    Repertoires share evenly; one with too few pieces gives several clips a piece (split by
    piece, not by clip), and what it still lacks goes to the others. The same arguments give
    the same files in one environment.

    The folder then holds the clips that were asked for, and no others of this function: those
    that lie there from other arguments are deleted, files that it did not write are left
    alone. Clips that are already there are kept, and `folder/.pieces.json` remembers how many
    clips each piece gives and which cannot be read, so that a run that was stopped goes on.

    Parameters
    ----------
    folder : path
    pieces : int
        Number of clips over all repertoires.
    snr_db : (float, float) [dB] or None
        Each piece's level of pink noise is drawn uniformly from this range; at least -5.
        None: no noise; the music is the same at the same gain.
    seconds : float [s]
        Length of each clip. Shorter tunes are repeated, as players do.
    seed : int
    repertoires : sequence of str
        Keys of `REPERTOIRES`.
    n_jobs : int
        As in joblib.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If a repertoire is unknown, the noise too loud or the whole corpus gives fewer clips.
    FileExistsError
        If a file that this function did not write has the name of a clip.
    OSError
        If a file cannot be written; the message names it.

    References
    ----------
    M. S. Cuthbert and C. Ariza, "music21", ISMIR 2010.
    """
    _check_rendering(pieces, snr_db, seconds, repertoires)
    rendering = _Rendering(Path(folder), seconds, snr_db, seed)
    queues = {label: _in_seeded_order(label, seed) for label in repertoires}
    ledger = _Ledger(rendering.folder, seconds)
    own = _own_clips(rendering.folder)
    made = {path for path, info in own.items()
            if info == rendering.note(path.parent.name, info["piece"], info["clip"])}
    chosen = _render_missing(rendering, pieces, queues, ledger, made, n_jobs)
    wanted = {rendering.path(clip) for clips in chosen.values() for clip in clips}
    for path in own.keys() - wanted:
        path.unlink()
    _write_report(rendering.folder, chosen, queues, ledger)
    if len(wanted) < pieces:
        raise ValueError(f"{', '.join(repertoires)} give {len(wanted)} clips of {seconds} s, "
                         f"not {pieces}: they are in {folder}")
    return rendering.folder


# ---------------------------------------------------------------- collections: FMA-small

FMA_URL = "https://os.unil.cloud.switch.ch/fma/"
FMA_SHA1 = {"fma_small.zip": "ade154f733639d52e35e32f5593efe5be76c6d70",
            "fma_metadata.zip": "f0df49ffe5f2a6008d7dc83c6915b31835dfe733"}
TRIES = 6            # in a row that bring nothing, before a download is given up
LONGEST_WAIT = 120   # seconds before a try, whatever a server asks for


class _TryAgain(Exception):
    """Passing trouble of a server, and the seconds that it asks to wait."""

    def __init__(self, reason, wait=0.0):
        super().__init__(reason)
        self.wait = wait


def _resume_download(url, output_file, _pooch):
    """Download for pooch that keeps what has come, in `<name>.part`, and asks for the rest."""
    part = Path(output_file).with_name(Path(url).name + ".part")
    part.touch()
    failures = 0
    while True:
        have = part.stat().st_size
        try:
            _fetch_rest(url, part, have)
            os.replace(part, output_file)
            return
        except _TryAgain as trouble:
            came = part.stat().st_size - have
            failures = 0 if came > 0 else failures + 1
            if failures == TRIES:
                raise ConnectionError(
                    f"{url}: {trouble}; {part} is kept, call again to go on") from trouble
            wait = max(2 ** failures - 1, trouble.wait)
            time.sleep(min(wait, LONGEST_WAIT))


def _fetch_rest(url, part, have):
    """Append what is missing after `have` bytes; raises `_TryAgain` where that may help."""
    import requests
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    try:
        with requests.get(url, stream=True, timeout=30, headers=headers) as reply:
            if reply.status_code == 416:   # nothing left to send
                return
            _check_status(url, reply)
            resumed = reply.status_code == 206   # 200: no Range here, all over again
            _append(reply, part, have if resumed else 0)
    except (requests.ConnectionError, requests.Timeout,
            requests.exceptions.ChunkedEncodingError) as error:
        raise _TryAgain(error) from error


def _check_status(url, reply):
    """Tell a server's passing trouble from an answer that will not change."""
    status = f"{reply.status_code} {reply.reason}"
    if reply.status_code in (408, 425, 429) or reply.status_code >= 500:
        raise _TryAgain(status, _asked_wait(reply))
    if not reply.ok:
        raise ConnectionError(f"{url}: {status}")


def _asked_wait(reply):
    """Seconds of a `Retry-After`, which is a number or a date; 0 without one that makes sense."""
    import urllib3
    with suppress(urllib3.exceptions.InvalidHeader):
        return urllib3.Retry().get_retry_after(reply.raw) or 0.0
    return 0.0


def _append(reply, part, have):
    """Write the body of a reply after the first `have` bytes of a file."""
    import requests
    total = have + int(reply.headers.get("Content-Length", 0))
    with _naming(part), open(part, "ab" if have else "wb") as file, _progress(
            None, desc=part.stem, unit="B", unit_scale=True, initial=have, total=total) as bar:
        for block in reply.iter_content(1 << 14):
            bar.update(file.write(block))
    if part.stat().st_size < total:   # old versions of urllib3 do not notice
        raise requests.ConnectionError("the server stopped sending")


GENRE_TABLE = "fma_metadata/tracks.csv"
LARGEST_TABLE = 1 << 30    # bytes: 10 kB for each of the 106,574 tracks that were published
LONGEST_LINE = 1 << 20     # characters of a table
LONGEST_GENRE = 60         # characters: it names a folder, which may have 255 bytes
LARGEST_TRACK = 100 << 20  # bytes of a member: 30 s of sound without compression are 5 MiB


class _BadArchive(ValueError):
    """What is wrong with an archive's content."""


@contextmanager
def _unzipping(words):
    """Raise `_BadArchive`, beginning with words, where a zip file is damaged or encrypted.

    Its reader raises almost anything then. Errors of the system pass.
    """
    try:
        yield
    except (_BadArchive, MemoryError):
        raise
    except Exception as error:
        # bzip2 gives no number, and an offset in front of the file is an invalid argument
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise _BadArchive(f"{words}: {error}") from error


@contextmanager
def _opened_member(archive, member):
    """Open a member of a zip file so that a block of it takes no more memory than a block.

    Its reader unpacks all that bzip2 or LZMA make of a block at once: 1.5 GB out of one kilobyte.
    """
    if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with archive.open(member) as file:
            yield file
    elif member.compress_type == zipfile.ZIP_BZIP2:
        import bz2
        packed = copy.copy(member)
        packed.compress_type = zipfile.ZIP_STORED
        packed.file_size = member.compress_size
        del packed.CRC    # of what is unpacked; bzip2 has its own
        with archive.open(packed) as compressed, bz2.BZ2File(compressed) as file:
            yield file
    else:
        raise NotImplementedError(f"compression method {member.compress_type} is neither stored "
                                  "nor deflated nor bzip2")


def _short_lines(table):
    """Lines of a text of any length, in bounded memory and time."""
    text = io.TextIOWrapper(table, "utf-8", newline="")
    total = 0
    while line := text.readline(LONGEST_LINE):
        total += len(line)
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line has {LONGEST_LINE:,} characters or more")
        if total > LARGEST_TABLE:
            raise csv.Error("it is larger than it declares, too large for a table of tracks")
        yield line


def fma_genres(metadata_zip: str | os.PathLike) -> dict[int, str]:
    """Read the genres of FMA-small out of the data set's metadata.

    As published, tracks lie in folders 000 to 155 that say nothing of their genre.

    Parameters
    ----------
    metadata_zip : path
        `fma_metadata.zip`.

    Returns
    -------
    dict
        Track number, as in `000/000002.mp3`, to its top genre.

    Raises
    ------
    ValueError
        If this is no zip file, damaged or encrypted, or it holds no table of tracks, or one
        that lacks a column or has more than 1 GiB.
    """
    needed = f"{metadata_zip}: a zip file with {GENRE_TABLE} is needed"
    with _unzipping(needed), zipfile.ZipFile(metadata_zip) as archive:
        member = archive.getinfo(GENRE_TABLE)
        if member.file_size > LARGEST_TABLE:
            raise _BadArchive(f"{metadata_zip}: tracks.csv has {member.file_size >> 20:,} MiB, too "
                              "large for a table of tracks")
        with _opened_member(archive, member) as table:
            try:
                return _read_genres(_short_lines(table))
            except (ValueError, IndexError, StopIteration, csv.Error) as error:
                raise _BadArchive(f"{metadata_zip}: tracks.csv is no table of tracks with a "
                                  f"subset and a top genre: {error}") from error


def _read_genres(lines):
    """Genres of FMA-small by track number, out of the lines of tracks.csv."""
    rows = csv.reader(lines)
    columns = list(zip(next(rows), next(rows)))
    genre = columns.index(("track", "genre_top"))
    subset = columns.index(("set", "subset"))
    genres = {}
    for row in rows:
        if re.fullmatch(r"\d{1,6}", row[0]) and row[subset] == "small":
            if len(row[genre]) > LONGEST_GENRE:
                raise ValueError(f"track {row[0]} has a genre of {len(row[genre]):,} characters")
            genres[int(row[0])] = row[genre]
    return genres


def download_fma_small(folder: str | os.PathLike, url: str = FMA_URL,
                       sha1: dict[str, str] | None = None) -> Path:
    """Download FMA-small, 8,000 clips of 30 s in 8 genres, 7.2 GiB, and lay it out by genre.

    Both zip files are kept in `folder`, checked by SHA-1, and fetched further after a cut or
    while the server is busy; files of these names that lie there are used.
    Tracks go to `folder/audio/<genre>/<id>.mp3`: names come from the metadata, never from the
    paths inside the zip. Tracks that are empty or shorter than 29 s by their header are
    named in a warning (three each in the published set), and so are those that are damaged,
    encrypted, larger than 100 MiB or not as long as declared in the zip file, which are left out.

    Parameters
    ----------
    folder : path
    url : str
        Where both files lie.
    sha1 : dict, optional
        `{file name: SHA-1}`; by default those that the data set's authors publish.

    Returns
    -------
    pathlib.Path
        The folder of audio.

    Raises
    ------
    ConnectionError
        If the server cannot be reached, stays busy or has no such file; the message names the
        address, and what has come is kept.
    ValueError
        If a file's SHA-1 is wrong, it is no zip file, or the metadata lacks a column.
    OSError
        If a file cannot be written; the message names it.

    References
    ----------
    M. Defferrard et al., "FMA: a dataset for music analysis", ISMIR 2017, arXiv 1612.01840.
    """
    import pooch
    folder, sha1 = Path(folder), sha1 or FMA_SHA1
    pooch.get_logger().setLevel("WARNING")

    def fetch(name):
        return pooch.retrieve(f"{url.rstrip('/')}/{name}", f"sha1:{sha1[name]}", name, folder,
                              downloader=_resume_download)

    audio_zip = fetch("fma_small.zip")
    genres = fma_genres(fetch("fma_metadata.zip"))
    odd = _unpack_fma(audio_zip, genres, folder / "audio")
    if odd:
        warnings.warn("FMA-small: these tracks will be skipped: " + "; ".join(odd), stacklevel=2)
    return folder / "audio"


def _archive(path):
    """Open a zip file. Raises `ValueError` that names it where it is none."""
    with _unzipping(f"{path}: not a zip file, or cut short"):
        return zipfile.ZipFile(path)


def _copy_declared(source, target, size):
    """Copy what a member holds. Raises `BadZipFile` where that is not as long as declared."""
    found = 0
    while block := source.read(1 << 16):
        found += len(block)
        if found > size:
            break
        target.write(block)
    if found != size:
        amount = "more" if found > size else "fewer"
        raise zipfile.BadZipFile(f"it declares {size:,} bytes and holds {amount}")


def _unpack_member(archive, member, path):
    """Write a member of an archive to a file; returns why that is not possible, or ""."""
    if member.file_size > LARGEST_TRACK:
        return f"{member.file_size >> 20:,} MiB, too large for a clip of 30 s"
    try:
        with (_unzipping("cannot be unpacked"), _opened_member(archive, member) as source,
              atomic(path) as part, open(part, "wb") as target):
            _copy_declared(source, target, member.file_size)
    except _BadArchive as error:
        return str(error)
    return ""


def _unpack_fma(audio_zip, genres, target):
    """Unpack tracks that the metadata knows; return those that are odd, and how, by name."""
    import soundfile
    odd = []
    with _archive(audio_zip) as archive:
        for member in _progress(archive.infolist(), desc="unpack", unit="track"):
            match = re.fullmatch(r"fma_small/\d{3}/(\d{6})\.mp3", member.filename)
            if not match or int(match[1]) not in genres:
                continue
            track = match[1]
            genre = re.sub(r"[^\w-]+", "_", genres[int(track)]) or "unknown"
            path = target / genre / f"{track}.mp3"
            if not path.exists() or path.stat().st_size != member.file_size:
                trouble = _unpack_member(archive, member, path)
                if trouble:
                    odd.append(f"{track} ({trouble})")
                    continue
            seconds = 0.0
            with (suppress(soundfile.LibsndfileError), open(path, "rb") as source,
                  _opened(source) as file):
                seconds = len(file) / file.samplerate
            if seconds < 29:
                length = f"{seconds:.1f} s" if seconds else "empty"
                odd.append(f"{track} ({length})")
    return odd


# ---------------------------------------------------------------- decoding

AUDIO_SUFFIXES = (".mp3", ".ogg", ".opus", ".flac", ".wav")
PAD_SECONDS = 0.5    # a clip that lacks at most this much is padded with silence
MAX_HOURS = 24       # no file is read further: damaged headers can promise endless audio
BLOCK = 1 << 15      # frames decoded at once: what a damaged file may lose
TAIL = 3000          # bytes behind the sound that need no word: two frames of MP3
RATES = (1000, 1_000_000)      # Hz, lowest and highest: no music below, no recorder above
MAX_CHANNELS = 64    # of sound in the round, of seventh order: more is a damaged header
ENDLESS = 1 << 30    # bytes by which an MP3 without a length pretends to be longer
MP3_STARTS = (b"ID3", b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2")
CANCELLED = 0.03     # channels cancel where the peak of their mean is below this share of theirs
AUDIBLE = 0.01       # peak from which on a channel must not be lost by cancelling
DESCRIPTORS = os.name == "posix"   # on Windows, libsndfile may not know Python's descriptors


class DamagedAudio(ValueError):
    """What is wrong with a file's content: reading it again gives the same."""


def _reason_unread(path):
    try:
        path.stat()
    except OSError as error:
        kind = "broken link" if path.is_symlink() else "cannot be read"
        return f"{kind}: {error.strerror}"
    return "neither a file nor a folder"


def _visible(folder):
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def _list_files(folder):
    """List the visible files below a folder, and what else is there: `{path: reason}`.

    Links to folders are followed, after all folders, and each folder is entered once.
    """
    files, unread, seen = [], {}, set()
    folders, links = [folder], list[Path]()
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(here)
        if real in seen:
            unread[here] = f"the same folder as {real}, whose files are listed already"
            continue
        seen.add(real)
        try:
            names = _visible(here)
        except OSError as error:
            unread[here] = f"cannot be read: {error.strerror}"
            continue
        for path in [here / name for name in names]:
            if os.path.isdir(path):
                kind = links if path.is_symlink() else folders
                kind.append(path)
            elif os.path.isfile(path):
                files.append(path)
            else:
                unread[path] = _reason_unread(path)
    return sorted(files), unread


def audio_files(folder: str | os.PathLike) -> tuple[list[Path], dict[Path, str]]:
    """List the audio files below a folder, sorted, hidden ones left out.

    Links to folders elsewhere are followed; no folder is entered twice.

    Returns
    -------
    audio : list of pathlib.Path
        By suffix.
    others : dict
        Path of everything else, to the reason why it is not audio.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If it is no folder or holds no audio file.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder of audio")
    files, others = _list_files(folder)
    known = " ".join(AUDIO_SUFFIXES)
    audio = []
    for path in files:
        if path.suffix.lower() in AUDIO_SUFFIXES:
            audio.append(path)
        else:
            others[path] = f"not audio: {path.suffix or 'no suffix'} is none of {known}"
    if not audio:
        reasons = [f"; {path}: {reason}" for path, reason in others.items()]
        raise ValueError(f"no audio ({known}) in {folder}{''.join(reasons[:3])}")
    return audio, dict(sorted(others.items()))


class _Part:
    """A file from `start` on, for libsndfile.

    Opened by its path, a file would be searched for neighbours that hold its resource fork.
    A descriptor is as fast; where that is not enough, libsndfile reads through this object.
    Errors cannot pass through libsndfile: the first is kept in `error`.
    """

    def __init__(self, file, start, pretended=0):
        self.file = file
        self.start = start
        self.pretended = pretended
        self.beyond = 0      # how far the pretended end is behind the true one
        self.error = None
        self.is_plain = DESCRIPTORS and not start and not pretended
        file.seek(start)

    @contextmanager
    def guard(self):
        """Tell an error of the system from one of the content, in what libsndfile does."""
        import soundfile
        try:
            with nullcontext() if self.is_plain else _interrupt_later():
                yield
        except soundfile.LibsndfileError as error:
            passing = {2: OSError, 17: MemoryError}
            kind = passing.get(error.code, DamagedAudio)
            raise self.error or kind(error.error_string.rstrip(".")) from None
        if self.error:
            raise self.error

    def open(self):
        import soundfile
        source = self.file.fileno() if self.is_plain else self
        with self.guard():
            sound = soundfile.SoundFile(source, closefd=False)
        # or soundfile seeks after each read, where MP3 loses the bits that frames lend each other
        sound.seekable = lambda: False
        return sound

    def readinto(self, buffer):
        try:
            return self.file.readinto(buffer)
        except (OSError, MemoryError) as error:
            self.error = self.error or error
            return 0

    def seek(self, offset, whence=os.SEEK_SET):
        at_end = whence == os.SEEK_END and offset == 0
        self.beyond = self.pretended if at_end else 0
        if whence == os.SEEK_SET:
            offset += self.start
        return self.file.seek(offset, whence)

    def tell(self):
        return self.file.tell() - self.start + self.beyond


def _lacks_length(file, start):
    """Tell whether an MP3 begins without the frame that holds its length."""
    file.seek(start)
    head = file.read(1 << 16)
    has_length = re.search(b"Xing|Info|VBRI", head)
    return head.startswith(MP3_STARTS) and not has_length


def _mono(block):
    """Mean of the channels, or the first one where they cancel: one is wired the wrong way."""
    channels = block.shape[1]
    # channel by channel: a mean over a short axis is slow, a product depends on threads
    mean = functools.reduce(np.add, block.T) / channels
    peak = _peak(mean)
    if not np.isfinite(peak):
        raise DamagedAudio("holds samples that are not finite numbers")
    if channels > 1 and peak < CANCELLED:
        first = _peak(block[:, 0])
        if first > AUDIBLE and peak < CANCELLED * first:
            return np.ascontiguousarray(block[:, 0])
    return mean


def _check_format(sound):
    """Refuse what only a damaged header promises: it would take gigabytes, or hours."""
    lowest, highest = RATES
    if not lowest <= sound.samplerate <= highest:
        raise DamagedAudio(f"its header gives a rate of {sound.samplerate:,} Hz, and music has "
                           f"{lowest:,} to {highest:,} Hz")
    if sound.channels > MAX_CHANNELS:
        raise DamagedAudio(f"its header gives {sound.channels:,} channels: more than "
                           f"{MAX_CHANNELS} are no recording")


def _decode_part(file, start, sr):
    """Yield blocks of mono from the sound that begins at a byte; returns its length [s]."""
    import soxr
    endless = _lacks_length(file, start)
    part = _Part(file, start, ENDLESS if endless else 0)
    with part.open() as sound:
        _check_format(sound)
        rate = sound.samplerate
        promised = min(sound.frames, MAX_HOURS * 3600 * rate)
        resampler = soxr.ResampleStream(rate, sr, 1, dtype="float32")
        done = 0
        last = False
        while not last:
            asked = min(BLOCK, promised - done)   # asked for more, it would lose what it reads
            with part.guard():
                block = sound.read(asked, dtype="float32", always_2d=True)
            done += len(block)
            last = len(block) < asked or done == promised
            if start and last and done < PAD_SECONDS * rate:
                return 0.0    # not another sound, but the end of the one before
            mono = _mono(block)
            yield mono if rate == sr else resampler.resample_chunk(mono, last=last)
        missing = promised - done
        is_told = sound.format != "OGG" and not endless and sound.frames == promised
    if is_told and missing > PAD_SECONDS * rate:
        raise DamagedAudio(f"ends after {done / rate:.1f} s, {missing / rate:.1f} s before the "
                           "end that its header gives")
    return done / rate


def _next_start(file, start, seconds):
    """Find the byte where a file goes on after a sound has ended, or None where it is over.

    Files may be chained one behind the other, and headers may give too short a length.
    """
    at = file.tell()
    size = file.seek(0, os.SEEK_END)
    back = 8192     # Ogg and FLAC are read in blocks, hence beyond the end of a sound
    file.seek(max(start + 1, at - back))
    near = file.read(2 * back)
    chained = re.search(rb"OggS\x00\x02|fLaC\x00\x00\x00\x22", near)
    if chained:
        return max(start + 1, at - back) + chained.start()
    file.seek(at)
    rest = file.read(1 << 16)
    if size - at <= TAIL or not rest.strip(b"\0"):
        return None
    at += len(rest) - len(rest.lstrip(b"\0"))
    rest = rest.lstrip(b"\0")
    if rest.startswith(MP3_STARTS):
        return at
    if re.search(b"APETAGEX|LYRICSBEGIN", near):
        return None
    chunk = int.from_bytes(rest[4:8], "little")
    if re.match(rb"[A-Za-z][\w ]{3}", rest) and chunk <= size - at:
        return None     # of a WAV file
    raise DamagedAudio(f"{size - at:,} of {size:,} bytes stand behind the end that the header "
                       f"gives, after {seconds:.1f} s: they are not read")


def _decode_parts(file, sr):
    """Yield blocks of mono from all sounds of a file, one behind the other."""
    start: int | None = 0
    while start is not None:
        seconds = yield from _decode_part(file, start, sr)
        start = _next_start(file, start, seconds)


def decode_blocks(path: str | os.PathLike, sr: int) -> Iterator[np.ndarray]:
    """Decode a file, a block at a time. Never trusts the length in the header.

    Parameters
    ----------
    path : path
    sr : int [Hz]
        Rate of the result.

    Yields
    ------
    np.ndarray [shape=(n,)], float32
        Mean of the channels, or the first where they cancel each other.

    Raises
    ------
    DamagedAudio
        Where the file holds no more sound that can be read, though it should; where its header
        gives a rate or channels that no music has; and behind `MAX_HOURS`.
    OSError, MemoryError
        If the system fails, which says nothing about the file.
    """
    left = round(MAX_HOURS * 3600 * sr)
    with open(path, "rb", buffering=0) as file, closing(_decode_parts(file, sr)) as blocks:
        for block in blocks:
            yield block[:left]
            if len(block) > left:
                raise DamagedAudio(f"holds more than {MAX_HOURS:g} hours: the rest is not read")
            left -= len(block)


def audio_clips(path: str | os.PathLike, seconds: float = 30, sr: int = SR) -> Iterator[np.ndarray]:
    """Cut a file into clips, one at a time, so that no file is ever whole in memory.

    Parameters
    ----------
    path : path
    seconds : float [s]
    sr : int [Hz]

    Yields
    ------
    y : np.ndarray [shape=(seconds * sr,)], float32
        Mono; clip number i starts at `i * seconds`. A remainder that lacks at most
        `PAD_SECONDS` is padded with silence, a shorter one dropped.

    Raises
    ------
    DamagedAudio
        Where the file is damaged; the clips before come first.
    OSError, MemoryError
        As `decode_blocks`.
    ValueError
        If `seconds` hold no sample.
    """
    n = round(seconds * sr)
    if n < 1:
        raise ValueError(f"a clip of {seconds} s holds no sample at {sr} Hz")
    clip, have = np.zeros(n, np.float32), 0
    damage = None
    try:
        for block in decode_blocks(path, sr):
            while have + len(block) >= n:
                clip[have:] = block[:n - have]
                yield clip
                block = block[n - have:]
                clip, have = np.zeros(n, np.float32), 0
            clip[have:have + len(block)] = block
            have += len(block)
    except DamagedAudio as error:
        damage = error
    if have and have >= n - round(PAD_SECONDS * sr):
        yield clip
    if damage:
        raise damage


# ---------------------------------------------------------------- short-time Fourier transform

STFT_BLOCK = 48      # frames that stay in the processor's cache


def stft_power(y: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """Power of the STFT of a waveform (n,): `[shape=(1 + n_fft / 2, t)]`, float32."""
    window = scipy.signal.get_window("hann", n_fft)
    window = window.astype(np.float32)
    y = np.asarray(y, np.float32)
    padded = np.pad(y, n_fft // 2)    # frame i is centred on sample i * hop_length
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)
    frames = frames[::hop_length]
    power = np.empty((1 + n_fft // 2, len(frames)), np.float32)
    for first in range(0, len(frames), STFT_BLOCK):
        block = slice(first, first + STFT_BLOCK)
        windowed = frames[block] * window
        spectra = scipy.fft.rfft(windowed.T, axis=0, workers=1)
        parts = spectra.view(np.float32)    # real and imaginary parts in turn
        parts *= parts
        real = parts[:, ::2]
        imaginary = parts[:, 1::2]
        np.add(real, imaginary, out=power[:, block])
    return power


# ---------------------------------------------------------------- mel scale


def hz_to_mel(f: Any) -> Any:
    """Convert Hz to mel, m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987; HTK)."""
    return 2595 * np.log10(1 + np.asarray(f) / 700)


def mel_to_hz(m: Any) -> Any:
    """Convert mel to Hz, the inverse of `hz_to_mel`."""
    return 700 * (10 ** (np.asarray(m) / 2595) - 1)


def mel_centres(sr: float, n_mels: int) -> np.ndarray:
    """Frequency in Hz at the top of each triangle of `mel_filters`."""
    place = np.arange(1, n_mels + 1) / (n_mels + 1)
    top = hz_to_mel(sr / 2)
    return mel_to_hz(place * top)


@functools.lru_cache(maxsize=8)
def mel_filters(sr: float, n_fft: int, n_mels: int) -> "scipy.sparse.csr_array":
    """Triangles of height 1 on the HTK mel scale, `[shape=(n_mels, 1 + n_fft / 2)]`."""
    filters = _librosa().filters.mel(sr=sr, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None)
    return scipy.sparse.csr_array(filters)


# ---------------------------------------------------------------- pink-noise floor

FLOOR_TOP = 9600.0   # Hz: codecs and resamplers cut above
BAND_BINS = 8        # tiles of so many bins ...
TILE_FRAMES = 4      # ... and frames, over which the power is averaged before any quantile
Q_TIME = 0.10        # low quantiles: music only ever adds power to the floor
Q_BANDS = 0.03
SLOPES = (0.8, 0.9, 1.0, 1.1, 1.2)
# logistic function of what `floor_measures` finds: constant, log gap, log drift, depth / 10, grain
PRESENCE = (33.33, -1.30, -1.84, -2.65, 60.74)
LIFT = (3.22, 0.88)   # dB by which music lifts the level: 3.22 gap - 0.88
TINY = 1e-30         # instead of 0, for logarithms
CUT_FALL = 100.0     # factor of power, 20 dB, by which a codec's or resampler's cut falls ...
CUT_BANDS = 16       # ... from so many bands below it
LEAST_BANDS = 12     # below the cut: fewer tell nothing


@functools.lru_cache(maxsize=16)
def pink_template(n_fft: int, sr: float, slope: float = 1.0) -> np.ndarray:
    """Expected STFT power of unit-variance 1/f^slope noise, by Wiener-Khinchin.

    The expectation is the transform of the noise's autocorrelation times the window's.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, 1)], float32
    """
    psd = pink_psd(32 * n_fft, sr, slope)
    of_noise = np.fft.irfft(psd)[:n_fft]
    window = scipy.signal.get_window("hann", n_fft)
    spectrum = np.fft.rfft(window, 2 * n_fft)
    of_window = np.fft.irfft(np.abs(spectrum) ** 2)[:n_fft]
    product = of_noise * of_window
    half = np.fft.rfft(product, 2 * n_fft).real
    power = 2 * half - product[0]     # both halves of an even function share lag 0
    return power[::2, None].astype(np.float32)


def _heard(power):
    """Power of the frames that are not digital silence, which tells nothing."""
    loudness = power[1:64].mean(0)
    heard = loudness > 1e-8 * loudness.max(initial=0)
    return power if heard.all() else power[:, heard]


@functools.lru_cache(maxsize=16)
def _band_means(n_fft, sr):
    """Matrix from power to its means in bands, in units of pink noise: `(bands, bins)`."""
    top = int(FLOOR_TOP * n_fft / sr)
    bands = min(1 + n_fft // 2, top) // BAND_BINS
    bins = np.arange(bands * BAND_BINS)
    template = pink_template(n_fft, sr)[bins, 0]
    share = 1 / (BAND_BINS * template)
    places = (bins // BAND_BINS, bins)
    return scipy.sparse.csr_array((share, places), shape=(bands, 1 + n_fft // 2))


def _tiles(power, n_fft, sr):
    """Means of the power in tiles, in units of pink noise: `[shape=(bands, times)]`."""
    means = _band_means(n_fft, sr) @ power
    times = power.shape[1] // TILE_FRAMES
    whole = means[:, :times * TILE_FRAMES]
    return whole.reshape(len(means), times, TILE_FRAMES).mean(2)


def _quantiles(rows, share):
    """Quantiles of each row; NumPy finds them faster where it is sorted."""
    return np.quantile(np.sort(rows, axis=1), share, axis=1)


def _bands_below_cut(quiet, loud):
    """Count the bands below a codec's or resampler's cut: all of them where there is none.

    Each band is known by a low and a high quantile of its power over time. A cut is a sharp fall
    that holds over the whole clip: all that is above, even at its loudest, is far below what the
    bands under it hold at their quietest. Dark music is no such case: its pauses are as empty
    below.
    """
    loudest_above = np.maximum.accumulate(loud[::-1])[::-1]
    fallen = loudest_above * CUT_FALL < quiet.max()
    for first in np.flatnonzero(fallen):
        if first < LEAST_BANDS:
            continue
        around = quiet[max(0, first - CUT_BANDS):first]
        filled = np.median(around)
        if loudest_above[first] * CUT_FALL < filled:
            whole = np.flatnonzero(quiet[:first] > filled / 2)   # the slope of the cut is left out
            return max(whole[-1], LEAST_BANDS)
    return len(quiet)


def _level(tiles, tilt=1.0):
    low = _quantiles(tiles, Q_TIME)
    return float(np.quantile(low * tilt, Q_BANDS))


@functools.lru_cache(maxsize=64)
def _level_bias(n_fft, hop_length, sr, times):
    """What `_level` says of pure pink noise of variance 1, below 1 as low quantiles are."""
    levels = []
    for seed in range(1 + 160 // times):
        noise = pink_noise(times * TILE_FRAMES * hop_length, seed)
        power = stft_power(noise, n_fft, hop_length)
        tiles = _tiles(power, n_fft, sr)
        levels.append(_level(tiles))
    return float(np.mean(levels))


@functools.lru_cache(maxsize=16)
def _tilts(n_fft, sr, bands):
    """What turns units of 1/f noise into those of the other `SLOPES`: `(slopes, bands)`."""
    tilts = []
    for slope in SLOPES:
        ratio = pink_template(n_fft, sr) / pink_template(n_fft, sr, slope)
        of_bands = ratio[:bands * BAND_BINS].reshape(bands, -1)
        tilts.append(of_bands.mean(1))
    return np.array(tilts)


class Floor(NamedTuple):
    """A floor of pink noise: see `pink_floor`."""

    variance: float      # in units of the squared waveform
    slope: float         # of the spectrum, 1/f^slope
    presence: float      # 0: there is none; between: uncertain; 1

    def power(self, n_fft: int = N_FFT, sr: float = SR) -> np.ndarray:
        """Expected STFT power of the noise that is believed, `[shape=(1 + n_fft / 2, 1)]`."""
        template = pink_template(n_fft, sr, self.slope)
        return self.variance * self.presence * template


class FloorMeasures(NamedTuple):
    """What `pink_floor` decides on.

    Attributes
    ----------
    level : float
        Of the floor: variance of the noise.
    slope : float
        That with which the lowest bands agree best, 1 where the gain in agreement is small.
    gap : float [dB]
        How far the 20 % quantile over bands lies above the level: about 0.3 in noise.
    drift : float [dB]
        Standard deviation of the level over four quarters of the clip.
    depth : float [dB]
        How far the level lies below the mean power of the clip, in units of pink noise.
    grain : float
        Mean of log power less log of mean power in the tiles of the lowest bands that are quiet
        for their band: the upper quartile of these tiles. In Gaussian noise a cell's power is
        exponential, whose logarithm has a mean of -0.577 (Euler's constant) below the logarithm
        of the mean: about -0.45 in the upper quartile, whatever the level. In music, lines and
        decays make it lower in all tiles; a codec that drops cells does so in some.
    """

    level: float
    slope: float
    gap: float
    drift: float
    depth: float
    grain: float


NOTHING_MEASURED = FloorMeasures(0.0, 1.0, np.inf, np.inf, np.inf, -np.inf)


def _drift(tiles, tilt):
    quarters = np.array_split(tiles, 4, axis=1)
    levels = [_level(quarter, tilt) for quarter in quarters]
    in_db = 10 * np.log10(np.maximum(levels, TINY))
    return np.std(in_db)


def _grain(power, height, n_fft, sr):
    """Grain of the quiet tiles of the lowest bands, by their `height`: see `FloorMeasures`."""
    count = max(4, len(height) // 8)
    lowest = np.argsort(height)[:count]
    bins = lowest[:, None] * BAND_BINS + np.arange(BAND_BINS)
    flat = power[bins] / pink_template(n_fft, sr)[bins]
    times = power.shape[1] // TILE_FRAMES
    whole = flat[:, :, :times * TILE_FRAMES]
    cells = whole.reshape(count, BAND_BINS, times, TILE_FRAMES)
    tiles = cells.mean(1).mean(2)
    quiet = tiles <= np.quantile(tiles, 0.25, axis=1, keepdims=True)
    log_of_cells = np.log(cells + TINY).mean((1, 3))
    grain = log_of_cells - np.log(tiles + TINY)
    return float(np.quantile(grain[quiet], 0.75))


def floor_measures(
    power: np.ndarray,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
    sr: float = SR,
) -> FloorMeasures:
    """Measure what `pink_floor` decides on, from a power spectrogram (1 + n_fft / 2, t).

    A level of 0 and gaps without end where the clip is too short or silent.
    """
    power = _heard(power)
    tiles = _tiles(power, n_fft, sr)
    times = tiles.shape[1]
    if times < 4 or not tiles.any():
        return NOTHING_MEASURED
    quiet, loud = _quantiles(tiles, (Q_TIME, 1 - Q_TIME))
    bands = _bands_below_cut(quiet, loud)
    tiles = tiles[:bands]
    low = quiet[:bands]
    tilts = _tilts(n_fft, sr, bands)
    quantiles = np.quantile(low * tilts, (Q_BANDS, 0.2), axis=1)
    levels, above = np.maximum(quantiles, TINY)
    gaps = 10 * np.log10(above / levels)
    steepness = np.abs(np.array(SLOPES) - 1)
    best = np.argmin(np.log(gaps + 0.02) + 2 * steepness)
    tilt = tilts[best]
    level = levels[best]
    bias = _level_bias(n_fft, hop_length, sr, 2 ** int(np.log2(min(times, 160))))
    return FloorMeasures(
        level=level / bias,
        slope=SLOPES[best],
        gap=gaps[best],
        drift=_drift(tiles, tilt),
        depth=10 * np.log10(tiles.mean() / level),
        grain=_grain(power, low * tilt, n_fft, sr),
    )


def pink_floor(
    power: np.ndarray,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
    sr: float = SR,
) -> Floor:
    """Estimate the pink noise in a recording from its power spectrogram alone.

    In units of 1/f noise a pink floor is flat and steady, and music only adds to it: a low
    quantile over time and then over frequency sees the floor. It is believed where the lowest
    bands agree and have the grain of Gaussian noise (they do not in music), where the level
    holds still, and where it is not far below the music: a logistic function of the four
    (`FloorMeasures`), fitted on recorded music at 0 to 20 dB and without noise. Where bands
    disagree, music has lifted the lowest ones too, and the level is lowered by as much.

    Parameters
    ----------
    power : np.ndarray [shape=(1 + n_fft / 2, t)]
        Power of the STFT with a Hann window. Digital silence is left out.
    n_fft, hop_length : int [samples]
    sr : int [Hz]

    Returns
    -------
    Floor
        Its presence is 0 for clips too short to tell (about a second).

    References
    ----------
    R. Martin, "Noise power spectral density estimation based on optimal smoothing and minimum
    statistics", IEEE TSAP 9(5), 2001: the idea of low quantiles and their bias.
    """
    found = floor_measures(power, n_fft, hop_length, sr)
    if found.gap > 3:    # no noise of these slopes, or nothing to measure
        return Floor(variance=0.0, slope=1.0, presence=0.0)
    log_gap = np.log(found.gap + 0.05)
    log_drift = np.log(found.drift + 0.05)
    evidence = (1, log_gap, log_drift, found.depth / 10, found.grain)
    logit = np.dot(PRESENCE, evidence)
    presence = np.clip((logit - 0.5) / 1.5, 0, 1)
    lift = max(0, LIFT[0] * found.gap - LIFT[1])
    variance = found.level / 10 ** (lift / 10)
    return Floor(float(variance), found.slope, float(presence))


# ---------------------------------------------------------------- noise removal

WEIGHTS = Path(__file__).resolve().parent / "runs" / "recorded" / "pink-gain" / "gain.npz"
SEEN = 1e-3          # of the floor: what lies below is nothing to a gain
SEEN_MEANS = (5, 25)            # frames over which the gain of bands sees means, besides each
SEEN_QUANTILES = (0.1, 0.5, 0.9)      # of each band over the clip
GAIN_DILATIONS = (1, 2, 4, 8)   # of its blocks
GAIN_REACH = 3 * sum(GAIN_DILATIONS) + max(SEEN_MEANS) // 2    # frames to either side it sees
# averages that the gain of bins sees around each cell, as (rows, frames): tones last, onsets are
# broad
BOXES = ((1, 1), (1, 3), (1, 5), (1, 15), (1, 51), (3, 1), (5, 1), (17, 1), (3, 3), (17, 3),
         (5, 5), (61, 5), (3, 15))
GAIN_MARGIN = max(frames for rows, frames in BOXES) // 2   # frames it sees to either side
GAIN_BLOCK = 216     # frames of bins that nearly stay in the cache
BAND_BLOCK = 1024    # frames of bands: what a block costs at its edges is small
# without weights: an average along time for tones, one along frequency for onsets; bands want the
# wide ones (8 recorded excerpts, 10 dB: error of the code 12.6 dB, 12.9 with those near)
WIENER_BOXES = {"bins": ((1, 5), (3, 1)), "bands": ((1, 15), (17, 1))}
WIENER_BIAS = 2.0    # of the larger of both averages, in noise alone: its power, and the maximum's


def _weights_in(path, without):
    """Arrays of a file by name, float32; none, and a warning, where it is missing."""
    try:
        with np.load(path) as kept:
            weights = {name: kept[name].astype(np.float32) for name in kept.files}
    except FileNotFoundError:
        warnings.warn(f"no {path.name} beside Music.py (under runs): {without}", stacklevel=4)
        return {}
    for name in [name for name in weights if name.endswith(".unit")]:
        weights[name.removesuffix(".unit")] *= weights.pop(name)   # kept in 8 bits a weight
    return weights


@functools.lru_cache(maxsize=1)
def gain_weights() -> dict[str, np.ndarray]:
    """Weights of the learned gains; none, and a warning, where their file is missing."""
    return _weights_in(WEIGHTS, "pink noise is removed by Wiener's formula, less well than by the "
                                "learned gain")


def _linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normalised(x, weights, name):
    rows = x - x.mean(1, keepdims=True)
    variance = np.einsum("tn,tn->t", rows, rows) / x.shape[1]
    rows /= np.sqrt(variance + 1e-5)[:, None]
    rows *= weights[f"{name}.weight"]
    rows += weights[f"{name}.bias"]
    return rows


def _over_time(x, taps, dilation):
    """Weighted sum of rows around each row, by column: `taps` (odd, columns)."""
    reach = len(taps) // 2 * dilation
    padded = np.pad(x, ((reach, reach), (0, 0)))
    total = np.zeros_like(x)
    part = np.empty_like(x)
    for k, tap in enumerate(taps):
        first = k * dilation
        total += np.multiply(tap, padded[first:first + len(x)], out=part)
    return total


def _gelu(x):
    return x * scipy.special.ndtr(x)


def _relu(x):
    return np.maximum(x, 0)


def _residual_block(x, weights, name, dilation, activation):
    """Rows (t, n), changed by what lies around each: ConvNeXt's block (Liu 2022) over time."""
    near = _over_time(x, weights[f"{name}.taps"], dilation)
    up = _linear(_normalised(near, weights, f"{name}.norm"), weights, f"{name}.up")
    down = _linear(activation(up), weights, f"{name}.down")
    down *= weights[f"{name}.scale"]
    down += x
    return down


def band_features(ratio: np.ndarray) -> np.ndarray:
    """Describe the mel bands of a clip to the learned gain.

    Parameters
    ----------
    ratio : np.ndarray [shape=(N_MELS, t)]
        Power in units of the noise floor.

    Returns
    -------
    np.ndarray [shape=(1 + len(SEEN_MEANS), N_MELS, t)], float32
        Logarithms of the power and of its means over time.
    """
    features = np.empty((1 + len(SEEN_MEANS), *ratio.shape), np.float32)
    features[0] = ratio
    for mean, frames in zip(features[1:], SEEN_MEANS):
        scipy.ndimage.uniform_filter1d(ratio, frames, axis=1, output=mean, mode="nearest")
    features += SEEN
    return np.log(features, out=features)


def _gain_of_frames(features, whole, weights):
    """Gain of the frames of a block `(means, bands, t)`, each by those around it."""
    frames = features.transpose(2, 0, 1).reshape(features.shape[2], -1)
    h = _linear(frames, weights, "bands.embed") + whole
    for number, dilation in enumerate(GAIN_DILATIONS):
        h = _residual_block(h, weights, f"bands.blocks.{number}", dilation, _relu)
    logit = _linear(_normalised(h, weights, "bands.norm"), weights, "bands.head")
    own = weights["bands.own"]
    for mean, weight in zip(np.split(frames, len(own), axis=1), own):
        logit += weight * mean
    return scipy.special.expit(logit).T


class _Block(NamedTuple):
    """Frames of a clip that are computed together."""

    own: slice       # of the clip
    around: slice    # of the clip, with those to either side that are seen
    inside: slice    # of those around, its own


def _blocks(frames, size, reach):
    """Blocks of so many frames, each seeing `reach` frames to either side."""
    for first in range(0, frames, size):
        start = max(0, first - reach)
        own = slice(first, first + size)
        around = slice(start, first + size + reach)
        inside = slice(first - start, first - start + size)
        yield _Block(own, around, inside)


def _learned_band_gain(ratio):
    """Gain of each band and frame by the network whose weights ship."""
    weights = gain_weights()
    features = band_features(ratio)
    gain = np.empty_like(features[0])
    with _one_thread():
        levels = _quantiles(features[0], SEEN_QUANTILES).astype(np.float32)
        whole = weights["bands.clip.weight"] @ levels.ravel()
        for block in _blocks(ratio.shape[1], BAND_BLOCK, GAIN_REACH):
            found = _gain_of_frames(features[:, :, block.around], whole, weights)
            gain[:, block.own] = found[:, block.inside]
    return gain


def bands_around(
    power: np.ndarray,
    floor: Floor,
    n_fft: int = 2 * N_FFT,
    hop_length: int = N_FFT // 2,
    sr: float = SR,
) -> np.ndarray:
    """What the gain of bands, which hears whole frames, tells the gain of bins.

    Parameters
    ----------
    power : np.ndarray [shape=(1 + n_fft / 2, t)]
    floor : Floor
        With some presence.

    Returns
    -------
    np.ndarray [shape=(3, N_MELS, t)], float32
        Logit of the gain of each band, its mean over `SEEN_MEANS[0]` frames, and the logarithm of
        the band's power in units of the floor.
    """
    filters = _usual_filters(sr, n_fft)
    ratio = _over_floor(filters @ power, filters, floor, n_fft, sr)
    closer = max(1, round(_closer(n_fft, hop_length)))
    gain = np.clip(_band_gain(ratio, closer), 1e-6, 1 - 1e-6)
    logit = scipy.special.logit(gain)
    steady = scipy.ndimage.uniform_filter1d(logit, SEEN_MEANS[0], axis=1, mode="nearest")
    return np.stack([logit, steady, np.log(ratio + SEEN)]).astype(np.float32)


def _closer(n_fft, hop_length):
    """How many times closer frames are than those that the gain of bins was trained on."""
    return n_fft / 4 / hop_length


def _between_bands(bands, hz):
    """Rows of bands `(..., N_MELS, t)`, interpolated in mel to some frequencies in Hz."""
    centres = hz_to_mel(mel_centres(SR, N_MELS))
    place = np.interp(hz_to_mel(hz), centres, np.arange(N_MELS))
    below = place.astype(int)
    above = np.minimum(below + 1, N_MELS - 1)
    share = (place - below).astype(np.float32)[:, None]
    return (1 - share) * bands[..., below, :] + share * bands[..., above, :]


def bin_features(
    ratio: np.ndarray,
    bands: np.ndarray,
    hz: np.ndarray,
    mean: float,
    stretch: float = 1.0,
) -> np.ndarray:
    """Describe what lies around each cell of an STFT, for the learned gain.

    Parameters
    ----------
    ratio : np.ndarray [shape=(bins, t)]
        Power in units of the noise floor.
    bands : np.ndarray [shape=(3, N_MELS, t)]
        From `bands_around`.
    hz : np.ndarray [shape=(bins,)]
        Frequency of each bin.
    mean : float
        Mean of `ratio` over the whole clip.
    stretch : float
        How many times closer frames are than those that the gain was trained on.

    Returns
    -------
    np.ndarray [shape=(len(BOXES) + 2 + len(bands), bins, t)], float32
        Logarithms of the averages, of the frequency and of the mean; what the bands tell.
    """
    averages = len(BOXES)
    features = np.empty((averages + 2 + len(bands), *ratio.shape), np.float32)
    for average, (rows, frames) in zip(features, BOXES):
        frames = 2 * round((frames - 1) / 2 * stretch) + 1
        scipy.ndimage.uniform_filter(ratio, (rows, frames), average, mode="nearest")
    logarithms = features[:averages + 2]
    logarithms[:averages] += SEEN
    logarithms[averages] = np.asarray(hz)[:, None] + 20
    logarithms[averages + 1] = mean
    np.log(logarithms, out=logarithms)
    features[averages + 2:] = _between_bands(bands, hz)
    return features


def _learned_bin_gain(ratio, bands, hz, stretch):
    """Gain of each bin and frame by the network whose weights ship."""
    weights = gain_weights()
    mean = float(ratio.mean())
    margin = int(np.ceil(GAIN_MARGIN * stretch))
    gain = np.empty_like(ratio)
    for block in _blocks(ratio.shape[1], GAIN_BLOCK, margin):
        near = block.around
        features = bin_features(ratio[:, near], bands[..., near], hz, mean, stretch)
        inside = features[:, :, block.inside]
        h = inside.reshape(len(inside), -1)
        with _one_thread():
            for layer in range(3):
                matrix = weights[f"bins{layer}"]
                if layer:
                    np.maximum(h, 0, out=h)
                h = matrix[:, :-1] @ h
                h += matrix[:, -1:]          # the last column is the bias
        gain[:, block.own] = scipy.special.expit(h).reshape(inside.shape[1:])
    return gain


def _wiener_gain(ratio, kind):
    """Gain of each cell by Wiener's formula, of at least 0.1; of the power for bands."""
    along, across = (scipy.ndimage.uniform_filter(ratio, box, mode="nearest")
                     for box in WIENER_BOXES[kind])
    signal = np.maximum(np.maximum(along, across) - WIENER_BIAS, 0)
    gain = np.maximum(signal / (1 + signal), 0.1)
    return gain ** 2 if kind == "bands" else gain


def _band_gain(ratio, closer):
    """Gain of the mel bands of a clip whose frames are so many times closer than usual.

    Frames that are as far apart as usual are one clip of their own.
    """
    if not gain_weights():
        return _wiener_gain(ratio, "bands")
    gain = np.empty(ratio.shape, np.float32)
    for first in range(closer):
        gain[:, first::closer] = _learned_band_gain(ratio[:, first::closer])
    return gain


def noise_gain(
    power: np.ndarray,
    floor: Floor,
    n_fft: int = 2 * N_FFT,
    hop_length: int = N_FFT // 2,
    sr: float = SR,
) -> np.ndarray:
    """Gain per bin and frame that removes a floor of pink noise from a waveform's STFT.

    Trained to leave the smallest error of the waveform: an estimate of the best real factor.

    Parameters
    ----------
    power : np.ndarray [shape=(1 + n_fft / 2, t)]
    floor : Floor
        With some presence.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, t)], float32
        Factor of the magnitude, between 0 and 1.
    """
    hz = np.linspace(0, sr / 2, len(power))
    ratio = power / floor.power(n_fft, sr)
    if not gain_weights():
        return _wiener_gain(ratio, "bins")
    bands = bands_around(power, floor, n_fft, hop_length, sr)
    return _learned_bin_gain(ratio, bands, hz, _closer(n_fft, hop_length))


def band_gain(
    power: np.ndarray,
    floor: Floor,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
    sr: float = SR,
    n_mels: int = N_MELS,
) -> np.ndarray:
    """Gain per mel band and frame that removes a floor of pink noise from mel power.

    Trained to leave the smallest error in decibels, which is what codes are made of.

    Parameters
    ----------
    power : np.ndarray [shape=(1 + n_fft / 2, t)]
    floor : Floor
        With some presence.

    Returns
    -------
    np.ndarray [shape=(n_mels, t)], float32
        Factor of the mel power, between 0 and 1.
    """
    filters = _usual_filters(sr, n_fft)
    gain = _usual_band_gain(filters @ power, filters, floor, n_fft, hop_length, sr)
    if (n_mels, sr) == (N_MELS, SR):
        return gain
    # the gain was trained on N_MELS bands up to SR / 2: others lie between them, or above
    usual = mel_centres(SR, N_MELS)
    asked = mel_centres(sr, n_mels)
    frames = [np.interp(asked, usual, frame) for frame in gain.T]
    return np.transpose(frames).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _usual_filters(sr, n_fft):
    """Filters of the bands that the gain was trained on, for an STFT of any rate."""
    from librosa.filters import mel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")     # above sr / 2 they are empty
        filters = mel(sr=sr, n_fft=n_fft, n_mels=N_MELS, fmax=SR / 2, htk=True, norm=None)
    return scipy.sparse.csr_array(filters)


def _over_floor(mel, filters, floor, n_fft, sr):
    """Mel power in the bands of some filters, in units of the floor."""
    noise = filters @ floor.power(n_fft, sr)
    return mel / np.maximum(noise, TINY)


def _usual_band_gain(mel, filters, floor, n_fft, hop_length, sr):
    """Gain of `band_gain` from the mel power in the bands that it was trained on."""
    closer = max(1, round(n_fft / 2 / hop_length))
    return _band_gain(_over_floor(mel, filters, floor, n_fft, sr), closer)


def remove_pink_noise(y: np.ndarray, sr: float = SR) -> np.ndarray:
    """Remove pink noise of unknown level from a recording, and leave clean music alone.

    Noise that fades or stops is not steady and stays; hum is music to this function.

    Parameters
    ----------
    y : np.ndarray [shape=(..., n)]
        Waveform, floating point; channels are treated one by one.
    sr : int [Hz]

    Returns
    -------
    np.ndarray [shape=(..., n)], float32
        `y` itself, as float32, where no pink floor is found.

    Raises
    ------
    TypeError
        If `y` holds integers.
    ValueError
        If `y` holds samples that are not finite numbers, or time is not its last axis.
    """
    librosa = _librosa()
    y = check_waveform(y).astype(np.float32)
    if y.ndim > 1:
        cleaned = [remove_pink_noise(channel, sr) for channel in y]
        return np.reshape(cleaned, y.shape).astype(np.float32)
    window = _window_at(sr)
    hop_length = window // 2
    power = stft_power(y, window, hop_length)
    floor = pink_floor(power, window, hop_length, sr)
    if floor.presence == 0:
        return y
    longer = 2 * window     # than for codes: music is more tonal than noise
    spectrum = librosa.stft(y, n_fft=longer, hop_length=hop_length)
    power = spectrum.real ** 2 + spectrum.imag ** 2
    spectrum *= noise_gain(power, floor, longer, hop_length, sr)
    return librosa.istft(spectrum, hop_length=hop_length, length=len(y))


def _window_at(sr):
    """Samples of a window that lasts about as long as `N_FFT` samples do at `SR`."""
    octaves = round(np.log2(sr / SR))
    return int(N_FFT * 2.0 ** max(-3, octaves))


def si_sdr(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio of a waveform (n,), in dB.

    Raises
    ------
    TypeError, ValueError
        As `check_waveform`; and if the two differ in shape, or `truth` is silent.

    References
    ----------
    J. Le Roux et al., "SDR: half-baked or well done?", ICASSP 2019, arXiv 1811.02508.
    """
    estimate = check_waveform(estimate, "estimate")
    truth = check_waveform(truth, "truth")
    if estimate.shape != truth.shape or truth.ndim != 1:
        raise ValueError(f"two waveforms (n,), not {estimate.shape} and {truth.shape}")
    if not truth.any():
        raise ValueError("truth is silent: no ratio to it")
    target = truth * np.dot(estimate, truth) / np.dot(truth, truth)
    distortion = estimate - target
    with np.errstate(divide="ignore"):    # infinite where nothing is wrong
        ratio = np.sum(target ** 2) / np.sum(distortion ** 2)
        return 10 * np.log10(ratio)


def spectral_convergence(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Level of the magnitudes of a waveform (n,) above their error in another, in dB.

    Blind to phase: of STFTs with windows of 2,048 and a hop of 512 samples.
    """
    stft = functools.partial(_librosa().stft, n_fft=2048, hop_length=512)
    magnitude = np.abs(stft(truth))
    error = np.abs(stft(estimate)) - magnitude
    return 20 * np.log10(np.linalg.norm(magnitude) / np.linalg.norm(error))


def onset_agreement(estimate: np.ndarray, truth: np.ndarray, sr: float = SR) -> float:
    """Correlation of the onset strengths of two waveforms (n,)."""
    strength = _librosa().onset.onset_strength
    return np.corrcoef(strength(y=estimate, sr=sr), strength(y=truth, sr=sr))[0, 1]


# ---------------------------------------------------------------- codes


def mel_spectrogram(
    y: np.ndarray,
    sr: float = SR,
    n_mels: int = N_MELS,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
    denoise: bool = False,
) -> np.ndarray:
    """Compute the mel power spectrogram of a waveform.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
        Floating point.
    sr : int [Hz]
    n_mels : int
        Triangles of height 1, equally wide on the HTK mel scale from 0 to sr / 2.
    n_fft, hop_length : int [samples]
    denoise : bool
        Remove pink noise by `band_gain`, in the same STFT.

    Returns
    -------
    np.ndarray [shape=(n_mels, 1 + n // hop_length)], float32
        Power: a sine of amplitude A reaches (A * n_fft / 4) ** 2.

    Raises
    ------
    TypeError, ValueError
        As `check_waveform`; and if there is more than one channel, or no sample.
    """
    y = check_waveform(y)
    if y.ndim != 1 or not len(y):
        raise ValueError(f"y has the shape {y.shape}: one channel (n,) of at least a sample")
    power = stft_power(y, n_fft, hop_length)
    mel = mel_filters(sr, n_fft, n_mels) @ power
    if not denoise:
        return mel
    floor = pink_floor(power, n_fft, hop_length, sr)
    if floor.presence == 0:
        return mel
    if (n_mels, sr) == (N_MELS, SR):
        filters = mel_filters(sr, n_fft, n_mels)
        mel *= _usual_band_gain(mel, filters, floor, n_fft, hop_length, sr)
    else:
        mel *= band_gain(power, floor, n_fft, hop_length, sr, n_mels)
    return mel


def code_from_mel(mel: np.ndarray) -> np.ndarray:
    """Map mel power to codes: dB between `DB_RANGE`, linearly to [-1, 1], clipped."""
    low, high = DB_RANGE
    least = 10 ** (low / 10)
    db = 10 * np.log10(np.maximum(mel, least))
    code = 2 * (db - low) / (high - low) - 1
    return np.clip(code, -1, 1)


def db_from_code(code: np.ndarray) -> np.ndarray:
    """Map codes in [-1, 1] to mel power in dB."""
    low, high = DB_RANGE
    share = (np.asarray(code, np.float32) + 1) / 2
    return low + share * (high - low)


# ---------------------------------------------------------------- codes to sound

SOUND_BLOCK = 1500   # frames that become sound at once: bounds the memory
SOUND_OVERLAP = 32   # frames that blocks share: their edges differ, their middles agree
CACHE_ROWS = 128     # frames that stay in the processor's cache


def _peak_bins(mel, filters):
    """Frequency, in bins, of the sine that each band of each frame belongs to: `(t, bands)`.

    Triangles that overlap by half interpolate linearly, so that the centroid of the bands
    around a peak is that of its bins: a sine's frequency, far finer than a band. Also returns
    the band of the peak on whose slope each band lies.
    """
    bands = np.arange(len(filters))
    bins = np.arange(filters.shape[1])
    centers = filters @ bins / np.maximum(filters.sum(1), 1e-6)
    narrow = np.gradient(centers) < 1.75
    lobe = np.where(narrow, 2, 1)   # a sine's lobe spans several low bands
    apart = np.abs(bands[:, None] - bands)
    near = (apart <= lobe).astype(np.float32)
    centroid = (mel * centers) @ near / np.maximum(mel @ near, 1e-20)
    centroid[:, 0] = 0   # what peaks in the lowest band is an offset, no tone
    around = np.pad(mel, ((0, 0), (1, 1)), constant_values=-1)
    left = around[:, :-2]
    right = around[:, 2:]
    uphill = np.argmax([mel, left, right], axis=0)
    peak = bands + np.take((0, -1, 1), uphill)
    peak = np.take_along_axis(peak, peak, 1)   # follow the slope once more
    return np.take_along_axis(centroid, peak, 1), peak, centers


def _first_phase(mel, filters, n_fft, hop_length, start, seed):
    """Phase of every bin if each peak of the bands were a sine (Beauregard, DSP 2015).

    Bins follow the peak on whose slope they lie; each band has its own phase at frame 0, from
    `seed`. Returns the phase in radians `[shape=(t, bins)]` and the sum over frames behind it,
    whose first row is `start`.
    """
    frequency, peak, centers = _peak_bins(mel, filters)
    bins = np.arange(filters.shape[1])
    nearest_band = np.abs(bins[:, None] - centers).argmin(1)
    step = 2 * np.pi * hop_length / n_fft * frequency[:, nearest_band]
    before = np.vstack([0 * step[:1], step[:-1]])
    turned = start + np.cumsum(before, axis=0, dtype=np.float64)
    rng = np.random.default_rng(seed)
    phase_of_band = rng.uniform(0, 2 * np.pi, len(filters))
    first = phase_of_band[peak[:, nearest_band]]
    return turned + first + np.pi * bins, turned   # pi: a frame's middle is its time 0


class _Frames:
    """Overlapping frames of a waveform whose mel power `[shape=(t, bands)]` is to become `mel`."""

    def __init__(self, mel, n_fft, hop_length):
        self.mel = mel
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.window = scipy.signal.get_window("hann", n_fft).astype(np.float32)
        # quiet frames must not be decided by the loud ones that they overlap
        self.weight = mel.sum(1, keepdims=True) ** -0.5 * self.window
        self.rows = []
        for first in range(0, len(mel), CACHE_ROWS):
            last = min(first + CACHE_ROWS, len(mel))
            self.rows.append(slice(first, last))
        overlap = self._add([self.weight * self.window])
        self.norm = np.maximum(overlap, 1e-9)

    def _add(self, blocks):
        """Overlap and add frames that come in blocks."""
        hop = self.hop_length
        y = np.zeros((len(self.mel) + self.n_fft // hop, hop), np.float32)
        first = 0
        for block in blocks:
            for late, left in enumerate(range(0, self.n_fft, hop)):
                piece = block[:, left:left + hop]
                at = first + late
                y[at:at + len(block), :piece.shape[1]] += piece
            first += len(block)
        whole = y.ravel()[self.n_fft // 2:]
        return whole[:(len(self.mel) - 1) * hop]

    def _weighted(self, spectra):
        for rows, spectrum in zip(self.rows, spectra):
            yield scipy.fft.irfft(spectrum, self.n_fft) * self.weight[rows]

    def join(self, spectra):
        """Waveform whose frames come nearest to `spectra`, given in the blocks of `rows`."""
        return self._add(self._weighted(spectra)) / self.norm

    def corrected(self, y, filters, back):
        """Spectra of `y`, the magnitudes scaled by what the bands lack, in blocks."""
        low, high = DB_RANGE
        least = 10 ** (low / 10)
        most = 10 ** (high / 10)
        padded = np.pad(y, self.n_fft // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)
        frames = frames[::self.hop_length]
        for rows in self.rows:
            spectrum = scipy.fft.rfft(frames[rows] * self.window)
            power = spectrum.real ** 2 + spectrum.imag ** 2
            # beyond its range the code says nothing: there bands stay as they are
            now = np.clip(power @ filters.T, least, most)
            lack = np.log(self.mel[rows] / now)
            spectrum *= np.exp(0.5 * lack @ back)
            yield spectrum


def _largest_divisor(number, at_most):
    """Largest whole number up to `at_most`, and at least 1, that divides `number`."""
    for divisor in range(at_most, 1, -1):
        if number % divisor == 0:
            return divisor
    return 1


def _interpolated(code, finer):
    """Rows of a code `(t, bands)`, and `finer - 1` more between each two."""
    at = np.arange((len(code) - 1) * finer + 1) / finer
    left = at.astype(int)
    right = np.minimum(left + 1, len(code) - 1)
    part = (at % 1).astype(np.float32)[:, None]
    return code[left] + part * (code[right] - code[left])


def _first_spectra(frames, magnitude, phase):
    for rows in frames.rows:
        turn = np.exp(1j * phase[rows]).astype(np.complex64)
        yield magnitude[rows] * turn


def _spread(filters):
    """Share of each band in each bin `(bands, bins)`: turns levels of bands into those of bins."""
    back = filters / np.maximum(filters.sum(0), 1e-6)
    back[:, 0] = back[:, 1]     # no triangle covers the ends
    back[:, -1] = back[:, -2]
    return back


def _corrected_sound(y, frames, filters, n_iter, momentum):
    """Steps of fast Griffin-Lim that change magnitudes only by what their bands lack."""
    back = _spread(filters)
    last = y
    for _ in range(n_iter):
        now = np.clip(y, -1, 1)
        ahead = now + momentum * (now - last)
        last = now
        y = frames.join(frames.corrected(ahead, filters, back))
    return y


def _sound_from_bands(code, start, sr, n_fft, hop_length, n_iter, seed):
    """Sound of the rows of `code`, and the turned phase at the row where the next block starts."""
    filters = mel_filters(sr, n_fft, code.shape[1]).toarray()
    finer = _largest_divisor(hop_length, at_most=8 * hop_length // n_fft)
    rows = _interpolated(code, finer)
    mel = 10 ** (db_from_code(rows) / 10)
    frames = _Frames(mel, n_fft, hop_length // finer)
    phase, turned = _first_phase(mel, filters, n_fft, hop_length // finer, start or 0.0, seed)
    density = mel / np.maximum(filters.sum(1), 0.1)
    magnitude = np.sqrt(np.where(rows > -1, density, 0) @ _spread(filters))
    y = frames.join(_first_spectra(frames, magnitude, phase))
    between = n_iter // 4   # then frames between those of the code have done their part
    y = _corrected_sound(y, frames, filters, between, momentum=0.99)
    frames = _Frames(mel[::finer], n_fft, hop_length)
    y = _corrected_sound(y, frames, filters, n_iter - between, momentum=0.9)
    next_start = min(SOUND_BLOCK * finer, len(turned) - 1)
    return y, turned[next_start] % (2 * np.pi)


INVERSION = WEIGHTS.parents[1] / "inversion" / "inversion.npz"
INVERTED = (SR, N_FFT, HOP_LENGTH, N_MELS)   # sizes that the learned inversion is for
FINER = 2            # frames of its magnitudes in each hop of the code
DILATIONS = (1, 1, 2, 1)   # of its blocks; the first stands before the frames are doubled
FOLLOWED = 7         # times that the way to a peak is doubled: 128 bins


@functools.lru_cache(maxsize=1)
def inversion_weights() -> dict[str, np.ndarray]:
    """Weights of the learned inversion; none, and a warning, where their file is missing."""
    return _weights_in(INVERSION, "sound is made from the bands alone, less well than by the "
                                  "learned inversion")


def fine_magnitudes(code: np.ndarray) -> np.ndarray:
    """Guess the STFT from a code, at twice its frames: what the bands blur, a network has learned.

    Parameters
    ----------
    code : np.ndarray [shape=(n_mels, t)]
        Of the default sizes.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, 2 t - 1)], float32
        Natural logarithm of the magnitudes for hops of half the code's.

    Raises
    ------
    FileNotFoundError
        If the weights are missing.

    References
    ----------
    Z. Liu et al., "A ConvNet for the 2020s", CVPR 2022: the blocks, here over time alone.
    """
    weights = inversion_weights()
    if not weights:
        raise FileNotFoundError(f"{INVERSION} is missing: no fine magnitudes without its weights")
    rows = np.asarray(code, np.float32).T
    filters = mel_filters(SR, N_FFT, N_MELS).toarray()
    back = _spread(filters)
    flat = np.log(np.maximum(filters.sum(1), 0.1))
    log_power = np.log(10) / 10 * db_from_code(rows)
    base = (log_power - flat) @ back / 2
    padded = np.pad(rows, ((1, 1), (0, 0)))
    three = np.hstack([padded[:-2], padded[1:-1], padded[2:]])
    with _one_thread():
        h = _linear(three, weights, "embed")
        for number, dilation in enumerate(DILATIONS):
            h = _residual_block(h, weights, f"blocks.{number}", dilation, _gelu)
            if number == 0:
                h = _interpolated(h, FINER)
        change = _linear(_normalised(h, weights, "norm"), weights, "head")
    return (change + _interpolated(base, FINER)).T.astype(np.float32)


class _Bands:
    """The power `mel` `(t, bands)` that the bands have in every second frame of magnitudes."""

    def __init__(self, code):
        low, high = DB_RANGE
        self.least = 10 ** (low / 10)
        self.most = 10 ** (high / 10)
        self.filters = mel_filters(SR, N_FFT, N_MELS).toarray().astype(np.float32)
        self.back = _spread(self.filters).T
        self.mel = 10 ** (db_from_code(code) / 10)
        heard = (code > -1) @ self.back.T    # bins of bands that are silent hold nothing
        self.heard = _interpolated(heard, FINER).T > 0

    def held(self, size, own, share=1.0):
        """Magnitudes `size` `(bins, frames)`, scaled by a share of what the bands of `own` lack."""
        power = self.filters @ own[:, ::FINER] ** 2
        lack = np.log(self.mel.T / np.clip(power, self.least, self.most)) / 2
        change = np.clip(share * self.back @ lack, -2, 2)
        return size * np.exp(_interpolated(change.T, FINER).T)


def _peaks_of_bins(log_size):
    """The peak that each bin `(bins, t)` belongs to, and the turn of its sine in radians a hop.

    A Hann window shows a sine of a frequency between two bins in a known ratio.
    """
    bins = np.arange(len(log_size))[:, None]
    padded = np.pad(log_size, ((1, 1), (0, 0)), constant_values=-1e4)
    below = padded[:-2]
    above = padded[2:]
    uphill = np.where(above > below, 1, -1)
    higher = np.maximum(below, above)
    peak = bins + np.where(log_size >= higher, 0, uphill)
    for _ in range(FOLLOWED):
        peak = np.take_along_axis(peak, peak, 0)
    ratio = np.exp(np.minimum(higher - log_size, 0))
    offset = (2 * ratio - 1) / (ratio + 1)
    frequency = bins + uphill * np.clip(offset, -0.5, 0.5)
    turn = 2 * np.pi * HOP_LENGTH / FINER / N_FFT * frequency
    return peak, np.take_along_axis(turn, peak, 0)


def _phase_of_peaks(log_size, start, seed):
    """Phase of every bin if each peak were a sine (Beauregard 2015): `(bins, t)`, and all states.

    A state is the phase and the turn of each bin at a frame; `start` is that of the first.
    """
    peak, turn = _peaks_of_bins(log_size)
    rng = np.random.default_rng(seed)
    random = rng.uniform(0, 2 * np.pi, len(log_size))
    phase, before = start or (random, turn[:, 0])
    states: list[tuple[np.ndarray, np.ndarray]] = []
    near = 2 * np.pi * HOP_LENGTH / FINER / N_FFT    # a bin
    for own, now in zip(peak.T, turn.T):
        if states or start is None:
            same = np.abs(before[own] - now) < near
            mean = (now + before[own]) / 2
            phase = phase[own] + np.where(same, mean, now)
        phase = phase % (2 * np.pi)
        states.append((phase, now))
        before = now
    return np.array([phase for phase, _turn in states]).T, states


def _fast_griffin_lim(size, phase, bands, n_iter):
    """Sound whose STFT has nearly these magnitudes `(bins, t)`, from a first phase on.

    Frames that overlap never agree wholly, and what is lost is power: every few steps the
    magnitudes are raised by what the sound's own bands lack.
    """
    librosa = _librosa()
    hop = HOP_LENGTH // FINER
    samples = (size.shape[1] - 1) * hop
    middle = np.pi * np.arange(len(size))[:, None]    # a frame's middle is its time 0
    spectrum = size * np.exp(1j * (phase + middle))
    spectrum = spectrum.astype(np.complex64)
    last = None
    for step in range(n_iter):
        y = librosa.istft(spectrum, hop_length=hop, length=samples)
        now = librosa.stft(y, n_fft=N_FFT, hop_length=hop)
        if 3 * step >= n_iter and step % 4 == 0:
            size = bands.held(size, np.abs(now), share=0.5)
        ahead = now if last is None else now + 0.99 * (now - last)
        last = now
        spectrum = size * ahead / np.maximum(np.abs(ahead), 1e-9)
    return librosa.istft(spectrum, hop_length=hop, length=samples)


def _sound_from_magnitudes(code, start, n_iter, seed):
    """Sound of the rows of `code` by the learned magnitudes, and the state of the next block."""
    bands = _Bands(code)
    size = np.exp(fine_magnitudes(code.T))
    for _ in range(2):
        size = bands.held(size, size)
    phase, states = _phase_of_peaks(np.log(size), start, seed)
    size = bands.heard * size
    corrections = n_iter // 4
    y = _fast_griffin_lim(size, phase, bands, n_iter - corrections)
    frames = _Frames(bands.mel, N_FFT, HOP_LENGTH)
    y = _corrected_sound(y, frames, bands.filters, corrections, momentum=0.9)
    next_start = min(SOUND_BLOCK * FINER, len(states) - 1)
    return y, states[next_start]


def _checked_code(code):
    code = np.asarray(code)
    if code.dtype.kind != "f":
        raise TypeError(f"the code holds {code.dtype}, not floating point from -1 to 1")
    code = np.clip(code.astype(np.float32), -1, 1)
    if code.ndim != 2 or 0 in code.shape or np.isnan(code).any():
        raise ValueError(f"a code is a matrix of bands x frames without NaN, not {code.shape}")
    return code


def music_from_code(
    code: np.ndarray,
    sr: float = SR,
    n_fft: int = N_FFT,
    hop_length: int = HOP_LENGTH,
    n_iter: int = 96,
    seed: int = 0,
    learned: bool = True,
) -> np.ndarray:
    """Turn a code back into sound.

    For codes of the default sizes a small network guesses the magnitudes of an STFT of twice as
    many frames (`fine_magnitudes`). Their peaks, taken for sines, give the first phase, fast
    Griffin-Lim the phase that frames agree on; every few steps the magnitudes are scaled by
    what the bands of the sound lack. The last quarter of the steps changes the sound by that
    alone, so that nearly the same code comes back.

    For other sizes, or without the weights (a warning says so, once), the peaks are those of
    the bands, and all steps are of the last kind: bands are all that a code tells, and leaving
    the bins free lets frames agree. The first quarter then also holds frames between those of
    the code to its interpolation, so that sound is steady from frame to frame.

    Codes of -1 and 1, the ends of `DB_RANGE`, mean "at most" and "at least"; a code of -1
    throughout is silence.

    Parameters
    ----------
    code : np.ndarray [shape=(n_mels, t)]
        In [-1, 1]; values outside are clipped. Any number of frames from 1.
    sr : int [Hz]
    n_fft, hop_length : int [samples]
        Those that the code was made with.
    n_iter : int
        Steps; the error falls slowly beyond the default.
    seed : int
        Of the phases in the first frame.
    learned : bool
        False: from the bands alone, whatever the sizes.

    Returns
    -------
    np.ndarray [shape=(t * hop_length,)], float32
        In [-1, 1]: the level is that of the coded music, lowered as a whole where it would clip.

    Raises
    ------
    TypeError
        If the code holds integers.
    ValueError
        If the code is no matrix with at least one frame, or holds NaN.

    References
    ----------
    N. Perraudin, P. Balazs and P. L. Soendergaard, "A fast Griffin-Lim algorithm", WASPAA 2013.
    G. T. Beauregard, M. Harish and L. Wyse, "Single pass spectrogram inversion", DSP 2015.
    """
    code = _checked_code(code)
    bands, t = code.shape
    fitting = (sr, n_fft, hop_length, bands) == INVERTED and t >= n_fft // hop_length
    if learned and fitting and inversion_weights():
        sound_of = functools.partial(_sound_from_magnitudes, n_iter=n_iter, seed=seed)
    else:
        sound_of = functools.partial(_sound_from_bands, sr=sr, n_fft=n_fft,
                                     hop_length=hop_length, n_iter=n_iter, seed=seed)
    phase = None
    y = np.zeros(t * hop_length, np.float32)
    fade = np.linspace(-0.5, 1.5, SOUND_OVERLAP * hop_length, dtype=np.float32).clip(0, 1)
    for first in range(0, max(1, t - SOUND_OVERLAP), SOUND_BLOCK):
        last = min(first + SOUND_BLOCK + SOUND_OVERLAP, t)
        rows = np.arange(first, last + 1).clip(max=t - 1)   # a frame more: sound lies between two
        block = code[:, rows].T
        part, phase = sound_of(block, start=phase)
        at = first * hop_length
        if first:
            before = y[at:at + len(fade)]
            part[:len(fade)] = fade * part[:len(fade)] + (1 - fade) * before
        y[at:at + len(part)] = part
    y /= max(1.0, _peak(y))
    return y


# ---------------------------------------------------------------- what a patch is like

TONAL_HZ = (400, 3000)   # below, a band is wider than a semitone; above, partials stand too close
PROMINENCE = 6           # dB by which a partial's band is above those two away
PEAK_DEPTH = 40          # dB below a frame's strongest band down to which partials count
ONSET_DB = 0.5           # dB of flux above its mean: gives about as many as the scores have notes
MUSICAL = ("in tune", "chroma entropy", "onsets/s", "flux kurtosis", "dynamics (dB)")
STEADY = 1e-6            # variance of the flux below which there is none
MEASURED_AT_ONCE = 100   # codes: bounds the memory


def spectral_peaks(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Partials of codes (n, n_mels, t): where, their Hz and their power, all (n, bands, t).

    Triangles that overlap by half interpolate linearly: the centroid of three bands, without
    their pedestal, gives a sine's frequency to 0.1 cents, where a parabola in dB errs by 9.
    """
    db = db_from_code(codes)
    hz = mel_bands_hz(db.shape[1])
    low, high = np.searchsorted(hz, TONAL_HZ)
    far, left, here, right, other = _neighbours(db, low, high)
    strongest = db.max(1, keepdims=True)
    floor = np.maximum(strongest - PEAK_DEPTH, DB_RANGE[0] + 1)
    beside = np.maximum(far, other)
    peak = here > left
    peak &= here >= right
    peak &= here > floor
    peak &= here > beside + PROMINENCE
    lower = np.minimum(far, other)
    pedestal = 10 ** (lower / 10)
    power = 0
    weighted = 0
    for step, band in ((-1, left), (0, here), (1, right)):
        excess = 10 ** (band / 10) - pedestal
        weight = np.maximum(excess, 0)
        power = power + weight
        hz_of_band = hz[low + step:high + step]
        weighted = weighted + weight * hz_of_band[:, None]
    centroid = weighted / np.maximum(power, 1e-9)
    return peak, centroid, np.where(peak, power, 0)


def _neighbours(db, low, high):
    """Bands from `low` to `high`, and those one and two below and above, from below."""
    shifted = []
    for step in range(-2, 3):
        band = db[:, low + step:high + step]
        shifted.append(band)
    return shifted


def mel_bands_hz(n_mels: int) -> np.ndarray:
    """Frequency in Hz of the bands of a code, float32."""
    width = hz_to_mel(SR / 2) / (n_mels + 1)
    return mel_to_hz(width * np.arange(1, n_mels + 1)).astype(np.float32)


def tuning_and_chroma(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Share of partials in tune and entropy of the chroma (Gomez 2006) of codes: arrays (n,).

    Each partial counts once: by power, music half a semitone up stands out less (d' 3.4, not 3.9).
    """
    peak, hz, power = spectral_peaks(codes)
    heard = np.where(peak, hz, 440)
    pitch = 69 + 12 * np.log2(heard / 440)
    nearest = np.round(pitch)
    count = peak.sum((1, 2))
    off = np.abs(pitch - nearest)
    tuned = peak & (off < 1 / 6)
    tuned_count = tuned.sum((1, 2))
    share = tuned_count / np.maximum(count, 1)
    code = np.arange(len(codes))[:, None, None]
    pitch_class = nearest.astype(int) % 12
    cell = 12 * code + pitch_class
    magnitude = np.sqrt(power)
    cells = 12 * len(codes)
    chroma = np.bincount(cell.ravel(), magnitude.ravel(), cells)
    chroma = chroma.reshape(-1, 12)
    entropy = np.full(len(codes), np.nan)
    tonal = count > 0
    if tonal.any():
        entropy[tonal] = scipy.stats.entropy(chroma[tonal], base=12, axis=1)
    return {"in tune": np.where(tonal, share, np.nan), "chroma entropy": entropy}


def rhythm_measures(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Onsets a second, kurtosis of the flux and dynamics in dB of codes: arrays (n,).

    Onset: flux is the largest of three frames and `ONSET_DB` above the mean of five (Boeck 2012).
    """
    db = db_from_code(codes)
    change = np.diff(db, axis=2)
    flux = np.maximum(change, 0).mean(1)
    five = np.lib.stride_tricks.sliding_window_view(flux, 5, axis=1)
    middle = five[..., 2]
    three = five[..., 1:4]
    onset = middle >= three.max(2)
    onset &= middle >= five.mean(2) + ONSET_DB
    kurtosis = np.full(len(flux), -3.0)
    moving = flux.var(1) > STEADY
    if moving.any():
        kurtosis[moving] = scipy.stats.kurtosis(flux[moving], axis=1)
    power = 10 ** (db / 10)
    level = 10 * np.log10(power.sum(1))
    low, high = np.quantile(level, (0.05, 0.95), axis=1)
    return {"onsets/s": onset.mean(1) * SR / HOP_LENGTH,
            "flux kurtosis": kurtosis,
            "dynamics (dB)": high - low}


def musical_measures(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Measure what each code is like as music.

    Parameters
    ----------
    codes : np.ndarray [shape=(n, n_mels, t)]
        In [-1, 1], of the default settings; at least 6 frames.

    Returns
    -------
    dict of np.ndarray [shape=(n,)]
        "in tune": share of the partials within a sixth of a semitone of equal temperament at
        A = 440 Hz, 1/3 by chance; "chroma entropy" of the 12 pitch classes, 0 for one, 1 for
        all alike; both NaN without partials. "onsets/s" [1/s]; "flux kurtosis" of the bands'
        mean rise in dB from frame to frame, 0 for a Gaussian, high for few sharp rises, -3
        without any; "dynamics (dB)": 5 to 95 % quantile of the frames' level [dB].
    """
    codes = np.asarray(codes, np.float32)
    batches = []
    for first in range(0, len(codes), MEASURED_AT_ONCE):
        some = codes[first:first + MEASURED_AT_ONCE]
        batches.append(tuning_and_chroma(some) | rhythm_measures(some))
    measures = {}
    for name in MUSICAL:
        measures[name] = np.concatenate([batch[name] for batch in batches])
    return measures


def note_measures(codes: np.ndarray) -> tuple[float, float]:
    """Median spectral flatness, and share of a frame's energy in its five strongest bands.

    Flatness is the geometric over the arithmetic mean of a frame's mel power: 1 for a flat
    spectrum, 0 for a line.

    Parameters
    ----------
    codes : np.ndarray [shape=(n, n_mels, t)]
    """
    power = 10 ** (db_from_code(codes) / 10)
    geometric = np.exp(np.log(power).mean(1))
    flatness = geometric / power.mean(1)
    by_power = np.sort(power, axis=1)
    strongest = by_power[:, -5:].sum(1) / power.sum(1)
    return float(np.median(flatness)), float(np.median(strongest))


# ---------------------------------------------------------------- what a piece is like


def unevenness(codes: np.ndarray, period: int = 16) -> float:
    """Frame-to-frame change at each phase of a period: the largest mean over the smallest."""
    change = np.abs(np.diff(codes, axis=2)).mean((0, 1))
    whole = len(change) // period * period
    by_phase = change[:whole].reshape(-1, period).mean(0)
    return float(by_phase.max() / by_phase.min())


def _onset_strength(code):
    """Onset strength of each frame of a code."""
    db = db_from_code(code)
    return _librosa().onset.onset_strength(S=db, sr=SR, hop_length=HOP_LENGTH)


def pulse(code: np.ndarray, seconds: float = 3.0) -> np.ndarray:
    """Autocorrelation of the onset strength of a code, from lag 0 to `seconds`."""
    strength = _onset_strength(code)
    lags = round(seconds * SR / HOP_LENGTH)
    curve = _librosa().autocorrelate(strength - strength.mean(), max_size=lags)
    return curve / curve[0]


def similarity(code: np.ndarray, window: int = 32, hop: int = 8) -> np.ndarray:
    """Cosines of all pairs of windows of a code, without its mean frame: a square matrix."""
    code = np.asarray(code, np.float32)
    change = code - code.mean(1, keepdims=True)
    windows = np.lib.stride_tricks.sliding_window_view(change, window, axis=1)
    windows = windows[:, ::hop].swapaxes(0, 1)
    flat = windows.reshape(len(windows), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.maximum(length, 1e-9)   # of silence: 0
    return flat @ flat.T


def _strongest_beat(code):
    curve = pulse(code)
    peaks = scipy.signal.find_peaks(curve)[0]
    return max(curve[peaks], default=0)


def piece_measures(codes: np.ndarray, far: int = 11) -> dict[str, float]:
    """Rhythm and memory of whole pieces (n, n_mels, t), `far` hops of `similarity` being 4 s."""
    beats = []
    memories = []
    returns = []
    for code in codes:
        beats.append(_strongest_beat(code))
        alike = similarity(code)
        memories.append(np.diagonal(alike, far).mean())
        i = np.arange(len(alike))
        lag = abs(i[:, None] - i)
        away = np.where(lag >= far, alike, -1)
        returns.append(away.max(1).mean())
    return {"piece/rhythm": float(np.mean(beats)),
            "piece/memory": float(np.mean(memories)),
            "piece/return": float(np.mean(returns))}


# ---------------------------------------------------------------- form: what returns, and the beat

STEP_FRAMES = 4          # frames of a step of form: .19 s
ALIKE = 0.5              # cosine above which two windows of two steps are the same music
NEAREST_RETURN = 22      # steps, 4 s: what is alike sooner is one texture
SHORTEST_RETURN = 11     # steps, 2 s
BEATS_HZ = (1.2, 4.9)    # beats are looked for between these; steps are 5.4 Hz


class Passage(NamedTuple):
    """A passage that is heard again `lag` steps later; a step has `STEP_FRAMES` frames."""

    start: int
    length: int
    lag: int


def _partials(code):
    """A code's partials: what stands out of the mean over nine bands, up to 5 kHz."""
    code = np.asarray(code, np.float32)
    mean = scipy.ndimage.uniform_filter1d(code, 9, axis=0, mode="nearest")
    return np.maximum(code - mean, 0)[:96]


def returning_passages(code: np.ndarray) -> list[Passage]:
    """The passages of a code (n_mels, t), at least 2 s long, that are heard again 4 s or later.

    They are lines beside the diagonal of the similarity of the partials (Foote 1999), with gaps
    of up to two steps bridged.
    """
    alike = similarity(_partials(code), 2 * STEP_FRAMES, STEP_FRAMES) > ALIKE
    passages = []
    for lag in range(NEAREST_RETURN, len(alike) - SHORTEST_RETURN):
        line = np.pad(np.diagonal(alike, lag), 3)
        bridged = scipy.ndimage.binary_closing(line, np.ones(3))
        edges = np.flatnonzero(np.diff(bridged.astype(int)))
        for start, end in edges.reshape(-1, 2) - 2:
            if end - start >= SHORTEST_RETURN:
                passages.append(Passage(int(start), int(end - start), lag))
    return passages


def return_map(code: np.ndarray) -> np.ndarray:
    """For each step of a code (n_mels, t) the step at which its music was first heard.

    Returns
    -------
    np.ndarray [shape=(ceil(t / STEP_FRAMES),)], int
        A step that repeats nothing has its own number. Of several passages that a step repeats
        the longest counts.
    """
    steps = -(-code.shape[1] // STEP_FRAMES)
    source = np.arange(steps)
    for passage in sorted(returning_passages(code), key=lambda passage: passage.length):
        heard = np.arange(passage.start, passage.start + passage.length)
        source[heard + passage.lag] = heard
    for step in range(steps):
        source[step] = source[source[step]]      # it is earlier, hence a first one already
    return source


def beat_hz(code: np.ndarray) -> float:
    """Rate of the beat of a code (n_mels, t): where the onset strength varies most, in Hz."""
    strength = _onset_strength(code)
    rates, power = scipy.signal.periodogram(
        strength, SR / HOP_LENGTH, "hann", nfft=8192, detrend="constant")
    low, high = BEATS_HZ
    possible = (rates >= low) & (rates <= high)
    return float(rates[possible][power[possible].argmax()])


def _shuffled_blocks(code, rng, frames=32):
    """A code with its blocks of 1.5 s in random order."""
    blocks = code.shape[1] // frames
    whole = code[:, :blocks * frames].reshape(len(code), blocks, frames)
    return whole[:, rng.permutation(blocks)].reshape(len(code), -1)


def _longest_and_share(code):
    """log2 of the seconds of the longest passage that returns, and the share in such passages."""
    passages = returning_passages(code)
    steps = code.shape[1] // STEP_FRAMES
    inside = np.zeros(steps, bool)
    for passage in passages:
        heard = slice(passage.start, passage.start + passage.length)
        again = slice(heard.start + passage.lag, heard.stop + passage.lag)
        inside[heard] = True
        inside[again] = True
    longest = max((passage.length for passage in passages), default=SHORTEST_RETURN / 4)
    seconds = longest * STEP_FRAMES * HOP_LENGTH / SR
    return np.array([np.log2(seconds), inside.mean()])


def _beat_kept(code, quarters=4):
    """Mean correlation of the quarters' autocorrelations of onset strength, .3 to 3 s."""
    curves = []
    grid = scipy.signal.windows.triang(7) / STEP_FRAMES      # cancels a grid of steps
    for part in np.array_split(code, quarters, axis=1):
        curves.append(np.convolve(pulse(part), grid, "valid")[4:])
    return np.corrcoef(curves)[np.triu_indices(quarters, 1)].mean()


def form_measures(codes: np.ndarray, shuffles: int = 2) -> dict[str, np.ndarray]:
    """What a piece owes to the order of its passages, of codes (n, n_mels, t): arrays (n,).

    ``longest`` [log2 s] is the longest passage that returns, ``returning`` the share of the piece
    in such passages, both less their means over the piece's own blocks of 1.5 s in random order;
    ``beat kept`` is how alike the rhythms of its quarters are.
    """
    rows = []
    for code in codes:
        rng = np.random.default_rng(0)
        orderless = [_longest_and_share(_shuffled_blocks(code, rng)) for _ in range(shuffles)]
        excess = _longest_and_share(code) - np.mean(orderless, 0)
        rows.append([*excess, _beat_kept(code)])
    return dict(zip(("longest", "returning", "beat kept"), np.transpose(rows)))


def _slow_partials(codes, frames=3):
    """Partials of codes (n, n_mels, t), means over so many frames: (n, bands, t // frames)."""
    slower = []
    for code in codes:
        partials = _partials(code)
        steps = partials.shape[1] // frames
        whole = partials[:, :steps * frames]
        slower.append(whole.reshape(len(whole), steps, frames).mean(2))
    return np.stack(slower)


def _transposed(partials, semitones):
    """Partials (n, bands, t) as if played so many semitones higher."""
    hz = mel_bands_hz(N_MELS)[:partials.shape[1]]
    by_hz = scipy.interpolate.interp1d(hz, partials, axis=1, bounds_error=False, fill_value=0)
    return by_hz(hz / 2 ** (semitones / 12)).astype(np.float32)


def _shapes(parts):
    """Parts (n, bands, t) as unit vectors (n, bands * t), each band without its mean."""
    centred = parts - parts.mean(2, keepdims=True)
    flat = centred.reshape(len(parts), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), TINY)


def copied_likeness(patches: np.ndarray, clips: np.ndarray, semitones: int = 2) -> np.ndarray:
    """Correlation of each patch with that part of any clip that it is most like.

    Of the partials up to 5 kHz, each band without its mean over the patch, so that what counts
    is when which note sounds. All places in the clips are tried, and transpositions.

    Parameters
    ----------
    patches : np.ndarray [shape=(n, 128, t)]
        Codes.
    clips : np.ndarray [shape=(m, 128, T)]
        Codes, T at least t.
    semitones : int
        By how many semitones up and down a patch is transposed.

    Returns
    -------
    np.ndarray [shape=(n,)], in [-1, 1]
    """
    slow = _slow_partials(patches)
    moves = range(-semitones, semitones + 1)
    shapes = np.concatenate([_shapes(_transposed(slow, move)) for move in moves])
    best = np.full(len(patches), -1, np.float32)
    for clip in _slow_partials(clips):
        windows = np.lib.stride_tricks.sliding_window_view(clip, slow.shape[2], axis=1)
        alike = shapes @ _shapes(windows.transpose(1, 0, 2)).T
        of_moves = alike.max(1).reshape(len(moves), len(patches))
        best = np.maximum(best, of_moves.max(0))
    return best


# ---------------------------------------------------------------- coding a folder

INDEX = "index.json"
ATTEMPTS = 10        # to write an array: other processes may remove it


class Codes(NamedTuple):
    """What `get_musics_coded` returns: clips in the order of their paths.

    Clip i is what `audio_clips(paths[i], seconds)` yields as number `starts[i] / seconds`.

    Attributes
    ----------
    codes : np.ndarray [shape=(n, n_mels, t)], float16, in [-1, 1]
        Memory-mapped, read-only.
    labels : list of str
        The sub-folder that a clip's file lies in; the folder's own name for files in none; the
        genre by the metadata for FMA's tracks (`file_labels`).
    paths : list of pathlib.Path
        Of a clip's file.
    starts : list of float [s]
        Of a clip in its file.
    skipped : dict
        Path of each file or folder that gave no clip, to the reason.
    damaged : dict
        Path of each file that gave clips but not all of its sound, to what happened.
    """

    codes: np.ndarray
    labels: list[str]
    paths: list[Path]
    starts: list[float]
    skipped: dict[Path, str]
    damaged: dict[Path, str]


class Job(NamedTuple):
    """A file to be coded, and where its codes are kept."""

    path: Path
    store: Path
    key: str             # changes with the file and with its decoder
    seconds: float
    n_mels: int
    denoise: bool


class Result(NamedTuple):
    """What is known of a file that was coded."""

    starts: list[float]  # of its clips [s]
    trouble: str         # what went wrong, or ""
    lasting: bool = True   # it is about the content; else another try is worth it


def _code_shape(seconds, n_mels):
    """Bands and frames of a clip's code."""
    return n_mels, 1 + round(seconds * SR) // HOP_LENGTH


def code_clips(path: Path, seconds: float, n_mels: int,
               denoise: bool) -> tuple[np.ndarray, list[float], str]:
    """Code a file.

    Parameters
    ----------
    path : path
    seconds : float [s]
    n_mels : int
    denoise : bool

    Returns
    -------
    codes : np.ndarray [shape=(clips, n_mels, t)], float16
    starts : list of float [s]
    trouble : str
        What is wrong with the content, or "".

    Raises
    ------
    OSError, MemoryError
        If the system fails, which says nothing about the file.
    """
    if not path.stat().st_size:
        return np.array([]), [], "empty file"
    codes = bytearray()   # a day of clips is half a gigabyte, and joining arrays would copy it
    starts: list = []
    silent = 0
    trouble = ""
    try:
        for i, y in enumerate(audio_clips(path, seconds)):
            if _peak(y) < SILENCE:
                silent += 1
                continue
            mel = mel_spectrogram(y, n_mels=n_mels, denoise=denoise)
            codes += code_from_mel(mel).astype(np.float16).tobytes()
            starts.append(float(i * seconds))
    except DamagedAudio as error:
        kind = "damaged after some clips" if starts or silent else "not audio, or damaged"
        trouble = f"{kind}: {error}"
    if not starts and not trouble:
        trouble = f"too short: less than a clip of {seconds:g} s"
        if silent:
            trouble = f"silent: {silent} clips without a sound"
    shape = (len(starts), *_code_shape(seconds, n_mels))
    return np.frombuffer(codes, np.float16).reshape(shape), starts, trouble


def _read_store(job):
    """Codes and `Result` that a job's store holds, or None where it holds no valid ones."""
    with suppress(Exception), zipfile.ZipFile(job.store) as archive:
        # a damaged file raises almost anything, or gives other codes: NumPy, whose header tells
        # how much to read, need not come to the checksum at the end
        if archive.testzip():
            return None
        with np.load(job.store) as kept:
            if str(kept["key"]) == job.key:
                return kept["codes"], Result(kept["starts"].tolist(), str(kept["trouble"]))
    return None


def _code_file(job):
    """Code a file into its store, unless it is there."""
    kept = _read_store(job)
    if kept:
        codes, result = kept
        return result
    try:
        codes, starts, trouble = code_clips(job.path, job.seconds, job.n_mels, job.denoise)
    except Exception as error:   # whatever may pass: the run goes on, and nothing is kept
        kind = type(error).__name__
        trouble = f"not read, which the next call tries again: {kind}: {error}"
        return Result([], trouble, lasting=False)
    with atomic(job.store) as part:
        np.savez(part, key=job.key, codes=codes, starts=np.array(starts), trouble=trouble)
    return Result(starts, trouble)


def _fma_tracks(audio, labels):
    """Track numbers of the files that lie as FMA publishes them, in folders of numbers."""
    tracks = {}
    for path in audio:
        is_numbered = re.fullmatch(r"\d{3}/\d{6}", f"{path.parent.name}/{path.stem}")
        if is_numbered and re.fullmatch(r"\d{3}|fma_\w+", labels[path]):
            tracks[path] = int(path.stem)
    return tracks


def _fma_labels(tracks, folder):
    """Genres of FMA's tracks by its metadata, in or beside the folder; none, and a warning."""
    example = next(iter(tracks)).relative_to(folder)
    for place in (folder, folder.resolve().parent):
        metadata = place / "fma_metadata.zip"
        if not metadata.is_file():
            continue
        genres = fma_genres(metadata)
        unknown = sorted(set(tracks.values()) - set(genres))
        if unknown:
            warnings.warn(f"{metadata} has no genre of {len(unknown)} tracks, the first of them "
                          f"{unknown[0]:06d}: labelled unknown", stacklevel=4)
        names = {path: genres.get(track, "") for path, track in tracks.items()}
        return {path: re.sub(r"[^\w-]+", "_", name) or "unknown" for path, name in names.items()}
    warnings.warn(f"{example} and others are named as FMA publishes them, in folders that are no "
                  f"genres: put fma_metadata.zip into {folder}, or use download_fma_small",
                  stacklevel=4)
    return {}


def file_labels(audio: list[Path], folder: str | os.PathLike) -> dict[Path, str]:
    """Label each file by the sub-folder of `folder` that it lies in.

    Files in none get the folder's own name. FMA's tracks in their published folders 000 to 155
    get the genres of fma_metadata.zip, where it lies in the folder or beside it; else a warning
    says so.
    """
    folder = Path(folder)
    labels = {}
    for path in audio:
        parts = path.relative_to(folder).parts
        labels[path] = parts[0] if len(parts) > 1 else folder.resolve().name
    tracks = _fma_tracks(audio, labels)
    if tracks:
        labels.update(_fma_labels(tracks, folder))
    return labels


def _in_turn(labels):
    """Order paths so that the first few come from every label in turn."""
    groups: dict = {}
    for path in sorted(labels):
        groups.setdefault(labels[path], []).append(path)
    ordered = []
    for turn in itertools.zip_longest(*groups.values()):
        ordered += sorted(path for path in turn if path)
    return ordered


def labels_in_turn(audio: list[Path], folder: str | os.PathLike) -> list[Path]:
    """Order files so that the first few come from every label (`file_labels`) in turn."""
    return _in_turn(file_labels(audio, folder))


def _check_coding(seconds, n_mels, denoise, limit):
    kinds = (("seconds", seconds, numbers.Real),
             ("n_mels", n_mels, numbers.Integral),
             ("denoise", denoise, (bool, np.bool_)),
             ("limit", limit, (numbers.Integral, type(None))))
    for name, value, kind in kinds:
        if not isinstance(value, kind):
            raise TypeError(f"{name} has a wrong type: {value!r} is {type(value).__name__}")
    if not seconds > 0 or n_mels < 1 or (limit is not None and limit < 1):
        raise ValueError(f"seconds {seconds}, n_mels {n_mels}, limit {limit}: not all positive")
    if not 1 <= seconds * SR <= MAX_HOURS * 3600 * SR:
        raise ValueError(f"seconds: a clip has from one sample up to {MAX_HOURS} hours, "
                         f"not {seconds} s")


def _gain_version():
    """Checksum of the learned gain's weights: other weights make other codes."""
    try:
        return zlib.crc32(WEIGHTS.read_bytes())
    except FileNotFoundError:
        return None


def _job(path, folder, cache, settings):
    import soundfile
    import soxr
    decoder = (soundfile.__version__, soundfile.__libsndfile_version__, soxr.__version__)
    name, stat = path.relative_to(folder).as_posix(), path.stat()
    key = _digest(name, stat.st_size, stat.st_mtime_ns, *decoder)
    return Job(path, cache / f"{_digest(name)}.npz", key, *settings)


def _read_index(cache):
    """Results of the last whole run by key, which saves to open each store again."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        kept = json.loads((cache / INDEX).read_text())
        if kept["digest"] == _digest(kept["results"]):
            return {key: Result(*result) for key, result in kept["results"].items()}
    return {}


def _write_index(cache, jobs, known, results):
    kept = {}
    for job in jobs:
        result = results.get(job) or known.get(job.key)
        if result and result.lasting:
            kept[job.key] = result
    if kept != known:
        with suppress(OSError), atomic(cache / INDEX) as part:    # stores are enough
            part.write_text(json.dumps({"digest": _digest(kept), "results": kept}))


def _code_all(jobs, cache, limit, n_jobs):
    """Code files in their order until `limit` clips are there: `{job: Result}`."""
    cache.mkdir(parents=True, exist_ok=True)
    remove_leftovers(cache)
    known = _read_index(cache)
    enough = limit or sys.maxsize
    results: dict = {}
    count = 0

    def missing():    # joblib asks as it goes
        for job in jobs:
            if count >= enough:
                return
            if job.key not in known:
                yield (job,)

    is_new = any(job.key not in known for job in jobs)
    coded = parallel(_code_file, missing(), n_jobs) if is_new else iter(())
    with _progress(None, total=min(len(jobs), enough), desc="code", unit="file") as bar:
        for job in jobs:
            if count >= enough:
                break
            results[job] = known.get(job.key) or next(coded)
            count += len(results[job].starts)
            bar.update()
    for _ in coded:    # those on their way
        pass
    _write_index(cache, jobs, known, results)
    return results


@contextmanager
def _remedy(cache):
    """Name the way out where codes cannot be stored."""
    try:
        yield
    except OSError as error:
        if str(cache) not in str(error.filename):
            raise
        text = f"{error.strerror}; the argument cache stores codes in another folder"
        raise OSError(error.errno, text, error.filename) from error


def _stored_codes(job):
    kept = _read_store(job)
    if kept is None:     # lost since it was listed
        _code_file(job)
        kept = _read_store(job)
    if kept is None:
        raise OSError(errno.EIO, "stored codes cannot be read", str(job.store))
    codes, _ = kept
    return codes


def _write_joined(counts, whole, shape):
    """Write the codes of all clips into one array, a file at a time, and its checksum beside."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (counts.total(), *shape)}
    with atomic(whole) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for job, count in counts.items():
            codes = np.asarray(_stored_codes(job)[:count], "<f2")
            file.write(codes.data)    # a memory map dies of a full disk
        file.flush()
        checksum = _checksum(part)
        with atomic(_beside(whole)) as note:
            note.write_text(checksum)


def _beside(whole):
    """Where the checksum of an array lies."""
    return whole.with_suffix(".crc32")


def _checksum(path):
    """CRC-32 of a file, read in blocks, and its length: a gigabyte in about a second."""
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
        return f"{crc:08x} {file.tell()}"


def _map_joined(whole):
    """Map an array that is there, or None where it is not as it was written."""
    with suppress(FileNotFoundError, ValueError, EOFError):
        if _checksum(whole) == _beside(whole).read_text():
            return np.load(whole, mmap_mode="r")
    return None


def _joined_codes(counts, cache, limit, shape):
    """Map the codes of all clips, `{job: number}`, from one array on disk.

    Its length and checksum are compared with those it was written with, and a damaged one is made
    again. The array of an earlier state of the folder goes; a process that maps it keeps it until
    it ends, and a system that cannot remove it then, until the next call.
    """
    if not counts:
        return np.zeros((0, *shape), np.float16)
    state = _digest([[job.key, count] for job, count in counts.items()])
    name = f"all-{limit or 'clips'}"
    whole = cache / f"{name}-{state}.npy"
    for _ in range(ATTEMPTS):
        codes = _map_joined(whole)
        if codes is not None:
            return codes
        # it is new, damaged, or went since another process has a later state
        _write_joined(counts, whole, shape)
        for other in cache.glob(f"{name}-*"):
            if other.stem != whole.stem:
                with suppress(OSError):
                    other.unlink()
    raise OSError(errno.EIO, "what is written there is not what is read", str(whole))


def get_musics_coded(folder: str | os.PathLike, seconds: float = 30, n_mels: int = N_MELS,
                     denoise: bool = True, limit: int | None = None, n_jobs: int = -1,
                     cache: str | os.PathLike | None = None) -> Codes:
    """Remove pink noise from every clip of a folder and code it as a mel spectrogram.

    Results are kept per file in `cache` and reused while the file (size, time), its decoder, the
    parameters and `CODE_VERSION` stay: a run that was stopped goes on where it was. What says
    nothing about a file's content, such as a missing permission, is not kept. What was damaged in
    `cache` is noticed by checksums and made again: each call reads the array of all codes once,
    about a second where 8,000 clips of 30 s (1.3 GB) are in the system's memory, else as long as
    the disk takes. Runs in parallel on joblib's active backend.

    Parameters
    ----------
    folder : path
        Audio (.mp3 .ogg .opus .flac .wav) at any depth; first-level sub-folders are labels,
        except for FMA's tracks (`file_labels`). Channels are averaged; where they cancel each
        other the first is taken.
    seconds : float [s]
        Length of a clip. Longer files give several; a clip or remainder that lacks at most
        0.5 s is padded with silence, a shorter one dropped.
    n_mels : int
    denoise : bool
    limit : int, optional
        At most so many clips, taken from the labels in turn.
    n_jobs : int
        As in joblib.
    cache : path, optional
        Folder of stored codes, by default `folder/.codes`.

    Returns
    -------
    Codes

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If it holds no audio, or `seconds`, `n_mels` or `limit` make no spectrogram.
    TypeError
        If an argument has another type.
    OSError
        If codes cannot be stored in `cache`; the message names it, and the way out.
    """
    _check_coding(seconds, n_mels, denoise, limit)
    folder = Path(folder)
    audio, others = audio_files(folder)
    labels = file_labels(audio, folder)
    cache = Path(cache or folder / ".codes")
    skipped = {path: reason for path, reason in others.items() if cache not in path.parents}
    settings = (float(seconds), int(n_mels), bool(denoise))
    store = cache / _digest(SR, N_FFT, HOP_LENGTH, DB_RANGE, CODE_VERSION, *settings,
                            _gain_version() if denoise else None)
    jobs = [_job(path, folder, store, settings) for path in _in_turn(labels)]
    shape = _code_shape(seconds, n_mels)
    with _remedy(cache):
        results = dict(sorted(_code_all(jobs, store, limit, n_jobs).items()))
        clips = [(job, start) for job, result in results.items() for start in result.starts]
        clips = clips[:limit]
        codes = _joined_codes(Counter(job for job, _ in clips), store, limit, shape)
    damaged: dict = {}
    for job, result in results.items():
        if result.trouble:
            report = damaged if result.starts else skipped
            report[job.path] = result.trouble
    paths = [job.path for job, _ in clips]
    starts = [start for _, start in clips]
    return Codes(codes, [labels[path] for path in paths], paths, starts, skipped, damaged)
