"""EM of rows some of whose values are limits: non-detections, and times that ran out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from scipy import optimize, stats

import jaxgmm as jg
from jaxgmm.data import as_source, fingerprint

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TRUTH = jg.GMM([0.4, 0.6], [[0.0, 0.0], [3.0, 2.0]], [[[1.0, 0.5], [0.5, 0.6]], [[0.5, -0.2], [-0.2, 1.0]]])
WHOLE, OF = (np.asarray(part) for part in TRUTH.sample(KEY, 200))
LIMITS = np.column_stack([RNG.normal(0, 1, 200), RNG.normal(2.5, 1, 200)])
SIDES = np.where(RNG.random(200)[:, None] < 0.5, (WHOLE < LIMITS) * [-1, 0], (WHOLE > LIMITS) * [0, 1])  # one in a row at most
X = np.where(SIDES == 0, WHOLE, LIMITS)
GAPPY = np.where((np.arange(400).reshape(200, 2) % 11 == 0) & (SIDES == 0), np.nan, X)
LEAST = np.quantile(WHOLE, 0.25, axis=0)
VARIANCES = RNG.uniform(0.02, 0.3, X.shape)
LABELS = np.where(RNG.random(200) < 0.2, OF, -1)
COUNTS = RNG.integers(0, 3, 200)
CASES = {
    "limits": (X, {}),
    "gaps, errors, labels, weights": (
        GAPPY, {"error_covariances": VARIANCES, "labels": LABELS, "sample_weight": COUNTS, "acceleration": "squarem"},
    ),
}  # fmt: skip


def log_likelihood(leaves, x, errors, labels, counts):
    """Of two features and full covariances by the formula: of a value, its density; of a limit, its probability given that."""
    weights, means, covariances = leaves
    joint = []
    for k in range(2):
        covariance = (covariances[k] + covariances[k].T) / 2 + errors[:, :, None] * jnp.eye(2)
        variance, across = jnp.diagonal(covariance, axis1=1, axis2=2), covariance[:, 0, 1]
        alone, given = [], []
        for d in range(2):
            mean, value = means[k, d], jnp.nan_to_num(x[:, d])
            other = jnp.nan_to_num(x[:, 1 - d]) - means[k, 1 - d]
            known = ~np.isnan(x[:, 1 - d]) & (SIDES[:, 1 - d] == 0)
            slope = jnp.where(known, across / variance[:, 1 - d], 0)
            z = (value - mean - slope * other) / jnp.sqrt(variance[:, d] - slope * across)
            given.append(jnp.where(SIDES[:, d] == 0, 0, norm.logcdf(-SIDES[:, d] * z)))
            alone.append(
                jnp.where(np.isnan(x[:, d]) | (SIDES[:, d] != 0), 0, norm.logpdf(value, mean, jnp.sqrt(variance[:, d])))
            )
        determinant = jnp.linalg.slogdet(covariance)[1]
        d = jnp.nan_to_num(x) - means[k]
        both = -(jnp.einsum("ni,nij,nj->n", d, jnp.linalg.inv(covariance), d) + determinant) / 2 - jnp.log(2 * jnp.pi)
        whole = (~np.isnan(x) & (SIDES == 0)).all(1)
        joint.append(jnp.log(weights[k] / weights.sum()) + jnp.where(whole, both, alone[0] + alone[1] + given[0] + given[1]))
    possible = (labels[:, None] < 0) | (labels[:, None] == np.arange(2))
    return counts @ logsumexp(jnp.where(possible, jnp.stack(joint, 1), -jnp.inf), axis=1)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    x, known = CASES[request.param]
    fit = jg.fit(x, 2, key=KEY, prior=None, n_init=2, rtol=1e-13, max_steps=5000, censored=SIDES, **known)
    return x, known, fit


def test_it_climbs_to_where_the_likelihood_is_flat(case):
    x, known, fit = case
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-9).all()
    counts = known.get("sample_weight", np.ones(200))
    rest = known.get("error_covariances", np.zeros(x.shape)), known.get("labels", np.full(200, -1)), counts
    leaves = fit.weights, fit.means, fit.covariances
    value, gradient = jax.jit(jax.value_and_grad(lambda leaves: log_likelihood(leaves, x, *rest)))(leaves)
    assert fit.log_likelihood == pytest.approx(float(value), rel=1e-11)
    assert max(abs(g * leaf).max() for g, leaf in zip(gradient, leaves, strict=True)) < 2e-3
    assert fit.n_censored == (SIDES != 0)[counts > 0].sum()


# A mixture is asked about rows without labels.
@pytest.mark.parametrize("case", [name for name, (_, known) in CASES.items() if "labels" not in known], indirect=True)
def test_differences_of_the_likelihood_vanish(case):
    """Of what the mixture itself says, in each mean: of second order in the step."""
    x, _, fit = case
    assert fit.gmm.log_likelihood(x, censored=SIDES) == pytest.approx(fit.log_likelihood, rel=1e-12)
    for k, d in np.ndindex(2, 2):
        moved = np.asarray(fit.means)[None] + 1e-4 * np.array([-1, 1])[:, None, None] * (np.arange(4) == 2 * k + d).reshape(
            2, 2
        )
        ends = [jg.GMM(fit.weights, means, fit.covariances).log_likelihood(x, censored=SIDES) for means in moved]
        assert abs(ends[1] - ends[0]) / 2e-4 < 0.05
        assert max(ends) < fit.log_likelihood


def test_weights_are_repeated_rows():
    run = {"init": TRUTH, "key": KEY, "prior": "fraley-raftery", "rtol": 1e-10}
    weighted = jg.fit(X, censored=SIDES, sample_weight=COUNTS, **run)
    repeated = jg.fit(np.repeat(X, COUNTS, axis=0), censored=np.repeat(SIDES, COUNTS, axis=0), **run)
    np.testing.assert_allclose(weighted.trace, repeated.trace, rtol=1e-11)


def test_no_limits_are_plain_em():
    run = {"init": TRUTH, "key": KEY, "prior": None}
    plain, same = (jg.fit(WHOLE, censored=none, **run) for none in (None, np.zeros((200, 2), int)))
    assert plain.objective == same.objective
    assert plain.fingerprint == same.fingerprint
    np.testing.assert_array_equal(plain.means, same.means)


def test_a_fit_knows_of_its_limits(case):
    x, _, fit = case
    assert f"{fit.n_censored} values known as limits only (censored)" in repr(fit)
    assert fit.fingerprint != fingerprint(as_source(x, missing=True))


def test_one_normal_is_the_tobit_model():
    """One component of one feature, a third of it below the limit: scipy's maximum of the censored likelihood."""
    values = np.random.default_rng(2).normal(1, 2, 150)
    x = np.maximum(values, 0.2)
    below = values < 0.2

    def objective(p):
        each = np.where(below, stats.norm.logcdf(x, p[0], np.exp(p[1])), stats.norm.logpdf(x, p[0], np.exp(p[1])))
        return -each.sum()

    best = optimize.minimize(objective, [0, 0], tol=1e-12)
    fit = jg.fit(x[:, None], 1, key=KEY, prior=None, rtol=1e-13, max_steps=5000, censored=-below[:, None].astype(int))
    assert fit.log_likelihood == pytest.approx(-best.fun, rel=1e-10)
    np.testing.assert_allclose([fit.means[0, 0], np.sqrt(fit.covariances[0, 0, 0])], [best.x[0], np.exp(best.x[1])], rtol=1e-4)
    assert fit.bic == pytest.approx(2 * best.fun + 2 * np.log(150), rel=1e-10)


