"""`compare`: families x numbers of components, fitted side by side and ranked by every criterion."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.comparing.comparison import Comparison
from jaxgmm.comparing.row import Row
from jaxgmm.comparing.scoring import Elsewhere, InMemory, Scored, WithGaps
from jaxgmm.comparing.sweep import Sweep
from jaxgmm.covariance import FAMILIES, check_unrestricted, get_family
from jaxgmm.data import ArraySource, fingerprint
from jaxgmm.data.observed import check_columns, has_gaps, n_missing
from jaxgmm.data.padding import pad_rows
from jaxgmm.fitting.account import rows_per_weight
from jaxgmm.fitting.arguments import check_family, check_rows_for, source_of, step_of
from jaxgmm.fitting.batch import TOGETHER, Settings, model_key
from jaxgmm.fitting.noise import box_of
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.result import Fit
from jaxgmm.fitting.seeds import METHODS
from jaxgmm.fitting.status import FitWarning, Status
from jaxgmm.model.default_prior import check_name, not_a_prior
from jaxgmm.model.holding import FREE
from jaxgmm.model.observing import OBSERVING
from jaxgmm.model.prior import Prior
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.hints import keywords
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.threads import side_by_side
from jaxgmm.tools.validation import check_count, check_key, check_rtol, check_steps, host_only, key_data, unknown


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
    noise: bool | Float[ArrayLike, " D"] = False,
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
        x: (N, D), N >= 2; an array, a frame, whose column names the fits keep, or `jaxgmm.data.Pieces`. NaN is a missing value,
            as for `fit`.
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
        noise: of every model, a component besides that is uniform over a box, as for `fit`; not with `loo` or `elbo`. ICL takes
            it for one of the components. The box is of all rows, of those held out too.
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
    host_only("compare", x, sample_weight, noise, key)
    check_key(key)
    source = source_of(x, sample_weight, None)
    in_memory = isinstance(source, ArraySource)
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
            f"by {source.n_present}, the number of rows."
        )
    box = box_of(noise, source)
    if box is not None and (loo or elbo):
        raise UserError(f"noise doesn't go with {'loo' if loo else 'elbo'}=True: use held_out_folds.")
    partly = isinstance(source, ArraySource) and has_gaps(source.x)
    for family in names:
        check_family(family, source.n_features, partly)
    if partly and loo:
        raise UserError("x has missing values, which loo=True doesn't take: use held_out_folds, or elbo=True.")
    for asked, name in ((held_out_folds is not None, "held_out_folds"), (loo, "loo=True"), (elbo, "elbo=True")):
        if asked and not in_memory:
            raise UserError(f"{name} needs rows in memory, but x comes in pieces, or is spread over devices: use bic or icl.")
    folds = None
    if isinstance(source, ArraySource):
        present = np.asarray(source.weight) > 0
        folds = None if held_out_folds is None else _draw_folds(held_out_folds, present, key)
        if partly:
            _check_gaps(source, folds)
    dtype, out = precision.compute_dtype(source.like), precision.parameter_dtype(source.like)
    data_id = fingerprint(source)
    step = step_of(FREE, "relative", "auto", None, source.n_present)
    step = dataclasses.replace(step, engine=OBSERVING) if partly else step
    with precision.scope(dtype):
        keys = {family: [model_key(key, family, k) for k in counts] for family in names}
        scored: Scored
        if isinstance(source, ArraySource):
            scored = WithGaps(source, dtype) if partly else InMemory(source)
        else:
            scored = Elsewhere(source)
    folds = None if folds is None else pad_rows(folds, len(scored.weight))

    rows: list[Row] = []
    with precision.scope(dtype), reporter(progress, "compare", "family") as report:

        def of_family(family: str) -> list[Row]:
            settings = Settings(family, init, n_init, float(rtol), max_steps, step, None if box is None else box.log_widths)
            sweep = Sweep(scored, counts, prior, per_weight, settings, dtype, out, box)
            return sweep.rows(scored.weight, keys[family], folds, data_id, elbo)

        # Of few rows, it is compilation that takes long.
        small = isinstance(source, ArraySource) and source.n_samples * counts[-1] * len(counts) * n_init <= TOGETHER
        found = side_by_side(of_family, names) if small else map(of_family, names)
        for done, family in enumerate(names):
            if report is not None:
                report.say(family)
                report(done, len(names))
            rows += next(found)
        if report is not None:
            report(len(names), len(names))
    missing = n_missing(source) if isinstance(source, ArraySource) and partly else 0
    rows = [row if row.fit is None else row._replace(fit=_as_configured(row.fit, out, missing)) for row in rows]
    _warn(rows)
    comparison = Comparison(tuple(rows))
    if loo and isinstance(source, ArraySource):
        comparison = comparison.with_loo(source.x, key=key, sample_weight=sample_weight)
    return comparison


def _as_configured(fit: Fit, out: np.dtype, missing: int) -> Fit:
    """The fit with parameters as the caller's configuration of JAX has them, and how many values were missing."""
    return dataclasses.replace(fit, gmm=precision.as_parameters(fit.gmm, out), n_missing=missing)


def _check_gaps(source: ArraySource, folds: np.ndarray | None) -> None:
    """Raises ValueError where all rows, or all but a fold, lack a column."""
    present = np.asarray(source.weight) > 0
    check_columns(source, present)
    for fold in range(0 if folds is None else folds.max() + 1):
        check_columns(source, present & (folds != fold), f" without one of the held_out_folds, which are {folds.max() + 1}")  # type: ignore[union-attr]


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
