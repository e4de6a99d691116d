"""Random variates that compile fast and don't underflow."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_LEAST = float(np.log(np.finfo(np.float32).tiny))  # a smaller log-gamma would underflow, and its inverse overflow


def log_gammas(key: Array, *shapes: Array) -> list[Array]:
    """Log Gamma(shape, 1) variates for several arrays of shapes by one call: each would take a second to compile."""
    drawn = jax.random.loggamma(key, jnp.concatenate([shape.reshape(-1) for shape in shapes]))
    ends = np.cumsum([shape.size for shape in shapes])[:-1]
    return [part.reshape(shape.shape) for part, shape in zip(jnp.split(drawn, ends), shapes, strict=True)]


def positive_exp(log_gamma: Array) -> Array:
    """A gamma variate, positive even where the true one is too small for a float."""
    return jnp.exp(jnp.maximum(log_gamma, _LEAST))


def dirichlet_weights(log_gamma: Float[Array, " K"]) -> Float[Array, " K"]:
    """Dirichlet weights from log-gammas: gammas of a small concentration may all underflow, and 0 / 0 is no weight."""
    return jnp.maximum(jax.nn.softmax(log_gamma), np.finfo(np.float32).tiny)  # zero would mean an inactive component


def draw_labels(joint: Float[Array, "N K"], uniform: Float[Array, " N"]) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """Components drawn in proportion to exp(joint), by inverting their cumulative sum, and the log of the whole sum."""
    peak = joint.max(-1)
    cumulative = jnp.cumsum(jnp.exp(joint - peak[:, None]), axis=-1)
    total = cumulative[:, -1]
    # <= passes over a first component of probability 0 when u = 0; the last sum is left out, since u total may round to it.
    labels = (cumulative[:, :-1] <= (uniform * total)[:, None]).sum(-1)
    return labels, peak + jnp.log(total)
