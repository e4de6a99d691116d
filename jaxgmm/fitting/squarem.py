"""SQUAREM (Varadhan & Roland 2008): after two plain steps, one far ahead along what they have in common."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgmm.covariance import get_family
from jaxgmm.fitting.em_step import EM, EMRules, Ready
from jaxgmm.fitting.loop import choose
from jaxgmm.fitting.step import Proposal, Search
from jaxgmm.model.mixture import GMM
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.types import on_host

_REACH = 4.0  # first limit of the step length, and the factor by which it grows where it binds
_PLAIN_STEPS = 2  # between extrapolations; the first settles, both make the differences


class Memory(NamedTuple):
    """Of each start.

    Attributes:
        phase: plain steps since the last extrapolation.
        anchor: the mixture before the last plain step.
        reach: the longest step allowed; shrinks where an extrapolation fails.
        scale: the prior's, as EM remembers it.
    """

    phase: Int[Array, " R"]
    anchor: GMM
    reach: Float[Array, " R"]
    scale: Float[Array, " R"]


class Squarem(EM):
    """EM's `Step`, accelerated."""

    def begin(self, starts: GMM) -> tuple[Statistics, PyTree[Array]]:
        """No steps yet."""
        n_starts = starts.means.shape[0]
        phase, reach = np.zeros(n_starts, np.int32), np.full(n_starts, _REACH, starts.means.dtype)
        statistics, scale = super().begin(starts)
        return statistics, Memory(on_host(phase), starts, on_host(reach), scale)

    def scale(self, memory: Memory) -> Float[Array, " R"]:
        """As EM remembers it."""
        return memory.scale

    def propose(self, search: Search[GMM], rules: EMRules) -> Proposal[GMM]:
        """A plain step or, where it is time, an extrapolation: a trial."""
        plain, memory = super().propose(search, rules), search.memory
        extrapolated = memory.phase == _PLAIN_STEPS
        far, length = extrapolate(memory.anchor, search.point, plain.point, memory.reach)
        if not self.fixed.whole("covariances"):  # of families that aren't separate none is, then
            far = jax.vmap(_within_family)(far, search.point.weights)
        return Proposal(choose(extrapolated, far, plain.point), extrapolated, length)

    def remember(self, search: Search[GMM], proposal: Proposal[GMM], ready: Ready, accepted: Array) -> PyTree[Array]:
        """Extrapolations may reach farther where they were held back and went well, and less far where they failed."""
        memory: Memory = search.memory
        trial, length = proposal.trial, proposal.length
        assert trial is not None  # as this step proposes
        assert length is not None
        farther = jnp.where(length >= memory.reach, _REACH * memory.reach, memory.reach)
        return Memory(
            phase=jnp.where(trial | (search.n_steps < 0), 0, memory.phase + 1),
            anchor=choose(trial, memory.anchor, search.point),
            reach=jnp.where(trial, jnp.where(accepted, farther, jnp.maximum(1, length / 2)), memory.reach),
            scale=super().remember(search, proposal, ready, accepted),
        )


def extrapolate(before: GMM, now: GMM, after: GMM, reach: Float[Array, " R"]) -> tuple[GMM, Float[Array, " R"]]:
    """SQUAREM's step from three successive EM iterates, before + 2 a r + a^2 v with a = |r| / |v| in [1, reach]; and a.

    Components without weight never move, and have no say in how far the others go.
    """
    r = jax.tree.map(jnp.subtract, now, before)
    v = jax.tree.map(lambda c, b, d: c - b - d, after, now, r)
    tiny = jnp.finfo(now.means.dtype).tiny
    pooled = get_family(now.family).structure.pooled
    active = now.weights > 0
    sizes = GMM.unchecked(
        now.weights, _of(active, now.means), now.covariances if pooled else _of(active, now.covariances), now.family
    )

    def squared_norm(change: GMM) -> Float[Array, " R"]:
        """Each leaf in units of its own size, so that units of the data don't matter much."""
        parts = jax.tree.map(lambda d, b: _squares(d) / (_squares(b) + tiny), change, sizes)
        return jnp.sum(jnp.stack(jax.tree.leaves(parts)), axis=0)

    a = jnp.sqrt(squared_norm(r) / (squared_norm(v) + tiny))
    a = jnp.clip(a, 1, reach)

    def leaf(b: Array, dr: Array, dv: Array) -> Array:
        along = a.reshape(a.shape + (1,) * (b.ndim - 1))
        return b + 2 * along * dr + along**2 * dv

    return jax.tree.map(leaf, before, r, v), a


def _within_family(gmm: GMM, weights: Float[Array, " K"]) -> GMM:
    """The mixture itself, or the nearest whose covariances share what its family says."""
    covariances = get_family(gmm.family).nearest(gmm.covariances, weights, gmm.n_features)
    return GMM.unchecked(gmm.weights, gmm.means, covariances, gmm.family)


def _of(active: Bool[Array, "R K"], leaf: Array) -> Array:
    return jnp.where(active.reshape(active.shape + (1,) * (leaf.ndim - 2)), leaf, 0)


def _squares(leaf: Array) -> Float[Array, " R"]:
    return (leaf.reshape(leaf.shape[0], -1) ** 2).sum(1)
