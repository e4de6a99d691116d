"""The prior of a fit: by its name, a change of the default one, or one's own, as a `Prior` of these rows."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource, Source
from jaxgmm.data.moments import Moments, rows_of_frequencies
from jaxgmm.data.observed import arrange, has_gaps
from jaxgmm.model.default_prior import Values, not_a_prior
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import on_host

type Change = Callable[[Prior], Prior]


def named_prior(name: str, source: Source, n_components: int, family: str) -> Prior:
    """The prior that is called so, of rows that may have gaps; weights that add up to 1 are frequencies."""
    dtype = precision.compute_dtype(source.like)
    if not isinstance(source, ArraySource):
        with precision.scope(dtype):
            return Prior.of_moments(name, source.moments(get_family(family).structure.dense, dtype), n_components, family)
    weight = np.asarray(source.weight) * rows_of_frequencies(source.total_weight, source.n_present)
    rows = dataclasses.replace(source, weight=on_host(weight))
    with precision.scope(dtype):
        moments = (arrange(rows, None).weighted(rows.weight, dtype) if has_gaps(rows.x) else rows).moments(
            get_family(family).structure.dense, dtype
        )
    return Prior.of_moments(name, moments, n_components, family)


def resolve_prior(prior: Prior | Change | str | None, moments: Moments, n_components: int, family: str) -> Prior | None:
    """The prior of a model of these rows; raises TypeError or ValueError for one that can't be used."""
    if isinstance(prior, str):
        return Prior.of_moments(prior, moments, n_components, family)
    if callable(prior):
        prior = prior(Prior.of_moments("default", moments, n_components, family))
        if not isinstance(prior, Prior):
            raise UserTypeError(f"the function that is given as prior must return a Prior, got {type(prior).__name__}.")
    if prior is None:
        return None
    if not isinstance(prior, Prior):
        raise not_a_prior(prior, "a function of the default prior", "None")
    shapes = GMM.unchecked(
        np.empty(n_components), np.empty((n_components, moments.mean.size)), np.empty(()), family
    )  # fmt: skip
    prior.check_fits(shapes)
    check_mode_exists(prior.concentration)
    return prior


def padded_prior(prior: Prior, n_components: int, capacity: int) -> Prior:
    """The prior as NumPy arrays of float64, with an entry for each of `capacity` components in the concentration, and in what
    else differs between them: any, for padding.
    """
    prior = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prior)
    own: dict[str, np.ndarray] = {name: np.asarray(getattr(prior, name)) for name in prior.by_component}
    own = {name: np.concatenate([leaf, np.repeat(leaf[:1], capacity - n_components, axis=0)]) for name, leaf in own.items()}
    alpha = np.ones(capacity)
    alpha[:n_components] = prior.concentration
    changes: Values = {name: on_host(leaf) for name, leaf in (own | {"concentration": alpha}).items()}
    return dataclasses.replace(prior, **changes)


def check_alike(prior: object, user: str, instead: str = "fit(...)") -> None:
    """Raises ValueError for a prior of which components have parts of their own besides concentrations, for who takes none."""
    own = [name for name in prior.by_component if name != "concentration"] if isinstance(prior, Prior) else []
    if own:
        raise UserError(
            f"prior.{own[0]} has a value for each component, but {user} takes a prior that is the same for all: give one "
            f"value, or use {instead}."
        )


def check_mode_exists(concentration: ArrayLike) -> None:
    """Raises ValueError where the Dirichlet prior of the weights has no interior mode."""
    if (np.asarray(concentration) < 1).any():
        raise UserError(
            f"prior.concentration is {np.asarray(concentration).tolist()}, but below 1 the Dirichlet density is "
            "infinite at weight 0, so no mode exists: use 1 or more for a fit, or a sampler, which needs no mode."
        )
