"""Measures of quality: against `prdc`, closed forms, simulated truth and synthetic sound."""

import json
import warnings

import librosa
import numpy as np
import pytest
import record_judges
import torch
from helpers import tune
from notebook_definitions import load
from prdc import compute_prdc
from scipy import stats
from scipy.spatial.distance import cdist

import Music
import Quality

gan = load("HW_04_music_gan")


# ---------------------------------------------------------------- neighbours

@pytest.mark.parametrize("n, m, d, k, shift", [(300, 300, 8, 5, 0), (250, 400, 128, 3, 0.2),
                                               (700, 600, 32, 5, 0.5)])
def test_neighbour_measures_are_those_of_prdc(n, m, d, k, shift, rng):
    real = rng.normal(size=(n, d)).astype(np.float32)
    fake = rng.normal(size=(m, d)).astype(np.float32) * 0.9 + shift
    ours = Quality.neighbour_measures(real, fake, k)
    theirs = compute_prdc(real.astype(float), fake.astype(float), k)
    for name, values in ours.items():
        assert len(values) == (m if name in ("precision", "density") else n)
        assert values.mean() == pytest.approx(theirs[name], abs=1e-12), name


@pytest.fixture(scope="module")
def described():
    """A classifier's features of patches of 16 melodies, the same with noise, and their clips."""
    codes = np.stack([Music.code_from_mel(Music.mel_spectrogram(tune(10, seed=i)))
                      for i in range(16)])
    x, clips = gan.Patches(codes, range(16)).draw(300, np.random.default_rng(0))
    torch.manual_seed(0)
    classifier = gan.Classifier(3).eval()
    with torch.no_grad():
        return [classifier.features(y).numpy()
                for y in (x, x + 0.2 * torch.randn_like(x))] + [clips]


def test_neighbour_measures_of_real_features_are_those_of_prdc(described):
    real, fake, _ = described
    ours = Quality.neighbour_measures(real[:150], fake[100:])
    theirs = compute_prdc(real[:150].astype(float), fake[100:].astype(float), 5)
    assert all(0 < theirs[name] < 1 for name in ours)
    for name, values in ours.items():
        assert values.mean() == pytest.approx(theirs[name], abs=1e-12), name


def test_neighbours_of_other_clips_are_those_of_brute_force(described):
    real, fake, clips = described
    sides = (real[:150], clips[:150]), (fake[100:], clips[100:])
    (a, of_a), (b, of_b) = sides
    around = [np.array([np.sort(row[own != c])[4] for row, c in zip(cdist(x, x), own)])
              for x, own in sides]
    inside_a, inside_b = cdist(a, b) < around[0][:, None], cdist(a, b) < around[1]
    ours = Quality.neighbour_measures(a, b, 5, of_a, of_b)
    np.testing.assert_array_equal(ours["precision"], inside_a.any(0))
    np.testing.assert_array_equal(ours["density"], inside_a.sum(0) / 5)
    np.testing.assert_array_equal(ours["coverage"], inside_a.any(1))
    np.testing.assert_array_equal(ours["recall"], inside_b.any(1))
    assert ours["precision"].mean() > Quality.neighbour_measures(a, b)["precision"].mean()


def test_unseen_clips_are_precise_only_among_other_clips(rng):
    clips = np.repeat(np.arange(60), 10)
    real, unseen = (rng.normal(size=(60, 4))[clips] + 0.05 * rng.normal(size=(600, 4))
                    for _ in range(2))
    by_clip = Quality.neighbour_measures(real, unseen, 5, clips, clips)["precision"].mean()
    assert by_clip > 0.7 > 0.1 > Quality.neighbour_measures(real, unseen)["precision"].mean()


def test_copies_of_few_patches_are_precise_but_cover_little(rng):
    real = rng.normal(size=(200, 4))
    means = {k: v.mean() for k, v in
             Quality.neighbour_measures(real, np.repeat(real[:4], 50, 0)).items()}
    assert means["precision"] == 1 and means["recall"] < 0.05 and means["coverage"] < 0.5


