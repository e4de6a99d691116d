"""Progress of what takes longer than a moment: a bar, or whom the caller names."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from jaxgmm.tools.compiling import watching
from jaxgmm.tools.validation import unknown

type OfProgress = bool | str | Callable[[int, int], None]

_DELAY = 2.0  # seconds that "auto" waits for the end


class Reporter(Protocol):
    """Whom a loop tells of its progress."""

    def __call__(self, done: int, total: int) -> None:
        """Steps done, and steps in all as far as that is known."""
        ...

    def say(self, found: str) -> None:
        """What has been found so far."""
        ...


class _Caller:
    """A function of the caller's own."""

    def __init__(self, function: Callable[[int, int], None]) -> None:
        self._function = function

    def __call__(self, done: int, total: int) -> None:
        self._function(done, total)

    def say(self, found: str) -> None:
        """Nothing: the function isn't made for it."""


class _Bar:
    """A progress bar of tqdm, which NumPyro's are, too."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._found = bar, ""

    def __call__(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def say(self, found: str) -> None:
        """Behind the bar."""
        self._found = found
        self._bar.set_postfix_str(found, refresh=False)

    def compiling(self, now: bool) -> None:
        """Behind the bar, in the place of what has been found; the bar appears for it."""
        self._bar.set_postfix_str("compiling ..." if now else self._found)
        self._bar.delay = 0  # it is there now, and is to be closed as such


@contextmanager
def reporter(progress: OfProgress, name: str, unit: str = "step") -> Iterator[Reporter | None]:
    """Whom a loop tells of its progress.

    Args:
        progress: True, a bar; False, nobody; "auto", a bar where someone looks, a terminal or Jupyter, once two seconds have
            passed; or the caller's function of (steps done, steps in all).
        name: in front of the bar. Behind it is what has been found, or that something is being compiled.
        unit: what is counted.

    Raises:
        ValueError: another name.
    """
    if callable(progress):
        yield _Caller(progress)
        return
    if not isinstance(progress, bool) and progress != "auto":
        raise unknown("progress", progress, ("auto", "True", "False", "a function of (done, total)"))
    in_notebook = _in_notebook()
    if not progress or (progress == "auto" and not (in_notebook or getattr(sys.stderr, "isatty", bool)())):
        yield None
        return
    if in_notebook:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    with tqdm(desc=name, unit=unit, delay=_DELAY if progress == "auto" else 0) as bar:
        shown = _Bar(bar)
        with watching(shown.compiling):
            yield shown


def _in_notebook() -> bool:
    """True in Jupyter's kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"
