"""The one loop of all Markov chains: chains side by side, compiled in chunks, which can be reported on, kept and resumed.

Chunks don't change what is drawn: every step is a function of the state before it, so a run that was cut short and
continued from its last checkpoint gives the very draws of an uninterrupted one.
"""

import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxgmm.fitting.status import FitError
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import DamagedFileError, read_arrays, write_arrays
from jaxgmm.tools.types import Json

_LONGEST = 100  # steps in a compiled chunk
_SECONDS = 2.0  # that a chunk should take, so that a checkpoint is never old
_STATE = "state.npz"
# A checkpoint's files, and what a kill leaves of one that was being written.
_OURS = re.compile(r"state\.npz|draws_\d+\.npz|\.(state|draws_\d+)\.partial-[0-9a-f]+\.npz")


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
    """

    n_warmup: int
    n_draws: int
    report: Callable[[int, int], None] | None = None
    checkpoint: Path | None = None
    resume: bool = False
    signature: Mapping[str, Json] = MappingProxyType({})
    until: "Until | None" = None


class Until(Protocol):
    """Decides when there are enough draws, at numbers of draws that don't depend on how fast they come."""

    def next_look(self, n_draws: int) -> int:
        """How many draws there should be at the next look, when there are `n_draws`."""
        ...

    def enough(self, kept: Any) -> bool:
        """Whether to stop, at a look at all that was kept."""
        ...

    def out_of_time(self, n_draws: int) -> bool:
        """Whether to stop where the run stands, with `n_draws`."""
        ...

    def interrupted(self, n_draws: int) -> bool:
        """Whether a KeyboardInterrupt ends the run with the draws that there are, or goes on its way."""
        ...


def run_chains(kernel: Any, states: Any, data: Any, schedule: Schedule) -> Any:
    """Run chains side by side and keep what `kernel` says of each step after the warm-up.

    Args:
        kernel: hashable; `kernel.step(state, data) -> state` and `kernel.keep(state, data) -> pytree` for one chain; and
            `kernel.heavy`: a step is so much work that on a CPU each chain is a program of its own, in threads.
        states: with a leading axis of chains; PRNG keys are part of them.
        data: pytree, shared by the chains and traced, so that other data of the same shapes compile nothing.
        schedule: lengths, and where to report and keep.

    Returns:
        What was kept, as NumPy arrays with leading axes (chain, draw).

    Raises:
        ValueError: a checkpoint that exists but isn't to be resumed, or that belongs to another run.
        FitError: a checkpoint that can't be read.
    """
    n_warmup, until = schedule.n_warmup, schedule.until
    total = n_warmup + schedule.n_draws
    done = 0
    chunks: list[list[np.ndarray]] = []  # leaves of what was kept
    kept_shapes, structure = jax.tree.flatten(jax.eval_shape(jax.vmap(lambda state: kernel.keep(state, data)), states))
    store = None if schedule.checkpoint is None else _Store(schedule)
    if store is not None and schedule.resume:
        states, done, chunks = store.load(states, kept_shapes)

    def all_kept() -> Any:
        return jax.tree.unflatten(structure, [np.concatenate(parts, axis=1) for parts in zip(*chunks, strict=True)])

    look = total
    if until is not None:
        look = n_warmup + until.next_look(0)
        while look < done:  # of a run that is continued
            look = n_warmup + until.next_look(look - n_warmup)
    length = min(10, total)
    threads = kernel.heavy and jax.default_backend() == "cpu" and _settings_reach_threads()
    advance = _Threads(kernel, data) if threads else _Batch(kernel, data)
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
            states, kept = advance(states, n_steps)
            took = time.perf_counter() - start
            if done >= n_warmup:
                chunks.append([leaf[:, :n_steps].copy() for leaf in kept])  # not a view of all _LONGEST
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

    def __init__(self, kernel: Any, data: Any) -> None:
        self._kernel, self._data = kernel, data

    def __call__(self, states: Any, n_steps: int) -> tuple[Any, list[np.ndarray]]:
        """The states `n_steps` later, and what was kept, (chain, _LONGEST, ...), zeros after `n_steps`."""
        states, kept = _advance(self._kernel, states, self._data, np.int32(n_steps))
        return states, list(map(np.asarray, jax.tree.leaves(kept)))


