"""`fit`: expectation-maximisation with restarts, one loop for all of them, and an account of how it went."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm import precision
from jaxgmm.covariance import Family, get_family
from jaxgmm.data import ArraySource, as_source
from jaxgmm.initialise import METHODS, assigned_start, check_assigned, distance_metric, is_dense, seeded_starts
from jaxgmm.mixture import GMM
from jaxgmm.prior import Prior, log_kernel, log_normaliser
from jaxgmm.statistics import PARAMETERS, Statistics, batched_e_step, check_fixed, column_moments, maximise
from jaxgmm.status import RUNNING, FitError, FitWarning, Status
from jaxgmm.validation import check_count, is_traced, unknown

STOPPING = ("relative", "aitken")
ACCELERATION = ("squarem",)
_TOGETHER = 1 << 21  # responsibilities up to which restarts run as one batch; more rows, and they run in turn
_PADDED = 1 << 16  # responsibilities up to which K is padded to a multiple of four, to share compilations
_TRACE = 512  # least length of the compiled trace buffer: changing max_steps below it compiles nothing
_USABLE = (Status.converged, Status.max_steps, Status.decreased)
_FLOPS_BETWEEN_CALLBACKS = 2e10


class Progress(NamedTuple):
    """What a `fit` callback is told: the start at work (1-based, the last of a batch), its steps and best objective so far."""

    start: int
    n_starts: int
    n_steps: int
    max_steps: int
    objective: float


@dataclass(frozen=True)
class Restarts:
    """How every start of a fit ended.

    Attributes:
        objective: (R,), at the end of each start; -inf where it never had one.
        log_likelihood: (R,), total nats.
        status: R of them.
        n_steps: (R,).
        trace: R arrays, the objective before each step and, last, after the final one.
        best: index of the start that was kept.
        tolerance: nats within which two starts count as the same optimum.
    """

    objective: np.ndarray
    log_likelihood: np.ndarray
    status: tuple[Status, ...]
    n_steps: np.ndarray
    trace: tuple[np.ndarray, ...]
    best: int
    tolerance: float

    @property
    def replication(self) -> int:
        """How many starts reached the best optimum. One of many is a reason to try more starts."""
        return int((self._usable >= self.objective[self.best] - self.tolerance).sum()) if len(self._usable) else 0

    @property
    def gap(self) -> float:
        """Nats from the best optimum down to the next one that a start reached; inf if all agree."""
        below = self._usable[self._usable < self.objective[self.best] - self.tolerance]
        return float(self.objective[self.best] - below.max()) if below.size else float("inf")

    @property
    def _usable(self) -> np.ndarray:
        return self.objective[[status in _USABLE for status in self.status]]


@dataclass(frozen=True)
class Fit:
    """A fitted mixture and the account of its fit.

    Attributes:
        gmm: the best start's mixture.
        status: how that start ended; `status.meaning` says it in words.
        objective: log-likelihood, plus the log prior density if there is a prior, of `gmm`; nats.
        log_likelihood: total nats.
        n_steps: EM steps of the best start.
        trace: (n_steps + 1,), objective before each step and, last, after the final one.
        restarts: all starts.
        prior: what was used; None for maximum likelihood.
    """

    gmm: GMM
    status: Status
    objective: float
    log_likelihood: float
    n_steps: int
    trace: np.ndarray
    restarts: Restarts
    prior: Prior | None

    @property
    def converged(self) -> bool:
        """True only for `Status.converged`."""
        return self.status is Status.converged


class _Search(NamedTuple):
    """What the compiled loop carries: R starts, each at its last accepted mixture with that mixture's statistics."""

    gmm: GMM
    statistics: Statistics
    objective: Float[Array, " R"]
    status: Int[Array, " R"]
    n_steps: Int[Array, " R"]
    trace: Float[Array, "R T"]
    last_gain: Float[Array, " R"]
    iteration: Int[Array, ""]
    phase: Int[Array, " R"]  # SQUAREM: 0 plain step ahead, 1 extrapolation ahead
    anchor: GMM | None  # SQUAREM: the mixture before the last plain step


class _Rules(NamedTuple):
    """Traced settings: changing them compiles nothing."""

    prior: Prior | None
    active: Bool[Array, " K"]
    centre: Float[Array, " D"]
    floor: Float[Array, " D"]
    constant: Float[Array, ""]  # the prior's normaliser
    total_weight: Float[Array, ""]
    rtol: Float[Array, ""]


