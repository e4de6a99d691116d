"""The files of a run's directory, read and checked."""

import csv
import json
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxgmm.app import output
from jaxgmm.app.tables import read_table
from jaxgmm.model.mixture import GMM
from jaxgmm.model.storage import load
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import DamagedFileError, read_parsed
from jaxgmm.tools.formatting import with_names
from jaxgmm.tools.types import Facts

_OF_FIT = ("status", "meaning", "n_steps", "replication", "n_starts", "family", "n_components", "n_samples", "feature_names")
_OF_POSTERIOR = ("ok", "problems", "quantities", "method", "non_permutation_rate")
_OF_ROWS = ("row", "component", "uncertainty", "log_density", "tail_probability")


@dataclass(frozen=True, eq=False)
class RunFiles:
    """What a run wrote.

    Attributes:
        directory: of the run.
        text: the effective config, TOML.
        config: the same, parsed.
        fit: of fit.json.
        gmm: the mixture.
        rows: the columns of its assignments, by name; without rows of weight 0, and `sample_weight` 1 where there is none.
        posterior: of posterior.json; None if there was no such stage, as for the next ones.
        comparison: rows of comparison.csv by column, numbers where they are.
        cluster_count: rows of cluster_count.csv.
    """

    directory: Path
    text: str
    config: Facts
    fit: Facts
    gmm: GMM
    rows: dict[str, np.ndarray]
    posterior: Facts | None
    comparison: list[Facts] | None
    cluster_count: list[Facts] | None

    def partitions(self) -> list[Facts]:
        """Of fit.json.

        Raises:
            ValueError: a run of another version, which has none.
        """
        found = self.fit.get("count", {}).get("partitions")
        if found is None:
            raise UserError(
                f"{self.directory / 'fit.json'} has no 'partitions': it is of another version of jaxgmm; run the config again"
            )
        return found

    @classmethod
    def read(cls, directory: Path) -> "RunFiles":
        """Read the directory of a finished run.

        Raises:
            ValueError: no run, an unfinished one, or a file that is damaged or of another version.
        """
        if not directory.is_dir():
            raise UserError(
                f"{directory} is not a directory: give the one that `jaxgmm run` wrote; a run that refuses its config or data "
                "writes none"
            )
        failed = output.failure(directory)
        if (directory / "unfinished").is_dir():
            stages = [stage for stage in ("posterior", "count") if (directory / "unfinished" / stage).is_dir()]
            stopped = failed or f"stopped{f' in {stages[-1]}' if stages else ''}"
            raise UserError(f"{directory} holds a run that {stopped}; go on with `jaxgmm run CONFIG --resume`, then report")
        if failed is not None:
            raise UserError(f"{directory} holds no finished run: it {failed}; put that right and run the config again")
        if not output.holds_run(directory):
            raise UserError(f"{directory} does not hold a run: give the directory that `jaxgmm run` wrote")
        fit, config, gmm = _json(directory / "fit.json", _OF_FIT), _toml(directory / "config.toml"), load(directory / "gmm.npz")
        found = [path for path in (directory / "assignments.csv", directory / "assignments.parquet") if path.is_file()]
        if not found:
            raise UserError(f"{directory} has no assignments.csv or assignments.parquet: run the config again")
        table = read_table(found[0])
        weighted = "sample_weight" in config.get("data", {})
        wanted = (*_OF_ROWS, *["sample_weight"] * weighted, *["known_component"] * bool(fit.get("labels")))
        missing = [name for name in wanted if name not in table.columns]
        if missing:
            raise UserError(
                f"{found[0]} has no column {missing[0]!r}: it is of another version of jaxgmm; run the config again"
            )
        rows = {name: table.select([name])[:, 0] for name in wanted}
        told = fit["n_samples"], fit["n_components"], len(fit["feature_names"])
        if told != (len(rows["row"]), gmm.n_components, gmm.n_features):
            raise UserError(
                f"{directory}: fit.json, gmm.npz and {found[0].name} are not of one run, or cut short; run the config again"
            )
        output.check_belongs(directory, fit)
        rows.setdefault("sample_weight", np.ones(len(rows["row"])))
        rows = {name: column[rows["sample_weight"] > 0] for name, column in rows.items()}
        posterior = directory / "posterior.json"
        return cls(
            directory,
            (directory / "config.toml").read_text(encoding="utf-8"),
            config,
            fit,
            gmm,
            rows,
            _json(posterior, _OF_POSTERIOR) if posterior.is_file() else None,
            _csv(directory / "comparison.csv", {"model", "family", "status"}) if "selected_by" in fit else None,
            _csv(directory / "cluster_count.csv", set()) if "count" in fit else None,
        )

    def column(self, name: str) -> np.ndarray:
        """Of the assignments, (N,)."""
        return self.rows[name]

    def name_of(self, component: int) -> str:
        """Such as "Component 0 (setosa)", with the label that it stands for, if there is one."""
        components = (self.fit.get("labels") or {}).get("components", {})
        label = next((label for label, k in components.items() if k == component and label != str(k)), "")
        return f"Component {component} ({label})" if label else f"Component {component}"

    @property
    def is_weighted(self) -> bool:
        """Did the rows have weights?"""
        return "sample_weight" in self.config.get("data", {})

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """90 % intervals by quantity, of those whose labels mean something; features by the data's own names."""
        if self.posterior is None:
            return {}
        names = self.feature_of
        told_apart = [row for row in self.posterior["quantities"] if row["meaning"] == "relabelled"]
        return {
            with_names(row["quantity"], names): (row["lower"], row["upper"]) for row in told_apart if row["lower"] is not None
        }

    @property
    def feature_of(self) -> dict[str, str]:
        """The data's name of each feature, by that in a posterior's tree."""
        from jaxgmm.bayes.trees.schema import names_of_data  # only here: runs without draws need no xarray

        return names_of_data(self.fit["feature_names"])


def _toml(path: Path) -> Facts:
    try:
        return read_parsed(path, tomllib.loads)
    except DamagedFileError as error:
        raise UserError(f"{path} is damaged ({error}): run the config again") from None


def _json(path: Path, wanted: tuple[str, ...]) -> Facts:
    try:
        content = read_parsed(path, json.loads)
    except DamagedFileError as error:
        raise UserError(f"{path} is damaged ({error}): run the config again") from None
    missing = [name for name in wanted if not isinstance(content, dict) or name not in content]
    if missing:
        raise UserError(f"{path} has no {missing[0]!r}: it is damaged or of another version of jaxgmm; run the config again")
    return content


def _csv(path: Path, words: set[str]) -> list[Facts]:
    """Rows by column: numbers, NaN for an empty field, but for columns of words."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run the config again")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [{k: v if k in words else float(v) if v else math.nan for k, v in row.items()} for row in rows]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): run the config again") from None
