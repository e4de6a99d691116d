"""Rows whose columns have names: pandas, polars, pyarrow, xarray, and whatever else hands out Arrow.

A library is known by what has been imported: none is imported here, but pyarrow for frames of a library that isn't listed.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgmm.tools.errors import UserError, UserTypeError

_KINDS = {"pandas": ("DataFrame",), "polars": ("DataFrame",), "pyarrow": ("Table", "RecordBatch"), "xarray": ("DataArray",)}
OF_AN_INDEX = re.compile(r"__index_level_\d+__")  # how pandas writes an index without a name into Arrow tables
_KINDS_OF_LABELS = "iufUM"  # that xarray and netCDF know
_SHOWN = 5


def feature_names(x: object, name: str = "x") -> tuple[str, ...] | None:
    """The names of the columns of a frame, as strings; None for anything else.

    The index of a pandas frame isn't a column, nor is what became of it in an Arrow table.

    Args:
        x: anything.
        name: the argument's name in error messages.

    Raises:
        ValueError: two columns of one name.
        TypeError: a frame that isn't in memory yet, or has more than columns.

    Example:
        >>> import pandas as pd
        >>> from jaxgmm.tools import frames
        >>> frames.feature_names(pd.DataFrame({"a": [1.0], "b": [2.0]})), frames.feature_names([[1.0, 2.0]])
        (('a', 'b'), None)
    """
    columns = _columns(x, name)
    if columns is None:
        return None
    names = tuple(str(columns[i]) for i in _features(x, columns))
    if len(set(names)) < len(names):
        twice = next(own for i, own in enumerate(names) if own in names[:i])
        raise UserError(f"{name} has two columns called {twice!r}: rename one of them.")
    return names


def ordered(x: object, names: Sequence[str] | None, name: str = "x") -> Any:
    """A frame with the columns `names`, in that order; anything else as it is, and any frame where `names` is None.

    Also puts a row in order, a pandas Series whose index has the names.

    Raises:
        ValueError: columns that are missing, or that none of `names` stands for: named.
    """
    if names is None:
        return x
    given = _labels_of_row(x, names) if _is(x, "pandas", ("Series",)) else feature_names(x, name)
    if given is None or given == tuple(names):
        return x
    return _select(x, order_of(given, names, name))


def order_of(given: Sequence[str], names: Sequence[str], name: str) -> list[int]:
    """Where among the columns that are given each of `names` is. Raises ValueError where they are others."""
    missing, more = [own for own in names if own not in given], [own for own in given if own not in names]
    if missing or more:
        raise UserError(_mismatch(missing, more, names, name))
    return [given.index(own) for own in names]


def is_row(x: object) -> bool:
    """Whether it is one row whose features may have names: a pandas Series."""
    return _is(x, "pandas", ("Series",))


def order_of_row(x: object, names: Sequence[str] | None) -> list[int] | None:
    """Where in a named row each of `names` is; None where the row or the features have no names."""
    own = _labels_of_row(x, names) if names is not None and is_row(x) else None
    return None if own is None or names is None or set(own) != set(names) else [own.index(name) for name in names]


def to_numbers(x: Any, name: str = "x") -> np.ndarray | None:
    """The columns of a frame, or a pandas Series, as a float array; NaN where a value is missing. None for anything else.

    float32 where all columns are, else float64.

    Raises:
        TypeError: columns that aren't real numbers: named.
    """
    if _is(x, "pandas", ("Series",)):
        _refuse_others([] if _is_number(x.dtype, "pandas") else [(x.name, x.dtype)], x, name)
        return np.asarray(x) if isinstance(x.dtype, np.dtype) else x.to_numpy(dtype=float, na_value=np.nan)
    columns = _columns(x, name)
    if columns is None:
        return None
    if _is(x, "xarray"):
        return np.asarray(x)
    x = _as_known(x)
    keep = _features(x, columns)
    x = x if len(keep) == len(columns) else _select(x, range(len(keep)))
    library = next(library for library in _KINDS if _is(x, library))
    kinds = list(x.schema.types if library == "pyarrow" else x.dtypes)
    names = feature_names(x, name) or ()
    _refuse_others([pair for pair in zip(names, kinds, strict=True) if not _is_number(pair[1], library)], x, name)
    dtype = np.dtype(np.float32 if kinds and all(str(kind).lower() in ("float32", "float") for kind in kinds) else np.float64)
    if library == "pandas":
        return np.asarray(x) if _has_dtype(kinds, dtype) else x.to_numpy(dtype=dtype, na_value=np.nan)
    if library == "polars":
        polars = sys.modules["polars"]
        return x.cast(polars.Float32 if dtype == np.float32 else polars.Float64).to_numpy()
    arrays = [column.cast(str(dtype), safe=False).to_numpy(zero_copy_only=False) for column in x.columns]
    return np.column_stack(arrays) if arrays else np.empty((x.num_rows, 0))


def row_labels(x: Any) -> np.ndarray | None:
    """The labels of the rows, by which answers about them are joined to a frame: numbers, strings or dates without time zone.

    They are the index of a pandas frame, and the coordinate of an xarray array's first dimension, repeated labels and gaps as
    they are. None, which is for the positions 0, 1, ..., where there are no labels, and where they are of another kind: a
    MultiIndex, periods, a mixture of kinds.

    Example:
        >>> import pandas as pd
        >>> from jaxgmm.tools import frames
        >>> frames.row_labels(pd.DataFrame({"a": [1.0, None, 3.0]}).dropna()), frames.row_labels([[1.0], [2.0]])
        (array([0, 2]), None)
    """
    if _is(x, "pandas"):
        index = x.index
    elif _is(x, "xarray"):
        index = x.indexes.get(x.dims[0]) if x.dims else None
    else:
        return None
    labels = np.asarray(index) if index is not None and index.nlevels == 1 else np.array(None)
    if labels.dtype.kind == "O" and labels.ndim and all(isinstance(label, str) for label in labels):
        return labels.astype(str)
    return labels if labels.dtype.kind in _KINDS_OF_LABELS else None


def _is(x: object, library: str, kinds: tuple[str, ...] = ()) -> bool:
    module = sys.modules.get(library)
    classes = [getattr(module, kind) for kind in kinds or _KINDS[library] if hasattr(module, kind)]
    return isinstance(x, tuple(classes))


def _columns(x: Any, name: str) -> list[Any] | None:
    """All labels of columns, an index' in Arrow included; None where there are none."""
    if isinstance(x, np.ndarray | list | tuple):
        return None
    if _is(x, "pandas"):
        return list(x.columns)
    if _is(x, "polars"):
        return list(x.columns)
    if _is(x, "pyarrow"):
        return list(x.schema.names)
    if _is(x, "xarray"):
        labels = x.coords.get(x.dims[1]) if x.ndim == 2 else None
        return None if labels is None else labels.values.tolist()
    if _is(x, "polars", ("LazyFrame",)):
        raise UserTypeError(f"{name} is a polars LazyFrame, which holds no rows yet: {name}.collect().")
    if _is(x, "xarray", ("Dataset", "DataTree")):
        raise UserTypeError(f"{name} is an xarray {type(x).__name__}, not rows of columns: a Dataset's to_dataframe() is.")
    is_series = _is(x, "pandas", ("Series",)) or _is(x, "polars", ("Series",)) or _is(x, "pyarrow", ("Array", "ChunkedArray"))
    if hasattr(type(x), "__arrow_c_stream__") and not is_series:
        return list(_as_known(x).schema.names)
    return None


