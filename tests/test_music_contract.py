"""The names that others rely on, against librosa and closed forms."""

import subprocess
import sys

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx

import Music
from helpers import ROOT, tune

HEAVY = ("librosa", "music21", "torch", "soundfile", "joblib", "matplotlib")
IMPORT = """
import sys, Music
print([module for module in {heavy} if module in sys.modules])
"""


def test_mel_scale_is_the_assignments_formula():
    expected = 2595 * np.log10(2)
    assert Music.hz_to_mel(700) == approx(expected)
    hz = np.array([0, 27.5, 500, 1000, 9000, 11025])
    ours = Music.hz_to_mel(hz)
    theirs = librosa.hz_to_mel(hz, htk=True)
    assert_allclose(ours, theirs, rtol=1e-6)


@given(st.floats(0, 2e4))
def test_mel_to_hz_inverts_hz_to_mel(f):
    mel = Music.hz_to_mel(f)
    assert Music.mel_to_hz(mel) == approx(f, abs=1e-6)


@pytest.mark.parametrize("n_mels", [40, Music.N_MELS])
def test_mel_spectrogram_equals_librosas(n_mels):
    y = tune(2.0)
    expected = librosa.feature.melspectrogram(
        y=y, sr=Music.SR, n_fft=Music.N_FFT, hop_length=Music.HOP_LENGTH, n_mels=n_mels,
        htk=True, norm=None)
    ours = Music.mel_spectrogram(y, n_mels=n_mels)
    frames = 1 + len(y) // Music.HOP_LENGTH
    assert ours.shape == (n_mels, frames)
    assert_allclose(ours, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_mel_power_of_a_sine_is_what_its_docstring_says():
    f = 64 * Music.SR / Music.N_FFT          # the centre of a bin
    angle = 2 * np.pi * f / Music.SR
    y = 0.5 * np.sin(angle * np.arange(Music.SR))
    power = Music.stft_power(y, Music.N_FFT, Music.HOP_LENGTH)
    magnitude = 0.5 * Music.N_FFT / 4
    assert power[64, 10] == approx(magnitude ** 2, rel=1e-3)


def test_code_and_back_is_exact_inside_the_range():
    low, high = Music.DB_RANGE
    db = np.linspace(low, high, 50)
    power = 10 ** (db / 10)
    code = Music.code_from_mel(power)
    assert_allclose(Music.db_from_code(code), db, atol=1e-4)
    beyond = np.array([0.0, 1e12])
    lowest, highest = Music.code_from_mel(beyond)
    assert lowest == -1
    assert highest == 1


def test_pink_noise_has_unit_variance_and_falls_3_db_an_octave():
    from scipy.signal import welch
    rng = np.random.default_rng(0)
    y = Music.pink_noise(60 * Music.SR, rng)
    f, power = welch(y, Music.SR, nperseg=4096)
    keep = (f > 60) & (f < 9000)
    decades = np.log10(f[keep])
    levels = np.log10(power[keep])
    slope, _ = np.polyfit(decades, levels, 1)
    assert y.std() == approx(1)
    assert abs(y.mean()) < 1e-6
    assert slope == approx(-1, abs=0.03)


@given(st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_pink_noise_has_the_length_asked_for_and_repeats_from_its_seed(n):
    rng = np.random.default_rng(1)
    by_seed = Music.pink_noise(n, 1)
    by_generator = Music.pink_noise(n, rng)
    assert by_seed.shape == (n,)
    assert np.isfinite(by_seed).all()
    assert_array_equal(by_seed, by_generator)


def test_pink_noise_refuses_a_negative_length():
    with pytest.raises(ValueError, match="-1"):
        Music.pink_noise(-1)


@pytest.mark.parametrize("sr", [22050, 44100])
def test_pink_template_is_the_mean_stft_power(sr, monkeypatch):
    monkeypatch.setattr(Music, "SR", sr)
    noise = Music.pink_noise(60 * sr, 0)
    power = Music.stft_power(noise, 2048, 1024)
    template = Music.pink_template(2048, sr)[:, 0]
    ratio = power.mean(1) / template
    inner = ratio[2:-2]
    assert abs(np.median(inner) - 1) < 0.03


def test_import_stays_light():
    code = IMPORT.format(heavy=HEAVY)
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr
