"""The one loop of EM: a compiled search from a batch of starts, each with its own status."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.covariance import Factor, Family, get_family
from jaxgmm.data import ArraySource
from jaxgmm.fitting.status import RUNNING, Status
from jaxgmm.model.engines import batched_e_step, expand_whole
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_kernel
from jaxgmm.model.statistics import Statistics
from jaxgmm.model.steps import maximise

_TRACE = 512  # least length of the compiled trace buffer: changing max_steps below it compiles nothing
_FLOPS_BETWEEN_REPORTS = 2e10
_PLACES = 16  # starts that are stepped together: with more, those that stop early leave more idle
_STRIDE = 32  # steps between looks at which of them have stopped, while others wait
_REACH = 4.0  # SQUAREM: first limit of the step length, and the factor by which it grows where it binds
_PLAIN_STEPS = 2  # SQUAREM: plain EM steps between extrapolations; the first settles, both make the differences


class Rules(NamedTuple):
    """Traced settings: changing them compiles nothing. What depends on the model that is fitted has a leading axis of starts,
    so starts of one batch may have different numbers of components.

    Attributes:
        prior: of each start, every leaf (R, ...), concentration (R, K); None for maximum likelihood.
        constant: (R,), the prior's normaliser, in nats.
        active: (R, K), False for components that are padding.
        centre: (D,), what rows are shifted by: the mean of the data.
        floor: smallest pivots that aren't rounding, by structure; used without a prior.
        total_weight: ().
        rtol: ().
    """

    prior: Prior | None
    constant: Float[Array, " R"]
    active: Bool[Array, "R K"]
    centre: Float[Array, " D"]
    floor: Float[Array, "..."]
    total_weight: Float[Array, ""]
    rtol: Float[Array, ""]


class Method(NamedTuple):
    """Static settings: each combination is a program of its own."""

    fixed: tuple[str, ...] = ()
    stopping: str = "relative"
    acceleration: str | None = None


class Search(NamedTuple):
    """What the loop carries: R starts, each at its last accepted mixture, with that mixture's statistics.

    `n_steps` is -1 before the first pass, which only evaluates the start.
    """

    gmm: GMM
    statistics: Statistics
    objective: Float[Array, " R"]
    status: Int[Array, " R"]
    n_steps: Int[Array, " R"]
    trace: Float[Array, "R T"]
    last_gain: Float[Array, " R"]
    phase: Int[Array, " R"]  # SQUAREM: plain steps since the last extrapolation
    anchor: GMM | None  # SQUAREM: the mixture before the last plain step
    reach: Float[Array, " R"]  # SQUAREM: the longest step allowed; shrinks where an extrapolation fails


def climb(
    starts: GMM,
    data: ArraySource,
    rules: Rules,
    max_steps: int,
    method: Method,
    report: Callable[[Search], None] | None = None,
) -> Search:
    """Run a batch of starts to the end, and return them as NumPy arrays.

    A few starts are stepped at a time; the place of one that has stopped goes to the next, so that the slowest don't keep all
    of them waiting. It pays to put those first that may take longest. One call does it all where there are no more starts than
    places, unless there is someone to report to.
    """
    whole = _begin(jax.tree.map(np.asarray, starts), max(_TRACE, 1 << max_steps.bit_length()), method)
    n_starts, n_components, n_features = starts.means.shape
    flops = 2.0 * data.n_samples * n_features * (n_features + 3) * n_components * min(n_starts, _PLACES)
    longest = max_steps + 1 if report is None else max(1, int(_FLOPS_BETWEEN_REPORTS / flops))
    unfinished = np.arange(n_starts)
    while unfinished.size:
        stopped = np.setdiff1d(np.arange(n_starts), unfinished)  # they fill up the last batches
        rows = np.concatenate([unfinished, stopped])[:_PLACES]
        stride = min(longest, _STRIDE) if unfinished.size > _PLACES else longest
        own = _of_starts(rules, rows)
        part = _advance(_rows(whole, rows), data, own, np.int32(max_steps), np.int32(stride), method)
        whole = jax.tree.map(functools.partial(_put, rows), whole, part)
        unfinished = unfinished[_running(whole, max_steps)[unfinished]]
        if report is not None:
            report(whole)
    return whole


def _rows(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _put(rows: np.ndarray, whole: np.ndarray, part: Array) -> np.ndarray:
    if len(rows) == len(whole):
        return np.asarray(part)
    whole = whole.copy()
    whole[rows] = part
    return whole


def _of_starts(rules: Rules, rows: np.ndarray) -> Rules:
    prior, constant, active = _rows((rules.prior, rules.constant, rules.active), rows)
    return rules._replace(prior=prior, constant=constant, active=active)


def _running(search: Search, max_steps: Any) -> Any:
    return (search.status == RUNNING) & (search.n_steps < max_steps)


def _begin(starts: GMM, length: int, method: Method) -> Search:
    """The search before its first evaluation. NumPy, so that it compiles nothing."""
    n_starts, n_components, n_features = starts.means.shape
    dtype = starts.means.dtype
    zeros = np.zeros(n_starts, dtype)
    scatter = np.zeros((n_starts, *get_family(starts.family).structure.scatter_shape(n_components, n_features)), dtype)
    sums = np.zeros((n_starts, n_components, n_features), dtype)
    nothing: tuple[Any, ...] = (sums[:, :, 0], sums, scatter, sums, zeros - np.inf, zeros)
    fields: dict[str, Any] = {
        "gmm": starts,
        "statistics": Statistics(*nothing),
        "objective": zeros - np.inf,
        "status": np.full(n_starts, RUNNING, np.int32),
        "n_steps": np.full(n_starts, -1, np.int32),
        "trace": np.zeros((n_starts, length), dtype),
        "last_gain": zeros + np.inf,
        "phase": np.zeros(n_starts, np.int32),
        "anchor": starts if method.acceleration else None,
        "reach": np.full(n_starts, _REACH, dtype),
    }
    return Search(**fields)


@functools.partial(jax.jit, static_argnums=5)
def _advance(search: Search, data: ArraySource, rules: Rules, max_steps: Array, stride: Array, method: Method) -> Search:
    """Up to `stride` passes, in each of which every start that still runs takes a step."""
    kind = get_family(search.gmm.family)
    expanded = expand_whole(kind.structure, search.gmm.means.shape, data.x, rules.centre)

    def unfinished(carry: tuple[Search, Array]) -> Bool[Array, ""]:
        search, n_passes = carry
        return _running(search, max_steps).any() & (n_passes < stride)

    def step(carry: tuple[Search, Array]) -> tuple[Search, Array]:
        search, n_passes = carry
        refit = jax.vmap(lambda s, g, prior, active: maximise(s, g, prior, active, method.fixed))
        proposal = refit(search.statistics, search.gmm, rules.prior, rules.active)
        extrapolated, length = jnp.zeros_like(search.status, bool), jnp.ones_like(search.reach)
        if search.anchor is not None:
            extrapolated = search.phase == _PLAIN_STEPS
            far, length = _extrapolate(search.anchor, search.gmm, proposal, search.reach)
            proposal = choose(extrapolated, far, proposal)
        proposal = choose(search.n_steps < 0, search.gmm, proposal)
        factor = jax.vmap(lambda covariances: kind.factor(covariances, data.n_features))(proposal.covariances)
        singular = _singular(proposal, factor, rules, kind)
        running = _running(search, max_steps)
        components = jax.vmap(GMM.components)(proposal, factor)
        statistics = data.reduce(lambda x, w: batched_e_step(components, x, w, rules.centre, running & ~singular, expanded))
        objective = statistics.log_likelihood
        if rules.prior is not None:
            objective = objective + jax.vmap(log_kernel)(rules.prior, proposal, factor, rules.active) + rules.constant
        search = _decide(search, running, proposal, statistics, objective, singular, extrapolated, length, rules, method)
        return search, n_passes + 1

    return lax.while_loop(unfinished, step, (search, jnp.zeros_like(stride)))[0]


def _singular(gmm: GMM, factor: Factor, rules: Rules, kind: Family) -> Bool[Array, " R"]:
    """Starts whose parameters can't be used: covariances not positive definite or, without a prior, flat to rounding."""
    pivots = jax.vmap(kind.structure.pivots)(factor)
    flat = ~(pivots > (rules.floor if rules.prior is None else 0))
    per_component = flat.reshape(flat.shape[0], -1, flat.shape[-1])  # one axis of length one where components share
    singular = (per_component & rules.active[:, :, None]).any((1, 2))
    return singular | (gmm.weights < 0).any(1) | ~jnp.isfinite(gmm.means).all((1, 2))


