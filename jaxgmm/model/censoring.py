"""Values that are limits, of rows that are whitened with these last: what is known of them is that the truth lies beyond.

Given the values that were measured, the coordinate y of a limit is standard normal. So where a value has a density, an upper
limit b has P(y < b). Several limits in a row are independent given the values, or aren't taken.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgmm.tools import truncated


def squares(sides: Int[Array, " C"], y: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Minus twice the logs of what coordinates add to the density: y^2, but of limits those of their probability.

    Args:
        sides: of the last C coordinates: -1 for an upper limit, 1 for a lower one, 0 for none.
        y: rows, limits as if they were values.
    """
    before, last = _apart(sides, y)
    beyond = -2 * truncated.log_probability(-sides * last)
    return jnp.concatenate([before**2, jnp.where(sides == 0, last**2, beyond)], axis=-1)


def moments(sides: Int[Array, " C"], y: Float[Array, "... D"]) -> tuple[Float[Array, "... D"], Float[Array, "... D"]]:
    """Means and variances of the coordinates given the limits; arguments as for `squares`."""
    before, last = _apart(sides, y)
    bound = -sides * last
    mean = jnp.where(sides == 0, last, sides * truncated.hazard(bound))
    variance = jnp.where(sides == 0, 0, truncated.variance(bound))
    return jnp.concatenate([before, mean], axis=-1), jnp.concatenate([jnp.zeros_like(before), variance], axis=-1)


def draw(sides: Int[Array, " C"], y: Float[Array, "... D"], uniform: Float[Array, "... C"]) -> Float[Array, "... D"]:
    """The coordinates, drawn where there are limits, by uniform variates; arguments as for `squares`."""
    before, last = _apart(sides, y)
    drawn = -sides * truncated.draw(-sides * last, uniform)
    return jnp.concatenate([before, jnp.where(sides == 0, last, drawn)], axis=-1)


def _apart(sides: Int[Array, " C"], y: Float[Array, "... D"]) -> tuple[Array, Array]:
    first = y.shape[-1] - sides.shape[-1]
    return y[..., :first], y[..., first:]
