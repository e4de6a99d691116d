"""Whole fits of jaxgmm.sklearn and of scikit-learn, with their defaults, the k-means start included: seconds, and ratios.

    python tests/benchmarks/sklearn_facade.py --shapes 300,2,3 100000,16,16 --repeats 5

"First" is the first fit in a process of its own, after the imports: compilation is in it. "Later" is the best of several,
the libraries in turn. Clusters overlap (separation 0.5) or don't (2): the fewer iterations there are, the more of the time is
the k-means start, which is scikit-learn's own in both.
"""

import argparse
import os
import subprocess
import sys
import time
import warnings

import numpy as np

SHAPES = ["300,2,3", "10000,8,8", "100000,16,16"]
LIBRARIES = {"jaxgmm": "jaxgmm.sklearn", "sklearn": "sklearn.mixture"}


def problem(shape: str, separation: float) -> tuple[np.ndarray, int]:
    n, d, k = (int(number) for number in shape.split(","))
    rng = np.random.default_rng(0)
    means, labels = separation * rng.normal(size=(k, d)), rng.integers(k, size=n)
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    return means[labels] + np.einsum("nij,nj->ni", factors[labels], rng.normal(size=(n, d))), k


def seconds(library: str, estimator: str, shape: str, separation: float, repeats: int) -> tuple[list[float], int]:
    """Of each fit, in this process; and the number of iterations."""
    import importlib

    warnings.filterwarnings("ignore")
    x, k = problem(shape, separation)
    times = []
    for _ in range(repeats):
        mixture = getattr(importlib.import_module(LIBRARIES[library]), estimator)(n_components=k, random_state=0)
        start = time.perf_counter()
        mixture.fit(x)
        times.append(time.perf_counter() - start)
    return times, mixture.n_iter_


def in_new_process(library: str, *arguments: object) -> tuple[list[float], int]:
    call = ", ".join(repr(argument) for argument in (library, *arguments))
    code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import sklearn_facade as f; print(f.seconds({call}))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return eval(done.stdout)  # printed by `seconds`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="N,D,K")
    parser.add_argument("--separations", nargs="+", type=float, default=[0.5, 2.0])
    parser.add_argument("--estimators", nargs="+", default=["GaussianMixture"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print("estimator         shape       separation  iterations   jaxgmm first  later   sklearn first  later   ratios  load")
    for estimator in options.estimators:
        for shape in options.shapes:
            for separation in options.separations:
                runs: dict[str, list[list[float]]] = {library: [] for library in LIBRARIES}
                for _ in range(options.processes):
                    for library in LIBRARIES:
                        times, n_iter = in_new_process(library, estimator, shape, separation, options.repeats)
                        runs[library].append(times)
                first = {library: min(times[0] for times in taken) for library, taken in runs.items()}
                later = {library: min(min(times[1:]) for times in taken) for library, taken in runs.items()}
                print(
                    f"{estimator:17} {shape:13} {separation:8} {n_iter:11} {first['jaxgmm']:14.3f} {later['jaxgmm']:6.3f}"
                    f" {first['sklearn']:15.3f} {later['sklearn']:6.3f}"
                    f"   {first['sklearn'] / first['jaxgmm']:.1f} {later['sklearn'] / later['jaxgmm']:.1f}"
                    f"   {os.getloadavg()[0]:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
