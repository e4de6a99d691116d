"""What `jaxgmm run` does: the stages of a config, one after the other, and then the run's directory."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import operator
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import jax
import numpy as np

from jaxgmm.app import output
from jaxgmm.app.config import Config
from jaxgmm.app.config.toml import to_toml
from jaxgmm.app.lock import only_run
from jaxgmm.app.rows import Rows, read_rows
from jaxgmm.app.stages.fit import FitStage, fit_summary, write_fit
from jaxgmm.app.stages.stage import Making, Result, Stage, Watch
from jaxgmm.data.agreeing import all_or_none, gathered, led_by_first
from jaxgmm.fitting.result import Fit
from jaxgmm.model.prior import Prior
from jaxgmm.plots import canvas
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import named
from jaxgmm.tools.types import Facts
from jaxgmm.version import __version__

if TYPE_CHECKING:
    from jaxgmm.app.stages.compare import Compared
    from jaxgmm.app.stages.count import Counted
    from jaxgmm.app.stages.posterior import Drawn


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: its directory, its fit, the content of its fit.json, and what its stages made, by name."""

    directory: Path
    fit: Fit
    summary: Facts
    made: dict[str, Result]

    @property
    def compared(self) -> "Compared | None":
        """What [compare] made."""
        return cast("Compared | None", self.made.get("compare"))

    @property
    def posterior(self) -> "Drawn | None":
        """What [posterior] made."""
        return cast("Drawn | None", self.made.get("posterior"))

    @property
    def counted(self) -> "Counted | None":
        """What [count] made."""
        return cast("Counted | None", self.made.get("count"))


NOBODY = Watch()


def run(config: Config, *, overwrite: bool = False, resume: bool = False, watch: Watch = NOBODY) -> Run:
    """Run the stages of a config, in float64, and write its directory: whole, or not at all.

    What else may be left there: `unfinished/` of Markov chains, or of a fit to rows in pieces, for `resume`; `failed.json`,
    which says in which stage a run failed and why, once its config and data were found to be usable.

    Args:
        config: the run.
        overwrite: replace a run that is there already; other files in its folder stay.
        resume: continue the unfinished run that is there, to the results of an uninterrupted one. Where it was killed
            before it had kept any, it starts from the beginning.
        watch: told of the progress.

    Raises:
        ValueError, TypeError: data or settings that can't be used, a directory that isn't free, nothing to resume, another
            run at work there.
        FitError: no start gave a usable mixture.
        OSError: a file can't be read or written.
    """
    directory, first = config.output.path, jax.process_index() == 0
    _check_together(config)
    with ExitStack() as held:

        def begin() -> tuple[bool, bool]:
            if not first:
                return True, False
            output.check_place(directory, overwrite=overwrite, resume=resume)
            alone = held.enter_context(only_run(directory))
            output.check_free(directory, overwrite=overwrite, resume=resume)
            return alone, resume and output.holds_draws(directory)

        alone, goes_on = all_or_none(begin)
        goes_on = bool(gathered(np.array(goes_on))[0])  # as the first process has found it
        if resume and not goes_on and first:
            watch.note(f"{directory}: nothing to resume, starts from the beginning")
        return _run(config, directory, goes_on, alone, watch)


def _check_together(config: Config) -> None:
    """Raises ValueError where several processes can't run a config together, or have different ones."""
    if jax.process_count() == 1:
        return
    own = hashlib.blake2b(to_toml(config, _versions(config)).encode(), digest_size=8).digest()
    for process, other in enumerate(gathered(np.frombuffer(own, np.uint8))):
        if other.tobytes() != own:
            raise UserError(f"the config of process {process} isn't that of process {jax.process_index()}: give all one")
    if not config.data.in_pieces:
        raise UserError("several processes each read their own part of the rows: set data.in_pieces to true")


