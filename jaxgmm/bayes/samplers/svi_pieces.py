"""Stochastic variational inference for rows that come in pieces: as `svi`, with minibatches out of passes over them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from jaxgmm.bayes.samplers.svi import Advanced, Settings, course_of, followed, search_of, settings_of, stepped
from jaxgmm.bayes.target.approximation import draws_from
from jaxgmm.bayes.target.problem import Draws, ProblemInPieces
from jaxgmm.bayes.target.whitened import Tangent, Target, minibatch_model, of_piece, tangent_in_pieces, target_in_pieces
from jaxgmm.data.minibatches import minibatches
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_count


def svi_in_pieces(
    problem: ProblemInPieces,
    key: Array,
    n_draws: int,
    n_chains: int,
    *,
    guide: str = "multivariate_normal",
    n_steps: int = 2000,
    learning_rate: float = 0.02,
    batch_size: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Draws:
    """Draws from a Gaussian guide, as `svi`: the same guides, target and tangent of the log-likelihood as control variate.

    One pass makes the tangent, one for every 32 MB of minibatches draws these, and one last sums the log-likelihood of every
    draw, for k-hat: n_draws * n_chains E-steps, which is why fewer draws than of rows in memory may do. All particles of a
    step share its minibatch.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.
        guide: as for `svi`.
        n_steps: of Adam.
        learning_rate: the first step size, in posterior standard deviations.
        batch_size: rows of a minibatch.
        report: called now and then with (steps done, steps in all).

    Raises:
        TypeError, ValueError: settings that can't be used.
        FitError: the guide ran away.

    Warns:
        FitWarning: k-hat above 0.7, or a guide that did not settle.
    """
    source, layout = problem.source, problem.layout
    course = course_of(guide, n_steps, learning_rate)
    if batch_size is None:
        raise UserError("batch_size is None, all rows at once, but x comes in pieces: give a number of rows, such as 1000.")
    batch_size = check_count(batch_size, "batch_size")
    if batch_size > source.n_present:
        raise UserError(f"batch_size must lie in 1..{source.n_present}, the rows of positive weight, got {batch_size}.")
    settings = settings_of(layout, guide, batch_size, batch_size)
    target = target_in_pieces(problem)
    tangent = tangent_in_pieces(target, source, layout)
    key_run, key_draws = jax.random.split(key)
    batches = minibatches(source, jax.random.fold_in(key_run, 1), batch_size)
    scale = on_host(np.array(source.n_present / batch_size, target.dtype))
    batch, at = next(batches), 0

    def advance(state: SVIState, first: int, last: int) -> Advanced:
        nonlocal batch, at
        elbos = []
        while first < last:
            if at == len(batch[0]):
                batch, at = next(batches), 0
            n = int(min(last - first, len(batch[0]) - at))
            span = np.int32(at), np.int32(at + n)  # of one type, for one program
            state, params, elbo = _advance(state, target, tangent, *batch, scale, *span, *course, settings)
            elbos += [np.asarray(elbo)] * n
            first, at = first + n, at + n
        return state, params, on_host(np.mean(elbos, axis=0))

    begin = _begin(key_run, target, tangent, *(part[0] for part in batch), scale, settings)
    q, attrs = followed(begin, advance, course, settings, report)
    return draws_from(q, target, layout, key_draws, (n_chains, n_draws), attrs, source)


def _search(settings: Settings, n_steps: int | Array, learning_rate: float | Array) -> SVI:
    return search_of(settings, n_steps, learning_rate, minibatch_model)


@functools.partial(jax.jit, static_argnums=6)
def _begin(
    key: Array, target: Target, tangent: Tangent, rows: Array, weight: Array, scale: Array, settings: Settings
) -> SVIState:
    batch = of_piece(target, rows, weight)
    return _search(settings, 1, 0.0).init(key, target, tangent, batch.x, batch.weight, scale)


@functools.partial(jax.jit, static_argnums=10)
def _advance(
    state: SVIState,
    target: Target,
    tangent: Tangent,
    rows: Float[Array, "S B D"],
    weight: Float[Array, "S B"],
    scale: Array,
    first: Array,
    last: Array,
    n_steps: Array,
    learning_rate: Array,
    settings: Settings,
) -> Advanced:
    """Steps through the minibatches from `first` to `last`."""
    search = _search(settings, n_steps, learning_rate)
    batch = of_piece(target, rows[0], weight[0])
    search.init(state.rng_key, target, tangent, batch.x, batch.weight, scale)  # tells the guide what it is a guide to

    def step(i: Array, carry: tuple[SVIState, Array, Array]) -> tuple[SVIState, Array, Array]:
        batch = of_piece(target, rows[i], weight[i])
        return stepped(search, carry, target, tangent, batch.x, batch.weight, scale)

    zero = jnp.zeros((), target.dtype)
    state, count, elbo = lax.fori_loop(first, last, step, (state, zero, zero))
    return state, search.get_params(state), elbo / count
