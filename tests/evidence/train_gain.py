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
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "tests", ROOT):     # so that the script runs from any folder
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import Music  # noqa: E402
from notebook_definitions import load  # noqa: E402

RECORDED = ROOT / "runs" / "recorded" / "pink-gain"
MIXES = 1300
CELLS = 5000         # of a mix
SECONDS = 10         # of an excerpt
DB_OF_E = 10 / np.log(10)    # what a factor of e in power is in dB
HIDDEN = {"bins": 48, "bands": 16}
STEPS = {"bins": 1200, "bands": 1500}


# ---------------------------------------------------------------- music and noise

def is_held_out(path):
    """Whether a track belongs to the quarter that is never trained on: all clips of a piece do."""
    track = re.sub(r"-\d+$", "", Path(path).stem)
    digest = hashlib.sha1(track.encode()).digest()
    return digest[0] % 4 == 0


def sounds(y):
    """Whether a clip is more than silence."""
    power = np.mean(y ** 2)
    return np.sqrt(power) > 1e-3


def excerpts(path, which=(1, 4, 9)):
    """Some clips of a track that sound, from its first 100 s: `[(n,), ...]`."""
    count = max(which) + 1
    try:
        track = Music.audio_clips(path, SECONDS)
        clips = list(itertools.islice(track, count))
    except Exception as error:      # a damaged file is no training data
        print(f"left out: {path.name}: {error}")
        return []
    chosen = [clips[i] for i in which if i < len(clips)]
    if not chosen:
        chosen = clips[-1:]
    return [y for y in chosen if sounds(y)]


def mixed(y, snr_db, seed):
    """Add pink noise: the mix and the noise, float32.

    The level holds in expectation, over the noise's true variance of 1, as in what is recorded;
    `Music.add_pink_noise` sets it exactly and does not tell the noise.
    """
    noise = Music.pink_noise(len(y), seed)
    ratio = 10 ** (snr_db / 10)
    variance = np.mean(y ** 2) / ratio
    noise *= np.sqrt(variance)
    mix = y + noise
    return mix.astype(np.float32), noise.astype(np.float32)


# ---------------------------------------------------------------- cells

def chance_of_bins(bins):
    """Chance of each bin of an STFT to be drawn: as the noise's energy is spread."""
    chance = 1 / np.maximum(np.arange(bins), 4.0)
    chance[0] = 0
    return chance / chance.sum()


def error_terms(X, Y):
    """Powers of which the error of a gain consists, of cells of a mix and of the clean music."""
    mixed_power = np.abs(X) ** 2
    shared_power = (X * Y.conj()).real
    clean_power = np.abs(Y) ** 2
    return np.stack([mixed_power, shared_power, clean_power])


def cells_of_waveform(y, noisy, noise, floor, rng):
    """Features and targets of random cells of an STFT, drawn as the noise's energy is spread.

    The error of gain g is g^2 |X|^2 - 2 g Re(X conj(Y)) + |Y|^2, in units of the noise.
    """
    n_fft = 2 * Music.N_FFT
    hop = Music.N_FFT // 2
    X = librosa.stft(noisy, n_fft=n_fft, hop_length=hop)
    Y = librosa.stft(y, n_fft=n_fft, hop_length=hop)
    bins, frames = X.shape
    power = np.abs(X) ** 2
    ratio = power / floor.power(n_fft)
    hz = np.linspace(0, Music.SR / 2, bins)
    features = Music.gain_features(ratio, hz, "bins", float(ratio.mean()))
    template = Music.pink_template(n_fft, Music.SR)[:, 0]
    expected = template * np.var(noise)
    chance = chance_of_bins(bins)
    k = rng.choice(bins, CELLS, p=chance)
    t = rng.integers(0, frames, CELLS)
    weight = expected[k] / chance[k]
    scale = weight / weight.mean() / expected[k]
    mix = X[k, t]
    music = Y[k, t]
    targets = error_terms(mix, music) * scale
    return features[:, k, t], targets


def decibels(power):
    """Power in dB, -120 at least."""
    return 10 * np.log10(np.maximum(power, 1e-12))


def cells_of_bands(y, noisy, noise, floor, rng):
    """Features and targets of random cells of mel bands: dB of noisy, of clean, of the foot."""
    power = Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH)
    filters = Music.mel_filters(Music.SR, Music.N_FFT, Music.N_MELS)
    mel = filters @ power
    clean = Music.mel_spectrogram(y)
    ratio = mel / (filters @ floor.power())
    hz = Music.mel_centres(Music.SR, Music.N_MELS)
    features = Music.gain_features(ratio, hz, "bands", float(ratio.mean()))
    bands, frames = mel.shape
    k = rng.integers(0, bands, CELLS)
    t = rng.integers(0, frames, CELLS)
    foot = 10 * np.log10(clean.max()) - 80
    noisy_db = np.maximum(decibels(mel[k, t]), foot)
    clean_db = np.maximum(decibels(clean[k, t]), foot)
    feet = np.full(CELLS, foot)
    targets = np.stack([noisy_db, clean_db, feet])
    return features[:, k, t], targets


