"""Priors that are made of the data: their names, and their numbers from the moments of the columns."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgmm.covariance import Family
from jaxgmm.data.moments import Moments, column_variances, constant_columns, proper_covariance, singular
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import unknown

MEAN_PRECISION = 0.1  # of the means, in inverse variances of the columns: kappa0 / Psi0
LEAST_SCALE = 1e-8

type Values = dict[str, Any]


def random_scale(moments: Moments, n_components: int, family: Family) -> Values:
    """The fields of `Prior.default`."""
    variances, constant = column_variances(moments), constant_columns(moments)
    if constant.all() if family.structure.isotropic else singular(moments):
        # The smallest s would be the best for the singular direction, and let the others go singular too.
        return fraley_raftery(moments, n_components, family) | {"least_scale": np.float64(1)}
    dense = np.diag(variances) if family.structure.dense else variances
    share, degrees = n_components ** (2 / variances.size), variances.size + 2
    least = (moments.steps**2 / variances)[~constant].min() * share
    return {
        "concentration": np.float64(1),
        "mean": np.asarray(moments.mean, float),
        "mean_precision": np.float64(MEAN_PRECISION * degrees / share),
        "degrees_of_freedom": np.float64(degrees),
        "scale": np.asarray(family.prior_scale(dense, n_components) * degrees),
        "least_scale": np.float64(np.clip(least, LEAST_SCALE, 1)),
    }


def fraley_raftery(moments: Moments, n_components: int, family: Family) -> Values:
    """The fields of `Prior.fraley_raftery`."""
    covariance = proper_covariance(moments.total_weight, moments.mean, moments.scatter)
    return {
        "concentration": np.float64(1),
        "mean": np.asarray(moments.mean, float),
        "mean_precision": np.float64(0.01),
        "degrees_of_freedom": np.float64(moments.mean.size + 2),
        "scale": np.asarray(family.prior_scale(covariance, n_components)),
    }


NAMES: dict[str, Callable[[Moments, int, Family], Values]] = {"default": random_scale, "fraley-raftery": fraley_raftery}


def check_name(prior: str) -> None:
    """Raises ValueError where no prior is called so."""
    if prior not in NAMES:
        raise unknown("prior", prior, NAMES)


def not_a_prior(prior: object, *others: str) -> UserError | UserTypeError:
    """What to raise for something that is no prior; `others` can be given too."""
    kinds = [*(repr(name) for name in NAMES), "a Prior", *others]
    said = f"prior must be {', '.join(kinds[:-1])} or {kinds[-1]}, got"
    if prior is None:
        return UserError(f"{said} None, maximum likelihood, which has no posterior.")
    return UserTypeError(f"{said} {type(prior).__name__}.")
