"""Draws from a model of one's own are relabelled and judged as ours are."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import jaxgmm as jg

KEY = jax.random.key(0)
X = np.concatenate([np.random.default_rng(0).normal(size=(60, 2)), 7 + np.random.default_rng(1).normal(size=(40, 2))])


def by_hand(x):
    """With names and parameters of its own: standard deviations, no correlations."""
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(3, 5).expand([2, 2]).to_event(2))
    sd = numpyro.sample("sd", dist.HalfNormal(3).expand([2, 2]).to_event(2))
    numpyro.deterministic("Sigma", sd**2)
    numpyro.sample("noise", dist.Normal(0, 1))
    each = dist.Independent(dist.Normal(mu, sd), 1)
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(pi), each), obs=x)


@pytest.fixture(scope="module")
def mcmc():
    with jax.enable_x64(True):
        kernel = numpyro.infer.NUTS(by_hand)
        run = numpyro.infer.MCMC(
            kernel, num_warmup=300, num_samples=300, num_chains=3, chain_method="vectorized", progress_bar=False
        )
        run.run(KEY, X, extra_fields=("diverging",))
    return run


NAMES = {"weights": "pi", "means": "mu", "covariances": "Sigma"}


def test_a_numpyro_run_is_adopted(mcmc):
    frame = pd.DataFrame(X, columns=["u", "v"], index=np.arange(100) * 2)
    tree = jg.adopt(mcmc, frame, family="diag", names=NAMES)
    np.testing.assert_array_equal(tree["posterior"]["means"], mcmc.get_samples(group_by_chain=True)["mu"])
    assert {"noise", "entropy", "sorted_weights"} <= set(tree["posterior"].data_vars)
    assert "sd" not in tree["posterior"]
    assert not tree["sample_stats"]["diverging"].any()
    pivot = jg.fit(frame, 2, family="diag", key=KEY)
    relabelled = jg.relabel(tree, pivot)
    assert relabelled.attrs["non_permutation_rate"] == 0
    assert jg.diagnose(relabelled, r_hat=1.05, ess=100).ok
    table = jg.intervals(relabelled)
    lower, upper = (table["means"].sel(statistic=end).values for end in ("lower", "upper"))
    assert ((lower < pivot.means) & (pivot.means < upper)).all()
    assert list(table["feature"].values) == ["u", "v"]
    membership = jg.membership(relabelled)["membership"]
    assert membership["obs_id"].values.tolist() == list(range(0, 200, 2))
    same = jg.adopt(mcmc.get_samples(group_by_chain=True), X, family="diag", names=NAMES)
    ours = jg.adopt(tree, X, family="diag")
    for other in (same, ours):
        np.testing.assert_array_equal(other["posterior"]["weights"], tree["posterior"]["weights"])


def test_bad_samples(mcmc):
    samples = mcmc.get_samples(group_by_chain=True)
    with pytest.raises(TypeError, match="samples must be a dict of arrays"):
        jg.adopt(3, X)
    with pytest.raises(ValueError, match=r"samples has no 'weights', which would be the mixture's weights: it has .*pi"):
        jg.adopt(samples, X)
    with pytest.raises(ValueError, match="unknown parameter in names 'weight'"):
        jg.adopt(samples, X, names={"weight": "pi"})
    with pytest.raises(ValueError, match="covariances"):
        jg.adopt(samples, X, names=NAMES, family="full")
    with pytest.raises(ValueError, match=r"must be arrays of \(chain, draw, ...\), of the same chains and draws"):
        jg.adopt(samples | {"pi": samples["pi"][0]}, X, names=NAMES, family="diag")
    with pytest.raises(ValueError, match="mixtures of 2 features, but x has 1"):
        jg.adopt(samples, X[:, :1], names=NAMES, family="diag")
    with pytest.raises(ValueError, match="samples has 3 chains of 0 draws"):
        jg.adopt({name: value[:, :0] for name, value in samples.items()}, X, names=NAMES, family="diag")
    with pytest.raises(ValueError, match="samples has a variable 'entropy', a name that a tree uses itself"):
        jg.adopt(samples | {"entropy": samples["noise"]}, X, names=NAMES, family="diag")
    with pytest.raises(TypeError, match="must be the name of a variable"):
        jg.adopt(samples, X, names={"weights": ["pi"]})
    with pytest.raises(ValueError, match="weights"):
        jg.adopt(samples | {"pi": 2 * samples["pi"]}, X, names=NAMES, family="diag")
