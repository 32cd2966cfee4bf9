"""What the networks behind Music.py share: a block, a schedule, a file of weights."""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import Music

REACH = 3       # frames to either side that a block sees, times its dilation


class Block(nn.Module):
    """A residual block over time (ConvNeXt in one dimension) of rows (b, t, width)."""

    def __init__(self, width, hidden, dilation, activation):
        super().__init__()
        self.dilation = dilation
        self.activation = activation
        taps = 2 * REACH + 1
        self.taps = nn.Parameter(torch.randn(taps, width) / math.sqrt(taps))
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.2))

    def forward(self, x):
        t = x.shape[1]
        reach = REACH * self.dilation
        padded = functional.pad(x, (0, 0, reach, reach))
        near = 0
        for k, tap in enumerate(self.taps):
            first = k * self.dilation
            near = near + tap * padded[:, first:first + t]
        hidden = self.activation(self.up(self.norm(near)))
        return x + self.scale * self.down(hidden)


def rate_at(step, steps, rate):
    """Warm-up over 3 % of the training, then a cosine down to 2 % of the rate."""
    done = step / steps
    cosine = (1 + math.cos(math.pi * done)) / 2
    return rate * min(1, done / 0.03 + 1e-3) * (0.02 + 0.98 * cosine)


class State:
    """A network in training, the average of its weights, and all that is needed to go on."""

    def __init__(self, net, rate, longest=0.999):
        self.net = net
        self.rate = rate
        self.longest = longest      # share of the average that a step keeps, in the end
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(net.parameters(), rate, betas=(0.9, 0.98),
                                           weight_decay=1e-3)
        self.step = 0

    def parts(self):
        return {"net": self.net, "average": self.average, "optimiser": self.optimiser}

    def save(self, path):
        kept = {name: part.state_dict() for name, part in self.parts().items()}
        with Music.atomic(path) as unfinished:
            torch.save({**kept, "step": self.step}, unfinished)

    def load(self, path):
        kept = torch.load(path, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(kept[name])
        self.step = kept["step"]

    def learn(self, loss, steps):
        """A step down the gradient of a loss, of a training of so many steps."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.step, steps, self.rate)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        share = 1 - min(self.longest, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.net.parameters()):
                mean.lerp_(now, share)


def plain_weights(state):
    """Arrays by name for a file without pickles: matrices of 8 bits, the rest of 16.

    Each row of a matrix has its own unit, that of its largest weight's 127th part.
    """
    weights = {}
    for name, value in state.items():
        value = value.numpy()
        if value.ndim < 2:
            weights[name] = value.astype(np.float16)
            continue
        unit = np.abs(value).max(1, keepdims=True) / 127
        weights[name] = np.round(value / unit).astype(np.int8)
        weights[f"{name}.unit"] = unit.astype(np.float32)
    return weights


def write_weights(path, weights):
    """Keep arrays in a file without pickles, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Music.atomic(path) as unfinished:
        np.savez(unfinished, **weights)
