"""What a report is made of: paragraphs, tables and pictures in sections."""

import base64
import struct
from typing import NamedTuple

from jaxgmm.app.report.files import RunFiles


class Figure(NamedTuple):
    """A picture of the run's directory: a data URI, its size in CSS pixels, what it shows, and a caption."""

    source: str
    width: int
    height: int
    alt: str
    caption: str


class Table(NamedTuple):
    """Rows of text; the first cell of each is its heading. `marked` are rows to stand out."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    marked: tuple[int, ...] = ()


class Section(NamedTuple):
    """A part of the page: paragraphs, then tables, then figures."""

    anchor: str
    title: str
    text: list[str]
    tables: list[Table]
    figures: list[Figure]


def figure(run: RunFiles, name: str, alt: str, caption: str) -> list[Figure]:
    """The picture, if the run has it."""
    path = run.directory / f"{name}.png"
    if not path.is_file():
        return []
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # a PNG's header has them there
    encoded = base64.b64encode(data).decode()
    return [Figure(f"data:image/png;base64,{encoded}", round(width / 1.3), round(height / 1.3), alt, caption)]
