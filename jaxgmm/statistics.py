"""Sufficient statistics: the only sums over rows, and the M-step that needs nothing else.

Two engines compute the same `Statistics` (`covariance/structure.py` has their algebra). *moments* is half the work and two
plain matrix products, but its rounding grows as eps (spread / sigma)^2: it is used in float64 while means and
rows lie within 1e8 squared sds of every component. *whitened* grows as eps (spread / sigma): float32, and the fallback.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxgmm import precision
from jaxgmm.blocks import reduce_rows
from jaxgmm.covariance import Factor, get_family
from jaxgmm.covariance.base import per_component
from jaxgmm.mixture import GMM, log_weights
from jaxgmm.prior import Prior
from jaxgmm.validation import check_count, check_rows, check_single, check_weights, in_jit, is_traced, unknown

ENGINES = ("auto", "moments", "whitened")
PARAMETERS = ("weights", "means", "covariances")
ILL_CONDITIONED = 1e8  # squared distance in units of a component beyond which moments lose half of float64's digits
_NUMBERS_IN_A_BLOCK = 1 << 21  # 16 MB of float64: of 8 and 16, the faster at D = 8 and 64 with a 2 MB L2 cache


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Statistics:
    """What an E-step knows of the data: additive over rows, blocks, files, devices and hosts.

    Sums are taken about `centre`, the means of the mixture that made them, so that offsets of the data cost no digits.

    Attributes:
        counts: (K,), N_k = sum_n w_n r_nk.
        sums: (K, D), sum_n w_n r_nk (x_n - centre_k).
        scatter: sum_n w_n r_nk (x_n - centre_k)(x_n - centre_k)', in the family's shape: (K, D, D), or summed over k
            (D, D), diagonals (K, D), traces (K,).
        centre: (K, D).
        log_likelihood: (), total in nats.
        total_weight: (), sum_n w_n; `counts` add up to it, whatever the parameters.
    """

    counts: Float[Array, " K"]
    sums: Float[Array, "K D"]
    scatter: Float[Array, "..."]
    centre: Float[Array, "K D"]
    log_likelihood: Float[Array, ""]
    total_weight: Float[Array, ""]

    def __add__(self, other: "Statistics") -> "Statistics":
        """Statistics of both sets of rows; both must come from the same mixture."""
        same = self.scatter.shape == other.scatter.shape and self.centre.shape == other.centre.shape
        if same and not is_traced(self.centre, other.centre):
            same = bool((np.asarray(self.centre) == np.asarray(other.centre)).all())
        if not same:
            raise ValueError("Statistics add up only if they come from the same mixture: these have other centres or shapes.")
        return Statistics(
            self.counts + other.counts,
            self.sums + other.sums,
            self.scatter + other.scatter,
            self.centre,
            self.log_likelihood + other.log_likelihood,
            self.total_weight + other.total_weight,
        )


def e_step(
    gmm: GMM,
    x: Float[ArrayLike, "N D"],
    sample_weight: Float[ArrayLike, " N"] | None = None,
    *,
    engine: str = "auto",
    block_size: int | None = None,
) -> Statistics:
    """Expected sufficient statistics of the rows under the mixture (Dempster, Laird & Rubin 1977).

    Args:
        gmm: one mixture; components of weight 0 take no rows.
        x: (N, D), finite, any float dtype.
        sample_weight: (N,), non-negative; weight 2 is a row twice, weight 0 no row. Default 1.
        engine: "auto" (moments in float64 where well-conditioned, else whitened), "moments" or "whitened".
        block_size: rows held in expanded form at once; default by the size of the cache. Changes rounding only.

    Returns:
        Statistics, in the dtype of `x`.

    Raises:
        ValueError: an engine or shape that doesn't fit, NaN or infinite rows, negative or all-zero weights.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> jg.e_step(gmm, [[0.0], [4.0], [4.0]]).counts.round(2).tolist()
        [1.0, 2.0]
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    check_single(gmm.weights, "e_step(g, x)")
    x = check_rows(x, "x", n_features=gmm.n_features)
    weight = check_weights(sample_weight, x.shape[0])
    if block_size is not None:
        block_size = check_count(block_size, "block_size")
    dtype, out = precision.compute_dtype(x, gmm, weight), precision.result_dtype(x)
    with precision.scope(dtype):
        return _e_step(gmm, jnp.asarray(x), weight, engine, block_size, dtype, out)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _e_step(gmm, x, weight, engine, block_size, dtype, out):
    gmm = precision.cast(precision.cast(gmm, out), dtype)
    weight = jnp.ones(x.shape[0], dtype) if weight is None else weight.astype(dtype)
    block_size = block_size or choose_block_size(gmm, x.shape[0])
    factor = get_family(gmm.family).factor(gmm.covariances, gmm.n_features)
    centre = gmm.weights @ gmm.means
    arguments: dict[str, Any] = {"x": x, "weight": weight, "centre": centre, "block_size": block_size}
    moments, whitened = functools.partial(e_step_moments, **arguments), functools.partial(e_step_whitened, **arguments)
    if engine == "auto" and dtype == np.float64:
        statistics = lax.cond(ill_conditioned(gmm, factor, centre), whitened, moments, gmm, factor)
    else:
        statistics = (moments if engine == "moments" else whitened)(gmm, factor)
    return precision.cast(statistics, out)


