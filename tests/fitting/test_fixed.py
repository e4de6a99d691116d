"""What is held by component: EM's end is the maximum over the rest, as SciPy finds it, and what is held stays bit by bit."""

import functools

import jax
import numpy as np
import pytest
from helpers import random_member
from scipy import optimize, stats

import jaxgmm as jg
from jaxgmm.model.holding import check_fixed

KEY = jax.random.key(0)
NAMES = ("weights", "means", "covariances")
SOME = {"weights": [1], "means": [0], "covariances": [2]}
CASES = [
    ("full", SOME),
    ("diag", SOME),
    ("spherical", SOME),
    ("tied", {"weights": [1], "means": [False, True, True]}),
    ("tied", {"means": [0], "covariances": "all"}),
    ("VEV", {"weights": [1], "means": [0, 1]}),
]


@functools.cache
def rows():
    rng = np.random.default_rng(1)
    clusters = rng.normal(size=(3, 40, 2)) * [[[1.0, 0.4]], [[0.5, 0.5]], [[0.3, 1.0]]]
    return (clusters + np.array([[[0.0, 0.0]], [[3.0, 1.0]], [[0.0, 4.0]]])).reshape(120, 2)


def start_of(family):
    return jg.GMM([0.5, 0.3, 0.2], [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], random_member(family, 3, 2).covariances, family)


@functools.cache
def fitted(family, case, acceleration=None):
    prior = None if family == "VEV" else "fraley-raftery"
    how = {"prior": prior, "rtol": 1e-13, "max_steps": 5000, "acceleration": acceleration}
    return jg.fit(rows(), init=start_of(family), key=KEY, fixed=CASES[case][1], **how)


def put(values, held, moved):
    """The values with those that aren't held replaced."""
    whole = np.array(values, float)
    whole[~np.asarray(held)] = moved
    return whole


