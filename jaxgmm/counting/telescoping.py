"""The telescoping sampler: partition, number of components and parameters in turn, with moves between partitions in between.

Fruehwirth-Schnatter, Malsiner-Walli & Gruen (2021), algorithm 1, with K padded to J components so that one compiled program
serves all K; and, while weights and parameters are integrated out anyway, the moves of `split_merge`, `birth_death` and
`few_rows`.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.base import draw_parameters, predictive, start_in_partitions, statistics_of
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.counting.moves import birth_death, few_rows, split_merge
from jaxgmm.counting.partition import Data, Partition, Scene, blocks_of_labels, log_blocks_of, log_densities
from jaxgmm.counting.partition_prior import PartitionPrior, draw_n_components
from jaxgmm.covariance import get_family
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.variates import Uniforms, draw_labels, normal

_ALPHA_STEPS = (0.0, 0.5, 1.5)  # of the log-normal random walks of alpha; the first finds the density where it stands
_SWEEPS_GIVEN = 10  # of the parameters, the partition held
MOVES = (split_merge, birth_death, few_rows)


class Chain(NamedTuple):
    """Where a chain stands after a sweep. Filled components come first.

    Attributes:
        rng_key: of its future.
        labels: (N,), the component of each row, J for padding.
        gmm: J components; those from `n_components` on have weight 0 and no meaning. Means are centred as the rows are.
        n_components: (), K.
        n_clusters: (), K+, components that own a row.
        alpha: ().
        extra: the prior's own further parameters.
        log_likelihood: (), allocations summed out, of the mixture before, by which rows were allocated; nats.
        entropy: (), mean over the rows of the entropy of those allocations; nats.
        accepted: (), share of the proposals that were.
    """

    rng_key: Array
    labels: Int[Array, " N"]
    gmm: GMM
    n_components: Int[Array, ""]
    n_clusters: Int[Array, ""]
    alpha: Float[Array, ""]
    extra: dict[str, Array]
    log_likelihood: Float[Array, ""]
    entropy: Float[Array, ""]
    accepted: Float[Array, ""]

    @property
    def sites(self) -> dict[str, Array]:
        """What a draw consists of, by name."""
        names = ("n_clusters", "n_components", "alpha", "labels", "log_likelihood", "entropy")
        return {name: getattr(self, name) for name in names} | self.extra | {"weights": jnp.sort(self.gmm.weights)[::-1]}


@dataclasses.dataclass(frozen=True)
class Telescoping:
    """What `run_chains` asks for: a step of `thin` sweeps, and what is kept of the last.

    Attributes:
        n_moves: rounds of proposals a sweep, one of each kind in `MOVES`.
        thin: sweeps a step.
    """

    n_moves: int
    thin: int = 1
    heavy: ClassVar = True

    def step(self, chain: Chain, data: Data) -> Chain:
        """The chain `thin` sweeps later."""
        return lax.fori_loop(0, self.thin, lambda _, chain: sweep(chain, data, self.n_moves), chain)

    def keep(self, chain: Chain, data: Data) -> dict[str, Array]:
        """What a draw consists of."""
        kept = {name: getattr(chain, name) for name in ("n_clusters", "n_components", "alpha", "log_likelihood", "entropy")}
        kept |= chain.extra | {"sorted_weights": jnp.sort(chain.gmm.weights)[::-1], "accepted": chain.accepted}
        return kept | {"labels": chain.labels.astype(jnp.int16)}


def start(key: Array, labels: Int[Array, " N"], data: Data) -> Chain:
    """A chain that starts from a partition, labels 0..K-1 with none left out: at what its blocks predict."""
    most = data.partition_prior.most
    blocks = blocks_of_labels(labels, most, data)
    n_clusters = (blocks.counts > 0).sum()
    variance = (data.rows[: data.n_features] ** 2).sum(1) / data.n_samples  # about the mean, which is 0, as padding is
    extra = start_in_partitions(data.prior, variance, n_clusters)
    means, covariances = predictive(data.prior, blocks, extra)
    gmm = GMM.unchecked(blocks.counts / data.n_samples, means, covariances, data.prior.family)
    nothing = jnp.zeros((), data.rows.dtype)
    return Chain(key, labels, gmm, n_clusters, n_clusters, data.partition_prior.alpha, extra, nothing, nothing, nothing)


def continued(
    key: Array, labels: Int[Array, " N"], n_components: Array, alpha: Array, extra: dict[str, Array], data: Data
) -> Chain:
    """A chain that goes on from a partition of its own, filled components first: the mixture is drawn given it.

    With a prior that is only conditionally conjugate, in a few sweeps.
    """
    key, key_sticks, key_mixture = jax.random.split(key, 3)
    chain = start(key, labels, data)._replace(n_components=n_components, alpha=alpha, extra=extra)
    sticks = jax.random.uniform(key_sticks, (data.partition_prior.most,), data.rows.dtype)

    def again(i: Array, chain: Chain) -> Chain:
        own, partition = jax.random.fold_in(key_mixture, i), _partition_of(labels, chain, data)
        gmm, extra = _draw_mixture(own, sticks, partition, n_components, alpha, chain, data)
        return chain._replace(gmm=gmm, extra=extra)

    n_sweeps = _SWEEPS_GIVEN if isinstance(data.prior, RichardsonGreen) else 1
    return lax.fori_loop(0, n_sweeps, again, chain)


def sweep(chain: Chain, data: Data, n_moves: int) -> Chain:
    """Allocations given the mixture; the partition by `MOVES`; K, alpha and the mixture given the partition."""
    key, key_uniform, key_mixture = jax.random.split(chain.rng_key, 3)
    joint = _log_joint(chain, data)
    most, present = len(joint), data.present
    of_round, rows_of_round = sum(move.n_uniforms(most) + 1 for move in MOVES), sum(move.N_OF_ROWS for move in MOVES)
    u = _uniforms(key_uniform, n_moves * of_round + 3 * len(_ALPHA_STEPS) + 1 + most, 1 + n_moves * rows_of_round, data.rows)
    drawn = draw_labels(joint, u.take_rows())
    labels, log_density = jnp.where(present, drawn.labels, most), jnp.where(present, drawn.log_total, 0)
    entropy = jnp.where(present, drawn.entropy, 0).sum() / data.n_samples
    constant = data.n_samples * data.n_features / 2 * jnp.log(2 * jnp.pi)
    # NaN once, NaN for ever: a draw that isn't a number must not pass unseen between those that are kept.
    log_likelihood = jnp.where(jnp.isfinite(chain.log_likelihood), log_density.sum() - constant, jnp.nan)
    chain = chain._replace(rng_key=key, log_likelihood=log_likelihood, entropy=entropy)

    prior = data.partition_prior
    partition = _partition_of(labels, chain, data)
    partition, accepted = _moved(u.take(n_moves, of_round), u.take_rows(n_moves, rows_of_round), partition, chain, data)
    partition = _filled_first(partition)
    of_alpha, of_k, of_sticks = u.take(len(_ALPHA_STEPS), 3), u.take(), u.take(most)
    assert u.spent
    alpha, log_terms = _draw_alpha(of_alpha, chain.alpha, partition, prior)
    n_components = jnp.full_like(chain.n_components, prior.most)
    if prior.weights != "dirichlet-process":
        n_components = draw_n_components(of_k, log_terms)
    gmm, extra = _draw_mixture(key_mixture, of_sticks, partition, n_components, alpha, chain, data)
    return chain._replace(
        labels=partition.labels,
        gmm=gmm,
        n_components=n_components,
        n_clusters=(partition.blocks.counts > 0).sum(),
        alpha=alpha,
        extra=extra,
        accepted=accepted,
    )


def _uniforms(key: Array, n_values: int, n_of_rows: int, rows: Float[Array, "P N"]) -> Uniforms:
    """By one call, so many, and so many a row: the first rows' are the same however many more there are."""
    n_samples = rows.shape[1]
    flat = jax.random.uniform(key, (n_values + n_samples * n_of_rows,), rows.dtype)
    return Uniforms(flat[:n_values], flat[n_values:].reshape(n_samples, n_of_rows).T)


