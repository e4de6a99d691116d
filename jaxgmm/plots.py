"""Matplotlib figures of a mixture, its data and how it was fitted.

Functions that draw one panel take `ax=` and return it; those that need several return a `Figure`. Nothing touches
pyplot's global state, so they work headless, in threads and in notebooks alike: `ax.figure.savefig("name.png")`.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from jaxgmm.mixture import GMM
from jaxgmm.status import Status
from jaxgmm.validation import check_rows, check_weights

if TYPE_CHECKING:
    from jaxgmm.em import Fit, Restarts

# Okabe & Ito (2008), Color Universal Design: told apart with every kind of colour vision. Their yellow is left out, too
# pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "osD^v"  # the next one with every turn of the palette
_MAX_POINTS = 5000  # rows drawn as points
_MAX_LEGEND = 14  # components
_SURE = 1e-6  # uncertainty: nothing to see below it
_ROUNDING = 1e-10  # of the objective: nothing to see below it
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
_HALO = withStroke(linewidth=3, foreground="white")


def components(gmm: GMM, x: Any, *, feature_names: Sequence[str] | None = None, sample_weight: Any = None) -> Figure:
    """The data with the fitted components: `density` for one feature, `scatter` for two, `pairs` for more.

    Args:
        gmm: the mixture.
        x: (N, D) data.
        feature_names: the D axis labels; "x0", "x1", ... by default.
        sample_weight: (N,), of the rows, for histograms.

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
    if gmm.n_features > 2:
        return pairs(gmm, x, feature_names=feature_names, sample_weight=sample_weight)
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    if gmm.n_features == 2:
        scatter(gmm, x, feature_names=feature_names, ax=figure.subplots())
    else:
        density(gmm, x, feature_names=feature_names, sample_weight=sample_weight, ax=figure.subplots())
    return figure


