"""Gaussian guides fitted to the posterior by stochastic variational inference: NumPyro's, in whitened coordinates."""

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.example_libraries.optimizers import unpack_optimizer_state
from jaxtyping import Array
from numpyro.distributions import Distribution
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import (
    AutoContinuous,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
)
from numpyro.infer.svi import SVIState
from numpyro.optim import Adam

from jaxgmm.bayes.target.approximation import draws_from
from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import (
    NUMBERS_AT_ONCE,
    Tangent,
    Target,
    coordinates,
    tangent_of,
    target_of,
    whitened_model,
)
from jaxgmm.data.observed import Observed
from jaxgmm.data.placed import n_places
from jaxgmm.fitting.status import FitWarning
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Json
from jaxgmm.tools.validation import check_count, is_finite_number, unknown

GUIDES: dict[str, type[AutoContinuous]] = {
    "multivariate_normal": AutoMultivariateNormal,
    "normal": AutoDiagonalNormal,
    "low_rank": AutoLowRankMultivariateNormal,
}
_PARTICLES = 8
_CHUNKS = 40  # of a run: as often is progress reported, and as many values of the ELBO kept
_DECAY = 0.9  # of Adam's averages of gradients and of their squares
_DECAY_SQUARES = 0.999
_SETTLED = 0.05  # nats


class Settings(NamedTuple):
    """Static settings of a variational run: each combination is a program of its own."""

    layout: Layout
    guide: str
    n_particles: int
    batch_size: int | None


class Course(NamedTuple):
    """How long a run is, and how far its first step leads, in posterior standard deviations."""

    n_steps: int
    learning_rate: float


type Advanced = tuple[SVIState, dict[str, Array], Array]  # the state, the guide's parameters, the mean ELBO on the way


