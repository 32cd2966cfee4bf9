"""Record the trainings on which the notebook's section about failures stands.

    python tests/evidence/record_failures.py [--scores folder] [--music folder] [--worker 0 --of 1]
                                    [--only text] [--list]
    python tests/evidence/record_failures.py --events folder

Each run is about two minutes of one thread, and is kept under `runs/recorded/failures` as soon
as it is done, so that a run of this script that was stopped goes on where it was. Two workers
(`--worker 0 --of 2` and `--worker 1 --of 2`) share the list. The trainings are by the notebook's
code, of an earlier recipe, narrow. `--scores` is the embedded default (rendered where it is
missing), `--music` a folder of recorded music for the runs named `*-music-*`, left out without it.

`--events` writes what is recorded as runs for TensorBoard: `tensorboard --logdir folder`.

What is kept of a run, in one npz without pickle: the scalars that its training recorded, thinned
to about 100 values each; `quality/*` and `share/*`, measured five times on 1,000 patches, which
`diagnose` never reads; the setting; of one run of each setting four samples at each of the five
times; of a dozen unseen runs the duality gap; and of those compared side by side rhythm, memory
and copies (`whole`).
"""

import dataclasses
import functools
import json
import math
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from common import as_bytes, gan, prepare

import Music

RECORDED = common.RECORDED / "failures"
# an earlier recipe than the notebook's, narrow: a picture generator (or a GRU alone) that cannot
# be asked for a repertoire
NARROW = {
    "steps": 1000,
    "generator_width": 16,
    "discriminator_width": 8,
    "generator": "convolutional",
    "modulated": False,
    "discriminators": ("picture", "bands"),
    "r1_gamma": 0.02,
    "betas": (0.5, 0.999),
}
KEPT = 100            # values of a scalar that are kept


# ---------------------------------------------------------------- the list of runs

@dataclasses.dataclass(frozen=True)
class Run:
    """One training: how it was made, and on what. Its file is `name`.npz."""

    name: str
    made: str         # what its setting is known to do: one of the verdicts
    use: str          # "cure": in the tables; "derive": thresholds; "unseen": error rate;
                      # "generators", "size", "ablation": side by side; "stalled": no learning
    changes: dict     # of NARROW
    music: str = "scores"
    few: bool = False  # a tenth of the clips to train on
    setting: str = ""  # key of SETTINGS, or what is compared side by side
    variant: str = ""  # what differs from the setting, "" if only the seed
    seed: int = 0
    gap: bool = False  # whether the duality gap is measured

    @property
    def samples(self):
        """Whether samples are kept: of the first run of each setting."""
        return self.use == "derive" and not self.variant and self.seed == 0

    @property
    def config(self):
        """The whole configuration."""
        named = {"name": self.name, "seed": self.seed, "device": "cpu"}
        return gan.Config(**{**NARROW, **self.changes, **named})


class Setting(NamedTuple):
    """What a setting is known to do, and what it changes in NARROW."""

    made: str
    changes: dict


class Variant(NamedTuple):
    """One more run of each setting, with another seed and perhaps other widths or music."""

    seed: int
    changes: dict = {}  # noqa: RUF012  (never altered)
    music: str = "scores"
    gap: bool = False


