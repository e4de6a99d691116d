"""Evidence of blocks of rows: what a component's rows say of it, its parameters integrated out.

With a conjugate `Prior` the integral is closed. With `RichardsonGreen` only the mean can be integrated out: there the
evidence is p(rows | variance) p(variance) / r(variance | rows) at a variance drawn from a near-exact r. That is unbiased, and
a chain over (partition, variances) that uses it as if it were exact has the exact posterior (Andrieu & Roberts 2009).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import RichardsonGreen
from jaxgmm.bayes.priors.conjugate import posterior_given
from jaxgmm.covariance import get_family
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.special import log_gamma

FAMILIES = ("full", "diag", "spherical")  # whose components have parameters of their own: blocks are independent


class Blocks(NamedTuple):
    """Sums over the rows of each block, about the origin.

    Attributes:
        counts: (K,).
        sums: (K, D).
        scatter: by family, (K, D, D), (K, D) or (K,).
    """

    counts: Float[Array, " K"]
    sums: Float[Array, "K D"]
    scatter: Float[Array, "K ..."]


def statistics_of(blocks: Blocks) -> Statistics:
    """The same sums as EM and the Gibbs sampler have them."""
    nothing = jnp.zeros((), blocks.sums.dtype)
    return Statistics(*blocks, jnp.zeros_like(blocks.sums), nothing, nothing)


@functools.singledispatch
def log_evidence(prior: Any, blocks: Blocks, variance: Array, extra: dict[str, Array]) -> Float[Array, " K"]:
    """Log p(rows of the block | the prior's further parameters), 0 for a block without rows, in nats.

    Args:
        prior: a `Prior` of one of `FAMILIES`, or a `RichardsonGreen`.
        blocks: K of them.
        variance: (K,), each block's own variance: only `RichardsonGreen` looks at it.
        extra: the prior's further parameters.
    """
    raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@log_evidence.register
def _closed(prior: Prior, blocks: Blocks, variance: Array, extra: dict[str, Array]) -> Float[Array, " K"]:
    structure, n_features = get_family(prior.family).structure, blocks.sums.shape[-1]
    posterior = posterior_given(prior, statistics_of(blocks), prior.family)
    nu0, nu = prior.degrees_of_freedom, posterior.degrees_of_freedom
    constant = -blocks.counts * n_features / 2 * math.log(math.pi)
    constant += n_features / 2 * jnp.log(prior.mean_precision / posterior.mean_precision)
    half = jnp.arange(structure.block_size(n_features)) / 2
    gammas = structure.n_blocks(n_features) * (log_gamma(nu[:, None] / 2 - half) - log_gamma(nu0 / 2 - half)).sum(-1)
    dets = nu0 * structure.half_log_det(prior.scale) - nu * structure.half_log_det(posterior.scale)
    return constant + gammas + dets


@log_evidence.register
def _estimated(prior: RichardsonGreen, blocks: Blocks, variance: Array, extra: dict[str, Array]) -> Float[Array, " K"]:
    counts, rate, tau = blocks.counts, extra["rate"], 1 / variance
    precision = 1 / prior.mean_variance + counts * tau
    about = blocks.sums[:, 0] - counts * prior.mean
    squares = blocks.scatter.reshape(-1) - 2 * prior.mean * blocks.sums[:, 0] + counts * prior.mean**2
    of_rows = counts / 2 * jnp.log(tau / (2 * math.pi)) - jnp.log(prior.mean_variance * precision) / 2
    of_rows -= (tau * squares - (tau * about) ** 2 / precision) / 2
    of_prior = prior.shape * jnp.log(rate) - log_gamma(prior.shape) + (prior.shape - 1) * jnp.log(tau) - rate * tau
    location, scale = _proposal(prior, blocks, rate)
    z = (jnp.log(variance) - location) / scale
    of_draw = -z - 2 * jax.nn.softplus(-z) - jnp.log(scale) - jnp.log(variance)
    # The prior is a density of 1 / variance, the draw's one of the variance: tau^2 between them.
    return jnp.where(counts > 0, of_rows + of_prior + 2 * jnp.log(tau) - of_draw, 0)


@functools.singledispatch
def draw_variance(prior: Any, key: Array, blocks: Blocks, extra: dict[str, Array]) -> Float[Array, " K"]:
    """The random part of `log_evidence`: nothing, for a conjugate prior."""
    return jnp.ones_like(blocks.counts)


@draw_variance.register
def _near_posterior(prior: RichardsonGreen, key: Array, blocks: Blocks, extra: dict[str, Array]) -> Float[Array, " K"]:
    location, scale = _proposal(prior, blocks, extra["rate"])
    return jnp.exp(location + scale * jax.random.logistic(key, blocks.counts.shape, blocks.counts.dtype))


def _proposal(prior: RichardsonGreen, blocks: Blocks, rate: Array) -> tuple[Array, Array]:
    """Location and scale of a logistic distribution of the logarithms of variances, given their rows.

    It is like the inverse gamma that they would have were the mean's prior flat, with tails that are no lighter. (A gamma
    variate would take seconds to compile.)
    """
    counts = jnp.maximum(blocks.counts, 1)
    within = jnp.maximum(blocks.scatter.reshape(-1) - blocks.sums[:, 0] ** 2 / counts, 0)
    shape = prior.shape + (counts - 1) / 2
    scale = jnp.maximum(math.sqrt(3) / math.pi / jnp.sqrt(shape - 0.5 * (shape > 1)), 1 / shape)
    return jnp.log((rate + within / 2) / shape), scale


@functools.singledispatch
def predictive(prior: Any, blocks: Blocks, extra: dict[str, Array]) -> tuple[Array, Array]:
    """Means (K, D) and covariances, in the family's shape, of a Gaussian like what a block predicts of a further row."""
    raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@predictive.register
def _conjugate_predictive(prior: Prior, blocks: Blocks, extra: dict[str, Array]) -> tuple[Array, Array]:
    posterior = posterior_given(prior, statistics_of(blocks), prior.family)
    structure, n_features = get_family(prior.family).structure, blocks.sums.shape[-1]
    degrees = posterior.degrees_of_freedom - (structure.block_size(n_features) - 1)
    widened = (1 + 1 / posterior.mean_precision) / degrees
    return posterior.mean, posterior.scale * widened.reshape(-1, *(1,) * (posterior.scale.ndim - 1))


@predictive.register
def _richardson_green_predictive(
    prior: RichardsonGreen, blocks: Blocks, extra: dict[str, Array]
) -> tuple[Array, Array]:  # fmt: skip
    location, _ = _proposal(prior, blocks, extra["rate"])
    mean = blocks.sums / jnp.maximum(blocks.counts, 1)[:, None]
    variance = jnp.exp(location) * (1 + 1 / jnp.maximum(blocks.counts, 1))
    return mean, variance.reshape(blocks.scatter.shape)
