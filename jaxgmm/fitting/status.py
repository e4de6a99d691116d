"""How a fit ended, in a code that a compiled loop can carry and in words that a person can act on."""

import enum


class Status(enum.IntEnum):
    """How EM ended. `fit.status.meaning` says what happened and what to do.

    Example:
        >>> from jaxgmm import Status
        >>> Status.collapsed.name
        'collapsed'
    """

    converged = 0
    max_steps = 1
    not_finite = 2
    collapsed = 3
    decreased = 4
    inconsistent = 5
    interrupted = 6

    @property
    def meaning(self) -> str:
        """One sentence: what happened, and what to do about it."""
        return _MEANING[self]


_MEANING = {
    Status.converged: "A step gained less than rtol nats per unit of weight: a stationary point, to that tolerance.",
    Status.max_steps: "Still climbing when max_steps ran out: raise max_steps, or loosen rtol.",
    Status.not_finite: (
        "The objective became NaN or infinite: look for extreme values in x, rescale its columns, or use prior='default'."
    ),
    Status.collapsed: (
        "A component shrank onto too few distinct rows, where the likelihood has no maximum: "
        "use prior='default' (it keeps covariances from going singular), fewer components, or a smaller family."
    ),
    Status.decreased: (
        "The objective fell by more than rounding, which exact EM cannot do: "
        "rescale the columns of x, use float64, and report it if it stays."
    ),
    Status.inconsistent: (
        "The responsibilities did not add up to the total weight, so the compiled sums are wrong: do not use the result; "
        "update jaxlib, or run on one device, and report it."
    ),
    Status.interrupted: "Stopped by hand while it was still climbing: fit again with init=this fit, to go on.",
}

RUNNING = -1  # what the compiled loop carries while none of the above has happened


def status_of(code: int) -> Status:
    """How a start ended, by the loop's code: one that is still running has taken all its steps."""
    return Status.max_steps if code == RUNNING else Status(code)


class FitError(RuntimeError):
    """No start of a fit gave parameters worth returning, or a saved fit cannot be used."""


class FitWarning(UserWarning):
    """The best start of a fit did not converge, or has components without rows; the result is returned all the same."""
