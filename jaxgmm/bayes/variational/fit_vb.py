"""`fit_vb`: variational Bayes by coordinate ascent, from many starts; and draws from it for `posterior`."""

import warnings
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.bayes.variational.ascent import Ascent, posterior_of, rules_of, start_from, statistics_under
from jaxgmm.bayes.variational.result import VariationalFit
from jaxgmm.bayes.variational.weight_priors import WEIGHT_PRIORS
from jaxgmm.covariance import check_unrestricted, get_family
from jaxgmm.data import ArraySource, Source, fingerprint
from jaxgmm.data.moments import Moments
from jaxgmm.data.observed import arrange, has_gaps
from jaxgmm.data.padding import on_device, pad_rows
from jaxgmm.fitting.account import restarts_of
from jaxgmm.fitting.arguments import errors_of, names_in, resolve_init, source_of
from jaxgmm.fitting.batch import ROWS_FOR_SEEDS, TOGETHER, capacity, pad
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.priors import check_alike
from jaxgmm.fitting.seeds import column_scales, seed_uniforms
from jaxgmm.fitting.starts import starts_of_seeds
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.fitting.step import Rules
from jaxgmm.model.asking import Errors
from jaxgmm.model.default_prior import check_name, not_a_prior
from jaxgmm.model.engines import COMPLETE, assigned_statistics
from jaxgmm.model.mixture import GMM
from jaxgmm.model.observing import OBSERVING
from jaxgmm.model.prior import Prior
from jaxgmm.model.statistics import Statistics
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import rows_present
from jaxgmm.tools.hints import OF_STARTS, keywords
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps, host_only, unknown


@keywords(
    **OF_STARTS,
    weight_concentration_prior_type="weights='stick-breaking' or 'dirichlet'",
    weight_concentration_prior="prior, whose concentration is it",
)
def fit_vb(
    x: Float[ArrayLike, "N D"],
    n_components: int | None = None,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | str = "default",
    weights: str = "dirichlet",
    init: Any = "k-means++",
    n_init: int = 10,
    rtol: float = 1e-8,
    max_steps: int = 1000,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    error_covariances: Errors = None,
) -> VariationalFit:
    """Variational Bayes for a Gaussian mixture: the factorised q nearest to the posterior, and a bound of the evidence.

    Coordinate ascent (Bishop 2006, section 10.2) of ELBO = E_q[log p(x, z, weights, means, covariances) - log q], where
    q = q(z) q(weights, means, covariances). Right after the update of q(z), which is what an E-step does,
    ELBO = sum_n w_n log sum_k exp E[log pi_k + log Normal(x_n | mu_k, Sigma_k)] - KL(q(weights, means, covariances) || prior).
    Every constant is in it, so it can be compared across K, families and priors; scikit-learn's `lower_bound_` leaves out
    those that depend on N, K and the prior (#8823), and its `tied` counts each row as 1/K of one. With K = 1 q is the
    posterior, and the bound is the evidence.

    A concentration below 1 empties components that aren't needed: with K too large and 1e-3, say, `counts` tells how many
    are left (Rousseau & Mengersen 2011).

    Args:
        x: (N, D), N >= 2; an array of any float dtype, numpy or JAX, a frame, or `jaxgmm.data.Pieces`. NaN is a missing value,
            taken as missing at random: q(z) is then of these values too, each row's given its component.
        n_components: K; may be left out where `init` holds it.
        key: a PRNG key.
        family: "full", "tied", "diag" or "spherical", or by their names in mclust.
        prior: "default" (`Prior.default`), "fraley-raftery", or a `Prior`, the same for all components but for its
            concentration, which may be below 1.
        weights: "dirichlet", Dirichlet(concentration); or "stick-breaking", a Dirichlet process of that concentration, of
            which q uses the first K components.
        init: "k-means++", "random", (N, K) responsibilities, (N,) integer labels, or a GMM or Fit.
        n_init: number of starts for the named inits; the others are one start.
        rtol: stop when an update raises the bound by less than `rtol` times the total weight. 0 never stops before
            `max_steps`.
        max_steps: the most updates of a start.
        sample_weight: (N,), non-negative; 2 is a row twice, 0 no row.
        error_covariances: (N, D) or (N, D, D), of the rows' errors of measurement, as for `fit`: q(z) is then of what would
            have been measured without, too.

    Returns:
        VariationalFit. Parameters have the dtype of `x`; on a CPU all computation is in float64.

    Raises:
        TypeError: x, labels or counts that aren't numbers of the right kind; traced x.
        ValueError: any other argument that can't be used; the message names it and the way out.
        FitError: no start gave finite, consistent sums.

    Warns:
        FitWarning: the best start did not converge.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fits = [jg.fit_vb(x, k, key=jax.random.key(0), n_init=2) for k in (1, 2, 3)]
        >>> [round(fit.elbo) for fit in fits]
        [-1310, -1165, -1168]
    """
    host_only("fit_vb", x, sample_weight, error_covariances, key)
    check_key(key)
    if weights not in WEIGHT_PRIORS:
        raise unknown("weights", weights, WEIGHT_PRIORS)
    source = source_of(x, sample_weight, names_in(init))
    errors = errors_of(error_covariances, x, source)
    partly = isinstance(source, ArraySource) and (errors is not None or has_gaps(source.x))
    given, n_components, family = resolve_init(init, n_components, family, source)
    check_unrestricted(family, "fit_vb")
    n_starts = check_count(n_init, "n_init") if given is None else 1
    max_steps = check_steps(max_steps)
    check_rtol(rtol)
    _check_prior(prior, weights, n_components, source.n_features, family)
    dtype, out = precision.compute_dtype(source.like), precision.parameter_dtype(source.like)
    data_id = fingerprint(source, errors)
    step = Ascent(family, weights, OBSERVING if partly else COMPLETE)

    with precision.scope(dtype):
        data: Source = source
        if isinstance(source, ArraySource):
            data = arrange(source, errors).weighted(source.weight, dtype) if partly else on_device(source)
        moments = data.moments(get_family(family).structure.dense, dtype)
        rows = on_device(data.some_rows(key, ROWS_FOR_SEEDS))
        if isinstance(prior, str):
            prior = Prior.of_moments(prior, moments, n_components, family)
        most = capacity(n_components, data.n_samples)
        together = data.n_samples * most * n_starts <= TOGETHER or not data.traceable
        at_once = n_starts if together else 1
        uniforms = seed_uniforms(key, n_starts, n_components, most).astype(dtype)
        rules = rules_of([prior] * at_once, [n_components] * at_once, most, moments, rtol, step, dtype)
        searches = []
        for first in range(0, n_starts, at_once):
            if given is None:
                start = _seeded_start(uniforms[first : first + at_once], n_components, rows, data, moments, rules, init, family)
            else:
                start = _given_start(given, data, rules, most, family)
            searches.append(climb(start_from(start, rules.own), data, rules, max_steps, step))
        restarts = restarts_of(searches, rtol * moments.total_weight, of_bounds=True)
        batch, index = divmod(restarts.best, at_once)
        best = searches[batch]
        own, active = jax.tree.map(lambda leaf: leaf[0], rules.own)  # all starts have the same
        made_of, counts = jax.tree.map(lambda leaf: leaf[index], (best.point, best.statistics.counts))
        q = jax.tree.map(np.asarray, jax.jit(posterior_of, static_argnums=2)(own, made_of, step, active))
    fields = _without_padding(q._asdict() | {"counts": counts}, n_components, family)
    status = restarts.status[restarts.best]
    if status is not Status.converged:
        warnings.warn(f"fit_vb ended as {status.name!r}. {status.meaning}", FitWarning, stacklevel=3)
    return VariationalFit(
        **precision.as_parameters(fields, out),
        elbo=float(restarts.objective[restarts.best]),
        status=status,
        n_steps=int(restarts.n_steps[restarts.best]),
        trace=restarts.trace[restarts.best],
        restarts=restarts,
        prior=prior,
        weights=weights,
        family=family,
        fingerprint=data_id,
        feature_names=source.feature_names,
    )


