"""`fit`: expectation-maximisation from many starts, for maximum a posteriori or maximum likelihood."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm import precision
from jaxgmm.covariance import Family, get_family
from jaxgmm.data import ArraySource, as_source, fingerprint
from jaxgmm.fitted import Fit, Progress, Restarts, best_start
from jaxgmm.initialisation import METHODS, assigned_start, check_assigned, column_scales, is_dense, seed_uniforms, seeded_starts
from jaxgmm.mixture import GMM
from jaxgmm.prior import Prior, log_normaliser
from jaxgmm.search import Method, Rules, Search, climb
from jaxgmm.statistics import PARAMETERS, check_fixed, column_moments
from jaxgmm.status import RUNNING, FitWarning, Status
from jaxgmm.validation import check_count, check_key, in_jit, is_finite_number, is_traced, unknown

STOPPING = ("relative", "aitken")
ACCELERATION = ("squarem",)
_TOGETHER = 1 << 21  # responsibilities up to which restarts run as one batch; with more, they run in turn
_PADDED = 1 << 16  # responsibilities up to which K is padded to a multiple of four, to share compilations

Moments = tuple[float, np.ndarray, np.ndarray]


def fit(
    x: Float[ArrayLike, "N D"],
    n_components: int | None = None,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | str | None = "default",
    init: Any = "k-means++",
    n_init: int = 10,
    rtol: float = 1e-8,
    max_steps: int = 500,
    sample_weight: Float[ArrayLike, " N"] | None = None,
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
        ('converged', [0.36, 0.64])
    """
    if is_traced(x, sample_weight, key) or in_jit():
        raise TypeError("fit runs its own compiled loop on the host; inside jit, vmap or grad use e_step and m_step.")
    check_key(key)
    source = as_source(x, sample_weight, min_rows=2)
    given, n_components, family = _resolve_init(init, n_components, family, source)
    n_starts = check_count(n_init, "n_init")
    if given is not None:
        n_starts = 1
    max_steps = check_count(max_steps, "max_steps")
    method = Method(check_fixed(fixed), stopping, acceleration)
    _check_settings(rtol, method, given)
    dtype, out = precision.compute_dtype(source.x), precision.parameter_dtype(source.x)

    with precision.scope(dtype):
        data = ArraySource(jax.device_put(source.x), jax.device_put(source.weight))  # `jnp.asarray` would copy twice
        moments = column_moments(data.x, data.weight, is_dense(family), dtype)
        prior = _resolve_prior(prior, moments, n_components, family, source)
        capacity = _capacity(n_components, source.n_samples)
        active = np.arange(capacity) < n_components
        if isinstance(given, GMM):
            active[:n_components] &= np.asarray(given.weights) > 0
        rules = _rules(prior, moments, active, n_components, family, rtol, dtype)
        if "covariances" in method.fixed:  # what is held can't collapse
            rules = rules._replace(floor=jnp.zeros_like(rules.floor))
        if given is None:
            scales = column_scales(*moments, family).astype(dtype)
            uniforms = seed_uniforms(key, n_starts, n_components, capacity).astype(dtype)
        at_once = n_starts if source.n_samples * capacity * n_starts <= _TOGETHER else 1
        searches = []
        for first in range(0, n_starts, at_once):
            if given is None:
                starts = seeded_starts(
                    data.x, data.weight, uniforms[first : first + at_once], rules.centre, scales, n_components, init, family,
                    rules.prior,
                )  # fmt: skip
            else:
                starts = _given_start(given, data, rules, prior, n_components, capacity, family, dtype)
            last = min(first + at_once, n_starts)
            report = None if callback is None else _reporter(callback, last, n_starts, max_steps)
            searches.append(jax.tree.map(np.asarray, climb(starts, data, rules, max_steps, method, report)))
    return _account(searches, n_components, prior, out, rtol * moments[0], fingerprint(source))


def _reporter(callback: Callable[[Progress], None], start: int, n_starts: int, max_steps: int) -> Callable[[Search], None]:
    def report(search: Search) -> None:
        steps, best = int(np.asarray(search.n_steps).max()), float(np.asarray(search.objective).max())
        callback(Progress(start, n_starts, steps, max_steps, best))

    return report


