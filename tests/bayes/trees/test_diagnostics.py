"""The diagnostics table is ArviZ's, its sentences name what is wrong, and the summaries are what plain NumPy says."""

import dataclasses

import arviz as az
import jax
import numpy as np
import pytest
import xarray
from helpers import draws_around, gibbs_in_numpy, random_member, shuffled, tree_of

import jaxgmm as jg
from jaxgmm.bayes.intervals import intervals
from jaxgmm.bayes.trees import per_draw, summaries
from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.diagnostics import diagnose
from jaxgmm.bayes.trees.relabel import relabel
from jaxgmm.bayes.trees.summaries import coclustering, membership

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def pivot():
    """Three clusters of two features, far apart."""
    return jg.GMM([0.2, 0.3, 0.5], [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], [[[1.0, 0.6], [0.6, 1.0]]] * 3)


@pytest.fixture(scope="module")
def rows(pivot):
    return np.asarray(pivot.sample(KEY, 120)[0], float)


@pytest.fixture(scope="module")
def tree(pivot, rows):
    """Independent draws, shuffled: nothing is wrong with them but the labels."""
    with jax.enable_x64(True):
        return tree_of(shuffled(draws_around(pivot, (4, 400)))[0], rows, stats={"diverging": np.zeros((4, 400), bool)})


@pytest.fixture(scope="module")
def relabelled(tree, pivot):
    with jax.enable_x64(True):
        return relabel(tree, pivot)


def with_posterior(tree, group="posterior", **variables):
    """A tree with other values of some variables of a group."""
    dataset = tree[group].to_dataset()
    changed = {name: dataset[name].copy(data=values) for name, values in variables.items()}
    return tree.assign({group: xarray.DataTree(dataset.assign(changed))})


def test_table_is_arvizs(relabelled):
    table = diagnose(relabelled).table
    names = ["log_likelihood", "entropy", "sorted_weights", "weights", "means"]
    theirs = az.summary(relabelled, var_names=names, round_to="none", ci_prob=0.9, ci_kind="eti")
    for row in theirs.index:
        for ours, name in [
            ("lower", "eti90_lb"),
            ("upper", "eti90_ub"),
            *((n, n) for n in ("mean", "sd", "r_hat", "ess_bulk")),
        ]:
            np.testing.assert_allclose(table.loc[row, ours], theirs.loc[row, name], rtol=1e-12)
    covariances = relabelled["posterior"]["covariances"].values
    sd = np.sqrt(covariances[..., 1, 1])[:, :, 2]
    np.testing.assert_allclose(table.loc["standard_deviations[2, x1]", "mean"], sd.mean(), rtol=1e-12)
    np.testing.assert_allclose(table.loc["standard_deviations[2, x1]", "sd"], sd.std(), rtol=1e-3)
    correlation = covariances[:, :, 0, 0, 1] / np.sqrt(covariances[:, :, 0, 0, 0] * covariances[:, :, 0, 1, 1])
    np.testing.assert_allclose(table.loc["correlations[0, x0, x1]", "mean"], correlation.mean(), rtol=1e-12)


def test_label_invariant_rows_lead(relabelled, tree):
    for given, meaning in ((relabelled, "relabelled"), (tree, "labels may switch")):
        table = diagnose(given).table
        leading = ["log_likelihood", *(f"sorted_weights[{k}]" for k in range(3)), "entropy", "n_clusters"]
        assert table.index[:6].tolist() == leading
        assert (table["meaning"][:6] == "label-invariant").all()
        assert (table["meaning"][6:] == meaning).all()
        assert len(table) == 6 + 3 + 6 + 6 + 3


def test_all_is_well_once_relabelled(relabelled):
    result = diagnose(relabelled)
    assert result.ok, result.problems
    assert np.isnan(result.table.loc["n_clusters", "r_hat"])  # always 3: not a fault
    assert "No problems found." in str(result)
    assert "standard_deviations[2, x1]" in str(result)


