"""fit(): it climbs, stops where it should, says how it ended, and keeps its promises on units, weights and dtypes."""

import dataclasses
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import MCLUST_DATA, fit_real_data, load_x, random_member
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

import jaxgmm as jg
from jaxgmm.fitting import loop
from jaxgmm.fitting.arguments import step_of
from jaxgmm.fitting.em_step import EM
from jaxgmm.fitting.squarem import Squarem
from jaxgmm.model.holding import FREE
from jaxgmm.tools import precision

KEY = jax.random.key(0)
PRIORS = [None, "default"]


def small_data():
    """120 rows of three clusters in two dimensions: the shape most tests share, since every shape is a compilation."""
    rng = np.random.default_rng(1)
    clusters = rng.normal(size=(3, 40, 2)) * [[[1.0, 0.4]], [[0.5, 0.5]], [[0.3, 1.0]]]
    return (clusters + np.array([[[0.0, 0.0]], [[3.0, 1.0]], [[0.0, 4.0]]])).reshape(120, 2)


def fit_small(x=None, n_components=3, **options):
    # The number of starts and the length of the trace are part of the program, which is that of Old Faithful's `fit_real_data`.
    options = {"n_init": 20, "max_steps": 5000, **options}
    return jg.fit(small_data() if x is None else x, n_components, key=KEY, **options)


def bad_start(family="full"):
    """A poor start in `small_data`, from which EM has a way to go."""
    start = random_member(family, 3, 2)
    return jg.GMM([0.5, 0.3, 0.2], [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], start.covariances, family)


def by_first_mean(gmm):
    order = np.argsort(np.asarray(gmm.means)[:, 0])
    return np.asarray(gmm.weights)[order], np.asarray(gmm.means)[order], np.asarray(gmm.dense_covariances())[order]


def nearest(means, others):
    """For each mean the index of the nearest of the others: starts that tie may win in another order of components."""
    return np.linalg.norm(np.asarray(means)[:, None] - np.asarray(others), axis=2).argmin(1)


def objective(gmm, x, prior):
    value = gmm.log_likelihood(x)
    return value if prior is None else value + prior.log_prob(gmm)


# Climbing


def test_never_goes_down(real):
    """Twenty starts on real data, to the end: every trace of every start."""
    _, fit = real
    assert len(fit.restarts.trace) == 20
    for trace in fit.restarts.trace:
        # 1e-9 of the objective: its own rounding.
        assert np.all(np.diff(trace) >= -1e-9 * np.abs(trace[1:]))


def test_account_adds_up(real, family):
    x, fit = real
    assert fit.status is jg.Status.converged
    assert fit.converged
    assert fit.gmm.family == family
    assert fit.log_likelihood == pytest.approx(fit.gmm.log_likelihood(x), rel=1e-10)
    assert fit.objective == pytest.approx(float(objective(fit.gmm, x, fit.prior)), rel=1e-10)
    assert fit.trace.shape == (fit.n_steps + 1,)
    assert fit.trace[-1] == fit.objective
    restarts = fit.restarts
    assert len(restarts.objective) == len(restarts.status) == len(restarts.n_steps) == 20
    assert restarts.objective[restarts.best] == fit.objective
    assert restarts.n_steps[restarts.best] == fit.n_steps
    assert restarts.status[restarts.best] is fit.status
    np.testing.assert_array_equal(restarts.trace[restarts.best], fit.trace)
    usable = np.array([s in (jg.Status.converged, jg.Status.max_steps) for s in restarts.status])
    ranked = np.sort(restarts.objective[usable])[::-1]
    assert ranked[0] == pytest.approx(fit.objective, rel=1e-11)  # the first that reaches it, to rounding
    assert 1 <= restarts.replication <= usable.sum()
    # The starts that count as the best optimum, then a gap, then the next.
    if restarts.replication < usable.sum():
        assert restarts.gap == pytest.approx(ranked[0] - ranked[restarts.replication])
        assert restarts.gap > ranked[0] - ranked[restarts.replication - 1]
    else:
        assert restarts.gap == np.inf


