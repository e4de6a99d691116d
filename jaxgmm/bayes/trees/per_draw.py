"""What every posterior draw says about every row, in blocks of draws and rows: no draws x N x K array is ever whole.

All functions take draws with one leading axis (S,), of the noise beside them, too, arrays of one dtype, and are to be called
inside `precision.scope`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.base import MixturePrior, draw_summed_out, log_prior
from jaxgmm.bayes.target.noise import NOISE, strewn
from jaxgmm.covariance import Factor
from jaxgmm.data.placed import Rows, Seen, n_places
from jaxgmm.model.algebra import draw_rows
from jaxgmm.model.density import Uniform, beside, with_shares
from jaxgmm.model.mixture import GMM
from jaxgmm.model.rows import log_joint_of, map_blocks, reduce_blocks, weighted
from jaxgmm.tools.blocks import map_draws

_NUMBERS_AT_ONCE = 1 << 20  # entries of the whitened rows that exist together
_PAIRS_AT_ONCE = 1 << 22  # entries of the memberships that are multiplied with themselves


def noise_of(shares: Float[np.ndarray, "chain draw"] | None, seen: Seen, dtype: np.dtype) -> Uniform | None:
    """The noise of each draw, given its shares; None where no row may be noise."""
    if shares is None or seen.log_widths is None:
        return None
    log_weight = np.log(np.asarray(shares, dtype)).reshape(-1)
    log_widths = np.broadcast_to(seen.log_widths.astype(dtype), (len(log_weight), len(seen.log_widths)))
    return Uniform(jnp.asarray(log_weight), jnp.asarray(log_widths))


def flatten_draws(gmm: GMM) -> GMM:
    """Leading axes (chain, draw) as one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1, *np.shape(leaf)[2:]), gmm)


@jax.jit
def label_invariant(
    gmm: GMM, x: Rows, weight: Float[Array, " M"], key: Array, n_draws: Int[Array, ""], noise: Uniform | None = None
) -> dict[str, Float[Array, "S ..."]]:
    """Quantities of each draw that don't change when its components change places; of the first `n_draws`, others are padding.

    Returns:
        `log_likelihood` (S,), sum_n w_n log p(x_n), nats; `sorted_weights` (S, K), descending; `entropy` (S,), the mean of
        -sum_k r_nk log r_nk over the rows, nats, noise being one of the k; `n_clusters` (S,), components that own a row of
        positive weight in one draw of the allocations.
    """
    n_components, total = gmm.n_components, weight.sum()
    at_once, block_size = _blocks(gmm, n_places(x))

    def of_draw(draw: tuple[GMM, Array, Uniform | None]) -> tuple[Array, Array, Array]:
        g, draw_key, rest = draw
        factor = g.factored()
        uniform = jax.random.uniform(draw_key, (n_places(x),), gmm.means.dtype)

        def of_rows(rows: Rows, w: Array, u: Array) -> tuple[Array, Array, Array]:
            joint = log_joint_of(beside(g.components(factor), rest), rows)
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
    log_likelihood, entropy, n_clusters = map_draws(of_draw, (gmm, keys, noise), at_once, n_draws)
    return {
        "log_likelihood": log_likelihood,
        "sorted_weights": jnp.sort(gmm.weights, axis=-1)[:, ::-1],
        "entropy": entropy,
        "n_clusters": n_clusters,
    }


