"""The tables of a config: keys, types, defaults, and what doesn't go together."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jaxgmm.count_settings import COUNTED_FAMILIES, CountTable, CountThresholdsTable
from jaxgmm.covariance import get_family
from jaxgmm.datasets import LOADERS
from jaxgmm.strict import Names, Positive, Seed, StrictTable
from jaxgmm.validation import unknown

Guide = Literal["multivariate_normal", "normal", "low_rank"]
Group = Literal["log_likelihood", "log_prior", "prior", "posterior_predictive"]

MARKOV_CHAINS = ("nuts", "gibbs")
# The keys of [posterior] that only some methods have.
METHODS_WITH = {
    "n_warmup": MARKOV_CHAINS,
    "target_accept": ("nuts",),
    "max_tree_depth": ("nuts",),
    "dense_mass": ("nuts",),
    "guide": ("svi",),
    "n_steps": ("svi",),
    "learning_rate": ("svi",),
    "batch_size": ("svi",),
    "rtol": ("vb",),
    "max_steps": ("vb",),
}


class DataTable(StrictTable):
    """`[data]`: the rows to fit.

    Attributes:
        dataset: name of a data set that ships with jaxgmm, or
        path: a CSV (.csv, .tsv, .txt) or Parquet (.parquet) file with named columns, relative to the config's folder.
        columns: the features, by name; every column if left out (of a shipped data set, its features).
        sample_weight: name of the column with the rows' weights.
        delimiter: between the columns of a CSV; "," if left out, a tab for .tsv.
    """

    dataset: str | None = None
    path: str | None = None
    columns: Names | None = None
    sample_weight: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None

    @field_validator("dataset")
    @classmethod
    def _ships(cls, name: str | None) -> str | None:
        if name is not None and name not in LOADERS:
            raise unknown("data set", name, LOADERS)
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dataset is None) == (self.path is None):
            raise ValueError("give exactly one of path (a file) and dataset (a name)")
        if self.delimiter is not None and self.path is None:
            raise ValueError("delimiter is for a path to a CSV file")
        if self.columns == ():
            raise ValueError("columns is empty; leave it out to take every column")
        columns = self.columns or ()
        if len(set(columns)) < len(columns):
            raise ValueError(f"columns names a column twice: {', '.join(columns)}")
        if self.sample_weight in columns:
            raise ValueError(f"sample_weight = {self.sample_weight!r} is also one of the columns")
        return self


class PriorTable(StrictTable):
    """`[prior]`: of the mixture's parameters.

    Attributes:
        kind: "default", the scale-aware conjugate prior of `jaxgmm.Prior.default`, or "none", maximum likelihood.
        concentration: of the Dirichlet prior of the weights, at least 1 for a fit, instead of the default's.
        mean_precision: how many rows the prior mean counts for, instead of the default's.
        degrees_of_freedom: of the inverse-Wishart prior of the covariances, instead of the default's; its scale stays.
    """

    kind: Literal["default", "none"] = "default"
    concentration: Positive | None = None
    mean_precision: Positive | None = None
    degrees_of_freedom: Positive | None = None

    @property
    def overrides(self) -> dict[str, float]:
        """What is given instead of the default prior's values."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "none" and self.overrides:
            raise ValueError(f"{', '.join(self.overrides)} given, but kind = 'none' leaves the prior out")
        return self


class FitTable(StrictTable):
    """`[fit]`: the stage that fits one mixture. Keys are the arguments of `jaxgmm.fit`, with its defaults.

    Attributes:
        n_components: K.
        family: of the covariances, scikit-learn's name or mclust's.
        seed: of the random starts.
        init: how a start is drawn.
        n_init: number of starts.
        rtol: stop once an EM step gains less than this, in nats per unit of weight.
        max_steps: of EM, for every start.
        stopping: the rule that rtol is applied by.
        acceleration: "none" for plain EM, or "squarem".
    """

    n_components: Annotated[int, Field(ge=1)]
    family: str = "full"
    seed: Seed = 0
    init: Literal["k-means++", "random"] = "k-means++"
    n_init: Annotated[int, Field(ge=1)] = 10
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    max_steps: Annotated[int, Field(ge=1)] = 500
    stopping: Literal["relative", "aitken"] = "relative"
    acceleration: Literal["none", "squarem"] = "none"

    @field_validator("family")
    @classmethod
    def _known(cls, name: str) -> str:
        return get_family(name).name


