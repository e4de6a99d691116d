"""What every posterior draw says about every row, in blocks of draws and rows: no draws x N x K array is ever whole.

All functions take draws with one leading axis (S,), arrays of one dtype, and are to be called inside `precision.scope`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int
from numpyro.infer import Predictive

from jaxgmm.bayes.priors.base import MixturePrior, draw_summed_out, log_prior
from jaxgmm.bayes.target.numpyro_model import numpyro_model
from jaxgmm.covariance import Factor
from jaxgmm.data.placed import Rows, n_places
from jaxgmm.model.algebra import draw_rows
from jaxgmm.model.density import with_shares
from jaxgmm.model.mixture import GMM
from jaxgmm.model.rows import log_joint_of, map_blocks, reduce_blocks, weighted
from jaxgmm.tools.blocks import map_draws

_NUMBERS_AT_ONCE = 1 << 20  # entries of the whitened rows that exist together
_PAIRS_AT_ONCE = 1 << 22  # entries of the memberships that are multiplied with themselves


def flatten_draws(gmm: GMM) -> GMM:
    """Leading axes (chain, draw) as one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1, *np.shape(leaf)[2:]), gmm)


@jax.jit
def label_invariant(
    gmm: GMM, x: Rows, weight: Float[Array, " M"], key: Array, n_draws: Int[Array, ""]
) -> dict[str, Float[Array, "S ..."]]:
    """Quantities of each draw that don't change when its components change places; of the first `n_draws`, others are padding.

    Returns:
        `log_likelihood` (S,), sum_n w_n log p(x_n), nats; `sorted_weights` (S, K), descending; `entropy` (S,), the mean of
        -sum_k r_nk log r_nk over the rows, nats; `n_clusters` (S,), components that own a row of positive weight in one
        draw of the allocations.
    """
    n_components, total = gmm.n_components, weight.sum()
    at_once, block_size = _blocks(gmm, n_places(x))

    def of_draw(draw: tuple[GMM, Array]) -> tuple[Array, Array, Array]:
        g, draw_key = draw
        factor = g.factored()
        uniform = jax.random.uniform(draw_key, (n_places(x),), gmm.means.dtype)

        def of_rows(rows: Rows, w: Array, u: Array) -> tuple[Array, Array, Array]:
            joint = log_joint_of(g.components(factor), rows)
            log_density = logsumexp(joint, axis=-1)
            log_r = joint - log_density[:, None]
            r = jnp.exp(log_r)
            entropy = -jnp.where(r > 0, r * log_r, 0).sum(-1)
            cumulative = jnp.cumsum(r, axis=-1)
            label = (cumulative <= u[:, None] * cumulative[:, -1:]).sum(-1)
            owned = (jax.nn.one_hot(label, n_components, dtype=gmm.means.dtype) * (w > 0)[:, None]).sum(0)
            return weighted(w, log_density).sum(), weighted(w, entropy).sum(), owned

        log_likelihood, entropy, owned = reduce_blocks(of_rows, x, weight, block_size, uniform)
        return log_likelihood, entropy / total, (owned > 0).sum().astype(gmm.means.dtype)

    keys = jax.random.split(key, gmm.weights.shape[0])
    log_likelihood, entropy, n_clusters = map_draws(of_draw, (gmm, keys), at_once, n_draws)
    return {
        "log_likelihood": log_likelihood,
        "sorted_weights": jnp.sort(gmm.weights, axis=-1)[:, ::-1],
        "entropy": entropy,
        "n_clusters": n_clusters,
    }


@jax.jit
def log_density_of_rows(gmm: GMM, x: Rows, weight: Float[Array, " M"]) -> Float[Array, "S M"]:
    """w_n log p(x_n) of each draw, nats, at the places of the rows."""
    at_once, block_size = _blocks(gmm, n_places(x))

    def of_draw(g: GMM) -> Array:
        factor = g.factored()
        log_density = map_blocks(
            lambda rows: logsumexp(log_joint_of(g.components(factor), rows), axis=-1), x, weight, block_size
        )
        return weighted(weight, log_density)

    return map_draws(of_draw, gmm, at_once)


@jax.jit
def log_prior_of_draws(gmm: GMM, extra: dict[str, Array], prior: MixturePrior) -> Float[Array, " S"]:
    """Log density of each draw's parameters under the prior, nats."""
    return jax.vmap(lambda g, e: log_prior(prior, g, g.factored(), e))(gmm, extra)


@jax.jit
def summed_out_of_draws(gmm: GMM, key: Array, prior: MixturePrior) -> dict[str, Float[Array, " S"]]:
    """For each draw, a draw of what the prior's density has summed out, by name."""
    keys = jax.random.split(key, gmm.weights.shape[0])
    return jax.vmap(lambda g, k: draw_summed_out(prior, k, g, g.factored()))(gmm, keys)


