"""R mclust 6.0.0 on real data: its parameters are our fixed points, its criteria ours, its optima reached or beaten."""

import numpy as np
import pytest
from conftest import load_x

import jaxgmm as jg

# mclust stops when log L changes by less than 1e-5 of itself, so its parameters are a fixed point to about 1e-4.
STEP = 1e-4


def mclust_gmm(fit, family):
    variance = np.array(fit["variance"])
    covariances = {
        "full": variance,
        "tied": variance[0],
        "diag": np.diagonal(variance, axis1=1, axis2=2),
        "spherical": variance[:, 0, 0],
    }[family]
    return jg.GMM(fit["pro"], fit["mean"], covariances, family)


def test_same_numbers(mclust, family):
    fit, x = mclust["fits"][family], load_x(mclust["data"])
    gmm = mclust_gmm(fit, family)
    assert gmm.n_parameters == fit["df"]
    # mclust prints ten decimals of its parameters; log L is computed from unrounded ones.
    assert gmm.log_likelihood(x) == pytest.approx(fit["loglik"], rel=1e-7)
    assert gmm.bic(x) == pytest.approx(-fit["bic"], rel=1e-7)
    assert gmm.icl(x) == pytest.approx(-fit["icl"], rel=1e-6)


def test_fixed_point(mclust, family):
    fit, x = mclust["fits"][family], load_x(mclust["data"])
    before = mclust_gmm(fit, family)
    after = jg.m_step(jg.e_step(before, x), before)
    sd = x.std(axis=0)
    np.testing.assert_allclose(after.weights, before.weights, atol=STEP)
    np.testing.assert_allclose(after.means / sd, before.means / sd, atol=STEP)
    unit = np.outer(sd, sd)
    np.testing.assert_allclose(
        np.asarray(after.dense_covariances()) / unit, np.asarray(before.dense_covariances()) / unit, atol=STEP
    )


def test_fit_reaches_mclust(mclust, family, real_fit):
    fit = real_fit(mclust["data"], family, None)
    assert fit.converged
    assert fit.log_likelihood > mclust["fits"][family]["loglik"] - 1e-3
