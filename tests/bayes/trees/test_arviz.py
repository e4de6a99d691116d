"""ArviZ on our trees: all of its functions that apply work on the trees of all methods, and warn of nothing in them."""

import functools
import inspect
import itertools
import warnings

import arviz as az
import jax
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scipy.special
import xarray
from helpers import draws_around, tree_of

import jaxgmm as jg
from jaxgmm.bayes.methods import METHODS, warmed_up
from jaxgmm.bayes.trees.schema import GROUPS

mpl.use("Agg")
KEY = jax.random.key(0)
NAMES = ("eruptions", "waiting_time")
GMM = jg.GMM([0.36, 0.64], [[2.0, 54.0], [4.3, 80.0]], [[[0.07, 0.4], [0.4, 34.0]], [[0.17, 0.9], [0.9, 36.0]]])

# Of 20 rows some always are more than 80 draws can leave out: true of the draws, no fault of the tree.
pytestmark = pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution")


def plainly(names):
    """Functions that want nothing but a tree."""
    return {name: getattr(az, name) for name in names.split()}


def dataset(tree):
    return tree["posterior"].to_dataset()


def two(tree):
    return [dataset(tree)[name].values.ravel() for name in ("log_likelihood", "entropy")]


BOTH = ["log_likelihood", "entropy"]
OF_DRAWS = plainly(
    "diagnose ess eti hdi iqr kde mad mcse mean median mode qds rhat std summary thin var histogram extract "
    "convert_to_dataset convert_to_datatree"
) | {
    "ci_in_rope": lambda tree: az.ci_in_rope(tree, (0, 1)),
    "dataset_to_dataarray": lambda tree: az.dataset_to_dataarray(dataset(tree)),
    "dataset_to_dataframe": lambda tree: az.dataset_to_dataframe(dataset(tree)),
    "ecdf": lambda tree: az.ecdf(dataset(tree)),
    "explode_dataset_dims": lambda tree: az.explode_dataset_dims(dataset(tree), "chain"),
    "get_unconstrained_samples": lambda tree: az.get_unconstrained_samples(tree, transform_funcs={"entropy": np.log}),
    "hexbin": lambda tree: az.hexbin(*two(tree)),
    "histogram2d": lambda tree: az.histogram2d(*two(tree)),
    "kde2d": lambda tree: az.kde2d(*(dataset(tree)[name] for name in BOTH)),
    "kl_divergence": lambda tree: az.kl_divergence(tree, tree, var_names=BOTH, num_samples=20),
    "references_to_dataset": lambda tree: az.references_to_dataset(0, dataset(tree)),
    "rhat_nested": lambda tree: az.rhat_nested(tree, superchain_ids=np.arange(dataset(tree).sizes["chain"]) // 2),
    "wasserstein": lambda tree: az.wasserstein(tree, tree, var_names=BOTH, num_samples=20),
    "xarray_sel_iter": lambda tree: list(az.xarray_sel_iter(dataset(tree), skip_dims={"chain", "draw"})),
    "xarray_to_ndarray": lambda tree: az.xarray_to_ndarray(dataset(tree)),
    "xarray_var_iter": lambda tree: list(az.xarray_var_iter(dataset(tree), skip_dims={"chain", "draw"})),
}
PLOTS_OF_DRAWS = plainly(
    "plot_autocorr plot_convergence_dist plot_dgof plot_dgof_dist plot_dist plot_ess plot_ess_evolution plot_forest plot_mcse "
    "plot_parallel plot_rank plot_rank_dist plot_ridge plot_trace plot_trace_dist"
) | {
    "combine_plots": lambda tree: az.combine_plots(tree, [(az.plot_trace, {}), (az.plot_rank, {})], var_names=BOTH),
    "plot_pair": lambda tree: az.plot_pair(tree, var_names=BOTH),
    "plot_pair_focus": lambda tree: az.plot_pair_focus(tree, "log_likelihood"),
}
OF_ALL_GROUPS = plainly("get_log_likelihood loo loo_expectations loo_influence psense psense_summary") | {
    "compare": lambda tree: az.compare({"one": tree, "other": tree}),
    "loo_i": lambda tree: az.loo_i(0, tree),
    "loo_subsample": lambda tree: az.loo_subsample(tree, 10),
    "update_subsample": lambda tree: az.update_subsample(az.loo_subsample(tree, 10, pointwise=True), tree, observations=5),
    "weight_predictions": lambda tree: az.weight_predictions([tree, tree], weights=[0.5, 0.5]),
}
OF_ONE_FEATURE = plainly("loo_metrics loo_pit loo_score metrics") | {"loo_r2": lambda tree: az.loo_r2(tree, "x")}
PLOTS_OF_ALL_GROUPS = plainly("plot_psense_dist plot_psense_quantities plot_ppc_dist plot_ppc_tstat") | {
    "plot_compare": lambda tree: az.plot_compare(az.compare({"one": tree, "other": tree})),
    "plot_khat": lambda tree: az.plot_khat(az.loo(tree, pointwise=True)),
}
PLOTS_OF_ONE_FEATURE = plainly(
    "plot_loo_interval plot_loo_pava plot_loo_pit plot_ppc_dist_pit plot_ppc_interval plot_ppc_pava plot_ppc_pit"
) | {
    "plot_ecdf_pit": lambda tree: az.plot_ecdf_pit(
        az.convert_to_datatree(az.loo_pit(tree), group="loo_pit"), group="loo_pit", sample_dims="obs_id"
    )
}
OF_PRIOR = {  # of what has one: ArviZ takes whatever is in posterior unless it is told
    "bayes_factor": lambda tree: az.bayes_factor(tree.sel(component_id=0), "weights", ref_vals=0.36),
    "plot_bf": lambda tree: az.plot_bf(tree.sel(component_id=0), "weights", ref_val=0.36),
    "plot_prior_posterior": lambda tree: az.plot_prior_posterior(tree, var_names=["weights", "means", "covariances"]),
}
OF_NUTS = plainly("bfmi plot_energy")
OF_APPROXIMATIONS = {
    "loo_approximate_posterior": lambda tree: az.loo_approximate_posterior(
        tree, *(tree["sample_stats"][name] for name in ("log_p", "log_q"))
    )
}
FILES = {"from_netcdf", "from_zarr"}  # see test_build.py
REASONS = {
    "of covariates, or of one number that is predicted from others": "bayesian_r2 residual_r2 plot_lm plot_ppc_pava_residuals",
    "of counts, or of times until something": "plot_ppc_rootogram plot_ppc_censored kaplan_meier generate_survival_curves",
    "fits again, which a wrapper of the sampler has to": "loo_kfold lfo_cv reloo",
    "of unconstrained parameters, and functions that the caller writes": "loo_moment_match",
    "makes trees of other things": "dict_to_dataset from_cmdstanpy from_dict from_emcee from_numpyro from_numpyro_svi "
    "generate_dims_coords make_attrs ndarray_to_dataarray",
    "of ArviZ itself": "add_bands add_lines citations clear_data_home get_data_home get_function list_datasets load_arviz_data",
}
APPLY = (
    OF_DRAWS, PLOTS_OF_DRAWS, OF_ALL_GROUPS, OF_ONE_FEATURE, PLOTS_OF_ALL_GROUPS, PLOTS_OF_ONE_FEATURE, OF_PRIOR, OF_NUTS,
    OF_APPROXIMATIONS,
)  # fmt: skip


def test_every_function_of_arviz_is_classed():
    """A new one belongs into a list above, or among those that don't apply, with the reason."""
    public = {name for name, value in vars(az).items() if inspect.isfunction(value) and not name.startswith("_")}
    classed = [name for group in (*APPLY, *map(str.split, REASONS.values())) for name in group]
    assert len(set(classed)) == len(classed)
    assert public - FILES == set(classed)


# Trees


GIVEN = ["float32", "1-D"]  # draws about a mixture, rows of another dtype or shape
SAMPLED = [*METHODS, *GIVEN]
COUNTED = ["count", "components"]


@functools.cache
def made(kind):
    """The tree of a method, and what else there is: 4 chains of 20 draws of 20 rows, two clusters that are never one.

    All groups, and labels of rows with gaps.
    """
    with jax.enable_x64(True):
        x = jg.datasets.load_faithful().x[:20]
        frame = pd.DataFrame(x, 3 * np.arange(20), NAMES)
        if kind == "count":
            return jg.count_clusters(frame, key=KEY, n_draws=20, n_warmup=10, max_components=20)
        if kind == "components":
            return jg.components_given(made("count"), 2, key=KEY)
        if kind in GIVEN:
            x = x.astype(np.float32) if kind == "float32" else x[:, :1]
            draws = draws_around(GMM.marginal(list(range(x.shape[1]))), (4, 20))
            groups = GROUPS if kind == "float32" else [group for group in GROUPS if group != "prior"]  # a program of its own
            return jg.relabel(tree_of(draws, x, groups=groups, feature_names=NAMES[: x.shape[1]]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jg.FitWarning)  # of k-hat: a poor approximation has a tree, too
            options = {"n_warmup": 20} if kind in warmed_up() else {}
            return jg.relabel(jg.posterior(frame, GMM, method=kind, key=KEY, n_draws=20, groups=GROUPS, **options), GMM)


def in_turn(names, kinds):
    """Each of the names with one of the kinds, which take turns: trees differ in little, and all of all would take minutes."""
    return [(name, kinds[i % len(kinds)]) for i, name in enumerate(names)]


def drawn(function, tree):
    """A figure of two quantities, or of what the function itself names."""
    function(tree.assign({"posterior": xarray.DataTree(dataset(tree)[BOTH])}) if function not in OF_PRIOR.values() else tree)
    mpl.pyplot.close("all")


@pytest.mark.parametrize(("name", "kind"), [*itertools.product(OF_DRAWS, COUNTED), *in_turn(OF_DRAWS, SAMPLED)])
def test_functions_of_draws(kind, name):
    if name == "rhat_nested" and kind == "components":
        pytest.skip("of several chains")
    OF_DRAWS[name](made(kind))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(OF_ALL_GROUPS, GIVEN),
        *in_turn(OF_ALL_GROUPS, list(METHODS)),
        *itertools.product(OF_APPROXIMATIONS, ("svi", "laplace", "vb")),
        *itertools.product(OF_NUTS, ["nuts"]),
    ],
)
def test_functions_of_groups(kind, name):
    (OF_ALL_GROUPS | OF_APPROXIMATIONS | OF_NUTS)[name](made(kind))
    mpl.pyplot.close("all")


