"""Gaussian approximations of the posterior: Laplace's, and guides fitted by stochastic variational inference.

Both are NumPyro's guides, in whitened coordinates (`target`).
"""

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.example_libraries.optimizers import unpack_optimizer_state
from jaxtyping import Array
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from numpyro.optim import Adam

from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import (
    NUMBERS_AT_ONCE,
    Tangent,
    Target,
    coordinates,
    draws_from,
    log_prior_at,
    log_rows_at,
    point_at,
    tangent_of,
    target_of,
    whitened_model,
)
from jaxgmm.fitting.status import FitError, FitWarning
from jaxgmm.tools.blocks import map_draws
from jaxgmm.tools.validation import check_count, is_finite_number, unknown

GUIDES: dict[str, type[AutoContinuous]] = {
    "multivariate_normal": AutoMultivariateNormal,
    "normal": AutoDiagonalNormal,
    "low_rank": AutoLowRankMultivariateNormal,
}
_NEWTON_STEPS = 100
_HALVINGS = 30
_FLATTEST = 1e-3  # curvature, relative to that with known allocations, that Newton's method counts on
_AT_MODE = 1e-8  # nats that a Newton step still promises
_PARTICLES = 8
_CHUNKS = 40  # of a run: as often is progress reported, and as many values of the ELBO kept
_DECAY = 0.9  # of Adam's averages of gradients and of their squares
_DECAY_SQUARES = 0.999
_SETTLED = 0.05  # nats


def laplace(problem: Problem, key: Array, n_draws: int, n_chains: int) -> Draws:
    """Draws from the Gaussian with the mode and curvature of the log posterior of the unconstrained parameters.

    NumPyro's `AutoLaplaceApproximation`, at the mode that Newton's method finds from the start: its derivatives are those that
    the approximation is made of. That mode isn't the one of `fit`, whose density is with respect to the parameters themselves.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.

    Returns:
        Draws; `attrs["pareto_k"]` says how far they can be trusted, `attrs["elbo"]` is an evidence bound in nats.

    Raises:
        FitError: the log posterior has no peak near the start, so there is no such Gaussian.

    Warns:
        FitWarning: k-hat above 0.7.
    """
    target, layout = target_of(problem), problem.layout
    mode, curvature = _peak(target, layout)
    guide = AutoLaplaceApproximation(lambda: None, hessian_fn=lambda *_: curvature)
    q = guide.get_posterior({"auto_loc": mode})
    return draws_from(q, target, layout, key, (n_chains, n_draws), {"guide": "laplace"})


