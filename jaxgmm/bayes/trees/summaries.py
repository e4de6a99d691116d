"""What a posterior says in the end: intervals, who belongs where, and who belongs together."""

from collections.abc import Sequence

import numpy as np
import xarray
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxgmm.bayes.target.noise import NOISE
from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.per_draw import flatten_draws, mean_and_sd_of_memberships, noise_of, shared_membership
from jaxgmm.bayes.trees.schema import PARAMETERS, facts_of, group_of, require, row_labels_of, seen_of, shares_of
from jaxgmm.covariance import get_family
from jaxgmm.data.placed import Seen
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_rows, check_seen

_MOST_ROWS = 4000  # whose pairs are compared unless they are named: 128 MB


def intervals_of(tree: xarray.DataTree, probability: float) -> xarray.Dataset:
    """`jaxgmm.intervals` of a tree."""
    if not 0 < probability < 1:
        raise UserError(f"probability must lie between 0 and 1, got {probability}: 0.9, say.")
    require(tree, "intervals", posterior=PARAMETERS)
    check_labels(tree, "intervals")
    draws = draws_of(tree)
    shape = draws.means.shape
    deviations = np.broadcast_to(standard_deviations(draws), shape)
    tails = [(1 - probability) / 2, (1 + probability) / 2]

    def statistics(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values.mean((0, 1))[None], np.quantile(values, tails, axis=(0, 1))])

    # A component at a time: with many features, the correlations of all draws are the largest array here.
    matrices = np.stack([statistics(correlations(draws, k)) for k in range(shape[2])], axis=1)
    posterior = group_of(tree, "posterior")
    names = ("component_id", "feature", "feature_bis")
    coords = {name: posterior[name].values for name in names if name in posterior.coords}
    coords.setdefault("feature_bis", coords["feature"])
    dims = ("statistic", *names)
    shares = shares_of(tree)
    return xarray.Dataset(
        {
            "weights": (dims[:2], statistics(np.asarray(draws.weights))),
            "means": (dims[:3], statistics(np.asarray(draws.means))),
            "standard_deviations": (dims[:3], statistics(deviations)),
            "correlations": (dims, matrices),
        }
        | ({} if shares is None else {NOISE: (dims[:1], statistics(shares))}),
        {"statistic": ["mean", "lower", "upper"], **coords},
        {"probability": probability},
    )


def membership(tree: xarray.DataTree, x: Float[ArrayLike, "N D"] | None = None) -> xarray.Dataset:
    """Each row's posterior probabilities of membership, and how sure they are.

    Args:
        tree: from `relabel`.
        x: (N, D), other rows, NaN where a value is missing; None for the observed ones, with what is known of them.

    Returns:
        `membership` (obs_id, component_id), the mean of r_nk over the draws: the probability that row n belongs to
        component k; `sd` (obs_id, component_id), its standard deviation over the draws: how far not knowing the
        parameters moves it; `entropy` (obs_id), of the row's mean memberships, in nats: 0 for a row that surely belongs
        to one component, log K for one that could be of any. Of the posterior of a fit with noise also `noise` (obs_id), the
        probability that the row is noise, which is what its memberships lack to 1. `obs_id` are the rows' labels, see
        `posterior`, by which it can be joined to a frame: `frame.join(jg.membership(tree)["membership"].to_pandas())`.

    Raises:
        ValueError: labels that may switch, missing groups, rows that can't be used.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> jg.membership(jg.relabel(tree, fit.gmm))["membership"].sizes
        Frozen({'obs_id': 272, 'component_id': 2})
    """
    require(tree, "membership", posterior=PARAMETERS)
    check_labels(tree, "membership")
    draws = draws_of(tree)
    observed = seen_of(tree, "membership")
    if x is None:
        seen = observed
    else:
        if observed.errors is not None:
            raise UserError(
                "the tree is of rows with errors of measurement, of which membership of other rows knows nothing: ask the "
                "draws, jaxgmm.draws_of(tree), each of which takes error_covariances."
            )
        names = draws.feature_names
        rows = np.asarray(check_rows(x, "x", n_features=draws.n_features, feature_names=names, missing=True))
        seen = Seen(rows, box=observed.box)
        check_seen(seen.x)
    labels = row_labels_of(tree) if x is None else frames.row_labels(x)
    dtype = precision.compute_dtype(seen.x)
    with precision.scope(dtype):
        placed = seen._replace(weight=None).placed(dtype, padded=True)  # rows that count for nothing have memberships, too
        flat, noise = precision.cast(flatten_draws(draws), dtype), noise_of(shares_of(tree), seen, dtype)
        both = mean_and_sd_of_memberships(flat, placed.rows, placed.weight, noise)
        mean, sd = np.moveaxis(placed.in_order(both), -1, 0)
    entropy = -np.where(mean > 0, mean * np.log(np.where(mean > 0, mean, 1)), 0).sum(-1)
    dims = ("obs_id", "component_id")
    component_id = group_of(tree, "posterior")["component_id"].values
    coords = {"obs_id": np.arange(len(mean)) if labels is None else labels, "component_id": component_id}
    k = len(component_id)
    found = {"membership": (dims, mean[:, :k]), "sd": (dims, sd[:, :k]), "entropy": (dims[:1], entropy)}
    return xarray.Dataset(found if noise is None else found | {"noise": (dims[:1], mean[:, k])}, coords)


