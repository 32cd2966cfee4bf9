"""Search for the best recipe of a small budget.

    python tests/search_recipes.py ...
"""

import argparse
import dataclasses
import os
import time
from copy import deepcopy
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from notebook_definitions import load
from torch import nn

gan = load("HW_04_music_gan")


class Trunk(nn.Module):
    """Bands as channels over time, in steps of 4 frames, then a picture of the upper octaves."""

    STRIDE = 4
    DILATIONS = (1, 2, 4, 8)
    RECURRENT = False
    ROWS = 32
    TOPROWS = False
    OU = False
    MAPPING = False

    def __init__(self, config):
        super().__init__()
        self.config, self.width = config, config.generator_width
        style_dim, hidden, w = config.style_dim + len(config.classes), 8 * self.width, self.width
        self.mapping = None
        if self.MAPPING:
            self.mapping = nn.Sequential(nn.Linear(style_dim, 128), nn.LeakyReLU(0.2),
                                         nn.Linear(128, 128), nn.LeakyReLU(0.2))
            style_dim = 128
        self.style = nn.Linear(style_dim, hidden, bias=False)
        self.events = nn.Conv1d(config.event_dim, hidden, 5, padding=2, bias=False)
        if self.RECURRENT:
            self.gru = nn.GRU(hidden, hidden, batch_first=True)
            self.start = nn.Linear(style_dim, hidden)
        dil = self.DILATIONS[:2] if self.RECURRENT else self.DILATIONS
        self.norms = nn.ModuleList(gan.Modulated(nn.BatchNorm1d(hidden), style_dim,
                                                 config.modulated) for _ in range(len(dil) + 1))
        self.convs = nn.ModuleList(nn.Conv1d(hidden, hidden, 3, padding=d, dilation=d, bias=False)
                                   for d in dil)
        self.toprows = nn.Linear(style_dim, w * 64) if self.TOPROWS else None
        if self.ROWS == 32:
            self.rows = nn.Conv1d(hidden, 2 * w * 32, 1)
            channels = [2 * w, w, 1]
        else:
            self.rise = nn.ConvTranspose1d(hidden, hidden, 4, 2, 1, bias=False)
            self.rnorm = gan.Modulated(nn.BatchNorm1d(hidden), style_dim, config.modulated)
            self.rows = nn.Conv1d(hidden, w * 64, 1)
            channels = [w, 1]
        self.pnorms = nn.ModuleList(gan.Modulated(nn.BatchNorm2d(a), style_dim, config.modulated)
                                    for a in channels[:-1])
        self.ups = nn.ModuleList(gan.up(a, b) for a, b in zip(channels, channels[1:]))
        self.apply(gan.initialise)
        for m in self.mapping or ():
            if isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight, 0.2)
                nn.init.zeros_(m.bias)

    def latents(self, n, frames, rng=None, kind=None):
        style, events = gan.draw_latents(self, n, frames, rng, kind)
        if self.OU:
            t = events.shape[2]
            tau = torch.logspace(-1, 4.3, events.shape[1], 2.0)
            lag = (torch.arange(t)[:, None] - torch.arange(t)).abs()
            root = torch.linalg.cholesky(torch.exp(-lag[None] / tau[:, None, None]).double()).float()
            return style, torch.einsum("ets,nes->net", root.to(events), events)
        half = events.shape[1] // 2
        slow = events[:, :half, ::4].repeat_interleave(4, 2)[..., :events.shape[2]]
        return style, torch.cat([slow, events[:, half:]], 1)

    def forward(self, style, events):
        if self.mapping is not None:
            style = self.mapping(style)
        x = self.style(style)[:, :, None] + self.events(events)
        if self.RECURRENT:
            h, _ = self.gru(x.transpose(1, 2), torch.tanh(self.start(style))[None])
            x = h.transpose(1, 2)
        for norm, conv in zip(self.norms, self.convs):
            x = x + conv(F.relu(norm(x, style)))
        x = F.relu(self.norms[-1](x, style))
        if self.ROWS == 64:
            x = F.relu(self.rnorm(self.rise(x), style))
        h = self.rows(x).unflatten(1, (-1, self.ROWS))
        for norm, rise in zip(self.pnorms, self.ups):
            if self.toprows is not None and h.shape[2] == 64:
                h = h + self.toprows(style).unflatten(1, (-1, 64))[..., None]
            h = rise(F.relu(norm(h, style)))
        return torch.tanh(h)


