"""Record the trainings on which the notebook's section about failures stands.

    python tests/evidence/record_failures.py [--scores folder] [--music folder] [--worker 0 --of 1]
                                    [--only text] [--list]

Each run is about two minutes of one thread, and is kept under `runs/recorded/failures` as soon
as it is done, so that a run of this script that was stopped goes on where it was. Two workers
(`--worker 0 --of 2` and `--worker 1 --of 2`) share the list. The trainings are by the notebook's
code, of an earlier recipe, narrow. `--scores` is the embedded default (rendered where it is
missing), `--music` a folder of recorded music for the runs named `*-music-*`, left out without it.

What is kept of a run: the scalars that its training recorded, thinned to about 100 values each;
`quality/*` and `share/*`, measured five times on 1,000 patches, which `diagnose` never reads; the
setting; of one run of each setting four samples at each of the five times; of a dozen unseen runs
the duality gap; and of those compared side by side rhythm, memory and copies (`whole`).
"""

import argparse
import dataclasses
import functools
import os
import shutil
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")     # two workers with two threads each would thrash

import numpy as np
import torch
from helpers import ROOT
from notebook_definitions import load
from torch import nn

import Music
import Quality

gan = load("HW_04_music_gan")
RECORDED = ROOT / "runs" / "recorded" / "failures"
# an earlier recipe than the notebook's, narrow: a picture generator (or a GRU alone) that cannot
# be asked for a repertoire
NARROW = {"steps": 1000, "generator_width": 16, "discriminator_width": 8,
          "generator": "convolutional", "modulated": False, "discriminators": ("picture", "bands"),
          "r1_gamma": 0.02, "betas": (0.5, 0.999)}
KEPT = 100            # values of a scalar that are kept


class RecurrentGenerator(nn.Module):
    """Latents to codes by a GRU alone: each of its steps emits 4 frames of all bands.

    The simplest recurrent generator, (B, 1, n_mels, 4 T) from T events, here for comparison: what
    it lacks beside the notebook's is the picture on top of the recurrent trunk.
    """

    STRIDE = 4

    def __init__(self, config):
        super().__init__()
        self.config, hidden, event_dim = config, 8 * config.generator_width, config.event_dim
        style_dim, n_mels = config.style_dim + len(config.classes), config.n_mels
        self.style = nn.Linear(style_dim, hidden)
        self.start = nn.Linear(style_dim, 2 * hidden)
        self.gru = nn.GRU(hidden + event_dim, hidden, num_layers=2, batch_first=True)
        self.head = nn.Sequential(
            nn.BatchNorm1d(hidden), nn.ReLU(), nn.Conv1d(hidden, hidden, 3, padding=1, bias=False),
            nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.ConvTranspose1d(hidden, n_mels, 8, stride=4, padding=2), nn.Tanh())
        self.head.apply(gan.initialise)

    def latents(self, n, frames, rng=None, kind=None):
        return gan.draw_latents(self, n, frames, rng, kind)

    def forward(self, style, events):
        steps = events.transpose(1, 2)                                     # (B, T, event_dim)
        known = self.style(style)[:, None].expand(-1, steps.shape[1], -1)     # (B, T, hidden)
        start = torch.tanh(self.start(style)).unflatten(1, (2, -1)).transpose(0, 1)
        h, _ = self.gru(torch.cat([steps, known], 2), start.contiguous())     # (B, T, hidden)
        return self.head(h.transpose(1, 2))[:, None]                       # (B, 1, 128, 4T)


