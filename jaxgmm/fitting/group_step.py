"""EM of many data sets at once: a step in which each start has rows of its own."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgmm.fitting.em_step import EM, EMRules, Ready
from jaxgmm.fitting.seeds import seeds_of
from jaxgmm.fitting.starts import grouped_start
from jaxgmm.fitting.step import Rules, Search
from jaxgmm.model.density import Components
from jaxgmm.model.engines import e_step_whitened
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_normaliser
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.special import log_gamma
from jaxgmm.tools.types import Numbers

_BLOCKS = 8  # of which rows are summed in, as many as the longest of the groups has rows in


class OwnRows(NamedTuple):
    """`Rules.own`: as `em_step.Own`, and the rows.

    Attributes:
        prior: every leaf (R, ...); None for maximum likelihood.
        constant: (R,), the prior's normaliser, in nats.
        active: (R, K), False for components that are padding.
        x: (R, L, D), padded.
        weight: (R, L), 0 for the padding.
        centre: (R, D), what rows are shifted by.
        floor: (R, p), smallest pivots that aren't rounding; used without a prior.
    """

    prior: Prior | None
    constant: Float[Array, " R"]
    active: Bool[Array, "R K"]
    x: Float[Array, "R L D"]
    weight: Float[Array, "R L"]
    centre: Float[Array, "R D"]
    floor: Float[Array, "R p"]


type GroupRules = Rules[OwnRows, Int[Array, ""]]  # shared: the rows of the longest group


@pytree(static=())
@dataclass(frozen=True)
class NoRows:
    """The source of the rows that starts share: there are none.

    Attributes:
        nothing: (0,).
        n_samples: rows of a start, by which work is reckoned.
    """

    nothing: Float[Array, "0"]
    n_samples: Numbers | int = 0
    traceable: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    def reduce(self, f: Any) -> Any:
        """`f` of no rows: it has those of each start."""
        return f(self.nothing, self.nothing)

    def whole(self, f: Any) -> Any:
        """`f` of no rows."""
        return f(self.nothing)


@dataclass(frozen=True)
class EMOfGroups(EM):
    """EM whose rows are in `rules.own`. Groups are small, so it always whitens, which no offset or unit can spoil."""

    def expand(self, search: Search[GMM], x: Array, rules: GroupRules) -> None:  # type: ignore[override]
        """Nothing."""

    def floor(self, rules: GroupRules) -> Float[Array, "R 1 p"]:  # type: ignore[override]
        """Of each group."""
        return rules.own.floor[:, None]

    def log_widths(self, rules: EMRules | GroupRules) -> None:
        """Without noise."""

    def suits(self, ready: Ready, rules: EMRules | GroupRules, counted: Array) -> Bool[Array, ""]:
        """Always."""
        return jnp.ones((), bool)

    def sums(self, ready: Ready, x: Array, weight: Array, rules: EMRules | GroupRules, expanded: PyTree) -> Statistics:
        """The E-step of each start on its own rows."""
        own: Any = rules.own
        block_size = max(1, own.x.shape[1] // _BLOCKS)

        def one(components: Components, rows: Array, w: Array, centre: Array) -> Statistics:
            return e_step_whitened(components, rows, w, centre, block_size, rules.shared)  # type: ignore[arg-type]

        return jax.vmap(one)(ready.components, own.x, own.weight, own.centre)


@jax.jit
def constants_of(priors: Prior, active: Bool[Array, "R K"]) -> Float[Array, " R"]:
    """The normaliser of each prior, in nats."""
    return jax.vmap(lambda prior, own: log_normaliser(prior, own, jnp, log_gamma))(priors, active)


@functools.partial(jax.jit, static_argnames=("init", "family"))
def seeded_groups(
    uniforms: Float[Array, "R K"],
    scales: Float[Array, "R D"],
    n_components: Int[Array, " R"],
    own: OwnRows,
    init: str,
    family: str,
) -> GMM:
    """A start for each, from seeds among its own rows; as `starts.seeded_starts`."""

    def start(u: Array, scale: Array, n: Array, own: OwnRows) -> GMM:
        def squared_distance(row: Array, _: Array) -> Array:
            return (((own.x - own.x[row]) / scale) ** 2).sum(1)

        seeds, labels, _ = seeds_of(u, squared_distance, own.weight, n, init)
        return grouped_start(own.x, own.weight, labels, own.x[seeds], own.centre, n, family, own.prior)

    return jax.vmap(start)(uniforms, scales, n_components, own)
