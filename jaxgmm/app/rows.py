"""The rows that the `[data]` table of a config asks for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

import jax
import numpy as np
import pandas as pd

from jaxgmm.app.config import DataTable
from jaxgmm.app.config.files import check_standard_errors
from jaxgmm.app.labels import Labels
from jaxgmm.app.tables import Table, read_table
from jaxgmm.data import Pieces, Processes, scan
from jaxgmm.data.agreeing import all_or_none
from jaxgmm.datasets import LOADERS
from jaxgmm.fitting.result import Fit
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import check_rows, rows_named

_WHAT = {"sample_weight": "weights", "standard_errors": "standard errors", "labels": "labels"}
_SHOWN = 10_000  # rows in figures, of those that come in pieces


class Part(NamedTuple):
    """Some rows (N, D) as they are to be assigned, NaN where a value is missing.

    Attributes:
        x: the rows.
        numbers: (N,), theirs in the file, counted from 0.
        sample_weight: (N,), or None.
        errors: (N, D), variances of their errors of measurement, or None.
        known: (N,), the components of those whose component is known, -1 elsewhere; or None.
    """

    x: np.ndarray
    numbers: np.ndarray
    sample_weight: np.ndarray | None = None
    errors: np.ndarray | None = None
    known: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """The data of a run: x (N, D), its columns' names, these with units for figures, and what is known of the rows, or None.

    `numbers` (N,) are those of the rows in the file, counted from 0; `n_dropped` rows, which lack a value, or all where
    `missing` ones are kept, are not among them. `errors` (N, D) are the squares of what is in the columns `standard_errors`.
    """

    x: np.ndarray
    feature_names: tuple[str, ...]
    axis_labels: tuple[str, ...]
    sample_weight: np.ndarray | None
    numbers: np.ndarray
    n_dropped: int
    missing: str
    standard_errors: tuple[str, ...] | None
    errors: np.ndarray | None
    labels: Labels | None

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
    def known(self) -> np.ndarray | None:
        """The rows' components, -1 where they aren't known."""
        return None if self.labels is None else self.labels.codes

    @property
    def given(self) -> Facts:
        """What is fitted with the rows."""
        return {"sample_weight": self.sample_weight, "error_covariances": self.errors, "labels": self.known}

    def criteria(self, fitted: Fit) -> dict[str, float]:
        """BIC, AIC and ICL of a fit. A row whose component is known is in no doubt, and noise is a component like others."""
        shares = np.asarray(fitted.responsibilities(self.frame, error_covariances=self.errors))
        log_share = np.log(np.maximum(shares.max(axis=1), 1 - shares.sum(axis=1)))
        if self.known is not None:
            log_share[self.known >= 0] = 0
        doubt = -2 * float(log_share @ (np.ones(len(self.x)) if self.sample_weight is None else self.sample_weight))
        return {"bic": fitted.bic, "aic": fitted.aic, "icl": fitted.bic + doubt}

    def parts(self) -> Iterator[Part]:
        """All of them."""
        yield Part(self.x, self.numbers, self.sample_weight, self.errors, self.known)


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
    def given(self) -> Facts:
        """Nothing: the rows have their weights with them."""
        return {}

    def criteria(self, fitted: Fit) -> dict[str, float]:
        """BIC, AIC and ICL of a fit, by a pass over the rows of all processes."""
        return {"bic": fitted.bic, "aic": fitted.aic, "icl": fitted.gmm.icl(cast(Any, self.own))}

    def parts(self) -> Iterator[Part]:
        """A piece at a time."""
        first = 0
        for rows, weight in self.every.parts():
            yield Part(rows, np.arange(first, first + len(rows)), weight if self.sample_weight is not None else None)
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
        others = {name: key for key, own in data.known.items() for name in own}
        names = data.columns or tuple(name for name in table.columns if name not in others)
        if not names:
            known = " and ".join(f"{name!r}, the rows' {_WHAT[key]}" for name, key in others.items())
            raise UserError(f"{table.source} has no column but {known}")
    weight = None if data.sample_weight is None else table.select([data.sample_weight])[:, 0]
    if data.standard_errors is not None:
        check_standard_errors(data.standard_errors, names)
    x, numbers, n_dropped, errors = usable(table, names, data.missing, weight, data.standard_errors)
    weight = None if weight is None else weight[numbers]
    labels = None if data.labels is None else Labels.read(table, data.labels, numbers)
    axis_labels = tuple(f"{name} ({units[name]})" if units.get(name) else name for name in names)
    return Rows(x, names, axis_labels, weight, numbers, n_dropped, data.missing, data.standard_errors, errors, labels)


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
    return RowsInPieces(
        some, names, names, weight, np.arange(len(some)), 0, data.missing, None, None, None, own=own, every=every
    )


class Usable(NamedTuple):
    """Rows (N, D) out of a table, their numbers in it, how many others were dropped, and the variances of their errors."""

    x: np.ndarray
    numbers: np.ndarray
    n_dropped: int
    errors: np.ndarray | None


def usable(
    table: Table,
    names: Sequence[str],
    missing: str = "refuse",
    weight: np.ndarray | None = None,
    standard_errors: Sequence[str] | None = None,
    to_take_gaps: str = "set missing to drop or keep",
) -> Usable:
    """Columns of a table as rows, without those to be dropped: that lack a value, its standard error or their weight, or that
    have no value at all where `missing` ones are kept.

    Raises:
        ValueError: a column that isn't there or isn't numbers; missing or infinite values, with their rows, unless they are
            `missing` values that are to be dropped or kept; standard errors that aren't any.
    """
    x = table.select(names)
    errors = None if standard_errors is None else table.select(standard_errors)
    taken = np.ones(len(x), bool)
    if missing == "drop":
        given = [x, *(column for column in (errors, None if weight is None else weight[:, None]) if column is not None)]
        taken = ~np.isnan(np.column_stack(given)).any(axis=1)
    elif missing == "keep":
        taken = ~np.isnan(x).all(axis=1)
    numbers, n_dropped = np.flatnonzero(taken), int((~taken).sum())
    if n_dropped == len(x) > 0:
        beside = "" if errors is None and weight is None else ", or its standard error or weight"
        raise UserError(f"{table.source}: every row lacks a value of {', '.join(names)}{beside}: leave columns out")
    if errors is not None and standard_errors is not None:
        bad = (taken[:, None] & ~np.isnan(x)) & ~((errors >= 0) & np.isfinite(errors))
        _check_errors(table.source, standard_errors, errors, bad)
    try:
        rows = np.asarray(check_rows(x[taken], missing=missing == "keep"))
        return Usable(rows, numbers, n_dropped, None if errors is None else np.square(errors[taken]))
    except ValueError as error:
        x = np.where(taken[:, None], x, 0)
        gaps = np.isinf(x) if missing == "keep" else ~np.isfinite(x)
        if not gaps.any():
            raise UserError(f"{table.source}, rows counted from 0: {error}") from None
    columns = [names[d] for d in np.flatnonzero(gaps.any(axis=0)).tolist()]
    way_out = "drop those rows" if np.isinf(x).any() else to_take_gaps
    raise UserError(
        f"{table.source}: missing or infinite values in column{'s' * (len(columns) > 1)} {', '.join(columns)}, "
        f"{rows_named(gaps.any(axis=1))}, counted from 0: fill them in, {way_out}, or fit other columns"
    )


def _check_errors(source: str, names: Sequence[str], errors: np.ndarray, bad: np.ndarray) -> None:
    """Raises ValueError where standard errors (N, D) are `bad`."""
    if not bad.any():
        return
    row, d = np.argwhere(bad)[0].tolist()
    more = f", and {bad.sum() - 1} more like it" if bad.sum() > 1 else ""
    raise UserError(
        f"{source}: column {names[d]} has the standard error {errors[row, d]:g} in row {row}, counted from 0{more}: give a "
        "number of at least 0 wherever there is a value, or leave out the row"
    )
