"""How far apart partitions of the same rows are: sums of a function phi over the sizes of clusters and of what they share.

Both losses are d(a, b) = c (sum_i phi(a_i) + sum_j phi(b_j) - 2 sum_ij phi(n_ij)), where n_ij rows are in cluster i of a and
in cluster j of b: a metric, whatever the clusters are called.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from jaxgmm.tools.validation import unknown

_NUMBERS_AT_ONCE = 1 << 23
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Loss:
    """A distance between partitions.

    Attributes:
        title: its name in words.
        unit: of its values.
        phi: of numbers of rows.
        scale: c, for so many rows.
    """

    title: str
    unit: str
    phi: Callable[[np.ndarray], np.ndarray]
    scale: Callable[[int], float]

    def table(self, n_samples: int) -> Float[np.ndarray, " N+1"]:
        """Phi of 0..N rows."""
        return self.phi(np.arange(n_samples + 1, dtype=float))


LOSSES = {
    # Meila (2007): H(a | b) + H(b | a).
    "vi": Loss("variation of information", "nats", lambda n: scipy.special.xlogy(n, n), lambda n_samples: 1 / n_samples),
    # Binder (1978), equal costs: 1 - Rand's index, the share of pairs of rows that are together in one of the two only.
    "binder": Loss("Binder loss", "of pairs", np.square, lambda n_samples: 1 / max(n_samples * (n_samples - 1), 1)),
}


def get_loss(name: str) -> Loss:
    """By its name.

    Raises:
        ValueError: an unknown name.
    """
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


def distances(one: Int[np.ndarray, " N"], others: Int[np.ndarray, "S N"], loss: Loss) -> Float[np.ndarray, " S"]:
    """From a partition to each of others. Labels are small: 0, 1, ..."""
    n_samples = one.size
    phi, mine = loss.table(n_samples), int(one.max()) + 1
    own, found = phi[np.bincount(one)].sum(), []
    for part in parts(others, mine):
        shared = contingencies(one, part, mine)
        found.append(own + phi[shared.sum(1)].sum(1) - 2 * phi[shared].sum((1, 2)))
    apart = np.concatenate(found)
    return np.where(apart < _ROUNDING * phi[-1], 0, apart * loss.scale(n_samples))


def parts(labels: Int[np.ndarray, "S N"], most: int) -> Iterator[Int[np.ndarray, "s N"]]:
    """Some draws at a time, for what has a number for each row of each, or for what their clusters share with `most` others."""
    at_once = max(1, _NUMBERS_AT_ONCE // max(labels.shape[1], most * (int(labels.max()) + 1)))
    return (labels[first : first + at_once] for first in range(0, len(labels), at_once))


def contingencies(one: Int[np.ndarray, " N"], others: Int[np.ndarray, "S N"], most: int) -> Int[np.ndarray, "S most J"]:
    """How many rows each cluster of a partition, of `most`, shares with each of others."""
    n_draws, theirs = len(others), int(others.max()) + 1
    cell = (np.arange(n_draws)[:, None] * most + one) * theirs + others
    return np.bincount(cell.ravel(), minlength=n_draws * most * theirs).reshape(n_draws, most, theirs)


def in_order(labels: Int[np.ndarray, "S N"]) -> Int[np.ndarray, "S N"]:
    """Each partition with labels 0, 1, ... in the order of its clusters' first rows."""
    n_samples, most = labels.shape[1], int(labels.max()) + 1
    here = (labels == label for label in range(most))
    first = np.stack([np.where(mask.any(1), mask.argmax(1), n_samples) for mask in here], axis=1)
    rank = first.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.take_along_axis(rank.astype(labels.dtype), labels, axis=1)
