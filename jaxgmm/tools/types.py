"""Types that have no name elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Array

type Json = str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None  # what JSON can hold
type Facts = dict[str, Any]  # by name, as JSON or keyword arguments have them
type Numbers = Array | np.ndarray  # as they came


def on_host(array: np.ndarray) -> Array:
    """A NumPy array where types ask for JAX's: compiled functions take either, and NumPy's compile nothing."""
    return cast(Array, array)
