"""How a prior draws a mixture in NumPyro, and the prior of Richardson & Green for one feature."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import gammaln as jax_gammaln
from jax.scipy.special import xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.covariance import Factor, get_family
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_kernel, log_normaliser
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.validation import check_rows, floating, is_traced, unknown

_host_gammaln = np.vectorize(math.lgamma)


@pytree(static=("family",))
@dataclass(frozen=True, eq=False)
class RichardsonGreen:
    """The prior of Richardson & Green (1997) for mixtures of one feature: means and variances independent, random scale.

    weights ~ Dirichlet(concentration), mu_k ~ Normal(mean, mean_variance), 1 / sigma_k^2 ~ Gamma(shape, rate), and
    rate ~ Gamma(rate_shape, rate_rate). It isn't conjugate, so `fit` can't take it; Gibbs sampling, NUTS and variational
    fits can. Gammas are given by shape and rate.

    Args:
        mean: (), in the units of the data.
        mean_variance: (), squared units.
        rate_rate: (), 1 / squared units.
        shape, rate_shape: (), positive.
        concentration: () or (K,), positive.
        family: "spherical", "diag" or "full": with one feature they are the same but for the shape of `covariances`.

    Raises:
        TypeError, ValueError: values that aren't finite, positive numbers; another family. Names the argument.

    Example:
        >>> import jaxgmm as jg
        >>> float(jg.RichardsonGreen.default([[9.0], [20.0], [35.0]]).mean)
        22.0
    """

    mean: Float[Array, ""]
    mean_variance: Float[Array, ""]
    rate_rate: Float[Array, ""]
    shape: Float[Array, ""] = 2.0  # type: ignore[assignment]
    rate_shape: Float[Array, ""] = 0.2  # type: ignore[assignment]
    concentration: Float[Array, "*K"] = 1.0  # type: ignore[assignment]
    family: str = "spherical"

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", get_family(self.family).name)
        if not get_family(self.family).per_component:
            raise unknown("family for RichardsonGreen", self.family, ("spherical", "diag", "full"))
        for name in ("mean", "mean_variance", "rate_rate", "shape", "rate_shape", "concentration"):
            value = floating(getattr(self, name), name)
            object.__setattr__(self, name, value)
            if name != "concentration" and value.ndim:
                raise ValueError(f"{name} must be one number, got shape {value.shape}.")
            if not is_traced(value) and not (np.isfinite(value).all() and (name == "mean" or (np.asarray(value) > 0).all())):
                raise ValueError(
                    f"{name} must be {'finite' if name == 'mean' else 'positive'}, got {np.asarray(value).tolist()}."
                )

    @classmethod
    def default(cls, x: Float[ArrayLike, "N 1"], family: str = "spherical") -> "RichardsonGreen":
        """Their section 4.1: midrange and range R of the data, mean_variance R^2, shape 2, rate ~ Gamma(0.2, 10 / R^2).

        Args:
            x: (N, 1), at least two distinct values.
            family: as for the class.

        Raises:
            ValueError: more than one feature, or all values alike.
        """
        rows = np.asarray(check_rows(x, "x", min_rows=2))
        if rows.shape[1] != 1:
            raise ValueError(f"x has {rows.shape[1]} columns, but RichardsonGreen is a prior for one: use Prior.default.")
        low, high = float(rows.min()), float(rows.max())
        if low == high:
            raise ValueError(f"x has the one value {low:g}, so its range can't set the prior's scale.")
        values: dict[str, Any] = {
            "mean": (low + high) / 2,
            "mean_variance": (high - low) ** 2,
            "rate_rate": 10 / (high - low) ** 2,
        }
        return cls(**values, family=family)

    def check_fits(self, gmm: GMM) -> None:
        """Raises ValueError where the prior is for another family, number of features or components than `gmm`."""
        if gmm.n_features != 1:
            raise ValueError(f"RichardsonGreen is a prior for one feature, the mixture has {gmm.n_features}: Prior.default.")
        if self.family != gmm.family:
            raise ValueError(f"prior is for family {self.family!r}, the mixture is {gmm.family!r}.")
        if np.shape(self.concentration) not in ((), (gmm.n_components,)):
            raise ValueError(f"prior.concentration has shape {np.shape(self.concentration)}, not () or ({gmm.n_components},).")


@functools.singledispatch
def sample_mixture(prior: Any, n_components: int) -> GMM:
    """The sites `weights`, `means`, `covariances` of a prior (and its own further ones), inside a NumPyro model.

    Raises:
        TypeError: no known prior.
    """
    raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@sample_mixture.register
def _conjugate(prior: Prior, n_components: int) -> GMM:
    family, n_features = get_family(prior.family), prior.mean.shape[-1]
    concentration = jnp.broadcast_to(jnp.asarray(prior.concentration), (n_components,))
    weights = numpyro.sample("weights", dist.Dirichlet(concentration))
    covariances = numpyro.sample("covariances", family.prior_distribution(prior, n_components))
    scale = family.factor(covariances, n_features).scale / jnp.sqrt(prior.mean_precision)
    mean = jnp.asarray(prior.mean)
    if family.structure.dense:
        each = dist.MultivariateNormal(mean, scale_tril=scale).expand([n_components]).to_event(1)
    else:
        each = dist.Normal(mean, scale).expand([n_components, n_features]).to_event(2)
    means = numpyro.sample("means", each)
    return GMM.unchecked(weights, means, covariances, prior.family)


@sample_mixture.register
def _richardson_green(prior: RichardsonGreen, n_components: int) -> GMM:
    shape = get_family(prior.family).shape(n_components, 1)
    concentration = jnp.broadcast_to(jnp.asarray(prior.concentration), (n_components,))
    weights = numpyro.sample("weights", dist.Dirichlet(concentration))
    rate = numpyro.sample("rate", dist.Gamma(prior.rate_shape, prior.rate_rate))
    variances = dist.InverseGamma(prior.shape, rate).expand(list(shape)).to_event(len(shape))
    if len(shape) == 3:  # 1 x 1 matrices
        variances = dist.InverseWishart(2 * prior.shape, scale_matrix=2 * rate.reshape(1, 1)).expand([n_components]).to_event(1)
    covariances = numpyro.sample("covariances", variances)
    means = numpyro.sample(
        "means", dist.Normal(prior.mean, jnp.sqrt(prior.mean_variance)).expand([n_components, 1]).to_event(2)
    )
    return GMM.unchecked(weights, means, covariances, prior.family)


@functools.singledispatch
def log_prior_kernel(prior: Any, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    """`log_prior` up to a constant, `log_prior_constant`. For traced arrays."""
    raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@log_prior_kernel.register
def _conjugate_kernel(prior: Prior, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    return log_kernel(prior, gmm, factor, jnp.ones(gmm.n_components, bool))


@log_prior_kernel.register
def _richardson_green_kernel(prior: RichardsonGreen, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    rate, shape, log_variance = extra["rate"], prior.shape, 2 * factor.half_log_det
    weights = xlogy(prior.concentration - 1, gmm.weights).sum()
    variances = shape * jnp.log(rate) - (shape + 1) * log_variance - rate * jnp.exp(-log_variance)
    means = -((gmm.means[:, 0] - prior.mean) ** 2) / (2 * prior.mean_variance)
    return weights + (variances + means).sum() + (prior.rate_shape - 1) * jnp.log(rate) - prior.rate_rate * rate


@functools.singledispatch
def log_prior_constant(prior: Any, n_components: int, xp: Any = np, gammaln: Any = _host_gammaln) -> Any:
    """What `log_prior_kernel` leaves out. On the host by default: a float64 log-gamma takes seconds to compile."""
    raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}.")


@log_prior_constant.register
def _conjugate_constant(prior: Prior, n_components: int, xp: Any = np, gammaln: Any = _host_gammaln) -> Any:
    return log_normaliser(prior, np.ones(n_components, bool), xp, gammaln)


@log_prior_constant.register
def _richardson_green_constant(prior: RichardsonGreen, n_components: int, xp: Any = np, gammaln: Any = _host_gammaln) -> Any:
    concentration = xp.broadcast_to(xp.asarray(prior.concentration), (n_components,))
    weights = gammaln(concentration.sum()) - gammaln(concentration).sum()
    each = -gammaln(prior.shape) - xp.log(2 * np.pi * prior.mean_variance) / 2
    return weights + n_components * each + prior.rate_shape * xp.log(prior.rate_rate) - gammaln(prior.rate_shape)


def log_prior(prior: Any, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    """Log density of a mixture that is factored already, and of the prior's own further parameters, in nats."""
    return log_prior_kernel(prior, gmm, factor, extra) + log_prior_constant(prior, gmm.n_components, jnp, jax_gammaln)


def start_of_extra(prior: Any, gmm: GMM) -> dict[str, Array]:
    """Values of a prior's own further parameters to start from, given a mixture: their conditional means."""
    if not isinstance(prior, RichardsonGreen):
        return {}
    variances = jnp.asarray(gmm.covariances).reshape(-1)
    shape = prior.rate_shape + gmm.n_components * prior.shape
    return {"rate": shape / (prior.rate_rate + (1 / variances).sum())}
