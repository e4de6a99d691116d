"""EM of rows with missing values, or errors of measurement of their own."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import load_x, random_member
from jax.scipy.special import logsumexp

import jaxgmm as jg

KEY = jax.random.key(0)
X = load_x("iris")
GAPPY = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
GAPPY = GAPPY[~np.isnan(GAPPY).all(1)]


def log_likelihood(leaves, x, errors):
    """Of full covariances by the formula, features that are missing taken out of each row's own."""
    weights, means, covariances = leaves
    seen = ~jnp.isnan(x)
    both = (seen[:, :, None] & seen[:, None])[:, None]
    visible = jnp.where(both, covariances + errors[:, None], jnp.eye(x.shape[1]))
    d = jnp.where(seen[:, None], jnp.nan_to_num(x)[:, None] - means, 0)
    norm = (d * jnp.linalg.solve(visible, d[..., None])[..., 0]).sum(-1)
    log_det = jnp.linalg.slogdet(visible)[1]
    joint = jnp.log(weights / weights.sum()) - (norm + log_det + seen.sum(1, keepdims=True) * jnp.log(2 * jnp.pi)) / 2
    return logsumexp(joint, axis=-1).sum()


@pytest.mark.parametrize(("errors", "acceleration"), [(None, None), (0.003, "squarem")])
def test_it_climbs_to_where_the_likelihood_of_what_was_seen_is_flat(errors, acceleration):
    own = None if errors is None else np.full(GAPPY.shape, errors)
    settings = {"key": KEY, "prior": None, "n_init": 3, "rtol": 1e-13, "max_steps": 5000, "acceleration": acceleration}
    fit = jg.fit(GAPPY, 2, error_covariances=own, **settings)
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-9).all()
    matrices = np.zeros((len(GAPPY), 4, 4)) if errors is None else np.broadcast_to(errors * np.eye(4), (len(GAPPY), 4, 4))
    leaves = fit.weights, fit.means, fit.covariances
    value, gradient = jax.jit(jax.value_and_grad(log_likelihood))(leaves, GAPPY, matrices)
    assert fit.log_likelihood == pytest.approx(float(value), rel=1e-12)
    assert fit.gmm.log_likelihood(GAPPY, error_covariances=own) == pytest.approx(fit.log_likelihood, rel=1e-12)
    assert max(abs(g * leaf).max() for g, leaf in zip(gradient, leaves, strict=True)) < 2e-3


@pytest.mark.parametrize(
    ("family", "prior"),
    [("full", "default"), ("tied", None), ("VEI", None)],  # what is kept of scatters: of each component, of all, diagonals
)
def test_without_gaps_and_errors_it_is_plain_em(family, prior):
    settings = {"key": KEY, "family": family, "prior": prior, "n_init": 1, "sample_weight": np.arange(150) % 3}
    plain = jg.fit(X, 3, **settings)
    same = jg.fit(X, 3, error_covariances=np.zeros(X.shape), **settings)
    np.testing.assert_allclose(same.restarts.objective, plain.restarts.objective, rtol=1e-9)
    length = min(map(len, (same.trace, plain.trace)))
    np.testing.assert_allclose(same.trace[:length], plain.trace[:length], rtol=1e-9)
    np.testing.assert_allclose(same.means, plain.means, rtol=1e-4)


def test_weights_are_repeated_rows():
    counts = np.random.default_rng(1).multinomial(len(GAPPY), np.full(len(GAPPY), 1 / len(GAPPY)))  # rows of the same shape
    start = jg.initialise(X, 2, key=KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)
        weighted = jg.fit(GAPPY, init=start, key=KEY, sample_weight=counts, rtol=0, max_steps=20)
        repeated = jg.fit(np.repeat(GAPPY, counts, axis=0), init=start, key=KEY, rtol=0, max_steps=20)
    np.testing.assert_allclose(weighted.trace, repeated.trace, rtol=1e-11)


def test_it_is_as_good_as_the_rows_that_were_seen_allow():
    """20 sets in five dimensions, a fifth of the values missing: no bias beyond noise, and half of mean imputation's error."""
    truth = jg.GMM([0.4, 0.6], [[0.0] * 5, [3.0, 0, 2, 0, 1]], np.stack([np.eye(5), 0.5 * np.eye(5) + 0.4]))
    found = {"seen": [], "filled": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = np.asarray(truth.sample(jax.random.key(seed), 600)[0])
        gappy = np.where(rng.random(x.shape) < 0.2, np.nan, x)
        gappy = gappy[~np.isnan(gappy).all(1)]
        filled = np.where(np.isnan(gappy), np.nanmean(gappy, 0), gappy)
        for name, rows in (("seen", gappy), ("filled", filled)):
            gmm = jg.fit(rows, init=truth, key=KEY, prior=None).gmm
            found[name].append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gmm)]))
    true = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(truth)])
    off = {name: np.array(values) - true for name, values in found.items()}
    z = off["seen"].mean(0) / (off["seen"].std(0, ddof=1) / np.sqrt(20))
    assert abs(z).max() < 4.5  # of 62 parameters, t with 19 degrees of freedom: one time in 100
    assert np.sqrt((off["seen"] ** 2).mean()) < 0.5 * np.sqrt((off["filled"] ** 2).mean())


