"""What the numbers of a `Prior` must be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgmm.covariance import get_family
from jaxgmm.tools.errors import UserError


def check_shapes(fields: Mapping[str, Any], family: str) -> None:
    """Raises ValueError where numbers, by name, don't have the shapes of a prior of this family."""
    mean, scale = fields["mean"], fields["scale"]
    if mean.ndim != 1 or mean.size == 0:
        raise UserError(f"mean has shape {mean.shape}; one number for each feature is needed, (D,).")
    if fields["concentration"].ndim > 1:
        raise UserError(f"concentration has shape {fields['concentration'].shape}; () or (K,) is needed.")
    for name, value in fields.items():
        if name not in ("concentration", "mean", "scale") and value.ndim:
            raise UserError(f"{name} must be one number, got shape {value.shape}.")
    wanted = get_family(family).scale_shape(mean.size)
    if scale.shape != wanted:
        raise UserError(f"scale has shape {scale.shape}, but family {family!r} with {mean.size} features needs {wanted}.")


def check_values(values: Mapping[str, np.ndarray], family: str) -> None:
    """Raises ValueError where numbers, by name, are no prior's of this family."""
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise UserError(f"{name} must be finite, got {value.tolist()}.")
    n_features, scale = values["mean"].size, values["scale"].astype(float)
    if (values["concentration"] <= 0).any():
        raise UserError(f"concentration must be positive, got {values['concentration'].tolist()}: 1 is uniform.")
    if values["mean_precision"] <= 0:
        raise UserError(f"mean_precision must be positive, got {values['mean_precision']}: 0.01 is a weak choice.")
    if not 0 < values.get("least_scale", 1) <= 1:
        raise UserError(f"least_scale must lie above 0 and at most at 1, got {values['least_scale']}: 1e-8, or None.")
    least = n_features - 1 if scale.ndim == 2 else 0
    if values["degrees_of_freedom"] <= least:
        raise UserError(
            f"degrees_of_freedom must be more than {least} for family {family!r} with {n_features} features, "
            f"got {values['degrees_of_freedom']}: {n_features + 2} is a weak choice."
        )
    if scale.ndim == 2 and abs(scale - scale.T).max() > 1e-6 * abs(scale).max():
        raise UserError("scale must be symmetric: (scale + scale.T) / 2.")
    variances = np.diagonal(scale) if scale.ndim == 2 else np.atleast_1d(scale)
    positive = variances.min() > 0
    if positive and scale.ndim == 2:
        sd = np.sqrt(variances)
        positive = np.linalg.eigvalsh(scale / sd / sd[:, None]).min() > 0  # units of the features cost no digits
    if not positive:
        raise UserError("scale must be positive definite; a zero would let covariances go singular.")
