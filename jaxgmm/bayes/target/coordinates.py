"""A mixture as a vector of real numbers and back, and the log posterior of that vector.

The coordinates are NumPyro's own (`biject_to` of each site's support, sites in alphabetical order), so a vector here is one
of its autoguides' latent vectors. The log posterior is the one of `numpyro_model` (tested), but the covariances stay
Cholesky factors throughout: nothing is multiplied out only to be factored again.

What is held has its coordinates, too, but they don't move: means and covariances have their own, and the sticks of the held
weights are broken off first, so that the others share what they leave.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.base import MixturePrior, log_prior, log_prior_kernel, names_of_extra
from jaxgmm.bayes.target.noise import NOISE, at_share
from jaxgmm.covariance import Factor, check_unrestricted, get_family
from jaxgmm.data.placed import Rows, n_places
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.density import Uniform, beside
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM, PARAMETERS
from jaxgmm.model.rows import log_likelihood_of
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_single, is_traced


class Layout(NamedTuple):
    """Which mixture a vector is: static. `extra` names what comes along: positive parameters of the prior, and the share of
    noise; `held` are the parameters of the mixture that stay.
    """

    n_components: int
    n_features: int
    family: str
    extra: tuple[str, ...] = ()
    held: Held = FREE

    @property
    def covariance_size(self) -> int:
        """How many numbers the covariances take."""
        k, d = self.n_components, self.n_features
        return get_family(self.family).n_covariance_parameters(k, d)

    @property
    def length(self) -> int:
        """Of the vector: covariances, means, weights (K - 1), and the extra ones, by name."""
        return self.covariance_size + self.n_components * self.n_features + self.n_components - 1 + len(self.extra)

    @property
    def size(self) -> int:
        """How many entries of the vector move."""
        return self.free.size

    @property
    def free(self) -> Int[np.ndarray, " size"]:
        """Their positions."""
        k, held = self.n_components, {name: self.held.mask(name, self.n_components) for name in PARAMETERS}
        shared = not get_family(self.family).per_component
        of_covariances = held["covariances"][:1] if shared else held["covariances"]
        parts = {
            "covariances": np.repeat(of_covariances, self.covariance_size // of_covariances.size),
            "means": np.repeat(held["means"], self.n_features),
            "weights": np.arange(k - 1) < held["weights"].sum(),
        }
        parts |= {name: np.zeros(1, bool) for name in self.extra}
        return np.flatnonzero(~np.concatenate([parts[name] for name in sorted(parts)]))

    @property
    def order(self) -> Int[np.ndarray, " K"]:
        """The components in the order in which their sticks are broken off: those of held weights first."""
        return np.argsort(~self.held.mask("weights", self.n_components), kind="stable")


def layout_of(gmm: GMM, prior: MixturePrior | None = None, held: Held = FREE, noise: Uniform | None = None) -> Layout:
    """The layout of a mixture's vector under a prior, with the noise beside it."""
    extra = names_of_extra(prior) if noise is None else (*names_of_extra(prior), NOISE)
    return Layout(gmm.n_components, gmm.n_features, gmm.family, extra, held)


def unconstrain(gmm: Mixture, extra: dict[str, Array] | None = None) -> Float[Array, " size"]:
    """A mixture as an unconstrained vector; `constrain` is its inverse.

    Covariances become Cholesky factors with log diagonals (log variances for "diag" and "spherical"), weights sticks.

    Args:
        gmm: one mixture, every weight positive.
        extra: what comes along, by name: positive parameters of the prior, and `noise_weight`, the share of noise.

    Raises:
        ValueError: leading axes, a component of weight 0, which has no place in this space, or a family that restricts how
            covariances differ.

    Example:
        >>> import jaxgmm as jg
        >>> jg.unconstrain(jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")).tolist()
        [0.0, 0.0, 0.0, 4.0, 0.0]
    """
    gmm = as_gmm(gmm)
    check_single(gmm.weights, "jg.unconstrain(g)")
    check_unrestricted(gmm.family, "unconstrain")
    if not is_traced(gmm) and not (np.asarray(gmm.weights) > 0).all():
        raise UserError(
            f"weights {np.asarray(gmm.weights).tolist()} hold a zero: a component of weight 0 has no unconstrained value. "
            "Drop it, or fit with Prior.concentration > 1."
        )
    return vector_of(gmm, extra or {}, np.arange(gmm.n_components))


def vector_of(gmm: GMM, extra: dict[str, Array], order: Int[np.ndarray, " K"]) -> Float[Array, " length"]:
    """`unconstrain` without checks, with sticks in this order of the components, of which the last has what is left."""
    shape = get_family(gmm.family).structure.to_reals(jnp.asarray(gmm.covariances))
    weights = jnp.asarray(gmm.weights)
    weights = weights if (order == np.arange(order.size)).all() else weights[order]
    rest = jnp.cumsum(weights[::-1])[::-1][1:]  # what is left of the stick: summed, since 1 - cumsum loses small weights
    sticks = jnp.log(weights[:-1] / rest) + np.log(np.arange(weights.size - 1, 0, -1))
    parts = {"covariances": shape, "means": jnp.asarray(gmm.means), "weights": sticks}
    parts |= {name: jnp.log(jnp.asarray(value)) for name, value in extra.items()}
    if NOISE in extra:
        parts[NOISE] = parts[NOISE] - jnp.log1p(-jnp.asarray(extra[NOISE]))
    return jnp.concatenate([parts[name].reshape(-1) for name in sorted(parts)])


