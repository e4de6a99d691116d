"""The partition of least expected loss, by sweeps that move what is together in all draws to where it costs least."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxgmm.counting.distances import Loss, in_order
from jaxgmm.counting.distinct import DistinctDraws

_LEAST_GAIN = 1e-12  # of the sum of phi over all rows: less is rounding
_NOWHERE = -1  # the cluster of a unit that waits for its turn


def estimate(draws: DistinctDraws, starts: Sequence[Int[np.ndarray, " U"]], loss: Loss) -> Int[np.ndarray, " U"]:
    """The best that is found from several starts, labels in order; none of the starts is better.

    From each, units move one by one to the cluster, or to one of their own, where they cost least; when none moves, the two
    clusters whose union costs least become one, and units move again. Costs are exact, and take S K additions a unit, for S
    draws and K clusters. (Dahl, Johnson & Mueller 2022, SALSO; their starts and sweeps are in random orders, these in the rows'
    own, so that nothing is drawn.)

    Args:
        draws: whose expectation is taken.
        starts: partitions of the units.
        loss: a distance.
    """
    best = min((_descended(_Allocation(draws, start, loss)) for start in starts), key=_Allocation.cost)
    return in_order(best.labels[None])[0]


def placed_in_turn(draws: DistinctDraws, order: Sequence[int], loss: Loss) -> Int[np.ndarray, " U"]:
    """A start: units one after the other where they cost least, given those before."""
    state = _Allocation(draws, np.zeros(draws.size.size, int), loss)
    for u in order:
        state.move(u, _NOWHERE)
    for u in order:
        state.move(u, int(state.costs(u).argmin()))
    return state.labels


class _Allocation:
    """A partition that is changed in place, and what its clusters share with those of each draw; the last one is empty.

    Costs are without the draws' own terms, and unscaled: sum_i phi(a_i) - 2 E sum_ij phi(n_ij).
    """

    def __init__(self, draws: DistinctDraws, labels: Int[np.ndarray, " U"], loss: Loss) -> None:
        self.draws, self.labels = draws, labels.astype(int)
        self.phi = loss.table(draws.n_samples)
        n_draws, theirs, mine = len(draws.labels), int(draws.labels.max()) + 1, int(labels.max()) + 2
        place = np.arange(n_draws)[:, None] * theirs + draws.labels
        self.shape = n_draws, theirs
        self.places = np.ascontiguousarray(place.T)  # (U, S)
        weight = np.broadcast_to(draws.size, place.shape).ravel()
        shared = np.bincount((place * mine + labels).ravel(), weight, n_draws * theirs * mine)
        self.shared = shared.astype(np.int32).reshape(-1, mine)  # (S J, K)
        self.sizes = np.bincount(labels, draws.size, mine).astype(int)
        self.rounding = _LEAST_GAIN * float(self.phi[-1])

    def cost(self) -> float:
        by_draw = self.phi[self.shared].reshape(self.shape[0], -1).sum(1)
        return float(self.phi[self.sizes].sum() - 2 * self.draws.share @ by_draw)

    def costs(self, u: int) -> Float[np.ndarray, " K"]:
        """Of a unit in each cluster, given where the others are."""
        size, now = self.draws.size[u], self.labels[u]
        sizes, shared = self.sizes.copy(), self.shared[self.places[u]]
        if now != _NOWHERE:
            sizes[now] -= size
            shared[:, now] -= size
        rise = self.phi[size:] - self.phi[:-size]
        return rise[sizes] - 2 * (self.draws.share @ rise[shared])

    def move(self, u: int, there: int) -> None:
        """A unit to another cluster, or nowhere."""
        for cluster, size in ((self.labels[u], -self.draws.size[u]), (there, self.draws.size[u])):
            if cluster != _NOWHERE:
                self.shared[self.places[u], cluster] += size
                self.sizes[cluster] += size
        self.labels[u] = there
        if self.sizes[-1]:
            self.sizes = np.append(self.sizes, 0)
            self.shared = np.pad(self.shared, ((0, 0), (0, 1)))


def _descended(state: _Allocation) -> _Allocation:
    """Where no unit gains by moving, and no two clusters by their union."""
    moved = True
    while moved:
        moved = False
        for u, now in enumerate(state.labels.tolist()):
            costs = state.costs(u)
            there = int(costs.argmin())
            if costs[there] < costs[now] - state.rounding:
                state.move(u, there)
                moved = True
        moved = moved or _unite(state)
    return state


def _unite(state: _Allocation) -> bool:
    """Two clusters whose union lowers the cost most become one, if any does."""
    phi, sizes, shared = state.phi, state.sizes, state.shared
    filled, each = np.flatnonzero(sizes), state.phi[state.shared]
    best, pair = -state.rounding, None
    for i, a in enumerate(filled):
        for b in filled[:i]:
            rise = phi[shared[:, a] + shared[:, b]] - each[:, a] - each[:, b]
            change = phi[sizes[a] + sizes[b]] - phi[sizes[a]] - phi[sizes[b]]
            change -= 2 * state.draws.share @ rise.reshape(state.shape).sum(1)
            if change < best:
                best, pair = change, (a, b)
    if pair is None:
        return False
    for u in np.flatnonzero(state.labels == pair[0]).tolist():
        state.move(u, int(pair[1]))
    return True
