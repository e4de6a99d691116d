"""Names of features go wherever the mixture goes, and columns of frames are matched by them."""

import pickle

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import jaxgmm as jg
from jaxgmm.bayes.trees.schema import feature_names_of
from jaxgmm.sklearn import GaussianMixture

KEY = jax.random.key(0)
NAMES = ("length (mm)", "mass", "depth")
_RNG = np.random.default_rng(5)
X = [40, 4000, 17] + [1.0, 20.0, 0.1] * (np.repeat([[0, 0, 0], [5, -3, 4]], [40, 30], axis=0) + _RNG.normal(size=(70, 3)))
FRAME = pd.DataFrame(X, columns=list(NAMES))
MIXED = FRAME[["depth", "length (mm)", "mass"]]
FIT = jg.fit(FRAME, 2, key=KEY, n_init=2)
GMM = FIT.gmm
VB = jg.fit_vb(FRAME, 2, key=KEY, n_init=1)


@pytest.fixture(scope="module")
def tree():
    return jg.relabel(gibbs(MIXED, FIT), GMM)


def gibbs(x, fit):
    return jg.posterior(x, fit, method="gibbs", key=KEY, n_draws=20, n_chains=2)


QUESTIONS = {
    "log_prob": GMM.log_prob,
    "responsibilities": GMM.responsibilities,
    "predict": GMM.predict,
    "log_likelihood": GMM.log_likelihood,
    "aic": GMM.aic,
    "bic": GMM.bic,
    "icl": GMM.icl,
    "one row": lambda x: GMM.log_prob(x.iloc[3] if isinstance(x, pd.DataFrame) else x[3]),
    "e_step": lambda x: jg.e_step(GMM, x).scatter,
    "merge_components": lambda x: jg.merge_components(GMM, x).entropy,
    "merged labels": lambda x: jg.merge_components(GMM, X).labels(x, 2),
    "warm fit": lambda x: jg.fit(x, key=KEY, init=GMM).gmm.means,
    "warm fit, from a Fit": lambda x: jg.fit(x, key=KEY, init=FIT).gmm.covariances,
    "warm fit_vb": lambda x: jg.fit_vb(x, key=KEY, init=GMM).mean,
    "VB log_prob": VB.log_prob,
    "VB responsibilities": VB.responsibilities,
    "VB predict": VB.predict,
    "plots.uncertainty": lambda x: jg.plots.uncertainty(GMM, x).collections[0].get_offsets(),
    "plots.responsibilities": lambda x: jg.plots.responsibilities(GMM, x).axes[0].patches[0].get_data().values,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_columns_are_put_in_order(question):
    ask = QUESTIONS[question]
    assert np.array_equal(ask(MIXED), ask(X))


@pytest.mark.parametrize("question", QUESTIONS)
def test_columns_that_do_not_fit_are_named(question):
    ask = QUESTIONS[question]
    with pytest.raises(ValueError, match=r"lacks the column 'mass' and has 'Mass', which the mixture doesn't know"):
        ask(FRAME.rename(columns={"mass": "Mass"}))
    with pytest.raises(ValueError, match=r"has 'year', which .*: leave 'year' out|features"):
        ask(FRAME.assign(year=2007))


def test_where_a_fit_takes_its_names_from():
    assert FIT.feature_names == GMM.feature_names == VB.feature_names == VB.expected_gmm().feature_names == NAMES
    assert jg.fit(X, 2, key=KEY, n_init=2).feature_names is None
    assert jg.fit(X, key=KEY, init=GMM).feature_names == NAMES
    assert jg.fit(MIXED, key=KEY, init=GMM).feature_names == NAMES
    assert jg.initialise(FRAME, 2, key=KEY).feature_names == NAMES
    assert jg.m_step(jg.e_step(GMM, X), GMM, FIT.prior).feature_names == NAMES
    compared = jg.compare(MIXED, families=["diag"], n_components=[1, 2], key=KEY, n_init=1)
    assert compared.feature_names == compared.select("bic").feature_names == tuple(MIXED.columns)


def test_mixtures_made_from_it_and_its_file(tmp_path):
    assert GMM.marginal([2, 0]).feature_names == ("depth", "length (mm)")
    assert np.array_equal(GMM.marginal(["depth", "length (mm)"]).means, GMM.marginal([2, 0]).means)
    conditional = GMM.condition(["mass"], [4000.0])
    assert conditional.feature_names == ("length (mm)", "depth")
    assert np.array_equal(conditional.means, GMM.condition([1], [4000.0]).means)
    assert jg.load(GMM.save(tmp_path / "gmm")).feature_names == NAMES
    assert jg.load(GMM.named(None).save(tmp_path / "gmm")).feature_names is None
    assert pickle.loads(pickle.dumps(GMM)).feature_names == NAMES


def test_a_file_from_before_there_were_names(tmp_path):
    header = '{"format": 1, "kind": "jaxgmm.GMM", "family": "spherical"}'
    np.savez(tmp_path / "gmm.npz", header=np.array(header), weights=[1.0], means=[[0.0]], covariances=[1.0])
    assert jg.load(tmp_path / "gmm.npz").feature_names is None


def test_names_are_no_part_of_the_structure():
    other = GMM.named(["a", "b", "c"])
    assert jax.tree.structure(other) == jax.tree.structure(GMM) == jax.tree.structure(GMM.named(None))
    assert hash(jax.tree.structure(other)) == hash(jax.tree.structure(GMM))
    assert len(jax.tree.leaves(GMM)) == 3
    assert jax.tree.map(lambda leaf: leaf + 0, other).feature_names == ("a", "b", "c")


def test_compiled_functions_neither_compile_again_nor_hand_out_the_names_of_their_first_call(compilations):
    other, same = GMM.named(["a", "b", "c"]), jax.jit(lambda gmm: gmm)
    assert same(GMM).feature_names is None
    del compilations[:]
    assert same(other).feature_names is None
    assert same(GMM.named(None)).feature_names is None
    assert compilations == []
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), GMM)
    assert jax.vmap(lambda gmm: gmm.marginal([0]))(stacked).feature_names is None
    assert stacked.feature_names == NAMES


