"""ONNX graphs, run by ONNX's own reference in NumPy, say what the mixture says."""

import json

import jax
import numpy as np
import onnx
import pytest
from helpers import random_member
from onnx.reference import ReferenceEvaluator

import jaxgmm as jg

OUTPUTS = ["label", "probabilities", "score_samples"]
DIGITS = {np.float64: 1e-12, np.float32: 1e-4}  # float32: 24 bits, of squares that add up to some hundreds


def run(gmm, x, dtype=np.float64):
    return ReferenceEvaluator(jg.to_onnx(gmm, dtype=dtype)).run(OUTPUTS, {"x": np.asarray(x, dtype)})


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical", "VEV", "EII", "factors:1"])
def test_it_says_what_the_mixture_says(family, dtype):
    gmm = random_member(family) if ":" not in family else jg.GMM([0.3, 0.7], np.eye(2, 3), np.full((2, 3, 2), 0.8), family)
    x = 3 * np.random.default_rng(0).normal(size=(200, 3))
    label, probabilities, scores = run(gmm, x, dtype)
    assert (label.dtype, probabilities.dtype, scores.dtype) == (np.int64, dtype, dtype)
    np.testing.assert_allclose(scores, gmm.log_prob(x), rtol=DIGITS[dtype], atol=DIGITS[dtype])
    shares = np.asarray(gmm.responsibilities(x))
    np.testing.assert_allclose(probabilities, shares, atol=10 * DIGITS[dtype])
    sure = shares.max(1) > 0.5 + 10 * DIGITS[dtype]
    np.testing.assert_array_equal(label[sure], np.asarray(gmm.predict(x))[sure])


def test_rows_that_nothing_explains_and_components_that_take_none():
    gmm = jg.GMM([0.4, 0.6, 0.0], [[0.0], [1e3], [5.0]], [1e-4, 1.0, 1.0], "spherical")
    x = np.array([[0.0], [5.0], [1e200], [1e3]])
    with np.errstate(over="ignore", divide="ignore"):  # as runtimes do
        label, probabilities, scores = run(gmm, x)
    np.testing.assert_array_equal(label, gmm.predict(x))
    np.testing.assert_allclose(probabilities, gmm.responsibilities(x))
    assert scores[2] == -np.inf == float(gmm.log_prob(x)[2])
    np.testing.assert_allclose(scores[[0, 1, 3]], np.asarray(gmm.log_prob(x))[[0, 1, 3]])


def test_tight_components_that_are_far_apart_keep_their_digits_in_float32():
    gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [1024.0, 512.0]], [[[1e-4, 5e-5], [5e-5, 1e-4]]] * 2)
    x = np.array([[2.0**-7, -(2.0**-8)], [1024 + 2.0**-7, 512.0]])  # numbers of float32
    np.testing.assert_allclose(run(gmm, x, np.float32)[2], gmm.log_prob(x), rtol=1e-5)


def test_rows_beyond_all_numbers_are_none_of_the_components_and_gaps_stay_gaps():
    gmm = jg.GMM([0.5, 0.5], [[0.0, 0.0], [1.0, 0.0]], [[[1.0, 0.9], [0.9, 1.0]]] * 2)
    x = np.array([[1e38, 1e38], [1e38, -1e38], [np.nan, 0.0]])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # as runtimes do
        _, probabilities, scores = run(gmm, x, np.float32)
    assert (scores[:2] == -np.inf).all()
    np.testing.assert_allclose(probabilities[:2], 0.5)
    assert np.isnan(scores[2])
    assert np.isnan(probabilities[2]).all()


def test_offsets_cost_few_digits():
    gmm = random_member("full")
    moved, x = jg.GMM(gmm.weights, np.asarray(gmm.means) + 2.0**20, gmm.covariances), np.asarray(gmm.means) + 2.0**20
    np.testing.assert_allclose(run(moved, x)[2], moved.log_prob(x), rtol=1e-12)


def test_a_file_of_it_names_its_columns_and_runs_on_old_runtimes(tmp_path):
    gmm = random_member("full").named(["a", "b", "c"])
    onnx.save(jg.to_onnx(gmm), tmp_path / "mixture.onnx")
    model = onnx.load(tmp_path / "mixture.onnx")
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {"feature_names": ["a", "b", "c"]}
    assert (model.ir_version, model.opset_import[0].version) == (8, 13)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("N", 3)


def test_what_has_no_graph_says_so():
    gmm = random_member("full")
    with pytest.raises(ValueError, match="dtype must be float64 or float32, got float16"):
        jg.to_onnx(gmm, dtype=np.float16)
    with pytest.raises(ValueError, match="leading axes"):
        jg.to_onnx(jax.tree.map(lambda leaf: np.asarray(leaf)[None], gmm))
    with pytest.raises(TypeError, match="to_onnx works on the host"):
        jax.jit(lambda g: jg.to_onnx(g) and 0)(gmm)
    with pytest.raises(TypeError, match="gmm must be a GMM"):
        jg.to_onnx("gmm")
