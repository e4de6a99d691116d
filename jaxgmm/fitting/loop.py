"""The one loop: a search from a batch of starts, each with its own status. EM, MAP-EM and variational Bayes run in it.

A `Step` says where to begin, what to try next and what that is worth; the loop counts, watches for NaN, and decides who stops
and why. Rows in memory are summed within one compiled loop; those that come in pieces between two compiled halves of a pass.
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, PyTree

from jaxgmm.data import Source
from jaxgmm.fitting.status import RUNNING, Status
from jaxgmm.fitting.step import Proposal, Rules, Search, Step
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools.types import on_host

_TRACE = 512  # least length of the compiled trace buffer: changing max_steps below it compiles nothing
_FLOPS_BETWEEN_REPORTS = 2e10
_SECONDS_BETWEEN_LOOKS = 1.0
_FLOPS_BETWEEN_LOOKS = 2e11  # of the host, where no one is reported to
_PLACES = 16  # starts that are stepped together: with more, those that stop early leave more idle
_STRIDE = 32  # steps between looks at which of them have stopped (`look_after`), while others wait


class Keep(Protocol):
    """Keeps what the loop carries, so that it outlives the process."""

    def load[Tree](self, search: Tree) -> Tree:
        """What was kept of a search that begins like this; as it is, where nothing was."""
        ...

    def save(self, search: Search, *, ended: bool) -> None:
        """Keep it, if it is time to."""
        ...


def climb[Point](
    starts: Point,
    data: Source,
    rules: Rules,
    max_steps: int,
    step: Step[Point, PyTree],
    report: Callable[[Search[Point]], None] | None = None,
    *,
    places: int | None = None,
    look_after: int = _STRIDE,
    traced: bool = True,
    keep: Keep | None = None,
    stoppable: bool = False,
) -> Search[Point]:
    """Run a batch of starts to the end, and return them as NumPy arrays.

    A few starts are stepped at a time; the place of one that has stopped goes to the next, so that the slowest don't keep all
    of them waiting. It pays to put those first that may take longest. One call does it all where there are no more starts than
    places, the step suits all points, no one is reported to, and it doesn't take long. Objectives on the way are kept
    where `traced`. `keep` outlives the process. Where it is `stoppable`, a KeyboardInterrupt ends it with what there is.
    """
    places = _PLACES if places is None else places
    whole = _begin(jax.tree.map(np.asarray, starts), max(_TRACE, 1 << max_steps.bit_length()) if traced else 1, step)
    n_starts, n_components, n_features = whole.statistics.sums.shape
    flops = 2.0 * data.n_samples * n_features * (n_features + 3) * n_components * min(n_starts, places)
    # Processes that share rows look up at the same steps, whoever of them has someone to tell.
    most = _FLOPS_BETWEEN_LOOKS if report is None and keep is None and not data.shared else _FLOPS_BETWEEN_REPORTS
    longest = min(max_steps + 1, max(1, int(most / max(flops, 1))))  # interruptions wait for so many steps
    if keep is not None:
        whole = keep.load(whole)
    advance: Callable[..., tuple[Search, Array | bool]] = _advance if data.traceable else _advance_on_host
    unfinished = np.flatnonzero(_running(whole, max_steps))
    while unfinished.size:
        stopped = np.setdiff1d(np.arange(n_starts), unfinished)  # they fill up the last batches
        rows = np.sort(np.concatenate([unfinished, stopped])[:places])
        stride = min(longest, look_after) if unfinished.size > places else longest
        total = rules.total_weight
        own = rules._replace(own=_rows(rules.own, rows), total_weight=total[rows] if np.ndim(total) else total)
        try:
            with jax.debug_nans(False), jax.debug_infs(False):  # a start that ends in them is a result, with a status
                part, suited = advance(_rows(whole, rows), data, own, np.int32(max_steps), np.int32(stride), step)
                if not suited:
                    few = np.int32(min(stride, _STRIDE))
                    part, _ = advance(part, data, own, np.int32(max_steps), few, step.sturdier())
            whole = jax.tree.map(functools.partial(_put, rows), whole, part)
        except KeyboardInterrupt as stop:
            if not stoppable or data.shared or type(stop) is not KeyboardInterrupt or not np.isfinite(whole.objective).any():
                raise
            running = _running(whole, max_steps)
            return whole._replace(status=on_host(np.where(running, Status.interrupted, whole.status).astype(np.int32)))
        unfinished = unfinished[_running(whole, max_steps)[unfinished]]
        if keep is not None:
            keep.save(whole, ended=not unfinished.size)
        if report is not None:
            report(whole)
    return whole


def _rows[Tree](tree: Tree, rows: np.ndarray) -> Tree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _put(rows: np.ndarray, whole: np.ndarray, part: Array) -> np.ndarray:
    if len(rows) == len(whole):
        return np.asarray(part)
    after = whole.copy()  # so that an interruption finds the search before or after, and nothing in between
    after[rows] = part
    return after


def _running(search: Search, max_steps: int | Array) -> Bool[Array, " R"]:
    return (search.status == RUNNING) & (search.n_steps < max_steps)


def _begin[Point](starts: Point, length: int, step: Step[Point, PyTree]) -> Search[Point]:
    """The search before its first evaluation."""
    statistics, memory = step.begin(starts)
    n_starts, dtype = statistics.counts.shape[0], statistics.counts.dtype
    infinite, status = on_host(np.full(n_starts, np.inf, dtype)), on_host(np.full(n_starts, RUNNING, np.int32))
    n_steps, trace = on_host(np.full(n_starts, -1, np.int32)), on_host(np.zeros((n_starts, length), dtype))
    return Search(starts, statistics, -infinite, status, n_steps, trace, infinite, memory)


@functools.partial(jax.jit, static_argnums=5)
def _advance(
    search: Search, data: Source, rules: Rules, max_steps: Array, stride: Array, step: Step
) -> tuple[Search, Bool[Array, ""]]:
    """Up to `stride` passes, in each of which every start that still runs takes a step; False if the step doesn't suit."""
    expanded = data.whole(lambda x: step.expand(search, x, rules))

    def unfinished(carry: tuple[Search, Array, Array]) -> Bool[Array, ""]:
        search, n_passes, suited = carry
        return _running(search, max_steps).any() & (n_passes < stride) & suited

    def one(carry: tuple[Search, Array, Array]) -> tuple[Search, Array, Array]:
        search, n_passes, _ = carry
        trial, suited = _try(search, rules, max_steps, step)
        statistics = data.reduce(lambda x, w: step.sums(trial.ready, x, w, rules, expanded))
        return _settle(search, trial, statistics, rules, step), n_passes + 1, suited

    found, _, suited = lax.while_loop(unfinished, one, (search, jnp.zeros_like(stride), jnp.ones((), bool)))
    return found, suited


