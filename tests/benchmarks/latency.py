"""How long a user waits for a first answer: `python tests/benchmarks/latency.py [rounds] [name ...]`.

Each scenario runs in a process of its own: cold; again with the programs that a run before has kept
(`enable_compilation_cache`); and, in the same process, a second call. Seconds of the call alone (of the import, for "import"),
best of several rounds; scikit-learn and a mixture written by hand in NumPyro beside them.
"""

import json
import os
import subprocess
import sys
import tempfile

ROUNDS = 3
SET_UP = """
import time, json, warnings
warnings.simplefilter("ignore")
"""
OURS = """
import jax, jaxgmm as jg, numpy as np
x, key = jg.datasets.load_faithful().x, jax.random.key(0)
"""
BY_HAND = """
import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS
import jaxgmm as jg
jax.config.update("jax_enable_x64", True)
x = np.asarray(jg.datasets.load_faithful().x)
x = (x - x.mean(0)) / x.std(0)

def model(x):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("k", 3):
        means = numpyro.sample("means", dist.MultivariateNormal(jnp.zeros(2), 10 * jnp.eye(2)))
        sds = numpyro.sample("sds", dist.HalfNormal(jnp.ones(2)).to_event(1))
        corr = numpyro.sample("corr", dist.LKJCholesky(2, 1.0))
    each = dist.MultivariateNormal(means, scale_tril=sds[..., None] * corr)
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), each), obs=x)
"""
# name: what is made ready, and what is timed
SCENARIOS = {
    "import": ("", "import jaxgmm as jg; jg.fit"),
    "fit": (OURS, "jg.fit(x, 3, key=key)"),
    "ten fits of other N": (OURS + "jg.fit(x, 3, key=key)", "[jg.fit(x[: 260 - i], 3, key=key) for i in range(10)]"),
    "compare, 4 x 9 x 10": (OURS, "jg.compare(x, key=key)"),
    "gibbs": (OURS + "fit = jg.fit(x, 3, key=key)", "jg.posterior(x, fit, method='gibbs', key=key)"),
    "nuts": (OURS + "fit = jg.fit(x, 3, key=key)", "jg.posterior(x, fit, method='nuts', key=key, n_draws=500)"),
    "count_clusters, 100 draws": (OURS, "jg.count_clusters(x, key=key, n_draws=100, n_warmup=100)"),
    "fit_groups, 100 x 200": (
        OURS + "many = np.random.default_rng(0).normal(size=(100, 200, 1))",
        "jg.fit_groups(many, n_components=[1, 2], key=key)",
    ),
    "facade": (OURS + "from jaxgmm.sklearn import GaussianMixture", "GaussianMixture(3, n_init=10, random_state=0).fit(x)"),
    "command line": (
        "import subprocess, sys, tempfile, pathlib",
        "subprocess.run([sys.executable, '-m', 'jaxgmm', 'run', 'configs/faithful.toml', '--quiet', '--output',"
        " tempfile.mkdtemp() + '/run'], check=True)",
    ),
    "scikit-learn: import": ("", "from sklearn.mixture import GaussianMixture"),
    "scikit-learn: fit": (
        "import jaxgmm as jg; from sklearn.mixture import GaussianMixture; x = jg.datasets.load_faithful().x",
        "GaussianMixture(3, n_init=10, random_state=0).fit(x)",
    ),
    "NumPyro by hand: nuts": (
        BY_HAND,
        "MCMC(NUTS(model), num_warmup=500, num_samples=500, num_chains=4, chain_method='vectorized',"
        " progress_bar=False).run(jax.random.key(0), x)",
    ),
}


def seconds(ready, timed, cache):
    """Of the first call, and of a second one, in a process of its own."""
    keep = f"import jaxgmm; jaxgmm.enable_compilation_cache({cache!r})" if cache else ""
    code = f"{SET_UP}\n{keep}\n{ready}\nfound = []\nfor _ in range(2):\n    start = time.perf_counter()\n    {timed}\n"
    code += "    found.append(time.perf_counter() - start)\nprint(json.dumps(found))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    if run.returncode:
        raise RuntimeError(run.stderr[-2000:])
    return next(json.loads(line) for line in run.stdout.splitlines() if line.startswith("["))  # others may speak at the exit


def main(rounds, chosen):
    print(f"| seconds, best of {rounds} | cold | with kept programs | second call |\n|---|---|---|---|")
    for name, (ready, timed) in SCENARIOS.items():
        if chosen and not any(name.startswith(one) for one in chosen):
            continue
        ours = "scikit" not in name and "by hand" not in name
        with tempfile.TemporaryDirectory() as folder:
            cold = [seconds(ready, timed, None) for _ in range(rounds)]
            kept = []
            if ours and name not in ("import", "command line"):  # the command line keeps programs by itself
                seconds(ready, timed, folder)
                kept = [seconds(ready, timed, folder) for _ in range(rounds)]
        best = [min(first for first, _ in cold), min((first for first, _ in kept), default=float("nan"))]
        again = min(second for _, second in cold)
        print(
            "| " + " | ".join([name, *(f"{value:.2f}" if value == value else "" for value in (*best, again))]) + " |",
            flush=True,
        )


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main(numbers[0] if numbers else ROUNDS, [word for word in sys.argv[1:] if not word.isdigit()])
