"""Train the small network that turns a code into the magnitudes of a fine STFT.

    python tests/evidence/train_inversion.py music [--steps 40000] [--out runs/recorded/inversion]

`music` is a folder of recorded music; clean scores are rendered beside it (`--scores`). Half of
each batch is of either, but for two steady tones. A quarter of the tracks and pieces, by a hash of
their names (`is_held_out`), is never trained on, and is what `benchmark_inversion.py` measures.

Codes are made of the music in each step, at a level drawn anew, and half of them are made
rough, as those of a generator are. The target is the STFT of the same music, window 2048 and
hop 512: frames of the code, and one between each two. Nearly three hours of a core; what was done
is kept in `--work` and gone on with. Writes `inversion.npz` (8 bits a weight, no pickle) and the
TensorBoard summary of the training, which names the training data.
"""

import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from common import ROOT, command_line, gan  # first: it puts the project on the path
from networks import Block, State, plain_weights, write_weights
from torch import nn
from torch.nn import functional

import Music
from train_gain import is_held_out

OUT = ROOT / "runs" / "recorded" / "inversion"
N_FFT = Music.N_FFT
BINS = N_FFT // 2 + 1
FINE_HOP = Music.HOP_LENGTH // 2
WIDTH = 384
HIDDEN = 704
DILATIONS = (1, 1, 2, 1)    # of the blocks; the first stands before the frames are doubled
FRAMES = 33                 # of a code in training
TONES = 2                   # of a batch, steady; music has the rest in equal parts
BATCH = 24
RATE = 1.5e-3
KEEP_EVERY = 250            # steps
GAIN_DB = (-12, 3)          # levels at which music is trained on
LOG_FOOT = 0.03             # magnitude below which the target's logarithm is flat
WEIGHTS = {"loss/log": 1, "loss/root": 2, "loss/convergence": 0.4}
NEPERS = math.log(10) / 20  # of a decibel


# ---------------------------------------------------------------- the network

def doubled(x):
    """Rows (b, t, n) and one between each two, by linear interpolation: (b, 2 t - 1, n)."""
    between = (x[:, :-1] + x[:, 1:]) / 2
    pairs = torch.stack([x[:, :-1], between], 2)
    return torch.cat([pairs.flatten(1, 2), x[:, -1:]], 1)


class Inversion(nn.Module):
    """Codes as rows (b, t, bands) to log-magnitudes (b, 2 t - 1, bins): a correction of `base`.

    `base` is what the bands' levels say alone: each bin has the density of the bands around it.
    """

    def __init__(self):
        super().__init__()
        filters = Music.mel_filters(Music.SR, N_FFT, Music.N_MELS).toarray()
        back = filters / np.maximum(filters.sum(0), 1e-6)
        back[:, 0] = back[:, 1]    # no triangle covers the ends
        back[:, -1] = back[:, -2]
        flat = np.log(np.maximum(filters.sum(1), 0.1))
        self.register_buffer("back", torch.tensor(back, dtype=torch.float32), persistent=False)
        self.register_buffer("flat", torch.tensor(flat, dtype=torch.float32), persistent=False)
        self.embed = nn.Linear(3 * Music.N_MELS, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HIDDEN, dilation, functional.gelu)
                                    for dilation in DILATIONS)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, BINS)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def base(self, code):
        low, high = Music.DB_RANGE
        level = low + (code + 1) / 2 * (high - low)
        log_power = 2 * NEPERS * level - self.flat
        return log_power @ self.back / 2

    def forward(self, code):
        side = functional.pad(code, (0, 0, 1, 1))
        three = torch.cat([side[:, :-2], code, side[:, 2:]], 2)
        first, *others = self.blocks
        h = doubled(first(self.embed(three)))
        for block in others:
            h = block(h)
        return self.head(self.norm(h)) + doubled(self.base(code))


# ---------------------------------------------------------------- data

class Music16:
    """Music in memory, 16 bit, from which equal excerpts are drawn: as likely from any track."""

    def __init__(self, name, folder, n_jobs=-1):
        self.name = name
        audio, _skipped = Music.audio_files(folder)
        self.paths = [path for path in audio if not is_held_out(path)]
        sounds = Music.parallel(whole_track, [(path,) for path in self.paths], n_jobs)
        self.sounds = [sound for sound in sounds if len(sound) > (FRAMES + 3) * Music.HOP_LENGTH]

    def draw(self, rng, count, samples):
        """Excerpts (count, samples), float32."""
        found = np.empty((count, samples), np.float32)
        for row in found:
            sound = self.sounds[rng.integers(len(self.sounds))]
            first = rng.integers(len(sound) - samples)
            row[:] = sound[first:first + samples] / np.float32(32768)
        return found

    @property
    def about(self):
        hours = sum(map(len, self.sounds)) / Music.SR / 3600
        return f"{self.name}: {len(self.sounds)} tracks or clips, {hours:.1f} hours"


class Tones:
    """Steady tones of one to three partials anywhere between 40 Hz and 10 kHz."""

    about = "steady tones"

    def draw(self, rng, count, samples):
        """Tones (count, samples), float32."""
        t = np.arange(samples) / Music.SR
        found = np.zeros((count, samples), np.float32)
        for row in found:
            for _ in range(rng.integers(1, 4)):
                hz = 40 * 250 ** rng.random()
                level = 10 ** rng.uniform(-1.5, -0.5)
                phase = 2 * np.pi * rng.random()
                row += level * np.sin(2 * np.pi * hz * t + phase)
        return found


