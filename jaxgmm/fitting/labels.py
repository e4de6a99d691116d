"""What is known of rows' components: labels of some rows, or how probable each component makes what is known."""

import dataclasses

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.data import ArraySource, Source
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import floating, rows_named

UNKNOWN = -1  # label of a row


def with_labels[Rows: Source](source: Rows, labels: ArrayLike | None, n_components: int, *, beside_noise: bool = False) -> Rows:
    """The rows with what is known of their components; arguments and errors as `evidence_of`.

    Raises:
        ValueError: rows that come in pieces; labels of one component beside noise.
    """
    if labels is None:
        return source
    if beside_noise and n_components == 1:
        raise UserError(
            "labels are of one component, beside noise: a row's evidence compares components, so that none says that it isn't "
            "noise. Leave labels out."
        )
    if not isinstance(source, ArraySource):
        raise UserError("labels are given, but x comes in pieces, or is spread over devices: put the rows together.")
    evidence = evidence_of(labels, source.n_samples, n_components, np.asarray(source.weight) > 0)
    return dataclasses.replace(source, evidence=on_host(evidence))


def evidence_of(labels: ArrayLike, n_samples: int, n_components: int, present: np.ndarray) -> Float[np.ndarray, "N K"]:
    """Log p(what is known of a row | component), less its greatest: 0 for all where nothing is known.

    Args:
        labels: (N,) whole numbers, -1 where they aren't known; or (N, K), not negative.
        n_samples: N.
        n_components: K.
        present: (N,), rows of positive weight.

    Raises:
        TypeError: not numbers.
        ValueError: another number of rows or components, labels out of range, rows that no component could have, components
            that could have no row.
    """
    given = np.asarray(labels)
    if given.ndim == 1:
        _check_codes(given, n_samples, n_components)
        likelihood = np.where((given == UNKNOWN)[:, None], 1.0, np.arange(n_components) == given[:, None])
    else:
        likelihood = np.asarray(floating(given, "labels"), float)
        if likelihood.shape != (n_samples, n_components):
            raise UserError(
                f"labels has shape {likelihood.shape}; ({n_samples},) labels, or ({n_samples}, {n_components}) probabilities "
                "of what is known given each component, are needed."
            )
        bad = ~np.isfinite(likelihood).all(1) | (likelihood < 0).any(1)
        if bad.any():
            raise UserError(f"labels is negative, NaN or infinite in {rows_named(bad)}; ones say that nothing is known.")
        nowhere = ~(likelihood > 0).any(1)
        if nowhere.any():
            raise UserError(f"labels is zero for every component in {rows_named(nowhere)}; ones say that nothing is known.")
    possible = (likelihood[present] > 0).any(0)
    if not possible.all():
        raise UserError(
            f"labels leave no row for component {np.flatnonzero(~possible).tolist()}: use fewer components, or label fewer "
            "rows."
        )
    with np.errstate(divide="ignore"):
        return np.log(likelihood / likelihood.max(1, keepdims=True))


def _check_codes(given: np.ndarray, n_samples: int, n_components: int) -> None:
    if given.dtype.kind not in "iu":
        raise UserTypeError(
            f"labels must be whole numbers, -1 where they aren't known, got dtype {given.dtype}: "
            "pandas.factorize(labels)[0] makes them, of any kind and with gaps."
        )
    if given.shape != (n_samples,):
        raise UserError(f"labels has shape {given.shape}, but x has {n_samples} rows.")
    outside = (given < UNKNOWN) | (given >= n_components)
    if outside.any():
        raise UserError(
            f"labels has {given[outside][0]} in {rows_named(outside)}; 0 to {n_components - 1}, the components, or -1 where "
            "the component isn't known, is needed."
        )


def n_labelled(source: Source) -> int:
    """Rows of positive weight of which something is known."""
    evidence = _evidence(source)
    return 0 if evidence is None else int((evidence < 0).any(1).sum())


def all_labelled(source: Source) -> bool:
    """Whether each component has a row of positive weight that can be of no other: then there is one start."""
    evidence = _evidence(source)
    if evidence is None:
        return False
    possible = evidence > -np.inf
    return bool(possible[possible.sum(1) == 1].any(0).all())


def _evidence(source: Source) -> np.ndarray | None:
    """Of the rows of positive weight."""
    if not isinstance(source, ArraySource) or source.evidence is None:
        return None
    return np.asarray(source.evidence)[np.asarray(source.weight) > 0]


def in_dtype(source: ArraySource, dtype: np.dtype) -> ArraySource:
    """The rows, with evidence in the dtype to compute in."""
    if source.evidence is None:
        return source
    return dataclasses.replace(source, evidence=on_host(np.asarray(source.evidence).astype(dtype)))


def check_labels_of_start(source: Source, given: object) -> None:
    """Raises ValueError where a start has weight 0 for all components that a row could be of."""
    evidence = _evidence(source)
    if evidence is None or not isinstance(given, GMM):
        return
    nowhere = ~((evidence > -np.inf) & (np.asarray(given.weights) > 0)).any(1)
    if nowhere.any():
        empty = np.flatnonzero(np.asarray(given.weights) == 0).tolist()
        raise UserError(f"labels has rows of components {empty}, which have weight 0 in init: drop them, or label otherwise.")
