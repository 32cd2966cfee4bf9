"""Measures of quality: against `prdc`, closed forms, simulated truth and brute force."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy.spatial.distance import cdist

import Music
import record_judges
from helpers import tune
from notebook_definitions import load

gan = load("HW_04_music_gan")


# ---------------------------------------------------------------- Frechet distance

def test_frechet_of_a_shift_is_its_square_over_the_variance(rng):
    real = rng.normal(size=(500, 3))
    shift = np.array([1.0, 2.0, 2.0])
    expected = 9 / np.trace(np.cov(real, rowvar=False))
    assert gan.frechet(real, real + shift) == pytest.approx(expected)
    assert gan.frechet(real, real) == pytest.approx(0, abs=1e-9)


def test_frechet_is_over_the_variance_of_the_real_side(rng):
    narrow = rng.normal(size=(500, 3))
    wide = 3 * narrow
    # standard deviations differ by 2 of the narrow one's: 4 / 1 beside 4 / 9
    assert gan.frechet(narrow, wide) == pytest.approx(4)
    assert gan.frechet(wide, narrow) == pytest.approx(4 / 9)


def test_a_constant_output_is_at_least_one_away(rng):
    real = rng.normal(size=(500, 3))
    constant = np.repeat(real.mean(0)[None], 500, 0)
    assert gan.frechet(real, constant) == pytest.approx(1)


@pytest.mark.parametrize("real, fake, words", [
    (np.zeros((1, 2)), np.ones((9, 2)), "1 features"),
    (np.eye(2), np.ones((1, 2)), "1 features"),
    (np.ones((9, 2)), np.eye(2), "no variance"),
])
def test_frechet_of_too_little_is_an_error(real, fake, words):
    with pytest.raises(ValueError, match=words):
        gan.frechet(real, fake)


# ---------------------------------------------------------------- neighbours

def assert_same_as_prdc(real, fake, k):
    ours = gan.neighbour_measures(real, fake, k=k)
    theirs = compute_prdc(real.astype(float), fake.astype(float), k)
    for name, values in ours.items():
        of_fakes = name in ("precision", "density")
        assert len(values) == len(fake if of_fakes else real)
        assert values.mean() == pytest.approx(theirs[name], abs=1e-12), name


@pytest.mark.parametrize("n, m, d, k, shift", [
    (300, 300, 8, 5, 0),
    (250, 400, 128, 3, 0.2),
    (700, 600, 32, 5, 0.5),
])
def test_neighbour_measures_are_those_of_prdc(n, m, d, k, shift, rng):
    real = rng.normal(size=(n, d))
    fake = shift + 0.9 * rng.normal(size=(m, d))
    assert_same_as_prdc(real.astype(np.float32), fake.astype(np.float32), k)


@pytest.fixture(scope="module")
def melodies():
    """Codes (16, n_mels, t) of melodies."""
    codes = []
    for seed in range(16):
        power = Music.mel_spectrogram(tune(10, seed=seed))
        codes.append(Music.code_from_mel(power))
    return np.stack(codes)


@pytest.fixture(scope="module")
def described(melodies):
    """A classifier's features of patches of melodies, the same with noise, and their clips."""
    patches = gan.Patches(melodies, range(16))
    x, clips = patches.draw(300, np.random.default_rng(0))
    torch.manual_seed(0)
    classifier = gan.Classifier(3).eval()
    noise = 0.2 * torch.randn_like(x)
    real = gan.class_features(classifier, x)
    fake = gan.class_features(classifier, x + noise)
    return real, fake, clips


def test_neighbour_measures_of_features_of_music_are_those_of_prdc(described):
    real, fake, _ = described
    real, fake = real[:150], fake[100:]
    for values in gan.neighbour_measures(real, fake).values():
        assert 0 < values.mean() < 1
    assert_same_as_prdc(real, fake, 5)


def radii_by_brute_force(features, clips):
    """Distance of each to its fifth nearest of another clip."""
    found = []
    for row, own in zip(cdist(features, features), clips):
        others = row[clips != own]
        found.append(np.sort(others)[4])
    return np.array(found)


