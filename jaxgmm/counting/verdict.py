"""What `count_clusters` hands back: its tree, and the verdict on the number of clusters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray
from jaxtyping import Float

from jaxgmm.bayes.priors.base import MixturePrior, names_in_partitions
from jaxgmm.bayes.trees.build import coordinates, creation_facts, dataset_of, dataset_of_rows, prior_constants
from jaxgmm.bayes.trees.schema import check_feature_names, encode_facts, facts_of, group_of, original_names, require
from jaxgmm.counting.mixing import ESS, MCSE, R_HAT, Mixing
from jaxgmm.counting.partition_prior import PartitionPrior, tail_ratio
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable, counted, of_frame
from jaxgmm.tools.svg import bar, chart, colour
from jaxgmm.tools.types import Facts

_DRAW = ("chain", "draw")
_COVERED = 0.9
_DRAWN = 1e-3  # probability


@dataclass(frozen=True, repr=False)
class ClusterCount(Readable):
    """The posterior of the number of clusters, and whether to believe it.

    Attributes:
        table: index n_clusters, with columns posterior, mcse (Monte-Carlo standard error of it), prior (implied), bayes_factor
            (against the most probable number) and n_components (posterior of K). Of numbers that no draw has, and of one that
            all draws have, mcse is NaN: the draws can't tell it.
        mode: the most probable number.
        r_hat, ess_bulk, ess_tail: of the number of clusters over the chains. Where it never changes in any chain, r-hat is 1
            and the ESS is the number of draws: the chains started apart.
        problems: sentences, each with a value, its threshold and a way out. Empty if the count can be believed.
    """

    table: pd.DataFrame
    mode: int
    r_hat: float
    ess_bulk: float
    ess_tail: float
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True if there are no problems."""
        return not self.problems

    @property
    def verdict(self) -> str:
        """The answer in words; withheld where there are problems."""
        if self.problems:
            return "not converged: " + " ".join(self.problems)
        p = self.table["posterior"]
        covered = p.sort_values(ascending=False).cumsum()
        inside = sorted(covered.index[: int((covered < _COVERED).sum()) + 1])
        whole = len(inside) > 1 and inside[-1] - inside[0] == len(inside) - 1
        named = f"{inside[0]} to {inside[-1]}" if whole else ", ".join(map(str, inside))
        share = f"{100 * p[inside].sum():.0f} % on {named}"
        return (
            f"{self.mode} cluster{'s' if self.mode > 1 else ''} with probability {p[self.mode]:.2f} "
            f"({self.table['prior'][self.mode]:.2f} before the data); {share}. r-hat {self.r_hat:.3f}, ESS {self.ess_bulk:.0f}."
        )

    def _page(self) -> Page:
        formats = dict.fromkeys(("posterior", "mcse", "prior"), "{:.3f}".format)
        formats |= {"bayes_factor": "{:.3g}".format, "n_components": "{:.3f}".format}
        likely = self.table[self.table["posterior"] > 0]
        found = f"ClusterCount: {counted(self.mode, 'cluster')}" if self.ok else "ClusterCount: withheld"
        return Page(found, [self.verdict], of_frame(likely, formats, ("row", "column"), "clusters"), self._picture)

    def _picture(self) -> str:
        """The posterior in the front of the prior."""
        shown = self.table.loc[: self.table.index[(self.table[["posterior", "prior"]] > _DRAWN).any(axis=1)].max()]
        bars = []
        for name, shift, ink in (("prior", 0.2, "currentColor"), ("posterior", -0.2, colour(0))):
            at, opacity = shown.index.to_numpy() + shift, 0.3 if name == "prior" else 1
            bars += [bar(x - 0.2, x + 0.2, p, ink, opacity) for x, p in zip(at, shown[name], strict=True)]
        legend = {"posterior": colour(0), "prior": "currentColor"}
        return chart(bars, ("clusters", "probability"), legend=legend, whole=True)

    def __str__(self) -> str:
        shown = self.table[(self.table["posterior"] > 0) | (self.table["prior"] > 0.01)]
        formats = dict.fromkeys(("posterior", "mcse", "prior", "n_components"), "{:.4f}".format)
        text = shown.to_string(formatters=formats | {"bayes_factor": "{:.3g}".format})
        return f"{text}\n{self.verdict[0].upper()}{self.verdict[1:]}"


