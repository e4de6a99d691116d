"""`diagnose`: can this posterior be trusted, and which of its numbers mean anything?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import arviz as az
import numpy as np
import pandas as pd
import xarray

from jaxgmm.bayes.methods import approximations
from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.schema import PARAMETERS, facts_of, group_of, parameter_dims, require
from jaxgmm.bayes.trees.summaries import correlations, labels_known, standard_deviations
from jaxgmm.covariance import get_family
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.reading import Page, Readable, counted, of_frame
from jaxgmm.tools.svg import bar, chart, colour
from jaxgmm.tools.types import Facts

INVARIANT = ("log_likelihood", "sorted_weights", "entropy")
_PROBABILITY = 0.9
_MOST_CORRELATIONS = 300
_LEAST_CHAINS, _LEAST_DRAWS = 2, 4
_ROUNDING = 1e-12
_OFTEN = 0.05  # of the draws
_FORMATS: Mapping[str, Callable[[Any], str]] = dict.fromkeys(("mean", "sd", "lower", "upper"), "{:.4g}".format) | {
    "r_hat": "{:.3f}".format,
    "ess_bulk": "{:.0f}".format,
    "ess_tail": "{:.0f}".format,
}
_DRAWN = 200  # quantities in a picture
_NAMED = 3  # quantities named in a sentence


@dataclass(frozen=True, repr=False)
class Diagnostics(Readable):
    """What `diagnose` found.

    Attributes:
        table: one row a quantity, label-invariant ones first. Columns: mean, sd, lower, upper (90 % equal-tailed), r_hat,
            ess_bulk, ess_tail, mcse_mean, and meaning: "label-invariant", "relabelled", or "labels may switch", whose
            numbers are of no one component. r-hat and ESS are NaN for approximations and, r-hat, for what never changes.
        problems: sentences, each with a value, its threshold and a way out. Empty if all is well.
        notes: what else should be known.
    """

    table: pd.DataFrame
    problems: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """True if there are no problems."""
        return not self.problems

    def _page(self) -> Page:
        formats: Mapping[str, Callable[[Any], str]] = {**_FORMATS, "meaning": str}
        return Page(
            f"Diagnostics: {counted(len(self.problems), 'problem') if self.problems else 'no problems found'}",
            [*self.problems, *(f"Note: {sentence}" for sentence in self.notes)],
            of_frame(self.table, formats, ("row", "column")),
            self._picture,
        )

    def _picture(self) -> str:
        """The effective sample size of each quantity, grey where labels may switch; nothing for approximations."""
        shown = self.table.iloc[:_DRAWN]
        least = shown[["ess_bulk", "ess_tail"]].min(axis=1)
        inks = [("currentColor", 0.3) if meaning == "labels may switch" else (colour(0), 1.0) for meaning in shown["meaning"]]
        bars = [
            bar(i + 0.1, i + 0.9, ess, *ink) for i, (ess, ink) in enumerate(zip(least, inks, strict=True)) if np.isfinite(ess)
        ]
        return chart(bars, ("row of the table", "effective sample size"), whole=True)

    def __str__(self) -> str:
        parts = [self.table.to_string(formatters={**_FORMATS, "mcse_mean": "{:.4g}".format}, na_rep="-")]
        parts += [f"Problem: {sentence}" for sentence in self.problems] or ["No problems found."]
        return "\n".join([*parts, *(f"Note: {sentence}" for sentence in self.notes)])


def diagnose(
    tree: xarray.DataTree, *, r_hat: float = 1.01, ess: float = 400, pareto_k: float = 0.7, non_permutation: float = 0.05
) -> Diagnostics:
    """Whether a posterior can be trusted, quantities that label switching leaves alone first.

    Chains are judged by rank-normalised split r-hat and by bulk and tail ESS (Vehtari et al. 2021) and by divergences;
    approximations by Pareto k-hat (Yao et al. 2018). Numbers per component are judged only if the draws are relabelled
    and the relabelling is one (see `relabel`): otherwise the verdict on them is withheld, which is itself a problem.

    Args:
        tree: from `posterior` or `relabel`.
        r_hat: the highest that passes.
        ess: the lowest effective sample size that passes, bulk and tail.
        pareto_k: the highest k-hat that passes.
        non_permutation: the highest share of draws whose components can't be told apart that passes.

    Raises:
        TypeError: not a tree.
        ValueError: thresholds out of range, missing groups, too few chains or draws for r-hat.

    Example:
        >>> import jax, jaxgmm as jg
        >>> x = jg.datasets.load_faithful().x
        >>> fit = jg.fit(x, n_components=2, key=jax.random.key(0))
        >>> tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1), n_draws=500)
        >>> jg.diagnose(jg.relabel(tree, fit.gmm)).ok
        True
    """
    bounds = (("r_hat", r_hat, 1, np.inf), ("ess", ess, 0, np.inf), ("non_permutation", non_permutation, 0, 1))
    for name, value, least, most in (*bounds, ("pareto_k", pareto_k, -np.inf, np.inf)):
        if not least <= value <= most:
            raise UserError(f"{name} must lie between {least} and {most}, got {value}.")
    require(tree, "diagnose", posterior=(*PARAMETERS, *INVARIANT), allocations=("n_clusters",), sample_stats=())
    facts = facts_of(tree.children["sample_stats"]) | facts_of(tree)
    approximate = facts.get("method") in approximations()
    sizes = group_of(tree, "posterior").sizes
    if not approximate and (sizes["chain"] < _LEAST_CHAINS or sizes["draw"] < _LEAST_DRAWS):
        raise UserError(
            f"the tree has {sizes['chain']} chain(s) of {sizes['draw']} draws, too few for r-hat: at least {_LEAST_CHAINS} "
            f"chains of {_LEAST_DRAWS} are needed, posterior(..., n_chains=4, n_draws=1000)."
        )

    invariant, components, notes = _quantities(tree)
    overlap = float(facts.get("non_permutation_rate", 0))
    known = labels_known(tree)
    meaningful = known and overlap <= non_permutation
    table = pd.concat(
        [
            _summary(invariant, approximate).assign(meaning="label-invariant"),
            _summary(components, approximate).assign(meaning="relabelled" if meaningful else "labels may switch"),
        ]
    )
    problems = _of_method(tree, facts, approximate, pareto_k)
    judged = table[table["meaning"] != "labels may switch"]
    problems += _of_draws(judged) if approximate else _of_chains(judged, r_hat, ess, _other_ways(tree, facts))
    if not known:
        problems.append(
            "The verdict on single components is withheld: their labels may switch between draws. "
            "jaxgmm.relabel(tree, fit.gmm) puts them in order."
        )
    elif not meaningful:
        problems.append(
            f"The verdict on single components is withheld: in {overlap:.1%} of the draws (more than {non_permutation:.1%}) "
            "two of them can't be told apart, so their numbers mix. Use the label-invariant ones, or fewer components."
        )
    return Diagnostics(table, tuple(problems), tuple(notes))


def _quantities(tree: xarray.DataTree) -> tuple[xarray.Dataset, xarray.Dataset, list[str]]:
    """What the table is about: label-invariant quantities, those of components, and remarks."""
    posterior, draws = group_of(tree, "posterior"), draws_of(tree)
    family, notes = get_family(draws.family), []
    extra = [name for name in posterior.data_vars if name not in (*INVARIANT, *PARAMETERS)]
    invariant = posterior[list(INVARIANT)].merge(group_of(tree, "allocations")[["n_clusters"]])
    invariant = invariant.merge(posterior[[name for name in extra if "component_id" not in posterior[name].dims]])
    components = posterior[["weights", "means"]]

    own = parameter_dims(draws.family)["covariances"]
    dims = ("component_id", "feature")
    shared = tuple(axis for axis, dim in enumerate(dims, start=2) if dim not in own)
    spread = xarray.Dataset(coords=components.coords)
    spread["standard_deviations"] = (
        ["chain", "draw", *(dim for dim in dims if dim in own)],
        standard_deviations(draws).squeeze(shared),
    )
    if family.structure.dense and draws.n_features > 1:
        pairs = list(zip(*np.triu_indices(draws.n_features, 1), strict=True))
        n_matrices = draws.n_components if family.per_component else 1
        if len(pairs) * n_matrices > _MOST_CORRELATIONS:
            notes.append(f"The table leaves out {len(pairs) * n_matrices} correlations; jaxgmm.intervals has them.")
        else:
            i, j = np.array(pairs).T
            names = [str(name) for name in posterior["feature"].values]
            values = np.stack([correlations(draws, k)[..., i, j] for k in range(n_matrices)], axis=2)
            pair_dims = ["chain", "draw", "component_id", "pair"]
            spread = spread.assign_coords(pair=[f"{names[a]}, {names[b]}" for a, b in pairs])
            spread["correlations"] = (
                (pair_dims, values) if family.per_component else (["chain", "draw", "pair"], values[:, :, 0])
            )
    if family.per_component:
        return invariant, components.merge(spread), notes
    return invariant.merge(spread), components, notes


def _summary(quantities: xarray.Dataset, approximate: bool) -> pd.DataFrame:
    with np.errstate(all="ignore"):  # what never changes has no r-hat
        kind = "stats" if approximate else "all"
        raw = az.summary(quantities, kind=kind, round_to="none", ci_prob=_PROBABILITY, ci_kind="eti")
    table = pd.DataFrame(raw).astype(float)
    lower, upper = (name for name in table.columns if name.startswith("eti"))
    table = table.rename(columns={lower: "lower", upper: "upper"})
    if approximate:
        n_draws = quantities.sizes["chain"] * quantities.sizes["draw"]
        table = table.assign(r_hat=np.nan, ess_bulk=np.nan, ess_tail=np.nan, mcse_mean=table["sd"] / np.sqrt(n_draws))
    else:  # chains that each stand still, but not at one value, agree as little as can be: r-hat may be NaN
        apart = table["r_hat"].isna() & (table["sd"] > _ROUNDING * table["mean"].abs())
        table.loc[apart, "r_hat"] = np.inf
    return table[["mean", "sd", "lower", "upper", "r_hat", "ess_bulk", "ess_tail", "mcse_mean"]]


def _of_method(tree: xarray.DataTree, facts: Facts, approximate: bool, pareto_k: float) -> list[str]:
    """What the method itself knows to be wrong."""
    problems, stats = [], group_of(tree, "sample_stats")
    if approximate:
        k_hat, unconverged = facts.get("pareto_k"), facts.get("n_unconverged")
        if unconverged is not None:  # draws without a density, which are modes
            if unconverged:
                problems.append(f"{unconverged} draws did not converge (more than 0). Raise max_steps, or loosen rtol.")
        elif k_hat is None or not float(k_hat) <= pareto_k:
            value = "unknown" if k_hat is None else f"{float(k_hat):.2f}"
            problems.append(
                f"Pareto k-hat is {value} (more than {pareto_k:g}): the approximation misses parts of the posterior. "
                "Use method='nuts' or 'gibbs', or another guide."
            )
    if "diverging" in stats and stats["diverging"].any():
        diverging = stats["diverging"].values
        problems.append(
            f"{int(diverging.sum())} of {diverging.size} transitions diverged (more than 0), so parts of the posterior may be "
            "missing. Raise target_accept, take fewer components, or method='gibbs'."
        )
    return problems


def _other_ways(tree: xarray.DataTree, facts: Facts) -> str:
    """What else than a longer run would help: fewer components only where some own no rows, the other sampler elsewhere."""
    n_components = group_of(tree, "posterior").sizes["component_id"]
    empty = float((group_of(tree, "allocations")["n_clusters"] < n_components).mean())
    ways = ""
    if facts.get("method") == "gibbs":
        ways += ", or take method='nuts', which moves further where components overlap"
    else:
        ways += ", or take method='gibbs'"
    if empty > _OFTEN:
        ways += f"; or fewer components: in {empty:.0%} of the draws one is without rows"
    return ways


def _of_chains(table: pd.DataFrame, r_hat: float, ess: float, ways: str) -> list[str]:
    problems = _of_draws(table)
    high = table[table["r_hat"] > r_hat].sort_values("r_hat", ascending=False)
    if len(high):
        problems.append(
            f"r-hat is up to {high['r_hat'].iloc[0]:.4g} (more than {r_hat:g}) for {_some(high, table)}: the chains disagree. "
            f"Raise n_warmup and n_draws{ways}."
        )
    least = table[["ess_bulk", "ess_tail"]].min(axis=1)
    low = least[least < ess].sort_values()
    if len(low):
        problems.append(
            f"ESS is down to {low.iloc[0]:.0f} (less than {ess:g}) for {_some(low, table)}: intervals and means are "
            f"noisy. Raise n_draws{ways}."
        )
    return problems


def _of_draws(table: pd.DataFrame) -> list[str]:
    broken = table[~np.isfinite(table[["mean", "sd"]]).all(axis=1)]
    if broken.empty:
        return []
    return [
        f"NaN or infinite draws (more than 0) of {_some(broken, table)}: the run broke down. Start from another fit, or set a "
        "stronger prior."
    ]


def _some(rows: pd.DataFrame | pd.Series, table: pd.DataFrame) -> str:
    more = ", ..." if len(rows) > _NAMED else ""
    return f"{len(rows)} of {len(table)} quantities ({', '.join(map(str, rows.index[:_NAMED]))}{more})"
