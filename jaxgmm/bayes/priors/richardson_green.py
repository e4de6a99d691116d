"""The prior of Richardson & Green (1997) for one feature: means and variances independent, and a random scale."""

import math
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import (
    Blocks,
    draw_parameters,
    draw_variance,
    draw_weights,
    host_gammaln,
    log_evidence,
    log_prior_constant,
    log_prior_kernel,
    names_of_extra,
    predictive,
    sample_mixture,
    start_in_partitions,
    start_of_extra,
)
from jaxgmm.covariance import Factor, get_family
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.statistics import Statistics, recentre
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.reading import Page, Readable, of_arrays
from jaxgmm.tools.special import log_gamma
from jaxgmm.tools.validation import check_rows, floating, is_traced, unknown
from jaxgmm.tools.variates import log_gammas, logistic, normals, positive_exp


@pytree(static=("family",))
@dataclass(frozen=True, eq=False, repr=False)
class RichardsonGreen(Readable):
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
        kind = get_family(self.family)
        if kind.restricted or not kind.per_component:
            raise unknown("family for RichardsonGreen", self.family, ("spherical", "diag", "full"))
        for name in ("mean", "mean_variance", "rate_rate", "shape", "rate_shape", "concentration"):
            value = floating(getattr(self, name), name)
            object.__setattr__(self, name, value)
            if name != "concentration" and value.ndim:
                raise UserError(f"{name} must be one number, got shape {value.shape}.")
            if not is_traced(value) and not (np.isfinite(value).all() and (name == "mean" or (np.asarray(value) > 0).all())):
                raise UserError(
                    f"{name} must be {'finite' if name == 'mean' else 'positive'}, got {np.asarray(value).tolist()}."
                )

    def _page(self) -> Page:
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "family"}
        return of_arrays(f"RichardsonGreen: {self.family}", arrays)

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
            raise UserError(f"x has {rows.shape[1]} columns, but RichardsonGreen is a prior for one: use Prior.default.")
        low, high = float(rows.min()), float(rows.max())
        if low == high:
            raise UserError(f"x has the one value {low:g}, so its range can't set the prior's scale.")
        values: dict[str, Any] = {
            "mean": (low + high) / 2,
            "mean_variance": (high - low) ** 2,
            "rate_rate": 10 / (high - low) ** 2,
        }
        return cls(**values, family=family)

    def check_fits(self, gmm: GMM) -> None:
        """Raises ValueError where the prior is for another family, number of features or components than `gmm`."""
        if gmm.n_features != 1:
            raise UserError(f"RichardsonGreen is a prior for one feature, the mixture has {gmm.n_features}: Prior.default.")
        if self.family != gmm.family:
            raise UserError(f"prior is for family {self.family!r}, the mixture is {gmm.family!r}.")
        if np.shape(self.concentration) not in ((), (gmm.n_components,)):
            raise UserError(f"prior.concentration has shape {np.shape(self.concentration)}, not () or ({gmm.n_components},).")


@sample_mixture.register
def _richardson_green(prior: RichardsonGreen, n_components: int) -> GMM:
    import numpyro
    import numpyro.distributions as dist

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


@log_prior_kernel.register
def _richardson_green_kernel(prior: RichardsonGreen, gmm: GMM, factor: Factor, extra: dict[str, Array]) -> Float[Array, ""]:
    rate, shape, log_variance = extra["rate"], prior.shape, 2 * factor.half_log_det
    weights = xlogy(prior.concentration - 1, gmm.weights).sum()
    variances = shape * jnp.log(rate) - (shape + 1) * log_variance - rate * jnp.exp(-log_variance)
    means = -((gmm.means[:, 0] - prior.mean) ** 2) / (2 * prior.mean_variance)
    return weights + (variances + means).sum() + (prior.rate_shape - 1) * jnp.log(rate) - prior.rate_rate * rate


@log_prior_constant.register
def _richardson_green_constant(prior: RichardsonGreen, n_components: int, xp: Any = np, gammaln: Any = host_gammaln) -> Any:
    concentration = xp.broadcast_to(xp.asarray(prior.concentration), (n_components,))
    weights = gammaln(concentration.sum()) - gammaln(concentration).sum()
    each = -gammaln(prior.shape) - xp.log(2 * np.pi * prior.mean_variance) / 2
    return weights + n_components * each + prior.rate_shape * xp.log(prior.rate_rate) - gammaln(prior.rate_shape)


