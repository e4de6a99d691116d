"""Many data sets in one call: each has the fit that it would have alone, and its own failure."""

import dataclasses
import math

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import crossed, load_x
from scipy.special import softmax
from scipy.stats import multivariate_normal

import jaxgmm as jg

KEY = jax.random.key(0)


def many(n_groups=12, n_features=2, seed=0, most=64):
    """Groups of different sizes, offsets and units, of one to three well-separated clusters.

    With more than 64 rows they are of another length, for which all is compiled once more.
    """
    rng = np.random.default_rng(seed)
    groups = []
    for g in range(n_groups):
        n, k = int(rng.integers(30, most)), g % 3 + 1
        x = rng.normal(size=(n, n_features)) + 12 * rng.integers(0, k, n)[:, None]
        groups.append(x * 10.0 ** rng.integers(-4, 5, n_features) + 1e6 * rng.normal(size=n_features))
    return groups


@pytest.mark.parametrize(("family", "prior"), crossed(["default", "fraley-raftery", None]))
def test_each_group_is_fitted_as_if_alone(family, prior):
    groups = many(most=150 if (family, prior) == ("full", "default") else 64)
    fits = jg.fit_groups(groups, n_components=2, key=KEY, family=family, prior=prior, n_init=4)
    assert (fits.table["status"] == "converged").all()
    for g, x in enumerate(groups):
        gmm, row = fits[g], fits.table.loc[g]
        again = jg.fit(x, init=gmm, key=KEY, prior=prior)
        np.testing.assert_allclose(row["log_likelihood"], gmm.log_prob(x).sum(), rtol=1e-9)
        assert again.n_steps <= 3  # it was there already
        if g % 3 == 1:  # two clusters: both find the best optimum
            alone = jg.fit(x, 2, key=KEY, family=family, prior=prior, n_init=1)
            np.testing.assert_allclose(again.objective, alone.objective, atol=1e-4)
        np.testing.assert_allclose([row["bic"], row["aic"]], [gmm.bic(x), gmm.aic(x)], rtol=1e-9)
        assert row["n_rows"] == len(x)


def test_each_group_has_its_own_number_of_components():
    groups = many(n_groups=30, n_features=1, most=150)
    fits = jg.fit_groups(groups, n_components=[1, 2, 3], key=KEY)
    by_size = [jg.fit_groups(groups, n_components=k, key=KEY).table["bic"] for k in (1, 2, 3)]
    np.testing.assert_array_equal(fits.table["n_components"], 1 + np.argmin(by_size, axis=0))
    assert (fits.table["n_components"] == np.arange(30) % 3 + 1).mean() > 0.9
    by_aic = jg.fit_groups(groups, n_components=[1, 2, 3], key=KEY, criterion="aic")
    assert (by_aic.table["n_components"] >= fits.table["n_components"]).all()
    assert fits.gmm.means.shape == (30, 3, 1)
    assert fits.gmm.weights[0].tolist() == [1, 0, 0]
    frame = fits.to_frame()
    assert frame.index.names == ["group", "component"]
    assert len(frame) == fits.table["n_components"].sum()
    np.testing.assert_allclose(frame.loc[4, "mean_x0"], fits[4].means[:, 0])
    np.testing.assert_allclose(frame.loc[4, "sd_x0"] ** 2, np.ravel(fits[4].covariances))


def test_rows_with_labels_are_a_list_of_groups():
    """In whatever order they come, in a frame or not."""
    groups = many(n_groups=5, most=150)
    labels = np.repeat([f"sensor {g}" for g in range(5)], [len(x) for x in groups])
    order = np.random.default_rng(0).permutation(len(labels))
    frame = pd.DataFrame(np.concatenate(groups)[order], columns=["u", "v"])
    frame["sensor"] = labels[order]
    fits = jg.fit_groups(frame[["u", "v"]], frame["sensor"], n_components=2, key=KEY)
    assert list(fits) == list(fits.table.index) == [f"sensor {g}" for g in range(5)]
    assert fits["sensor 3"].feature_names == ("u", "v")
    listed = jg.fit_groups(groups, n_components=2, key=KEY)
    np.testing.assert_allclose(fits.table["log_likelihood"], listed.table["log_likelihood"], rtol=1e-6)
    same = np.random.default_rng(0).normal(size=(4, 40, 2))
    np.testing.assert_array_equal(
        jg.fit_groups(same, n_components=1, key=KEY).gmm.means, jg.fit_groups(list(same), n_components=1, key=KEY).gmm.means
    )
    assert "GroupFits: 5 groups, full, 2 features" in repr(fits)


