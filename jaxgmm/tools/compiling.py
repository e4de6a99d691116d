"""Says that a program is being compiled while that takes long: nothing else moves then."""

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
    """Calls `tell(True)` when a program has been compiling for a second, and `tell(False)` when it has been compiled."""
    since: float | None = None
    told, over = False, threading.Event()

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        nonlocal since
        if event == _BEGINS:
            since = time.monotonic()
        elif event == _ENDS:
            since = None

    def look() -> None:
        nonlocal told
        while not over.wait(_BETWEEN_LOOKS):
            long = since is not None and time.monotonic() - since > _LONG
            if long is not told:
                told = long
                tell(long)

    jax.monitoring.register_event_duration_secs_listener(listen)
    thread = threading.Thread(target=look, name="jaxgmm-compiling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        jax.monitoring.unregister_event_duration_listener(listen)
        if told:
            tell(False)
