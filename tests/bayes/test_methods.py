"""`bayes/methods`: a sampler and its row in the table are all that a new way to infer takes."""

import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgmm as jg
from jaxgmm.bayes.methods import METHODS, Method, approximations, chains, methods_with, warmed_up
from jaxgmm.bayes.samplers.chains import run_chains
from jaxgmm.bayes.target.coordinates import Layout
from jaxgmm.bayes.target.problem import Draws
from jaxgmm.bayes.target.whitened import log_prior_at, log_rows_at, point_at, target_of

KEY = jax.random.key(0)


class State(NamedTuple):
    v: Any
    log_density: Any
    key: Any


class RandomWalk(NamedTuple):
    """Metropolis in whitened coordinates: what a user's own file would hold, with `toy` below."""

    layout: Layout
    scale: float

    def log_density(self, v, target):
        point = point_at(v, target, self.layout)
        return log_prior_at(point, target, self.layout) + log_rows_at(point, target.x, target.weight).sum()

    def start(self, key, target):
        v = jnp.zeros(self.layout.size, target.x.dtype)
        return State(v, self.log_density(v, target), key)

    heavy = False

    def step(self, state, target):
        key, key_move, key_accept = jax.random.split(state.key, 3)
        v = state.v + self.scale / self.layout.size**0.5 * jax.random.normal(key_move, state.v.shape, state.v.dtype)
        log_density = self.log_density(v, target)
        accepted = jnp.log(jax.random.uniform(key_accept)) < log_density - state.log_density
        return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), State(v, log_density, key), state._replace(key=key))

    def keep(self, state, target):
        point = point_at(state.v, target, self.layout)
        gmm = point.gmm
        moved = type(gmm).unchecked(gmm.weights, gmm.means + target.shift, gmm.covariances, gmm.family)
        return moved, point.extra, state.log_density


def toy(problem, key, schedule, n_chains, *, scale=2.4):
    target, kernel = target_of(problem), RandomWalk(problem.layout, scale)
    states = jax.jit(jax.vmap(lambda key: kernel.start(key, target)))(jax.random.split(key, n_chains))
    gmm, extra, log_density = run_chains(kernel, states, target, schedule)
    return Draws(gmm, extra, {"log_density": log_density}, {})


@pytest.fixture
def one_row(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Method(f"{__name__}:toy", "chain", 400, ("scale",)))


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 1)), 8 + rng.normal(size=(40, 1))])
    return x, jg.fit(x, 2, key=KEY)


def test_a_row_makes_a_method(fitted, one_row):
    x, fit = fitted
    tree = jg.posterior(x, fit, method="toy", key=KEY, n_draws=3000, scale=2.0, groups=["log_likelihood"])
    exact = jg.posterior(x, fit, method="gibbs", key=KEY, n_draws=1000)
    assert (tree.attrs["method"], tree.attrs["n_warmup"], tree.attrs["scale"]) == ("toy", 400, 2.0)
    assert {"posterior", "sample_stats", "log_likelihood"} <= set(tree.children)
    for name in ("weights", "means", "covariances"):
        ours, theirs = (np.asarray(t["posterior"][name]) for t in (tree, exact))
        assert ours.shape == (4, 3000, *theirs.shape[2:])
        sd = theirs.std((0, 1))
        np.testing.assert_array_less(abs(ours.mean((0, 1)) - theirs.mean((0, 1))), 0.3 * sd)
        np.testing.assert_allclose(ours.std((0, 1)), sd, rtol=0.3)
    relabelled = jg.relabel(tree, fit.gmm)
    assert jg.diagnose(relabelled, r_hat=1.2, ess=20).table["r_hat"].notna().any()  # judged as chains are


def test_a_new_method_is_refused_and_resumed_as_the_others_are(fitted, one_row, tmp_path):
    x, fit = fitted
    settings = {"method": "toy", "key": KEY, "n_draws": 60, "n_chains": 2, "n_warmup": 20}
    with pytest.raises(ValueError, match="did you mean 'scale'"):
        jg.posterior(x, fit, **settings, scales=1.0)
    whole = jg.posterior(x, fit, **settings)

    def interrupt(done, total):
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jg.posterior(x, fit, **settings, checkpoint=tmp_path / "run", progress=interrupt)
    resumed = jg.posterior(x, fit, **settings, checkpoint=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(whole["posterior"]["means"], resumed["posterior"]["means"])


def test_a_chain_without_warm_up_takes_none(fitted, one_row, monkeypatch):
    x, fit = fitted
    monkeypatch.setitem(METHODS, "toy", METHODS["toy"]._replace(n_warmup=None))
    tree = jg.posterior(x, fit, method="toy", key=KEY, n_draws=60, n_chains=2)
    assert tree.attrs["n_warmup"] == 0
    with pytest.raises(ValueError, match="n_warmup is for nuts and gibbs, but method is 'toy'"):
        jg.posterior(x, fit, method="toy", key=KEY, n_draws=10, n_warmup=5)


def test_lists_of_methods_follow_the_table(one_row):
    assert chains() == ("nuts", "gibbs", "toy")
    assert approximations() == ("svi", "laplace", "vb", "sandwich", "bootstrap", "weighted-likelihood")
    assert warmed_up() == methods_with()["n_warmup"] == ("nuts", "gibbs", "toy")
    assert methods_with()["scale"] == ("toy",)


def test_the_command_line_knows_a_row_and_waits_for_no_sampler():
    code = """
import sys
from jaxgmm.bayes.methods import METHODS, Method
METHODS["toy"] = Method("nowhere:toy", "chain", 10)
from jaxgmm.app.config.posterior import METHODS_WITH, PosteriorTable
assert PosteriorTable(method="toy", n_warmup=5).method == "toy"
assert METHODS_WITH["n_warmup"] == ("nuts", "gibbs", "toy")
assert "numpyro" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
