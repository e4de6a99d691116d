"""What a fork leaves of JAX: a process that ran it has threads, which its forks lack, and would wait for forever."""

import os
import sys

_forked = False


def forked() -> bool:
    """Is this process the fork of one that ran JAX?"""
    return _forked


def needs_jax(what: str) -> RuntimeError:
    """The error for `what` in such a process."""
    return RuntimeError(
        f"{what} needs JAX, which doesn't run in the fork of a process that ran it: start processes by multiprocessing's "
        '"spawn" or "forkserver", or joblib\'s "loky" (its default).'
    )


def check_not_forked() -> None:
    """Raises RuntimeError at once, where JAX would never return."""
    if _forked:
        raise needs_jax("this function")


def _after_fork() -> None:
    global _forked
    # Private, since to ask JAX for its backends is to start them. Whoever has not imported JAX has not run it.
    bridge = sys.modules.get("jax._src.xla_bridge")
    _forked = bridge is not None and bool(getattr(bridge, "_backends", True))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
