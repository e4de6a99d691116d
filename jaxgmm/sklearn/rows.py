"""Rows on the device, and the one compiled function that sums over them."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm import precision
from jaxgmm.covariance import Factor, get_family
from jaxgmm.covariance.structure import Dense, invert_tril
from jaxgmm.data import ArraySource
from jaxgmm.mixture import GMM
from jaxgmm.statistics import Statistics, choose_block_size, e_step_moments, e_step_whitened

# Threads (joblib's, say) take turns: JAX 0.12 has been seen to mix up the buffers of first calls under a local `enable_x64`.
_turn = threading.Lock()


@contextmanager
def float64() -> Iterator[None]:
    """JAX in float64, for this thread and nothing else."""
    with _turn, precision.scope(np.dtype(np.float64)):
        yield


class Rows:
    """Rows that are fitted, and their copy on the device.

    Args:
        x: (N, D), float32 or float64; summed in float64 in any case.
        weight: (N,), positive; None for one each.
    """

    def __init__(self, x: np.ndarray, weight: np.ndarray | None):
        self.x, self.weight = x, weight
        ones = np.ones(len(x)) if weight is None else weight
        self.total_weight = float(ones.sum())
        self.mean = ones @ x / self.total_weight
        self.variance = np.maximum(ones @ (x - self.mean) ** 2 / self.total_weight, 0)
        with float64():
            self.data = ArraySource(jax.device_put(x.view()), jax.device_put(ones))

    def statistics(
        self, means: np.ndarray, whiteners: np.ndarray, constants: np.ndarray, covariance_type: str, engine: str
    ) -> Statistics:
        """E-step, as NumPy arrays.

        Args:
            means: (K, D).
            whiteners: scikit-learn's `precisions_cholesky_`.
            constants: (K,), log p(x, k) at x = means[k].
            covariance_type: scikit-learn's name.
            engine: "moments" or "whitened", see `jaxgmm.statistics`.
        """
        arguments = (np.asarray(leaf, np.float64) for leaf in (self.mean, means, whiteners, constants))
        with float64():
            return jax.device_get(_statistics(self.data, *arguments, covariance_type, engine))


@functools.partial(jax.jit, static_argnames=("covariance_type", "engine"))
def _statistics(
    data: ArraySource,
    centre: Float[Array, " D"],
    means: Float[Array, "K D"],
    whiteners: Array,
    constants: Float[Array, " K"],
    covariance_type: str,
    engine: str,
) -> Statistics:
    n_components = len(means)
    # Expected log weights of variational Bayes may be too small for weights: all of a constant travels with the determinant.
    weights = jnp.full(n_components, 1 / n_components)
    half_log_det = jnp.log(weights) - constants - data.n_features / 2 * jnp.log(2 * jnp.pi)
    gmm = GMM.unchecked(weights, means, None, covariance_type)
    block_size = choose_block_size(gmm, data.n_samples)
    dense = isinstance(get_family(covariance_type).structure, Dense)
    whiteners = whiteners if dense else whiteners.reshape(n_components, -1)
    if engine == "moments":
        factor = Factor(None, whiteners, half_log_det)
        return data.reduce(lambda x, w: e_step_moments(gmm, factor, x, w, centre, block_size))
    scale = invert_tril(whiteners.swapaxes(-1, -2)) if dense else 1 / whiteners
    factor = Factor(scale, whiteners, half_log_det)
    return data.reduce(lambda x, w: e_step_whitened(gmm, factor, x, w, centre, block_size))
