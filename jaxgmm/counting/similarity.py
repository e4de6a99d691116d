"""What draws of partitions have in common: who belongs together."""

from collections.abc import Sequence

import numpy as np
import xarray
from jaxtyping import Float, Int

from jaxgmm.bayes.trees.schema import group_of, require
from jaxgmm.tools.errors import UserError

_MOST_ROWS = 4000
_NUMBERS_AT_ONCE = 1 << 24


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
    labels, obs_id = labels_of(tree, "similarity")
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


def labels_of(tree: xarray.DataTree, user: str) -> tuple[Int[np.ndarray, "S N"], np.ndarray]:
    """The rows' labels in each draw, and the rows' own, (N,)."""
    require(tree, user, allocations=("label",))
    labels = group_of(tree, "allocations")["label"].transpose("chain", "draw", "obs_id")
    return labels.values.reshape(-1, labels.sizes["obs_id"]), labels["obs_id"].values
