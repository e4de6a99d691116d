"""What a mixture says of rows: compiled programs over blocks of them, for `GMM`'s methods of the same names.

Rows from `n_rows` on are padding, of which nothing is said; answers are computed in `dtype`, and handed back in `out`. Of rows
by pattern, there is an answer for each of their places.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PyTree

from jaxgmm.data.observed import Observed
from jaxgmm.model.density import Components, Uniform, with_shares
from jaxgmm.model.engines import COMPLETE
from jaxgmm.model.observing import OBSERVING
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import map_rows, rows_present, short_blocks

type Rows = Array | Observed

_ROWS_AT_ONCE = 4096  # rows whitened together in a query: bounds memory at K x 4096 x D numbers


def _by_rows(
    question: Callable[[Array], Array],
    components: Components,
    x: Array | Observed,
    dtype: np.dtype,
    n_rows: Array | None = None,
) -> Array:
    """An answer made of the log joint of each row, a block of rows at a time; of padding from `n_rows` on, any or none."""
    if isinstance(x, Observed):
        return OBSERVING.map(question, components, x)
    block_size = _ROWS_AT_ONCE if n_rows is None else short_blocks(_ROWS_AT_ONCE, x.shape[0])
    return map_rows(lambda rows: question(COMPLETE.log_joint(components, rows.astype(dtype))), x, block_size, n_rows)


@functools.partial(jax.jit, static_argnums=2)
def log_prob_and_complete(
    gmm: PyTree, x: Rows, dtype: np.dtype, n_rows: Array | None = None, noise: Uniform | None = None
) -> Float[Array, "N 2"]:
    """Of each row, log p(x_n) and the complete-data log p(x_n) + log max_k r_nk, noise being one of the k.

    With noise, the weights of the mixture add up to its share.
    """

    def of_rows(joint: Array) -> Array:
        return jnp.stack([logsumexp(joint, axis=-1), joint.max(-1)], axis=-1)

    components = dataclasses.replace(precision.cast(gmm, dtype).components(), noise=noise)
    return _by_rows(of_rows, components, x, dtype, n_rows)


def sums_of_rows(gmms: PyTree, noise: Uniform | None, x: Rows, weight: Array) -> Float[Array, "M 2"]:
    """Of each of M mixtures, in their dtype, the weighted sums of what `log_prob_and_complete` says of rows."""
    dtype = np.dtype(gmms.means.dtype)
    own = weight.astype(dtype)

    def of_model(model: tuple[PyTree, Uniform | None]) -> Float[Array, " 2"]:
        values = log_prob_and_complete(model[0], x, dtype, rows_present(own), model[1])
        return jnp.where(own[:, None] > 0, own[:, None] * values, 0).sum(0)

    return lax.map(of_model, jax.tree.map(jnp.asarray, (gmms, noise)))


@functools.partial(jax.jit, static_argnums=(2, 3))
def log_prob(gmm: PyTree, x: Rows, dtype: np.dtype, out: np.dtype, n_rows: Array | None = None) -> Float[Array, " N"]:
    """Log p(x_n)."""
    components = precision.cast(gmm, dtype).components()
    return _by_rows(lambda joint: logsumexp(joint, axis=-1), components, x, dtype, n_rows).astype(out)


@functools.partial(jax.jit, static_argnums=(2, 3))
def responsibilities(gmm: PyTree, x: Rows, dtype: np.dtype, out: np.dtype, n_rows: Array | None = None) -> Float[Array, "N K"]:
    """p(component k given x_n)."""
    components = precision.cast(gmm, dtype).components()
    softmax = functools.partial(jax.nn.softmax, axis=-1)
    return _by_rows(lambda joint: softmax(with_shares(joint, components)), components, x, dtype, n_rows).astype(out)


@functools.partial(jax.jit, static_argnums=(2, 3))
def predict(gmm: PyTree, x: Rows, dtype: np.dtype, out: np.dtype, n_rows: Array | None = None) -> Int[Array, " N"]:
    """The most probable component of each row."""
    components = precision.cast(gmm, dtype).components()
    return _by_rows(lambda joint: with_shares(joint, components).argmax(-1).astype(jnp.int32), components, x, dtype, n_rows)
