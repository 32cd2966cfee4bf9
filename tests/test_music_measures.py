"""What music is like: against closed forms, libraries and synthetic sound."""

import warnings

import librosa
import numpy as np
import pytest
from pytest import approx
from scipy import stats

import Music


def code(y):
    """Code of a waveform, without the frames at its ends: (1, n_mels, t)."""
    power = Music.mel_spectrogram(y.astype(np.float32))
    whole = Music.code_from_mel(power)
    return whole[None, :, 4:-4]


def times(seconds):
    """When each sample of so many seconds comes, in seconds."""
    samples = np.arange(seconds * Music.SR)
    return samples / Music.SR


def sine(hz, t):
    """A sine of amplitude 1 at the times `t`."""
    angle = 2 * np.pi * hz * t
    return np.sin(angle)


def amplitude(db):
    """The amplitude of a level in dB."""
    decades = db / 20
    return 10 ** decades


def tones(pitches, noise=0.0, seconds=2, fall=0):
    """Code of sines so many semitones above 440 Hz, each `fall` dB below the one before."""
    t = times(seconds)
    y = noise * Music.pink_noise(len(t), 0)
    for i, pitch in enumerate(pitches):
        octaves = pitch / 12
        hz = 440 * 2 ** octaves
        loudness = 0.05 * amplitude(-fall * i)
        y += loudness * sine(hz, t)
    return code(y)


def struck(period, seconds=10):
    """Code of a tone that is struck every `period` seconds and dies away."""
    t = times(seconds)
    since_stroke = t % period
    fading = np.exp(-8 * since_stroke)
    tone = 0.3 * sine(660, t)
    return code(tone * fading)


def measured(codes):
    """Measures of the first code."""
    found = Music.musical_measures(codes)
    return {name: values[0] for name, values in found.items()}


def rises(codes):
    """How much louder the bands of each frame are on average than before, in dB."""
    change = np.diff(Music.db_from_code(codes), axis=2)
    louder = np.maximum(change, 0)
    return louder.mean(1)


@pytest.mark.parametrize("noise, cents", [(0, 0.5), (0.015, 4)])
def test_frequency_of_a_sine(noise, cents):
    for pitch in np.arange(0, 32, 0.74):
        x = tones([pitch], noise, seconds=1)
        peak, hz, power = Music.spectral_peaks(x)
        strong = power > power.max() / 10
        loud = hz[peak & strong]
        frames = x.shape[2]
        assert len(loud) == frames
        heard = 1200 * np.log2(loud / 440)
        error = np.abs(heard - 100 * pitch)
        assert error.max() < cents


@pytest.mark.parametrize("cents, share", [
    (-15, 1),
    (0, 1),
    (15, 1),
    (-19, 0),
    (19, 0),
    (50, 0),
])
def test_in_tune_is_within_a_sixth_of_a_semitone(cents, share):
    chord = np.array([0, 7, 16])
    found = measured(tones(chord + cents / 100))
    assert found["in tune"] == share


def test_half_the_tones_in_tune_are_half():
    found = measured(tones([0, 12.5]))
    assert found["in tune"] == approx(0.5, abs=0.02)


def test_chroma_entropy_counts_pitch_classes():
    octave = measured(tones([3, 15]))               # one class
    three = measured(tones([0, 7, 16]))
    expected = np.log(3) / np.log(12)
    assert octave["chroma entropy"] < 0.01
    assert three["chroma entropy"] == approx(expected, abs=0.03)


def test_chroma_sums_magnitudes():
    share = np.array([10, 1]) / 11     # of magnitude, of tones that are 20 dB apart
    entropy = -np.sum(share * np.log(share))
    expected = entropy / np.log(12)
    found = measured(tones([0, 16], fall=20))
    assert found["chroma entropy"] == approx(expected, abs=0.01)


@pytest.mark.parametrize("fall, share", [(30, 0.5), (45, 1)])
def test_partials_far_below_the_strongest_do_not_count(fall, share):
    found = measured(tones([0, 16.5], fall=fall))
    assert found["in tune"] == approx(share, abs=0.02)


@pytest.mark.parametrize("period", [0.25, 0.4, 0.8])
def test_onsets_come_at_the_rate_of_the_notes(period):
    found = measured(struck(period))
    assert found["onsets/s"] == approx(1 / period, rel=0.06)


def test_a_steady_tone_has_no_onset():
    found = measured(tones([0]))
    assert found["onsets/s"] == 0


def test_onsets_are_those_of_librosa(rng):
    levels = rng.normal(0, 0.2, (20, 128, 64))
    codes = np.clip(levels, -1, 1).astype(np.float32)
    codes[:, :, ::9] += 0.3
    rates = Music.musical_measures(codes)["onsets/s"]
    seconds = 59 * Music.HOP_LENGTH / Music.SR      # without the two rises at either end
    for curve, rate in zip(rises(codes), rates):
        peaks = librosa.util.peak_pick(curve, pre_max=1, post_max=2, pre_avg=2, post_avg=3,
                                       delta=Music.ONSET_DB, wait=1)
        late = peaks >= 2
        early = peaks < len(curve) - 2
        inner = np.sum(late & early)
        assert inner > 0
        assert rate == approx(inner / seconds)


