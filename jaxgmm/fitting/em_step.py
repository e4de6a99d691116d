"""The step of EM and MAP-EM (Dempster, Laird & Rubin 1977): the M-step proposes, the E-step says what that is worth."""

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxgmm.covariance import Factor, Family, get_family
from jaxgmm.fitting.step import Proposal, Rules, Search
from jaxgmm.model.density import WITHOUT_ROWS, Components, Uniform
from jaxgmm.model.engines import COMPLETE, Engine
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_kernel_and_scale
from jaxgmm.model.random_scale import given
from jaxgmm.model.statistics import Statistics
from jaxgmm.model.steps import maximise
from jaxgmm.tools.types import on_host


class Own(NamedTuple):
    """`Rules.own`.

    Attributes:
        prior: every leaf (R, ...), concentration (R, K); None for maximum likelihood.
        constant: (R,), the prior's normaliser, in nats.
        active: (R, K), False for components that are padding.
    """

    prior: Prior | None
    constant: Float[Array, " R"]
    active: Bool[Array, "R K"]


class Shared(NamedTuple):
    """`Rules.shared`.

    Attributes:
        centre: (D,), what rows are shifted by: the mean of the data.
        floor: smallest pivots that aren't rounding, by structure; used without a prior.
        log_widths: (D,), of the box over which noise is uniform; None without. With noise, the weights of a point add up to
            the share of the rows that aren't, on which the prior of the weights has no say.
    """

    centre: Float[Array, " D"]
    floor: Float[Array, "..."]
    log_widths: Float[Array, " D"] | None = None


class Ready(NamedTuple):
    """What sums over rows, and the judgement of them, need of mixtures.

    Attributes:
        components: (R, ...).
        log_prior: (R,), up to the normaliser; None for maximum likelihood.
        scale: (R,), E[s | mixture], by which the next M-step's prior is multiplied; None without a random scale.
        before: what the last accepted pass found, where sums go on from it.
    """

    components: Components
    log_prior: Float[Array, " R"] | None
    scale: Float[Array, " R"] | None
    before: Statistics | None = None


type EMRules = Rules[Own, Shared]


