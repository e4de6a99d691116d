"""What components say of rows, however these were seen; and functions of such rows, a block of them at a time."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgmm.data.observed import Observed
from jaxgmm.data.placed import Rows
from jaxgmm.data.source import Labelled
from jaxgmm.model.density import Components, log_joint
from jaxgmm.model.observing import OBSERVING
from jaxgmm.tools.blocks import map_rows, reduce_rows


def log_joint_of(components: Components, rows: Rows) -> Float[Array, "M K"]:
    """Log p(what is known of a row, component k), for each of the places of the rows."""
    if isinstance(rows, Observed):
        return OBSERVING.log_joint(components, rows)
    if isinstance(rows, Labelled):
        return log_joint(components, rows.x) + rows.evidence
    return log_joint(components, rows)


def reduce_blocks[Sums](
    f: Callable[..., Sums], rows: Rows, weight: Float[Array, " M"], block_size: int, *others: Array
) -> Sums:
    """As `reduce_rows`, `f` being of rows as they were seen; of those by pattern, in one go: they are in groups already."""
    if isinstance(rows, Observed):
        return f(rows, weight, *others)
    if isinstance(rows, Labelled):
        return reduce_rows(
            lambda x, w, known, *rest: f(Labelled(x, known), w, *rest), rows.x, weight, block_size, rows.evidence, *others
        )
    return reduce_rows(f, rows, weight, block_size, *others)


def map_blocks(f: Callable[[Rows], Array], rows: Rows, block_size: int) -> Array:
    """As `map_rows`, `f` being of rows as they were seen; of those by pattern, in one go."""
    if isinstance(rows, Observed):
        return f(rows)
    if isinstance(rows, Labelled):
        n_features = rows.x.shape[1]
        both = jnp.concatenate([rows.x, rows.evidence], axis=1)
        return map_rows(lambda part: f(Labelled(part[:, :n_features], part[:, n_features:])), both, block_size)
    return map_rows(f, rows, block_size)
