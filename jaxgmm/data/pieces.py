"""Rows that come in pieces: more of them than memory holds."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxgmm.data.moments import ROWS_FOR_STEPS, Moments, checked_moments, column_steps
from jaxgmm.data.padding import pad_rows, padded_rows
from jaxgmm.data.source import ArraySource
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_rows, check_weights, key_data


class _Survey(NamedTuple):
    n_samples: int
    n_present: int
    total_weight: float
    like: np.ndarray
    feature_names: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class Pieces:
    """Rows that come in pieces, such as those of a file that memory can't hold; `fit` takes them in the place of an array.

    Every pass over the rows asks for all pieces anew, one after the other: a fit makes a few passes, and one for each step of
    its starts, all of them together. Pieces of about equal size share a compiled program.

    Args:
        pieces: a function without arguments that returns an iterator, a new one each time: of arrays or frames (n, D), n >= 1,
            or of pairs of one and its weights (n,). The rows must be the same each time.
        names: D names, by which columns of frames are put in order; default: those of the first piece.

    Raises:
        ValueError, TypeError: when rows are asked for: pieces that `fit` wouldn't take, other columns, or other numbers of rows
            than before.

    Example:
        >>> import jax, jaxgmm as jg, numpy as np
        >>> x = jg.datasets.load_faithful().x
        >>> rows = jg.data.Pieces(lambda: iter(np.array_split(x, 3)))
        >>> sorted(jg.fit(rows, 2, key=jax.random.key(0)).gmm.weights.round(2).tolist())
        [0.36, 0.64]
    """

    pieces: Callable[[], Iterable[Any]]
    names: Sequence[str] | None = None
    traceable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.names is not None:
            if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
                raise UserTypeError(f"names must be strings, one for each column, got {self.names!r}.")
            object.__setattr__(self, "names", tuple(self.names))
        if not callable(self.pieces):
            raise UserTypeError(
                f"pieces must be a function that returns a new iterator each time, got {type(self.pieces).__name__}: "
                "lambda: (read(file) for file in files)."
            )

    @property
    def n_samples(self) -> int:
        """N."""
        return self._survey.n_samples

    @property
    def n_features(self) -> int:
        """D."""
        return self._survey.like.shape[1]

    @property
    def n_present(self) -> int:
        """Rows of positive weight."""
        return self._survey.n_present

    @property
    def total_weight(self) -> float:
        """Of all rows."""
        return self._survey.total_weight

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Of the columns, if they have names."""
        return self._survey.feature_names

    @property
    def like(self) -> np.ndarray:
        """A row whose dtype the others have."""
        return self._survey.like

    @functools.cached_property
    def _survey(self) -> _Survey:
        n_samples = n_present = 0
        total, like, names = 0.0, None, None if self.names is None else tuple(self.names)
        for i, (rows, weight, known) in enumerate(_checked(self.pieces(), names)):
            like, names = (rows[:1], known) if like is None else (like, names)
            if rows.shape[1] != like.shape[1]:
                raise UserError(f"piece {i} has {rows.shape[1]} columns, but those before have {like.shape[1]}.")
            like = like.astype(np.result_type(like, rows), copy=False)
            n_samples, n_present = n_samples + len(rows), n_present + int((weight > 0).sum())
            total += float(weight.sum())
        if like is not None and names is not None and len(names) != like.shape[1]:
            raise UserError(f"names has {len(names)} names, but the pieces have {like.shape[1]} columns: {list(names)}.")
        if like is None:
            raise UserError("pieces gave no piece: give at least one, of at least one row.")
        return _Survey(n_samples, n_present, total, like, names)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows and their weights, a piece at a time.

        Raises:
            ValueError, TypeError: pieces that can't be used, or other rows than before.
        """
        seen, dtype = 0, self.like.dtype
        for rows, weight, _ in _checked(self.pieces(), self.feature_names):
            seen += len(rows)
            yield rows.astype(dtype, copy=False), weight
        if seen != self.n_samples:
            raise UserError(
                f"pieces gave {self.n_samples} rows once, and {seen} another time: return a new iterator over the same rows "
                "each time, lambda: (read(file) for file in files)."
            )

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """Sum of `f(rows, weights)` over the pieces, which are padded."""
        total = None
        for rows, weight in self.parts():
            padded = padded_rows(rows)
            value = f(padded, pad_rows(weight, len(padded)))
            total = value if total is None else total + value
        return total

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`, in two passes."""
        origin = on_host(self.like[0].astype(dtype))
        sums = np.asarray(self.reduce(functools.partial(_first, origin=origin)))
        mean = np.asarray(origin) + sums[1:] / sums[0]
        scatter = np.asarray(self.reduce(functools.partial(_second, mean=on_host(mean), dense=dense)))
        return checked_moments(sums[0], mean, scatter, self._steps(), dtype)

    def _steps(self) -> np.ndarray:
        """Of the first rows of positive weight, as those of an array."""
        head: list[np.ndarray] = []
        for rows, weight in self.parts():
            head.append(rows[weight > 0])
            if sum(map(len, head)) >= ROWS_FOR_STEPS:
                break
        together = np.concatenate(head)
        return column_steps(together, np.ones(len(together)))

    def some_rows(self, key: Array, n_samples: int) -> ArraySource:
        """Rows drawn without replacement with probability proportional to their weights (Efraimidis & Spirakis 2006), at most
        so many, each of weight 1.
        """
        rng = np.random.default_rng(np.asarray(key_data(key)).tolist())
        kept, priorities = self.like[:0], np.zeros(0)
        for rows, weight in self.parts():
            present = weight > 0
            drawn = rng.exponential(size=present.sum()) / weight[present]
            kept, priorities = np.concatenate([kept, rows[present]]), np.concatenate([priorities, drawn])
            first = np.sort(np.argsort(priorities, kind="stable")[:n_samples])
            kept, priorities = kept[first], priorities[first]
        return ArraySource(on_host(kept), on_host(np.ones(len(kept), kept.dtype)), self.feature_names)


def _checked(pieces: Iterable[Any], names: tuple[str, ...] | None) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    for i, piece in enumerate(pieces):
        given, weight = piece if isinstance(piece, tuple) and len(piece) == 2 else (piece, None)
        names = frames.feature_names(given) if names is None and i == 0 else names
        rows = np.asarray(check_rows(given, f"piece {i}", feature_names=names))
        weight = check_weights(weight, len(rows))
        yield rows, np.ones(len(rows), rows.dtype) if weight is None else np.asarray(weight), names


@jax.jit
def _first(rows: Array, weight: Array, origin: Array) -> Array:
    w = weight.astype(origin.dtype)
    return jax.numpy.append(w.sum(), w @ (rows.astype(origin.dtype) - origin))


@functools.partial(jax.jit, static_argnames="dense")
def _second(rows: Array, weight: Array, mean: Array, dense: bool) -> Array:
    z, w = rows.astype(mean.dtype) - mean, weight.astype(mean.dtype)
    return (w[:, None] * z).T @ z if dense else w @ z**2
