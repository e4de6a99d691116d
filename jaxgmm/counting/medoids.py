"""A few draws in the place of all."""

import numpy as np
from jaxtyping import Float, Int

_ROUNDING = 1e-12


def medoids(in_pairs: Float[np.ndarray, "S S"], share: Float[np.ndarray, " S"], count: int) -> Int[np.ndarray, " L"]:
    """Draws of least expected distance from a draw to the nearest of them.

    They are added one by one, each the one that lowers the distance most, and then moved to the middle of the draws nearest to
    them until none moves (Kaufman & Rousseeuw 1990's BUILD, and k-medoids).

    Args:
        in_pairs: distances of distinct draws.
        share: of each draw.
        count: L, at most S.
    """
    near, chosen = np.full(len(share), np.inf), []
    for _ in range(count):
        chosen.append(int((share @ np.minimum(near[:, None], in_pairs)).argmin()))
        near = np.minimum(near, in_pairs[chosen[-1]])
    while True:
        owner = in_pairs[chosen].argmin(0)
        moved = [_middle(np.flatnonzero(owner == i), now, in_pairs, share) for i, now in enumerate(chosen)]
        if moved == chosen:
            return np.array(chosen)
        chosen = moved


def _middle(own: np.ndarray, now: int, in_pairs: np.ndarray, share: np.ndarray) -> int:
    """The draw of least expected distance to its group; the one that was it, if none is better."""
    costs = share[own] @ in_pairs[np.ix_(own, own)]
    return int(own[costs.argmin()]) if costs.min() < (1 - _ROUNDING) * costs[own == now][0] else now
