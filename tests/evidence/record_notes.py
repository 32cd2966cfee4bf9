"""Record what notes invented music has, beside those of real music: what a score would say.

    python tests/evidence/record_notes.py [--scores folder] [--clips 2400]
    python tests/evidence/record_notes.py --page

A small network learns to transcribe codes of clean rendered scores (rendered where they are
missing), whose notes are known: which pitch sounds and which begins, in each frame. Blur and noise
make it used to codes that are less sharp than real ones. It learns on eight tenths of the tunes;
one tenth chooses its thresholds; on the last tenth its errors are measured (`three_ways`). Then it
transcribes pieces of 30 s: real ones of the last tenth, those that the shipped generator of scores
invents, and training pieces. Measures of their notes stand beside each other, and beside those of
the true scores of the same real pieces.

The training takes about six minutes of one thread, reading the scores ten. The notes are kept in
`.notes` in the folder of the scores, the transcriber in `.transcriber.pt`, which a training that
was stopped goes on from. Writes `runs/recorded/notes/notes.json`; `--page` writes the page about
it.
"""

import json
import warnings
from typing import NamedTuple

import common
import networks
import numpy as np
import scipy.ndimage
import torch
from common import gan, rounded, write_json
from music21.analysis import discrete
from scipy import stats
from torch import nn
from torch.nn import functional
from tqdm import tqdm

import Music
from record_judges import blurred
from train_generator import OUT, three_ways, tunes_of

RECORDED = common.RECORDED / "notes"
SEED = 0
CLIPS = 2400
PIECES = 24                      # of 30 s of each repertoire, of each source
FRAME = Music.HOP_LENGTH / Music.SR     # s
LOWEST = 21                      # MIDI number of the first of the pitches that are looked for
PITCHES = 88
TOLERANCE = 1                    # frames that an onset may be off


# ---------------------------------------------------------------- notes that are known

class Notes(NamedTuple):
    """Notes in the order of their beginnings: arrays (n,)."""

    start: np.ndarray    # s
    end: np.ndarray      # s
    pitch: np.ndarray    # MIDI number


def in_order(start, end, pitch):
    """Notes in order; of those of one pitch that begin in the same frame the longest stays."""
    start = np.asarray(start, float)
    end = np.asarray(end, float)
    pitch = np.asarray(pitch, int)
    frame = np.rint(start / FRAME)
    order = np.lexsort((-end, pitch, frame))
    _, first = np.unique(np.stack([frame, pitch])[:, order], axis=1, return_index=True)
    kept = order[first]
    return Notes(start[kept], end[kept], pitch[kept])


def played(score, seconds):
    """The notes of a score of symusic as `Music._play` plays it: again and again."""
    period = max(1, round(score.end() * Music.SR)) / Music.SR
    start = []
    end = []
    pitch = []
    for again in np.arange(0, seconds, period):
        for track in score.tracks:
            for note in track.notes:
                begins = again + note.time
                if begins < seconds:
                    start.append(begins)
                    end.append(min(begins + note.duration, seconds))
                    pitch.append(note.pitch)
    return in_order(start, end, pitch)


