"""Rows in frames: every numeric column of every kind of frame is taken, an index is none, others are named."""

import functools

import jax
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
import scipy.sparse
import xarray

import jaxgmm as jg
from jaxgmm.tools import frames

X = np.random.default_rng(0).normal(size=(60, 2))
FRAME = pd.DataFrame(X, columns=["a", "b"])
KEY = jax.random.key(0)


def as_polars(frame):
    return polars.from_pandas(frame)


class OfAnotherLibrary:
    """A frame that only hands out Arrow."""

    def __init__(self, frame):
        self._table = pa.Table.from_pandas(frame)

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def as_xarray(frame):
    return xarray.DataArray(frame.to_numpy(), dims=("obs_id", "feature"), coords={"feature": list(frame.columns)})


KINDS = {
    "pandas": lambda frame: frame,
    "nullable": lambda frame: frame.convert_dtypes(),
    "pandas with pyarrow": lambda frame: frame.astype("double[pyarrow]"),
    "polars": as_polars,
    "pyarrow": functools.partial(pa.Table.from_pandas, preserve_index=False),
    "pyarrow with an index": pa.Table.from_pandas,
    "a batch": pa.RecordBatch.from_pandas,
    "xarray": as_xarray,
    "another": OfAnotherLibrary,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_frame_is_read_by_name(kind):
    """The filtered rows have an index with gaps, which an Arrow table keeps as a column."""
    some = FRAME[FRAME.a > 0]
    frame = KINDS[kind](some)
    assert frames.feature_names(frame) == ("a", "b")
    fit = jg.fit(frame, 1, key=KEY)
    assert fit.feature_names == ("a", "b")
    assert fit.fingerprint == jg.fit(some.to_numpy(), 1, key=KEY).fingerprint
    swapped = KINDS[kind](some[["b", "a"]])
    assert np.array_equal(fit.gmm.log_prob(swapped), fit.gmm.log_prob(some.to_numpy()))


def test_an_index_with_a_name_is_no_feature_either():
    table = pa.Table.from_pandas(FRAME[FRAME.a > 0].rename_axis("bird"))
    assert table.column_names == ["a", "b", "bird"]
    assert frames.feature_names(table) == ("a", "b")
    np.testing.assert_array_equal(frames.to_numbers(table), X[X[:, 0] > 0])


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.convert_dtypes(),
        FRAME.astype("double[pyarrow]"),
        FRAME.astype({"a": "Float64"}),
        FRAME.assign(b=FRAME.b > 0),
        FRAME.assign(b=(10 * FRAME.b).round().astype("Int64")),
        FRAME.astype({"a": np.float32}),
        pa.table({"a": FRAME.a, "b": FRAME.b > 0}),
        pa.table({"a": pa.array(FRAME.a).cast("float32"), "b": (10 * FRAME.b).round().astype("int8")}),
    ],
    ids=["nullable", "pyarrow", "half nullable", "bool", "integers", "two floats", "bool in Arrow", "int8 in Arrow"],
)
def test_numeric_columns_are_taken(frame):
    same = (frame if isinstance(frame, pd.DataFrame) else frame.to_pandas()).astype(float).to_numpy()
    fit = jg.fit(frame, 1, key=KEY)
    np.testing.assert_allclose(fit.gmm.means[0], same.mean(0), atol=0.01)
    assert fit.fingerprint == jg.fit(same, 1, key=KEY).fingerprint


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_single_precision_stays_what_it_is(kind):
    assert frames.to_numbers(KINDS[kind](FRAME.astype(np.float32))).dtype == np.float32


def test_weights_may_be_a_nullable_series():
    weighted = jg.fit(FRAME, 1, key=KEY, sample_weight=pd.Series([1, 2] * 30, dtype="Int64"))
    assert weighted.log_likelihood == jg.fit(X, 1, key=KEY, sample_weight=np.tile([1.0, 2.0], 30)).log_likelihood


@pytest.mark.parametrize("kind", ["nullable", "polars", "pyarrow"])
def test_missing_values_are_missing(kind):
    frame = FRAME.astype({"b": "Float64"})
    frame.loc[3, "b"] = pd.NA
    assert jg.fit(KINDS[kind](frame), 1, key=KEY).n_missing == 1
    with pytest.raises(ValueError, match=r"missing values \(NaN\) in row 3"):
        jg.initialise(KINDS[kind](frame), 1, key=KEY)


def test_the_way_out_of_missing_values_is_the_frames_own():
    with pytest.raises(ValueError, match=r"x\.dropna\(\)"):
        jg.initialise(FRAME.mask(FRAME < 0), 1, key=KEY)


def test_other_columns_are_named():
    frame = FRAME.assign(species="x", when=pd.Timestamp(0), kind=pd.Categorical(["u"] * 60))
    with pytest.raises(TypeError, match=r"'species' \(.*\), 'when' \(.*\), 'kind' \(category\).*select_dtypes"):
        jg.fit(frame, 1, key=KEY)
    with pytest.raises(TypeError, match=r"'text'"):
        jg.fit(FRAME.assign(text="1.5"), 1, key=KEY)


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
@pytest.mark.parametrize("values", ["text", pd.Categorical(["u"] * 60)], ids=["text", "categorical"])
def test_other_columns_are_named_by_all(values, kind):
    with pytest.raises(TypeError, match=r"'species' \("):
        jg.fit(KINDS[kind](FRAME.assign(species=values)), 1, key=KEY)


def test_frames_without_columns_or_with_two_of_a_name():
    with pytest.raises(ValueError, match=r"shape \(60, 0\).*at least one row and one column"):
        jg.fit(FRAME[[]], 1, key=KEY)
    with pytest.raises(ValueError, match="two columns called 'a'"):
        jg.fit(FRAME.set_axis(["a", "a"], axis=1), 1, key=KEY)


def test_what_is_no_frame_yet():
    lazy = as_polars(FRAME).lazy()
    with pytest.raises(TypeError, match=r"LazyFrame.*x\.collect\(\)"):
        jg.fit(lazy, 1, key=KEY)


def test_a_dataset_is_no_frame():
    with pytest.raises(TypeError, match=r"xarray Dataset.*to_dataframe"):
        jg.fit(xarray.Dataset({"a": ("n", X[:, 0])}), 1, key=KEY)


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_rows_are_refused_with_the_way_out(make):
    with pytest.raises(TypeError, match=r"x is a sparse matrix.*x\.toarray\(\)"):
        jg.fit(make(X), 1, key=KEY)
