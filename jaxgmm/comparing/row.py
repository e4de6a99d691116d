"""One model of a comparison, and what is known of it."""

from typing import TYPE_CHECKING, NamedTuple

from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.status import Status
from jaxgmm.model.criteria import Scores
from jaxgmm.tools.formatting import nats

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDData


class LeaveOneOut(NamedTuple):
    """Leave-one-out of one model: ArviZ' own result, and k-hat of the approximation that the draws come from."""

    elpd: "ELPDData"
    pareto_k: float


class Row(NamedTuple):
    """One model of a comparison: `fit` is None where no start gave anything."""

    family: str
    n_components: int
    fit: Fit | None
    status: Status
    scores: Scores
    loo: LeaveOneOut | None = None
    elbo: float | None = None

    @property
    def name(self) -> str:
        """Such as "full 3"."""
        return f"{self.family} {self.n_components}"

    def __repr__(self) -> str:
        return f"Row({self.name}: {self.status.name}, log-likelihood {nats(self.scores.log_likelihood)})"
