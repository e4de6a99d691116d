"""Posteriors of the rest of a mixture, given what is held: closed forms, two samplers, and two densities of the same thing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from helpers import FAMILIES, draws_around, random_member, random_prior, tree_of
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import gammaln

import jaxgmm as jg
from jaxgmm.bayes.priors.base import draw_parameters
from jaxgmm.bayes.target.conditional import values_of_sites
from jaxgmm.bayes.target.coordinates import constrain_factored, layout_of
from jaxgmm.bayes.target.whitening import frame_at, log_volume, spread
from jaxgmm.model.holding import check_fixed
from jaxgmm.model.statistics import Statistics

KEY = jax.random.key(0)
NAMES = ("weights", "means", "covariances")
SOME = {"weights": [1], "means": [0], "covariances": [2]}
START = jg.GMM([0.45, 0.25, 0.3], [[0.0], [2.8], [7.0]], [1.0, 1.0, 1.2], "spherical")
HELD = {"weights": [0], "means": [1], "covariances": [2]}


def some_of(family):
    fixed = SOME if family != "tied" else {"weights": [1], "means": [0]}
    return check_fixed(fixed, 3, family)


def few_rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(at, 1, (n, 1)) for at, n in ((0, 25), (3, 15), (7, 15))])


# Given the allocations everything is known in closed form.


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_given_allocations(family):
    """Beside a held mean a covariance has a row more, a mean is normal with a held covariance, weights share what is left."""
    rng, gmm, prior, held = np.random.default_rng(0), random_member(family, 3, 2), random_prior(family, 2), some_of(family)
    groups = [rng.normal(size=(n, 2)) + k for k, n in enumerate((6, 3, 9))]
    counts, sums = np.array([len(g) for g in groups], float), np.array([g.sum(0) for g in groups])
    scatter = np.array([g.T @ g for g in groups])
    kept = {"full": scatter, "tied": scatter.sum(0), "diag": scatter.diagonal(axis1=1, axis2=2)}
    kept["spherical"] = kept["diag"].sum(-1)
    with jax.enable_x64(True):
        statistics = Statistics(counts, sums, kept[family], np.zeros((3, 2)), np.zeros(()), counts.sum())
        draw = jax.jit(jax.vmap(lambda key: draw_parameters(prior, key, statistics, gmm, {}, held)[:2]))
        draws, factor = draw(jax.random.split(KEY, 4000))
        again = jax.vmap(lambda f, g: jg.GMM.components(g, f).factor.scale)(factor, draws)
    for name in NAMES:
        mask = held.mask(name, 3)
        if mask.any():
            whole = np.broadcast_to(np.asarray(getattr(gmm, name))[mask], np.asarray(getattr(draws, name))[:, mask].shape)
            np.testing.assert_array_equal(np.asarray(getattr(draws, name))[:, mask], whole)

    weights, alpha = np.asarray(draws.weights), np.asarray(prior.concentration) + counts
    left = 1 - float(gmm.weights[1])
    assert stats.kstest(weights[:, 0] / left, stats.beta(alpha[0], alpha[2]).cdf).pvalue > 1e-3

    m0, kappa, nu = np.asarray(prior.mean), float(prior.mean_precision), float(prior.degrees_of_freedom)
    away = groups[0] - np.asarray(gmm.means)[0]
    own = away.T @ away + kappa * np.outer(gmm.means[0] - m0, gmm.means[0] - m0)  # about the held mean
    if family == "tied":
        for g in groups[1:]:
            centre = g.mean(0)
            own = own + (g - centre).T @ (g - centre)
            own = own + kappa * len(g) / (kappa + len(g)) * np.outer(centre - m0, centre - m0)
        shape, scale = nu + counts.sum() + 1, np.asarray(prior.scale) + own
    elif family == "spherical":
        shape, scale = nu + 2 * (counts[0] + 1), float(prior.scale) + np.trace(own)
    else:
        shape, scale = nu + counts[0] + 1, np.asarray(prior.scale) + (own if family == "full" else np.diag(own))
    first = np.asarray(draws.covariances) if family == "tied" else np.asarray(draws.covariances)[:, 0]
    if family in ("full", "tied"):  # 1 / (Sigma^-1)_ii is inverse gamma
        precision = np.linalg.inv(first)[:, 0, 0]
        value, scale = 1 / precision, 1 / np.linalg.inv(scale)[0, 0]
    else:
        value, scale = first.reshape(len(first), -1)[:, 0], np.ravel(scale)[0]
    assert stats.kstest(value, stats.invgamma(shape / 2, scale=scale / 2).cdf).pvalue > 1e-3

    if family != "tied":
        variance = np.asarray(gmm.dense_covariances())[2, 0, 0] / (kappa + 9)
        mean = (kappa * m0[0] + sums[2, 0]) / (kappa + 9)
        assert stats.kstest(np.asarray(draws.means)[:, 2, 0], stats.norm(mean, variance**0.5).cdf).pvalue > 1e-3
    assert np.isfinite(again).all()


def test_richardson_and_green_given_allocations():
    prior = jg.RichardsonGreen(1.0, 4.0, 0.5)
    gmm = jg.GMM([0.3, 0.7], [[0.0], [3.0]], [0.6, 2.0], "spherical")
    rows = np.array([0.1, -0.4, 0.3]), np.array([2.0, 4.5])
    with jax.enable_x64(True):
        sums, squares = np.array([[g.sum()] for g in rows]), np.array([(g**2).sum() for g in rows])
        statistics = Statistics(np.array([3.0, 2.0]), sums, squares, np.zeros((2, 1)), np.zeros(()), np.asarray(5.0))
        held = check_fixed({"weights": "all", "means": [1], "covariances": [0]}, 2, "spherical")
        draw = jax.vmap(lambda key: draw_parameters(prior, key, statistics, gmm, {"rate": jnp.ones(())}, held))
        draws, _, extra = jax.jit(draw)(jax.random.split(KEY, 4000))
    np.testing.assert_array_equal(draws.weights, np.tile(gmm.weights, (4000, 1)))
    np.testing.assert_array_equal(draws.means[:, 1], np.full((4000, 1), 3.0))
    np.testing.assert_array_equal(draws.covariances[:, 0], np.full(4000, 0.6))
    precision = 1 / 4 + 3 / 0.6
    mean = (1 / 4 + rows[0].sum() / 0.6) / precision
    assert stats.kstest(draws.means[:, 0, 0], stats.norm(mean, precision**-0.5).cdf).pvalue > 1e-3
    # Both variances say something of the rate, the held one too; each other one is drawn given it.
    rate = np.asarray(extra["rate"])
    given = stats.gamma(0.2 + 2 * 2, scale=1 / (0.5 + 1 / 0.6 + 1 / 2.0))
    assert stats.kstest(rate, given.cdf).pvalue > 1e-3
    own = np.asarray(draws.covariances)[:, 1] / (rate + ((rows[1] - 3) ** 2).sum() / 2)
    assert stats.kstest(1 / own, stats.gamma(2 + 1).cdf).pvalue > 1e-3


# One component: the whole posterior is known, and what the rows and the held values are worth together.


def one_component():
    x = few_rows()[:25]
    return x, jg.GMM([1.0], [[0.3]], [1.4], "spherical"), jg.Prior(1.0, [0.5], 0.4, 5.0, 2.0, "spherical")


def log_evidence(x, prior, name, value):
    """log p(rows, held value), the rest integrated out: NumPy and SciPy alone."""
    n, nu, psi, kappa, m0 = len(x), 5.0, 2.0, 0.4, 0.5
    if name == "means":  # an inverse gamma's kernel in the variance
        a, b = (nu + n + 1) / 2, (psi + ((x - value) ** 2).sum() + kappa * (value - m0) ** 2) / 2
        constant = nu / 2 * np.log(psi / 2) - gammaln(nu / 2) + np.log(kappa) / 2 - (n + 1) / 2 * np.log(2 * np.pi)
        return constant + gammaln(a) - a * np.log(b)
    rows = stats.multivariate_normal(np.full(n, m0), value * (np.eye(n) + 1 / kappa)).logpdf(x[:, 0])
    return rows + stats.invgamma(nu / 2, scale=psi / 2).logpdf(value)


@pytest.mark.parametrize("name", ["means", "covariances"])
def test_one_component(name):
    x, gmm, prior = one_component()
    how = {"key": KEY, "prior": prior, "fixed": (name,), "n_draws": 500}
    value = float(np.ravel(getattr(gmm, name))[0])
    draws = jg.draws_of(jg.posterior(x, gmm, method="gibbs", thin=1, n_warmup=1, **how))
    if name == "means":
        shape, scale = 5 + 25 + 1, 2 + ((x - value) ** 2).sum() + 0.4 * (value - 0.5) ** 2
        law, free = stats.invgamma(shape / 2, scale=scale / 2), np.ravel(draws.covariances)
    else:
        law, free = stats.norm((0.4 * 0.5 + x.sum()) / 25.4, (value / 25.4) ** 0.5), np.ravel(draws.means)
    assert (np.asarray(getattr(draws, name)) == value).all()
    assert stats.kstest(free, law.cdf).pvalue > 1e-3  # without allocations to draw, draws are independent

    tree = jg.posterior(x, gmm, method="laplace", **how)
    bound, exact = tree["sample_stats"].attrs["elbo"], log_evidence(x, prior, name, value)
    # Of a normal posterior Laplace's is exact; of the log of an inverse gamma of 31 degrees of freedom it is near.
    assert bound == pytest.approx(exact, abs=1e-6 if name == "covariances" else 0.02)
    assert (np.asarray(getattr(jg.draws_of(tree), name)) == value).all()


# Several: what moves, and by how much


@pytest.mark.parametrize("family", [*FAMILIES, "tied whole"])
def test_coordinates_of_the_rest(family):
    """Whitened coordinates move what is free and nothing else, and their log volume is that of the map, by its derivatives."""
    held = check_fixed({"covariances": "all", "means": [2]}, 3, "tied") if family == "tied whole" else some_of(family)
    family = family.split()[0]
    gmm = random_member(family, 3, 2)
    layout = layout_of(gmm, None, held)
    with jax.enable_x64(True):
        frame = jax.jit(frame_at, static_argnums=4)(gmm, {}, random_prior(family, 2), 60.0, layout)
        v = np.random.default_rng(1).normal(size=layout.size)

        def mixture(v):
            return constrain_factored(frame.origin + spread(frame, v, layout), layout)

        def moved(v):
            there = mixture(v)[0]
            weights, means = (getattr(there, n)[np.flatnonzero(~held.mask(n, 3))] for n in ("weights", "means"))
            own = there.covariances if family == "tied" else there.covariances[np.flatnonzero(~held.mask("covariances", 3))]
            own = own[..., *np.tril_indices(2)] if own.ndim > 1 and family in ("full", "tied") else own
            own = own.ravel()[:0] if held.whole("covariances") else own.ravel()
            return jnp.concatenate([weights[:-1], means.ravel(), own])

        there, _, _, log_jacobian = jax.jit(mixture)(v)
        _, by_derivatives = np.linalg.slogdet(jax.jit(jax.jacfwd(moved))(v))
        assert float(log_jacobian + log_volume(frame, layout)) == pytest.approx(float(by_derivatives), abs=1e-8)
    assert layout.size == gmm.n_parameters - held.n_parameters(gmm)
    for name in NAMES:
        old, new = np.asarray(getattr(gmm, name)), np.asarray(getattr(there, name))
        mask = held.mask(name, 3) if len(old) == 3 else np.full(len(old), held.whole(name))
        if mask.any():
            np.testing.assert_allclose(new[mask], old[mask], rtol=1e-12)
        assert (np.abs(new - old)[~mask] > 1e-6).all()


def test_numpyro_at_the_end_of_em():
    """NumPyro's density is that of rows and whole mixture, and at EM's end nothing that is free has a gradient."""
    x = np.random.default_rng(1).normal(size=(90, 2)) + 3 * np.repeat([[0.0, 0.0], [1.0, 0.3], [0.0, 1.2]], 30, axis=0)
    start = jg.GMM([0.3, 0.3, 0.4], [[0.0, 0.0], [3.0, 1.0], [0.0, 3.5]], np.tile(np.eye(2), (3, 1, 1)))
    fit = jg.fit(x, init=start, key=KEY, fixed=SOME, rtol=1e-14, max_steps=5000)
    with jax.enable_x64(True):
        gmm = jax.tree.map(jnp.asarray, fit.gmm)
        sites = values_of_sites(gmm, {}, fit.fixed)
        assert set(sites) == {"weights_free", "means_free", "covariances_free"}
        arguments = (x, 3, "full", fit.prior), {"fixed": SOME, "init": fit}

        @jax.jit
        def of_model(sites):
            value, trace = log_density(jg.numpyro_model, *arguments, sites)
            return value, {name: trace[name]["value"] for name in NAMES}

        value, traced = of_model(sites)
        assert float(value) == pytest.approx(fit.objective, rel=1e-10)
        for name in NAMES:
            np.testing.assert_allclose(traced[name], getattr(gmm, name), rtol=1e-12)
        gradient = jax.jit(jax.grad(lambda sites: log_density(jg.numpyro_model, *arguments, sites)[0]))(sites)
    shares = np.asarray(sites["weights_free"])
    of_weights = shares * (np.asarray(gradient["weights_free"]) - shares @ np.asarray(gradient["weights_free"]))
    scaled = of_weights, gradient["means_free"] * x.std(0), gradient["covariances_free"] * sites["covariances_free"]
    assert np.abs(ravel_pytree(scaled)[0]).max() < 1e-5 * len(x)


def test_fit_map_is_em():
    x = few_rows()
    em, mode = (of(x, init=START, key=KEY, fixed=HELD, rtol=1e-13) for of in (jg.fit, jg.fit_map))
    assert em.converged
    assert mode.converged
    assert mode.objective == pytest.approx(em.objective, abs=1e-8)
    assert mode.n_parameters == em.n_parameters == 5
    np.testing.assert_allclose(mode.expected_rows, em.expected_rows, rtol=1e-4)
    for name, (k,) in HELD.items():
        assert np.array_equal(getattr(mode.gmm, name)[k], getattr(START, name)[k])
        np.testing.assert_allclose(getattr(mode.gmm, name), getattr(em.gmm, name), atol=1e-5)


def test_equal_weights_in_fit_map():
    """Without a start, the mode is EM's."""
    x, equal = few_rows(), {"fixed": {"weights": "equal"}}
    em, mode = (of(x, 3, key=KEY, family="spherical", rtol=1e-13, **equal) for of in (jg.fit, jg.fit_map))
    assert mode.objective == pytest.approx(em.objective, abs=1e-8)
    assert mode.n_parameters == em.n_parameters == 6
    assert check_fixed(mode.fixed, 3, "spherical") == em.fixed  # as `posterior` asks, and then draws
    assert em.fixed.of(START).weights.tolist() == [1 / 3] * 3


