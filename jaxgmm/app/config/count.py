"""The `[count]` table of a config."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jaxgmm.app.config.strict import Positive, Seed, StrictTable
from jaxgmm.covariance import get_family
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import is_finite_number

# As `jaxgmm.bayes` has them, without importing it.
COUNTED_FAMILIES = ("full", "diag", "spherical")
N_COMPONENTS = ("beta-negative-binomial", "geometric", "poisson", "uniform")
ALPHA = ("f", "gamma")


class CountThresholdsTable(StrictTable):
    """`[count.thresholds]`: beyond which `jaxgmm.cluster_count` withholds its verdict.

    Attributes:
        r_hat: highest of the number of clusters that is still good.
        ess: lowest effective sample size of it that is still good.
        mcse: highest Monte-Carlo standard error of the most probable number's probability that is still good.
        cut_off: the most that more than max_components components may change a probability (where the prior has no more:
            ten times the probability of so many clusters).
    """

    r_hat: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.05
    ess: Positive = 200.0
    mcse: Positive = 0.05
    cut_off: Annotated[float, Field(ge=0, le=1)] = 0.01


class CountTable(StrictTable):
    """`[count]`: the stage that draws from the posterior over the number of clusters.

    Keys are the arguments of `jaxgmm.count_clusters`, with its defaults.

    Attributes:
        family: of the components; that of the fit if left out. Without [fit] and [compare] "full", "spherical" with
            "richardson-green".
        prior: of components: "default", as [prior] has it, or "richardson-green", for one feature.
        model: "mixture", "sparse" or "dirichlet-process".
        n_components: the prior of K for "mixture", a name or `max_components` probabilities.
        weights: "dynamic" or "static", for "mixture".
        alpha: a number, "f" or "gamma".
        max_components: J, the most components.
        n_draws: of each chain; as many as a verdict takes if left out.
        max_draws: of each chain, at most, without `n_draws`.
        max_seconds: that the chains may take.
        n_chains: at least 2.
        n_warmup: steps of each chain thrown away before.
        thin: sweeps a step.
        n_moves: rounds of proposals a sweep: to split or merge clusters, to bear or bury one, to set a few rows apart.
        seed: of the draws.
        thresholds: of the verdict.
    """

    family: str | None = None
    prior: Literal["default", "richardson-green"] = "default"
    model: Literal["mixture", "sparse", "dirichlet-process"] = "mixture"
    n_components: str | tuple[float, ...] | None = None
    weights: Literal["dynamic", "static"] | None = None
    alpha: str | float | None = None
    max_components: Annotated[int, Field(ge=1)] = 30
    n_draws: Annotated[int, Field(ge=4)] | None = None
    max_draws: Annotated[int, Field(ge=4)] | None = None
    max_seconds: Positive | None = None
    n_chains: Annotated[int, Field(ge=2)] = 4
    n_warmup: Annotated[int, Field(ge=0)] = 500
    thin: Annotated[int, Field(ge=1)] = 1
    n_moves: Annotated[int, Field(ge=0)] = 2
    seed: Seed = 0
    thresholds: CountThresholdsTable = CountThresholdsTable()

    @property
    def options(self) -> Facts:
        """The arguments of `count_clusters`, but for its family, prior and key."""
        return self.model_dump(exclude={"family", "prior", "seed", "thresholds"}, exclude_none=True)

    @field_validator("family")
    @classmethod
    def _counted(cls, name: str | None) -> str | None:
        name = None if name is None else get_family(name).name
        if name not in (None, *COUNTED_FAMILIES):
            raise UserError(f"give one whose components don't share parameters, {', '.join(COUNTED_FAMILIES)}, not {name!r}")
        return name

    @field_validator("n_components", mode="plain")
    @classmethod
    def _a_prior_of_k(cls, value: object) -> str | tuple[float, ...] | None:
        if value is None or (isinstance(value, str) and value in N_COMPONENTS):
            return value
        if isinstance(value, list | tuple) and all(is_finite_number(p) and p >= 0 for p in value) and sum(value) > 0:
            return tuple(map(float, value))
        names = ", ".join(map(repr, N_COMPONENTS))
        raise UserError(f"give {names}, or a list with the probabilities of 1, 2, ... components, not {value!r}")

    @field_validator("alpha", mode="plain")
    @classmethod
    def _a_concentration(cls, value: Any) -> str | float | None:
        if value is None or (isinstance(value, str) and value in ALPHA):
            return value
        if is_finite_number(value) and value > 0:
            return float(value)
        raise UserError(f"give a positive number, 'f' or 'gamma', not {value!r}")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("n_components", "weights"):
            if self.model != "mixture" and getattr(self, name) is not None:
                raise UserError(f"{name} is for model 'mixture', but model = {self.model!r}: remove it")
        if self.n_draws is not None and self.max_draws is not None:
            raise UserError(f"n_draws = {self.n_draws} is how many draws there are, max_draws how many at most: give one")
        if self.n_draws is None:
            usual, asked = CountThresholdsTable(), self.thresholds
            if asked.ess > usual.ess or asked.r_hat < usual.r_hat or asked.mcse < usual.mcse:
                raise UserError(
                    f"without n_draws chains stop at r_hat = {usual.r_hat:g}, ess = {usual.ess:g}, mcse = {usual.mcse:g}: give "
                    "n_draws where thresholds are stricter"
                )
        if isinstance(self.n_components, tuple) and len(self.n_components) != self.max_components:
            raise UserError(
                f"n_components has {len(self.n_components)} probabilities, but max_components = {self.max_components}: give "
                "one for each number of components"
            )
        return self
