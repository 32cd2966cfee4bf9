"""Measures of quality: against `prdc`, closed forms, simulated truth and brute force."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from prdc import compute_prdc
from pytest import approx
from scipy.spatial.distance import cdist

import Music
import record_judges
from helpers import tune
from notebook_definitions import load

gan = load("HW_04_music_gan")


def code_of(y):
    """Code (n_mels, t) of a waveform."""
    power = Music.mel_spectrogram(y)
    return Music.code_from_mel(power)


# ---------------------------------------------------------------- Frechet distance

def test_frechet_of_a_shift_is_its_square_over_the_variance(rng):
    real = rng.normal(size=(500, 3))
    shift = np.array([1.0, 2.0, 2.0])
    variance = real.var(0, ddof=1).sum()
    distance = gan.frechet(real, real + shift)
    assert distance == approx(9 / variance)
    assert gan.frechet(real, real) == approx(0, abs=1e-9)


def test_frechet_is_over_the_variance_of_the_real_side(rng):
    narrow = rng.normal(size=(500, 3))
    narrow -= narrow.mean(0)
    wide = 3 * narrow
    # standard deviations differ by 2 of the narrow one's: 4 / 1 beside 4 / 9
    assert gan.frechet(narrow, wide) == approx(4)
    assert gan.frechet(wide, narrow) == approx(4 / 9)


def test_a_constant_output_is_at_least_one_away(rng):
    real = rng.normal(size=(500, 3))
    mean = real.mean(0)
    constant = np.tile(mean, (500, 1))
    assert gan.frechet(real, constant) == approx(1)


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
    sizes = {"precision": len(fake),
             "density": len(fake),
             "recall": len(real),
             "coverage": len(real)}
    for name, size in sizes.items():
        mean = ours[name].mean()
        assert ours[name].shape == (size,)
        assert mean == approx(theirs[name], abs=1e-12), name


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
    codes = [code_of(tune(10, seed=seed)) for seed in range(16)]
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
        share = values.mean()
        assert 0 < share < 1
    assert_same_as_prdc(real, fake, 5)


def radii_by_brute_force(features, clips):
    """Distance of each to its fifth nearest of another clip."""
    found = []
    for row, own in zip(cdist(features, features), clips):
        others = row[clips != own]
        found.append(np.sort(others)[4])
    return np.array(found)


def test_neighbours_of_other_clips_are_those_of_brute_force(described):
    features, noisy, clips = described
    real, real_clips = features[:150], clips[:150]
    fake, fake_clips = noisy[100:], clips[100:]
    ours = gan.neighbour_measures(real, fake, real_clips=real_clips, fake_clips=fake_clips)
    around_real = radii_by_brute_force(real, real_clips)
    around_fake = radii_by_brute_force(fake, fake_clips)
    distance = cdist(real, fake)
    in_fake = distance < around_fake
    from_fakes = distance.transpose()
    in_real = from_fakes < around_real
    assert_array_equal(ours["precision"], in_real.any(1))
    assert_array_equal(ours["density"], in_real.sum(1) / 5)
    assert_array_equal(ours["coverage"], in_real.any(0))
    assert_array_equal(ours["recall"], in_fake.any(1))


def test_unseen_clips_are_precise_only_among_other_clips(rng):
    clips = np.repeat(np.arange(60), 10)
    real = clustered(rng, clips, 4, within=0.05)
    unseen = clustered(rng, clips, 4, within=0.05)
    by_clip = gan.neighbour_measures(real, unseen, real_clips=clips, fake_clips=clips)
    by_patch = gan.neighbour_measures(real, unseen)
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
    features = rng.normal(size=(n, 3))
    few = torch.from_numpy(features)
    words = f"5 neighbours .* {n} features .* only 4"
    with pytest.raises(ValueError, match=words):
        gan.radii(few, 5, clips)


def test_power_of_a_test_grows_with_the_share():
    powers = [gan.power_of_share(0.02, share, 150) for share in (0.02, 0.05, 0.2)]
    assert powers[0] <= 0.05
    assert powers[0] < powers[1] < powers[2]
    assert powers[2] > 0.99


def test_the_nearest_ratio_is_one_for_new_music_and_small_for_copies(rng):
    training, unseen, new = rng.normal(size=(3, 200, 16))
    copies = training + 0.01
    of_copies = gan.nearest_ratio(training, unseen, copies)
    of_new = gan.nearest_ratio(training, unseen, new)
    assert of_copies < 0.3
    assert of_new == approx(1, abs=0.1)


# ---------------------------------------------------------------- intervals

def clustered(rng, clips, d, within=1.0):
    """Features (n, d): normal centres of the clips, and normal ones `within` a clip."""
    count = clips.max() + 1
    centres = rng.normal(size=(count, d))
    size = (len(clips), d)
    own = within * rng.normal(size=size)
    return centres[clips] + own


def test_mean_interval_covers_the_truth_only_by_clip(rng):
    clips = np.repeat(np.arange(40), 20)
    by_clip = []
    by_patch = []
    for _ in range(60):
        values = clustered(rng, clips, 1)[:, 0]
        mean, low, high = gan.mean_interval(values, clips)
        assert low < mean < high
        by_clip.append(low < 0 < high)
        _, low, high = gan.mean_interval(values)
        by_patch.append(low < 0 < high)
    assert 0.87 <= np.mean(by_clip) <= 0.99
    assert np.mean(by_patch) < 0.65


def test_mean_interval_weighs_patches_alike_whatever_their_clip():
    clips = np.repeat([0, 1], [90, 10])
    values = np.repeat([1.0, 0.0], [90, 10])
    mean, low, high = gan.mean_interval(values, clips)
    assert mean == 0.9
    assert low == 0
    assert high == 1


def test_mean_interval_of_a_constant_is_a_point():
    values = np.full(30, 0.5)
    clips = np.repeat(np.arange(10), 3)
    assert gan.mean_interval(values, clips) == (0.5, 0.5, 0.5)


def jackknife(real, fake, clips):
    """Distance and interval of real features with clips and of fakes without."""
    return gan.jackknife_interval(gan.frechet, real, fake, real_clips=clips)


def test_jackknife_interval_covers_the_truth_only_by_clip(rng):
    # few features and a clear shift: the excess of finite samples is small beside the distance
    patches = np.arange(600)
    clips = patches // 10
    by_clip = []
    by_patch = []
    for _ in range(60):
        real = clustered(rng, clips, 2)                 # of variance 2
        fake = 2 + clustered(rng, patches, 2)
        value, low, high = jackknife(real, fake, clips)
        assert value == gan.frechet(real, fake)
        by_clip.append(low < 2 < high)                  # 2 squared over the variance
        _, low, high = jackknife(real, fake, patches)
        by_patch.append(low < 2 < high)
    assert np.mean(by_clip) >= 0.85
    assert np.mean(by_patch) < 0.75


def test_few_clips_are_left_out_one_by_one(rng):
    clips = np.repeat(np.arange(3), 200)
    real = rng.normal(size=(600, 2))
    fake = rng.normal(3, size=(600, 2))     # so far that the interval stays above 0
    value, low, high = gan.jackknife_interval(gan.frechet, real, fake,
                                              real_clips=clips, fake_clips=clips)
    thirds = []
    for clip in range(3):
        kept = clips != clip
        third = gan.frechet(real[kept], fake[kept])
        thirds.append(third)
    error = np.sqrt(2 * np.var(thirds))
    half = 4.303 * error                  # Student's t of two degrees of freedom
    assert high - value == approx(half, rel=1e-3)
    assert value - low == approx(half, rel=1e-3)


def test_one_clip_has_no_interval_and_says_so(rng):
    features = rng.normal(size=(20, 2))
    values = features[:, 0]
    clip = np.zeros(20, int)
    mean = gan.mean_interval(values, clip)
    distance = jackknife(features, features + 1, clip)
    for value, low, high in (mean, distance):
        assert np.isfinite(value)
        assert np.isnan([low, high]).all()
    text = f"{values.mean():.3f} (n too small)"
    assert gan.spread_of(mean) == text


def test_a_distance_that_might_be_below_0_has_no_interval(rng):
    near = rng.normal(size=(20, 2))
    far = near + 10
    real = np.concatenate([near, far])
    clips = np.repeat([0, 1], 20)
    found = jackknife(real, near, clips)
    assert found[0] > 0
    assert "n too small" in gan.spread_of(found)
    assert gan.times_floor((2.0, 1.9, 2.1), found) == "n too small"


def test_the_mean_of_nothing_is_none():
    nothing = np.array([])
    found = gan.mean_interval(nothing)
    assert gan.spread_of(found) == "none"


def test_a_ratio_to_the_floor_says_how_sure_it_is():
    floor = (0.02, 0.015, 0.025)
    value = (0.06, 0.054, 0.066)
    error = math.hypot(0.25, 0.1)
    low = 3 * math.exp(-error)
    high = 3 * math.exp(error)
    assert gan.times_floor(value, floor) == f"3.00 ({low:.2f} to {high:.2f})"
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
    other = 1 - top
    first = np.where(kinds == 0, top, other)
    second = np.where(kinds == 1, top, other)
    return np.stack([first, second], 1)


def test_what_is_no_class_surely_is_rejected():
    kinds = np.repeat([0, 1], 20)
    top = np.repeat([0.8, 0.6], 20)
    real = two_classes(top, kinds)
    limits = gan.rejection_limits(real, kinds, share=0)
    assert_allclose(limits, [0.8, 0.6])
    kinds = np.array([0, 0, 1, 1])
    top = np.array([0.9, 0.7, 0.6, 0.55])
    asked = two_classes(top, kinds)
    accepted = gan.accepted_class(asked, limits)
    assert accepted.tolist() == [0, -1, 1, -1]


def test_patches_of_the_wrong_class_set_no_limit():
    kinds = np.repeat([0, 1], 40)
    probabilities = two_classes(np.full(80, 0.9), kinds)
    probabilities[40:50] = [0.55, 0.45]        # of class 1, taken for 0
    limits = gan.rejection_limits(probabilities, kinds)
    assert_allclose(limits, 0.9)


def test_rejection_limits_let_all_but_a_share_pass(rng):
    top = rng.uniform(0.5, 1, 4000)
    kinds = rng.integers(0, 2, 4000)
    probabilities = two_classes(top, kinds)
    limits = gan.rejection_limits(probabilities, kinds)
    assert_allclose(limits, 0.525, atol=0.01)
    rejected = gan.accepted_class(probabilities, limits) < 0
    assert rejected.mean() == approx(0.05, abs=1e-3)


@pytest.mark.parametrize("classes, patches", [(3, 4), (100, 1000)])
def test_hardly_any_real_music_of_rare_repertoires_is_rejected(classes, patches, rng):
    """A genre with one piece, or a hundred genres that a classifier hardly tells apart."""
    kinds = rng.integers(0, classes, patches)
    even = np.ones(classes)
    probabilities = rng.dirichlet(even, patches)
    limits = gan.rejection_limits(probabilities, kinds)
    accepted = gan.accepted_class(probabilities, limits)
    rejected = np.sum(accepted < 0)
    assert rejected <= max(1, 0.06 * patches)
    top = probabilities.max(1)
    assert_allclose(limits, np.quantile(top, 0.05))


def test_a_repertoire_without_patches_gets_the_limit_of_all(rng):
    top = rng.uniform(0.5, 1, 400)
    kinds = rng.integers(0, 2, 400)
    probabilities = np.zeros((400, 3))
    probabilities[:, :2] = two_classes(top, kinds)
    limits = gan.rejection_limits(probabilities, kinds)
    assert limits[2] == np.quantile(top, 0.05)


def test_limits_say_what_they_are(rng):
    kinds = np.repeat([0, 1, 2], [200, 200, 30])
    patch = np.arange(430)
    probabilities = np.zeros((430, 3))
    probabilities[patch, kinds] = rng.uniform(0.9, 1, 430)
    half = patch % 2 == 0
    limits, report = gan.set_limits(probabilities, kinds, half, ["a", "b", "c"])
    tested = probabilities[~half]
    accepted = gan.accepted_class(tested, limits)
    refused = np.mean(accepted < 0)
    assert f"{refused:.1%} are rejected by limits from the other half" in report
    assert report.endswith("; the limit of all together holds for c")


def test_limits_that_nothing_can_test_are_set_by_all(rng):
    kinds = np.repeat([0, 1], 50)               # one unseen clip of each, one on either side
    sure = np.full(50, 0.99)
    unsure = rng.uniform(0.6, 0.8, 50)
    top = np.concatenate([sure, unsure])
    probabilities = two_classes(top, kinds)
    limits, report = gan.set_limits(probabilities, kinds, kinds == 0, ["a", "b"])
    assert "too few unseen clips" in report
    accepted = gan.accepted_class(probabilities, limits)
    assert np.sum(accepted < 0) <= 5


def test_no_real_patches_set_no_limits():
    nothing = np.zeros((0, 2))
    kinds = np.zeros(0, int)
    with pytest.raises(ValueError, match="no real patches"):
        gan.rejection_limits(nothing, kinds)


def kinds_of_music(rng, n=200):
    """Codes (n, 1, 128, 64) of two kinds, low and high, lines over silence, and the kinds."""
    kinds = np.arange(n) % 2
    codes = torch.full((n, 1, 128, 64), -1.0)
    for code, kind in zip(codes, kinds):
        rows = rng.choice(60, 5, replace=False) + 64 * kind
        code[0, rows] = 0.5
    return codes, kinds


def test_blur_leaves_the_balance_of_kinds_and_a_missing_kind_does_not(rng):
    codes, kinds = kinds_of_music(rng)
    balance = gan.Balance(codes, kinds, classes=2)
    others, _ = kinds_of_music(rng)
    assert_allclose(balance.shares(others), 0.5)
    blurred = record_judges.blurred(others, 9, 1)
    assert far_from(blurred, others)
    assert_allclose(balance.shares(blurred), 0.5, atol=0.02)
    assert_allclose(balance.shares(others[::2]), (1, 0))


def far_from(some, others):
    """Whether codes differ by more than a tenth of their range."""
    return (some - others).abs().max() > 0.2


def test_balance_of_a_single_kind_is_that_kind(rng):
    codes, _ = kinds_of_music(rng, 10)
    balance = gan.Balance(codes, np.zeros(10, int), classes=1)
    assert_allclose(balance.shares(codes), 1)


def test_both_judges_of_kinds_see_that_one_is_missing(rng):
    codes, kinds = kinds_of_music(rng)

    class Centre(torch.nn.Module):
        """A classifier by where the power lies."""

        head = torch.nn.Linear(1, 2)

        def forward(self, codes):
            low, high = codes.mean(3)[:, 0].split(64, 1)
            return 50 * torch.stack((low.mean(1), high.mean(1)), 1)

    judges = SimpleNamespace(
        classifier=Centre(), shares=np.array([0.5, 0.5]),
        balance=gan.Balance(codes, kinds, 2), balance_shares=np.array([0.5, 0.5]))
    assert gan.apart(judges, codes) == [approx(0), approx(0)]
    assert gan.apart(judges, codes[::2]) == [approx(0.5), approx(0.5)]


def test_tags_of_shares_survive_foreign_names():
    names = ["irish", "R&B", "R B", "R_B", "民謡", "", "a/b", "x\ud800"]
    tags = gan.tags_of(names)
    assert tags == ["share/irish", "share/R_B", "share/R_B-2", "share/R_B-3", "share/民謡",
                    "share/_", "share/a_b", "share/x_"]


def test_scalars_of_shares_hold_their_total_variation():
    real = np.array([0.5, 0.3, 0.2])
    fake = np.array([0.2, 0.3, 0.5])
    found = gan.share_scalars("abc", real, fake)
    assert found.pop("quality/total_variation") == approx(0.3)
    assert found == {"share/a": 0.2, "share/b": 0.3, "share/c": 0.5}
    by_balance = gan.share_scalars("abc", real, real, "balance/")
    assert by_balance["balance/quality/total_variation"] == 0
    assert by_balance["balance/share/b"] == 0.3


# ---------------------------------------------------------------- the judges themselves

@pytest.fixture(scope="module")
def tiny_judges(melodies):
    training = gan.Patches(melodies, range(8), target=np.arange(16) % 3)
    unseen = gan.Patches(melodies, range(8, 16))
    torch.manual_seed(0)
    classifier = gan.Classifier(3).eval()
    return gan.Judges(training, unseen, classifier, "abc", n=100)


@pytest.fixture
def others(melodies, rng):
    """More patches of the unseen melodies."""
    unseen = gan.Patches(melodies, range(8, 16))
    codes, _ = unseen.draw(100, rng)
    return codes


def test_panel_holds_every_measure_with_its_interval(tiny_judges, others):
    found = gan.panel(tiny_judges, others, np.zeros(3))
    names = {*found, "total variation", record_judges.BALANCE, "nearest ratio"}
    assert names == set(record_judges.MEASURES)
    for value, low, high in found.values():
        assert low <= value <= high
    assert found["rejected"] == (0, 0, 0)
    precision, _, _ = found["precision"]
    assert precision > 0.9


def test_panel_refuses_what_is_no_music(tiny_judges, others):
    torch.manual_seed(0)
    white = 2 * torch.rand_like(others) - 1
    music = gan.panel(tiny_judges, others, np.zeros(3))
    noise = gan.panel(tiny_judges, white, np.ones(3))
    assert noise["rejected"] == (1, 1, 1)
    assert noise["precision"] == (0, 0, 0)
    assert noise["recall"] == (0, 0, 0)
    _, low, _ = noise["Fréchet, fixed"]
    _, _, high = music["Fréchet, fixed"]
    assert low > high


def test_panel_of_silence_says_what_it_cannot_measure(tiny_judges):
    silence = torch.full((40, 1, Music.N_MELS, 64), -1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = gan.panel(tiny_judges, silence, np.zeros(3))
    assert gan.spread_of(found["in tune"]) == "none"
    assert found["onsets/s"] == (0, 0, 0)


def test_codes_of_pink_noise_have_the_level_of_music():
    codes = gan.pink_noise_codes(3)
    assert codes.shape == (3, 1, Music.N_MELS, 64)
    third = codes[2, 0]
    noise = Music.pink_noise(3 * Music.SR, 2)
    loud = Music.CLEAN_RMS * noise
    expected = code_of(loud)
    assert_array_equal(third, expected[:, :64])


def chord(*pitches):
    """Code (n_mels, t) of sines so many semitones above 440 Hz, for two seconds."""
    samples = np.arange(2 * Music.SR)
    wave = np.zeros(len(samples))
    for pitch in pitches:
        octaves = pitch / 12
        hz = 440 * 2 ** octaves
        angle = 2 * np.pi * hz / Music.SR
        wave += np.sin(angle * samples)
    quiet = 0.05 * wave
    return code_of(quiet.astype(np.float32))


def test_detuned_codes_are_half_a_semitone_higher():
    code = chord(0, 7, 16)[:, 4:-4]
    codes = torch.from_numpy(code)[None, None]
    higher = record_judges.detuned(codes.float())
    peak, hz, _ = Music.spectral_peaks(higher[:, 0].numpy())
    heard = hz[peak]
    semitones = 12 * np.log2(heard / 440)
    off = semitones % 1 - 0.5
    assert len(heard)
    assert np.abs(off).max() < 0.1


def mean_power(codes):
    """Mean power of each code (n, 1, n_mels, t)."""
    decibels = Music.db_from_code(codes)
    bels = decibels / 10
    power = 10 ** bels
    return power.mean((1, 2, 3))


def test_noise_is_as_far_below_as_told(rng):
    shape = (3, 1, 128, 64)
    uniform = rng.uniform(-0.2, 0.2, (2, *shape))
    codes, noise = torch.from_numpy(uniform).float()
    both = record_judges.with_noise(codes, noise, snr_db=10)
    before = mean_power(codes)
    after = mean_power(both)
    assert_allclose(after / before, 1.1, rtol=1e-3)


def test_halves_share_no_piece_and_hold_every_repertoire(rng):
    clips = np.arange(60)
    kinds = clips // 20
    pieces = clips // 2                     # two clips each
    drawn = rng.choice(clips, 40, replace=False)
    some = np.sort(drawn)
    first, second = record_judges.halves(some, pieces, kinds)
    both = np.concatenate([first, second])
    assert sorted(both) == some.tolist()
    assert not set(pieces[first]) & set(pieces[second])
    assert set(kinds[first]) == {0, 1, 2}
    assert set(kinds[second]) == {0, 1, 2}


def recorded_judges():
    """What the self-test of the judges left."""
    text = record_judges.RECORDED.read_text(encoding="utf-8")
    return json.loads(text)


def test_recorded_judges_react_as_expected():
    kept = recorded_judges()
    assert tuple(kept["measures"]) == record_judges.MEASURES
    assert kept["patches"] == 2000
    for block in (kept, kept["swapped"]):
        rows = block["rows"]
        reacts = block["reacts"]
        blurs = {f"blurred over {bands} bands" for bands in record_judges.OTHER_BLURS}
        assert set(rows) == {"nothing", *record_judges.EXPECTED, *blurs}
        assert record_judges.reactions(rows) == reacts
        assert not record_judges.surprises(reacts)


def test_every_judge_but_that_of_the_level_must_react_to_something():
    must = set()
    for expected in recorded_judges()["expected"].values():
        must.update(expected["must"])
    free = {*record_judges.MEASURES} - must
    assert free == {"dynamics (dB)"}


def test_a_judge_that_stays_or_moves_unexpectedly_is_named():
    reacts = {}
    for damage, expected in record_judges.EXPECTED.items():
        reacts[damage] = list(expected.must)
    assert record_judges.surprises(reacts) == []
    reacts["three missing"].remove("recall")
    reacts["another draw"].append("coverage")
    assert record_judges.surprises(reacts) == ["another draw: coverage moves",
                                               "three missing: recall stays"]
