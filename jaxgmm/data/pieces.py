"""Rows that come in pieces: more of them than memory holds."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxgmm.data.moments import ROWS_FOR_STEPS, Moments, column_steps
from jaxgmm.data.padding import pad_rows, padded_length, padded_rows
from jaxgmm.data.source import ArraySource, moments_by_sums, rows_then_weights
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Numbers, on_host
from jaxgmm.tools.validation import check_count, check_rows, check_weights, key_data


class Piece(NamedTuple):
    """Rows (n, D) and weights (n,) that have been checked, and the names of the columns, if they have names."""

    rows: np.ndarray
    weight: np.ndarray
    names: tuple[str, ...] | None


class _Survey(NamedTuple):
    n_samples: int
    n_present: int
    total_weight: float
    like: np.ndarray
    feature_names: tuple[str, ...] | None
    longest: int


@dataclass(frozen=True, eq=False)
class Pieces:
    """Rows that come in pieces, such as those of a file that memory can't hold; `fit` takes them in the place of an array.

    Every pass over the rows asks for all pieces anew, one after the other: a fit makes a few passes, and one for each step of
    its starts, all of them together. Pieces of about equal size share a compiled program.

    Args:
        pieces: a function without arguments that returns an iterator, a new one each time: of arrays or frames (n, D), n >= 1,
            or of pairs of one and its weights (n,). The rows must be the same each time.
        names: D names, by which columns of frames are put in order; default: those of the first piece.
        n_rows: N, where it is known and no row has a weight: then no pass is needed to count them.

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
    n_rows: int | None = None
    traceable: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.names is not None:
            if isinstance(self.names, str) or not all(isinstance(name, str) for name in self.names):
                raise UserTypeError(f"names must be strings, one for each column, got {self.names!r}.")
            object.__setattr__(self, "names", tuple(self.names))
        if self.n_rows is not None:
            check_count(self.n_rows, "n_rows")
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
        if self.n_rows is not None:
            first = next(_checked(self.pieces(), None if self.names is None else tuple(self.names)), None)
            if first is not None:
                rows, _, names = first
                return _Survey(self.n_rows, self.n_rows, float(self.n_rows), rows[:1].copy(), names, len(rows))
        n_samples = n_present = longest = 0
        total, like, names = 0.0, None, None if self.names is None else tuple(self.names)
        for i, (rows, weight, known) in enumerate(_checked(self.pieces(), names)):
            like, names = (rows[:1], known) if like is None else (like, names)
            if rows.shape[1] != like.shape[1]:
                raise UserError(f"piece {i} has {rows.shape[1]} columns, but those before have {like.shape[1]}.")
            like = like.astype(np.result_type(like, rows), copy=False)
            n_samples, n_present = n_samples + len(rows), n_present + int((weight > 0).sum())
            total, longest = total + float(weight.sum(dtype=float)), max(longest, len(rows))
        if like is not None and names is not None and len(names) != like.shape[1]:
            raise UserError(f"names has {len(names)} names, but the pieces have {like.shape[1]} columns: {list(names)}.")
        if like is None:
            raise UserError("pieces gave no piece: give at least one, of at least one row.")
        return _Survey(n_samples, n_present, total, like, names, longest)

    def ordered(self, names: Sequence[str] | None) -> "Pieces":
        """With columns in the order of `names`, if they are known."""
        return self if names is None else dataclasses.replace(self, names=names)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows and their weights, a piece at a time.

        Raises:
            ValueError, TypeError: pieces that can't be used, or other rows than before.
        """
        seen, dtype = 0, self.like.dtype
        for i, (rows, weight, _) in enumerate(_checked(self.pieces(), self.feature_names)):
            seen += len(rows)
            if rows.shape[1] != self.n_features:
                raise UserError(f"piece {i} has {rows.shape[1]} columns, but the first has {self.n_features}.")
            if self.n_rows is not None and (np.result_type(rows, dtype) != dtype or (weight != 1).any()):
                what = "weights" if (weight != 1).any() else f"dtype {rows.dtype}, the first {dtype}"
                raise UserError(f"piece {i} has {what}: with n_rows all have one dtype and no weights; leave n_rows out.")
            yield rows.astype(dtype, copy=False), weight
        if self.n_rows is not None and seen != self.n_rows:
            raise UserError(f"n_rows is {self.n_rows}, but the pieces gave {seen} rows.")
        if seen != self.n_samples:
            raise UserError(
                f"pieces gave {self.n_samples} rows once, and {seen} another time: return a new iterator over the same rows "
                "each time, lambda: (read(file) for file in files)."
            )

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """Sum of `f(rows, weights)` over the pieces, which are padded to the length of the longest; added up in float64."""
        total: Any = None
        like, length = None, padded_length(self._survey.longest)
        for rows, weight in self.parts():
            padded = padded_rows(rows, length)
            value = jax.tree.map(np.asarray, f(padded, pad_rows(weight, len(padded))))
            total, like = (value, value) if total is None else (_wide(total) + _wide(value), value)
        return jax.tree.map(lambda leaf, own: leaf.astype(own.dtype, copy=False), total, like)

    def whole(self, f: Callable[[Array], Any]) -> None:
        """Nothing: not all rows are there at once."""

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`, in two passes."""
        return moments_by_sums(self, self.like[0].astype(dtype), self.steps(), dense, dtype)

    def steps(self) -> np.ndarray:
        """As `column_steps`, of the first rows of positive weight."""
        together = self.first_rows()
        return column_steps(together, np.ones(len(together)))

    def first_rows(self) -> np.ndarray:
        """Of positive weight, as many as `column_steps` looks at, or a few more."""
        head: list[np.ndarray] = []
        for rows, weight in self.parts():
            head.append(rows[weight > 0])
            if sum(map(len, head)) >= ROWS_FOR_STEPS:
                break
        return np.concatenate(head)

    def some_rows(self, key: Array, n_samples: int) -> ArraySource:
        """Rows drawn without replacement with probability proportional to their weights (Efraimidis & Spirakis 2006), at most
        so many, each of weight 1.
        """
        kept, _ = self.drawn(key, n_samples)
        return ArraySource(on_host(kept), on_host(np.ones(len(kept), kept.dtype)), self.feature_names)

    def drawn(self, key: Array, n_samples: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """These rows, and how long each had to wait to be drawn, where `first` is the number of the first row of all.

        What is drawn for a row depends on its number and the key alone, not on how rows are cut into pieces or shared out.
        """
        words, at = np.asarray(key_data(key)).tolist(), first
        kept, waits = self.like[:0], np.zeros(0)
        for rows, weight in self.parts():
            present = weight > 0
            wait = -np.log1p(-_uniforms(words, at, len(rows)))[present] / weight[present]
            kept, waits, at = np.concatenate([kept, rows[present]]), np.concatenate([waits, wait]), at + len(rows)
            soonest = soonest_of(waits, n_samples)
            kept, waits = kept[soonest], waits[soonest]
        return kept, waits

    def digests(self) -> Iterator[Numbers]:
        """The rows, the weights."""
        return rows_then_weights(self)


def soonest_of(waits: np.ndarray, n_samples: int) -> np.ndarray:
    """The rows that wait least, so many, in their order."""
    return np.sort(np.argsort(waits, kind="stable")[:n_samples])


def _uniforms(words: list[int], first: int, n: int) -> np.ndarray:
    """The variates (n,) of numbers `first`, ... of a stream."""
    stream = np.random.Philox(seed=np.random.SeedSequence(words))
    stream.advance(first // 4)  # four at a time
    return np.random.Generator(stream).random(first % 4 + n)[first % 4 :]


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(np.float64, copy=False), tree)


def _checked(pieces: Iterable[Any], names: tuple[str, ...] | None) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
    for i, piece in enumerate(pieces):
        if isinstance(piece, Piece):
            names = piece.names if names is None else names
            rows = piece.rows
            if piece.names is not None and names is not None and piece.names != names:
                rows = rows[:, np.array(frames.order_of(piece.names, names, "x"))]
            yield rows, piece.weight, names
            continue
        given, weight = piece if isinstance(piece, tuple) and len(piece) == 2 else (piece, None)
        names = frames.feature_names(given) if names is None and i == 0 else names
        rows = np.asarray(check_rows(given, f"piece {i}", feature_names=names))
        weight = check_weights(weight, len(rows))
        yield rows, np.ones(len(rows), rows.dtype) if weight is None else np.asarray(weight), names
