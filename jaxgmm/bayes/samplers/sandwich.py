"""The sandwich: the law of the mode over samples, whatever these come from (Huber 1967; White 1982)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from jaxtyping import Array, Float

from jaxgmm.bayes.samplers.laplace import peak
from jaxgmm.bayes.target.approximation import draw_from
from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import Target, log_rows_at, over_rows, point_at, target_of
from jaxgmm.data.placed import Rows
from jaxgmm.fitting.status import FitError


def sandwich(problem: Problem, key: Array, n_draws: int, n_chains: int) -> Draws:
    """Draws from the Gaussian at the mode whose covariance is H^-1 J H^-1.

    H is the curvature of the log posterior at its mode, which is Laplace's precision, and J the sum of the outer products of
    the rows' scores there. Where the model is right they are alike; where it isn't, this one has the spread of the mode from
    sample to sample. Weights are frequencies: a row of weight 2 is two rows.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.

    Returns:
        Draws. There is no density to judge them by; that the mode is one, `peak` has made sure of.

    Raises:
        FitError: the log posterior has no peak near the start; no more rows than parameters; draws that aren't mixtures.
    """
    target, layout = target_of(problem), problem.layout
    mode, curvature = peak(target, layout)
    count, total, products = jax.tree.map(np.asarray, _scores(mode, target, layout))
    if count <= layout.size:
        raise FitError(
            f"sandwich: {count:.6g} rows say nothing of how {layout.size} parameters vary together. Take fewer components, or "
            "method='laplace', whose spread is the model's."
        )
    values, vectors = np.linalg.eigh(products - np.outer(total, total) / count)  # the prior's own pull is no part of it
    half = np.linalg.solve(curvature, vectors * np.sqrt(np.maximum(values, 0)))
    triangle = np.linalg.qr(half.T, mode="r").T
    q = dist.MultivariateNormal(jnp.asarray(mode), scale_tril=jnp.asarray(triangle * np.where(np.diag(triangle) < 0, -1, 1)))
    gmm, extra, stats = jax.tree.map(np.asarray, draw_from(q, target, key, layout, n_chains * n_draws))
    bad = ~np.isfinite(stats["lp"]) | ~(stats["pivot"] > 0)
    if bad.any():
        raise FitError(f"sandwich: {int(bad.sum())} of {bad.size} draws are no mixtures. Take fewer components.")
    kept = jax.tree.map(lambda leaf: leaf.reshape(n_chains, n_draws, *leaf.shape[1:]), (gmm, extra, {"lp": stats["lp"]}))
    return Draws(kept[0], kept[1], kept[2], {"n_unconverged": 0})


@functools.partial(jax.jit, static_argnums=2)
def _scores(
    v: Float[Array, " size"], target: Target, layout: Layout
) -> tuple[Float[Array, ""], Float[Array, " size"], Float[Array, "size size"]]:
    """Of all rows: their weight, and sums of scores and of their outer products."""

    def block(rows: Rows, weight: Array) -> tuple[Array, Array, Array]:
        def along(direction: Array) -> Array:
            return jax.jvp(lambda v: log_rows_at(point_at(v, target, layout), rows, None), (v,), (direction,))[1]

        # A column at a time: side by side, each would have as many numbers as the rows of a block have for all components.
        scores = lax.map(along, jnp.eye(layout.size, dtype=v.dtype))
        return weight.sum(), scores @ weight, (scores * weight) @ scores.T

    return over_rows(block, target, layout)
