"""What a run asks of its stages, and whom it tells how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from jaxgmm.fitting.result import Fit, Progress
from jaxgmm.tools.types import Json

if TYPE_CHECKING:
    from jaxgmm.app.rows import Rows


@dataclass(frozen=True)
class Watch:
    """Whom a run tells how far it is.

    Attributes:
        stage: told the name of the stage that begins: "fit", "compare", "posterior", "count", "partitions", "write".
        fit: told of the progress of a long fit; None: nobody.
        draws: told (steps done, steps in all) of a stage's chains. What is done is kept.
        note: told, in a sentence, what goes another way than was asked for.
    """

    stage: Callable[[str], None] = lambda name: None
    fit: Callable[[Progress], None] | None = None
    draws: Callable[[int, int], None] = lambda done, total: None
    note: Callable[[str], None] = lambda sentence: None


class Result(Protocol):
    """What a stage made."""

    @property
    def facts(self) -> Mapping[str, Json]:
        """What it adds to fit.json."""
        ...

    def write(self, directory: Path, rows: "Rows") -> None:
        """Its files and figures."""
        ...


@runtime_checkable
class Fits(Result, Protocol):
    """What a stage made that gives the run its fit."""

    @property
    def fit(self) -> Fit:
        """The run's fit."""
        ...


class Making(NamedTuple):
    """What a stage is told when it is its turn.

    Attributes:
        made: what the stages before it made, by name.
        watch: whom to tell of the progress.
        unfinished: the folder that outlives an interruption; None if no stage of the run can be resumed.
        resume: go on from what is there.
    """

    made: dict[str, Result]
    watch: Watch
    unfinished: Path | None
    resume: bool

    @property
    def fit(self) -> Fit | None:
        """The run's fit, once it is made: what [fit] or [compare] has made says which."""
        return next((made.fit for made in self.made.values() if isinstance(made, Fits)), None)

    def checkpoint(self, name: str) -> Path | None:
        """Where the chains of a stage keep what is done."""
        return None if self.unfinished is None else self.unfinished / name


class Stage(Protocol):
    """A table of the config, checked when it is made, so that what can't work is said before anything is computed."""

    @property
    def name(self) -> str:
        """Of its table."""
        ...

    @property
    def can_resume(self) -> bool:
        """Does it keep what is done?"""
        ...

    def make(self, making: Making) -> Result:
        """Its turn."""
        ...
