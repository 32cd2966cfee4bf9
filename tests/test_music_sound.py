"""Codes to sound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import Music
from helpers import tune


def pitch(y):
    spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y)), 1 << 18))
    return spectrum.argmax() * Music.SR / (1 << 18)


@pytest.mark.parametrize("f", [220, 440])
@pytest.mark.parametrize("frames", [16, 64, 200])
def test_tones_come_back_at_their_pitch(f, frames):
    y = 0.3 * np.sin(2 * np.pi * f * np.arange(frames * Music.HOP_LENGTH) / Music.SR)
    code = Music.code_from_mel(Music.mel_spectrogram(y))[:, :frames]
    z = Music.music_from_code(code)
    assert abs(pitch(z[len(z) // 4:-len(z) // 4]) - f) < 12


def test_level_is_kept():
    y = tune(4.0)
    z = Music.music_from_code(Music.code_from_mel(Music.mel_spectrogram(y)))
    assert abs(10 * np.log10(np.mean(z ** 2) / np.mean(y ** 2))) < 1.0


def test_code_and_back_keeps_the_code():
    code = Music.code_from_mel(Music.mel_spectrogram(tune(4.0)))
    again = Music.code_from_mel(Music.mel_spectrogram(Music.music_from_code(code)))
    error = Music.db_from_code(again[:, :code.shape[1]]) - Music.db_from_code(code)
    assert np.sqrt(np.mean(error ** 2)) < 1.2


@pytest.mark.parametrize("n_fft, hop, n_mels", [(2048, 512, 128), (2048, 1024, 64),
                                                (4096, 1024, 128)])
def test_other_sizes_come_back_too(n_fft, hop, n_mels):
    size = {"n_fft": n_fft, "hop_length": hop}
    code = Music.code_from_mel(Music.mel_spectrogram(tune(3.0), n_mels=n_mels, **size))
    sound = Music.music_from_code(code, **size)
    again = Music.code_from_mel(Music.mel_spectrogram(sound, n_mels=n_mels, **size))
    error = Music.db_from_code(again[:, :code.shape[1]]) - Music.db_from_code(code)
    assert np.sqrt(np.mean(error ** 2)) < 2.0


def test_a_steady_tone_stays_steady_from_frame_to_frame():
    y = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * Music.SR) / Music.SR)
    z = Music.music_from_code(Music.code_from_mel(Music.mel_spectrogram(y)))[8000:-8000]
    power = np.convolve(z ** 2, np.ones(500) / 500, "valid")
    assert 10 * np.log10(power.max() / power.min()) < 3


def test_long_codes_are_made_in_blocks_without_a_seam(monkeypatch):
    y = tune(9.0)
    code = Music.code_from_mel(Music.mel_spectrogram(y))
    monkeypatch.setattr(Music, "SOUND_BLOCK", 80)
    z = Music.music_from_code(code)
    again = Music.code_from_mel(Music.mel_spectrogram(z))[:, :code.shape[1]]
    error = np.sqrt(np.mean((Music.db_from_code(again) - Music.db_from_code(code)) ** 2, 0))
    assert np.median(error) < 1.2 and error[70:130].mean() < 3


def test_loudest_code_does_not_clip():
    assert np.abs(Music.music_from_code(np.ones((Music.N_MELS, 20)))).max() <= 1


def test_silence_stays_silent():
    assert not Music.music_from_code(-np.ones((Music.N_MELS, 9))).any()


@given(st.integers(1, 40), st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_any_number_of_frames_gives_sound_of_that_length(frames, seed):
    code = np.random.default_rng(seed).uniform(-1.2, 1.2, (Music.N_MELS, frames))
    y = Music.music_from_code(code, n_iter=2)
    assert y.shape == (frames * Music.HOP_LENGTH,) and y.dtype == np.float32
    assert np.isfinite(y).all() and np.abs(y).max() <= 1


@pytest.mark.parametrize("code", [np.zeros(5), np.zeros((128, 0)), np.full((128, 3), np.nan)])
def test_what_is_no_code_is_refused(code):
    with pytest.raises(ValueError, match="a code is a matrix"):
        Music.music_from_code(code)


def test_integers_are_no_code():
    with pytest.raises(TypeError, match="uint8"):
        Music.music_from_code(np.zeros((128, 3), np.uint8))
