"""jaxgmm.sklearn as estimators: scikit-learn's own checks, its tools, sample weights, the prior, converters, bad input."""

import copy
import os
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from helpers import random_member
from sklearn import mixture
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from test_differential import FAMILIES, assert_same, fitted, outcome
from threadpoolctl import threadpool_info

import jaxgmm as jg
import jaxgmm.sklearn as ours

ESTIMATORS = ("GaussianMixture", "BayesianGaussianMixture")


@pytest.fixture(params=ESTIMATORS)
def name(request):
    return request.param


@pytest.fixture
def both(name):
    """Our class and scikit-learn's."""
    return getattr(ours, name), getattr(mixture, name)


def start_of(x, family, n_components=3):
    """The three *_init parameters of a start that is the same however rows are repeated."""
    n_features = x.shape[1]
    precisions = {
        "full": np.stack([np.eye(n_features)] * n_components),
        "tied": np.eye(n_features),
        "diag": np.ones((n_components, n_features)),
        "spherical": np.ones(n_components),
    }[family]
    weights = np.full(n_components, 1 / n_components)
    return {"weights_init": weights, "means_init": x[:n_components].copy(), "precisions_init": precisions}


@pytest.mark.filterwarnings("ignore")
def test_check_estimator(both):
    """No failure, no expected failure; what is skipped needs another array library."""
    results = check_estimator(both[0](), on_fail=None)
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}
    assert len(results) > 40


def test_is_scikit_learns(both):
    mine, theirs = both
    assert issubclass(mine, theirs)
    defaults = theirs().get_params()
    assert {**defaults, "prior": None} == {"prior": None, **mine().get_params()}


def test_importing_jaxgmm_does_not_import_scikit_learn():
    code = "import sys, jaxgmm, jaxgmm.fitting.fit; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_configuration_stays(blobs):
    with jax.enable_x64(False):
        mine = ours.GaussianMixture(2, random_state=0).fit(blobs)
        assert mine.means_.dtype == np.float64
        assert not jax.config.jax_enable_x64


# Bad input

BAD_PARAMETERS = {
    "n_components": (0, -1, 2.5, "two", None),
    "covariance_type": ("VEV", "fulll", 3, None, ["full"]),
    "tol": (-1.0, "small", None),
    "reg_covar": (-1e-6, "small", None),
    "max_iter": (-1, 1.5, None),
    "n_init": (0, 1.5),
    "init_params": ("kmean", None, 3),
    "random_state": ("seed", -1, 1.5),
    "warm_start": ("yes", 2),
    "verbose": (-1, "no"),
    "verbose_interval": (0, 1.5),
}
BAD_INITS = {
    "weights_init": ([0.5, 0.6], [1.0], [-0.5, 1.5], "a", [[0.5, 0.5]], [np.nan, 1.0]),
    "means_init": ([[0.0], [1.0]], np.zeros((3, 3)), [[np.inf] * 3] * 2, "a"),
    "precisions_init": (np.eye(3), -np.stack([np.eye(3)] * 2), np.ones(2), "a"),
}
BAD_PRIORS = {
    "weight_concentration_prior_type": ("dirichlet", None),
    "weight_concentration_prior": (0.0, -1, "a"),
    "mean_precision_prior": (0.0, "a"),
    "mean_prior": ([0.0], [[0.0] * 3], "a"),
    "degrees_of_freedom_prior": (1.0, 0, "a"),
    "covariance_prior": (np.eye(2), -np.eye(3), 0.0, "a"),
}
BAD_ROWS = {
    "NaN": lambda x: np.where(x > 2, np.nan, x),
    "infinite": lambda x: np.where(x > 2, np.inf, x),
    "one dimension": lambda x: x[:, 0],
    "three dimensions": lambda x: x[None],
    "one row": lambda x: x[:1],
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "fewer rows than components": lambda x: x[:2],
    "strings": lambda x: [["a", "b"], ["c", "d"]],
    "ragged": lambda x: [[1.0, 2.0], [3.0]],
    "complex": lambda x: x + 1j,
    "sparse": scipy.sparse.csr_array,
    "None": lambda x: None,
    "a number": lambda x: 3.0,
    "overflow": lambda x: x * 1e200,
    "two distinct rows": lambda x: np.repeat(x[:2], 50, axis=0),
    "a constant column": lambda x: x * [1, 0, 1],
    "integers": lambda x: np.round(10 * x).astype(int),
    "booleans": lambda x: x > 0,
    "uint8": lambda x: np.abs(10 * x).astype(np.uint8),
    "object": lambda x: x.astype(object),
    "float16": lambda x: x.astype(np.float16),
    "list": lambda x: x.tolist(),
    "DataFrame": lambda x: pd.DataFrame(x, columns=["a", "b", "c"]),
    "unnamed columns": pd.DataFrame,
    "masked": lambda x: np.ma.masked_greater(x, 2),
    "not contiguous": lambda x: np.asfortranarray(x)[::2],
    "read only": lambda x: read_only(x.copy()),
}


