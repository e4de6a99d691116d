"""`fit_map`: the mode of `numpyro_model`, by NumPyro's AutoDelta and BFGS. A twin of `fit` that knows more priors."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.optimize import minimize
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoDelta
from numpyro.optim import Minimize

from jaxgmm import precision
from jaxgmm.bayes.model import numpyro_model
from jaxgmm.bayes.priors import RichardsonGreen, log_prior_constant, log_prior_kernel, start_of_extra
from jaxgmm.bayes.unconstrained import constrain_factored, layout_of
from jaxgmm.bayes.whitening import frame_at, shifted, spread
from jaxgmm.data import ArraySource, as_source, fingerprint
from jaxgmm.em import _resolve_init, _resolve_prior, check_mode_exists, fit
from jaxgmm.fitted import Fit, Restarts
from jaxgmm.initialisation import is_dense
from jaxgmm.mixture import GMM, log_joint
from jaxgmm.prior import Prior
from jaxgmm.statistics import column_moments
from jaxgmm.status import FitWarning, Status
from jaxgmm.validation import check_count, check_key, in_jit, is_finite_number, is_traced

_RUNS = 20
_NEAR = 0.1  # nats: a run that gains less ends where its coordinates were made for
_OWN_SHARE = 1e-2  # of the gradient that counts as none, at which BFGS stops: its last steps are its fastest


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
) -> Fit:
    """The maximum a posteriori mixture as NumPyro finds it: an `AutoDelta` guide of `numpyro_model`, by `Minimize` (BFGS).

    The same mode as MAP-EM's (of the density with respect to weights, means and covariances themselves), reached
    superlinearly: where components overlap and EM creeps, to more digits. It also takes a prior that EM can't take,
    `RichardsonGreen`. BFGS works in whitened coordinates, so units don't matter.

    Args:
        x: (N, D), finite, N >= 2.
        n_components: K; may be left out where `init` holds it.
        key: a PRNG key, for the starts.
        family: "full", "tied", "diag" or "spherical", as in `fit`.
        prior: "default" (`Prior.default`), a `Prior`, or a `RichardsonGreen`.
        init: a GMM or a Fit, from which BFGS starts; or anything else that `fit` takes, whose result it starts from (fitted
            with the default prior where `prior` is a `RichardsonGreen`).
        n_init: number of starts of that fit.
        rtol: converged where an EM step would gain less than `rtol` nats per unit of weight, or than rounding.
        max_steps: the most BFGS steps.
        sample_weight: (N,), non-negative; 2 is a row twice, 0 no row.

    Returns:
        Fit. `n_steps` and `trace` count EM's steps, if it made the start, and then each run of BFGS, which starts afresh
        in better coordinates until it has nothing to do, as one step. Of the `restarts`, only the best was polished.

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
        ('converged', [0.36, 0.64])
    """
    if is_traced(x, sample_weight, key) or in_jit():
        raise TypeError("fit_map runs its own compiled loop on the host: call it outside jit, vmap and grad.")
    check_key(key)
    source = as_source(x, sample_weight, min_rows=2)
    if prior is None:
        raise ValueError(
            "prior is None, maximum likelihood, which is what `fit` is for: 'default', a Prior or RichardsonGreen."
        )
    given, n_components, family = _resolve_init(init, n_components, family, source)
    if isinstance(given, GMM) and not (np.asarray(given.weights) > 0).all():
        empty = np.flatnonzero(np.asarray(given.weights) == 0).tolist()
        raise ValueError(f"init has components of weight 0, {empty}, which have no gradient: drop them.")
    check_count(n_init, "n_init")
    max_steps = check_count(max_steps, "max_steps")
    if not is_finite_number(rtol) or rtol < 0:
        raise ValueError(f"rtol must be a number >= 0 (nats per unit of weight), got {rtol!r}.")
    dtype, out = precision.compute_dtype(source.x), precision.parameter_dtype(source.x)
    with precision.scope(dtype):
        moments = column_moments(source.x, source.weight, is_dense(family), dtype)
        if isinstance(prior, RichardsonGreen):
            prior.check_fits(_shapes(n_components, source.n_features, family))
            check_mode_exists(prior.concentration)
        else:
            prior = cast(Prior, _resolve_prior(prior, moments, n_components, family, source))
        start = None
        if not isinstance(given, GMM):
            em_prior = "default" if isinstance(prior, RichardsonGreen) else prior
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)  # a start need not have converged
                start = fit(
                    source.x, n_components, key=key, family=family, prior=em_prior, init=init, n_init=n_init,
                    sample_weight=sample_weight,
                )  # fmt: skip
            given = start.gmm
        climbed = _climb(given, source, prior, sample_weight is not None, moments, rtol, max_steps, dtype)
    if start is not None and isinstance(prior, RichardsonGreen):
        start = None  # the steps of another objective are no part of this one
    return _account(climbed, start, prior, out, fingerprint(source))


class _Run(NamedTuple):
    """What one run of BFGS did, the means less the shift of the rows."""

    gmm: GMM
    extra: dict[str, Array]
    before: Float[Array, ""]  # log joint density
    objective: Float[Array, ""]
    log_prior: Float[Array, ""]
    n_steps: Array
    promised: Float[Array, ""]  # nats that an EM step would still gain


class _Climb(NamedTuple):
    """Runs of BFGS to the end."""

    gmm: GMM
    status: Status
    log_likelihood: float
    trace: list[float]


class _Whitened(Minimize):
    """NumPyro's `Minimize` in other coordinates of the parameters, which also says how many steps it took and how it ended."""

    def __init__(self, spread: Callable[[Array], Array], **options: Any) -> None:
        super().__init__(options=options)
        self._spread = spread

    def eval_and_update(self, fn: Callable, state: Any, forward_mode_differentiation: bool = False) -> Any:
        """One run; the first part of the state becomes (steps, half the squared gradient)."""
        _, inner = state
        origin = inner.flat_params
        loss = lambda v: fn(inner.unravel_fn(origin + self._spread(v)))[0]  # noqa: E731
        found = minimize(loss, jnp.zeros_like(origin), method=self._method, **self._kwargs)
        return (found.fun, None), (
            (found.nit, (found.jac**2).sum() / 2),
            inner._replace(flat_params=origin + self._spread(found.x)),
        )


