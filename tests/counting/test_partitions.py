"""Partitions in the place of a posterior, against all of few rows, planted ones, and definitions by sets and pairs."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray
from sklearn.metrics import mutual_info_score, rand_score

import jaxgmm as jg
from jaxgmm.counting import distinct
from jaxgmm.counting.distances import LOSSES, distances, in_order
from jaxgmm.counting.distinct import DistinctDraws

WEIGHTS = (0.61, 0.27, 0.12)


def tree_of(labels, obs_id=None):
    """A tree of draws (S, N), two chains."""
    labels = np.asarray(labels)
    values = labels.reshape(2, -1, labels.shape[1])
    obs_id = np.arange(labels.shape[1]) if obs_id is None else obs_id
    group = xarray.Dataset({"label": (("chain", "draw", "obs_id"), values)}, {"obs_id": obs_id})
    return xarray.DataTree.from_dict({"allocations": group})


def every_partition(n):
    """All of n rows, (Bell(n), n)."""
    found = [[0]]
    for _ in range(n - 1):
        found = [[*one, label] for one in found for label in range(max(one) + 2)]
    return np.array(found)


def by_pairs(some, others, loss):
    """(P, S): the losses by who is together with whom, row by row."""
    together, elsewhere = some[:, :, None] == some[:, None], others[:, :, None] == others[:, None]
    if loss == "binder":
        n = some.shape[1]
        return (together[:, None] ^ elsewhere).sum((2, 3)) / (n * (n - 1))
    both = np.einsum("pij,sij->psi", together.astype(float), elsewhere.astype(float))
    mine, theirs = together.sum(2), elsewhere.sum(2)
    return np.log(mine[:, None] * theirs / both**2).mean(2)


def noisy(truths, weights, n_draws, share_moved, seed):
    """Draws of given partitions, in which some rows are in any cluster."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(truths)[rng.choice(len(truths), n_draws, p=weights)]
    moved = rng.random(labels.shape) < share_moved
    return np.where(moved, rng.integers(0, labels.max() + 2, labels.shape), labels)