def test_flux_kurtosis_is_that_of_scipy_and_high_for_few_sharp_rises(rng):
    codes = rng.uniform(-1, 1, (3, 128, 64))
    ours = Music.musical_measures(codes)["flux kurtosis"]
    expected = stats.kurtosis(rises(codes), axis=1)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)
    few = measured(struck(0.8))
    many = measured(struck(0.25))
    assert few["flux kurtosis"] > 5
    assert many["flux kurtosis"] < 5


@pytest.mark.parametrize("fall", [0, 10, 25])
@pytest.mark.parametrize("loud", [1.2, 5, 8.8])
def test_dynamics_are_those_of_the_level(fall, loud):
    t = times(10)
    level = np.where(t < loud, 1, amplitude(-fall))
    y = 0.3 * sine(660, t) * level
    found = measured(code(y))
    assert found["dynamics (dB)"] == approx(fall, abs=0.2)


def test_dynamics_leave_out_single_frames():
    t = times(10)
    moment = (t > 4) & (t < 4.2)
    level = np.where(moment, 0.01, 1)
    y = 0.3 * sine(660, t) * level
    found = measured(code(y))
    assert found["dynamics (dB)"] < 1


def test_measures_of_silence_and_noise_give_no_warning(rng):
    silent_codes = np.full((2, 128, 64), -1.0)
    noise = 0.1 * rng.normal(size=60 * Music.SR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silence = Music.musical_measures(silent_codes)
        white = measured(code(noise))
    assert np.isnan(silence["in tune"]).all()
    assert np.isnan(silence["chroma entropy"]).all()
    assert not silence["onsets/s"].any()
    assert not silence["dynamics (dB)"].any()
    assert white["in tune"] == approx(1 / 3, abs=0.07)
    assert white["chroma entropy"] > 0.95
    assert white["dynamics (dB)"] < 2


def test_measures_of_a_patch_do_not_depend_on_the_others(rng):
    codes = rng.uniform(-1, 1, (601, 128, 16)).astype(np.float16)   # more than a batch
    whole = Music.musical_measures(codes)
    for i in (0, 499, 500, 600):
        alone = measured(codes[i:i + 1])
        for name, value in alone.items():
            assert whole[name].shape == (601,)
            assert whole[name][i] == approx(value, rel=1e-5)


def test_piece_measures_of_a_passage_that_returns_are_high(rng):
    passage = rng.uniform(-1, 1, (2, 128, 96)).astype(np.float32)
    other = rng.uniform(-1, 1, (2, 128, 192)).astype(np.float32)
    twice = np.concatenate([passage, passage], axis=2)
    again = Music.piece_measures(twice)
    never = Music.piece_measures(other)
    assert again["piece/return"] > 0.7
    assert never["piece/return"] < 0.3


def test_unevenness_is_that_of_one_phase_of_the_period():
    period = [1.0] * 15 + [3.0]
    change = np.tile(period, 8)
    level = np.cumsum(change)
    codes = level * np.ones((1, 4, 1))
    assert Music.unevenness(codes) == approx(3)


# ---------------------------------------------------------------- two waveforms

def test_spectral_convergence_is_the_level_above_the_error():
    y = 0.3 * sine(440, times(2)).astype(np.float32)
    assert Music.spectral_convergence(0.9 * y, y) == approx(20, abs=1e-3)
    assert Music.spectral_convergence(-1.1 * y, y) == approx(20, abs=1e-3)     # blind to phase


def test_onsets_agree_with_themselves_and_not_when_they_are_late(rng):
    t = times(5)
    strokes = np.exp(-30 * (t % 0.5)) * rng.standard_normal(len(t))
    y = strokes.astype(np.float32)
    assert Music.onset_agreement(0.5 * y, y) > 0.99
    assert Music.onset_agreement(np.roll(y, Music.SR // 4), y) < 0.3


# ---------------------------------------------------------------- copies


def melody_code(rng, notes, transposed=0):
    """Code of a melody of notes of a quarter of a second each: (n_mels, t)."""
    t = times(0.25)
    fading = np.exp(-3 * t)
    parts = [fading * sine(440 * amplitude(20 * np.log10(2) * (note + transposed) / 12), t)
             for note in notes]
    y = 0.2 * np.concatenate(parts) + 1e-4 * rng.standard_normal(len(parts) * len(t))
    return code(y)[0]


def test_a_copy_is_found_wherever_it_lies_and_if_it_is_transposed(rng):
    melodies = [rng.integers(0, 19, 60) for _ in range(6)]
    clips = np.stack([melody_code(rng, notes) for notes in melodies[:4]])
    new = melody_code(rng, melodies[4][:16])[:, :64]
    for move in (0, 2, -1):
        copy = melody_code(rng, melodies[2][20:36], move)[:, :64]
        of_copy, of_new = Music.copied_likeness(np.stack([copy, new]), clips)
        assert of_copy > 0.75
        assert of_new < of_copy - 0.15
    far = melody_code(rng, melodies[2][20:36], 6)[:, :64]
    assert Music.copied_likeness(far[None], clips)[0] < 0.75
    exact = clips[1][None, :, 30:94]
    assert Music.copied_likeness(exact, clips, semitones=0) == approx(1, abs=1e-3)


def test_silence_is_like_nothing():
    silent = np.full((1, Music.N_MELS, 64), -1.0)
    clips = np.full((2, Music.N_MELS, 90), -1.0)
    assert Music.copied_likeness(silent, clips) == approx(0, abs=1e-6)
