"""The gain of mel bands: its network, what it is trained on, its training (see `train_gain.py`)."""

from typing import NamedTuple

import numpy as np
import torch
from networks import Block, State, plain_weights
from torch import nn
from torch.nn import functional

import Music

WIDTH = 192
HIDDEN = 256
RATE = 2e-3
KEEP_EVERY = 250    # steps
DB_OF_E = 10 / np.log(10)   # what a factor of e in power is in dB
FOOT = 80           # dB below the clip's maximum under which errors do not count
SHIFTED = 8         # bands by which a mix is moved up or down, at most
JOINED = 0.4        # share of mixes that get a second piece of music
JITTER = 0.7        # dB, standard deviation of an error of the floor


# ---------------------------------------------------------------- mixes

class Mix(NamedTuple):
    """A clip with noise: dB of the bands, noisy and clean `(bands, t)`, and of the floor."""

    noisy: np.ndarray
    clean: np.ndarray
    floor: np.ndarray


class Mixes(NamedTuple):
    """Mixes of one source, float16 `(n, bands, t)` and float32 `(n, bands)`."""

    noisy: np.ndarray
    clean: np.ndarray
    floor: np.ndarray

    @classmethod
    def of(cls, mixes):
        """Join single mixes."""
        return cls(*[np.stack(part) for part in zip(*mixes)])


def decibels(power):
    """Power in dB, -120 at least."""
    return 10 * np.log10(np.maximum(power, 1e-12))


def mix_of(clean, noisy, frames):
    """The bands of a waveform with and without noise, or None where no floor is found."""
    filters = Music.mel_filters(Music.SR, Music.N_FFT, Music.N_MELS)
    power = Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH)
    floor = Music.pink_floor(power)
    if floor.presence == 0 or power.shape[1] < frames:
        return None
    noisy_db = decibels(filters @ power)[:, :frames]
    clean_db = decibels(Music.mel_spectrogram(clean))[:, :frames]
    floor_db = decibels(filters @ floor.power())[:, 0]
    return Mix(noisy_db.astype(np.float16), clean_db.astype(np.float16), floor_db)


def moved(x, bands):
    """Rows `(t, bands)` moved up by some bands, their edge repeated."""
    if bands == 0:
        return x
    if bands < 0:
        return moved(x.flip(1), -bands).flip(1)
    edge = x[:, :1].expand(-1, bands)
    return torch.cat([edge, x[:, :-bands]], 1)


def joined(first, second):
    """dB of the sum of two powers in dB."""
    return torch.logaddexp(first / DB_OF_E, second / DB_OF_E) * DB_OF_E


class Examples:
    """Draws batches `(b, t, bands)`: logarithm of power over the floor, dB of noisy, of clean.

    New music out of old: a second piece joins, softer by up to 20 dB, and all bands move up or
    down. The floor is off by as much as an estimate is.
    """

    def __init__(self, mixes, share, seed):
        self.mixes = mixes
        self.share = share
        self.rng = np.random.default_rng(seed)

    def rows(self, part, at):
        """dB of some mixes `(b, t, bands)`."""
        return torch.from_numpy(part[at].astype(np.float32)).transpose(1, 2)

    def with_second(self, noisy, clean):
        """A second piece joins some of the mixes."""
        count = len(clean)
        others = self.rng.integers(len(self.mixes.clean), size=count)
        second = self.rows(self.mixes.clean, others)
        softer = torch.tensor(self.rng.uniform(-20, 0, (count, 1, 1)), dtype=torch.float32)
        level = clean.amax((1, 2), keepdim=True) - second.amax((1, 2), keepdim=True)
        second = second + level + softer
        chosen = torch.tensor(self.rng.random((count, 1, 1)) < JOINED)
        return (torch.where(chosen, joined(noisy, second), noisy),
                torch.where(chosen, joined(clean, second), clean))

    def jitter(self, count):
        """Errors of the floor in dB: of its level, and of its slope."""
        tilt = torch.linspace(-1, 1, Music.N_MELS)
        level = torch.tensor(self.rng.normal(0, JITTER, (count, 1, 1)), dtype=torch.float32)
        slope = torch.tensor(self.rng.normal(0, JITTER / 2, (count, 1, 1)), dtype=torch.float32)
        return level + slope * tilt

    def draw(self):
        at = self.rng.choice(len(self.mixes.clean), self.share, replace=False)
        noisy = self.rows(self.mixes.noisy, at)
        clean = self.rows(self.mixes.clean, at)
        noisy, clean = self.with_second(noisy, clean)
        floor = torch.from_numpy(self.mixes.floor[at])[:, None]
        steps = self.rng.integers(-SHIFTED, SHIFTED + 1, self.share).tolist()
        over = []
        for part in (noisy, clean):
            shifted = [moved(rows, bands) for rows, bands in zip(part - floor, steps)]
            over.append(torch.stack(shifted))
        noisy, clean = over
        log_ratio = (noisy - self.jitter(self.share)) / DB_OF_E
        return log_ratio, noisy + floor, clean + floor


