"""Structures of variances: of each feature, or one for all."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.covariance.factor import Factor


class Diagonal:
    """One variance a component and feature: (K, D)."""

    dense: ClassVar[bool] = False
    isotropic: ClassVar[bool] = False
    rank: int = 0
    pooled: ClassVar[bool] = False

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features)

    def factor(self, covariances: Array, n_features: int) -> Factor:
        scale = jnp.sqrt(covariances)
        return Factor(scale, 1 / scale, jnp.log(scale).sum(-1))

    def pivots(self, factor: Factor) -> Array:
        return factor.scale**2

    def spread(self, variance: Array, factor: Factor) -> Float[Array, " K"]:
        return (factor.whitener**2 * variance).sum(-1)

    def variances(self, factor: Factor) -> Array:
        return factor.scale**2

    def stretch(self, before: Factor, after: Factor) -> Float[Array, " K"]:
        return (before.whitener * after.scale).max(-1)

    def on_host(self, covariances: np.ndarray) -> np.ndarray:
        return covariances

    def outer(self, weight: Array, a: Array, b: Array, current: Array | None = None) -> Float[Array, "K D"]:
        return weight[:, None] * a * b

    def share(self, scatter: Array, counts: Array) -> Array:
        return (counts / counts.sum())[:, None] * scatter.sum(0)

    def colour(self, scale: Array, labels: Array, noise: Array) -> Array:
        return scale[labels] * noise

    def apply(self, scale: Array, noise: Array) -> Array:
        return scale * noise

    def multiply(self, factor: Factor) -> Array:
        return factor.scale**2

    def matrices(self, factor: Factor, shape: tuple[int, ...]) -> Float[Array, "K D D"]:
        return jnp.broadcast_to(factor.scale**2, shape)[..., None] * jnp.eye(shape[-1], dtype=factor.scale.dtype)

    def gather(self, scatter: Float[Array, "K D D"]) -> Array:
        return jnp.diagonal(scatter, axis1=-2, axis2=-1)

    def flaw(self, covariances: np.ndarray, n_features: int) -> str:
        least = covariances.min()
        return "" if least > 0 else f"the least variance is {least:g}"

    def block_size(self, n_features: int) -> int:
        return 1

    def n_blocks(self, n_features: int) -> int:
        return n_features

    def rows_of(self, counts: Array, n_features: int) -> Array:
        return counts

    def half_log_det(self, scale: Array) -> Array:
        return jnp.log(scale).sum(-1) / 2

    def block_log_dets(self, factor: Factor) -> Float[Array, "K B"]:
        return 2 * jnp.log(factor.scale)

    def scale_log_dets(self, scale: Array) -> Array:
        return jnp.log(scale)

    def block_traces(self, factor: Factor, scale: Array) -> Array:
        return scale * factor.whitener**2

    def draw(self, scale: Array, gammas: Float[Array, "K D 1"], n_features: int, noise: Array) -> Factor:
        return self.factor(scale / (2 * gammas[..., 0]), n_features)

    def to_reals(self, covariances: Array) -> Array:
        return jnp.log(covariances)

    def from_reals(self, reals: Array, shape: tuple[int, ...], n_features: int) -> tuple[Array, Factor, Array]:
        reals = reals.reshape(shape)
        scale = jnp.exp(reals / 2)
        return jnp.exp(reals), Factor(scale, 1 / scale, reals.sum(-1) / 2), reals.sum()

    def information(self, rows: Array, prior_rows: Array, n_features: int) -> Array:
        return jnp.repeat((rows + prior_rows) / 2, n_features, 1)

    def relative(self, scale: Array, reals: Array) -> Array:
        return reals

    def log_volumes(self, scale: Array, n_features: int) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        volume = jnp.log(scale).sum(-1)
        return jnp.zeros_like(volume), volume

    def whiten(self, z: Array, means: Array, factor: Factor) -> Float[Array, "K B D"]:
        return (z[None] - means[:, None]) * factor.whitener[:, None]

    def whitened_scatter(self, responsibilities: Array, y: Array, factor: Factor) -> Array:
        return jnp.einsum("kb,kbd->kd", responsibilities, y**2)

    def unwhiten(self, sums: Array, scatter: Array, factor: Factor) -> tuple[Array, Array]:
        return factor.scale * sums, factor.scale**2 * scatter

    def n_columns(self, n_features: int) -> int:
        return n_features

    def columns(self, z: Array) -> Array:
        return z**2

    def total(self, z: Array, weight: Array) -> Array:
        return jnp.zeros((), z.dtype)

    def coefficients(self, means: Array, factor: Factor) -> tuple[Array, Array, Array]:
        precision = factor.whitener**2
        return precision * means, -0.5 * precision, (precision * means**2).sum(-1)

    def total_log_density(self, total: Array, factor: Factor) -> Array:
        return jnp.zeros((), total.dtype)

    def unpack(self, sums: Array, total: Array, n_features: int) -> Array:
        return sums


class Isotropic(Diagonal):
    """One variance a component: (K,)."""

    isotropic = True

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def factor(self, covariances: Array, n_features: int) -> Factor:
        scale = jnp.sqrt(covariances)[:, None]
        return Factor(scale, 1 / scale, n_features * jnp.log(scale[:, 0]))

    def outer(self, weight: Array, a: Array, b: Array, current: Array | None = None) -> Float[Array, " K"]:
        return weight * (a * b).sum(-1)

    def share(self, scatter: Array, counts: Array) -> Array:
        return counts / counts.sum() * scatter.sum(0)

    def multiply(self, factor: Factor) -> Array:
        return factor.scale[:, 0] ** 2

    def gather(self, scatter: Float[Array, "K D D"]) -> Array:
        return jnp.trace(scatter, axis1=-2, axis2=-1)

    def n_blocks(self, n_features: int) -> int:
        return 1

    def rows_of(self, counts: Array, n_features: int) -> Array:
        return n_features * counts

    def half_log_det(self, scale: Array) -> Array:
        return jnp.log(scale) / 2

    def scale_log_dets(self, scale: Array) -> Array:
        return jnp.log(scale).reshape(-1, 1)

    def block_traces(self, factor: Factor, scale: Array) -> Array:
        return scale.reshape(-1, 1) * factor.whitener**2

    def draw(self, scale: Array, gammas: Float[Array, "K 1 1"], n_features: int, noise: Array) -> Factor:
        return self.factor(scale / (2 * gammas[..., 0, 0]), n_features)

    def from_reals(self, reals: Array, shape: tuple[int, ...], n_features: int) -> tuple[Array, Factor, Array]:
        scale = jnp.exp(reals / 2)[:, None]
        return jnp.exp(reals), Factor(scale, 1 / scale, n_features * reals / 2), reals.sum()

    def information(self, rows: Array, prior_rows: Array, n_features: int) -> Array:
        return (n_features * rows + prior_rows) / 2

    def log_volumes(self, scale: Array, n_features: int) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
        volume = n_features * jnp.log(scale[:, 0])
        return jnp.zeros_like(volume), volume

    def whitened_scatter(self, responsibilities: Array, y: Array, factor: Factor) -> Array:
        return jnp.einsum("kb,kbd->k", responsibilities, y**2)

    def unwhiten(self, sums: Array, scatter: Array, factor: Factor) -> tuple[Array, Array]:
        return factor.scale * sums, factor.scale[:, 0] ** 2 * scatter

    def n_columns(self, n_features: int) -> int:
        return 1

    def columns(self, z: Array) -> Array:
        return (z**2).sum(1, keepdims=True)

    def unpack(self, sums: Array, total: Array, n_features: int) -> Array:
        return sums[:, 0]
