"""The loop of chains, and NUTS against the exact posterior where there is one."""

import os
from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from helpers import nearest

import jaxgmm as jg
from jaxgmm.bayes.samplers import chains
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.bayes.samplers.nuts import nuts
from jaxgmm.bayes.target.coordinates import layout_of, log_posterior
from jaxgmm.bayes.target.problem import Problem
from jaxgmm.bayes.target.whitening import frame_at, spread
from jaxgmm.tools.files import read_arrays, write_arrays
from jaxgmm.tools.keeping import forget

KEY = jax.random.key(0)


def problem(x, n_components, family="full", prior=None, start=None):
    fit = jg.fit(x, n_components, key=KEY, family=family) if start is None else None
    start = fit.gmm if start is None else start
    prior = fit.prior if prior is None else prior
    return Problem(jnp.asarray(x), jnp.ones(len(x)), start, prior, layout_of(start, prior))


def one_at_each(points, family):
    """A component of unit variance at each of the points."""
    k, d = points.shape
    return jg.GMM(np.full(k, 1 / k), points, nearest(family, np.tile(np.eye(d), (k, 1, 1))), family)


def three_clusters(seed=5):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(100, 2)) + centre for centre in ([0, 0], [4, 1], [1, 5])])


# The loop


class Walk(NamedTuple):
    """A random walk: the simplest chain whose every draw depends on all before."""

    heavy: bool = False

    def step(self, state, data):
        key, value = state
        key, own = jax.random.split(key)
        return key, value + data * jax.random.normal(own)

    def keep(self, state, data):
        return {"value": state[1]}


def walk(n_warmup=7, n_draws=25, heavy=False, **options):
    states = (jax.random.split(KEY, 3), jnp.zeros(3))
    return run_chains(Walk(heavy), states, jnp.asarray(2.0), Schedule(n_warmup, n_draws, **options))["value"]


def by_hand(n_steps):
    values = []
    for key in jax.random.split(KEY, 3):
        state = key, jnp.zeros(())
        path = []
        for _ in range(n_steps):
            state = Walk().step(state, 2.0)
            path.append(float(state[1]))
        values.append(path)
    return np.array(values)


@pytest.mark.parametrize("heavy", [False, True], ids=["side by side", "in threads"])
def test_chunks_and_warmup_do_not_change_the_draws(monkeypatch, heavy):
    """Nor does it change them whether chains are one program or each has its own, nor how many of these run at once."""
    expected = by_hand(32)[:, 7:]
    np.testing.assert_array_equal(walk(heavy=heavy), expected)
    monkeypatch.setattr(chains, "_SECONDS", 0.0)  # one step a chunk
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    np.testing.assert_array_equal(walk(heavy=heavy), expected)


