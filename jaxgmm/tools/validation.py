"""Checks of what users hand in: each error names the argument, the value and the way out, before any compute."""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from jaxgmm.tools import frames
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.forks import check_not_forked
from jaxgmm.tools.types import Numbers, on_host

MOST_STEPS = 10_000_000  # of any loop that keeps its objective after each
_NOTHING = np.zeros((), np.float32)
_SHOWN = 5  # offending rows named in a message


def is_traced(*values: PyTree) -> bool:
    """True inside jit, vmap or grad, where values can't be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def in_jit() -> bool:
    """True while a function is being compiled, even if no traced value has come our way (closures). RuntimeError in a fork."""
    check_not_forked()  # here, since whatever may compile asks this first
    return isinstance(lax.stop_gradient(_NOTHING), jax.core.Tracer)  # an operation that outside compiles and moves nothing


def host_only(call: str, *values: PyTree, instead: str = "") -> None:
    """Raises TypeError inside jit, vmap and grad, for a function that decides and loops on the host. RuntimeError in a fork."""
    if is_traced(*values) or in_jit():
        raise UserTypeError(f"{call} works on the host: call it outside jit, vmap and grad{instead}.")


def check_key(key: Array) -> None:
    """Raises TypeError where `key` isn't one PRNG key, RuntimeError where nothing can be drawn with it: in a fork."""
    check_not_forked()
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ()
    if not typed and not (dtype == np.uint32 and key.ndim == 1):
        raise UserTypeError(f"key must be one PRNG key, such as jax.random.key(0), got {key!r}.")


def key_data(key: Array) -> Array:
    """The words of a PRNG key, new style or old."""
    return key if key.dtype == np.uint32 else jax.random.key_data(key)


def check_single(weights: Array, call: str) -> None:
    """Raises ValueError where a mixture has leading axes: it is many, and `vmap` maps over them. RuntimeError in a fork."""
    check_not_forked()
    if np.ndim(weights) != 1:
        raise UserError(
            f"this GMM has leading axes {np.shape(weights)[:-1]}, so it is many mixtures: jax.vmap(lambda g: {call})(gmm)."
        )


def unknown(what: str, value: object, choices: Iterable[str]) -> UserError:
    """The error for a name that isn't one of `choices`, with the nearest one."""
    choices = list(choices)
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return UserError(f"unknown {what} {value!r}{hint} Choose from {', '.join(choices)}.")


def rows_named(bad: np.ndarray, first: int = 0) -> str:
    """The first of the rows where `bad` is true, for a message; `first` is the number of the first of all."""
    rows = np.flatnonzero(bad) + first
    more = f" and {rows.size - _SHOWN} more" if rows.size > _SHOWN else ""
    return f"row{'s' if rows.size > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{more}"


def _finite_rows(x: np.ndarray) -> np.ndarray:
    # min and max let NaN and inf through without an array of N x D booleans; most data end here.
    if np.isfinite(x.min()) and np.isfinite(x.max()):
        return np.ones(len(x), bool)
    return np.isfinite(x).all(axis=1)


def floating(x: ArrayLike, name: str) -> Array:
    """`x` as a float array (numpy or JAX, as it came); integers and booleans become float64.

    Raises:
        TypeError: strings, objects, complex numbers, dates.
    """
    array: Numbers
    if isinstance(x, jax.Array):  # traced ones too
        array = x
    elif (numbers := frames.to_numbers(x, name)) is not None:
        array = numbers
    else:
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise UserError(f"{name} is not a rectangular array: {error}. Give every row the same length.") from None
    kind = array.dtype.kind
    if np.ma.is_masked(x) and kind in "biuf":
        array = np.ma.filled(np.ma.asarray(x).astype(array.dtype if kind == "f" else float), np.nan)
        kind = "f"
    if kind in "biu" or (kind == "f" and array.dtype.itemsize > 8):
        array = array.astype(float)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        # A view of one's own: JAX 0.12 remembers the device's copy of an array object that NumPyro has run on, in float32, and
        # would hand it out again inside `enable_x64`.
        return on_host(array.view()) if isinstance(array, np.ndarray) else array
    if hasattr(x, "toarray"):
        raise UserTypeError(f"{name} is a sparse matrix; a Gaussian mixture needs dense rows: {name}.toarray().")
    if hasattr(x, "parts"):
        raise UserTypeError(
            f"{name} comes in pieces, which fit, compare, fit_vb and posterior take: ask for one piece after the other."
        )
    raise UserTypeError(
        f"{name} has dtype {array.dtype}, but a Gaussian mixture needs real numbers: "
        f"select the numeric columns, then {name}.astype(float)."
    )


