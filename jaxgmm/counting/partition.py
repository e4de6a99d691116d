"""A partition of the rows into blocks, and what sampling one needs of the rows: sums, and densities."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.bayes.priors.base import Blocks, MixturePrior, predictive
from jaxgmm.counting.partition_prior import PartitionPrior
from jaxgmm.covariance import Family, get_family
from jaxgmm.covariance.factor import Factor

_FEW = 8  # filled blocks


class Data(NamedTuple):
    """What the chains share.

    Attributes:
        rows: (P, N), expanded rows: the row itself, centred, its products by the structure of the family, and 1. The rows
            themselves come last, so that what is done for all of them runs through memory.
        prior: of components, its mean centred as the rows are.
        partition_prior: of how rows are dealt out.
        n_present: (), rows after so many are padding, zeros with label J: in no block; None without padding.
    """

    rows: Float[Array, "P N"]
    prior: MixturePrior
    partition_prior: PartitionPrior
    n_present: Int[Array, ""] | None = None

    @property
    def n_samples(self) -> int | Int[Array, ""]:
        """Rows that aren't padding."""
        return self.rows.shape[1] if self.n_present is None else self.n_present

    @property
    def present(self) -> Bool[Array, " N"]:
        """Which rows these are."""
        return jnp.arange(self.rows.shape[1]) < self.n_samples

    @property
    def n_features(self) -> int:
        """D."""
        return max(1, self.prior.mean.size)


class Partition(NamedTuple):
    """A partition of the rows into at most J blocks.

    Attributes:
        labels: (N,), 0..J-1, J for padding.
        blocks: J of them.
        variance: (J,), the random part of the evidences.
        log_blocks: (M,), or (1,) where K doesn't matter, the sum of `PartitionPrior.log_block` over the blocks.
    """

    labels: Int[Array, " N"]
    blocks: Blocks
    variance: Float[Array, " J"]
    log_blocks: Float[Array, " M"]


class Scene(NamedTuple):
    """Where a move between partitions starts.

    Attributes:
        partition: the current one.
        alpha: ().
        log_heads: (J + 1, M), `PartitionPrior.log_heads`.
        extra: the prior's own further parameters.
        data: what the chains share.
    """

    partition: Partition
    alpha: Float[Array, ""]
    log_heads: Float[Array, "T M"]
    extra: dict[str, Array]
    data: Data

    def log_prior_odds(self, n_clusters: Int[Array, ""], log_blocks: Float[Array, " M"]) -> Float[Array, ""]:
        """Of a partition with so many clusters, and these factors of its blocks, to the current one; K summed out."""
        now = self.partition
        heads = self.log_heads[jnp.stack([n_clusters, (now.blocks.counts > 0).sum()])]
        terms = logsumexp(heads + jnp.stack([log_blocks, now.log_blocks]), axis=1)
        return terms[0] - terms[1]


def expand(z: Float[Array, "N D"], family: Family) -> Float[Array, "P N"]:
    """Centred rows, their products, and 1: all sums of blocks are linear in them."""
    return jnp.concatenate([z.T, family.structure.columns(z).T, jnp.ones((1, len(z)), z.dtype)])


def blocks_of(selector: Float[Array, "K N"], data: Data) -> Blocks:
    """Sums over rows that belong to each of K blocks wholly, partly or not at all."""
    sums, d = selector @ data.rows.T, data.n_features
    structure = get_family(data.prior.family).structure
    return Blocks(sums[:, -1], sums[:, :d], structure.unpack(sums[:, d:-1], jnp.zeros((), sums.dtype), d).reshape(
        structure.scatter_shape(selector.shape[0], d)
    ))  # fmt: skip


def blocks_of_labels(labels: Int[Array, " N"], most: int, data: Data) -> Blocks:
    """Sums over the rows of each label 0..J-1."""
    return blocks_of((labels == jnp.arange(most)[:, None]).astype(data.rows.dtype), data)


def log_blocks_of(counts: Float[Array, " J"], alpha: Array, prior: PartitionPrior) -> Float[Array, " M"]:
    """The blocks' factors of the partition's prior, multiplied."""
    filled = counts > 0

    def of(counts: Float[Array, " B"]) -> Float[Array, " M"]:
        filled = counts > 0
        each = prior.log_block(alpha, jnp.where(filled, counts, 1)[:, None])
        return jnp.where(filled[:, None], each, 0).sum(0)

    if counts.size <= _FEW:
        return of(counts)
    # A log-gamma for each block and K: where few blocks are filled, as most often, of those.
    place = jnp.cumsum(filled)
    few = jnp.where((place == jnp.arange(1, _FEW + 1)[:, None]) & filled, counts, 0).sum(1)
    return lax.cond(place[-1] <= _FEW, lambda: of(few), lambda: of(counts))


def log_densities(means: Array, factor: Factor, data: Data) -> Float[Array, "K N"]:
    """Log N(x | component) up to -D/2 log 2 pi, by one product of matrices."""
    return _coefficients(means, factor, data) @ data.rows


def _coefficients(means: Array, factor: Factor, data: Data) -> Float[Array, "K P"]:
    """Log densities are linear in expanded rows."""
    structure = get_family(data.prior.family).structure
    linear, quadratic, norm = structure.coefficients(means, factor)
    constant = jnp.broadcast_to(-factor.half_log_det - norm / 2, norm.shape)
    return jnp.concatenate([linear, quadratic, constant[:, None]], axis=1)


def at_labels(values: Float[Array, "J N"], labels: Int[Array, " N"]) -> Float[Array, " N"]:
    """The value of each row for its own block; a number for padding."""
    return jnp.take_along_axis(values, labels[None], axis=0, mode="clip")[0]


def log_memberships(blocks: Blocks, extra: dict[str, Array], data: Data) -> Float[Array, "J N"]:
    """Log of how much each row is at home in each filled block: its predictive density times the block's size."""
    coefficients, size = _of_blocks(blocks, extra, data)
    return coefficients @ data.rows + size[:, None]


def log_own_memberships(blocks: Blocks, labels: Int[Array, " N"], extra: dict[str, Array], data: Data) -> Float[Array, " N"]:
    """`log_memberships` of each row in its own block; a number for padding."""
    coefficients, size = _of_blocks(blocks, extra, data)
    own = jnp.minimum(labels, len(size) - 1)
    return (coefficients.T[:, own] * data.rows).sum(0) + size[own]


def _of_blocks(blocks: Blocks, extra: dict[str, Array], data: Data) -> tuple[Float[Array, "J P"], Float[Array, " J"]]:
    """Coefficients of log predictive densities, and log sizes."""
    means, covariances = predictive(data.prior, blocks, extra)
    factor = get_family(data.prior.family).structure.factor(covariances, data.n_features)
    filled = blocks.counts > 0
    return _coefficients(means, factor, data), jnp.where(filled, jnp.log(jnp.where(filled, blocks.counts, 1)), -jnp.inf)
