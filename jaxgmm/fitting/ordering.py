"""Which component is which, where a prior tells them apart.

The likelihood doesn't depend on the order of the components, so a mixture's best order is an assignment: of its components to
those of the prior, by the log density of each as each. EM can't exchange components. So starts first take a few steps under a
prior that knows no component, then the order that the prior likes best; and where another order is better at the end, they go
on from it. One of several starts is where the prior itself expects the components, which rows alone may never show.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.covariance import get_family
from jaxgmm.data import Source
from jaxgmm.data.moments import Moments
from jaxgmm.fitting.em_step import EM, EMRules
from jaxgmm.fitting.loop import choose, climb
from jaxgmm.fitting.starts import assigned_start
from jaxgmm.fitting.status import Status
from jaxgmm.fitting.step import Search
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_kernel
from jaxgmm.tools.pytree import unchecked
from jaxgmm.tools.types import on_host

_FIRST_STEPS = 10  # by which components have spreads of their own
_MOST_ORDERS = 10
_SLACK = 1e-6  # nats: orders closer than this are equal, and then components stay where they are


class Order(NamedTuple):
    """What it takes to put some starts in order.

    Attributes:
        neutral: their rules, with a prior that tells no components apart.
        n_components: (R,), those from it on are padding.
        places: (K,), components may only change places with those of the same number; None: with all.
        expected: a start where the prior expects components, (1, ...); None without.
        chosen: (R,), whose place it takes.
    """

    neutral: EMRules
    n_components: Int[np.ndarray, " R"]
    places: Int[np.ndarray, " K"] | None
    expected: GMM | None
    chosen: Bool[np.ndarray, " R"]


def climb_in_order(begin: GMM, order: Order, data: Source, rules: EMRules, max_steps: int, step: EM, **how: Any) -> Search[GMM]:
    """`climb`, with components in the order that the prior likes best; steps are counted from the last order on."""
    prior = rules.own.prior
    assert prior is not None
    first = climb(begin, data, order.neutral, min(max_steps, _FIRST_STEPS), step).point
    starts, _ = in_order(first, prior, order)
    if order.expected is not None:
        starts = choose(on_host(order.chosen), order.expected, starts)
    found = climb(starts, data, rules, max_steps, step, **how)
    for _ in range(_MOST_ORDERS):
        starts, moved = in_order(found.point, prior, order)
        if not moved.any() or (np.asarray(found.status) == Status.interrupted).any():
            break
        again = climb(starts, data, rules, max_steps, step, stoppable=how.get("stoppable", False))
        found = jax.tree.map(np.asarray, choose(on_host(moved), again, found))
    return found


def differs(prior: Prior | None) -> bool:
    """Whether a prior tells components apart."""
    if prior is None:
        return False
    leaves = (np.asarray(getattr(prior, name)) for name in prior.by_component)
    return any(bool((leaf != leaf[:1]).any()) for leaf in leaves)


def without_differences(prior: Prior, moments: Moments, n_components: int) -> Prior:
    """A prior of the same shapes that tells no components apart: what differs is as in Fraley & Raftery's."""
    common, changes = Prior.of_moments("fraley-raftery", moments, n_components, prior.family), {}
    for name in prior.by_component:
        value = np.asarray(getattr(common, name))
        changes[name] = np.broadcast_to(value, (n_components, *value.shape))
    return unchecked(Prior, **vars(prior) | changes)


def expected_start(prior: Prior, n_components: int, centre: np.ndarray, dtype: np.dtype) -> GMM | None:
    """The M-step of a row at each component's prior mean; None where all would begin alike."""
    if not {"mean", "scale"} & set(prior.by_component):
        return None
    means = np.broadcast_to(np.asarray(prior.mean, dtype), (n_components, centre.size))
    ones, labels = np.ones(n_components, dtype), np.arange(n_components, dtype=np.int32)
    rows = (on_host(each) for each in (means, ones, labels, centre.astype(dtype)))
    own = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), prior)
    return assigned_start(*rows, n_components, prior.family, own)


def places_of(evidence: Float[Array, "N K"] | None) -> Int[np.ndarray, " K"] | None:
    """A number for each component, the same for those of which rows' labels say the same."""
    return None if evidence is None else np.unique(np.asarray(evidence), axis=1, return_inverse=True)[1].reshape(-1)


def in_order(gmms: GMM, prior: Prior, order: Order) -> tuple[GMM, Bool[np.ndarray, " R"]]:
    """The mixtures (R, ...) with their components in the best order under their priors, and which of them have changed."""
    scores = np.asarray(_scores(gmms, prior), float)
    index = np.tile(np.arange(scores.shape[1]), (len(scores), 1))
    for own, matrix, k in zip(index, scores, order.n_components, strict=True):
        own[:k] = _best(matrix[:k, :k], order.places)
    moved = (index != np.arange(scores.shape[1])).any(1)

    def permuted(leaf: Array) -> Array:
        values = np.asarray(leaf)
        return on_host(np.take_along_axis(values, index.reshape(*index.shape, *(1,) * (values.ndim - 2)), axis=1))

    covariances = permuted(gmms.covariances) if get_family(gmms.family).per_component else gmms.covariances
    return GMM.unchecked(permuted(gmms.weights), permuted(gmms.means), covariances, gmms.family), moved


def _best(scores: Float[np.ndarray, "K K"], places: Sequence[int] | np.ndarray | None) -> Int[np.ndarray, " K"]:
    """The component that comes to each place; as it is where no order is better by more than the slack."""
    from scipy.optimize import linear_sum_assignment  # only here: a first fit waits for no package that it does not need

    same = np.arange(len(scores))
    if not np.isfinite(scores).all():  # a start that is no mixture has no better order
        return same
    if places is not None:
        far = -np.abs(scores).sum() - 1
        scores = np.where(np.equal.outer(places, places), scores, far)
    to, components = linear_sum_assignment(scores.T, maximize=True)
    return components if scores[components, to].sum() - np.trace(scores) > _SLACK else same


@jax.jit
def _scores(gmms: GMM, prior: Prior) -> Float[Array, "R K K"]:
    """Log prior density of each component as each, up to what doesn't depend on the order, in nats."""
    return jax.vmap(_scores_of)(gmms, prior)


def _scores_of(gmm: GMM, prior: Prior) -> Float[Array, "K K"]:
    family, k, by_component = get_family(gmm.family), gmm.n_components, prior.by_component
    leaves = {name: jnp.asarray(getattr(prior, name)) for name in prior.fields}
    each = {name: leaf if name in by_component else jnp.broadcast_to(leaf, (k, *leaf.shape)) for name, leaf in leaves.items()}
    slots = unchecked(Prior, **{"least_scale": None} | each, family=prior.family)
    covariances = (
        gmm.covariances[:, None] if family.per_component else jnp.broadcast_to(gmm.covariances, (k, *gmm.covariances.shape))
    )
    alone = GMM.unchecked(gmm.weights[:, None], gmm.means[:, None], covariances, gmm.family)

    def as_each(component: GMM) -> Float[Array, " K"]:
        factor = component.factored()
        return jax.vmap(lambda slot: log_kernel(slot, component, factor, jnp.ones(1, bool)))(slots)

    return jax.vmap(as_each)(alone)
