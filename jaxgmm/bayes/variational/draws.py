"""Draws from variational Bayes' q, for `posterior`: coordinate ascent from the fit, then the conjugate distributions."""

import functools
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxgmm.bayes.priors.base import log_prior_constant
from jaxgmm.bayes.priors.conjugate import draw_conjugate
from jaxgmm.bayes.target.approximation import judged
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import NUMBERS_AT_ONCE
from jaxgmm.bayes.variational.ascent import Ascent, Own, posterior_of, start_from, statistics_under
from jaxgmm.bayes.variational.expectations import log_density
from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource
from jaxgmm.fitting.account import restarts_of
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.priors import check_alike
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.fitting.step import Rules
from jaxgmm.model.prior import Prior, log_kernel
from jaxgmm.model.rows import log_likelihood_of
from jaxgmm.tools.blocks import map_draws
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_rtol, check_steps


def vb(problem: Problem, key: Array, n_draws: int, n_chains: int, *, rtol: float = 1e-8, max_steps: int = 1000) -> Draws:
    """Draws from q(weights, means, covariances) of variational Bayes, by coordinate ascent from the start.

    Weights are Dirichlet, as in the prior that the tree describes; for sticks, another model, see `fit_vb`.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.
        rtol: stop when an update raises the bound by less than `rtol` times the total weight, nats.
        max_steps: the most updates.

    Returns:
        Draws. Of its `attrs`, `elbo` is the bound of the evidence in nats with `elbo_trace` its course, and `pareto_k` says how
        far the draws can be trusted. `log_p` and `log_q` are with respect to the parameters themselves.

    Raises:
        TypeError, ValueError: settings that can't be used, or a prior that isn't conjugate.
        FitError: the bound isn't finite.

    Warns:
        FitWarning: k-hat above 0.7, or an ascent that did not converge.
    """
    prior = problem.prior
    if not isinstance(prior, Prior):
        raise UserError(
            f"method 'vb' needs a conjugate prior, a Prior, but prior is a {type(prior).__name__}, whose means and variances "
            "are independent: take method='gibbs', 'nuts', 'svi' or 'laplace', or prior='default'."
        )
    check_alike(prior, "method 'vb'", "method='gibbs', 'nuts', 'svi' or 'laplace'")
    check_rtol(rtol)
    max_steps = check_steps(max_steps)
    x, gmm = cast(Array, problem.x), problem.start
    weight = problem.weight
    data, total, step = ArraySource(x, weight), weight.sum(), Ascent(gmm.family, "dirichlet")
    one_start = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (gmm, prior))
    active = jnp.ones((1, gmm.n_components), bool)
    rules = Rules(Own(one_start[1], active), weight @ x / total, total, jnp.asarray(rtol, x.dtype))
    start = start_from(statistics_under(one_start[0], data, rules.shared), rules.own)
    search = climb(start, data, rules, max_steps, step)
    ended = restarts_of([search], rtol * float(total), of_bounds=True)
    status = ended.status[0]
    if status is not Status.converged:
        warnings.warn(f"vb ended as {status.name!r}. {status.meaning}", FitWarning, stacklevel=3)
    attrs = {
        "guide": "vb",
        "n_steps": int(ended.n_steps[0]),
        "rtol": float(rtol),
        "max_steps": max_steps,
        "converged": status is Status.converged,
        "elbo": float(ended.objective[0]),
        "elbo_trace": ended.trace[0].tolist(),
    }
    constant = np.asarray(log_prior_constant(jax.tree.map(np.asarray, prior), gmm.n_components), x.dtype)
    made_of = jax.tree.map(lambda leaf: leaf[0], search.point)
    drawn = _draw(made_of, prior, constant, x, weight, jax.random.split(key, n_chains * n_draws), step)
    mixtures, stats = jax.tree.map(np.array, drawn)
    return judged(Draws(mixtures, {}, stats, attrs), (n_chains, n_draws), "the factorised q")


@functools.partial(jax.jit, static_argnums=6)
def _draw(made_of: PyTree, prior: Prior, constant: Array, x: Array, weight: Array, keys: Array, step: Ascent) -> Any:
    """Mixtures, and their log densities with respect to the parameters themselves."""
    family = get_family(step.family)
    n_components, n_features = made_of.statistics.sums.shape
    active = jnp.ones(n_components, bool)
    q = posterior_of(prior, made_of, step, active)

    def one(key: Array) -> Any:
        gmm, factor = draw_conjugate(key, q, step.family)
        lp = log_likelihood_of(gmm.components(factor), x, weight) + log_kernel(prior, gmm, factor, active) + constant
        pivot = family.structure.pivots(family.factor(gmm.covariances, n_features)).min()  # NaN if it has no factor
        return gmm, {"lp": lp, "log_p": lp, "log_q": log_density(q, gmm, factor), "pivot": pivot}

    at_once = int(np.clip(NUMBERS_AT_ONCE // (x.size * n_components), 1, keys.shape[0]))
    return map_draws(one, keys, at_once)
