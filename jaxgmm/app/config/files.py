"""The tables of a config that name files: `[data]`, `[output]` and `[report]`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from jaxgmm.app.config.strict import Names, StrictTable
from jaxgmm.datasets import LOADERS
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import unknown


class DataTable(StrictTable):
    """`[data]`: the rows to fit.

    Attributes:
        dataset: name of a data set that ships with jaxgmm, or
        path: a CSV (.csv, .tsv, .txt) or Parquet (.parquet) file with named columns, relative to the config's folder; in pieces
            also a folder, a pattern such as "rows/*.parquet", .npy, .zarr, or an address that pyarrow opens.
        in_pieces: whether rows are read a piece at a time, in every pass, as those that memory doesn't hold have to be.
        columns: the features, by name; every column if left out (of a shipped data set, its features).
        sample_weight: name of the column with the rows' weights.
        standard_errors: names of columns with the standard errors of the measured values, one for each of columns, in the same
            order and units; squared, they are `fit`'s error_covariances, and the mixture is that of the rows without errors.
        labels: name of a column with the components of rows where they are known; empty, NA or NaN where they aren't. Whole
            numbers are components, from 0 on, and -1 is unknown; text stands for components in its sorted order.
        delimiter: between the columns of a CSV; "," if left out, a tab for .tsv.
        decimal: the decimal mark of a CSV.
        missing: "refuse" rows that lack a value; "drop" them; or "keep" them, as missing at random, all but those without any
            value. Rows keep their numbers.
    """

    dataset: str | None = None
    path: str | None = None
    in_pieces: bool = False
    columns: Names | None = None
    sample_weight: str | None = None
    standard_errors: Names | None = None
    labels: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] = "."
    missing: Literal["refuse", "drop", "keep"] = "refuse"

    @field_validator("dataset")
    @classmethod
    def _ships(cls, name: str | None) -> str | None:
        if name is not None and name not in LOADERS:
            raise unknown("data set", name, LOADERS)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise UserError("give exactly one of path (a file) and dataset (a name)")
        if self.delimiter is not None and self.path is None:
            raise UserError("delimiter is for a path to a CSV file")
        if self.decimal != "." and self.path is None:
            raise UserError("decimal is for a path to a CSV file")
        tabs = self.delimiter is None and str(self.path).lower().removesuffix(".gz").endswith(".tsv")
        if self.decimal == "," and self.delimiter in (None, ",") and not tabs:
            raise UserError("decimal = ',' needs another delimiter, such as ';'")
        if self.in_pieces and self.path is None:
            raise UserError("in_pieces is for a path, and a data set that ships is small: leave it out")
        if self.in_pieces and (self.missing != "refuse" or self.decimal != "."):
            raise UserError("in_pieces takes rows as they are: leave missing and decimal out, and rewrite the files instead")
        if self.columns == ():
            raise UserError("columns is empty; leave it out to take every column")
        columns = self.columns or ()
        if len(set(columns)) < len(columns):
            raise UserError(f"columns names a column twice: {', '.join(columns)}")
        use = dict.fromkeys(columns, "one of the columns")
        for key, names in self.known.items():
            for name in dict.fromkeys(names):  # all values may have one error
                if name in use:
                    raise UserError(f"{key} = {name!r} is also {use[name]}")
                use[name] = key
        if self.standard_errors == ():
            raise UserError("standard_errors is empty; leave it out where values have no errors")
        if self.standard_errors and columns:
            check_standard_errors(self.standard_errors, columns)
        return self

    @property
    def known(self) -> dict[str, tuple[str, ...]]:
        """The columns that aren't features, by the keys that name them."""
        keys = {"sample_weight": (self.sample_weight,), "labels": (self.labels,), "standard_errors": self.standard_errors or ()}
        return {key: tuple(name for name in names if name is not None) for key, names in keys.items()}


def check_standard_errors(names: Sequence[str], columns: Sequence[str]) -> None:
    """Raises ValueError where there isn't one name for each of the measured columns."""
    if len(names) != len(columns):
        raise UserError(
            f"standard_errors has {len(names)} names, but the measured columns are {len(columns)}, {', '.join(columns)}: name "
            "one for each, in the same order"
        )


class OutputTable(StrictTable):
    """`[output]`: where the results go.

    Attributes:
        directory: the run's directory, relative to the current one; runs/<name of the config> if left out.
        assignments: format of the assignments: "csv" or "parquet".
    """

    directory: str
    assignments: Literal["csv", "parquet"] = "csv"

    @property
    def path(self) -> Path:
        """The directory, from the root on."""
        return Path(self.directory).expanduser().absolute()


class ReportTable(StrictTable):
    """`[report]`: the stage that writes report.html, one page that needs no network.

    Attributes:
        title: of the page; the directory's name if left out.
        n_outliers: rows that lie farthest from their component, to list.
    """

    title: str | None = None
    n_outliers: Annotated[int, Field(ge=0)] = 10
