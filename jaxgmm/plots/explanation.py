"""What each feature adds to how surprising a row is, and to the odds of its component."""

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxgmm.model.explaining import Explanation
from jaxgmm.plots import canvas
from jaxgmm.tools.errors import UserTypeError
from jaxgmm.tools.formatting import clipped
from jaxgmm.tools.reading import counted
from jaxgmm.tools.validation import check_count

_NAME, _LINE = 60, 32  # characters of a name, and of each of its lines
_PART, _REST = "0.3", "0.75"


def explanation(explained: Explanation, *, max_rows: int = 3, max_features: int = 10) -> Figure:
    """What features add to the surprisal of rows, and to the log odds of their two most probable components: bars, in nats.

    The most surprising rows come first, and in each the features that add most; what is left at no distance from the
    components is `rest`. Bars of the odds have the colour of the component that they speak for.

    Args:
        explained: what `jaxgmm.explain` returned.
        max_rows: only so many rows are drawn, and the title says so.
        max_features: in each row, the others are summed up.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: not such an explanation; counts below 1.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [4.0, 4.0]], [1.0, 1.0], "spherical")
        >>> figure = jg.plots.explanation(jg.explain(gmm, [[0.0, 3.0]]))
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['row 0: surprisal 7.0 nats', 'log odds of component 0 to 1: 4.0']
    """
    if not isinstance(explained, Explanation):
        raise UserTypeError(f"explained must be what jaxgmm.explain returns, got {type(explained).__name__}.")
    max_rows, max_features = check_count(max_rows, "max_rows"), check_count(max_features, "max_features")
    rows = np.argsort(-explained.surprisal, kind="stable")[:max_rows].tolist()
    n_columns = 2 if np.isfinite(explained.log_odds[rows]).any() else 1
    bars = min(explained.features.shape[1], max_features + 1) + 1
    each = 0.26 if max(map(len, explained.feature_names)) <= _LINE else 0.42  # inches a bar: names of one line, or of two
    figure = canvas.new_figure(2.2 + 3.6 * n_columns, 0.5 + len(rows) * (0.8 + each * bars))
    panels = figure.subplots(len(rows), n_columns, squeeze=False, sharey="row")
    for row, axes in zip(rows, panels, strict=True):
        surprisal, odds = explained.features[row], explained.odds_features[row]
        order = np.argsort(-abs(surprisal), kind="stable")
        shown, others = order[:max_features], order[max_features:]
        names = [_in_lines(explained.feature_names[i]) for i in shown]
        names += [counted(len(others), "other feature")] if len(others) else []
        axes[0].set_yticks(range(len(names) + 1), [*names, "rest"])
        axes[0].invert_yaxis()
        _draw(axes[0], _summed(surprisal, shown, others), explained.rest[row], (_PART, _PART))
        label = clipped(str(explained.index[row]), _LINE)
        axes[0].set_title(f"row {label}: surprisal {explained.surprisal[row]:.1f} nats", loc="left", fontsize="medium")
        if n_columns == 2 and not np.isfinite(explained.log_odds[row]):  # no second component has a density there
            axes[1].set_axis_off()
        elif n_columns == 2:
            first, second = explained.components[row].tolist()
            colours = canvas.colour(first), canvas.colour(second)
            _draw(axes[1], _summed(odds, shown, others), explained.odds_rest[row], colours)
            title = f"log odds of component {first} to {second}: {explained.log_odds[row]:.1f}"
            axes[1].set_title(title, loc="left", fontsize="medium")
    for ax in panels[-1]:
        ax.set_xlabel("nats")
    if len(rows) < len(explained.surprisal):
        title = f"What each feature adds: {len(rows)} of {len(explained.surprisal)} rows, the most surprising"
        figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    return figure


def _in_lines(name: str) -> str:
    return textwrap.fill(clipped(name, _NAME), _LINE)


def _summed(parts: np.ndarray, shown: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.append(parts[shown], parts[others].sum() if len(others) else [])


def _draw(ax: Axes, parts: np.ndarray, rest: float, colours: tuple[str, str]) -> None:
    """Of parts above 0 and below in two colours, with their numbers."""
    values = np.append(parts, rest)
    drawn = ax.barh(range(len(values)), values, color=[colours[int(value < 0)] for value in parts] + [_REST], height=0.7)
    ax.bar_label(drawn, [_signed(value) for value in values], padding=3, fontsize="small")
    ax.axvline(0, color="0.25", lw=0.8)
    ax.margins(x=0.22)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _signed(value: float) -> str:
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")
