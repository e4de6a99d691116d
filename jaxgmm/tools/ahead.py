"""What is asked for next, made while what was asked for is at work."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


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
