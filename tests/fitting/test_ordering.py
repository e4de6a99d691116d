"""Starts in the order that a prior likes best: whatever its order, the same fit, in that order."""

from dataclasses import replace
from itertools import permutations

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.fitting.ordering import Order, in_order, places_of

KEY = jax.random.key(0)


def line_on_background():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(5, 3, (300, 1)), rng.normal(4, 0.1, (25, 1)), rng.normal(15, 1, (100, 1))])


def three_widths():
    rng = np.random.default_rng(1)
    return np.concatenate([rng.normal(at, sd, (100, 1)) for at, sd in ((0, 3), (10, 0.3), (15, 1))])


def in_places(prior, order):
    """The prior with its components in another order."""
    return replace(prior, **{name: np.asarray(getattr(prior, name))[list(order)] for name in prior.by_component})


SHARED = {
    "concentration": [1.0] * 3,
    "mean": [[7.0]] * 3,
    "mean_precision": [0.01] * 3,
    "degrees_of_freedom": [3.0] * 3,
    "scale": [1.0] * 3,
}  # of one shape with those that differ, so that one program does
MEANS = {"mean": [[5.0], [4.0], [14.0]], "mean_precision": [0.1, 1000.0, 1.0]}
PRIORS = {
    name: jg.Prior(**SHARED | own, family="spherical")
    for name, own in {
        "mean": MEANS,
        "scale": {"degrees_of_freedom": [20.0, 200.0, 50.0], "scale": [180.0, 18.0, 50.0]},
        "concentration": {"concentration": [2.0, 1.0, 4.0]},
        "all": MEANS | {"concentration": [2.0, 1.0, 4.0], "degrees_of_freedom": [5.0, 200.0, 9.0], "scale": [40.0, 2.0, 9.0]},
    }.items()
}


@pytest.mark.parametrize("which", PRIORS)
def test_the_order_of_a_prior_does_not_matter(which):
    x, prior = three_widths() if which == "scale" else line_on_background(), PRIORS[which]
    first = jg.fit(x, 3, key=KEY, family="spherical", prior=prior, rtol=1e-12)
    assert first.restarts.replication > 1
    for order in permutations(range(3)):
        own = in_places(prior, order)
        fit = jg.fit(x, 3, key=KEY, family="spherical", prior=own, rtol=1e-12)
        assert fit.objective == pytest.approx(first.objective, abs=1e-6)
        np.testing.assert_allclose(fit.gmm.means, np.asarray(first.gmm.means)[list(order)], atol=1e-3)
    others = [jax.tree.map(lambda leaf, p=p: np.asarray(leaf)[list(p)], first.gmm) for p in permutations(range(3))]
    best = max(float(prior.log_prob(other)) for other in others)  # the fit's own order
    assert best == pytest.approx(float(prior.log_prob(first.gmm)), abs=1e-6)
    if which == "scale":
        np.testing.assert_allclose(first.gmm.means[:, 0], [0, 10, 15], atol=1)
    if which == "all":
        assert float(first.gmm.means[1, 0]) == pytest.approx(4, abs=0.05)
        assert float(first.gmm.covariances[1]) ** 0.5 == pytest.approx(0.1, abs=0.02)
        assert float(first.gmm.weights[1]) == pytest.approx(25 / 425, abs=0.03)


def test_a_mixture_to_start_from_keeps_its_order():
    """Its numbers are the user's, even where the prior would like others."""
    x, prior = line_on_background(), PRIORS["concentration"]
    fit = jg.fit(x, 3, key=KEY, family="spherical", prior=prior)
    turned = jax.tree.map(lambda leaf: np.asarray(leaf)[[1, 2, 0]], fit.gmm)
    again = jg.fit(x, key=KEY, init=turned, prior=prior)
    np.testing.assert_allclose(again.gmm.means, turned.means, atol=1)
    assert again.objective < fit.objective - 0.1


def test_labelled_components_keep_their_places():
    """Components are exchanged only with those of which rows' labels say the same."""
    gmm = jg.GMM([0.1, 0.2, 0.3, 0.4], [[0.0]] * 4, [1.0] * 4, "spherical")
    evidence = np.zeros((3, 4))
    evidence[0, [0, 2, 3]] = -np.inf  # a row of component 1
    prior = jg.Prior([4.0, 3.0, 2.0, 1.0], [0.0], 1.0, 1.0, 1.0, "spherical")
    for places, expected in ((None, [0.4, 0.3, 0.2, 0.1]), (places_of(evidence), [0.4, 0.2, 0.3, 0.1])):
        order = Order(None, np.array([4]), places, None, np.zeros(1, bool))
        one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (gmm, prior))
        with jax.enable_x64(True):
            found, moved = in_order(*one, order)
        assert moved.all()
        np.testing.assert_array_equal(found.weights[0], expected)
