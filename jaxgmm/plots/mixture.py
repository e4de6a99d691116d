"""A mixture over its data: points and ellipses, histograms and densities, responsibilities."""

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxgmm.model.asking import Errors
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.plots import canvas
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_weights

_SURE = 1e-6  # uncertainty: nothing to see below it


def components(
    gmm: Mixture,
    x: ArrayLike,
    *,
    feature_names: canvas.Names = None,
    sample_weight: ArrayLike | None = None,
    error_covariances: Errors = None,
) -> Figure:
    """The data with the fitted components: `density` for one feature, `scatter` for two, `pairs` for more.

    Args:
        gmm: the mixture, or a Fit or what else holds one.
        x: (N, D) data.
        feature_names: the D axis labels; "x0", "x1", ... by default.
        sample_weight: (N,), of the rows, for histograms.
        error_covariances: of the rows' errors of measurement, as for `fit`: by them, too, rows belong to components.

    Returns:
        The figure.

    Raises:
        ValueError: bad data, or another number of names than features.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0, 0.0, 0.0]], [1.0], "spherical")
        >>> figure = jg.plots.components(gmm, [[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]], feature_names=["a", "b", "c"])
        >>> len(figure.axes)  # three densities, three pairs
        6
    """
    n_features = as_gmm(gmm).n_features
    if n_features > 2:
        own: canvas.Style = {"sample_weight": sample_weight, "error_covariances": error_covariances}
        return pairs(gmm, x, feature_names=feature_names, **own)
    ax = canvas.new_axes()
    if n_features == 2:
        scatter(gmm, x, feature_names=feature_names, error_covariances=error_covariances, ax=ax)
    else:
        canvas.errors_of(as_gmm(gmm), x, canvas.checked(as_gmm(gmm), x, feature_names)[0], error_covariances)  # not drawn
        density(gmm, x, feature_names=feature_names, sample_weight=sample_weight, ax=ax)
    return canvas.figure_of(ax)


def scatter(
    gmm: Mixture,
    x: ArrayLike,
    *,
    feature_names: canvas.Names = None,
    error_covariances: Errors = None,
    ax: Axes | None = None,
) -> Axes:
    """Two features, coloured by the most probable component, with ellipses at 1 and 2 standard deviations; noise is grey.

    In two dimensions they hold 39 % and 86 % of a component, not the 68 % and 95 % of one dimension. Of more than 5000
    rows a random 5000 are drawn; the title says so.

    Args:
        gmm: a mixture, or a Fit, of two features.
        x: (N, 2) data; rows that lack a value aren't drawn.
        feature_names: the axis labels.
        error_covariances: of the rows' errors of measurement, as for `fit`: by them, too, rows belong to components.
        ax: to draw into; a new figure by default.

    Raises:
        ValueError: bad data, or not two features.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [1.0], "spherical")
        >>> ax = jg.plots.scatter(gmm, [[0.0, 1.0], [1.0, 0.0]])
        >>> [float(ellipse.width) for ellipse in ax.patches]
        [2.0, 4.0]
    """
    holder, gmm = gmm, as_gmm(gmm)
    whole, names = canvas.checked(gmm, x, feature_names, n_features=2)
    rows, r, note = _memberships(holder, x, whole, error_covariances)
    ax = ax or canvas.new_axes()
    draw_scatter(ax, gmm, rows, canvas.owners(r))
    draw_numbers(ax, gmm)
    if len(canvas.active(gmm)) <= canvas.MAX_LEGEND:
        ax.legend(handles=_handles(gmm, line=False), **canvas.BESIDE)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(canvas.title("Components, with ellipses at 1 and 2 sd", note), loc="left", fontsize="medium")
    return ax