def _moved(
    uniforms: Float[Array, "R U"], of_rows: Float[Array, "R L N"], partition: Partition, chain: Chain, data: Data
) -> tuple[Partition, Array]:
    """The partition after rounds of `MOVES`, and the share of the proposals that were accepted."""
    accepted = jnp.zeros((), data.rows.dtype)
    n_rounds = len(uniforms)
    if n_rounds == 0:
        return partition, accepted
    log_heads = data.partition_prior.log_heads(chain.alpha, data.n_samples)

    def one_round(i: Array, carry: tuple[Partition, Array]) -> tuple[Partition, Array]:
        partition, accepted = carry
        u = Uniforms(uniforms[i], of_rows[i])
        for move in MOVES:
            proposed, log_ratio = move.propose(u, Scene(partition, chain.alpha, log_heads, chain.extra, data))
            done = jnp.log(u.take()) < log_ratio
            partition = jax.tree.map(lambda new, old, done=done: jnp.where(done, new, old), proposed, partition)
            accepted += done
        assert u.spent
        return partition, accepted

    partition, accepted = lax.fori_loop(0, n_rounds, one_round, (partition, accepted))
    return partition, accepted / (len(MOVES) * n_rounds)


def _log_joint(chain: Chain, data: Data) -> Float[Array, "J N"]:
    """Log p(row, component) up to a constant."""
    gmm = chain.gmm
    factor = get_family(gmm.family).factor(gmm.covariances, gmm.n_features)
    active = jnp.arange(gmm.n_components) < chain.n_components
    log_weights = jnp.where(active, jnp.log(gmm.weights), -jnp.inf)
    return jnp.where(active[:, None], log_weights[:, None] + log_densities(gmm.means, factor, data), -jnp.inf)


