"""The conjugate prior: its density is scipy's, its defaults are the documented ones, MAP-EM climbs to its mode."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import MCLUST_DATA, load_x, nearest, random_member, random_prior
from jax.scipy.stats import multivariate_normal
from numpyro import handlers
from scipy import stats
from scipy.special import logsumexp

import jaxgmm as jg


def given(prior, s):
    """The prior given its random scale."""
    return replace(prior, scale=prior.scale * s, mean_precision=prior.mean_precision * s, least_scale=None)


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


@pytest.mark.parametrize("named", [True, False])
def test_density(blobs, family, named):
    prior = jg.Prior.fraley_raftery(blobs, 3, family) if named else random_prior(family)
    for seed in range(3):
        gmm = random_member(family, seed=seed)
        assert float(prior.log_prob(gmm)) == pytest.approx(scipy_log_prob(prior, gmm), rel=1e-11)
    assert float(jax.jit(prior.log_prob)(gmm)) == pytest.approx(float(prior.log_prob(gmm)), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_fraley_raftery(blobs, row_counts, family, weighted):
    k, d = 4, 3
    prior = jg.Prior.fraley_raftery(blobs, k, family, sample_weight=row_counts if weighted else None)
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


@pytest.mark.parametrize("name", ["default", "fraley-raftery"])
@pytest.mark.parametrize("data", MCLUST_DATA)
def test_units_do_not_matter(data, family, name):
    """A prior that is made of the data is, in other units, the same prior: the same fit, up to the units."""
    x = load_x(data)
    unit = 1e3 if family == "spherical" else np.array([1e3, 1e-4, 10.0, 0.1])[: x.shape[1]]
    prior, scaled = jg.Prior.named(name, x, 2, family), jg.Prior.named(name, x * unit, 2, family)
    scale = {"diag": unit**2, "spherical": unit**2}.get(family, np.outer(unit, unit))
    np.testing.assert_allclose(scaled.mean, prior.mean * unit, rtol=1e-12)
    np.testing.assert_allclose(scaled.scale, prior.scale * scale, rtol=1e-10)
    if name == "default":
        assert float(scaled.least_scale) == pytest.approx(float(prior.least_scale), rel=1e-9)


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


def test_density_with_a_random_scale(blobs, family):
    """The mean over the grid of the density given the scale."""
    prior, gmm = jg.Prior.default(blobs, 3, family), random_member(family)
    values = np.geomspace(float(prior.least_scale), 1, 512)
    expected = logsumexp([scipy_log_prob(given(prior, s), gmm) for s in values]) - np.log(512)
    assert float(prior.log_prob(gmm)) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_default(blobs, row_counts, family, weighted):
    k, d = 4, 3
    prior = jg.Prior.default(blobs, k, family, sample_weight=row_counts if weighted else None)
    x = np.repeat(blobs, row_counts, axis=0) if weighted else blobs
    share = (d + 2) / k ** (2 / d)
    variance = np.var(x, axis=0, ddof=1) * share
    scale = {2: np.diag(variance), 1: variance, 0: variance.mean()}[np.ndim(prior.scale)]
    np.testing.assert_allclose(prior.scale, scale, rtol=1e-11)
    np.testing.assert_allclose(prior.mean, x.mean(0), rtol=1e-12)
    assert float(prior.mean_precision) == pytest.approx(0.1 * share)
    assert float(prior.degrees_of_freedom) == d + 2
    scaled = jg.Prior.default(x * 1e3, k, family)
    assert float(scaled.least_scale) == pytest.approx(float(prior.least_scale), rel=1e-9)


def test_least_scale_is_the_step_of_the_finest_column():
    """Values that were rounded coincide: the prior takes them to differ by the step they were rounded to."""
    rng = np.random.default_rng(0)
    x = np.stack([np.round(rng.normal(size=500), 1), np.round(50 * rng.normal(size=500))], axis=1)
    variances = x.var(0, ddof=1)
    expected = min(0.1**2 / variances[0], 1 / variances[1]) * 3
    assert least_scale(x, 3) == pytest.approx(expected, rel=1e-9)
    assert least_scale(rng.normal(size=(20_000, 1)), 3) == 1e-8
    weight = np.ones(500)
    weight[0] = 0
    beside = np.concatenate([[[0.05]], x[1:, :1]])  # between two values, but of weight 0
    assert least_scale(beside, 1, sample_weight=weight) == pytest.approx(least_scale(x[1:, :1], 1), rel=1e-9)


def least_scale(x, n_components, **options):
    return float(jg.Prior.default(x, n_components, **options).least_scale)


def test_narrow_components_are_not_smeared():
    """A narrow line on a broad ground, two clusters and a mistyped value: sds are those of the components' own rows."""
    rng = np.random.default_rng(0)
    line, ground = rng.normal(50, 0.01, 500), rng.normal(40, 15, 500)
    clusters = rng.normal(0, 0.1, 500), rng.normal(1, 0.1, 500)
    for rows, k, own in (
        (np.concatenate([line, ground]), 2, (line, ground)),
        (np.concatenate([*clusters, [1e4]]), 3, clusters),
    ):
        x = rows[:, None]
        fit = jg.fit(x, k, key=jax.random.key(0))
        assert fit.converged
        assert fit.restarts.replication == 10
        sds, means = np.sqrt(fit.gmm.covariances.ravel()), fit.gmm.means.ravel()
        for part in own:
            found = np.argmin(abs(sds - part.std()) + abs(means - part.mean()))
            assert sds[found] == pytest.approx(part.std(), rel=0.1)


