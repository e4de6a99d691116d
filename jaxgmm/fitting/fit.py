"""`fit`: expectation-maximisation from many starts, for maximum a posteriori or maximum likelihood."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource, Pieces, Source, as_source, fingerprint
from jaxgmm.data.moments import rows_of_frequencies
from jaxgmm.data.observed import arrange, check_columns, check_errors, errors_in_order, has_gaps, n_missing
from jaxgmm.data.padding import on_device
from jaxgmm.fitting.account import account, in_weight, noise_share, rows_per_weight
from jaxgmm.fitting.batch import NOISE_SHARE, Given, Model, Settings, climb_models
from jaxgmm.fitting.em_step import EM
from jaxgmm.fitting.labels import all_labelled, check_labels_of_start, in_dtype, n_labelled, with_labels
from jaxgmm.fitting.noise import Noise, box_of
from jaxgmm.fitting.priors import Change, resolve_prior
from jaxgmm.fitting.result import Fit, Progress, without_rows
from jaxgmm.fitting.squarem import Squarem
from jaxgmm.fitting.starts import METHODS, check_assigned, check_rank
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.model.asking import Errors
from jaxgmm.model.coercion import Mixture, as_gmm
from jaxgmm.model.mixture import GMM
from jaxgmm.model.observing import OBSERVING
from jaxgmm.model.prior import Prior
from jaxgmm.model.steps import PARAMETERS, check_fixed
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.hints import OF_STARTS, keywords
from jaxgmm.tools.progress import OfProgress, Reporter, reporter
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps, host_only, unknown

STOPPING = ("relative", "aitken")
ACCELERATION = ("squarem",)

type Init = str | Mixture | ArrayLike | Sequence[int]


@keywords(**OF_STARTS)
def fit(
    x: Float[ArrayLike, "N D"],
    n_components: int | None = None,
    *,
    key: Array,
    family: str = "full",
    prior: Prior | Change | str | None = "default",
    init: Init = "k-means++",
    n_init: int = 10,
    rtol: float = 1e-8,
    max_steps: int = 500,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    error_covariances: Errors = None,
    labels: ArrayLike | None = None,
    noise: bool | Float[ArrayLike, " D"] = False,
    fixed: Sequence[str] = (),
    stopping: str = "relative",
    acceleration: str | None = None,
    callback: Callable[[Progress], None] | None = None,
    progress: OfProgress = "auto",
) -> Fit:
    """Fit a Gaussian mixture by EM: the maximum a posteriori mixture, or the maximum likelihood one with `prior=None`.

    Each start climbs sum_n w_n log p(x_n) + log p(weights, means, covariances) until a step gains less than `rtol` nats per
    unit of weight; the best start is kept. The prior is what keeps covariances from going singular: without it the
    likelihood has no maximum, and a start that falls into such a hole ends as `Status.collapsed`, at its last finite point.

    Args:
        x: (N, D), N >= 2; an array of any float dtype, numpy or JAX, or a frame of pandas, polars, pyarrow or xarray, whose
            column names the mixture keeps; or `jaxgmm.data.Pieces`. With a GMM that has names as `init`, columns are put in its
            order. NaN is a missing value, taken as missing at random: EM is exact, whatever the pattern (Little & Rubin 2002).
        n_components: K; may be left out where `init` holds it.
        key: a PRNG key, `jax.random.key(seed)`.
        family: "full", "tied", "diag", "spherical", or any of mclust's fourteen, such as "VEV"; or "factors:5", factor
            analysers of rank 5, for many features. With a GMM as `init`, its family is the default.
        prior: "default" (`Prior.default`), "fraley-raftery", a `Prior`, None for maximum likelihood, or a function that makes
            the prior of the default one: `lambda prior: dataclasses.replace(prior, mean_precision=np.float64(0.1))`.
        init: "k-means++", "random", (N, K) responsibilities, (N,) integer labels, or a GMM or a Fit (a warm start).
        n_init: number of starts for the named inits; the others are one start.
        rtol: stop when a step changes the objective by less than `rtol` times the total weight (nats per row: the one measure
            of relative change that units of the data can't alter). 0 never stops before `max_steps`.
        max_steps: the most EM steps of a start.
        sample_weight: (N,), non-negative; 2 is a row twice, 0 no row. Weights that add up to 1 are frequencies: the default
            prior is one of as many rows as have some, and what is reported is in nats of the weights as given.
        error_covariances: (N, D) variances or (N, D, D) covariances of the rows' errors of measurement, in squared units: the
            mixture is that of the rows without errors (extreme deconvolution; Bovy, Hogg & Roweis 2011). The default prior and
            the starts are made of the rows as they are.
        labels: (N,), the components of rows where they are known, -1 where they aren't; or (N, K), p(what is known of a row's
            label given component k), which multiplies the component's density (Come et al. 2009), ones where nothing is.
            Components start from the rows that can be of no other; one start will do where each has some. A row of which
            something is known is no noise.
        noise: True for a component besides the Gaussians that is uniform over the box of the rows, or (D,) widths of a box:
            outliers are its own then (Banfield & Raftery 1993). Its share has a uniform prior. `Fit.noise` has it.
        fixed: parameters to keep at the values of a GMM given as `init`: of "weights", "means", "covariances". Exact.
        stopping: "relative", or "aitken": what a geometric series of gains still promises, instead of the last gain, falls
            below `rtol` (Boehning et al. 1994).
        acceleration: None, or "squarem": extrapolates every second step, and takes it back where the objective falls
            (Varadhan & Roland 2008, scheme S3).
        callback: called with `Progress` now and then in a long fit.
        progress: True, a progress bar; "auto", one in a terminal or in Jupyter that appears after two seconds, where there
            is no `callback`; or a function that is called with (steps of the starts at work, the most they may take).

    Returns:
        Fit. Parameters have the dtype of `x`; on a CPU all computation is in float64.

    Raises:
        TypeError: x, labels or counts that aren't numbers of the right kind; traced x.
        ValueError: any other argument that can't be used; the message names it and the way out.
        FitError: no start gave finite, consistent sums, or (without a prior) a mixture that has a density.

    Warns:
        FitWarning: the best start did not converge; or components have no rows (`Fit.empty`), so K is more than x can tell.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> fit.status.name, sorted(fit.gmm.weights.round(2).tolist())
        ('converged', [0.36, 0.64])
    """
    host_only("fit", x, sample_weight, error_covariances, labels, noise, key, instead="; e_step and m_step work inside")
    check_key(key)
    source = _source_of(x, sample_weight, names_in(init))
    errors = errors_of(error_covariances, x, source)
    given, n_components, family = resolve_init(init, n_components, family, source)
    if isinstance(source, ArraySource):
        check_columns(source, np.asarray(source.weight) > 0)
    source, box, held = with_labels(source, labels, n_components), box_of(noise, source), noise_in(init)
    if held is not None and box is None:
        raise UserError("init is a fit with noise: pass noise=True, too, or init=fit.gmm, to go on without.")
    check_labels_of_start(source, given)
    n_starts = check_count(n_init, "n_init")
    if given is not None or all_labelled(source):
        n_starts = 1
    max_steps = check_steps(max_steps)
    step = step_of(check_fixed(fixed), stopping, acceleration, given, left=box is not None)
    partly = isinstance(source, ArraySource) and (errors is not None or has_gaps(source.x))
    check_family(family, source.n_features, partly)
    if partly:
        step = dataclasses.replace(step, engine=OBSERVING)
    check_rtol(rtol)
    dtype, out = precision.compute_dtype(source.like), precision.parameter_dtype(source.like)

    log_widths = None if box is None else box.log_widths
    share = NOISE_SHARE if held is None else float(np.clip(held.weight, 1e-3, 1 - 1e-3))
    settings = Settings(family, init if isinstance(init, str) else "", n_starts, rtol, max_steps, step, log_widths, share)
    data_id = fingerprint(source, errors, None if labels is None else np.asarray(labels))
    rows = rows_per_weight(prior, source)
    watched = False if callback is not None and progress == "auto" else progress
    with precision.scope(dtype), reporter(watched, "fit") as report:
        data: Source = source
        if isinstance(source, ArraySource):
            source = in_dtype(source, dtype)
            source = source if rows == 1 else dataclasses.replace(source, weight=source.weight * rows)
            data = arrange(source, errors).weighted(source.weight, dtype) if partly else on_device(source)
        moments = data.moments(get_family(family).structure.dense, dtype)
        model = Model(n_components, resolve_prior(prior, moments, n_components, family), key)
        (search,) = climb_models([model], data, moments, settings, dtype, given, _told(callback, report))
    fitted = in_weight(account(search, model, settings, source, out, data_id), rows)
    fitted = dataclasses.replace(
        fitted,
        n_missing=n_missing(source),
        with_errors=errors is not None,
        n_labelled=n_labelled(source),
        noise=None if box is None else dataclasses.replace(box, weight=noise_share(search, fitted)),
    )
    if not fitted.converged:
        warnings.warn(f"fit ended as {fitted.status.name!r}. {fitted.status.meaning}", FitWarning, stacklevel=3)
    if fitted.empty.any() and fitted.status is not Status.collapsed:  # which says it in its own words
        warnings.warn(f"{without_rows(fitted)} (fit.empty). Use fewer components.", FitWarning, stacklevel=3)
    return fitted


def _told(callback: Callable[[Progress], None] | None, report: Reporter | None) -> Callable[[Progress], None] | None:
    """Whom the loop tells of its progress: a bar and the caller's function, if there are any."""
    if report is None:
        return callback

    def tell(now: Progress) -> None:
        report.say(f"start {now.start} of {now.n_starts}, objective {now.objective:.8g}")
        report(now.n_steps, now.max_steps)
        if callback is not None:
            callback(now)

    return tell


