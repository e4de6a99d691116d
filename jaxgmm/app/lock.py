"""One run at a time in a directory, and a polite end for those that are told to terminate."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxgmm.tools.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two runs in one directory aren't told apart
    fcntl = None  # type: ignore[assignment]


class Terminated(KeyboardInterrupt):
    """The process was told to terminate: as an interruption by hand, what is done is kept."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, as a batch system sends it before it kills, raises `Terminated` in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def lock_of(directory: Path) -> Path:
    """The lock's file: beside the directory or, where nothing can be written there, in it."""
    home = directory.parent if os.access(directory.parent, os.W_OK) else directory
    return home / f".{directory.name}.lock"


@contextmanager
def only_run(directory: Path) -> Iterator[bool]:
    """Hold the lock of a run's directory: a file beside it, which names its holder.

    The kernel gives the lock back when its holder ends, however that may be, so that a file that is left over holds up nobody.
    Where the file system has no locks, there is none.

    Yields:
        Whether there is a lock, so that nobody else can be at work in the directory.

    Raises:
        ValueError: another process runs there.
        OSError: no file can be written.
    """
    made = [parent for parent in directory.parents if not parent.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    path = lock_of(directory)
    try:
        descriptor, locked = _held(path, directory)
        try:
            yield locked
        finally:
            path.unlink(missing_ok=True)  # while it is held: who opens it later finds another file at its place, or none
            os.close(descriptor)
    finally:
        with suppress(OSError):  # a run is there
            for parent in made:
                parent.rmdir()


def _held(path: Path, directory: Path) -> tuple[int, bool]:
    """A descriptor of the file at `path`, and whether it is locked."""
    while True:
        descriptor, locked = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), fcntl is not None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise UserError(
                f"{directory} is at work for {holder}: wait until it has ended, or give another directory with --output"
            ) from None
        except OSError:  # a file system without locks
            locked = False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                with suppress(OSError):  # a disk that is full: the lock holds without a name
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor, locked
        os.close(descriptor)  # its holder ended, and removed it, in between
