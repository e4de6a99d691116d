"""The parametric bootstrap of the likelihood ratio of K and K + 1 components."""

import warnings

import jax
import numpy as np
import pytest

import jaxgmm as jg

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _starts_that_climb_on():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)
        yield


def test_p_values_are_uniform_where_there_is_nothing_to_find():
    """20 sets of one Gaussian, 19 replicates each: p is one of 20 values, each as likely; within 3 sds of what a sum has."""
    rng = np.random.default_rng(0)
    settings = {"n_replicates": 19, "n_init": 3, "max_steps": 200}
    found = [jg.bootstrap_test(rng.normal(size=(60, 1)), 1, key=jax.random.key(i), **settings).p_value for i in range(20)]
    assert abs(np.mean(found) - 0.525) < 3 * np.sqrt((20**2 - 1) / 12) / 20 / np.sqrt(20)
    assert min(found) < 0.35
    assert max(found) > 0.65


def test_it_finds_what_is_there():
    x = jg.datasets.load_faithful().x
    one = jg.bootstrap_test(x, 1, key=KEY, n_replicates=19, n_init=3)
    assert one.p_value == 0.05
    assert one.statistic > 10 * one.replicates.max()
    fits = [jg.fit(x, k, key=KEY) for k in (1, 2)]
    assert one.statistic == pytest.approx(2 * (fits[1].log_likelihood - fits[0].log_likelihood), abs=0.05)
    assert "1 component against 2: p < 0.1" in repr(one)


def test_bad_input():
    x = np.arange(5.0)[:, None]
    for change, message in (
        ({"n_replicates": 5}, "n_replicates must be at least 19"),
        ({"n_components": 5}, "n_components is 6, but x has 5 rows"),
        ({"family": "fulll"}, "unknown family"),
        ({"n_components": 0}, "n_components"),
    ):
        with pytest.raises(ValueError, match=message):
            jg.bootstrap_test(x, **{"n_components": 1, "key": KEY} | change)
    with pytest.raises(ValueError, match="NaN"):
        jg.bootstrap_test(np.where(x == 1, np.nan, x), 1, key=KEY)