def whole_track(path):
    """A track as 16-bit samples; nothing of a damaged one."""
    blocks = []
    try:
        for block in Music.decode_blocks(path, Music.SR):
            blocks.append(np.round(np.clip(block, -1, 1) * 32767).astype(np.int16))
    except Music.DamagedAudio as error:
        print(f"left out: {path.name}: {error}")
        return np.zeros(0, np.int16)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def rough(code, generator):
    """Codes as a generator gives them: half with noise in the cells, a quarter blurred in time."""
    def uniform():
        return torch.rand(len(code), 1, 1, generator=generator)

    noise = 0.02 * uniform() * (uniform() < 0.5)
    blur = 0.25 * uniform() * (uniform() < 0.25)
    side = torch.cat([code[:, :1], code, code[:, -1:]], 1)
    beside = (side[:, 2:] + side[:, :-2]) / 2
    code = (1 - blur) * code + blur * beside
    code = code + noise * torch.randn(code.shape, generator=generator)
    return code.clamp(-1, 1)


class Examples:
    """Draws batches: codes (b, t, bands) and magnitudes (b, 2 t - 1, bins)."""

    def __init__(self, sources, seed):
        each = (BATCH - TONES) // len(sources)
        self.shares = [(source, each) for source in sources] + [(Tones(), TONES)]
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.window = torch.hann_window(N_FFT)
        filters = Music.mel_filters(Music.SR, N_FFT, Music.N_MELS).toarray()
        self.filters = torch.tensor(filters.T, dtype=torch.float32)

    def draw(self):
        samples = (FRAMES - 1) * Music.HOP_LENGTH + N_FFT
        drawn = [source.draw(self.rng, count, samples) for source, count in self.shares]
        y = np.concatenate(drawn)
        level = self.rng.uniform(*GAIN_DB, (len(y), 1))
        y = np.clip(y * 10 ** (level / 20), -1, 1).astype(np.float32)
        spectrum = torch.stft(torch.from_numpy(y), N_FFT, FINE_HOP, window=self.window,
                              center=False, return_complex=True)
        size = spectrum.abs().transpose(1, 2).contiguous()
        low, high = Music.DB_RANGE
        power = size[:, ::2].square() @ self.filters
        level = 10 * torch.log10(power.clamp(min=10 ** (low / 10)))
        code = (2 * (level - low) / (high - low) - 1).clamp(-1, 1)
        return rough(code, self.generator), size


# ---------------------------------------------------------------- training

def losses(log_size, size):
    """Errors of log-magnitudes beside magnitudes (b, t, bins): of logs, of roots, convergence."""
    guess = torch.exp(log_size.clamp(max=8))
    log_error = torch.log(guess + LOG_FOOT) - torch.log(size + LOG_FOOT)
    root_error = guess.sqrt() - size.sqrt()
    error = (guess - size).square().sum((1, 2))
    energy = size.square().sum((1, 2)).clamp(min=1)
    return {
        "loss/log": log_error.square().mean((1, 2)).sqrt().mean(),
        "loss/root": root_error.abs().mean(),
        "loss/convergence": torch.log(error / energy + 1e-4).mean() / 2,
    }


def new_state(seed):
    """A training that has not begun."""
    torch.manual_seed(seed)
    return State(Inversion(), RATE)


def learn(state, code, size, steps):
    """One step of a training of so many; returns its losses."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_size = state.net(code)
    found = losses(log_size.float(), size)
    total = sum(weight * found[tag] for tag, weight in WEIGHTS.items())
    state.learn(total, steps)
    return found


def train(sources, steps, work, out, seed=0):
    """Train on `sources`, going on from what lies in `work`; writes to `out`."""
    work.mkdir(parents=True, exist_ok=True)
    state = new_state(seed)
    checkpoint = work / "inversion.pt"
    if checkpoint.exists():
        state.load(checkpoint)
        print(f"going on from step {state.step}", flush=True)
    examples = Examples(sources, seed=seed + state.step)
    writer = gan.SummaryWriter(str(work), purge_step=state.step)
    about = "; ".join(source.about for source in sources)
    writer.add_text("training data", f"{about}; {steps} steps of {BATCH} excerpts", state.step)
    started = time.monotonic()
    first = state.step
    while state.step < steps:
        found = learn(state, *examples.draw(), steps)
        if state.step % 50 == 0:
            for tag, value in found.items():
                writer.add_scalar(tag, value.item(), state.step)
        if state.step % KEEP_EVERY == 0 or state.step == steps:
            state.save(checkpoint)
            pace = (time.monotonic() - started) / (state.step - first)
            shown = ", ".join(f"{tag} {value.item():.3f}" for tag, value in found.items())
            print(f"{state.step} steps, {pace:.2f} s each: {shown}", flush=True)
            weights = plain_weights(state.average.state_dict())
            write_weights(out / "inversion.npz", weights)
    gan.close_run(writer, "inversion")
    for path in work.glob("events.*"):
        shutil.copy2(path, out / path.name)


def main():
    parser = command_line(__doc__, "--worker")
    parser.add_argument("music", type=Path)
    parser.add_argument("--scores", type=Path, default=ROOT / "data" / "scores-clean")
    parser.add_argument("--pieces", type=int, default=1800)
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / "checkpoints" / "inversion")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    scores = Music.render_scores(options.scores, options.pieces, None)
    sources = [Music16("rendered scores", scores), Music16("recorded music", options.music)]
    print(*[source.about for source in sources], sep="\n", flush=True)
    torch.set_num_threads(options.threads)
    train(sources, options.steps, options.work, options.out)


if __name__ == "__main__":
    main()
