"""What a fit returns: the mixture, how every start ended, and how sure one can be of the best."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.data.measurement import in_order, of_row
from jaxgmm.fitting.noise import Noise
from jaxgmm.fitting.status import FitError, Status
from jaxgmm.model import reading
from jaxgmm.model.asking import Censored, Errors
from jaxgmm.model.coercion import about_rows
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools import frames
from jaxgmm.tools.formatting import nats, number
from jaxgmm.tools.hints import OF_FITS, Hinting
from jaxgmm.tools.reading import Page, Readable, Table, counted
from jaxgmm.tools.svg import Mark, chart, colour
from jaxgmm.tools.validation import floating

_EMPTY = 0.5  # expected rows: below it a component has, more probably than not, none, since prod_n (1 - r_nk) >= 1 - sum_n r_nk
_ROUNDING = 1e-11  # of objectives, nats per unit of weight
_NAMED = 8  # components, in a message
_DRAWN, _POINTS = 20, 100  # starts in a picture, and steps of each
USABLE = (Status.converged, Status.max_steps, Status.decreased, Status.interrupted)


class Progress(NamedTuple):
    """What a `fit` callback is told: the start at work (1-based, the last of its batch), its steps, its best objective."""

    start: int
    n_starts: int
    n_steps: int
    max_steps: int
    objective: float


@dataclass(frozen=True, repr=False)
class Restarts(Readable):
    """How every start of a fit ended.

    Attributes:
        objective: (R,), at the end of each start: of its last point that can be used; -inf where it had none.
        log_likelihood: (R,), total nats, of the same points.
        status: R of them.
        n_steps: (R,).
        trace: R arrays, the objective before each step and, last, after the final one.
        best: index of the start that was kept: the first that reached the highest objective, to rounding.
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
    def in_words(self) -> str:
        """How many starts agree on the optimum: the reason to trust it, or to ask for more starts."""
        text = f"{self.replication} of {counted(len(self.status), 'start')} reached the best optimum"
        return text + (f"; the next is {self.gap:.3g} nats below" if math.isfinite(self.gap) else "")

    @property
    def _usable(self) -> np.ndarray:
        usable = np.array([status in USABLE for status in self.status])
        return self.objective[usable & np.isfinite(self.objective)]

    def _page(self) -> Page:
        order = np.argsort(-self.objective, kind="stable").tolist()
        below = self.objective[self.best] - self.objective
        columns = {
            "nats below": [number(value, ".4g") if math.isfinite(value) else "" for value in below.tolist()],
            "status": [status.name for status in self.status],
            "steps": [f"{n}" for n in self.n_steps],
        }
        cells = list(columns.values())
        return Page(
            f"Restarts: {self.in_words}",
            [", ".join(f"{n} {name}" for name, n in Counter(columns["status"]).most_common())],
            Table(
                "start",
                list(columns),
                len(order),
                lambda i, j: cells[j][order[i]],
                lambda i: str(order[i]),
                ("start", "column"),
            ),
            self._picture,
        )

    def _picture(self) -> str:
        """The climbs, as far down as the starts end."""
        top, ends = self.objective[self.best], self._usable
        if not np.isfinite(top):
            return ""
        depth = max(2 * float(top - ends.min()) if len(ends) else 0.0, 5 * self.tolerance)
        marks, longest = [], int(self.n_steps.max())
        best = [start for start in np.argsort(-self.objective, kind="stable").tolist() if np.isfinite(self.objective[start])]
        for start in best[:_DRAWN]:
            steps = np.unique(np.linspace(0, len(self.trace[start]) - 1, _POINTS).round().astype(int))
            marks.append(Mark(np.column_stack([steps, self.trace[start][steps] - top]), colour(start), opacity=0.7))
        return chart(marks, ("step", "nats from the best"), limits=((0, longest), (-depth, 0)), whole=True)


