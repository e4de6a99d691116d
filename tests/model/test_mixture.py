"""What a mixture can answer, against scipy, integrals and sampling; under jit, vmap and grad; saved and loaded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import free_parameters, random_member
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg

# In a fixed table of a few hundred z-scores from one seed, a 5-sigma value means a bug.
Z = 5.0


def scipy_joint(gmm, x):
    """log weights_k + log Normal(x_n | k), (N, K)."""
    weights, means, dense = (np.asarray(a) for a in (gmm.weights, gmm.means, gmm.dense_covariances()))
    return np.stack(
        [np.log(w) + multivariate_normal(m, c).logpdf(x) for w, m, c in zip(weights, means, dense, strict=True)], axis=1
    )


def stack(gmms):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *gmms)


def test_densities(blobs, family):
    gmm = random_member(family)
    joint = scipy_joint(gmm, blobs)
    log_prob = logsumexp(joint, axis=1)
    np.testing.assert_allclose(gmm.log_prob(blobs), log_prob, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gmm.responsibilities(blobs), np.exp(joint - log_prob[:, None]), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(gmm.predict(blobs), joint.argmax(1))
    np.testing.assert_allclose(gmm.log_prob(blobs[0]), log_prob[0], rtol=1e-12)


def test_criteria(blobs, row_counts, family):
    gmm = random_member(family)
    p = 2 + 9 + free_parameters(family, 3, 3)
    joint = scipy_joint(gmm, blobs)
    for weight in (None, row_counts):
        w = np.ones(len(blobs)) if weight is None else weight
        log_likelihood = w @ logsumexp(joint, axis=1)
        bic = p * np.log(w.sum()) - 2 * log_likelihood
        entropy = -w @ (joint.max(1) - logsumexp(joint, axis=1))
        assert gmm.n_parameters == p
        assert gmm.log_likelihood(blobs, weight) == pytest.approx(log_likelihood, rel=1e-12)
        assert gmm.aic(blobs, weight) == pytest.approx(2 * p - 2 * log_likelihood, rel=1e-12)
        assert gmm.bic(blobs, weight) == pytest.approx(bic, rel=1e-12)
        assert gmm.icl(blobs, weight) == pytest.approx(bic + 2 * entropy, rel=1e-12)


def test_many_rows_are_few_rows_often(blobs):
    """Queries work in blocks of rows: the seams don't show."""
    gmm, x = random_member("full"), np.tile(blobs, (50, 1))
    np.testing.assert_allclose(gmm.log_prob(x), np.tile(gmm.log_prob(blobs), 50), rtol=1e-13)
    np.testing.assert_array_equal(gmm.predict(x), np.tile(gmm.predict(blobs), 50))
    assert gmm.log_likelihood(x) == pytest.approx(50 * gmm.log_likelihood(blobs), rel=1e-12)


def test_inactive_components_are_absent(blobs):
    gmm = random_member("full")
    weights = np.append(gmm.weights, 0)
    padded = jg.GMM(weights, np.append(gmm.means, [[9.0] * 3], 0), np.append(gmm.covariances, [np.eye(3)], 0))
    np.testing.assert_allclose(padded.log_prob(blobs), gmm.log_prob(blobs), rtol=1e-14)
    assert np.all(np.asarray(padded.responsibilities(blobs))[:, 3] == 0)
    gradient = jax.jit(jax.grad(lambda g: g.log_likelihood(blobs)))(jax.tree.map(jnp.asarray, padded))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_far_row(family):
    gmm, far = random_member(family), np.array([[1e8, 1e8, 1e8], [-1e8, 0, 0]])
    np.testing.assert_allclose(gmm.log_prob(far), logsumexp(scipy_joint(gmm, far), axis=1), rtol=1e-9)
    np.testing.assert_allclose(gmm.responsibilities(far).sum(1), 1)


def test_mean_and_covariance(family):
    gmm = random_member(family)
    weights, means = np.asarray(gmm.weights), np.asarray(gmm.means)
    second = np.einsum("k,kij->ij", weights, gmm.dense_covariances() + means[:, :, None] * means[:, None, :])
    np.testing.assert_allclose(gmm.mean(), weights @ means, rtol=1e-13)
    np.testing.assert_allclose(gmm.covariance(), second - np.outer(weights @ means, weights @ means), rtol=1e-11)


