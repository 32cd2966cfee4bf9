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

import csv
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import os
import re
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy   # loads its parts when they are first used
import threadpoolctl

SR = 22050           # Hz
N_FFT = 2048         # samples, 93 ms
HOP_LENGTH = 1024    # samples, 46 ms
N_MELS = 128         # bands between 0 Hz and SR / 2
DB_RANGE = (-40.0, 50.0)  # mel power in dB that the codes -1 and 1 stand for
CODE_VERSION = 3     # part of the key of every stored code: raise it when codes change


# ---------------------------------------------------------------- tools

SILENCE = 1e-4       # a clip whose peak is lower counts as silent


def _progress(iterable, **options):
    """Wrap in a tqdm bar, on stdout in a notebook, where stderr reads as an error."""
    from tqdm import tqdm
    stream = sys.stdout if "ipykernel" in sys.modules else sys.stderr
    return tqdm(iterable, file=stream, mininterval=1, dynamic_ncols=False, ncols=90, **options)


def parallel(function, calls, n_jobs):
    """Yield `function(*call)` for each call, in order, on joblib's active backend.

    To be exhausted: joblib stops its workers where a generator is left before its end.
    """
    from joblib.parallel import Parallel, delayed, get_active_backend
    tasks = (delayed(function)(*call) for call in calls)
    with warnings.catch_warnings():
        # joblib replaces a worker that has grown, as music21's do, and says so
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        if get_active_backend()[0].supports_return_generator:
            yield from Parallel(n_jobs=n_jobs, return_as="generator")(tasks)
        while batch := list(itertools.islice(tasks, 256)):   # Ray gives nothing but lists
            yield from Parallel(n_jobs=n_jobs)(batch)


_LIMITED = threading.Lock()


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


def _peak(y):
    return max(y.max(), -y.min())   # of abs(y), without a copy


@contextmanager
def atomic(path):
    """Give a temporary path beside `path` that takes its place when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.urandom(8).hex()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _seeded(seed, *words):
    return np.random.default_rng([seed, zlib.crc32("/".join(map(str, words)).encode())])


def _digest(*words):
    return hashlib.sha1(json.dumps(words).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- pink noise

PINK_CORNER = 20.0   # Hz: 1/f above, flat below, so that inaudible rumble holds little power


def pink_psd(n, sr, slope=1.0):
    """Power spectral density of unit-variance 1/f^slope noise on the bins of an rfft."""
    psd = np.maximum(np.fft.rfftfreq(n, 1 / sr), PINK_CORNER) ** -slope
    psd[0] = 0
    return psd / psd.mean()


def pink_noise(n, rng=None):
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
    white = np.fft.rfft(np.random.default_rng(rng).standard_normal(n))
    noise = np.fft.irfft(white * np.sqrt(pink_psd(n, SR)), n)
    return (noise - noise.mean()) / noise.std()


def add_pink_noise(y, snr_db, rng=None):
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
    """
    y = np.asarray(y)
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


class _Tune:
    """A tune of an ABC book, played with its repeats and cut in time."""

    def __init__(self, piece, seconds):
        from music21 import converter
        text = _tunes(piece.path)[piece.tune]
        self.seconds = float(seconds)
        self.score = _to_seconds(converter.parse(text, forceSource=True, format="abc"))
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
        from music21 import bar, repeat
        first = number * (self.length + 1)
        part = self.score.measures(first, first + self.length)
        signs = (bar.Repeat, repeat.RepeatExpression, "RepeatBracket")
        for sign in list(part.recurse().getElementsByClass(signs)):
            sign.activeSite.remove(sign)
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
        with soundfile.SoundFile(path) as file:
            note = json.loads(file.comment or "{}")
    except (soundfile.LibsndfileError, ValueError, RecursionError):
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
        If the archive holds no table of tracks, or that lacks a column.
    """
    genres = {}
    table = zipfile.Path(metadata_zip, "fma_metadata/tracks.csv")
    try:
        with table.open(encoding="utf-8") as text:
            rows = csv.reader(text)
            columns = list(zip(next(rows), next(rows)))
            genre = columns.index(("track", "genre_top"))
            subset = columns.index(("set", "subset"))
            for row in rows:
                if row[0].isdigit() and row[subset] == "small":
                    genres[int(row[0])] = row[genre]
    except (ValueError, IndexError, StopIteration) as error:
        raise ValueError(f"{metadata_zip}: tracks.csv is no table of tracks with a subset and "
                         f"a top genre: {error}") from error
    return genres


def download_fma_small(folder: str | os.PathLike, url: str = FMA_URL,
                       sha1: dict[str, str] | None = None) -> Path:
    """Download FMA-small, 8,000 clips of 30 s in 8 genres, 7.2 GiB, and lay it out by genre.

    Both zip files are kept in `folder`, checked by SHA-1, and fetched further after a cut or
    while the server is busy; files of these names that lie there are used.
    Tracks go to `folder/audio/<genre>/<id>.mp3`: names come from the metadata, never from the
    paths inside the zip. Tracks that are empty or shorter than 29 s by their header are
    named in a warning (three each in the published set).

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
        If a file's SHA-1 is wrong or the metadata lacks a column.
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


def _unpack_fma(audio_zip, genres, target):
    """Unpack tracks that the metadata knows; return those that are empty or short, by name."""
    import soundfile
    odd = []
    with zipfile.ZipFile(audio_zip) as archive:
        for member in _progress(archive.infolist(), desc="unpack", unit="track"):
            match = re.fullmatch(r"fma_small/\d{3}/(\d{6})\.mp3", member.filename)
            if not match or int(match[1]) not in genres:
                continue
            track = match[1]
            genre = re.sub(r"[^\w-]+", "_", genres[int(track)]) or "unknown"
            path = target / genre / f"{track}.mp3"
            if not path.exists() or path.stat().st_size != member.file_size:
                _write(path, archive.read(member))
            seconds = 0.0
            with suppress(soundfile.LibsndfileError):
                seconds = soundfile.info(path).duration
            if seconds < 29:
                length = f"{seconds:.1f} s" if seconds else "empty"
                odd.append(f"{track} ({length})")
    return odd