@dataclass(frozen=True, repr=False)
class Fit(Readable, Hinting):
    """A fitted mixture and the account of its fit.

    It stands for its mixture wherever one is an argument, in `plots` too; what else the mixture can answer, `gmm` does. What
    asks about rows, and knows no noise, refuses a fit that has some.

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
        total_weight: sum_n w_n, of the weights as they were given.
        n_missing: values of the rows that were missing.
        n_censored: values that were limits.
        with_errors: whether the rows had errors of measurement, which the mixture is without.
        n_labelled: rows of whose component something was known.
        noise: what rows are from besides the mixture, or None.
        fixed: what was held.
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
    total_weight: float
    n_missing: int = 0
    n_censored: int = 0
    with_errors: bool = False
    n_labelled: int = 0
    noise: Noise | None = None
    fixed: Held = FREE

    _elsewhere = OF_FITS | {name: f"gmm.{name}" for name in dir(GMM) if not name.startswith("_")}

    def _as_gmm(self) -> GMM:
        return self.gmm

    @property
    def weights(self) -> Float[Array, " K"]:
        """Of the mixture."""
        return self.gmm.weights

    @property
    def means(self) -> Float[Array, "K D"]:
        """Of the mixture, in the units of the data."""
        return self.gmm.means

    @property
    def covariances(self) -> Float[Array, "..."]:
        """Of the mixture, in the shape of its family; squared units."""
        return self.gmm.covariances

    def predict(
        self, x: Float[ArrayLike, "N D"], *, error_covariances: Errors = None, censored: Censored = None
    ) -> Int[Array, " N"]:
        """The most probable component of each row: `gmm.predict`; -1 for rows that are noise more probably than any of them."""
        if self.noise is None:
            gmm = about_rows(self, "predict", error_covariances)
            return gmm.predict(x, error_covariances=error_covariances, censored=censored)
        shares = self.responsibilities(x, error_covariances=error_covariances, censored=censored)
        return jnp.where(1 - shares.sum(-1) > shares.max(-1), -1, shares.argmax(-1))

    def responsibilities(
        self, x: Float[ArrayLike, "N D"], *, error_covariances: Errors = None, censored: Censored = None
    ) -> Float[Array, "N K"]:
        """p(component k given x_n): `gmm.responsibilities`; what rows lack to 1 is the probability that they are noise."""
        beside = 1 if self.noise is None else self._beside_noise(x, error_covariances, censored)[1][..., None]
        gmm = about_rows(self, "responsibilities", error_covariances, beside_noise=True)
        return gmm.responsibilities(x, error_covariances=error_covariances, censored=censored) * beside

    def log_prob(
        self, x: Float[ArrayLike, "N D"], *, error_covariances: Errors = None, censored: Censored = None
    ) -> Float[Array, " N"]:
        """Log density of each row, in nats: `gmm.log_prob`, or of the mixture and noise."""
        if self.noise is not None:
            return self._beside_noise(x, error_covariances, censored)[0]
        gmm = about_rows(self, "log_prob", error_covariances)
        return gmm.log_prob(x, error_covariances=error_covariances, censored=censored)

    def _beside_noise(self, x: Float[ArrayLike, "N D"], errors: Errors, censored: Censored) -> tuple[Array, Array]:
        """Log density of each row, noise included, and the probability that it isn't noise."""
        assert self.noise is not None
        gmm = about_rows(self, "log_prob", errors, beside_noise=True)
        log_prob = gmm.log_prob(x, error_covariances=errors, censored=censored)
        rows = floating(frames.ordered(x, gmm.feature_names), "x")
        sides = (of_row if rows.ndim == 1 else in_order)(censored, x, gmm.feature_names, "censored")
        return self.noise.beside(log_prob, rows, sides)

    def sample(self, key: Array, n_samples: int) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
        """Rows and the components they come from: `gmm.sample`, without noise."""
        return self.gmm.sample(key, n_samples)

    @property
    def n_parameters(self) -> int:
        """Free parameters: the mixture's that weren't held, and one of the noise, or two where its box was made of the rows."""
        of_mixture = self.gmm.n_parameters - self.fixed.n_parameters(self.gmm)
        return of_mixture + (0 if self.noise is None else self.noise.n_parameters)

    @property
    def bic(self) -> float:
        """-2 log L + p log N of the rows that were fitted, with their errors, labels and noise; smaller is better."""
        return self.n_parameters * math.log(self.total_weight) - 2 * self.log_likelihood

    @property
    def aic(self) -> float:
        """-2 log L + 2 p of the rows that were fitted, with their errors, labels and noise; smaller is better."""
        return 2 * self.n_parameters - 2 * self.log_likelihood

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

    def _page(self) -> Page:
        gmm, numbers = self.gmm, reading.numbers(self.gmm)
        how = "maximum likelihood" if self.prior is None else "maximum a posteriori"
        return Page(
            f"Fit: {reading.what(gmm.family, gmm.n_components, gmm.n_features)}; {how}; {ended(self.status, self.n_steps)}",
            (
                "" if self.converged else self.status.meaning,
                f"log-likelihood {nats(self.log_likelihood)}, BIC {nats(self.bic)}, AIC {nats(self.aic)}, "
                f"{counted(self.n_parameters, 'parameter')}",
                self.restarts.in_words,
                f"{counted(self.n_missing, 'value')} missing, taken as missing at random" if self.n_missing else "",
                f"{counted(self.n_censored, 'value')} known as limits only (censored)" if self.n_censored else "",
                "a mixture of rows without their errors of measurement" if self.with_errors else "",
                f"held as they were: {self.fixed.in_words}" if self.fixed else "",
                "" if self.noise is None else f"noise: {self.noise.in_words}",
                f"{counted(self.n_labelled, 'row')} of which the component was known, or partly" if self.n_labelled else "",
                without_rows(self) if self.empty.any() else "",
            ),
            reading.table(numbers),
            lambda: reading.picture(numbers),
        )


def ended(status: Status, n_steps: int) -> str:
    """Such as "converged after 12 steps"."""
    return f"{status.name} after {counted(n_steps, 'step')}"


def without_rows(fit: Fit) -> str:
    """In words, which components have no rows."""
    empty = np.flatnonzero(fit.empty).tolist()
    which = f"{', '.join(map(str, empty[:_NAMED]))}{' and more' if len(empty) > _NAMED else ''}"
    many = f"{len(empty)} of {fit.empty.size} components have no rows: {which}"
    return f"{many}; that is more components than these rows can tell apart"


def best_start(objective: np.ndarray, status: tuple[Status, ...], total_weight: float) -> int:
    """Index of the start to keep: the highest of those that can be used, else one that collapsed on its way.

    Raises:
        FitError: every start broke down, or had no density to begin with.
    """
    for acceptable in (USABLE, (Status.collapsed,)):
        allowed = np.array([s in acceptable for s in status]) & np.isfinite(objective)
        if allowed.any():
            highest = objective[allowed].max()  # the first that reaches it: another order of sums chooses no other
            return int(np.flatnonzero(allowed & (objective >= highest - _ROUNDING * total_weight))[0])
    if status[0] is Status.collapsed:
        raise FitError(
            "no start of the fit can be used: collapsed at once. Without a prior there is no density where a column doesn't "
            "vary, columns are collinear, or a given start has a component on too few distinct rows: use prior='default', or "
            "leave such columns out."
        )
    raise FitError(f"no start of the fit can be used: {status[0].name}. {status[0].meaning}")
