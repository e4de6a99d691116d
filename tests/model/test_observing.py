"""What a mixture says of rows with gaps or errors of measurement, against scipy's densities of what was seen."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import crossed, random_member
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg
from jaxgmm.data.observed import by_pattern
from jaxgmm.model.observing import OBSERVING

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * 2
GAPPY = np.where(RNG.random(X.shape) < 0.3, np.nan, X)
GAPPY[0] = [np.nan, 1.0, np.nan]
GAPPY[np.isnan(GAPPY).all(1)] = 0.5
VARIANCES = RNG.gamma(2, 0.3, size=X.shape)
FACTORS = RNG.normal(size=(60, 3, 3)) / 2
ERRORS = {"none": None, "variances": VARIANCES, "matrices": FACTORS @ FACTORS.swapaxes(1, 2)}


def log_joint(gmm, x, errors):
    """(N, K), one density of scipy's after the other."""
    weights, means, covariances = (np.asarray(leaf, float) for leaf in (gmm.weights, gmm.means, gmm.dense_covariances()))
    joint = np.empty((len(x), len(weights)))
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        own = np.zeros((len(row), len(row))) if errors is None else errors[n] if errors.ndim == 3 else np.diag(errors[n])
        for k in range(len(weights)):
            visible = (covariances[k] + own)[np.ix_(seen, seen)]
            joint[n, k] = np.log(weights[k]) + multivariate_normal.logpdf(row[seen], means[k][seen], visible)
    return joint


@pytest.mark.parametrize(("family", "errors"), [*crossed(list(ERRORS)), ("EEI", "variances"), ("VEV", "matrices")])
def test_answers_about_rows(family, errors):
    gmm, given = random_member(family), ERRORS[errors]
    joint = log_joint(gmm, GAPPY, given)
    density = logsumexp(joint, axis=1)
    np.testing.assert_allclose(gmm.log_prob(GAPPY, error_covariances=given), density, rtol=1e-11)
    shares = np.exp(joint - density[:, None])
    np.testing.assert_allclose(gmm.responsibilities(GAPPY, error_covariances=given), shares, atol=1e-12)
    np.testing.assert_array_equal(gmm.predict(GAPPY, error_covariances=given), joint.argmax(1))
    weight = np.arange(60.0)
    bic = gmm.n_parameters * np.log(weight.sum()) - 2 * weight @ density
    assert gmm.bic(GAPPY, weight, error_covariances=given) == pytest.approx(bic, rel=1e-12)
    icl = bic - 2 * weight @ np.log(shares.max(1))
    assert gmm.icl(GAPPY, weight, error_covariances=given) == pytest.approx(icl, rel=1e-12)


@pytest.mark.default_precision
@pytest.mark.parametrize("offset", [0, 1e6])
def test_no_digit_is_lost_without_x64(offset):
    gmm = random_member("full")
    moved = jg.GMM(gmm.weights, np.asarray(gmm.means) + offset, gmm.covariances)
    expected = logsumexp(log_joint(moved, GAPPY + offset, VARIANCES), axis=1)
    np.testing.assert_allclose(moved.log_prob(GAPPY + offset, error_covariances=VARIANCES), expected, rtol=1e-12)


@pytest.mark.parametrize("errors", ["variances", "matrices"])
def test_errors_follow_the_columns_of_a_frame(errors):
    """A frame's columns are put in the mixture's order, and their errors with them."""
    named, given, order = GMM.named(list("abc")), ERRORS[errors], [2, 0, 1]
    moved = given[:, order] if errors == "variances" else given[:, order][:, :, order]
    expected = named.log_prob(FRAME, error_covariances=given)
    np.testing.assert_array_equal(named.log_prob(FRAME[list("cab")], error_covariances=moved), expected)
    if errors == "variances":
        by_name = pd.DataFrame(given, columns=list("abc"))
        np.testing.assert_array_equal(named.log_prob(FRAME[list("cab")], error_covariances=by_name), expected)
        fits = [
            jg.fit(frame, init=named, key=KEY, error_covariances=own, rtol=1e-3)
            for frame, own in ((FRAME, given), (FRAME[list("cab")], moved), (FRAME[list("cab")], by_name))
        ]
        assert len({fit.objective for fit in fits}) == 1
        row = FRAME.iloc[5][list("cab")]
        for own in (moved[5], by_name.iloc[5]):
            assert float(named.log_prob(row, error_covariances=own)) == pytest.approx(float(expected[5]), rel=1e-15)
        np.testing.assert_array_equal(named.impute(row), np.asarray(named.impute(FRAME))[5, order])
    filled = np.asarray(named.impute(FRAME, error_covariances=given))
    np.testing.assert_array_equal(named.impute(FRAME[list("cab")], error_covariances=moved), filled[:, order])


