"""What follows from a mixture's parameters alone: `GMM`'s methods of the same names, for traced arrays, without checks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int, PyTree

from jaxgmm.covariance import Family, get_family
from jaxgmm.model.density import log_weights


def _family(gmm: PyTree) -> Family:
    return get_family(gmm.family)


def _family_of_parts(gmm: PyTree) -> Family:
    """Of its marginals and conditionals: what components share in all features, they need not share in some."""
    family = _family(gmm)
    return family if family.closed else get_family(family.general)


@functools.partial(jax.jit, static_argnums=(1, 2))
def condition(gmm: PyTree, given: tuple[int, ...], rest: tuple[int, ...], values: Float[Array, " G"]) -> PyTree:
    """Of the features `rest`, each component in its own sds: one Cholesky factor with the given features first has all of it.

    Its last block times its transpose is the conditional covariance, which so can't turn negative.
    """
    order, n_given = np.array(given + rest), len(given)
    sigma = dense(gmm)[:, order[:, None], order]
    sd = jnp.sqrt(jnp.diagonal(sigma, axis1=-2, axis2=-1))
    scale = jnp.linalg.cholesky(sigma / sd[:, :, None] / sd[:, None, :])
    known, across, left = scale[:, :n_given, :n_given], scale[:, n_given:, :n_given], scale[:, n_given:, n_given:]
    means, sd_given, sd_rest = gmm.means[:, order], sd[:, :n_given], sd[:, n_given:]
    away = (values - means[:, :n_given]) / sd_given
    whitened = solve_triangular(known, away[..., None], lower=True)[..., 0]
    half_log_det = (jnp.log(jnp.diagonal(known, axis1=-2, axis2=-1)) + jnp.log(sd_given)).sum(-1)
    evidence = log_weights(gmm.weights) - half_log_det - (whitened**2).sum(-1) / 2
    left = left * sd_rest[:, :, None]
    family, rest_means = _family_of_parts(gmm), means[:, n_given:] + sd_rest * jnp.einsum("krg,kg->kr", across, whitened)
    covariances = family.from_dense(left @ left.swapaxes(-1, -2))
    return gmm.unchecked(jax.nn.softmax(evidence), rest_means, covariances, family.name)


def dense(gmm: PyTree) -> Float[Array, "K D D"]:
    """Covariances as full matrices."""
    return _family(gmm).dense(gmm.covariances, gmm.n_components, gmm.n_features)


def _centred(gmm: PyTree) -> tuple[Array, Array]:
    """A point among the means, and the means about it: offsets of the data cost no digits."""
    centre = gmm.means[jnp.argmax(gmm.weights)]
    return centre, gmm.means - centre


def mean(gmm: PyTree) -> Float[Array, " D"]:
    """sum_k pi_k mu_k."""
    centre, away = _centred(gmm)
    return centre + gmm.weights @ away


def covariance(gmm: PyTree) -> Float[Array, "D D"]:
    """Within components plus between their means."""
    _, away = _centred(gmm)
    away = away - gmm.weights @ away
    within = jnp.einsum("k,kij->ij", gmm.weights, dense(gmm))
    return within + jnp.einsum("k,ki,kj->ij", gmm.weights, away, away)


def marginal(gmm: PyTree, keep: np.ndarray) -> PyTree:
    """Of the features `keep`, in this order; of factor analysers, these features' loadings and noise."""
    rank = _family(gmm).structure.rank
    if rank and keep.size > rank:
        return gmm.unchecked(gmm.weights, gmm.means[:, keep], gmm.covariances[:, keep], gmm.family)
    family = _family(gmm) if keep.size == gmm.n_features else _family_of_parts(gmm)
    return gmm.unchecked(gmm.weights, gmm.means[:, keep], family.from_dense(dense(gmm)[:, keep[:, None], keep]), family.name)


@functools.partial(jax.jit, static_argnums=2)
def draw_rows(gmm: PyTree, key: Array, n_samples: int) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
    """Rows and the components that they come from, as `GMM.sample`."""
    family = _family(gmm)
    key_label, key_noise = jax.random.split(key)
    means = jnp.asarray(gmm.means)
    weights = jnp.asarray(gmm.weights)
    cumulative = jnp.cumsum(weights)  # inverted, since `random.categorical` would draw N x K Gumbel variates
    uniform = jax.random.uniform(key_label, (n_samples,), weights.dtype) * cumulative[-1]
    last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.size), 0))
    labels = jnp.minimum(jnp.searchsorted(cumulative, uniform, side="right"), last)
    noise = jax.random.normal(key_noise, (n_samples, gmm.n_features), means.dtype)
    scale = family.factor(jnp.asarray(gmm.covariances), gmm.n_features).scale
    rows = family.structure.colour(scale, labels, noise)
    return means[labels] + rows, labels
