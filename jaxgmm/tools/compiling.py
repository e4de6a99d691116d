"""Says that a program is being compiled while that takes long: nothing else moves then."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

_BEGINS = "/jax/core/compile/jaxpr_to_mlir_module_duration"  # JAX says when this has ended, and what comes next is to compile
_ENDS = "/jax/core/compile/backend_compile_duration"
_LONG = 1.0  # seconds
_BETWEEN_LOOKS = 0.25


@contextmanager
def watching(tell: Callable[[bool], None]) -> Iterator[None]:
    """Calls `tell(True)` when this thread has been compiling a program for a second, and `tell(False)` when it is there."""
    owner, over = threading.get_ident(), threading.Event()
    since: float | None = None

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        nonlocal since
        if threading.get_ident() == owner and event in (_BEGINS, _ENDS):
            since = time.monotonic() if event == _BEGINS else None

    def look() -> None:
        told = False
        while not over.wait(_BETWEEN_LOOKS):
            began = since
            long = began is not None and time.monotonic() - began > _LONG
            if long is not told:
                told = long
                with contextlib.suppress(Exception):  # what is shown on the way is no reason to stop
                    tell(long)
        if told:
            with contextlib.suppress(Exception):
                tell(False)

    jax.monitoring.register_event_duration_secs_listener(listen)
    thread = threading.Thread(target=look, name="jaxgmm-compiling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(AssertionError, ValueError):  # someone has cleared all listeners
            jax.monitoring.unregister_event_duration_listener(listen)
        thread.join()
