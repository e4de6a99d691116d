"""Relabelling undoes known permutations, agrees with EM where clusters are apart, and says so where they aren't."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import draws_around, gibbs_in_numpy, random_member, shuffled, tree_of
from sklearn.cluster import KMeans

import jaxgmm as jg
from jaxgmm.bayes.trees.build import draws_of
from jaxgmm.bayes.trees.relabel import _clusters, relabel

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def clusters():
    """Three clusters of two features, well apart."""
    rng = np.random.default_rng(5)
    return np.concatenate([rng.normal(size=(n, 2)) * s + c for n, s, c in [(60, 1, 0), (40, 0.5, 6), (80, 2, (-9, 5))]])


def one_feature(distance, n=80, seed=1):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=n) - distance / 2, rng.normal(size=n) + distance / 2])[:, None]


def test_known_permutations_are_undone(clusters, family):
    fit = jg.fit(clusters, 3, key=KEY, family=family)
    truth = draws_around(fit.gmm)
    mixed, orders = shuffled(truth)
    tree = tree_of(mixed, clusters)
    result = relabel(tree, fit.gmm)
    for ours, theirs in zip(jax.tree.leaves(draws_of(result)), jax.tree.leaves(truth), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # `permutation` tells where the components were.
    found = np.take_along_axis(orders, result["sample_stats"]["permutation"].values, axis=-1)
    np.testing.assert_array_equal(found, np.broadcast_to([0, 1, 2], found.shape))
    assert result.attrs["non_permutation_rate"] == 0
    changed = (orders[:, 1:] != orders[:, :-1]).any(-1).mean()
    np.testing.assert_allclose(result.attrs["switch_rate"], changed)
    # The tree that came is as it was, and what has no labels too.
    np.testing.assert_array_equal(tree["posterior"]["means"], mixed.means)
    assert "relabelled" not in tree.attrs
    assert result["posterior"]["entropy"].identical(tree["posterior"]["entropy"])
    assert result["observed_data"].identical(tree["observed_data"])


def test_relabelling_twice_is_relabelling_once(clusters):
    fit = jg.fit(clusters, 3, key=KEY)
    mixed, _ = shuffled(draws_around(fit.gmm, sd=0.5))
    once = relabel(tree_of(mixed, clusters), fit.gmm)
    assert relabel(once, fit.gmm).identical(once)


def test_the_order_is_the_pivots(clusters):
    fit = jg.fit(clusters, 3, key=KEY)
    turned = jax.tree.map(lambda leaf: leaf[jnp.array([2, 0, 1])], fit.gmm)
    tree = tree_of(draws_around(fit.gmm), clusters)
    means = relabel(relabel(tree, fit.gmm), turned)["posterior"]["means"].mean(("chain", "draw"))
    np.testing.assert_allclose(means, turned.means, atol=0.2)
    permutation = relabel(relabel(tree, fit.gmm), turned)["sample_stats"]["permutation"].values
    np.testing.assert_array_equal(permutation, np.broadcast_to([2, 0, 1], permutation.shape))


def test_assignment_is_the_best_of_all(blobs):
    """Brute force over all 24 orders, on overlapping components, with weights."""
    weight = np.random.default_rng(2).exponential(size=len(blobs))
    fit = jg.fit(blobs, 4, key=KEY, family="diag")
    tree = tree_of(draws_around(fit.gmm, (2, 10), sd=0.7), blobs, weight=weight)
    draws = draws_of(tree)
    pivot = np.asarray(fit.gmm.responsibilities(blobs))
    permutation = relabel(tree, fit.gmm)["sample_stats"]["permutation"].values
    for chain, draw in np.ndindex(2, 10):
        r = np.asarray(jax.tree.map(lambda leaf, at=(chain, draw): leaf[at], draws).responsibilities(blobs))
        agreement = {p: (weight[:, None] * r[:, p] * pivot).sum() for p in itertools.permutations(range(4))}
        assert tuple(permutation[chain, draw]) == max(agreement, key=agreement.get)


def test_without_a_pivot_the_highest_draw_is_it(clusters):
    fit = jg.fit(clusters, 3, key=KEY)
    mixed, _ = shuffled(draws_around(fit.gmm))
    lp = np.zeros((4, 50))
    lp[2, 7] = 1
    result = relabel(tree_of(mixed, clusters, stats={"lp": lp}))
    np.testing.assert_array_equal(result["sample_stats"]["permutation"][2, 7], [0, 1, 2])
    np.testing.assert_array_equal(result["posterior"]["means"][2, 7], mixed.means[2, 7])
    assert result["posterior"]["means"].std(("chain", "draw")).max() < 1


def test_separated_clusters_match_em():
    """Posterior means by component are EM's (MAP), to a fraction of the posterior's own width; labels were shuffled."""
    x = one_feature(8)
    fit = jg.fit(x, 2, key=KEY, family="spherical", prior="fraley-raftery")
    draws = gibbs_in_numpy(x, fit.gmm, fit.prior, 500)
    result = relabel(tree_of(shuffled(draws)[0], x), fit.gmm)
    assert result.attrs["non_permutation_rate"] == 0
    assert 0.4 < result.attrs["switch_rate"] < 0.6  # two orders, drawn evenly
    posterior = result["posterior"]
    for name, theirs in (("weights", fit.gmm.weights), ("means", fit.gmm.means), ("covariances", fit.gmm.covariances)):
        mean, sd = posterior[name].mean(("chain", "draw")), posterior[name].std(("chain", "draw"))
        # The mode of a variance is below its mean: about half an sd here, 80 rows a cluster.
        assert (abs(mean - np.asarray(theirs)) < 0.6 * sd).all(), name
    np.testing.assert_array_equal(posterior["means"], draws.means)


def test_overlapping_clusters_are_admitted():
    """Two clusters 1 sd apart are one: in more than 5 % of the draws, what `diagnose` allows, their components mix."""
    rates = []
    for distance in (8, 2.5, 1):
        x = one_feature(distance)
        fit = jg.fit(x, 2, key=KEY, family="spherical", prior="fraley-raftery")
        tree = tree_of(gibbs_in_numpy(x, fit.gmm, fit.prior, 500), x)
        rates.append(relabel(tree, fit.gmm).attrs["non_permutation_rate"])
    assert rates[0] == 0
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] > 0.1


def test_rate_of_two_normals_is_the_textbook_one():
    """Points of two labels ~ N(0, 1) and N(d, 1): a draw isn't a permutation if just one of the two crosses d / 2."""
    d, n_draws = 6.0, 200_000
    means = np.random.default_rng(0).normal(size=(4, n_draws // 4, 2, 1)) + np.array([[0.0], [d]])
    gmm = jg.GMM.unchecked(np.full((4, n_draws // 4, 2), 0.5), means, np.ones((4, n_draws // 4, 1, 1)), "tied")
    pivot = jg.GMM([0.5, 0.5], [[0.0], [d]], [[1.0]], "tied")
    crosses = scipy.stats.norm.sf(d / 2)
    expected = 2 * crosses * (1 - crosses)
    rate = relabel(tree_of(gmm, np.array([[0.0], [d]])), pivot).attrs["non_permutation_rate"]
    np.testing.assert_allclose(rate, expected, atol=4 * np.sqrt(expected / n_draws))


def test_clusters_of_points_are_scikit_learns_k_means():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(400, 3, 2)) * [[1.0, 4.0]] + rng.normal(size=(3, 2)) * 2
    scaled = points / points.std(0).mean(0)
    theirs = KMeans(3, init=scaled.mean(0), n_init=1, tol=0).fit(scaled.reshape(-1, 2)).labels_
    np.testing.assert_array_equal(_clusters(points).ravel(), theirs)


def test_one_component_has_one_order(clusters):
    fit = jg.fit(clusters, 1, key=KEY)
    tree = tree_of(draws_around(fit.gmm, (1, 20)), clusters)
    result = relabel(tree, fit.gmm)
    assert (result.attrs["non_permutation_rate"], result.attrs["switch_rate"]) == (0, 0)
    assert result["posterior"].identical(tree["posterior"])


def test_a_single_draw_can_be_relabelled(clusters):
    fit = jg.fit(clusters, 3, key=KEY)
    result = relabel(tree_of(shuffled(draws_around(fit.gmm, (1, 1)))[0], clusters), fit.gmm)
    np.testing.assert_allclose(result["posterior"]["means"][0, 0], fit.gmm.means, atol=0.5)


def test_a_broken_draw_stays_as_it_is(clusters):
    fit = jg.fit(clusters, 3, key=KEY)
    draws = draws_around(fit.gmm, (2, 10))
    means = np.array(draws.means)
    means[0, 3] = np.nan
    broken = jg.GMM.unchecked(draws.weights, means, draws.covariances, "full")
    result = relabel(tree_of(broken, clusters), fit.gmm)
    np.testing.assert_array_equal(result["sample_stats"]["permutation"][0, 3], [0, 1, 2])
    np.testing.assert_allclose(result.attrs["non_permutation_rate"], 1 / 20)
    all_broken = jg.GMM.unchecked(draws.weights, np.full_like(means, np.nan), draws.covariances, "full")
    assert relabel(tree_of(all_broken, clusters), fit.gmm).attrs["non_permutation_rate"] == 1


def test_bad_input(clusters):
    fit = jg.fit(clusters, 3, key=KEY)
    tree = tree_of(draws_around(fit.gmm, (2, 5)), clusters)
    with pytest.raises(ValueError, match="pivot has 2 components of 2 features, the draws have 3 of 2"):
        relabel(tree, random_member("full", 2, 2))
    with pytest.raises(ValueError, match="pivot has 3 components of 3 features"):
        relabel(tree, random_member("full", 3, 3))
    with pytest.raises(ValueError, match="pivot is of family 'diag', the draws are 'full'"):
        relabel(tree, random_member("diag", 3, 2))
    inactive = jg.GMM([0.5, 0.5, 0.0], fit.gmm.means, fit.gmm.covariances)
    with pytest.raises(ValueError, match=r"components of weight 0, \[2\]"):
        relabel(tree, inactive)
    with pytest.raises(ValueError, match="leading axes"):
        relabel(tree, draws_of(tree))
    with pytest.raises(TypeError, match=r"pivot must be a GMM, or hold one .* got Restarts"):
        relabel(tree, fit.restarts)
    with pytest.raises(TypeError, match=r"DataTree that jaxgmm\.posterior returns, got int"):
        relabel(3, fit.gmm)
    for group in ("posterior", "sample_stats", "observed_data"):
        with pytest.raises(ValueError, match=f"relabel needs the group {group}"):
            relabel(tree.filter(lambda node, name=group: node.name != name), fit.gmm)
    lacking = tree.copy()
    del lacking["observed_data"]["x"]
    with pytest.raises(ValueError, match="relabel needs observed_data/x"):
        relabel(lacking, fit.gmm)
    lacking = tree.copy()
    del lacking["sample_stats"]["lp"]
    with pytest.raises(ValueError, match="without a pivot needs sample_stats/lp"):
        relabel(lacking)
