"""Posterior predictive checks: are data sets drawn from the posterior like the real one?"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray
from jax import lax
from jaxtyping import Array, Float

from jaxgmm.bayes.target.noise import strewn
from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.per_draw import flatten_draws, noise_of
from jaxgmm.bayes.trees.schema import group_of, require, seen_of, shares_of
from jaxgmm.data.observed import Observed
from jaxgmm.data.placed import Placed, Seen
from jaxgmm.model.algebra import draw_rows
from jaxgmm.model.density import Uniform, beside
from jaxgmm.model.imputing import drawn
from jaxgmm.model.mixture import GMM
from jaxgmm.model.rows import log_joint_of
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count, check_key

STATISTICS = ("mean", "sd", "skewness", "min", "max")


def predictive_checks(tree: xarray.DataTree, *, key: Array, n_replicates: int = 400) -> pd.DataFrame:
    """Statistics of each feature, of the data and of data sets as large that are drawn from the posterior.

    Of rows that have gaps, or errors of measurement, what wasn't seen is drawn given what was, for each replicate, and the
    whole compared (Gelman et al. 2005): that holds under missing at random, too, where gaps depend on what was seen. With
    noise, replicates have their share of it, and so has what is drawn of the data; where its box was made of the rows, none can
    leave it, so that "min" and "max" say nothing, and are left out.

    A statistic of the data that hardly any replicate has is something that the mixture doesn't reproduce. Its tail
    probability uses the data twice, so extreme values are rarer than their size says (Gelman, Meng & Stern 1996).

    Args:
        tree: from `posterior`.
        key: a PRNG key.
        n_replicates: data sets to draw, from draws evenly spread over the posterior.

    Returns:
        A row for each feature and statistic ("mean", "sd", "skewness", "min", "max"): `feature`, `statistic`, `observed`
        (where not all was seen, the mean of what was drawn), `lower` and `upper` (95 % of the replicates), `p`, the share of
        the replicates that are above the observed value, those equal to it counted half.

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
    seen = seen_of(tree, "predictive_checks")
    rows = seen.x
    names = [str(name) for name in group_of(tree, "observed_data")["feature"].values]
    draws = draws_of(tree)
    dtype = precision.compute_dtype(rows)
    with precision.scope(dtype):
        flat = precision.cast(flatten_draws(jax.tree.map(np.asarray, draws)), dtype)
        chosen = np.linspace(0, flat.weights.shape[0] - 1, n_replicates).round().astype(int)
        noise = noise_of(shares_of(tree), seen, dtype)
        some, noise = jax.tree.map(lambda leaf: leaf[chosen], (flat, noise))
        keys, box = jax.random.split(key, n_replicates), None if seen.box is None else jnp.asarray(seen.box, dtype)
        replicated = np.asarray(_replicate(some, noise, box, keys, len(rows)))
        if seen.partly:
            others = jax.random.split(jax.random.fold_in(key, n_replicates), n_replicates)  # none of `keys`, which are fold_ins
            of_data = np.asarray(_complete(some, noise, _bounds(seen), others, seen.placed(dtype)))
        else:
            of_data = np.asarray(_statistics(jnp.asarray(rows, dtype)))[None]
    # No replicate leaves a box that was made of the rows.
    in_rows = seen.box is not None and bool((np.nanmin(rows, 0) <= seen.box[0]).any())
    above = (replicated > of_data).mean(0) + (replicated == of_data).mean(0) / 2
    of_data = of_data.mean(0)
    lower, upper = np.quantile(replicated, (0.025, 0.975), axis=0)
    table: list[dict[str, Any]] = [
        {"feature": name, "statistic": statistic, "observed": float(of_data[i, j]), "lower": float(lower[i, j]),
         "upper": float(upper[i, j]), "p": float(above[i, j])}
        for j, name in enumerate(names) for i, statistic in enumerate(STATISTICS[:3] if in_rows else STATISTICS)
    ]  # fmt: skip
    return pd.DataFrame(table)


@jax.jit
def _statistics(x: Float[Array, "N D"]) -> Float[Array, "5 D"]:
    mean, sd = x.mean(0), x.std(0)
    return jnp.stack([mean, sd, (((x - mean) / sd) ** 3).mean(0), x.min(0), x.max(0)])


@functools.partial(jax.jit, static_argnums=4)
def _replicate(gmms: GMM, noise: Uniform | None, box: Array | None, keys: Array, n_rows: int) -> Float[Array, "R 5 D"]:
    def one(draw: tuple[GMM, Uniform | None, Array]) -> Array:
        gmm, rest, key = draw
        if rest is None or box is None:
            return _statistics(draw_rows(gmm, key, n_rows)[0])
        key_rows, key_noise = jax.random.split(key)
        return _statistics(strewn(key_noise, draw_rows(gmm, key_rows, n_rows)[0], jnp.exp(rest.log_weight), box))

    return lax.map(one, (gmms, noise, keys))


def _complete(
    gmms: GMM, noise: Uniform | None, bounds: Float[np.ndarray, "2 N D"] | None, keys: Array, placed: Placed
) -> Float[Array, "R 5 D"]:
    """Of the data, what wasn't seen, or not exactly, drawn given each draw; of noise, uniform between these bounds."""
    rows = cast(Observed, placed.rows)

    def in_order(values: Array) -> Array:
        return values.reshape(-1, values.shape[-1])[placed.places]

    def one(draw: tuple[GMM, Uniform | None, Array]) -> Array:
        gmm, rest, key = draw
        if rest is None or bounds is None:
            return _statistics(in_order(drawn(gmm, rows, key)))
        key_rows, key_which, key_where = jax.random.split(key, 3)
        whole = in_order(drawn(gmm, rows, key_rows))
        share = in_order(jax.nn.softmax(log_joint_of(beside(gmm.components(), rest), rows), axis=-1))[:, -1:]
        as_noise = strewn(key_where, whole, jnp.ones(()), jnp.asarray(bounds, whole.dtype))
        return _statistics(jnp.where(jax.random.uniform(key_which, share.shape, share.dtype) < share, as_noise, whole))

    return jax.jit(lambda gmms, noise, keys: lax.map(one, (gmms, noise, keys)))(gmms, noise, keys)


def _bounds(seen: Seen) -> Float[np.ndarray, "2 N D"] | None:
    """Between which values of rows lie that are noise: within its box, beyond a limit, or where they were seen."""
    if seen.box is None:
        return None
    x, (lower, upper) = np.asarray(seen.x), seen.box
    sides = np.zeros(x.shape) if seen.censored is None else seen.censored
    unseen = np.isnan(x)
    return np.stack([np.where(unseen | (sides < 0), lower, x), np.where(unseen | (sides > 0), upper, x)])