class CompareTable(StrictTable):
    """`[compare]`: the stage that fits several models, instead of `[fit]`; the criterion's choice is the run's fit.

    Attributes:
        families: of the covariances, scikit-learn's names or mclust's.
        n_components: two numbers are the first K and the last; one, or more than two, are the K themselves.
        criterion: that chooses: "bic", "aic", "icl", "held_out", "loo" or "log_evidence".
        held_out_folds: also fit to all rows but a fold, and score that; left out: don't.
        loo: also leave-one-out, from a Laplace approximation of each model; seconds a model.
        elbo: also the bound of the evidence by variational Bayes, and the criterion log_evidence.
        seed: of the random starts and the folds.
        init: how a start is drawn.
        n_init: number of starts of each model.
        rtol: stop once an EM step gains less than this, in nats per unit of weight.
        max_steps: of EM, for every start.
    """

    families: Names = ("full", "tied", "diag", "spherical")
    n_components: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)] = (1, 9)
    criterion: Literal["bic", "aic", "icl", "held_out", "loo", "log_evidence"] = "bic"
    held_out_folds: Annotated[int, Field(ge=2)] | None = None
    loo: bool = False
    elbo: bool = False
    seed: Seed = 0
    init: Literal["k-means++", "random"] = "k-means++"
    n_init: Annotated[int, Field(ge=1)] = 10
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    max_steps: Annotated[int, Field(ge=1)] = 500

    @property
    def counts(self) -> list[int]:
        """Every K."""
        given = self.n_components
        return list(range(given[0], given[1] + 1)) if len(given) == 2 else list(given)

    @field_validator("families")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(get_family(name).name for name in names)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"name each family once, and at least one; got {', '.join(names) or 'none'}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.n_components) != sorted(set(self.n_components)):
            raise ValueError(f"compare.n_components must increase, got {list(self.n_components)}")
        needs = {"held_out": ("held_out_folds", 5), "loo": ("loo", "true"), "log_evidence": ("elbo", "true")}
        if self.criterion in needs:
            name, value = needs[self.criterion]
            if not getattr(self, name):
                raise ValueError(f"compare.criterion = {self.criterion!r} needs compare.{name} = {value}")
        return self


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
        method: "nuts", "gibbs", "svi", "laplace" or "vb".
        n_draws: of each chain.
        n_chains: at least 2 for "nuts" and "gibbs".
        n_warmup: steps of each chain thrown away before; the method's default if left out. For "nuts" and "gibbs".
        seed: of the draws.
        prior: "fit", that of the fit, or "richardson-green", for one feature.
        groups: to add to posterior.nc: "log_likelihood", "log_prior", "prior", "posterior_predictive".
        target_accept, max_tree_depth, dense_mass: of "nuts".
        guide, n_steps, learning_rate, batch_size: of "svi".
        rtol, max_steps: of "vb".
        thresholds: of the diagnostics.
    """

    method: Literal["nuts", "gibbs", "svi", "laplace", "vb"]
    n_draws: Annotated[int, Field(ge=4)] = 1000
    n_chains: Annotated[int, Field(ge=1)] = 4
    n_warmup: Annotated[int, Field(ge=0)] | None = None
    seed: Seed = 0
    prior: Literal["fit", "richardson-green"] = "fit"
    groups: Annotated[tuple[Group, ...], Field(strict=False)] = ()
    target_accept: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_tree_depth: Annotated[int, Field(ge=1, le=20)] | None = None
    dense_mass: bool | None = None
    guide: Guide | None = None
    n_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Positive | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_steps: Annotated[int, Field(ge=1)] | None = None
    thresholds: ThresholdsTable = ThresholdsTable()

    @property
    def options(self) -> dict[str, Any]:
        """What is given of the keys that only some methods have."""
        return self.model_dump(include=set(METHODS_WITH), exclude_none=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.options:
            if self.method not in METHODS_WITH[name]:
                having = " and ".join(repr(method) for method in METHODS_WITH[name])
                raise ValueError(f"{name} is for method {having}, but method = {self.method!r}: remove it")
        if self.method in MARKOV_CHAINS and self.n_chains < 2:
            raise ValueError(f"n_chains = {self.n_chains}, but r-hat of method {self.method!r} needs at least 2")
        if len(set(self.groups)) < len(self.groups):
            raise ValueError(f"groups names a group twice: {', '.join(self.groups)}")
        return self


class OutputTable(StrictTable):
    """`[output]`: where the results go.

    Attributes:
        directory: the run's directory, relative to the current one; runs/<name of the config> if left out.
        assignments: format of the assignments: "csv" or "parquet".
    """

    directory: str
    assignments: Literal["csv", "parquet"] = "csv"

    @property
    def path(self) -> Path:
        """The directory, from the root on."""
        return Path(self.directory).expanduser().absolute()


class ReportTable(StrictTable):
    """`[report]`: the stage that writes report.html, one page that needs no network.

    Attributes:
        title: of the page; the directory's name if left out.
        n_outliers: rows that lie farthest from their component, to list.
    """

    title: str | None = None
    n_outliers: Annotated[int, Field(ge=0)] = 10


class Config(StrictTable):
    """A whole run: its data, prior, stages and output.

    Attributes:
        data, prior, output: the tables.
        fit, compare: the stage that gives the run its fit; one of them, the other is None. Where neither is there, the fit
            has as many components as [count] finds most probable, and the defaults of [fit].
        posterior, count, report: the tables of these stages; None if they don't run.
        versions: what wrote this config, if a run did; recorded, not used.
    """

    data: DataTable
    prior: PriorTable = PriorTable()
    fit: FitTable | None = None
    compare: CompareTable | None = None
    posterior: PosteriorTable | None = None
    count: CountTable | None = None
    report: ReportTable | None = None
    output: OutputTable
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fit is self.compare is self.count is None:
            raise ValueError("[fit] is missing: name there the model to fit, or several in [compare], or let [count] find K")
        if self.fit is not None and self.compare is not None:
            raise ValueError("[fit] and [compare] are both there, but the run's fit is that of one of them: remove the other")
        for name, own in (("posterior", self.posterior), ("count", self.count)):
            if own is not None and own.prior != "richardson-green" and self.prior.kind == "none":
                raise ValueError(
                    f"[{name}] needs a prior, but prior.kind = 'none', maximum likelihood: set prior.kind = 'default', or "
                    f"remove [{name}]"
                )
        if self.prior.kind == "none" and self.compare is not None and (self.compare.loo or self.compare.elbo):
            name = "loo" if self.compare.loo else "elbo"
            raise ValueError(f"compare.{name} needs a prior, but prior.kind = 'none': set prior.kind = 'default', or remove it")
        if self.count is not None:
            self._check_count()
        if self.posterior is None:
            return self
        if self.posterior.prior == "richardson-green" and self.fit is None:
            raise ValueError("posterior.prior = 'richardson-green' is for one family: name it in [fit], instead of [compare]")
        if self.posterior.prior == "richardson-green" and self.fit and not get_family(self.fit.family).per_component:
            raise ValueError(
                f"posterior.prior = 'richardson-green' gives each component its own variance, but fit.family = "
                f"{self.fit.family!r}: set fit.family = 'spherical'"
            )
        return self

    @property
    def counts_first(self) -> bool:
        """Does [count] say how many components the fit has?"""
        return self.fit is self.compare is None

    def _check_count(self) -> None:
        if self.data.sample_weight is not None:
            raise ValueError("[count] has no weights of rows: remove data.sample_weight, or [count]")
        if self.count is not None and self.count.family is not None:
            return
        key, families = "compare.families", () if self.compare is None else self.compare.families
        if self.fit is not None:
            key, families = "fit.family", (self.fit.family,)
        for family in families:
            if family not in COUNTED_FAMILIES:
                raise ValueError(
                    f"[count] is for components that don't share parameters, {', '.join(COUNTED_FAMILIES)}, but {key} has "
                    f"{family!r}: choose among these, set count.family to one of them, or remove [count]"
                )


TABLES: dict[str, type[StrictTable]] = {
    "data": DataTable,
    "prior": PriorTable,
    "fit": FitTable,
    "compare": CompareTable,
    "posterior": PosteriorTable,
    "posterior.thresholds": ThresholdsTable,
    "count": CountTable,
    "count.thresholds": CountThresholdsTable,
    "report": ReportTable,
    "output": OutputTable,
}
