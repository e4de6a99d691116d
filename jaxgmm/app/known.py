"""In words, what a run's rows came with: gaps, errors, labels and noise."""

from jaxgmm.tools.formatting import share
from jaxgmm.tools.reading import counted
from jaxgmm.tools.types import Facts

_SHOWN = 12  # labels


def known_of_rows(summary: Facts) -> dict[str, str]:
    """What fit.json says of it, a sentence for each that there was."""
    said = {}
    if n_missing := summary.get("n_missing"):
        said["missing"] = f"{counted(n_missing, 'value')} of these rows, taken as missing at random"
    if columns := summary.get("standard_errors"):
        said["errors"] = f"the mixture is of rows without their errors of measurement, whose sizes are in {', '.join(columns)}"
    if labels := summary.get("labels"):
        shown = [f"{label} is component {k}" for label, k in labels["components"].items() if label != str(k)]
        more = [*shown[:_SHOWN], *["..."] * (len(shown) > _SHOWN)]
        stand_for = f": {', '.join(more)}" if shown else ""
        said["labels"] = f"the component of {counted(labels['n_labelled'], 'row')} was known, by {labels['column']}{stand_for}"
    if noise := summary.get("noise"):
        said["noise"] = (
            f"{share(noise['weight'])} of the rows, uniform over a box; components' weights are shares of the others"
        )
    return said
