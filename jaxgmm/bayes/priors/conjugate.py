"""Draws of a mixture's parameters given the statistics of allocated rows: the conjugate half of a Gibbs sweep."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import RichardsonGreen
from jaxgmm.covariance import Factor, Family, get_family
from jaxgmm.covariance.structure import Dense, Isotropic, invert_tril
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
    rows = mean.shape[1] * rows if isinstance(kind.structure, Isotropic) else rows
    return Conjugate(prior.concentration + counts, mean, strength, prior.degrees_of_freedom + rows, scale)


def draw_conjugate(key: Array, posterior: Conjugate, family: str) -> tuple[GMM, Factor]:
    """Sigma_k with the mean integrated out, then mu_k given Sigma_k: one exact draw of both; and weights."""
    kind, mean = get_family(family), posterior.mean
    key_gamma, key_normal, key_below = jax.random.split(key, 3)
    half_degrees = half_degrees_of_freedom(kind, posterior.degrees_of_freedom, mean.shape)
    weights, log_gamma = _log_gammas(key_gamma, posterior.concentration, half_degrees)
    scale = posterior.scale
    if isinstance(kind.structure, Dense):
        factor = _inverse_wishart(scale, log_gamma, jax.random.normal(key_below, scale.shape, scale.dtype))
    else:
        factor = kind.factor(scale / (2 * _exp(log_gamma)), mean.shape[1])
    noise = jax.random.normal(key_normal, mean.shape, mean.dtype) / jnp.sqrt(posterior.mean_precision)[:, None]
    means = mean + _colour(kind, factor, noise)
    return GMM.unchecked(_normalise(weights), means, _multiply(kind, factor), family), factor


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


def half_degrees_of_freedom(family: Family, degrees_of_freedom: Array, shape: tuple[int, ...]) -> Array:
    """Shapes of the gammas that the covariances' posterior is made of, for K x D means.

    Chi-squares of Bartlett's decomposition, (K, D) or (D,) where components share them; or one for each variance.
    """
    if isinstance(family.structure, Dense):
        return (degrees_of_freedom[..., None] - np.arange(shape[1])) / 2
    if isinstance(family.structure, Isotropic):
        return degrees_of_freedom / 2
    return jnp.broadcast_to(degrees_of_freedom[:, None] / 2, shape)


def _inverse_wishart(
    scale: Float[Array, "... D D"], log_gamma: Float[Array, "... D"], noise: Float[Array, "... D D"]
) -> Factor:
    """InverseWishart(nu, Psi) by Bartlett's decomposition of its inverse (Odell & Feiveson 1966), already factored.

    With Psi = L L', and A lower triangular with sqrt(chi2 of nu - i) on its diagonal and standard normals below,
    Sigma^-1 = W W', W = L'^-1 A, is Wishart(nu, Psi^-1). The factors aren't triangular, and needn't be.
    """
    root = jnp.sqrt(2 * _exp(log_gamma))
    bartlett = jnp.tril(noise, -1) + root[..., None] * jnp.eye(scale.shape[-1], dtype=scale.dtype)
    cholesky = jnp.linalg.cholesky(scale)
    half_log_det = (jnp.log(jnp.diagonal(cholesky, axis1=-2, axis2=-1)) - jnp.log(root)).sum(-1)
    whitener = solve_triangular(jnp.swapaxes(cholesky, -1, -2), bartlett, lower=False)
    return Factor(cholesky @ jnp.swapaxes(invert_tril(bartlett), -1, -2), whitener, half_log_det)


def _colour(family: Family, factor: Factor, noise: Float[Array, "K D"]) -> Float[Array, "K D"]:
    """L_k applied to the noise of each component."""
    if isinstance(family.structure, Dense):
        return (factor.scale @ noise[..., None])[..., 0]
    return factor.scale * noise


def _multiply(family: Family, factor: Factor) -> Array:
    """The covariances of a factor, in the family's shape, symmetric to the last bit."""
    if isinstance(family.structure, Dense):
        product = factor.scale @ jnp.swapaxes(factor.scale, -1, -2)
        return (product + jnp.swapaxes(product, -1, -2)) / 2
    variances = factor.scale**2
    return variances[:, 0] if isinstance(family.structure, Isotropic) else variances


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
