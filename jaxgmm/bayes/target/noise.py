"""Noise beside a mixture as posteriors have it: its share of the rows is a site of its own, uniform between 0 and 1.

So is it in `fit`'s objective and in NumPyro's model: the weights add up to 1 among the rows that aren't noise, and their
Dirichlet knows nothing of the share.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.model.density import Uniform
from jaxgmm.tools.types import on_host
from jaxgmm.tools.variates import dirichlet_weights, log_gammas

NOISE = "noise_weight"  # the site


def start_of_noise(weight: float, log_widths: Float[np.ndarray, " D"], n_rows: float, dtype: np.dtype) -> Uniform:
    """Noise to start from: of the share that is expected of so many rows with a fit's, which is neither 0 nor 1."""
    share = (weight * n_rows + 1) / (n_rows + 2)
    return Uniform(on_host(np.asarray(np.log(share), dtype)), on_host(log_widths.astype(dtype)))


def share_of(noise: Uniform | None) -> dict[str, Array]:
    """The site's value, by name; nothing without noise."""
    return {} if noise is None else {NOISE: jnp.exp(noise.log_weight)}


def at_share(noise: Uniform | None, extra: dict[str, Array]) -> Uniform | None:
    """The noise of a draw, of which `extra` has the share."""
    return None if noise is None else noise._replace(log_weight=jnp.log(extra[NOISE]))


def draw_share(key: Array, n_noise: Float[Array, ""], n_others: Float[Array, ""]) -> Float[Array, ""]:
    """A draw of the share, given how many rows are noise: Beta(1 + n_noise, 1 + n_others)."""
    (log_gamma,) = log_gammas(key, 1 + jnp.stack([n_noise, n_others]))
    return dirichlet_weights(log_gamma)[0]


def strewn(key: Array, rows: Float[Array, "N D"], share: Float[Array, ""], box: Float[Array, "2 *N D"]) -> Float[Array, "N D"]:
    """The rows, but for a share of them that is noise: uniform over a box, that of all or of each, given by its corners."""
    key_which, key_where = jax.random.split(key)
    chosen = jax.random.uniform(key_which, rows.shape[:1], rows.dtype) < share
    anywhere = box[0] + (box[1] - box[0]) * jax.random.uniform(key_where, rows.shape, rows.dtype)
    return jnp.where(chosen[:, None], anywhere, rows)
