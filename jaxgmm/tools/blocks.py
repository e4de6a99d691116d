"""A function over rows, a block of rows at a time: what is made of a block never exists for all rows at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

NUMBERS_IN_A_BLOCK = 1 << 21  # 16 MB of float64: of 8 and 16, the faster at D = 8 and 64 with a 2 MB L2 cache


def reduce_rows[Sums](f: Callable[..., Sums], x: Array, weight: Array, block_size: int, *others: Array) -> Sums:
    """Sum of `f(rows, weights, *others)` over blocks of rows, without a copy of the data.

    The last block starts early enough to be whole; the rows it shares with the one before get weight 0.
    """
    n_samples = x.shape[0]
    block_size = min(block_size, n_samples)
    if block_size == n_samples:
        return f(x, weight, *others)

    def block(i: Array, carry: Sums) -> Sums:
        start = jnp.minimum(i * block_size, n_samples - block_size)
        rows, w, *rest = (lax.dynamic_slice_in_dim(array, start, block_size) for array in (x, weight, *others))
        fresh = start + jnp.arange(block_size) >= i * block_size
        return jax.tree.map(jnp.add, carry, f(rows, jnp.where(fresh, w, 0), *rest))

    shapes = jax.eval_shape(f, x[:block_size], weight[:block_size], *(array[:block_size] for array in others))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.fori_loop(0, -(-n_samples // block_size), block, zero)


def map_rows(f: Callable[[Array], Array], x: Array, block_size: int) -> Array:
    """`f(rows)`, which has one entry a row, over blocks of rows, without a copy of the data (`lax.map` would make one)."""
    n_samples = x.shape[0]
    if block_size >= n_samples:
        return f(x)

    def block(i: Array, out: Array) -> Array:
        start = jnp.minimum(i * block_size, n_samples - block_size)
        return lax.dynamic_update_slice_in_dim(out, f(lax.dynamic_slice_in_dim(x, start, block_size)), start, 0)

    shape = jax.eval_shape(f, x[:block_size])
    return lax.fori_loop(0, -(-n_samples // block_size), block, jnp.zeros((n_samples, *shape.shape[1:]), shape.dtype))


def map_draws[Draws, Values](f: Callable[[Draws], Values], draws: Draws, at_once: int) -> Values:
    """`f` of each draw, several at once; the last block is filled up, since `lax.map` compiles one of another size anew."""
    n_draws = jax.tree.leaves(draws)[0].shape[0]
    n_blocks = -(-n_draws // at_once)
    if n_blocks == 1:
        return jax.vmap(f)(draws)
    index = jnp.minimum(jnp.arange(n_blocks * at_once), n_draws - 1).reshape(n_blocks, at_once)
    values = lax.map(lambda i: jax.vmap(f)(jax.tree.map(lambda leaf: leaf[i], draws)), index)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n_draws], values)