def read_only(x):
    x.setflags(write=False)
    return x


def assert_same_outcome(both, x, **parameters):
    mine, theirs = both[0](**parameters), both[1](**parameters)
    seen, expected = outcome(mine, x), outcome(theirs, x)
    # Messages name the class, which has the same name; scikit-learn's own text else.
    assert seen == expected
    if expected["error"][0] is type(None):
        assert_same(mine, theirs)
    return expected["error"][0]


@pytest.mark.parametrize(("parameter", "value"), [(p, v) for p, values in BAD_PARAMETERS.items() for v in values])
def test_bad_parameters(both, blobs, parameter, value):
    error = assert_same_outcome(both, blobs, **{"n_components": 2, parameter: value})
    assert issubclass(error, (ValueError, TypeError))


@pytest.mark.parametrize(("parameter", "value"), [(p, v) for p, values in BAD_INITS.items() for v in values])
def test_bad_starts(blobs, parameter, value):
    pair = ours.GaussianMixture, mixture.GaussianMixture
    assert issubclass(assert_same_outcome(pair, blobs, n_components=2, **{parameter: value}), (ValueError, TypeError))


@pytest.mark.parametrize(("parameter", "value"), [(p, v) for p, values in BAD_PRIORS.items() for v in values])
def test_bad_priors(blobs, parameter, value):
    pair = ours.BayesianGaussianMixture, mixture.BayesianGaussianMixture
    assert issubclass(assert_same_outcome(pair, blobs, n_components=2, **{parameter: value}), (ValueError, TypeError))


@pytest.mark.parametrize("rows", BAD_ROWS)
def test_odd_rows(both, blobs, rows):
    assert_same_outcome(both, BAD_ROWS[rows](blobs), n_components=3, random_state=0)


@pytest.mark.parametrize("rows", ["integers", "booleans", "uint8", "float16", "list", "DataFrame", "read only"])
def test_labels(both, blobs, rows):
    """Are those of the floats that were fitted, whatever they were made of."""
    x = BAD_ROWS[rows](blobs)
    mine, theirs = (cls(n_components=3, random_state=0).fit_predict(x) for cls in both)
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("n_components", [1, 2])
def test_singular_without_reg_covar(family, n_components):
    """Zeros, since x^2 - x^2 of other repeated rows is what rounding makes of it, in scikit-learn as here."""
    pair = ours.GaussianMixture, mixture.GaussianMixture
    parameters = {"n_components": n_components, "covariance_type": family, "init_params": "random", "random_state": 0}
    assert assert_same_outcome(pair, np.zeros((40, 2)), reg_covar=0, **parameters) is ValueError


@pytest.mark.parametrize("family", ["full", "tied"])
def test_component_collapses_on_the_way(family):
    """Where one row is all that a component keeps, or all rows lie on a line: refused by both, in the M-step."""
    x = np.repeat(np.arange(12.0).reshape(6, 2) ** 2, 5, axis=0)
    x[:, 1] = x[:, 0]
    pair = ours.GaussianMixture, mixture.GaussianMixture
    start = {**start_of(x, family, 2), "means_init": x[[0, -1]]}
    assert assert_same_outcome(pair, x, n_components=2, covariance_type=family, reg_covar=0, **start) is ValueError


