"""How far the number of clusters depends on the priors."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.trees.schema import facts_of
from jaxgmm.counting.components import prior_of
from jaxgmm.counting.count_clusters import count_clusters
from jaxgmm.counting.verdict import alpha_of, cluster_count
from jaxgmm.model.prior import Prior
from jaxgmm.tools.errors import UserError

_FACTORS = (0.5, 2.0)
_LEAST_SHOWN = 1e-3


def count_sensitivity(x: Float[ArrayLike, "N D"], *, key: Array, **options: Any) -> pd.DataFrame:
    """The number of clusters under half and double alpha, and under half and double the prior scale of the covariances.

    Five runs of `count_clusters`. A random alpha is held at half and at double its posterior median in the second and third.
    For `RichardsonGreen` the scale is that of the variances' random rate.

    Args:
        x: (N, D).
        key: a PRNG key.
        **options: of `count_clusters`.

    Returns:
        One row a run ("as given", "alpha x 0.5", ...): `mode`, `mean`, `p_as_given`, the probability of the number that is the
        mode as given, `r_hat`, `ess_bulk`, `ok`, whether there is a verdict, and `verdict`; then `p_1`, `p_2`, ..., the
        probability of each number up to the last that has a thousandth in some run. `plots.sensitivity` draws them.

    Raises:
        TypeError, ValueError, FitError: as `count_clusters`; a checkpoint, which keeps one run only.
    """
    for name in ("checkpoint", "resume"):
        if options.get(name):
            raise UserError(f"{name} keeps one run, and count_sensitivity makes five: leave it out.")
    base = _counted(x, key=key, **options)
    prior, alpha = prior_of(base), float(np.median(alpha_of(base)))
    own = options | {"prior": prior, "family": None}
    if facts_of(base)["alpha"] not in ("f", "gamma"):
        own["alpha"] = alpha
    runs = {"as given": base}
    for number, factor in enumerate(_FACTORS):
        runs[f"alpha x {factor:g}"] = _counted(
            x, key=jax.random.fold_in(key, 2 * number), **own | {"alpha": factor * alpha}
        )  # fmt: skip
        runs[f"scale x {factor:g}"] = _counted(
            x, key=jax.random.fold_in(key, 2 * number + 1), **own | {"prior": _scaled(prior, factor)}
        )
    counts = {name: cluster_count(tree) for name, tree in runs.items()}
    mode = counts["as given"].mode
    posteriors = pd.DataFrame({name: found.table["posterior"] for name, found in counts.items()}).fillna(0.0).T
    shown = posteriors.loc[:, : posteriors.columns[(posteriors >= _LEAST_SHOWN).any()].max()]
    table = pd.DataFrame.from_dict(
        {
            name: {
                "mode": found.mode,
                "mean": float(found.table["posterior"] @ found.table.index),
                "p_as_given": found.table["posterior"][mode],
                "r_hat": found.r_hat,
                "ess_bulk": found.ess_bulk,
                "ok": found.ok,
                "verdict": found.verdict,
            }
            for name, found in counts.items()
        },
        orient="index",
    )
    return table.join(shown.add_prefix("p_"))


def _counted(x: Float[ArrayLike, "N D"], **options: Any) -> xarray.DataTree:
    """A run; what interrupts it interrupts the others."""
    tree = count_clusters(x, **options)
    if facts_of(tree)["stopped"] == "interrupted":
        raise KeyboardInterrupt
    return tree


def _scaled(prior: Prior | RichardsonGreen, factor: float) -> Prior | RichardsonGreen:
    if isinstance(prior, RichardsonGreen):
        return replace(prior, rate_rate=prior.rate_rate / factor)
    return replace(prior, scale=prior.scale * factor)
