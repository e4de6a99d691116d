"""`numpyro_model`: the mixture as a NumPyro model, with the very density that MAP-EM climbs."""

from typing import Any

import jax
import numpyro
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.bayes.priors.base import sample_mixture
from jaxgmm.bayes.target.distribution import Mixture
from jaxgmm.covariance import check_unrestricted, get_family
from jaxgmm.model.default_prior import check_name, not_a_prior
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count, check_rows, check_weights, is_traced


def numpyro_model(
    x: Float[ArrayLike, "N D"] | None,
    n_components: int,
    family: str = "full",
    prior: Any = "default",
    *,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
) -> GMM:
    """The mixture as a NumPyro model: sites `weights`, `means`, `covariances`, and the rows as `x`; allocations summed out.

        weights ~ Dirichlet(alpha); covariances_k ~ InverseWishart(nu0, Psi0); means_k ~ Normal(m0, covariances_k / kappa0)
        x_n ~ sum_k weights_k Normal(means_k, covariances_k)

    "diag" and "spherical" have inverse-gamma priors (`Prior`). Take it to any algorithm of NumPyro: `NUTS(numpyro_model)`,
    `SVI(numpyro_model, guide, ...)`, `Predictive(numpyro_model, draws)`.

    Args:
        x: (N, D), finite; None to draw rows from the prior or, with `Predictive`, from posterior draws.
        n_components: K.
        family: covariance family.
        prior: "default" (`Prior.default` of x), "fraley-raftery", a `Prior`, or a `RichardsonGreen` (which adds the
            site `rate`).
        sample_weight: (N,), non-negative, default 1: each row's log density is multiplied by its weight.
        n_samples: how many rows to draw where x is None.
        batch_size: rows in a random minibatch, for `SVI`; their log density is scaled up to all N.

    Returns:
        The mixture of this execution.

    Raises:
        TypeError, ValueError: data or settings that can't be used, or a family without a NumPyro prior; names the argument.

    Example:
        >>> import jax, jaxgmm as jg
        >>> from numpyro import handlers
        >>> x = jg.datasets.load_faithful().x
        >>> trace = handlers.trace(handlers.seed(jg.numpyro_model, jax.random.key(0))).get_trace(x, 2)
        >>> [name for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]]
        ['weights', 'covariances', 'means']
    """
    n_components = check_count(n_components, "n_components")
    family = get_family(family).name
    check_unrestricted(family, "numpyro_model")
    prior = _resolve_prior(x, n_components, family, prior, sample_weight)
    if x is None:
        if sample_weight is not None or batch_size is not None:
            raise UserError("sample_weight and batch_size are for rows that are given, but x is None.")
        if n_samples is None:
            raise UserError("n_samples, how many rows to draw, is needed where x is None.")
        n_samples = check_count(n_samples, "n_samples")
    else:
        if n_samples is not None:
            raise UserError(f"n_samples is for x=None; here x gives the rows, {n_samples=}.")
        x = jax.numpy.asarray(check_rows(x, "x"))
        n_samples = x.shape[0]
        if batch_size is not None and not 1 <= batch_size <= n_samples:
            raise UserError(f"batch_size must lie in 1..{n_samples}, the rows of x, got {batch_size}.")
    weight = check_weights(sample_weight, n_samples)

    gmm = sample_mixture(prior, n_components)
    with numpyro.plate("obs_id", n_samples, subsample_size=batch_size):
        rows = None if x is None else numpyro.subsample(x, event_dim=1)
        if weight is None:
            numpyro.sample("x", Mixture(gmm), obs=rows)
        else:
            w = numpyro.subsample(jax.numpy.asarray(weight), event_dim=0)
            present = w > 0  # `scale` takes no zeros
            with numpyro.handlers.mask(mask=present), numpyro.handlers.scale(scale=jax.numpy.where(present, w, 1)):
                numpyro.sample("x", Mixture(gmm), obs=rows)
    return gmm


def _resolve_prior(x: Any, n_components: int, family: str, prior: Any, sample_weight: Float[ArrayLike, " N"] | None) -> Any:
    if isinstance(prior, str):
        check_name(prior)
        if x is None or is_traced(x):
            raise UserError(
                f"prior={prior!r} is made from concrete rows, and x is None or traced: "
                "pass prior=Prior.default(x, n_components, family)."
            )
        return Prior.named(prior, x, n_components, family, sample_weight=sample_weight)
    if prior is None:
        raise not_a_prior(prior, "a RichardsonGreen")
    if getattr(prior, "family", family) != family:
        raise UserError(f"prior is for family {prior.family!r}, but family is {family!r}.")
    return prior
