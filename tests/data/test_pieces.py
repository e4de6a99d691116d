"""Rows that come in pieces: the fit of the same rows in memory, and what pieces can't be."""

import jax
import numpy as np
import pandas as pd
import pytest

import jaxgmm as jg
from jaxgmm.data import Pieces, as_source, fingerprint

KEY = jax.random.key(4)
X = jg.datasets.load_faithful().x
WEIGHT = np.random.default_rng(2).integers(0, 3, len(X)).astype(float)


def cut(x, at=(100, 130)):
    return Pieces(lambda: iter(np.split(x, at)))


def weighted(x, weight, at=(100, 130)):
    return Pieces(lambda: zip(np.split(x, at), np.split(weight, at), strict=True))


@pytest.mark.parametrize("options", [{}, {"family": "tied", "prior": None}, {"acceleration": "squarem"}, {"init": "random"}])
def test_a_fit_is_that_of_the_rows_in_memory(options):
    """Seeds and all: as few rows as these are all among those that starts are made of."""
    whole, pieces = (jg.fit(x, 2, key=KEY, n_init=3, **options) for x in (X, cut(X)))
    assert pieces.status is whole.status
    assert pieces.n_steps == whole.n_steps
    np.testing.assert_allclose(pieces.trace, whole.trace, rtol=1e-10)
    np.testing.assert_allclose(pieces.gmm.means, whole.gmm.means, rtol=1e-7)
    np.testing.assert_allclose(pieces.expected_rows, whole.expected_rows, rtol=1e-7)
    assert pieces.fingerprint == whole.fingerprint
    assert pieces.total_weight == len(X)


def test_weights_come_with_the_pieces():
    start = jg.fit(X, 2, key=KEY).gmm
    whole = jg.fit(X, init=start, key=KEY, sample_weight=WEIGHT)
    pieces = jg.fit(weighted(X, WEIGHT), init=start, key=KEY)
    np.testing.assert_allclose(pieces.trace, whole.trace, rtol=1e-10)
    assert pieces.fingerprint == whole.fingerprint


def test_frames_are_matched_by_their_columns():
    frame = pd.DataFrame(X, columns=["eruptions", "waiting"])
    pieces = Pieces(lambda: iter([frame[:100], frame.iloc[100:, ::-1]]))
    assert pieces.feature_names == ("eruptions", "waiting")
    found = jg.fit(pieces, 2, key=KEY)
    assert found.gmm.feature_names == ("eruptions", "waiting")
    np.testing.assert_allclose(found.gmm.means, jg.fit(X, 2, key=KEY).gmm.means, rtol=1e-7)
    start = jg.fit(frame[["waiting", "eruptions"]], 2, key=KEY)
    again = jg.fit(pieces, init=start, key=KEY)
    assert again.gmm.feature_names == ("waiting", "eruptions")
    np.testing.assert_allclose(again.gmm.means, start.gmm.means, rtol=1e-4)


@pytest.mark.parametrize("dense", [True, False])
def test_moments(dense):
    whole, pieces = as_source(X, WEIGHT), weighted(X, WEIGHT)
    for found, expected in zip(pieces.moments(dense, np.float64), whole.moments(dense, np.float64), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (pieces.n_samples, pieces.n_features, pieces.n_present) == (272, 2, np.count_nonzero(WEIGHT))
    assert fingerprint(pieces) == fingerprint(whole)


def test_some_rows_are_drawn_by_weight():
    """One of four rows, 1000 times: shares within four standard errors."""
    weight = np.array([1.0, 0.0, 2.0, 5.0])
    pieces = weighted(np.arange(4.0)[:, None], weight, at=(1, 3))
    drawn = [pieces.some_rows(key, 1).x[0, 0] for key in jax.random.split(KEY, 1000)]
    share = np.bincount(np.array(drawn, int), minlength=4) / 1000
    expected = weight / weight.sum()
    assert (abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 1000)).all()
    several = pieces.some_rows(KEY, 3)
    np.testing.assert_array_equal(several.x[:, 0], [0, 2, 3])
    np.testing.assert_array_equal(several.weight, 1)


def test_pieces_of_other_sizes_compile_nothing(compilations):
    jax.clear_caches()
    jg.fit(cut(X), 2, key=KEY, n_init=2)
    compilations.clear()
    jg.fit(cut(X, at=(20, 150, 200)), 2, key=KEY, n_init=2)
    assert not compilations


def test_float32_and_whole_numbers_are_not_mixed_up():
    pieces = Pieces(lambda: iter([X[:50].astype(np.float32), X[50:], np.array([[3, 70]])]))
    assert pieces.like.dtype == np.float64
    assert all(rows.dtype == np.float64 for rows, _ in pieces.parts())


