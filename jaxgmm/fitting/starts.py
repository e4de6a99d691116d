"""Starting points: k-means++ seeds, random rows, given responsibilities or labels."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxgmm.covariance import Family, get_family
from jaxgmm.data import as_source
from jaxgmm.data.moments import Moments, column_moments, column_variances
from jaxgmm.data.padding import on_device
from jaxgmm.model.engines import assigned_statistics
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, at_least_scale
from jaxgmm.model.statistics import recentre
from jaxgmm.model.steps import maximise
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import map_rows, rows_present, short_blocks
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.validation import check_count, check_key, floating, host_only, key_data, unknown

METHODS = ("k-means++", "random")
_FAR = 9.0  # times the typical squared distance from a seed, beyond which a row may be noise
_EMPTY_SHARE = 1e-3  # weight, in shares of 1/K, that a component without rows starts from
_NUMBERS_AT_ONCE = 1 << 18  # entries of x whose differences from a seed exist at one time


def initialise(
    x: Float[ArrayLike, "N D"],
    n_components: int,
    *,
    key: Array,
    init: str = "k-means++",
    family: str = "full",
    prior: Prior | None = None,
    sample_weight: Float[ArrayLike, " N"] | None = None,
) -> GMM:
    """One starting point for EM.

    Rows are assigned to the nearest of K seed rows; weights and means are those of the groups, and all components start
    from the groups' pooled covariance, so a seed on an outlier can't start collapsed. "k-means++" draws seeds with
    probability proportional to weight times squared distance from the seeds so far (Arthur & Vassilvitskii 2007);
    "random" with probability proportional to weight, without repetition. Columns are divided by their standard deviations
    first, by a common one for "spherical" and EII, so units don't matter. (Whitening by the whole covariance was tried: on iris
    and Old Faithful it hides the very direction in which clusters part, and fewer starts reach the best optimum.)

    Args:
        x: (N, D), finite.
        n_components: K, at least 1.
        key: a PRNG key.
        init: "k-means++" or "random".
        family: covariance family.
        prior: regularises the pooled covariance; None: none.
        sample_weight: (N,), non-negative; default 1.

    Raises:
        TypeError, ValueError: as `fit`; weights so large that the prior can't keep covariances from being singular.

    Example:
        >>> import jax, jaxgmm as jg
        >>> jg.initialise([[0.0], [0.1], [5.0]], 2, key=jax.random.key(0)).means.shape
        (2, 1)
    """
    if init not in METHODS:
        raise unknown("init", init, METHODS)
    host_only("initialise", x, sample_weight, key, instead=", and pass its GMM in")
    check_key(key)
    source = as_source(x, sample_weight, min_rows=2)
    n_components = check_count(n_components, "n_components")
    family = get_family(family).name
    check_rank(family, source.n_features)
    dtype, out = precision.compute_dtype(source.x), precision.parameter_dtype(source.x)
    with precision.scope(dtype):
        data = on_device(source)
        moments = column_moments(data.x, data.weight, False, dtype)
        scales = column_scales(moments, family)
        uniforms = seed_uniforms(key, 1, n_components, n_components).astype(dtype)
        each = jax.tree.map(lambda leaf: np.asarray(leaf)[None], prior)
        counts = np.array([n_components])
        gmms = seeded_starts(data.x, data.weight, uniforms, moments.mean, scales, counts, init, family, each)
    start = precision.as_parameters(jax.tree.map(lambda leaf: leaf[0], gmms), out)
    structure = get_family(family).structure
    if prior is not None and (flaw := structure.flaw(np.asarray(start.covariances, float), source.n_features)):
        raise UserError(
            f"the start has no density ({flaw}): beside weights that add up to {source.total_weight:.3g} the prior is less "
            "than rounding. Divide sample_weight by a number, or leave out columns that don't vary or are collinear."
        )
    return start.named(source.feature_names)


def check_rank(family: str, n_features: int) -> None:
    """Raises ValueError for factor analysers of as many factors as features."""
    kind = get_family(family)
    if kind.structure.rank >= n_features:
        raise UserError(f"family {family!r} needs a rank below the {n_features} features of x: take {kind.general!r}.")


def column_scales(moments: Moments, family: str) -> np.ndarray:
    """What columns are divided by before distances: their standard deviations (D,), all alike for round components."""
    variance = column_variances(moments)
    if get_family(family).structure.isotropic:
        variance = np.full_like(variance, variance.mean())
    return np.sqrt(variance)


def seed_uniforms(key: Array, n_starts: int, n_components: int, capacity: int) -> np.ndarray:
    """One uniform variate for each seed of each start (R, capacity), zeros for padding; from a generator seeded by the key.

    Drawn on the host: compiling JAX's generator would be a tenth of a first fit's time, for a handful of numbers.
    """
    draws = np.random.default_rng(np.asarray(key_data(key)).tolist()).random((n_starts, n_components))
    return np.pad(draws, ((0, 0), (0, capacity - n_components)))


@functools.partial(jax.jit, static_argnames=("init", "family", "noisy"))
def seeded_starts(
    x: Array,
    weight: Array,
    uniforms: Float[Array, "R K"],
    centre: Float[Array, " D"],
    scales: Float[Array, " D"],
    n_components: Int[Array, " R"],
    init: str,
    family: str,
    prior: Prior | None,
    evidence: Float[Array, "N L"] | None = None,
    noisy: bool = False,
) -> GMM:
    """R starts at once, one uniform variate a seed; those of each start's components from its `n_components` on are padding.

    Every leaf of `prior` has a leading axis of starts. With evidence of rows' labels, a component with labelled rows starts
    from their mean, and these rows are its own. Where some rows are noise, those far from all seeds are left out.
    """
    weight = weight.astype(centre.dtype)
    known = None if evidence is None else _known(x, weight, centre, evidence, uniforms.shape[1])
    n_rows, block_size = rows_present(weight), short_blocks(max(1, _NUMBERS_AT_ONCE // x.shape[1]), x.shape[0])

    def place(row: Array, k: Array) -> Float[Array, "*k D"]:
        seed = x[row].astype(centre.dtype)
        return seed if known is None else jnp.where(known.some[k][..., None], known.means[k], seed)

    def squared_distance(row: Array, k: Array) -> Float[Array, " N"]:
        seed = place(row, k)
        # In blocks: XLA does not fuse the differences into their sum, so they would be a second copy of the data.
        return map_rows(lambda rows: (((rows.astype(centre.dtype) - seed) / scales) ** 2).sum(1), x, block_size, n_rows)

    def start(u: Float[Array, " K"], n: Array, own: Prior | None) -> GMM:
        unlabelled = weight if known is None else jnp.where(known.labels < 0, weight, 0)
        order = None if known is None else jnp.argsort(~known.some).astype(jnp.int32)
        seeds, labels, distance = seeds_of(u, squared_distance, unlabelled, n, init, order, noisy)
        near = weight
        if noisy:
            near = jnp.where(distance <= _FAR * _typical(distance, unlabelled), weight, 0)
        if known is not None:
            labels = jnp.where(known.labels >= 0, known.labels, labels)
            near = jnp.where(known.labels >= 0, weight, near)
        return grouped_start(x, near, labels, place(seeds, jnp.arange(u.size)), centre, n, family, own)

    return jax.vmap(start)(uniforms, n_components, prior)


class _Known(NamedTuple):
    """What evidence says of the labels.

    Attributes:
        labels: (N,), of rows that can be of one component only, -1 for others.
        some: (K,), whether a component has such rows.
        means: (K, D), of these.
    """

    labels: Int[Array, " N"]
    some: Bool[Array, " K"]
    means: Float[Array, "K D"]


def _known(x: Array, weight: Array, centre: Array, evidence: Float[Array, "N L"], n_components: int) -> _Known:
    possible = evidence > -jnp.inf
    labels = jnp.where((possible.sum(1) == 1) & (weight > 0), possible.argmax(1), -1).astype(jnp.int32)
    own = weight[:, None] * jax.nn.one_hot(labels, n_components, dtype=centre.dtype)
    counts = own.sum(0)
    sums = own.T @ (x.astype(centre.dtype) - centre)
    return _Known(labels, counts > 0, centre + sums / jnp.where(counts > 0, counts, 1)[:, None])


def seeds_of(
    uniforms: Float[Array, " K"],
    squared_distance: Callable[[Array, Array], Float[Array, " N"]],
    weight: Float[Array, " N"],
    n_components: int | Array,
    init: str,
    order: Int[Array, " K"] | None = None,
    noisy: bool = False,
) -> tuple[Int[Array, " K"], Int[Array, " N"], Float[Array, " N"]]:
    """Seed rows, drawn by inverting their cumulative mass, and the nearest seed of every row, with its squared distance.

    Args:
        uniforms: a variate for each seed.
        squared_distance: of all rows from the seed of component k, if a given row is drawn for it.
        weight: of the rows.
        n_components: those from it on are padding.
        init: "k-means++" or "random".
        order: of the components, in which their seeds are drawn; by default the first comes first.
        noisy: rows that are far from all seeds so far are no likelier to be the next than others.
    """
    capacity = uniforms.shape[0]

    def add(i: Array, carry: tuple) -> tuple:
        distance, labels, seeds, unchosen = carry
        k = i if order is None else order[i]
        far = jnp.minimum(distance, _typical(distance, weight)) if noisy else distance
        mass = weight * unchosen if init == "random" else weight * jnp.where(i > 0, far, 1)
        mass = jnp.where(mass.sum() > 0, mass, weight)  # fewer distinct rows than components
        cumulative = jnp.cumsum(mass)
        row = jnp.searchsorted(cumulative, uniforms[k] * cumulative[-1], side="right", method="compare_all")
        row = jnp.minimum(row, weight.shape[0] - 1).astype(jnp.int32)
        squared = squared_distance(row, k)
        closer = (squared < distance) & (k < n_components)
        distance, labels = jnp.where(closer, squared, distance), jnp.where(closer, k, labels)
        return distance, labels, seeds.at[k].set(row), unchosen.at[row].set(0)

    infinite = jnp.full(weight.shape, jnp.inf, weight.dtype)
    zeros = jnp.zeros(weight.shape, jnp.int32), jnp.zeros(capacity, jnp.int32)
    distance, labels, seeds, _ = lax.fori_loop(0, capacity, add, (infinite, *zeros, jnp.ones_like(infinite)))
    return seeds, labels, distance


def _typical(distance: Float[Array, " N"], weight: Float[Array, " N"]) -> Float[Array, ""]:
    """A mean of squared distances to which the far ones add little."""
    return (weight @ distance**0.25 / weight.sum()) ** 4


def grouped_start(
    x: Array,
    weight: Array,
    labels: Int[Array, " N"],
    seeds: Float[Array, "K D"],
    centre: Float[Array, " D"],
    n_components: int | Array,
    family: str,
    prior: Prior | None,
) -> GMM:
    """The mixture of the groups' shares and means, with their pooled covariance for every component."""
    capacity, n_features = seeds.shape
    kind = get_family(family)
    if kind.coarse is not None:
        return _refined(grouped_start(x, weight, labels, seeds, centre, n_components, kind.coarse, prior), kind)
    active = jnp.arange(capacity) < n_components
    statistics = assigned_statistics(kind.structure, capacity, centre, x, weight, labels, rows_present(weight))
    counts = statistics.counts
    shift = jnp.where(counts[:, None] > 0, statistics.sums / jnp.where(counts > 0, counts, 1)[:, None], 0)
    means = jnp.where(counts[:, None] > 0, centre + shift, seeds)
    within = recentre(kind.structure, statistics.scatter, statistics.sums, counts, shift)
    floored = counts + _EMPTY_SHARE * counts.sum() / n_components  # inactive ones too: their covariances must be proper
    current, own = mixture_at(capacity, centre, family).covariances, at_least_scale(prior)

    def pooled(scatter: Array) -> Array:
        return kind.refit(kind.structure.share(scatter, floored), floored, current, n_features, active, own)

    covariances = pooled(within)
    if prior is None:  # groups of one row each have no spread: they start from that of all rows
        whole = pooled(statistics.scatter)
        pivots, most = (kind.structure.pivots(kind.factor(each, n_features)) for each in (covariances, whole))
        rounding = 10 * n_features * jnp.finfo(centre.dtype).eps
        covariances = jnp.where((pivots > rounding * most).all(), covariances, whole)
    weights = jnp.where(active, floored, 0)
    return GMM.unchecked(weights / weights.sum(), jnp.where(active[:, None], means, centre), covariances, family)


