"""Random calls with odd but possible input: `python tests/benchmarks/fuzz.py [calls] [first seed]`.

Rows of every dtype, memory layout, offset and magnitude, with constant, repeated and collinear columns, gaps and errors of
measurement; frames; weights; all families, priors and ways to start. A call may raise a TypeError or ValueError of our own, or
FitError. What it must not do: raise any other, or say `converged` where a public number isn't finite.
"""

import collections
import sys
import traceback
import warnings

import jax
import numpy as np
import pandas as pd

import jaxgmm as jg
from jaxgmm.covariance import FAMILIES
from jaxgmm.tools.errors import UserError, UserTypeError

EXPECTED = (UserError, UserTypeError, jg.FitError)
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int8, np.uint16, bool, ">f8", np.longdouble]


def rows(rng):
    """Rows as a user may have them, and how many columns they have."""
    n, d = int(rng.choice([1, 2, 3, 7, 40, 200])), int(rng.integers(1, 4))
    x = rng.normal(size=(n, d)) + 5 * rng.integers(0, 2, size=(n, 1))
    spoil = rng.random(6) < [0.1, 0.1, 0.1, 0.1, 0.05, 0.05]
    if spoil[0]:
        x[:, -1] = 3.0
    if spoil[1]:
        x = x[rng.integers(0, max(1, n // 5), n)]
    if spoil[2] and d > 1:
        x[:, 1] = 2 * x[:, 0] + 1e-9 * x[:, 1]
    if spoil[3]:
        x[rng.integers(n)] *= 10.0 ** rng.integers(2, 9)
    if spoil[4]:
        x[rng.integers(n), rng.integers(d)] = rng.choice([np.nan, np.inf])
    if rng.random() < 0.1:
        x = np.where(rng.random(x.shape) < rng.choice([0.02, 0.3]), np.nan, x)
    if rng.random() < 0.4:
        x = x * 10.0 ** rng.integers(-30, 30) + (10.0 ** rng.integers(0, 12) if rng.random() < 0.5 else 0)
    dtype = np.dtype(DTYPES[rng.choice(len(DTYPES), p=[0.5, 0.2, *[0.3 / 7] * 7])])
    with np.errstate(all="ignore"):
        x = x.astype(dtype)
    layout = rng.integers(6)
    if layout == 0:
        x = np.asfortranarray(x)
    elif layout == 1:
        x = np.repeat(x, 2, axis=0)[::2]
    elif layout == 2:
        x = x[::-1, ::-1]
    elif layout == 3 and x.dtype.kind != "b" and x.dtype.isnative and x.dtype.itemsize <= 8:
        x = pd.DataFrame(x, columns=list("abc")[:d], index=rng.permutation(n))
    elif layout == 4 and x.dtype in (np.float32, np.float64):
        x = jax.numpy.asarray(x)
    elif layout == 5 and rng.random() < 0.3:
        x = x.tolist()
    return x, n, d


def weights(rng, n):
    """Weights of rows, or None."""
    kind = rng.integers(8)
    if kind < 4:
        return None
    w = [rng.integers(0, 3, n), rng.random(n), rng.random(n) * 10.0 ** rng.integers(-20, 20), rng.dirichlet(np.ones(n))][
        kind - 4
    ]
    return w.tolist() if rng.random() < 0.2 else w


def call(seed):
    """One call: its name, what came of it ("result", "refused"), and what is wrong (None)."""
    rng = np.random.default_rng(seed)
    x, n, _ = rows(rng)
    k, family, key = int(rng.integers(1, 5)), str(rng.choice(list(FAMILIES))), jax.random.key(seed)
    prior = [None, "default", "default", "fraley-raftery"][rng.integers(4)]
    what = str(rng.choice(["fit", "fit", "fit", "gmm", "vb", "initialise", "prior", "steps"]))
    options = {"key": key, "family": family, "sample_weight": weights(rng, n)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, converged = ANSWERS[what](x, k, prior, options, rng)
    except EXPECTED:
        return what, "refused", None
    except Exception:
        return what, "result", traceback.format_exc()
    numbers = [np.asarray(leaf) for leaf in jax.tree.leaves(found)]
    if converged and not all(np.isfinite(leaf).all() for leaf in numbers):
        return what, "result", f"converged, but {found}"
    return what, "result", None


def _fit(x, k, prior, options, rng):
    init = str(rng.choice(["k-means++", "random"]))
    if rng.random() < 0.1:
        shape = np.shape(x)
        options["error_covariances"] = rng.gamma(1, size=shape) * float(np.nanvar(np.asarray(x, float))) * rng.choice([1e-6, 1])
    fit = jg.fit(x, k, prior=prior, init=init, n_init=int(rng.integers(1, 3)), max_steps=int(rng.choice([3, 100])), **options)
    return (fit.gmm, fit.objective, fit.log_likelihood, fit.trace, fit.expected_rows, fit.bic), fit.converged


def _gmm(x, k, prior, options, rng):
    fit = jg.fit(x, k, prior="default", n_init=1, max_steps=100, **options)
    g, w = fit.gmm, options["sample_weight"]
    answers = g.log_prob(x), g.responsibilities(x), g.predict(x), g.bic(x, w), g.icl(x, w), g.mean(), g.covariance()
    return (*answers, g.sample(options["key"], 3)[0]), fit.converged


def _vb(x, k, prior, options, rng):
    fit = jg.fit_vb(x, k, prior=prior or "default", n_init=1, max_steps=100, **options)
    return (fit.mean, fit.scale, fit.elbo, fit.concentration, fit.log_prob(x)), fit.converged


def _initialise(x, k, prior, options, rng):
    return jg.initialise(x, k, **options), True


def _prior(x, k, prior, options, rng):
    return jg.Prior.named(prior or "default", x, k, **{name: options[name] for name in ("family", "sample_weight")}), True


def _steps(x, k, prior, options, rng):
    weight, own = options["sample_weight"], jg.Prior.default(x, k, options["family"], sample_weight=options["sample_weight"])
    gmm = jg.initialise(x, k, prior=own, **options)
    statistics = jg.e_step(gmm, x, weight)
    return (statistics, jg.m_step(statistics, gmm, own)), True


ANSWERS = {"fit": _fit, "gmm": _gmm, "vb": _vb, "initialise": _initialise, "prior": _prior, "steps": _steps}


def main(n_calls=2000, first=0):
    """All calls, with what is wrong and how many gave a result."""
    ends, wrong = collections.Counter(), 0
    for seed in range(first, first + n_calls):
        if seed % 200 == 199:
            jax.clear_caches()  # compiled programs hold memory maps, of which Linux allows a process 65530
        what, end, error = call(seed)
        ends[end] += 1
        if error is not None:
            wrong += 1
            print(f"seed {seed}, {what}: {error}", flush=True)
    print(f"{n_calls} calls: {dict(ends)}, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
