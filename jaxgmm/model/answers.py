"""What a mixture says of rows: compiled programs over blocks of them, for `GMM`'s methods of the same names.

Rows from `n_rows` on are padding, of which nothing is said; answers are computed in `dtype`, and handed back in `out`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PyTree

from jaxgmm.model.density import by_rows, with_shares
from jaxgmm.tools import precision


@functools.partial(jax.jit, static_argnums=2)
def log_prob_and_complete(
    gmm: PyTree, x: Float[Array, "N D"], dtype: np.dtype, n_rows: Array | None = None
) -> Float[Array, "N 2"]:
    """Of each row, log p(x_n) and the complete-data log p(x_n) + log max_k r_nk."""

    def of_rows(joint: Array) -> Array:
        return jnp.stack([logsumexp(joint, axis=-1), joint.max(-1)], axis=-1)

    return by_rows(of_rows, precision.cast(gmm, dtype).components(), x, dtype, n_rows)


@functools.partial(jax.jit, static_argnums=(2, 3))
def log_prob(gmm: PyTree, x: Array, dtype: np.dtype, out: np.dtype, n_rows: Array | None = None) -> Float[Array, " N"]:
    """Log p(x_n)."""
    components = precision.cast(gmm, dtype).components()
    return by_rows(lambda joint: logsumexp(joint, axis=-1), components, x, dtype, n_rows).astype(out)


@functools.partial(jax.jit, static_argnums=(2, 3))
def responsibilities(gmm: PyTree, x: Array, dtype: np.dtype, out: np.dtype, n_rows: Array | None = None) -> Float[Array, "N K"]:
    """p(component k given x_n)."""
    components = precision.cast(gmm, dtype).components()
    softmax = functools.partial(jax.nn.softmax, axis=-1)
    return by_rows(lambda joint: softmax(with_shares(joint, components)), components, x, dtype, n_rows).astype(out)


@functools.partial(jax.jit, static_argnums=(2, 3))
def predict(gmm: PyTree, x: Array, dtype: np.dtype, out: np.dtype, n_rows: Array | None = None) -> Int[Array, " N"]:
    """The most probable component of each row."""
    components = precision.cast(gmm, dtype).components()
    return by_rows(lambda joint: with_shares(joint, components).argmax(-1).astype(jnp.int32), components, x, dtype, n_rows)