def check_rows(
    x: ArrayLike,
    name: str = "x",
    *,
    n_features: int | None = None,
    feature_names: Sequence[str] | None = None,
    min_rows: int = 1,
    missing: bool = False,
) -> Float[Array, "N D"]:
    """`x` as an (N, D) float array of finite numbers, or of missing ones, as it came (numpy stays numpy, JAX stays JAX).

    Args:
        x: array-like or frame, (N, D).
        name: the argument's name in error messages.
        n_features: the D that is asked for, if known.
        feature_names: the columns that are asked for, if they have names: a frame's are put in this order.
        min_rows: the fewest rows that make sense.
        missing: NaN is a missing value, and allowed.

    Raises:
        TypeError: not real numbers.
        ValueError: not two-dimensional, empty, too few rows, another D or other columns, infinite entries, or NaN.
    """
    array = floating(frames.ordered(x, feature_names, name), name)
    if array.ndim == 1:
        raise UserError(
            f"{name} has shape {array.shape}, one dimension, but rows x columns are needed: "
            f"{name}.reshape(-1, 1) if it holds one feature, {name}.reshape(1, -1) if it is one sample."
        )
    if array.ndim != 2:
        raise UserError(f"{name} has shape {array.shape}; two dimensions are needed, (n_samples, n_features).")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise UserError(f"{name} is empty: shape {array.shape}. Give at least one row and one column.")
    if n_features is not None and array.shape[1] != n_features:
        raise UserError(
            f"{name} has {array.shape[1]} columns, but the mixture has {n_features} features: "
            "give the same columns in the same order."
        )
    if array.shape[0] < min_rows:
        raise UserError(f"{name} has {array.shape[0]} row, but at least {min_rows} are needed to estimate a covariance.")
    if not is_traced(array):
        host = np.asarray(array)
        finite = _finite_rows(host)
        if not finite.all():
            infinite = np.isinf(host).any(axis=1)
            if infinite.any():
                raise UserError(f"{name} has infinite values in {rows_named(infinite)}. Drop or clip them.")
            gaps = np.isnan(host).any(axis=1)
            if not missing:
                whole = f"{name}.dropna()" if hasattr(x, "dropna") else f"{name}[~np.isnan({name}).any(axis=1)]"
                ways = "drop these rows, or fill them in"
                if name.isidentifier():
                    ways = f"drop these rows, {whole}, or fill them in, {name} = fit({name}, ...).gmm.impute({name})"
                raise UserError(
                    f"{name} has missing values (NaN) in {rows_named(gaps)}. fit, fit_vb, compare, posterior and a mixture's "
                    f"answers about rows in memory take them, this doesn't: {ways}."
                )
    return array


def check_seen(x: ArrayLike, present: np.ndarray | None = None) -> None:
    """Raises ValueError where a row, of those that are present, has no value but NaN."""
    nothing = np.isnan(np.asarray(x)).all(axis=1)
    nothing = nothing if present is None else nothing & present
    if nothing.any():
        raise UserError(f"x has no value at all in {rows_named(nothing)}; that says nothing: drop such rows.")


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> Float[Array, " N"] | None:
    """`sample_weight` as an (N,) float array, or None.

    Raises:
        ValueError: another length, negative, not finite, or all zero.
    """
    if sample_weight is None:
        return None
    weight = floating(sample_weight, "sample_weight")
    if weight.shape != (n_samples,):
        raise UserError(f"sample_weight has shape {weight.shape}; one weight a row is needed, ({n_samples},).")
    if not is_traced(weight):
        host = np.asarray(weight)
        if not np.isfinite(host).all():
            raise UserError(f"sample_weight is NaN or infinite in {rows_named(~np.isfinite(host))}.")
        if (host < 0).any():
            raise UserError(f"sample_weight is negative in {rows_named(host < 0)}; weights count rows, so 0 is the least.")
        if not host.any():
            raise UserError("sample_weight is zero for every row, so there are no data. Give some rows a positive weight.")
    return weight


def is_finite_number(value: object) -> bool:
    """True for a finite real number, NumPy's included; booleans are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def check_rtol(rtol: float) -> None:
    """Raises ValueError where `rtol` isn't a number of at least 0."""
    if not is_finite_number(rtol) or rtol < 0:
        raise UserError(f"rtol must be a number >= 0 (nats per unit of weight), got {rtol!r}.")


def check_count(value: int, name: str, least: int = 1) -> int:
    """`value` as an int of at least `least`.

    Raises:
        TypeError: not a whole number.
        ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserTypeError(f"{name} must be a whole number, got {value!r} ({type(value).__name__}).")
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def check_steps(max_steps: int) -> int:
    """`max_steps` as an int of at least 1 that memory has room for: loops keep their objective after each step.

    Raises:
        TypeError: not a whole number.
        ValueError: too small or too large.
    """
    max_steps = check_count(max_steps, "max_steps")
    if max_steps > MOST_STEPS:
        raise UserError(
            f"max_steps must be at most {MOST_STEPS}, got {max_steps}: the objective after each step is kept in memory. "
            "What has not converged by then needs a larger rtol, or another start."
        )
    return max_steps


def check_path(path: object, name: str = "path") -> Path:
    """`path` as a Path.

    Raises:
        TypeError: not a string or a path, such as None or an open file.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise UserTypeError(f"{name} must be a string or a pathlib.Path, got {path!r} ({type(path).__name__}).")
    return Path(path)
