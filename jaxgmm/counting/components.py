"""Components given the number of clusters: parameters for the draws of `count_clusters` that have just so many."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from jaxgmm.bayes.priors.base import draw_parameters, names_in_partitions, predictive, statistics_of
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.trees.build import to_datatree
from jaxgmm.bayes.trees.schema import facts_of, feature_names_of, group_of, require, row_labels_of, rows_of
from jaxgmm.counting.mixtures import check_groups
from jaxgmm.counting.model import padded_data, padded_labels
from jaxgmm.counting.partition import Data, blocks_of_labels, log_densities
from jaxgmm.counting.partition_prior import PartitionPrior
from jaxgmm.counting.verdict import alpha_of
from jaxgmm.data.padding import padded_draws
from jaxgmm.data.placed import Seen
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_count, check_key

_INNER_SWEEPS = 20  # of Richardson & Green's conditionals, from the rows' own variances
_DRAWS_AT_ONCE = 64


def components_given(
    tree: xarray.DataTree, n_clusters: int | None = None, *, key: Array, groups: Sequence[str] = ()
) -> xarray.DataTree:
    """Weights, means and covariances of the filled components, for the draws that have `n_clusters` clusters.

    Parameters are drawn anew given each draw's allocations: exactly for a `Prior`, by a few Gibbs sweeps for
    `RichardsonGreen`. Weights are those of the filled components among themselves. Components are in no order yet:
    `relabel` puts them in one, and says by its non-permutation rate whether they can be told apart.

    Args:
        tree: from `count_clusters`.
        n_clusters: None for the most frequent number.
        key: a PRNG key.
        groups: further groups to add, of "log_likelihood" and "posterior_predictive", as for `posterior`.

    Returns:
        A tree as of `posterior`, of one chain with as many draws as have `n_clusters` clusters; `lp` is their log-likelihood.

    Raises:
        TypeError, ValueError: a tree that isn't `count_clusters`' own, or without draws of that many clusters.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=50, n_warmup=20)
        >>> two = jg.relabel(jg.components_given(tree, 2, key=jax.random.key(1)))
        >>> two["posterior"]["means"].dims
        ('chain', 'draw', 'component_id', 'feature')
    """
    check_key(key)
    check_groups(groups, "components_given")
    require(tree, "components_given", posterior=(), allocations=("label", "n_clusters", "n_components"))
    rows, _ = rows_of(tree, "components_given")
    posterior, allocations = group_of(tree, "posterior"), group_of(tree, "allocations")
    clusters = allocations["n_clusters"].values.reshape(-1)
    if n_clusters is None:
        n_clusters = int(np.bincount(clusters).argmax())
    n_clusters = check_count(n_clusters, "n_clusters")
    chosen = np.flatnonzero(clusters == n_clusters)
    if chosen.size == 0:
        raise UserError(f"no draw has {n_clusters} clusters; there are draws with {np.unique(clusters).tolist()}.")
    labels = allocations["label"].values.reshape(clusters.size, -1)[chosen]

    def each(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1)[chosen]

    prior = prior_of(tree)
    alpha = each(alpha_of(tree))
    gamma = alpha / each(allocations["n_components"].values) if facts_of(tree)["weights"] == "dynamic" else alpha
    if facts_of(tree)["weights"] == "dirichlet-process":
        gamma = np.zeros_like(alpha)
    extra = {name: each(posterior[name].values) for name in names_in_partitions(prior)}
    key_draws, key_tree = jax.random.split(key)
    dtype = np.dtype(np.float64)
    with precision.scope(dtype):
        data = padded_data(rows, prior, PartitionPrior(jnp.zeros(1), jnp.ones(())))
        labels = padded_labels(labels, data, n_clusters)
        many = padded_draws((labels, gamma, extra))  # so that few numbers of draws share a program
        keys = jax.random.split(key_draws, len(many[0]))
        drawn = _draw_all(keys, *many, data, n_clusters)
        gmm, extra, log_likelihood = jax.tree.map(lambda leaf: np.asarray(leaf)[: chosen.size], drawn)
    gmm = gmm.moved(rows.mean(0, dtype=float))
    draws = jax.tree.map(lambda leaf: leaf[None], Draws(gmm, extra, {"lp": log_likelihood}, {}))
    attrs = {"method": "telescoping", "n_clusters": n_clusters, "share_of_draws": chosen.size / clusters.size}
    return to_datatree(
        draws, Seen(rows), prior,
        key=key_tree, groups=groups, feature_names=feature_names_of(tree), row_labels=row_labels_of(tree), attrs=attrs,
    )  # fmt: skip


def prior_of(tree: xarray.DataTree) -> Prior | RichardsonGreen:
    """The prior of components that a tree of `count_clusters` was made with."""
    facts, constants = facts_of(tree), group_of(tree, "constant_data")
    kind = RichardsonGreen if facts["prior"] == "RichardsonGreen" else Prior
    fields = [name for name in kind.__dataclass_fields__ if f"prior_{name}" in constants and name != "concentration"]
    values = {name: on_host(constants[f"prior_{name}"].values) for name in fields} | {"concentration": on_host(np.ones(()))}
    return kind(**values, family=facts["family"])


@functools.partial(jax.jit, static_argnums=5)
def _draw_all(
    keys: Array,
    labels: Int[Array, "S N"],
    gamma: Float[Array, " S"],
    extra: dict[str, Array],
    data: Data,
    n_clusters: int,
) -> tuple[GMM, dict[str, Array], Float[Array, " S"]]:
    def one(draw: tuple[Array, Array, Array, dict[str, Array]]) -> tuple[GMM, dict[str, Array], Array]:
        key, own, concentration, extra = draw
        blocks = blocks_of_labels(own, n_clusters, data)
        means, covariances = predictive(data.prior, blocks, extra)
        gmm = GMM.unchecked(jnp.full(n_clusters, 1 / n_clusters), means, covariances, data.prior.family)
        prior, statistics = replace(data.prior, concentration=concentration), statistics_of(blocks)

        def again(i: Array, carry: tuple[GMM, dict[str, Array]]) -> tuple[GMM, dict[str, Array]]:
            gmm, _, extra = draw_parameters(prior, jax.random.fold_in(key, i), statistics, *carry)
            return gmm, extra

        n_sweeps = _INNER_SWEEPS if isinstance(data.prior, RichardsonGreen) else 1
        gmm, extra = jax.lax.fori_loop(0, n_sweeps, again, (gmm, extra))
        joint = log_densities(gmm.means, gmm.factored(), data) + jnp.log(gmm.weights)[:, None]
        constant = data.n_samples * gmm.n_features / 2 * jnp.log(2 * jnp.pi)
        return gmm, extra, jnp.where(data.present, logsumexp(joint, axis=0), 0).sum() - constant

    return jax.lax.map(one, (keys, labels, gamma, extra), batch_size=_DRAWS_AT_ONCE)
