"""`fit_groups`: a mixture for each of many data sets, all of them fitted as a few compiled batches."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.covariance import get_family
from jaxgmm.data.moments import Moments, column_moments
from jaxgmm.fitting.arguments import check_family
from jaxgmm.fitting.group_batch import GroupBatch, starts_of
from jaxgmm.fitting.group_fits import OUT_OF_RANGE, TOO_FEW, BestStarts, GroupFits
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.seeds import METHODS
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.model.default_prior import check_name
from jaxgmm.model.prior import Prior
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.hints import OF_STARTS, keywords
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.validation import check_count, check_key, check_rows, check_rtol, check_steps, host_only, key_data, unknown

_LENGTHS = 64, 512, 4096, 32_768, 262_144  # to which the rows of a group are padded; an eighth of it is summed at a time
_NUMBERS = 1 << 22  # rows and responsibilities of the starts that are stepped together
_NUMBERS_IN_A_TURN = 1 << 26  # and of those that are at hand, with copies of their rows: half a gigabyte
_LEAST_PLACES, _MOST_PLACES = 16, 128
_BY = ("bic", "aic")
_NAMED = 5  # groups, in a warning

_MEANING = {
    TOO_FEW: "fewer rows than components, or than the 2 that a covariance takes.",
    OUT_OF_RANGE: "columns too large or too small for squares of them to be numbers: rescale them.",
}


@keywords(**OF_STARTS)
def fit_groups(
    x: Float[ArrayLike, "N D"] | Sequence[Any],
    groups: Sequence[Any] | ArrayLike | None = None,
    *,
    n_components: int | Sequence[int],
    key: Array,
    family: str = "full",
    prior: Prior | Change | str | None = "default",
    criterion: str = "bic",
    init: str = "k-means++",
    n_init: int = 4,
    rtol: float = 1e-8,
    max_steps: int = 500,
    progress: OfProgress = "auto",
) -> GroupFits:
    """A mixture for each of many groups of rows, as `fit` would fit it: thousands of genes, sensors or customers in one call.

    Groups are sorted by size, padded by rows of weight 0 and stepped side by side; one that has stopped makes room for the
    next. Each has its own default prior, its own status, and its own number of components where there is a choice. A group
    that can't be fitted is a row of the table that says so, and a warning.

    Args:
        x: (N, D) rows, an array or a frame, of which `groups` says whose they are; (G, N, D), as many rows in each group; or G
            arrays or frames of (N_g, D).
        groups: (N,), the label of each row, without missing values; or with (G, N, D) or G arrays, G labels of the groups,
            each once; default 0, 1, ....
        n_components: K, or several, of which `criterion` chooses for each group; those that are more than its rows are left
            out.
        key: a PRNG key. A group's seeds depend on its place among the others.
        family: as for `fit`.
        prior: as for `fit`. "default" and functions are made for each group; a `Prior` is that of all, and, but for
            concentrations, of all components.
        criterion: "bic" or "aic".
        init: "k-means++" or "random".
        n_init: starts for each group and number of components.
        rtol: as for `fit`.
        max_steps: as for `fit`.
        progress: True, a progress bar; "auto", one in a terminal or in Jupyter that appears after two seconds; or a function
            that is called with (starts done, starts in all).

    Raises:
        TypeError, ValueError: arguments that can't be used: named. Groups of different columns, labels that are missing.

    Warns:
        FitWarning: groups without a fit, or whose best start has not converged: counted, some named.

    Example:
        >>> import jax, jaxgmm as jg, numpy as np
        >>> x, sensors = np.r_[np.arange(9.0), 20 + np.arange(9.0)][:, None], np.repeat(["a", "b"], 9)
        >>> fits = jg.fit_groups(x, sensors, n_components=[1, 2], key=jax.random.key(0))
        >>> fits.table["n_components"].tolist(), fits["b"].means.round(3).tolist()
        ([1, 1], [[24.0]])
    """
    host_only("fit_groups", x, key)
    check_key(key)
    family, sizes = get_family(family).name, _sizes(n_components)
    if init not in METHODS:
        raise unknown("init", init, METHODS)
    if criterion not in _BY:
        raise unknown("criterion", criterion, _BY)
    n_init, max_steps = check_count(n_init, "n_init"), check_steps(max_steps)
    check_rtol(rtol)
    if isinstance(prior, str):
        check_name(prior)
    rows, labels, names = _split(x, groups)
    check_family(family, rows[0].shape[1])
    dtype = np.dtype(np.float64) if precision.platform(rows[0]) == "cpu" else precision.compute_dtype(rows[0])
    kind, most = get_family(family), max(sizes)
    counts = np.array([len(own) for own in rows])
    uniforms = np.random.default_rng(np.asarray(key_data(key)).tolist()).random((len(rows), len(sizes), n_init, most))
    best = BestStarts(counts, sizes, most, rows[0].shape[1], kind, dtype)
    moments = _moments(rows, np.flatnonzero(counts >= max(2, min(sizes))), best, kind.structure.dense, dtype)
    pending, done = np.array(sorted(moments), int), 0
    total = n_init * sum(int((counts[pending] >= k).sum()) for k in sizes)
    with precision.scope(dtype), reporter(progress, "fit_groups", "start") as report:
        for least, length in _lengths(counts[pending]):
            own = pending[(counts[pending] > least) & (counts[pending] <= length)]
            own = own[np.argsort(-counts[own], kind="stable")]  # those that take longest first
            n_starts = n_init * sum(int((counts[own] >= k).sum()) for k in sizes)
            size = length * (rows[0].shape[1] + most)
            most_places = min(_MOST_PLACES, max(_LEAST_PLACES, _NUMBERS // size))
            places = min(most_places, max(_LEAST_PLACES, 1 << (n_starts - 1).bit_length()))
            for some in _turns(own, counts, sizes, n_init, max(places, _NUMBERS_IN_A_TURN // size)):
                starts = starts_of(some, counts, sizes, n_init)
                batch = GroupBatch.of([(rows[g], moments[g]) for g in some], sizes, length, kind, prior, dtype)
                search = batch.climb(starts, uniforms[some], sizes, most, init, rtol, max_steps, places)
                best.take(some, starts, search, rtol)
                done += len(starts.group)
                if report is not None:
                    report(done, total)
    fits = best.chosen(labels, criterion, names, precision.parameter_dtype(rows[0]))
    _warn(fits.table)
    return fits


def _sizes(n_components: Any) -> tuple[int, ...]:
    if np.ndim(n_components) == 0:
        return (check_count(n_components, "n_components"),)
    sizes = tuple(check_count(k, f"n_components[{i}]") for i, k in enumerate(n_components))
    if not sizes or len(set(sizes)) < len(sizes):
        raise UserError(f"n_components must be a number, or several that differ, got {list(n_components)}.")
    return sizes


def _split(x: Any, groups: Any) -> tuple[list[np.ndarray], pd.Index, tuple[str, ...] | None]:
    """The rows of each group, the groups' labels, and the names of the columns."""
    if not isinstance(x, list | tuple) and np.ndim(x) == 3:
        x = list(np.asarray(x))
    if isinstance(x, list | tuple) and len(x) and np.ndim(x[0]) >= 2:
        return _listed(x, groups)
    if groups is None:
        raise UserError("groups is needed: the label of each row of x; or give x as a list of arrays, one for each group.")
    rows, names = np.asarray(check_rows(x, "x")), frames.feature_names(x)
    labels = _labels(groups, len(rows), "row")
    codes, index = pd.factorize(labels, sort=True)
    order = np.argsort(codes, kind="stable")
    parts = np.split(rows[order], np.cumsum(np.bincount(codes))[:-1])
    return parts, pd.Index(index, name="group"), names


