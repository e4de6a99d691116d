"""Files whose columns have names, as pyarrow reads them: Parquet, Feather, CSV."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from jaxgmm.data.units import Block, Table, Unit
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError

CSV = {".csv": ",", ".tsv": "\t", ".txt": ","}
SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".arrow": "feather", ".feather": "feather"} | dict.fromkeys(CSV, "csv")
_BATCHES_AHEAD = 2  # of a file's: each of a piece's size


class Place(NamedTuple):
    """A file: its path or address, and where pyarrow finds it, if that isn't its path."""

    name: str
    path: str | None = None
    system: Any = None


def arrow_file(file: Place, suffix: str, delimiter: str | None) -> Table:
    """A file on this machine, or at an address that pyarrow opens.

    Raises:
        ValueError: it can't be read, has two columns of one name, or a first line of numbers instead of names.
    """
    place = file.name
    ds = _dataset(place)
    kind: Any = SUFFIXES[suffix]
    if kind == "csv":
        from pyarrow.csv import ParseOptions

        kind = ds.CsvFileFormat(parse_options=ParseOptions(delimiter=delimiter or CSV[suffix]))
    elif kind == "parquet":
        checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        kind = ds.ParquetFileFormat(default_fragment_scan_options=checked)
    with _reading(place):
        (fragment,) = ds.dataset(file.path or place, format=kind, filesystem=file.system).get_fragments()
        schema = fragment.physical_schema
    found = frames.feature_names(schema.empty_table(), place) or ()
    originals = {name.strip(): name for name in found} if suffix in CSV else {name: name for name in found}
    names = tuple(originals)
    if len(names) < len(found):
        raise UserError(f"{place} has two columns of one name, but for the spaces around it: rename one of them.")
    if suffix in CSV and all(map(is_number, names)):
        raise UserError(f"{place}: the first line, {', '.join(names[:4])}, is numbers; it should be the columns' names.")
    kinds = {name: schema.field(own).type for name, own in originals.items()}
    between = [mark for mark in ";\t|," if len(names) == 1 and mark in names[0]]
    if suffix in CSV and between:
        raise UserError(
            f"{place} has one column, {names[0]!r}: if {between[0]!r} is between its columns, set delimiter to that."
        )

    def dtype(columns: Sequence[str] | None) -> np.dtype:
        others = [name for name in columns or () if not frames.is_number_of_arrow(kinds[name])]
        if others:
            good = [name for name in names if frames.is_number_of_arrow(kinds[name])]
            raise UserTypeError(
                f"{place}: column {others[0]!r} is not numbers ({kinds[others[0]]}); columns={good[:12]} names those that are."
            )
        single = all(str(kinds[name]) in ("float", "halffloat") for name in columns or ())
        return np.dtype(np.float32 if single else np.float64)

    def units(columns: Sequence[str] | None, weight: str | None, rows: int, dtype: np.dtype) -> list[Unit]:
        if weight is not None and not frames.is_number_of_arrow(kinds[weight]):
            raise UserTypeError(f"{place}: column {weight!r}, the weights, is not numbers ({kinds[weight]}).")
        features = [originals[name] for name in columns or ()]
        wanted = [*features, *(() if weight is None else (originals[weight],))]
        typed = None
        if suffix in CSV:  # a column of whole numbers in the first lines may have others later
            import pyarrow as pa

            typed = pa.schema([(name, pa.float64()) for name in wanted])

        def read(part: Any) -> Iterator[Block]:
            with _reading(place):
                options = {} if typed is None else {"schema": typed}
                for batch in part.to_batches(columns=wanted, batch_size=rows, batch_readahead=_BATCHES_AHEAD, **options):
                    if batch.num_rows:
                        own = None if weight is None else _column(batch, originals[weight])
                        yield Block(_matrix(batch, features, dtype), own)

        parts: list[tuple[Any, int | None]] = [(fragment, None)]
        if hasattr(fragment, "split_by_row_group"):
            with _reading(place):
                groups = fragment.split_by_row_group()
                parts = [(group, group.row_groups[0].num_rows) for group in groups]
        elif kind == "feather":
            with _reading(place):
                parts = [(fragment, fragment.count_rows())]
        parts, first, made = [part for part in parts if part[1] != 0], 0, []
        local = file.path is None
        for part, n_rows in parts:
            make: Any = Unit.of_file if local else Unit
            made.append(make(place, first, n_rows, functools.partial(read, part)))
            first += n_rows or 0
        return made

    return Table(place, names, len(names), None, dtype, units)


def files_at(address: str) -> list[Place]:
    """The files at an address, those of a folder in order."""
    _dataset(address)
    from pyarrow import fs

    with _reading(address):
        system, path = fs.FileSystem.from_uri(address)
        here = system.get_file_info(path)
        if here.type is fs.FileType.NotFound:
            raise FileNotFoundError(address)
        there = [here] if here.type is fs.FileType.File else system.get_file_info(fs.FileSelector(path, recursive=True))
    scheme = address.partition("://")[0]
    found = []
    for info in sorted(there, key=lambda info: info.path):
        known = info.type is fs.FileType.File and PurePosixPath(info.path.removesuffix(".gz")).suffix.lower() in SUFFIXES
        if known and not hidden(PurePosixPath(info.path[len(path) :].lstrip("/"))):
            found.append(Place(f"{scheme}://{info.path}", info.path, system))
    if not found:
        raise UserError(
            f"{address} has no file that ends in one of {', '.join(SUFFIXES)}; others are read on this machine alone."
        )
    return found


def hidden(path: PurePath) -> bool:
    """Whether a file in a folder is none of its rows: what writers leave beside them begins with a dot or an underscore."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _dataset(place: str) -> Any:
    try:
        import pyarrow.dataset as ds
    except ModuleNotFoundError:
        raise UserError(f"{place} is read by pyarrow, which is not installed: pip install pyarrow.") from None
    return ds


@contextmanager
def _reading(place: str) -> Iterator[None]:
    """What pyarrow says of a file that is missing or damaged, as an error that names it."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"no data file {place}") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place} can't be read: {' '.join(str(error).split())[:300]}") from None


def _matrix(batch: Any, columns: Sequence[str], dtype: np.dtype) -> np.ndarray:
    rows = np.empty((batch.num_rows, len(columns)), dtype)
    for j, name in enumerate(columns):
        rows[:, j] = _column(batch, name)
    return rows


def _column(batch: Any, name: str) -> np.ndarray:
    """As numbers; NaN where one is missing."""
    column = batch.column(name)
    if str(column.type) not in ("float", "double"):
        column = column.cast("float64", safe=False)
    return column.to_numpy(zero_copy_only=False)


def is_number(text: Any) -> bool:
    """Whether a text of a CSV is one."""
    try:
        float(text)
    except ValueError:
        return False
    return True