def test_other_columns_than_fitted(both, blobs):
    frame = pd.DataFrame(blobs, columns=["a", "b", "c"])
    messages = []
    for cls in both:
        estimator = cls(random_state=0).fit(frame)
        with pytest.raises(ValueError, match="feature names") as caught:
            estimator.predict(frame[["a", "c", "b"]])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_not_fitted(both, blobs):
    for method in ("predict", "predict_proba", "score_samples", "score"):
        with pytest.raises(NotFittedError):
            getattr(both[0](), method)(blobs)
    with pytest.raises(NotFittedError):
        both[0]().gmm_  # noqa: B018


# The same fits

SMALL = np.finfo(np.float32).eps


def test_float32_rows(both, blobs, family):
    """Dtypes are scikit-learn's; values are nearer to its float64 fit than rounding to float32 in each step explains."""
    x = blobs.astype(np.float32)
    parameters = {"n_components": 2, "covariance_type": family, "random_state": 0, "max_iter": 10, "tol": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mine, theirs, exact = (cls(**parameters) for cls in (both[0], both[1], both[1]))
        for estimator, rows in ((mine, x), (theirs, x), (exact, x.astype(float))):
            estimator.fit(rows)
    for name, value in fitted(theirs).items():
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (getattr(mine, name), value)), strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype, name
    size = np.abs(exact.means_).max()
    np.testing.assert_allclose(mine.means_, exact.means_, atol=1000 * SMALL * size, rtol=0)


def test_digits_far_from_zero(blobs):
    """Where scikit-learn takes squares of the offset: its diag variances at 1e6 have lost all but three digits, ours none."""
    parameters = {"n_components": 2, "covariance_type": "diag", "random_state": 0, "reg_covar": 0}
    rows = 0.01 * blobs
    near = ours.GaussianMixture(**parameters, **_fixed(rows, 0.0)).fit(rows)
    far = ours.GaussianMixture(**parameters, **_fixed(rows, 1e6)).fit(rows + 1e6)
    # Rows near 1e6 are stored to 1e6 eps = 2e-10, 1e-8 of their spread; EM's steps amplify it.
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=1e-5)


def _fixed(rows, offset):
    return {"means_init": rows[:2] + offset, "weights_init": [0.5, 0.5], "precisions_init": np.full((2, 3), 1 / rows.var())}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warm_start(both, blobs, family):
    parameters = {"n_components": 2, "covariance_type": family, "random_state": 0, "warm_start": True, "max_iter": 2}
    mine, theirs = (cls(**parameters).fit(blobs).fit(blobs[::-1]) for cls in both)
    assert_same(mine, theirs)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_program_is_compiled_twice(both, blobs):
    """Neither by starts, nor by settings, nor by other rows of the same shape."""
    both[0](2, random_state=0).fit(blobs) if both[0] is ours.GaussianMixture else both[0](n_components=2).fit(blobs)
    from jaxgmm.sklearn.rows import _statistics

    compiled = _statistics._cache_size()
    parameters = {"n_components": 2, "n_init": 3, "init_params": "random", "random_state": 1, "max_iter": 7, "tol": 1e-5}
    both[0](**parameters, reg_covar=1e-3).fit(blobs + 1)
    assert _statistics._cache_size() == compiled


def test_numbers_of_rows_share_programs(both, blobs, family):
    from jaxgmm.sklearn.rows import _statistics

    sizes = []
    for n_samples in (200, 229):
        both[0](n_components=2, covariance_type=family, random_state=0).fit(blobs[:n_samples])
        sizes.append(_statistics._cache_size())
    assert sizes[0] == sizes[1]


def test_a_first_fit_compiles_one_program(both, blobs, compilations, family):
    """And the zero by which it sees whether JAX is tracing."""
    jax.clear_caches()
    both[0](n_components=2, covariance_type=family, random_state=0).fit(blobs)
    assert compilations.count("jit(_statistics)") == 1
    assert len(compilations) <= 2


