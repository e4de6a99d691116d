"""Structures of matrices: each component its own, or one for all."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Int

from jaxgmm.covariance.factor import Factor, invert_tril, mT

_GATHERED = 16  # features whose products are gathered: that compiles in no time, but of more features takes longer to run
_NUMBERS_AT_ONCE = 1 << 20  # entries of covariance factors gathered together when rows are drawn


class Dense:
    """One (D, D) scatter a component: (K, D, D)."""

    dense: ClassVar[bool] = True  # keeps matrices, so needs the whole covariance of the data
    isotropic: ClassVar[bool] = False  # one variance for all features
    rank: int = (
        0  # factors; where there are any, scatters are of rows and their factors by the mixture that made them, `current`
    )
    pooled: ClassVar[bool] = False  # one covariance for all components: what rows add to it doesn't depend on whose they are

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, n_features)

    def factor(self, covariances: Array, n_features: int) -> Factor:
        scale = jnp.linalg.cholesky(covariances)
        return Factor(scale, mT(invert_tril(scale)), jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1)).sum(-1))

    def pivots(self, factor: Factor) -> Float[Array, "K D"]:
        """Variance of each feature given those before it: zero where a covariance is singular."""
        return jnp.diagonal(factor.scale, axis1=-2, axis2=-1) ** 2

    def spread(self, variance: Float[Array, " D"], factor: Factor) -> Float[Array, " K"]:
        """tr(Sigma_k^-1 diag(variance)): the mean squared length of rows with these variances, in a component's own units."""
        return (factor.whitener**2 * variance[:, None]).sum((-2, -1))

    def variances(self, factor: Factor) -> Float[Array, "K D"]:
        """The diagonals of the covariances, (1, D) where components share one."""
        return (factor.scale**2).sum(-1)

    def stretch(self, before: Factor, after: Factor) -> Float[Array, " K"]:
        """No less than |W'L|, W of one and L of the other: how much longer a vector can be in the units of `before`.

        W'L L'W is I + E, and the norm of E at most the eighth root of the trace of E^8.
        """
        across = mT(before.whitener) @ after.scale
        excess = across @ mT(across) - jnp.eye(across.shape[-1], dtype=across.dtype)
        square = excess @ excess
        fourth = square @ square
        return jnp.sqrt(1 + (fourth**2).sum((-2, -1)) ** 0.125)

    def on_host(self, covariances: np.ndarray) -> np.ndarray:
        """The covariances as they are told to people, by NumPy: as matrices, where they are kept in another shape."""
        return covariances

    def outer(self, weight: Array, a: Float[Array, "K D"], b: Float[Array, "K D"], current: Array | None = None) -> Array:
        """weight_k (a_k b_k' + b_k a_k') / 2."""
        product = a[:, :, None] * b[:, None, :]
        return weight[:, None, None] * (product + mT(product)) / 2

    def share(self, scatter: Array, counts: Array) -> Array:
        """The scatter of all components together, dealt out in proportion to their counts."""
        return (counts / counts.sum())[:, None, None] * scatter.sum(0)

    def colour(self, scale: Array, labels: Int[Array, " N"], noise: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """L_k applied to the noise of each row, k its label; factors are gathered for a block of rows at a time."""
        n_samples, n_features = noise.shape
        at_once = min(n_samples, max(1, _NUMBERS_AT_ONCE // n_features**2))
        return jax.lax.map(lambda row: scale[row[0]] @ row[1], (labels, noise), batch_size=at_once)

    def apply(self, scale: Array, noise: Float[Array, "K D"]) -> Float[Array, "K D"]:
        """L_k applied to the noise of each component."""
        return (scale @ noise[..., None])[..., 0]

    def multiply(self, factor: Factor) -> Array:
        """The covariances of a factor, symmetric to the last bit."""
        product = factor.scale @ mT(factor.scale)
        return (product + mT(product)) / 2

    def matrices(self, factor: Factor, shape: tuple[int, ...]) -> Float[Array, "K D D"]:
        """The covariances of K components in D dimensions, `shape`, as matrices."""
        return jnp.broadcast_to(self.multiply(factor), (*shape, shape[-1]))

    def gather(self, scatter: Float[Array, "K D D"]) -> Array:
        """What is kept of the scatter of each component."""
        return scatter

    def flaw(self, covariances: np.ndarray, n_features: int) -> str:
        """Which of the covariances isn't a covariance, in words; empty if all are."""
        for index, matrix in enumerate(covariances.reshape(-1, n_features, n_features)):
            asymmetry = abs(matrix - matrix.T).max()
            if asymmetry > 1e-5 * abs(matrix).max():
                return f"matrix {index} is asymmetric by {asymmetry:g}"
            variances = np.diagonal(matrix)
            if not variances.min() > 0:
                return f"matrix {index} has the variance {variances.min():g}"
            sd = np.sqrt(variances)
            least = np.linalg.eigvalsh(matrix / sd / sd[:, None]).min()  # units of the features cost no digits
            if least <= 0:
                return f"the correlations of matrix {index} have the eigenvalue {least:g}"
        return ""

    # Blocks of the prior: inverse-Wishart of size p. InverseGamma(nu / 2, psi / 2) is InverseWishart(nu, psi) of size 1.

    def block_size(self, n_features: int) -> int:
        """p, the size of a block."""
        return n_features

    def n_blocks(self, n_features: int) -> int:
        """Blocks of a component."""
        return 1

    def rows_of(self, counts: Array, n_features: int) -> Array:
        """How many degrees of freedom rows add to a block's."""
        return counts

    def half_log_det(self, scale: Array) -> Array:
        """Half the log determinants of scales, all blocks of a component together."""
        return jnp.log(jnp.diagonal(jnp.linalg.cholesky(scale), axis1=-2, axis2=-1)).sum(-1)

    def block_log_dets(self, factor: Factor) -> Float[Array, "*K 1"]:
        """Log determinant of each block of the covariances."""
        return 2 * factor.half_log_det[..., None]

    def scale_log_dets(self, scale: Array) -> Float[Array, "*K 1"]:
        """Log determinant of each block of scales, Psi."""
        return jnp.linalg.slogdet(scale)[1][..., None]

    def block_traces(self, factor: Factor, scale: Array) -> Float[Array, "*K 1"]:
        """tr(Psi Sigma^-1) of each block."""
        return jnp.einsum("...ia,...ij,...ja->...", factor.whitener, scale, factor.whitener)[..., None]

    def draw(self, scale: Array, gammas: Float[Array, "*K 1 D"], n_features: int, noise: Array) -> Factor:
        """InverseWishart(nu, Psi) by Bartlett's decomposition of its inverse (Odell & Feiveson 1966), already factored.

        With Psi = L L', and A lower triangular with sqrt(chi2 of nu - i) on its diagonal and standard normals below,
        Sigma^-1 = W W', W = L'^-1 A, is Wishart(nu, Psi^-1). The factors aren't triangular, and needn't be.

        Args:
            scale: Psi.
            gammas: variates of shape (nu - i) / 2, i < p, for each block.
            n_features: D.
            noise: standard normal variates, in the shape of `scale`.
        """
        root = jnp.sqrt(2 * gammas[..., 0, :])
        bartlett = jnp.tril(noise, -1) + root[..., None] * jnp.eye(scale.shape[-1], dtype=scale.dtype)
        cholesky = jnp.linalg.cholesky(scale)
        half_log_det = (jnp.log(jnp.diagonal(cholesky, axis1=-2, axis2=-1)) - jnp.log(root)).sum(-1)
        whitener = solve_triangular(mT(cholesky), bartlett, lower=False)
        return Factor(cholesky @ mT(invert_tril(bartlett)), whitener, half_log_det)

    # Coordinates: covariances as real numbers, a Cholesky factor's entries below the diagonal and the diagonal's logarithms.

    def to_reals(self, covariances: Array) -> Array:
        """Covariances as real numbers, a leading axis of components if they have one."""
        scale = jnp.linalg.cholesky(covariances)
        i, j = np.tril_indices(scale.shape[-1], -1)
        return jnp.concatenate([scale[..., i, j], jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1))], axis=-1)

    def from_reals(self, reals: Array, shape: tuple[int, ...], n_features: int) -> tuple[Array, Factor, Array]:
        """Covariances of this shape, their factor, and the log Jacobian of the map, ()."""
        d = n_features
        reals = reals.reshape(*shape[:-2], -1)
        log_diagonal = reals[..., -d:]
        i, j = np.tril_indices(d, -1)
        scale = jnp.exp(log_diagonal)[..., None] * jnp.eye(d, dtype=reals.dtype)
        scale = scale.at[..., i, j].set(reals[..., :-d])
        factor = Factor(scale, mT(invert_tril(scale)), log_diagonal.sum(-1))
        # d(L L') / dL, and d exp
        log_jacobian = (d * np.log(2) + (np.arange(d + 1, 1, -1) * log_diagonal).sum(-1)).sum()
        return scale @ mT(scale), factor, log_jacobian

    def information(self, rows: Float[Array, "K 1"], prior_rows: Array, n_features: int) -> Array:
        """Fisher information of the reals, relative to the covariances themselves, in rows and the prior's own."""
        both, d = rows + prior_rows, n_features  # of log diagonals twice that of the entries below
        return jnp.concatenate([jnp.repeat(both, d * (d - 1) // 2, 1), jnp.repeat(2 * both, d, 1)], 1)

    def relative(self, scale: Array, reals: Array) -> Array:
        """Reals from those relative to a factor: the factor becomes L (I + A), A triangular. Linear."""
        d = scale.shape[-1]
        reals = reals.reshape(*scale.shape[:-2], -1)
        i, j = np.tril_indices(d, -1)
        a = (reals[..., -d:, None] * jnp.eye(d, dtype=reals.dtype)).at[..., i, j].set(reals[..., :-d])
        return jnp.concatenate([(scale @ a)[..., i, j], reals[..., -d:]], -1).reshape(-1)

    def log_volumes(self, scale: Array, n_features: int) -> tuple[Float[Array, "*K"], Float[Array, "*K"]]:
        """Log determinants of `relative` and of `apply`, of each factor."""
        diagonal = jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1))
        return (diagonal * np.arange(n_features)).sum(-1), diagonal.sum(-1)

    # whitened engine

    def whiten(self, z: Float[Array, "B D"], means: Float[Array, "K D"], factor: Factor) -> Float[Array, "K B D"]:
        shift = jnp.einsum("kd,kde->ke", means, factor.whitener)
        return jnp.einsum("bd,kde->kbe", z, factor.whitener) - shift[:, None, :]

    def whitened_scatter(self, responsibilities: Float[Array, "K B"], y: Float[Array, "K B D"], factor: Factor) -> Array:
        return jnp.einsum("kbi,kbj->kij", responsibilities[:, :, None] * y, y)

    def unwhiten(self, sums: Float[Array, "K D"], scatter: Array, factor: Factor) -> tuple[Array, Array]:
        scale = factor.scale
        return jnp.einsum("kij,kj->ki", scale, sums), scale @ scatter @ mT(scale)

    # moments engine

    def n_columns(self, n_features: int) -> int:
        """How many `columns` there are."""
        return n_features * (n_features + 1) // 2

    def columns(self, z: Float[Array, "B D"]) -> Float[Array, "B Q"]:
        n_features = z.shape[1]
        if n_features > _GATHERED:
            return jnp.concatenate([z[:, i : i + 1] * z[:, i:] for i in range(n_features)], axis=1)
        i, j = np.triu_indices(n_features)
        return z[:, i] * z[:, j]

    def total(self, z: Array, weight: Array) -> Array:
        """What the moments engine needs of the rows whatever the responsibilities."""
        return jnp.zeros((), z.dtype)

    def coefficients(self, means: Float[Array, "K D"], factor: Factor) -> tuple[Array, Array, Array]:
        """Linear (K, D) and quadratic (K, Q) coefficients of log N, and the Mahalanobis norm m' Sigma^-1 m (K,)."""
        w = factor.whitener
        m = jnp.einsum("kd,kde->ke", means, w)
        i, j = np.triu_indices(means.shape[-1])
        precision = (w @ mT(w))[:, i, j]
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

    pooled = True

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_features, n_features)

    def variances(self, factor: Factor) -> Float[Array, "1 D"]:
        return (factor.scale**2).sum(-1)[None]

    def outer(self, weight: Array, a: Array, b: Array, current: Array | None = None) -> Float[Array, "D D"]:
        product = (weight * a.T) @ b
        return (product + product.T) / 2

    def share(self, scatter: Array, counts: Array) -> Array:
        return scatter

    def gather(self, scatter: Float[Array, "K D D"]) -> Array:
        return scatter.sum(0)

    def colour(self, scale: Array, labels: Array, noise: Array) -> Array:
        return noise @ scale.T

    def whiten(self, z: Array, means: Array, factor: Factor) -> Array:
        return (z @ factor.whitener)[None] - (means @ factor.whitener)[:, None, :]

    def whitened_scatter(self, responsibilities: Array, y: Array, factor: Factor) -> Array:
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
