"""`posterior`: six methods, one density, one tree; and what it refuses."""

import warnings

import arviz as az
import jax
import numpy as np
import pytest

import jaxgmm as jg

KEY = jax.random.key(0)
# Of each of four chains: enough for Monte-Carlo errors to be small. All tests have three components of two features, and from
# 257 to 512 draws of a chain, so that each method is one set of programs.
N_DRAWS = 500
METHODS = ("nuts", "gibbs", "svi", "laplace", "vb", "sandwich", "weighted-likelihood")


def three_clusters(distance=1.0):
    rng = np.random.default_rng(5)
    return np.concatenate([rng.normal(size=(100, 2)) + distance * np.array(centre) for centre in ([0, 0], [4, 1], [1, 5])])


@pytest.fixture(scope="module")
def fitted():
    with jax.enable_x64(True):
        x = three_clusters(1.5)
        return x, jg.fit(x, 3, key=KEY)


@pytest.fixture(scope="module")
def trees(fitted):
    """One tree of each method, relabelled."""
    x, fit = fitted
    with jax.enable_x64(True):
        return {
            method: jg.relabel(jg.posterior(x, fit, method=method, key=jax.random.key(1), n_draws=N_DRAWS), fit.gmm)
            for method in METHODS
        }


def each(tree, name):
    """The scalar quantities of a variable, (chain, draw) each."""
    values = np.asarray(tree["posterior"][name])
    return np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0)


def test_nuts_and_gibbs_agree(trees):
    for name in ("weights", "means", "covariances", "log_likelihood", "entropy"):
        for a, b in zip(each(trees["nuts"], name), each(trees["gibbs"], name), strict=True):
            assert min(float(az.ess(a)), float(az.ess(b))) > 300
            assert max(float(az.rhat(a)), float(az.rhat(b))) < 1.02
            assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(float(az.mcse(a)), float(az.mcse(b)))