def svi(
    problem: Problem,
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
    """Draws from a Gaussian guide fitted to the log posterior of the unconstrained parameters by maximising the ELBO.

    Adam with a step size that falls to zero as a cosine. The guide starts at the fit, with the covariance it would have if the
    allocations were known.

    Args:
        problem: rows, prior and start.
        key: a PRNG key.
        n_draws: draws of each chain; they are all independent.
        n_chains: chains to arrange them in.
        guide: "multivariate_normal"; "normal", independent in whitened coordinates, where a component's features are
            decorrelated; or "low_rank", a diagonal plus a covariance of rank sqrt(size), for many parameters.
        n_steps: of Adam.
        learning_rate: the first step size, in posterior standard deviations.
        batch_size: rows of a minibatch; None: all of them.
        report: called now and then with (steps done, steps in all).

    Returns:
        Draws. Of its `attrs`, `pareto_k` says how far they can be trusted, `elbo` is the evidence bound in nats and
        `elbo_trace` its course, and `converged` says that moving the guide's centre promises nothing more.

    Raises:
        TypeError, ValueError: settings that can't be used.
        FitError: the guide ran away.

    Warns:
        FitWarning: k-hat above 0.7, or a guide that did not settle.
    """
    course = course_of(guide, n_steps, learning_rate)
    if batch_size is not None:
        problem = problem.unpadded()  # minibatches are of rows
    n_samples, layout = n_places(problem.x), problem.layout
    if batch_size is not None:
        if isinstance(problem.x, Observed):
            raise UserError(
                "batch_size is for rows that were seen wholly: those with gaps, errors or limits go by pattern. Leave it out."
            )
        batch_size = check_count(batch_size, "batch_size")
        if batch_size > n_samples:
            raise UserError(
                f"batch_size must lie in 1..{n_samples}, the rows up to the last of positive weight, got {batch_size}."
            )
    settings = settings_of(layout, guide, batch_size, batch_size or int(np.count_nonzero(problem.weight)))

    target = target_of(problem)
    tangent = None if batch_size is None else tangent_of(target, layout)
    key_run, key_draws = jax.random.split(key)

    def advance(state: SVIState, first: int, last: int) -> Advanced:
        return _advance(state, target, tangent, first, last, *course, settings)

    q, attrs = followed(_begin(key_run, target, tangent, settings), advance, course, settings, report)
    return draws_from(q, target, layout, key_draws, (n_chains, n_draws), attrs)


def course_of(guide: str, n_steps: int, learning_rate: float) -> Course:
    """What a run of a guide is, checked. Raises TypeError, ValueError."""
    if guide not in GUIDES:
        raise unknown("guide", guide, GUIDES)
    n_steps = check_count(n_steps, "n_steps")
    if not is_finite_number(learning_rate) or learning_rate <= 0:
        raise UserError(f"learning_rate must be a positive number (posterior sds a step), got {learning_rate!r}.")
    return Course(n_steps, float(learning_rate))


def settings_of(layout: Layout, guide: str, batch_size: int | None, n_rows: int) -> Settings:
    """With as many particles as memory has room for, of so many rows each."""
    a_particle = n_rows * layout.n_components * layout.n_features
    return Settings(layout, guide, int(np.clip(NUMBERS_AT_ONCE // a_particle, 1, _PARTICLES)), batch_size)


def followed(
    state: SVIState,
    advance: Callable[[SVIState, int, int], Advanced],
    course: Course,
    settings: Settings,
    report: Callable[[int, int], None] | None,
) -> tuple[Distribution, dict[str, Json]]:
    """A run from its beginning to its end: the guide, and facts about it.

    Warns:
        FitWarning: the guide did not settle.
    """
    n_steps, trace = course.n_steps, []
    ends = np.unique(np.linspace(0, n_steps, min(_CHUNKS, n_steps) + 1).round().astype(np.int32))
    for first, last in itertools.pairwise(ends):
        state, params, elbo = advance(state, first, last)
        trace.append(float(elbo))
        if report is not None:
            report(int(last), n_steps)
    q = GUIDES[settings.guide](lambda: None).get_posterior(params)
    q = q.to_event(1 - q.event_dim)
    promised, noise = _promised(state, q, n_steps)
    attrs: dict[str, Json] = {
        "guide": settings.guide,
        "n_steps": n_steps,
        "learning_rate": course.learning_rate,
        "batch_size": settings.batch_size,
        "converged": promised <= max(_SETTLED, 3 * noise),
        "elbo_trace": trace,
    }
    if not attrs["converged"]:
        warnings.warn(
            f"svi: the guide did not settle in {n_steps} steps: moving its centre still promises {promised:.2g} nats. Raise "
            "n_steps.",
            FitWarning,
            stacklevel=4,
        )
    return q, attrs


def search_of(
    settings: Settings, n_steps: int | Array, learning_rate: float | Array, model: Callable[..., None], **static: Any
) -> SVI:
    """NumPyro's search for the guide to a model of whitened coordinates."""
    layout = settings.layout
    guide = GUIDES[settings.guide](
        # A model of the coordinates alone: a guide only needs to know their shape, and NumPyro tries out what it is given.
        lambda *_, **__: coordinates(layout),
        init_loc_fn=init_to_value(values={"v": np.zeros(layout.size)}),
        init_scale=1.0,
    )
    optimiser = Adam(lambda step: learning_rate * (1 + jnp.cos(jnp.pi * step / n_steps)) / 2, _DECAY, _DECAY_SQUARES)
    loss = Trace_ELBO(num_particles=settings.n_particles)
    return SVI(model, guide, optimiser, loss, layout=layout, **static)


def _search(settings: Settings, n_steps: int | Array, learning_rate: float | Array) -> SVI:
    return search_of(settings, n_steps, learning_rate, whitened_model, batch_size=settings.batch_size)


@functools.partial(jax.jit, static_argnums=3)
def _begin(key: Array, target: Target, tangent: Tangent | None, settings: Settings) -> SVIState:
    return _search(settings, 1, 0.0).init(key, target, tangent)


@functools.partial(jax.jit, static_argnums=7)
def _advance(
    state: SVIState,
    target: Target,
    tangent: Tangent | None,
    first: Array,
    last: Array,
    n_steps: Array,
    learning_rate: Array,
    settings: Settings,
) -> Advanced:
    """Steps from `first` to `last`."""
    search = _search(settings, n_steps, learning_rate)
    search.init(state.rng_key, target, tangent)  # tells the guide what it is a guide to; the result isn't used

    def step(_: Array, carry: tuple[SVIState, Array, Array]) -> tuple[SVIState, Array, Array]:
        return stepped(search, carry, target, tangent)

    zero = jnp.zeros((), target.dtype)
    state, count, elbo = lax.fori_loop(first, last, step, (state, zero, zero))
    return state, search.get_params(state), elbo / count


def stepped(search: SVI, carry: tuple[SVIState, Array, Array], *arguments: Any) -> tuple[SVIState, Array, Array]:
    """A step further: the state, the number of finite ELBOs so far, and their sum."""
    state, count, elbo = carry
    state, loss = search.stable_update(state, *arguments)
    fine = jnp.isfinite(loss)
    return state, count + fine, elbo - jnp.where(fine, loss, 0)


def _promised(state: SVIState, q: Distribution, n_steps: int) -> tuple[float, float]:
    """Nats that a Newton step of the guide's centre promises, by Adam's average of the last gradients; and their noise."""
    _, gradient, squares = unpack_optimizer_state(state.optim_state[1])["auto_loc"].subtree
    variance = np.asarray(q.variance)
    gradient = np.asarray(gradient) / (1 - _DECAY**n_steps)
    by_chance = variance * np.asarray(squares) / (1 - _DECAY_SQUARES**n_steps) * (1 - _DECAY) / (1 + _DECAY)
    promised = (variance * gradient**2 - by_chance).sum() / 2
    return float(promised), float(np.sqrt((by_chance**2).sum() / 2))
