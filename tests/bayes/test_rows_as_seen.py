"""Posteriors of rows with missing values, errors of measurement, or labels; and NumPyro's model of them, and of noise."""

import functools
import warnings

import arviz_stats as azs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import draws_around, kept, nearest, tree_of
from numpyro import handlers
from numpyro.infer import BarkerMH, init_to_value
from numpyro.infer.util import log_density
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

import jaxgmm as jg
from jaxgmm.bayes.samplers.gibbs import gibbs_start
from jaxgmm.bayes.target.coordinates import layout_of, log_posterior
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import log_rows_at, point_at, target_of
from jaxgmm.bayes.trees.build import to_datatree
from jaxgmm.bayes.trees.storage import load_posterior, save_posterior
from jaxgmm.data.placed import Seen

pytestmark = pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")  # k-hat is high for some of these few rows
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TRUTH = np.repeat([0, 1], 45)
X = np.where(TRUTH[:, None] == 0, RNG.normal([0, 0], [1, 0.6], (90, 2)), RNG.normal([3, 2], [0.7, 1], (90, 2)))
GAPPY = np.where(RNG.random(X.shape) < 0.2, np.nan, X)
GAPPY[np.isnan(GAPPY).all(1)] = 1.0
LABELS = np.where(RNG.random(90) < 0.2, TRUTH, -1)
_ROOTS = RNG.normal(size=(90, 2, 2)) / 4
ERRORS = {"variances": RNG.uniform(0.02, 0.3, (90, 2)), "covariances": _ROOTS @ _ROOTS.swapaxes(1, 2)}
START = jg.GMM([0.5, 0.5], [[0.0, 0.0], [3.0, 2.0]], [[[1.0, 0.0], [0.0, 0.36]], [[0.49, 0.0], [0.0, 1.0]]])
ALL = {"error_covariances": ERRORS["covariances"], "labels": LABELS}  # variances are those of test_posteriors_of_limits.py


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        return jg.fit(GAPPY, 2, key=KEY, **ALL)


@pytest.fixture(scope="module")
def tree(fit):
    with jax.enable_x64(True):
        return jg.posterior(GAPPY, fit, method="gibbs", key=KEY, n_draws=500, n_warmup=200, groups=["log_likelihood"], **ALL)


def direct(gmm, x, known):
    """Log density of each row, and the joint, by scipy."""
    errors = known.get("error_covariances", np.zeros(x.shape))
    errors = errors[:, :, None] * np.eye(2) if errors.ndim == 2 else errors
    labels = known.get("labels", np.full(len(x), -1))
    joint, dense = np.full((len(x), 2), -np.inf), np.asarray(gmm.dense_covariances())
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        for k in range(2):
            if labels[n] in (-1, k):
                visible = (dense[k] + errors[n])[np.ix_(seen, seen)]
                joint[n, k] = np.log(gmm.weights[k]) + multivariate_normal(gmm.means[k][seen], visible).logpdf(row[seen])
    return logsumexp(joint, axis=1), joint


def test_the_tree_says_of_rows_what_scipy_does(fit, tree):
    draw = jax.tree.map(lambda leaf: np.asarray(leaf)[1, 7], jg.draws_of(tree))
    density, joint = direct(draw, GAPPY, ALL)
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values[1, 7], density, rtol=1e-9)
    assert float(tree["posterior"]["log_likelihood"][1, 7]) == pytest.approx(density.sum(), rel=1e-10)
    log_prior = float(fit.prior.log_prob(draw))
    assert float(tree["sample_stats"]["lp"][1, 7]) == pytest.approx(density.sum() + log_prior, rel=1e-9)
    one = tree.isel(chain=[1], draw=[7])
    one.attrs = tree.attrs | {"relabelled": 1}
    shares = np.exp(joint - density[:, None])
    np.testing.assert_allclose(jg.membership(one)["membership"], shares, atol=1e-9)
    expected = shares[:5] @ shares[:5].T
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(jg.coclustering(one, rows=range(5)), expected, atol=1e-9)


