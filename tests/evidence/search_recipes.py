"""Search for the recipe that a quarter of an hour of two processor cores trains best.

    python tests/evidence/search_recipes.py [--scores folder] [--device auto] [--eight-bits]
                                   [--stage 1] [--only text] [--worker 0 --of 1] [--list]

Three stages. 1: one change at a time to the earlier recipe, and a few together, of two seeds.
2: changes to what won, of two seeds. 3: finals, three seeds of each finalist and one seed where
a single part of it is taken back. The notebook's defaults are the winner. What lost lives in
`lost_parts.py`, as small subclasses of the notebook's networks.

Equal cost: the number of steps was fixed before a run, so that all runs of a stage would take the
same time on a processor. A step of the earlier recipe takes 0.15 s of one thread; what a step of
another recipe costs relative to it was measured with `step_ms`, in turns on one machine, for the
main parts, and put together from these for the rest: the first number of each line below. Stage 1
has 2,000 steps over that cost, about 5 minutes of one thread; stage 2 has 3,000; stage 3 what 15
minutes of two cores take. The whole list is some 18 hours of one thread. What is recorded ran on
a GPU, many trainings side by side, from codes rounded to 8 bits (`--device cuda --eight-bits`):
its steps are those of the processor's budget, its seconds are not (those of finals include
measuring). The unseen clips that chose the winner also measure it.

Each run is kept at once under `runs/recorded/recipes/<stage>`, and skipped where it is there:
the recipe, and its quality on as many fakes as unseen patches (4,000), with neighbours as in the
reference (of any clip). Finals also have the notebook's panel, the Frechet distances at each
quarter, the ratio of distances to training and to unseen clips, and the share of asked-for
repertoires that the classifier confirms. What is recorded lacks the last for seeds 1 and 2, and
all of these but the quarters for those seeds of the recurrent one and of both DCGANs, whose
generators were not kept; its panels saw another draw of the unseen patches. `floor.json` is the
same for training pieces.
"""

import dataclasses
import functools
import json
import re
import time
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from common import gan, kept_classifier, rounded, write_json

import lost_parts
import Music

RECORDED = common.RECORDED / "recipes"
FEATURES = ("fixed", "classifier")


# ---------------------------------------------------------------- recipes

@dataclasses.dataclass(frozen=True)
class Recipe:
    """One recipe: in which fields of `Config` it differs from the base of its stage."""

    name: str
    stage: int
    steps: int
    seeds: int
    changes: dict      # "classes": "shares" means those of the training clips

    def config(self, seed, shares, device="auto"):
        """The whole configuration; `shares` are those of the repertoires."""
        fields = {**BASES[self.stage], **self.changes}
        if fields.get("classes"):
            fields["classes"] = tuple(shares)
        return gan.Config(**fields, name=self.name, seed=seed, steps=self.steps, device=device)

    def path(self, seed):
        """The file that keeps a run."""
        name = re.sub(r"[^\w.]+", "-", self.name)
        name = name.strip("-")
        return RECORDED / str(self.stage) / f"{name}-{seed}.json"


class Run(NamedTuple):
    """One training: a recipe and a seed."""

    recipe: Recipe
    seed: int

    @property
    def name(self):
        """The recipe's name."""
        return self.recipe.name