@dataclass(frozen=True)
class EM:
    """A `Step` whose points are mixtures.

    Attributes:
        fixed: what stays as it is.
        stopping: "relative" or "aitken".
        engine: how rows are summed over, by how they were observed.
    """

    fixed: Held = FREE
    stopping: str = "relative"
    engine: Engine = COMPLETE

    def begin(self, starts: GMM) -> tuple[Statistics, PyTree[Array]]:
        """Statistics of nothing; what is remembered is the prior's random scale."""
        n_starts, n_components, n_features = starts.means.shape
        scatter_shape = get_family(starts.family).structure.scatter_shape(n_components, n_features)
        shapes = (n_components,), (n_components, n_features), scatter_shape, (n_components, n_features), (), ()
        zeros = (np.zeros((n_starts, *shape), starts.means.dtype) for shape in shapes)
        return Statistics(*map(on_host, zeros)), on_host(np.ones(n_starts, starts.means.dtype))

    def expand(self, search: Search[GMM], x: Array, rules: EMRules) -> Array | None:
        """The expanded rows, where they fit in one block."""
        structure = get_family(search.point.family).structure
        return self.engine.expand(structure, search.point.means.shape, x, rules.shared.centre)

    def propose(self, search: Search[GMM], rules: EMRules) -> Proposal[GMM]:
        """The M-step, with the prior given what the mixture says of its scale."""
        prior = rules.own.prior
        if prior is not None and prior.least_scale is not None:
            prior = jax.vmap(given)(prior, self.scale(search.memory))
        refit = jax.vmap(lambda s, g, own, active: maximise(s, g, own, active, self.fixed))
        point, statistics, noisy = search.point, search.statistics, self.log_widths(rules) is not None
        if noisy and self.fixed.weights:  # they are held beside the noise
            point = with_share(point, jnp.ones(point.weights.shape[0], point.weights.dtype))
        point = refit(statistics, point, prior, rules.own.active)
        if noisy:
            share = statistics.counts.sum(1) / jnp.where(statistics.total_weight > 0, statistics.total_weight, 1)
            point = with_share(point, jnp.minimum(share, 1))
        return Proposal(point)

    def scale(self, memory: PyTree[Array]) -> Float[Array, " R"]:
        """E[s | mixture] at the last accepted point."""
        return memory

    def ready(self, search: Search[GMM], point: GMM, rules: EMRules) -> tuple[Ready, Bool[Array, " R"]]:
        """The components, factored, and which of the mixtures are singular."""
        kind, own, log_widths = get_family(point.family), rules.own, self.log_widths(rules)
        factor = jax.vmap(GMM.factored)(point)
        floor = 0 if own.prior is not None else self.floor(rules)
        singular = _singular(point, factor, floor, own.active, kind)
        components = jax.vmap(GMM.components)(point, factor)
        if log_widths is not None:
            rest, eps = 1 - point.weights.sum(1), jnp.finfo(point.weights.dtype).eps
            singular |= rest < -10 * eps * point.n_components  # more than all: extrapolated too far
            shared = jnp.broadcast_to(log_widths, (rest.size, log_widths.size))
            components = dataclasses.replace(components, noise=Uniform(jnp.log(jnp.maximum(rest, WITHOUT_ROWS)), shared))
            point = with_share(point, jnp.ones_like(rest))
        if own.prior is None:
            return Ready(components, None, None), singular
        return Ready(components, *jax.vmap(log_kernel_and_scale)(own.prior, point, factor, own.active)), singular

    def floor(self, rules: EMRules) -> Float[Array, "..."]:
        """Smallest pivots that aren't rounding, without a prior: (p,), or (R, 1, p)."""
        return rules.shared.floor

    def log_widths(self, rules: EMRules) -> Float[Array, " D"] | None:
        """Of the box of the noise, or None."""
        return rules.shared.log_widths

    def suits(self, ready: Ready, rules: EMRules, counted: Bool[Array, " R"]) -> Bool[Array, ""]:
        """Whether the engine keeps their digits."""
        return self.engine.suits(ready.components, rules.shared.centre, counted)

    def sturdier(self) -> Self:
        """With the engine that does."""
        return dataclasses.replace(self, engine=dataclasses.replace(self.engine, sturdy=True))

    def sums(self, ready: Ready, x: Array, weight: Array, rules: EMRules, expanded: Array | None) -> Statistics:
        """The E-step."""
        return self.engine.sums(ready.components, x, weight, rules.shared.centre, expanded)

    def accounted(self, statistics: Statistics, rules: EMRules) -> Float[Array, " R"]:
        """By the responsibilities; with noise, by the rows' weights."""
        counts = statistics.counts.sum(1)
        return counts if self.log_widths(rules) is None else jnp.maximum(counts, statistics.total_weight)

    def judge(
        self, point: GMM, ready: Ready, statistics: Statistics, rules: EMRules
    ) -> tuple[Float[Array, " R"], Bool[Array, " R"] | bool]:
        """Log-likelihood, plus the prior's log density; without a prior, components need rows, but for covariances held."""
        objective, own = statistics.log_likelihood, rules.own
        if ready.log_prior is not None:
            return objective + ready.log_prior + own.constant, False
        least = 10 * jnp.finfo(objective.dtype).eps * rules.total_weight[..., None]
        need = own.active & ~self.fixed.mask("covariances", own.active.shape[1]) if self.fixed.covariances else own.active
        return objective, (need & ~(statistics.counts > least)).any(1)

    def remember(self, search: Search[GMM], proposal: Proposal[GMM], ready: Ready, accepted: Array) -> PyTree[Array]:
        """The scale."""
        old = self.scale(search.memory)
        return old if ready.scale is None else jnp.where(accepted, ready.scale, old)


def with_share(point: GMM, share: Float[Array, " R"]) -> GMM:
    """With weights that add up to this."""
    weights = share[:, None] * point.weights / point.weights.sum(-1, keepdims=True)
    return GMM.unchecked(weights, point.means, point.covariances, point.family)


def _singular(
    gmm: GMM, factor: Factor, floor: Float[Array, "..."] | int, active: Bool[Array, "R K"], kind: Family
) -> Bool[Array, " R"]:
    """Starts whose parameters can't be used: covariances not positive definite or, without a prior, flat to rounding."""
    pivots = jax.vmap(kind.structure.pivots)(factor)
    per_component = pivots.reshape(pivots.shape[0], -1, pivots.shape[-1])  # one axis of length one where components share
    singular = (~(per_component > floor) & active[:, :, None]).any((1, 2))
    return singular | (gmm.weights < 0).any(1) | ~jnp.isfinite(gmm.means).all((1, 2))