def _resolve_init(init: Any, n_components: int | None, family: str, source: ArraySource) -> tuple[Any, int, str]:
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
        if init.n_features != source.n_features:
            raise ValueError(f"init is a GMM of {init.n_features} features, but x has {source.n_features} columns.")
        if family not in ("full", init.family):
            raise ValueError(f"family is {family!r}, but init is a GMM of family {init.family!r}: leave family out.")
        given, held, family = init, init.n_components, init.family
    else:
        given, held = check_assigned(init, source.n_samples)
    if n_components not in (None, held):
        raise ValueError(f"n_components is {n_components}, but init holds {held} components: leave n_components out.")
    return given, held, family


def _check_settings(rtol: Any, method: Method, given: Any) -> None:
    if not is_finite_number(rtol) or rtol < 0:
        raise ValueError(f"rtol must be a number >= 0 (nats per unit of weight), got {rtol!r}.")
    if method.stopping not in STOPPING:
        raise unknown("stopping", method.stopping, STOPPING)
    if method.acceleration is not None and method.acceleration not in ACCELERATION:
        raise unknown("acceleration", method.acceleration, ACCELERATION)
    if method.acceleration and method.stopping == "aitken":
        raise ValueError("stopping='aitken' needs successive plain EM steps: use acceleration=None, or stopping='relative'.")
    if method.fixed and not isinstance(given, GMM):
        raise ValueError(f"fixed={method.fixed!r} keeps values of the start, so init must be a GMM that holds them.")
    if len(method.fixed) == len(PARAMETERS):
        raise ValueError("fixed names all three parameters: nothing is left to fit.")


def _resolve_prior(prior: Any, moments: Moments, n_components: int, family: str, source: ArraySource) -> Prior | None:
    if isinstance(prior, str):
        if prior != "default":
            raise unknown("prior", prior, ["default"])
        return Prior.from_moments(*moments, n_components, family)
    if prior is None:
        n_rows = int((np.asarray(source.weight) > 0).sum())
        if n_components > n_rows:
            raise ValueError(
                f"n_components is {n_components}, but x has {n_rows} rows of positive weight: maximum likelihood needs at "
                "least one row a component. Use fewer components, or prior='default'."
            )
        return None
    if not isinstance(prior, Prior):
        raise TypeError(f"prior must be 'default', None or a Prior, got {type(prior).__name__}.")
    shapes = GMM.unchecked(
        np.empty(n_components), np.empty((n_components, source.n_features)), np.empty(()), family
    )  # fmt: skip
    prior.check_fits(shapes)
    check_mode_exists(prior.concentration)
    return prior


def check_mode_exists(concentration: Any) -> None:
    """Raises ValueError where the Dirichlet prior of the weights has no interior mode."""
    if (np.asarray(concentration) < 1).any():
        raise ValueError(
            f"prior.concentration is {np.asarray(concentration).tolist()}, but below 1 the Dirichlet density is "
            "infinite at weight 0, so no mode exists: use 1 or more for a fit, or a sampler, which needs no mode."
        )