def _decide(
    search: Search,
    running: Bool[Array, " R"],
    proposal: GMM,
    statistics: Statistics,
    objective: Float[Array, " R"],
    singular: Bool[Array, " R"],
    extrapolated: Bool[Array, " R"],
    length: Float[Array, " R"],
    rules: Rules,
    method: Method,
) -> Search:
    """Accept the proposals or not, and say which starts have stopped and why."""
    eps = jnp.finfo(objective.dtype).eps
    first = search.n_steps < 0
    n_steps = jnp.where(running, search.n_steps + 1, search.n_steps)
    weight = rules.total_weight
    gain = objective - search.objective
    finite = jnp.isfinite(objective)
    fell = ~first & (gain < -jnp.sqrt(eps) * (weight + jnp.abs(search.objective)))
    rounding = 4 * eps * jnp.abs(search.objective)
    least = jnp.where(rules.rtol > 0, jnp.maximum(rules.rtol * weight, rounding), 0)
    small = ~first & (jnp.abs(gain) < least)
    if method.stopping == "aitken":
        ratio = gain / search.last_gain
        promised = gain * ratio / (1 - ratio)  # what a geometric series of gains would still bring
        small = small & (ratio < 1) & (jnp.abs(promised) < least)
    if rules.prior is None:
        singular = singular | (rules.active & ~(statistics.counts > 10 * eps * weight)).any(1)
    tolerance = 1e-6 if objective.dtype == jnp.float64 else 1e-3
    mismatch = jnp.abs(statistics.counts.sum(1) - weight) > tolerance * weight

    status = jnp.where(small, Status.converged, RUNNING)
    for happened, code in (
        (fell, Status.decreased),
        (mismatch, Status.inconsistent),
        (~finite, Status.not_finite),
        (singular, Status.collapsed),
    ):
        status = jnp.where(happened, code, status)
    accepted = ~singular & finite & ~mismatch & ~fell
    reach = search.reach
    if method.acceleration:
        # An extrapolation that fails is taken back; it neither stops a start nor counts against it.
        accepted = accepted & ~(extrapolated & (gain < 0))
        status = jnp.where(extrapolated, RUNNING, status)
        farther = jnp.where(length >= reach, _REACH * reach, reach)
        reach = jnp.where(extrapolated, jnp.where(accepted, farther, jnp.maximum(1, length / 2)), reach)
    accepted = accepted & running
    objective = jnp.where(accepted, objective, search.objective)
    return Search(
        gmm=choose(accepted, proposal, search.gmm),
        statistics=choose(accepted, statistics, search.statistics),
        objective=objective,
        status=jnp.where(running, status, search.status).astype(jnp.int32),
        n_steps=n_steps,
        trace=search.trace.at[jnp.arange(n_steps.size), n_steps].set(objective),
        last_gain=jnp.where(running, gain, search.last_gain),
        phase=jnp.where(extrapolated | first, 0, search.phase + 1) if method.acceleration else search.phase,
        anchor=choose(running & ~extrapolated, search.gmm, search.anchor) if method.acceleration else None,
        reach=reach,
    )


