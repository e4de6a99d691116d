"""Laplace's approximation and variational fits against second derivatives, an exact posterior, and each other."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import multigammaln

import jaxgmm as jg
from jaxgmm.bayes.samplers.laplace import laplace
from jaxgmm.bayes.samplers.svi import svi
from jaxgmm.bayes.target.coordinates import layout_of, log_posterior
from jaxgmm.bayes.target.problem import Problem

KEY = jax.random.key(0)


def problem(x, n_components, prior="default"):
    halves = np.minimum(x[:, 0] > np.median(x[:, 0]), n_components - 1)
    fit = jg.fit(x, init=halves, key=KEY, prior=prior)
    return Problem(jnp.asarray(x), jnp.ones(len(x)), fit.gmm, fit.prior, layout_of(fit.gmm, fit.prior))


@pytest.fixture(scope="module")
def faithful():
    with jax.enable_x64(True):
        return problem(jg.datasets.load_faithful().x, 2)


unconstrained = jax.jit(jax.vmap(jg.unconstrain))


def vectors(draws):
    flat = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1, *leaf.shape[2:]), draws.gmm)
    return np.asarray(unconstrained(flat))


def test_laplace_is_the_gaussian_of_the_second_derivatives(faithful):
    """Mean at a stationary point of NumPyro's density, covariance the inverse of its Hessian there: by other means."""
    draws = vectors(laplace(faithful, KEY, 5000, 2))

    def density(vector):
        return log_posterior(vector, faithful.layout, faithful.x, None, faithful.prior)

    second, first = jax.jit(jax.hessian(density)), jax.jit(jax.grad(density))
    mode = jg.unconstrain(faithful.start)
    for _ in range(20):  # Newton
        hessian = second(mode)
        mode = mode - np.linalg.solve(hessian, first(mode))
    covariance = -np.linalg.inv(hessian)
    sd = np.sqrt(np.diag(covariance))
    assert (abs(draws.mean(0) - mode) < 4.5 * sd / np.sqrt(len(draws))).all()
    # Of n normal draws, a covariance's standard error is sqrt((1 + correlation^2) / n) of the sds' product.
    error = (np.cov(draws.T) - covariance) / np.outer(sd, sd)
    assert (abs(error) < 5 * np.sqrt(2 / len(draws))).all()


def test_one_component_against_its_exact_posterior():
    """K = 1 has a closed form; with 272 rows it is near a Gaussian, so a good guide has its means and spreads, and its bound
    comes close to the evidence (normal-inverse-Wishart) from below. For "laplace" see test_held.py.
    """
    x = jg.datasets.load_faithful().x
    target = problem(x, 1, "fraley-raftery")
    draws = svi(target, KEY, 2000, 2)
    assert draws.attrs["pareto_k"] < 0.7
    prior, (n, d) = target.prior, x.shape
    mean = (prior.mean_precision * prior.mean + n * x.mean(0)) / (prior.mean_precision + n)
    scatter = prior.scale + (x - x.mean(0)).T @ (x - x.mean(0))  # the prior mean is the rows' own
    sd = np.sqrt(np.diag(scatter) / (prior.degrees_of_freedom + n - 1) / n)
    means, covariances = np.asarray(draws.gmm.means).reshape(-1, 2), np.asarray(draws.gmm.covariances).reshape(-1, 2, 2)
    assert (abs(means.mean(0) - mean) < 0.15 * sd).all()
    np.testing.assert_allclose(means.std(0), sd, rtol=0.1)
    np.testing.assert_allclose(covariances.mean(0), scatter / (prior.degrees_of_freedom + n - 3), rtol=0.05)
    kappa, nu = float(prior.mean_precision), float(prior.degrees_of_freedom)
    log_det, log_det_0 = (np.linalg.slogdet(np.asarray(m))[1] for m in (scatter, prior.scale))
    evidence = -n * d / 2 * np.log(np.pi) + d / 2 * np.log(kappa / (kappa + n)) + nu / 2 * log_det_0
    evidence += multigammaln((nu + n) / 2, d) - multigammaln(nu / 2, d) - (nu + n) / 2 * log_det
    assert evidence - 0.1 < draws.attrs["elbo"] < evidence + 0.02  # its Monte-Carlo error is below 0.01


