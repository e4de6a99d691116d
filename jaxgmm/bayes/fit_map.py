"""`fit_map`: the mode of `numpyro_model`, by NumPyro's AutoDelta and BFGS. A twin of `fit` that knows more priors."""

import dataclasses
import functools
import warnings
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoDelta

from jaxgmm.bayes.priors.base import log_prior_constant, log_prior_kernel, start_of_extra
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.target.bfgs import WhitenedMinimize
from jaxgmm.bayes.target.conditional import values_of_sites
from jaxgmm.bayes.target.coordinates import constrain_factored, layout_of
from jaxgmm.bayes.target.numpyro_model import numpyro_model
from jaxgmm.bayes.target.whitening import frame_at, shifted, spread
from jaxgmm.covariance import check_unrestricted, get_family
from jaxgmm.data import ArraySource, as_source, fingerprint
from jaxgmm.data.moments import Moments
from jaxgmm.data.padding import on_device, pad_rows, padded_rows
from jaxgmm.fitting.account import in_rows
from jaxgmm.fitting.arguments import check_held, names_in, resolve_init
from jaxgmm.fitting.fit import fit
from jaxgmm.fitting.priors import check_mode_exists, resolve_prior
from jaxgmm.fitting.result import Fit, Restarts
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.model.default_prior import not_a_prior
from jaxgmm.model.holding import Fixed, Held, check_fixed
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.steps import e_step
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.hints import OF_STARTS, keywords
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps, host_only

_RUNS = 20
_TRACE = 512  # least length of the compiled trace buffer: changing max_steps below it compiles nothing
_NEAR = 0.1  # nats: a run that gains less ends where its coordinates were made for
_OWN_SHARE = 1e-2  # of the gradient that counts as none, at which BFGS stops: its last steps are its fastest


@keywords(**OF_STARTS)
def fit_map(
    x: Float[ArrayLike, "N D"],
    n_components: int | None = None,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | RichardsonGreen | str = "default",
    init: Any = "k-means++",
    n_init: int = 10,
    rtol: float = 1e-15,
    max_steps: int = 1000,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    fixed: Fixed = (),
) -> Fit:
    """The maximum a posteriori mixture as NumPyro finds it: an `AutoDelta` guide of `numpyro_model`, by `Minimize` (BFGS).

    The same mode as MAP-EM's (of the density with respect to weights, means and covariances themselves), reached
    superlinearly: where components overlap and EM creeps, to more digits. It also takes a prior that EM can't take,
    `RichardsonGreen`. BFGS works in whitened coordinates, so units don't matter.

    Args:
        x: (N, D), finite, N >= 2; an array or a frame.
        n_components: K; may be left out where `init` holds it.
        key: a PRNG key, for the starts.
        family: "full", "tied", "diag" or "spherical", as in `fit`.
        prior: "default" (`Prior.default`), "fraley-raftery", a `Prior`, a `RichardsonGreen`, or a function that
            makes it of the default one.
        init: a GMM or a Fit, from which BFGS starts; or anything else that `fit` takes, whose result it starts from (fitted
            with the default prior where `prior` is a `RichardsonGreen`).
        n_init: number of starts of that fit.
        rtol: converged where an EM step would gain less than `rtol` nats per unit of weight, or than rounding.
        max_steps: the most BFGS steps.
        sample_weight: (N,), non-negative; 2 is a row twice, 0 no row.
        fixed: what to keep at the values of a GMM given as `init`, as for `fit`; equal weights need none.

    Returns:
        Fit. `n_steps` and `trace` count the steps of EM, if it made the start, and then those of BFGS. Of the `restarts`, only
        the best was polished.

    Raises:
        TypeError, ValueError: as `fit`, and for prior=None, which has no posterior.
        FitError: no start gave finite, consistent sums.

    Warns:
        FitWarning: BFGS did not converge.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit_map(x, n_components=2, key=jax.random.key(0), family="spherical")
        >>> fit.status.name, sorted(fit.gmm.weights.round(2).tolist())
        ('converged', [0.37, 0.63])
    """
    host_only("fit_map", x, sample_weight, key)
    check_key(key)
    source = as_source(x, sample_weight, min_rows=2, feature_names=names_in(init))
    if prior is None:
        raise not_a_prior(prior, "a RichardsonGreen")
    given, n_components, family = resolve_init(init, n_components, family, source)
    check_unrestricted(family, "fit_map")
    if held := check_fixed(fixed, n_components, family):
        check_held(held, given)
        given = held.of(given) if isinstance(given, GMM) else given
    if isinstance(given, GMM) and not (np.asarray(given.weights) > 0).all():
        empty = np.flatnonzero(np.asarray(given.weights) == 0).tolist()
        raise UserError(f"init has components of weight 0, {empty}, which have no gradient: drop them.")
    check_count(n_init, "n_init")
    max_steps = check_steps(max_steps)
    check_rtol(rtol)
    dtype, out = precision.compute_dtype(source.x), precision.parameter_dtype(source.x)
    with precision.scope(dtype):
        moments = on_device(source).moments(get_family(family).structure.dense, dtype)
        if isinstance(prior, RichardsonGreen):
            prior.check_fits(_shapes(n_components, source.n_features, family))
            check_mode_exists(prior.concentration)
        else:
            prior = cast(Prior, resolve_prior(prior, moments, n_components, family))
        start = None
        if not isinstance(given, GMM):
            em_prior = "default" if isinstance(prior, RichardsonGreen) else prior
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)  # a start need not have converged
                start = fit(
                    source.x, n_components, key=key, family=family, prior=em_prior, init=init, n_init=n_init,
                    sample_weight=sample_weight, fixed=held,
                )  # fmt: skip
            if Status.interrupted in start.restarts.status:  # by Ctrl-C, which ends this, too
                raise KeyboardInterrupt
            given = start.gmm
        climbed = _climb(given, source, prior, moments, rtol, max_steps, dtype, held)
    if start is not None and isinstance(prior, RichardsonGreen):
        start = None  # the steps of another objective are no part of this one
    return _account(climbed, start, prior, out, source, held)