class Rest:
    """The mixture as a function of what isn't held, by unconstrained numbers, and its objective: NumPy and SciPy alone."""

    def __init__(self, fit, held):
        self.gmm, self.prior, self.family = fit.gmm, fit.prior, fit.gmm.family
        self.held = {name: held.mask(name, 3) for name in NAMES}
        self.whole = held.whole("covariances")

    def start(self):
        weights, means = np.asarray(self.gmm.weights), np.asarray(self.gmm.means)
        parts = [np.log(weights[~self.held["weights"]]), means[~self.held["means"]].ravel(), self._shapes()]
        self.sizes = [part.size for part in parts]
        return np.concatenate(parts)

    def _shapes(self):
        """Of the free covariances: log variances, or Cholesky factors with logarithms on the diagonal."""
        if self.whole:
            return np.empty(0)
        if self.family == "VEV":
            values, axes = np.linalg.eigh(np.asarray(self.gmm.covariances))
            size = np.sqrt(values.prod(1))
            return np.concatenate([np.log(size), [np.log(values[0, 0] / size[0])], np.arctan2(axes[:, 1, 0], axes[:, 0, 0])])
        own = np.asarray(self.gmm.covariances)
        own = own[None] if self.family == "tied" else own[~self.held["covariances"]]
        if own.ndim < 3:
            return np.log(own).ravel()
        factors = np.linalg.cholesky(own)
        return np.stack([np.log(factors[:, 0, 0]), factors[:, 1, 0], np.log(factors[:, 1, 1])], 1).ravel()

    def _covariances(self, v):
        if self.whole:
            return np.asarray(self.gmm.covariances)
        if self.family == "VEV":
            turned = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in v[4:]]
            return np.array([np.exp(s) * r @ np.diag(np.exp([v[3], -v[3]])) @ r.T for s, r in zip(v[:3], turned, strict=True)])
        if self.family in ("diag", "spherical"):
            held = self.held["covariances"]
            return put(self.gmm.covariances, held, np.exp(v).reshape(-1, *np.shape(self.gmm.covariances)[1:]))
        factors = np.array([[[np.exp(a), 0], [b, np.exp(c)]] for a, b, c in v.reshape(-1, 3)])
        matrices = factors @ factors.transpose(0, 2, 1)
        return matrices[0] if self.family == "tied" else put(self.gmm.covariances, self.held["covariances"], matrices)

    def objective(self, v):
        log_weights, means, shapes = np.split(v, np.cumsum(self.sizes)[:-1])
        free = ~self.held["weights"]
        left = np.asarray(self.gmm.weights)[free].sum()
        weights = put(self.gmm.weights, ~free, left * np.exp(log_weights) / np.exp(log_weights).sum())
        means = put(self.gmm.means, self.held["means"], means.reshape(-1, 2))
        covariances = self._covariances(shapes)
        each = [covariances] * 3 if self.family == "tied" else covariances
        dense = np.array([np.diag(np.broadcast_to(c, 2)) if np.ndim(c) < 2 else c for c in each])
        away = rows()[:, None] - means
        squares = np.einsum("nki,kij,nkj->nk", away, np.linalg.inv(dense), away)
        value = np.log((weights * np.exp(-squares / 2) / (2 * np.pi * np.sqrt(np.linalg.det(dense)))).sum(1)).sum()
        return value + (0 if self.prior is None else self._log_prior(weights, means, covariances, dense))

    def _log_prior(self, weights, means, covariances, dense):
        prior, nu = self.prior, float(self.prior.degrees_of_freedom)
        value = stats.dirichlet(np.full(3, float(prior.concentration))).logpdf(weights / weights.sum())
        for mean, matrix in zip(means, dense, strict=True):
            value += stats.multivariate_normal(prior.mean, matrix / float(prior.mean_precision)).logpdf(mean)
        if self.family in ("diag", "spherical"):
            return value + stats.invgamma(nu / 2, scale=np.asarray(prior.scale) / 2).logpdf(covariances).sum()
        each = [covariances] if self.family == "tied" else covariances
        return value + sum(stats.invwishart(nu, np.asarray(prior.scale)).logpdf(matrix) for matrix in each)


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{family}-{'-'.join(fixed)}" for family, fixed in CASES])
def test_the_end_is_the_maximum_over_the_rest(case):
    """Every step climbs; at the end no derivative in what is free is left, and SciPy finds nothing higher near by."""
    family, fixed = CASES[case]
    start, fit, held = start_of(family), fitted(family, case), check_fixed(fixed, 3, family)
    assert fit.converged
    assert (np.diff(fit.trace) >= -1e-9 * np.abs(fit.trace[1:])).all()
    for name in NAMES:
        mask, old, new = held.mask(name, 3), np.asarray(getattr(start, name)), np.asarray(getattr(fit.gmm, name))
        if name == "covariances" and family == "tied":
            assert np.array_equal(old, new) == held.whole(name)
            continue
        np.testing.assert_array_equal(new[mask], old[mask])
        assert (new[~mask] != old[~mask]).all()
    assert float(fit.gmm.weights.sum()) == pytest.approx(1, abs=1e-14)

    rest = Rest(fit, held)
    v = rest.start()
    assert rest.objective(v) == pytest.approx(fit.objective, rel=1e-10)
    gradient = optimize.approx_fprime(v, rest.objective, 1e-6)
    assert np.abs(gradient).max() < 1e-3  # forward differences of a function of some hundred nats
    found = optimize.minimize(lambda v: -rest.objective(v), v + 0.02 * np.random.default_rng(0).normal(size=v.size))
    assert -found.fun == pytest.approx(fit.objective, abs=1e-5)
    dropped = sum(rest.sizes) - 1 if not all(rest.held["weights"]) else sum(rest.sizes)
    assert fit.n_parameters == dropped


@pytest.mark.parametrize("case", [0, 5])
def test_squarem_ends_at_the_same_maximum(case):
    family, _ = CASES[case]
    plain, fast = fitted(family, case), fitted(family, case, "squarem")
    assert fast.converged
    assert fast.n_steps < plain.n_steps
    assert fast.objective == pytest.approx(plain.objective, abs=1e-6)
    for name in ("weights", "means"):
        mask = check_fixed(CASES[case][1], 3, family).mask(name, 3)
        np.testing.assert_array_equal(np.asarray(getattr(fast, name))[mask], np.asarray(getattr(plain, name))[mask])


def test_a_step_by_hand():
    """About a held mean the covariance is that of the rows about it; beside a held weight the others share what is left."""
    x, gmm = (
        np.array([[0.0], [1.0], [5.0], [7.0]]),
        jg.GMM([0.5, 0.3, 0.2], [[0.0], [6.0], [90.0]], [1.0, 1.0, 1.0], "spherical"),
    )
    step = jg.m_step(jg.e_step(gmm, x), gmm, fixed={"means": [0], "weights": [1]})
    np.testing.assert_allclose(step.means[:2, 0], [0, 6], atol=1e-4)
    np.testing.assert_allclose(step.covariances[:2], [0.5, 1], atol=1e-3)
    np.testing.assert_allclose(step.weights, [0.7, 0.3, 0], atol=1e-6)
    assert step.weights[2] > 0  # it still takes part
    same = jg.m_step(jg.e_step(gmm, x), gmm, fixed={"weights": np.array([True, True, False]), "means": []})
    np.testing.assert_array_equal(same.weights, gmm.weights)  # nothing is left to share