def constrain(vector: Float[Array, " size"], n_components: int, n_features: int, family: str = "full") -> tuple[GMM, Array]:
    """The mixture of an unconstrained vector, and the log Jacobian of the map: log |d(gmm) / d(vector)|.

    Args:
        vector: of `unconstrain`.
        n_components: K.
        n_features: D.
        family: covariance family.

    Raises:
        ValueError: a vector of another length, a family that restricts how covariances differ.

    Example:
        >>> import jax.numpy as jnp, jaxgmm as jg
        >>> gmm, log_jacobian = jg.constrain(jnp.zeros(5), 2, 1, "spherical")
        >>> gmm.weights.tolist(), gmm.covariances.tolist()
        ([0.5, 0.5], [1.0, 1.0])
    """
    check_unrestricted(family, "constrain")
    layout = Layout(n_components, n_features, get_family(family).name)
    if jnp.shape(vector) != (layout.length,):
        raise UserError(
            f"vector has shape {jnp.shape(vector)}; {n_components} components of {n_features} features and family "
            f"{layout.family!r} take ({layout.length},)."
        )
    gmm, _, _, log_jacobian = constrain_factored(jnp.asarray(vector), layout)
    return gmm, log_jacobian


def constrain_factored(vector: Array, layout: Layout) -> tuple[GMM, Factor, dict[str, Array], Float[Array, ""]]:
    """Mixture, factored covariances, the prior's extra parameters, and log Jacobian, of what moves. For traced vectors."""
    k, d, family = layout.n_components, layout.n_features, get_family(layout.family)
    sizes = {"covariances": layout.covariance_size, "means": k * d, "weights": k - 1} | dict.fromkeys(layout.extra, 1)
    parts, start = {}, 0
    for name in sorted(sizes):
        parts[name] = vector[start : start + sizes[name]]
        start += sizes[name]
    extra = {name: jnp.exp(parts[name][0]) for name in layout.extra if name != NOISE}
    of_extra = sum(parts[name].sum() for name in extra)
    if NOISE in layout.extra:
        logit = parts[NOISE][0]
        extra[NOISE], of_extra = jax.nn.sigmoid(logit), of_extra + jax.nn.log_sigmoid(logit) + jax.nn.log_sigmoid(-logit)
    means = parts["means"].reshape(k, d)

    # x_k = logit of the share of what is left; log(1 - share) sums up along the stick
    x = parts["weights"] - np.log(np.arange(k - 1, 0, -1))
    log_share, log_left = jax.nn.log_sigmoid(x), jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum(jax.nn.log_sigmoid(-x))])
    log_weights = jnp.concatenate([log_share, jnp.zeros(1, x.dtype)]) + log_left
    weights = jnp.exp(log_weights)
    of_sticks = log_weights[:-1] + jax.nn.log_sigmoid(-x)

    reals = parts["covariances"]
    covariances, factor, of_covariances = family.structure.from_reals(reals, family.shape(k, d), d)
    if held := layout.held:
        weights = weights[np.argsort(layout.order)]
        of_sticks = of_sticks[sum(held.weights) :]
        if held.whole("covariances"):
            of_covariances = jnp.zeros((), reals.dtype)
        elif held.covariances:
            moving = reals.reshape(k, -1)[~held.mask("covariances", k)]
            of_covariances = family.structure.from_reals(moving.reshape(-1), family.shape(len(moving), d), d)[2]
    log_jacobian = of_sticks.sum() + of_extra + of_covariances
    return GMM.unchecked(weights, means, covariances, layout.family), factor, extra, log_jacobian


def log_posterior(
    vector: Float[Array, " length"],
    layout: Layout,
    x: Rows,
    weight: Float[Array, " M"] | None,
    prior: MixturePrior,
    constant: Any = None,
    noise: Uniform | None = None,
) -> Float[Array, ""]:
    """Log joint density of rows and parameters with respect to the vector, in nats: minus NumPyro's potential energy.

    Differentiable with respect to the vector, in reverse mode, and forwards over that. `constant` is `log_prior_constant`,
    where the caller has it from the host; it saves seconds of compilation. Of `noise`, the vector has the share.
    """
    gmm, factor, extra, log_jacobian = constrain_factored(vector, layout)
    weight = jnp.ones(n_places(x), vector.dtype) if weight is None else weight
    log_likelihood = log_likelihood_of(beside(gmm.components(factor), at_share(noise, extra)), x, weight)
    if constant is None:
        return log_likelihood + log_prior(prior, gmm, factor, extra) + log_jacobian
    return log_likelihood + log_prior_kernel(prior, gmm, factor, extra) + constant + log_jacobian
