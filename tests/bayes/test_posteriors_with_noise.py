"""Posteriors of mixtures beside noise: one density for EM, NumPyro and samplers; draws against sums over all allocations."""

import dataclasses
import itertools

import arviz_stats as azs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from helpers import draws_around
from numpyro.infer.util import log_density
from scipy.special import betaln, entr, gammaln, logsumexp
from scipy.stats import kstest, multivariate_normal, norm

import jaxgmm as jg
from jaxgmm.bayes.samplers.allocating import allocate
from jaxgmm.bayes.target.coordinates import constrain_factored, layout_of, log_posterior, vector_of
from jaxgmm.bayes.target.noise import start_of_noise
from jaxgmm.bayes.target.problem import Draws, Problem
from jaxgmm.bayes.target.whitened import log_likelihood_at, log_prior_at, point_at, target_of
from jaxgmm.bayes.target.whitening import log_volume
from jaxgmm.bayes.trees.build import to_datatree
from jaxgmm.bayes.trees.per_draw import noise_from_prior
from jaxgmm.bayes.trees.storage import load_posterior, save_posterior
from jaxgmm.data.observed import room_beyond
from jaxgmm.data.placed import Seen
from jaxgmm.fitting.noise import Noise
from jaxgmm.model.density import Uniform, beside

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SIGNAL = np.concatenate([RNG.normal([0, 0], [1, 0.6], (30, 2)), RNG.normal([5, 4], [0.7, 1], (25, 2))])
X = np.concatenate([SIGNAL, RNG.uniform(-15, 20, (8, 2))])
GAPPY = np.where(np.arange(126).reshape(63, 2) % 17 == 3, np.nan, X)
LABELS = np.where(np.arange(63) % 20 == 5, np.arange(63) >= 30, -1)  # the last is an outlier's, which so isn't noise
SIDES = np.where(np.isnan(GAPPY[:, ::-1]), np.where(np.arange(63)[:, None] % 2 == 0, -1, 1), 0)  # where nothing else was seen
WIDTHS = [40.0, 50.0]
ALLOWED = (LABELS[:, None] < 0) | (LABELS[:, None] == [0, 1, -2])  # to be of a component, or noise
KNOWN = {"labels": LABELS, "censored": SIDES}
START = jg.GMM([0.55, 0.45], [[0.0, 0.0], [5.0, 4.0]], [[[1.0, 0.2], [0.2, 0.4]], [[0.5, 0.0], [0.0, 1.0]]])


def log_joint(share, gmm, x, box, sides=None):
    """Log p(what was seen of a row, component or noise), by scipy; limits stand alone in their rows."""
    joint, widths = np.empty((len(x), gmm.n_components + 1)), np.log(box[1] - box[0])
    for n, row in enumerate(x):
        seen = ~np.isnan(row)
        for k in range(gmm.n_components):
            own = multivariate_normal(np.asarray(gmm.means)[k, seen], np.asarray(gmm.covariances)[k][np.ix_(seen, seen)])
            joint[n, k] = np.log1p(-share) + np.log(gmm.weights[k]) + own.logpdf(row[seen])
        joint[n, -1] = np.log(share) - widths[seen].sum()
        if sides is not None and sides[n].any():
            ((d,),) = np.nonzero(sides[n])
            sd = np.sqrt(np.asarray(gmm.covariances)[:, d, d])
            z = -sides[n, d] * (row[d] - np.asarray(gmm.means)[:, d]) / sd
            joint[n, :-1] = np.log1p(-share) + np.log(gmm.weights) + norm.logcdf(z)
            joint[n, -1] += np.log(row[d] - box[0, d] if sides[n, d] < 0 else box[1, d] - row[d])
    return joint


@pytest.fixture(scope="module")
def fit():
    with jax.enable_x64(True):
        return jg.fit(GAPPY, init=START, key=KEY, noise=WIDTHS, rtol=1e-12, **KNOWN)


