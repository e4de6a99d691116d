"""The arguments of `fit` and its kin, made into what they stand for: rows, a start, a step."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource, Pieces, Processes, Source, as_source
from jaxgmm.data.measurement import check_errors, in_order
from jaxgmm.data.moments import rows_of_frequencies
from jaxgmm.data.observed import check_columns
from jaxgmm.data.spread import is_spread, spread_source
from jaxgmm.fitting.batch import Given
from jaxgmm.fitting.em_step import EM
from jaxgmm.fitting.noise import Noise
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.seeds import METHODS
from jaxgmm.fitting.squarem import Squarem
from jaxgmm.fitting.starts import check_rank
from jaxgmm.model.asking import Censored, Errors, sides_of
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.holding import Held
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.blocks import SHORT_LENGTHS
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_count, floating, is_finite_number, unknown

STOPPING = ("relative", "aitken")
ACCELERATION = ("auto", "squarem")
# With no more rows, which are padded to so many, a fit takes hardly longer than SQUAREM does to compile.
_NOT_WORTH_COMPILING = SHORT_LENGTHS[0]
MOST_TRUNCATED = 1e-8  # more, and what is left out would pass for a fall of the objective

type Init = str | Mixture | ArrayLike | Sequence[int]


def noise_in(init: object) -> Noise | None:
    """The noise that a start holds: a fit may."""
    return init.noise if isinstance(init, Fit) else None


def names_in(init: object) -> tuple[str, ...] | None:
    """The features' names that a start knows: a mixture does."""
    return as_gmm(init).feature_names if isinstance(init, Mixture) else None


def errors_of(error_covariances: Errors, x: object, source: Source) -> np.ndarray | None:
    """The errors of rows in memory, checked, with features in the order of the source's."""
    if error_covariances is None:
        return None
    if not isinstance(source, ArraySource):
        raise UserError("error_covariances are given, but x comes in pieces, or is spread over devices: put the rows together.")
    ordered = in_order(error_covariances, x, source.feature_names)
    return check_errors(ordered, source.x, np.asarray(source.weight) > 0)


def censored_of(censored: Censored, x: object, source: Source, errors: np.ndarray | None, family: str) -> np.ndarray | None:
    """Which values of rows in memory are limits, checked, with features in the order of the source's; None where none is."""
    if censored is None:
        return None
    if not isinstance(source, ArraySource):
        raise UserError("censored is given, but x comes in pieces, or is spread over devices: put the rows together.")
    present = np.asarray(source.weight) > 0
    sides = sides_of(censored, x, source.x, source.feature_names, present, errors=errors, family=family)
    if sides is None:
        return None
    measured = on_host(np.where(sides == 0, np.asarray(source.x), np.nan))
    check_columns(dataclasses.replace(source, x=measured), present, " but limits, beyond which it could be anywhere")
    return sides


def source_of(
    x: Any, sample_weight: Float[ArrayLike, " N"] | None, names: tuple[str, ...] | None, *, missing: bool = True
) -> Source:
    """Rows in memory, spread over devices, or in pieces, checked; columns in the order of `names`, if they are known."""
    if is_spread(x):
        spread = spread_source(x, sample_weight, 2, names)
        if rows_of_frequencies(spread.total_weight, spread.n_present) != 1:
            raise UserError("sample_weight adds up to 1, and x is spread over devices: multiply it by the number of rows.")
        return spread
    if not isinstance(x, Pieces | Processes):
        return as_source(x, sample_weight, min_rows=2, feature_names=names, missing=missing)
    if sample_weight is not None:
        raise UserError("sample_weight is given, but x comes in pieces, each of which has its own: (rows, weights).")
    pieces = x.ordered(names)
    if pieces.n_present < 2:
        raise UserError(f"x has {pieces.n_present} row of positive weight, but at least 2 are needed to estimate a covariance.")
    if rows_of_frequencies(pieces.total_weight, pieces.n_present) != 1:
        raise UserError("the weights of x, which comes in pieces, add up to 1: multiply them by the number of rows.")
    return pieces


def resolve_init(init: Init, n_components: int | None, family: str, source: Source) -> tuple[Given, int, str]:
    """The given start (None for a named method), K and the family."""
    family = get_family(family).name
    if n_components is not None:
        n_components = check_count(n_components, "n_components")
    if isinstance(init, Mixture):
        init = as_gmm(init)
    if isinstance(init, str):
        if init not in METHODS:
            raise unknown("init", init, METHODS)
        if n_components is None:
            raise UserError(
                f"n_components is needed with init={init!r}; only init=responsibilities, init=labels or a GMM hold it."
            )
        check_rows_for(n_components, source.n_present)
        return None, n_components, family
    if isinstance(init, GMM):
        if init.weights.ndim != 1:
            raise UserError(f"init is a GMM with leading axes {init.weights.shape[:-1]}; one mixture is needed.")
        if init.n_features != source.n_features:
            raise UserError(f"init is a GMM of {init.n_features} features, but x has {source.n_features} columns.")
        if family not in ("full", init.family):
            raise UserError(f"family is {family!r}, but init is a GMM of family {init.family!r}: leave family out.")
        given: Given = init
        held, family = init.n_components, init.family
    elif not isinstance(source, ArraySource):
        raise UserError(
            "init is labels or responsibilities, but x comes in pieces, or is spread over devices: give a GMM, or the name of "
            "a way to start."
        )
    else:
        given, held = check_assigned(init, source.n_samples)
    if n_components not in (None, held):
        raise UserError(f"n_components is {n_components}, but init holds {held} components: leave n_components out.")
    check_rows_for(held, source.n_present)
    return given, held, family


