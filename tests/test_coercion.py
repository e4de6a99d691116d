"""What holds a mixture stands for it, and the names of other libraries are errors that say ours."""

import copy
import pickle

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import draws_around, load_x, random_prior, tree_of

import jaxgmm as jg
from jaxgmm import plots
from jaxgmm.sklearn import GaussianMixture

NAMES = ["eruptions", "waiting"]
FRAME = pd.DataFrame(load_x("faithful"), columns=NAMES)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def fit():
    return jg.fit(FRAME, 2, key=KEY, n_init=2)


@pytest.fixture(scope="module", params=["fit", "vb", "estimator"])
def holder(request, fit):
    """What holds a mixture, and that mixture."""
    if request.param == "vb":
        vb = jg.fit_vb(FRAME, 2, key=KEY, n_init=2)
        return vb, vb.expected_gmm()
    if request.param == "estimator":
        estimator = GaussianMixture(2, random_state=0).fit(FRAME)
        return estimator, estimator.gmm_
    return fit, fit.gmm


def tree(gmm):
    return tree_of(draws_around(gmm, sd=0.01, shape=(2, 20)), FRAME.to_numpy(), feature_names=NAMES)


def numbers(figure):
    return np.concatenate([np.ravel(line.get_xydata()) for ax in figure.axes for line in ax.lines])


TAKERS = {
    "components": lambda g: numbers(plots.components(g, FRAME)),
    "scatter": lambda g: numbers(plots.scatter(g, FRAME).figure),
    "density": lambda g: numbers(plots.density(jg.merge_components(g, FRAME).gmm.marginal([1]), FRAME[["waiting"]]).figure),
    "pairs": lambda g: numbers(plots.pairs(g, FRAME)),
    "responsibilities": lambda g: plots.responsibilities(g, FRAME).axes[0].get_title(loc="left"),
    "uncertainty": lambda g: plots.uncertainty(g, FRAME).get_title(loc="left"),
    "explain": lambda g: jg.explain(g, FRAME).features,
    "density_level": lambda g: jg.density_level(g, FRAME, key=KEY, n_samples=50),
    "density_threshold": lambda g: jg.density_threshold(g, 0.9, key=KEY, n_samples=50),
    "outliers": lambda g: numbers(plots.outliers(g, FRAME, key=KEY, level=0.9, n_samples=50).figure),
    "density_regions": lambda g: numbers(plots.density_regions(g, FRAME, key=KEY, levels=[0.9], n_samples=50).figure),
    "distribution": lambda g: jg.distribution(g).log_prob(FRAME.to_numpy()),
    "to_onnx": lambda g: np.frombuffer(jg.to_onnx(g).SerializeToString(), np.uint8),
    "merge_components": lambda g: jg.merge_components(g, FRAME).entropy,
    "e_step": lambda g: jg.e_step(g, FRAME).counts,
    "m_step": lambda g: jg.m_step(jg.e_step(g, FRAME), g).means,
    "unconstrain": lambda g: jg.unconstrain(g),
    "prior": lambda g: random_prior("full", 2, (1.5, 2.0)).log_prob(g),
    "start": lambda g: jg.fit(FRAME, key=KEY, init=g, max_steps=1, rtol=0).gmm.means,
    "start of VB": lambda g: jg.fit_vb(FRAME, key=KEY, init=g, max_steps=1, rtol=0).mean,
    "estimator": lambda g: GaussianMixture.from_gmm(g).predict_proba(FRAME.to_numpy()),
    "kernel": lambda g: jg.GibbsKernel(g, random_prior("full", 2, (1.5, 2.0)))._start.means,
    "pivot": lambda g: jg.relabel(tree(jg.merge_components(g, FRAME).gmm), g)["sample_stats"]["permutation"].values,
    "point": lambda g: numbers(plots.intervals(tree(jg.merge_components(g, FRAME).gmm), g)),
    "draws": lambda g: len(plots.draws(tree(jg.merge_components(g, FRAME).gmm), FRAME, g).axes[0].collections),
}


@pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")
@pytest.mark.parametrize("taker", TAKERS)
def test_a_holder_stands_for_its_mixture(taker, holder):
    held, gmm = holder
    answer = TAKERS[taker](held)
    np.testing.assert_array_equal(np.asarray(answer), np.asarray(TAKERS[taker](gmm)))


@pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")  # k-hat of so few draws
def test_draws_start_from_any_holder(fit):
    estimator = GaussianMixture.from_gmm(fit.gmm)
    by_gmm, by_estimator = (
        jg.posterior(FRAME.to_numpy(), start, method="laplace", key=KEY, n_draws=20)["posterior"]["means"].values
        for start in (fit.gmm, estimator)
    )
    np.testing.assert_allclose(by_gmm, by_estimator)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2)), None, "fit", GaussianMixture, FRAME])
