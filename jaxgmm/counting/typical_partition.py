"""One partition in the middle of the posterior, how far the draws lie around it, and how sure each row's company is."""

import numpy as np
import xarray
from jaxtyping import Float, Int

from jaxgmm.counting.distances import Loss, contingencies, distances, get_loss, in_order, parts
from jaxgmm.counting.distinct import DistinctDraws
from jaxgmm.counting.medoids import medoids
from jaxgmm.counting.search import estimate, placed_in_turn
from jaxgmm.counting.similarity import labels_of
from jaxgmm.tools.errors import UserError

_ROUNDING = 1e-12  # by which the distances of draws alike differ
_MEDOIDS = 5  # draws that the search starts from


def typical_partition(tree: xarray.DataTree, probability: float = 0.95, *, loss: str = "vi") -> xarray.Dataset:
    """The partition of least posterior expected loss, and how far the posterior lies around it.

    It need not be a draw: a search descends from several draws and other starts, by exact costs. The credible ball is the
    smallest around it that holds `probability` of the draws (Wade & Ghahramani 2018). Nothing is drawn, so there is no key.

    A row's stability is E |A & B| / |A | B|, A its cluster here and B that in a draw: how much of its company it keeps. It is 1
    where that never changes, and 1/m where a cluster of m rows always falls to single ones.

    Args:
        tree: from `count_clusters`.
        probability: that the ball holds.
        loss: "vi", the variation of information, in nats (Meila 2007); or "binder", the share of pairs of rows that are
            together in one of two partitions only (Binder 1978), which sets more rows apart.

    Returns:
        `label` (obs_id), 0.. in the order of the clusters' first rows; `stability` (obs_id); and, of the ball's draws, the
        farthest of those with fewest clusters `coarsest` (the upper vertical bound), of those with most `finest` (the lower),
        and of all `farthest` (the horizontal), each (obs_id). Attributes: `expected_loss` and `radius`, in the loss's unit,
        `loss`, `probability`, `n_clusters`, and `n_compared` of `n_draws` draws, which the search went by: an even sample
        where all would take too long.

    Raises:
        TypeError, ValueError: a tree without allocations, a probability outside (0, 1), an unknown loss.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=50)
        >>> typical = jg.typical_partition(tree)
        >>> int(typical["label"][0]), int(typical["label"][1]), typical.attrs["n_clusters"] >= 2
        (0, 1, True)
    """
    check(probability, loss)
    labels, obs_id = labels_of(tree, "typical_partition")
    labels = in_order(labels)
    draws, kind = DistinctDraws.of(labels), get_loss(loss)
    best = centre(draws, draws.in_pairs(kind), kind)
    return around(best[draws.unit], labels, obs_id, probability, loss).assign_attrs(n_compared=draws.n_compared)


def check(probability: float, loss: str) -> None:
    """Raises ValueError for a probability or a loss that can't be used."""
    check_probability(probability)
    get_loss(loss)


def check_probability(probability: float) -> None:
    """Raises ValueError for one that no set of draws has."""
    if not 0 < probability < 1:
        raise UserError(f"probability must lie between 0 and 1, got {probability!r}: 0.95, say.")


def centre(draws: DistinctDraws, in_pairs: Float[np.ndarray, "S S"], loss: Loss) -> Int[np.ndarray, " U"]:
    """The estimate from draws that represent the others, from one cluster, and from units placed in turn, there and back."""
    units = range(draws.size.size)
    starts = [*draws.labels[medoids(in_pairs, draws.share, min(_MEDOIDS, len(in_pairs)))], np.zeros(len(units), int)]
    return estimate(draws, [*starts, *(placed_in_turn(draws, order, loss) for order in (units, units[::-1]))], loss)


def around(
    label: Int[np.ndarray, " N"], labels: Int[np.ndarray, "S N"], obs_id: np.ndarray, probability: float, loss: str
) -> xarray.Dataset:
    """A partition with its credible ball among draws in order, and its rows' stability; see `typical_partition`."""
    away = distances(label, labels, get_loss(loss))
    radius = float(np.quantile(away, probability, method="inverted_cdf"))
    inside = np.flatnonzero(away <= radius * (1 + _ROUNDING))
    radius = float(away[inside].max())
    sizes = labels[inside].max(axis=1) + 1

    def edge(chosen: np.ndarray) -> np.ndarray:
        among = inside[chosen]
        return labels[among[np.argmax(away[among])]].astype(int)

    found = {
        "label": label,
        "stability": _stability(label, labels),
        "coarsest": edge(sizes == sizes.min()),
        "finest": edge(sizes == sizes.max()),
        "farthest": edge(np.ones(inside.size, bool)),
    }
    facts = {
        "expected_loss": float(away.mean()),
        "radius": radius,
        "probability": probability,
        "loss": loss,
        "n_clusters": int(label.max()) + 1,
        "n_draws": len(labels),
    }
    return xarray.Dataset({name: (("obs_id",), value) for name, value in found.items()}, {"obs_id": obs_id}, facts)


def _stability(label: Int[np.ndarray, " N"], labels: Int[np.ndarray, "S N"]) -> Float[np.ndarray, " N"]:
    most, total = int(label.max()) + 1, np.zeros(label.size)
    for part in parts(labels, most):
        shared = contingencies(label, part, most)
        either = shared.sum(2, keepdims=True) + shared.sum(1, keepdims=True) - shared
        total += (shared / np.maximum(either, 1))[np.arange(len(part))[:, None], label, part].sum(0)
    return total / len(labels)