@pytest.mark.parametrize("change", [{"batch_size": 60}, {"guide": "low_rank"}, {"guide": "normal"}], ids=str)
def test_minibatches_and_other_guides_find_the_same_place(faithful, change):
    whole = vectors(svi(faithful, KEY, 1000, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)  # k-hat of a guide without correlations
        other = vectors(svi(faithful, KEY, 1000, 2, **change))
    assert (abs(other.mean(0) - whole.mean(0)) < 0.25 * whole.std(0)).all()
    if "batch_size" in change:
        np.testing.assert_allclose(other.std(0), whole.std(0), rtol=0.25)


def test_rows_in_pieces_find_the_same_place(faithful, compilations, monkeypatch):
    """Through the front door, of rows that are in order: as minibatches of rows in memory do. The tree has some of the rows."""
    monkeypatch.setattr("jaxgmm.bayes.posterior.ROWS_OF_PIECES", 100)
    whole = vectors(svi(faithful, KEY, 1000, 2))
    x = np.asarray(faithful.x)[np.argsort(faithful.x[:, 0])]
    pieces = jg.data.Pieces(lambda: iter(np.split(x, [60, 130])))
    settings = {"n_draws": 1000, "n_chains": 2, "batch_size": 60, "prior": faithful.prior}
    compilations.clear()
    tree = jg.posterior(pieces, faithful.start, method="svi", key=KEY, **settings)
    assert compilations.count("jit(_advance)") == 1
    draws = jg.draws_of(tree)
    other = np.asarray(unconstrained(jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), draws)))
    assert (abs(other.mean(0) - whole.mean(0)) < 0.25 * whole.std(0)).all()
    np.testing.assert_allclose(other.std(0), whole.std(0), rtol=0.25)
    last = jax.tree.map(lambda leaf: np.asarray(leaf)[0, -1], draws)
    assert float(tree["posterior"]["log_likelihood"][0, -1]) == pytest.approx(float(last.log_likelihood(x)), rel=1e-10)
    assert float(tree.attrs["pareto_k"]) < 0.7
    rows = tree["observed_data"]["x"].values
    assert len(rows) == 100
    assert set(map(tuple, rows)) <= set(map(tuple, x))
    with pytest.raises(ValueError, match=r"batch_size must lie in 1\.\.272"):
        jg.posterior(pieces, faithful.start, method="svi", key=KEY, **settings | {"batch_size": 273})
    with pytest.raises(ValueError, match="batch_size is None, all rows at once, but x comes in pieces"):
        jg.posterior(pieces, faithful.start, method="svi", key=KEY, prior=faithful.prior)


def test_a_gaussian_that_misses_the_posterior_says_so():
    """Too many components for one cluster: the posterior is nothing like a Gaussian."""
    target = problem(np.random.default_rng(0).normal(size=(272, 2)), 2)
    with pytest.warns(jg.FitWarning, match="Pareto k-hat is"):
        svi(target, KEY, 1000, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"guide": "iaf"}, ValueError, "unknown guide 'iaf'"),
        ({"guide": "multivariate"}, ValueError, "did you mean 'multivariate_normal'"),
        ({"batch_size": 1000}, ValueError, r"batch_size must lie in 1\.\.272"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"n_steps": 1.5}, TypeError, "n_steps must be a whole number"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be a positive number"),
    ],
    ids=["iaf", "near", "large_batch", "no_batch", "part_of_a_step", "negative_rate"],
)
def test_bad_settings(faithful, change, error, message):
    with pytest.raises(error, match=message):
        svi(faithful, KEY, 10, 2, **change)
