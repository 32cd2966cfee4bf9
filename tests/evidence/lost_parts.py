"""Generators and judges that lost, as small subclasses of the notebook's networks.

`register` puts them where the notebook's `Config` finds them by name. Importing this file
registers nothing.
"""

import dataclasses
import functools
from copy import deepcopy

import torch
from common import gan
from torch import nn
from torch.nn.functional import relu


def register(eyes=None):
    """Let `Config` ask for the parts that lost; `eyes` is the classifier that "projected" needs.

    It must not be the classifier that quality is measured with. Calling it again changes the
    eyes alone.
    """
    gan.GENERATORS.update(GENERATORS)
    gan.JUDGES.update(JUDGES)
    gan.JUDGES["projected"] = functools.partial(ProjectedDiscriminator, eyes=eyes)


# ---------------------------------------------------------------- generators

class RecurrentGenerator(nn.Module):
    """Latents to codes by a GRU alone: each of its steps emits 4 frames of all bands.

    The simplest recurrent generator, (B, 1, n_mels, 4 T) from T events, for comparison: what
    it lacks beside the notebook's is the picture on top of the recurrent trunk.
    """

    STRIDE = 4
    latents = gan.draw_latents

    def __init__(self, config):
        super().__init__()
        self.config = config
        hidden = 8 * config.generator_width
        style_dim = config.style_dim + len(config.classes)
        self.style = nn.Linear(style_dim, hidden)
        self.start = nn.Linear(style_dim, 2 * hidden)
        self.gru = nn.GRU(hidden + config.event_dim, hidden, num_layers=2, batch_first=True)
        self.head = nn.Sequential(
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 3, padding=1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.ConvTranspose1d(hidden, config.n_mels, 8, stride=4, padding=2),
            nn.Tanh(),
        )
        self.head.apply(gan.initialise)

    def forward(self, style, events):
        steps = events.transpose(1, 2)                             # (B, T, event_dim)
        known = self.style(style)[:, None]
        known = known.expand(-1, steps.shape[1], -1)               # (B, T, hidden)
        start = torch.tanh(self.start(style))
        start = start.unflatten(1, (2, -1)).transpose(0, 1)        # (2, B, hidden)
        h, _ = self.gru(torch.cat([steps, known], 2), start.contiguous())
        bands = self.head(h.transpose(1, 2))                       # (B, n_mels, 4 T)
        return bands[:, None]


class HeldEvents(gan.TrunkGenerator):
    """White events, the first half of them held for four steps: the memory before `remember`."""

    def latents(self, n, frames, rng=None, kind=None):
        style, events = gan.draw_latents(self, n, frames, rng, kind)
        half = events.shape[1] // 2
        held = events[:, :half, ::4].repeat_interleave(4, 2)
        held = held[..., :events.shape[2]]
        return style, torch.cat([held, events[:, half:]], 1)


class Mapping(gan.TrunkGenerator):
    """The style goes through a network of two layers first (Karras 2019)."""

    WIDTH = 128

    def __init__(self, config):
        # a trunk whose style has WIDTH entries
        style_dim = self.WIDTH - len(config.classes)
        super().__init__(dataclasses.replace(config, style_dim=style_dim))
        self.config = config
        layers = []
        for size in (config.style_dim + len(config.classes), self.WIDTH):
            linear = nn.Linear(size, self.WIDTH)
            # N(0, 0.02) as elsewhere would leave next to nothing of the style
            nn.init.kaiming_normal_(linear.weight, 0.2)
            nn.init.zeros_(linear.bias)
            layers.append(linear)
            layers.append(nn.LeakyReLU(0.2))
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
        h = self.rise(super().forward(style, events))
        return relu(self.norm(h, style))


class Rows64(HeldEvents):
    """The trunk goes on to 64 rows, and only one block is a picture."""

    def __init__(self, config):
        super().__init__(config)
        hidden = 8 * config.generator_width
        style_dim = config.style_dim + len(config.classes)
        self.bottom = 64
        self.trunk = RisenTrunk(config, style_dim, hidden)
        self.rows = nn.Conv1d(hidden, config.generator_width * self.bottom, 1)
        self.norms = self.norms[1:]
        self.ups = self.ups[1:]
        self.apply(gan.initialise)


