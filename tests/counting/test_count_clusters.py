"""The number of clusters as users meet it: simulated and published data, verdicts, summaries, hard data, resumed runs."""

import re
import shutil

import arviz as az
import jax
import numpy as np
import pandas as pd
import pytest
from helpers import REFERENCE

import jaxgmm as jg
from jaxgmm.counting import components, mixing
from jaxgmm.counting.distances import LOSSES, distances

KEY = jax.random.key(0)


def simulated(seed=0):
    """Two clusters four standard deviations apart, 500 rows; every fifth of them where a test needs no more."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(500, 2)) + np.repeat([[0.0, 0.0], [4.0, 0.0]], 250, axis=0)


# One program serves all short runs.
SHORT = {"key": KEY, "family": "spherical", "max_components": 10}


@pytest.fixture(scope="module")
def two():
    with jax.enable_x64(True):
        frame = pd.DataFrame(simulated(), columns=["a", "b (mm)"])
        return jg.count_clusters(frame, key=KEY, family="diag", n_draws=2000, n_warmup=200)


def test_two_clusters_are_two(two):
    found = jg.cluster_count(two)
    assert found.mode == 2
    assert found.ess_bulk > 200
    assert abs(found.table["posterior"][2] - 0.895) < 4 * found.table["mcse"][2]  # the mean of six such runs with other keys
    assert found.r_hat <= 1.05
    np.testing.assert_allclose(found.table[["posterior", "prior", "n_components"]].sum(), 1, atol=1e-6)
    p, prior = found.table["posterior"], found.table["prior"]
    np.testing.assert_allclose(found.table["bayes_factor"][3], p[3] * prior[2] / (p[2] * prior[3]), rtol=1e-12)


def test_one_gaussian_is_one():
    x = np.random.default_rng(1).normal(size=(500, 2))
    found = jg.cluster_count(jg.count_clusters(x, key=KEY, family="diag", n_draws=2000, n_warmup=200))
    assert found.ess_bulk > 200
    assert found.table["posterior"][1] > 0.7  # 0.82 in three runs of 2500 draws; each spreads by 0.02


def test_chains_that_stay_where_they_start_disagree():
    """Without a warning of ArviZ's."""
    found = mixing.Mixing.of(np.repeat([[1], [2], [2], [3]], 8, axis=1), 4)
    assert found.r_hat == np.inf
    assert found.problems(1.05, 200, 0.05)[0].startswith("r-hat of the number of clusters is inf")


def test_tree_and_units(two):
    """Other units and another origin change nothing but the log-likelihood."""
    assert list(two.children) == ["posterior", "allocations", "cluster_count", "sample_stats", "observed_data", "constant_data"]
    posterior, allocations = two["posterior"], two["allocations"]
    labels = allocations["label"]
    assert labels.dims == ("chain", "draw", "obs_id")
    used = np.array([np.unique(draw).size for draw in labels.values.reshape(-1, 500)])
    np.testing.assert_array_equal(used, allocations["n_clusters"].values.ravel())
    assert (allocations["n_components"] >= allocations["n_clusters"]).all()
    np.testing.assert_allclose(allocations["sorted_weights"].sum("rank"), 1, rtol=1e-12)
    assert two["cluster_count"].attrs["verdict"] == jg.cluster_count(two).verdict
    scale = np.array([1e-3, 1e4])
    other = jg.count_clusters(simulated() * scale - 1e5, key=KEY, family="diag", n_draws=50, n_warmup=200)
    change = other["posterior"]["log_likelihood"].values[:, 0] - posterior["log_likelihood"].values[:, 0]
    np.testing.assert_allclose(change, -500 * np.log(scale).sum(), atol=1e-3)
    np.testing.assert_array_equal(other["allocations"]["n_clusters"], allocations["n_clusters"].values[:, :50])


def test_typical_partition(two):
    partition = jg.typical_partition(two)
    truth = np.repeat([0, 1], 250)
    assert (partition["label"].values == truth).mean() > 0.95
    labels = two["allocations"]["label"].values.reshape(-1, 500)
    away = distances(partition["label"].values, labels, LOSSES["vi"])
    radius = partition.attrs["radius"]
    assert 0.95 <= (away <= radius).mean() < 0.96
    np.testing.assert_allclose(partition.attrs["expected_loss"], away.mean(), rtol=1e-12)
    every_loss = [distances(draw, labels[::20], LOSSES["vi"]).mean() for draw in labels[::20]]
    assert distances(partition["label"].values, labels[::20], LOSSES["vi"]).mean() <= min(every_loss) + 1e-3
    sizes = {name: np.unique(partition[name]).size for name in ("coarsest", "label", "finest")}
    assert sizes["coarsest"] <= sizes["label"] <= sizes["finest"]
    edges = np.array([partition[name].values for name in ("coarsest", "finest", "farthest")])
    assert distances(partition["label"].values, edges, LOSSES["vi"]).max() == pytest.approx(radius, rel=1e-12)
    shared = jg.similarity(two, rows=[0, 1, 499])
    assert shared[0, 0] == 1
    assert shared[0, 1] > 0.9 > 0.1 > shared[0, 2]


