"""Rows on the device, and the one compiled function that sums over them."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.covariance import Factor, get_family
from jaxgmm.covariance.factor import invert_tril
from jaxgmm.data import ArraySource
from jaxgmm.data.padding import on_device
from jaxgmm.model.density import Components
from jaxgmm.model.engines import choose_block_size, e_step_moments, e_step_whitened
from jaxgmm.model.statistics import Statistics
from jaxgmm.sklearn.parallel import float64
from jaxgmm.tools.blocks import rows_present, short_blocks
from jaxgmm.tools.types import on_host


class Rows:
    """Rows that are fitted, and their copy on the device, which is padded.

    Args:
        x: (N, D), float32 or float64; summed in float64 in any case.
        weight: (N,), positive; None for one each.
    """

    def __init__(self, x: np.ndarray, weight: np.ndarray | None):
        self.x, self.weight = x, weight
        ones = np.ones(len(x)) if weight is None else weight
        self.total_weight = float(ones.sum())
        self.mean = ones @ x / self.total_weight
        self.variance = ones @ (x - self.mean) ** 2 / self.total_weight
        with float64():
            self.data = on_device(ArraySource(on_host(x.view()), on_host(ones)))

    def statistics(
        self, means: np.ndarray, whiteners: np.ndarray, constants: np.ndarray, covariance_type: str, engine: str
    ) -> Statistics:
        """E-step, as NumPy arrays.

        Args:
            means: (K, D).
            whiteners: scikit-learn's `precisions_cholesky_`.
            constants: (K,), log p(x, k) at x = means[k].
            covariance_type: scikit-learn's name.
            engine: "moments" or "whitened", see `jaxgmm.model.statistics`.
        """
        parameters = np.concatenate([np.ravel(leaf) for leaf in (self.mean, means, whiteners, constants)], dtype=np.float64)
        with float64():
            packed = on_host(np.asarray(_statistics(self.data, parameters, len(means), covariance_type, engine)))
        structure, shape = get_family(covariance_type).structure, means.shape
        counts, sums, scatter, log_likelihood = _unpack(packed, shape[:1], shape, structure.scatter_shape(*shape), ())
        centre, total_weight = on_host(means.astype(np.float64)), on_host(np.asarray(self.total_weight))
        return Statistics(counts, sums, scatter, centre, log_likelihood, total_weight)


# One vector in and one out: crossing to the device and back costs 20 to 60 microseconds an array, whatever its size.
@functools.partial(jax.jit, static_argnames=("n_components", "covariance_type", "engine"))
def _statistics(
    data: ArraySource, parameters: Float[Array, " P"], n_components: int, covariance_type: str, engine: str
) -> Float[Array, " S"]:
    family, size = get_family(covariance_type), (n_components, data.n_features)
    centre, means, whiteners, constants = _unpack(parameters, size[1:], size, family.shape(*size), size[:1])
    block_size = short_blocks(choose_block_size(family.structure, n_components, data.x.shape), data.n_samples)
    dense = family.structure.dense
    whiteners = whiteners if dense else whiteners.reshape(n_components, -1)
    e_step: Callable[..., Statistics]
    scale, e_step = whiteners, e_step_moments  # which doesn't read the scale
    if engine == "whitened":
        scale, e_step = invert_tril(whiteners.swapaxes(-1, -2)) if dense else 1 / whiteners, e_step_whitened
    # Neither engine looks at determinants or weights: the constants have them.
    nothing = jnp.zeros(n_components)
    components = Components(nothing, constants, means, Factor(scale, whiteners, nothing), family.structure)
    sums = data.reduce(lambda x, w: e_step(components, x, w, centre, block_size, n_rows=rows_present(w)))
    return jnp.concatenate([jnp.ravel(leaf) for leaf in (sums.counts, sums.sums, sums.scatter, sums.log_likelihood)])


def _unpack(vector: Array, *shapes: tuple[int, ...]) -> list[Array]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return [vector[end - math.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]
