"""An E-step as scikit-learn's M-step reads it: three moments, made of sums instead of (N, K) responsibilities."""

import copy
from typing import NamedTuple

import numpy as np
from sklearn.mixture._base import BaseMixture
from sklearn.mixture._gaussian_mixture import _estimate_gaussian_parameters

from jaxgmm.covariance import get_family
from jaxgmm.model.engines import ILL_CONDITIONED
from jaxgmm.model.statistics import recentre
from jaxgmm.sklearn.rows import Rows
from jaxgmm.tools.types import on_host

_OWNS_NOTHING = 1e-3  # rows
_SINGULAR = 1e13  # variance in units of itself given other features beyond which rounding decides if a matrix is singular


class Moments(NamedTuple):
    """What `sklearn.mixture._gaussian_mixture._estimate_gaussian_parameters` returns.

    Attributes:
        counts: (K,), sum_n w_n r_nk + 10 eps.
        means: (K, D), sum_n w_n r_nk x_n / counts.
        covariances: by family, `reg_covar` added.
    """

    counts: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


class Expectation:
    """The E-step of an estimator; takes the place of log responsibilities between scikit-learn's `_e_step` and `_m_step`.

    As an array, for whoever reads them after all, it is these: (N, K), plus the logarithms of the rows' weights.

    Args:
        rows: that are fitted.
        at: copy of the estimator with the parameters of the E-step.
    """

    def __init__(self, rows: Rows, at: BaseMixture):
        self.rows, self.at = rows, at
        self.family, self.whiteners = get_family(at.covariance_type), at.precisions_cholesky_
        self.constants = _log_joint_at_means(at, rows.x.dtype)
        self.dtype = self.constants.dtype  # of scikit-learn's responsibilities: variational ones are float64 from float32 rows
        shift = at.means_ - rows.mean
        if self.family.structure.dense:
            whitened = (shift[:, np.newaxis] @ self.whiteners)[:, 0]
            spread = (self.whiteners**2).sum(-1) @ rows.variance
        else:
            whiteners = self.whiteners.reshape(len(shift), -1)
            whitened, spread = shift * whiteners, (whiteners**2 * rows.variance).sum(-1)
        self.ill_conditioned = ((whitened**2).sum(-1) + spread > ILL_CONDITIONED).any()
        engine = "whitened" if self.ill_conditioned else "moments"
        # About what rows were summed: what is subtracted from those sums costs digits.
        self.origin = at.means_ if self.ill_conditioned else rows.mean
        self.statistics = rows.statistics(at.means_, self.whiteners, self.constants, at.covariance_type, engine)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Log responsibilities, computed anew."""
        return np.asarray(self._log_resp() + np.log(self._row_weights()), self.dtype if dtype is None else dtype)

    @property
    def log_prob_norm(self) -> float:
        """Weighted mean of log p(x_n)."""
        return self.dtype.type(self.statistics.log_likelihood / self.rows.total_weight)

    def moments(self) -> Moments:
        """scikit-learn's moments, in its dtypes; its arithmetic, but about the means instead of zero."""
        sums, structure = self.statistics, self.family.structure
        extra = 10 * np.finfo(self.dtype).eps
        counts = sums.counts + extra
        shift = (sums.sums - extra * sums.centre) / counts[:, np.newaxis]
        means = sums.centre + shift
        scatter = recentre(structure, sums.scatter, sums.sums, sums.counts, shift)
        if self.family.name != "full":
            # The others subtract counts * means^2, of which `extra` belongs to no row. It makes the variance of a component
            # that owns nothing; of any other, where it is a mere error of the size of means^2 eps, it is left out.
            unowned = np.where(sums.counts < _OWNS_NOTHING, extra, 0)
            scatter = scatter + structure.outer(on_host(unowned), means, means)
        divisor = counts if self.family.per_component else counts.sum(keepdims=True)[0]
        if self.family.name == "spherical":
            divisor = divisor * means.shape[1]
        covariances = scatter / np.reshape(divisor, np.shape(divisor) + (1,) * (scatter.ndim - np.ndim(divisor)))
        ridge = np.eye(means.shape[1]) if structure.dense else 1
        covariances = covariances + self.at.reg_covar * ridge
        covariances_dtype = self.rows.x.dtype if self.family.name == "full" else self.dtype
        return Moments(counts.astype(self.dtype), means.astype(self.dtype), covariances.astype(covariances_dtype))

    def precise_enough(self, moments: Moments, fitted: BaseMixture) -> bool:
        """Are the covariances that `fitted` made of the moments more than what rounding left of large sums?"""
        leaves = fitted.precisions_cholesky_, fitted.covariances_
        if self.family.structure.dense:
            whiteners, variances = (np.diagonal(leaf, axis1=-2, axis2=-1) for leaf in leaves)
        else:
            whiteners, variances = (leaf.reshape(len(leaf), -1) for leaf in leaves)
        precisions = whiteners**2  # of a feature given those before it: infinite where singular
        share = (self.statistics.counts / moments.counts)[:, np.newaxis]
        subtracted = share * (moments.means - self.origin) ** 2
        return bool((subtracted * precisions < ILL_CONDITIONED).all() and (variances * precisions < _SINGULAR).all())

    def moments_by_row(self) -> Moments:
        """The same from scikit-learn's (N, K) responsibilities, and its sums of squared differences."""
        return assigned_moments(self.rows, np.exp(self._log_resp()) * self._row_weights(), self.at)

    def entropy(self) -> float:
        """-sum_nk w_n r_nk log r_nk: log p(x_n) less the expected log p(x_n, k), of which only sums are needed."""
        if self.ill_conditioned:  # too large a difference of sums
            log_resp = self._log_resp()
            return -float((self._row_weights() * np.exp(log_resp) * log_resp).sum())
        counts, scatter, whiteners = self.statistics.counts, self.statistics.scatter, self.whiteners
        dense = self.family.structure.dense
        squares = whiteners * (scatter @ whiteners) if dense else whiteners**2 * scatter
        return float(self.statistics.log_likelihood - counts @ self.constants + squares.sum() / 2)

    def _log_resp(self) -> np.ndarray:
        return self.at._estimate_log_prob_resp(self.rows.x)[1]

    def _row_weights(self) -> np.ndarray | int:
        return 1 if self.rows.weight is None else self.rows.weight[:, np.newaxis]


