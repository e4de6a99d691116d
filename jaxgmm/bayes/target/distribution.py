"""A `GMM` as a NumPyro distribution of rows: `Mixture`, of our own algebra, and `distribution`, of NumPyro's parts."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, PyTree
from numpyro.distributions import constraints

from jaxgmm.model import coercion
from jaxgmm.model.algebra import dense, draw_rows
from jaxgmm.model.density import log_joint, log_weights
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import precision
from jaxgmm.tools.validation import check_single


class Mixture(dist.Distribution):
    """The density sum_k weights_k Normal(means_k, covariances_k) of one row, for NumPyro.

    A plain `MixtureSameFamily(Categorical, MultivariateNormal)` solves a triangular system for every row and component;
    this one whitens all rows by one matrix product. A component of weight 0 takes no rows and gets no gradient.

    Args:
        gmm: one mixture of D features (traced or not).

    Raises:
        ValueError: a GMM with leading axes: `jax.vmap` over them.

    Example:
        >>> import jaxgmm as jg
        >>> from jaxgmm.bayes.target.distribution import Mixture
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> Mixture(gmm).log_prob([[0.0], [4.0]]).shape
        (2,)
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 - NumPyro's own way
    support = constraints.real_vector
    pytree_data_fields = ("gmm",)

    def __init__(self, gmm: GMM, *, validate_args: bool | None = None) -> None:
        check_single(gmm.weights, "Mixture(g).log_prob(x)")
        self.gmm = gmm
        super().__init__(batch_shape=(), event_shape=(gmm.n_features,), validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Float[Array, "*sample_shape D"]:
        """Rows of the mixture."""
        rows, _ = draw_rows(self.gmm, key, math.prod(sample_shape))
        return rows.reshape(*sample_shape, self.gmm.n_features)

    def log_prob(self, value: Float[Array, "*batch D"], intermediates: None = None) -> Float[Array, "*batch"]:
        """Log density of each row, in nats."""
        value = jax.numpy.asarray(value)
        rows = value.reshape(-1, self.gmm.n_features)
        return logsumexp(log_joint(self.gmm.components(), rows), axis=-1).reshape(value.shape[:-1])

    @property
    def mean(self) -> Float[Array, " D"]:
        """Mean of the mixture."""
        return self.gmm.mean()

    @property
    def variance(self) -> Float[Array, " D"]:
        """Variances of the features."""
        return jax.numpy.diagonal(self.gmm.covariance())


def distribution(gmm: coercion.Mixture) -> dist.MixtureSameFamily:
    """The mixture as NumPyro's `MixtureSameFamily` of `MultivariateNormal`, whatever its family.

    Works in NumPyro models, as the distribution of rows or as a prior of something else, and inside jit, vmap and grad. Its
    numbers are in JAX's precision. `numpyro_model` is the model in which the mixture itself is unknown.

    Args:
        gmm: one mixture, or what holds one, such as a Fit.

    Raises:
        TypeError: no mixture.
        ValueError: a mixture with leading axes: `jax.vmap` over them; a fit with noise, or of rows with errors.

    Example:
        >>> import jax, jaxgmm as jg
        >>> rows = jg.distribution(jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical"))
        >>> rows.sample(jax.random.key(0), (5,)).shape, rows.mean.tolist()
        ((5, 1), [2.0])
    """
    gmm = coercion.about_rows(gmm, "distribution")
    check_single(gmm.weights, "jg.distribution(g).log_prob(x)")
    logits, scale_tril = precision.derive(_parts, gmm)
    shares = dist.Categorical(logits=logits, validate_args=False)  # those of idle components are -inf
    return dist.MixtureSameFamily(shares, dist.MultivariateNormal(jnp.asarray(gmm.means), scale_tril=jnp.asarray(scale_tril)))


def _parts(gmm: PyTree) -> tuple[Float[Array, " K"], Float[Array, "K D D"]]:
    """Log weights, and Cholesky factors of the covariances, in the components' own sds."""
    sigma = dense(gmm)
    sd = jnp.sqrt(jnp.diagonal(sigma, axis1=-2, axis2=-1))
    return log_weights(gmm.weights), sd[..., None] * jnp.linalg.cholesky(sigma / sd[:, :, None] / sd[:, None, :])
