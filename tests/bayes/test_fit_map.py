"""`fit_map` finds the mode of MAP-EM, by another way."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import crossed

import jaxgmm as jg

KEY = jax.random.key(0)


def rows(data):
    if data == "simulated":
        rng = np.random.default_rng(11)
        return np.concatenate([rng.normal(size=(100, 5)) + centre for centre in 4 * rng.normal(size=(3, 5))])
    return getattr(jg.datasets, f"load_{data}")().x


def rough_start(x, n_components, family):
    return jg.initialise(x, n_components, key=KEY, family=family)


@pytest.mark.parametrize(("family", "data"), crossed(["faithful", "iris", "simulated"]))
def test_agrees_with_map_em(family, data):
    """From the same start, to 1e-6 of each parameter's own size; columns of a frame are put in the start's order."""
    x = rows(data)
    frame = pd.DataFrame(x).add_prefix("f")
    start = rough_start(frame, 2 if data == "faithful" else 3, family)
    start = jg.fit(frame, key=KEY, family=family, init=start, rtol=1e-4).gmm  # near enough to one optimum for both to climb it
    em = jg.fit(x, key=KEY, family=family, init=start, rtol=1e-14, max_steps=20_000)
    ours = jg.fit_map(frame.iloc[:, ::-1], key=KEY, family=family, init=start)
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
    x = rows("faithful")
    factor, offset = np.array([1e6, 1e-6]), np.array([1e9, 0.0])
    here, there = jg.fit_map(x, 2, key=KEY), jg.fit_map(x * factor + offset, 2, key=KEY)
    assert there.converged
    np.testing.assert_allclose(there.gmm.weights, here.gmm.weights, rtol=1e-5)
    np.testing.assert_allclose((there.gmm.means - offset) / factor, here.gmm.means, rtol=1e-5)
    np.testing.assert_allclose(there.gmm.covariances / np.outer(factor, factor), here.gmm.covariances, rtol=1e-4)


def test_richardson_green_has_a_mode_too():
    """Its gradient vanishes there: no step of any parameter gains anything."""
    x = rows("galaxies")
    prior = jg.RichardsonGreen.default(x)
    fit = jg.fit_map(x, 3, key=KEY, family="spherical", prior=prior)
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


def test_sample_weight_counts_rows(blobs, row_counts):
    weighted = jg.fit_map(blobs, 2, key=KEY, init=(start := rough_start(blobs, 2, "full")), sample_weight=row_counts)
    repeated = jg.fit_map(np.repeat(blobs, row_counts, axis=0), key=KEY, init=start, prior=weighted.prior)
    np.testing.assert_allclose(weighted.gmm.means, repeated.gmm.means, rtol=1e-5)


def test_duplicated_points_and_too_many_components_stay_finite():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 2)), 8, axis=0)
    fit = jg.fit_map(x, 7, key=KEY, n_init=2)
    assert fit.converged
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.gmm))


def test_a_search_cut_short_says_so():
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = jg.fit_map(rows("iris"), 3, key=KEY, rtol=0.0, max_steps=1, n_init=1)
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