def test_what_holds_none_is_named(wrong, fit):
    for ask in (
        lambda: plots.scatter(wrong, FRAME),
        lambda: jg.merge_components(wrong, FRAME),
        lambda: jg.e_step(wrong, FRAME),
    ):
        with pytest.raises(TypeError, match="gmm must be a GMM, or hold one as a Fit"):
            ask()


def test_an_estimator_that_was_not_fitted_says_so():
    with pytest.raises(ValueError, match="not fitted"):
        plots.scatter(GaussianMixture(2), FRAME)


def test_a_fit_answers_for_its_mixture(fit):
    gmm = fit.gmm
    for name in ("weights", "means", "covariances"):
        assert getattr(fit, name) is getattr(gmm, name)
    for name in ("predict", "responsibilities", "log_prob"):
        np.testing.assert_array_equal(getattr(fit, name)(FRAME), getattr(gmm, name)(FRAME))
    for ours, theirs in zip(fit.sample(KEY, 5), gmm.sample(KEY, 5), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("predict_proba", r"responsibilities\(x\)"),
        ("score_samples", r"log_prob\(x\)"),
        ("means_", "means"),
        ("fit", "jaxgmm.fit"),
    ],
)
def test_names_of_scikit_learn_are_answered_with_ours(name, ours, fit):
    for owner in (fit, fit.gmm):
        assert not hasattr(owner, name)
        with pytest.raises(AttributeError, match=f"object has no attribute '{name}'; use {ours}"):
            getattr(owner, name)


def test_what_only_the_mixture_has_is_found(fit):
    with pytest.raises(AttributeError, match=r"'Fit' object has no attribute 'marginal'; use gmm\.marginal"):
        fit.marginal([0])
    with pytest.raises(AttributeError, match=r"'GMM' object has no attribute 'nothing'$"):
        fit.gmm.nothing  # noqa: B018


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_hints_do_not_stand_in_the_way_of_copies(twin, fit):
    for value in (fit, fit.gmm, fit.restarts):
        assert repr(twin(value)) == repr(value)


@pytest.mark.parametrize("function", [jg.fit, jg.fit_map, jg.fit_vb])
@pytest.mark.parametrize(
    ("keyword", "ours"),
    [
        ("covariance_type", "family"), ("random_state", r"key=jax\.random\.key\(0\)"), ("n_clusters", "n_components"),
        ("max_iter", "max_steps"), ("reg_covar", "prior='default'"), ("means_init", "init, a GMM"),
    ],
)  # fmt: skip
def test_keywords_of_scikit_learn_are_answered_with_ours(function, keyword, ours):
    with pytest.raises(TypeError, match=f"{function.__name__} has no argument '{keyword}'; use {ours}"):
        function(FRAME, 2, **{keyword: 1})


def test_keywords_are_answered_with_those_that_the_function_has():
    with pytest.raises(TypeError, match="compare has no argument 'covariance_type'; use families"):
        jg.compare(FRAME, covariance_type="diag", n_components=[2], key=KEY)
    with pytest.raises(TypeError, match="count_clusters has no argument 'random_state'; use key="):
        jg.count_clusters(FRAME, random_state=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_iter'"):
        jg.count_clusters(FRAME, max_iter=3, key=KEY)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        jg.fit(FRAME, 2, nothing=1, key=KEY)


def test_names_that_the_package_lacks_are_answered():
    with pytest.raises(AttributeError, match=r"no attribute 'GaussianMixture'; jaxgmm\.fit\(x, n_components, key=key\)"):
        jg.GaussianMixture  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'count_cluster'; did you mean 'count_clusters'"):
        jg.count_cluster  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'jaxgmm' has no attribute 'xyzzy'$"):
        jg.xyzzy  # noqa: B018


def test_a_warning_points_at_the_line_that_asked():
    x = FRAME.to_numpy()
    for ask in (
        lambda: jg.fit(x, 2, key=KEY, max_steps=1, n_init=1),
        lambda: jg.fit_vb(x, 2, key=KEY, max_steps=1, n_init=1),
        lambda: jg.compare(x, families=["full"], n_components=[2], key=KEY, max_steps=1, n_init=1),
        lambda: jg.fit_map(x, 2, key=KEY, max_steps=1, n_init=1),
    ):
        with pytest.warns(jg.FitWarning) as caught:
            ask()
        assert caught[0].filename == __file__
    plt.close("all")
