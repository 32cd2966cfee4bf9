"""The names that others rely on, against librosa and closed forms."""

import subprocess
import sys

import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import Music
from helpers import ROOT, tune


def test_mel_scale_is_the_assignments_formula():
    assert Music.hz_to_mel(700) == pytest.approx(2595 * np.log10(2))
    f = np.array([0, 27.5, 500, 1000, 9000, 11025])
    np.testing.assert_allclose(Music.hz_to_mel(f), librosa.hz_to_mel(f, htk=True), rtol=1e-6)


@given(st.floats(0, 2e4))
def test_mel_to_hz_inverts_hz_to_mel(f):
    assert Music.mel_to_hz(Music.hz_to_mel(f)) == pytest.approx(f, abs=1e-6)


@pytest.mark.parametrize("n_mels", [40, Music.N_MELS])
def test_mel_spectrogram_equals_librosas(n_mels):
    y = tune(2.0)
    expected = librosa.feature.melspectrogram(
        y=y, sr=Music.SR, n_fft=Music.N_FFT, hop_length=Music.HOP_LENGTH, n_mels=n_mels,
        htk=True, norm=None)
    ours = Music.mel_spectrogram(y, n_mels=n_mels)
    assert ours.shape == (n_mels, 1 + len(y) // Music.HOP_LENGTH)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_mel_power_of_a_sine_is_what_its_docstring_says():
    f = 64 * Music.SR / Music.N_FFT          # the centre of a bin
    y = 0.5 * np.sin(2 * np.pi * f * np.arange(Music.SR) / Music.SR)
    bin_power = Music.stft_power(y, Music.N_FFT, Music.HOP_LENGTH)[64, 10]
    assert bin_power == pytest.approx((0.5 * Music.N_FFT / 4) ** 2, rel=1e-3)


def test_code_and_back_is_exact_inside_the_range():
    db = np.linspace(*Music.DB_RANGE, 50)
    code = Music.code_from_mel(10 ** (db / 10))
    np.testing.assert_allclose(Music.db_from_code(code), db, atol=1e-4)
    assert Music.code_from_mel(np.array([0.0]))[0] == -1
    assert Music.code_from_mel(np.array([1e12]))[0] == 1


def test_pink_noise_has_unit_variance_and_falls_3_db_an_octave():
    from scipy.signal import welch
    y = Music.pink_noise(60 * Music.SR, np.random.default_rng(0))
    f, power = welch(y, Music.SR, nperseg=4096)
    keep = (f > 60) & (f < 9000)
    slope = np.polyfit(np.log10(f[keep]), np.log10(power[keep]), 1)[0]
    assert y.std() == pytest.approx(1) and abs(y.mean()) < 1e-6
    assert slope == pytest.approx(-1, abs=0.03)


@given(st.integers(0, 300))
@settings(max_examples=20, deadline=None)
def test_pink_noise_has_the_length_asked_for_and_repeats_from_its_seed(n):
    a, b = Music.pink_noise(n, 1), Music.pink_noise(n, np.random.default_rng(1))
    assert a.shape == (n,) and np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)


def test_pink_noise_refuses_a_negative_length():
    with pytest.raises(ValueError, match="-1"):
        Music.pink_noise(-1)


@pytest.mark.parametrize("sr", [22050, 44100])
def test_pink_template_is_the_mean_stft_power(sr, monkeypatch):
    monkeypatch.setattr(Music, "SR", sr)
    power = Music.stft_power(Music.pink_noise(60 * sr, 0), 2048, 1024).mean(1)
    ratio = power / Music.pink_template(2048, sr)[:, 0]
    assert abs(np.median(ratio[2:-2]) - 1) < 0.03


def test_import_stays_light():
    heavy = ("librosa", "music21", "torch", "soundfile", "joblib", "matplotlib")
    code = f"import sys, Music; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]", out.stderr
