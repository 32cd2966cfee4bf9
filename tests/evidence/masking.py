"""Is a difference audible? Its level in third octaves against the masking threshold of the music.

The threshold is Johnston's: what the music has in each band spreads to the bands around it
(Schroeder et al. 1979), and masks what lies 5.5 dB (noise) to 14.5 dB and more (tones) below;
nothing below the threshold in quiet (Terhardt 1979) is heard. Music is played at `LEVEL`.

The difference is that of magnitudes, since phase is invented. Another draw of the same noise
counts as an error here, though nobody hears it: for noisy music the figures are too strict.

J. D. Johnston, "Transform coding of audio signals using perceptual noise criteria", IEEE Journal
on Selected Areas in Communications 6(2), 1988.
"""

import functools

import librosa
import numpy as np

import Music

LEVEL = 70           # dB SPL of the whole clip
HEARD = 30           # dB SPL of a frame: quieter ones are left out
FFT = {"n_fft": Music.N_FFT, "hop_length": Music.HOP_LENGTH // 2}
CENTRES = 1000 * 2 ** (np.arange(-12, 11) / 3)    # Hz, of third octaves: 63 Hz to 10 kHz
HALF_BAND = 2 ** (1 / 6)


def bark(hz):
    """Critical-band rate (Zwicker and Terhardt 1980)."""
    return 13 * np.arctan(0.00076 * hz) + 3.5 * np.arctan((hz / 7500) ** 2)


def threshold_in_quiet(hz):
    """dB SPL (Terhardt 1979)."""
    khz = hz / 1000
    return 3.64 * khz ** -0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz ** 4


@functools.cache
def bands():
    """Which bins belong to each third octave, `[shape=(bands, bins)]`."""
    hz = np.linspace(0, Music.SR / 2, Music.N_FFT // 2 + 1)
    low = CENTRES[:, None] / HALF_BAND
    return ((hz >= low) & (hz < low * HALF_BAND ** 2)).astype(float)


@functools.cache
def spreading():
    """What a band (column) gives to each band (row), power; rows sum to 1."""
    z = bark(CENTRES)
    apart = z[:, None] - z + 0.474
    db = 15.81 + 7.5 * apart - 17.5 * np.sqrt(1 + apart ** 2)
    power = 10 ** (db / 10)
    return power / power.sum(1, keepdims=True)


def tonality(power):
    """0 for noise, 1 for tones, of each frame of a power spectrogram (bins, t)."""
    floor = 1e-9 * power.max() + 1e-30
    raised = power + floor
    flatness = np.mean(np.log10(raised), axis=0) - np.log10(raised.mean(0))
    return np.clip(10 * flatness / -60, 0, 1)


def masking_threshold(power, scale):
    """Power that stays inaudible in each band and frame, `(bands, t)`, in units of `scale`."""
    spread = spreading() @ (bands() @ power) * scale
    tone = tonality(power)
    z = bark(CENTRES)[:, None]
    offset = tone * (14.5 + z) + (1 - tone) * 5.5
    quiet = 10 ** (threshold_in_quiet(CENTRES)[:, None] / 10)
    return np.maximum(spread * 10 ** (-offset / 10), quiet)


def noise_to_mask(truth, found, mean_square):
    """Level of the difference over the masking threshold, dB `(bands, frames)`.

    Of the magnitudes (bins, frames) of STFTs by `FFT`, of music and of what is to sound like it;
    `mean_square` is that of the music's samples. Frames in which it is hardly heard are left out.
    """
    window = librosa.filters.get_window("hann", Music.N_FFT)
    per_bin = 2 / (Music.N_FFT * np.sum(window ** 2))     # of the mean square (Parseval)
    scale = per_bin / mean_square * 10 ** (LEVEL / 10)
    threshold = masking_threshold(truth ** 2, scale)
    difference = bands() @ (found - truth) ** 2 * scale
    frame = (truth ** 2).sum(0) * scale
    heard = frame > 10 ** (HEARD / 10)
    ratio = np.maximum(difference, 1e-12) / threshold
    return 10 * np.log10(ratio[:, heard])
