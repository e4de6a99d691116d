"""The tables of a config for point estimates: `[prior]`, and `[fit]` or `[compare]`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, field_validator, model_validator

from jaxgmm.app.config.strict import Names, Positive, Seed, StrictTable
from jaxgmm.covariance import FAMILIES, get_family
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.types import Facts
from jaxgmm.tools.validation import is_finite_number


def _a_box(value: Any) -> bool | tuple[float, ...]:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and value and all(is_finite_number(width) and width > 0 for width in value):
        return tuple(map(float, value))
    raise UserError(f"give true, or a list with the width of the box in each column, not {value!r}")


Box = Annotated[bool | tuple[float, ...], PlainValidator(_a_box, json_schema_input_type=bool | list[float])]


class PriorTable(StrictTable):
    """`[prior]`: of the mixture's parameters.

    Attributes:
        kind: "default", `jaxgmm.Prior.default`; "fraley-raftery", mclust's, whose scale is the sample's; or "none", maximum
            likelihood. What follows is for the default prior.
        concentration: of the Dirichlet prior of the weights, at least 1 for a fit, instead of the default's.
        mean_precision: how many rows the prior mean counts for, where the random scale is 1, instead of the default's.
        degrees_of_freedom: of the inverse-Wishart prior of the covariances, instead of the default's; its scale stays.
        least_scale: the least of the random scale that covariances have in common; 1 holds it fixed.
    """

    kind: Literal["default", "fraley-raftery", "none"] = "default"
    concentration: Positive | None = None
    mean_precision: Positive | None = None
    degrees_of_freedom: Positive | None = None
    least_scale: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def overrides(self) -> dict[str, float]:
        """What is given instead of the default prior's values."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind != "default" and self.overrides:
            raise UserError(f"{', '.join(self.overrides)} given, but kind = {self.kind!r}: they change the default prior only")
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
        noise: true for a component besides that is uniform over the box of the rows, which outliers are of; or the widths of a
            box, one for each column.
        stopping: the rule that rtol is applied by.
        acceleration: "auto", as `fit` chooses by the number of rows; "none" for plain EM; or "squarem".
        truncate: with hundreds of components, the share of a row's density that may be left out to be faster, such as 1e-9.
    """

    n_components: Annotated[int, Field(ge=1)]
    family: str = "full"
    seed: Seed = 0
    init: Literal["k-means++", "random"] = "k-means++"
    n_init: Annotated[int, Field(ge=1)] = 10
    rtol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    max_steps: Annotated[int, Field(ge=1)] = 500
    noise: Box = False
    stopping: Literal["relative", "aitken"] = "relative"
    acceleration: Literal["auto", "none", "squarem"] = "auto"
    truncate: Annotated[float, Field(ge=0, le=1e-8)] = 0.0

    @property
    def options(self) -> Facts:
        """The arguments of `fit`, but for its key."""
        return self.model_dump(exclude={"seed"}) | {"acceleration": None if self.acceleration == "none" else self.acceleration}

    @field_validator("family")
    @classmethod
    def _known(cls, name: str) -> str:
        return get_family(name).name


class CompareTable(StrictTable):
    """`[compare]`: the stage that fits several models, instead of `[fit]`; the criterion's choice is the run's fit.

    Attributes:
        families: of the covariances, scikit-learn's names or mclust's; "all": its fourteen.
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
        noise: as in `[fit]`, of every model.
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
    noise: Box = False

    @property
    def options(self) -> Facts:
        """The arguments of `compare`, but for its key."""
        return self.model_dump(exclude={"seed", "criterion"}) | {"n_components": self.counts}

    @property
    def counts(self) -> list[int]:
        """Every K."""
        given = self.n_components
        return list(range(given[0], given[1] + 1)) if len(given) == 2 else list(given)

    @field_validator("families", mode="before")
    @classmethod
    def _all(cls, names: object) -> object:
        return ("all",) if names == "all" else names

    @field_validator("families")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names == ("all",):
            return tuple(FAMILIES)
        names = tuple(get_family(name).name for name in names)
        if not names or len(set(names)) < len(names):
            raise UserError(f"name each family once, and at least one; got {', '.join(names) or 'none'}")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if list(self.n_components) != sorted(set(self.n_components)):
            raise UserError(f"compare.n_components must increase, got {list(self.n_components)}")
        needs = {"held_out": ("held_out_folds", 5), "loo": ("loo", "true"), "log_evidence": ("elbo", "true")}
        if self.criterion in needs:
            name, value = needs[self.criterion]
            if not getattr(self, name):
                raise UserError(f"compare.criterion = {self.criterion!r} needs compare.{name} = {value}")
        return self
