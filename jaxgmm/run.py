"""What the command line does: run the stages of a config and write the run's directory; assign new rows with it."""

import dataclasses
import importlib.metadata
import itertools
import json
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import chdtrc

import jaxgmm
from jaxgmm import output, plots
from jaxgmm.config import to_toml
from jaxgmm.datasets import LOADERS
from jaxgmm.em import fit
from jaxgmm.fitted import Fit, Progress
from jaxgmm.io import load
from jaxgmm.mixture import GMM
from jaxgmm.prior import Prior
from jaxgmm.settings import Config, DataTable, FitTable
from jaxgmm.status import FitError, FitWarning, Status
from jaxgmm.tables import Table, read_table, write_table
from jaxgmm.validation import check_rows

if TYPE_CHECKING:
    from jaxgmm.compare_stage import Compared
    from jaxgmm.count_stage import Counted, CountStage
    from jaxgmm.posterior_stage import Drawn, PosteriorStage


@dataclass(frozen=True, eq=False)
class Rows:
    """The data of a run: x (N, D), its columns' names, these with units for figures, and the rows' weights or None."""

    x: np.ndarray
    feature_names: tuple[str, ...]
    axis_labels: tuple[str, ...]
    sample_weight: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its directory, its fit, the content of its fit.json, and what its other stages made, if it had them."""

    directory: Path
    fit: Fit
    summary: dict[str, Any]
    posterior: "Drawn | None"
    compared: "Compared | None" = None
    counted: "Counted | None" = None


@dataclass(frozen=True)
class Watch:
    """Whom a run tells how far it is.

    Attributes:
        stage: told the name of the stage that begins: "fit", "compare", "posterior", "count", "write".
        fit: told of the progress of a long fit; None: nobody.
        draws: told (steps done, steps in all) of a stage's chains. What is done is kept.
    """

    stage: Callable[[str], None] = lambda name: None
    fit: Callable[[Progress], None] | None = None
    draws: Callable[[int, int], None] = lambda done, total: None


NOBODY = Watch()


def run(config: Config, *, overwrite: bool = False, resume: bool = False, watch: Watch = NOBODY) -> Run:
    """Run the stages of a config, in float64, and write its directory: whole, or not at all.

    Only Markov chains that are interrupted leave something behind: `unfinished/` in the directory, for `resume`.

    Args:
        config: the run.
        overwrite: replace a run that is there already; other files in its folder stay.
        resume: continue the unfinished run that is there: its draws are those of an uninterrupted one.
        watch: told of the progress.

    Raises:
        ValueError, TypeError: data or settings that can't be used, a directory that isn't free, nothing to resume.
        FitError: no start gave a usable mixture.
        OSError: a file can't be read or written.
    """
    directory = config.output.path
    output.check_free(directory, overwrite=overwrite, resume=resume)
    effective = to_toml(config, _versions(config))
    if resume:
        output.check_unchanged(directory, effective)
    clock = [("", time.perf_counter())]
    rows = read_rows(config.data)
    clock.append(("read", time.perf_counter()))
    with jax.enable_x64(True):
        stages = _drawing_stages(config, rows)
        if stages:
            clock.append(("prepare", time.perf_counter()))
        made: dict[str, Any] = {}
        can_resume = any(stage.can_resume for stage in stages)
        keeping = output.unfinished_run(directory, effective, resume=resume) if can_resume else nullcontext()

        def draw(stage: "PosteriorStage | CountStage", fitted: Any) -> None:
            watch.stage(stage.name)
            checkpoint = output.draws_folder(directory, stage.name) if can_resume else None
            made[stage.name] = stage.draw(fitted, watch.draws, checkpoint=checkpoint, resume=resume)
            clock.append((stage.name, time.perf_counter()))

        with keeping as folder:
            if config.counts_first:
                draw(stages.pop(), None)
            first = "fit" if config.compare is None else "compare"
            watch.stage(first)
            compared = _compare(config, rows)
            fitted = _fit(config, rows, made.get("count"), watch.fit) if compared is None else compared.fit
            if fitted.status is Status.collapsed:
                raise FitError(f"the fit ended as {fitted.status.name}. {fitted.status.meaning}")
            clock.append((first, time.perf_counter()))
            if folder is not None:
                gmm, prior = output.same_start(folder, (fitted.gmm, fitted.prior))
                fitted = dataclasses.replace(fitted, gmm=gmm, prior=prior)
            for stage in stages:
                draw(stage, fitted)
        watch.stage("write")
        with output.new_directory(directory) as partial:
            (partial / "config.toml").write_text(effective, encoding="utf-8")
            fitted.gmm.save(partial / "gmm.npz")
            write_table(partial / f"assignments.{config.output.assignments}", assignments(fitted.gmm, rows.x))
            for name, figure in _figures(fitted, rows):
                figure.savefig(partial / name, dpi=130)
            if compared is not None:
                compared.write(partial)
            for result in made.values():
                result.write(partial, rows)
            clock.append(("write", time.perf_counter()))
            seconds = {name: round(end - start, 3) for (_, start), (name, end) in itertools.pairwise(clock)}
            summary = _summary(fitted, rows, seconds) | ({} if compared is None else compared.summary)
            summary |= {"count": made["count"].summary} if "count" in made else {}
            summary |= {"n_components_from": "count"} if config.counts_first else {}
            (partial / "fit.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            if config.report is not None:
                from jaxgmm.report import write_report  # only here: jinja2 is for it alone

                title = config.report.title or directory.name
                write_report(partial, title=title, n_outliers=config.report.n_outliers)
    return Run(directory, fitted, summary, made.get("posterior"), compared, made.get("count"))


def predict(run_directory: Path, data: Path, delimiter: str | None = None) -> dict[str, np.ndarray]:
    """Assign the rows of a data file to the components of a run: the columns of its assignments, by name.

    Args:
        run_directory: what `run` wrote.
        data: a CSV or Parquet file that has the run's columns, in any order and among others.
        delimiter: of a CSV; by the file's suffix if None.

    Raises:
        ValueError: not a run's directory, a column that isn't there, rows that can't be used.
        OSError: a file can't be read.
    """
    if not output.holds_run(run_directory):
        raise ValueError(f"{run_directory} does not hold a run: give the directory that `jaxgmm run` wrote")
    try:
        names = json.loads((run_directory / "fit.json").read_text(encoding="utf-8"))["feature_names"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{run_directory / 'fit.json'} is damaged ({error}): run the config again") from None
    with jax.enable_x64(True):
        gmm = load(run_directory / "gmm.npz")
        return assignments(gmm, _usable(read_table(data, delimiter), names))


def assignments(gmm: GMM, x: np.ndarray) -> dict[str, np.ndarray]:
    """What the mixture says of each row, by column name.

    Its most probable component, uncertainty 1 - max_k r_nk, log density, tail probability (of rows of that component, how many
    lie as far out: chi-square of the squared Mahalanobis distance), and responsibilities.
    """
    r = np.asarray(gmm.responsibilities(x))
    component = r.argmax(axis=1)
    return {
        "row": np.arange(len(r)),
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


def read_rows(data: DataTable) -> Rows:
    """The features and weights that `[data]` asks for.

    Raises:
        ValueError: a column that isn't there or isn't numbers; missing or infinite values, with their rows.
        OSError: the file can't be read.
    """
    units: dict[str, str] = {}
    if data.dataset is not None:
        shipped = LOADERS[data.dataset]()
        units = dict(zip(shipped.feature_names, shipped.units, strict=True))
        table = Table(f"data set {shipped.name}", dict(zip(units, shipped.x.T, strict=True)) | shipped.labels)
        names = data.columns or shipped.feature_names
    else:
        assert data.path is not None  # the config has exactly one of them
        table = read_table(data.path, data.delimiter)
        names = data.columns or tuple(name for name in table.columns if name != data.sample_weight)
    return Rows(
        x=_usable(table, names),
        feature_names=names,
        axis_labels=tuple(f"{name} ({units[name]})" if units.get(name) else name for name in names),
        sample_weight=None if data.sample_weight is None else table.select([data.sample_weight])[:, 0],
    )


def _usable(table: Table, names: tuple[str, ...]) -> np.ndarray:
    x = table.select(names)
    try:
        return np.asarray(check_rows(x))
    except ValueError as error:
        raise ValueError(f"{table.source}, rows counted from 0: {error}") from None


def _prior(config: Config) -> Callable[[Prior], Prior] | None:
    """`[prior]`, from the default one of a model; None for maximum likelihood."""
    if config.prior.kind == "none":
        return None
    overrides: dict[str, Any] = {name: np.float64(value) for name, value in config.prior.overrides.items()}
    return lambda default: dataclasses.replace(default, **overrides)


def _compare(config: Config, rows: Rows) -> "Compared | None":
    if config.compare is None:
        return None
    from jaxgmm.compare_stage import run_comparison  # only here: pandas takes a while to import

    return run_comparison(config.compare, rows, _prior(config))


def _fit(config: Config, rows: Rows, counted: "Counted | None", callback: Callable[[Progress], None] | None) -> Fit:
    settings = config.fit
    if settings is None:
        assert counted is not None  # the config has been checked
        settings = FitTable(n_components=counted.count.mode, family=counted.family)
    change, prior = _prior(config), None
    if change is not None:
        prior = change(Prior.default(rows.x, settings.n_components, settings.family, sample_weight=rows.sample_weight))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # the status is in everything that a run shows and writes
        return fit(
            rows.x,
            settings.n_components,
            key=jax.random.key(settings.seed),
            family=settings.family,
            prior=prior,
            init=settings.init,
            n_init=settings.n_init,
            rtol=settings.rtol,
            max_steps=settings.max_steps,
            sample_weight=rows.sample_weight,
            stopping=settings.stopping,
            acceleration=None if settings.acceleration == "none" else settings.acceleration,
            callback=callback,
        )


def _drawing_stages(config: Config, rows: Rows) -> "list[PosteriorStage | CountStage]":
    """`[posterior]` and then `[count]`, checked before the fit, so that what can't work is said at once."""
    stages: "list[PosteriorStage | CountStage]" = []
    if config.posterior is not None:
        from jaxgmm.posterior_stage import PosteriorStage  # only here: NumPyro and ArviZ take seconds to import

        stages.append(PosteriorStage.prepare(config, rows))
    if config.count is not None:
        from jaxgmm.count_stage import CountStage

        stages.append(CountStage.prepare(config, rows, _prior(config)))
    return stages