def test_the_samplers_have_the_density_of_the_fit_and_of_numpyro(fit):
    """At the mode and away from it, with respect to the parameters: whitened coordinates and vectors have their Jacobians."""
    prior, box = fit.prior, fit.noise.box
    noise = start_of_noise(fit.noise.weight, fit.noise.log_widths, 63, np.dtype(float))
    evidence = np.where(ALLOWED[:, :2], 0.0, -np.inf)
    placed, start = Seen(GAPPY, None, None, evidence, SIDES, box).placed(np.dtype(float)), jax.tree.map(jnp.asarray, START)
    problem = Problem(placed.rows, placed.weight, start, prior, layout_of(start, prior, noise=noise), noise)
    target, layout = target_of(problem), problem.layout

    @jax.jit
    def everywhere(v):
        """The log density with respect to the parameters at whitened coordinates: of these, of the vector, of NumPyro."""
        point = point_at(v, target, layout)
        log_prior = log_prior_at(point, target, layout) - point.log_jacobian - log_volume(target.frame, layout)
        gmm = point.gmm.moved(target.shift)
        vector = vector_of(gmm, point.extra, layout.order)
        own, _, extra, log_jacobian = constrain_factored(vector, layout)
        of_vector = log_posterior(vector, layout, problem.x, problem.weight, prior, noise=noise) - log_jacobian
        sites = {name: getattr(gmm, name) for name in ("weights", "means", "covariances")} | point.extra
        by_numpyro = log_density(jg.numpyro_model, (GAPPY, 2), {"prior": prior, "noise": WIDTHS, **KNOWN}, sites)[0]
        return (log_prior + log_likelihood_at(point, target), of_vector, by_numpyro), gmm, point.extra, (own.weights, extra)

    def by_scipy(gmm, share):
        joint = np.where(ALLOWED, log_joint(share, gmm, GAPPY, box, SIDES), -np.inf)
        return logsumexp(joint, axis=1).sum() + float(prior.log_prob(gmm))

    assert fit.objective == pytest.approx(by_scipy(fit.gmm, fit.noise.weight), rel=1e-11)
    for v in (np.zeros(layout.size), np.random.default_rng(1).normal(size=layout.size)):
        densities, gmm, extra, back = everywhere(v)
        np.testing.assert_allclose(densities, by_scipy(gmm, float(extra["noise_weight"])), rtol=1e-11)
        np.testing.assert_allclose(back[0], gmm.weights, rtol=1e-12)
        np.testing.assert_allclose(back[1]["noise_weight"], extra["noise_weight"], rtol=1e-12)


def test_what_a_fit_with_noise_says_of_limits(fit):
    """The probability that the box puts beyond; where EM ends, the share is the mean of its own responsibilities."""
    joint = log_joint(fit.noise.weight, fit.gmm, GAPPY, fit.noise.box, SIDES)
    log_density = logsumexp(joint, axis=1)
    np.testing.assert_allclose(fit.log_prob(GAPPY, censored=SIDES), log_density, rtol=1e-11)
    np.testing.assert_allclose(fit.log_prob(GAPPY[1], censored=SIDES[1]), log_density[1], rtol=1e-11)
    r = np.exp(joint - log_density[:, None])
    np.testing.assert_allclose(fit.responsibilities(GAPPY, censored=SIDES), r[:, :2], atol=1e-10)
    np.testing.assert_array_equal(fit.predict(GAPPY, censored=SIDES), np.array([0, 1, -1])[r.argmax(1)])
    assert fit.noise.weight == pytest.approx(np.where(LABELS < 0, r[:, 2], 0).mean(), rel=1e-5)
    several, sides = np.array([[1.0, 2.0], [-30.0, 30.0], [0.0, np.nan]]), np.array([[-1, 1], [1, 1], [0, 0]])
    lower, upper = fit.noise.box
    expected = [np.log((1 - lower[0]) * (upper[1] - 2)), -np.inf, 0]  # the second asks for more than the box has
    np.testing.assert_allclose(room_beyond(several, sides, fit.noise.box), expected)


