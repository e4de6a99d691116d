"""`compare`: families x numbers of components, fitted side by side and ranked by every criterion."""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.comparing.comparison import Comparison, Row
from jaxgmm.covariance import FAMILIES, check_unrestricted, get_family
from jaxgmm.data import ArraySource, as_source, fingerprint
from jaxgmm.data.moments import Moments
from jaxgmm.data.observed import ObservedSource, arrange, check_columns, has_gaps, n_missing
from jaxgmm.data.padding import on_device, pad_rows
from jaxgmm.fitting.account import account, in_weight, rows_per_weight
from jaxgmm.fitting.batch import Model, Settings, climb_models, model_key, pad
from jaxgmm.fitting.em_step import EM
from jaxgmm.fitting.fit import check_family, check_rows_for
from jaxgmm.fitting.priors import Change, resolve_prior
from jaxgmm.fitting.result import USABLE, Fit
from jaxgmm.fitting.starts import METHODS
from jaxgmm.fitting.status import FitError, FitWarning, Status
from jaxgmm.model.answers import Rows, log_prob_and_complete
from jaxgmm.model.criteria import Scores
from jaxgmm.model.default_prior import check_name, not_a_prior
from jaxgmm.model.engines import COMPLETE
from jaxgmm.model.mixture import GMM
from jaxgmm.model.observing import OBSERVING
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.blocks import rows_present
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.hints import keywords
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.types import on_host
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps, host_only, key_data, unknown

if TYPE_CHECKING:
    from jaxgmm.bayes.variational.bounds import Bound

type RowsOf = Callable[[Array], ArraySource | ObservedSource]  # the data, given weights of the rows
type PlacesOf = Callable[[Array], tuple[Rows, Array]]  # the rows that are scored, and a weight for each place of them


