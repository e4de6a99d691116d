"""The partitions that a posterior holds apart, with their probabilities, and the one in the middle of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.optimize
import xarray
from jaxtyping import Int

from jaxgmm.counting.distances import contingencies, distances, get_loss, in_order
from jaxgmm.counting.distinct import DistinctDraws
from jaxgmm.counting.mixing import mcse_of
from jaxgmm.counting.representatives import representatives
from jaxgmm.counting.similarity import labels_of
from jaxgmm.counting.subpartition import subpartition
from jaxgmm.counting.typical_partition import around, centre, check
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.formatting import share
from jaxgmm.tools.reading import Page, Readable, counted, of_frame
from jaxgmm.tools.svg import bar, chart, colour
from jaxgmm.tools.validation import check_count, is_finite_number

_UNSURE = 0.5  # stability


@dataclass(frozen=True, eq=False, repr=False)
class Partitions(Readable):
    """A few partitions in the place of the posterior, the most probable first, and the typical one.

    Attributes:
        table: index partition, with columns weight (the share of the draws that are nearer to it than to any other), mcse
            (Monte-Carlo standard error of it), n_clusters, sizes, expected_loss (of these draws, from it), distance (from the
            typical partition) and n_moved (rows that are in other clusters than there).
        representatives: (partition, obs_id), labels. A cluster has the label of that of the typical partition whose rows it
            shares, as far as most rows agree; clusters beyond those have the next ones.
        typical: as `typical_partition` returns it: labels, stability, and the edge of the credible ball.
        settled: as `credible_subpartition` returns it: the rows that nearly all draws divide in one way.
        left: the shares of the expected loss of the best single one that the best 1, 2, ... leave, up to the last number that
            was tried: often one that was not worth it.
        n_draws: how many there are.
        n_compared: how many the search went by, an even sample where all would take too long. Weights, losses and the ball are
            of all draws.
    """

    table: pd.DataFrame
    representatives: xarray.DataArray
    typical: xarray.Dataset
    settled: xarray.Dataset
    left: tuple[float, ...]
    n_draws: int
    n_compared: int

    @property
    def labels(self) -> xarray.DataArray:
        """The rows' clusters in the typical partition, (obs_id)."""
        return self.typical["label"]

    @property
    def stability(self) -> xarray.DataArray:
        """How much of its company each row keeps, (obs_id), in 0..1; see `typical_partition`."""
        return self.typical["stability"]

    @property
    def verdict(self) -> str:
        """How many, and how probable, in words."""
        weights = ", ".join(share(round(weight, 2) or weight) for weight in self.table["weight"])
        return f"{counted(len(self.table), 'plausible partition')}: {weights}"

    def to_frame(self) -> pd.DataFrame:
        """A row for each: its stability, its cluster in the typical partition, among the rows that are settled (-1 for the
        others), and in each of the partitions, by `obs_id`.
        """
        columns = {"stability": self.stability.values, "typical": self.labels.values}
        columns |= {"settled": self.settled["label"].values}
        columns |= {f"partition_{i}": label for i, label in enumerate(self.representatives.values)}
        return pd.DataFrame(columns, index=pd.Index(self.labels["obs_id"].values, name="obs_id"))

    def _page(self) -> Page:
        facts, unsure = self.typical.attrs, int((self.stability < _UNSURE).sum())
        loss = get_loss(facts["loss"])
        lines = [
            f"typical partition: {counted(facts['n_clusters'], 'cluster')}; expected {loss.title} {facts['expected_loss']:.3g} "
            f"{loss.unit}; {share(facts['probability'])} within {facts['radius']:.3g}",
            f"{self.settled.attrs['n_rows']} of {self.labels.size} rows are divided in one way, into "
            f"{counted(self.settled.attrs['n_clusters'], 'cluster')}, with probability "
            f"{share(self.settled.attrs['probability'])}",
            self._gains(),
            f"{unsure} of {self.labels.size} rows keep less than half of their company",
            "" if self.n_compared == self.n_draws else f"found by comparing {self.n_compared} of {self.n_draws} draws",
        ]
        formats: dict[str, Callable[[Any], str]] = {
            "weight": "{:.3f}".format, "mcse": "{:.3f}".format, "n_clusters": str, "sizes": _in_words,
            "expected_loss": "{:.3g}".format, "distance": "{:.3g}".format, "n_moved": str,
        }  # fmt: skip
        table = of_frame(self.table, formats, ("partition", "column"), "partition")
        return Page(f"Partitions: {self.verdict}", lines, table, self._picture)

    def _gains(self) -> str:
        """What more than one is worth, and one more than there are."""
        count = len(self.table)
        if len(self.left) == 1:
            return ""
        parts = [f"{count} together leave {share(self.left[count - 1])} of the expected loss of one"] if count > 1 else []
        parts += [f"{count + 1} would leave {share(self.left[count])}"] if len(self.left) > count else []
        return ", ".join(parts)

    def _picture(self) -> str:
        bars = [bar(i - 0.4, i + 0.4, weight, colour(0)) for i, weight in enumerate(self.table["weight"])]
        return chart(bars, ("partition", "weight"), whole=True)


