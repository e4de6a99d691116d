"""How the chains of a posterior mix, in quantities that label switching can't change."""

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxgmm.plots import canvas

if TYPE_CHECKING:
    from xarray import DataTree

_RANK_BINS = 20
_MOST_ROWS = 7  # quantities in a figure
_WORDS = {"log_likelihood": "log-likelihood", "entropy": "entropy of a row", "n_clusters": "clusters (K₊)"}


def chains(tree: "DataTree") -> Figure:
    """Traces and ranks of what label switching can't change: log-likelihood, entropy, number of clusters, sorted weights.

    The ranks of each chain's draws among all of them are uniform where chains agree (Vehtari et al. 2021); the grey band
    holds two standard deviations of chains that do, at the effective sample size there is.

    Args:
        tree: from `jaxgmm.posterior`.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: not such a tree.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> [ax.get_ylabel() for ax in jg.plots.chains(tree).axes[::2]]
        ['log-likelihood', 'entropy of a row', 'clusters (K₊)', 'weight of rank 0']
    """
    from jaxgmm.bayes.trees.schema import group_of, require

    require(tree, "plots.chains", posterior=("log_likelihood", "entropy", "sorted_weights"), allocations=("n_clusters",))
    quantities = group_of(tree, "posterior").merge(group_of(tree, "allocations")[["n_clusters"]])
    quantities = quantities.transpose("chain", "draw", ...)
    shown = {words: quantities[name].values for name, words in _WORDS.items()}
    weights = quantities["sorted_weights"].values
    for rank in range(max(1, min(weights.shape[-1] - 1, _MOST_ROWS - len(shown)))):  # the last is 1 less all others
        shown[f"weight of rank {rank}"] = weights[..., rank]
    figure = canvas.new_figure(9.6, 0.8 + 1.35 * len(shown))
    axes = figure.subplots(len(shown), 2, width_ratios=(3, 1), squeeze=False)
    for (left, right), (words, values) in zip(axes, shown.items(), strict=True):
        _draw_trace(left, values)
        left.set_ylabel(words, fontsize="small")
        _draw_ranks(right, values, left)
        for ax in (left, right):
            if ax is not axes[-1, 0] and ax is not axes[-1, 1]:
                ax.tick_params(labelbottom=False)
    figure.align_ylabels(axes[:, 0])
    axes[-1, 0].set_xlabel("draw")
    axes[-1, 1].set_xlabel("rank among all draws")
    return figure


def _draw_trace(ax: Axes, values: np.ndarray) -> None:
    for chain, line in enumerate(values):
        ax.plot(line, color=canvas.colour(chain), lw=0.5, alpha=0.8, rasterized=True)
    ax.margins(x=0)
    if (values == np.round(values)).all():
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _draw_ranks(ax: Axes, values: np.ndarray, trace: Axes) -> None:
    from arviz_stats.base import array_stats

    ax.set_yticks([])
    if (values == values[0, 0]).all():
        ax.text(0.5, 0.5, "constant", ha="center", va="center", color="0.5", transform=ax.transAxes)
        ax.set_xticks([])
        return
    r_hat = float(array_stats.rhat(values, chain_axis=0, draw_axis=1))
    ess = float(array_stats.ess(values, chain_axis=0, draw_axis=1))
    trace.set_title(f"r-hat {r_hat:.3f}, effective sample size {ess:.0f}", loc="left", fontsize="small")
    # Ties are broken at random: whole numbers would have lumps instead of ranks.
    order = np.lexsort((np.random.default_rng(0).random(values.size), values.ravel()))
    ranks = np.empty(values.size)
    ranks[order] = np.arange(values.size)
    edges = np.linspace(0, values.size, 1 + min(_RANK_BINS, values.shape[1]))
    n_bins = len(edges) - 1
    spread = 2 * math.sqrt((n_bins - 1) / max(ess / len(values), 1)) if len(values) > 1 else 0.0
    ax.axhspan(max(0, 1 - spread), 1 + spread, color="0.9", lw=0)
    top = 2.0  # the band may reach beyond: with few effective draws it says that nothing can be told
    for chain, mine in enumerate(ranks.reshape(values.shape)):
        counts = np.histogram(mine, edges)[0] * n_bins / values.shape[1]
        ax.stairs(counts, edges, color=canvas.colour(chain), lw=1)
        top = max(top, 1.05 * counts.max())
    ax.set(ylim=(0, top), xlim=(0, values.size))
    ax.set_xticks([0, values.size])