class _Threads:
    """Each chain by itself, as many at once as there are cores: compiled code doesn't hold the interpreter's lock.

    A chain is the same program however many cores there are, and so has the same draws.
    """

    def __init__(self, kernel: Any, data: Any) -> None:
        self._kernel, self._data, self._compiled = kernel, data, False
        self._x64 = jax.config.jax_enable_x64  # other threads have settings of their own

    def __call__(self, states: Any, n_steps: int) -> tuple[Any, list[np.ndarray]]:
        """As `_Batch`."""
        each = _unstacked(states)
        if not self._compiled:  # once, not by each thread
            self._one(each[0], 0)
            self._compiled = True
        with ThreadPoolExecutor(min(len(each), os.cpu_count() or 1)) as pool:
            after = list(pool.map(lambda state: self._one(state, n_steps), each))
        new, kept = zip(*after, strict=True)
        return _stacked(list(new)), [np.stack(leaves) for leaves in zip(*kept, strict=True)]

    def _one(self, state: Any, n_steps: int) -> tuple[Any, list[np.ndarray]]:
        with jax.enable_x64(self._x64), jax.transfer_guard("allow"):
            new, kept = _advance_one(self._kernel, state, self._data, np.int32(n_steps))
            return new, list(map(np.asarray, jax.tree.leaves(kept)))


def _settings_reach_threads() -> bool:
    """Whether settings of JAX that a caller has put in a context, such as a default device, are those of other threads, too:
    where they aren't, a function would be traced there again, and differently.
    """
    x64 = jax.config.jax_enable_x64

    def probe() -> int:
        with jax.enable_x64(x64), jax.transfer_guard("allow"):
            _probe(np.zeros((), np.float32))
        return len(_probes)

    before = probe()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(probe).result() == before


_probes: list[None] = []  # grows whenever the function below is traced


@jax.jit
def _probe(x: Array) -> Array:
    _probes.append(None)
    return x


@functools.partial(jax.jit, static_argnums=0)
def _advance(kernel: Any, states: Any, data: Any, n_steps: Array) -> tuple[Any, Any]:
    step, keep = (jax.vmap(lambda state, f=f: f(state, data)) for f in (kernel.step, kernel.keep))
    empty = jax.tree.map(
        lambda leaf: jnp.zeros((leaf.shape[0], _LONGEST, *leaf.shape[1:]), leaf.dtype), jax.eval_shape(keep, states)
    )

    def body(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        states, kept = carry
        states = step(states)
        return states, jax.tree.map(lambda all_, one: all_.at[:, i].set(one), kept, keep(states))

    return lax.fori_loop(0, n_steps, body, (states, empty))


@functools.partial(jax.jit, static_argnums=0)
def _advance_one(kernel: Any, state: Any, data: Any, n_steps: Array) -> tuple[Any, Any]:
    shapes = jax.eval_shape(kernel.keep, state, data)
    empty = jax.tree.map(lambda leaf: jnp.zeros((_LONGEST, *leaf.shape), leaf.dtype), shapes)

    def body(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, kept = carry
        state = kernel.step(state, data)
        return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), kept, kernel.keep(state, data))

    return lax.fori_loop(0, n_steps, body, (state, empty))


@jax.jit
def _unstacked(states: Any) -> list[Any]:
    n_chains = jax.tree.leaves(states)[0].shape[0]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(n_chains)]