@pytest.mark.parametrize(("name", "kind"), [*itertools.product(OF_ONE_FEATURE, GIVEN), *in_turn(OF_ONE_FEATURE, list(METHODS))])
def test_functions_of_one_feature(kind, name):
    OF_ONE_FEATURE[name](made(kind).sel(feature="eruptions"))


@pytest.mark.parametrize(("name", "kind"), in_turn(PLOTS_OF_DRAWS, SAMPLED + COUNTED))
def test_plots_of_draws(kind, name):
    if name == "plot_rank_dist" and kind == "components":
        pytest.skip("of several chains")
    drawn(PLOTS_OF_DRAWS[name], made(kind))


@pytest.mark.parametrize(("name", "kind"), in_turn(PLOTS_OF_ALL_GROUPS | OF_PRIOR, SAMPLED))
def test_plots_of_groups(kind, name):
    drawn((PLOTS_OF_ALL_GROUPS | OF_PRIOR)[name], made(kind))


@pytest.mark.parametrize(("name", "kind"), in_turn(PLOTS_OF_ONE_FEATURE, SAMPLED))
def test_plots_of_one_feature(kind, name):
    drawn(PLOTS_OF_ONE_FEATURE[name], made(kind).sel(feature="eruptions"))


def test_what_never_changes_is_no_parameter():
    """The cases that this file is about: K+ of one value, and ranks that no draw has a component of."""
    assert (made("gibbs")["allocations"]["n_clusters"] == 2).all()
    weights = made("count")["allocations"]["sorted_weights"]
    assert (weights == 0).all(("chain", "draw")).any()
    for kind in SAMPLED + COUNTED:
        for variable in dataset(made(kind)).data_vars.values():
            assert (variable.std(("chain", "draw")) > 0).all(), (kind, variable.name)