def choose(which: Bool[Array, " R"], new: Any, old: Any) -> Any:
    """Leaf by leaf, `new` for the chosen starts."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(which.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def _extrapolate(before: GMM, now: GMM, after: GMM, reach: Float[Array, " R"]) -> tuple[GMM, Float[Array, " R"]]:
    """SQUAREM's step from three successive EM iterates, before + 2 a r + a^2 v with a = |r| / |v| in [1, reach]; and a."""
    r = jax.tree.map(jnp.subtract, now, before)
    v = jax.tree.map(lambda c, b, d: c - b - d, after, now, r)
    tiny = jnp.finfo(now.means.dtype).tiny

    def squared_norm(change: GMM) -> Float[Array, " R"]:
        """Each leaf in units of its own size, so that units of the data don't matter much."""
        parts = jax.tree.map(lambda d, b: _squares(d) / (_squares(b) + tiny), change, now)
        return jnp.sum(jnp.stack(jax.tree.leaves(parts)), axis=0)

    a = jnp.sqrt(squared_norm(r) / (squared_norm(v) + tiny))
    a = jnp.clip(a, 1, reach)

    def leaf(b: Array, dr: Array, dv: Array) -> Array:
        along = a.reshape(a.shape + (1,) * (b.ndim - 1))
        return b + 2 * along * dr + along**2 * dv

    return jax.tree.map(leaf, before, r, v), a


def _squares(leaf: Array) -> Float[Array, " R"]:
    return (leaf.reshape(leaf.shape[0], -1) ** 2).sum(1)
