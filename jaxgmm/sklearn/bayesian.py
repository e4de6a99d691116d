"""`BayesianGaussianMixture`: scikit-learn's variational Bayes."""

from types import ModuleType

import numpy as np
from sklearn import mixture

from jaxgmm.sklearn.estimator import CompiledMixture
from jaxgmm.sklearn.expectation import Expectation, Moments, assigned_moments
from jaxgmm.tools.types import Numbers


class BayesianGaussianMixture(CompiledMixture, mixture.BayesianGaussianMixture):
    """scikit-learn's `BayesianGaussianMixture`, with its sums over rows compiled.

    Parameters, starts, updates, bound, stopping rule, attributes, warnings and errors are scikit-learn's own code, and so are
    its particulars: `lower_bound_` leaves out constants, so it doesn't compare models of different K, and "tied" shares out the
    rows evenly. `jaxgmm.fit_vb` has the exact bound.

    Beyond scikit-learn: `fit(X, sample_weight=...)`, where `mean_prior` and `covariance_prior` default to the weighted mean and
    covariance (divisor total weight - 1, but at least half of it, so that weights that add up to one work); mclust's names for
    `covariance_type` ("VVV", "EEE", "VVI", "VII"), kept as scikit-learn's; `to_sklearn`, `from_sklearn`.

    Attributes:
        gmm_: the fitted mixture of `weights_`, `means_` and `covariances_`, a `jaxgmm.GMM`; the others are scikit-learn's.

    Example:
        >>> from jaxgmm.datasets import load_faithful
        >>> from jaxgmm.sklearn import BayesianGaussianMixture
        >>> mixture = BayesianGaussianMixture(n_components=4, random_state=0, max_iter=500).fit(load_faithful().x)
        >>> mixture.converged_, mixture.gmm_.n_components
        (True, 4)

    Source:
        scikit-learn 1.9, `sklearn.mixture`; Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.
    """

    _sklearn = mixture.BayesianGaussianMixture

    def _check_parameters(self, X: Numbers, xp: ModuleType | None = None) -> None:
        super()._check_parameters(X, xp=xp)
        weight = self._sample_weight
        if weight is None:
            return
        mean, total = np.average(np.asarray(X), axis=0, weights=weight).astype(X.dtype), weight.sum()
        if self.mean_prior is None:
            self.mean_prior_ = mean
        if self.covariance_prior is None:
            centred = X - mean
            covariance = (centred.T * weight) @ centred / max(total - 1, total / 2)
            variances = np.diagonal(covariance)
            choices = {"full": covariance, "tied": covariance, "diag": variances, "spherical": variances.mean()}
            self.covariance_prior_ = choices[self.covariance_type]

    def _initialize(self, X: np.ndarray, resp: np.ndarray) -> None:
        if (rows := self._compiled(X)) is None:
            super()._initialize(X, resp)
        else:
            self._update(assigned_moments(rows, resp, self))

    def _update(self, moments: Moments) -> None:
        counts, means, covariances = moments
        self._estimate_weights(counts)
        self._estimate_means(counts, means)
        self._estimate_precisions(counts, means, covariances)

    def _compute_lower_bound(self, log_resp: np.ndarray | Expectation, log_prob_norm: float) -> float:
        if not isinstance(log_resp, Expectation):
            return super()._compute_lower_bound(log_resp, log_prob_norm)
        # Log responsibilities of zero have no entropy: the rest of the bound doesn't read them.
        return log_resp.entropy() + super()._compute_lower_bound(np.zeros(1), log_prob_norm)
