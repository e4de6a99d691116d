"""The conjugate `Prior`: its densities, and what it becomes given the statistics of allocated rows."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import (
    Blocks,
    draw_parameters,
    draw_summed_out,
    draw_weights,
    host_gammaln,
    log_evidence,
    log_prior_constant,
    log_prior_kernel,
    names_in_partitions,
    predictive,
    sample_mixture,
    start_in_partitions,
    statistics_of,
)
from jaxgmm.covariance import Factor, check_unrestricted, get_family
from jaxgmm.covariance.base import column, per_component
from jaxgmm.covariance.structure import Structure
from jaxgmm.model import random_scale
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_kernel, log_normaliser, scale_terms
from jaxgmm.model.statistics import Statistics, recentre
from jaxgmm.tools.special import log_gamma
from jaxgmm.tools.variates import dirichlet_weights, log_gammas, normals, positive_exp

FAMILIES = ("full", "diag", "spherical")  # whose components have parameters of their own: blocks are independent


SCALE = "relative_scale"  # s, the random scale, in trees


@draw_parameters.register
def _draw_conjugate(
    prior: Prior, key: Array, statistics: Statistics, gmm: GMM, extra: dict[str, Array], held: Held = FREE
) -> Any:
    if prior.least_scale is None:
        return *_draw_rest(key, prior, statistics, gmm, held), {}
    key_scale, key = jax.random.split(key)
    if SCALE not in extra:  # the chain is one of mixtures: s given the mixture, then the next mixture given s
        factor = get_family(gmm.family).factor(gmm.covariances, gmm.n_features)
        own = at(prior, draw_summed_out(prior, key_scale, gmm, factor))
        return *_draw_rest(key, own, statistics, gmm, held), {}
    new, factor = draw_conjugate(key, posterior_given(at(prior, extra), statistics, gmm.family), gmm.family)
    # Components without rows say nothing of s: they are summed out here; given the new s their covariances are in proportion.
    filled = statistics.counts > 0
    uniform = jax.random.uniform(key_scale, (), new.means.dtype)
    scale = random_scale.draw(prior, scale_terms(prior, new, factor, filled), uniform)
    ratio = jnp.where(filled, 1, scale / extra[SCALE])
    new = dataclasses.replace(new, covariances=new.covariances * per_component(ratio, new.covariances))
    return new, get_family(new.family).factor(new.covariances, new.n_features), {SCALE: scale}


def _draw_rest(key: Array, prior: Prior, statistics: Statistics, gmm: GMM, held: Held) -> tuple[GMM, Factor]:
    """A draw of what isn't held, given a prior without a random scale."""
    return draw_conjugate(key, posterior_given(prior, statistics, gmm.family, gmm, held), gmm.family, gmm, held)


def at(prior: Prior, extra: dict[str, Array]) -> Prior:
    """The prior given its random scale, if it has one."""
    return random_scale.given(prior, extra[SCALE]) if SCALE in extra else prior


@draw_summed_out.register
def _draw_scale(prior: Prior, key: Array, gmm: GMM, factor: Factor) -> dict[str, Array]:
    if prior.least_scale is None:
        return {}
    terms = scale_terms(prior, gmm, factor, jnp.ones(gmm.n_components, bool))
    return {SCALE: random_scale.draw(prior, terms, jax.random.uniform(key, (), gmm.means.dtype))}


@names_in_partitions.register
def _scale_name(prior: Prior) -> tuple[str, ...]:
    return () if prior.least_scale is None else (SCALE,)


@start_in_partitions.register
def _shared_volume(prior: Prior, variance: Float[Array, " D"], n_clusters: Array) -> dict[str, Array]:
    """As for so many components that share the sample's volume."""
    if prior.least_scale is None:
        return {}
    return {SCALE: jnp.maximum(jnp.asarray(n_clusters, variance.dtype) ** (-2 / variance.size), prior.least_scale)}


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


def posterior_given(prior: Prior, statistics: Statistics, family: str, gmm: GMM | None = None, held: Held = FREE) -> Conjugate:
    """The posterior of a mixture's parameters given the statistics of allocated rows, about any centres.

    Psi_k = Psi0 + sum (x - m_k)(x - m_k)' + kappa0 (m_k - m0)(m_k - m0)' about the posterior mean m_k: digits
    are lost only to the squared distance of the centres from it. A mean that is `held`, as it is in `gmm`, is m_k itself, and
    counts as a row: its density has a |Sigma_k|^-1/2 that isn't integrated out.
    """
    kind, counts = get_family(family), statistics.counts
    strength = counts + prior.mean_precision
    pull = column(prior.mean_precision) * (prior.mean - statistics.centre)
    shift = (statistics.sums + pull) / strength[:, None]
    mean = statistics.centre + shift
    if held.means:
        assert gmm is not None
        shift, mean = held.keep("means", gmm.means - statistics.centre, shift), held.keep("means", gmm.means, mean)
    scatter = recentre(kind.structure, statistics.scatter, statistics.sums, counts, shift)
    away = mean - prior.mean
    scale = prior.scale + scatter + kind.structure.outer(jnp.full_like(strength, prior.mean_precision), away, away)
    rows = counts + held.mask("means", counts.size) if held.means else counts
    rows = rows if kind.per_component else rows.sum()
    rows = kind.structure.rows_of(rows, mean.shape[1])
    return Conjugate(prior.concentration + counts, mean, strength, prior.degrees_of_freedom + rows, scale)


