"""Moments of the columns: what defaults and starts need to know of the rows."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.tools import precision
from jaxgmm.tools.blocks import NUMBERS_IN_A_BLOCK, reduce_rows, rows_present, short_blocks
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import in_jit, is_traced

_NUMBERS_ON_HOST = 1 << 20


class Moments(NamedTuple):
    """What defaults and starts need to know of the rows. On the host.

    Attributes:
        total_weight: N.
        mean: (D,), of the columns.
        scatter: about the mean, (D, D), or its diagonal (D,).
        steps: (D,), how finely each column was written down, see `column_steps`.
    """

    total_weight: float
    mean: Float[np.ndarray, " D"]
    scatter: Float[np.ndarray, "..."]
    steps: Float[np.ndarray, " D"]


def column_moments(x: Numbers, weight: Numbers, dense: bool, dtype: np.dtype, *, on_host: bool = False) -> Moments:
    """The moments of rows (N, D) with weights (N,); the scatter is a matrix if `dense`.

    `on_host` compiles nothing; so it is where the rows are few and on a CPU, where compiling takes longer than summing.

    Raises:
        ValueError: squares of the rows overflow or underflow.
    """
    # NumPyro runs models inside its own compiled loops, with the rows as constants: compiled sums would be traced there.
    few = not is_traced(x, weight) and x.size <= _NUMBERS_ON_HOST and precision.platform(x) == "cpu"
    compute = _column_moments_on_host if on_host or few or in_jit() else _column_moments
    total, mean, scatter = compute(x, weight, dense, dtype)
    return checked_moments(total, mean, scatter, column_steps(x, weight), dtype)


def checked_moments(total: Numbers, mean: Numbers, scatter: Numbers, steps: np.ndarray, dtype: np.dtype) -> Moments:
    """Moments that can be computed with. Raises ValueError where they overflow or underflow."""
    mean, scatter = np.asarray(mean, float), np.asarray(scatter, float)
    info = np.finfo(dtype)
    variances = scatter if scatter.ndim == 1 else np.diagonal(scatter)
    fine = np.isfinite(scatter).all() and (variances < np.sqrt(info.max)).all()
    tiny = np.where(variances > 0, variances < np.sqrt(info.tiny), (mean != 0) & (np.abs(mean) < np.sqrt(info.tiny)))
    if not fine or tiny.any():
        raise UserError(
            f"x has columns too large or too small for {info.dtype.name}: sums of squares {variances.tolist()} leave no room "
            "for products of covariances. Rescale its columns."
        )
    return Moments(float(total), mean, scatter, steps)


def first_sums(origin: Array, rows: Array, weight: Array) -> Array:
    """(1 + D,): the total weight, and the sum of the rows about a point."""

    def block(rows: Array, w: Array) -> Array:
        return jnp.append(w.sum(), w @ (rows.astype(origin.dtype) - origin))

    return reduce_rows(block, rows, weight.astype(origin.dtype), _few(rows))


def scatter_about(mean: Array, rows: Array, weight: Array) -> Array:
    """(D, D)."""

    def block(rows: Array, w: Array) -> Array:
        z = rows.astype(mean.dtype) - mean
        return (w[:, None] * z).T @ z

    return reduce_rows(block, rows, weight.astype(mean.dtype), _few(rows))


def squares_about(mean: Array, rows: Array, weight: Array) -> Array:
    """(D,)."""
    return reduce_rows(lambda x, w: w @ (x.astype(mean.dtype) - mean) ** 2, rows, weight.astype(mean.dtype), _few(rows))


def _few(x: Array) -> int:
    """Rows of a block: each makes a few temporaries of its size."""
    return max(1, NUMBERS_IN_A_BLOCK // 8 // x.shape[1])


@functools.partial(jax.jit, static_argnums=(2, 3))
def _column_moments(x: Array, weight: Array, dense: bool, dtype: np.dtype) -> tuple[Array, Array, Array]:
    weight = weight.astype(dtype)
    origin = x[jnp.argmax(weight > 0)].astype(dtype)
    block_size, n_rows = short_blocks(_few(x), x.shape[0]), rows_present(weight)

    def first(rows: Array, w: Array) -> tuple[Array, Array]:
        return w.sum(), w @ (rows.astype(dtype) - origin)

    total, sums = reduce_rows(first, x, weight, block_size, n_rows=n_rows)
    mean = origin + sums / total

    def second(rows: Array, w: Array) -> Array:
        z = rows.astype(dtype) - mean
        return (w[:, None] * z).T @ z if dense else w @ z**2

    return total, mean, reduce_rows(second, x, weight, block_size, n_rows=n_rows)


def _column_moments_on_host(x: Numbers, weight: Numbers, dense: bool, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    rows, w = np.asarray(x, dtype), np.asarray(weight, dtype)
    with np.errstate(all="ignore"):  # what isn't a number is refused
        total, origin = w.sum(), rows[np.argmax(w > 0)]
        z = rows - origin
        shift = w @ z / total
        z -= shift
        return total, origin + shift, (w[:, None] * z).T @ z if dense else w @ z**2


def rows_of_frequencies(total_weight: float, n_present: int) -> float:
    """How many rows a unit of weight is: 1, but where weights add up to 1 they are frequencies, of as many rows as have any."""
    return n_present / total_weight if total_weight < 1 + _ROUNDED else 1.0


_ROUNDED = 1e-3  # what sums of frequencies that were rounded may be off
_CONSTANT_COLUMN_SD = 1e-3  # assumed sd of a column that doesn't vary, as a share of its size
_COLLINEAR = 1e-10  # eigenvalue of the correlation matrix below which columns count as collinear
_RIDGE = 1e-6


def proper_covariance(total_weight: float, mean: np.ndarray, scatter: np.ndarray) -> np.ndarray:
    """The sample covariance (or its diagonal), made positive definite where the data leave it singular.

    The divisor is N - 1 as in `numpy.cov`, but never less than N / 2, so that weights that add up to one work.
    """
    covariance = scatter / max(total_weight - 1, total_weight / 2)
    variance = np.array(covariance if covariance.ndim == 1 else np.diagonal(covariance))
    size, flat = np.abs(mean), _flat(variance, mean)
    variance[flat] = (_CONSTANT_COLUMN_SD * np.where(size > 0, size, 1))[flat] ** 2
    if covariance.ndim == 1:
        return variance
    sd = np.sqrt(variance)
    correlation = covariance / np.outer(sd, sd)
    correlation[flat], correlation[:, flat] = 0, 0
    np.fill_diagonal(correlation, 1)
    if _collinear(correlation):
        correlation += _RIDGE * np.eye(sd.size)
    return correlation * np.outer(sd, sd)


def _collinear(correlation: np.ndarray) -> bool:
    return bool(np.linalg.eigvalsh(correlation)[0] < _COLLINEAR)


def singular(moments: Moments) -> bool:
    """Whether the sample covariance, a matrix or its diagonal, has no density: columns that don't vary, or are collinear."""
    if constant_columns(moments).any():
        return True
    if moments.scatter.ndim == 1:
        return False
    sd = np.sqrt(np.diagonal(moments.scatter))
    return _collinear(moments.scatter / np.outer(sd, sd))


