"""Two ways to sum over rows. Both compute the same `Statistics`; `covariance/structure.py` has their algebra.

*moments* is half the work and two plain matrix products, but its rounding grows as eps (spread / sigma)^2: it is used in
float64 while means and rows lie within 1e8 squared sds of every component. *whitened* grows as eps (spread / sigma):
float32, and the fallback. A loop is compiled with one of them; it stops where that no longer suits, and goes on in the other.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgmm.covariance.structure import Structure
from jaxgmm.data.source import Labelled
from jaxgmm.model.density import Components, log_joint, normalise, with_noise
from jaxgmm.model.projecting import e_step_projected
from jaxgmm.model.statistics import Statistics, recentre
from jaxgmm.tools.blocks import NUMBERS_IN_A_BLOCK, reduce_rows, rows_present, short_blocks

ENGINES = ("auto", "moments", "whitened")
ILL_CONDITIONED = 1e8  # squared distance in units of a component beyond which moments lose half of float64's digits


@dataclass(frozen=True)
class Engine:
    """How rows are summed over, by how they were observed: here, without gaps. Static: each is a program of its own.

    Attributes:
        sturdy: digits come before speed.
    """

    sturdy: bool = False

    def suits(self, components: Components, centre: Float[Array, " D"], running: Bool[Array, " R"]) -> Bool[Array, ""]:
        """Whether the sums of the R mixtures that run have their digits; always, where it is sturdy."""
        if self.sturdy or centre.dtype != jnp.float64:
            return jnp.ones((), bool)
        return ~(jax.vmap(lambda each: ill_conditioned(each, centre))(components) & running).any()

    def expand(
        self, structure: Structure, shape: tuple[int, ...], x: Array | Labelled, centre: Float[Array, " D"]
    ) -> Array | None:
        """What all passes over rows in memory can share, or None: with moments, the expanded rows if they fit in one block.

        Args:
            structure: of the covariances.
            shape: (R, K, D), that of the means of R mixtures that are summed for together.
            x: (N, D).
            centre: (D,), what rows are shifted by.
        """
        n_starts, n_components, _ = shape
        x, _ = _apart(x)
        if self.sturdy or centre.dtype != jnp.float64 or structure.rank:
            return None
        if choose_block_size(structure, n_components, x.shape, n_starts) < x.shape[0]:
            return None
        return expand_rows(structure, x, centre)

    def log_joint(self, components: Components, x: Array) -> Float[Array, "N K"]:
        """Log p(what was observed of row n, component k); with noise, of this too, last."""
        joint = log_joint(components, x)
        return joint if components.noise is None else with_noise(joint, components.noise.log_joint())

    def sums(
        self,
        components: Components,
        x: Array | Labelled,
        weight: Array,
        centre: Float[Array, " D"],
        expanded: Array | None = None,
    ) -> Statistics:
        """Expected statistics of R mixtures given what was observed.

        They share `centre`, hence the expanded rows: one matrix product serves all of them. Weights are (N,), or (R, N) where
        each mixture has its own; `expanded` is what `expand` made of these rows, if the caller has it.
        """
        n_starts, n_components, _ = components.means.shape
        x, evidence = _apart(x)
        block_size = short_blocks(choose_block_size(components.structure, n_components, x.shape, n_starts), x.shape[0])
        own = weight.ndim == 2
        n_rows = rows_present(weight.sum(0) if own else weight)
        arguments: dict[str, Any] = {"x": x, "centre": centre, "block_size": block_size, "n_rows": n_rows}
        arguments |= {"evidence": evidence}
        structure = components.structure
        e_step: Callable[..., Statistics] = functools.partial(e_step_moments, expanded=expanded)
        if structure.rank:
            e_step = e_step_projected
        some = structure.pooled and components.noise is not None  # of the rows add to what is pooled, not all
        if self.sturdy or centre.dtype != jnp.float64 or some:
            e_step = e_step_whitened
        of_start = jax.vmap(lambda each, w: e_step(each, weight=w, **arguments), in_axes=(0, 0 if own else None))
        return of_start(components, weight)


def _apart(x: Array | Labelled) -> tuple[Array, Float[Array, "N K"] | None]:
    """Rows, and what is known of their labels."""
    return x if isinstance(x, Labelled) else (x, None)


COMPLETE = Engine()
STURDY = Engine(sturdy=True)


def ill_conditioned(components: Components, centre: Float[Array, " D"]) -> Bool[Array, ""]:
    """True where moments would lose too many digits: rows of the mixture, or means, far away in a component's own units."""
    structure, factor, weights = components.structure, components.factor, components.weights
    shift = components.means - centre
    norm = structure.coefficients(shift, factor)[2]
    variance = weights @ (structure.variances(factor) + shift**2)
    spread = structure.spread(variance, factor)
    return (jnp.where(weights > 0, norm + spread, 0) > ILL_CONDITIONED).any()


