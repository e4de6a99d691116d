"""The posterior in whitened coordinates: its density, a NumPyro model of it, and how good draws from an approximation are.

An affine map makes no difference to what a multivariate normal approximation is, and the density is the one of
`numpyro_model` (tested); but here one step size serves all units, sizes and overlaps.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from jaxgmm.bayes.priors.base import log_prior_constant, log_prior_kernel, start_of_extra
from jaxgmm.bayes.target.coordinates import Layout, constrain_factored
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitening import Frame, frame_at, log_volume, shifted, spread
from jaxgmm.covariance import Factor, get_family
from jaxgmm.fitting.status import FitError, FitWarning
from jaxgmm.model.density import log_joint
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.blocks import map_draws, reduce_rows

NUMBERS_AT_ONCE = 1 << 21  # entries of the whitened rows that exist together
_MISLEADING = 0.7  # Pareto k-hat above which importance weights have no usable variance (Vehtari et al. 2024)
_ALIKE = 0.1  # nats: draws that all weigh the same, to a tenth; the shape of what is left means nothing
_LEAST_FOR_K = 25  # draws with which a tail of five can be fitted


class Target(NamedTuple):
    """The posterior in whitened coordinates, traced.

    Attributes:
        x: (N, D), less `shift`.
        weight: (N,) or None.
        prior: of rows less `shift`.
        constant: of its density, in nats.
        frame: the coordinates.
        shift: (D,), the mixture's mean.
    """

    x: Float[Array, "N D"]
    weight: Float[Array, " N"] | None
    prior: Any
    constant: Float[Array, ""]
    frame: Frame
    shift: Float[Array, " D"]


class Tangent(NamedTuple):
    """Log-likelihood of all rows in the middle of the frame, and its gradient there."""

    level: Float[Array, ""]
    slope: Float[Array, " size"]


class Point(NamedTuple):
    """A mixture of the target, factored, with the prior's extra parameters and NumPyro's log Jacobian."""

    gmm: GMM
    factor: Factor
    extra: dict[str, Array]
    log_jacobian: Float[Array, ""]


def target_of(problem: Problem) -> Target:
    """The target around the problem's start."""
    prior, layout = problem.prior, problem.layout
    # On the host: a float64 log-gamma takes seconds to compile.
    constant = np.asarray(log_prior_constant(jax.tree.map(np.asarray, prior), layout.n_components), problem.x.dtype)
    return _target_of(problem.x, problem.weight, prior, problem.start, constant, layout)


@functools.partial(jax.jit, static_argnums=5)
def _target_of(x, weight, prior, start, constant, layout):
    shift = start.weights @ start.means  # offsets of the data cost no digits
    start = GMM.unchecked(start.weights, start.means - shift, start.covariances, start.family)
    prior = shifted(prior, shift)
    total = x.shape[0] if weight is None else weight.sum()
    frame = frame_at(start, start_of_extra(prior, start), prior, total, layout)
    return Target(x - shift, weight, prior, constant, frame, shift)


def point_at(v: Float[Array, " size"], target: Target, layout: Layout) -> Point:
    """What whitened coordinates mean."""
    return Point(*constrain_factored(target.frame.origin + spread(target.frame, v, layout), layout))


def log_prior_at(point: Point, target: Target, layout: Layout) -> Float[Array, ""]:
    """Log prior density with respect to the whitened coordinates."""
    log_density = log_prior_kernel(target.prior, point.gmm, point.factor, point.extra) + target.constant
    return log_density + point.log_jacobian + log_volume(target.frame, layout)


def log_rows_at(point: Point, x: Float[Array, "B D"], weight: Float[Array, " B"] | None) -> Float[Array, " B"]:
    """Weighted log density of each row."""
    log_density = logsumexp(log_joint(point.gmm.components(point.factor), x), axis=-1)
    return log_density if weight is None else weight * log_density


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
        numpyro.factor("rows", log_rows_at(point, target.x, target.weight).sum())
        return
    numpyro.factor("tangent", tangent.level + tangent.slope @ v)
    with numpyro.plate("obs_id", target.x.shape[0], subsample_size=batch_size) as index:
        rows, weight = target.x[index], None if target.weight is None else target.weight[index]
        level, slope = jax.jvp(lambda v: log_rows_at(point_at(v, target, layout), rows, weight), (jnp.zeros_like(v),), (v,))
        numpyro.factor("rows", log_rows_at(point, rows, weight) - level - slope)


@functools.partial(jax.jit, static_argnums=1)
def tangent_of(target: Target, layout: Layout) -> Tangent:
    """The tangent in the middle of the frame."""

    def block(x: Array, w: Array) -> Any:
        middle = jnp.zeros(layout.size, x.dtype)
        return jax.value_and_grad(lambda v: log_rows_at(point_at(v, target, layout), x, w).sum())(middle)

    return Tangent(*_over_rows(block, target, layout))


