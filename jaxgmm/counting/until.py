"""When a count has draws enough: the verdict holds, or what may be spent on it is spent."""

import time

import numpy as np
from jaxtyping import Int

from jaxgmm.counting.mixing import ESS, LEAST_DRAWS, MCSE, R_HAT, Mixing
from jaxgmm.tools.progress import Reporter

_NEVER = 1 << 60
_FIRST, _GROWTH = 400, 1.25  # draws of each chain at the first look; how many more there are at each further one


class UntilBelieved:
    """Stops the chains of `count_clusters` as soon as their draws give a verdict, or when time is up.

    Looks are few, and at numbers of draws fixed beforehand, so that how many draws there are doesn't depend on the machine,
    and little on what they happen to be: over 120 runs with an eager rule their mean is unbiased (tests/counting).

    Args:
        most: components.
        max_seconds: to stop after; None: never.
        verdict: stop for a verdict.
        lossless: an interrupted run can be resumed, so that KeyboardInterrupt is none of our business.
        already: the number of clusters in the draws of a run that is continued, (chain, draw).
        report: told of what has been found so far.

    Attributes:
        reason: why the run has stopped: "converged", more draws aren't needed; "max_seconds"; "interrupted"; or "n_draws",
            where it was let go on.
    """

    def __init__(
        self,
        most: int,
        max_seconds: float | None,
        *,
        verdict: bool,
        lossless: bool = False,
        already: Int[np.ndarray, "chain draw"] | None = None,
        report: Reporter | None = None,
    ) -> None:
        self.reason = "n_draws"
        self._most, self._max_seconds, self._verdict, self._lossless = most, max_seconds, verdict, lossless
        self._already, self._report, self._start = already, report, time.monotonic()

    def next_look(self, n_draws: int) -> int:
        """400, 500, 625, ... draws, of both runs together, where there is a verdict to look for."""
        if not self._verdict:
            return _NEVER
        before = 0 if self._already is None else self._already.shape[1]
        look = _FIRST
        while look <= before + n_draws:
            look = int(look * _GROWTH)
        return look - before

    def enough(self, kept: dict[str, np.ndarray]) -> bool:
        """Whether the draws so far, with those of before, give a verdict."""
        clusters = np.asarray(kept["n_clusters"])
        if self._already is not None:
            clusters = np.concatenate([self._already, clusters], axis=1)
        found = Mixing.of(clusters, self._most)
        if self._report is not None:
            self._report.say(f"{found.so_far} of {ESS:g}")
        return self._ended("converged", not found.problems(R_HAT, ESS, MCSE))

    def out_of_time(self, n_draws: int) -> bool:
        """Whether the seconds are spent; there are at least as many draws as r-hat needs."""
        late = self._max_seconds is not None and time.monotonic() - self._start > self._max_seconds
        return self._ended("max_seconds", late and n_draws >= LEAST_DRAWS)

    def interrupted(self, n_draws: int) -> bool:
        """Ctrl-C ends the run with what there is."""
        return self._ended("interrupted", not self._lossless and n_draws >= LEAST_DRAWS)

    def _ended(self, reason: str, ended: bool) -> bool:
        if ended:
            self.reason = reason
        return ended
