"""What the figures share: colours, checked and thinned data, ellipses, histograms."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke

from jaxgmm.data.measurement import check_errors, in_order
from jaxgmm.fitting.result import Fit
from jaxgmm.model.asking import Errors
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.svg import PALETTE
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_count, check_rows, check_seen

type Names = Sequence[str] | None  # of the features; None: x0, x1, ...
type Style = dict[str, Any]  # keyword arguments for matplotlib

_MARKERS = "osD^v"  # the next one with every turn of the palette
_MAX_POINTS = 5000  # rows drawn as points
MAX_LEGEND = 14  # components
NOISE = -1  # in the place of a row's component
_off_screen = ContextVar("off_screen", default=False)
BESIDE: Style = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
HALO = withStroke(linewidth=3, foreground="white")


def colour(k: int) -> str:
    """Of component k, or of noise."""
    return "0.5" if k == NOISE else PALETTE[k % len(PALETTE)]


def marker(k: int) -> str:
    """Of component k."""
    return _MARKERS[k // len(PALETTE) % len(_MARKERS)]


def label(gmm: GMM, k: int) -> str:
    """Of component k, for a legend."""
    return f"component {k} ({100 * float(gmm.weights[k]):.0f} %)"


def save(directory: Path, pictures: Mapping[str, Figure | Axes]) -> None:
    """Each as a PNG by its name."""
    for name, picture in pictures.items():
        figure = figure_of(picture) if isinstance(picture, Axes) else picture
        figure.savefig(directory / f"{name}.png", dpi=130)


def title(text: str, *notes: str) -> str:
    """The text with those notes that aren't empty, in parentheses."""
    notes = tuple(filter(None, notes))
    return f"{text} ({'; '.join(notes)})" if notes else text


class Picture(Figure):
    """A figure that a notebook shows once, even at a cell's end, where it would come again with all that pyplot has open."""

    def _ipython_display_(self) -> None:
        from matplotlib import pyplot

        if "inline" in pyplot.get_backend():
            pyplot.close(self)
        raise NotImplementedError  # in IPython's words: as any figure


@contextmanager
def off_screen() -> Iterator[None]:
    """New figures are for files: pyplot, and so the windows of a desktop, knows nothing of them."""
    token = _off_screen.set(True)
    try:
        yield
    finally:
        _off_screen.reset(token)


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches: pyplot's current one, so that notebooks and `plt.show()` show it.

    In threads, where windows can't be opened, it is nobody's.
    """
    options: Style = {"figsize": (width, height), "layout": "constrained"}
    if _off_screen.get() or threading.current_thread() is not threading.main_thread():
        return Picture(**options)
    from matplotlib import pyplot  # only here: it takes a while, and looks for a screen

    return pyplot.figure(FigureClass=Picture, **options)


def new_axes(width: float = 7.6) -> Axes:
    """One panel, in a figure of its own; `width` in inches."""
    return new_figure(width, 4.6).subplots()


def figure_of(ax: Axes) -> Figure:
    """The whole figure that a panel is in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def pair_grid(
    names: Sequence[str],
    max_features: int,
    draw_pair: Callable[[Axes, tuple[int, int]], None],
    draw_one: Callable[[Axes, int], None],
) -> Figure:
    """Every pair of the first features, below a diagonal of each by itself."""
    shown = min(len(names), max_features)
    figure = new_figure(1 + 1.9 * shown, 1 + 1.7 * shown)
    axes = figure.subplots(shown, shown, squeeze=False, sharex="col")
    for i in range(shown):
        for j in range(i):
            draw_pair(axes[i, j], (j, i))
            axes[i, j].sharey(axes[i, 0])
            axes[i, j].tick_params(labelleft=j == 0)
            axes[j, i].remove()
        draw_one(axes[i, i], i)
        axes[i, i].set_yticks([])
        axes[i, 0].set_ylabel(names[i] if i else "density")
        axes[-1, i].set_xlabel(names[i])
    return figure


def left_out(n_features: int, max_features: int) -> str:
    """A note of features that aren't drawn."""
    return f"first {max_features} of {n_features} features" if n_features > max_features else ""


def checked(gmm: GMM, x: ArrayLike, feature_names: Names, n_features: int | None = None) -> tuple[np.ndarray, list[str]]:
    """The rows in float64, NaN where a value is missing, and the axis labels.

    Raises:
        ValueError: bad data, another number of names than features, or a figure for another number of features.
    """
    if n_features is not None and gmm.n_features != n_features:
        raise UserError(
            f"this figure is for {n_features} feature{'s' * (n_features > 1)}, the mixture has {gmm.n_features}: "
            "draw plots.components(gmm, x), or gmm.marginal([...]) with those columns of x."
        )
    known = feature_names or gmm.feature_names or [f"x{i}" for i in range(gmm.n_features)]
    names = [str(name) for name in known]
    if len(names) != gmm.n_features:
        raise UserError(f"feature_names has {len(names)} names, the mixture has {gmm.n_features} features: {names}.")
    rows = check_rows(x, n_features=gmm.n_features, feature_names=gmm.feature_names, missing=True)
    check_seen(rows)
    return np.asarray(rows, float), names


