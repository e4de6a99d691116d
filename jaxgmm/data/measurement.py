"""Errors of measurement of rows, and which values are limits, as they are given: checked, in the order of the features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError
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


def check_censored(
    censored: ArrayLike,
    x: Numbers,
    present: np.ndarray | None = None,
    *,
    errors: np.ndarray | None,
    family: str,
    correlated: bool,
) -> np.ndarray | None:
    """Sides of limits among the values of rows (N, D), 0 where a row isn't present; None where no value is a limit.

    Args:
        censored: as it is given.
        x: the rows, checked.
        present: (N,), which of them count; None for all.
        errors: of their measurement, as `check_errors` has them, or None.
        family: of the covariances, by name.
        correlated: whether its features are, within a component.

    Raises:
        TypeError: not numbers, or booleans, which name no side.
        ValueError: another shape than that of the rows, other values than -1, 0 and 1, limits that are NaN, several of them in
            a row where features are correlated.
    """
    name, rows, raw = "censored", np.asarray(x), np.asarray(censored)
    if raw.dtype == bool and raw.any():
        raise UserTypeError(
            f"{name} is boolean, which doesn't say on which side of a limit the truth lies: numpy.where({name}, -1, 0) for "
            "upper limits, 1 in the place of -1 for lower ones."
        )
    given = np.asarray(floating(censored, name), float)
    if given.shape != rows.shape:
        raise UserError(f"{name} has shape {given.shape}, but x has {rows.shape}: -1, 0 or 1 for each value is needed.")
    strange = ~np.isin(given, (-1, 0, 1))
    if strange.any():
        raise UserError(
            f"{name} has {given[strange][0]:g} in {rows_named(strange.any(1))}; needed is -1 where x is an upper limit, 1 "
            "where it is a lower one, 0 where it was measured or is NaN."
        )
    sides = np.where(True if present is None else present[:, None], given, 0).astype(np.int8)
    empty = ((sides != 0) & np.isnan(rows)).any(1)
    if empty.any():
        raise UserError(f"{name} names limits in {rows_named(empty)}, where x is NaN: give their values, or 0 in {name}.")
    several, others = (sides != 0).sum(1) > 1, f"NaN in x and 0 in {name} for all limits of a row but one"
    if several.any() and correlated:
        raise UserError(
            f"{name} has several limits in {rows_named(several)}, and family {family!r} has correlations, with which their "
            f"probability has no closed form: take family='diag' or 'spherical', or {others}."
        )
    if several.any() and errors is not None and errors.ndim == 3:
        raise UserError(
            f"{name} has several limits in {rows_named(several)}, whose errors of measurement may be correlated: give "
            f"error_covariances as variances, (N, D), or {others}."
        )
    return sides if sides.any() else None


def in_order(errors: Any, x: object, names: Sequence[str] | None, name: str = "error_covariances") -> Any:
    """What is given beside a frame's rows, such as errors, with features in the order in which the frame's own are put; that of
    a frame by name.
    """
    own = frames.feature_names(x)
    wanted = own if names is None else tuple(names)
    if errors is None or wanted is None:
        return errors
    if frames.feature_names(errors, name) is not None:
        return frames.ordered(errors, wanted, name)
    if own is None or own == wanted or sorted(own) != sorted(wanted):  # the last is refused, in words about x
        return errors
    array, order = np.asarray(floating(errors, name)), [own.index(feature) for feature in wanted]
    if array.ndim not in (2, 3) or array.shape[-1] != len(own):
        return array
    return array[:, order] if array.ndim == 2 else array[:, order][:, :, order]


def of_row(errors: Any, x: object, names: Sequence[str] | None, name: str = "error_covariances") -> Any:
    """What is given beside one row, (D,) or (D, D), as beside rows, in the order in which the row's own features are put."""
    if errors is None:
        return None
    own = np.asarray(floating(frames.ordered(errors, names, name), name))
    order = frames.order_of_row(x, names)
    if order is not None and own.shape[-1:] == (len(order),) and not frames.is_row(errors):
        own = own[order] if own.ndim == 1 else own[order][:, order]
    return own[None]
