"""How a result reads: a few lines for `repr`, and the same as HTML with a small picture for notebooks."""

import html
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgmm.tools.formatting import clipped, one_line

LINES, WIDTH = 12, 100  # of a repr, at most
_TABLE = 4  # of the lines, at least: the header, two rows, and what is left out
_NAME, _LABEL = 18, 30  # characters of a column's and a row's name in a table
_ROWS, _COLUMNS = 20, 10  # of a table in HTML
_NUMBERS = 6  # of an array


class Table(NamedTuple):
    """Cells that are made when they are shown.

    Attributes:
        corner: over the labels of the rows.
        columns: their names.
        n_rows: how many there are.
        cell: what stands in a row and a column.
        label: of a row.
        things: what a row and a column is, where some are left out.
    """

    corner: str
    columns: Sequence[str]
    n_rows: int
    cell: Callable[[int, int], str]
    label: Callable[[int], str] = str
    things: tuple[str, str] = ("component", "feature")

    def left_out(self, n_rows: int, n_columns: int) -> str:
        """In words, what a table of so many rows and columns lacks; empty if nothing."""
        lacks = zip((self.n_rows - n_rows, len(self.columns) - n_columns), self.things, strict=True)
        parts = [counted(n, f"more {what}") for n, what in lacks if n > 0]
        return f"… {' and '.join(parts)}" if parts else ""


class Page(NamedTuple):
    """What there is to read.

    Attributes:
        title: what it is, in a line.
        lines: sentences; empty ones are left out.
        table: if there is one.
        picture: SVG, made when it is shown.
    """

    title: str
    lines: Sequence[str] = ()
    table: Table | None = None
    picture: Callable[[], str] | None = None


class Readable:
    """What has a `page` of its own: `repr` and notebooks show it. Dataclasses need `repr=False`."""

    def _page(self) -> Page:
        raise NotImplementedError

    def __repr__(self) -> str:
        return text(self._page())

    def _repr_html_(self) -> str:
        return as_html(self._page())


def text(page: Page) -> str:
    """At most 12 lines of at most 100 characters."""
    head = [part for line in (page.title, *page.lines) if line for part in textwrap.wrap(one_line(line), WIDTH)]
    most = LINES - (_TABLE if page.table else 0)
    if len(head) > most:
        head = [*head[: most - 1], f"{head[most - 1][: WIDTH - 2]} …"]
    return "\n".join(head + (_grid(page.table, LINES - len(head)) if page.table else []))


def _grid(table: Table, n_lines: int) -> list[str]:
    """The table, and a line of what it lacks if it can't be whole."""
    for room in (n_lines - 1, n_lines - 2):
        n_rows = min(table.n_rows, room)
        lines, n_columns = _aligned(table, n_rows)
        note = table.left_out(n_rows, n_columns)
        if not note or len(lines) < n_lines:
            break
    return [*lines, note] if note else lines


def _aligned(table: Table, n_rows: int) -> tuple[list[str], int]:
    """A header and so many rows, with as many columns as there is room for, and that number."""
    labels = [clipped(table.label(i), _LABEL) for i in range(n_rows)]
    width = max(map(len, [table.corner, *labels]))
    lines, n_columns = [label.ljust(width) for label in (table.corner, *labels)], 0
    for j, name in enumerate(table.columns):
        cells = [clipped(name, _NAME), *(table.cell(i, j) for i in range(n_rows))]
        width = max(map(len, cells)) + 2
        if len(lines[0]) + width > WIDTH:
            break
        lines, n_columns = [line + cell.rjust(width) for line, cell in zip(lines, cells, strict=True)], j + 1
    return lines, n_columns


def as_html(page: Page) -> str:
    """The page for a notebook, in its colours; names and sentences are escaped."""
    parts = [f"<div><b>{_escaped(page.title)}</b></div>", *(f"<div>{_escaped(line)}</div>" for line in page.lines if line)]
    if page.table is not None:
        parts.append(_html_table(page.table))
    left = f'<div style="max-width: 54em; overflow-x: auto">{"".join(parts)}</div>'
    picture = page.picture() if page.picture else ""
    style = "display: flex; flex-wrap: wrap; gap: 0.5em 2em; align-items: flex-start; color: inherit; background: transparent"
    return f'<div style="{style}">{left}{f"<div>{picture}</div>" if picture else ""}</div>'


def _html_table(table: Table) -> str:
    rows, columns = min(table.n_rows, _ROWS), min(len(table.columns), _COLUMNS)
    plain = "color: inherit; background: transparent"

    def line(tag: str, cells: Sequence[str], most: int, rule: str = "") -> str:
        style = f"text-align: right; padding: 0.1em 0.6em; white-space: nowrap{rule}"
        made = []
        for cell in cells:
            shown = clipped(cell, most)
            whole = f' title="{_escaped(cell)}"' if shown != cell else ""
            made.append(f'<{tag} style="{style}"{whole}>{html.escape(shown)}</{tag}>')
        return f'<tr style="{plain}">{"".join(made)}</tr>'

    lines = [line("th", [table.corner, *table.columns[:columns]], _NAME, "; border-bottom: 1px solid")]
    lines += [line("td", [table.label(i), *(table.cell(i, j) for j in range(columns))], _LABEL) for i in range(rows)]
    note = table.left_out(rows, columns)
    note = f"<div>{_escaped(note)}</div>" if note else ""
    return f'<table style="{plain}; border-collapse: collapse; margin: 0.4em 0">{"".join(lines)}</table>{note}'


def of_frame(frame: Any, formats: Mapping[str, Callable[[Any], str]], things: tuple[str, str], corner: str = "") -> Table:
    """Some columns of a pandas frame, each in its format; "-" where there is no number."""
    names = [name for name in formats if name in frame.columns]

    def cell(i: int, j: int) -> str:
        value = frame[names[j]].iloc[i]
        return "-" if value != value else formats[names[j]](value)

    return Table(corner, names, len(frame), cell, lambda i: str(frame.index[i]), things)


def of_arrays(title: str, arrays: Mapping[str, Any]) -> Page:
    """A record of arrays: the numbers of small ones, the shapes of the others and of those that have no numbers yet."""
    return Page(title, [f"{name}: {_array_in_words(value)}" for name, value in arrays.items() if value is not None])


def _array_in_words(value: Any) -> str:
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        return str(value)
    if is_on_host(value) and value.size <= _NUMBERS:
        return np.array2string(np.asarray(value, float), precision=6, separator=", ", max_line_width=np.inf)
    return f"{value.dtype}{list(value.shape)}"


def is_on_host(*leaves: object) -> bool:
    """True for arrays whose numbers can be had: not traced, not given away, not on another host."""
    return all(
        isinstance(leaf, np.ndarray)
        or (
            isinstance(leaf, jax.Array)
            and not isinstance(leaf, jax.core.Tracer)
            and not leaf.is_deleted()
            and leaf.is_fully_addressable
        )
        for leaf in leaves
    )


def counted(n: int, what: str) -> str:
    """Such as "1 component", "2 components"."""
    return f"{n} {what}{'s' * (n != 1)}"


def _escaped(line: str) -> str:
    return html.escape(one_line(line))
