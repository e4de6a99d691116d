"""The tables of a config: keys, types, defaults, and what doesn't go together."""

from typing import Self

from pydantic import Field, model_validator

from jaxgmm.app.config.combining import check_combination
from jaxgmm.app.config.count import COUNTED_FAMILIES, CountTable, CountThresholdsTable
from jaxgmm.app.config.files import DataTable, OutputTable, ReportTable
from jaxgmm.app.config.fit import CompareTable, FitTable, PriorTable
from jaxgmm.app.config.posterior import PosteriorTable, ThresholdsTable
from jaxgmm.app.config.strict import StrictTable
from jaxgmm.covariance import get_family
from jaxgmm.tools.errors import UserError


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
            raise UserError("[fit] is missing: name there the model to fit, or several in [compare], or let [count] find K")
        if self.fit is not None and self.compare is not None:
            raise UserError("[fit] and [compare] are both there, but the run's fit is that of one of them: remove the other")
        for name, own in (("posterior", self.posterior), ("count", self.count)):
            if own is not None and own.prior != "richardson-green" and self.prior.kind == "none":
                raise UserError(
                    f"[{name}] needs a prior, but prior.kind = 'none', maximum likelihood: set prior.kind = 'default', or "
                    f"remove [{name}]"
                )
        if self.prior.kind == "none" and self.compare is not None and (self.compare.loo or self.compare.elbo):
            name = "loo" if self.compare.loo else "elbo"
            raise UserError(f"compare.{name} needs a prior, but prior.kind = 'none': set prior.kind = 'default', or remove it")
        if self.data.in_pieces:
            for name, table in (("posterior", self.posterior), ("count", self.count), ("report", self.report)):
                if table is not None:
                    raise UserError(f"[{name}] needs all rows at once, but data.in_pieces is true: remove one of them")
            if self.compare is not None and (self.compare.held_out_folds or self.compare.loo or self.compare.elbo):
                raise UserError("compare.held_out_folds, loo and elbo need all rows at once, but data.in_pieces is true")
        check_combination(self.data, self.fit, self.compare, self.posterior, self.count)
        if self.count is not None:
            self._check_count()
        self._check_restricted()
        if self.posterior is None:
            return self
        if self.posterior.prior == "richardson-green" and self.fit is None:
            raise UserError("posterior.prior = 'richardson-green' is for one family: name it in [fit], instead of [compare]")
        if self.posterior.prior == "richardson-green" and self.fit and not get_family(self.fit.family).per_component:
            raise UserError(
                f"posterior.prior = 'richardson-green' gives each component its own variance, but fit.family = "
                f"{self.fit.family!r}: set fit.family = 'spherical'"
            )
        return self

    @property
    def counts_first(self) -> bool:
        """Does [count] say how many components the fit has?"""
        return self.fit is self.compare is None

    def _check_restricted(self) -> None:
        key, families = ("fit.family", [self.fit.family]) if self.fit else ("compare.families", list[str]())
        needs = {"[posterior]": self.posterior is not None}
        if self.compare is not None:
            families = list(self.compare.families)
            needs |= {"compare.loo": self.compare.loo, "compare.elbo": self.compare.elbo}
        for name in families:
            family, of = get_family(name), next((of for of, asked in needs.items() if asked), None)
            if family.restricted and of is not None:
                raise UserError(
                    f"{of} isn't for {key} = {name!r}, which restricts how covariances differ and has no posterior here: "
                    f"take {family.general!r}, or remove {of}"
                )

    def _check_count(self) -> None:
        if self.data.sample_weight is not None:
            raise UserError("[count] has no weights of rows: remove data.sample_weight, or [count]")
        if self.count is not None and self.count.family is not None:
            return
        key, families = "compare.families", () if self.compare is None else self.compare.families
        if self.fit is not None:
            key, families = "fit.family", (self.fit.family,)
        for family in families:
            if family not in COUNTED_FAMILIES:
                raise UserError(
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
