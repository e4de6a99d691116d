"""How models compare: a criterion against the number of components."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxgmm.model.criteria import CRITERIA
from jaxgmm.plots import canvas

if TYPE_CHECKING:
    from jaxgmm.comparing.comparison import Comparison


def criterion(comparison: "Comparison", name: str = "bic", *, ax: Axes | None = None) -> Axes:
    """A criterion against K, one line a family, with a ring around the best model; gaps are models without a usable fit.

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
        'ICL (smaller is better)'
    """
    comparison.check_criterion(name)
    ax = ax or canvas.new_axes()
    values, kind = comparison.criteria[name], CRITERIA[name]
    families = np.array([row.family for row in comparison.rows])
    counts = np.array([row.n_components for row in comparison.rows])
    for i, family in enumerate(dict.fromkeys(families.tolist())):
        own = families == family
        style: canvas.Style = {"color": canvas.colour(i), "marker": canvas.marker(i), "label": family}
        ax.plot(counts[own], values[own], lw=1.4, ms=4.5, **style)
    for choice in comparison.choices:
        if choice.criterion == name:
            label = f"best: {comparison.rows[choice.best].name}"
            ring: canvas.Style = {"mfc": "none", "mec": "black", "mew": 1.4, "ms": 13}
            ax.plot(counts[choice.best], values[choice.best], "o", label=label, **ring)
    better = "larger" if kind.larger_is_better else "smaller"
    unit = f"{kind.unit}; " if kind.unit else ""
    ax.set(xlabel="number of components", ylabel=f"{kind.title} ({unit}{better} is better)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(**canvas.BESIDE)
    return ax
