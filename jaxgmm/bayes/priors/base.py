"""What is asked of a prior: functions that dispatch on its class. A prior is a file that registers its answers.

Evidence of blocks of rows is what a component's rows say of it, its parameters integrated out. With a conjugate `Prior` the
integral is closed. With `RichardsonGreen` only the mean can be integrated out: there the evidence is
p(rows | variance) p(variance) / r(variance | rows) at a variance drawn from a near-exact r. That is unbiased, and a chain over
(partition, variances) that uses it as if it were exact has the exact posterior (Andrieu & Roberts 2009).
"""

import functools
import math
from typing import Any, ClassVar, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln as jax_gammaln
from jaxtyping import Array, Float

from jaxgmm.covariance import Factor
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.errors import UserTypeError
from jaxgmm.tools.variates import dirichlet_weights

host_gammaln = np.vectorize(math.lgamma)


class MixturePrior(Protocol):
    """A prior of mixtures: `Prior`, `RichardsonGreen`, or another dataclass that registers its answers below."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def family(self) -> str:
        """Of the covariances."""
        ...

    @property
    def concentration(self) -> Array:
        """Alpha, () or (K,)."""
        ...

    @property
    def mean(self) -> Array:
        """(D,), what means are drawn about."""
        ...

    def check_fits(self, gmm: GMM) -> None:
        """Raises ValueError where the prior is not for such a mixture."""
        ...


@functools.singledispatch
def sample_mixture(prior: MixturePrior, n_components: int) -> GMM:
    """The sites `weights`, `means`, `covariances` of a prior (and its own further ones), inside a NumPyro model.

    Raises:
        TypeError: no known prior.
    """
    raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@functools.singledispatch
def log_prior_kernel(prior: MixturePrior, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    """`log_prior` up to a constant, `log_prior_constant`. For traced arrays."""
    raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@functools.singledispatch
def log_prior_constant(prior: MixturePrior, n_components: int, xp: Any = np, gammaln: Any = host_gammaln) -> Any:
    """What `log_prior_kernel` leaves out. On the host by default: a float64 log-gamma takes seconds to compile."""
    raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


def log_prior(prior: MixturePrior, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    """Log density of a mixture that is factored already, and of the prior's own further parameters, in nats."""
    return log_prior_kernel(prior, gmm, factor, extra) + log_prior_constant(prior, gmm.n_components, jnp, jax_gammaln)


@functools.singledispatch
def start_of_extra(prior: MixturePrior, gmm: GMM) -> dict[str, Array]:
    """Values of a prior's own further parameters to start from, given a mixture: none, for most."""
    return {}


@functools.singledispatch
def names_of_extra(prior: MixturePrior | None) -> tuple[str, ...]:
    """Names of a prior's own further parameters, all positive."""
    return ()


@functools.singledispatch
def draw_summed_out(prior: MixturePrior, key: Array, gmm: GMM, factor: Factor) -> dict[str, Array]:
    """A draw, given a mixture, of what a prior's density has summed out, by name: nothing, for most."""
    return {}


# A chain over partitions integrates the parameters out, and keeps what it can't integrate out with them.


@functools.singledispatch
def names_in_partitions(prior: MixturePrior) -> tuple[str, ...]:
    """Names of the further parameters that a chain over partitions keeps: of these, `extra` has values below."""
    return names_of_extra(prior)


@functools.singledispatch
def start_in_partitions(prior: MixturePrior, variance: Float[Array, " D"], n_clusters: Array) -> dict[str, Array]:
    """Values of these to start from, given the rows' variances, and how many clusters they are in."""
    return {}


@functools.singledispatch
def draw_parameters(
    prior: MixturePrior, key: Array, statistics: Statistics, gmm: GMM, extra: dict[str, Array], held: Held = FREE
) -> tuple[GMM, Factor, dict[str, Array]]:
    """A draw of weights, means, covariances and the prior's own further parameters, given allocated rows.

    Args:
        prior: a `Prior` or a `RichardsonGreen`.
        key: a PRNG key.
        statistics: of the rows, about any centres. A component without rows draws from the prior.
        gmm: the current mixture: gives the family, what is held, and what a prior that is only conditionally conjugate
            conditions on.
        extra: the prior's further parameters; those `names_in_partitions`, where the rows' blocks are a chain's own.
        held: what stays as it is in `gmm`: the draw is one of the rest, given that.

    Returns:
        The mixture, its covariances taken apart, and the further parameters.

    Raises:
        TypeError: no known prior.
    """
    raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


def draw_weights(log_gamma: Float[Array, " K"], gmm: GMM, held: Held = FREE) -> Float[Array, " K"]:
    """Weights of log-gamma variates: those that aren't held share what the others leave."""
    if not held.weights:
        return dirichlet_weights(log_gamma)
    if held.whole("weights"):
        return gmm.weights
    fixed = held.mask("weights", gmm.n_components)
    left = 1 - jnp.where(fixed, gmm.weights, 0).sum()
    return held.keep("weights", gmm.weights, left * dirichlet_weights(jnp.where(fixed, -jnp.inf, log_gamma)))


class Blocks(NamedTuple):
    """Sums over the rows of each block, about the origin.

    Attributes:
        counts: (K,).
        sums: (K, D).
        scatter: by family, (K, D, D), (K, D) or (K,).
    """

    counts: Float[Array, " K"]
    sums: Float[Array, "K D"]
    scatter: Float[Array, "K ..."]


def statistics_of(blocks: Blocks) -> Statistics:
    """The same sums as EM and the Gibbs sampler have them."""
    nothing = jnp.zeros((), blocks.sums.dtype)
    return Statistics(*blocks, jnp.zeros_like(blocks.sums), nothing, nothing)


@functools.singledispatch
def log_evidence(prior: MixturePrior, blocks: Blocks, variance: Array, extra: dict[str, Array]) -> Float[Array, " K"]:
    """Log p(rows of the block | the prior's further parameters), 0 for a block without rows, in nats.

    Args:
        prior: a `Prior` of one of `FAMILIES`, or a `RichardsonGreen`.
        blocks: K of them.
        variance: (K,), each block's own variance: only `RichardsonGreen` looks at it.
        extra: the prior's further parameters.
    """
    raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@functools.singledispatch
def draw_variance(
    prior: MixturePrior, uniform: Float[Array, " K"], blocks: Blocks, extra: dict[str, Array]
) -> Float[Array, " K"]:
    """The random part of `log_evidence`, made of uniform variates: nothing, for a conjugate prior."""
    return jnp.ones_like(blocks.counts)


@functools.singledispatch
def predictive(prior: MixturePrior, blocks: Blocks, extra: dict[str, Array]) -> tuple[Array, Array]:
    """Means (K, D) and covariances, in the family's shape, of a Gaussian like what a block predicts of a further row."""
    raise UserTypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")
