"""Factor analysers: Sigma_k = Lambda_k Lambda_k' + diag(psi_k), of rank q and noise, for features in the hundreds.

Nothing here is D x D but where a matrix is asked for. With V = psi^-1/2 Lambda (D, q) and V'V = Q diag(s^2) Q',

    (I + V V')^-1/2 = I - H H',    H = V Q diag(1 / sqrt(r (r + 1))),    r = sqrt(1 + s^2),

so a row is whitened by O(D q) operations: y = (I - H H') psi^-1/2 (x - mu). Sums over rows are of d = x - mu with its own
factors, z = E[z | d] = Lambda' Sigma^-1 d: sum r d z' and sum r d^2, of the mixture that made them (Ghahramani & Hinton 1996).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.covariance.base import Family, per_component, positive
from jaxgmm.covariance.diag import Diag
from jaxgmm.covariance.factor import Factor, mT
from jaxgmm.covariance.variances import Diagonal

_LOADINGS = 0.5  # share of the variances that loadings start with
_SEED = 0


def _split(packed: Float[Array, "K D q+1"]) -> tuple[Float[Array, "K D q"], Float[Array, "K D"]]:
    """Loadings and variances of the noise, from covariances; or what else is kept in their shape."""
    return packed[..., :-1], packed[..., -1]


def _pack(loadings: Array, noise: Array) -> Float[Array, "K D q+1"]:
    return jnp.concatenate([loadings, noise[..., None]], axis=-1)


class Factors(Diagonal):
    """Loadings and noise: (K, D, q + 1)."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def scatter_shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        return (n_components, n_features, self.rank + 1)

    def factor(self, covariances: Array, n_features: int) -> Factor:
        """`scale` has V and sqrt(psi), `whitener` has H and 1 / sqrt(psi)."""
        loadings, psi = _split(covariances)
        sd = jnp.sqrt(psi)
        v = loadings / sd[..., None]
        squares, q = jnp.linalg.eigh(mT(v) @ v)
        r = jnp.sqrt(1 + jnp.maximum(squares, 0))
        h = v @ q / jnp.sqrt(r * (r + 1))[..., None, :]
        return Factor(_pack(v, sd), _pack(h, 1 / sd), jnp.log(sd).sum(-1) + jnp.log(r).sum(-1))

    def pivots(self, factor: Factor) -> Float[Array, "K D"]:
        return factor.scale[..., -1] ** 2

    def variances(self, factor: Factor) -> Float[Array, "K D"]:
        v, sd = _split(factor.scale)
        return sd**2 * (1 + (v**2).sum(-1))

    def multiply(self, factor: Factor) -> Array:
        v, sd = _split(factor.scale)
        return _pack(sd[..., None] * v, sd**2)

    def matrices(self, factor: Factor, shape: tuple[int, ...]) -> Float[Array, "K D D"]:
        loadings, psi = _split(self.multiply(factor))
        return loadings @ mT(loadings) + psi[..., None] * jnp.eye(shape[-1], dtype=psi.dtype)

    def on_host(self, covariances: np.ndarray) -> Float[np.ndarray, "K D D"]:
        """The covariances as matrices, by NumPy."""
        loadings, psi = covariances[..., :-1], covariances[..., -1]
        return loadings @ loadings.swapaxes(-1, -2) + psi[..., None] * np.eye(psi.shape[-1])

    def outer(self, weight: Array, a: Array, b: Array, current: Array | None = None) -> Array:
        """Of weight_k (a_k b_k' + b_k a_k') / 2, what is kept of a scatter by the mixture with these covariances."""
        assert current is not None
        factor = self.factor(current, a.shape[-1])
        both = jnp.stack([a, b], axis=1)
        of_a, of_b = jnp.moveaxis(self._expected(both, factor), 1, 0)
        products = (a[..., None] * of_b[:, None] + b[..., None] * of_a[:, None]) / 2
        return weight[:, None, None] * _pack(products, a * b)

    def _expected(self, d: Float[Array, "K B D"], factor: Factor) -> Float[Array, "K B q"]:
        """Lambda' Sigma^-1 d = V' (I + V V')^-1/2 (I + V V')^-1/2 psi^-1/2 d."""
        (v, _), (h, precision) = _split(factor.scale), _split(factor.whitener)
        y = d * precision[:, None]
        for _ in range(2):
            y = y - (y @ h) @ mT(h)
        return y @ v

    def colour(self, scale: Array, labels: Array, noise: Array) -> Array:
        v, sd = _split(scale)
        squares, q = jnp.linalg.eigh(mT(v) @ v)
        g = v @ q / jnp.sqrt(jnp.sqrt(1 + jnp.maximum(squares, 0)) + 1)[..., None, :]  # (I + V V')^1/2 = I + G G'
        projected = jnp.einsum("nd,kdq->nkq", noise, g)[jnp.arange(labels.size), labels]
        away = jnp.zeros_like(noise)
        for k in range(v.shape[0]):
            away = jnp.where((labels == k)[:, None], projected @ g[k].T, away)
        return sd[labels] * (noise + away)

    def projections(self, factor: Factor) -> tuple[Array, Array, Array, Array]:
        """1 / psi (K, D); P (K, D, q), l (K, q) and R (K, q, q) with d' Sigma^-1 d = sum d^2 / psi - sum l (P'd)^2 and
        E[z | d]' = (P'd)' R.
        """
        (v, _), (h, precision) = _split(factor.scale), _split(factor.whitener)
        left = 1 - (h**2).sum(-2)  # 1 / r; H'H = I - diag(left), so (I - H H') H = H diag(left)
        # E[z | d] = V' (I - H H')^2 e, e = psi^-1/2 d. V lies in the span of H: V = H M, so that is M' diag(left^2) H'e.
        m = mT(h) @ v / positive(1 - left)[..., None]
        return precision**2, h * precision[..., None], 1 + left, left[..., None] ** 2 * m

    def spread(self, variance: Array, factor: Factor) -> Float[Array, " K"]:
        return (factor.whitener[..., -1] ** 2 * variance).sum(-1)

    def n_columns(self, n_features: int) -> int:
        return n_features

    def coefficients(self, means: Array, factor: Factor) -> tuple[Array, Array, Array]:
        """Of the moments engine, which isn't used, none; and the means' squared lengths in the components' own units."""
        y = self.whiten(jnp.zeros_like(means[:1]), -means, factor)[:, 0]
        return means[:, :0], means[:, :0], (y**2).sum(-1)

    def flaw(self, covariances: np.ndarray, n_features: int) -> str:
        least = covariances[..., -1].min()
        return "" if least > 0 else f"the least variance of the noise is {least:g}"

    def whiten(self, z: Array, means: Array, factor: Factor) -> Float[Array, "K B D"]:
        h, precision = _split(factor.whitener)
        y = (z[None] - means[:, None]) * precision[:, None]
        return y - (y @ h) @ mT(h)

    def whitened_scatter(self, responsibilities: Array, y: Array, factor: Factor) -> Array:
        (v, _), (h, _) = _split(factor.scale), _split(factor.whitener)
        z = (y - (y @ h) @ mT(h)) @ v
        d = self._unwhitened(y, factor)
        weighted = responsibilities[:, :, None] * d
        return _pack(mT(weighted) @ z, (weighted * d).sum(1))

    def _unwhitened(self, y: Float[Array, "K B D"], factor: Factor) -> Float[Array, "K B D"]:
        """(I - H H')^-1 = I + H diag(1 / (1 - c)) H', c = H'H's diagonal: its columns are orthogonal."""
        (_, sd), (h, _) = _split(factor.scale), _split(factor.whitener)
        left = 1 - (h**2).sum(-2)
        return sd[:, None] * (y + (y @ h) / left[:, None] @ mT(h))

    def unwhiten(self, sums: Array, scatter: Array, factor: Factor) -> tuple[Array, Array]:
        return self._unwhitened(sums[:, None], factor)[:, 0], scatter