def keep_notes(notes, path):
    """Write notes to a file of an array (3, n)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Music.atomic(path) as unfinished, open(unfinished, "wb") as file:
        np.save(file, np.stack(notes).astype(np.float32))


def read_notes(path):
    """Read notes from such a file."""
    start, end, pitch = np.load(path).astype(float)
    return Notes(start, end, pitch.astype(int))


def kept_at(path):
    """The file that keeps the notes of a rendered clip."""
    return path.parent.parent / ".notes" / path.parent.name / f"{path.stem}.npy"


def read_score(piece, clips):
    """Parse a piece once, as `Music._render_piece` does, and keep the notes of those clips."""
    music = None
    for path in clips:
        info = Music.clip_info(path)
        kind = Music._Movement if piece.tune is None else Music._Tune
        with warnings.catch_warnings(action="ignore"):
            music = music or kind(piece, info["seconds"])
            score = music.cut(info["clip"])
        keep_notes(played(score, info["seconds"]), kept_at(path))


def notes_of_clips(paths):
    """The true notes of rendered clips: a list of `Notes`; kept beside them."""
    missing = {}
    for path in paths:
        if not kept_at(path).exists():
            name = Music.clip_info(path)["piece"]
            missing.setdefault((path.parent.name, name), []).append(path)
    pieces = {}
    for label in sorted({label for label, _ in missing}):
        for piece in Music._in_seeded_order(label, SEED):
            pieces[label, piece.name] = piece
    for (label, name), clips in tqdm(missing.items(), desc="scores", unit="piece"):
        read_score(pieces[label, name], clips)
    return [read_notes(kept_at(path)) for path in paths]


def roll_of(notes, frames):
    """Which pitch sounds and which begins in each frame: bool (2, frames, PITCHES)."""
    roll = np.zeros((2, frames, PITCHES), bool)
    first = np.rint(notes.start / FRAME).astype(int)
    stop = np.maximum(np.rint(notes.end / FRAME).astype(int), first + 1)
    for begins, ends, pitch in zip(first, stop, notes.pitch - LOWEST):
        if 0 <= pitch < PITCHES and begins < frames:
            roll[0, begins:ends, pitch] = True
            roll[1, begins, pitch] = True
    return roll


# ---------------------------------------------------------------- the transcriber

STEPS = 2000
BATCH = 16
CROP = 128                # frames, 6 s
WIDTH = 192
DILATIONS = (1, 2, 4)
LIMITS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8)    # to choose out of


class Transcriber(nn.Module):
    """Logits (n, 2, t, PITCHES) of what sounds and what begins, of codes (n, 1, n_mels, t)."""

    def __init__(self):
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(1, 16, (5, 3), stride=(2, 1), padding=(2, 1)),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=(2, 1), padding=1),
            nn.ReLU(),
        )
        self.rows = nn.Linear(24 * Music.N_MELS // 4, WIDTH)
        blocks = [networks.Block(WIDTH, 2 * WIDTH, dilation, functional.relu)
                  for dilation in DILATIONS]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(WIDTH)
        self.heads = nn.Linear(WIDTH, 2 * PITCHES)

    def forward(self, codes):
        features = self.picture(codes).flatten(1, 2).mT        # (n, t, channels * bands)
        rows = self.blocks(self.rows(features))
        logits = self.heads(self.norm(rows))
        return logits.unflatten(2, (2, PITCHES)).transpose(1, 2)


def softened(codes, rng):
    """Codes as a generator may write them: blurred in some batches, with up to 3 dB of noise."""
    bands = rng.choice((1, 1, 3))
    frames = rng.choice((1, 1, 3, 5))
    low, high = Music.DB_RANGE
    noise = rng.standard_normal(codes.shape, np.float32) * rng.uniform(0, 3) * 2 / (high - low)
    return blurred(codes, bands, frames) + torch.from_numpy(noise.astype(np.float32))


def crops(codes, rolls, clips, rng):
    """A batch of codes (n, 1, n_mels, CROP) and of their rolls (n, 2, CROP, PITCHES)."""
    chosen = rng.choice(clips, BATCH)
    starts = rng.integers(0, codes.shape[2] - CROP + 1, BATCH)
    heard = []
    known = []
    for clip, start in zip(chosen, starts):
        heard.append(codes[clip, :, start:start + CROP])
        known.append(rolls[clip][:, start:start + CROP])
    heard = torch.from_numpy(np.stack(heard)[:, None]).float()
    return softened(heard, rng), torch.from_numpy(np.stack(known)).float()


def trained(codes, rolls, clips, path, steps=STEPS):
    """The transcriber in a file, trained there as far as it is not; every 200th step is kept."""
    torch.manual_seed(SEED)
    state = networks.State(Transcriber(), 2e-3)
    if path.exists():
        state.load(path)
    half = gan.has_bfloat16(torch.device("cpu"))
    for step in tqdm(range(state.step, steps), desc="transcriber", unit="step"):
        heard, known = crops(codes, rolls, clips, np.random.default_rng((SEED, step)))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = state.net(heard)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), known)
        state.learn(loss, steps)
        if state.step % 200 == 0 or state.step == steps:
            state.save(path)
    return state.average.eval()


@torch.no_grad()
def likely(transcriber, codes):
    """How likely each pitch sounds and begins, of codes (n, n_mels, t): (n, 2, t, PITCHES)."""
    found = []
    for code in codes:
        logits = transcriber(torch.from_numpy(np.float32(code))[None, None])
        found.append(logits[0].double().sigmoid().numpy())
    return np.stack(found)


class Limits(NamedTuple):
    """From which probability on a pitch sounds, and begins."""

    sounds: float
    begins: float


def beginnings(begins, limit):
    """Where (t, PITCHES) an onset is likelier than a limit and than in the frames around."""
    highest = scipy.ndimage.maximum_filter1d(begins, 3, axis=0)
    return (begins == highest) & (begins > limit)


def decoded(probabilities, limits):
    """Notes out of probabilities (2, t, PITCHES): from an onset on, as long as the pitch sounds."""
    sounds, begins = probabilities
    starts = beginnings(begins, limits.begins)
    frames = len(sounds)
    found = []
    for pitch in range(PITCHES):
        first = np.flatnonzero(starts[:, pitch])
        silent = np.append(np.flatnonzero(sounds[:, pitch] <= limits.sounds), frames)
        fades = silent[np.searchsorted(silent[:-1], first + 1)]
        again = np.append(first[1:], frames)
        found.append([first, np.minimum(fades, again), np.full(len(first), LOWEST + pitch)])
    start, end, pitch = np.concatenate(found, axis=1)
    return in_order(start * FRAME, end * FRAME, pitch)


# ---------------------------------------------------------------- how right a transcription is

def strongest(code):
    """A trivial transcription of a code (n_mels, t): the strongest band's pitch in each frame.

    Gives a roll (2, t, PITCHES); a pitch begins where another one was the strongest before.
    """
    hz = Music.mel_bands_hz(len(code))[np.argmax(code, axis=0)]
    pitch = np.rint(69 + 12 * np.log2(hz / 440)).astype(int) - LOWEST
    pitch = np.clip(pitch, 0, PITCHES - 1)
    roll = np.zeros((2, len(pitch), PITCHES), bool)
    frames = np.arange(len(pitch))
    changes = np.diff(pitch, prepend=-1) != 0
    roll[0, frames, pitch] = True
    roll[1, frames[changes], pitch[changes]] = True
    return roll


def matched(true, found, tolerance=TOLERANCE):
    """How many onsets are found: pairs of equal pitch, so many frames apart at most.

    Both are rolls (t, PITCHES); each onset is in one pair at most.
    """
    pairs = 0
    for pitch in np.flatnonzero(true.any(0) & found.any(0)):
        wanted = np.flatnonzero(true[:, pitch]).tolist()
        for frame in np.flatnonzero(found[:, pitch]):
            while wanted and wanted[0] < frame - tolerance:
                wanted.pop(0)
            if wanted and wanted[0] <= frame + tolerance:
                wanted.pop(0)
                pairs += 1
    return pairs


def scores_of(right, found, true):
    """Precision, recall and F1, out of counts."""
    return [right / max(found, 1), right / max(true, 1), 2 * right / max(found + true, 1)]


def agreement(true, found):
    """Precision, recall, F1 of frames and of onsets of rolls [(2, t, PITCHES)], pooled."""
    frames = np.zeros(3, int)
    onsets = np.zeros(3, int)
    for wanted, roll in zip(true, found):
        frames += [(wanted[0] & roll[0]).sum(), roll[0].sum(), wanted[0].sum()]
        onsets += [matched(wanted[1], roll[1]), roll[1].sum(), wanted[1].sum()]
    return {"frames": scores_of(*frames.tolist()), "onsets": scores_of(*onsets.tolist())}


def thresholded(probabilities, limits):
    """The roll of probabilities (2, t, PITCHES): frames above their limit, onsets at peaks."""
    sounds, begins = probabilities
    return np.stack([sounds > limits.sounds, beginnings(begins, limits.begins)])


def chosen_limits(probabilities, rolls):
    """The limits of the highest F1, of frames and of onsets."""
    frames = []
    onsets = []
    for limit in LIMITS:
        found = [thresholded(one, Limits(limit, limit)) for one in probabilities]
        scores = agreement(rolls, found)
        frames.append(scores["frames"][2])
        onsets.append(scores["onsets"][2])
    return Limits(LIMITS[np.argmax(frames)], LIMITS[np.argmax(onsets)])


# ---------------------------------------------------------------- measures of notes

SLACK = 1.5 * FRAME       # s: notes that begin within a frame of each other are a chord
GRAM = 4                  # steps of a melody that may return
MAJOR = (0, 2, 4, 5, 7, 9, 11)           # of natural minor the same pitch classes
HARMONIC_MINOR = (0, 2, 3, 5, 7, 8, 11)
UNITS = {
    "lowest pitch": "5th percentile, MIDI number",
    "highest pitch": "95th percentile, MIDI number",
    "in scale": "share of notes in the best major or minor scale",
    "steps": "share of intervals of the top voice of at most 2 semitones",
    "interval": "mean size of the top voice's intervals, semitones",
    "duration": "median, s",
    "commonest gap": "share of the top voice's gaps within a frame of the commonest",
    "notes/s": "1/s",
    "polyphony": "mean number of sounding pitches",
    "repeated": "share of the top voice's 4-grams that occur again, beyond shuffled notes",
}


def top_voice(notes):
    """Those notes above which no other one sounds, begun before or with them (Skyline).

    References
    ----------
    A. Uitdenbogerd and J. Zobel, "Melodic matching techniques for large music databases", 1999.
    """
    here = notes.start[:, None] + SLACK
    begun = notes.start <= here
    lasts = notes.end > here
    higher = notes.pitch > notes.pitch[:, None]
    top = ~(begun & lasts & higher).any(1)
    return Notes(*(values[top] for values in notes))


def key_of(classes):
    """The tonic of the best key of counts of pitch classes (12,), by the profiles of Krumhansl.

    References
    ----------
    C. L. Krumhansl, "Cognitive Foundations of Musical Pitch", 1990.
    """
    profiles = discrete.KrumhanslKessler()
    likeness = {}
    for mode in ("major", "minor"):
        for tonic in range(12):
            profile = np.roll(stats.zscore(profiles.getWeights(mode)), tonic)
            likeness[tonic, mode] = classes @ profile      # in proportion to the correlation
    tonic, _mode = max(likeness, key=likeness.get)
    return tonic


def from_the_tonic(notes):
    """Shares (12,) of the pitch classes, counted from the tonic of the best key."""
    classes = np.bincount(notes.pitch % 12, minlength=12)
    return np.roll(classes, -key_of(classes)) / len(notes.pitch)


def in_scale(pitches):
    """The share of pitches in the best of all major, natural and harmonic minor scales."""
    classes = np.bincount(pitches % 12, minlength=12)
    shares = []
    for scale in (MAJOR, HARMONIC_MINOR):
        for tonic in range(12):
            own = (np.array(scale) + tonic) % 12
            shares.append(classes[own].sum() / len(pitches))
    return max(shares)


def near_the_commonest(gaps):
    """The commonest of gaps [frames], and the share of them within a frame of it."""
    counts = np.bincount(gaps)
    near = np.convolve(counts, (1, 1, 1), "same")
    commonest = max(1, int(near.argmax()))
    return commonest, near.max() / len(gaps)


def repeating(pitches, gaps):
    """The share of 4-grams of a melody that occur more than once.

    A step is an interval [semitones] and a gap [frames], in octaves of the commonest.
    """
    commonest, _share = near_the_commonest(gaps)
    rhythm = np.rint(np.log2(np.maximum(gaps, 1) / commonest)).astype(int)
    steps = np.stack([np.diff(pitches), rhythm], axis=1)
    grams = np.lib.stride_tricks.sliding_window_view(steps, GRAM, axis=0)
    _, counts = np.unique(grams.reshape(len(grams), -1), axis=0, return_counts=True)
    return counts[counts > 1].sum() / len(grams)


def repeated(pitches, gaps, shuffles=5):
    """`repeating` beyond what the same notes have in random order."""
    rng = np.random.default_rng(SEED)
    by_chance = []
    for _ in range(shuffles):
        order = rng.permutation(len(gaps))
        shuffled = np.append(pitches[:-1][order], pitches[-1])
        by_chance.append(repeating(shuffled, gaps[order]))
    return repeating(pitches, gaps) - np.mean(by_chance)


def measures(notes, seconds):
    """The measures of `UNITS` of notes of a piece; nan where there are too few."""
    top = top_voice(notes)
    if len(top.pitch) < 2 * GRAM:
        return dict.fromkeys(UNITS, np.nan)
    steps = np.abs(np.diff(top.pitch))
    gaps = np.diff(np.rint(top.start / FRAME).astype(int))
    _commonest, share = near_the_commonest(gaps)
    sounds, _begins = roll_of(notes, round(seconds / FRAME))
    found = {
        "lowest pitch": np.percentile(notes.pitch, 5),
        "highest pitch": np.percentile(notes.pitch, 95),
        "in scale": in_scale(notes.pitch),
        "steps": np.mean(steps <= 2),
        "interval": np.mean(steps),
        "duration": np.median(notes.end - notes.start),
        "commonest gap": share,
        "notes/s": len(notes.pitch) / seconds,
        "polyphony": sounds.sum(1).mean(),
        "repeated": repeated(top.pitch, gaps),
    }
    return {name: float(value) for name, value in found.items()}


# ---------------------------------------------------------------- real beside invented

class Clips(NamedTuple):
    """Rendered clips: all arrays and lists are by clip, names by kind."""

    codes: np.ndarray     # (n, n_mels, t)
    notes: list           # of Notes
    kinds: np.ndarray     # (n,) numbers of repertoires
    pieces: np.ndarray    # (n,) numbers of the pieces that they are a part of
    order: np.ndarray     # (n,) which part of its piece, from 0
    split: object         # three arrays of clips
    names: list

    @property
    def rolls(self):
        """Their rolls (2, t, PITCHES), made anew."""
        return [roll_of(notes, self.codes.shape[2]) for notes in self.notes]

    def some(self, clips, kind):
        """At most `PIECES` of those clips of a kind, beginnings of pieces first."""
        own = clips[self.kinds[clips] == kind]
        return own[np.argsort(self.order[own], kind="stable")][:PIECES]


def read_clips(folder):
    """Code a folder of clean scores, split it, and read the notes."""
    coded = Music.get_musics_coded(folder, denoise=False)
    names, kinds = np.unique(coded.labels, return_inverse=True)
    pieces = [gan.piece_of(path) for path in coded.paths]
    return Clips(
        codes=coded.codes,
        notes=notes_of_clips(coded.paths),
        kinds=kinds,
        pieces=np.unique(pieces, return_inverse=True)[1],
        order=np.array([Music.clip_info(path)["clip"] for path in coded.paths]),
        split=three_ways(coded.labels, tunes_of(coded, folder)),
        names=names.tolist(),
    )


class Source(NamedTuple):
    """Notes of some pieces: all by piece."""

    notes: list
    kinds: np.ndarray     # (n,)
    pieces: np.ndarray    # (n,) numbers: those that share one are parts of a piece


def compositions(source, names):
    """How many different compositions the pieces of each kind are parts of."""
    found = {}
    for kind, name in enumerate(names):
        found[name] = len(set(source.pieces[source.kinds == kind].tolist()))
    return found


def summary(source, names, seconds):
    """What pieces are like: measures {kind: {measure: values (n,)}} and shares of pitch classes.

    The latter are `{kind: (12,)}`, means over the pieces.
    """
    values = {}
    classes = {}
    for kind, name in enumerate(names):
        numbers = np.flatnonzero(source.kinds == kind)
        own = [source.notes[number] for number in numbers]
        rows = [measures(notes, seconds) for notes in own]
        values[name] = {measure: np.array([row[measure] for row in rows]) for measure in UNITS}
        audible = [from_the_tonic(notes) for notes in own if len(notes.pitch)]
        classes[name] = np.mean(audible, axis=0)
    return values, classes


def intervals(values, source, names):
    """Mean and 95 % interval, by bootstrap over whole pieces: {kind: {measure: [3 floats]}}."""
    found = {}
    for kind, name in enumerate(names):
        pieces = source.pieces[source.kinds == kind]
        found[name] = {}
        for measure in UNITS:
            own = values[name][measure]
            known = np.isfinite(own)
            found[name][measure] = list(gan.mean_interval(own[known], pieces[known]))
    return found


def distance(one, other):
    """The 1-Wasserstein distance of known values, in their unit."""
    one = one[np.isfinite(one)]
    other = other[np.isfinite(other)]
    if not len(one) or not len(other):
        return np.nan
    return float(stats.wasserstein_distance(one, other))


def apart(real, others):
    """How far pieces are from real ones: {kind: {measure: float}}, both as `summary` gives them.

    The `distance` of the values of a measure, and the total variation of pitch classes, from 0
    to 1.
    """
    real_values, real_classes = real
    other_values, other_classes = others
    found = {}
    for name, measured in real_values.items():
        row = {measure: distance(values, other_values[name][measure])
               for measure, values in measured.items()}
        differences = np.abs(real_classes[name] - other_classes[name])
        row["pitch classes"] = float(differences.sum() / 2)
        found[name] = row
    return found


def certainty(probabilities, limits):
    """How likely what is taken to sound sounds, in the mean over frames and pitches."""
    sounds = np.stack([one[0] for one in probabilities])
    return float(sounds[sounds > limits.sounds].mean())


def by_kind(true, found, kinds, names):
    """`agreement` of rolls of each kind, and of all."""
    rows = {}
    for kind, name in enumerate(names):
        own = np.flatnonzero(kinds == kind)
        rows[name] = agreement([true[i] for i in own], [found[i] for i in own])
    return rows | {"all": agreement(true, found)}


# ---------------------------------------------------------------- recording

def invented_codes(kinds):
    """Pieces of 30 s that the shipped generator of scores invents: (n, n_mels, t)."""
    generator, _names = gan.load_generator(OUT / "scores" / "generator.npz")
    codes = gan.sample(generator, len(kinds), 646, SEED + 1, 12, torch.from_numpy(kinds))
    return codes[:, 0].numpy()


def errors(transcriber, clips, limits, training):
    """How right transcriptions of judging and of some training clips are, and simpler ones."""
    rolls = clips.rolls
    judging = clips.split.judging
    codes = np.float32(clips.codes[judging])
    soft = blurred(torch.from_numpy(codes)[:, None], 3, 3)[:, 0].numpy()
    heard = {
        "unseen": (judging, likely(transcriber, codes)),
        "training": (training, likely(transcriber, clips.codes[training])),
        "blurred": (judging, likely(transcriber, soft)),
    }
    found = {}
    for what, (chosen, probabilities) in heard.items():
        transcribed = [thresholded(one, limits) for one in probabilities]
        true = [rolls[clip] for clip in chosen]
        found[what] = by_kind(true, transcribed, clips.kinds[chosen], clips.names)
    trivial = [strongest(code) for code in codes]
    true = [rolls[clip] for clip in judging]
    found["strongest band"] = by_kind(true, trivial, clips.kinds[judging], clips.names)
    return found


def sources_of(transcriber, clips, limits, real, training):
    """Notes of real, invented and training pieces, and how certain each transcription is."""
    kinds = np.arange(len(clips.names)).repeat(PIECES)
    heard = {
        "real": (clips.codes[real], clips.kinds[real], clips.pieces[real]),
        "invented": (invented_codes(kinds), kinds, np.arange(len(kinds))),
        "training": (clips.codes[training], clips.kinds[training], clips.pieces[training]),
    }
    known = [clips.notes[clip] for clip in real]
    sources = {"score": Source(known, clips.kinds[real], clips.pieces[real])}
    certain = {}
    for name, (codes, own_kinds, pieces) in heard.items():
        probabilities = likely(transcriber, codes)
        notes = [decoded(one, limits) for one in probabilities]
        sources[name] = Source(notes, own_kinds, pieces)
        certain[name] = certainty(probabilities, limits)
    return sources, certain


def random_in_scale(notes):
    """Mean of `in_scale` of as many pitch classes at random as each piece has notes."""
    rng = np.random.default_rng(SEED)
    return float(np.mean([in_scale(rng.integers(0, 12, len(one.pitch)))
                          for one in notes if len(one.pitch)]))


def record(folder):
    """Train the transcriber, transcribe and compare: what `notes.json` holds."""
    clips = read_clips(folder)
    split = clips.split
    names = clips.names
    transcriber = trained(clips.codes, clips.rolls, split.training, folder / ".transcriber.pt")
    rolls = clips.rolls
    choosing = likely(transcriber, clips.codes[split.choosing])
    limits = chosen_limits(choosing, [rolls[clip] for clip in split.choosing])
    real, training = (
        np.concatenate([clips.some(side, kind) for kind in range(len(names))])
        for side in (split.judging, split.training))
    sources, certain = sources_of(transcriber, clips, limits, real, training)
    seconds = clips.codes.shape[2] * FRAME
    summaries = {name: summary(source, names, seconds) for name, source in sources.items()}
    others = ("score", "invented", "training")
    return {
        "clips": [len(side) for side in split],
        "steps": STEPS,
        "limits": limits._asdict(),
        "errors": errors(transcriber, clips, limits, training),
        "certainty": certain,
        "in scale, at random": random_in_scale(sources["invented"].notes),
        "units": UNITS,
        "compositions": {name: compositions(source, names) for name, source in sources.items()},
        "measures": {name: intervals(summaries[name][0], source, names)
                     for name, source in sources.items()},
        "pitch classes": {name: {kind: shares.tolist() for kind, shares in found[1].items()}
                          for name, found in summaries.items()},
        "apart": {name: apart(summaries["real"], summaries[name]) for name in others},
    }


# ---------------------------------------------------------------- the page of what was recorded

PAGE = """# Notes of invented music