def test_gibbs_agrees_with_nuts_which_sums_over_what_was_not_seen(fit, tree):
    other = jg.posterior(GAPPY, fit, method="nuts", key=jax.random.key(1), n_draws=400, n_warmup=300, **ALL)
    for name in ("log_likelihood", "sorted_weights"):
        ours, theirs = tree["posterior"][name], other["posterior"][name]
        ess = [float(np.min(azs.ess(each)[name])) for each in (tree["posterior"], other["posterior"])]
        assert min(ess) > 300
        error = np.sqrt(ours.var(("chain", "draw")) / ess[0] + theirs.var(("chain", "draw")) / ess[1])
        difference = abs(ours.mean(("chain", "draw")) - theirs.mean(("chain", "draw")))
        assert (difference < 4.5 * error).all(), name


def test_the_model_has_the_density_of_the_fit(fit):
    sites = {name: jnp.asarray(getattr(fit, name)) for name in ("weights", "means", "covariances")}
    settings = {"prior": fit.prior, **ALL}
    value = jax.jit(lambda sites: log_density(jg.numpyro_model, (GAPPY, 2), settings, sites)[0])(sites)
    assert float(value) == pytest.approx(fit.objective, rel=1e-10)


def test_relabelling_checks_and_files(fit, tree, tmp_path):
    relabelled = jg.relabel(tree, fit)
    assert relabelled.attrs["non_permutation_rate"] < 0.05
    table = jg.predictive_checks(tree, key=KEY, n_replicates=100)
    np.testing.assert_allclose(table.loc[table["statistic"] == "mean", "observed"], np.nanmean(GAPPY, 0), atol=0.3)
    assert ((table["p"] > 0.005) & (table["p"] < 0.995)).mean() > 0.8
    back = load_posterior(save_posterior(relabelled, tmp_path / "draws.nc"))
    np.testing.assert_array_equal(jg.membership(back)["membership"], jg.membership(relabelled)["membership"])
    assert int(jg.merged_counts(tree, n_draws=10)["probability"].idxmax()) == 2


def test_a_run_is_resumed_to_the_same_draws(fit, tmp_path):
    run = {"method": "gibbs", "key": KEY, "n_draws": 300, "n_warmup": 20} | ALL
    whole = jg.posterior(GAPPY, fit, **run)
    kept = jg.posterior(GAPPY, fit, **run, checkpoint=tmp_path / "run", keep_checkpoint=True)
    again = jg.posterior(GAPPY, fit, **run, checkpoint=tmp_path / "run", resume=True, keep_checkpoint=True)
    changed = run | {"labels": np.where(np.arange(90) == np.flatnonzero(LABELS + 1)[0], -1, LABELS), "prior": fit.prior}
    with pytest.raises(ValueError, match="data"):
        jg.posterior(GAPPY, fit.gmm, **changed, checkpoint=tmp_path / "run", resume=True)
    for each in (kept, again):
        np.testing.assert_array_equal(each["posterior"]["means"], whole["posterior"]["means"])


FEW = {"method": "gibbs", "key": KEY, "n_draws": 20, "n_warmup": 20}


def test_labels_keep_their_components_whatever_the_pivot():
    """A pivot in the other order doesn't take components from the labels that name them."""
    tree = jg.posterior(X, START, labels=LABELS, **FEW)
    relabelled = jg.relabel(tree, jg.GMM(START.weights[::-1], START.means[::-1], START.covariances[::-1]))
    assert (relabelled["sample_stats"]["permutation"].values == [0, 1]).all()
    shares = jg.membership(relabelled)["membership"].values
    assert (shares[np.arange(90), TRUTH] > 0.5).mean() > 0.9
    assert (shares[LABELS == 1, 1] == 1).all()


def test_unknown_labels_say_nothing():
    """The density is that of plain rows; and membership of other rows, with gaps, is as plain."""
    prior = jg.Prior.default(X, 2)
    tree = jg.posterior(X, START, labels=np.full(90, -1), prior=prior, **FEW)
    tree.attrs["relabelled"] = 1
    draws = [jax.tree.map(lambda leaf, at=at: np.asarray(leaf)[at], jg.draws_of(tree)) for at in np.ndindex(4, 20)]
    density = direct(draws[7], X, {})[0].sum()
    assert float(tree["posterior"]["log_likelihood"][0, 7]) == pytest.approx(density, rel=1e-10)
    assert float(tree["sample_stats"]["lp"][0, 7]) == pytest.approx(density + float(prior.log_prob(draws[7])), rel=1e-9)
    joint = np.array([direct(draw, GAPPY[:6], {})[1] for draw in draws])
    np.testing.assert_allclose(jg.membership(tree, GAPPY[:6])["membership"], softmax(joint, axis=-1).mean(0), atol=1e-9)