def test_sample_moments(family):
    """Weights, and each component's mean and covariance, within their standard errors."""
    gmm, n = random_member(family), 40_000
    x, labels = (np.asarray(a) for a in gmm.sample(jax.random.key(0), n))
    assert x.shape == (n, 3)
    assert labels.shape == (n,)
    weights, dense = np.asarray(gmm.weights), np.asarray(gmm.dense_covariances())
    count = np.bincount(labels, minlength=3)
    assert np.abs((count / n - weights) / np.sqrt(weights * (1 - weights) / n)).max() < Z
    for k in range(3):
        rows, variance = x[labels == k], np.diag(dense[k])
        assert np.abs((rows.mean(0) - gmm.means[k]) / np.sqrt(variance / count[k])).max() < Z
        error = np.sqrt((dense[k] ** 2 + np.outer(variance, variance)) / count[k])
        assert np.abs((np.cov(rows.T) - dense[k]) / error).max() < Z


def test_sample_is_reproducible_and_its_memory_is_rows_by_features():
    gmm, n = random_member("full", n_components=64, n_features=2), 20_000
    draw = jax.jit(lambda key: gmm.sample(key, n))
    np.testing.assert_array_equal(draw(jax.random.key(1))[0], draw(jax.random.key(1))[0])
    assert not np.array_equal(draw(jax.random.key(1))[0], draw(jax.random.key(2))[0])
    temporary = draw.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes
    # A few arrays of N x D and one gathered factor of D x D a row; one array of N x K alone would take N * 64 * 8.
    assert temporary < n * 64 * 8 / 2


def test_inactive_components_are_never_sampled():
    gmm = jg.GMM([0.5, 0.0, 0.5], [[0.0], [100.0], [1.0]], [1.0, 1.0, 1.0], "spherical")
    assert set(np.asarray(gmm.sample(jax.random.key(0), 1000)[1]).tolist()) == {0, 2}


def test_marginal(blobs, family):
    """p(x2, x0) is the integral of p(x) over x1, in the order asked for."""
    gmm = random_member(family)
    grid = np.linspace(-30, 30, 1001)  # an equidistant sum is exact to rounding for densities this smooth
    rows = blobs[::80]
    inside = np.stack([np.column_stack([np.full_like(grid, a), grid, np.full_like(grid, c)]) for a, _, c in rows])
    integral = np.exp(gmm.log_prob(inside.reshape(-1, 3))).reshape(len(rows), -1).sum(1) * (grid[1] - grid[0])
    marginal = gmm.marginal([2, 0])
    assert marginal.family == family
    np.testing.assert_allclose(np.exp(marginal.log_prob(rows[:, [2, 0]])), integral, rtol=1e-9)


@pytest.mark.parametrize(("given", "rest"), [([1], [0, 2]), ([2, 0], [1])])
def test_condition(blobs, family, given, rest):
    """p(rest | given) = p(rest, given) / p(given)."""
    gmm = random_member(family)
    for row in blobs[::80]:
        conditional = gmm.condition(given, row[given])
        x = np.tile(row, (5, 1))
        x[:, rest] = blobs[:5, rest]
        expected = gmm.log_prob(x) - gmm.marginal(given).log_prob(x[:, given])
        assert conditional.family == family
        np.testing.assert_allclose(conditional.log_prob(x[:, rest]), expected, rtol=1e-9, atol=1e-10)


def test_regression_of_one_gaussian_is_least_squares(blobs):
    gmm = jg.GMM([1.0], blobs.mean(0)[None], np.cov(blobs.T, bias=True)[None])
    design = np.column_stack([np.ones(len(blobs)), blobs[:, :2]])
    coefficients = np.linalg.lstsq(design, blobs[:, 2])[0]
    predictions = jax.vmap(lambda values: gmm.condition([0, 1], values).mean()[0])(blobs[:, :2])
    np.testing.assert_allclose(predictions, design @ coefficients, rtol=1e-10, atol=1e-10)


QUESTIONS = {
    "log_prob": lambda gmm, x: gmm.log_prob(x),
    "responsibilities": lambda gmm, x: gmm.responsibilities(x),
    "log_likelihood": lambda gmm, x: gmm.log_likelihood(x, jnp.arange(len(x))),
    "icl": lambda gmm, x: gmm.icl(x),
    "covariance": lambda gmm, x: gmm.covariance(),
    "condition": lambda gmm, x: gmm.condition([0], x[0, :1]).mean(),
    "predict": lambda gmm, x: gmm.predict(x),
    "sample": lambda gmm, x: gmm.sample(jax.random.key(0), 7)[0],
}