def test_verdict_on_components_is_withheld_while_labels_may_switch(tree):
    result = diagnose(tree)
    assert len(result.problems) == 1
    assert "withheld: their labels may switch" in result.problems[0]
    assert "jaxgmm.relabel(tree, fit.gmm)" in result.problems[0]
    assert "Problem: The verdict" in str(result)


def test_verdict_is_withheld_where_components_overlap():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=80) - 0.5, rng.normal(size=80) + 0.5])[:, None]
    fit = jg.fit(x, 2, key=KEY, family="spherical", prior="fraley-raftery")
    result = relabel(tree_of(gibbs_in_numpy(x, fit.gmm, fit.prior, 300), x), fit.gmm)
    rate = result.attrs["non_permutation_rate"]
    problems = " ".join(diagnose(result).problems)
    assert f"in {rate:.1%} of the draws (more than 5.0%)" in problems
    assert (diagnose(result).table["meaning"][-6:] == "labels may switch").all()
    assert "can't be told apart" not in " ".join(diagnose(result, non_permutation=1).problems)


def test_chains_that_disagree(relabelled):
    values = relabelled["posterior"]["log_likelihood"].values.copy()
    values[0] += 3 * values.std()
    result = diagnose(with_posterior(relabelled, log_likelihood=values))
    worst = float(az.rhat(values))
    assert f"r-hat is up to {worst:.4g} (more than 1.01) for 1 of 24 quantities (log_likelihood)" in result.problems[0]
    assert diagnose(with_posterior(relabelled, log_likelihood=values), r_hat=10, ess=1).ok


def test_chains_that_crawl(relabelled):
    values = np.random.default_rng(0).normal(size=(4, 400)).cumsum(1) * 0.01
    values = values - values.mean(1, keepdims=True)
    result = diagnose(with_posterior(relabelled, entropy=values), r_hat=10)
    ess = min(float(az.ess(values)), float(az.ess(values, method="tail", prob=(0.05, 0.95))))
    assert f"ESS is down to {ess:.0f} (less than 400) for 1 of 24 quantities (entropy)" in result.problems[0]
    assert "Raise n_draws" in result.problems[0]


@pytest.mark.parametrize("values", [(3, 3, 2, 3), (2, 2, 3, 3), (2, 3, 4, 5)])
def test_chains_stuck_at_different_values(relabelled, values):
    """K+ constant in each chain but not between them: r-hat, which has no spread to divide by, mustn't be missing."""
    stuck = np.broadcast_to(np.array(values, float)[:, None], (4, 400))
    problems = diagnose(with_posterior(relabelled, "allocations", n_clusters=stuck)).problems
    assert any("r-hat is up to" in sentence and "(n_clusters)" in sentence for sentence in problems)


def test_divergences(pivot, rows):
    diverging = np.zeros((4, 400), bool)
    diverging[1, :37] = True
    tree = relabel(tree_of(draws_around(pivot, (4, 400)), rows, stats={"diverging": diverging}), pivot)
    assert "37 of 1600 transitions diverged (more than 0)" in diagnose(tree).problems[0]
    assert "target_accept" in diagnose(tree).problems[0]


def test_broken_draws(relabelled):
    values = relabelled["posterior"]["log_likelihood"].values.copy()
    values[2, 5] = np.nan
    problems = diagnose(with_posterior(relabelled, log_likelihood=values)).problems
    assert any("NaN or infinite draws" in sentence and "log_likelihood" in sentence for sentence in problems)