def errors_of(gmm: GMM, x: ArrayLike, rows: np.ndarray, errors: Errors) -> np.ndarray | None:
    """The errors of measurement of rows that `checked` has made of `x`, features in their order; errors as `fit`."""
    return None if errors is None else check_errors(in_order(errors, x, gmm.feature_names), rows)


def two_features(features: Sequence[int], n_features: int) -> tuple[int, int]:
    """The two columns that a figure shows.

    Raises:
        TypeError, ValueError: not two different columns.
    """
    given = [check_count(feature, "features", least=0) for feature in features]
    if len(given) != 2 or given[0] == given[1]:
        raise UserError(f"features must be two columns, got {list(features)}.")
    for feature in given:
        if feature >= n_features:
            raise UserError(f"features {given} must lie in 0..{n_features - 1}, the features there are.")
    return given[0], given[1]


def subsample(x: np.ndarray) -> tuple[np.ndarray, str]:
    """At most as many rows as a picture can show, always the same ones, of whatever there are as many of; and a note of it."""
    if len(x) <= _MAX_POINTS:
        return x, ""
    rows = np.sort(np.random.default_rng(0).choice(len(x), _MAX_POINTS, replace=False))
    return x[rows], f"{_MAX_POINTS} of {len(x)} rows"


def point_size(n_points: int) -> float:
    """Of a marker: smaller the more there are."""
    return float(np.clip(60 / math.sqrt(n_points), 1.5, 5))


def active(gmm: GMM) -> list[int]:
    """Components of positive weight."""
    return np.flatnonzero(np.asarray(gmm.weights) > 0).tolist()


def memberships(gmm: Mixture, x: np.ndarray, errors: Errors = None) -> np.ndarray:
    """Each row's probability of each component (N, K); of a fit with noise, less than 1 together.

    A fit of rows with errors of measurement that is asked without them answers for the rows as if they were exact.
    """
    own, mixture = None if not isinstance(gmm, Fit) else gmm.noise, as_gmm(gmm)
    found = np.asarray(mixture.responsibilities(x, error_covariances=errors), float)
    if own is None:
        return found
    ours = own.beside(mixture.log_prob(x, error_covariances=errors), np.asarray(x))[1]
    return found * np.asarray(ours, float)[:, None]


def share_of_mixture(gmm: Mixture) -> float:
    """Of the rows: less than 1 where some are noise."""
    return 1 - gmm.noise.weight if isinstance(gmm, Fit) and gmm.noise is not None else 1.0


def owners(memberships: np.ndarray) -> np.ndarray:
    """Each row's most probable component, -1 for noise."""
    return np.where(1 - memberships.sum(axis=1) > memberships.max(axis=1), NOISE, memberships.argmax(axis=1))


def ellipse(mean: np.ndarray, covariance: np.ndarray, radius: float, **style: Any) -> Ellipse:
    """The contour at `radius` standard deviations of a Gaussian in two dimensions."""
    variances, axes = np.linalg.eigh(covariance)
    tilt = math.degrees(math.atan2(axes[1, 1], axes[0, 1]))
    minor, major = 2 * radius * np.sqrt(variances)
    return Ellipse((mean[0], mean[1]), major, minor, angle=tilt, fill=False, **style)


def histogram(ax: Axes, x: np.ndarray, sample_weight: Numbers | None) -> None:
    """Of one feature, as a density, in the background; missing values are left out."""
    seen = ~np.isnan(x)
    if not seen.any():
        return
    x, sample_weight = x[seen], None if sample_weight is None else np.asarray(sample_weight)[seen]
    ax.hist(x, bins=_bins(x), weights=sample_weight, density=True, color="0.85", ec="white", lw=0.5)


def grid_of(x: np.ndarray, means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    """Points to draw densities at: narrow components need points of their own."""
    around = (means[:, None] + sds[:, None] * np.linspace(-4, 4, 65)).ravel()
    return np.sort(np.concatenate([np.linspace(np.nanmin(x), np.nanmax(x), 257), around]))


def normal_densities(grid: np.ndarray, means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    """Of Gaussians (...,) at each point of a grid (G,): (..., G)."""
    z = (grid - means[..., None]) / sds[..., None]
    return np.exp(-(z**2) / 2) / (sds[..., None] * math.sqrt(2 * math.pi))


def _bins(x: np.ndarray) -> int:
    """Freedman & Diaconis' number of bins, within what an eye can use."""
    low, high = np.quantile(x, (0.25, 0.75))
    width = 2 * (high - low) / len(x) ** (1 / 3)
    return int(np.clip((x.max() - x.min()) / width, 10, 60)) if width > 0 else 10
