"""Components that can't matter to a block of rows are left out of its sums: nothing but time may tell."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAMILIES, random_member
from scipy.special import logsumexp

import jaxgmm as jg
from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource
from jaxgmm.data.alike import alike, order_of
from jaxgmm.fitting.em_step import EM, Own, Shared
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.pruned_step import pruned
from jaxgmm.fitting.squarem import Squarem
from jaxgmm.fitting.step import Rules
from jaxgmm.model.pruning import e_step_pruned, likely_shares, sizes

N, K, D = 2000, 40, 4
TRUNCATE = 1e-9


def drawn(separation=10.0, seed=0):
    """Rows of 40 components, and where to begin."""
    rng = np.random.default_rng(seed)
    means, roots = separation * rng.normal(size=(K, D)), rng.normal(size=(K, D, D)) / 4 + np.eye(D)
    labels = rng.integers(0, K, N)
    x = means[labels] + np.einsum("nij,nj->ni", roots[labels], rng.normal(size=(N, D)))
    return x, means + rng.normal(size=means.shape)


X, SEEDS = drawn()
START = jg.GMM(np.full(K, 1 / K), SEEDS, np.tile(4 * np.eye(D), (K, 1, 1)))


def fit(**options):
    return jg.fit(X, key=jax.random.key(0), **{"init": START, "rtol": 1e-10, "max_steps": 60} | options)


@pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"prior": None},
        {"prior": None, "acceleration": "squarem"},
        {"family": "diag", "init": "k-means++", "n_components": K, "n_init": 3},
    ],
)
def test_a_fit_is_the_fit_of_all_components(options):
    whole, some = fit(**options), fit(truncate=TRUNCATE, **options)
    assert some.status == whole.status
    assert some.n_steps == whole.n_steps
    assert some.restarts.status == whole.restarts.status
    np.testing.assert_allclose(some.restarts.objective, whole.restarts.objective, rtol=0, atol=TRUNCATE * N)
    np.testing.assert_allclose(some.trace, whole.trace, rtol=0, atol=TRUNCATE * N)
    np.testing.assert_allclose(some.gmm.means, whole.gmm.means, atol=1e-5)
    assert some.fingerprint == whole.fingerprint


def passes(n, step, truncate=TRUNCATE):
    """Searches after 0..n passes, from one start without a prior, of rows in the order of `alike`."""
    rows = alike(ArraySource(X, np.ones(N)), K)
    own = Own(None, np.zeros(1), np.ones((1, K), bool))
    rules = Rules(own, Shared(X.mean(0), np.zeros(D)), np.float64(N), np.float64(0.0))
    start = jax.tree.map(lambda leaf: np.asarray(leaf)[None], START)
    step = pruned(step, truncate, N)
    return rows, [climb(start, rows, rules, i, step) for i in range(n)]


def log_joint(gmm, x):
    """By scipy's formula, (N, K)."""
    off = x[:, None] - np.asarray(gmm.means)
    lower = np.linalg.cholesky(gmm.covariances)
    y = np.linalg.solve(lower[None], off[..., None])[..., 0]
    log_det = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(1)
    return np.log(gmm.weights) - log_det - D / 2 * np.log(2 * np.pi) - (y**2).sum(-1) / 2


@jax.jit
def shares_after(moved, before):
    return likely_shares(moved.components(), before)


@pytest.mark.parametrize("step", [EM(), Squarem()])
def test_bounds_hold_before_and_after_a_pass(step):
    rows, searches = passes(7, step)
    x = np.asarray(rows.x)
    for now, after in itertools.pairwise(searches):
        of_start = jax.tree.map(lambda leaf: np.asarray(leaf)[0], (now.point, now.statistics, after.point))
        gmm, before, moved = of_start
        joint = log_joint(gmm, x)
        density = logsumexp(joint, axis=1)
        shares = (joint - density[:, None]).reshape(len(before.densities), -1, K).max(1)
        assert (before.shares > shares - 1e-8).all()
        np.testing.assert_allclose(before.densities.ravel(), density, atol=2 * TRUNCATE)
        likely = np.asarray(shares_after(moved, before))
        seen = (log_joint(moved, x) - density[:, None]).reshape(*before.densities.shape, K).max(1)
        assert (likely > seen - 1e-8).all()
        kept = (likely >= np.log(TRUNCATE / K / 4)).sum(1)
    assert np.median(kept) <= sizes(K)[0]  # so that most blocks are summed for few components in the end


def test_blocks_whose_bound_fails_are_summed_for_all_components(monkeypatch):
    """Bounds that promise too much are found out by the rows' densities, which fall."""
    rows, searches = passes(4, EM())
    now = searches[-1]
    gmm, before = jax.tree.map(lambda leaf: np.asarray(leaf)[0], (now.point, now.statistics))
    far = jg.GMM.unchecked(gmm.weights, gmm.means + 3, gmm.covariances, "full")
    monkeypatch.setattr("jaxgmm.model.pruning.likely_shares", lambda components, before: before.shares)
    summed = jax.jit(lambda far, before: e_step_pruned(far.components(), rows.x, rows.weight, X.mean(0), before, TRUNCATE))
    found = summed(far, before)
    exact = jg.e_step(far, X)
    np.testing.assert_allclose(found.log_likelihood, exact.log_likelihood, rtol=1e-9)


@pytest.mark.parametrize("family", [name for name in FAMILIES if not get_family(name).structure.pooled])
def test_stretch_is_the_norm_of_what_changed(family):
    """|W'L| by a singular value decomposition; at most 2^(1/2) D^(1/16) more, and next to none where little did."""
    kind = get_family(family)
    a, b = random_member(family, 5, 6, seed=1), random_member(family, 5, 6, seed=2)
    near = jax.tree.map(lambda p, q: 0.999 * p + 0.001 * q, a.covariances, b.covariances)
    for after, slack in ((b.covariances, 2.0), (near, 1.01)):
        old, new = (kind.factor(jnp.asarray(covariances), 6) for covariances in (a.covariances, after))
        dense = [np.asarray(kind.dense(jnp.asarray(covariances), 5, 6)) for covariances in (a.covariances, after)]
        lower = [np.linalg.cholesky(matrix) for matrix in dense]
        norm = np.linalg.norm(np.linalg.solve(lower[0], lower[1]), ord=2, axis=(1, 2))
        stretch = np.asarray(kind.structure.stretch(old, new))
        assert (stretch > norm * (1 - 1e-12)).all()
        assert (np.maximum(stretch, 1) < slack * np.maximum(norm, 1)).all()


def test_neighbours_are_alike_and_rows_without_weight_last():
    weight = (np.arange(N) % 10 > 0).astype(float)
    order = order_of(ArraySource(X, weight), K)
    np.testing.assert_array_equal(np.sort(order), np.arange(N))
    assert (weight[order[:1800]] == 1).all()
    blocks = X[order[:1792]].reshape(-1, 128, D)
    assert blocks.var(1).sum() < 0.5 * X.var(0).sum() * len(blocks)


def test_numbers_of_components_to_sum_for():
    assert [sizes(k) for k in (5, 40, 500)] == [[], [16], [16, 32, 64, 128]]
