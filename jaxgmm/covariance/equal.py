"""Variances that all components share: EII and EEI, named as in mclust."""

import jax.numpy as jnp

from jaxgmm.covariance.diag import Diag, inverse_gamma, inverse_gamma_normaliser
from jaxgmm.covariance.spherical import Spherical


class EII(Spherical):
    """Sigma_k = sigma2 I for all k, kept once for each. Prior: sigma2 ~ InverseGamma(nu0 / 2, psi0 / 2), once."""

    name = mclust = "EII"

    def n_covariance_parameters(self, n_components, n_features):
        return 1

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return degrees_of_freedom / 2

    def refit(self, scatter, counts, current, n_features, active, prior):
        scatter, rows = scatter.sum(), n_features * counts.sum()
        if prior is None:
            return jnp.full(counts.shape, scatter / rows)
        # Each active component's mean has sigma2 in its prior, for every feature.
        rows = prior.degrees_of_freedom + 2 + rows + n_features * active.sum()
        return jnp.full(counts.shape, (prior.scale + scatter) / rows)

    def log_prior(self, factor, n_features, active, prior):
        first = jnp.argmax(active)
        apart, linear = inverse_gamma(factor, prior.degrees_of_freedom, prior.scale)
        return apart[first, 0], linear[first, 0]

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return inverse_gamma_normaliser(degrees_of_freedom, scale, xp, gammaln)


class EEI(Diag):
    """sigma2_kd = sigma2_d for all k, kept once for each. Prior: sigma2_d ~ InverseGamma(nu0 / 2, Psi0_d / 2), once."""

    name = mclust = "EEI"

    def n_covariance_parameters(self, n_components, n_features):
        return n_features

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return degrees_of_freedom * n_features / 2

    def refit(self, scatter, counts, current, n_features, active, prior):
        total, rows = scatter.sum(0), counts.sum()
        if prior is None:
            return jnp.broadcast_to(total / rows, scatter.shape)
        rows = prior.degrees_of_freedom + 2 + rows + active.sum()
        return jnp.broadcast_to((prior.scale + total) / rows, scatter.shape)

    def log_prior(self, factor, n_features, active, prior):
        first = jnp.argmax(active)
        apart, linear = inverse_gamma(factor, prior.degrees_of_freedom, prior.scale)
        return apart[first].sum(), linear[first].sum()

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return inverse_gamma_normaliser(degrees_of_freedom, scale, xp, gammaln).sum()
