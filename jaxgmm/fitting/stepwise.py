"""Stepwise EM: a mixture that learns from one chunk of rows after the other, each of which it sees once."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.covariance import get_family
from jaxgmm.fitting.result import Fit
from jaxgmm.model import reading
from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.default_prior import not_a_prior
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics, recentre
from jaxgmm.model.steps import e_step, m_step
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.formatting import number
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.reading import Page, Readable, counted
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_single, host_only, is_finite_number


@pytree(static=("decay", "delay", "fixed"))
@dataclass(frozen=True, eq=False, repr=False)
class Stepwise(Readable):
    """A mixture in the midst of a stream of rows; `update` gives the next. A pytree: `jax.tree` and pickle take it.

    Attributes:
        gmm: the mixture now.
        statistics: what it is made of: averages over rows, of weight 1 in all, later ones counting more.
        prior: None for maximum likelihood.
        total_weight: of the rows so far.
        n_updates: chunks so far.
        log_prob: mean log density of the last chunk's rows, under the mixture that had not seen them, nats; NaN before.
        decay: of the step size, (n_updates + delay)^-decay.
        delay: see `decay`.
        fixed: what is held, as in the fit that it began with.
    """

    gmm: GMM
    statistics: Statistics
    prior: Prior | None
    total_weight: float
    n_updates: int
    log_prob: float
    decay: float
    delay: float
    fixed: Held = FREE

    def update(self, x: Float[ArrayLike, "N D"], sample_weight: Float[ArrayLike, " N"] | None = None) -> "Stepwise":
        """The mixture after a chunk of rows: one E-step of it, averaged into the statistics, and an M-step.

        Args:
            x: (N, D), finite; an array, or a frame whose columns are those of the mixture. Chunks of about one size share a
                compiled program.
            sample_weight: (N,), non-negative; default 1.

        Raises:
            TypeError, ValueError: as `e_step`.
        """
        fresh = e_step(self.gmm, x, sample_weight)
        weight = float(np.asarray(fresh.total_weight))
        step, total = float((self.n_updates + 1 + self.delay) ** -self.decay), self.total_weight + weight
        statistics = _blend(self.statistics, fresh, step / weight, 1 - step, self.gmm)
        gmm = m_step(_times(statistics, total), self.gmm, self.prior, fixed=self.fixed)
        return dataclasses.replace(
            self,
            gmm=gmm,
            statistics=statistics,
            total_weight=total,
            n_updates=self.n_updates + 1,
            log_prob=float(np.asarray(fresh.log_likelihood)) / weight,
        )

    def _page(self) -> Page:
        numbers = reading.numbers(self.gmm)
        last = f"; log density of the last, before it was seen: {self.log_prob:.5g} a row" if self.n_updates else ""
        return Page(
            f"Stepwise: {reading.what(self.gmm.family, self.gmm.n_components, self.gmm.n_features)}",
            [f"{counted(self.n_updates, 'chunk')}, total weight {number(self.total_weight, '.6g')}{last}"],
            reading.table(numbers),
            lambda: reading.picture(numbers),
        )

    def _as_gmm(self) -> GMM:
        return self.gmm


def stepwise(start: Mixture, *, prior: Prior | str | None = "fit", decay: float = 0.6, delay: float = 1.0) -> Stepwise:
    """Begin stepwise EM (Cappé & Moulines 2009): for streams, and for so many rows that one pass is all there is time for.

    Each chunk's statistics are averaged into those of the chunks before with the step size (t + delay)^-decay, t = 1, 2, ...;
    a decay above 1/2 and at most 1 makes that converge to a stationary point of the likelihood of the stream. It starts from a
    mixture, such as the fit of the first rows, which a decay near 1 or a large delay holds on to for longer.

    Args:
        start: a Fit, whose held parts stay held, or a GMM; not of factor analysers, nor a fit with noise.
        prior: "fit", that of the fit or Stepwise, none for a GMM; or a `Prior`, or None for maximum likelihood. It counts as
            ever beside all rows so far, so it fades.
        decay: above 0.5, at most 1.
        delay: at least 0; with 0 the first chunk replaces the start's statistics.

    Raises:
        TypeError, ValueError: arguments that can't be used.

    Example:
        >>> import jax, jaxgmm as jg, numpy as np
        >>> x = np.random.default_rng(0).permutation(jg.datasets.load_faithful().x)
        >>> state = jg.stepwise(jg.fit(x[:100], 2, key=jax.random.key(0)))
        >>> for chunk in np.array_split(x[100:], 4):
        ...     state = state.update(chunk)
        >>> state.n_updates, state.gmm.weights.round(1).tolist()
        (4, [0.7, 0.3])
    """
    host_only("stepwise", start)
    gmm = about_rows(start, "stepwise")
    check_single(gmm.weights, "jg.stepwise(g)")
    structure = get_family(gmm.family).structure
    if structure.rank:
        raise UserError(
            f"stepwise keeps scatters, and {gmm.family!r} has none that would outlive a step: take a family without."
        )
    if not is_finite_number(decay) or not 0.5 < decay <= 1:
        raise UserError(
            f"decay must be above 0.5 and at most 1, so that the steps add up and their squares don't, got {decay!r}."
        )
    if not is_finite_number(delay) or delay < 0:
        raise UserError(f"delay must be a number of at least 0, got {delay!r}.")
    own: Any = prior
    held = start.fixed if isinstance(start, Fit | Stepwise) else FREE
    if prior == "fit":
        own = start.prior if isinstance(start, Fit | Stepwise) else None
    elif prior is not None and not isinstance(prior, Prior):
        raise not_a_prior(prior, "'fit'", "None")
    if own is not None:
        own.check_fits(gmm)
    gmm = precision.as_parameters(gmm, np.dtype(np.float64)) if precision.platform(gmm.means) == "cpu" else gmm
    return Stepwise(gmm, _expected_of(gmm), own, 0.0, 0, float("nan"), float(decay), float(delay), held)


def _expected_of(gmm: GMM) -> Statistics:
    """What a mixture expects of a row, about its means: the averages under which it stays what it is."""
    dtype = precision.compute_dtype(gmm.means)
    with precision.scope(dtype):
        weights, dense = np.asarray(gmm.weights), np.asarray(gmm.dense_covariances())
        scatter = np.asarray(get_family(gmm.family).structure.gather(weights[:, None, None] * dense))
        return Statistics(weights, np.zeros_like(gmm.means), scatter, np.asarray(gmm.means), np.zeros(()), np.ones(()))  # type: ignore[arg-type]


def _times(statistics: Statistics, factor: float) -> Statistics:
    """Of so many rows."""
    return dataclasses.replace(jax.tree.map(lambda leaf: np.asarray(leaf) * factor, statistics), centre=statistics.centre)


def _blend(old: Statistics, new: Statistics, share: float, rest: float, gmm: GMM) -> Statistics:
    """`rest` of the old statistics and `share` of the new ones, about the centre of these, the means of `gmm`."""
    structure = get_family(gmm.family).structure
    old = jax.tree.map(np.asarray, old)
    shift = np.asarray(new.centre) - old.centre
    scatter = recentre(structure, old.scatter, old.sums, old.counts, on_host(shift))
    moved = dataclasses.replace(old, sums=old.sums - old.counts[:, None] * shift, scatter=scatter, centre=new.centre)
    return _times(moved, rest) + dataclasses.replace(_times(new, share), centre=moved.centre)