def fit(
    x: Float[Array, "N D"],
    n_components: int | None = None,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | str | None = "default",
    init: Any = "k-means++",
    n_init: int = 10,
    rtol: float = 1e-8,
    max_steps: int = 500,
    sample_weight: Float[Array, " N"] | None = None,
    fixed: Sequence[str] = (),
    stopping: str = "relative",
    acceleration: str | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Fit:
    """Fit a Gaussian mixture by EM: the maximum a posteriori mixture, or the maximum likelihood one with `prior=None`.

    Each start climbs sum_n w_n log p(x_n) + log p(weights, means, covariances) until a step gains less than `rtol` nats per
    unit of weight; the best start is kept. The prior is what keeps covariances from going singular: without it the
    likelihood has no maximum, and a start that falls into such a hole ends as `Status.collapsed`.

    Args:
        x: (N, D), finite, N >= 2; any float dtype, numpy or JAX.
        n_components: K; may be left out where `init` holds it.
        key: a PRNG key, `jax.random.key(seed)`.
        family: "full", "tied", "diag", "spherical", or mclust's names. With a GMM as `init`, its family is the default.
        prior: "default" (`Prior.default`), a `Prior`, or None for maximum likelihood.
        init: "k-means++", "random", (N, K) responsibilities, (N,) integer labels, or a GMM (a warm start).
        n_init: number of starts for the named inits; the others are one start.
        rtol: stop when a step changes the objective by less than `rtol` times the total weight (nats per row: the one measure
            of relative change that units of the data can't alter). 0 never stops before `max_steps`.
        max_steps: the most EM steps of a start.
        sample_weight: (N,), non-negative; 2 is a row twice, 0 no row.
        fixed: parameters to keep at the values of a GMM given as `init`: of "weights", "means", "covariances". Exact.
        stopping: "relative", or "aitken": what a geometric series of gains still promises, instead of the last gain, falls
            below `rtol` (Boehning et al. 1994).
        acceleration: None, or "squarem": extrapolates every second step, and takes it back where the objective falls
            (Varadhan & Roland 2008, scheme S3).
        callback: called with `Progress` now and then in a long fit.

    Returns:
        Fit. Parameters have the dtype of `x`; on a CPU all computation is in float64.

    Raises:
        TypeError: x, labels or counts that aren't numbers of the right kind; traced x.
        ValueError: any other argument that can't be used; the message names it and the way out.
        FitError: no start gave finite, consistent sums.

    Warns:
        FitWarning: the best start did not converge.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> fit.status.name, sorted(fit.gmm.weights.round(2).tolist())
        ('converged', [0.36..., 0.63...])
    """
    if is_traced(x, sample_weight, key):
        raise TypeError("fit runs its own compiled loop on the host; inside jit, vmap or grad use e_step and m_step.")
    source = as_source(x, sample_weight, min_rows=2)
    start_given, n_components, family = _resolve_init(init, n_components, family, source.n_samples)
    n_starts = 1 if start_given is not None else check_count(n_init, "n_init")
    max_steps = check_count(max_steps, "max_steps")
    fixed = check_fixed(fixed)
    _check_settings(rtol, stopping, acceleration, fixed, start_given)
    kind = get_family(family)
    dtype, out = precision.compute_dtype(source.x), precision.result_dtype(source.x)

    with precision.scope(dtype):
        total, mean, scatter = column_moments(source.x, source.weight, is_dense(family), dtype)
        moments = float(total), np.asarray(mean, float), np.asarray(scatter, float)
        prior = _resolve_prior(prior, moments, n_components, family, source)
        capacity = _capacity(n_components, source.n_samples)
        rules = _Rules(
            prior=None if prior is None else precision.cast(_padded_prior(prior, capacity), dtype),
            active=jnp.asarray(np.arange(capacity) < n_components),
            centre=mean,
            floor=jnp.asarray(_variance_floor(moments, kind, dtype), dtype),
            constant=jnp.asarray(0 if prior is None else _prior_constant(prior, n_components), dtype),
            total_weight=total,
            rtol=jnp.asarray(rtol, dtype),
        )
        data = ArraySource(jnp.asarray(source.x), jnp.asarray(source.weight))
        own_prior = None if prior is None else precision.cast(prior, dtype)
        at_once = n_starts if source.n_samples * capacity * n_starts <= _TOGETHER else 1
        if start_given is None:
            metric = jnp.asarray(distance_metric(*moments, family), dtype)
            uniforms = np.asarray(jax.random.uniform(key, (n_starts, capacity), dtype))
        searches = []
        for first in range(0, n_starts, at_once):
            if isinstance(start_given, GMM):
                starts = _padded(precision.cast(start_given, dtype), capacity, rules.centre)
            elif start_given is not None:
                starts = assigned_start(data.x, data.weight, start_given, mean, n_components, family, own_prior)
                starts = _padded(jax.tree.map(lambda leaf: leaf[0], starts), capacity, rules.centre)
            else:
                starts = seeded_starts(
                    data.x, data.weight, uniforms[first : first + at_once], mean, metric, n_components, init, family, rules.prior
                )
            report = None if callback is None else functools.partial(_report, callback, first + at_once, n_starts, max_steps)
            searches.append(_climb(starts, data, rules, max_steps, fixed, stopping, acceleration, report))
    return _account(searches, n_components, prior, out, float(rtol), moments[0])


# The compiled loop


def _climb(starts, data, rules, max_steps, fixed, stopping, acceleration, report) -> _Search:
    """Run a batch of starts to the end: one call, or several where progress is to be reported."""
    length = max(_TRACE, 1 << max_steps.bit_length())
    search = _begin(starts, rules, length, acceleration)
    n_features, n_components = data.n_features, starts.weights.shape[-1]
    flops = 2.0 * data.n_samples * n_features * (n_features + 3) * n_components * starts.weights.shape[0]
    stride = max_steps if report is None else max(1, int(_FLOPS_BETWEEN_CALLBACKS / flops))
    limit = 0
    while limit < max_steps:
        limit = min(limit + stride, max_steps)
        search = _advance(search, data, rules, limit, fixed, stopping, acceleration)
        if report is not None:
            report(search)
            if (np.asarray(search.status) != RUNNING).all():
                break
    return search


def _report(callback, start, n_starts, max_steps, search) -> None:
    n_steps, objective = np.asarray(search.n_steps).max(), np.asarray(search.objective).max()
    callback(Progress(min(start, n_starts), n_starts, int(n_steps), max_steps, float(objective)))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _begin(starts: GMM, rules: _Rules, length: int, acceleration: str | None) -> _Search:
    n_starts, n_components = starts.weights.shape
    dtype = starts.means.dtype
    structure = get_family(starts.family).structure
    zeros = jnp.zeros(n_starts, dtype)
    scatter = jax.vmap(structure.outer)(jnp.zeros((n_starts, n_components), dtype), starts.means, starts.means)
    return _Search(
        gmm=starts,
        statistics=Statistics(jnp.zeros_like(starts.weights), jnp.zeros_like(starts.means), scatter, starts.means, zeros, zeros),
        objective=zeros - jnp.inf,
        status=jnp.full(n_starts, RUNNING, jnp.int32),
        n_steps=jnp.zeros(n_starts, jnp.int32),
        trace=jnp.full((n_starts, length), jnp.nan, dtype),
        last_gain=zeros + jnp.inf,
        iteration=jnp.zeros((), jnp.int32),
        phase=jnp.zeros(n_starts, jnp.int32),
        anchor=starts if acceleration else None,
    )


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _advance(search, data, rules, limit, fixed, stopping, acceleration) -> _Search:
    """Step every running start until it stops or has taken `limit` steps. The first pass only evaluates the starts."""
    kind = get_family(search.gmm.family)

    def unfinished(search: _Search) -> Bool[Array, ""]:
        return (search.status == RUNNING).any() & (search.iteration <= limit)

    def step(search: _Search) -> _Search:
        proposal = jax.vmap(lambda s, g: maximise(s, g, rules.prior, rules.active, fixed))(search.statistics, search.gmm)
        extrapolated = jnp.zeros_like(search.status, bool)
        if acceleration:
            extrapolated = search.phase == 1
            proposal = _choose(extrapolated, _extrapolate(search.anchor, search.gmm, proposal), proposal)
        proposal = jax.tree.map(lambda new, old: jnp.where(search.iteration == 0, old, new), proposal, search.gmm)
        factor = jax.vmap(lambda covariances: kind.factor(covariances, data.n_features))(proposal.covariances)
        running = search.status == RUNNING
        singular = _singular(proposal, factor, rules, kind)
        statistics = data.reduce(
            lambda x, w: batched_e_step(proposal, factor, x, w, rules.centre, running & ~singular)
        )
        objective = statistics.log_likelihood
        if rules.prior is not None:
            log_prior = jax.vmap(lambda gmm, f: log_kernel(rules.prior, gmm, f, rules.active))
            objective = objective + log_prior(proposal, factor) + rules.constant
        return _decide(search, proposal, statistics, objective, singular, extrapolated, rules, stopping, acceleration)

    return lax.while_loop(unfinished, step, search)


def _singular(gmm: GMM, factor: Any, rules: _Rules, kind: Family) -> Bool[Array, " R"]:
    """Starts whose covariances can't be used: not positive definite or, without a prior, flat to rounding."""
    pivots = jax.vmap(kind.structure.pivots)(factor)
    fine = pivots > (rules.floor if rules.prior is None else 0)
    shape = (*gmm.weights.shape, -1) if pivots.ndim == 3 else (gmm.weights.shape[0], 1, -1)
    singular = (~fine.reshape(shape) & rules.active[:, None]).any((1, 2))
    return singular | (gmm.weights < 0).any(1) | ~jnp.isfinite(gmm.means).all((1, 2))


def _decide(search, proposal, statistics, objective, singular, extrapolated, rules, stopping, acceleration) -> _Search:
    """Accept the proposals or not, and say which starts have stopped and why."""
    eps = jnp.finfo(objective.dtype).eps
    first = search.iteration == 0
    running = search.status == RUNNING
    weight = rules.total_weight
    gain = objective - search.objective
    finite = jnp.isfinite(objective)
    noise = jnp.sqrt(eps) * (weight + jnp.abs(search.objective))
    fell = ~first & (gain < -noise)
    small = ~first & (jnp.abs(gain) < rules.rtol * weight)
    if stopping == "aitken":
        ratio = gain / search.last_gain
        small = small & (ratio < 1) & (jnp.abs(gain * ratio / (1 - ratio)) < rules.rtol * weight)
    empty = jnp.zeros_like(running)
    if rules.prior is None:
        empty = (rules.active & ~(statistics.counts > 10 * eps * weight)).any(1)
    tolerance = 1e-6 if objective.dtype == jnp.float64 else 1e-3
    mismatch = jnp.abs(statistics.counts.sum(1) - weight) > tolerance * weight

    status = jnp.where(small, Status.converged, RUNNING)
    for happened, code in (
        (fell, Status.decreased),
        (mismatch, Status.inconsistent),
        (~finite, Status.not_finite),
        (singular | empty, Status.collapsed),
    ):
        status = jnp.where(happened, code, status)
    accepted = ~(singular | empty) & finite & ~mismatch & ~fell
    if acceleration:
        # An extrapolation that fails is taken back; it neither stops a start nor counts against it.
        accepted = accepted & ~(extrapolated & (gain < 0))
        status = jnp.where(extrapolated, RUNNING, status)
    accepted = accepted & running
    objective = jnp.where(accepted, objective, search.objective)
    row = jnp.where(running[:, None], (jnp.arange(search.trace.shape[1]) == search.iteration)[None], False)
    return _Search(
        gmm=_choose(accepted, proposal, search.gmm),
        statistics=_choose(accepted, statistics, search.statistics),
        objective=objective,
        status=jnp.where(running, status, search.status).astype(jnp.int32),
        n_steps=jnp.where(running, search.iteration, search.n_steps),
        trace=jnp.where(row, objective[:, None], search.trace),
        last_gain=jnp.where(running, gain, search.last_gain),
        iteration=search.iteration + 1,
        phase=jnp.where(extrapolated | first, 0, 1).astype(jnp.int32) if acceleration else search.phase,
        anchor=_choose(running & ~extrapolated, search.gmm, search.anchor) if acceleration else None,
    )


def _choose(which: Bool[Array, " R"], new: Any, old: Any) -> Any:
    """Leaf by leaf, `new` for the chosen starts."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(which.shape + (1,) * (a.ndim - 1)), a, b), new, old)


def _extrapolate(before: GMM, now: GMM, after: GMM) -> GMM:
    """SQUAREM's step from three successive EM iterates: before - 2 a r + a^2 v with a = -max(1, |r| / |v|)."""
    r = jax.tree.map(jnp.subtract, now, before)
    v = jax.tree.map(lambda c, b, d: c - b - d, after, now, r)

    def squared_norm(change: GMM) -> Float[Array, " R"]:
        axes = lambda leaf: tuple(range(1, leaf.ndim))  # noqa: E731
        parts = jax.tree.map(lambda d, b: (d**2).sum(axes(d)) / (b**2).sum(axes(b)), change, now)
        return sum(jax.tree.leaves(parts))

    tiny = jnp.finfo(now.means.dtype).tiny
    a = -jnp.maximum(1, jnp.sqrt(squared_norm(r) / (squared_norm(v) + tiny)))
    along = lambda leaf: a.reshape(a.shape + (1,) * (leaf.ndim - 1))  # noqa: E731
    return jax.tree.map(lambda b, dr, dv: b - 2 * along(b) * dr + along(b) ** 2 * dv, before, r, v)


# The host's side


def _resolve_init(init: Any, n_components: int | None, family: str, n_samples: int) -> tuple[Any, int, str]:
    """The given start (None for a named method), K and the family."""
    family = get_family(family).name
    if n_components is not None:
        n_components = check_count(n_components, "n_components")
    if isinstance(init, Fit):
        init = init.gmm
    if isinstance(init, str):
        if init not in METHODS:
            raise unknown("init", init, METHODS)
        if n_components is None:
            raise ValueError(f"n_components is needed with init={init!r}; only responsibilities, labels or a GMM hold it.")
        return None, n_components, family
    if isinstance(init, GMM):
        if init.weights.ndim != 1:
            raise ValueError(f"init is a GMM with leading axes {init.weights.shape[:-1]}; one mixture is needed.")
        if family not in ("full", init.family):
            raise ValueError(f"family is {family!r}, but init is a GMM of family {init.family!r}: leave family out.")
        given, held, family = init, init.n_components, init.family
    else:
        given, held = check_assigned(init, n_samples)
    if n_components not in (None, held):
        raise ValueError(f"n_components is {n_components}, but init holds {held} components: leave n_components out.")
    return given, held, family


def _check_settings(rtol, stopping, acceleration, fixed, start_given) -> None:
    if not np.isscalar(rtol) or not np.isfinite(rtol) or rtol < 0:
        raise ValueError(f"rtol must be a number >= 0 (nats per unit of weight), got {rtol!r}.")
    if stopping not in STOPPING:
        raise unknown("stopping", stopping, STOPPING)
    if acceleration is not None and acceleration not in ACCELERATION:
        raise unknown("acceleration", acceleration, ACCELERATION)
    if acceleration and stopping == "aitken":
        raise ValueError("stopping='aitken' needs successive plain EM steps: use acceleration=None, or stopping='relative'.")
    if fixed and not isinstance(start_given, GMM):
        raise ValueError(f"fixed={fixed!r} keeps values of the start, so init must be a GMM that holds them.")
    if len(fixed) == len(PARAMETERS):
        raise ValueError("fixed names all three parameters: nothing is left to fit.")


def _resolve_prior(prior, moments, n_components: int, family: str, source: ArraySource) -> Prior | None:
    if isinstance(prior, str):
        if prior != "default":
            raise unknown("prior", prior, ["default"])
        return Prior.from_moments(*moments, n_components, family)
    if prior is None:
        n_rows = int((np.asarray(source.weight) > 0).sum())
        if n_components > n_rows:
            raise ValueError(
                f"n_components is {n_components}, but x has {n_rows} rows of positive weight: maximum likelihood needs at least "
                "one row a component. Use fewer components, or prior='default'."
            )
        return None
    if not isinstance(prior, Prior):
        raise TypeError(f"prior must be 'default', None or a Prior, got {type(prior).__name__}.")
    shapes = GMM.unchecked(
        np.empty(n_components), np.empty((n_components, source.n_features)), np.empty(()), family
    )  # fmt: skip
    prior.check_fits(shapes)
    if (np.asarray(prior.concentration) < 1).any():
        raise ValueError(
            f"prior.concentration is {np.asarray(prior.concentration).tolist()}, but below 1 the Dirichlet density is infinite at "
            "weight 0, so no mode exists: use 1 or more for a fit, or a sampler, which needs no mode."
        )
    return prior


def _capacity(n_components: int, n_samples: int) -> int:
    padded = -(-n_components // 4) * 4
    return padded if n_samples * padded <= _PADDED else n_components


def _padded(gmm: GMM, capacity: int, centre: Array) -> GMM:
    """A GMM with inactive components up to `capacity`, and a leading axis of one start."""
    extra = capacity - gmm.n_components

    def pad(leaf: Array) -> Array:
        return jnp.concatenate([leaf, jnp.broadcast_to(leaf[:1], (extra, *leaf.shape[1:]))]) if extra else leaf

    weights = jnp.concatenate([gmm.weights, jnp.zeros(extra, gmm.weights.dtype)])
    covariances = pad(gmm.covariances) if get_family(gmm.family).per_component else gmm.covariances
    padded = GMM.unchecked(weights, pad(gmm.means), covariances, gmm.family)
    return jax.tree.map(lambda leaf: leaf[None], padded)


def _padded_prior(prior: Prior, capacity: int) -> Prior:
    concentration = np.ones(capacity)
    given = np.asarray(prior.concentration)
    concentration[: given.size if given.ndim else capacity] = given
    leaves = {name: np.asarray(getattr(prior, name)) for name in ("mean", "mean_precision", "degrees_of_freedom", "scale")}
    return Prior(concentration=concentration, **leaves, family=prior.family)


def _prior_constant(prior: Prior, n_components: int) -> float:
    return float(log_normaliser(prior, np.ones(n_components, bool), np, np.vectorize(math.lgamma)))


def _variance_floor(moments, kind: Family, dtype) -> np.ndarray:
    """Variances (pivots, for matrices) that count as collapsed: rounding of the data's own; inf where the data have none."""
    total_weight, mean, scatter = moments
    n_features = mean.shape[0]
    rounding = 10 * n_features * float(jnp.finfo(dtype).eps)
    size = (100 * np.finfo(float).eps * np.abs(mean)) ** 2
    if scatter.ndim == 2:
        covariance = scatter / total_weight
        scale = np.diagonal(covariance)
        try:
            pivots = np.diagonal(np.linalg.cholesky(covariance)) ** 2
        except np.linalg.LinAlgError:
            pivots = np.zeros(n_features)
        return np.where((pivots > rounding * scale) & (scale > size), rounding * pivots, np.inf)
    variance = scatter / total_weight
    if kind.scale_shape(n_features) == ():
        variance, size = variance.mean(keepdims=True), size.max(keepdims=True)
    return np.where(variance > size, rounding * variance, np.inf)


def _account(searches: list[_Search], n_components: int, prior, out, rtol: float, total_weight: float) -> Fit:
    """Choose the best start, trim the padding, and turn codes into statuses; raises or warns once."""
    columns = [jax.tree.map(np.asarray, search._replace(anchor=None)) for search in searches]
    gather = lambda get: np.concatenate([get(search) for search in columns])  # noqa: E731
    objective = gather(lambda s: s.objective).astype(float)
    log_likelihood = gather(lambda s: s.statistics.log_likelihood).astype(float)
    codes, n_steps = gather(lambda s: s.status), gather(lambda s: s.n_steps)
    status = tuple(Status(int(code)) if code != RUNNING else Status.max_steps for code in codes)
    trace = tuple(row[: n + 1] for search in columns for row, n in zip(search.trace, search.n_steps))

    usable = np.array([s in _USABLE for s in status])
    if not usable.any() and Status.collapsed not in status:
        raise FitError(f"no start of the fit can be used: {status[0].name}. {status[0].meaning}")
    candidates = usable if usable.any() else np.array([s is Status.collapsed for s in status])
    best = int(np.argmax(np.where(candidates, objective, -np.inf))) if objective[candidates].max() > -np.inf else int(np.argmax(candidates))
    restarts = Restarts(
        objective, log_likelihood, status, n_steps.astype(int), trace, best, tolerance=1e3 * rtol * total_weight + 1e-6
    )
    if status[best] is not Status.converged:
        advice = " prior='default'" if prior is None and status[best] is Status.collapsed else ""
        del advice
        warnings.warn(f"fit ended as {status[best].name!r}. {status[best].meaning}", FitWarning, stacklevel=3)
    batch, index = divmod(best, columns[0].status.shape[0]) if len(columns) > 1 else (0, best)
    chosen = jax.tree.map(lambda leaf: leaf[index], columns[batch].gmm)
    covariances = chosen.covariances
    if get_family(chosen.family).per_component:
        covariances = covariances[:n_components]
    leaves = (chosen.weights[:n_components], chosen.means[:n_components], covariances)
    gmm = GMM.unchecked(*(jnp.asarray(leaf.astype(out)) for leaf in leaves), chosen.family)
    return Fit(
        gmm=gmm,
        status=status[best],
        objective=float(objective[best]),
        log_likelihood=float(log_likelihood[best]),
        n_steps=int(n_steps[best]),
        trace=trace[best],
        restarts=restarts,
        prior=prior,
    )
