"""Whom a run of steps tells how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def reporter(progress: bool | Callable[[int, int], None], method: str) -> Iterator[Callable[[int, int], None] | None]:
    """Whom the loop tells of its progress: nobody, the caller's function, or a bar."""
    if callable(progress):
        yield progress
    elif progress:
        from tqdm.auto import tqdm  # NumPyro's own progress bars are tqdm's

        with tqdm(desc=method, unit="step") as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield report
    else:
        yield None
