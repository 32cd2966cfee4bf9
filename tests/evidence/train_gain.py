"""Train the two gains with which Music.py removes pink noise.

    python tests/evidence/train_gain.py music [--out runs/recorded/pink-gain]

`music` is a folder of recorded music; clean scores are rendered beside it (`--scores`), and both
gains learn from either. `--only-scores` leaves recorded music out. A quarter of the tracks and
pieces, by a hash of their names (`is_held_out`), is never trained on, and is what
`benchmark_noise.py` measures. An hour of a core. Writes `gain.npz` (no pickle) and the TensorBoard
summary of the training, which names the training data; what was done is kept in `--work` and gone
on with.

Noise is mixed in at -4 to 38 dB; four mixes in ten are then stored at a low rate or as a small
MP3. `bands`, for codes (`band_gain.py`): the loss is the root mean square error of the mel bands
in dB, 80 dB below the clip's maximum at most. `bins`, for waveforms: the energy of what the gain
leaves wrong over the energy of the noise, in dB, so that every level counts alike; it is told what
the gain of bands makes of the clip, so that its training comes second.
"""

import argparse
import hashlib
import io
import itertools
import re
import sys
from pathlib import Path

import librosa
import numpy as np
import soundfile
import soxr
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "tests", ROOT):     # so that the script runs from any folder
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

import band_gain  # noqa: E402
from networks import write_weights  # noqa: E402

import Music  # noqa: E402
from notebook_definitions import load  # noqa: E402

RECORDED = ROOT / "runs" / "recorded" / "pink-gain"
MIXES = 1300         # of each source, for bins
CELLS = 5000         # of a mix
SECONDS = 10         # of an excerpt
FRAMES = SECONDS * Music.SR // Music.HOP_LENGTH + 1
PIECES = 1800        # clean clips that are rendered
CLIPS = {"recorded music": tuple(range(0, 30, 2)), "rendered scores": (0, 1, 2)}   # of a track
MIXED = {"recorded music": 2, "rendered scores": 1}    # mixes of a clip, for bands
SHARES = {"recorded music": 12, "rendered scores": 4}    # of a batch: scores are learned sooner
HIDDEN = 64
STEPS = {"bins": 2500, "bands": 5000}


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


def at_rate(y, sr):
    """What is left of a waveform that was stored at a lower rate."""
    lower = soxr.resample(y, Music.SR, sr)
    return soxr.resample(lower, sr, Music.SR)


def small_mp3(y, kbits=48):
    """What is left of a waveform in an MP3 of few kbit/s, in stereo."""
    channel = np.clip(soxr.resample(y, Music.SR, 44100), -1, 1)
    stereo = np.stack([channel, channel], axis=1)
    file = io.BytesIO()
    soundfile.write(file, stereo, 44100, format="MP3", bitrate_mode="CONSTANT",
                    compression_level=(320 - kbits) / (320 - 32))
    file.seek(0)
    decoded, rate = soundfile.read(file)
    return soxr.resample(decoded.mean(1), rate, Music.SR)


STORED = {
    "full": lambda y: y,
    "16 kHz": lambda y: at_rate(y, 16000),
    "11 kHz": lambda y: at_rate(y, 11025),
    "8 kHz": lambda y: at_rate(y, 8000),
    "MP3, 48 kbit/s": small_mp3,
}
CHANCES = (0.6, 0.1, 0.1, 0.1, 0.1)    # of each in training


# ---------------------------------------------------------------- cells of bins

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
    bands = Music.bands_around(power, floor)
    features = Music.bin_features(ratio, bands, hz, float(ratio.mean()))
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


def use_weights(path):
    """Let Music take its gains from a file, in this process."""
    if path != Music.WEIGHTS:
        Music.WEIGHTS = path
        Music.gain_weights.cache_clear()


def describe(y, snr_db, seed, weights):
    """Cells of one mix, or None where no floor is found; `weights` holds the gain of bands."""
    use_weights(weights)
    noisy, noise = mixed(y, snr_db, seed)
    power = Music.stft_power(noisy, Music.N_FFT, Music.HOP_LENGTH)
    floor = Music.pink_floor(power)
    if floor.presence == 0:
        return None
    rng = np.random.default_rng(seed)
    features, targets = cells_of_waveform(y, noisy, noise, floor, rng)
    return np.concatenate([features, targets]).astype(np.float32)


# ---------------------------------------------------------------- mixes of bands

def stored_mix(y, snr_db, how, seed):
    """A mix as `band_gain.Mix`, stored in one of the ways, or None where no floor is found."""
    noisy, _noise = mixed(y, snr_db, seed)
    store = STORED[how]
    clean = np.asarray(store(y), np.float32)
    noisy = np.asarray(store(noisy), np.float32)
    samples = min(len(clean), len(noisy))
    return band_gain.mix_of(clean[:samples], noisy[:samples], FRAMES)


