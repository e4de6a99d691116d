"""A run's directory: written whole or not at all, and what an interrupted run keeps in it.

While Markov chains are running their directory holds `unfinished/`: the config, the fit, and the draws so far of each stage.
A finished run takes its place. Inside the directory and not next to it, which may be the top of another file system.
A run that fails leaves `failed.json`, which says in which stage and why, unless there is an older run in its directory.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgmm.app.lock import lock_of
from jaxgmm.fitting.status import FitError
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.files import DamagedFileError, read_arrays, sync, whole, write_arrays
from jaxgmm.tools.types import Facts

_RUN = ("config.toml", "gmm.npz", "fit.json")  # every run has them
# What a run may have written and the next one, with another config, may not.
_OPTIONAL = (
    "assignments.csv", "assignments.parquet", "posterior.nc", "posterior.json", "posterior_chains.png", "posterior_draws.png",
    "posterior_intervals.png", "comparison.csv", "comparison.png", "counts.nc", "cluster_count.csv", "cluster_count.png",
    "similarity.png", "report.html", "failed.json",
)  # fmt: skip
_UNFINISHED, _FAILED = "unfinished", "failed.json"
_ABANDONED = 3600.0  # seconds after which a folder that nobody finished may go: writing takes a minute
_CHAIN_STAGES = ("posterior", "count")
_MUST_AGREE = ("jaxgmm", "jax", "jaxlib", "numpyro")  # for a chain to go on as if nothing had happened


def holds_run(directory: Path) -> bool:
    """Is there a finished run?"""
    return all((directory / name).is_file() for name in _RUN)


def digests(directory: Path) -> dict[str, str]:
    """A hash of each file there, by which fit.json knows the others again."""
    return {path.name: _digest(path) for path in sorted(directory.iterdir())}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def check_belongs(directory: Path, fit: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises ValueError where a file isn't the one that was written together with fit.json, whose content `fit` is."""
    known = fit.get("files", {})
    for name in names:
        if (directory / name).is_file() and known.get(name) != _digest(directory / name):
            raise UserError(f"{directory}: fit.json and {name} are not of one run: run the config again")


def holds_draws(directory: Path) -> bool:
    """Is there an unfinished run with something to continue from?"""
    return any((draws_folder(directory, stage) / "state.npz").is_file() for stage in _CHAIN_STAGES)


def draws_folder(directory: Path, stage: str) -> Path:
    """Where the Markov chains of a stage keep what is done."""
    return directory / _UNFINISHED / stage


def failure(directory: Path) -> str | None:
    """In which stage the run that was to be there failed, and why; None if none did."""
    try:
        record = json.loads((directory / _FAILED).read_text(encoding="utf-8"))
        return f"failed in {record['stage']}: {record['error'].rstrip('.')}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"failed, but {_FAILED} can't be read ({error})"


@contextmanager
def failure_recorded(directory: Path) -> Iterator[Callable[[str], None]]:
    """Where the block fails, say so in the directory, unless an older run is there. An interruption is no failure.

    Yields:
        What is to be told the name of each stage that begins.
    """
    stage = "start"

    def begins(name: str) -> None:
        nonlocal stage
        stage = name

    with suppress(OSError):
        (directory / _FAILED).unlink(missing_ok=True)
    try:
        yield begins
    except Exception as error:
        if not holds_run(directory):
            kind = "" if isinstance(error, UserError | UserTypeError | FitError | OSError) else f"{type(error).__name__}: "
            record = json.dumps({"stage": stage, "error": f"{kind}{error}"}, indent=2)
            with suppress(OSError):  # a disk that is full is what failed
                directory.mkdir(parents=True, exist_ok=True)
                (directory / _FAILED).write_text(f"{record}\n", encoding="utf-8")
        raise


