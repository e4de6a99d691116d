"""`jaxgmm init`: a commented config for a data file, from looking at it."""

import json
from pathlib import Path

import numpy as np

from jaxgmm.app.tables import Table, look_at_csv, read_table, usual_delimiter
from jaxgmm.tools.errors import UserError

_MANY_ROWS = 50_000
_FEW_ROWS_A_PARAMETER = 5
_MOST_GAPS = 0.2  # share of the rows that may lack a value


def starter_config(path: Path, delimiter: str | None = None, relative_to: Path | None = None) -> str:
    """A config, as TOML with comments, that runs as it is.

    Args:
        path: of the data, CSV or Parquet.
        delimiter: of a CSV; by its suffix if None.
        relative_to: the folder that the config will be in; the path is written as it is if None.

    Raises:
        OSError, ValueError: the file can't be read, or has no column that could be clustered.
    """
    sniffed, decimal = look_at_csv(path, delimiter)
    table = read_table(path, sniffed, decimal)
    usable: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name in table.columns:
        column = _numbers(table, name)
        if column is None:
            left_out[name] = "not numbers"
        elif not np.isfinite(column).any():
            left_out[name] = "no values"
        elif np.ptp(column[np.isfinite(column)]) == 0:
            left_out[name] = "always the same"
        elif _counts_rows(column):
            left_out[name] = "counts the rows"
        else:
            usable[name] = column
    if not usable:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise UserError(f"{path} has no column to cluster ({reasons})")
    gaps = {name: int((~np.isfinite(column)).sum()) for name, column in usable.items()}
    total = len(next(iter(usable.values())))
    chosen = _fairly_whole(usable)
    for name in gaps.keys() - set(chosen):
        missing = gaps[name]
        way_out = "drop those rows" if np.isinf(usable[name]).any() else 'keep them, missing = "keep",'
        left_out[name] = f"{missing} missing or infinite value{'s' * (missing > 1)}; fill them in or {way_out} to use it"
    if not chosen:
        worst = ", ".join(f"{name} ({missing})" for name, missing in gaps.items())
        raise UserError(
            f"{path}: every numeric column has missing values: {worst}. Fill them in, drop those rows, or write a "
            'config by hand, with missing = "keep"'
        )
    complete = np.isfinite(np.column_stack([usable[name] for name in chosen])).all(axis=1)
    whole = {name: usable[name][complete] for name in chosen}
    n_rows, n_features = int(complete.sum()), len(whole)
    written = path if relative_to is None else _relative(path, relative_to)
    lines = [f"# {path.name}: {total} rows, {len(table.columns)} columns. Run it: jaxgmm run <this file>", "", "[data]"]
    lines += [f"path = {json.dumps(str(written), ensure_ascii=False)}"]
    lines += [] if sniffed == usual_delimiter(path) else [f"delimiter = {json.dumps(sniffed)}"]
    lines += [] if decimal == "." else [f"decimal = {json.dumps(decimal)}"]
    lines += [
        "columns = [",
        *(f"    {json.dumps(name, ensure_ascii=False)},  # {_range(column)}" for name, column in whole.items()),
        "]",
    ]
    if n_rows < total:
        lines += [f'missing = "drop"  # {total - n_rows} of {total} rows lack a value']
        lines += ['# missing = "keep"  # instead: keeps them, what they lack as missing at random; not with [count]']
    lines += ['# sample_weight = "..."  # a column that says how often each row counts']
    lines += [f"# left out: {json.dumps(name, ensure_ascii=False)}: {why}" for name, why in left_out.items()]
    lines += ["", "[prior]", 'kind = "default"  # keeps covariances from going singular; "none" is maximum likelihood', ""]
    family = "full" if _parameters(n_features) * 2 * _FEW_ROWS_A_PARAMETER <= n_rows else "diag"
    lines += _models(n_rows, n_features)
    lines += ["", "# [posterior]  # draws around the fit: how far can its numbers be trusted?", '# method = "gibbs"']
    if n_rows <= _MANY_ROWS:
        lines += ["", "# [count]  # a posterior over the number of clusters", f"# family = {json.dumps(family)}"]
    return "\n".join([*lines, "", "[report]  # report.html, everything on one page", ""])


def _fairly_whole(columns: dict[str, np.ndarray]) -> list[str]:
    """Columns that lack few values, as many as leave most of the rows complete; infinite values can't be dropped."""
    few = [name for name, column in columns.items() if np.isnan(column).mean() <= _MOST_GAPS and not np.isinf(column).any()]
    while few:
        lacking = {name: np.isnan(columns[name]) for name in few}
        if np.any(list(lacking.values()), axis=0).mean() <= _MOST_GAPS:
            break
        few.remove(max(few, key=lambda name: lacking[name].sum()))
    return few


def _models(n_rows: int, n_features: int) -> list[str]:
    """`[compare]`, with as many components and such families as the rows allow."""
    families = ["full", "tied", "diag"] + (["spherical"] if n_features > 1 else [])
    parameters = _parameters(n_features)
    note = "  # covariances: of each component's own, shared, axis-aligned, round"
    if n_rows < 2 * _FEW_ROWS_A_PARAMETER * parameters:
        families.remove("full")
        note = f"  # not full: a component would have {parameters} parameters, and there are {n_rows} rows"
    elif n_features == 1:
        families, note = ["full", "tied"], "  # each component's own variance, or one for all"
    most = int(np.clip(n_rows // (_FEW_ROWS_A_PARAMETER * n_features), 1, 9))
    listed = ", ".join(f'"{family}"' for family in families)
    return [
        "[compare]  # fits them all, and goes on with the best by the criterion; or [fit], of one: n_components = 3",
        f"families = [{listed}]{note}",
        f"n_components = [1, {most}]  # from, to" if most > 1 else "n_components = [1]",
        'criterion = "bic"  # or aic, icl; held_out (with held_out_folds = 5)',
        "seed = 0",
    ]


def _parameters(n_features: int) -> int:
    """Of a component's mean and covariance."""
    return n_features + n_features * (n_features + 1) // 2


def _numbers(table: Table, name: str) -> np.ndarray | None:
    try:
        return table.select([name])[:, 0]
    except ValueError:
        return None


def _counts_rows(column: np.ndarray) -> bool:
    """An index or an identifier in order: 0, 1, 2, ... or 1, 2, 3, ..."""
    return column.size > 2 and bool((np.diff(column) == 1).all())


def _range(column: np.ndarray) -> str:
    distinct = np.unique(column).size
    few = f", {distinct} values only" if distinct <= 10 else ""
    return f"{column.min():.4g} to {column.max():.4g}{few}"


def _relative(path: Path, folder: Path) -> Path:
    try:
        return path.resolve().relative_to(folder.resolve())
    except ValueError:
        return path.resolve()
