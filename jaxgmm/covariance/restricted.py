"""Covariances that share a volume, a shape or axes: the eight further families of mclust (Celeux & Govaert 1995).

Sigma_k = lambda_k D_k A_k D_k', |A_k| = 1: volume, shape, axes, each equal for all components (E) or variable (V); axes may
also be those of the features (I). With T_k the scatters and m_k the rows of the components, an M-step minimises

    sum_k m_k log|Sigma_k| + tr(T_k Sigma_k^-1)

over the family. Six families have it in closed form or in one inner loop of two closed steps (section 4 there). Axes that
components share are turned two at a time, each time by the best angle: for given variances the trace is a cosine of twice the
angle. (Flury & Gautschi 1986 turn them so, and solve for the angle; Browne & McNicholas 2014 have a majorisation.) They begin
as they were, or as those of all scatter together where these are better: where two features are alike, no turn shows a way.
Inner loops go on from the covariances before and never raise the sum, so EM climbs however short they are.

Prior: the density of InverseWishart(nu0, Psi0) at every Sigma_k (for the features' axes InverseGamma(nu0 / 2, Psi0_d / 2) at
every variance), restricted to the family. It is Psi0 more scatter and nu0 + D + 2 more rows for each component. What it
integrates to over the family isn't known, so log densities are up to a constant, and there is no posterior to draw from.
"""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxgmm.covariance.base import Family, per_component, positive
from jaxgmm.covariance.diag import Diag
from jaxgmm.covariance.factor import invert_tril, mT
from jaxgmm.covariance.full import Full

_ROUNDS = 5  # of volumes and shape
_SWEEPS = 3  # over all pairs of axes


class Restricted(Family):
    """What these families have in common."""

    closed = False

    @abc.abstractmethod
    def best(self, scatter: Array, rows: Float[Array, " K"], current: Array) -> Array:
        """The covariances that minimise the sum, or that come closer to it than `current`; of rows 0, any."""

    def refit(self, scatter, counts, current, n_features, active, prior):
        if prior is not None:
            scatter = scatter + prior.scale
            counts = counts + prior.degrees_of_freedom + self.structure.block_size(n_features) + 2
        present = active & (counts > 0)
        rows, known = jnp.where(present, counts, 0), per_component(present, scatter)
        best = self.best(jnp.where(known, scatter, current), rows, current)
        # No rows of a component may vary at all: then there is no best, and what is left is singular, not NaN.
        best = jnp.where(jnp.isfinite(best), best, scatter / per_component(positive(rows), scatter))
        return jnp.where(known, best, current)

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        """The kernels' power, less what the covariances' own measure has."""
        powers = n_active * n_features * (degrees_of_freedom + self.structure.block_size(n_features) + 1) / 2
        return powers - self.n_covariance_parameters(n_active, n_features)

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return 0.0 * n_active


class VEI(Restricted, Diag):
    """Volumes of their own, one shape."""

    name = mclust = "VEI"
    closed = True

    def n_covariance_parameters(self, n_components, n_features):
        return n_components + n_features - 1

    def best(self, scatter, rows, current):
        volumes, shape = _volumes_and_shape(scatter, rows, _geometric_mean(current))
        return volumes[:, None] * shape


class EVI(Restricted, Diag):
    """One volume, shapes of their own."""

    name = mclust = "EVI"

    def n_covariance_parameters(self, n_components, n_features):
        return 1 + n_components * (n_features - 1)

    def best(self, scatter, rows, current):
        return _of_one_volume(scatter, rows)


