"""Mixtures of factor analysers: covariances of low rank and noise."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis

import jaxgmm as jg
from jaxgmm.covariance import get_family
from jaxgmm.model.engines import COMPLETE, STURDY
from jaxgmm.sklearn import GaussianMixture

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LOADINGS, SDS = RNG.normal(size=(2, 8, 2)), RNG.uniform(0.3, 1, (2, 8))
LABELS = np.repeat([0, 1], 200)
X = np.einsum("ndq,nq->nd", LOADINGS[LABELS], RNG.normal(size=(400, 2))) + SDS[LABELS] * RNG.normal(size=(400, 8))
X += 3.0 * LABELS[:, None]


SETTINGS = {"key": KEY, "n_init": 1, "max_steps": 10000}  # of fits that share a program for each rank


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)
        return {prior: jg.fit(X, 2, family="factors:2", prior=prior, **SETTINGS) for prior in ("default", None)}


@pytest.mark.parametrize(("rank", "acceleration"), [(1, None), (2, None), (2, "squarem")])
def test_one_component_is_scikit_learns_factor_analysis(rank, acceleration):
    x = X[LABELS == 0]
    theirs = FactorAnalysis(rank, tol=1e-7, max_iter=20000, svd_method="lapack").fit(x)
    ours = jg.fit(x, 1, family=f"factors:{rank}", prior=None, rtol=1e-13, acceleration=acceleration, **SETTINGS)
    assert ours.log_likelihood == pytest.approx(theirs.score(x) * len(x), abs=1e-3)
    np.testing.assert_allclose(ours.gmm.dense_covariances()[0], theirs.get_covariance(), rtol=5e-3, atol=5e-3)
    assert ours.gmm.n_parameters == 8 + 8 * (rank + 1) - rank * (rank - 1) // 2


@pytest.mark.parametrize("prior", ["default", None])
def test_both_engines_are_the_formula(fitted, prior):
    fit = fitted[prior]
    assert (np.diff(fit.trace) > -1e-9).all()
    dense = np.asarray(fit.gmm.dense_covariances())
    joint = np.transpose([np.log(fit.weights[k]) + multivariate_normal(fit.means[k], dense[k]).logpdf(X) for k in range(2)])
    np.testing.assert_allclose(fit.log_prob(X), np.logaddexp(*joint.T), rtol=1e-10)
    r = np.exp(joint - np.logaddexp(*joint.T)[:, None])
    components = jax.vmap(lambda gmm: gmm.components())(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], fit.gmm))
    for engine in (COMPLETE, STURDY):
        sums = jax.jit(engine.sums)(components, jnp.asarray(X), jnp.ones(400), jnp.asarray(X.mean(0)))
        np.testing.assert_allclose(sums.counts[0], r.sum(0), rtol=1e-9)
        assert float(sums.log_likelihood[0]) == pytest.approx(np.logaddexp(*joint.T).sum(), rel=1e-12)
        for k in range(2):
            d = X - np.asarray(fit.means[k])
            z = d @ np.linalg.solve(dense[k], np.asarray(fit.covariances[k, :, :-1]))
            np.testing.assert_allclose(sums.sums[0, k], r[:, k] @ d, atol=1e-9)
            np.testing.assert_allclose(sums.scatter[0, k, :, :-1], np.einsum("n,nd,nq->dq", r[:, k], d, z), atol=1e-9)
            np.testing.assert_allclose(sums.scatter[0, k, :, -1], r[:, k] @ d**2, rtol=1e-9)


@pytest.mark.parametrize(("prior", "acceleration"), [("default", None), (None, "squarem")])
def test_it_climbs_to_where_the_density_is_flat(prior, acceleration):
    fit = jg.fit(X, 2, family="factors:2", prior=prior, rtol=1e-14, acceleration=acceleration, **SETTINGS)
    assert fit.converged

    def objective(leaves):
        weights, means, covariances = leaves
        gmm = jg.GMM.unchecked(weights / weights.sum(), means, covariances, "factors:2")
        return gmm.log_prob(X).sum() + (0 if fit.prior is None else fit.prior.log_prob(gmm))

    leaves = tuple(map(jnp.asarray, (fit.weights, fit.means, fit.covariances)))
    value, gradient = jax.jit(jax.value_and_grad(objective))(leaves)
    assert fit.objective == pytest.approx(float(value), rel=1e-10)
    assert max(abs(np.asarray(g)).max() for g in gradient) < 0.05  # of an objective of thousands of nats


def test_it_finds_what_was_put_in(fitted):
    fit = fitted["default"]
    order = np.argsort(fit.means[:, 0])
    truth = LOADINGS @ LOADINGS.swapaxes(1, 2) + SDS[:, :, None] ** 2 * np.eye(8)
    for k, own in zip(order, truth, strict=True):
        error = np.asarray(fit.gmm.dense_covariances())[k] - own
        assert abs(error / np.sqrt(np.outer(np.diag(own), np.diag(own)))).max() < 0.35
    assert (np.asarray(fit.predict(X)) == order[LABELS]).mean() > 0.99


def test_units_and_offsets_do_not_matter(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)
        other = jg.fit(1e6 + X * np.geomspace(1e-4, 1e4, 8), 2, family="factors:2", **SETTINGS)
    assert other.objective == pytest.approx(fitted["default"].objective, abs=1e-3)


def test_what_such_a_mixture_answers(fitted, tmp_path):
    gmm = fitted[None].gmm
    rows, labels = gmm.sample(KEY, 100_000)
    for k in range(2):
        own = np.asarray(rows)[np.asarray(labels) == k]
        error = np.cov(own.T) - np.asarray(gmm.dense_covariances())[k]
        sds = np.sqrt(np.diag(np.asarray(gmm.dense_covariances())[k]))
        assert abs(error / np.outer(sds, sds)).max() < 5 * np.sqrt(2 / len(own))
    back = jg.load(gmm.save(tmp_path / "gmm.npz"))
    assert back.family == "factors:2"
    np.testing.assert_array_equal(back.log_prob(X), gmm.log_prob(X))
    assert gmm.condition([0], [1.0]).family == gmm.marginal([0, 1]).family == "full"
    np.testing.assert_allclose(gmm.marginal([3, 1]).covariances, np.asarray(gmm.dense_covariances())[:, [3, 1]][:, :, [3, 1]])
    step = jg.m_step(jg.e_step(gmm, X), gmm)
    again = jg.m_step(jg.e_step(gmm, X[:150]) + jg.e_step(gmm, X[150:]), gmm)
    np.testing.assert_allclose(step.covariances, again.covariances, rtol=1e-9)
    assert "factors:2, 2 components" in repr(gmm)


def test_it_is_compared_and_goes_with_labels_noise_and_weights():
    table = jg.compare(X, families=["diag", "factors:1", "factors:2"], n_components=[2], prior=None, **SETTINGS).table
    assert table["bic"].idxmin() == "factors:2 2"
    far = np.concatenate([X, RNG.uniform(-40, 40, (20, 8))])
    labels = np.where(np.arange(400) % 9 == 0, LABELS, -1)
    fit = jg.fit(far, 2, family="factors:2", labels=np.append(labels, [-1] * 20), noise=True, **SETTINGS)
    assert (np.asarray(fit.predict(X)) == LABELS).mean() > 0.99
    assert np.asarray(fit.predict(far))[400:].tolist() == [-1] * 20
    counts = RNG.integers(1, 3, 400)
    weighted = jg.fit(X, init=LABELS, sample_weight=counts, family="factors:1", prior=None, **SETTINGS)
    repeated = np.repeat(X, counts, axis=0), np.repeat(LABELS, counts)
    same = jg.fit(repeated[0], init=repeated[1], family="factors:1", prior=None, **SETTINGS)
    length = min(len(weighted.trace), len(same.trace))
    assert length > 20
    np.testing.assert_allclose(weighted.trace[:length], same.trace[:length], rtol=1e-9)


@pytest.mark.parametrize("name", ["factors", "factors:", "factors:0", "factors:two", "factors:-1"])
def test_names_that_are_no_rank(name):
    with pytest.raises(ValueError, match=r"factors|unknown family"):
        get_family(name)


def test_what_it_does_not_go_with(fitted):
    gappy = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
    with pytest.raises(ValueError, match=r"family 'factors:2' takes rows that were seen wholly.*'full'"):
        jg.fit(gappy, 2, key=KEY, family="factors:2")
    with pytest.raises(ValueError, match="no posterior here: take 'full'"):
        jg.posterior(X, fitted["default"], method="gibbs", key=KEY)
    with pytest.raises(ValueError, match="rank"):
        jg.fit(X, 2, key=KEY, family="factors:8")


def test_marginals_of_more_features_than_factors_and_scikit_learns_estimator():
    gmm = jg.GMM([1.0], [[0.0, 1.0, 2.0]], [[[2.0, 0.1], [1.0, 1.0], [0.5, 3.0]]], "factors:1")
    for keep in ([0, 1, 2], [2, 0, 1], [2, 0]):
        part = gmm.marginal(keep)
        assert part.family == "factors:1"
        np.testing.assert_allclose(part.dense_covariances()[0], np.asarray(gmm.dense_covariances())[0][np.ix_(keep, keep)])
    theirs = GaussianMixture.from_gmm(gmm)
    np.testing.assert_allclose(theirs.score_samples(X[:5, :3]), gmm.log_prob(X[:5, :3]), rtol=1e-9)
    assert jg.GMM([1.0], [[0.0] * 3], np.ones((1, 3, 3)), "factors:2").n_parameters == 3 + 6  # no richer than "full"
    with pytest.raises(ValueError, match="needs a rank below the 2 features"):
        jg.initialise(X[:, :2], 2, key=KEY, family="factors:2")