def density(
    gmm: Mixture,
    x: ArrayLike,
    *,
    feature_names: canvas.Names = None,
    sample_weight: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One feature as a histogram, with the density of the mixture and of each component times its weight.

    Args:
        gmm: a mixture, or a Fit, of one feature.
        x: (N, 1) data.
        feature_names: the axis label.
        sample_weight: (N,), of the rows.
        ax: to draw into; a new figure by default.

    Raises:
        ValueError: bad data, or not one feature.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [3.0]], [1.0, 1.0], "spherical")
        >>> ax = jg.plots.density(gmm, [[0.1], [2.7], [3.3]])
        >>> [line.get_label() for line in ax.lines]
        ['component 0 (50 %)', 'component 1 (50 %)', 'mixture']
    """
    share, gmm = canvas.share_of_mixture(gmm), as_gmm(gmm)
    rows, names = canvas.checked(gmm, x, feature_names, n_features=1)
    ax = ax or canvas.new_axes()
    draw_density(ax, gmm, rows[:, 0], check_weights(sample_weight, len(rows)), share)
    if len(canvas.active(gmm)) <= canvas.MAX_LEGEND:
        ax.legend(**canvas.BESIDE)
    ax.set(xlabel=names[0], ylabel="density")
    ax.set_title("Histogram, mixture and its weighted components", loc="left", fontsize="medium")
    return ax


def pairs(
    gmm: Mixture,
    x: ArrayLike,
    *,
    feature_names: canvas.Names = None,
    sample_weight: ArrayLike | None = None,
    error_covariances: Errors = None,
    max_features: int = 8,
) -> Figure:
    """Every pair of features as in `scatter`, below a diagonal of each feature's `density`.

    Args:
        gmm: the mixture, or a Fit or what else holds one.
        x: (N, D) data.
        feature_names: the D axis labels.
        sample_weight: (N,), of the rows, for the histograms.
        error_covariances: of the rows' errors of measurement, as for `fit`: by them, too, rows belong to components.
        max_features: only the first so many are drawn, and the title says so.

    Returns:
        The figure.

    Raises:
        ValueError: bad data.
    """
    mixture = as_gmm(gmm)
    whole, names = canvas.checked(mixture, x, feature_names)
    weight = check_weights(sample_weight, len(whole))
    rows, r, note = _memberships(gmm, x, whole, error_covariances)
    owner = canvas.owners(r)
    figure = canvas.pair_grid(
        names,
        max_features,
        lambda ax, pair: draw_scatter(ax, mixture.marginal(pair), rows[:, pair], owner),
        lambda ax, i: draw_density(ax, mixture.marginal([i]), whole[:, i], weight, canvas.share_of_mixture(gmm)),
    )
    if len(canvas.active(mixture)) <= canvas.MAX_LEGEND and min(mixture.n_features, max_features) > 1:
        figure.legend(handles=_handles(mixture, line=True), loc="upper right", frameon=False)
    left_out = canvas.left_out(mixture.n_features, max_features)
    figure.suptitle(canvas.title("Components, with ellipses at 1 and 2 sd", left_out, note), x=0.01, ha="left")
    return figure


def responsibilities(gmm: Mixture, x: ArrayLike, *, error_covariances: Errors = None) -> Figure:
    """How surely the rows belong to their components: responsibilities above, uncertainty, 1 - max_k r_nk, below.

    Rows are sorted by their most probable component, then from the surest to the most doubtful. Of more than 5000
    rows a random 5000 are drawn; the title says so.

    Args:
        gmm: the mixture, or a Fit or what else holds one.
        x: (N, D) data.
        error_covariances: of the rows' errors of measurement, as for `fit`: by them, too, rows belong to components.

    Returns:
        The figure.

    Raises:
        ValueError: bad data.
    """
    holder, gmm = gmm, as_gmm(gmm)
    _, r, note = _memberships(holder, x, canvas.checked(gmm, x, None)[0], error_covariances)
    owner, uncertainty = canvas.owners(r), 1 - np.maximum(r.max(axis=1), 1 - r.sum(axis=1))
    order = np.lexsort((uncertainty, owner))
    figure = canvas.new_figure(7.2, 4.8)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = np.cumsum(r[order], axis=1)
    for k in canvas.active(gmm):
        top.stairs(steps[:, k], baseline=steps[:, k] - r[order, k], fill=True, color=canvas.colour(k), lw=0)
    for k in np.unique(owner).tolist():
        mine = np.where(owner == k, uncertainty, np.nan)[order]
        bottom.stairs(mine, baseline=_SURE, fill=True, color=canvas.colour(k), lw=0)
    filled, counts = np.unique(owner, return_counts=True)
    ends = np.cumsum(counts)
    if len(filled) <= 2 * canvas.MAX_LEGEND:
        bottom.set_xticks(ends - counts / 2, ["noise" if k == canvas.NOISE else str(k) for k in filled])
    for ax in (top, bottom):
        ax.vlines(ends[:-1], 0, 1, color="white", lw=1.2, transform=ax.get_xaxis_transform())
        ax.tick_params(axis="x", length=0)
        ax.margins(x=0)
    top.set(ylim=(0, 1), ylabel="responsibility")
    bottom.set(yscale="log", ylim=(_SURE, 1), ylabel="uncertainty", xlabel="rows, by their most probable component")
    summary = f"Expected share of misassigned rows, if the model is right: {100 * uncertainty.mean():.2g} %"
    top.set_title(canvas.title(summary, note), loc="left", fontsize="medium")
    return figure


def _memberships(holder: Mixture, x: ArrayLike, whole: np.ndarray, errors: Errors) -> tuple[np.ndarray, np.ndarray, str]:
    """As many of the checked rows of `x` as are drawn, each one's probability of each component, and a note of it."""
    rows, note = canvas.subsample(whole)
    own = canvas.errors_of(as_gmm(holder), x, whole, errors)
    return rows, canvas.memberships(holder, rows, None if own is None else canvas.subsample(own)[0]), note


