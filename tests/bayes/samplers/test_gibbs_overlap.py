"""Where two components overlap, what `posterior(method="gibbs")` does by default passes its own diagnosis."""

import jax
import numpy as np
import pytest

import jaxgmm as jg


@pytest.mark.parametrize("seed", [0, 2])
def test_defaults_are_enough_for_two_gaussians_that_overlap(seed):
    """One sweep a draw had an ESS of 100 and an r-hat of 1.03 here."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(120, 30, 150), rng.normal(200, 22, 150)])[:, None]
    fit = jg.fit(x, 2, key=jax.random.key(0))
    tree = jg.posterior(x, fit, method="gibbs", key=jax.random.key(1))
    found = jg.diagnose(jg.relabel(tree, fit.gmm))
    assert found.ok, found.problems
    assert found.table[["ess_bulk", "ess_tail"]].min(axis=None) >= 400
    assert tree["sample_stats"].attrs["thin"] == 10
