"""A posterior: intervals of its parameters, and mixtures drawn from it over the data."""

from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.plots import canvas
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_count, check_weights

if TYPE_CHECKING:
    from xarray import DataTree

_MOST_IN_BANDS = 400  # draws
_OUTLINE = 65  # points of an ellipse
_INNER, _OUTER = 0.5, 0.9  # of an interval's probability, drawn thick and thin


def intervals(
    tree: "DataTree", gmm: Mixture | None = None, *, feature_names: canvas.Names = None, max_features: int = 4
) -> Figure:
    """Weights, means and standard deviations of each component: median, 50 % and 90 % intervals.

    Labels must mean the same in all draws for this to make sense: see `jaxgmm.relabel`.

    Args:
        tree: from `jaxgmm.relabel`.
        gmm: a point estimate to compare with, a GMM or a Fit.
        feature_names: axis labels, instead of the tree's.
        max_features: only the first so many are drawn, and the title says so.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: not such a tree, or a `gmm` of another shape.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> figure = jg.plots.intervals(jg.relabel(tree, fit.gmm), fit.gmm, feature_names=["eruptions", "waiting"])
        >>> [ax.get_title(loc="left") for ax in figure.axes][:3]
        ['weight', 'mean, eruptions', 'mean, waiting']
    """
    draws, names = _draws(tree, feature_names)
    n_components, n_features = draws.means.shape[1:]
    gmm = None if gmm is None else as_gmm(gmm)
    if gmm is not None and gmm.means.shape != (n_components, n_features):
        raise UserError(f"gmm has means of shape {gmm.means.shape}, the draws of {(n_components, n_features)}.")
    shown = min(n_features, max_features)
    figure = canvas.new_figure(2.6 * (1 + shown), 1.7 + 0.7 * n_components)
    axes = figure.subplots(2, 1 + shown, squeeze=False, sharey=True)
    many, one = _location_and_scale(draws), None if gmm is None else _location_and_scale(gmm)
    _draw_intervals(axes[0, 0], "weight", np.asarray(draws.weights), None if gmm is None else np.asarray(gmm.weights))
    for row, what in enumerate(("mean", "sd")):
        for d in range(shown):
            point = None if one is None else one[row][..., d]
            _draw_intervals(axes[row, 1 + d], f"{what}, {names[d]}", many[row][..., d], point)
    axes[0, 0].set_ylim(n_components - 0.5, -0.5)
    axes[0, 0].set_yticks(range(n_components), [str(k) for k in range(n_components)])
    for ax in axes[:, 0]:
        ax.set_ylabel("component")
    key = [
        Line2D([], [], color="0.3", marker="o", ms=5, lw=4.5, label="median, 50 %"),
        Line2D([], [], color="0.3", lw=1.4, label="90 %"),
    ]
    key += [Line2D([], [], ls="", marker="D", ms=5, mfc="white", mec="black", label="the fit")] if gmm is not None else []
    axes[1, 0].set_axis_off()
    axes[1, 0].legend(handles=key, loc="center", frameon=False)
    left_out = canvas.left_out(n_features, max_features)
    figure.suptitle(canvas.title("Posterior intervals", left_out), x=0.01, ha="left", fontsize="medium")
    return figure


