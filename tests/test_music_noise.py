"""Pink noise: found blind, removed, and never invented."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

import Music
from helpers import ROOT, tune


def coloured(n, slope, seed=0):
    """Unit-variance noise whose power falls as 1 / f^slope."""
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    noise = np.fft.irfft(white * np.sqrt(Music.pink_psd(n, Music.SR, slope)), n)
    return noise / noise.std()


def noisy(y, snr_db, slope=1.0):
    return y + coloured(len(y), slope, 3) * np.sqrt(np.mean(y ** 2) / 10 ** (snr_db / 10))


def floor_of(y):
    return Music.pink_floor(Music.stft_power(y, Music.N_FFT, Music.HOP_LENGTH))


@pytest.mark.parametrize("snr", [0, 5, 10, 20])
def test_floor_level_is_found_blind(snr):
    y = tune(10.0)
    floor = floor_of(noisy(y, snr))
    assert floor.presence > 0.9 and floor.slope == 1.0
    assert abs(10 * np.log10(floor.variance / (np.mean(y ** 2) / 10 ** (snr / 10)))) < 1.0


@pytest.mark.parametrize("seconds", [2, 5, 30, 60])
def test_floor_level_does_not_depend_on_the_length(seconds):
    floor = floor_of(Music.pink_noise(seconds * Music.SR, 5))
    assert floor.presence == 1 and abs(10 * np.log10(floor.variance)) < 1.5


@pytest.mark.parametrize("snr, gain", [(0, 5), (5, 4), (10, 3), (20, 0.5)])
@pytest.mark.parametrize("slope", [0.8, 1.0, 1.2])
def test_noise_removal_raises_si_sdr(snr, gain, slope):
    y = tune(10.0)
    cleaned = Music.remove_pink_noise(noisy(y, snr, slope))
    assert cleaned.shape == y.shape
    least = gain if slope == 1 else gain / 2
    assert Music.si_sdr(cleaned, y) > Music.si_sdr(noisy(y, snr, slope), y) + least


def test_clean_music_is_left_alone():
    y = tune(10.0)
    np.testing.assert_array_equal(Music.remove_pink_noise(y), y)


def test_white_noise_and_chords_are_no_pink_floor():
    t = np.arange(10 * Music.SR) / Music.SR
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277.2, 329.6)).astype(np.float32)
    white = np.random.default_rng(0).standard_normal(len(t)).astype(np.float32)
    for y in chord, white:
        np.testing.assert_array_equal(Music.remove_pink_noise(y), y)


def test_hum_stays_and_noise_goes():
    y = tune(10.0) + 0.02 * np.sin(2 * np.pi * 50 * np.arange(10 * Music.SR) / Music.SR)
    cleaned = Music.remove_pink_noise(noisy(y, 10))
    assert Music.si_sdr(cleaned, y) > 13


def test_noise_that_fades_in_does_no_harm():
    y = tune(10.0)
    mix = y + (noisy(y, 5) - y) * np.linspace(0, 1, len(y)) ** 2
    assert Music.si_sdr(Music.remove_pink_noise(mix), y) > Music.si_sdr(mix, y) - 0.5


def test_a_gap_of_digital_silence_stays_silent_and_hides_no_noise():
    y = tune(10.0)
    mix = noisy(y, 5)
    y[60000:110000] = mix[60000:110000] = 0
    cleaned = Music.remove_pink_noise(mix)
    assert np.abs(cleaned[65000:105000]).max() < 1e-6
    assert Music.si_sdr(cleaned, y) > Music.si_sdr(mix, y) + 3


@pytest.mark.parametrize("y", [np.zeros(50000), np.zeros(0), np.ones(10), tune(1.0)[:3000]])
def test_silence_and_short_clips_come_back_as_they_are(y):
    np.testing.assert_array_equal(Music.remove_pink_noise(y), y.astype(np.float32))


def test_one_second_is_enough_or_left_alone():
    y = tune(1.0)
    assert Music.si_sdr(Music.remove_pink_noise(noisy(y, 5)), y) > 4.5


def test_channels_are_cleaned_one_by_one():
    y = noisy(tune(3.0), 5)
    both = Music.remove_pink_noise(np.stack([y, 0 * y]))
    np.testing.assert_array_equal(both[0], Music.remove_pink_noise(y))
    assert not both[1].any()


def test_a_higher_rate_is_cleaned_as_well():
    y = tune(6.0, sr=44100)
    noise = Music.pink_noise(len(y), 3) * np.sqrt(np.mean(y ** 2) / 10 ** 0.5)
    assert Music.si_sdr(Music.remove_pink_noise(y + noise, 44100), y) > 8


def narrowed(y, sr):
    """What is left of a waveform that was stored at a lower rate, back at the usual one."""
    lower = soxr.resample(y, Music.SR, sr)
    back = soxr.resample(lower, sr, Music.SR)[:len(y)]
    return np.pad(back, (0, len(y) - len(back))).astype(np.float32)


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
    assert Music.si_sdr(Music.remove_pink_noise(mix, sr), y) > 8


@pytest.mark.parametrize("sr", [8000, 11025, 16000])
def test_clean_music_of_a_low_rate_is_left_alone(sr):
    y = narrowed(tune(10.0), sr)
    np.testing.assert_array_equal(Music.remove_pink_noise(y), y)


def test_noise_in_a_small_mp3_is_found_and_removed(tmp_path):
    import soundfile
    y = tune(10.0)
    mix = np.stack(2 * [soxr.resample(noisy(y, 5), Music.SR, 44100)], axis=1)
    small = {"bitrate_mode": "CONSTANT", "compression_level": (320 - 48) / (320 - 32)}
    soundfile.write(tmp_path / "a.mp3", mix, 44100, **small)
    decoded = next(iter(Music.audio_clips(tmp_path / "a.mp3", 9)))
    cleaned = Music.mel_spectrogram(decoded, denoise=True)
    assert floor_of(decoded).presence == 1
    assert cleaned.sum() < 0.9 * Music.mel_spectrogram(decoded).sum()


def test_full_band_noise_has_no_cut():
    for seed in range(3):
        mix = noisy(tune(5.0, seed=seed), 10)
        power = Music.stft_power(mix, Music.N_FFT, Music.HOP_LENGTH)
        tiles = Music._cells(power, Music.N_FFT, Music.SR).mean((1, 3))
        assert Music._bands_below_cut(tiles) == len(tiles)


@pytest.mark.parametrize("call", [Music.remove_pink_noise, Music.mel_spectrogram,
                                  lambda y: Music.add_pink_noise(y, 5)])
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
    with pytest.raises(TypeError, match="estimate holds int16"):
        Music.si_sdr(y.astype(np.int16), y)
    with pytest.raises(ValueError, match="two waveforms"):
        Music.si_sdr(y[1:], y)
    with pytest.raises(ValueError, match="silent"):
        Music.si_sdr(y, 0 * y)
    assert Music.si_sdr(y, y) > 100


def test_blocks_do_not_change_the_gain():
    y = noisy(tune(12.0), 5)
    power, floor = Music.stft_power(y, 4096, 1024), floor_of(y)
    whole = Music.noise_gain(power, floor)
    ratio = power / floor.power(4096)
    x = Music.gain_features(ratio, np.linspace(0, Music.SR / 2, 2049), "bins", ratio.mean())
    h = x.reshape(len(x), -1)
    for layer in range(3):
        w = Music.gain_weights()[f"bins{layer}"]
        h = w[:, :-1] @ (np.maximum(h, 0) if layer else h) + w[:, -1:]
    np.testing.assert_allclose(whole, (1 / (1 + np.exp(-h))).reshape(whole.shape), atol=1e-3)


@given(st.integers(40, 200), st.sampled_from([512, 1024]))
@settings(max_examples=8, deadline=None)
def test_band_gain_is_a_gain_for_any_bands_and_hop(n_mels, hop):
    y = noisy(tune(3.0), 5)
    before = Music.mel_spectrogram(y, n_mels=n_mels, hop_length=hop)
    after = Music.mel_spectrogram(y, n_mels=n_mels, hop_length=hop, denoise=True)
    assert after.shape == before.shape and np.isfinite(after).all()
    assert (after >= 0).all() and (after <= before).all() and after.sum() < before.sum()


def test_without_weights_the_formula_works_and_says_so_once(monkeypatch, tmp_path):
    y = tune(10.0)
    monkeypatch.setattr(Music, "WEIGHTS", tmp_path / "gain.npz")
    Music.gain_weights.cache_clear()
    with pytest.warns(UserWarning, match="formula") as caught:
        cleaned = Music.remove_pink_noise(noisy(y, 5))
        Music.remove_pink_noise(noisy(y, 5))
    Music.gain_weights.cache_clear()
    assert len(caught) == 1 and Music.si_sdr(cleaned, y) > 8


def test_shipped_weights_are_small_and_plain():
    assert Music.WEIGHTS.stat().st_size <= 20_000
    with np.load(Music.WEIGHTS, allow_pickle=False) as kept:
        assert set(kept.files) == {f"{k}{i}" for k in ("bins", "bands") for i in range(3)}


@pytest.mark.slow
def test_training_makes_weights_that_remove_noise(tmp_path):
    import soundfile
    for seed in range(3):
        soundfile.write(tmp_path / f"{'abcdefgh'[seed]}.wav", tune(25.0, seed=seed), Music.SR)
    code = ("import sys; sys.path[:0] = ['tests/evidence']; import train_gain as t; t.MIXES = 12; "
            "t.is_held_out = lambda p: False; t.STEPS = {'bins': 60, 'bands': 60}; "
            f"t.train({str(tmp_path)!r}, {str(tmp_path / 'out')!r})")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (tmp_path / "out" / "gain.npz").exists(), done.stderr
    with np.load(tmp_path / "out" / "gain.npz") as kept:
        assert all(np.isfinite(kept[name]).all() for name in kept.files)


def test_held_out_tracks_go_by_piece():
    from train_gain import is_held_out
    names = [f"piece{i}" for i in range(400)]
    held = [is_held_out(f"x/{n}.flac") for n in names]
    assert 0.18 < np.mean(held) < 0.32
    assert held == [is_held_out(f"y/{n}-3.flac") for n in names]
    assert held[0] == (hashlib.sha1(b"piece0").digest()[0] % 4 == 0)
