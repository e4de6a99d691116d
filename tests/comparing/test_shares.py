"""Shares of bootstrap replicates: those of fits one by one, and a sure choice where the rows leave no doubt."""

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.fitting.weighted_step import resampled_weights

KEY = jax.random.key(0)
X = jg.datasets.load_faithful().x


@pytest.mark.parametrize(("prior", "families"), [("default", ["full", "diag"]), (None, ["full"])])
def test_replicates_are_fits_of_weighted_rows(prior, families):
    """Each replicate's choice, from fits that are made one by one."""
    comparison = jg.compare(X, families=families, n_components=[1, 2, 3], key=KEY, n_init=3, prior=prior, max_steps=3000)
    shares = jg.choice_shares(comparison, X, key=jax.random.key(1), n_replicates=6, rtol=1e-9, max_steps=3000)
    weights = resampled_weights(
        np.random.default_rng(np.asarray(jax.random.key_data(jax.random.key(1))).tolist()), np.ones(272), 6
    )
    chosen = []
    for weight in weights:
        bic = {}
        for row in comparison.rows:
            again = jg.fit(X, init=row.fit.gmm, prior=row.fit.prior, key=KEY, sample_weight=weight, rtol=1e-9, max_steps=3000)
            bic[row.name] = again.bic
        chosen.append(min(bic, key=bic.get))
    expected = {name: chosen.count(name) / 6 for name in comparison.names}
    assert shares.to_dict() == pytest.approx(expected)
    assert shares.is_monotonic_decreasing
    assert shares.sum() == pytest.approx(1)


def test_weights_of_rows():
    """A row of weight 2 is drawn twice as often: rows that are repeated have the same distribution of replicates."""
    rng = np.random.default_rng(0)
    draws = resampled_weights(rng, np.array([1.0, 2.0, 0.0]), 4000)
    np.testing.assert_allclose(draws.mean(0), [1, 2, 0], atol=4 * np.sqrt(2 / 4000))
    np.testing.assert_array_equal(draws.sum(1), 3)


def test_what_leaves_no_doubt_and_what_does():
    rng = np.random.default_rng(0)
    clear = np.concatenate([rng.normal(size=(150, 2)), rng.normal(size=(150, 2)) + 12])
    vague = np.concatenate([rng.normal(size=(60, 1)), rng.normal(size=(60, 1)) + 2.6])
    for x, least, most in ((clear, 0.95, 1.0), (vague, 0.3, 0.9)):
        comparison = jg.compare(x, families=["spherical"], n_components=[1, 2, 3], key=KEY, max_steps=3000)
        shares = jg.choice_shares(comparison, x, key=KEY, n_replicates=60)
        assert least <= shares.iloc[0] <= most
    by_aic = jg.choice_shares(comparison, x, key=KEY, n_replicates=60, criterion="aic")
    counts = {name: int(name.split()[1]) for name in by_aic.index}
    assert sum(counts[n] * s for n, s in by_aic.items()) >= sum(counts[n] * s for n, s in shares.items())  # a smaller penalty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": X[::-1]}, "aren't those of the comparison"),
        ({"sample_weight": np.full(272, 2.0)}, "aren't those of the comparison"),
        ({"criterion": "icl"}, "unknown criterion 'icl'"),
        ({"n_replicates": 1}, "n_replicates must be at least 2"),
        ({"x": np.where(X[3, 0] == X, np.nan, X)}, "missing values"),
    ],
)
def test_bad_arguments(change, words):
    comparison = jg.compare(X, families=["diag"], n_components=[1], key=KEY, n_init=1)
    with pytest.raises(ValueError, match=words):
        jg.choice_shares(comparison, **{"x": X, "key": KEY} | change)
