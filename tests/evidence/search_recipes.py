"""Search for the recipe that a quarter of an hour of two processor cores trains best.

    python tests/evidence/search_recipes.py [--scores folder] [--device auto] [--eight-bits]
                                   [--stage 1] [--only text] [--worker 0 --of 1] [--list]

Three stages. 1: one change at a time to the earlier recipe, and a few together, of two seeds.
2: changes to what won, of two seeds. 3: finals, three seeds of each finalist and one seed where
a single part of it is taken back. The notebook's defaults are the winner. What lost lives here,
as small subclasses of the notebook's networks.

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

import argparse
import dataclasses
import functools
import json
import os
import re
import time
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")     # workers with two threads each would thrash

import numpy as np
import torch
from helpers import ROOT
from record_failures import gan, kept_classifier
from torch import nn
from torch.nn.functional import relu

import Music
import Quality

RECORDED = ROOT / "runs" / "recorded" / "recipes"
FEATURES = ("fixed", "classifier")


# ---------------------------------------------------------------- generators that lost

class HeldEvents(gan.TrunkGenerator):
    """White events, the first half of them held for four steps: the memory before `remember`."""

    def latents(self, n, frames, rng=None, kind=None):
        style, events = gan.draw_latents(self, n, frames, rng, kind)
        half, steps = events.shape[1] // 2, events.shape[2]
        held = events[:, :half, ::4].repeat_interleave(4, 2)[..., :steps]
        return style, torch.cat([held, events[:, half:]], 1)


class Mapping(gan.TrunkGenerator):
    """The style goes through a network of two layers first (Karras 2019)."""

    WIDTH = 128

    def __init__(self, config):
        super().__init__(dataclasses.replace(       # a trunk whose style has WIDTH entries
            config, style_dim=self.WIDTH - len(config.classes)))
        self.config, layers = config, []
        for size in (config.style_dim + len(config.classes), self.WIDTH):
            layers += [nn.Linear(size, self.WIDTH), nn.LeakyReLU(0.2)]
            # N(0, 0.02) as elsewhere would leave next to nothing of the style
            nn.init.kaiming_normal_(layers[-2].weight, 0.2)
            nn.init.zeros_(layers[-2].bias)
        self.mapping = nn.Sequential(*layers)

    def forward(self, style, events):
        return super().forward(self.mapping(style), events)


class HeldMapping(HeldEvents, Mapping):
    """Both."""


class RisenTrunk(gan.Trunk):
    """A trunk that doubles time at its end."""

    def __init__(self, config, style_dim, hidden):
        super().__init__(config, style_dim, hidden)
        self.rise = nn.ConvTranspose1d(hidden, hidden, 4, 2, 1, bias=False)
        self.norm = gan.Modulated(nn.BatchNorm1d(hidden), style_dim, config.modulated)

    def forward(self, style, events):
        return relu(self.norm(self.rise(super().forward(style, events)), style))


class Rows64(HeldEvents):
    """The trunk goes on to 64 rows, and only one block is a picture."""

    def __init__(self, config):
        super().__init__(config)
        hidden, self.bottom = 8 * config.generator_width, 64
        self.trunk = RisenTrunk(config, config.style_dim + len(config.classes), hidden)
        self.rows = nn.Conv1d(hidden, config.generator_width * self.bottom, 1)
        self.norms, self.ups = self.norms[1:], self.ups[1:]
        self.apply(gan.initialise)


class Levelled(gan.Modulated):
    """Modulated BatchNorm before which the style sets a level for each row."""

    def __init__(self, channels, rows, style_dim, modulated):
        super().__init__(nn.BatchNorm2d(channels), style_dim, modulated)
        self.levels = nn.Linear(style_dim, channels * rows)
        self.apply(gan.initialise)

    def forward(self, x, style):
        levels = self.levels(style).unflatten(1, (x.shape[1], -1))[..., None]
        return super().forward(x + levels, style)


class Levels64(Mapping):
    """With a mapping network; the style also sets the levels of the picture's 64 rows."""

    def __init__(self, config):
        super().__init__(config)
        self.norms[1] = Levelled(config.generator_width, 64, self.WIDTH, config.modulated)


