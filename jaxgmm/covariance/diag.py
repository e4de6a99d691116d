"""`diag` (mclust VVI): every component its own variance for each feature, no correlations."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgmm.covariance.base import Family, column, per_component, positive
from jaxgmm.covariance.factor import Factor
from jaxgmm.covariance.variances import Diagonal
from jaxgmm.tools.types import Numbers


class Diag(Family):
    """sigma2_kd free. Prior: sigma2_kd ~ InverseGamma(nu0 / 2, Psi0_d / 2), independent."""

    name, mclust, structure = "diag", "VVI", Diagonal()
    general = "diag"

    def shape(self, n_components, n_features):
        return (n_components, n_features)

    def scale_shape(self, n_features):
        return (n_features,)

    def n_covariance_parameters(self, n_components, n_features):
        return n_components * n_features

    def dense(self, covariances, n_components, n_features):
        return jax.vmap(jnp.diag)(covariances)

    def from_dense(self, dense):
        return jnp.diagonal(dense, axis1=-2, axis2=-1)

    def prior_scale(self, covariance, n_components):
        return covariance / n_components ** (2 / covariance.shape[0])

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return n_active * degrees_of_freedom * n_features / 2

    def refit(self, scatter, counts, current, n_features, active, prior):
        if prior is None:
            return scatter / per_component(positive(counts), scatter)
        return (prior.scale + scatter) / per_component(prior.degrees_of_freedom + counts + 3, scatter)

    def log_prior(self, factor, n_features, active, prior):
        apart, linear = inverse_gamma(factor, column(prior.degrees_of_freedom), prior.scale)
        return jnp.where(active, apart.sum(-1), 0).sum(), jnp.where(active, linear.sum(-1), 0).sum()

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return n_active * inverse_gamma_normaliser(column(degrees_of_freedom), scale, xp, gammaln).sum(-1)

    def prior_distribution(self, prior, n_components):
        import numpyro.distributions as dist

        each = dist.InverseGamma(column(prior.degrees_of_freedom) / 2, jnp.asarray(prior.scale) / 2)
        return each.expand([n_components, prior.scale.shape[-1]]).to_event(2)


def inverse_gamma(factor: Factor, nu: Any, scale: Any) -> tuple[Array, Array]:
    """Log InverseGamma(sigma2 | nu0 / 2, Psi0 / 2) without its normaliser, elementwise, in the parts of `log_prior`."""
    return -(nu + 2) * jnp.log(factor.scale), scale / 2 * factor.whitener**2


def inverse_gamma_normaliser(nu: Numbers, scale: Numbers, xp: Any, gammaln: Any) -> Any:
    """nu/2 log(Psi0 / 2) - log Gamma(nu/2)."""
    return nu / 2 * xp.log(scale / 2) - gammaln(nu / 2)
