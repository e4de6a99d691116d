"""Effective draws per second: our NUTS and Gibbs sampler against a NumPyro model as one would write it by hand.

    .venv/bin/python tests/benchmarks/posterior.py [--draws 1000] [--warmup 500] [--seeds 3]

300 rows of three overlapping clusters in two dimensions, full covariances, 4 vectorised chains, all from the same fit and
under the same prior, float64. ESS is ArviZ's bulk ESS, the least over the quantities named; "warm" is the time of a second
run, without compilation.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import init_to_value
from numpyro.infer.hmc import HMCState, hmc
from numpyro.infer.util import initialize_model

import jaxgmm as jg
from jaxgmm.bayes.samplers.chains import Schedule, run_chains

K, CHAINS = 3, 4
OUR_SETTINGS = {"target_accept_prob": 0.95, "dense_mass": [("covariances", "means", "weights")]}  # those of `posterior`


def rows() -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.concatenate([rng.normal(size=(100, 2)) + centre for centre in ([0, 0], [4, 1], [1, 5])])


def by_hand(x: np.ndarray, prior: jg.Prior) -> None:
    """What a NumPyro user writes: the same priors, `MixtureSameFamily` of `MultivariateNormal`."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("components", K):
        covariances = numpyro.sample("covariances", dist.InverseWishart(prior.degrees_of_freedom, scale_matrix=prior.scale))
        means = numpyro.sample("means", dist.MultivariateNormal(prior.mean, covariances / prior.mean_precision))
    components = dist.MultivariateNormal(means, covariances)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=x)


class ByHand(NamedTuple):
    """NumPyro's NUTS on `by_hand`, for the same loop as ours: `MCMC.run` would compile anew in every run."""

    sample: Callable

    heavy = False

    def step(self, state: HMCState, data: None) -> HMCState:
        return self.sample(state)

    def keep(self, state: HMCState, data: None) -> dict[str, jax.Array]:
        return state.z


def run_by_hand(
    x: np.ndarray, fit: jg.Fit, n_warmup: int, n_draws: int, **settings: object
) -> Callable[[int], dict[str, np.ndarray]]:
    start = {"weights": fit.gmm.weights, "means": fit.gmm.means, "covariances": fit.gmm.covariances}
    strategy = init_to_value(values=start)
    info = initialize_model(jax.random.key(0), by_hand, init_strategy=strategy, model_args=(jnp.asarray(x), fit.prior))
    init, sample = hmc(info.potential_fn, algo="NUTS")
    begin = jax.jit(jax.vmap(lambda key: init(info.param_info, num_warmup=n_warmup, rng_key=key, **settings)))
    kernel, constrain = ByHand(sample), jax.jit(jax.vmap(jax.vmap(info.postprocess_fn)))

    def run(seed: int) -> dict[str, np.ndarray]:
        states = begin(jax.random.split(jax.random.key(seed), CHAINS))
        kept = run_chains(kernel, states, None, Schedule(n_warmup, n_draws))
        return {name: np.asarray(draws) for name, draws in constrain(kept).items()}

    return run


def run_ours(
    method: str, x: np.ndarray, fit: jg.Fit, n_warmup: int, n_draws: int, **options: float
) -> Callable[[int], dict[str, np.ndarray]]:
    def run(seed: int) -> dict[str, np.ndarray]:
        settings = {"n_draws": n_draws, "n_warmup": n_warmup, "n_chains": CHAINS, **options}
        tree = jg.posterior(x, fit, method=method, key=jax.random.key(seed), **settings)
        return {name: tree["posterior"][name].values for name in ("weights", "means", "covariances")}

    return run


def ess(draws: dict[str, np.ndarray], x: np.ndarray) -> tuple[float, float]:
    """Of the total log-likelihood and sorted weights (label-invariant), and the least of all means."""
    gmms = jg.GMM.unchecked(**draws, family="full")
    totals = jax.jit(jax.vmap(jax.vmap(lambda g: g.log_prob(x).sum())))(gmms)
    invariant = [totals, *np.moveaxis(np.sort(draws["weights"], axis=-1), -1, 0)]
    least = [float(az.ess(np.asarray(values))) for values in invariant]
    means = np.moveaxis(draws["means"].reshape(*draws["means"].shape[:2], -1), -1, 0)
    return min(least), min(float(az.ess(values)) for values in means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with jax.enable_x64(True):
        x = rows()
        fit = jg.fit(x, K, key=jax.random.key(0))
        lengths = options.warmup, options.draws
        samplers = {
            "by hand, as NumPyro has it": run_by_hand(x, fit, *lengths),
            "by hand, our settings": run_by_hand(x, fit, *lengths, **OUR_SETTINGS),
            "jaxgmm nuts": run_ours("nuts", x, fit, *lengths),
            "jaxgmm nuts, target 0.8": run_ours("nuts", x, fit, *lengths, target_accept=0.8),
            "jaxgmm gibbs": run_ours("gibbs", x, fit, *lengths),
        }
        print(f"{CHAINS} chains, {lengths[0]} + {lengths[1]} steps; medians of {options.seeds} warm runs")
        print(f"{'':26}  cold s  warm s  ESS invariant  per s  ESS means  per s")
        for name, run in samplers.items():
            took, sizes = [], []
            for seed in range(options.seeds + 1):
                begin = time.perf_counter()
                draws = run(seed)
                took.append(time.perf_counter() - begin)
                sizes.append(ess(draws, x))
            warm = float(np.median(took[1:]))
            invariant, means = np.median(sizes[1:], axis=0)
            print(
                f"{name:26}  {took[0]:6.1f}  {warm:6.2f}  {invariant:13.0f}  {invariant / warm:5.0f}  "
                f"{means:9.0f}  {means / warm:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
