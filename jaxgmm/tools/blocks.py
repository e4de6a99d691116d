"""A function over rows, a block of rows at a time: what is made of a block never exists for all rows at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

NUMBERS_IN_A_BLOCK = 1 << 21  # 16 MB of float64: of 8 and 16, the faster at D = 8 and 64 with a 2 MB L2 cache


SHORT_LENGTHS = 2048, 16_384, 131_072  # to which rows are padded up to eight times over
_BLOCKS = 16  # of which such rows are then summed in, as many as there are rows in


def rows_present(weight: Array) -> Array:
    """Rows up to the last one of positive weight, (): those after it are padding."""
    return weight.shape[0] - jnp.argmax(weight[::-1] > 0)


def short_blocks(block_size: int, n_samples: int) -> int:
    """A block size that leaves most of the padding out. An accelerator takes so few rows all at once as fast as a sixteenth."""
    padded = n_samples in SHORT_LENGTHS and jax.default_backend() == "cpu"
    return min(block_size, n_samples // _BLOCKS) if padded else block_size


def reduce_rows[Sums](
    f: Callable[..., Sums], x: Array, weight: Array, block_size: int, *others: Array, n_rows: Array | None = None
) -> Sums:
    """Sum of `f(rows, weights, *others)` over blocks of rows, without a copy of the data.

    The last block starts early enough to be whole; the rows it shares with the one before get weight 0. Blocks of rows from
    `n_rows` on are left out; such a sum has no reverse-mode gradient.
    """
    n_samples = x.shape[0]
    block_size = min(block_size, n_samples)
    if block_size == n_samples:
        return f(x, weight, *others)

    def block(i: Array, carry: Sums) -> Sums:
        start = jnp.minimum(i * block_size, n_samples - block_size)
        rows, w, *rest = (_slice(array, start, block_size) for array in (x, weight, *others))
        fresh = start + jnp.arange(block_size) >= i * block_size
        return jax.tree.map(jnp.add, carry, f(rows, jnp.where(fresh, w, 0), *rest))

    shapes = jax.eval_shape(f, x[:block_size], weight[:block_size], *(array[:block_size] for array in others))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.fori_loop(0, _n_blocks(n_samples, block_size, n_rows), block, zero)


def map_rows(f: Callable[[Array], Array], x: Array, block_size: int, n_rows: Array | None = None) -> Array:
    """`f(rows)`, which has one entry a row, over blocks of rows, without a copy of the data (`lax.map` would make one).

    Entries of blocks from `n_rows` on are zeros.
    """
    n_samples = x.shape[0]
    if block_size >= n_samples:
        return f(x)

    def block(i: Array, out: Array) -> Array:
        start = jnp.minimum(i * block_size, n_samples - block_size)
        new = f(_slice(x, start, block_size))
        return lax.dynamic_update_slice_in_dim(out, new, start, 0, allow_negative_indices=False)

    shape = jax.eval_shape(f, x[:block_size])
    out = jnp.zeros((n_samples, *shape.shape[1:]), shape.dtype)
    return lax.fori_loop(0, _n_blocks(n_samples, block_size, n_rows), block, out)


def _slice(array: Array, start: Array, size: int) -> Array:
    """Some rows: no start is negative, and not to ask spares instructions in every loop."""
    return lax.dynamic_slice_in_dim(array, start, size, allow_negative_indices=False)


def _n_blocks(n_samples: int, block_size: int, n_rows: Array | None) -> int | Array:
    return -(-n_samples // block_size) if n_rows is None else -(-n_rows // block_size)


def map_draws[Draws, Values](
    f: Callable[[Draws], Values], draws: Draws, at_once: int, n_present: Array | None = None
) -> Values:
    """`f` of each draw, several at once; the last block is filled up, since `lax.map` compiles one of another size anew.

    Blocks of draws from `n_present` on are left out, and zeros.
    """
    n_draws = jax.tree.leaves(draws)[0].shape[0]
    n_blocks = -(-n_draws // at_once)
    if n_blocks == 1:
        return jax.vmap(f)(draws)
    index = jnp.minimum(jnp.arange(n_blocks * at_once), n_draws - 1).reshape(n_blocks, at_once)

    def of_block(i: Array) -> Values:
        return jax.vmap(f)(jax.tree.map(lambda leaf: leaf[i], draws))

    def put(block: Array, values: Values) -> Values:
        new = of_block(lax.dynamic_index_in_dim(index, block, keepdims=False, allow_negative_indices=False))
        return jax.tree.map(
            lambda into, own: lax.dynamic_update_index_in_dim(into, own, block, 0, allow_negative_indices=False), values, new
        )

    if n_present is None:
        values = lax.map(of_block, index)
    else:
        shapes = jax.eval_shape(of_block, index[0])
        zeros = jax.tree.map(lambda leaf: jnp.zeros((n_blocks, *leaf.shape), leaf.dtype), shapes)
        values = lax.fori_loop(0, -(-n_present // at_once), put, zeros)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n_draws], values)
