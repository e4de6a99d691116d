"""Covariance families: a registry of small stateless objects, found by scikit-learn's name or mclust's."""

import functools

from jaxgmm.covariance.base import Family
from jaxgmm.covariance.diag import Diag
from jaxgmm.covariance.equal import EEI, EII
from jaxgmm.covariance.factor import Factor
from jaxgmm.covariance.factors import FactorAnalysers
from jaxgmm.covariance.full import Full
from jaxgmm.covariance.restricted import EEV, EVE, EVI, EVV, VEE, VEI, VEV, VVE
from jaxgmm.covariance.spherical import Spherical
from jaxgmm.covariance.tied import Tied
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import unknown

_ALL = (
    *(Full(), Tied(), Diag(), Spherical()),
    *(EII(), EEI(), VEI(), EVI(), VEE(), EVE(), VVE(), EEV(), VEV(), EVV()),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
# mclust's "E" and "V" are for one feature, of which all families are one of the two.
_BY_ANY_NAME = {**FAMILIES, **{family.mclust: family for family in _ALL}, "E": FAMILIES["tied"], "V": FAMILIES["spherical"]}

_FACTORS = "factors:"

__all__ = ["FAMILIES", "Factor", "Family", "check_unrestricted", "get_family"]


def get_family(name: str) -> Family:
    """The family with this name, scikit-learn's ("full") or mclust's ("VVV"), or "factors:q", factor analysers of rank q.

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
    if name.startswith(_FACTORS):
        return _factors(name)
    if name not in _BY_ANY_NAME:
        raise unknown("family", name, _BY_ANY_NAME)
    return _BY_ANY_NAME[name]


@functools.lru_cache
def _factors(name: str) -> Family:
    rank = name.removeprefix(_FACTORS)
    if not rank.isdecimal() or int(rank) < 1:
        raise UserError(f"family {name!r} must name the rank of its factors, at least 1: 'factors:2'.")
    return FactorAnalysers(int(rank))


def check_unrestricted(name: str, what: str) -> None:
    """Raises ValueError for a family that restricts how covariances differ: posteriors are of those that don't."""
    family = get_family(name)
    if family.restricted:
        raise UserError(
            f"{what} isn't for family {family.name!r}, which restricts how covariances differ and has no posterior here: take "
            f"{family.general!r}, or fit and compare alone."
        )