TWO = jg.GMM([0.4, 0.6], [[2.0, 55], [4.3, 80]], [[[0.1, 0.5], [0.5, 35]]] * 2)
USED_UP = iter([X[:100], X[100:]])
BAD = {
    "no function": (lambda: Pieces([X]), TypeError, "pieces must be a function that returns a new iterator each time"),
    "a name": (lambda: Pieces(lambda: iter([X]), "ab"), TypeError, "names must be strings, one for each column, got 'ab'"),
    "names": (lambda: jg.fit(Pieces(lambda: iter([X]), ["a"]), 2, key=KEY), ValueError, "names has 1 names, but"),
    "nothing": (lambda: jg.fit(Pieces(lambda: iter([])), 2, key=KEY), ValueError, "pieces gave no piece"),
    "one row": (lambda: jg.fit(cut(X[:1], at=()), 1, key=KEY), ValueError, "x has 1 row of positive weight"),
    "NaN": (lambda: jg.fit(cut(np.where(X[120] == X, np.nan, X)), 2, key=KEY), ValueError, r"piece \d has missing values"),
    "columns": (
        lambda: jg.fit(Pieces(lambda: iter([X, X[:, :1]])), 2, key=KEY), ValueError, "piece 1 has 1 columns",
    ),
    "used up": (lambda: jg.fit(Pieces(lambda: USED_UP), 2, key=KEY), ValueError, "gave 272 rows once, and 0"),
    "other names": (
        lambda: jg.fit(Pieces(lambda: iter([pd.DataFrame(X), pd.DataFrame(X, columns=["a", "b"])])), 2, key=KEY),
        ValueError, "piece 1",
    ),
    "weights apart": (lambda: jg.fit(cut(X), 2, key=KEY, sample_weight=WEIGHT), ValueError, "each of which has its own"),
    "frequencies": (lambda: jg.fit(weighted(X, WEIGHT / WEIGHT.sum()), 2, key=KEY), ValueError, "multiply them by"),
    "another number": (lambda: jg.fit(Pieces(lambda: iter([X]), n_rows=300), 2, key=KEY), ValueError, "n_rows is 300"),
    "no number": (lambda: Pieces(lambda: iter([X]), n_rows=8.0), TypeError, "n_rows must be a whole number"),
    "weights with n_rows": (
        lambda: jg.fit(Pieces(lambda: iter([(X, WEIGHT)]), n_rows=272), 2, key=KEY), ValueError, "leave n_rows out",
    ),
    "dtypes with n_rows": (
        lambda: jg.fit(Pieces(lambda: iter([X[:100].astype("f4"), X[100:]]), n_rows=272), 2, key=KEY), ValueError,
        "piece 1 has dtype float64, the first float32",
    ),
    "labels": (lambda: jg.fit(cut(X), init=np.arange(272) % 2, key=KEY), ValueError, "init is labels or resp"),
    "components": (lambda: jg.fit(cut(X[:5], at=(2,)), 6, key=KEY), ValueError, "n_components is 6"),
    "queries": (lambda: jg.fit(X, 2, key=KEY).gmm.log_prob(cut(X)), TypeError, "x comes in pieces, which fit,"),
    "folds": (lambda: jg.compare(cut(X), key=KEY, held_out_folds=3), ValueError, "held_out_folds needs rows in memory"),
    "gradients": (
        lambda: jg.posterior(cut(X), TWO, method="nuts", key=KEY), ValueError,
        "method 'nuts' wants all rows in memory, and x comes in pieces: take method='gibbs' or 'svi'",
    ),
    "draws of rows": (
        lambda: jg.posterior(cut(X), TWO, method="gibbs", key=KEY, groups=["log_likelihood"]), ValueError,
        "groups has 'log_likelihood', a number for each draw and row",
    ),
    "several processes": (
        lambda: jg.posterior(jg.data.Processes(cut(X)), TWO, method="gibbs", key=KEY), ValueError, "pass x.own",
    ),
    "rows twice": (
        lambda: jg.posterior(weighted(X, WEIGHT), TWO, method="gibbs", key=KEY), ValueError, "a row has weight 2, but Gibbs",
    ),
    "other rows": (
        lambda: jg.posterior(cut(X[:-1]), jg.fit(X, init=TWO, key=KEY), method="gibbs", key=KEY), ValueError,
        "x isn't the data of the fit",
    ),
    "sampler": (lambda: jg.count_clusters(cut(X), key=KEY), TypeError, "x comes in pieces, which fit,"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_pieces(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
