"""EM, step by step from the same start, is scikit-learn's; with weights, scikit-learn's on repeated rows."""

import jax
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import jaxgmm as jg

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_STEPS = 15


def sklearn_run(x, family, n_steps, start=None):
    init = {"init_params": "random_from_data"}
    if start is not None:
        init = {"weights_init": start.weights_, "means_init": start.means_, "precisions_init": start.precisions_}
    return GaussianMixture(4, covariance_type=family, reg_covar=0, tol=0, max_iter=n_steps, random_state=0, **init).fit(
        x
    )


@pytest.mark.parametrize("engine", ["auto", "moments", "whitened"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fifteen_steps(blobs, row_counts, family, engine, weighted):
    counts = row_counts if weighted else np.ones(len(blobs), int)
    x = np.repeat(blobs, counts, axis=0)
    start = sklearn_run(x, family, 1)
    theirs = sklearn_run(x, family, N_STEPS, start)

    ours = jg.GMM(start.weights_, start.means_, start.covariances_, family)
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


def test_fit_takes_the_same_steps(blobs, family):
    """The compiled loop of fit() is the same iteration as m_step(e_step())."""
    start = sklearn_run(blobs, family, 1)
    theirs = sklearn_run(blobs, family, N_STEPS, start)
    init = jg.GMM(start.weights_, start.means_, start.covariances_, family)
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = jg.fit(blobs, key=jax.random.key(0), init=init, prior=None, n_init=1, rtol=0, max_steps=N_STEPS)
    assert fit.status is jg.Status.max_steps
    np.testing.assert_allclose(fit.gmm.means, theirs.means_, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(
        fit.gmm.covariances, theirs.covariances_, rtol=1e-10, atol=1e-10 * np.abs(theirs.covariances_).max()
    )
    assert fit.log_likelihood == pytest.approx(theirs.score(blobs) * len(blobs), rel=1e-10)
