"""`numpyro_model`: the mixture as a NumPyro model, with the very density that MAP-EM climbs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.bayes.priors.base import sample_mixture
from jaxgmm.bayes.target import distribution
from jaxgmm.bayes.target.conditional import sample_rest
from jaxgmm.bayes.target.noise import NOISE
from jaxgmm.covariance import check_unrestricted, get_family
from jaxgmm.data import ArraySource, as_source
from jaxgmm.data.observed import check_columns, has_gaps
from jaxgmm.data.placed import Seen
from jaxgmm.fitting.arguments import censored_of, check_held, errors_of
from jaxgmm.fitting.labels import with_labels
from jaxgmm.fitting.noise import box_of, check_room
from jaxgmm.fitting.priors import named_prior
from jaxgmm.model.asking import Censored, Errors
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.default_prior import check_name, not_a_prior
from jaxgmm.model.density import Uniform, beside
from jaxgmm.model.holding import Fixed, Held, check_fixed
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.rows import log_joint_of, weighted
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import check_count, check_rows, check_weights, is_traced


def numpyro_model(
    x: Float[ArrayLike, "N D"] | None,
    n_components: int,
    family: str = "full",
    prior: Any = "default",
    *,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    error_covariances: Errors = None,
    censored: Censored = None,
    labels: ArrayLike | None = None,
    noise: bool | Float[ArrayLike, " D"] = False,
    fixed: Fixed = (),
    init: Mixture | None = None,
    n_samples: int | None = None,
    batch_size: int | None = None,
) -> GMM:
    """The mixture as a NumPyro model: sites `weights`, `means`, `covariances`, and the rows as `x`; allocations summed out.

        weights ~ Dirichlet(alpha); covariances_k ~ InverseWishart(nu0, Psi0); means_k ~ Normal(m0, covariances_k / kappa0)
        x_n ~ sum_k weights_k Normal(means_k, covariances_k)

    "diag" and "spherical" have inverse-gamma priors (`Prior`). Take it to any algorithm of NumPyro: `NUTS(numpyro_model)`,
    `SVI(numpyro_model, guide, ...)`, `Predictive(numpyro_model, draws)`.

    Args:
        x: (N, D), finite, or NaN where a value is missing, unless JAX traces it; None to draw rows from the prior or, with
            `Predictive`, from posterior draws.
        n_components: K.
        family: covariance family.
        prior: "default" (`Prior.default` of x), "fraley-raftery", a `Prior`, or a `RichardsonGreen` (which adds the
            site `rate`).
        sample_weight: (N,), non-negative, default 1: each row's log density is multiplied by its weight.
        error_covariances: (N, D) variances or (N, D, D) covariances of the rows' errors of measurement, as for `fit`.
        censored: which values are limits, as for `fit`.
        labels: of the rows whose component is known, as for `fit`.
        noise: a component besides, uniform over a box, as for `fit`; its share is the site `noise_weight`, uniform. With gaps,
            errors, limits, labels or noise, the rows are a factor `x`, not a site that can be drawn.
        fixed: what is held at the values that `init` has, as for `fit`. Then a parameter of which something is held is
            deterministic, and the site `means_free`, say, has the other components'; of weights, their shares of what is left.
            The prior is a factor, its density of the whole mixture; from it nothing can be drawn, so x must be given.
        init: a mixture of this K and family, for `fixed`.
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
    sampled = functools.partial(sample_mixture, prior, n_components)
    if (held := check_fixed(fixed, n_components, family)) or init is not None:
        values = _values(init, n_components, family, held, left=noise is not False)
        sampled = functools.partial(sample_rest, prior, values, held)
    known = error_covariances is not None or censored is not None or labels is not None or noise is not False
    if x is None:
        if held:
            raise UserError("x is None, to draw from the prior, but fixed holds what isn't drawn from it: give x, or no fixed.")
        if sample_weight is not None or batch_size is not None:
            raise UserError("sample_weight and batch_size are for rows that are given, but x is None.")
        if known:
            raise UserError("error_covariances, censored, labels and noise are for rows that are given, but x is None.")
        if n_samples is None:
            raise UserError("n_samples, how many rows to draw, is needed where x is None.")
        n_samples = check_count(n_samples, "n_samples")
    else:
        if n_samples is not None:
            raise UserError(f"n_samples is for x=None; here x gives the rows, {n_samples=}.")
        if known and is_traced(x, sample_weight, error_covariances, censored, labels, noise):
            raise UserTypeError(
                "x, sample_weight, error_covariances, censored, labels and noise are looked at on the host, and JAX traces "
                "one of them: close the model over them, with functools.partial, instead of passing them through jit, vmap or "
                "grad."
            )
        if known or not is_traced(x, sample_weight):
            source = as_source(x, sample_weight, missing=True)
            if known or has_gaps(source.x):
                if batch_size is not None:
                    raise UserError(
                        "batch_size is for rows that were seen wholly, without error_covariances, censored, labels and noise."
                    )
                errors = errors_of(error_covariances, x, source)
                sides = censored_of(censored, x, source, errors, family)
                return _partly_seen(source, n_components, sampled, errors, sides, labels, noise)
        x = jax.numpy.asarray(check_rows(x, "x"))
        n_samples = x.shape[0]
        if batch_size is not None and not 1 <= batch_size <= n_samples:
            raise UserError(f"batch_size must lie in 1..{n_samples}, the rows of x, got {batch_size}.")
    weight = check_weights(sample_weight, n_samples)

    gmm = sampled()
    with numpyro.plate("obs_id", n_samples, subsample_size=batch_size):
        rows = None if x is None else numpyro.subsample(x, event_dim=1)
        if weight is None:
            numpyro.sample("x", distribution.Mixture(gmm), obs=rows)
        else:
            w = numpyro.subsample(jax.numpy.asarray(weight), event_dim=0)
            present = w > 0  # `scale` takes no zeros
            with numpyro.handlers.mask(mask=present), numpyro.handlers.scale(scale=jax.numpy.where(present, w, 1)):
                numpyro.sample("x", distribution.Mixture(gmm), obs=rows)
    return gmm


