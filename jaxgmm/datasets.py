"""Small real data sets that the mixture literature argues about, shipped with names, units and source."""

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from types import MappingProxyType

import numpy as np

_MISSING = ("", "NA")  # how R writes a missing value to CSV


@dataclass(frozen=True, eq=False)
class Dataset:
    """One data set: the numbers to fit, and what is known about them.

    Attributes:
        name: its name, also in a config's `[data] dataset`.
        x: (N, D) float64 numpy array; NaN = missing.
        feature_names: the D columns of x.
        units: the D units, "" where the source gives none.
        labels: what describes a row without being a measurement (species, class, ...), by name: an (N,) numpy array of
            str, with "" for a missing one.
        source: where the data come from.
        description: what was measured, and what to watch out for.
    """

    name: str
    x: np.ndarray = field(repr=False)
    feature_names: tuple[str, ...]
    units: tuple[str, ...]
    labels: dict[str, np.ndarray] = field(repr=False)
    source: str = field(repr=False)
    description: str = field(repr=False)


def _load(name: str, units: dict[str, str], *, source: str, description: str) -> Dataset:
    """The shipped `name`.csv: the columns that have an entry in `units` are the features, the others labels."""
    text = resources.files("jaxgmm").joinpath("_datasets", f"{name}.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return Dataset(
        name=name,
        x=np.column_stack([[np.nan if v in _MISSING else float(v) for v in columns[feature]] for feature in units]),
        feature_names=tuple(units),
        units=tuple(units.values()),
        labels={
            label: np.array(["" if v in _MISSING else v for v in values])
            for label, values in columns.items()
            if label not in units
        },
        source=source,
        description=description,
    )


def load_faithful() -> Dataset:
    """Old Faithful geyser: duration of 272 eruptions and the wait until the next one; two clusters, (272, 2), minutes.

    Example:
        >>> from jaxgmm import datasets
        >>> faithful = datasets.load_faithful()
        >>> faithful.x.shape, faithful.feature_names, faithful.units
        ((272, 2), ('eruptions', 'waiting'), ('min', 'min'))
    """
    return _load(
        "faithful",
        {"eruptions": "min", "waiting": "min"},
        source=(
            "Azzalini, A. & Bowman, A. W. (1990). A look at some data on the Old Faithful geyser. "
            "Applied Statistics 39, 357-365; as in R's datasets::faithful."
        ),
        description=("How long an eruption of the Old Faithful geyser (Yellowstone) lasts, and the wait until the next."),
    )


def load_iris() -> Dataset:
    """Anderson's iris: four measurements of 150 flowers of three species, (150, 4), cm; labels: species.

    Example:
        >>> from jaxgmm import datasets
        >>> iris = datasets.load_iris()
        >>> iris.x[iris.labels["species"] == "setosa"].mean(axis=0).round(3).tolist()
        [5.006, 3.428, 1.462, 0.246]
    """
    return _load(
        "iris",
        {"sepal_length": "cm", "sepal_width": "cm", "petal_length": "cm", "petal_width": "cm"},
        source=(
            "Fisher, R. A. (1936). The use of multiple measurements in taxonomic problems. "
            "Annals of Eugenics 7, 179-188; data of E. Anderson, as in R's datasets::iris."
        ),
        description=(
            "Length and width of sepals and petals of 50 flowers each of Iris setosa, versicolor and virginica; "
            "the last two overlap."
        ),
    )


def load_galaxies(*, richardson_green: bool = False) -> Dataset:
    """Velocities of 82 galaxies, (82, 1), 1000 km/s: the field's test case for "how many clusters?".

    Args:
        richardson_green: observation 78 (counted from 1) is 26.690 in R's MASS, and so here by default; Richardson &
            Green (1997) and the papers that compare with them used 26.960. True gives theirs.

    Example:
        >>> from jaxgmm import datasets
        >>> datasets.load_galaxies().x[77].item(), datasets.load_galaxies(richardson_green=True).x[77].item()
        (26.69, 26.96)
    """
    version = "Richardson & Green (1997), JRSS B 59, 731-792" if richardson_green else "R's MASS::galaxies"
    return _load(
        "galaxies_rg" if richardson_green else "galaxies",
        {"velocity": "1000 km/s"},
        source=(
            "Roeder, K. (1990). Density estimation with confidence sets exemplified by superclusters and voids in the "
            f"galaxies. Journal of the American Statistical Association 85, 617-624; as in {version}."
        ),
        description=(
            "Velocities at which 82 galaxies of six well-separated conic sections of space move away from us; "
            "several modes speak for superclusters with voids between them."
        ),
    )


def load_diabetes() -> Dataset:
    """Reaven & Miller's diabetes data as R's mclust ships them, (145, 3); labels: class (Normal, Chemical, Overt).

    Numbers and names are mclust's, so that its published results can be compared with. Its own manual calls them
    flawed: next to the original, the column named glucose is the fasting glucose, insulin is the area under the
    *glucose* curve (with 45 for 455 in row 103, counted from 0), and sspg is the area under the insulin curve.
    mclust gives no units.

    Example:
        >>> from jaxgmm import datasets
        >>> diabetes = datasets.load_diabetes()
        >>> diabetes.x.shape, sorted(set(diabetes.labels["class"].tolist()))
        ((145, 3), ['Chemical', 'Normal', 'Overt'])
    """
    return _load(
        "diabetes",
        {"glucose": "", "insulin": "", "sspg": ""},
        source=(
            "Reaven, G. M. & Miller, R. G. (1979). An attempt to define the nature of chemical diabetes using a "
            "multidimensional analysis. Diabetologia 16, 17-24; as in R's mclust::diabetes."
        ),
        description=(
            "Three blood measurements of 145 non-obese adults, classed as normal, chemical diabetic or overt diabetic. "
            "Column names as in mclust, whose manual notes that they differ from the original's."
        ),
    )


def load_penguins() -> Dataset:
    """Palmer penguins, (344, 4), mm and g, with two rows of NaN; labels: species, island, sex, year.

    Nothing was measured of these two: drop them, and their labels.

    Example:
        >>> import numpy as np
        >>> from jaxgmm import datasets
        >>> penguins = datasets.load_penguins()
        >>> complete = ~np.isnan(penguins.x).any(axis=1)
        >>> penguins.x[complete].shape, penguins.labels["species"][complete].shape
        ((342, 4), (342,))
        >>> int((penguins.labels["sex"] == "").sum())  # not determined
        11
    """
    return _load(
        "penguins",
        {"bill_length_mm": "mm", "bill_depth_mm": "mm", "flipper_length_mm": "mm", "body_mass_g": "g"},
        source=(
            "Horst, A. M., Hill, A. P. & Gorman, K. B. (2020). palmerpenguins: Palmer Archipelago (Antarctica) "
            "penguin data. R package; CC0. Data of Gorman, Williams & Fraser (2014), PLoS ONE 9(3), e90081."
        ),
        description=(
            "Bill, flipper and body mass of Adelie, Chinstrap and Gentoo penguins on three islands, 2007-2009. "
            "Rows 3 and 271 (counted from 0) have no measurements."
        ),
    )


LOADERS: MappingProxyType[str, Callable[[], Dataset]] = MappingProxyType(
    {
        "faithful": load_faithful,
        "iris": load_iris,
        "galaxies": load_galaxies,
        "galaxies_rg": partial(load_galaxies, richardson_green=True),
        "diabetes": load_diabetes,
        "penguins": load_penguins,
    }
)
"""Every data set by the name that a config's `[data] dataset` knows it by."""
