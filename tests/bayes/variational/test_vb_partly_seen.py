"""Variational Bayes of rows with gaps and errors: against updates row by row in NumPy, and exact evidence."""

import jax
import numpy as np
import pytest
from numpy.linalg import inv, slogdet
from scipy.integrate import simpson
from scipy.special import digamma, gammaln, softmax
from scipy.stats import multivariate_normal, norm

import jaxgmm as jg

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
WHOLE = np.concatenate([RNG.normal([0, 0, 1], [1, 1.4, 1], (40, 3)), RNG.normal([4, 1, -1], 1, (40, 3))])
GAPPY = np.where(RNG.random(WHOLE.shape) < 0.2, np.nan, WHOLE)
GAPPY[np.isnan(GAPPY).all(1)] = WHOLE[np.isnan(GAPPY).all(1)]
ROOTS = RNG.normal(size=(80, 3, 3)) / 3
ERRORS = ROOTS @ ROOTS.transpose(0, 2, 1)
LABELS = np.repeat([0, 1], 40)
TIGHT = {"rtol": 1e-13, "max_steps": 20_000}  # for all: the length of the trace is part of a program


def updated(fit, x, errors):
    """The next q of "full", by the formulas, a row and a component at a time."""
    prior, (n_samples, d) = fit.prior, x.shape
    log_r = np.empty((n_samples, fit.n_components))
    means, spreads = np.empty((*log_r.shape, d)), np.empty((*log_r.shape, d, d))
    for k in range(fit.n_components):
        nu, psi, m = fit.degrees_of_freedom[k], fit.scale[k], fit.mean[k]
        s = psi / nu
        expected_log_det = digamma((nu - np.arange(d)) / 2).sum() + d * np.log(2) - slogdet(psi)[1]
        constant = digamma(fit.concentration[k]) - digamma(fit.concentration.sum())
        constant += expected_log_det / 2 - d / (2 * fit.mean_precision[k])
        for n, row in enumerate(x):
            o = ~np.isnan(row)
            measured = s[np.ix_(o, o)] + (0 if errors is None else errors[n][np.ix_(o, o)])
            gain = s[:, o] @ inv(measured)
            means[n, k], spreads[n, k] = m + gain @ (row[o] - m[o]), s - gain @ s[o]
            log_r[n, k] = constant + slogdet(s)[1] / 2 + multivariate_normal(m[o], measured).logpdf(row[o])
    r = softmax(log_r, axis=1)
    counts = r.sum(0)
    centre = np.einsum("nk,nkd->kd", r, means) / counts[:, None]
    away = means - centre
    scatter = np.einsum("nk,nki,nkj->kij", r, away, away) + np.einsum("nk,nkij->kij", r, spreads)
    kappa = prior.mean_precision + counts
    off = centre - prior.mean
    scale = prior.scale + scatter + (prior.mean_precision * counts / kappa)[:, None, None] * off[:, :, None] * off[:, None]
    return {
        "concentration": prior.concentration + counts,
        "mean": (prior.mean_precision * prior.mean + counts[:, None] * centre) / kappa[:, None],
        "mean_precision": kappa,
        "degrees_of_freedom": prior.degrees_of_freedom + counts,
        "scale": scale,
    }


