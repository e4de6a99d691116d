"""Rows in files, or in an array that is read by slices, a piece at a time: `scan`."""

import functools
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm.data.arrow import CSV, SUFFIXES, Place, arrow_file, files_at, hidden
from jaxgmm.data.pieces import Piece, Pieces
from jaxgmm.data.units import Block, Table, Unit, share_of
from jaxgmm.tools import frames
from jaxgmm.tools.blocks import SHORT_LENGTHS
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.threads import ahead
from jaxgmm.tools.validation import check_count, rows_named

_NUMBERS_IN_A_PIECE = 1 << 22  # 32 MB of float64: passes take longer than what is around them
_KINDS = {".npy": "NumPy", ".zarr": "Zarr"} | SUFFIXES


def scan(
    source: Any,
    columns: Sequence[str] | None = None,
    *,
    sample_weight: str | None = None,
    rows_a_piece: int | None = None,
    delimiter: str | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Pieces:
    """The rows of files, or of an array that is read by slices, as `Pieces`: a pass reads them anew, a piece while one is
    at work, and memory holds two or three.

    Args:
        source: a file, a folder, a pattern such as "rows/*.parquet", or several, in the order of the rows: Parquet, Feather
            (.arrow, .feather), CSV (.csv, .tsv, .txt, .gz of them), .npy, or a Zarr array (.zarr); also an address that
            pyarrow opens, such as "s3://bucket/rows", of files whose columns have names. Or an object with `shape` (N, D) whose
            slices are arrays: of Zarr or h5py, or `np.memmap`.
        columns: the features, by name, of files whose columns have names; default: all, and they have to be numbers.
        sample_weight: the column with the rows' weights.
        rows_a_piece: default: about four million numbers.
        delimiter: between the columns of a CSV; by its suffix if left out.
        shard: (index, number), to read one of so many parts of the rows, as each of several processes does.

    Raises:
        ValueError: nothing to read, columns that differ between files or aren't there; and, when rows are asked for, values
            that are missing or infinite (with file and row), a file that can't be read or, on this machine, has changed.
        TypeError: columns that aren't numbers; something else than files.

    Example:
        >>> import jax, jaxgmm as jg, numpy as np, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> np.save(folder / "faithful.npy", jg.datasets.load_faithful().x)
        >>> rows = jg.data.scan(folder / "faithful.npy", rows_a_piece=100)
        >>> rows.n_samples, jg.fit(rows, 2, key=jax.random.key(0)).gmm.weights.round(2).min().item()
        (272, 0.36)
    """
    if isinstance(columns, str):
        raise UserTypeError(f"columns must be a list of names, got {columns!r}: columns=[{columns!r}].")
    rows_a_piece = None if rows_a_piece is None else check_count(rows_a_piece, "rows_a_piece")
    index, number = (check_count(value, "shard", least) for value, least in zip(shard, (0, 1), strict=True))
    if index >= number:
        raise UserError(f"shard is {shard}: the index must be below the number of parts.")
    if frames.feature_names(source) is not None:
        raise UserTypeError("source is a frame in memory: give it to fit itself.")
    if delimiter is not None and len(str(delimiter)) != 1:
        raise UserError(f"delimiter must be one character, got {delimiter!r}.")
    tables = [_array(source)] if hasattr(source, "shape") and hasattr(source, "__getitem__") else None
    if tables is None:
        tables = [_open(place, delimiter) for place in _places(source)]
    first = tables[0]
    names = _names(tables, columns, sample_weight)
    n_features = first.n_columns if names is None else len(names)
    dtype = np.result_type(*(table.dtype(names) for table in tables))
    rows = rows_a_piece or _usual_rows(n_features)
    every = [unit for table in tables for unit in table.units(names, sample_weight, _of_a_unit(tables, rows, number), dtype)]
    if not every:
        raise UserError(f"{first.place} has no rows{' nor have the others' if len(tables) > 1 else ''}.")
    shares = [share_of(every, part, number) for part in range(number)]
    if not all(shares):
        others = " and the others" if len(tables) > 1 else ""
        raise UserError(
            f"the rows of {first.place}{others} can't be shared out to {number}: whole row groups of a file are read, and "
            f"there are {len(every)} of them. Write smaller ones, or take fewer parts."
        )
    units = shares[index]
    known = [unit.n_rows for unit in units]
    reading = _Reading(tuple(units), rows, names)
    if sample_weight is not None or None in known:
        return Pieces(reading, names)
    return Pieces(reading, names, sum(n for n in known if n is not None))


@dataclass(frozen=True)
class _Reading:
    """A pass over the rows, whenever it is called: pieces of one length but for the last."""

    units: tuple[Unit, ...]
    rows: int
    names: tuple[str, ...] | None

    def __call__(self) -> Iterator[Piece]:
        return ahead(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        left: list[Block] = []
        n_left = 0
        for unit in self.units:
            unit.check_unchanged()
            for block in _checked(unit):
                left.append(block)
                n_left += len(block.rows)
                while n_left >= self.rows:
                    piece, left = _cut(left, self.rows, self.names)
                    n_left -= self.rows
                    yield piece
            unit.check_unchanged()
        if n_left:
            yield _cut(left, n_left, self.names)[0]


def _cut(blocks: list[Block], n_rows: int, names: tuple[str, ...] | None) -> tuple[Piece, list[Block]]:
    """The first rows of some blocks as one piece, and the blocks that are left."""
    taken, rest, missing = [], [], n_rows
    for block in blocks:
        n = min(missing, len(block.rows))
        if n:
            taken.append(block.part(0, n))
        if n < len(block.rows):
            rest.append(block.part(n, len(block.rows)))
        missing -= n
    rows = np.concatenate([block.rows for block in taken]) if len(taken) > 1 else np.ascontiguousarray(taken[0].rows)
    weights = [block.weight for block in taken if block.weight is not None]
    return Piece(rows, np.concatenate(weights) if weights else np.ones(len(rows), rows.dtype), names), rest


def _checked(unit: Unit) -> Iterator[Block]:
    """The blocks of a unit, of finite numbers and weights that aren't negative; errors name the file and the row in it."""
    row = unit.first
    for block in unit.blocks():
        if not (np.isfinite(block.rows.min(initial=0)) and np.isfinite(block.rows.max(initial=0))):
            bad = ~np.isfinite(block.rows).all(axis=1)
            where = rows_named(bad, row)
            what = "infinite values" if np.isinf(block.rows).any() else "missing values (NaN)"
            raise UserError(f"{unit.where} has {what} in {where}, counted from 0: drop these rows, or fill them in.")
        if block.weight is not None:
            bad = ~(np.isfinite(block.weight) & (block.weight >= 0))
            if bad.any():
                raise UserError(f"{unit.where} has a weight that is no number of at least 0 in {rows_named(bad, row)}.")
        row += len(block.rows)
        yield block
    if unit.n_rows is not None and row != unit.first + unit.n_rows:
        raise UserError(f"{unit.where} gave {row - unit.first} rows where {unit.n_rows} were announced: it is damaged.")


def _of_a_unit(tables: Sequence[Table], rows: int, number: int) -> int:
    """Rows that are read at a time: so few that shares are about equal."""
    known = [table.n_rows for table in tables]
    if number == 1 or None in known:
        return rows
    return min(rows, max(1, sum(n for n in known if n is not None) // (8 * number)))


def _usual_rows(n_features: int) -> int:
    """A length that needs no padding."""
    most = max(SHORT_LENGTHS[0], _NUMBERS_IN_A_PIECE // n_features)
    return 1 << most.bit_length() - 1 if most >= SHORT_LENGTHS[-1] else max(n for n in SHORT_LENGTHS if n <= most)


def _names(tables: Sequence[Table], columns: Sequence[str] | None, sample_weight: str | None) -> tuple[str, ...] | None:
    """The features' names, the same in every file; None where columns have no names."""
    first = tables[0]
    for table in tables:
        if (table.names is None) != (first.names is None) or (table.names is None and table.n_columns != first.n_columns):
            raise UserError(
                f"{table.place} has {table.n_columns} columns{'' if table.names else ' without names'}, but {first.place} has "
                f"{first.n_columns}{'' if first.names else ' without names'}: give files of the same columns."
            )
    if first.names is None:
        for name, given in (("columns", columns), ("sample_weight", sample_weight)):
            if given is not None:
                raise UserError(f"{name} is {given!r}, but the columns of {first.place} have no names: leave {name} out.")
        return None
    wanted = tuple(columns) if columns is not None else tuple(name for name in first.names if name != sample_weight)
    if not wanted or len(set(wanted)) < len(wanted):
        raise UserError(f"columns must name at least one column, and none twice, got {list(wanted)}.")
    if sample_weight in wanted:
        raise UserError(f"sample_weight is {sample_weight!r}, which is also one of the columns.")
    for table in tables:
        known = table.names or ()
        for name in (*wanted, *(() if sample_weight is None else (sample_weight,))):
            if name not in known:
                raise UserError(f"{table.place} has no column {name!r}; it has {', '.join(known[:12])}.")
        more = [name for name in known if name not in first.names]
        if columns is None and more:
            raise UserError(f"{table.place} has a column {more[0]!r}, which {first.place} doesn't have: name the columns.")
    return wanted


def _places(source: Any) -> list[Place]:
    """The files, by path or address, in the order of their rows."""
    given = [source] if isinstance(source, str | os.PathLike) else source
    if not isinstance(given, Sequence) or not all(isinstance(one, str | os.PathLike) for one in given):
        raise UserTypeError(f"source must be a file, a folder, a pattern, or a list of them, got {type(source).__name__}.")
    found = [place for one in given for place in _files(os.fspath(one))]
    if not found:
        raise UserError("source is an empty list: name at least one file.")
    return found


def _files(place: str) -> list[Place]:
    if "://" in place:
        return [Place(place)] if _suffix(place) == ".zarr" else files_at(place)
    path = Path(place).expanduser()
    if not path.exists():
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise FileNotFoundError(f"no data file {place}")
        return [one for match in found for one in _files(match)]
    if not path.is_dir() or path.suffix == ".zarr":
        return [Place(str(path))]
    found = sorted(str(file) for file in path.rglob("*") if _is_rows(file) and not hidden(file.relative_to(path)))
    if not found:
        raise UserError(f"{place} has no file that ends in one of {', '.join(_KINDS)}.")
    return [Place(one) for one in found]


def _is_rows(file: Path) -> bool:
    """A file, or the folder that a Zarr array is."""
    in_zarr = any(parent.suffix == ".zarr" for parent in file.parents)
    return not in_zarr and _suffix(str(file)) in _KINDS and file.is_dir() == (file.suffix == ".zarr")


def _suffix(place: str) -> str:
    return Path(place.removesuffix(".gz")).suffix.lower()


def _open(file: Place, delimiter: str | None) -> Table:
    place, suffix = file.name, _suffix(file.name)
    if suffix not in _KINDS:
        raise UserError(f"{place}: unknown type of file {suffix!r}; give one of {', '.join(_KINDS)}.")
    if delimiter is not None and suffix not in CSV:
        raise UserError(f"delimiter is for CSV files, and {place} is none: leave it out.")
    if suffix == ".npy":
        return _npy(place)
    if suffix == ".zarr":
        try:
            import zarr
        except ModuleNotFoundError:
            raise UserError(f"{place} needs the package zarr: pip install zarr.") from None
        array: Any = zarr.open(place, mode="r")
        if not hasattr(array, "shape"):
            raise UserError(f"{place} is a group of arrays: give the array, zarr.open(path)[name].")
        return _array(array, place)
    return arrow_file(file, suffix, delimiter)


def _array(array: Any, place: str = "x") -> Table:
    """What has a shape and can be sliced."""
    if len(array.shape) != 2 or 0 in array.shape:
        raise UserError(f"{place} has shape {tuple(array.shape)}: rows x columns, at least one of each, are needed.")
    dtype = _floating(np.dtype(array.dtype), place)
    n_samples, n_columns = map(int, array.shape)

    def units(names: Sequence[str] | None, weight: str | None, rows: int, dtype: np.dtype) -> list[Unit]:
        def read(first: int, n_rows: int) -> Iterator[Block]:
            yield Block(np.asarray(array[first : first + n_rows]).astype(dtype))

        starts = range(0, n_samples, rows)
        parts = [(first, min(rows, n_samples - first)) for first in starts]
        return [Unit(place, first, n, functools.partial(read, first, n)) for first, n in parts]

    return Table(place, None, n_columns, n_samples, lambda names: dtype, units)


def _npy(place: str) -> Table:
    """A .npy file, read as a file: the pages of a memory map would count as memory of the process."""
    path = Path(place)
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, own = read_header(file)
            offset = file.tell()
    except ValueError as error:
        raise UserError(f"{place} can't be read: {error}") from None
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"{place} has shape {shape}: rows x columns, at least one of each, are needed.")
    dtype = _floating(own, place)
    n_samples, n_columns = shape
    width = own.itemsize * n_columns
    if path.stat().st_size < offset + n_samples * width:
        whole = (path.stat().st_size - offset) // width
        raise UserError(f"{place} has {max(whole, 0)} of {n_samples} rows: it was cut short.")

    def units(names: Sequence[str] | None, weight: str | None, rows: int, dtype: np.dtype) -> list[Unit]:
        def read(first: int, n_rows: int) -> Iterator[Block]:
            if fortran:  # columns one after the other, as pandas has them
                starts = [offset + (j * n_samples + first) * own.itemsize for j in range(n_columns)]
                flat = np.column_stack([np.fromfile(place, own, n_rows, offset=start) for start in starts])
            else:
                flat = np.fromfile(place, own, n_rows * n_columns, offset=offset + first * width)
            yield Block(flat.reshape(n_rows, n_columns).astype(dtype, copy=False))

        parts = [(first, min(rows, n_samples - first)) for first in range(0, n_samples, rows)]
        return [Unit.of_file(place, first, n, functools.partial(read, first, n)) for first, n in parts]

    return Table(place, None, n_columns, n_samples, lambda names: dtype, units)


def _floating(dtype: np.dtype, place: str) -> np.dtype:
    if dtype.kind not in "biuf":
        raise UserTypeError(f"{place} has dtype {dtype}, but a Gaussian mixture needs real numbers.")
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)
