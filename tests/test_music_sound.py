"""Codes to sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import Music
from helpers import tune

FINE = 1 << 18     # samples of an FFT whose bins are 0.08 Hz apart


def sine(hz, samples):
    """A sine that does not clip."""
    angle = 2 * np.pi * hz / Music.SR
    return 0.3 * np.sin(angle * np.arange(samples))


def code_of(y, **size):
    """Code (n_mels, t) of a waveform."""
    power = Music.mel_spectrogram(y, **size)
    return Music.code_from_mel(power)


def pitch(y):
    """Frequency of the strongest partial, Hz."""
    window = np.hanning(len(y))
    spectrum = np.fft.rfft(y * window, FINE)
    strongest = np.abs(spectrum).argmax()
    return strongest * Music.SR / FINE


def error_db(again, code):
    """How far a second code lies from the first, in dB; it may have more frames."""
    frames = code.shape[1]
    heard = Music.db_from_code(again[:, :frames])
    return heard - Music.db_from_code(code)


def rms(values, axis=None):
    """Root of the mean square."""
    square = np.mean(values ** 2, axis)
    return np.sqrt(square)


@pytest.mark.parametrize("f", [220, 440])
@pytest.mark.parametrize("frames", [16, 64, 200])
def test_tones_come_back_at_their_pitch(f, frames):
    y = sine(f, frames * Music.HOP_LENGTH)
    code = code_of(y)[:, :frames]
    z = Music.music_from_code(code)
    quarter = len(z) // 4
    middle = z[quarter:-quarter]
    assert abs(pitch(middle) - f) < 12


def test_level_is_kept():
    y = tune(4.0)
    z = Music.music_from_code(code_of(y))
    ratio = np.mean(z ** 2) / np.mean(y ** 2)
    decibels = 10 * np.log10(ratio)
    assert abs(decibels) < 1.0


def test_code_and_back_keeps_the_code():
    code = code_of(tune(4.0))
    sound = Music.music_from_code(code)
    error = error_db(code_of(sound), code)
    assert rms(error) < 1.2


@pytest.mark.parametrize("n_fft, hop, n_mels", [
    (2048, 512, 128),
    (2048, 1024, 64),
    (4096, 1024, 128),
])
def test_other_sizes_come_back_too(n_fft, hop, n_mels):
    size = {"n_fft": n_fft, "hop_length": hop}
    code = code_of(tune(3.0), n_mels=n_mels, **size)
    sound = Music.music_from_code(code, **size)
    again = code_of(sound, n_mels=n_mels, **size)
    error = error_db(again, code)
    assert rms(error) < 2.0


def test_a_steady_tone_stays_steady_from_frame_to_frame():
    y = sine(440, 2 * Music.SR)
    z = Music.music_from_code(code_of(y))
    middle = z[8000:-8000]
    average = np.ones(500) / 500
    power = np.convolve(middle ** 2, average, "valid")
    ratio = power.max() / power.min()
    assert 10 * np.log10(ratio) < 3


def test_long_codes_are_made_in_blocks_without_a_seam(monkeypatch):
    code = code_of(tune(9.0))
    monkeypatch.setattr(Music, "SOUND_BLOCK", 80)
    z = Music.music_from_code(code)
    error = error_db(code_of(z), code)
    by_frame = rms(error, axis=0)
    around_seam = by_frame[70:130]
    assert np.median(by_frame) < 1.2
    assert around_seam.mean() < 3


def test_loudest_code_does_not_clip():
    code = np.ones((Music.N_MELS, 20))
    sound = Music.music_from_code(code)
    assert np.abs(sound).max() <= 1


def test_silence_stays_silent():
    code = -np.ones((Music.N_MELS, 9))
    sound = Music.music_from_code(code)
    assert not sound.any()


@given(st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_any_number_of_frames_gives_sound_of_that_length(frames, seed):
    rng = np.random.default_rng(seed)
    code = rng.uniform(-1.2, 1.2, (Music.N_MELS, frames))
    y = Music.music_from_code(code, n_iter=2)
    assert y.shape == (frames * Music.HOP_LENGTH,)
    assert y.dtype == np.float32
    assert np.isfinite(y).all()
    assert np.abs(y).max() <= 1


@pytest.mark.parametrize("code", [
    np.zeros(5),
    np.zeros((128, 0)),
    np.full((128, 3), np.nan),
])
def test_what_is_no_code_is_refused(code):
    with pytest.raises(ValueError, match="a code is a matrix"):
        Music.music_from_code(code)


def test_integers_are_no_code():
    code = np.zeros((128, 3), np.uint8)
    with pytest.raises(TypeError, match="uint8"):
        Music.music_from_code(code)
