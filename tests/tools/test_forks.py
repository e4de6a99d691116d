"""In the fork of a process that ran JAX, what would wait forever says so at once."""

import os
import subprocess
import sys

import pytest

# In a process of their own: pytest's has threads. A key is made before, since JAX itself hangs in `jax.random.key`.
FORKS = """
import os
import jaxgmm as jg
import jax
import numpy as np

x = np.random.default_rng(0).normal(size=(100, 1))
gmm = jg.GMM([1.0], [[0.0]], [1.0], "spherical")
key = {ran}
calls = [
    lambda: jg.fit(x, 1, key=key), lambda: jg.initialise(x, 1, key=key),
    lambda: jg.compare(x, families=["full"], n_components=[1], key=key),
    lambda: jg.fit_map(x, 1, key=key), lambda: jg.fit_vb(x, 1, key=key), lambda: jg.posterior(x, gmm, method="gibbs", key=key),
    lambda: jg.count_clusters(x, key=key), lambda: jg.merge_components(gmm, x), lambda: jg.Prior.default(x, 1),
    lambda: jg.e_step(gmm, x), lambda: gmm.sample(key, 3), lambda: gmm.mean(), lambda: gmm.covariance(),
    lambda: gmm.dense_covariances(), lambda: jg.GMM([1.0], [[0.0, 1.0]], [1.0], "spherical").condition([0], [0.0]),
    lambda: gmm.log_prob(x), lambda: gmm.predict(x), lambda: gmm.responsibilities(x), lambda: gmm.bic(x), lambda: gmm.icl(x),
]

def told(call):
    try:
        call()
    except Exception as error:
        return isinstance(error, RuntimeError) and "forkserver" in str(error)
    return False

def in_fork():
    pid = os.fork()
    if pid == 0:
        wrong = [number for number, call in enumerate(calls) if not told(call)]
        print(wrong, flush=True)
        os._exit(bool(wrong))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert in_fork() == 0
"""
BEFORE_JAX = """
import os
import jaxgmm as jg
import jax
import numpy as np
pid = os.fork()
if pid == 0:
    os._exit(not jg.fit(np.arange(20.0)[:, None], 1, key=jax.random.key(0)).converged)
assert os.waitpid(pid, 0)[1] == 0
"""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run(script):
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("ran", ["jax.random.key(0)", "jg.fit(x, 1, key=jax.random.key(0)) and jax.random.key(0)"])
def test_forks_of_a_process_that_ran_jax(ran):
    run(FORKS.replace("{ran}", ran))


def test_forks_before_jax_ran_fit():
    run(BEFORE_JAX)
