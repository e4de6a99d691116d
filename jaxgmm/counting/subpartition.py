"""The rows that the posterior divides in one way only, nearly for sure: a credible set of partitions that a person can read."""

import numpy as np
import xarray
from jaxtyping import Bool, Float, Int

from jaxgmm.counting.distances import in_order
from jaxgmm.counting.distinct import DistinctDraws
from jaxgmm.counting.similarity import labels_of
from jaxgmm.counting.typical_partition import check_probability

_STARTS = 8  # clusters that the search begins in
_NUMBERS_AT_ONCE = 1 << 24


def credible_subpartition(tree: xarray.DataTree, probability: float = 0.95) -> xarray.Dataset:
    """As many rows as can be told how they are divided among themselves with so much posterior probability, and how they are.

    The credible set is of all partitions that divide these rows so, whatever becomes of the others (CHIPS: Page, Barrientos,
    Dahl & Dunson 2025, arXiv 2511.16040). The search is greedy: rows are added, to the cluster that they share or as a new
    one, where that costs the least probability a row. A larger set of rows may exist. It begins in each of the largest
    clusters of a typical draw, and the best result is kept. Nothing is drawn, so there is no key.

    Args:
        tree: from `count_clusters`.
        probability: that the set holds, at least.

    Returns:
        `label` (obs_id), 0.. in the order of the clusters' first rows, -1 for rows that are left open. Attributes:
        `probability`, the share of the draws in the set; `n_rows` of them that aren't open, `n_clusters`, `n_draws`, and
        `n_compared` of these, which the search went by: an even sample where all would take too long.

    Raises:
        TypeError, ValueError: a tree without allocations, a probability outside (0, 1).

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=50)
        >>> settled = jg.credible_subpartition(tree, 0.9)
        >>> settled.attrs["n_rows"] == int((settled["label"] >= 0).sum()), settled.attrs["probability"] >= 0.9
        (True, True)
    """
    check_probability(probability)
    labels, obs_id = labels_of(tree, "credible_subpartition")
    labels = in_order(labels)
    return subpartition(DistinctDraws.of(labels), labels, obs_id, probability)


def subpartition(
    draws: DistinctDraws, labels: Int[np.ndarray, "S N"], obs_id: np.ndarray, probability: float
) -> xarray.Dataset:
    """See `credible_subpartition`: found by distinct draws, judged by all of them."""
    sizes = np.bincount(draws.labels[draws.share.argmax()], draws.size)
    found = []
    for cluster in np.argsort(-sizes, kind="stable")[:_STARTS]:
        within = draws.size * (draws.labels[draws.share.argmax()] == cluster)
        units, clusters = _grow(draws, int(within.argmax()), probability)
        rows = np.concatenate([np.flatnonzero(draws.unit == unit) for unit in units])
        of_rows = np.repeat(clusters, draws.size[units])
        lasts = _agree_until(labels, rows, of_rows)
        held = np.sort(lasts)[len(labels) - int(np.ceil(probability * len(labels) - 1e-9))]  # rows that so many draws agree on
        found.append((held, float((lasts >= held).mean()), rows[:held], of_rows[:held]))
    n_rows, share, rows, of_rows = max(found, key=lambda one: one[:2])
    label = np.full(labels.shape[1], -1)
    label[rows] = of_rows
    label[label >= 0] = in_order(label[None, label >= 0])[0]
    facts = {"probability": share, "n_rows": int(n_rows), "n_clusters": int(label.max()) + 1, "n_draws": len(labels)}
    return xarray.Dataset({"label": ("obs_id", label)}, {"obs_id": obs_id}, facts | {"n_compared": draws.n_compared})


def _grow(draws: DistinctDraws, first: int, probability: float) -> tuple[Int[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Units in the order in which they are added, and the clusters that they are added to."""
    n_units = draws.size.size
    place = np.full(draws.labels.shape, -1)  # the cluster so far that a unit shares in a draw; -1: none
    support = np.zeros((n_units, 1))  # probability that a unit is in each of them, or, last, in none, and draws still agree
    alive, open_ = np.ones(len(draws.share), bool), np.ones(n_units, bool)
    units, clusters = [first], [0]
    while True:
        unit, cluster = units[-1], clusters[-1]
        open_[unit] = False
        gone = alive & (place[:, unit] != (-1 if cluster == support.shape[1] - 1 else cluster))
        alive &= ~gone
        if cluster == support.shape[1] - 1:
            own = draws.labels == draws.labels[:, [unit]]
            place[own & (place == -1)] = cluster
            support = _support(place, draws.share * alive, cluster + 2)
        elif gone.any():
            support = support - _support(place[gone], draws.share[gone], support.shape[1])
        kept = np.where(open_[:, None] & (support >= probability - 1e-9), support, -np.inf)
        cost = (draws.share[alive].sum() - kept) / draws.size[:, None]
        unit, cluster = divmod(int(cost.argmin()), cost.shape[1])
        if not np.isfinite(cost[unit, cluster]):
            return np.array(units), np.array(clusters)
        units.append(unit)
        clusters.append(cluster)


def _support(place: Int[np.ndarray, "S U"], share: Float[np.ndarray, " S"], n_places: int) -> Float[np.ndarray, "U P"]:
    """The share of the draws in which a unit is in each place; the last is -1."""
    return np.stack([share @ (place == k) for k in (*range(n_places - 1), -1)], axis=1)


def _agree_until(
    labels: Int[np.ndarray, "S N"], rows: Int[np.ndarray, " M"], clusters: Int[np.ndarray, " M"]
) -> Int[np.ndarray, " S"]:
    """How many of the rows, from the first on, each draw divides so."""
    firsts = np.unique(clusters, return_index=True)[1]
    lasts = np.empty(len(labels), int)
    step = max(1, _NUMBERS_AT_ONCE // rows.size)
    for start in range(0, len(labels), step):
        own = labels[start : start + step][:, rows]
        differs: Bool[np.ndarray, "s M"] = own != own[:, firsts[clusters]]
        for k, first in enumerate(firsts):
            differs[:, first] |= (own[:, [first]] == own[:, firsts[:k]]).any(1)
        lasts[start : start + step] = np.where(differs.any(1), differs.argmax(1), rows.size)
    return lasts
