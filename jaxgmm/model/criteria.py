"""Criteria by which models are compared: formulas on a record of scores."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Scores(NamedTuple):
    """What is known of a fitted model, for criteria to be made of.

    Attributes:
        log_likelihood: sum_n w_n log p(x_n), nats.
        completed: sum_n w_n (log p(x_n) + log max_k r_nk), nats: the log-likelihood of rows with their components.
        n_parameters: free parameters.
        total_weight: sum_n w_n.
        held_out: log-likelihood of rows that a fit has not seen, nats per unit of weight; None if it wasn't asked for.
        loo: expected log predictive density by leave-one-out, total nats; None if it wasn't asked for.
        log_evidence: log p(x) as variational Bayes bounds it, nats; None if it wasn't asked for.
    """

    log_likelihood: float
    completed: float
    n_parameters: int
    total_weight: float
    held_out: float | None = None
    loo: float | None = None
    log_evidence: float | None = None


class Criterion(NamedTuple):
    """One way to compare models.

    Attributes:
        title: in words and figures.
        unit: of its values; "" on the scale of -2 log-likelihoods.
        larger_is_better: False where smaller is.
        value: from a model's scores; None where they don't have what it needs.
    """

    title: str
    unit: str
    larger_is_better: bool
    value: Callable[[Scores], float | None]


def _penalised(log_likelihood: float, penalty: float) -> float:
    return penalty - 2 * log_likelihood


# BIC: Schwarz (1978); AIC: Akaike (1974); ICL: Biernacki, Celeux & Govaert (2000), as `GMM.bic`, `GMM.aic` and `GMM.icl`.
CRITERIA: dict[str, Criterion] = {
    "bic": Criterion("BIC", "", False, lambda s: _penalised(s.log_likelihood, s.n_parameters * math.log(s.total_weight))),
    "aic": Criterion("AIC", "", False, lambda s: _penalised(s.log_likelihood, 2 * s.n_parameters)),
    "icl": Criterion("ICL", "", False, lambda s: _penalised(s.completed, s.n_parameters * math.log(s.total_weight))),
    "held_out": Criterion("held-out log-likelihood", "nats a row", True, lambda s: s.held_out),
    "loo": Criterion("LOO", "nats", True, lambda s: s.loo),
    "log_evidence": Criterion("variational evidence", "nats", True, lambda s: s.log_evidence),
}