def scatter(gmm: GMM, x: Any, *, feature_names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Two features, coloured by the most probable component, with ellipses at 1 and 2 standard deviations.

    In two dimensions they hold 39 % and 86 % of a component, not the 68 % and 95 % of one dimension. Of more than 5000
    rows a random 5000 are drawn; the title says so.

    Args:
        gmm: a mixture of two features.
        x: (N, 2) data.
        feature_names: the axis labels.
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
    x, names = _checked(gmm, x, feature_names, n_features=2)
    x, note = _subsample(x)
    ax = ax or _new_axes()
    _draw_scatter(ax, gmm, x, _owners(gmm, x))
    for k in _active(gmm):
        ax.annotate(str(k), np.asarray(gmm.means)[k], ha="center", va="center", weight="bold", path_effects=[_HALO])
    if len(_active(gmm)) <= _MAX_LEGEND:
        ax.legend(handles=_handles(gmm, line=False), **_BESIDE)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(_title("Components, with ellipses at 1 and 2 sd", note), loc="left", fontsize="medium")
    return ax


def density(
    gmm: GMM, x: Any, *, feature_names: Sequence[str] | None = None, sample_weight: Any = None, ax: Axes | None = None
) -> Axes:
    """One feature as a histogram, with the density of the mixture and of each component times its weight.

    Args:
        gmm: a mixture of one feature.
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
    x, names = _checked(gmm, x, feature_names, n_features=1)
    ax = ax or _new_axes()
    _draw_density(ax, gmm, x[:, 0], check_weights(sample_weight, len(x)))
    if len(_active(gmm)) <= _MAX_LEGEND:
        ax.legend(**_BESIDE)
    ax.set(xlabel=names[0], ylabel="density")
    ax.set_title("Histogram, mixture and its weighted components", loc="left", fontsize="medium")
    return ax


def pairs(
    gmm: GMM,
    x: Any,
    *,
    feature_names: Sequence[str] | None = None,
    sample_weight: Any = None,
    max_features: int = 8,
) -> Figure:
    """Every pair of features as in `scatter`, below a diagonal of each feature's `density`.

    Args:
        gmm: the mixture.
        x: (N, D) data.
        feature_names: the D axis labels.
        sample_weight: (N,), of the rows, for the histograms.
        max_features: only the first so many are drawn, and the title says so.

    Returns:
        The figure.

    Raises:
        ValueError: bad data.
    """
    x, names = _checked(gmm, x, feature_names)
    weight = check_weights(sample_weight, len(x))
    shown = min(gmm.n_features, max_features)
    rows, note = _subsample(x)
    owner = _owners(gmm, rows)
    figure = Figure(figsize=(1 + 1.9 * shown, 1 + 1.7 * shown), layout="constrained")
    axes = figure.subplots(shown, shown, squeeze=False, sharex="col")
    for i in range(shown):
        for j in range(i):
            ax = axes[i, j]
            _draw_scatter(ax, gmm.marginal([j, i]), rows[:, [j, i]], owner)
            ax.sharey(axes[i, 0])
            ax.tick_params(labelleft=j == 0)
            axes[j, i].remove()
        _draw_density(axes[i, i], gmm.marginal([i]), x[:, i], weight)
        axes[i, i].set_yticks([])
        axes[i, 0].set_ylabel(names[i] if i else "density")
        axes[-1, i].set_xlabel(names[i])
    if len(_active(gmm)) <= _MAX_LEGEND and shown > 1:
        figure.legend(handles=_handles(gmm, line=True), loc="upper right", frameon=False)
    left_out = f"first {shown} of {gmm.n_features} features" if shown < gmm.n_features else ""
    figure.suptitle(_title("Components, with ellipses at 1 and 2 sd", left_out, note), x=0.01, ha="left")
    return figure


def responsibilities(gmm: GMM, x: Any) -> Figure:
    """How surely the rows belong to their components: responsibilities above, uncertainty, 1 - max_k r_nk, below.

    Rows are sorted by their most probable component, then from the surest to the most doubtful. Of more than 5000
    rows a random 5000 are drawn; the title says so.

    Args:
        gmm: the mixture.
        x: (N, D) data.

    Returns:
        The figure.

    Raises:
        ValueError: bad data.
    """
    x, _ = _checked(gmm, x, None)
    x, note = _subsample(x)
    r = np.asarray(gmm.responsibilities(x), float)
    owner, uncertainty = r.argmax(axis=1), 1 - r.max(axis=1)
    order = np.lexsort((uncertainty, owner))
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = np.cumsum(r[order], axis=1)
    for k in _active(gmm):
        top.stairs(steps[:, k], baseline=steps[:, k] - r[order, k], fill=True, color=_colour(k), lw=0)
        mine = np.where(owner == k, uncertainty, np.nan)[order]
        bottom.stairs(mine, baseline=_SURE, fill=True, color=_colour(k), lw=0)
    filled, counts = np.unique(owner, return_counts=True)
    ends = np.cumsum(counts)
    if len(filled) <= 2 * _MAX_LEGEND:
        bottom.set_xticks(ends - counts / 2, [str(k) for k in filled])
    for ax in (top, bottom):
        ax.vlines(ends[:-1], 0, 1, color="white", lw=1.2, transform=ax.get_xaxis_transform())
        ax.tick_params(axis="x", length=0)
        ax.margins(x=0)
    top.set(ylim=(0, 1), ylabel="responsibility")
    bottom.set(yscale="log", ylim=(_SURE, 1), ylabel="uncertainty", xlabel="rows, by their most probable component")
    summary = f"Expected share of misassigned rows, if the model is right: {100 * uncertainty.mean():.2g} %"
    top.set_title(_title(summary, note), loc="left", fontsize="medium")
    return figure


def trace(fit: "Fit", *, ax: Axes | None = None) -> Axes:
    """How far each start is below the best objective, in nats on a logarithmic scale, step by step.

    A start that finds the best optimum falls off the scale; one that is stuck at another levels off at its gap.

    Args:
        fit: what `jaxgmm.fit` returned.
        ax: to draw into; a new figure by default.

    Example:
        >>> import jax, jaxgmm as jg
        >>> fit = jg.fit(jg.datasets.load_faithful().x, n_components=2, key=jax.random.key(0))
        >>> len(jg.plots.trace(fit).lines)
        10
    """
    ax = ax or _new_axes()
    restarts = fit.restarts
    top = restarts.objective[restarts.best]
    for start in np.roll(np.arange(len(restarts.trace)), -1 - restarts.best):  # the best one last, on top
        below = top - restarts.trace[start].astype(float)
        below[~(below > _ROUNDING * max(1, abs(top)))] = np.nan
        ax.plot(np.arange(below.size), below, **_start_style(restarts, int(start)))
    ax.set_yscale("log")
    one_each = {str(line.get_label()): line for line in reversed(ax.lines)}
    ax.legend(one_each.values(), one_each.keys(), loc="upper right")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="EM step", ylabel="nats below the best objective")
    ax.set_title(replication(fit), loc="left", fontsize="medium")
    return ax


def replication(fit: "Fit") -> str:
    """In words, how many starts agree on the optimum: the reason to trust it, or to ask for more starts.

    Example:
        >>> import jax, jaxgmm as jg
        >>> fit = jg.fit(jg.datasets.load_faithful().x, n_components=2, key=jax.random.key(0))
        >>> jg.plots.replication(fit)
        '10 of 10 starts reached the best optimum'
    """
    n_starts = len(fit.restarts.status)
    text = f"{fit.restarts.replication} of {n_starts} start{'s' * (n_starts > 1)} reached the best optimum"
    return text + (f"; the next is {fit.restarts.gap:.3g} nats below" if math.isfinite(fit.restarts.gap) else "")


def _checked(
    gmm: GMM, x: Any, feature_names: Sequence[str] | None, n_features: int | None = None
) -> tuple[np.ndarray, list[str]]:
    if n_features is not None and gmm.n_features != n_features:
        raise ValueError(
            f"this figure is for {n_features} feature{'s' * (n_features > 1)}, the mixture has {gmm.n_features}: "
            "draw plots.components(gmm, x), or gmm.marginal([...]) with those columns of x."
        )
    names = [f"x{i}" for i in range(gmm.n_features)] if feature_names is None else [str(name) for name in feature_names]
    if len(names) != gmm.n_features:
        raise ValueError(f"feature_names has {len(names)} names, the mixture has {gmm.n_features} features: {names}.")
    return np.asarray(check_rows(x, n_features=gmm.n_features), float), names


def _subsample(x: np.ndarray) -> tuple[np.ndarray, str]:
    """At most as many rows as a picture can show, always the same ones, and a note of it."""
    if len(x) <= _MAX_POINTS:
        return x, ""
    rows = np.sort(np.random.default_rng(0).choice(len(x), _MAX_POINTS, replace=False))
    return x[rows], f"{_MAX_POINTS} of {len(x)} rows"


def _new_axes() -> Axes:
    return Figure(figsize=(7.6, 4.6), layout="constrained").subplots()


def _active(gmm: GMM) -> list[int]:
    return np.flatnonzero(np.asarray(gmm.weights) > 0).tolist()


def _owners(gmm: GMM, x: np.ndarray) -> np.ndarray:
    return np.asarray(gmm.responsibilities(x)).argmax(axis=1)


def _colour(k: int) -> str:
    return PALETTE[k % len(PALETTE)]


def _marker(k: int) -> str:
    return _MARKERS[k // len(PALETTE) % len(_MARKERS)]


def _label(gmm: GMM, k: int) -> str:
    return f"component {k} ({100 * float(gmm.weights[k]):.0f} %)"


def _handles(gmm: GMM, *, line: bool) -> list[Line2D]:
    style = {"lw": 1.6} if line else {"ls": "", "ms": 6}
    return [
        Line2D([], [], color=_colour(k), marker="" if line else _marker(k), label=_label(gmm, k), **style) for k in _active(gmm)
    ]


def _title(text: str, *notes: str) -> str:
    notes = tuple(filter(None, notes))
    return f"{text} ({'; '.join(notes)})" if notes else text


def _start_style(restarts: "Restarts", start: int) -> dict[str, Any]:
    if start == restarts.best:
        return {"color": PALETTE[0], "lw": 2.4, "label": "best start"}
    if restarts.status[start] not in (Status.converged, Status.max_steps, Status.decreased):
        return {"color": "0.6", "lw": 1, "ls": ":", "label": "failed"}
    if restarts.objective[start] >= restarts.objective[restarts.best] - restarts.tolerance:
        return {"color": PALETTE[4], "lw": 1, "label": "reached the same optimum"}
    return {"color": PALETTE[1], "lw": 1, "ls": "--", "label": "ended at another"}


def _draw_scatter(ax: Axes, gmm: GMM, x: np.ndarray, owner: np.ndarray) -> None:
    means, covariances = np.asarray(gmm.means), np.asarray(gmm.dense_covariances())
    size = float(np.clip(60 / math.sqrt(len(x)), 1.5, 5))
    for k in _active(gmm):
        points = x[owner == k]
        ax.plot(*points.T, ls="", marker=_marker(k), ms=size, mew=0, color=_colour(k), alpha=0.45, rasterized=True)
    for k in _active(gmm):
        variances, axes = np.linalg.eigh(covariances[k])
        tilt = math.degrees(math.atan2(axes[1, 1], axes[0, 1]))
        for radius in (1, 2):
            minor, major = 2 * radius * np.sqrt(variances)
            ellipse = Ellipse(means[k], major, minor, angle=tilt, fill=False, ec=_colour(k), lw=1.8 / radius, zorder=3)
            ax.add_patch(ellipse)
    ax.autoscale_view()


def _draw_density(ax: Axes, gmm: GMM, x: np.ndarray, sample_weight: Any) -> None:
    ax.hist(x, bins=_bins(x), weights=sample_weight, density=True, color="0.85", ec="white", lw=0.5)
    means, sds = np.asarray(gmm.means)[:, 0], np.sqrt(np.asarray(gmm.dense_covariances())[:, 0, 0])
    active = _active(gmm)
    # Narrow components need points of their own.
    around = (means[active, None] + sds[active, None] * np.linspace(-4, 4, 65)).ravel()
    grid = np.sort(np.concatenate([np.linspace(x.min(), x.max(), 257), around]))
    weighted = np.asarray(gmm.weights) * np.exp(-(((grid[:, None] - means) / sds) ** 2) / 2) / (sds * math.sqrt(2 * math.pi))
    for k in active:
        ax.plot(grid, weighted[:, k], color=_colour(k), lw=1.6, label=_label(gmm, k))
    ax.plot(grid, weighted[:, active].sum(axis=1), color="0.25", lw=1.2, ls="--", label="mixture")
    ax.set_ylim(bottom=0)


def _bins(x: np.ndarray) -> int:
    """Freedman & Diaconis' number of bins, within what an eye can use."""
    low, high = np.quantile(x, (0.25, 0.75))
    width = 2 * (high - low) / len(x) ** (1 / 3)
    return int(np.clip((x.max() - x.min()) / width, 10, 60)) if width > 0 else 10