def _partly_seen(
    source: ArraySource,
    n_components: int,
    sampled: Callable[[], GMM],
    errors: np.ndarray | None,
    sides: np.ndarray | None,
    labels: ArrayLike | None,
    noise: bool | Float[ArrayLike, " D"],
) -> GMM:
    """The model of rows that weren't seen wholly, or of which more is known, or that may be noise."""
    check_columns(source, np.asarray(source.weight) > 0)
    box = box_of(noise, source)
    source = with_labels(source, labels, n_components, beside_noise=box is not None)
    evidence = None if source.evidence is None else np.asarray(source.evidence)
    check_room(box, source, sides)
    seen = Seen(source.x, source.weight, errors, evidence, sides, None if box is None else box.box)
    gmm, rest = sampled(), None
    placed = seen.placed(np.dtype(gmm.means.dtype))
    if box is not None:
        share = numpyro.sample(NOISE, dist.Uniform(0, 1))
        rest = Uniform(jnp.log(share), jnp.asarray(box.log_widths, gmm.means.dtype))
    log_density = logsumexp(log_joint_of(beside(gmm.components(), rest), placed.rows), axis=-1)
    numpyro.factor("x", weighted(placed.weight, log_density).sum())
    return gmm


def _values(init: Any, n_components: int, family: str, held: Held, *, left: bool) -> GMM:
    """The mixture that has the values of what is held; `left`: something besides it is to be drawn."""
    if not held:
        raise UserError("init has the values of what is held, and fixed names nothing: leave init out.")
    if init is None:
        raise UserError(f"fixed holds {held.in_words} at the values of a mixture: pass it as init.")
    gmm = as_gmm(init, "init")
    check_held(held, gmm, left=left)
    gmm = held.of(gmm)
    if (gmm.n_components, gmm.family) != (n_components, family):
        raise UserError(
            f"init has {gmm.n_components} components of family {gmm.family!r}, but the model {n_components} of {family!r}."
        )
    return gmm


def _resolve_prior(x: Any, n_components: int, family: str, prior: Any, sample_weight: Float[ArrayLike, " N"] | None) -> Any:
    if isinstance(prior, str):
        check_name(prior)
        if x is None or is_traced(x, sample_weight):
            raise UserError(
                f"prior={prior!r} is made from concrete rows, and x is None or, as sample_weight may be, traced: "
                "pass prior=Prior.default(x, n_components, family)."
            )
        return named_prior(prior, as_source(x, sample_weight, missing=True), n_components, family)
    if prior is None:
        raise not_a_prior(prior, "a RichardsonGreen")
    if getattr(prior, "family", family) != family:
        raise UserError(f"prior is for family {prior.family!r}, but family is {family!r}.")
    if isinstance(prior, Prior):
        prior.check_n_components(n_components)
    return prior
