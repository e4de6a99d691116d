"""What a run says of each row: of those that it was fitted to, and of new ones."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import chdtrc

from jaxgmm.app import output
from jaxgmm.app.labels import names_of
from jaxgmm.app.rows import Part, usable
from jaxgmm.app.tables import look_at_csv, read_table, usual_delimiter
from jaxgmm.data import Pieces, scan
from jaxgmm.fitting.noise import Noise
from jaxgmm.model.mixture import GMM
from jaxgmm.model.storage import load
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import read_parsed
from jaxgmm.tools.types import Facts

_NUMBERS_AT_ONCE = 1 << 22  # of the rows' own covariances


@dataclass(frozen=True, eq=False)
class Assigning:
    """What rows are assigned by: the mixture, noise beside it or None, and the components that labels stand for, or None."""

    gmm: GMM
    noise: Noise | None
    component_of: Mapping[str, int] | None

    def __call__(self, part: Part) -> dict[str, np.ndarray]:
        """What is said of each row, of what was seen of it, by column name.

        Its most probable component, -1 for noise; the label that this stands for; uncertainty, 1 - max_k r_nk; log density;
        tail probability (of rows of that component, for noise of the most probable one, how many lie as far out: chi-square of
        the squared Mahalanobis distance); responsibilities; and, if the part has them, the component that is known and the
        weight.
        """
        gmm, (x, numbers, weight, errors, known) = self.gmm, part
        r = np.asarray(gmm.responsibilities(x, error_covariances=errors))
        log_density = gmm.log_prob(x, error_covariances=errors)
        likeliest = component = r.argmax(axis=1)
        of_noise = {}
        if self.noise is not None:
            log_density, of_mixture = self.noise.beside(log_density, x)
            share = 1 - np.asarray(of_mixture)
            r = r * (1 - share)[:, None]
            component = np.where(share > r.max(axis=1), -1, likeliest)
            of_noise = {"responsibility_noise": share}
        labels: dict[str, np.ndarray] = {}
        if self.component_of is not None:
            names = [*names_of(self.component_of, gmm.n_components), ""]  # the last one is noise's
            labels = {"label": np.array(names)[component]}
        return {
            "row": numbers,
            "component": component,
            **labels,
            "uncertainty": 1 - np.maximum(r.max(axis=1), of_noise.get("responsibility_noise", 0)),
            "log_density": np.asarray(log_density),
            "tail_probability": _tail_probability(gmm, x, likeliest, errors),
            **{f"responsibility_{k}": column for k, column in enumerate(r.T)},
            **of_noise,
            **({} if known is None else {"known_component": known}),
            **({} if weight is None else {"sample_weight": weight}),
        }


def predict(run_directory: Path, data: str, delimiter: str | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Assign the rows of a data file to the components of a run: the columns of its assignments, by name, in parts.

    Args:
        run_directory: what `run` wrote.
        data: a CSV or Parquet file that has the run's columns, in any order and among others, with their standard errors if
            the run had some; or whatever `scan` takes. It may have gaps where the run's `missing` was "keep". What isn't one
            CSV is read a piece at a time where the run had neither gaps nor errors.
        delimiter: of a CSV; if None, what is between the columns' names. The decimal mark is the one by which more columns
            are numbers.

    Raises:
        ValueError: not a run's directory, a column that isn't there, rows that can't be used.
        OSError: a file can't be read.
    """
    if not output.holds_run(run_directory):
        raise UserError(f"{run_directory} does not hold a run: give the directory that `jaxgmm run` wrote")
    try:
        fit: Facts = read_parsed(run_directory / "fit.json", json.loads)
        names, standard_errors, missing = fit["feature_names"], fit.get("standard_errors"), fit.get("missing", "refuse")
        noise, labels = fit.get("noise"), fit.get("labels")
        beside = None if noise is None else _noise(len(names), **noise)
        component_of = None if labels is None else dict(labels["components"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run_directory / 'fit.json'} is damaged ({error}): run the config again") from None
    with jax.enable_x64(True):
        assign = Assigning(load(run_directory / "gmm.npz"), beside, component_of)
    output.check_belongs(run_directory, fit, ["gmm.npz"])
    path = Path(data)
    if path.is_file() and (usual_delimiter(path) is not None or missing != "refuse" or standard_errors):
        parts = iter([_of_table(path, delimiter, names, missing, standard_errors, run_directory)])
    elif standard_errors:
        raise UserError(f"{data} is no file, and {run_directory} is of rows with standard errors: give one CSV or Parquet file")
    else:
        parts = _pieces(scan(data, None if assign.gmm.feature_names is None else names, delimiter=delimiter))
    for part in parts:
        with jax.enable_x64(True):
            yield assign(part)


def _noise(n_features: int, weight: float, lower: list[float], upper: list[float], estimated: bool) -> Noise:
    """As fit.json has it.

    Raises:
        UserError: a box or a share that isn't one.
    """
    box = np.array(lower, float), np.array(upper, float)
    if not (0 <= weight <= 1 and box[0].shape == box[1].shape == (n_features,) and (box[0] < box[1]).all()):
        raise UserError("noise is no share of a box")
    return Noise(weight, *box, estimated)


def _of_table(
    path: Path, delimiter: str | None, names: list[str], missing: str, standard_errors: list[str] | None, run_directory: Path
) -> Part:
    table = read_table(path, *look_at_csv(path, delimiter))
    absent = [name for name in standard_errors or () if name not in table.columns]
    if absent:
        raise UserError(
            f"{table.source} has no column {absent[0]!r}: the rows of {run_directory} have standard errors in "
            f"{', '.join(standard_errors or ())}, and those that are to be assigned need theirs"
        )
    again = f"run the config of {run_directory} again with data.missing = 'keep'"
    x, numbers, _, errors = usable(table, names, missing, None, standard_errors, again)
    return Part(x, numbers, errors=errors)


def _pieces(rows: Pieces) -> Iterator[Part]:
    first = 0
    for x, _ in rows.parts():
        yield Part(x.astype(float), np.arange(first, first + len(x)))
        first += len(x)


def _tail_probability(gmm: GMM, x: np.ndarray, component: np.ndarray, errors: np.ndarray | None) -> np.ndarray:
    """Chi-square of as many degrees as a row has values, by covariances to which the row's own errors are added."""
    means, covariances = np.asarray(gmm.means), np.asarray(gmm.dense_covariances())
    seen, distance = ~np.isnan(x), np.empty(len(x))
    alike = seen.all(axis=1) & (errors is None)
    roots = np.linalg.cholesky(covariances)
    for k in np.unique(component[alike]):
        mine = alike & (component == k)
        distance[mine] = (solve_triangular(roots[k], (x[mine] - means[k]).T, lower=True) ** 2).sum(axis=0)
    others, at_once = np.flatnonzero(~alike), max(1, _NUMBERS_AT_ONCE // gmm.n_features**2)
    for rows in np.split(others, range(at_once, len(others), at_once)):
        # What wasn't seen is made independent of the rest, with a mean of what it is taken for: it adds nothing.
        both = seen[rows][:, :, None] & seen[rows][:, None, :]
        own = covariances[component[rows]] if errors is None else covariances[component[rows]] + _diagonal(errors[rows])
        root = np.linalg.cholesky(np.where(both, own, np.eye(gmm.n_features)))
        away = np.where(seen[rows], x[rows] - means[component[rows]], 0)
        distance[rows] = (np.linalg.solve(root, away[:, :, None]) ** 2).sum(axis=(1, 2))
    return chdtrc(seen.sum(axis=1), distance)


def _diagonal(variances: np.ndarray) -> np.ndarray:
    """As matrices (N, D, D)."""
    return variances[:, :, None] * np.eye(variances.shape[1])
