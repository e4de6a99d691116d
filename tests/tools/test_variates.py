"""Random variates have the distributions that they are named by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxgmm.tools.variates import Uniforms, integer, log_gammas, logistic, normal, normals

N = 20_000
KEY = jax.random.key(0)


@pytest.mark.parametrize("shape", [0.01, 0.3, 1.0, 2.5, 40.0, 1e6])
def test_gammas(shape):
    (drawn,) = log_gammas(KEY, jnp.full(N, shape))
    assert scipy.stats.kstest(np.asarray(drawn), scipy.stats.loggamma(shape).cdf).pvalue > 1e-3


def test_gammas_of_several_arrays():
    """Each has its own shapes; an impossible one is NaN, and keeps nobody waiting."""
    first, second = log_gammas(KEY, jnp.array([[1e4, 1e-2]] * 500), jnp.array([jnp.nan, -1.0, jnp.inf, 3.0]))
    assert first.shape == (500, 2)
    np.testing.assert_allclose(jnp.exp(first[:, 0]).mean(), 1e4, rtol=2e-3)
    assert np.isnan(second[:3]).all()
    assert np.isfinite(second[3])


def test_normals():
    drawn, none, more = normals(KEY, (N,), (0,), (3, 2), dtype=jnp.float64)
    assert scipy.stats.kstest(drawn, "norm").pvalue > 1e-3
    assert (none.shape, more.shape) == ((0,), (3, 2))
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(N)


def test_of_uniforms():
    """Also at the ends, where a logarithm isn't finite."""
    u = jax.random.uniform(KEY, (N,))
    assert scipy.stats.kstest(logistic(u), "logistic").pvalue > 1e-3
    counts = np.bincount(integer(u, 7), minlength=7)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    for dtype in (jnp.float32, jnp.float64):
        ends = jnp.array([0, 1 - jnp.finfo(dtype).epsneg], dtype)
        assert np.isfinite(logistic(ends)).all()
        assert np.isfinite(normal(ends, ends)).all()
        assert [int(integer(ends[1], end)) for end in (1, 3, 1000, 99_999)] == [0, 2, 999, 99_998]


def test_uniforms_are_handed_out_once():
    u = Uniforms(jnp.arange(6.0))
    np.testing.assert_array_equal(u.take(), 0)
    np.testing.assert_array_equal(u.take(2, 2), [[1, 2], [3, 4]])
    assert u.left == 1
    with pytest.raises(AssertionError, match="2 uniforms are asked for, 1 are left"):
        u.take(2)
