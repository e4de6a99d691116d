"""Minibatches of rows in pieces: each row once a pass at most, with its own weight, as likely as any other."""

import itertools

import jax
import numpy as np

from jaxgmm.data import Pieces, minibatches
from jaxgmm.data.minibatches import minibatches as drawn

KEY = jax.random.key(3)
WEIGHT = np.array([1.0, 0, 2, 1, 0, 0, 3, 1, 1, 5, 1])  # each with a row of its own number


def pieces():
    rows = np.arange(len(WEIGHT), dtype=np.float32)[:, None] * np.ones(3, np.float32)
    return Pieces(lambda: zip(np.split(rows, [1, 4, 7]), np.split(WEIGHT, [1, 4, 7]), strict=True))


def test_rows_keep_their_weights_and_come_once_a_pass():
    for rows, weight in itertools.islice(drawn(pieces(), KEY, 3), 20):
        assert rows.shape == (2, 3, 3)  # eight rows have a weight
        numbers = rows[..., 0].astype(int)
        assert len(set(numbers.ravel())) == 6
        np.testing.assert_array_equal(weight, WEIGHT[numbers])
        assert rows.dtype == np.float32


def test_all_pairs_of_rows_are_as_likely():
    """To come first and second in a minibatch, whichever pieces they are of: within 4.5 standard errors."""
    n_passes, counts = 800, np.zeros((len(WEIGHT), len(WEIGHT)))
    for rows, _ in itertools.islice(drawn(pieces(), KEY, 4), n_passes):
        for first, second in rows[:, :2, 0].astype(int):
            counts[first, second] += 1
    present = np.flatnonzero(WEIGHT)
    counts = counts[np.ix_(present, present)]
    assert (np.diagonal(counts) == 0).all()
    pairs = counts[~np.eye(len(present), dtype=bool)]
    expected = 2 * n_passes / len(pairs)
    assert (abs(pairs - expected) < 4.5 * np.sqrt(expected)).all()


def test_a_pass_takes_no_more_than_its_memory(monkeypatch):
    monkeypatch.setattr(minibatches, "NUMBERS_A_PASS", 12)
    rows, _ = next(drawn(pieces(), KEY, 3))
    assert rows.shape == (1, 3, 3)
