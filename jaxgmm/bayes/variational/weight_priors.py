"""Two priors of the weights for variational Bayes: Dirichlet, and the sticks of a Dirichlet process."""

import abc
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Bool, Float

from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers


class WeightPrior(abc.ABC):
    """A conjugate prior of the weights: stateless, one instance in the registry. Everything is for one mixture."""

    name: ClassVar[str]
    of_component: ClassVar[bool]  # has each component a concentration of its own?

    @abc.abstractmethod
    def check(self, concentration: Numbers) -> None:
        """Raises ValueError for a concentration that this prior can't use."""

    @abc.abstractmethod
    def posterior(self, concentration: Array, counts: Float[Array, " K"], active: Bool[Array, " K"]) -> Array:
        """The parameters of q(weights) from the prior's concentration and the expected counts; not active is padding."""

    @abc.abstractmethod
    def expected_log(self, posterior: Array) -> Float[Array, " K"]:
        """E[log pi_k] under q."""

    @abc.abstractmethod
    def mean(self, posterior: Array) -> Float[Array, " K"]:
        """E[pi_k] under q. What they lack to 1 belongs to components beyond the K-th."""

    @abc.abstractmethod
    def divergence(self, posterior: Array, concentration: Array) -> Float[Array, ""]:
        """KL(q(weights) || p(weights)), in nats."""

    @abc.abstractmethod
    def log_relabellings(self, concentration: Numbers, counts: Float[np.ndarray, " K"]) -> float:
        """Log of how many permutations of the labels change q but not the model."""


class Dirichlet(WeightPrior):
    """weights ~ Dirichlet(alpha), alpha () or (K,). q: Dirichlet(alpha + N), (K,), with 0 for padding."""

    name, of_component = "dirichlet", True

    def check(self, concentration: Numbers) -> None:
        """Any positive one will do; `Prior` has checked that."""

    def posterior(self, concentration: Array, counts: Array, active: Array) -> Array:
        """(K,)."""
        return jnp.where(active, concentration + counts, 0)

    def expected_log(self, posterior: Array) -> Array:
        """Digamma(a_k) - digamma(sum a)."""
        return _expected_log(posterior)

    def mean(self, posterior: Array) -> Array:
        """Adds up to 1."""
        return posterior / posterior.sum()

    def divergence(self, posterior: Array, concentration: Array) -> Array:
        """Between two Dirichlets."""
        return _divergence(posterior, jnp.where(posterior > 0, concentration, 0))

    def log_relabellings(self, concentration: Numbers, counts: np.ndarray) -> float:
        """Components of equal alpha may change places; idle ones look alike, so among them that changes nothing."""
        alpha = np.broadcast_to(concentration, counts.shape)
        log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, counts.size + 1)))])
        groups = [alpha == value for value in np.unique(alpha)]
        return float(sum(log_factorial[group.sum()] - log_factorial[(group & (counts < 1)).sum()] for group in groups))


class StickBreaking(WeightPrior):
    """pi_k = v_k prod_{j<k} (1 - v_j), v_k ~ Beta(1, gamma), without end (Sethuraman 1994; Blei & Jordan 2006).

    q: rows belong to the first K components only, v_k ~ Beta(1 + N_k, gamma + N_{>k}), (K, 2); later sticks keep the prior.
    The K-th stick is broken like the others (as in scikit-learn; Blei & Jordan set v_K = 1), so bounds for any K are bounds
    of one and the same evidence.
    """

    name, of_component = "stick-breaking", False

    def check(self, concentration: Numbers) -> None:
        """One number."""
        if np.ndim(concentration):
            raise UserError(
                f"weights='stick-breaking' has one concentration, gamma, for all sticks, but prior.concentration has shape "
                f"{np.shape(concentration)}: give one number, or use weights='dirichlet'."
            )

    def posterior(self, concentration: Array, counts: Array, active: Array) -> Array:
        """(K, 2). Sticks of padding come last, and stay as the prior has them."""
        later = jnp.concatenate([jnp.cumsum(counts[:0:-1])[::-1], jnp.zeros(1, counts.dtype)])
        return jnp.stack([1 + counts, concentration + later], axis=1)

    def expected_log(self, posterior: Array) -> Array:
        """E[log v_k] + sum_{j<k} E[log(1 - v_j)]."""
        taken, left = _expected_log(posterior).T
        return taken + jnp.cumsum(left) - left

    def mean(self, posterior: Array) -> Array:
        """Adds up to less than 1."""
        taken, left = (posterior / posterior.sum(1, keepdims=True)).T
        return taken * jnp.concatenate([jnp.ones(1, left.dtype), jnp.cumprod(left)[:-1]])

    def divergence(self, posterior: Array, concentration: Array) -> Array:
        """Sum over the sticks; a Beta is a Dirichlet of two."""
        one = jnp.ones((), posterior.dtype)
        return _divergence(posterior, jnp.broadcast_to(jnp.stack([one, concentration]), posterior.shape)).sum()

    def log_relabellings(self, concentration: Numbers, counts: np.ndarray) -> float:
        """0: the sticks have an order."""
        return 0.0


WEIGHT_PRIORS: dict[str, WeightPrior] = {prior.name: prior for prior in (Dirichlet(), StickBreaking())}


def _expected_log(a: Float[Array, "... K"]) -> Float[Array, "... K"]:
    present = a > 0
    return jnp.where(present, digamma(jnp.where(present, a, 1)) - digamma(a.sum(-1, keepdims=True)), -jnp.inf)


def _divergence(a: Float[Array, "... K"], b: Float[Array, "... K"]) -> Float[Array, "..."]:
    """KL(Dirichlet(a) || Dirichlet(b)); where both are 0 there is no component."""
    total = gammaln(a.sum(-1)) - gammaln(b.sum(-1))
    present = b > 0
    a_present, b_present = jnp.where(present, a, 1), jnp.where(present, b, 1)
    each = (a - b) * jnp.where(present, _expected_log(a), 0) - (gammaln(a_present) - gammaln(b_present))
    return total + each.sum(-1)
