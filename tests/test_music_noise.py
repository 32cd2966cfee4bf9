"""Pink noise: found blind, removed, and never invented."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import Music
from helpers import ROOT, tune

TRAIN = """
import sys
from pathlib import Path
sys.path[:0] = ['tests/evidence']
import train_gain
train_gain.MIXES = 12
train_gain.is_held_out = lambda path: False
train_gain.STEPS = {{'bins': 60, 'bands': 4}}
train_gain.train({{'rendered scores': {music!r}}}, {out!r}, Path({out!r}) / 'work')
"""


def coloured(n, slope, seed=0):
    """Unit-variance noise whose power falls as 1 / f^slope."""
    rng = np.random.default_rng(seed)
    white = np.fft.rfft(rng.standard_normal(n))
    magnitude = np.sqrt(Music.pink_psd(n, Music.SR, slope))
    noise = np.fft.irfft(white * magnitude, n)
    return noise / noise.std()


def noise_power(y, snr_db):
    """Power of noise that lies so far below a waveform."""
    ratio = 10 ** (snr_db / 10)
    return np.mean(y ** 2) / ratio


def noisy(y, snr_db, slope=1.0):
    """A waveform with noise at a signal-to-noise ratio."""
    noise = coloured(len(y), slope, 3)
    level = np.sqrt(noise_power(y, snr_db))
    return y + noise * level


def floor_of(y):
    """The floor that is found in a waveform."""
    power = Music.stft_power(y, Music.N_FFT, Music.HOP_LENGTH)
    return Music.pink_floor(power)


@pytest.mark.parametrize("snr", [0, 5, 10, 20])
def test_floor_level_is_found_blind(snr):
    y = tune(10.0)
    floor = floor_of(noisy(y, snr))
    assert floor.presence > 0.9
    assert floor.slope == 1.0
    error = 10 * np.log10(floor.variance / noise_power(y, snr))
    assert abs(error) < 1.0


@pytest.mark.parametrize("seconds", [2, 5, 30, 60])
def test_floor_level_does_not_depend_on_the_length(seconds):
    noise = Music.pink_noise(seconds * Music.SR, 5)
    floor = floor_of(noise)
    assert floor.presence == 1
    error = 10 * np.log10(floor.variance)
    assert abs(error) < 1.5


@pytest.mark.parametrize("snr, gain", [(0, 5), (5, 4), (10, 3), (20, 0.5)])
@pytest.mark.parametrize("slope", [0.8, 1.0, 1.2])
def test_noise_removal_raises_si_sdr(snr, gain, slope):
    y = tune(10.0)
    mix = noisy(y, snr, slope)
    cleaned = Music.remove_pink_noise(mix)
    assert cleaned.shape == y.shape
    least = gain if slope == 1 else gain / 2
    assert Music.si_sdr(cleaned, y) > Music.si_sdr(mix, y) + least


def test_clean_music_is_left_alone():
    y = tune(10.0)
    cleaned = Music.remove_pink_noise(y)
    assert_array_equal(cleaned, y)


def test_white_noise_and_chords_are_no_pink_floor():
    t = np.arange(10 * Music.SR) / Music.SR
    chord = np.zeros(len(t))
    for hz in (220, 277.2, 329.6):
        chord += np.sin(2 * np.pi * hz * t)
    white = np.random.default_rng(0).standard_normal(len(t))
    for wave in (chord, white):
        y = wave.astype(np.float32)
        cleaned = Music.remove_pink_noise(y)
        assert_array_equal(cleaned, y)


def test_hum_stays_and_noise_goes():
    t = np.arange(10 * Music.SR) / Music.SR
    hum = 0.02 * np.sin(2 * np.pi * 50 * t)
    y = tune(10.0) + hum
    cleaned = Music.remove_pink_noise(noisy(y, 10))
    assert Music.si_sdr(cleaned, y) > 13


def test_noise_that_fades_in_does_no_harm():
    y = tune(10.0)
    noise = noisy(y, 5) - y
    rising = np.linspace(0, 1, len(y)) ** 2
    mix = y + noise * rising
    cleaned = Music.remove_pink_noise(mix)
    assert Music.si_sdr(cleaned, y) > Music.si_sdr(mix, y) - 0.5


def test_a_gap_of_digital_silence_stays_silent_and_hides_no_noise():
    y = tune(10.0)
    mix = noisy(y, 5)
    y[60000:110000] = 0
    mix[60000:110000] = 0
    cleaned = Music.remove_pink_noise(mix)
    within_gap = cleaned[65000:105000]
    assert np.abs(within_gap).max() < 1e-6
    assert Music.si_sdr(cleaned, y) > Music.si_sdr(mix, y) + 3


@pytest.mark.parametrize("y", [np.zeros(50000), np.zeros(0), np.ones(10), tune(1.0)[:3000]])
def test_silence_and_short_clips_come_back_as_they_are(y):
    cleaned = Music.remove_pink_noise(y)
    assert_array_equal(cleaned, y.astype(np.float32))


def test_one_second_is_enough_or_left_alone():
    y = tune(1.0)
    cleaned = Music.remove_pink_noise(noisy(y, 5))
    assert Music.si_sdr(cleaned, y) > 4.5


def test_channels_are_cleaned_one_by_one():
    y = noisy(tune(3.0), 5)
    alone = Music.remove_pink_noise(y)
    stereo = np.stack([y, 0 * y])
    left, right = Music.remove_pink_noise(stereo)
    assert_array_equal(left, alone)
    assert not right.any()


def test_a_higher_rate_is_cleaned_as_well():
    y = tune(6.0, sr=44100)
    level = np.sqrt(noise_power(y, 5))
    noise = level * Music.pink_noise(len(y), 3)
    cleaned = Music.remove_pink_noise(y + noise, 44100)
    assert Music.si_sdr(cleaned, y) > 8


def narrowed(y, sr):
    """What is left of a waveform that was stored at a lower rate, back at the usual one."""
    lower = soxr.resample(y, Music.SR, sr)
    back = soxr.resample(lower, sr, Music.SR)
    back = back[:len(y)]
    lacking = len(y) - len(back)
    padded = np.pad(back, (0, lacking))
    return padded.astype(np.float32)


@pytest.mark.parametrize("sr", [8000, 11025, 16000])
@pytest.mark.parametrize("snr", [5, 10])
def test_noise_of_a_low_rate_is_found_below_its_cut(sr, snr):
    y = tune(10.0)
    mix = narrowed(noisy(y, snr), sr)
    clean = narrowed(y, sr)
    assert floor_of(mix).presence == 1
    cleaned = Music.remove_pink_noise(mix)
    assert Music.si_sdr(cleaned, clean) > Music.si_sdr(mix, clean) + 3


@pytest.mark.parametrize("sr", [8000, 16000])
def test_noise_is_removed_at_the_low_rate_itself(sr):
    y = tune(10.0, sr=sr)
    mix = Music.add_pink_noise(y, 5, 3)
    cleaned = Music.remove_pink_noise(mix, sr)
    assert Music.si_sdr(cleaned, y) > 8


@pytest.mark.parametrize("sr", [8000, 11025, 16000])
def test_clean_music_of_a_low_rate_is_left_alone(sr):
    y = narrowed(tune(10.0), sr)
    cleaned = Music.remove_pink_noise(y)
    assert_array_equal(cleaned, y)


def test_noise_in_a_small_mp3_is_found_and_removed(tmp_path):
    import soundfile
    path = tmp_path / "a.mp3"
    mix = noisy(tune(10.0), 5)
    channel = soxr.resample(mix, Music.SR, 44100)
    stereo = np.stack([channel, channel], axis=1)
    small = {"bitrate_mode": "CONSTANT", "compression_level": (320 - 48) / (320 - 32)}
    soundfile.write(path, stereo, 44100, **small)
    decoded = next(Music.audio_clips(path, 9))
    before = Music.mel_spectrogram(decoded)
    after = Music.mel_spectrogram(decoded, denoise=True)
    assert floor_of(decoded).presence == 1
    assert after.sum() < 0.9 * before.sum()


def test_full_band_noise_has_no_cut():
    for seed in range(3):
        mix = noisy(tune(5.0, seed=seed), 10)
        power = Music.stft_power(mix, Music.N_FFT, Music.HOP_LENGTH)
        tiles = Music._tiles(power, Music.N_FFT, Music.SR)
        quiet, loud = np.quantile(tiles, (0.1, 0.9), axis=1)
        assert Music._bands_below_cut(quiet, loud) == len(tiles)


def add_some_noise(y):
    """A call that takes nothing but a waveform."""
    return Music.add_pink_noise(y, 5)


@pytest.mark.parametrize("call", [
    Music.remove_pink_noise,
    Music.mel_spectrogram,
    add_some_noise,
])
@pytest.mark.parametrize("y, error, message", [
    (np.full(9000, np.nan), ValueError, "finite"),
    (np.full(9000, np.inf), ValueError, "finite"),
    (np.zeros((9000, 2)), ValueError, "channels come first"),
    (np.ones(9000, np.int16), TypeError, "int16.*32768"),
    (np.float64(1), ValueError, "single number"),
])
def test_what_is_no_waveform_is_refused_with_a_remedy(call, y, error, message):
    with pytest.raises(error, match=message):
        call(y)


def test_si_sdr_refuses_what_it_cannot_compare():
    y = tune(1.0)
    integers = y.astype(np.int16)
    shorter = y[1:]
    silence = 0 * y
    with pytest.raises(TypeError, match="estimate holds int16"):
        Music.si_sdr(integers, y)
    with pytest.raises(ValueError, match="two waveforms"):
        Music.si_sdr(shorter, y)
    with pytest.raises(ValueError, match="silent"):
        Music.si_sdr(y, silence)
    assert Music.si_sdr(y, y) > 100


def gain_at_once(features):
    """Gain of all bins from their features (n, bins, t): three layers and a sigmoid."""
    hidden = features.reshape(len(features), -1)
    weights = Music.gain_weights()
    for layer in range(3):
        taken = np.maximum(hidden, 0) if layer else hidden
        matrix = weights[f"bins{layer}"]
        bias = matrix[:, -1:]
        hidden = matrix[:, :-1] @ taken + bias
    gain = 1 / (1 + np.exp(-hidden))
    return gain.reshape(features.shape[1:])


def test_blocks_do_not_change_the_gain():
    y = noisy(tune(12.0), 5)
    power = Music.stft_power(y, 4096, 1024)
    floor = floor_of(y)
    ratio = power / floor.power(4096)
    hz = np.linspace(0, Music.SR / 2, 2049)
    bands = Music.bands_around(power, floor)
    features = Music.bin_features(ratio, bands, hz, ratio.mean())
    in_blocks = Music.noise_gain(power, floor)
    assert_allclose(in_blocks, gain_at_once(features), atol=1e-3)


def some_ratio(frames, seed=0):
    """Power of bands in units of a floor, from far below it to far above."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.normal(0, 2, (Music.N_MELS, frames))).astype(np.float32)


