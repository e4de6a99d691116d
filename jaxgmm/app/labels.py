"""What a column of a table says of the rows' components."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxgmm.app.tables import Table
from jaxgmm.fitting.labels import UNKNOWN
from jaxgmm.tools.errors import UserError

_NONE = ("", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None")  # text where no label is known
_SHOWN = 12  # labels in a message


@dataclass(frozen=True, eq=False)
class Labels:
    """Which rows' components are known.

    Attributes:
        column: its name.
        codes: (N,), the component of each row, -1 where it isn't known.
        component_of: the component that each label stands for.
    """

    column: str
    codes: np.ndarray
    component_of: Mapping[str, int]

    @classmethod
    def read(cls, table: Table, column: str, numbers: np.ndarray) -> "Labels":
        """Those of rows, by their numbers in the table: whole numbers are components, text stands for them in sorted order.

        Raises:
            ValueError: no such column, numbers that aren't whole or are negative, rows none of which has a label.
        """
        values = table.column(column)[numbers]
        if values.dtype.kind == "f":
            return cls._of_numbers(table, column, values, numbers)
        values = np.char.strip(values)
        known = ~np.isin(values, _NONE)
        if (values[known] == str(UNKNOWN)).any():
            raise UserError(
                f"{table.source}: labels = {column!r} is text, with {UNKNOWN} in it: leave unknown labels empty, or write all "
                "components as whole numbers"
            )
        names, codes = np.unique(values[known], return_inverse=True)
        return cls._of(table, column, known, codes, {str(name): k for k, name in enumerate(names)})

    @classmethod
    def _of_numbers(cls, table: Table, column: str, values: np.ndarray, numbers: np.ndarray) -> "Labels":
        known = ~np.isnan(values) & (values != UNKNOWN)
        bad = known & ((values != np.floor(values)) | (values < 0) | (values >= 2**31))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{table.source}: labels = {column!r} has {values[first]:g} in row {numbers[first]}, counted from 0: write "
                f"components as whole numbers from 0 on, {UNKNOWN} or nothing where they aren't known, and other labels as text"
            )
        codes = values[known].astype(int)
        return cls._of(table, column, known, codes, {str(k): k for k in np.unique(codes).tolist()})

    @classmethod
    def _of(cls, table: Table, column: str, known: np.ndarray, own: np.ndarray, component_of: Mapping[str, int]) -> "Labels":
        if not component_of:
            raise UserError(f"{table.source}: labels = {column!r} has no label in any row: leave labels out")
        codes = np.full(len(known), UNKNOWN)
        codes[known] = own
        return cls(column, codes, component_of)

    def check_components(self, n_components: int) -> None:
        """Raises ValueError where the labels stand for more components than there are."""
        most = max(self.component_of.values())
        if most >= n_components:
            shown = ", ".join([*list(self.component_of)[:_SHOWN], *["..."] * (len(self.component_of) > _SHOWN)])
            raise UserError(
                f"data.labels = {self.column!r} has {shown}, the last of which is component {most}, but fit.n_components = "
                f"{n_components}, and components are counted from 0: set it to {most + 1} or more"
            )


def names_of(component_of: Mapping[str, int], n_components: int) -> list[str]:
    """The label that each component stands for, "" where it has none."""
    label_of = {k: label for label, k in component_of.items()}
    return [label_of.get(k, "") for k in range(n_components)]
