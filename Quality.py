"""How good invented music is: measures of codes and of their features, beside real music.

In the order of this file: nearest neighbours (precision, recall, density, coverage, copies),
intervals, repertoires with rejection. Codes are [-1, 1], of shape (n, 1, n_mels, t).
"""

import numpy as np
import torch
from scipy import stats

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