def test_replication_sees_several_optima():
    """Three full components on Old Faithful have many optima (mclust's one start stops 13 nats below the best)."""
    restarts = fit_real_data("faithful", "full", None).restarts
    assert restarts.replication < 20
    assert 0 < restarts.gap < np.inf


def test_clear_clusters_replicate():
    """Two clusters of iris part so cleanly that nearly every start finds them."""
    assert fit_real_data("iris", "diag", None).restarts.replication > 10


# Stopping


@pytest.fixture(scope="module")
def overlapping():
    """Two overlapping Gaussians with weights 0.25 and 0.75 (scikit-learn issue 10122, with ten times the rows)."""
    rng = np.random.RandomState(1234)
    parts = [([2, 4], [[5, 2], [2, 6]], 3000), ([0, 0], [[4, 2], [2, 3]], 1000)]
    return np.concatenate([multivariate_normal(m, c).rvs(n, random_state=rng) for m, c, n in parts])


def test_default_tolerance_is_tight_enough(overlapping):
    """scikit-learn's default stops at weights near 0.45 and 0.55; ours gives 0.25 and 0.75 within sampling error."""
    theirs = GaussianMixture(2, random_state=0).fit(overlapping)
    assert theirs.converged_
    assert theirs.weights_.min() > 0.35

    fit = jg.fit(overlapping, 2, key=KEY)
    assert fit.converged
    weights, _, _ = by_first_mean(fit.gmm)

    # Standard error of the weight: the scores of the rows in all 11 free parameters, by central differences.
    gmm = jax.tree.map(np.asarray, fit.gmm)
    lower = (slice(None), *np.tril_indices(2))
    theta = np.concatenate([gmm.weights[:1], gmm.means.ravel(), gmm.covariances[lower].ravel()])

    def log_prob(theta):
        half = theta[5:].reshape(2, 3)
        covariances = np.stack([half[:, :2], half[:, 1:]], axis=2)
        return jg.GMM([theta[0], 1 - theta[0]], theta[1:5].reshape(2, 2), covariances).log_prob(overlapping)

    steps = 1e-5 * np.eye(11)
    scores = np.stack([(log_prob(theta + h) - log_prob(theta - h)) / 2e-5 for h in steps])
    error = np.sqrt(np.linalg.inv(scores @ scores.T)[0, 0])
    assert 0.01 < error < 0.1
    assert weights[0] == pytest.approx(0.25, abs=3 * error)
    # And what is left to climb is small against that error.
    tight = jg.fit(overlapping, key=KEY, init=fit.gmm, rtol=1e-12, max_steps=5000)
    assert by_first_mean(tight.gmm)[0][0] == pytest.approx(weights[0], abs=0.2 * error)


def test_squarem_and_aitken_reach_the_same_optimum(overlapping):
    start = jg.initialise(overlapping, 2, key=KEY)
    options = {"key": KEY, "init": start, "max_steps": 5000}
    plain = jg.fit(overlapping, rtol=1e-10, acceleration=None, **options)
    fast = jg.fit(overlapping, rtol=1e-10, acceleration="squarem", **options)
    aitken = jg.fit(overlapping, rtol=1e-7, stopping="aitken", **options)
    for fit in (plain, fast, aitken):
        assert fit.converged
        assert np.all(np.diff(fit.trace) >= -1e-9 * np.abs(fit.trace[1:]))
    n = len(overlapping)
    assert fast.objective == pytest.approx(plain.objective, abs=1e-6 * n)
    assert aitken.objective == pytest.approx(plain.objective, abs=1e-6 * n)
    assert fast.n_steps < plain.n_steps / 2
    np.testing.assert_array_equal(jg.fit(overlapping, rtol=1e-10, **options).trace, fast.trace)  # the default, for 4000 rows


def test_squarem_is_the_default_above_2048_rows():
    for n_rows, stopping, kind in ((2048, "relative", EM), (2049, "relative", Squarem), (2049, "aitken", EM)):
        assert type(step_of(FREE, stopping, "auto", None, n_rows)) is kind


