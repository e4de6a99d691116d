"""Rows allocated at random to the components of a mixture, or to the noise beside it: the half of a sweep that sees rows."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxgmm.data.observed import Observed
from jaxgmm.data.placed import Rows
from jaxgmm.data.source import Labelled
from jaxgmm.model.density import Components, noise_joint
from jaxgmm.model.engines import assigned_statistics
from jaxgmm.model.observing import completed, dense, patterns_of, root_of, whiten
from jaxgmm.model.rows import log_joint_of
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.blocks import reduce_rows, rows_present, short_blocks
from jaxgmm.tools.variates import draw_labels, normals

_ROWS_AT_ONCE = 4096  # rows allocated together: bounds memory at K x 4096 x D numbers a chain


def allocate(key: Array, components: Components, x: Rows, present: Float[Array, " N"] | None) -> Statistics:
    """The statistics of rows, each allocated by its responsibilities, with what wasn't seen of it drawn.

    A row that is noise is in the total weight, and in no other statistics.

    Args:
        key: a PRNG key.
        components: of the mixture, noise beside them.
        x: the rows.
        present: (N,), 1 for rows and 0 for the padding after them; None: no padding.
    """
    # Each row is centred at its own component's mean, so that no digits are lost however far apart the components are.
    means, origin = components.means, jnp.zeros_like(components.means[0])

    def assigned(shift: Array, w: Array, labels: Array, log_density: Array) -> Statistics:
        if components.noise is not None:
            shift = jnp.where((labels < len(means))[:, None], shift, 0)
        statistics = assigned_statistics(components.structure, len(means), origin, shift, w, labels)
        return dataclasses.replace(statistics, log_likelihood=w @ log_density)

    if isinstance(x, Observed):
        assert present is not None  # blocks are filled up
        shift, labels, log_density = _completed(key, components, x)
        statistics = assigned(shift, present, labels, log_density)
    else:
        rows, evidence = x if isinstance(x, Labelled) else (x, None)
        uniform = jax.random.uniform(key, (rows.shape[0],), rows.dtype)
        others = (uniform,) if evidence is None else (uniform, evidence)

        def block(rows: Array, w: Array, u: Array, known: Array | None = None) -> Statistics:
            joint = log_joint_of(components, rows if known is None else Labelled(rows, known))
            labels, log_density, _ = draw_labels(joint.T, u)
            return assigned(rows - means[_owners(labels, components)], w, labels, log_density)

        if present is None:
            statistics = reduce_rows(block, rows, jnp.ones(rows.shape[0], rows.dtype), _ROWS_AT_ONCE, *others)
        else:
            block_size = short_blocks(_ROWS_AT_ONCE, rows.shape[0])
            statistics = reduce_rows(block, rows, present, block_size, *others, n_rows=rows_present(present))
    return dataclasses.replace(statistics, centre=means)


def _completed(key: Array, components: Components, x: Observed) -> tuple[Array, Array, Array]:
    """Rows by pattern, each with an allocation drawn, and what it is in full given that: less its component's mean (M, D), the
    labels and the log densities of what was seen (M,).
    """
    dtype, whole = components.means.dtype, dense(components)
    shape = x.values.shape
    key_labels, key_values = jax.random.split(key)
    uniform = jax.random.uniform(key_labels, shape[:3], dtype)
    noise, errors = normals(key_values, shape, shape if x.errors is not None else (0,), dtype=dtype)
    beyond = None  # of limits
    if x.limits is not None:
        beyond = jax.random.uniform(jax.random.fold_in(key_labels, 1), (*shape[:3], x.limits.sides.shape[-1]), dtype)

    def of_block(
        values: Array,
        which: Array,
        known: Array | None,
        room: Array | None,
        u: Array,
        noise: Array,
        errors: Array | None,
        beyond: Array | None,
    ) -> tuple[Array, Array, Array]:
        seen, covariance, limits = x.of_patterns(which)
        pattern = patterns_of(components, whole, seen, covariance, limits)
        y, joint = whiten(components, pattern, values)
        joint = joint if known is None else joint + known.T
        if (rest := noise_joint(components, known, seen, room)) is not None:
            joint = jnp.concatenate([joint, jnp.broadcast_to(rest, joint.shape[1:])[None]])
        labels, log_density, _ = draw_labels(joint, u)
        if covariance is not None:
            assert errors is not None
            errors = errors @ root_of(covariance, seen, dtype).T
        owners = _owners(labels, components)
        return completed(components, whole, pattern, y, owners, noise, errors, beyond), labels, log_density

    blocks = x.values, x.pattern, x.evidence, x.room, uniform, noise, None if x.errors is None else errors, beyond
    drawn = lax.map(lambda group: jax.vmap(of_block)(*group), blocks)
    shift, labels, log_density = (leaf.reshape(-1, *leaf.shape[3:]) for leaf in drawn)
    return shift, labels, log_density


def _owners(labels: Int[Array, " B"], components: Components) -> Int[Array, " B"]:
    """The component about which a row is centred: any, for one that is noise, since no statistics have it."""
    return labels if components.noise is None else jnp.minimum(labels, len(components.means) - 1)
