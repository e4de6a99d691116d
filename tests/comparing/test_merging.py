"""Merging components by entropy: against brute force in plain NumPy, a case worked by hand, and its invariances."""

import jax
import numpy as np
import pytest
from helpers import draws_around, random_member, shuffled, tree_of

import jaxgmm as jg
from jaxgmm.comparing.merging import elbow

KEY = jax.random.key(0)


def entropy_of(r, w):
    return -(w[:, None] * np.where(r > 0, r * np.log(np.where(r > 0, r, 1)), 0)).sum()


def brute_force(r, w):
    """Partitions as sets of components, entropies, merged weights, for c = K..1: every union tried at every step."""
    groups = [frozenset([k]) for k in range(r.shape[1])]

    def memberships(groups):
        return np.stack([r[:, sorted(g)].sum(1) for g in groups], axis=1)

    path = [(set(groups), entropy_of(r, w), None)]
    while len(groups) > 1:
        options = []
        for a in groups:
            for b in groups:
                if min(a) < min(b):
                    union = [g for g in groups if g not in (a, b)] + [a | b]
                    options.append((entropy_of(memberships(union), w), union, (a, b)))
        best, union, pair = min(options, key=lambda option: option[0])
        owner = memberships(groups).argmax(1)
        merged = w[np.isin(owner, [groups.index(g) for g in pair])].sum()
        groups = union
        path.append((set(groups), best, merged))
    return path


def sets_of(labels):
    return {frozenset(np.flatnonzero(labels == c).tolist()) for c in np.unique(labels)}


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_brute_force(blobs, family, weighted):
    gmm = random_member(family, 6, 3)
    gmm = jg.GMM(gmm.weights, blobs[20::40], gmm.covariances, family)  # each owns rows
    w = np.random.default_rng(1).uniform(0.5, 2, size=240) if weighted else np.ones(240)
    merging = jg.merge_components(gmm, blobs, sample_weight=w if weighted else None)
    r = np.asarray(gmm.responsibilities(blobs))
    assert merging.n_filled == 6
    path = brute_force(r, w)
    for c, (groups, entropy, merged) in zip(range(6, 0, -1), path, strict=True):
        assert sets_of(merging.partition[c - 1]) == groups
        assert merging.partition[c - 1].max() == c - 1
        assert merging.entropy[c - 1] == pytest.approx(entropy, rel=1e-9, abs=1e-9)
        if merged is not None:
            assert merging.merged_weight[c] == pytest.approx(merged)
            assert merging.entropy_drop[c] == pytest.approx(merging.entropy[c] - merging.entropy[c - 1])
            assert 0 <= merging.overlap[c] <= 1
    np.testing.assert_allclose(
        merging.normalised_entropy[1:], merging.entropy[1:] / w.sum() / np.log(np.arange(2, 7)), rtol=1e-12
    )
    assert (merging.entropy[0], merging.entropy_drop[0], merging.merged_weight[0], merging.overlap[0]) == (0, 0, 0, 0)


def test_a_case_worked_by_hand():
    """Two rows between the same two of three components: r = 1/2 each. Their union takes 2 log 2 off, any other nothing."""
    gmm = jg.GMM([0.25, 0.5, 0.25], [[-1.0], [50.0], [1.0]], [1.0, 1.0, 1.0], "spherical")
    x = [[0.0], [0.0], [50.0], [50.0], [50.0], [-1000.0], [1000.0]]
    merging = jg.merge_components(gmm, x)
    assert merging.partition.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 2]]
    np.testing.assert_allclose(merging.entropy, [0, 0, 2 * np.log(2)], atol=1e-12)
    # 1000 is nearer to 50 than to 1; component 0 is named first where two tie.
    np.testing.assert_allclose(merging.merged_weight, [0, 7, 3])
    counts = np.array([2.0, 1.0])  # of the pair: -1000 and half of both zeros; half of both zeros
    most = -(counts * np.log(counts / 3)).sum()
    np.testing.assert_allclose(merging.overlap, [0, 0, 2 * np.log(2) / most], atol=1e-12)


