"""`count_clusters`: a posterior over the number of clusters."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import xarray
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgmm.bayes.priors.richardson_green import RichardsonGreen
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.trees.schema import check_feature_names
from jaxgmm.counting.mixing import LEAST_DRAWS
from jaxgmm.counting.mixtures import check_groups, with_groups
from jaxgmm.counting.model import component_prior, padded_data, padded_labels, partition_prior_of
from jaxgmm.counting.partition_prior import N_COMPONENTS, OfAlpha, OfK
from jaxgmm.counting.telescoping import Telescoping, start
from jaxgmm.counting.until import UntilBelieved
from jaxgmm.counting.verdict import count_tree
from jaxgmm.covariance import get_family
from jaxgmm.data import ArraySource, as_source, fingerprint
from jaxgmm.data.moments import column_moments
from jaxgmm.data.padding import on_device
from jaxgmm.fitting.batch import Model, Settings, climb_models, model_key
from jaxgmm.fitting.priors import Change
from jaxgmm.fitting.status import FitError, FitWarning
from jaxgmm.model.prior import Prior
from jaxgmm.tools import frames, precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.hints import keywords
from jaxgmm.tools.keeping import check_keeping, forget
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import check_count, check_key, check_path, host_only, is_finite_number, key_data

MOST_DRAWS = 20_000  # of each chain
_LARGEST_START = 10  # components that the chains start from: 1, ..., this many
_START_RTOL, _START_STEPS = 1e-5, 100
_start_all = jax.jit(jax.vmap(start, in_axes=(0, 0, None)))  # here, so that another call compiles nothing


@keywords(n_clusters="max_components: the number is what is found")
def count_clusters(
    x: Float[ArrayLike, "N D"],
    *,
    key: Array,
    family: str | None = None,
    prior: Prior | RichardsonGreen | Change | str = "default",
    model: str = "mixture",
    n_components: OfK = None,
    weights: str | None = None,
    alpha: OfAlpha = None,
    max_components: int = 30,
    n_draws: int | None = None,
    max_draws: int | None = None,
    max_seconds: float | None = None,
    n_chains: int = 4,
    n_warmup: int = 500,
    thin: int = 1,
    n_moves: int = 2,
    groups: Sequence[str] = (),
    feature_names: Sequence[str] | None = None,
    progress: OfProgress = "auto",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    keep_checkpoint: bool = False,
) -> xarray.DataTree:
    """Draws from the posterior over partitions of the rows, and so over the number of clusters: no K has to be chosen.

    A *component* is a Gaussian of the model, a *cluster* one that owns at least one row. K components have a prior, and
    weights, means and covariances theirs; the telescoping sampler (Fruehwirth-Schnatter, Malsiner-Walli & Gruen 2021), with
    moves of whole clusters (`split_merge`, `birth_death`) and of a few rows (`few_rows`), draws all of them. How many
    clusters there are depends on the priors more than other questions do, so the tree has the prior that they imply beside the
    posterior; see `cluster_count` for the verdict, and `count_sensitivity`.

    Args:
        x: (N, D), finite, N >= 2.
        key: a PRNG key.
        family: "full", "diag" or "spherical"; "full" by default, "spherical" with "richardson-green".
        prior: of components: "default", which is `Prior.default(x, 1, family)`; "fraley-raftery"; "richardson-green" for
            D = 1, `RichardsonGreen.default(x)`; one of these objects; or a function that makes it of the default one. Its
            `concentration` isn't used: `alpha` is.
        model: "mixture", a mixture of finite mixtures; "sparse", an overfitted mixture of `max_components` with a small
            Dirichlet parameter; "dirichlet-process".
        n_components: the prior of K, for "mixture": "beta-negative-binomial" (1, 4, 3), "geometric" (0.1), "poisson" (1), all
            of K - 1, "uniform", or probabilities of K = 1, 2, ..., `max_components` of them. By default the first, with
            "richardson-green" "uniform".
        weights: for "mixture": "dynamic", Dirichlet(alpha / K), or "static", Dirichlet(alpha). By default "dynamic", with
            "richardson-green" "static".
        alpha: a number, "f" for F(6, 3) or "gamma" for Gamma(1, rate 2). By default "f" for dynamic weights, 1 for static ones,
            0.01 (of each component) for "sparse", "gamma" for "dirichlet-process".
        max_components: J, the most components; `cluster_count` withholds its verdict where that cuts off too much. A Dirichlet
            process is cut off at J sticks, by about (alpha / (1 + alpha))^(J - K+).
        n_draws: draws of each chain; by default as many as a verdict takes: `cluster_count`'s, with its default thresholds, is
            looked for after 400, 500, 625, ... draws, so that their number depends on the key, not on the machine.
        max_draws: the most draws of each chain, where `n_draws` isn't given; default 20 000.
        max_seconds: a run that has taken so long ends with the draws that there are, after its warm-up; how many depends on
            the machine.
            `continue_chains` goes on from there.
        n_chains: chains, at least 2; they start from fits of 1 to 10 components, of N / 2 at most.
        n_warmup: steps thrown away.
        thin: sweeps a step.
        n_moves: rounds of proposals a sweep: to split or merge clusters, to bear or bury one, to set a few rows apart.
        groups: further groups to add, of each draw's mixture, whose parameters are drawn given its partition: "log_likelihood",
            log p(x_n) of each row, for LOO with K unknown, and "posterior_predictive", N rows drawn.
        feature_names: names of the columns; default those of a frame, else x0, x1, ...
        progress: True, a progress bar with the answer so far; "auto", one in a terminal or in Jupyter that appears after two
            seconds; or a function that is called with (steps done, steps in all): without `n_draws`, up to the next look.
        checkpoint: directory that keeps an unfinished run; removed when it has ended.
        resume: continue the run in `checkpoint`, also with more draws than it was to have; they are those of an uninterrupted
            run. It starts from the beginning where nothing is kept.
        keep_checkpoint: don't remove `checkpoint`, so that with `resume` the draws can be had again until they are saved.

    Returns:
        DataTree with the groups posterior (`alpha` where it is random and, of the mixture that the rows were allocated by,
        `log_likelihood` and `entropy`), allocations (whole numbers, and what may never change: `label` (chain, draw, obs_id),
        `n_clusters`, `n_components`, and `sorted_weights` (chain, draw, rank), 0 of ranks beyond `n_components`), cluster_count
        (`posterior` and implied `prior` of each `count`), sample_stats, observed_data, constant_data (with `alpha` where it
        is given). `obs_id` is as in `posterior`. Everything is computed in float64, on every device. The attribute `stopped`
        says why there are no more draws: "converged", there are enough; "n_draws"; "max_seconds"; or "interrupted": a
        KeyboardInterrupt ends a run without a checkpoint with the draws that there are.

    Raises:
        TypeError, ValueError: settings or data that can't be used; names them.
        FitError: draws that aren't finite numbers.

    Warns:
        FitWarning: a run that was interrupted.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=100)
        >>> int(tree["allocations"]["n_clusters"].median())
        3
    """
    host_only("count_clusters", x, key)
    check_key(key)
    counts = {"n_chains": n_chains, "thin": thin, "max_components": max_components}
    settings: Facts = {name: check_count(value, name) for name, value in counts.items()}
    settings |= {"n_warmup": check_count(n_warmup, "n_warmup", least=0), "n_moves": check_count(n_moves, "n_moves", least=0)}
    most_draws = check_budget(n_draws, max_draws, max_seconds)
    if n_chains < 2 or most_draws < LEAST_DRAWS:
        raise UserError(
            f"n_chains is {n_chains} and n_draws {most_draws}, but r-hat needs at least 2 chains of {LEAST_DRAWS} draws."
        )
    check_keeping(checkpoint, resume, keep_checkpoint)
    check_groups(groups, "count_clusters")
    source = as_source(x, None, min_rows=2)
    names = source.feature_names if feature_names is None else feature_names
    check_feature_names(names, source.n_features)
    own = component_prior(prior, family, source.x)
    partition_prior = partition_prior_of(own, model, n_components, weights, alpha, max_components)
    name = n_components if isinstance(n_components, str) else "given"
    if n_components is None:
        name = "uniform" if isinstance(own, RichardsonGreen) else N_COMPONENTS[0]
    settings |= {"n_components": name} if model == "mixture" else {}
    given_alpha = partition_prior.alpha_prior or float(partition_prior.alpha)
    settings |= {"model": model, "weights": partition_prior.weights, "alpha": given_alpha}

    rows = np.asarray(source.x)
    dtype = np.dtype(np.float64)  # on every device: evidences are differences of large sums of squares
    with precision.scope(dtype), reporter(progress, "count_clusters") as report:
        data = padded_data(rows, own, partition_prior)
        key_fit, key_start = jax.random.split(key)
        key_groups = jax.random.fold_in(key, 2)  # neither of these
        labels = _starting_labels(source, own.family, partition_prior.largest, n_chains, key_fit, dtype)
        states = _start_all(jax.random.split(key_start, n_chains), padded_labels(labels, data, partition_prior.most), data)
        signature = settings | {"data": fingerprint(source), "key": np.asarray(key_data(key)).tolist()}
        signature["priors"] = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves((own, partition_prior))]
        path = None if checkpoint is None else check_path(checkpoint, "checkpoint")
        kernel = Telescoping(settings["n_moves"], settings["thin"])
        until = UntilBelieved(
            max_components, max_seconds, verdict=n_draws is None, lossless=checkpoint is not None, report=report
        )
        schedule = Schedule(n_warmup, most_draws, report, path, resume, signature, until, imports=("arviz",))
        kept = run_chains(kernel, states, data, schedule)
    kept |= {"labels": kept["labels"][..., : len(rows)]}
    settings |= {"key": signature["key"], "fingerprint": signature["data"]} | ended(until, kept, 4)
    row_labels = frames.row_labels(x)
    tree = count_tree(kept, rows, names, row_labels, own, partition_prior, settings)
    tree = with_groups(tree, kept, rows, names, row_labels, own, partition_prior, groups, key_groups)
    if path is not None and not keep_checkpoint:
        forget(path)
    return tree


def check_budget(n_draws: int | None, max_draws: int | None, max_seconds: float | None) -> int:
    """The most draws of each chain.

    Raises:
        TypeError, ValueError: numbers that aren't positive, or both `n_draws` and `max_draws`.
    """
    if max_seconds is not None and not (is_finite_number(max_seconds) and max_seconds > 0):
        raise UserError(f"max_seconds must be a positive number, got {max_seconds!r}.")
    if n_draws is None:
        return MOST_DRAWS if max_draws is None else check_count(max_draws, "max_draws")
    if max_draws is not None:
        raise UserError(f"n_draws = {n_draws} is how many draws there are, max_draws = {max_draws} how many at most: give one.")
    return check_count(n_draws, "n_draws")


def ended(until: UntilBelieved, kept: Facts, stacklevel: int) -> Facts:
    """How a run has ended: `n_draws` and `stopped`, for the tree.

    Raises:
        FitError: draws that aren't finite numbers.

    Warns:
        FitWarning: a run that was interrupted.
    """
    if not np.isfinite(kept["log_likelihood"]).all():
        raise FitError(
            "a draw isn't finite: columns of x or scales of the prior are too large or too small for float64. Rescale the "
            "columns of x, or raise prior.degrees_of_freedom."
        )
    n_draws = kept["n_clusters"].shape[1]
    if until.reason == "interrupted":
        warnings.warn(
            f"the run was interrupted after {n_draws} draws of each chain, and has only these; "
            "jaxgmm.continue_chains(tree) makes more.",
            FitWarning,
            stacklevel=stacklevel,
        )
    return {"n_draws": n_draws, "stopped": until.reason}


def _starting_labels(source: ArraySource, family: str, most: int, n_chains: int, key: Array, dtype: np.dtype) -> np.ndarray:
    """A partition for each chain, (C, N), from fits with as different numbers of components as there are chains."""
    largest = max(1, min(most, _LARGEST_START, source.n_samples // 2))
    sizes = np.unique(np.linspace(1, largest, n_chains).round().astype(int)).tolist()
    data = on_device(source)
    moments = column_moments(data.x, data.weight, get_family(family).structure.dense, dtype)
    models = [Model(k, Prior.of_moments("default", moments, k, family), model_key(key, family, k)) for k in sizes]
    searches = climb_models(models, data, moments, Settings(family, "k-means++", 1, _START_RTOL, _START_STEPS), dtype)
    labels = []
    for search in searches:
        found = np.asarray(jax.tree.map(lambda leaf: leaf[0], search.point).predict(source.x))
        labels.append(np.unique(found, return_inverse=True)[1])  # filled components first
    return np.stack([labels[i % len(labels)] for i in range(n_chains)])
