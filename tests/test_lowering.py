"""The compiled loops of public calls are lowered for GPUs and TPUs too, from a machine that has none."""

import jax
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.bayes.samplers import chains
from jaxgmm.fitting import group_batch, loop, starts

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(60, 2)) + 6 * np.repeat([[0], [1]], 30, axis=0)
GAPPY = np.where(np.arange(120).reshape(60, 2) % 7, X, np.nan)
WIDE = np.column_stack([X, X @ np.random.default_rng(1).normal(size=(2, 3))]) + np.random.default_rng(2).normal(size=(60, 5))
LIMITS = np.where(np.arange(120).reshape(60, 2) % 7, 0, -1)
LABELS = np.where(np.arange(60) % 9 == 0, np.arange(60) // 30, -1)
GMM = jg.GMM([0.5, 0.5], [[0.0, 0.0], [6.0, 6.0]], [np.eye(2)] * 2)
FEW = {"key": KEY, "n_draws": 10, "n_warmup": 5}
# program: where it is looked up, its static arguments, a call that uses it
PROGRAMS = {
    "EM": (loop, "_advance", lambda: jg.fit(X, 2, key=KEY, n_init=2)),
    "EM of shared axes": (loop, "_advance", lambda: jg.fit(X, 2, key=KEY, family="EVE", n_init=2)),
    "EM of axes of their own": (loop, "_advance", lambda: jg.fit(X, 2, key=KEY, family="VEV", n_init=2)),
    "EM of rows with gaps": (loop, "_advance", lambda: jg.fit(GAPPY, 2, key=KEY, n_init=2)),
    "EM of rows with errors": (loop, "_advance", lambda: jg.fit(X, 2, key=KEY, n_init=2, error_covariances=X * 0 + 0.1)),
    "EM of rows with limits": (loop, "_advance", lambda: jg.fit(X, 2, key=KEY, n_init=2, censored=LIMITS)),
    "EM of factor analysers": (loop, "_advance", lambda: jg.fit(WIDE, 2, key=KEY, family="factors:2", n_init=2, rtol=1e-4)),
    "EM of components that matter": (loop, "_advance", lambda: jg.fit(X, 32, key=KEY, truncate=1e-9, rtol=1e-3)),
    "EM with labels and noise": (loop, "_advance", lambda: jg.fit(X, 2, key=KEY, labels=LABELS, noise=True)),
    "starts with labels and noise": (starts, "seeded_starts", lambda: jg.fit(X, 2, key=KEY, labels=LABELS, noise=True)),
    "EM of many weights": (loop, "_advance", lambda: jg.posterior(X, GMM, method="weighted-likelihood", key=KEY, n_draws=5)),
    "starts": (starts, "grouped_starts", lambda: jg.fit(X, 2, key=KEY, n_init=2)),
    "EM of groups": (loop, "_advance", lambda: jg.fit_groups([X, X[:40]], n_components=2, key=KEY)),
    "starts of groups": (group_batch, "seeded_groups", lambda: jg.fit_groups([X, X[:40]], n_components=2, key=KEY)),
    "variational Bayes": (loop, "_advance", lambda: jg.fit_vb(X, 2, key=KEY, n_init=2)),
    "Gibbs": (chains, "_advance", lambda: jg.posterior(X, GMM, method="gibbs", **FEW)),
    "Gibbs of rows with gaps": (chains, "_advance", lambda: jg.posterior(GAPPY, GMM, method="gibbs", labels=LABELS, **FEW)),
    "Gibbs of rows with limits": (chains, "_advance", lambda: jg.posterior(X, GMM, method="gibbs", censored=LIMITS, **FEW)),
    "NUTS": (chains, "_advance_one", lambda: jg.posterior(X, GMM, method="nuts", **FEW)),
    "counts": (chains, "_advance_one", lambda: jg.count_clusters(X, max_components=5, **FEW)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_lower_for_accelerators(name, monkeypatch):
    module, function, call = PROGRAMS[name]
    compiled = getattr(module, function)

    class Called(Exception):
        """With its arguments, before anything is compiled for this machine."""

    def called(*args, **options):
        raise Called(args, options)

    monkeypatch.setattr(module, function, called)
    with pytest.raises(Called) as caught:
        call()
    args, options = caught.value.args
    with jax.enable_x64(True):
        lowered = compiled.trace(*args, **options).lower(lowering_platforms=("cuda", "tpu"))
    assert "stablehlo" in lowered.as_text()