def skewed(n=300):
    """A skewed cluster, which takes two Gaussians, and a round one far away."""
    rng = np.random.default_rng(3)
    cluster = np.stack([rng.gamma(2.0, 1.0, size=n), rng.normal(size=n)], axis=1)
    far = rng.normal(size=(n // 2, 2)) + np.array([15.0, 10.0])
    return np.concatenate([cluster, far])


def test_a_skewed_cluster_is_one():
    x = skewed()
    fit = jg.fit(x, 3, key=KEY)
    merging = jg.merge_components(fit.gmm, x)
    assert merging.choose() == 2
    far = np.arange(len(x)) >= 300
    labels = np.asarray(merging.labels(x))
    assert (labels == labels[-1]).tolist() == far.tolist()
    assert np.asarray(merging.labels(x, 3)).tolist() == np.asarray(fit.gmm.predict(x)).tolist()
    r = merging.responsibilities(x)
    assert r.shape == (450, 2)
    np.testing.assert_allclose(np.asarray(r).sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(merging.responsibilities(x, 1), np.ones((450, 1)), rtol=1e-12)


def test_order_units_repeated_rows_and_blocks_change_nothing(blobs, row_counts, monkeypatch):
    gmm = random_member("full", 5, 3, seed=4)
    plain = jg.merge_components(gmm, blobs)
    order = np.array([3, 0, 4, 1, 2])
    permuted = jg.GMM(gmm.weights[order], gmm.means[order], gmm.covariances[order])
    rescaled = jg.GMM(gmm.weights, gmm.means * 1000, gmm.covariances * 1e6)
    for other, back in (
        (jg.merge_components(permuted, blobs), order),
        (jg.merge_components(rescaled, blobs * 1000), np.arange(5)),
    ):
        np.testing.assert_allclose(other.entropy, plain.entropy, rtol=1e-9, atol=1e-9)
        for ours, theirs in zip(plain.partition, other.partition, strict=True):
            assert sets_of(ours) == {frozenset(back[sorted(group)].tolist()) for group in sets_of(theirs)}
        assert other.choose() == plain.choose()
    weighted = jg.merge_components(gmm, blobs, sample_weight=row_counts)
    repeated = jg.merge_components(gmm, np.repeat(blobs, row_counts, axis=0))
    np.testing.assert_allclose(weighted.entropy, repeated.entropy, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(weighted.partition, repeated.partition)
    monkeypatch.setattr("jaxgmm.comparing.merging._NUMBERS_AT_ONCE", 5 * 37)
    monkeypatch.setattr("jaxgmm.comparing.merging._jitted_path", jg.comparing.merging.merge_path)
    np.testing.assert_allclose(jg.merge_components(gmm, blobs).entropy, plain.entropy, rtol=1e-9, atol=1e-9)


def test_components_without_rows_are_absorbed_first():
    """An idle component, and one hidden behind another: neither is a cluster, however little entropy they bring."""
    gmm = jg.GMM([0.49, 0.49, 1e-3, 0.019], [[0.0], [20.0], [500.0], [20.1]], [1.0, 1.0, 1.0, 1.0], "spherical")
    x = np.concatenate([np.random.default_rng(5).normal(size=(50, 1)) + centre for centre in (0, 20)])
    merging = jg.merge_components(gmm, x)
    assert (merging.n_filled, merging.choose()) == (2, 2)
    assert merging.partition[1, 3] == merging.partition[1, 1] != merging.partition[1, 0]
    one = jg.GMM([1.0, 0.0], [[0.0], [3.0]], [1.0, 1.0], "spherical")
    assert jg.merge_components(one, x).choose() == 1


@pytest.mark.parametrize(
    ("entropy", "merged", "overlap", "expected"),
    [
        ([0.0], [0], [0], 1),
        ([0, 0.1], [0, 100], [0, 0.001], 2),  # far apart
        ([0, 20.0], [0, 100], [0, 0.3], 2),
        ([0, 50.0], [0, 100], [0, 0.7], 1),  # the same
        ([0, 1, 2, 3, 50, 97.0], [0, 60, 50, 40, 30, 30], [0, 0.01, 0.02, 0.03, 0.4, 0.4], 4),  # the elbow
        ([0, 1, 50, 100, 150.0], [0, 60, 30, 30, 30], [0, 0.01, 0.4, 0.4, 0.4], 2),
        ([0, 1, 2, 3.0], [0, 90, 50, 40], [0, 0.01, 0.01, 0.002], 4),
        ([0, 90, 100, 110.0], [0, 100, 50, 50], [0, 0.8, 0.4, 0.4], 1),
    ],
)
def test_the_elbow(entropy, merged, overlap, expected):
    assert elbow(*(np.array(values, float) for values in (entropy, merged, overlap))) == expected


def test_one_component(blobs):
    merging = jg.merge_components(random_member("full", 1, 3), blobs)
    assert (merging.choose(), merging.entropy.tolist(), merging.partition.tolist()) == (1, [0.0], [[0]])


def test_counts_over_draws():
    """Draws close to a mixture merge like it; labels don't matter; shares are those of the draws."""
    x = skewed()
    fit = jg.fit(x, 3, key=KEY)
    draws, _ = shuffled(draws_around(fit.gmm, (2, 20), 0.02))
    tree = tree_of(draws, x)
    counts = jg.merged_counts(tree)
    single = [[jg.merge_components(jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], draws), x).choose()
               for j in range(0, 20, 6)] for i in range(2)]  # fmt: skip
    np.testing.assert_array_equal(counts["n_clusters"][:, ::6], single)
    assert counts["n_clusters"].dims == ("chain", "draw")
    assert float(counts["probability"].sel(count=2)) > 0.9
    np.testing.assert_allclose(counts["probability"].sum(), 1)
    few = jg.merged_counts(tree, n_draws=3)
    assert few["draw"].values.tolist() == [0, 10, 19]
    np.testing.assert_array_equal(few["n_clusters"], counts["n_clusters"].sel(draw=[0, 10, 19]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g, x: jg.merge_components(g, x[:, :1]), ValueError, "x has 1 columns"),
        (lambda g, x: jg.merge_components(g, x, sample_weight=-np.ones(240)), ValueError, "sample_weight is negative"),
        (lambda g, x: jg.merge_components(draws_around(g), x), ValueError, "leading axes"),
        (lambda g, x: jg.merge_components(g, x).labels(x, 4), ValueError, "n_clusters is 4, but the mixture has 3"),
        (lambda g, x: jg.merge_components(g, x).labels(x, 0), ValueError, "n_clusters must be at least 1"),
        (lambda g, x: jg.merged_counts(g), TypeError, "merged_counts needs the DataTree"),
        (lambda g, x: jax.jit(lambda x: jg.merge_components(g, x).entropy)(x), TypeError, "outside jit"),
    ],
    ids=["columns", "weights", "draws", "too_many", "none", "no_tree", "jit"],
)
def test_bad_input(blobs, call, error, message):
    with pytest.raises(error, match=message):
        call(random_member("full"), blobs)