# the plain recipe with the first two judges, narrow: every failure below is one setting away
PLAIN = {"steps": 400, "loss": "bce", "r1_gamma": 0.0, "average": 0.0, "lr_end": 1.0}
# a Wasserstein pair needs a D without BatchNorm, which would hide its growth
WGAN = {**PLAIN, "loss": "wasserstein", "discriminator_norm": False}
SETTINGS = {
    "plain": Setting("healthy", PLAIN),
    "modern": Setting("healthy", {"steps": 600}),
    "greedy": Setting("mode collapse", {**PLAIN, "generator_steps": 10, "steps": 120}),
    "minimax": Setting("diminished gradient", {**PLAIN, "loss": "minimax"}),
    "momentum": Setting("non-convergence", {**PLAIN, "betas": (0.9, 0.999)}),
    "unbounded": Setting("non-convergence", WGAN),
}
CURES = {                # a number after a name is the dose of a weaker or stronger one
    "plain": {
        "no-norm": {"discriminator_norm": False},      # what `unbounded` also changes
    },
    "greedy": {
        "pack-4": {"pack": 4},
        "faster-D": {"lr_ratio": 0.25},
        "pack-2": {"pack": 2},
        "pack-8": {"pack": 8},
        "faster-D-0.1": {"lr_ratio": 0.1},
    },
    "minimax": {
        "R1": {"r1_gamma": 0.02},
        "noise": {"input_noise": 0.3},
        "R1-0.2": {"r1_gamma": 0.2},
        "noise-0.1": {"input_noise": 0.1},
        "noise-1": {"input_noise": 1.0},
    },
    "momentum": {
        "R1": {"r1_gamma": 0.02},
        "average": {"average": 0.05},
        "slower-G": {"lr_ratio": 0.25},
        "no-momentum": {"betas": (0.0, 0.999)},
        "R1-0.2": {"r1_gamma": 0.2},
        "R1-2": {"r1_gamma": 2.0},
    },
    "unbounded": {
        "R1": {"r1_gamma": 10.0, "r1_every": 4},
        "R1-no-momentum": {"r1_gamma": 10.0, "r1_every": 4, "betas": (0.0, 0.9)},
        "R1-1": {"r1_gamma": 1.0, "r1_every": 4},
        "R1-100": {"r1_gamma": 100.0, "r1_every": 4},
    },
}
# trainings that learn nothing, or whose generator cannot vary: of one seed the limits of "not
# learning" were seen, of the others not
STALLED = {
    "still": Setting("not learning", {**PLAIN, "lr_ratio": 0.0}),
    "too-slow": Setting("not learning", {**PLAIN, "lr": 1e-6}),
    "one-number": Setting("mode collapse", {**PLAIN, "style_dim": 1, "event_dim": 1}),
}
GRU = {"generator": "recurrent"}
# one part of that modern recipe taken back at a time
ABLATIONS = {
    "one-judge": {"discriminators": ("picture",)},
    "not-relativistic": {"loss": "bce"},
    "no-R1": {"r1_gamma": 0.0},
    "no-average": {"average": 0.0},
    "constant-lr": {"lr_end": 1.0},
    "no-rows": {"rows": False},
}
# the limits of `diagnose` were set on these and on three seeds of each setting ...
KNOWN = {
    "seed-a": Variant(11),
    "seed-b": Variant(12),
    "slim": Variant(13, {"generator_width": 12, "discriminator_width": 6}),
    "wide": Variant(14, {"generator_width": 24, "discriminator_width": 12}),
    "slow": Variant(15, {"lr": 2e-4}),
    "fast": Variant(16, {"lr": 6e-4}),
    "gru-a": Variant(17, GRU),
    "gru-b": Variant(18, GRU),
    "music-a": Variant(19, music="music"),
    "music-b": Variant(20, music="music"),
}
# ... and then frozen, before the scalars of any of these were read
UNSEEN = {
    "seed-c": Variant(31, gap=True),
    "seed-d": Variant(32, gap=True),
    "slimmer": Variant(33, {"generator_width": 10, "discriminator_width": 5}),
    "wider": Variant(34, {"generator_width": 20, "discriminator_width": 10}),
    "slower": Variant(35, {"lr": 2.5e-4}),
    "faster": Variant(36, {"lr": 5.5e-4}),
    "gru-c": Variant(37, GRU),
    "gru-d": Variant(38, GRU),
    "music-c": Variant(39, music="music"),
    "music-d": Variant(40, music="music"),
}
# compared side by side, all healthy: use, changes
SIDE_BY_SIDE = {
    "convolutional": ("generators", {"steps": 800}),
    "recurrent": ("generators", {"steps": 800, **GRU}),
    "standard": ("size", {"steps": 600}),
    "twice-as-wide": ("size", {"steps": 600, "generator_width": 32, "discriminator_width": 16}),
    "tenth-of-pieces": ("size", {"steps": 600}),
}
SEEDS = range(3)


def run_of(setting, use, seed, variant="", changes=None, made=None, **where):
    """A run of a setting; `variant` names its file where it is more than another seed."""
    known = SETTINGS[setting]
    parts = [setting, variant]
    if variant not in KNOWN and variant not in UNSEEN:
        parts.append(str(seed))
    name = "-".join(part for part in parts if part)
    both = {**known.changes, **(changes or {})}
    return Run(name, made or known.made, use, both, setting=setting, variant=variant, seed=seed,
               **where)


def first_runs():
    """Three seeds of each setting."""
    return [run_of(setting, "derive", seed) for seed in SEEDS for setting in SETTINGS]


def cured_runs():
    """Three seeds of each cure of each setting."""
    runs = []
    for seed in SEEDS:
        for setting, cures in CURES.items():
            for cure, changes in cures.items():
                runs.append(run_of(setting, "cure", seed, cure, changes, made="cure"))
    return runs


