"""`choice_shares`: how often a criterion would choose each model, had other rows been drawn."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from jaxtyping import Array, Float

from jaxgmm.comparing.comparison import Comparison
from jaxgmm.comparing.row import Row
from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource, as_source, fingerprint
from jaxgmm.data.moments import Moments
from jaxgmm.data.observed import has_gaps
from jaxgmm.data.padding import on_device
from jaxgmm.fitting.batch import Model, Settings, pad, rules_of
from jaxgmm.fitting.result import USABLE
from jaxgmm.fitting.status import status_of
from jaxgmm.fitting.weighted_step import climb_weighted, resampled_weights
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps, host_only, key_data, unknown

_NUMBERS_AT_ONCE = 1 << 24  # weights of rows
_CRITERIA = ("bic", "aic")


def choice_shares(
    comparison: Comparison,
    x: Any,
    *,
    key: Array,
    criterion: str = "bic",
    n_replicates: int = 100,
    sample_weight: Any = None,
    rtol: float = 1e-6,
    max_steps: int = 500,
    progress: OfProgress = "auto",
) -> pd.Series:
    """How sure a choice is: in which share of bootstrap replicates a criterion chooses each model.

    A replicate has as many rows, drawn with repetition. Every model is fitted to each of them by EM from its own fit, all
    replicates and numbers of components of a family in one batch, and the criterion chooses anew. A choice that a tenth of the
    replicates share is one among several; what they share instead is what else the rows could be.

    Args:
        comparison: from `compare`.
        x: the rows that were compared.
        key: a PRNG key.
        criterion: "bic" or "aic".
        n_replicates: B, at least 2; a share s is known to sqrt(s (1 - s) / B).
        sample_weight: as in `compare`.
        rtol: as for `fit`.
        max_steps: as for `fit`.
        progress: as for `compare`.

    Returns:
        A series, one share for each model that could be fitted, the largest first; they add up to 1.

    Raises:
        TypeError, ValueError: arguments that can't be used; other rows than those of the comparison.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> comparison = jg.compare(x, families=["full"], n_components=[1, 2, 3], key=jax.random.key(0))
        >>> print(jg.choice_shares(comparison, x, key=jax.random.key(1), n_replicates=50).index[0])
        full 2
    """
    host_only("choice_shares", x, sample_weight, key)
    check_key(key)
    if criterion not in _CRITERIA:
        raise unknown("criterion", criterion, _CRITERIA)
    n_replicates, max_steps = check_count(n_replicates, "n_replicates", least=2), check_steps(max_steps)
    check_rtol(rtol)
    source = as_source(x, sample_weight, min_rows=2, feature_names=comparison.feature_names, missing=True)
    if has_gaps(source.x):
        raise UserError("x has missing values, which choice_shares doesn't take: drop these rows, and compare anew.")
    rows = [row for row in comparison.rows if row.fit is not None and row.status in USABLE]
    if not rows:
        raise UserError("no model of the comparison could be fitted.")
    if any(row.fit is not None and row.fit.noise is not None for row in rows):
        raise UserError("the models have noise, which choice_shares doesn't take: compare without.")
    known = {row.fit.fingerprint for row in rows if row.fit is not None}
    if known != {fingerprint(source)}:
        raise UserError("x and sample_weight aren't those of the comparison: pass the same rows in the same order.")
    dtype = precision.compute_dtype(source.x)
    rng = np.random.default_rng(np.asarray(key_data(key)).tolist())
    given = np.asarray(source.weight, float)
    weights = resampled_weights(rng, given, n_replicates)
    families = list(dict.fromkeys(row.family for row in rows))
    values = np.full((len(rows), n_replicates), np.inf)
    with precision.scope(dtype), reporter(progress, "choice_shares", "family") as report:
        data = on_device(source)
        for done, family in enumerate(families):
            if report is not None:
                report(done, len(families))
            mine = [i for i, row in enumerate(rows) if row.family == family]
            moments = data.moments(get_family(family).structure.dense, dtype)
            found = _log_likelihoods(
                [rows[i] for i in mine], data, moments, weights, Settings(family, "", 1, rtol, max_steps), dtype
            )
            for i, log_likelihoods in zip(mine, found, strict=True):
                p, total = rows[i].scores.n_parameters, given.sum()
                penalty = p * math.log(total) if criterion == "bic" else 2 * p
                values[i] = np.where(np.isfinite(log_likelihoods), penalty - 2 * log_likelihoods, np.inf)
        if report is not None:
            report(len(families), len(families))
    wins = np.bincount(values.argmin(axis=0), minlength=len(rows)) / n_replicates
    shares = pd.Series(wins, index=pd.Index([row.name for row in rows], name="model"), name="share")
    return shares.sort_values(ascending=False, kind="stable")


def _log_likelihoods(
    rows: Sequence[Row], data: ArraySource, moments: Moments, weights: np.ndarray, settings: Settings, dtype: np.dtype
) -> Float[np.ndarray, "models B"]:
    """Of each model of a family at its fit to each replicate; NaN where there is none."""
    fits = [row.fit for row in rows if row.fit is not None]
    most, n_replicates = max(fit.gmm.n_components for fit in fits), len(weights)
    padded = np.zeros((n_replicates, data.n_samples), dtype)
    padded[:, : weights.shape[1]] = weights
    models = [Model(fit.gmm.n_components, fit.prior, jax.random.key(0)) for fit in fits]
    active = np.arange(most) < np.array([model.n_components for model in models])[:, None]
    rules = rules_of(models, moments, active, settings, dtype)
    starts = jax.tree.map(lambda *leaves: np.stack(leaves), *[pad(fit.gmm, most, dtype) for fit in fits])
    at_once = max(1, _NUMBERS_AT_ONCE // padded.size)  # models
    found = []
    for first in range(0, len(fits), at_once):
        part = slice(first, first + at_once)
        several = len(models[part])

        def each(leaf: Any) -> np.ndarray:
            return np.repeat(np.asarray(leaf)[part], n_replicates, axis=0)  # noqa: B023

        own = jax.tree.map(each, rules.own)
        weight = np.tile(padded, (several, 1))
        search = climb_weighted(jax.tree.map(each, starts), data, rules, own, weight, settings.max_steps)
        usable = np.array([status_of(int(code)) in USABLE for code in np.asarray(search.status)])
        log_likelihoods = np.where(usable, np.asarray(search.statistics.log_likelihood, float), np.nan)
        found.append(log_likelihoods.reshape(several, n_replicates))
    return np.concatenate(found)
