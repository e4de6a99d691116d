"""Bad input: one clear error each, that names the argument, the value and the way out."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

import jaxgmm as jg
from jaxgmm.app.config.toml import load_config
from jaxgmm.app.report import write_report
from jaxgmm.app.tables import read_table
from jaxgmm.covariance import get_family
from jaxgmm.sklearn import GaussianMixture
from jaxgmm.tools.errors import UserError, UserTypeError

KEY = jax.random.key(0)
X = np.array([[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, 0.0], [0.5, 0.7], [2.5, 1.1]])
W, M, C = np.array([0.4, 0.6]), np.array([[0.0, 0.0], [2.0, 1.0]]), np.tile(np.eye(2), (2, 1, 1))
GMM = jg.GMM(W, M, C)
PRIOR = jg.Prior(1.0, np.zeros(2), 0.01, 4.0, np.eye(2))
OWN = jg.Prior(1.0, M, 0.01, 4.0, np.eye(2))


def put(value, row=3):
    x = X.copy()
    x[row, 1] = value
    return x


def prior(**changes):
    arguments = {"concentration": 1.0, "mean": np.zeros(2), "mean_precision": 0.01, "degrees_of_freedom": 4.0}
    return jg.Prior(**({**arguments, "scale": np.eye(2)} | changes))


def fit(x=X, n_components=2, **options):
    return jg.fit(x, n_components, key=KEY, **options)


# Rows that no function takes, whoever asks.
ROWS = {
    "empty": ([], ValueError, ["x", "(0,)"]),
    "no rows": (np.empty((0, 2)), ValueError, ["x", "empty", "(0, 2)"]),
    "no columns": (np.empty((5, 0)), ValueError, ["x", "empty", "(5, 0)"]),
    "one axis": (X[:, 0], ValueError, ["x", "(6,)", "reshape(-1, 1)"]),
    "three axes": (X[None], ValueError, ["x", "(1, 6, 2)"]),
    "strings": (X.astype(str), TypeError, ["x", "<U", "numeric"]),
    "objects": (X.astype(object), TypeError, ["x", "object", "astype(float)"]),
    "complex": (X.astype(complex), TypeError, ["x", "complex128"]),
    "dates": (X.astype("datetime64[D]"), TypeError, ["x", "datetime64"]),
    "ragged": ([[1.0, 2.0], [3.0]], ValueError, ["x", "same length"]),
    "NaN": (put(np.nan), ValueError, ["x", "missing", "row 3", "drop these rows"]),
    "NaN in jax": (jnp.asarray(put(np.nan)), ValueError, ["x", "missing", "row 3"]),
    "NaNs": (np.where(X > 1.5, np.nan, X), ValueError, ["x", "missing", "rows 2, 3, 5"]),
    "infinite": (put(-np.inf), ValueError, ["x", "infinite", "row 3"]),
}
ASK = {
    "fit": fit,
    "initialise": lambda x: jg.initialise(x, 2, key=KEY),
    "e_step": lambda x: jg.e_step(GMM, x),
    "Prior.default": lambda x: jg.Prior.default(x, 2),
    "log_prob": GMM.log_prob,
    "responsibilities": GMM.responsibilities,
    "predict": GMM.predict,
    "bic": GMM.bic,
}


def raises(call, error, fragments):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for fragment in fragments:
        assert any(part in message for part in fragment.split("|")), f"{fragment!r} is not in: {message}"
    assert "\n" not in message


TAKE_GAPS = ("fit", "log_prob", "responsibilities", "predict", "bic")


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("rows", ROWS)
def test_rows(ask, rows):
    x, error, fragments = ROWS[rows]
    if rows.startswith("NaN") and ask in TAKE_GAPS:
        missing, error, fragments = np.isnan(x), ValueError, ["x", "no value at all", "row 3"]
        assert ASK[ask](x[~missing.all(1)]) is not None
        x = np.where(np.arange(len(x))[:, None] == 3, np.nan, np.where(missing.all(1, keepdims=True), 0, x))
    raises(lambda: ASK[ask](x), error, fragments)


CALLS = {
    # fit
    "one row": (lambda: fit(X[:1], 1), ValueError, ["x", "1 row"]),
    "K = 0": (lambda: fit(n_components=0), ValueError, ["n_components", "0"]),
    "K < 0": (lambda: fit(n_components=-2), ValueError, ["n_components", "-2"]),
    "K no number": (lambda: fit(n_components="2"), TypeError, ["n_components", "'2'"]),
    "K a float": (lambda: fit(n_components=2.0), TypeError, ["n_components", "2.0"]),
    "K missing": (lambda: jg.fit(X, key=KEY), ValueError, ["n_components"]),
    "K > N, ML": (lambda: fit(n_components=7, prior=None), ValueError, ["n_components", "7", "6"]),
    "K > rows with weight, ML": (
        lambda: fit(n_components=3, prior=None, sample_weight=[1, 0, 0, 0, 0, 1]),
        ValueError,
        ["n_components", "3", "2"],
    ),
    "family": (lambda: fit(family="tyed"), ValueError, ["family", "'tyed'", "'tied'"]),
    "family in capitals": (lambda: fit(family="VVX"), ValueError, ["family", "'VVX'", "'VVV'|'VVI'"]),
    "family no string": (lambda: fit(family=3), TypeError, ["family", "3"]),
    "prior name": (lambda: fit(prior="defualt"), ValueError, ["prior", "'defualt'", "'default'"]),
    "prior type": (lambda: fit(prior=0.1), TypeError, ["prior", "float"]),
    "prior of another family": (lambda: fit(prior=PRIOR, family="diag"), ValueError, ["prior", "'full'", "'diag'"]),
    "prior of other features": (lambda: fit(X[:, :1], prior=PRIOR), ValueError, ["prior", "2", "1"]),
    "concentration < 1": (lambda: fit(prior=prior(concentration=0.5)), ValueError, ["concentration", "0.5"]),
    "concentration of another K": (
        lambda: fit(prior=prior(concentration=np.ones(3))),
        ValueError,
        ["concentration", "(3,)", "2"],
    ),
    "init name": (lambda: fit(init="kmeans"), ValueError, ["init", "'kmeans'", "'k-means++'"]),
    "labels of other rows": (lambda: fit(init=np.array([0, 1])), ValueError, ["init", "(2,)", "6"]),
    "labels with a gap": (lambda: fit(init=np.array([0, 0, 2, 2, 0, 2])), ValueError, ["init", "labels"]),
    "labels that aren't whole": (lambda: fit(init=np.full(6, 0.5)), TypeError, ["init", "float64"]),
    "responsibilities off the simplex": (lambda: fit(init=np.full((6, 2), 0.7)), ValueError, ["init", "one"]),
    "responsibilities negative": (
        lambda: fit(init=np.tile([1.5, -0.5], (6, 1))),
        ValueError,
        ["init", "negative|non-negative"],
    ),
    "responsibilities of another K": (lambda: fit(init=np.full((6, 3), 1 / 3)), ValueError, ["n_components", "2", "3"]),
    "init GMM of another K": (lambda: fit(n_components=3, init=GMM), ValueError, ["n_components", "3", "2"]),
    "init GMM of another family": (lambda: fit(init=GMM, family="diag"), ValueError, ["family", "'diag'", "'full'"]),
    "init GMM of other features": (lambda: fit(X[:, :1], init=GMM), ValueError, ["features|columns", "1", "2"]),
    "n_init": (lambda: fit(n_init=0), ValueError, ["n_init", "0"]),
    "rtol negative": (lambda: fit(rtol=-1e-3), ValueError, ["rtol", "-0.001"]),
    "rtol NaN": (lambda: fit(rtol=float("nan")), ValueError, ["rtol", "nan"]),
    "max_steps": (lambda: fit(max_steps=0), ValueError, ["max_steps", "0"]),
    "stopping": (lambda: fit(stopping="aitkin"), ValueError, ["stopping", "'aitkin'", "'aitken'"]),
    "acceleration": (lambda: fit(acceleration="squarm"), ValueError, ["acceleration", "'squarm'", "'squarem'"]),
    "truncate negative": (lambda: fit(truncate=-1e-9), ValueError, ["truncate", "-1e-09", "at most 1e-08"]),
    "truncate too much": (lambda: fit(truncate=0.5), ValueError, ["truncate", "0.5", "at most 1e-08"]),
    "truncate NaN": (lambda: fit(truncate=float("nan")), ValueError, ["truncate", "nan"]),
    "truncate yes": (lambda: fit(truncate=True), ValueError, ["truncate", "True"]),
    "truncate pooled": (lambda: fit(truncate=1e-9, family="tied"), ValueError, ["truncate", "'tied'"]),
    "truncate factors": (lambda: fit(truncate=1e-9, family="factors:1"), ValueError, ["truncate", "'factors:1'"]),
    "truncate gaps": (lambda: fit(put(np.nan), truncate=1e-9), ValueError, ["truncate", "gaps"]),
    "truncate errors": (
        lambda: fit(truncate=1e-9, error_covariances=np.ones_like(X)),
        ValueError,
        ["truncate", "error_covariances"],
    ),
    "truncate labels": (lambda: fit(truncate=1e-9, labels=[0, -1, -1, -1, -1, -1]), ValueError, ["truncate", "labels"]),
    "truncate noise": (lambda: fit(truncate=1e-9, noise=True), ValueError, ["truncate", "noise"]),
    "truncate pieces": (
        lambda: fit(jg.data.Pieces(lambda: iter([X])), truncate=1e-9),
        ValueError,
        ["truncate", "in memory"],
    ),
    "fixed name": (lambda: fit(init=GMM, fixed=("mean",)), ValueError, ["fixed", "'mean'", "'means'"]),
    "fixed without a start": (lambda: fit(fixed=("means",)), ValueError, ["fixed", "init", "GMM"]),
    "fixed with labels": (
        lambda: fit(init=np.array([0, 1, 0, 1, 0, 1]), fixed=("means",)),
        ValueError,
        ["fixed", "init", "GMM"],
    ),
    "everything fixed": (
        lambda: fit(init=GMM, fixed=("weights", "means", "covariances")),
        ValueError,
        ["fixed", "nothing"],
    ),
    "fixed flags of another length": (
        lambda: fit(init=GMM, fixed={"means": [True, False, True]}),
        ValueError,
        ["fixed", "3 flags", "'means'", "2 components"],
    ),
    "fixed component that isn't there": (
        lambda: fit(init=GMM, fixed={"means": [2]}),
        ValueError,
        ["fixed", "component 2", "0 to 1"],
    ),
    "fixed component from the end": (lambda: fit(init=GMM, fixed={"means": -1}), ValueError, ["fixed", "component -1"]),
    "fixed word": (lambda: fit(init=GMM, fixed={"means": "both"}), ValueError, ["fixed", "'both'", "'all'"]),
    "equal means": (lambda: fit(init=GMM, fixed={"means": "equal"}), ValueError, ["fixed", "'equal'", "'all'"]),
    "weights of some word": (lambda: fit(fixed={"weights": "same"}), ValueError, ["fixed", "'same'", "'equal'"]),
    "equal weights and means without a start": (
        lambda: fit(fixed={"weights": "equal", "means": [0]}),
        ValueError,
        ["equal weights, means of 0", "init"],
    ),
    "fixed fractions": (lambda: fit(init=GMM, fixed={"means": [0.5]}), TypeError, ["fixed", "whole numbers"]),
    "fixed yes": (lambda: fit(init=GMM, fixed=True), TypeError, ["fixed", "('means',)", "bool"]),
    "fixed some of a pooled covariance": (
        lambda: fit(init=jg.GMM(W, M, np.eye(2), "tied"), fixed={"covariances": [0]}),
        ValueError,
        ["fixed", "'tied'", "'all'", "'full'"],
    ),
    "fixed some of covariances of one shape": (
        lambda: fit(init=jg.GMM(W, M, C, "VEE"), fixed={"covariances": [0]}),
        ValueError,
        ["fixed", "'VEE'", "in common"],
    ),
    "fixed in m_step": (lambda: jg.m_step(jg.e_step(GMM, X), GMM, fixed={"mean": [0]}), ValueError, ["fixed", "'means'"]),
    "one component of which all is fixed": (
        lambda: fit(n_components=1, init=jg.GMM([1.0], M[:1], C[:1]), fixed=("means", "covariances")),
        ValueError,
        ["fixed", "nothing"],
    ),
    "weights negative": (lambda: fit(sample_weight=[1, 1, -1, 1, 1, 1]), ValueError, ["sample_weight", "row 2"]),
    "weights all zero": (lambda: fit(sample_weight=np.zeros(6)), ValueError, ["sample_weight", "zero"]),
    "weights of other rows": (lambda: fit(sample_weight=np.ones(5)), ValueError, ["sample_weight", "(5,)", "6"]),
    "weights NaN": (lambda: fit(sample_weight=[1, np.nan, 1, 1, 1, 1]), ValueError, ["sample_weight", "row 1"]),
    "weights strings": (lambda: fit(sample_weight=["a"] * 6), TypeError, ["sample_weight"]),
    "fit under jit": (lambda: jax.jit(lambda x: fit(x).gmm.means)(X), TypeError, ["fit", "jit"]),
    # e_step and m_step
    "engine": (lambda: jg.e_step(GMM, X, engine="moment"), ValueError, ["engine", "'moment'", "'moments'"]),
    "block size": (lambda: jg.e_step(GMM, X, block_size=0), ValueError, ["block_size", "0"]),
    "e_step columns": (lambda: jg.e_step(GMM, X[:, :1]), ValueError, ["x", "1 column", "2"]),
    "e_step weights": (lambda: jg.e_step(GMM, X, np.zeros(6)), ValueError, ["sample_weight", "zero"]),
    "m_step prior": (
        lambda: jg.m_step(jg.e_step(GMM, X), GMM, prior(scale=np.ones(2), family="diag")),
        ValueError,
        ["prior", "'diag'", "'full'"],
    ),
    "statistics of other shapes": (
        lambda: jg.e_step(GMM, X) + jg.e_step(jg.GMM([1.0], M[:1], C[:1]), X),
        ValueError,
        ["shapes"],
    ),
    # GMM
    "weights do not sum to one": (lambda: jg.GMM([0.4, 0.4], M, C), ValueError, ["weights", "0.8", "sum"]),
    "negative weight": (lambda: jg.GMM([1.2, -0.2], M, C), ValueError, ["weights", "-0.2"]),
    "NaN weight": (lambda: jg.GMM([np.nan, 1.0], M, C), ValueError, ["weights", "nan"]),
    "weights of shape ()": (lambda: jg.GMM(1.0, M, C), ValueError, ["weights", "()"]),
    "weights strings ": (lambda: jg.GMM(["a", "b"], M, C), TypeError, ["weights"]),
    "means of another K": (lambda: jg.GMM(W, M[:1], C), ValueError, ["means", "(1, 2)", "(2,)"]),
    "means of one axis": (lambda: jg.GMM(W, M[:, 0], C), ValueError, ["means", "(2,)"]),
    "NaN mean": (lambda: jg.GMM(W, M * np.nan, C), ValueError, ["means", "finite"]),
    "covariances of another family": (lambda: jg.GMM(W, M, np.ones((2, 2))), ValueError, ["covariances", "(2, 2, 2)"]),
    "covariances of another K": (lambda: jg.GMM(W, M, C[:1]), ValueError, ["covariances", "(1, 2, 2)", "(2, 2, 2)"]),
    "infinite covariance": (lambda: jg.GMM(W, M, np.where(C > 0, np.inf, 0)), ValueError, ["covariances", "finite"]),
    "indefinite covariance": (
        lambda: jg.GMM(W, M, np.array([np.eye(2), [[1.0, 2.0], [2.0, 1.0]]])),
        ValueError,
        ["covariances", "positive definite", "1", "-1"],
    ),
    "subnormal covariance": (lambda: jg.GMM([1.0], [[0.0]], [1e-310], "spherical"), ValueError, ["positive definite"]),
    "singular covariance": (lambda: jg.GMM(W, M, np.ones((2, 2)), "tied"), ValueError, ["positive definite"]),
    "asymmetric covariance": (
        lambda: jg.GMM(W, M, np.array([[1.0, 0.5], [0.0, 1.0]]), "tied"),
        ValueError,
        ["covariances", "symmetric"],
    ),
    "zero variance": (lambda: jg.GMM(W, M, [1.0, 0.0], "spherical"), ValueError, ["covariances", "0"]),
    "negative variance": (lambda: jg.GMM(W, M, -np.ones((2, 2)), "diag"), ValueError, ["covariances", "-1"]),
    "GMM family": (lambda: jg.GMM(W, M, C, "ful"), ValueError, ["family", "'ful'", "'full'"]),
    "get_family": (lambda: get_family("sferical"), ValueError, ["family", "'sferical'", "'spherical'"]),
    "asked for other columns": (lambda: GMM.log_prob(X[:, :1]), ValueError, ["x", "1", "2"]),
    "criterion weights": (lambda: GMM.bic(X, np.zeros(6)), ValueError, ["sample_weight", "zero"]),
    "n_samples": (lambda: GMM.sample(KEY, -1), ValueError, ["n_samples", "-1"]),
    "marginal of nothing": (lambda: GMM.marginal([]), ValueError, ["features", "[]"]),
    "marginal out of range": (lambda: GMM.marginal([2]), ValueError, ["features", "2"]),
    "marginal twice": (lambda: GMM.marginal([1, 1]), ValueError, ["features", "twice"]),
    "marginal by name": (lambda: GMM.marginal(["a"]), ValueError, ["features", "'a'"]),
    "condition on everything": (lambda: GMM.condition([0, 1], [0.0, 0.0]), ValueError, ["features", "nothing"]),
    "condition on other values": (lambda: GMM.condition([0], [0.0, 1.0]), ValueError, ["values", "(2,)"]),
    "condition on NaN": (lambda: GMM.condition([0], [np.nan]), ValueError, ["values", "nan"]),
    # Prior
    "concentration 0": (lambda: prior(concentration=0.0), ValueError, ["concentration", "0.0"]),
    "concentration 2-D": (lambda: prior(concentration=np.ones((2, 2))), ValueError, ["concentration", "(2, 2)"]),
    "prior mean 0-D": (lambda: prior(mean=0.0), ValueError, ["mean", "()"]),
    "prior mean NaN": (lambda: prior(mean=np.array([0.0, np.nan])), ValueError, ["mean", "nan"]),
    "mean_precision": (lambda: prior(mean_precision=0.0), ValueError, ["mean_precision", "0.0"]),
    "mean_precision 2-D": (lambda: prior(mean_precision=np.ones((2, 2))), ValueError, ["mean_precision", "(2, 2)"]),
    "degrees_of_freedom": (lambda: prior(degrees_of_freedom=1.0), ValueError, ["degrees_of_freedom", "1.0"]),
    "scale shape": (lambda: prior(scale=np.ones(2)), ValueError, ["scale", "(2,)", "(2, 2)"]),
    "scale indefinite": (lambda: prior(scale=-np.eye(2)), ValueError, ["scale", "positive definite"]),
    "scale in jax": (lambda: prior(scale=-jnp.eye(2)), ValueError, ["scale", "positive definite"]),
    "scale asymmetric": (lambda: prior(scale=np.array([[1, 0.5], [0, 1]])), ValueError, ["scale", "symmetric"]),
    "scale zero": (lambda: prior(scale=np.array(0.0), family="spherical"), ValueError, ["scale", "positive"]),
    "scale strings": (lambda: prior(scale="a"), TypeError, ["scale"]),
    "prior family": (lambda: prior(family="fulll"), ValueError, ["family", "'fulll'", "'full'"]),
    "prior of 2 and of 3 components": (
        lambda: prior(mean=M, mean_precision=np.ones(3)),
        ValueError,
        ["numbers of components differ", "mean 2", "mean_precision 3"],
    ),
    "a wrong number of one component": (lambda: prior(mean_precision=[1.0, 0.0]), ValueError, ["mean_precision", "[1.0, 0.0]"]),
    "a wrong matrix of one component": (lambda: prior(scale=C * [[[1]], [[-1]]]), ValueError, ["scale", "positive definite"]),
    "scales of a shared covariance": (lambda: prior(scale=C, family="tied"), ValueError, ["scale", "'tied'", "'full'"]),
    "scales of one volume": (lambda: prior(scale=C, family="EVV"), ValueError, ["scale", "'EVV'", "'full'"]),
    "degrees of freedom of a shared covariance": (
        lambda: prior(degrees_of_freedom=[4.0, 5.0], family="tied"),
        ValueError,
        ["degrees_of_freedom", "'tied'"],
    ),
    "means beside a random scale": (
        lambda: dataclasses.replace(jg.Prior.default(X, 2), mean=M),
        ValueError,
        ["mean", "least_scale=None", "fraley_raftery"],
    ),
    "Prior.default K": (lambda: jg.Prior.default(X, 0), ValueError, ["n_components", "0"]),
    "Prior.default family": (lambda: jg.Prior.default(X, 2, "ful"), ValueError, ["family", "'full'"]),
    "Prior.default weights": (
        lambda: jg.Prior.default(X, 2, sample_weight=np.zeros(6)),
        ValueError,
        ["sample_weight", "zero"],
    ),
    "log_prob of another family": (
        lambda: PRIOR.log_prob(jg.GMM(W, M, np.ones((2, 2)), "diag")),
        ValueError,
        ["prior", "'full'", "'diag'"],
    ),
    "prior of other components": (lambda: fit(n_components=3, prior=OWN), ValueError, ["prior.mean", "(2, 2)", "3 components"]),
    "prior by component in a model of others": (
        lambda: jg.posterior(X, jg.GMM([0.2, 0.3, 0.5], [*M, M[1]], [*C, C[1]]), prior=OWN, method="gibbs", key=KEY),
        ValueError,
        ["prior.mean", "3 components"],
    ),
    "prior of other components in a NumPyro model": (
        lambda: log_density(jg.numpyro_model, (X, 3, "full", OWN), {}, {}),
        ValueError,
        ["prior.mean", "(2, 2)", "3 components"],
    ),
    # Where components share a prior
    "prior by component in fit_vb": (lambda: jg.fit_vb(X, 2, key=KEY, prior=OWN), ValueError, ["prior.mean", "'gibbs'"]),
    "prior by component in 'vb'": (
        lambda: jg.posterior(X, GMM, prior=OWN, method="vb", key=KEY),
        ValueError,
        ["prior.mean", "'vb'", "'gibbs'"],
    ),
    "prior by component in a count": (lambda: jg.count_clusters(X, key=KEY, prior=OWN), ValueError, ["prior.mean", "count"]),
    "prior by component in fit_groups": (
        lambda: jg.fit_groups([X, X], n_components=2, key=KEY, prior=OWN),
        ValueError,
        ["prior.mean", "fit_groups"],
    ),
    "prior by component in compare": (
        lambda: jg.compare(X, families=["full"], n_components=[2], key=KEY, prior=lambda default: OWN),
        ValueError,
        ["prior.mean", "compare"],
    ),
    "prior by component in initialise": (lambda: jg.initialise(X, 2, key=KEY, prior=OWN), ValueError, ["prior.mean", "fit"]),
    "prior by component in scikit-learn's class": (
        lambda: GaussianMixture(2, prior=OWN).fit(X),
        ValueError,
        ["prior.mean", "jaxgmm.fit"],
    ),
    "prior by component in animate": (
        lambda: jg.plots.animate(X, 2, key=KEY, prior=OWN),
        ValueError,
        ["prior.mean", "init"],
    ),
    # initialise
    "initialise K": (lambda: jg.initialise(X, 0, key=KEY), ValueError, ["n_components", "0"]),
    "initialise init": (
        lambda: jg.initialise(X, 2, key=KEY, init="randm"),
        ValueError,
        ["init", "'randm'", "'random'"],
    ),
    "initialise family": (lambda: jg.initialise(X, 2, key=KEY, family="tie"), ValueError, ["family", "'tied'"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    raises(*CALLS[name])


@pytest.mark.parametrize("options", [{}, {"prior": None}, {"sample_weight": [1.0, 1, 1, 1, 1, 0], "n_components": 6}])
def test_more_components_than_rows(options):
    """A component without a row is nothing but its prior."""
    with pytest.raises(ValueError, match=r"n_components is \d, but x has \d rows of positive weight"):
        fit(**{"n_components": 8, **options})


def test_a_component_for_each_row():
    """That many have no maximum likelihood fit; with a prior they have a mode, and those without rows are named."""
    found = fit(n_components=6, n_init=1)
    assert np.isfinite(found.objective)


def test_nothing_usable_raises():
    """Squares of these rows overflow float64: no start has a finite objective, and nothing pretends that one has."""
    with pytest.raises((jg.FitError, ValueError), match=re.compile("not_finite|infinite|large|overflow")):
        fit(X * 1e300)


def not_a_zip(path):
    path.write_text("weights,means\n1,2\n")


def truncated(path):
    GMM.save(path)
    path.write_bytes(path.read_bytes()[:-200])


def empty(path):
    path.write_bytes(b"")


def pickled(path):
    np.savez(path, header=np.array('{"format": 1, "kind": "jaxgmm.GMM", "family": "full"}'), weights=W, means=M,
             covariances=np.array([None, C], dtype=object))  # fmt: skip


def single_array(path):
    with open(path, "wb") as file:
        np.save(file, X)


def other_arrays(path):
    np.savez(path, a=X)


def from_the_future(path):
    header = '{"format": 99, "kind": "jaxgmm.GMM", "family": "full"}'
    np.savez(path, header=np.array(header), weights=W, means=M, covariances=C)


def not_a_mixture(path):
    header = '{"format": 1, "kind": "jaxgmm.GMM", "family": "full"}'
    np.savez(path, header=np.array(header), weights=W, means=M, covariances=-C)


@pytest.mark.parametrize(
    "write", [not_a_zip, truncated, empty, pickled, single_array, other_arrays, from_the_future, not_a_mixture]
)
def test_damaged_files(write, tmp_path):
    path = tmp_path / "gmm.npz"
    write(path)
    fragments = {"from_the_future": ["99", "update"], "not_a_mixture": ["covariances"]}
    raises(lambda: jg.load(path), ValueError, fragments.get(write.__name__, ["gmm.npz"]))


def test_a_nested_header(tmp_path):
    np.savez(tmp_path / "gmm.npz", header=np.array("[" * 100_000), weights=W, means=M, covariances=C)
    raises(lambda: jg.load(tmp_path / "gmm.npz"), UserError, ["gmm.npz", "not a whole jaxgmm mixture"])


def test_a_compression_that_python_does_not_know(tmp_path):
    path = GMM.save(tmp_path / "gmm.npz")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 10] = 99  # the method, in the directory
    path.write_bytes(content)
    raises(lambda: jg.load(path), UserError, ["gmm.npz", "compression"])


@pytest.mark.parametrize("path", [None, 3, b"gmm.npz", ["gmm.npz"]], ids=str)
@pytest.mark.parametrize(
    "use", [jg.load, GMM.save, jg.load_posterior, load_config, read_table, write_report],
    ids=["load", "save", "load_posterior", "load_config", "read_table", "write_report"],
)  # fmt: skip
def test_what_is_no_path(use, path):
    raises(lambda: use(path), UserTypeError, ["must be a string or a pathlib.Path", repr(path)])


@pytest.mark.parametrize("max_steps", [10_000_001, 2**31, 2**70])
@pytest.mark.parametrize("use", [
    fit,
    lambda **options: jg.compare(X, families=["full"], n_components=[1], key=KEY, **options),
    lambda **options: jg.fit_vb(X, 2, key=KEY, **options),
    lambda **options: jg.fit_map(X, 2, key=KEY, **options),
    lambda **options: jg.posterior(X, GMM, key=KEY, method="vb", **options),
], ids=["fit", "compare", "fit_vb", "fit_map", "posterior"])  # fmt: skip
def test_more_steps_than_memory_has_room_for(use, max_steps):
    raises(lambda: use(max_steps=max_steps), UserError, ["max_steps", str(max_steps), "10000000", "rtol"])


def test_missing_file(tmp_path):
    raises(lambda: jg.load(tmp_path / "none.npz"), FileNotFoundError, ["none.npz"])


def test_save_to_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GMM.save(tmp_path / "nowhere" / "gmm.npz")
