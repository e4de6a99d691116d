"""`tied` (mclust EEE): one covariance matrix for all components."""

import jax.numpy as jnp

from jaxgmm.covariance.base import Family
from jaxgmm.covariance.full import inverse_wishart, inverse_wishart_normaliser
from jaxgmm.covariance.matrices import Pooled


class Tied(Family):
    """One Sigma. Prior: Sigma ~ InverseWishart(nu0, Psi0), once."""

    name, mclust, structure, per_component = "tied", "EEE", Pooled(), False
    general = "tied"

    def shape(self, n_components, n_features):
        return (n_features, n_features)

    def scale_shape(self, n_features):
        return (n_features, n_features)

    def n_covariance_parameters(self, n_components, n_features):
        return n_features * (n_features + 1) // 2

    def dense(self, covariances, n_components, n_features):
        return jnp.broadcast_to(covariances, (n_components, n_features, n_features))

    def from_dense(self, dense):
        return dense[0]

    def prior_scale(self, covariance, n_components):
        return covariance / n_components ** (2 / covariance.shape[0])

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return degrees_of_freedom * n_features / 2

    def refit(self, scatter, counts, current, n_features, active, prior):
        if prior is None:
            return scatter / counts.sum()
        # Each active component's mean has Sigma in its prior, hence the count of components.
        return (prior.scale + scatter) / (prior.degrees_of_freedom + counts.sum() + active.sum() + n_features + 1)

    def log_prior(self, factor, n_features, active, prior):
        return inverse_wishart(factor, n_features, prior)

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return inverse_wishart_normaliser(degrees_of_freedom, scale, n_features, xp, gammaln)

    def prior_distribution(self, prior, n_components):
        import numpyro.distributions as dist

        return dist.InverseWishart(prior.degrees_of_freedom, scale_matrix=jnp.asarray(prior.scale))
