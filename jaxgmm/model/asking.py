"""How a mixture is asked about rows: arguments are checked, rows padded or sorted by pattern, and answers put back in order."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.covariance import get_family
from jaxgmm.data import Pieces, Processes
from jaxgmm.data.measurement import check_censored, check_errors, in_order, of_row
from jaxgmm.data.observed import by_pattern, has_gaps
from jaxgmm.data.padding import first_rows, padded_rows
from jaxgmm.data.source import total as sum_over
from jaxgmm.data.spread import SpreadSource, is_spread, spread_source
from jaxgmm.model import answers
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Numbers
from jaxgmm.tools.validation import check_rows, check_seen, check_single, check_weights, floating, in_jit, is_traced

type Errors = Float[ArrayLike, "N D"] | Float[ArrayLike, "N D D"] | None
type Censored = Int[ArrayLike, "N D"] | None


def ask(gmm: Any, call: str, question: Callable[..., Array], x: Any, errors: Errors = None, censored: Censored = None) -> Any:
    """The answer for each row (N, D), or for one row (D,)."""
    check_single(gmm.weights, f"g.{call}(x)")
    if is_spread(x):
        return _of_spread(gmm, question, spread_source(x, None, 1), errors, censored)
    rows = floating(frames.ordered(x, gmm.feature_names), "x")
    if rows.shape == (gmm.n_features,):
        own = of_row(errors, x, gmm.feature_names), of_row(censored, x, gmm.feature_names, "censored")
        return ask(gmm, call, question, rows[None], *own)[0]
    rows = check_rows(rows, "x", n_features=gmm.n_features, missing=True)
    dtype = precision.compute_dtype(rows, gmm)
    out = precision.answer_dtype(rows, dtype)
    with precision.scope(dtype):
        if _is_traced(gmm, rows, errors, censored):
            return question(precision.fresh(gmm), jnp.asarray(rows), dtype, out)
        known = known_of(gmm, x, rows, errors, censored)
        said = _of_rows(gmm, lambda *asked: question(*asked[:2], dtype, out, *asked[2:]), rows, known)
    return precision.keep(said)


# Of the number of parameters, and of the weights, log densities and complete-data log densities of the rows.
TOTALS: dict[str, Callable[[int, Any, Any, Any], Any]] = {
    "log_likelihood": lambda p, w, log_prob, complete: (w * log_prob).sum(),
    "aic": lambda p, w, log_prob, complete: 2 * p - 2 * (w * log_prob).sum(),
    "bic": lambda p, w, log_prob, complete: p * jnp.log(w.sum()) - 2 * (w * log_prob).sum(),
    "icl": lambda p, w, log_prob, complete: p * jnp.log(w.sum()) - 2 * (w * complete).sum(),
}


def total(gmm: Any, call: str, x: Any, sample_weight: Any, errors: Errors = None, censored: Censored = None) -> Any:
    """One of `TOTALS`."""
    p, formula = gmm.n_parameters, TOTALS[call]
    check_single(gmm.weights, f"g.{call}(x)")
    if is_spread(x) or isinstance(x, Pieces | Processes):
        return _total_elsewhere(gmm, formula, x, sample_weight, errors, censored)
    rows = check_rows(x, "x", n_features=gmm.n_features, feature_names=gmm.feature_names, missing=True)
    weight = check_weights(sample_weight, rows.shape[0])
    dtype = precision.compute_dtype(rows, gmm, weight)
    with precision.scope(dtype):
        if _is_traced(gmm, rows, errors, censored, weight):
            own = jnp.ones(rows.shape[0], dtype) if weight is None else jnp.asarray(weight, dtype)
            return formula(p, own, *answers.log_prob_and_complete(precision.fresh(gmm), jnp.asarray(rows), dtype).T)
        w = np.ones(rows.shape[0], dtype) if weight is None else np.asarray(weight, dtype)
        known = known_of(gmm, x, rows, errors, censored, w > 0)
        asked = _of_rows(gmm, lambda *asked: answers.log_prob_and_complete(*asked[:2], dtype, *asked[2:]), rows, known, w > 0)
        return float(formula(p, w, *np.asarray(asked).T))


def _total_elsewhere(
    gmm: Any, formula: Callable[..., Any], x: Any, sample_weight: Any, errors: Errors, censored: Censored
) -> float:
    """Of rows that come in pieces, or are spread over devices."""
    _nothing_known(errors, censored, "x comes in pieces, or is spread over devices")
    if sample_weight is not None and not is_spread(x):
        raise UserError("sample_weight is given, but x comes in pieces, each of which has its own: (rows, weights).")
    source = spread_source(x, sample_weight, 1) if is_spread(x) else x.ordered(gmm.feature_names)
    if source.n_features != gmm.n_features:
        raise UserError(f"x has {source.n_features} columns, but the mixture has {gmm.n_features} features.")
    dtype = precision.compute_dtype(source.like, gmm)
    with precision.scope(dtype):
        one = jax.tree.map(lambda leaf: np.asarray(leaf, dtype)[None], gmm)
        sums = np.asarray(sum_over(source, answers.sums_of_rows, one, None), float)[0]
        weight = np.array([source.total_weight])  # as of one row, which counts so often
        return float(formula(gmm.n_parameters, weight, *(sums / weight)[:, None]))


def _of_spread(gmm: Any, question: Callable[..., Array], source: SpreadSource, errors: Errors, censored: Censored) -> Any:
    """The answers for rows that are spread over devices, spread as they are: each device asks about its own."""
    _nothing_known(errors, censored, "x is spread over devices")
    if source.n_features != gmm.n_features:
        raise UserError(f"x has {source.n_features} columns, but the mixture has {gmm.n_features} features.")
    dtype = precision.compute_dtype(source.x, gmm)
    out = precision.answer_dtype(source.x, dtype)
    with precision.scope(dtype):
        return _by_devices(precision.cast(gmm, dtype), source, question, dtype, out)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _by_devices(gmm: Any, source: SpreadSource, question: Callable[..., Array], dtype: np.dtype, out: np.dtype) -> Array:
    return source.map(lambda rows: question(gmm, rows, dtype, out))


def _nothing_known(errors: Errors, censored: Censored, where: str) -> None:
    """Raises ValueError where more is known of rows that can't be sorted by it."""
    for said, given in (("error_covariances are", errors), ("censored is", censored)):
        if given is not None:
            raise UserError(f"{said} given, but {where}: put the rows together.")