def _shapes(n_components: int, n_features: int, family: str) -> GMM:
    return GMM.unchecked(np.empty(n_components), np.empty((n_components, n_features)), np.empty(()), family)


def _climb(
    start: GMM,
    source: ArraySource,
    prior: Any,
    weighted: bool,
    moments: Any,
    rtol: float,
    max_steps: int,
    dtype: Any,
) -> _Climb:
    """Runs of BFGS, each in coordinates made where the last one ended."""
    total, shift, _ = moments
    shift = jnp.asarray(shift, dtype)
    x = jnp.asarray(source.x, dtype) - shift
    weight = jnp.asarray(source.weight, dtype) if weighted else None
    prior = shifted(precision.cast(prior, dtype), shift)
    start = precision.cast(start, dtype)
    layout = layout_of(start, prior)
    gmm = GMM.unchecked(start.weights, start.means - shift, start.covariances, start.family)
    extra = start_of_extra(prior, gmm)
    constant = np.asarray(log_prior_constant(jax.tree.map(np.asarray, prior), layout.n_components), dtype)
    eps = float(jnp.finfo(dtype).eps)

    trace: list[float] = []
    status, log_likelihood, left = Status.max_steps, -np.inf, max_steps
    for _ in range(_RUNS):
        gtol = _OWN_SHARE * np.sqrt(2 * max(rtol, eps) * total / layout.size)
        run = _descend(x, weight, prior, constant, gmm, extra, np.int32(left), np.asarray(gtol, dtype), layout)
        before, objective, promised = float(run.before), float(run.objective), float(run.promised)
        trace = trace or [before]
        if not np.isfinite(objective):
            status = Status.not_finite
            break
        gmm, extra, log_likelihood = run.gmm, run.extra, objective - float(run.log_prior)
        gained = objective - trace[-1]
        trace.append(objective)
        left -= int(run.n_steps)
        if gained < _NEAR and promised <= max(rtol * total, 4 * eps * abs(objective)):
            status = Status.converged
            break
        if left <= 0:
            break
    moved = GMM.unchecked(gmm.weights, gmm.means + shift, gmm.covariances, gmm.family)
    return _Climb(jax.tree.map(np.asarray, moved), status, log_likelihood, trace)


@functools.partial(jax.jit, static_argnames="layout")
def _descend(x, weight, prior, constant, start, extra, max_steps, gtol, layout):
    """One run of BFGS, which descends: in minus the log density."""
    total = x.shape[0] if weight is None else weight.sum()
    frame = frame_at(start, extra, prior, total, layout)
    sites = {"weights": start.weights, "means": start.means, "covariances": start.covariances} | extra
    # Without the rows: NumPyro tries out what a guide is made for, and these values need no trial.
    guide = AutoDelta(handlers.block(numpyro_model, hide=["x"]), init_loc_fn=init_to_value(values=sites))
    optimiser = _Whitened(functools.partial(spread, frame, layout=layout), maxiter=max_steps, gtol=gtol)
    search = SVI(numpyro_model, guide, optimiser, Trace_ELBO())
    arguments = (x, layout.n_components, layout.family, prior)
    state = search.init(jax.random.key(0), *arguments, sample_weight=weight)
    state, loss = search.update(state, *arguments, sample_weight=weight)
    (n_steps, promised), found = state.optim_state

    def look(vector: Array) -> tuple[GMM, dict[str, Array], Array, Array]:
        gmm, factor, extra, _ = constrain_factored(vector, layout)
        log_density = logsumexp(log_joint(gmm, x, factor), axis=-1)
        log_likelihood = log_density.sum() if weight is None else weight @ log_density
        return gmm, extra, log_likelihood, log_prior_kernel(prior, gmm, factor, extra) + constant

    *_, likelihood_before, prior_before = look(frame.origin)
    gmm, extra, _, log_prior = look(found.flat_params)
    return _Run(gmm, extra, likelihood_before + prior_before, -loss, log_prior, n_steps, promised)


def _account(climbed: _Climb, start: Fit | None, prior: Any, out: Any, data: str) -> Fit:
    """What `fit` would say of it; warns once."""
    gmm, status, log_likelihood, trace = climbed
    if status is not Status.converged:
        warnings.warn(f"fit_map ended as {status.name!r}. {status.meaning}", FitWarning, stacklevel=3)
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
        gmm=jax.tree.map(lambda leaf: precision.as_parameter(leaf, out), gmm),
        status=status,
        objective=float(whole[-1]),
        log_likelihood=log_likelihood,
        n_steps=whole.size - 1,
        trace=whole,
        restarts=restarts,
        prior=prior,
        fingerprint=data,
    )