def test_variation_of_information_by_hand():
    """Halving one of two equal blocks: H(a | b) = 0 and H(b | a) = log 2 / 2."""
    a, b = np.array([0, 0, 1, 1]), np.array([[0, 0, 1, 2], [1, 1, 0, 0], [0, 1, 0, 1]])
    np.testing.assert_allclose(distances(a, b, LOSSES["vi"]), [np.log(2) / 2, 0, 2 * np.log(2)], atol=1e-12)


def galaxies():
    return np.loadtxt(REFERENCE / "galaxies_rg.csv", skiprows=1)[:, None]


def test_galaxies_as_published():
    """Richardson & Green's priors and data: p(K+) of their own sampler, run for 3 x 1.5 million sweeps."""
    tree = jg.count_clusters(galaxies(), key=KEY, prior="richardson-green", n_draws=1500, n_warmup=200, n_chains=8, n_moves=3)
    found = jg.cluster_count(tree)
    assert min(found.ess_bulk, found.ess_tail) > 500
    assert found.r_hat < 1.05
    clusters = [0, 0, 0.0690, 0.1618, 0.2282, 0.2271, 0.1588, 0.0870, 0.0408, 0.0170, 0.0066]
    components = [0, 0, 0.0594, 0.1348, 0.1878, 0.1953, 0.1578, 0.1083, 0.0677, 0.0395, 0.0226]
    for name, published in (("posterior", clusters), ("n_components", components)):
        assert abs(found.table[name].to_numpy()[:11] - published).sum() / 2 < 0.05


def unequal():
    """One tight and two wide clusters that overlap it, of 150, 35 and 30 rows, in five dimensions."""

    def covariance(variances, seed):
        axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
        return axes @ np.diag(variances) @ axes.T

    rng = np.random.default_rng(3)
    tight = rng.multivariate_normal(np.zeros(5), covariance([1, 0.8, 0.5, 0.4, 0.3], 1), 150)
    one = rng.multivariate_normal([1.2, 1.6, 1.0, -0.5, -0.6], covariance([3, 2, 1.2, 0.5, 0.3], 2), 35)
    two = rng.multivariate_normal([-1.8, -1.5, -0.6, 1.2, 1.5], covariance([4, 2.5, 1.5, 1.0, 0.4], 3), 30)
    return np.concatenate([tight, one, two])


def test_clusters_of_few_rows_come_and_go():
    """A third cluster of one to five odd rows: without `few_rows`, r-hat was 1.4 and the ESS 8 after 4 x 4000 draws."""
    found = jg.cluster_count(jg.count_clusters(unequal(), key=KEY, prior="fraley-raftery", max_draws=4000))
    assert found.ok, found.verdict
    assert found.mode == 3


@pytest.mark.parametrize("model", ["sparse", "dirichlet-process"])
def test_other_models(model):
    tree = jg.count_clusters(simulated()[::5], **SHORT, model=model, n_draws=200, n_warmup=100)
    assert tree["allocations"]["n_clusters"].median() == 2
    assert (tree["allocations"]["n_components"] == 10).all()


def test_sensitivity():
    """Of a model with a given alpha: these runs, and those of the model itself above, are one program's."""
    table = jg.count_sensitivity(simulated()[::5], **SHORT, model="sparse", n_draws=400, n_warmup=100)
    assert table.index.tolist() == ["as given", "alpha x 0.5", "scale x 0.5", "alpha x 2", "scale x 2"]
    assert (table["mode"] == 2).all()
    assert table["r_hat"].dtype == float
    probabilities = table.filter(regex=r"^p_\d+$")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=0.01)
    assert (probabilities.to_numpy().argmax(1) + 1 == table["mode"]).all()
    assert (probabilities["p_2"] == table["p_as_given"]).all()
    assert jg.plots.sensitivity(table).get_title(loc="left").startswith("most probable: 2 under every prior")
    with pytest.raises(ValueError, match="checkpoint keeps one run"):
        jg.count_sensitivity(simulated()[::5], key=KEY, checkpoint="run")
    assert table.loc["scale x 0.5", "mean"] > table.loc["scale x 2", "mean"]  # more clusters where they are to be smaller