# ---------------------------------------------------------------- the network

class BandGain(nn.Module):
    """Gain before the sigmoid `(b, t, bands)` of the logarithm of power over the floor.

    Each frame is seen whole, with those around it, and with quantiles of each band over the clip.
    """

    def __init__(self):
        super().__init__()
        seen = 1 + len(Music.SEEN_MEANS)
        self.embed = nn.Linear(seen * Music.N_MELS, WIDTH)
        self.clip = nn.Linear(len(Music.SEEN_QUANTILES) * Music.N_MELS, WIDTH, bias=False)
        self.blocks = nn.ModuleList(Block(WIDTH, HIDDEN, dilation, functional.relu)
                                    for dilation in Music.GAIN_DILATIONS)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, Music.N_MELS)
        self.own = nn.Parameter(torch.full((seen, Music.N_MELS), 0.3))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        for layer in (self.embed, self.clip):
            layer.weight.data /= 3      # logarithms of ratios are of this size

    def features(self, log_ratio):
        """What `Music.band_features` says, of rows `(b, t, bands)`."""
        ratio = torch.exp(log_ratio).transpose(1, 2)
        found = [ratio]
        for frames in Music.SEEN_MEANS:
            reach = frames // 2
            padded = functional.pad(ratio, (reach, reach), mode="replicate")
            found.append(functional.avg_pool1d(padded, frames, 1))
        return [torch.log(mean + Music.SEEN).transpose(1, 2) for mean in found]

    def forward(self, log_ratio):
        features = self.features(log_ratio)
        places = torch.tensor(Music.SEEN_QUANTILES)
        levels = torch.quantile(features[0], places, dim=1).transpose(0, 1)
        h = self.embed(torch.cat(features, 2)) + self.clip(levels.flatten(1))[:, None]
        for block in self.blocks:
            h = block(h)
        logit = self.head(self.norm(h))
        for feature, weight in zip(features, self.own):
            logit = logit + weight * feature
        return logit


# ---------------------------------------------------------------- training

def errors(logit, noisy, clean):
    """Root mean square error of each clip in dB."""
    foot = clean.amax((1, 2), keepdim=True) - FOOT
    removed = DB_OF_E * functional.softplus(-logit)
    error = torch.maximum(noisy - removed, foot) - torch.maximum(clean, foot)
    return error.square().mean((1, 2)).sqrt()


def fit(examples, steps, writer, checkpoint, seed=0):
    """Train the gain on what several `Examples` draw; returns its weights by name.

    Goes on from the checkpoint where it is there.
    """
    torch.manual_seed(seed)
    state = State(BandGain(), RATE, longest=0.995)
    if checkpoint.exists():
        state.load(checkpoint)
    while state.step < steps:
        drawn = [some.draw() for some in examples]
        log_ratio, noisy, clean = (torch.cat(parts) for parts in zip(*drawn))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logit = state.net(log_ratio)
        loss = errors(logit.float(), noisy, clean).mean()
        state.learn(loss, steps)
        if state.step % 20 == 0:
            writer.add_scalar("loss/bands", loss.item(), state.step)
        if state.step % KEEP_EVERY == 0 or state.step == steps:
            state.save(checkpoint)
            print(f"bands: {state.step} of {steps} steps, {loss.item():.2f} dB", flush=True)
    weights = plain_weights(state.average.state_dict())
    return {f"bands.{name}": value for name, value in weights.items()}
