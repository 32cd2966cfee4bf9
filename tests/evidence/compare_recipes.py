"""Compare recipes at equal cost: a ladder from the plain one to the best, and its peers.

    python tests/evidence/compare_recipes.py [--scores folder] [--worker 0 --of 1] [--only text]
                                    [--list]
    python tests/evidence/compare_recipes.py --costs
    python tests/evidence/compare_recipes.py --page

The ladder climbs from the notebook's plain recipe to its modern one, a change at a time, each on
top of those before; the last rung has form. The cures: the plain recipe with one change alone, at
several doses, and trained four times as long. The peers: the DCGAN of PyTorch's tutorial and a
narrow one, told the repertoire as ours is; ours not told; ours with a GRU in its trunk; and a GRU
alone, which writes the matrix as a sequence.

Equal cost: every recipe gets as many steps as take as long as `MODERN_STEPS` of the modern one;
a cure those of the plain recipe.
`--costs` measures what a step takes in one thread, recipe after recipe, several times over, and
keeps the least, which a busy machine disturbs least, in `runs/recorded/recipes/costs.json`. A
training takes five minutes of one thread.

The music is 1,500 clips of the embedded default, split three ways (`three_ways`): eight tenths
to train on, a tenth that is not used here, a tenth that judges. Tunes that open with the same
intervals stay on one side. The judging pieces have chosen nothing.

Each run is kept at once under `runs/recorded/recipes`, and skipped where it is there: the panel
of 2,000 patches, and of as many cut out of pieces of 30 s; how the repertoires are shared out; and
the form of those pieces. Four of its patches, as bytes, lie beside it in an npz. `floor.json` is
the same for training pieces.
"""

import functools
import json
import re
from typing import NamedTuple

import common
import numpy as np
import torch
from common import as_bytes, gan, kept_classifier, rounded, write_json

import Music
from train_generator import PATCHES, cuts, three_ways, tunes_of

RECORDED = common.RECORDED / "recipes"
CLIPS = 1500
MODERN_STEPS = 800
SEEDS = 3
PIECES = 8              # of 30 s of each repertoire
SHOWN = 4               # patches that are kept of a run


# ---------------------------------------------------------------- recipes

TOLD = {"classes": "shares"}         # those of the repertoires among the training clips
GAME = {"loss": "relativistic", "r1_gamma": 0.1}
OPTIMISER = {"betas": (0.0, 0.99), "lr": 4e-4, "lr_end": 0.05, "average": 0.05}
SMALL = {"generator_width": 24, "discriminator_width": 16, "batch_size": 32}
TRUNK = {"generator": "trunk", "modulated": True, "rows": True}
JUDGES = {"discriminators": ("picture", "bands", "frames")}
RUNGS = {                            # each changes what the one before has become
    "plain": {},
    "+ told the repertoire": TOLD,
    "+ pairs, and R1": GAME,
    "+ optimiser and average": OPTIMISER,
    "+ smaller networks and batches": SMALL,
    "+ trunk, style in every block": TRUNK,
    "+ judges of bands and frames": JUDGES,
    "+ form": gan.FORM,
}
MODERN = "+ judges of bands and frames"
CURES = {                            # each alone, on the plain recipe
    "plain, beta1 0": {"betas": (0.0, 0.999)},
    "plain, beta1 0.9": {"betas": (0.9, 0.999)},
    "plain, average": {"average": 0.05},
    "plain, falling rate": {"lr": 4e-4, "lr_end": 0.05},
    "plain, R1 0.02": {"r1_gamma": 0.02},
    "plain, R1 0.2": {"r1_gamma": 0.2},
    "plain, R1 2": {"r1_gamma": 2.0},
    "plain, pack 2": {"pack": 2},
    "plain, pack 8": {"pack": 8},
}
LONGER = "plain, four times as long"
WIDE = {"generator_width": 64, "discriminator_width": 64, "batch_size": 128}
NARROW = {"generator_width": 16, "discriminator_width": 16, "batch_size": 32}


class Recipe(NamedTuple):
    """One recipe: in which fields of `Config` it differs from the plain one."""

    name: str
    changes: dict
    costs_like: str      # the recipe whose step takes as long
    times: int = 1       # how many times the common cost it may take

    def config(self, shares, seed=0, steps=1):
        """The whole configuration; `shares` are those of the repertoires."""
        fields = dict(self.changes)
        if "classes" in fields:
            fields["classes"] = tuple(shares)
        return gan.plain_recipe(**fields, name=self.name, seed=seed, steps=steps, device="cpu")


class Run(NamedTuple):
    """One training: a recipe and a seed."""

    recipe: Recipe
    seed: int

    @property
    def name(self):
        """The recipe's name."""
        return self.recipe.name

    @property
    def path(self):
        """The file that keeps a run."""
        name = re.sub(r"\W+", "-", self.name).strip("-")
        return RECORDED / f"{name}-{self.seed}.json"