def expand_whole(gmms: GMM, x: Float[Array, "N D"], centre: Float[Array, " D"]) -> Float[Array, "N P"] | None:
    """The expanded rows, where all of them fit in one block: a loop needs to make them only once. Else None."""
    if centre.dtype != jnp.float64 or choose_block_size(gmms, x.shape[0], gmms.weights.shape[0]) < x.shape[0]:
        return None
    return _expand(get_family(gmms.family).structure, x, centre)


def batched_e_step(
    gmms: GMM,
    factors: Factor,
    x: Array,
    weight: Array,
    centre: Float[Array, " D"],
    running: Bool[Array, " R"],
    expanded: Float[Array, "N P"] | None = None,
) -> Statistics:
    """E-step of R mixtures at once. They share `centre`, hence the expanded rows: one matrix product serves all of them.

    The engine is chosen once for the whole batch, since under `vmap` a choice would compute both. `expanded` is
    `expand_whole` of these rows, if the caller has it.
    """
    block_size = choose_block_size(gmms, x.shape[0], gmms.weights.shape[0])
    arguments: dict[str, Any] = {"x": x, "weight": weight, "centre": centre, "block_size": block_size}
    whitened = jax.vmap(lambda gmm, factor: e_step_whitened(gmm, factor, **arguments))
    if centre.dtype != jnp.float64:
        return whitened(gmms, factors)
    moments = jax.vmap(lambda gmm, factor: e_step_moments(gmm, factor, **arguments, expanded=expanded))
    ill = jax.vmap(lambda gmm, factor: ill_conditioned(gmm, factor, centre))(gmms, factors)
    return lax.cond((ill & running).any(), whitened, moments, gmms, factors)


def ill_conditioned(gmm: GMM, factor: Factor, centre: Float[Array, " D"]) -> Bool[Array, ""]:
    """True where moments would lose too many digits: rows of the mixture, or means, far away in a component's own units."""
    structure = get_family(gmm.family).structure
    shift = gmm.means - centre
    norm = structure.coefficients(shift, factor)[2]
    variance = gmm.weights @ (structure.variances(factor) + shift**2)
    spread = structure.spread(variance, factor)
    return (jnp.where(gmm.weights > 0, norm + spread, 0) > ILL_CONDITIONED).any()