class GRUTrunk(Trunk):
    RECURRENT = True


class Trunk64(Trunk):
    ROWS = 64


class TopTrunk(Trunk):
    TOPROWS = True


class FramesDiscriminator(nn.Module):
    """Judge frames one by one."""

    def __init__(self, config):
        super().__init__()
        width = 12 * config.discriminator_width
        self.layers = nn.Sequential(
            nn.Conv1d(config.n_mels, width, 1), nn.LeakyReLU(0.2),
            nn.Conv1d(width, width, 1, bias=False), nn.BatchNorm1d(width), nn.LeakyReLU(0.2))
        self.head = gan.Head(width, config)
        self.apply(gan.initialise)

    def forward(self, x, kind=None):
        return self.head(self.layers(x.flatten(1, 2)).mean(2), kind)


class PlaceDiscriminator(gan.PictureDiscriminator):
    """The picture judge, told the height of each row."""

    def __init__(self, config):
        super().__init__(dataclasses.replace(config, pack=2))

    def forward(self, x, kind=None):
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)[:, None]
        return self.head(self.layers(torch.cat([x, rows.expand_as(x)], 1)), kind)


class SpreadDiscriminator(gan.PictureDiscriminator):
    """The picture judge, told the spread of its batch (Karras 2018)."""

    def __init__(self, config):
        super().__init__(config)
        self.head = gan.Head(self.head.shared.in_features + 1, config)

    def forward(self, x, kind=None):
        h = self.layers(x).flatten(1)
        spread = (h.float().var(0) + 1e-8).sqrt().mean().expand(len(h), 1).to(h.dtype)
        return self.head(torch.cat([h, spread], 1), kind)


class WideBands(gan.BandsDiscriminator):
    def __init__(self, config):
        super().__init__(dataclasses.replace(config, discriminator_width=int(
            1.5 * config.discriminator_width)))


class ProjectedDiscriminator(nn.Module):
    """Judge features of a frozen classifier at three scales (Sauer 2021)."""

    FEATURES = None

    def __init__(self, config):
        super().__init__()
        self.heads = nn.ModuleList()
        for i, c in enumerate((32, 64, 64)):
            self.heads.append(nn.Sequential(
                nn.Conv2d(c, 64, 3, stride=2 if i < 2 else 1, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)))
        self.apply(gan.initialise)
        self.head = gan.Head(64 * (8 * 4 + 4 * 2 + 4 * 2), config)
        gan.initialise(self.head.shared)
        object.__setattr__(self, "net", deepcopy(self.FEATURES).eval().requires_grad_(False))

    def _apply(self, fn, *a, **k):
        self.net._apply(fn)
        return super()._apply(fn, *a, **k)

    def forward(self, x, kind=None):
        found = []
        for i in range(0, 12, 3):
            x = self.net.layers[i + 2](self.net.layers[i + 1](self.net.layers[i](x)))
            found.append(x)
        return self.head(torch.cat([head(f).flatten(1) for head, f in zip(self.heads, found[1:])],
                                   1), kind)


for _base in (Trunk, GRUTrunk, TopTrunk, Trunk64):
    for _ou in (False, True):
        for _map in (False, True):
            _name = {"Trunk": "trunk", "GRUTrunk": "gru-trunk", "TopTrunk": "top", "Trunk64": "trunk64"}[
                _base.__name__] + "-ou" * _ou + "-map" * _map
            gan.GENERATORS[_name] = type(_name, (_base,), {"OU": _ou, "MAPPING": _map})
gan.GENERATORS |= {"trunk": Trunk, "gru-trunk": GRUTrunk, "trunk64": Trunk64, "top": TopTrunk}
gan.JUDGES |= {"frames": FramesDiscriminator, "place": PlaceDiscriminator,
               "spread": SpreadDiscriminator, "bands2": WideBands, "projected": ProjectedDiscriminator}
