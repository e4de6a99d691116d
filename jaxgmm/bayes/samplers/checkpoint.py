"""Checkpoints: an unfinished run of chains as a directory, from which it goes on to the draws of an uninterrupted one."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxgmm.fitting.status import FitError
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.files import DamagedFileError, read_arrays, write_arrays
from jaxgmm.tools.keeping import as_read_back, check_same, open_place
from jaxgmm.tools.types import Json

type Chunk = list[np.ndarray]  # leaves of what a few steps kept, (chain, draw, ...)

_STATE = "state.npz"


class Checkpoint:
    """A directory with the last state of the chains, and a file for each chunk of draws.

    Args:
        directory: where it is, or will be.
        resume: whether a run that is there may be gone on from.
        signature: what must agree for that, as JSON-able facts.
        n_warmup: steps that are thrown away.
        n_draws: steps that are kept, at most.

    Raises:
        ValueError: a run is there that isn't to be resumed; a file, or a directory that holds something else.
    """

    def __init__(self, directory: Path, resume: bool, signature: Mapping[str, Json], n_warmup: int, n_draws: int) -> None:
        self.directory = Path(directory)
        self.signature = as_read_back(signature)
        self.n_warmup, self.total = n_warmup, n_warmup + n_draws
        self.n_written = 0
        open_place(self.directory, _STATE, resume)

    def save(self, states: PyTree, done: int, chunks: list[Chunk]) -> None:
        """Keep what is done. The state comes last: it says how many chunks belong to it."""
        for number in range(self.n_written, len(chunks)):
            _write(self.directory / f"draws_{number:05d}.npz", chunks[number], {})
        self.n_written = len(chunks)
        facts: dict[str, Json] = {"done": done, "n_chunks": len(chunks), "signature": self.signature}
        _write(self.directory / _STATE, [_plain(leaf) for leaf in jax.tree.leaves(states)], facts)

    def load[States](self, states: States, kept: list[jax.ShapeDtypeStruct]) -> tuple[States, int, list[Chunk]]:
        """The states, steps done, and chunks of draws; those of `states` itself where there is nothing yet.

        Args:
            states: as the run begins.
            kept: shape and dtype of each leaf of what one step keeps, (chain, ...).

        Raises:
            ValueError: it is of another run.
            FitError: it can't be read.
        """
        if not (self.directory / _STATE).exists():
            return states, 0, []
        leaves, facts = _read(self.directory / _STATE)
        signature, done, n_chunks = self._checked(facts)
        check_same(self.directory, signature, self.signature)
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


def _length(chunk: Chunk, kept: list[jax.ShapeDtypeStruct]) -> int | None:
    """How many draws a chunk holds; None if it isn't one of this kernel's."""
    lengths = {leaf.shape[1] for leaf in chunk if leaf.ndim > 1}
    if len(lengths) != 1:
        return None
    (n,) = lengths
    wanted = [((one.shape[0], n, *one.shape[1:]), np.dtype(one.dtype).kind) for one in kept]
    return n if [(leaf.shape, leaf.dtype.kind) for leaf in chunk] == wanted else None


def _plain(leaf: Array) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(leaf))
    return np.asarray(leaf)


def _like(new: np.ndarray, old: Array) -> Array:
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(new), impl=jax.random.key_impl(old))
    return jnp.asarray(new)


def _write(path: Path, leaves: Chunk, facts: dict[str, Json]) -> None:
    write_arrays(path, {f"leaf_{i:04d}": leaf for i, leaf in enumerate(leaves)}, facts=facts)


def _read(path: Path) -> tuple[Chunk, Json]:
    try:
        arrays, (facts,) = read_arrays(path, "facts")
        return [arrays[name] for name in sorted(arrays)], facts
    except (OSError, DamagedFileError) as error:
        raise FitError(f"checkpoint file {path} can't be read ({error}): delete its directory and start again.") from None
