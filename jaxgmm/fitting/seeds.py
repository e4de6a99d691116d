"""Seeds of starts: rows by k-means++ or at random, and what labels say of where components begin."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.covariance import get_family
from jaxgmm.covariance.structure import Structure
from jaxgmm.data.moments import Moments, column_variances
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import key_data

METHODS = ("k-means++", "random")


def column_scales(moments: Moments, family: str) -> np.ndarray:
    """What columns are divided by before distances: their standard deviations (D,), all alike for round components."""
    variance = column_variances(moments)
    if get_family(family).structure.isotropic:
        variance = np.full_like(variance, variance.mean())
    return np.sqrt(variance)


def seed_uniforms(key: Array, n_starts: int, n_components: int, capacity: int) -> np.ndarray:
    """One uniform variate for each seed of each start (R, capacity), zeros for padding; from a generator seeded by the key.

    Drawn on the host: compiling JAX's generator would be a tenth of a first fit's time, for a handful of numbers.
    """
    draws = np.random.default_rng(np.asarray(key_data(key)).tolist()).random((n_starts, n_components))
    return np.pad(draws, ((0, 0), (0, capacity - n_components)))


class Groups(NamedTuple):
    """Rows by the seed that is nearest, of one start or of several (leading axes): their sums about a common centre.

    Attributes:
        counts: (K,), weights.
        sums: (K, D).
        scatter: in the shape of the family's structure.
        seeds: (K, D).
    """

    counts: Float[Array, "*R K"]
    sums: Float[Array, "*R K D"]
    scatter: Float[Array, "..."]
    seeds: Float[Array, "*R K D"]


def groups_on_host(
    x: Float[np.ndarray, "N D"],
    weight: Float[np.ndarray, " N"],
    uniforms: Float[np.ndarray, "R K"],
    centre: Float[np.ndarray, " D"],
    scales: Float[np.ndarray, " D"],
    n_components: Int[np.ndarray, " R"],
    init: str,
    structure: Structure,
) -> Groups:
    """What `seeds_of` and sums over rows give for several starts, in NumPy: of few rows, sooner than it is compiled."""
    (n_starts, capacity), n_features = uniforms.shape, x.shape[1]
    distance, labels = np.full((n_starts, len(x)), np.inf), np.zeros((n_starts, len(x)), int)
    unchosen, seeds, each = np.ones_like(distance), np.zeros((n_starts, capacity), int), np.arange(n_starts)
    for k in range(capacity):
        mass = weight * (unchosen if init == "random" else distance if k else np.ones_like(distance))
        mass = np.where(mass.sum(-1, keepdims=True) > 0, mass, weight)  # fewer distinct rows than components
        cumulative = np.cumsum(mass, axis=-1)
        row = np.minimum((cumulative <= uniforms[:, k, None] * cumulative[:, -1:]).sum(1), len(x) - 1)
        squared = (((x - x[row][:, None]) / scales) ** 2).sum(-1)
        closer = (squared < distance) & (k < n_components)[:, None]
        distance, labels = np.where(closer, squared, distance), np.where(closer, k, labels)
        seeds[:, k], unchosen[each, row] = row, 0
    z = x - centre
    columns = np.concatenate([z, structure.columns(on_host(z)), np.ones((len(x), 1))], axis=1)
    sums = (weight * (labels[:, None] == np.arange(capacity)[:, None])) @ columns
    total = structure.total(on_host(z), on_host(weight)) if structure.pooled else on_host(np.zeros(()))
    scatter = np.stack([structure.unpack(on_host(own[:, n_features:-1]), total, n_features) for own in sums])
    return Groups(*(on_host(leaf) for leaf in (sums[..., -1], sums[..., :n_features], scatter, x[seeds])))


class Known(NamedTuple):
    """What evidence says of the labels.

    Attributes:
        labels: (N,), of rows that can be of one component only, -1 for others.
        some: (K,), whether a component has such rows.
        means: (K, D), of these.
    """

    labels: Int[Array, " N"]
    some: Bool[Array, " K"]
    means: Float[Array, "K D"]


def known_of(x: Array, weight: Array, centre: Array, evidence: Float[Array, "N L"], n_components: int) -> Known:
    """What evidence says of the labels of rows (N, D)."""
    possible = evidence > -jnp.inf
    labels = jnp.where((possible.sum(1) == 1) & (weight > 0), possible.argmax(1), -1).astype(jnp.int32)
    own = weight[:, None] * jax.nn.one_hot(labels, n_components, dtype=centre.dtype)
    counts = own.sum(0)
    sums = own.T @ (x.astype(centre.dtype) - centre)
    return Known(labels, counts > 0, centre + sums / jnp.where(counts > 0, counts, 1)[:, None])


def seeds_of(
    uniforms: Float[Array, " K"],
    squared_distance: Callable[[Array, Array], Float[Array, " N"]],
    weight: Float[Array, " N"],
    n_components: int | Array,
    init: str,
    order: Int[Array, " K"] | None = None,
    noisy: bool = False,
) -> tuple[Int[Array, " K"], Int[Array, " N"], Float[Array, " N"]]:
    """Seed rows, drawn by inverting their cumulative mass, and the nearest seed of every row, with its squared distance.

    Args:
        uniforms: a variate for each seed.
        squared_distance: of all rows from the seed of component k, if a given row is drawn for it.
        weight: of the rows.
        n_components: those from it on are padding.
        init: "k-means++" or "random".
        order: of the components, in which their seeds are drawn; by default the first comes first.
        noisy: rows that are far from all seeds so far are no likelier to be the next than others.
    """
    capacity = uniforms.shape[0]

    def add(i: Array, carry: tuple) -> tuple:
        distance, labels, seeds, unchosen = carry
        k = i if order is None else order[i]
        far = jnp.minimum(distance, typical(distance, weight)) if noisy else distance
        mass = weight * unchosen if init == "random" else weight * jnp.where(i > 0, far, 1)
        mass = jnp.where(mass.sum() > 0, mass, weight)  # fewer distinct rows than components
        cumulative = jnp.cumsum(mass)
        row = jnp.searchsorted(cumulative, uniforms[k] * cumulative[-1], side="right", method="compare_all")
        row = jnp.minimum(row, weight.shape[0] - 1).astype(jnp.int32)
        squared = squared_distance(row, k)
        closer = (squared < distance) & (k < n_components)
        distance, labels = jnp.where(closer, squared, distance), jnp.where(closer, k, labels)
        return distance, labels, seeds.at[k].set(row), unchosen.at[row].set(0)

    infinite = jnp.full(weight.shape, jnp.inf, weight.dtype)
    zeros = jnp.zeros(weight.shape, jnp.int32), jnp.zeros(capacity, jnp.int32)
    distance, labels, seeds, _ = lax.fori_loop(0, capacity, add, (infinite, *zeros, jnp.ones_like(infinite)))
    return seeds, labels, distance


def typical(distance: Float[Array, " N"], weight: Float[Array, " N"]) -> Float[Array, ""]:
    """A mean of squared distances to which the far ones add little."""
    return (weight @ distance**0.25 / weight.sum()) ** 4
