"""scikit-learn's mixture estimators with the E-step compiled, and what they lack: sample weights and a prior.

`from jaxgmm.sklearn import GaussianMixture` in the place of `from sklearn.mixture import GaussianMixture` changes nothing but
the time a fit takes. The classes are scikit-learn's own, subclassed: parameters and their checks, starts, M-step, stopping
rule, attributes, warnings and errors are its code. What is replaced is what crosses the rows of the data.

Of the private methods that subclasses override, `_check_parameters`, `_initialize_parameters`, `_initialize`, `_e_step`,
`_m_step`, `_estimate_log_weights` and `_compute_lower_bound` hold; `_estimate_log_prob` and what calls it hold after the fit
only.
"""

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("jaxgmm.sklearn needs scikit-learn: pip install 'jaxgmm[sklearn]'", name=error.name) from None

from jaxgmm.sklearn.bayesian import BayesianGaussianMixture
from jaxgmm.sklearn.gaussian import GaussianMixture

__all__ = ["BayesianGaussianMixture", "GaussianMixture"]
