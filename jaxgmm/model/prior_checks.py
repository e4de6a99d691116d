"""What the numbers of a `Prior` must be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgmm.covariance import get_family
from jaxgmm.tools.errors import UserError


def ranks_of(n_features: int, family: str) -> dict[str, int]:
    """How many axes a prior's numbers have, by name, where they are the same for all components."""
    of_scale = len(get_family(family).scale_shape(n_features))
    return {"concentration": 0, "mean": 1, "mean_precision": 0, "degrees_of_freedom": 0, "scale": of_scale, "least_scale": 0}


def check_shapes(fields: Mapping[str, Any], family: str) -> None:
    """Raises ValueError where numbers, by name, don't have the shapes of a prior of this family."""
    mean, scale, kind = fields["mean"], fields["scale"], get_family(family)
    if mean.ndim not in (1, 2) or mean.size == 0:
        raise UserError(f"mean has shape {mean.shape}; one number for each feature is needed, (D,), or (K, D).")
    n_features = mean.shape[-1]
    ranks, wanted = ranks_of(n_features, family), kind.scale_shape(n_features)
    for name, value in fields.items():
        if name == "least_scale" and value.ndim:
            raise UserError(f"{name} must be one number, got shape {value.shape}.")
        if ranks[name] == 0 and value.ndim > 1:
            raise UserError(f"{name} has shape {value.shape}; () or (K,) is needed.")
    if scale.shape[max(scale.ndim - len(wanted), 0) :] != wanted or scale.ndim > len(wanted) + 1:
        raise UserError(
            f"scale has shape {scale.shape}, but family {family!r} with {n_features} features needs {wanted}, with K before it "
            "where each component has its own."
        )
    own = {name: value.shape[0] for name, value in fields.items() if value.ndim > ranks[name]}
    if len(set(own.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in own.items())
        raise UserError(f"numbers of components differ: {counts}. One number for all, or one for each of the same K.")
    shared = own.keys() & {"degrees_of_freedom", "scale"}
    if shared and not kind.separate:
        raise UserError(
            f"{min(shared)} differs between components, but those of family {family!r} have something of their covariances in "
            "common, and one prior of it: give one for all, or take a family without, such as 'full'."
        )
    if "least_scale" in fields and own.keys() - {"concentration"}:
        raise UserError(
            f"{min(own.keys() - {'concentration'})} differs between components, but the random scale, of which least_scale is "
            "the least value, is one for all: set least_scale=None, or begin with Prior.fraley_raftery, which has none."
        )


def check_values(values: Mapping[str, np.ndarray], family: str) -> None:
    """Raises ValueError where numbers, by name, are no prior's of this family."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise UserError(f"{name} must be finite, got {value.tolist()}.")
    n_features, scale = values["mean"].shape[-1], values["scale"].astype(float)
    matrices = len(get_family(family).scale_shape(n_features)) == 2
    if (values["concentration"] <= 0).any():
        raise UserError(f"concentration must be positive, got {values['concentration'].tolist()}: 1 is uniform.")
    if (values["mean_precision"] <= 0).any():
        raise UserError(f"mean_precision must be positive, got {values['mean_precision'].tolist()}: 0.01 is a weak choice.")
    if not 0 < values.get("least_scale", 1) <= 1:
        raise UserError(f"least_scale must lie above 0 and at most at 1, got {values['least_scale']}: 1e-8, or None.")
    least = n_features - 1 if matrices else 0
    if (values["degrees_of_freedom"] <= least).any():
        raise UserError(
            f"degrees_of_freedom must be more than {least} for family {family!r} with {n_features} features, "
            f"got {values['degrees_of_freedom'].tolist()}: {n_features + 2} is a weak choice."
        )
    each = scale.reshape(-1, n_features, n_features) if matrices else scale
    if matrices and any(abs(matrix - matrix.T).max() > 1e-6 * abs(matrix).max() for matrix in each):
        raise UserError("scale must be symmetric: (scale + scale.T) / 2.")
    variances = np.diagonal(each, axis1=-2, axis2=-1) if matrices else scale
    positive = variances.min() > 0
    if positive and matrices:
        sd = np.sqrt(variances)
        correlations = each / sd[:, :, None] / sd[:, None, :]  # units of the features cost no digits
        positive = np.linalg.eigvalsh(correlations).min() > 0
    if not positive:
        raise UserError("scale must be positive definite; a zero would let covariances go singular.")