gan.GENERATORS["recurrent"] = RecurrentGenerator


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: how it was made, and on what."""

    name: str
    made: str         # what its setting is known to do: one of the verdicts
    use: str          # "cure": in the tables; "derive": thresholds; "unseen": error rate;
                      # "generators", "size", "ablation": side by side
    changes: dict
    music: str = "scores"
    few: bool = False  # a tenth of the clips to train on

    @property
    def gap(self):
        """Whether the duality gap is measured: of a dozen runs."""
        return self.name.endswith(("-seed-c", "-seed-d"))

    @property
    def config(self):
        return gan.Config(**{**NARROW, **self.changes, "name": self.name, "device": "cpu"})


def kept_classifier(path, training, classes, seed=0):
    """The classifier in a file, trained and put there where it is missing."""
    if not path.exists():
        net = gan.train_classifier(training, training.target, classes, seed=seed)
        with Music.atomic(path) as part:
            torch.save(net.state_dict(), part)
    net = gan.Classifier(classes)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net.eval()


def prepare(folder):
    """Patches to train on, unseen ones, and judges, whose classifier is kept in the folder."""
    coded = Music.get_musics_coded(folder)
    labels = np.array(coded.labels)
    names = sorted(set(labels))
    target = np.array([names.index(k) for k in labels])
    training, unseen = (gan.Patches(coded.codes, clips, target=target)
                        for clips in gan.split_by_piece(coded))
    classifier = kept_classifier(Path(folder) / ".classifier.pt", training, len(names))
    return training, unseen, gan.Judges(training, unseen, classifier, names, n=1000)


def keep(run, history, extra, seen, folder):
    """Write a run's scalars, thinned, as a TensorBoard run without host or process names."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    writer = gan.SummaryWriter(str(part))
    setting = {"made": run.made, "use": run.use, "music": run.music, "seconds": history.seconds,
               **dataclasses.asdict(history.config), **extra}
    writer.add_text("config", "\n".join(f"    {k} = {v}" for k, v in setting.items()))
    for tag, values in history.scalars.items():
        for step, value in values[::-(-len(values) // KEPT)]:
            writer.add_scalar(tag, value, step)
    gan.close_run(writer, "scalars")
    if run.name in WITH_SAMPLES:
        np.savez_compressed(part / "samples.npz", samples=seen)
    part.rename(folder)


@torch.no_grad()
def game_value(generator, discriminator, config, patches, rng, batches=10):
    """V(G, D) = E log sigmoid(D(x)) + E log(1 - sigmoid(D(G(z)))) in nats, on fresh batches."""
    z_rng, values = torch.Generator().manual_seed(1), []
    for _ in range(batches):
        real, _ = patches.draw(config.batch_size, rng)
        fake = generator(*generator.latents(config.batch_size, config.frames, z_rng))
        loss = gan.discriminator_loss("bce", discriminator(real), discriminator(fake))
        values.append(-float(loss))
    return float(np.mean(values))


def duality_gap(history, training, unseen, steps=100):
    """Duality gap in nats (Grnarova et al., arXiv 1811.05512), 0 at an equilibrium.

    max_D' V(G, D') - min_G' V(G', D): what either network could still win against the other one
    as it stands. Both searches start at the trained weights and take `steps` steps of Adam on
    training pieces; the values are measured on unseen ones. G' is searched for with the
    non-saturating loss, which falls where V falls and does not starve the search.
    """
    config, rng = history.config, np.random.default_rng(0)
    z_rng = torch.Generator().manual_seed(0)
    values = []
    for search_d in True, False:
        G, D = (deepcopy(net).train() for net in (history.generator, history.discriminator))
        net, other = (D, G) if search_d else (G, D)
        other.requires_grad_(False), net.requires_grad_(True)
        optimiser = torch.optim.Adam(net.parameters(), config.lr, (0.5, 0.999))
        for _ in range(steps):
            fake = G(*G.latents(config.batch_size, config.frames, z_rng))
            if search_d:
                real, _ = training.draw(config.batch_size, rng)
                loss = gan.discriminator_loss("bce", D(real), D(fake))
            else:
                loss = gan.generator_loss("bce", None, D(fake))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        values.append(game_value(G, D, config, unseen, rng))
    return values[0] - values[1]


def whole(history, judges, training, unseen):
    """Rhythm and memory of 40 pieces of 24 s, and whether the networks know pieces by heart."""
    config, generator = history.config, history.generator
    pieces = gan.sample(generator, 40, 646, seed=5, batch=10)[:, 0, :, 64:582].numpy()
    few = min(len(training.clips), len(unseen.clips))
    seen, new = (patches.some(few).draw(2000, np.random.default_rng(1))[0]
                 for patches in (training, unseen))
    # G normalises by the batch here, as in training
    fake = gan.sample(deepcopy(generator).train(), 960, config.frames, seed=5, batch=32)
    a, b, c = (gan.mean_logit(history.discriminator, x[:960]) for x in (seen, new, fake))
    fake = gan.sample(generator, 960, config.frames, seed=5)
    return {**Music.piece_measures(pieces), "copies/unseen_logit": (b - c) / (a - c),
            "copies/nearest": Quality.nearest_ratio(*(
                judges.describe(x)["quality/frechet"] for x in (fake, seen, new))),
            "size/generator": sum(p.numel() for p in generator.parameters())}


def record(run, prepared):
    """Train one run and keep it, unless it is there; `prepared` gives what a music needs."""
    folder = RECORDED / run.name
    if folder.exists():
        return
    training, unseen, judges = prepared(run.music)
    patches = training.some(len(training.clips) // 10) if run.few else training
    seen = []

    def measure(generator):
        codes = gan.sample(generator, 4, run.config.frames, seed=7)[:, 0].numpy()
        seen.append(np.round((codes + 1) * 127.5).astype(np.uint8))
        return judges.quick(generator)

    history = gan.train(run.config, patches, measure=measure, views=5, progress=False)
    if run.gap:
        history.scalars["quality/duality_gap"] = [
            (run.config.steps, duality_gap(history, patches, unseen))]
    if run.use in ("generators", "size"):
        for tag, value in whole(history, judges, patches, unseen).items():
            history.scalars[tag] = [(run.config.steps, value)]
    keep(run, history, {"clips": len(patches.clips)}, np.stack(seen), folder)
    print(f"{run.name:34} {history.seconds:4.0f} s  "
          + "  ".join(f"{t.split('/')[1]} {history.last(t):.3f}" for t in history.scalars
                      if t.startswith("quality")), flush=True)


# the plain recipe with the first two judges, narrow: every failure below is one setting away
PLAIN = {"steps": 400, "loss": "bce", "r1_gamma": 0.0, "average": 0.0, "lr_end": 1.0}
# a Wasserstein pair needs a D without BatchNorm, which would hide its growth
WGAN = {**PLAIN, "loss": "wasserstein", "discriminator_norm": False}
SETTINGS = {
    "plain": ("healthy", PLAIN),
    "modern": ("healthy", {"steps": 600}),
    "greedy": ("mode collapse", {**PLAIN, "generator_steps": 10, "steps": 120}),
    "minimax": ("diminished gradient", {**PLAIN, "loss": "minimax"}),
    "momentum": ("non-convergence", {**PLAIN, "betas": (0.9, 0.999)}),
    "unbounded": ("non-convergence", WGAN),
}
CURES = {
    "plain": {"no-norm": {"discriminator_norm": False}},   # what `unbounded` also changes
    "greedy": {"pack-4": {"pack": 4}, "faster-D": {"lr_ratio": 0.25}},
    "minimax": {"R1": {"r1_gamma": 0.02}, "noise": {"input_noise": 0.3}},
    "momentum": {"R1": {"r1_gamma": 0.02}, "average": {"average": 0.05},
                 "slower-G": {"lr_ratio": 0.25}, "no-momentum": {"betas": (0.0, 0.999)}},
    "unbounded": {"R1": {"r1_gamma": 10.0, "r1_every": 4},
                  "R1-no-momentum": {"r1_gamma": 10.0, "r1_every": 4, "betas": (0.0, 0.9)}},
}
GRU = {"generator": "recurrent"}
# one part of that modern recipe taken back at a time
ABLATIONS = {
    "one-judge": {"discriminators": ("picture",)}, "not-relativistic": {"loss": "bce"},
    "no-R1": {"r1_gamma": 0.0}, "no-average": {"average": 0.0}, "constant-lr": {"lr_end": 1.0},
    "no-rows": {"rows": False},
}
# the limits of `diagnose` were set on these and on three seeds of each setting ...
KNOWN = {
    "seed-a": {"seed": 11}, "seed-b": {"seed": 12},
    "slim": {"seed": 13, "generator_width": 12, "discriminator_width": 6},
    "wide": {"seed": 14, "generator_width": 24, "discriminator_width": 12},
    "slow": {"seed": 15, "lr": 2e-4}, "fast": {"seed": 16, "lr": 6e-4},
    "gru-a": {"seed": 17, **GRU}, "gru-b": {"seed": 18, **GRU},
    "music-a": {"seed": 19}, "music-b": {"seed": 20},
}
# ... and then frozen, before the scalars of any of these were read
UNSEEN = {
    "seed-c": {"seed": 31}, "seed-d": {"seed": 32},
    "slimmer": {"seed": 33, "generator_width": 10, "discriminator_width": 5},
    "wider": {"seed": 34, "generator_width": 20, "discriminator_width": 10},
    "slower": {"seed": 35, "lr": 2.5e-4}, "faster": {"seed": 36, "lr": 5.5e-4},
    "gru-c": {"seed": 37, **GRU}, "gru-d": {"seed": 38, **GRU},
    "music-c": {"seed": 39}, "music-d": {"seed": 40},
}
WITH_SAMPLES = [f"{name}-0" for name in SETTINGS]


def all_runs():
    """Every run, those that thresholds are derived from first."""
    runs = [Run(f"{name}-{seed}", made, "derive", {**setting, "seed": seed})
            for seed in range(3) for name, (made, setting) in SETTINGS.items()]
    runs += [Run(f"{name}-{cure}-{seed}", "cure", "cure", {**SETTINGS[name][1], **change,
                                                           "seed": seed})
             for seed in range(3) for name, cures in CURES.items()
             for cure, change in cures.items()]
    runs += [Run(f"{name}-{variant}", made, use, {**setting, **change},
                 "music" if variant.startswith("music") else "scores")
             for use, variants in (("derive", KNOWN), ("unseen", UNSEEN))
             for variant, change in variants.items() for name, (made, setting) in SETTINGS.items()]
    longer = {"steps": 800}
    for seed in range(3):
        runs += [Run(f"convolutional-{seed}", "healthy", "generators", {**longer, "seed": seed}),
                 Run(f"recurrent-{seed}", "healthy", "generators",
                     {**longer, **GRU, "seed": seed}),
                 Run(f"standard-{seed}", "healthy", "size", {"steps": 600, "seed": seed}),
                 Run(f"twice-as-wide-{seed}", "healthy", "size", {
                     "steps": 600, "generator_width": 32, "discriminator_width": 16, "seed": seed}),
                 Run(f"tenth-of-pieces-{seed}", "healthy", "size", {"steps": 600, "seed": seed},
                     few=True)]
    return runs + [Run(f"modern-{name}-{seed}", "healthy", "ablation",
                       {**SETTINGS["modern"][1], **change, "seed": seed})
                   for seed in range(3) for name, change in ABLATIONS.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", type=Path, default=ROOT / "data" / "scores-500")
    parser.add_argument("--music", type=Path)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [run for run in all_runs() if options.only in run.name
              and (run.music == "scores" or options.music)][options.worker::options.of]
    if options.list:
        print(*(f"{run.name}: {run.made}" for run in chosen), sep="\n")
        raise SystemExit

    @functools.cache
    def prepared(music):
        return prepare(options.music if music == "music" else Music.render_scores(options.scores))

    for run in chosen:
        record(run, prepared)
