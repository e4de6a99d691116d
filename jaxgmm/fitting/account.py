"""The account of a search: how every start ended, and the best of them as a `Fit`, without its padding."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxgmm.covariance import get_family
from jaxgmm.data import Source
from jaxgmm.data.moments import rows_of_frequencies
from jaxgmm.fitting.batch import Model, Settings
from jaxgmm.fitting.noise import Noise
from jaxgmm.fitting.result import Fit, Restarts, best_start
from jaxgmm.fitting.status import status_of
from jaxgmm.fitting.step import Search
from jaxgmm.model.density import WITHOUT_ROWS
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import precision

_VANISHED = 1e-3  # expected rows of a component, below which its weight is on its way to 0


def restarts_of(searches: Sequence[Search], resolution: float, *, of_bounds: bool = False) -> Restarts:
    """How every start ended, of searches that are parts of one.

    Args:
        searches: on the host.
        resolution: the gain at which they stop, nats.
        of_bounds: the objective is a bound of the evidence, beside which there is no likelihood.

    Raises:
        FitError: no start gave finite, consistent sums.
    """

    def gather(leaf: Callable[[Search], Array]) -> np.ndarray:
        return np.concatenate([np.asarray(leaf(search)) for search in searches])

    objective, n_steps = gather(lambda search: search.objective).astype(float), gather(lambda search: search.n_steps)
    log_likelihood = gather(lambda search: search.statistics.log_likelihood).astype(float)
    status = tuple(map(status_of, gather(lambda search: search.status).tolist()))
    return Restarts(
        objective=objective,
        log_likelihood=np.where(of_bounds, np.nan, np.where(np.isfinite(objective), log_likelihood, -np.inf)),
        status=status,
        n_steps=n_steps,
        trace=tuple(row[: n + 1] for row, n in zip(gather(lambda search: search.trace), n_steps, strict=True)),
        best=best_start(objective, status, float(gather(lambda search: search.statistics.counts).sum(-1).max())),
        # What is left when steps gain `rtol` at a rate of 0.999; never so much that optima that differ look alike, nor less
        # than ten of the last steps: weights that add up to a population make nats cheap.
        tolerance=max(min(1e3 * resolution, 0.1), 10 * resolution) + 1e-6,
    )


def account(search: Search, model: Model, settings: Settings, source: Source, out: np.dtype, data: str) -> Fit:
    """The best start of a model without its padding, and how every start ended.

    Weights that are on their way to 0, the mode of a component without rows, are put there: below a thousandth of a row that
    changes the likelihood by less than a step that counts as none.

    Raises:
        FitError: no start gave finite, consistent sums.
    """
    restarts = restarts_of([search], settings.rtol * source.total_weight)
    best = restarts.best
    chosen, n_components = search.point, model.n_components
    covariances = chosen.covariances[best]
    if get_family(chosen.family).per_component:
        covariances = covariances[:n_components]
    expected_rows = in_rows(np.asarray(search.statistics.counts[best, :n_components]), source)
    weights = chosen.weights[best, :n_components]
    if settings.log_widths is not None:
        weights = weights / weights.sum()
    vanished = (expected_rows < _VANISHED) & (weights > 0)  # a weight of 0 says that a component takes no part
    vanished &= not vanished.all()  # as where noise has all rows
    if model.prior is not None:
        vanished &= np.asarray(model.prior.concentration) <= 1
    held = settings.step.fixed.mask("weights", n_components)
    vanished &= ~held
    if vanished.any() and not (vanished | held).all():
        shared = weights * (1 - weights[held].sum()) / weights[~(vanished | held)].sum()
        weights = np.where(vanished, WITHOUT_ROWS, np.where(held, weights, shared))
    leaves = weights, chosen.means[best, :n_components], covariances
    gmm = GMM.unchecked(*leaves, family=chosen.family, feature_names=source.feature_names)
    return Fit(
        gmm=precision.as_parameters(gmm, out),
        status=restarts.status[best],
        objective=float(restarts.objective[best]),
        log_likelihood=float(restarts.log_likelihood[best]),
        n_steps=int(restarts.n_steps[best]),
        trace=restarts.trace[best],
        restarts=restarts,
        prior=model.prior,
        fingerprint=data,
        expected_rows=expected_rows,
        total_weight=source.total_weight,
        fixed=settings.step.fixed,
    )


def with_noise(fit: Fit, search: Search, box: Noise) -> Fit:
    """The fit with noise over a box, of the share that the best start says."""
    share = max(0.0, 1.0 - float(np.asarray(search.point.weights[fit.restarts.best], float).sum()))
    return dataclasses.replace(fit, noise=dataclasses.replace(box, weight=share))


def rows_per_weight(prior: Any, source: Source) -> float:
    """How many rows a unit of weight is to a prior that is made of the rows, one that is named or a change of the default."""
    made = isinstance(prior, str) or callable(prior)
    return rows_of_frequencies(source.total_weight, source.n_present) if made else 1.0


def in_weight(fit: Fit, rows: float) -> Fit:
    """A fit of so many rows to a unit of weight, its objective and log-likelihoods in nats of the weights as they are given."""
    if rows == 1:
        return fit

    def scaled(record: Fit | Restarts) -> dict[str, Any]:
        return {name: getattr(record, name) / rows for name in ("objective", "log_likelihood")}

    traces = tuple(trace / rows for trace in fit.restarts.trace)
    restarts = dataclasses.replace(fit.restarts, **scaled(fit.restarts), trace=traces, tolerance=fit.restarts.tolerance / rows)
    total_weight = fit.total_weight / rows
    return dataclasses.replace(fit, **scaled(fit), trace=fit.trace / rows, restarts=restarts, total_weight=total_weight)


def in_rows(counts: np.ndarray, source: Source) -> np.ndarray:
    """Weight in rows: the same, but where weights are frequencies, which add up to less than there are rows."""
    return counts * max(1, source.n_present / source.total_weight)