def test_ordinary_rows_are_summed_by_the_compiled_function(both, blobs, monkeypatch, family):
    """Wherever rows are from zero, however many they are: scikit-learn's sums are for components on a single row."""
    from jaxgmm.sklearn.expectation import Expectation

    monkeypatch.delattr(Expectation, "moments_by_row")
    x = np.repeat(blobs, 200, axis=0) + 1e4
    both[0](n_components=2, covariance_type=family, random_state=0).fit(x)


def test_threads(blobs):
    """Fits in threads take turns in JAX's local float64."""
    fits = [lambda k=k: ours.GaussianMixture(k, random_state=0).fit(blobs).lower_bound_ for k in (1, 2, 3, 4)] * 3
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda fit: fit(), fits))
    assert together == [fit() for fit in fits]


def test_threads_leave_blas_its_threads(blobs):
    """Also where one fit starts within another, and ends after it."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    class Meets(ours.GaussianMixture):
        def _check_parameters(self, X, xp=None):
            super()._check_parameters(X, xp=xp)
            if self.n_components == 1:
                first_is_in.set()
                assert second_is_in.wait(60)
            else:
                second_is_in.set()
                assert first_is_out.wait(60)

    def fit(n_components):
        assert n_components == 1 or first_is_in.wait(60)
        Meets(n_components, init_params="random", random_state=0).fit(blobs)
        if n_components == 1:
            first_is_out.set()

    before = threadpool_info()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fit, (1, 2)))
    assert threadpool_info() == before


FORKS = """
import multiprocessing
import numpy as np
from jaxgmm.sklearn import BayesianGaussianMixture, GaussianMixture

x = np.random.default_rng(0).normal(size=(100, 2))

def fit(cls, sample_weight=None, **parameters):
    estimator = cls(n_components=2, init_params="random", random_state=0, **parameters)
    return estimator.fit(x, sample_weight=sample_weight).means_

def in_fork(*args, **parameters):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(fit, args, parameters)

before_jax = in_fork(GaussianMixture, np.ones(100), prior="default")
np.testing.assert_allclose(before_jax, fit(GaussianMixture, prior="default"), rtol=1e-6)
for cls in (GaussianMixture, BayesianGaussianMixture):
    np.testing.assert_allclose(in_fork(cls), fit(cls), rtol=1e-6)