def all_recipes():
    """The rungs of the ladder, the cures, and the peers: a list of recipes."""
    recipes = []
    reached = {}
    for name, changes in RUNGS.items():
        reached = reached | changes
        recipes.append(Recipe(name, reached, name))
    for name, changes in CURES.items():
        recipes.append(Recipe(name, changes, "plain"))
    modern = next(recipe.changes for recipe in recipes if recipe.name == MODERN)
    not_told = {field: value for field, value in modern.items() if field not in TOLD}
    peers = {
        "tutorial DCGAN, told": TOLD | WIDE,
        "narrow DCGAN, told": TOLD | NARROW,
        "modern, not told": not_told,
        "GRU in the trunk": modern | {"memory": "gru"},
        "GRU alone": modern | {"generator": "recurrent"},
    }
    for name, changes in peers.items():
        recipes.append(Recipe(name, changes, name))
    recipes.append(Recipe(LONGER, {}, "plain", 4))
    return recipes


def all_runs():
    """Every run, seed by seed."""
    return [Run(recipe, seed) for seed in range(SEEDS) for recipe in all_recipes()]


# ---------------------------------------------------------------- cost

def record_costs(rounds=5):
    """Measure what a step of each recipe takes, in turns, and keep the least [ms]."""
    shares = np.full(len(Music.REPERTOIRES), 1 / len(Music.REPERTOIRES))
    times = {}
    for _ in range(rounds):
        for recipe in all_recipes():
            if recipe.name != recipe.costs_like:
                continue
            ms = gan.step_ms(recipe.config(shares), steps=4)
            times.setdefault(recipe.name, []).append(ms)
    least = {name: min(measured) for name, measured in times.items()}
    write_json(RECORDED / "costs.json", rounded(least))


def steps_of(recipe):
    """How many steps of a recipe take as long as `MODERN_STEPS` of the modern one."""
    costs = json.loads((RECORDED / "costs.json").read_text(encoding="utf-8"))
    equal = MODERN_STEPS * costs[MODERN] / costs[recipe.costs_like]
    return round(equal * recipe.times)


# ---------------------------------------------------------------- measures

class Material(NamedTuple):
    """What all runs share: patches, judges and what the notebook's panel needs."""

    training: object
    judges: object
    limits: np.ndarray   # of rejection, by class
    shares: np.ndarray   # of the repertoires, among the training clips
    clips: list          # how many train, are not used, judge


def prepare(folder, n=PATCHES):
    """Code a folder of scores and make what all runs share; its classifier is kept there."""
    coded = Music.get_musics_coded(folder)
    names, target = np.unique(coded.labels, return_inverse=True)
    split = three_ways(coded.labels, tunes_of(coded, folder))
    training = gan.Patches(coded.codes, split.training, target=target)
    judging = gan.Patches(coded.codes, split.judging, target=target)
    classifier = kept_classifier(folder / ".classifier-of-recipes.pt", training, len(names))
    judges = gan.Judges(training, judging, classifier, names.tolist(), n)
    likely = gan.class_probabilities(classifier, judges.real)
    limits = gan.rejection_limits(likely, target[judges.clips])
    shares = np.bincount(target[split.training], minlength=len(names)) / len(split.training)
    return Material(training, judges, limits, shares, [len(side) for side in split])


def measured(material, patches, whole, kinds, clips=None):
    """The measures of patches (n, 1, n_mels, 64) and of pieces (m, 1, n_mels, t) of `kinds`."""
    judges = material.judges
    by_classifier, by_balance = gan.apart(judges, patches)
    found = {
        "patches": gan.panel(judges, patches, material.limits, clips),
        "total variation": by_classifier,
        gan.BY_BALANCE: by_balance,
        "form": {name: float(np.nanmean(values))
                 for name, values in Music.form_measures(whole[:, 0].numpy()).items()},
    }
    if clips is None:
        shares = np.bincount(kinds) / len(kinds)
        parts = cuts(whole, kinds, shares, len(patches))
        found["out of 30 s"] = gan.panel(judges, parts, material.limits)
    return found


# ---------------------------------------------------------------- recording

def keep_some(codes, path):
    """Write the first of some codes (n, 1, n_mels, t) in [-1, 1] as bytes, to an npz."""
    with Music.atomic(path) as unfinished:
        np.savez_compressed(unfinished, samples=as_bytes(codes[:SHOWN, 0]))