def _refined(start: GMM, kind: Family) -> GMM:
    """A start in the family that `kind` starts in, as one of its own."""
    return GMM.unchecked(start.weights, start.means, kind.refined(start.covariances), kind.name)


def mixture_at(n_components: int, centre: Float[Array, " D"], family: str) -> GMM:
    """A mixture with the right shapes, everything at `centre`."""
    kind = get_family(family)
    n_features = centre.shape[0]
    eye = jnp.broadcast_to(jnp.eye(n_features, dtype=centre.dtype), (n_components, n_features, n_features))
    means = jnp.broadcast_to(centre, (n_components, n_features))
    return GMM.unchecked(jnp.full(n_components, 1 / n_components, centre.dtype), means, kind.from_dense(eye), family)


@functools.partial(jax.jit, static_argnames=("n_components", "family"))
def assigned_start(
    x: Array, weight: Array, assigned: Array, centre: Array, n_components: int, family: str, prior: Prior | None
) -> GMM:
    """The M-step of given responsibilities (N, K) or labels (N,)."""
    kind = get_family(family)
    if kind.coarse is not None:
        return _refined(assigned_start(x, weight, assigned, centre, n_components, kind.coarse, prior), kind)
    template = mixture_at(n_components, centre, family)
    structure = get_family(family).structure
    weight = weight.astype(centre.dtype)
    statistics = assigned_statistics(structure, n_components, centre, x, weight, assigned, rows_present(weight))
    return maximise(statistics, template, at_least_scale(prior), jnp.ones(n_components, bool))


