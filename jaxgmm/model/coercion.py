"""What may be given for a mixture: a `GMM`, or what holds one and says so."""

from typing import Protocol, runtime_checkable

from jaxgmm.model.mixture import GMM
from jaxgmm.tools.errors import UserError, UserTypeError


@runtime_checkable
class Mixture(Protocol):
    """A `GMM`; a `Fit`, for its `gmm`; a `VariationalFit`, for that of its means; an estimator of `jaxgmm.sklearn`, fitted."""

    def _as_gmm(self) -> GMM: ...


def as_gmm(value: object, name: str = "gmm") -> GMM:
    """The mixture.

    Args:
        value: a `GMM` or what holds one.
        name: the argument's name in the error.

    Raises:
        TypeError: anything else.

    Example:
        >>> import jax, jaxgmm as jg
        >>> from jaxgmm.model.coercion import as_gmm
        >>> fit = jg.fit(jg.datasets.load_faithful().x, 2, key=jax.random.key(0))
        >>> as_gmm(fit) is fit.gmm
        True
    """
    if isinstance(value, Mixture) and not isinstance(value, type):
        return value._as_gmm()
    raise UserTypeError(
        f"{name} must be a GMM, or hold one as a Fit, a VariationalFit or a fitted estimator of jaxgmm.sklearn does, got "
        f"{type(value).__name__}."
    )


def about_rows(value: object, call: str, errors: object = None, *, beside_noise: bool = False) -> GMM:
    """The mixture, to be asked about rows as they were measured.

    Args:
        value: a mixture, or what holds one.
        call: what asks.
        errors: of measurement, of the rows.
        beside_noise: who asks knows that rows may be noise instead.

    Raises:
        TypeError: no mixture.
        ValueError: a fit of rows with errors of measurement, without those of the rows it is asked about; one with noise.
    """
    gmm = as_gmm(value)
    if getattr(value, "noise", None) is not None and not beside_noise:
        raise UserError(
            f"fit has noise beside its mixture, of which {call} knows nothing: pass fit.gmm, to be asked about rows that "
            "aren't noise; fit.predict, fit.responsibilities and fit.log_prob know it."
        )
    if errors is None and getattr(value, "with_errors", False):
        raise UserError(
            f"fit is of rows without their errors of measurement, but {call} is asked about rows with them: pass "
            "error_covariances where it takes them, or fit.gmm, to be asked about rows without errors."
        )
    return gmm
