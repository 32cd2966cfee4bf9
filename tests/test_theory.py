"""The definitions of the theory notebook, at points and with inputs that it does not use itself."""

import math

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from scipy import stats

from helpers import ROOT
from notebook_definitions import load

theory = load("HW_04_theory")
seeds = st.integers(0, 2 ** 32 - 1)
laws = given(seed=seeds, k=st.integers(1, 7))


def two(seed, k):
    return theory.random_laws(seed, k, k)


@laws
def test_divergences_keep_their_order_and_bounds(seed, k):
    p, q = two(seed, k)
    js, tv = theory.js_divergence(p, q), theory.total_variation(p, q)
    rho = theory.bhattacharyya(p, q)
    low, high = theory.js_bounds(tv)
    assert -1e-12 <= tv ** 2 / 2 <= low + 1e-12 and low <= js + 1e-12 and js <= high + 1e-12
    assert 1 - rho <= tv + 1e-12 and tv <= math.sqrt(max(0, 1 - rho ** 2)) + 1e-7
    assert js == pytest.approx(theory.js_divergence(q, p))
    assert js <= theory.kl_divergence(p, q) / 2 + 1e-12


def test_divergences_know_their_extremes():
    assert theory.js_divergence([1, 0], [0, 1]) == pytest.approx(math.log(2))
    assert theory.kl_divergence([0.5, 0.5], [1, 0]) == math.inf
    assert theory.kl_divergence([1, 0], [0.5, 0.5]) == pytest.approx(math.log(2))
    assert theory.js_divergence([0.3, 0.7], [0.3, 0.7]) == theory.total_variation([1.0], [1.0]) == 0


def test_a_density_and_its_cells_give_one_divergence():
    x, mu = theory.panels(-12, 12, 40)
    p, q = stats.norm.pdf(x, -1, 1.3), stats.norm.pdf(x, 0.5, 0.8)
    closed = math.log(0.8 / 1.3) + (1.3 ** 2 + 1.5 ** 2) / (2 * 0.8 ** 2) - 0.5
    assert theory.kl_divergence(p, q, mu) == pytest.approx(closed, abs=1e-9)


@pytest.mark.parametrize("p, q, mu", [([0.5, 0.6], [0.5, 0.5], 1), ([1.5, -0.5], [0.5, 0.5], 1),
                                      ([1.0], [0.5, 0.5], 1), ([np.nan, 1], [0.5, 0.5], 1),
                                      ([0.5, 0.5], [0.5, 0.5], [1, -1])])
def test_what_is_not_a_law_is_refused(p, q, mu):
    for f in (theory.kl_divergence, theory.js_divergence, theory.total_variation):
        with pytest.raises(ValueError):
            f(p, q, mu)


def test_discriminator_is_undefined_where_nobody_lives():
    best = theory.optimal_discriminator([0.2, 0.8, 0, 0], [0.6, 0, 0.4, 0])
    assert best[:3] == pytest.approx([0.25, 1, 0]) and math.isnan(best[3])
    value = theory.gan_value([0.2, 0.8, 0, 0], [0.6, 0, 0.4, 0], best)
    assert math.isfinite(value)                       # the undefined point does not matter
    with pytest.raises(ValueError, match="0, 1"):
        theory.gan_value([1.0], [1.0], [1.5])
    with pytest.raises(ValueError):
        theory.optimal_discriminator([-1], [1])


@laws
def test_no_discriminator_beats_the_optimal_one(seed, k):
    p, q = two(seed, k)
    d = np.random.default_rng(seed).uniform(0, 1, k)
    best = theory.gan_value(p, q, theory.optimal_discriminator(p, q))
    assert theory.gan_value(p, q, d) <= best + 1e-12
    assert best == pytest.approx(2 * theory.js_divergence(p, q) - 2 * math.log(2), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, k=st.integers(2, 4))
def test_packed_js_rises_concavely_within_its_bounds(seed, k):
    p, q = two(seed, k)
    js = np.array([0] + [theory.packed_js(p, q, m) for m in range(1, 8)])
    assert (np.diff(js) >= -1e-12).all() and (np.diff(js, 2) <= 1e-12).all()
    assert js[1] == pytest.approx(theory.js_divergence(p, q))
    low, *high = theory.packed_js_bounds(p, q, 7)
    assert low - 1e-12 <= js[7] <= min(high) + 1e-12