def test_rtol_zero_takes_every_step():
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = fit_small(init=bad_start(), rtol=0)
    assert fit.status is jg.Status.max_steps
    assert not fit.converged
    assert fit.n_steps == 5000


def test_warm_start():
    cold = fit_small(init=bad_start())
    warm = fit_small(init=cold.gmm)
    assert warm.converged
    assert warm.n_steps < cold.n_steps
    assert warm.objective >= cold.objective
    assert warm.trace[0] == pytest.approx(cold.objective, rel=1e-12)


# Data that ruin maximum likelihood


def three_points():
    return np.repeat([[0.0, 0.0], [1.0, 3.0], [5.0, 1.0]], 40, axis=0)


def constant_column():
    return small_data() * [1.0, 0.0] + [0.0, 7.0]


RUINOUS = {
    "three points": (three_points, 3),
    "more components than points": (three_points, 4),
    "constant": (constant_column, 3),
}


@pytest.mark.filterwarnings("ignore:.* components have no rows:jaxgmm.FitWarning")
@pytest.mark.parametrize("data", RUINOUS)
def test_prior_bounds_eigenvalues(family, data):
    """No covariance is less than the prior's mode for a component that owns every row: Psi0 over all its degrees."""
    make, k = RUINOUS[data]
    x = make()
    fit = fit_small(x, k, family=family)
    assert fit.status in (jg.Status.converged, jg.Status.max_steps)
    assert np.isfinite(fit.objective)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.gmm))
    scale = np.asarray(fit.prior.scale)
    least = np.linalg.eigvalsh(scale).min() if scale.ndim == 2 else scale.min()
    n, d = x.shape
    degrees = float(fit.prior.degrees_of_freedom) + d * (n + 1) + k + 2
    assert least > 0
    assert np.linalg.eigvalsh(np.asarray(fit.gmm.dense_covariances())).min() > least / degrees
    assert np.isfinite(fit.gmm.log_prob(x)).all()


@pytest.mark.parametrize("data", RUINOUS)
def test_maximum_likelihood_says_collapsed(family, data):
    make, k = RUINOUS[data]
    if (family, data) == ("spherical", "constant"):  # one variance for all columns: a constant one does not ruin it
        assert fit_small(make(), k, family=family, prior=None).converged
        return
    if data == "constant":  # no mixture of this family has a density there
        with pytest.raises(jg.FitError, match=r"collapsed at once.* prior='default'"):
            fit_small(make(), k, family=family, prior=None)
        return
    with pytest.warns(jg.FitWarning, match="collapsed"):
        fit = fit_small(make(), k, family=family, prior=None)
    assert fit.status is jg.Status.collapsed
    assert not fit.converged
    assert "prior='default'" in fit.status.meaning
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.gmm))


@pytest.mark.parametrize(
    ("family", "prior", "weighting"),
    [("full", "default", "rows"), ("full", "default", "shares"), ("full", "stronger", "rows"), ("tied", "default", "rows")],
)
def test_components_without_rows_say_so_and_win_none(family, prior, weighting):
    """Each row three times, and two components for each three: some have, more probably than not, no row."""
    x = np.repeat(small_data()[::2], 3, axis=0)
    weight = np.full(180, 1.0 if weighting == "rows" else 1 / 180)
    if prior == "stronger":
        prior = dataclasses.replace(jg.Prior.fraley_raftery(x, 120, family), concentration=np.float64(1.5))
    with pytest.warns(jg.FitWarning, match="components have no rows"):
        fit = fit_small(x, 120, family=family, prior=prior, sample_weight=weight, n_init=5)
    r = np.asarray(fit.gmm.responsibilities(x))
    np.testing.assert_allclose(fit.expected_rows, r.sum(0), atol=2e-3)
    assert fit.empty.any()
    assert (np.prod(1 - r, axis=0)[fit.empty] > 0.5 - 1e-3).all()  # what `empty` promises
    assert fit.log_likelihood == pytest.approx(fit.gmm.log_likelihood(x, weight), rel=1e-5)
    if prior == "default":
        far = 10.0 ** np.arange(2, 8)[:, None, None] * [[1, 0], [-1, 1], [0, -1]]
        assert not fit.empty[np.asarray(fit.gmm.predict(far.reshape(-1, 2)))].any()


