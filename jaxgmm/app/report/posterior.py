"""What a report says of the posterior, and whether the mixture reproduces the data."""

from jaxgmm.app.report.checks import reproduced
from jaxgmm.app.report.elements import Section, Table, figure
from jaxgmm.app.report.files import RunFiles
from jaxgmm.tools.formatting import share


def posterior(run: RunFiles, table: Table | None) -> Section | None:
    """What was drawn, if it was, with the table of `predictive_checks`."""
    if run.posterior is None:
        return None
    tables, text = [], []
    if table is None:
        text.append(
            "No posterior predictive checks: the rows have weights, so how many a drawn data set should have isn’t known."
        )
    else:
        tables.append(table)
        text.append(
            "Data sets drawn from the posterior, as large as the real one, are compared with it. "
            + reproduced(len(table.marked), len(table.rows))
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
        figures += figure(run, f"posterior_{name}", alt, caption)
    return Section("posterior", "The posterior", text, tables, figures)


def predictive_checks(run: RunFiles) -> Table | None:
    """None without a posterior, or for weighted rows."""
    if run.posterior is None:
        return None
    import jax

    from jaxgmm.bayes.trees.predictive_checks import predictive_checks
    from jaxgmm.bayes.trees.storage import load_posterior

    tree = load_posterior(run.directory / "posterior.nc")
    if "sample_weight" in tree["constant_data"]:
        return None
    with jax.enable_x64(True):
        found = predictive_checks(tree, key=jax.random.key(0)).to_dict(orient="records")
    odd = tuple(i for i, row in enumerate(found) if not row["lower"] <= row["observed"] <= row["upper"])
    names = run.feature_of
    rows = [
        [
            f"{row['statistic']} of {names[row['feature']]}",
            f"{row['observed']:.4g}",
            f"{row['lower']:.4g} to {row['upper']:.4g}",
            share(row["p"]),
        ]
        for row in found
    ]
    header = ["Statistic", "Data", "Model, 95 %", "Replicates above"]
    return Table("Posterior predictive checks", header, rows, odd)