for arguments, parameters in (((GaussianMixture, np.ones(100)), {}), ((GaussianMixture,), {"prior": "default"})):
    try:
        in_fork(*arguments, **parameters)
    except RuntimeError as error:
        assert "spawn" in str(error), error
    else:
        raise AssertionError(parameters)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks():
    """Of a process that ran JAX fit without it. In a process of their own: pytest's has threads, and k-means' hang forks."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], check=True, timeout=120)


def test_inside_a_function_that_jax_traces(both, blobs):
    mean = both[0](n_components=2, random_state=0).fit(blobs).means_[0, 0]
    traced = jax.jit(lambda a: a * both[0](n_components=2, random_state=0).fit(blobs).means_[0, 0])
    assert traced(2.0) == pytest.approx(2 * mean)


# Loops and subclasses that call and override scikit-learn's private methods


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_own_loop(both, blobs, family):
    pair = [cls(n_components=2, covariance_type=family, init_params="random", random_state=0) for cls in both]
    labels = []
    for estimator in pair:
        estimator._check_parameters(blobs)
        estimator._initialize_parameters(blobs, np.random.RandomState(0))
        for _ in range(5):
            _, log_resp = estimator._e_step(blobs)
            estimator._m_step(blobs, log_resp)
        _, log_resp = estimator._e_step(blobs[:50])  # other rows
        estimator._m_step(blobs[:50], log_resp)
        estimator._set_parameters(estimator._get_parameters())
        labels.append(np.argmax(estimator._e_step(blobs)[1], axis=1))
    np.testing.assert_array_equal(*labels)
    for parameter in ("weights_", "means_", "covariances_"):
        np.testing.assert_allclose(*(getattr(estimator, parameter) for estimator in pair), rtol=1e-6, atol=1e-9)
    assert_same(*(estimator.fit(blobs) for estimator in pair))
    log_likelihoods = [estimator._e_step(blobs)[0] for estimator in pair]
    assert log_likelihoods[0] == pytest.approx(log_likelihoods[1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_subclass_reads_responsibilities(both, blobs, family):
    def blurred(cls):
        class Blurred(cls):
            def _m_step(self, X, log_resp, xp=None):
                super()._m_step(X, np.log(0.9 * np.exp(log_resp) + 0.05))

        return Blurred(n_components=2, covariance_type=family, random_state=0)

    assert_same(*(blurred(cls).fit(blobs) for cls in both))


@pytest.mark.parametrize("prior", [None, "default"])
def test_responsibilities_have_the_weights(blobs, row_counts, family, prior):
    class ByRow(ours.GaussianMixture):
        def _m_step(self, X, log_resp, xp=None):
            super()._m_step(X, np.asarray(log_resp))

    parameters = {"n_components": 2, "covariance_type": family, "random_state": 0, "prior": prior}
    fits = [cls(**parameters).fit(blobs, sample_weight=row_counts) for cls in (ByRow, ours.GaussianMixture)]
    assert_same(*fits)


def test_subclass_adds_to_the_e_step(both, blobs):
    class Shifted(both[0]):
        def _e_step(self, X, xp=None):
            log_prob_norm, log_resp = super()._e_step(X, xp=xp)
            return log_prob_norm + 1, log_resp

    shifted, plain = (cls(n_components=2, random_state=0, tol=0.1).fit(blobs) for cls in (Shifted, both[0]))
    np.testing.assert_array_equal(shifted.means_, plain.means_)


# scikit-learn's tools


def test_clone_pickle_copy(both, blobs):
    estimator = both[0](n_components=2, covariance_type="VVI", random_state=0)
    assert clone(estimator).get_params() == estimator.get_params()
    estimator.fit(blobs)
    for twin in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        assert_same(twin, estimator, rtol=0)
        np.testing.assert_array_equal(twin.predict_proba(blobs), estimator.predict_proba(blobs))
    with pytest.raises(NotFittedError):
        clone(estimator).predict(blobs)


def test_fit_leaves_nothing_but_attributes(both, blobs):
    mine, theirs = (cls(random_state=0).fit(blobs) for cls in both)
    assert vars(mine).keys() - {"prior", "prior_"} == vars(theirs).keys()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_grid_search_and_pipeline(both, blobs):
    chosen = []
    for cls in both:
        pipeline = Pipeline([("scale", StandardScaler()), ("mixture", cls(random_state=0))])
        grid = {"mixture__n_components": [1, 2], "mixture__covariance_type": ["full", "diag"]}
        search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(blobs)
        chosen.append(search.cv_results_["mean_test_score"])
    np.testing.assert_allclose(*chosen, rtol=1e-6)


def test_feature_union_and_set_output(blobs):
    """A mixture has no transform, in scikit-learn nor here: its memberships join other features as a function."""
    fitted_mixture = ours.GaussianMixture(2, random_state=0).fit(blobs)
    names = lambda transformer, features: ["first", "second"]  # noqa: E731
    memberships = FunctionTransformer(fitted_mixture.predict_proba, feature_names_out=names)
    union = FeatureUnion([("scaled", StandardScaler()), ("memberships", memberships)]).set_output(transform="pandas")
    out = union.fit_transform(blobs)
    assert list(out.columns[-2:]) == ["memberships__first", "memberships__second"]
    np.testing.assert_array_equal(out.to_numpy()[:, -2:], fitted_mixture.predict_proba(blobs))
    assert not hasattr(ours.GaussianMixture(), "transform")


def test_metadata_routing(blobs, row_counts):
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False),
                               ours.GaussianMixture(2, random_state=0).set_fit_request(sample_weight=True))  # fmt: skip
        routed.fit(blobs, sample_weight=row_counts)
    scaled = StandardScaler().fit_transform(blobs)
    direct = ours.GaussianMixture(2, random_state=0).fit(scaled, sample_weight=row_counts)
    np.testing.assert_array_equal(routed[-1].means_, direct.means_)
    assert not np.allclose(direct.means_, ours.GaussianMixture(2, random_state=0).fit(scaled).means_)
    with sklearn.config_context(enable_metadata_routing=True):
        make_pipeline(routed[-1].to_sklearn()).get_metadata_routing()
    assert "_metadata_request" not in vars(routed[-1].to_sklearn())


# Sample weights


def test_weights_are_repeated_rows(name, blobs, row_counts, family):
    """From the same start; Bayesian starts come from the rows, so they take one component."""
    repeated = np.repeat(blobs, row_counts, axis=0)
    start = start_of(repeated, family) if name == "GaussianMixture" else {"n_components": 1}
    parameters = {"n_components": 3, "covariance_type": family, **start}
    weighted = getattr(ours, name)(**parameters).fit(blobs, sample_weight=row_counts)
    assert_same(weighted, getattr(mixture, name)(**parameters).fit(repeated), rtol=1e-9)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_weighted_starts(name, blobs, family, init_params):
    """Equal weights change nothing: a unit weight is a row, for each start, and 0 is no row."""
    parameters = {"n_components": 2, "covariance_type": family, "init_params": init_params, "random_state": 0, "max_iter": 200}
    weight = np.r_[np.ones(200), np.zeros(40)]
    weighted = getattr(ours, name)(**parameters)
    labels = weighted.fit_predict(blobs, sample_weight=weight)
    plain = getattr(mixture, name)(**parameters).fit(blobs[:200])
    if init_params in ("kmeans", "random"):  # the others draw rows by weight, in another way
        assert_same(weighted, plain)
    np.testing.assert_array_equal(labels, weighted.predict(blobs))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-18, 1e-9, 1e-3, 1e39])
def test_scale_of_weights(blobs, row_counts, dtype, scale):
    """Maximum likelihood knows only ratios of weights."""
    x = blobs.astype(dtype)
    fits = [ours.GaussianMixture(2, random_state=0).fit(x, sample_weight=unit * row_counts) for unit in (1, scale)]
    assert_same(*fits, rtol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), "sample_weight.shape"),
        (-np.ones(240), "[Nn]egative"),
        (np.full(240, np.nan), "NaN"),
        (np.zeros(240), "zero"),
        (np.ones((240, 2)), "1D|one-dim"),
        (np.r_[1.0, np.zeros(239)], "1 sample"),
    ],
)
def test_bad_weights(both, blobs, weight, message):
    with pytest.raises(ValueError, match=message):
        both[0]().fit(blobs, sample_weight=weight)


def test_weighted_start_without_validation(blobs):
    with sklearn.config_context(skip_parameter_validation=True), pytest.raises(ValueError, match="got 'bogus'"):
        ours.GaussianMixture(2, init_params="bogus").fit(blobs, sample_weight=np.ones(240))


# The prior


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::jaxgmm.FitWarning")
def test_map_takes_the_steps_of_fit(blobs, family):
    start, n_steps = random_member(family), 10
    library = jg.fit(blobs, key=jax.random.key(0), init=start, n_init=1, rtol=0, max_steps=n_steps)
    covariances = np.asarray(start.covariances)
    mine = ours.GaussianMixture(
        3,
        covariance_type=family,
        prior="default",
        tol=0,
        max_iter=n_steps,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(covariances) if family in ("full", "tied") else 1 / covariances,
    ).fit(blobs)
    for name in ("weights", "means", "covariances"):
        ours_, theirs = getattr(mine.gmm_, name), getattr(library.gmm, name)
        np.testing.assert_allclose(ours_, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    np.testing.assert_allclose(np.array(mine.lower_bounds_) * len(blobs), library.trace[:-1], rtol=1e-10)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
def test_prior_keeps_covariances_proper(family, init_params):
    """On few distinct rows, where maximum likelihood is refused; the bound never falls."""
    x = np.repeat(np.arange(6.0).reshape(3, 2) ** 2, 10, axis=0)
    parameters = {"n_components": 3, "covariance_type": family, "init_params": init_params, "random_state": 0, "tol": 1e-9}
    fit = ours.GaussianMixture(**parameters, prior="default", reg_covar=0, max_iter=1000).fit(x)
    assert fit.converged_
    assert (np.diff(fit.lower_bounds_) > -1e-9 * np.abs(fit.lower_bound_)).all()
    jg.Prior.default(x, 3, family).log_prob(fit.gmm_)  # a proper mixture


def test_bad_map(blobs):
    prior = jg.Prior.default(blobs, 2, "diag")
    with pytest.raises(ValueError, match=r"reg_covar is 0\.1"):
        ours.GaussianMixture(2, prior="default", reg_covar=0.1).fit(blobs)
    with pytest.raises(ValueError, match="prior is for family 'diag'"):
        ours.GaussianMixture(2, prior=prior).fit(blobs)
    with pytest.raises(ValueError, match="'prior' parameter"):
        ours.GaussianMixture(2, prior="defualt").fit(blobs)
    again = clone(ours.GaussianMixture(2, covariance_type="diag", prior=prior)).fit(blobs)
    assert again.prior_.family == "diag"


# Names and converters


def test_mclust_names():
    for mclust, theirs in zip(("VVV", "EEE", "VVI", "VII"), FAMILIES, strict=True):
        estimator = ours.GaussianMixture(covariance_type=mclust)
        assert estimator.get_params()["covariance_type"] == theirs
        assert clone(estimator).set_params(covariance_type=mclust).covariance_type == theirs
    del estimator.covariance_type
    assert not hasattr(estimator, "covariance_type")


def test_converters(both, blobs, family):
    mine_class, their_class = both
    mine = mine_class(n_components=2, covariance_type=family, random_state=0).fit(blobs)
    theirs = mine.to_sklearn()
    assert type(theirs) is their_class
    assert_same(mine, theirs, rtol=0)
    np.testing.assert_array_equal(theirs.predict_proba(blobs), mine.predict_proba(blobs))
    back = mine_class.from_sklearn(theirs)
    assert type(back) is mine_class
    assert back.get_params() == {**mine.get_params()}
    assert_same(back, theirs, rtol=0)
    theirs.means_[:] = 0
    assert (back.means_ != 0).all()
    back.fit(blobs)
    with pytest.raises(TypeError, match="got StandardScaler"):
        mine_class.from_sklearn(StandardScaler())


def test_from_sklearn_to_a_subclass(both, blobs):
    class NeedsArgument(both[0]):
        def __init__(self, n_components):
            super().__init__(n_components=n_components)

    theirs = both[1](n_components=2, random_state=0).fit(blobs)
    mine = NeedsArgument.from_sklearn(theirs)
    assert type(mine) is NeedsArgument
    assert_same(mine, theirs, rtol=0)
    assert_same(mine.fit(blobs), theirs)


def test_gmm(both, blobs, family):
    mine = both[0](n_components=2, covariance_type=family, random_state=0).fit(blobs)
    assert mine.gmm_.family == family
    if both[0] is ours.GaussianMixture:
        np.testing.assert_allclose(mine.gmm_.log_prob(blobs), mine.score_samples(blobs), rtol=1e-9)
        assert mine.gmm_.bic(blobs) == pytest.approx(mine.bic(blobs))


def test_from_gmm(blobs, family):
    gmm = random_member(family)
    made = ours.GaussianMixture.from_gmm(gmm, random_state=0, warm_start=True)
    np.testing.assert_allclose(made.score_samples(blobs), gmm.log_prob(blobs), rtol=1e-9)
    rows, _ = made.sample(5)
    assert rows.shape == (5, 3)
    assert made.fit(blobs).converged_
    with pytest.raises(ValueError, match="leading axes"):
        ours.GaussianMixture.from_gmm(jax.tree.map(lambda leaf: leaf[None], gmm))
