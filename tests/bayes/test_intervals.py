"""Error bars of a fit without a sampler: those of its own tree, and what can't be asked."""

import jax
import numpy as np
import pytest
import xarray

import jaxgmm as jg
from jaxgmm.bayes.intervals import METHODS

KEY = jax.random.key(0)
X = jg.datasets.load_faithful().x


@pytest.fixture(scope="module")
def fit():
    return jg.fit(X, 2, key=KEY)


@pytest.mark.parametrize("method", METHODS)
def test_they_are_those_of_the_tree(method, fit):
    found = jg.intervals(fit, 0.8, x=X, key=KEY, method=method, n_draws=100)
    tree = jg.posterior(X, fit, method=method, key=KEY, n_draws=100)
    xarray.testing.assert_identical(found, jg.intervals(jg.relabel(tree, fit.gmm), 0.8))
    assert found.attrs["probability"] == 0.8


def test_the_mean_of_one_component():
    """Its interval is the mean's, +- 1.645 s / sqrt(N)."""
    one = jg.fit(X, 1, key=KEY)
    found = jg.intervals(one, x=X, key=KEY, n_draws=2000)["means"].sel(component_id=0)
    error = 1.645 * X.std(axis=0) / np.sqrt(len(X))
    np.testing.assert_allclose(found.sel(statistic="upper"), X.mean(0) + error, atol=0.15 * error.max(), rtol=2e-3)
    np.testing.assert_allclose(found.sel(statistic="lower"), X.mean(0) - error, atol=0.15 * error.max(), rtol=2e-3)


def test_bad_arguments(fit):
    tree = jg.relabel(jg.posterior(X, fit, method="sandwich", key=KEY, n_draws=100), fit)
    for call, kind, words in (
        (lambda: jg.intervals(fit), ValueError, "need its rows and a key"),
        (lambda: jg.intervals(fit, x=X), ValueError, "need its rows and a key"),
        (lambda: jg.intervals(fit, x=X, key=KEY, method="nuts"), ValueError, "unknown method 'nuts'"),
        (lambda: jg.intervals(fit, x=X[:100], key=KEY), ValueError, "isn't the data of the fit"),
        (lambda: jg.intervals(tree, x=X), ValueError, "x is for the intervals of a fit"),
        (lambda: jg.intervals(tree, n_draws=3), ValueError, "n_draws is for the intervals of a fit"),
        (lambda: jg.intervals(fit.gmm, x=X, key=KEY), TypeError, "a tree, of jg.relabel, or a Fit, got GMM"),
        (lambda: jg.intervals(fit, 1.5, x=X, key=KEY), ValueError, "probability must lie between 0 and 1"),
    ):
        with pytest.raises(kind, match=words):
            call()
