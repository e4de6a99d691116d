"""Divergences against numerical integrals and closed forms; reductions keep moments, and cost what their bound says at most."""

import itertools

import jax
import numpy as np
import pytest
from helpers import random_member
from scipy import integrate

import jaxgmm as jg

KEY = jax.random.key(0)


def test_one_feature_against_the_integral():
    p = jg.GMM([0.3, 0.7], [[0.0], [3.0]], [1.0, 0.5], "spherical")
    q = jg.GMM([0.6, 0.4], [[0.5], [2.0]], [2.0, 1.0], "spherical")

    x = np.linspace(-12, 15, 20_001)[:, None]
    own, other = (np.asarray(g.log_prob(x)) for g in (p, q))
    exact = integrate.simpson(np.exp(own) * (own - other), x=x[:, 0])
    found = jg.kl_divergence(p, q, key=KEY, n_samples=100_000)
    assert abs(found.value - exact) < 4 * found.error
    assert found.error < 0.01
    assert abs(found.variational - exact) < 0.3 * exact


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
def test_single_gaussians_have_a_closed_form(family):
    p, q = random_member(family, 1, 3, seed=0), random_member(family, 1, 3, seed=1)
    a, b = (np.asarray(g.dense_covariances())[0] for g in (p, q))
    away = np.asarray(p.means - q.means)[0]
    distances = np.trace(np.linalg.solve(b, a)) + away @ np.linalg.solve(b, away)
    exact = (distances - 3 + np.log(np.linalg.det(b) / np.linalg.det(a))) / 2
    found = jg.kl_divergence(p, q, key=KEY)
    assert found.variational == pytest.approx(exact)
    assert abs(found.value - exact) < 4 * found.error
    same = jg.kl_divergence(p, p, key=KEY)
    assert same == (0, 0, 0)


def test_reduction_keeps_mean_and_covariance():
    gmm = random_member("full", 8, 3)

    def moments(gmm):
        weights, means = np.asarray(gmm.weights), np.asarray(gmm.means)
        away = means - weights @ means
        return weights @ means, np.einsum("k,kij->ij", weights, gmm.dense_covariances() + away[:, :, None] * away[:, None])

    for k in range(1, 9):
        fewer = jg.reduce_components(gmm, k)
        assert (fewer.n_components, fewer.family) == (k, "full")
        for own, whole in zip(moments(fewer), moments(gmm), strict=True):
            np.testing.assert_allclose(own, whole, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fewer.log_prob(np.zeros((2, 3))), gmm.log_prob(np.zeros((2, 3))))


def test_each_merge_is_the_cheapest_and_costs_at_most_its_bound():
    gmm = random_member("diag", 6, 2)
    weights, means, sigma = np.asarray(gmm.weights), np.asarray(gmm.means), np.asarray(gmm.dense_covariances())
    bounds = {}
    for i, j in itertools.combinations(range(6), 2):
        w = weights[[i, j]]
        mean = w @ means[[i, j]] / w.sum()
        away = means[[i, j]] - mean
        both = (np.einsum("k,kij->ij", w, sigma[[i, j]]) + np.einsum("k,ki,kj->ij", w, away, away)) / w.sum()
        dets = np.linalg.slogdet(sigma[[i, j]])[1]
        bounds[i, j] = (w.sum() * np.linalg.slogdet(both)[1] - w @ dets) / 2
    (i, j), bound = min(bounds.items(), key=lambda item: item[1])
    fewer = jg.reduce_components(gmm, 5)
    assert sorted(np.asarray(fewer.weights)) == pytest.approx(sorted([*np.delete(weights, [i, j]), weights[i] + weights[j]]))
    cost = jg.kl_divergence(gmm, fewer, key=KEY, n_samples=20_000)
    assert cost.value - 4 * cost.error < bound


def test_components_that_were_parted_are_found_again():
    """Each of three far components is written as four with the same moments together."""
    rng = np.random.default_rng(0)
    whole = jg.GMM([0.2, 0.3, 0.5], [[0.0, 0.0], [30.0, 0.0], [0.0, 30.0]], [np.eye(2)] * 3)
    parts = rng.dirichlet(np.full(4, 5.0), 3)
    shifts = rng.normal(size=(3, 4, 2)) / 10
    means = np.asarray(whole.means)[:, None] + shifts
    weights = np.ravel(np.asarray(whole.weights)[:, None] * parts)
    split = jg.GMM(weights, means.reshape(-1, 2), [np.eye(2)] * 12).named(["a", "b"])
    found = jg.reduce_components(split, 3)
    order = np.argsort(found.weights)
    np.testing.assert_allclose(np.asarray(found.weights)[order], whole.weights)
    np.testing.assert_allclose(np.asarray(found.means)[order], np.einsum("kp,kpd->kd", parts, means))
    assert found.feature_names == ("a", "b")


def test_bad_input():
    gmm = random_member("full", 3, 2)
    with pytest.raises(ValueError, match="n_components is 4, but the mixture has 3"):
        jg.reduce_components(gmm, 4)
    with pytest.raises(ValueError, match="n_components must be at least 1"):
        jg.reduce_components(gmm, 0)
    with pytest.raises(ValueError, match="p has 2 features, q 3"):
        jg.kl_divergence(gmm, random_member("full", 3, 3), key=KEY)
    with pytest.raises(ValueError, match="name them alike"):
        jg.kl_divergence(gmm.named(["a", "b"]), gmm.named(["b", "a"]), key=KEY)
    with pytest.raises(TypeError, match="q must be a GMM"):
        jg.kl_divergence(gmm, 3, key=KEY)
    with pytest.raises(ValueError, match="n_samples must be at least 2"):
        jg.kl_divergence(gmm, gmm, key=KEY, n_samples=1)