class FactorAnalysers(Family):
    """Lambda_k (D, q) and psi_k (D,) free, Lambda_k up to a rotation. Prior: psi_kd ~ InverseGamma(nu0 / 2, Psi0_d / 2).

    Gradients want the singular values of psi^-1/2 Lambda to differ, as those of eigenvectors do.
    """

    general = "full"
    coarse = "diag"
    closed = False

    def __init__(self, rank: int) -> None:
        self.rank, self.structure = rank, Factors(rank)
        self.name = self.mclust = f"factors:{rank}"
        self._psi = Diag()

    def shape(self, n_components, n_features):
        return (n_components, n_features, self.rank + 1)

    def scale_shape(self, n_features):
        return (n_features,)

    def n_covariance_parameters(self, n_components, n_features):
        own = n_features * (self.rank + 1) - self.rank * (self.rank - 1) // 2
        return n_components * min(own, n_features * (n_features + 1) // 2)  # past Ledermann's bound no richer than "full"

    def dense(self, covariances, n_components, n_features):
        return self.structure.matrices(self.factor(covariances, n_features), (n_components, n_features))

    def from_dense(self, dense):
        """The principal axes of rank q, and the variances that they leave."""
        values, vectors = jnp.linalg.eigh(dense)
        rest = values[..., : -self.rank].mean(-1)
        size = jnp.sqrt(jnp.maximum(values[..., -self.rank :] - rest[..., None], 0))
        loadings = vectors[..., -self.rank :] * size[..., None, :]
        return _pack(loadings, jnp.diagonal(dense, axis1=-2, axis2=-1) - (loadings**2).sum(-1))

    def refined(self, covariances):
        """Loadings in random directions: the first steps turn them to where the rows vary most."""
        n_features = covariances.shape[-1]
        directions = np.random.default_rng(_SEED).normal(size=(n_features, self.rank)) / np.sqrt(self.rank)
        loadings = jnp.sqrt(_LOADINGS * covariances)[..., None] * jnp.asarray(directions, covariances.dtype)
        return _pack(loadings, (1 - _LOADINGS) * covariances)

    def nearest(self, covariances, weights, n_features):
        return covariances

    def prior_scale(self, covariance, n_components):
        return self._psi.prior_scale(np.diagonal(covariance) if covariance.ndim == 2 else covariance, n_components)

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return self._psi.scale_power(degrees_of_freedom, n_features, n_active)

    def refit(self, scatter, counts, current, n_features, active, prior):
        """A step of EM of each factor analyser; the prior of its mean counts as a row."""
        (v, sd), rows = _split(self.factor(current, n_features).scale), counts if prior is None else counts + 1
        products, squares = _split(scatter)
        beta = jnp.linalg.solve(jnp.eye(self.rank, dtype=v.dtype) + mT(v) @ v, mT(v)) / sd[:, None]  # (K, q, D)
        loadings = sd[..., None] * v
        spread = jnp.eye(self.rank, dtype=v.dtype) - beta @ loadings
        second = per_component(positive(rows), spread) * (spread + mT(spread)) / 2 + beta @ products
        loadings = mT(jnp.linalg.solve((second + mT(second)) / 2, mT(products)))
        left = squares - (loadings * products).sum(-1)
        if prior is None:
            psi = left / per_component(positive(rows), left)
        else:
            psi = (prior.scale + left) / per_component(prior.degrees_of_freedom + rows + 2, left)
        known = active & (counts > 0) if prior is None else active
        return jnp.where(per_component(known, current), _pack(loadings, psi), current)

    def log_prior(self, factor, n_features, active, prior):
        sd = factor.scale[..., -1]
        of_noise = Factor(sd, 1 / sd, jnp.log(sd).sum(-1))
        return self._psi.log_prior(of_noise, n_features, active, prior)

    def log_normaliser(self, degrees_of_freedom: Any, scale: Any, n_features: int, n_active: Any, xp: Any, gammaln: Any) -> Any:
        return self._psi.log_normaliser(degrees_of_freedom, scale, n_features, n_active, xp, gammaln)
