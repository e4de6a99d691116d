"""What a report says of the number of clusters and of the models that were compared."""

import math

import numpy as np

from jaxgmm.app.report.elements import Section, Table, figure
from jaxgmm.app.report.files import RunFiles
from jaxgmm.tools.formatting import number, share

_LEAST_PROBABILITY = 0.0005


def count(run: RunFiles) -> Section | None:
    """The posterior over the number of clusters, if the run has it."""
    if run.cluster_count is None:
        return None
    table, verdict = run.cluster_count, run.fit["count"]["verdict"]
    shown = [row for row in table if max(row["posterior"], row["n_components"]) >= _LEAST_PROBABILITY]
    mode = max(range(len(shown)), key=lambda i: shown[i]["posterior"])
    likely = tuple(i for i in range(len(shown)) if not _surely_less(shown[i], shown[mode]))
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
    if len(likely) > 1:
        tied = " or ".join(f"{shown[i]['n_clusters']:.0f}" for i in likely)
        text.append(f"Which is the most probable number, {tied}, the Monte-Carlo error leaves open.")
    if len(shown) < len(table):
        rest = sum(row["prior"] for row in table if row not in shown)
        text.append(f"Less probable numbers, with {rest:.2f} of the prior, are left out here; cluster_count.csv has them.")
    best = f"most probable: {shown[mode]['n_clusters']:.0f}, with {shown[mode]['posterior']:.2f}"
    figures = figure(run, "cluster_count", f"Bars of the posterior of the number of clusters beside its prior; {best}.", "")
    figures += figure(
        run, "partitions", "The rows in the clusters of each plausible partition, a panel each.",
        "The rows in the clusters of each plausible partition. Ringed rows are in another cluster of the typical partition.",
    )  # fmt: skip
    figures += figure(
        run, "similarity", "Heat map: how often each two rows were in one cluster, rows in the order of their clusters.",
        "How often each two rows were in one cluster. Sharp blocks are clusters that the data insist on. The typical partition "
        "is the one nearest to all draws, and may have fewer clusters than most of them.",
    )  # fmt: skip
    tables = [Table("Number of clusters", header, rows, likely), _partitions(run)]
    return Section("clusters", "How many clusters", text, tables, figures)


def _partitions(run: RunFiles) -> Table:
    """The partitions that the draws hold apart."""
    rows = [
        [
            str(i),
            share(row["weight"]),
            number(row["mcse"], ".3f"),
            f"{row['n_clusters']}",
            ", ".join(map(str, row["sizes"])),
            f"{row['n_moved']}",
        ]
        for i, row in enumerate(run.partitions())
    ]
    header = ["Partition", "Draws near it", "Monte-Carlo error", "Clusters", "Rows in each", "Rows elsewhere than typically"]
    return Table("Plausible partitions, which stand for all draws; partitions.csv has them", header, rows)


def _surely_less(row: dict[str, float], mode: dict[str, float]) -> bool:
    errors = [0.0 if math.isnan(each["mcse"]) else each["mcse"] for each in (row, mode)]
    return row["posterior"] + 2 * math.hypot(*errors) < mode["posterior"]


def comparison(run: RunFiles) -> Section | None:
    """The models that were compared, if they were."""
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
    return Section("models", "Which model", text, [Table(caption, header, rows, (0,))], figure(run, "comparison", alt, ""))


_TITLE = {
    "bic": "BIC", "aic": "AIC", "icl": "ICL", "held_out": "held-out, nats a row", "loo": "LOO, nats",
    "log_evidence": "evidence, nats",
}  # fmt: skip