What a score of it would say. A small network transcribes codes: trained on {training:,} clips of
30 s of clean rendered scores, whose notes are known, blurred and noisy in part as inventions may
be; thresholds chosen on {choosing:,}; judged on {judging:,}. Tunes that open with the same
intervals stay on one side.

```
python tests/evidence/record_notes.py
python tests/evidence/record_notes.py --page       # this page
```

## How right it is

F1 against the true notes of the judging clips; an onset counts within a frame ({frame:.0f} ms) of
a true one of the same pitch. Beside it: on training pieces; on the same clips blurred by 3 bands
and 3 frames; and a trivial transcription, the pitch of each frame's strongest band.

{errors}

## What the notes are like

Means over kinds of music, of up to {pieces} pieces of 30 s of each: the true scores of the real
pieces; the same pieces, transcribed; invented by the shipped generator of scores; training pieces,
transcribed. *Apart* is the 1-Wasserstein distance to the real pieces, transcribed, in the unit of
the measure, its mean over kinds: of the true scores (what the transcriber distorts), of training
pieces (the floor), of inventions, and of these in floors. *Kinds*: in how many of {kinds} the
95 % intervals of real and invented (bootstrap over pieces) do not meet.

{measures}

{units}

The total variation of pitch classes, counted from the tonic of the best key, is {classes}. As many
notes of random pitch classes as the inventions have would lie in the best scale by
{random:.2f}. What is taken to sound does so with a probability of {certainty} in the mean.

