"""A run's directory: written whole or not at all, and what an interrupted run keeps in it.

While Markov chains are running, or files are read in every pass, the directory holds `unfinished/`: the config, and the fit and
the draws so far.
A finished run takes its place. Inside the directory and not next to it, which may be the top of another file system.
A run that fails leaves `failed.json`, which says in which stage and why, unless there is an older run in its directory.
A run that is killed leaves what it had written so far in folders `.NAME.partial-*`: the mark that its directory may be
overwritten, until a run in it is whole.
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
from jaxgmm.tools.files import DamagedFileError, read_arrays, read_parsed, sync, write_arrays, write_text
from jaxgmm.tools.types import Facts

_RUN = ("config.toml", "gmm.npz", "fit.json")  # every run has them
# What a run may have written and the next one, with another config, may not.
_OPTIONAL = (
    "assignments.csv", "assignments.parquet", "posterior.nc", "posterior.json", "posterior_chains.png", "posterior_draws.png",
    "posterior_intervals.png", "comparison.csv", "comparison.png", "counts.nc", "cluster_count.csv", "cluster_count.png",
    "similarity.png", "partitions.csv", "partitions.png", "report.html", "failed.json",
)  # fmt: skip
_UNFINISHED, _FAILED = "unfinished", "failed.json"
_WRITTEN_AFTER = ("report.html", _FAILED)  # than fit.json
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


def check_belongs(directory: Path, fit: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
    """Are files those that were written together with fit.json, whose content `fit` is?

    Args:
        directory: of the run.
        fit: content of fit.json.
        names: of the files; None for all that fit.json knows, and those that only a run with other stages has.

    Raises:
        ValueError: another file, one that has changed since, or none.
    """
    known = fit.get("files", {})
    if not isinstance(known, dict):
        raise UserError(f"{directory / _RUN[-1]} is damaged (its files are {str(known)[:80]}): run the config again")
    if names is None:
        names = {*known, *(name for name in (*_RUN[:-1], *_OPTIONAL) if (directory / name).is_file())} - {*_WRITTEN_AFTER}
    for name in sorted(names):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name} is missing: run the config again")
        if known.get(name) != _digest(directory / name):
            raise UserError(f"{directory}: fit.json and {name} are not of one run, or it has changed: run the config again")


def holds_draws(directory: Path) -> bool:
    """Is there an unfinished run with something to continue from?"""
    kept = [draws_folder(directory, stage) / "state.npz" for stage in _CHAIN_STAGES]
    return any(file.is_file() for file in (*kept, draws_folder(directory, "fit") / "starts_00000.npz"))


def unfinished_folder(directory: Path) -> Path:
    """Where an unfinished run keeps what is done."""
    return directory / _UNFINISHED


def draws_folder(directory: Path, stage: str) -> Path:
    """Where the Markov chains of a stage keep what is done."""
    return directory / _UNFINISHED / stage


def failure(directory: Path) -> str | None:
    """In which stage the run that was to be there failed, and why; None if none did."""
    try:
        record = read_parsed(directory / _FAILED, json.loads)
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
                write_text(directory / _FAILED, f"{record}\n")
        raise


def check_place(directory: Path, *, overwrite: bool, resume: bool) -> None:
    """Before anything else: can results be written there?

    Raises:
        ValueError: a file, or both to resume and to overwrite.
        PermissionError: it can't be written.
    """
    if overwrite and resume:
        raise UserError("--resume continues an unfinished run, --overwrite starts again: give one of them")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"the output directory {directory} is a file: give another with --output")
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{directory} can't be written: no permission for {existing}")


def check_free(directory: Path, *, overwrite: bool, resume: bool) -> None:
    """Before anything is computed, and while nobody else is at work there: is nothing in the way of results?

    Raises:
        ValueError: a folder of other things, a run that isn't to be replaced; an unfinished one that nobody said what to do
            with, or nothing that was ever begun to resume.
    """
    if resume:
        if not (directory / _UNFINISHED).is_dir():
            away = "leave out --resume, or give its directory with --output"
            why = "the run there is finished" if holds_run(directory) else away
            raise UserError(f"{directory} holds no unfinished run to resume: {why}")
        return
    if holds_draws(directory) and not overwrite:
        raise UserError(f"{directory} holds an unfinished run: continue it with --resume, or start again with --overwrite")
    there = {path.name for path in directory.iterdir()} if directory.exists() else set()
    partial = {name for name in there if name.startswith(_partial_of(directory))}
    if not there - partial - {_UNFINISHED, _FAILED, lock_of(directory).name}:
        return  # a run that was killed before it had any draws has left nothing to lose
    if holds_run(directory):
        what = "already holds a run: replace it with --overwrite, or give another --output"
    elif partial or (directory / _UNFINISHED / "config.toml").is_file():
        what = "holds what is left of a run that was killed while it was being replaced: start again with --overwrite"
    else:
        raise UserError(f"{directory} is not empty and holds no run: give another directory with --output")
    if not overwrite:
        raise UserError(f"{directory} {what}")


def check_unchanged(directory: Path, config: str) -> None:
    """Raises ValueError where the unfinished run had another config (as TOML, with versions): names what has changed."""
    path = directory / _UNFINISHED / "config.toml"
    try:
        before = _flat(read_parsed(path, tomllib.loads))
    except (OSError, DamagedFileError) as error:
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
        resume: are there draws to go on from? Otherwise it begins anew.
    """
    folder = directory / _UNFINISHED
    made = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    if not resume:
        _discard(folder, directory)
        folder.mkdir(parents=True)
        write_text(folder / "config.toml", config)
    try:
        yield folder
    except BaseException:
        if not holds_draws(directory):
            _discard(folder, directory)
            with suppress(OSError):  # what went wrong is to be said, not this
                for parent in made:
                    parent.rmdir()
        raise


