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
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.covariance import Factor
from jaxgmm.data.observed import Observed
from jaxgmm.data.padding import pad_rows, padded_rows
from jaxgmm.data.placed import Rows, n_places
from jaxgmm.data.source import Labelled
from jaxgmm.fitting.status import FitError
from jaxgmm.model.density import Components, log_joint
from jaxgmm.model.engines import assigned_statistics
from jaxgmm.model.holding import FREE, Held
from jaxgmm.model.mixture import GMM
from jaxgmm.model.observing import completed, dense, patterns_of, root_of, whiten
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.blocks import reduce_rows, rows_present, short_blocks
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count
from jaxgmm.tools.variates import draw_labels, normals

_ROWS_A_DRAW, _MOST_SWEEPS = 10_000, 10  # unless the caller says how many sweeps a draw takes
_ROWS_AT_ONCE = 4096  # rows allocated together: bounds memory at K x 4096 x D numbers a chain


class GibbsState(NamedTuple):
    """Where a chain stands after a sweep.

    Attributes:
        gmm: the mixture.
        extra: the prior's own further parameters.
        statistics: of the rows, as they were allocated given `gmm`.
        lp: log-likelihood (allocations summed out) plus log prior density of `gmm` and `extra`, in nats, but for
            `log_prior_constant`: its log-gammas would take a second to compile in every sweep.
    """

    gmm: GMM
    extra: dict[str, Array]
    statistics: Statistics
    lp: Float[Array, ""]


def gibbs_start(key: Array, gmm: GMM, x: Rows, prior: MixturePrior, present: Float[Array, " N"] | None = None) -> GibbsState:
    """The state before the first sweep: rows allocated by the responsibilities of `gmm`."""
    gmm = jax.tree.map(jnp.asarray, gmm)
    return allocated(key, gmm, gmm.factored(), start_of_extra(prior, gmm), x, prior, present)


def gibbs_step(
    key: Array,
    state: GibbsState,
    x: Rows,
    prior: MixturePrior,
    present: Float[Array, " N"] | None = None,
    held: Held = FREE,
) -> GibbsState:
    """One sweep: (weights, means, covariances) | allocations, then allocations | (weights, means, covariances).

    With the allocation of a row, what wasn't seen of it is drawn, or what it was before errors of measurement.

    Both conditionals are exact, so the posterior is invariant. A pure function, for `jit`, `vmap` and `scan`.

    Args:
        key: a PRNG key.
        state: of `gibbs_start`, or of the last sweep.
        x: (N, D), or rows with labels, or by pattern.
        prior: `Prior` (the means integrated out of the covariances' conditional) or `RichardsonGreen`.
        present: (N,), 1 for rows and 0 for the padding after them; None: no padding.
        held: what stays as it is; static.

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
    key_parameters, key_labels = jax.random.split(key)
    gmm, factor, extra = draw_parameters(prior, key_parameters, state.statistics, state.gmm, state.extra, held)
    return allocated(key_labels, gmm, factor, extra, x, prior, present)


def allocated(
    key: Array, gmm: GMM, factor: Factor, extra: dict[str, Array], x: Rows, prior: MixturePrior, present: Array | None
) -> GibbsState:
    """The second half of a sweep: rows, allocated by a mixture."""
    # Each row is centred at its own component's mean, so that no digits are lost however far apart the components are.
    components, origin = gmm.components(factor), jnp.zeros_like(gmm.means[0])

    def assigned(shift: Array, w: Array, labels: Array, log_density: Array) -> Statistics:
        statistics = assigned_statistics(components.structure, gmm.n_components, origin, shift, w, labels)
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
            joint = log_joint(components, rows)
            labels, log_density, _ = draw_labels((joint if known is None else joint + known).T, u)
            return assigned(rows - gmm.means[labels], w, labels, log_density)

        if present is None:
            statistics = reduce_rows(block, rows, jnp.ones(rows.shape[0], rows.dtype), _ROWS_AT_ONCE, *others)
        else:
            block_size = short_blocks(_ROWS_AT_ONCE, rows.shape[0])
            statistics = reduce_rows(block, rows, present, block_size, *others, n_rows=rows_present(present))
    statistics = dataclasses.replace(statistics, centre=gmm.means)
    return GibbsState(gmm, extra, statistics, statistics.log_likelihood + log_prior_kernel(prior, gmm, factor, extra))


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
        values: Array, which: Array, known: Array | None, u: Array, noise: Array, errors: Array | None, beyond: Array | None
    ) -> tuple[Array, Array, Array]:
        seen, covariance, limits = x.of_patterns(which)
        pattern = patterns_of(components, whole, seen, covariance, limits)
        y, joint = whiten(components, pattern, values)
        labels, log_density, _ = draw_labels(joint if known is None else joint + known.T, u)
        if covariance is not None:
            assert errors is not None
            errors = errors @ root_of(covariance, seen, dtype).T
        return completed(components, whole, pattern, y, labels, noise, errors, beyond), labels, log_density

    blocks = x.values, x.pattern, x.evidence, uniform, noise, None if x.errors is None else errors, beyond
    drawn = lax.map(lambda group: jax.vmap(of_block)(*group), blocks)
    shift, labels, log_density = (leaf.reshape(-1, *leaf.shape[3:]) for leaf in drawn)
    return shift, labels, log_density


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
    def start(cls, key: Array, gmm: GMM, x: Rows, prior: MixturePrior, present: Array | None = None) -> "GibbsChain":
        """A chain at `gmm`, with allocations of its own."""
        key_labels, rng_key = jax.random.split(key)
        return cls(gibbs_start(key_labels, gmm, x, prior, present), rng_key)

    def advance(self, x: Rows, prior: MixturePrior, present: Array | None = None, held: Held = FREE) -> "GibbsChain":
        """The chain a sweep later."""
        rng_key, key_step = jax.random.split(self.rng_key)
        return GibbsChain(gibbs_step(key_step, self.state, x, prior, present, held), rng_key)


class _Data(NamedTuple):
    x: Rows
    prior: MixturePrior
    present: Float[Array, " N"]


@dataclasses.dataclass(frozen=True)
class _Stepper:
    """What `run_chains` asks for."""

    thin: int
    held: Held
    heavy: ClassVar = False

    def step(self, chain: GibbsChain, data: _Data) -> GibbsChain:
        return lax.fori_loop(0, self.thin, lambda _, state: state.advance(*data, self.held), chain)

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
    data = _Data(jax.device_put(x), problem.prior, jax.device_put(present))
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
def start_chains(keys: Array, gmm: GMM, x: Rows, prior: MixturePrior, present: Float[Array, " N"] | None = None) -> GibbsChain:
    """Chains at one mixture, each with allocations of its own."""
    return jax.vmap(lambda key: GibbsChain.start(key, gmm, x, prior, present))(keys)


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
