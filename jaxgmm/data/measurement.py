"""Errors of measurement of rows, as they are given: checked, and in the order of the features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import floating, rows_named


def check_errors(errors: ArrayLike, x: Numbers, present: np.ndarray | None = None) -> np.ndarray:
    """Errors of rows (N, D) as they are to be summed with, 0 where nothing was seen or a row isn't present.

    Raises:
        TypeError: not real numbers.
        ValueError: neither (N, D) variances nor (N, D, D) covariances; NaN or infinite; not positive semi-definite.
    """
    name, seen = "error_covariances", ~np.isnan(np.asarray(x))
    n_samples, n_features = seen.shape
    given = np.asarray(floating(errors, name), float)
    if given.shape not in ((n_samples, n_features), (n_samples, n_features, n_features)):
        raise UserError(
            f"{name} has shape {given.shape}; ({n_samples}, {n_features}) variances, or ({n_samples}, {n_features}, "
            f"{n_features}) covariances, of the errors of each row are needed."
        )
    if present is not None:
        seen &= present[:, None]
    given = np.where(seen if given.ndim == 2 else seen[:, :, None] & seen[:, None, :], given, 0)
    by_row = given.reshape(n_samples, -1)
    bad = ~np.isfinite(by_row).all(1)
    if bad.any():
        raise UserError(f"{name} is NaN or infinite in {rows_named(bad)}, where x has values.")
    least, size = by_row.min(1), np.abs(by_row).max(1)
    if given.ndim == 3:
        asymmetric = np.abs(given - given.swapaxes(1, 2)).max((1, 2)) > 1e-6 * size
        if asymmetric.any():
            raise UserError(f"{name} has a matrix that isn't symmetric in {rows_named(asymmetric)}.")
        least = np.linalg.eigvalsh(given)[:, 0]
    negative = least < -1e-6 * size
    if negative.any():
        raise UserError(f"{name} isn't positive semi-definite in {rows_named(negative)}: squared errors are needed.")
    return given if given.ndim == 3 else np.maximum(given, 0)


def errors_in_order(errors: Any, x: object, names: Sequence[str] | None) -> Any:
    """The errors of a frame's rows, with features in the order in which the frame's own are put; those of a frame by name."""
    own = frames.feature_names(x)
    wanted = own if names is None else tuple(names)
    if errors is None or wanted is None:
        return errors
    if frames.feature_names(errors, "error_covariances") is not None:
        return frames.ordered(errors, wanted, "error_covariances")
    if own is None or own == wanted or sorted(own) != sorted(wanted):  # the last is refused, in words about x
        return errors
    array, order = np.asarray(floating(errors, "error_covariances")), [own.index(name) for name in wanted]
    if array.ndim not in (2, 3) or array.shape[-1] != len(own):
        return array
    return array[:, order] if array.ndim == 2 else array[:, order][:, :, order]


def errors_of_row(errors: Any, x: object, names: Sequence[str] | None) -> Any:
    """The errors of one row, (D,) or (D, D), as those of rows, in the order in which the row's own features are put."""
    if errors is None:
        return None
    own = np.asarray(floating(frames.ordered(errors, names, "error_covariances"), "error_covariances"))
    order = frames.order_of_row(x, names)
    if order is not None and own.shape[-1:] == (len(order),) and not frames.is_row(errors):
        own = own[order] if own.ndim == 1 else own[order][:, order]
    return own[None]
