"""What the networks behind Music.py share: a block, a schedule, a file of weights."""

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


def set_rate(optimiser, rate):
    """Give all weights this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def follow(average, net, step, longest=0.999):
    """Move an average of weights towards those of the net: short at first, longer later."""
    share = 1 - min(longest, step / (step + 10))
    with torch.no_grad():
        for mean, now in zip(average.parameters(), net.parameters()):
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