def test_copies_are_counted_where_a_median_does_not_see_them(rng):
    training, unseen, new = rng.normal(size=(3, 200, 16))
    some = np.concatenate([training[:50], new[:150]])
    assert Quality.copied_share(some, training, unseen) == pytest.approx(0.25, abs=0.02)
    assert Quality.nearest_ratio(some, training, unseen) > 0.85
    assert Quality.nearest_ratio(training + 0.01, training, unseen) < 0.3
    assert Quality.nearest_ratio(new, training, unseen) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------- intervals

def clustered(rng, clips, d):
    """Unit-variance features (n, d), of which a clip's share half of their variance."""
    center = rng.normal(size=(clips.max() + 1, d))[clips]
    return np.sqrt(0.5) * (center + rng.normal(size=(len(clips), d)))


def test_mean_interval_covers_the_truth_only_by_clip(rng):
    clips, covers = np.repeat(np.arange(40), 20), []
    for _ in range(100):
        values = clustered(rng, clips, 1)[:, 0]
        (mean, low, high), (_, near, far) = (Quality.mean_interval(values, c)
                                             for c in (clips, None))
        assert low < mean < high and high - low > 1.5 * (far - near)
        covers.append((low < 0 < high, near < 0 < far))
    by_clip, by_patch = np.mean(covers, 0)
    assert 0.87 <= by_clip <= 0.99 and by_patch < 0.65


