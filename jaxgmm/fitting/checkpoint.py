"""Checkpoints of fits: what the loop carries, from which it goes on to the numbers of an uninterrupted fit."""

import importlib.metadata
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgmm.data.agreeing import all_or_none, gathered
from jaxgmm.fitting.status import FitError, FitWarning
from jaxgmm.tools.files import DamagedFileError, read_arrays, write_arrays
from jaxgmm.tools.keeping import as_read_back, check_same, forget, open_place
from jaxgmm.tools.types import Json
from jaxgmm.version import __version__

_FIRST = "starts_00000.npz"
_SECONDS = 5.0  # between two checkpoints, at least


class Checkpoint:
    """A directory with the search of each batch of starts, and the one before, should a machine go down while it is written.

    Of processes that share rows, the first keeps, and tells the others what it has kept.

    Args:
        directory: where it is, or will be.
        resume: whether a fit that is there may be gone on from.
        signature: what must agree for that, as JSON-able facts.
        shared: whether all processes fit the same rows, together.
        seconds: between two checkpoints, at least.

    Raises:
        ValueError: a fit is there that isn't to be resumed; a file, or a directory that holds something else.
    """

    def __init__(
        self, directory: Path, resume: bool, signature: Mapping[str, Json], *, shared: bool = False, seconds: float = _SECONDS
    ) -> None:
        versions: dict[str, Json] = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
        processes = {"processes": jax.process_count()} if shared else {}
        self.directory, self.seconds, self.shared = directory, seconds, shared
        self.signature = as_read_back({**signature, "jaxgmm": __version__, **versions, **processes})
        self.keeps = jax.process_index() == 0 or not shared
        self.agreed(lambda: open_place(directory, _FIRST, resume) if self.keeps else None)

    def agreed[Result](self, make: Callable[[], Result]) -> Result:
        """`make()`; where rows are shared, of all processes or of none."""
        return all_or_none(make) if self.shared else make()

    def part(self, first: int) -> "Part":
        """Of the batch that begins with this start."""
        return Part(self, self.directory / f"starts_{first:05d}.npz")

    def forget(self) -> None:
        """The fit has ended."""
        if self.keeps:
            forget(self.directory, _FIRST)


class Part:
    """What is kept of one batch of starts."""

    def __init__(self, checkpoint: Checkpoint, path: Path) -> None:
        self._of, self._path = checkpoint, path
        self._before = path.with_name(f"{path.stem}_before.npz")
        self._saved = time.monotonic()

    def load[Tree](self, search: Tree) -> Tree:
        """The search as it was kept; as it is, where nothing was.

        Raises:
            ValueError: it is of another fit.
            FitError: it can't be read.
        """
        leaves, structure = jax.tree.flatten(search)
        kept = self._of.agreed(lambda: self._read(leaves) if self._of.keeps else [np.asarray(leaf) for leaf in leaves])
        return jax.tree.unflatten(structure, gathered(kept)[0] if self._of.shared else kept)

    def save(self, search: Any, *, ended: bool) -> None:
        """Keep it, unless it was kept a moment ago."""
        due = ended or time.monotonic() - self._saved >= self._of.seconds
        self._of.agreed(lambda: self._write(search) if due and self._of.keeps else None)

    def _write(self, search: Any) -> None:
        """There is a whole file of the name at every moment once there has been one."""
        if self._path.exists():
            self._before.unlink(missing_ok=True)
            try:
                os.link(self._path, self._before)
            except OSError:  # a file system without links
                shutil.copyfile(self._path, self._before)
        arrays = {f"leaf_{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(search))}
        write_arrays(self._path, arrays, signature=self._of.signature)
        self._saved = time.monotonic()

    def _read(self, like: list[Any]) -> list[Any]:
        damaged = None
        for path in (self._path, self._before):
            if not path.exists():
                continue
            try:
                arrays, (signature,) = read_arrays(path, "signature")
                kept = [arrays[name] for name in sorted(arrays)]
                if not isinstance(signature, dict):
                    raise DamagedFileError("it doesn't say whose it is")
            except (OSError, DamagedFileError) as error:
                damaged = FitError(f"checkpoint file {path} can't be read ({error}): delete its directory and start again.")
                continue
            check_same(self._of.directory, signature, self._of.signature)
            if [(leaf.shape, leaf.dtype) for leaf in kept] != [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in like]:
                raise FitError(f"checkpoint {self._of.directory} is of another fit: delete it and start again.")
            if damaged is not None:
                warnings.warn(
                    f"{self._path} is damaged: the fit goes on from the checkpoint before it.", FitWarning, stacklevel=2
                )
            return kept
        if damaged is not None:
            raise damaged
        return like