def _figures(fitted: Fit, rows: Rows) -> Iterator[tuple[str, Any]]:
    gmm, x = fitted.gmm, rows.x
    yield "components.png", plots.components(gmm, x, feature_names=rows.axis_labels, sample_weight=rows.sample_weight)
    yield "trace.png", plots.trace(fitted).figure
    yield "responsibilities.png", plots.responsibilities(gmm, x)


def _summary(fitted: Fit, rows: Rows, seconds: dict[str, float]) -> dict[str, Any]:
    gmm, restarts = fitted.gmm, fitted.restarts
    criteria = {name: float(getattr(gmm, name)(rows.x, rows.sample_weight)) for name in ("bic", "aic", "icl")}
    return {
        "status": fitted.status.name,
        "meaning": fitted.status.meaning,
        "log_likelihood": fitted.log_likelihood,
        "objective": fitted.objective,
        **criteria,
        "n_steps": fitted.n_steps,
        "n_starts": len(restarts.status),
        "replication": restarts.replication,
        "gap": restarts.gap if math.isfinite(restarts.gap) else None,
        "family": gmm.family,
        "n_components": gmm.n_components,
        "n_parameters": gmm.n_parameters,
        "n_samples": len(rows.x),
        "feature_names": list(rows.feature_names),
        "seconds": seconds,
    }


def _versions(config: Config) -> dict[str, str]:
    libraries = ("jax", "jaxlib", "numpy") + (() if config.posterior is config.count is None else ("numpyro", "arviz"))
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {"jaxgmm": jaxgmm.__version__, **versions, "python": platform.python_version()}