def test_names_are_short_for_all_components():
    whole = check_fixed(("means", "weights"), 3, "tied")
    assert whole == check_fixed({"means": "all", "weights": [0, 1]}, 3, "tied") == check_fixed(whole, 3, "full")
    assert check_fixed({"means": [], "weights": np.zeros(3, bool)}, 3, "full") == check_fixed((), 3, "full")


def test_components_without_rows():
    """Their free weights go to 0 and the held ones stay; what has its covariance held needs no rows, without a prior either."""
    x = np.random.default_rng(0).normal(size=(60, 1))
    start = jg.GMM([0.4, 0.3, 0.1, 0.2], [[-1.0], [1.0], [80.0], [90.0]], [1.0, 1.0, 1.0, 1.0], "spherical")
    for prior in ("default", None):
        with pytest.warns(jg.FitWarning, match="2 of 4 components have no rows: 2, 3"):
            fit = jg.fit(x, init=start, key=KEY, prior=prior, fixed={"weights": [0, 3], "means": [3], "covariances": [2, 3]})
        np.testing.assert_array_equal(np.asarray(fit.weights)[[0, 3]], [0.4, 0.2])
        assert 0 < fit.weights[2] < 1e-30
        assert float(fit.weights.sum()) == pytest.approx(1, abs=1e-14)
        assert fit.status.name == "converged"


ROWS = {
    "noise": {"noise": True},
    "labels": {"labels": np.where(np.arange(120) < 20, 0, -1)},
    "truncate": {"truncate": 1e-9},
}


@pytest.mark.parametrize("what", [*ROWS, "gaps", "pieces"])
def test_rows_as_they_come(what):
    """Held parts go with whatever `fit` takes."""
    start, x = start_of("diag"), rows().copy()
    if what == "gaps":
        x[::7, 1] = np.nan
    given = jg.data.Pieces(lambda: iter([x[:50], x[50:]])) if what == "pieces" else x
    fit = jg.fit(given, init=start, key=KEY, fixed=SOME, max_steps=5000, **ROWS.get(what, {}))
    assert fit.converged
    assert (np.diff(fit.trace) >= -1e-9 * np.abs(fit.trace[1:])).all()
    for name, (k,) in SOME.items():
        np.testing.assert_array_equal(getattr(fit.gmm, name)[k], getattr(start, name)[k])
        others = np.delete(np.arange(3), k)
        assert (np.asarray(getattr(fit.gmm, name))[others] != np.asarray(getattr(start, name))[others]).all()
    assert float(fit.weights.sum()) == pytest.approx(1, abs=1e-13)
    if what == "pieces":
        whole = jg.fit(x, init=start, key=KEY, fixed=SOME, max_steps=5000)
        np.testing.assert_allclose(fit.means, whole.means, rtol=1e-9)
        assert "held as they were: weights of 1, means of 0, covariances of 2" in repr(whole)


def test_equal_weights_need_no_start():
    """They are those of a start that has them; the best of several starts, of any numbers before."""
    x = rows()
    fit = jg.fit(x, 3, key=KEY, family="diag", prior="fraley-raftery", fixed={"weights": "equal"}, rtol=1e-12)
    assert (np.asarray(fit.weights) == 1 / 3).all()
    assert fit.fixed.in_words == "equal weights"
    assert fit.n_parameters == 3 * (2 + 2)
    assert fit.bic == pytest.approx(-2 * fit.log_likelihood + 12 * np.log(len(x)))
    as_before = jg.GMM([1 / 3] * 3, fit.means, fit.covariances, "diag")
    other = jg.fit(x, init=as_before, key=KEY, prior=fit.prior, fixed=("weights",), rtol=1e-12)
    assert other.objective == pytest.approx(fit.objective, abs=1e-6)
    assert other.n_parameters == fit.n_parameters
    unequal = jg.fit(x, init=start_of("diag"), key=KEY, prior=fit.prior, fixed={"weights": "equal", "means": [0]})
    assert (np.asarray(unequal.weights) == 1 / 3).all()
    assert np.array_equal(unequal.means[0], start_of("diag").means[0])
    step = jg.m_step(jg.e_step(start_of("diag"), x), start_of("diag"), fixed={"weights": "equal"})
    assert (np.asarray(step.weights) == 1 / 3).all()