## By kind

Real / invented, both transcribed.

{by_kind}

**Limits.** What is said of inventions is what a transcriber hears that has learnt from real music,
though blurred and noisy in part: what lies between keys, or fades in and out, becomes missing or
wrong notes, and how often is not known, since inventions have no score. Compare with the column of
scores before believing a difference. The real pieces of a kind are parts of {few} to {many}
compositions; parts of one are drawn together, and intervals of few compositions are rough. The
generator may have been trained on the judging pieces: its own split was of more clips. Training
pieces also trained the transcriber. Real tunes that are shorter than 30 s are played again, which
adds to what is repeated.
"""
SHOWN = ("in scale", "steps", "duration", "notes/s", "polyphony", "repeated")


def markdown_table(header, rows):
    """A table in Markdown, of text."""
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def errors_table(found):
    """F1 by kind: of frames with precision and recall, of onsets in four ways."""
    rows = []
    for kind, row in found["unseen"].items():
        precise = [f"{value:.2f}" for part in ("frames", "onsets") for value in row[part]]
        onsets = [found[what][kind]["onsets"][2] for what in ("training", "blurred")]
        trivial = [found["strongest band"][kind][part][2] for part in ("frames", "onsets")]
        rows.append([kind, *precise, *(f"{value:.2f}" for value in onsets + trivial)])
    header = ("kind", "frames: precision", "recall", "F1", "onsets: precision", "recall", "F1",
              "onsets of training pieces", "of blurred clips", "strongest band: frames", "onsets")
    return markdown_table(header, rows)


def meet(one, other):
    """Whether two intervals (mean, low, high) have a value in common."""
    return one[1] <= other[2] and other[1] <= one[2]


def mean_over_kinds(rows, measure):
    """The mean over kinds of a measure, or of the first of its three values."""
    return float(np.mean([np.atleast_1d(row[measure])[0] for row in rows.values()]))


def measures_row(measure, found):
    """A line of the table of measures."""
    sides = ("score", "real", "invented", "training")
    means = [mean_over_kinds(found["measures"][side], measure) for side in sides]
    distances = [mean_over_kinds(found["apart"][side], measure)
                 for side in ("score", "training", "invented")]
    _score, floor, invented = distances
    real = found["measures"]["real"]
    differ = [not meet(row[measure], found["measures"]["invented"][kind][measure])
              for kind, row in real.items()]
    cells = [f"{value:.3g}" for value in (*means, *distances)]
    return [measure, *cells, f"{invented / floor:.1f}", str(sum(differ))]


def by_kind_row(kind, found):
    """A line of the table of kinds."""
    row = [kind]
    for measure in SHOWN:
        real, invented = (found["measures"][side][kind][measure][0]
                          for side in ("real", "invented"))
        row.append(f"{real:.2f} / {invented:.2f}")
    return row


def page():
    """The text of the page about what is recorded."""
    found = json.loads((RECORDED / "notes.json").read_text(encoding="utf-8"))
    training, choosing, judging = found["clips"]
    kinds = list(found["measures"]["real"])
    header = ("measure", "score", "real", "invented", "training", "apart: score", "training",
              "invented", "in floors", "kinds")
    classes = {side: mean_over_kinds(rows, "pitch classes")
               for side, rows in found["apart"].items()}
    counts = found["compositions"]["real"].values()
    return PAGE.format(
        training=training,
        choosing=choosing,
        judging=judging,
        frame=1000 * FRAME,
        pieces=PIECES,
        kinds=len(kinds),
        errors=errors_table(found["errors"]),
        measures=markdown_table(header, [measures_row(name, found) for name in UNITS]),
        units="\n".join(f"- *{name}:* {unit}." for name, unit in UNITS.items()),
        classes="{invented:.2f} from real to invented pieces, {training:.2f} to training pieces, "
                "{score:.2f} to the true scores".format(**classes),
        random=found["in scale, at random"],
        few=min(counts),
        many=max(counts),
        certainty=", ".join(f"{value:.2f} ({name})" for name, value in found["certainty"].items()),
        by_kind=markdown_table(("kind", *SHOWN), [by_kind_row(kind, found) for kind in kinds]),
    )


def main(options):
    """Record what was asked for, and write the page about it."""
    if not options.page:
        common.use_one_thread()
        folder = Music.render_scores(options.scores, options.clips, snr_db=None)
        write_json(RECORDED / "notes.json", rounded(record(folder)))
    with Music.atomic(RECORDED / "README.md") as unfinished:
        unfinished.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    parser = common.command_line(__doc__, "--scores")
    parser.set_defaults(scores=common.ROOT / "data" / f"scores-clean-{CLIPS}")
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--page", action="store_true", help="write the page of what is recorded")
    main(parser.parse_args())
