"""Train the two small gains with which Music.py removes pink noise.

    python tests/evidence/train_gain.py [folder of clean music] [--out runs/recorded/pink-gain]

About four minutes on two cores. Without a folder, clean scores are rendered into a temporary
one. A quarter of the tracks, by a hash of their names (`is_held_out`), is never trained on, and
is what `benchmark_noise.py` measures. Writes `gain.npz` (float32, no pickle) and the
TensorBoard summary of the training, which names the training data.

Noise is mixed in at -4 to 25 dB. `bins`, for waveforms: the loss is the energy of what the gain
leaves wrong over the energy of the noise, in dB, so that every level counts alike. `bands`, for
codes: the root mean square error of the mel bands in dB, 80 dB below the clip's maximum at most.
"""

import argparse
import hashlib
import itertools
import re
import sys
import tempfile
from pathlib import Path

import librosa
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "tests", ROOT):     # so that the script runs from any folder
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import Music  # noqa: E402
from notebook_definitions import load  # noqa: E402

MIXES, CELLS, SECONDS = 1300, 5000, 10
HIDDEN, STEPS = {"bins": 48, "bands": 16}, {"bins": 1200, "bands": 1500}


def is_held_out(path):
    """Whether a track belongs to the quarter that is never trained on: all clips of a piece do."""
    track = re.sub(r"-\d+$", "", Path(path).stem)
    return hashlib.sha1(track.encode()).digest()[0] % 4 == 0


def excerpts(path, which=(1, 4, 9)):
    """Some clips of a track that sound, from its first 100 s: `[(n,), ...]`."""
    try:
        clips = list(itertools.islice(Music.audio_clips(path, SECONDS), max(which) + 1))
    except Exception as error:      # a damaged file is no training data
        print(f"left out: {path.name}: {error}")
        return []
    chosen = [clips[i] for i in which if i < len(clips)] or clips[-1:]
    return [y for y in chosen if np.sqrt(np.mean(y ** 2)) > 1e-3]


def mixed(y, snr_db, seed):
    """Add pink noise: the mix and the noise, float32.

    The level holds in expectation, over the noise's true variance of 1, as in what is recorded;
    `Music.add_pink_noise` sets it exactly and does not tell the noise.
    """
    noise = Music.pink_noise(len(y), seed)
    noise *= np.sqrt(np.mean(y ** 2) / 10 ** (snr_db / 10))
    return (y + noise).astype(np.float32), noise.astype(np.float32)


def cells_of_waveform(y, noisy, noise, floor, rng):
    """Features and targets of random cells of an STFT, drawn as the noise's energy is spread.

    The error of gain g is g^2 |X|^2 - 2 g Re(X conj(Y)) + |Y|^2, in units of the noise.
    """
    n_fft, hop = 2 * Music.N_FFT, Music.N_FFT // 2
    X, Y = (librosa.stft(s, n_fft=n_fft, hop_length=hop) for s in (noisy, y))
    ratio = np.abs(X) ** 2 / floor.power(n_fft)
    hz = np.linspace(0, Music.SR / 2, len(X))
    x = Music.gain_features(ratio, hz, "bins", float(ratio.mean()))
    expected = Music.pink_template(n_fft, Music.SR)[:, 0] * np.var(noise)
    chance = 1 / np.maximum(np.arange(len(X)), 4.0)
    chance[0] = 0
    chance /= chance.sum()
    k = rng.choice(len(X), CELLS, p=chance)
    t = rng.integers(0, X.shape[1], CELLS)
    weight = expected[k] / chance[k]
    scale = weight / weight.mean() / expected[k]
    X = X[k, t]
    Y = Y[k, t]
    mixed_power = np.abs(X) ** 2
    shared_power = (X * Y.conj()).real
    clean_power = np.abs(Y) ** 2
    return x[:, k, t], np.stack([mixed_power, shared_power, clean_power]) * scale


