"""Record how the notebook's judges react to real music that was damaged in known ways.

    python tests/evidence/record_judges.py [--scores folder] [--patches 2000]

Four minutes of one thread, and those of the classifier where the folder keeps none. The unseen
clips are split by piece into two halves. Patches of the one half, damaged, are judged by `panel`
against the other half, then the halves change places; `runs/recorded/judges/self-test.json`
holds both. A judge reacts to a damage where its value leaves the interval that it has for
undamaged patches. `EXPECTED` says which must react and which may not; where they do otherwise
nothing is recorded and the script fails.

For comparison with invented patches other strengths of blur are kept too.

`--scores` is the embedded default (rendered where it is missing).
"""

from typing import NamedTuple

import common
import numpy as np
import torch
import torch.nn.functional as F
from common import gan, prepare, write_json

import Music

RECORDED = common.RECORDED / "judges" / "self-test.json"
DISTANCES = ("Fréchet, fixed", "Fréchet, classifier")
NEIGHBOURS = ("precision", "recall", "density", "coverage")
MUSICAL = ("in tune", "chroma entropy", "onsets/s", "flux kurtosis", "dynamics (dB)")
BALANCE = gan.BY_BALANCE
MEASURES = (*DISTANCES, *NEIGHBOURS, "total variation", BALANCE, "rejected", *MUSICAL,
            "nearest ratio")
OTHER_BLURS = (3, 9, 17)      # bands, beside the five of "blurred in frequency"
STILL_WHOLE = 0.08            # by the balance of bands, at most, of music of all kinds


class Expected(NamedTuple):
    """Which judges must react to a damage, and which may not; the others are free."""

    must: set
    may_not: set


EXPECTED = {
    "another draw": Expected(
        must=set(),
        may_not={*MEASURES},
    ),
    "half a patch later": Expected(
        must=set(),
        may_not={*MEASURES},
    ),
    # where an unseen clip keeps its noise its neighbourhood takes in noise: precision and density
    # are free
    "pink noise at 10 dB": Expected(
        must={*DISTANCES, "recall", "coverage", "total variation", "rejected"},
        may_not={"in tune"},
    ),
    "blurred in time": Expected(
        must={"Fréchet, classifier", "coverage", "rejected", "onsets/s", "flux kurtosis"},
        may_not={"in tune"},
    ),
    "blurred in frequency": Expected(
        must={*DISTANCES, *NEIGHBOURS, "total variation", "rejected", "in tune", "chroma entropy"},
        may_not={"onsets/s", "flux kurtosis", BALANCE},
    ),
    "half a semitone up": Expected(
        must={*NEIGHBOURS, "Fréchet, classifier", "total variation", "rejected", "in tune"},
        may_not={"onsets/s", "flux kurtosis", "dynamics (dB)", BALANCE},
    ),
    "frames in random order": Expected(
        must={*DISTANCES, "precision", "coverage", "rejected", "onsets/s", "flux kurtosis"},
        may_not={"in tune", "chroma entropy", "dynamics (dB)"},
    ),
    # with few kinds gone, coverage and rejection lie at the ends of their intervals, and precision
    # is that of other kinds: free
    "one repertoire missing": Expected(
        must={"Fréchet, classifier", "total variation", BALANCE},
        may_not={"precision", "rejected", "in tune", "onsets/s"},
    ),
    "three missing": Expected(
        must={*DISTANCES, "recall", "coverage", "total variation", BALANCE},
        may_not={"in tune", "onsets/s"},
    ),
    # the precision of so few is a draw: free
    "50 patches copied": Expected(
        must={*DISTANCES, "recall", "coverage"},
        may_not=set(),
    ),
    # the classifier was trained on these clips: the judges that look through it may move
    "crops of training clips": Expected(
        must={"nearest ratio"},
        may_not={"Fréchet, fixed", "in tune", "chroma entropy", "onsets/s", "flux kurtosis"},
    ),
}


# ---------------------------------------------------------------- damages