def test_several_limits_in_a_row_where_features_are_independent():
    """The density of features that are independent within components is a product: of probabilities where both are limits."""
    sides, x = np.where(LEAST > WHOLE, -1, 0), np.maximum(WHOLE, LEAST)
    assert ((sides < 0).sum(1) == 2).any()
    fit = jg.fit(x, 2, key=KEY, family="diag", n_init=2, max_steps=5000, censored=sides)
    means, sds = np.asarray(fit.means), np.sqrt(fit.covariances)
    each = np.where(sides[:, None] < 0, stats.norm.logcdf(x[:, None], means, sds), stats.norm.logpdf(x[:, None], means, sds))
    assert fit.log_likelihood == pytest.approx(float(logsumexp(np.log(fit.weights) + each.sum(-1), axis=1).sum()), rel=1e-11)
    assert (np.diff(fit.trace) > -1e-9).all()


def test_it_is_as_good_as_whole_rows_where_dropping_and_plugging_in_are_not():
    """20 sets of which a third of the values of one feature are below a limit: no bias, beside fits of the whole rows."""
    prior = jg.Prior.fraley_raftery(WHOLE, 2)  # without one, limits that are plugged in are where a component collapses
    found = {"whole": [], "limits": [], "dropped": [], "plugged in": []}
    for seed in range(20):
        x = np.asarray(TRUTH.sample(jax.random.key(seed), 600)[0])
        below = x[:, 1] < 0.6
        limited = np.column_stack([x[:, 0], np.maximum(x[:, 1], 0.6)])
        sides = np.column_stack([np.zeros(600), -1.0 * below])
        run = {"init": TRUTH, "key": KEY, "prior": prior}
        fits = {
            "whole": jg.fit(x, **run), "limits": jg.fit(limited, censored=sides, **run),
            "dropped": jg.fit(x[~below], **run), "plugged in": jg.fit(limited, **run),
        }  # fmt: skip
        for name, fit in fits.items():
            found[name].append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(fit.gmm)]))
    off = {name: np.array(values) - found["whole"] for name, values in found.items() if name != "whole"}
    z = {name: abs(own.mean(0)) / np.maximum(own.std(0, ddof=1) / np.sqrt(20), 1e-12) for name, own in off.items()}
    assert z["limits"].max() < 4  # of 14 parameters, t with 19 degrees of freedom: one time in 100
    for name in ("dropped", "plugged in"):
        assert z[name].max() > 10
        assert np.sqrt((off["limits"] ** 2).mean()) < 0.5 * np.sqrt((off[name] ** 2).mean())


