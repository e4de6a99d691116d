"""What both estimators share: fits with weights, the E-step's hook into scikit-learn's loop, and converters."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Self

import jax
import numpy as np
from jax.typing import ArrayLike
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.mixture._base import BaseMixture
from sklearn.utils import _safe_indexing
from sklearn.utils._array_api import get_namespace
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jaxgmm.covariance import FAMILIES
from jaxgmm.model.mixture import GMM
from jaxgmm.sklearn.expectation import Expectation, Moments, assigned_moments
from jaxgmm.sklearn.parallel import single_threaded_blas
from jaxgmm.sklearn.rows import Rows
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.forks import forked, needs_jax
from jaxgmm.tools.types import Numbers, on_host
from jaxgmm.tools.validation import in_jit

_BY_MCLUST = {family.mclust: name for name, family in FAMILIES.items() if not family.restricted}


class NoLabels:
    """What scikit-learn's loop takes labels from at its end. `fit` needs none, and `fit_predict` makes its own."""

    def argmax(self, axis: int, out: None = None) -> None:
        """None."""


class CompiledMixture:
    """Mixin before one of scikit-learn's mixtures, whose `fit_predict` stays the one loop."""

    _rows: Rows | None = None  # that `_check_parameters` was given; None while scikit-learn's own E-step is used
    _sample_weight: np.ndarray | None = None
    _finished: bool | None = None  # whether the loop of `fit` has ended; None outside of `fit`

    # What scikit-learn's class before us in a subclass's bases has, and what the subclass adds.
    _sklearn: type
    _initialize: Callable[..., None]
    _update: Callable[[Moments], None]
    _estimate_weighted_log_prob: Callable[..., np.ndarray]
    n_components: int
    init_params: str
    covariance_type: str
    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray

    def __setattr__(self, name: str, value: object) -> None:
        """A `covariance_type` by mclust's name (VVV, EEE, VVI or VII) is set as scikit-learn's."""
        if name == "covariance_type" and isinstance(value, str):
            value = _BY_MCLUST.get(value, value)
        super().__setattr__(name, value)

    def fit(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> Self:
        """Estimate the parameters, as scikit-learn's `fit`.

        Args:
            X: (n_samples, n_features).
            y: ignored.
            sample_weight: (n_samples,), non-negative, default 1: 2 is a row twice, 0 no row, whatever its values. KMeans
                and k-means++ starts respect it; rows drawn by them or by "random_from_data" differ from those of a fit to
                repeated rows.

        Returns:
            self
        """
        self._fit(X, sample_weight)
        return self

    def fit_predict(self, X: ArrayLike, y: None = None, sample_weight: ArrayLike | None = None) -> np.ndarray:
        """`fit`, then the most probable component of each row.

        Arguments as `fit`. Rows of weight 0 take no part in the fit, but are labelled, so they have to be finite.
        """
        self._fit(X, sample_weight)
        xp, _ = get_namespace(X)
        X = validate_data(self, X, dtype=[xp.float64, xp.float32], reset=False)
        return xp.argmax(self._estimate_weighted_log_prob(X, xp=xp), axis=1)

    def _fit(self, X: ArrayLike, sample_weight: ArrayLike | None) -> None:
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            present = np.flatnonzero(weight)
            if len(present) < len(weight):
                X, weight = _safe_indexing(X, present), weight[present]
            self._sample_weight = self._scaled(weight)
        self._finished = False
        try:
            # K matrices of D x D are too small for BLAS's threads: where cores are busy, waiting for them takes milliseconds.
            # Within a function that JAX traces, rows are numbers all the same. Elsewhere it would trace constants one by one.
            with single_threaded_blas(), jax.ensure_compile_time_eval() if not forked() and in_jit() else nullcontext():
                super().fit_predict(X)  # type: ignore[misc]
        finally:
            for name in ("_sample_weight", "_rows", "_finished"):
                self.__dict__.pop(name, None)

    def _scaled(self, sample_weight: np.ndarray) -> np.ndarray:
        """Positive weights as the fit takes them: how often each row counts."""
        return sample_weight

    def _compiled(self, X: Numbers) -> Rows | None:
        """The rows on the device, if they are X: of any other rows sums are scikit-learn's."""
        return self._rows if self._rows is not None and X is self._rows.x else None

    # The hooks of scikit-learn's loop, in the order in which it calls them

    def _check_parameters(self, X: Numbers, xp: ModuleType | None = None) -> None:
        super()._check_parameters(X, xp=xp)  # type: ignore[misc]
        self._rows = Rows(X, self._sample_weight) if isinstance(X, np.ndarray) and not forked() else None
        if self._rows is None and self._sample_weight is not None:
            raise not_compiled("sample_weight", X)

    def _initialize_parameters(self, X: np.ndarray, random_state: np.random.RandomState, xp: ModuleType | None = None) -> None:
        given = (getattr(self, name, None) for name in ("weights_init", "means_init", "precisions_init"))
        if self._sample_weight is None or all(value is not None for value in given):
            super()._initialize_parameters(X, random_state, xp=xp)  # type: ignore[misc]
        else:
            self._initialize(X, self._weighted_start(X, self._sample_weight, random_state))

    def _weighted_start(self, X: np.ndarray, weight: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
        """Weighted responsibilities; those that stand for one row only ("random_from_data", "k-means++") have no weights."""
        n_samples, n_components = len(X), self.n_components
        start, components = np.zeros((n_samples, n_components), X.dtype), np.arange(n_components)
        match self.init_params:
            case "kmeans":
                kmeans = KMeans(n_clusters=n_components, n_init=1, random_state=random_state)
                start[np.arange(n_samples), kmeans.fit(X, sample_weight=weight).labels_] = weight
            case "random":
                start[:] = random_state.uniform(size=start.shape)
                start *= (weight / start.sum(axis=1))[:, np.newaxis]
            case "random_from_data":
                rows = random_state.choice(n_samples, size=n_components, replace=False, p=weight / weight.sum())
                start[rows, components] = 1
            case "k-means++":
                _, rows = kmeans_plusplus(X, n_components, sample_weight=weight, random_state=random_state)
                start[rows, components] = 1
            case unknown:
                raise UserError(f"init_params must be one of kmeans, k-means++, random, random_from_data; got {unknown!r}.")
        return start

    def _e_step(self, X: Numbers, xp: ModuleType | None = None) -> "tuple[float, np.ndarray | Expectation | NoLabels]":
        if (rows := self._compiled(X)) is None:
            return super()._e_step(X, xp=xp)  # type: ignore[misc]
        if self._finished:
            return np.nan, NoLabels()
        expectation = Expectation(rows, copy.copy(self))
        return expectation.log_prob_norm, expectation

    def _m_step(self, X: Numbers, log_resp: np.ndarray | Expectation, xp: ModuleType | None = None) -> None:
        if not isinstance(log_resp, Expectation):
            if (rows := self._compiled(X)) is None:
                super()._m_step(X, log_resp, xp=xp)  # type: ignore[misc]
            else:
                self._update(assigned_moments(rows, np.exp(log_resp), self))
            return
        try:
            moments = log_resp.moments()
            self._update(moments)
            precise_enough = log_resp.precise_enough(moments, self)
        except ValueError:  # singular
            precise_enough = False
        if not precise_enough:
            # A component on one repeated row, say: what is left of its sums is noise, and whether its covariance counts as
            # singular would depend on the sign. Sums of squared differences have none.
            self._update(log_resp.moments_by_row())

    def _set_parameters(self, params: tuple[np.ndarray, ...], xp: ModuleType | None = None) -> None:
        super()._set_parameters(params, xp=xp)  # type: ignore[misc]
        if self._finished is not None:
            self._finished = True

    # Other forms of the same mixture

    @property
    def gmm_(self) -> GMM:
        """The fitted mixture as a `jaxgmm.GMM`: of the variational posterior's expected weights, if Bayesian."""
        check_is_fitted(self)
        weights, means, covariances = map(on_host, (self.weights_, self.means_, self.covariances_))
        return GMM(weights, means, covariances, self.covariance_type, getattr(self, "feature_names_in_", None))

    def _as_gmm(self) -> GMM:
        return self.gmm_

    def to_sklearn(self) -> BaseMixture:
        """The same estimator, fitted or not, as scikit-learn's own class."""
        theirs, own = self._sklearn(), ("_rows", "_metadata_request")  # who has no sample_weight routes none
        theirs.__dict__.update(copy.deepcopy({name: value for name, value in self.__dict__.items() if name not in own}))
        return theirs

    @classmethod
    def from_sklearn(cls, estimator: BaseMixture) -> Self:
        """An estimator of scikit-learn's own class, fitted or not, as one of ours.

        Raises:
            TypeError: an estimator of another class.
        """
        if not isinstance(estimator, cls._sklearn):
            raise UserTypeError(f"estimator must be a sklearn.mixture.{cls.__name__}, got {type(estimator).__name__}.")
        ours = cls.__new__(cls)  # the __init__ of a subclass may need arguments
        ours.__dict__.update(copy.deepcopy(estimator.__dict__))
        return ours


def not_compiled(what: str, x: Numbers) -> Exception:
    """Why what only the compiled E-step knows of can't be had."""
    if isinstance(x, np.ndarray):
        return needs_jax(what)
    return UserError(f"{what} is for NumPy rows, got {type(x).__name__}: pass NumPy rows, or no {what}.")
