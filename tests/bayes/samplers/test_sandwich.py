"""Methods that are right where the model isn't: the sandwich and the bootstrap, against the formula of one component."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import load_x

import jaxgmm as jg
from jaxgmm.bayes.samplers.weighted_likelihood import resampled_weights

KEY = jax.random.key(0)
HEAVY = np.random.default_rng(0).standard_t(6, 3000)[:, None]  # no Gaussian's


def weak(prior):
    return dataclasses.replace(
        prior, mean_precision=np.float64(1e-6), degrees_of_freedom=np.float64(1e-3), scale=1e-6 * prior.scale, least_scale=None
    )


@pytest.mark.parametrize("method", ["sandwich", "bootstrap", "weighted-likelihood", "laplace"])
def test_errors_of_a_mean_and_a_variance_that_is_no_gaussians(method):
    """Of the mean s / sqrt(n); of the variance sqrt((m4 - s^4) / n), where a Gaussian has s^2 sqrt(2 / n)."""
    fit = jg.fit(HEAVY, 1, key=KEY, family="spherical", prior=weak)
    tree = jg.posterior(HEAVY, fit, method=method, key=KEY, n_draws=1000)
    n, centred = len(HEAVY), HEAVY - HEAVY.mean()
    variance = (centred**2).mean()
    right = np.sqrt(((centred**4).mean() - variance**2) / n)
    assert right > 1.5 * variance * np.sqrt(2 / n)
    of_mean, of_variance = (float(tree["posterior"][name].std()) for name in ("means", "covariances"))
    assert of_mean == pytest.approx(np.sqrt(variance / n), rel=0.05)
    assert of_variance == pytest.approx(variance * np.sqrt(2 / n) if method == "laplace" else right, rel=0.08)
    assert abs(float(tree["posterior"]["means"].mean()) - HEAVY.mean()) < 0.15 * of_mean


def test_where_the_model_is_right_it_spreads_like_laplace():
    x = np.asarray(jg.GMM([0.4, 0.6], [[0.0, 0], [3.0, 1]], np.stack([np.eye(2), 0.5 * np.eye(2)])).sample(KEY, 1500)[0])
    fit = jg.fit(x, 2, key=KEY)
    ours, theirs = (jg.posterior(x, fit, method=name, key=KEY, n_draws=1000) for name in ("sandwich", "laplace"))
    for name in ("weights", "means", "covariances"):
        np.testing.assert_allclose(
            ours["posterior"][name].std(("chain", "draw")), theirs["posterior"][name].std(("chain", "draw")), rtol=0.25
        )
    assert jg.diagnose(jg.relabel(ours, fit)).ok
    draw = jax.tree.map(lambda leaf: np.asarray(leaf)[1, 3], jg.draws_of(ours))
    assert float(ours["sample_stats"]["lp"][1, 3]) == pytest.approx(
        float(draw.log_likelihood(x)) + float(fit.prior.log_prob(draw)), rel=1e-9
    )


def test_weights_are_repeated_rows():
    x, counts = load_x("faithful"), np.random.default_rng(1).multinomial(272, np.full(272, 1 / 272))
    fit = jg.fit(x, 2, key=KEY, sample_weight=counts)
    settings = {"prior": fit.prior, "method": "sandwich", "key": KEY, "n_draws": 100}
    weighted = jg.posterior(x, fit.gmm, sample_weight=counts, **settings)
    repeated = jg.posterior(np.repeat(x, counts, axis=0), fit.gmm, **settings)
    np.testing.assert_allclose(weighted["posterior"]["means"], repeated["posterior"]["means"], rtol=1e-6)


def test_rows_are_drawn_with_repetition():
    given = np.array([0.0, 1.0, 1.0, 3.0, 5.0])
    drawn = resampled_weights(np.random.default_rng(0), given, 20_000)
    assert (drawn.sum(1) == 10).all()
    assert (drawn[:, 0] == 0).all()
    assert (abs(drawn.mean(0) - given) < 4 * np.sqrt(given * (1 - given / 10) / 20_000) + 1e-12).all()
    assert (drawn == drawn.round()).all()