# One component of independent features beside noise, summed over all allocations of a few rows

FEW = np.array(
    [[0.1, 1.0], [0.6, 0.2], [-0.4, 0.7], [0.3, -0.5], [-0.8, 0.4], [1.0, 0.5], [-3.0, 2.5], [4.0, -2.0], [2.0, 3.5]]
)
ONE = jg.Prior(1.0, [0.2, 0.3], 0.5, 4.0, [1.5, 1.0], "diag")


def log_evidence(values, mean, prior_scale):
    """Of one feature's values, from its normal-inverse-gamma prior: sigma^2 ~ InverseGamma(nu / 2, psi / 2)."""
    kappa, nu, n = ONE.mean_precision, ONE.degrees_of_freedom, len(values)
    strength = kappa + n
    centre = (kappa * mean + values.sum()) / strength
    psi = prior_scale + ((values - centre) ** 2).sum() + kappa * (mean - centre) ** 2
    gammas = gammaln((nu + n) / 2) - gammaln(nu / 2)
    return (
        gammas - n / 2 * np.log(np.pi) + np.log(kappa / strength) / 2 + (nu * np.log(prior_scale) - (nu + n) * np.log(psi)) / 2
    )


def by_enumeration(log_widths):
    """E[share], E[share^2], and each row's probability of being noise."""
    allocations = np.array(list(itertools.product([False, True], repeat=len(FEW))))
    a, b = 1 + allocations.sum(1), 1 + (~allocations).sum(1)
    log_p = betaln(a, b) - allocations.sum(1) * log_widths.sum()
    for d in range(2):
        log_p += [log_evidence(FEW[~noisy, d], float(ONE.mean[d]), float(ONE.scale[d])) for noisy in allocations]
    p = np.exp(log_p - logsumexp(log_p))
    return p @ (a / (a + b)), p @ (a * (a + 1) / ((a + b) * (a + b + 1))), p @ allocations


@pytest.mark.parametrize(("method", "n_draws", "options"), [("gibbs", 1000, {"thin": 3}), ("nuts", 1000, {})])
def test_draws_are_those_of_the_sum_over_all_allocations(fit, method, n_draws, options):
    gmm, noise = jg.GMM([1.0], [[0.2, 0.3]], [[0.5, 0.4]], "diag"), Noise(0.3, FEW.min(0), FEW.max(0))
    few = dataclasses.replace(fit, gmm=gmm, noise=noise, prior=ONE, fingerprint=None)
    tree = jg.posterior(FEW, few, method=method, key=KEY, n_draws=n_draws, **options)
    share, square, rows = by_enumeration(noise.log_widths)
    draws = tree["posterior"].to_dataset()[["noise_weight", "log_likelihood"]]
    draws = draws.assign(square=draws["noise_weight"] ** 2)
    effective = azs.ess(draws)
    for name, expected in (("noise_weight", share), ("square", square)):
        assert effective[name] > 1000
        error = float(draws[name].std() / np.sqrt(effective[name]))
        assert abs(float(draws[name].mean()) - expected) < 4 * error, name
    table, rarer_than_a_draw = jg.membership(tree), 1 / draws["noise_weight"].size
    error = table["sd"][:, 0] / np.sqrt(float(effective["log_likelihood"]))
    np.testing.assert_array_less(abs(table["noise"] - rows), 4 * error + rarer_than_a_draw)
    assert rows.min() < 0.3 < 0.9 < rows.max()


