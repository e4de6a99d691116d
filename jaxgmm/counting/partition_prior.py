"""Priors of partitions: how many components, how many of them are filled, and how rows are dealt out to them.

Rows are exchangeable, so a partition's prior depends on the sizes of its blocks alone (Pitman 1995). Three models:

* a *mixture of finite mixtures*: K ~ p(K), weights ~ Dirichlet(gamma_K, ..., gamma_K). "static" has gamma_K = alpha
  (Richardson & Green 1997, Miller & Harrison 2018), "dynamic" gamma_K = alpha / K (McCullagh & Yang 2008,
  Fruehwirth-Schnatter, Malsiner-Walli & Gruen 2021);
* a *sparse overfitted mixture*, which is the static one with a fixed, large K and a small alpha;
* the *Dirichlet process*, the limit of the dynamic one for K without end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.special import log_gamma

WEIGHTS = ("dynamic", "static", "dirichlet-process")
N_COMPONENTS = ("beta-negative-binomial", "geometric", "poisson", "uniform")
type OfK = str | Sequence[float] | None  # a prior of the number of components: a name, or probabilities
type OfAlpha = str | float | None
ALPHA = {"f": (6.0, 3.0), "gamma": (1.0, 2.0)}  # F(6, 3); Gamma(shape 1, rate 2)
_TAIL = 100  # times J, beyond which nothing is left
_ALPHA_POINTS = 100  # equally probable values of a random alpha that the implied prior is averaged over


@pytree(static=("weights", "alpha_prior"))
@dataclass(frozen=True, eq=False)
class PartitionPrior:
    """The prior of a partition of N rows into at most J components.

    Attributes:
        log_components: (J,), log p(K) for K = 1..J, adding up to one.
        alpha: (), fixed, or where a chain starts.
        weights: "dynamic", "static" or "dirichlet-process"; the last has no K: `log_components` only gives J, the number of
            components that are kept.
        alpha_prior: "f" for F(6, 3), "gamma" for Gamma(1, 2), None for a fixed alpha.
    """

    log_components: Float[Array, " J"]
    alpha: Float[Array, ""]
    weights: str = "dynamic"
    alpha_prior: str | None = None

    @property
    def most(self) -> int:
        """J."""
        return self.log_components.shape[0]

    @property
    def largest(self) -> int:
        """The largest K of positive probability; outside of compiled code."""
        return int(np.flatnonzero(np.isfinite(self.log_components))[-1]) + 1

    def concentration(self, alpha: Float[Array, ""]) -> Float[Array, " J"]:
        """gamma_K, the Dirichlet parameter of each component, for K = 1..J."""
        if self.weights == "static":
            return jnp.full(self.most, 1.0, self.log_components.dtype) * alpha
        return alpha / jnp.arange(1, self.most + 1)

    def log_heads(self, alpha: Float[Array, ""], n_samples: int | Array) -> Float[Array, "T M"]:
        """Log p(K, partition into t blocks), t = 0..J and K = 1..J, without the blocks' factors; for a Dirichlet process, which
        has no K, log p(partition), M = 1.
        """
        clusters = np.arange(self.most + 1)
        if self.weights == "dirichlet-process":
            return (jnp.asarray(clusters) * jnp.log(alpha) + log_gamma(alpha) - log_gamma(alpha + n_samples))[:, None]
        k = clusters[1:]
        total = self.concentration(alpha) * k
        empty = k - clusters[:, None]
        factorial = scipy.special.gammaln(clusters + 1.0)
        ways = np.where(empty >= 0, factorial[k] - factorial[np.maximum(empty, 0)], -np.inf)
        return self.log_components + ways + log_gamma(total) - log_gamma(total + n_samples)

    def log_block(self, alpha: Float[Array, ""], count: Float[Array, "..."]) -> Float[Array, "..."]:
        """The factor of a block of `count` rows, (..., 1) to (..., M), or (..., 1) where K doesn't matter."""
        if self.weights == "dirichlet-process":
            return log_gamma(count)
        gamma = alpha if self.weights == "static" else self.concentration(alpha)
        return log_gamma(count + gamma) - log_gamma(gamma)

    def log_alpha_density(self, alpha: Float[Array, ""]) -> Float[Array, ""]:
        """Log p(alpha) up to a constant."""
        first, second = ALPHA[self.alpha_prior or "f"]
        if self.alpha_prior == "gamma":
            return (first - 1) * jnp.log(alpha) - second * alpha
        return (first / 2 - 1) * jnp.log(alpha) - (first + second) / 2 * jnp.log1p(first / second * alpha)

    def implied(self, n_samples: int) -> Float[np.ndarray, " J"]:
        """p(K+ = t) before any data, t = 1..J, for N rows, by dealing rows out one by one. On the host.

        The next of n rows opens a new cluster with a probability that depends on the number of clusters alone, so no sums
        over partitions are needed: exact for a fixed alpha. A random one is averaged over 100 equally probable values.
        """
        most, log_p = self.most, np.asarray(self.log_components, float)
        alphas = np.array([float(self.alpha)])
        if self.alpha_prior is not None:
            first, second = ALPHA[self.alpha_prior]
            law = scipy.stats.f(first, second) if self.alpha_prior == "f" else scipy.stats.gamma(first, scale=1 / second)
            alphas = law.ppf((np.arange(_ALPHA_POINTS) + 0.5) / _ALPHA_POINTS)
        t = np.arange(1, most + 1)
        if self.weights == "dirichlet-process":
            gain, total = np.broadcast_to(alphas[:, None, None], (alphas.size, 1, most)), alphas[:, None, None]
            mix = np.ones(1)
        else:
            k = np.arange(1, most + 1)[:, None]
            gamma = alphas[:, None, None] / (1 if self.weights == "static" else k)
            gain, total = gamma * np.maximum(k - t, 0), gamma * k
            mix = np.exp(log_p)
        p = np.zeros(gain.shape)
        p[..., 0] = 1
        for n in range(1, n_samples):
            moves = p * gain / (n + total)
            p = p - moves
            p[..., 1:] += moves[..., :-1]
            p[..., -1] += moves[..., -1]  # a Dirichlet process has no end; a finite mixture moves nothing here
        return np.einsum("akt,k->t", p, mix) / alphas.size


