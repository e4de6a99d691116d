"""Birth-death moves between partitions: a block of rows from all blocks, and back.

A row is drawn, and a coin. Birth: a block grows around the row, from rows of every other; death: the row's block goes, and its
rows to the others. Where a cluster bridges two others, no split of either makes it, and `split_merge` alone takes many sweeps.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.bayes.priors.base import Blocks, draw_variance, log_evidence
from jaxgmm.counting.moves import split_merge
from jaxgmm.counting.moves.split_merge import N_DEALT, deal_out, draw_row, log_draw
from jaxgmm.counting.partition import (
    Data,
    Partition,
    Scene,
    at_labels,
    blocks_of_labels,
    log_blocks_of,
    log_memberships,
    log_own_memberships,
)
from jaxgmm.tools.variates import Uniforms, draw_labels

N_OF_ROWS = 1 + split_merge.N_OF_ROWS  # uniforms that `propose` takes for each row


def n_uniforms(most: int) -> int:
    """How many uniforms `propose` takes besides those of the rows, for at most J blocks."""
    return 2 + N_DEALT + most


def propose(u: Uniforms, scene: Scene) -> tuple[Partition, Array]:
    """Another partition, and the log of its Metropolis-Hastings ratio.

    `small` is the partition without the block, `big` the one with it; one of them is the current one.
    """
    partition, alpha, _, extra, data = scene
    labels, most = partition.labels, partition.blocks.counts.size
    rows, slots = jnp.arange(labels.size), jnp.arange(most)
    seed, birth = draw_row(u.take(), scene), u.take() < 0.5
    filled = partition.blocks.counts > 0
    own = jnp.where(birth, jnp.argmin(filled), labels[seed])
    possible = jnp.where(birth, ~filled.all(), filled.sum() >= 2)

    others = jax.tree.map(lambda leaf: leaf.at[own].set(0), partition.blocks)
    left = draw_labels(log_memberships(others, extra, data), u.take_rows()).labels
    small_labels = jnp.where(labels == own, left, labels)
    small = blocks_of_labels(small_labels, most, data)

    rival = log_own_memberships(small, small_labels, extra, data)
    home = jax.tree.map(lambda leaf: leaf[small_labels[seed]][None], small)
    side = jnp.where(birth, rows == seed, labels == own)
    side, log_birth = deal_out(u, scene, seed, data.present & (rows != seed), data.present, birth, side, home, rival)

    big_labels = jnp.where(side, own, small_labels)
    big = blocks_of_labels(big_labels, most, data)
    rest = jax.tree.map(lambda leaf: leaf.at[own].set(0), big)
    log_death = _log_allocation(log_memberships(rest, extra, data), small_labels, side)

    proposed_blocks = jax.tree.map(lambda a, b: jnp.where(birth, a, b), big, small)
    old_labels, new_labels = labels, jnp.where(birth, big_labels, small_labels)
    moved = old_labels != new_labels
    changed = (moved[:, None] & ((old_labels[:, None] == slots) | (new_labels[:, None] == slots))).any(0)
    drawn = draw_variance(data.prior, u.take(most), proposed_blocks, extra)
    variance = jnp.where(changed, drawn, partition.variance)
    log_blocks = log_blocks_of(proposed_blocks.counts, alpha, data.partition_prior)
    gain = scene.log_prior_odds((proposed_blocks.counts > 0).sum(), log_blocks)
    evidence = _log_evidence(partition.blocks, partition.variance, extra, data)
    gain += _log_evidence(proposed_blocks, variance, extra, data) - evidence
    log_ratio = gain + jnp.where(birth, log_death - log_birth, log_birth - log_death)
    possible &= ((big.counts > 0) == ((small.counts > 0) | (slots == own))).all()  # no block is emptied on the way
    proposed = Partition(new_labels, proposed_blocks, variance, log_blocks)
    log_ratio += log_draw(seed, proposed, data) - log_draw(seed, partition, data)
    return proposed, jnp.where(possible, log_ratio, -jnp.inf)


def _log_allocation(joint: Float[Array, "J N"], labels: Int[Array, " N"], which: Bool[Array, " N"]) -> Float[Array, ""]:
    """Log probability that just these rows are allocated as they are."""
    return jnp.where(which, at_labels(joint, labels) - logsumexp(joint, axis=0), 0).sum()


def _log_evidence(blocks: Blocks, variance: Array, extra: dict[str, Array], data: Data) -> Float[Array, ""]:
    return jnp.where(blocks.counts > 0, log_evidence(data.prior, blocks, variance, extra), 0).sum()
