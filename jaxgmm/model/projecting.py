"""The moments engine of factor analysers: matrix products of rows with all loadings, and nothing of K x N x D."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgmm.model.density import Components, normalise
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.blocks import reduce_rows


def e_step_projected(
    components: Components,
    x: Array,
    weight: Array,
    centre: Array,
    block_size: int,
    n_rows: Array | None = None,
    evidence: Float[Array, "N L"] | None = None,
) -> Statistics:
    """E-step in the dtype of `centre`: distances and expected factors follow from K q columns of one product of all rows.

    `covariance.factors.Factors.projections` has the algebra.
    """
    structure: Any = components.structure
    means = components.means
    n_components, n_features = means.shape
    precision, loadings, of_length, to_factors = structure.projections(components.factor)
    rank = loadings.shape[-1]
    shift = means - centre
    wide = jnp.moveaxis(loadings, 0, 1).reshape(n_features, -1)  # (D, K q)
    at_means = jnp.einsum("kd,kdq->kq", shift, loadings)
    coefficients = jnp.concatenate([precision * shift, -0.5 * precision], axis=1)
    constant = (components.log_constant - (precision * shift**2).sum(1) / 2)[:, None]

    def block(rows: Array, w: Array, known: Array | None = None) -> tuple[Array, ...]:
        z = rows.astype(centre.dtype) - centre
        columns = jnp.concatenate([z, z**2], axis=1)
        projected = (z @ wide).reshape(-1, n_components, rank) - at_means
        closer = jnp.einsum("bkq,kq->kb", projected**2, of_length) / 2
        responsibilities, log_density = normalise(coefficients @ columns.T + constant + closer, w, components, known)
        weighted = responsibilities.T[:, :, None] * projected
        across = z.T @ weighted.reshape(z.shape[0], -1)
        return responsibilities.sum(1), responsibilities @ columns, across, weighted.sum(0), log_density, w.sum()

    others = () if evidence is None else (evidence,)
    sums = reduce_rows(block, x, weight, block_size, *others, n_rows=n_rows)
    counts, both, across, factors, log_density, total_weight = sums
    first, second = both[:, :n_features], both[:, n_features:]
    products = jnp.moveaxis(across.reshape(n_features, n_components, rank), 1, 0) - shift[:, :, None] * factors[:, None]
    squares = second - 2 * shift * first + counts[:, None] * shift**2
    scatter = jnp.concatenate([products @ to_factors, squares[..., None]], axis=-1)
    return Statistics(counts, first - counts[:, None] * shift, scatter, means, log_density, total_weight)
