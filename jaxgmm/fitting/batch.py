"""Models of one family, with different numbers of components, fitted to the same rows as one compiled batch.

`fit` is the case of one model. A batch holds the starts of all its models, one after the other; components that a model
doesn't have are padding of weight zero.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxgmm.covariance import Family, get_family
from jaxgmm.data import Source
from jaxgmm.data.moments import Moments
from jaxgmm.data.padding import on_device, pad_rows
from jaxgmm.fitting.checkpoint import Checkpoint
from jaxgmm.fitting.em_step import EM, EMRules, Own, Shared, with_share
from jaxgmm.fitting.loop import climb
from jaxgmm.fitting.ordering import Order, climb_in_order, differs, expected_start, places_of, without_differences
from jaxgmm.fitting.priors import padded_prior
from jaxgmm.fitting.result import Progress
from jaxgmm.fitting.seeds import column_scales, seed_uniforms
from jaxgmm.fitting.starts import assigned_start, starts_of_seeds
from jaxgmm.fitting.status import Status
from jaxgmm.fitting.step import Rules, Search
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior, log_normaliser
from jaxgmm.tools.types import on_host

TOGETHER = 1 << 21  # responsibilities up to which restarts run as one batch; with more, they run in turn
ROWS_FOR_SEEDS = 1 << 14  # of data that come in pieces; starts from all would end no higher (README has the numbers)
_PADDED = 1 << 16  # responsibilities up to which K is padded to a multiple of four, to share compilations

NOISE_SHARE = 0.1  # that starts have, unless they hold one

type Given = GMM | np.ndarray | None  # a start instead of seeds: a mixture, (N, K) responsibilities or (N,) labels


class Model(NamedTuple):
    """What is fitted: K, the prior (None for maximum likelihood) and the key of the random starts."""

    n_components: int
    prior: Prior | None
    key: Array


class Settings(NamedTuple):
    """How the models of a batch are fitted; as the arguments of `fit`, checked."""

    family: str
    init: str
    n_init: int
    rtol: float
    max_steps: int
    step: EM = EM()
    log_widths: np.ndarray | None = None  # (D,), of the box of the noise
    noise_share: float = NOISE_SHARE  # that starts have


def model_key(key: Array, family: str, n_components: int) -> Array:
    """The key of one model among many: it does not depend on which the others are."""
    name = np.uint32(zlib.crc32(get_family(family).name.encode()))
    return jax.random.fold_in(jax.random.fold_in(key, name), n_components)


def climb_models(
    models: Sequence[Model],
    data: Source,
    moments: Moments,
    settings: Settings,
    dtype: np.dtype,
    given: Given = None,
    callback: Callable[[Progress], None] | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    stoppable: bool = False,
) -> list[Search]:
    """All starts of all models, to their end; for each model, its starts on the host.

    Args:
        models: of one family.
        data: the rows, on the device.
        moments: of the rows, from `column_moments`.
        settings: what the models share.
        dtype: to compute in.
        given: instead of seeded starts, for one model: a GMM, responsibilities or labels.
        callback: told of the progress.
        checkpoint: of one model.
        stoppable: a KeyboardInterrupt ends the starts of one model with what there is.
    """
    n_starts, counts = settings.n_init if given is None else 1, [model.n_components for model in models]
    total = len(models) * n_starts
    if len(models) > 1 and data.traceable and data.n_samples * max(counts) * total > TOGETHER:
        return [search for model in models for search in climb_models([model], data, moments, settings, dtype, None, callback)]
    most = max(counts) if len(models) > 1 else capacity(counts[0], data.n_samples)
    rules = rules_of(models, moments, _active(counts, most, given), settings, dtype)
    starts, order = _starts(models, data, moments, rules, settings, n_starts, given, dtype)
    together = data.n_samples * most * total <= TOGETHER or not data.traceable  # a pass over pieces is what takes long
    at_once = total if together else 1
    searches = []
    for first in range(0, total, at_once):
        part = slice(first, first + at_once)
        own = _repeat(rules, n_starts, part)
        report = None if callback is None else _reporter(callback, min(first + at_once, total), total, settings.max_steps)
        keep = None if checkpoint is None else checkpoint.part(first)
        try:
            begin = starts(part, own)
            begin = settings.step.fixed.of(begin)
            if settings.log_widths is not None:
                begin = with_share(begin, jnp.full(begin.weights.shape[0], 1 - settings.noise_share, dtype))
            how: Any = {"report": report, "keep": keep, "stoppable": stoppable}
            if order is None:
                found = climb(begin, data, own, settings.max_steps, settings.step, **how)
            else:
                found = climb_in_order(begin, order(part), data, own, settings.max_steps, settings.step, **how)
            searches.append(found._replace(statistics=found.statistics.plain()))
        except KeyboardInterrupt as stop:  # before it has found anything
            if not stoppable or data.shared or type(stop) is not KeyboardInterrupt or not searches:
                raise
            searches.append(_not_begun(searches[-1]))
        if (np.asarray(searches[-1].status) == Status.interrupted).any():
            break
    if at_once == 1:  # one model, whose starts ran in turn
        return [jax.tree.map(lambda *leaves: np.concatenate(leaves), *searches)]
    parts = [slice(first, first + n_starts) for first in range(0, total, n_starts)]
    return [jax.tree.map(lambda leaf, part=part: leaf[part], searches[0]) for part in parts]


def _not_begun(like: Search) -> Search:
    """A start that found nothing, since it was interrupted."""
    nothing, status = np.full_like(like.objective, -np.inf), np.full_like(like.status, Status.interrupted)
    steps, trace = np.zeros_like(like.n_steps), np.full_like(like.trace, -np.inf)
    return like._replace(objective=on_host(nothing), status=on_host(status), n_steps=on_host(steps), trace=on_host(trace))


def _active(counts: Sequence[int], most: int, given: Given) -> np.ndarray:
    """(models, K), which components take part."""
    active = np.arange(most) < np.array(counts)[:, None]
    if isinstance(given, GMM):
        active[0, : given.n_components] &= np.asarray(given.weights) > 0
    return active


def _starts(
    models: Sequence[Model],
    data: Source,
    moments: Moments,
    rules: EMRules,
    settings: Settings,
    n_starts: int,
    given: Given,
    dtype: np.dtype,
) -> tuple[Callable[[slice, EMRules], GMM], Callable[[slice], Order] | None]:
    """What makes a part of the starts, under its rules: of seeds, `n_starts` a model, or of what is given; and their order."""
    most = np.shape(rules.own.active)[1]
    if given is not None:  # its numbers stay
        return lambda part, rules: _given_start(given, data, rules, models[0], most, settings.family, dtype), None
    rows = on_device(data.some_rows(models[0].key, ROWS_FOR_SEEDS))
    scales = column_scales(moments, settings.family).astype(dtype)
    seeds = [seed_uniforms(model.key, n_starts, model.n_components, most).astype(dtype) for model in models]
    uniforms, counts = np.concatenate(seeds), np.repeat([model.n_components for model in models], n_starts)

    def seeded(part: slice, rules: EMRules) -> GMM:
        noisy = settings.log_widths is not None
        seeds, how = (uniforms[part], rules.shared.centre, scales, counts[part]), (settings.init, settings.family)
        return starts_of_seeds(rows.x, rows.weight, *seeds, *how, rules.own.prior, rows.evidence, noisy)

    return seeded, _order(models, rows.evidence, moments, rules, settings, dtype)


def _order(
    models: Sequence[Model], evidence: Array | None, moments: Moments, rules: EMRules, settings: Settings, dtype: np.dtype
) -> Callable[[slice], Order] | None:
    """What it takes to put a part of the starts in order; None where no prior tells components apart."""
    if not any(differs(model.prior) for model in models):
        return None
    n_starts, active = settings.n_init, np.asarray(rules.own.active)
    same = [m if m.prior is None else m._replace(prior=without_differences(m.prior, moments, m.n_components)) for m in models]
    neutral = rules_of(same, moments, active, settings, dtype)
    counts = np.repeat([model.n_components for model in models], n_starts)
    places, chosen = places_of(evidence), np.arange(len(counts)) == len(counts) - 1
    expected, (prior, k) = None, (models[-1].prior, models[-1].n_components)
    if prior is not None and n_starts > 1 and places is None:  # rows with labels say themselves where components are
        expected = expected_start(prior, k, moments.mean, dtype)
    if expected is not None:
        expected = jax.tree.map(lambda leaf: leaf[None], pad(expected, active.shape[1], dtype))
        expected = settings.step.fixed.of(expected)
        if settings.log_widths is not None:
            expected = with_share(expected, jnp.full(1, 1 - settings.noise_share, dtype))

    def of_part(part: slice) -> Order:
        return Order(_repeat(neutral, n_starts, part), counts[part], places, expected, chosen[part])

    return of_part


def pad(gmm: GMM, capacity: int, dtype: np.dtype) -> GMM:
    """A mixture with components of weight zero added, as NumPy arrays."""
    gmm = as_dtype(gmm, dtype)
    more = capacity - gmm.n_components

    def grow(leaf: Array) -> np.ndarray:
        return np.concatenate([leaf, np.repeat(leaf[:1], more, axis=0)])

    covariances = grow(gmm.covariances) if get_family(gmm.family).per_component else gmm.covariances
    weights = np.concatenate([np.asarray(gmm.weights), np.zeros(more, dtype)])
    return GMM.unchecked(weights, grow(gmm.means), covariances, gmm.family)


def _reporter(callback: Callable[[Progress], None], start: int, n_starts: int, max_steps: int) -> Callable[[Search], None]:
    def report(search: Search) -> None:
        steps, best = int(np.asarray(search.n_steps).max()), float(np.asarray(search.objective).max())
        callback(Progress(start, n_starts, steps, max_steps, best))

    return report


def capacity(n_components: int, n_samples: int) -> int:
    """Components that a compiled loop has for one model: for few rows a multiple of four, so that several K share it."""
    padded = -(-n_components // 4) * 4
    return padded if n_samples * padded <= _PADDED else n_components


def _given_start(
    given: GMM | np.ndarray, data: Source, rules: EMRules, model: Model, capacity: int, family: str, dtype: np.dtype
) -> GMM:
    """A GMM, or the M-step of responsibilities or labels, padded to `capacity`, with a leading axis of one start."""
    if isinstance(given, GMM):
        start = given
    else:
        rows = data.some_rows(model.key, data.n_samples)
        own = None if model.prior is None else as_dtype(model.prior, dtype)
        assigned = on_host(np.asarray(pad_rows(given, rows.n_samples)))
        start = assigned_start(rows.x, rows.weight, assigned, rules.shared.centre, model.n_components, family, own)
    return jax.tree.map(lambda leaf: leaf[None], pad(start, capacity, dtype))


def as_dtype[Tree](tree: Tree, dtype: DTypeLike) -> Tree:
    """Leaves as NumPy arrays of one dtype: unlike `jnp.asarray`, this compiles nothing."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), tree)


