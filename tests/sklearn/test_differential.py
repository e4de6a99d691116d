"""jaxgmm.sklearn against scikit-learn itself on random problems: attributes, warnings, errors, printed lines."""

import contextlib
import io
import re
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import mixture
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import jaxgmm.sklearn as ours

SHAPES = ((40, 1, 2), (60, 2, 3), (50, 3, 1))  # (N, D, K): few, since each family compiles for each
FAMILIES = ("full", "tied", "diag", "spherical")
TIMES, NUMBERS = re.compile(r"time lapse \d+\.\d{5}s"), re.compile(r"-?\d+\.\d{5}")
STARTS = ("kmeans", "k-means++", "random", "random_from_data")


@st.composite
def problems(draw, estimator):
    """Rows and parameters: some easy, some degenerate, some that can't be fitted at all."""
    n_samples, n_features, n_components = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    separation, offset = draw(st.sampled_from((0.0, 1.0, 4.0))), draw(st.sampled_from((0.0, 3.0, -20.0)))
    centres = separation * rng.normal(size=(n_components, n_features))
    mixing = rng.normal(size=(n_features, n_features)) + np.eye(n_features)
    x = offset + centres[rng.integers(n_components, size=n_samples)] + rng.normal(size=(n_samples, n_features)) @ mixing
    match draw(st.sampled_from(["as they are"] * 6 + ["rounded", "repeated", "collinear"])):
        case "rounded":
            x = np.round(x)
        case "repeated":
            x[: n_samples // 2] = x[0]
        case "collinear":
            x[:, -1] = 2 * x[:, 0]
    family = draw(st.sampled_from(FAMILIES))
    parameters = {
        "n_components": n_components,
        "covariance_type": family,
        "init_params": draw(st.sampled_from(STARTS)),
        "reg_covar": draw(st.sampled_from((1e-6, 1e-6, 0.0, 1e-3, 0.5))),
        "tol": draw(st.sampled_from((1e-3, 1e-6, 0.0, 0.1))),
        "max_iter": draw(st.sampled_from((100, 30, 3, 1, 0))),
        "n_init": (n_init := draw(st.sampled_from((1, 1, 2)))),
        "random_state": draw(st.integers(0, 10)),
        "verbose": 2 if n_init > 1 else draw(st.sampled_from((0, 1, 2))),  # 2 prints the bound of each start
        "verbose_interval": draw(st.sampled_from((1, 10))),
    }
    precisions = {
        "full": (shared := np.linalg.inv(np.cov(x.T).reshape(n_features, n_features) + np.eye(n_features)))
        * rng.uniform(0.5, 2, (n_components, 1, 1)),
        "tied": shared,
        "diag": rng.uniform(0.1, 2, (n_components, n_features)),
        "spherical": rng.uniform(0.1, 2, n_components),
    }[family]
    if estimator == "GaussianMixture":
        values = (rng.dirichlet(np.full(n_components, 3.0)), x[:n_components] + 0.1, precisions)
        for name, value in zip(("weights_init", "means_init", "precisions_init"), values, strict=True):
            if draw(st.booleans()):
                parameters[name] = value
    else:
        matrix, vector = np.eye(n_features), np.ones(n_features)
        covariance_prior = {"full": matrix, "tied": matrix, "diag": vector, "spherical": 1.0}
        parameters |= {
            "weight_concentration_prior_type": draw(st.sampled_from(("dirichlet_process", "dirichlet_distribution"))),
            "weight_concentration_prior": draw(st.sampled_from((None, 1e-3, 10.0))),
            "mean_precision_prior": draw(st.sampled_from((None, 0.1))),
            "mean_prior": draw(st.sampled_from((None, np.zeros(n_features)))),
            "degrees_of_freedom_prior": draw(st.sampled_from((None, n_features + 2.0))),
            "covariance_prior": draw(st.sampled_from((None, covariance_prior[family]))),
        }
    return x, parameters


def outcome(estimator, x, **fit_arguments):
    """What a caller of fit sees: attributes, warning classes, the error, printed lines without times."""
    printed = io.StringIO()
    error = None
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            estimator.fit(x, **fit_arguments)
        except Exception as raised:
            error = raised
    return {
        "error": (type(error), str(error)),
        "warnings": {(w.category, str(w.message)) for w in caught},
        "printed": TIMES.sub("", printed.getvalue()),
    }


def fitted(estimator):
    return {name: value for name, value in vars(estimator).items() if name.endswith("_") and not name.startswith("_")}


def assert_same(mine, theirs, rtol=1e-6):
    """All fitted attributes, within `rtol` of the size of each."""
    assert fitted(mine).keys() - {"prior_"} == fitted(theirs).keys() - {"prior_"}
    for name, value in fitted(theirs).items():
        if name in ("prior_", "feature_names_in_"):
            continue
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (getattr(mine, name), value)), strict=True):
            assert type(a) is type(b), name
            a, b = np.asarray(a), np.asarray(b)
            assert (a.shape, a.dtype) == (b.shape, b.dtype), name
            scale = np.abs(b[np.isfinite(b)]).max(initial=1e-9)  # zero, but for rounding, has no size
            np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale, err_msg=name)