def _seeded_start(
    uniforms: np.ndarray,
    n_components: int,
    rows: ArraySource,
    data: Source,
    moments: Moments,
    rules: Rules,
    init: str,
    family: str,
) -> Statistics:
    """The statistics of the E-step of mixtures whose seeds are some of the rows."""
    dtype = rules.shared.dtype
    scales, counts = column_scales(moments, family).astype(dtype), np.full(len(uniforms), n_components)
    gmms = starts_of_seeds(rows.x, rows.weight, uniforms, rules.shared, scales, counts, init, family, rules.own.prior)
    return statistics_under(gmms, data, rules.shared)


def _without_padding(leaves: dict[str, Array], n_components: int, family: str) -> dict[str, Array]:
    """The leaves of q that belong to components, cut to `n_components`."""
    shared = () if get_family(family).per_component else ("degrees_of_freedom", "scale")
    return {name: leaf if name in shared else leaf[:n_components] for name, leaf in leaves.items()}


def _check_prior(prior: Any, weights: str, n_components: int, n_features: int, family: str) -> None:
    if isinstance(prior, str):
        return check_name(prior)
    if not isinstance(prior, Prior):
        raise not_a_prior(prior)  # a bound of the evidence needs a proper, conjugate one
    prior.check_fits(GMM.unchecked(np.empty(n_components), np.empty((n_components, n_features)), np.empty(()), family))
    check_alike(prior, "fit_vb", "posterior(..., method='gibbs')")
    WEIGHT_PRIORS[weights].check(prior.concentration)


def _given_start(given: Any, data: Source, rules: Rules, capacity: int, family: str) -> Statistics:
    """The statistics of a GMM's E-step, or of given responsibilities or labels, with a leading axis of one start."""
    dtype = rules.shared.dtype
    if isinstance(given, GMM):
        gmm = jax.tree.map(lambda leaf: leaf[None], pad(given, capacity, dtype))
        return statistics_under(gmm, data, rules.shared)
    rows = data.some_rows(jax.random.key(0), data.n_samples)  # all: they are in memory, or `resolve_init` had refused
    if np.ndim(given) == 2:
        given = np.pad(given, ((0, 0), (0, capacity - given.shape[1])))
    summed = jax.jit(assigned_statistics, static_argnums=(0, 1))
    structure = get_family(family).structure
    weight = rows.weight.astype(dtype)
    given = pad_rows(given, rows.n_samples)
    statistics = summed(structure, capacity, rules.shared, rows.x, weight, given, rows_present(weight))
    return jax.tree.map(lambda leaf: leaf[None], statistics)