def rules_of(models: Sequence[Model], moments: Moments, active: np.ndarray, settings: Settings, dtype: np.dtype) -> EMRules:
    """The rules with an axis of models where `climb` wants one of starts."""
    priors, constants = [], []
    for model, own in zip(models, active, strict=True):
        if model.prior is None:
            continue
        padded = padded_prior(model.prior, model.n_components, own.size)
        constants.append(log_normaliser(padded, own, np, np.vectorize(math.lgamma)))
        priors.append(as_dtype(padded, dtype))
    floor = pivot_floor(moments, get_family(settings.family), dtype)
    held = settings.step.fixed
    if held.covariances:  # what is held can't collapse
        floor = np.where(held.mask("covariances", active.shape[1])[:, None], 0, floor)
    values = constants or [0.0] * len(models), moments.mean, floor, moments.total_weight, settings.rtol
    constant, *shared, total, rtol = (on_host(np.asarray(value, dtype)) for value in values)
    prior = jax.tree.map(lambda *leaves: np.stack(leaves), *priors) if priors else None
    log_widths = None if settings.log_widths is None else on_host(settings.log_widths.astype(dtype))
    return Rules(Own(prior, constant, on_host(active)), Shared(shared[0], shared[1], log_widths), total, rtol)


def _repeat(rules: EMRules, n_starts: int, part: slice) -> EMRules:
    """The rules of some starts, from those of the models."""
    return rules._replace(own=jax.tree.map(lambda leaf: np.repeat(leaf, n_starts, axis=0)[part], rules.own))


def pivot_floor(moments: Moments, kind: Family, dtype: np.dtype) -> np.ndarray:
    """Variances (pivots, for matrices) that are rounding of the data's own; inf where the data have none to begin with."""
    total_weight, mean, scatter, _ = moments
    n_features = mean.shape[0]
    rounding = 10 * n_features * float(jnp.finfo(dtype).eps)
    constant = 100 * np.finfo(float).eps * np.abs(mean)  # sd of a column that doesn't vary
    if scatter.ndim == 2:
        covariance = scatter / total_weight
        scale = np.diagonal(covariance)
        try:
            pivots = np.diagonal(np.linalg.cholesky(covariance)) ** 2
        except np.linalg.LinAlgError:
            pivots = np.zeros(n_features)
        return np.where((pivots > rounding * scale) & (np.sqrt(scale) > constant), rounding * pivots, np.inf)
    variance = scatter / total_weight
    if kind.scale_shape(n_features) == ():
        variance, constant = variance.mean(keepdims=True), constant.max(keepdims=True)
    return np.where(np.sqrt(variance) > constant, rounding * variance, np.inf)
