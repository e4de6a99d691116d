"""`relabel`: undo label switching, and say how well that can be done."""

import jax
import numpy as np
import xarray
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.per_draw import agreement, flatten_draws, memberships_of, noise_of
from jaxgmm.bayes.trees.schema import HELD, PARAMETERS, PRIOR, group_of, require, seen_of, shares_of
from jaxgmm.covariance import get_family
from jaxgmm.data.padding import padded_draws
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_single

_TIE = 1e-9  # of the rows: agreements closer than this are equal, and then components stay where they are
_MOST_KMEANS_STEPS = 100


def relabel(tree: xarray.DataTree, pivot: Mixture | None = None) -> xarray.DataTree:
    """The posterior with its components in the order of a pivot's: label switching undone.

    A mixture's likelihood doesn't know the order of its components, so a sampler may visit all K! orders, and then means
    per component say nothing. Each draw's components are permuted so that its memberships r agree best with the pivot's,

        perm = argmax sum_j sum_n w_n r_{n, perm_j} p_nj,

    a linear assignment (Papastamoulis & Iliopoulos 2010, "ECR", with probabilities of membership in place of sampled
    allocations: no further noise, and a small component isn't lost). It always finds an order, sensible or not; so two
    numbers come with it, as attributes of the tree:

    - `non_permutation_rate`: all components of all draws, as points (mu_k, log sigma^2_k), are clustered by k-means into K
      clusters. In this share of the draws two components fall into one cluster: they can't be told apart, and numbers per
      component mean little (Frühwirth-Schnatter 2011; here in units of the spread within a label).
    - `switch_rate`: the share of successive draws of a chain whose permutations differ.

    Noise takes no part: what a draw takes for noise counts for no component. Where rows have labels, components that these
    tell apart keep their places, and so do those that differ in what is held, or in their prior: their order isn't arbitrary.

    Args:
        tree: from `posterior`.
        pivot: a GMM or a Fit of the same family, K and D, such as the fit that the draws started from; None for the draw of
            the highest log joint density (`sample_stats/lp`).

    Returns:
        A new tree: every posterior variable with the dimension `component_id` permuted, and `sample_stats/permutation`,
        the component of the original draw that is now the j-th. Relabelling by the same pivot again changes nothing.

    Raises:
        TypeError: not a tree, or a pivot that isn't a mixture.
        ValueError: groups that are missing; a pivot of another family, K or D, or with a component of weight 0.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> jg.relabel(tree, fit.gmm).attrs["non_permutation_rate"]
        0.0
    """
    require(tree, "relabel", posterior=PARAMETERS, sample_stats=(), observed_data=())
    draws = draws_of(tree)
    seen = seen_of(tree, "relabel")
    if pivot is None:
        require(tree, "relabel without a pivot", sample_stats=("lp",))
        pivot = _highest(draws, group_of(tree, "sample_stats")["lp"].transpose("chain", "draw").values)
    else:
        pivot = as_gmm(pivot, "pivot")
        _check_pivot(pivot, draws)
        if pivot.feature_names and draws.feature_names and pivot.feature_names != draws.feature_names:
            pivot = pivot.marginal(draws.feature_names)  # its features in the draws' order
    shape = draws.weights.shape[:2]
    dtype = precision.compute_dtype(seen.x)
    with precision.scope(dtype):
        placed, flat = seen.placed(dtype, padded=True), precision.cast(flatten_draws(draws), dtype)
        memberships = memberships_of(precision.cast(pivot, dtype), placed.rows, placed.weight)
        n_draws = np.int32(shape[0] * shape[1])
        many, noise = padded_draws((flat, noise_of(shares_of(tree), seen, dtype)))
        shared = np.asarray(agreement(many, placed.rows, placed.weight, memberships, n_draws, noise))[:n_draws]
    slack = _TIE * float(np.sum(np.asarray(seen.weight)))
    alike = _interchangeable(seen.evidence, draws, group_of(tree, "constant_data"))
    permutation = np.array([_assign(matrix, slack, alike) for matrix in shared]).reshape(*shape, -1)

    posterior = group_of(tree, "posterior").map(_permuted, keep_attrs=True, permutation=permutation)
    stats = group_of(tree, "sample_stats")
    total = permutation
    if "permutation" in stats:  # of the draws as they first were
        total = np.take_along_axis(stats["permutation"].values, permutation, axis=-1)
    stats = stats.assign_coords(component_id=posterior["component_id"]).assign(
        permutation=(("chain", "draw", "component_id"), total)
    )
    result = tree.assign({"posterior": xarray.DataTree(posterior), "sample_stats": xarray.DataTree(stats)})
    points = _points(draws_of(result))
    finite = np.isfinite(points).all(axis=(1, 2))
    clusters = _clusters(points[finite])
    one_each = (np.sort(clusters, axis=-1) == np.arange(clusters.shape[-1])).all(axis=-1)
    switched = (total[:, 1:] != total[:, :-1]).any(-1)
    result.attrs = tree.attrs | {
        "relabelled": 1,
        "non_permutation_rate": float(1 - one_each.sum() / len(points)),
        "switch_rate": float(switched.mean()) if switched.size else 0.0,
    }
    return result


