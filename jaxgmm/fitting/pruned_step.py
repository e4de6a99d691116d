"""EM of many components, of which few matter to a row: a step whose sums leave components out where bounds allow it."""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree

from jaxgmm.data.padding import padded_length
from jaxgmm.fitting.em_step import EM, EMRules, Ready
from jaxgmm.fitting.squarem import Squarem
from jaxgmm.fitting.step import Search
from jaxgmm.model.mixture import GMM
from jaxgmm.model.pruning import Bounded, e_step_pruned, nothing_known, with_bounds
from jaxgmm.model.statistics import Statistics


@dataclass(frozen=True)
class Pruned(EM):
    """EM's `Step`, whose statistics are `Bounded`: a pass goes on from the bounds of the last one that was accepted.

    Attributes:
        truncate: share of a row's density that is left out, at most.
        n_samples: rows, padded.
    """

    truncate: float = 0.0
    n_samples: int = 0

    def begin(self, starts: GMM) -> tuple[Statistics, PyTree[Array]]:
        """Nothing is known of who matters to whom."""
        statistics, memory = super().begin(starts)
        return nothing_known(statistics, starts, self.n_samples), memory

    def expand(self, search: Search[GMM], x: Array, rules: EMRules) -> None:
        """Nothing."""

    def ready(self, search: Search[GMM], point: GMM, rules: EMRules) -> tuple[Ready, Bool[Array, " R"]]:
        """The components, and the last pass."""
        ready, singular = super().ready(search, point, rules)
        return ready._replace(before=search.statistics), singular

    def sums(self, ready: Ready, x: Array, weight: Array, rules: EMRules, expanded: Array | None) -> Statistics:
        """The E-step, of one start after the other: they leave out different components. A sturdy engine sums all of them."""
        components, before, centre = ready.components, ready.before, rules.shared.centre
        assert isinstance(before, Bounded)  # as this step is ready
        if self.engine.sturdy:
            unknown = jnp.full_like(before.shares, jnp.inf), jnp.zeros_like(before.densities)
            return with_bounds(super().sums(ready, x, weight, rules, expanded), *unknown, components)
        return lax.map(lambda own: e_step_pruned(own[0], x, weight, centre, own[1], self.truncate), (components, before))


class PrunedSquarem(Pruned, Squarem):
    """SQUAREM's, whose extrapolations go on from the bounds of the last accepted pass, too."""


def pruned(step: EM, truncate: float, n_samples: int) -> Pruned:
    """The step, EM's or SQUAREM's, that leaves components out, for so many rows before they are padded."""
    own = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    kind = PrunedSquarem if isinstance(step, Squarem) else Pruned
    return kind(**own, truncate=truncate, n_samples=padded_length(n_samples))
