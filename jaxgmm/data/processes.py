"""Rows of several processes, each of which reads its own a piece at a time."""

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from jaxgmm.data.agreeing import all_or_none, gathered, hashes_of_processes
from jaxgmm.data.moments import ROWS_FOR_STEPS, Moments, column_steps
from jaxgmm.data.pieces import Pieces, soonest_of
from jaxgmm.data.source import ArraySource, moments_by_sums, rows_then_weights
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Numbers, on_host


class _Survey(NamedTuple):
    n_samples: np.ndarray  # of each process
    n_present: int
    total_weight: float
    first: np.ndarray  # row
    steps: np.ndarray


@dataclass(frozen=True, eq=False)
class Processes:
    """The rows of all processes of `jax.distributed`: each gives its own, and only sums and a few rows for the starts travel.

    Every process makes one and calls `fit` with it, and with the same other arguments, at the same time; all of them get the
    same fit. Sums are added in the order of the processes, so that results are the same in every run; what follows from them
    each process computes by itself, so their processors have to be of one kind.

    Args:
        own: the rows of this process, such as `scan("rows/*.parquet", shard=(jax.process_index(), jax.process_count()))`.

    Raises:
        ValueError: when rows are asked for: rows that some process can't use, with its message; other columns than elsewhere.

    Example:
        >>> import jax, jaxgmm as jg
        >>> rows = jg.data.Processes(jg.data.scan(jg.datasets.load_faithful().x))   # the only process
        >>> rows.n_samples
        272
    """

    own: Pieces
    traceable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.own, Pieces):
            raise UserTypeError(f"own must be Pieces, such as jg.data.scan(file), got {type(self.own).__name__}.")

    @property
    def n_samples(self) -> int:
        """N, of all processes."""
        return int(self._survey.n_samples.sum())

    @property
    def n_features(self) -> int:
        """D."""
        return self._survey.first.size

    @property
    def n_present(self) -> int:
        """Rows of positive weight, of all processes."""
        return self._survey.n_present

    @property
    def total_weight(self) -> float:
        """Of all rows of all processes."""
        return self._survey.total_weight

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Of the columns, if they have names."""
        return self.own.feature_names

    @property
    def shared(self) -> bool:
        """Where there is more than one process."""
        return jax.process_count() > 1

    @property
    def like(self) -> np.ndarray:
        """A row whose dtype the others have."""
        return self.own.like

    @functools.cached_property
    def _survey(self) -> _Survey:
        own = self.own
        shape = all_or_none(lambda: (own.n_features, own.like.dtype.itemsize, _named(own.feature_names)))
        for process, other in enumerate(gathered(np.array(shape))):
            if other.tolist() != list(shape):
                raise UserError(
                    f"the rows of process {jax.process_index()} have {shape[0]} columns of {own.like.dtype}, those of process "
                    f"{process} have {other[0]} of float{8 * other[1]}, or other names: give all of them files of one kind."
                )
        counts = gathered(np.array([own.n_samples, own.n_present, own.total_weight], float))
        together = np.sum(counts, axis=0)
        each = np.array([int(count[0]) for count in counts])
        first = self._of_all(all_or_none(own.first_rows))[:ROWS_FOR_STEPS]
        steps = column_steps(first, np.ones(len(first)))
        return _Survey(each, int(together[1]), float(together[2]), first[0], steps)

    @staticmethod
    def _of_all(rows: np.ndarray) -> np.ndarray:
        """At most `ROWS_FOR_STEPS` rows of each process, one after the other."""
        some = rows[:ROWS_FOR_STEPS]
        counts = [int(count) for count in gathered(np.array(len(some)))]
        padded = np.zeros((max(counts), some.shape[1]))
        padded[: len(some)] = some
        return np.concatenate([part[:n] for part, n in zip(gathered(padded), counts, strict=True)])

    def ordered(self, names: Sequence[str] | None) -> "Processes":
        """With columns in the order of `names`, if they are known."""
        return self if names is None else Processes(self.own.ordered(names))

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows of this process."""
        return self.own.parts()

    def reduce(self, f: Callable[[Array, Array], Any]) -> Any:
        """Sum of `f(rows, weights)` over the pieces of all processes."""
        own = all_or_none(lambda: self.own.reduce(f))
        return functools.reduce(lambda a, b: a + b, gathered(own))

    def whole(self, f: Callable[[Array], Any]) -> None:
        """Nothing: no process has all rows."""

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """As `column_moments`, in two passes."""
        return moments_by_sums(self, self._survey.first.astype(dtype), self._survey.steps, dense, dtype)

    def some_rows(self, key: Array, n_samples: int) -> ArraySource:
        """As `Pieces.some_rows` of the rows of all processes, one after the other."""
        before = int(self._survey.n_samples[: jax.process_index()].sum())
        kept, waits = all_or_none(lambda: self.own.drawn(key, n_samples, before))
        room = n_samples - len(kept)
        padded = {"rows": np.pad(kept, ((0, room), (0, 0))), "waits": np.pad(waits, (0, room), constant_values=np.inf)}
        each = gathered(padded)
        rows, together = (np.concatenate([one[name] for one in each]) for name in ("rows", "waits"))
        soonest = soonest_of(together, min(n_samples, int(np.isfinite(together).sum())))
        chosen = rows[soonest].astype(self.like.dtype)
        return ArraySource(on_host(chosen), on_host(np.ones(len(chosen), chosen.dtype)), self.feature_names)

    def digests(self) -> Iterator[Numbers]:
        """A hash of the rows of each process; where there is but one, its rows."""
        if jax.process_count() == 1:
            return self.own.digests()
        return hashes_of_processes(rows_then_weights(self.own))


def _named(names: tuple[str, ...] | None) -> int:
    """A number that tells names from others."""
    return 0 if names is None else zlib.crc32("\0".join(names).encode())