def varied_runs(use, variants):
    """Every setting once more for each of some variants."""
    runs = []
    for name, variant in variants.items():
        for setting in SETTINGS:
            run = run_of(setting, use, variant.seed, name, variant.changes, music=variant.music,
                         gap=variant.gap)
            runs.append(run)
    return runs


def stalled_runs():
    """Two seeds of each training that learns nothing, or cannot vary."""
    return [Run(f"{name}-{seed}", setting.made, "stalled", setting.changes, setting=name, seed=seed)
            for seed in SEEDS[:2] for name, setting in STALLED.items()]


def compared_runs():
    """Three seeds of what is compared side by side."""
    runs = []
    for seed in SEEDS:
        for name, (use, changes) in SIDE_BY_SIDE.items():
            few = name == "tenth-of-pieces"
            run = Run(f"{name}-{seed}", "healthy", use, changes, few=few, setting=name, seed=seed)
            runs.append(run)
    return runs


def ablated_runs():
    """Three seeds of the modern recipe without one of its parts."""
    runs = []
    for seed in SEEDS:
        for part, changes in ABLATIONS.items():
            runs.append(run_of("modern", "ablation", seed, part, changes))
    return runs


def all_runs():
    """Every run, those that thresholds are derived from first."""
    return [
        *first_runs(),
        *cured_runs(),
        *varied_runs("derive", KNOWN),
        *varied_runs("unseen", UNSEEN),
        *compared_runs(),
        *ablated_runs(),
        *stalled_runs(),
    ]


# ---------------------------------------------------------------- what is measured

@torch.no_grad()
def game_value(generator, discriminator, config, patches, rng, batches=10):
    """V(G, D) = E log sigmoid(D(x)) + E log(1 - sigmoid(D(G(z)))) in nats, on fresh batches."""
    z_rng = torch.Generator().manual_seed(1)
    values = []
    for _ in range(batches):
        real, _ = patches.draw(config.batch_size, rng)
        fake = generator(*generator.latents(config.batch_size, config.frames, z_rng))
        loss = gan.discriminator_loss("bce", discriminator(real), discriminator(fake))
        values.append(-float(loss))
    return float(np.mean(values))


def search(net, loss_of, config, steps):
    """Take so many steps of Adam down a loss, `loss_of()`, with one network."""
    net.requires_grad_(True)
    optimiser = torch.optim.Adam(net.parameters(), config.lr, (0.5, 0.999))
    for _ in range(steps):
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def duality_gap(history, training, unseen, steps=100):
    """Duality gap in nats (Grnarova et al., arXiv 1811.05512), 0 at an equilibrium.

    max_D' V(G, D') - min_G' V(G', D): what either network could still win against the other one
    as it stands. Both searches start at the trained weights and take `steps` steps of Adam on
    training pieces; the values are measured on unseen ones. G' is searched for with the
    non-saturating loss, which falls where V falls and does not starve the search.
    """
    config = history.config
    rng = np.random.default_rng(0)
    z_rng = torch.Generator().manual_seed(0)

    def fakes(generator):
        return generator(*generator.latents(config.batch_size, config.frames, z_rng))

    def loss_d():
        fake = fakes(generator)
        real, _ = training.draw(config.batch_size, rng)
        return gan.discriminator_loss("bce", discriminator(real), discriminator(fake))

    def loss_g():
        return gan.generator_loss("bce", None, discriminator(fakes(generator)))

    values = []
    for loss_of in (loss_d, loss_g):
        generator = deepcopy(history.generator).train().requires_grad_(False)
        discriminator = deepcopy(history.discriminator).train().requires_grad_(False)
        net = discriminator if loss_of is loss_d else generator
        search(net, loss_of, config, steps)
        values.append(game_value(generator, discriminator, config, unseen, rng))
    best_of_d, best_of_g = values
    return best_of_d - best_of_g