# ---------------------------------------------------------------- judges that lost

class PlaceDiscriminator(gan.PictureDiscriminator):
    """The picture judge, told the height of each row."""

    def __init__(self, config):
        super().__init__(dataclasses.replace(config, pack=config.pack + 1))

    def forward(self, x, kind=None):
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)[:, None]
        return super().forward(torch.cat([x, rows.expand_as(x[:, :1])], 1), kind)


class SpreadDiscriminator(gan.PictureDiscriminator):
    """The picture judge, told how much its features spread in the batch (Karras 2018)."""

    def __init__(self, config):
        super().__init__(config)
        self.head = gan.Head(self.head.shared.in_features + 1, config)

    def forward(self, x, kind=None):
        h = self.layers(x).flatten(1)
        spread = (h.float().var(0) + 1e-8).sqrt().mean().expand(len(h), 1)
        return self.head(torch.cat([h, spread.to(h.dtype)], 1), kind)


class WideBands(gan.BandsDiscriminator):
    """The bands judge, half as wide again."""

    def __init__(self, config):
        super().__init__(dataclasses.replace(
            config, discriminator_width=int(1.5 * config.discriminator_width)))


class ProjectedDiscriminator(nn.Module):
    """Judge what a frozen classifier sees, at three scales (Sauer 2021)."""

    eyes = None        # never the classifier that quality is measured with

    def __init__(self, config):
        super().__init__()
        self.frozen = [deepcopy(self.eyes).requires_grad_(False)]    # a list hides its weights
        self.scales = nn.ModuleList(nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=stride, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2))
            for channels, stride in ((32, 2), (64, 2), (64, 1)))
        self.apply(gan.initialise)
        cells = config.n_mels * config.frames // 256            # 32 at the first, 8 at the others
        self.head = gan.Head(64 * (cells + cells // 4 + cells // 4), config)
        gan.initialise(self.head.shared)

    def forward(self, x, kind=None):
        seen, layers = [], self.frozen[0].to(x.device).layers
        for i in range(0, len(layers), 3):                     # convolution, BatchNorm, ReLU
            x = layers[i:i + 3](x)
            seen.append(x)
        found = [scale(x).flatten(1) for scale, x in zip(self.scales, seen[1:])]
        return self.head(torch.cat(found, 1), kind)


gan.GENERATORS |= {"held": HeldEvents, "mapping": Mapping, "held, mapping": HeldMapping,
                   "64 rows": Rows64, "64 levels": Levels64}
gan.JUDGES |= {"place": PlaceDiscriminator, "spread": SpreadDiscriminator, "wide bands": WideBands,
               "projected": ProjectedDiscriminator}


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
        fields = {**BASES[self.stage], **self.changes}
        if fields.get("classes"):
            fields["classes"] = tuple(shares)
        return gan.Config(**fields, name=self.name, seed=seed, steps=self.steps, device=device)

    def path(self, seed):
        name = re.sub(r"[^\w.]+", "-", self.name).strip("-")
        return RECORDED / str(self.stage) / f"{name}-{seed}.json"


TWO = ("picture", "bands")
FRAMES = {"discriminators": (*TWO, "frames")}
PROJECTED = {"discriminators": (*TWO, "projected")}
CONDITIONAL, STILL = {"classes": "shares"}, {"betas": (0.0, 0.99)}
MODULATED = {"modulated": True}
HELD, GRU = {"generator": "held"}, {"memory": "gru"}
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
DCGAN = {"generator": "convolutional", "modulated": False, "classes": (), "rows": False,
         "discriminators": ("picture",), "loss": "bce", "r1_gamma": 0.0, "betas": (0.5, 0.999)}
THIRD = {                             # steps, seeds, changes
    "trunk, frames, beta1 0": (6700, 3, {}),
    "trunk": (7200, 3, MOVING),
    "trunk, frames": (6700, 1, {**MOVING, **FRAMES}),
    "trunk, beta1 0": (7200, 1, {**MOVING, **STILL}),
    "trunk, held events": (7200, 1, {**MOVING, **HELD}),
    "recurrent": (6300, 3, {**MOVING, **GRU}),
    "narrow DCGAN": (13000, 3, {**DCGAN, "generator_width": 16, "discriminator_width": 16}),
    "tutorial DCGAN": (490, 3, {**DCGAN, "generator_width": 64, "discriminator_width": 64,
                                "lr": 2e-4, "lr_end": 1.0, "average": 0.0, "batch_size": 128}),
}
RECIPES = [Recipe(name, stage, int(budget / cost), 2, changes)
           for stage, budget, recipes in ((1, 2000, FIRST), (2, 3000, SECOND))
           for name, (cost, changes) in recipes.items()]
RECIPES += [Recipe(name, 3, *how) for name, how in THIRD.items()]


def all_runs():
    """Every run: pairs of a recipe and a seed, stage by stage."""
    return [(recipe, seed) for recipe in RECIPES for seed in range(recipe.seeds)]


# ---------------------------------------------------------------- measures

@dataclasses.dataclass
class Material:
    """What all runs share: patches, judges and what the notebook's panel needs."""

    training: object
    unseen: object
    judges: object
    limits: np.ndarray
    shares: np.ndarray   # of the repertoires, among the training clips


def prepare(folder, eight_bits=False, n=4000):
    """Code a folder and make what all runs share; its classifiers are kept in the folder."""
    coded = Music.get_musics_coded(folder)
    names, target = np.unique(coded.labels, return_inverse=True)
    codes = np.asarray(coded.codes)
    if eight_bits:
        codes = np.round((codes.astype(np.float32) + 1) * 127.5) / np.float32(127.5) - 1
    training, unseen = (gan.Patches(codes, clips, target=target)
                        for clips in gan.split_by_piece(coded))
    classifier, ProjectedDiscriminator.eyes = (
        kept_classifier(Path(folder) / file, training, len(names), seed)
        for seed, file in enumerate((".classifier.pt", ".classifier-1.pt")))
    judges = gan.Judges(training, unseen, classifier, list(names), n)
    half = np.isin(judges.clips, unseen.clips[::2])
    likely = Quality.class_probabilities(classifier, judges.real[half])
    limits = Quality.rejection_limits(likely, target[judges.clips[half]])
    shares = np.bincount(target[training.clips], minlength=len(names)) / len(training.clips)
    return Material(training, unseen, judges, limits, shares)


def distances(judges, codes):
    """Frechet distances in both features."""
    return {f"Fréchet, {name}": value for name, value in zip(FEATURES, judges(codes).values())}


def quality(judges, codes):
    """Distances, neighbours in both features, and how the repertoires are shared out."""
    found = distances(judges, codes)
    for (tag, described), name in zip(judges.describe(codes).items(), FEATURES):
        near = Quality.neighbour_measures(judges.features[tag], described)
        found |= {f"{measure}, {name}": values.mean() for measure, values in near.items()}
    shares = gan.shares(judges.classifier, codes)
    over = shares / np.maximum(judges.shares, 1e-9)
    return {**found, "total variation": np.abs(shares - judges.shares).sum() / 2,
            "least": over.min(), "most": over.max()}      # of a repertoire, over its real share


def nearest(material, codes):
    """`nearest_ratio` in the fixed features, of as many training as unseen clips."""
    few = min(len(material.training.clips), len(material.unseen.clips))
    sides = [patches.some(few).draw(len(codes), np.random.default_rng(6))[0]
             for patches in (material.training, material.unseen)]
    return Quality.nearest_ratio(*(
        material.judges.describe(x)["quality/frechet"] for x in (codes, *sides)))


@torch.no_grad()
def confirmed(generator, classifier, each=100):
    """Share of asked-for repertoires that the classifier hears too."""
    config = generator.config
    kinds = torch.arange(len(config.classes)).repeat(each)
    codes = gan.sample(generator, len(kinds), config.frames, seed=5, batch=100, kind=kinds)
    return float((classifier(codes).argmax(1) == kinds).double().mean())


def rounded(x):
    """The same with 4 significant digits."""
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [rounded(v) for v in x]
    return float(f"{x:.4g}") if isinstance(x, float) else x


def keep(path, found):
    """Write a JSON file, atomically; innermost lists take one line."""
    text = json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n"
    text = re.sub(r"\[[^][{}]*\]", lambda inner: json.dumps(json.loads(inner[0])), text)
    with Music.atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def record(recipe, seed, prepared, device="auto"):
    """Train one run and keep it, unless it is there; `prepared` gives the material."""
    path, final = recipe.path(seed), recipe.stage == 3
    if path.exists():
        return
    material = prepared()
    judges, n = material.judges, len(material.judges.real)
    config = recipe.config(seed, material.shares, device)
    trainer, seconds = gan.Trainer(config), 0.0
    curve = {f"Fréchet, {name}": [] for name in FEATURES}
    for quarter in range(1, 5):
        started = time.perf_counter()
        while trainer.step < config.steps * quarter // 4:
            scalars = gan.train_step(trainer, material.training)
        float(scalars["loss/D"])                                  # waits for the device
        seconds += time.perf_counter() - started
        if final or quarter == 4:
            generator = gan.settle(deepcopy(trainer.average), config.frames)
            codes = gan.sample(generator, n if quarter == 4 else n // 2, config.frames, seed=3)
            for name, value in distances(judges, codes).items():
                curve[name].append([trainer.step, value])
    found = {"recipe": recipe.name, "stage": recipe.stage, "seed": seed, "steps": recipe.steps,
             "changes": recipe.changes, "clips": len(material.training.clips),
             "device": trainer.device.type, "seconds": seconds, "quality": quality(judges, codes)}
    if final:
        found["quality"]["nearest"] = nearest(material, codes)
        if config.classes:
            found["quality"]["asked"] = confirmed(generator, judges.classifier)
        found |= {"curve": curve, "panel": gan.panel(judges, codes, material.limits)}
    keep(path, found)
    print(f"{recipe.stage} {recipe.name} {seed}: {seconds:.0f} s", *(
        f"{name} {found['quality'][name]:.3f}" for name in curve), flush=True)


def record_floor(prepared):
    """The same measures of training pieces, and of the unseen ones where they have them."""
    path = RECORDED / "floor.json"
    if path.exists():
        return
    material = prepared()
    judges = material.judges
    codes, clips = material.training.draw(len(judges.real), np.random.default_rng(2))
    in_tune = Music.musical_measures(judges.real[:, 0].numpy())["in tune"]
    keep(path, {"quality": {**quality(judges, codes), "nearest": nearest(material, codes)},
                "panel": gan.panel(judges, codes, material.limits, clips),
                "unseen": {"in tune": np.nanmean(in_tune, dtype=float)}})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", type=Path, default=ROOT / "data" / "scores-500")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--eight-bits", action="store_true")
    parser.add_argument("--stage", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [(recipe, seed) for recipe, seed in all_runs() if options.only in recipe.name
              and options.stage in (None, recipe.stage)][options.worker::options.of]
    if options.list:
        print(*(f"{r.stage} {r.name} {seed}: {r.steps} steps, {r.changes}" for r, seed in chosen),
              sep="\n")
        raise SystemExit

    @functools.cache
    def prepared():
        return prepare(Music.render_scores(options.scores), options.eight_bits)

    for run in chosen:
        record(*run, prepared, options.device)
    record_floor(prepared)