class Levelled(gan.Modulated):
    """Modulated BatchNorm before which the style sets a level for each row."""

    def __init__(self, channels, rows, style_dim, modulated):
        super().__init__(nn.BatchNorm2d(channels), style_dim, modulated)
        self.levels = nn.Linear(style_dim, channels * rows)
        self.apply(gan.initialise)

    def forward(self, x, style):
        levels = self.levels(style)
        levels = levels.unflatten(1, (x.shape[1], -1))             # (B, channels, rows)
        return super().forward(x + levels[..., None], style)


class Levels64(Mapping):
    """With a mapping network; the style also sets the levels of the picture's 64 rows."""

    def __init__(self, config):
        super().__init__(config)
        self.norms[1] = Levelled(config.generator_width, 64, self.WIDTH, config.modulated)


# ---------------------------------------------------------------- judges

class PlaceDiscriminator(gan.PictureDiscriminator):
    """The picture judge, told the height of each row."""

    def __init__(self, config):
        super().__init__(dataclasses.replace(config, pack=config.pack + 1))

    def forward(self, x, kind=None):
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
        height = rows[:, None].expand_as(x[:, :1])
        return super().forward(torch.cat([x, height], 1), kind)


class SpreadDiscriminator(gan.PictureDiscriminator):
    """The picture judge, told how much its features spread in the batch (Karras 2018)."""

    def __init__(self, config):
        super().__init__(config)
        features = self.head.shared.in_features
        self.head = gan.Head(features + 1, config)

    def forward(self, x, kind=None):
        h = self.layers(x).flatten(1)
        variance = h.float().var(0)
        spread = (variance + 1e-8).sqrt().mean()
        spread = spread.expand(len(h), 1).to(h.dtype)
        return self.head(torch.cat([h, spread], 1), kind)


class WideBands(gan.BandsDiscriminator):
    """The bands judge, half as wide again."""

    def __init__(self, config):
        wider = int(1.5 * config.discriminator_width)
        super().__init__(dataclasses.replace(config, discriminator_width=wider))


class ProjectedDiscriminator(nn.Module):
    """Judge what a frozen classifier (`eyes`) sees, at three scales (Sauer 2021)."""

    LAYERS = 3         # convolution, BatchNorm and ReLU of each block of the classifier

    def __init__(self, config, eyes):
        super().__init__()
        if eyes is None:
            raise ValueError("the projected judge needs a classifier: register(eyes=...)")
        self.frozen = [deepcopy(eyes).requires_grad_(False)]       # a list hides its weights
        self.scales = nn.ModuleList()
        for channels, stride in ((32, 2), (64, 2), (64, 1)):
            self.scales.append(self.scale(channels, stride))
        self.apply(gan.initialise)
        cells = config.n_mels * config.frames // 256               # at the first scale
        quarter = cells // 4                                       # at each of the others
        self.head = gan.Head(64 * (cells + quarter + quarter), config)
        gan.initialise(self.head.shared)

    @staticmethod
    def scale(channels, stride):
        """Two convolutions, which end at half the size or at a quarter."""
        return nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=stride, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x, kind=None):
        layers = self.frozen[0].to(x.device).layers
        seen = []
        for start in range(0, len(layers), self.LAYERS):
            x = layers[start:start + self.LAYERS](x)
            seen.append(x)
        found = []
        for scale, features in zip(self.scales, seen[1:]):
            found.append(scale(features).flatten(1))
        return self.head(torch.cat(found, 1), kind)


GENERATORS = {
    "recurrent": RecurrentGenerator,
    "held": HeldEvents,
    "mapping": Mapping,
    "held, mapping": HeldMapping,
    "64 rows": Rows64,
    "64 levels": Levels64,
}
JUDGES = {
    "place": PlaceDiscriminator,
    "spread": SpreadDiscriminator,
    "wide bands": WideBands,
}
