"""How many clusters, by default settings, from several keys: `python tests/benchmarks/counts.py [--seeds 5] [--only faithful]`.

For each data set: each key's verdict, or that it was withheld; the probability of the most probable number with its Monte-Carlo
error; draws of each chain; r-hat; effective draws of the number of clusters in a second (of the whole call, compiled before);
seconds of the first call and of the others. Then whether the keys agree: the spread of the probability between them over the
error that each of them states. Beside it scikit-learn's Dirichlet-process mixture: components with a weight above 0.01.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from sklearn.mixture import BayesianGaussianMixture

import jaxgmm as jg
from jaxgmm.bayes.trees.schema import facts_of

LEAST_WEIGHT = 0.01


class Answer(NamedTuple):
    """Of one call."""

    mode: int
    probability: float
    error: float
    r_hat: float
    ess: float
    n_draws: int
    ok: bool
    stopped: str
    seconds: float


def normals(sizes: list[int], means: np.ndarray, sds: np.ndarray, seed: int) -> np.ndarray:
    """Rows of Gaussians, each of its own size."""
    rng = np.random.default_rng(seed)
    parts = [mean + sd * rng.normal(size=(n, len(mean))) for n, mean, sd in zip(sizes, means, sds, strict=True)]
    return np.concatenate(parts)


def rows_measured(x: np.ndarray) -> np.ndarray:
    """Without those that have gaps."""
    return x[~np.isnan(x).any(axis=1)]


def ten_blobs() -> np.ndarray:
    """500 rows around ten centres."""
    rng = np.random.default_rng(0)
    return normals([50] * 10, rng.uniform(-10, 10, (10, 2)), np.ones(10), 1)


def data_sets() -> dict[str, Callable[[], tuple[np.ndarray, dict]]]:
    """Rows, and settings other than the defaults."""
    richardson_green = {"prior": "richardson-green"}
    return {
        "faithful": lambda: (jg.datasets.load_faithful().x, {}),
        "iris": lambda: (jg.datasets.load_iris().x, {}),
        "penguins": lambda: (rows_measured(jg.datasets.load_penguins().x), {}),
        "diabetes": lambda: (jg.datasets.load_diabetes().x, {}),
        "galaxies": lambda: (jg.datasets.load_galaxies().x, {}),
        "galaxies (Richardson-Green)": lambda: (jg.datasets.load_galaxies(richardson_green=True).x, richardson_green),
        "acidity-like": lambda: (normals([93, 62], np.array([[4.3], [6.3]]), np.array([0.37, 0.52]), 2), {}),
        "enzyme-like": lambda: (normals([152, 93], np.array([[0.19], [1.25]]), np.array([0.08, 0.53]), 3), {}),
        "ten blobs": lambda: (ten_blobs(), {}),
        "215 x 5": lambda: (
            normals([150, 35, 30], np.array([[0] * 5, [3] * 5, [-4, 0, 4, 0, 0]]), np.array([0.8, 2.0, 1.5]), 4),
            {},
        ),
        "2000 x 8": lambda: (normals([500] * 4, np.eye(4, 8) * 6, np.ones(4), 5), {}),
    }


def counted(x: np.ndarray, seed: int, settings: dict) -> Answer:
    """One call and what it says."""
    start = time.perf_counter()
    tree = jg.count_clusters(x, key=jax.random.key(seed), progress=False, **settings)
    seconds = time.perf_counter() - start
    found = jg.cluster_count(tree)
    print(f"{seconds:.1f} s, {found.verdict if found.ok else found.problems}", file=sys.stderr)
    row = found.table.loc[found.mode]
    return Answer(
        found.mode,
        float(row["posterior"]),
        float(np.nan_to_num(row["mcse"])),
        found.r_hat,
        min(found.ess_bulk, found.ess_tail),
        tree["allocations"].sizes["draw"],
        found.ok,
        str(facts_of(tree)["stopped"]),
        seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=None, help="names of data sets, or beginnings of them")
    asked = parser.parse_args()
    print(f"{'':<30}{'N x D':>9}  verdicts{'draws':>14}{'ESS/s':>16}{'first, s':>10}", end="")
    print(f"{'others, s':>14}{'spread':>8}{'sklearn':>9}")
    for name, make in data_sets().items():
        if asked.only and not any(name.startswith(only) for only in asked.only):
            continue
        x, settings = make()
        jax.clear_caches()
        answers = [counted(x, seed, settings) for seed in range(asked.seeds)]
        later = answers[1:] or answers
        rates = [answer.ess / answer.seconds for answer in later]
        mode = max({a.mode for a in answers}, key=[a.mode for a in answers].count)
        same = np.array([(a.probability, a.error) for a in answers if a.mode == mode])
        spread = same[:, 0].std(ddof=1) / np.sqrt((same[:, 1] ** 2).mean()) if len(same) > 1 and same[:, 1].any() else np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = BayesianGaussianMixture(n_components=15, n_init=3, max_iter=500, random_state=0).fit(x)
        draws, seconds = [a.n_draws for a in answers], [a.seconds for a in later]
        said = ", ".join(f"{a.mode}: {a.probability:.2f}±{a.error:.2f}" if a.ok else f"({a.stopped})" for a in answers)
        print(
            f"{name:<30}{len(x):>5} x {x.shape[1]}{sum(a.ok for a in answers):>6} of {len(answers)}"
            f"{min(draws):>8}-{max(draws):<5}{min(rates):>9.1f}-{max(rates):<6.1f}{answers[0].seconds:>10.1f}"
            f"{min(seconds):>8.1f}-{max(seconds):<5.1f}{spread:>7.2f}{sum(theirs.weights_ > LEAST_WEIGHT):>9}\n    {said}",
            flush=True,
        )


if __name__ == "__main__":
    main()
