"""Rows keep their labels: what is said about them can be joined to the frame they came from."""

import arviz as az
import jax
import numpy as np
import pandas as pd
import pytest
import xarray
from helpers import draws_around, tree_of

import jaxgmm as jg
from jaxgmm.bayes.trees.predictive_checks import predictive_checks
from jaxgmm.bayes.trees.schema import GROUPS
from jaxgmm.tools import frames

KEY = jax.random.key(0)


def with_gaps():
    """Two clusters far apart, in turn, without the rows that weren't seen."""
    x = np.random.default_rng(0).normal(size=(24, 2)) + 20 * (np.arange(24) % 2)[:, None]
    x[[0, 7, 8, 20], 1] = np.nan
    return pd.DataFrame(x, columns=["a", "b"]).dropna()


INDICES = {
    "gaps": np.array([1, 2, 4]),
    "floats": np.array([0.5, 2.5, 1.0]),
    "strings": np.array(["ann", "bea", "chloé"]),
    "dates": pd.date_range("2024-02-28", periods=3).to_numpy(),
    "repeated": np.array([0, 1, 0]),
}
OTHERS = {
    "MultiIndex": pd.MultiIndex.from_tuples([("a", 0), ("a", 1), ("b", 0)]),
    "periods": pd.period_range("2024-01", periods=3, freq="M"),
    "time zone": pd.date_range("2024-02-28", periods=3, tz="Europe/Paris"),
    "mixed": pd.Index([1, "b", 2.5]),
}
ROWS = np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 1.0]])


@pytest.fixture(scope="module")
def frame():
    return with_gaps()


@pytest.fixture(scope="module")
def tree(frame):
    gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [20.0, 20.0]], np.tile(np.eye(2), (2, 1, 1)))
    return jg.relabel(jg.posterior(frame, gmm, method="gibbs", key=KEY, n_draws=20, n_warmup=20), gmm)


@pytest.fixture(scope="module")
def counted(frame):
    return jg.count_clusters(frame, key=KEY, n_draws=20, n_warmup=10, max_components=20)  # the program of test_arviz.py


# Where labels come from


@pytest.mark.parametrize("kind", INDICES)
def test_labels_of_frames(kind):
    labels = INDICES[kind]
    frame = pd.DataFrame(ROWS, index=labels)
    for x in (frame, xarray.DataArray(ROWS, {"day": labels}, ("day", "feature"))):
        np.testing.assert_array_equal(frames.row_labels(x), labels)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_labels_are_positions(kind):
    assert frames.row_labels(pd.DataFrame(ROWS, index=OTHERS[kind])) is None


def test_without_labels():
    for x in (ROWS, ROWS.tolist(), xarray.DataArray(ROWS), xarray.DataArray(ROWS, {"f": ["a", "b"]}, ("n", "f"))):
        assert frames.row_labels(x) is None


# Where they go


def test_a_frame_after_dropna_is_joined_by_its_index(tree, frame):
    table = jg.membership(tree)["membership"].to_pandas()
    joined = frame.join(table)
    assert len(joined) == len(frame) == 20
    cluster = joined["b"].to_numpy() > 10  # so far apart that a row says itself where it belongs
    found = joined[list(table.columns)].to_numpy().argmax(1)
    np.testing.assert_array_equal(found == found[0], cluster == cluster[0])


def test_all_groups_have_them(tree, counted, frame):
    given = labelled(INDICES["gaps"], weight=np.ones(3))
    groups = ["observed_data", "constant_data", "posterior_predictive", "log_likelihood", "prior_predictive"]
    for own, names, labels in (
        (tree, ["observed_data"], frame.index),
        (counted, ["observed_data", "allocations"], frame.index),
        (jg.components_given(counted, 2, key=KEY), ["observed_data"], frame.index),
        (given, groups, INDICES["gaps"]),
    ):
        assert {name for name, group in own.children.items() if "obs_id" in group.dims} == set(names)
        for name in names:
            np.testing.assert_array_equal(own[name]["obs_id"], labels)


def test_what_is_said_about_rows_has_them(tree, counted, frame):
    tables = [jg.coclustering(tree), jg.similarity(counted), jg.typical_partition(counted)]
    for table in tables:
        for dim in {"obs_id", "obs_id_bis"} & set(table.dims):
            np.testing.assert_array_equal(table[dim], frame.index)
    for some in (jg.coclustering(tree, rows=[3, 0]), jg.similarity(counted, rows=[3, 0])):
        assert some["obs_id"].values.tolist() == some["obs_id_bis"].values.tolist() == [4, 1]


def test_membership_of_other_rows_has_theirs(tree, frame):
    later = frame.iloc[[5, 2]]
    np.testing.assert_array_equal(jg.membership(tree, later)["obs_id"], later.index)
    np.testing.assert_array_equal(jg.membership(tree, later.to_numpy())["obs_id"], [0, 1])
    np.testing.assert_array_equal(jg.membership(tree, later)["sd"], jg.membership(tree)["sd"].sel(obs_id=later.index))


def labelled(labels, **options):
    """All groups of three rows."""
    gmm = jg.GMM([0.5, 0.5], ROWS[:2], np.tile(np.eye(2), (2, 1, 1)))
    return tree_of(draws_around(gmm, (4, 25)), ROWS, row_labels=labels, groups=GROUPS, **options)


def test_numbers_do_not_depend_on_them():
    plain, named = labelled(None), labelled(INDICES["strings"])
    for name, group in plain.children.items():
        assert (
            group.to_dataset()
            .drop_vars("obs_id", errors="ignore")
            .equals(named[name].to_dataset().drop_vars("obs_id", errors="ignore"))
        )
    tables = [predictive_checks(tree, key=KEY, n_replicates=20) for tree in (plain, named)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("kind", INDICES)
def test_files_keep_them(kind, tmp_path):
    tree = labelled(INDICES[kind])
    read = jg.load_posterior(jg.save_posterior(tree, tmp_path / "posterior"))
    assert read.identical(tree)
    np.testing.assert_array_equal(read["observed_data"]["obs_id"], INDICES[kind])


@pytest.mark.parametrize("kind", ["strings", "dates", "repeated"])
@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")
def test_arviz_takes_them(kind):
    tree, plain = labelled(INDICES[kind]), labelled(None)
    one = tree.sel(feature="x1")
    for answer in (az.loo(tree, pointwise=True).elpd_i, az.loo_pit(one)["x"], az.loo_expectations(one)[0]):
        np.testing.assert_array_equal(answer["obs_id"], INDICES[kind])
    assert az.loo(tree).elpd == az.loo(plain).elpd
    assert az.loo_subsample(tree, 2, seed=0).elpd == az.loo_subsample(plain, 2, seed=0).elpd