# What they say


@pytest.fixture(scope="module")
def tree():
    """All groups, two components that overlap a little, four chains of 100 draws."""
    x = jg.datasets.load_faithful().x
    with jax.enable_x64(True):
        draws = draws_around(jg.fit(x, 2, key=KEY).gmm, (4, 100))
        return tree_of(draws, x, groups=GROUPS, feature_names=["eruptions", "waiting time"])


def test_summary(tree):
    table = az.summary(tree)
    assert len(table) == 2 + 4 + 8 + 1 + 2 + 1
    assert {"means[0, waiting_time]", "sorted_weights[1]"} <= set(table.index)


def test_loo_is_importance_sampling(tree):
    """elpd_loo against plain importance sampling, log 1 / mean(1 / p): these draws are easy."""
    result = az.loo(tree, pointwise=True)
    rows = tree["log_likelihood"]["x"].values.reshape(400, -1)
    plain = np.log(len(rows)) - scipy.special.logsumexp(-rows, axis=0)
    np.testing.assert_allclose(result.elpd_i, plain, atol=0.02)
    assert not result.warning


@pytest.mark.parametrize("name", NAMES)
def test_one_feature_is_predicted_without_its_row(tree, name):
    """Each feature's LOO-PIT, mean and error, with the weights of the whole row, by hand; PSIS only smooths the largest."""
    own = tree.sel(feature=name)
    rows = tree["log_likelihood"]["x"].values.reshape(400, -1)
    weights = scipy.special.softmax(-rows, axis=0)
    replicated, observed = own["posterior_predictive"]["x"].values.reshape(400, -1), own["observed_data"]["x"].values
    np.testing.assert_allclose(az.loo_pit(own)["x"], (weights * (replicated <= observed)).sum(0), atol=0.02)
    mean = (weights * replicated).sum(0)
    np.testing.assert_allclose(az.loo_expectations(own)[0], mean, atol=0.02 * observed.std())
    error = az.loo_metrics(own, kind="mse", round_to="none").mean
    np.testing.assert_allclose(error, ((observed - mean) ** 2).mean(), rtol=0.01)


def test_compare_across_k_and_families():
    """Two components are far better than one; the LOO of a posterior around the fit knows it."""
    x, trees = jg.datasets.load_faithful().x, {}
    for n_components, family in ((1, "full"), (2, "full"), (2, "spherical")):
        gmm = jg.fit(x, n_components, key=KEY, family=family).gmm
        trees[f"{family} {n_components}"] = tree_of(draws_around(gmm, (4, 100), 0.03), x, groups=("log_likelihood",))
    table = az.compare(trees)
    assert table.index[0] == "full 2"
    assert table.loc["full 1", "elpd_diff"] < -10


def test_psense_summary(tree):
    table = az.psense_summary(tree)
    assert np.isfinite(table.loc["means[0, eruptions]", ["prior", "likelihood"]].astype(float)).all()
