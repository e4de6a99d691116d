"""`posterior`: from a fit to draws from the posterior of the same parameters, by any row of `methods`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.bayes.asking import check_options, held_asked, n_warmup_asked, rows_asked, start_and_prior
from jaxgmm.bayes.methods import METHODS, chains
from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.samplers.chains import Schedule
from jaxgmm.bayes.target.coordinates import layout_of
from jaxgmm.bayes.target.noise import start_of_noise
from jaxgmm.bayes.target.problem import Draws, Problem, ProblemInPieces
from jaxgmm.bayes.trees.schema import GROUPS, check_feature_names
from jaxgmm.data import ArraySource, Pieces, fingerprint
from jaxgmm.data.observed import check_columns
from jaxgmm.data.placed import Seen
from jaxgmm.fitting.arguments import censored_of, errors_of, noise_in
from jaxgmm.fitting.labels import with_labels
from jaxgmm.fitting.result import Fit
from jaxgmm.model.asking import Censored, Errors
from jaxgmm.model.coercion import as_gmm
from jaxgmm.model.holding import Fixed
from jaxgmm.model.mixture import GMM
from jaxgmm.model.prior import Prior
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError, UserTypeError
from jaxgmm.tools.keeping import check_keeping, forget
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.validation import check_count, check_key, check_path, host_only, key_data, unknown

if TYPE_CHECKING:
    import xarray

_LEAST_DRAWS = 4
ROWS_OF_PIECES = 1 << 14  # in the tree, of rows that come in pieces


def posterior(
    x: Float[ArrayLike, "N D"],
    fit: Fit | GMM,
    *,
    method: str,
    key: Array,
    n_draws: int = 1000,
    n_chains: int = 4,
    n_warmup: int | None = None,
    prior: Prior | RichardsonGreen | str | None = None,
    sample_weight: Float[ArrayLike, " N"] | None = None,
    error_covariances: Errors = None,
    censored: Censored = None,
    labels: ArrayLike | None = None,
    fixed: Fixed | None = None,
    groups: Sequence[str] = (),
    feature_names: Sequence[str] | None = None,
    progress: OfProgress = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    keep_checkpoint: bool = False,
    **options: Any,
) -> "xarray.DataTree":
    """Draws from the posterior of a mixture's weights, means and covariances, as an ArviZ tree, starting from a fit.

    All methods target the density that MAP-EM climbs and `numpyro_model` declares:

    - "nuts": NumPyro's no-U-turn sampler, chains side by side; the reference.
    - "gibbs": conjugate blocked Gibbs sampling; the fastest exact method here.
    - "svi": a Gaussian (or other guide) fitted by maximising the evidence bound; minibatches for large N.
    - "laplace": the Gaussian at the mode of the unconstrained parameters; the quickest.
    - "vb": variational Bayes by coordinate ascent from the fit, see `fit_vb`; allocations are independent of parameters in
      it, so its intervals are too narrow where components overlap. Its `elbo` is exact.

    - "weighted-likelihood": the weighted likelihood bootstrap (Newton & Raftery 1994), each draw the mode of randomly weighted
      rows: its spread is also right where components aren't Gaussian, but it is that of modes, whose sds are small.

    - "bootstrap": each draw the mode of rows that were drawn with repetition; "sandwich": the Gaussian at the mode with the
      spread that the mode has from sample to sample. Both are right, too, where components aren't Gaussian.

    "svi", "laplace" and "vb" carry Pareto k-hat, and warn where it says that they are not to be trusted. Labels
    may switch in "gibbs" and "nuts": see `relabel`.

    Args:
        x: (N, D), the rows of the fit; a frame's columns are matched by name. NaN is a missing value, as in `fit`. Or
            `jaxgmm.data.Pieces`, for "svi" with `batch_size` and "gibbs", each of whose sweeps is a pass: the tree then has up
            to 16 384 of the rows, drawn by weight, and speaks of these; its `log_likelihood` is that of all.
        fit: of `jaxgmm.fit` or `jaxgmm.fit_map`, or a GMM or what holds one, whose prior then is the default one. Of a fit with
            noise, draws have its share, too, `noise_weight`, uniform a priori; weights are those among the other rows.
        method: "nuts", "gibbs", "svi", "laplace", "vb", "sandwich", "bootstrap" or "weighted-likelihood".
        key: a PRNG key.
        n_draws: draws of each chain.
        n_chains: chains, at least 2 for "nuts" and "gibbs".
        n_warmup: steps of each chain thrown away before; default 500. Only for "nuts" and "gibbs".
        prior: None for the fit's own; or "default", "fraley-raftery", a `Prior`, a `RichardsonGreen`.
        sample_weight: (N,), as in the fit.
        error_covariances: of the rows' errors of measurement, as in the fit.
        censored: which values are limits, as in the fit.
        labels: of the rows whose component is known, as in the fit. These, limits and gaps are for "nuts", "gibbs", "svi",
            "laplace" and "sandwich"; "gibbs" draws what wasn't seen of a row, the others sum over it.
        fixed: what is held at the values of `fit`, as for `jaxgmm.fit`: draws are from the posterior of the rest, given that.
            None for what was held in the fit; () for nothing. Not for "vb".
        groups: further groups to add: of "log_likelihood" (for LOO), "log_prior" (for sensitivity), "prior",
            "posterior_predictive".
        feature_names: names of the columns; default those of the fit or the frame, else x0, x1, ...
        progress: True, a progress bar; "auto", one in a terminal or in Jupyter that appears after two seconds; or a function
            that is called with (steps done, steps in all).
        checkpoint: directory where "nuts" and "gibbs" keep an unfinished run; removed when it has ended.
        resume: continue the run in `checkpoint`; its draws are those of an uninterrupted run. It starts from the beginning
            where nothing is kept.
        keep_checkpoint: don't remove `checkpoint`, so that with `resume` the draws can be had again until they are saved.
        **options: of the method: `target_accept`, `max_tree_depth`, `dense_mass` for "nuts"; `thin` for "gibbs"; `guide`,
            `n_steps`, `learning_rate`, `batch_size` for "svi"; `rtol`, `max_steps` for "vb", "bootstrap" and
            "weighted-likelihood".

    Returns:
        DataTree with the groups posterior, allocations, sample_stats, observed_data, constant_data, and those asked for. Rows
        are labelled, `obs_id`, as in a pandas frame's index, repeated labels and gaps as they are, or along an xarray array's
        first dimension; by their positions 0, 1, ... where there are no labels, and where they aren't numbers, strings, or
        dates without time zone, such as a MultiIndex'.

    Raises:
        TypeError, ValueError: settings or data that can't be used, or data that aren't those of the fit.

    Warns:
        FitWarning: an approximation with k-hat above 0.7; draws of "bootstrap" and "weighted-likelihood" that did not converge.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=100)
        >>> tree["posterior"]["weights"].shape
        (4, 100, 2)
    """
    host_only("posterior", x, sample_weight, error_covariances, censored, labels, key)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    check_key(key)
    n_draws, n_chains = check_count(n_draws, "n_draws"), check_count(n_chains, "n_chains")
    if isinstance(groups, str):
        raise UserTypeError(f"groups must be a list of names, got {groups!r}: groups=[{groups!r}].")
    for group in groups:
        if group not in GROUPS:
            raise unknown("group", group, GROUPS)
    row = METHODS[method]
    check_options(method, options)
    source = rows_asked(x, sample_weight, fit, method, groups)
    draw: Any = row.resolve_in_pieces() if isinstance(source, Pieces) else row.resolve()
    names = source.feature_names if feature_names is None else feature_names
    check_feature_names(names, source.n_features)
    if isinstance(source, ArraySource):
        check_columns(source, np.asarray(source.weight) > 0)
    errors = errors_of(error_covariances, x, source)
    sides = censored_of(censored, x, source, errors, as_gmm(fit, "fit").family)
    noise = noise_in(fit)
    source = with_labels(source, labels, as_gmm(fit, "fit").n_components, beside_noise=noise is not None)
    rows = source if isinstance(source, ArraySource) else source.some_rows(jax.random.fold_in(key, 2), ROWS_OF_PIECES)
    evidence = None if rows.evidence is None else np.asarray(rows.evidence)
    box = None if noise is None else noise.box
    seen = Seen(rows.x, None if sample_weight is None else rows.weight, errors, evidence, sides, box)
    if not row.partly and (seen.partly or labels is not None):
        able = ", ".join(name for name, method in METHODS.items() if method.partly)
        raise UserError(
            f"method {method!r} takes rows that were seen wholly, without labels, and x has missing values, "
            f"error_covariances, limits or labels: take one of {able}."
        )
    if noise is not None and not row.noise:
        able = ", ".join(name for name, method in METHODS.items() if method.noise)
        raise UserError(
            f"method {method!r} knows no noise, and fit has some beside its mixture: take one of {able}, or pass fit.gmm, for "
            "rows that aren't noise."
        )
    gmm, target, fitted_to = start_and_prior(fit, prior, source, seen)
    data = fingerprint(source, errors, None if labels is None else np.asarray(labels), sides)
    if fitted_to is not None and fitted_to != data:
        raise UserError(
            f"x isn't the data of the fit (fingerprint {data}, the fit's is {fitted_to}): pass the same rows, sample_weight, "
            "error_covariances, censored and labels, or fit.gmm to start from the mixture alone."
        )
    held = held_asked(fixed, fit, gmm, method, groups)
    gmm = held.of(gmm)
    settings = {"method": method, "n_draws": n_draws, "n_chains": n_chains, **options}
    settings |= {"fixed": held.in_words} if held else {}
    schedule = None
    if row.kind == "chain":
        if n_chains < 2 or n_draws < _LEAST_DRAWS:
            raise UserError(
                f"n_chains is {n_chains} and n_draws {n_draws}, but r-hat needs at least 2 chains of {_LEAST_DRAWS} draws."
            )
        settings["n_warmup"] = n_warmup_asked(method, n_warmup)
        signature = settings | {"data": data, "family": gmm.family, "key": np.asarray(key_data(key)).tolist()}
        signature |= {"prior": _facts(target), "start": _facts(gmm)}
        signature |= {} if noise is None else {"noise": _facts((noise.weight, box))}
        check_keeping(checkpoint, resume, keep_checkpoint)
    elif n_warmup is not None or checkpoint is not None or resume or keep_checkpoint:
        raise UserError(f"n_warmup, checkpoint and resume are for {' and '.join(chains())}, but method is {method!r}.")

    dtype = precision.compute_dtype(source.like)
    with precision.scope(dtype), reporter(progress, method) as report:
        rest = None if noise is None else start_of_noise(noise.weight, noise.log_widths, source.total_weight, dtype)
        of = precision.cast(gmm, dtype), precision.cast(target, dtype), layout_of(gmm, target, held, rest)
        problem: Problem | ProblemInPieces
        if isinstance(source, Pieces):
            problem, settings["n_samples"] = ProblemInPieces(source, *of), source.n_samples
        else:
            placed = seen.placed(dtype, padded=True)
            problem = Problem(placed.rows, placed.weight, *of, rest)
        key_draws, key_tree = jax.random.split(key)
        draws: Draws
        if row.kind == "chain":
            path = None if checkpoint is None else check_path(checkpoint, "checkpoint")
            imports = ("jaxgmm.bayes.trees.build",)  # and xarray
            schedule = Schedule(settings["n_warmup"], n_draws, report, path, resume, signature, imports=imports)
            draws = draw(problem, key_draws, schedule, n_chains, **options)
        else:
            told = {"report": report} if "report" in inspect.signature(draw).parameters else {}
            draws = draw(problem, key_draws, n_draws, n_chains, **options, **told)
        draws = draws._replace(gmm=held.put_back(draws.gmm, problem.start))
        attrs = settings | draws.attrs | {"fingerprint": data}
        from jaxgmm.bayes.trees.build import to_datatree  # takes half a second, while chains run

        tree = to_datatree(
            draws, seen, target,
            key=key_tree, groups=groups, feature_names=names, row_labels=frames.row_labels(x), attrs=attrs,
            held=held,
        )  # fmt: skip
    if checkpoint is not None and not keep_checkpoint:
        forget(check_path(checkpoint, "checkpoint"))
    return tree


def _facts(tree: object) -> list[Any]:
    """The leaves of a pytree as lists of numbers, for a checkpoint to be compared by."""
    return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(tree)]