def cluster_count(
    tree: xarray.DataTree, *, r_hat: float = R_HAT, ess: float = ESS, mcse: float = MCSE, cut_off: float = 0.01
) -> ClusterCount:
    """The posterior of the number of clusters beside the prior that the model implies, with a verdict that may be withheld.

    Args:
        tree: from `count_clusters`.
        r_hat: the highest r-hat of the number of clusters that passes.
        ess: the lowest effective sample size of it that passes, bulk and tail.
        mcse: the highest Monte-Carlo standard error of the most probable number's probability that passes.
        cut_off: the most that passes of what `max_components` may do: how much more components would change a probability
            of the table, about, by the prior's own tail; where the prior has no more, ten times the probability of so many
            clusters, since of how much lies beyond the draws say nothing.

    Raises:
        TypeError: not a tree.
        ValueError: a tree that isn't `count_clusters`' own, thresholds out of range.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> tree = jg.count_clusters(x, key=jax.random.key(0), n_draws=50, n_warmup=20)
        >>> jg.cluster_count(tree).table.columns.tolist()
        ['posterior', 'mcse', 'prior', 'bayes_factor', 'n_components']
    """
    require(tree, "cluster_count", allocations=("n_clusters", "n_components"), cluster_count=("prior",))
    for name, value, least in (("r_hat", r_hat, 1), ("ess", ess, 0), ("mcse", mcse, 0), ("cut_off", cut_off, 0)):
        if not value >= least:
            raise UserError(f"{name} must be at least {least}, got {value!r}.")
    allocations, facts = group_of(tree, "allocations"), facts_of(tree)
    clusters, components = allocations["n_clusters"].values, allocations["n_components"].values
    prior = group_of(tree, "cluster_count")["prior"].values
    most = len(prior)
    mixing = Mixing.of(clusters, most)
    p, mode = mixing.p, mixing.mode
    p_components = np.bincount(components.ravel(), minlength=most + 1)[1:] / components.size
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = p / prior
        bayes_factor = np.where(p > 0, odds / odds[mode - 1], np.nan)
    table = pd.DataFrame(
        {
            "posterior": p,
            "mcse": mixing.mcse,
            "prior": prior,
            "bayes_factor": bayes_factor,
            "n_components": p_components,
        },
        index=pd.Index(range(1, most + 1), name="n_clusters"),
    )
    problems = mixing.problems(r_hat, ess, mcse)
    cut = _cut_off(clusters, components, p, facts)
    if cut[0] > cut_off:
        problems.append(f"{cut[1]} more than {cut_off:g}. Raise max_components.")
    return ClusterCount(table, mode, mixing.r_hat, mixing.ess_bulk, mixing.ess_tail, tuple(problems))


def _cut_off(clusters: np.ndarray, components: np.ndarray, p: Float[np.ndarray, " J"], facts: Facts) -> tuple[float, str]:
    """What `max_components` does, as a number and in words."""
    most, of_k = len(p), facts.get("n_components")
    if facts.get("model") != "mixture" or of_k in ("uniform", "given"):  # a prior that ends at J by itself isn't cut off there
        found = f"{most} clusters, the most allowed, have probability {p[-1]:.2g}: ten times that is"
        return min(1.0, 10 * float(p[-1])), found
    # Given a partition, K > J is as probable as K = J times the prior's ratio of the two: what a partition says of K is
    # nearly the same for all large K. So draws with K = J stand for those that are missing; where all J are filled, for
    # partitions into more clusters.
    missing = np.bincount(clusters[components == most], minlength=most + 1)[1:] / clusters.size * tail_ratio(str(of_k), most)
    change = np.abs((p + np.where(np.arange(most) < most - 1, missing, 0)) / (1 + missing.sum()) - p)
    found = f"with more than {most} components the probability of {counted(int(change.argmax()) + 1, 'cluster')} would change"
    return float(change.max()), f"{found[0].upper()}{found[1:]} by about {change.max():.2g}, which is"


def count_tree(
    kept: Facts,
    rows: Float[np.ndarray, "N D"],
    feature_names: Sequence[str] | None,
    row_labels: np.ndarray | None,
    prior: MixturePrior,
    partition_prior: PartitionPrior,
    facts: Facts,
) -> xarray.DataTree:
    """The tree of a run, from what its chains kept."""
    names = check_feature_names(feature_names, rows.shape[1])
    posterior = ["log_likelihood", "entropy", *(["alpha"] if partition_prior.alpha_prior else []), *names_in_partitions(prior)]
    allocations = {
        "label": ((*_DRAW, "obs_id"), kept["labels"]),
        "n_clusters": (_DRAW, np.asarray(kept["n_clusters"], int)),
        "n_components": (_DRAW, np.asarray(kept["n_components"], int)),
        "sorted_weights": ((*_DRAW, "rank"), kept["sorted_weights"]),
    }
    constants = {name: value for name, value in prior_constants(prior, None).items() if name != "prior_concentration"}
    constants["prior_n_components"] = (("count",), np.exp(np.asarray(partition_prior.log_components)))
    if not partition_prior.alpha_prior:
        constants["alpha"] = ((), np.asarray(partition_prior.alpha))
    coords = {**coordinates(names, row_labels), "count": np.arange(1, partition_prior.most + 1)}
    tree = xarray.DataTree.from_dict(
        {
            "posterior": dataset_of({name: (_DRAW, kept[name]) for name in posterior}, coords),
            "allocations": dataset_of(allocations, coords),
            "cluster_count": dataset_of({"prior": (("count",), partition_prior.implied(len(rows)))}, coords),
            "sample_stats": dataset_of({"accepted": (_DRAW, kept["accepted"])}, coords),
            "observed_data": dataset_of_rows(rows, coords),
            "constant_data": dataset_of(constants, coords),
        }
    )
    facts = {
        "method": "telescoping",
        "family": prior.family,
        "prior": type(prior).__name__,
        **facts,
        **original_names(feature_names),
        **creation_facts(),
    }
    tree.attrs = encode_facts(facts)
    found = cluster_count(tree)
    made = tree["cluster_count"].to_dataset()
    made["posterior"] = ("count", found.table["posterior"].to_numpy())
    made["mcse"] = ("count", found.table["mcse"].to_numpy())
    made.attrs = encode_facts(
        {"verdict": found.verdict, "r_hat": found.r_hat, "ess_bulk": found.ess_bulk, "ess_tail": found.ess_tail}
    )
    return tree.assign({"cluster_count": xarray.DataTree(made)})


def alpha_of(tree: xarray.DataTree) -> Float[np.ndarray, "chain draw"]:
    """The partition prior's alpha of each draw of `count_clusters`, random or given."""
    posterior = group_of(tree, "posterior")
    if "alpha" in posterior:
        return posterior["alpha"].values
    return np.full((posterior.sizes["chain"], posterior.sizes["draw"]), group_of(tree, "constant_data")["alpha"].values)