def test_neighbours_of_other_clips_are_those_of_brute_force(described):
    real, fake, clips = described
    real, real_clips = real[:150], clips[:150]
    fake, fake_clips = fake[100:], clips[100:]
    ours = gan.neighbour_measures(real, fake, real_clips=real_clips, fake_clips=fake_clips)
    distance = cdist(real, fake)
    in_real = distance < radii_by_brute_force(real, real_clips)[:, None]
    in_fake = distance < radii_by_brute_force(fake, fake_clips)
    np.testing.assert_array_equal(ours["precision"], in_real.any(0))
    np.testing.assert_array_equal(ours["density"], in_real.sum(0) / 5)
    np.testing.assert_array_equal(ours["coverage"], in_real.any(1))
    np.testing.assert_array_equal(ours["recall"], in_fake.any(1))
    of_any = gan.neighbour_measures(real, fake)
    assert ours["precision"].mean() > of_any["precision"].mean()


def test_unseen_clips_are_precise_only_among_other_clips(rng):
    clips = np.repeat(np.arange(60), 10)
    sides = []
    for _ in range(2):
        centres = rng.normal(size=(60, 4))
        sides.append(centres[clips] + 0.05 * rng.normal(size=(600, 4)))
    by_clip = gan.neighbour_measures(*sides, real_clips=clips, fake_clips=clips)
    by_patch = gan.neighbour_measures(*sides)
    assert by_clip["precision"].mean() > 0.7
    assert by_patch["precision"].mean() < 0.1


def test_copies_of_few_patches_are_precise_but_cover_little(rng):
    real = rng.normal(size=(200, 4))
    copies = np.repeat(real[:4], 50, 0)
    found = gan.neighbour_measures(real, copies)
    assert found["precision"].mean() == 1
    assert found["recall"].mean() < 0.05
    assert found["coverage"].mean() < 0.5