# Draws


def test_gibbs_and_nuts_agree(tmp_path):
    """With a weight, a mean and a variance held, of different components; and draws know what is held."""
    x, trees = few_rows(), {}
    fit = jg.fit(x, init=START, key=KEY, fixed=HELD)
    for method in ("gibbs", "nuts"):
        trees[method] = jg.posterior(x, fit, method=method, key=KEY)  # holds what the fit held
        draws = jg.draws_of(trees[method])
        for name, (k,) in HELD.items():
            assert (np.asarray(getattr(draws, name))[:, :, k] == np.asarray(getattr(START, name))[k]).all()
        np.testing.assert_allclose(np.asarray(draws.weights).sum(-1), 1, atol=1e-14)
    for name, k in (("weights", 1), ("means", 0), ("means", 2), ("covariances", 0), ("covariances", 1)):
        values = {method: np.asarray(getattr(jg.draws_of(tree), name))[:, :, k].squeeze() for method, tree in trees.items()}
        values = {m: np.log(v) if name == "covariances" else v for m, v in values.items()}
        for power in (1, 2):
            moments = {m: v**power for m, v in values.items()}
            errors = [v.std() / float(array_stats.ess(v, method="mean")) ** 0.5 for v in moments.values()]
            assert abs(moments["gibbs"].mean() - moments["nuts"].mean()) < 4 * np.hypot(*errors), (name, k, power)
    lp = {m: tree["sample_stats"]["lp"].values for m, tree in trees.items()}
    errors = [v.std() / float(array_stats.ess(v, method="mean")) ** 0.5 for v in lp.values()]
    assert abs(lp["gibbs"].mean() - lp["nuts"].mean()) < 4 * np.hypot(*errors)

    tree = jg.load_posterior(jg.save_posterior(jg.relabel(trees["gibbs"], fit), tmp_path / "held.nc"))
    assert tree.attrs["fixed"] == "weights of 0, means of 1, covariances of 2"
    assert tree["constant_data"]["held_means"].values.tolist() == [False, True, False]
    assert tree.attrs["switch_rate"] == 0
    assert jg.diagnose(tree).problems == ()
    own = jg.intervals(tree)["means"].sel(component_id=1)
    np.testing.assert_allclose(own, np.full((3, 1), 2.8), rtol=1e-12)  # the mean of 4000 rounds as often
    np.testing.assert_allclose(jg.intervals(fit, x=x, key=KEY)["weights"].sel(component_id=0), [0.45] * 3, rtol=1e-12)