def test_a_random_alpha_is_held_at_half_and_double_its_median(two, monkeypatch):
    asked = []

    def counted(x, **options):
        asked.append(options)
        return two

    monkeypatch.setattr("jaxgmm.counting.sensitivity.count_clusters", counted)
    jg.count_sensitivity(simulated(), key=KEY, family="diag")
    given, half, narrow, double, wide = asked
    median, prior = np.median(two["posterior"]["alpha"]), components.prior_of(two)
    assert given == {"key": KEY, "family": "diag"}
    assert [run["alpha"] for run in (half, double)] == [median / 2, 2 * median]
    for run, factor in ((half, 1), (narrow, 0.5), (double, 1), (wide, 2)):
        assert run["family"] is None
        assert ("alpha" in run) == (factor == 1)
        np.testing.assert_allclose(run["prior"].scale, factor * prior.scale, rtol=1e-15)
    assert len({tuple(jax.random.key_data(run["key"]).tolist()) for run in asked}) == 5


def test_verdict_is_withheld_where_components_run_out():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2)) + 50 * np.repeat(np.arange(20), 5)[:, None]
    found = jg.cluster_count(jg.count_clusters(x, **SHORT, n_draws=50, n_warmup=20))
    assert not found.ok
    assert found.table["posterior"][10] > 0.9
    assert "With more than 10 components the probability of 10 clusters would change by about 0." in found.verdict
    assert found.verdict.startswith("not converged: ")


@pytest.mark.parametrize(
    ("x", "family"),
    [
        (np.repeat([[3.0, 1.0]], 12, axis=0), "full"),
        (np.c_[np.arange(12.0), np.full(12, 7.0)], "full"),
        (np.random.default_rng(0).normal(size=(2, 4)), "full"),
    ],
    ids=["one repeated row", "constant column", "two rows of more columns"],
)
def test_odd_data_stay_finite(x, family):
    tree = jg.count_clusters(x, key=KEY, family=family, n_draws=20, n_warmup=10, n_chains=2)
    assert np.isfinite(tree["posterior"]["log_likelihood"]).all()
    assert (tree["allocations"]["n_clusters"] <= len(x)).all()


def test_a_budget_ends_a_run():
    """With the draws that there are, which are those of a longer run, and from which chains go on."""
    x, options = simulated()[::5], SHORT | {"n_warmup": 10}
    some = jg.count_clusters(x, **options, max_draws=30)
    assert (some.attrs["stopped"], some.attrs["n_draws"]) == ("n_draws", 30)
    late = jg.count_clusters(x, **options, max_seconds=1e-3)
    assert late.attrs["stopped"] == "max_seconds"
    n_draws = late["allocations"].sizes["draw"]
    assert 4 <= n_draws <= 110
    shared = min(30, n_draws)
    np.testing.assert_array_equal(*(tree["allocations"]["label"][:, :shared] for tree in (some, late)))
    verdict = jg.cluster_count(some).verdict
    assert re.search(r"ESS of the number of clusters is \d+ \(less than 200\): about \d+ draws of each chain would do", verdict)

    more = jg.continue_chains(some, n_draws=20)
    assert more["allocations"].sizes["draw"] == 50
    assert (more.attrs["stopped"], more.attrs["n_draws"], more.attrs["fingerprint"]) == (
        "n_draws",
        50,
        some.attrs["fingerprint"],
    )
    np.testing.assert_array_equal(more["allocations"]["label"][:, :30], some["allocations"]["label"])
    believed = jg.continue_chains(more)
    assert believed.attrs["stopped"] == "converged"
    assert jg.cluster_count(believed).ok
    with pytest.raises(ValueError, match="continue_chains needs the group"):
        jg.continue_chains(some.drop_nodes("allocations"))
    without = some.copy()
    del without.attrs["thin"]
    with pytest.raises(ValueError, match="doesn't say thin, which chains need to go on"):
        jg.continue_chains(without)


