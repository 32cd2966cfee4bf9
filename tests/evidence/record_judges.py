"""Record how the notebook's judges react to real music that was damaged in known ways.

    python tests/evidence/record_judges.py [--scores folder] [--patches 2000]

Four minutes of one thread, and those of the classifier where the folder keeps none. The unseen
clips are split by piece into two halves. Patches of the one half, damaged, are judged by `panel`
against the other half, then the halves change places; `runs/recorded/judges/self-test.json`
holds both. A judge reacts to a damage where its value leaves the interval that it has for
undamaged patches. `EXPECTED` says which must react and which may not; where they do otherwise
nothing is recorded and the script fails.

`--scores` is the embedded default (rendered where it is missing).
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from helpers import ROOT
from record_failures import gan, prepare

import Music
import Quality

RECORDED = ROOT / "runs" / "recorded" / "judges" / "self-test.json"
MEASURES = ("Fréchet, fixed", "Fréchet, classifier", "precision", "recall", "density", "coverage",
            "total variation", "rejected", "in tune", "chroma entropy", "onsets/s",
            "flux kurtosis", "dynamics (dB)", "nearest ratio")
LETTERS = dict(zip("fFprdcvjthoksn", MEASURES))
EXPECTED = {   # damage: letters of the judges that must react, of those that may not
    "another draw": ("", "fFprcdvjthoksn"),
    "half a patch later": ("", "fFprcdvjthoksn"),
    "pink noise at 10 dB": ("fFprcdvj", "t"),
    "blurred in time": ("Fcjok", "t"),
    "blurred in frequency": ("fFprcdvjth", "ok"),
    "half a semitone up": ("Fprcdvjt", "oks"),
    "frames in random order": ("fFpcjok", "ths"),
    "one repertoire missing": ("Fcv", "pjto"),
    "three missing": ("fFrcv", "pjto"),
    "50 patches copied": ("fFrc", "p"),
    # the classifier was trained on these clips: the judges that look through it may move
    "crops of training clips": ("n", "fthok"),
}


def halves(clips, pieces, kinds):
    """Split clips in two so that no piece is in both and each repertoire is: two index arrays."""
    first = np.zeros(len(clips), bool)
    for kind in set(kinds[clips]):
        own = kinds[clips] == kind
        first |= own & np.isin(pieces[clips], np.unique(pieces[clips][own])[::2])
    return clips[first], clips[~first]


def detuned(codes, semitones=0.5):
    """Codes (n, 1, n_mels, t) with every partial so many semitones higher, moved in power."""
    n, top = codes.shape[2], Music.hz_to_mel(Music.SR / 2)
    hz = Music.mel_to_hz(top / (n + 1) * np.arange(1, n + 1)) / 2 ** (semitones / 12)
    at = np.clip(Music.hz_to_mel(hz) / top * (n + 1) - 1, 0, n - 1.001)
    power, below = 10 ** (Music.db_from_code(codes) / 10), at.astype(int)
    part = (at - below)[:, None]
    moved = (1 - part) * power[:, :, below] + part * power[:, :, below + 1]
    return torch.from_numpy(Music.code_from_mel(moved)).float()


def with_noise(codes, noise, snr_db=10):
    """Codes (n, 1, n_mels, t) with noise (codes, same shape) so far below each patch's power."""
    power, added = (10 ** (Music.db_from_code(x) / 10) for x in (codes, noise))
    level = power.mean((1, 2, 3), keepdims=True) / added.mean((1, 2, 3), keepdims=True)
    return torch.from_numpy(Music.code_from_mel(
        power + added * level / 10 ** (snr_db / 10))).float()