def test_packs_count_every_composition_once():
    counts = theory.count_vectors(4, 3)
    assert counts.shape == (15, 3) and (counts.sum(1) == 4).all()
    assert len({tuple(row) for row in counts}) == 15
    assert theory.pack_law(np.array([0.2, 0.3, 0.5]), 4).sum() == pytest.approx(1)


@pytest.mark.parametrize("call", [
    lambda: theory.packed_js([1.0], [1.0], 0),
    lambda: theory.packed_js([1.0], [1.0], 1.5),
    lambda: theory.packed_js(np.full(40, 0.025), np.full(40, 0.025), 20),
    lambda: theory.missing_modes_js(0),
    lambda: theory.packed_js_bounds([1.0], [1.0], 0),
    lambda: theory.packed_gradient([0.5, 0.5], [1, 0], [1, -1], 2),
    lambda: theory.js_bounds(1.2),
    lambda: theory.minibatch_features(torch.ones(2, 3), torch.ones(4, 1, 2)),
    lambda: theory.play("none", (1, 1, 1, 1), 0.1),
    lambda: theory.spectral_radius("simultaneous", 0),
    lambda: theory.spectral_radius("none", 1),
    lambda: theory.step_limit("none"),
    lambda: theory.step_limit("regularised", mu=-1),
    lambda: theory.step_limit("regularised", mu=math.nan),
    lambda: theory.spectral_radius("alternating", 0.1, rate=-1),
    lambda: theory.spectral_radius("optimistic", 0.1, beta=0.3),
    lambda: theory.generator_gradient("hinge", math.nan),
    lambda: theory.optimal_discriminator([math.nan], [1]),
    lambda: theory.gaussian_w1(math.nan, 1, 0, 1),
    lambda: theory.monotone_plan([math.nan], [1], [0], [1]),
    lambda: theory.is_transport_plan([[4.0]], [4], [4]),
    lambda: theory.generator_gradient("none", 0),
    lambda: theory.noised_js([0], [1], [1], [1], 0),
    lambda: theory.noised_js([0], [0.5], [1], [1], 1),
    lambda: theory.noised_js_bounds(-1, 0, 1),
    lambda: theory.wasserstein_1([0, 1], [1], [0], [1]),
    lambda: theory.wasserstein_1([np.inf], [1], [0], [1]),
    lambda: theory.gaussian_w1(0, -1, 0, 1),
    lambda: theory.optimal_transport([[1, 2]], [0.5, 0.5], [1]),
    lambda: theory.monotone_plan([0], [0.5, 0.5], [1], [1])])
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError):
        call()


def test_functions_survive_extreme_but_valid_input():
    p, q = [0.7, 0.2, 0.1], [0.1, 0.2, 0.7]
    assert abs(theory.packed_gradient(p, q, [1, -1, 0], 162)) < 1e-9
    assert theory.js_bounds(1 + 2e-16)[1] == pytest.approx(math.log(2))
    assert theory.step_limit("regularised", mu=1e9) == pytest.approx(2e-9)
    light = [0.5, 0.5 - 9e-7]
    assert theory.optimal_transport(np.eye(2), light, [0.4, 0.6])[0] >= 0
    assert theory.kl_divergence(light, [0.5, 0.5]) >= 0


def test_missing_modes_have_their_limits():
    assert theory.missing_modes_js(1.0) == pytest.approx(0, abs=1e-15)
    assert theory.missing_modes_js(1e-9) == pytest.approx(math.log(2), abs=1e-7)