@pytest.mark.parametrize("classic", [True, False])
def test_chains_go_on_with_their_own_prior(classic):
    """Of whatever kind it and that of the partitions are; alpha is given, or drawn."""
    x = galaxies() if classic else simulated()[::5]
    own = {"key": KEY, "prior": "richardson-green", "alpha": 0.5} if classic else SHORT | {"model": "dirichlet-process"}
    tree = jg.count_clusters(x, **own, n_draws=300, n_warmup=100, n_moves=3 if classic else 2)
    more = jg.continue_chains(tree, n_draws=300)
    first, second = (more["allocations"]["n_clusters"].values[:, part] for part in (slice(300), slice(300, None)))
    assert abs(first.mean() - second.mean()) < 4 * np.hypot(*(float(az.mcse(half.astype(float))) for half in (first, second)))
    for name in set(tree["constant_data"].data_vars):
        np.testing.assert_array_equal(tree["constant_data"][name], more["constant_data"][name])


def test_an_interrupt_keeps_the_draws():
    x, options = simulated()[::5], SHORT | {"n_warmup": 10}

    def interrupt(done, total):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.warns(jg.FitWarning, match=r"interrupted after \d+ draws of each chain"):
        tree = jg.count_clusters(x, **options, n_draws=500, progress=interrupt)
    assert tree.attrs["stopped"] == "interrupted"
    assert tree["allocations"].sizes["draw"] == tree.attrs["n_draws"] < 500

    def at_once(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # nothing to keep
        jg.count_clusters(x, **options, n_draws=500, progress=at_once)


def test_resumed_run_is_the_uninterrupted_one(tmp_path):
    x, options = simulated()[::5], SHORT | {"n_draws": 30, "n_warmup": 10}
    whole = jg.count_clusters(x, **options)

    class Interrupted(Exception):
        pass

    def stop(done, total):
        if done >= 20:
            raise Interrupted

    with pytest.raises(Interrupted):
        jg.count_clusters(x, **options, checkpoint=tmp_path / "run", progress=stop)
    with pytest.raises(ValueError, match="belongs to another run: alpha was"):
        jg.count_clusters(x, **options, alpha=2.0, checkpoint=tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match=r"holds \d+ draws of each chain, which is more than 5: raise it"):
        jg.count_clusters(x, **options | {"n_draws": 5}, checkpoint=tmp_path / "run", resume=True)
    longer = jg.count_clusters(x, **options | {"n_draws": 40}, checkpoint=tmp_path / "run", resume=True, keep_checkpoint=True)
    np.testing.assert_array_equal(longer["allocations"]["label"][:, :30], whole["allocations"]["label"])
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(Interrupted):
        jg.count_clusters(x, **options, checkpoint=tmp_path / "run", progress=stop)
    kept = jg.count_clusters(x, **options, checkpoint=tmp_path / "run", resume=True, keep_checkpoint=True)
    again = jg.count_clusters(x, **options, checkpoint=tmp_path / "run", resume=True)
    for tree in (kept, again):
        np.testing.assert_array_equal(tree["allocations"]["label"], whole["allocations"]["label"])
    assert list(tmp_path.iterdir()) == []  # of a run that has ended nothing is in the way of the next


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"family": "tied"}, ValueError, "family 'tied' ties components together"),
        ({"family": "round"}, ValueError, "unknown family 'round'"),
        ({"prior": "flat"}, ValueError, "unknown prior 'flat'"),
        ({"prior": 3}, TypeError, "prior must be 'default', .* or a function of the default prior, got int"),
        ({"prior": "richardson-green"}, ValueError, "x has 2 columns, but RichardsonGreen is a prior for one"),
        ({"prior": jg.Prior(1.0, [0.3], 0.3, 5.0, [[2.0]])}, ValueError, "prior is for 1 features, but x has 2"),
        (
            {"prior": jg.Prior(1.0, [0.3, 0.2], 0.3, 5.0, np.eye(2)), "family": "diag"},
            ValueError,
            "prior is for family 'full', but family is 'diag'",
        ),
        ({"model": "dp"}, ValueError, "unknown model 'dp'"),
        ({"model": "sparse", "n_components": "uniform"}, ValueError, "n_components is for model 'mixture'"),
        ({"n_components": "negative-binomial"}, ValueError, "unknown n_components 'negative-binomial'"),
        ({"n_components": [0.5, 0.5]}, ValueError, "30 non-negative probabilities"),
        ({"weights": "fixed"}, ValueError, "unknown weights 'fixed'"),
        ({"alpha": -1.0}, ValueError, "alpha must be a positive number, 'f' or 'gamma', got -1.0"),
        ({"alpha": True}, ValueError, "alpha must be a positive number"),
        ({"n_components": ["many"]}, TypeError, "n_components must be a name or probabilities"),
        ({"alpha": "beta"}, ValueError, "unknown alpha 'beta'"),
        ({"n_chains": 1}, ValueError, "r-hat needs at least 2 chains"),
        ({"max_components": 0}, ValueError, "max_components"),
        ({"thin": 0}, ValueError, "thin"),
        ({"n_draws": 3}, ValueError, "r-hat needs at least 2 chains of 4 draws"),
        ({"n_draws": 9, "max_draws": 9}, ValueError, "n_draws = 9 is how many draws there are, max_draws = 9 how many at most"),
        ({"max_draws": 0}, ValueError, "max_draws"),
        ({"max_seconds": 0}, ValueError, "max_seconds must be a positive number, got 0"),
        ({"max_seconds": -1.0}, ValueError, "max_seconds must be a positive number, got -1.0"),
        ({"progress": "bar"}, ValueError, "unknown progress 'bar'"),
        ({"resume": True}, ValueError, "resume=True needs checkpoint"),
        ({"feature_names": ["a"]}, ValueError, "feature_names has 1 names"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        jg.count_clusters(simulated()[:20], key=KEY, **options)


def test_bad_data_and_trees(two):
    with pytest.raises(ValueError, match="x has 1 row"):
        jg.count_clusters([[1.0, 2.0]], key=KEY)
    with pytest.raises(TypeError, match="key must be one PRNG key"):
        jg.count_clusters(simulated(), key=0)
    with pytest.raises(ValueError, match="cluster_count needs"):
        jg.cluster_count(two.drop_nodes("cluster_count"))
    with pytest.raises(ValueError, match="r_hat must be at least 1"):
        jg.cluster_count(two, r_hat=0.5)
    with pytest.raises(ValueError, match=r"rows must be row indices in 0\.\.499"):
        jg.similarity(two, rows=[500])
    with pytest.raises(ValueError, match="probability must lie between 0 and 1"):
        jg.typical_partition(two, 1.0)


def test_groups_of_draws_whose_number_of_components_varies():
    """Mixtures drawn given the partitions have the log-likelihoods that the chains' own had, and replicate the data.

    Those of two components, of the draws of two clusters, are where the data are.
    """
    x = simulated()[::5]
    frame = pd.DataFrame(x, columns=["a", "b (mm)"])
    tree = jg.count_clusters(frame, n_draws=400, n_warmup=100, groups=["log_likelihood", "posterior_predictive"], **SHORT)
    drawn, own = tree["log_likelihood"]["x"].sum("obs_id"), tree["posterior"]["log_likelihood"]
    error = np.hypot(*(float(az.mcse(each.to_dataset(name="a"))["a"]) for each in (drawn, own)))
    assert abs(float(drawn.mean() - own.mean())) < 4 * error
    np.testing.assert_allclose(drawn.std(), own.std(), rtol=0.25)
    replicated = tree["posterior_predictive"]["x"]
    assert replicated.sizes == {"chain": 4, "draw": 400, "obs_id": 100, "feature": 2}
    np.testing.assert_allclose(replicated.mean(("chain", "draw", "obs_id")), x.mean(0), atol=0.15)
    np.testing.assert_allclose(replicated.std(("chain", "draw", "obs_id")), x.std(0), rtol=0.1)
    assert np.isfinite(az.loo(tree).elpd)
    given = jg.components_given(tree, key=KEY, groups=["log_likelihood"])
    np.testing.assert_allclose(given["log_likelihood"]["x"].sum("obs_id"), given["sample_stats"]["lp"], rtol=1e-9)
    relabelled = jg.relabel(given)
    assert jg.draws_of(relabelled).feature_names == ("a", "b (mm)")
    assert relabelled["posterior"].sizes["component_id"] == 2
    means = np.sort(jg.intervals(relabelled)["means"].sel(statistic="mean", feature="a"))
    np.testing.assert_allclose(means, [0, 4], atol=0.3)
    with pytest.raises(ValueError, match="no draw has 9 clusters"):
        jg.components_given(tree, 9, key=KEY)
    longer = jg.continue_chains(tree, n_draws=20)
    assert longer["log_likelihood"]["x"].sizes["draw"] == longer["posterior_predictive"]["x"].sizes["draw"] == 420
    for call in (jg.count_clusters, jg.components_given):
        with pytest.raises(ValueError, match="has no group 'prior'"):
            call(tree if call is jg.components_given else x, key=KEY, groups=["prior"])
        with pytest.raises(TypeError, match="groups must be a list"):
            call(tree if call is jg.components_given else x, key=KEY, groups="log_likelihood")
