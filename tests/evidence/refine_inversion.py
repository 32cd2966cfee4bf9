"""Does a critic improve the learned inversion? Trains on from the shipped weights, and compares.

    python tests/evidence/refine_inversion.py music [--steps 520] [--clips 18]

A critic sees patches of log-magnitudes, true and guessed, beside what the bands alone say; its
score joins the losses of `train_inversion.py`, and the data are the same. Both weights are then
measured, as `benchmark_inversion.py` does, on the same clips of tracks that neither has seen.
Writes `refined.npz` to `--work`, and the comparison to `runs/recorded/inversion/refined.json`.
"""

from pathlib import Path

import benchmark_inversion  # first: it puts the project on the path
import torch
import train_inversion
from common import ROOT, command_line, rounded, write_json
from networks import State, plain_weights, write_weights
from torch import nn
from torch.nn import functional
from train_inversion import LOG_FOOT, OUT, Examples, Inversion, Music16, doubled, losses

import Music

RATE = 2e-4                 # of the network: a seventh of that in its training
CRITICS_RATE = 4e-4
CRITICS_BETAS = (0.5, 0.9)
CRITICS_WEIGHTS = {"loss/critic": 0.1, "loss/features": 0.5}    # beside those of the losses
LAYERS = ((2, 16, (1, 2)), (16, 32, (1, 2)), (32, 32, (2, 2)), (32, 32, (1, 2)))


# ---------------------------------------------------------------- the critic

class Critic(nn.Module):
    """Judges patches of log-magnitudes (b, t, bins), beside what the bands alone say of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList()
        for seen, told, stride in LAYERS:
            layer = nn.Conv2d(seen, told, (3, 5), stride, padding=(1, 2))
            self.layers.append(nn.utils.parametrizations.weight_norm(layer))
        self.last = nn.Conv2d(told, 1, 3, padding=1)

    def forward(self, log_size, base):
        """Scores of the patches, and what each layer tells the next."""
        x = torch.stack([log_size, base], 1) / 3
        told = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            told.append(x)
        return self.last(x), told


def critics_loss(critic, true, made, base):
    """What the critic minimises: a hinge (Lim and Ye, 2017)."""
    real, _ = critic(true, base)
    fake, _ = critic(made.detach(), base)
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def losses_by_critic(critic, true, made, base):
    """What the network minimises besides: less of a score, and how far the layers tell apart."""
    with torch.no_grad():
        _, wanted = critic(true, base)
    score, told = critic(made, base)
    apart = [functional.l1_loss(*pair) for pair in zip(told, wanted)]
    return {"loss/critic": -score.mean(), "loss/features": sum(apart)}


# ---------------------------------------------------------------- training

class Refinement:
    """The shipped network in training against a critic."""

    def __init__(self, steps, seed=0):
        torch.manual_seed(seed)
        net = Inversion()
        shipped = Music.inversion_weights().items()
        net.load_state_dict({name: torch.tensor(value) for name, value in shipped})
        self.steps = steps
        self.state = State(net, RATE, longest=0.99)
        self.critic = Critic()
        self.optimiser = torch.optim.Adam(self.critic.parameters(), CRITICS_RATE, CRITICS_BETAS)

    def learn(self, code, size):
        """A step of the critic and one of the network; returns the losses of both."""
        net = self.state.net
        with torch.autocast("cpu", dtype=torch.bfloat16):
            log_size = net(code).float()
            guess = torch.exp(log_size.clamp(max=8))
            # every other excerpt, of all sources, is enough for the critic
            true = torch.log(size + LOG_FOOT)[::2]
            made = torch.log(guess + LOG_FOOT)[::2]
            base = doubled(net.base(code))[::2].float()
            own = critics_loss(self.critic, true, made, base)
            self.optimiser.zero_grad(set_to_none=True)
            own.backward()
            self.optimiser.step()
            found = losses(log_size, size) | losses_by_critic(self.critic, true, made, base)
        weights = train_inversion.WEIGHTS | CRITICS_WEIGHTS
        total = sum(weight * found[tag] for tag, weight in weights.items())
        self.state.learn(total, self.steps)
        return found | {"critic": own}


def refine(sources, steps, path, seed=0):
    """Go on from the shipped weights for so many steps; writes weights of 8 bits."""
    refinement = Refinement(steps, seed)
    examples = Examples(sources, seed)
    state = refinement.state
    while state.step < steps:
        found = refinement.learn(*examples.draw())
        if state.step % 50 == 0:
            shown = ", ".join(f"{tag} {value.item():.3f}" for tag, value in found.items())
            print(f"{state.step} steps: {shown}", flush=True)
    write_weights(path, plain_weights(state.average.state_dict()))


# ---------------------------------------------------------------- comparison

def measured(examples, weights):
    """Means of the measures with the weights of a file, and those of the worst sub-folder."""
    Music.INVERSION = weights
    Music.inversion_weights.cache_clear()
    rows = []
    for example in examples:
        rows.append(benchmark_inversion.measure(example, benchmark_inversion.learned))
    found = benchmark_inversion.means_of(rows)
    del found["speed"]    # the weights are as many
    for measure in ("convergence", "onsets"):
        means = benchmark_inversion.by_label(examples, rows, measure)
        found[f"{measure} of the worst"] = min(means.values())
    return found


def compare(folders, shipped, refined, clips):
    """Both weights on held-out clips of folders `{name: path}`."""
    found = {}
    for name, folder in folders.items():
        examples = benchmark_inversion.held_out_examples(folder, clips)
        found[name] = {"clips": len(examples)}
        for which, weights in (("shipped", shipped), ("refined", refined)):
            found[name][which] = measured(examples, weights)
            print(name, which, rounded(found[name][which]), flush=True)
    return found


def main():
    parser = command_line(__doc__)
    parser.add_argument("music", type=Path)
    parser.add_argument("--scores", type=Path, default=ROOT / "data" / "scores-clean")
    parser.add_argument("--pieces", type=int, default=200)
    parser.add_argument("--steps", type=int, default=520)
    parser.add_argument("--clips", type=int, default=18)
    parser.add_argument("--work", type=Path, default=ROOT / "checkpoints" / "inversion")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores = Music.render_scores(options.scores, options.pieces, None)
    folders = {"rendered scores": scores, "recorded music": options.music}
    refined = options.work / "refined.npz"
    sources = [Music16(name, folder) for name, folder in folders.items()]
    refine(sources, options.steps, refined)
    found = compare(folders, Music.INVERSION, refined, options.clips)
    write_json(OUT / "refined.json", rounded({"steps": options.steps, **found}))


if __name__ == "__main__":
    main()
