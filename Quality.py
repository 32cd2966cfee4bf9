"""How good invented music is: measures of codes and of their features, beside real music.

In the order of this file: nearest neighbours (precision, recall, density, coverage, copies),
intervals, repertoires with rejection; and what music is like: partials, tuning, onsets, loudness,
rhythm and form. Codes are [-1, 1], of shape (n, 1, n_mels, t) or, as pictures, (n, n_mels, t).
"""

import librosa
import numpy as np
import torch
from scipy import stats
from scipy.signal import find_peaks

import Music

# ---------------------------------------------------------------- nearest neighbours

def radii(x, k, clips):
    """Distance of each patch (n, d) to its `k`-th nearest other one, of another clip."""
    return torch.cat([torch.cdist(part, x).masked_fill_(own[:, None] == clips, torch.inf)
                      .kthvalue(k).values for part, own in zip(x.split(500), clips.split(500))])


def neighbour_measures(real, fake, k=5, real_clips=None, fake_clips=None):
    """Precision, recall, density and coverage (Naeem 2020), as arrays whose means are the four.

    Parameters
    ----------
    real, fake : array [shape=(n, d)], [shape=(m, d)]
        Features; n and m should be equal, since with more fakes coverage and recall rise.
    k : int
    real_clips, fake_clips : array of int [shape=(n,)], [shape=(m,)], optional
        If given, the `k` nearest are those of *other* clips; else of any, as in the reference.

    Returns
    -------
    dict of np.ndarray
        precision, density [shape=(m,)], of fakes; recall, coverage [shape=(n,)], of real ones.
    """
    real, fake = (torch.as_tensor(x, dtype=torch.float64) for x in (real, fake))
    own = [torch.arange(len(x)) if clips is None else torch.as_tensor(clips)
           for x, clips in ((real, real_clips), (fake, fake_clips))]
    around_real, around_fake = radii(real, k, own[0]), radii(fake, k, own[1])
    balls, recall, coverage = torch.zeros(len(fake)).double(), [], []
    for part, radius in zip(real.split(500), around_real.split(500)):
        distance = torch.cdist(part, fake)
        inside = distance < radius[:, None]
        balls += inside.sum(0)
        coverage.append(inside.any(1))
        recall.append((distance < around_fake).any(1))
    found = {"precision": balls > 0, "recall": torch.cat(recall), "density": balls / k,
             "coverage": torch.cat(coverage)}
    return {name: x.double().numpy() for name, x in found.items()}


def nearest_distances(features, *sides):
    """Distance of each of features (n, d) to the nearest of each side (m, d): (n,) a side."""
    return [torch.cdist(torch.as_tensor(features), torch.as_tensor(x)).amin(1) for x in sides]


def nearest_ratio(features, training, unseen):
    """Median distance of features to the nearest of `training`, over that of `unseen`.

    1 is no preference, below 0.95 speaks for copies. As many patches of as many clips on both
    sides, since more clips lie nearer by chance.
    """
    near, far = nearest_distances(features, training, unseen)
    return float(near.median() / far.median())


def copied_share(features, training, unseen, ratio=0.5):
    """Share of features less than `ratio` times as far from a training patch as from an unseen one.

    A median does not see a generator that copies now and then. Of real patches of other clips
    1 % come below 0.58; copies lie at 0.
    """
    near, far = nearest_distances(features, training, unseen)
    return float((near < ratio * far).double().mean())


# ---------------------------------------------------------------- intervals

def mean_interval(values, clips=None, draws=200):
    """Mean of values (n,) and its 95 % interval by bootstrap, over whole `clips` (n,) if given.

    Patches of a clip are alike, so that the clips are drawn; fakes are independent.
    """
    if not len(values):
        return 3 * (float("nan"),)
    group = np.unique(np.arange(len(values)) if clips is None else clips, return_inverse=True)[1]
    size, total = np.bincount(group), np.bincount(group, values)
    times = np.random.default_rng(0).multinomial(len(size), [1 / len(size)] * len(size), draws)
    low, high = np.quantile(times @ total / (times @ size), (0.025, 0.975))
    return float(np.mean(values)), float(low), float(high)


