"""Parts of rows that are read by themselves: row groups of files, ranges of arrays."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

from jaxgmm.tools.errors import UserError


class Block(NamedTuple):
    """Rows (n, D), and their weights (n,), if they have any."""

    rows: Float[np.ndarray, "n D"]
    weight: Float[np.ndarray, " n"] | None = None

    def part(self, first: int, last: int) -> "Block":
        """Some of its rows."""
        return Block(self.rows[first:last], None if self.weight is None else self.weight[first:last])


class Unit(NamedTuple):
    """A part of the rows.

    Attributes:
        where: the file, or what else messages call it.
        first: the number of its first row there.
        n_rows: how many there are, or None where only reading tells.
        blocks: reads them.
        state: of the file when it was looked at: what is another later was changed.
    """

    where: str
    first: int
    n_rows: int | None
    blocks: Callable[[], Iterator[Block]]
    state: tuple[int, int] | None = None

    @classmethod
    def of_file(cls, path: str, first: int, n_rows: int | None, blocks: Callable[[], Iterator[Block]]) -> Self:
        """A part of a file on this machine."""
        return cls(path, first, n_rows, blocks, _state(path))

    def check_unchanged(self) -> None:
        """Raises ValueError where the file isn't what it was."""
        if self.state is not None and _state(self.where) != self.state:
            raise UserError(f"{self.where} was changed, or removed, while it was being read: start again.")


class Table(NamedTuple):
    """A file, or an array, before it is read.

    Attributes:
        place: what messages call it.
        names: of its columns, if they have names.
        n_columns: how many there are.
        n_rows: how many, where that is known and any of them can be read.
        dtype: of the numbers of some columns, given their names.
        units: its parts, given the columns, the column of weights, how many rows to read at a time, and the dtype.
    """

    place: str
    names: tuple[str, ...] | None
    n_columns: int
    n_rows: int | None
    dtype: Callable[[Sequence[str] | None], np.dtype]
    units: Callable[[Sequence[str] | None, str | None, int, np.dtype], list[Unit]]


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def share_of(units: Sequence[Unit], index: int, number: int) -> list[Unit]:
    """One of `number` parts of the units: neighbours, about as many rows in each; by turns where it isn't known how many."""
    known = [unit.n_rows for unit in units]
    if number == 1 or None in known:
        return list(units[index::number])
    before = np.concatenate([[0], np.cumsum([n for n in known if n is not None])])
    middle = (before[:-1] + before[1:]) / 2
    return [unit for unit, at in zip(units, middle, strict=True) if int(at * number // before[-1]) == index]
