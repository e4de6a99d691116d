"""What a report says: everything out of the files of a run's directory, in words, numbers and pictures."""

import base64
import struct
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgmm import __version__
from jaxgmm.formatting import alike, number, share
from jaxgmm.report.checks import Check, checks
from jaxgmm.report.files import RunFiles

_MOST_FEATURES, _MOST_COMPONENTS = 30, 20  # in tables
_EXPECTED = 0.05  # rows as far out, in data of this size, below which one is called outlying
_LEAST_PROBABILITY = 0.0005


class Figure(NamedTuple):
    """A picture of the run's directory: a data URI, its size in CSS pixels, what it shows, and a caption."""

    source: str
    width: int
    height: int
    alt: str
    caption: str


class Table(NamedTuple):
    """Rows of text; the first cell of each is its heading. `marked` are rows to stand out."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    marked: tuple[int, ...] = ()


class Section(NamedTuple):
    """A part of the page: paragraphs, then tables, then figures."""

    anchor: str
    title: str
    text: list[str]
    tables: list[Table]
    figures: list[Figure]


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
    config = tomllib.loads(run.config)
    versions = {str(name): str(version) for name, version in config.get("versions", {}).items()}
    written = versions.get("jaxgmm", "an unknown version")
    note = "" if written == __version__ else f"The run is of jaxgmm {written}, this page of {__version__}."
    made = (_count, _comparison, _components, _clusters, _data, _posterior)
    sections = [section for make in made if (section := make(run)) is not None]
    sections.append(_outliers(run, n_outliers))
    text = run.config.split("\n[versions]")[0].strip()
    return Page(title or directory.resolve().name, _lead(run), checks(run), sections, text, sorted(versions.items()), note)


def _lead(run: RunFiles) -> str:
    fit = run.fit
    k, d = fit["n_components"], len(fit["feature_names"])
    chosen = ", the most probable number of clusters," if fit.get("n_components_from") == "count" else ""
    covariances, names = _FAMILY.get(fit["family"], fit["family"]), ", ".join(fit["feature_names"][:8]) + ", …" * (d > 8)
    return (
        f"A Gaussian mixture of {k} component{'s' * (k > 1)}{chosen} with {covariances}, fitted to {fit['n_samples']} rows of "
        f"{d} feature{'s' * (d > 1)}: {names}."
    )


_FAMILY = {
    "full": "covariances of their own (“full”)",
    "tied": "one covariance for all (“tied”)",
    "diag": "axis-aligned covariances (“diag”)",
    "spherical": "round covariances (“spherical”)",
}


def _figure(run: RunFiles, name: str, alt: str, caption: str) -> list[Figure]:
    """The picture, if the run has it."""
    path = run.directory / f"{name}.png"
    if not path.is_file():
        return []
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        raise ValueError(f"{path} is no PNG picture: run the config again")
    width, height = struct.unpack(">II", data[16:24])
    encoded = base64.b64encode(data).decode()
    return [Figure(f"data:image/png;base64,{encoded}", round(width / 1.3), round(height / 1.3), alt, caption)]


def _count(run: RunFiles) -> Section | None:
    if run.cluster_count is None:
        return None
    table, verdict = run.cluster_count, run.fit["count"]["verdict"]
    shown = [row for row in table if max(row["posterior"], row["n_components"]) >= _LEAST_PROBABILITY]
    mode = max(range(len(shown)), key=lambda i: shown[i]["posterior"])
    rows = [
        [
            f"{row['n_clusters']:.0f}",
            *(number(row[name], ".3f") for name in ("posterior", "mcse", "prior")),
            number(row["bayes_factor"], ".3g"),
            number(row["n_components"], ".3f"),
        ]
        for row in shown
    ]
    header = ["Clusters", "Posterior", "Monte-Carlo error", "Prior, implied", "Bayes factor", "As many components"]
    text = [
        f"{verdict[0].upper()}{verdict[1:]}",
        "A component is a Gaussian of the model, a cluster one that owns at least one row. What the data say is the posterior; "
        "the prior beside it is what the model said before, and a good part of the answer wherever the two are alike.",
    ]
    best = f"most probable: {shown[mode]['n_clusters']:.0f}, with {shown[mode]['posterior']:.2f}"
    figures = _figure(run, "cluster_count", f"Bars of the posterior of the number of clusters beside its prior; {best}.", "")
    figures += _figure(
        run, "similarity", "Heat map: how often each two rows were in one cluster, rows in the order of their clusters.",
        "How often each two rows were in one cluster. Sharp blocks are clusters that the data insist on.",
    )  # fmt: skip
    return Section("clusters", "How many clusters", text, [Table("Number of clusters", header, rows, (mode,))], figures)


def _comparison(run: RunFiles) -> Section | None:
    if run.comparison is None:
        return None
    by = run.fit["selected_by"]
    criteria = [name.removeprefix("rank_") for name in run.comparison[0] if name.startswith("rank_")]
    ordered = sorted(run.comparison, key=lambda row: (np.isnan(row[f"rank_{by}"]), row[f"rank_{by}"]))
    rows = []
    for row in ordered:
        values = [
            number(row[name], ".4f" if name == "held_out" else ".2f") + (" ★" if row[f"rank_{name}"] == 1 else "")
            for name in criteria
        ]
        rows.append([row["model"], number(row["log_likelihood"], ".2f"), *values, row["status"], f"{row['replication']:.0f}"])
    header = ["Model", "Log-likelihood", *(_TITLE.get(name, name) for name in criteria), "Status", "Replication"]
    caption = f"Models, the best by {_TITLE.get(by, by)} first; ★ is each criterion’s choice"
    alt = f"{_TITLE.get(by, by)} against the number of components, a line for each covariance family; best: {rows[0][0]}."
    text = [f"{run.fit['agreement']} This run went on with the choice of {_TITLE.get(by, by)}."]
    return Section("models", "Which model", text, [Table(caption, header, rows, (0,))], _figure(run, "comparison", alt, ""))


_TITLE = {
    "bic": "BIC", "aic": "AIC", "icl": "ICL", "held_out": "held-out, nats a row", "loo": "LOO, nats",
    "log_evidence": "evidence, nats",
}  # fmt: skip


def _components(run: RunFiles) -> Section:
    gmm, names = run.gmm, run.fit["feature_names"]
    owned = np.bincount(run.column("component").astype(int), minlength=gmm.n_components)
    doubt = [run.column("uncertainty")[run.column("component") == k] for k in range(gmm.n_components)]
    intervals = run.intervals
    rows = []
    for k, weight in enumerate(np.asarray(gmm.weights, float)):
        shown = _with_interval(weight, intervals.get(f"weights[{k}]"), None)
        doubtful = share(float(doubt[k].mean())) if owned[k] else "-"
        rows.append([f"Component {k}", shown, f"{owned[k]}", share(owned[k] / owned.sum()), doubtful])
    header = ["", "Weight", "Rows", "Share of rows", "Expected share misassigned"]
    tables = [Table("Weights and sizes", header, rows[:_MOST_COMPONENTS])]
    means = np.asarray(gmm.means, float)
    sds = np.sqrt(np.diagonal(np.asarray(gmm.dense_covariances(), float), axis1=1, axis2=2))
    most = min(gmm.n_components, _MOST_COMPONENTS)
    for caption, values, key in (("Means", means, "means"), ("Standard deviations", sds, "standard_deviations")):
        rows = [
            [name, *(_with_interval(values[k, j], intervals.get(f"{key}[{k}, {name}]"), sds[k, j]) for k in range(most))]
            for j, name in enumerate(names[:_MOST_FEATURES])
        ]
        tables.append(Table(caption, ["Feature", *(f"Component {k}" for k in range(most))], rows))
    text = ["A component’s rows are those that it is the most probable one for; an uncertain row counts for it all the same."]
    if intervals:
        text.append("In brackets: where the quantity lies with 90 % probability, given the data and the prior.")
    elif run.posterior is not None:
        text.append(
            "No intervals: components can’t be told apart in enough of the draws for a component’s own to mean anything."
        )
    if len(names) > _MOST_FEATURES or gmm.n_components > _MOST_COMPONENTS:
        text.append(f"The first {_MOST_FEATURES} features and {_MOST_COMPONENTS} components are shown; gmm.npz has all.")
    return Section("components", "Components", text, tables, [])


def _with_interval(value: float, interval: tuple[float, float] | None, spread: float | None) -> str:
    if interval is None:
        return number(value, ".4f") if spread is None else alike(spread / 10, [value])[0]
    shown = alike((interval[1] - interval[0]) / 4, [value, *interval])
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _clusters(run: RunFiles) -> Section:
    uncertainty = run.column("uncertainty")
    wrong = float(uncertainty.mean())
    text = [
        f"If the model is right, {share(wrong)} of the rows are expected to be assigned to another component than the one that "
        f"they come from. {int((uncertainty > 0.1).sum())} of {len(uncertainty)} rows have a chance of more than 10 % of that."
    ]
    alt = "Above, each row’s responsibilities as stacked bars; below, its uncertainty on a logarithmic scale; by component."
    figures = _figure(run, "responsibilities", alt, "Each row’s probability of each component, and how unsure that leaves it.")
    return Section("assignment", "How sure are the assignments", text, [], figures)


def _data(run: RunFiles) -> Section:
    d = len(run.fit["feature_names"])
    what = {
        1: "Histogram of the data with the mixture’s density",
        2: "Scatter plot of the rows with ellipses of the components",
    }
    alt = f"{what.get(d, 'Pairs of features with ellipses of the components, histograms on the diagonal')}."
    figures = _figure(run, "components", alt, "Ellipses are at one and two standard deviations." if d > 1 else "")
    figures += _figure(
        run, "trace", "How far below the best optimum each start of EM was, step by step, on a logarithmic scale.",
        "How each start of EM climbed. Starts that level off are stuck at another, lower optimum.",
    )  # fmt: skip
    return Section("data", "The mixture and the data", [], [], figures)


def _posterior(run: RunFiles) -> Section | None:
    if run.posterior is None:
        return None
    tables, text = [], []
    table = _predictive_checks(run)
    if table is None:
        text.append(
            "No posterior predictive checks: the rows have weights, so how many a drawn data set should have isn’t known."
        )
    else:
        tables.append(table)
        text.append(
            "Data sets drawn from the posterior, as large as the real one, are compared with it. "
            + _reproduced(len(table.marked), len(table.rows))
        )
    sentences = {
        "draws": ("Mixtures drawn from the posterior over the data.", "The spread of the curves is what the data leave open."),
        "intervals": ("Medians with 50 % and 90 % intervals of weights, means and standard deviations.", ""),
        "chains": (
            "Trace and rank plots of the chains.",
            "Chains that agree look like one another, and their ranks are level.",
        ),
    }
    figures = []
    for name, (alt, caption) in sentences.items():
        figures += _figure(run, f"posterior_{name}", alt, caption)
    return Section("posterior", "The posterior", text, tables, figures)


def _reproduced(odd: int, total: int) -> str:
    if not odd:
        return f"The mixture reproduces all {total} statistics: each lies within 95 % of the drawn ones."
    return (
        f"The mixture doesn’t reproduce {odd} of {total} statistics: of the data, they lie outside of 95 % of the drawn ones."
    )


def _predictive_checks(run: RunFiles) -> Table | None:
    """None for weighted rows."""
    import jax

    from jaxgmm.bayes.predictive_checks import predictive_checks
    from jaxgmm.bayes.storage import load_posterior

    tree = load_posterior(run.directory / "posterior.nc")
    if "sample_weight" in tree["constant_data"]:
        return None
    with jax.enable_x64(True):
        found = predictive_checks(tree, key=jax.random.key(0)).to_dict(orient="records")
    odd = tuple(i for i, row in enumerate(found) if not row["lower"] <= row["observed"] <= row["upper"])
    rows = [
        [
            f"{row['statistic']} of {row['feature']}",
            f"{row['observed']:.4g}",
            f"{row['lower']:.4g} to {row['upper']:.4g}",
            share(row["p"]),
        ]
        for row in found
    ]
    header = ["Statistic", "Data", "Model, 95 %", "Replicates above"]
    return Table("Posterior predictive checks", header, rows, odd)


def _outliers(run: RunFiles, most: int) -> Section:
    tail = run.column("tail_probability")
    worst = np.argsort(tail, kind="stable")[: max(most, 0)]
    expected = tail * len(tail)
    n_outlying = int((expected < _EXPECTED).sum())
    rows = [
        [
            f"{run.column('row')[i]:.0f}",
            f"{run.column('component')[i]:.0f}",
            f"{run.column('log_density')[i]:.2f}",
            f"{expected[i]:.2g}",
        ]
        for i in worst
    ]
    header = ["Row", "Component", "Log density", "Rows as far out, expected"]
    marked = tuple(position for position, i in enumerate(worst) if expected[i] < _EXPECTED)
    lie = "1 row lies" if n_outlying == 1 else f"{n_outlying or 'No'} rows lie"
    text = [
        f"{lie} so far out that in a data set of this size fewer than {_EXPECTED} such rows would be expected, by the squared "
        "Mahalanobis distance from the row’s component."
    ]
    tables = [Table("Rows farthest from their component, counted from 0", header, rows, marked)] if rows else []
    return Section("outliers", "Outliers", text, tables, [])
