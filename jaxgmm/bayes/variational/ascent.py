"""Coordinate ascent of the evidence bound, as a step of the one loop."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from jaxgmm.bayes.priors.conjugate import Conjugate, posterior_given
from jaxgmm.bayes.variational.expectations import Expected, expect, scale_terms
from jaxgmm.bayes.variational.weight_priors import WEIGHT_PRIORS
from jaxgmm.covariance import get_family
from jaxgmm.data import Source
from jaxgmm.data.moments import Moments
from jaxgmm.data.observed import Observed
from jaxgmm.data.source import total
from jaxgmm.fitting.batch import as_dtype
from jaxgmm.fitting.step import Proposal, Rules, Search
from jaxgmm.model import random_scale
from jaxgmm.model.engines import COMPLETE, STURDY, Engine
from jaxgmm.model.mixture import GMM
from jaxgmm.model.observing import OBSERVING
from jaxgmm.model.prior import Prior, scale_power
from jaxgmm.model.random_scale import Terms
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.types import on_host


class Own(NamedTuple):
    """`Rules.own`: each start's prior, with a leading axis, and (R, K), False for padding. `Rules.shared` is the centre."""

    prior: Prior
    active: Bool[Array, "R K"]


class Point(NamedTuple):
    """What q is made of.

    Attributes:
        statistics: those of the E-step before: q(weights, means, covariances) is the posterior given them and E[s].
        rate: of q(s), s^power exp(-rate s), if the prior's scale is random; () or (R,).
    """

    statistics: Statistics
    rate: Float[Array, "..."]


class Ascent(NamedTuple):
    """A `Step` whose points are what q is made of.

    Attributes:
        family: of covariances.
        weights: name of the prior of the weights.
        engine: how rows are summed over.
    """

    family: str
    weights: str
    engine: Engine = COMPLETE

    @property
    def stopping(self) -> str:
        """By the gain of an update."""
        return "relative"

    def begin(self, starts: Point) -> tuple[Statistics, None]:
        """The statistics of the starts' allocations."""
        return starts.statistics, None

    def expand(self, search: Search, x: Array, rules: Rules) -> Array | None:
        """The expanded rows, where they fit in one block."""
        return self.engine.expand(get_family(self.family).structure, search.statistics.sums.shape, x, rules.shared)

    def propose(self, search: Search, rules: Rules) -> Proposal:
        """Q given what its predecessor expected of the allocations, and q(s) given its predecessor."""
        rates = jax.vmap(lambda point, prior, active: rate_given(prior, point, self, active))(search.point, *rules.own)
        return Proposal(Point(search.statistics, rates))

    def ready(self, search: Search, point: Point, rules: Rules) -> tuple[Expected, Bool[Array, " R"]]:
        """Expectations under q."""

        def of_start(point: Point, prior: Prior, active: Array) -> Expected:
            q = posterior_of(prior, point, self, active)
            return expect(q, prior, WEIGHT_PRIORS[self.weights], self.family, active)

        return jax.vmap(of_start)(point, *rules.own), jnp.zeros(point.rate.shape, bool)

    def suits(self, ready: Expected, rules: Rules, counted: Bool[Array, " R"]) -> Bool[Array, ""]:
        """Whether the engine keeps their digits."""
        return self.engine.suits(ready.components, rules.shared, counted)

    def sturdier(self) -> Self:
        """With the engine that does."""
        return self._replace(engine=dataclasses.replace(self.engine, sturdy=True))

    def sums(self, ready: Expected, x: Array, weight: Array, rules: Rules, expanded: PyTree) -> Statistics:
        """The E-step under these expectations."""
        return self.engine.sums(ready.components, x, weight, rules.shared, expanded)

    def accounted(self, statistics: Statistics, rules: Rules) -> Float[Array, " R"]:
        """By the responsibilities."""
        return statistics.counts.sum(1)

    def judge(self, point: PyTree, ready: Expected, statistics: Statistics, rules: Rules) -> tuple[Float[Array, " R"], Any]:
        """The evidence bound, nats."""
        return statistics.log_likelihood - ready.divergence, False

    def remember(self, search: Search, proposal: Proposal, ready: Expected, accepted: PyTree) -> None:
        """Nothing."""


def posterior_of(prior: Prior, point: Point, step: Ascent, active: Bool[Array, " K"]) -> Conjugate:
    """q(weights, means, covariances) given the rest of q; components that aren't active are padding."""
    if prior.least_scale is not None:
        prior = random_scale.given(prior, random_scale.expected(prior, Terms(scale_power(prior, active.sum()), point.rate)))
    q = posterior_given(prior, point.statistics, step.family)
    concentration = WEIGHT_PRIORS[step.weights].posterior(prior.concentration, point.statistics.counts, active)
    return q._replace(concentration=concentration)


def rate_given(prior: Prior, point: Point, step: Ascent, active: Bool[Array, " K"]) -> Float[Array, ""]:
    """The rate of the q(s) that is best for q(weights, means, covariances) at a point."""
    if prior.least_scale is None:
        return point.rate
    return scale_terms(posterior_of(prior, point, step, active), prior, step.family, active).rate


def start_from(statistics: Statistics, own: Own) -> Point:
    """Where R starts begin: q(s) at the least s, where covariances are what the rows say."""
    rate = jnp.zeros(statistics.counts.shape[0], statistics.sums.dtype)
    if own.prior.least_scale is not None:
        power = jax.vmap(lambda prior, active: scale_power(prior, active.sum()))(*own)
        rate = power / own.prior.least_scale
    return Point(statistics, rate)


def rules_of(
    priors: Sequence[Prior], counts: Sequence[int], capacity: int, moments: Moments, rtol: float, step: Ascent, dtype: np.dtype
) -> Rules:
    """The rules of as many starts as there are priors, each with its own K, padded to `capacity`."""
    own = [_padded(prior, k, capacity, step, dtype) for prior, k in zip(priors, counts, strict=True)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *own)
    active = np.arange(capacity) < np.asarray(counts)[:, None]
    numbers = (on_host(np.asarray(value, dtype)) for value in (moments.mean, moments.total_weight, rtol))
    return Rules(Own(stacked, on_host(active)), *numbers)


def _padded(prior: Prior, n_components: int, capacity: int, step: Ascent, dtype: np.dtype) -> Prior:
    """The prior as NumPy arrays, its concentration with an entry for each component, any for padding."""
    prior = as_dtype(prior, dtype)
    if not WEIGHT_PRIORS[step.weights].of_component:
        return prior
    concentration: Any = np.ones(capacity, dtype)
    concentration[:n_components] = prior.concentration
    return dataclasses.replace(prior, concentration=concentration)


def statistics_under(gmms: GMM, data: Source, centre: Float[Array, " D"]) -> Statistics:
    """E-step of R mixtures: where coordinate ascent starts from them."""
    return total(data, _sums_under, gmms, centre)


def _sums_under(gmms: GMM, centre: Float[Array, " D"], x: Any, weight: Array) -> Statistics:
    engine = OBSERVING if isinstance(x, Observed) else STURDY
    return engine.sums(jax.vmap(GMM.components)(gmms), x, weight, centre)
