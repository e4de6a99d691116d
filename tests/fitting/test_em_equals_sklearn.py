"""EM, step by step from the same start, is scikit-learn's; with weights, scikit-learn's on repeated rows."""

import jax
import numpy as np
import pytest
from helpers import random_member
from sklearn.mixture import GaussianMixture

import jaxgmm as jg

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_STEPS = 15


def sklearn_run(x, start):
    covariances = np.asarray(start.covariances)
    return GaussianMixture(
        start.n_components,
        covariance_type=start.family,
        reg_covar=0,
        tol=0,
        max_iter=N_STEPS,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(covariances) if start.family in ("full", "tied") else 1 / covariances,
    ).fit(x)


@pytest.mark.parametrize("engine", ["moments", "whitened"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fifteen_steps(blobs, row_counts, family, engine, weighted):
    counts = row_counts if weighted else np.ones(len(blobs), int)
    x = np.repeat(blobs, counts, axis=0)
    ours = random_member(family)
    theirs = sklearn_run(x, ours)
    for _ in range(N_STEPS):
        ours = jg.m_step(jg.e_step(ours, blobs, counts if weighted else None, engine=engine), ours)

    for mine, his in (
        (ours.weights, theirs.weights_),
        (ours.means, theirs.means_),
        (ours.covariances, theirs.covariances_),
    ):
        np.testing.assert_allclose(mine, his, rtol=1e-10, atol=1e-10 * np.abs(his).max())
    np.testing.assert_allclose(ours.log_prob(blobs), theirs.score_samples(blobs), rtol=1e-10)
    np.testing.assert_allclose(ours.responsibilities(blobs), theirs.predict_proba(blobs), atol=1e-9)
    assert ours.n_parameters == theirs._n_parameters()
    # scikit-learn counts rows, as we count weight.
    sample_weight = counts if weighted else None
    assert ours.aic(blobs, sample_weight) == pytest.approx(theirs.aic(x), rel=1e-10)
    assert ours.bic(blobs, sample_weight) == pytest.approx(theirs.bic(x), rel=1e-10)


@pytest.mark.parametrize("family", ["full", "tied"])
def test_fit_takes_the_same_steps(blobs, family):
    """The compiled loop of fit() is the same iteration as m_step(e_step())."""
    init = random_member(family)
    theirs = sklearn_run(blobs, init)
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = jg.fit(blobs, key=jax.random.key(0), init=init, prior=None, n_init=1, rtol=0, max_steps=N_STEPS)
    assert fit.status is jg.Status.max_steps
    np.testing.assert_allclose(fit.gmm.means, theirs.means_, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(
        fit.gmm.covariances, theirs.covariances_, rtol=1e-10, atol=1e-10 * np.abs(theirs.covariances_).max()
    )
    assert fit.log_likelihood == pytest.approx(theirs.score(blobs) * len(blobs), rel=1e-10)
