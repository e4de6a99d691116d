"""Stepwise EM: exact where it can be, and as good as EM on all rows at once after one pass over many."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import random_member

import jaxgmm as jg
from jaxgmm.fitting.noise import Noise

KEY = jax.random.key(0)
FAMILIES = ("full", "tied", "diag", "spherical", "EEI", "VVE")


def drawn(n, seed=0):
    """Rows of three Gaussians that overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    means = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    roots = np.array([[[1.0, 0.0], [0.5, 0.8]], [[0.6, 0.0], [0.0, 1.2]], [[1.0, 0.0], [-0.4, 0.5]]])
    return means[labels] + np.einsum("nij,nj->ni", roots[labels], rng.normal(size=(n, 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_chunk_that_replaces_the_start_is_a_step_of_em(family):
    """With a delay of 0 the first step size is 1."""
    x = drawn(400)
    gmm = random_member(family, 3, 2)
    for prior in (None, jg.Prior.default(x, 3, family)):
        after = jg.stepwise(gmm, prior=prior, delay=0).update(x)
        expected = jg.m_step(jg.e_step(gmm, x), gmm, prior)
        for name in ("weights", "means", "covariances"):
            np.testing.assert_allclose(getattr(after.gmm, name), getattr(expected, name), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_start_is_a_fixed_point_of_what_it_expects(family):
    """Of rows that say nothing new: statistics of a mixture's own, and the M-step of them."""
    gmm = random_member(family, 3, 2)
    state = jg.stepwise(gmm)
    again = jg.m_step(state.statistics, gmm)
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(getattr(again, name), getattr(gmm, name), rtol=1e-6, atol=1e-9)


def test_averages_by_hand():
    """Two chunks: the statistics about 0 are the weighted averages of raw moments, whatever centres they were summed about."""
    x = drawn(900)
    gmm = random_member("full", 3, 2)
    state = jg.stepwise(gmm, decay=0.8, delay=2)
    weights = np.random.default_rng(1).uniform(0, 2, 300)
    raw = np.concatenate([[gmm.weights[:, None]], [np.asarray(gmm.weights)[:, None] * gmm.means]], axis=2)[0]
    second = np.einsum("k,kij->kij", gmm.weights, np.asarray(gmm.covariances) + np.einsum("ki,kj->kij", gmm.means, gmm.means))
    for t, (chunk, w) in enumerate([(x[300:600], np.ones(300)), (x[600:], weights)], start=1):
        r = np.asarray(state.gmm.responsibilities(chunk)) * w[:, None]
        step = (t + 2) ** -0.8
        first = np.column_stack([r.sum(0), r.T @ chunk]) / w.sum()
        raw = (1 - step) * raw + step * first
        second = (1 - step) * second + step * np.einsum("nk,ni,nj->kij", r, chunk, chunk) / w.sum()
        state = state.update(chunk, w)
    np.testing.assert_allclose(state.gmm.weights, raw[:, 0] / raw[:, 0].sum(), rtol=1e-10)
    means = raw[:, 1:] / raw[:, :1]
    np.testing.assert_allclose(state.gmm.means, means, rtol=1e-10)
    covariances = second / raw[:, :1, None] - np.einsum("ki,kj->kij", means, means)
    np.testing.assert_allclose(state.gmm.covariances, covariances, rtol=1e-9)
    assert state.total_weight == pytest.approx(300 + weights.sum())


@pytest.mark.parametrize(("decay", "lost"), [(0.6, 5e-4), (0.9, 5e-3)])
def test_one_pass_is_as_good_as_em_on_all_rows(decay, lost):
    """To a few thousandths of a nat a row, from a start that is 0.1 below, on rows that neither has seen."""
    x, new = drawn(200_000), drawn(50_000, seed=1)
    start = jg.fit(x[:2000], 3, key=KEY, n_init=1, init="random", max_steps=2000)
    poor = jg.GMM(np.full(3, 1 / 3), np.asarray(start.gmm.means) + 0.7, np.asarray(start.gmm.covariances) * 1.5)
    state = jg.stepwise(poor, decay=decay)
    for chunk in np.array_split(x, 100):
        state = state.update(chunk)
    whole = jg.fit(x, init=start.gmm, key=KEY, prior=None, max_steps=2000)
    best, found, before = (float(gmm.log_likelihood(new)) / len(new) for gmm in (whole.gmm, state.gmm, poor))
    assert before < best - 0.1
    assert found > best - lost


def test_far_from_zero():
    """An offset of 1e8 sds costs no digits that the rows have."""
    x = drawn(4000)
    states = []
    for offset in (0.0, 1e8):
        gmm = jg.GMM([0.4, 0.3, 0.3], np.array([[0.5, 0], [3, 1], [0, 3]]) + offset, [np.eye(2)] * 3)
        state = jg.stepwise(gmm)
        for chunk in np.array_split(x + offset, 10):
            state = state.update(chunk)
        states.append(state)
    np.testing.assert_allclose(states[1].gmm.covariances, states[0].gmm.covariances, rtol=1e-5, atol=1e-6)


def test_it_reads_and_stands_for_its_mixture():
    fit = jg.fit(drawn(300), 3, key=KEY, n_init=1)
    state = jg.stepwise(fit).update(drawn(100, 1))
    assert "Stepwise: full, 3 components" in repr(state).splitlines()[0]
    assert "1 chunk, total weight 100" in repr(state)
    assert jg.density_level(state, drawn(5), key=KEY).shape == (5,)
    leaves = jax.tree.leaves(state)
    assert len(leaves) > 6
    again = jax.tree.unflatten(jax.tree.structure(state), leaves)
    np.testing.assert_array_equal(again.update(drawn(50)).gmm.means, state.update(drawn(50)).gmm.means)
    noise = Noise(0.1, np.full(2, -10.0), np.full(2, 10.0))
    with pytest.raises(ValueError, match="noise"):
        jg.stepwise(dataclasses.replace(fit, noise=noise))


def test_chunks_of_one_size_compile_once(compilations):
    state = jg.stepwise(random_member("full", 3, 2)).update(drawn(1000))
    compilations.clear()
    for n in (1000, 900, 1500):
        state = state.update(drawn(n))
    assert not compilations


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"decay": 0.5}, "decay must be above 0.5"),
        ({"decay": 1.1}, "decay must be above 0.5"),
        ({"decay": np.nan}, "decay must be above 0.5"),
        ({"delay": -1}, "delay must be a number of at least 0"),
        ({"prior": "default"}, "prior"),
        ({"prior": jg.Prior.default(drawn(20), 3, "diag")}, "diag"),
    ],
)
def test_bad_arguments(arguments, words):
    gmm = jg.GMM([0.5, 0.5], [[0.0, 0], [1, 1]], [np.eye(2)] * 2)
    with pytest.raises((ValueError, TypeError), match=words):
        jg.stepwise(gmm, **arguments)


def test_bad_chunks_and_starts():
    x = drawn(100)
    state = jg.stepwise(jg.GMM([0.5, 0.5], [[0.0, 0], [1, 1]], [np.eye(2)] * 2))
    with pytest.raises(ValueError, match="missing values"):
        state.update(np.where(np.arange(100)[:, None] == 3, np.nan, x))
    with pytest.raises(ValueError, match="has 1 columns"):
        state.update(x[:, :1])
    with pytest.raises(ValueError, match="zero for every row"):
        state.update(x, np.zeros(100))
    with pytest.raises(ValueError, match="take a family without"):
        jg.stepwise(jg.GMM([1.0], [[0.0] * 5], np.ones((1, 5, 2)), "factors:1"))
