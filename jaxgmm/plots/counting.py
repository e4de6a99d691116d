"""How many clusters there are, and which rows belong together."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxgmm.plots import canvas

if TYPE_CHECKING:
    from xarray import DataTree

    from jaxgmm.counting.verdict import ClusterCount

_LEAST_SHOWN = 1e-3  # probability, before the data or after, of a number that gets a bar
_MOST_ROWS = 1000  # of a heat map


def n_clusters(tree: "DataTree | ClusterCount", *, ax: Axes | None = None) -> Axes:
    """The posterior of the number of clusters, with Monte-Carlo standard errors, beside the prior that the model implies.

    Args:
        tree: from `jaxgmm.count_clusters`; or from `jaxgmm.cluster_count`, for thresholds of one's own.
        ax: to draw into; a new figure by default.

    Raises:
        TypeError, ValueError: not such a tree.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=50)
        >>> jg.plots.n_clusters(tree).get_xlabel()
        'number of clusters'
    """
    from jaxgmm.counting.verdict import ClusterCount, cluster_count

    count = tree if isinstance(tree, ClusterCount) else cluster_count(tree)
    ax = ax or canvas.new_axes()
    table = count.table
    shown = table.loc[: table.index[(table[["posterior", "prior"]] > _LEAST_SHOWN).any(axis=1)].max()]
    numbers = shown.index.to_numpy()
    style: canvas.Style = {"color": canvas.colour(0), "error_kw": {"elinewidth": 1.2, "capsize": 2}, "label": "posterior"}
    ax.bar(numbers - 0.2, shown["posterior"], 0.4, yerr=shown["mcse"].where(shown["mcse"] > 0), **style)
    ax.bar(numbers + 0.2, shown["prior"], 0.4, color="0.75", label="prior (implied)")
    ax.set(xlabel="number of clusters", ylabel="probability", xlim=(0.4, numbers[-1] + 0.6))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_title(_short_verdict(count), loc="left", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def _short_verdict(count: "ClusterCount") -> str:
    mixing = f"r-hat {count.r_hat:.3f}, ESS {min(count.ess_bulk, count.ess_tail):.0f}"
    if not count.ok:
        return f"not converged ({mixing})"
    p = count.table["posterior"][count.mode]
    return f"{count.mode} cluster{'s' * (count.mode > 1)} with probability {p:.2f} ({mixing})"


def similarity(tree: "DataTree", *, ax: Axes | None = None) -> Axes:
    """The posterior similarity matrix: how probable it is that two rows belong to the same cluster.

    Rows are in the order of their clusters in `jaxgmm.typical_partition`, and in each from the least similar to the others on
    to the most; lines part the clusters. Of more than 1000 rows an even sample is drawn, and the title says so.

    Args:
        tree: from `jaxgmm.count_clusters`.
        ax: to draw into; a new figure by default.

    Raises:
        TypeError, ValueError: not such a tree.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=50)
        >>> jg.plots.similarity(tree).get_title(loc="left")
        '2 clusters in the typical partition'
    """
    import xarray

    from jaxgmm.bayes.trees.schema import group_of, require
    from jaxgmm.counting.similarity import similarity as shares_of
    from jaxgmm.counting.typical_partition import typical_partition

    require(tree, "plots.similarity", allocations=("label",))
    allocations = group_of(tree, "allocations")
    n_samples = allocations.sizes["obs_id"]
    note = ""
    if n_samples > _MOST_ROWS:
        rows = np.linspace(0, n_samples - 1, _MOST_ROWS).round().astype(int)
        allocations, note = allocations.isel(obs_id=rows), f"{_MOST_ROWS} of {n_samples} rows"
    drawn = xarray.DataTree.from_dict({"allocations": allocations})
    shared, typical = shares_of(drawn).values, typical_partition(drawn)
    label = typical["label"].values
    order = np.lexsort((shared.mean(axis=1), label))
    ax = ax or canvas.new_axes(width=5.8)
    image = ax.imshow(shared[np.ix_(order, order)], cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    for edge in np.flatnonzero(np.diff(label[order])) + 0.5:
        ax.axhline(edge, color=canvas.PALETTE[1], lw=0.8)
        ax.axvline(edge, color=canvas.PALETTE[1], lw=0.8)
    found = typical.attrs["n_clusters"]
    text = canvas.title(f"{found} cluster{'s' * (found > 1)} in the typical partition", note)
    ax.set_title(text, loc="left", fontsize="medium")
    ax.set(xlabel="rows, by cluster", ylabel="rows, by cluster", xticks=[], yticks=[])
    ax.figure.colorbar(image, ax=ax, label="probability of the same cluster")
    return ax