def test_a_failure_is_of_one_group():
    good, rng = many(n_groups=3), np.random.default_rng(0)
    flat = np.ones((20, 2))
    groups = [good[0], np.empty((0, 2)), good[1], rng.normal(size=(1, 2)), flat, rng.normal(size=(2, 2)), good[2]]
    names = list("abcdefg")
    with pytest.warns(jg.FitWarning) as caught:
        fits = jg.fit_groups(groups, names, n_components=[3, 4], key=KEY, prior=None)
    said = [str(warning.message) for warning in caught]
    assert any("3 of 7 groups ended as 'too_few_rows' ('b', 'd', 'f'): fewer rows than components" in one for one in said), said
    assert any("1 of 7 groups ended as 'collapsed' ('e')" in one for one in said), said
    assert fits.table.loc[["b", "d", "f"], "n_components"].tolist() == [0, 0, 0]
    with pytest.raises(KeyError, match="group 'b' has no mixture: too_few_rows"):
        fits["b"]
    with pytest.raises(KeyError, match="z"):
        fits["z"]
    for g, name in enumerate("acg"):
        alone = jg.fit_groups([good[g]], n_components=[3, 4], key=KEY, prior=None)
        assert math.isfinite(fits.table.loc[name, "log_likelihood"]) == math.isfinite(alone.table["log_likelihood"].iloc[0])
    with pytest.warns(jg.FitWarning, match=r"1 of 2 groups ended as 'out_of_range' \(\('b', 1\)\): columns too large"):
        far = jg.fit_groups([good[0], 1e160 * good[1]], [("a", 1), ("b", 1)], n_components=1, key=KEY)
    assert (list(far), len(far)) == ([("a", 1)], 1)
    with pytest.warns(jg.FitWarning, match="too_few_rows"):
        some = jg.fit_groups(groups, names, n_components=[2, 4], key=KEY)
    assert some.table.loc["f", "n_components"] == 2  # 4 are more than its rows
    assert some.table.loc["e", "status"] == "converged"  # a prior makes a density of equal rows


def test_priors_of_all_kinds():
    groups = many(n_groups=3, n_features=1, most=150)
    own = jg.Prior(2.0, [0.0], 1e-14, 3.0, [[1.0]])
    shared = jg.fit_groups(groups, n_components=2, key=KEY, prior=own)
    changed = jg.fit_groups(
        groups, n_components=2, key=KEY, prior=lambda p: dataclasses.replace(p, concentration=np.float64(5))
    )
    for g, x in enumerate(groups):
        assert jg.fit(x, init=shared[g], key=KEY, prior=own).n_steps <= 3
        assert (
            jg.fit(x, init=changed[g], key=KEY, prior=lambda p: dataclasses.replace(p, concentration=np.float64(5))).n_steps
            <= 3
        )


def test_other_numbers_of_groups_compile_nothing(compilations):
    """Nor do groups of other sizes; where each length has more than half as many starts as are stepped together."""
    groups = many(n_groups=100, n_features=1, most=150)
    jg.fit_groups(groups[:60], n_components=[1, 2], key=KEY)
    before = len(compilations)
    jg.fit_groups(groups[60:], n_components=[1, 2], key=KEY)
    jg.fit_groups([x[:40] for x in groups[:35]] + groups[:20], n_components=[1, 2], key=KEY)
    assert [name for name in compilations[before:] if "advance" in name] == []


