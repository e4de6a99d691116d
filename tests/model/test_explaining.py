"""Parts of surprisal and of log odds: they are those of a definition in NumPy, and levels are exact where those are known."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import random_member
from scipy import stats

import jaxgmm as jg

KEY = jax.random.key(0)


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_definition(family, offset):
    gmm, x = random_member(family, 4, 3), 3 * np.random.default_rng(0).normal(size=(300, 3))
    moved = jg.GMM(gmm.weights, np.asarray(gmm.means) + offset, gmm.covariances, family)
    x = (x + offset) - offset  # as rows of that size are
    means = np.asarray(moved.means) - offset
    found = jg.explain(moved, x + offset)
    sigma, weights = np.asarray(gmm.dense_covariances()), np.asarray(gmm.weights)
    log_joint = np.stack([
        np.log(w) + stats.multivariate_normal.logpdf(x, m, s) for w, m, s in zip(weights, means, sigma, strict=True)
    ], 1)  # fmt: skip
    r = np.exp(log_joint - np.logaddexp.reduce(log_joint, axis=1)[:, None])
    away = x[:, None] - means
    halves = away * np.einsum("kij,nkj->nki", np.linalg.inv(sigma), away) / 2
    rtol = 1e-9 if offset == 0 else 1e-6
    np.testing.assert_allclose(found.surprisal, -np.logaddexp.reduce(log_joint, axis=1), rtol=rtol)
    np.testing.assert_allclose(found.features, (r[..., None] * halves).sum(1), rtol=rtol, atol=1e-7)
    constants = np.log(weights) - np.linalg.slogdet(2 * np.pi * sigma)[1] / 2
    entropy = -(r * np.log(np.where(r > 0, r, 1))).sum(1)
    np.testing.assert_allclose(found.rest, -r @ constants - entropy, atol=1e-5)
    first, second = np.argsort(-log_joint, axis=1)[:, :2].T
    np.testing.assert_array_equal(found.components, np.stack([first, second], 1))
    n = np.arange(len(x))
    np.testing.assert_allclose(found.log_odds, log_joint[n, first] - log_joint[n, second], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.odds_features, halves[n, second] - halves[n, first], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.odds_rest, constants[first] - constants[second], atol=1e-5)


def test_the_feature_that_is_off_is_named():
    """A row that is ordinary but for one mistyped feature; and one whose features are ordinary apart, but not together."""
    gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [9.0, 9.0]], [[[1.0, 0.95], [0.95, 1.0]]] * 2).named(["a", "b"])
    rows = pd.DataFrame({"b": [0.1, 1.5, 0.0], "a": [8.0, -1.5, 0.0]}, index=[10, 20, 30])
    found = jg.explain(gmm, rows)
    table = found.to_frame()
    assert table.index.tolist() == [10, 20, 30]
    assert table.columns.tolist() == ["a", "b", "rest", "surprisal"]
    assert table.loc[10, "a"] > 100 > abs(table.loc[10, "b"])
    assert table.loc[20, "a"] == pytest.approx(table.loc[20, "b"])
    assert table.loc[20, "surprisal"] > 20 > 5 > table.loc[30, "surprisal"]
    np.testing.assert_allclose(table[["a", "b", "rest"]].sum(axis=1), table["surprisal"])
    np.testing.assert_allclose(table["surprisal"], -np.asarray(gmm.log_prob(rows)))
    assert [line.split()[0] for line in repr(found).splitlines()[2:]] == ["10", "20", "30"]


def test_one_component_has_no_odds():
    found = jg.explain(jg.GMM([1.0], [[0.0]], [1.0], "spherical"), [[2.0], [-1.0]])
    np.testing.assert_allclose(found.features[:, 0], [2.0, 0.5])
    assert found.components.tolist() == [[0, -1], [0, -1]]
    assert (found.log_odds == np.inf).all()
    assert (found.odds_features == 0).all()


def test_rows_in_blocks(monkeypatch):
    gmm, x = random_member("full", 3, 3), np.random.default_rng(0).normal(size=(700, 3))
    whole = jg.explain(gmm, x).features
    monkeypatch.setattr("jaxgmm.model.explaining._NUMBERS_AT_ONCE", 9 * 50)
    jax.clear_caches()
    np.testing.assert_allclose(jg.explain(gmm, x).features, whole, rtol=1e-12)


def test_levels_of_a_gaussian_are_those_of_chi_square():
    gmm, n = random_member("full", 1, 3), 40_000
    x = np.asarray(gmm.means) + np.random.default_rng(0).normal(size=(50, 3))
    away = x - np.asarray(gmm.means)
    exact = stats.chi2.cdf(np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.asarray(gmm.covariances)[0]), away), 3)
    found = jg.density_level(gmm, x, key=KEY, n_samples=n)
    assert (abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / n) + 2 / n).all()


def test_levels_are_calibrated():
    """Of a mixture's own rows, as many lie beyond a level as it says."""
    gmm = random_member("full", 4, 2)
    levels = jg.density_level(gmm, gmm.sample(jax.random.key(1), 5000)[0], key=KEY, n_samples=20_000)
    for level in (0.5, 0.9, 0.99):
        share = level * (1 - level) / 5000 + level * (1 - level) / 20_000
        assert abs((levels <= level).mean() - level) < 4 * np.sqrt(share)
    assert jg.density_level(gmm, [[1e6, 0.0]], key=KEY, n_samples=99)[0] == 0.99


