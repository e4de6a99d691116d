"""NumPyro's model of a mixture of which parts are held: sites for the rest, with the joint density of both."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool
from numpyro.distributions import constraints

from jaxgmm.bayes.priors.base import MixturePrior, log_prior_constant, log_prior_kernel, names_of_extra
from jaxgmm.covariance import get_family
from jaxgmm.model.holding import Held
from jaxgmm.model.mixture import GMM, PARAMETERS
from jaxgmm.tools.validation import is_traced


def sample_rest(prior: MixturePrior, values: GMM, held: Held) -> GMM:
    """The mixture of this execution: `values` where it is held, sites elsewhere.

    A parameter of which something is held is the site `<name>_free`, of the other components alone and, for weights, their
    shares of what the held ones leave; whole, it is deterministic. Sites have no distribution of their own: the factor `prior`
    is the prior's density of the whole mixture, which needs no normaliser to be conditional on what is held.

    Args:
        prior: a `Prior` or a `RichardsonGreen`.
        values: one mixture, traced or not.
        held: what stays.
    """
    kind, k, d = get_family(values.family), values.n_components, values.n_features
    extra = {name: numpyro.sample(name, _improper(constraints.positive, ())) for name in names_of_extra(prior)}
    free = {name: ~held.mask(name, k) for name in PARAMETERS}
    n = {name: int(free[name].sum()) for name in PARAMETERS}
    sites = {
        "weights": _improper(constraints.simplex, (n["weights"],)),
        "covariances": _improper(
            constraints.positive_definite if kind.structure.dense else constraints.positive, kind.shape(n["covariances"], d)
        ),
        "means": _improper(constraints.real, (n["means"], d)),
    }
    whole = {name: _whole(name, site, getattr(values, name), free[name], held) for name, site in sites.items()}
    gmm = GMM.unchecked(whole["weights"], whole["means"], whole["covariances"], values.family)
    if is_traced(prior):
        constant = log_prior_constant(prior, k, jnp, gammaln)
    else:  # on the host: a float64 log-gamma takes seconds to compile
        constant = log_prior_constant(jax.tree.map(np.asarray, prior), k)
    numpyro.factor("prior", log_prior_kernel(prior, gmm, gmm.factored(), extra) + constant)
    return gmm


def values_of_sites(gmm: GMM, extra: dict[str, Array], held: Held) -> dict[str, Array]:
    """What the sites are at a mixture, by their names."""
    values = dict(extra)
    for name in PARAMETERS:
        value, free = getattr(gmm, name), ~held.mask(name, gmm.n_components)
        if not getattr(held, name):
            values[name] = value
        elif free.any():
            value = value[np.flatnonzero(free)]
            values[f"{name}_free"] = value / value.sum() if name == "weights" else value
    return values


def _improper(support: Any, shape: tuple[int, ...]) -> dist.Distribution:
    return dist.ImproperUniform(support, (), shape)


def _whole(name: str, site: dist.Distribution, old: Array, free: Bool[np.ndarray, " K"], held: Held) -> Array:
    """A parameter of all components, of which the free ones are sampled."""
    if not getattr(held, name):
        return numpyro.sample(name, site)
    whole = jnp.asarray(old)
    if free.any():
        rest = numpyro.sample(f"{name}_free", site)
        left = 1 - whole[np.flatnonzero(~free)].sum() if name == "weights" else 1
        whole = whole.at[np.flatnonzero(free)].set(left * rest)
    return numpyro.deterministic(name, whole)
