"""A small chart as inline SVG, in the colours of the page around it: dark or light, and no library to wait for."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxgmm.tools.formatting import clipped

# Okabe & Ito (2008), Color Universal Design: told apart with every kind of colour vision. Their yellow is left out, too
# pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_INK = "currentColor"  # of the text around
_WIDTH, _HEIGHT = 260, 170  # of the panel, pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 8, 34  # around it
_LEGEND, _ENTRIES = 96, 11  # to the right, if there is one: its width, and how many fit
_LABEL, _NAME = 36, 14  # characters of an axis' label and in a legend
_TICKS = 6  # an axis, at most


class Mark(NamedTuple):
    """A line through points (n, 2) in units of the axes, or the area that it goes round."""

    points: np.ndarray
    colour: str = _INK
    width: float = 1.5
    opacity: float = 1.0
    filled: bool = False


def bar(left: float, right: float, height: float, colour: str = _INK, opacity: float = 1.0) -> Mark:
    """Between two places, from 0 up."""
    corners = [[left, 0], [left, height], [right, height], [right, 0]]
    return Mark(np.array(corners, float), colour, opacity=opacity, filled=True)


class Word(NamedTuple):
    """Text in the panel, centred on a point in units of the axes."""

    text: str
    x: float
    y: float


def colour(k: int) -> str:
    """Of the k-th of many; where paper is dark, black is what the text has."""
    return (*PALETTE[:-1], _INK)[k % len(PALETTE)]


def chart(
    marks: Sequence[Mark],
    labels: tuple[str, str],
    *,
    words: Sequence[Word] = (),
    legend: Mapping[str, str] | None = None,
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
    whole: bool = False,
) -> str:
    """The chart; "" where there is nothing to draw.

    Args:
        marks: what is drawn, in this order; what isn't finite is left out.
        labels: of the two axes.
        words: in the panel.
        legend: colours, by what they stand for.
        limits: of the two axes; the marks' own by default.
        whole: the first axis counts: no ticks between whole numbers.
    """
    marks = [mark._replace(points=mark.points[np.isfinite(mark.points).all(axis=1)]) for mark in marks]
    if not sum(len(mark.points) for mark in marks):
        return ""
    every = np.concatenate([mark.points for mark in marks])
    (left, right), (low, high) = (_padded(*span) for span in limits or zip(every.min(0), every.max(0), strict=True))

    def x(value: float) -> float:
        return _WIDTH * (value - left) / (right - left)

    def y(value: float) -> float:
        return _HEIGHT * (high - value) / (high - low)

    inside = [_path([(x(a), y(b)) for a, b in mark.points.tolist()], mark) for mark in marks]
    inside += [
        f'<text x="{x(word.x):.1f}" y="{y(word.y):.1f}" text-anchor="middle" dominant-baseline="central" '
        f'font-weight="bold">{html.escape(word.text)}</text>'
        for word in words
    ]
    outside = [f'<path d="M{_LEFT} {_TOP}v{_HEIGHT}h{_WIDTH}" fill="none" stroke="{_INK}" stroke-opacity="0.6"/>']
    base = _TOP + _HEIGHT
    for tick in _ticks(left, right, 1 if whole else 0):
        outside.append(f'<text x="{_LEFT + x(tick):.1f}" y="{base + 13}" text-anchor="middle">{tick:g}</text>')
    for tick in _ticks(low, high):
        outside.append(f'<text x="{_LEFT - 4}" y="{_TOP + y(tick) + 3:.1f}" text-anchor="end">{tick:g}</text>')
    middle = _TOP + _HEIGHT / 2
    outside.append(f'<text x="{_LEFT + _WIDTH / 2}" y="{base + 28}" text-anchor="middle">{_short(labels[0], _LABEL)}</text>')
    outside.append(
        f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">{_short(labels[1], _LABEL)}</text>'
    )
    for i, (name, ink) in enumerate(list((legend or {}).items())[:_ENTRIES]):
        at = f'x="{_LEFT + _WIDTH + 12}" y="{_TOP + 10 + 15 * i}"'
        outside.append(f'<text {at} fill="{ink}" font-weight="bold">{_short(name, _NAME)}</text>')
    width, height = _LEFT + _WIDTH + _RIGHT + (_LEGEND if legend else 0), _TOP + _HEIGHT + _BOTTOM
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="10" fill="{_INK}" style="background: transparent; max-width: 100%">'
        f'<svg x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" overflow="hidden">{"".join(inside)}</svg>'
        f"{''.join(outside)}</svg>"
    )


def _path(points: Sequence[tuple[float, float]], mark: Mark) -> str:
    if not points:
        return ""
    way = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    if mark.filled:
        return f'<path d="{way}Z" fill="{mark.colour}" fill-opacity="{mark.opacity:g}"/>'
    return (
        f'<path d="{way}" fill="none" stroke="{mark.colour}" stroke-width="{mark.width:g}" stroke-opacity="{mark.opacity:g}"/>'
    )


def _short(name: str, most: int) -> str:
    return html.escape(clipped(name, most))


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low) or max(abs(low), 1.0)
    return low - margin, high + margin


def _ticks(low: float, high: float, least: float = 0) -> list[float]:
    """Round numbers between the limits, as many as can be read, at least so far apart."""
    rough = max((high - low) / _TICKS, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [
        round(i * step, 12 - math.floor(math.log10(step))) for i in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]