def log_p_components(n_components: str | np.ndarray, most: int) -> Float[np.ndarray, " J"]:
    """Log p(K), K = 1..J, cut off at J and normalised, by name or from probabilities.

    "beta-negative-binomial": K - 1 ~ BNB(1, 4, 3), the default of Fruehwirth-Schnatter et al. (2021); "geometric": K - 1 with
    success probability 0.1; "poisson": K - 1 with mean 1; "uniform".
    """
    k = np.arange(most)
    if isinstance(n_components, str):
        log_p = {
            "beta-negative-binomial": scipy.special.betaln(4 + 1, k + 3) - scipy.special.betaln(4, 3),
            "geometric": k * math.log(0.9),
            "poisson": -scipy.special.gammaln(k + 1),
            "uniform": np.zeros(most),
        }[n_components]
    else:
        with np.errstate(divide="ignore"):
            log_p = np.log(np.asarray(n_components, float))
    return log_p - scipy.special.logsumexp(log_p)


def tail_ratio(n_components: str, most: int) -> float:
    """p(K > J) / p(K = J) of a named prior that isn't cut off."""
    log_p = log_p_components(n_components, _TAIL * most)
    return float(np.exp(scipy.special.logsumexp(log_p[most:]) - log_p[most - 1]))


def draw_n_components(uniform: Array, log_terms: Float[Array, " J"]) -> Int[Array, ""]:
    """K, in proportion to exp(log_terms)."""
    p = jnp.cumsum(jnp.exp(log_terms - logsumexp(log_terms)))
    return (p[:-1] <= uniform * p[-1]).sum() + 1
