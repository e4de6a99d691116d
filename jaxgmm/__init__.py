"""Gaussian mixture models on JAX: EM for point estimates, NumPyro for honest uncertainty, one parameter pytree.

Names are resolved on first use, so that `import jaxgmm` and `jaxgmm --help` cost no JAX import.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "GMM": "mixture",
    "Prior": "prior",
    "Statistics": "statistics",
    "e_step": "statistics",
    "m_step": "statistics",
    "initialise": "initialisation",
    "fit": "em",
    "Fit": "fitted",
    "Restarts": "fitted",
    "Progress": "fitted",
    "Status": "status",
    "FitError": "status",
    "FitWarning": "status",
    "compare": "selection",
    "Comparison": "comparison",
    "load": "io",
    "merge_components": "merging",
    "Merging": "merging",
    "merged_counts": "bayes.merged_counts",
    "numpyro_model": "bayes.model",
    "RichardsonGreen": "bayes.priors",
    "posterior": "bayes.posterior",
    "fit_map": "bayes.map",
    "fit_vb": "bayes.variational_bayes",
    "VariationalFit": "bayes.variational_fit",
    "relabel": "bayes.relabel",
    "predictive_checks": "bayes.predictive_checks",
    "Diagnostics": "bayes.diagnostics",
    "intervals": "bayes.summaries",
    "membership": "bayes.summaries",
    "coclustering": "bayes.summaries",
    "draws_of": "bayes.datatree",
    "save_posterior": "bayes.storage",
    "load_posterior": "bayes.storage",
    "GibbsKernel": "bayes.gibbs",
    "TelescopingKernel": "bayes.telescoping_kernel",
    "diagnose": "bayes.diagnostics",
    "count_clusters": "bayes.counts",
    "cluster_count": "bayes.count_verdict",
    "count_sensitivity": "bayes.count_sensitivity",
    "ClusterCount": "bayes.count_verdict",
    "components_given": "bayes.count_components",
    "similarity": "bayes.partition_summaries",
    "typical_partition": "bayes.partition_summaries",
    "unconstrain": "bayes.unconstrained",
    "constrain": "bayes.unconstrained",
}
_MODULES = ("covariance", "data", "datasets", "plots")

# Written out, so that type checkers see what is public.
__all__ = [
    "GMM",
    "ClusterCount",
    "Comparison",
    "Diagnostics",
    "Fit",
    "FitError",
    "FitWarning",
    "GibbsKernel",
    "Merging",
    "Prior",
    "Progress",
    "Restarts",
    "RichardsonGreen",
    "Statistics",
    "Status",
    "TelescopingKernel",
    "VariationalFit",
    "__version__",
    "cluster_count",
    "coclustering",
    "compare",
    "components_given",
    "constrain",
    "count_clusters",
    "count_sensitivity",
    "covariance",
    "data",
    "datasets",
    "diagnose",
    "draws_of",
    "e_step",
    "fit",
    "fit_map",
    "fit_vb",
    "initialise",
    "intervals",
    "load",
    "load_posterior",
    "m_step",
    "membership",
    "merge_components",
    "merged_counts",
    "numpyro_model",
    "plots",
    "posterior",
    "predictive_checks",
    "relabel",
    "save_posterior",
    "similarity",
    "typical_partition",
    "unconstrain",
]

if TYPE_CHECKING:
    from jaxgmm import covariance, data, datasets, plots
    from jaxgmm.bayes.count_components import components_given
    from jaxgmm.bayes.count_sensitivity import count_sensitivity
    from jaxgmm.bayes.count_verdict import ClusterCount, cluster_count
    from jaxgmm.bayes.counts import count_clusters
    from jaxgmm.bayes.datatree import draws_of
    from jaxgmm.bayes.diagnostics import Diagnostics, diagnose
    from jaxgmm.bayes.gibbs import GibbsKernel
    from jaxgmm.bayes.map import fit_map
    from jaxgmm.bayes.merged_counts import merged_counts
    from jaxgmm.bayes.model import numpyro_model
    from jaxgmm.bayes.partition_summaries import similarity, typical_partition
    from jaxgmm.bayes.posterior import posterior
    from jaxgmm.bayes.predictive_checks import predictive_checks
    from jaxgmm.bayes.priors import RichardsonGreen
    from jaxgmm.bayes.relabel import relabel
    from jaxgmm.bayes.storage import load_posterior, save_posterior
    from jaxgmm.bayes.summaries import coclustering, intervals, membership
    from jaxgmm.bayes.telescoping_kernel import TelescopingKernel
    from jaxgmm.bayes.unconstrained import constrain, unconstrain
    from jaxgmm.bayes.variational_bayes import fit_vb
    from jaxgmm.bayes.variational_fit import VariationalFit
    from jaxgmm.comparison import Comparison
    from jaxgmm.em import fit
    from jaxgmm.fitted import Fit, Progress, Restarts
    from jaxgmm.initialisation import initialise
    from jaxgmm.io import load
    from jaxgmm.merging import Merging, merge_components
    from jaxgmm.mixture import GMM
    from jaxgmm.prior import Prior
    from jaxgmm.selection import compare
    from jaxgmm.statistics import Statistics, e_step, m_step
    from jaxgmm.status import FitError, FitWarning, Status


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"jaxgmm.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxgmm.{name}")
    else:
        raise AttributeError(f"module 'jaxgmm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