@pytest.mark.parametrize(
    ("k_hat", "message"), [(0.3, None), (0.83, "0.83 (more than 0.7)"), (np.nan, "nan"), (None, "unknown")]
)
def test_approximations_are_judged_by_k_hat(pivot, rows, k_hat, message):
    """One chain of independent draws: r-hat isn't the question."""
    facts = {} if k_hat is None else {"pareto_k": k_hat}
    tree = relabel(tree_of(draws_around(pivot, (1, 1600)), rows, facts=facts, attrs={"method": "svi"}), pivot)
    result = diagnose(tree)
    assert result.table["r_hat"].isna().all()
    assert result.table["mcse_mean"].iloc[0] == pytest.approx(result.table["sd"].iloc[0] / 40)
    assert result.ok == (message is None)
    if message:
        assert message in result.problems[0]
        assert "method='nuts'" in result.problems[0]
        assert diagnose(tree, pareto_k=1).ok == (k_hat == 0.83)


def test_families(blobs, family):
    """Standard deviations and correlations have the family's own shape; what is shared has no labels to switch."""
    tree = tree_of(draws_around(random_member(family), (2, 50)), blobs)
    table = diagnose(tree).table
    deviations = table.filter(like="standard_deviations", axis=0)
    correlations = table.filter(like="correlations", axis=0)
    assert len(deviations) == {"full": 9, "tied": 3, "diag": 9, "spherical": 3}[family]
    assert len(correlations) == {"full": 9, "tied": 3, "diag": 0, "spherical": 0}[family]
    assert (deviations["meaning"] == ("label-invariant" if family == "tied" else "labels may switch")).all()
    assert (correlations["meaning"] == ("label-invariant" if family == "tied" else "labels may switch")).all()


def test_one_component_and_one_feature():
    x = np.random.default_rng(0).normal(size=(50, 1))
    for family in ("full", "tied", "diag", "spherical"):
        gmm = random_member(family, 1, 1)
        result = diagnose(tree_of(draws_around(gmm, (4, 400)), x))
        assert result.ok, result.problems
        assert result.table.filter(like="standard_deviations", axis=0).shape[0] == 1


def test_the_priors_own_parameter_is_in_the_table():
    x = np.random.default_rng(0).normal(size=(50, 1))
    rate = np.random.default_rng(1).exponential(size=(4, 100))
    tree = tree_of(draws_around(random_member("spherical", 2, 1), (4, 100)), x, extra={"rate": rate})
    assert diagnose(tree).table.loc["rate", "meaning"] == "label-invariant"


def test_many_correlations_are_left_out():
    gmm = random_member("full", 2, 20)
    x = np.asarray(gmm.sample(KEY, 60)[0])
    result = diagnose(tree_of(draws_around(gmm, (2, 20)), x))
    assert not len(result.table.filter(like="correlations", axis=0))
    assert result.notes == ("The table leaves out 380 correlations; jaxgmm.intervals has them.",)
    assert "Note: The table leaves out" in str(result)


