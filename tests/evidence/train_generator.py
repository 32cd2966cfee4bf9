"""Train a generator for as long as it takes, judge it, and keep it for everybody to play.

    python tests/evidence/train_generator.py scores [--scores folder] [--clips 8000]
    python tests/evidence/train_generator.py recorded --music folder
                                   [--steps 14000] [--work folder] [--threads 1]
    torchrun --nproc_per_node 2 tests/evidence/train_generator.py scores

`scores` trains on clean rendered scores (rendered where they are missing), `recorded` on a folder
of recorded music whose sub-folders are styles. The recipe is the notebook's modern one, with form
(3.3). A step takes about 0.3 s of one thread. The training keeps a checkpoint in `--work` at each
twelfth and goes on exactly where it was stopped.

`torchrun` trains on several GPUs, one a process, which share each batch: this script rather than
the exported notebook, since every process would repeat the notebook's figures and small trainings.
BatchNorm then sees the part of a process; all else is as in one process. Only the first writes,
and a training that was stopped may go on with another number of processes.

Pieces are split three ways: eight tenths to train on, one tenth to choose by (the curve in the
summary), one tenth to judge by (all that the card says). Tunes that open with the same intervals
in two books stay on one side.

Writes to `runs/recorded/generators/<name>`: `generator.npz` (the weight average in half precision,
without pickle: `load_generator` in the notebook), the TensorBoard summary of its training,
`judged.json`, and a card, `README.md`.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import NamedTuple

import common
import music21
import numpy as np
import torch
from common import gan, kept_classifier, rounded, write_json

import Music

OUT = common.RECORDED / "generators"
SEED = 0
VIEWS = 12              # pictures, sounds, distances and checkpoints of a training
PATCHES = 2000          # that are judged
PIECES = 24             # of 30 s of each repertoire, judged for their form
INTERVALS = 12          # that tell a tune
TUNEFUL = ("chorale", "reel", "irish", "german", "chinese", "scottish")
TENTH = 0.1


# ---------------------------------------------------------------- music, split three ways

def scale_steps(abc):
    """The first intervals of a tune in ABC, in steps of its scale."""
    body = re.split(r"(?m)^K:.*$", abc, maxsplit=1)[-1]
    body = re.sub(r'(?m)^\w:.*$|%.*$|"[^"]*"|![^!]*!|\[\w:[^]]*\]|\{[^}]*\}', "", body)
    places = []
    for letter, marks in re.findall(r"([A-Ga-g])([,']*)", body):
        octave = letter.islower() + marks.count("'") - marks.count(",")
        places.append(7 * octave + "CDEFGAB".index(letter.upper()))
    return [int(step) for step in np.diff(places[:INTERVALS + 1])]


def semitones(path):
    """The first intervals of the upper voice of a score in measures, in semitones."""
    score = music21.converter.parse(path, forceSource=True)
    notes = list(score.parts[0].recurse().notes)[:INTERVALS + 1]
    pitches = [max(pitch.midi for pitch in note.pitches) for note in notes]
    return [int(step) for step in np.diff(pitches)]


def openings(names, kept):
    """The opening of each of some pieces of tunes, by name; kept in a JSON file.

    Those of `TUNEFUL` repertoires: the same hymn, reel or song is in their books again and again.
    """
    if kept.exists():
        return json.loads(kept.read_text())
    found = {}
    for label in TUNEFUL:
        for piece in Music.list_pieces(Music.REPERTOIRES[label]):
            if piece.name in names and piece.tune is None:
                found[piece.name] = semitones(piece.path)
            elif piece.name in names:
                found[piece.name] = scale_steps(Music._tunes(piece.path)[piece.tune])
    write_json(kept, found)
    return found


def tunes_of(coded, folder):
    """What each clip is a part of: a track, or all pieces that open with the same intervals."""
    pieces = {path: Path(gan.piece_of(path)).name for path in set(coded.paths)}
    if not (folder / ".report.json").exists():
        return [pieces[path] for path in coded.paths]
    opens = openings(set(pieces.values()), folder / ".openings.json")
    tunes = {}
    for path, piece in pieces.items():
        first = opens.get(piece, [])
        tunes[path] = str(first) if len(first) == INTERVALS else piece
    return [tunes[path] for path in coded.paths]


class Split(NamedTuple):
    """Clips to train on, to choose by and to judge by: arrays of their numbers."""

    training: np.ndarray
    choosing: np.ndarray
    judging: np.ndarray


def three_ways(labels, tunes):
    """Split clips so that no tune is on two sides, and each label is on all three.

    A tune of several labels counts for the first of them.
    """
    home = {}
    for tune, label in sorted(zip(tunes, labels)):
        home.setdefault(tune, label)
    rng = np.random.default_rng(SEED)
    side = {}
    for label in sorted(set(labels)):
        own = rng.permutation([tune for tune in sorted(home) if home[tune] == label])
        few = max(1, round(TENTH * len(own)))
        for place, tune in enumerate(own):
            side[tune] = min(place // few, 2)         # judging, choosing, training
    sides = np.array([side[tune] for tune in tunes])
    return Split(*(np.flatnonzero(sides == number) for number in (2, 1, 0)))


# ---------------------------------------------------------------- judging

def cuts(whole, kinds, shares, n):
    """Patches (n, 1, n_mels, 64) at random out of long pieces, repertoires by their shares."""
    rng = np.random.default_rng(SEED)
    patches = []
    for kind in rng.choice(len(shares), n, p=shares):
        piece = whole[rng.choice(np.flatnonzero(kinds == kind))]
        start = rng.integers(0, piece.shape[2] - 64 + 1)
        patches.append(piece[..., start:start + 64])
    return torch.stack(patches)


def form_by_kind(pieces, kinds, names):
    """Means of `Music.form_measures` of pieces (n, n_mels, t), by name of the repertoire."""
    found = Music.form_measures(pieces)
    rows = {}
    for kind, name in enumerate(names):
        own = kinds == kind
        rows[name] = {measure: float(values[own].mean()) for measure, values in found.items()}
    return rows


def judge(generator, training, judging, names, kept):
    """Everything that the card says, beside real music of the judging split."""
    shares = np.bincount(training.target[training.clips], minlength=len(names))
    shares = shares / shares.sum()
    classifier = kept_classifier(kept, training, len(names))
    judges = gan.Judges(training, judging, classifier, names, PATCHES, SEED)
    likely = gan.class_probabilities(classifier, judges.real)
    limits = gan.rejection_limits(likely, training.target[judges.clips])
    kinds = torch.arange(len(names)).repeat_interleave(PIECES)
    whole = gan.sample(generator, len(kinds), 646, SEED + 1, 12, kinds)
    seen, seen_clips = training.draw(PATCHES, np.random.default_rng(SEED + 2))
    panels = {
        "training pieces": gan.panel(judges, seen, limits, seen_clips),
        "patches of 3 s": gan.panel(judges, gan.sample(generator, PATCHES, seed=SEED + 3), limits),
        "3 s out of 30 s": gan.panel(judges, cuts(whole, kinds.numpy(), shares, PATCHES), limits),
    }
    real = np.concatenate([gan.clips_of(judging, kind)[:PIECES] for kind in range(len(names))])
    form = {
        "real": form_by_kind(np.float32(judging.codes[real]), training.target[real], names),
        "invented": form_by_kind(whole[:, 0].numpy(), kinds.numpy(), names),
    }
    patches = whole[..., 291:355]
    heard = gan.class_probabilities(classifier, patches).argmax(1)
    confirmed = {name: float(np.mean(heard[kinds == kind] == kind))
                 for kind, name in enumerate(names)}
    return {"panels": panels, "form": form, "confirmed": confirmed}


# ---------------------------------------------------------------- the card

CARD = """# A generator of {what}

