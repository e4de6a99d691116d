"""What rows may come with, gaps, errors, labels or noise, and which parts of a run don't take it."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from jaxgmm.app.config.count import CountTable
from jaxgmm.app.config.files import DataTable
from jaxgmm.app.config.fit import CompareTable, FitTable
from jaxgmm.app.config.posterior import PosteriorTable
from jaxgmm.bayes.methods import METHODS
from jaxgmm.covariance import get_family
from jaxgmm.tools.errors import UserError


class Part(NamedTuple):
    """A key or table of a config, which of gaps, errors, labels and noise it takes, and what to do for the others."""

    name: str
    takes: Collection[str]
    way_out: str


def check_combination(
    data: DataTable,
    fit: FitTable | None,
    compare: CompareTable | None,
    posterior: PosteriorTable | None,
    count: CountTable | None,
) -> None:
    """Raises ValueError where rows come with what a part of the run doesn't take: names both keys, and both ways out."""
    given = {
        "gaps": ("data.missing = 'keep'", data.missing == "keep", "set data.missing = 'drop'"),
        "errors": ("data.standard_errors", data.standard_errors is not None, "remove data.standard_errors"),
        "labels": ("data.labels", data.labels is not None, "remove data.labels"),
        "noise": _noise(fit, compare),
    }
    _check_truncated(data, fit)
    for part in (*_of_rows(data, fit, compare), *_of_stages(compare, posterior, count)):
        for kind, (key, is_given, way_out) in given.items():
            if is_given and kind not in part.takes:
                raise UserError(f"{key} doesn't go with {part.name}: {way_out}, or {part.way_out}")


def _noise(fit: FitTable | None, compare: CompareTable | None) -> tuple[str, bool, str]:
    """The key that asks for noise, whether it does, and the way out."""
    name, table = ("compare", compare) if fit is None else ("fit", fit)
    return f"{name}.noise", table is not None and table.noise is not False, f"remove {name}.noise"


def _check_truncated(data: DataTable, fit: FitTable | None) -> None:
    """Raises ValueError where components can't be left out."""
    if fit is None or not fit.truncate:
        return
    structure = get_family(fit.family).structure
    if structure.pooled or structure.rank:
        raise UserError(
            f"fit.truncate doesn't go with fit.family = {fit.family!r}, whose components share covariances: remove fit.truncate"
        )
    if data.in_pieces:
        raise UserError("fit.truncate doesn't go with data.in_pieces: remove fit.truncate, or read all rows at once")


def _of_rows(data: DataTable, fit: FitTable | None, compare: CompareTable | None) -> Iterator[Part]:
    if data.in_pieces:
        yield Part("data.in_pieces", (), "read all rows at once")
    if fit is not None and fit.truncate:
        yield Part("fit.truncate", (), "remove fit.truncate")
    key, families = ("fit.family", (fit.family,)) if fit else ("compare.families", compare.families if compare else ())
    for name in families:
        family = get_family(name)
        if family.structure.rank:
            yield Part(f"{key} = {name!r}", ("labels", "noise"), f"take {family.general!r}")


def _of_stages(compare: CompareTable | None, posterior: PosteriorTable | None, count: CountTable | None) -> Iterator[Part]:
    if compare is not None:
        yield Part("[compare]", ("gaps", "noise"), "name one model in [fit] instead")
        for name, takes in {"loo": (), "elbo": ("gaps",)}.items():
            if getattr(compare, name):
                yield Part(f"compare.{name}", takes, "take compare.held_out_folds")
    if posterior is not None:
        method = METHODS[posterior.method]
        if not (method.partly and method.noise):
            takes = (*(("gaps", "errors", "labels") if method.partly else ()), *(("noise",) if method.noise else ()))
            able = ", ".join(name for name, method in METHODS.items() if method.partly and method.noise)
            yield Part(f"posterior.method = {posterior.method!r}", takes, f"take one of {able}")
        if posterior.batch_size is not None:
            yield Part("posterior.batch_size", ("labels", "noise"), "remove posterior.batch_size")
    if count is not None:
        yield Part("[count]", (), "remove [count]")