def check_assigned(init: ArrayLike | Sequence[int], n_samples: int) -> tuple[np.ndarray, int]:
    """Given responsibilities or labels, checked, and the K they hold.

    Raises:
        TypeError: not numbers.
        ValueError: another number of rows; labels that aren't 0..K-1; responsibilities that aren't on the simplex.
    """
    array = np.asarray(floating(np.asarray(init), "init")) if np.ndim(init) == 2 else np.asarray(init)
    if array.ndim not in (1, 2) or array.shape[0] != n_samples:
        raise UserError(
            f"init has shape {array.shape}; (N,) labels or (N, K) responsibilities of the {n_samples} rows are needed."
        )
    if array.ndim == 1:
        if array.dtype.kind not in "iu":
            raise UserTypeError(
                f"init labels must be whole numbers, got dtype {array.dtype}: np.unique(init, return_inverse=True)[1]."
            )
        found = np.unique(array)
        if found[0] != 0 or found[-1] != found.size - 1:
            raise UserError(f"init labels must be 0..K-1 with every label used, got {found[:10].tolist()}.")
        return array.astype(np.int32), found.size
    if not np.isfinite(array).all() or (array < 0).any() or (abs(array.sum(1) - 1) > 1e-4).any():
        raise UserError("init responsibilities must be non-negative, finite, and add up to one in every row.")
    if (array.sum(0) == 0).any():
        empty = np.flatnonzero(array.sum(0) == 0).tolist()
        raise UserError(f"init responsibilities give component {empty} no rows: drop these columns.")
    return array, array.shape[1]
