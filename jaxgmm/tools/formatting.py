"""Numbers as people read them: as many digits as their spread warrants."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def number(value: Any, style: str) -> str:
    """The number in that style, "-" where there is none.

    Example:
        >>> number(2.345, ".1f"), number(float("nan"), ".1f")
        ('2.3', '-')
    """
    return format(value, style) if value is not None and math.isfinite(value) else "-"


def alike(sd: float, values: Iterable[float]) -> list[str]:
    """Numbers as far as two digits of their sd go.

    Example:
        >>> alike(0.0123, [1.23456, 0.0123])
        ['1.235', '0.012']
    """
    decimals = 1 - math.floor(math.log10(sd)) if 0 < sd < math.inf else -1
    return [number(value, f".{decimals}f" if 0 <= decimals <= 8 else ".4g") for value in values]


def plus_minus(mean: float, sd: float) -> str:
    """Three digits of the sd, and the mean as far as that.

    Example:
        >>> plus_minus(79.96812, 6.01234)
        '79.97 ± 6.01'
    """
    decimals = 2 - math.floor(math.log10(sd)) if 0 < sd < math.inf else -1
    if not 0 <= decimals <= 8:
        return f"{mean:.5g} ± {sd:.3g}"
    return f"{mean:.{decimals}f} ± {sd:.{decimals}f}"


def with_names(quantity: str, names: Mapping[str, str]) -> str:
    """A quantity of a posterior with its indices renamed.

    Example:
        >>> with_names("means[0, speed_m_s]", {"speed_m_s": "speed m/s"})
        'means[0, speed m/s]'
    """
    name, bracket, indices = quantity.removesuffix("]").partition("[")
    return f"{name}[{', '.join(names.get(index, index) for index in indices.split(', '))}]" if bracket else quantity


def share(value: float) -> str:
    """A share in per cent, to two digits; never 0 % or 100 % where it isn't.

    Example:
        >>> share(0.1234), share(1.0), share(0.99999), share(0.0)
        ('12 %', '100 %', 'more than 99.9 %', '0 %')
    """
    if 0 < value < 0.001:
        return "less than 0.1 %"
    if 0.999 < value < 1:
        return "more than 99.9 %"
    percent = 100 * value
    return f"{percent:.1f} %" if 0 < percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def nats(value: float) -> str:
    """A log-likelihood or a criterion: six digits, and never fewer than one after the point.

    Example:
        >>> nats(-1130.2638), nats(-4.1553817), nats(-1234567.89)
        ('-1130.26', '-4.15538', '-1234567.9')
    """
    if not math.isfinite(value):
        return f"{value}"
    decimals = 5 - math.floor(math.log10(abs(value))) if value else 1
    return f"{value:.{min(max(decimals, 1), 6)}f}"


def one_line(text: str) -> str:
    r"""The text without line breaks and what else can't be printed.

    Example:
        >>> one_line("width\n(mm)")
        'width (mm)'
    """
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def clipped(name: str, most: int) -> str:
    """A name in a line; of a long one the beginning and the end, where names differ.

    Example:
        >>> clipped("sepal_length_in_mm", 12)
        'sepal_…in_mm'
    """
    name = one_line(name)
    return name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - most + most // 2 + 1 :]}"
