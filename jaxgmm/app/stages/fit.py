"""The `[fit]` stage of a run: one mixture, its files and figures."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxgmm import plots
from jaxgmm.app.assignments import assignments
from jaxgmm.app.config import FitTable
from jaxgmm.app.tables import write_table
from jaxgmm.fitting.fit import fit
from jaxgmm.fitting.result import Fit, Progress
from jaxgmm.fitting.status import FitWarning
from jaxgmm.model.prior import Prior

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows


def run_fit(
    settings: FitTable, rows: "Rows", prior: Callable[[Prior], Prior] | None, callback: Callable[[Progress], None] | None
) -> Fit:
    """Fit the mixture of a `[fit]` table.

    Args:
        settings: the table.
        rows: the data.
        prior: from the model's default one; None for maximum likelihood.
        callback: told of the progress of a long fit.

    Raises:
        ValueError: data or settings that can't be used.
        FitError: no start gave a usable mixture.
    """
    chosen = None
    if prior is not None:
        chosen = prior(Prior.default(rows.x, settings.n_components, settings.family, sample_weight=rows.sample_weight))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # the status is in everything that a run shows and writes
        return fit(
            rows.x,
            settings.n_components,
            key=jax.random.key(settings.seed),
            family=settings.family,
            prior=chosen,
            init=settings.init,
            n_init=settings.n_init,
            rtol=settings.rtol,
            max_steps=settings.max_steps,
            sample_weight=rows.sample_weight,
            stopping=settings.stopping,
            acceleration=None if settings.acceleration == "none" else settings.acceleration,
            callback=callback,
        )


def write_fit(fitted: Fit, rows: "Rows", directory: Path, assignments_format: str) -> None:
    """gmm.npz, the assignments and the figures."""
    gmm, x = fitted.gmm, rows.x
    gmm.save(directory / "gmm.npz")
    weight = {} if rows.sample_weight is None else {"sample_weight": rows.sample_weight}
    write_table(directory / f"assignments.{assignments_format}", assignments(gmm, x) | weight)
    trace: Any = plots.trace(fitted).figure
    figures = {
        "components": plots.components(gmm, x, feature_names=rows.axis_labels, sample_weight=rows.sample_weight),
        "trace": trace,
        "responsibilities": plots.responsibilities(gmm, x),
    }
    for name, figure in figures.items():
        figure.savefig(directory / f"{name}.png", dpi=130)


def fit_summary(fitted: Fit, rows: "Rows", seconds: dict[str, float]) -> dict[str, Any]:
    """For fit.json, with the seconds of every stage."""
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
        "empty": np.flatnonzero(fitted.empty).tolist(),
        "n_parameters": gmm.n_parameters,
        "n_samples": len(rows.x),
        "feature_names": list(rows.feature_names),
        "seconds": seconds,
    }
