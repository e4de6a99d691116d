"""NUTS: NumPyro's sampler on the log posterior of the unconstrained vector, chains side by side."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.infer.hmc import HMCState, hmc

from jaxgmm.bayes.priors.base import MixturePrior, log_prior_constant, start_of_extra
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.target.coordinates import Layout, constrain_factored, log_posterior
from jaxgmm.bayes.target.noise import share_of
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitening import Frame, frame_at, spread
from jaxgmm.data.placed import Rows
from jaxgmm.model.density import Uniform
from jaxgmm.model.mixture import GMM
from jaxgmm.tools.errors import UserError

_DENSE_UP_TO = 64  # coordinates; beyond, a full mass matrix costs more to learn than it saves


class Data(NamedTuple):
    """What the log posterior needs besides the vector, traced."""

    x: Rows
    weight: Float[Array, " M"]
    prior: MixturePrior
    constant: Float[Array, ""]
    frame: Frame
    noise: Uniform | None = None


class NutsKernel(NamedTuple):
    """Static settings of a NUTS chain; `run_chains` steps it."""

    layout: Layout
    n_warmup: int
    target_accept: float
    max_tree_depth: int
    dense_mass: bool

    def init(self, key: Array, position: Float[Array, " size"], data: Data) -> HMCState:
        """The state before the first step."""
        start, _ = _nuts(self)
        return start(
            position,
            num_warmup=self.n_warmup,
            target_accept_prob=self.target_accept,
            max_tree_depth=self.max_tree_depth,
            dense_mass=self.dense_mass,
            rng_key=key,
            model_args=(data,),
        )

    @property
    def heavy(self) -> bool:
        """Side by side all chains would wait for the longest trajectory."""
        return True

    def step(self, state: HMCState, data: Data) -> HMCState:
        """One draw."""
        return _nuts(self)[1](state, (data,), {})

    def keep(self, state: HMCState, data: Data) -> dict[str, Array]:
        """The vector and what ArviZ calls sample statistics."""
        return {
            "vector": data.frame.origin + spread(data.frame, state.z, self.layout),
            "potential": state.potential_energy,
            "energy": state.energy,
            "n_steps": state.num_steps,
            "acceptance_rate": state.accept_prob,
            "step_size": state.adapt_state.step_size,
            "diverging": state.diverging,
        }


@functools.lru_cache(maxsize=16)
def _nuts(kernel: NutsKernel) -> tuple[Any, Any]:
    """NumPyro's functions to start and to step. They share state that `init` sets, so every kernel has its own pair."""

    def potential(data: Data) -> Any:
        x, weight, prior, constant, frame, noise = data

        def at(z: Float[Array, " size"]) -> Float[Array, ""]:
            vector = frame.origin + spread(frame, z, kernel.layout)
            return -log_posterior(vector, kernel.layout, x, weight, prior, constant, noise)

        return at

    return hmc(potential_fn_gen=potential, algo="NUTS")


def nuts(
    problem: Problem,
    key: Array,
    schedule: Schedule,
    n_chains: int,
    *,
    target_accept: float = 0.95,
    max_tree_depth: int = 10,
    dense_mass: bool | None = None,
) -> Draws:
    """Draws by the no-U-turn sampler (Hoffman & Gelman 2014), as NumPyro has it.

    It moves in coordinates around the start in which the posterior is close to a unit normal (`whitening`), so units of the
    data don't matter, and chains start about one posterior sd apart.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        schedule: warm-up and draws.
        n_chains: side by side, vectorised.
        target_accept: acceptance rate that the step size is adapted to; skewed posteriors, as mixtures have, want small steps.
        max_tree_depth: at most 2^depth leapfrog steps a draw.
        dense_mass: adapt a full mass matrix; None: where the vector has up to 64 entries.

    Raises:
        ValueError: target_accept outside (0, 1), or max_tree_depth outside 1..20.
    """
    if not 0 < target_accept < 1:
        raise UserError(f"target_accept must lie between 0 and 1, got {target_accept}: 0.8 is usual, 0.95 is careful.")
    if not 1 <= max_tree_depth <= 20:
        raise UserError(f"max_tree_depth must lie in 1..20, got {max_tree_depth}: 10 is usual.")
    layout = problem.layout
    dense_mass = layout.size <= _DENSE_UP_TO if dense_mass is None else dense_mass
    kernel = NutsKernel(layout, schedule.n_warmup, float(target_accept), int(max_tree_depth), bool(dense_mass))
    constant = jnp.asarray(log_prior_constant(jax.tree.map(np.asarray, problem.prior), layout.n_components), problem.dtype)
    extra = start_of_extra(problem.prior, problem.start) | share_of(problem.noise)
    frame = jax.jit(frame_at, static_argnums=4)(problem.start, extra, problem.prior, problem.total_weight, layout)
    data = Data(problem.x, problem.weight, problem.prior, constant, frame, problem.noise)
    states = _start(kernel, jax.random.split(key, n_chains), data)
    kept = run_chains(kernel, states, data, schedule)
    gmm, extra, log_jacobian = _constrained(kept["vector"], layout)
    stats = {
        "lp": -kept["potential"] - np.asarray(log_jacobian),
        "energy": kept["energy"],
        "n_steps": kept["n_steps"],
        "tree_depth": np.ceil(np.log2(kept["n_steps"] + 1)).astype(int),
        "acceptance_rate": kept["acceptance_rate"],
        "step_size": kept["step_size"],
        "diverging": kept["diverging"],
    }
    settings = {"target_accept": target_accept, "max_tree_depth": max_tree_depth, "dense_mass": dense_mass}
    return Draws(gmm, extra, stats, settings)


@functools.partial(jax.jit, static_argnums=0)
def _start(kernel: NutsKernel, keys: Array, data: Data) -> HMCState:
    def chain(key: Array) -> HMCState:
        key_position, key_chain = jax.random.split(key)
        position = jax.random.normal(key_position, (kernel.layout.size,), data.constant.dtype)
        return kernel.init(key_chain, position, data)

    return jax.vmap(chain)(keys)


@functools.partial(jax.jit, static_argnums=1)
def _constrained(vectors: Array, layout: Layout) -> tuple[GMM, dict[str, Array], Array]:
    """Mixtures (chain, draw), the prior's extra parameters, and log Jacobians."""

    def one(vector: Array) -> tuple[GMM, dict[str, Array], Array]:
        gmm, _, extra, log_jacobian = constrain_factored(vector, layout)
        return gmm, extra, log_jacobian

    return jax.vmap(jax.vmap(one))(vectors)
