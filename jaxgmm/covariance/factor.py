"""A covariance taken apart."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


class Factor(NamedTuple):
    """A covariance taken apart: Sigma = L L', and W = L'^-1 whitens."""

    scale: Array  # L
    whitener: Array  # W
    half_log_det: Array  # log |L|, (K,) or ()


def mT(a: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """Transposes of matrices."""
    return a.swapaxes(-1, -2)


def invert_tril(scale: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """Inverses of lower triangular matrices."""
    eye = jnp.broadcast_to(jnp.eye(scale.shape[-1], dtype=scale.dtype), scale.shape)
    return solve_triangular(scale, eye, lower=True)
