"""BFGS as one of NumPyro's optimisers, in whitened coordinates."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpyro.optim import Minimize

_TRIES = 30  # of a step, each shorter than the last


class _Search(NamedTuple):
    """What BFGS carries: where it stands, and the step it tries next."""

    v: Float[Array, " P"]
    value: Float[Array, ""]
    gradient: Float[Array, " P"]
    inverse: Float[Array, "P P"]  # of the second derivatives, as far as the steps have told
    direction: Float[Array, " P"]
    length: Float[Array, ""]
    n_steps: Array  # -1 before the first evaluation
    n_tries: Array
    trace: Float[Array, " T"]

    def tried(self) -> Float[Array, " P"]:
        """Where the next evaluation is due."""
        return self.v + self.length * self.direction


def _try(search: _Search, value: Array, gradient: Array) -> _Search:
    """Take the step that was tried, or shorten it."""
    first = search.n_steps < 0
    slope = search.direction @ search.gradient
    rounding = 4 * jnp.finfo(value.dtype).eps * jnp.abs(search.value)
    change = jnp.where(first, 0, value - search.value)
    good = first | (change <= 1e-4 * search.length * slope + rounding)
    good &= jnp.isfinite(value) & jnp.isfinite(gradient).all()

    s, y = search.length * search.direction, gradient - search.gradient
    curved = ~first & (s @ y > 1e-8 * jnp.linalg.norm(s) * jnp.linalg.norm(y))
    rho = 1 / jnp.where(curved, s @ y, 1)
    left = jnp.eye(s.size, dtype=s.dtype) - rho * jnp.outer(s, y)
    inverse = jnp.where(curved, left @ search.inverse @ left.T + rho * jnp.outer(s, s), search.inverse)
    n_steps = search.n_steps + 1
    taken = _Search(
        search.tried(), value, gradient, inverse, -inverse @ gradient, jnp.ones_like(search.length), n_steps,
        jnp.zeros_like(search.n_tries), search.trace.at[n_steps].set(value),
    )  # fmt: skip
    lowest = -slope * search.length**2 / (2 * (change - slope * search.length))  # of the parabola through what is known
    lowest = jnp.where(jnp.isfinite(lowest), lowest, 0)
    shorter = search._replace(
        length=jnp.clip(lowest, search.length / 10, search.length / 2),
        n_tries=search.n_tries + 1,
        n_steps=jnp.maximum(search.n_steps, 0),
    )
    return jax.tree.map(functools.partial(jnp.where, good), taken, shorter)


class WhitenedMinimize(Minimize):
    """NumPyro's `Minimize`, a whole run of BFGS as one update, in whitened coordinates.

    JAX's own BFGS compiles the loss four times over, which takes longer than any fit, and keeps no account. In these
    coordinates full steps are nearly always good, so a backtracking line search will do (Nocedal & Wright 2006, algorithms 6.1
    and 3.1, with interpolation), and the loss is compiled once.

    Args:
        spread: the linear map from whitened coordinates to the parameters, about where they start.
        max_steps: the most steps; traced.
        gtol: the largest entry of the gradient that counts as none; traced.
        trace_length: room for the account of steps.
    """

    def __init__(self, spread: Callable[[Array], Array], max_steps: Array, gtol: Array, trace_length: int) -> None:
        super().__init__()
        self._spread, self._max_steps, self._gtol, self._trace_length = spread, max_steps, gtol, trace_length

    def eval_and_update(self, fn: Callable, state: tuple, forward_mode_differentiation: bool = False) -> tuple:
        """One run. The first part of the new state, NumPyro's counter, becomes the run's last `_Search`."""
        _, inner = state
        origin = inner.flat_params

        def loss(v: Array) -> Array:
            return fn(inner.unravel_fn(origin + self._spread(v)))[0]

        def unfinished(search: _Search) -> Array:
            far = (jnp.abs(search.gradient).max() >= self._gtol) & (search.n_steps < self._max_steps)
            return (search.n_steps < 0) | (far & (search.n_tries < _TRIES))

        zero = jnp.zeros_like(origin)
        eye, nothing = jnp.eye(origin.size, dtype=origin.dtype), jnp.zeros((), jnp.int32)
        infinite = jnp.full((), jnp.inf, origin.dtype)
        start = _Search(
            zero, infinite, zero, eye, zero, jnp.ones_like(infinite), nothing - 1, nothing,
            jnp.zeros(self._trace_length, origin.dtype),
        )  # fmt: skip
        found = jax.lax.while_loop(unfinished, lambda search: _try(search, *jax.value_and_grad(loss)(search.tried())), start)
        return (found.value, None), (found, inner._replace(flat_params=origin + self._spread(found.v)))
