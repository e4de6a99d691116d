"""The random scale s of a prior: one number for all components that multiplies Psi0 and kappa0, and is summed out.

Given s, Sigma_k ~ InverseWishart(nu0, s Psi0) and mu_k | Sigma_k ~ Normal(m0, Sigma_k / (s kappa0)): as s falls, covariances
shrink and the means stay where they are. Of a mixture's density only s^power exp(-rate s) depends on it, rate being the sum of
tr(Psi0 Sigma_k^-1) / 2 and kappa0 |mu_k - m0|^2 / 2 in units of Sigma_k. So a Gamma prior would do; but copies of a row make
any density that reaches s = 0 infinite. Hence log s is uniform on a grid from log least_scale to 0, over which sums are exact,
and every method has the same density. (Richardson & Green 1997 put a Gamma prior on the scale of 1-D variances.)
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxgmm.tools.pytree import unchecked

N_STEPS = 512  # of the grid


class ScaledPrior(Protocol):
    """What is read here of a prior; `jaxgmm.Prior` has it."""

    @property
    def least_scale(self) -> Any:
        """(), None where the scale is fixed."""
        ...

    @property
    def scale(self) -> Any:
        """Psi0."""
        ...

    @property
    def mean_precision(self) -> Any:
        """kappa0, ()."""
        ...


class Terms(NamedTuple):
    """What a mixture says of s: s^power exp(-rate s)."""

    power: Float[Array, ""]
    rate: Float[Array, ""]


def log_grid(prior: ScaledPrior) -> Float[Array, " S"]:
    """The values that log s can take, all as probable a priori."""
    assert prior.least_scale is not None
    return jnp.log(prior.least_scale) * np.linspace(1, 0, N_STEPS)


def logits(prior: ScaledPrior, terms: Terms) -> Float[Array, " S"]:
    """Log probability of each value given the terms, up to a constant."""
    log_s = log_grid(prior)
    return terms.power * log_s - terms.rate * jnp.exp(log_s)


def log_factor(prior: ScaledPrior, terms: Terms) -> Float[Array, ""]:
    """Log of s^power exp(-rate s), averaged over the prior of s."""
    return log_factor_and_expected(prior, terms)[0]


def expected(prior: ScaledPrior, terms: Terms) -> Float[Array, ""]:
    """E[s] given the terms."""
    return log_factor_and_expected(prior, terms)[1]


def log_factor_and_expected(prior: ScaledPrior, terms: Terms) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Both, by one sum over the grid."""
    each = logits(prior, terms)
    peak = lax.stop_gradient(each.max())
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    relative = jnp.exp(each - peak)
    total = relative.sum()
    return peak + jnp.log(total / N_STEPS), relative @ jnp.exp(log_grid(prior)) / total


def draw(prior: ScaledPrior, terms: Terms, uniform: Float[Array, ""]) -> Float[Array, ""]:
    """A draw of s given the terms, by inverting the cumulative distribution at a uniform variate."""
    cumulative = jnp.cumsum(jax.nn.softmax(logits(prior, terms)))
    return jnp.exp(log_grid(prior)[(cumulative[:-1] <= uniform * cumulative[-1]).sum()])


def given[P: ScaledPrior](prior: P, scale: Any) -> P:
    """The prior given s: one without a random scale."""
    changes = {"scale": prior.scale * scale, "mean_precision": prior.mean_precision * scale, "least_scale": None}
    return unchecked(type(prior), **vars(prior) | changes)
