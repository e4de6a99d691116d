"""Models with noise side by side: against single fits and sums by hand."""

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg
from jaxgmm.fitting.batch import model_key

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SIGNAL = np.concatenate([RNG.normal([10, 20], 1, (125, 2)), RNG.normal([18, 24], [1, 0.5], (100, 2))])
X = np.concatenate([SIGNAL, RNG.uniform([-30, -30], [50, 70], (25, 2))])
GAPS = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
GAPS[np.isnan(GAPS).all(1)] = X[np.isnan(GAPS).all(1)]
SETTINGS = {"n_init": 3, "max_steps": 2000}  # the number of starts and the length of the trace are part of a program
OPTIONS = SETTINGS | {"families": ["full", "spherical"], "n_components": [1, 2, 3]}


def joint_by_hand(fit, x):
    """(N, K + 1), the last column that of noise, by scipy, of what was seen of each row."""
    gmm, (lower, upper) = fit.gmm, (fit.noise.lower, fit.noise.upper)
    table = np.empty((len(x), gmm.n_components + 1))
    for row, values in zip(x, table, strict=True):
        seen = ~np.isnan(row)
        for k, covariance in enumerate(np.asarray(gmm.dense_covariances())):
            density = multivariate_normal(np.asarray(gmm.means)[k, seen], covariance[np.ix_(seen, seen)])
            values[k] = np.log((1 - fit.noise.weight) * np.asarray(gmm.weights)[k]) + density.logpdf(row[seen])
        values[-1] = np.log(fit.noise.weight) - np.log(upper - lower)[seen].sum()
    return table


@pytest.mark.parametrize(("x", "families"), [(X, ["full", "spherical"]), (GAPS, ["full"])], ids=["whole", "gaps"])
def test_each_model_is_what_fit_gives_and_criteria_are_sums_by_hand(x, families):
    comparison = jg.compare(x, key=KEY, noise=True, rtol=1e-11, **OPTIONS | {"families": families})
    for row, bic, icl in zip(comparison.rows, comparison.criteria["bic"], comparison.criteria["icl"], strict=True):
        alone = jg.fit(
            x,
            row.n_components,
            key=model_key(KEY, row.family, row.n_components),
            family=row.family,
            noise=True,
            rtol=1e-11,
            **SETTINGS,
        )
        assert row.fit.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-6)
        assert row.fit.noise.weight == pytest.approx(alone.noise.weight, abs=1e-5)
        assert row.scores.n_parameters == alone.n_parameters
        joint = joint_by_hand(row.fit, x)
        penalty = alone.n_parameters * np.log(len(x))
        assert bic == pytest.approx(penalty - 2 * logsumexp(joint, axis=1).sum(), abs=1e-6)
        assert bic == pytest.approx(row.fit.bic, abs=1e-6)
        assert icl == pytest.approx(penalty - 2 * joint.max(1).sum(), abs=1e-6)


def test_noise_is_what_keeps_components_off_outliers():
    without, beside = (
        jg.compare(X, key=KEY, n_init=5, families=["full"], n_components=[1, 2, 3, 4], noise=noise) for noise in (False, True)
    )
    assert beside.select("bic").gmm.n_components == 2
    assert without.select("bic").gmm.n_components > 2
    assert beside.criteria["bic"].min() < without.criteria["bic"].min() - 50


def test_rows_held_out_may_be_noise():
    comparison = jg.compare(X, key=KEY, noise=[100.0, 120.0], held_out_folds=3, **OPTIONS)
    assert np.isfinite(comparison.criteria["held_out"]).all()
    assert comparison.rows[1].scores.n_parameters == 2 * 6 - 1 + 1  # widths that are given aren't estimated
    plain = jg.compare(X, key=KEY, held_out_folds=3, **OPTIONS)
    assert (comparison.criteria["held_out"][1::3] > plain.criteria["held_out"][1::3] + 0.1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": True, "loo": True}, "noise doesn't go with loo=True"),
        ({"noise": True, "elbo": True}, "noise doesn't go with elbo=True"),
        ({"noise": [1.0]}, r"noise has shape \(1,\)"),
        ({"noise": "yes"}, "noise has dtype"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        jg.compare(X, key=KEY, **options)


def test_what_takes_no_noise_says_so():
    comparison = jg.compare(X, key=KEY, noise=True, **OPTIONS | {"families": ["full"]})
    with pytest.raises(ValueError, match="the models have noise"):
        jg.choice_shares(comparison, X, key=KEY)
    with pytest.raises(ValueError, match="noise beside its mixture"):
        comparison.with_loo(X, key=KEY)
    with pytest.raises(ValueError, match=r"'loo' isn't for models with noise.*held_out_folds=5"):
        comparison.select("loo")
