"""Rows however they were seen, as compiled functions take them: an array, with what is known of their labels, or by pattern."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.data.observed import Observed, by_pattern, has_gaps, spread
from jaxgmm.data.padding import pad_rows, padded_rows
from jaxgmm.data.source import Labelled
from jaxgmm.tools.types import Numbers, on_host

type Rows = Array | Labelled | Observed


class Seen(NamedTuple):
    """Rows and what is known of them besides, checked, on the host.

    Attributes:
        x: (N, D), NaN where a value is missing.
        weight: (N,), or None where every row counts once.
        errors: (N, D) variances or (N, D, D) covariances of their errors of measurement; None without.
        evidence: (N, K), of their labels, as `Labelled` has it; None where none is known.
        censored: (N, D), -1 where x is an upper limit, 1 where a lower one, 0 where it was measured; None without limits.
        box: (2, D), corners of the box over which those that may be noise are uniform; None where no row may be.
    """

    x: Float[Numbers, "N D"]
    weight: Float[Numbers, " N"] | None = None
    errors: Float[np.ndarray, "N ..."] | None = None
    evidence: Float[np.ndarray, "N K"] | None = None
    censored: Int[np.ndarray, "N D"] | None = None
    box: Float[np.ndarray, "2 D"] | None = None

    @property
    def log_widths(self) -> Float[np.ndarray, " D"] | None:
        """Of the box."""
        return None if self.box is None else np.log(self.box[1] - self.box[0])

    @property
    def partly(self) -> bool:
        """Whether not all is seen, or not exactly."""
        return self.errors is not None or self.censored is not None or has_gaps(self.x)

    def take(self, index: Int[np.ndarray, " M"]) -> "Seen":
        """Some of the rows."""
        parts: Any = (None if part is None else np.asarray(part)[index] for part in self[:-1])
        return Seen(*parts)._replace(box=self.box)

    def placed(self, dtype: np.dtype, *, padded: bool = False) -> "Placed":
        """The rows on the device; to be called inside `precision.scope`. `padded`: those that were seen wholly, so that few
        numbers of them share programs.
        """
        n_samples = len(self.x)
        if not self.partly:
            host = np.asarray(self.x).astype(dtype, copy=False)
            host = padded_rows(host) if padded else host
            known: list[Any] = [np.ones(n_samples) if self.weight is None else self.weight]
            known += [] if self.evidence is None else [self.evidence]
            weight, *evidence = (jax.device_put(pad_rows(np.asarray(values).astype(dtype), len(host))) for values in known)
            x = jax.device_put(host)
            places = None if len(host) == n_samples else np.arange(n_samples)
            return Placed(Labelled(x, *evidence) if evidence else x, weight, places, None)
        observed, places = by_pattern(np.asarray(self.x).astype(dtype), self.errors, self.censored, self.box)
        n_places = int(np.prod(observed.values.shape[:3]))
        each_once = np.ones(n_samples) if self.weight is None else np.asarray(self.weight)
        weight = jax.device_put(spread(each_once.astype(dtype), places, (n_places,)))
        if self.evidence is not None:
            at_places = spread(self.evidence.astype(dtype), places, observed.values.shape[:3])
            observed = dataclasses.replace(observed, evidence=on_host(at_places))
        everywhere = np.asarray(observed.seen)[np.asarray(observed.pattern)][:, :, None]
        seen = np.broadcast_to(everywhere, observed.values.shape).reshape(n_places, -1)
        return Placed(jax.tree.map(jax.device_put, observed), weight, places, seen)


class Placed(NamedTuple):
    """Rows on the device, each at one of M places.

    Attributes:
        rows: as they were seen.
        weight: (M,), 0 at places without a row.
        places: (N,), of the rows; None where each place has its row.
        seen: (M, D), which features were, on the host; None for all.
    """

    rows: Rows
    weight: Float[Array, " M"]
    places: Int[np.ndarray, " N"] | None
    seen: Bool[np.ndarray, "M D"] | None

    @property
    def n_places(self) -> int:
        """M."""
        return n_places(self.rows)

    def in_order(self, values: Any, axis: int = 0) -> np.ndarray:
        """Answers for the places, as answers for the rows."""
        host = np.asarray(values)
        return host if self.places is None else host.take(self.places, axis)


def n_places(rows: Rows) -> int:
    """M, of the rows."""
    if isinstance(rows, Observed):
        return int(np.prod(rows.values.shape[:3]))
    return (rows.x if isinstance(rows, Labelled) else rows).shape[0]


def shifted_rows(rows: Rows, shift: Float[Array, " D"]) -> Rows:
    """The rows less `shift`."""
    if isinstance(rows, Observed):
        return rows.shifted(shift)
    return Labelled(rows.x - shift, rows.evidence) if isinstance(rows, Labelled) else rows - shift


def roots_of(errors: np.ndarray) -> Float[np.ndarray, "N D D"]:
    """Matrices whose squares, R R', are the covariances of rows' errors, given as such or as variances (N, D)."""
    if errors.ndim == 2:
        return np.sqrt(np.maximum(errors, 0))[:, :, None] * np.eye(errors.shape[1])
    values, vectors = np.linalg.eigh(errors)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None]