def draws(
    tree: "DataTree",
    x: ArrayLike,
    gmm: Mixture | None = None,
    *,
    feature_names: canvas.Names = None,
    sample_weight: ArrayLike | None = None,
    n_draws: int = 60,
    max_features: int = 5,
) -> Figure:
    """Mixtures drawn from the posterior, over the data: how far components may lie from where a fit has put them.

    One feature: densities of the mixture and its weighted components, their medians and 90 % bands over the draws. Two:
    each draw's ellipses at 2 standard deviations. More: every pair of features, and bands on the diagonal. Axes are those
    of the data; what a draw puts far away from all of them is cut off.

    Densities of the posterior of a fit with noise are those of the rows that aren't noise, as a share of all.

    Args:
        tree: from `jaxgmm.relabel`.
        x: (N, D) data.
        gmm: a point estimate to compare with, a GMM or a Fit.
        feature_names: axis labels, instead of the tree's.
        sample_weight: (N,), of the rows, for histograms.
        n_draws: ellipses of at most so many, evenly out of all chains.
        max_features: only the first so many are drawn, and the title says so.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: not such a tree, or bad data.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> jg.plots.draws(jg.relabel(tree, fit.gmm), x, fit.gmm).axes[0].get_title(loc="left")
        '60 draws from the posterior, ellipses at 2 sd'
    """
    many, names = _draws(tree, feature_names)
    many = _beside_noise(many, _share_of_mixture(tree))
    point = None if gmm is None else _beside_noise(as_gmm(gmm), canvas.share_of_mixture(gmm))
    few, many = _some(many, check_count(n_draws, "n_draws")), _some(many, _MOST_IN_BANDS)
    one = jax.tree.map(lambda leaf: leaf[0], many)
    whole, names = canvas.checked(one, x, names)
    weight = check_weights(sample_weight, len(whole))
    rows, note = canvas.subsample(whole)
    n_features = whole.shape[1]
    if n_features == 1:
        ax = canvas.new_axes()
        _draw_bands(ax, many, point, whole, weight, 0)
        ax.set(xlabel=names[0], ylabel="density")
        ax.set_title("Draws from the posterior, medians and 90 % bands", loc="left", fontsize="medium")
        ax.legend(handles=_handles(one, point, bands=True), **canvas.BESIDE)
        return canvas.figure_of(ax)
    text = f"{len(few.weights)} draws from the posterior, ellipses at 2 sd"
    if n_features == 2:
        ax = canvas.new_axes()
        _draw_ellipses(ax, few, point, rows, (0, 1))
        ax.set(xlabel=names[0], ylabel=names[1])
        ax.set_title(canvas.title(text, note), loc="left", fontsize="medium")
        ax.legend(handles=_handles(one, point, bands=False), **canvas.BESIDE)
        return canvas.figure_of(ax)
    figure = canvas.pair_grid(
        names,
        max_features,
        lambda ax, pair: _draw_ellipses(ax, few, point, rows, pair),
        lambda ax, i: _draw_bands(ax, many, point, whole, weight, i),
    )
    figure.legend(handles=_handles(one, point, bands=False), loc="upper right", frameon=False)
    left_out = canvas.left_out(n_features, max_features)
    figure.suptitle(canvas.title(text, left_out, note), x=0.01, ha="left", fontsize="medium")
    return figure


def _draws(tree: "DataTree", feature_names: canvas.Names) -> tuple[GMM, list[str]]:
    """All draws in a row, (draws, ...), and the features' names."""
    from jaxgmm.bayes.trees.build import draws_of
    from jaxgmm.bayes.trees.schema import group_of

    many = jax.tree.map(lambda leaf: np.asarray(leaf, float).reshape(-1, *leaf.shape[2:]), draws_of(tree))
    names = feature_names or many.feature_names or group_of(tree, "posterior")["feature"].values
    return many, [str(name) for name in names]


def _share_of_mixture(tree: "DataTree") -> Numbers | float:
    """Of the rows, in each draw: less than 1 where some are noise."""
    from jaxgmm.bayes.trees.schema import shares_of

    shares = shares_of(tree)
    return 1.0 if shares is None else 1 - shares.reshape(-1, 1)


def _beside_noise(gmm: GMM, share: Numbers | float) -> GMM:
    """A mixture, or many, with weights that are shares of all rows."""
    return GMM.unchecked(np.asarray(gmm.weights) * share, gmm.means, gmm.covariances, gmm.family, gmm.feature_names)


def _some(many: GMM, n_draws: int) -> GMM:
    """At most so many of the draws, evenly out of all."""
    total = len(many.weights)
    picked = np.linspace(0, total - 1, min(n_draws, total)).round().astype(int)
    return jax.tree.map(lambda leaf: leaf[picked], many)


