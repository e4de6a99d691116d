"""The rows that the `[data]` table of a config asks for."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from jaxgmm.app.config import DataTable
from jaxgmm.app.tables import Table, read_table
from jaxgmm.datasets import LOADERS
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_rows, rows_named


@dataclass(frozen=True, eq=False)
class Rows:
    """The data of a run: x (N, D), its columns' names, these with units for figures, and the rows' weights or None."""

    x: np.ndarray
    feature_names: tuple[str, ...]
    axis_labels: tuple[str, ...]
    sample_weight: np.ndarray | None

    @property
    def frame(self) -> pd.DataFrame:
        """The rows with their columns' names: what is fitted to it keeps them."""
        return pd.DataFrame(self.x, columns=pd.Index(self.feature_names), copy=False)


def read_rows(data: DataTable) -> Rows:
    """The features and weights that `[data]` asks for.

    Raises:
        ValueError: a column that isn't there or isn't numbers; missing or infinite values, with their rows.
        OSError: the file can't be read.
    """
    units: dict[str, str] = {}
    if data.dataset is not None:
        shipped = LOADERS[data.dataset]()
        units = dict(zip(shipped.feature_names, shipped.units, strict=True))
        table = Table(f"data set {shipped.name}", dict(zip(units, shipped.x.T, strict=True)) | shipped.labels)
        names = data.columns or shipped.feature_names
    else:
        assert data.path is not None  # the config has exactly one of them
        table = read_table(data.path, data.delimiter)
        names = data.columns or tuple(name for name in table.columns if name != data.sample_weight)
    return Rows(
        x=usable(table, names),
        feature_names=names,
        axis_labels=tuple(f"{name} ({units[name]})" if units.get(name) else name for name in names),
        sample_weight=None if data.sample_weight is None else table.select([data.sample_weight])[:, 0],
    )


def usable(table: Table, names: tuple[str, ...]) -> np.ndarray:
    """Columns of a table as (N, D) rows.

    Raises:
        ValueError: a column that isn't there or isn't numbers; missing or infinite values, with their rows.
    """
    x = table.select(names)
    try:
        return np.asarray(check_rows(x))
    except ValueError as error:
        gaps = ~np.isfinite(x)
        if not gaps.any():
            raise UserError(f"{table.source}, rows counted from 0: {error}") from None
    columns = [names[d] for d in np.flatnonzero(gaps.any(axis=0))]
    raise UserError(
        f"{table.source}: missing or infinite values in column{'s' * (len(columns) > 1)} {', '.join(columns)}, "
        f"{rows_named(gaps.any(axis=1))}, counted from 0: fill them in, drop those rows, or fit other columns"
    )
