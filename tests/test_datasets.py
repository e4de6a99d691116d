import numpy as np
import pytest

from jaxgmm import datasets

# Rows, columns, labels with their sizes, and the column means that R prints (colMeans(..., na.rm = TRUE)).
SHIPPED = {
    "faithful": ((272, 2), {}, [3.487783, 70.89706]),
    "iris": ((150, 4), {"species": [50, 50, 50]}, [5.843333, 3.057333, 3.758, 1.199333]),
    "galaxies": ((82, 1), {}, [20.82817]),
    "galaxies_rg": ((82, 1), {}, [20.82817 + 0.27 / 82]),
    "diabetes": ((145, 3), {"class": [36, 76, 33]}, [121.9862, 540.7862, 186.1172]),
    "penguins": ((344, 4), {"species": [152, 68, 124]}, [43.92193, 17.15117, 200.9152, 4201.754]),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_holds_what_is_published(name):
    shape, labels, means = SHIPPED[name]
    data = datasets.LOADERS[name]()
    assert data.name == name
    assert data.x.shape == shape
    assert data.x.dtype == np.float64
    assert len(data.feature_names) == len(data.units) == shape[1]
    np.testing.assert_allclose(np.nanmean(data.x, axis=0), means, rtol=1e-6)
    for label, sizes in labels.items():
        assert np.unique(data.labels[label], return_counts=True)[1].tolist() == sizes
    assert data.source
    assert data.description


def test_every_data_set_is_in_the_table():
    assert datasets.LOADERS.keys() == SHIPPED.keys()


def test_only_penguins_have_missing_values_and_the_docs_name_their_rows():
    missing = {name: np.flatnonzero(np.isnan(load().x).any(axis=1)).tolist() for name, load in datasets.LOADERS.items()}
    assert missing == {name: [3, 271] if name == "penguins" else [] for name in datasets.LOADERS}


def test_the_two_versions_of_the_galaxies_differ_in_one_velocity():
    ours, theirs = datasets.load_galaxies().x, datasets.load_galaxies(richardson_green=True).x
    assert np.flatnonzero(ours != theirs).tolist() == [77]


def test_labels_of_missing_values_are_empty():
    sex = datasets.load_penguins().labels["sex"]
    assert dict(zip(*np.unique(sex, return_counts=True), strict=True)) == {"": 11, "female": 165, "male": 168}


def test_changing_one_copy_leaves_the_next_alone():
    first = datasets.load_iris()
    first.x[0] = np.nan
    assert np.isfinite(datasets.load_iris().x).all()