def _location_and_scale(gmm: GMM) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations, (..., K, D)."""
    variances = np.diagonal(_dense(gmm), axis1=-2, axis2=-1)
    return np.asarray(gmm.means), np.sqrt(variances)


def _dense(gmm: GMM) -> np.ndarray:
    """Covariances of one mixture or of many, (..., K, D, D)."""
    dense = GMM.dense_covariances if gmm.weights.ndim == 1 else jax.vmap(GMM.dense_covariances)
    with jax.enable_x64(True):
        return np.asarray(dense(gmm))


def _draw_intervals(ax: Axes, title: str, values: np.ndarray, point: np.ndarray | None) -> None:
    probabilities = [0.5, (1 - _INNER) / 2, (1 + _INNER) / 2, (1 - _OUTER) / 2, (1 + _OUTER) / 2]
    median, low, high, lowest, highest = np.quantile(values, probabilities, axis=0)
    for k in range(values.shape[1]):
        colour = canvas.colour(k)
        ax.plot([lowest[k], highest[k]], [k, k], color=colour, lw=1.4, solid_capstyle="butt")
        ax.plot([low[k], high[k]], [k, k], color=colour, lw=4.5, solid_capstyle="butt")
        ax.plot(median[k], k, marker="o", ms=5, mec="white", mew=0.8, color=colour)
        if point is not None:
            ax.plot(point[k], k + 0.28, marker="D", ms=4, mfc="white", mec="black", mew=1)
    ax.set_title(title, loc="left", fontsize="medium")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.grid(axis="x", color="0.9", lw=0.8)
    ax.set_axisbelow(True)


def _draw_ellipses(ax: Axes, many: GMM, gmm: GMM | None, x: np.ndarray, pair: tuple[int, int]) -> None:
    ax.plot(*x[:, pair].T, ls="", marker="o", ms=0.8 * canvas.point_size(len(x)), mew=0, color="0.6", rasterized=True)
    outlines = _outlines(many, pair)
    alpha = float(np.clip(6 / len(outlines), 0.05, 1))
    for k in range(outlines.shape[1]):
        ax.add_collection(LineCollection(list(outlines[:, k]), colors=canvas.colour(k), lw=0.9, alpha=alpha, zorder=3))
    if gmm is not None:
        fitted = _outlines(gmm, pair)[canvas.active(gmm)]
        ax.add_collection(LineCollection(list(fitted), colors="black", lw=1.1, ls="--", zorder=4))
    ax.set(xlim=_limits(x[:, pair[0]]), ylim=_limits(x[:, pair[1]]))


def _outlines(gmm: GMM, pair: tuple[int, int]) -> np.ndarray:
    """Points of each component's ellipse at 2 standard deviations in two features, (..., K, points, 2)."""
    i, j = pair
    factor = np.linalg.cholesky(_dense(gmm)[..., [[i, i], [j, j]], [[i, j], [i, j]]])
    angle = np.linspace(0, 2 * np.pi, _OUTLINE)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return np.asarray(gmm.means)[..., None, pair] + 2 * np.swapaxes(factor @ circle, -1, -2)


def _draw_bands(ax: Axes, many: GMM, gmm: GMM | None, x: np.ndarray, sample_weight: Numbers | None, d: int) -> None:
    canvas.histogram(ax, x[:, d], sample_weight)
    means, sds = (array[..., d] for array in _location_and_scale(many))
    grid = canvas.grid_of(x[:, d], np.median(means, axis=0), np.median(sds, axis=0))
    weighted = np.asarray(many.weights)[..., None] * canvas.normal_densities(grid, means, sds)
    tails = ((1 - _OUTER) / 2, (1 + _OUTER) / 2)
    for k in range(weighted.shape[1]):
        low, median, high = np.quantile(weighted[:, k], (tails[0], 0.5, tails[1]), axis=0)
        ax.fill_between(grid, low, high, color=canvas.colour(k), alpha=0.3, lw=0)
        ax.plot(grid, median, color=canvas.colour(k), lw=1.4)
    ax.set_xlim(_limits(x[:, d]))
    low, high = np.quantile(weighted.sum(axis=1), tails, axis=0)
    ax.fill_between(grid, low, high, color="0.25", alpha=0.25, lw=0)
    if gmm is not None:
        fitted = np.asarray(gmm.weights)[:, None] * canvas.normal_densities(
            grid, *(a[..., d] for a in _location_and_scale(gmm))
        )
        ax.plot(grid, fitted.sum(axis=0), color="black", lw=1.1, ls="--")
    ax.set_ylim(bottom=0)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """About the data: an all but empty component, drawn from the prior, may lie far away."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.15 * (high - low) or 1.0
    return low - margin, high + margin


def _handles(one: GMM, gmm: GMM | None, *, bands: bool) -> list[Line2D]:
    shown = range(min(one.n_components, canvas.MAX_LEGEND))
    found = [Line2D([], [], color=canvas.colour(k), lw=1.8, label=f"component {k}") for k in shown]
    found += [Line2D([], [], color="0.25", alpha=0.35, lw=6, label="mixture")] if bands else []
    return found + ([Line2D([], [], color="black", lw=1.1, ls="--", label="the fit")] if gmm is not None else [])