@pytest.mark.parametrize("method", ["svi", "laplace", "vb"])
def test_approximations_are_near_where_k_hat_says_so(trees, method):
    """A Gaussian in the unconstrained space, with 100 rows a component: means within a fifth of a posterior sd."""
    assert trees[method]["sample_stats"].attrs["pareto_k"] < 0.7
    for name in ("weights", "means"):
        for exact, near in zip(each(trees["gibbs"], name), each(trees[method], name), strict=True):
            assert abs(near.mean() - exact.mean()) < 0.2 * exact.std()
            assert near.std() == pytest.approx(exact.std(), rel=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_relabelled_means_match_the_fit_on_separated_clusters(fitted, trees, method):
    _, fit = fitted
    for name in ("weights", "means"):
        draws = np.asarray(trees[method]["posterior"][name])
        assert (abs(draws.mean((0, 1)) - np.asarray(getattr(fit.gmm, name))) < 0.5 * draws.std((0, 1))).all()


@pytest.mark.parametrize("method", METHODS)
def test_lp_is_the_density_that_map_em_climbs(fitted, trees, method):
    x, fit = fitted
    tree = trees[method]
    gmm = jax.tree.map(lambda leaf: leaf[1, 3], jg.draws_of(tree))
    expected = gmm.log_likelihood(x) + fit.prior.log_prob(gmm)
    np.testing.assert_allclose(tree["sample_stats"]["lp"][1, 3], expected, rtol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_key_gives_the_same_draws(fitted, trees, method):
    """By a quantity that relabelling leaves as it is."""
    x, fit = fitted
    same, other = (jg.posterior(x, fit, key=jax.random.key(i), method=method, n_draws=N_DRAWS) for i in (1, 2))
    one = trees[method]["posterior"]["log_likelihood"]
    np.testing.assert_array_equal(same["posterior"]["log_likelihood"], one)
    assert (other["posterior"]["log_likelihood"] != one).all(("chain", "draw"))


@pytest.mark.parametrize("method", ["nuts", "gibbs"])
def test_an_interrupted_run_continues(fitted, tmp_path, method):
    x, fit = fitted
    settings = {"method": method, "key": KEY, "n_draws": 260}  # and 500 to warm up: a number that NUTS is compiled for
    whole = jg.posterior(x, fit, **settings)

    def interrupt(done, total):
        if done > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jg.posterior(x, fit, **settings, checkpoint=tmp_path / "run", progress=interrupt)
    with pytest.raises(ValueError, match="resume=True"):
        jg.posterior(x, fit, **settings, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="n_draws was 260, now 270"):
        jg.posterior(x, fit, **settings | {"n_draws": 270}, checkpoint=tmp_path / "run", resume=True)
    resumed = jg.posterior(x, fit, **settings, checkpoint=tmp_path / "run", resume=True)
    for name in ("weights", "means", "covariances", "entropy"):
        np.testing.assert_array_equal(whole["posterior"][name], resumed["posterior"][name])
    np.testing.assert_array_equal(whole["allocations"]["n_clusters"], resumed["allocations"]["n_clusters"])
    assert list(tmp_path.iterdir()) == []  # of a run that has ended nothing is in the way of the next


def test_a_checkpoint_is_kept_where_that_is_asked_for(fitted, tmp_path):
    x, fit = fitted
    settings = {"method": "gibbs", "key": KEY, "n_draws": 260, "n_warmup": 20, "checkpoint": tmp_path / "run"}
    whole = jg.posterior(x, fit, **settings, keep_checkpoint=True)
    told = []
    again = jg.posterior(x, fit, **settings, resume=True, progress=lambda *steps: told.append(steps))
    assert told == []  # the draws were there
    np.testing.assert_array_equal(whole["posterior"]["means"], again["posterior"]["means"])
    assert list(tmp_path.iterdir()) == []


def test_sample_weight_counts_rows(fitted):
    """Weights of 2 are rows twice: Gibbs draws are the same, since it repeats the rows."""
    x, _ = fitted
    fit = jg.fit(x, 3, key=KEY, sample_weight=np.full(len(x), 2.0))
    settings = {"method": "gibbs", "key": KEY, "n_draws": 300, "n_chains": 4}
    weighted = jg.posterior(x, fit, sample_weight=np.full(len(x), 2.0), **settings)
    repeated = jg.posterior(np.repeat(x, 2, axis=0), fit.gmm, prior=fit.prior, **settings)
    for a, b in zip(each(weighted, "means"), each(repeated, "means"), strict=True):
        assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(float(az.mcse(a)), float(az.mcse(b)))
    half = np.full(len(x), 1.5)
    fit = jg.fit(x, 3, key=KEY, sample_weight=half)
    with pytest.raises(ValueError, match="sample_weight of row 0 is 1"):
        jg.posterior(x, fit, sample_weight=half, **settings)


@pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")  # of k-hat, which may well be high here
@pytest.mark.parametrize("method", [name for name in METHODS if name != "sandwich"])  # which wants more rows than parameters
def test_duplicated_points_stay_finite(method):
    """One component more than distinct points, one of which is there twice only: maximum likelihood collapses here, a
    posterior must not.
    """
    most = 4 if method == "laplace" else 3  # of two points' posterior Laplace finds no peak, and says so
    counts = [200, 98, 2] if most == 4 else [298, 2]
    x = np.repeat(np.random.default_rng(0).normal(size=(most - 1, 2)), counts, axis=0)
    if most == 4:
        with pytest.warns(jg.FitWarning, match="collapsed"):
            assert jg.fit(x, 4, key=KEY, prior=None).status is jg.Status.collapsed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jg.FitWarning)  # components have no rows
        fit = jg.fit(x, most, key=KEY)
    tree = jg.posterior(x, fit, method=method, key=KEY, n_draws=N_DRAWS)
    for group in ("posterior", "sample_stats"):
        for name, values in tree[group].data_vars.items():
            assert np.isfinite(values).all(), name


def posterior_of(x, fit, **changes):
    return jg.posterior(x, fit, **{"method": "gibbs", "key": KEY, "n_draws": 260} | changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "nutz"}, ValueError, "unknown method 'nutz'; did you mean 'nuts'"),
        ({"method": "svi", "guide": "normaal"}, ValueError, "did you mean 'normal'"),
        ({"guide": "normal"}, ValueError, "option of method 'gibbs'"),
        ({"method": "nuts", "target_acept": 0.9}, ValueError, "did you mean 'target_accept'"),
        ({"n_chains": 1}, ValueError, "r-hat needs at least 2 chains"),
        ({"n_draws": 3}, ValueError, "r-hat needs at least 2 chains of 4 draws"),
        ({"n_draws": 2.5}, TypeError, "n_draws must be a whole number"),
        ({"key": 3}, TypeError, "PRNG key"),
        ({"groups": ("loglikelihood",)}, ValueError, "did you mean 'log_likelihood'"),
        ({"groups": "log_likelihood"}, TypeError, "groups"),
        ({"prior": "defualt"}, ValueError, "did you mean 'default'"),
        ({"prior": 1.0}, TypeError, "prior must be"),
        ({"method": "laplace", "n_warmup": 5}, ValueError, "n_warmup, checkpoint and resume are for nuts and gibbs"),
        ({"resume": True}, ValueError, "resume=True needs checkpoint"),
        ({"keep_checkpoint": True}, ValueError, "keep_checkpoint=True needs checkpoint"),
        ({"feature_names": ["a"]}, ValueError, "feature_names"),
    ],
    ids=[
        *("method", "guide", "option", "near_option", "one_chain", "three_draws", "part_of_a_draw", "key", "group", "groups"),
        *("prior_name", "prior", "warmup", "resume", "keep", "names"),
    ],
)
def test_bad_settings(fitted, changes, error, message):
    with pytest.raises(error, match=message):
        posterior_of(*fitted, **changes)


