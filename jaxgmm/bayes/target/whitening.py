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
from jaxtyping import Array, Float

from jaxgmm.bayes.target.coordinates import Layout, vector_of
from jaxgmm.bayes.target.noise import NOISE
from jaxgmm.covariance import get_family
from jaxgmm.covariance.base import column
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior


class Frame(NamedTuple):
    """An affine map from whitened coordinates to the unconstrained vector.

    Attributes:
        origin: (length,), the unconstrained vector of the mixture in the middle.
        scale: that mixture's covariance factors: they whiten means and factors.
        unit: (length,), standard deviations given the allocations, once whitened.
    """

    origin: Float[Array, " length"]
    scale: Array
    unit: Float[Array, " length"]


def frame_at(gmm: GMM, extra: dict[str, Array], prior: Any, total_weight: Any, layout: Layout) -> Frame:
    """The frame around a mixture, for traced arrays.

    Args:
        gmm: one mixture, every weight positive.
        extra: the prior's own further parameters and the share of noise, by name.
        prior: a `Prior` or a `RichardsonGreen`.
        total_weight: of the rows.
        layout: of the vector.
    """
    family, d = get_family(gmm.family), gmm.n_features
    in_mixture = total_weight * (1 - extra[NOISE]) if NOISE in extra else total_weight
    counts = in_mixture * jnp.asarray(gmm.weights)
    weights = jnp.asarray(gmm.weights)[layout.order] if layout.held.weights else jnp.asarray(gmm.weights)
    if isinstance(prior, Prior):
        mean_rows, scale_rows = prior.mean_precision, column(prior.degrees_of_freedom)
    else:
        mean_rows, scale_rows = jnp.asarray(gmm.covariances).reshape(-1) / prior.mean_variance, 2 * prior.shape
    rows = (counts if family.per_component else counts.sum(keepdims=True))[:, None]
    left = jnp.cumsum(weights[::-1])[::-1]  # of the stick, before each break
    information = {
        "covariances": family.structure.information(rows, scale_rows, d),
        "means": jnp.repeat((counts + mean_rows)[:, None], d, 1),
        "weights": in_mixture * weights[:-1] * left[1:] / left[:-1] + 1,
    }
    if NOISE in extra:
        information[NOISE] = in_mixture * extra[NOISE] + 1
    if "rate" in layout.extra:
        information["rate"] = prior.rate_shape + gmm.n_components * prior.shape
    unit = jnp.concatenate([jnp.reshape(information[name], -1) ** -0.5 for name in sorted(information)])
    factor = family.factor(jnp.asarray(gmm.covariances), d)
    return Frame(vector_of(gmm, extra, layout.order), factor.scale, unit)


def spread(frame: Frame, whitened: Float[Array, " size"], layout: Layout) -> Float[Array, " length"]:
    """How far from the origin whitened coordinates lead: linear. The unconstrained vector is the origin plus this."""
    k, d, structure = layout.n_components, layout.n_features, get_family(layout.family).structure
    if layout.held:
        whitened = jnp.zeros_like(frame.unit).at[layout.free].set(whitened)
    v = frame.unit * whitened
    n = layout.covariance_size
    shape, means, rest = v[:n], v[n : n + k * d].reshape(k, d), v[n + k * d :]
    means = structure.apply(frame.scale, means)
    return jnp.concatenate([structure.relative(frame.scale, shape), means.reshape(-1), rest])


def log_volume(frame: Frame, layout: Layout) -> Float[Array, ""]:
    """Log determinant of `spread`, of what moves."""
    free = {name: ~layout.held.mask(name, layout.n_components) for name in ("means", "covariances")}
    of_factors, of_means = get_family(layout.family).structure.log_volumes(frame.scale, layout.n_features)
    moving = free["covariances"] if of_factors.ndim else free["covariances"][0]  # a shared factor whitens every mean
    unit = frame.unit[layout.free] if layout.held else frame.unit
    return jnp.log(unit).sum() + (moving * of_factors).sum() + (free["means"] * of_means).sum()


def shifted(prior: Any, shift: Float[Array, " D"]) -> Any:
    """The prior of rows from which `shift` has been taken."""
    return dataclasses.replace(prior, mean=prior.mean - jnp.reshape(shift, jnp.shape(prior.mean)[-1:]))