@pytest.mark.parametrize(
    ("x", "groups", "options", "error", "message"),
    [
        (np.ones((4, 1)), None, {}, ValueError, "groups is needed: the label of each row of x"),
        (np.ones((4, 1)), ["a", "b"], {}, ValueError, "groups has 2 labels, but x has 4 rows"),
        (np.ones((3, 1)), np.zeros((3, 1)), {}, ValueError, r"one label for each row, \(3,\), got ndarray of shape \(3, 1\)"),
        (np.ones((3, 1)), "abc", {}, ValueError, r"one label for each row, \(3,\), got str"),
        (np.ones((3, 1)), 3, {}, ValueError, r"one label for each row, \(3,\), got int"),
        (np.ones((3, 1)), ["a", None, "b"], {}, ValueError, "groups has no label for row 1"),
        (np.ones((3, 1)), [1.0, np.nan, 2.0], {}, ValueError, "groups has no label for row 1"),
        ([np.ones((4, 1)), np.ones((4, 2))], None, {}, ValueError, r"x\[1\] has 2 columns, but x\[0\] has 1"),
        ([np.ones((4, 1))] * 2, ["a", "a"], {}, ValueError, "groups names a group twice: 'a'"),
        ([np.ones((4, 1))] * 2, ["a"], {}, ValueError, "groups has 1 labels, but x has 2 groups"),
        ([np.ones((4, 1)), np.full((4, 1), np.nan)], None, {}, ValueError, r"x\[1\]"),
        ([np.ones((4, 1))], None, {"n_components": []}, ValueError, "n_components must be a number, or several that differ"),
        (
            [np.ones((4, 1))],
            None,
            {"n_components": [2, 2]},
            ValueError,
            "n_components must be a number, or several that differ",
        ),
        ([np.ones((4, 1))], None, {"n_components": 0}, ValueError, "n_components"),
        ([np.ones((4, 1))], None, {"criterion": "icl"}, ValueError, "unknown criterion 'icl'"),
        ([np.ones((4, 1))], None, {"init": "kmeans"}, ValueError, "unknown init 'kmeans'"),
        ([np.ones((4, 1))], None, {"prior": "flat"}, ValueError, "unknown prior 'flat'"),
        ([np.ones((4, 1))], None, {"prior": 3}, TypeError, "prior must be"),
        ([np.ones((4, 1))], None, {"family": "round"}, ValueError, "unknown family 'round'"),
        ([np.ones((4, 1))], None, {"covariance_type": "full"}, TypeError, "use family, such as"),
    ],
)
def test_bad_input(x, groups, options, error, message):
    with pytest.raises(error, match=message):
        jg.fit_groups(x, groups, **{"n_components": 1, "key": KEY} | options)


def test_groups_that_are_classes():
    """Of one component each, discriminant analysis by the formula; of several, iris' species, half of them held out."""
    x, species = load_x("iris"), np.repeat(["setosa", "versicolor", "virginica"], 50)
    frame = pd.DataFrame(x, columns=list("abcd"), index=np.arange(150) + 3)
    fits = jg.fit_groups(frame, species, n_components=1, key=KEY, prior=None)
    joint = [
        multivariate_normal(x[species == name].mean(0), np.cov(x[species == name].T, bias=True)).logpdf(x)
        for name in np.unique(species)
    ]
    found = fits.classify(frame[["b", "a", "d", "c"]])
    np.testing.assert_allclose(found, softmax(np.transpose(joint), axis=1), rtol=1e-6, atol=1e-12)
    assert (found.index == frame.index).all()
    assert found.columns.tolist() == ["setosa", "versicolor", "virginica"]
    other = fits.classify(frame, {"setosa": 0.2, "versicolor": 0.2, "virginica": 0.6})
    np.testing.assert_allclose(other, softmax(np.transpose(joint) + np.log([0.2, 0.2, 0.6]), axis=1), rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match=r"prior lacks the groups \['virginica'\]"):
        fits.classify(frame, {"setosa": 0.5, "versicolor": 0.5})
    with pytest.raises(ValueError, match="prior must be positive"):
        fits.classify(frame, {"setosa": 0.5, "versicolor": 0.5, "virginica": 0.0})
    with pytest.raises(ValueError, match=r"prior has \['rose'\], which are no groups"):
        fits.classify(frame, {"setosa": 0.5, "versicolor": 0.4, "virginica": 0.1, "rose": 0.1})
    pairs = jg.fit_groups([x[:50], x[50:100]], [("a", 1), ("b", 2)], n_components=1, key=KEY)
    assert pairs.classify(x).columns.tolist() == [("a", 1), ("b", 2)]
    half = jg.fit_groups(frame[::2], species[::2], n_components=[1, 2], key=KEY)
    assert (half.classify(frame[1::2]).idxmax(axis=1) == species[1::2]).mean() > 0.95
