"""Gibbs sampling of rows that come in pieces: a sweep is a pass over them, and only the statistics of all chains stay."""

import functools
import itertools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import MixturePrior, draw_parameters, log_prior_kernel, start_of_extra
from jaxgmm.bayes.samplers.chains import Chunk, Schedule, run_by
from jaxgmm.bayes.samplers.gibbs import GibbsChain, GibbsState, allocated, constant_of, finite, sweeps_a_draw
from jaxgmm.bayes.target.problem import Draws, ProblemInPieces
from jaxgmm.covariance import Factor
from jaxgmm.data.pieces import Pieces
from jaxgmm.model.holding import Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.errors import UserError


class _Parameters(NamedTuple):
    """Of chains side by side: what a pass allocates rows by."""

    gmm: GMM
    factor: Factor
    extra: dict[str, Array]
    log_prior: Float[Array, " chain"]
    key: Array
    rng_key: Array


def gibbs_in_pieces(
    problem: ProblemInPieces, key: Array, schedule: Schedule, n_chains: int, *, thin: int | None = None
) -> Draws:
    """Draws by conjugate blocked Gibbs sampling, as `gibbs`, from the same posterior; each sweep of all chains is one pass.

    Args:
        problem: rows, prior and start; weights must be 0 or 1.
        key: a PRNG key.
        schedule: warm-up and draws.
        n_chains: how many.
        thin: sweeps to a draw, as for `gibbs`.

    Raises:
        ValueError: weights other than 0 and 1, a `thin` that isn't a whole number of at least 1.
        FitError: draws that aren't finite numbers.
    """
    source, prior, held = problem.source, problem.prior, problem.layout.held
    thin = sweeps_a_draw(thin, source.n_present)

    def advance(chains: GibbsChain, n_steps: int) -> tuple[GibbsChain, Chunk]:
        kept = []
        for _ in range(n_steps):
            for _ in range(thin):
                chains = _by_pass(source, prior, _drawn(chains, prior, held))
            kept.append([np.asarray(leaf) for leaf in jax.tree.leaves(_kept(chains))])
        return chains, [np.stack(leaves, axis=1) for leaves in zip(*kept, strict=True)]

    chains = _by_pass(source, prior, _begun(jax.random.split(key, n_chains), problem.start, prior))
    gmm, extra, lp, log_likelihood = run_by(advance, chains, jax.eval_shape(_kept, chains), schedule)
    lp = finite(lp) + constant_of(prior, problem.start)
    return Draws(gmm, extra, {"lp": lp, "log_likelihood": log_likelihood}, {"thin": thin})


def _kept(chains: GibbsChain) -> tuple[GMM, dict[str, Array], Array, Array]:
    """Of each step; the log-likelihood, too, for which rows that aren't in memory can't well be asked again."""
    return chains.state.gmm, chains.state.extra, chains.lp, chains.state.statistics.log_likelihood


def _by_pass(source: Pieces, prior: MixturePrior, parameters: _Parameters) -> GibbsChain:
    """The chains once all rows are allocated by their parameters, each piece by uniforms of its own."""
    number = itertools.count()

    def of_piece(rows: Array, weight: Array) -> Statistics:
        counts = np.asarray(weight)
        if ((counts != 0) & (counts != 1)).any():
            raise UserError(
                f"a row has weight {counts[(counts != 0) & (counts != 1)][0]:g}, but Gibbs sampling allocates each row by "
                "itself: give rows in pieces as often as they count, or take method='svi'."
            )
        return _allocated(parameters, np.int32(next(number)), rows, weight, prior)

    statistics = source.reduce(of_piece)
    lp = statistics.log_likelihood + parameters.log_prior
    return GibbsChain(GibbsState(parameters.gmm, parameters.extra, statistics, lp), parameters.rng_key)


@jax.jit
def _begun(keys: Array, gmm: GMM, prior: MixturePrior) -> _Parameters:
    """The mixture that chains start from, for each of them."""

    def of_chain(key: Array) -> _Parameters:
        key_labels, rng_key = jax.random.split(key)
        factor, extra = gmm.factored(), start_of_extra(prior, gmm)
        return _Parameters(gmm, factor, extra, log_prior_kernel(prior, gmm, factor, extra), key_labels, rng_key)

    return jax.vmap(of_chain)(keys)


@functools.partial(jax.jit, static_argnums=2)
def _drawn(chains: GibbsChain, prior: MixturePrior, held: Held) -> _Parameters:
    """The first half of a sweep: parameters given the rows as they are allocated."""

    def of_chain(chain: GibbsChain) -> _Parameters:
        rng_key, key_parameters, key_labels = jax.random.split(chain.rng_key, 3)
        state = chain.state
        gmm, factor, extra = draw_parameters(prior, key_parameters, state.statistics, state.gmm, state.extra, held)
        return _Parameters(gmm, factor, extra, log_prior_kernel(prior, gmm, factor, extra), key_labels, rng_key)

    return jax.vmap(of_chain)(chains)


@jax.jit
def _allocated(
    parameters: _Parameters, number: Array, rows: Float[Array, "M D"], weight: Float[Array, " M"], prior: MixturePrior
) -> Statistics:
    """Statistics of a piece, of each chain."""
    dtype = parameters.gmm.means.dtype
    x, present = rows.astype(dtype), weight.astype(dtype)

    def of_chain(own: _Parameters) -> Statistics:
        key = jax.random.fold_in(own.key, number)
        return allocated(key, own.gmm, own.factor, own.extra, x, prior, present).statistics

    return jax.vmap(of_chain)(parameters)
