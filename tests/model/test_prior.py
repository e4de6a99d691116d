"""The conjugate prior: its density is scipy's, its defaults are the documented ones, MAP-EM climbs to its mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import MCLUST_DATA, load_x, nearest, random_member, random_prior
from jax.scipy.stats import multivariate_normal
from scipy import stats

import jaxgmm as jg


def scipy_log_prob(prior, gmm):
    """The model's hierarchy, term by term."""
    weights, means, covariances = (np.asarray(leaf) for leaf in jax.tree.leaves(gmm))
    dense = np.asarray(gmm.dense_covariances())
    k, _ = means.shape
    alpha = np.broadcast_to(prior.concentration, k)
    kappa, nu, scale = (np.asarray(a) for a in (prior.mean_precision, prior.degrees_of_freedom, prior.scale))
    total = stats.dirichlet.logpdf(weights, alpha)
    total += sum(stats.multivariate_normal.logpdf(m, prior.mean, c / kappa) for m, c in zip(means, dense, strict=True))
    if gmm.family in ("full", "tied"):
        for covariance in covariances.reshape(-1, *scale.shape):
            total += stats.invwishart.logpdf(covariance, float(nu), scale)
    else:
        total += stats.invgamma.logpdf(covariances, float(nu) / 2, scale=scale / 2).sum()
    return total


@pytest.mark.parametrize("default", [True, False])
def test_density(blobs, family, default):
    prior = jg.Prior.default(blobs, 3, family) if default else random_prior(family)
    for seed in range(3):
        gmm = random_member(family, seed=seed)
        assert float(prior.log_prob(gmm)) == pytest.approx(scipy_log_prob(prior, gmm), rel=1e-11)
    assert float(jax.jit(prior.log_prob)(gmm)) == pytest.approx(float(prior.log_prob(gmm)), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_default(blobs, row_counts, family, weighted):
    k, d = 4, 3
    prior = jg.Prior.default(blobs, k, family, sample_weight=row_counts if weighted else None)
    x = np.repeat(blobs, row_counts, axis=0) if weighted else blobs
    covariance = np.cov(x.T) / k ** (2 / d)
    variance = np.diag(covariance)
    scale = {"full": covariance, "tied": covariance, "diag": variance, "spherical": variance.mean()}[family]
    assert prior.family == family
    assert np.all(np.asarray(prior.concentration) == 1)
    assert float(prior.mean_precision) == pytest.approx(0.01)
    assert float(prior.degrees_of_freedom) == d + 2
    np.testing.assert_allclose(prior.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(prior.scale, scale, rtol=1e-11)


def parameters(theta, family, k, d):
    """A mixture from unconstrained numbers, for the generic optimiser."""
    weights, means, rest = jnp.split(theta, [k, k + k * d])
    factor = jnp.eye(d) + rest.reshape(k, d, d)
    covariances = nearest(family, factor @ factor.swapaxes(1, 2))
    return jg.GMM(jax.nn.softmax(weights), means.reshape(k, d), covariances, family)


def test_m_step_maximises(blobs, row_counts, family):
    """The M-step against a general optimiser on the expected complete-data log posterior (ML is scikit-learn's test)."""
    k, d = 3, 3
    start, prior = random_member(family), random_prior(family)
    weight = jnp.asarray(row_counts)[:, None] * start.responsibilities(blobs)

    def loss(theta):
        gmm = parameters(theta, family, k, d)
        density = jax.vmap(lambda m, c: multivariate_normal.logpdf(blobs, m, c))(gmm.means, gmm.dense_covariances())
        return -(weight * (jnp.log(gmm.weights)[:, None] + density).T).sum() - prior.log_prob(gmm)

    n = k + k * d + k * d * d
    best = scipy.optimize.minimize(
        jax.jit(jax.value_and_grad(loss)), np.zeros(n), jac=True, method="BFGS", options={"gtol": 1e-5, "maxiter": 2000}
    )
    expected = parameters(jnp.asarray(best.x), family, k, d)
    ours = jg.m_step(jg.e_step(start, blobs, row_counts), start, prior)
    # A gradient of 1e-5 nats leaves the parameters about 1e-5 / N_k away, and the value 1e-10.
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def stationarity(gmm, x, prior):
    """Nats gained per row by moving each parameter by its own scale: the same in any units."""

    @jax.jit
    @jax.grad
    def slope(gmm):
        value = gmm.log_likelihood(x)
        return value if prior is None else value + prior.log_prob(gmm)

    gmm = jax.tree.map(jnp.asarray, gmm)
    gradient = slope(gmm)
    effects = (
        (gradient.weights - gmm.weights @ gradient.weights) * gmm.weights,
        gradient.means * x.std(0),
        gradient.covariances * gmm.covariances,
    )
    return max(float(jnp.abs(effect).max()) for effect in effects) / len(x)


def test_fixed_point_is_stationary(real):
    """Autodiff of log-likelihood + log prior, independent of E- and M-step, vanishes where EM stops."""
    x, fit = real
    assert stationarity(fit.gmm, x, fit.prior) < 1e-6


@pytest.mark.parametrize("data", MCLUST_DATA)
def test_units_do_not_matter(data, family):
    """The default prior in other units is the same prior: the same fit, up to the units."""
    x = load_x(data)
    unit = 1e3 if family == "spherical" else np.array([1e3, 1e-4, 10.0, 0.1])[: x.shape[1]]
    prior, scaled = jg.Prior.default(x, 2, family), jg.Prior.default(x * unit, 2, family)
    scale = {"diag": unit**2, "spherical": unit**2}.get(family, np.outer(unit, unit))
    np.testing.assert_allclose(scaled.mean, prior.mean * unit, rtol=1e-12)
    np.testing.assert_allclose(scaled.scale, prior.scale * scale, rtol=1e-10)


def test_default_is_the_same_inside_a_compiled_function(family, blobs, row_counts):
    """NumPyro runs `numpyro_model` inside its own loops, where the rows are constants and compiled sums would be traced."""
    made = []

    @jax.jit
    def compiled(one):
        made.append(jg.Prior.default(blobs, 3, family, sample_weight=row_counts))
        return one

    compiled(1.0)
    expected = jg.Prior.default(blobs, 3, family, sample_weight=row_counts)
    for inside, outside in zip(jax.tree.leaves(made[0]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(inside, outside, rtol=1e-10)
