"""Fit again the constants with which Music.py decides whether there is a pink floor.

    python tests/evidence/fit_floor.py folder/of/clean/music [--tracks 150]

Floors of recorded excerpts of 10 s are measured, without noise and with pink noise at 0 to
20 dB. PRESENCE is a logistic regression on tracks that are not held out (`is_held_out`); LIFT is
a line by least squares, through what music adds to the level as bands disagree. Prints fitted
beside shipped values with the errors of each on the held-out tracks, and records them in
`runs/recorded/pink-gain/floor.json`. Nothing in Music.py changes: codes depend on its constants.
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
from train_gain import RECORDED, excerpts, is_held_out

LEVELS = (0, 5, 10, 15, 20)     # dB
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


def row_of(y, snr, seed):
    """Level in dB (None: clean), evidence, gap, dB by which the level is high."""
    mix = with_noise(y, snr, seed)
    power = Music.stft_power(mix, Music.N_FFT, Music.HOP_LENGTH)
    found = Music.floor_measures(power)
    if found.gap > 3:       # never believed, whatever the constants
        return {"snr": snr, "gap": None}
    row = {"snr": snr, "gap": float(found.gap), "evidence": evidence(found)}
    if snr is not None:
        row["lift"] = float(lift_of(found, y, snr))
    return row


def measure(path, seed):
    """Rows of a track: its excerpt clean and at each level."""
    rows = []
    for y in excerpts(path, (4,)):
        for snr in (None, *LEVELS):
            rows.append(row_of(y, snr, seed))
    return rows


def fit_presence(rows):
    """Constant and four weights that tell noisy from clean excerpts."""
    rows = [row for row in rows if row["gap"] is not None]
    x = np.array([row["evidence"] for row in rows])
    noisy = np.array([row["snr"] is not None for row in rows])
    model = LogisticRegression(C=1e4, class_weight="balanced", fit_intercept=False, max_iter=20000)
    model.fit(x, noisy)
    weights, = model.coef_
    return weights


def fit_lift(rows):
    """Slope and offset of the line through the lift by the gap: lift = slope gap - offset."""
    rows = [row for row in rows if row.get("lift") is not None]
    gap = np.array([row["gap"] for row in rows])
    lift = np.array([row["lift"] for row in rows])
    slope, constant = np.polyfit(gap, lift, 1)
    return np.array([slope, -constant])


def believed(row, presence):
    """Whether a floor is believed at all, as `Music.pink_floor` does."""
    if row["gap"] is None:
        return False
    logit = np.dot(presence, row["evidence"])
    return logit > 0.5


def share_believed(rows, snr, presence):
    """The share of the excerpts of one level (None: clean) in which a floor is believed."""
    verdicts = [believed(row, presence) for row in rows if row["snr"] == snr]
    return float(np.mean(verdicts))


def errors(rows, presence, lift):
    """Share missed at each level, of false alarms in clean music, error of the level in dB."""
    found = {}
    for snr in LEVELS:
        found[f"missed at {snr} dB"] = 1 - share_believed(rows, snr, presence)
    found["false alarms"] = share_believed(rows, None, presence)
    slope, offset = lift
    left = []
    for row in rows:
        if row.get("lift") is not None:
            lowered = max(0, slope * row["gap"] - offset)
            left.append(row["lift"] - lowered)
    square = np.mean(np.square(left))
    found["rms error of the level, dB"] = float(np.sqrt(square))
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
    clean = [row for row in held_out if row["snr"] is None]
    shipped = Constants(Music.PRESENCE, Music.LIFT)
    fitted = Constants(fit_presence(training), fit_lift(training))
    return {
        "tracks": len(audio),
        "held-out excerpts": len(clean),
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
