"""Priors of which components have their own: one density for SciPy, NumPyro and MAP-EM, and the posterior by enumeration."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from helpers import FAMILIES, draws_around, kept, random_member, tree_of
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import digamma, gammaln, logsumexp

import jaxgmm as jg
from jaxgmm.bayes.priors.conjugate import posterior_given
from jaxgmm.bayes.target.coordinates import layout_of
from jaxgmm.bayes.target.whitening import frame_at, shifted
from jaxgmm.covariance import get_family
from jaxgmm.model.statistics import Statistics

KEY = jax.random.key(0)
NAMES = ("weights", "means", "covariances")
MEANS = np.array([[0.0, 0.0], [3.0, 1.0], [0.5, 4.0]])


def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(m, sd, (n, 2)) for m, sd, n in zip(MEANS, (0.5, 1, 1.5), (30, 20, 25), strict=True)])


def own_prior(family):
    """Every number differs between components, but for those of covariances that are shared."""
    dense = np.array([[[1.0, 0.3], [0.3, 0.5]], [[2.0, 0.0], [0.0, 3.0]], [[4.0, -1.0], [-1.0, 6.0]]])
    scale = kept(family, dense) if get_family(family).separate else dense[1]
    nu = [6.0, 9.0, 12.0] if get_family(family).separate else 7.0
    return jg.Prior([1.5, 2.0, 4.0], MEANS + 0.3, [0.5, 2.0, 8.0], nu, scale, family)


def of_component(prior, k):
    """The prior of one component, as one of all."""
    return replace(prior, **{name: np.asarray(getattr(prior, name))[k] for name in prior.by_component})


def scipy_log_prob(prior, gmm):
    """The hierarchy, component by component."""
    total, dense = stats.dirichlet.logpdf(np.asarray(gmm.weights), np.asarray(prior.concentration)), gmm.dense_covariances()
    for k in range(3):
        own, mean, covariance = of_component(prior, k), np.asarray(gmm.means)[k], np.asarray(dense)[k]
        nu, scale = float(own.degrees_of_freedom), np.asarray(own.scale)
        total += stats.multivariate_normal.logpdf(mean, own.mean, covariance / float(own.mean_precision))
        if not get_family(gmm.family).per_component and k:
            continue
        if scale.ndim == 2:
            total += stats.invwishart.logpdf(covariance, nu, scale)
        else:
            variances = np.diagonal(covariance)[: max(scale.size, 1)]
            total += stats.invgamma.logpdf(variances, nu / 2, scale=scale / 2).sum()
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_one_density_and_its_mode(family):
    """MAP-EM's objective is SciPy's density and NumPyro's, whose gradient vanishes at its fixed point."""
    x, prior = rows(), own_prior(family)
    start = jg.GMM(np.full(3, 1 / 3), MEANS + 0.5, random_member(family, 3, 2).covariances, family)
    fit = jg.fit(x, key=KEY, init=start, prior=prior, rtol=1e-14)
    assert fit.converged
    assert fit.objective == pytest.approx(fit.log_likelihood + scipy_log_prob(prior, fit.gmm), rel=1e-11)
    with jax.enable_x64(True):
        sites = {name: jnp.asarray(getattr(fit.gmm, name)) for name in NAMES}
        value = jax.jit(jax.value_and_grad(lambda sites: log_density(jg.numpyro_model, (x, 3, family, prior), {}, sites)[0]))
        found, gradient = value(sites)
    assert float(found) == pytest.approx(fit.objective, rel=1e-11)
    shares, up = np.asarray(fit.gmm.weights), np.asarray(gradient["weights"])
    effects = shares * (up - shares @ up), gradient["means"] * x.std(0), gradient["covariances"] * sites["covariances"]
    assert max(np.abs(effect).max() for effect in effects) < 1e-5 * len(x)


