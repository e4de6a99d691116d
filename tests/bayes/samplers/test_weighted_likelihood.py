"""The weighted likelihood bootstrap: its draws are fits of weighted rows, and spread like the posterior."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import load_x, nearest

import jaxgmm as jg
from jaxgmm.bayes.samplers.weighted_likelihood import random_weights
from jaxgmm.tools.validation import key_data

KEY = jax.random.key(0)
X = load_x("faithful")


START = jg.GMM([0.4, 0.6], [[2.0, 54.0], [4.3, 80.0]], [[[0.1, 0.0], [0.0, 30.0]], [[0.2, 0.0], [0.0, 40.0]]])


def fitted(family="full", **options):
    """From a start that is given: one program, whatever the weights."""
    start = jg.GMM(START.weights, START.means, nearest(family, np.asarray(START.covariances)), family)
    return jg.fit(X, init=start, key=KEY, **options)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", ["full", "tied", "spherical"])  # EM of "diag" differs in nothing that matters here
def test_each_draw_is_a_fit_of_weighted_rows(family, weighted):
    given = np.arange(len(X)) % 3 if weighted else np.ones(len(X))
    fit = fitted(family, sample_weight=given if weighted else None)
    settings = {"key": KEY, "n_draws": 3, "n_chains": 2, "rtol": 1e-12, "sample_weight": given if weighted else None}
    tree = jg.posterior(X, fit, method="weighted-likelihood", **settings)
    own, _ = jax.random.split(KEY)
    weights = random_weights(np.random.default_rng(np.asarray(key_data(own)).tolist()), given, 6)
    means = tree["posterior"]["means"].values.reshape(6, 2, 2)
    covariances = tree["posterior"]["covariances"].values.reshape(6, *np.shape(fit.covariances))
    for i in (0, 4):
        one = jg.fit(X, init=fit.gmm, key=KEY, prior=fit.prior, sample_weight=weights[i], rtol=1e-12)
        np.testing.assert_allclose(means[i], one.means, rtol=1e-5)
        np.testing.assert_allclose(covariances[i], one.covariances, rtol=1e-5)
    gmm = jg.GMM(tree["posterior"]["weights"].values[1, 1], means[4], covariances[4], family)
    lp = gmm.log_likelihood(X, given) + float(fit.prior.log_prob(gmm))
    assert float(tree["sample_stats"]["lp"][1, 1]) == pytest.approx(lp, rel=1e-9)


def test_weights_are_dirichlet_shares():
    """Of a row with weight w, as of w rows: mean w and variance w (1 - w / N) N / (N + 1), within 4 standard errors."""
    given = np.array([0.0, 1.0, 1.0, 3.0, 5.0])
    drawn = random_weights(np.random.default_rng(0), given, 40_000)
    np.testing.assert_allclose(drawn.sum(1), 10, rtol=1e-12)
    assert (drawn[:, 0] == 0).all()
    variance = given * (1 - given / 10) * 10 / 11
    assert (abs(drawn.mean(0) - given) <= 4 * np.sqrt(variance / 40_000) + 1e-12).all()
    squares = (drawn - given) ** 2
    assert (abs(squares.mean(0) - variance) <= 4 * squares.std(0) / 200 + 1e-12).all()


def test_it_spreads_like_the_posterior():
    """To first order in 1/N: on Old Faithful standard deviations within 20 % of Gibbs', means within a third of one."""
    fit = fitted()
    gibbs = jg.relabel(jg.posterior(X, fit, method="gibbs", key=KEY), fit)
    assert jg.diagnose(gibbs).ok
    own = jg.relabel(jg.posterior(X, fit, method="weighted-likelihood", key=KEY), fit)
    assert jg.diagnose(own).ok
    for name in ("weights", "means"):
        a, b = (tree["posterior"][name].values.reshape(4000, -1) for tree in (own, gibbs))
        np.testing.assert_allclose(a.std(0), b.std(0), rtol=0.2)
        assert (abs(a.mean(0) - b.mean(0)) < b.std(0) / 3).all()
    inside = (jg.intervals(own)["means"].sel(statistic="lower") < fit.means) & (
        jg.intervals(own)["means"].sel(statistic="upper") > fit.means
    )
    assert inside.all()


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    fit = fitted()
    settings = {"method": "weighted-likelihood", "key": KEY, "n_draws": 40, "n_chains": 1}
    together = jg.posterior(X, fit, **settings)
    monkeypatch.setattr("jaxgmm.bayes.samplers.weighted_likelihood._WEIGHTS_AT_ONCE", 1)
    told = []
    apart = jg.posterior(X, fit, progress=lambda done, total: told.append((done, total)), **settings)
    assert told == [(16, 40), (32, 40), (40, 40)]
    np.testing.assert_allclose(apart["posterior"]["means"], together["posterior"]["means"], rtol=1e-9)


def test_draws_that_are_not_modes_are_told():
    fit = fitted()
    with pytest.warns(jg.FitWarning, match="of 20 draws 20 ended as 'max_steps'. Still climbing"):
        tree = jg.posterior(X, fit, method="weighted-likelihood", key=KEY, n_draws=20, n_chains=1, max_steps=1)
    assert tree.attrs["n_unconverged"] == 20
    assert "20 draws did not converge (more than 0)" in str(jg.diagnose(tree))


BAD = {
    "a prior that isn't conjugate": ({"prior": "rg"}, "needs a conjugate prior"),
    "a prior without a mode": (
        {"prior": dataclasses.replace(jg.Prior.default(X, 2), concentration=np.float64(0.5))},
        "so no mode exists",
    ),
    "rtol": ({"rtol": -1.0}, "rtol"),
    "max_steps": ({"max_steps": 0}, "max_steps"),
    "another method's option": ({"thin": 2}, "unknown option of method 'weighted-likelihood'"),
    "a warm-up": ({"n_warmup": 10}, "n_warmup"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    changes, said = BAD[name]
    x = load_x("galaxies")[:, :1] if changes.get("prior") == "rg" else X
    gmm = START if x is X else jg.GMM([0.5, 0.5], [[10.0], [20.0]], [1.0, 1.0], "spherical")
    if changes.get("prior") == "rg":
        changes = {"prior": jg.RichardsonGreen.default(x)}
    with pytest.raises(ValueError, match=said):
        jg.posterior(x, gmm, method="weighted-likelihood", key=KEY, n_draws=5, **changes)
