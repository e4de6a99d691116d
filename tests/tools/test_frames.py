"""Rows as pandas has them: every numeric column is taken, others are named."""

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

import jaxgmm as jg

X = np.random.default_rng(0).normal(size=(60, 2))
FRAME = pd.DataFrame(X, columns=["a", "b"])
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.convert_dtypes(),
        FRAME.astype("double[pyarrow]"),
        FRAME.astype({"a": "Float64"}),
        FRAME.assign(b=FRAME.b > 0),
        FRAME.assign(b=(10 * FRAME.b).round().astype("Int64")),
        FRAME.astype({"a": np.float32}),
    ],
    ids=["nullable", "pyarrow", "half nullable", "bool", "nullable integers", "two floats"],
)
def test_numeric_columns_are_taken(frame):
    same = frame.astype(float).to_numpy()
    fit = jg.fit(frame, 1, key=KEY)
    np.testing.assert_allclose(fit.gmm.means[0], same.mean(0), atol=0.01)
    assert fit.fingerprint == jg.fit(same, 1, key=KEY).fingerprint


def test_weights_may_be_a_nullable_series():
    weighted = jg.fit(FRAME, 1, key=KEY, sample_weight=pd.Series([1, 2] * 30, dtype="Int64"))
    assert weighted.log_likelihood == jg.fit(X, 1, key=KEY, sample_weight=np.tile([1.0, 2.0], 30)).log_likelihood


def test_missing_values_of_nullable_columns_are_missing_rows():
    frame = FRAME.convert_dtypes()
    frame.loc[3, "b"] = pd.NA
    with pytest.raises(ValueError, match=r"missing values \(NaN\) in row 3"):
        jg.fit(frame, 1, key=KEY)


def test_other_columns_are_named():
    frame = FRAME.assign(species="x", when=pd.Timestamp(0), kind=pd.Categorical(["u"] * 60))
    with pytest.raises(TypeError, match=r"'species' \(.*\), 'when' \(.*\), 'kind' \(category\).*select_dtypes"):
        jg.fit(frame, 1, key=KEY)
    with pytest.raises(TypeError, match=r"'text'"):
        jg.fit(FRAME.assign(text="1.5"), 1, key=KEY)


@pytest.mark.parametrize("make", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_rows_are_refused_with_the_way_out(make):
    with pytest.raises(TypeError, match=r"x is a sparse matrix.*x\.toarray\(\)"):
        jg.fit(make(X), 1, key=KEY)