@pytest.mark.parametrize("n, clips", [(5, None), (20, np.arange(20) // 16)])
def test_fewer_neighbours_than_asked_for_are_an_error(n, clips, rng):
    few = torch.from_numpy(rng.normal(size=(n, 3)))
    with pytest.raises(ValueError, match=f"5 neighbours .* {n} features .* only 4"):
        gan.radii(few, 5, clips)


def test_copies_are_counted_where_a_median_does_not_see_them(rng):
    training, unseen, new = rng.normal(size=(3, 200, 16))
    some = np.concatenate([training[:50], new[:150]])
    assert gan.copied_share(training, unseen, some) == pytest.approx(0.25, abs=0.02)
    assert gan.nearest_ratio(training, unseen, some) > 0.85
    assert gan.nearest_ratio(training, unseen, training + 0.01) < 0.3
    assert gan.nearest_ratio(training, unseen, new) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------- intervals

def clustered(rng, clips, d):
    """Unit-variance features (n, d), of which a clip's share half of their variance."""
    centres = rng.normal(size=(clips.max() + 1, d))
    own = rng.normal(size=(len(clips), d))
    return np.sqrt(0.5) * (centres[clips] + own)


def test_mean_interval_covers_the_truth_only_by_clip(rng):
    clips = np.repeat(np.arange(40), 20)
    by_clip = []
    by_patch = []
    for _ in range(60):
        values = clustered(rng, clips, 1)[:, 0]
        mean, low, high = gan.mean_interval(values, clips)
        _, near, far = gan.mean_interval(values)
        assert low < mean < high
        assert high - low > 1.5 * (far - near)
        by_clip.append(low < 0 < high)
        by_patch.append(near < 0 < far)
    assert 0.87 <= np.mean(by_clip) <= 0.99
    assert np.mean(by_patch) < 0.65


def test_mean_interval_weighs_patches_alike_whatever_their_clip(rng):
    clips = np.array([0] * 90 + [1] * 10)
    values = np.where(clips == 0, 1.0, 0.0)
    mean, low, high = gan.mean_interval(values, clips)
    assert (mean, low, high) == (0.9, 0, 1)


def test_mean_interval_of_a_constant_is_a_point():
    values = np.full(30, 0.5)
    assert gan.mean_interval(values, np.arange(30) // 3) == (0.5, 0.5, 0.5)


def test_jackknife_interval_covers_the_truth_only_by_clip(rng):
    # few features and a clear shift: the excess of finite samples is small beside the distance
    clips = np.repeat(np.arange(60), 10)
    truth = 1.5 ** 2                # the square of the shift of both features over their variance
    covers = {"clip": [], "patch": []}
    for _ in range(60):
        real = clustered(rng, clips, 2)
        fake = 1.5 + rng.normal(size=(600, 2))
        for name, whose in (("clip", clips), ("patch", np.arange(600))):
            found = gan.jackknife_interval(gan.frechet, real, fake, real_clips=whose)
            value, low, high = found
            assert value == gan.frechet(real, fake)
            covers[name].append(low < truth < high)
    assert np.mean(covers["clip"]) >= 0.85
    assert np.mean(covers["patch"]) < 0.75


def test_few_clips_are_left_out_one_by_one(rng):
    clips = np.repeat(np.arange(3), 20)
    real = clustered(rng, clips, 2)
    fake = rng.normal(size=(60, 2))
    value, low, high = gan.jackknife_interval(gan.frechet, real, fake, real_clips=clips)
    thirds = [gan.frechet(real[clips != g], fake[np.arange(60) % 3 != g]) for g in range(3)]
    error = np.sqrt(2 * np.var(thirds))
    assert high - value == pytest.approx(4.303 * error, rel=1e-3)     # Student's t, 2 degrees
    assert value - low == pytest.approx(high - value)


def test_one_clip_has_no_interval_and_says_so(rng):
    values = rng.normal(size=(20, 2))
    clip = np.zeros(20, int)
    mean = gan.mean_interval(values[:, 0], clip)
    distance = gan.jackknife_interval(gan.frechet, values, values + 1, real_clips=clip)
    for found in (mean, distance):
        assert np.isfinite(found[0])
        assert np.isnan(found[1:]).all()
        assert gan.spread_of(found).endswith("(n too small)")
    assert gan.spread_of(gan.mean_interval(np.array([]))) == "none"


def test_a_ratio_to_the_floor_says_how_sure_it_is():
    floor = (0.02, 0.015, 0.025)
    error = math.exp(math.hypot(0.25, 0.1))
    expected = f"3.00 ({3 / error:.2f} to {3 * error:.2f})"
    assert gan.times_floor((0.06, 0.054, 0.066), floor) == expected
    assert gan.times_floor(floor, floor) == "1"


@pytest.mark.parametrize("value, floor", [
    ((0.06, 0.05, 0.07), (0.02, -0.01, 0.05)),        # a floor that may be nothing
    ((0.06, -0.05, 0.17), (0.02, 0.018, 0.022)),
    ((0.06, 0.05, 0.07), (0.02, np.nan, np.nan)),
    ((np.nan, np.nan, np.nan), (0.02, 0.018, 0.022)),
    ((0.06, 0.05, 0.07), (0.0, 0.0, 0.0)),
])
def test_a_ratio_that_says_nothing_is_not_printed(value, floor):
    assert gan.times_floor(value, floor) == "n too small"


# ---------------------------------------------------------------- repertoires

def two_classes(top, kinds):
    """Probabilities of two classes, `top` that of the class given."""
    first = np.where(kinds == 0, top, 1 - top)
    return np.stack([first, 1 - first], 1)


def test_what_is_no_class_surely_is_rejected():
    kinds = np.repeat([0, 1], 20)
    probabilities = two_classes(np.where(kinds == 0, 0.8, 0.6), kinds)
    limits = gan.rejection_limits(probabilities, kinds, share=0)
    np.testing.assert_allclose(limits, [0.8, 0.6])
    asked = two_classes(np.array([0.9, 0.7, 0.6, 0.55]), np.array([0, 0, 1, 1]))
    assert gan.accepted_class(asked, limits).tolist() == [0, -1, 1, -1]


def test_patches_of_the_wrong_class_set_no_limit():
    kinds = np.repeat([0, 1], 40)
    probabilities = two_classes(np.full(80, 0.9), kinds)
    probabilities[40:50] = [0.55, 0.45]        # of class 1, taken for 0
    limits = gan.rejection_limits(probabilities, kinds)
    np.testing.assert_allclose(limits, 0.9)


def test_rejection_limits_let_all_but_a_share_pass(rng):
    top = rng.uniform(0.5, 1, 4000)
    kinds = rng.integers(0, 2, 4000)
    probabilities = two_classes(top, kinds)
    limits = gan.rejection_limits(probabilities, kinds)
    np.testing.assert_allclose(limits, 0.525, atol=0.01)
    rejected = gan.accepted_class(probabilities, limits) < 0
    assert rejected.mean() == pytest.approx(0.05, abs=1e-3)


@pytest.mark.parametrize("classes, patches", [(3, 4), (100, 1000)])
def test_hardly_any_real_music_of_rare_repertoires_is_rejected(classes, patches, rng):
    """A genre with one piece, or a hundred genres that a classifier hardly tells apart."""
    kinds = rng.integers(0, classes, patches)
    probabilities = rng.dirichlet(np.ones(classes), patches)
    limits = gan.rejection_limits(probabilities, kinds)
    rejected = gan.accepted_class(probabilities, limits) < 0
    assert rejected.mean() <= max(0.06, 1 / patches)
    np.testing.assert_allclose(limits, np.quantile(probabilities.max(1), 0.05))


def test_a_repertoire_without_patches_gets_the_limit_of_all(rng):
    top = rng.uniform(0.5, 1, 400)
    kinds = rng.integers(0, 2, 400)
    probabilities = np.pad(two_classes(top, kinds), ((0, 0), (0, 1)))
    limits = gan.rejection_limits(probabilities, kinds)
    assert limits[2] == np.quantile(top, 0.05)
    _, report = gan.set_limits(probabilities, kinds, np.arange(400) % 2 == 0, ["a", "b", "c"])
    assert report.endswith("; the limit of all together holds for c")
    assert "are rejected by limits from the other half" in report


def test_limits_that_nothing_can_test_are_set_by_all(rng):
    kinds = np.repeat([0, 1], 50)               # one unseen clip of each, one on either side
    top = np.where(kinds == 0, 0.99, rng.uniform(0.6, 0.8, 100))
    probabilities = two_classes(top, kinds)
    limits, report = gan.set_limits(probabilities, kinds, kinds == 0, ["a", "b"])
    assert "too few unseen clips" in report
    rejected = gan.accepted_class(probabilities, limits) < 0
    assert rejected.mean() <= 0.05


def test_no_real_patches_set_no_limits():
    with pytest.raises(ValueError, match="no real patches"):
        gan.rejection_limits(np.zeros((0, 2)), np.zeros(0, int))


def test_fakes_are_compared_with_their_own_repertoire(rng):
    kinds = np.repeat([0, 1], 1000)
    real = {"x": rng.normal(size=2000)}
    fake = {"x": rng.normal(size=2000)}
    fake["x"][kinds == 1] += 10
    fake["x"][:10] = np.nan         # without a partial nothing is in or out of tune
    found = gan.by_repertoire(real, fake, real_kinds=kinds, fake_kinds=kinds, classes=3)
    first, second, missing = found["x"]
    assert first[0] == pytest.approx(0.9, abs=0.03)
    assert second[0] == 0
    assert second[2] - second[1] == pytest.approx(10, abs=0.2)
    assert np.isnan(missing).all()


def test_tags_of_shares_survive_foreign_names():
    names = ["irish", "R&B", "R B", "R_B", "民謡", "", "a/b", "x\ud800"]
    tags = gan.tags_of(names)
    assert tags == ["share/irish", "share/R_B", "share/R_B-2", "share/R_B-3", "share/民謡",
                    "share/_", "share/a_b", "share/x_"]


def test_scalars_of_shares_hold_their_total_variation():
    real = np.array([0.5, 0.3, 0.2])
    fake = np.array([0.2, 0.3, 0.5])
    found = gan.share_scalars("abc", real, fake)
    assert found.pop("quality/total_variation") == pytest.approx(0.3)
    assert found == {"share/a": 0.2, "share/b": 0.3, "share/c": 0.5}


# ---------------------------------------------------------------- the judges themselves

@pytest.fixture(scope="module")
def tiny_judges(melodies):
    training = gan.Patches(melodies, range(8))
    unseen = gan.Patches(melodies, range(8, 16))
    torch.manual_seed(0)
    classifier = gan.Classifier(3).eval()
    judges = gan.Judges(training, unseen, classifier, "abc", n=100)
    return judges, unseen


def test_panel_holds_every_measure_with_its_interval(tiny_judges):
    judges, unseen = tiny_judges
    others, _ = unseen.draw(100, np.random.default_rng(1))
    found = gan.panel(judges, others, np.zeros(3))
    assert {*found, "total variation", "nearest ratio"} == set(record_judges.MEASURES)
    for value, low, high in found.values():
        assert low <= value <= high
    assert found["rejected"] == (0, 0, 0)
    assert found["precision"][0] > 0.9


def test_panel_refuses_what_is_no_music(tiny_judges):
    judges, unseen = tiny_judges
    others, _ = unseen.draw(100, np.random.default_rng(1))
    torch.manual_seed(0)
    white = torch.rand_like(others) * 2 - 1
    music = gan.panel(judges, others, np.zeros(3))
    noise = gan.panel(judges, white, np.ones(3))
    assert noise["rejected"] == (1, 1, 1)
    assert noise["precision"][0] == noise["recall"][0] == 0
    assert noise["Fréchet, fixed"][1] > music["Fréchet, fixed"][2]


def test_panel_of_silence_says_what_it_cannot_measure(tiny_judges):
    judges, _ = tiny_judges
    silence = torch.full((40, 1, Music.N_MELS, 64), -1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gan.panel(judges, silence, np.zeros(3))
    assert gan.spread_of(found["in tune"]) == "none"
    assert found["onsets/s"] == (0, 0, 0)


def test_codes_of_pink_noise_have_the_level_of_music():
    codes = gan.pink_noise_codes(3)
    assert codes.shape == (3, 1, Music.N_MELS, 64)
    assert not torch.equal(codes[0], codes[1])
    noise = Music.CLEAN_RMS * Music.pink_noise(3 * Music.SR, 2)
    expected = Music.code_from_mel(Music.mel_spectrogram(noise))[:, :64]
    np.testing.assert_array_equal(codes[2, 0], expected)


def test_detuned_codes_are_half_a_semitone_higher():
    t = np.arange(2 * Music.SR) / Music.SR
    chord = sum(np.sin(2 * np.pi * 440 * 2 ** (pitch / 12) * t) for pitch in (0, 7, 16))
    code = Music.code_from_mel(Music.mel_spectrogram(0.05 * chord.astype(np.float32)))
    codes = torch.from_numpy(code[None, None, :, 4:-4]).float()
    higher = record_judges.detuned(codes)
    peak, hz, _ = Music.spectral_peaks(higher[:, 0].numpy())
    semitones = 12 * np.log2(hz[peak] / 440)
    assert peak.any()
    assert np.abs(semitones % 1 - 0.5).max() < 0.1


def test_noise_is_as_far_below_as_told(rng):
    codes, noise = torch.from_numpy(rng.uniform(-0.2, 0.2, (2, 3, 1, 128, 64))).float()
    both = record_judges.with_noise(codes, noise, 10)
    clean_power = 10 ** (Music.db_from_code(codes) / 10)
    power = 10 ** (Music.db_from_code(both) / 10)
    ratio = power.mean((1, 2, 3)) / clean_power.mean((1, 2, 3))
    np.testing.assert_allclose(ratio, 1.1, rtol=1e-3)


def test_halves_share_no_piece_and_hold_every_repertoire(rng):
    kinds = np.repeat(np.arange(3), 20)
    pieces = np.array([f"{kind}{i // 2}" for kind in "abc" for i in range(20)])
    clips = np.sort(rng.permutation(60)[:40])
    first, second = record_judges.halves(clips, pieces, kinds)
    assert sorted([*first, *second]) == clips.tolist()
    assert not set(pieces[first]) & set(pieces[second])
    assert set(kinds[first]) == set(kinds[second]) == {0, 1, 2}


def test_recorded_judges_react_as_expected():
    kept = json.loads(record_judges.RECORDED.read_text(encoding="utf-8"))
    assert tuple(kept["measures"]) == record_judges.MEASURES
    assert kept["patches"] == 2000
    for block in (kept, kept["swapped"]):
        assert set(block["rows"]) == {"nothing", *record_judges.EXPECTED}
        assert record_judges.reactions(block["rows"]) == block["reacts"]
        assert not record_judges.surprises(block["reacts"])


def test_every_judge_but_that_of_the_level_must_react_to_something():
    kept = json.loads(record_judges.RECORDED.read_text(encoding="utf-8"))
    must = set()
    for expected in kept["expected"].values():
        must.update(expected["must"])
    assert must == {*record_judges.MEASURES} - {"dynamics (dB)"}


def test_a_judge_that_stays_or_moves_unexpectedly_is_named():
    reacts = {}
    for damage, expected in record_judges.EXPECTED.items():
        reacts[damage] = list(expected.must)
    assert record_judges.surprises(reacts) == []
    reacts["three missing"].remove("recall")
    reacts["another draw"].append("coverage")
    assert record_judges.surprises(reacts) == ["another draw: coverage moves",
                                               "three missing: recall stays"]
