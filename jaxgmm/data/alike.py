"""Rows in an order in which neighbours are alike, so that a block of them has little to do with most components."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, Int

from jaxgmm.data.padding import on_device
from jaxgmm.data.source import ArraySource
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.types import on_host

_ROWS_AT_ONCE = 8192  # whose distances from all cells exist at one time
_SEED = 0  # the order changes rounding only


@pytree(labels=("feature_names",))
@dataclass(frozen=True)
class AlikeSource(ArraySource):
    """Rows in memory, in such an order; starts are made of them as they came.

    Attributes:
        as_given: the rows in their own order.
    """

    as_given: ArraySource | None = None

    def some_rows(self, key: Array, n_samples: int) -> ArraySource:
        """All of them, in their own order."""
        return self if self.as_given is None else self.as_given


def alike(source: ArraySource, n_cells: int) -> AlikeSource:
    """The rows, in order of so many cells, on the device and in the current precision, padded."""
    order = order_of(source, n_cells)
    x, weight = (on_host(np.asarray(array)[order]) for array in (source.x, source.weight))
    rows = on_device(dataclasses.replace(source, x=x, weight=weight))
    return AlikeSource(rows.x, rows.weight, rows.feature_names, as_given=on_device(source))


def order_of(source: ArraySource, n_cells: int) -> Int[np.ndarray, " N"]:
    """Rows of weight 0 last, of the others cell by cell, cells beside near ones (k-means, one step)."""
    x, present = np.asarray(source.x), np.asarray(source.weight) > 0
    with np.errstate(all="ignore"):  # any order will do
        scale = x[present].std(0, dtype=float)
        x = (x - x[present].mean(0, dtype=float)) / np.where(scale > 0, scale, 1)
        centres = x[np.random.default_rng(_SEED).permutation(np.flatnonzero(present))[:n_cells]]
        cells = _nearest(x, centres)
        sizes = np.bincount(cells, minlength=len(centres))[:, None]
        sums = np.stack([np.bincount(cells, column, len(centres)) for column in x.T], axis=1)
        centres = np.where(sizes > 0, sums / np.maximum(sizes, 1), centres)
        place = np.empty(len(centres), int)
        place[_chain(centres)] = np.arange(len(centres))
        return np.lexsort([place[_nearest(x, centres)], ~present])


def _nearest(x: Float[np.ndarray, "N D"], centres: Float[np.ndarray, "C D"]) -> Int[np.ndarray, " N"]:
    squares = (centres**2).sum(1)
    blocks = (x[first : first + _ROWS_AT_ONCE] for first in range(0, len(x), _ROWS_AT_ONCE))
    return np.concatenate([(squares - 2 * rows @ centres.T).argmin(1) for rows in blocks])


def _chain(centres: Float[np.ndarray, "C D"]) -> list[int]:
    """From each to the nearest of those that are left."""
    left, order = np.ones(len(centres), bool), [0]
    left[0] = False
    while left.any():
        distance = ((centres - centres[order[-1]]) ** 2).sum(1)
        order.append(int(np.flatnonzero(left)[distance[left].argmin()]))
        left[order[-1]] = False
    return order
