"""Blocked Gibbs sampling at a fixed number of components: allocations, then all parameters given them, in turn.

A sweep first draws the parameters from the statistics of the rows as they are allocated (`conjugate`), then allocates the rows
anew, by the density that EM's E-step has. Allocations are never kept: their statistics are all that a sweep needs of them.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import MixturePrior, draw_parameters, log_prior_constant, log_prior_kernel, start_of_extra
from jaxgmm.bayes.samplers.allocating import allocate
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.target.noise import NOISE, at_share, draw_share, share_of
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.covariance import Factor
from jaxgmm.data.observed import Observed
from jaxgmm.data.padding import pad_rows, padded_rows
from jaxgmm.data.placed import Rows, n_places
from jaxgmm.fitting.status import FitError
from jaxgmm.model.density import Uniform, beside
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count

_ROWS_A_DRAW, _MOST_SWEEPS = 10_000, 10  # unless the caller says how many sweeps a draw takes


class GibbsState(NamedTuple):
    """Where a chain stands after a sweep.

    Attributes:
        gmm: the mixture.
        extra: the prior's own further parameters, and the share of noise.
        statistics: of the rows, as they were allocated given `gmm`; those that are noise are in the total weight alone.
        lp: log-likelihood (allocations summed out) plus log prior density of `gmm` and `extra`, in nats, but for
            `log_prior_constant`: its log-gammas would take a second to compile in every sweep.
    """

    gmm: GMM
    extra: dict[str, Array]
    statistics: Statistics
    lp: Float[Array, ""]


def gibbs_start(
    key: Array,
    gmm: GMM,
    x: Rows,
    prior: MixturePrior,
    present: Float[Array, " N"] | None = None,
    noise: Uniform | None = None,
) -> GibbsState:
    """The state before the first sweep: rows allocated by the responsibilities of `gmm`, and of noise."""
    gmm = jax.tree.map(jnp.asarray, gmm)
    return allocated(key, gmm, gmm.factored(), start_of_extra(prior, gmm) | share_of(noise), x, prior, present, noise)


def gibbs_step(
    key: Array,
    state: GibbsState,
    x: Rows,
    prior: MixturePrior,
    present: Float[Array, " N"] | None = None,
    held: Held = FREE,
    noise: Uniform | None = None,
) -> GibbsState:
    """One sweep: (weights, means, covariances) | allocations, then allocations | (weights, means, covariances).

    With the allocation of a row, what wasn't seen of it is drawn, or what it was before errors of measurement. A row that is
    noise belongs to no component, and says only something of the share of noise.

    Both conditionals are exact, so the posterior is invariant. A pure function, for `jit`, `vmap` and `scan`.

    Args:
        key: a PRNG key.
        state: of `gibbs_start`, or of the last sweep.
        x: (N, D), or rows with labels, or by pattern.
        prior: `Prior` (the means integrated out of the covariances' conditional) or `RichardsonGreen`.
        present: (N,), 1 for rows and 0 for the padding after them; None: no padding.
        held: what stays as it is; static.
        noise: what rows may be from besides; `state.extra` has its share.

    Example:
        >>> import jax, jaxgmm as jg
        >>> from jaxgmm.bayes.samplers.gibbs import gibbs_start, gibbs_step
        >>> x = jax.numpy.array([[0.0], [0.2], [4.0]])
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> prior = jg.Prior(1.0, [2.0], 0.1, 3.0, 1.0, "spherical")
        >>> state = jax.jit(gibbs_start)(jax.random.key(0), gmm, x, prior)
        >>> state = jax.jit(gibbs_step)(jax.random.key(1), state, x, prior)
        >>> float(state.statistics.counts.sum())
        3.0
    """
    keys = jax.random.split(key, 2 if noise is None else 3)
    key_parameters, key_labels = keys[0], keys[1]
    gmm, factor, extra = draw_parameters(prior, key_parameters, state.statistics, state.gmm, state.extra, held)
    if noise is not None:
        n_others = state.statistics.counts.sum()
        extra = extra | {NOISE: draw_share(keys[2], state.statistics.total_weight - n_others, n_others)}
    return allocated(key_labels, gmm, factor, extra, x, prior, present, noise)


def allocated(
    key: Array,
    gmm: GMM,
    factor: Factor,
    extra: dict[str, Array],
    x: Rows,
    prior: MixturePrior,
    present: Array | None,
    noise: Uniform | None = None,
) -> GibbsState:
    """The second half of a sweep: rows, allocated by a mixture."""
    statistics = allocate(key, beside(gmm.components(factor), at_share(noise, extra)), x, present)
    return GibbsState(gmm, extra, statistics, statistics.log_likelihood + log_prior_kernel(prior, gmm, factor, extra))


class GibbsChain(NamedTuple):
    """A chain: where it stands, and the key of its future."""

    state: GibbsState
    rng_key: Array

    @property
    def sites(self) -> dict[str, Array]:
        """The parameters by the names of NumPyro's sites."""
        gmm = self.state.gmm
        return {"weights": gmm.weights, "means": gmm.means, "covariances": gmm.covariances} | self.state.extra

    @property
    def lp(self) -> Float[Array, ""]:
        """Log joint density but for the prior's constant, in nats."""
        return self.state.lp

    @classmethod
    def start(
        cls,
        key: Array,
        gmm: GMM,
        x: Rows,
        prior: MixturePrior,
        present: Array | None = None,
        noise: Uniform | None = None,
    ) -> "GibbsChain":
        """A chain at `gmm`, with allocations of its own."""
        key_labels, rng_key = jax.random.split(key)
        return cls(gibbs_start(key_labels, gmm, x, prior, present, noise), rng_key)

    def advance(
        self,
        x: Rows,
        prior: MixturePrior,
        present: Array | None = None,
        held: Held = FREE,
        noise: Uniform | None = None,
    ) -> "GibbsChain":
        """The chain a sweep later."""
        rng_key, key_step = jax.random.split(self.rng_key)
        return GibbsChain(gibbs_step(key_step, self.state, x, prior, present, held, noise), rng_key)


class _Data(NamedTuple):
    x: Rows
    prior: MixturePrior
    present: Float[Array, " N"]
    noise: Uniform | None = None


@dataclasses.dataclass(frozen=True)
class _Stepper:
    """What `run_chains` asks for."""

    thin: int
    held: Held
    heavy: ClassVar = False

    def step(self, chain: GibbsChain, data: _Data) -> GibbsChain:
        x, prior, present, noise = data
        return lax.fori_loop(0, self.thin, lambda _, state: state.advance(x, prior, present, self.held, noise), chain)

    def keep(self, chain: GibbsChain, data: _Data) -> tuple[GMM, dict[str, Array], Array]:
        return chain.state.gmm, chain.state.extra, chain.lp


def gibbs(problem: Problem, key: Array, schedule: Schedule, n_chains: int, *, thin: int | None = None) -> Draws:
    """Draws by conjugate blocked Gibbs sampling (`gibbs_step`), chains side by side.

    Chains start from the problem's mixture, each from its own draw of the allocations.

    Args:
        problem: rows, prior and start; weights must be whole numbers, since they count rows.
        key: a PRNG key.
        schedule: warm-up and draws.
        n_chains: how many.
        thin: sweeps to a draw; default 10 for up to 1000 rows, and fewer, of 10 000 rows together, for more. Where components
            overlap, allocations move slowly: 4 chains of 1000 draws of one sweep each had an effective size of 100 on 300 rows
            of two Gaussians of sd 30 and 22 that are 80 apart.

    Raises:
        ValueError: weights that aren't whole numbers, a `thin` that isn't a whole number of at least 1.
        FitError: draws that aren't finite numbers.
    """
    x, present = _each_once(problem)
    thin = sweeps_a_draw(thin, int(present.sum()))
    data = _Data(jax.device_put(x), problem.prior, jax.device_put(present), problem.noise)
    states = start_chains(jax.random.split(key, n_chains), problem.start, *data)
    gmm, extra, lp = run_chains(_Stepper(thin, problem.layout.held), states, data, schedule)
    return Draws(gmm, extra, {"lp": finite(lp) + constant_of(problem.prior, problem.start)}, {"thin": thin})


def sweeps_a_draw(thin: int | None, n_rows: int) -> int:
    """As said, or by the number of rows. Raises TypeError, ValueError."""
    return int(np.clip(_ROWS_A_DRAW // n_rows, 1, _MOST_SWEEPS)) if thin is None else check_count(thin, "thin")


def finite(lp: Float[np.ndarray, "chain draw"]) -> Float[np.ndarray, "chain draw"]:
    """These log densities; raises FitError where one isn't a finite number."""
    if not np.isfinite(lp).all():
        chain, draw = np.argwhere(~np.isfinite(lp))[0]
        raise FitError(
            f"draw {draw} of chain {chain} isn't finite: columns of x or scales of the prior are too large or too small for "
            f"{lp.dtype}. Rescale the columns of x, or raise prior.degrees_of_freedom or prior.mean_precision."
        )
    return lp


def constant_of(prior: MixturePrior, start: GMM) -> Float[np.ndarray, ""]:
    """What the states' `lp` leave out."""
    return np.asarray(log_prior_constant(jax.tree.map(np.asarray, prior), start.n_components))


@jax.jit
def start_chains(
    keys: Array,
    gmm: GMM,
    x: Rows,
    prior: MixturePrior,
    present: Float[Array, " N"] | None = None,
    noise: Uniform | None = None,
) -> GibbsChain:
    """Chains at one mixture, each with allocations of its own."""
    return jax.vmap(lambda key: GibbsChain.start(key, gmm, x, prior, present, noise))(keys)


def _each_once(problem: Problem) -> tuple[Any, np.ndarray]:
    """Rows as often as they count, padded, and where they are present: a repeated row is allocated each time anew, so one of
    weight 2 can't be one draw.
    """
    x = problem.x
    counts = np.asarray(problem.weight)
    if isinstance(x, Observed):
        if ((counts != 0) & (counts != 1)).any():
            raise UserError(
                f"sample_weight has {counts[(counts != 0) & (counts != 1)][0]:g}, but Gibbs sampling draws what wasn't seen of "
                "each row by itself: repeat these rows in x, or take method='nuts', 'svi' or 'laplace'."
            )
        return x, counts
    _check_whole(counts)
    x = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf), counts.astype(int), axis=0), x)
    padded = jax.tree.map(padded_rows, x)
    present = pad_rows(np.ones(n_places(x), problem.dtype), n_places(padded))
    return padded, present


def _check_whole(counts: np.ndarray) -> None:
    """Raises ValueError for weights that aren't whole numbers."""
    if (counts != np.round(counts)).any():
        row = int(np.flatnonzero(counts != np.round(counts))[0])
        raise UserError(
            f"sample_weight of row {row} is {counts[row]:g}, but Gibbs sampling allocates whole rows: round the weights, or "
            "take method='nuts', 'svi' or 'laplace'."
        )
