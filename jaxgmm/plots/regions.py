"""How unusual rows are: outlier scores with their threshold, and regions of highest density."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import ScalarFormatter, SymmetricalLogLocator

from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.mixture import GMM
from jaxgmm.model.unusual import density_threshold
from jaxgmm.plots import canvas
from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.formatting import clipped
from jaxgmm.tools.validation import check_rows

_NAMED, _NAME = 8, 20  # outliers with their label, and its characters
_FAR = 5.0  # times the span of the ordinary rows, beyond which the scale of surprisal becomes logarithmic
_POINTS, _AROUND, _HEAVIEST = 64, 15, 10  # of a grid: even ones, those about each of the heaviest components
_REACH = 3.5  # sds
_ODD = canvas.PALETTE[1]


def outliers(
    gmm: Mixture, x: ArrayLike, *, key: Array, level: float = 0.999, n_samples: int = 10_000, ax: Axes | None = None
) -> Axes:
    """Each row's surprisal, -log p(x_n), with the threshold that a known share of ordinary rows lies above.

    The threshold is calibrated by draws from the mixture, `jaxgmm.density_threshold`; rows above it are those whose
    `density_level` is more than `level`. The most surprising are named by their labels in the frame, or their numbers.

    Args:
        gmm: the mixture, or a Fit or what else holds one.
        x: (N, D) data, finite.
        key: a PRNG key.
        level: of ordinary rows, 1 - level lies above the threshold.
        n_samples: draws that it is the quantile of.
        ax: to draw into; a new figure by default.

    Raises:
        TypeError, ValueError: bad data, or as `density_threshold`.

    Example:
        >>> import jax, jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [1.0], "spherical")
        >>> ax = jg.plots.outliers(gmm, [[0.0, 1.0], [9.0, 0.0]], key=jax.random.key(0))
        >>> ax.get_title(loc="left")
        'Outliers: 1 of 2 rows beyond level 0.999 (0.002 expected)'
    """
    gmm = about_rows(gmm, "plots.outliers")
    rows = np.asarray(check_rows(x, n_features=gmm.n_features, feature_names=gmm.feature_names))
    threshold = -float(density_threshold(gmm, level, key=key, n_samples=n_samples))
    surprisal = -np.asarray(gmm.log_prob(rows), float)
    odd = np.flatnonzero(surprisal > threshold)
    ordinary, note = canvas.subsample(np.flatnonzero(surprisal <= threshold))
    labels = frames.row_labels(x)
    ax = ax or canvas.new_axes()
    style: canvas.Style = {"ls": "", "mew": 0, "rasterized": True}
    ax.plot(ordinary, surprisal[ordinary], "o", color="0.5", ms=canvas.point_size(len(ordinary) + 1), alpha=0.6, **style)
    ax.plot(odd, surprisal[odd], "o", color=_ODD, ms=6, **style)
    line = f"level {level:g}: 1 in {1 / (1 - level):,.0f} ordinary rows lies above"
    ax.axhline(threshold, color="0.25", lw=1.2, ls="--", label=line)
    lowest = float(surprisal.min())
    if surprisal.max() > threshold + _FAR * (threshold - lowest):
        linear = max(abs(threshold), abs(lowest))
        ax.set_yscale("symlog", linthresh=linear)
        ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=[1, 2, 5]))
        ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.margins(y=0.12)
    for row in odd[np.argsort(-surprisal[odd], kind="stable")][:_NAMED].tolist():
        name = clipped(str(row if labels is None else labels[row]), _NAME)
        right = row > 0.8 * len(rows)
        place: canvas.Style = {"xytext": (-6 if right else 6, 0), "ha": "right" if right else "left", "va": "center"}
        place |= {"path_effects": [canvas.HALO]}
        ax.annotate(name, (row, surprisal[row]), textcoords="offset points", fontsize="small", **place)
    expected = f"{len(rows) * (1 - level):.2g} expected"
    summary = f"Outliers: {len(odd)} of {len(rows)} rows beyond level {level:g}"
    ax.set(xlabel="row, by its place", ylabel="surprisal, −log p(x) (nats)")
    ax.set_title(canvas.title(summary, expected, note and note.replace("rows", "others")), loc="left", fontsize="medium")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False)
    return ax


def density_regions(
    gmm: Mixture,
    x: ArrayLike,
    *,
    key: Array,
    levels: Sequence[float] = (0.5, 0.9, 0.99),
    features: Sequence[int] = (0, 1),
    feature_names: canvas.Names = None,
    n_samples: int = 10_000,
    ax: Axes | None = None,
) -> Axes:
    """The smallest regions that hold 50 %, 90 % and 99 % of a mixture, over the rows, those outside all of them in orange.

    Regions of highest density (Hyndman 1996): no point outside is denser than one inside, so that they may have several parts.
    Of one feature they are shades under its density; of more, two span the plane, and the regions are those of their marginal.

    Args:
        gmm: the mixture, or a Fit or what else holds one.
        x: (N, D) data; rows that lack one of the values aren't drawn.
        key: a PRNG key.
        levels: probabilities of the regions.
        features: the two columns to show, where D > 2.
        feature_names: the D axis labels.
        n_samples: draws by which the borders are found (`jaxgmm.density_threshold`).
        ax: to draw into; a new figure by default.

    Raises:
        TypeError, ValueError: bad data, columns that aren't there, or levels that `density_threshold` refuses.

    Example:
        >>> import jax, jaxgmm as jg
        >>> gmm = jg.GMM([1.0], [[0.0, 0.0]], [1.0], "spherical")
        >>> ax = jg.plots.density_regions(gmm, [[0.0, 1.0], [9.0, 0.0]], key=jax.random.key(0))
        >>> ax.get_title(loc="left")
        'Highest-density regions: 1 of 2 rows outside 99 % (0.02 expected)'
    """
    gmm = about_rows(gmm, "plots.density_regions")
    rows, names = canvas.checked(gmm, x, feature_names)
    place = [0] if gmm.n_features == 1 else list(canvas.two_features(features, gmm.n_features))
    alone = "marginal of\n2 features" if gmm.n_features > 2 else None
    gmm, rows = gmm.marginal(place), rows[:, place]
    rows = rows[~np.isnan(rows).any(axis=1)]
    if not len(rows):
        raise UserError(f"no row of x has the value{'s' * (len(place) > 1)} of {', '.join(names[i] for i in place)}.")
    wanted = np.unique(np.asarray(levels, float))[::-1]
    if not wanted.size:
        raise UserError("levels is empty: give at least one probability, such as 0.9.")
    borders = np.atleast_1d(density_threshold(gmm, wanted, key=key, n_samples=n_samples))
    if (np.diff(borders) <= 0).any():
        raise UserError(
            f"levels {wanted[::-1].tolist()} are too near each other for n_samples={n_samples}: take fewer, or more draws."
        )
    outside = np.asarray(gmm.log_prob(rows), float) < borders[0]
    shades = matplotlib.colormaps["Blues"](np.linspace(0.2, 0.65, len(wanted)))
    ax = ax or canvas.new_axes()
    (_draw_line if len(place) == 1 else _draw_plane)(ax, gmm, rows, borders, shades, outside)
    ax.set_xlabel(names[place[0]])
    ax.set_ylabel(names[place[1]] if len(place) == 2 else "density")
    handles = [Patch(color=shade, label=f"{100 * level:g} %") for level, shade in zip(wanted, shades, strict=True)]
    ax.legend(handles=handles[::-1], title=alone, **canvas.BESIDE)
    summary = f"Highest-density regions: {outside.sum()} of {len(rows)} rows outside {100 * wanted[0]:g} %"
    expected = f"{len(rows) * (1 - wanted[0]):.2g} expected"
    ax.set_title(canvas.title(summary, expected), loc="left", fontsize="medium")
    return ax


def _grid(gmm: GMM, x: np.ndarray, d: int) -> np.ndarray:
    """Points of an axis, more of them where components are; it reaches a little beyond the rows."""
    heavy = np.argsort(-np.asarray(gmm.weights), kind="stable")[:_HEAVIEST]
    means, sds = (np.asarray(leaf, float)[heavy, d] for leaf in (gmm.means, _sds(gmm)))
    margin = 0.08 * np.ptp(x[:, d]) or 1.0
    low, high = (
        min(x[:, d].min() - margin, (means - _REACH * sds).min()),
        max(x[:, d].max() + margin, (means + _REACH * sds).max()),
    )
    around = (means[:, None] + sds[:, None] * np.linspace(-_REACH, _REACH, _AROUND)).ravel()
    return np.unique(np.concatenate([np.linspace(low, high, _POINTS), around]))


def _sds(gmm: GMM) -> np.ndarray:
    return np.sqrt(np.diagonal(np.asarray(gmm.dense_covariances()), axis1=1, axis2=2))


def _draw_line(ax: Axes, gmm: GMM, x: np.ndarray, borders: np.ndarray, shades: np.ndarray, outside: np.ndarray) -> None:
    grid = _grid(gmm, x, 0)
    grid = np.unique(np.append(grid, np.linspace(grid[0], grid[-1], 1024)))
    log_density = np.asarray(gmm.log_prob(grid[:, None]), float)
    for border, shade in zip(borders, shades, strict=True):
        ax.fill_between(grid, np.where(log_density >= border, np.exp(log_density), np.nan), color=shade, lw=0)
    ax.plot(grid, np.exp(log_density), color="0.25", lw=1.2)
    for own, ink in ((~outside, "0.35"), (outside, _ODD)):
        ax.plot(x[own, 0], np.full(own.sum(), -0.03), "|", color=ink, ms=7, transform=ax.get_xaxis_transform(), clip_on=False)
    ax.tick_params(axis="x", pad=12)
    ax.set_ylim(bottom=0)


def _draw_plane(ax: Axes, gmm: GMM, x: np.ndarray, borders: np.ndarray, shades: np.ndarray, outside: np.ndarray) -> None:
    across, up = _grid(gmm, x, 0), _grid(gmm, x, 1)
    points = np.stack(np.meshgrid(across, up), axis=-1)
    log_density = np.asarray(gmm.log_prob(points.reshape(-1, 2)), float).reshape(points.shape[:2])
    top = max(log_density.max(), borders[-1]) + 1
    ax.contourf(across, up, log_density, [*borders, top], colors=shades)
    style: canvas.Style = {"ls": "", "mew": 0, "rasterized": True}
    shown, _ = canvas.subsample(x[~outside])
    ax.plot(*shown.T, "o", color="0.25", ms=canvas.point_size(len(shown) + 1), alpha=0.5, **style)
    ax.plot(*x[outside].T, "o", color=_ODD, ms=6, **style)
