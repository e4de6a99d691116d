"""Noise beside a mixture: uniform over a box."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAMILIES
from jax.scipy.special import logsumexp

import jaxgmm as jg

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CENTRES = np.array([[10.0, 20.0], [18.0, 24.0]])
SIGNAL = np.concatenate([RNG.normal(CENTRES[0], 1, (250, 2)), RNG.normal(CENTRES[1], [1, 0.5], (200, 2))])
X = np.concatenate([SIGNAL, RNG.uniform([-30, -30], [50, 70], (50, 2))])


def log_likelihood(leaves, x, log_widths):
    """By the formula, features that are missing taken out of each row's own density and of the box."""
    share, weights, means, covariances = leaves
    seen = ~jnp.isnan(x)
    visible = jnp.where((seen[:, :, None] & seen[:, None])[:, None], covariances, jnp.eye(x.shape[1]))
    d = jnp.where(seen[:, None], jnp.nan_to_num(x)[:, None] - means, 0)
    norm = (d * jnp.linalg.solve(visible, d[..., None])[..., 0]).sum(-1)
    normaliser = jnp.linalg.slogdet(visible)[1] + seen.sum(1, keepdims=True) * jnp.log(2 * jnp.pi)
    gaussians = jnp.log1p(-share) + jnp.log(weights / weights.sum()) - (norm + normaliser) / 2
    noise = jnp.log(share) - jnp.where(seen, log_widths, 0).sum(1, keepdims=True)
    return logsumexp(jnp.concatenate([gaussians, noise], axis=1), axis=1).sum()


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("full", "default"),
        ("full", None),
        ("tied", None),
        ("diag", None),
        ("spherical", None),
        ("VEV", "default"),
    ],
)
def test_outliers_do_not_drag_the_means(name, prior):
    fit = jg.fit(X, 2, key=KEY, noise=True, family=name, prior=prior)
    own = np.array([SIGNAL[:250].mean(0), SIGNAL[250:].mean(0)])
    np.testing.assert_allclose(fit.means[np.argsort(fit.means[:, 0])], own, rtol=0.02)
    assert fit.noise.weight == pytest.approx(0.1, abs=0.015)
    assert fit.restarts.replication >= 3
    assert (np.asarray(fit.predict(X))[450:] == -1).mean() > 0.9
    assert (np.asarray(fit.predict(X))[:450] >= 0).mean() > 0.98


def test_outliers_drag_the_means_of_a_fit_without_noise():
    own = np.array([SIGNAL[:250].mean(0), SIGNAL[250:].mean(0)])
    plain = jg.fit(X, 2, key=KEY)
    assert (abs(plain.means[np.argsort(plain.means[:, 0])] / own - 1)).max() > 0.1
    assert jg.fit(X, 2, key=KEY, noise=True).bic < plain.bic


@pytest.mark.parametrize(("gaps", "acceleration"), [(False, None), (True, "squarem")])
def test_it_climbs_to_where_the_likelihood_is_flat(gaps, acceleration):
    x = X.copy()
    if gaps:
        x[np.random.default_rng(1).random(x.shape) < 0.15] = np.nan
        x = x[~np.isnan(x).all(1)]
    fit = jg.fit(x, 2, key=KEY, noise=True, prior=None, rtol=1e-13, acceleration=acceleration)
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-9).all()
    log_widths = np.log(np.nanmax(x, 0) - np.nanmin(x, 0))
    leaves = fit.noise.weight, fit.weights, fit.means, fit.covariances
    value, gradient = jax.jit(jax.value_and_grad(log_likelihood))(leaves, x, log_widths)
    assert fit.log_likelihood == pytest.approx(float(value), rel=1e-12)
    assert np.asarray(fit.log_prob(x)).sum() == pytest.approx(float(value), rel=1e-12)
    assert max(np.max(abs(np.asarray(g * leaf))) for g, leaf in zip(gradient, leaves, strict=True)) < 1e-3


def test_the_map_with_the_default_prior_is_where_its_density_is_flat():
    fit = jg.fit(X, 2, key=KEY, noise=True, rtol=1e-13)

    def objective(leaves):
        _, weights, means, covariances = leaves
        gmm = jg.GMM(weights / weights.sum(), means, covariances)
        return log_likelihood(leaves, X, fit.noise.log_widths) + fit.prior.log_prob(gmm)

    leaves = fit.noise.weight, jnp.asarray(fit.weights), jnp.asarray(fit.means), jnp.asarray(fit.covariances)
    value, gradient = jax.jit(jax.value_and_grad(objective))(leaves)
    assert fit.objective == pytest.approx(float(value), rel=1e-11)
    assert max(np.max(abs(np.asarray(g * leaf))) for g, leaf in zip(gradient, leaves, strict=True)) < 1e-3


def test_answers_about_rows():
    fit = jg.fit(X, 2, key=KEY, noise=True)
    shares = np.asarray(fit.responsibilities(X))
    noise = fit.noise.weight * np.exp(-fit.noise.log_widths.sum())
    density = (1 - fit.noise.weight) * np.exp(np.asarray(fit.gmm.log_prob(X)))
    np.testing.assert_allclose(1 - shares.sum(1), noise / (noise + density), atol=1e-12)
    np.testing.assert_allclose(
        shares, np.asarray(fit.gmm.responsibilities(X)) * (density / (noise + density))[:, None], rtol=1e-9
    )
    expected = np.where(1 - shares.sum(1) > shares.max(1), -1, shares.argmax(1))
    np.testing.assert_array_equal(fit.predict(X), expected)
    assert int(fit.predict(X[499])) == expected[499]
    assert fit.predict([[1e6, 1e6]]).tolist() == [-1]  # beyond the box
    np.testing.assert_allclose(jax.jit(fit.log_prob)(jnp.asarray(X)), fit.log_prob(X), rtol=1e-10)
    np.testing.assert_array_equal(jax.jit(fit.predict)(jnp.asarray(X)), expected)
    single = fit.responsibilities(X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, shares, atol=1e-5)
    assert fit.n_parameters == fit.gmm.n_parameters + 2  # as mclust's nMclustParams(noise = TRUE)
    assert fit.bic == pytest.approx(fit.n_parameters * np.log(500) - 2 * fit.log_likelihood)
    assert "noise: " in repr(fit)
    assert repr(fit.noise).startswith("Noise: 1")