def test_mean_interval_of_a_constant_is_a_point():
    assert Quality.mean_interval(np.full(30, 0.5), np.arange(30) // 3) == (0.5, 0.5, 0.5)


def test_jackknife_interval_covers_the_truth_only_by_clip(rng):
    # few features and a clear shift: the excess of finite samples is small beside the distance
    clips, covers = np.repeat(np.arange(60), 10), []
    for _ in range(60):
        real, fake = clustered(rng, clips, 2), 1.5 + rng.normal(size=(600, 2))
        truth = 1.5 ** 2     # |shift|^2 of both features over the variance of both
        found = [Quality.jackknife_interval(gan.frechet, fake, real, c)
                 for c in (clips, np.arange(600))]
        assert found[0][0] == gan.frechet(fake, real)
        covers.append([low < truth < high for _, low, high in found])
    by_clip, by_patch = np.mean(covers, 0)
    assert by_clip >= 0.85 and by_patch < 0.75


# ---------------------------------------------------------------- repertoires

def test_what_is_no_class_surely_is_rejected():
    probabilities = np.array([[.9, .1], [.8, .2], [.3, .7], [.4, .6], [.55, .45]])
    kinds = np.array([0, 0, 1, 1, 1])    # the last is given to the wrong class
    limits = Quality.rejection_limits(probabilities, kinds, share=0)
    np.testing.assert_allclose(limits, [.8, .6])
    assert Quality.accepted_class(probabilities, limits).tolist() == [0, 0, 1, 1, -1]


def test_rejection_limits_let_all_but_a_share_pass(rng):
    top = rng.uniform(0.5, 1, 4000)
    first = rng.random(4000) < 0.5
    probabilities = np.where(first[:, None], np.stack([top, 1 - top], 1),
                             np.stack([1 - top, top], 1))
    limits = Quality.rejection_limits(probabilities, np.where(first, 0, 1))
    np.testing.assert_allclose(limits, 0.525, atol=0.01)
    assert np.mean(Quality.accepted_class(probabilities, limits) < 0) == pytest.approx(
        0.05, abs=1e-3)
    # a class without patches of its own gets the limit of all the others
    limits = Quality.rejection_limits(probabilities, np.zeros(4000, int))
    np.testing.assert_allclose(limits, limits[0], atol=1e-3)
    assert Quality.rejection_limits(np.array([[0.9, 0.1]]), np.array([1])).tolist() == [1, 1]


def test_fakes_are_compared_with_their_own_repertoire(rng):
    real, fake = ({"x": rng.normal(size=2000)} for _ in range(2))
    kind = np.repeat([0, 1], 1000)
    fake["x"][kind == 1] += 10
    fake["x"][:10] = np.nan      # without a partial nothing is in or out of tune
    rows = Quality.by_repertoire(real, kind, fake, kind, 3)["x"]
    assert rows[0, 0] == pytest.approx(0.9, abs=0.03) and rows[1, 0] == 0
    assert rows[1, 2] - rows[1, 1] == pytest.approx(10, abs=0.2)
    assert np.isnan(rows[2]).all()


# ---------------------------------------------------------------- what a patch is like

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


# ---------------------------------------------------------------- the judges themselves

@pytest.fixture(scope="module")
def tiny_judges():
    codes = np.stack([Music.code_from_mel(Music.mel_spectrogram(tune(6, seed=i)))
                      for i in range(12)])
    training, unseen = (gan.Patches(codes, clips) for clips in (range(6), range(6, 12)))
    torch.manual_seed(0)
    return gan.Judges(training, unseen, gan.Classifier(3).eval(), "abc", n=100), unseen


def test_panel_holds_every_measure_with_its_interval(tiny_judges):
    judges, unseen = tiny_judges
    others = unseen.draw(100, np.random.default_rng(1))[0]
    found = gan.panel(judges, others, np.zeros(3))
    assert {*found, "total variation", "nearest ratio"} == set(record_judges.MEASURES)
    assert all(low <= value <= high for value, low, high in found.values())
    assert found["rejected"] == (0, 0, 0)
    assert found["precision"][0] > 0.9 and found["in tune"][1] < found["in tune"][2]
    noise = gan.panel(judges, torch.rand_like(others) * 2 - 1, np.ones(3))
    assert noise["rejected"] == (1, 1, 1) and noise["precision"][0] == noise["recall"][0] == 0
    assert noise["Fréchet, fixed"][1] > found["Fréchet, fixed"][2]


def test_detuned_codes_are_half_a_semitone_higher():
    codes = torch.from_numpy(tones([0, 7, 16])[:, None]).float()
    peak, hz, _ = Music.spectral_peaks(record_judges.detuned(codes)[:, 0].numpy())
    assert peak.any() and np.abs(12 * np.log2(hz[peak] / 440) % 1 - 0.5).max() < 0.1


def test_noise_is_as_far_below_as_told(rng):
    codes, noise = (torch.from_numpy(rng.uniform(-.2, .2, (3, 1, 128, 64))).float()
                    for _ in range(2))
    clean, both = (10 ** (Music.db_from_code(x) / 10)
                   for x in (codes, record_judges.with_noise(codes, noise, 10)))
    np.testing.assert_allclose(both.mean((1, 2, 3)) / clean.mean((1, 2, 3)), 1.1, rtol=1e-3)


def test_halves_share_no_piece_and_hold_every_repertoire(rng):
    kinds = np.repeat(np.arange(3), 20)
    pieces = np.array([f"{k}{i // 2}" for k in "abc" for i in range(20)])
    clips = np.sort(rng.permutation(60)[:40])
    first, second = record_judges.halves(clips, pieces, kinds)
    assert sorted([*first, *second]) == clips.tolist()
    assert not set(pieces[first]) & set(pieces[second])
    assert set(kinds[first]) == set(kinds[second]) == {0, 1, 2}


def test_recorded_judges_react_as_expected():
    kept = json.loads(record_judges.RECORDED.read_text(encoding="utf-8"))
    assert tuple(kept["measures"]) == record_judges.MEASURES and kept["patches"] == 2000
    for block in kept, kept["swapped"]:
        assert set(block["rows"]) == {"nothing", *record_judges.EXPECTED}
        assert record_judges.reactions(block["rows"]) == block["reacts"]
        assert not record_judges.surprises(block["reacts"])
    # every judge but that of the level must react to something
    must = {name for x in kept["expected"].values() for name in x["must"]}
    assert must == {*record_judges.MEASURES} - {"dynamics (dB)"}


def test_a_judge_that_stays_or_moves_unexpectedly_is_named():
    reacts = {damage: [record_judges.LETTERS[k] for k in must]
              for damage, (must, _) in record_judges.EXPECTED.items()}
    assert record_judges.surprises(reacts) == []
    reacts["three missing"].remove("recall")
    reacts["another draw"].append("coverage")
    assert record_judges.surprises(reacts) == ["another draw: coverage moves",
                                               "three missing: recall stays"]
