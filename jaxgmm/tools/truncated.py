"""The standard normal below a bound, Y | Y < a: its probability, moments and draws, to all digits in both tails.

With the hazard h(a) = phi(a) / Phi(a), the mean is -h(a), and the variance 1 - h(a) (h(a) + a). Far below 0 that difference
loses its digits, h(a) + a alone being what is small: there, x = -a, both are made of Laplace's continued fraction
h = x + 1/(x + 2/(x + 3/(x + ...))) (Abramowitz & Stegun 1964, 26.2.14).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_FAR = 5.0  # sds, beyond which so many terms of the fraction have all digits
_TERMS = 24
_NEWTON_STEPS = 4  # leave 1e-13 of float64


@jax.custom_jvp
def log_probability(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log of P(Y < a)."""
    x, rest = _fraction(a)
    far = -(x**2 + math.log(2 * math.pi)) / 2 - jnp.log(x + 1 / (x + rest))
    tail = _tail(a)
    return jnp.where(a < -_FAR, far, jnp.where(a < 0, jnp.log(tail), jnp.log1p(-tail)))


@jax.custom_jvp
def hazard(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """phi(a) / Phi(a), the derivative of the log probability, and -E[Y | Y < a]."""
    x, rest = _fraction(a)
    tail = _tail(a)
    near = jnp.exp(-(a**2) / 2) / math.sqrt(2 * math.pi) / jnp.where(a < 0, tail, 1 - tail)
    return jnp.where(a < -_FAR, x + 1 / (x + rest), near)


def variance(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """Var[Y | Y < a]: 1 without a bound, 1 / a^2 far below 0."""
    x, rest = _fraction(a)
    near = hazard(a)
    return jnp.where(a < -_FAR, (rest - 1 / (x + rest)) / (x + rest), 1 - near * (near + a))


def _fraction(a: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Of h = x + 1/(x + rest): x = -a, or what is far enough from 0, and the rest."""
    x = jnp.maximum(-a, _FAR)
    rest = jnp.zeros_like(x)
    for term in range(_TERMS, 1, -1):
        rest = term / (x + rest)
    return x, rest


def _tail(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """Phi(-|a|); of a not too far below 0."""
    return lax.erfc(jnp.abs(jnp.maximum(a, -_FAR)) / math.sqrt(2)) / 2


log_probability.defjvp(lambda a, tangent: (log_probability(*a), hazard(*a) * tangent[0]))
hazard.defjvp(lambda a, tangent: (hazard(*a), (variance(*a) - 1) * tangent[0]))


def draw(a: Float[Array, "..."], uniform: Float[Array, "..."]) -> Float[Array, "..."]:
    """Y | Y < a for a uniform variate in [0, 1), by the inverse of its distribution.

    It is solved for on the side of 0 where it lies, in logs: log Phi is concave, so Newton's steps end there from anywhere.
    """
    u = jnp.maximum(uniform, jnp.finfo(uniform.dtype).tiny)
    half = math.log(0.5)
    below = log_probability(a) + jnp.log(u)
    above = jnp.log((1 - u) + u * lax.erfc(a / math.sqrt(2)) / 2)
    negative = below <= half
    target = jnp.minimum(jnp.where(negative, below, above), half)

    def closer(_: int, y: Array) -> Array:
        return y - (log_probability(y) - target) / hazard(y)

    y = lax.fori_loop(0, _NEWTON_STEPS, closer, -jnp.sqrt(2 * (half - target)))
    return jnp.minimum(jnp.where(negative, y, -y), a)