def test_components_that_differ_in_what_is_held_keep_their_places():
    """Draws in which each two of four have changed places: only those that nothing tells apart are put back."""
    x = np.random.default_rng(0).normal(size=(40, 1))
    gmm = jg.GMM([0.25] * 4, [[-3.0], [-1.0], [1.0], [3.0]], [0.1] * 4, "spherical")
    draws = draws_around(gmm, sd=0.02)
    swapped = jax.tree.map(np.array, draws)
    for leaf in jax.tree.leaves(swapped):
        leaf[:, ::2] = leaf[:, ::2][:, :, [1, 0, 3, 2]]
    held = check_fixed({"covariances": [0, 2, 3]}, 4, "spherical")  # 2 and 3 are held at one value
    swapped = held.put_back(swapped, gmm)
    tree = jg.relabel(tree_of(swapped, x, held=held), gmm)
    order = tree["sample_stats"]["permutation"].values
    assert (order[..., :2] == [0, 1]).all()
    assert (order[:, ::2, 2:] == [3, 2]).all()
    free = jg.relabel(tree_of(swapped, x), gmm)
    assert (free["sample_stats"]["permutation"].values[:, ::2] == [1, 0, 3, 2]).all()


def test_a_stream_holds_what_the_fit_held():
    x = few_rows()
    state = jg.stepwise(jg.fit(x, init=START, key=KEY, fixed=HELD)).update(x[:20]).update(x[20:])
    for name, (k,) in HELD.items():
        assert np.array_equal(getattr(state.gmm, name)[k], getattr(START, name)[k])
    assert float(state.gmm.means[0, 0]) != 0


