"""What a report says of the mixture and the rows: components, assignments, outliers."""

import numpy as np

from jaxgmm.app.report.elements import Section, Table, figure
from jaxgmm.app.report.files import RunFiles
from jaxgmm.tools.formatting import alike, number, share

_MOST_FEATURES, _MOST_COMPONENTS = 30, 20  # in tables
_EXPECTED = 0.05  # rows as far out, in data of this size, below which one is called outlying


def components(run: RunFiles) -> Section:
    """Weights, sizes, means and standard deviations, with intervals where there are any."""
    gmm, names = run.gmm, run.fit["feature_names"]
    component, weight = run.column("component").astype(int), run.column("sample_weight")
    component = np.where(component < 0, gmm.n_components, component)  # noise comes last
    most_rows = gmm.n_components + 1
    n_rows = np.bincount(component, minlength=most_rows)
    owned = np.bincount(component, weight, minlength=most_rows)
    doubt = np.bincount(component, weight * run.column("uncertainty"), minlength=most_rows)
    intervals = run.intervals

    def sizes(k: int) -> list[str]:
        return [f"{n_rows[k]}", share(owned[k] / owned.sum()), share(doubt[k] / owned[k]) if owned[k] else "-"]

    rows = []
    for k, mixed in enumerate(np.asarray(gmm.weights, float)):
        shown = _with_interval(mixed, intervals.get(f"weights[{k}]"), None)
        rows.append([run.name_of(k), shown, *sizes(k)])
    header = ["", "Weight", "Rows", "Share of weight" if run.is_weighted else "Share of rows", "Expected share misassigned"]
    of_noise = [["Noise", "-", *sizes(gmm.n_components)]] if run.fit.get("noise") else []
    tables = [Table("Weights and sizes", header, rows[:_MOST_COMPONENTS] + of_noise)]
    means = np.asarray(gmm.means, float)
    sds = np.sqrt(np.diagonal(np.asarray(gmm.dense_covariances(), float), axis1=1, axis2=2))
    most = min(gmm.n_components, _MOST_COMPONENTS)
    for caption, values, key in (("Means", means, "means"), ("Standard deviations", sds, "standard_deviations")):
        rows = [
            [name, *(_with_interval(values[k, j], intervals.get(f"{key}[{k}, {name}]"), sds[k, j]) for k in range(most))]
            for j, name in enumerate(names[:_MOST_FEATURES])
        ]
        tables.append(Table(caption, ["Feature", *(run.name_of(k) for k in range(most))], rows))
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


def clusters(run: RunFiles) -> Section:
    """How sure each row's component is."""
    uncertainty = run.column("uncertainty")
    wrong = float(np.average(uncertainty, weights=run.column("sample_weight")))
    text = [
        f"If the model is right, {share(wrong)} of the rows are expected to be assigned to another component than the one that "
        f"they come from. {int((uncertainty > 0.1).sum())} of {len(uncertainty)} rows have a chance of more than 10 % of that."
    ]
    if run.fit.get("labels"):
        known = run.column("known_component")
        other = np.flatnonzero((known >= 0) & (known != run.column("component")))
        named = ", ".join(f"{row:.0f}" for row in run.column("row")[other[:_MOST_FEATURES]])
        rows = f": row{'s' * (len(other) > 1)} {named}{', …' * (len(other) > _MOST_FEATURES)}" if len(other) else ""
        text.append(
            f"Assignments are those by the mixture alone, as of rows without a label. Of {int((known >= 0).sum())} rows whose "
            f"component was known, {len(other)} would be assigned to another{rows}."
        )
    alt = "Above, each row’s responsibilities as stacked bars; below, its uncertainty on a logarithmic scale; by component."
    figures = figure(run, "responsibilities", alt, "Each row’s probability of each component, and how unsure that leaves it.")
    return Section("assignment", "How sure are the assignments", text, [], figures)


def data(run: RunFiles) -> Section:
    """The mixture over the data, and how each start climbed."""
    d = len(run.fit["feature_names"])
    what = {
        1: "Histogram of the data with the mixture’s density",
        2: "Scatter plot of the rows with ellipses of the components",
    }
    alt = f"{what.get(d, 'Pairs of features with ellipses of the components, histograms on the diagonal')}; {_weights(run)}."
    figures = figure(run, "components", alt, "Ellipses are at one and two standard deviations." if d > 1 else "")
    figures += figure(
        run, "trace", "How far below the best optimum each start of EM was, step by step, on a logarithmic scale.",
        "How each start of EM climbed. Starts that level off are stuck at another, lower optimum.",
    )  # fmt: skip
    return Section("data", "The mixture and the data", [], [], figures)


def _weights(run: RunFiles) -> str:
    weights = np.asarray(run.gmm.weights, float)[:_MOST_COMPONENTS]
    return f"weight{'s' * (len(weights) > 1)} {', '.join(f'{weight:.2f}' for weight in weights)}"


def outliers(run: RunFiles, most: int) -> Section:
    """The rows farthest from their component."""
    tail = run.column("tail_probability")
    worst = np.argsort(tail, kind="stable")[: max(most, 0)]
    expected = tail * run.column("sample_weight").sum()
    n_outlying = int((expected < _EXPECTED).sum())
    rows = [
        [
            f"{run.column('row')[i]:.0f}",
            f"{run.column('component')[i]:.0f}" if run.column("component")[i] >= 0 else "noise",
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
    if run.fit.get("n_missing"):
        text.append("Of rows that lack values, distances and log densities are of the values that they have.")
    if run.fit.get("noise"):
        text.append("Distances of rows of noise are from the component that is most probable for them but for noise.")
    tables = [Table("Rows farthest from their component, counted from 0", header, rows, marked)] if rows else []
    return Section("outliers", "Outliers", text, tables, [])
