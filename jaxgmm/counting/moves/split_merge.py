"""Split-merge moves between partitions, weights and parameters integrated out.

Two rows are drawn, the first half of the time by its block, so that small blocks have their share, the second by a rule that
doesn't look at the partition; the ratio accounts for the first. If they are of one block, it is split so that they part; if
they are of two, these are merged (Jain & Neal 2004). To split, rows are dealt out to the two sides in a few batches; before
each, one step of EM looks at all rows of the block, those that are dealt out already counting for the side that they are on.
So the proposal follows its own earlier choices, as sequential allocation does (Dahl 2005), but also sees the rows ahead, and
takes a fixed number of steps, each of them parallel in the rows. Batches grow, and the rows ahead count as many as those dealt
out, so that the choices are followed after a few rows: where two share what is one component's, EM alone takes rows for other
halves than those in which they lie, and of thousands of rows such pairs would never be merged. To merge, the same batches are
dealt out as the rows lie, for the probability with which a split would have done so: it makes the Metropolis-Hastings ratio
exact.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.bayes.priors.base import Blocks, draw_variance, log_evidence, predictive
from jaxgmm.counting.partition import Data, Partition, Scene, blocks_of, log_densities
from jaxgmm.covariance import get_family
from jaxgmm.tools.variates import Uniforms, integer, logistic

_EM_STEPS = 5  # before the first batch; as many as this are left out, to try rough starts too
_BATCHES = 12  # of rows that are dealt out together: with 1, the ESS of K+ a sweep was a fifth (Old Faithful)
_FIRST = 4  # rows of the first batch, at most; each of the others is as many times as large as the one before
_MOST = 10.0  # log odds: no row is ever sure, so that splits EM would hardly propose can still be merged
_BY_BLOCK = 0.5  # share of rows that moves begin with that are drawn by their block: small ones have few rows
_EVEN = 0.5  # share of pairs of rows that are drawn without regard to distance
_REACH = 0.5  # standard deviations of the data, by feature, within which the other pairs lie


N_OF_ROWS = 3  # uniforms that `deal_out` takes for each row, and so does `propose`
N_DEALT = 2  # and besides


def n_uniforms(most: int) -> int:
    """How many uniforms `propose` takes besides those of the rows, for at most J blocks."""
    return 6 + N_DEALT


def propose(u: Uniforms, scene: Scene) -> tuple[Partition, Array]:
    """Another partition, and the log of its Metropolis-Hastings ratio."""
    partition, data = scene.partition, scene.data
    one = draw_row(u.take(), scene)
    two = _draw_other(u.take(2), one, data)
    counts = partition.blocks.counts
    filled = counts > 0
    n_clusters = filled.sum()
    a = partition.labels[one]
    split = a == partition.labels[two]
    b = jnp.where(split, jnp.argmin(filled), partition.labels[two])
    possible = (one != two) & (~split | (n_clusters < counts.size))

    member = (partition.labels == a) | (partition.labels == b)
    whole = blocks_of(member.astype(data.rows.dtype)[None], data)
    rows = jnp.arange(partition.labels.size)
    free = member & (rows != one) & (rows != two)
    side = jnp.where(split, rows == one, partition.labels == a)
    first, log_q = deal_out(u, scene, one, free, member, split, side, whole)
    proposed, log_ratio = exchange(u.take(3), scene, split, (a, b), member, first)
    log_ratio += log_draw(one, proposed, data) - log_draw(one, partition, data)
    return proposed, jnp.where(possible, log_ratio - jnp.where(split, log_q, -log_q), -jnp.inf)


def draw_row(uniform: Float[Array, ""], scene: Scene) -> Int[Array, ""]:
    """A row for a move to begin with: half of the time any, else one of a block that is drawn first, any."""
    partition, data = scene.partition, scene.data
    cumulative = jnp.cumsum(jnp.where(data.present, _shares(partition, data)[partition.labels], 0))
    return jnp.minimum((cumulative <= uniform * cumulative[-1]).sum(), data.n_samples - 1)


def log_draw(row: Int[Array, ""], partition: Partition, data: Data) -> Float[Array, ""]:
    """The log probability that it is this one."""
    return jnp.log(_shares(partition, data)[partition.labels[row]])


def _shares(partition: Partition, data: Data) -> Float[Array, " J"]:
    """Of a row of each block."""
    counts = partition.blocks.counts
    return (1 - _BY_BLOCK) / data.n_samples + _BY_BLOCK / ((counts > 0).sum() * jnp.maximum(counts, 1))


def exchange(
    uniform: Float[Array, "3"],
    scene: Scene,
    split: Array,
    pair: tuple[Array, Array],
    member: Bool[Array, " N"],
    first: Bool[Array, " N"],
) -> tuple[Partition, Array]:
    """The partition with one block split in two, or two merged in one, and the log of its posterior odds to the current one.

    Args:
        uniform: for the variances of the two sides and the whole.
        scene: the current partition, and what it depends on.
        split: (), True to split, False to merge.
        pair: a and b, slots of the two sides; the whole is in a.
        member: (N,), rows of both sides.
        first: (N,), True for rows of a.
    """
    (a, b), (partition, alpha, _, extra, data) = pair, scene
    n_clusters = (partition.blocks.counts > 0).sum()
    three = blocks_of(jnp.stack([member & first, member & ~first, member]).astype(data.rows.dtype), data)
    variance = draw_variance(data.prior, uniform, three, extra)
    current = jnp.stack([partition.variance[a], partition.variance[b], partition.variance[a]])
    is_current = jnp.stack([~split, ~split, split])
    variance = jnp.where(is_current, current, variance)
    evidence = log_evidence(data.prior, three, variance, extra)
    each = data.partition_prior.log_block(alpha, jnp.maximum(three.counts, 1)[:, None])
    sign = jnp.where(split, 1, -1)
    log_blocks = partition.log_blocks + sign * (each[0] + each[1] - each[2])
    log_odds = scene.log_prior_odds(n_clusters + sign, log_blocks) + sign * (evidence[0] + evidence[1] - evidence[2])
    index = jnp.stack([a, b])
    new = jax.tree.map(lambda leaf: jnp.where(split, leaf[:2], jnp.stack([leaf[2], jnp.zeros_like(leaf[2])])), three)
    new_variance = jnp.stack([jnp.where(split, variance[0], variance[2]), variance[1]])
    proposed = Partition(
        jnp.where(member, jnp.where(split & ~first, b, a), partition.labels),
        jax.tree.map(lambda old, some: old.at[index].set(some), partition.blocks, new),
        partition.variance.at[index].set(new_variance),
        log_blocks,
    )
    return proposed, log_odds


def _draw_other(uniform: Float[Array, "2"], one: Array, data: Data) -> Int[Array, ""]:
    """The row to pair with row `one`: any, or one nearby."""
    z = data.rows[: data.n_features]
    sd = jnp.sqrt((z**2).sum(1) / data.n_samples)  # their mean is 0, as padding is
    distance = (((z - z[:, one, None]) / jnp.where(sd > 0, sd, 1)[:, None]) ** 2).mean(0)
    weight = jnp.where(uniform[0] < _EVEN, 1, jnp.exp(-distance / (2 * _REACH**2)))
    weight = jnp.where(data.present, weight, 0).at[one].set(0)
    cumulative = jnp.cumsum(weight)
    return jnp.minimum((cumulative <= uniform[1] * cumulative[-1]).sum(), data.n_samples - 1)


def deal_out(
    u: Uniforms,
    scene: Scene,
    seed: Array,
    free: Bool[Array, " N"],
    member: Bool[Array, " N"],
    draw: Array,
    side: Bool[Array, " N"],
    whole: Blocks,
    rival: Float[Array, " N"] | None = None,
) -> tuple[Bool[Array, " N"], Float[Array, ""]]:
    """Which rows go to the first side, that of row `seed`, and the log probability of just that.

    Args:
        u: where uniforms are taken from.
        scene: the current partition, and what it depends on.
        seed: (), a row of the first side.
        free: (N,), rows that are dealt out; the others of `member` stay on their `side`.
        member: (N,), rows that take part.
        draw: (), True to draw, False to take `side` as the outcome.
        side: (N,), True on the first side: of the rows that aren't free or, where nothing is drawn, of all.
        whole: one block, whose predictive covariance is the metric that the search for a first guess has.
        rival: (N,), log density, with weight, of each row on the other side; None where that is a block that grows too.
    """
    extra, data = scene.extra, scene.data
    family, d, dtype = get_family(data.prior.family), data.n_features, data.rows.dtype
    weight = member.astype(dtype)
    _, covariances = predictive(data.prior, whole, extra)
    factor = family.structure.factor(covariances, d)
    z = data.rows[:d].T
    y = family.structure.whiten(z, jnp.zeros((1, d), z.dtype), factor)[0]
    # The first side begins as the rows around its own: all sizes are tried, in equal shares on a logarithmic scale.
    distance = ((y - y[seed]) ** 2).sum(1)
    chosen = member & (jnp.log(u.take_rows()) < u.take() * -jnp.log(weight.sum()))
    radius = jnp.where(chosen, distance, jnp.inf).min()
    odds = jnp.clip((jnp.minimum(radius, jnp.where(data.present, distance, 0).max()) - distance) / 2, -_MOST, _MOST)
    skipped = integer(u.take(), _EM_STEPS + 1)
    batch = jnp.where(free, _EM_STEPS + _batches(u.take_rows(), weight.sum()), -1)
    logit_u = logistic(u.take_rows())

    def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        odds, side, dealt = carry
        p = jnp.where(batch < i, side, jax.nn.sigmoid(odds))
        n_dealt = jnp.where(batch < i, weight, 0).sum()
        ahead = jnp.where(i <= _EM_STEPS, 1, jnp.minimum(n_dealt / jnp.maximum(weight.sum() - n_dealt, 1), 1))
        counting = jnp.where(batch < i, weight, ahead * weight)
        sides = counting * p if rival is not None else jnp.stack([counting * p, counting * (1 - p)])
        parts = blocks_of(jnp.atleast_2d(sides), data)
        means, covariances = predictive(data.prior, parts, extra)
        log_size = jnp.log(parts.counts * (weight.sum() / counting.sum()) + 0.5)
        density = log_densities(means, family.structure.factor(covariances, d), data) + log_size[:, None]
        new = jnp.clip(density[0] - (density[1] if rival is None else rival), -_MOST, _MOST)
        odds = jnp.where(i < skipped, odds, new)
        now = free & (batch == i)
        return odds, jnp.where(now & draw, logit_u < odds, side), jnp.where(now, odds, dealt)

    _, side, dealt = lax.fori_loop(0, _EM_STEPS + _BATCHES, step, (odds, side, odds))
    return side, jnp.where(free, -jax.nn.softplus(jnp.where(side, -dealt, dealt)), 0).sum()


def _batches(uniform: Float[Array, " N"], n_rows: Array) -> Int[Array, " N"]:
    """The batch of each row, 0, 1, ...: batches grow from about `_FIRST` rows, if they don't take more than their share."""
    first = jnp.minimum(1 / _BATCHES, _FIRST / n_rows)
    place = 1 - jnp.log(uniform) / jnp.log(first)
    return jnp.ceil((_BATCHES - 1) * jnp.maximum(place, 0)).astype(int)