def _advance_on_host(
    search: Search, data: Source, rules: Rules, max_steps: Array, stride: Array, step: Step
) -> tuple[Search, bool]:
    """`_advance` for rows that come in pieces: they are summed between two compiled halves of a pass. The host looks up, too,
    once a second has gone by: how long reading takes isn't known. With other processes, after each pass.
    """
    until = 0.0 if data.shared else time.monotonic() + _SECONDS_BETWEEN_LOOKS
    for i in range(stride):
        if not np.asarray(_running(search, max_steps)).any() or (i and time.monotonic() > until):
            break
        trial, suited = _jitted_try(search, rules, max_steps, step)
        if not suited:
            return search, False
        statistics = data.reduce(lambda x, w: _jitted_sums(trial.ready, x, w, rules, step))  # noqa: B023
        search = _jitted_settle(search, trial, statistics, rules, step)
    return search, True


class _Trial(NamedTuple):
    """What a pass tries: which starts run, where they go, what sums over rows need of that, and where it can't be used."""

    running: Bool[Array, " R"]
    proposal: Proposal
    ready: PyTree
    useless: Bool[Array, " R"]


def _try(search: Search, rules: Rules, max_steps: Array, step: Step) -> tuple[_Trial, Bool[Array, ""]]:
    """The first half of a pass; where the step doesn't suit its points, nothing runs."""
    proposal = step.propose(search, rules)
    proposal = proposal._replace(point=choose(search.n_steps < 0, search.point, proposal.point))
    ready, useless = step.ready(search, proposal.point, rules)
    running = _running(search, max_steps)
    suited = step.suits(ready, rules, running & ~useless)
    return _Trial(running & suited, proposal, ready, useless), suited


