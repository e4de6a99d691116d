"""What a fit returns: the mixture, how every start ended, and how sure one can be of the best."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxgmm.fitting.status import FitError, Status
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior

_EMPTY = 0.5  # expected rows: below it a component has, more probably than not, none, since prod_n (1 - r_nk) >= 1 - sum_n r_nk
_NAMED = 8  # components, in a message
USABLE = (Status.converged, Status.max_steps, Status.decreased)


class Progress(NamedTuple):
    """What a `fit` callback is told: the start at work (1-based, the last of its batch), its steps, its best objective."""

    start: int
    n_starts: int
    n_steps: int
    max_steps: int
    objective: float


@dataclass(frozen=True)
class Restarts:
    """How every start of a fit ended.

    Attributes:
        objective: (R,), at the end of each start: of its last point that can be used; -inf where it had none.
        log_likelihood: (R,), total nats, of the same points.
        status: R of them.
        n_steps: (R,).
        trace: R arrays, the objective before each step and, last, after the final one.
        best: index of the start that was kept.
        tolerance: nats within which two starts count as the same optimum.
    """

    objective: np.ndarray
    log_likelihood: np.ndarray
    status: tuple[Status, ...]
    n_steps: np.ndarray
    trace: tuple[np.ndarray, ...]
    best: int
    tolerance: float

    @property
    def replication(self) -> int:
        """How many starts reached the best optimum. One of many is a reason to try more starts."""
        return int((self._usable >= self.objective[self.best] - self.tolerance).sum()) if len(self._usable) else 0

    @property
    def gap(self) -> float:
        """Nats from the best optimum down to the next one that a start reached; inf if all agree."""
        below = self._usable[self._usable < self.objective[self.best] - self.tolerance]
        return float(self.objective[self.best] - below.max()) if below.size else float("inf")

    @property
    def _usable(self) -> np.ndarray:
        return self.objective[[status in USABLE for status in self.status]]


@dataclass(frozen=True)
class Fit:
    """A fitted mixture and the account of its fit.

    Attributes:
        gmm: the best start's mixture.
        status: how that start ended; `status.meaning` says it in words.
        objective: log-likelihood, plus the log prior density if there is a prior, of `gmm`; nats.
        log_likelihood: total nats.
        n_steps: EM steps of the best start.
        trace: (n_steps + 1,), objective before each step and, last, after the final one.
        restarts: all starts.
        prior: what was used; None for maximum likelihood.
        fingerprint: of the rows and weights, by which `posterior` knows them again.
        expected_rows: (K,), sum_n w_n r_nk, in rows where weights add up to less than there are rows.
    """

    gmm: GMM
    status: Status
    objective: float
    log_likelihood: float
    n_steps: int
    trace: np.ndarray
    restarts: Restarts
    prior: Prior | None
    fingerprint: str
    expected_rows: np.ndarray

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Of the mixture: the columns of the frame that was fitted."""
        return self.gmm.feature_names

    @property
    def empty(self) -> np.ndarray:
        """(K,), the components without rows: those that are expected to have fewer than half of one.

        More of them than none means that K is more than these rows can tell.
        """
        return self.expected_rows < _EMPTY

    @property
    def converged(self) -> bool:
        """True only for `Status.converged`."""
        return self.status is Status.converged


def without_rows(fit: Fit) -> str:
    """In words, which components have no rows."""
    empty = np.flatnonzero(fit.empty).tolist()
    which = f"{', '.join(map(str, empty[:_NAMED]))}{' and more' if len(empty) > _NAMED else ''}"
    many = f"{len(empty)} of {fit.empty.size} components have no rows: {which}"
    return f"{many}; that is more components than these rows can tell apart"


def best_start(objective: np.ndarray, status: tuple[Status, ...]) -> int:
    """Index of the start to keep: the highest of those that can be used, else one that collapsed on its way.

    Raises:
        FitError: every start broke down, or had no density to begin with.
    """
    for acceptable in (USABLE, (Status.collapsed,)):
        allowed = np.array([s in acceptable for s in status]) & np.isfinite(objective)
        if allowed.any():
            return int(np.flatnonzero(allowed)[np.argmax(objective[allowed])])
    if status[0] is Status.collapsed:
        raise FitError(
            "no start of the fit can be used: collapsed at once. Without a prior there is no density where a column doesn't "
            "vary, columns are collinear, or a given start has a component on too few distinct rows: use prior='default', or "
            "leave such columns out."
        )
    raise FitError(f"no start of the fit can be used: {status[0].name}. {status[0].meaning}")