`generator.npz` holds the weight average of a trained generator, {weights:,} weights in half
precision, read without pickle. The first results of the notebook play it; with its definitions:

```
generator, names = load_generator("runs/recorded/generators/{name}/generator.npz")
code = generate(generator, 30, seed=1, kind={last})        # {last_name}
y = Music.music_from_code(code)
```

- **Data:** {data}.
- **Split:** {training:,} clips to train on, {choosing:,} to choose by, {judging:,} to judge by.
  Pieces, and tunes that open with the same intervals, stay on one side.
- **Budget:** {steps:,} steps of {batch} patches of 3 s, in every other step cut from pieces of
  12 s; {hours:.1f} hours of {shared}.
- **Command:** `{launcher} tests/evidence/train_generator.py {command}`

{patches:,} patches beside the judging split; distances over those of training pieces. All figures,
with their intervals, are in `judged.json`.

| | Fréchet, fixed | Fréchet, classifier | precision | recall | coverage | in tune |
|---|---|---|---|---|---|---|
{rows}

Form, real / invented, of up to {pieces} pieces of 30 s of each kind: the longest passage that
returns (log2 of seconds) and the share of a piece in such passages, both beyond those of its
blocks in random order; how alike the rhythms of its quarters are. *Confirmed*: the share of
inventions that a classifier takes for what was asked for.

| kind | longest | returning | beat kept | confirmed |
|---|---|---|---|---|
{form}

**Limits.** It knows these kinds of music only, and no words or voices. Its notes are not those of
a score. A kind with few pieces sounds like them.
"""
DATA = {
    "scores": "compositions in music21's corpus, played clean by `Music.render_scores`, 30 s each "
              "(public domain; german and chinese, the Essen folk songs, for non-commercial use)",
    "recorded": "music that Debian 12 ships with games, 194 tracks in eight styles, which "
                "`../../pink-gain/README.md` names with its licences; none of it is in this file",
}
SHOWN = ("precision", "recall", "coverage", "in tune")


def panel_row(name, panel, floor):
    """A line of the card's first table."""
    distances = [panel[key][0] / floor[key][0] for key in ("Fréchet, fixed", "Fréchet, classifier")]
    values = [f"{value:.2f}" for value in (*distances, *(panel[key][0] for key in SHOWN))]
    return f"| {name} | {' | '.join(values)} |"


