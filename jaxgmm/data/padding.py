"""Numbers of rows, or of draws, that share a compiled program: rows are padded, by weight 0, to one of a few lengths."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxgmm.data.source import ArraySource
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import SHORT_LENGTHS
from jaxgmm.tools.validation import in_jit, is_traced

_FEWEST_DRAWS = 64


def padded_length(n_samples: int, *, summed: bool = True) -> int:
    """The next of 2048, 16 384 and 131 072, whose padding is left out of sums; then of eighths of a power of two, at most an
    eighth more. Of eighths from the beginning, for rows that aren't `summed` in blocks.
    """
    for length in SHORT_LENGTHS if summed else ():
        if n_samples <= length:
            return length
    if n_samples <= 8:
        return n_samples
    step = 1 << (n_samples - 1).bit_length() - 4
    return -(-n_samples // step) * step


def on_device(source: ArraySource) -> ArraySource:
    """The rows on the device and in the current precision, padded."""
    rows = padded_rows(source.x)
    evidence = None if source.evidence is None else jax.device_put(pad_rows(source.evidence, len(rows)))
    # `jnp.asarray` would copy twice.
    weight = jax.device_put(pad_rows(source.weight, len(rows)))
    return ArraySource(jax.device_put(rows), weight, source.feature_names, evidence)


def padded_rows(x: Any, least: int = 0, *, summed: bool = True) -> Any:
    """Rows (N, ...), the last of them repeated up to the padded length: nothing overflows there that doesn't anyway.

    `least` is the shortest that will do; `summed` as for `padded_length`.

    Rows that are traced, or spread over several devices, stay as they are.
    """
    spread = isinstance(x, jax.Array) and not is_traced(x) and len(x.devices()) > 1
    if spread or is_traced(x) or in_jit():
        return x
    return _padded(x, max(padded_length(x.shape[0], summed=summed), least), repeat=True)


def pad_rows(values: Any, length: int) -> Any:
    """One entry a row, (N, ...), with zeros up to the length that the rows have been padded to."""
    return _padded(values, length, repeat=False)


def first_rows(values: Array, n_samples: int) -> Any:
    """The answers for the rows that aren't padding."""
    if values.shape[0] == n_samples:
        return values
    # A slice would be compiled for each length.
    return jax.device_put(np.asarray(values)[:n_samples]) if precision.platform(values) == "cpu" else values[:n_samples]


def padded_draws[Draws](draws: Draws) -> Draws:
    """Draws (S, ...), the last of them repeated up to the next power of two from 64 on; for functions of few numbers a draw."""
    n_draws = jax.tree.leaves(draws)[0].shape[0]
    length = max(_FEWEST_DRAWS, 1 << (n_draws - 1).bit_length())
    return jax.tree.map(lambda leaf: _padded(leaf, length, repeat=True), draws)


def _padded(x: Any, length: int, repeat: bool) -> Any:
    n_samples = x.shape[0]
    if length == n_samples:
        return x
    if isinstance(x, jax.Array) and precision.platform(x) != "cpu":
        more = ((0, length - n_samples), *((0, 0) for _ in x.shape[1:]))
        return jax.numpy.pad(x, more, mode="edge" if repeat else "constant")
    host = np.asarray(x)  # a slice of a JAX array would be compiled for each length
    padded = np.empty((length, *host.shape[1:]), host.dtype)
    padded[:n_samples], padded[n_samples:] = host, host[-1] if repeat else 0
    return padded
