"""Fit the limits of the notebook's `diagnose` to the recorded trainings of known outcome.

    python tests/evidence/fit_limits.py

Seconds. `diagnose` asks one symptom after the other, and the first alarm gives the verdict. The
rules are fitted in that order, on the 78 recorded runs that are there for it (`use` is "derive").
For each symptom the runs that no earlier rule has explained are parted: those of the *setting*
that shows this symptom, and the *others*, made for another verdict. Between the most extreme of
the others and the nearest run of the setting beyond it lies a gap, and its thirds are the two
limits: beyond the second is an alarm, before the first all is well. What is beyond the alarm of
a rule is explained, and no later rule sees it. Where a rule asks two symptoms at once, the second
is fitted to the runs that the first alarms; where no other run is left, its place is taken by
1, the value of fakes that vary as real music does.

Prints the fitted limits beside those that the notebook ships, with the errors of both on the 78
known runs and on the 60 unseen ones, and keeps them in `runs/recorded/limits.json`.
"""

from typing import NamedTuple
from unittest import mock

import common
import numpy as np
from common import gan, rounded, write_json

from record_failures import RECORDED as RUNS
from record_failures import all_runs

RECORDED = common.RECORDED / "limits.json"
LIKE_REAL = 1.0     # a symptom that is a ratio to real music


class Rule(NamedTuple):
    """Symptoms that together give a verdict, and the setting that shows them."""

    verdict: str
    setting: str
    symptoms: tuple
    rises: bool     # whether a large value alarms, or a small one


# in the order in which `diagnose` asks
RULES = (
    Rule("diminished gradient", "minimax", ("starved",), rises=True),
    Rule("non-convergence", "unbounded", ("growth",), rises=True),
    Rule("mode collapse", "greedy", ("nearest",), rises=False),
    Rule("mode collapse", "greedy", ("margin", "dimensions"), rises=False),
    Rule("non-convergence", "momentum", ("swing",), rises=True),
)


class Known(NamedTuple):
    """A recorded run: how it was made, what it is for, and what its scalars say."""

    name: str
    setting: str
    made: str
    use: str
    history: object
    symptoms: dict


def read_runs():
    """The recorded runs that limits are fitted to, and those that test them."""
    known = []
    unseen = []
    kept = {"derive": known, "unseen": unseen}
    for run in all_runs():
        if run.use in kept:
            history = gan.read_recorded(RUNS / f"{run.name}.npz")
            symptoms = gan.symptoms(history)
            made = history.config["made"]
            use = history.config["use"]
            kept[use].append(Known(run.name, run.setting, made, use, history, symptoms))
    return known, unseen


def values_of(runs, symptom):
    """Sizes of a symptom, of each run."""
    return np.array([abs(run.symptoms[symptom]) for run in runs])


def fitted_limits(ill, others, rises):
    """The thirds of the gap between the others' most extreme value and the next ill one.

    Parameters
    ----------
    ill, others : np.ndarray
        A symptom of runs that show it, and of those that must not alarm.
    rises : bool
        Whether large values are ill.

    Returns
    -------
    (float, float)
        Up to the first fine, beyond the second alarming.

    Raises
    ------
    ValueError
        If no ill value lies beyond all others.
    """
    sign = 1 if rises else -1
    edge = np.max(sign * others) if len(others) else sign * LIKE_REAL
    beyond = sign * ill[sign * ill > edge]
    if not len(beyond):
        raise ValueError("no run that shows the symptom lies beyond all others")
    gap = np.min(beyond) - edge
    return float(sign * (edge + gap / 3)), float(sign * (edge + 2 * gap / 3))


def alarmed(runs, symptom, limits):
    """Whether a symptom is beyond the second limit, of each run."""
    levels = [gan.alarm(value, *limits) for value in values_of(runs, symptom)]
    return np.array(levels) == 2


def those(runs, chosen):
    """The runs that are chosen (a truth value for each)."""
    return [run for run, is_chosen in zip(runs, chosen) if is_chosen]


def fit(known):
    """Limits by symptom, from runs of known outcome."""
    limits = {}
    left = known
    for rule in RULES:
        suspects = left
        for symptom in rule.symptoms:
            ill = [run for run in suspects if run.setting == rule.setting]
            others = [run for run in suspects if run.made != rule.verdict]
            limits[symptom] = fitted_limits(
                values_of(ill, symptom), values_of(others, symptom), rule.rises)
            suspects = those(suspects, alarmed(suspects, symptom, limits[symptom]))
        explained = {run.name for run in suspects}
        left = [run for run in left if run.name not in explained]
    return limits


def errors(runs, limits):
    """How often `diagnose` with these limits is undecided or wrong: shares of the runs."""
    misjudged = {}
    right = []
    with mock.patch.dict(gan.LIMITS, limits):
        for run in runs:
            verdict, _, _ = gan.diagnose(run.history)
            right.append(verdict == run.made)
            if verdict != run.made:
                misjudged[run.name] = verdict
    undecided = list(misjudged.values()).count("undecided")
    made = np.array([run.made for run in runs])
    right = np.array(right)
    recalls = [right[made == verdict].mean() for verdict in set(made)]
    return {
        "runs": len(runs),
        "wrong": (len(misjudged) - undecided) / len(runs),
        "undecided": undecided / len(runs),
        "false alarms on healthy runs": 1 - float(right[made == "healthy"].mean()),
        "balanced accuracy": float(np.mean(recalls)),
        "misjudged": misjudged,
    }


def report(found):
    """Print the limits and the errors side by side."""
    print("symptom       fitted            shipped")
    for symptom, fitted in found["fitted"]["limits"].items():
        shipped = found["shipped"]["limits"][symptom]
        pairs = ["{:7.3g} {:7.3g}".format(*pair) for pair in (fitted, shipped)]
        print(f"{symptom:12}", *pairs, sep="  ")
    for which in ("fitted", "shipped"):
        for runs in ("known", "unseen"):
            rates = found[which][runs]
            print(f"{which} limits, {rates['runs']} {runs} runs: wrong {rates['wrong']:.1%}, "
                  f"undecided {rates['undecided']:.1%}, "
                  f"balanced accuracy {rates['balanced accuracy']:.3f}", rates["misjudged"])


def main():
    """Fit, compare, print and keep."""
    known, unseen = read_runs()
    found = {}
    for which, limits in (("fitted", fit(known)), ("shipped", dict(gan.LIMITS))):
        found[which] = {
            "limits": limits,
            "known": errors(known, limits),
            "unseen": errors(unseen, limits),
        }
    report(found)
    write_json(RECORDED, rounded(found))


if __name__ == "__main__":
    main()
