"""Laplace's approximation: the Gaussian at the mode of the whitened coordinates, with the curvature there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer.autoguide import AutoLaplaceApproximation

from jaxgmm.bayes.target.approximation import draws_from
from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import NUMBERS_AT_ONCE, Target, log_likelihood_at, log_prior_at, point_at, target_of
from jaxgmm.fitting.status import FitError
from jaxgmm.tools.blocks import map_draws

_NEWTON_STEPS = 100
_HALVINGS = 30
_FLATTEST = 1e-3  # curvature, relative to that with known allocations, that Newton's method counts on
_AT_MODE = 1e-8  # nats that a Newton step still promises


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
    mode, curvature = peak(target, layout)
    guide = AutoLaplaceApproximation(lambda: None, hessian_fn=lambda *_: curvature)
    q = guide.get_posterior({"auto_loc": mode})
    return draws_from(q, target, layout, key, (n_chains, n_draws), {"guide": "laplace"})


def peak(target: Target, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The mode, and minus the second derivatives of the log density there."""
    v = np.zeros(layout.size, target.dtype)
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
        return log_prior_at(point, target, layout) + log_likelihood_at(point, target)

    def column(direction: Array) -> tuple[tuple[Array, Array], Array]:
        here, (_, second) = jax.jvp(jax.value_and_grad(log_density), (v,), (direction,))
        return here, -second

    at_once = int(np.clip(NUMBERS_AT_ONCE // (target.n_numbers * layout.n_components), 1, layout.size))
    (height, gradient), curvature = map_draws(column, jnp.eye(layout.size, dtype=target.dtype), at_once)
    return height[0], gradient[0], curvature