# ---------------------------------------------------------------- decoding

AUDIO_SUFFIXES = (".mp3", ".ogg", ".opus", ".flac", ".wav")
PAD_SECONDS = 0.5    # a clip that lacks at most this much is padded with silence
MAX_HOURS = 24       # no file is read further: damaged headers can promise endless audio
BLOCK = 1 << 15      # frames decoded at once: what a damaged file may lose


def audio_files(folder):
    """List the audio files below a folder, sorted, hidden ones left out.

    Returns
    -------
    (list of pathlib.Path, list of pathlib.Path)
        Audio by suffix, and every other file.

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
    files = sorted(p for p in folder.rglob("*") if p.is_file()
                   and not any(part.startswith(".") for part in p.relative_to(folder).parts))
    audio = [p for p in files if p.suffix.lower() in AUDIO_SUFFIXES]
    if not audio:
        raise ValueError(f"no audio ({' '.join(AUDIO_SUFFIXES)}) in {folder}")
    return audio, [p for p in files if p.suffix.lower() not in AUDIO_SUFFIXES]


def decode_blocks(path, sr):
    """Yield blocks of mono float32 at rate `sr`. Never trusts the length in the header."""
    import soundfile
    import soxr
    with soundfile.SoundFile(path) as file:
        # or soundfile seeks after each read, where MP3 loses the bits that frames lend each other
        file.seekable = lambda: False
        resampler = soxr.ResampleStream(file.samplerate, sr, 1, dtype="float32")
        for _ in range(MAX_HOURS * 3600 * file.samplerate // BLOCK):
            block = file.read(BLOCK, dtype="float32", always_2d=True)
            # channel by channel: a mean over a short axis is slow, a product depends on threads
            mono = sum(block[:, channel] for channel in range(file.channels)) / file.channels
            if not np.isfinite(mono).all():
                raise ValueError("holds samples that are not finite numbers")
            last = len(mono) < BLOCK
            yield mono if file.samplerate == sr else resampler.resample_chunk(mono, last=last)
            if last:
                return


def audio_clips(path, seconds=30, sr=SR):
    """Cut a file into clips, one at a time, so that no file is ever whole in memory.

    Parameters
    ----------
    path : path
    seconds : float [s]
    sr : int [Hz]

    Yields
    ------
    y : np.ndarray [shape=(seconds * sr,)], float32
        Mono. A remainder that lacks at most `PAD_SECONDS` is padded with silence, a shorter
        one dropped.

    Raises
    ------
    soundfile.LibsndfileError, ValueError
        Where the file is damaged; the clips before come first.
    """
    n = round(seconds * sr)
    clip, have = np.zeros(n, np.float32), 0
    for block in decode_blocks(path, sr):
        while have + len(block) >= n:
            clip[have:] = block[:n - have]
            yield clip
            clip, have, block = np.zeros(n, np.float32), 0, block[n - have:]
        clip[have:have + len(block)] = block
        have += len(block)
    if have and have >= n - round(PAD_SECONDS * sr):
        yield clip


# ---------------------------------------------------------------- short-time Fourier transform


def stft_power(y, n_fft, hop_length):
    """Power of the STFT, float32; in blocks that stay in the processor's cache."""
    window = scipy.signal.get_window("hann", n_fft).astype(np.float32)
    padded = np.pad(np.asarray(y, np.float32), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    power = np.empty((1 + n_fft // 2, len(frames)), np.float32)
    for at in range(0, len(frames), 16):
        parts = scipy.fft.rfft(frames[at:at + 16] * window, workers=1).view(np.float32).T
        parts *= parts
        np.add(parts[::2], parts[1::2], out=power[:, at:at + 16])
    return power


# ---------------------------------------------------------------- mel scale


def hz_to_mel(f):
    """Convert Hz to mel, m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987; HTK)."""
    return 2595 * np.log10(1 + np.asarray(f) / 700)


def mel_to_hz(m):
    """Convert mel to Hz, the inverse of `hz_to_mel`."""
    return 700 * (10 ** (np.asarray(m) / 2595) - 1)


@functools.lru_cache(maxsize=8)
def mel_filters(sr, n_fft, n_mels):
    from librosa.filters import mel
    return scipy.sparse.csr_array(mel(sr=sr, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None))


# ---------------------------------------------------------------- pink-noise floor

FLOOR_TOP = 9600.0   # Hz: codecs and resamplers cut above
TILE = (8, 4)        # bins x frames over which the power is averaged before any quantile
Q_TIME, Q_BANDS = 0.10, 0.03  # low quantiles: music only ever adds power to the floor
SLOPES = (0.8, 0.9, 1.0, 1.1, 1.2)
# logistic function of what `floor_measures` finds: constant, log gap, log drift, depth / 10, grain
PRESENCE = (33.7, -2.4, -0.5, -2.7, 46.0)
LIFT = (2.8, 0.4)    # dB by which music lifts the level: 2.8 gap - 0.4


@functools.lru_cache(maxsize=16)
def pink_template(n_fft, sr, slope=1.0):
    """Expected STFT power of unit-variance 1/f^slope noise, by Wiener-Khinchin.

    The expectation is the transform of the noise's autocorrelation times the window's.

    Returns
    -------
    np.ndarray [shape=(1 + n_fft / 2, 1)], float32
    """
    noise = np.fft.irfft(pink_psd(32 * n_fft, sr, slope))[:n_fft]
    window = scipy.signal.get_window("hann", n_fft)
    window = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * n_fft)) ** 2)[:n_fft]
    product = noise * window
    power = 2 * np.fft.rfft(product, 2 * n_fft).real - product[0]
    return power[::2, None].astype(np.float32)


