"""Starting points: mixtures of rows that are grouped around seeds, or that come with responsibilities or labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgmm.covariance import Family, get_family
from jaxgmm.data import as_source
from jaxgmm.data.moments import column_moments
from jaxgmm.data.padding import on_device
from jaxgmm.fitting.priors import check_alike
from jaxgmm.fitting.seeds import METHODS, Groups, column_scales, groups_on_host, known_of, seed_uniforms, seeds_of, typical
from jaxgmm.model.engines import assigned_statistics
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, at_least_scale
from jaxgmm.model.statistics import recentre
from jaxgmm.model.steps import maximise
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import map_rows, rows_present, short_blocks
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_count, check_key, host_only, unknown

_FAR = 9.0  # times the typical squared distance from a seed, beyond which a row may be noise
_EMPTY_SHARE = 1e-3  # weight, in shares of 1/K, that a component without rows starts from
_NUMBERS_ON_HOST, _FEATURES_ON_HOST = 1 << 22, 16  # entries of the rows, once for each seed; features whose products are few
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
    check_alike(prior, "initialise")
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
        gmms = starts_of_seeds(data.x, data.weight, uniforms, moments.mean, scales, counts, init, family, each)
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


def starts_of_seeds(
    x: Array,
    weight: Array,
    uniforms: Float[np.ndarray, "R K"],
    centre: Float[ArrayLike, " D"],
    scales: Float[np.ndarray, " D"],
    n_components: Int[np.ndarray, " R"],
    init: str,
    family: str,
    prior: Prior | None,
    evidence: Float[Array, "N L"] | None = None,
    noisy: bool = False,
) -> GMM:
    """R starts; arguments as for `seeded_starts`. Few rows are grouped on the host: that takes less than compiling it."""
    kind, few = get_family(family), uniforms.size * x.size <= _NUMBERS_ON_HOST and x.shape[1] <= _FEATURES_ON_HOST
    own = evidence is None and not noisy and uniforms.dtype == np.float64
    if not (few and own and precision.platform(x) == "cpu" and getattr(x, "is_fully_addressable", True)):
        return seeded_starts(x, weight, uniforms, centre, scales, n_components, init, family, prior, evidence, noisy)
    rows, weights, middle = (np.asarray(a, float) for a in (x, weight, centre))
    structure = (kind if kind.coarse is None else get_family(kind.coarse)).structure
    groups = groups_on_host(rows, weights, uniforms, middle, scales, n_components, init, structure)
    return grouped_starts(groups, middle, n_components, family, prior)


@functools.partial(jax.jit, static_argnames="family")
def grouped_starts(
    groups: Groups, centre: Float[Array, " D"], n_components: Int[Array, " R"], family: str, prior: Prior | None
) -> GMM:
    """R starts of R groupings of rows; every leaf of `prior` has a leading axis of starts, too."""
    return jax.vmap(lambda own, n, prior: start_of_groups(own, centre, n, family, prior))(groups, n_components, prior)


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
    known = None if evidence is None else known_of(x, weight, centre, evidence, uniforms.shape[1])
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
            near = jnp.where(distance <= _FAR * typical(distance, unlabelled), weight, 0)
        if known is not None:
            labels = jnp.where(known.labels >= 0, known.labels, labels)
            near = jnp.where(known.labels >= 0, weight, near)
        return grouped_start(x, near, labels, place(seeds, jnp.arange(u.size)), centre, n, family, own)

    return jax.vmap(start)(uniforms, n_components, prior)


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
    """`start_of_groups`, of rows that have labels."""
    kind, n_rows = get_family(family), rows_present(weight)
    structure = (kind if kind.coarse is None else get_family(kind.coarse)).structure
    statistics = assigned_statistics(structure, len(seeds), centre, x, weight, labels, n_rows)
    groups = Groups(statistics.counts, statistics.sums, statistics.scatter, seeds)
    return start_of_groups(groups, centre, n_components, family, prior)


def start_of_groups(
    groups: Groups, centre: Float[Array, " D"], n_components: int | Array, family: str, prior: Prior | None
) -> GMM:
    """The mixture of the groups' shares and means, with their pooled covariance for every component."""
    capacity, n_features = groups.seeds.shape
    kind = get_family(family)
    if kind.coarse is not None:
        return _refined(start_of_groups(groups, centre, n_components, kind.coarse, prior), kind)
    active = jnp.arange(capacity) < n_components
    counts = groups.counts
    shift = jnp.where(counts[:, None] > 0, groups.sums / jnp.where(counts > 0, counts, 1)[:, None], 0)
    means = jnp.where(counts[:, None] > 0, centre + shift, groups.seeds)
    within = recentre(kind.structure, groups.scatter, groups.sums, counts, shift)
    floored = counts + _EMPTY_SHARE * counts.sum() / n_components  # inactive ones too: their covariances must be proper
    current, own = mixture_at(capacity, centre, family).covariances, at_least_scale(prior)

    def pooled(scatter: Array) -> Array:
        return kind.refit(kind.structure.share(scatter, floored), floored, current, n_features, active, own)

    covariances = pooled(within)
    if prior is None:  # groups of one row each have no spread: they start from that of all rows
        whole = pooled(groups.scatter)
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