@functools.partial(jax.jit, static_argnums=2)
def replicate(gmm: GMM, key: Array, n_samples: int, roots: Float[Array, "N D D"] | None = None) -> Float[Array, "S N D"]:
    """A data set of `n_samples` rows from each draw; with errors of measurement whose covariances are R R'."""
    keys = jax.random.split(key, gmm.weights.shape[0])

    def measured(draw: tuple[GMM, Array]) -> Array:
        if roots is None:
            return draw_rows(*draw, n_samples)[0]
        key_rows, key_noise = jax.random.split(draw[1])  # fold_in(draw[1], 1) would be a key that draw_rows uses
        rows, _ = draw_rows(draw[0], key_rows, n_samples)
        noise = jax.random.normal(key_noise, rows.shape, rows.dtype)
        return rows + jnp.einsum("nij,nj->ni", roots, noise)

    return map_draws(measured, (gmm, keys), _blocks(gmm, n_samples)[0])


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def from_prior(
    key: Array, n_draws: int, n_samples: int, n_components: int, family: str, prior: MixturePrior
) -> dict[str, Array]:
    """Mixtures drawn from the prior, and `n_samples` rows of each under "x"."""
    predictive = Predictive(numpyro_model, num_samples=n_draws)
    return predictive(key, None, n_components, family, prior, n_samples=n_samples)


@jax.jit
def memberships_of(gmm: GMM, x: Rows, weight: Float[Array, " M"]) -> Float[Array, "M K"]:
    """p(component | row) of one mixture, at the places of the rows; 0 for padding behind them."""
    components = gmm.components()
    block_size = max(1, _NUMBERS_AT_ONCE // (gmm.n_components * (gmm.n_features + 4)))
    return map_blocks(
        lambda rows: jax.nn.softmax(with_shares(log_joint_of(components, rows), components), axis=-1), x, weight, block_size
    )


@jax.jit
def agreement(
    gmm: GMM, x: Rows, weight: Float[Array, " M"], pivot: Float[Array, "M K"], n_draws: Int[Array, ""]
) -> Float[Array, "S K K"]:
    """sum_n w_n r_nk p_nj: how much of component k of each draw is in component j of the pivot's memberships p; of the first
    `n_draws`, others are padding.
    """
    at_once, block_size = _blocks(gmm, n_places(x))

    def of_draw(g: GMM) -> Array:
        factor = g.factored()

        def of_rows(rows: Rows, w: Array, p: Array) -> Array:
            return jax.nn.softmax(log_joint_of(g.components(factor), rows), axis=-1).T @ (w[:, None] * p)

        return reduce_blocks(of_rows, x, weight, block_size, pivot)

    return map_draws(of_draw, gmm, at_once, n_draws)


@jax.jit
def mean_and_sd_of_memberships(gmm: GMM, x: Rows, weight: Float[Array, " M"]) -> Float[Array, "M K 2"]:
    """Mean and standard deviation of r_nk over the draws, in one pass (Welford 1962)."""
    n_draws, n_components = gmm.weights.shape
    factors = jax.vmap(GMM.factored)(gmm)
    _, block_size = _blocks(gmm, n_places(x))

    def of_rows(rows: Rows) -> Array:
        def add(carry: tuple[Array, Array, Array], draw: tuple[GMM, Factor]) -> tuple[Any, None]:
            count, mean, squares = carry
            r = jax.nn.softmax(log_joint_of(draw[0].components(draw[1]), rows), axis=-1)
            new_mean = mean + (r - mean) / (count + 1)
            return (count + 1, new_mean, squares + (r - mean) * (r - new_mean)), None

        zero = jnp.zeros((n_places(rows), n_components), gmm.means.dtype)
        (_, mean, squares), _ = lax.scan(add, (jnp.zeros((), gmm.means.dtype), zero, zero), (gmm, factors))
        return jnp.stack([mean, jnp.sqrt(squares / max(n_draws - 1, 1))], axis=-1)

    return map_blocks(of_rows, x, weight, block_size)


def shared_membership(gmm: GMM, x: Rows, places: Int[np.ndarray, " N"] | None = None) -> Float[Array, "N N"]:
    """Mean over the draws of sum_k r_nk r_mk, of the rows at these places; None: of all, in their order."""
    n_draws, n_components = gmm.weights.shape
    at_once = int(np.clip(_PAIRS_AT_ONCE // (n_places(x) * n_components), 1, n_draws))
    n_rows = n_places(x) if places is None else places.size
    total = jnp.zeros((n_rows, n_rows), gmm.means.dtype)
    for first in range(0, n_draws, at_once):
        part = jax.tree.map(lambda leaf, i=first: leaf[i : i + at_once], gmm)
        total = _add_pairs(total, part, x, places)
    return total / n_draws


@functools.partial(jax.jit, donate_argnums=0)
def _add_pairs(total: Array, gmm: GMM, x: Rows, places: Array | None) -> Array:
    at_once, block_size = _blocks(gmm, n_places(x))
    every = jnp.ones(n_places(x), gmm.means.dtype)

    def of_draw(g: GMM) -> Array:
        factor = g.factored()
        return map_blocks(
            lambda rows: jax.nn.softmax(log_joint_of(g.components(factor), rows), axis=-1), x, every, block_size
        ).T

    r = map_draws(of_draw, gmm, at_once).reshape(-1, n_places(x))
    r = r if places is None else r[:, places]
    return total + r.T @ r


def _blocks(gmm: GMM, n_samples: int) -> tuple[int, int]:
    """How many draws, and how many of their rows, are looked at together."""
    n_draws, n_components, n_features = gmm.means.shape
    a_row = n_components * (n_features + 4)
    rows = int(np.clip(_NUMBERS_AT_ONCE // a_row, 1, n_samples))
    return int(np.clip(_NUMBERS_AT_ONCE // (a_row * rows), 1, n_draws)), rows