# What isn't to be had


X = np.array([[0.0], [0.4], [3.0], [7.1], [6.5], [2.2]])
PRIOR = jg.Prior(1.0, [3.0], 0.1, 3.0, 1.0, "spherical")


def draw(**options):
    return jg.posterior(X, START, **{"method": "gibbs", "key": KEY, "prior": PRIOR, **options})


def model(**options):
    return jg.numpyro_model(**{"x": X, "n_components": 3, "family": "spherical", "prior": PRIOR, **options})


REFUSED = {
    "a method that draws all": (lambda: draw(method="vb", fixed=HELD), ["method 'vb'", "weights of 0", "gibbs", r"fixed=\(\)"]),
    "draws from the prior": (lambda: draw(fixed=HELD, groups=["prior"]), ["groups", "'prior'", "leave 'prior' out"]),
    "nothing to draw": (lambda: draw(fixed=("weights", "means", "covariances")), ["fixed", "nothing is left"]),
    "an unknown name": (lambda: draw(fixed=("mean",)), ["fixed", "'mean'", "'means'"]),
    "a component that isn't there": (lambda: draw(fixed={"means": [3]}), ["fixed", "component 3", "0 to 2"]),
    "fit_map from seeds": (
        lambda: jg.fit_map(X, 3, key=KEY, family="spherical", fixed=("means",)),
        ["fixed", "init must be a GMM"],
    ),
    "NumPyro without values": (lambda: model(fixed=("means",)), ["fixed", "pass it as init"]),
    "NumPyro with values for nothing": (lambda: model(init=START), ["init", "leave init out"]),
    "NumPyro with values of others": (
        lambda: model(n_components=2, init=START, fixed=("means",)),
        ["init", "3 components", "2"],
    ),
    "NumPyro without rows": (lambda: model(x=None, n_samples=5, init=START, fixed=HELD), ["x is None", "fixed"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, parts = REFUSED[case]
    with pytest.raises(jg.tools.errors.UserError, match=re.compile(".*".join(parts), re.DOTALL)):
        call()
