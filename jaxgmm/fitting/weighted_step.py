"""EM of many weightings of the same rows: a step in which each start has weights of its own."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxgmm.data import ArraySource
from jaxgmm.data.moments import rows_of_frequencies
from jaxgmm.fitting.em_step import EM, EMRules, Own, Ready
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.step import Search
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.types import on_host


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


def climb_weighted(
    starts: GMM,
    data: ArraySource,
    rules: EMRules,
    own: Own,
    weight: Float[np.ndarray, "R N"],
    max_steps: int,
    held: Held = FREE,
) -> Search[GMM]:
    """EM of R starts to their end, each with weights of its own for the rows, padded as the data are.

    Args:
        starts: every leaf (R, ...).
        data: the rows, on the device.
        rules: what all starts share.
        own: of each start.
        weight: whose rows add up to the total weight of the rules.
        max_steps: the most steps of a start.
        held: what of the starts stays.
    """
    weighted: PyTree = OwnWeights(own.prior, own.constant, own.active, on_host(weight))
    return climb(starts, data, rules._replace(own=weighted), max_steps, EMOfWeights(held), traced=False)


def resampled_weights(rng: np.random.Generator, weight: Float[np.ndarray, " N"], n: int) -> Float[np.ndarray, "n N"]:
    """How often each row is drawn, n times, of as many draws as the weights add up to, or as there are rows where these are
    frequencies.
    """
    total = weight.sum()
    size = max(1, round(total * rows_of_frequencies(float(total), int(np.count_nonzero(weight)))))
    return rng.multinomial(size, weight / total, size=n) * (total / size)