def cells_of_bands(y, noisy, noise, floor, rng):
    """Features and targets of random cells of mel bands: dB of noisy, of clean, of the foot."""
    power = Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH)
    filters = Music.mel_filters(Music.SR, Music.N_FFT, Music.N_MELS)
    mel, clean = filters @ power, Music.mel_spectrogram(y)
    ratio = mel / (filters @ floor.power())
    hz = Music.mel_centres(Music.SR, Music.N_MELS)
    x = Music.gain_features(ratio, hz, "bands", float(ratio.mean()))
    bands, frames = mel.shape
    k = rng.integers(0, bands, CELLS)
    t = rng.integers(0, frames, CELLS)
    foot = 10 * np.log10(clean.max()) - 80
    targets = []
    for matrix in (mel, clean):
        db = 10 * np.log10(np.maximum(matrix[k, t], 1e-12))
        targets.append(np.maximum(db, foot))
    targets.append(np.full(CELLS, foot))
    return x[:, k, t], np.stack(targets)


def describe(y, snr_db, seed):
    """Cells of one mix for both gains, or None where no floor is found."""
    noisy, noise = mixed(y, snr_db, seed)
    floor = Music.pink_floor(Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH))
    if floor.presence == 0:
        return None
    rng = np.random.default_rng(seed)
    return [np.concatenate(kind(y, noisy, noise, floor, rng)).astype(np.float32)
            for kind in (cells_of_waveform, cells_of_bands)]


def loss_of(kind, output, target):
    """Mean loss in dB of outputs (B, cells) before the sigmoid; targets (B, 3, cells)."""
    if kind == "bins":
        g = torch.sigmoid(output)
        error = g * g * target[:, 0] - 2 * g * target[:, 1] + target[:, 2]
        return 10 * torch.log10(error.mean(1) + 1e-6).mean()
    removed = 10 / np.log(10) * torch.nn.functional.softplus(-output)
    estimate = torch.maximum(target[:, 0] - removed, target[:, 2])
    return (estimate - target[:, 1]).square().mean(1).sqrt().mean()


def fit(kind, cells, writer, batch=24, lr=4e-3):
    """Train one gain. Returns three matrices, each with its bias as the last column."""
    torch.manual_seed(0)
    rng, n = np.random.default_rng(0), cells.shape[1] - 3
    x, target = cells[:, :n], cells[:, n:]
    mean, spread = x.mean((0, 2)), x.std((0, 2))
    width = HIDDEN[kind]
    layers = [torch.nn.Linear(a, b) for a, b in ((n, width), (width, width), (width, 1))]
    net = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    optimiser = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS[kind])
    for step in range(STEPS[kind]):
        at = rng.choice(len(x), min(batch, len(x)), replace=False)
        scaled = torch.from_numpy((x[at] - mean[:, None]) / spread[:, None])
        loss = loss_of(kind, net(scaled.transpose(1, 2))[..., 0], torch.from_numpy(target[at]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            writer.add_scalar(f"loss/{kind}", loss.item(), step)
    matrices = [torch.cat([layer.weight, layer.bias[:, None]], 1).detach().numpy()
                for layer in layers]
    first = matrices[0]       # takes features as they are: their scaling goes into the weights
    first[:, :-1] /= spread
    first[:, -1] -= first[:, :-1] @ mean
    return matrices


def train(folder, out):
    """Train both gains on the tracks of a folder that are not held out; returns the file."""
    audio = [p for p in Music.audio_files(folder)[0] if not is_held_out(p)]
    clips = [y for some in Music.parallel(excerpts, [(p,) for p in audio], -1) for y in some]
    snr = np.random.default_rng(0).uniform(-4, 25, MIXES)
    jobs = [(clips[i % len(clips)], float(level), i) for i, level in enumerate(snr)]
    mixes = [m for m in Music.parallel(describe, jobs, -1) if m]
    print(f"{len(audio)} tracks, {len(clips)} clips, {len(mixes)} mixes with a floor")
    gan = load("HW_04_music_gan")
    writer = gan.SummaryWriter(str(out))
    writer.add_text("data", f"{Path(folder).name}: {len(audio)} tracks, {len(clips)} clips")
    weights = {}
    for column, kind in enumerate(("bins", "bands")):
        cells = np.stack([mix[column] for mix in mixes])
        for layer, matrix in enumerate(fit(kind, cells, writer)):
            weights[f"{kind}{layer}"] = matrix
    gan.close_run(writer, "pink-gain")
    with Music.atomic(Path(out) / "gain.npz") as part:
        np.savez(part, **weights)
    return Path(out) / "gain.npz"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "recorded" / "pink-gain")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        where = options.folder or Music.render_scores(temporary, 400, None, seconds=SECONDS)
        print(train(where, options.out), file=sys.stdout)