def test_blocks_do_not_change_the_gain_of_bands(monkeypatch):
    ratio = some_ratio(400)
    whole = Music._learned_band_gain(ratio)
    monkeypatch.setattr(Music, "BAND_BLOCK", 70)
    in_blocks = Music._learned_band_gain(ratio)
    assert_allclose(in_blocks, whole, atol=1e-4)


def test_the_gain_of_bands_is_that_of_the_network_that_was_trained(monkeypatch):
    import band_gain
    import torch
    torch.manual_seed(0)
    net = band_gain.BandGain()
    torch.nn.init.normal_(net.head.weight, std=0.1)
    weights = {f"bands.{name}": value.numpy() for name, value in net.state_dict().items()}
    monkeypatch.setattr(Music, "gain_weights", lambda: weights)
    ratio = some_ratio(90)
    rows = torch.from_numpy(np.log(ratio.T))[None]
    with torch.no_grad():
        expected = torch.sigmoid(net(rows))[0].numpy().T
    assert expected.std() > 0.1
    assert_allclose(Music._learned_band_gain(ratio), expected, atol=1e-4)


def test_closer_frames_are_clips_of_their_own():
    ratio = some_ratio(120)
    gain = Music._band_gain(ratio, 2)
    assert_array_equal(gain[:, ::2], Music._learned_band_gain(ratio[:, ::2]))
    assert_array_equal(gain[:, 1::2], Music._learned_band_gain(ratio[:, 1::2]))