TWO = ("picture", "bands")
FRAMES = {"discriminators": (*TWO, "frames")}
PROJECTED = {"discriminators": (*TWO, "projected")}
CONDITIONAL = {"classes": "shares"}
STILL = {"betas": (0.0, 0.99)}
MODULATED = {"modulated": True}
HELD = {"generator": "held"}
GRU = {"memory": "gru"}
ALL = {**HELD, **MODULATED, **CONDITIONAL}
# what a stage's changes change, itself as changes of the notebook's defaults
BASES = {
    1: {"generator": "convolutional", "modulated": False, "discriminators": TWO, "r1_gamma": 0.02,
        "betas": (0.5, 0.999)},
    # events with a memory *and* a mapping network, which the notebook's recipe has not
    2: {"generator": "mapping", **CONDITIONAL, "discriminators": TWO, "betas": (0.5, 0.999)},
    3: CONDITIONAL,
}
FIRST = {                             # cost of a step, changes
    "earlier recipe": (1, {}),
    "+ conditional": (1, CONDITIONAL),
    "+ modulated": (1.03, MODULATED),
    "+ modulated, conditional": (1.05, {**MODULATED, **CONDITIONAL}),
    "+ frames judge": (1.1, FRAMES),
    "+ projected judge": (1.3, PROJECTED),
    "place judge": (1.05, {"discriminators": ("place", "bands")}),
    "spread judge": (1.05, {"discriminators": ("spread", "bands")}),
    "lr 8e-4": (1, {"lr": 8e-4}),
    "lr 2e-4": (1, {"lr": 2e-4}),
    "R1 0.1": (1, {"r1_gamma": 0.1}),
    "R1 0.004": (1, {"r1_gamma": 0.004}),
    "batch 64": (1.81, {"batch_size": 64}),
    "batch 16": (0.52, {"batch_size": 16}),
    "G width 32": (1.12, {"generator_width": 32}),
    "D width 24": (1.4, {"discriminator_width": 24}),
    "beta1 0": (1, STILL),
    "BCE": (1, {"loss": "bce"}),
    "average 0.02": (1, {"average": 0.02}),
    "trunk": (1, HELD),
    "trunk, modulated": (1.05, {**HELD, **MODULATED}),
    "trunk with GRU, modulated": (1.1, {**HELD, **MODULATED, **GRU}),
    "trunk to 64 rows, modulated": (1.05, {**MODULATED, "generator": "64 rows"}),
    "trunk, modulated, conditional": (1.05, ALL),
    "trunk, modulated, conditional, projected judge": (1.35, {**ALL, **PROJECTED}),
    "trunk, modulated, conditional, frames judge": (1.15, {**ALL, **FRAMES}),
    "trunk, modulated, conditional, lr 8e-4": (1.05, {**ALL, "lr": 8e-4}),
}
SECOND = {
    "trunk, modulated, conditional, R1 0.02": (1.05, {**HELD, "r1_gamma": 0.02}),
    "trunk, modulated, conditional, R1 0.1": (1.05, HELD),
    "trunk, modulated, conditional, R1 0.5": (1.05, {**HELD, "r1_gamma": 0.5}),
    "memory": (1.05, {"generator": "trunk"}),
    "mapping": (1.07, {"generator": "held, mapping"}),
    "memory, mapping": (1.07, {}),
    "+ frames judge": (1.15, FRAMES),
    "+ beta1 0": (1.07, STILL),
    "+ batch 64": (1.85, {"batch_size": 64}),
    "+ G width 32": (1.3, {"generator_width": 32}),
    "+ D width 24": (1.45, {"discriminator_width": 24}),
    "+ GRU": (1.12, GRU),
    "+ levels of 64 rows": (1.1, {"generator": "64 levels"}),
    "+ lr 8e-4": (1.07, {"lr": 8e-4}),
    "+ lr 2e-4": (1.07, {"lr": 2e-4}),
    "+ wide bands judge": (1.2, {"discriminators": ("picture", "wide bands")}),
    "+ 32 events": (1.07, {"event_dim": 32}),
}
MOVING = {"discriminators": TWO, "betas": (0.5, 0.999)}
# the fields in which the game of a DCGAN is another than that of the notebook's recipe ...
GAME = ("generator", "modulated", "classes", "rows", "discriminators", "loss", "r1_gamma", "betas",
        "generator_width", "discriminator_width")
# ... and those of how the tutorial plays it
PACE = ("lr", "lr_end", "average", "batch_size")


def of_plain(fields, **options):
    """Those fields of the notebook's plain recipe with some options, as changes."""
    config = gan.plain_recipe(**options)
    return {field: getattr(config, field) for field in fields}


NARROW = of_plain(GAME, generator_width=16, discriminator_width=16)
TUTORIAL = of_plain((*GAME, *PACE), generator_width=64, discriminator_width=64, batch_size=128)
THIRD = {                             # steps, seeds, changes
    "trunk, frames, beta1 0": (6700, 3, {}),
    "trunk": (7200, 3, MOVING),
    "trunk, frames": (6700, 1, {**MOVING, **FRAMES}),
    "trunk, beta1 0": (7200, 1, {**MOVING, **STILL}),
    "trunk, held events": (7200, 1, {**MOVING, **HELD}),
    "recurrent": (6300, 3, {**MOVING, **GRU}),
    "narrow DCGAN": (13000, 3, NARROW),
    "tutorial DCGAN": (490, 3, TUTORIAL),
}


def all_recipes():
    """Every recipe, stage by stage."""
    recipes = []
    for stage, budget, table in ((1, 2000, FIRST), (2, 3000, SECOND)):
        for name, (cost, changes) in table.items():
            recipes.append(Recipe(name, stage, int(budget / cost), 2, changes))
    for name, (steps, seeds, changes) in THIRD.items():
        recipes.append(Recipe(name, 3, steps, seeds, changes))
    return recipes


def all_runs():
    """Every run, stage by stage."""
    runs = []
    for recipe in all_recipes():
        for seed in range(recipe.seeds):
            runs.append(Run(recipe, seed))
    return runs


# ---------------------------------------------------------------- measures

