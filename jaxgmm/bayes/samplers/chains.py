"""The one loop of all Markov chains: chains side by side, compiled in chunks, which can be reported on, kept and resumed.

Chunks don't change what is drawn: every step is a function of the state before it, so a run that was cut short and
continued from its last checkpoint gives the very draws of an uninterrupted one.
"""

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from jaxgmm.bayes.samplers.checkpoint import Checkpoint, Chunk
from jaxgmm.tools.threads import import_meanwhile, settings_reach_threads
from jaxgmm.tools.types import Json

_LONGEST = 100  # steps in a compiled chunk
_SECONDS = 2.0  # that a chunk should take, so that a checkpoint is never old


class Schedule(NamedTuple):
    """How long to run, whom to tell, and where to keep what is done.

    Attributes:
        n_warmup: steps that are thrown away.
        n_draws: steps that are kept, at most.
        report: called with (steps done, steps in all) after each chunk; None: nobody.
        checkpoint: a directory for an unfinished run, made here; None: an interrupted run is lost.
        resume: continue the run in `checkpoint`.
        signature: what must agree for a run to be continued, as JSON-able facts.
        until: decides when to stop before `n_draws`; None: the run goes to its end.
        imports: modules that will be needed after the run; imported while it goes on, when the interpreter has little to do.
    """

    n_warmup: int
    n_draws: int
    report: Callable[[int, int], None] | None = None
    checkpoint: Path | None = None
    resume: bool = False
    signature: Mapping[str, Json] = MappingProxyType({})
    until: "Until | None" = None
    imports: Sequence[str] = ()


class Until(Protocol):
    """Decides when there are enough draws, at numbers of draws that don't depend on how fast they come."""

    def next_look(self, n_draws: int) -> int:
        """How many draws there should be at the next look, when there are `n_draws`."""
        ...

    def enough(self, kept: PyTree) -> bool:
        """Whether to stop, at a look at all that was kept."""
        ...

    def out_of_time(self, n_draws: int) -> bool:
        """Whether to stop where the run stands, with `n_draws`."""
        ...

    def interrupted(self, n_draws: int) -> bool:
        """Whether a KeyboardInterrupt ends the run with the draws that there are, or goes on its way."""
        ...


class Kernel[State, Data](Protocol):
    """One chain; hashable, since programs are compiled for it."""

    @property
    def heavy(self) -> bool:
        """Whether a step is so much work that on a CPU each chain is a program of its own, in threads."""
        ...

    def step(self, state: State, data: Data) -> State:
        """The state after this one, in which its PRNG key is."""
        ...

    def keep(self, state: State, data: Data) -> PyTree:
        """What is kept of a state after the warm-up."""
        ...


type Advance = Callable[[PyTree, int], tuple[PyTree, Chunk]]


def run_chains[State, Data](kernel: Kernel[State, Data], states: State, data: Data, schedule: Schedule) -> PyTree:
    """Run chains side by side and keep what `kernel` says of each step after the warm-up.

    Args:
        kernel: says how a chain goes on, and what is kept of it.
        states: with a leading axis of chains; PRNG keys are part of them.
        data: pytree, shared by the chains and traced, so that other data of the same shapes compile nothing.
        schedule: lengths, and where to report and keep.

    Returns:
        What was kept, as NumPy arrays with leading axes (chain, draw).

    Raises:
        ValueError: a checkpoint that exists but isn't to be resumed, or that belongs to another run.
        FitError: a checkpoint that can't be read.
    """
    threads = kernel.heavy and jax.default_backend() == "cpu" and settings_reach_threads()
    advance = _Threads(kernel, data) if threads else _Batch(kernel, data)
    kept = jax.eval_shape(jax.vmap(lambda state: kernel.keep(state, data)), states)
    return run_by(advance, states, kept, schedule)


