"""The E-step of many components, of which few matter to a row: a block of rows is summed for those that a bound can't rule out.

Of a block we keep, for each component, a bound m on its log share of any of the block's rows, log p(k | x), and the rows' log
densities t. Where a component moves, with Sigma^-1 = W W' and Sigma = L L' before and W_1, L_1, mu_1 after, so that
|W'v| <= s |W_1'v|, s = max(1, |W'L_1|),

    |W_1'(x - mu_1)| >= |W'(x - mu)| / s - |W_1'(mu_1 - mu)|,

as Elkan (2003) has it for k-means. What that makes of a component's log joint grows with what it was by at most 1 for 1, so
from m and the least of the t follows a bound on its log joint less t in all rows; by as much as a row's density has fallen
since, its share may be more. Components that are left out of a block add up to less than a given share of each of its rows: if
a pass finds that a block's rows have fallen by too much for that, it sums them for all components.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.model.density import Components, share_out
from jaxgmm.model.engines import about_means, expand_rows, linear_form
from jaxgmm.model.mixture import GMM
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.blocks import rows_present
from jaxgmm.tools.types import on_host

ROWS_IN_A_BLOCK = 128  # a divisor of all lengths that rows are padded to
_SMALLEST, _GROWTH = 16, 2  # numbers of components that blocks are summed for; with half of all, a block takes all
_ROOM = 4.0  # by so many times may the rows of a block be less likely than before


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)
class Bounded(Statistics):
    """Statistics of S blocks of B rows, and what bounds the next pass.

    Attributes:
        shares: (S, K), no less than the log share of a component in any row of a block; inf where nothing is known.
        densities: (S, B), no more than the log density of a row.
        components: to which these belong.
    """

    shares: Float[Array, "S K"]
    densities: Float[Array, "S B"]
    components: Components


def nothing_known(statistics: Statistics, starts: GMM, n_samples: int) -> Bounded:
    """Before the first pass of R starts over the rows; NumPy, so that it compiles nothing."""
    n_starts, n_components, _ = starts.means.shape
    n_blocks, dtype = n_samples // ROWS_IN_A_BLOCK, starts.means.dtype
    shares = on_host(np.full((n_starts, n_blocks, n_components), np.inf, dtype))
    densities = on_host(np.zeros((n_starts, n_blocks, ROWS_IN_A_BLOCK), dtype))
    like = jax.eval_shape(jax.vmap(GMM.components), starts)
    nowhere = jax.tree.map(lambda leaf: on_host(np.zeros(leaf.shape, dtype)), like)
    return with_bounds(statistics, shares, densities, nowhere)


def likely_shares(components: Components, before: Bounded) -> Float[Array, "S K"]:
    """No less than the log joint of a component, less the log density before, in any row of a block."""
    old, structure = before.components, components.structure
    stretch = jnp.maximum(structure.stretch(old.factor, components.factor), 1)
    moved = jnp.sqrt(structure.coefficients(components.means - old.means, components.factor)[2])
    least = before.densities.min(1, keepdims=True)
    below = old.log_constant - (before.shares + least)
    distance = jnp.sqrt(2 * jnp.where(below > 0, below, 0))
    now = jnp.maximum(distance / stretch - moved, 0)
    return components.log_constant - now**2 / 2 - least


def e_step_pruned(
    components: Components,
    x: Float[Array, "N D"],
    weight: Float[Array, " N"],
    centre: Float[Array, " D"],
    before: Bounded,
    truncate: float,
) -> Bounded:
    """E-step by the moments engine, of the components that matter to each block of rows.

    Args:
        components: whose structure doesn't pool.
        x: N = S B rows.
        weight: of the rows.
        centre: what rows are shifted by.
        before: the last pass.
        truncate: share of a row's density below which components may be left out, all together.
    """
    structure, n_components = components.structure, components.means.shape[0]
    n_blocks, n_rows = before.densities.shape
    coefficients, active = linear_form(components, centre)
    likely = likely_shares(components, before)
    kept = ~(likely < jnp.log(truncate / (_ROOM * n_components)))
    left_out, n_kept = jnp.where(kept, 0, jnp.exp(likely)).sum(1), kept.sum(1)
    every = jnp.arange(n_components, dtype=jnp.int32)
    ranked = jnp.sort(jnp.where(kept, every, n_components + every), axis=1) % n_components  # those that are kept come first

    def add(carry: tuple[Array, ...], b: Int[Array, ""], size: int) -> tuple[Array, ...]:
        sums, log_likelihood, total_weight, shares, densities, done = carry
        rows, w = (lax.dynamic_slice_in_dim(array, b * n_rows, n_rows) for array in (x, weight))
        columns = expand_rows(structure, rows, centre)
        some = every if size == n_components else ranked[b, :size]
        joint = jnp.where(active[some, None], coefficients[some] @ columns.T, -jnp.inf)
        responsibilities, density = share_out(joint, w, components.weights[some])
        fell = (before.densities[b] - density).max()
        good = (size == n_components) | (left_out[b] * jnp.exp(fell) <= truncate)
        share = (joint - density).max(1)
        share = jnp.where(jnp.isnan(share), jnp.inf, share)
        w, responsibilities = jnp.where(good, w, 0), jnp.where(good, responsibilities, 0)
        return (
            sums.at[some].add(responsibilities @ columns),
            log_likelihood + jnp.where(w > 0, w * density, 0).sum(),
            total_weight + w.sum(),
            shares.at[b].set((likely[b] + fell).at[some].set(share)),
            densities.at[b].set(density),
            done.at[b].set(good),
        )  # fmt: skip

    def add_all(carry: tuple[Array, ...], mine: Bool[Array, " S"], size: int) -> tuple[Array, ...]:
        blocks = jnp.nonzero(mine, size=n_blocks, fill_value=0)[0]
        return lax.fori_loop(0, mine.sum(), lambda i, carry: add(carry, blocks[i], size), carry)

    nothing = jnp.zeros((), centre.dtype)
    absent = jnp.arange(n_blocks) * n_rows >= rows_present(weight)
    zeros = jnp.zeros_like(coefficients), nothing, nothing
    carry: tuple[Array, ...] = (*zeros, before.shares, before.densities, absent)
    smaller = -1
    for size in sizes(n_components):
        carry = add_all(carry, ~absent & (smaller < n_kept) & (n_kept <= size), size)
        smaller = size
    sums, log_likelihood, total_weight, shares, densities, _ = add_all(carry, ~carry[-1], n_components)
    statistics = about_means(components, centre, sums, nothing, log_likelihood, total_weight)
    return with_bounds(statistics, shares, densities, components)


def with_bounds(statistics: Statistics, shares: Array, densities: Array, components: Components) -> Bounded:
    """The statistics, and what bounds the next pass."""
    known = {field.name: getattr(statistics, field.name) for field in dataclasses.fields(statistics)}
    return Bounded(**known, shares=shares, densities=densities, components=components)


def sizes(n_components: int) -> list[int]:
    """Numbers of components that blocks may be summed for, short of all."""
    return [size for size in (_SMALLEST * _GROWTH**i for i in range(32)) if 2 * size <= n_components]
