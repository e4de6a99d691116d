"""The weighted likelihood bootstrap (Newton & Raftery 1994): a posterior without a sampler, by EM of randomly weighted rows."""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.base import log_prior_constant
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import NUMBERS_AT_ONCE
from jaxgmm.data import ArraySource
from jaxgmm.data.padding import on_device
from jaxgmm.fitting.batch import as_dtype
from jaxgmm.fitting.em_step import Own, Shared
from jaxgmm.fitting.priors import check_mode_exists
from jaxgmm.fitting.status import FitError, FitWarning, Status, status_of
from jaxgmm.fitting.step import Rules
from jaxgmm.fitting.weighted_step import climb_weighted, resampled_weights
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_kernel
from jaxgmm.model.rows import log_likelihood_of
from jaxgmm.tools.blocks import map_draws
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.progress import Reporter
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_rtol, check_steps, key_data

_WEIGHTS_AT_ONCE = 1 << 24
_LEAST_AT_ONCE, _MOST_AT_ONCE = 16, 512  # draws


def weighted_likelihood(
    problem: Problem,
    key: Array,
    n_draws: int,
    n_chains: int,
    *,
    rtol: float = 1e-8,
    max_steps: int = 500,
    report: Reporter | None = None,
) -> Draws:
    """Each draw is the mode, by EM from the start, of rows with random weights: a Dirichlet share of their total for each.

    The spread of the modes is that of the posterior to first order in 1/N, without a Gaussian's symmetry, and, unlike the
    posterior's, right also where the components aren't Gaussian. A weight w counts as w rows, so the share of a row is
    Gamma(w). All draws stay near the start's mode: their labels are its own.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.
        rtol: as for `jaxgmm.fit`.
        max_steps: as for `jaxgmm.fit`.
        report: who is told of the progress.

    Returns:
        Draws. Of its `attrs`, `n_unconverged` says how many of them aren't modes. There is no density to judge them by.

    Raises:
        TypeError, ValueError: settings that can't be used; a prior that isn't conjugate, or has no mode.
        FitError: draws without a density.

    Warns:
        FitWarning: draws that did not converge.
    """
    return _modes(problem, key, (n_chains, n_draws), rtol, max_steps, report, "weighted-likelihood", random_weights)


def bootstrap(
    problem: Problem,
    key: Array,
    n_draws: int,
    n_chains: int,
    *,
    rtol: float = 1e-8,
    max_steps: int = 500,
    report: Reporter | None = None,
) -> Draws:
    """Each draw is the mode, by EM from the start, of as many rows as there are, drawn with repetition (Efron 1979).

    Arguments, and what is returned, raised and warned of, are those of `weighted_likelihood`; weights are frequencies, and
    should add up to the number of rows that were seen.
    """
    return _modes(problem, key, (n_chains, n_draws), rtol, max_steps, report, "bootstrap", resampled_weights)