def draw_conjugate(
    key: Array, posterior: Conjugate, family: str, gmm: GMM | None = None, held: Held = FREE
) -> tuple[GMM, Factor]:
    """Sigma_k with the mean integrated out, then mu_k given Sigma_k: one exact draw of both; and weights.

    What is `held` is as in `gmm`, and the posterior one given that.
    """
    kind, mean = get_family(family), posterior.mean
    key_gamma, key_normal = jax.random.split(key)
    half_degrees = half_degrees_of_freedom(kind.structure, posterior.degrees_of_freedom, mean.shape[1])
    weights, log_gamma = log_gammas(key_gamma, posterior.concentration, half_degrees)
    below = posterior.scale.shape if kind.structure.dense else ()
    noise, noise_below = normals(key_normal, mean.shape, below, dtype=mean.dtype)
    factor = kind.structure.draw(posterior.scale, positive_exp(log_gamma), mean.shape[1], noise_below)
    if held.covariances:
        assert gmm is not None
        own = kind.factor(gmm.covariances, gmm.n_features)
        factor = Factor(*(held.keep("covariances", *leaves) for leaves in zip(own, factor, strict=True)))
    means = mean + kind.structure.apply(factor.scale, noise / jnp.sqrt(posterior.mean_precision)[:, None])
    new = GMM.unchecked(dirichlet_weights(weights), means, kind.structure.multiply(factor), family)
    if gmm is None or not held:
        return new, factor
    return held.put_back(GMM.unchecked(draw_weights(weights, gmm, held), new.means, new.covariances, family), gmm, jnp), factor


def half_degrees_of_freedom(structure: Structure, degrees_of_freedom: Array, n_features: int) -> Float[Array, "*K B p"]:
    """Shapes of the gammas that the covariances' posterior is made of: of each block the chi-squares of Bartlett's
    decomposition, with an axis of components unless they share their covariance.
    """
    n_blocks, size = structure.n_blocks(n_features), structure.block_size(n_features)
    half = (degrees_of_freedom[..., None, None] - np.arange(size)) / 2
    return jnp.broadcast_to(half, (*degrees_of_freedom.shape, n_blocks, size))


@sample_mixture.register
def _sample_conjugate(prior: Prior, n_components: int) -> GMM:
    import numpyro  # Gibbs sampling and counts come by here, and don't need it
    import numpyro.distributions as dist

    from jaxgmm.bayes.priors.scaled import ScaledCovariances, ScaledMeans

    check_unrestricted(prior.family, "a NumPyro model")
    family, n_features = get_family(prior.family), prior.mean.shape[-1]
    concentration = jnp.broadcast_to(jnp.asarray(prior.concentration), (n_components,))
    weights = numpyro.sample("weights", dist.Dirichlet(concentration))
    if prior.least_scale is not None:
        covariances = numpyro.sample("covariances", ScaledCovariances(prior, n_components))
        means = numpyro.sample("means", ScaledMeans(prior, covariances, n_components))
        return GMM.unchecked(weights, means, covariances, prior.family)
    covariances = numpyro.sample("covariances", family.prior_distribution(prior, n_components))
    scale, root = family.factor(covariances, n_features).scale, column(jnp.sqrt(prior.mean_precision))
    mean = jnp.asarray(prior.mean)
    if family.structure.dense:
        each = dist.MultivariateNormal(mean, scale_tril=scale / column(root)).expand([n_components]).to_event(1)
    else:
        each = dist.Normal(mean, scale / root).expand([n_components, n_features]).to_event(2)
    means = numpyro.sample("means", each)
    return GMM.unchecked(weights, means, covariances, prior.family)


@log_prior_kernel.register
def _conjugate_kernel(prior: Prior, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    return log_kernel(prior, gmm, factor, jnp.ones(gmm.n_components, bool))


@log_prior_constant.register
def _conjugate_constant(prior: Prior, n_components: int, xp: Any = np, gammaln: Any = host_gammaln) -> Any:
    return log_normaliser(prior, np.ones(n_components, bool), xp, gammaln)


@log_evidence.register
def _closed(prior: Prior, blocks: Blocks, variance: Array, extra: dict[str, Array]) -> Float[Array, " K"]:
    structure, n_features = get_family(prior.family).structure, blocks.sums.shape[-1]
    prior = at(prior, extra)
    posterior = posterior_given(prior, statistics_of(blocks), prior.family)
    nu0, nu = prior.degrees_of_freedom, posterior.degrees_of_freedom
    constant = -blocks.counts * n_features / 2 * math.log(math.pi)
    constant += n_features / 2 * jnp.log(prior.mean_precision / posterior.mean_precision)
    half = jnp.arange(structure.block_size(n_features)) / 2
    gammas = structure.n_blocks(n_features) * (log_gamma(nu[:, None] / 2 - half) - log_gamma(nu0 / 2 - half)).sum(-1)
    dets = nu0 * structure.half_log_det(prior.scale) - nu * structure.half_log_det(posterior.scale)
    return constant + gammas + dets


@predictive.register
def _conjugate_predictive(prior: Prior, blocks: Blocks, extra: dict[str, Array]) -> tuple[Array, Array]:
    posterior = posterior_given(at(prior, extra), statistics_of(blocks), prior.family)
    structure, n_features = get_family(prior.family).structure, blocks.sums.shape[-1]
    degrees = posterior.degrees_of_freedom - (structure.block_size(n_features) - 1)
    widened = (1 + 1 / posterior.mean_precision) / degrees
    return posterior.mean, posterior.scale * widened.reshape(-1, *(1,) * (posterior.scale.ndim - 1))
