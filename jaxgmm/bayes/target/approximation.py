"""Draws from an approximation of the posterior, and how far they can be trusted."""

import functools
import warnings

import jax
import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Array, Float
from numpyro.distributions import Distribution

from jaxgmm.bayes.priors.base import log_prior_kernel
from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.target.whitened import NUMBERS_AT_ONCE, Target, log_likelihood_at, of_piece, point_at
from jaxgmm.bayes.target.whitening import log_volume
from jaxgmm.covariance import get_family
from jaxgmm.data.pieces import Pieces
from jaxgmm.fitting.status import FitError, FitWarning
from jaxgmm.model.mixture import GMM
from jaxgmm.model.rows import log_likelihood_of
from jaxgmm.tools.blocks import map_draws
from jaxgmm.tools.types import Json

_MISLEADING = 0.7  # Pareto k-hat above which importance weights have no usable variance (Vehtari et al. 2024)
_ALIKE = 0.1  # nats: draws that all weigh the same, to a tenth; the shape of what is left means nothing
type Drawn = tuple[GMM, dict[str, Array], dict[str, Array]]  # mixtures, the prior's extra parameters, statistics
_LEAST_FOR_K = 25  # draws with which a tail of five can be fitted


def draws_from(
    q: Distribution,
    target: Target,
    layout: Layout,
    key: Array,
    shape: tuple[int, int],
    attrs: dict[str, Json],
    source: Pieces | None = None,
) -> Draws:
    """Independent draws from an approximation, its evidence bound and its Pareto k-hat.

    Args:
        q: the distribution of the whitened coordinates.
        target: what it approximates.
        layout: of the vector.
        key: a PRNG key.
        shape: (chains, draws).
        attrs: facts to hand on; `guide` names the approximation.
        source: the rows, where they come in pieces and the target has none of them.

    Raises:
        FitError: draws that aren't mixtures.

    Warns:
        FitWarning: k-hat above 0.7.
    """
    n_chains, n_draws = shape
    gmm, extra, stats = jax.tree.map(np.asarray, draw_from(q, target, key, layout, n_chains * n_draws))
    if source is not None:
        of_rows = log_likelihoods(gmm, target, source)
        stats |= {name: stats[name] + of_rows for name in ("lp", "log_p")} | {"log_likelihood": of_rows}
    attrs = attrs | {"elbo": float((stats["log_p"] - stats["log_q"]).astype(float).mean())}
    return judged(Draws(gmm, extra, stats, attrs), shape, "the Gaussian", stacklevel=5)


@functools.partial(jax.jit, static_argnums=(3, 4))
def draw_from(q: Distribution, target: Target, key: Array, layout: Layout, n: int) -> Drawn:
    """Mixtures, the prior's extra parameters and, with respect to NumPyro's unconstrained vector, log densities."""
    vs = q.sample(key, (n,))
    structure = get_family(layout.family).structure

    def look(v: Array) -> Drawn:
        point = point_at(v, target, layout)
        gmm, extra = point.gmm, point.extra
        log_prior = log_prior_kernel(target.prior, gmm, point.factor, extra) + target.constant
        lp = log_prior + log_likelihood_at(point, target)
        pivot = structure.pivots(gmm.factored()).min()  # NaN if it has no factor
        return gmm.moved(target.shift), extra, {"lp": lp, "log_p": lp + point.log_jacobian, "pivot": pivot}

    at_once = int(np.clip(NUMBERS_AT_ONCE // (target.n_numbers * layout.n_components), 1, n))
    gmm, extra, stats = map_draws(look, vs, at_once)
    return gmm, extra, stats | {"log_q": q.log_prob(vs) - log_volume(target.frame, layout)}


def log_likelihoods(gmm: GMM, target: Target, source: Pieces) -> Float[np.ndarray, " S"]:
    """Of all pieces together under each of S mixtures, nats, in one pass."""
    gmm = gmm.moved(-target.shift)
    return np.asarray(source.reduce(lambda rows, weight: _log_likelihoods(gmm, target, rows, weight)))


@jax.jit
def _log_likelihoods(gmm: GMM, target: Target, rows: Array, weight: Array) -> Float[Array, " S"]:
    piece, (n_draws, n_components) = of_piece(target, rows, weight), gmm.weights.shape
    at_once = int(np.clip(NUMBERS_AT_ONCE // (piece.n_numbers * n_components), 1, n_draws))
    return map_draws(lambda g: log_likelihood_of(g.components(g.factored()), piece.x, piece.weight), gmm, at_once)


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


def pareto_k(log_ratio: np.ndarray) -> float | None:
    """Shape of the tail of importance weights (Vehtari et al. 2024), by ArviZ; None for too few draws to tell."""
    if log_ratio.size < _LEAST_FOR_K:
        return None
    if np.ptp(log_ratio) < _ALIKE:
        return 0.0
    return float(array_stats.psislw(-log_ratio.reshape(-1))[1])  # it negates: it was made for log-likelihoods
