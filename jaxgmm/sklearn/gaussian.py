"""`GaussianMixture`: scikit-learn's EM, and MAP-EM with a prior."""

from types import ModuleType
from typing import Any, Self

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from sklearn import mixture
from sklearn.mixture._gaussian_mixture import _compute_precision_cholesky, _compute_precision_cholesky_from_precisions
from sklearn.utils._array_api import get_namespace
from sklearn.utils._param_validation import StrOptions

from jaxgmm.covariance import get_family
from jaxgmm.data.moments import column_moments
from jaxgmm.data.padding import pad_rows
from jaxgmm.fitting.priors import check_alike, resolve_prior
from jaxgmm.fitting.starts import assigned_start
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, given_mixture
from jaxgmm.model.steps import m_step
from jaxgmm.sklearn.estimator import CompiledMixture, NoLabels, not_compiled
from jaxgmm.sklearn.expectation import Expectation, Moments, assigned_moments
from jaxgmm.sklearn.parallel import float64
from jaxgmm.sklearn.rows import Rows
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers

_DEFAULT_REG_COVAR = 1e-6


class GaussianMixture(CompiledMixture, mixture.GaussianMixture):
    """scikit-learn's `GaussianMixture`, with its sums over rows compiled.

    Parameters, starts, M-step, stopping rule, attributes, warnings and errors are scikit-learn's own code: from the same
    `random_state` it takes the same steps to the same mixture. Rows are summed in float64, about their mean, so EM keeps its
    digits on float32 data and on data far from zero, where scikit-learn loses them; starts and `predict` are scikit-learn's.

    Beyond scikit-learn: `prior`; `fit(X, sample_weight=...)`; mclust's names for `covariance_type` ("VVV", "EEE", "VVI",
    "VII"), kept as scikit-learn's; `from_gmm`, `to_sklearn`, `from_sklearn`.

    Args:
        n_components: to `verbose_interval`, as in scikit-learn.
        prior: None for maximum likelihood; "default" (`jaxgmm.Prior.default`) or a `jaxgmm.Prior` for the maximum a posteriori
            mixture. `lower_bound_` then is (log-likelihood + log prior density) / total weight, and the prior, not
            `reg_covar`, keeps covariances from going singular: `reg_covar` has to be 0 or left at its default, and isn't used.

    Attributes:
        gmm_: the fitted mixture, a `jaxgmm.GMM`.
        prior_: the `jaxgmm.Prior` of the fit, or None. The others are scikit-learn's.

    Raises:
        ValueError: from `fit`; what scikit-learn refuses, and a prior that doesn't fit, or comes with a `reg_covar`.

    Example:
        >>> from jaxgmm.datasets import load_faithful
        >>> from jaxgmm.sklearn import GaussianMixture
        >>> mixture = GaussianMixture(n_components=2, random_state=0, prior="default").fit(load_faithful().x)
        >>> sorted(mixture.weights_.round(2).tolist())
        [0.36, 0.64]

    Source:
        scikit-learn 1.9, `sklearn.mixture`; the prior: Fraley & Raftery (2007).
    """

    prior: Prior | str | None = None  # of estimators that `from_sklearn` makes
    prior_: Prior | None = None

    _sklearn = mixture.GaussianMixture
    _parameter_constraints = {  # noqa: RUF012 (as scikit-learn declares it)
        **mixture.GaussianMixture._parameter_constraints,
        "prior": [None, StrOptions({"default"}), Prior],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = _DEFAULT_REG_COVAR,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: ArrayLike | None = None,
        means_init: ArrayLike | None = None,
        precisions_init: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        prior: Prior | str | None = None,
    ):
        super().__init__(
            n_components,
            covariance_type=covariance_type,
            tol=tol,
            reg_covar=reg_covar,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            weights_init=weights_init,
            means_init=means_init,
            precisions_init=precisions_init,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
        )
        self.prior = prior

    @classmethod
    def from_gmm(cls, gmm: Mixture, **parameters: Any) -> Self:
        """A mixture as an estimator that predicts, scores and samples, and that `warm_start=True` goes on from.

        Args:
            gmm: one mixture, or a Fit.
            **parameters: of the estimator, but for `n_components` and `covariance_type`, which the mixture has. A family that
                scikit-learn lacks becomes the one that has all covariances of its shape: "VEV" "full". The mixture is the same;
                what a fit goes on to, and the number of parameters in `bic`, are those of that one.

        Raises:
            ValueError: a mixture with leading axes.

        Example:
            >>> import jaxgmm as jg
            >>> from jaxgmm.sklearn import GaussianMixture
            >>> GaussianMixture.from_gmm(jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")).predict([[3.0]])
            array([1])
        """
        gmm = as_gmm(gmm)
        if np.ndim(gmm.weights) != 1:
            raise UserError(f"gmm has leading axes {np.shape(gmm.weights)[:-1]}; one mixture is needed.")
        kind = get_family(gmm.family)
        if kind.structure.rank:
            gmm = GMM.unchecked(gmm.weights, gmm.means, gmm.dense_covariances(), kind.general, gmm.feature_names)
        covariance_type = kind.general
        ours = cls(gmm.n_components, covariance_type=covariance_type, **parameters)
        weights, means, covariances = (np.array(leaf) for leaf in (gmm.weights, gmm.means, gmm.covariances))
        ours._set_parameters((weights, means, covariances, _compute_precision_cholesky(covariances, covariance_type)))
        ours.n_features_in_ = gmm.n_features
        # As scikit-learn's fit leaves them with max_iter=0.
        ours.converged_, ours.n_iter_, ours.lower_bound_, ours.lower_bounds_, ours.prior_ = False, 0, -np.inf, [], None
        return ours

    def to_sklearn(self) -> mixture.GaussianMixture:
        """The same estimator, fitted or not, as scikit-learn's own class, which has no prior: a refit would have none."""
        theirs = super().to_sklearn()
        for name in ("prior", "prior_"):
            theirs.__dict__.pop(name, None)
        return theirs

    def _check_parameters(self, X: Numbers, xp: ModuleType | None = None) -> None:
        super()._check_parameters(X, xp=xp)
        self.prior_ = None if self.prior is None else self._resolve_prior(X)

    def _resolve_prior(self, X: Numbers) -> Prior | None:
        if (rows := self._rows) is None:
            raise not_compiled("prior", X)
        if self.reg_covar not in (0, _DEFAULT_REG_COVAR):
            raise UserError(
                f"reg_covar is {self.reg_covar!r}, but with a prior it isn't used: the prior keeps covariances from going "
                "singular. Leave reg_covar out, or raise prior.scale."
            )
        with float64():
            dense, dtype = self.covariance_type in ("full", "tied"), np.dtype(np.float64)
            moments = column_moments(rows.data.x, rows.data.weight, dense, dtype)
            prior = resolve_prior(self.prior, moments, self.n_components, self.covariance_type)
            check_alike(prior, "GaussianMixture", "jaxgmm.fit(...)")
            return prior

    def _scaled(self, sample_weight: np.ndarray) -> np.ndarray:
        """Weights of mean 1, if only their ratios matter: scikit-learn adds 10 eps to their sums."""
        if self.prior is not None:
            return sample_weight
        ratios = sample_weight / sample_weight.max()  # whose sum can't overflow
        return ratios / ratios.mean()

    def _initialize(self, X: np.ndarray, resp: np.ndarray | None, xp: ModuleType | None = None) -> None:
        rows = self._compiled(X)
        if rows is None or (resp is None and self.prior_ is None):
            super()._initialize(X, resp, xp=xp)
            return
        covariances = None
        if resp is not None:
            self.weights_, self.means_, covariances = self._start(rows, resp)
        if self.weights_init is not None:
            self.weights_ = self.weights_init
        if self.means_init is not None:
            self.means_ = self.means_init
        if self.precisions_init is None:
            assert covariances is not None  # who gives all three needs no responsibilities
            self.covariances_ = covariances
            self.precisions_cholesky_ = _compute_precision_cholesky(covariances, self.covariance_type)
            return
        self.precisions_cholesky_ = _compute_precision_cholesky_from_precisions(
            self.precisions_init, self.covariance_type, xp=get_namespace(X)[0]
        )
        if self.prior_ is not None:  # its density is one of covariances; scikit-learn has none before the first M-step
            invert = np.linalg.inv if self.covariance_type in ("full", "tied") else np.reciprocal
            self.covariances_ = invert(self.precisions_init)

    def _start(self, rows: Rows, resp: np.ndarray) -> Moments:
        """Weights, means and covariances for given weighted responsibilities."""
        if self.prior_ is None:
            start = assigned_moments(rows, resp, self)
            return start._replace(counts=start.counts / rows.total_weight)
        return self._assigned(rows, resp, self.prior_)

    def _assigned(self, rows: Rows, resp: np.ndarray, prior: Prior) -> Moments:
        """The M-step of given weighted responsibilities."""
        with float64():
            x, prior = rows.data.x, precision.cast(prior, np.dtype(np.float64))
            weight = pad_rows(np.ones(len(resp)), len(x))
            gmm = assigned_start(x, weight, pad_rows(resp, len(x)), rows.mean, self.n_components, self.covariance_type, prior)
            return Moments(*(np.array(leaf, rows.x.dtype) for leaf in (gmm.weights, gmm.means, gmm.covariances)))

    def _e_step(self, X: Numbers, xp: ModuleType | None = None) -> tuple[float, np.ndarray | Expectation | NoLabels]:
        log_prob_norm, log_resp = super()._e_step(X, xp=xp)
        if self.prior_ is not None and isinstance(log_resp, Expectation):
            with float64():
                log_prior = float(self.prior_.log_prob(_wide_gmm(self)))
            log_prob_norm += X.dtype.type(log_prior / log_resp.rows.total_weight)
        return log_prob_norm, log_resp

    def _m_step(self, X: Numbers, log_resp: np.ndarray | Expectation, xp: ModuleType | None = None) -> None:
        if self.prior_ is None:
            super()._m_step(X, log_resp, xp=xp)
            return
        if isinstance(log_resp, Expectation):
            with float64():
                gmm = m_step(log_resp.statistics, _wide_gmm(self), self.prior_)
                leaves = Moments(*(np.array(leaf, X.dtype) for leaf in (gmm.weights, gmm.means, gmm.covariances)))
        else:
            with float64():
                gmm = _wide_gmm(self)
                prior = given_mixture(precision.cast(self.prior_, np.dtype(np.float64)), gmm, jnp.ones(self.n_components, bool))
            leaves = self._assigned(Rows(np.asarray(X), None), np.exp(log_resp), prior)
        self.weights_, self.means_, self.covariances_ = leaves
        self.precisions_cholesky_ = _compute_precision_cholesky(self.covariances_, self.covariance_type)

    def _update(self, moments: Moments) -> None:
        counts, self.means_, self.covariances_ = moments
        self.weights_ = counts / counts.sum()
        self.precisions_cholesky_ = _compute_precision_cholesky(self.covariances_, self.covariance_type)


def _wide_gmm(estimator: GaussianMixture) -> GMM:
    leaves = estimator.weights_, estimator.means_, estimator.covariances_
    weights, means, covariances = (np.asarray(leaf, float) for leaf in leaves)
    return GMM.unchecked(weights, means, covariances, estimator.covariance_type)
