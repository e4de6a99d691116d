"""What processes tell each other. All of them come by here at the same time, or none gets on."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Numbers

_LONGEST = 400  # characters of a message
_agreeing: list[None] = []  # not empty while `all_or_none` is at work


def gathered(tree: Any) -> list[Any]:
    """What each process has, in their order: pytrees of arrays of one shape."""
    if jax.process_count() == 1:
        return [jax.tree.map(np.asarray, tree)]
    from jax.experimental import multihost_utils

    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    own = np.concatenate([np.frombuffer(np.ascontiguousarray(leaf).tobytes(), np.uint8) for leaf in leaves])
    with jax.transfer_guard("allow"):
        each = np.asarray(multihost_utils.process_allgather(own))  # bytes: one message, whatever the leaves
    ends = np.cumsum([leaf.nbytes for leaf in leaves])

    def of_process(told: np.ndarray) -> Any:
        parts = np.split(told, ends[:-1])
        back = [np.frombuffer(part.tobytes(), leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(back, leaves, strict=True)])

    return [of_process(told) for told in each]


def all_or_none[Result](make: Callable[[], Result]) -> Result:
    """`make()`, unless it fails in some process: then all fail, with its message.

    Raises:
        ValueError: what failed in another process, and in which.
    """
    if jax.process_count() == 1:
        return make()
    assert not _agreeing, "what one process waits for here, another waits for there"
    result, failed = None, None
    _agreeing.append(None)
    try:
        result = make()
    except Exception as error:  # the others wait to hear of it
        failed = error
    finally:
        _agreeing.pop()
    message = "" if failed is None else f"{type(failed).__name__}: {failed}"
    told = np.zeros(_LONGEST, np.uint8)
    own = message.encode()[:_LONGEST]
    told[: len(own)] = np.frombuffer(own, np.uint8)
    said = [bytes(one).rstrip(b"\0").decode(errors="replace") for one in gathered(told)]
    if failed is not None:
        raise failed
    for process, words in enumerate(said):
        if words:
            raise UserError(f"process {process} of {len(said)} failed. {words}")
    return result  # type: ignore[return-value]


def led_by_first[Result](work: Callable[[Callable[[], object]], Result], others: Callable[[], Result]) -> Result:
    """`work(pulse)` in the first process, while the others wait, then `others()` in them; a failure is that of all.

    `pulse()`, called now and then, keeps their patience.
    """
    if jax.process_count() == 1:
        return work(lambda: None)

    def lead() -> Result:
        try:
            return work(lambda: gathered(np.array(True)))
        finally:
            gathered(np.array(False))

    def follow() -> Result:
        while gathered(np.array(True))[0]:
            pass
        return others()

    return all_or_none(lead if jax.process_index() == 0 else follow)


def hashes_of_processes(values: Iterable[Numbers]) -> Iterator[np.ndarray]:
    """Of what each process has, in their order."""

    def hashed() -> np.ndarray:
        own = hashlib.blake2b(digest_size=8)
        for value in values:
            own.update(np.ascontiguousarray(value, np.float64))
        return np.frombuffer(own.digest(), np.uint8)

    for one in gathered(all_or_none(hashed)):
        yield one.astype(float)
