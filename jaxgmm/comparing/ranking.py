"""Criteria by which models are compared: a table of them, ranks, and in words where they agree."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxgmm.model.criteria import CRITERIA


class Choice(NamedTuple):
    """What a criterion says: the best model and the next (None: there is none), and how far apart they are."""

    criterion: str
    best: int
    next: int | None
    lead: float


def ranks(values: np.ndarray, larger_is_better: bool) -> np.ndarray:
    """1 for the best, equal values alike; NaN where there is no value.

    Example:
        >>> ranks(np.array([3.0, 1.0, np.nan, 1.0]), larger_is_better=False).tolist()
        [3.0, 1.0, nan, 1.0]
    """
    cost = -values if larger_is_better else values
    return np.where(np.isnan(cost), np.nan, 1 + (cost[None] < cost[:, None]).sum(1))


def choices(columns: Mapping[str, np.ndarray]) -> list[Choice]:
    """The choice of each criterion, from its values; those without any finite value have none."""
    made = []
    for name, values in columns.items():
        cost = np.where(np.isnan(values), np.inf, -values if CRITERIA[name].larger_is_better else values)
        order = np.argsort(cost, kind="stable")
        order = order[np.isfinite(cost[order])]
        if len(order):
            second = int(order[1]) if len(order) > 1 else None
            lead = math.inf if second is None else float(cost[second] - cost[order[0]])
            made.append(Choice(name, int(order[0]), second, lead))
    return made


def agreement(made: Sequence[Choice], models: Sequence[tuple[str, int]]) -> str:
    """Where criteria agree and where they don't, and by how much each prefers its choice.

    Args:
        made: the choices.
        models: (family, n_components) of each model.

    Example:
        >>> agreement([Choice("bic", 0, 1, 4.0), Choice("aic", 1, 0, 2.5)], [("tied", 3), ("full", 2)])
        'BIC chooses tied with 3 components; AIC chooses full with 2. Ahead of the next: BIC by 4 (full 2), AIC by 2.5
         (tied 3).'
    """
    if not made:
        return "No criterion chooses: no model could be fitted."
    by_model: dict[int, list[str]] = {}
    for choice in made:
        by_model.setdefault(choice.best, []).append(CRITERIA[choice.criterion].title)
    parts: list[str] = []
    for index, titles in by_model.items():
        family, k = models[index]
        noun = "" if parts else f" component{'s' * (k > 1)}"
        parts.append(f"{_listed(titles)} choose{'s' * (len(titles) == 1)} {family} with {k}{noun}")
    text = "; ".join(parts) + "."
    if len(by_model) == 1 and len(made) > 1:
        text = f"All criteria agree: {text}"
    leads = []
    for choice in made:
        if choice.next is not None:
            family, k = models[choice.next]
            leads.append(f"{CRITERIA[choice.criterion].title} by {round(choice.lead, 6):.3g} ({family} {k})")
    return text + (f" Ahead of the next: {', '.join(leads)}." if leads else "")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