def check_family(family: str, n_features: int, partly: bool = False) -> None:
    """Raises ValueError where a family can't be fitted to so many features, or to rows that weren't seen wholly."""
    kind = get_family(family)
    if kind.structure.rank and partly:
        raise UserError(
            f"family {family!r} takes rows that were seen wholly, without errors and limits: take {kind.general!r}."
        )
    check_rank(family, n_features)


def check_rows_for(n_components: int, n_rows: int) -> None:
    """Raises ValueError where there are more components than rows of positive weight."""
    if n_components > n_rows:
        raise UserError(
            f"n_components is {n_components}, but x has {n_rows} rows of positive weight, and a component without a row is "
            "nothing but its prior. Use fewer components."
        )


def check_truncate(truncate: float, family: str, source: Source, dtype: np.dtype, others: Mapping[str, bool]) -> float:
    """Raises ValueError where components can't be left out; `others` are the options that it doesn't go with, by name."""
    if not is_finite_number(truncate) or not 0 <= truncate <= MOST_TRUNCATED:
        raise UserError(
            f"truncate must be 0 or a share of a row's density, such as 1e-9, and at most {MOST_TRUNCATED:g}; got {truncate!r}."
        )
    if truncate:
        structure = get_family(family).structure
        if structure.pooled or structure.rank:
            raise UserError(f"truncate={truncate:g} is for components with covariances of their own: not family={family!r}.")
        if not isinstance(source, ArraySource):
            raise UserError(f"truncate={truncate:g} needs x in memory, on one device, to put rows in order: use truncate=0.")
        for name, given in others.items():
            if given:
                raise UserError(f"truncate={truncate:g} doesn't go with {name}: use truncate=0.")
        if dtype != np.float64:
            raise UserError(f"truncate={truncate:g} needs float64, but this device computes in {dtype}: use truncate=0.")
    return float(truncate)


def step_of(
    held: Held,
    stopping: str,
    acceleration: str | None,
    given: Given,
    n_rows: int,
    *,
    left: bool = False,
) -> EM:
    """The loop's step; `left` says that something besides the parameters is to be fitted.

    Raises:
        ValueError: arguments that can't be used, alone or with this start.
    """
    if stopping not in STOPPING:
        raise unknown("stopping", stopping, STOPPING)
    if acceleration is not None and acceleration not in ACCELERATION:
        raise unknown("acceleration", acceleration, ACCELERATION)
    if acceleration == "squarem" and stopping == "aitken":
        raise UserError("stopping='aitken' needs successive plain EM steps: use acceleration='auto', or stopping='relative'.")
    if held:
        check_held(held, given, left=left)
    if acceleration == "auto":
        acceleration = "squarem" if n_rows > _NOT_WORTH_COMPILING and stopping == "relative" else None
    return (EM if acceleration is None else Squarem)(held, stopping)


def check_held(held: Held, given: Given, *, left: bool = False) -> None:
    """Raises ValueError where there are no values to hold, or where nothing else is `left` to fit or to draw."""
    if not held.needs_values and not isinstance(given, GMM):
        return
    if not isinstance(given, GMM):
        raise UserError(f"fixed holds {held.in_words} at the values of the start, so init must be a GMM that has them.")
    if not left and held.n_parameters(given) == given.n_parameters:
        raise UserError(f"fixed holds {held.in_words}: nothing is left to fit.")


def check_assigned(init: ArrayLike | Sequence[int], n_samples: int) -> tuple[np.ndarray, int]:
    """Given responsibilities or labels, checked, and the K they hold.

    Raises:
        TypeError: not numbers.
        ValueError: another number of rows; labels that aren't 0..K-1; responsibilities that aren't on the simplex.
    """
    array = np.asarray(floating(np.asarray(init), "init")) if np.ndim(init) == 2 else np.asarray(init)
    if array.ndim not in (1, 2) or array.shape[0] != n_samples:
        raise UserError(
            f"init has shape {array.shape}; (N,) labels or (N, K) responsibilities of the {n_samples} rows are needed."
        )
    if array.ndim == 1:
        if array.dtype.kind not in "iu":
            raise UserTypeError(
                f"init labels must be whole numbers, got dtype {array.dtype}: np.unique(init, return_inverse=True)[1]."
            )
        found = np.unique(array)
        if found[0] != 0 or found[-1] != found.size - 1:
            raise UserError(f"init labels must be 0..K-1 with every label used, got {found[:10].tolist()}.")
        return array.astype(np.int32), found.size
    if not np.isfinite(array).all() or (array < 0).any() or (abs(array.sum(1) - 1) > 1e-4).any():
        raise UserError("init responsibilities must be non-negative, finite, and add up to one in every row.")
    if (array.sum(0) == 0).any():
        empty = np.flatnonzero(array.sum(0) == 0).tolist()
        raise UserError(f"init responsibilities give component {empty} no rows: drop these columns.")
    return array, array.shape[1]
