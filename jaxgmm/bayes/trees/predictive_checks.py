"""Posterior predictive checks: are data sets drawn from the posterior like the real one?"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray
from jax import lax
from jaxtyping import Array, Float

from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.per_draw import flatten_draws
from jaxgmm.bayes.trees.schema import group_of, require, rows_of
from jaxgmm.model.algebra import draw_rows
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count, check_key

STATISTICS = ("mean", "sd", "skewness", "min", "max")


def predictive_checks(tree: xarray.DataTree, *, key: Array, n_replicates: int = 400) -> pd.DataFrame:
    """Statistics of each feature, of the data and of data sets as large that are drawn from the posterior.

    A statistic of the data that hardly any replicate has is something that the mixture doesn't reproduce. Its tail probability
    uses the data twice, so extreme values are rarer than their size says (Gelman, Meng & Stern 1996).

    Args:
        tree: from `posterior`.
        key: a PRNG key.
        n_replicates: data sets to draw, from draws evenly spread over the posterior.

    Returns:
        A row for each feature and statistic ("mean", "sd", "skewness", "min", "max"): `feature`, `statistic`, `observed`,
        `lower` and `upper` (95 % of the replicates), `p`, the share of the replicates that are above the observed value, those
        equal to it counted half.

    Raises:
        TypeError, ValueError: not such a tree, or one of weighted rows: how many rows a replicate would have isn't known.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> table = jg.predictive_checks(tree, key=jax.random.key(2), n_replicates=100)
        >>> table["statistic"].tolist()[:5]
        ['mean', 'sd', 'skewness', 'min', 'max']
    """
    require(tree, "predictive_checks")
    check_key(key)
    n_replicates = check_count(n_replicates, "n_replicates", least=20)
    if "constant_data" in tree.children and "sample_weight" in group_of(tree, "constant_data"):
        raise UserError("the rows have weights, so how many a replicate should have isn't known: no predictive checks.")
    rows, _ = rows_of(tree, "predictive_checks")
    names = [str(name) for name in group_of(tree, "observed_data")["feature"].values]
    draws = draws_of(tree)
    with precision.scope(precision.compute_dtype(rows)):
        flat = flatten_draws(jax.tree.map(np.asarray, draws))
        chosen = np.linspace(0, flat.weights.shape[0] - 1, n_replicates).round().astype(int)
        some = jax.tree.map(lambda leaf: leaf[chosen], flat)
        replicated = np.asarray(_replicate(some, jax.random.split(key, n_replicates), len(rows)))
        of_data = np.asarray(_statistics(jnp.asarray(rows, replicated.dtype)))
    above = (replicated > of_data).mean(0) + (replicated == of_data).mean(0) / 2
    lower, upper = np.quantile(replicated, (0.025, 0.975), axis=0)
    table: list[dict[str, Any]] = [
        {"feature": name, "statistic": statistic, "observed": float(of_data[i, j]), "lower": float(lower[i, j]),
         "upper": float(upper[i, j]), "p": float(above[i, j])}
        for j, name in enumerate(names) for i, statistic in enumerate(STATISTICS)
    ]  # fmt: skip
    return pd.DataFrame(table)


@jax.jit
def _statistics(x: Float[Array, "N D"]) -> Float[Array, "5 D"]:
    mean, sd = x.mean(0), x.std(0)
    return jnp.stack([mean, sd, (((x - mean) / sd) ** 3).mean(0), x.min(0), x.max(0)])


@functools.partial(jax.jit, static_argnums=2)
def _replicate(gmms: GMM, keys: Array, n_rows: int) -> Float[Array, "R 5 D"]:
    return lax.map(lambda draw: _statistics(draw_rows(draw[0], draw[1], n_rows)[0]), (gmms, keys))
