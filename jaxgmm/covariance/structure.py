"""The four shapes of scatter: how covariances of each shape whiten rows, and which sums over rows they need.

A family (full, tied, VEV, ...) is a parametrisation; its *structure* is the algebra under it. Everything here is for
one mixture, K components, and a block of B rows `z` that has been shifted to a common centre, as have the `means`:

* *whitened*: y_nk = W_k' (z_n - m_k), with Sigma_k^-1 = W_k W_k'. Rounding grows as eps * spread / sigma.
* *moments*: log N(z | m, Sigma) is linear in T(z) = [z, columns(z)]. Two plain matrix products an iteration, but rounding
  grows as eps * (spread / sigma)^2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

_NUMBERS_AT_ONCE = 1 << 20  # entries of covariance factors gathered together when rows are drawn


class Factor(NamedTuple):
    """A covariance taken apart: Sigma = L L', and W = L'^-1 whitens."""

    scale: Array  # L
    whitener: Array  # W
    half_log_det: Array  # log |L|, (K,) or ()


def _mT(a: Array) -> Array:
    return a.swapaxes(-1, -2)


def invert_tril(scale: Float[Array, "... D D"]) -> Float[Array, "... D D"]:
    """Inverses of lower triangular matrices."""
    eye = jnp.broadcast_to(jnp.eye(scale.shape[-1], dtype=scale.dtype), scale.shape)
    return solve_triangular(scale, eye, lower=True)


class Dense:
    """One (D, D) scatter a component: (K, D, D)."""

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def factor(self, covariances: Array, n_features: int) -> Factor:
        scale = jnp.linalg.cholesky(covariances)
        return Factor(scale, _mT(invert_tril(scale)), jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1)).sum(-1))

    def pivots(self, factor: Factor) -> Float[Array, "K D"]:
        """Variance of each feature given those before it: zero where a covariance is singular."""
        return jnp.diagonal(factor.scale, axis1=-2, axis2=-1) ** 2

    def spread(self, variance: Float[Array, " D"], factor: Factor) -> Float[Array, " K"]:
        """tr(Sigma_k^-1 diag(variance)): the mean squared length of rows with these variances, in a component's own units."""
        return (factor.whitener**2 * variance[:, None]).sum((-2, -1))

    def variances(self, factor: Factor) -> Float[Array, "K D"]:
        """The diagonals of the covariances, (1, D) where components share one."""
        return (factor.scale**2).sum(-1)

    def outer(self, weight: Array, a: Float[Array, "K D"], b: Float[Array, "K D"]) -> Array:
        """weight_k (a_k b_k' + b_k a_k') / 2."""
        product = a[:, :, None] * b[:, None, :]
        return weight[:, None, None] * (product + _mT(product)) / 2

    def share(self, scatter: Array, counts: Array) -> Array:
        """The scatter of all components together, dealt out in proportion to their counts."""
        return (counts / counts.sum())[:, None, None] * scatter.sum(0)

    def colour(self, scale: Array, labels: Int[Array, " N"], noise: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """L_k applied to the noise of each row, k its label; factors are gathered for a block of rows at a time."""
        n_samples, n_features = noise.shape
        at_once = min(n_samples, max(1, _NUMBERS_AT_ONCE // n_features**2))
        return jax.lax.map(lambda row: scale[row[0]] @ row[1], (labels, noise), batch_size=at_once)

    # whitened engine

    def whiten(self, z: Float[Array, "B D"], means: Float[Array, "K D"], factor: Factor) -> Float[Array, "K B D"]:
        shift = jnp.einsum("kd,kde->ke", means, factor.whitener)
        return jnp.einsum("bd,kde->kbe", z, factor.whitener) - shift[:, None, :]

    def whitened_scatter(self, responsibilities: Float[Array, "K B"], y: Float[Array, "K B D"]) -> Array:
        return jnp.einsum("kbi,kbj->kij", responsibilities[:, :, None] * y, y)

    def unwhiten(self, sums: Float[Array, "K D"], scatter: Array, factor: Factor) -> tuple[Array, Array]:
        scale = factor.scale
        return jnp.einsum("kij,kj->ki", scale, sums), scale @ scatter @ _mT(scale)

    # moments engine

    def n_columns(self, n_features: int) -> int:
        """How many `columns` there are."""
        return n_features * (n_features + 1) // 2

    def columns(self, z: Float[Array, "B D"]) -> Float[Array, "B Q"]:
        return jnp.concatenate([z[:, i : i + 1] * z[:, i:] for i in range(z.shape[1])], axis=1)

    def total(self, z: Array, weight: Array) -> Array:
        """What the moments engine needs of the rows whatever the responsibilities."""
        return jnp.zeros((), z.dtype)

    def coefficients(self, means: Float[Array, "K D"], factor: Factor) -> tuple[Array, Array, Array]:
        """Linear (K, D) and quadratic (K, Q) coefficients of log N, and the Mahalanobis norm m' Sigma^-1 m (K,)."""
        w = factor.whitener
        m = jnp.einsum("kd,kde->ke", means, w)
        i, j = np.triu_indices(means.shape[-1])
        precision = (w @ _mT(w))[:, i, j]
        return jnp.einsum("kde,ke->kd", w, m), precision * np.where(i == j, -0.5, -1.0), (m**2).sum(-1)

    def total_log_density(self, total: Array, factor: Factor) -> Array:
        """The part of the log-likelihood that all components share: sum over rows of -z' Sigma^-1 z / 2."""
        return jnp.zeros((), total.dtype)

    def unpack(self, sums: Float[Array, "K Q"], total: Array, n_features: int) -> Array:
        """Scatter about the common centre from the sums of `columns`."""
        i, j = np.triu_indices(n_features)
        index = np.zeros((n_features, n_features), int)
        index[i, j] = index[j, i] = np.arange(i.size)
        return sums[:, index]


class Pooled(Dense):
    """One (D, D) scatter for all components together.

    z' Sigma^-1 z is the same for every component, so the moments engine needs no quadratic columns at all: K times fewer
    operations than the dense form.
    """

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def variances(self, factor: Factor) -> Float[Array, "1 D"]:
        return (factor.scale**2).sum(-1)[None]

    def outer(self, weight: Array, a: Array, b: Array) -> Float[Array, "D D"]:
        product = (weight * a.T) @ b
        return (product + product.T) / 2

    def share(self, scatter: Array, counts: Array) -> Array:
        return scatter

    def colour(self, scale: Array, labels: Array, noise: Array) -> Array:
        return noise @ scale.T

    def whiten(self, z: Array, means: Array, factor: Factor) -> Array:
        return (z @ factor.whitener)[None] - (means @ factor.whitener)[:, None, :]

    def whitened_scatter(self, responsibilities: Array, y: Array) -> Array:
        n_features = y.shape[-1]
        return (responsibilities[:, :, None] * y).reshape(-1, n_features).T @ y.reshape(-1, n_features)

    def unwhiten(self, sums: Array, scatter: Array, factor: Factor) -> tuple[Array, Array]:
        return sums @ factor.scale.T, factor.scale @ scatter @ factor.scale.T

    def n_columns(self, n_features: int) -> int:
        return 0

    def columns(self, z: Array) -> Array:
        return z[:, :0]

    def total(self, z: Array, weight: Array) -> Float[Array, "D D"]:
        return (weight[:, None] * z).T @ z

    def coefficients(self, means: Array, factor: Factor) -> tuple[Array, Array, Array]:
        m = means @ factor.whitener
        return m @ factor.whitener.T, means[:, :0], (m**2).sum(-1)

    def total_log_density(self, total: Array, factor: Factor) -> Array:
        return -0.5 * jnp.einsum("ia,ij,ja->", factor.whitener, total, factor.whitener)

    def unpack(self, sums: Array, total: Array, n_features: int) -> Array:
        return total


class Diagonal:
    """One variance a component and feature: (K, D)."""

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

    def outer(self, weight: Array, a: Array, b: Array) -> Float[Array, "K D"]:
        return weight[:, None] * a * b

    def share(self, scatter: Array, counts: Array) -> Array:
        return (counts / counts.sum())[:, None] * scatter.sum(0)

    def colour(self, scale: Array, labels: Array, noise: Array) -> Array:
        return scale[labels] * noise

    def whiten(self, z: Array, means: Array, factor: Factor) -> Float[Array, "K B D"]:
        return (z[None] - means[:, None]) * factor.whitener[:, None]

    def whitened_scatter(self, responsibilities: Array, y: Array) -> Array:
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

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components,)

    def factor(self, covariances: Array, n_features: int) -> Factor:
        scale = jnp.sqrt(covariances)[:, None]
        return Factor(scale, 1 / scale, n_features * jnp.log(scale[:, 0]))

    def outer(self, weight: Array, a: Array, b: Array) -> Float[Array, " K"]:
        return weight * (a * b).sum(-1)

    def share(self, scatter: Array, counts: Array) -> Array:
        return counts / counts.sum() * scatter.sum(0)

    def whitened_scatter(self, responsibilities: Array, y: Array) -> Array:
        return jnp.einsum("kb,kbd->k", responsibilities, y**2)

    def unwhiten(self, sums: Array, scatter: Array, factor: Factor) -> tuple[Array, Array]:
        return factor.scale * sums, factor.scale[:, 0] ** 2 * scatter

    def n_columns(self, n_features: int) -> int:
        return 1

    def columns(self, z: Array) -> Array:
        return (z**2).sum(1, keepdims=True)

    def unpack(self, sums: Array, total: Array, n_features: int) -> Array:
        return sums[:, 0]


Structure = Dense | Diagonal
