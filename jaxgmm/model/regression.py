"""A mixture as a regression of some features on others, and as distribution functions of single features."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.data.padding import first_rows, padded_rows
from jaxgmm.model import algebra
from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.mixture import GMM
from jaxgmm.model.requirements import places_of
from jaxgmm.tools import frames, precision
from jaxgmm.tools.blocks import map_rows, short_blocks
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable, Table, counted
from jaxgmm.tools.validation import check_rows, check_single, floating, host_only

_HALVINGS = 60  # of the interval that holds a quantile
_NUMBERS_AT_ONCE = 1 << 18  # entries of rows' conditional mixtures that exist at one time


@dataclass(frozen=True, eq=False, repr=False)
class Regression(Readable):
    """What some features say of the others, for each of N rows: the mean, sd and an interval of p(other | given).

    Attributes:
        mean: (N, R).
        sd: (N, R).
        lower: (N, R), of the equal-tailed interval.
        upper: (N, R).
        probability: of the interval.
        feature_names: R names.
        index: (N,), labels of the rows.
    """

    mean: Float[np.ndarray, "N R"]
    sd: Float[np.ndarray, "N R"]
    lower: Float[np.ndarray, "N R"]
    upper: Float[np.ndarray, "N R"]
    probability: float
    feature_names: tuple[str, ...]
    index: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        """A row for each row; columns (feature, statistic)."""
        parts = {"mean": self.mean, "sd": self.sd, "lower": self.lower, "upper": self.upper}
        columns = pd.MultiIndex.from_product([self.feature_names, list(parts)], names=["feature", "statistic"])
        values = np.stack(list(parts.values()), axis=-1).reshape(len(self.mean), -1)
        return pd.DataFrame(values, index=pd.Index(self.index, name="row"), columns=columns)

    def _page(self) -> Page:
        def cell(i: int, j: int) -> str:
            return f"{self.mean[i, j]:.4g} [{self.lower[i, j]:.4g}, {self.upper[i, j]:.4g}]"

        return Page(
            f"Regression: {counted(len(self.mean), 'row')}, mean and {100 * self.probability:g} % interval",
            (),
            Table("row", list(self.feature_names), len(self.mean), cell, lambda i: str(self.index[i]), ("row", "feature")),
        )


def regress(
    gmm: Mixture,
    given: Float[ArrayLike, "N G"],
    features: Sequence[int] | Sequence[str] | None = None,
    *,
    probability: float = 0.9,
) -> Regression:
    """Predict the other features of rows from some of them, with intervals: Gaussian mixture regression.

    p(rest | given) is a mixture itself, `GMM.condition`, whose mean bends with the given features, and whose spread and
    shape, two-peaked where two answers are possible, are those of the interval (Ghahramani & Jordan 1994).

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        given: (N, G), finite; a frame of some of the mixture's features, or an array with `features`.
        features: indices or names of the given columns.
        probability: that a value lies between `lower` and `upper`.

    Returns:
        Regression, (N, R) of the R other features, in their units.

    Raises:
        TypeError, ValueError: features that the mixture doesn't have, or all of them; values that aren't finite; a probability
            outside (0, 1).

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [[[1.0, 0.8], [0.8, 1.0]]])
        >>> found = jg.regress(gmm, [[0.0], [2.0]], [0])
        >>> found.mean.round(3).tolist(), found.upper.round(3).tolist()
        ([[0.0], [1.6]], [[0.987], [2.587]])
    """
    gmm = about_rows(gmm, "regress")
    host_only("regress", given, gmm)
    check_single(gmm.weights, "jg.regress(g, given)")
    if not 0 < probability < 1:
        raise UserError(f"probability must lie between 0 and 1, got {probability}: 0.9, say.")
    if features is None:
        features = frames.feature_names(given, "given")
        if features is None or gmm.feature_names is None:
            raise UserError(
                "features, which of the mixture's the columns of given are, is needed: regress(gmm, given, [0, 2])."
            )
    known = places_of(features, gmm.feature_names, gmm.n_features)
    if known.size == gmm.n_features:
        raise UserError(f"features {list(features)!r} are all {gmm.n_features}: nothing is left to predict.")
    rest = np.setdiff1d(np.arange(gmm.n_features), known)
    names = gmm.feature_names
    rows = check_rows(given, "given", n_features=known.size, feature_names=None if names is None else [names[i] for i in known])
    dtype = precision.compute_dtype(rows, gmm)
    with precision.scope(dtype):
        padded, n = jnp.asarray(padded_rows(rows), dtype), rows.shape[0]
        ends = np.asarray([(1 - probability) / 2, (1 + probability) / 2], dtype)
        places = tuple(known.tolist()), tuple(rest.tolist())
        found = np.asarray(first_rows(_regression(precision.cast(gmm, dtype), padded, ends, *places, np.int32(n)), n))
    labels = frames.row_labels(given)
    predicted = tuple(f"x{i}" for i in rest) if names is None else tuple(names[i] for i in rest)
    mean, sd, lower, upper = np.moveaxis(found, 1, 0)
    return Regression(mean, sd, lower, upper, probability, predicted, np.arange(n) if labels is None else labels)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _regression(
    gmm: GMM, rows: Float[Array, "N G"], ends: Array, known: tuple[int, ...], rest: tuple[int, ...], n_rows: Array
) -> Float[Array, "N 4 R"]:
    def of_row(row: Array) -> Array:
        given = algebra.condition(gmm, known, rest, row)
        sd = jnp.sqrt(jnp.diagonal(algebra.dense(given), axis1=-2, axis2=-1))
        weights, mean = given.weights, algebra.mean(given)
        variance = weights @ (sd**2 + (given.means - mean) ** 2)
        lower, upper = jax.vmap(lambda p: _quantile(weights, given.means, sd, p))(ends)
        return jnp.stack([mean, jnp.sqrt(variance), lower, upper])

    at_once = max(1, _NUMBERS_AT_ONCE // gmm.means.size)
    return map_rows(jax.vmap(of_row), rows, short_blocks(at_once, rows.shape[0]), n_rows)


def _quantile(
    weights: Float[Array, " K"], means: Float[Array, "K D"], sd: Float[Array, "K D"], p: Float[Array, "..."]
) -> Float[Array, " D"]:
    """Of each feature: between the components' own quantiles, by halving the interval; p is () or (D,)."""
    own = means + sd * ndtri(p)
    present = weights[:, None] > 0

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) / 2
        below = weights @ ndtr((middle - means) / sd) < p
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    least, greatest = jnp.where(present, own, jnp.inf).min(0), jnp.where(present, own, -jnp.inf).max(0)
    low, high = lax.fori_loop(0, _HALVINGS, halve, (least, greatest))
    return low + (high - low) / 2