def choose_block_size(structure: Structure, n_components: int, shape: tuple[int, ...], n_starts: int = 1) -> int:
    """Rows a block, of (N, D) in all, so that the expanded rows and the responsibilities of a block stay in cache."""
    n_samples, n_features = shape
    columns = 1 + n_features + structure.n_columns(n_features)
    if structure.rank:
        columns += 4 * n_starts * n_components * structure.rank
    most = max(1, NUMBERS_IN_A_BLOCK // (columns + 2 * n_starts * n_components))
    n_blocks = -(-n_samples // most)
    return -(-n_samples // n_blocks)


def expand_rows(structure: Structure, rows: Float[Array, "B D"], centre: Float[Array, " D"]) -> Float[Array, "B P"]:
    """What a component's log density is linear in: the centred row, then its products, and 1."""
    z = rows.astype(centre.dtype) - centre
    return jnp.concatenate([z, structure.columns(z), jnp.ones((z.shape[0], 1), z.dtype)], axis=1)


def e_step_moments(
    components: Components,
    x: Array,
    weight: Array,
    centre: Array,
    block_size: int,
    expanded: Float[Array, "N P"] | None = None,
    n_rows: Array | None = None,
    evidence: Float[Array, "N L"] | None = None,
) -> Statistics:
    """E-step by the moments engine, in the dtype of `centre`; reads `factor.whitener` alone."""
    structure, n_features = components.structure, components.n_features
    coefficients, active = linear_form(components, centre)

    def block(rows: Array, w: Array, known: Array | None = None) -> tuple[Array, ...]:
        columns = expand_rows(structure, rows, centre) if expanded is None else rows
        z = columns[:, :n_features]
        joint = jnp.where(active[:, None], coefficients @ columns.T, -jnp.inf)
        responsibilities, log_density = normalise(joint, w, components, known)
        return responsibilities @ columns, structure.total(z, w), log_density, w.sum()

    summed = x if expanded is None else expanded
    others = () if evidence is None else (evidence,)
    return about_means(components, centre, *reduce_rows(block, summed, weight, block_size, *others, n_rows=n_rows))


def linear_form(components: Components, centre: Float[Array, " D"]) -> tuple[Float[Array, "K P"], Bool[Array, " K"]]:
    """The coefficients of the log joint, a linear function of expanded rows, and of which components: of others it is -inf."""
    linear, quadratic, norm = components.structure.coefficients(components.means - centre, components.factor)
    active = components.log_constant > -jnp.inf  # as a coefficient, -inf would be NaN where a row's tangent is 0
    constant = jnp.where(active, components.log_constant, 0) - norm / 2
    return jnp.concatenate([linear, quadratic, constant[:, None]], axis=1), active


def about_means(
    components: Components,
    centre: Float[Array, " D"],
    sums: Float[Array, "K P"],
    total: Array,
    log_density: Float[Array, ""],
    total_weight: Float[Array, ""],
) -> Statistics:
    """Statistics about the components' means, from sums of expanded rows about a common centre."""
    structure, means, n_features = components.structure, components.means, components.n_features
    shift = means - centre
    first, second, counts = sums[:, :n_features], sums[:, n_features:-1], sums[:, -1]
    scatter = structure.unpack(second, total, n_features)
    scatter = recentre(structure, scatter, first, counts, shift)
    log_likelihood = log_density + structure.total_log_density(total, components.factor)
    return Statistics(counts, first - counts[:, None] * shift, scatter, means, log_likelihood, total_weight)


def e_step_whitened(
    components: Components,
    x: Array,
    weight: Array,
    centre: Array,
    block_size: int,
    n_rows: Array | None = None,
    evidence: Float[Array, "N L"] | None = None,
) -> Statistics:
    """E-step by the whitened engine, in the dtype of `centre`."""
    structure, means, factor = components.structure, components.means, components.factor
    shift = means - centre
    constant = components.log_constant[:, None]
    farthest = jnp.finfo(centre.dtype).max ** 0.4

    def block(rows: Array, w: Array, known: Array | None = None) -> tuple[Array, ...]:
        y = structure.whiten(rows.astype(centre.dtype) - centre, shift, factor)
        responsibilities, log_density = normalise(constant - (y**2).sum(-1) / 2, w, components, known)
        y = jnp.clip(y, -farthest, farthest)  # rows of weight 0 for a component add nothing, however far
        sums = jnp.einsum("kb,kbd->kd", responsibilities, y)
        return responsibilities.sum(1), sums, structure.whitened_scatter(responsibilities, y, factor), log_density, w.sum()

    others = () if evidence is None else (evidence,)
    counts, sums, scatter, log_density, total_weight = reduce_rows(block, x, weight, block_size, *others, n_rows=n_rows)
    sums, scatter = structure.unwhiten(sums, scatter, factor)
    return Statistics(counts, sums, scatter, means, log_density, total_weight)


def assigned_statistics(
    structure: Structure,
    n_components: int,
    centre: Float[Array, " D"],
    x: Array,
    weight: Array,
    assigned: Array,
    n_rows: Array | None = None,
) -> Statistics:
    """Statistics for given responsibilities (N, K) or labels (N,), all about `centre`."""
    n_features = centre.shape[0]

    def block(rows: Array, w: Array, part: Array) -> tuple[Array, ...]:
        one_hot = part if part.ndim == 2 else jax.nn.one_hot(part, n_components, dtype=centre.dtype)
        responsibilities = w * one_hot.astype(centre.dtype).T
        columns = expand_rows(structure, rows, centre)
        total = structure.total(columns[:, :n_features], responsibilities.sum(0))
        return responsibilities @ columns, total, w.sum()

    block_size = choose_block_size(structure, n_components, x.shape)
    block_size = block_size if n_rows is None else short_blocks(block_size, x.shape[0])
    sums, total, total_weight = reduce_rows(block, x, weight, block_size, assigned, n_rows=n_rows)
    scatter = structure.unpack(sums[:, n_features:-1], total, n_features)
    shared = jnp.broadcast_to(centre, (n_components, n_features))
    nothing = jnp.zeros((), centre.dtype)
    return Statistics(sums[:, -1], sums[:, :n_features], scatter, shared, nothing, total_weight)
