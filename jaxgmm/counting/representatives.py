"""A few partitions in the place of a posterior: those of least expected distance from a draw to the nearest of them."""

import numpy as np
from jaxtyping import Float, Int

from jaxgmm.counting.distances import Loss, distances
from jaxgmm.counting.distinct import DistinctDraws
from jaxgmm.counting.medoids import medoids
from jaxgmm.counting.search import estimate

_ROUNDS = 20


def representatives(
    draws: DistinctDraws,
    in_pairs: Float[np.ndarray, "S S"],
    first: Int[np.ndarray, " U"],
    loss: Loss,
    most: int,
    least_gain: float,
) -> tuple[Int[np.ndarray, "L U"], list[float]]:
    """The best L partitions for L = 1, 2, ... as long as one more lowers the expected distance by enough.

    That distance is Wasserstein's between the posterior and the nearest distribution on L partitions (Balocchi & Wade 2025,
    WASABI). As there, draws go to the nearest of the L, and each of these to the best estimate of its draws, in turn; they
    start from medoids.

    Args:
        draws: of the posterior.
        in_pairs: their distances.
        first: the best one.
        loss: the distance.
        most: L, at most.
        least_gain: the share of the expected distance from `first` that one more has to take off.

    Returns:
        The partitions; and the shares of that distance that 1, 2, ... leave, up to the last number that was tried.
    """
    found, left = first[None], [1.0]
    whole = float(draws.share @ _away(draws, found, loss)[0])
    for count in range(2, min(most, len(draws.labels)) + 1):
        more = _settled(draws, draws.labels[medoids(in_pairs, draws.share, count)], loss)
        left.append(float(draws.share @ _away(draws, more, loss).min(0)) / whole)
        if left[-2] - left[-1] <= least_gain:
            break
        found = more
    return found, left


def _settled(draws: DistinctDraws, found: Int[np.ndarray, "L U"], loss: Loss) -> Int[np.ndarray, "L U"]:
    """Partitions that are the estimates of the draws nearest to them."""
    owner = np.full(len(draws.labels), -1)
    for _ in range(_ROUNDS):
        before, owner = owner, _away(draws, found, loss).argmin(0)
        if (owner == before).all():
            break
        own = [draws.among(owner == i) for i in range(len(found))]
        found = np.stack([estimate(mine, [one], loss) for mine, one in zip(own, found, strict=True) if len(mine.labels)])
    return found


def _away(draws: DistinctDraws, found: Int[np.ndarray, "L U"], loss: Loss) -> Float[np.ndarray, "L S"]:
    labels = draws.labels[:, draws.unit]
    return np.stack([distances(one[draws.unit], labels, loss) for one in found])
