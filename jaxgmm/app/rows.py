"""The rows that the `[data]` table of a config asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import jax
import numpy as np
import pandas as pd

from jaxgmm.app.config import DataTable
from jaxgmm.app.tables import Table, read_table
from jaxgmm.data import Pieces, Processes, scan
from jaxgmm.data.agreeing import all_or_none
from jaxgmm.datasets import LOADERS
from jaxgmm.fitting.result import Fit
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_rows, rows_named

_SHOWN = 10_000  # rows in figures, of those that come in pieces


@dataclass(frozen=True, eq=False)
class Rows:
    """The data of a run: x (N, D), its columns' names, these with units for figures, and the rows' weights or None.

    `numbers` (N,) are those of the rows in the file, counted from 0; `n_dropped` rows, which lack a value, are not among them.
    """

    x: np.ndarray
    feature_names: tuple[str, ...]
    axis_labels: tuple[str, ...]
    sample_weight: np.ndarray | None
    numbers: np.ndarray
    n_dropped: int
    missing: str

    in_pieces: ClassVar[bool] = False

    @property
    def frame(self) -> Any:
        """The rows with their columns' names and their numbers: what is fitted to it keeps them."""
        return pd.DataFrame(self.x, index=self.numbers, columns=pd.Index(self.feature_names), copy=False)

    @property
    def n_samples(self) -> int:
        """How many rows are fitted."""
        return len(self.x)

    @property
    def given_weight(self) -> np.ndarray | None:
        """What is fitted with the rows."""
        return self.sample_weight

    def criteria(self, fitted: Fit) -> dict[str, float]:
        """BIC, AIC and ICL of a fit."""
        return {name: float(getattr(fitted.gmm, name)(self.x, self.sample_weight)) for name in ("bic", "aic", "icl")}

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Rows, their numbers and weights, as they are to be assigned: all of them."""
        yield self.x, self.numbers, self.sample_weight


@dataclass(frozen=True, eq=False)
class RowsInPieces(Rows):
    """Rows that memory doesn't hold: `x` has some of them, for figures, `own` are those of this process, `every` all."""

    own: Pieces | Processes
    every: Pieces
    in_pieces: ClassVar[bool] = True

    @property
    def frame(self) -> Any:
        """What is fitted."""
        return self.own

    @property
    def n_samples(self) -> int:
        """How many rows are fitted."""
        return self.own.n_samples

    @property
    def given_weight(self) -> None:
        """Nothing: the rows have their weights with them."""

    def criteria(self, fitted: Fit) -> dict[str, float]:
        """BIC, AIC and ICL of a fit, by a pass over the rows of all processes."""
        return {"bic": fitted.bic, "aic": fitted.aic, "icl": fitted.gmm.icl(cast(Any, self.own))}

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """A piece at a time."""
        first = 0
        for rows, weight in self.every.parts():
            yield rows, np.arange(first, first + len(rows)), weight if self.sample_weight is not None else None
            first += len(rows)


def read_rows(data: DataTable) -> Rows:
    """The features and weights that `[data]` asks for; of several processes, each reads its own.

    Raises:
        ValueError: a column that isn't there or isn't numbers; missing or infinite values, with their rows.
        OSError: the file can't be read.
    """
    if data.in_pieces:
        return _in_pieces(data)
    units: dict[str, str] = {}
    if data.dataset is not None:
        shipped = LOADERS[data.dataset]()
        units = dict(zip(shipped.feature_names, shipped.units, strict=True))
        table = Table(f"data set {shipped.name}", dict(zip(units, shipped.x.T, strict=True)) | shipped.labels)
        names = data.columns or shipped.feature_names
    else:
        assert data.path is not None  # the config has exactly one of them
        table = read_table(data.path, data.delimiter, data.decimal)
        names = data.columns or tuple(name for name in table.columns if name != data.sample_weight)
        if not names:
            raise UserError(f"{table.source} has no column but {data.sample_weight!r}, the rows' weights")
    weight = None if data.sample_weight is None else table.select([data.sample_weight])[:, 0]
    x, numbers, n_dropped = usable(table, names, data.missing, weight)
    weight = None if weight is None else weight[numbers]
    axis_labels = tuple(f"{name} ({units[name]})" if units.get(name) else name for name in names)
    return Rows(x, names, axis_labels, weight, numbers, n_dropped, data.missing)


def _in_pieces(data: DataTable) -> RowsInPieces:
    how: Any = {"sample_weight": data.sample_weight, "delimiter": data.delimiter}
    index, number = jax.process_index(), jax.process_count()

    def both() -> tuple[Pieces, Pieces]:
        return tuple(scan(str(data.path), data.columns, **how, shard=shard) for shard in ((0, 1), (index, number)))  # type: ignore[return-value]

    every, mine = all_or_none(both)
    own = Processes(mine) if number > 1 else every
    some = np.asarray(own.some_rows(jax.random.key(0), _SHOWN).x)
    names = own.feature_names or tuple(f"x{d}" for d in range(own.n_features))
    weight = None if data.sample_weight is None else np.ones(len(some))  # rows were drawn by theirs
    return RowsInPieces(some, names, names, weight, np.arange(len(some)), 0, data.missing, own, every)


def usable(
    table: Table, names: Sequence[str], missing: str = "refuse", weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Columns of a table as (N, D) rows, their numbers in the table, and how many others were dropped: those that lack a value,
    or their weight.

    Raises:
        ValueError: a column that isn't there or isn't numbers; missing or infinite values, with their rows, unless they are
            `missing` values that are to be dropped.
    """
    x = table.select(names)
    whole = np.ones(len(x), bool)
    if missing == "drop":
        whole = ~np.isnan(x).any(axis=1) & (True if weight is None else ~np.isnan(weight))
    numbers, n_dropped = np.flatnonzero(whole), int((~whole).sum())
    if n_dropped == len(x) > 0:
        raise UserError(f"{table.source}: every row lacks a value of {', '.join(names)}: leave columns out")
    try:
        return np.asarray(check_rows(x[whole])), numbers, n_dropped
    except ValueError as error:
        x = np.where(whole[:, None], x, 0)
        gaps = ~np.isfinite(x)
        if not gaps.any():
            raise UserError(f"{table.source}, rows counted from 0: {error}") from None
    columns = [names[d] for d in np.flatnonzero(gaps.any(axis=0)).tolist()]
    way_out = "drop those rows" if np.isinf(x).any() else "set missing to drop"
    raise UserError(
        f"{table.source}: missing or infinite values in column{'s' * (len(columns) > 1)} {', '.join(columns)}, "
        f"{rows_named(gaps.any(axis=1))}, counted from 0: fill them in, {way_out}, or fit other columns"
    )