class EVV(Restricted, Full):
    """One volume, shapes and axes of their own."""

    name = mclust = "EVV"

    def n_covariance_parameters(self, n_components, n_features):
        return 1 + n_components * (n_features * (n_features + 1) // 2 - 1)

    def best(self, scatter, rows, current):
        own = _volume(scatter)
        return (_total(own, rows) / rows.sum() / own)[:, None, None] * scatter


class VEE(Restricted, Full):
    """Volumes of their own, one shape and axes."""

    name = mclust = "VEE"
    closed = True

    def n_covariance_parameters(self, n_components, n_features):
        return n_components - 1 + n_features * (n_features + 1) // 2

    def best(self, scatter, rows, current):
        def unit(volumes: Array) -> Array:
            total = _total(scatter / positive(volumes)[:, None, None], rows)
            return total / _volume(total)

        def again(_: Array, volumes: Array) -> Array:
            whitener = invert_tril(jnp.linalg.cholesky(unit(volumes)))
            trace = jnp.einsum("ai,kij,aj->k", whitener, scatter, whitener)
            return trace / (positive(rows) * scatter.shape[-1])

        volumes = lax.fori_loop(0, _ROUNDS, again, _volume(current))
        return volumes[:, None, None] * unit(volumes)


class EEV(Restricted, Full):
    """One volume and shape, axes of their own."""

    name = mclust = "EEV"

    def n_covariance_parameters(self, n_components, n_features):
        return n_features + n_components * (n_features * (n_features - 1) // 2)

    def best(self, scatter, rows, current):
        values, axes = jnp.linalg.eigh(scatter)
        return _along(axes, _total(values, rows) / rows.sum())


class VEV(Restricted, Full):
    """One shape, volumes and axes of their own."""

    name = mclust = "VEV"

    def n_covariance_parameters(self, n_components, n_features):
        return n_components + n_features - 1 + n_components * (n_features * (n_features - 1) // 2)

    def best(self, scatter, rows, current):
        values, axes = jnp.linalg.eigh(scatter)  # in ascending order, as the shape is
        volumes, shape = _volumes_and_shape(values, rows, _volume(current))
        return _along(axes, volumes[:, None] * shape)


class VVE(Restricted, Full):
    """Volumes and shapes of their own, one set of axes."""

    name = mclust = "VVE"

    def n_covariance_parameters(self, n_components, n_features):
        return n_components * n_features + n_features * (n_features - 1) // 2

    def variances(self, spread: Float[Array, "K D"], rows: Float[Array, " K"]) -> Float[Array, "K D"]:
        """Along the axes, of the scatter's spread along them."""
        return spread / positive(rows)[:, None]

    def loss(self, spread: Float[Array, "K D"], rows: Float[Array, " K"]) -> Float[Array, ""]:
        """What an M-step minimises, given the axes."""
        variances = self.variances(spread, rows)
        return _total(rows[:, None] * jnp.log(variances) + spread / variances, rows).sum()

    def best(self, scatter, rows, current):
        candidates = jnp.stack([_axes_of(current, rows), jnp.linalg.eigh(_total(scatter, rows))[1]])[:, None]
        turned = mT(candidates) @ scatter @ candidates
        losses = jax.vmap(self.loss, (0, None))(jnp.diagonal(turned, axis1=-2, axis2=-1), rows)
        axes, turned = jax.tree.map(lambda both: jnp.where(losses[1] < losses[0], both[1], both[0]), (candidates[:, 0], turned))

        def sweep(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            axes, turned = carry
            variances = self.variances(jnp.diagonal(turned, axis1=1, axis2=2), rows)
            return _turn(axes, turned, jnp.where(rows[:, None] > 0, 1 / variances, 0))

        axes, turned = lax.fori_loop(0, _SWEEPS, sweep, (axes, turned))
        return _along(axes, self.variances(jnp.diagonal(turned, axis1=1, axis2=2), rows))


class EVE(VVE):
    """One volume and set of axes, shapes of their own."""

    name = mclust = "EVE"

    def n_covariance_parameters(self, n_components, n_features):
        return 1 + n_components * (n_features - 1) + n_features * (n_features - 1) // 2

    def variances(self, spread, rows):
        return _of_one_volume(spread, rows)


def _total(values: Float[Array, "K ..."], rows: Float[Array, " K"]) -> Array:
    """The sum over components that have rows."""
    return jnp.where(per_component(rows > 0, values), values, 0).sum(0)


def _geometric_mean(values: Float[Array, "... D"]) -> Float[Array, "..."]:
    return jnp.exp(jnp.log(values).mean(-1))


def _volume(matrices: Float[Array, "... D D"]) -> Float[Array, "..."]:
    """|Sigma|^(1 / D)."""
    return _geometric_mean(jnp.diagonal(jnp.linalg.cholesky(matrices), axis1=-2, axis2=-1)) ** 2


def _along(axes: Float[Array, "... D D"], variances: Float[Array, "... D"]) -> Float[Array, "... D D"]:
    """The covariances with these variances along these axes, symmetric to the last bit."""
    product = (axes * variances[..., None, :]) @ mT(axes)
    return (product + mT(product)) / 2


def _of_one_volume(spread: Float[Array, "K D"], rows: Float[Array, " K"]) -> Float[Array, "K D"]:
    """Variances of shapes of their own, and of one volume."""
    own = _geometric_mean(spread)
    return (_total(own, rows) / rows.sum() / own)[:, None] * spread


def _volumes_and_shape(
    spread: Float[Array, "K D"], rows: Float[Array, " K"], volumes: Float[Array, " K"]
) -> tuple[Float[Array, " K"], Float[Array, " D"]]:
    """Volumes of their own and one shape, each the best for the other in turns."""

    def shape(volumes: Array) -> Float[Array, " D"]:
        total = _total(spread / positive(volumes)[:, None], rows)
        return total / _geometric_mean(total)

    def again(_: Array, volumes: Array) -> Float[Array, " K"]:
        return (spread / shape(volumes)).mean(-1) / positive(rows)

    volumes = lax.fori_loop(0, _ROUNDS, again, volumes)
    return volumes, shape(volumes)


def _axes_of(covariances: Float[Array, "K D D"], rows: Float[Array, " K"]) -> Float[Array, "D D"]:
    """The axes that they share: those of a sum of them whose weights no data have, so that variances don't add up to alike."""
    weights = 1 + np.modf(np.arange(1, len(covariances) + 1) * np.sqrt(2))[0]
    sizes = jnp.trace(covariances, axis1=1, axis2=2)
    return jnp.linalg.eigh(_total(covariances * (weights / sizes)[:, None, None], rows))[1]


def _turn(
    axes: Float[Array, "D D"], scatter: Float[Array, "K D D"], precisions: Float[Array, "K D"]
) -> tuple[Float[Array, "D D"], Float[Array, "K D D"]]:
    """Each pair of axes turned by the angle that is best for the precisions along them; and the scatter along the new ones."""
    first, second = (jnp.asarray(index) for index in np.triu_indices(axes.shape[0], 1))

    def pair(p: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        axes, scatter = carry
        i, j = first[p], second[p]
        differs = precisions[:, i] - precisions[:, j]
        even = (differs * (scatter[:, i, i] - scatter[:, j, j])).sum() / 2
        odd = (differs * scatter[:, i, j]).sum()
        # The trace is even cos(2 angle) + odd sin(2 angle) + what doesn't depend on it.
        angle = jnp.where((even != 0) | (odd != 0), jnp.arctan2(-odd, -even) / 2, 0)
        c, s = jnp.cos(angle), jnp.sin(angle)

        def rotated(a: Array) -> Array:  # its last axis
            one, other = a[..., i], a[..., j]
            return a.at[..., i].set(c * one + s * other).at[..., j].set(c * other - s * one)

        return rotated(axes), mT(rotated(mT(rotated(scatter))))

    return lax.fori_loop(0, len(first), pair, (axes, scatter)) if len(first) else (axes, scatter)
