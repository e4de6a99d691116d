"""What a mixture says of rows with limits, against scipy's density of whole rows, integrated over what lies beyond these."""

import jax
import numpy as np
import pandas as pd
import pytest
from helpers import random_member
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg
from jaxgmm.data.observed import by_pattern
from jaxgmm.model.observing import OBSERVING

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * 2
GAPPY = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
GAPPY[np.isnan(GAPPY).all(1)] = 0.5
GAPPY[0] = [np.nan, np.nan, -40.0]  # of this only a limit is known, far away
SIDES = RNG.choice([-1, 0, 1], X.shape, p=[0.3, 0.5, 0.2])
SIDES[0] = -1
SEVERAL = np.where(np.isnan(GAPPY), 0, SIDES)
ONE = np.where(np.cumsum(SEVERAL != 0, axis=1) == 1, SEVERAL, 0)  # a limit in a row at most
VARIANCES = RNG.gamma(2, 0.3, size=X.shape)
FACTORS = RNG.normal(size=(60, 3, 3)) / 2
MATRICES = FACTORS @ FACTORS.swapaxes(1, 2)
CASES = {
    "full": (random_member("full"), ONE, None),
    "full, matrices": (random_member("full"), ONE, MATRICES),
    "diag, several, variances": (random_member("diag"), SEVERAL, VARIANCES),
}
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(200)


def beyond(row, side, mean, covariance, d):
    """Points of feature d from its limit on, as far as there is any density, and their weights."""
    sd = np.sqrt(covariance[d, d])
    away = side * (mean[d] - row[d])  # the mean, beyond the limit or before it
    length = max(away, 0) + (12 * sd if away > -8 * sd else 40 * sd**2 / -away)
    return row[d] + side * length * (NODES + 1) / 2, NODE_WEIGHTS * length / 2


def of_row(row, sides, mean, covariance, error):
    """Log density of what is known of a row of one component, and the mean and second moment of what it was without errors."""
    seen = ~np.isnan(row)
    visible = covariance + error
    limits = np.flatnonzero(sides)
    if limits.size > 1:  # independent features: each by itself
        log_density, first, spread = 0.0, np.zeros(3), np.zeros(3)
        for d in range(3):
            one = np.full(3, np.nan)
            one[d] = row[d]
            own = np.where(np.arange(3) == d, sides, 0)
            part, m, s = (
                of_row(one, own, mean, covariance, error) if seen[d] else (0.0, mean, covariance + np.outer(mean, mean))
            )
            log_density, first[d], spread[d] = log_density + part, m[d], s[d, d] - m[d] ** 2
        return log_density, first, np.diag(spread) + np.outer(first, first)
    points, weights = (row[None], np.ones(1))
    if limits.size:
        t, weights = beyond(row, sides[limits[0]], mean, visible, limits[0])
        points = np.tile(row, (t.size, 1))
        points[:, limits[0]] = t
    inner = np.linalg.inv(visible[np.ix_(seen, seen)])
    gain = covariance[:, seen] @ inner
    log_each = np.atleast_1d(multivariate_normal.logpdf(points[:, seen], mean[seen], visible[np.ix_(seen, seen)]))
    log_density = logsumexp(log_each, b=weights)
    shares = weights * np.exp(log_each - log_density)
    means = mean + (points - mean)[:, seen] @ gain.T
    second = np.einsum("t,ti,tj->ij", shares, means, means) + covariance - gain @ covariance[seen]
    return log_density, shares @ means, second


def direct(gmm, x, sides, errors):
    """(N, K) log joint, (N, K, D) means and (N, K, D, D) second moments."""
    weights, means, covariances = (np.asarray(leaf, float) for leaf in (gmm.weights, gmm.means, gmm.dense_covariances()))
    joint, first, second = np.empty((len(x), 3)), np.empty((len(x), 3, 3)), np.empty((len(x), 3, 3, 3))
    for n, row in enumerate(x):
        error = np.zeros((3, 3)) if errors is None else errors[n] if errors.ndim == 3 else np.diag(errors[n])
        for k in range(3):
            joint[n, k], first[n, k], second[n, k] = of_row(row, sides[n], means[k], covariances[k], error)
    return joint + np.log(weights), first, second


@pytest.fixture(scope="module", params=CASES)
def case(request):
    gmm, sides, errors = CASES[request.param]
    return gmm, sides, errors, direct(gmm, GAPPY, sides, errors)


def test_answers_about_rows(case):
    gmm, sides, errors, (joint, first, _) = case
    known = {"error_covariances": errors, "censored": sides}
    density = logsumexp(joint, axis=1)
    np.testing.assert_allclose(gmm.log_prob(GAPPY, **known), density, rtol=1e-9)
    shares = np.exp(joint - density[:, None])
    np.testing.assert_allclose(gmm.responsibilities(GAPPY, **known), shares, atol=1e-9)
    filled = np.asarray(gmm.impute(GAPPY, **known))
    unknown = np.isnan(GAPPY) | (sides != 0)
    np.testing.assert_array_equal(filled[~unknown], GAPPY[~unknown])
    np.testing.assert_allclose(filled[unknown], np.einsum("nk,nkd->nd", shares, first)[unknown], rtol=1e-8, atol=1e-8)