def check_free(directory: Path, *, overwrite: bool, resume: bool) -> None:
    """Before anything is computed: can results be written there, and is nothing in their way?

    Raises:
        ValueError: a file, a folder of other things, a run that isn't to be replaced; an unfinished one that nobody said
            what to do with, or nothing to resume.
        PermissionError: it can't be written.
    """
    if overwrite and resume:
        raise UserError("--resume continues an unfinished run, --overwrite starts again: give one of them")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"the output directory {directory} is a file: give another with --output")
    unfinished = (directory / _UNFINISHED / "config.toml").is_file()
    if resume and not unfinished:
        why = "the run there is finished" if holds_run(directory) else "leave out --resume, or give its directory with --output"
        raise UserError(f"{directory} holds no unfinished run to resume: {why}")
    if unfinished and not (resume or overwrite):
        raise UserError(f"{directory} holds an unfinished run: continue it with --resume, or start again with --overwrite")
    ours = {_FAILED, lock_of(directory).name}
    there = {path.name for path in directory.iterdir()} - ours if directory.exists() else set()
    if there - {_UNFINISHED} and not unfinished:  # a run that was killed before it had a config has left nothing to lose
        if holds_run(directory):
            what = "already holds a run: replace it with --overwrite, or give another --output"
        elif any(name.startswith(_partial_of(directory)) for name in there):
            what = "holds what is left of a run that was killed while it was being replaced: start again with --overwrite"
        else:
            raise UserError(f"{directory} is not empty and holds no run: give another directory with --output")
        if not overwrite:
            raise UserError(f"{directory} {what}")
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{directory} can't be written: no permission for {existing}")


def check_unchanged(directory: Path, config: str) -> None:
    """Raises ValueError where the unfinished run had another config (as TOML, with versions): names what has changed."""
    path = directory / _UNFINISHED / "config.toml"
    try:
        before = _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}): start again with --overwrite") from None
    now = _flat(tomllib.loads(config))
    compared = sorted(name for name in before | now if not name.startswith(("output.", "versions.")))
    compared += [f"versions.{name}" for name in _MUST_AGREE]
    changes = [
        f"{name} was {before.get(name, 'left out')!r}, is now {now.get(name, 'left out')!r}"
        for name in compared
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise UserError(
            f"the unfinished run in {directory} can't be resumed with another config: {'; '.join(changes)}. Undo that, or "
            "start again with --overwrite"
        )


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Facts:
    """Nested tables as one, with the path of each key."""
    flat: Facts = {}
    for key, value in tables.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


@contextmanager
def unfinished_run(directory: Path, config: str, *, resume: bool) -> Iterator[Path]:
    """A folder that outlives an interruption, once there are draws in it; `new_directory` removes it when all is done.

    Args:
        directory: of the run.
        config: as TOML, to compare with when the run is resumed.
        resume: is it there?
    """
    folder = directory / _UNFINISHED
    made = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with whole(folder / "config.toml") as partial:
            partial.write_text(config, encoding="utf-8")
    try:
        yield folder
    except BaseException:
        if not holds_draws(directory):
            shutil.rmtree(folder, ignore_errors=True)
            for parent in made:
                parent.rmdir()
        raise


def same_start(folder: Path, start: Any) -> Any:
    """The pytree of arrays that the unfinished run in `folder` started from; `start`, kept there, if it starts now.

    A fit that is repeated on another machine may differ in its last digits; chains go on from where they began.

    Raises:
        ValueError: a file that was cut short, or holds something else.
    """
    path = folder / "start.npz"
    leaves, structure = jax.tree.flatten(start)
    if not path.exists():
        write_arrays(path, {f"arr_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)})
        return start
    try:
        arrays, _ = read_arrays(path)
        kept = list(arrays.values())
    except (OSError, DamagedFileError) as error:
        raise UserError(f"{path} can't be read ({error}): start again with --overwrite") from None
    if [leaf.shape for leaf in kept] != [np.shape(leaf) for leaf in leaves]:
        raise UserError(f"{path} is of another mixture: start again with --overwrite")
    return jax.tree.unflatten(structure, kept)


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A folder to write in, whose files become those of `directory` once the block is through; if it fails, none do.

    While an older run is being replaced its directory is no run at all, so that nobody reads files of two.
    """
    home = directory if directory.exists() else directory.parent
    home.mkdir(parents=True, exist_ok=True)
    for old in home.glob(f"{_partial_of(directory)}*"):
        if time.time() - old.stat().st_mtime > _ABANDONED:
            shutil.rmtree(old, ignore_errors=True)
    partial = home / f"{_partial_of(directory)}{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        yield partial
        for file in (*partial.iterdir(), partial):
            sync(file)
        if directory.exists():
            for name in (_RUN[-1], *_OPTIONAL):
                (directory / name).unlink(missing_ok=True)
            for file in sorted(partial.iterdir(), key=lambda file: file.name == _RUN[-1]):
                if file.name == _RUN[-1]:  # it makes a run of the files: they must be there whatever happens
                    sync(directory)
                file.replace(directory / file.name)
            sync(directory)
            shutil.rmtree(directory / _UNFINISHED, ignore_errors=True)
        else:
            partial.rename(directory)
            sync(directory.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_of(directory: Path) -> str:
    """What names of folders begin with that are being written for `directory`."""
    return f".{directory.name}.partial-"