def noise_in(init: object) -> Noise | None:
    """The noise that a start holds: a fit may."""
    return init.noise if isinstance(init, Fit) else None


def names_in(init: object) -> tuple[str, ...] | None:
    """The features' names that a start knows: a mixture does."""
    return as_gmm(init).feature_names if isinstance(init, Mixture) else None


def errors_of(error_covariances: Errors, x: object, source: Source) -> np.ndarray | None:
    """The errors of rows in memory, checked, with features in the order of the source's."""
    if error_covariances is None:
        return None
    if not isinstance(source, ArraySource):
        raise UserError("error_covariances are given, but x comes in pieces, which have none: put the rows together.")
    in_order = errors_in_order(error_covariances, x, source.feature_names)
    return check_errors(in_order, source.x, np.asarray(source.weight) > 0)


def _source_of(x: object, sample_weight: Float[ArrayLike, " N"] | None, names: tuple[str, ...] | None) -> Source:
    """Rows in memory or in pieces, checked; with the columns in the order of `names`, if they are known."""
    if not isinstance(x, Pieces):
        return as_source(x, sample_weight, min_rows=2, feature_names=names, missing=True)
    if sample_weight is not None:
        raise UserError("sample_weight is given, but x comes in pieces, each of which has its own: (rows, weights).")
    pieces = x if names is None else dataclasses.replace(x, names=names)
    if pieces.n_present < 2:
        raise UserError(f"x has {pieces.n_present} row of positive weight, but at least 2 are needed to estimate a covariance.")
    if rows_of_frequencies(pieces.total_weight, pieces.n_present) != 1:
        raise UserError("the weights of x, which comes in pieces, add up to 1: multiply them by the number of rows.")
    return pieces