@pytest.mark.parametrize("method", theory.METHODS)
@given(eta=st.floats(0.01, 2.5), x=st.floats(0.05, 0.9))
@settings(max_examples=25, deadline=None)
def test_radius_is_that_of_the_algorithm_and_limit_is_where_it_is_one(method, eta, x):
    options = {"momentum": {"beta": x - 0.5}, "alternating momentum": {"beta": -x},
               "consensus": {"gamma": 3 * x}, "regularised": {"mu": 3 * x},
               "alternating regularised": {"mu": 3 * x}}.get(method, {})
    radius = theory.spectral_radius(method, eta, **options)
    # double eigenvalues are found to half of the digits only
    assert radius == pytest.approx(theory.measured_radius(method, eta, **options), abs=2e-6)
    limit = theory.step_limit(method, **options)
    if abs(eta - limit) > 1e-3 and method != "alternating":
        assert (radius < 1) == (eta < limit)


def test_step_limits_of_undamped_methods():
    assert theory.step_limit("regularised") == theory.step_limit("alternating regularised") == 0
    assert theory.step_limit("implicit") == math.inf and theory.step_limit("simultaneous") == 0
    assert theory.step_limit("alternating momentum", beta=0.5) == 0


@given(a=st.floats(-30, 30))
def test_gradient_ratio_of_the_two_losses(a):
    kind, unkind = (theory.generator_gradient(f"{word}saturating", a) for word in ("non-", ""))
    assert kind / unkind == pytest.approx(math.exp(-a))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, sigma=st.floats(0.2, 5))
def test_noised_js_falls_with_noise_and_obeys_transport(seed, sigma):
    x, p, y, q = theory.random_atoms(seed, 3, 4)
    js, more = theory.noised_js(x, p, y, q, sigma), theory.noised_js(x, p, y, q, 1.3 * sigma)
    w1 = theory.wasserstein_1(x, p, y, q)
    w2 = math.sqrt(np.sum(theory.monotone_plan(x, p, y, q) * (x[:, None] - y) ** 2))
    assert more <= js + 1e-9 and js <= min(theory.noised_js_bounds(w1, w2, sigma)) + 1e-9
    slope = theory.differences(lambda y: theory.noised_js(x, p, y, q, sigma), y)
    assert theory.noised_js_gradient(x, p, y, q, sigma) == pytest.approx(slope, abs=1e-6)


def test_noise_far_below_the_distance_does_not_underflow():
    assert theory.noised_js([0], [1], [5], [1], 0.05) == pytest.approx(math.log(2))
    gradient = theory.noised_js_gradient([0], [1], [5], [1], 0.05)
    assert np.isfinite(gradient).all() and abs(gradient[0]) < 1e-100


@settings(max_examples=40, deadline=None)
@given(seed=seeds, k=st.integers(1, 6), m=st.integers(1, 6))
def test_four_routes_to_w1_agree(seed, k, m):
    x, p, y, q = theory.random_atoms(seed, k, m)
    cost = np.abs(x[:, None] - y)
    plan, w1 = theory.monotone_plan(x, p, y, q), theory.wasserstein_1(x, p, y, q)
    value, best, f, g = theory.optimal_transport(cost, p, q)
    assert theory.is_transport_plan(plan, p, q) and theory.is_transport_plan(best, p, q, 1e-7)
    routes = np.sum(plan * cost), value, p @ f + q @ g, stats.wasserstein_distance(x, y, p, q)
    assert routes == pytest.approx([w1] * 4, abs=1e-7)


def test_invalid_plans_are_recognised():
    assert not theory.is_transport_plan([[0.5, 0.5]], [1], [0.4, 0.6])
    assert not theory.is_transport_plan([[1.1, -0.1]], [1], [1, 0])
    assert not theory.is_transport_plan([[1.0]], [1], [0.5, 0.5])


def test_normal_laws_of_one_deviation_move_by_the_shift():
    assert theory.gaussian_w1(0.3, 1.1, -1.5, 1.1) == pytest.approx(1.8)
    assert theory.gaussian_w1(0, 1, 0, 3) == pytest.approx(2 * math.sqrt(2 / math.pi))


@pytest.mark.slow
def test_whole_notebook_runs_with_another_seed():
    notebook = nbformat.read(ROOT / "HW_04_theory.ipynb", as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = cell.source.replace("SEED = 4", "SEED = 11")
    NotebookClient(notebook, timeout=120, kernel_name="python3",
                   resources={"metadata": {"path": str(ROOT)}}).execute()
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
