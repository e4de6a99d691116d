"""The tables of a config that name files: `[data]`, `[output]` and `[report]`."""

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
        delimiter: between the columns of a CSV; "," if left out, a tab for .tsv.
        decimal: the decimal mark of a CSV.
        missing: "refuse" rows that lack a value, or "drop" them; the others keep their numbers.
    """

    dataset: str | None = None
    path: str | None = None
    in_pieces: bool = False
    columns: Names | None = None
    sample_weight: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] = "."
    missing: Literal["refuse", "drop"] = "refuse"

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
        if self.in_pieces and (self.missing == "drop" or self.decimal != "."):
            raise UserError("in_pieces takes rows as they are: leave missing and decimal out, and rewrite the files instead")
        if self.columns == ():
            raise UserError("columns is empty; leave it out to take every column")
        columns = self.columns or ()
        if len(set(columns)) < len(columns):
            raise UserError(f"columns names a column twice: {', '.join(columns)}")
        if self.sample_weight in columns:
            raise UserError(f"sample_weight = {self.sample_weight!r} is also one of the columns")
        return self


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