def test_approximations_have_the_density_of_labelled_rows():
    """In the coordinates of "laplace", "svi" and "sandwich", and in those of "nuts": scipy's."""
    prior, evidence = jg.Prior.default(X, 2), np.where(LABELS[:, None] == 1 - np.arange(2), -np.inf, 0)
    placed, layout = Seen(X, evidence=evidence).placed(np.dtype(float), padded=True), layout_of(START, prior)
    problem = Problem(placed.rows, placed.weight, START, prior, layout)
    target = target_of(problem)
    point = point_at(jnp.zeros(layout.size), target, layout)
    density, _ = direct(START, X, {"labels": LABELS})
    rows = jax.jit(lambda point: log_rows_at(point, target.x, target.weight))(point)
    np.testing.assert_allclose(placed.in_order(rows), density, rtol=1e-9)
    whole = jax.jit(log_posterior, static_argnums=1)(jg.unconstrain(START), layout, placed.rows, placed.weight, prior)
    plain = jax.jit(log_posterior, static_argnums=1)(jg.unconstrain(START), layout, jnp.asarray(X), None, prior)
    assert float(whole - plain) == pytest.approx(density.sum() - direct(START, X, {})[0].sum(), rel=1e-9)


def test_gaps_that_depend_on_what_was_seen_are_not_held_against_a_model():
    """Feature 1 is missing where feature 0 is large: at random, but not completely so."""
    rng, truth = np.random.default_rng(2), jg.GMM([1.0], [[0.0, 0.0]], [[[1.0, 0.9], [0.9, 1.0]]])
    x = rng.multivariate_normal(truth.means[0], truth.covariances[0], 300)
    prior = jg.Prior.default(x, 1)
    x[x[:, 0] > 0, 1] = np.nan
    tree = tree_of(draws_around(truth), x, prior=prior)
    table = jg.predictive_checks(tree, key=KEY, n_replicates=200)
    assert np.nanmean(x[:, 1]) < -0.5
    assert ((table["p"] > 0.01) & (table["p"] < 0.99)).all()


def test_replicates_have_errors_of_measurement():
    """And densities: of draws that are given. Errors of zero say nothing."""
    noisy = GAPPY + 2 * np.random.default_rng(3).normal(size=X.shape)
    known = {"error_covariances": np.full(X.shape, 4.0)}
    draws = Draws(draws_around(START), {}, {}, {})
    groups, prior = ["posterior_predictive", "log_likelihood"], jg.Prior.default(X, 2)
    tree = to_datatree(draws, Seen(noisy, errors=known["error_covariances"]), prior, key=KEY, groups=groups)
    replicated = tree["posterior_predictive"]["x"].values.reshape(-1, 2)
    np.testing.assert_allclose(replicated.std(0), np.nanstd(noisy, axis=0), rtol=0.25)
    draw = jax.tree.map(lambda leaf: leaf[1, 7], draws.gmm)
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values[1, 7], direct(draw, noisy, known)[0], rtol=1e-9)
    exact = to_datatree(draws, Seen(GAPPY, errors=np.zeros(X.shape)), prior, key=KEY, groups=groups)
    np.testing.assert_allclose(exact["log_likelihood"]["x"].values[1, 7], direct(draw, GAPPY, {})[0], rtol=1e-9)
    tree.attrs["relabelled"] = 1
    with pytest.raises(ValueError, match="rows with errors of measurement, of which membership of other rows"):
        jg.membership(tree, X)


