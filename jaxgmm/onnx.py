"""A mixture as an ONNX graph, which runs where there is no Python: plain matrix products, written out by hand."""

import json
from typing import Any

import numpy as np
from jaxtyping import Float

try:
    import onnx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("jaxgmm.onnx needs onnx: pip install 'jaxgmm[onnx]'", name=error.name) from None
from onnx import helper, numpy_helper

from jaxgmm.model.coercion import Mixture, about_rows
from jaxgmm.model.density import WITHOUT_ROWS
from jaxgmm.tools.errors import UserError
from jaxgmm.tools.validation import check_single, host_only
from jaxgmm.version import __version__

_OPSET, _IR = 13, 8  # old enough for any runtime since 2021


def to_onnx(gmm: Mixture, *, dtype: Any = np.float64) -> onnx.ModelProto:
    """What the mixture says of rows as an ONNX model, to be saved by `onnx.save` and run by any runtime.

    Its input is `x` (N, D), columns in the mixture's order, which its metadata has as JSON, `feature_names`. Its outputs are
    called as those of scikit-learn's converter: `label` (N,), `probabilities` (N, K) and `score_samples` (N,), our `predict`,
    `responsibilities` and `log_prob`. Rows are whitened by a matrix of D x D numbers for each component, in all families.
    Rows without gaps: of NaN it makes NaN.

    Args:
        gmm: one mixture, or what holds one, such as a Fit.
        dtype: of input and graph, float64 or float32, in which densities have about six digits.

    Raises:
        ModuleNotFoundError: without the extra `jaxgmm[onnx]`.
        TypeError: no mixture, or a traced one.
        ValueError: a mixture with leading axes; a fit with noise, or of rows with errors; another dtype.

    Example:
        >>> import jaxgmm as jg, numpy as np
        >>> from onnx.reference import ReferenceEvaluator
        >>> gmm = jg.GMM([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
        >>> ReferenceEvaluator(jg.to_onnx(gmm)).run(["label"], {"x": np.array([[1.0], [3.0]])})[0].tolist()
        [0, 1]
    """
    gmm = about_rows(gmm, "to_onnx")
    check_single(gmm.weights, "jg.to_onnx(g)")
    host_only("to_onnx", gmm)
    if np.dtype(dtype) not in (np.float64, np.float32):
        raise UserError(f"dtype must be float64 or float32, got {np.dtype(dtype).name}.")
    k, d = gmm.n_components, gmm.n_features
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    constants = {name: value.astype(dtype) for name, value in _numbers(gmm).items()} | {
        "beside": np.array([1]), "before": np.array([2]), "features": np.array([2, 3]), "components": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node(operation, inputs.split(), [output], **options)
        for operation, inputs, output, options in (
            ("Unsqueeze", "x beside", "each", {}),
            ("Sub", "each means", "from_means", {}),  # first, so that digits aren't lost where components are far apart
            ("Unsqueeze", "from_means before", "as_row", {}),
            ("MatMul", "as_row whitening", "z", {}),
            ("Mul", "z z", "squares", {}),
            ("ReduceSum", "squares features", "sums", {"keepdims": 0}),
            # what is too large for a number is far away, but a row with NaN stays one
            ("IsNaN", "sums", "undecided", {}),
            ("Where", "undecided infinite sums", "decided", {}),
            ("Mul", "x zero", "nothing", {}),
            ("ReduceSum", "nothing components", "gap", {"keepdims": 1}),
            ("Add", "decided gap", "distances", {}),
            ("Mul", "distances half", "halves", {}),
            ("Sub", "log_constant halves", "log_joint", {}),
            # log_prob: the largest taken out; nothing is, of a row that is too far away for a number
            ("ReduceMax", "log_joint", "peak", {"axes": [1], "keepdims": 1}),
            ("IsInf", "peak", "lost", {}),
            ("Where", "lost zero peak", "taken_out", {}),
            ("Sub", "log_joint taken_out", "below", {}),
            ("Exp", "below", "exponential", {}),
            ("ReduceSum", "exponential components", "total", {"keepdims": 1}),
            ("Log", "total", "log_total", {}),
            ("Add", "log_total taken_out", "log_prob", {}),
            ("Squeeze", "log_prob components", "score_samples", {}),
            # which belongs to components by their weights
            ("Where", "lost log_weights log_joint", "log_shares", {}),
            ("Softmax", "log_shares", "probabilities", {"axis": 1}),
            ("ArgMax", "log_shares", "label", {"axis": 1, "keepdims": 0}),
        )
    ]
    graph = helper.make_graph(
        nodes,
        "gaussian_mixture",
        [helper.make_tensor_value_info("x", element, ["N", d])],
        [
            helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", element, ["N", k]),
            helper.make_tensor_value_info("score_samples", element, ["N"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="jaxgmm",
        producer_version=__version__,
    )
    if gmm.feature_names is not None:
        helper.set_model_props(model, {"feature_names": json.dumps(gmm.feature_names)})
    onnx.checker.check_model(model)
    return model


def _numbers(gmm: Any) -> dict[str, Float[np.ndarray, "..."]]:
    """What the graph holds, in float64."""
    weights, means, sigma = (np.asarray(leaf, float) for leaf in (gmm.weights, gmm.means, gmm.dense_covariances()))
    sd = np.sqrt(np.diagonal(sigma, axis1=1, axis2=2))
    factors = sd[:, :, None] * np.linalg.cholesky(sigma / sd[:, :, None] / sd[:, None, :])
    inverses = np.linalg.inv(factors)
    log_weights = np.log(weights, where=weights > WITHOUT_ROWS, out=np.full(len(weights), -np.inf))
    half_log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(1)
    return {
        "means": means,
        "whitening": inverses.transpose(0, 2, 1),
        "log_constant": log_weights - half_log_det - gmm.n_features / 2 * np.log(2 * np.pi),
        "log_weights": log_weights,
        "half": np.array(0.5),
        "zero": np.array(0.0),
        "infinite": np.array(np.inf),
    }