def test_a_given_box_and_rows_in_pieces():
    wide = jg.fit(X, 2, key=KEY, noise=[200.0, 200.0])
    assert wide.n_parameters == wide.gmm.n_parameters + 1
    np.testing.assert_allclose(wide.noise.upper - wide.noise.lower, 200)
    assert (wide.noise.lower < X.min(0)).all()
    start = jg.fit(X, 2, key=KEY, noise=True).gmm
    whole = jg.fit(X, init=start, key=KEY, noise=True)
    pieces = jg.fit(jg.data.Pieces(lambda: (X[i : i + 100] for i in range(0, 500, 100))), init=start, key=KEY, noise=True)
    np.testing.assert_allclose(pieces.trace, whole.trace, rtol=1e-11)
    np.testing.assert_allclose(pieces.noise.weight, whole.noise.weight, rtol=1e-9)


def test_weights_are_repeated_rows():
    counts = np.random.default_rng(2).integers(0, 3, len(X))
    settings = {"init": jg.GMM([0.5, 0.5], CENTRES, [np.eye(2)] * 2), "key": KEY, "noise": [100.0, 120.0]}
    weighted = jg.fit(X, sample_weight=counts, **settings)
    repeated = jg.fit(np.repeat(X, counts, axis=0), **settings)
    np.testing.assert_allclose(weighted.trace, repeated.trace, rtol=1e-11)
    assert weighted.noise.weight == pytest.approx(repeated.noise.weight, rel=1e-9)


def test_without_outliers_there_is_next_to_no_noise():
    fit = jg.fit(SIGNAL, 2, key=KEY, noise=True)
    plain = jg.fit(SIGNAL, 2, key=KEY)
    assert fit.noise.weight < 0.02
    np.testing.assert_allclose(np.sort(fit.weights), np.sort(plain.weights), atol=0.01)
    assert plain.noise is None
    assert plain.bic < fit.bic


@pytest.mark.parametrize("name", FAMILIES)
def test_it_never_falls(name):
    fit = jg.fit(X, 3, key=KEY, noise=True, family=name, prior=None)
    for trace in fit.restarts.trace:
        assert (np.diff(trace) > -1e-8).all()


@pytest.mark.parametrize(
    ("x", "noise", "message"),
    [
        (np.column_stack([X[:, 0], np.ones(500)]), True, r"noise=True needs a box, but x doesn't vary in columns \[1\]"),
        (X, [1.0, 1.0], "the box must hold all rows"),
        (X, [1e3], r"noise has shape \(1,\); True, or \(2,\) widths"),
        (X, [np.nan, 1e3], "the box must hold all rows"),
        (X, "yes", "noise"),
    ],
)
def test_bad_input(x, noise, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jg.fit(x, 2, key=KEY, noise=noise)


def test_what_knows_no_noise_says_so():
    fit = jg.fit(X, 2, key=KEY, noise=True)
    for call in (
        lambda: jg.density_level(fit, X, key=KEY),
        lambda: jg.explain(fit, X),
        lambda: jg.e_step(fit, X),
        lambda: jg.GibbsKernel(fit, fit.prior),
    ):
        with pytest.raises(ValueError, match=r"fit has noise beside its mixture.*fit\.gmm"):
            call()


def test_a_fit_with_noise_goes_on_where_it_was():
    fit = jg.fit(X, 2, key=KEY, noise=True)
    warm = jg.fit(X, init=fit, key=KEY, noise=np.True_)
    assert warm.trace[0] == pytest.approx(fit.objective, abs=1e-6)
    assert f"{fit.n_parameters} parameters" in repr(fit)
    with pytest.raises(ValueError, match=r"init is a fit with noise: pass noise=True, too, or init=fit\.gmm"):
        jg.fit(X, init=fit, key=KEY)
    only = jg.fit(X, init=fit.gmm, key=KEY, noise=True, fixed=("weights", "means", "covariances"))
    np.testing.assert_array_equal(only.means, fit.means)
    assert only.noise.weight == pytest.approx(fit.noise.weight, abs=1e-6)


def test_where_all_rows_are_noise_and_where_rows_are_few():
    x = np.random.default_rng(1).uniform(size=(300, 2))
    far = jg.GMM([0.5, 0.5], [[8.0] * 2, [9.0] * 2], [np.eye(2)] * 2)
    with pytest.warns(jg.FitWarning, match="have no rows"):
        fit = jg.fit(x, init=far, key=KEY, fixed=("means", "covariances"), noise=True)
    assert fit.noise.weight > 0.999
    assert np.asarray(fit.weights).sum() == pytest.approx(1)
    assert (np.asarray(fit.predict(x)) == -1).all()
    assert np.isfinite(fit.log_prob(x)).all()
    two = np.repeat([[0.0, 0.0], [1.0, 1.0]], 50, axis=0)
    assert jg.fit(two, 2, key=KEY, noise=True).converged