def run_by(advance: Advance, states: PyTree, kept: PyTree, schedule: Schedule) -> PyTree:
    """`run_chains`, of chains that go on by other means.

    Args:
        advance: from states and a number of steps to the states after these, and the leaves of what was kept, (chain, n, ...),
            n at least the number of steps.
        states: with a leading axis of chains.
        kept: shapes and dtypes of what is kept of a step, (chain, ...).
        schedule: lengths, and where to report and keep.
    """
    n_warmup, until = schedule.n_warmup, schedule.until
    total = n_warmup + schedule.n_draws
    done = 0
    chunks: list[Chunk] = []
    kept_shapes, structure = jax.tree.flatten(kept)
    store = None
    if schedule.checkpoint is not None:
        store = Checkpoint(schedule.checkpoint, schedule.resume, schedule.signature, n_warmup, schedule.n_draws)
    if store is not None and schedule.resume:
        states, done, chunks = store.load(states, kept_shapes)

    def all_kept() -> PyTree:
        return jax.tree.unflatten(structure, [np.concatenate(parts, axis=1) for parts in zip(*chunks, strict=True)])

    look = total
    if until is not None:
        look = n_warmup + until.next_look(0)
        while look < done:  # of a run that is continued
            look = n_warmup + until.next_look(look - n_warmup)
    length = min(10, total)
    try:
        while done < total:
            if until is not None and done >= n_warmup:
                if done == look:
                    if until.enough(all_kept()):
                        break
                    look = n_warmup + until.next_look(done - n_warmup)
                if until.out_of_time(done - n_warmup):
                    break
            # Warm-up and draws never share a chunk, so that a chunk is kept whole or not at all.
            n_steps = min(length, (n_warmup if done < n_warmup else min(look, total)) - done)
            start = time.perf_counter()
            states, leaves = advance(states, n_steps)
            took = time.perf_counter() - start
            import_meanwhile(*schedule.imports)  # from the second chunk on nothing is compiled
            if done >= n_warmup:
                chunks.append([leaf[:, :n_steps].copy() for leaf in leaves])  # not a view of all _LONGEST
            done += n_steps
            length = int(np.clip(_SECONDS * n_steps / took, 1, _LONGEST))
            if store is not None:
                store.save(states, done, chunks)
            if schedule.report is not None:
                schedule.report(done, min(look, total))
        else:
            if until is not None and done == look:
                until.enough(all_kept())
    except KeyboardInterrupt:
        if until is None or not until.interrupted(sum(chunk[0].shape[1] for chunk in chunks)):
            raise
    return all_kept()


class _Batch:
    """Chains step by step side by side, as one program."""

    def __init__(self, kernel: Kernel, data: PyTree) -> None:
        self._kernel, self._data = kernel, data

    def __call__(self, states: PyTree, n_steps: int) -> tuple[PyTree, Chunk]:
        """The states `n_steps` later, and what was kept, (chain, _LONGEST, ...), zeros after `n_steps`."""
        states, kept = _advance(self._kernel, states, self._data, np.int32(n_steps))
        return states, list(map(np.asarray, jax.tree.leaves(kept)))


class _Threads:
    """Each chain by itself, as many at once as there are cores: compiled code doesn't hold the interpreter's lock.

    A chain is the same program however many cores there are, and so has the same draws.
    """

    def __init__(self, kernel: Kernel, data: PyTree) -> None:
        self._kernel, self._data, self._compiled = kernel, data, False
        self._x64 = jax.config.jax_enable_x64  # other threads have settings of their own

    def __call__(self, states: PyTree, n_steps: int) -> tuple[PyTree, Chunk]:
        """As `_Batch`."""
        each = _unstacked(states)
        if not self._compiled:  # once, not by each thread
            self._one(each[0], 0)
            self._compiled = True
        with ThreadPoolExecutor(min(len(each), os.cpu_count() or 1)) as pool:
            after = list(pool.map(lambda state: self._one(state, n_steps), each))
        new, kept = zip(*after, strict=True)
        return _stacked(list(new)), [np.stack(leaves) for leaves in zip(*kept, strict=True)]

    def _one(self, state: PyTree, n_steps: int) -> tuple[PyTree, Chunk]:
        with jax.enable_x64(self._x64), jax.transfer_guard("allow"):
            new, kept = _advance_one(self._kernel, state, self._data, np.int32(n_steps))
            return new, list(map(np.asarray, jax.tree.leaves(kept)))


@functools.partial(jax.jit, static_argnums=0)
def _advance(kernel: Kernel, states: PyTree, data: PyTree, n_steps: Array) -> tuple[PyTree, PyTree]:
    step, keep = (jax.vmap(lambda state, f=f: f(state, data)) for f in (kernel.step, kernel.keep))
    empty = jax.tree.map(
        lambda leaf: jnp.zeros((leaf.shape[0], _LONGEST, *leaf.shape[1:]), leaf.dtype), jax.eval_shape(keep, states)
    )

    def body(i: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        states, kept = carry
        states = step(states)
        return states, jax.tree.map(lambda all_, one: all_.at[:, i].set(one), kept, keep(states))

    return lax.fori_loop(0, n_steps, body, (states, empty))


@functools.partial(jax.jit, static_argnums=0)
def _advance_one(kernel: Kernel, state: PyTree, data: PyTree, n_steps: Array) -> tuple[PyTree, PyTree]:
    shapes = jax.eval_shape(kernel.keep, state, data)
    empty = jax.tree.map(lambda leaf: jnp.zeros((_LONGEST, *leaf.shape), leaf.dtype), shapes)

    def body(i: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        state, kept = carry
        state = kernel.step(state, data)
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), kept, kernel.keep(state, data))

    return lax.fori_loop(0, n_steps, body, (state, empty))


@jax.jit
def _unstacked(states: PyTree) -> list[PyTree]:
    n_chains = jax.tree.leaves(states)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(n_chains)]


@jax.jit
def _stacked(each: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