@pytest.mark.default_precision
def test_one_row_and_masked_rows():
    gmm = random_member("full")
    assert float(gmm.log_prob(GAPPY[0])) == pytest.approx(float(gmm.log_prob(GAPPY[:1])[0]), rel=1e-15)
    with_errors = gmm.log_prob(GAPPY, error_covariances=VARIANCES)[0]
    assert float(gmm.log_prob(GAPPY[0], error_covariances=VARIANCES[0])) == pytest.approx(float(with_errors), rel=1e-15)
    tiny = jg.GMM([1.0], [[0.0] * 3], [1e-50], "spherical")
    assert float(tiny.log_prob([0.0] * 3, error_covariances=[1e-50] * 3)) == pytest.approx(1.5 * np.log(1 / (4e-50 * np.pi)))
    masked = np.ma.masked_array(np.nan_to_num(GAPPY), np.isnan(GAPPY))
    np.testing.assert_array_equal(gmm.log_prob(masked), gmm.log_prob(GAPPY))


@pytest.mark.parametrize(("length", "width"), [(1, 4), (7, 4), (200, 4), (3000, 4), (3000, 5)])
def test_rows_by_pattern(length, width):
    """Each row has a place of its own, in a block of its pattern; shapes are few."""
    rng = np.random.default_rng(length)
    x = np.where(rng.random((length, width)) < 0.3, np.nan, rng.normal(size=(length, width)))
    rows, places = by_pattern(x, None if width == 4 else rng.random((length, width)))
    assert len(set(places.tolist())) == length
    values = rows.values.reshape(-1, width)[places]
    seen = rows.seen[rows.pattern.reshape(-1)[places // rows.values.shape[2]]]
    np.testing.assert_array_equal(seen, ~np.isnan(x))
    np.testing.assert_array_equal(values, np.nan_to_num(x))
    used = rows.n_groups * rows.values.shape[1] * rows.values.shape[2]
    assert places.max() < used
    assert all(size & (size - 1) == 0 for size in (*rows.values.shape[:3], len(rows.seen)))


@pytest.mark.parametrize(("family", "errors"), crossed(list(ERRORS)))
def test_statistics_are_expectations(family, errors):
    """Of the rows themselves: their mean and covariance given what was seen, row by row. Of few patterns, and of many."""
    gmm, given = random_member(family), ERRORS[errors]
    x, own = (GAPPY, given) if errors != "none" else (np.repeat(GAPPY, 20, axis=0), None)
    joint = log_joint(gmm, x, own)
    shares = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    covariances, means = np.asarray(gmm.dense_covariances()), np.asarray(gmm.means)
    sums, scatter = np.zeros((3, 3)), np.zeros((3, 3, 3))
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        error = np.zeros((3, 3)) if own is None else own[n] if own.ndim == 3 else np.diag(own[n])
        for k in range(3):
            visible = (covariances[k] + error)[np.ix_(seen, seen)]
            gain = covariances[k][:, seen] @ np.linalg.inv(visible)
            shift = gain @ (row - means[k])[seen]
            sums[k] += shares[n, k] * shift
            scatter[k] += shares[n, k] * (np.outer(shift, shift) + covariances[k] - gain @ covariances[k][seen])
    with jax.enable_x64(True):
        rows, places = by_pattern(x, own)
        assert (2 * len(rows.seen) <= rows.pattern.size) == (errors == "none")
        weight = np.zeros(rows.values.shape[:3])
        weight.reshape(-1)[places] = 1
        components = jax.vmap(jg.GMM.components)(jax.tree.map(lambda leaf: leaf[None], gmm))
        found = jax.jit(OBSERVING.sums)(components, rows, weight, means[0])
    np.testing.assert_allclose(found.counts[0], shares.sum(0), rtol=1e-11)
    np.testing.assert_allclose(found.sums[0], sums, rtol=1e-9, atol=1e-9)
    structure = jg.covariance.FAMILIES[family].structure
    np.testing.assert_allclose(found.scatter[0], structure.gather(scatter), rtol=1e-9, atol=1e-9)
    assert float(found.total_weight[0]) == len(x)


def test_columns_that_are_nearly_collinear_keep_their_digits():
    """A direction 1e-6 of the others: its scatter, of whole rows and of rows with a gap, against 50 digits."""
    rng = np.random.default_rng(3)
    a = rng.normal(size=300)
    x = np.c_[a, a + 1e-6 * rng.normal(size=300), rng.normal(size=300)]
    covariance = np.cov(x.T)
    gmm = jg.GMM([1.0], [x.mean(0)], [covariance])
    x[:150, 2] = np.nan
    with jax.enable_x64(True):
        rows, places = by_pattern(x)
        weight = np.zeros(rows.values.shape[:3])
        weight.reshape(-1)[places] = 1
        components = jax.vmap(jg.GMM.components)(jax.tree.map(lambda leaf: leaf[None], gmm))
        found = np.asarray(jax.jit(OBSERVING.sums)(components, rows, weight, x.mean(0)).scatter[0, 0])
    d = x[:, :2] - np.asarray(gmm.means)[0, :2]
    thin = np.array([1.0, -1.0])
    assert thin @ found[:2, :2] @ thin == pytest.approx(((d @ thin) ** 2).sum(), rel=1e-3)


def test_imputed_values_are_conditional_means():
    gmm = random_member("full", n_features=3)
    filled = np.asarray(gmm.impute(GAPPY))
    seen = ~np.isnan(GAPPY)
    np.testing.assert_array_equal(filled[seen], GAPPY[seen])
    for row, values in zip(GAPPY, filled, strict=True):
        known = np.flatnonzero(~np.isnan(row))
        if known.size < 3:
            expected = gmm.condition(known.tolist(), row[known]).mean()
            np.testing.assert_allclose(values[np.isnan(row)], expected, rtol=1e-9)
    np.testing.assert_array_equal(gmm.impute(X), X)


def test_imputed_draws_have_the_conditional_distribution():
    """Independent draws: means and covariances within 4 standard errors, and what was seen stays."""
    gmm, n_draws = random_member("full", n_features=3), 20_000
    rows = np.repeat([[1.0, np.nan, np.nan], [np.nan, 0.5, -1.0]], n_draws, axis=0)
    (draws,) = np.asarray(gmm.impute(rows, key=KEY, n_draws=1))
    for row, drawn in ((rows[0], draws[:n_draws]), (rows[-1], draws[n_draws:])):
        known = np.flatnonzero(~np.isnan(row))
        missing = np.flatnonzero(np.isnan(row))
        np.testing.assert_array_equal(drawn[:, known], np.broadcast_to(row[known], (n_draws, known.size)))
        left = gmm.condition(known.tolist(), row[known])
        mean, covariance = np.asarray(left.mean()), np.asarray(left.covariance())
        z = drawn[:, missing] - mean
        assert (abs(z.mean(0)) < 4 * np.sqrt(np.diag(covariance) / n_draws)).all()
        products = z[:, :, None] * z[:, None]
        assert (abs(products.mean(0) - covariance) < 4 * products.std(0) / np.sqrt(n_draws)).all()
    np.testing.assert_array_equal(gmm.impute(rows[0]), gmm.impute(rows[:1])[0])
    both = np.asarray(gmm.impute(GAPPY, key=KEY, n_draws=2))
    assert both.shape == (2, 60, 3)
    assert (both[0] != both[1]).any()
    np.testing.assert_array_equal(both, gmm.impute(GAPPY, key=KEY, n_draws=2))


@pytest.mark.parametrize("dense", [False, True])
def test_imputed_values_of_rows_with_errors(dense):
    """Regression on what was measured, whose spread is also the errors'."""
    gmm, n_draws = jg.GMM([1.0], [[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]]), 20_000
    rows, errors = np.repeat([[1.0, np.nan]], n_draws, axis=0), np.full((n_draws, 2), 0.6)
    errors = np.tile([[0.6, 0.3], [0.3, 0.4]], (n_draws, 1, 1)) if dense else errors
    assert float(gmm.impute(rows[0], error_covariances=errors[0])[1]) == pytest.approx(0.8 / 1.6)
    (draws,) = np.asarray(gmm.impute(rows, key=KEY, n_draws=1, error_covariances=errors))
    spread = 1 - 0.8**2 / 1.6
    assert abs(draws[:, 1].mean() - 0.5) < 4 * np.sqrt(spread / n_draws)
    assert abs(draws[:, 1].var() / spread - 1) < 4 * np.sqrt(2 / n_draws)


GMM = random_member("full")
FRAME = pd.DataFrame(GAPPY, columns=list("abc"))
BAD = {
    "a row without a value": (lambda: GMM.log_prob(np.full((2, 3), np.nan)), ValueError, "no value at all in rows 0, 1"),
    "inf beside NaN": (lambda: GMM.log_prob([[np.nan, np.inf, 0.0]]), ValueError, "infinite values in row 0"),
    "errors of another shape": (lambda: GMM.predict(X, error_covariances=np.ones(3)), ValueError, r"\(60, 3\) variances"),
    "errors of text": (lambda: GMM.predict(X, error_covariances=[["a"] * 3] * 60), TypeError, "error_covariances"),
    "negative variances": (lambda: GMM.predict(X, error_covariances=-VARIANCES), ValueError, "positive semi-definite in rows"),
    "NaN of a value": (lambda: GMM.predict(X, error_covariances=X * np.nan), ValueError, "NaN or infinite in rows"),
    "an asymmetric matrix": (lambda: GMM.predict(X, error_covariances=FACTORS), ValueError, "isn't symmetric in rows"),
    "errors in jit": (lambda: jax.jit(lambda x: GMM.log_prob(x, error_covariances=VARIANCES))(X), TypeError, "outside of jit"),
    "errors that are traced": (
        lambda: jax.grad(lambda v: GMM.log_prob(X, error_covariances=v * VARIANCES).sum())(1.0),
        TypeError,
        "outside of jit",
    ),
    "gaps under vmap": (
        lambda: jax.vmap(lambda g: g.predict(GAPPY))(jax.tree.map(lambda leaf: leaf[None], GMM)),
        TypeError,
        "missing values",
    ),
    "text for errors of one row": (lambda: GMM.log_prob(X[0], error_covariances=["a"] * 3), TypeError, "error_covariances"),
    "other columns of errors": (
        lambda: GMM.named(list("abc")).log_prob(FRAME, error_covariances=FRAME.rename(columns={"a": "z"})),
        ValueError,
        "error_covariances",
    ),
    "imputation in jit": (lambda: jax.jit(GMM.impute)(X), TypeError, "outside of jit"),
    "a key alone": (lambda: GMM.impute(GAPPY, key=KEY), ValueError, "both key and n_draws"),
    "draws without a key": (lambda: GMM.impute(GAPPY, n_draws=2), ValueError, "both key and n_draws"),
    "no draws": (lambda: GMM.impute(GAPPY, key=KEY, n_draws=0), ValueError, "n_draws"),
    "an old key": (lambda: GMM.impute(GAPPY, key=0, n_draws=2), TypeError, "key"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, said = BAD[name]
    with pytest.raises(error, match=said):
        call()


def test_errors_of_values_that_are_missing_do_not_matter():
    some, all_of_them = (
        GMM.log_prob(GAPPY, error_covariances=errors) for errors in (np.where(np.isnan(GAPPY), np.nan, VARIANCES), VARIANCES)
    )
    np.testing.assert_array_equal(some, all_of_them)


def test_what_was_not_seen_costs_no_digits():
    """The density of a well-conditioned part is as exact as it is alone, however nearly collinear the whole is."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    covariance = q @ np.diag(np.geomspace(1, 1e-10, 5)) @ q.T
    covariance = (covariance + covariance.T) / 2
    gmm = jg.GMM([1.0], np.zeros((1, 5)), covariance[None])
    x = np.full((10, 5), np.nan)
    x[:, :2] = rng.normal(size=(10, 2))
    alone = multivariate_normal(np.zeros(2), covariance[:2, :2]).logpdf(x[:, :2])
    np.testing.assert_allclose(gmm.log_prob(x), alone, rtol=1e-12, atol=1e-12 * np.linalg.cond(covariance[:2, :2]))