@keywords(
    covariance_type="families, such as families=['diag']",
    family="families, a list",
    n_clusters="n_components, such as range(1, 10)",
)
def compare(
    x: Float[ArrayLike, "N D"],
    *,
    families: Sequence[str] | Literal["all"] = ("full", "tied", "diag", "spherical"),
    n_components: Iterable[int] = range(1, 10),
    key: Array,
    n_init: int = 10,
    prior: str | Change | None = "default",
    init: str = "k-means++",
    rtol: float = 1e-8,
    max_steps: int = 500,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    held_out_folds: int | None = None,
    loo: bool = False,
    elbo: bool = False,
    progress: OfProgress = "auto",
) -> Comparison:
    """Fit every family with every number of components, and rank them by BIC, AIC, ICL and, if asked for, prediction.

    All numbers of components and all starts of a family climb in one compiled batch. Each model is what
    `fit(x, k, family=family, key=batch.model_key(key, family, k), ...)` gives, whatever else is compared. Criteria don't count
    the prior: they are those of the likelihood at the fit, and with `prior=None` those of mclust with the sign changed.

    Args:
        x: (N, D), N >= 2; an array, or a frame, whose column names the fits keep. NaN is a missing value, as for `fit`.
        families: of the covariances, by scikit-learn's names or mclust's; "all": its fourteen.
        n_components: the K to fit, increasing: `range(1, 10)`.
        key: a PRNG key.
        n_init: starts of each model.
        prior: "default" (`Prior.default` of each model), "fraley-raftery", None for maximum likelihood, or a function
            that makes a model's prior of its default one, as for `fit`.
        init: "k-means++" or "random".
        rtol: as for `fit`.
        max_steps: as for `fit`.
        sample_weight: (N,), non-negative.
        held_out_folds: V >= 2: also fit each model V times to all rows but a V-th, with as many starts, and score those by
            their log-likelihood per unit of weight. Folds are drawn by `key`. None: no such column.
        loo: also the expected log predictive density by leave-one-out, from a Laplace approximation of each model. It takes
            seconds a model: `Comparison.with_loo` does it for some of them. Neither it nor `elbo` is for families that restrict
            how covariances differ.
        elbo: also the bound of the evidence by variational Bayes (`fit_vb`) that starts from each model's fit, and
            `log_evidence`, which counts the orders of the labels too and can be compared across K and families. After
            `max_steps` updates it is a bound still, though not the best.
        progress: True, a progress bar; "auto", one in a terminal or in Jupyter that appears after two seconds; or a function
            that is called with (families done, families in all).

    Returns:
        Comparison: `table`, `select("bic")`, `agreement`, `fits`. Maximum likelihood may leave a model without a usable fit
        (every start collapsed): its row says so in `status`, and its criteria are NaN.

    Raises:
        TypeError, ValueError: arguments that can't be used; nothing has been computed.

    Warns:
        FitWarning: once, with the number of models whose best start did not converge.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> comparison = jg.compare(x, families=["tied"], n_components=range(1, 5), key=jax.random.key(0))
        >>> comparison.select("bic").gmm.n_components
        3
        >>> print(comparison.table.loc["tied 3", "rank_bic"], comparison.table.loc["tied 3", "status"])
        1 converged
    """
    host_only("compare", x, sample_weight, key)
    check_key(key)
    source = as_source(x, sample_weight, min_rows=2, missing=True)
    names, counts = _check_families(families), _check_counts(n_components)
    check_rows_for(counts[-1], source.n_present)
    if init not in METHODS:
        raise unknown("init", init, METHODS)
    n_init, max_steps = check_count(n_init, "n_init"), check_steps(max_steps)
    check_rtol(rtol)
    _check_prior(prior, loo=loo, elbo=elbo)
    for family, (name, asked) in itertools.product(names, {"loo": loo, "elbo": elbo}.items()):
        if asked:
            check_unrestricted(family, f"{name}=True")
    per_weight = rows_per_weight(prior, source)
    if per_weight != 1 and (loo or elbo):
        raise UserError(
            f"sample_weight adds up to 1: frequencies, and {'loo' if loo else 'elbo'}=True needs rows. Multiply sample_weight "
            f"by {np.count_nonzero(source.weight)}, the number of rows."
        )
    partly = has_gaps(source.x)
    for family in names:
        check_family(family, source.n_features, partly)
    if partly and (loo or elbo):
        raise UserError(f"x has missing values, which {'loo' if loo else 'elbo'}=True doesn't take: use held_out_folds.")
    folds = None if held_out_folds is None else _draw_folds(held_out_folds, np.asarray(source.weight) > 0, key)
    if partly:
        _check_gaps(source, folds)
    dtype, out = precision.compute_dtype(source.x), precision.parameter_dtype(source.x)
    data_id = fingerprint(source)
    with precision.scope(dtype):
        keys = {family: [model_key(key, family, k) for k in counts] for family in names}
        rows_of, places_of, weight = _arranged(source, dtype) if partly else _padded(source)
    folds = None if folds is None else pad_rows(folds, len(weight))

    rows: list[Row] = []
    with precision.scope(dtype), reporter(progress, "compare", "family") as report:
        for done, family in enumerate(names):
            if report is not None:
                report.say(family)
                report(done, len(names))
            settings = Settings(family, init, n_init, float(rtol), max_steps, EM(engine=OBSERVING if partly else COMPLETE))
            sweep = _Sweep(rows_of, places_of, counts, prior, per_weight, settings, dtype, out)
            rows += sweep.rows(weight, keys[family], folds, data_id, elbo)
        if report is not None:
            report(len(names), len(names))
    missing = n_missing(source) if partly else 0
    rows = [row if row.fit is None else row._replace(fit=_as_configured(row.fit, out, missing)) for row in rows]
    _warn(rows)
    comparison = Comparison(tuple(rows))
    if loo:
        comparison = comparison.with_loo(source.x, key=key, sample_weight=sample_weight)
    return comparison


def _padded(source: ArraySource) -> tuple[RowsOf, PlacesOf, Array]:
    """What makes the data of weights, and the weights of all rows: padded."""
    x = on_device(source).x

    def rows_of(weight: Array) -> ArraySource:
        return ArraySource(x, jax.device_put(weight), source.feature_names)

    return rows_of, lambda weight: (x, weight), pad_rows(source.weight, len(x))


def _arranged(source: ArraySource, dtype: np.dtype) -> tuple[RowsOf, PlacesOf, Array]:
    """The same for rows with gaps."""
    whole = arrange(source, None)
    return (
        lambda weight: whole.weighted(weight, dtype),
        lambda weight: (whole.rows, whole.spread(weight).reshape(-1)),
        source.weight,
    )


