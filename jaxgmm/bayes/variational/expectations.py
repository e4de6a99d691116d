"""What variational Bayes asks of q(weights, means, covariances): expectations, and how far it is from the prior.

All in closed form, for one mixture; q is a `Conjugate`. A covariance is one inverse-Wishart block of D x D for "full" and
"tied"; for "diag" D blocks of 1 x 1 and for "spherical" one, since InverseGamma(nu / 2, psi / 2) is InverseWishart(nu, psi) of
size 1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Bool, Float

from jaxgmm.bayes.priors.conjugate import Conjugate
from jaxgmm.bayes.variational.weight_priors import WeightPrior
from jaxgmm.covariance import Factor, get_family
from jaxgmm.covariance.base import per_component
from jaxgmm.model import random_scale
from jaxgmm.model.density import WITHOUT_ROWS, Components
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, scale_power


def scale_terms(q: Conjugate, prior: Prior, family: str, active: Bool[Array, " K"]) -> random_scale.Terms:
    """What q's components say of a random scale: rate is its expectation."""
    kind = get_family(family)
    structure, n_features = kind.structure, q.mean.shape[1]
    _, factor = plug_in(q, jnp.ones(len(q.mean), q.mean.dtype), family)
    traces = structure.block_traces(factor, prior.scale).sum(-1)
    norms = n_features / q.mean_precision + structure.coefficients(q.mean - prior.mean, factor)[2]
    of_covariances = jnp.where(active, traces, 0).sum() if kind.per_component else traces.sum()
    rate = of_covariances + prior.mean_precision * jnp.where(active, norms, 0).sum()
    return random_scale.Terms(scale_power(prior, active.sum()), rate / 2)


class Expected(NamedTuple):
    """What coordinate ascent needs of q.

    Attributes:
        components: E[weights], m_k, the factor of Psi_k / nu_k (the inverse of the expected precision), and constants such that
            their log joint, and hence an E-step, is E[log pi_k + log Normal(x_n | mu_k, Sigma_k)].
        divergence: KL(q || prior), (), nats.
    """

    components: Components
    divergence: Float[Array, ""]


def plug_in(q: Conjugate, weights: Float[Array, " K"], family: str) -> tuple[GMM, Factor]:
    """The mixture with the means m_k and covariances Psi_k / nu_k, and these taken apart."""
    covariances = q.scale / per_component(q.degrees_of_freedom, q.scale)
    gmm = GMM.unchecked(weights, q.mean, covariances, family)
    return gmm, get_family(family).factor(covariances, q.mean.shape[1])


def expect(q: Conjugate, prior: Prior, weights: WeightPrior, family: str, active: Bool[Array, " K"] | None = None) -> Expected:
    """Expectations under q, and its divergence from the prior (Bishop 2006, eq. 10.64-10.66 and 10.71-10.77).

    With h_j = (nu - j) / 2, an inverse-Wishart block of size p diverges from its prior by nu0/2 log(|Psi| / |Psi0|)
    + sum_j [(nu - nu0)/2 digamma(h_j) - log Gamma(h_j) + log Gamma(h0_j)] - nu/2 (p - tr(Psi0 Psi^-1)), a mean by
    D/2 (kappa0 / kappa - 1 - log(kappa0 / kappa)) + kappa0/2 nu (m - m0)' Psi^-1 (m - m0). Components that aren't active are
    padding: no row is theirs. A random scale has the q(s) that is best for the rest: it takes the place of s = 1.
    """
    structure, n_features = get_family(family).structure, q.mean.shape[1]
    active = jnp.ones(q.mean.shape[0], bool) if active is None else active
    # The weight of an active component may be too small for a float, but 0 would mean padding.
    mean_weights = jnp.where(active, jnp.maximum(weights.mean(q.concentration), WITHOUT_ROWS), 0)
    gmm, factor = plug_in(q, mean_weights / mean_weights.sum(), family)
    size, prior_nu, nu = structure.block_size(n_features), prior.degrees_of_freedom, q.degrees_of_freedom[..., None]
    log_det = structure.block_log_dets(factor) + size * jnp.log(nu)
    prior_log_det, trace = structure.scale_log_dets(prior.scale), structure.block_traces(factor, prior.scale)
    half, prior_half = (nu[..., None] - np.arange(size)) / 2, (prior_nu - np.arange(size)) / 2
    digammas = digamma(half).sum(-1)
    covariances = prior_nu * (log_det - prior_log_det) + (nu - prior_nu) * digammas - (nu * size - trace)
    covariances = covariances / 2 - (gammaln(half) - gammaln(prior_half)).sum(-1)

    of_blocks = (log_det - size * np.log(2) - digammas) / 2
    # "spherical" has one block, of size one, for all features
    half_log_det = of_blocks.sum(-1) * (n_features / (size * structure.n_blocks(n_features)))
    half_log_det = half_log_det + n_features / (2 * q.mean_precision)

    ratio = prior.mean_precision / q.mean_precision
    distance = structure.coefficients(q.mean - prior.mean, factor)[2]
    means = n_features * (ratio - 1 - jnp.log(ratio)) + prior.mean_precision * distance
    inactive = ~active  # q has the prior given E[s], which needn't be the prior given s = 1
    if get_family(family).per_component:
        covariances = jnp.where(inactive[:, None], 0, covariances)
    means = jnp.where(inactive, 0, means)
    divergence = covariances.sum() + means.sum() / 2 + weights.divergence(q.concentration, prior.concentration)
    if prior.least_scale is not None:
        terms = scale_terms(q, prior, family, active)
        divergence -= terms.rate + random_scale.log_factor(prior, terms)
    # Expected log weights may be too small for the logarithms of floats.
    constant = weights.expected_log(q.concentration) - half_log_det - n_features / 2 * jnp.log(2 * jnp.pi)
    constant = jnp.where(active, constant, -jnp.inf)
    return Expected(Components(gmm.weights, constant, gmm.means, factor, structure), divergence)


