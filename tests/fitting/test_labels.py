"""Rows whose component is known, or partly."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import load_x
from jax.scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg

KEY = jax.random.key(0)
X, SPECIES = load_x("iris"), np.repeat([0, 1, 2], 50)
SOME = np.where(np.arange(150) % 5 == 0, SPECIES, -1)  # 10 of each


def log_likelihood(leaves, x, evidence):
    weights, means, covariances = leaves
    d = x[:, None] - means
    norm = (d * jnp.linalg.solve(covariances, d[..., None])[..., 0]).sum(-1)
    joint = jnp.log(weights / weights.sum()) - (norm + jnp.linalg.slogdet(2 * jnp.pi * covariances)[1]) / 2
    return logsumexp(joint + evidence, axis=1).sum()


def test_with_all_labels_it_is_one_gaussian_for_each_class():
    fit = jg.fit(X, 3, key=KEY, labels=SPECIES, prior=None)
    for k in range(3):
        own = X[k == SPECIES]
        np.testing.assert_allclose(fit.means[k], own.mean(0), rtol=1e-12)
        np.testing.assert_allclose(fit.covariances[k], np.cov(own.T, bias=True), rtol=1e-9)
    expected = sum(
        multivariate_normal(fit.means[k], fit.covariances[k]).logpdf(X[k == SPECIES]).sum() + 50 * np.log(1 / 3)
        for k in range(3)
    )
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-12)
    assert len(fit.restarts.status) == 1
    assert fit.n_labelled == 150


@pytest.mark.parametrize(("kind", "acceleration"), [("hard", None), ("probabilities", "squarem")])
def test_it_climbs_to_where_the_likelihood_of_rows_and_labels_is_flat(kind, acceleration):
    rng = np.random.default_rng(0)
    labels = SOME if kind == "hard" else np.where((SOME < 0)[:, None], 1.0, rng.uniform(0.1, 1, (150, 3)))
    fit = jg.fit(X, 3, key=KEY, labels=labels, prior=None, rtol=1e-13, max_steps=511, acceleration=acceleration)
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-9).all()
    if kind == "hard":
        evidence = np.where((SOME < 0)[:, None] | (SOME[:, None] == np.arange(3)), 0, -1e9)
    else:
        evidence = np.log(labels / labels.max(1, keepdims=True))
    leaves = fit.weights, fit.means, fit.covariances
    value, gradient = jax.jit(jax.value_and_grad(log_likelihood))(leaves, X, evidence)
    assert fit.log_likelihood == pytest.approx(float(value), rel=1e-12)
    assert max(abs(g * leaf).max() for g, leaf in zip(gradient, leaves, strict=True)) < 2e-3


@pytest.mark.parametrize("name", ["full", "diag"])
def test_ones_and_unknown_labels_say_nothing(name):
    start = jg.initialise(X, 3, key=KEY, family=name)
    plain = jg.fit(X, init=start, key=KEY)
    for labels in (np.full(150, -1), np.ones((150, 3)), np.full((150, 3), 0.2)):
        same = jg.fit(X, init=start, key=KEY, labels=labels)
        np.testing.assert_allclose(same.trace, plain.trace, rtol=1e-11)
        assert same.n_labelled == 0


def test_a_few_labels_say_which_component_is_which():
    few = np.where(np.arange(150) % 25 == 0, SPECIES, -1)  # two of each
    fit = jg.fit(X, 3, key=KEY, labels=few, family="tied")
    assert (np.asarray(fit.predict(X)) == SPECIES).mean() > 0.95
    assert fit.n_labelled == 6
    assert "6 rows of which the component was known" in repr(fit)
    one = np.full(150, -1)
    one[[0, 1, 2]] = 2  # one component of three: the others start from seeds
    fit = jg.fit(X, 3, key=KEY, labels=one)
    assert np.asarray(fit.predict(X[:50])).tolist() == [2] * 50
    assert len(fit.restarts.status) == 10
    assert fit.objective == pytest.approx(jg.fit(X, init=SPECIES, key=KEY).objective, abs=0.2)


def test_labels_that_tell_one_component_from_another_part_what_overlaps():
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1], 500)
    x = rng.normal(np.where(truth == 0, 0.0, 1.5))[:, None]
    labels = np.where(rng.random(1000) < 0.2, truth, -1)
    fit = jg.fit(x, 2, key=KEY, labels=labels, family="tied")
    assert abs(np.asarray(fit.means[:, 0]) - [0, 1.5]).max() < 0.2
    assert float(np.sqrt(fit.covariances[0, 0])) == pytest.approx(1, abs=0.08)


def test_with_gaps_and_noise():
    gappy = X.copy()
    gappy[np.random.default_rng(2).random(X.shape) < 0.1] = np.nan
    with_labels = jg.fit(gappy, 3, key=KEY, labels=SOME)
    assert (np.asarray(with_labels.predict(gappy)) == SPECIES).mean() > 0.93
    whole = jg.fit(X, 3, key=KEY, labels=SOME, error_covariances=np.zeros(X.shape))
    np.testing.assert_allclose(whole.trace, jg.fit(X, 3, key=KEY, labels=SOME).trace, rtol=1e-9)
    far = np.concatenate([X, X[:6] + np.array([20, -20, 20, 20])])
    noisy = jg.fit(far, 3, key=KEY, labels=np.append(SOME, np.full(6, -1)), noise=True)
    assert np.asarray(noisy.predict(far[-6:])).tolist() == [-1] * 6
    known = jg.fit(far, 3, key=KEY, labels=np.append(SOME, np.zeros(6, int)), noise=True)  # then these are no noise
    assert known.noise.weight < 1e-3 < noisy.noise.weight


def test_weights_are_repeated_rows():
    counts = np.random.default_rng(3).integers(1, 4, 150)
    weighted = jg.fit(X, 3, key=KEY, labels=SOME, sample_weight=counts, prior=None)
    repeated = jg.fit(np.repeat(X, counts, axis=0), 3, key=KEY, labels=np.repeat(SOME, counts), prior=None)
    np.testing.assert_allclose(weighted.trace, repeated.trace, rtol=1e-11)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (SPECIES + 1, ValueError, r"labels has 3 in rows 100.*0 to 2, the components, or -1"),
        (np.where(SOME < 0, -2, SOME), ValueError, "labels has -2"),
        (SPECIES[:-1], ValueError, r"labels has shape \(149,\), but x has 150 rows"),
        (np.where(SOME < 0, np.nan, SOME), TypeError, "whole numbers, -1 where they aren't known.*factorize"),
        (np.array(["a", "b", "c"])[SPECIES], TypeError, "factorize"),
        (np.ones((150, 2)), ValueError, r"\(150, 3\) probabilities"),
        (np.zeros((150, 3)), ValueError, "zero for every component in rows 0"),
        (np.full((150, 3), np.nan), ValueError, "NaN or infinite in rows 0"),
        (np.minimum(SPECIES, 1), ValueError, r"leave no row for component \[2\]"),
    ],
)
def test_bad_input(labels, error, message):
    with pytest.raises(error, match=message):
        jg.fit(X, 3, key=KEY, labels=labels)


def test_labels_of_frames_and_pieces():
    series = pd.Series(SOME, index=np.arange(150) + 7)
    fit = jg.fit(pd.DataFrame(X), 3, key=KEY, labels=series)
    np.testing.assert_allclose(fit.means, jg.fit(X, 3, key=KEY, labels=SOME).means)
    with pytest.raises(ValueError, match="x comes in pieces"):
        jg.fit(jg.data.Pieces(lambda: [X]), 3, key=KEY, labels=SOME)
