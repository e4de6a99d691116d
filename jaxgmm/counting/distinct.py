"""Draws of partitions without what repeats in them, a sample of them where they are too many to compare in pairs."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxgmm.counting.distances import Loss, in_order

_MOST_DRAWS = 2000  # distinct ones
_MOST_WORK = 1 << 35  # multiplications of their comparison in pairs
_LOOK_UP = 200  # of these cost as much as phi of a number of rows
_NUMBERS_AT_ONCE = 1 << 23


@dataclass(frozen=True, eq=False)
class DistinctDraws:
    """Distinct partitions of units. A unit is all rows that no draw parts.

    The best estimate keeps units together, too: what a move changes in the expected loss is concave in how many rows make it,
    so that of two places one is as good for all of them as both.

    Attributes:
        labels: (S, U), in order.
        share: (S,), of the draws; sums to 1.
        size: (U,), rows.
        unit: (N,), of each row.
        n_compared: draws that these are of, with those alike.
    """

    labels: Int[np.ndarray, "S U"]
    share: Float[np.ndarray, " S"]
    size: Int[np.ndarray, " U"]
    unit: Int[np.ndarray, " N"]
    n_compared: int

    @classmethod
    def of(cls, labels: Int[np.ndarray, "S N"]) -> "DistinctDraws":
        """Of draws in order, evenly thinned if their comparison in pairs would take too long."""
        step = -(-len(labels) // _MOST_DRAWS)
        found = cls._of(labels[::step])
        excess = found._n_clusters**2 * (found.size.size + _LOOK_UP) / _MOST_WORK
        return found if excess <= 1 else cls._of(labels[:: int(np.ceil(step * excess**0.5))])

    @classmethod
    def _of(cls, labels: Int[np.ndarray, "S N"]) -> "DistinctDraws":
        distinct, count = np.unique(labels, axis=0, return_counts=True)
        units, first, unit, size = np.unique(distinct, axis=1, return_index=True, return_inverse=True, return_counts=True)
        order = np.argsort(first)
        units, unit = units[:, order], np.argsort(order)[unit.ravel()]
        return cls(in_order(units), count / len(labels), size[order], unit, len(labels))

    def among(self, chosen: Bool[np.ndarray, " S"]) -> "DistinctDraws":
        """Some of them, as if there were no others."""
        share = self.share[chosen]
        return replace(self, labels=self.labels[chosen], share=share / share.sum())

    @property
    def n_samples(self) -> int:
        """N."""
        return self.unit.size

    @property
    def _n_clusters(self) -> int:
        """Of all draws together."""
        return int((self.labels.max(1) + 1).sum())

    def own_terms(self, loss: Loss) -> Float[np.ndarray, " S"]:
        """The sum of phi over the clusters of each draw."""
        n_draws, most = len(self.labels), int(self.labels.max()) + 1
        cell = np.arange(n_draws)[:, None] * most + self.labels
        sizes = np.bincount(cell.ravel(), np.broadcast_to(self.size, cell.shape).ravel(), n_draws * most).astype(int)
        return loss.table(self.n_samples)[sizes].reshape(n_draws, most).sum(1)

    def in_pairs(self, loss: Loss) -> Float[np.ndarray, "S S"]:
        """The distance of each draw from each, by products of matrices of who is where."""
        n_clusters = self.labels.max(1) + 1
        ends = n_clusters.cumsum()
        starts = ends - n_clusters
        member = np.zeros((ends[-1], self.size.size), np.float32)
        member[starts[:, None] + self.labels, np.arange(self.size.size)] = 1
        phi, own = loss.table(self.n_samples), self.own_terms(loss)
        found = np.zeros((own.size, own.size))
        at_once = max(1, _NUMBERS_AT_ONCE // (int(ends[-1]) * int(n_clusters.max())))
        for first in range(0, own.size, at_once):
            last = min(first + at_once, own.size)
            some, others = slice(starts[first], ends[last - 1]), slice(starts[first], None)
            shared = (member[some] * self.size.astype(np.float32)) @ member[others].T
            by_column = np.add.reduceat(phi[shared.astype(np.int32)], starts[first:] - starts[first], axis=1)
            both = np.add.reduceat(by_column, starts[first:last] - starts[first], axis=0)
            found[first:last, first:] = own[first:last, None] + own[first:] - 2 * both
            found[first:, first:last] = found[first:last, first:].T
        return np.maximum(found, 0) * loss.scale(self.n_samples)
