"""`fit_map` finds the mode of MAP-EM, by another way."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import crossed, load_x

import jaxgmm as jg

KEY = jax.random.key(0)
# The length of the trace is part of a program: one for searches that are cut short, too.
SETTINGS = {"key": KEY, "max_steps": 500}
EM = {"key": KEY, "max_steps": 5000}


def rough_start(x, n_components, family):
    return jg.initialise(x, n_components, key=KEY, family=family)


@pytest.mark.parametrize(("family", "data"), crossed(["faithful", "iris"]))
def test_agrees_with_map_em(family, data):
    """From the same start, to 1e-6 of each parameter's own size; columns of a frame are put in the start's order."""
    x = load_x(data)
    frame = pd.DataFrame(x).add_prefix("f")
    start = rough_start(frame, 2 if data == "faithful" else 3, family)
    start = jg.fit(frame, family=family, init=start, rtol=1e-4, **EM).gmm  # near enough to one optimum for both to climb it
    em = jg.fit(x, family=family, init=start, rtol=1e-14, **EM)
    ours = jg.fit_map(frame.iloc[:, ::-1], family=family, init=start, **SETTINGS)
    assert ours.converged
    assert ours.feature_names == em.feature_names == tuple(frame.columns)
    assert ours.objective == pytest.approx(em.objective, rel=1e-11)
    assert ours.log_likelihood == pytest.approx(em.log_likelihood, rel=1e-6)  # not stationary there, as the objective is
    assert ours.fingerprint == em.fingerprint
    assert (np.diff(ours.trace) >= -1e-9 * abs(em.objective)).all()
    for mine, theirs in zip(jax.tree.leaves(ours.gmm), jax.tree.leaves(em.gmm), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * float(abs(np.asarray(theirs)).max()))


def test_units_and_offsets_do_not_matter():
    """Milliseconds since an epoch beside millionths: the same mode, in other units."""
    x = load_x("faithful")
    factor, offset = np.array([1e6, 1e-6]), np.array([1e9, 0.0])
    here, there = (jg.fit_map(rows, 2, **SETTINGS) for rows in (x, x * factor + offset))
    assert there.converged
    np.testing.assert_allclose(there.gmm.weights, here.gmm.weights, rtol=1e-5)
    np.testing.assert_allclose((there.gmm.means - offset) / factor, here.gmm.means, rtol=1e-5)
    np.testing.assert_allclose(there.gmm.covariances / np.outer(factor, factor), here.gmm.covariances, rtol=1e-4)


def test_richardson_green_has_a_mode_too():
    """Its gradient vanishes there: no step of any parameter gains anything."""
    x = load_x("galaxies")
    prior = jg.RichardsonGreen.default(x)
    fit = jg.fit_map(x, 3, family="spherical", prior=prior, **SETTINGS)
    assert fit.converged
    assert fit.prior is prior
    variances = np.asarray(fit.gmm.covariances)
    # given the mode's variances, the rate's own mode is known, and the objective holds it
    rate = (prior.rate_shape - 1 + 3 * prior.shape) / (prior.rate_rate + (1 / variances).sum())

    def objective(gmm):
        import scipy.stats

        v = np.asarray(gmm.covariances)
        total = float(gmm.log_likelihood(x)) + scipy.stats.dirichlet(np.ones(3)).logpdf(np.asarray(gmm.weights))
        total += scipy.stats.norm(prior.mean, np.sqrt(prior.mean_variance)).logpdf(np.asarray(gmm.means)).sum()
        total += scipy.stats.invgamma(prior.shape, scale=rate).logpdf(v).sum()
        return total + scipy.stats.gamma(prior.rate_shape, scale=1 / prior.rate_rate).logpdf(rate)

    assert fit.objective == pytest.approx(objective(fit.gmm), rel=1e-9)
    for step in (1e-3, -1e-3):
        moved = jg.GMM(fit.gmm.weights, fit.gmm.means * (1 + step), variances * (1 - step), "spherical")
        assert objective(moved) < fit.objective


def test_sample_weight_counts_rows():
    x, counts = load_x("faithful"), np.random.default_rng(4).multinomial(272, np.full(272, 1 / 272))
    weighted = jg.fit_map(x, init=(start := rough_start(x, 2, "full")), sample_weight=counts, **SETTINGS)
    repeated = jg.fit_map(np.repeat(x, counts, axis=0), init=start, prior=weighted.prior, **SETTINGS)
    np.testing.assert_allclose(weighted.gmm.means, repeated.gmm.means, rtol=1e-5)


def test_duplicated_points_and_too_many_components_stay_finite():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 2)), 8, axis=0)
    fit = jg.fit_map(x, 7, **SETTINGS)
    assert fit.converged
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.gmm))


def test_a_search_cut_short_says_so():
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = jg.fit_map(load_x("iris"), 3, **SETTINGS | {"rtol": 0.0, "max_steps": 1})
    assert fit.status is jg.Status.max_steps


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prior": None}, ValueError, "maximum likelihood"),
        ({"prior": "defualt"}, ValueError, "did you mean 'default'"),
        ({"init": "kmeans"}, ValueError, "did you mean 'k-means"),
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
        ({"n_components": None}, ValueError, "n_components is needed"),
        ({"family": "fulll"}, ValueError, "did you mean 'full'"),
    ],
    ids=["ml", "prior", "init", "steps", "no_components", "family"],
)
def test_bad_settings(blobs, change, error, message):
    with pytest.raises(error, match=message):
        jg.fit_map(blobs, **{"n_components": 2, "key": KEY} | change)


def test_a_prior_without_a_mode_is_refused(blobs):
    default = jg.Prior.default(blobs, 2)
    sparse = jg.Prior(0.5, default.mean, default.mean_precision, default.degrees_of_freedom, default.scale)
    with pytest.raises(ValueError, match="no mode exists"):
        jg.fit_map(blobs, 2, key=KEY, prior=sparse)
    green = jg.RichardsonGreen.default(blobs[:, :1])
    with pytest.raises(ValueError, match="no mode exists"):
        jg.fit_map(
            blobs[:, :1], 2, key=KEY, family="spherical",
            prior=jg.RichardsonGreen(green.mean, green.mean_variance, green.rate_rate, concentration=0.5),
        )  # fmt: skip