@dataclasses.dataclass
class Material:
    """What all runs share: patches, judges and what the notebook's panel needs."""

    training: object
    unseen: object
    judges: object
    limits: np.ndarray   # of rejection, by class
    shares: np.ndarray   # of the repertoires, among the training clips
    eyes: object         # the classifier through which the projected judge looks


def prepare(folder, to_eight_bits=False, n=4000):
    """Code a folder and make what all runs share; its classifiers are kept in the folder."""
    training, unseen, names = common.read_patches(folder, to_eight_bits)
    target = training.target
    folder = Path(folder)
    classifier = kept_classifier(folder / ".classifier.pt", training, len(names), 0)
    eyes = kept_classifier(folder / ".classifier-1.pt", training, len(names), 1)
    judges = gan.Judges(training, unseen, classifier, names, n)
    half = np.isin(judges.clips, unseen.clips[::2])
    likely = gan.class_probabilities(classifier, judges.real[half])
    limits = gan.rejection_limits(likely, target[judges.clips[half]])
    shares = np.bincount(target[training.clips], minlength=len(names)) / len(training.clips)
    return Material(training, unseen, judges, limits, shares, eyes)


def distances(judges, codes):
    """Frechet distances in both features."""
    return {f"Fréchet, {name}": value for name, value in zip(FEATURES, judges(codes).values())}


def quality(judges, codes):
    """Distances, neighbours in both features, and how the repertoires are shared out."""
    found = distances(judges, codes)
    described = judges.describe(codes)
    for tag, name in zip(described, FEATURES):
        near = gan.neighbour_measures(judges.features[tag], described[tag])
        for measure, values in near.items():
            found[f"{measure}, {name}"] = values.mean()
    shares = gan.shares(judges.classifier, codes)
    over = shares / np.maximum(judges.shares, 1e-9)
    found["total variation"] = np.abs(shares - judges.shares).sum() / 2
    found["least"] = over.min()       # of a repertoire, over its real share
    found["most"] = over.max()
    return found


def nearest(material, codes):
    """`nearest_ratio` in the fixed features, of as many training as unseen clips."""
    few = min(len(material.training.clips), len(material.unseen.clips))
    described = []
    for patches in (material.training, material.unseen):
        real, _ = patches.some(few).draw(len(codes), np.random.default_rng(6))
        described.append(material.judges.describe(real)["quality/frechet"])
    fake = material.judges.describe(codes)["quality/frechet"]
    return gan.nearest_ratio(*described, fake)


@torch.no_grad()
def confirmed(generator, classifier, each=100):
    """Share of asked-for repertoires that the classifier hears too."""
    config = generator.config
    kinds = torch.arange(len(config.classes)).repeat(each)
    codes = gan.sample(generator, len(kinds), config.frames, seed=5, batch=100, kind=kinds)
    heard = classifier(codes).argmax(1)
    return float((heard == kinds).double().mean())


# ---------------------------------------------------------------- recording

def train_until(trainer, patches, step):
    """Train up to a step: the seconds that it took."""
    started = time.perf_counter()
    while trainer.step < step:
        scalars = gan.train_step(trainer, patches)
    float(scalars["loss/D"])                                  # waits for the device
    return time.perf_counter() - started