def test_map_em_is_that_of_plain_numpy():
    """Step by step, from one start; the loop's padding takes no part."""
    x, prior, n_steps = rows(), own_prior("full"), 7
    weights, means, covariances = np.full(3, 1 / 3), MEANS + 0.5, np.tile(2 * np.eye(2), (3, 1, 1))
    start = jg.GMM(weights, means, covariances)
    alpha, m0, kappa, nu, psi = (np.asarray(leaf) for leaf in jax.tree.leaves(prior))
    for _ in range(n_steps):
        density = [stats.multivariate_normal.logpdf(x, m, c) for m, c in zip(means, covariances, strict=True)]
        joint = np.log(weights) + np.transpose(density)
        r = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        counts = r.sum(0)
        weights = (counts + alpha - 1) / (counts + alpha - 1).sum()
        means = (kappa[:, None] * m0 + r.T @ x) / (kappa + counts)[:, None]
        about, away = x - means[:, None], means - m0
        scatter = np.einsum("nk,kni,knj->kij", r, about, about) + np.einsum("k,ki,kj->kij", kappa, away, away)
        covariances = (psi + scatter) / (nu + counts + 4)[:, None, None]
    with pytest.warns(jg.FitWarning, match="max_steps"):
        fit = jg.fit(x, key=KEY, init=start, prior=prior, rtol=0, max_steps=n_steps)
    for name, expected in zip(NAMES, (weights, means, covariances), strict=True):
        np.testing.assert_allclose(getattr(fit.gmm, name), expected, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_component_has_the_posterior_of_its_own_prior(family):
    """Given allocations, and so have the coordinates in which a posterior is near a unit normal."""
    x, prior = rows(), own_prior(family)
    groups = np.split(x, [30, 50])
    counts, sums = np.array([len(g) for g in groups], float), np.array([g.sum(0) for g in groups])
    scatter = kept(family, np.array([g.T @ g for g in groups]))
    gmm = random_member(family, 3, 2)
    with jax.enable_x64(True):
        statistics = Statistics(counts, sums, scatter, np.zeros((3, 2)), np.zeros(()), counts.sum())
        whole, layout = posterior_given(prior, statistics, family), layout_of(gmm, prior)
        unit = frame_at(gmm, {}, shifted(prior, np.ones(2)), 75.0, layout).unit
        np.testing.assert_allclose(shifted(prior, np.ones(2)).mean, np.asarray(prior.mean) - 1)
        for k in range(3):
            alone = of_component(prior, k)
            own = posterior_given(alone, statistics, family)
            for name in ("concentration", "mean", "mean_precision"):
                np.testing.assert_allclose(getattr(whole, name)[k], getattr(own, name)[k], rtol=1e-14)
            if get_family(family).per_component:
                np.testing.assert_allclose(whole.degrees_of_freedom[k], own.degrees_of_freedom[k], rtol=1e-14)
                np.testing.assert_allclose(whole.scale[k], own.scale[k], rtol=1e-12)
            first = slice(layout.covariance_size + 2 * k, layout.covariance_size + 2 * k + 2)
            np.testing.assert_allclose(unit[first], frame_at(gmm, {}, alone, 75.0, layout).unit[first], rtol=1e-14)
    if not get_family(family).per_component:  # Psi has a term for each mean
        away = np.asarray(whole.mean) - np.asarray(prior.mean)
        scale = np.asarray(prior.scale) + np.einsum("k,ki,kj->ij", np.asarray(prior.mean_precision), away, away)
        scale += sum((g - m).T @ (g - m) for g, m in zip(groups, np.asarray(whole.mean), strict=True))
        np.testing.assert_allclose(whole.scale, scale, rtol=1e-12)


# A line and a background, of so few rows that all allocations can be counted.

FEW = np.array([[0.1], [-0.2], [0.05], [0.4], [2.5], [-3.0], [4.0]])
LINE = jg.Prior([2.0, 1.0], [[0.0], [1.0]], [20.0, 0.1], [8.0, 3.0], [1.0, 12.0], "spherical")


def by_enumeration():
    """E[weights_0], E[means] and E[log variances], over 2^7 allocations: NumPy and SciPy alone."""
    alpha, m0, kappa, nu, psi = (np.asarray(leaf).reshape(2) for leaf in jax.tree.leaves(LINE))
    log_p, values = [], []
    for labels in itertools.product((0, 1), repeat=len(FEW)):
        own = [FEW[np.array(labels) == k, 0] for k in (0, 1)]
        n = np.array([g.size for g in own])
        total, mean, log_variance = stats.betabinom.logpmf(n[0], n.sum(), *alpha) - np.log(arrangements(n)), [], []
        for k, g in enumerate(own):
            strength, degrees = kappa[k] + n[k], nu[k] + n[k]
            mean.append((kappa[k] * m0[k] + g.sum()) / strength)
            scale = psi[k] + (g**2).sum() + kappa[k] * m0[k] ** 2 - strength * mean[k] ** 2
            total += gammaln(degrees / 2) - gammaln(nu[k] / 2) + (np.log(kappa[k]) - np.log(strength)) / 2
            total += (nu[k] * np.log(psi[k]) - degrees * np.log(scale)) / 2 - n[k] / 2 * np.log(np.pi)
            log_variance.append(np.log(scale / 2) - digamma(degrees / 2))
        log_p.append(total)
        values.append([(alpha[0] + n[0]) / (alpha.sum() + n.sum()), *mean, *log_variance])
    p = np.exp(log_p - logsumexp(log_p))
    return p @ np.array(values)


def arrangements(n):
    return np.exp(gammaln(n.sum() + 1) - gammaln(n + 1).sum())


def test_gibbs_draws_from_the_posterior(tmp_path):
    expected = by_enumeration()
    start = jg.GMM([0.6, 0.4], [[0.0], [1.0]], [0.1, 4.0], "spherical")
    tree = jg.posterior(FEW, start, prior=LINE, method="gibbs", key=KEY, n_draws=1500, thin=2, groups=["prior"])
    draws = jg.draws_of(tree)
    found = [draws.weights[..., 0], *np.moveaxis(np.asarray(draws.means)[..., 0], -1, 0)]
    found += list(np.log(np.moveaxis(np.asarray(draws.covariances), -1, 0)))
    for values, truth in zip(map(np.asarray, found), expected, strict=True):
        error = values.std() / float(array_stats.ess(values, method="mean")) ** 0.5
        assert abs(values.mean() - truth) < 4 * error

    means = tree["prior"]["means"].values[0, :, :, 0]
    assert stats.kstest((means[:, 0] - 0) / (1 / 8 / 20) ** 0.5, stats.t(8).cdf).pvalue > 1e-3
    assert stats.kstest((means[:, 1] - 1) / (12 / 3 / 0.1) ** 0.5, stats.t(3).cdf).pvalue > 1e-3
    again = jg.load_posterior(jg.save_posterior(tree, tmp_path / "line.nc"))
    assert again["constant_data"]["prior_mean"].dims == ("component_id", "feature")
    assert again["constant_data"]["prior_scale"].dims == ("component_id",)


@pytest.mark.parametrize("name", ["concentration", "mean", "scale"])
def test_components_whose_priors_differ_keep_their_places(name):
    """Draws in which each two of four have changed places: only those of one prior are put back."""
    x = np.random.default_rng(0).normal(size=(40, 1))
    gmm = jg.GMM([0.25] * 4, [[-3.0], [-1.0], [1.0], [3.0]], [0.1] * 4, "spherical")
    draws = jax.tree.map(np.array, draws_around(gmm, sd=0.02))
    for leaf in jax.tree.leaves(draws):
        leaf[:, ::2] = leaf[:, ::2][:, :, [1, 0, 3, 2]]
    own = np.array([1.0, 2.0, 3.0, 3.0])
    numbers = {"concentration": 1.0, "mean": [0.0], "mean_precision": 0.1, "degrees_of_freedom": 3.0, "scale": 1.0}
    prior = jg.Prior(**numbers | {name: own[:, None] if name == "mean" else own}, family="spherical")
    order = jg.relabel(tree_of(draws, x, prior=prior), gmm)["sample_stats"]["permutation"].values
    assert (order[..., :2] == [0, 1]).all()
    assert (order[:, ::2, 2:] == [3, 2]).all()
