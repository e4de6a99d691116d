"""Covariance families: a registry of small stateless objects, found by scikit-learn's name or mclust's."""

from jaxgmm.covariance.base import Family
from jaxgmm.covariance.diag import Diag
from jaxgmm.covariance.factor import Factor
from jaxgmm.covariance.full import Full
from jaxgmm.covariance.spherical import Spherical
from jaxgmm.covariance.tied import Tied
from jaxgmm.tools.errors import UserTypeError
from jaxgmm.tools.validation import unknown

FAMILIES: dict[str, Family] = {family.name: family for family in (Full(), Tied(), Diag(), Spherical())}
_BY_ANY_NAME = {**FAMILIES, **{family.mclust: family for family in FAMILIES.values()}}

__all__ = ["FAMILIES", "Factor", "Family", "get_family"]


def get_family(name: str) -> Family:
    """The family with this name, scikit-learn's ("full") or mclust's ("VVV").

    Raises:
        TypeError: not a string.
        ValueError: no such family; names the nearest.

    Example:
        >>> from jaxgmm.covariance import get_family
        >>> get_family("EEE")
        <covariance family 'tied', mclust EEE>
    """
    if not isinstance(name, str):
        raise UserTypeError(f"family must be a string such as 'full', got {name!r}.")
    if name not in _BY_ANY_NAME:
        raise unknown("family", name, _BY_ANY_NAME)
    return _BY_ANY_NAME[name]
