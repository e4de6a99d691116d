"""What a method owes the one loop: where to begin, what to try next, and what that is worth."""

from typing import NamedTuple, Protocol

from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgmm.model.statistics import Statistics


class Rules[Own, Shared](NamedTuple):
    """Traced settings: changing them compiles nothing. What depends on the model that is fitted has a leading axis of starts,
    so starts of one batch may have different numbers of components.

    Attributes:
        own: what a step needs to know of each start; every leaf (R, ...).
        shared: what it needs to know besides.
        total_weight: (), or (R,) where each start has rows of its own.
        rtol: ().
    """

    own: Own
    shared: Shared
    total_weight: Float[Array, "*R"]
    rtol: Float[Array, ""]


class Search[Point](NamedTuple):
    """What the loop carries: R starts, each at its last accepted point, with the statistics under it.

    `n_steps` is -1 before the first pass, which only evaluates the start.
    """

    point: Point
    statistics: Statistics
    objective: Float[Array, " R"]
    status: Int[Array, " R"]
    n_steps: Int[Array, " R"]
    trace: Float[Array, "R T"]
    last_gain: Float[Array, " R"]
    memory: PyTree[Array]  # of the step


class Proposal[Point](NamedTuple):
    """A point to go to. A trial may be taken back; it neither stops a start nor counts against it.

    Attributes:
        point: of each start.
        trial: (R,), which of them are trials; None if none is.
        length: (R,), of a trial's step.
    """

    point: Point
    trial: Bool[Array, " R"] | None = None
    length: Float[Array, " R"] | None = None


class Step[Point, Ready](Protocol):
    """A method, static: each is a program of its own. All of its functions are for R starts at once."""

    @property
    def stopping(self) -> str:
        """By what a start has converged: "relative" (its last gain) or "aitken" (the gains still to come, too)."""
        ...

    def begin(self, starts: Point) -> tuple[Statistics, PyTree[Array]]:
        """Statistics of the right shapes before the first pass, and the memory; NumPy, so that it compiles nothing."""
        ...

    def expand(self, search: Search[Point], x: Array, rules: Rules) -> Array | None:
        """What all passes can share of rows in memory, or None."""
        ...

    def propose(self, search: Search[Point], rules: Rules) -> Proposal[Point]:
        """The next points."""
        ...

    def ready(self, search: Search[Point], point: Point, rules: Rules) -> tuple[Ready, Bool[Array, " R"]]:
        """What sums over rows need of a point that comes after those of the search, and where it can't be used at all."""
        ...

    def suits(self, ready: Ready, rules: Rules, counted: Bool[Array, " R"]) -> Bool[Array, ""]:
        """Whether the sums of those starts that are `counted` have their digits."""
        ...

    def sturdier(self) -> "Step[Point, Ready]":
        """The same method, slower, whose sums always have."""
        ...

    def sums(self, ready: Ready, x: Array, weight: Array, rules: Rules, expanded: Array | None) -> Statistics:
        """The statistics of some rows."""
        ...

    def accounted(self, statistics: Statistics, rules: Rules) -> Float[Array, " R"]:
        """The weight of the rows that the statistics account for: all, or compiled sums are wrong."""
        ...

    def judge(
        self, point: Point, ready: Ready, statistics: Statistics, rules: Rules
    ) -> tuple[Float[Array, " R"], Bool[Array, " R"] | bool]:
        """The objective, and where its point can't be used after all."""
        ...

    def remember(
        self,
        search: Search[Point],
        proposal: Proposal[Point],
        ready: Ready,
        accepted: Bool[Array, " R"],
    ) -> PyTree[Array]:
        """The memory after a pass; leaves (R, ...), of which those of starts that don't run don't matter."""
        ...
