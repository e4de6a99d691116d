"""Where rows come from. EM asks a source for one thing only: the sum of a function over its rows."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.data.moments import Moments, column_moments
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_rows, check_seen, check_weights

_ROWS_HASHED = 65536


class Source(Protocol):
    """Rows that can be summed over: `ArraySource`, an array, or `Pieces`, more rows than memory holds."""

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

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """The sum, by `+`, of `f(rows, weights)` over disjoint pieces that together are all rows: `f` returns an array or
        `Statistics`.
        """
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
        rows: Any = self.x if self.evidence is None else Labelled(self.x, self.evidence)
        return f(rows, self.weight)

    def parts(self) -> Iterator[tuple[Numbers, Numbers]]:
        """One part."""
        yield self.x, self.weight

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`."""
        return column_moments(self.x, self.weight, dense, dtype)

    def some_rows(self, key: Array, n_samples: int) -> "ArraySource":
        """All of them."""
        return self


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


def fingerprint(source: Source, *more: Numbers | None) -> str:
    """16 hex digits that tell one data set from another: a hash of shape, rows, weights and what else is known, as float64.

    Rows of another dtype that hold the same numbers, or that come in other pieces, have the same fingerprint.
    """
    digest = hashlib.blake2b(str((source.n_samples, source.n_features)).encode(), digest_size=8)
    for which in (0, 1):
        for part in source.parts():
            rows = np.asarray(part[which])
            for first in range(0, len(rows), _ROWS_HASHED):
                digest.update(np.ascontiguousarray(rows[first : first + _ROWS_HASHED], np.float64))
    for array in more:
        if array is not None:
            digest.update(np.ascontiguousarray(array, np.float64))
    return digest.hexdigest()