def test_errors_of_measurement_are_taken_off():
    """The covariances of rows without errors, whose own are as large; plain EM's are those of both together."""
    truth = jg.GMM([0.5, 0.5], [[0.0, 0.0], [6.0, 3.0]], [np.array([[1.0, 0.6], [0.6, 1.0]]), 0.3 * np.eye(2)])
    rng = np.random.default_rng(0)
    x = np.asarray(truth.sample(KEY, 6000)[0])
    factors = rng.normal(size=(6000, 2, 2)) * 0.7
    noisy = x + (factors @ rng.normal(size=(6000, 2, 1)))[..., 0]
    errors = factors @ factors.swapaxes(1, 2)
    gmm = jg.fit(noisy, init=truth, key=KEY, prior=None, error_covariances=errors).gmm
    best = jg.fit(x, init=truth, key=KEY, prior=None).gmm
    plain = jg.fit(noisy, init=truth, key=KEY, prior=None).gmm
    np.testing.assert_allclose(gmm.covariances, best.covariances, atol=0.08)
    np.testing.assert_allclose(gmm.means, best.means, atol=0.08)
    assert abs(np.asarray(plain.covariances) - best.covariances).max() > 0.5


@pytest.mark.default_precision
def test_frames_with_missing_values():
    names = ["a", "b", "c", "d"]
    frame = pd.DataFrame(GAPPY, columns=names).convert_dtypes()
    fit = jg.fit(frame, 2, key=KEY, n_init=1)
    assert fit.feature_names == tuple(names)
    assert fit.n_missing == np.isnan(GAPPY).sum()
    assert f"{fit.n_missing} values missing" in repr(fit)
    same = jg.fit(GAPPY, 2, key=KEY, n_init=1)
    np.testing.assert_allclose(fit.means, same.means, rtol=1e-12)  # a frame's columns lie otherwise in memory: sums round so
    np.testing.assert_array_equal(np.asarray(fit.gmm.impute(frame[names[::-1]]))[:, ::-1], fit.gmm.impute(GAPPY))
    single = jg.fit(GAPPY.astype(np.float32), 2, key=KEY, n_init=1)
    assert single.gmm.log_likelihood(GAPPY.astype(np.float32)) == pytest.approx(single.log_likelihood, rel=1e-5)


def test_comparison_of_models():
    """Criteria are those of what was seen; a fold's rows are left out, not filled."""
    comparison = jg.compare(GAPPY, families=["full"], n_components=[1, 2], key=KEY, n_init=2, held_out_folds=3)
    for (_, _), fit in comparison.fits.items():
        assert fit.gmm.log_likelihood(GAPPY) == pytest.approx(fit.log_likelihood, rel=1e-11)
        assert fit.n_missing == np.isnan(GAPPY).sum()
    table = comparison.table
    for name, fit in zip(table.index, comparison.fits.values(), strict=True):
        assert table.loc[name, "bic"] == pytest.approx(fit.gmm.bic(GAPPY), rel=1e-11)
    assert (table["held_out"] * len(GAPPY) < table["log_likelihood"]).all()
    assert table.loc["full 2", "held_out"] > table.loc["full 1", "held_out"]
    with pytest.raises(ValueError, match="loo=True doesn't take"):
        jg.compare(GAPPY, key=KEY, n_components=[1], loo=True)


def test_a_fold_may_lack_a_column_but_not_the_rest():
    rare = GAPPY.copy()
    rare[6:, 3] = np.nan  # six values, of which a fold may have none, or all but some
    comparison = jg.compare(rare, families=["diag"], n_components=[1], key=KEY, n_init=1, held_out_folds=30)
    assert np.isfinite(comparison.table["held_out"]).all()
    rare[1:, 3], rare[0, 3] = np.nan, 0.2
    with pytest.raises(ValueError, match=r"no value at all in column \[3\] without one of the held_out_folds, which are 30"):
        jg.compare(rare, families=["diag"], n_components=[1], key=KEY, n_init=1, held_out_folds=30)


def test_a_row_of_weight_0_is_no_row():
    more, weight = np.r_[GAPPY, np.full((1, 4), np.nan)], np.r_[np.ones(len(GAPPY)), 0]
    fit = jg.fit(more, 2, key=KEY, n_init=1, sample_weight=weight)
    assert fit.n_missing == np.isnan(GAPPY).sum()
    assert fit.objective == pytest.approx(jg.fit(GAPPY, 2, key=KEY, n_init=1).objective, rel=1e-9)
    assert fit.gmm.bic(more, weight) == pytest.approx(fit.bic, rel=1e-11)
    errors = np.where(np.isnan(more), np.nan, 0.01)
    assert np.isfinite(fit.gmm.log_likelihood(more, weight, error_covariances=errors))