def _listed(x: Sequence[Any], groups: object) -> tuple[list[np.ndarray], pd.Index, tuple[str, ...] | None]:
    names = frames.feature_names(x[0], "x[0]")
    labels = _labels(range(len(x)) if groups is None else groups, len(x), "group")
    if not labels.is_unique:
        raise UserError(f"groups names a group twice: {labels[labels.duplicated()][0]!r}.")
    width, rows = np.shape(x[0])[1], []
    for i, own in enumerate(x):
        if np.ndim(own) == 2 and len(own) == 0:
            rows.append(np.empty((0, width)))
            continue
        one = np.asarray(check_rows(own, f"x[{i}]", feature_names=names))
        if one.shape[1] != width:
            raise UserError(f"x[{i}] has {one.shape[1]} columns, but x[0] has {width}: groups must have the same features.")
        rows.append(one)
    return rows, labels, names


def _labels(groups: Any, n: int, thing: str) -> pd.Index:
    """The labels, of any kind that can be hashed and sorted; tuples are labels, too."""
    shape: tuple[int, ...] = (len(groups),) if hasattr(groups, "__len__") else ()
    if hasattr(groups, "shape"):
        shape = tuple(groups.shape)
    if isinstance(groups, str) or len(shape) != 1:
        raise UserError(f"groups must be one label for each {thing}, ({n},), got {type(groups).__name__} of shape {shape}.")
    if shape[0] != n:
        raise UserError(f"groups has {shape[0]} labels, but x has {n} {thing}s.")
    labels = pd.Index(groups if hasattr(groups, "dtype") else list(groups), name="group", tupleize_cols=False)
    if labels.hasnans:
        missing = int(np.flatnonzero(labels.isna())[0])
        raise UserError(f"groups has no label for {thing} {missing}: drop such {thing}s, or name them.")
    return labels


def _moments(rows: list[np.ndarray], some: np.ndarray, best: BestStarts, dense: bool, dtype: np.dtype) -> dict[int, Moments]:
    """Of these groups, but for those whose squares aren't numbers, which are marked so."""
    found = {}
    for g in some.tolist():
        try:
            found[g] = column_moments(rows[g], np.ones(len(rows[g])), dense, dtype, on_host=True)
        except UserError:
            best.out_of_range(g)
    return found


def _lengths(counts: np.ndarray) -> list[tuple[int, int]]:
    """Padded lengths that there are groups for, longest first, each with the next shorter one."""
    if counts.size and counts.max() > _LENGTHS[-1]:
        raise UserError(f"a group has {counts.max()} rows, more than the {_LENGTHS[-1]} that fit_groups is for: fit it alone.")
    used = np.unique(np.searchsorted(_LENGTHS, counts)).tolist()
    return [(0 if i == 0 else _LENGTHS[i - 1], _LENGTHS[i]) for i in reversed(used)]


def _turns(own: np.ndarray, counts: np.ndarray, sizes: Sequence[int], n_init: int, most: int) -> Iterator[np.ndarray]:
    """Groups in turns of at most so many starts together."""
    each = np.cumsum([n_init * sum(counts[g] >= k for k in sizes) for g in own])
    turn = (each - 1) // most
    for t in np.unique(turn):
        yield own[turn == t]


def _warn(table: pd.DataFrame) -> None:
    """Of groups whose fits can't be trusted as they are."""
    for status, part in table.groupby("status"):
        if status == Status.converged.name:
            continue
        named = ", ".join(map(repr, part.index[:_NAMED].tolist())) + (", ..." if len(part) > _NAMED else "")
        meaning = _MEANING.get(status) or Status[status].meaning
        warnings.warn(f"{len(part)} of {len(table)} groups ended as {status!r} ({named}): {meaning}", FitWarning, stacklevel=4)
