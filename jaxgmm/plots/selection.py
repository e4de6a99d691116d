"""How models compare: a criterion against the number of components."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from jaxgmm.model.criteria import CRITERIA
from jaxgmm.plots import canvas

if TYPE_CHECKING:
    from jaxgmm.comparing.comparison import Comparison


def criterion(comparison: "Comparison", name: str = "bic", *, ax: Axes | None = None) -> Axes:
    """How far each model is from the best one by a criterion, against K, one line a family, with a ring around the best.

    The scale is linear near the best, where choices are made, and logarithmic farther out, so that no family flattens the rest.
    Gaps are models without a usable fit.

    Args:
        comparison: what `jaxgmm.compare` returned.
        name: "bic", "aic", "icl", "held_out" or "loo".
        ax: to draw into; a new figure by default.

    Raises:
        ValueError: an unknown criterion, or one that wasn't computed.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> comparison = jg.compare(x, families=["full", "spherical"], n_components=[1, 2], key=jax.random.key(0))
        >>> jg.plots.criterion(comparison, "icl").get_ylabel()
        'ICL above the best, 2322.9'
    """
    comparison.check_criterion(name)
    ax = ax or canvas.new_axes()
    values, kind = comparison.criteria[name], CRITERIA[name]
    best = (np.nanmax if kind.larger_is_better else np.nanmin)(values) if np.isfinite(values).any() else np.nan
    near, digits = (0.1, 3) if kind.unit.endswith("a row") else (10.0, 1)
    away = abs(values - best)
    families = np.array([row.family for row in comparison.rows])
    counts = np.array([row.n_components for row in comparison.rows])
    for i, family in enumerate(dict.fromkeys(families.tolist())):
        own = families == family
        style: canvas.Style = {"color": canvas.colour(i), "marker": canvas.marker(i), "label": family}
        ax.plot(counts[own], away[own], lw=1.4, ms=4.5, **style)
    for choice in comparison.choices:
        if choice.criterion == name:
            label = f"best: {comparison.rows[choice.best].name}"
            ring: canvas.Style = {"mfc": "none", "mec": "black", "mew": 1.4, "ms": 13}
            ax.plot(counts[choice.best], 0, "o", label=label, clip_on=False, **ring)
    unit = f" {kind.unit}" if kind.unit else ""
    side = "below" if kind.larger_is_better else "above"
    ax.set_yscale("symlog", linthresh=near)
    ax.set(
        xlabel="number of components", ylabel=f"{kind.title} {side} the best, {best:.{digits}f}{unit}", ylim=(-near / 10, None)
    )
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(**canvas.BESIDE)
    return ax