def test_no_component_is_empty_that_has_a_row(family):
    x = np.concatenate([small_data(), [[12.0, 12.0]]])  # the last row is one component's own
    with warnings.catch_warnings(action="error"):
        fit = fit_small(x, 4, family=family)
    assert not fit.empty.any()
    assert fit.expected_rows.sum() == pytest.approx(121)


def test_one_outlier_gets_no_spike(family):
    x = small_data()
    x[0] = 60.0
    fit = fit_small(x, family=family)
    assert fit.status in (jg.Status.converged, jg.Status.max_steps)
    dense = np.asarray(fit.gmm.dense_covariances())
    # In units of the clusters' own variances, about 0.1 to 1, nothing is near zero.
    assert np.linalg.eigvalsh(dense).min() > 0.02


# Units


@pytest.mark.parametrize(("family", "prior"), [("full", "fraley-raftery"), ("full", None), ("tied", None)])
def test_affine_change_of_units(family, prior):
    """x -> A x + b changes means and covariances by just that, key and all."""
    x = small_data()
    a, b = np.array([[300.0, -20.0], [0.004, 0.01]]), np.array([1e4, -3.0])
    here = fit_small(x, family=family, prior=prior, rtol=1e-12)
    there = fit_small(x @ a.T + b, family=family, prior=prior, rtol=1e-12)
    unit = np.sqrt(np.diag(np.cov((x @ a.T).T)))
    expected = np.asarray(here.gmm.means) @ a.T + b
    order = nearest(expected / unit, there.gmm.means / unit)
    np.testing.assert_allclose(there.gmm.weights[order], here.gmm.weights, rtol=1e-6)
    np.testing.assert_allclose(there.gmm.means[order] / unit, expected / unit, atol=1e-6)
    moved = a @ np.asarray(here.gmm.dense_covariances()) @ a.T / np.outer(unit, unit)
    np.testing.assert_allclose(there.gmm.dense_covariances()[order] / np.outer(unit, unit), moved, atol=1e-6)
    if prior is None:
        log_det = np.log(abs(np.linalg.det(a)))
        assert there.log_likelihood == pytest.approx(here.log_likelihood - len(x) * log_det, rel=1e-8)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("family", "unit"), [("diag", [1e5, 1e-3]), ("spherical", [1e4, 1e4])])
def test_scale_of_units(family, unit, prior):
    x, unit = small_data(), np.array(unit)
    here = fit_small(x, family=family, prior=prior, rtol=1e-12)
    there = fit_small(x * unit, family=family, prior=prior, rtol=1e-12)
    order = nearest(here.gmm.means, there.gmm.means / unit)
    np.testing.assert_allclose(there.gmm.weights[order], here.gmm.weights, rtol=1e-6)
    np.testing.assert_allclose(there.gmm.means[order] / unit, here.gmm.means, atol=1e-6)
    dense = here.gmm.dense_covariances() * np.outer(unit, unit)
    np.testing.assert_allclose(there.gmm.dense_covariances()[order], dense, rtol=1e-6)


# Weights of rows, starts, and what is kept fixed


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_sample_weight_zero_is_an_absent_row(init):
    """Outliers of weight zero are neither seeds nor data, whatever the start."""
    x, weight = small_data(), np.ones(120)
    spoiled = x.copy()
    spoiled[::10], weight[::10] = 1e9, 0
    fit = fit_small(spoiled, sample_weight=weight, init=init)
    kept = weight > 0
    assert fit.converged
    assert np.abs(fit.gmm.means).max() < 10
    assert fit.log_likelihood == pytest.approx(fit.gmm.log_likelihood(x[kept]), rel=1e-10)
    np.testing.assert_allclose(fit.prior.mean, x[kept].mean(0), rtol=1e-9)
    again = fit_small(init=fit.gmm, sample_weight=weight, rtol=1e-12)
    assert again.objective == pytest.approx(fit.objective, abs=1e-3)


