"""`intervals`: how sure the parameters of components are, of draws that there are, or of a fit, without a sampler."""

from typing import Any

import xarray
from jaxtyping import Array

from jaxgmm.bayes.posterior import posterior
from jaxgmm.bayes.trees.relabel import relabel
from jaxgmm.bayes.trees.summaries import intervals_of
from jaxgmm.fitting.result import Fit
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import unknown

METHODS = ("sandwich", "laplace", "weighted-likelihood", "bootstrap")


def intervals(
    of: xarray.DataTree | Fit,
    probability: float = 0.9,
    *,
    x: Any = None,
    method: str | None = None,
    key: Array | None = None,
    **options: Any,
) -> xarray.Dataset:
    """Means and equal-tailed intervals of each component's parameters, in units that can be read.

    Of a tree, those of its draws. Of a fit, those of draws near its mode, made in about a second: by default the sandwich's,
    which is right to first order also where components aren't Gaussian; "laplace" is right where they are, and the two
    bootstraps are without a Gaussian's symmetry. README has the coverage of each.

    Args:
        of: a tree from `relabel`; or a Fit.
        probability: that a parameter lies between `lower` and `upper`.
        x: the rows of the fit.
        method: for a fit, "sandwich" (default), "laplace", "weighted-likelihood" or "bootstrap"; others are for `posterior`.
        key: for a fit, a PRNG key.
        **options: for a fit, further arguments of `posterior`, such as `n_draws`, `sample_weight`, `labels`, `prior`.

    Returns:
        `weights` (statistic, component_id), `means` and `standard_deviations` (statistic, component_id, feature),
        `correlations` (statistic, component_id, feature, feature_bis), whatever the family; with noise also `noise_weight`
        (statistic), its share; the coordinate statistic is "mean", "lower", "upper".

    Raises:
        TypeError: neither a tree nor a fit.
        ValueError: labels that may switch, missing groups, a probability outside (0, 1); arguments that go with the other kind.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> table = jg.intervals(fit, x=x, key=jax.random.key(1))
        >>> bool((table["weights"].sel(statistic="lower") < fit.weights).all())
        True
    """
    if isinstance(of, xarray.DataTree):
        more = [name for name, value in {"x": x, "method": method, "key": key, **options}.items() if value is not None]
        if more:
            raise UserError(
                f"{more[0]} is for the intervals of a fit, and this is a tree, whose draws are there: leave it out."
            )
        return intervals_of(of, probability)
    if not isinstance(of, Fit):
        raise UserTypeError(f"intervals needs a tree, of jg.relabel, or a Fit, got {type(of).__name__}.")
    if x is None or key is None:
        raise UserError("the intervals of a fit need its rows and a key: jg.intervals(fit, x=x, key=jax.random.key(0)).")
    method = METHODS[0] if method is None else method
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    tree = posterior(x, of, method=method, key=key, **options)
    return intervals_of(relabel(tree, of.gmm), probability)