@pytest.mark.parametrize("sr", [16000, 44100])
def test_bands_of_another_rate_are_cleaned(sr):
    y = tune(6.0, sr=sr)
    mix = Music.add_pink_noise(y, 5, 3)
    clean = Music.mel_spectrogram(y, sr)
    before = Music.mel_spectrogram(mix, sr)
    after = Music.mel_spectrogram(mix, sr, denoise=True)

    def error(mel):
        foot = clean.max() / 1e8
        levels = np.log10(np.maximum(mel, foot)) - np.log10(np.maximum(clean, foot))
        return np.sqrt(np.mean(levels ** 2))

    assert error(after) < 0.7 * error(before)


@given(st.integers(40, 200), st.sampled_from([512, 1024]))
@settings(max_examples=8, deadline=None)
def test_band_gain_is_a_gain_for_any_bands_and_hop(n_mels, hop):
    y = noisy(tune(3.0), 5)
    before = Music.mel_spectrogram(y, n_mels=n_mels, hop_length=hop)
    after = Music.mel_spectrogram(y, n_mels=n_mels, hop_length=hop, denoise=True)
    assert after.shape == before.shape
    assert np.isfinite(after).all()
    assert np.all(after >= 0)
    assert np.all(after <= before)
    assert after.sum() < before.sum()


