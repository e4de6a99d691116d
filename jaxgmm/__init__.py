"""Gaussian mixture models on JAX: EM for point estimates, NumPyro for honest uncertainty, one parameter pytree.

Names are resolved on first use, so that `import jaxgmm` and `jaxgmm --help` cost no JAX import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxgmm.tools import forks as _forks  # before any fork
from jaxgmm.version import __version__

_HOME = {
    "GMM": "model.mixture",
    "Prior": "model.prior",
    "Statistics": "model.statistics",
    "e_step": "model.steps",
    "m_step": "model.steps",
    "initialise": "fitting.starts",
    "fit": "fitting.fit",
    "Fit": "fitting.result",
    "Restarts": "fitting.result",
    "Progress": "fitting.result",
    "Status": "fitting.status",
    "FitError": "fitting.status",
    "FitWarning": "fitting.status",
    "compare": "comparing.compare",
    "Comparison": "comparing.comparison",
    "load": "model.mixture",
    "merge_components": "comparing.merging",
    "Merging": "comparing.merging",
    "merged_counts": "comparing.merged_counts",
    "numpyro_model": "bayes.target.numpyro_model",
    "RichardsonGreen": "bayes.priors.richardson_green",
    "posterior": "bayes.posterior",
    "fit_map": "bayes.fit_map",
    "fit_vb": "bayes.variational.fit_vb",
    "VariationalFit": "bayes.variational.result",
    "relabel": "bayes.trees.relabel",
    "predictive_checks": "bayes.trees.predictive_checks",
    "Diagnostics": "bayes.trees.diagnostics",
    "intervals": "bayes.trees.summaries",
    "membership": "bayes.trees.summaries",
    "coclustering": "bayes.trees.summaries",
    "draws_of": "bayes.trees.build",
    "save_posterior": "bayes.trees.storage",
    "load_posterior": "bayes.trees.storage",
    "GibbsKernel": "bayes.samplers.gibbs_kernel",
    "TelescopingKernel": "counting.telescoping_kernel",
    "diagnose": "bayes.trees.diagnostics",
    "count_clusters": "counting.count_clusters",
    "cluster_count": "counting.verdict",
    "count_sensitivity": "counting.sensitivity",
    "ClusterCount": "counting.verdict",
    "components_given": "counting.components",
    "similarity": "counting.similarity",
    "typical_partition": "counting.similarity",
    "unconstrain": "bayes.target.coordinates",
    "constrain": "bayes.target.coordinates",
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
    from jaxgmm.bayes.fit_map import fit_map
    from jaxgmm.bayes.posterior import posterior
    from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
    from jaxgmm.bayes.samplers.gibbs_kernel import GibbsKernel
    from jaxgmm.bayes.target.coordinates import constrain, unconstrain
    from jaxgmm.bayes.target.numpyro_model import numpyro_model
    from jaxgmm.bayes.trees.build import draws_of
    from jaxgmm.bayes.trees.diagnostics import Diagnostics, diagnose
    from jaxgmm.bayes.trees.predictive_checks import predictive_checks
    from jaxgmm.bayes.trees.relabel import relabel
    from jaxgmm.bayes.trees.storage import load_posterior, save_posterior
    from jaxgmm.bayes.trees.summaries import coclustering, intervals, membership
    from jaxgmm.bayes.variational.fit_vb import fit_vb
    from jaxgmm.bayes.variational.result import VariationalFit
    from jaxgmm.comparing.compare import compare
    from jaxgmm.comparing.comparison import Comparison
    from jaxgmm.comparing.merged_counts import merged_counts
    from jaxgmm.comparing.merging import Merging, merge_components
    from jaxgmm.counting.components import components_given
    from jaxgmm.counting.count_clusters import count_clusters
    from jaxgmm.counting.sensitivity import count_sensitivity
    from jaxgmm.counting.similarity import similarity, typical_partition
    from jaxgmm.counting.telescoping_kernel import TelescopingKernel
    from jaxgmm.counting.verdict import ClusterCount, cluster_count
    from jaxgmm.fitting.fit import fit
    from jaxgmm.fitting.result import Fit, Progress, Restarts
    from jaxgmm.fitting.starts import initialise
    from jaxgmm.fitting.status import FitError, FitWarning, Status
    from jaxgmm.model.mixture import GMM, load
    from jaxgmm.model.prior import Prior
    from jaxgmm.model.statistics import Statistics
    from jaxgmm.model.steps import e_step, m_step


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
