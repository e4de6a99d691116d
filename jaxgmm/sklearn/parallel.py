"""What a fit shares with other threads and processes: JAX's float64, BLAS's threads, and what a fork leaves of both."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from sklearn.utils.parallel import _get_threadpool_controller

from jaxgmm.tools import precision

# Threads (joblib's, say) take turns: JAX 0.12 has been seen to mix up the buffers of first calls under a local `enable_x64`.
_turn = threading.Lock()
_counting = threading.Lock()
_fits = 0  # that overlap
_first: AbstractContextManager | None = None  # limit, of the first of them, which knows what was before


@contextmanager
def float64() -> Iterator[None]:
    """JAX in float64, for this thread and nothing else."""
    with _turn, precision.scope(np.dtype(np.float64)):
        yield


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """BLAS with one thread. The last of the fits that overlap leaves it as the first has found it, not limited by another."""
    global _fits, _first
    with _counting:
        limit = _get_threadpool_controller().select(user_api="blas").limit(limits=1).__enter__()
        if _fits == 0:
            _first = limit
        _fits += 1
    try:
        yield
    finally:
        with _counting:
            limit.__exit__(None, None, None)
            _fits -= 1
            if _fits == 0:
                assert _first is not None
                with _first:  # restores at its end, and lets other threads set limits
                    pass


def _after_fork() -> None:
    global _turn, _counting, _fits
    _turn, _counting, _fits = threading.Lock(), threading.Lock(), 0  # other threads, gone now, may have been in fits


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