def _over_rows(f: Callable[[Array, Array], Any], target: Target, layout: Layout) -> Any:
    weight = jnp.ones(target.x.shape[0], target.x.dtype) if target.weight is None else target.weight
    block_size = max(1, NUMBERS_AT_ONCE // (layout.n_components * layout.n_features))
    return reduce_rows(f, target.x, weight, block_size)


def draws_from(q: Any, target: Target, layout: Layout, key: Array, shape: tuple[int, int], attrs: dict[str, Any]) -> Draws:
    """Independent draws from an approximation, its evidence bound and its Pareto k-hat.

    Args:
        q: the distribution of the whitened coordinates.
        target: what it approximates.
        layout: of the vector.
        key: a PRNG key.
        shape: (chains, draws).
        attrs: facts to hand on; `guide` names the approximation.

    Raises:
        FitError: draws that aren't mixtures.

    Warns:
        FitWarning: k-hat above 0.7.
    """
    n_chains, n_draws = shape
    gmm, extra, stats = jax.tree.map(np.asarray, _draw(q, target, key, layout, n_chains * n_draws))
    attrs = attrs | {"elbo": float((stats["log_p"] - stats["log_q"]).astype(float).mean())}
    return judged(Draws(gmm, extra, stats, attrs), shape, "the Gaussian", stacklevel=5)


def judged(draws: Draws, shape: tuple[int, int], name: str, stacklevel: int = 4) -> Draws:
    """Independent draws with one leading axis as (chains, draws), and with their Pareto k-hat.

    Args:
        draws: with `log_p`, `log_q` (with respect to the same parameters) and `pivot` in their stats.
        shape: (chains, draws).
        name: what they are draws from.
        stacklevel: frames from here to the caller of `posterior`.

    Raises:
        FitError: draws that aren't mixtures.

    Warns:
        FitWarning: k-hat above 0.7.
    """
    gmm, extra, stats, attrs = draws
    bad = ~np.isfinite(stats["log_p"]) | ~(stats.pop("pivot") > 0)
    if bad.any():
        raise FitError(
            f"{attrs['guide']}: {int(bad.sum())} of {bad.size} draws have no finite log density, or a covariance that isn't "
            f"positive definite: {name} doesn't fit the posterior. Take fewer components, or method='gibbs'."
        )
    log_ratio = stats["log_p"].astype(float) - stats["log_q"]
    k_hat = pareto_k(log_ratio)
    if k_hat is not None and not k_hat <= _MISLEADING:
        warnings.warn(
            f"{attrs['guide']}: Pareto k-hat is {k_hat:.2f}, above {_MISLEADING}: {name} misses parts of the posterior, "
            "as where components overlap or own few rows. Take its intervals as rough; method='nuts' and 'gibbs' are exact.",
            FitWarning,
            stacklevel=stacklevel,
        )
    gmm, extra, stats = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), (gmm, extra, stats))
    return Draws(gmm, extra, stats, attrs | {"pareto_k": k_hat})


@functools.partial(jax.jit, static_argnums=(3, 4))
def _draw(q, target, key, layout, n):
    """Mixtures, the prior's extra parameters and, with respect to NumPyro's unconstrained vector, log densities."""
    vs = q.sample(key, (n,))
    family = get_family(layout.family)

    def look(v: Array) -> Any:
        point = point_at(v, target, layout)
        gmm, extra = point.gmm, point.extra
        log_prior = log_prior_kernel(target.prior, gmm, point.factor, extra) + target.constant
        lp = log_prior + _over_rows(lambda x, w: log_rows_at(point, x, w).sum(), target, layout)
        pivot = family.structure.pivots(family.factor(gmm.covariances, layout.n_features)).min()  # NaN if it has no factor
        moved = GMM.unchecked(gmm.weights, gmm.means + target.shift, gmm.covariances, gmm.family)
        return moved, extra, {"lp": lp, "log_p": lp + point.log_jacobian, "pivot": pivot}

    at_once = int(np.clip(NUMBERS_AT_ONCE // (target.x.size * layout.n_components), 1, n))
    gmm, extra, stats = map_draws(look, vs, at_once)
    return gmm, extra, stats | {"log_q": q.log_prob(vs) - log_volume(target.frame, layout)}


def pareto_k(log_ratio: np.ndarray) -> float | None:
    """Shape of the tail of importance weights (Vehtari et al. 2024), by ArviZ; None for too few draws to tell."""
    if log_ratio.size < _LEAST_FOR_K:
        return None
    if np.ptp(log_ratio) < _ALIKE:
        return 0.0
    return float(array_stats.psislw(-log_ratio.reshape(-1))[1])  # it negates: it was made for log-likelihoods
