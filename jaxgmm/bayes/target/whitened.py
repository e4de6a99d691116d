"""The posterior in whitened coordinates: its density, and a NumPyro model of it.

An affine map makes no difference to what a multivariate normal approximation is, and the density is the one of
`numpyro_model` (tested); but here one step size serves all units, sizes and overlaps.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxgmm.bayes.priors.base import MixturePrior, log_prior_constant, log_prior_kernel, start_of_extra
from jaxgmm.bayes.target.coordinates import Layout, constrain_factored
from jaxgmm.bayes.target.noise import at_share, share_of
from jaxgmm.bayes.target.problem import Problem, ProblemInPieces
from jaxgmm.bayes.target.whitening import Frame, frame_at, log_volume, shifted, spread
from jaxgmm.covariance import Factor
from jaxgmm.data.pieces import Pieces
from jaxgmm.data.placed import Rows, n_places, shifted_rows
from jaxgmm.model.density import Components, Uniform, beside
from jaxgmm.model.mixture import GMM
from jaxgmm.model.rows import log_joint_of, log_likelihood_of, reduce_blocks, weighted
from jaxgmm.tools.types import on_host

NUMBERS_AT_ONCE = 1 << 21  # entries of the whitened rows that exist together


class Target(NamedTuple):
    """The posterior in whitened coordinates, traced.

    Attributes:
        x: the rows, less `shift`.
        weight: (M,).
        prior: of rows less `shift`.
        constant: of its density, in nats.
        frame: the coordinates.
        shift: (D,), the mixture's mean.
        noise: what rows may be from besides, of the share in the middle of the frame.
    """

    x: Rows
    weight: Float[Array, " M"]
    prior: MixturePrior
    constant: Float[Array, ""]
    frame: Frame
    shift: Float[Array, " D"]
    noise: Uniform | None = None

    @property
    def dtype(self) -> np.dtype:
        """To compute in."""
        return np.dtype(self.shift.dtype)

    @property
    def n_numbers(self) -> int:
        """Of the rows."""
        return n_places(self.x) * self.shift.shape[-1]


class Tangent(NamedTuple):
    """Log-likelihood of all rows in the middle of the frame, and its gradient there."""

    level: Float[Array, ""]
    slope: Float[Array, " size"]


class Point(NamedTuple):
    """A mixture of the target, factored, with what comes along (`Layout.extra`), NumPyro's log Jacobian, and the noise."""

    gmm: GMM
    factor: Factor
    extra: dict[str, Array]
    log_jacobian: Float[Array, ""]
    noise: Uniform | None = None

    @property
    def components(self) -> Components:
        """Of the mixture, noise beside them."""
        return beside(self.gmm.components(self.factor), self.noise)


def target_of(problem: Problem) -> Target:
    """The target around the problem's start."""
    prior, layout = problem.prior, problem.layout
    # On the host: a float64 log-gamma takes seconds to compile.
    constant = np.asarray(log_prior_constant(jax.tree.map(np.asarray, prior), layout.n_components), problem.dtype)
    return _target_of(problem.x, problem.weight, prior, problem.start, constant, layout, problem.noise)


def target_in_pieces(problem: ProblemInPieces) -> Target:
    """The target around the problem's start, with a row of weight 0 in the place of all: its density is the prior's."""
    weight, start = np.array([problem.source.total_weight], problem.dtype), problem.start
    target = target_of(Problem(start.means[:1], on_host(weight), start, problem.prior, problem.layout))
    return target._replace(weight=on_host(np.zeros_like(weight)))


@functools.partial(jax.jit, static_argnums=5)
def _target_of(x, weight, prior, start, constant, layout, noise):
    shift = start.weights @ start.means  # offsets of the data cost no digits
    start = start.moved(-shift)
    prior = shifted(prior, shift)
    frame = frame_at(start, start_of_extra(prior, start) | share_of(noise), prior, weight.sum(), layout)
    return Target(shifted_rows(x, shift), weight, prior, constant, frame, shift, noise)


def point_at(v: Float[Array, " size"], target: Target, layout: Layout) -> Point:
    """What whitened coordinates mean."""
    gmm, factor, extra, log_jacobian = constrain_factored(target.frame.origin + spread(target.frame, v, layout), layout)
    return Point(gmm, factor, extra, log_jacobian, at_share(target.noise, extra))


def log_prior_at(point: Point, target: Target, layout: Layout) -> Float[Array, ""]:
    """Log prior density with respect to the whitened coordinates."""
    log_density = log_prior_kernel(target.prior, point.gmm, point.factor, point.extra) + target.constant
    return log_density + point.log_jacobian + log_volume(target.frame, layout)


