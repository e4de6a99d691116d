"""Coordinates around a mixture in which its posterior is close to a unit normal, whatever the units, N and the overlap.

Each coordinate is divided by the standard deviation it would have if the allocations were known (the complete-data Fisher
information, with the prior's own rows), and a component's mean and Cholesky factor are whitened by its own covariance. What
the unknown allocations hide only widens a posterior, so its curvature in these coordinates lies between 0 and about 1: one
minus EM's rate of convergence (Dempster, Laird & Rubin 1977, section 3). A gradient step of length one is an EM step, to
first order. So optimisers and guides need no tuning to the data.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.bayes.target.coordinates import Layout, unconstrain
from jaxgmm.covariance import get_family
from jaxgmm.covariance.structure import Dense, Isotropic
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior


class Frame(NamedTuple):
    """An affine map from whitened coordinates to the unconstrained vector.

    Attributes:
        origin: (size,), the unconstrained vector of the mixture in the middle.
        scale: that mixture's covariance factors: they whiten means and factors.
        unit: (size,), standard deviations given the allocations, once whitened.
    """

    origin: Float[Array, " size"]
    scale: Array
    unit: Float[Array, " size"]


def frame_at(gmm: GMM, extra: dict[str, Array], prior: Any, total_weight: Any, layout: Layout) -> Frame:
    """The frame around a mixture, for traced arrays.

    Args:
        gmm: one mixture, every weight positive.
        extra: the prior's own further parameters, by name.
        prior: a `Prior` or a `RichardsonGreen`.
        total_weight: of the rows.
        layout: of the vector.
    """
    family, d = get_family(gmm.family), gmm.n_features
    weights = jnp.asarray(gmm.weights)
    counts = total_weight * weights
    if isinstance(prior, Prior):
        mean_rows, scale_rows = prior.mean_precision, prior.degrees_of_freedom
    else:
        mean_rows, scale_rows = jnp.asarray(gmm.covariances).reshape(-1) / prior.mean_variance, 2 * prior.shape
    rows = (counts if family.per_component else counts.sum(keepdims=True))[:, None]
    if isinstance(family.structure, Dense):  # of log diagonals twice that of the entries below
        shape = jnp.concatenate(
            [jnp.repeat(rows + scale_rows, d * (d - 1) // 2, 1), jnp.repeat(2 * (rows + scale_rows), d, 1)], 1
        )
    elif isinstance(family.structure, Isotropic):
        shape = (d * rows + scale_rows) / 2
    else:
        shape = jnp.repeat((rows + scale_rows) / 2, d, 1)
    left = jnp.cumsum(weights[::-1])[::-1]  # of the stick, before each break
    information = {
        "covariances": shape,
        "means": jnp.repeat((counts + mean_rows)[:, None], d, 1),
        "weights": total_weight * weights[:-1] * left[1:] / left[:-1] + 1,
    }
    if layout.extra:
        information["rate"] = prior.rate_shape + gmm.n_components * prior.shape
    unit = jnp.concatenate([jnp.reshape(information[name], -1) ** -0.5 for name in sorted(information)])
    factor = family.factor(jnp.asarray(gmm.covariances), d)
    return Frame(unconstrain(gmm, extra), factor.scale, unit)


def spread(frame: Frame, whitened: Float[Array, " size"], layout: Layout) -> Float[Array, " size"]:
    """How far from the origin whitened coordinates lead: linear. The unconstrained vector is the origin plus this."""
    k, d, family = layout.n_components, layout.n_features, get_family(layout.family)
    v = frame.unit * whitened
    n = layout.covariance_size
    shape, means, rest = v[:n], v[n : n + k * d].reshape(k, d), v[n + k * d :]
    if not isinstance(family.structure, Dense):
        return jnp.concatenate([shape, (frame.scale * means).reshape(-1), rest])
    shape = shape.reshape(*family.shape(k, d)[:-2], -1)
    i, j = np.tril_indices(d, -1)
    relative = (shape[..., -d:, None] * jnp.eye(d, dtype=v.dtype)).at[..., i, j].set(shape[..., :-d])
    below = (frame.scale @ relative)[..., i, j]  # the factor becomes L (I + A): A is relative, and triangular
    means = (frame.scale @ means[..., None])[..., 0]
    return jnp.concatenate([jnp.concatenate([below, shape[..., -d:]], -1).reshape(-1), means.reshape(-1), rest])


def log_volume(frame: Frame, layout: Layout) -> Float[Array, ""]:
    """Log determinant of `spread`."""
    k, d, structure = layout.n_components, layout.n_features, get_family(layout.family).structure
    total = jnp.log(frame.unit).sum()
    if not isinstance(structure, Dense):
        return total + (d if isinstance(structure, Isotropic) else 1) * jnp.log(frame.scale).sum()
    diagonal = jnp.log(jnp.diagonal(frame.scale, axis1=-2, axis2=-1))
    copies = 1 if diagonal.ndim == 2 else k  # a shared factor whitens every mean
    return total + copies * diagonal.sum() + (np.arange(d) * diagonal).sum()


def shifted(prior: Any, shift: Float[Array, " D"]) -> Any:
    """The prior of rows from which `shift` has been taken."""
    return dataclasses.replace(prior, mean=prior.mean - jnp.reshape(shift, jnp.shape(prior.mean)))