def test_without_weights_the_formula_works_and_says_so_once(monkeypatch, tmp_path):
    y = tune(10.0)
    mix = noisy(y, 5)
    monkeypatch.setattr(Music, "WEIGHTS", tmp_path / "gain.npz")
    Music.gain_weights.cache_clear()
    with pytest.warns(UserWarning, match="formula") as caught:
        cleaned = Music.remove_pink_noise(mix)
        Music.remove_pink_noise(mix)
    Music.gain_weights.cache_clear()
    assert len(caught) == 1
    assert Music.si_sdr(cleaned, y) > 8


def test_shipped_weights_are_small_and_plain():
    assert Music.WEIGHTS.stat().st_size <= 1_000_000
    with np.load(Music.WEIGHTS, allow_pickle=False) as kept:
        kinds = {name.rstrip("012").split(".")[0] for name in kept.files}
    assert kinds == {"bins", "bands"}


@pytest.mark.slow
def test_training_makes_weights_that_remove_noise(tmp_path):
    import soundfile
    for seed, name in enumerate("abc"):
        y = tune(25.0, seed=seed)
        soundfile.write(tmp_path / f"{name}.wav", y, Music.SR)
    out = tmp_path / "out"
    code = TRAIN.format(music=str(tmp_path), out=str(out))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    weights = out / "gain.npz"
    assert weights.exists(), done.stderr
    with np.load(weights) as kept:
        for name in kept.files:
            assert np.isfinite(kept[name]).all()


def test_held_out_tracks_go_by_piece():
    from train_gain import is_held_out
    names = [f"piece{i}" for i in range(400)]
    held = [is_held_out(f"x/{name}.flac") for name in names]
    clips_held = [is_held_out(f"y/{name}-3.flac") for name in names]
    share = np.mean(held)
    assert 0.18 < share < 0.32
    assert held == clips_held
    first_byte, *_ = hashlib.sha1(b"piece0").digest()
    assert held[0] == (first_byte % 4 == 0)