def test_numpyros_samplers_run_on_the_model():
    """Of rows with gaps, labels and noise."""
    model = functools.partial(jg.numpyro_model, prior=jg.Prior.default(X, 2), noise=True, labels=LABELS)
    start = {name: getattr(START, name) for name in ("weights", "means", "covariances")} | {"noise_weight": 0.05}
    kernel = BarkerMH(model, init_strategy=init_to_value(values=start))

    @jax.jit  # operations one by one take longer to compile
    def run(key):
        state = kernel.init(key, 20, None, (GAPPY, 2), {})
        return jax.lax.fori_loop(0, 40, lambda _, state: kernel.sample(state, (GAPPY, 2), {}), state).z

    moved = run(KEY)
    assert set(moved) == set(start)
    assert all(np.isfinite(leaf).all() for leaf in moved.values())
    assert len(np.unique(moved["means"])) == 4


def test_weights_of_none_and_frequencies():
    """A row of weight 0 is no row; frequencies, or nothing, make the default prior that `fit` makes of what was seen."""
    weight = np.where(np.arange(90) % 4 == 0, 0, 1)
    run = {"key": KEY, "n_draws": 20, "prior": jg.Prior.default(X, 2)}
    for method in ("laplace", "svi", "sandwich"):
        some = {"method": method} | ({"n_steps": 200} if method == "svi" else {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jg.FitWarning)
            without = jg.posterior(GAPPY[weight > 0], START, **run, **some)
            within = jg.posterior(GAPPY, START, sample_weight=weight, **run, **some)
        np.testing.assert_allclose(within["posterior"]["means"], without["posterior"]["means"], rtol=1e-4, atol=1e-4)
    for own in ({"sample_weight": weight / weight.sum()}, {}):
        named = jg.posterior(GAPPY, START, method="laplace", key=KEY, n_draws=20, **own)
        fit = jg.fit(GAPPY, init=START, key=KEY, **own)
        for name in ("scale", "mean", "mean_precision", "degrees_of_freedom"):
            np.testing.assert_allclose(named["constant_data"][f"prior_{name}"], getattr(fit.prior, name), rtol=1e-9)


@pytest.mark.parametrize("family", ["tied", "spherical"])  # one matrix for all, and one number each: the ends of the range
def test_other_families_draw_what_was_not_seen(family):
    """Allocations and values, given the mixture: what is drawn given these is as of whole rows."""
    dense = np.array([[[1.0, 0.5], [0.5, 0.6]], [[0.7, 0.3], [0.3, 1.2]]])
    gmm, n_draws = jg.GMM([0.4, 0.6], START.means, nearest(family, dense), family), 2000
    placed, prior = Seen(GAPPY).placed(np.dtype(float), padded=True), jg.Prior.default(X, 2, family)
    start = jax.jit(jax.vmap(lambda key: gibbs_start(key, gmm, placed.rows, prior, placed.weight).statistics))
    drawn = start(jax.random.split(KEY, n_draws))
    density, joint = direct(gmm, GAPPY, {})
    shares = np.exp(joint - density[:, None])
    sums, scatter = np.zeros((2, 2)), np.zeros((2, 2, 2))
    for k, (mean, sigma) in enumerate(zip(gmm.means, np.asarray(gmm.dense_covariances()), strict=True)):
        for row, share in zip(GAPPY, shares[:, k], strict=True):
            seen = ~np.isnan(row)
            gain = sigma[:, seen] @ np.linalg.inv(sigma[np.ix_(seen, seen)])
            away = gain @ (row - mean)[seen]
            sums[k] += share * away
            scatter[k] += share * (np.outer(away, away) + sigma - gain @ sigma[seen])
    for ours, theirs in ((drawn.counts, shares.sum(0)), (drawn.sums, sums), (drawn.scatter, kept(family, scatter))):
        ours = np.asarray(ours)
        assert (abs(ours.mean(0) - theirs) < 4.5 * ours.std(0) / np.sqrt(n_draws)).all()


def test_the_model_of_noise_has_the_density_of_the_fit():
    """And, where there is no fit, scipy's."""
    far = np.concatenate([X, np.random.default_rng(1).uniform(-30, 30, (10, 2))])
    labels = np.append(LABELS, np.full(10, -1))
    gappy = np.concatenate([GAPPY, far[90:]])
    own = {"labels": labels}
    for x, known, fitted in ((far, {}, True), (gappy, {}, False), (far, own, False), (gappy, own, True)):
        fit = jg.fit(x, init=START, key=KEY, noise=True, rtol=1e-13, **known) if fitted else None
        gmm, share, prior = (START, 0.1, jg.Prior.default(X, 2)) if fit is None else (fit.gmm, fit.noise.weight, fit.prior)
        sites = {name: jnp.asarray(getattr(gmm, name)) for name in ("weights", "means", "covariances")}
        sites["noise_weight"] = jnp.asarray(share)

        def at(sites, x=x, known=known, prior=prior):
            return log_density(jg.numpyro_model, (x, 2), {"prior": prior, "noise": True, **known}, sites)[0]

        value, gradient = jax.jit(jax.value_and_grad(at))(sites)
        if fit is None:
            free = known.get("labels", np.full(100, -1)) == -1
            uniform = np.log(share) - np.where(np.isnan(x), 0, np.log(np.nanmax(x, 0) - np.nanmin(x, 0))).sum(1)
            rows = np.logaddexp(np.log1p(-share) + direct(gmm, x, known)[0], np.where(free, uniform, -np.inf))
            assert float(value) == pytest.approx(rows.sum() + float(prior.log_prob(gmm)), rel=1e-10)
            continue
        assert float(value) == pytest.approx(fit.objective, rel=1e-10)
        assert abs(float(gradient["noise_weight"])) * fit.noise.weight < 1e-3
        assert abs(np.asarray(gradient["means"])).max() < 1e-2


def test_bad_input(fit):
    with_errors, fit = fit, jg.fit(GAPPY, init=START, key=KEY)
    for method in ("vb", "bootstrap", "weighted-likelihood"):
        with pytest.raises(ValueError, match=f"method '{method}' takes rows that were seen wholly.*take one of nuts, gibbs"):
            jg.posterior(GAPPY, fit, method=method, key=KEY)
    with pytest.raises(ValueError, match="batch_size is for rows that were seen wholly"):
        jg.posterior(GAPPY, fit, method="svi", key=KEY, batch_size=10)
    with pytest.raises(ValueError, match="repeat these rows in x"):
        jg.posterior(GAPPY, fit.gmm, prior=fit.prior, method="gibbs", key=KEY, sample_weight=np.full(90, 2))
    with pytest.raises(ValueError, match="x isn't the data of the fit"):
        jg.posterior(GAPPY, fit, method="gibbs", key=KEY, labels=LABELS)
    with pytest.raises(ValueError, match="fit is of rows without their errors of measurement"):
        jg.posterior(GAPPY, with_errors, method="gibbs", key=KEY, labels=LABELS)
    with pytest.raises(ValueError, match="isn't the data of the fit"):
        jg.posterior(GAPPY, with_errors, method="gibbs", key=KEY, **ALL | {"error_covariances": 2 * ALL["error_covariances"]})
    with pytest.raises(ValueError, match="labels has 2 in rows"):
        jg.posterior(X, START, method="gibbs", key=KEY, labels=TRUTH + 1)
    model = handlers.seed(jg.numpyro_model, KEY)
    with pytest.raises(TypeError, match="JAX traces one of them: close the model over them"):
        jax.jit(lambda x: model(x, 2, labels=LABELS, prior=fit.prior).means)(X)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda e: jg.posterior(X, fit.gmm, method="gibbs", key=KEY, error_covariances=e))(ERRORS["variances"])
    empty = np.column_stack([X[:, 0], np.full(90, np.nan)])
    for call in (
        lambda: jg.posterior(empty, fit.gmm, prior=fit.prior, method="gibbs", key=KEY),
        lambda: model(empty, 2, prior=fit.prior),
    ):
        with pytest.raises(ValueError, match=r"x has no value at all in column \[1\]"):
            call()
    with pytest.raises(jg.FitError, match="sandwich: 8 rows say nothing of how 11 parameters vary together"):
        jg.posterior(GAPPY, START, method="sandwich", key=KEY, sample_weight=np.arange(90) % 12 == 0)
    with pytest.raises(ValueError, match="batch_size is for rows"):
        model(X, 2, labels=LABELS, batch_size=5)
    with pytest.raises(ValueError, match="error_covariances, censored, labels and noise are for rows that are given"):
        model(None, 2, prior=fit.prior, n_samples=3, noise=True)