def whole(history, judges, training, unseen):
    """Rhythm and memory of 40 pieces of 24 s, and whether the networks know pieces by heart."""
    config = history.config
    generator = history.generator
    pieces = gan.sample(generator, 40, 646, seed=5, batch=10)
    found = Music.piece_measures(pieces[:, 0, :, 64:582].numpy())
    few = min(len(training.clips), len(unseen.clips))
    seen, _ = training.some(few).draw(2000, np.random.default_rng(1))
    new, _ = unseen.some(few).draw(2000, np.random.default_rng(1))
    # G normalises by the batch here, as in training
    trained = deepcopy(generator).train()
    fake = gan.sample(trained, 960, config.frames, seed=5, batch=32)
    logits = [gan.mean_logit(history.discriminator, x[:960]) for x in (seen, new, fake)]
    of_seen, of_new, of_fake = logits
    found["copies/unseen_logit"] = (of_new - of_fake) / (of_seen - of_fake)
    fake = gan.sample(generator, 960, config.frames, seed=5)
    described = [judges.describe(x)["quality/frechet"] for x in (seen, new, fake)]
    found["copies/nearest"] = gan.nearest_ratio(*described)
    found["size/generator"] = sum(weights.numel() for weights in generator.parameters())
    return found


# ---------------------------------------------------------------- recording

def thinned(values):
    """At most KEPT of some values, evenly spread."""
    every = math.ceil(len(values) / KEPT)
    return values[::every]


def settings_of(run, history, clips):
    """What is written about how a run was made, by name."""
    found = {}
    for name in ("made", "use", "music", "setting", "variant"):
        value = getattr(run, name)
        if value:                  # a line of the summary needs a value to be read back
            found[name] = value
    found["seconds"] = history.seconds
    found.update(dataclasses.asdict(history.config))
    found["clips"] = clips
    return {name: str(value) for name, value in found.items()}


def keep(run, history, clips, seen, path):
    """Write a run's settings and its scalars, thinned, and its samples where they are kept."""
    events = []
    for number, values in enumerate(history.scalars.values()):
        events += [(number, step, value) for step, value in thinned(values)]
    tag, step, value = zip(*events)
    kept = {"config": json.dumps(settings_of(run, history, clips)),
            "tags": list(history.scalars),
            "tag": np.array(tag, np.uint8),
            "step": np.array(step, np.int32),
            "value": np.array(value, np.float32)}
    if run.samples:
        kept["samples"] = seen
    with Music.atomic(path) as unfinished:
        np.savez_compressed(unfinished, **kept)


def write_events(folder):
    """Write every recorded training as a run for TensorBoard."""
    for path in sorted(RECORDED.glob("*.npz")):
        history = gan.read_recorded(path)
        with gan.SummaryWriter(str(Path(folder) / path.stem)) as writer:
            gan.write_settings(writer, history.config)
            for tag, values in history.scalars.items():
                for step, value in values:
                    writer.add_scalar(tag, value, step)
        gan.close_run(writer, path.stem)


def report(run, history):
    """One line: what became of a run."""
    found = [f"{run.name:34} {history.seconds:4.0f} s"]
    for tag in history.scalars:
        kind, _, name = tag.partition("/")
        if kind == "quality":
            found.append(f"{name} {history.last(tag):.3f}")
    return "  ".join(found)


def record(run, prepared):
    """Train one run and keep it, unless it is there; `prepared` gives what a music needs."""
    path = RECORDED / f"{run.name}.npz"
    if path.exists():
        return
    training, unseen, judges = prepared(run.music)
    patches = training.some(len(training.clips) // 10) if run.few else training
    seen = []

    def measure(generator):
        codes = gan.sample(generator, 4, run.config.frames, seed=7)[:, 0]
        seen.append(as_bytes(codes))
        return judges.quick(generator)

    history = gan.train(run.config, patches, measure=measure, views=5, progress=False)
    last = {}
    if run.gap:
        last["quality/duality_gap"] = duality_gap(history, patches, unseen)
    if run.use in ("generators", "size"):
        last.update(whole(history, judges, patches, unseen))
    for tag, value in last.items():
        history.scalars[tag] = [(run.config.steps, value)]
    keep(run, history, len(patches.clips), np.stack(seen), path)
    print(report(run, history), flush=True)


def main(options):
    """Record the runs that were asked for, or write the recorded ones for TensorBoard."""
    if options.events:
        write_events(options.events)
        return
    common.use_one_thread()
    runs = all_runs()
    if not options.music:
        runs = [run for run in runs if run.music == "scores"]
    runs = common.own_share(runs, options)
    if options.list:
        for run in runs:
            print(f"{run.name}: {run.made}")
        return

    @functools.cache
    def prepared(music):
        if music == "music":
            return prepare(options.music)
        return prepare(Music.render_scores(options.scores))

    for run in runs:
        record(run, prepared)


if __name__ == "__main__":
    main(common.command_line(__doc__, "--scores", "--music", "--worker", "--of", "--only",
                             "--list", "--events").parse_args())
