"""The components' prior with a random scale summed out, for NumPyro: covariances, and means given covariances.

With s summed out covariances are no longer independent of each other, nor are the means given them: the sums are mixtures over
the grid of s, and the means' weights in it are what the covariances say of s. The product is `Prior.log_prob`'s density.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array, Float
from numpyro.util import is_prng_key

from jaxgmm.covariance import Factor, get_family
from jaxgmm.model import random_scale
from jaxgmm.model.prior import Prior
from jaxgmm.model.random_scale import Terms


class ScaledCovariances(dist.Distribution):
    """The covariances of all components, s summed out.

    Args:
        prior: with a random scale.
        n_components: K.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("prior",)
    pytree_aux_fields = ("n_components",)

    def __init__(self, prior: Prior, n_components: int) -> None:
        self.prior, self.n_components = prior, n_components
        shape = get_family(prior.family).shape(n_components, prior.mean.shape[-1])
        super().__init__(event_shape=shape)

    @property
    def support(self) -> Any:
        """That of the covariances given s."""
        return self._given(1).support

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """S, then the covariances given it."""
        assert is_prng_key(key)

        def one(key: Array) -> Array:
            key_scale, key_covariances = jax.random.split(key)
            log_s = jax.random.choice(key_scale, random_scale.log_grid(self.prior))
            return self._given(jnp.exp(log_s)).sample(key_covariances)

        return _repeated(one, key, sample_shape)

    def log_prob(self, value: Array) -> Array:
        """Log density with respect to the covariances, nats."""
        prior, n_features = self.prior, self.prior.mean.shape[-1]
        family = get_family(prior.family)
        without, terms = _terms(prior, family.factor(value, n_features), self.n_components)
        normaliser = family.log_normaliser(
            prior.degrees_of_freedom, prior.scale, n_features, self.n_components, jnp, gammaln
        )  # fmt: skip
        return without + random_scale.log_factor(prior, terms) + normaliser

    def _given(self, scale: Any) -> Any:
        return get_family(self.prior.family).prior_distribution(random_scale.given(self.prior, scale), self.n_components)


class ScaledMeans(dist.Distribution):
    """The means of all components given their covariances, s summed out.

    Args:
        prior: with a random scale.
        covariances: in the family's shape.
        n_components: K.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = dist.constraints.independent(dist.constraints.real, 2)
    pytree_data_fields = ("prior", "covariances")
    pytree_aux_fields = ("n_components",)

    def __init__(self, prior: Prior, covariances: Array, n_components: int) -> None:
        self.prior, self.covariances, self.n_components = prior, covariances, n_components
        super().__init__(event_shape=(n_components, prior.mean.shape[-1]))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """S given the covariances, then the means given both."""
        assert is_prng_key(key)
        factor = self._factor()
        _, terms = _terms(self.prior, factor, self.n_components)

        def one(key: Array) -> Array:
            key_scale, key_means = jax.random.split(key)
            scale = random_scale.draw(self.prior, terms, jax.random.uniform(key_scale))
            noise = jax.random.normal(key_means, self.event_shape) / jnp.sqrt(scale * self.prior.mean_precision)
            return self.prior.mean + get_family(self.prior.family).structure.apply(factor.scale, noise)

        return _repeated(one, key, sample_shape)

    def log_prob(self, value: Float[Array, "K D"]) -> Array:
        """Log density with respect to the means, nats."""
        prior, n_features, factor = self.prior, self.prior.mean.shape[-1], self._factor()
        norm = get_family(prior.family).structure.coefficients(value - prior.mean, factor)[2]
        half_log_det = jnp.broadcast_to(factor.half_log_det, (self.n_components,))
        _, before = _terms(prior, factor, self.n_components)
        after = Terms(
            before.power + self.n_components * n_features / 2, before.rate + prior.mean_precision * norm.sum() / 2
        )  # fmt: skip
        constant = self.n_components * n_features / 2 * jnp.log(prior.mean_precision / (2 * np.pi))
        gain = random_scale.log_factor(prior, after) - random_scale.log_factor(prior, before)
        return constant - half_log_det.sum() + gain

    def _factor(self) -> Factor:
        return get_family(self.prior.family).factor(self.covariances, self.prior.mean.shape[-1])


def _terms(prior: Prior, factor: Factor, n_components: int) -> tuple[Array, Terms]:
    """What of the covariances' log density doesn't depend on s, up to the normaliser, and what they alone say of s."""
    family, n_features, active = get_family(prior.family), prior.mean.shape[-1], jnp.ones(n_components, bool)
    apart, rate = family.log_prior(factor, n_features, active, prior)
    return apart, Terms(family.scale_power(prior.degrees_of_freedom, n_features, n_components), rate)


def _repeated(one: Callable[[Array], Array], key: Array, sample_shape: tuple[int, ...]) -> Array:
    """Draws of any number of axes."""
    keys = jax.random.split(key, int(np.prod(sample_shape)))
    drawn = jax.vmap(one)(keys)
    return drawn.reshape(*sample_shape, *drawn.shape[1:])