def blurred(codes, bands, frames):
    """Means over so many bands and frames, both odd."""
    return F.avg_pool2d(codes, (bands, frames), 1, (bands // 2, frames // 2),
                        count_include_pad=False)


def damaged_sets(patches, training, kinds, n, seed):
    """Real patches damaged in known ways: `{damage: (codes (n, 1, n_mels, t), clips (n,))}`.

    `kinds` maps a clip to its repertoire.
    """
    rng, t = np.random.default_rng(seed), patches.frames
    wide, clips = gan.Patches(patches.codes, patches.clips, t + t // 2).draw(n, rng)
    x = wide[..., :t]
    pink = Music.pink_noise(30 * Music.SR, rng) * Music.CLEAN_RMS
    pink = Music.code_from_mel(Music.mel_spectrogram(pink))
    order = torch.from_numpy(np.argsort(rng.random((n, t))))[:, None, None].expand(x.shape)
    few = rng.integers(0, 50, n)

    def without(missing):
        kept = patches.clips[~np.isin(kinds[patches.clips], missing)]
        return gan.Patches(patches.codes, kept, t).draw(n, rng)

    return {
        "nothing": (x, clips), "another draw": patches.draw(n, rng),
        "half a patch later": (wide[..., t // 2:], clips),
        "pink noise at 10 dB": (with_noise(x, gan.Patches(pink[None], [0], t).draw(n, rng)[0]),
                                clips),
        "blurred in time": (blurred(x, 1, 5), clips),
        "blurred in frequency": (blurred(x, 5, 1), clips),
        "half a semitone up": (detuned(x), clips),
        "frames in random order": (x.gather(3, order), clips),
        "one repertoire missing": without([0]), "three missing": without([0, 1, 2]),
        "50 patches copied": (x[few], clips[few]),
        "crops of training clips": training.draw(n, rng),
    }


def judged(patches, others, training, judges, kinds, n, seed):
    """Rows of `{measure: [value, low, high]}` of damaged patches against those of `others`."""
    judges = gan.Judges(training, others, judges.classifier, judges.names, n, seed)
    limits = Quality.rejection_limits(
        Quality.class_probabilities(judges.classifier, judges.real), kinds[judges.clips])
    few = training.some(len(others.clips))   # copies: as many clips on both sides
    tag, rows = "quality/frechet", {}
    seen = judges.describe(few.draw(n, np.random.default_rng(seed + 20))[0])[tag]
    for damage, (codes, clips) in damaged_sets(patches, few, kinds, n, seed).items():
        found = gan.panel(judges, codes, limits, clips)
        value = float(np.abs(gan.shares(judges.classifier, codes) - judges.shares).sum() / 2)
        ratio = Quality.nearest_ratio(judges.describe(codes)[tag], seen, judges.features[tag])
        # these two have no interval: set limits stand for that of undamaged patches
        whole = damage == "nothing"
        found["total variation"] = (value, *((0.0, 1.4 * value) if whole else (None, None)))
        found["nearest ratio"] = (ratio, *((0.8, 1.2) if whole else (None, None)))
        rows[damage] = {name: [x if x is None else round(x, 4) for x in found[name]]
                        for name in MEASURES}
        print(f"{damage:24}", *(f"{k} {rows[damage][v][0]:.3f}" for k, v in LETTERS.items()),
              flush=True)
    return rows


def reactions(rows):
    """The measures that moved out of the interval of "nothing", by damage."""
    calm = rows["nothing"]
    return {damage: [name for name in MEASURES
                     if not calm[name][1] <= row[name][0] <= calm[name][2]]
            for damage, row in rows.items()}


def surprises(reacts):
    """What is otherwise than `EXPECTED`: lines of text, none if all is as expected."""
    found = []
    for damage, (must, may_not) in EXPECTED.items():
        found += [f"{damage}: {LETTERS[k]} stays" for k in must
                  if LETTERS[k] not in reacts[damage]]
        found += [f"{damage}: {LETTERS[k]} moves" for k in may_not
                  if LETTERS[k] in reacts[damage]]
    return found


def main(scores, n):
    training, unseen, judges = prepare(Music.render_scores(scores))
    coded = Music.get_musics_coded(scores)
    kinds = np.array([judges.names.index(k) for k in coded.labels])
    pieces = np.array([path.stem.rsplit("-", 1)[0] for path in coded.paths])
    sides = [gan.Patches(coded.codes, clips) for clips in halves(unseen.clips, pieces, kinds)]
    blocks = []
    for seed, (own, others) in enumerate((sides, sides[::-1])):
        rows = judged(own, others, training, judges, kinds, n, seed)
        blocks.append({"clips": [len(own.clips), len(others.clips)], "rows": rows,
                       "reacts": reactions(rows)})
    wrong = [line for block in blocks for line in surprises(block["reacts"])]
    assert not wrong, "\n".join(wrong)
    expected = {damage: {"must": [LETTERS[k] for k in must],
                         "may_not": [LETTERS[k] for k in may_not]}
                for damage, (must, may_not) in EXPECTED.items()}
    with Music.atomic(RECORDED) as part:
        part.write_text(json.dumps({"patches": n, "measures": MEASURES, **blocks[0],
                                    "expected": expected, "swapped": blocks[1]},
                                   indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", type=Path, default=ROOT / "data" / "scores-500")
    parser.add_argument("--patches", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    main(options.scores, options.patches)
