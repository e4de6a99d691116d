"""Many small fits: `python tests/benchmarks/groups.py [groups] [scikit-learn's groups]`.

Groups of 200 rows of one feature from one to three Gaussians, fitted with 1, 2 and 3 components of which BIC chooses, by
`fit_groups` and by a loop over scikit-learn's `GaussianMixture`: one start each, the tolerance of 1e-3 nats a row that is
scikit-learn's default. scikit-learn fits some of the groups, and its time is multiplied by how many there are.
"""

import sys
import time
import warnings

import jax
import numpy as np
from sklearn.mixture import GaussianMixture

import jaxgmm as jg


def groups_of(n_groups):
    rng = np.random.default_rng(0)
    k = rng.integers(1, 4, n_groups)
    x = rng.normal(size=(n_groups, 200, 1))
    return x + 6 * (rng.random((n_groups, 200, 1)) * k[:, None, None]).astype(int), k


def main(n_groups, n_by_loop):
    warnings.simplefilter("ignore")
    x, k = groups_of(n_groups)
    found = {}
    for name, options in (
        ("fit_groups, 1e-3, cold", {"n_init": 1, "rtol": 1e-3}),
        ("fit_groups, 1e-3", {"n_init": 1, "rtol": 1e-3}),
        ("fit_groups, 1e-3, maximum likelihood", {"n_init": 1, "rtol": 1e-3, "prior": None, "family": "spherical"}),
        ("fit_groups, defaults", {}),
    ):
        start = time.perf_counter()
        fits = jg.fit_groups(x, n_components=[1, 2, 3], key=jax.random.key(0), progress=False, **options)
        found[name] = time.perf_counter() - start, (fits.table["n_components"] == k).mean()
    start = time.perf_counter()
    right = 0
    for g in range(n_by_loop):
        bic = [GaussianMixture(c, random_state=0).fit(x[g]).bic(x[g]) for c in (1, 2, 3)]
        right += int(np.argmin(bic)) + 1 == k[g]
    found["scikit-learn"] = (time.perf_counter() - start) * n_groups / n_by_loop, right / n_by_loop
    print(f"| {n_groups} groups | seconds | x scikit-learn | right number |\n|---|---|---|---|")
    for name, (seconds, share) in found.items():
        print(f"| {name} | {seconds:.1f} | {found['scikit-learn'][0] / seconds:.1f} | {share:.3f} |")


if __name__ == "__main__":
    main(*(int(word) for word in (sys.argv[1:] + ["20000", "200"][len(sys.argv) - 1 :])))
