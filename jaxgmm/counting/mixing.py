"""How well chains of the number of clusters agree, and what their draws can tell."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

LEAST_DRAWS = 4  # of each chain: r-hat halves them
R_HAT, ESS, MCSE = 1.05, 200.0, 0.05  # that a verdict needs


@dataclass(frozen=True)
class Mixing:
    """What the draws say, and how surely.

    Attributes:
        p: probability of 1, 2, ... clusters.
        mcse: its Monte-Carlo standard error; NaN of numbers that no draw has, or all have: the draws can't tell it.
        r_hat, ess_bulk, ess_tail: of the number of clusters.
        n_draws: of each chain.
    """

    p: Float[np.ndarray, " J"]
    mcse: Float[np.ndarray, " J"]
    r_hat: float
    ess_bulk: float
    ess_tail: float
    n_draws: int

    @classmethod
    def of(cls, clusters: Int[np.ndarray, "chain draw"], most: int) -> "Mixing":
        """Of the number of clusters in each draw, at most `most`."""
        p = np.bincount(clusters.ravel(), minlength=most + 1)[1:] / clusters.size
        mcse = np.array([mcse_of(clusters == count) if p[count - 1] else np.nan for count in range(1, most + 1)])
        return cls(p, mcse, *_mixing(clusters), clusters.shape[1])

    @property
    def mode(self) -> int:
        """The most probable number of clusters."""
        return int(self.p.argmax()) + 1

    @property
    def so_far(self) -> str:
        """In a few words."""
        error = np.nan_to_num(self.mcse[self.mode - 1])
        clusters = "1 cluster" if self.mode == 1 else f"{self.mode} clusters"
        return f"{clusters} {self.p[self.mode - 1]:.2f} ± {error:.2f}, ESS {min(self.ess_bulk, self.ess_tail):.0f}"

    def problems(self, r_hat: float, ess: float, mcse: float) -> list[str]:
        """Why the draws give no verdict yet: sentences, each with a value, its threshold and a way out."""
        found, least, error = [], min(self.ess_bulk, self.ess_tail), self.mcse[self.mode - 1]
        more = "jaxgmm.continue_chains(tree) makes more"
        if not self.r_hat <= r_hat:
            found.append(
                f"r-hat of the number of clusters is {self.r_hat:.3f} (more than {r_hat:g}): the chains disagree. {more}; or "
                "raise n_moves."
            )
        if not least >= ess:
            found.append(
                f"ESS of the number of clusters is {least:.0f} (less than {ess:g}): {self._needed(ess / least)}. {more}; or "
                "raise thin or n_chains."
            )
        if error > mcse:
            found.append(
                f"The Monte-Carlo error of the probability of {self.mode} clusters is {error:.3f} (more than {mcse:g}):"
                f" {self._needed((error / mcse) ** 2)}. {more}."
            )
        return found

    def _needed(self, factor: float) -> str:
        """So many times the draws, rounded up to two digits, since an effective size is itself an estimate."""
        if not math.isfinite(factor):
            return "many more draws are needed"
        n_draws = self.n_draws * factor
        unit = 10 ** max(0, math.floor(math.log10(n_draws)) - 1)
        return f"about {math.ceil(n_draws / unit) * unit} draws of each chain would do"


def _mixing(clusters: np.ndarray) -> tuple[float, float, float]:
    """r-hat, bulk ESS and tail ESS."""
    values = clusters.astype(float)
    if (values == values[0, 0]).all():
        return 1.0, float(values.size), float(values.size)
    import arviz as az  # takes .6 s: see `count_clusters`

    with np.errstate(divide="ignore", invalid="ignore"):  # each chain may have stayed at a number of its own
        r_hat, bulk = float(az.rhat(values)), float(az.ess(values))
        tail = float(az.ess(values, method="tail", prob=(0.05, 0.95)))
    # The tails of few whole numbers may be one value, of which ArviZ has no ESS.
    return (r_hat if np.isfinite(r_hat) else np.inf), bulk, (tail if np.isfinite(tail) else bulk)


def mcse_of(happened: Bool[np.ndarray, "chain draw"]) -> float:
    """The Monte-Carlo standard error of how often something happens; NaN where it always or never does."""
    if happened.all() or not happened.any():
        return float("nan")
    import arviz as az

    return float(happened.std() / np.sqrt(az.ess(happened.astype(float), method="mean")))
