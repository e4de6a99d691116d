"""Blocked Gibbs sampling at a fixed number of components: allocations, then all parameters given them, in turn.

A sweep first draws the parameters from the statistics of the rows as they are allocated (`conjugate`), then allocates the rows
anew, by the density that EM's E-step has. Allocations are never kept: their statistics are all that a sweep needs of them.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from jaxgmm.bayes.priors.base import draw_parameters, log_prior_constant, log_prior_kernel, start_of_extra
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.covariance import Factor, get_family
from jaxgmm.fitting.status import FitError
from jaxgmm.model.density import log_joint
from jaxgmm.model.engines import assigned_statistics
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import reduce_rows
from jaxgmm.tools.validation import check_rows, check_single
from jaxgmm.tools.variates import draw_labels

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


def gibbs_start(key: Array, gmm: GMM, x: Float[Array, "N D"], prior: Any) -> GibbsState:
    """The state before the first sweep: rows allocated by the responsibilities of `gmm`."""
    gmm = jax.tree.map(jnp.asarray, gmm)
    factor = get_family(gmm.family).factor(gmm.covariances, gmm.n_features)
    return _allocated(key, gmm, factor, start_of_extra(prior, gmm), x, prior)


def gibbs_step(key: Array, state: GibbsState, x: Float[Array, "N D"], prior: Any) -> GibbsState:
    """One sweep: (weights, means, covariances) | allocations, then allocations | (weights, means, covariances).

    Both conditionals are exact, so the posterior is invariant. A pure function, for `jit`, `vmap` and `scan`.

    Args:
        key: a PRNG key.
        state: of `gibbs_start`, or of the last sweep.
        x: (N, D).
        prior: `Prior` (the means integrated out of the covariances' conditional) or `RichardsonGreen`.

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
    gmm, factor, extra = draw_parameters(prior, key_parameters, state.statistics, state.gmm, state.extra)
    return _allocated(key_labels, gmm, factor, extra, x, prior)


def _allocated(key: Array, gmm: GMM, factor: Factor, extra: dict[str, Array], x: Array, prior: Any) -> GibbsState:
    uniform = jax.random.uniform(key, (x.shape[0],), x.dtype)
    # Each row is centred at its own component's mean, so that no digits are lost however far apart the components are.
    components, origin = gmm.components(factor), jnp.zeros_like(gmm.means[0])

    def block(rows: Array, w: Array, u: Array) -> Statistics:
        labels, log_density = draw_labels(log_joint(components, rows), u)
        statistics = assigned_statistics(components.structure, gmm.n_components, origin, rows - gmm.means[labels], w, labels)
        return dataclasses.replace(statistics, log_likelihood=w @ log_density)

    statistics = reduce_rows(block, x, jnp.ones(x.shape[0], x.dtype), _ROWS_AT_ONCE, uniform)
    statistics = dataclasses.replace(statistics, centre=gmm.means)
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
    def start(cls, key: Array, gmm: GMM, x: Float[Array, "N D"], prior: Any) -> "GibbsChain":
        """A chain at `gmm`, with allocations of its own."""
        key_labels, rng_key = jax.random.split(key)
        return cls(gibbs_start(key_labels, gmm, x, prior), rng_key)

    def advance(self, x: Float[Array, "N D"], prior: Any) -> "GibbsChain":
        """The chain a sweep later."""
        rng_key, key_step = jax.random.split(self.rng_key)
        return GibbsChain(gibbs_step(key_step, self.state, x, prior), rng_key)


class _Data(NamedTuple):
    x: Float[Array, "N D"]
    prior: Any


@dataclasses.dataclass(frozen=True)
class _Stepper:
    """What `run_chains` asks for."""

    def step(self, chain: GibbsChain, data: _Data) -> GibbsChain:
        return chain.advance(data.x, data.prior)

    def keep(self, chain: GibbsChain, data: _Data) -> tuple[GMM, dict[str, Array], Array]:
        return chain.state.gmm, chain.state.extra, chain.lp


def gibbs(problem: Problem, key: Array, schedule: Schedule, n_chains: int) -> Draws:
    """Draws by conjugate blocked Gibbs sampling (`gibbs_step`), chains side by side.

    Chains start from the problem's mixture, each from its own draw of the allocations.

    Args:
        problem: rows, prior and start; weights must be whole numbers, since they count rows.
        key: a PRNG key.
        schedule: warm-up and draws.
        n_chains: how many.

    Raises:
        ValueError: weights that aren't whole numbers.
        FitError: draws that aren't finite numbers.
    """
    data = _Data(_repeat(problem.x, problem.weight), problem.prior)
    states = _start(jax.random.split(key, n_chains), problem.start, data)
    gmm, extra, lp = run_chains(_Stepper(), states, data, schedule)
    if not np.isfinite(lp).all():
        chain, draw = np.argwhere(~np.isfinite(lp))[0]
        raise FitError(
            f"draw {draw} of chain {chain} isn't finite: columns of x or scales of the prior are too large or too small for "
            f"{lp.dtype}. Rescale the columns of x, or raise prior.degrees_of_freedom or prior.mean_precision."
        )
    lp = lp + log_prior_constant(jax.tree.map(np.asarray, problem.prior), problem.start.n_components)
    return Draws(gmm, extra, {"lp": lp}, {})


@jax.jit
def _start(keys: Array, gmm: GMM, data: _Data) -> GibbsChain:
    return jax.vmap(lambda key: GibbsChain.start(key, gmm, data.x, data.prior))(keys)


def _repeat(x: Array, weight: Array | None) -> Array:
    """Rows as often as they count: a repeated row is allocated each time anew, so one of weight 2 can't be one draw."""
    if weight is None:
        return x
    counts = np.asarray(weight)
    if (counts != np.round(counts)).any():
        row = int(np.flatnonzero(counts != np.round(counts))[0])
        raise ValueError(
            f"sample_weight of row {row} is {counts[row]:g}, but Gibbs sampling allocates whole rows: round the weights, or "
            "take method='nuts', 'svi' or 'laplace'."
        )
    return jnp.asarray(np.repeat(np.asarray(x), counts.astype(int), axis=0))


class GibbsKernel(MCMCKernel):
    """The Gibbs sweep as a NumPyro kernel: `MCMC(GibbsKernel(start, prior), ...).run(key, x)`.

    Its samples are the sites of `numpyro_model`: `weights`, `means`, `covariances`, and `rate` with `RichardsonGreen`.
    `extra_fields=("lp",)` keeps the log joint density too, but for the prior's constant. It computes in JAX's configured
    precision; `jaxgmm.posterior` computes in float64 on CPUs.

    Args:
        start: one mixture, every weight positive.
        prior: a `Prior` or a `RichardsonGreen` that fits it.

    Raises:
        TypeError, ValueError: a start or a prior that can't be used.

    Example:
        >>> import jax, jaxgmm as jg
        >>> from numpyro.infer import MCMC
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> prior = jg.Prior(1.0, [2.0], 0.1, 3.0, 1.0, "spherical")
        >>> mcmc = MCMC(jg.GibbsKernel(gmm, prior), num_warmup=10, num_samples=50, progress_bar=False)
        >>> mcmc.run(jax.random.key(1), [[0.0], [0.2], [4.0]])
        >>> mcmc.get_samples()["means"].shape
        (50, 2, 1)
    """

    model = None  # ArviZ asks for it: there is no NumPyro model to trace
    sample_field = "sites"

    def __init__(self, start: GMM, prior: Any) -> None:
        if not isinstance(prior, Prior | RichardsonGreen):
            raise TypeError(f"prior must be a Prior or RichardsonGreen, got {type(prior).__name__}: fit.prior, of a MAP fit.")
        check_single(start.weights, "GibbsKernel(g, prior)")
        prior.check_fits(start)
        if not (np.asarray(start.weights) > 0).all():
            raise ValueError(f"start has weights {np.asarray(start.weights).tolist()}: drop components of weight 0.")
        self._start, self._prior = start, prior

    def init(self, rng_key: Array, num_warmup: int, init_params: Any, model_args: Any, model_kwargs: Any) -> GibbsChain:
        """The chain, or several for several keys, before the first sweep.

        Args:
            rng_key: one PRNG key, or an array of them.
            num_warmup: not used: there is nothing to adapt.
            init_params: None.
            model_args: the rows `x` (N, D), as `MCMC.run` was given them,
            model_kwargs: or here, by name.

        Raises:
            ValueError: `init_params` that is given, rows that can't be used.
        """
        if init_params is not None:
            raise ValueError("init_params isn't used: GibbsKernel(start, prior) starts from the mixture `start`.")
        x, gmm, prior = self._cast(*model_args, **model_kwargs)
        single = is_prng_key(rng_key)
        chains = _start(rng_key[None] if single else rng_key, gmm, _Data(x, prior))
        return jax.tree.map(lambda leaf: leaf[0], chains) if single else chains

    def sample(self, state: GibbsChain, model_args: Any, model_kwargs: Any) -> GibbsChain:
        """The chain, or several, a sweep later.

        Args:
            state: of `init` or `sample`.
            model_args: the rows `x` (N, D),
            model_kwargs: or here, by name.
        """
        x, _, prior = self._cast(*model_args, **model_kwargs)
        step, data = _Stepper().step, _Data(x, prior)
        return step(state, data) if is_prng_key(state.rng_key) else jax.vmap(step, in_axes=(0, None))(state, data)

    def get_diagnostics_str(self, state: GibbsChain) -> str:
        """What the progress bar says of `state`."""
        return f"log joint {float(state.lp):.2f}"

    def _cast(self, x: ArrayLike) -> tuple[Array, GMM, Any]:
        rows = check_rows(x, "x", n_features=self._start.n_features)
        dtype = precision.result_dtype(rows)
        return jnp.asarray(rows, dtype), precision.cast(self._start, dtype), precision.cast(self._prior, dtype)