def cdf(gmm: Mixture, x: Float[ArrayLike, "N D"]) -> Float[np.ndarray, "N D"]:
    """P(a feature's value lies at or below that of each row), of each feature by itself.

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        x: (N, D), array or frame; NaN, a missing value, gives NaN.

    Raises:
        TypeError, ValueError: a mixture with leading axes, other columns, infinite entries.

    Example:
        >>> import jaxgmm as jg
        >>> jg.cdf(jg.GMM([1.0], [[0.0]], [1.0], "spherical"), [[0.0], [1.96]]).round(3).tolist()
        [[0.5], [0.975]]
    """
    gmm = about_rows(gmm, "cdf")
    host_only("cdf", x, gmm)
    check_single(gmm.weights, "jg.cdf(g, x)")
    rows = check_rows(x, "x", n_features=gmm.n_features, feature_names=gmm.feature_names, missing=True)
    return _of_features(gmm, rows, _cdf)


def _cdf(weights: Float[Array, " K"], means: Float[Array, "K D"], sd: Float[Array, "K D"], row: Float[Array, " D"]) -> Array:
    return weights @ ndtr((row - means) / sd)


def quantile(gmm: Mixture, p: float | Float[ArrayLike, " P"]) -> Float[np.ndarray, "P D"]:
    """The values below which each feature lies with probability p: `cdf` the other way round.

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        p: (P,), or one number, which gives (D,); between 0 and 1.

    Raises:
        TypeError, ValueError: a mixture with leading axes; p outside (0, 1).

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.5, 0.5], [[-5.0], [5.0]], [1.0, 1.0], "spherical")
        >>> jg.quantile(gmm, [0.25, 0.75]).round(3).tolist()
        [[-5.0], [5.0]]
    """
    gmm = about_rows(gmm, "quantile")
    host_only("quantile", p, gmm)
    check_single(gmm.weights, "jg.quantile(g, p)")
    given = np.asarray(floating(p, "p"), float)
    if given.ndim > 1 or not ((given > 0) & (given < 1)).all():
        raise UserError(f"p must be a number between 0 and 1, or (P,) of them, got {given.tolist()}.")
    rows = np.atleast_1d(given)[:, None]
    found = _of_features(gmm, rows, _quantile)
    return found if given.ndim else found[0]


def _of_features(gmm: GMM, rows: Any, question: Any) -> Float[np.ndarray, "N D"]:
    """The answers to a question about each feature's own mixture, for each row."""
    dtype = precision.compute_dtype(rows, gmm)
    with precision.scope(dtype):
        padded = jnp.asarray(padded_rows(rows), dtype)
        n = rows.shape[0]
        return np.asarray(first_rows(_asked(precision.cast(gmm, dtype), padded, question, np.int32(n)), n))


@functools.partial(jax.jit, static_argnums=2)
def _asked(gmm: GMM, rows: Float[Array, "N _"], question: Any, n_rows: Array) -> Float[Array, "N D"]:
    sd = jnp.sqrt(jnp.diagonal(algebra.dense(gmm), axis1=-2, axis2=-1))
    at_once = max(1, _NUMBERS_AT_ONCE // gmm.means.size)
    each = jax.vmap(lambda row: question(gmm.weights, gmm.means, sd, row))
    return map_rows(each, rows, short_blocks(at_once, rows.shape[0]), n_rows)