def _capacity(n_components: int, n_samples: int) -> int:
    padded = -(-n_components // 4) * 4
    return padded if n_samples * padded <= _PADDED else n_components


def _given_start(
    given: Any,
    data: ArraySource,
    rules: Rules,
    prior: Prior | None,
    n_components: int,
    capacity: int,
    family: str,
    dtype: Any,
) -> GMM:
    """A GMM, or the M-step of responsibilities or labels, padded to `capacity`, with a leading axis of one start."""
    if not isinstance(given, GMM):
        own = None if prior is None else _as_dtype(prior, dtype)
        given = assigned_start(data.x, data.weight, given, rules.centre, n_components, family, own)
    given = _as_dtype(given, dtype)

    def pad(leaf: np.ndarray) -> np.ndarray:
        return np.concatenate([leaf, np.repeat(leaf[:1], capacity - n_components, axis=0)])

    weights = np.concatenate([given.weights, np.zeros(capacity - n_components, dtype)])
    covariances = pad(given.covariances) if get_family(family).per_component else given.covariances
    return GMM.unchecked(weights[None], pad(given.means)[None], covariances[None], family)


def _as_dtype(tree: Any, dtype: Any) -> Any:
    """Leaves as NumPy arrays of one dtype: unlike `jnp.asarray`, this compiles nothing."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)


def _rules(
    prior: Prior | None, moments: Moments, active: np.ndarray, n_components: int, family: str, rtol: float, dtype: Any
) -> Rules:
    total_weight, mean, _ = moments
    constant = 0.0
    if prior is not None:
        alpha = np.ones(active.size)
        alpha[:n_components] = prior.concentration
        prior = dataclasses.replace(_as_dtype(prior, np.float64), concentration=alpha)
        constant = log_normaliser(prior, active, np, np.vectorize(math.lgamma))
        prior = _as_dtype(prior, dtype)
    floor = _pivot_floor(moments, get_family(family), dtype)
    numbers = _as_dtype((constant, mean, floor, total_weight, rtol), dtype)
    fields: tuple[Any, ...] = (prior, numbers[0], active, *numbers[1:])
    return Rules(*fields)


def _pivot_floor(moments: Moments, kind: Family, dtype: Any) -> np.ndarray:
    """Variances (pivots, for matrices) that are rounding of the data's own; inf where the data have none to begin with."""
    total_weight, mean, scatter = moments
    n_features = mean.shape[0]
    rounding = 10 * n_features * float(jnp.finfo(dtype).eps)
    constant = 100 * np.finfo(float).eps * np.abs(mean)  # sd of a column that doesn't vary
    if scatter.ndim == 2:
        covariance = scatter / total_weight
        scale = np.diagonal(covariance)
        try:
            pivots = np.diagonal(np.linalg.cholesky(covariance)) ** 2
        except np.linalg.LinAlgError:
            pivots = np.zeros(n_features)
        return np.where((pivots > rounding * scale) & (np.sqrt(scale) > constant), rounding * pivots, np.inf)
    variance = scatter / total_weight
    if kind.scale_shape(n_features) == ():
        variance, constant = variance.mean(keepdims=True), constant.max(keepdims=True)
    return np.where(np.sqrt(variance) > constant, rounding * variance, np.inf)


def _account(searches: list[Search], n_components: int, prior: Prior | None, out: Any, resolution: float, data: str) -> Fit:
    """Choose the best start, trim the padding, and turn codes into statuses; warns once."""

    def gather(get: Callable[[Search], Any]) -> np.ndarray:
        return np.concatenate([get(search) for search in searches])

    n_steps = gather(lambda search: search.n_steps)
    status = tuple(Status(code) if code != RUNNING else Status.max_steps for code in gather(lambda s: s.status).tolist())
    objective = gather(lambda search: search.objective).astype(float)
    best = best_start(objective, status)
    restarts = Restarts(
        objective=objective,
        log_likelihood=gather(lambda search: search.statistics.log_likelihood).astype(float),
        status=status,
        n_steps=n_steps,
        trace=tuple(row[: n + 1] for row, n in zip(gather(lambda search: search.trace), n_steps, strict=True)),
        best=best,
        # What is left when steps gain `resolution` at a rate of 0.999; never so much that optima that differ look alike.
        tolerance=min(1e3 * resolution, 0.1) + 1e-6,
    )
    if status[best] is not Status.converged:
        warnings.warn(f"fit ended as {status[best].name!r}. {status[best].meaning}", FitWarning, stacklevel=3)
    batch, index = divmod(best, len(searches[0].status))
    chosen = searches[batch].gmm
    covariances = chosen.covariances[index]
    if get_family(chosen.family).per_component:
        covariances = covariances[:n_components]
    leaves = chosen.weights[index, :n_components], chosen.means[index, :n_components], covariances
    return Fit(
        gmm=jax.tree.map(lambda leaf: precision.as_parameter(leaf, out), GMM.unchecked(*leaves, family=chosen.family)),
        status=status[best],
        objective=float(objective[best]),
        log_likelihood=float(restarts.log_likelihood[best]),
        n_steps=int(n_steps[best]),
        trace=restarts.trace[best],
        restarts=restarts,
        prior=prior,
        fingerprint=data,
    )