@jax.jit
def log_density_of_rows(gmm: GMM, x: Rows, weight: Float[Array, " M"], noise: Uniform | None = None) -> Float[Array, "S M"]:
    """w_n log p(x_n) of each draw, nats, at the places of the rows."""
    at_once, block_size = _blocks(gmm, n_places(x))

    def of_draw(draw: tuple[GMM, Uniform | None]) -> Array:
        g, rest = draw
        factor = g.factored()
        log_density = map_blocks(
            lambda rows: logsumexp(log_joint_of(beside(g.components(factor), rest), rows), axis=-1), x, weight, block_size
        )
        return weighted(weight, log_density)

    return map_draws(of_draw, (gmm, noise), at_once)


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
def replicate(
    gmm: GMM,
    key: Array,
    n_samples: int,
    roots: Float[Array, "N D D"] | None = None,
    shares: Float[Array, " S"] | None = None,
    box: Float[Array, "2 D"] | None = None,
) -> Float[Array, "S N D"]:
    """A data set of `n_samples` rows from each draw; with errors of measurement whose covariances are R R', and noise, which
    has none, over a box.
    """
    keys = jax.random.split(key, gmm.weights.shape[0])

    def measured(g: GMM, key: Array) -> Array:
        if roots is None:
            return draw_rows(g, key, n_samples)[0]
        key_rows, key_noise = jax.random.split(key)  # fold_in(key, 1) would be a key that draw_rows uses
        rows, _ = draw_rows(g, key_rows, n_samples)
        noise = jax.random.normal(key_noise, rows.shape, rows.dtype)
        return rows + jnp.einsum("nij,nj->ni", roots, noise)

    def data_set(draw: tuple[GMM, Array, Array | None]) -> Array:
        g, key, share = draw
        if share is None or box is None:
            return measured(g, key)
        key_rows, key_noise = jax.random.split(key)
        return strewn(key_noise, measured(g, key_rows), share, box)

    return map_draws(data_set, (gmm, keys, shares), _blocks(gmm, n_samples)[0])


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def from_prior(
    key: Array, n_draws: int, n_samples: int, n_components: int, family: str, prior: MixturePrior
) -> dict[str, Array]:
    """Mixtures drawn from the prior, and `n_samples` rows of each under "x"."""
    from numpyro.infer import Predictive  # the only draws that need it: trees of Gibbs sampling and counts don't

    from jaxgmm.bayes.target.numpyro_model import numpyro_model

    predictive = Predictive(numpyro_model, num_samples=n_draws)
    return predictive(key, None, n_components, family, prior, n_samples=n_samples)


@jax.jit
def noise_from_prior(key: Array, x: Float[Array, "S N D"], box: Float[Array, "2 D"]) -> dict[str, Array]:
    """Shares of noise drawn from the prior, and the rows of each draw with so much of it over a box, under "x"."""
    key_shares, key_rows = jax.random.split(key)
    shares = jax.random.uniform(key_shares, x.shape[:1], x.dtype)
    keys = jax.random.split(key_rows, len(x))
    return {NOISE: shares, "x": jax.vmap(lambda key, rows, share: strewn(key, rows, share, box))(keys, x, shares)}