@pytest.mark.parametrize(("x", "errors"), [(GAPPY, None), (WHOLE, ERRORS), (GAPPY, ERRORS)], ids=["gaps", "errors", "both"])
def test_it_ends_where_updates_row_by_row_change_nothing(x, errors):
    prior = jg.Prior.fraley_raftery(WHOLE, 2)
    fit = jg.fit_vb(x, 2, key=KEY, prior=prior, init=LABELS, error_covariances=errors, **TIGHT)
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-9).all()
    for name, values in updated(fit, x, errors).items():
        np.testing.assert_allclose(getattr(fit, name), values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_errors_of_zero_are_none():
    x = WHOLE[:, :2]
    plain = jg.fit_vb(x, init=LABELS, key=KEY)
    exact = jg.fit_vb(x, init=LABELS, key=KEY, error_covariances=np.zeros(x.shape))
    assert exact.elbo == pytest.approx(plain.elbo, abs=1e-6)
    np.testing.assert_allclose(exact.mean, plain.mean, rtol=1e-5)


def log_evidence(x, prior, d):
    """Of one column, of one component of "diag": normal-inverse-gamma, in closed form."""
    n, kappa0, nu0 = len(x), float(prior.mean_precision), float(prior.degrees_of_freedom)
    psi0, kappa = float(prior.scale[d]), float(prior.mean_precision) + len(x)
    psi = psi0 + ((x - x.mean()) ** 2).sum() + kappa0 * n / kappa * (x.mean() - prior.mean[d]) ** 2
    half, half0 = (nu0 + n) / 2, nu0 / 2
    gain = gammaln(half) - gammaln(half0) + half0 * np.log(psi0 / 2) - half * np.log(psi / 2)
    return gain + np.log(kappa0 / kappa) / 2 - n / 2 * np.log(2 * np.pi)


def test_the_bound_is_below_the_evidence_of_what_was_seen():
    """Columns of one "diag" component are independent: gaps are rows less. q of the gaps costs what they could have told."""
    prior = jg.Prior.fraley_raftery(WHOLE, 1, "diag")
    whole, gappy = (jg.fit_vb(x, 1, key=KEY, family="diag", prior=prior, **TIGHT).elbo for x in (WHOLE, GAPPY))
    assert whole == pytest.approx(sum(log_evidence(column, prior, d) for d, column in enumerate(WHOLE.T)), abs=1e-6)
    exact = sum(log_evidence(column[~np.isnan(column)], prior, d) for d, column in enumerate(GAPPY.T))
    assert exact - 1.5 < gappy < exact - 0.1


def test_the_bound_is_below_the_evidence_of_rows_with_errors():
    x, sd = WHOLE[:40, :1], RNG.uniform(0.3, 1.5, 40)
    prior = jg.Prior.fraley_raftery(x, 1, "spherical")
    variances, means = np.geomspace(1e-2, 1e2, 301), np.linspace(-6, 6, 301)
    log_p = norm.logpdf(x, means, np.sqrt(variances[:, None, None] + (sd**2)[:, None])).sum(1)
    half, rate = float(prior.degrees_of_freedom) / 2, float(prior.scale) / 2
    log_p += norm.logpdf(means, prior.mean[0], np.sqrt(variances[:, None] / float(prior.mean_precision)))
    log_p += (half * np.log(rate) - gammaln(half) - (half + 1) * np.log(variances) - rate / variances)[:, None]
    peak = log_p.max()
    exact = peak + np.log(simpson(simpson(np.exp(log_p - peak), x=means, axis=1), x=variances))
    found = jg.fit_vb(x, 1, key=KEY, family="spherical", prior=prior, error_covariances=(sd**2)[:, None], **TIGHT).elbo
    assert exact - 1.5 < found < exact


def test_labels_a_mixture_and_pieces_of_advice():
    mixture = jg.GMM([0.5, 0.5], [[0.0, 0, 1], [4.0, 1, -1]], np.tile(np.eye(3), (2, 1, 1)))
    for init in (LABELS, np.eye(2)[LABELS], mixture):
        fit = jg.fit_vb(GAPPY, init=init, key=KEY, **TIGHT)
        right = (np.asarray(fit.expected_gmm().predict(GAPPY)) == LABELS).mean()
        assert max(right, 1 - right) > 0.8
        assert fit.counts.sum() == pytest.approx(80)
    with pytest.raises(ValueError, match=r"missing values, which predictive densities don't take.*expected_gmm"):
        fit.predict(GAPPY)
    with pytest.raises(ValueError, match="no value at all in column"):
        jg.fit_vb(np.c_[WHOLE, np.full(80, np.nan)], 2, key=KEY)
    with pytest.raises(ValueError, match="error_covariances"):
        jg.fit_vb(WHOLE, 2, key=KEY, error_covariances=-np.ones(WHOLE.shape))


def test_models_side_by_side_have_the_bounds_of_fits_of_their_own():
    comparison = jg.compare(GAPPY, families=["full"], n_components=[1, 2], key=KEY, n_init=2, elbo=True, **TIGHT)
    for row in comparison.rows:
        alone = jg.fit_vb(GAPPY, init=row.fit, prior=row.fit.prior, key=KEY, **TIGHT)
        assert row.elbo == pytest.approx(alone.elbo, abs=1e-5)
    with pytest.raises(ValueError, match=r"missing values, which loo=True doesn't take.*elbo=True"):
        jg.compare(GAPPY, key=KEY, loo=True)
