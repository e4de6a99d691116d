"""`continue_chains`: more draws for a tree of `count_clusters`."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxgmm.bayes.priors.base import names_in_partitions
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.trees.schema import facts_of, feature_names_of, group_of, require, row_labels_of, rows_of
from jaxgmm.counting.components import prior_of
from jaxgmm.counting.count_clusters import check_budget, ended
from jaxgmm.counting.mixtures import GROUPS, with_groups
from jaxgmm.counting.model import padded_data, padded_labels
from jaxgmm.counting.partition_prior import PartitionPrior
from jaxgmm.counting.telescoping import Telescoping, continued
from jaxgmm.counting.until import UntilBelieved
from jaxgmm.counting.verdict import alpha_of, count_tree
from jaxgmm.tools import precision
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.progress import OfProgress, reporter
from jaxgmm.tools.types import on_host

_NEEDED = "n_moves", "thin", "key", "alpha", "weights"
_continued = jax.jit(jax.vmap(continued, in_axes=(0, 0, 0, 0, 0, None)))


def continue_chains(
    tree: xarray.DataTree,
    *,
    n_draws: int | None = None,
    max_draws: int | None = None,
    max_seconds: float | None = None,
    progress: OfProgress = "auto",
) -> xarray.DataTree:
    """The tree of `count_clusters` with more draws: each chain goes on from its last partition, without a warm-up.

    The mixture, which a tree doesn't hold, is drawn anew given the partition, so these aren't the draws of one longer run, but
    draws of the same chain. Their key is made of the tree's own and of the number of draws in it. Groups that were asked for
    are made anew, of all draws.

    Args:
        tree: from `count_clusters`, in which the rows, the priors and the settings are.
        n_draws: further draws of each chain; by default as many as a verdict on all draws together takes.
        max_draws: the most further draws of each chain, where `n_draws` isn't given; default 20 000.
        max_seconds: after which the run ends with the draws that there are.
        progress: as for `count_clusters`.

    Raises:
        TypeError: not a tree.
        ValueError: a tree that isn't `count_clusters`' own; a budget that can't be used.
        FitError: draws that aren't finite numbers.

    Warns:
        FitWarning: a run that was interrupted.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=100, n_warmup=100)
        >>> jg.continue_chains(tree, n_draws=50)["allocations"].sizes["draw"]
        150
    """
    allocations = ("label", "n_clusters", "n_components", "sorted_weights")
    require(tree, "continue_chains", posterior=("log_likelihood", "entropy"), allocations=allocations, sample_stats=())
    facts = facts_of(tree)
    missing = [name for name in _NEEDED if name not in facts]
    if missing:
        raise UserError(
            f"the tree doesn't say {', '.join(missing)}, which chains need to go on: it is of another version; count again."
        )
    most_draws = check_budget(n_draws, max_draws, max_seconds)
    rows, _ = rows_of(tree, "continue_chains")
    own, partition_prior = prior_of(tree), _partition_prior_of(tree)
    before = _kept_of(tree, names_in_partitions(own))
    done = before["n_clusters"].shape[1]
    with precision.scope(np.dtype(np.float64)), reporter(progress, "continue_chains") as report:
        data = padded_data(rows, own, partition_prior)
        seed, seed_groups = np.random.SeedSequence([*facts["key"], done]).generate_state(4).reshape(2, 2)
        last = {name: values[:, -1] for name, values in before.items()}
        extra = {name: last[name] for name in names_in_partitions(own)}
        key, key_groups = (jax.random.wrap_key_data(jnp.asarray(own), impl="threefry2x32") for own in (seed, seed_groups))
        keys = jax.random.split(key, len(last["labels"]))
        labels = padded_labels(last["labels"], data, partition_prior.most)
        states = _continued(keys, labels, last["n_components"], last["alpha"], extra, data)
        until = UntilBelieved(
            partition_prior.most, max_seconds, verdict=n_draws is None, already=before["n_clusters"], report=report
        )
        kernel = Telescoping(facts["n_moves"], facts["thin"])
        new = run_chains(kernel, states, data, Schedule(0, most_draws, report, until=until))
    new |= {"labels": new["labels"][..., : len(rows)]}
    how = ended(until, new, 3)
    kept = {name: np.concatenate([before[name], values], axis=1) for name, values in new.items()}
    facts |= how | {"n_draws": done + how["n_draws"]}
    names, labels, groups = feature_names_of(tree), row_labels_of(tree), [group for group in GROUPS if group in tree.children]
    longer = count_tree(kept, rows, names, labels, own, partition_prior, facts)
    return with_groups(longer, kept, rows, names, labels, own, partition_prior, groups, key_groups)


def _partition_prior_of(tree: xarray.DataTree) -> PartitionPrior:
    """The prior of partitions that a tree was made with."""
    facts, constants = facts_of(tree), group_of(tree, "constant_data")
    with np.errstate(divide="ignore"):
        log_p = np.log(constants["prior_n_components"].values)
    random = isinstance(facts["alpha"], str)
    alpha = np.ones(()) if random else constants["alpha"].values
    return PartitionPrior(on_host(log_p), on_host(alpha), facts["weights"], facts["alpha"] if random else None)


def _kept_of(tree: xarray.DataTree, extra: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The draws of a tree, as the chains kept them."""
    posterior, allocations = group_of(tree, "posterior"), group_of(tree, "allocations")
    kept = {name: posterior[name].values for name in ("log_likelihood", "entropy", *extra)}
    kept |= {name: allocations[name].values for name in ("n_clusters", "n_components", "sorted_weights")}
    accepted = group_of(tree, "sample_stats")["accepted"].values
    return kept | {"labels": allocations["label"].values, "alpha": alpha_of(tree), "accepted": accepted}
