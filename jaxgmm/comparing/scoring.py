"""Rows as `compare` fits and scores them: with several weights where they are in memory, as they come where they aren't."""

from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float

from jaxgmm.data import ArraySource, Source
from jaxgmm.data.observed import arrange
from jaxgmm.data.padding import on_device, pad_rows
from jaxgmm.data.source import total
from jaxgmm.model.answers import sums_of_rows
from jaxgmm.model.density import Uniform
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.types import on_host


class Scored(Protocol):
    """Rows that models are fitted to, and judged by."""

    @property
    def weight(self) -> Any:
        """Of the rows; None where they have their own."""
        ...

    def data(self, weight: Any) -> Source:
        """The rows with these weights."""
        ...

    def sums(self, gmms: GMM, noise: Uniform | None, weight: Any) -> Float[np.ndarray, "M 2"]:
        """Weighted sums of the rows' log densities, without and with the component, under M mixtures, in their dtype; with
        noise, each has its own, and weights that add up to the rest.
        """
        ...


class InMemory:
    """Rows that were seen wholly; padded."""

    def __init__(self, source: ArraySource) -> None:
        self._x = on_device(source).x
        self._names = source.feature_names
        self.weight: Any = pad_rows(source.weight, len(self._x))

    def data(self, weight: Any) -> ArraySource:
        """The rows with these weights."""
        return ArraySource(self._x, jax.device_put(weight), self._names)

    def sums(self, gmms: GMM, noise: Uniform | None, weight: Any) -> Float[np.ndarray, "M 2"]:
        """As `Scored.sums`."""
        return np.asarray(_jitted(gmms, noise, self._x, on_host(np.asarray(weight, gmms.means.dtype))))


class WithGaps:
    """Rows by pattern."""

    def __init__(self, source: ArraySource, dtype: np.dtype) -> None:
        self._whole, self._dtype, self.weight = arrange(source, None), dtype, source.weight

    def data(self, weight: Any) -> Source:
        """The rows with these weights."""
        return self._whole.weighted(weight, self._dtype)

    def sums(self, gmms: GMM, noise: Uniform | None, weight: Any) -> Float[np.ndarray, "M 2"]:
        """As `Scored.sums`."""
        own = self._whole.spread(on_host(np.asarray(weight, gmms.means.dtype))).reshape(-1)
        return np.asarray(_jitted(gmms, noise, self._whole.rows, own))


class Elsewhere:
    """Rows that come in pieces, or are spread over devices, with weights of their own."""

    weight: Any = None

    def __init__(self, source: Source) -> None:
        self._source = source

    def data(self, weight: Any) -> Source:
        """The rows."""
        return self._source

    def sums(self, gmms: GMM, noise: Uniform | None, weight: Any) -> Float[np.ndarray, "M 2"]:
        """As `Scored.sums`."""
        return np.asarray(total(self._source, sums_of_rows, gmms, noise))


_jitted = jax.jit(sums_of_rows)