def _run(config: Config, directory: Path, resume: bool, alone: bool, watch: Watch) -> Run:
    """`run`, once the directory is its own, and nobody else at work in it for certain if `alone`."""
    effective, first = to_toml(config, _versions(config)), jax.process_index() == 0
    if resume:
        all_or_none(lambda: output.check_unchanged(directory, effective) if first else None)
    clock = _Clock()
    rows = read_rows(config.data)
    clock.ends("read")
    with jax.enable_x64(True):
        stages = _stages(config, rows)
        if len(stages) > 1:
            clock.ends("prepare")
        can_resume = any(stage.can_resume for stage in stages)
        with ExitStack() as held:

            def begin(name: str) -> None:
                begins(name)
                watch.stage(name)

            def prepared() -> tuple[Callable[[str], None], Path | None]:
                if not first:
                    return (lambda name: None), output.unfinished_folder(directory) if can_resume else None
                begins = held.enter_context(output.failure_recorded(directory))
                if not can_resume:
                    return begins, None
                return begins, keeping.enter_context(output.unfinished_run(directory, effective, resume=resume))

            with ExitStack() as keeping:
                begins, unfinished = all_or_none(prepared)
                making = Making({}, watch, unfinished, resume)
                for stage in stages:
                    begin(stage.name)
                    making.made[stage.name] = stage.make(making)
                    clock.ends(stage.name)
            begin("write")
            fitted = making.fit
            assert fitted is not None  # the config has been checked
            criteria = rows.criteria(fitted)  # by all processes

            def summary_of() -> Facts:
                facts = [result.facts for result in making.made.values()]
                return functools.reduce(operator.or_, facts, fit_summary(fitted, rows, criteria, clock.seconds))

            def write(pulse: Callable[[], object]) -> Facts:
                with _writing(directory, alone) as partial:
                    (partial / "config.toml").write_text(effective, encoding="utf-8")
                    write_fit(fitted, rows, partial, config.output.assignments, pulse)
                    for result in making.made.values():
                        result.write(partial, rows)
                    clock.ends("write")
                    summary = summary_of() | {"files": output.digests(partial)}
                    (partial / "fit.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
                    if config.report is not None:
                        from jaxgmm.app.report import write_report  # only here: jinja2 is for it alone

                        title = config.report.title or directory.name
                        write_report(partial, title=title, n_outliers=config.report.n_outliers)
                return summary

            summary = led_by_first(write, summary_of)
    return Run(directory, fitted, summary, making.made)


@contextmanager
def _writing(directory: Path, alone: bool) -> Iterator[Path]:
    """A folder whose files become those of the run's directory."""
    with (
        output.new_directory(directory, alone=alone) as partial,
        named(directory),
        canvas.off_screen(),
        warnings.catch_warnings(),
    ):
        # Boxes in the figures; tables have the names.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield partial


class _Clock:
    """Seconds of each stage, one after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def ends(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._since = round(now - self._since, 3), now


def _prior(config: Config) -> Callable[[Prior], Prior] | str | None:
    """`[prior]`, as the library takes it."""
    if config.prior.kind == "none":
        return None
    overrides: Facts = {name: np.float64(value) for name, value in config.prior.overrides.items()}
    return (lambda default: dataclasses.replace(default, **overrides)) if overrides else config.prior.kind


def _stages(config: Config, rows: Rows) -> list[Stage]:
    """The stages of a config in the order of their turns."""
    prior = _prior(config)
    stages: list[Stage] = []
    if config.compare is None:
        stages.append(FitStage.prepare(config, rows, prior))
    else:
        from jaxgmm.app.stages.compare import CompareStage  # only here: pandas takes a while to import

        stages.append(CompareStage(config.compare, rows, prior))
    if config.posterior is not None:
        from jaxgmm.app.stages.posterior import PosteriorStage  # only here: NumPyro and ArviZ take seconds to import

        stages.append(PosteriorStage.prepare(config, rows))
    if config.count is not None:
        from jaxgmm.app.stages.count import CountStage

        stages.insert(0 if config.counts_first else len(stages), CountStage.prepare(config, rows, prior))
    return stages


def _versions(config: Config) -> dict[str, str]:
    libraries = ("jax", "jaxlib", "numpy") + (() if config.posterior is config.count is None else ("numpyro", "arviz"))
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {"jaxgmm": __version__, **versions, "python": platform.python_version()}