def _cells(power, n_fft, sr):
    """Power in units of pink noise, cut into tiles: `[shape=(bands, bins, times, frames)]`."""
    loudness = power[1:64].mean(0)
    heard = loudness > 1e-8 * loudness.max(initial=0)   # digital silence tells nothing
    power = power if heard.all() else power[:, heard]
    bands = min(len(power), int(FLOOR_TOP * n_fft / sr)) // TILE[0]
    times = power.shape[1] // TILE[1]
    flat = power[:bands * TILE[0], :times * TILE[1]] / pink_template(n_fft, sr)[:bands * TILE[0]]
    return flat.reshape(bands, TILE[0], times, TILE[1])


def _level(tiles, tilt=1.0):
    return float(np.quantile(np.quantile(tiles, Q_TIME, axis=1) * tilt, Q_BANDS))


@functools.lru_cache(maxsize=64)
def _level_bias(n_fft, hop_length, sr, times):
    """What `_level` says of pure pink noise of variance 1, below 1 as low quantiles are."""
    noises = (pink_noise(times * TILE[1] * hop_length, seed) for seed in range(1 + 160 // times))
    return float(np.mean([_level(_cells(stft_power(y, n_fft, hop_length), n_fft, sr).mean((1, 3)))
                          for y in noises]))


class Floor(NamedTuple):
    """A floor of pink noise: see `pink_floor`."""

    variance: float      # in units of the squared waveform
    slope: float         # of the spectrum, 1/f^slope
    presence: float      # 0: there is none; between: uncertain; 1

    def power(self, n_fft=N_FFT, sr=SR):
        """Expected STFT power of the noise that is believed, `[shape=(1 + n_fft / 2, 1)]`."""
        return self.variance * self.presence * pink_template(n_fft, sr, self.slope)


def floor_measures(power, n_fft=N_FFT, hop_length=HOP_LENGTH, sr=SR):
    """Measure what `pink_floor` decides on.

    Returns
    -------
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
        for their band. In Gaussian noise a cell's power is exponential, whose logarithm has a
        mean of -0.577 (Euler's constant) below the logarithm of the mean: about -0.55 in quiet
        tiles, whatever the level. In music, lines and decays make it lower.
    """
    cells = _cells(power, n_fft, sr)
    tiles = cells.mean(1).mean(2)
    if tiles.shape[1] < 4 or not tiles.any():
        return 0.0, 1.0, np.inf, np.inf, np.inf, -np.inf
    low = np.quantile(tiles, Q_TIME, axis=1)
    ratios = [pink_template(n_fft, sr) / pink_template(n_fft, sr, slope) for slope in SLOPES]
    tilts = np.array([r[:len(low) * TILE[0]].reshape(len(low), -1).mean(1) for r in ratios])
    level, above = np.maximum(np.quantile(low * tilts, (Q_BANDS, 0.2), axis=1), 1e-30)
    gap = 10 * np.log10(above / level)
    best = np.argmin(np.log(gap + 0.02) + 2 * np.abs(np.array(SLOPES) - 1))
    tilt, level, gap = tilts[best], level[best], gap[best]
    quarters = [_level(part, tilt) for part in np.array_split(tiles, 4, axis=1)]
    drift = np.std(10 * np.log10(np.maximum(quarters, 1e-30)))
    depth = 10 * np.log10(tiles.mean() / level)
    lowest = np.argsort(low * tilt)[:max(4, len(low) // 8)]
    quiet = tiles[lowest] <= np.quantile(tiles[lowest], 0.25, axis=1, keepdims=True)
    grain = np.log(cells[lowest] + 1e-30).mean((1, 3)) - np.log(tiles[lowest] + 1e-30)
    bias = _level_bias(n_fft, hop_length, sr, 2 ** int(np.log2(min(tiles.shape[1], 160))))
    return level / bias, SLOPES[best], gap, drift, depth, float(grain[quiet].mean())


def pink_floor(power, n_fft=N_FFT, hop_length=HOP_LENGTH, sr=SR):
    """Estimate the pink noise in a recording from its power spectrogram alone.

    In units of 1/f noise a pink floor is flat and steady, and music only adds to it: a low
    quantile over time and then over frequency sees the floor. It is believed where the lowest
    bands agree and have the grain of Gaussian noise (they do not in music), where the level
    holds still, and where it is not far below the music: a logistic function of the four
    (`floor_measures`), fitted on recorded music at 0 to 20 dB and without noise. Where bands
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
    level, slope, gap, drift, depth, grain = floor_measures(power, n_fft, hop_length, sr)
    if gap > 3:    # no noise of these slopes, or nothing to measure
        return Floor(0.0, 1.0, 0.0)
    logit = np.dot(PRESENCE, (1, np.log(gap + 0.05), np.log(drift + 0.05), depth / 10, grain))
    level /= 10 ** (max(0, LIFT[0] * gap - LIFT[1]) / 10)
    return Floor(float(level), slope, float(np.clip((logit - 0.5) / 1.5, 0, 1)))


# ---------------------------------------------------------------- noise removal

WEIGHTS = Path(__file__).resolve().parent / "runs" / "recorded" / "pink-gain" / "gain.npz"
# averages that a gain sees around each cell, as (rows, frames): tones last, onsets are broad
BOXES = {"bins": ((1, 1), (1, 3), (1, 5), (1, 15), (1, 51), (3, 1), (5, 1), (17, 1), (3, 3),
                  (17, 3), (5, 5), (61, 5), (3, 15)),
         "bands": ((1, 1), (1, 5), (1, 15), (1, 51), (5, 1), (17, 1), (5, 5))}
GAIN_MARGIN = 25     # frames that the widest average reaches to either side


@functools.lru_cache(maxsize=1)
def gain_weights():
    """Weights of the learned gains; none, and a warning, where their file is missing."""
    try:
        with np.load(WEIGHTS) as kept:
            return {name: kept[name].astype(np.float32) for name in kept.files}
    except FileNotFoundError:
        warnings.warn(f"no {WEIGHTS.name} beside py (under runs): pink noise is removed by "
                      "Wiener's formula, less well than by the learned gain", stacklevel=2)
        return {}


def gain_features(ratio, hz, kind, mean, stretch=1.0):
    """Describe what lies around each cell of a spectrogram, for the learned gain.

    Parameters
    ----------
    ratio : np.ndarray [shape=(rows, t)]
        Power in units of the noise floor.
    hz : np.ndarray [shape=(rows,)]
        Frequency of each row.
    kind : {"bins", "bands"}
        Rows of an STFT, or of mel bands: which `BOXES` to average over.
    mean : float
        Mean of `ratio` over the whole clip.
    stretch : float
        How many times closer frames are than those that the gain was trained on.

    Returns
    -------
    np.ndarray [shape=(len(BOXES[kind]) + 2, rows, t)], float32
        Logarithms of the averages, of the frequency and of the mean.
    """
    x = np.empty((len(BOXES[kind]) + 2, *ratio.shape), np.float32)
    for box, (rows, frames) in zip(x, BOXES[kind]):
        frames = 2 * round((frames - 1) / 2 * stretch) + 1
        scipy.ndimage.uniform_filter(ratio, (rows, frames), box, mode="nearest")
    x[:-2] += 1e-3
    x[-2], x[-1] = np.asarray(hz)[:, None] + 20, mean
    return np.log(x, out=x)


def _gain(ratio, hz, kind, stretch):
    """Gain of each cell from the power in units of the floor: learned, or Wiener's."""
    mean, weights, gain = float(ratio.mean()), gain_weights(), np.empty_like(ratio)
    size, margin = 216, int(np.ceil(GAIN_MARGIN * stretch))
    for at in range(0, ratio.shape[1], size):    # blocks that nearly stay in the cache
        start = max(0, at - margin)
        x = gain_features(ratio[:, start:at + size + margin], hz, kind, mean, stretch)
        x = x[:, :, at - start:at - start + size]
        if not weights:
            # the larger of two averages of signal and noise, less the noise and the maximum's bias
            xi = np.maximum(np.exp(x[[2, 5]].max(0)) - 2, 0)
            gain[:, at:at + size] = np.maximum(xi / (1 + xi), 0.1) ** (1 + (kind == "bands"))
            continue
        h = x.reshape(len(x), -1)
        with _one_thread():
            for layer in range(3):
                w = weights[f"{kind}{layer}"]        # the last column is the bias
                h = w[:, :-1] @ (np.maximum(h, 0, out=h) if layer else h)
                h += w[:, -1:]
        gain[:, at:at + size] = scipy.special.expit(h).reshape(x.shape[1:])
    return gain


def noise_gain(power, floor, n_fft=2 * N_FFT, hop_length=N_FFT // 2, sr=SR):
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
    return _gain(power / floor.power(n_fft, sr), hz, "bins", n_fft / 4 / hop_length)


def band_gain(power, floor, n_fft=N_FFT, hop_length=HOP_LENGTH, sr=SR, n_mels=N_MELS):
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
    filters = mel_filters(sr, n_fft, N_MELS)
    hz = mel_to_hz(np.arange(1, N_MELS + 1) / (N_MELS + 1) * hz_to_mel(sr / 2))
    ratio = (filters @ power) / (filters @ floor.power(n_fft, sr))
    gain = _gain(ratio, hz, "bands", n_fft / 2 / hop_length)
    if n_mels == N_MELS:
        return gain
    at = np.arange(1, n_mels + 1) * (N_MELS + 1) / (n_mels + 1) - 1
    return np.transpose([np.interp(at, np.arange(N_MELS), g) for g in gain.T]).astype(np.float32)


def remove_pink_noise(y, sr=SR):
    """Remove pink noise of unknown level from a recording, and leave clean music alone.

    Noise that fades or stops is not steady and stays; hum is music to this function.

    Parameters
    ----------
    y : np.ndarray [shape=(..., n)]
        Waveform; channels are treated one by one.
    sr : int [Hz]

    Returns
    -------
    np.ndarray [shape=(..., n)], float32
        `y` itself, as float32, where no pink floor is found.

    Raises
    ------
    ValueError
        If `y` holds samples that are not finite numbers.
    """
    import librosa
    y = np.asarray(y, np.float32)
    if not np.isfinite(y).all():
        raise ValueError("the waveform holds samples that are not finite numbers")
    if y.ndim > 1:
        return np.stack([remove_pink_noise(channel, sr) for channel in y])
    window = N_FFT * 2 ** max(0, round(np.log2(sr / SR)))
    floor = pink_floor(stft_power(y, window, window // 2), window, window // 2, sr)
    if floor.presence == 0:
        return y.copy()
    # the waveform's windows are twice as long: music is more tonal than noise
    S = librosa.stft(y, n_fft=2 * window, hop_length=window // 2)
    S *= noise_gain(S.real ** 2 + S.imag ** 2, floor, 2 * window, window // 2, sr)
    return librosa.istft(S, hop_length=window // 2, length=len(y))


def si_sdr(estimate, truth):
    """Scale-invariant signal-to-distortion ratio of a waveform (n,), in dB.

    References
    ----------
    J. Le Roux et al., "SDR: half-baked or well done?", ICASSP 2019, arXiv 1811.02508.
    """
    target = truth * np.dot(estimate, truth) / np.dot(truth, truth)
    distortion = estimate - target
    return 10 * np.log10(np.sum(target ** 2) / np.sum(distortion ** 2))


# ---------------------------------------------------------------- codes


def mel_spectrogram(y, sr=SR, n_mels=N_MELS, n_fft=N_FFT, hop_length=HOP_LENGTH, denoise=False):
    """Compute the mel power spectrogram of a waveform.

    Parameters
    ----------
    y : np.ndarray [shape=(n,)]
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
    """
    power = stft_power(y, n_fft, hop_length)
    mel = mel_filters(sr, n_fft, n_mels) @ power
    if denoise:
        floor = pink_floor(power, n_fft, hop_length, sr)
        if floor.presence:
            mel *= band_gain(power, floor, n_fft, hop_length, sr, n_mels)
    return mel


def code_from_mel(mel):
    """Map mel power to codes: dB between `DB_RANGE`, linearly to [-1, 1], clipped."""
    low, high = DB_RANGE
    db = 10 * np.log10(np.maximum(mel, 10 ** (low / 10)))
    return np.clip(2 * (db - low) / (high - low) - 1, -1, 1)


def db_from_code(code):
    """Map codes in [-1, 1] to mel power in dB."""
    low, high = DB_RANGE
    return low + (np.asarray(code, np.float32) + 1) / 2 * (high - low)


# ---------------------------------------------------------------- codes to sound

SOUND_BLOCK = 1500   # frames that become sound at once: bounds the memory
SOUND_OVERLAP = 32   # frames that blocks share: their edges differ, their middles agree


def _first_phase(mel, filters, n_fft, hop_length, start, seed):
    """Phase of every bin if each peak of the bands were a sine (Beauregard, DSP 2015).

    Triangles that overlap by half interpolate linearly, so that the centroid of the bands
    around a peak is that of its bins: a sine's frequency, far finer than a band. Bins follow
    the peak on whose slope they lie; each band has its own phase at frame 0, from `seed`.

    Returns the phase in radians `[shape=(t, bins)]` and the sum over frames behind it, whose
    first row is `start`.
    """
    bands, bins = np.arange(len(filters)), np.arange(filters.shape[1])
    centers = filters @ bins / np.maximum(filters.sum(1), 1e-6)
    lobe = np.where(np.gradient(centers) < 1.75, 2, 1)   # a sine's lobe spans several low bands
    near = (np.abs(bands[:, None] - bands) <= lobe).astype(np.float32)
    bin_of_peak = (mel * centers) @ near / np.maximum(mel @ near, 1e-20)
    around = np.pad(mel, ((0, 0), (1, 1)), constant_values=-1)
    uphill = np.argmax([mel, around[:, :-2], around[:, 2:]], axis=0)
    peak = bands + np.take((0, -1, 1), uphill)
    peak = np.take_along_axis(peak, peak, 1)   # two bands uphill
    bin_of_peak[:, 0] = 0   # what peaks in the lowest band is an offset, no tone
    band = np.abs(bins[:, None] - centers).argmin(1)
    step = 2 * np.pi * hop_length / n_fft * np.take_along_axis(bin_of_peak, peak, 1)[:, band]
    turned = start + np.cumsum(np.vstack([0 * step[:1], step[:-1]]), axis=0, dtype=np.float64)
    first = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(bands))[peak[:, band]]
    return turned + first + np.pi * bins, turned   # pi: a frame's middle is its time 0


class _Frames:
    """Overlapping frames of a waveform whose mel power `[shape=(t, bands)]` is to become `mel`."""

    def __init__(self, mel, n_fft, hop_length):
        self.mel, self.n_fft, self.hop_length = mel, n_fft, hop_length
        self.window = scipy.signal.get_window("hann", n_fft).astype(np.float32)
        # quiet frames must not be decided by the loud ones that they overlap
        self.weight = mel.sum(1, keepdims=True) ** -0.5 * self.window
        # blocks that stay in the processor's cache
        self.rows = [slice(i, min(i + 128, len(mel))) for i in range(0, len(mel), 128)]
        self.norm = np.maximum(self._add([self.weight * self.window]), 1e-9)

    def _add(self, blocks):
        y, first = np.zeros((len(self.mel) + self.n_fft // self.hop_length, self.hop_length),
                            np.float32), 0
        for block in blocks:
            for i, left in enumerate(range(0, self.n_fft, self.hop_length)):
                piece = block[:, left:left + self.hop_length]
                y[first + i:first + i + len(block), :piece.shape[1]] += piece
            first += len(block)
        return y.ravel()[self.n_fft // 2:][:(len(self.mel) - 1) * self.hop_length]

    def join(self, spectra):
        """Waveform whose frames come nearest to `spectra`, given in the blocks of `rows`."""
        return self._add(scipy.fft.irfft(X, self.n_fft) * self.weight[at]
                         for at, X in zip(self.rows, spectra)) / self.norm

    def corrected(self, y, filters, back):
        """Spectra of `y`, the magnitudes scaled by what the bands lack, in blocks."""
        low, high = (10 ** (db / 10) for db in DB_RANGE)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(y, self.n_fft // 2), self.n_fft)
        for at in self.rows:
            X = scipy.fft.rfft(frames[::self.hop_length][at] * self.window)
            # beyond its range the code says nothing: there bands stay as they are
            now = np.clip((X.real ** 2 + X.imag ** 2) @ filters.T, low, high)
            X *= np.exp(0.5 * np.log(self.mel[at] / now) @ back)
            yield X


def _sound_block(code, sr, n_fft, hop_length, n_iter, start, seed):
    """Sound of the rows of `code`, and the turned phase at the row where the next block starts."""
    filters = mel_filters(sr, n_fft, code.shape[1]).toarray()
    back = filters / np.maximum(filters.sum(0), 1e-6)
    back[:, [0, -1]] = back[:, [1, -2]]   # no triangle covers the ends
    finer = max(k for k in range(1, max(1, 8 * hop_length // n_fft) + 1) if hop_length % k == 0)
    at = np.arange((len(code) - 1) * finer + 1) / finer
    left, part = at.astype(int), (at % 1).astype(np.float32)[:, None]
    rows = code[left] + part * (code[np.minimum(left + 1, len(code) - 1)] - code[left])
    mel = 10 ** (db_from_code(rows) / 10)
    frames = _Frames(mel, n_fft, hop_length // finer)
    phase, turned = _first_phase(mel, filters, n_fft, hop_length // finer, start, seed)
    size = np.sqrt(np.where(rows > -1, mel / np.maximum(filters.sum(1), 0.1), 0) @ back)
    y = last = frames.join(size[at] * np.exp(1j * phase[at]).astype(np.complex64)
                           for at in frames.rows)
    momentum = 0.99
    for i in range(n_iter):
        if i == n_iter // 4:   # frames between those of the code have done their part
            frames, momentum, last = _Frames(mel[::finer], n_fft, hop_length), 0.9, y
        ahead = np.clip(y, -1, 1)
        ahead, last = ahead + momentum * (ahead - last), ahead
        y = frames.join(frames.corrected(ahead, filters, back))
    return y, turned[min(SOUND_BLOCK * finer, len(turned) - 1)] % (2 * np.pi)


def music_from_code(code, sr=SR, n_fft=N_FFT, hop_length=HOP_LENGTH, n_iter=64, seed=0):
    """Turn a code back into sound.

    Starts from sines at the peaks of the bands and goes on as fast Griffin-Lim does, with one
    difference: the magnitudes of a step are not fixed, but those of the step before, scaled by
    what their bands lack. Bands are all that a code tells; leaving the bins free lets frames
    agree, so that nearly the same code comes back. The first quarter of the steps also holds
    frames between those of the code to its interpolation, so that sound is steady from frame
    to frame. Codes of -1 and 1, the ends of `DB_RANGE`, mean "at most" and "at least"; a code
    of -1 throughout is silence.

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

    Returns
    -------
    np.ndarray [shape=(t * hop_length,)], float32
        In [-1, 1]: the level is that of the coded music, lowered as a whole where it would clip.

    Raises
    ------
    ValueError
        If the code is no matrix with at least one frame, or holds NaN.

    References
    ----------
    N. Perraudin, P. Balazs and P. L. Soendergaard, "A fast Griffin-Lim algorithm", WASPAA 2013.
    G. T. Beauregard, M. Harish and L. Wyse, "Single pass spectrogram inversion", DSP 2015.
    """
    code = np.clip(np.asarray(code, np.float32), -1, 1)
    if code.ndim != 2 or 0 in code.shape or np.isnan(code).any():
        raise ValueError(f"a code is a matrix of bands x frames without NaN, not {code.shape}")
    t, phase = code.shape[1], 0.0
    y = np.zeros(t * hop_length, np.float32)
    fade = np.linspace(-0.5, 1.5, SOUND_OVERLAP * hop_length, dtype=np.float32).clip(0, 1)
    for first in range(0, max(1, t - SOUND_OVERLAP), SOUND_BLOCK):
        rows = np.arange(first, min(first + SOUND_BLOCK + SOUND_OVERLAP, t) + 1).clip(max=t - 1)
        part, phase = _sound_block(code[:, rows].T, sr, n_fft, hop_length, n_iter, phase, seed)
        at = first * hop_length
        if first:
            part[:len(fade)] = fade * part[:len(fade)] + (1 - fade) * y[at:at + len(fade)]
        y[at:at + len(part)] = part
    y /= max(1.0, _peak(y))
    return y


# ---------------------------------------------------------------- what a patch is like

TONAL_HZ = (400, 3000)   # below, a band is wider than a semitone; above, partials stand too close
PROMINENCE = 6           # dB by which a partial's band is above those two away
PEAK_DEPTH = 40          # dB below a frame's strongest band down to which partials count
ONSET_DB = 0.5           # dB of flux above its mean: gives about as many as the scores have notes
MUSICAL = ("in tune", "chroma entropy", "onsets/s", "flux kurtosis", "dynamics (dB)")


def spectral_peaks(codes):
    """Partials of codes (n, n_mels, t): where, their Hz and their power, all (n, bands, t).

    Triangles that overlap by half interpolate linearly: the centroid of three bands, without
    their pedestal, gives a sine's frequency to 0.1 cents, where a parabola in dB errs by 9.
    """
    db, n = db_from_code(codes), codes.shape[1]
    hz = mel_to_hz(hz_to_mel(SR / 2) / (n + 1) * np.arange(1, n + 1))
    hz = hz.astype(np.float32)
    low, high = np.searchsorted(hz, TONAL_HZ)
    far, left, here, right, other = (db[:, low + i:high + i] for i in range(-2, 3))
    floor = np.maximum(db.max(1, keepdims=True) - PEAK_DEPTH, DB_RANGE[0] + 1)
    peak = ((here > left) & (here >= right) & (here > floor)
            & (here > np.maximum(far, other) + PROMINENCE))
    pedestal = 10 ** (np.minimum(far, other) / 10)
    weight = [np.maximum(10 ** (x / 10) - pedestal, 0) for x in (left, here, right)]
    power = np.sum(weight, axis=0)
    weighted = sum(w * hz[low + i:high + i, None] for i, w in zip((-1, 0, 1), weight))
    return peak, weighted / np.maximum(power, 1e-9), np.where(peak, power, 0)


def tuning_and_chroma(codes):
    """Share of partials in tune and entropy of the chroma (Gomez 2006) of codes: arrays (n,).

    Each partial counts once: by power, music half a semitone up stands out less (d' 3.4, not 3.9).
    """
    peak, hz, power = spectral_peaks(codes)
    pitch = 69 + 12 * np.log2(np.where(peak, hz, 440) / 440)
    nearest, count = np.round(pitch), peak.sum((1, 2))
    share = (peak & (np.abs(pitch - nearest) < 1 / 6)).sum((1, 2)) / np.maximum(count, 1)
    cell = 12 * np.arange(len(codes))[:, None, None] + nearest.astype(int) % 12
    chroma = np.bincount(cell.ravel(), np.sqrt(power).ravel(), 12 * len(codes)).reshape(-1, 12)
    chroma = chroma / np.maximum(chroma.sum(1, keepdims=True), 1e-9)
    entropy = -(chroma * np.log(np.maximum(chroma, 1e-9))).sum(1) / np.log(12)
    return np.where(count, share, np.nan), np.where(count, entropy, np.nan)


def rhythm_measures(codes):
    """Onsets a second, kurtosis of the flux and dynamics in dB of codes: three arrays (n,).

    Onset: flux is the largest of three frames and `ONSET_DB` above the mean of five (Boeck 2012).
    """
    db = db_from_code(codes)
    flux = np.maximum(np.diff(db, axis=2), 0).mean(1)
    five = np.lib.stride_tricks.sliding_window_view(flux, 5, axis=1)
    onset = (five[..., 2] >= five[..., 1:4].max(2)) & (five[..., 2] >= five.mean(2) + ONSET_DB)
    centred = flux - flux.mean(1, keepdims=True)
    kurtosis = (centred ** 4).mean(1) / np.maximum((centred ** 2).mean(1) ** 2, 1e-12) - 3
    level = 10 * np.log10((10 ** (db / 10)).sum(1))
    low, high = np.quantile(level, (0.05, 0.95), axis=1)
    return onset.mean(1) * SR / HOP_LENGTH, kurtosis, high - low


def musical_measures(codes):
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
    rows = [tuning_and_chroma(x) + rhythm_measures(x)
            for x in (codes[i:i + 100] for i in range(0, len(codes), 100))]   # bounds the memory
    return {name: np.concatenate(values) for name, values in zip(MUSICAL, zip(*rows))}


def note_measures(codes):
    """Median spectral flatness, and share of a frame's energy in its five strongest bands.

    Flatness is the geometric over the arithmetic mean of a frame's mel power: 1 for a flat
    spectrum, 0 for a line.

    Parameters
    ----------
    codes : np.ndarray [shape=(n, n_mels, t)]
    """
    power = 10 ** (db_from_code(codes) / 10)
    flatness = np.exp(np.log(power).mean(1)) / power.mean(1)
    strongest = np.sort(power, axis=1)[:, -5:].sum(1) / power.sum(1)
    return float(np.median(flatness)), float(np.median(strongest))


# ---------------------------------------------------------------- what a piece is like


def drift_measures(codes):
    """Mean, variance and mean absolute frame-to-frame change of each code: three arrays (n,)."""
    codes = np.asarray(codes, np.float32)
    return (codes.mean((1, 2)), codes.var((1, 2)), np.abs(np.diff(codes, axis=2)).mean((1, 2)))


def unevenness(codes, period=16):
    """Frame-to-frame change at each phase of a period: the largest mean over the smallest."""
    change = np.abs(np.diff(codes, axis=2)).mean((0, 1))
    change = change[:len(change) // period * period].reshape(-1, period).mean(0)
    return float(change.max() / change.min())


def pulse(code, seconds=3.0):
    """Autocorrelation of the onset strength of a code, from lag 0 to `seconds`."""
    import librosa
    strength = librosa.onset.onset_strength(S=db_from_code(code), sr=SR,
                                            hop_length=HOP_LENGTH)
    lags = round(seconds * SR / HOP_LENGTH)
    curve = librosa.autocorrelate(strength - strength.mean(), max_size=lags)
    return curve / curve[0]


def similarity(code, window=32, hop=8):
    """Cosines of all pairs of windows of a code, without its mean frame: a square matrix."""
    code = np.asarray(code, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(code - code.mean(1, keepdims=True), window,
                                                       axis=1)[:, ::hop]
    flat = windows.swapaxes(0, 1).reshape(windows.shape[1], -1)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)   # of silence: 0
    return flat @ flat.T


def piece_measures(codes, far=11):
    """Rhythm and memory of whole pieces (n, n_mels, t), `far` hops of `similarity` being 4 s."""
    beat = [max(curve[scipy.signal.find_peaks(curve)[0]], default=0) for curve in map(pulse, codes)]
    matrices = [similarity(code) for code in codes]
    away = [np.where(np.abs(np.subtract.outer(*2 * [np.arange(len(m))])) >= far, m, -1)
            for m in matrices]
    return {"piece/rhythm": float(np.mean(beat)),
            "piece/memory": float(np.mean([np.diagonal(m, far).mean() for m in matrices])),
            "piece/return": float(np.mean([m.max(1).mean() for m in away]))}


# ---------------------------------------------------------------- coding a folder


class Codes(NamedTuple):
    """What `get_musics_coded` returns: clips in the order of their paths.

    Attributes
    ----------
    codes : np.ndarray [shape=(n, n_mels, t)], float16, in [-1, 1]
        Memory-mapped, read-only.
    labels : list of str
        The sub-folder that a clip's file lies in; the folder's own name for files in none.
    paths : list of pathlib.Path
        Of a clip's file.
    starts : list of float [s]
        Of a clip in its file.
    skipped : dict
        Path of each file that gave no clip, to the reason.
    damaged : dict
        Path of each file that broke off after at least one clip, to what happened.
    """

    codes: np.ndarray
    labels: list
    paths: list
    starts: list
    skipped: dict
    damaged: dict


def code_clips(path, seconds, n_mels, denoise):
    """Code a file: codes `[shape=(clips, n_mels, t)]`, their starts [s], and what went wrong."""
    codes, starts, silent, trouble = [], [], 0, ""
    if not path.stat().st_size:
        return np.array([]), [], "empty file"
    try:
        for i, y in enumerate(audio_clips(path, seconds)):
            if _peak(y) < SILENCE:
                silent += 1
                continue
            mel = mel_spectrogram(y, n_mels=n_mels, denoise=denoise)
            codes.append(code_from_mel(mel).astype(np.float16))
            starts.append(float(i * seconds))
        if not codes:
            trouble = (f"silent: {silent} clips without a sound" if silent
                       else f"too short: less than a clip of {seconds:g} s")
    except Exception as error:  # a decoder may fail in any way: the run goes on
        kind = "damaged after some clips" if codes or silent else "not audio, or damaged"
        trouble = f"{kind}: {str(error).removeprefix(f'Error opening {str(path)!r}: ')}"
    return np.array(codes), starts, trouble


def _code_file(path, store, key, *settings):
    """Code a file into `store`, unless it is there under the same key; starts and trouble."""
    with (suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
          np.load(store) as kept):
        if str(kept["key"]) == key:
            return kept["starts"].tolist(), str(kept["trouble"])
    codes, starts, trouble = code_clips(path, *settings)
    with atomic(store) as part:
        np.savez(part, key=key, codes=codes, starts=np.array(starts), trouble=trouble)
    return starts, trouble


def _label(path, folder):
    return folder.name if path.parent == folder else path.relative_to(folder).parts[0]


def labels_in_turn(audio, folder):
    """Order files so that the first few come from every sub-folder in turn."""
    label = functools.partial(_label, folder=folder)
    groups = [list(group) for _, group in itertools.groupby(sorted(audio, key=label), label)]
    return [p for turn in itertools.zip_longest(*groups) for p in sorted(filter(None, turn))]


def get_musics_coded(folder, seconds=30, n_mels=N_MELS, denoise=True, limit=None, n_jobs=-1,
                     cache=None):
    """Remove pink noise from every clip of a folder and code it as a mel spectrogram.

    Results are kept per file in `cache` and reused while the file (size, time), the parameters
    and `CODE_VERSION` stay: a run that was stopped goes on where it was. Runs in parallel on
    joblib's active backend.

    Parameters
    ----------
    folder : path
        Audio (.mp3 .ogg .opus .flac .wav) at any depth; first-level sub-folders are labels.
    seconds : float [s]
        Length of a clip. Longer files give several; a clip or remainder that lacks at most
        0.5 s is padded with silence, a shorter one dropped.
    n_mels : int
    denoise : bool
    limit : int, optional
        At most so many clips, taken from the sub-folders in turn.
    n_jobs : int
        As in joblib.
    cache : path, optional
        By default `folder/.codes`.

    Returns
    -------
    Codes

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    ValueError
        If it holds no audio, or `seconds` or `n_mels` make no spectrogram.
    """
    folder = Path(folder)
    if seconds <= 0 or n_mels < 1 or (limit is not None and limit < 1):
        raise ValueError(f"seconds {seconds}, n_mels {n_mels}, limit {limit}: not all positive")
    audio, others = audio_files(folder)
    settings = [SR, N_FFT, HOP_LENGTH, n_mels, DB_RANGE, float(seconds), denoise, CODE_VERSION]
    cache = Path(cache or folder / ".codes") / _digest(settings)
    jobs = {}
    for path in audio:
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        jobs[path] = (path, cache / f"{_digest(name)}.npz",
                      _digest(name, stat.st_size, stat.st_mtime_ns), seconds, n_mels, denoise)
    queue, found, count, enough = labels_in_turn(audio, folder), {}, 0, limit or sys.maxsize
    todo = itertools.takewhile(lambda _: count < enough, queue)   # joblib asks as it goes
    with _progress(None, total=min(len(audio), enough), desc="code", unit="file") as bar:
        results = parallel(_code_file, (jobs[path] for path in todo), n_jobs)
        for result, path in zip(results, queue):
            if count < enough:
                found[path] = result
                count += len(result[0])
                bar.update()
    shape = (n_mels, 1 + round(seconds * SR) // HOP_LENGTH)
    return _gather(folder, dict(sorted(found.items())), others, jobs, cache, limit, shape)


def _gather(folder, found, others, jobs, cache, limit, shape):
    """Put the per-file results into one array on disk, a file at a time, and list its clips."""
    clips = [(path, start) for path, (starts, _) in found.items() for start in starts][:limit]
    whole = cache / f"all-{_digest(sorted(jobs[path][2] for path in found), limit)}.npy"
    if not whole.exists():
        with atomic(whole) as part, open(part, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {
                "descr": "<f2", "fortran_order": False, "shape": (len(clips), *shape)})
            for path, some in itertools.groupby(path for path, _ in clips):
                with np.load(jobs[path][1]) as kept:
                    kept["codes"][:len(list(some))].tofile(file)
    skipped = {p: trouble for p, (starts, trouble) in found.items() if trouble and not starts}
    damaged = {p: trouble for p, (starts, trouble) in found.items() if trouble and starts}
    known = " ".join(AUDIO_SUFFIXES)
    skipped |= {p: f"not audio: {p.suffix or 'no suffix'} is none of {known}" for p in others}
    codes = np.load(whole, mmap_mode="r") if clips else np.zeros((0, *shape), np.float16)
    return Codes(codes, [_label(path, folder) for path, _ in clips], [path for path, _ in clips],
                 [start for _, start in clips], skipped, damaged)
