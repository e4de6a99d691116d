"""The `[posterior]` table of a config."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from jaxgmm.app.config.strict import Positive, Seed, StrictTable
from jaxgmm.bayes.methods import METHODS, chains, methods_with
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Facts

Guide = Literal["multivariate_normal", "normal", "low_rank"]
Group = Literal["log_likelihood", "log_prior", "prior", "posterior_predictive"]

# The keys of [posterior] that only some methods have.
METHODS_WITH = methods_with()
MARKOV_CHAINS = chains()
if TYPE_CHECKING:
    Method = str  # whatever the table of methods has
else:
    Method = Literal[tuple(METHODS)]


class ThresholdsTable(StrictTable):
    """`[posterior.thresholds]`: beyond which `jaxgmm.diagnose` says that a number isn't to be trusted.

    Attributes:
        r_hat: highest that is still good, of chains that agree with each other.
        ess: lowest effective sample size that is still good.
        pareto_k: highest k-hat of an approximation that is still good.
        non_permutation: highest share of draws whose components can't be told apart that is still good.
    """

    r_hat: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.01
    ess: Positive = 400.0
    pareto_k: Annotated[float, Field(gt=0, le=1)] = 0.7
    non_permutation: Annotated[float, Field(ge=0, le=1)] = 0.05


class PosteriorTable(StrictTable):
    """`[posterior]`: the stage that draws from the posterior, from the fit on. Keys are the arguments of `jaxgmm.posterior`.

    Attributes:
        method: "nuts", "gibbs", "svi", "laplace", "vb", "sandwich", "bootstrap" or "weighted-likelihood".
        n_draws: of each chain.
        n_chains: at least 2 for "nuts" and "gibbs".
        n_warmup: steps of each chain thrown away before; the method's default if left out. For "nuts" and "gibbs".
        seed: of the draws.
        prior: "fit", that of the fit, or "richardson-green", for one feature.
        groups: to add to posterior.nc: "log_likelihood", "log_prior", "prior", "posterior_predictive".
        target_accept, max_tree_depth, dense_mass: of "nuts".
        thin: of "gibbs".
        guide, n_steps, learning_rate, batch_size: of "svi".
        rtol, max_steps: of "vb", "bootstrap" and "weighted-likelihood".
        thresholds: of the diagnostics.
    """

    method: Method
    n_draws: Annotated[int, Field(ge=4)] = 1000
    n_chains: Annotated[int, Field(ge=1)] = 4
    n_warmup: Annotated[int, Field(ge=0)] | None = None
    seed: Seed = 0
    prior: Literal["fit", "richardson-green"] = "fit"
    groups: Annotated[tuple[Group, ...], Field(strict=False)] = ()
    target_accept: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_tree_depth: Annotated[int, Field(ge=1, le=20)] | None = None
    dense_mass: bool | None = None
    thin: Annotated[int, Field(ge=1)] | None = None
    guide: Guide | None = None
    n_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Positive | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_steps: Annotated[int, Field(ge=1)] | None = None
    thresholds: ThresholdsTable = ThresholdsTable()

    @property
    def options(self) -> Facts:
        """What is given of the keys that only some methods have."""
        return self.model_dump(include=set(METHODS_WITH), exclude_none=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.options:
            if self.method not in METHODS_WITH[name]:
                having = " and ".join(repr(method) for method in METHODS_WITH[name])
                raise UserError(f"{name} is for method {having}, but method = {self.method!r}: remove it")
        if self.method in MARKOV_CHAINS and self.n_chains < 2:
            raise UserError(f"n_chains = {self.n_chains}, but r-hat of method {self.method!r} needs at least 2")
        if len(set(self.groups)) < len(self.groups):
            raise UserError(f"groups names a group twice: {', '.join(self.groups)}")
        return self
