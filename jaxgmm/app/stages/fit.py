"""The `[fit]` stage of a run: one mixture, its files and figures."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgmm import plots
from jaxgmm.app import output
from jaxgmm.app.assignments import Assigning
from jaxgmm.app.config import Config, FitTable
from jaxgmm.app.stages.stage import Making
from jaxgmm.app.tables import write_tables
from jaxgmm.fitting.fit import fit
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.status import FitError, FitWarning, Status
from jaxgmm.plots import canvas
from jaxgmm.tools.types import Facts, Json

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows


@dataclass(frozen=True, eq=False)
class Fitted:
    """What the stage made: the fit, of as many components as [count] found if `counted`."""

    fit: Fit
    counted: bool

    @property
    def facts(self) -> dict[str, Json]:
        """For fit.json, beside `fit_summary`."""
        return {"n_components_from": "count"} if self.counted else {}

    def write(self, directory: Path, rows: "Rows") -> None:
        """Nothing: `write_fit` does it for every run."""


@dataclass(frozen=True, eq=False)
class FitStage:
    """A checked `[fit]` table, or None where [count] finds K; the data; and the prior, as `fit` takes it."""

    name: ClassVar = "fit"
    settings: FitTable | None
    rows: "Rows"
    prior: Change | str | None

    @classmethod
    def prepare(cls, config: Config, rows: "Rows", prior: Change | str | None) -> "FitStage":
        """Check what can be before there is a fit.

        Raises:
            ValueError: labels of more components than there are.
        """
        if rows.labels is not None and config.fit is not None:
            rows.labels.check_components(config.fit.n_components)
        return cls(config.fit, rows, prior)

    @property
    def can_resume(self) -> bool:
        """Where every pass reads files."""
        return self.rows.in_pieces

    def make(self, making: Making) -> Fitted:
        """Fit the mixture.

        Raises:
            ValueError: data or settings that can't be used.
            FitError: no start gave a usable mixture.
        """
        settings, rows = self.settings, self.rows
        if settings is None:
            counted: Any = making.made["count"]
            settings = FitTable(n_components=counted.count.mode, family=counted.family)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # the status is in everything that a run shows and writes
            fitted = fit(
                rows.frame,
                key=jax.random.key(settings.seed),
                prior=self.prior,
                callback=making.watch.fit,
                **rows.given,
                **settings.options,
                **self._keeping(making),
            )
        if Status.interrupted in fitted.restarts.status:  # by Ctrl-C, which ends the run
            raise KeyboardInterrupt
        return Fitted(settled(fitted, making), self.settings is None)

    def _keeping(self, making: Making) -> Facts:
        place = making.checkpoint(self.name)
        if place is None or not self.can_resume:
            return {}
        return {"checkpoint": place, "resume": making.resume, "keep_checkpoint": True}  # until all is written


def settled(fitted: Fit, making: Making) -> Fit:
    """The fit of a run, from which its chains start: that of the run that is resumed.

    Raises:
        FitError: it has collapsed.
    """
    if fitted.status is Status.collapsed:
        meaning = fitted.status.meaning.replace("prior='default'", "prior.kind = 'default'")
        raise FitError(f"the fit ended as {fitted.status.name}. {meaning}")
    if making.unfinished is None or jax.process_count() > 1:  # which have no chains
        return fitted
    noise = fitted.noise
    share = () if noise is None else (noise.weight,)
    gmm, prior, share = output.same_start(making.unfinished, (fitted.gmm, fitted.prior, share))
    noise = None if noise is None else dataclasses.replace(noise, weight=float(*share))
    return dataclasses.replace(fitted, gmm=gmm, prior=prior, noise=noise)


def write_fit(fitted: Fit, rows: "Rows", directory: Path, assignments_format: str, pulse: Callable[[], object]) -> None:
    """gmm.npz, the assignments and the figures."""
    x, errors = rows.x, rows.errors
    fitted.gmm.save(directory / "gmm.npz")
    assign = Assigning(fitted.gmm, fitted.noise, None if rows.labels is None else rows.labels.component_of)

    def tables() -> Iterator[dict[str, np.ndarray]]:
        for part in rows.parts():
            yield assign(part)
            pulse()

    write_tables(directory / f"assignments.{assignments_format}", tables())
    figures: dict[str, Figure | Axes] = {
        "components": plots.components(
            fitted, x, feature_names=rows.axis_labels, sample_weight=rows.sample_weight, error_covariances=errors
        ),
        "trace": plots.trace(fitted),
        "responsibilities": plots.responsibilities(fitted, x, error_covariances=errors),
    }
    canvas.save(directory, figures)


def fit_summary(fitted: Fit, rows: "Rows", criteria: dict[str, float], seconds: dict[str, float]) -> Facts:
    """For fit.json, with the seconds of every stage."""
    gmm, restarts = fitted.gmm, fitted.restarts
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
        "empty": np.flatnonzero(fitted.empty).tolist(),
        "n_parameters": fitted.n_parameters,
        "n_samples": rows.n_samples,
        "n_dropped": rows.n_dropped,
        "missing": rows.missing,
        "n_missing": fitted.n_missing,
        "standard_errors": None if rows.standard_errors is None else list(rows.standard_errors),
        "labels": _labels(fitted, rows),
        "noise": _noise(fitted),
        "feature_names": list(rows.feature_names),
        "seconds": seconds,
    }


def _labels(fitted: Fit, rows: "Rows") -> Facts | None:
    if rows.labels is None:
        return None
    return {"column": rows.labels.column, "components": dict(rows.labels.component_of), "n_labelled": fitted.n_labelled}


def _noise(fitted: Fit) -> Facts | None:
    """All that it takes to tell noise from other rows."""
    noise = fitted.noise
    if noise is None:
        return None
    box = {"lower": noise.lower.tolist(), "upper": noise.upper.tolist()}
    return {"weight": noise.weight, **box, "estimated": noise.estimated}
