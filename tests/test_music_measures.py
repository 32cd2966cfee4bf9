"""What music is like: against closed forms, libraries and synthetic sound."""

import warnings

import librosa
import numpy as np
import pytest
from scipy import stats

import Music


def code(y):
    """Code of a waveform, without the frames at its ends: (1, n_mels, t)."""
    return Music.code_from_mel(Music.mel_spectrogram(y.astype(np.float32)))[None, :, 4:-4]


def tones(pitches, noise=0.0, seconds=2, fall=0):
    """Code of sines so many semitones above 440 Hz, each `fall` dB below the one before."""
    t = np.arange(seconds * Music.SR) / Music.SR
    y = sum(0.05 * 10 ** (-fall * i / 20) * np.sin(2 * np.pi * 440 * 2 ** (p / 12) * t)
            for i, p in enumerate(pitches))
    return code(y + noise * Music.pink_noise(len(t), 0))


def struck(period, seconds=10):
    """Code of a tone that is struck every `period` seconds and dies away."""
    t = np.arange(seconds * Music.SR) / Music.SR
    return code(0.3 * np.sin(2 * np.pi * 660 * t) * np.exp(-8 * (t % period)))


def measured(codes):
    return {name: values[0] for name, values in Music.musical_measures(codes).items()}


@pytest.mark.parametrize("noise, cents", [(0, 0.5), (0.015, 4)])
def test_frequency_of_a_sine(noise, cents):
    for pitch in np.arange(0, 32, 0.74):
        x = tones([pitch], noise, seconds=1)
        peak, hz, power = Music.spectral_peaks(x)
        loud = hz[peak & (power > power.max() / 10)]
        assert len(loud) == x.shape[2]
        assert np.abs(1200 * np.log2(loud / 440) - 100 * pitch).max() < cents


@pytest.mark.parametrize("cents, share", [(-15, 1), (0, 1), (15, 1), (-19, 0), (19, 0), (50, 0)])
def test_in_tune_is_within_a_sixth_of_a_semitone(cents, share):
    assert measured(tones(np.array([0, 7, 16]) + cents / 100))["in tune"] == share


def test_half_the_tones_in_tune_are_half():
    assert measured(tones([0, 12.5]))["in tune"] == pytest.approx(0.5, abs=0.02)


def test_chroma_entropy_counts_pitch_classes():
    assert measured(tones([3, 15]))["chroma entropy"] < 0.01       # an octave is one class
    assert measured(tones([0, 7, 16]))["chroma entropy"] == pytest.approx(
        np.log(3) / np.log(12), abs=0.03)


def test_chroma_sums_magnitudes():
    share = np.array([10, 1]) / 11     # of magnitude, of tones that are 20 dB apart
    assert measured(tones([0, 16], fall=20))["chroma entropy"] == pytest.approx(
        -(share * np.log(share)).sum() / np.log(12), abs=0.01)


@pytest.mark.parametrize("fall, share", [(30, 0.5), (45, 1)])
def test_partials_far_below_the_strongest_do_not_count(fall, share):
    assert measured(tones([0, 16.5], fall=fall))["in tune"] == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("period", [0.25, 0.4, 0.8])
def test_onsets_come_at_the_rate_of_the_notes(period):
    assert measured(struck(period))["onsets/s"] == pytest.approx(1 / period, rel=0.06)


def test_a_steady_tone_has_no_onset():
    assert measured(tones([0]))["onsets/s"] == 0


def test_onsets_are_those_of_librosa(rng):
    codes = np.clip(rng.normal(0, .2, (20, 128, 64)), -1, 1).astype(np.float32)
    codes[:, :, ::9] += 0.3
    flux = np.maximum(np.diff(Music.db_from_code(codes), axis=2), 0).mean(1)
    for curve, rate in zip(flux, Music.musical_measures(codes)["onsets/s"]):
        peaks = librosa.util.peak_pick(curve, pre_max=1, post_max=2, pre_avg=2, post_avg=3,
                                       delta=Music.ONSET_DB, wait=1)
        inner = np.sum((peaks >= 2) & (peaks < len(curve) - 2))
        assert inner > 0 and rate == pytest.approx(inner / (59 * Music.HOP_LENGTH / Music.SR))


def test_flux_kurtosis_is_that_of_scipy_and_high_for_few_sharp_rises(rng):
    codes = rng.uniform(-1, 1, (3, 128, 64))
    flux = np.maximum(np.diff(Music.db_from_code(codes), axis=2), 0).mean(1)
    np.testing.assert_allclose(Music.musical_measures(codes)["flux kurtosis"],
                               stats.kurtosis(flux, axis=1), rtol=1e-3, atol=1e-3)
    assert measured(struck(0.8))["flux kurtosis"] > 5 > measured(struck(0.25))["flux kurtosis"]


@pytest.mark.parametrize("fall", [0, 10, 25])
@pytest.mark.parametrize("loud", [1.2, 5, 8.8])
def test_dynamics_are_those_of_the_level(fall, loud):
    t = np.arange(10 * Music.SR) / Music.SR
    y = 0.3 * np.sin(2 * np.pi * 660 * t) * np.where(t < loud, 1, 10 ** (-fall / 20))
    assert measured(code(y))["dynamics (dB)"] == pytest.approx(fall, abs=0.2)


def test_dynamics_leave_out_single_frames():
    t = np.arange(10 * Music.SR) / Music.SR
    y = 0.3 * np.sin(2 * np.pi * 660 * t) * np.where((t > 4) & (t < 4.2), 0.01, 1)
    assert measured(code(y))["dynamics (dB)"] < 1


def test_measures_of_silence_and_noise_give_no_warning(rng):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence = Music.musical_measures(np.full((2, 128, 64), -1.0))
        white = measured(code(0.1 * rng.normal(size=60 * Music.SR)))
    assert np.isnan(silence["in tune"]).all() and np.isnan(silence["chroma entropy"]).all()
    assert not silence["onsets/s"].any() and not silence["dynamics (dB)"].any()
    assert white["in tune"] == pytest.approx(1 / 3, abs=0.07)
    assert white["chroma entropy"] > 0.95 and white["dynamics (dB)"] < 2


def test_measures_of_a_patch_do_not_depend_on_the_others(rng):
    codes = rng.uniform(-1, 1, (601, 128, 16)).astype(np.float16)   # more than a batch
    whole = Music.musical_measures(codes)
    for i in (0, 499, 500, 600):
        for name, value in measured(codes[i:i + 1]).items():
            assert whole[name].shape == (601,) and whole[name][i] == pytest.approx(value, rel=1e-5)


def test_piece_measures_of_a_passage_that_returns_are_high(rng):
    passage = rng.uniform(-1, 1, (2, 128, 96)).astype(np.float32)
    other = rng.uniform(-1, 1, (2, 128, 192)).astype(np.float32)
    again = Music.piece_measures(np.concatenate([passage, passage], axis=2))
    never = Music.piece_measures(other)
    assert again["piece/return"] > 0.7 > 0.3 > never["piece/return"]


def test_unevenness_is_that_of_one_phase_of_the_period():
    change = np.tile([1.0] * 15 + [3.0], 8)
    code = np.cumsum(change) * np.ones((1, 4, 1))
    assert Music.unevenness(code) == pytest.approx(3)
