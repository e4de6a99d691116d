"""`full` (mclust VVV): every component its own covariance matrix."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgmm.covariance.base import Family, per_component, positive
from jaxgmm.covariance.factor import Factor
from jaxgmm.covariance.matrices import Dense
from jaxgmm.tools.types import Numbers


class Full(Family):
    """Sigma_k free. Prior: Sigma_k ~ InverseWishart(nu0, Psi0)."""

    name, mclust, structure = "full", "VVV", Dense()
    general = "full"

    def shape(self, n_components, n_features):
        return (n_components, n_features, n_features)

    def scale_shape(self, n_features):
        return (n_features, n_features)

    def n_covariance_parameters(self, n_components, n_features):
        return n_components * n_features * (n_features + 1) // 2

    def dense(self, covariances, n_components, n_features):
        return covariances

    def from_dense(self, dense):
        return dense

    def prior_scale(self, covariance, n_components):
        return covariance / n_components ** (2 / covariance.shape[0])

    def scale_power(self, degrees_of_freedom, n_features, n_active):
        return n_active * degrees_of_freedom * n_features / 2

    def refit(self, scatter, counts, current, n_features, active, prior):
        if prior is None:
            return scatter / per_component(positive(counts), scatter)
        # Mode over (mu, Sigma) together: the mean's own |Sigma|^-1/2 adds the last 1 (BDA3 3.6, with the mode for the mean).
        return (prior.scale + scatter) / per_component(prior.degrees_of_freedom + counts + n_features + 2, scatter)

    def log_prior(self, factor, n_features, active, prior):
        apart, linear = inverse_wishart(factor, n_features, prior)
        return jnp.where(active, apart, 0).sum(), jnp.where(active, linear, 0).sum()

    def log_normaliser(self, degrees_of_freedom, scale, n_features, n_active, xp, gammaln):
        return n_active * inverse_wishart_normaliser(degrees_of_freedom, scale, n_features, xp, gammaln)

    def prior_distribution(self, prior, n_components):
        import numpyro.distributions as dist

        each = dist.InverseWishart(prior.degrees_of_freedom, scale_matrix=jnp.asarray(prior.scale))
        return each.expand([n_components]).to_event(1)


def inverse_wishart(factor: Factor, n_features: int, prior) -> tuple[Array, Array]:
    """Log InverseWishart(Sigma | nu0, Psi0) without its normaliser, with leading axes as they come, in parts as `log_prior`."""
    trace = jnp.einsum("...ia,...ij,...ja->...", factor.whitener, prior.scale, factor.whitener)
    return -(prior.degrees_of_freedom + n_features + 1) * factor.half_log_det, trace / 2


def inverse_wishart_normaliser(nu: Numbers, scale: Numbers, n_features: int, xp: Any, gammaln: Any) -> Any:
    """nu/2 log|Psi0| - nu D/2 log 2 - log Gamma_D(nu/2)."""
    multigammaln = n_features * (n_features - 1) / 4 * np.log(np.pi) + sum(gammaln((nu - j) / 2) for j in range(n_features))
    return nu / 2 * xp.linalg.slogdet(scale)[1] - nu * n_features / 2 * np.log(2) - multigammaln
