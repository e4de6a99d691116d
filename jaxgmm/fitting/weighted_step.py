"""EM of many weightings of the same rows: a step in which each start has weights of its own."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, PyTree

from jaxgmm.fitting.em_step import EM, EMRules, Ready
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics


class OwnWeights(NamedTuple):
    """`Rules.own`: as `em_step.Own`, and the weights.

    Attributes:
        prior: every leaf (R, ...); None for maximum likelihood.
        constant: (R,), the prior's normaliser, in nats.
        active: (R, K), False for components that are padding.
        weight: (R, N), 0 for rows that are padding.
    """

    prior: Prior | None
    constant: Float[Array, " R"]
    active: Bool[Array, "R K"]
    weight: Float[Array, "R N"]


class EMOfWeights(EM):
    """EM's `Step`, which passes over the weights of the data by those in `rules.own`."""

    def sums(self, ready: Ready, x: Array, weight: Array, rules: EMRules, expanded: PyTree) -> Statistics:
        """The E-step of each start with its own weights."""
        own: PyTree = rules.own
        return self.engine.sums(ready.components, x, own.weight, rules.shared.centre, expanded)
