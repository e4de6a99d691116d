"""The mixture of each draw of `count_clusters`, drawn given its partition, and what that says of rows: no K is chosen."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np
import xarray
from jax import lax
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.base import MixturePrior, names_in_partitions
from jaxgmm.bayes.trees.build import coordinates, dataset_of, dataset_of_rows
from jaxgmm.bayes.trees.per_draw import log_density_of_rows, replicate
from jaxgmm.bayes.trees.schema import ROW, check_feature_names
from jaxgmm.counting.model import padded_data, padded_labels
from jaxgmm.counting.partition import Data
from jaxgmm.counting.partition_prior import PartitionPrior
from jaxgmm.counting.telescoping import continued
from jaxgmm.data.placed import Seen
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.types import Facts

GROUPS = ("log_likelihood", "posterior_predictive")
_DRAWS_AT_ONCE = 64


def check_groups(groups: Collection[str], user: str) -> None:
    """Raises TypeError for one name, ValueError for names of groups that draws without a fixed K don't have."""
    if isinstance(groups, str):
        raise UserTypeError(f"groups must be a list of names, got {groups!r}: groups=[{groups!r}].")
    for group in groups:
        if group not in GROUPS:
            raise UserError(f"{user} has no group {group!r}: of draws whose number of components varies there are {GROUPS}.")


def with_groups(
    tree: xarray.DataTree,
    kept: Facts,
    rows: Float[np.ndarray, "N D"],
    names: Sequence[str] | None,
    row_labels: np.ndarray | None,
    prior: MixturePrior,
    partition_prior: PartitionPrior,
    groups: Collection[str],
    key: Array,
) -> xarray.DataTree:
    """The tree with groups of each draw's mixture: `log_likelihood`, of each row, and `posterior_predictive`, N rows drawn.

    Args:
        tree: of the draws.
        kept: the draws, as the chains kept them, (chain, draw, ...).
        rows: the data.
        names: of the features.
        row_labels: of the rows.
        prior: of components.
        partition_prior: of how rows are dealt out.
        groups: of `GROUPS`.
        key: a PRNG key.
    """
    if not groups:
        return tree
    coords, dims = coordinates(check_feature_names(names, rows.shape[1]), row_labels), ("chain", "draw")
    shape, dtype = np.shape(kept["n_clusters"]), np.dtype(np.float64)
    made = {}
    with precision.scope(dtype):
        key_mixtures, key_rows = jax.random.split(key)
        names_kept = ("labels", "n_components", "alpha", *names_in_partitions(prior))
        flat = {name: np.asarray(kept[name]).reshape(-1, *np.shape(kept[name])[2:]) for name in names_kept}
        labels, n_components, alpha = flat.pop("labels").astype(int), flat.pop("n_components"), flat.pop("alpha")
        keys = jax.random.split(key_mixtures, len(labels))
        data = padded_data(rows, prior, partition_prior)
        labels = padded_labels(labels, data, partition_prior.most)
        gmm = _mixtures(keys, labels, n_components, alpha, flat, data).moved(rows.mean(0, dtype=float))

        def per_draw(values: Any) -> np.ndarray:
            return np.asarray(values).reshape(*shape, *values.shape[1:])

        if "log_likelihood" in groups:
            placed = Seen(rows).placed(dtype, padded=True)
            of_rows = placed.in_order(log_density_of_rows(gmm, placed.rows, placed.weight), 1)
            made["log_likelihood"] = dataset_of({ROW: ((*dims, "obs_id"), per_draw(of_rows))}, coords)
        if "posterior_predictive" in groups:
            replicated = per_draw(replicate(gmm, key_rows, len(rows)).astype(precision.result_dtype(rows)))
            made["posterior_predictive"] = dataset_of_rows(replicated, coords, dims)
    return tree.assign({name: xarray.DataTree(dataset) for name, dataset in made.items()})


@jax.jit
def _mixtures(
    keys: Array,
    labels: Int[Array, "S N"],
    n_components: Int[Array, " S"],
    alpha: Float[Array, " S"],
    extra: dict[str, Array],
    data: Data,
) -> GMM:
    """Components from K on have weight 0."""
    draws = keys, labels, n_components, alpha, extra

    def mixture(draw: tuple[Array, Array, Array, Array, dict[str, Array]]) -> GMM:
        return continued(*draw, data).gmm

    return lax.map(mixture, draws, batch_size=_DRAWS_AT_ONCE)
