"""The two steps of EM: rows to `Statistics`, and `Statistics` to the next mixture."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from jaxgmm.covariance import get_family
from jaxgmm.covariance.base import column, per_component
from jaxgmm.data.padding import pad_rows, padded_rows
from jaxgmm.model.coercion import Mixture, about_rows, as_gmm
from jaxgmm.model.density import WITHOUT_ROWS
from jaxgmm.model.engines import ENGINES, choose_block_size, e_step_moments, e_step_whitened, ill_conditioned
from jaxgmm.model.holding import FREE, Fixed, Held, check_fixed
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, given_mixture
from jaxgmm.model.projecting import e_step_projected
from jaxgmm.model.statistics import Statistics, recentre
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import rows_present, short_blocks
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import (
    check_count,
    check_rows,
    check_single,
    check_weights,
    in_jit,
    is_traced,
    unknown,
)


def e_step(
    gmm: Mixture,
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
        Statistics; on a CPU in float64, as NumPy arrays where JAX's configuration has none, else in the dtype of `x`.

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
    gmm = about_rows(gmm, "e_step")
    check_single(gmm.weights, "e_step(g, x)")
    rows = check_rows(x, "x", n_features=gmm.n_features, feature_names=gmm.feature_names)
    weight: Numbers | None = check_weights(sample_weight, rows.shape[0])
    if block_size is not None:
        block_size = check_count(block_size, "block_size")
    dtype = precision.compute_dtype(rows, gmm, weight)
    traced = is_traced(rows, gmm, weight) or in_jit()
    with precision.scope(dtype):
        if not traced:
            weight = np.ones(rows.shape[0], dtype) if weight is None else weight
            rows = padded_rows(rows)
            weight = pad_rows(weight, len(rows))
        statistics = _e_step(precision.cast(gmm, dtype), jnp.asarray(rows), weight, engine, block_size, dtype, not traced)
    return precision.keep(statistics)


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _e_step(gmm, x, weight, engine, block_size, dtype, padded):
    weight = jnp.ones(x.shape[0], dtype) if weight is None else weight.astype(dtype)
    components, n_rows = gmm.components(), rows_present(weight) if padded else None
    if block_size is None:
        block_size = choose_block_size(components.structure, gmm.n_components, x.shape)
        block_size = short_blocks(block_size, x.shape[0]) if padded else block_size
    centre = gmm.weights @ gmm.means
    arguments: dict[str, Any] = {"x": x, "weight": weight, "centre": centre, "block_size": block_size, "n_rows": n_rows}
    summed = e_step_projected if components.structure.rank else e_step_moments
    moments, whitened = functools.partial(summed, **arguments), functools.partial(e_step_whitened, **arguments)
    if engine == "auto" and dtype == np.float64:
        far = jnp.abs(x.astype(dtype) - centre).max() > np.finfo(np.float64).max ** 0.25  # fourth powers must be numbers
        return lax.cond(far | ill_conditioned(components, centre), whitened, moments, components)
    return (moments if engine == "moments" else whitened)(components)


def m_step(statistics: Statistics, gmm: Mixture, prior: Prior | None = None, *, fixed: Fixed = ()) -> GMM:
    """The mixture that maximises the expected log joint given the statistics: maximum likelihood, or MAP with a prior.

    In families whose covariances have no closed form (VEI, VEE, VEV, EVE, VVE), one that comes closer to it than `gmm`.

    With a prior, the joint mode of (means, covariances) of a normal-inverse-Wishart posterior,
    mu_k = (kappa0 m0 + sum r x) / (kappa0 + N_k), Sigma_k = (Psi0 + S_k + kappa0 (mu_k - m0)(mu_k - m0)') / (nu0 + N_k + D + 2)
    for full covariances (Fraley & Raftery 2007, with the mode where they take theirs), and
    pi_k = (N_k + alpha_k - 1) / (N + sum_j (alpha_j - 1)). A random scale s is E[s | gmm].

    Args:
        statistics: from `e_step`.
        gmm: the mixture that made them; supplies the family, what is fixed, and which components are inactive (weight 0).
        prior: None for maximum likelihood.
        fixed: what to keep: names, of "weights", "means", "covariances", or a mapping from names to components, as for `fit`;
            `{"weights": "equal"}` makes them so. The rest is the exact constrained mode.

    Returns:
        A mixture of the same family. A component that received no weight keeps its mean and, without a prior, its covariance.

    Raises:
        ValueError: a prior of another family or dimension, an unknown name or component in `fixed`.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
        >>> jg.m_step(jg.e_step(gmm, [[1.0], [3.0]]), gmm).means.tolist()
        [[2.0]]
    """
    gmm = as_gmm(gmm)
    held = check_fixed(fixed, gmm.n_components, gmm.family)
    gmm = held.of(gmm)
    if prior is not None:
        prior.check_fits(gmm)
    dtype = precision.compute_dtype(statistics.counts, gmm, statistics, prior)
    with precision.scope(dtype):
        result = _m_step(*precision.cast((statistics, gmm, prior), dtype), held)
    return precision.keep(result).named(gmm.feature_names)


@functools.partial(jax.jit, static_argnums=3)
def _m_step(statistics, gmm, prior, held):
    return maximise(statistics, gmm, prior, gmm.weights > 0, held)


def maximise(statistics: Statistics, gmm: GMM, prior: Prior | None, active: Bool[Array, " K"], held: Held = FREE) -> GMM:
    """`m_step` without checks, for traced arrays of one dtype; `active` says which components take part."""
    family = get_family(gmm.family)
    structure, n_features = family.structure, gmm.n_features
    counts, sums, centre = statistics.counts, statistics.sums, statistics.centre
    prior = None if prior is None else given_mixture(prior, gmm, active)
    strength = jnp.zeros((), counts.dtype) if prior is None else prior.mean_precision
    total = counts + strength

    pull = 0 if prior is None else column(strength) * (prior.mean - centre)
    shift = jnp.where((active & (total > 0))[:, None], (sums + pull) / jnp.where(total > 0, total, 1)[:, None], 0)
    shift = held.keep("means", gmm.means - centre, shift)
    means = held.keep("means", gmm.means, centre + shift)

    if held.whole("covariances"):
        covariances = gmm.covariances
    else:
        scatter = recentre(structure, statistics.scatter, sums, counts, shift, gmm.covariances)
        if prior is not None:
            away = means - prior.mean
            scatter = scatter + structure.outer(jnp.where(active, strength, 0), away, away, gmm.covariances)
        covariances = family.refit(scatter, counts, gmm.covariances, n_features, active, prior)
        if family.per_component and not family.restricted:  # the others know themselves whom they share with
            known = active & (counts > 0) if prior is None else active
            covariances = jnp.where(per_component(known, covariances), covariances, gmm.covariances)
        covariances = held.keep("covariances", gmm.covariances, covariances)

    extra = 0 if prior is None else jnp.where(active, prior.concentration - 1, 0)
    weights = _shares(counts + extra, gmm.weights, active, held)
    return GMM.unchecked(weights, means, covariances, gmm.family)


def _shares(mass: Float[Array, " K"], weights: Float[Array, " K"], active: Bool[Array, " K"], held: Held) -> Float[Array, " K"]:
    """New weights: what those that are held leave, in proportion to the mass of the others."""
    # A weight that underflows stays positive: zero would mean an inactive component.
    if not held.weights:
        return jnp.where(active, jnp.maximum(mass / mass.sum(), WITHOUT_ROWS), 0)
    fixed = held.mask("weights", weights.size)
    free = active & ~fixed
    mass, left = jnp.where(free, jnp.maximum(mass, WITHOUT_ROWS), 0), 1 - jnp.where(fixed, weights, 0).sum()
    shared = left * mass / jnp.where(free.any(), mass.sum(), 1)
    return jnp.where(free, jnp.maximum(shared, WITHOUT_ROWS), weights)