def _settle(search: Search, trial: _Trial, statistics: Statistics, rules: Rules, step: Step) -> Search:
    """The second half: accept the proposals or not, and say which starts have stopped and why."""
    running, proposal, ready, useless = trial
    objective, also_useless = step.judge(proposal.point, ready, statistics, rules)
    useless = useless | also_useless
    eps = jnp.finfo(objective.dtype).eps
    first = search.n_steps < 0
    n_steps = jnp.where(running, search.n_steps + 1, search.n_steps)
    weight = rules.total_weight
    gain = objective - search.objective
    finite = jnp.isfinite(objective)
    fell = ~first & (gain < -jnp.sqrt(eps) * (weight + jnp.abs(search.objective)))
    rounding = 4 * eps * jnp.abs(search.objective)
    least = jnp.where(rules.rtol > 0, jnp.maximum(rules.rtol * weight, rounding), 0)
    small = ~first & (jnp.abs(gain) < least)
    if step.stopping == "aitken":
        ratio = gain / search.last_gain
        promised = gain * ratio / (1 - ratio)  # what a geometric series of gains would still bring
        small = small & (ratio < 1) & (jnp.abs(promised) < least)
    tolerance = 1e-6 if objective.dtype == jnp.float64 else 1e-3
    mismatch = jnp.abs(step.accounted(statistics, rules) - weight) > tolerance * weight

    status = jnp.where(small, Status.converged, RUNNING)
    for happened, code in (
        (fell, Status.decreased),
        (mismatch, Status.inconsistent),
        (~finite, Status.not_finite),
        (useless, Status.collapsed),
    ):
        status = jnp.where(happened, code, status)
    accepted = ~useless & finite & ~mismatch & ~fell
    if proposal.trial is not None:
        accepted = accepted & ~(proposal.trial & (gain < 0))
        status = jnp.where(proposal.trial, RUNNING, status)
    memory = choose(running, step.remember(search, proposal, ready, accepted), search.memory)
    accepted = accepted & running
    objective = jnp.where(accepted, objective, search.objective)
    return Search(
        point=choose(accepted, proposal.point, search.point),
        statistics=choose(accepted, statistics, search.statistics),
        objective=objective,
        status=jnp.where(running, status, search.status).astype(jnp.int32),
        n_steps=n_steps,
        trace=search.trace.at[jnp.arange(n_steps.size), n_steps].set(objective),
        last_gain=jnp.where(running, gain, search.last_gain),
        memory=memory,
    )


@functools.partial(jax.jit, static_argnums=4)
def _jitted_sums(ready: PyTree, x: Array, weight: Array, rules: Rules, step: Step) -> Statistics:
    return step.sums(ready, x, weight, rules, None)


_jitted_try = jax.jit(_try, static_argnums=3)
_jitted_settle = jax.jit(_settle, static_argnums=4)


def choose[Tree](which: Bool[Array, " R"], new: Tree, old: Tree) -> Tree:
    """Leaf by leaf, `new` for the chosen starts."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(which.shape + (1,) * (a.ndim - 1)), a, b), new, old)
