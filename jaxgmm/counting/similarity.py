"""What draws of partitions have in common: who belongs together, and one partition in the middle of them."""

from collections.abc import Sequence

import numpy as np
import scipy.cluster.hierarchy
import scipy.spatial.distance
import xarray
from jaxtyping import Float, Int

from jaxgmm.bayes.trees.schema import group_of, require
from jaxgmm.tools.errors import UserError

_MOST_ROWS = 4000
_NUMBERS_AT_ONCE = 1 << 24
_CANDIDATES = 400  # draws whose bound on the expected loss is looked at
_FINALISTS = 20  # of these and of the tree's cuts, whose loss is worked out


def similarity(tree: xarray.DataTree, rows: Sequence[int] | None = None) -> xarray.DataArray:
    """The posterior similarity matrix: the share of draws in which two rows belong to the same cluster.

    Args:
        tree: from `count_clusters`.
        rows: the places of the rows to compare, from 0; None for all, at most 4000.

    Returns:
        (obs_id, obs_id_bis).

    Raises:
        TypeError, ValueError: a tree without allocations, indices that aren't rows, more than 4000 rows that nobody chose.
    """
    labels, obs_id = _labels(tree, "similarity")
    n_samples = labels.shape[-1]
    index = np.arange(n_samples) if rows is None else np.asarray(rows)
    if rows is None and index.size > _MOST_ROWS:
        raise UserError(
            f"the tree has {index.size} rows: choose at most {_MOST_ROWS}, similarity(tree, rows=range({_MOST_ROWS}))."
        )
    if index.ndim != 1 or index.size == 0 or index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= n_samples:
        raise UserError(f"rows must be row indices in 0..{n_samples - 1}, got {rows!r}.")
    shared, obs_id = _similarity(labels[:, index]), obs_id[index]
    return xarray.DataArray(shared, {"obs_id": obs_id, "obs_id_bis": obs_id}, ("obs_id", "obs_id_bis"), "similarity")


def typical_partition(tree: xarray.DataTree, probability: float = 0.95) -> xarray.Dataset:
    """The partition of least posterior expected variation of information, and how far the posterior lies around it.

    Candidates are draws, and cuts of the average-linkage tree of the similarities; the credible ball is the smallest around
    it that holds `probability` of the draws (Wade & Ghahramani 2018). Memory N^2.

    Args:
        tree: from `count_clusters`.
        probability: that the ball holds.

    Returns:
        `label` (obs_id), 0..; and, of the ball's edge, the draw of fewest clusters `coarsest`, of most `finest`, and the
        farthest `farthest`, each (obs_id). Attributes: `expected_loss` and `radius`, in nats, `n_clusters`.

    Raises:
        TypeError, ValueError: a tree without allocations, more than 4000 rows, a probability outside (0, 1).
    """
    if not 0 < probability < 1:
        raise UserError(f"probability must lie between 0 and 1, got {probability!r}: 0.95, say.")
    labels, obs_id = _labels(tree, "typical_partition")
    n_samples = labels.shape[-1]
    if n_samples > _MOST_ROWS:
        raise UserError(
            f"the tree has {n_samples} rows, but pairs of at most {_MOST_ROWS} are compared: count a sample of them."
        )
    labels = labels.astype(int)
    shared = _similarity(labels)
    step = max(1, len(labels) // _CANDIDATES)
    candidates = [*labels[::step]]
    if n_samples > 1:
        distance = scipy.spatial.distance.squareform(1 - shared, checks=False)
        linkage = scipy.cluster.hierarchy.linkage(np.maximum(distance, 0), "average")
        most = min(n_samples, int(labels.max()) + 2)
        candidates += [scipy.cluster.hierarchy.fcluster(linkage, count, "maxclust") - 1 for count in range(1, most + 1)]
    bounds = np.array([_bound(candidate, shared) for candidate in candidates])
    finalists = [candidates[i] for i in np.argsort(bounds, kind="stable")[:_FINALISTS]]
    thinned = labels[::step]
    losses = [float(variation_of_information(finalist, thinned).mean()) for finalist in finalists]
    best = _in_order(finalists[int(np.argmin(losses))])
    away = variation_of_information(best, labels)
    radius = float(np.quantile(away, probability, method="inverted_cdf"))
    inside = np.flatnonzero(away <= radius)
    sizes = np.array([np.unique(draw).size for draw in labels[inside]])

    def edge(chosen: np.ndarray) -> np.ndarray:
        among = inside[chosen]
        return _in_order(labels[among[np.argmax(away[among])]])

    every = np.ones(inside.size, bool)
    parts = {
        "label": best,
        "coarsest": edge(sizes == sizes.min()),
        "finest": edge(sizes == sizes.max()),
        "farthest": edge(every),
    }
    return xarray.Dataset(
        {name: (("obs_id",), value) for name, value in parts.items()},
        {"obs_id": obs_id},
        {"expected_loss": min(losses), "radius": radius, "probability": probability, "n_clusters": int(best.max()) + 1},
    )


def variation_of_information(one: Int[np.ndarray, " N"], others: Int[np.ndarray, "S N"]) -> Float[np.ndarray, " S"]:
    """Distance between a partition and others, in nats: H(a | b) + H(b | a) (Meila 2007)."""
    n_samples = one.size
    first, mine = np.unique(one, return_inverse=True)
    counts = np.bincount(mine)
    distances = np.empty(len(others))
    for s, other in enumerate(others):
        both = np.bincount(mine * (int(other.max()) + 1) + other, minlength=first.size)
        distances[s] = _plogp(counts, n_samples) + _plogp(np.bincount(other), n_samples) - 2 * _plogp(both, n_samples)
    return np.maximum(distances, 0) * (distances > 1e-12)


def _plogp(counts: np.ndarray, n_samples: int) -> float:
    p = counts[counts > 0] / n_samples
    return float((p * np.log(p)).sum())


def _similarity(labels: Int[np.ndarray, "S N"]) -> Float[np.ndarray, "N N"]:
    n_draws, n_samples = labels.shape
    most = int(labels.max()) + 1
    at_once = max(1, _NUMBERS_AT_ONCE // (n_samples * most))
    total = np.zeros((n_samples, n_samples))
    for first in range(0, n_draws, at_once):
        part = labels[first : first + at_once]
        one_hot = (part[:, :, None] == np.arange(most)).astype(np.float32)
        flat = one_hot.transpose(1, 0, 2).reshape(n_samples, -1)
        total += flat @ flat.T
    return total / n_draws


def _bound(labels: np.ndarray, shared: Float[np.ndarray, "N N"]) -> float:
    """A lower bound of the expected variation of information, up to what candidates share (Wade & Ghahramani 2018)."""
    same = labels[:, None] == labels
    return float((np.log(same.sum(1)) - 2 * np.log((shared * same).sum(1))).mean())


def _in_order(labels: np.ndarray) -> np.ndarray:
    """Labels 0, 1, ... in the order of the clusters' first rows."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _labels(tree: xarray.DataTree, user: str) -> tuple[Int[np.ndarray, "S N"], np.ndarray]:
    """The rows' labels in each draw, and the rows' own, (N,)."""
    require(tree, user, allocations=("label",))
    labels = group_of(tree, "allocations")["label"].transpose("chain", "draw", "obs_id")
    return labels.values.reshape(-1, labels.sizes["obs_id"]), labels["obs_id"].values
