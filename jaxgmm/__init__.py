"""Gaussian mixture models on JAX: EM for point estimates, NumPyro for honest uncertainty, one parameter pytree.

Names are resolved on first use, so that `import jaxgmm` and `jaxgmm --help` cost no JAX import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxgmm.tools import forks as _forks  # before any fork
from jaxgmm.tools import hints as _hints
from jaxgmm.version import __version__

_NAMES = {
    "bayes.fit_map": ("fit_map",),
    "bayes.intervals": ("intervals",),
    "bayes.posterior": ("posterior",),
    "bayes.priors.richardson_green": ("RichardsonGreen",),
    "bayes.samplers.gibbs_kernel": ("GibbsKernel",),
    "bayes.target.coordinates": ("unconstrain", "constrain"),
    "bayes.target.distribution": ("distribution",),
    "bayes.target.numpyro_model": ("numpyro_model",),
    "bayes.trees.adopt": ("adopt",),
    "bayes.trees.build": ("draws_of",),
    "bayes.trees.diagnostics": ("Diagnostics", "diagnose"),
    "bayes.trees.predictive_checks": ("predictive_checks",),
    "bayes.trees.relabel": ("relabel",),
    "bayes.trees.storage": ("save_posterior", "load_posterior"),
    "bayes.trees.summaries": ("membership", "coclustering"),
    "bayes.variational.fit_vb": ("fit_vb",),
    "bayes.variational.result": ("VariationalFit",),
    "comparing.bootstrap": ("BootstrapTest", "bootstrap_test"),
    "comparing.compare": ("compare",),
    "comparing.comparison": ("Comparison",),
    "comparing.shares": ("choice_shares",),
    "comparing.merged_counts": ("merged_counts",),
    "comparing.merging": ("merge_components", "Merging"),
    "counting.components": ("components_given",),
    "fitting.fit_groups": ("fit_groups",),
    "fitting.group_fits": ("GroupFits",),
    "fitting.noise": ("Noise",),
    "counting.continue_chains": ("continue_chains",),
    "counting.count_clusters": ("count_clusters",),
    "counting.sensitivity": ("count_sensitivity",),
    "counting.partitions": ("partitions", "Partitions"),
    "counting.similarity": ("similarity",),
    "counting.telescoping_kernel": ("TelescopingKernel",),
    "counting.subpartition": ("credible_subpartition",),
    "counting.typical_partition": ("typical_partition",),
    "counting.verdict": ("cluster_count", "ClusterCount"),
    "fitting.fit": ("fit",),
    "fitting.result": ("Fit", "Restarts", "Progress"),
    "fitting.starts": ("initialise",),
    "fitting.stepwise": ("Stepwise", "stepwise"),
    "fitting.status": ("Status", "FitError", "FitWarning"),
    "model.divergence": ("kl_divergence", "reduce_components"),
    "model.explaining": ("Explanation",),
    "model.mixture": ("GMM",),
    "model.prior": ("Prior",),
    "model.regression": ("Regression", "cdf", "quantile", "regress"),
    "model.statistics": ("Statistics",),
    "model.steps": ("e_step", "m_step"),
    "model.storage": ("load",),
    "model.unusual": ("density_level", "density_threshold", "explain"),
    "onnx": ("to_onnx",),
    "tools.cache": ("enable_compilation_cache",),
}  # public ones, by the module that has them
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = ("covariance", "data", "datasets", "plots")

# Written out, so that type checkers see what is public.
__all__ = [
    "GMM",
    "BootstrapTest",
    "ClusterCount",
    "Comparison",
    "Diagnostics",
    "Explanation",
    "Fit",
    "FitError",
    "FitWarning",
    "GibbsKernel",
    "GroupFits",
    "Merging",
    "Noise",
    "Partitions",
    "Prior",
    "Progress",
    "Regression",
    "Restarts",
    "RichardsonGreen",
    "Statistics",
    "Status",
    "Stepwise",
    "TelescopingKernel",
    "VariationalFit",
    "__version__",
    "adopt",
    "bootstrap_test",
    "cdf",
    "choice_shares",
    "cluster_count",
    "coclustering",
    "compare",
    "components_given",
    "constrain",
    "continue_chains",
    "count_clusters",
    "count_sensitivity",
    "covariance",
    "credible_subpartition",
    "data",
    "datasets",
    "density_level",
    "density_threshold",
    "diagnose",
    "distribution",
    "draws_of",
    "e_step",
    "enable_compilation_cache",
    "explain",
    "fit",
    "fit_groups",
    "fit_map",
    "fit_vb",
    "initialise",
    "intervals",
    "kl_divergence",
    "load",
    "load_posterior",
    "m_step",
    "membership",
    "merge_components",
    "merged_counts",
    "numpyro_model",
    "partitions",
    "plots",
    "posterior",
    "predictive_checks",
    "quantile",
    "reduce_components",
    "regress",
    "relabel",
    "save_posterior",
    "similarity",
    "stepwise",
    "to_onnx",
    "typical_partition",
    "unconstrain",
]  # fmt: skip

if TYPE_CHECKING:
    from jaxgmm import covariance, data, datasets, plots
    from jaxgmm.bayes.fit_map import fit_map
    from jaxgmm.bayes.intervals import intervals
    from jaxgmm.bayes.posterior import posterior
    from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
    from jaxgmm.bayes.samplers.gibbs_kernel import GibbsKernel
    from jaxgmm.bayes.target.coordinates import constrain, unconstrain
    from jaxgmm.bayes.target.distribution import distribution
    from jaxgmm.bayes.target.numpyro_model import numpyro_model
    from jaxgmm.bayes.trees.adopt import adopt
    from jaxgmm.bayes.trees.build import draws_of
    from jaxgmm.bayes.trees.diagnostics import Diagnostics, diagnose
    from jaxgmm.bayes.trees.predictive_checks import predictive_checks
    from jaxgmm.bayes.trees.relabel import relabel
    from jaxgmm.bayes.trees.storage import load_posterior, save_posterior
    from jaxgmm.bayes.trees.summaries import coclustering, membership
    from jaxgmm.bayes.variational.fit_vb import fit_vb
    from jaxgmm.bayes.variational.result import VariationalFit
    from jaxgmm.comparing.bootstrap import BootstrapTest, bootstrap_test
    from jaxgmm.comparing.compare import compare
    from jaxgmm.comparing.comparison import Comparison
    from jaxgmm.comparing.merged_counts import merged_counts
    from jaxgmm.comparing.merging import Merging, merge_components
    from jaxgmm.comparing.shares import choice_shares
    from jaxgmm.counting.components import components_given
    from jaxgmm.counting.continue_chains import continue_chains
    from jaxgmm.counting.count_clusters import count_clusters
    from jaxgmm.counting.partitions import Partitions, partitions
    from jaxgmm.counting.sensitivity import count_sensitivity
    from jaxgmm.counting.similarity import similarity
    from jaxgmm.counting.subpartition import credible_subpartition
    from jaxgmm.counting.telescoping_kernel import TelescopingKernel
    from jaxgmm.counting.typical_partition import typical_partition
    from jaxgmm.counting.verdict import ClusterCount, cluster_count
    from jaxgmm.fitting.fit import fit
    from jaxgmm.fitting.fit_groups import fit_groups
    from jaxgmm.fitting.group_fits import GroupFits
    from jaxgmm.fitting.noise import Noise
    from jaxgmm.fitting.result import Fit, Progress, Restarts
    from jaxgmm.fitting.starts import initialise
    from jaxgmm.fitting.status import FitError, FitWarning, Status
    from jaxgmm.fitting.stepwise import Stepwise, stepwise
    from jaxgmm.model.divergence import kl_divergence, reduce_components
    from jaxgmm.model.explaining import Explanation
    from jaxgmm.model.mixture import GMM
    from jaxgmm.model.prior import Prior
    from jaxgmm.model.regression import Regression, cdf, quantile, regress
    from jaxgmm.model.statistics import Statistics
    from jaxgmm.model.steps import e_step, m_step
    from jaxgmm.model.storage import load
    from jaxgmm.model.unusual import density_level, density_threshold, explain
    from jaxgmm.onnx import to_onnx
    from jaxgmm.tools.cache import enable_compilation_cache


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"jaxgmm.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jaxgmm.{name}")
    else:
        raise _hints.no_name(name, __all__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
