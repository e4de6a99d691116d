"""What a covariance family owes to the rest of the library."""

import abc
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgmm.covariance.factor import Factor
from jaxgmm.covariance.structure import Structure
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers


class ScalePrior(Protocol):
    """What a family reads of a prior of its covariances; `jaxgmm.Prior` has it."""

    @property
    def degrees_of_freedom(self) -> Any:
        """nu0, (), or (K,) in families whose components are separate."""
        ...

    @property
    def scale(self) -> Any:
        """Psi0, of `scale_shape`, with an axis of components as nu0."""
        ...


class Family(abc.ABC):
    """A parametrisation of K covariances: stateless, one instance in the registry.

    EM, priors, initialisation and sampling know families through these methods only. All of them are for one mixture
    (no leading axes; `vmap` adds them), work on traced arrays, and treat inactive components (weight 0) through `active`.
    """

    name: str
    mclust: str
    structure: Structure
    general: ClassVar[
        str
    ]  # the family of all covariances kept in this shape (of factors: as matrices): its own name if nothing restricts them
    per_component: ClassVar[bool] = True  # covariances have an axis of components
    coarse: ClassVar[str | None] = None  # the family that starts are made in, and then `refined`; None: its own
    closed: ClassVar[bool] = True  # marginals and conditionals are of the family, too

    @abc.abstractmethod
    def shape(self, n_components: int, n_features: int) -> tuple[int, ...]:
        """Shape of `covariances`."""

    @abc.abstractmethod
    def scale_shape(self, n_features: int) -> tuple[int, ...]:
        """Shape of `Prior.scale`."""

    @abc.abstractmethod
    def n_covariance_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of the covariances alone."""

    @abc.abstractmethod
    def dense(self, covariances: Array, n_components: int, n_features: int) -> Float[Array, "K D D"]:
        """The covariances as K full matrices."""

    @abc.abstractmethod
    def from_dense(self, dense: Float[Array, "K D D"]) -> Array:
        """The family's covariances from K full matrices that lie in the family."""

    @abc.abstractmethod
    def prior_scale(self, covariance: np.ndarray, n_components: int) -> np.ndarray:
        """Psi0 of the default prior, from the sample covariance (D, D), or its diagonal (D,) if `scale_shape` has one axis."""

    @abc.abstractmethod
    def scale_power(self, degrees_of_freedom: Numbers, n_features: int, n_active: Numbers | int) -> Any:
        """How often s is a factor of the prior density of the active covariances if s multiplies Psi0: by which power of s the
        kernel in `log_prior` integrates to less.
        """

    @abc.abstractmethod
    def refit(
        self,
        scatter: Array,
        counts: Float[Array, " K"],
        current: Array,
        n_features: int,
        active: Bool[Array, " K"],
        prior: ScalePrior | None,
    ) -> Array:
        """M-step of the covariances: their mode given the scatter about the new means.

        A family without a closed form takes a step from `current` that climbs; the rest is EM's (a generalised EM step). One
        that restricts covariances also says what components have that take no part or have no rows.

        Args:
            scatter: by structure; with a prior it includes kappa0 (mu - m0)(mu - m0)'.
            counts: (K,), N_k.
            current: the covariances before.
            n_features: D.
            active: (K,), which components take part.
            prior: None for maximum likelihood.
        """

    @abc.abstractmethod
    def log_prior(
        self, factor: Factor, n_features: int, active: Bool[Array, " K"], prior: ScalePrior
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log density of the active covariances a priori, with respect to themselves, up to `log_normaliser`: what doesn't
        depend on Psi0, and, to be taken off, what is linear in it.
        """

    @abc.abstractmethod
    def log_normaliser(
        self, degrees_of_freedom: Numbers, scale: Numbers, n_features: int, n_active: Numbers | int, xp: Any, gammaln: Any
    ) -> Any:
        """What `log_prior` leaves out. `xp` is numpy or jax.numpy and `gammaln` goes with it: EM adds the constant on the host,
        since compiling a float64 log-gamma takes longer than most fits. Where components have numbers of their own, `n_active`
        is (K,), which of them are active, and so is the answer, of each.
        """

    def prior_distribution(self, prior: ScalePrior, n_components: int) -> Any:
        """The NumPyro distribution of the covariances, with the density of `log_prior`.

        Raises:
            ValueError: the family has none.
        """
        raise UserError(f"family {self.name!r} has no NumPyro prior: use {self.general!r}.")

    def n_parameters(self, n_components: int, n_features: int) -> int:
        """Free parameters of a mixture of this family: weights, means and covariances."""
        return n_components - 1 + n_components * n_features + self.n_covariance_parameters(n_components, n_features)

    @property
    def restricted(self) -> bool:
        """Whether not all covariances of its shape will do."""
        return self.name != self.general

    @property
    def separate(self) -> bool:
        """Whether a component's covariance has nothing in common with the others': each can be fitted by itself."""
        return self.per_component and (not self.restricted or self.structure.rank > 0)

    def nearest(self, covariances: Array, weights: Float[Array, " K"], n_features: int) -> Array:
        """The covariances that an M-step has for so many rows with these: themselves, if they are of the family."""
        if not self.restricted:
            return covariances
        scatter = per_component(weights, covariances) * covariances * (n_features if self.structure.isotropic else 1)
        return self.refit(scatter, weights, covariances, n_features, weights > 0, None)

    def refined(self, covariances: Array) -> Array:
        """Covariances to start from, of those of the family `coarse`."""
        return covariances

    def factor(self, covariances: Array, n_features: int) -> Factor:
        """The covariances taken apart (Cholesky)."""
        return self.structure.factor(covariances, n_features)

    def __repr__(self) -> str:
        return f"<covariance family {self.name!r}, mclust {self.mclust}>"


def per_component(values: Float[Array, " K"], like: Array) -> Array:
    """(K,) values with axes of length one, to broadcast against (K, ...)."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def column(values: Float[Array, "*K"]) -> Float[Array, "..."]:
    """One number for all components as it is, (K,) of them as (K, 1)."""
    return values if jnp.ndim(values) == 0 else values[:, None]


def positive(counts: Array) -> Array:
    """Counts that can be divided by; an empty component keeps its old covariance, so any value does for it."""
    return jnp.where(counts > 0, counts, 1)
