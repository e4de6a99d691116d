"""What `jaxgmm run` does: the stages of a config, one after the other, and then the run's directory."""

import dataclasses
import importlib.metadata
import json
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgmm.app import output
from jaxgmm.app.config import Config, FitTable
from jaxgmm.app.config.toml import to_toml
from jaxgmm.app.lock import only_run
from jaxgmm.app.rows import Rows, read_rows
from jaxgmm.app.stages.fit import fit_summary, run_fit, write_fit
from jaxgmm.fitting.result import Fit, Progress
from jaxgmm.fitting.status import FitError, Status
from jaxgmm.model.prior import Prior
from jaxgmm.version import __version__

if TYPE_CHECKING:
    from jaxgmm.app.stages.compare import Compared
    from jaxgmm.app.stages.count import Counted, CountStage
    from jaxgmm.app.stages.posterior import Drawn, PosteriorStage


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

    What else may be left there: `unfinished/` of Markov chains that were interrupted, for `resume`; `failed.json`, which says
    in which stage a run failed and why, once its config and data were found to be usable.

    Args:
        config: the run.
        overwrite: replace a run that is there already; other files in its folder stay.
        resume: continue the unfinished run that is there: its draws are those of an uninterrupted one.
        watch: told of the progress.

    Raises:
        ValueError, TypeError: data or settings that can't be used, a directory that isn't free, nothing to resume, another
            run at work there.
        FitError: no start gave a usable mixture.
        OSError: a file can't be read or written.
    """
    directory = config.output.path
    output.check_free(directory, overwrite=overwrite, resume=resume)
    with only_run(directory):
        output.check_free(directory, overwrite=overwrite, resume=resume)  # another run may have ended in between
        return _run(config, directory, resume, watch)


def _run(config: Config, directory: Path, resume: bool, watch: Watch) -> Run:
    """`run`, once the directory is its own."""
    effective = to_toml(config, _versions(config))
    if resume:
        output.check_unchanged(directory, effective)
    clock = _Clock()
    rows = read_rows(config.data)
    clock.ends("read")
    with jax.enable_x64(True):
        stages = _drawing_stages(config, rows)
        if stages:
            clock.ends("prepare")
        can_resume = any(stage.can_resume for stage in stages)
        keeping = output.unfinished_run(directory, effective, resume=resume) if can_resume else nullcontext()
        made: dict[str, Any] = {}
        with output.failure_recorded(directory) as begins:

            def begin(name: str) -> None:
                begins(name)
                watch.stage(name)

            def draw(stage: "PosteriorStage | CountStage", fitted: Any) -> None:
                begin(stage.name)
                checkpoint = output.draws_folder(directory, stage.name) if can_resume else None
                made[stage.name] = stage.draw(fitted, watch.draws, checkpoint=checkpoint, resume=resume)
                clock.ends(stage.name)

            with keeping as folder:
                if config.counts_first:
                    draw(stages.pop(), None)
                first = "fit" if config.compare is None else "compare"
                begin(first)
                compared = _compare(config, rows)
                fitted = _fit(config, rows, made.get("count"), watch.fit) if compared is None else compared.fit
                if fitted.status is Status.collapsed:
                    meaning = fitted.status.meaning.replace("prior='default'", "prior.kind = 'default'")
                    raise FitError(f"the fit ended as {fitted.status.name}. {meaning}")
                clock.ends(first)
                if folder is not None:
                    gmm, prior = output.same_start(folder, (fitted.gmm, fitted.prior))
                    fitted = dataclasses.replace(fitted, gmm=gmm, prior=prior)
                for stage in stages:
                    draw(stage, fitted)
            begin("write")
            with output.new_directory(directory) as partial, warnings.catch_warnings():
                # Boxes in the figures; tables have the names.
                warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
                (partial / "config.toml").write_text(effective, encoding="utf-8")
                write_fit(fitted, rows, partial, config.output.assignments)
                if compared is not None:
                    compared.write(partial)
                for result in made.values():
                    result.write(partial, rows)
                clock.ends("write")
                summary = fit_summary(fitted, rows, clock.seconds) | ({} if compared is None else compared.summary)
                summary |= {"count": made["count"].summary} if "count" in made else {}
                summary |= {"n_components_from": "count"} if config.counts_first else {}
                summary |= {"files": output.digests(partial)}
                (partial / "fit.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
                if config.report is not None:
                    from jaxgmm.app.report import write_report  # only here: jinja2 is for it alone

                    title = config.report.title or directory.name
                    write_report(partial, title=title, n_outliers=config.report.n_outliers)
    return Run(directory, fitted, summary, made.get("posterior"), compared, made.get("count"))


class _Clock:
    """Seconds of each stage, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def ends(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._since = round(now - self._since, 3), now


def _prior(config: Config) -> Callable[[Prior], Prior] | None:
    """`[prior]`, from the default one of a model; None for maximum likelihood."""
    if config.prior.kind == "none":
        return None
    overrides: dict[str, Any] = {name: np.float64(value) for name, value in config.prior.overrides.items()}
    return lambda default: dataclasses.replace(default, **overrides)


def _compare(config: Config, rows: Rows) -> "Compared | None":
    if config.compare is None:
        return None
    from jaxgmm.app.stages.compare import run_comparison  # only here: pandas takes a while to import

    return run_comparison(config.compare, rows, _prior(config))


def _fit(config: Config, rows: Rows, counted: "Counted | None", callback: Callable[[Progress], None] | None) -> Fit:
    settings = config.fit
    if settings is None:
        assert counted is not None  # the config has been checked
        settings = FitTable(n_components=counted.count.mode, family=counted.family)
    return run_fit(settings, rows, _prior(config), callback)


def _drawing_stages(config: Config, rows: Rows) -> "list[PosteriorStage | CountStage]":
    """`[posterior]` and then `[count]`, checked before the fit, so that what can't work is said at once."""
    stages: "list[PosteriorStage | CountStage]" = []
    if config.posterior is not None:
        from jaxgmm.app.stages.posterior import PosteriorStage  # only here: NumPyro and ArviZ take seconds to import

        stages.append(PosteriorStage.prepare(config, rows))
    if config.count is not None:
        from jaxgmm.app.stages.count import CountStage

        stages.append(CountStage.prepare(config, rows, _prior(config)))
    return stages


def _versions(config: Config) -> dict[str, str]:
    libraries = ("jax", "jaxlib", "numpy") + (() if config.posterior is config.count is None else ("numpyro", "arviz"))
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {"jaxgmm": __version__, **versions, "python": platform.python_version()}
