"""Directories that keep unfinished work: what may be there, whose it is, and how it goes away."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Json

# What keeps unfinished work, and what a kill leaves of a file that was being written.
_OURS = re.compile(
    r"(state|draws_\d+|starts_\d+(_before)?)\.npz|\.(state|draws_\d+|starts_\d+(_before)?)\.partial-[0-9a-f]+\.npz"
)


def check_keeping(checkpoint: object, resume: bool, keep_checkpoint: bool) -> None:
    """Raises ValueError for what needs a checkpoint where there is none."""
    for name, asked in {"resume": resume, "keep_checkpoint": keep_checkpoint}.items():
        if asked and checkpoint is None:
            raise UserError(f"{name}=True needs checkpoint, the directory of the unfinished run.")


def open_place(directory: Path, first: str, resume: bool) -> None:
    """Make the directory, or find it as an unfinished run has left it.

    Args:
        directory: of the run.
        first: the file of a run that has kept something; without it the others are nothing to go on from.
        resume: whether a run that is there may be gone on from.

    Raises:
        ValueError: a run is there that isn't to be resumed; a file, or a directory that holds something else.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"checkpoint {directory} is a file: give a directory, which may be a new one.")
    found = (directory / first).exists()
    if found and not resume:
        raise UserError(f"checkpoint {directory} holds an unfinished run: resume=True continues it; or delete it.")
    if not found and directory.exists():
        if any(_OURS.fullmatch(path.name) is None for path in directory.iterdir()):
            raise UserError(f"checkpoint {directory} is a directory that holds something else: give a new one.")
        forget(directory, first)  # of a run that was killed before it had kept anything
    directory.mkdir(parents=True, exist_ok=True)


def forget(directory: Path, first: str = "state.npz") -> None:
    """Remove the checkpoint of a run that has ended, and its directory if there is nothing else in it.

    `first` goes first: the others without it are nothing to go on from, it without them is a damaged checkpoint.
    """
    ours = [path for path in directory.iterdir() if _OURS.fullmatch(path.name)] if directory.is_dir() else []
    for path in sorted(ours, key=lambda path: path.name != first):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it, or it isn't there
        directory.rmdir()


def as_read_back(signature: Mapping[str, Json]) -> dict[str, Json]:
    """Facts as JSON gives them back: tuples are lists."""
    return json.loads(json.dumps(dict(signature)))


def check_same(directory: Path, before: Mapping[str, Json], now: Mapping[str, Json]) -> None:
    """Raises ValueError where the facts of the run in a directory aren't those of the run that would go on from it."""
    differing = [
        f"{name} was {before.get(name)!r:.80}, now {now.get(name)!r:.80}"
        for name in sorted({**before, **now})
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise UserError(f"checkpoint {directory} belongs to another run: {'; '.join(differing)}.")
