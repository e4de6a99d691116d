"""scikit-learn's mixture estimators with the E-step compiled, and what they lack: sample weights and a prior.

`from jaxgmm.sklearn import GaussianMixture` in the place of `from sklearn.mixture import GaussianMixture` changes nothing but
the time a fit takes. The classes are scikit-learn's own, subclassed: parameters and their checks, starts, M-step, stopping
rule, attributes, warnings and errors are its code. What is replaced is what crosses the rows of the data.
"""

try:
    import sklearn  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("jaxgmm.sklearn needs scikit-learn: pip install 'jaxgmm[sklearn]'", name=error.name) from None

from jaxgmm.sklearn.bayesian import BayesianGaussianMixture
from jaxgmm.sklearn.gaussian import GaussianMixture

__all__ = ["BayesianGaussianMixture", "GaussianMixture"]