class _Run(NamedTuple):
    """What one run of BFGS did, the means less the shift of the rows."""

    gmm: GMM
    extra: dict[str, Array]
    log_prior: Float[Array, ""]
    promised: Float[Array, ""]  # nats that an EM step would still gain
    n_steps: Array
    trace: Float[Array, " T"]  # log joint density


class _Climb(NamedTuple):
    """Runs of BFGS to the end."""

    gmm: GMM
    status: Status
    log_likelihood: float
    trace: np.ndarray


def _shapes(n_components: int, n_features: int, family: str) -> GMM:
    return GMM.unchecked(np.empty(n_components), np.empty((n_components, n_features)), np.empty(()), family)


def _climb(
    start: GMM,
    source: ArraySource,
    prior: Any,
    moments: Moments,
    rtol: float,
    max_steps: int,
    dtype: np.dtype,
    held: Held,
) -> _Climb:
    """Runs of BFGS, each in coordinates made where the last one ended."""
    total, shift = moments.total_weight, jnp.asarray(moments.mean, dtype)
    x = padded_rows(np.asarray(source.x, dtype) - np.asarray(shift), summed=False)
    weight = pad_rows(np.asarray(source.weight, dtype), len(x))
    prior = shifted(precision.cast(prior, dtype), shift)
    start = precision.cast(start, dtype)
    layout = layout_of(start, prior, held)
    gmm = start.moved(-shift)
    extra = start_of_extra(prior, gmm)
    constant = np.asarray(log_prior_constant(jax.tree.map(np.asarray, prior), layout.n_components), dtype)
    eps = float(jnp.finfo(dtype).eps)

    # What an EM step gains is, to first order, half the squared gradient in these coordinates.
    gtol = np.asarray(_OWN_SHARE * np.sqrt(2 * max(rtol, eps) * total / layout.size), dtype)
    trace_length = max(_TRACE, 1 << (max_steps + 1).bit_length())
    trace, status, log_likelihood = np.empty(0), Status.max_steps, -np.inf
    for _ in range(_RUNS):
        left = np.int32(max_steps - max(trace.size - 1, 0))
        run = _descend(x, weight, prior, constant, gmm, extra, left, gtol, layout, trace_length)
        steps = np.asarray(run.trace[: int(run.n_steps) + 1], float)
        trace = np.append(trace, steps[min(trace.size, 1) :])  # a run begins where the one before ended
        if not np.isfinite(trace[-1]):
            status = Status.not_finite
            break
        gmm, extra, log_likelihood = run.gmm, run.extra, float(trace[-1] - run.log_prior)
        least = max(rtol * total, 4 * eps * abs(trace[-1]))
        if steps[-1] - steps[0] < _NEAR and float(run.promised) <= least:
            status = Status.converged
            break
        if trace.size > max_steps or steps.size == 1:
            break
    found = held.put_back(jax.tree.map(np.asarray, gmm.moved(shift)), start)
    return _Climb(found, status, log_likelihood, trace)


