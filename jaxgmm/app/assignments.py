"""What a run's mixture says of each row: of those that it was fitted to, and of new ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import chdtrc

from jaxgmm.app import output
from jaxgmm.app.rows import usable
from jaxgmm.app.tables import look_at_csv, read_table, usual_delimiter
from jaxgmm.data import Pieces, scan
from jaxgmm.model.mixture import GMM
from jaxgmm.model.storage import load
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import read_parsed


def predict(run_directory: Path, data: str, delimiter: str | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Assign the rows of a data file to the components of a run: the columns of its assignments, by name, in parts.

    Args:
        run_directory: what `run` wrote.
        data: a CSV or Parquet file that has the run's columns, in any order and among others; or whatever `scan` takes. What
            isn't one CSV is read a piece at a time.
        delimiter: of a CSV; if None, what is between the columns' names. The decimal mark is the one by which more columns
            are numbers.

    Raises:
        ValueError: not a run's directory, a column that isn't there, rows that can't be used.
        OSError: a file can't be read.
    """
    if not output.holds_run(run_directory):
        raise UserError(f"{run_directory} does not hold a run: give the directory that `jaxgmm run` wrote")
    try:
        fit = read_parsed(run_directory / "fit.json", json.loads)
        names = fit["feature_names"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run_directory / 'fit.json'} is damaged ({error}): run the config again") from None
    with jax.enable_x64(True):
        gmm = load(run_directory / "gmm.npz")
    output.check_belongs(run_directory, fit, ["gmm.npz"])
    missing = fit.get("missing", "refuse")
    path = Path(data)
    if path.is_file() and (usual_delimiter(path) is not None or missing == "drop"):
        parts = iter([usable(read_table(path, *look_at_csv(path, delimiter)), names, missing)[:2]])
    else:
        parts = _pieces(scan(data, None if gmm.feature_names is None else names, delimiter=delimiter))
    for x, numbers in parts:
        with jax.enable_x64(True):
            yield assignments(gmm, x, numbers)


def _pieces(rows: Pieces) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    first = 0
    for x, _ in rows.parts():
        yield x.astype(float), np.arange(first, first + len(x))
        first += len(x)


def assignments(gmm: GMM, x: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """What the mixture says of each row, by column name; `numbers` are those of the rows.

    Its most probable component, uncertainty 1 - max_k r_nk, log density, tail probability (of rows of that component, how many
    lie as far out: chi-square of the squared Mahalanobis distance), and responsibilities.
    """
    r = np.asarray(gmm.responsibilities(x))
    component = r.argmax(axis=1)
    return {
        "row": numbers,
        "component": component,
        "uncertainty": 1 - r.max(axis=1),
        "log_density": np.asarray(gmm.log_prob(x)),
        "tail_probability": _tail_probability(gmm, x, component),
        **{f"responsibility_{k}": column for k, column in enumerate(r.T)},
    }


def _tail_probability(gmm: GMM, x: np.ndarray, component: np.ndarray) -> np.ndarray:
    means, roots = np.asarray(gmm.means), np.linalg.cholesky(np.asarray(gmm.dense_covariances()))
    distance = np.empty(len(x))
    for k in np.unique(component):
        mine = component == k
        distance[mine] = (solve_triangular(roots[k], (x[mine] - means[k]).T, lower=True) ** 2).sum(axis=0)
    return chdtrc(x.shape[1], distance)
