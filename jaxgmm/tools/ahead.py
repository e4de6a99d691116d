"""What is asked for next, made while what was asked for is at work."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax import Array


def ahead[Item](items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before is used. What they raise is raised here, at their turn.

    Example:
        >>> from jaxgmm.tools.ahead import ahead
        >>> list(ahead(range(3)))
        [0, 1, 2]
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "jaxgmm-ahead") as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]  # an item, since it isn't the end


@contextlib.contextmanager
def compiled_meanwhile(call: Callable[[], object]) -> Iterator[None]:
    """Makes a call in another thread, so that the programs that it runs are compiled when the block is left.

    XLA compiles a program on one core, and without the interpreter's lock. What the call raises is left to be raised where its
    programs are asked for. Nothing is done where settings of the caller don't reach other threads.
    """
    if not settings_reach_threads():
        yield
        return
    x64 = jax.config.jax_enable_x64  # other threads have settings of their own

    def work() -> None:
        with contextlib.suppress(Exception), jax.enable_x64(x64), jax.transfer_guard("allow"):
            call()

    pool = ThreadPoolExecutor(1, "jaxgmm-compile")
    pool.submit(work)
    finished = False
    try:
        yield
        finished = True
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)


def settings_reach_threads() -> bool:
    """Whether settings of JAX that a caller has put in a context, such as a default device, are those of other threads, too:
    where they aren't, a function would be traced there again, and differently.
    """
    x64 = jax.config.jax_enable_x64

    def probe() -> int:
        with jax.enable_x64(x64), jax.transfer_guard("allow"):
            _probe(np.zeros((), np.float32))
        return len(_probes)

    before = probe()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(probe).result() == before


_probes: list[None] = []  # grows whenever the function below is traced


@jax.jit
def _probe(x: Array) -> Array:
    _probes.append(None)
    return x
