"""How unusual rows are, and why, by whatever holds a mixture."""

import math

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.explaining import Explanation, explained
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count, check_key, check_rows, check_single, host_only


def explain(gmm: Mixture, x: Float[ArrayLike, "N D"]) -> Explanation:
    """What each feature adds to how surprising rows are, and to the odds between the two components they most probably have.

    Of one Gaussian, -log p(x) is a constant and half the Mahalanobis distance, which is a sum over features; of a mixture, the
    mean of these over the responsibilities, less their entropy: -log p(x) = -sum_k r_k log(pi_k N_k(x)) + sum_k r_k log r_k.

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        x: (N, D), finite, array or frame.

    Raises:
        TypeError, ValueError: a mixture with leading axes, other columns, NaN or infinite entries.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [[1.0, 4.0]], "diag")
        >>> jg.explain(gmm, [[3.0, 2.0]]).features.tolist()
        [[4.5, 0.5]]
    """
    return explained(about_rows(gmm, "explain"), x)


def density_level(gmm: Mixture, x: Float[ArrayLike, "N D"], *, key: Array, n_samples: int = 10_000) -> Float[np.ndarray, " N"]:
    """How far out rows lie: the probability of the smallest region that holds a row, the highest-density region at its density.

    Calibrated, whatever the mixture: of its own rows, a share of 1 - a has a level below 1 - a. So `level > 0.999` finds one in
    a thousand of ordinary rows, and outliers. Estimated by the share of `n_samples` draws that are denser than the row, with
    a standard error of sqrt(level (1 - level) / n_samples); never quite 1. (Hyndman 1996.)

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        x: (N, D), finite, array or frame.
        key: a PRNG key.
        n_samples: draws that rows are compared with.

    Raises:
        TypeError, ValueError: a mixture with leading axes, other columns, NaN or infinite entries.

    Example:
        >>> import jax, jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
        >>> jg.density_level(gmm, [[0.0], [1.96]], key=jax.random.key(0)).round(1).tolist()
        [0.0, 0.9]
    """
    gmm = _one(gmm, "density_level", "jg.density_level(g, x, key=key)")
    host_only("density_level", x, gmm)
    rows = np.asarray(gmm.log_prob(check_rows(x, "x", n_features=gmm.n_features, feature_names=gmm.feature_names)), float)
    draws = _drawn(gmm, key, n_samples)
    return (draws.size - np.searchsorted(draws, rows, side="right")) / (draws.size + 1)


def density_threshold(
    gmm: Mixture, level: ArrayLike = 0.999, *, key: Array, n_samples: int = 10_000
) -> Float[np.ndarray, "..."]:
    """The log density at the border of the highest-density region of this probability, in nats.

    Rows of less density lie outside: just those whose `density_level`, with the same key, is above `level`. So no row has to be
    kept to judge others later: `gmm.log_prob(rows) < threshold`. (Hyndman 1996, whose f_alpha it is for level 1 - alpha.)

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        level: a probability, or an array of them.
        key: a PRNG key.
        n_samples: draws of which it is the quantile.

    Returns:
        Of the shape of `level`.

    Raises:
        TypeError, ValueError: a mixture with leading axes; levels outside (0, 1), or so near 1 that there are too few draws.

    Example:
        >>> import jax, jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
        >>> [round(float(t), 1) for t in (jg.density_threshold(gmm, 0.75, key=jax.random.key(0)), gmm.log_prob([1.15]))]
        [-1.6, -1.6]
    """
    gmm = _one(gmm, "density_threshold", "jg.density_threshold(g, level, key=key)")
    host_only("density_threshold", gmm)
    levels = np.asarray(level, float)
    if not ((levels > 0) & (levels < 1)).all():
        raise UserError(f"level must lie between 0 and 1, got {level}: 0.999, say.")
    n_samples = check_count(n_samples, "n_samples")
    places = np.ceil(n_samples - levels * (n_samples + 1)).astype(int) - 1
    if (places < 0).any():
        highest = float(levels.max())
        raise UserError(f"level {highest} takes n_samples of at least {math.ceil(2 / (1 - highest))}, got {n_samples}.")
    return _drawn(gmm, key, n_samples)[places]


def _one(value: Mixture, call: str, mapped: str) -> GMM:
    gmm = about_rows(value, call)
    check_single(gmm.weights, mapped)
    return gmm


def _drawn(gmm: GMM, key: Array, n_samples: int) -> Float[np.ndarray, " M"]:
    """Log densities of draws, in order."""
    check_key(key)
    return np.sort(np.asarray(gmm.log_prob(gmm.sample(key, check_count(n_samples, "n_samples"))[0]), float))