@pytest.mark.parametrize("prior", PRIORS)
def test_integer_weights_are_repeated_rows(prior):
    x = small_data()
    weight = np.random.default_rng(0).multinomial(120, np.full(120, 1 / 120))  # 120 rows either way: one compilation
    repeated = np.repeat(x, weight, axis=0)
    options = {"init": bad_start(), "prior": prior, "rtol": 1e-12}
    a, b = fit_small(sample_weight=weight, **options), fit_small(repeated, **options)
    assert a.objective == pytest.approx(b.objective, rel=1e-11)
    for mine, other in zip(jax.tree.leaves(a.gmm), jax.tree.leaves(b.gmm), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-7, atol=1e-8)


def test_start_from_labels_responsibilities_and_gmm():
    x, labels = small_data(), np.repeat([0, 1, 2], 40)
    groups = [x[labels == k] for k in range(3)]
    start = jg.GMM(np.full(3, 1 / 3), [g.mean(0) for g in groups], [np.cov(g.T, bias=True) for g in groups])
    fits = [fit_small(prior=None, init=init) for init in (labels, np.eye(3)[labels], start)]
    for fit in fits:
        assert fit.converged
        assert fit.trace[0] == pytest.approx(start.log_likelihood(x), rel=1e-10)
        assert fit.objective == pytest.approx(fits[0].objective, rel=1e-10)
        # Components stay in the order of the start.
        np.testing.assert_allclose(fit.gmm.means, start.means, atol=0.5)
    inferred = fit_small(x, None, init=labels, prior=None)
    assert inferred.gmm.n_components == 3
    assert inferred.objective == fits[0].objective


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("family", ["full", "spherical"])
def test_initialise(family, init):
    x = small_data()
    a, b, other = (jg.initialise(x, 3, key=jax.random.key(seed), init=init, family=family) for seed in (0, 0, 1))
    assert (a.n_components, a.n_features, a.family) == (3, 2, family)
    np.testing.assert_array_equal(a.means, b.means)
    assert not np.array_equal(a.means, other.means)
    assert float(a.weights.sum()) == pytest.approx(1)
    assert np.isfinite(a.log_prob(x)).all()
    # Components that start identical can never part.
    assert len(np.unique(np.asarray(a.means).round(9), axis=0)) == 3


def test_k_means_seeds_every_cluster():
    """Far clusters: k-means++ puts one seed in each, whatever the key."""
    x = small_data() * 0.01 + np.repeat([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], 40, axis=0)
    for seed in range(5):
        gmm = jg.initialise(x, 3, key=jax.random.key(seed))
        assert sorted(np.bincount(gmm.predict(x))) == [40, 40, 40]


FIXED = [
    ("full", ("means",)),
    ("full", ("weights",)),
    ("full", ("covariances",)),
    ("tied", ("weights", "means")),
    ("diag", ("means",)),
]


@pytest.mark.parametrize(("family", "fixed"), FIXED)
def test_fixed(family, fixed):
    """What is fixed is kept bit by bit, and the gradient in the rest vanishes."""
    x, start = small_data(), bad_start(family)
    fit = fit_small(x, init=start, family=family, fixed=fixed, prior="fraley-raftery", rtol=1e-13)
    assert fit.converged
    assert np.all(np.diff(fit.trace) >= -1e-9 * np.abs(fit.trace[1:]))
    for name in ("weights", "means", "covariances"):
        same = np.array_equal(getattr(fit.gmm, name), getattr(start, name))
        assert same == (name in fixed), name

    gmm = jax.tree.map(jnp.asarray, fit.gmm)
    gradient = jax.jit(jax.grad(lambda g: g.log_likelihood(x) + fit.prior.log_prob(g)))(gmm)
    effects = {
        "weights": (gradient.weights - gmm.weights @ gradient.weights) * gmm.weights,
        "means": gradient.means * x.std(0),
        "covariances": gradient.covariances * gmm.covariances,
    }
    for name in set(effects) - set(fixed):
        assert float(jnp.abs(effects[name]).max()) < 1e-5 * len(x), name