def mixes_of_track(path, which, mixed_times, seed):
    """Mixes of some clips of a track, at random levels."""
    rng = np.random.default_rng(seed)
    found = []
    for y in excerpts(path, which):
        for number in range(mixed_times):
            snr_db = rng.uniform(-4, 38)
            how = rng.choice(list(STORED), p=CHANCES)
            mix = stored_mix(y, snr_db, how, 1000 * seed + len(found) + number)
            if mix is not None:
                found.append(mix)
    return found


def mixes_of_bands(audio, source):
    """Mixes of all tracks of a source, together."""
    jobs = [(path, CLIPS[source], MIXED[source], seed) for seed, path in enumerate(audio)]
    found = []
    for some in Music.parallel(mixes_of_track, jobs, -1):
        found += some
    return band_gain.Mixes.of(found)


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


def fit_bins(cells, writer, batch=24, lr=4e-3):
    """Train the gain of bins. Returns three matrices, each with its bias as the last column."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    n = cells.shape[1] - 3
    x = cells[:, :n]
    target = cells[:, n:]
    mean = x.mean((0, 2))
    spread = x.std((0, 2))
    net = network(n, HIDDEN)
    optimiser = torch.optim.Adam(net.parameters(), lr)
    schedule = CosineAnnealingLR(optimiser, STEPS["bins"])
    offset = mean[:, None]
    scale = spread[:, None]
    size = min(batch, len(x))
    for step in range(STEPS["bins"]):
        at = rng.choice(len(x), size, replace=False)
        scaled = (x[at] - offset) / scale
        inputs = torch.from_numpy(scaled).transpose(1, 2)
        output = net(inputs)[..., 0]
        wanted = torch.from_numpy(target[at])
        loss = loss_of_bins(output, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 0:
            writer.add_scalar("loss/bins", loss.item(), step)
    matrices = matrices_of(net, mean, spread)
    return {f"bins{layer}": matrix for layer, matrix in enumerate(matrices)}


def training_tracks(folder):
    """The tracks of a folder that are not held out."""
    found, _ = Music.audio_files(folder)
    return [path for path in found if not is_held_out(path)]


def cells_of_bins(audio, weights):
    """Cells of excerpts of all tracks, in turn, with noise at random levels."""
    jobs = [(path,) for path in audio]
    clips = []
    for some in Music.parallel(excerpts, jobs, -1):
        clips += some
    rng = np.random.default_rng(0)
    snr = rng.uniform(-4, 25, MIXES)
    jobs = [(clips[i % len(clips)], float(level), i, weights) for i, level in enumerate(snr)]
    mixes = Music.parallel(describe, jobs, -1)
    return np.stack([mix for mix in mixes if mix is not None])


def examples_of_bands(audio, work):
    """What the gain of bands learns from, by source; made once, and kept in `work`."""
    found = []
    for source, paths in audio.items():
        kept = work / f"{source.replace(' ', '-')}.npz"
        if not kept.exists():
            write_weights(kept, mixes_of_bands(paths, source)._asdict())
        with np.load(kept) as arrays:
            mixes = band_gain.Mixes(**arrays)
        share = min(SHARES[source], len(mixes.clean))
        found.append(band_gain.Examples(mixes, share, seed=len(found)))
        print(f"{source}: {len(paths)} tracks or clips, {len(mixes.clean)} mixes", flush=True)
    return found


def train(folders, out, work, kinds=("bands", "bins")):
    """Train gains on tracks that are not held out, of folders by source; returns the file.

    Weights of a kind that is not asked for stay as they are.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = Path(out) / "gain.npz"
    weights = {}
    if path.exists():
        with np.load(path) as kept:
            weights = dict(kept)
    audio = {source: training_tracks(folder) for source, folder in folders.items()}
    gan = load("HW_04_music_gan")
    writer = gan.SummaryWriter(str(out))
    about = [f"{source}: {len(paths)} tracks or clips" for source, paths in audio.items()]
    writer.add_text("training data", "; ".join(about))
    for kind in kinds:
        weights = {name: value for name, value in weights.items() if not name.startswith(kind)}
        if kind == "bands":
            examples = examples_of_bands(audio, work)
            weights |= band_gain.fit(examples, STEPS["bands"], writer, work / "bands.pt")
        else:
            cells = np.concatenate([cells_of_bins(paths, path) for paths in audio.values()])
            weights |= fit_bins(cells, writer)
        write_weights(path, weights)
    gan.close_run(writer, "pink-gain")
    return path


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("music", nargs="?", type=Path)
    parser.add_argument("--scores", type=Path, default=ROOT / "data" / "scores-clean")
    parser.add_argument("--only-scores", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("bands", "bins"))
    parser.add_argument("--work", type=Path, default=ROOT / "checkpoints" / "gain")
    parser.add_argument("--out", type=Path, default=RECORDED)
    options = parser.parse_args()
    if options.music is None and not options.only_scores:
        parser.error("a folder of recorded music is needed, or --only-scores")
    torch.set_num_threads(options.threads)
    folders = {"rendered scores": Music.render_scores(options.scores, PIECES, None)}
    if not options.only_scores:
        folders["recorded music"] = options.music
    kinds = (options.only,) if options.only else ("bands", "bins")
    print(train(folders, options.out, options.work, kinds))


if __name__ == "__main__":
    main()
