"""Coordinate ascent of the evidence bound: one compiled loop for a batch of starts, each with its own status."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.bayes.priors.conjugate import Conjugate, posterior_given
from jaxgmm.bayes.variational.expectations import Expected, expect
from jaxgmm.bayes.variational.weight_priors import WEIGHT_PRIORS
from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource
from jaxgmm.fitting.batch import Moments, as_dtype
from jaxgmm.fitting.loop import choose
from jaxgmm.fitting.status import RUNNING, Status
from jaxgmm.model.engines import batched_e_step, expand_whole
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics

_TRACE = 512  # least length of the compiled trace buffer: changing max_steps below it compiles nothing


class Model(NamedTuple):
    """Static: each combination is a program of its own."""

    family: str
    weights: str


class Rules(NamedTuple):
    """Traced settings: changing them compiles nothing.

    Attributes:
        prior: of each start, with a leading axis; from `rules_of`.
        active: (R, K), False for padding.
        centre: (D,), what rows are shifted by: the mean of the data.
        total_weight: ().
        rtol: ().
    """

    prior: Prior
    active: Bool[Array, "R K"]
    centre: Float[Array, " D"]
    total_weight: Float[Array, ""]
    rtol: Float[Array, ""]


class Ascent(NamedTuple):
    """What the loop carries: R starts, each at its last accepted q.

    Attributes:
        made_of: the statistics that q is the posterior given.
        statistics: of the E-step under q.
        elbo: of q, nats.
        status: code.
        n_steps: updates of q since the start's.
        trace: the bound after each of them.
        iteration: of the loop.
    """

    made_of: Statistics
    statistics: Statistics
    elbo: Float[Array, " R"]
    status: Int[Array, " R"]
    n_steps: Int[Array, " R"]
    trace: Float[Array, "R T"]
    iteration: Int[Array, ""]


def posterior_of(prior: Prior, statistics: Statistics, model: Model, active: Bool[Array, " K"]) -> Conjugate:
    """q(weights, means, covariances) given the statistics of q(allocations); components that aren't active are padding."""
    q = posterior_given(prior, statistics, model.family)
    concentration = WEIGHT_PRIORS[model.weights].posterior(prior.concentration, statistics.counts, active)
    return q._replace(concentration=concentration)


def rules_of(
    priors: Sequence[Prior], counts: Sequence[int], capacity: int, moments: Moments, rtol: float, model: Model, dtype: Any
) -> Rules:
    """The rules of as many starts as there are priors, each with its own K, padded to `capacity`."""
    own = [_padded(prior, k, capacity, model, dtype) for prior, k in zip(priors, counts, strict=True)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *own)
    active: Any = np.arange(capacity) < np.asarray(counts)[:, None]
    return Rules(stacked, active, *as_dtype((moments[1], moments[0], rtol), dtype))


def _padded(prior: Prior, n_components: int, capacity: int, model: Model, dtype: Any) -> Prior:
    """The prior as NumPy arrays, its concentration with an entry for each component, any for padding."""
    prior = as_dtype(prior, dtype)
    if not WEIGHT_PRIORS[model.weights].of_component:
        return prior
    concentration: Any = np.ones(capacity, dtype)
    concentration[:n_components] = prior.concentration
    return dataclasses.replace(prior, concentration=concentration)


def ascend(start: Statistics, data: ArraySource, rules: Rules, max_steps: int, model: Model) -> Ascent:
    """Run a batch of starts, given by the statistics of their allocations, to the end."""
    n_starts, dtype = start.counts.shape[0], start.counts.dtype
    length = max(_TRACE, 1 << max_steps.bit_length())
    fields: dict[str, Any] = {
        "made_of": start,
        "statistics": start,
        "elbo": np.full(n_starts, -np.inf, dtype),
        "status": np.full(n_starts, RUNNING, np.int32),
        "n_steps": np.zeros(n_starts, np.int32),
        "trace": np.zeros((n_starts, length), dtype),
        "iteration": np.int32(0),
    }
    return _ascend(Ascent(**fields), data, rules, np.int32(max_steps), model)


@functools.partial(jax.jit, static_argnums=2)
def statistics_under(gmms: GMM, data: ArraySource, family: str, centre: Float[Array, " D"]) -> Statistics:
    """E-step of R mixtures: where coordinate ascent starts from them."""
    components, running = jax.vmap(GMM.components)(gmms), jnp.ones(gmms.weights.shape[0], bool)
    return data.reduce(lambda x, w: batched_e_step(components, x, w, centre, running))


@functools.partial(jax.jit, static_argnums=4)
def _ascend(ascent: Ascent, data: ArraySource, rules: Rules, limit: Array, model: Model) -> Ascent:
    """Update every running start until it stops or has taken `limit` steps. The very first pass only evaluates the starts."""
    weights = WEIGHT_PRIORS[model.weights]

    def of_start(statistics: Statistics, prior: Prior, active: Array) -> Expected:
        return expect(posterior_of(prior, statistics, model, active), prior, weights, model.family, active)

    expected = jax.vmap(of_start)
    structure = get_family(model.family).structure
    expanded = expand_whole(structure, ascent.statistics.sums.shape, data.x, rules.centre)

    def unfinished(ascent: Ascent) -> Bool[Array, ""]:
        return (ascent.status == RUNNING).any() & (ascent.iteration <= limit)

    def step(ascent: Ascent) -> Ascent:
        components, divergence = expected(ascent.statistics, rules.prior, rules.active)
        running = ascent.status == RUNNING
        statistics = data.reduce(lambda x, w: batched_e_step(components, x, w, rules.centre, running, expanded))
        return _decide(ascent, statistics, statistics.log_likelihood - divergence, rules)

    return lax.while_loop(unfinished, step, ascent)


def _decide(ascent: Ascent, statistics: Statistics, elbo: Float[Array, " R"], rules: Rules) -> Ascent:
    """Accept the new q or not, and say which starts have stopped and why."""
    eps = jnp.finfo(elbo.dtype).eps
    first, running, weight = ascent.iteration == 0, ascent.status == RUNNING, rules.total_weight
    gain, finite = elbo - ascent.elbo, jnp.isfinite(elbo)
    fell = ~first & (gain < -jnp.sqrt(eps) * (weight + jnp.abs(ascent.elbo)))
    rounding = 4 * eps * jnp.abs(ascent.elbo)
    least = jnp.where(rules.rtol > 0, jnp.maximum(rules.rtol * weight, rounding), 0)
    tolerance = 1e-6 if elbo.dtype == jnp.float64 else 1e-3
    mismatch = jnp.abs(statistics.counts.sum(1) - weight) > tolerance * weight

    status = jnp.where(~first & (jnp.abs(gain) < least), Status.converged, RUNNING)
    for happened, code in (
        (fell, Status.decreased),
        (mismatch, Status.inconsistent),
        (~finite, Status.not_finite),
    ):
        status = jnp.where(happened, code, status)
    accepted = running & finite & ~mismatch & ~fell
    elbo = jnp.where(accepted, elbo, ascent.elbo)
    return Ascent(
        made_of=choose(accepted, ascent.statistics, ascent.made_of),
        statistics=choose(accepted, statistics, ascent.statistics),
        elbo=elbo,
        status=jnp.where(running, status, ascent.status).astype(jnp.int32),
        n_steps=jnp.where(running, ascent.iteration, ascent.n_steps),
        trace=ascent.trace.at[:, ascent.iteration].set(elbo),
        iteration=ascent.iteration + 1,
    )
