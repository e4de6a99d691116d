"""Rows of which not everything was seen, or not exactly: with missing values, errors of measurement of their own, or limits.

What was seen of a row, which features, with which error covariance, and which of them as limits, is its pattern; rows of one
pattern share the algebra of it. They stand together in blocks of one length, several blocks in a group, and sums go from group
to group.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.data.moments import Moments, checked_moments, column_moments, column_steps
from jaxgmm.data.padding import on_device
from jaxgmm.data.source import ArraySource, Source
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.pytree import pytree
from jaxgmm.tools.types import Numbers, on_host

_ROWS_IN_A_GROUP = 2048
_LENGTHS = (1, 8, 64, 512)  # of blocks
_ROWS_FOR_A_BLOCK = 16  # that take as long as what is to be done for a block
_NUMBERS_IN_A_GROUP = 1 << 15  # entries of its patterns' matrices


class Limits(NamedTuple):
    """Which values of patterns are limits of what was measured.

    Attributes:
        order: (M, D), the features, those with limits last.
        sides: (M, C), of the last C in this order: -1 for an upper limit, 1 for a lower one, 0 for none.
    """

    order: Int[Array, "M D"]
    sides: Int[Array, "M C"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Observed:
    """Rows by their M patterns, S groups of G blocks of B rows; blocks are filled up, and so are patterns.

    Attributes:
        values: (S, G, B, D), 0 where nothing was seen.
        pattern: (S, G), of each block.
        seen: (M, D), which features were.
        errors: (M, D) variances or (M, D, D) covariances of their errors of measurement; None without.
        n_groups: (), those that have rows.
        limits: which of the values are limits, of C features of a row at most; None without.
        evidence: (S, G, B, K), of the rows' labels, as `Labelled` has it; None where none is known.
        room: (S, G, B), as `room_beyond` has it, of the box of noise; None where there are no limits, or there is no noise.
    """

    values: Float[Array, "S G B D"]
    pattern: Int[Array, "S G"]
    seen: Bool[Array, "M D"]
    errors: Float[Array, "M ..."] | None
    n_groups: Int[Array, ""]
    limits: Limits | None = None
    evidence: Float[Array, "S G B K"] | None = None
    room: Float[Array, "S G B"] | None = None

    def of_patterns(self, which: Int[Array, " G"]) -> tuple[Bool[Array, "G D"], Float[Array, "G ..."] | None, Limits | None]:
        """What was seen in some of the patterns, with which errors, and which of it as limits."""
        limits = None if self.limits is None else Limits(*(leaf[which] for leaf in self.limits))
        return self.seen[which], None if self.errors is None else self.errors[which], limits

    def shifted(self, shift: Float[Array, " D"]) -> "Observed":
        """The rows less `shift`."""
        values = jax.numpy.where(self.seen[self.pattern][:, :, None], self.values - shift, 0)
        return dataclasses.replace(self, values=values)


@pytree(labels=("feature_names",))
@dataclass(frozen=True, eq=False)
class ObservedSource:
    """A `Source` of rows that have gaps, errors or limits, on the device.

    Attributes:
        rows: by pattern.
        weight: (S, G, B), 0 for what fills blocks up.
        filled: the rows in their order, gaps filled with the columns' means: to start from.
        of_columns: the moments of what was seen.
        feature_names: D names, or None.
    """

    rows: Observed
    weight: Float[Array, "S G B"]
    filled: ArraySource
    of_columns: Moments
    feature_names: tuple[str, ...] | None = None
    traceable: ClassVar[bool] = True
    shared: ClassVar[bool] = False

    @property
    def n_samples(self) -> int:
        """N, padded."""
        return self.filled.n_samples

    @property
    def n_features(self) -> int:
        """D."""
        return self.filled.n_features

    @property
    def n_present(self) -> int:
        """Rows of positive weight."""
        return self.filled.n_present

    @property
    def total_weight(self) -> float:
        """Of all rows."""
        return self.filled.total_weight

    @property
    def like(self) -> Numbers:
        """The filled rows."""
        return self.filled.x

    def reduce(self, f: Callable[[Any, Array], Any]) -> Any:
        """`f` of the rows by pattern, and their weights."""
        return f(self.rows, self.weight)

    def whole(self, f: Callable[[Any], Any]) -> Any:
        """`f` of the rows by pattern."""
        return f(self.rows)

    def parts(self) -> Iterator[tuple[Numbers, Numbers]]:
        """The filled rows."""
        return self.filled.parts()

    def moments(self, dense: bool, dtype: np.dtype) -> Moments:
        """Of what was seen."""
        return self.of_columns if dense else self.of_columns._replace(scatter=np.diagonal(self.of_columns.scatter))

    def some_rows(self, key: Array, n_samples: int) -> ArraySource:
        """All of them, filled."""
        return self.filled

    def digests(self) -> Iterator[Numbers]:
        """Of the filled rows."""
        return self.filled.digests()


@dataclass(frozen=True, eq=False)
class Arranged:
    """Rows with gaps (NaN), errors or limits, sorted by pattern: what doesn't depend on their weights.

    Attributes:
        source: the rows in their order, on the host.
        rows: by pattern, on the device.
        places: (N,), of each row among those of `rows`.
    """

    source: ArraySource
    rows: Observed
    places: Int[np.ndarray, " N"]

    def spread(self, values: Array) -> Float[Array, "S G B ..."]:
        """Weights of the rows, or whatever else each of them has, in their places."""
        return jax.device_put(spread(values, self.places, self.rows.values.shape[:3]))

    def weighted(self, weight: Array, dtype: np.dtype) -> ObservedSource:
        """The rows with these weights.

        Raises:
            ValueError: a column of which nothing was seen, or one whose squares overflow or underflow.
        """
        x, host = np.asarray(self.source.x), np.asarray(weight)
        check_columns(self.source, host > 0)
        moments = _moments(x, host, dtype)
        evidence = self.source.evidence
        filled = on_host(np.where(np.isnan(x), moments.mean, x).astype(x.dtype))
        rows = self.rows if evidence is None else dataclasses.replace(self.rows, evidence=self.spread(evidence))
        start = on_device(ArraySource(filled, on_host(host), evidence=evidence))
        return ObservedSource(rows, self.spread(weight), start, moments, self.source.feature_names)


def arrange(
    source: ArraySource, errors: np.ndarray | None, censored: np.ndarray | None = None, box: np.ndarray | None = None
) -> Arranged:
    """Sort rows by pattern. Errors, (N, D) variances or (N, D, D) covariances, limits' sides, (N, D), and the corners of the
    box of noise, (2, D): checked, or None.
    """
    rows, places = by_pattern(np.asarray(source.x), errors, censored, box)
    return Arranged(source, jax.tree.map(jax.device_put, rows), places)


def spread(values: Numbers, places: Int[np.ndarray, " N"], shape: tuple[int, ...]) -> np.ndarray:
    """What each row has, (N, ...), at its place among those of this shape; zeros at the others."""
    own = values.shape[1:]
    everywhere = np.zeros((*shape, *own), values.dtype)
    everywhere.reshape(-1, *own)[places] = values
    return everywhere


def check_columns(source: ArraySource, present: np.ndarray, why: str = "") -> None:
    """Raises ValueError where a column has no value in the rows that are present, which are so for a reason, or all."""
    if not has_gaps(source.x):
        return
    unseen = np.isnan(np.asarray(source.x)[present]).all(0)
    if unseen.any():
        columns = np.flatnonzero(unseen).tolist()
        named = columns if source.feature_names is None else [source.feature_names[i] for i in columns]
        raise UserError(f"x has no value at all in column {named}{why}: leave it out.")


def by_pattern(
    x: np.ndarray, errors: np.ndarray | None = None, censored: np.ndarray | None = None, box: np.ndarray | None = None
) -> tuple[Observed, Int[np.ndarray, " N"]]:
    """Rows (N, D) with gaps, errors or limits by pattern, and the place of each among the S G B; on the host. Those with limits
    may be noise over a box.
    """
    n_samples, n_features = x.shape
    seen = ~np.isnan(x)
    known = [part.reshape(n_samples, -1) for part in (errors, censored) if part is not None]
    described = np.concatenate([seen, *known], axis=1) if known else seen
    patterns, which, sizes = np.unique(described, axis=0, return_inverse=True, return_counts=True)
    length = min(_LENGTHS, key=lambda length: (-(-sizes // length)).sum() * (length + _ROWS_FOR_A_BLOCK))
    n_blocks = -(-sizes // length)  # of each pattern
    most = _rounded_down(max(1, min(_ROWS_IN_A_GROUP // length, _NUMBERS_IN_A_GROUP // n_features**2)))
    n_together = min(most, _rounded_up(int(n_blocks.sum())))
    n_groups = -(-int(n_blocks.sum()) // n_together)
    shape = _rounded_up(n_groups), n_together
    order = np.argsort(which, kind="stable")
    rank = np.arange(n_samples) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = np.repeat(np.cumsum(n_blocks) - n_blocks, sizes)
    places = np.empty(n_samples, int)
    places[order] = (first + rank // length) * length + rank % length

    values = np.zeros((*shape, length, n_features), x.dtype)
    values.reshape(-1, n_features)[places] = np.where(seen, x, 0)
    pattern = np.zeros(shape, np.int32)
    pattern.reshape(-1)[: n_blocks.sum()] = np.repeat(np.arange(len(sizes)), n_blocks)
    more = _rounded_up(len(patterns)) - len(patterns)
    patterns = np.concatenate([patterns, np.zeros_like(patterns, shape=(more, patterns.shape[1]))])
    own: Any = None
    if errors is not None:
        last = n_features + errors[0].size
        own = on_host(patterns[:, n_features:last].reshape(-1, *errors.shape[1:]).astype(errors.dtype))
    limits = None if censored is None else _limits(patterns[:, -n_features:].astype(np.int32))
    which_seen = on_host(patterns[:, :n_features].astype(bool))
    rows = Observed(on_host(values), on_host(pattern), which_seen, own, on_host(np.asarray(n_groups, np.int32)), limits)
    if censored is not None and box is not None:
        room = room_beyond(x, censored, box).astype(x.dtype)
        rows = dataclasses.replace(rows, room=on_host(spread(room, places, (*shape, length))))
    return rows, places


def room_beyond(
    x: Float[np.ndarray, "N D"], censored: Int[np.ndarray, "N D"], box: Float[np.ndarray, "2 D"]
) -> Float[np.ndarray, " N"]:
    """Log of how much of a box lies beyond the limits of each row, in these features: 0 without, -inf for nothing."""
    lower, upper = np.asarray(box, float)
    with np.errstate(divide="ignore"):
        lengths = np.log(np.clip(np.where(censored < 0, x - lower, upper - x), 0, upper - lower))
    return np.where(censored == 0, 0, lengths).sum(1)


def _limits(sides: Int[np.ndarray, "M D"]) -> Limits:
    """Of patterns whose limits are these, on the host."""
    order = np.argsort(sides != 0, axis=1, kind="stable").astype(np.int32)
    most = int((sides != 0).sum(1).max())
    return Limits(on_host(order), on_host(np.take_along_axis(sides, order, 1)[:, sides.shape[1] - most :]))


def _rounded_up(n: int) -> int:
    """To one of a few numbers, each of which is compiled."""
    return 1 << (n - 1).bit_length()


def _rounded_down(n: int) -> int:
    """To a power of two."""
    return 1 << n.bit_length() - 1


def _moments(x: np.ndarray, weight: np.ndarray, dtype: np.dtype) -> Moments:
    """Mean and variance of what was seen of each column; correlations of the rows without gaps, or 0 if these are few."""
    if not has_gaps(x):
        return column_moments(x, weight, True, dtype, on_host=True)
    seen, n_features = ~np.isnan(x), x.shape[1]
    w = weight.astype(float)[:, None] * seen
    with np.errstate(all="ignore"):  # what isn't a number is refused
        origin = np.nanmean(x[weight > 0], axis=0, dtype=float)
        z = np.where(w > 0, x - origin, 0)
        shift = (w * z).sum(0) / w.sum(0)
        z -= shift
        sd = np.sqrt((w * np.where(w > 0, z, 0) ** 2).sum(0) / w.sum(0))
        whole, own = z[(w > 0).all(1)], weight[(w > 0).all(1)].astype(float)
        correlation = np.eye(n_features)
        if len(own) > 2 * n_features:
            whole = whole - own @ whole / own.sum()
            products = (own[:, None] * whole).T @ whole
            spread = np.sqrt(np.diagonal(products))
            if (spread > 0).all():
                correlation = products / np.outer(spread, spread)
                np.fill_diagonal(correlation, 1)
        total = weight.sum(dtype=float)
        scatter = total * correlation * np.outer(sd, sd)
    return checked_moments(total, origin + shift, scatter, column_steps(x, weight), dtype)


def has_gaps(x: Numbers) -> bool:
    """Whether a value is missing: NaN."""
    return bool(np.isnan(np.asarray(x).min()))  # a NaN is its own minimum


def n_missing(source: Source) -> int:
    """Values that are missing in rows of positive weight; pieces have none."""
    if not isinstance(source, ArraySource) or not has_gaps(source.x):
        return 0
    return int(np.isnan(np.asarray(source.x)[np.asarray(source.weight) > 0]).sum())
