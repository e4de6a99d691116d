"""The one loop with its two drivers: rows in memory, and rows that come in pieces."""

import functools
import operator

import numpy as np
import pytest
from helpers import load_x

import jaxgmm as jg
from jaxgmm.data import ArraySource
from jaxgmm.fitting.em_step import EM, Own, Shared
from jaxgmm.fitting.loop import Rules, climb
from jaxgmm.fitting.squarem import Squarem


class Pieces:
    """Rows that are never together, as those of a file are."""

    traceable = False

    def __init__(self, x, size):
        self.n_samples, self.n_features = x.shape
        self.parts = [x[first : first + size] for first in range(0, len(x), size)]

    def reduce(self, f):
        return functools.reduce(operator.add, (f(part, np.ones(len(part))) for part in self.parts))


@pytest.mark.parametrize("step", [EM(), EM(stopping="aitken"), Squarem()])
def test_rows_in_pieces_give_the_search_of_rows_in_memory(step):
    x = load_x("faithful")
    seeds = np.stack([x[[0, 1]], x[[3, 20]], x[[5, 100]]])
    weights, covariances = np.full((3, 2), 0.5), np.broadcast_to(np.cov(x.T), (3, 2, 2, 2)).copy()
    starts = jg.GMM.unchecked(weights, seeds, covariances, "full")
    own = Own(None, np.zeros(3), np.ones((3, 2), bool))
    rules = Rules(own, Shared(x.mean(0), np.zeros(2)), np.float64(len(x)), np.float64(1e-9))
    whole = climb(starts, ArraySource(x, np.ones(len(x))), rules, 300, step)
    reports = []
    pieces = climb(starts, Pieces(x, 100), rules, 300, step, reports.append)
    assert reports
    np.testing.assert_array_equal(pieces.status, whole.status)
    np.testing.assert_allclose(pieces.objective, whole.objective, rtol=1e-10)
    np.testing.assert_allclose(pieces.point.means, whole.point.means, rtol=1e-5)
    np.testing.assert_allclose(pieces.trace[:, :20], whole.trace[:, :20], rtol=1e-9)
