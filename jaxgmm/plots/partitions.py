"""The partitions that a posterior holds apart, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxgmm.plots import canvas
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.formatting import share
from jaxgmm.tools.reading import counted
from jaxgmm.tools.validation import check_rows

if TYPE_CHECKING:
    from jaxgmm.counting.partitions import Partitions

_MOST, _ACROSS = 6, 3  # panels, and of these in a line
_BINS = 40


def partitions(
    found: "Partitions", x: ArrayLike, *, features: Sequence[int] = (0, 1), feature_names: canvas.Names = None
) -> Figure:
    """The rows in the clusters of each plausible partition, one panel each, with its probability.

    A colour means in all panels the cluster of the typical partition that most of its rows are of. Rows that are in another
    one there are ringed. Of one feature there is a histogram, stacked. Of more than 6 partitions the most probable are drawn.

    Args:
        found: from `jaxgmm.partitions`.
        x: (N, D), the rows that were counted.
        features: the two columns to show, where D > 2.
        feature_names: the D axis labels; a frame's own by default.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: not such a result, another number of rows, columns that aren't there.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=50)
        >>> found = jg.partitions(tree, n_partitions=1)
        >>> jg.plots.partitions(found, x).axes[0].get_title(loc="left")
        '100 %: ... clusters'
    """
    from jaxgmm.counting.partitions import Partitions

    if not isinstance(found, Partitions):
        raise UserTypeError(f"plots.partitions draws what jaxgmm.partitions returns, got {type(found).__name__}.")
    rows = np.asarray(check_rows(x, missing=True), float)
    n_samples, n_features = rows.shape
    if n_samples != found.labels.size:
        raise UserError(f"x has {n_samples} rows, the partitions are of {found.labels.size}: pass the rows that were counted.")
    names = list(map(str, feature_names or frames.feature_names(x) or [f"x{i}" for i in range(n_features)]))
    if len(names) != n_features:
        raise UserError(f"feature_names has {len(names)} names, x has {n_features} columns: {names}.")
    i, j = (0, 0) if n_features == 1 else canvas.two_features(features, n_features)
    shown = min(len(found.table), _MOST)
    across = 1 if n_features == 1 else min(shown, _ACROSS)
    down = -(-shown // across)
    width, height = (7.6, 0.6 + 1.8 * down) if n_features == 1 else (0.6 + 3.4 * across, 0.6 + 3.0 * down)
    figure = canvas.new_figure(width, height)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    index, note = canvas.subsample(np.arange(n_samples)[:, None])
    kept = index[:, 0]
    typical, table = found.labels.values[kept], found.table.iloc[:shown]
    for partition, ax in zip(range(shown), axes, strict=False):
        label = found.representatives.values[partition][kept]
        if n_features == 1:
            _draw_histogram(ax, rows[kept, i], label)
        else:
            _draw_points(ax, rows[np.ix_(kept, [i, j])], label, label != typical)
        weight, n_clusters, n_moved = (table[name].tolist()[partition] for name in ("weight", "n_clusters", "n_moved"))
        moved = f"{counted(n_moved, 'row')} ringed" if n_moved and n_features > 1 else ""
        text = f"{share(round(weight, 2) or weight)}: {counted(n_clusters, 'cluster')}"
        ax.set_title(canvas.title(text, moved), loc="left", fontsize="medium")
    for ax in axes[shown:]:
        ax.remove()
    left = f"{shown} of {len(found.table)} partitions" if shown < len(found.table) else ""
    ringed = "ringed: in another cluster of the typical partition" if n_features > 1 and (table["n_moved"] > 0).any() else ""
    figure.suptitle(canvas.title("Plausible partitions", ringed, left, note), x=0.01, ha="left", fontsize="medium")
    figure.supxlabel(names[i], fontsize="medium")
    figure.supylabel("rows" if n_features == 1 else names[j], fontsize="medium")
    return figure


def _draw_points(ax: Axes, rows: np.ndarray, label: np.ndarray, moved: np.ndarray) -> None:
    size = canvas.point_size(len(rows))
    for k in np.unique(label):
        for ringed in (False, True):
            some = rows[(label == k) & (moved == ringed)]
            edge: canvas.Style = {"mec": "black", "mew": 0.8, "zorder": 3} if ringed else {"mec": "none"}
            ax.plot(*some.T, canvas.marker(k), color=canvas.colour(k), ms=size * (1.2 if ringed else 1), **edge)


def _draw_histogram(ax: Axes, values: np.ndarray, label: np.ndarray) -> None:
    clusters = np.unique(label)
    bins = np.histogram_bin_edges(values[~np.isnan(values)], _BINS).tolist()
    ax.hist(
        [values[label == k] for k in clusters],
        bins,
        stacked=True,
        color=[canvas.colour(k) for k in clusters],
        ec="white",
        lw=0.4,
    )
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
