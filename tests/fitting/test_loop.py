"""The one loop with its two drivers: rows in memory, and rows that come in pieces."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import load_x
from jax.scipy.special import logsumexp

import jaxgmm as jg
from jaxgmm.data import ArraySource, Pieces
from jaxgmm.fitting import loop, squarem, starts
from jaxgmm.fitting.em_step import EM, Own, Shared
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.squarem import Squarem
from jaxgmm.fitting.step import Rules
from jaxgmm.model.engines import COMPLETE, STURDY, Engine
from jaxgmm.model.statistics import Statistics


@pytest.mark.parametrize("step", [EM(), EM(stopping="aitken"), Squarem()])
def test_rows_in_pieces_give_the_search_of_rows_in_memory(step):
    x = load_x("faithful")
    seeds = np.stack([x[[0, 1]], x[[3, 20]], x[[5, 100]]])
    weights, covariances = np.full((3, 2), 0.5), np.broadcast_to(np.cov(x.T), (3, 2, 2, 2)).copy()
    starts = jg.GMM.unchecked(weights, seeds, covariances, "full")
    own = Own(None, np.zeros(3), np.ones((3, 2), bool))
    rules = Rules(own, Shared(x.mean(0), np.zeros(2)), np.float64(len(x)), np.float64(1e-9))
    whole = climb(starts, ArraySource(x, np.ones(len(x))), rules, 300, step)
    reports = []
    pieces = climb(starts, Pieces(lambda: iter(np.split(x, [100, 200]))), rules, 300, step, reports.append)
    assert reports
    np.testing.assert_array_equal(pieces.status, whole.status)
    np.testing.assert_allclose(pieces.objective, whole.objective, rtol=1e-10)
    np.testing.assert_allclose(pieces.point.means, whole.point.means, rtol=1e-5)
    np.testing.assert_allclose(pieces.trace[:, :20], whole.trace[:, :20], rtol=1e-9)


@pytest.mark.parametrize(("family", "init"), [("full", "k-means++"), ("tied", "random"), ("spherical", "k-means++")])
def test_starts_of_few_rows_are_those_of_the_compiled_program(family, init, monkeypatch):
    """Weighted rows, some of them twice, and fewer of them than seeds that are asked for."""
    x = load_x("faithful")[[*range(40), *range(9)]]
    weight = np.arange(49) % 3.0
    for rows, w, k in ((x, weight, 4), (x[:2], None, 2)):
        options = {"key": jax.random.key(k), "family": family, "init": init, "sample_weight": w}
        options |= {"prior": jg.Prior.default(x, k, family)}
        with monkeypatch.context() as patched:
            patched.setattr(starts, "seeded_starts", None)  # not called
            few = jg.initialise(rows, k, **options)
        with monkeypatch.context() as patched:
            patched.setattr(starts, "_NUMBERS_ON_HOST", 0)
            many = jg.initialise(rows, k, **options)
        for ours, theirs in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11)


@pytest.mark.parametrize("shape", [(2, 2), ()])  # covariances of components of their own, and of all of them
def test_components_without_weight_have_no_say_in_how_far_squarem_goes(shape):

    def iterate(step, padded):
        """Weights, means and covariances that creep, in one start, beside a third component far away."""
        weights = np.array([0.3, 0.7]) + np.array([0.1, -0.1]) * 0.5**step
        means = np.array([[0.0, 1.0], [4.0, 2.0]]) + 0.7**step
        covariances = np.broadcast_to(np.eye(2) * (2 + 0.8**step), (*shape[:1], 2, 2))
        if padded:
            weights, means = np.append(weights, 0), np.concatenate([means, [[1e4, 1e4]]])
            covariances = np.concatenate([covariances, 1e6 * np.eye(2)[None]]) if shape else covariances
        return jg.GMM.unchecked(weights[None], means[None], covariances[None], "full" if shape else "tied")

    reach = np.array([100.0])
    (far, length), (padded, same) = (squarem.extrapolate(*(iterate(i, p) for i in range(3)), reach) for p in (False, True))
    assert 1 < float(length[0]) < 100
    assert float(same[0]) == pytest.approx(float(length[0]), rel=1e-14)
    np.testing.assert_allclose(padded.means[:, :2], far.means, rtol=1e-14)


def test_a_search_that_is_reported_on_is_the_same_search(monkeypatch):
    """Starts stop at different steps: none may take another's place."""
    x, reports = load_x("faithful"), []
    once = jg.fit(x, 3, key=jax.random.key(0), n_init=5)
    monkeypatch.setattr(loop, "_FLOPS_BETWEEN_REPORTS", 1.0)
    often = jg.fit(x, 3, key=jax.random.key(0), n_init=5, callback=reports.append)
    assert len(reports) > 20
    assert often.restarts.status == once.restarts.status
    np.testing.assert_array_equal(often.restarts.n_steps, once.restarts.n_steps)
    np.testing.assert_allclose(often.restarts.objective, once.restarts.objective, rtol=1e-12)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_points_that_an_engine_does_not_suit_are_summed_for_by_one_that_does(in_pieces):
    """A thin component, 1e5 of its sds away from the mean: moments would lose its digits."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(300, 1)), 3 + 1e-5 * rng.normal(size=(40, 1))])
    start = jg.GMM.unchecked(np.full((2, 2), 0.5), np.array([[[0.0], [3]], [[1], [2]]]), np.ones((2, 2)), "spherical")
    own = Own(None, np.zeros(2), np.ones((2, 2), bool))
    rules = Rules(own, Shared(x.mean(0), np.zeros(1)), np.float64(len(x)), np.float64(1e-10))
    rows = Pieces(lambda: iter(np.split(x, [100, 200]))) if in_pieces else ArraySource(x, np.ones(len(x)))
    mixed, sturdy = (climb(start, rows, rules, 500, step) for step in (EM(), EM().sturdier()))
    assert STURDY.suits(*at(mixed, x))
    assert not COMPLETE.suits(*at(mixed, x))
    np.testing.assert_array_equal(mixed.status, sturdy.status)
    np.testing.assert_allclose(mixed.n_steps, sturdy.n_steps, atol=1)
    np.testing.assert_allclose(mixed.objective, sturdy.objective, rtol=1e-9)
    np.testing.assert_allclose(mixed.point.covariances, sturdy.point.covariances, rtol=1e-6)


def at(search, x):
    """What an engine is asked about the end of a search."""
    with jax.enable_x64(True):
        return jax.vmap(jg.GMM.components)(search.point), jnp.asarray(x.mean(0)), jnp.ones(len(search.status), bool)


@dataclass(frozen=True)
class Gaps(Engine):
    """An observation pattern: rows of which some entries are missing (NaN), for families of variances."""

    def expand(self, structure, shape, x, centre):
        return None

    def log_joint(self, components, x):
        y = (jnp.where(jnp.isnan(x), 0, x)[:, None] - components.means) * components.factor.whitener
        of_entries = jnp.log(components.factor.whitener) - (jnp.log(2 * jnp.pi) + y**2) / 2
        return jnp.log(components.weights) + jnp.where(jnp.isnan(x)[:, None], 0, of_entries).sum(-1)

    def sums(self, components, x, weight, centre, expanded=None):
        def of_start(c):
            joint, missing = self.log_joint(c, x), jnp.isnan(x)[:, None]
            r = weight[:, None] * jax.nn.softmax(joint, axis=-1)
            z = jnp.where(missing, 0, x[:, None] - c.means)  # a missing entry is expected at the mean ...
            squares = z**2 + jnp.where(missing, 1 / c.factor.whitener**2, 0)  # ... and varies about it
            counts, sums, scatter = r.sum(0), jnp.einsum("nk,nkd->kd", r, z), jnp.einsum("nk,nkd->kd", r, squares)
            return Statistics(counts, sums, scatter, c.means, weight @ logsumexp(joint, axis=-1), weight.sum())

        return jax.vmap(of_start)(components)


def log_likelihood_of_what_is_seen(leaves, x):
    """By the formula."""
    weights, means, variances = leaves
    z = (jnp.nan_to_num(x)[:, None] - means) ** 2 / variances + jnp.log(2 * jnp.pi * variances)
    return logsumexp(jnp.log(weights / weights.sum()) - jnp.where(jnp.isnan(x)[:, None], 0, z).sum(-1) / 2, axis=-1).sum()


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_an_observation_pattern_is_an_engine(share):
    x = load_x("iris")
    x = np.where(np.random.default_rng(0).random(x.shape) < share, np.nan, x)
    means = x[None, [10, 60, 110]]
    means = np.where(np.isnan(means), np.nanmean(x, 0), means)
    variances = np.broadcast_to(np.nanvar(x, 0), (1, 3, 4)).copy()
    starts = jg.GMM.unchecked(np.full((1, 3), 1 / 3), means, variances, "diag")
    own = Own(None, np.zeros(1), np.ones((1, 3), bool))
    rules = Rules(own, Shared(np.nanmean(x, 0), np.zeros(4)), np.float64(len(x)), np.float64(1e-13))
    found = climb(starts, ArraySource(x, np.ones(len(x))), rules, 3000, EM(engine=Gaps()))
    assert found.status[0] == jg.Status.converged
    assert (np.diff(found.trace[0, : found.n_steps[0] + 1]) > -1e-9).all()
    leaves = tuple(leaf[0] for leaf in jax.tree.leaves(found.point))
    value, gradient = jax.jit(jax.value_and_grad(log_likelihood_of_what_is_seen))(leaves, x)
    assert found.objective[0] == pytest.approx(float(value), rel=1e-12)
    assert max(abs(g * leaf).max() for g, leaf in zip(gradient, leaves, strict=True)) < 1e-3
    if share == 0:
        whole = climb(starts, ArraySource(x, np.ones(len(x))), rules, 3000, EM())
        np.testing.assert_allclose(found.trace[0, :30], whole.trace[0, :30], rtol=1e-12)