def test_traces(blobs, family):
    """Every question gives the same answer under jit, and for posterior draws (leading axes) under vmap."""
    gmms, x = [random_member(family, seed=seed) for seed in range(2)], jnp.asarray(blobs[:20])

    def ask(gmm, x):
        return {name: question(gmm, x) for name, question in QUESTIONS.items()}

    draws = stack(gmms)
    assert draws.n_components == 3
    assert draws.n_features == 3
    batched = jax.jit(jax.vmap(ask, in_axes=(0, None)))(draws, x)
    for i, gmm in enumerate(gmms):
        for name, expected in ask(gmm, x).items():
            np.testing.assert_allclose(batched[name][i], expected, rtol=1e-10, atol=1e-11, err_msg=name)


def test_gradients(blobs, family):
    """Reverse mode through a bit of everything, along a random direction, against central differences."""
    gmm, x, h = jax.tree.map(jnp.asarray, random_member(family)), jnp.asarray(blobs[:20]), 1e-5

    @jax.jit
    @jax.value_and_grad
    def answer(gmm):
        return gmm.icl(x) + gmm.covariance().sum() + gmm.condition([0], x[0, :1]).log_prob(x[:, 1:]).sum()

    rng = np.random.default_rng(0)
    means, covariances = rng.normal(size=gmm.means.shape), 0.1 * rng.normal(size=gmm.covariances.shape)
    if family in ("full", "tied"):
        covariances = covariances + np.swapaxes(covariances, -1, -2)
    direction = jg.GMM.unchecked(jnp.array([0.1, -0.3, 0.2]), means, covariances, family)

    def move(h):
        return answer(jax.tree.map(lambda leaf, step: leaf + h * step, gmm, direction))[0]

    gradient = answer(gmm)[1]
    slope = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    # Their error: h^2 of the third derivative, and eps |f| / h.
    assert float(slope) == pytest.approx(float(move(h) - move(-h)) / (2 * h), rel=1e-6)


def test_frozen_pytree(family):
    gmm = random_member(family)
    with pytest.raises(dataclasses.FrozenInstanceError):
        gmm.weights = gmm.weights
    leaves, structure = jax.tree.flatten(gmm)
    assert [leaf.shape for leaf in leaves] == [gmm.weights.shape, gmm.means.shape, gmm.covariances.shape]
    again = jax.tree.unflatten(structure, leaves)
    assert again.family == family
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(gmm)]
    assert paths == [".weights", ".means", ".covariances"]


@pytest.mark.parametrize(("mclust", "name"), [("VVV", "full"), ("EEE", "tied"), ("VVI", "diag"), ("VII", "spherical")])
def test_mclust_names(mclust, name):
    gmm = random_member(name)
    assert jg.GMM(gmm.weights, gmm.means, gmm.covariances, mclust).family == name


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_save_and_load(family, dtype, tmp_path):
    gmm = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), random_member(family))
    gmm.save(tmp_path / "gmm.npz")
    again = jg.load(tmp_path / "gmm.npz")
    assert again.family == family
    for a, b in zip(jax.tree.leaves(gmm), jax.tree.leaves(again), strict=True):
        assert b.dtype == dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.default_precision
@pytest.mark.parametrize("family", ["full", "spherical"])
def test_float32(blobs, family):
    """In JAX's own default, answers for float32 rows are float32, and right to float32's rounding."""
    gmm, x = random_member(family), blobs.astype(np.float32)
    with jax.enable_x64(True):
        log_prob, responsibilities = gmm.log_prob(x.astype(float)), gmm.responsibilities(x.astype(float))
    assert gmm.log_prob(x).dtype == gmm.responsibilities(x).dtype == np.float32
    np.testing.assert_allclose(gmm.log_prob(x), log_prob, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gmm.responsibilities(x), responsibilities, atol=1e-6)
    for dtype in (np.float32, np.float64):  # draws have the mixture's own
        rows, labels = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), gmm).sample(jax.random.key(0), 5)
        assert rows.dtype == dtype
        assert np.issubdtype(labels.dtype, np.integer)
    assert not jax.config.jax_enable_x64


def test_an_idle_component_far_away_costs_no_digits(blobs):
    """Under a weak prior a component without rows may draw a mean of 1e21: the others' densities must not feel it."""
    weights, means, covariances = [0.4, 0.5, 0.1], np.array([[0.0, 0, 0], [1, 1, 1], [1e21, -1e20, 1e19]]), np.ones((3, 3))
    gmm = jg.GMM(weights, means, covariances, "diag")
    near = [w * multivariate_normal(m, np.eye(3)).pdf(blobs) for w, m in zip(weights[:2], means[:2], strict=True)]
    np.testing.assert_allclose(gmm.log_prob(blobs), np.log(sum(near)), rtol=1e-12)