def jackknife_interval(distance, fake, real, real_clips, fake_clips=None, groups=10):
    """A distance of two sets of features (n, d), and its 95 % interval: three floats.

    A bootstrap would repeat clips, and few different clips lie too far apart; so a tenth of the
    clips of both sides is left out at a time (Efron and Tibshirani 1993, chapter 11). Clips in
    the order of their repertoires give every tenth nearly all of them. The value keeps the excess
    of a finite sample: compare it with a floor, not with 0.
    """
    part = [np.unique(np.arange(len(x)) if clips is None else clips,
                      return_inverse=True)[1] % groups
            for x, clips in ((fake, fake_clips), (real, real_clips))]
    left_out = [distance(fake[part[0] != g], real[part[1] != g]) for g in range(groups)]
    value, error = distance(fake, real), np.sqrt((groups - 1) * np.var(left_out))
    half = stats.t.ppf(0.975, groups - 1) * error
    return value, value - half, value + half


# ---------------------------------------------------------------- repertoires

@torch.no_grad()
def class_probabilities(classifier, codes):
    """Probabilities [shape=(n, classes)] of codes (n, 1, n_mels, t)."""
    return torch.cat([classifier(x).double().softmax(1) for x in codes.split(500)]).numpy()


def rejection_limits(probabilities, kinds, share=0.05):
    """For each class the probability that all but a `share` of its real patches pass.

    The probability of the likeliest class tells what was never trained on (Hendrycks and Gimpel,
    ICLR 2017). `kinds` (n,) are the true classes.
    """
    inside = [probabilities[(probabilities.argmax(1) == c) & (kinds == c), c]
              for c in range(probabilities.shape[1])]
    pooled = np.append(np.concatenate(inside), 1.0)
    return np.array([np.quantile(p if len(p) else pooled, share) for p in inside])


def accepted_class(probabilities, limits):
    """Likeliest class of each patch (n,), -1 where its probability is below the limit."""
    vote = probabilities.argmax(1)
    return np.where(probabilities.max(1) < limits[vote], -1, vote)


def by_repertoire(real, real_kinds, fake, fake_kinds, classes):
    """Are fakes where real patches of their repertoire are, between the 5 and 95 % quantiles?

    `real` and `fake` are of `musical_measures`. Returns, by measure, an array [shape=
    (classes, 3)]: the share of fakes inside (0.9 is perfect), means of real ones and of fakes.
    """
    found = {}
    for name in real:
        rows = np.full((classes, 3), np.nan)
        for c in range(classes):
            a, b = (x[name][(kinds == c) & np.isfinite(x[name])]
                    for x, kinds in ((real, real_kinds), (fake, fake_kinds)))
            if len(a) and len(b):
                low, high = np.quantile(a, (0.05, 0.95))
                rows[c] = np.mean((b >= low) & (b <= high)), a.mean(), b.mean()
        found[name] = rows
    return found


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
    db, n = Music.db_from_code(codes), codes.shape[1]
    hz = Music.mel_to_hz(Music.hz_to_mel(Music.SR / 2) / (n + 1) * np.arange(1, n + 1))
    hz = hz.astype(np.float32)
    low, high = np.searchsorted(hz, TONAL_HZ)
    far, left, here, right, other = (db[:, low + i:high + i] for i in range(-2, 3))
    floor = np.maximum(db.max(1, keepdims=True) - PEAK_DEPTH, Music.DB_RANGE[0] + 1)
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
    db = Music.db_from_code(codes)
    flux = np.maximum(np.diff(db, axis=2), 0).mean(1)
    five = np.lib.stride_tricks.sliding_window_view(flux, 5, axis=1)
    onset = (five[..., 2] >= five[..., 1:4].max(2)) & (five[..., 2] >= five.mean(2) + ONSET_DB)
    centred = flux - flux.mean(1, keepdims=True)
    kurtosis = (centred ** 4).mean(1) / np.maximum((centred ** 2).mean(1) ** 2, 1e-12) - 3
    level = 10 * np.log10((10 ** (db / 10)).sum(1))
    low, high = np.quantile(level, (0.05, 0.95), axis=1)
    return onset.mean(1) * Music.SR / Music.HOP_LENGTH, kurtosis, high - low


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
    power = 10 ** (Music.db_from_code(codes) / 10)
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
    strength = librosa.onset.onset_strength(S=Music.db_from_code(code), sr=Music.SR,
                                            hop_length=Music.HOP_LENGTH)
    lags = round(seconds * Music.SR / Music.HOP_LENGTH)
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
    beat = [max(curve[find_peaks(curve)[0]], default=0) for curve in map(pulse, codes)]
    matrices = [similarity(code) for code in codes]
    away = [np.where(np.abs(np.subtract.outer(*2 * [np.arange(len(m))])) >= far, m, -1)
            for m in matrices]
    return {"piece/rhythm": float(np.mean(beat)),
            "piece/memory": float(np.mean([np.diagonal(m, far).mean() for m in matrices])),
            "piece/return": float(np.mean([m.max(1).mean() for m in away]))}
