"""Files that are written whole or not at all, and arrays in them by name, without pickle."""

import json
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Json

# What np.load and json raise for files that were cut short, hold something else, or were made to confuse them.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, RecursionError, MemoryError)


class DamagedFileError(UserError):
    """A file that can't be read as what it should be; says why."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, beside `path`, that takes its name once the block is through and its content is on the disk.

    Of a block that fails nothing is left, and what stood at `path` stays.

    Raises:
        OSError: what the system says, such as that the disk is full; it names the file.
    """
    # A name that no other process has, not even one of the same number in another container; with its ending, as some ask.
    partial = path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}{path.suffix}")
    try:
        with named(path):
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the system name this path where they name none: those of a write know only a number."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Wait until a file, or what a folder says of its names, is on the disk; where folders can't be opened, only files."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_parsed(path: Path, loads: Callable[[str], Any]) -> Any:
    """The content of a text file, parsed by `json.loads` or `tomllib.loads`.

    Raises:
        OSError: it can't be read.
        DamagedFileError: it isn't UTF-8, or can't be parsed.
    """
    try:
        return loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # what neither parser takes, nor Python's stack
        raise DamagedFileError(str(error)) from None


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], **facts: Json) -> None:
    """Arrays, and facts that JSON can hold, by name in an npz file: whole or not at all."""
    texts = {name: np.array(json.dumps(fact)) for name, fact in facts.items()}
    with whole(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **texts, **arrays)


def read_arrays(path: Path, *facts: str) -> tuple[dict[str, np.ndarray], list[Json]]:
    """The arrays of an npz file by name, in the order in which they were written, and its facts of the names given.

    Raises:
        FileNotFoundError: no such file.
        DamagedFileError: it can't be read: cut short, or of another kind.
    """
    try:
        # Opened here, since np.load leaves a damaged file open.
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with file:
                arrays = {name: file[name] for name in file.files if name not in facts}
                return arrays, [json.loads(str(file[name])) for name in facts]
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise DamagedFileError(" ".join(str(error).split()) or type(error).__name__) from None