class _Sweep:
    """The models of one family, for rows that are fitted with several weights: all of them, or all but a fold."""

    def __init__(
        self,
        rows_of: RowsOf,
        places_of: PlacesOf,
        counts: Sequence[int],
        prior: str | Change | None,
        per_weight: float,
        settings: Settings,
        dtype: np.dtype,
        out: np.dtype,
    ) -> None:
        self.rows_of, self.places_of = rows_of, places_of
        self.counts, self.prior, self.settings = counts, prior, settings
        self.per_weight, self.dtype, self.out = per_weight, dtype, out

    def rows(self, weight: Array, keys: Sequence[Array], folds: np.ndarray | None, data_id: str, elbo: bool) -> list[Row]:
        """The models and what the criteria are made of."""
        fits, moments = self.fit(weight, keys, data_id)
        sums = self.score(fits, weight)
        held_out = None if folds is None else self.held_out(weight, folds, keys)
        bounds = self.bounds(fits, moments, weight) if elbo else {}
        family, rows, total = get_family(self.settings.family), [], moments.total_weight / self.per_weight
        for i, (k, fit) in enumerate(zip(self.counts, fits, strict=True)):
            predictive = None if held_out is None else float(held_out[i])
            n_parameters = family.n_parameters(k, moments.mean.size)
            bound = bounds.get(i)
            evidence = bound.log_evidence if bound else np.nan if elbo else None
            scores = Scores(float(sums[i, 0]), float(sums[i, 1]), n_parameters, total, predictive, None, evidence)
            own = bound.elbo if bound else np.nan if elbo else None
            rows.append(Row(family.name, k, fit if isinstance(fit, Fit) else None, _status(fit), scores, None, own))
        return rows

    def fit(self, weight: Array, keys: Sequence[Array], data_id: str) -> tuple[list[Fit | Status], Moments]:
        """A fit for each K; the status instead where there is none."""
        family = self.settings.family
        weight = weight if self.per_weight == 1 else weight * self.per_weight
        data = self.rows_of(weight)
        moments = data.moments(get_family(family).structure.dense, self.dtype)
        n_rows = data.n_present
        possible = [i for i, k in enumerate(self.counts) if k <= n_rows]  # fewer than all, without a fold
        models = {}
        for i in reversed(possible):  # those that take longest first
            k = self.counts[i]
            models[i] = Model(k, resolve_prior(self.prior, moments, k, family), keys[i])
        fits: list[Fit | Status] = [Status.collapsed] * len(self.counts)
        searches = climb_models(list(models.values()), data, moments, self.settings, self.dtype)
        for (i, model), search in zip(models.items(), searches, strict=True):
            try:
                fits[i] = in_weight(account(search, model, self.settings, data, self.out, data_id), self.per_weight)
            except FitError:
                fits[i] = Status(int(np.asarray(search.status)[0]))
        return fits, moments

    def score(self, fits: Sequence[Fit | Status], weight: Array) -> np.ndarray:
        """Weighted sums (len(fits), 2) of log densities, without and with the component; NaN where there is no usable fit."""
        usable = [i for i, fit in enumerate(fits) if _status(fit) in USABLE]
        sums = np.full((len(fits), 2), np.nan)
        if usable:
            padded = [pad(fits[i].gmm, self.counts[-1], self.dtype) for i in usable]  # type: ignore[union-attr]
            padded += padded[:1] * (len(fits) - len(usable))  # one shape whatever fails, one compilation
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
            rows, own = self.places_of(on_host(np.asarray(weight, self.dtype)))
            sums[usable] = np.asarray(_sums(stacked, rows, own, self.dtype))[: len(usable)]
        return sums

    def bounds(self, fits: Sequence[Fit | Status], moments: Moments, weight: Array) -> "dict[int, Bound]":
        """By the place of the model, the bounds of those that have a usable fit."""
        from jaxgmm.bayes.variational.bounds import bounds_from  # only here: NumPyro takes seconds to import

        usable = {i: fit for i, fit in enumerate(fits) if isinstance(fit, Fit) and fit.status in USABLE}
        if not usable:
            return {}
        data, own = self.rows_of(weight), list(usable.values())
        assert isinstance(data, ArraySource)  # `compare` has refused rows with gaps
        found = bounds_from(own, data, moments, rtol=self.settings.rtol, max_steps=self.settings.max_steps, dtype=self.dtype)
        return dict(zip(usable, found, strict=True))

    def held_out(self, weight: Array, folds: np.ndarray, keys: Sequence[Array]) -> np.ndarray:
        """Log-likelihood per unit of weight of rows, each from fits to the other folds; NaN where one of them failed."""
        w, total = np.asarray(weight), np.zeros(len(self.counts))
        for fold in range(folds.max() + 1):
            own_keys = [jax.random.fold_in(key, fold) for key in keys]
            fits, _ = self.fit(on_host(np.where(folds == fold, 0, w)), own_keys, "")
            total += self.score(fits, on_host(np.where(folds == fold, w, 0)))[:, 0]
        return total / w.sum()


