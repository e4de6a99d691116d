"""What a mixture answers, against 60 digits, from the same numbers: any unit, any origin, near-collinear columns."""

import contextlib

import hypothesis.strategies as st
import jax
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from mpmath import mp, mpf

import jaxgmm as jg
from jaxgmm.covariance import get_family

pytestmark = pytest.mark.default_precision
K, N = 2, 4
WITHIN = mpf("1e-9")


@st.composite
def cases(draw, families):
    """A mixture of two components in two columns, and rows near it; what is rounded is so before anyone computes with it."""
    family, rng = draw(families), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    units = 10.0 ** np.array(draw(st.tuples(st.integers(-25, 25), st.integers(-25, 25))))
    if family == "spherical":  # one unit for both
        units[1] = units[0]
    offset = draw(st.sampled_from([0.0, 1.0, -1e3, 1e6, 1e9, -1e12])) * units
    correlation = draw(st.sampled_from([0.0, 0.5, -0.99, 1 - 1e-6]))
    dense = np.exp(rng.normal(size=(K, 1, 1))) * np.array([[1.0, correlation], [correlation, 1.0]])
    with jax.enable_x64(True):
        shared = dense if family == "full" else dense[:1].repeat(K, axis=0)
        covariances = np.asarray(get_family(family).from_dense(shared)) * _squared(units, family)
    means = offset + rng.normal(scale=3, size=(K, 2)) * units
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    largest = np.abs(offset).max() + 100 * units.max()
    if largest > 1e30 or units.min() < 1e-30:
        dtype = np.float64
    rows = (means[rng.integers(0, K, N)] + rng.normal(size=(N, 2)) * units).astype(dtype)
    gmm = jg.GMM(rng.dirichlet(np.ones(K)), means, covariances, family)
    return gmm, rows, units


def _squared(units, family):
    return {"diag": units**2, "spherical": units[0] ** 2}.get(family, np.outer(units, units))


def exact(array):
    return np.vectorize(lambda value: mpf(float(value)), otypes=[object])(np.asarray(array, np.float64))


class Reference:
    """The formulas, in 60 digits."""

    def __init__(self, gmm):
        with jax.enable_x64(True):
            dense = np.asarray(get_family(gmm.family).dense(np.asarray(gmm.covariances), K, 2))
        self.weights, self.means, self.covariances = exact(gmm.weights), exact(gmm.means), exact(dense)

    def log_joint(self, row):
        out = []
        for w, m, s in zip(self.weights, self.means, self.covariances, strict=True):
            (a, b), (_, c) = s
            det = a * c - b * b
            y, z = row - m
            out.append(mp.log(w) - mp.log(2 * mp.pi) - mp.log(det) / 2 - (c * y * y - 2 * b * y * z + a * z * z) / det / 2)
        return out

    def log_prob(self, row):
        joint = self.log_joint(row)
        peak = max(joint)
        return peak + mp.log(mp.fsum(mp.exp(j - peak) for j in joint))

    def responsibilities(self, row):
        joint, total = self.log_joint(row), self.log_prob(row)
        return [mp.exp(j - total) for j in joint]


def close(found, wanted, size=1, within=WITHIN):
    """Each number within `within` of what is wanted, in units of `size` or of itself, whichever is larger."""
    size = np.broadcast_to(np.asarray(size, object), np.shape(wanted))
    for a, b, unit in zip(np.ravel(found), np.ravel(wanted), np.ravel(size), strict=True):
        assert abs(mpf(float(a)) - b) <= within * max(abs(b), mpf(unit)), (a, b, unit)


@pytest.mark.parametrize("x64", [False, True])
@given(case=cases(st.sampled_from(["full", "tied", "diag", "spherical"])))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_answers_have_their_digits(x64, case):
    gmm, rows, units = case
    reference, x = Reference(gmm), exact(rows)
    single = WITHIN if rows.dtype == np.float64 else mpf("1e-6")  # answers about rows have the rows' dtype
    with mpmath.workdps(60), jax.enable_x64(x64) if x64 else contextlib.nullcontext():
        log_prob = [reference.log_prob(row) for row in x]
        r = np.array([reference.responsibilities(row) for row in x], object)
        close(gmm.log_prob(rows), log_prob, within=single)
        close(gmm.responsibilities(rows), r, within=single)
        close(gmm.log_likelihood(rows), mp.fsum(log_prob))
        close(gmm.bic(rows), gmm.n_parameters * mp.log(N) - 2 * mp.fsum(log_prob))
        w, m, s = reference.weights, reference.means, reference.covariances
        mean = w @ m / w.sum()
        close(gmm.mean(), mean, units)
        scale = np.outer(units, units)
        whole = sum(w[k] * (s[k] + np.outer(m[k] - mean, m[k] - mean)) for k in range(K))
        close(gmm.covariance() / scale, whole / exact(scale))
        close(gmm.marginal([1]).log_prob(rows[:, 1:]), [_marginal(reference, row) for row in x], within=single)
        statistics = jg.e_step(gmm, rows)
        close(statistics.counts, r.sum(0))
        close(statistics.log_likelihood, mp.fsum(log_prob))
        sums = np.array([sum(r[n, k] * (x[n] - m[k]) for n in range(N)) for k in range(K)])
        close(statistics.sums / units, sums / exact(units))
        if gmm.family == "full":
            away = x[:, None] - m
            scatter = np.einsum("nk,nki,nkj->kij", r, away, away)
            close(statistics.scatter / scale, scatter / exact(scale))


def _marginal(reference, row):
    terms = [
        w * mp.exp(-((row[1] - m[1]) ** 2) / s[1, 1] / 2) / mp.sqrt(2 * mp.pi * s[1, 1])
        for w, m, s in zip(reference.weights, reference.means, reference.covariances, strict=True)
    ]
    return mp.log(mp.fsum(terms))