def undecided(theirs, x, printed):
    """Does only rounding decide what scikit-learn ends with? Then no other order of sums can be asked to end with it."""
    bounds = [float(bound) for bound in re.findall(r"lower bound (-?\d+\.\d{5})", printed)]
    tied_starts = len(bounds) == 2 and abs(bounds[0] - bounds[1]) < 1e-5 * (1 + abs(bounds[0]))
    # Without reg_covar a component may start on one row, or shrink onto one: its variance is what x^2 - x^2 leaves, of either
    # sign.
    at_rows = theirs.init_params in ("k-means++", "random_from_data")
    one_row = at_rows or not hasattr(theirs, "lower_bound_")
    shrunk = one_row or np.abs(theirs.precisions_cholesky_).max() > 1e5
    return tied_starts or start_alike(theirs, x) or (theirs.reg_covar == 0 and shrunk)


def start_alike(theirs, x):
    """Do components start on equal rows? They are equal then, and part by rounding."""
    if getattr(theirs, "means_init", None) is not None:
        return len(np.unique(theirs.means_init, axis=0)) < theirs.n_components
    if theirs.n_init > 1:  # which of the starts is kept isn't known: if any rows are equal
        return len(np.unique(x, axis=0)) < len(x)
    start = clone(theirs).set_params(max_iter=0, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            start.fit(x)
        except (ValueError, AttributeError):  # scikit-learn's own; the latter where precisions are given and no step is made
            return len(np.unique(x, axis=0)) < len(x)
    return len(np.unique(start.means_, axis=0)) < theirs.n_components


@pytest.mark.parametrize("estimator", ["GaussianMixture", "BayesianGaussianMixture"])
def test_random_problems(estimator):
    """Both from the same `random_state`, hence the same start; 200 problems each besides those that rounding decides."""

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True, database=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(problem=problems(estimator))
    def check(problem):
        x, parameters = problem
        mine, theirs = getattr(ours, estimator)(**parameters), getattr(mixture, estimator)(**parameters)
        with threadpool_limits(1, user_api="blas"):  # scikit-learn waits for BLAS's threads where all cores are busy
            seen, expected = outcome(mine, x), outcome(theirs, x)
        hypothesis.assume(not undecided(theirs, x, expected["printed"]))
        assert seen["error"] == expected["error"]
        assert seen["warnings"] == expected["warnings"]
        assert NUMBERS.sub("", seen["printed"]) == NUMBERS.sub("", expected["printed"])
        if expected["error"][0] is type(None):
            assert_same(mine, theirs)
            np.testing.assert_array_equal(mine.predict(x), theirs.predict(x))

    check()