@pytest.mark.parametrize("stop_at", [3, 7, 8, 20], ids=["in_warmup", "after_warmup", "first_draw", "in_draws"])
def test_an_interrupted_run_continues_bit_identically(tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(chains, "_SECONDS", 0.0)
    told = []

    def interrupt(done, total):
        told.append((done, total))
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(report=interrupt, checkpoint=tmp_path / "run")
    assert told[-1][0] >= stop_at
    assert told[-1][1] == 32
    np.testing.assert_array_equal(walk(checkpoint=tmp_path / "run", resume=True), by_hand(32)[:, 7:])


def test_checkpoints_are_not_mixed_up(tmp_path):
    walk(checkpoint=tmp_path / "run", signature={"seed": 1, "shape": (2, 3)})
    with pytest.raises(ValueError, match="holds an unfinished run: resume=True"):
        walk(checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="another run: seed was 1, now 2"):
        walk(checkpoint=tmp_path / "run", resume=True, signature={"seed": 2, "shape": (2, 3)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds something else"):
        walk(checkpoint=tmp_path / "other")
    with pytest.raises(ValueError, match=r"thesis.tex is a file: give a directory"):
        walk(checkpoint=tmp_path / "other" / "thesis.tex")
    state = tmp_path / "run" / "state.npz"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(jg.FitError, match="can't be read"):
        walk(checkpoint=tmp_path / "run", resume=True, signature={"seed": 1, "shape": (2, 3)})


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_kill_leaves_of_the_first_checkpoint_is_in_nobodys_way(tmp_path, resume):
    walk(checkpoint=tmp_path / "run")
    (tmp_path / "run" / "state.npz").rename(tmp_path / "run" / ".state.partial-0123abcd.npz")
    np.testing.assert_array_equal(walk(checkpoint=tmp_path / "run", resume=resume), by_hand(32)[:, 7:])
    assert not list((tmp_path / "run").glob(".*"))


def test_a_checkpoint_is_forgotten_but_not_what_stands_beside_it(tmp_path):
    walk(checkpoint=tmp_path / "run")
    (tmp_path / "run" / "notes.md").touch()
    forget(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.md"]
    forget(tmp_path / "nowhere")
    walk(checkpoint=tmp_path / "other")
    forget(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def edited(path, arrays=None, **facts):
    """What someone who opens a file of a checkpoint may do: None removes a fact."""
    held, (old,) = read_arrays(path, "facts")
    write_arrays(path, held | (arrays or {}), facts={name: fact for name, fact in (old | facts).items() if fact is not None})


@pytest.mark.parametrize(
    "facts",
    [
        {"done": None}, {"n_chunks": None}, {"signature": None}, {"signature": []}, {"done": "7"}, {"done": 1.5},
        {"done": True}, {"done": -5}, {"done": 33}, {"done": 20}, {"done": 3}, {"n_chunks": -1}, {"n_chunks": 0},
        {"n_chunks": 10**12},
    ],
    ids=str,
)  # fmt: skip
def test_edited_facts_of_a_checkpoint(tmp_path, facts):
    walk(checkpoint=tmp_path / "run")
    edited(tmp_path / "run" / "state.npz", **facts)
    with pytest.raises(jg.FitError, match=r"run is damaged \(.*\): delete it and start again"):
        walk(checkpoint=tmp_path / "run", resume=True)


@pytest.mark.parametrize("facts", [[], 3, None])
def test_facts_of_a_checkpoint_that_are_no_table(tmp_path, facts):
    walk(checkpoint=tmp_path / "run")
    state = tmp_path / "run" / "state.npz"
    write_arrays(state, read_arrays(state, "facts")[0], facts=facts)
    with pytest.raises(jg.FitError, match="run is damaged"):
        walk(checkpoint=tmp_path / "run", resume=True)


@pytest.mark.parametrize("shape", [(3, 3), (3,), (2, 10), (3, 10, 1)], ids=str)
def test_edited_draws_of_a_checkpoint(tmp_path, shape):
    walk(checkpoint=tmp_path / "run")
    edited(tmp_path / "run" / "draws_00000.npz", {"leaf_0000": np.zeros(shape)})
    with pytest.raises(jg.FitError, match="its draws are not those of 32 steps"):
        walk(checkpoint=tmp_path / "run", resume=True)


def test_edited_states_of_a_checkpoint(tmp_path):
    walk(checkpoint=tmp_path / "run")
    edited(tmp_path / "run" / "state.npz", {"leaf_0001": np.array(["a", "b", "c"])})
    with pytest.raises(jg.FitError, match="another version"):
        walk(checkpoint=tmp_path / "run", resume=True)


# NUTS


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nuts_mixes(seed):
    """4 chains of 300 + 300 on three clusters: r-hat <= 1.01 for every parameter, no divergence."""
    draws = nuts(problem(three_clusters(), 3), jax.random.key(seed), Schedule(300, 300), 4)
    assert not draws.stats["diverging"].any()
    for leaf in jax.tree.leaves(draws.gmm):
        values = np.moveaxis(np.asarray(leaf).reshape(4, 300, -1), -1, 0)
        assert max(float(az.rhat(value)) for value in values) <= 1.01


@pytest.mark.parametrize("family", ["tied", "spherical"])  # one covariance for all, and one number each: the ends of the range
def test_nuts_draws_from_the_exact_posterior(blobs, family):
    """One component has a closed-form posterior: means and covariances of it, within Monte-Carlo error.

    All families have NumPyro's density (test_numpyro_model.py); several "full" components, Gibbs' draws (test_posterior.py).
    """
    x = blobs[:60]
    target = problem(x, 1, family, jg.Prior.fraley_raftery(x, 1, family), one_at_each(x[:1], family))
    prior, n, d = target.prior, *x.shape
    kappa, nu, scale, m0 = (np.asarray(v) for v in (prior.mean_precision, prior.degrees_of_freedom, prior.scale, prior.mean))
    away = x.mean(0) - m0
    about = (x - x.mean(0)).T @ (x - x.mean(0)) + kappa * n / (kappa + n) * np.outer(away, away)
    dense = family == "tied"
    expected = (scale + about) / (nu + n - d - 1) if dense else (scale + np.trace(about)) / (nu + n * d - 2)
    draws = nuts(target, KEY, Schedule(300, 500), 4)
    for leaf, mean in (
        (draws.gmm.means[:, :, 0], (kappa * m0 + n * x.mean(0)) / (kappa + n)),
        (draws.gmm.covariances if family == "tied" else draws.gmm.covariances[:, :, 0], expected),
    ):
        values = np.moveaxis(np.asarray(leaf).reshape(4, 500, -1), -1, 0)
        for value, truth in zip(values, np.ravel(mean), strict=True):
            assert float(az.ess(value)) > 400
            assert abs(value.mean() - truth) < 4.5 * float(az.mcse(value))


def test_units_do_not_matter_to_nuts():
    """Millionfold units and an offset of a million: the same posterior, as well sampled."""
    x = three_clusters()
    here = nuts(problem(x, 3), KEY, Schedule(300, 300), 4)
    fit = jg.fit(x, 3, key=KEY)
    factor, offset = 1e6, 1e8
    far = jg.GMM(fit.gmm.weights, factor * fit.gmm.means + offset, factor**2 * fit.gmm.covariances)
    there = nuts(
        problem(factor * x + offset, 3, prior=jg.Prior.default(factor * x + offset, 3), start=far), KEY, Schedule(300, 300), 4
    )
    assert not there.stats["diverging"].any()
    for mine, other in zip(
        np.moveaxis(here.gmm.means, (2, 3), (0, 1)), np.moveaxis(there.gmm.means, (2, 3), (0, 1)), strict=True
    ):
        for a, b in zip(np.asarray(mine), (np.asarray(other) - offset) / factor, strict=True):
            assert float(az.ess(b)) > 300
            assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(float(az.mcse(a)), float(az.mcse(b)))


@pytest.mark.parametrize("family", ["tied", "spherical"])
def test_duplicated_points_and_too_many_components_stay_finite(family):
    """Whatever has one component too many, wherever a chain may go: densities and gradients. Chains: test_posterior.py."""
    points = np.random.default_rng(0).normal(size=(5, 2))
    x, start = np.repeat(points, 8, axis=0), one_at_each(points[[0, 0, 0, 1, 2, 3, 4]], family)
    target = problem(x, 7, family, jg.Prior.default(x, 7, family), start)
    frame = jax.jit(frame_at, static_argnums=4)(target.start, {}, target.prior, target.total_weight, target.layout)

    def density(z):
        vector = frame.origin + spread(frame, z, target.layout)
        return log_posterior(vector, target.layout, target.x, target.weight, target.prior)

    z = np.random.default_rng(1).normal(size=(300, target.layout.size)) * np.repeat([0.3, 3, 10], 100)[:, None]
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(density)))(z)
    assert np.isfinite(values).all()
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize(("option", "value"), [("target_accept", 1.2), ("max_tree_depth", 0)])
def test_bad_options(blobs, option, value):
    target = problem(blobs, 1, prior=jg.Prior.default(blobs, 1), start=one_at_each(blobs[:1], "full"))
    with pytest.raises(ValueError, match=option):
        nuts(target, KEY, Schedule(1, 4), 2, **{option: value})


@pytest.mark.default_precision
def test_rows_that_numpyro_has_run_on_can_be_fitted():
    """JAX 0.12 keeps the float32 copy of such an array object on the device, and mistakes it for the float64 one."""
    x = np.random.default_rng(0).normal(size=(20, 1))
    kernel = numpyro.infer.NUTS(jg.numpyro_model)
    numpyro.infer.MCMC(kernel, num_warmup=2, num_samples=2, progress_bar=False).run(jax.random.key(0), x, 1)
    assert jg.fit(x, n_components=1, key=jax.random.key(0)).converged
