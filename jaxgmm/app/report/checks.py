"""Whether to trust a run, in plain words: what a report begins with."""

from typing import NamedTuple

from scipy.stats import binom

from jaxgmm.app.report.files import RunFiles
from jaxgmm.bayes.methods import chains
from jaxgmm.tools.formatting import share
from jaxgmm.tools.types import Facts

_FEW = 0.2  # of the starts at the best optimum, below which there may well be a better one


class Check(NamedTuple):
    """One thing to look at: `level` is "good", "look" or "bad"."""

    level: str
    title: str
    text: str


def checks(run: RunFiles, odd_statistics: tuple[int, int] | None) -> list[Check]:
    """The checks of every stage that the run had.

    Args:
        run: its files.
        odd_statistics: how many the mixture doesn't reproduce, of how many; None if that isn't known.
    """
    found = [_status(run.fit), _replication(run.fit)]
    if empty := run.fit.get("empty"):
        many = f"{len(empty)} of {run.fit['n_components']} components have no rows: {', '.join(map(str, empty[:8]))}"
        found.append(Check("look", "Components without rows", f"{many}. That is more than these rows can tell apart."))
    if run.posterior is not None:
        found += _posterior(run.posterior)
    if odd_statistics is not None:
        level, title = (
            ("look", "Not all of the data is reproduced")
            if _more_than_chance(*odd_statistics)
            else ("good", "The data is reproduced")
        )
        found.append(Check(level, title, reproduced(*odd_statistics)))
    if run.cluster_count is not None:
        count = run.fit["count"]
        level, title = (
            ("bad", "The number of clusters is not settled") if count["problems"] else ("good", "The number of clusters")
        )
        found.append(Check(level, title, f"{count['verdict'][0].upper()}{count['verdict'][1:]}"))
    return found


def reproduced(odd: int, total: int) -> str:
    """What posterior predictive checks say, in a sentence."""
    if not odd:
        return f"The mixture reproduces all {total} statistics: each lies within 95 % of the drawn ones."
    said = f"Of {total} statistics of the data {odd} lie{'s' if odd == 1 else ''} outside of 95 % of those of drawn data"
    if _more_than_chance(odd, total):
        return f"{said}, where about one in twenty would by chance: the mixture does not reproduce them."
    return f"{said}, no more than would by chance."


def _more_than_chance(odd: int, total: int) -> bool:
    """Whether so many of the statistics outside of 95 % are a surprise."""
    return bool(binom.sf(odd - 1, total, 0.05) < 0.05)


def _status(fit: Facts) -> Check:
    if fit["status"] == "converged":
        said = f"After {fit['n_steps']} steps of EM another one would change next to nothing; the optimum may be a local one."
        return Check("good", "The fit converged", said)
    return Check("bad", f"The fit ended as “{fit['status']}”", fit["meaning"])


def _replication(fit: Facts) -> Check:
    n, starts, gap = fit["replication"], fit["n_starts"], fit.get("gap")
    below = "" if gap is None else f" The next best optimum lies {gap:.3g} nats below."
    labels = (fit.get("labels") or {}).get("components", {})
    if starts == 1 and set(labels.values()) == set(range(fit["n_components"])):
        return Check("good", "One start, from the labels", "Each component started from its rows of known labels.")
    if starts == 1:
        return Check("look", "One start only", "Whether a better optimum exists is not known: set fit.n_init to 10 or more.")
    said = f"{n} of {starts} starts reached the best optimum.{below}"
    if n < max(2, _FEW * starts):
        return Check("look", "Few starts agree", f"{said} There may be a better one: raise n_init.")
    return Check("good", "Starts agree" if 2 * n >= starts else "Several starts agree", said)


def _posterior(posterior: Facts) -> list[Check]:
    found = [Check("bad", "The posterior has a problem", sentence) for sentence in posterior["problems"]]
    table = [row for row in posterior["quantities"] if row["meaning"] in ("label-invariant", "relabelled")]
    if not posterior["problems"]:
        r_hats = [row["r_hat"] for row in table if row.get("r_hat") is not None]
        if posterior["method"] in chains() and r_hats:
            ess = min(min(row["ess_bulk"], row["ess_tail"]) for row in table if row.get("r_hat") is not None)
            text = (
                f"{posterior['n_chains']} chains found the same posterior: r-hat is at most {max(r_hats):.3f} (1 is perfect), "
                f"and each quantity is known as well as from {ess:.0f} independent draws."
            )
            found.append(Check("good", "The chains agree", text))
        else:
            k_hat = posterior.get("pareto_k")
            known = "" if k_hat is None else f" k-hat is {k_hat:.2f}; up to 0.7 it can be used."
            found.append(Check("good", "The approximation", f"No problems were found.{known}"))
    rate = posterior["non_permutation_rate"]
    text = f"In {share(rate)} of the draws two components were too much alike to be told apart."
    if not rate:
        text = "In every draw each component could be told from the others."
    level, title = ("good", "Components can be told apart") if rate <= 0.05 else ("look", "Components overlap")
    found.append(Check(level, title, text if rate <= 0.05 else f"{text} What is said of single components is to be doubted."))
    return found + [Check("look", "To note", sentence) for sentence in posterior.get("notes", [])]
