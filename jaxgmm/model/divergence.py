"""How far apart two mixtures are, and one of fewer components that is near."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_count, check_key, check_single, host_only


class Divergence(NamedTuple):
    """KL(p || q), in nats.

    Attributes:
        value: its Monte-Carlo estimate; unbiased, so it may be a little below zero.
        error: standard error of the value.
        variational: the approximation of Hershey & Olsen (2007), in closed form.
    """

    value: float
    error: float
    variational: float


def kl_divergence(p: Mixture, q: Mixture, *, key: Array, n_samples: int = 10_000) -> Divergence:
    """The Kullback-Leibler divergence of one mixture from another, E_p[log p(x) - log q(x)], which has no closed form.

    Args:
        p: the mixture that rows are drawn from.
        q: the mixture that they are described by, of as many features.
        key: a PRNG key.
        n_samples: rows that are drawn, at least 2.

    Raises:
        TypeError, ValueError: mixtures with leading axes, or of other features.

    Example:
        >>> import jax, jaxgmm as jg
        >>> p, q = (jg.GMM([1.0], [[mean]], [1.0], "spherical") for mean in (0.0, 1.0))
        >>> jg.kl_divergence(p, q, key=jax.random.key(0)).variational  # of one component each it is exact
        0.5
    """
    p, q = as_gmm(p, "p"), as_gmm(q, "q")
    host_only("kl_divergence", p, q)
    for name, gmm in {"p": p, "q": q}.items():
        check_single(gmm.weights, f"jg.kl_divergence with one {name}")
    check_key(key)
    n_samples = check_count(n_samples, "n_samples", least=2)
    if p.n_features != q.n_features:
        raise UserError(f"p has {p.n_features} features, q {q.n_features}: take a marginal of the larger one.")
    if None not in (p.feature_names, q.feature_names) and p.feature_names != q.feature_names:
        raise UserError(f"p has the features {list(p.feature_names or ())}, q {list(q.feature_names or ())}: name them alike.")
    rows = np.asarray(p.sample(key, n_samples)[0])
    away = np.asarray(p.named(None).log_prob(rows), float) - np.asarray(q.named(None).log_prob(rows), float)
    return Divergence(float(away.mean()), float(away.std(ddof=1) / np.sqrt(n_samples)), _variational(p, q))


def _variational(p: GMM, q: GMM) -> float:
    """sum_a pi_a log(sum_a' pi_a' exp(-KL(p_a || p_a')) / sum_b omega_b exp(-KL(p_a || q_b)))."""
    (weights, *own), (others_weights, *others) = _on_host(p), _on_host(q)

    def log_near(of: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
        terms = np.log(of) - _between(own, (means, covariances))
        return np.logaddexp.reduce(terms, axis=1)

    return float(weights @ (log_near(weights, *own) - log_near(others_weights, *others)))


def _between(p: Sequence[np.ndarray], q: Sequence[np.ndarray]) -> Float[np.ndarray, "A B"]:
    """KL of Gaussians in closed form, each of p from each of q; given as means and covariances."""
    (means, covariances), (others, theirs) = p, q
    log_dets, their_log_dets = (np.linalg.slogdet(sigma)[1] for sigma in (covariances, theirs))
    precisions = np.linalg.inv(theirs)
    away = means[:, None] - others
    distance = np.einsum("abi,bij,abj->ab", away, precisions, away)
    trace = np.einsum("bij,aji->ab", precisions, covariances)
    return (trace + distance - means.shape[1] + their_log_dets - log_dets[:, None]) / 2


def _on_host(gmm: GMM) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and dense covariances of the components that take part."""
    leaves = (gmm.weights, gmm.means, gmm.dense_covariances())
    weights, means, covariances = (np.asarray(leaf, float) for leaf in leaves)
    active = weights > 0
    return weights[active] / weights[active].sum(), means[active], covariances[active]


def reduce_components(gmm: Mixture, n_components: int) -> GMM:
    """A mixture of fewer components with the same mean and covariance, near the one given.

    Step by step the two components are replaced by one with their moments for which a bound of what that costs is least,
    ((w_i + w_j) log|Sigma_ij| - w_i log|Sigma_i| - w_j log|Sigma_j|) / 2 nats of KL divergence (Runnalls 2007).

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        n_components: how many components are left, at most those of weight above zero.

    Returns:
        A mixture of family "full", whatever the family was: what two components become has a covariance of its own.

    Raises:
        TypeError, ValueError: a mixture with leading axes, more components than there are.

    Example:
        >>> import jaxgmm as jg
        >>> gmm = jg.GMM([0.25, 0.25, 0.5], [[0.0], [1.0], [9.0]], [1.0, 1.0, 1.0], "spherical")
        >>> jg.reduce_components(gmm, 2).means.tolist()
        [[0.5], [9.0]]
    """
    gmm = as_gmm(gmm)
    host_only("reduce_components", gmm)
    check_single(gmm.weights, "jg.reduce_components(g, n_components)")
    n_components = check_count(n_components, "n_components")
    weights, means, covariances = _on_host(gmm)
    if n_components > len(weights):
        raise UserError(f"n_components is {n_components}, but the mixture has {len(weights)}: reducing can't make more.")
    costs = np.full((len(weights), len(weights)), np.inf)
    for i in range(1, len(weights)):
        costs[i, :i] = _cost(weights, means, covariances, i, np.arange(i))
    while len(weights) > n_components:
        i, j = map(int, np.unravel_index(np.argmin(costs), costs.shape))  # i > j
        weights[j], means[j], covariances[j] = (both[0] for both in _merged(weights, means, covariances, i, np.array([j])))
        weights, means, covariances = (np.delete(leaf, i, 0) for leaf in (weights, means, covariances))
        costs = np.delete(np.delete(costs, i, 0), i, 1)
        costs[j, :j] = _cost(weights, means, covariances, j, np.arange(j))
        later = np.arange(j + 1, len(weights))
        costs[later, j] = _cost(weights, means, covariances, j, later)
    return GMM(on_host(weights), on_host(means), on_host(covariances), "full", gmm.feature_names)


def _merged(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, i: int, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What component i becomes together with each of the others: weight, mean and covariance of both."""
    weight = weights[i] + weights[others]
    share = (weights[i] / weight)[:, None]
    away = means[i] - means[others]
    within = share[..., None] * covariances[i] + (1 - share)[..., None] * covariances[others]
    between = (share * (1 - share))[..., None] * away[:, :, None] * away[:, None]
    return weight, means[others] + share * away, within + between


def _cost(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, i: int, others: np.ndarray) -> np.ndarray:
    """The bound of what it costs to replace component i and each of the others by one."""
    if not len(others):
        return np.empty(0)
    weight, _, sigma = _merged(weights, means, covariances, i, others)
    own, theirs, both = (np.linalg.slogdet(matrices)[1] for matrices in (covariances[i], covariances[others], sigma))
    return (weight * both - weights[i] * own - weights[others] * theirs) / 2
