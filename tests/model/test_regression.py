"""Regression of some features on others, and distribution functions of single ones."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import FAMILIES, random_member
from scipy import integrate, stats

import jaxgmm as jg


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_what_condition_says_of_each_row(name):
    gmm = random_member(name, 3)
    rows = gmm.sample(jax.random.key(0), 5)[0][:, [2, 0]]
    found = jg.regress(gmm, rows, [2, 0], probability=0.8)
    for n, row in enumerate(np.asarray(rows)):
        given = gmm.condition([2, 0], row)
        assert found.mean[n, 0] == pytest.approx(float(given.mean()[0]), rel=1e-10)
        assert found.sd[n, 0] == pytest.approx(float(np.sqrt(given.covariance()[0, 0])), rel=1e-9)
        for end, p in ((found.lower, 0.1), (found.upper, 0.9)):
            assert float(jg.cdf(given, [[end[n, 0]]])[0, 0]) == pytest.approx(p, abs=1e-12)


def test_intervals_hold_what_they_say():
    truth = jg.GMM([0.4, 0.6], [[0.0, 0.0, 1.0], [2.0, 3.0, 0.0]], np.stack([np.eye(3), 0.5 * np.eye(3) + 0.4]))
    rows = np.asarray(truth.sample(jax.random.key(1), 4000)[0])
    found = jg.regress(truth, rows[:, :1], [0])
    inside = (found.lower < rows[:, 1:]) & (rows[:, 1:] < found.upper)
    assert abs(inside.mean(0) - 0.9).max() < 4 * np.sqrt(0.09 / 4000)
    assert abs(((rows[:, 1:] - found.mean) / found.sd).std(0) - 1).max() < 0.05


def test_distribution_functions_agree_with_scipy():
    gmm = random_member("full", 3)
    rows = np.asarray(gmm.sample(jax.random.key(2), 20)[0])
    sd = np.sqrt(np.diagonal(np.asarray(gmm.covariances), axis1=1, axis2=2))
    expected = np.einsum("k,nkd->nd", gmm.weights, stats.norm.cdf(rows[:, None], gmm.means, sd))
    np.testing.assert_allclose(jg.cdf(gmm, rows), expected, rtol=1e-9, atol=1e-15)
    p = np.array([1e-9, 0.01, 0.5, 0.999])
    for d in range(3):
        np.testing.assert_allclose(jg.cdf(gmm, jg.quantile(gmm, p))[:, d], p, rtol=1e-6)
    one = gmm.marginal([1])
    area, _ = integrate.quad(lambda value: float(np.exp(one.log_prob([[value]])[0])), -np.inf, rows[0, 1], limit=200)
    assert jg.cdf(one, rows[:1, [1]])[0, 0] == pytest.approx(area, rel=1e-6)
    assert jg.quantile(gmm, 0.5).shape == (3,)
    assert np.isnan(jg.cdf(gmm, [[np.nan, 0.0, 0.0]])).tolist() == [[True, False, False]]


def test_far_from_zero_and_in_small_units():
    """Seconds since 1970 beside lengths of 1e-12: as near zero, in units of one."""
    near = random_member("full", 2)
    shift, unit = np.array([1.7e9, 0, 0]), np.array([1.0, 1e-12, 1.0])
    far = jg.GMM(near.weights, (np.asarray(near.means) + shift) * unit, np.asarray(near.covariances) * np.outer(unit, unit))
    rows = np.asarray(near.means)[:, [0, 2]]
    ours = jg.regress(far, rows + shift[[0, 2]], [0, 2])
    theirs = jg.regress(near, rows, [0, 2])
    np.testing.assert_allclose(ours.mean / 1e-12, theirs.mean, rtol=1e-5)
    np.testing.assert_allclose(ours.sd / 1e-12, theirs.sd, rtol=1e-5)


def test_frames_go_by_name():
    x = jg.datasets.load_iris().x
    names = ["a", "b", "c", "d"]
    fit = jg.fit(pd.DataFrame(x, columns=names), 3, key=jax.random.key(0))
    given = pd.DataFrame(x[:3, [3, 1]], columns=["d", "b"], index=[7, 8, 9])
    found = jg.regress(fit, given)
    assert found.feature_names == ("a", "c")
    table = found.to_frame()
    assert table.index.tolist() == [7, 8, 9]
    np.testing.assert_allclose(table["c"]["mean"], jg.regress(fit, x[:3, [3, 1]], ["d", "b"]).mean[:, 1])
    assert repr(found).startswith("Regression: 3 rows, mean and 90 % interval")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: jg.regress(g, [[0.0]]), "features, which of the mixture's the columns of given are, is needed"),
        (lambda g: jg.regress(g, np.zeros((1, 3)), [0, 1, 2]), "are all 3: nothing is left to predict"),
        (lambda g: jg.regress(g, [[np.nan]], [0]), "given"),
        (lambda g: jg.regress(g, [[0.0, 1.0]], [0]), "given has 2 columns"),
        (lambda g: jg.regress(g, [[0.0]], [5]), "5"),
        (lambda g: jg.regress(g, [[0.0]], [0], probability=1.0), "probability must lie between 0 and 1"),
        (lambda g: jg.quantile(g, 0.0), "p must be a number between 0 and 1"),
        (lambda g: jg.quantile(g, [[0.5]]), "p must be a number"),
        (lambda g: jg.cdf(g, [[0.0]]), "x has 1 column"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_member("full", 2))


def test_a_frames_columns_go_by_name_where_features_are_named_too():
    gmm = jg.GMM([1.0], [[0.0, 0.0, 0.0]], [np.eye(3) + 0.5]).named(["a", "b", "c"])
    frame = pd.DataFrame({"b": [10.0], "a": [1.0]})
    for named in (["a", "b"], ["b", "a"], None):
        np.testing.assert_allclose(jg.regress(gmm, frame, named).mean, jg.regress(gmm, [[1.0, 10.0]], ["a", "b"]).mean)
    with pytest.raises(ValueError, match="c"):
        jg.regress(gmm, frame, ["a", "c"])