def describe(y, snr_db, seed):
    """Cells of one mix for both gains, or None where no floor is found."""
    noisy, noise = mixed(y, snr_db, seed)
    power = Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH)
    floor = Music.pink_floor(power)
    if floor.presence == 0:
        return None
    rng = np.random.default_rng(seed)
    found = []
    for draw in (cells_of_waveform, cells_of_bands):
        features, targets = draw(y, noisy, noise, floor, rng)
        cells = np.concatenate([features, targets])
        found.append(cells.astype(np.float32))
    return found


# ---------------------------------------------------------------- training

def loss_of_bins(output, target):
    """Mean over mixes of the energy that the gain leaves wrong, in dB."""
    mixed_power, shared_power, clean_power = target.unbind(1)
    g = torch.sigmoid(output)
    kept = g * g * mixed_power
    shared = 2 * g * shared_power
    error = kept - shared + clean_power
    bels = torch.log10(error.mean(1) + 1e-6)
    return 10 * bels.mean()


def loss_of_bands(output, target):
    """Mean over mixes of the root mean square error in dB."""
    noisy, clean, foot = target.unbind(1)
    removed = DB_OF_E * nn.functional.softplus(-output)
    estimate = torch.maximum(noisy - removed, foot)
    square = (estimate - clean).square()
    return square.mean(1).sqrt().mean()


# mean loss in dB of outputs (B, cells) before the sigmoid; targets (B, 3, cells)
LOSSES = {"bins": loss_of_bins, "bands": loss_of_bands}


def network(features, width):
    """Three layers, from features to the gain before the sigmoid."""
    return nn.Sequential(
        nn.Linear(features, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 1),
    )


def matrices_of(net, mean, spread):
    """Weights of each layer with the bias as the last column, for features as they are.

    The network was trained on scaled features: their scaling goes into the first matrix.
    """
    matrices = []
    for layer in net[::2]:
        column = layer.bias[:, None]
        joined = torch.cat([layer.weight, column], 1)
        matrices.append(joined.detach().numpy())
    first = matrices[0]
    weights = first[:, :-1]
    bias = first[:, -1]
    weights /= spread       # in place: views of the first matrix
    bias -= weights @ mean
    return matrices


def fit(kind, cells, writer, batch=24, lr=4e-3):
    """Train one gain. Returns three matrices, each with its bias as the last column."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    n = cells.shape[1] - 3
    x = cells[:, :n]
    target = cells[:, n:]
    mean = x.mean((0, 2))
    spread = x.std((0, 2))
    net = network(n, HIDDEN[kind])
    optimiser = torch.optim.Adam(net.parameters(), lr)
    schedule = CosineAnnealingLR(optimiser, STEPS[kind])
    loss_of = LOSSES[kind]
    offset = mean[:, None]
    scale = spread[:, None]
    size = min(batch, len(x))
    for step in range(STEPS[kind]):
        at = rng.choice(len(x), size, replace=False)
        scaled = (x[at] - offset) / scale
        inputs = torch.from_numpy(scaled).transpose(1, 2)
        output = net(inputs)[..., 0]
        wanted = torch.from_numpy(target[at])
        loss = loss_of(output, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            writer.add_scalar(f"loss/{kind}", loss.item(), step)
    return matrices_of(net, mean, spread)


def training_tracks(folder):
    """The tracks of a folder that are not held out."""
    found, _ = Music.audio_files(folder)
    return [path for path in found if not is_held_out(path)]


def clips_of(audio):
    """Excerpts of all tracks, one after another."""
    jobs = [(path,) for path in audio]
    clips = []
    for some in Music.parallel(excerpts, jobs, -1):
        clips += some
    return clips


def described_mixes(clips):
    """Cells of clips, in turn, with noise at random levels, where a floor is found."""
    rng = np.random.default_rng(0)
    snr = rng.uniform(-4, 25, MIXES)
    jobs = []
    for i, level in enumerate(snr):
        clip = clips[i % len(clips)]
        jobs.append((clip, float(level), i))
    mixes = Music.parallel(describe, jobs, -1)
    return [mix for mix in mixes if mix]


def fit_both(mixes, writer):
    """Matrices of both gains, by kind and layer."""
    weights = {}
    for column, kind in enumerate(("bins", "bands")):
        cells = np.stack([mix[column] for mix in mixes])
        for layer, matrix in enumerate(fit(kind, cells, writer)):
            weights[f"{kind}{layer}"] = matrix
    return weights


def train(folder, out):
    """Train both gains on the tracks of a folder that are not held out; returns the file."""
    audio = training_tracks(folder)
    clips = clips_of(audio)
    mixes = described_mixes(clips)
    counts = f"{len(audio)} tracks, {len(clips)} clips"
    print(f"{counts}, {len(mixes)} mixes with a floor")
    gan = load("HW_04_music_gan")
    writer = gan.SummaryWriter(str(out))
    writer.add_text("data", f"{Path(folder).name}: {counts}")
    weights = fit_both(mixes, writer)
    gan.close_run(writer, "pink-gain")
    path = Path(out) / "gain.npz"
    with Music.atomic(path) as part:
        np.savez(part, **weights)
    return path


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=RECORDED)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        where = options.folder or Music.render_scores(temporary, 400, None, seconds=SECONDS)
        print(train(where, options.out), file=sys.stdout)


if __name__ == "__main__":
    main()