def halves(clips, pieces, kinds):
    """Split clips in two so that no piece is in both and each repertoire is: two index arrays."""
    first = np.zeros(len(clips), bool)
    for kind in set(kinds[clips]):
        own = kinds[clips] == kind
        every_other = np.unique(pieces[clips][own])[::2]
        first |= own & np.isin(pieces[clips], every_other)
    return clips[first], clips[~first]


def power_of(codes):
    """Mel power of codes, in the range of codes."""
    return 10 ** (Music.db_from_code(codes) / 10)


def codes_of(power):
    """Codes of mel power, as float32 of torch."""
    codes = Music.code_from_mel(power)
    return torch.from_numpy(codes).float()


def detuned(codes, semitones=0.5):
    """Codes (n, 1, n_mels, t) with every partial so many semitones higher, moved in power."""
    n = codes.shape[2]
    mel_step = Music.hz_to_mel(Music.SR / 2) / (n + 1)
    hz = Music.mel_to_hz(mel_step * np.arange(1, n + 1))
    came_from = Music.hz_to_mel(hz / 2 ** (semitones / 12)) / mel_step - 1
    came_from = np.clip(came_from, 0, n - 1.001)
    below = came_from.astype(int)
    part = (came_from - below)[:, None]
    power = power_of(codes)
    return codes_of((1 - part) * power[:, :, below] + part * power[:, :, below + 1])


def with_noise(codes, noise, snr_db=10):
    """Codes (n, 1, n_mels, t) with noise (codes, same shape) so far below each patch's power."""
    clean = power_of(codes)
    added = power_of(noise)
    level = clean.mean((1, 2, 3), keepdims=True) / added.mean((1, 2, 3), keepdims=True)
    return codes_of(clean + added * level / 10 ** (snr_db / 10))