def same_start(folder: Path, start: object) -> Any:
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
    if [(leaf.shape, leaf.dtype.kind) for leaf in kept] != [(np.shape(leaf), np.asarray(leaf).dtype.kind) for leaf in leaves]:
        raise UserError(f"{path} is of another mixture: start again with --overwrite")
    return jax.tree.unflatten(structure, kept)


@contextmanager
def new_directory(directory: Path, *, alone: bool = False) -> Iterator[Path]:
    """A folder to write in, whose files become those of `directory` once the block is through; if it fails, none do.

    While an older run is being replaced its directory is no run at all, so that nobody reads files of two.

    Args:
        directory: of the run.
        alone: is it certain that nobody else is at work there? Then all that killed runs have left goes, else what is old.
    """
    home = directory if directory.exists() else directory.parent
    home.mkdir(parents=True, exist_ok=True)
    partial = home / f"{_partial_of(directory)}{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        yield partial
        for file in (*partial.iterdir(), partial):
            sync(file)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if directory.exists():
        for name in (_RUN[-1], *_OPTIONAL):
            (directory / name).unlink(missing_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == _RUN[-1]):
            if file.name == _RUN[-1]:  # it makes a run of the files: they must be there whatever happens
                sync(directory)
            file.replace(directory / file.name)
        sync(directory)
        partial.rmdir()
        _discard(directory / _UNFINISHED, directory)
    else:
        partial.rename(directory)
        sync(directory.parent)
    _sweep(directory, alone)


def _discard(folder: Path, directory: Path) -> None:
    """Remove a folder of the run in `directory`, as far as its name goes at once: nobody resumes from half of it."""
    gone = folder.with_name(f"{_partial_of(directory)}{secrets.token_hex(4)}")
    with suppress(OSError):  # it isn't there
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sweep(directory: Path, alone: bool) -> None:
    """Remove what killed runs have left in and beside a directory that holds a run now."""
    for home in (directory, directory.parent):
        with suppress(OSError):  # its owner has just removed it
            for path in home.iterdir():
                left = path.name.startswith(_partial_of(directory))
                if left and (alone or time.time() - path.stat().st_mtime > _ABANDONED):
                    shutil.rmtree(path, ignore_errors=True)


def _partial_of(directory: Path) -> str:
    """What names of folders begin with that are being written for `directory`."""
    return f".{directory.name}.partial-"