def test_bad_fits_and_data(fitted):
    x, fit = fitted
    with pytest.raises(ValueError, match="isn't the data of the fit"):
        posterior_of(np.concatenate([x[1:], x[:1]]), fit)
    with pytest.raises(ValueError, match="isn't the data of the fit"):
        posterior_of(x, fit, sample_weight=np.full(len(x), 2))
    with pytest.raises(ValueError, match="3 columns"):
        posterior_of(np.column_stack([x, x[:, 0]]), fit)
    with pytest.raises(TypeError, match="fit must be a GMM, or hold one"):
        posterior_of(x, 3)
    with pytest.raises(ValueError, match="row 0"):
        posterior_of(np.where(x == x[0], np.nan, x), fit)
    with pytest.raises(ValueError, match="maximum likelihood, and has no posterior"):
        posterior_of(x, jg.fit(x, 3, key=KEY, prior=None))
    with pytest.raises(ValueError, match="prior is for family 'diag'"):
        posterior_of(x, fit, prior=jg.Prior.default(x, 3, "diag"))
    with pytest.raises(ValueError, match="one feature"):
        posterior_of(x, fit, prior=jg.RichardsonGreen.default(x[:, :1], "full"))
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), fit.gmm)
    with pytest.raises(ValueError, match="leading axes"):
        posterior_of(x, many)
    empty = jg.GMM([1.0, 0.0], x[:2], [1.0, 1.0], "spherical")
    with pytest.raises(ValueError, match=r"components of weight 0 \(\[1\]\)"):
        posterior_of(x, empty)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: posterior_of(x, fit)["posterior"]["means"].values)(x)


def test_a_gmm_alone_is_enough(fitted):
    """It starts there, under the default prior, and knows nothing of other data."""
    x, fit = fitted
    tree = posterior_of(x[::2], fit.gmm, n_warmup=10)
    assert tree["observed_data"].sizes["obs_id"] == len(x[::2])


def test_float32_rows_keep_their_dtype(fitted):
    x, _ = fitted
    x = x.astype(np.float32)
    fit = jg.fit(x, 3, key=KEY)
    means = posterior_of(x, fit, n_warmup=10)["posterior"]["means"]
    assert means.shape == (4, 260, 3, 2)
    np.testing.assert_array_equal(means, posterior_of(x.astype(float), fit, n_warmup=10)["posterior"]["means"])