def test_two_mixtures_of_one_shape_keep_their_own_names():
    """Their steps share compiled programs."""
    other = GMM.named(["a", "b", "c"])
    for gmm, names in ((GMM, NAMES), (other, ("a", "b", "c"))):
        assert jg.m_step(jg.e_step(gmm, X), gmm).feature_names == names
        assert gmm.condition([0], [40.0]).feature_names == names[1:]


def test_the_tree_of_a_posterior(tree):
    assert tree["posterior"]["feature"].values.tolist() == ["length_(mm)", "mass", "depth"]
    assert feature_names_of(tree) == jg.draws_of(tree).feature_names == NAMES
    np.testing.assert_array_equal(tree["observed_data"]["x"].sel(feature="depth"), FRAME["depth"])
    assert jg.relabel(gibbs(X, GMM), GMM)["posterior"].equals(tree["posterior"])
    for name in ("membership", "sd", "entropy"):
        assert jg.membership(tree, MIXED)[name].equals(jg.membership(tree)[name])
    for ask in (lambda x: jg.membership(tree, x), lambda x: gibbs(x, FIT), lambda x: jg.fit_map(x, key=KEY, init=GMM)):
        with pytest.raises(ValueError, match="lacks the column 'depth'"):
            ask(FRAME[["length (mm)", "mass"]])


def test_names_survive_a_file_of_the_tree(tree, tmp_path):
    back = jg.load_posterior(jg.save_posterior(tree, tmp_path / "posterior"))
    assert jg.draws_of(back).feature_names == NAMES


def test_a_tree_of_arrays_has_no_names_and_one_of_old_has_its_own(tree):
    unnamed = gibbs(X, GMM.named(None))
    assert unnamed["posterior"]["feature"].values.tolist() == ["x0", "x1", "x2"]
    assert jg.draws_of(unnamed).feature_names is None
    old = tree.copy()
    del old.attrs["feature_names"]
    assert jg.draws_of(old).feature_names == ("length_(mm)", "mass", "depth")


def test_a_pivot_whose_features_are_in_another_order_relabels_alike(tree):
    swapped = GMM.marginal(list(MIXED.columns))
    again = jg.relabel(tree, swapped)
    assert np.array_equal(again["sample_stats"]["permutation"], tree["sample_stats"]["permutation"])


def test_plots_take_names_and_order():
    axes = jg.plots.pairs(GMM, MIXED).axes
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == ["density", *NAMES[1:]]
    ax = jg.plots.scatter(GMM.marginal(["mass", "depth"]), FRAME[["depth", "mass"]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mass", "depth")
    assert ax.lines[0].get_xdata().min() > 3000
    plt.close("all")


def test_the_facade_hands_them_over():
    facade = GaussianMixture(2, random_state=0).fit(FRAME)
    assert facade.gmm_.feature_names == NAMES
    assert np.array_equal(facade.gmm_.predict(MIXED), facade.predict(FRAME))


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("abc", TypeError, "3 strings"),
        ([0, 1, 2], TypeError, "3 strings"),
        (["a", "b"], ValueError, "2 names, the mixture 3 features"),
        (["a", "b", "a"], ValueError, "twice"),
    ],
)
def test_names_that_cannot_be(names, error, message):
    with pytest.raises(error, match=message):
        GMM.named(names)
    with pytest.raises(error, match=message):
        jg.GMM(GMM.weights, GMM.means, GMM.covariances, feature_names=names)


def test_features_by_names_that_are_not_there():
    with pytest.raises(ValueError, match="'Mass'; did you mean 'mass'"):
        GMM.marginal(["Mass"])
    with pytest.raises(ValueError, match="have no names"):
        GMM.named(None).marginal(["mass"])


def test_labels_of_pandas_that_are_numbers_are_names_too():
    frame = pd.DataFrame(X)
    fit = jg.fit(frame, 2, key=KEY, n_init=1)
    assert fit.feature_names == ("0", "1", "2")
    assert np.array_equal(fit.gmm.log_prob(frame[[2, 0, 1]]), fit.gmm.log_prob(X))
    assert np.array_equal(fit.gmm.log_prob(frame[[2, 0, 1]].iloc[0]), fit.gmm.log_prob(X)[0])


def test_a_series_that_is_no_row():
    """As many rows of one column as there are features."""
    with pytest.raises(ValueError, match="lacks the columns"):
        GMM.log_prob(FRAME["mass"].iloc[[5, 7, 9]])
