"""Work in other threads: what is asked for next, several calls at once, and imports."""

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax import Array


def ahead[Item](items: Iterable[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before is used. What they raise is raised here, at their turn.

    Example:
        >>> from jaxgmm.tools.threads import ahead
        >>> list(ahead(range(3)))
        [0, 1, 2]
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "jaxgmm-ahead") as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]  # an item, since it isn't the end


def side_by_side[Item, Result](call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`call` of each item, in order: as many at once as there are cores, so that their programs are compiled at once.

    One after the other where settings of the caller don't reach other threads. What has begun is not interrupted.

    Example:
        >>> from jaxgmm.tools.threads import side_by_side
        >>> list(side_by_side(abs, [-1, 2]))
        [1, 2]
    """
    if len(items) < 2 or not settings_reach_threads():
        yield from map(call, items)
        return
    x64 = jax.config.jax_enable_x64

    def work(item: Item) -> Result:
        with jax.enable_x64(x64):
            return call(item)

    pool = ThreadPoolExecutor(min(len(items), os.cpu_count() or 1), "jaxgmm-side-by-side")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def import_meanwhile(*modules: str) -> None:
    """Begin to import what hasn't been: while compiled code runs, the interpreter has nothing to do.

    Whoever imports such a module later waits until it is there, and is told what went wrong.

    Example:
        >>> from jaxgmm.tools.threads import import_meanwhile
        >>> import_meanwhile("math", "json")
    """
    if all(module in sys.modules for module in modules):
        return

    def work() -> None:
        with contextlib.suppress(Exception):
            for module in modules:
                importlib.import_module(module)

    threading.Thread(target=work, name="jaxgmm-imports", daemon=True).start()


def settings_reach_threads() -> bool:
    """Whether settings of JAX that a caller has put in a context, such as a default device, are those of other threads, too:
    where they aren't, a function would be traced there again, and differently.
    """
    x64, traced = jax.config.jax_enable_x64, []

    @jax.jit
    def function(x: Array) -> Array:
        traced.append(x)
        return x

    def trace() -> None:
        with jax.enable_x64(x64):
            function.trace(jax.ShapeDtypeStruct((), np.float32))

    trace()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(trace).result()
    return len(traced) == 1