def _partition_of(labels: Array, chain: Chain, data: Data) -> Partition:
    most = chain.gmm.n_components
    blocks = blocks_of_labels(labels, most, data)
    variance = chain.gmm.covariances.reshape(most, -1)[:, 0]
    return Partition(labels, blocks, variance, log_blocks_of(blocks.counts, chain.alpha, data.partition_prior))


def _filled_first(partition: Partition) -> Partition:
    order = jnp.argsort(partition.blocks.counts == 0, stable=True)
    blocks = jax.tree.map(lambda leaf: leaf[order], partition.blocks)
    places = jnp.append(jnp.argsort(order), order.size)
    return Partition(places[partition.labels], blocks, partition.variance[order], partition.log_blocks)


def _draw_alpha(
    uniforms: Float[Array, "S 3"], alpha: Array, partition: Partition, prior: PartitionPrior
) -> tuple[Array, Float[Array, " M"]]:
    """Random walks of log alpha, K summed out; and log p(K, partition) for each K, where the last has come to."""
    counts = partition.blocks.counts

    def log_terms(alpha: Array, log_blocks: Array) -> Array:
        return prior.log_heads(alpha, counts.sum())[(counts > 0).sum()] + log_blocks

    def walk(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        alpha, current, _ = carry
        u = uniforms[i]
        proposed = alpha * jnp.exp(jnp.array(_ALPHA_STEPS)[i] * normal(u[0], u[1]))
        proposed_terms = log_terms(proposed, log_blocks_of(counts, proposed, prior))
        value = logsumexp(proposed_terms) + prior.log_alpha_density(proposed) + jnp.log(proposed)
        better = jnp.log(u[2]) < value - current
        return jax.tree.map(lambda new, old: jnp.where(better, new, old), (proposed, value, proposed_terms), carry)

    terms = log_terms(alpha, partition.log_blocks)
    if prior.alpha_prior is None:
        return alpha, terms
    alpha, _, terms = lax.fori_loop(0, len(_ALPHA_STEPS), walk, (alpha, jnp.full_like(alpha, -jnp.inf), terms))
    return alpha, terms


def _draw_mixture(
    key: Array, of_sticks: Array, partition: Partition, n_components: Array, alpha: Array, chain: Chain, data: Data
) -> tuple[GMM, dict[str, Array]]:
    """Weights, means and covariances of all J components given the partition; empty ones from the prior."""
    blocks, prior = partition.blocks, data.partition_prior
    active = jnp.arange(prior.most) < n_components
    filled = blocks.counts > 0
    if prior.weights == "dirichlet-process":
        first_empty = jnp.arange(prior.most) == filled.sum()
        concentration = jnp.where(first_empty, alpha, jnp.where(filled, 0, 1))
    else:
        concentration = jnp.broadcast_to(prior.concentration(alpha)[n_components - 1], (prior.most,))
    old = chain.gmm
    if isinstance(data.prior, RichardsonGreen):
        old = GMM.unchecked(old.weights, old.means, partition.variance.reshape(old.covariances.shape), old.family)
    own = dataclasses.replace(data.prior, concentration=concentration)
    gmm, _, extra = draw_parameters(own, key, statistics_of(blocks), old, chain.extra)
    weights = gmm.weights
    if prior.weights == "dirichlet-process":
        weights = _break_stick(of_sticks, weights, filled, alpha)
    weights = jnp.where(active, weights, 0)
    return GMM.unchecked(weights / weights.sum(), gmm.means, gmm.covariances, gmm.family), extra


def _break_stick(uniform: Array, weights: Array, filled: Array, alpha: Array) -> Array:
    """The first empty component's weight, dealt out among all empty ones: v_k ~ Beta(1, alpha), the last takes the rest."""
    place = jnp.arange(weights.size) - filled.sum()
    empty = place >= 0
    log_rest = jnp.where(empty, jnp.log1p(-uniform) / alpha, 0)  # log(1 - v), finite for every uniform in [0, 1)
    before = jnp.cumsum(log_rest) - log_rest
    last = jnp.arange(weights.size) == weights.size - 1
    log_v = jnp.where(last, 0, jnp.log(-jnp.expm1(log_rest)))
    left = jnp.where(place == 0, weights, 0).sum()
    return jnp.where(empty, left * jnp.exp(before + jnp.where(empty, log_v, 0)), weights)