def known_of(
    gmm: Any, x: Any, rows: Numbers, errors: Errors, censored: Censored, present: np.ndarray | None = None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Errors of rows, and which of their values are limits: checked, with features in the mixture's order."""
    own = sides = None
    if errors is not None:
        own = check_errors(in_order(errors, x, gmm.feature_names), rows, present)
    if censored is not None:
        sides = sides_of(censored, x, rows, gmm.feature_names, present, errors=own, family=gmm.family)
    return own, sides


def sides_of(
    censored: Censored,
    x: Any,
    rows: Numbers,
    names: Sequence[str] | None,
    present: np.ndarray | None,
    *,
    errors: np.ndarray | None,
    family: str,
) -> np.ndarray | None:
    """Which values of rows are limits, as `check_censored` has it, with features in the order of these names."""
    structure = get_family(family).structure
    correlated, ordered = structure.dense or structure.rank > 0, in_order(censored, x, names, "censored")
    return check_censored(ordered, rows, present, errors=errors, family=family, correlated=correlated)


def _is_traced(gmm: Any, rows: Numbers, errors: Errors, censored: Censored, weight: Any = None) -> bool:
    """Whether JAX traces any of it. Raises where it then can't be done: rows are sorted by pattern on the host."""
    if not (is_traced(rows, gmm, weight, errors, censored) or in_jit()):
        return False
    gaps = not is_traced(rows) and has_gaps(rows)
    for name, given in (
        ("error_covariances", errors is not None), ("limits (censored)", censored is not None), ("missing values", gaps),
    ):  # fmt: skip
        if given:
            raise UserTypeError(f"x has {name}, by which rows are sorted on the host: ask outside of jit, vmap and grad.")
    return True


def _of_rows(
    gmm: Any,
    question: Callable[..., Array],
    rows: Numbers,
    known: tuple[np.ndarray | None, np.ndarray | None],
    present: np.ndarray | None = None,
) -> Any:
    """The answers for rows that aren't traced, beside what `known_of` says of them: `question(gmm, rows)`, with their number
    where they are padded.
    """
    if all(part is None for part in known) and not has_gaps(rows):
        n_rows = np.int32(rows.shape[0])
        return first_rows(question(precision.fresh(gmm), jnp.asarray(padded_rows(rows)), n_rows), rows.shape[0])
    check_seen(rows, present)
    observed, places = by_pattern(np.asarray(rows), *known)
    return jax.device_put(np.asarray(question(precision.fresh(gmm), jax.device_put(observed)))[places])
