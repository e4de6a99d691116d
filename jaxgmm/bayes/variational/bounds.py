"""Bounds of the evidence of fitted mixtures: how variational Bayes sees models with different numbers of components."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxgmm.bayes.variational.ascent import Ascent, rules_of, start_from, statistics_under
from jaxgmm.bayes.variational.weight_priors import WEIGHT_PRIORS
from jaxgmm.data import Source
from jaxgmm.data.moments import Moments
from jaxgmm.data.observed import ObservedSource
from jaxgmm.fitting.batch import TOGETHER, pad
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.result import USABLE, Fit
from jaxgmm.fitting.status import Status, status_of
from jaxgmm.model.engines import COMPLETE
from jaxgmm.model.observing import OBSERVING


class Bound(NamedTuple):
    """Of one model.

    Attributes:
        elbo: bound of log p(x), all constants included, nats; NaN where the ascent broke down.
        log_evidence: with the log of in how many orders the labels can be given, as `VariationalFit.log_evidence`.
        status: of the ascent.
    """

    elbo: float
    log_evidence: float
    status: Status


def bounds_from(
    fits: Sequence[Fit], data: Source, moments: Moments, *, rtol: float, max_steps: int, dtype: np.dtype
) -> list[Bound]:
    """Variational Bayes with Dirichlet weights, which starts from fits of one family: as one compiled batch, K padded.

    Args:
        fits: with priors.
        data: the rows, on the device.
        moments: of the rows, from `column_moments`.
        rtol: as for `fit_vb`.
        max_steps: as for `fit_vb`.
        dtype: to compute in.
    """
    engine = OBSERVING if isinstance(data, ObservedSource) else COMPLETE
    step, counts = Ascent(fits[0].gmm.family, "dirichlet", engine), [fit.gmm.n_components for fit in fits]
    priors = [fit.prior for fit in fits if fit.prior is not None]
    most = max(counts)
    at_once = len(fits) if data.n_samples * most * len(fits) <= TOGETHER else 1
    found = []
    for first in range(0, len(fits), at_once):
        part = slice(first, first + at_once)
        rules = rules_of(priors[part], counts[part], most, moments, rtol, step, dtype)
        gmms = jax.tree.map(lambda *leaves: np.stack(leaves), *[pad(fit.gmm, most, dtype) for fit in fits[part]])
        start = start_from(statistics_under(gmms, data, rules.shared), rules.own)
        search = climb(start, data, rules, max_steps, step)
        filled_counts = np.asarray(search.statistics.counts)
        ended = zip(priors[part], counts[part], filled_counts, search.objective, search.status, strict=True)
        for prior, k, filled, elbo, code in ended:
            status = status_of(int(code))
            more = WEIGHT_PRIORS[step.weights].log_relabellings(prior.concentration, filled[:k])
            value = float(elbo) if status in USABLE else np.nan
            found.append(Bound(value, value + more, status))
    return found