def test_statistics_are_expectations(case):
    """Counts, sums and scatter of rows given what is known of them, row by row."""
    gmm, sides, errors, (joint, first, second) = case
    shares = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    means = np.asarray(gmm.means)
    shift = first - means
    about = second - first[..., None] * first[..., None, :] + shift[..., None] * shift[..., None, :]
    with jax.enable_x64(True):
        rows, places = by_pattern(GAPPY, errors, sides)
        weight = np.zeros(rows.values.shape[:3])
        weight.reshape(-1)[places] = 1
        components = jax.vmap(jg.GMM.components)(jax.tree.map(lambda leaf: leaf[None], gmm))
        found = jax.jit(OBSERVING.sums)(components, rows, weight, means[0])
    np.testing.assert_allclose(found.counts[0], shares.sum(0), rtol=1e-9)
    np.testing.assert_allclose(found.sums[0], np.einsum("nk,nkd->kd", shares, shift), rtol=1e-8, atol=1e-8)
    scatter = jg.covariance.FAMILIES[gmm.family].structure.gather(np.einsum("nk,nkij->kij", shares, about))
    np.testing.assert_allclose(found.scatter[0], scatter, rtol=1e-8, atol=1e-8)
    assert float(found.log_likelihood[0]) == pytest.approx(logsumexp(joint, axis=1).sum(), rel=1e-10)


def test_draws_lie_beyond_the_limits_and_have_their_moments():
    gmm, n_draws = CASES["full"][0], 20_000
    row, side = np.array([0.5, -3.0, np.nan]), np.array([0, -1, 0])
    joint, first, second = (np.squeeze(part, 0) for part in direct(gmm, row[None], side[None], None))
    shares = np.exp(joint - logsumexp(joint))
    mean = shares @ first
    covariance = np.einsum("k,kij->ij", shares, second) - np.outer(mean, mean)
    (drawn,) = np.asarray(gmm.impute(np.tile(row, (n_draws, 1)), key=KEY, n_draws=1, censored=np.tile(side, (n_draws, 1))))
    assert (drawn[:, 0] == 0.5).all()
    assert (drawn[:, 1] < -3).all()
    z = drawn - mean
    assert (abs(z.mean(0))[1:] < 4 * np.sqrt(np.diag(covariance)[1:] / n_draws)).all()
    products = z[:, :, None] * z[:, None]
    assert (abs(products.mean(0) - covariance)[1:, 1:] < 4 * (products.std(0) / np.sqrt(n_draws))[1:, 1:]).all()


def test_far_limits_keep_their_digits():
    """A limit 40 sds below a component, and one 1e9 above: the first has log Phi(-40), the other says nothing."""
    gmm = jg.GMM([1.0], [[0.0, 0.0]], [np.eye(2)])
    x = np.array([[1.0, -40.0], [1.0, 1e9]])
    value = -0.5 - np.log(2 * np.pi) / 2
    np.testing.assert_allclose(gmm.log_prob(x, censored=[[0, -1]] * 2), [value - 804.608442013754, value], rtol=1e-14)
    np.testing.assert_allclose(gmm.impute(x, censored=[[0, -1]] * 2)[0, 1], -40.02496882, rtol=1e-9)


def test_frames_rows_and_no_limits():
    gmm, sides, _ = CASES["full"]
    named, frame = gmm.named(list("abc")), pd.DataFrame(GAPPY, columns=list("abc"))
    expected = named.log_prob(frame, censored=sides)
    order = ["c", "a", "b"]
    for moved in (sides[:, [2, 0, 1]], pd.DataFrame(sides, columns=list("abc"))):
        np.testing.assert_array_equal(named.log_prob(frame[order], censored=moved), expected)
    one = named.log_prob(frame[order].iloc[1], censored=sides[1][[2, 0, 1]])
    assert float(one) == pytest.approx(float(expected[1]), rel=1e-14)
    np.testing.assert_array_equal(gmm.log_prob(X, censored=np.zeros(X.shape, bool)), gmm.log_prob(X))


FULL = CASES["full"][0]
NEGATIVE = np.where(np.arange(180).reshape(60, 3) == 4, -1, 0)


def asked(censored, x=X, gmm=FULL, **known):
    return gmm.predict(x, censored=censored, **known)


BAD = {
    "another shape": (lambda: asked([-1, 0, 0]), ValueError, r"censored has shape \(3,\), but x has \(60, 3\)"),
    "other values": (lambda: asked(2 * NEGATIVE), ValueError, "censored has -2 in row 1; needed is -1 where"),
    "NaN": (lambda: asked(np.where(NEGATIVE, np.nan, 0)), ValueError, "censored has nan in row 1"),
    "booleans": (lambda: asked(NEGATIVE != 0), TypeError, r"numpy\.where\(censored, -1, 0\)"),
    "text": (lambda: asked(np.full(X.shape, "<")), TypeError, "censored"),
    "a limit that is NaN": (
        lambda: asked(NEGATIVE, np.where(NEGATIVE, np.nan, X)), ValueError, "limits in row 1, where x is NaN",
    ),
    "an infinite limit": (lambda: asked(NEGATIVE, np.where(NEGATIVE, np.inf, X)), ValueError, "infinite values"),
    "several with correlations": (
        lambda: asked(SIDES), ValueError, "several limits in rows .* family 'full' .*: take family='diag'",
    ),
    "several and matrices": (
        lambda: asked(SIDES, gmm=CASES["diag, several, variances"][0], error_covariances=MATRICES), ValueError, "as variances",
    ),
    "in jit": (lambda: jax.jit(lambda x: FULL.log_prob(x, censored=NEGATIVE))(X), TypeError, "limits .*outside of jit"),
    "imputation in jit": (lambda: jax.jit(lambda c: FULL.impute(X, censored=c))(NEGATIVE), TypeError, "outside of jit"),
    "pieces": (
        lambda: FULL.bic(jg.data.Pieces(lambda: iter([X])), censored=NEGATIVE), ValueError, "censored is given, but x comes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, said = BAD[name]
    with pytest.raises(error, match=said):
        call()
