"""The model behind `count_clusters`, from its arguments: priors of components and of partitions, and rows as they are used."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.base import MixturePrior
from jaxgmm.bayes.priors.conjugate import FAMILIES
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.counting.partition import Data, expand
from jaxgmm.counting.partition_prior import ALPHA, N_COMPONENTS, WEIGHTS, OfAlpha, OfK, PartitionPrior, log_p_components
from jaxgmm.covariance import get_family
from jaxgmm.data.padding import pad_rows, padded_length
from jaxgmm.fitting.priors import Change, check_alike
from jaxgmm.model.default_prior import NAMES, not_a_prior
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Numbers, on_host
from jaxgmm.tools.validation import is_finite_number, unknown

MODELS = ("mixture", "sparse", "dirichlet-process")
_SPARSE_ALPHA = 0.01


@jax.jit
def centred_data(
    rows: Float[Array, "N D"],
    prior: MixturePrior,
    partition_prior: PartitionPrior,
    n_present: Int[Array, ""] | None = None,
) -> Data:
    """What the chains share, in the precision of the rows: all sums are taken of rows whose mean is zero.

    `n_present`: rows after so many are padding.
    """
    prior, partition_prior = precision.cast((prior, partition_prior), rows.dtype)
    data = Data(rows.T, prior, partition_prior, n_present)
    centre = jnp.where(data.present[:, None], rows, 0).sum(0) / data.n_samples
    about_zero = replace(prior, mean=prior.mean - centre.reshape(jnp.shape(prior.mean)))
    z = jnp.where(data.present[:, None], rows - centre, 0)
    return data._replace(rows=expand(z, get_family(prior.family)), prior=about_zero)


def padded_data(rows: Float[np.ndarray, "N D"], prior: MixturePrior, partition_prior: PartitionPrior) -> Data:
    """`centred_data` in float64, of rows that are padded: few numbers of them share programs."""
    length = padded_length(len(rows), summed=False)
    x = jax.device_put(pad_rows(np.asarray(rows, float), length))
    return centred_data(x, prior, partition_prior, on_host(np.asarray(len(rows))))


def padded_labels(labels: Int[np.ndarray, "... N"], data: Data, most: int) -> Int[np.ndarray, "... M"]:
    """Labels of rows, 0..`most` - 1, and `most` for the padding."""
    more = data.rows.shape[1] - labels.shape[-1]
    width = [(0, 0)] * (labels.ndim - 1) + [(0, more)]
    return np.pad(labels.astype(int), width, constant_values=most)


def component_prior(prior: Prior | RichardsonGreen | Change | str, family: str | None, x: Numbers) -> Prior | RichardsonGreen:
    """The prior of a component, whose concentration isn't used: that of the weights is another's.

    Raises:
        TypeError, ValueError: a prior or a family that can't be used, or not together, or not with these rows.
    """
    if family is not None:
        family = get_family(family).name
    if isinstance(prior, str):
        if prior not in (*NAMES, "richardson-green"):
            raise unknown("prior", prior, (*NAMES, "richardson-green"))
        if prior == "richardson-green":
            prior = RichardsonGreen.default(x, family or "spherical")
        else:
            _check_family(family or "full")
            prior = Prior.named(prior, x, 1, family or "full")
    elif callable(prior):
        _check_family(family or "full")
        prior = prior(Prior.default(x, 1, family or "full"))
    if not isinstance(prior, Prior | RichardsonGreen):
        raise not_a_prior(prior, "'richardson-green'", "a RichardsonGreen", "a function of the default prior")
    if family not in (None, prior.family):
        raise UserError(f"prior is for family {prior.family!r}, but family is {family!r}: leave family out.")
    _check_family(prior.family)
    check_alike(prior, "a count", "posterior(...) of a fit")
    n_features = np.shape(x)[1]
    held = 1 if isinstance(prior, RichardsonGreen) else np.size(prior.mean)
    if held != n_features:
        raise UserError(f"prior is for {held} features, but x has {n_features} columns.")
    return replace(prior, concentration=on_host(np.ones(())))


def _check_family(family: str) -> None:
    if family not in FAMILIES:
        raise UserError(
            f"family {family!r} ties components together, so blocks of rows have no evidence of their own and split-merge "
            f"moves can't be made: choose {', '.join(FAMILIES)}."
        )


def partition_prior_of(
    prior: Prior | RichardsonGreen, model: str, n_components: OfK, weights: str | None, alpha: OfAlpha, most: int
) -> PartitionPrior:
    """The prior of partitions that these arguments of `count_clusters` name.

    Raises:
        TypeError, ValueError: settings that can't be used, or not together.
    """
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    if model != "mixture":
        for name, value in (("n_components", n_components), ("weights", weights)):
            if value is not None:
                raise UserError(f"{name} is for model 'mixture', but model is {model!r}: leave {name} out.")
    classic = isinstance(prior, RichardsonGreen)
    if model == "dirichlet-process":
        weights, log_p = "dirichlet-process", np.full(most, -np.log(most))
    elif model == "sparse":
        weights, log_p = "static", np.where(np.arange(most) == most - 1, 0.0, -np.inf)
    else:
        weights = ("static" if classic else "dynamic") if weights is None else weights
        if weights not in WEIGHTS[:2]:
            raise unknown("weights", weights, WEIGHTS[:2])
        log_p = _log_p(("uniform" if classic else "beta-negative-binomial") if n_components is None else n_components, most)
    if alpha is None:
        default: dict[str, str | float] = {
            "dirichlet-process": "gamma",
            "dynamic": "f",
            "static": _SPARSE_ALPHA if model == "sparse" else 1.0,
        }
        alpha = default[weights]
    if isinstance(alpha, str):
        if alpha not in ALPHA:
            raise unknown("alpha", alpha, ALPHA)
        return PartitionPrior(on_host(log_p), on_host(np.ones(())), weights, alpha)
    if not is_finite_number(alpha) or alpha <= 0:
        raise UserError(f"alpha must be a positive number, 'f' or 'gamma', got {alpha!r}.")
    return PartitionPrior(on_host(log_p), on_host(np.asarray(alpha, float)), weights, None)


def _log_p(n_components: str | Sequence[float], most: int) -> Float[np.ndarray, " J"]:
    if isinstance(n_components, str):
        if n_components not in N_COMPONENTS:
            raise unknown("n_components", n_components, N_COMPONENTS)
        return log_p_components(n_components, most)
    try:
        p = np.asarray(n_components, float)
    except (TypeError, ValueError):
        raise UserTypeError(f"n_components must be a name or probabilities, got {n_components!r}.") from None
    if p.shape != (most,) or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise UserError(
            f"n_components must be a name or {most} non-negative probabilities of K = 1..{most} (max_components), got "
            f"shape {p.shape}."
        )
    return log_p_components(p, most)
