"""The `[compare]` stage of a run: several models, of which one criterion's choice becomes the run's fit."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxgmm import plots
from jaxgmm.app.config import CompareTable
from jaxgmm.comparing.compare import compare
from jaxgmm.comparing.comparison import Comparison
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.status import FitWarning
from jaxgmm.model.prior import Prior

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows


@dataclass(frozen=True, eq=False)
class Compared:
    """What the stage made: the comparison, and the criterion whose choice is the run's fit."""

    comparison: Comparison
    criterion: str

    @property
    def fit(self) -> Fit:
        """The criterion's choice.

        Raises:
            FitError: no model could be fitted.
        """
        return self.comparison.select(self.criterion)

    @property
    def summary(self) -> dict[str, Any]:
        """For fit.json."""
        return {"selected_by": self.criterion, "agreement": self.comparison.agreement}

    def write(self, directory: Path) -> None:
        """comparison.csv, and a figure of the criterion."""
        self.comparison.table.to_csv(directory / "comparison.csv")
        figure: Any = plots.criterion(self.comparison, self.criterion).figure
        figure.savefig(directory / "comparison.png", dpi=130)


def run_comparison(settings: CompareTable, rows: "Rows", prior: Callable[[Prior], Prior] | None) -> Compared:
    """Fit the models of a `[compare]` table.

    Args:
        settings: the table.
        rows: the data.
        prior: of each model, from its default one; None for maximum likelihood.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # the statuses are in everything that a run shows and writes
        comparison = compare(
            rows.x,
            families=settings.families,
            n_components=settings.counts,
            key=jax.random.key(settings.seed),
            n_init=settings.n_init,
            prior=prior,
            init=settings.init,
            rtol=settings.rtol,
            max_steps=settings.max_steps,
            sample_weight=rows.sample_weight,
            held_out_folds=settings.held_out_folds,
            loo=settings.loo,
            elbo=settings.elbo,
        )
    return Compared(comparison, settings.criterion)