def _modes(
    problem: Problem,
    key: Array,
    shape: tuple[int, int],
    rtol: float,
    max_steps: int,
    report: Reporter | None,
    name: str,
    weights_of: Callable[[np.random.Generator, np.ndarray, int], np.ndarray],
) -> Draws:
    """Draws (chains, draws) of the method that is called so, by its weights of the rows."""
    n_chains, n_draws = shape
    prior, start, n = problem.prior, problem.start, n_draws * n_chains
    if not isinstance(prior, Prior):
        raise UserError(
            f"method {name!r} needs a conjugate prior, a Prior, but prior is a {type(prior).__name__}: take "
            "method='gibbs' or 'nuts', or prior='default'."
        )
    check_mode_exists(prior.concentration)
    check_rtol(rtol)
    max_steps = check_steps(max_steps)
    dtype, problem = problem.dtype, problem.unpadded()
    x, given = cast(Array, problem.x), np.asarray(problem.weight, float)
    data = on_device(ArraySource(x, on_host(given.astype(dtype))))
    host_prior = as_dtype(prior, np.float64)
    constant = np.asarray(log_prior_constant(host_prior, start.n_components), dtype)
    concentration = np.broadcast_to(host_prior.concentration, (start.n_components,))
    whole = dataclasses.replace(host_prior, concentration=on_host(concentration))
    centre, floor, total = given @ np.asarray(x) / given.sum(), np.zeros(()), given.sum()
    shared = Shared(*(on_host(np.asarray(value, dtype)) for value in (centre, floor)))
    rng, searches, done = np.random.default_rng(np.asarray(key_data(key)).tolist()), [], 0
    while done < n:
        several = min(n - done, max(_LEAST_AT_ONCE, min(_MOST_AT_ONCE, _WEIGHTS_AT_ONCE // data.n_samples)))

        def for_each(leaf: Any) -> Array:
            return on_host(np.broadcast_to(np.asarray(leaf, dtype), (several, *np.shape(leaf))))  # noqa: B023

        weight = np.zeros((several, data.n_samples), dtype)
        weight[:, : given.size] = weights_of(rng, given, several)
        active = on_host(np.ones((several, start.n_components), bool))
        own = Own(jax.tree.map(for_each, whole), for_each(constant), active)
        rules = Rules(own, shared, on_host(np.asarray(total, dtype)), on_host(np.asarray(rtol, dtype)))
        searches.append(climb_weighted(jax.tree.map(for_each, start), data, rules, own, weight, max_steps, problem.layout.held))
        done += several
        if report is not None:
            report(done, n)
    search = jax.tree.map(lambda *leaves: np.concatenate(leaves), *searches)
    status = [status_of(code) for code in search.status.tolist()]
    ended = Counter(each for each in status if each is not Status.converged)
    n_unconverged = sum(ended.values())
    if n_unconverged:
        worst, _ = ended.most_common(1)[0]
        listed = ", ".join(f"{count} ended as {each.name!r}" for each, count in ended.items())
        warnings.warn(f"{name}: of {n} draws {listed}. {worst.meaning}", FitWarning, stacklevel=4)
    mixtures = search.point
    lp = np.asarray(_log_joint_densities(mixtures, prior, constant, data.x, data.weight))
    if not np.isfinite(lp).all():
        raise FitError(
            f"{name}: {int((~np.isfinite(lp)).sum())} of {n} draws have no finite log density. Take fewer "
            "components, or method='gibbs'."
        )
    shaped = jax.tree.map(lambda leaf: leaf.reshape(n_chains, n_draws, *leaf.shape[1:]), (mixtures, {"lp": lp}))
    attrs = {"n_unconverged": n_unconverged, "rtol": float(rtol), "max_steps": max_steps}
    return Draws(shaped[0], {}, shaped[1], attrs)


def random_weights(rng: np.random.Generator, weight: Float[np.ndarray, " N"], n: int) -> Float[np.ndarray, "n N"]:
    """Dirichlet shares of the total weight, n times: of a row with weight w, as of w rows."""
    gammas = rng.gamma(weight, size=(n, weight.size))
    return gammas * (weight.sum() / gammas.sum(1, keepdims=True))


@jax.jit
def _log_joint_densities(
    gmms: GMM, prior: Prior, constant: Array, x: Float[Array, "N D"], weight: Float[Array, " N"]
) -> Float[Array, " n"]:
    """Of the mixtures and all rows, with the weights that were given."""
    n_components = gmms.means.shape[1]
    active = jnp.ones(n_components, bool)

    def of_mixture(gmm: GMM) -> Array:
        factor = gmm.factored()
        return log_likelihood_of(gmm.components(factor), x, weight) + log_kernel(prior, gmm, factor, active)

    at_once = int(np.clip(NUMBERS_AT_ONCE // (x.size * n_components), 1, gmms.weights.shape[0]))
    return map_draws(of_mixture, gmms, at_once) + constant