def record(run, prepared):
    """Train one run and keep it, unless it is there; `prepared` gives the material."""
    if run.path.exists():
        return
    material = prepared()
    steps = steps_of(run.recipe)
    config = run.recipe.config(material.shares, run.seed, steps)
    history = gan.train(config, material.training, progress=False)
    generator = history.generator
    patches = gan.sample(generator, len(material.judges.real), seed=3)
    kinds = np.arange(len(material.shares)).repeat(PIECES)
    asked = torch.from_numpy(kinds) if config.classes else None
    whole = gan.sample(generator, len(kinds), 646, 4, 12, asked)
    verdict, evidence, _cure = gan.diagnose(history)
    found = {
        "recipe": run.name,
        "seed": run.seed,
        "steps": steps,
        "seconds": history.seconds,
        "verdict": verdict,
        "evidence": evidence,
        **measured(material, patches, whole, kinds),
    }
    keep_some(patches, run.path.with_suffix(".npz"))
    write_json(run.path, rounded(found))
    distances = [found["patches"][name][0] for name in ("Fréchet, fixed", "Fréchet, classifier")]
    print(f"{run.name} {run.seed}: {history.seconds:.0f} s, {distances}", flush=True)


def record_floor(prepared):
    """The same measures of training pieces."""
    path = RECORDED / "floor.json"
    if path.exists():
        return
    material = prepared()
    training = material.training
    rng = np.random.default_rng(2)
    patches, clips = training.draw(len(material.judges.real), rng)
    some = [gan.clips_of(training, kind)[:PIECES] for kind in range(len(material.shares))]
    some = np.concatenate(some)
    whole = torch.from_numpy(np.float32(training.codes[some]))[:, None]
    found = measured(material, patches, whole, training.target[some], clips)
    write_json(path, rounded({"clips": material.clips, **found}))


# ---------------------------------------------------------------- the page of what was recorded

PAGE = """# Recipes at equal cost

A ladder from the plain recipe to the modern one and on to form, one change at a time; single cures
of the plain recipe; and peers: `RUNGS`, `CURES` and `all_recipes` of the script say what they are.
Each file is one training; `costs.json` has the milliseconds of a step, from which the steps follow;
`floor.json` is the same for training pieces.

```
python tests/evidence/compare_recipes.py
python tests/evidence/compare_recipes.py --page       # this page
```

{training:,} clips of the embedded default to train on, {judging:,} to judge by, which have chosen
nothing. Mean (range) over seeds; distances over those of training pieces. *Total variation,
balance* hears the balance of bands alone, which blur does not move; older runs lack it.

"""
FIXED = "Fréchet, fixed"
LEARNT = "Fréchet, classifier"


def page_row(runs, floor):
    """A line of the page: a recipe, its steps, and its quality over the seeds."""
    cells = [runs[0]["recipe"], f"{runs[0]['steps']:,}", f"{len(runs)}"]
    for part in ("patches", "out of 30 s"):
        for name in (FIXED, LEARNT):
            values = [run[part][name][0] / floor[name][0] for run in runs]
            cells.append(gan.mean_range(values))
    for name in ("precision", "recall", "coverage", "in tune"):
        cells.append(gan.mean_range([run["patches"][name][0] for run in runs]))
    cells.append(gan.mean_range([run["total variation"] for run in runs]))
    by_balance = [run[gan.BY_BALANCE] for run in runs if gan.BY_BALANCE in run]
    cells.append(gan.mean_range(by_balance) if by_balance else "")
    cells.append(gan.mean_range([run["form"]["returning"] for run in runs]))
    return f"| {' | '.join(cells)} |"


def page():
    """The text of the page about what is recorded."""
    floor = json.loads((RECORDED / "floor.json").read_text(encoding="utf-8"))
    training, _unused, judging = floor["clips"]
    header = ("recipe", "steps", "seeds", "fixed, patches", "classifier, patches",
              "fixed, 3 s out of 30 s", "classifier, 3 s out of 30 s", "precision", "recall",
              "coverage", "in tune", "total variation", gan.BY_BALANCE, "share that returns")
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for recipe in all_recipes():
        paths = [Run(recipe, seed).path for seed in range(SEEDS)]
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
        if runs:
            lines.append(page_row(runs, floor["patches"]))
    return PAGE.format(training=training, judging=judging) + "\n".join(lines) + "\n"


def main(options):
    """Record the runs that were asked for, and the floor."""
    if options.page:
        with Music.atomic(RECORDED / "README.md") as unfinished:
            unfinished.write_text(page(), encoding="utf-8")
        return
    common.use_one_thread()
    if options.costs:
        record_costs()
        return
    runs = common.own_share(all_runs(), options)
    if options.list:
        for run in runs:
            print(f"{run.name} {run.seed}: {steps_of(run.recipe)} steps, {run.recipe.changes}")
        return

    @functools.cache
    def prepared():
        return prepare(Music.render_scores(options.scores, CLIPS))

    for run in runs:
        record(run, prepared)
    record_floor(prepared)


if __name__ == "__main__":
    parser = common.command_line(__doc__, "--scores", "--worker", "--of", "--only", "--list")
    parser.set_defaults(scores=common.ROOT / "data" / f"scores-{CLIPS}")
    parser.add_argument("--costs", action="store_true", help="measure what a step takes")
    parser.add_argument("--page", action="store_true", help="write the page of what is recorded")
    main(parser.parse_args())
