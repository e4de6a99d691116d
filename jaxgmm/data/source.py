"""Where rows come from. EM asks a source for one thing only: the sum of a function over its rows."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.data.moments import Moments, checked_moments, column_moments, first_sums, scatter_about, squares_about
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_rows, check_seen, check_weights

_ROWS_HASHED = 65536


class Source(Protocol):
    """Rows that can be summed over: `ArraySource`, an array; `Pieces`, more rows than memory holds; `SpreadSource`, an array
    that is spread over devices; `Processes`, the pieces of several processes.
    """

    @property
    def n_samples(self) -> int:
        """N."""
        ...

    @property
    def n_features(self) -> int:
        """D."""
        ...

    @property
    def n_present(self) -> int:
        """Rows of positive weight."""
        ...

    @property
    def total_weight(self) -> float:
        """Of all rows."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Of the columns, if they have names."""
        ...

    @property
    def like(self) -> Numbers:
        """Some rows, whose dtype and device the others have."""
        ...

    @property
    def traceable(self) -> bool:
        """Whether `reduce` can run inside a compiled function; if not, `f` is compiled and called for each piece."""
        ...

    @property
    def shared(self) -> bool:
        """Whether they are rows of several processes, each of which has a part and does what the others do."""
        ...

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """The sum, by `+`, of `f(rows, weights)` over disjoint pieces that together are all rows: `f` returns an array or
        `Statistics`.
        """
        ...

    def whole(self, f: Callable[[Array], Any]) -> Any:
        """`f(rows)` of all rows, where they are in one piece; else None."""
        ...

    def parts(self) -> Iterator[tuple[Numbers, Numbers]]:
        """The same pieces, rows and weights, on the host."""
        ...

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`."""
        ...

    def some_rows(self, key: Array, n_samples: int) -> "ArraySource":
        """Rows to begin with: all of them, or at most so many, drawn by weight."""
        ...

    def digests(self) -> Iterator[Numbers]:
        """What `fingerprint` hashes: all rows and then all weights, or something as telling."""
        ...


class Labelled(NamedTuple):
    """Rows of some of which it is known which component they are from, or are not.

    Attributes:
        x: (N, D).
        evidence: (N, K), log p(what is known of the row's label | component k), at most 0; 0 for all k where nothing is.
    """

    x: Float[Array, "N D"]
    evidence: Float[Array, "N K"]


@pytree(labels=("feature_names",))
@dataclass(frozen=True)
class ArraySource:
    """Rows in memory: one piece. A pytree, so compiled loops take it as an argument.

    Attributes:
        x: (N, D).
        weight: (N,).
        feature_names: D names, or None.
        evidence: (N, K), of the rows' labels, as `Labelled` has it; None where none is known.
    """

    x: Float[Array, "N D"]
    weight: Float[Array, " N"]
    feature_names: tuple[str, ...] | None = None
    evidence: Float[Array, "N K"] | None = None
    traceable: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    @property
    def n_samples(self) -> int:
        """N."""
        return self.x.shape[0]

    @property
    def n_features(self) -> int:
        """D."""
        return self.x.shape[1]

    @property
    def n_present(self) -> int:
        """Rows of positive weight."""
        return int(np.count_nonzero(self.weight))

    @property
    def total_weight(self) -> float:
        """Of all rows."""
        return float(np.asarray(self.weight, float).sum())

    @property
    def like(self) -> Numbers:
        """The rows."""
        return self.x

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """`f(x, weight)`: blocks within it are the business of `statistics`."""
        return f(self._rows, self.weight)

    def whole(self, f: Callable[[Array], Any]) -> Any:
        """`f(x)`."""
        return f(self._rows)

    @property
    def _rows(self) -> Any:
        return self.x if self.evidence is None else Labelled(self.x, self.evidence)

    def parts(self) -> Iterator[tuple[Numbers, Numbers]]:
        """One part."""
        yield self.x, self.weight

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`."""
        return column_moments(self.x, self.weight, dense, dtype)

    def some_rows(self, key: Array, n_samples: int) -> "ArraySource":
        """All of them."""
        return self

    def digests(self) -> Iterator[Numbers]:
        """The rows, the weights."""
        return rows_then_weights(self)


def as_source(
    x: Any,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    *,
    min_rows: int = 1,
    feature_names: Sequence[str] | None = None,
    missing: bool = False,
) -> ArraySource:
    """An array or frame and its weights, checked, as a source.

    Args:
        x: (N, D), finite but for what is missing.
        sample_weight: (N,), non-negative, default 1.
        min_rows: the fewest rows, and the fewest of positive weight, that make sense.
        feature_names: the columns, where they are known: those of a frame are put in this order. Default: a frame's own.
        missing: as for `check_rows`.

    Raises:
        TypeError, ValueError: as `validation.check_rows` and `validation.check_weights`.

    Example:
        >>> from jaxgmm.data import as_source
        >>> as_source([[1.0], [2.0]]).reduce(lambda rows, weight: weight.sum())
        np.float64(2.0)
    """
    names = frames.feature_names(x) if feature_names is None else tuple(feature_names)
    rows = check_rows(x, "x", feature_names=names, min_rows=min_rows, missing=missing)
    weight: Any = check_weights(sample_weight, rows.shape[0])
    if weight is not None and (np.asarray(weight) > 0).sum() < min_rows:
        raise UserError(f"sample_weight is positive for fewer than {min_rows} rows; a covariance needs more.")
    if weight is None:
        weight = np.ones(rows.shape[0], rows.dtype)
    if missing:
        check_seen(rows, np.asarray(weight) > 0)
    return ArraySource(rows, weight, names)


def rows_then_weights(source: Source) -> Iterator[Numbers]:
    """What tells rows and weights from others, in one pass where all weights are 1, as those of rows without are."""
    alike = True
    for rows, weight in source.parts():
        yield rows
        alike = alike and bool((np.asarray(weight) == 1).all())
    if alike:
        yield np.broadcast_to(1.0, source.n_samples)
    else:
        for _, weight in source.parts():
            yield weight


def total(data: Source, f: Callable[..., Any], *arguments: Any) -> Any:
    """`data.reduce` of `f(*arguments, rows, weights)`, compiled: `f` is a function of a module, for each of which there is a
    program.
    """
    if data.traceable:
        return _total(f, data, arguments)
    return data.reduce(lambda rows, weight: _of_piece(f, arguments, rows, weight))


def moments_by_sums(data: Source, origin: np.ndarray, steps: np.ndarray, dense: bool, dtype: np.dtype) -> Moments:
    """The moments of rows that aren't in one place, by two of their sums; `origin` is one of them."""
    sums = np.asarray(total(data, first_sums, origin))
    mean = origin + sums[1:] / sums[0]
    scatter = total(data, scatter_about if dense else squares_about, mean)
    return checked_moments(sums[0], mean, np.asarray(scatter), steps, dtype)


@functools.partial(jax.jit, static_argnums=0)
def _total(f: Callable[..., Any], data: Source, arguments: tuple[Any, ...]) -> Any:
    return data.reduce(lambda rows, weight: f(*arguments, rows, weight))


@functools.partial(jax.jit, static_argnums=0)
def _of_piece(f: Callable[..., Any], arguments: tuple[Any, ...], rows: Array, weight: Array) -> Any:
    return f(*arguments, rows, weight)


def fingerprint(source: Source, *more: Numbers | None) -> str:
    """16 hex digits that tell one data set from another: a hash of shape, rows, weights and what else is known, as float64.

    Rows of another dtype that hold the same numbers, or that come in other pieces, have the same fingerprint; not so rows that
    are shared out among another number of processes.
    """
    digest = hashlib.blake2b(str((source.n_samples, source.n_features)).encode(), digest_size=8)
    for values in source.digests():
        host = np.asarray(values)
        for first in range(0, len(host), _ROWS_HASHED):
            digest.update(np.ascontiguousarray(host[first : first + _ROWS_HASHED], np.float64))
    for array in more:
        if array is not None:
            digest.update(np.ascontiguousarray(array, np.float64))
    return digest.hexdigest()