@draw_parameters.register
def _semi_conjugate(
    prior: RichardsonGreen, key: Array, statistics: Statistics, gmm: GMM, extra: dict[str, Array], held: Held = FREE
) -> Any:
    """In turn: rate given the variances of components with rows; means given variances; variances given means and rate."""
    family, counts = get_family(gmm.family), statistics.counts
    key_gamma, key_normal = jax.random.split(key)
    variance, filled = gmm.covariances.reshape(-1), counts > 0
    filled = filled | held.mask("covariances", counts.size) if held.covariances else filled
    # Variances without rows say nothing of the rate: they are summed out here, and drawn below given the new rate.
    rate_shape = (prior.rate_shape + filled.sum() * prior.shape)[None]
    gammas = log_gammas(key_gamma, prior.concentration + counts, prior.shape + counts / 2, rate_shape)
    rate = positive_exp(gammas[2])[0] / (prior.rate_rate + jnp.where(filled, 1 / variance, 0).sum())

    precision = 1 / prior.mean_variance + counts / variance
    pull = (prior.mean - statistics.centre[:, 0]) / prior.mean_variance + statistics.sums[:, 0] / variance
    (noise,) = normals(key_normal, counts.shape, dtype=counts.dtype)
    shift = pull / precision + noise / jnp.sqrt(precision)
    shift = held.keep("means", gmm.means[:, 0] - statistics.centre[:, 0], shift)
    means = held.keep("means", gmm.means, statistics.centre + shift[:, None])

    scatter = recentre(family.structure, statistics.scatter, statistics.sums, counts, shift[:, None]).reshape(-1)
    variance = (rate + jnp.maximum(scatter, 0) / 2) / positive_exp(gammas[1])  # rounding can leave a scatter of -eps
    covariances = held.keep("covariances", gmm.covariances, variance.reshape(family.shape(counts.size, 1)))
    new = GMM.unchecked(draw_weights(gammas[0], gmm, held), means, covariances, gmm.family)
    return new, family.factor(covariances, 1), {"rate": rate}


@log_evidence.register
def _estimated(prior: RichardsonGreen, blocks: Blocks, variance: Array, extra: dict[str, Array]) -> Float[Array, " K"]:
    counts, rate, tau = blocks.counts, extra["rate"], 1 / variance
    precision = 1 / prior.mean_variance + counts * tau
    about = blocks.sums[:, 0] - counts * prior.mean
    squares = blocks.scatter.reshape(-1) - 2 * prior.mean * blocks.sums[:, 0] + counts * prior.mean**2
    of_rows = counts / 2 * jnp.log(tau / (2 * math.pi)) - jnp.log(prior.mean_variance * precision) / 2
    of_rows -= (tau * squares - (tau * about) ** 2 / precision) / 2
    of_prior = prior.shape * jnp.log(rate) - log_gamma(prior.shape) + (prior.shape - 1) * jnp.log(tau) - rate * tau
    location, scale = _proposal(prior, blocks, rate)
    z = (jnp.log(variance) - location) / scale
    of_draw = -z - 2 * jax.nn.softplus(-z) - jnp.log(scale) - jnp.log(variance)
    # The prior is a density of 1 / variance, the draw's one of the variance: tau^2 between them.
    return jnp.where(counts > 0, of_rows + of_prior + 2 * jnp.log(tau) - of_draw, 0)


@draw_variance.register
def _near_posterior(
    prior: RichardsonGreen, uniform: Float[Array, " K"], blocks: Blocks, extra: dict[str, Array]
) -> Float[Array, " K"]:
    location, scale = _proposal(prior, blocks, extra["rate"])
    return jnp.exp(location + scale * logistic(uniform))


def _proposal(prior: RichardsonGreen, blocks: Blocks, rate: Array) -> tuple[Array, Array]:
    """Location and scale of a logistic distribution of the logarithms of variances, given their rows.

    It is like the inverse gamma that they would have were the mean's prior flat, with tails that are no lighter. (A gamma
    variate would take seconds to compile.)
    """
    counts = jnp.maximum(blocks.counts, 1)
    within = jnp.maximum(blocks.scatter.reshape(-1) - blocks.sums[:, 0] ** 2 / counts, 0)
    shape = prior.shape + (counts - 1) / 2
    scale = jnp.maximum(math.sqrt(3) / math.pi / jnp.sqrt(shape - 0.5 * (shape > 1)), 1 / shape)
    return jnp.log((rate + within / 2) / shape), scale


@predictive.register
def _richardson_green_predictive(
    prior: RichardsonGreen, blocks: Blocks, extra: dict[str, Array]
) -> tuple[Array, Array]:  # fmt: skip
    location, _ = _proposal(prior, blocks, extra["rate"])
    mean = blocks.sums / jnp.maximum(blocks.counts, 1)[:, None]
    variance = jnp.exp(location) * (1 + 1 / jnp.maximum(blocks.counts, 1))
    return mean, variance.reshape(blocks.scatter.shape)


@start_of_extra.register
def _mean_rate(prior: RichardsonGreen, gmm: GMM) -> dict[str, Array]:
    """Its conditional mean."""
    variances = jnp.asarray(gmm.covariances).reshape(-1)
    shape = prior.rate_shape + gmm.n_components * prior.shape
    return {"rate": shape / (prior.rate_rate + (1 / variances).sum())}


@start_in_partitions.register
def _rate_of_blocks(prior: RichardsonGreen, variance: Float[Array, " D"], n_clusters: Array) -> dict[str, Array]:
    return {"rate": prior.shape * variance[0] / n_clusters**2}


@names_of_extra.register
def _rate(prior: RichardsonGreen) -> tuple[str, ...]:
    return ("rate",)