def _check_pivot(pivot: GMM, draws: GMM) -> None:
    """Raises where the draws' components couldn't be the pivot's."""
    check_single(pivot.weights, "jg.relabel(tree, g)")
    if pivot.family != draws.family:
        raise UserError(f"pivot is of family {pivot.family!r}, the draws are {draws.family!r}: pass the fit they come from.")
    of_pivot, of_draws = ((g.n_components, g.n_features) for g in (pivot, draws))
    if of_pivot != of_draws:
        raise UserError(
            f"pivot has {of_pivot[0]} components of {of_pivot[1]} features, the draws have {of_draws[0]} of {of_draws[1]}: "
            "pass the fit they come from."
        )
    inactive = np.flatnonzero(np.asarray(pivot.weights) == 0).tolist()
    if inactive:
        raise UserError(
            f"pivot has components of weight 0, {inactive}, which no rows belong to: pass one where all are active."
        )


def _highest(draws: GMM, lp: Float[np.ndarray, "chain draw"]) -> GMM:
    """The draw of the highest log joint density."""
    if np.isnan(lp).all():
        raise UserError("sample_stats/lp is NaN for all draws: pass a pivot, such as fit.gmm.")
    best = np.unravel_index(np.nanargmax(lp), lp.shape)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[best], draws)


def _interchangeable(
    evidence: Float[np.ndarray, "N K"] | None, draws: GMM, constants: xarray.Dataset
) -> Bool[np.ndarray, "K K"]:
    """Which components could change places: rows' labels, if there are any, the prior and what is held say the same of both."""
    alike = np.ones((draws.n_components, draws.n_components), bool)
    if evidence is not None:
        alike &= (evidence[:, :, None] == evidence[:, None]).all(0)
    for name, variable in constants.items():
        if str(name).startswith(PRIOR) and "component_id" in variable.dims:
            value = variable.transpose("component_id", ...).values.reshape(draws.n_components, -1)
            alike &= (value[:, None] == value).all(-1)
    for name in PARAMETERS:
        if f"{HELD}{name}" not in constants or (name == "covariances" and not get_family(draws.family).per_component):
            continue
        held, value = constants[f"{HELD}{name}"].values.astype(bool), np.asarray(getattr(draws, name))[0, 0]
        value = np.where(held[:, None], value.reshape(len(held), -1), np.nan)
        alike &= (held == held[:, None]) & (~held | (value[:, None] == value).all(-1))
    return alike


def _assign(agreement: Float[np.ndarray, "K K"], slack: float, alike: Bool[np.ndarray, "K K"]) -> Int[np.ndarray, " K"]:
    """The component of the draw for each of the pivot's; the order as it is where no other is better by more than `slack`."""
    agreement = np.where(alike, agreement, -np.abs(agreement).sum() - 1)
    if not np.isfinite(agreement).all():  # a draw that isn't a mixture has no better order
        return np.arange(len(agreement))
    pivots, components = linear_sum_assignment(agreement.T, maximize=True)
    gain = agreement[components, pivots].sum() - np.trace(agreement)
    return components if gain > slack else np.arange(len(agreement))


def _permuted(variable: xarray.DataArray, permutation: Int[np.ndarray, "chain draw K"]) -> xarray.DataArray:
    if "component_id" not in variable.dims:
        return variable
    dims = variable.dims
    first = variable.transpose("chain", "draw", "component_id", ...)
    index = permutation.reshape(permutation.shape + (1,) * (first.ndim - 3))
    return first.copy(data=np.take_along_axis(first.values, index, axis=2)).transpose(*dims)


def _points(draws: GMM) -> Float[np.ndarray, "S K P"]:
    """Each component of each draw as a point: its mean, and the logs of its variances where it has its own."""
    means, covariances = np.asarray(draws.means, float), np.asarray(draws.covariances, float)
    parts = [means]
    if get_family(draws.family).per_component:
        matrices = covariances.ndim == means.ndim + 1
        variances = np.diagonal(covariances, axis1=-2, axis2=-1) if matrices else covariances
        parts.append(np.log(variances).reshape(*means.shape[:3], -1))
    points = np.concatenate(parts, axis=-1)
    return points.reshape(-1, *points.shape[2:])


def _clusters(points: Float[np.ndarray, "S K P"]) -> Int[np.ndarray, "S K"]:
    """k-means of all points, from the labels' own means, in units of the spread within labels."""
    n_components = points.shape[1]
    if not len(points):
        return np.zeros(points.shape[:2], int)
    scale = points.std(axis=0).mean(axis=0)
    points = (points - points.mean(axis=(0, 1))) / np.where(scale > 0, scale, 1)
    centres, flat = points.mean(axis=0), points.reshape(-1, points.shape[-1])
    nearest = np.full(len(flat), -1)
    for _ in range(_MOST_KMEANS_STEPS):
        before, nearest = nearest, ((centres**2).sum(-1) / 2 - flat @ centres.T).argmin(-1)
        if (before == nearest).all():
            break
        counts = np.bincount(nearest, minlength=n_components)
        sums = np.stack([np.bincount(nearest, column, n_components) for column in flat.T], axis=-1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return nearest.reshape(points.shape[:2])