@jax.jit
def _stacked(each: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def check_keeping(checkpoint: object, resume: bool, keep_checkpoint: bool) -> None:
    """Raises ValueError for what needs a checkpoint where there is none."""
    for name, asked in {"resume": resume, "keep_checkpoint": keep_checkpoint}.items():
        if asked and checkpoint is None:
            raise UserError(f"{name}=True needs checkpoint, the directory of the unfinished run.")


def forget(directory: Path) -> None:
    """Remove the checkpoint of a run that has ended, and its directory if there is nothing else in it.

    The state first: draws without one are nothing to go on from, a state without its draws is a damaged checkpoint.
    """
    ours = [path for path in directory.iterdir() if _OURS.fullmatch(path.name)] if directory.is_dir() else []
    for path in sorted(ours, key=lambda path: path.name != _STATE):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it, or it isn't there
        directory.rmdir()


class _Store:
    """A directory with the last state of the chains, and a file for each chunk of draws."""

    def __init__(self, schedule: Schedule) -> None:
        assert schedule.checkpoint is not None
        self.directory = Path(schedule.checkpoint)
        self.signature = json.loads(json.dumps(dict(schedule.signature)))  # as it will be read back: tuples become lists
        self.n_warmup, self.total = schedule.n_warmup, schedule.n_warmup + schedule.n_draws
        self.n_written = 0
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"checkpoint {self.directory} is a file: give a directory, which may be a new one.")
        found = (self.directory / _STATE).exists()
        if found and not schedule.resume:
            raise UserError(f"checkpoint {self.directory} holds an unfinished run: resume=True continues it; or delete it.")
        if not found and self.directory.exists():
            if any(_OURS.fullmatch(path.name) is None for path in self.directory.iterdir()):
                raise UserError(f"checkpoint {self.directory} is a directory that holds something else: give a new one.")
            forget(self.directory)  # of a run that was killed before it had kept a state
        self.directory.mkdir(parents=True, exist_ok=True)

    def save(self, states: Any, done: int, chunks: list[list[np.ndarray]]) -> None:
        for number in range(self.n_written, len(chunks)):
            _write(self.directory / f"draws_{number:05d}.npz", chunks[number], {})
        self.n_written = len(chunks)
        facts = {"done": done, "n_chunks": len(chunks), "signature": self.signature}
        _write(self.directory / _STATE, [_plain(leaf) for leaf in jax.tree.leaves(states)], facts)

    def load(self, states: Any, kept: list[Any]) -> tuple[Any, int, list[list[np.ndarray]]]:
        """The states, steps done, and chunks of draws; those of `states` itself where there is nothing yet.

        Args:
            states: as the run begins.
            kept: shape and dtype of each leaf of what one step keeps, (chain, ...).
        """
        if not (self.directory / _STATE).exists():
            return states, 0, []
        leaves, facts = _read(self.directory / _STATE)
        signature, done, n_chunks = self._checked(facts)
        differing = [
            f"{name} was {signature.get(name)!r}, now {self.signature.get(name)!r}"
            for name in sorted(signature | self.signature)
            if signature.get(name) != self.signature.get(name)
        ]
        if differing:
            raise UserError(f"checkpoint {self.directory} belongs to another run: {'; '.join(differing)}.")
        if not 0 <= n_chunks <= done:
            raise self._damaged(f"state.npz has done = {done} of {self.total} steps, n_chunks = {n_chunks}")
        old, structure = jax.tree.flatten(states)
        if [(_plain(a).shape, _plain(a).dtype.kind) for a in old] != [(b.shape, b.dtype.kind) for b in leaves]:
            raise FitError(f"checkpoint {self.directory} was written by another version of jaxgmm: delete it and start again.")
        states = jax.tree.unflatten(structure, [_like(new, a) for new, a in zip(leaves, old, strict=True)])
        chunks = [_read(self.directory / f"draws_{number:05d}.npz")[0] for number in range(n_chunks)]
        lengths = [_length(chunk, kept) for chunk in chunks]
        if None in lengths or sum(filter(None, lengths)) != max(0, done - self.n_warmup):
            raise self._damaged(f"its draws are not those of {done} steps")
        if done > self.total:
            raise UserError(
                f"checkpoint {self.directory} holds {done - self.n_warmup} draws of each chain, which is more than "
                f"{self.total - self.n_warmup}: raise it (or max_draws)."
            )
        self.n_written = len(chunks)
        return states, done, chunks

    def _checked(self, facts: Json) -> tuple[dict[str, Json], int, int]:
        """Signature, steps done, and number of chunks, of facts that someone may have edited."""
        wanted = {"signature": dict, "done": int, "n_chunks": int}
        if not isinstance(facts, dict) or any(type(facts.get(name)) is not kind for name, kind in wanted.items()):
            raise self._damaged(f"state.npz must say {', '.join(wanted)}, but says {json.dumps(facts)[:200]}")
        return facts["signature"], facts["done"], facts["n_chunks"]

    def _damaged(self, why: str) -> FitError:
        return FitError(f"checkpoint {self.directory} is damaged ({why}): delete it and start again.")


def _length(chunk: list[np.ndarray], kept: list[Any]) -> int | None:
    """How many draws a chunk holds; None if it isn't one of this kernel's."""
    lengths = {leaf.shape[1] for leaf in chunk if leaf.ndim > 1}
    if len(lengths) != 1:
        return None
    (n,) = lengths
    wanted = [((one.shape[0], n, *one.shape[1:]), np.dtype(one.dtype).kind) for one in kept]
    return n if [(leaf.shape, leaf.dtype.kind) for leaf in chunk] == wanted else None


def _plain(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)


def _like(new: np.ndarray, old: Any) -> Any:
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(new), impl=jax.random.key_impl(old))
    return jnp.asarray(new)


def _write(path: Path, leaves: list[np.ndarray], facts: dict[str, Json]) -> None:
    write_arrays(path, {f"leaf_{i:04d}": leaf for i, leaf in enumerate(leaves)}, facts=facts)


def _read(path: Path) -> tuple[list[np.ndarray], Json]:
    try:
        arrays, (facts,) = read_arrays(path, "facts")
        return [arrays[name] for name in sorted(arrays)], facts
    except (OSError, DamagedFileError) as error:
        raise FitError(f"checkpoint file {path} can't be read ({error}): delete its directory and start again.") from None