@functools.partial(jax.jit, static_argnums=3)
def _sums(gmms: GMM, x: Rows, weight: Array, dtype: np.dtype) -> Float[Array, "M 2"]:
    def of_model(gmm: GMM) -> Float[Array, " 2"]:
        values = log_prob_and_complete(gmm, x, dtype, rows_present(weight))
        return jnp.where(weight[:, None] > 0, weight[:, None] * values, 0).sum(0)

    return lax.map(of_model, jax.tree.map(jnp.asarray, gmms))


def _as_configured(fit: Fit, out: np.dtype, missing: int) -> Fit:
    """The fit with parameters as the caller's configuration of JAX has them, and how many values were missing."""
    return dataclasses.replace(fit, gmm=precision.as_parameters(fit.gmm, out), n_missing=missing)


def _check_gaps(source: ArraySource, folds: np.ndarray | None) -> None:
    """Raises ValueError where all rows, or all but a fold, lack a column."""
    present = np.asarray(source.weight) > 0
    check_columns(source, present)
    for fold in range(0 if folds is None else folds.max() + 1):
        check_columns(source, present & (folds != fold), f" without one of the held_out_folds, which are {folds.max() + 1}")  # type: ignore[union-attr]


def _status(fit: Fit | Status) -> Status:
    return fit.status if isinstance(fit, Fit) else fit


def _warn(rows: Sequence[Row]) -> None:
    """One warning for all models whose best start did not converge."""
    ended: dict[Status, list[str]] = {}
    for row in rows:
        ended.setdefault(row.status, []).append(row.name)
    ended.pop(Status.converged, None)
    if not ended:
        return
    n_failed = sum(map(len, ended.values()))
    parts = [f"{len(names)} {status.name} ({', '.join(names)})" for status, names in ended.items()]
    warnings.warn(
        f"{n_failed} of {len(rows)} models did not converge: {'; '.join(parts)}. "
        "Those that can't be used have NaN criteria; `Status.<name>.meaning` says what to do.",
        FitWarning,
        stacklevel=4,
    )


def _check_families(families: Sequence[str]) -> list[str]:
    if families == "all":
        return list(FAMILIES)
    if isinstance(families, str):
        raise UserTypeError(f"families must be 'all' or a list of names, got {families!r}: families=[{families!r}].")
    given = list(families)
    names = list(FAMILIES) if given == ["all"] else [get_family(name).name for name in given]
    if not names:
        raise UserError("families is empty: name at least one, such as families=['full'].")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"families names {twice[0]!r} twice: {given}.")
    return names


def _check_counts(n_components: Iterable[int]) -> list[int]:
    try:
        given: Iterator[int] = iter(n_components)
    except TypeError:
        raise UserTypeError(f"n_components must be whole numbers, got {n_components!r}: range(1, 10), or [3].") from None
    counts = [check_count(k, "n_components") for k in given]
    if not counts:
        raise UserError("n_components is empty: give at least one, such as range(1, 10).")
    if any(b <= a for a, b in itertools.pairwise(counts)):
        raise UserError(f"n_components must increase, got {counts}: sorted(set(n_components)).")
    return counts


def _check_prior(prior: object, *, loo: bool, elbo: bool) -> None:
    if isinstance(prior, Prior):
        raise UserTypeError(
            "prior is one Prior, but each model has its own: pass 'default', 'fraley-raftery', None, or a function that "
            "changes the default one."
        )
    if isinstance(prior, str):
        check_name(prior)
    elif prior is not None and not callable(prior):
        raise not_a_prior(prior, "a function of the default prior", "None")
    for name, asked in (("loo", loo), ("elbo", elbo)):
        if asked and prior is None:
            raise UserError(
                f"{name}=True needs a posterior, hence a prior, but prior=None: use held_out_folds, or prior='default'."
            )


def _draw_folds(n_folds: int, counts_rows: np.ndarray, key: Array) -> np.ndarray:
    """The fold of each row (N,): rows of positive weight spread evenly, in an order drawn by the key; others -1."""
    n_folds = check_count(n_folds, "held_out_folds", least=2)
    present = np.flatnonzero(counts_rows)
    if n_folds > present.size:
        raise UserError(f"held_out_folds is {n_folds}, but x has {present.size} rows of positive weight: use fewer folds.")
    if present.size - -(-present.size // n_folds) < 2:
        raise UserError(f"held_out_folds={n_folds} leaves fewer than 2 of {present.size} rows to fit: more rows are needed.")
    folds = np.full(counts_rows.size, -1)
    generator = np.random.default_rng(np.asarray(key_data(key)).tolist())
    folds[generator.permutation(present)] = np.arange(present.size) % n_folds
    return folds
