"""Draws of a mixture's parameters given the statistics of allocated rows: the conjugate half of a Gibbs sweep."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import RichardsonGreen
from jaxgmm.covariance import Factor, get_family
from jaxgmm.covariance.structure import Structure
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics, recentre

_LEAST = float(np.log(np.finfo(np.float32).tiny))  # a smaller log-gamma would underflow, and its inverse overflow


@functools.singledispatch
def draw_parameters(
    prior: Any, key: Array, statistics: Statistics, gmm: GMM, extra: dict[str, Array]
) -> tuple[GMM, Factor, dict[str, Array]]:
    """A draw of weights, means, covariances and the prior's own further parameters, given allocated rows.

    Args:
        prior: a `Prior` or a `RichardsonGreen`.
        key: a PRNG key.
        statistics: of the rows, about any centres. A component without rows draws from the prior.
        gmm: the current mixture: gives the family, and what a prior that is only conditionally conjugate conditions on.
        extra: the prior's further parameters.

    Returns:
        The mixture, its covariances taken apart, and the further parameters.

    Raises:
        TypeError: no known prior.
    """
    raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@draw_parameters.register
def _conjugate(prior: Prior, key: Array, statistics: Statistics, gmm: GMM, extra: dict[str, Array]) -> Any:
    return *draw_conjugate(key, posterior_given(prior, statistics, gmm.family), gmm.family), {}


class Conjugate(NamedTuple):
    """What a `Prior` becomes given allocated rows, whole or in fractions: the same distributions, with each component's own
    parameters. Sigma_k ~ InverseWishart(nu_k, Psi_k), mu_k | Sigma_k ~ Normal(m_k, Sigma_k / kappa_k), weights ~ Dirichlet(a).

    Attributes:
        concentration: a, (K,).
        mean: m, (K, D).
        mean_precision: kappa, (K,).
        degrees_of_freedom: nu, (K,), () for "tied".
        scale: Psi, in the shape of the family's covariances.
    """

    concentration: Float[Array, " K"]
    mean: Float[Array, "K D"]
    mean_precision: Float[Array, " K"]
    degrees_of_freedom: Float[Array, "*K"]
    scale: Float[Array, "..."]


def posterior_given(prior: Prior, statistics: Statistics, family: str) -> Conjugate:
    """The posterior of a mixture's parameters given the statistics of allocated rows, about any centres.

    Psi_k = Psi0 + sum (x - m_k)(x - m_k)' + kappa0 (m_k - m0)(m_k - m0)' about the posterior mean m_k: digits
    are lost only to the squared distance of the centres from it.
    """
    kind, counts = get_family(family), statistics.counts
    strength = counts + prior.mean_precision
    shift = (statistics.sums + prior.mean_precision * (prior.mean - statistics.centre)) / strength[:, None]
    mean = statistics.centre + shift
    scatter = recentre(kind.structure, statistics.scatter, statistics.sums, counts, shift)
    away = mean - prior.mean
    scale = prior.scale + scatter + kind.structure.outer(jnp.full_like(strength, prior.mean_precision), away, away)
    rows = counts if kind.per_component else counts.sum()
    rows = kind.structure.rows_of(rows, mean.shape[1])
    return Conjugate(prior.concentration + counts, mean, strength, prior.degrees_of_freedom + rows, scale)


def draw_conjugate(key: Array, posterior: Conjugate, family: str) -> tuple[GMM, Factor]:
    """Sigma_k with the mean integrated out, then mu_k given Sigma_k: one exact draw of both; and weights."""
    kind, mean = get_family(family), posterior.mean
    key_gamma, key_normal, key_below = jax.random.split(key, 3)
    half_degrees = half_degrees_of_freedom(kind.structure, posterior.degrees_of_freedom, mean.shape[1])
    weights, log_gamma = _log_gammas(key_gamma, posterior.concentration, half_degrees)
    factor = kind.structure.draw(posterior.scale, _exp(log_gamma), mean.shape[1], key_below)
    noise = jax.random.normal(key_normal, mean.shape, mean.dtype) / jnp.sqrt(posterior.mean_precision)[:, None]
    means = mean + kind.structure.apply(factor.scale, noise)
    return GMM.unchecked(_normalise(weights), means, kind.structure.multiply(factor), family), factor


@draw_parameters.register
def _semi_conjugate(prior: RichardsonGreen, key: Array, statistics: Statistics, gmm: GMM, extra: dict[str, Array]) -> Any:
    """In turn: rate given the variances of components with rows; means given variances; variances given means and rate."""
    family, counts = get_family(gmm.family), statistics.counts
    key_gamma, key_normal = jax.random.split(key)
    variance, filled = gmm.covariances.reshape(-1), counts > 0
    # Variances without rows say nothing of the rate: they are summed out here, and drawn below given the new rate.
    rate_shape = (prior.rate_shape + filled.sum() * prior.shape)[None]
    gammas = _log_gammas(key_gamma, prior.concentration + counts, prior.shape + counts / 2, rate_shape)
    rate = _exp(gammas[2])[0] / (prior.rate_rate + jnp.where(filled, 1 / variance, 0).sum())

    precision = 1 / prior.mean_variance + counts / variance
    pull = (prior.mean - statistics.centre[:, 0]) / prior.mean_variance + statistics.sums[:, 0] / variance
    shift = pull / precision + jax.random.normal(key_normal, counts.shape, counts.dtype) / jnp.sqrt(precision)
    means = statistics.centre + shift[:, None]

    scatter = recentre(family.structure, statistics.scatter, statistics.sums, counts, shift[:, None]).reshape(-1)
    variance = (rate + jnp.maximum(scatter, 0) / 2) / _exp(gammas[1])  # rounding can leave a scatter of -eps
    covariances = variance.reshape(family.shape(counts.size, 1))
    new = GMM.unchecked(_normalise(gammas[0]), means, covariances, gmm.family)
    return new, family.factor(covariances, 1), {"rate": rate}


def half_degrees_of_freedom(structure: Structure, degrees_of_freedom: Array, n_features: int) -> Float[Array, "*K B p"]:
    """Shapes of the gammas that the covariances' posterior is made of: of each block the chi-squares of Bartlett's
    decomposition, with an axis of components unless they share their covariance.
    """
    n_blocks, size = structure.n_blocks(n_features), structure.block_size(n_features)
    half = (degrees_of_freedom[..., None, None] - np.arange(size)) / 2
    return jnp.broadcast_to(half, (*degrees_of_freedom.shape, n_blocks, size))


def _log_gammas(key: Array, *shapes: Array) -> list[Array]:
    """Log Gamma(shape, 1) variates for several arrays of shapes by one call: each would take a second to compile."""
    drawn = jax.random.loggamma(key, jnp.concatenate([shape.reshape(-1) for shape in shapes]))
    ends = np.cumsum([shape.size for shape in shapes])[:-1]
    return [part.reshape(shape.shape) for part, shape in zip(jnp.split(drawn, ends), shapes, strict=True)]


def _exp(log_gamma: Array) -> Array:
    """A gamma variate, positive even where the true one is too small for a float."""
    return jnp.exp(jnp.maximum(log_gamma, _LEAST))


def _normalise(log_gamma: Float[Array, " K"]) -> Float[Array, " K"]:
    """Dirichlet weights from log-gammas: gammas of a small concentration may all underflow, and 0 / 0 is no weight."""
    return jnp.maximum(jax.nn.softmax(log_gamma), np.finfo(np.float32).tiny)  # zero would mean an inactive component