@functools.partial(jax.jit, static_argnames=("layout", "trace_length"))
def _descend(x, weight, prior, constant, start, extra, max_steps, gtol, layout, trace_length):
    """One run of BFGS, which descends: in minus the log density."""
    frame = frame_at(start, extra, prior, weight.sum(), layout)
    sites = values_of_sites(start, extra, layout.held)

    def moving(vector: Array) -> Array:
        return vector[layout.free] if layout.held else vector

    # Without the rows: NumPyro tries out what a guide is made for, and these values need no trial.
    guide = AutoDelta(handlers.block(numpyro_model, hide=["x"]), init_loc_fn=init_to_value(values=sites))
    optimiser = WhitenedMinimize(lambda v: moving(spread(frame, v, layout)), max_steps, gtol, trace_length)
    search = SVI(numpyro_model, guide, optimiser, Trace_ELBO())
    arguments = (x, layout.n_components, layout.family, prior)
    known: dict[str, Any] = {"sample_weight": weight} | ({"fixed": layout.held, "init": start} if layout.held else {})
    state = search.init(jax.random.key(0), *arguments, **known)
    state, _ = search.update(state, *arguments, **known)
    found, parameters = state.optim_state
    vector = parameters.flat_params  # NumPyro's coordinates are ours, of what moves
    vector = frame.origin.at[layout.free].set(vector) if layout.held else vector
    gmm, factor, extra, _ = constrain_factored(vector, layout)
    gmm = layout.held.put_back(gmm, start, jnp)
    log_prior = log_prior_kernel(prior, gmm, factor, extra) + constant
    return _Run(gmm, extra, log_prior, (found.gradient**2).sum() / 2, found.n_steps, -found.trace)


def _expected_rows(gmm: GMM, prior: Any, source: ArraySource, held: Held) -> np.ndarray:
    """What weights at the mode say of the rows: weights_k = (N_k + alpha_k - 1) / (N + sum_j (alpha_j - 1))."""
    if held.weights:  # they say nothing
        return in_rows(np.asarray(e_step(gmm, source.x, source.weight).counts), source)
    weights = np.asarray(gmm.weights)
    total = np.asarray(source.weight, float).sum()
    pseudo = np.broadcast_to(np.asarray(prior.concentration, float) - 1, weights.shape)
    return in_rows(weights * (total + pseudo.sum()) - pseudo, source)


def _account(climbed: _Climb, start: Fit | None, prior: Any, out: np.dtype, source: ArraySource, held: Held) -> Fit:
    """What `fit` would say of it; warns once."""
    gmm, status, log_likelihood, trace = climbed
    if status is not Status.converged:
        warnings.warn(f"fit_map ended as {status.name!r}. {status.meaning}", FitWarning, stacklevel=4)
    if start is None:
        whole = np.asarray(trace)
        restarts = Restarts(
            whole[-1:], np.asarray([log_likelihood]), (status,), np.asarray([whole.size - 1]), (whole,), 0, 1e-6
        )
    else:
        best, old = start.restarts.best, start.restarts
        whole = np.concatenate([old.trace[best], trace[1:]])

        def replaced(values: Any, new: Any) -> Any:
            values = list(values)
            values[best] = new
            return values

        restarts = dataclasses.replace(
            old,
            objective=np.asarray(replaced(old.objective, whole[-1])),
            log_likelihood=np.asarray(replaced(old.log_likelihood, log_likelihood)),
            status=tuple(replaced(old.status, status)),
            n_steps=np.asarray(replaced(old.n_steps, whole.size - 1)),
            trace=tuple(replaced(old.trace, whole)),
        )
    return Fit(
        gmm=precision.as_parameters(gmm, out).named(source.feature_names),
        status=status,
        objective=float(whole[-1]),
        log_likelihood=log_likelihood,
        n_steps=whole.size - 1,
        trace=whole,
        restarts=restarts,
        prior=prior,
        fingerprint=fingerprint(source),
        expected_rows=_expected_rows(gmm, prior, source, held),
        total_weight=float(np.asarray(source.weight, float).sum()),
        fixed=held,
    )
