"""What a report says: everything out of the files of a run's directory, in words, numbers and pictures."""

from pathlib import Path
from typing import NamedTuple

from jaxgmm.app.known import known_of_rows
from jaxgmm.app.report.checks import Check, checks
from jaxgmm.app.report.choices import comparison, count
from jaxgmm.app.report.elements import Section
from jaxgmm.app.report.files import RunFiles
from jaxgmm.app.report.mixture import clusters, components, data, outliers
from jaxgmm.app.report.posterior import posterior, predictive_checks
from jaxgmm.tools.errors import UserError
from jaxgmm.version import __version__


class Page(NamedTuple):
    """The whole report."""

    title: str
    lead: str
    checks: list[Check]
    sections: list[Section]
    config: str
    versions: list[tuple[str, str]]
    note: str


def contents(directory: Path, *, title: str | None, n_outliers: int) -> Page:
    """Read a run's directory.

    Raises:
        ValueError: no finished run, or files that are damaged or of another version.
    """
    run = RunFiles.read(directory)
    try:
        return _page(run, title or directory.resolve().name, n_outliers)
    except KeyError as error:
        raise UserError(f"{directory}: its files have no {error}: they are of another version; run the config again") from error


def _page(run: RunFiles, title: str, n_outliers: int) -> Page:
    versions = {str(name): str(version) for name, version in run.config.get("versions", {}).items()}
    written = versions.get("jaxgmm", "an unknown version")
    note = "" if written == __version__ else f"The run is of jaxgmm {written}, this page of {__version__}."
    predictive = predictive_checks(run)
    made = [count(run), comparison(run), components(run), clusters(run), data(run), posterior(run, predictive)]
    sections = [section for section in made if section is not None] + [outliers(run, n_outliers)]
    trust = checks(run, None if predictive is None else (len(predictive.marked), len(predictive.rows)))
    return Page(title, _lead(run), trust, sections, run.text.split("\n[versions]")[0].strip(), sorted(versions.items()), note)


def _lead(run: RunFiles) -> str:
    fit = run.fit
    k, d = fit["n_components"], len(fit["feature_names"])
    chosen = ", the most probable number of clusters," if fit.get("n_components_from") == "count" else ""
    covariances = _FAMILY.get(fit["family"], f"covariances of mclust’s family {fit['family']}")
    names = ", ".join(fit["feature_names"][:8]) + ", …" * (d > 8)
    return (
        f"A Gaussian mixture of {k} component{'s' * (k > 1)}{chosen} with {covariances}, fitted to {fit['n_samples']} rows of "
        f"{d} feature{'s' * (d > 1)}: {names}.{_weighted(run)}{_known(run)}"
    )


def _known(run: RunFiles) -> str:
    said = [f"{name.capitalize()}: {words}." for name, words in known_of_rows(run.fit).items()]
    return "".join(f" {sentence}" for sentence in said)


def _weighted(run: RunFiles) -> str:
    if not run.is_weighted:
        return ""
    weight, column = run.column("sample_weight"), run.config["data"]["sample_weight"]
    ignored = run.fit["n_samples"] - len(weight)
    none = f"; {ignored} have weight 0 and take no part" if ignored else ""
    return f" Rows are weighted by {column}, {weight.sum():.6g} in all{none}."


_FAMILY = {
    "full": "covariances of their own (“full”)",
    "tied": "one covariance for all (“tied”)",
    "diag": "axis-aligned covariances (“diag”)",
    "spherical": "round covariances (“spherical”)",
}
