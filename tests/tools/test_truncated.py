"""The normal beyond a bound, against 450 digits and scipy's quantiles."""

import jax
import mpmath
import numpy as np
from scipy import stats

from jaxgmm.tools import truncated

BOUNDS = np.array([30, 8.3, 5, 2, 0.1, 0, -0.1, -1, -3, -7.99, -8.01, -20, -40, -300.0])
UNIFORM = np.array([0, 1e-300, 1e-12, 0.001, 0.3, 0.5, 0.7, 0.999, 1 - 1e-12, 1 - 2**-53])


def exact(bound):
    """Log probability, hazard and variance."""
    with mpmath.workdps(450):
        a = mpmath.mpf(float(bound))
        probability = mpmath.erfc(-a / mpmath.sqrt(2)) / 2
        hazard = mpmath.exp(-(a**2) / 2) / mpmath.sqrt(2 * mpmath.pi) / probability
        return [float(value) for value in (mpmath.log(probability), hazard, 1 - hazard * (hazard + a))]


def test_probabilities_and_moments_have_their_digits_in_both_tails():
    expected = np.array([exact(bound) for bound in BOUNDS]).T
    with jax.enable_x64(True):
        functions = (truncated.log_probability, truncated.hazard, truncated.variance)
        found = jax.jit(lambda a: [f(a) for f in functions])(BOUNDS)
    for ours, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-11)
    np.testing.assert_allclose(-found[1][3:10], stats.truncnorm.mean(-np.inf, BOUNDS[3:10]), rtol=1e-12)


def test_derivatives_are_moments():
    """Of the log probability: the hazard, and the variance less 1, by the rule and by differences."""
    step = 1e-4

    def at(a):
        ends = [truncated.hazard(a + sign * step) for sign in (-1, 1)]
        slopes = jax.grad(truncated.log_probability)(a), jax.grad(truncated.hazard)(a)
        return *slopes, truncated.hazard(a), truncated.variance(a) - 1, (ends[1] - ends[0]) / (2 * step)

    with jax.enable_x64(True):
        slope, curvature, hazard, variance, differences = jax.jit(jax.vmap(at))(BOUNDS[1:])
    np.testing.assert_allclose(slope, hazard, rtol=1e-14)
    np.testing.assert_allclose(curvature, variance, rtol=1e-12)
    np.testing.assert_allclose(curvature, differences, atol=1e-7)


def test_draws_invert_the_distribution():
    """P(Y < y) is the uniform variate, to nine digits of it or of its complement."""
    bounds, uniform = np.repeat(BOUNDS, UNIFORM.size), np.tile(UNIFORM, BOUNDS.size)
    with jax.enable_x64(True):
        drawn = np.asarray(jax.jit(truncated.draw)(bounds, uniform))
    assert (drawn <= bounds).all()
    assert np.isfinite(drawn).all()
    with mpmath.workdps(450):

        def probability(y):
            return mpmath.erfc(-mpmath.mpf(float(y)) / mpmath.sqrt(2)) / 2

        for y, bound, u in zip(drawn, bounds, uniform, strict=True):
            if u > 0:
                share, wanted = probability(y) / probability(bound), mpmath.mpf(float(u))
                assert min(abs(share / wanted - 1), abs((1 - share) / (1 - wanted) - 1)) < 1e-9


def test_draws_of_single_precision():
    """GPUs' own: finite, beyond the bound, and with the truth's moments within their error."""
    bounds = np.repeat(np.float32([-20, -2, 1, 6]), 20_000)
    drawn = np.asarray(jax.jit(truncated.draw)(bounds, jax.random.uniform(jax.random.key(0), bounds.shape))).reshape(4, -1)
    assert np.isfinite(drawn).all()
    for own, bound in zip(drawn, (-20, -2, 1, 6), strict=True):
        assert own.max() <= bound
        mean, sd = stats.truncnorm.mean(-np.inf, bound), stats.truncnorm.std(-np.inf, bound)
        assert abs(own.mean(dtype=float) - mean) < 4 * sd / np.sqrt(own.size)
