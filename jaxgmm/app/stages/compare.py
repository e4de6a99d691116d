"""The `[compare]` stage of a run: several models, of which one criterion's choice becomes the run's fit."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jax

from jaxgmm import plots
from jaxgmm.app.config import CompareTable
from jaxgmm.app.stages.fit import settled
from jaxgmm.app.stages.stage import Making
from jaxgmm.comparing.compare import compare
from jaxgmm.comparing.comparison import Comparison
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.status import FitWarning
from jaxgmm.plots import canvas
from jaxgmm.tools.types import Json

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows


@dataclass(frozen=True, eq=False)
class Compared:
    """What the stage made: the comparison, the criterion that chooses the run's fit, and its choice."""

    comparison: Comparison
    criterion: str
    fit: Fit

    @property
    def facts(self) -> dict[str, Json]:
        """For fit.json."""
        return {"selected_by": self.criterion, "agreement": self.comparison.agreement}

    def write(self, directory: Path, rows: "Rows") -> None:
        """comparison.csv, and a figure of the criterion."""
        self.comparison.table.to_csv(directory / "comparison.csv")
        canvas.save(directory, {"comparison": plots.criterion(self.comparison, self.criterion)})


@dataclass(frozen=True, eq=False)
class CompareStage:
    """A checked `[compare]` table, the data, and what `[prior]` makes of a default prior."""

    name: ClassVar = "compare"
    can_resume: ClassVar = False
    settings: CompareTable
    rows: "Rows"
    prior: Change | str | None

    def make(self, making: Making) -> Compared:
        """Fit the models.

        Raises:
            FitError: no model could be fitted.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitWarning)  # the statuses are in everything that a run shows and writes
            comparison = compare(
                self.rows.frame,
                key=jax.random.key(self.settings.seed),
                prior=self.prior,
                sample_weight=self.rows.given.get("sample_weight"),
                **self.settings.options,
            )
        criterion = self.settings.criterion
        return Compared(comparison, criterion, settled(comparison.select(criterion), making))
