"""What priors do to narrow components and beside outliers: `python tests/benchmarks/narrow_components.py [labels]`.

Forty simulated sets of three well-separated round components, whose sds differ by a factor of 1 to 1000, in 1 to 10 features
and 50 to 5000 rows, with no outliers or 2 % of them, for which one component more is fitted. For each way to fit: how many sets
it leaves right, and the errors against the components' own rows, whose labels are known: of means in sds, of sds as a factor,
of labels as a share of the rows. Fits start from 20 k-means++ seeds, or with `labels` from the rows' true labels, which shows
the prior alone: outliers as far as these win the seeds of any method.
"""

import itertools
import sys
import warnings

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

import jaxgmm as jg

WEIGHTS = np.array([0.5, 0.3, 0.2])


def simulate(rng, n_features, n_rows, ratio, outliers):
    """Rows, labels (-1 for outliers), means and sds of the components."""
    sds = np.geomspace(1, 1 / ratio, 3)[rng.permutation(3)]
    direction = rng.normal(size=(3, n_features))
    means = 12 * np.arange(3)[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    labels = np.repeat(np.arange(3), rng.multinomial(n_rows - 45, WEIGHTS) + 15)
    x = means[labels] + sds[labels, None] * rng.normal(size=(labels.size, n_features))
    n_out = round(outliers * n_rows)
    x = np.concatenate([x, rng.uniform(-500, 500, size=(n_out, n_features))])
    return x, np.concatenate([labels, np.full(n_out, -1)])


def errors(gmm, x, labels):
    """Worst error of a mean in sds, worst factor of an sd, share of wrong labels, of the components matched to the labels."""
    found = np.asarray(gmm.predict(x))
    table = np.array([[((found == j) & (labels == k)).sum() for j in range(gmm.n_components)] for k in range(3)])
    _, match = linear_sum_assignment(-table)
    own = [x[labels == k] for k in range(3)]
    sds = np.array([np.sqrt(rows.var(0).mean()) for rows in own])
    dense = np.asarray(gmm.dense_covariances())
    fitted = np.array([np.sqrt(np.diagonal(dense[j]).mean()) for j in match])
    distance = [np.abs(np.asarray(gmm.means)[j] - rows.mean(0)).max() / sd for j, rows, sd in zip(match, own, sds, strict=True)]
    right = table[np.arange(3), match].sum()
    return max(distance), np.exp(np.abs(np.log(fitted / sds)).max()), 1 - right / (labels >= 0).sum()


PRIORS = ("default", "fraley-raftery", None)


def main(from_labels):
    rng = np.random.default_rng(0)
    settings = list(itertools.product((1, 2, 5, 10), (50, 200, 1000, 5000), (1, 10, 100, 1000), (0, 0.02)))
    chosen = [settings[i] for i in rng.permutation(len(settings))[:40]]
    found = {str(prior): [] for prior in PRIORS}
    for n_features, n_rows, ratio, outliers in chosen:
        x, labels = simulate(rng, n_features, n_rows, ratio, outliers)
        k = 4 if outliers else 3
        start = {"init": np.where(labels < 0, 3, labels)} if from_labels else {"n_components": k, "n_init": 20}
        for prior in PRIORS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    fit = jg.fit(x, key=jax.random.key(1), prior=prior, **start)
                    found[str(prior)].append((*errors(fit.gmm, x, labels), fit.status.name))
                except jg.FitError:
                    found[str(prior)].append((np.inf, np.inf, 1.0, "FitError"))
        line = "  ".join(
            f"{name}: {e[0]:.2g} {e[1]:.3g} {e[2]:.2g} {e[3]}" for name, e in ((n, v[-1]) for n, v in found.items())
        )
        print(f"D {n_features:2} N {n_rows:4} ratio {ratio:4} outliers {outliers:4}  {line}", flush=True)
    print("\nsds within 10 %, labels 99 % right, median and worst factor of an sd, worst mean, not converged")
    for name, rows in found.items():
        mean, sd, wrong = (np.array([row[i] for row in rows], float) for i in range(3))
        ended = sum(row[3] != "converged" for row in rows)
        print(
            f"{name:20} {(sd < 1.1).sum()} {(wrong < 0.01).sum()} {np.median(sd):.3f} {sd.max():.3g} {mean.max():.3g} {ended}"
        )


if __name__ == "__main__":
    main("labels" in sys.argv[1:])