# Precision


@pytest.mark.default_precision
@pytest.mark.parametrize("family", ["full", "diag"])
def test_float32_far_from_the_origin(family):
    """sd 0.1 and 0.2 at offset 1000, in float32: variances within 1 % of the clusters' own (and of float64's)."""
    rng = np.random.default_rng(0)
    clusters = [1000 + 0.1 * rng.normal(size=(2000, 3)), 1002 + 0.2 * rng.normal(size=(2000, 3))]
    truth = np.array([c.var(axis=0) for c in clusters])
    x = np.concatenate(clusters).astype(np.float32)
    fit = jg.fit(x, 2, key=KEY, family=family, prior=None, n_init=2)
    assert {leaf.dtype for leaf in jax.tree.leaves(fit.gmm)} == {np.dtype(np.float64)}
    assert not jax.config.jax_enable_x64
    variances = np.diagonal(by_first_mean(fit.gmm)[2], axis1=1, axis2=2)
    np.testing.assert_allclose(variances, truth, rtol=0.01)


@pytest.mark.default_precision
@pytest.mark.parametrize(
    ("family", "prior"), [("full", "default"), ("tied", "default"), ("diag", None), ("spherical", "default")]
)
def test_float32_where_there_is_no_float64(monkeypatch, family, prior):
    """As on a GPU or TPU: the whitened engine in float32 throughout, against the float64 that a CPU computes in."""
    rng = np.random.default_rng(0)
    clusters = [1000 + 0.1 * rng.normal(size=(2000, 3)), 1002 + 0.2 * rng.normal(size=(2000, 3))]
    x = np.concatenate(clusters).astype(np.float32)
    on_cpu = jg.fit(x, 2, key=KEY, family=family, prior=prior, n_init=2)
    monkeypatch.setattr(precision, "platform", lambda x: "gpu")
    dtypes = []
    run = loop._advance
    monkeypatch.setattr(loop, "_advance", lambda *args: dtypes.append(args[0].point.means.dtype) or run(*args))
    elsewhere = jg.fit(x, 2, key=KEY, family=family, prior=prior, n_init=2, rtol=1e-6)
    assert set(dtypes) == {np.dtype(np.float32)}
    assert elsewhere.converged
    ours, theirs = by_first_mean(elsewhere.gmm), by_first_mean(on_cpu.gmm)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-3)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=0.01, atol=2e-4)
    assert elsewhere.log_likelihood / len(x) == pytest.approx(on_cpu.log_likelihood / len(x), rel=1e-4)


@pytest.mark.parametrize(("dtype", "library"), [(np.float16, np), (np.float32, np), (np.float32, jnp), (np.float64, jnp)])
def test_parameters_are_float64_whatever_the_rows_are(dtype, library):
    x = library.asarray(small_data().astype(dtype))
    fit = fit_small(x, init=bad_start(), prior=None)
    assert {leaf.dtype for leaf in jax.tree.leaves(fit.gmm)} == {np.dtype(np.float64)}
    assert fit.gmm.log_prob(x).dtype == np.promote_types(dtype, np.float32)
    expected = fit_small(np.asarray(x, float), init=bad_start(), prior=None)
    assert fit.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-4)


# What it costs, and where it runs


def test_second_call_compiles_nothing(compilations):
    """Other data, tolerance, step limit, prior, key, weights of rows, and K within the padding: the program stays."""
    jax.clear_caches()
    x, other_key = small_data(), jax.random.key(7)
    fit_small(x)
    assert "jit(_advance)" in compilations
    compilations.clear()
    prior = jg.Prior(2.0, np.zeros(2), 0.5, 6.0, np.eye(2), least_scale=1e-3)
    fit_small(x[::-1] + 5, rtol=1e-5)
    fit_small(x, max_steps=4500)
    fit_small(x, prior=prior)
    fit_small(x, sample_weight=np.arange(120.0))
    jg.fit(x, 3, key=other_key, n_init=20, max_steps=5000)
    assert not compilations
    # K within the same multiple of four: arrays to pad are new shapes, but the loop is the same program.
    fit_small(x, n_components=4)
    assert "jit(_advance)" not in compilations


