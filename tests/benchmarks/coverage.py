"""How often intervals hold the truth: `python tests/benchmarks/coverage.py [sets] [methods ...]`.

Simulated sets of two overlapping components in the plane, 60 rows and 90, each fitted from the truth; of each parameter's 90 %
interval, the share of sets in which it holds the true value.
"""

import sys
import time
import warnings

import jax
import numpy as np

import jaxgmm as jg

TRUTH = jg.GMM([0.4, 0.6], [[0.0, 0.0], [3.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]], [[0.6, -0.2], [-0.2, 1.5]]])
N = 150


def main(n_sets=200, *methods):
    """The table, a row a method: coverage of weights, means and standard deviations, and seconds a set."""
    truth = {
        "weights": np.asarray(TRUTH.weights),
        "means": np.asarray(TRUTH.means),
        "standard_deviations": np.sqrt(np.diagonal(np.asarray(TRUTH.covariances), axis1=1, axis2=2)),
    }
    print(f"{'method':20}", *(f"{name:>20}" for name in truth), "   s a set")
    for method in methods or ("sandwich", "bootstrap", "weighted-likelihood", "laplace", "gibbs"):
        inside, seconds = {name: [] for name in truth}, []
        for seed in range(n_sets):
            x = np.asarray(TRUTH.sample(jax.random.key(seed), N)[0])
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", jg.FitWarning)
                fit = jg.fit(x, init=TRUTH, key=jax.random.key(0))
                tree = jg.posterior(x, fit, method=method, key=jax.random.key(seed), n_draws=250, progress=False)
            table = jg.intervals(jg.relabel(tree, TRUTH))
            seconds.append(time.perf_counter() - start)
            for name, true in truth.items():
                lower, upper = (table[name].sel(statistic=end).values for end in ("lower", "upper"))
                inside[name].append((lower <= true) & (true <= upper))
        print(
            f"{method:20}", *(f"{np.mean(each):20.3f}" for each in inside.values()), f"{np.median(seconds):10.2f}", flush=True
        )


if __name__ == "__main__":
    main(*([int(sys.argv[1])] if len(sys.argv) > 1 else []), *sys.argv[2:])