ONE = (np.arange(400).reshape(200, 2) == 4).astype(int)
BAD = {
    "several with correlations": (
        lambda: jg.fit(X, 2, key=KEY, censored=np.where(np.arange(200)[:, None] == 3, -1, SIDES)),
        ValueError, "several limits in row 3, and family 'full' has correlations.*take family='diag'.*, or NaN in x",
    ),
    "noise": (
        lambda: jg.fit(X, 2, key=KEY, censored=np.where(X[:, :1] == X[:, 0].min(), [-1, 0], 0), noise=True), ValueError,
        r"the box of noise ends at a limit of row \d+, so that beyond it no row could be noise: give the widths.*noise=\[1",
    ),
    "a column of limits": (
        lambda: jg.fit(X, 2, key=KEY, censored=np.tile([0, -1], (200, 1))), ValueError,
        r"no value at all in column \[1\] but limits, .*: leave it out",
    ),
    "a limit that is NaN": (
        lambda: jg.fit(np.where(ONE, np.nan, X), 2, key=KEY, censored=ONE), ValueError, "limits in row 2, where x is NaN",
    ),
    "an infinite limit": (lambda: jg.fit(np.where(ONE, -np.inf, X), 2, key=KEY, censored=ONE), ValueError, "infinite values"),
    "pieces": (lambda: jg.fit(jg.data.Pieces(lambda: iter([X])), 2, key=KEY, censored=ONE), ValueError, "x comes in pieces"),
    "truncate": (
        lambda: jg.fit(X, 32, key=KEY, censored=ONE, truncate=1e-9), ValueError, "truncate=1e-09 doesn't go with censored",
    ),
    "factor analysers": (
        lambda: jg.fit(np.c_[X, X**2], 2, key=KEY, family="factors:1", censored=np.c_[ONE, 0 * ONE]),
        ValueError, "takes rows that were seen wholly, without errors and limits",
    ),
    "booleans": (lambda: jg.fit(X, 2, key=KEY, censored=ONE > 0), TypeError, "censored is boolean"),
    "a shape": (lambda: jg.fit(X, 2, key=KEY, censored=ONE[:, 0]), ValueError, r"censored has shape \(200,\)"),
    "traced": (lambda: jax.jit(lambda c: jg.fit(X, 2, key=KEY, censored=c).means)(ONE), TypeError, "works on the host"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, said = BAD[name]
    with pytest.raises(error, match=said):
        call()