def log_rows_at(point: Point, x: Rows, weight: Float[Array, " B"] | None) -> Float[Array, " B"]:
    """Weighted log density of each row."""
    log_density = logsumexp(log_joint_of(point.components, x), axis=-1)
    return log_density if weight is None else weighted(weight, log_density)


def log_likelihood_at(point: Point, target: Target) -> Float[Array, ""]:
    """Sum of all rows' weighted log densities."""
    return log_likelihood_of(point.components, target.x, target.weight)


def coordinates(layout: Layout) -> Float[Array, " size"]:
    """The one site of the model."""
    return numpyro.sample("v", dist.ImproperUniform(constraints.real_vector, (), (layout.size,)))


def whitened_model(target: Target, tangent: Tangent | None, layout: Layout, batch_size: int | None) -> None:
    """The target as a NumPyro model; with `tangent`, by minibatches.

    The tangent of the log-likelihood is a control variate: what minibatches estimate is only the rest, so that their noise is
    that of its curvature (Baker et al. 2019, "Control variates for stochastic gradient MCMC").
    """
    v = coordinates(layout)
    point = point_at(v, target, layout)
    numpyro.factor("prior", log_prior_at(point, target, layout))
    if tangent is None:
        numpyro.factor("rows", log_likelihood_at(point, target))
        return
    numpyro.factor("tangent", tangent.level + tangent.slope @ v)
    with numpyro.plate("obs_id", n_places(target.x), subsample_size=batch_size) as index:
        rows, weight = jax.tree.map(lambda leaf: leaf[index], (target.x, target.weight))  # by pattern there are no batches
        numpyro.factor("rows", _beside_tangent(v, point, target, rows, weight, layout))


def minibatch_model(
    target: Target, tangent: Tangent, rows: Float[Array, "B D"], weight: Float[Array, " B"], scale: Array, layout: Layout
) -> None:
    """`whitened_model` by a minibatch that is given, less the target's shift; `scale` is how often it goes into all rows."""
    v = coordinates(layout)
    point = point_at(v, target, layout)
    numpyro.factor("prior", log_prior_at(point, target, layout))
    numpyro.factor("tangent", tangent.level + tangent.slope @ v)
    numpyro.factor("rows", scale * _beside_tangent(v, point, target, rows, weight, layout).sum())


def _beside_tangent(v: Array, point: Point, target: Target, rows: Rows, weight: Array, layout: Layout) -> Array:
    """What the tangents of rows' log densities don't say of them at `v`."""
    level, slope = jax.jvp(lambda v: log_rows_at(point_at(v, target, layout), rows, weight), (jnp.zeros_like(v),), (v,))
    return log_rows_at(point, rows, weight) - level - slope


@functools.partial(jax.jit, static_argnums=1)
def tangent_of(target: Target, layout: Layout) -> Tangent:
    """The tangent in the middle of the frame."""

    def block(x: Rows, w: Array) -> tuple[Array, Array]:
        middle = jnp.zeros(layout.size, target.dtype)
        return jax.value_and_grad(lambda v: log_rows_at(point_at(v, target, layout), x, w).sum())(middle)

    return Tangent(*over_rows(block, target, layout))


def tangent_in_pieces(target: Target, source: Pieces, layout: Layout) -> Tangent:
    """The tangent of all pieces together, in one pass."""
    sums = source.reduce(lambda rows, weight: _tangent_of_piece(target, rows, weight, layout))
    return Tangent(sums[0], sums[1:])


@functools.partial(jax.jit, static_argnums=3)
def _tangent_of_piece(target: Target, rows: Array, weight: Array, layout: Layout) -> Float[Array, " 1+size"]:
    level, slope = tangent_of(of_piece(target, rows, weight), layout)
    return jnp.append(level, slope)


def of_piece(target: Target, rows: Float[Array, "M D"], weight: Float[Array, " M"]) -> Target:
    """The target with the rows of a piece as its rows."""
    return target._replace(x=rows.astype(target.dtype) - target.shift, weight=weight.astype(target.dtype))


def over_rows[Sums](f: Callable[[Rows, Array], Sums], target: Target, layout: Layout) -> Sums:
    """Sums of `f(rows, weights)` over blocks of the target's rows, few enough at a time for memory."""
    block_size = max(1, NUMBERS_AT_ONCE // (layout.n_components * layout.n_features))
    return reduce_blocks(f, target.x, target.weight, block_size)