def planted(n_draws=1000, share_moved=0.03, seed=0):
    """Three partitions of 60 rows that differ in who is with whom; clusters are numbered anew in every draw."""
    truths = np.repeat([[0, 1, 2], [0, 1, 1], [0, 0, 1]], [20, 15, 25], axis=1)
    labels = noisy(truths, WEIGHTS, n_draws, share_moved, seed)
    names = np.random.default_rng(seed + 1).permuted(np.tile(np.arange(9), (n_draws, 1)), axis=1)
    return truths, np.take_along_axis(names, labels, axis=1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", range(12))
def test_no_partition_of_few_rows_is_better_than_the_typical_one(loss, seed):
    rng = np.random.default_rng(seed)
    n, n_draws = int(rng.integers(5, 9)), 2 * int(rng.integers(1, 15))
    labels = noisy(rng.integers(0, 3, (3, n)), (0.5, 0.3, 0.2), n_draws, (0.2, 1.0)[seed % 2], seed)
    typical = jg.typical_partition(tree_of(labels), loss=loss)
    losses = by_pairs(every_partition(n), labels, loss).mean(1)
    assert typical.attrs["expected_loss"] == pytest.approx(losses.min(), abs=1e-12)
    assert by_pairs(typical["label"].values[None], labels, loss).mean() == pytest.approx(losses.min(), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("share_moved", [0.1, 0.6])
def test_no_draw_is_better_than_the_typical_partition(loss, share_moved):
    labels = noisy(np.random.default_rng(5).integers(0, 5, (4, 50)), (0.25,) * 4, 200, share_moved, 6)
    found = jg.typical_partition(tree_of(labels), loss=loss).attrs["expected_loss"]
    assert found <= by_pairs(labels, labels, loss).mean(1).min() + 1e-12


def test_losses_are_scikit_learns():
    labels = np.random.default_rng(0).integers(0, 4, (6, 40))
    apart = {loss: np.stack([distances(one, labels, kind) for one in labels]) for loss, kind in LOSSES.items()}
    for i, j in itertools.product(range(6), repeat=2):
        a, b = labels[i], labels[j]
        shannon = mutual_info_score(a, a) + mutual_info_score(b, b) - 2 * mutual_info_score(a, b)
        assert apart["vi"][i, j] == pytest.approx(shannon, abs=1e-12)
        assert apart["binder"][i, j] == pytest.approx(1 - rand_score(a, b), abs=1e-12)
    for loss, kind in LOSSES.items():
        draws = DistinctDraws.of(in_order(labels))
        own = [next(i for i in range(6) if (one[draws.unit] == in_order(labels)[i]).all()) for one in draws.labels]
        np.testing.assert_allclose(draws.in_pairs(kind), apart[loss][np.ix_(own, own)], atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_partitions_that_were_planted_are_held_apart(loss):
    truths, labels = planted()
    found = jg.partitions(tree_of(labels), loss=loss)
    for label, truth in zip(found.representatives.values, truths, strict=True):
        assert rand_score(label, truth) == 1
    np.testing.assert_allclose(found.table["weight"], WEIGHTS, atol=4 * np.sqrt(0.25 / 1000))
    assert found.table["weight"].sum() == pytest.approx(1)
    assert found.verdict == "3 plausible partitions: " + ", ".join(f"{100 * weight:.0f} %" for weight in found.table["weight"])
    assert rand_score(found.labels, truths[0]) == 1
    assert found.table["n_moved"].tolist() == [0, 15, 15]
    assert found.table["sizes"].tolist() == [(20, 15, 25), (20, 40), (35, 25)]
    own = by_pairs(truths, labels, loss)
    np.testing.assert_allclose(found.table["expected_loss"], [one[own.argmin(0) == i].mean() for i, one in enumerate(own)])
    np.testing.assert_allclose(found.table["distance"], by_pairs(truths[:1], truths, loss)[0], atol=1e-12)
    np.testing.assert_allclose(found.table["mcse"], np.sqrt(np.multiply(WEIGHTS, 1 - np.array(WEIGHTS)) / 1000), rtol=0.4)
    losses = found.table["weight"] @ found.table["expected_loss"], found.typical.attrs["expected_loss"]
    assert found.left[2] == pytest.approx(losses[0] / losses[1], rel=1e-12)
    assert found.left[2] - 0.05 < found.left[3] < found.left[2]
    assert len(jg.partitions(tree_of(labels), 2, loss=loss).table) == 2


def test_rows_that_come_and_go_by_themselves_are_no_partitions_of_their_own():
    labels = noisy(np.repeat([[0, 1, 2]], 20, axis=1), (1.0,), 1000, 0.1, 3)
    found = jg.partitions(tree_of(labels))
    assert found.verdict == "1 plausible partition: 100 %"
    assert len(jg.partitions(tree_of(labels), 3, least_gain=0).table) == 3
    assert jg.partitions(tree_of(np.tile(labels[:1], (10, 1)))).table["expected_loss"].tolist() == [0]


@pytest.mark.parametrize("loss", LOSSES)
def test_no_two_partitions_of_five_rows_are_nearer_to_the_draws(loss):
    labels = noisy([[0, 0, 1, 1, 1], [0, 1, 2, 2, 0]], (0.6, 0.4), 60, 0.15, 1)
    found = jg.partitions(tree_of(labels), 2, loss=loss, least_gain=0)
    away = by_pairs(every_partition(5), labels, loss)
    best = min(np.minimum(a, b).mean() for a, b in itertools.combinations(away, 2))
    assert found.table["weight"] @ found.table["expected_loss"] == pytest.approx(best, abs=1e-12)


def test_how_draws_number_their_clusters_and_come_in_plays_no_part():
    _, labels = planted(200, 0.1)
    rng = np.random.default_rng(0)
    names = rng.permuted(np.tile(np.arange(9), (200, 1)), axis=1)
    one = jg.partitions(tree_of(labels))
    other = jg.partitions(tree_of(np.take_along_axis(names, labels, axis=1)[rng.permutation(200)]))
    assert one.representatives.identical(other.representatives)
    pd.testing.assert_frame_equal(one.table.drop(columns="mcse"), other.table.drop(columns="mcse"))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_credible_ball_is_the_smallest_that_holds_its_probability(loss):
    _, labels = planted(400, 0.1)
    ball = jg.typical_partition(tree_of(labels), 0.8, loss=loss)
    away, radius = by_pairs(ball["label"].values[None], labels, loss)[0], ball.attrs["radius"]
    assert (away < radius - 1e-12).mean() < 0.8 <= (away <= radius + 1e-12).mean()
    inside = labels[away <= radius + 1e-12]
    sizes = np.array([np.unique(one).size for one in inside])
    for name, chosen in {
        "coarsest": inside[sizes == sizes.min()],
        "finest": inside[sizes == sizes.max()],
        "farthest": inside,
    }.items():
        there = by_pairs(ball["label"].values[None], np.stack([ball[name].values, *chosen]), loss)[0]
        assert there[0] == pytest.approx(there[1:].max(), abs=1e-12)
        assert any((in_order(one[None])[0] == ball[name].values).all() for one in chosen)


def test_stability_is_the_company_that_a_row_keeps():
    _, labels = planted(40, 0.2)
    typical = jg.typical_partition(tree_of(labels))
    label = typical["label"].values
    for row in range(0, 60, 7):
        here = set(np.flatnonzero(label == label[row]))
        there = [set(np.flatnonzero(draw == draw[row])) for draw in labels]
        kept = np.mean([len(here & other) / len(here | other) for other in there])
        assert typical["stability"].values[row] == pytest.approx(kept)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("probability", [0.4, 0.8])
def test_no_more_of_few_rows_are_settled(seed, probability):
    """By all sets of rows: the search is greedy, and misses a row for 2 of 180 such draws, none of these."""
    rng = np.random.default_rng(seed)
    labels = noisy(rng.integers(0, 3, (2, 7)), (0.8, 0.2), 40, rng.uniform(0, 0.5, 7), seed)
    found = jg.credible_subpartition(tree_of(labels), probability)
    settled = found["label"].values >= 0
    sets = [list(rows) for size in range(1, 8) for rows in itertools.combinations(range(7), size)]
    most = max(len(rows) for rows in sets if _share_of_one_way(labels[:, rows]) >= probability)
    assert settled.sum() == found.attrs["n_rows"] == most
    own = (in_order(labels[:, settled]) == found["label"].values[settled]).all(1).mean()
    assert own == pytest.approx(found.attrs["probability"])
    assert own >= probability


def _share_of_one_way(labels):
    """Of the draws, that divide the rows as most do."""
    return np.unique(in_order(labels), axis=0, return_counts=True)[1].max() / len(labels)


def test_many_draws_are_thinned_and_the_result_says_so(monkeypatch):
    truths, labels = planted()
    monkeypatch.setattr(distinct, "_MOST_DRAWS", 150)
    found = jg.partitions(tree_of(labels))
    assert (found.n_draws, found.n_compared) == (1000, 143)
    assert found.typical.attrs["n_compared"] == 143
    assert "found by comparing 143 of 1000 draws" in repr(found)
    settled = found.settled["label"].values >= 0
    agree = (in_order(labels[:, settled]) == found.settled["label"].values[settled]).all(1)
    assert (found.settled.attrs["n_compared"], found.settled.attrs["probability"]) == (143, agree.mean())  # of all draws
    assert agree.mean() >= 0.95
    away = by_pairs(found.representatives.values, labels, "vi")
    np.testing.assert_allclose(found.table["weight"], np.bincount(away.argmin(0)) / 1000)  # of all draws
    monkeypatch.setattr(distinct, "_MOST_WORK", 1e6)
    assert DistinctDraws.of(in_order(labels)).n_compared < 143
    assert rand_score(jg.typical_partition(tree_of(labels))["label"], truths[0]) == 1


def test_rows_keep_their_labels():
    names = np.array([f"r{i}" for i in range(60)])
    found = jg.partitions(tree_of(planted(100)[1], names))
    frame = found.to_frame()
    for labelled in (found.labels, found.stability, found.representatives, found.typical["finest"]):
        np.testing.assert_array_equal(labelled["obs_id"], names)
    assert frame.index.tolist() == names.tolist()
    assert frame.columns.tolist() == ["stability", "typical", "settled", "partition_0", "partition_1", "partition_2"]


def test_one_row_and_one_draw_have_one_partition():
    for shape in ((2, 1), (2, 5)):
        for loss in LOSSES:
            found = jg.partitions(tree_of(np.zeros(shape, int)), loss=loss)
            assert (found.table["weight"].tolist(), found.typical.attrs["expected_loss"]) == ([1.0], 0.0)
            np.testing.assert_array_equal(found.stability, 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": "vy"}, ValueError, "unknown loss 'vy'; did you mean 'vi'"),
        ({"probability": 1.0}, ValueError, "probability must lie between 0 and 1, got 1.0"),
        ({"probability": 0}, ValueError, "probability must lie between 0 and 1, got 0"),
        ({"probability": np.nan}, ValueError, "probability must lie between 0 and 1, got nan"),
        ({"n_partitions": 0}, ValueError, "n_partitions must be at least 1, got 0"),
        ({"n_partitions": 2.5}, TypeError, "n_partitions must be a whole number, got 2.5"),
        ({"least_gain": -0.1}, ValueError, "least_gain must be a share, from 0 to 1, got -0.1"),
        ({"least_gain": 2}, ValueError, "least_gain must be a share, from 0 to 1, got 2"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        jg.partitions(tree_of(planted(4)[1]), **options)
    if options.keys() <= {"loss", "probability"}:
        with pytest.raises(error, match=message):
            jg.typical_partition(tree_of(planted(4)[1]), **options)
    if options.keys() == {"probability"}:
        with pytest.raises(error, match=message):
            jg.credible_subpartition(tree_of(planted(4)[1]), **options)


def test_other_trees_and_rows():
    posterior = xarray.DataTree.from_dict({"posterior": xarray.Dataset()})
    for ask in (jg.partitions, jg.typical_partition, jg.credible_subpartition):
        with pytest.raises(ValueError, match=f"{ask.__name__} needs the group allocations; this tree has posterior"):
            ask(posterior)
        with pytest.raises(TypeError, match=f"{ask.__name__} needs the DataTree"):
            ask(np.zeros((2, 3)))
    found = jg.partitions(tree_of(planted(100)[1]))
    x = np.zeros((60, 3))
    for arguments, error, message in (
        ((found, x[:9]), ValueError, "x has 9 rows, the partitions are of 60"),
        ((posterior, x), TypeError, r"draws what jaxgmm\.partitions returns, got DataTree"),
    ):
        with pytest.raises(error, match=message):
            jg.plots.partitions(*arguments)
    with pytest.raises(ValueError, match=r"features \[0, 3\] must lie in 0\.\.2"):
        jg.plots.partitions(found, x, features=(0, 3))
    with pytest.raises(ValueError, match="feature_names has 1 names, x has 3 columns"):
        jg.plots.partitions(found, x, feature_names=["a"])
