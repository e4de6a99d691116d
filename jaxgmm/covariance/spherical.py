"""`spherical` (mclust VII): every component one variance for all features."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgmm.covariance.base import Family, column, positive
from jaxgmm.covariance.diag import inverse_gamma, inverse_gamma_normaliser
from jaxgmm.covariance.variances import Isotropic


class Spherical(Family):
    """Sigma_k = sigma2_k I. Prior: sigma2_k ~ InverseGamma(nu0 / 2, psi0 / 2)."""

    name, mclust, structure = "spherical", "VII", Isotropic()
    general = "spherical"

    def shape(self, n_components, n_features):
        return (n_components,)

    def scale_shape(self, n_features):
        return ()

    def n_covariance_parameters(self, n_components, n_features):
        return n_components

    def dense(self, covariances, n_components, n_features):
        return jax.vmap(lambda variance: variance * jnp.eye(n_features, dtype=covariances.dtype))(covariances)

    def from_dense(self, dense):
        return jnp.diagonal(dense, axis1=-2, axis2=-1).mean(-1)

    def prior_scale(self, covariance, n_components):
        return np.mean(covariance) / n_components ** (2 / covariance.shape[0])

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return n_active * degrees_of_freedom / 2

    def refit(self, scatter, counts, current, n_features, active, prior):
        if prior is None:
            return scatter / (n_features * positive(counts))
        return (prior.scale + scatter) / (prior.degrees_of_freedom + 2 + n_features * (counts + 1))

    def log_prior(self, factor, n_features, active, prior):
        apart, linear = inverse_gamma(factor, column(prior.degrees_of_freedom), column(prior.scale))
        return jnp.where(active, apart[:, 0], 0).sum(), jnp.where(active, linear[:, 0], 0).sum()

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return n_active * inverse_gamma_normaliser(degrees_of_freedom, scale, xp, gammaln)

    def prior_distribution(self, prior, n_components):
        import numpyro.distributions as dist

        return dist.InverseGamma(prior.degrees_of_freedom / 2, prior.scale / 2).expand([n_components]).to_event(1)