def test_m_step_climbs_with_a_random_scale(blobs, family):
    """E[s | mixture] in the place of s: each step raises log-likelihood plus the density with s summed out."""
    prior, gmm = jg.Prior.default(blobs, 3, family), random_member(family)
    value = -np.inf
    for _ in range(30):
        before, value = value, float(gmm.log_likelihood(blobs) + prior.log_prob(gmm))
        assert value >= before - 1e-9 * abs(value)
        gmm = jg.m_step(jg.e_step(gmm, blobs), gmm, prior)


def test_fixed_point_with_a_random_scale_is_stationary(blobs, family):
    prior = jg.Prior.default(blobs, 3, family)
    fit = jg.fit(blobs, 3, key=jax.random.key(0), family=family, prior=prior, rtol=1e-12, max_steps=5000)
    assert fit.converged
    assert stationarity(fit.gmm, blobs, prior) < 1e-5


def test_numpyro_draws_what_the_density_says(family):
    """E[q / p] = 1 over draws from p, for a density q that p covers: that of one value of the scale."""
    x = np.random.default_rng(0).normal(size=(100, 2))
    prior = replace(jg.Prior.default(x, 3, family), least_scale=1e-3)
    value = np.geomspace(1e-3, 1, 512)[300]

    def draw(key):
        with handlers.seed(rng_seed=key):
            gmm = jg.numpyro_model(None, 3, family, prior, n_samples=1)
        trace = handlers.trace(handlers.seed(jg.numpyro_model, key)).get_trace(None, 3, family, prior, n_samples=1)
        sites = sum(trace[name]["fn"].log_prob(trace[name]["value"]) for name in ("weights", "covariances", "means"))
        return sites, prior.log_prob(gmm), given(prior, value).log_prob(gmm)

    by_sites, p, q = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 20_000))
    np.testing.assert_allclose(by_sites, p, rtol=1e-9, atol=1e-9)
    ratio = np.exp(q - p)
    assert ratio.mean() == pytest.approx(1, abs=4 * ratio.std() / np.sqrt(ratio.size))
    assert ratio.std() < 10


@pytest.mark.parametrize(("value", "words"), [(0.0, "must lie above 0"), (2.0, "at most at 1"), ([1e-3], "one number")])
def test_least_scale_must_make_sense(value, words):
    with pytest.raises(ValueError, match=f"least_scale.*{words}"):
        replace(random_prior("full"), least_scale=value)


def test_default_prior_is_made_on_the_host(blobs):
    with pytest.raises(TypeError, match=r"Prior\.default looks at rows on the host"):
        jax.jit(lambda x: jg.Prior.default(x, 2).scale)(blobs)


def test_weights_that_add_up_to_one_are_frequencies():
    """A histogram, normalised or not: the same mixture, and what is reported in nats of the weights as given."""
    grid = np.linspace(-5, 12, 171)[:, None]
    weight = np.exp(-0.5 * grid[:, 0] ** 2)
    weight /= weight.sum()
    one, many = (jg.fit(grid, 1, key=jax.random.key(0), sample_weight=c * weight) for c in (1, np.count_nonzero(weight)))
    np.testing.assert_allclose(one.gmm.covariances, many.gmm.covariances, rtol=1e-9)
    assert one.log_likelihood == pytest.approx(float(one.gmm.log_likelihood(grid, weight)), rel=1e-6)
    assert one.objective * np.count_nonzero(weight) == pytest.approx(many.objective, rel=1e-9)
    assert one.trace[-1] == pytest.approx(one.objective, rel=1e-12)


def test_units_of_the_features_do_not_make_a_matrix_indefinite():
    """Eigenvalues may be below the rounding of a matrix whose features have other units; those of its correlations are not."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        unit, rows = 10.0 ** rng.uniform(-14, 14, 3), rng.normal(size=(9, 3))
        matrix = rows.T @ rows * unit[:, None] * unit
        assert jg.Prior(1.0, np.zeros(3), 0.01, 5.0, matrix).scale.shape == (3, 3)
        assert jg.GMM([1.0], np.zeros((1, 3)), [matrix]).n_features == 3
        away = matrix.copy()
        away[0, 1] = away[1, 0] = 1.01 * np.sqrt(matrix[0, 0] * matrix[1, 1])
        with pytest.raises(ValueError, match="positive definite"):
            jg.Prior(1.0, np.zeros(3), 0.01, 5.0, away)
        with pytest.raises(ValueError, match="positive definite"):
            jg.GMM([1.0], np.zeros((1, 3)), [away])
