"""What components say of rows, however these were seen; and functions of such rows, a block of them at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from jaxgmm.data.observed import Observed
from jaxgmm.data.placed import Rows, n_places
from jaxgmm.data.source import Labelled
from jaxgmm.model.density import Components, log_joint, noise_joint, with_noise
from jaxgmm.model.observing import OBSERVING
from jaxgmm.tools.blocks import map_rows, reduce_rows, rows_present, short_blocks

_NUMBERS_AT_ONCE = 1 << 21  # entries of the whitened rows that exist together


def log_joint_of(components: Components, rows: Rows) -> Float[Array, "M K"]:
    """Log p(what is known of a row, component k), for each of the places of the rows; with noise, of this too, last."""
    if isinstance(rows, Observed):
        return OBSERVING.log_joint(components, rows)
    x, evidence = (rows.x, rows.evidence) if isinstance(rows, Labelled) else (rows, None)
    joint = log_joint(components, x)
    joint = joint if evidence is None else joint + evidence
    noise = noise_joint(components, evidence)
    return joint if noise is None else with_noise(joint, noise)


@jax.custom_vjp
def log_likelihood_of(components: Components, rows: Rows, weight: Float[Array, " M"]) -> Float[Array, ""]:
    """Sum of w_m log p(what is known of row m), a block of rows at a time.

    So is its gradient, with respect to the components alone: reverse mode can't go through a loop that leaves padding out.
    """
    return _over_blocks(_of_block, components, rows, weight)


def _with_slope(components: Components, rows: Rows, weight: Array) -> tuple[Array, Components]:
    return _over_blocks(jax.value_and_grad(_of_block), components, rows, weight)


def _backwards(slope: Components, cotangent: Array) -> tuple[Components, None, None]:
    return jax.tree.map(lambda leaf: cotangent * leaf, slope), None, None


log_likelihood_of.defvjp(_with_slope, _backwards)


def _of_block(components: Components, rows: Rows, weight: Array) -> Array:
    return weighted(weight, logsumexp(log_joint_of(components, rows), axis=-1)).sum()


def _over_blocks[Sums](f: Callable[..., Sums], components: Components, rows: Rows, weight: Array) -> Sums:
    n_components, n_features = components.means.shape
    block_size = max(1, _NUMBERS_AT_ONCE // (n_components * (n_features + 4)))
    return reduce_blocks(lambda x, w: f(components, x, w), rows, weight, block_size)


def weighted(weight: Float[Array, " M"], values: Float[Array, " M"]) -> Float[Array, " M"]:
    """The product; 0 of weight 0, whatever the value (if not its gradient)."""
    return jnp.where(weight > 0, weight * values, 0)


def reduce_blocks[Sums](
    f: Callable[..., Sums], rows: Rows, weight: Float[Array, " M"], block_size: int, *others: Array
) -> Sums:
    """As `reduce_rows`, `f` being of rows as they were seen, without those of padding; of those by pattern, in one go: they are
    in groups already.
    """
    if isinstance(rows, Observed):
        return f(rows, weight, *others)
    block_size, n_rows = short_blocks(block_size, n_places(rows)), rows_present(weight)
    if isinstance(rows, Labelled):
        others = rows.evidence, *others
        return reduce_rows(
            lambda x, w, known, *rest: f(Labelled(x, known), w, *rest), rows.x, weight, block_size, *others, n_rows=n_rows
        )
    return reduce_rows(f, rows, weight, block_size, *others, n_rows=n_rows)


def map_blocks(f: Callable[[Rows], Array], rows: Rows, weight: Float[Array, " M"], block_size: int) -> Array:
    """As `map_rows`, `f` being of rows as they were seen; of those by pattern, in one go. Blocks behind the last row of
    positive weight are left out.
    """
    if isinstance(rows, Observed):
        return f(rows)
    block_size, n_rows = short_blocks(block_size, n_places(rows)), rows_present(weight)
    if isinstance(rows, Labelled):
        n_features = rows.x.shape[1]
        both = jnp.concatenate([rows.x, rows.evidence], axis=1)
        return map_rows(lambda part: f(Labelled(part[:, :n_features], part[:, n_features:])), both, block_size, n_rows)
    return map_rows(f, rows, block_size, n_rows)