def train_in_quarters(config, material, final):
    """Train a configuration, measured at its end and, in a final, at each quarter.

    Returns the generator, its codes, the distances by name as lists of [step, value], and the
    seconds of training.
    """
    judges = material.judges
    n = len(judges.real)
    trainer = gan.Trainer(config)
    seconds = 0.0
    curve = {f"Fréchet, {name}": [] for name in FEATURES}
    for quarter in range(1, 5):
        seconds += train_until(trainer, material.training, config.steps * quarter // 4)
        if final or quarter == 4:
            generator = gan.settle(deepcopy(trainer.average), config.frames)
            codes = gan.sample(generator, n if quarter == 4 else n // 2, config.frames, seed=3)
            for name, value in distances(judges, codes).items():
                curve[name].append([trainer.step, value])
    return generator, codes, curve, seconds


def record(recipe, seed, prepared, device="auto"):
    """Train one run and keep it, unless it is there; `prepared` gives the material."""
    path = recipe.path(seed)
    if path.exists():
        return
    material = prepared()
    judges = material.judges
    lost_parts.register(material.eyes)
    config = recipe.config(seed, material.shares, device)
    final = recipe.stage == 3
    generator, codes, curve, seconds = train_in_quarters(config, material, final)
    found = {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "seed": seed,
        "steps": recipe.steps,
        "changes": recipe.changes,
        "clips": len(material.training.clips),
        "device": gan.pick_device(device).type,
        "seconds": seconds,
        "quality": quality(judges, codes),
    }
    if final:
        found["quality"]["nearest"] = nearest(material, codes)
        if config.classes:
            found["quality"]["asked"] = confirmed(generator, judges.classifier)
        found["curve"] = curve
        found["panel"] = gan.panel(judges, codes, material.limits)
    write_json(path, rounded(found))
    reached = [f"{name} {found['quality'][name]:.3f}" for name in curve]
    print(f"{recipe.stage} {recipe.name} {seed}: {seconds:.0f} s", *reached, flush=True)


def record_floor(prepared):
    """The same measures of training pieces, and of the unseen ones where they have them."""
    path = RECORDED / "floor.json"
    if path.exists():
        return
    material = prepared()
    judges = material.judges
    codes, clips = material.training.draw(len(judges.real), np.random.default_rng(2))
    in_tune = Music.musical_measures(judges.real[:, 0].numpy())["in tune"]
    measured = quality(judges, codes)
    measured["nearest"] = nearest(material, codes)
    found = {
        "quality": measured,
        "panel": gan.panel(judges, codes, material.limits, clips),
        "unseen": {"in tune": np.nanmean(in_tune, dtype=float)},
    }
    write_json(path, rounded(found))


# ---------------------------------------------------------------- the page of what was recorded

PAGE = """# The search for a recipe

106 trainings, each in a JSON file: what was changed, and its quality. `floor.json` is the same for
training pieces. All are of an earlier version of the codes, whose noise removal left more behind:
compare only within this folder.

```
python tests/evidence/search_recipes.py --device cuda --eight-bits
python tests/evidence/search_recipes.py --page       # this page
```

Recipes of a stage take equally long on a processor. Mean (range) over seeds; distances over those
of training pieces; coverage in the classifier's features.

1. *Stage 1:* one change at a time to an *earlier recipe* (picture generator, two discriminators,
   not told repertoires).
2. *Stage 2:* changes to the modulated trunk that is told the repertoire; those with + also map the
   style by a network.
3. *Stage 3:* the finalists, beside the tutorial's DCGAN (width 64) and a narrow one (16), and
   single parts taken back. The notebook shows these (3.10).

*Place* judges know heights, *spread* judges the variety of a batch, *projected* ones look through
a second classifier (`tests/evidence/lost_parts.py`).

Where ranges do not overlap: telling the repertoire halves the classifier's distance and nearly
triples its coverage; a modulated trunk, not told, halves the total variation; cross-entropy and a
weaker R1 worsen both distances; wider networks or a larger batch lower neither mean distance
(stage 1). A discriminator of frames, which hurts the picture generator, helps the trunk (stage 2).
"""
COLUMNS = ("Fréchet, fixed", "Fréchet, classifier", "coverage, classifier", "total variation")


def page_row(name, runs, floor):
    """A line of the page: a recipe, its steps, and its quality over the seeds."""
    cells = [name, f"{runs[0]['steps']:,}"]
    for column in COLUMNS:
        values = np.array([run["quality"][column] for run in runs])
        if column.startswith("Fréchet"):
            values = values / floor[column]
        cells.append(gan.mean_range(values))
    return f"| {' | '.join(cells)} |"


def page():
    """The text of the page about what is recorded."""
    floor = json.loads((RECORDED / "floor.json").read_text(encoding="utf-8"))["quality"]
    lines = [PAGE]
    for stage in (1, 2, 3):
        recipes = {}
        for path in sorted((RECORDED / str(stage)).glob("*.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            recipes.setdefault(run["recipe"], []).append(run)
        rows = [page_row(name, runs, floor) for name, runs in recipes.items()]
        lines += [f"| stage {stage} | steps | {' | '.join(COLUMNS)} |", "|---|---|---|---|---|---|",
                  *rows, ""]
    return "\n".join(lines)


def main(options):
    """Record the runs that were asked for, and the floor."""
    if options.page:
        with Music.atomic(RECORDED / "README.md") as unfinished:
            unfinished.write_text(page(), encoding="utf-8")
        return
    common.use_one_thread()
    runs = [run for run in all_runs() if options.stage in (None, run.recipe.stage)]
    runs = common.own_share(runs, options)
    if options.list:
        for recipe, seed in runs:
            print(f"{recipe.stage} {recipe.name} {seed}: {recipe.steps} steps, {recipe.changes}")
        return

    @functools.cache
    def prepared():
        return prepare(Music.render_scores(options.scores), options.eight_bits)

    for recipe, seed in runs:
        record(recipe, seed, prepared, options.device)
    record_floor(prepared)


if __name__ == "__main__":
    parser = common.command_line(__doc__, "--scores", "--device", "--only", "--worker", "--of",
                                 "--list")
    parser.add_argument("--eight-bits", action="store_true")
    parser.add_argument("--stage", type=int)
    parser.add_argument("--page", action="store_true", help="write the page of what is recorded")
    main(parser.parse_args())
