"""What a mixture derives from itself, against exact arithmetic on the same float64 numbers."""

from fractions import Fraction

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.covariance import get_family

OFFSETS, SCALES = (0.0, 1e3, 1e9, 1e12), (1e-25, 1.0, 1e25)
X64 = [False, True]
N = 4000  # draws: each number is compiled
product = pytest.mark.parametrize(("offset", "scale"), [(o, s) for o in OFFSETS for s in SCALES])


def mixture(family, offset, scale):
    weights = np.array([0.375, 0.625])
    means = (offset + np.array([[0.0, 1.0], [3.0, -2.0]])) * scale
    dense = np.array([[[1.0, 0.5], [0.5, 2.0]], [[1.5, -0.25], [-0.25, 1.0]]])
    with jax.enable_x64(True):
        covariances = np.asarray(get_family(family).from_dense(dense))
    return jg.GMM(weights, means, covariances * scale**2, family)


def exact(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array))


def close(actual, wanted, size):
    """Within 1e-9 of `size`, the sds of the answer."""
    assert actual.dtype == np.float64
    for a, w in zip(np.ravel(actual), np.ravel(wanted), strict=True):
        w = Fraction(w)
        assert abs(float((Fraction(float(a)) - w) / Fraction(size))) <= 1e-9 + 4e-16 * abs(float(w / Fraction(size)))


@pytest.mark.parametrize("x64", X64)
@product
def test_moments_match_exact_arithmetic(family, offset, scale, x64):
    with jax.enable_x64(x64):
        gmm = mixture(family, offset, scale)
        mean, covariance, dense = gmm.mean(), gmm.covariance(), gmm.dense_covariances()
    w, m, s = exact(gmm.weights), exact(gmm.means), exact(dense)
    wanted = w @ m
    away = m - wanted
    close(mean, wanted, scale)
    close(covariance, sum(w[k] * (s[k] + np.outer(away[k], away[k])) for k in range(2)), scale**2)


@pytest.mark.parametrize("x64", X64)
@product
def test_condition_matches_exact_arithmetic(family, offset, scale, x64):
    with jax.enable_x64(x64):
        gmm = mixture(family, offset, scale)
        value = (offset + 1.25) * scale
        given = gmm.condition([0], [value])
        marginal = gmm.marginal([0])
        dense = exact(gmm.dense_covariances())
        left = given.dense_covariances()
    m = exact(gmm.means)
    slope = dense[:, 0, 1] / dense[:, 0, 0]
    close(given.means[:, 0], m[:, 1] + slope * (Fraction(value) - m[:, 0]), scale)
    close(left[:, 0, 0], dense[:, 1, 1] - slope * dense[:, 0, 1], scale**2)
    variance = np.array([float(v / Fraction(scale) ** 2) for v in dense[:, 0, 0]])
    z2 = np.array([float((Fraction(value) - c) ** 2 / v) for c, v in zip(m[:, 0], dense[:, 0, 0], strict=True)])
    weights = np.asarray(gmm.weights) * np.exp(-z2 / 2) / np.sqrt(variance)
    np.testing.assert_allclose(given.weights, weights / weights.sum(), rtol=1e-9)
    assert (np.asarray(marginal.means)[:, 0] == gmm.means[:, 0]).all()
    assert marginal.means.dtype == np.float64


@pytest.mark.default_precision
@product
def test_draws_keep_their_spread(family, offset, scale):
    gmm = mixture(family, offset, scale)
    rows, labels = gmm.sample(jax.random.key(0), N)
    assert rows.dtype == np.float64
    assert labels.dtype == np.int32
    sd = (np.asarray(rows) - np.asarray(gmm.means)[0]).std(0) / scale
    np.testing.assert_allclose(sd, np.sqrt(np.diag(gmm.covariance())) / scale, rtol=0.1, atol=1e-3)


@pytest.mark.default_precision
@pytest.mark.parametrize("offset", OFFSETS[:3])
def test_a_step_of_em_is_in_float64(family, offset):
    gmm = mixture(family, offset, 1.0)
    x = np.asarray(gmm.sample(jax.random.key(1), N)[0], float)[:300]
    statistics = jg.e_step(gmm, x)
    assert float(statistics.log_likelihood) == pytest.approx(gmm.log_likelihood(x), rel=1e-9)
    stepped = jg.m_step(statistics, gmm)
    assert {leaf.dtype for leaf in jax.tree.leaves((statistics, stepped))} == {np.dtype(np.float64)}
    np.testing.assert_allclose(stepped.weights @ np.asarray(stepped.means) - offset, x.mean(0) - offset, atol=1e-6)


@pytest.mark.default_precision
def test_statistics_of_float32_rows_are_about_the_centre_they_name():
    gmm = mixture("full", 1e3 + 1e-5, 1.0)
    x = np.asarray(gmm.sample(jax.random.key(1), N)[0], np.float32)[:300]
    statistics = jg.e_step(gmm, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(statistics)} == {np.dtype(np.float64)}
    assert float(statistics.log_likelihood) == pytest.approx(gmm.log_likelihood(x), rel=1e-6)
    mean = (statistics.sums + statistics.counts[:, None] * (statistics.centre - 1e3)).sum(0) / 300
    np.testing.assert_allclose(mean, x.astype(float).mean(0) - 1e3, atol=1e-4)


@pytest.mark.default_precision
def test_float32_in_float32_out(family):
    gmm = mixture(family, 0.0, 1.0)
    small = jax.tree.map(np.float32, gmm)
    for answer in (
        small.mean(),
        small.covariance(),
        small.condition([0], [1.0]),
        small.marginal([1]),
        small.sample(jax.random.key(0), 3)[0],
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(answer)} == {np.dtype(np.float32)}


@pytest.mark.default_precision
def test_a_conditional_variance_stays_positive():
    sigma = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-12]])
    given = jg.GMM([1.0], [[0.0, 0.0]], sigma[None]).condition([0], [0.0])
    assert float(given.covariances[0, 0, 0]) == pytest.approx(1e-12, rel=1e-3)