def test_bad_input_to_diagnose(relabelled, pivot, rows):
    for shape in ((1, 100), (4, 3)):
        small = tree_of(draws_around(pivot, shape), rows)
        with pytest.raises(
            ValueError, match=rf"{shape[0]} chain\(s\) of {shape[1]} draws, too few for r-hat: at least 2 chains of 4"
        ):
            diagnose(small)
    for options in ({"r_hat": 0.9}, {"ess": -1}, {"non_permutation": 2}, {"pareto_k": np.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must lie between"):
            diagnose(relabelled, **options)
    with pytest.raises(ValueError, match="diagnose needs the group sample_stats"):
        diagnose(relabelled.filter(lambda node: node.name != "sample_stats"))
    with pytest.raises(TypeError, match="diagnose needs the DataTree"):
        diagnose(3)
    lacking = relabelled.copy()
    del lacking["posterior"]["entropy"]
    with pytest.raises(ValueError, match="diagnose needs posterior/entropy"):
        diagnose(lacking)


# Summaries


def one_component_draws(tree, k):
    """Dense covariances of one component, by hand."""
    gmm, d = draws_of(tree), tree["posterior"].sizes["feature"]
    covariances = np.asarray(gmm.covariances)
    return {
        "full": lambda: covariances[:, :, k],
        "tied": lambda: covariances,
        "diag": lambda: covariances[:, :, k, :, None] * np.eye(d),
        "spherical": lambda: covariances[:, :, k, None, None] * np.eye(d),
    }[gmm.family]()


def test_intervals(blobs, family):
    gmm = random_member(family)
    tree = relabel(tree_of(draws_around(gmm, (2, 50)), blobs), gmm)
    table = intervals(tree, 0.8)
    assert table["correlations"].dims == ("statistic", "component_id", "feature", "feature_bis")
    assert table.attrs["probability"] == 0.8
    for k in range(3):
        dense = one_component_draws(tree, k)
        sd = np.sqrt(np.diagonal(dense, axis1=-2, axis2=-1))
        expected = {"means": np.asarray(draws_of(tree).means)[:, :, k], "standard_deviations": sd}
        expected["weights"] = np.asarray(draws_of(tree).weights)[:, :, k]
        expected["correlations"] = dense / sd[..., :, None] / sd[..., None, :]
        for name, values in expected.items():
            flat = values.reshape(100, *values.shape[2:])
            ours = table[name].isel(component_id=k)
            np.testing.assert_allclose(ours.sel(statistic="mean"), flat.mean(0), atol=1e-12)
            np.testing.assert_allclose(ours.sel(statistic="lower"), np.quantile(flat, 0.1, axis=0), atol=1e-12)
            np.testing.assert_allclose(ours.sel(statistic="upper"), np.quantile(flat, 0.9, axis=0), atol=1e-12)


def memberships(tree, x):
    draws = draws_of(tree)
    each = (jax.tree.map(lambda leaf, at=at: leaf[at], draws) for at in np.ndindex(draws.weights.shape[:2]))
    return np.stack([np.asarray(gmm.responsibilities(x)) for gmm in each])


def test_membership(blobs, monkeypatch):
    gmm = random_member("full")
    tree = relabel(tree_of(draws_around(gmm, (2, 5), 0.3), blobs), gmm)
    r = memberships(tree, blobs)
    result = membership(tree)
    np.testing.assert_allclose(result["membership"], r.mean(0), atol=1e-12)
    np.testing.assert_allclose(result["sd"], r.std(0, ddof=1), atol=1e-10)
    mean = r.mean(0)
    np.testing.assert_allclose(result["entropy"], -np.sum(mean * np.log(mean), axis=1), atol=1e-10)
    assert result["entropy"].max() <= np.log(3)
    np.testing.assert_allclose(
        membership(tree, blobs[:5] + 1)["membership"], memberships(tree, blobs[:5] + 1).mean(0), atol=1e-12
    )
    monkeypatch.setattr(per_draw, "_NUMBERS_AT_ONCE", 700)
    per_draw.mean_and_sd_of_memberships.clear_cache()
    xarray.testing.assert_allclose(membership(tree), result, atol=1e-12)
    per_draw.mean_and_sd_of_memberships.clear_cache()


def test_rows_that_count_for_nothing_have_memberships(blobs):
    """Also the last ones, whose blocks sums leave out."""
    x = np.tile(blobs, (2, 1))  # so many that there are blocks behind the first
    tree = tree_of(draws_around(random_member("diag"), (2, 5), 0.3), x)
    tree.attrs["relabelled"] = 1
    weight = xarray.DataArray(np.where(np.arange(len(x)) < 10, 1.0, 0.0), dims="obs_id")
    weighted = tree.assign({"constant_data": xarray.DataTree(tree["constant_data"].to_dataset().assign(sample_weight=weight))})
    xarray.testing.assert_allclose(membership(weighted), membership(tree))
    np.testing.assert_allclose(membership(weighted)["membership"].sum("component_id"), 1)


def test_coclustering(blobs, monkeypatch):
    """Against pairs counted by hand, and the same whether labels switch or not; rows in any order, repeated too."""
    gmm = random_member("diag")
    draws = draws_around(gmm, (2, 5), 0.3)
    tree = tree_of(draws, blobs)
    r = memberships(tree, blobs)
    expected = np.einsum("snk,smk->nm", r, r) / len(r)
    np.fill_diagonal(expected, 1)
    result = coclustering(tree)
    np.testing.assert_allclose(result, expected, atol=1e-12)
    assert result.dims == ("obs_id", "obs_id_bis")
    np.testing.assert_allclose(coclustering(tree_of(shuffled(draws)[0], blobs)), expected, atol=1e-12)
    some = [7, 3, 200, 3]
    np.testing.assert_allclose(coclustering(tree, rows=some), expected[np.ix_(some, some)], atol=1e-12)
    monkeypatch.setattr(per_draw, "_PAIRS_AT_ONCE", 240 * 3 * 4)  # draws in blocks of 4, 4 and 2
    np.testing.assert_allclose(coclustering(tree), expected, atol=1e-12)


def test_coclustering_is_the_share_of_allocations_in_common():
    """Rows allocated at random, draw by draw, share a component as often as coclustering says."""
    gmm = random_member("full", 3, 2)
    x = np.asarray(gmm.sample(KEY, 30)[0])
    tree = tree_of(draws_around(gmm, (2, 5), 0.3), x)
    r = memberships(tree, x)
    rng, n_times = np.random.default_rng(0), 500
    together = np.zeros((30, 30))
    for _ in range(n_times):
        z = (r.cumsum(-1) < rng.uniform(size=(10, 30, 1))).sum(-1)
        together += (z[:, :, None] == z[:, None, :]).mean(0)
    np.testing.assert_allclose(coclustering(tree), together / n_times, atol=5 * 0.5 / np.sqrt(n_times * 10))


def test_bad_input_to_summaries(tree, relabelled, monkeypatch):
    for function in (intervals, membership):
        with pytest.raises(ValueError, match=rf"{function.__name__}\(jaxgmm\.relabel\(tree, fit\.gmm\)\)"):
            function(tree)
        with pytest.raises(ValueError, match=f"{function.__name__} needs the group posterior"):
            function(relabelled.filter(lambda node: node.name != "posterior"))
    for probability in (0, 1, 95):
        with pytest.raises(ValueError, match="probability must lie between 0 and 1"):
            intervals(relabelled, probability)
    with pytest.raises(ValueError, match="x has 3 columns, but the mixture has 2"):
        membership(relabelled, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="coclustering needs the group observed_data"):
        coclustering(tree.filter(lambda node: node.name != "observed_data"))
    for wanted, message in [
        ([0, 500], r"rows must lie in 0\.\.119, got 0\.\.500"),
        ([], "list of row indices"),
        ([0.5], "list of"),
    ]:
        with pytest.raises(ValueError, match=message):
            coclustering(tree, rows=wanted)
    monkeypatch.setattr(summaries, "_MOST_ROWS", 100)
    with pytest.raises(ValueError, match="the tree has 120 rows, so 120 x 120 probabilities: choose the rows"):
        coclustering(tree)
    assert coclustering(tree, rows=range(120)).shape == (120, 120)


@pytest.mark.parametrize(("method", "other"), [("gibbs", "method='nuts'"), ("nuts", "method='gibbs'")])
@pytest.mark.parametrize("empty", [False, True])
def test_advice_depends_on_what_was_seen(blobs, method, other, empty):
    """Of chains that disagree: fewer components only where some own no rows, and never the method that there was."""
    draws = draws_around(random_member("full"), (4, 50))
    apart = dataclasses.replace(draws, means=draws.means + np.arange(4)[:, None, None, None])
    tree = tree_of(apart, blobs, attrs={"method": method})
    seen = np.full((4, 50), 2.0 if empty else 3.0)
    problems = diagnose(with_posterior(tree, "allocations", n_clusters=seen)).problems
    sentence = next(text for text in problems if text.startswith("r-hat is up to"))
    assert other in sentence
    assert f"method='{method}'" not in sentence
    assert ("fewer components: in 100% of the draws one is without rows" in sentence) == empty