def blurred(codes, bands, frames):
    """Means over so many bands and frames, both odd."""
    return F.avg_pool2d(codes, (bands, frames), 1, (bands // 2, frames // 2),
                        count_include_pad=False)


def pink_patches(frames, rng):
    """Patches of pink noise at the level of music."""
    noise = Music.pink_noise(30 * Music.SR, rng) * Music.CLEAN_RMS
    code = Music.code_from_mel(Music.mel_spectrogram(noise))
    return gan.Patches(code[None], [0], frames)


def damaged_sets(patches, training, kinds, n, seed):
    """Real patches damaged in known ways: `{damage: (codes (n, 1, n_mels, t), clips (n,))}`.

    `kinds` maps a clip to its repertoire.
    """
    rng = np.random.default_rng(seed)
    t = patches.frames
    longer = gan.Patches(patches.codes, patches.clips, t + t // 2)
    wide, clips = longer.draw(n, rng)
    x = wide[..., :t]
    pink = pink_patches(t, rng)
    order = torch.from_numpy(np.argsort(rng.random((n, t))))
    shuffled = x.gather(3, order[:, None, None].expand(x.shape))
    few = rng.integers(0, 50, n)

    def without(*missing):
        left = ~np.isin(kinds[patches.clips], missing)
        return gan.Patches(patches.codes, patches.clips[left], t).draw(n, rng)

    # in this order, which is that of the random numbers
    found = {"nothing": (x, clips)}
    found["another draw"] = patches.draw(n, rng)
    found["half a patch later"] = wide[..., t // 2:], clips
    noise, _ = pink.draw(n, rng)
    found["pink noise at 10 dB"] = with_noise(x, noise), clips
    found["blurred in time"] = blurred(x, 1, 5), clips
    found["blurred in frequency"] = blurred(x, 5, 1), clips
    for bands in OTHER_BLURS:
        found[f"blurred over {bands} bands"] = blurred(x, bands, 1), clips
    found["half a semitone up"] = detuned(x), clips
    found["frames in random order"] = shuffled, clips
    found["one repertoire missing"] = without(0)
    found["three missing"] = without(0, 1, 2)
    found["50 patches copied"] = x[few], clips[few]
    found["crops of training clips"] = training.draw(n, rng)
    return found


# ---------------------------------------------------------------- judging

def judged(patches, others, training, judges, kinds, n, seed):
    """Rows of `{measure: [value, low, high]}` of damaged patches against those of `others`."""
    judges = gan.Judges(training, others, judges.classifier, judges.names, n, seed)
    likely = gan.class_probabilities(judges.classifier, judges.real)
    limits = gan.rejection_limits(likely, kinds[judges.clips])
    few = training.some(len(others.clips))   # copies: as many clips on both sides
    fixed = "quality/frechet"
    seen, _ = few.draw(n, np.random.default_rng(seed + 20))
    seen = judges.describe(seen)[fixed]
    rows = {}
    for damage, (codes, clips) in damaged_sets(patches, few, kinds, n, seed).items():
        found = gan.panel(judges, codes, limits, clips)
        apart, by_balance = gan.apart(judges, codes)
        features = judges.describe(codes)[fixed]
        ratio = gan.nearest_ratio(seen, judges.features[fixed], features)
        # these have no interval: set limits stand for that of undamaged patches
        whole = damage == "nothing"
        found["total variation"] = (apart, *((0.0, 1.4 * apart) if whole else (None, None)))
        found[BALANCE] = (by_balance, *((0.0, STILL_WHOLE) if whole else (None, None)))
        found["nearest ratio"] = (ratio, *((0.8, 1.2) if whole else (None, None)))
        rows[damage] = {name: rounded_to_4(found[name]) for name in MEASURES}
        values = [f"{name} {rows[damage][name][0]:.3f}" for name in MEASURES]
        print(f"{damage:24}", *values, sep="  ", flush=True)
    return rows


def rounded_to_4(values):
    """Values with four decimals; what is missing stays None."""
    return [None if value is None else round(value, 4) for value in values]


def reactions(rows):
    """The measures that moved out of the interval of "nothing", by damage."""
    calm = rows["nothing"]
    moved = {}
    for damage, row in rows.items():
        moved[damage] = []
        for name in MEASURES:
            _, low, high = calm[name]
            value, *_ = row[name]
            if not low <= value <= high:
                moved[damage].append(name)
    return moved


def surprises(reacts):
    """What is otherwise than `EXPECTED`: lines of text, none if all is as expected."""
    found = []
    for damage, expected in EXPECTED.items():
        moved = set(reacts[damage])
        for name in MEASURES:
            if name in expected.must - moved:
                found.append(f"{damage}: {name} stays")
            if name in expected.may_not & moved:
                found.append(f"{damage}: {name} moves")
    return found


def expected_by_name():
    """`EXPECTED` as JSON takes it."""
    found = {}
    for damage, expected in EXPECTED.items():
        found[damage] = {
            "must": [name for name in MEASURES if name in expected.must],
            "may_not": [name for name in MEASURES if name in expected.may_not],
        }
    return found


def main(scores, n):
    """Judge both halves of the unseen clips, and keep it if all is as expected."""
    common.use_one_thread()
    training, unseen, judges = prepare(Music.render_scores(scores))
    coded = Music.get_musics_coded(scores)
    kinds = np.array([judges.names.index(label) for label in coded.labels])
    pieces = np.array([path.stem.rsplit("-", 1)[0] for path in coded.paths])
    first, second = (gan.Patches(coded.codes, clips)
                     for clips in halves(unseen.clips, pieces, kinds))
    blocks = []
    for seed, (own, others) in enumerate(((first, second), (second, first))):
        rows = judged(own, others, training, judges, kinds, n, seed)
        clips = [len(own.clips), len(others.clips)]
        blocks.append({"clips": clips, "rows": rows, "reacts": reactions(rows)})
    wrong = []
    for block in blocks:
        wrong += surprises(block["reacts"])
    assert not wrong, "\n".join(wrong)
    block, swapped = blocks
    found = {"patches": n, "measures": MEASURES, **block, "expected": expected_by_name()}
    found["swapped"] = swapped
    write_json(RECORDED, found)


if __name__ == "__main__":
    parser = common.command_line(__doc__, "--scores")
    parser.add_argument("--patches", type=int, default=2000)
    options = parser.parse_args()
    main(options.scores, options.patches)
