"""Merging components into clusters by entropy (Baudry et al. 2010): a cluster that isn't Gaussian may be several components."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import reduce_rows
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable, Table, counted
from jaxgmm.tools.svg import Mark, chart, colour
from jaxgmm.tools.validation import check_count, check_rows, check_single, check_weights, host_only

_NUMBERS_AT_ONCE = 1 << 20  # entries of the memberships that are paired up together
_SEPARATE = 0.01  # overlap of components that nobody would merge: about 5.7 standard deviations between equal ones
_SAME = 0.5  # overlap of clusters that are one: about 2 standard deviations between equal ones, which have one mode


class Path(NamedTuple):
    """The merges of one mixture, from K clusters down to one.

    Attributes:
        pairs: (K - 1, 2), of each merge, the first component of the cluster that stays and of the one that it takes in.
        entropy: (K,), before the first merge, after it, ..., nats.
        merged: (K - 1,), weight of the rows whose most probable cluster is one of the two that are merged.
        overlap: (K - 1,), of the two.
        n_filled: (), clusters when there is none without rows any more.
    """

    pairs: Int[Array, "M 2"]
    entropy: Float[Array, " K"]
    merged: Float[Array, " M"]
    overlap: Float[Array, " M"]
    n_filled: Int[Array, ""]


@dataclass(frozen=True, eq=False, repr=False)
class Merging(Readable):
    """The hierarchy of a mixture's components, for every number of clusters c = 1..K; entry c - 1 of each array.

    Attributes:
        gmm: the mixture.
        partition: (K, K); row c - 1 has the cluster, 0..c-1, of each component where there are c clusters.
        entropy: (K,), -sum_n w_n sum_c r_nc log r_nc of the clusters' memberships, nats. 0 for one cluster.
        entropy_drop: (K,), what the merge of c clusters to c - 1 takes off it; 0 for c = 1.
        merged_weight: (K,), weight of the rows whose most probable cluster is one of the two that this merge joins.
        normalised_entropy: (K,), entropy in shares of the most there can be, N log c; 0 for c = 1.
        overlap: (K,), of the two clusters that this merge joins: their entropy in shares of what it would be if rows told
            nothing about which of the two they belong to. 0 for clusters far apart, 1 for the same one; 0 for c = 1.
        n_filled: clusters that own at least one row each; the others are merged into these before all else.
    """

    gmm: GMM
    partition: Int[np.ndarray, "K K"]
    entropy: Float[np.ndarray, " K"]
    entropy_drop: Float[np.ndarray, " K"]
    merged_weight: Float[np.ndarray, " K"]
    normalised_entropy: Float[np.ndarray, " K"]
    overlap: Float[np.ndarray, " K"]
    n_filled: int

    def choose(self) -> int:
        """The number of clusters by the elbow of the entropy against the cumulative weight of merged rows; see `elbow`."""
        m = self.n_filled
        return elbow(self.entropy[:m], self.merged_weight[:m], self.overlap[:m])

    def responsibilities(self, x: Float[ArrayLike, "N D"], n_clusters: int | None = None) -> Float[Array, "N C"]:
        """p(cluster c given x_n): the sum over the cluster's components.

        Args:
            x: (N, D), finite.
            n_clusters: C, to merge down to; `choose()` by default.

        Raises:
            ValueError: n_clusters outside 1..K, rows that can't be used.
        """
        labels = self.partition[self._check_count(n_clusters) - 1]
        r = self.gmm.responsibilities(x)
        return r @ (labels[:, None] == np.arange(labels.max() + 1)).astype(r.dtype)

    def labels(self, x: Float[ArrayLike, "N D"], n_clusters: int | None = None) -> Int[Array, " N"]:
        """The most probable cluster of each row: not always the one of its most probable component. As `responsibilities`."""
        return jnp.argmax(self.responsibilities(x, n_clusters), axis=-1)

    def _page(self) -> Page:
        chosen = self.choose()
        columns = {"entropy": self.entropy, "overlap": self.overlap, "merged weight": self.merged_weight}
        values = list(columns.values())
        clusters = np.column_stack([np.arange(1, len(self.entropy) + 1), self.entropy])
        return Page(
            f"Merging: {counted(self.gmm.n_components, 'component')} into {counted(chosen, 'cluster')}",
            ["What the merge of so many clusters to one fewer joins, and the entropy before it, nats:"],
            Table(
                "clusters",
                list(columns),
                len(clusters),
                lambda i, j: f"{values[j][i]:.4g}",
                lambda i: f"{i + 1}",
                ("row", "column"),
            ),
            lambda: chart([Mark(clusters, colour(0))], ("clusters", "entropy, nats"), whole=True),
        )

    def _check_count(self, n_clusters: int | None) -> int:
        n_clusters = self.choose() if n_clusters is None else check_count(n_clusters, "n_clusters")
        if n_clusters > len(self.entropy):
            raise UserError(
                f"n_clusters is {n_clusters}, but the mixture has {len(self.entropy)} components: merging can't make more."
            )
        return n_clusters


def merge_components(
    gmm: Mixture, x: Float[ArrayLike, "N D"], *, sample_weight: Float[ArrayLike, " N"] | None = None
) -> Merging:
    """Merge components step by step, each time the two clusters whose union takes most off the entropy of the memberships.

    The mixture, and so its density, stays as it is: only what counts as one cluster changes (Baudry, Raftery, Celeux, Lo &
    Gottardo 2010, "Combining mixture components for clustering", algorithm of section 2; mclust's `clustCombi`). We differ
    in that components which own no row (are the most probable one of none) are first absorbed, each by the one that it
    shares most with: a cluster owns rows.

    Memory: N x K memberships, and a few blocks of them; pairs are made a component at a time.

    Args:
        gmm: one mixture, or a Fit: the choice of BIC, say.
        x: (N, D), the rows it was fitted to.
        sample_weight: (N,), as in the fit; default 1.

    Raises:
        TypeError, ValueError: rows or weights that can't be used, a mixture with leading axes.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.3, 0.3, 0.4], [[0.0], [2.0], [20.0]], [1.0, 1.0, 1.0], "spherical")
        >>> merging = jg.merge_components(gmm, [[-1.0], [0.0], [1.0], [2.0], [3.0], [19.0], [20.0], [21.0]])
        >>> merging.choose(), merging.partition[1].tolist()
        (2, [0, 0, 1])
    """
    gmm = about_rows(gmm, "merge_components")
    host_only("merge_components", x, sample_weight, gmm)
    check_single(gmm.weights, "jg.merge_components(g, x)")
    rows = check_rows(x, "x", n_features=gmm.n_features, feature_names=gmm.feature_names)
    weight = check_weights(sample_weight, len(rows))
    dtype = precision.compute_dtype(rows)
    with precision.scope(dtype):
        w = jnp.ones(len(rows), dtype) if weight is None else jnp.asarray(weight, dtype)
        # Memberships in full precision, whatever the dtype of the rows.
        r = precision.cast(gmm, dtype).responsibilities(jnp.asarray(rows, dtype))
        path = jax.tree.map(np.asarray, _jitted_path(r, w))
        total = float(w.sum())
    k = gmm.n_components
    entropy = path.entropy[::-1].astype(float)
    return Merging(
        gmm=gmm,
        partition=_partitions(path.pairs, k),
        entropy=entropy,
        entropy_drop=np.diff(entropy, prepend=entropy[0]),
        merged_weight=np.append(path.merged, 0.0)[::-1].astype(float),
        normalised_entropy=entropy / (total * np.log(np.maximum(np.arange(1, k + 1), 2))),
        overlap=np.append(path.overlap, 0.0)[::-1].astype(float),
        n_filled=int(path.n_filled),
    )


def elbow(entropy: Float[np.ndarray, " M"], merged: Float[np.ndarray, " M"], overlap: Float[np.ndarray, " M"]) -> int:
    """The number of clusters c at which two straight lines fit the entropy best, against the cumulative weight of merged rows.

    Least squares of one line through the points 1..c and another through c..M (Baudry et al. 2010, section 4; mclust's
    `entPlot` and `pcws2_reg`, "normalized"). Such an elbow lies between 2 and M - 1. So that any mixture has an answer, two
    rules of ours come first: M, where not even the first merge joins components that overlap (below 0.01, 5.7 standard
    deviations between equal ones); 1, where the last two clusters overlap by more than a half (2 standard deviations
    between equal Gaussians, whose density then has a single mode). Else two clusters are 2.

    Args:
        entropy: of 1..M clusters.
        merged: weight of the rows that the merge of c clusters merges.
        overlap: of the two clusters that it joins.
    """
    m = len(entropy)
    if m == 1 or overlap[-1] < _SEPARATE:
        return m
    if overlap[1] > _SAME:
        return 1
    if m == 2:
        return 2
    position = np.cumsum(merged)
    residuals = [
        _residual(position[:c], entropy[:c]) + _residual(position[c - 1 :], entropy[c - 1 :]) for c in range(2, m)
    ]  # fmt: skip
    return 2 + int(np.argmin(residuals))


def _residual(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of squares about the least-squares line."""
    x, y = x - x.mean(), y - y.mean()
    squares = x @ x
    return float(y @ y - (x @ y) ** 2 / squares if squares > 0 else y @ y)


def merge_path(r: Float[Array, "N K"], weight: Float[Array, " N"]) -> Path:
    """The merges for given memberships. For traced arrays: posterior draws map over it."""
    k = r.shape[1]
    block_size = max(1, _NUMBERS_AT_ONCE // k)
    ids = jnp.arange(k)

    def survey(r: Array, which: Array) -> tuple[Array, Array, Array]:
        """Entropy of clusters joined with the chosen ones, (A, K); weights owned and expected, (K,)."""

        def block(rows: Array, w: Array) -> tuple[Array, Array, Array]:
            joined = lax.map(lambda i: -(w @ _xlogx(rows + rows[:, i][:, None])), which)
            return joined, w @ jax.nn.one_hot(jnp.argmax(rows, axis=1), k, dtype=r.dtype), w @ rows

        return reduce_rows(block, r, weight, block_size)

    def merge(step: Array, carry: tuple) -> tuple:
        r, pair, own, alive, owned, counts, settled, path = carry
        drop = own[:, None] + own - pair
        idle = alive & (owned <= 0)
        settled = settled | ~idle.any()
        first = ~settled & (idle[:, None] | idle)
        allowed = alive[:, None] & alive & (ids[:, None] < ids)
        score = jnp.where(allowed, jnp.where(first, drop + 1 + own.sum(), drop), -jnp.inf)
        a, b = jnp.divmod(jnp.argmax(score), k)
        most = _xlogx(counts[a] + counts[b]) - _xlogx(counts[a]) - _xlogx(counts[b])
        tiny = jnp.finfo(r.dtype).tiny
        path = Path(
            path.pairs.at[step].set(jnp.stack([a, b]).astype(jnp.int32)),
            path.entropy.at[step + 1].set(path.entropy[step] - drop[a, b]),
            path.merged.at[step].set(owned[a] + owned[b]),
            path.overlap.at[step].set(jnp.where(most > tiny, drop[a, b] / jnp.maximum(most, tiny), 0)),
            jnp.where(settled, path.n_filled, alive.sum() - 1).astype(jnp.int32),
        )
        r = r.at[:, a].add(r[:, b]).at[:, b].set(0)
        alive = alive.at[b].set(False)
        joined, owned, counts = survey(r, a[None])
        pair = pair.at[a].set(joined[0]).at[:, a].set(joined[0])
        # Of a cluster joined with a dead one nothing is left but itself.
        own = own.at[a].set(joined[0, b]).at[b].set(0)
        return r, pair, own, alive, owned, counts, settled, path

    pair, owned, counts = survey(r, ids)
    own = -reduce_rows(lambda rows, w: w @ _xlogx(rows), r, weight, block_size)
    zeros = jnp.zeros(k, r.dtype)
    path = Path(jnp.zeros((k - 1, 2), jnp.int32), zeros.at[0].set(own.sum()), zeros[1:], zeros[1:], jnp.int32(k))
    alive, settled = jnp.ones(k, bool), jnp.zeros((), bool)
    if k > 1:
        path = lax.fori_loop(0, k - 1, merge, (r, pair, own, alive, owned, counts, settled, path))[-1]
    return path._replace(entropy=jnp.maximum(path.entropy, 0).at[-1].set(0))


_jitted_path = jax.jit(merge_path)


def _xlogx(values: Array) -> Array:
    return xlogy(values, values)


def _partitions(pairs: Int[np.ndarray, "M 2"], k: int) -> Int[np.ndarray, "K K"]:
    """The cluster of each component for every number of clusters; clusters are numbered by their first component."""
    first = np.arange(k)
    rows = [first]
    for a, b in pairs:
        first = np.where(first == b, a, first)
        rows.append(first)
    return np.stack([np.unique(row, return_inverse=True)[1] for row in rows[::-1]]).astype(np.int32)
