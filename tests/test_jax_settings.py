"""What a user has switched on in JAX to find mistakes of their own stands in no one's way, and stays on."""

import contextlib
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest

import jaxgmm as jg

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(120, 2)) + 6 * np.repeat([[0, 0], [1, 0], [0, 1]], 40, axis=0)
REPEATED = np.repeat(X[:6], [30, 1, 1, 1, 1, 1], axis=0)
GMM = jg.GMM([0.5, 0.5], [[0.0, 0.0], [6.0, 0.0]], [np.eye(2)] * 2)


def draws():
    return jg.posterior(X, GMM, method="gibbs", key=KEY, n_draws=10, n_warmup=5)


CALLS = {
    "fit": lambda: jg.fit(X, 3, key=KEY, n_init=2),
    "collapse": lambda: jg.fit(REPEATED, 4, key=KEY, prior=None, n_init=2),
    "initialise": lambda: jg.initialise(X, 3, key=KEY),
    "prior": lambda: jg.Prior.default(X, 3).log_prob(GMM),
    "rows": lambda: (GMM.log_prob(X), GMM.predict(X), GMM.responsibilities(X), GMM.bic(X), GMM.sample(KEY, 5)),
    "mixtures": lambda: (GMM.marginal([0]), GMM.mean(), GMM.covariance()),
    "steps": lambda: jg.m_step(jg.e_step(GMM, X), GMM),
    "compare": lambda: jg.compare(X, families=["diag"], n_components=[1, 2], key=KEY, n_init=2),
    "fit_vb": lambda: jg.fit_vb(X, 3, key=KEY, n_init=2).predict(X),
    "gibbs": lambda: jg.diagnose(jg.relabel(draws())),
    "trees": lambda: [f(jg.relabel(draws())) for f in (jg.membership, jg.coclustering, jg.intervals, jg.merged_counts)],
    "replicates": lambda: jg.predictive_checks(draws(), key=KEY, n_replicates=20),
    "merging": lambda: jg.merge_components(GMM, X),
    "count_clusters": lambda: jg.typical_partition(
        jg.count_clusters(X, key=KEY, family="diag", n_draws=10, n_warmup=5, max_components=10)
    ),
}


# Of all programs that a call lowers, as XLA is given them: what a user waits for at the first call grows with it. (Programs
# that an earlier call in this file has in common are not lowered again, so that these are upper bounds of each call alone.)
CEILINGS = {
    "fit": 1450, "collapse": 1200, "initialise": 700, "prior": 350, "rows": 1350, "mixtures": 50, "steps": 600,
    "compare": 1400, "fit_vb": 2300, "gibbs": 3950, "trees": 1150, "replicates": 750, "merging": 520, "count_clusters": 8100,
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_guard_of_transfers(name, tmp_path):
    """Rows that are handed over are meant to go to the device. And the programs of each call have a most of instructions."""
    with jax.transfer_guard("disallow"), warnings.catch_warnings(), _dumped(tmp_path):
        warnings.simplefilter("ignore", jg.FitWarning)
        CALLS[name]()
    n_instructions = sum(path.read_text().count(" = stablehlo.") for path in tmp_path.iterdir())
    assert n_instructions <= CEILINGS[name]


@contextlib.contextmanager
def _dumped(folder):
    """Programs are written there as they are lowered."""
    jax.config.update("jax_dump_ir_to", str(folder))
    try:
        yield
    finally:
        jax.config.update("jax_dump_ir_to", "")


NUMPYRO_LATER = """
import jax, numpy as np, jaxgmm as jg
x, key = np.random.default_rng(0).normal(size=(30, 1)), jax.random.key(0)
jg.fit(x, 1, key=key, n_init=1)
compiled = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
import numpyro
jg.fit(x, 1, key=key, n_init=1)
print([name for name in compiled if "backend_compile" in name])
"""


def test_what_is_compiled_stays_so_when_numpyro_is_imported():
    """A posterior after a fit imports it; another fit then finds its programs."""
    done = subprocess.run([sys.executable, "-c", NUMPYRO_LATER], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_guard_stays_on():
    with jax.transfer_guard("disallow"):
        CALLS["rows"]()
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            jax.jit(lambda a: a + 1)(np.ones(3))


@pytest.mark.parametrize("name", ["collapse", "rows", "steps", "count_clusters"])
def test_a_search_for_nan(name):
    """A start that ends in NaN is a result, with a status."""
    with jax.debug_nans(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)
        CALLS[name]()
        with pytest.raises(FloatingPointError):
            jax.jit(lambda a: a / a)(jax.numpy.zeros(()))
