"""What makes three arrays a mixture: shapes, values, and names of the features."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgmm.covariance import Family, get_family
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import unknown


def places_of(features: Sequence[int] | Sequence[str], names: tuple[str, ...] | None, n_features: int) -> np.ndarray:
    """The places of features that are given by place or by name.

    Raises:
        ValueError: places or names that the mixture doesn't have, or one twice.
    """
    given = np.atleast_1d(np.asarray(features))
    if given.dtype.kind == "U" and names is not None:
        for name in given.flat:
            if name not in names:
                raise unknown("name in features", str(name), names)
        given = np.array([names.index(name) for name in given.flat]).reshape(given.shape)
    if given.ndim != 1 or given.size == 0 or given.dtype.kind not in "iu":
        unnamed = "; this mixture's features have no names" if given.dtype.kind == "U" else ""
        raise UserError(f"features must be a list of column indices or names, got {features!r}{unnamed}.")
    if (given < 0).any() or (given >= n_features).any():
        raise UserError(f"features {given.tolist()} must lie in 0..{n_features - 1}, the mixture's features.")
    if np.unique(given).size != given.size:
        raise UserError(f"features {list(features)} names a feature twice.")
    return given


def check_names(names: Sequence[str] | None, n_features: int) -> tuple[str, ...] | None:
    """The features' names. Raises TypeError or ValueError where they aren't D different strings."""
    if names is None:
        return None
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserTypeError(f"feature_names must be {n_features} strings, got {names!r}.")
    if len(names) != n_features:
        raise UserError(f"feature_names has {len(names)} names, the mixture {n_features} features: {list(names)}.")
    if len(set(names)) < len(names):
        raise UserError(f"feature_names has a name twice: {list(names)}.")
    return tuple(map(str, names))


def are_of_mixtures(shapes: Sequence[tuple[int, ...] | None], family: str) -> bool:
    """Are these the shapes of weights, means and covariances of one or more mixtures?"""
    weights, means, covariances = shapes
    if not weights or not means or covariances is None or means[:-1] != weights:
        return False
    return covariances == weights[:-1] + get_family(family).shape(weights[-1], means[-1])


def check_shapes(weights: Numbers, means: Numbers, covariances: Numbers, family: str) -> None:
    """Raises ValueError where shapes don't fit."""
    if weights.ndim < 1 or weights.shape[-1] < 1:
        raise UserError(f"weights has shape {weights.shape}; one weight for each of K >= 1 components is needed, (K,).")
    leading, k = weights.shape[:-1], weights.shape[-1]
    if means.ndim != weights.ndim + 1 or means.shape[:-1] != weights.shape or means.shape[-1] < 1:
        raise UserError(
            f"means has shape {means.shape}, but weights has shape {weights.shape}: means must be {(*leading, k)} x features."
        )
    wanted = leading + get_family(family).shape(k, means.shape[-1])
    if covariances.shape != wanted:
        raise UserError(
            f"covariances has shape {covariances.shape}, but family {family!r} with {k} components and "
            f"{means.shape[-1]} features needs {wanted}: pass another family, or reshape."
        )


def check_values(weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, family: str) -> None:
    """Raises ValueError for weights off the simplex, numbers that aren't finite, and covariances that aren't proper."""
    tolerance = 10 * weights.shape[-1] * float(jnp.finfo(weights.dtype).eps) + 1e-6
    if not np.isfinite(weights).all() or (weights < 0).any() or (abs(weights.sum(-1) - 1) > tolerance).any():
        raise UserError(
            f"weights must be non-negative and sum to one, got {weights.tolist()} with sum {weights.sum(-1).tolist()}: "
            "weights / weights.sum() if they are counts."
        )
    if not np.isfinite(means).all():
        raise UserError(f"means must be finite, got {means.tolist()}.")
    if not np.isfinite(covariances).all():
        raise UserError("covariances must be finite; some entries are NaN or infinite.")
    subnormal = np.abs(covariances) < jnp.finfo(covariances.dtype).tiny  # compiled code takes them for 0
    bad = get_family(family).structure.flaw(np.where(subnormal, 0, covariances).astype(float), means.shape[-1])
    if bad:
        raise UserError(
            f"covariances must be symmetric and positive definite; {bad}. Add to the diagonal, or refit with a prior."
        )
    kind, tolerance = get_family(family), 1e-3 if covariances.dtype == np.float64 else 0.05
    sharing = kind.restricted and not kind.structure.rank
    if sharing and not _away_from(kind, covariances, weights > 0, means.shape[-1]) <= tolerance:
        raise UserError(
            f"covariances don't share what those of family {family!r} do: take family={kind.general!r}, which has them all."
        )


def _away_from(family: Family, covariances: np.ndarray, active: np.ndarray, n_features: int) -> float:
    """How far covariances of active components are from those of a restricted family, in units of their sds."""
    each = covariances.reshape(-1, *covariances.shape[active.ndim - 1 :]).astype(float)
    known = active.reshape(len(each), -1)
    with precision.scope(np.dtype(np.float64)), jax.ensure_compile_time_eval():
        near = np.asarray(_nearest(each, known.astype(float), family, n_features))
    sds = np.sqrt(np.diagonal(each, axis1=-2, axis2=-1) if family.structure.dense else each)
    scale = sds[..., None] * sds[..., None, :] if family.structure.dense else sds**2
    return float(np.max((np.abs(near - each) / scale)[known]))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nearest(covariances: Array, weights: Array, family: Family, n_features: int) -> Array:
    return jax.vmap(lambda own, w: family.nearest(own, w, n_features))(covariances, weights)