def partitions(
    tree: xarray.DataTree,
    n_partitions: int = 5,
    *,
    loss: str = "vi",
    probability: float = 0.95,
    least_gain: float = 0.05,
) -> Partitions:
    """The partitions that a posterior holds apart, with weights: what a single best partition hides.

    L partitions c_l of least expected distance to the nearest of them, E min_l d(c_l, z), each with the share of the draws z
    that are nearest to it (Balocchi & Wade 2025, arXiv 2506.16295, WASABI). L grows as long as one more takes off at least
    `least_gain` of what the best single one leaves. Everything is about who is together; how draws number their clusters plays
    no part. Nothing is drawn, so there is no key.

    Args:
        tree: from `count_clusters`.
        n_partitions: L, at most.
        loss: "vi" or "binder", as for `typical_partition`.
        probability: that the credible ball around the typical partition holds, and the rows that are `settled`.
        least_gain: a share, in 0..1. Of draws in which rows move by themselves one more takes off a few per cent at most.

    Returns:
        Partitions: `labels` are those of the typical partition, `representatives` those of all.

    Raises:
        TypeError, ValueError: a tree without allocations, an unknown loss, a probability outside (0, 1), `n_partitions` below
            1, a `least_gain` that isn't a share.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=50)
        >>> found = jg.partitions(tree)
        >>> found.labels.sizes["obs_id"], bool(found.table["weight"].is_monotonic_decreasing)
        (272, True)
    """
    n_partitions = check_count(n_partitions, "n_partitions")
    check(probability, loss)
    if not is_finite_number(least_gain) or not 0 <= least_gain <= 1:
        raise UserError(f"least_gain must be a share, from 0 to 1, got {least_gain!r}: 0.05, say.")
    drawn, obs_id = labels_of(tree, "partitions")
    labels, kind = in_order(drawn), get_loss(loss)
    draws = DistinctDraws.of(labels)
    in_pairs = draws.in_pairs(kind)
    best = centre(draws, in_pairs, kind)
    few, left = representatives(draws, in_pairs, best, kind, n_partitions, least_gain)
    found = few[:, draws.unit]
    typical = around(best[draws.unit], labels, obs_id, probability, loss).assign_attrs(n_compared=draws.n_compared)
    away = np.stack([distances(one, labels, kind) for one in found])
    owned = np.unique(away.argmin(0))  # of all draws, one of those found by a sample of them may be nearest to none
    found, away = found[owned], away[owned]
    owner = away.argmin(0)
    weight = np.bincount(owner, minlength=len(found)) / len(labels)
    order = np.argsort(-weight, kind="stable")
    named = np.stack([_named_as(typical["label"].values, found[i]) for i in order])
    by_chain = owner.reshape(tree["allocations"]["label"].sizes["chain"], -1)
    table = pd.DataFrame(
        {
            "weight": weight[order],
            "mcse": [mcse_of(by_chain == i) for i in order],
            "n_clusters": found[order].max(1) + 1,
            "sizes": [tuple(np.bincount(one)[np.unique(one)].tolist()) for one in named],
            "expected_loss": [away[i, owner == i].mean() for i in order],
            "distance": distances(best[draws.unit], found[order], kind),
            "n_moved": (named != typical["label"].values).sum(1),
        },
        index=pd.RangeIndex(len(order), name="partition"),
    )
    coords = {"partition": table.index.to_numpy(), "obs_id": obs_id}
    own = xarray.DataArray(named, coords, ("partition", "obs_id"), "label")
    settled = subpartition(draws, labels, obs_id, probability)
    return Partitions(table, own, typical, settled, tuple(left), len(labels), draws.n_compared)


def _in_words(sizes: tuple[int, ...]) -> str:
    shown = " + ".join(map(str, sizes[:6]))
    return shown if len(sizes) <= 6 else f"{shown} + …"


def _named_as(reference: Int[np.ndarray, " N"], label: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """The partition with labels of a reference, given so that most rows agree; clusters beyond those come after."""
    most, own = int(reference.max()) + 1, int(label.max()) + 1
    theirs, mine = scipy.optimize.linear_sum_assignment(-contingencies(reference, label[None], most)[0])
    name = np.full(own, -1)
    name[mine] = theirs
    name[name < 0] = most + np.arange(own - mine.size)
    return name[label]
