"""Matplotlib figures of a mixture, its data, how it was fitted, its posterior, and how many clusters.

Functions that draw one panel take `ax=` and return it; those that need several return a `Figure`. A new figure is pyplot's
current one, as in seaborn and ArviZ: notebooks show it at the end of the cell, `plt.title` and `plt.show` mean it, and a
script that makes many closes them, `plt.close("all")`. Without a screen and in threads `ax.figure.savefig("name.png")`.
Where a mixture is asked for, a `Fit`, a `VariationalFit` or an estimator of `jaxgmm.sklearn` will do.
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("jaxgmm.plots needs matplotlib: pip install 'jaxgmm[cli]'", name=error.name) from None

from jaxgmm.plots.animation import animate
from jaxgmm.plots.canvas import PALETTE
from jaxgmm.plots.counting import n_clusters, sensitivity, similarity
from jaxgmm.plots.explanation import explanation
from jaxgmm.plots.fitting import replication, trace
from jaxgmm.plots.mixing import chains
from jaxgmm.plots.mixture import components, density, pairs, responsibilities, scatter
from jaxgmm.plots.partitions import partitions
from jaxgmm.plots.posterior import draws, intervals
from jaxgmm.plots.regions import density_regions, outliers
from jaxgmm.plots.selection import criterion
from jaxgmm.plots.uncertainty import uncertainty

__all__ = [
    "PALETTE", "animate", "chains", "components", "criterion", "density", "density_regions", "draws", "explanation",
    "intervals", "n_clusters", "outliers", "pairs", "partitions", "replication", "responsibilities", "scatter", "sensitivity",
    "similarity", "trace", "uncertainty",
]  # fmt: skip