def column_variances(moments: Moments) -> np.ndarray:
    """Sample variances (D,), positive also where a column doesn't vary."""
    scatter = moments.scatter
    return proper_covariance(moments.total_weight, moments.mean, scatter if scatter.ndim == 1 else np.diagonal(scatter))


def constant_columns(moments: Moments) -> np.ndarray:
    """Which columns (D,) don't vary, but for rounding."""
    scatter = moments.scatter if moments.scatter.ndim == 1 else np.diagonal(moments.scatter)
    return _flat(scatter / moments.total_weight, moments.mean)


def _flat(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.sqrt(variance) <= 100 * np.finfo(float).eps * np.abs(mean)


ROWS_FOR_STEPS = 10_000


def column_steps(x: object, weight: Numbers | None) -> np.ndarray:
    """The least difference between two values of each column, (D,): how finely they were written down; 0 for a column of one
    value, whose resolution can't be seen. On the host, of the first rows of positive weight: in so many, values that were
    rounded to a step that matters have shown it.
    """
    present = np.flatnonzero(np.asarray(weight) > 0)[:ROWS_FOR_STEPS]
    if isinstance(x, jax.Array) and precision.platform(x) != "cpu":
        x = x[: min(x.shape[0], 1 << int(present[-1]).bit_length())]  # a few lengths, not each its own
    rows = np.sort(np.asarray(x)[present].astype(float), axis=0)
    gaps = np.diff(rows, axis=0)
    rounding = 4 * np.finfo(float).eps * np.fmax.reduce(np.abs(rows))  # NaN, a missing value, is left out
    least = np.where(gaps > rounding, gaps, np.inf).min(0, initial=np.inf)
    return np.where(np.isfinite(least), least, 0)