def test_rows_by_pattern_are_allocated_by_their_responsibilities():
    """With gaps, errors, limits and labels: how often to each component, and that noise is in no sums."""
    variances = np.where(np.isnan(GAPPY), 0, 0.3)
    evidence = np.where(ALLOWED[:, :2], 0.0, -np.inf)
    box = np.array([[-20.0, -22], [24, 25]])
    placed = Seen(GAPPY, None, variances, evidence, SIDES, box).placed(np.dtype(float))
    noise = Uniform(jnp.log(0.2), jnp.log(box[1] - box[0]))

    @jax.jit
    def allocated(keys):
        components = beside(jax.tree.map(jnp.asarray, START).components(), noise)
        return jax.vmap(lambda key: allocate(key, components, placed.rows, placed.weight))(keys)

    many = allocated(jax.random.split(KEY, 1000))
    measured = jg.GMM(START.weights, START.means, START.covariances + 0.3 * np.eye(2))
    joint = np.where(ALLOWED, log_joint(0.2, measured, GAPPY, box, SIDES), -np.inf)
    log_density = logsumexp(joint, axis=1)
    np.testing.assert_allclose(many.log_likelihood, log_density.sum(), rtol=1e-11)
    r = np.exp(joint - log_density[:, None])[:, :2]
    error = np.sqrt((r * (1 - r)).sum(0) / 1000)
    assert (abs(many.counts.mean(0) - r.sum(0)) < 4 * error).all()
    assert (many.counts.sum(1) < 60).all()  # of 63, of which 8 are outliers, one of them with a label
    np.testing.assert_array_equal(many.total_weight, 63)
    spread = np.trace(np.asarray(many.scatter), axis1=2, axis2=3) / many.counts
    assert (spread < 6).all()  # an outlier's square would be 100


# What a tree is asked, of draws that are given

WHERE = np.concatenate([RNG.normal(0, 0.05, 24), RNG.normal(1, 0.05, 20), [-6.0, 3.3, 5.0, 9.0]])[:, None]
CORNERS = np.array([[-6.0], [9.0]])
SHARES = RNG.uniform(0.05, 0.15, (4, 30))
DRAWS = draws_around(jg.GMM([0.6, 0.4], [[0.0], [1.0]], [[[0.0025]], [[0.0025]]]), (4, 30), sd=0.01)
OF_PRIOR = jg.Prior.fraley_raftery(WHERE, 2)


@pytest.fixture(scope="module")
def tree():
    draws = Draws(DRAWS, {"noise_weight": SHARES}, {"lp": np.zeros((4, 30))}, {})
    how = {"key": KEY, "attrs": {"method": "gibbs"}, "groups": ["log_likelihood", "log_prior", "posterior_predictive"]}
    with jax.enable_x64(True):
        return to_datatree(draws, Seen(WHERE, box=CORNERS), OF_PRIOR, **how)


@pytest.fixture(scope="module")
def shares():
    """p(component or noise | row), (draws, N, 3)."""
    joint = np.array([log_joint(SHARES[at], one_of(at), WHERE, CORNERS) for at in np.ndindex(4, 30)])
    return np.exp(joint - logsumexp(joint, axis=-1, keepdims=True)), logsumexp(joint, axis=-1)


def one_of(at):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[at], DRAWS)


