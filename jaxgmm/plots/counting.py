"""How many clusters there are, and which rows belong together."""

import re
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from jaxgmm.plots import canvas
from jaxgmm.tools.errors import UserTypeError

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import DataTree

    from jaxgmm.counting.verdict import ClusterCount

_LEAST_SHOWN = 1e-3  # probability, before the data or after, of a number that gets a bar
_LEAST_WRITTEN = 0.05  # probability that is written out
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


def sensitivity(table: "DataFrame", *, ax: Axes | None = None) -> Axes:
    """The posterior of the number of clusters under each of the priors of `jaxgmm.count_sensitivity`, one line a prior.

    Shades say how probable each number is, figures where it is a twentieth or more; a ring is around the mode. Runs without a
    verdict are marked with an asterisk.

    Args:
        table: from `jaxgmm.count_sensitivity`.
        ax: to draw into; a new figure by default.

    Raises:
        TypeError: not such a table.

    Example:
        >>> import pandas as pd, jaxgmm as jg
        >>> columns = {"mode": [2, 2], "ok": [True, True], "p_1": [0.0, 0.1], "p_2": [1.0, 0.9]}
        >>> jg.plots.sensitivity(pd.DataFrame(columns, ["as given", "alpha x 0.5"])).get_title(loc="left")
        'most probable: 2 under every prior'
    """
    columns = [name for name in getattr(table, "columns", ()) if re.fullmatch(r"p_\d+", str(name))]
    if not columns or not {"mode", "ok"} <= set(table.columns):
        raise UserTypeError(f"plots.sensitivity draws the table of jaxgmm.count_sensitivity, got {type(table).__name__}.")
    numbers, p = [int(name[2:]) for name in columns], table[columns].to_numpy(float)
    ax = ax or canvas.new_figure(max(4.6, 2.4 + 0.55 * len(numbers)), 1.2 + 0.42 * len(table)).subplots()
    around = numbers[0] - 0.5, numbers[-1] + 0.5, len(table) - 0.5, -0.5
    ax.imshow(p, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=around)
    for line, column in np.argwhere(p >= _LEAST_WRITTEN):
        dark = p[line, column] > 0.6
        ax.text(
            numbers[column], line, f"{p[line, column]:.2f}", ha="center", va="center", fontsize="small",
            color="white" if dark else "black",
        )  # fmt: skip
    ring: canvas.Style = {"fill": False, "ec": canvas.PALETTE[1], "lw": 1.4}
    for line, mode in enumerate(table["mode"]):
        ax.add_patch(Rectangle((mode - 0.46, line - 0.42), 0.92, 0.84, **ring))
    unsure = ~table["ok"].to_numpy(bool)
    names = [f"{name} *" if bad else str(name) for name, bad in zip(table.index, unsure, strict=True)]
    ax.set_yticks(range(len(table)), names)
    ax.set_xticks(numbers)
    ax.set(xlabel="number of clusters")
    modes = sorted(set(table["mode"]))
    same = f"{modes[0]} under every prior" if len(modes) == 1 else f"{modes[0]} to {modes[-1]}, by the prior"
    ax.set_title(canvas.title(f"most probable: {same}", "* no verdict" if unsure.any() else ""), loc="left", fontsize="medium")
    return ax


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
        '... clusters in the typical partition'
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