def coclustering(tree: xarray.DataTree, rows: Sequence[int] | None = None) -> xarray.DataArray:
    """The posterior probability that two rows belong to the same component: mean over the draws of sum_k r_nk r_mk.

    No labels are involved, so it means the same whether they switch or not (Binder 1978). Allocations are summed out: no
    draws of them are needed. Rows that are noise share no component. The diagonal is 1.

    Args:
        tree: from `posterior`, with observed_data.
        rows: the places of the rows to compare, from 0; None for all.

    Returns:
        (obs_id, obs_id_bis).

    Raises:
        ValueError: missing groups, indices that aren't rows, more than 4000 rows that nobody chose.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> (jg.coclustering(tree, rows=[0, 1, 2]) > 0.5).values.tolist()
        [[True, False, True], [False, True, False], [True, False, True]]
    """
    require(tree, "coclustering", posterior=PARAMETERS)
    seen = seen_of(tree, "coclustering")
    observed = seen.x
    if rows is None and len(observed) > _MOST_ROWS:
        raise UserError(
            f"the tree has {len(observed)} rows, so {len(observed)} x {len(observed)} probabilities: choose the rows to "
            f"compare, coclustering(tree, rows=range({_MOST_ROWS})), or name them all if that is meant."
        )
    index = np.arange(len(observed)) if rows is None else np.asarray(rows)
    if index.ndim != 1 or index.size == 0 or index.dtype.kind not in "iu":
        raise UserError(f"rows must be a list of row indices, got {rows!r}.")
    if index.min() < 0 or index.max() >= len(observed):
        raise UserError(f"rows must lie in 0..{len(observed) - 1}, got {index.min()}..{index.max()}.")
    dtype = precision.compute_dtype(observed)
    with precision.scope(dtype):
        draws, placed = precision.cast(flatten_draws(draws_of(tree)), dtype), seen.take(index).placed(dtype)
        shared = np.array(shared_membership(draws, placed.rows, placed.places, noise_of(shares_of(tree), seen, dtype)))
    shared[index[:, None] == index] = 1
    labels = row_labels_of(tree)[index]
    return xarray.DataArray(shared, {"obs_id": labels, "obs_id_bis": labels}, ("obs_id", "obs_id_bis"), "coclustering")


def check_labels(tree: xarray.DataTree, user: str) -> None:
    """Raises ValueError where `user` speaks of single components, and the draws aren't relabelled."""
    if not labels_known(tree):
        raise UserError(
            f"{user} speaks of single components, and in this tree their labels may switch between draws: "
            f"{user}(jaxgmm.relabel(tree, fit.gmm))."
        )


def labels_known(tree: xarray.DataTree) -> bool:
    """True where the k-th component is the same one in all draws, as far as can be."""
    return bool(facts_of(tree).get("relabelled")) or group_of(tree, "posterior").sizes["component_id"] == 1


def standard_deviations(draws: GMM) -> Float[np.ndarray, "chain draw K D"]:
    """Standard deviations of each draw; axes of length 1 where the family shares them."""
    covariances = np.asarray(draws.covariances)
    family = get_family(draws.family)
    if family.structure.dense:
        variances = np.diagonal(covariances, axis1=-2, axis2=-1)
        return np.sqrt(variances if family.per_component else variances[:, :, None])
    return np.sqrt(covariances.reshape(*draws.weights.shape, -1))


def correlations(draws: GMM, k: int) -> Float[np.ndarray, "chain draw D D"]:
    """Correlations within the k-th component of each draw."""
    family, d = get_family(draws.family), draws.n_features
    if not family.structure.dense:
        return np.broadcast_to(np.eye(d), (*draws.weights.shape[:2], d, d))
    matrices = np.asarray(draws.covariances)
    matrices = matrices[:, :, k] if family.per_component else matrices
    sd = np.sqrt(np.diagonal(matrices, axis1=-2, axis2=-1))
    return matrices / (sd[..., :, None] * sd[..., None, :])