def _peak(target: Target, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The mode, and minus the second derivatives of the log density there."""
    v = np.zeros(layout.size, target.x.dtype)
    height, gradient, curvature = _survey(v, target, layout)
    for _ in range(_NEWTON_STEPS):
        if not (np.isfinite(height) and np.isfinite(gradient).all() and np.isfinite(curvature).all()):
            raise FitError("laplace: the log posterior is not finite near the start. Start from a fit that converged.")
        values, vectors = np.linalg.eigh(curvature)  # of 1, where the allocations are as good as known
        uphill = vectors.T @ gradient
        along = uphill / np.maximum(abs(values), _FLATTEST)
        promised = float(along @ uphill) / 2
        if promised < _AT_MODE and values[0] > 0:
            return v, curvature
        if values[0] < -_FLATTEST:  # a saddle: components that coincide only part if pushed
            along[0] += np.copysign(1, along[0])
        step = vectors @ along
        step *= min(1, 2 * np.sqrt(layout.size) / np.linalg.norm(step))
        for _ in range(_HALVINGS):
            there = _survey(v + step, target, layout)
            if there[0] > height - _AT_MODE:
                break
            step = step / 2
        else:
            break
        v, (height, gradient, curvature) = v + step, there
    raise FitError(
        f"laplace: no peak of the log posterior was found near the start: a step still promises {promised:.2g} nats, and the "
        f"relative curvature is {values[0]:.2g} in the flattest direction, as where components coincide or own no rows. "
        "Take fewer components, another start, or method='gibbs'."
    )


def _survey(v: np.ndarray, target: Target, layout: Layout) -> tuple[float, np.ndarray, np.ndarray]:
    height, gradient, curvature = jax.tree.map(np.asarray, _derivatives(v, target, layout))
    return float(height), gradient, (curvature + curvature.T) / 2


@functools.partial(jax.jit, static_argnums=2)
def _derivatives(v: Array, target: Target, layout: Layout) -> tuple[Array, Array, Array]:
    """Log density, gradient, and minus second derivatives with respect to the whitened coordinates."""

    def log_density(v: Array) -> Array:
        point = point_at(v, target, layout)
        return log_prior_at(point, target, layout) + log_rows_at(point, target.x, target.weight).sum()

    def column(direction: Array) -> tuple[tuple[Array, Array], Array]:
        here, (_, second) = jax.jvp(jax.value_and_grad(log_density), (v,), (direction,))
        return here, -second

    at_once = int(np.clip(NUMBERS_AT_ONCE // (target.x.size * layout.n_components), 1, layout.size))
    (height, gradient), curvature = map_draws(column, jnp.eye(layout.size, dtype=target.x.dtype), at_once)
    return height[0], gradient[0], curvature


class Settings(NamedTuple):
    """Static settings of a variational run: each combination is a program of its own."""

    layout: Layout
    guide: str
    n_particles: int
    batch_size: int | None


def svi(
    problem: Problem,
    key: Array,
    n_draws: int,
    n_chains: int,
    *,
    guide: str = "multivariate_normal",
    n_steps: int = 2000,
    learning_rate: float = 0.02,
    batch_size: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Draws:
    """Draws from a Gaussian guide fitted to the log posterior of the unconstrained parameters by maximising the ELBO.

    Adam with a step size that falls to zero as a cosine. The guide starts at the fit, with the covariance it would have if the
    allocations were known.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.
        guide: "multivariate_normal"; "normal", independent in whitened coordinates, where a component's features are
            decorrelated; or "low_rank", a diagonal plus a covariance of rank sqrt(size), for many parameters.
        n_steps: of Adam.
        learning_rate: the first step size, in posterior standard deviations.
        batch_size: rows of a minibatch; None: all of them.
        report: called now and then with (steps done, steps in all).

    Returns:
        Draws. Of its `attrs`, `pareto_k` says how far they can be trusted, `elbo` is the evidence bound in nats and
        `elbo_trace` its course, and `converged` says that moving the guide's centre promises nothing more.

    Raises:
        TypeError, ValueError: settings that can't be used.
        FitError: the guide ran away.

    Warns:
        FitWarning: k-hat above 0.7, or a guide that did not settle.
    """
    if guide not in GUIDES:
        raise unknown("guide", guide, GUIDES)
    n_steps = check_count(n_steps, "n_steps")
    if not is_finite_number(learning_rate) or learning_rate <= 0:
        raise ValueError(f"learning_rate must be a positive number (posterior sds a step), got {learning_rate!r}.")
    n_samples, layout = problem.x.shape[0], problem.layout
    if batch_size is not None:
        batch_size = check_count(batch_size, "batch_size")
        if batch_size > n_samples:
            raise ValueError(f"batch_size must lie in 1..{n_samples}, the rows of x, got {batch_size}.")
    a_particle = (batch_size or n_samples) * layout.n_components * layout.n_features
    settings = Settings(layout, guide, int(np.clip(NUMBERS_AT_ONCE // a_particle, 1, _PARTICLES)), batch_size)

    target = target_of(problem)
    tangent = None if batch_size is None else tangent_of(target, layout)
    key_run, key_draws = jax.random.split(key)
    state, trace = _begin(key_run, target, tangent, settings), []
    ends = np.unique(np.linspace(0, n_steps, min(_CHUNKS, n_steps) + 1).round().astype(np.int32))
    for first, last in itertools.pairwise(ends):
        state, params, elbo = _advance(state, target, tangent, first, last, n_steps, float(learning_rate), settings)
        trace.append(float(elbo))
        if report is not None:
            report(int(last), n_steps)
    q = GUIDES[guide](lambda: None).get_posterior(params)
    q = q.to_event(1 - q.event_dim)
    promised, noise = _promised(state, q, n_steps)
    attrs = {
        "guide": guide,
        "n_steps": n_steps,
        "learning_rate": float(learning_rate),
        "batch_size": batch_size,
        "converged": promised <= max(_SETTLED, 3 * noise),
        "elbo_trace": trace,
    }
    if not attrs["converged"]:
        warnings.warn(
            f"svi: the guide did not settle in {n_steps} steps: moving its centre still promises {promised:.2g} nats. Raise "
            "n_steps.",
            FitWarning,
            stacklevel=3,
        )
    return draws_from(q, target, layout, key_draws, (n_chains, n_draws), attrs)


def _search(settings: Settings, n_steps: Any, learning_rate: Any) -> SVI:
    layout = settings.layout
    guide = GUIDES[settings.guide](
        # A model of the coordinates alone: a guide only needs to know their shape, and NumPyro tries out what it is given.
        lambda *_, **__: coordinates(layout),
        init_loc_fn=init_to_value(values={"v": np.zeros(layout.size)}),
        init_scale=1.0,
    )
    optimiser = Adam(lambda step: learning_rate * (1 + jnp.cos(jnp.pi * step / n_steps)) / 2, _DECAY, _DECAY_SQUARES)
    loss = Trace_ELBO(num_particles=settings.n_particles)
    return SVI(whitened_model, guide, optimiser, loss, layout=layout, batch_size=settings.batch_size)


@functools.partial(jax.jit, static_argnums=3)
def _begin(key: Array, target: Target, tangent: Tangent | None, settings: Settings) -> Any:
    return _search(settings, 1, 0.0).init(key, target, tangent)


@functools.partial(jax.jit, static_argnums=7)
def _advance(state, target, tangent, first, last, n_steps, learning_rate, settings):
    """Steps from `first` to `last`: the state, the guide's parameters, and the mean ELBO on the way."""
    search = _search(settings, n_steps, learning_rate)
    search.init(state.rng_key, target, tangent)  # tells the guide what it is a guide to; the result isn't used

    def step(_: Array, carry: Any) -> Any:
        state, count, elbo = carry
        state, loss = search.stable_update(state, target, tangent)
        fine = jnp.isfinite(loss)
        return state, count + fine, elbo - jnp.where(fine, loss, 0)

    zero = jnp.zeros((), target.x.dtype)
    state, count, elbo = lax.fori_loop(first, last, step, (state, zero, zero))
    return state, search.get_params(state), elbo / count


def _promised(state: Any, q: Any, n_steps: int) -> tuple[float, float]:
    """Nats that a Newton step of the guide's centre promises, by Adam's average of the last gradients; and their noise."""
    _, gradient, squares = unpack_optimizer_state(state.optim_state[1])["auto_loc"].subtree
    variance = np.asarray(q.variance)
    gradient = np.asarray(gradient) / (1 - _DECAY**n_steps)
    by_chance = variance * np.asarray(squares) / (1 - _DECAY_SQUARES**n_steps) * (1 - _DECAY) / (1 + _DECAY)
    promised = (variance * gradient**2 - by_chance).sum() / 2
    return float(promised), float(np.sqrt((by_chance**2).sum() / 2))