def resolve_init(init: Init, n_components: int | None, family: str, source: Source) -> tuple[Given, int, str]:
    """The given start (None for a named method), K and the family."""
    family = get_family(family).name
    if n_components is not None:
        n_components = check_count(n_components, "n_components")
    if isinstance(init, Mixture):
        init = as_gmm(init)
    if isinstance(init, str):
        if init not in METHODS:
            raise unknown("init", init, METHODS)
        if n_components is None:
            raise UserError(
                f"n_components is needed with init={init!r}; only init=responsibilities, init=labels or a GMM hold it."
            )
        check_rows_for(n_components, source.n_present)
        return None, n_components, family
    if isinstance(init, GMM):
        if init.weights.ndim != 1:
            raise UserError(f"init is a GMM with leading axes {init.weights.shape[:-1]}; one mixture is needed.")
        if init.n_features != source.n_features:
            raise UserError(f"init is a GMM of {init.n_features} features, but x has {source.n_features} columns.")
        if family not in ("full", init.family):
            raise UserError(f"family is {family!r}, but init is a GMM of family {init.family!r}: leave family out.")
        given: Given = init
        held, family = init.n_components, init.family
    elif not isinstance(source, ArraySource):
        raise UserError("init is labels or responsibilities, but x comes in pieces: give a GMM, or the name of a way to start.")
    else:
        given, held = check_assigned(init, source.n_samples)
    if n_components not in (None, held):
        raise UserError(f"n_components is {n_components}, but init holds {held} components: leave n_components out.")
    check_rows_for(held, source.n_present)
    return given, held, family


def check_family(family: str, n_features: int, partly: bool = False) -> None:
    """Raises ValueError where a family can't be fitted to so many features, or to rows that weren't seen wholly."""
    kind = get_family(family)
    if kind.structure.rank and partly:
        raise UserError(f"family {family!r} takes rows that were seen wholly, without errors: take {kind.general!r}.")
    check_rank(family, n_features)


def check_rows_for(n_components: int, n_rows: int) -> None:
    """Raises ValueError where there are more components than rows of positive weight."""
    if n_components > n_rows:
        raise UserError(
            f"n_components is {n_components}, but x has {n_rows} rows of positive weight, and a component without a row is "
            "nothing but its prior. Use fewer components."
        )


def step_of(fixed: tuple[str, ...], stopping: str, acceleration: str | None, given: Given, *, left: bool = False) -> EM:
    """The loop's step; `left` says that something besides the parameters is to be fitted.

    Raises:
        ValueError: arguments that can't be used, alone or with this start.
    """
    if stopping not in STOPPING:
        raise unknown("stopping", stopping, STOPPING)
    if acceleration is not None and acceleration not in ACCELERATION:
        raise unknown("acceleration", acceleration, ACCELERATION)
    if acceleration and stopping == "aitken":
        raise UserError("stopping='aitken' needs successive plain EM steps: use acceleration=None, or stopping='relative'.")
    if fixed and not isinstance(given, GMM):
        raise UserError(f"fixed={fixed!r} keeps values of the start, so init must be a GMM that holds them.")
    if len(fixed) == len(PARAMETERS) and not left:
        raise UserError("fixed names all three parameters: nothing is left to fit.")
    return (Squarem if acceleration else EM)(fixed, stopping)
