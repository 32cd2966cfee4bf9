"""Fit again the constants with which Music.py decides whether there is a pink floor.

    python tests/evidence/fit_floor.py folder/of/clean/music [--tracks 150]

Floors of recorded excerpts of 10 s are measured, without noise and with pink noise at 0 to 30 dB,
of full bandwidth and stored at two low rates. PRESENCE is a logistic regression on tracks that are
not held out (`is_held_out`), at up to 20 dB; its constant is lowered so far that a floor is
believed only where its logit lies `MARGIN` above that of the most suspicious clean excerpt. LIFT
is the line by least squares of what music adds to the level as bands disagree; pure noise, whose
bands disagree by chance alone, is lifted by nothing. Prints fitted beside shipped values with the
errors of each on the held-out tracks, three excerpts of each where they are clean, as MP3s of 48
kbit/s too, and records them in `runs/recorded/pink-gain/floor.json`. Nothing in Music.py changes
by itself: codes depend on its constants.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import common  # noqa: F401  (puts the project on the path)
import numpy as np
from sklearn.linear_model import LogisticRegression

import Music
from train_gain import RECORDED, SECONDS, STORED, excerpts, is_held_out

LEVELS = (0, 5, 10, 15, 20, 25, 30)     # dB
FITTED = 20                     # dB up to which floors are to be found
BELIEVED = 0.5                  # logit from which on `pink_floor` believes in a floor
MARGIN = 1.5                    # of the logit
CLIPS = (4,)                    # of a track
HELD_OUT = (4, 1, 9)            # of one that judges; noise is mixed with the first alone
PURE = 50                       # pieces of pure noise
TO_FIT = ("full", "16 kHz", "8 kHz")   # ways to store excerpts: see STORED
RECORD = RECORDED / "floor.json"


class Constants(NamedTuple):
    """What tells whether there is a floor, and how high: as in Music.py."""

    presence: np.ndarray
    lift: np.ndarray


def evidence(found):
    """What the logistic function weighs: a 1 and four measures."""
    log_gap = np.log(found.gap + 0.05)
    log_drift = np.log(found.drift + 0.05)
    return [1.0, log_gap, log_drift, found.depth / 10, found.grain]


def with_noise(y, snr, seed):
    """An excerpt with noise at a level in dB, as it is where there is none."""
    if snr is None:
        return y
    return Music.add_pink_noise(y, snr, seed)


def lift_of(found, y, snr):
    """By how many dB the level that was found in a mix is too high."""
    ratio = 10 ** (snr / 10)
    variance = np.mean(np.square(y)) / ratio
    return 10 * np.log10(found.level / variance)


def row_of(y, snr, stored, seed):
    """How it was made, evidence, gap, dB by which the level is high; of snr None: clean."""
    mix = STORED[stored](with_noise(y, snr, seed))
    power = Music.stft_power(mix, Music.N_FFT, Music.HOP_LENGTH)
    found = Music.floor_measures(power)
    if found.gap > 3:       # never believed, whatever the constants
        return {"snr": snr, "stored": stored, "gap": None}
    row = {"snr": snr, "stored": stored, "gap": float(found.gap), "evidence": evidence(found)}
    if snr is not None:
        row["lift"] = float(lift_of(found, y, snr))
    return row


def measure(path, seed):
    """Rows of a track: its excerpts clean, the first at each level too, stored in each way."""
    rows = []
    levels = (None, *LEVELS)
    clips = HELD_OUT if is_held_out(path) else CLIPS
    for y in excerpts(path, clips):
        y = y * (0.7 / np.abs(y).max())     # so that nothing is clipped with its noise
        for snr in levels:
            for stored in STORED:
                rows.append(row_of(y, snr, stored, seed))
        levels = (None,)
    return rows


def to_fit(rows):
    """The rows with a gap that constants are fitted to."""
    found = []
    for row in rows:
        easy = row["snr"] is None or row["snr"] <= FITTED
        if easy and row["gap"] is not None and row["stored"] in TO_FIT:
            found.append(row)
    return found


def fit_presence(rows):
    """Constant and four weights that tell noisy from clean excerpts."""
    rows = to_fit(rows)
    x = np.array([row["evidence"] for row in rows])
    noisy = np.array([row["snr"] is not None for row in rows])
    model = LogisticRegression(C=1e3, class_weight="balanced", fit_intercept=False, max_iter=20000)
    model.fit(x, noisy)
    weights, = model.coef_
    most_suspicious = np.max(x[~noisy] @ weights)
    weights[0] -= max(0, most_suspicious + MARGIN - BELIEVED)
    return weights


def gap_of_noise():
    """The mean gap of pure noise as long as the excerpts."""
    gaps = []
    for seed in range(PURE):
        noise = Music.pink_noise(SECONDS * Music.SR, seed)
        power = Music.stft_power(noise, Music.N_FFT, Music.HOP_LENGTH)
        gaps.append(Music.floor_measures(power).gap)
    return np.mean(gaps)


def with_level(rows, presence):
    """The noisy rows in which a floor is believed: no other needs a level."""
    return [row for row in to_fit(rows) if row["snr"] is not None and believed(row, presence)]


def fit_lift(rows, presence):
    """Slope and offset of the lift by the gap, 0 for pure noise: lift = slope gap - offset."""
    rows = with_level(rows, presence)
    by_chance = gap_of_noise()
    gap = np.array([row["gap"] for row in rows]) - by_chance
    lift = np.array([row["lift"] for row in rows])
    slope = gap @ lift / (gap @ gap)
    return np.array([slope, slope * by_chance])


def believed(row, presence):
    """Whether a floor is believed at all, as `Music.pink_floor` does."""
    if row["gap"] is None:
        return False
    logit = np.dot(presence, row["evidence"])
    return logit > BELIEVED


def share_believed(rows, snr, presence):
    """The share of the excerpts of one level (None: clean) in which a floor is believed."""
    verdicts = [believed(row, presence) for row in rows if row["snr"] == snr]
    return round(float(np.mean(verdicts)), 3)


def errors(rows, presence, lift):
    """Share of believed floors at each level and in clean music, error of the level in dB."""
    found = {}
    for stored in STORED:
        some = [row for row in rows if row["stored"] == stored]
        shares = [share_believed(some, snr, presence) for snr in LEVELS]
        found[f"believed, {stored}"] = shares
        found[f"false alarms, {stored}"] = share_believed(some, None, presence)
    slope, offset = lift
    left = []
    for row in with_level(rows, presence):
        lowered = max(0, slope * row["gap"] - offset)
        left.append(row["lift"] - lowered)
    square = np.mean(np.square(left))
    found["rms error of the level, dB"] = round(float(np.sqrt(square)), 2)
    return found


def judged(constants, held_out):
    """Constants as they are written down, with their errors on the held-out rows."""
    presence, lift = constants
    return {
        "PRESENCE": np.round(presence, 2).tolist(),
        "LIFT": np.round(lift, 2).tolist(),
        "held-out errors": errors(held_out, presence, lift),
    }


def compare(folder, tracks):
    """Fit on tracks that are not held out, judge on those that are: what is recorded."""
    found, _ = Music.audio_files(folder)
    audio = Music.labels_in_turn(found, Path(folder))[:tracks]
    jobs = [(path, seed) for seed, path in enumerate(audio)]
    training = []
    held_out = []
    for path, rows in zip(audio, Music.parallel(measure, jobs, -1)):
        side = held_out if is_held_out(path) else training
        side.extend(rows)
    clean = [row for row in held_out if row["snr"] is None and row["stored"] == "full"]
    loudest = [row for row in held_out if row["snr"] == LEVELS[0] and row["stored"] == "full"]
    shipped = Constants(Music.PRESENCE, Music.LIFT)
    presence = fit_presence(training)
    fitted = Constants(presence, fit_lift(training, presence))
    return {
        "tracks": len(audio),
        "held-out excerpts": {"clean": len(clean), "with noise": len(loudest)},
        "levels": LEVELS,
        "scikit-learn": version("scikit-learn"),
        "shipped": judged(shipped, held_out),
        "fitted": judged(fitted, held_out),
    }


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tracks", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    result = compare(options.folder, options.tracks)
    text = json.dumps(result, indent=1)
    print(text)
    with Music.atomic(options.out) as part:
        part.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