def assigned_moments(rows: Rows, responsibilities: np.ndarray, estimator: BaseMixture) -> Moments:
    """Moments for given (N, K) responsibilities, weights of rows included, by scikit-learn's sums."""
    x, reg_covar, covariance_type = rows.x, estimator.reg_covar, estimator.covariance_type
    if covariance_type == "full" or (covariance_type == "tied" and rows.weight is not None):
        counts = responsibilities.sum(axis=0) + 10 * np.finfo(responsibilities.dtype).eps
        means = (responsibilities.T @ x) / counts[:, np.newaxis]
        covariances = _full if covariance_type == "full" else _weighted_tied
        return Moments(counts, means, covariances(rows, responsibilities, counts, means, reg_covar))
    return Moments(*_estimate_gaussian_parameters(x, responsibilities, reg_covar, covariance_type))


def _full(rows: Rows, responsibilities: np.ndarray, counts: np.ndarray, means: np.ndarray, reg_covar: float) -> np.ndarray:
    """As scikit-learn's, of the rows that a component has a part of only: after k-means, K times fewer."""
    n_features = means.shape[1]
    covariances = np.empty((len(means), n_features, n_features), rows.x.dtype)
    for k, mean in enumerate(means):
        (own,) = np.nonzero(responsibilities[:, k])
        difference = rows.x[own] - mean
        covariances[k] = (responsibilities[own, k] * difference.T) @ difference / counts[k]
    covariances[:, range(n_features), range(n_features)] += reg_covar
    return covariances


def _weighted_tied(
    rows: Rows, responsibilities: np.ndarray, counts: np.ndarray, means: np.ndarray, reg_covar: float
) -> np.ndarray:
    """As scikit-learn's, which takes all rows once, whatever the responsibilities."""
    assert rows.weight is not None
    scatter = (rows.x.T * rows.weight) @ rows.x - (counts * means.T) @ means
    return (scatter / counts.sum() + reg_covar * np.eye(len(scatter))).astype(rows.x.dtype)


def _log_joint_at_means(estimator: BaseMixture, dtype: np.dtype) -> np.ndarray:
    """(K,), the log joint of a row at each component's mean, by scikit-learn's own formula: that at zero of means at zero."""
    centred = copy.copy(estimator)
    centred.means_ = np.zeros_like(estimator.means_)
    return centred._estimate_weighted_log_prob(np.zeros((1, estimator.means_.shape[1]), dtype))[0]
