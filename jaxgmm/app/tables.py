"""Tables in files: columns by name out of CSV and Parquet, and back."""

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from jaxgmm.data.arrow import CSV, is_number
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.frames import OF_AN_INDEX
from jaxgmm.tools.validation import check_path, unknown

_PARQUET = (".parquet", ".pq")
_SEPARATORS = (";", "\t", "|", ",")
_SHOWN = 12  # columns named in a message


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length.

    Attributes:
        source: where they come from, for messages.
        columns: each column's values, by name.
    """

    source: str
    columns: Mapping[str, pa.ChunkedArray | np.ndarray]

    def select(self, names: Sequence[str]) -> np.ndarray:
        """The named columns as numbers.

        Args:
            names: of the columns, in the order they are wanted.

        Returns:
            (N, len(names)) float64; NaN where a value is missing.

        Raises:
            ValueError: a column that isn't there, or isn't numbers.

        Example:
            >>> import numpy as np
            >>> from jaxgmm.app.tables import Table
            >>> table = Table("example", {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])})
            >>> table.select(["b"]).tolist()
            [[3.0], [4.0]]
        """
        return np.column_stack([self._numbers(name) for name in names])

    def column(self, name: str) -> np.ndarray:
        """The named column (N,), whatever is in it: float64, NaN where a number is missing; or text, "" where it is missing.

        Raises:
            ValueError: a column that isn't there, or holds neither.
        """
        numbers = _numbers(self._known(name))
        return _text(self.columns[name], f"{self.source}: column {name!r}") if numbers is None else numbers

    def _known(self, name: str) -> pa.ChunkedArray | np.ndarray:
        if name not in self.columns:
            raise UserError(f"{self.source}: {unknown('column', name, self.columns)}")
        return self.columns[name]

    def _numbers(self, name: str) -> np.ndarray:
        numbers = _numbers(self._known(name))
        if numbers is None:
            numeric = [f'"{other}"' for other, column in self.columns.items() if _numbers(column) is not None]
            shown = ", ".join(numeric[:_SHOWN] + ["..."] * (len(numeric) > _SHOWN))
            choice = f"choose among the numeric ones: columns = [{shown}]" if numeric else "no other column is"
            raise UserError(f"{self.source}: column {name!r} is not numbers ({_obstacle(self.columns[name])}); {choice}")
        return numbers


def read_table(path: str | Path, delimiter: str | None = None, decimal: str = ".") -> Table:
    """Read a CSV (.csv, .tsv, .txt; also .gz of them) or Parquet (.parquet, .pq) file whose columns have names.

    Args:
        path: of the file; its suffix says what it is.
        delimiter: between the columns of a CSV; by the suffix if None.
        decimal: the decimal mark of a CSV.

    Raises:
        OSError: the file can't be read.
        ValueError: another suffix, a broken file, no header, a name given to two columns.
    """
    path = check_path(path)
    if not path.exists():
        raise FileNotFoundError(f"no data file {path}")
    if delimiter is not None and len(delimiter) != 1:
        raise UserError(f"delimiter must be one character, got {delimiter!r}")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in (*CSV, *_PARQUET):
        raise UserError(f"{path}: unknown type of file {suffix!r}; give one of {', '.join([*CSV, *_PARQUET])}")
    delimiter = delimiter or CSV.get(suffix)
    try:
        if suffix in _PARQUET:
            table = pa.parquet.read_table(path)
            table = table.drop_columns([name for name in table.column_names if OF_AN_INDEX.fullmatch(name)])
        else:
            table = _read_csv(path, delimiter, decimal)
        names = [name.strip() for name in table.column_names]
    except UnicodeDecodeError:
        raise UserError(f"{path} can't be read: its first line is not UTF-8 text") from None
    except pa.ArrowException as error:
        how = "" if delimiter is None else f" as columns separated by {delimiter!r}"
        way_out = "" if delimiter is None else ". Another delimiter? Set it"
        raise UserError(f"{path} can't be read{how}: {' '.join(str(error).split())}{way_out}") from None
    between = [mark for mark in _SEPARATORS if len(names) == 1 and mark in names[0]]
    if between and suffix in CSV and _numbers(table.column(0)) is None:
        raise UserError(f"{path} has one column, {names[0]!r}: if {between[0]!r} is between its columns, set delimiter to that")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"{path}: two columns are called {min(twice)!r}; rename one of them")
    if suffix in CSV and all(map(is_number, names)):
        raise UserError(f"{path}: the first line, {', '.join(names[:4])}, is numbers; it should be the columns' names")
    return Table(str(path), dict(zip(names, table.columns, strict=True)))


def usual_delimiter(path: Path) -> str | None:
    """What is between the columns of such a CSV, by its suffix; None for what is no CSV."""
    return CSV.get(Path(path.name.removesuffix(".gz")).suffix.lower())


def look_at_csv(path: Path, delimiter: str | None = None) -> tuple[str | None, str]:
    """What is between the columns of a CSV, by its first line unless it is known, and its decimal mark, by which more columns
    are numbers.

    A point for what is no CSV or can't be read, which `read_table` says.
    """
    usual = usual_delimiter(path)
    if usual is None or not path.is_file():
        return delimiter, "."
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            first = file.readline()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return delimiter, "."
    found = delimiter or max((usual, *_SEPARATORS), key=first.count)
    if found == ",":
        return found, "."
    try:
        tables = [_read_csv(path, found, decimal) for decimal in (".", ",")]
    except (UnicodeDecodeError, pa.ArrowException):
        return delimiter, "."
    with_point, with_comma = (sum(_numbers(column) is not None for column in table.columns) for table in tables)
    return found, "," if with_comma > with_point else "."


def _read_csv(path: Path, delimiter: str | None, decimal: str = ".") -> pa.Table:
    def read(ignore_empty_lines: bool) -> pa.Table:
        options = pa.csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=ignore_empty_lines)
        return pa.csv.read_csv(path, parse_options=options, convert_options=pa.csv.ConvertOptions(decimal_point=decimal))

    table = read(ignore_empty_lines=True)
    if table.num_columns > 1:
        return table
    # Of a single column an empty line is a missing value, but for those at the end.
    table = read(ignore_empty_lines=False)
    present = np.flatnonzero(table.column(0).is_valid())
    return table.slice(0, present[-1] + 1 if len(present) else 0)


def write_tables(file: str | Path | BinaryIO, tables: Iterable[Mapping[str, np.ndarray]]) -> None:
    """Write columns to a file, one table below the other: Parquet if its suffix says so, CSV otherwise.

    Raises:
        OSError: the file can't be written.
    """
    parquet = isinstance(file, str | Path) and Path(file).suffix.lower() in _PARQUET
    with ExitStack() as open_files:
        writer: Any = None
        for columns in tables:
            table = pa.table(dict(columns))
            if writer is None:
                make = pa.parquet.ParquetWriter if parquet else pa.csv.CSVWriter
                writer = open_files.enter_context(make(file, table.schema))
            writer.write_table(table)


def _numbers(column: pa.ChunkedArray | np.ndarray) -> np.ndarray | None:
    """The column as float64, None if it isn't numbers."""
    if isinstance(column, np.ndarray):
        return column.astype(float) if column.dtype.kind in "iuf" else None
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    # A column of nothing but missing values has the type null.
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        return column.cast(pa.float64(), safe=False).to_numpy()
    return None


def _text(column: pa.ChunkedArray | np.ndarray, what: str) -> np.ndarray:
    """The column as text."""
    if isinstance(column, np.ndarray):
        return column.astype(str)
    try:
        return column.cast(pa.string()).fill_null("").to_numpy().astype(str)
    except pa.ArrowException:
        raise UserError(f"{what} is neither numbers nor text, but of type {column.type}") from None


def _obstacle(column: pa.ChunkedArray | np.ndarray) -> str:
    """The first value that stands in the way of numbers."""
    kind = getattr(column, "type", "text")
    for row, value in enumerate(column):
        value = value.as_py() if isinstance(value, pa.Scalar) else value
        if value not in (None, "") and not (isinstance(value, str) and is_number(value)):
            comma = isinstance(value, str) and value.count(",") == 1 and is_number(value.replace(",", "."))
            return f"row {row} is {value!s:.40}{': set decimal to a comma, or write a point' * comma}"
    return f"type {kind}"