def form_row(name, found):
    """A line of the card's second table."""
    shown = []
    for measure in ("longest", "returning", "beat kept"):
        real, invented = (found["form"][side][name][measure] for side in ("real", "invented"))
        shown.append(f"{real:.2f} / {invented:.2f}")
    return f"| {name} | {' | '.join(shown)} | {found['confirmed'][name]:.0%} |"


def card(name, found, generator, names, command):
    """The text of the card."""
    training, choosing, judging = found["clips"]
    config = generator.config
    panels = found["panels"]
    floor = panels["training pieces"]
    number = found.get("processes", 1)
    several = number > 1
    return CARD.format(
        what={"scores": "rendered scores", "recorded": "recorded music"}[name],
        name=name,
        weights=sum(weights.numel() for weights in generator.parameters()),
        last=len(names) - 1,
        last_name=names[-1],
        data=DATA[name],
        training=training,
        choosing=choosing,
        judging=judging,
        steps=config.steps,
        batch=config.batch_size,
        hours=found["hours"],
        shared=f"{number} processes" if several else "one thread, two trainings side by side",
        launcher=f"torchrun --nproc_per_node {number}" if several else "python",
        command=command,
        patches=PATCHES,
        pieces=PIECES,
        rows="\n".join(panel_row(key, panel, floor) for key, panel in panels.items()),
        form="\n".join(form_row(key, found) for key in names),
    )


# ---------------------------------------------------------------- from music to a file

def read_music(options):
    """Coded music, and its folder."""
    if options.name == "recorded":
        return Music.get_musics_coded(options.music), options.music
    folder = Music.render_scores(options.scores, options.clips, snr_db=None)
    return Music.get_musics_coded(folder, denoise=False), Path(folder)


def train(config, training, choosing, names, work):
    """Train, with distances from the choosing split on the way. Gives the history.

    Of several processes the first alone measures them.
    """
    measure = None
    rank, _number = gan.processes()
    if not rank:
        classifier = kept_classifier(work / "classifier.pt", training, len(names))
        judges = gan.Judges(training, choosing, classifier, names, 1000, SEED)
        judges.floor = judges(training.draw(1000, np.random.default_rng(SEED))[0])
        measure = judges.quick
    return gan.train(config, training, work / "runs", work, measure, VIEWS)


def keep(out, generator, names, found, text):
    """Write the generator, what was judged, and the card."""
    out.mkdir(parents=True, exist_ok=True)
    gan.save_generator(generator, names, out / "generator.npz")
    write_json(out / "judged.json", rounded(found))
    with Music.atomic(out / "README.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def keep_summary(run, out):
    """Put the TensorBoard summary of a run beside its generator, with each fourth of its views."""
    for events in out.glob("events.*"):
        events.unlink()
    for events in run.glob("events.*"):
        loaded = [gan.Event.FromString(raw) for raw in gan.RawEventFileLoader(str(events)).Load()]
        views = sorted({event.step for event in loaded for value in event.summary.value
                        if value.tag.startswith("samples/")})
        shown = set(views[::4]) | set(views[-1:])
        with open(out / events.name, "wb") as file:
            writer = gan.RecordWriter(file)
            for event in loaded:
                samples = any(value.tag.startswith("samples/") for value in event.summary.value)
                if event.step in shown or not samples:
                    writer.write(event.SerializeToString())
            writer.flush()


def main(options):
    """Train, judge and keep one generator."""
    torch.set_num_threads(options.threads)
    device = common.join_processes()
    rank, number = gan.processes()
    with common.first_before_others():
        coded, folder = read_music(options)
        tunes = tunes_of(coded, folder)
    names, target = np.unique(coded.labels, return_inverse=True)
    names = names.tolist()
    split = three_ways(coded.labels, tunes)
    training, choosing, judging = (
        gan.Patches(coded.codes, clips, target=target) for clips in split)
    shares = np.bincount(target[split.training], minlength=len(names)) / len(split.training)
    config = gan.modern_recipe(name=options.name, steps=options.steps, seed=SEED,
                               device=device, classes=tuple(shares.tolist()))
    work = options.work / options.name
    history = train(config, training, choosing, names, work)
    common.leave_processes()
    if rank:
        return
    generator = history.generator
    found = judge(generator, training, judging, names, work / "classifier.pt")
    found |= {"config": dataclasses.asdict(config), "clips": list(map(len, split)),
              "hours": history.seconds / 3600, "threads": options.threads,
              "processes": number}
    text = card(options.name, found, generator, names, options.command)
    out = OUT / options.name
    keep(out, generator, names, found, text)
    keep_summary(work / "runs" / options.name, out)


if __name__ == "__main__":
    parser = common.command_line(__doc__, "--scores", "--music")
    parser.set_defaults(scores=common.ROOT / "data" / "scores-clean")
    parser.add_argument("name", choices=sorted(DATA))
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--work", type=Path, default=common.ROOT / "checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parsed = parser.parse_args()
    parsed.command = {"scores": "scores", "recorded": "recorded --music folder"}[parsed.name]
    main(parsed)
