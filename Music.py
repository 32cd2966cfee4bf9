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
import errno
import functools
import hashlib
import itertools
import json
import numbers
import os
import re
import signal
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for part in Path(folder).glob(".*.part*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > LEFTOVER_AGE:
                part.unlink()


def _seeded(seed, *words):
    name = "/".join(map(str, words))
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


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


@functools.lru_cache(maxsize=8)
def _tunes(path):
    """Split an ABC book into `{number: text}`."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return {tune[2]: tune[1] for tune in re.finditer(r"(?ms)^(X:\s*(\w*).*?)(?=^X:|\Z)", text)}


def list_pieces(repertoire):
    """List a repertoire as `(name, path, tune number or None)`, sorted."""
    import music21
    root = Path(music21.__file__).parent / "corpus"
    pieces = []
    for path in sorted({p for pattern in repertoire.patterns for p in root.glob(pattern)}):
        name = re.sub(r"\W+", "_", str(path.relative_to(root).with_suffix(""))).strip("_")
        tunes = _tunes(str(path)) if path.suffix == ".abc" else [None]
        pieces += [(name if t is None else f"{name}_{t}", str(path), t) for t in tunes]
    return pieces


def _window(path, tune, clip, seconds):
    """Read the part of a piece that clip number `clip` plays.

    Returns a symusic score in seconds, or None where the piece is over. Scores are cut before
    they become MIDI (a whole quartet movement takes seconds) and are played without repeats,
    whose two ends a cut may separate; tunes are played with them.
    """
    import symusic
    from music21 import bar, converter, midi, repeat, tempo
    whole = tune is not None
    score: Any = converter.parse(_tunes(path)[tune] if whole else path, forceSource=True,
                                 format="abc" if whole else None)
    if not whole:
        mark = score.recurse().getElementsByClass(tempo.MetronomeMark).first()
        beats = seconds * ((mark.getQuarterBPM() if mark else None) or 120) / 60
        measures = score.parts[0].getElementsByClass("Measure")
        length = int(np.ceil(beats / measures[min(1, len(measures) - 1)].barDuration.quarterLength))
        score = score.measures(clip * (length + 1), clip * (length + 1) + length)
        for item in list(score.recurse().getElementsByClass(
                (bar.Repeat, repeat.RepeatExpression, "RepeatBracket"))):
            item.activeSite.remove(item)
    score = symusic.Score.from_midi(midi.translate.streamToMidiFile(score).writestr(), "second")
    start = clip * float(seconds) if whole else 0.0
    if not score.note_num() or score.end() - start < (seconds / 2 if clip else 1.0):
        return None
    return score.clip(start, score.end(), clip_end=False).shift_time(-start) if start else score


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
        track.program, track.is_drum = program, False
    sound = np.asarray(_synthesizer().render(score, stereo=False))[0]
    sound = soxr.resample(sound, 2 * SR, SR)
    n, period = round(seconds * SR), max(1, round(score.end() * SR))
    y = np.zeros(n, np.float32)
    for start in range(0, n, period):
        y[start:start + len(sound)] += sound[:n - start]
    rms = np.sqrt(np.mean(y ** 2))
    return y * min(CLEAN_RMS / max(rms, 1e-9), CLEAN_PEAK / max(_peak(y), 1e-9))


def _render_clip(folder, label, piece, clip, seconds, snr_db, seed):
    """Write one clip. Returns None if it was written, else the reason why it was not."""
    import soundfile
    name, path, tune = piece
    target = Path(folder) / label / f"{name}-{clip}.flac"
    repertoire = REPERTOIRES[label]
    snr = None if snr_db is None else round(float(_seeded(seed, name).uniform(*snr_db)), 2)
    note = {"piece": name, "clip": clip, "program": repertoire.program, "snr_db": snr,
            "seconds": seconds, "seed": seed}
    if clip_info(target) == note:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of measures too full, by the hundred
            score = _window(path, tune, clip, seconds)
    except Exception as error:  # music21 raises a dozen kinds for scores it cannot read
        return type(error).__name__
    if score is None:
        return "over"
    y = _play(score, repertoire.program, seconds)
    if _peak(y) < SILENCE:
        return "silent"
    if snr is not None:
        y = add_pink_noise(y, snr, _seeded(seed, name, clip))
    with atomic(target) as part, soundfile.SoundFile(part, "w", SR, 1) as file:
        file.title, file.genre, file.comment = name, label, json.dumps(note)
        file.license = repertoire.licence
        file.write(y)
    return None


def clip_info(path):
    """Read what `render_scores` recorded in a file's tags.

    Returns
    -------
    dict
        piece, clip, program, snr_db [dB, None without noise], seconds, seed; empty for
        other files, and where there is none.
    """
    import soundfile
    with suppress(soundfile.LibsndfileError, ValueError), soundfile.SoundFile(path) as file:
        return json.loads(file.comment or "{}")
    return {}


def _candidates(label, seed, ended):
    """Yield `(piece, clip)`: the first clip of every piece, then the next of those not ended."""
    pieces = list_pieces(REPERTOIRES[label])
    order = _seeded(seed, label).permutation(len(pieces))
    for clip in range(MAX_CLIPS_PER_PIECE):
        yield from ((pieces[i], clip) for i in order if pieces[i][0] not in ended)


def _next_wave(pieces, done, queues):
    """Take the candidates that are missing, each of a label that has the fewest so far."""
    wave: list = []
    count = {label: len(made) for label, made in done.items()}
    while queues and sum(count.values()) < pieces:
        label = min(reversed(queues), key=count.__getitem__)
        candidate = next(queues[label], None)
        if candidate:
            wave.append((label, *candidate))
            count[label] += 1
        else:
            del queues[label]
    return wave


def _check_rendering(pieces, snr_db, seconds, repertoires):
    if not repertoires or not set(repertoires) <= set(REPERTOIRES):
        raise ValueError(f"repertoires must be some of {list(REPERTOIRES)}, not {repertoires}")
    if snr_db is not None and not -5 <= snr_db[0] <= snr_db[1]:
        raise ValueError(f"snr_db must be a rising pair from -5 dB up, not {snr_db}")
    if seconds < 1 or pieces < 0:
        raise ValueError(f"cannot render {pieces} clips of {seconds} s: at least 1 s each")


def render_scores(folder, pieces=500, snr_db=(5, 20), seconds=30, seed=0,
                  repertoires=tuple(REPERTOIRES), n_jobs=-1):
    """Play real compositions out of music21's corpus into audio files.

    Writes `folder/<repertoire>/<piece>-<clip>.flac`, 22,050 Hz, mono, 16 bit, with the true
    noise level in the tags (`clip_info`), and `folder/.report.json`: clips and pieces of each
    repertoire, and the pieces that could not be read and were replaced, counted by reason.
    Repertoires share evenly; one with too few pieces gives several clips a piece (split by
    piece, not by clip), and what it still lacks goes to the others. The same arguments give
    the same files in one environment; files that are already there are kept, so that a run
    that was stopped goes on.

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

    References
    ----------
    M. S. Cuthbert and C. Ariza, "music21", ISMIR 2010.
    """
    _check_rendering(pieces, snr_db, seconds, repertoires)
    folder = Path(folder)
    ended: set = set()
    queues = {k: _candidates(k, seed, ended) for k in repertoires}
    done: dict = {k: [] for k in repertoires}
    replaced: dict = {k: Counter() for k in repertoires}
    with _progress(None, total=pieces, desc="render", unit="clip") as bar:
        while wave := _next_wave(pieces, done, queues):
            jobs = [(folder, *candidate, seconds, snr_db, seed) for candidate in wave]
            for reason, (k, piece, _) in zip(parallel(_render_clip, jobs, n_jobs), wave):
                if reason is None:
                    done[k].append(piece[0])
                    bar.update()
                else:
                    ended.add(piece[0])
                    replaced[k].update({reason} - {"over"})
    report = {k: {"clips": len(done[k]), "pieces": len(set(done[k])), "replaced": replaced[k],
                  "instrument": REPERTOIRES[k].instrument} for k in repertoires}
    with atomic(folder / ".report.json") as part:
        part.write_text(json.dumps(report, indent=1))
    made = sum(map(len, done.values()))
    if made < pieces:
        raise ValueError(f"{', '.join(repertoires)} give {made} clips of {seconds} s, "
                         f"not {pieces}: they are in {folder}")
    return folder


# ---------------------------------------------------------------- collections: FMA-small

FMA_URL = "https://os.unil.cloud.switch.ch/fma/"
FMA_SHA1 = {"fma_small.zip": "ade154f733639d52e35e32f5593efe5be76c6d70",
            "fma_metadata.zip": "f0df49ffe5f2a6008d7dc83c6915b31835dfe733"}


def _resume_download(url, output_file, _pooch, tries=6, wait=1.0):
    """Download for pooch that keeps what has come, in `<name>.part`, and asks for the rest.

    Gives up after `tries` tries in a row that brought nothing.
    """
    import requests
    part = Path(output_file).with_name(Path(url).name + ".part")
    part.touch()
    failures = 0
    while failures < tries:
        time.sleep(wait * failures)
        have = part.stat().st_size
        try:
            _fetch_rest(url, part, have)
            os.replace(part, output_file)
            return
        except (requests.ConnectionError, requests.Timeout,
                requests.exceptions.ChunkedEncodingError) as error:
            problem = error
        failures = 0 if part.stat().st_size > have else failures + 1
    raise ConnectionError(f"{url}: {problem}; {part} is kept, call again to go on")


def _fetch_rest(url, part, have):
    """Append what is missing after `have` bytes; a cut raises one of the errors of requests."""
    import requests
    with requests.get(url, stream=True, timeout=30, headers={
            "Range": f"bytes={have}-", "Accept-Encoding": "identity"}) as reply:
        if reply.status_code == 416:  # nothing left to send
            return
        reply.raise_for_status()
        resumed = reply.status_code == 206   # 200: no Range here, all over again
        with open(part, "ab" if resumed else "wb") as file, _progress(
                None, desc=part.stem, unit="B", unit_scale=True, initial=have * resumed,
                total=have * resumed + int(reply.headers.get("Content-Length", 0))) as bar:
            for block in reply.iter_content(1 << 14):
                bar.update(file.write(block))
        if part.stat().st_size < bar.total:   # old versions of urllib3 do not notice
            raise requests.ConnectionError("the server stopped sending")


def _fma_genres(metadata_zip):
    """Read `{track id: top genre}` of the small subset out of fma_metadata.zip."""
    with zipfile.Path(metadata_zip, "fma_metadata/tracks.csv").open(encoding="utf-8") as text:
        rows = csv.reader(text)
        head = list(zip(next(rows), next(rows)))
        genre, subset = head.index(("track", "genre_top")), head.index(("set", "subset"))
        return {int(row[0]): row[genre] for row in rows
                if row[0].isdigit() and row[subset] == "small"}


fma_genres = _fma_genres


def download_fma_small(folder, url=FMA_URL, sha1=None):
    """Download FMA-small, 8,000 clips of 30 s in 8 genres, 7.2 GiB, and lay it out by genre.

    Both zip files are kept in `folder`, checked by SHA-1, and fetched further after a cut.
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
        If the server cannot be reached; what has come is kept.
    ValueError
        If a file's SHA-1 is wrong or the metadata lacks a column.

    References
    ----------
    M. Defferrard et al., "FMA: a dataset for music analysis", ISMIR 2017, arXiv 1612.01840.
    """
    import pooch
    folder, sha1 = Path(folder), sha1 or FMA_SHA1
    pooch.get_logger().setLevel("WARNING")
    audio, metadata = (pooch.retrieve(url.rstrip("/") + "/" + name, f"sha1:{sha1[name]}", name,
                                      folder, downloader=_resume_download)
                       for name in ("fma_small.zip", "fma_metadata.zip"))
    odd = _unpack_fma(audio, _fma_genres(metadata), folder / "audio")
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
            genre = re.sub(r"[^\w-]+", "_", genres[int(match[1])]) or "unknown"
            path = target / genre / f"{match[1]}.mp3"
            if not path.exists() or path.stat().st_size != member.file_size:
                with atomic(path) as part, archive.open(member) as source:
                    part.write_bytes(source.read())
            seconds = 0.0
            with suppress(soundfile.LibsndfileError):
                seconds = soundfile.info(path).duration
            if seconds < 29:
                odd.append(f"{match[1]} ({'empty' if not seconds else f'{seconds:.1f} s'})")
    return odd


# ---------------------------------------------------------------- decoding

AUDIO_SUFFIXES = (".mp3", ".ogg", ".opus", ".flac", ".wav")
PAD_SECONDS = 0.5    # a clip that lacks at most this much is padded with silence
MAX_HOURS = 24       # no file is read further: damaged headers can promise endless audio
BLOCK = 1 << 15      # frames decoded at once: what a damaged file may lose
TAIL = 3000          # bytes behind the sound that need no word: two frames of MP3
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
    mean = sum(block[:, channel] for channel in range(channels)) / channels
    peak = _peak(mean)
    if not np.isfinite(peak):
        raise DamagedAudio("holds samples that are not finite numbers")
    if channels > 1 and peak < CANCELLED:
        first = _peak(block[:, 0])
        if first > AUDIBLE and peak < CANCELLED * first:
            return np.ascontiguousarray(block[:, 0])
    return mean


def _decode_part(file, start, sr):
    """Yield blocks of mono from the sound that begins at a byte; returns its length [s]."""
    import soxr
    endless = _lacks_length(file, start)
    part = _Part(file, start, ENDLESS if endless else 0)
    with part.open() as sound:
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
        Where the file holds no more sound that can be read, though it should.
    OSError, MemoryError
        If the system fails, which says nothing about the file.
    """
    with open(path, "rb", buffering=0) as file:
        start: int | None = 0
        while start is not None:
            seconds = yield from _decode_part(file, start, sr)
            start = _next_start(file, start, seconds)


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

INDEX = "index.json"


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
    codes, starts = [], []
    silent = 0
    trouble = ""
    try:
        for i, y in enumerate(audio_clips(path, seconds)):
            if _peak(y) < SILENCE:
                silent += 1
                continue
            mel = mel_spectrogram(y, n_mels=n_mels, denoise=denoise)
            codes.append(code_from_mel(mel).astype(np.float16))
            starts.append(float(i * seconds))
    except DamagedAudio as error:
        kind = "damaged after some clips" if codes or silent else "not audio, or damaged"
        trouble = f"{kind}: {error}"
    if not codes and not trouble:
        trouble = f"too short: less than a clip of {seconds:g} s"
        if silent:
            trouble = f"silent: {silent} clips without a sound"
    return np.array(codes), starts, trouble


def _read_store(job):
    """Codes and `Result` that a job's store holds, or None where it holds no valid ones."""
    unusable = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with suppress(*unusable), np.load(job.store) as kept:
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
    with suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads((cache / INDEX).read_text())
        return {key: Result(*result) for key, result in kept.items()}
    return {}


def _write_index(cache, jobs, known, results):
    kept = {}
    for job in jobs:
        result = results.get(job) or known.get(job.key)
        if result and result.lasting:
            kept[job.key] = result
    if kept != known:
        with suppress(OSError), atomic(cache / INDEX) as part:    # stores are enough
            part.write_text(json.dumps(kept))


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
    """Write the codes of all clips into one array, a file at a time."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (counts.total(), *shape)}
    with atomic(whole) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for job, count in counts.items():
            codes = _stored_codes(job)[:count]
            file.write(codes.astype("<f2").tobytes())    # a memory map dies of a full disk


def _joined_codes(counts, cache, limit, shape):
    """Map the codes of all clips, `{job: number}`, from one array on disk.

    The array of an earlier state of the folder goes; a process that maps it keeps it until it
    ends, and a system that cannot remove it then, until the next call.
    """
    if not counts:
        return np.zeros((0, *shape), np.float16)
    state = _digest([[job.key, count] for job, count in counts.items()])
    name = f"all-{limit or 'clips'}"
    whole = cache / f"{name}-{state}.npy"
    while True:
        try:
            return np.load(whole, mmap_mode="r")
        except FileNotFoundError:    # it is new, or went since another process has a later state
            _write_joined(counts, whole, shape)
        for other in cache.glob(f"{name}-*.npy"):
            if other != whole:
                with suppress(OSError):
                    other.unlink()


def get_musics_coded(folder: str | os.PathLike, seconds: float = 30, n_mels: int = N_MELS,
                     denoise: bool = True, limit: int | None = None, n_jobs: int = -1,
                     cache: str | os.PathLike | None = None) -> Codes:
    """Remove pink noise from every clip of a folder and code it as a mel spectrogram.

    Results are kept per file in `cache` and reused while the file (size, time), its decoder, the
    parameters and `CODE_VERSION` stay: a run that was stopped goes on where it was. What says
    nothing about a file's content, such as a missing permission, is not kept. Runs in parallel
    on joblib's active backend.

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
        If codes cannot be stored in `cache`.
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
    shape = (n_mels, 1 + round(seconds * SR) // HOP_LENGTH)
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