def test_thresholds_are_where_levels_are_passed():
    """Of a Gaussian exactly those of chi-square; and of any mixture just those rows lie below that have more than the level."""
    gmm, n = random_member("full", 1, 3), 40_000
    levels = np.array([[0.5, 0.9], [0.99, 0.999]])
    found = jg.density_threshold(gmm, levels, key=KEY, n_samples=n)
    exact = float(gmm.log_prob(gmm.means[0])) - stats.chi2.ppf(levels, 3) / 2
    density = 2 * stats.chi2.pdf(stats.chi2.ppf(levels, 3), 3)  # of the log density, there
    assert (abs(found - exact) < 4 * np.sqrt(levels * (1 - levels) / n) / density).all()
    gmm = random_member("full", 4, 2)
    x = gmm.sample(jax.random.key(1), 5000)[0]
    own, log_prob = jg.density_level(gmm, x, key=KEY, n_samples=999), np.asarray(gmm.log_prob(x))
    for level in (0.003, 0.5, 0.9, 0.998):
        threshold = jg.density_threshold(gmm, level, key=KEY, n_samples=999)
        np.testing.assert_array_equal(log_prob < threshold, own > level)


def test_thresholds_that_cannot_be_had():
    gmm = random_member("full", 2, 2)
    for level in (0.0, 1.0, [0.5, np.nan]):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            jg.density_threshold(gmm, level, key=KEY)
    with pytest.raises(ValueError, match=r"level 0.999 takes n_samples of at least 2000, got 500"):
        jg.density_threshold(gmm, key=KEY, n_samples=500)
    jg.density_threshold(gmm, key=KEY, n_samples=2000)


def test_a_mixture_explains_by_itself():
    gmm, x = random_member("diag", 2, 3), np.zeros((4, 3))
    np.testing.assert_array_equal(gmm.explain(x).features, jg.explain(gmm, x).features)
    with pytest.raises(ValueError, match="x has 2 columns"):
        gmm.explain(np.zeros((4, 2)))


@pytest.mark.parametrize("name", ["explain", "density_level"])
def test_bad_input(name):
    def call(gmm, x):
        return getattr(jg, name)(gmm, x, **({"key": KEY} if name == "density_level" else {}))

    gmm = random_member("full", 2, 3)
    with pytest.raises(ValueError, match="x has 2 columns"):
        call(gmm, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="x has missing values"):
        call(gmm, np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="leading axes"):
        call(jax.tree.map(lambda leaf: np.asarray(leaf)[None], gmm), np.zeros((4, 3)))
    with pytest.raises(TypeError, match="works on the host"):
        jax.jit(lambda x: call(gmm, x))(np.zeros((4, 3)))
    with pytest.raises(TypeError, match="gmm must be a GMM"):
        call("gmm", np.zeros((4, 3)))