def choose_block_size(gmm: GMM, n_samples: int, n_starts: int = 1) -> int:
    """Rows a block, so that the expanded rows and the responsibilities of a block stay in cache."""
    columns = (
        1
        + gmm.n_features
        + jax.eval_shape(
            get_family(gmm.family).structure.columns, jax.ShapeDtypeStruct((1, gmm.n_features), jnp.float32)
        ).shape[1]
    )
    most = max(1, _NUMBERS_IN_A_BLOCK // (columns + 2 * n_starts * gmm.n_components))
    n_blocks = -(-n_samples // most)
    return -(-n_samples // n_blocks)


def _constant(gmm: GMM, factor: Factor) -> Float[Array, " K"]:
    return log_weights(gmm.weights) - factor.half_log_det - gmm.n_features / 2 * jnp.log(2 * jnp.pi)


def _normalise(log_joint: Float[Array, "K B"], weight: Float[Array, " B"]) -> tuple[Array, Array]:
    """Weighted responsibilities (K, B) and the weighted sum of log densities. Components come first: sums run over rows."""
    peak = log_joint.max(0)
    exponential = jnp.exp(log_joint - peak)
    total = exponential.sum(0)
    return exponential * (weight / total), (weight * (peak + jnp.log(total))).sum()


def _expand(structure: Any, rows: Float[Array, "B D"], centre: Float[Array, " D"]) -> Float[Array, "B P"]:
    """What a component's log density is linear in: the centred row, then its products."""
    z = rows.astype(centre.dtype) - centre
    return jnp.concatenate([z, structure.columns(z)], axis=1)


def e_step_moments(
    gmm: GMM,
    factor: Factor,
    x: Array,
    weight: Array,
    centre: Array,
    block_size: int,
    expanded: Float[Array, "N P"] | None = None,
) -> Statistics:
    """E-step by the moments engine, in the dtype of `centre`; reads no covariances, and not `factor.scale`."""
    structure = get_family(gmm.family).structure
    shift = gmm.means - centre
    linear, quadratic, norm = structure.coefficients(shift, factor)
    coefficients = jnp.concatenate([linear, quadratic], axis=1)
    constant = (_constant(gmm, factor) - norm / 2)[:, None]

    def block(rows: Array, w: Array) -> tuple[Array, ...]:
        columns = _expand(structure, rows, centre) if expanded is None else rows
        z = columns[:, : gmm.n_features]
        responsibilities, log_density = _normalise(coefficients @ columns.T + constant, w)
        return (
            responsibilities.sum(1), responsibilities @ columns, structure.total(z, w), log_density, w.sum()
        )  # fmt: skip

    counts, sums, total, log_density, total_weight = reduce_rows(block, x if expanded is None else expanded, weight, block_size)
    first, second = sums[:, : gmm.n_features], sums[:, gmm.n_features :]
    scatter = structure.unpack(second, total, gmm.n_features)
    scatter = recentre(structure, scatter, first, counts, shift)
    log_likelihood = log_density + structure.total_log_density(total, factor)
    return Statistics(counts, first - counts[:, None] * shift, scatter, gmm.means, log_likelihood, total_weight)


def e_step_whitened(gmm: GMM, factor: Factor, x: Array, weight: Array, centre: Array, block_size: int) -> Statistics:
    """E-step by the whitened engine, in the dtype of `centre`; reads no covariances but through `factor`."""
    structure = get_family(gmm.family).structure
    shift = gmm.means - centre
    constant = _constant(gmm, factor)[:, None]

    def block(rows: Array, w: Array) -> tuple[Array, ...]:
        y = structure.whiten(rows.astype(centre.dtype) - centre, shift, factor)
        responsibilities, log_density = _normalise(constant - (y**2).sum(-1) / 2, w)
        sums = jnp.einsum("kb,kbd->kd", responsibilities, y)
        return responsibilities.sum(1), sums, structure.whitened_scatter(responsibilities, y), log_density, w.sum()

    counts, sums, scatter, log_density, total_weight = reduce_rows(block, x, weight, block_size)
    sums, scatter = structure.unwhiten(sums, scatter, factor)
    return Statistics(counts, sums, scatter, gmm.means, log_density, total_weight)


def recentre(structure: Any, scatter: Array, sums: Array, counts: Array, shift: Array) -> Array:
    """Scatter about a point `shift` away, from the scatter and the sums about the origin. Of NumPy arrays, in NumPy."""
    ones = np.ones(counts.shape, counts.dtype)
    return scatter - 2 * structure.outer(ones, sums, shift) + structure.outer(counts, shift, shift)


def assigned_statistics(gmm: GMM, x: Array, weight: Array, assigned: Array) -> Statistics:
    """Statistics for given responsibilities (N, K) or labels (N,), all about the mean of `gmm`'s first component."""
    structure = get_family(gmm.family).structure
    centre = gmm.means[0]

    def block(rows: Array, w: Array, part: Array) -> tuple[Array, ...]:
        one_hot = part if part.ndim == 2 else jax.nn.one_hot(part, gmm.n_components, dtype=centre.dtype)
        responsibilities = w * one_hot.astype(centre.dtype).T
        columns = _expand(structure, rows, centre)
        total = structure.total(columns[:, : gmm.n_features], responsibilities.sum(0))
        return responsibilities.sum(1), responsibilities @ columns, total, w.sum()

    block_size = choose_block_size(gmm, x.shape[0])
    counts, sums, total, total_weight = reduce_rows(block, x, weight, block_size, assigned)
    scatter = structure.unpack(sums[:, gmm.n_features :], total, gmm.n_features)
    shared = jnp.broadcast_to(centre, gmm.means.shape)
    nothing = jnp.zeros((), centre.dtype)
    return Statistics(counts, sums[:, : gmm.n_features], scatter, shared, nothing, total_weight)


def column_moments(x: Any, weight: Any, dense: bool, dtype: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """Total weight, mean (D,), and scatter about the mean: (D, D) if `dense`, else its diagonal (D,). On the host.

    Raises:
        ValueError: squares of the rows overflow or underflow.
    """
    # NumPyro runs models inside its own compiled loops, with the rows as constants: compiled sums would be traced there.
    total, mean, scatter = (_column_moments_on_host if in_jit() else _column_moments)(x, weight, dense, dtype)
    mean, scatter = np.asarray(mean, float), np.asarray(scatter, float)
    info = np.finfo(dtype)
    variances = scatter if scatter.ndim == 1 else np.diagonal(scatter)
    fine = np.isfinite(scatter).all() and (variances < np.sqrt(info.max)).all()
    tiny = np.where(variances > 0, variances < np.sqrt(info.tiny), (mean != 0) & (np.abs(mean) < np.sqrt(info.tiny)))
    if not fine or tiny.any():
        raise ValueError(
            f"x has columns too large or too small for {info.dtype.name}: sums of squares {variances.tolist()} leave no room "
            "for products of covariances. Rescale its columns."
        )
    return float(total), mean, scatter


@functools.partial(jax.jit, static_argnums=(2, 3))
def _column_moments(x, weight, dense, dtype):
    weight = weight.astype(dtype)
    origin = x[jnp.argmax(weight > 0)].astype(dtype)
    block_size = max(1, _NUMBERS_IN_A_BLOCK // 8 // x.shape[1])  # each makes a few temporaries of its size

    def first(rows: Array, w: Array) -> tuple[Array, Array]:
        return w.sum(), w @ (rows.astype(dtype) - origin)

    total, sums = reduce_rows(first, x, weight, block_size)
    mean = origin + sums / total

    def second(rows: Array, w: Array) -> Array:
        z = rows.astype(dtype) - mean
        return (w[:, None] * z).T @ z if dense else w @ z**2

    return total, mean, reduce_rows(second, x, weight, block_size)


def _column_moments_on_host(x, weight, dense, dtype):
    rows, weight = np.asarray(x, dtype), np.asarray(weight, dtype)
    total, origin = weight.sum(), rows[np.argmax(weight > 0)]
    z = rows - origin
    shift = weight @ z / total
    z -= shift
    return total, origin + shift, (weight[:, None] * z).T @ z if dense else weight @ z**2


def m_step(statistics: Statistics, gmm: GMM, prior: Prior | None = None, *, fixed: Sequence[str] = ()) -> GMM:
    """The mixture that maximises the expected log joint given the statistics: maximum likelihood, or MAP with a prior.

    With a prior, the joint mode of (means, covariances) of a normal-inverse-Wishart posterior,
    mu_k = (kappa0 m0 + sum r x) / (kappa0 + N_k), Sigma_k = (Psi0 + S_k + kappa0 (mu_k - m0)(mu_k - m0)') / (nu0 + N_k + D + 2)
    for full covariances (Fraley & Raftery 2007, with the mode where they take theirs), and
    pi_k = (N_k + alpha_k - 1) / (N + sum_j (alpha_j - 1)).

    Args:
        statistics: from `e_step`.
        gmm: the mixture that made them; supplies the family, what is fixed, and which components are inactive (weight 0).
        prior: None for maximum likelihood.
        fixed: names of parameters to keep: any of "weights", "means", "covariances". The rest is the exact constrained mode.

    Returns:
        A mixture of the same family. A component that received no weight keeps its mean and, without a prior, its covariance.

    Raises:
        ValueError: a prior of another family or dimension, an unknown name in `fixed`.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
        >>> jg.m_step(jg.e_step(gmm, [[1.0], [3.0]]), gmm).means.tolist()
        [[2.0]]
    """
    fixed = check_fixed(fixed)
    if prior is not None:
        prior.check_fits(gmm)
    dtype, out = (
        precision.compute_dtype(statistics.counts, gmm, statistics, prior),
        precision.result_dtype(statistics.counts),
    )
    with precision.scope(dtype):
        return _m_step(statistics, gmm, prior, fixed, dtype, out)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _m_step(statistics, gmm, prior, fixed, dtype, out):
    statistics, gmm, prior = precision.cast((statistics, gmm, prior), dtype)
    return precision.cast(maximise(statistics, gmm, prior, gmm.weights > 0, fixed), out)


def maximise(
    statistics: Statistics, gmm: GMM, prior: Prior | None, active: Bool[Array, " K"], fixed: tuple[str, ...] = ()
) -> GMM:
    """`m_step` without checks, for traced arrays of one dtype; `active` says which components take part."""
    family = get_family(gmm.family)
    structure, n_features = family.structure, gmm.n_features
    counts, sums, centre = statistics.counts, statistics.sums, statistics.centre
    strength = jnp.zeros((), counts.dtype) if prior is None else prior.mean_precision
    total = counts + strength

    if "means" in fixed:
        shift = gmm.means - centre
    else:
        pull = 0 if prior is None else strength * (prior.mean - centre)
        shift = jnp.where((active & (total > 0))[:, None], (sums + pull) / jnp.where(total > 0, total, 1)[:, None], 0)
    means = centre + shift

    if "covariances" in fixed:
        covariances = gmm.covariances
    else:
        scatter = recentre(structure, statistics.scatter, sums, counts, shift)
        if prior is not None:
            away = means - prior.mean
            scatter = scatter + structure.outer(jnp.where(active, strength, 0), away, away)
        covariances = family.refit(scatter, counts, n_features, active, prior)
        if family.per_component:
            known = active & (counts > 0) if prior is None else active
            covariances = jnp.where(per_component(known, covariances), covariances, gmm.covariances)

    if "weights" in fixed:
        weights = gmm.weights
    else:
        extra = 0 if prior is None else jnp.where(active, prior.concentration - 1, 0)
        mass = counts + extra
        # A weight that underflows stays positive: zero would mean an inactive component.
        weights = jnp.where(active, jnp.maximum(mass / mass.sum(), np.finfo(np.float32).tiny), 0)
    return GMM.unchecked(weights, means, covariances, gmm.family)


def check_fixed(fixed: Sequence[str]) -> tuple[str, ...]:
    """`fixed` as a sorted tuple of parameter names.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(fixed, str):
        fixed = (fixed,)
    for name in fixed:
        if name not in PARAMETERS:
            raise unknown("parameter in fixed", name, PARAMETERS)
    return tuple(name for name in PARAMETERS if name in fixed)