def _handles(gmm: GMM, *, line: bool) -> list[Line2D]:
    style = {"lw": 1.6} if line else {"ls": "", "ms": 6}
    return [
        Line2D([], [], color=canvas.colour(k), marker="" if line else canvas.marker(k), label=canvas.label(gmm, k), **style)
        for k in canvas.active(gmm)
    ]


def draw_scatter(ax: Axes, gmm: GMM, x: np.ndarray, owner: np.ndarray) -> None:
    """Rows (N, 2) in the colours of their owners, and ellipses of a mixture of these two features."""
    means, covariances = np.asarray(gmm.means), np.asarray(gmm.dense_covariances())
    style: canvas.Style = {"ls": "", "ms": canvas.point_size(len(x)), "mew": 0, "alpha": 0.45, "rasterized": True}
    for k in canvas.active(gmm):
        ax.plot(*x[owner == k].T, marker=canvas.marker(k), color=canvas.colour(k), **style)
    if (owner == canvas.NOISE).any():
        ax.plot(*x[owner == canvas.NOISE].T, marker="o", color="0.5", **style)
    for k in canvas.active(gmm):
        for radius in (1, 2):
            outline = canvas.ellipse(means[k], covariances[k], radius, ec=canvas.colour(k), lw=1.8 / radius, zorder=3)
            ax.add_patch(outline)
    ax.autoscale_view()


def draw_numbers(ax: Axes, gmm: GMM) -> None:
    """Of components, at their means."""
    for k in canvas.active(gmm):
        ax.annotate(str(k), np.asarray(gmm.means)[k], ha="center", va="center", weight="bold", path_effects=[canvas.HALO])


def draw_density(ax: Axes, gmm: GMM, x: np.ndarray, sample_weight: Numbers | None, share: float) -> None:
    """A histogram of rows (N,), and the density of a mixture of this feature, times its share of the rows."""
    canvas.histogram(ax, x, sample_weight)
    active = canvas.active(gmm)
    means, sds = np.asarray(gmm.means)[active, 0], np.sqrt(np.asarray(gmm.dense_covariances())[active, 0, 0])
    grid = canvas.grid_of(x, means, sds)
    weighted = share * np.asarray(gmm.weights)[active, None] * canvas.normal_densities(grid, means, sds)
    for k, values in zip(active, weighted, strict=True):
        ax.plot(grid, values, color=canvas.colour(k), lw=1.6, label=canvas.label(gmm, k))
    ax.plot(grid, weighted.sum(axis=0), color="0.25", lw=1.2, ls="--", label="mixture")
    ax.set_ylim(bottom=0)