def test_noise_is_a_component_of_the_density_and_belongs_to_none(tree, shares):
    r, log_density = shares
    np.testing.assert_allclose(tree["log_likelihood"]["x"].values.reshape(120, -1), log_density, rtol=1e-10)
    np.testing.assert_allclose(tree["posterior"]["log_likelihood"].values.ravel(), log_density.sum(1), rtol=1e-10)
    entropy = entr(r).sum(-1).mean(-1)
    np.testing.assert_allclose(tree["posterior"]["entropy"].values.ravel(), entropy, atol=1e-10)
    assert (tree["allocations"]["n_clusters"] == 2).all()
    expected = [float(OF_PRIOR.log_prob(one_of((0, draw)))) for draw in range(3)]  # the share's is 1
    np.testing.assert_allclose(tree["log_prior"]["log_prior"][0, :3], expected, rtol=1e-10)

    relabelled = jg.relabel(tree, one_of((0, 0)))
    assert relabelled.attrs["non_permutation_rate"] == 0
    shuffled = tree.assign(posterior=xarray.DataTree(tree["posterior"].to_dataset().sel(component_id=[1, 0])))
    np.testing.assert_array_equal(jg.relabel(shuffled, one_of((0, 0)))["posterior"]["means"], tree["posterior"]["means"])
    table = jg.membership(relabelled)
    np.testing.assert_allclose(table["membership"], r.mean(0)[:, :2], atol=1e-10)
    np.testing.assert_allclose(table["sd"], r.std(0, ddof=1)[:, :2], atol=1e-10)
    np.testing.assert_allclose(table["noise"], r.mean(0)[:, 2], atol=1e-10)
    np.testing.assert_allclose(table["entropy"], entr(r.mean(0)).sum(-1), atol=1e-10)
    together = np.einsum("snk,smk->nm", r[:, -6:, :2], r[:, -6:, :2]) / 120
    np.fill_diagonal(together, 1)
    np.testing.assert_allclose(jg.coclustering(tree, rows=range(42, 48)), together, atol=1e-10)
    np.testing.assert_allclose(jg.intervals(relabelled)["noise_weight"][0], SHARES.mean())
    assert jg.diagnose(relabelled).table.loc["noise_weight", "meaning"] == "label-invariant"
    assert float(jg.merged_counts(tree, n_draws=5)["probability"].sel(count=2)) == 1


def test_replicated_rows_have_their_share_of_noise(tree):
    """Components are so narrow that what lies beyond ten of their sds is noise."""
    rows = tree["posterior_predictive"]["x"].values
    far = np.abs(rows - [0, 1]).min(-1) > 0.5
    n, expected = far.size, SHARES.mean() * 13 / 15  # of the box, 2 in 15 are near
    assert abs(far.mean() - expected) < 4 * np.sqrt(expected / n)
    below = rows[..., 0][far & (rows[..., 0] < 0)]
    assert kstest(below, "uniform", (-6, 5.5)).pvalue > 1e-3
    a_priori = noise_from_prior(KEY, np.full((500, 40, 1), 20.0), CORNERS)
    assert kstest(a_priori["noise_weight"], "uniform").pvalue > 1e-3
    np.testing.assert_allclose((a_priori["x"] < 20).mean((1, 2)), a_priori["noise_weight"], atol=4 * 0.5 / np.sqrt(40))
    table = jg.predictive_checks(tree, key=KEY, n_replicates=60)
    assert table["statistic"].tolist() == ["mean", "sd", "skewness"]  # no replicate leaves a box that was made of the rows
    assert table["p"].between(0.01, 0.99).all()
    ax = jg.plots.draws(tree, WHERE).axes[0]
    components = sum(np.trapezoid(line.get_ydata(), line.get_xdata()) for line in ax.lines)
    assert components == pytest.approx(1 - SHARES.mean(), abs=0.03)


def test_draws_of_ones_own_model_with_noise(tree):
    samples = {"weights": DRAWS.weights, "means": DRAWS.means, "covariances": DRAWS.covariances, "noise_weight": SHARES}
    adopted = jg.adopt(samples, WHERE, noise=True)
    np.testing.assert_array_equal(adopted["posterior"]["log_likelihood"], tree["posterior"]["log_likelihood"])
    with pytest.raises(ValueError, match="samples has a variable 'noise_weight', the share of noise, but noise is False"):
        jg.adopt(samples, WHERE)


def test_files_keep_the_box(tree, tmp_path):
    back = load_posterior(save_posterior(jg.relabel(tree), tmp_path / "draws.nc"))
    np.testing.assert_array_equal(np.stack([back["constant_data"][name] for name in ("noise_lower", "noise_upper")]), CORNERS)
    assert "noise" in jg.membership(back, [[2.0]])


@pytest.mark.parametrize("method", ["vb", "bootstrap", "weighted-likelihood"])
def test_methods_that_know_no_noise_say_so(fit, method):
    with pytest.raises(ValueError, match=rf"method '{method}' knows no noise.*take one of nuts, gibbs.*or pass fit\.gmm"):
        jg.posterior(SIGNAL, fit, method=method, key=KEY)