def _as_known(x: object) -> Any:
    """A frame of another library as an Arrow table."""
    if any(_is(x, library) for library in _KINDS):
        return x
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{error}. Frames of {type(x).__module__} are read by pyarrow: pip install pyarrow.") from None
    return pyarrow.table(x)


def _features(x: Any, columns: Sequence[Any]) -> list[int]:
    """The columns that aren't an index."""
    metadata = (_is(x, "pyarrow") and x.schema.pandas_metadata) or {}
    index = [column for column in metadata.get("index_columns", ()) if isinstance(column, str)]
    return [i for i, own in enumerate(columns) if own not in index and not OF_AN_INDEX.fullmatch(str(own))]


def _select(x: Any, order: Sequence[int]) -> Any:
    """Features of a frame by their place."""
    if _is(x, "pandas", ("Series",)):
        return x.iloc[list(order)]
    x = _as_known(x)
    columns = _columns(x, "x") or []
    features = _features(x, columns)
    places = [features[i] for i in order]
    if _is(x, "pandas"):
        return x.iloc[:, places]
    if _is(x, "xarray"):
        return x[:, places]
    return x.select([columns[i] for i in places])


def _labels_of_row(x: Any, names: Sequence[str]) -> tuple[str, ...] | None:
    """The index of a pandas Series that is one row of a frame; None where it is one column, or a row without names."""
    labels = list(x.index)
    is_row = len(labels) == len(names) or not set(labels).isdisjoint(names)
    return tuple(map(str, labels)) if is_row and labels != list(range(len(names))) else None


def is_number_of_arrow(kind: Any) -> bool:
    """Whether a column of this type of pyarrow, which is imported, can be numbers."""
    return _is_number(kind, "pyarrow")


def _is_number(kind: Any, library: str) -> bool:
    if library == "pandas":
        types = sys.modules["pandas"].api.types
        return types.is_any_real_numeric_dtype(kind) or types.is_bool_dtype(kind)
    if library == "polars":
        return kind.is_numeric() or kind == sys.modules["polars"].Boolean
    types = sys.modules["pyarrow"].types
    return any(is_one(kind) for is_one in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean))


def _has_dtype(kinds: Sequence[Any], dtype: np.dtype) -> bool:
    return all(isinstance(kind, np.dtype) and kind == dtype for kind in kinds)


def _refuse_others(others: Sequence[tuple[Any, Any]], x: Any, name: str) -> None:
    if not others:
        return
    named = ", ".join(f"{column!r} ({kind})" for column, kind in others[:_SHOWN])
    way_out = "Leave them out." if not _is(x, "pandas") else f"Select the numeric ones: {name}.select_dtypes('number')."
    more = " and more" if len(others) > _SHOWN else ""
    raise UserTypeError(f"{name} has columns that aren't real numbers: {named}{more}. {way_out}")


def _mismatch(missing: Sequence[str], more: Sequence[str], names: Sequence[str], name: str) -> str:
    def listed(columns: Sequence[str]) -> str:
        return ", ".join(map(repr, columns[:_SHOWN])) + (" and more" if len(columns) > _SHOWN else "")

    parts = [f"lacks the column{'s' * (len(missing) > 1)} {listed(missing)}"] if missing else []
    parts += [f"has {listed(more)}, which the mixture doesn't know"] if more else []
    way_out = f"rename columns, or give {name}.to_numpy(), which goes by position" if missing else f"leave {listed(more)} out"
    return f"{name} {' and '.join(parts)}. The mixture's features are {listed(names)}: {way_out}."
