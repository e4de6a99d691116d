"""`fit`: expectation-maximisation from many starts, for maximum a posteriori or maximum likelihood."""

import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource, Source, fingerprint
from jaxgmm.data.alike import alike
from jaxgmm.data.observed import arrange, check_columns, has_gaps, n_missing
from jaxgmm.data.padding import on_device
from jaxgmm.fitting.account import account, in_weight, rows_per_weight, with_noise
from jaxgmm.fitting.arguments import (
    Init,
    censored_of,
    check_family,
    check_truncate,
    errors_of,
    names_in,
    noise_in,
    resolve_init,
    source_of,
    step_of,
)
from jaxgmm.fitting.batch import NOISE_SHARE, Given, Model, Settings, climb_models
from jaxgmm.fitting.checkpoint import Checkpoint
from jaxgmm.fitting.labels import all_labelled, check_labels_of_start, in_dtype, n_labelled, with_labels
from jaxgmm.fitting.noise import box_of, check_room
from jaxgmm.fitting.priors import Change, resolve_prior
from jaxgmm.fitting.pruned_step import pruned
from jaxgmm.fitting.result import Fit, Progress, without_rows
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.model.asking import Censored, Errors
from jaxgmm.model.holding import Fixed, check_fixed
from jaxgmm.model.mixture import GMM
from jaxgmm.model.observing import OBSERVING
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.hints import OF_STARTS, keywords
from jaxgmm.tools.keeping import check_keeping
from jaxgmm.tools.progress import OfProgress, Reporter, reporter
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import check_count, check_key, check_path, check_rtol, check_steps, host_only, key_data


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
    censored: Censored = None,
    labels: ArrayLike | None = None,
    noise: bool | Float[ArrayLike, " D"] = False,
    fixed: Fixed = (),
    stopping: str = "relative",
    acceleration: str | None = "auto",
    truncate: float = 0.0,
    callback: Callable[[Progress], None] | None = None,
    progress: OfProgress = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    keep_checkpoint: bool = False,
) -> Fit:
    """Fit a Gaussian mixture by EM: the maximum a posteriori mixture, or the maximum likelihood one with `prior=None`.

    Each start climbs sum_n w_n log p(x_n) + log p(weights, means, covariances) until a step gains less than `rtol` nats per
    unit of weight; the best start is kept. The prior is what keeps covariances from going singular: without it the
    likelihood has no maximum, and a start that falls into such a hole ends as `Status.collapsed`, at its last finite point.

    Args:
        x: (N, D), N >= 2; an array of any float dtype, numpy or JAX, or a frame of pandas, polars, pyarrow or xarray, whose
            column names the mixture keeps; `jaxgmm.data.Pieces` or `Processes`; or a JAX array whose rows are sharded over a
            mesh. With a GMM that has names as `init`, columns are put in its
            order. NaN is a missing value, taken as missing at random: EM is exact, whatever the pattern (Little & Rubin 2002).
        n_components: K; may be left out where `init` holds it.
        key: a PRNG key, `jax.random.key(seed)`.
        family: "full", "tied", "diag", "spherical", or any of mclust's fourteen, such as "VEV"; or "factors:5", factor
            analysers of rank 5, for many features. With a GMM as `init`, its family is the default.
        prior: "default" (`Prior.default`), "fraley-raftery", a `Prior`, None for maximum likelihood, or a function that makes
            the prior of the default one: `lambda prior: dataclasses.replace(prior, mean_precision=np.float64(0.1))`. Where
            it differs between components, starts are put in the order that it likes best, and the last of several begins where
            it expects them; what `init` numbers stays as it is.
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
        censored: (N, D), -1 where x is an upper limit (a non-detection; left-censored), 1 where it is a lower limit, 0 where it
            is what was measured. EM is exact: the E-step has the probability and the moments of the normal beyond the limit,
            given the row's other values (Lee & Scott 2012). Limits are of what is measured: of the truth plus its error, where
            there are `error_covariances`. In families with correlations a row may have one limit, in others any number, and
            no value. The default prior and the starts take limits as values. Where limits lie may depend on anything but what
            is beyond them; without a prior, a component of whose values of a feature all are limits has no maximum.
        labels: (N,), the components of rows where they are known, -1 where they aren't; or (N, K), p(what is known of a row's
            label given component k), which multiplies the component's density (Come et al. 2009), ones where nothing is.
            Components start from the rows that can be of no other; one start will do where each has some. A row of which
            something is known is no noise.
        noise: True for a component besides the Gaussians that is uniform over the box of the rows, or (D,) widths of a box:
            outliers are its own then (Banfield & Raftery 1993). Its share has a uniform prior. `Fit.noise` has it. A limit has
            the probability that the box puts beyond it, so no box may end there: give widths where limits are extremes.
        fixed: what to keep at the values of a GMM given as `init`: names, of "weights", "means", "covariances"; or a mapping
            from names to components, `{"means": [0, 2], "weights": "all"}`: their numbers, (K,) flags, or "all". Each step is
            the exact maximum over the rest; weights that aren't held share what the held ones leave. `{"weights": "equal"}`
            holds them at 1 / K, whatever they were, and needs no GMM. With noise, weights are those of the mixture beside it.
        stopping: "relative", or "aitken": what a geometric series of gains still promises, instead of the last gain, falls
            below `rtol` (Boehning et al. 1994).
        acceleration: "squarem" extrapolates every second step, and takes it back where the objective falls (Varadhan & Roland
            2008, scheme S3): fewer steps, to the same optima. None, plain EM. "auto", the first above 2048 rows, where a fit
            takes longer than the third of a second more that it is to compile, unless `stopping` is "aitken".
        truncate: with hundreds of components, 1e-9, say: rows are put in order, and blocks of them are summed for those that
            matter there. Bounds prove that those left out have at most this share of the density of any of the rows: the
            log-likelihood is low by at most some `truncate` nats a row. For complete rows in memory, on a CPU.
        callback: called with `Progress` now and then in a long fit.
        progress: True, a progress bar; "auto", one in a terminal or in Jupyter that appears after two seconds, where there
            is no `callback`; or a function that is called with (steps of the starts at work, the most they may take).
        checkpoint: directory that keeps an unfinished fit, every few seconds; removed when it has ended.
        resume: continue the fit in `checkpoint`, to the numbers of an uninterrupted one. It starts from the beginning where
            nothing is kept.
        keep_checkpoint: don't remove `checkpoint`.

    Returns:
        Fit. Parameters have the dtype of `x`; on a CPU all computation is in float64. Ctrl-C ends a fit without a checkpoint
        with the best so far, `Status.interrupted`.

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
    host_only(
        "fit", x, sample_weight, error_covariances, censored, labels, noise, key, instead="; e_step and m_step work inside"
    )
    check_keeping(checkpoint, resume, keep_checkpoint)
    check_key(key)
    source = source_of(x, sample_weight, names_in(init))
    errors = errors_of(error_covariances, x, source)
    given, n_components, family = resolve_init(init, n_components, family, source)
    if isinstance(source, ArraySource):
        check_columns(source, np.asarray(source.weight) > 0)
    sides = censored_of(censored, x, source, errors, family)
    box, held = box_of(noise, source), noise_in(init)
    check_room(box, source, sides)
    source = with_labels(source, labels, n_components, beside_noise=box is not None)
    if held is not None and box is None:
        raise UserError("init is a fit with noise: pass noise=True, too, or init=fit.gmm, to go on without.")
    check_labels_of_start(source, given)
    n_starts = check_count(n_init, "n_init")
    if given is not None or all_labelled(source):
        n_starts = 1
    max_steps = check_steps(max_steps)
    held_parts = check_fixed(fixed, n_components, family)
    given = held_parts.of(given) if isinstance(given, GMM) else given
    step = step_of(held_parts, stopping, acceleration, given, source.n_present, left=box is not None)
    partly = isinstance(source, ArraySource) and (errors is not None or sides is not None or has_gaps(source.x))
    check_family(family, source.n_features, partly)
    if partly:
        step = dataclasses.replace(step, engine=OBSERVING)
    check_rtol(rtol)
    dtype, out = precision.compute_dtype(source.like), precision.parameter_dtype(source.like)
    others = {"error_covariances": errors is not None, "censored": sides is not None, "gaps": partly}
    others |= {"labels": labels is not None, "noise": box is not None}
    truncate = check_truncate(truncate, family, source, dtype, others)
    if truncate:
        step = pruned(step, truncate, source.n_samples)

    log_widths = None if box is None else box.log_widths
    share = NOISE_SHARE if held is None else float(np.clip(held.weight, 1e-3, 1 - 1e-3))
    settings = Settings(
        family, init if isinstance(init, str) else "", n_starts, float(rtol), max_steps, step, log_widths, share
    )
    data_id = fingerprint(source, errors, None if labels is None else np.asarray(labels), sides)
    rows = rows_per_weight(prior, source)
    watched = False if callback is not None and progress == "auto" else progress
    with precision.scope(dtype), reporter(watched, "fit") as report:
        data: Source = source
        if isinstance(source, ArraySource):
            source = in_dtype(source, dtype)
            source = source if rows == 1 else dataclasses.replace(source, weight=source.weight * rows)
            if truncate:
                data = alike(source, n_components)
            else:
                corners = None if box is None else box.box
                data = arrange(source, errors, sides, corners).weighted(source.weight, dtype) if partly else on_device(source)
        moments = data.moments(get_family(family).structure.dense, dtype)
        model = Model(n_components, resolve_prior(prior, moments, n_components, family), key)
        kept = None
        if checkpoint is not None:
            place, signature = check_path(checkpoint, "checkpoint"), _signature(data_id, model, settings, given)
            kept = Checkpoint(place, resume, signature, shared=data.shared)
        told = _told(callback, report, data.n_samples)
        how: Any = {"checkpoint": kept, "stoppable": kept is None}
        (search,) = climb_models([model], data, moments, settings, dtype, given, told, **how)
    fitted = in_weight(account(search, model, settings, source, out, data_id), rows)
    fitted = dataclasses.replace(
        fitted,
        n_missing=n_missing(source),
        n_censored=0 if sides is None else int((sides != 0).sum()),
        with_errors=errors is not None,
        n_labelled=n_labelled(source),
    )
    if isinstance(given, GMM):
        fitted = dataclasses.replace(fitted, gmm=step.fixed.put_back(fitted.gmm, given))
    elif step.fixed:
        fitted = dataclasses.replace(fitted, gmm=step.fixed.of(fitted.gmm))
    fitted = fitted if box is None else with_noise(fitted, search, box)
    if kept is not None and not keep_checkpoint:
        kept.forget()
    if Status.interrupted in fitted.restarts.status and fitted.status is not Status.interrupted:
        done = sum(status is not Status.interrupted for status in fitted.restarts.status)
        message = f"fit was interrupted when {done} of {n_starts} starts had ended: it is the best of them."
        warnings.warn(message, FitWarning, stacklevel=3)
    elif not fitted.converged:
        warnings.warn(f"fit ended as {fitted.status.name!r}. {fitted.status.meaning}", FitWarning, stacklevel=3)
    if fitted.empty.any() and fitted.status is not Status.collapsed:  # which says it in its own words
        warnings.warn(f"{without_rows(fitted)} (fit.empty). Use fewer components.", FitWarning, stacklevel=3)
    return fitted


def _signature(data: str, model: Model, settings: Settings, given: Given) -> Facts:
    """What must agree for a fit to go on from its checkpoint."""

    def facts(tree: object) -> str:
        return hashlib.blake2b(repr([np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]).encode()).hexdigest()[:16]

    own = settings._asdict() | {"step": repr(settings.step), "log_widths": facts(settings.log_widths)}
    key = np.asarray(key_data(model.key)).tolist()
    return own | {
        "data": data,
        "n_components": model.n_components,
        "key": key,
        "prior": facts(model.prior),
        "start": facts(given),
    }


def _told(
    callback: Callable[[Progress], None] | None, report: Reporter | None, n_samples: int
) -> Callable[[Progress], None] | None:
    """Whom the loop tells of its progress: a bar and the caller's function, if there are any."""
    if report is None:
        return callback
    since, before = time.perf_counter(), 0

    def tell(now: Progress) -> None:
        nonlocal since, before
        at = time.perf_counter()
        rate = "" if now.n_steps <= before else f", {n_samples * (now.n_steps - before) / (at - since):.2g} rows/s"
        since, before = at, now.n_steps
        report.say(f"start {now.start} of {now.n_starts}, objective {now.objective:.8g}{rate}")
        report(now.n_steps, now.max_steps)
        if callback is not None:
            callback(now)

    return tell
