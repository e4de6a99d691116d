"""How a fit went: the climb of every start, and how many agree."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxgmm.fitting.result import USABLE
from jaxgmm.plots import canvas

if TYPE_CHECKING:
    from jaxgmm.fitting.result import Fit, Restarts

_ROUNDING = 1e-10  # of the objective: nothing to see below it


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
    ax = ax or canvas.new_axes()
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

    Args:
        fit: what `jaxgmm.fit` returned.

    Example:
        >>> import jax, jaxgmm as jg
        >>> fit = jg.fit(jg.datasets.load_faithful().x, n_components=2, key=jax.random.key(0))
        >>> jg.plots.replication(fit)
        '10 of 10 starts reached the best optimum'
    """
    return fit.restarts.in_words


def _start_style(restarts: "Restarts", start: int) -> canvas.Style:
    if start == restarts.best:
        return {"color": canvas.PALETTE[0], "lw": 2.4, "label": "best start"}
    if restarts.status[start] not in USABLE:
        return {"color": "0.6", "lw": 1, "ls": ":", "label": "failed"}
    if restarts.objective[start] >= restarts.objective[restarts.best] - restarts.tolerance:
        return {"color": canvas.PALETTE[4], "lw": 1, "label": "reached the same optimum"}
    return {"color": canvas.PALETTE[1], "lw": 1, "ls": "--", "label": "ended at another"}