@jax.jit
def memberships_of(gmm: GMM, x: Rows, weight: Float[Array, " M"]) -> Float[Array, "M K"]:
    """p(component | row) of one mixture, at the places of the rows, as of rows that aren't noise; 0 for padding behind them."""
    components = gmm.components()
    block_size = max(1, _NUMBERS_AT_ONCE // (gmm.n_components * (gmm.n_features + 4)))
    return map_blocks(
        lambda rows: jax.nn.softmax(with_shares(log_joint_of(components, rows), components), axis=-1), x, weight, block_size
    )


@jax.jit
def agreement(
    gmm: GMM,
    x: Rows,
    weight: Float[Array, " M"],
    pivot: Float[Array, "M K"],
    n_draws: Int[Array, ""],
    noise: Uniform | None = None,
) -> Float[Array, "S K K"]:
    """sum_n w_n r_nk p_nj: how much of component k of each draw is in component j of the pivot's memberships p; of the first
    `n_draws`, others are padding.
    """
    at_once, block_size = _blocks(gmm, n_places(x))

    def of_draw(draw: tuple[GMM, Uniform | None]) -> Array:
        g, rest = draw
        factor = g.factored()

        def of_rows(rows: Rows, w: Array, p: Array) -> Array:
            return _shares(g, factor, rest, rows)[:, : g.n_components].T @ (w[:, None] * p)

        return reduce_blocks(of_rows, x, weight, block_size, pivot)

    return map_draws(of_draw, (gmm, noise), at_once, n_draws)


@jax.jit
def mean_and_sd_of_memberships(
    gmm: GMM, x: Rows, weight: Float[Array, " M"], noise: Uniform | None = None
) -> Float[Array, "M L 2"]:
    """Mean and standard deviation of r_nk over the draws, in one pass (Welford 1962); with noise, of its probability last."""
    n_draws, n_components = gmm.weights.shape
    factors = jax.vmap(GMM.factored)(gmm)
    _, block_size = _blocks(gmm, n_places(x))

    def of_rows(rows: Rows) -> Array:
        def add(carry: tuple[Array, Array, Array], draw: tuple[GMM, Factor, Uniform | None]) -> tuple[Any, None]:
            count, mean, squares = carry
            r = _shares(*draw, rows)
            new_mean = mean + (r - mean) / (count + 1)
            return (count + 1, new_mean, squares + (r - mean) * (r - new_mean)), None

        zero = jnp.zeros((n_places(rows), n_components + (noise is not None)), gmm.means.dtype)
        (_, mean, squares), _ = lax.scan(add, (jnp.zeros((), gmm.means.dtype), zero, zero), (gmm, factors, noise))
        return jnp.stack([mean, jnp.sqrt(squares / max(n_draws - 1, 1))], axis=-1)

    return map_blocks(of_rows, x, weight, block_size)


def shared_membership(
    gmm: GMM, x: Rows, places: Int[np.ndarray, " N"] | None = None, noise: Uniform | None = None
) -> Float[Array, "N N"]:
    """Mean over the draws of sum_k r_nk r_mk, of the rows at these places; None: of all, in their order."""
    n_draws, n_components = gmm.weights.shape
    at_once = int(np.clip(_PAIRS_AT_ONCE // (n_places(x) * n_components), 1, n_draws))
    n_rows = n_places(x) if places is None else places.size
    total = jnp.zeros((n_rows, n_rows), gmm.means.dtype)
    for first in range(0, n_draws, at_once):
        part, rest = jax.tree.map(lambda leaf, i=first: leaf[i : i + at_once], (gmm, noise))
        total = _add_pairs(total, part, rest, x, places)
    return total / n_draws


@functools.partial(jax.jit, donate_argnums=0)
def _add_pairs(total: Array, gmm: GMM, noise: Uniform | None, x: Rows, places: Array | None) -> Array:
    at_once, block_size = _blocks(gmm, n_places(x))
    every = jnp.ones(n_places(x), gmm.means.dtype)

    def of_draw(draw: tuple[GMM, Uniform | None]) -> Array:
        g, rest = draw
        factor = g.factored()
        return map_blocks(lambda rows: _shares(g, factor, rest, rows)[:, : g.n_components], x, every, block_size).T

    r = map_draws(of_draw, (gmm, noise), at_once).reshape(-1, n_places(x))
    r = r if places is None else r[:, places]
    return total + r.T @ r


def _shares(g: GMM, factor: Factor, noise: Uniform | None, rows: Rows) -> Float[Array, "B L"]:
    """p(component | row) of one draw; with noise, of this too, last."""
    return jax.nn.softmax(log_joint_of(beside(g.components(factor), noise), rows), axis=-1)


def _blocks(gmm: GMM, n_samples: int) -> tuple[int, int]:
    """How many draws, and how many of their rows, are looked at together."""
    n_draws, n_components, n_features = gmm.means.shape
    a_row = n_components * (n_features + 4)
    rows = int(np.clip(_NUMBERS_AT_ONCE // a_row, 1, n_samples))
    return int(np.clip(_NUMBERS_AT_ONCE // (a_row * rows), 1, n_draws)), rows