def test_weights_that_add_up_to_1_are_frequencies():
    """Of rows with gaps too: the mixture is that of as many rows, in fit and in compare, whose folds have their own."""
    shares = np.full(len(GAPPY), 1 / len(GAPPY))
    plain, own = (jg.fit(GAPPY, 2, key=KEY, n_init=1, sample_weight=weight) for weight in (None, shares))
    np.testing.assert_allclose(own.means, plain.means, rtol=1e-5)
    assert own.objective * len(GAPPY) == pytest.approx(plain.objective, rel=1e-9)
    settings = {"families": ["full"], "n_components": [1, 2], "key": KEY, "n_init": 2, "held_out_folds": 3}
    tables = [jg.compare(GAPPY, sample_weight=weight, **settings).table for weight in (None, shares)]
    np.testing.assert_allclose(tables[1]["held_out"], tables[0]["held_out"], rtol=1e-5)
    assert own.gmm.bic(GAPPY, shares) == pytest.approx(own.bic, rel=1e-9)


def test_labels_to_start_from():
    labels = (GAPPY[:, 2] > 2.5).astype(int)
    fit = jg.fit(GAPPY, init=labels, key=KEY)
    assert fit.objective == pytest.approx(jg.fit(GAPPY, 2, key=KEY, n_init=1).objective, abs=0.01)


def fit_with_errors():
    return jg.fit(X, 2, key=KEY, n_init=1, error_covariances=np.full(X.shape, 0.01))


def test_a_fit_without_errors_is_not_asked_about_rows_with_them():
    fit = fit_with_errors()
    assert "without their errors" in repr(fit)
    for ask in (
        fit.predict, fit.log_prob, fit.responsibilities, lambda x: jg.explain(fit, x), lambda x: jg.merge_components(fit, x),
        lambda x: jg.density_level(fit, x, key=KEY), lambda x: jg.e_step(fit, x),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"pass error_covariances where it takes them, or fit\.gmm"):
            ask(X)
    assert fit.predict(X, error_covariances=np.full(X.shape, 0.01)).shape == (150,)
    assert fit.gmm.predict(X).shape == (150,)
    others = jg.fit(X, 2, key=KEY, n_init=1, error_covariances=np.full(X.shape, 0.02))
    assert others.fingerprint != fit.fingerprint


def other(call):
    """What takes whole rows only, and names the way out."""
    return call, ValueError, r"missing values \(NaN\) in rows .*this doesn't: drop these rows, .*or fill them in"


GMM = random_member("full", 2, 4)
BAD = {
    "posterior": (
        lambda: jg.posterior(GAPPY, GMM, prior=jg.Prior.default(X, 2), method="vb", key=KEY),
        ValueError, "method 'vb' takes rows that were seen wholly",
    ),
    "fit_map": other(lambda: jg.fit_map(GAPPY, 2, key=KEY)),
    "counts": other(lambda: jg.count_clusters(GAPPY, key=KEY)),
    "groups": other(lambda: jg.fit_groups(GAPPY, np.zeros(len(GAPPY)), n_components=2, key=KEY)),
    "e_step": other(lambda: jg.e_step(GMM, GAPPY)),
    "a column without a value": (
        lambda: jg.fit(np.c_[X, np.full(150, np.nan)], 2, key=KEY), ValueError, r"no value at all in column \[4\]",
    ),
    "a column of a frame": (
        lambda: jg.fit(pd.DataFrame(X, columns=list("abcd")).assign(e=np.nan), 2, key=KEY), ValueError, r"column \['e'\]",
    ),
    "a row without a value": (
        lambda: jg.fit(np.r_[X, np.full((1, 4), np.nan)], 2, key=KEY), ValueError, "no value at all in row 150",
    ),
    "errors of pieces": (
        lambda: jg.fit(jg.data.Pieces(lambda: iter([X])), 2, key=KEY, error_covariances=X), ValueError, "x comes in pieces",
    ),
    "posterior of a fit with errors": (
        lambda: jg.posterior(X, fit_with_errors(), method="nuts", key=KEY),
        ValueError, "fit is of rows without their errors of measurement, but posterior",
    ),
    "errors of other rows": (lambda: jg.fit(X, 2, key=KEY, error_covariances=X[:3]), ValueError, r"\(150, 4\) variances"),
    "weights with NaN": (lambda: jg.fit(GAPPY, 2, key=KEY, sample_weight=GAPPY[:, 0]), ValueError, "sample_weight is NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, said = BAD[name]
    with pytest.raises(error, match=said):
        call()
