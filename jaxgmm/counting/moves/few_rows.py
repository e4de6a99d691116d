"""Moves of few rows: up to three rows leave a block to be one of their own, or a block so small joins another.

Small clusters of odd rows come and go, but where a new component's mean is vague, the Gibbs sweep puts no row there, and
`split_merge` and `birth_death` try few blocks so small. So here the first row that leaves is drawn by how little it is at home,
over all rows at once, and the next ones by how much better they would fit the new block: a proposal informed by the partitions
around, as in Zanella (2020), "Informed proposals for local MCMC in discrete spaces", JASA 115(530).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.counting.moves.split_merge import exchange
from jaxgmm.counting.partition import Data, Partition, Scene, at_labels, blocks_of, log_memberships
from jaxgmm.tools.variates import Uniforms, draw_labels, integer

_MOST_ROWS = 3  # that leave together
_LOG_FACTORIAL = np.log([1.0, 1.0, 2.0, 6.0])


N_OF_ROWS = 0  # uniforms that `propose` takes for each row


def n_uniforms(most: int) -> int:
    """How many uniforms `propose` takes, for at most J blocks."""
    return 7 + _MOST_ROWS


def propose(u: Uniforms, scene: Scene) -> tuple[Partition, Array]:
    """Another partition, and the log of its Metropolis-Hastings ratio.

    `small` is the partition in which the rows have a home, `big` the one with their own block; one of them is the current one.
    """
    partition, _, _, extra, data = scene
    labels, counts, dtype = partition.labels, partition.blocks.counts, data.rows.dtype
    slots = jnp.arange(counts.size)
    leave, size = u.take() < 0.5, 1 + integer(u.take(), _MOST_ROWS)
    slot = jnp.where(leave, jnp.argmin(counts > 0), _draw(u.take(), _log_indicator(counts == size, dtype)))
    inside = (labels == slot) & ~leave

    others = jax.tree.map(lambda leaf: leaf.at[slot].set(0), partition.blocks)
    joint = log_memberships(others, extra, data)
    entered = _draw(u.take(), jnp.where(inside, joint, 0).sum(1))
    small_labels = jnp.where(inside, entered, labels)
    joined = small_labels == entered  # of all blocks, only this one differs between `others` and `small`
    at_home = jnp.where(joined, _log_density(joined, extra, data), at_labels(joint, small_labels))
    small_counts = others.counts.at[entered].set(joined.sum())
    log_first = jnp.where(data.present & (small_counts[small_labels] > size), -at_home, -jnp.inf)
    group, home, log_leave = _draw_rows(u.take(_MOST_ROWS), leave, size, inside, log_first, small_labels, at_home, extra, data)

    member = small_labels == home
    without = _log_density(member & ~group, extra, data)
    log_join = jnp.where(group, jnp.where((slots == home)[:, None], without, joint), 0).sum(1)
    big_counts = small_counts.at[home].add(-size).at[slot].set(size)
    # The block that joins is one of all of its size, its rows in any order.
    log_back = (
        jax.nn.log_softmax(log_join)[home]
        - jnp.log((big_counts == size).sum().astype(dtype))
        - jnp.asarray(_LOG_FACTORIAL)[size]
    )
    log_q = log_leave - log_back
    proposed, log_odds = exchange(u.take(3), scene, leave, (home, slot), member, ~group)
    possible = (small_counts[home] > size) & jnp.where(leave, (counts == 0).any(), (counts == size).any())
    return proposed, jnp.where(possible, log_odds - jnp.where(leave, log_q, -log_q), -jnp.inf)


def _draw_rows(
    uniform: Float[Array, " S"],
    leave: Array,
    size: Array,
    inside: Bool[Array, " N"],
    log_first: Float[Array, " N"],
    labels: Int[Array, " N"],
    at_home: Float[Array, " N"],
    extra: dict[str, Array],
    data: Data,
) -> tuple[Bool[Array, " N"], Int[Array, ""], Float[Array, ""]]:
    """`size` rows that leave, or those `inside` in random order; their home; and the log probability to leave in this order."""

    def choose(i: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        group, log_weights, home, log_p = carry
        row = _draw(uniform[i], jnp.where(leave, log_weights, _log_indicator(inside & ~group, log_p.dtype)))
        log_p += jax.nn.log_softmax(log_weights)[row]
        group |= jnp.arange(labels.size) == row
        home = jnp.where(i == 0, labels[row], home)
        gain = _log_density(group, extra, data) - at_home
        return group, jnp.where((labels == home) & ~group, gain, -jnp.inf), home, log_p

    group, nothing = jnp.zeros(labels.size, bool), jnp.zeros((), data.rows.dtype)
    group, _, home, log_p = lax.fori_loop(0, size, choose, (group, log_first, jnp.zeros((), labels.dtype), nothing))
    return group, home, log_p


def _log_density(block: Bool[Array, " N"], extra: dict[str, Array], data: Data) -> Float[Array, " N"]:
    """`log_memberships` of one block."""
    return log_memberships(blocks_of(block.astype(data.rows.dtype)[None], data), extra, data)[0]


def _log_indicator(which: Bool[Array, " M"], dtype: jnp.dtype) -> Float[Array, " M"]:
    return jnp.where(which, 0.0, -jnp.inf).astype(dtype)


def _draw(uniform: Float[Array, ""], log_weights: Float[Array, " M"]) -> Int[Array, ""]:
    """An index, in proportion to exp(log_weights)."""
    return draw_labels(log_weights[:, None], uniform[None]).labels[0]
