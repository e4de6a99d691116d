"""The `[posterior]` stage of a run: draws that start from the fit, whether to trust them, files and figures."""

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import h5netcdf  # noqa: F401 (posterior.nc needs both: said before the draws, not after)
import h5py  # noqa: F401
import jax
import xarray

from jaxgmm import plots
from jaxgmm.app.config import Config
from jaxgmm.app.config.posterior import MARKOV_CHAINS, PosteriorTable, ThresholdsTable
from jaxgmm.app.stages.stage import Making
from jaxgmm.bayes.posterior import posterior
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.trees.diagnostics import Diagnostics, diagnose
from jaxgmm.bayes.trees.relabel import relabel
from jaxgmm.bayes.trees.schema import check_feature_names, facts_of, names_of_data
from jaxgmm.bayes.trees.storage import save_posterior
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.status import FitWarning
from jaxgmm.plots import canvas
from jaxgmm.tools.types import Facts, Json

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows

_CREATION = ("created_at", "creation_library", "creation_library_version", "creation_library_language")


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the stage made.

    Attributes:
        tree: the draws, relabelled by the fit.
        start: the fit that they started from.
        diagnostics: of the draws.
        thresholds: that they were held against.
        summary: the content of posterior.json.
        feature_of: the data's name of each feature, by that in the tree.
    """

    tree: xarray.DataTree
    start: Fit
    diagnostics: Diagnostics
    thresholds: ThresholdsTable
    summary: Facts
    feature_of: dict[str, str]

    @property
    def facts(self) -> dict[str, Json]:
        """Nothing for fit.json: posterior.json has all."""
        return {}

    def write(self, directory: Path, rows: "Rows") -> None:
        """posterior.nc, posterior.json and the figures."""
        save_posterior(self.tree, directory / "posterior.nc")
        text = json.dumps(self.summary, indent=2, allow_nan=False) + "\n"
        (directory / "posterior.json").write_text(text, encoding="utf-8")
        names, weight = rows.axis_labels, rows.sample_weight
        figures = {
            "posterior_intervals": plots.intervals(self.tree, self.start, feature_names=names),
            "posterior_draws": plots.draws(self.tree, rows.x, self.start, feature_names=names, sample_weight=weight),
        }
        if self.summary["method"] in MARKOV_CHAINS:
            figures["posterior_chains"] = plots.chains(self.tree)
        canvas.save(directory, figures)


@dataclass(frozen=True, eq=False)
class PosteriorStage:
    """A checked `[posterior]` table, the data, and a prior if it isn't that of the fit."""

    name: ClassVar = "posterior"
    settings: PosteriorTable
    rows: "Rows"
    prior: RichardsonGreen | None

    @classmethod
    def prepare(cls, config: Config, rows: "Rows") -> "PosteriorStage":
        """Check what can be before there is a fit.

        Raises:
            ValueError: data that the prior is not for, or columns whose names a posterior file can't have.
        """
        assert config.posterior is not None
        check_feature_names(rows.feature_names, rows.x.shape[1])
        prior = None
        if config.posterior.prior == "richardson-green":
            assert config.fit is not None  # the config has been checked
            prior = RichardsonGreen.default(rows.x, config.fit.family)
        return cls(config.posterior, rows, prior)

    @property
    def can_resume(self) -> bool:
        """Markov chains keep what is done; approximations are quick, or start again."""
        return self.settings.method in MARKOV_CHAINS

    def make(self, making: Making) -> Drawn:
        """Draws as the table asks for, which start from the fit and are relabelled by it, and their diagnostics."""
        settings, rows, fitted = self.settings, self.rows, making.fit
        assert fitted is not None  # the stages are in order
        keeping: Facts = {}
        if self.can_resume:
            keeping = {"checkpoint": making.checkpoint(self.name), "resume": making.resume, "keep_checkpoint": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # k-hat is in everything that a run shows and writes
            tree = posterior(
                rows.frame,
                fitted,
                method=settings.method,
                key=jax.random.key(settings.seed),
                n_draws=settings.n_draws,
                n_chains=settings.n_chains,
                prior=self.prior,
                groups=settings.groups,
                feature_names=rows.feature_names,
                progress=making.watch.draws,
                **rows.given,
                **keeping,
                **settings.options,
            )
        tree = relabel(tree, fitted.gmm)
        diagnostics = diagnose(tree, **settings.thresholds.model_dump())
        names = names_of_data(rows.feature_names)
        return Drawn(tree, fitted, diagnostics, settings.thresholds, _summary(tree, diagnostics), names)


def _summary(tree: xarray.DataTree, diagnostics: Diagnostics) -> Facts:
    facts = {name: _plain(value) for name, value in facts_of(tree).items() if name not in _CREATION}
    table = diagnostics.table.reset_index(names="quantity").to_dict(orient="records")
    return {
        **facts,
        "ok": diagnostics.ok,
        "problems": list(diagnostics.problems),
        "notes": list(diagnostics.notes),
        "quantities": [{str(name): _plain(value) for name, value in row.items()} for row in table],
    }


def _plain(value: Json) -> Json:
    """JSON has no NaN and no infinity: None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