def log_density(q: Conjugate, gmm: GMM, factor: Factor) -> Float[Array, ""]:
    """Log q of a mixture with Dirichlet weights, with respect to (weights, means, covariances) themselves, in nats."""
    structure, n_features = get_family(gmm.family).structure, q.mean.shape[1]
    a, nu, size = q.concentration, q.degrees_of_freedom[..., None], structure.block_size(n_features)
    weights = gammaln(a.sum()) - gammaln(a).sum() + ((a - 1) * jnp.log(gmm.weights)).sum()
    log_det, scale_log_det = structure.block_log_dets(factor), structure.scale_log_dets(q.scale)
    trace = structure.block_traces(factor, q.scale)
    half = (nu[..., None] - np.arange(size)) / 2
    normaliser = size * (size - 1) / 4 * np.log(np.pi) + gammaln(half).sum(-1) + nu * size / 2 * np.log(2)
    covariances = (nu * scale_log_det - (nu + size + 1) * log_det - trace) / 2 - normaliser
    distance = structure.coefficients(gmm.means - q.mean, factor)[2]
    means = n_features / 2 * jnp.log(q.mean_precision / (2 * np.pi)) - factor.half_log_det - q.mean_precision * distance / 2
    return weights + covariances.sum() + means.sum()


def log_predictive(q: Conjugate, x: Float[Array, "B D"], family: str) -> Float[Array, "B K"]:
    """Log density of each row under each component, its parameters integrated out: Student t (Bishop 2006, eq. 10.81-10.82).

    A block of g features with h = (nu + 1 - p) / 2 for an inverse-Wishart of size p has density
    Gamma(h + g/2) / Gamma(h) (kappa / ((kappa + 1) pi))^(g/2) |Psi|^(-1/2) (1 + delta)^(-h - g/2),
    delta = kappa / (kappa + 1) (x - m)' Psi^-1 (x - m). For "diag" each feature is a block of its own.
    """
    structure, n_features = get_family(family).structure, q.mean.shape[1]
    _, factor = plug_in(q, jnp.ones(len(q.mean), q.mean.dtype), family)
    nu, kappa = jnp.broadcast_to(q.degrees_of_freedom, q.mean_precision.shape), q.mean_precision
    origin = q.mean[0]
    y = structure.whiten(x - origin, q.mean - origin, factor)  # (K, B, D)
    shrunk = kappa / (kappa + 1)
    delta = y**2 * (shrunk / nu)[:, None, None]
    n_blocks = structure.n_blocks(n_features)
    size = n_features // n_blocks  # features of a block
    delta = delta.reshape(*delta.shape[:2], n_blocks, size).sum(-1)
    half = (nu + 1 - structure.block_size(n_features)) / 2
    constant = gammaln(half + size / 2) - gammaln(half) + size / 2 * jnp.log(shrunk / np.pi)
    constant = n_blocks * constant - factor.half_log_det - n_features / 2 * jnp.log(nu)
    return (constant[:, None] - (half + size / 2)[:, None] * jnp.log1p(delta).sum(-1)).T