def test_callback_reports_progress():
    seen = []
    fit = fit_small(callback=seen.append)
    assert seen
    assert all(isinstance(progress, jg.Progress) for progress in seen)
    last = seen[-1]
    assert last.n_starts == 20
    assert last.max_steps == 5000
    assert last.n_steps == max(fit.restarts.n_steps)
    assert last.objective == pytest.approx(fit.objective)
    assert fit.objective == fit_small().objective


def test_same_key_same_fit():
    a, b = fit_small(), fit_small()
    for mine, other in zip(jax.tree.leaves(a.gmm), jax.tree.leaves(b.gmm), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_one_by_one_is_all_at_once(monkeypatch):
    """Restarts of large data run in turn, with the keys they would have had in one batch."""
    together = fit_small()
    monkeypatch.setattr("jaxgmm.fitting.batch.TOGETHER", 0)
    in_turn = fit_small()
    np.testing.assert_allclose(in_turn.restarts.objective, together.restarts.objective, rtol=1e-10)
    assert in_turn.restarts.best == together.restarts.best
    np.testing.assert_allclose(in_turn.gmm.means, together.gmm.means, rtol=1e-8, atol=1e-9)


def test_one_component_is_the_sample(family):
    """K = 1, ML: the sample's own mean and covariance, after one step."""
    x = small_data()
    fit = fit_small(x, 1, family=family, prior=None)
    covariance = np.cov(x.T, bias=True)
    diagonal = np.diag(covariance)
    expected = {"diag": np.diag(diagonal), "spherical": diagonal.mean() * np.eye(2)}.get(family, covariance)
    np.testing.assert_allclose(fit.gmm.means[0], x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(fit.gmm.dense_covariances()[0], expected, rtol=1e-11)
    assert fit.restarts.replication == 20


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_cheap_and_names_resolve():
    """`import jaxgmm` loads no JAX; every public name then resolves on first use."""
    code = (
        "import sys, jaxgmm\n"
        "assert not {'jax', 'numpy', 'numpyro', 'arviz'} & set(sys.modules), 'heavy import'\n"
        "assert set(jaxgmm.__all__) <= set(dir(jaxgmm))\n"
        "for name in reversed(jaxgmm.__all__): getattr(jaxgmm, name)\n"
        "print(callable(jaxgmm.fit) and callable(jaxgmm.initialise))\n"
        "import jax\n"
        "print(jax.config.jax_enable_x64)\n"
    )
    assert run_python(code).split() == ["True", "False"]
    with pytest.raises(AttributeError, match="no_such_name"):
        jg.no_such_name  # noqa: B018


@pytest.mark.parametrize("data", MCLUST_DATA)
def test_reached_log_likelihoods_are_not_singular(data):
    """A likelihood above mclust's must not be a component that shrank onto a few rows."""
    fit = fit_real_data(data, "full", None)
    counts = np.asarray(fit.gmm.weights) * len(load_x(data))
    assert counts.min() > fit.gmm.n_features + 1


def test_concentrations_move_the_weights():
    """(N_k + alpha_k - 1) / (N + sum alpha - K) at the fixed point, with alpha_k of each component."""
    alpha = np.array([1.5, 20.0, 4.0])
    prior = jg.Prior(alpha, np.zeros(2), 0.5, 6.0, np.eye(2))
    fit = fit_small(init=bad_start(), prior=prior, rtol=1e-13)
    assert fit.converged
    counts = np.asarray(fit.gmm.responsibilities(small_data())).sum(0)
    np.testing.assert_allclose(fit.gmm.weights, (counts + alpha - 1) / (120 + alpha.sum() - 3), atol=1e-5)
