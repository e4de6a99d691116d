"""Gibbs sampling: exact conditionals, exact posteriors, Geweke's test, calibration, and a published sampler's numbers."""

import dataclasses
import itertools

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import REFERENCE, random_member
from numpyro.infer import MCMC
from scipy.special import digamma, gammaln, logsumexp, softmax

import jaxgmm as jg
from jaxgmm.bayes.priors.base import draw_parameters, log_prior_constant
from jaxgmm.bayes.samplers import allocating
from jaxgmm.bayes.samplers.chains import Schedule
from jaxgmm.bayes.samplers.gibbs import gibbs, gibbs_start, gibbs_step
from jaxgmm.bayes.samplers.gibbs_kernel import GibbsKernel
from jaxgmm.bayes.target.coordinates import layout_of
from jaxgmm.bayes.target.problem import Problem
from jaxgmm.covariance import get_family
from jaxgmm.model.engines import assigned_statistics
from jaxgmm.tools.variates import draw_labels

KEY = jax.random.key(0)
KINDS = ("full", "tied", "diag", "spherical", "richardson-green")
# Of the small problems below. All of them have these sizes, so that a kind of prior compiles once.
N_CHAINS, N, K = 512, 8, 2


def small_prior(kind):
    """A proper prior, informative enough that all moments used here exist, with components that aren't exchangeable."""
    alpha = np.array([1.5, 0.7])
    if kind == "richardson-green":
        return jg.RichardsonGreen(0.5, 4.0, 2.0, shape=3.0, rate_shape=4.0, concentration=alpha)
    scale = {"full": [[4.0, 1.5], [1.5, 3.0]], "tied": [[4.0, 1.5], [1.5, 3.0]], "diag": [4.0, 3.0], "spherical": 4.0}[kind]
    return jg.Prior(alpha, [0.5, -1.0], 0.4, 9.0, scale, kind)


def small_gmm(kind):
    """A mixture that fits the prior; its values don't matter."""
    family, d = ("spherical", 1) if kind == "richardson-green" else (kind, 2)
    shape = get_family(family).shape(K, d)
    eye = np.eye(d) if len(shape) > 1 and shape[-2:] == (d, d) and family in ("full", "tied") else 1.0
    return jg.GMM(np.full(K, 1 / K), np.arange(K * d).reshape(K, d), np.broadcast_to(eye, shape), family)


@jax.jit
def start_chains(keys, gmm, x, prior):
    return jax.vmap(lambda key, gmm, x: gibbs_start(key, gmm, x, prior))(keys, gmm, x)


@jax.jit
def sweep(key, states, x, prior, n_sweeps):
    """Many chains, each with rows of its own."""

    def one(i, states):
        keys = jax.random.split(jax.random.fold_in(key, i), N_CHAINS)
        return jax.vmap(lambda key, state, x: gibbs_step(key, state, x, prior))(keys, states, x)

    return jax.lax.fori_loop(0, n_sweeps, one, states)


def start(seed, gmm, x, prior):
    return start_chains(jax.random.split(jax.random.key(seed), N_CHAINS), gmm, x, prior)


def draw_prior(rng, kind, n):
    """Mixtures from the prior by numpy and scipy alone, (n, ...), and the rate."""
    prior, gmm = small_prior(kind), small_gmm(kind)
    d, shape = gmm.n_features, np.shape(gmm.covariances)
    weights = rng.dirichlet(prior.concentration, n)
    if kind == "richardson-green":
        rate = rng.gamma(prior.rate_shape, 1 / prior.rate_rate, n)
        covariances = 1 / (rng.gamma(prior.shape, size=(n, K)) / rate[:, None])
        means = prior.mean + np.sqrt(prior.mean_variance) * rng.normal(size=(n, K, 1))
        return jg.GMM(weights, means, covariances, gmm.family), {"rate": rate}
    nu, scale = float(prior.degrees_of_freedom), np.asarray(prior.scale)
    if scale.ndim == 2:
        covariances = scipy.stats.invwishart(nu, scale).rvs(n * int(np.prod(shape[:-2])), random_state=rng)
    else:
        covariances = scale / 2 / rng.gamma(nu / 2, size=(n, *shape))
    covariances = covariances.reshape(n, *shape)
    noise = np.linalg.cholesky(dense(covariances, gmm.family, d)) @ rng.normal(size=(n, K, d, 1))
    means = prior.mean + noise[..., 0] / np.sqrt(prior.mean_precision)
    return jg.GMM(weights, means, covariances, gmm.family), {}


def draw_rows(rng, gmm):
    """N rows of each mixture, by numpy alone."""
    weights, means = np.asarray(gmm.weights), np.asarray(gmm.means)
    n, d = len(weights), means.shape[-1]
    labels = (rng.random((n, N, 1)) > weights.cumsum(-1)[:, None]).sum(-1)
    scale = np.linalg.cholesky(dense(gmm.covariances, gmm.family, d))
    each = np.arange(n)[:, None]
    return means[each, labels] + (scale[each, labels] @ rng.normal(size=(n, N, d, 1)))[..., 0]


def dense(covariances, family, d):
    """(..., K, D, D)."""
    covariances = np.asarray(covariances)
    if family == "full":
        return covariances
    if family == "tied":
        return np.repeat(covariances[..., None, :, :], K, axis=-3)
    return (covariances if family == "diag" else covariances[..., None])[..., None] * np.eye(d)


def log_likelihood(gmm, x):
    """Total of each mixture's own rows, by numpy alone."""
    covariances = dense(gmm.covariances, gmm.family, x.shape[-1])[:, None]
    z = (x[:, :, None] - np.asarray(gmm.means)[:, None])[..., None]
    distance = (np.swapaxes(z, -1, -2) @ np.linalg.inv(covariances) @ z)[..., 0, 0]
    log_det = np.linalg.slogdet(2 * np.pi * covariances)[1]
    return logsumexp(np.log(gmm.weights)[:, None] - log_det / 2 - distance / 2, axis=-1).sum(-1)


def quantities(gmm, extra, x):
    """Functions of parameters and rows with finite variance, one a column; the first `N_INVARIANT` don't depend on labels."""
    weights, means, x = np.asarray(gmm.weights), np.asarray(gmm.means), np.asarray(x)
    covariances = dense(gmm.covariances, gmm.family, x.shape[-1])
    log_det = np.linalg.slogdet(covariances)[1]
    mean = (weights[..., None] * means).sum(1)
    columns = [weights.max(-1), log_det.sum(-1), means[..., 0].min(-1), mean[:, 0], log_likelihood(gmm, x)]
    columns += [*weights.T, *means.reshape(len(x), -1).T, *means.reshape(len(x), -1).T ** 2, *log_det.T]
    columns += [np.log(covariances[:, 0, 0, 0]), covariances[:, 0, 0, -1] / covariances[:, 0, 0, 0]]
    columns += [x.mean((1, 2)), (x**2).mean((1, 2)), (mean * x.mean(1)).sum(-1), *extra.values()]
    return np.stack([np.asarray(column) for column in columns], axis=-1)


N_INVARIANT = 5


@pytest.mark.parametrize("kind", KINDS)
def test_geweke(kind):
    """Geweke (2004): if all conditionals are right, rows and parameters keep the joint distribution that they started from.

    Chains start from draws of prior and model that numpy made, so their averages over time are independent of one another
    and have the prior's means, after any number of steps: no effective sample size has to be estimated.
    """
    prior, rng = small_prior(kind), np.random.default_rng(1)
    gmm, extra = draw_prior(rng, kind, 20_000)
    expected = quantities(gmm, extra, draw_rows(rng, gmm))
    gmm, extra = draw_prior(rng, kind, N_CHAINS)
    over_time = []
    for key in jax.random.split(jax.random.key(2), 60):
        x = draw_rows(rng, gmm)
        states = start(int(rng.integers(2**31)), gmm, x, prior)._replace(extra=extra)
        states = sweep(key, states, x, prior, 2)
        gmm, extra = states.gmm, states.extra
        over_time.append(quantities(gmm, extra, x))
    averages = np.mean(over_time, axis=0)
    varied = expected.std(0) > 0  # diag and spherical have no correlations, one feature has 1
    se = np.sqrt(averages.var(0) / N_CHAINS + expected.var(0) / len(expected))
    z = (averages.mean(0) - expected.mean(0))[varied] / se[varied]
    assert (abs(z) < 4).all(), z


@pytest.mark.parametrize("kind", KINDS)
def test_calibration(kind):
    """Talts et al. (2018): among draws from the posterior of rows that it generated, the true value has a uniform rank."""
    prior, rng = small_prior(kind), np.random.default_rng(3)
    truth, extra = draw_prior(rng, kind, N_CHAINS)
    x = draw_rows(rng, truth)
    true = quantities(truth, extra, x)[:, :N_INVARIANT]
    stranger, _ = draw_prior(rng, kind, N_CHAINS)
    states = sweep(jax.random.key(6), start(5, stranger, x, prior), x, prior, 200)
    n_draws, below = 15, 0
    for key in jax.random.split(jax.random.key(7), n_draws):
        states = sweep(key, states, x, prior, 30)
        below += quantities(states.gmm, states.extra, x)[:, :N_INVARIANT] < true
    for ranks in below.T:
        histogram = np.bincount(ranks, minlength=n_draws + 1)
        assert scipy.stats.chisquare(histogram).pvalue > 1e-3, histogram


@pytest.mark.parametrize("kind", KINDS)
def test_lp_is_the_log_joint_density(kind):
    prior, rng = small_prior(kind), np.random.default_rng(4)
    gmm, _ = draw_prior(rng, kind, N_CHAINS)
    x = draw_rows(rng, gmm)
    states = sweep(KEY, start(0, gmm, x, prior), x, prior, 2)
    one = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), (states.gmm, states.extra)) for i in range(3)]
    total = [scipy_log_prior(prior, *each) for each in one] + log_likelihood(states.gmm, x)[:3]
    np.testing.assert_allclose(states.lp[:3] + log_prior_constant(prior, prior.concentration.size), total, rtol=1e-10)


def scipy_log_prior(prior, gmm, extra):
    total = scipy.stats.dirichlet(prior.concentration).logpdf(gmm.weights)
    if "rate" in extra:
        total += scipy.stats.gamma(prior.rate_shape, scale=1 / prior.rate_rate).logpdf(extra["rate"])
        total += scipy.stats.norm(prior.mean, np.sqrt(prior.mean_variance)).logpdf(gmm.means).sum()
        return total + scipy.stats.invgamma(prior.shape, scale=extra["rate"]).logpdf(gmm.covariances).sum()
    for mean, covariance in zip(gmm.means, dense(gmm.covariances, gmm.family, 2), strict=True):
        total += scipy.stats.multivariate_normal(prior.mean, covariance / prior.mean_precision).logpdf(mean)
    if gmm.family in ("full", "tied"):
        each = scipy.stats.invwishart(float(prior.degrees_of_freedom), prior.scale)
        return total + sum(each.logpdf(matrix) for matrix in gmm.covariances.reshape(-1, 2, 2))
    return total + scipy.stats.invgamma(prior.degrees_of_freedom / 2, scale=prior.scale / 2).logpdf(gmm.covariances).sum()


def conjugate_posterior(prior, labels, x):
    """Of one component or, for "tied", of all of them: m_k, kappa_k, nu_k, Psi_k, from sums about zero."""
    kappa, nu, m0, psi = prior.mean_precision, prior.degrees_of_freedom, np.asarray(prior.mean), np.asarray(prior.scale)
    blocks = [x[labels == k] for k in range(K)]
    counts = np.array([len(block) for block in blocks])
    means = np.array([(kappa * m0 + block.sum(0)) / (kappa + len(block)) for block in blocks])
    scatter = np.array(
        [b.T @ b + kappa * np.outer(m0, m0) - (kappa + len(b)) * np.outer(m, m) for b, m in zip(blocks, means, strict=True)]
    )
    if prior.family == "tied":
        scatter, degrees = scatter.sum(0), nu + counts.sum()
    elif prior.family == "full":
        degrees = nu + counts
    else:
        scatter = np.diagonal(scatter, axis1=1, axis2=2)
        degrees = nu + counts
        if prior.family == "spherical":
            scatter, degrees = scatter.sum(-1), nu + x.shape[1] * counts
    return means, kappa + counts, degrees, psi + scatter, counts


def log_evidence(prior, labels, x):
    """log p(labels, x), parameters integrated out, up to a constant that all labels share."""
    _, kappa, nu, psi, counts = conjugate_posterior(prior, labels, x)
    d = x.shape[1]
    total = gammaln(prior.concentration + counts).sum() - d / 2 * np.log(kappa).sum()
    if prior.family == "tied":
        return total - nu / 2 * np.linalg.slogdet(psi)[1]
    if prior.family == "full":
        multigamma = sum(gammaln((nu - j) / 2) for j in range(d))
        return total + (multigamma - nu / 2 * np.linalg.slogdet(psi)[1]).sum()
    nu = nu[:, None] if prior.family == "diag" else nu
    return total + (gammaln(nu / 2) - nu / 2 * np.log(psi / 2)).sum()


def posterior_means(prior, labels, x):
    """Given labels, the means of: mixture's mean, sum of squared weights, log determinants, number of clusters."""
    means, _, nu, psi, counts = conjugate_posterior(prior, labels, x)
    d, alpha = x.shape[1], prior.concentration + counts
    weights = alpha / alpha.sum()
    squares = (alpha * (alpha + 1)).sum() / (alpha.sum() * (alpha.sum() + 1))
    if prior.family in ("full", "tied"):
        log_det = np.linalg.slogdet(psi)[1] - d * np.log(2) - sum(digamma((nu - j) / 2) for j in range(d))
    elif prior.family == "diag":
        log_det = (np.log(psi / 2) - digamma(nu / 2)[:, None]).sum(-1)
    else:
        log_det = d * (np.log(psi / 2) - digamma(nu / 2))
    return np.array([(weights @ means)[0], squares, np.sum(log_det) * (K if prior.family == "tied" else 1), (counts > 0).sum()])


def exact_means(prior, x):
    """By all 2^8 allocations of eight rows: known to the last digit."""
    every = [np.array(labels) for labels in itertools.product(range(K), repeat=N)]
    log_p = np.array([log_evidence(prior, labels, x) for labels in every])
    return softmax(log_p) @ np.array([posterior_means(prior, labels, x) for labels in every])


def check_against_exact(draws, exact, least=2000):
    """Draws (chain, draw, quantity) of the quantities of `posterior_means`."""
    for i, truth in enumerate(exact):
        ess = float(az.ess(draws[..., i]))
        assert ess > least
        assert abs(draws[..., i].mean() - truth) < 4 * draws[..., i].std() / np.sqrt(ess)


def test_exact_posterior(family):
    prior = small_prior(family)
    x = np.random.default_rng(9).normal(size=(N, 2))
    exact = exact_means(prior, x)
    many = np.broadcast_to(x, (N_CHAINS, *x.shape))
    states = sweep(jax.random.key(9), start(8, broadcast(small_gmm(family)), many, prior), many, prior, 100)
    kept = []
    for key in jax.random.split(jax.random.key(10), 100):
        states = sweep(key, states, many, prior, 1)
        columns = quantities(states.gmm, {}, many)
        n_clusters = (np.asarray(states.statistics.counts) > 0).sum(-1)
        squares = (np.asarray(states.gmm.weights) ** 2).sum(-1)
        kept.append(np.stack([columns[:, 3], squares, columns[:, 1], n_clusters], axis=-1))
    check_against_exact(np.stack(kept, axis=1), exact)


def test_exact_posterior_of_rows_in_pieces(tmp_path):
    """The same through the front door, rows of weight 0 among them; and a run that was stopped goes on to the same draws."""
    prior, x = small_prior("full"), np.random.default_rng(9).normal(size=(N, 2))
    rows, weight = np.insert(x, 3, [50.0, -50.0], axis=0), np.insert(np.ones(N), 3, 0.0)
    pieces = jg.data.Pieces(lambda: zip(np.split(rows, [4]), np.split(weight, [4]), strict=True))
    settings = {"method": "gibbs", "key": KEY, "n_draws": 100, "n_chains": 256, "n_warmup": 100, "thin": 1, "prior": prior}
    tree = jg.posterior(pieces, small_gmm("full"), **settings)
    draws, found = jg.draws_of(tree), tree["posterior"]
    means = (found["weights"].values[..., None] * found["means"].values).sum(2)[..., 0]
    log_det = np.linalg.slogdet(draws.covariances)[1].sum(-1)
    squares, n_clusters = (found["weights"].values ** 2).sum(-1), tree["allocations"]["n_clusters"].values
    check_against_exact(np.stack([means, squares, log_det, n_clusters], axis=-1), exact_means(prior, x), least=1000)

    flat = jax.tree.map(lambda leaf: np.asarray(leaf)[:, -1], draws)
    of_rows = log_likelihood(flat, np.broadcast_to(x, (256, N, 2)))
    np.testing.assert_allclose(found["log_likelihood"][:, -1], of_rows, rtol=1e-9)
    log_prior = [prior.log_prob(jax.tree.map(lambda leaf, i=i: leaf[i], flat)) for i in range(3)]
    np.testing.assert_allclose(tree["sample_stats"]["lp"][:3, -1], of_rows[:3] + log_prior, rtol=1e-9)
    assert (tree.attrs["n_samples"], tree["observed_data"].sizes["obs_id"]) == (N + 1, N)

    def stop(done, total):
        if done > 110:
            raise KeyboardInterrupt

    kept = {"checkpoint": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        jg.posterior(pieces, small_gmm("full"), **settings, **kept, progress=stop)
    resumed = jg.posterior(pieces, small_gmm("full"), **settings, **kept, resume=True)
    assert resumed["posterior"].to_dataset().equals(found.to_dataset())


def broadcast(gmm):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N_CHAINS, *leaf.shape)), gmm)


def test_parameters_given_labels(family):
    """40 000 draws against the moments of the normal-inverse-Wishart posterior; one component has no rows."""
    prior, gmm = small_prior(family), small_gmm(family)
    x = np.random.default_rng(0).normal([1.0, 0.0], size=(N, 2))
    labels = np.zeros(N, int)
    means, kappa, nu, psi, counts = conjugate_posterior(prior, labels, x)
    many = np.broadcast_to(x, (N_CHAINS, *x.shape))
    statistics = assigned_statistics(
        gmm.components().structure, gmm.n_components, gmm.means[0], jnp.asarray(x), jnp.ones(N), jnp.asarray(labels)
    )
    states = start(0, broadcast(gmm), many, prior)._replace(statistics=broadcast(statistics))
    drawn = [sweep(key, states, many, prior, 1).gmm for key in jax.random.split(KEY, 40_000 // N_CHAINS)]
    draws = jax.tree.map(lambda *leaves: np.concatenate(leaves), *drawn)

    if family in ("full", "tied"):
        expected = psi / np.reshape(nu - 3, (-1, 1, 1) if family == "full" else ())
        precision, inverse = np.linalg.inv(draws.covariances), np.linalg.inv(psi) * np.reshape(nu, (-1, 1, 1))
        spread = np.broadcast_to(expected, (K, 2, 2))
    else:
        nu = nu[:, None] if family == "diag" else nu
        expected = psi / (nu - 2)
        precision, inverse = 1 / np.asarray(draws.covariances), nu / psi
        spread = dense(expected, family, 2)
    alpha = prior.concentration + counts
    away = draws.means - means
    for values, truth in [
        (draws.covariances, expected),
        (precision, inverse.reshape(expected.shape)),
        (draws.means, means),
        (away[..., :, None] * away[..., None, :], spread / kappa[:, None, None]),
        (draws.weights, alpha / alpha.sum()),
        (np.log(draws.weights), digamma(alpha) - digamma(alpha.sum())),
    ]:
        z = (values.mean(0) - truth) / (values.std(0) / np.sqrt(len(values)))
        assert (abs(z) < 4.5).all(), z


@pytest.mark.parametrize("kind", KINDS)
def test_one_repeated_row_stays_finite(kind):
    """Two components for one distinct value, hardly any weight for the idle one: the likelihood has no maximum."""
    prior = dataclasses.replace(small_prior(kind), concentration=np.full(K, 1e-3))
    gmm = small_gmm(kind)
    x = np.full((N_CHAINS, N, gmm.n_features), 3.0)
    states = sweep(KEY, start(0, broadcast(gmm), x, prior), x, prior, 100)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    assert (np.asarray(states.gmm.weights) > 0).all()
    np.testing.assert_allclose(states.gmm.weights.sum(-1), 1, rtol=1e-12)


def test_labels_are_drawn_in_proportion():
    """A grid of uniforms gives each label its share to within one grid point, and never one of probability 0."""
    joint = np.log([[0.0, 0.2, 0.5, 0.0, 0.3, 0.0]], where=np.array([[0, 1, 1, 0, 1, 0]], bool), out=np.full((1, 6), -np.inf))
    n = 1000
    for uniform in ((np.arange(n) + 0.5) / n, np.r_[np.zeros(n // 2), np.full(n // 2, 1 - 2.0**-53)]):
        labels, total, entropy = draw_labels(jnp.broadcast_to(joint.T - 700, (6, n)), jnp.asarray(uniform))
        shares = np.bincount(labels, minlength=6) / n
        assert (shares[[0, 3, 5]] == 0).all()
        np.testing.assert_allclose(total, -700, rtol=1e-12)
        np.testing.assert_allclose(entropy, scipy.stats.entropy([0.2, 0.5, 0.3]), rtol=1e-12)
        if uniform[0] > 0:
            np.testing.assert_allclose(shares, np.exp(joint[0]), atol=1 / n)


def problem(x, gmm, prior, weight=None):
    prior, weight = jax.tree.map(jnp.asarray, prior), jnp.ones(len(x)) if weight is None else weight
    return Problem(jnp.asarray(x, float), weight, jax.tree.map(jnp.asarray, gmm), prior, layout_of(gmm, prior))


def test_galaxies_as_a_published_sampler_has_them():
    """Richardson & Green's own program on their galaxy data, its visits to K = 3, components in the order of their means.

    Its Monte-Carlo error isn't given; it spent 6 % of its sweeps at K = 3, and is credited with 1000 independent draws there.
    """
    x = np.loadtxt(REFERENCE / "galaxies_rg.csv", skiprows=1)[:, None]
    start = jg.GMM([0.1, 0.8, 0.1], [[10.0], [21.0], [33.0]], [1.0, 4.0, 4.0], "spherical")
    draws = gibbs(problem(x, start, jg.RichardsonGreen.default(x)), KEY, Schedule(500, 5000), 4)
    order = np.argsort(draws.gmm.means[..., 0], axis=-1)
    assert (draws.extra["rate"] > 0).all()
    for values, published, digit in [
        (draws.gmm.weights, (0.0941, 0.8535, 0.0524), 1e-4),
        (draws.gmm.means[..., 0], (9.718, 21.390, 32.70), 1e-2),
        (np.sqrt(draws.gmm.covariances), (0.883, 2.195, 1.487), 1e-3),
    ]:
        ordered = np.take_along_axis(values, order, axis=-1)
        for k, truth in enumerate(published):
            ess = float(az.ess(ordered[..., k]))
            assert ess > 500
            se = ordered[..., k].std() * np.sqrt(1 / ess + 1 / 1000)
            assert abs(ordered[..., k].mean() - truth) < 4 * se + digit / 2


@pytest.fixture(scope="module")
def three(blobs):
    """A start and a prior for `blobs`, and draws: everything here shares one compiled loop."""
    start, prior = random_member("full"), jg.Prior.default(blobs, 3)
    with jax.enable_x64(True):
        return start, prior, gibbs(problem(blobs, start, prior), KEY, Schedule(5, 40), 2)


def test_chains_part_and_keys_decide(blobs, three):
    start, prior, draws = three
    assert draws.stats["lp"].shape == (2, 40)
    assert (draws.gmm.means[0] != draws.gmm.means[1]).all()
    again = gibbs(problem(blobs, start, prior), KEY, Schedule(5, 40), 2)
    assert (again.gmm.means == draws.gmm.means).all()


def test_too_many_components_on_repeated_rows_stay_finite(blobs, three):
    """Two distinct rows, three components and the default prior: each of them could shrink onto one."""
    x = np.repeat(blobs[:2], [200, 40], axis=0)
    prior = jg.Prior.default(x, 3)
    start = jg.GMM(np.full(3, 1 / 3), x[[0, 239, 0]], [1e-6 * np.eye(3)] * 3)
    draws = gibbs(problem(x, start, prior), KEY, Schedule(0, 500), 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((draws.gmm, draws.stats)))
    for chain in range(2):
        jg.GMM(*(leaf[chain, -1] for leaf in jax.tree.leaves(draws.gmm)))  # which checks all it can


def test_units_and_origin_do_not_matter(blobs, three):
    """Shifted by 2^30 sds or so and scaled, the very same chain: sums over rows lose no digits."""
    start, prior, _ = three
    x = np.round(blobs * 2**16) / 2**16  # exact after the shift
    shift, unit = 2.0**30, 2.0**-10
    moved = jg.GMM(start.weights, (start.means + shift) * unit, start.covariances * unit**2)
    values = {"mean": (np.asarray(prior.mean) + shift) * unit, "scale": np.asarray(prior.scale) * unit**2}
    moved_prior = dataclasses.replace(prior, **values)
    here = gibbs(problem(x, start, prior), KEY, Schedule(5, 40), 2)
    there = gibbs(problem((x + shift) * unit, moved, moved_prior), KEY, Schedule(5, 40), 2)
    np.testing.assert_allclose(there.gmm.weights, here.gmm.weights, rtol=1e-5)
    np.testing.assert_allclose(there.gmm.means / unit - shift, here.gmm.means, atol=1e-4)
    np.testing.assert_allclose(there.gmm.covariances / unit**2, here.gmm.covariances, rtol=1e-3, atol=1e-5)


def test_whole_weights_repeat_rows_and_others_are_refused(blobs, row_counts, three):
    start, prior, _ = three
    repeated = gibbs(problem(np.repeat(blobs, row_counts, axis=0), start, prior), KEY, Schedule(5, 40), 2)
    weighted = gibbs(problem(blobs, start, prior, jnp.asarray(row_counts, float)), KEY, Schedule(5, 40), 2)
    assert (repeated.gmm.means == weighted.gmm.means).all()
    weight = np.ones(240)
    weight[17] = 0.5
    with pytest.raises(ValueError, match=r"sample_weight of row 17 is 0\.5.*'nuts', 'svi' or 'laplace'"):
        gibbs(problem(blobs, start, prior, jnp.asarray(weight)), KEY, Schedule(5, 40), 2)


def test_blocks_of_rows_change_rounding_only(blobs, three, monkeypatch):
    start, prior, _ = three
    whole = jax.jit(lambda key: gibbs_start(key, start, blobs, prior))(KEY)
    monkeypatch.setattr(allocating, "_ROWS_AT_ONCE", 37)
    blocked = jax.jit(lambda key: gibbs_start(key, start, blobs, prior))(KEY)
    for ours, theirs in zip(jax.tree.leaves(blocked), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_resumed_run_is_the_uninterrupted_one(blobs, three, tmp_path):
    start, prior, draws = three

    def stop(done, total):
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gibbs(problem(blobs, start, prior), KEY, Schedule(5, 40, stop, tmp_path / "run"), 2)
    resumed = gibbs(problem(blobs, start, prior), KEY, Schedule(5, 40, None, tmp_path / "run", True), 2)
    for ours, theirs in zip(
        jax.tree.leaves((resumed.gmm, resumed.stats)), jax.tree.leaves((draws.gmm, draws.stats)), strict=True
    ):
        assert (ours == theirs).all()


def test_draws_that_are_not_finite_raise(blobs, three):
    start, prior, _ = three
    with pytest.raises(jg.FitError, match=r"draw 0 of chain 0 isn't finite.*float64"):
        gibbs(problem(blobs * 1e200, start, prior), KEY, Schedule(5, 40), 2)


def test_kernel_runs_in_numpyro_and_goes_to_arviz(blobs, three):
    start, prior, _ = three
    mcmc = MCMC(
        GibbsKernel(start, prior), num_warmup=5, num_samples=30, num_chains=2, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(KEY, blobs, extra_fields=("lp",))
    tree = az.from_numpyro(mcmc)
    assert dict(tree["posterior"].sizes)["draw"] == 30
    assert set(tree["posterior"].data_vars) == {"weights", "means", "covariances"}
    assert tree["posterior"]["covariances"].shape == (2, 30, 3, 3, 3)
    last = jg.GMM(*(tree["posterior"][name].values[1, -1] for name in ("weights", "means", "covariances")))
    joint = last.log_likelihood(blobs) + prior.log_prob(last) - log_prior_constant(prior, 3)
    np.testing.assert_allclose(tree["sample_stats"]["lp"][1, -1], joint, rtol=1e-11)


@pytest.mark.default_precision
def test_kernel_in_single_precision(capsys, monkeypatch):
    """Richardson & Green's prior, chains in turn, a progress bar, rows given by name."""
    for name in ("CI", "PYTEST_XDIST_WORKER"):  # in which NumPyro shows no bars
        monkeypatch.delenv(name, raising=False)
    x = np.random.default_rng(0).normal(size=(30, 1)) * [[1e-3]] + np.repeat([[1.0], [2.0]], 15, axis=0)
    start = jg.GMM([0.5, 0.5], [[1.0], [2.0]], [1e-6, 1e-6], "spherical")
    kernel = GibbsKernel(start, jg.RichardsonGreen.default(x))
    mcmc = MCMC(kernel, num_warmup=5, num_samples=200, num_chains=2, chain_method="sequential", progress_bar=True)
    mcmc.run(KEY, x=x)
    samples = mcmc.get_samples(group_by_chain=True)
    assert samples["rate"].shape == (2, 200)
    assert samples["means"].dtype == np.float32
    # rows lie 1000 sds apart: sums about a common centre would have lost the variances altogether
    deviations = [x[:15].std(), x[15:].std()]
    np.testing.assert_allclose(np.sqrt(samples["covariances"]).mean((0, 1)), deviations, rtol=0.5)
    assert "log joint" in capsys.readouterr().err


def test_kernel_refuses_what_it_cannot_use(blobs):
    prior = jg.Prior.default(blobs, 2)
    gmm = jg.GMM([0.5, 0.5], np.eye(3)[:2], [np.eye(3)] * 2)
    with pytest.raises(TypeError, match="prior must be a Prior or RichardsonGreen"):
        GibbsKernel(gmm, None)
    with pytest.raises(ValueError, match="prior is for family 'diag'"):
        GibbsKernel(gmm, jg.Prior.default(blobs, 2, "diag"))
    with pytest.raises(ValueError, match="drop components of weight 0"):
        GibbsKernel(jg.GMM([1.0, 0.0], gmm.means, gmm.covariances), prior)
    mcmc = MCMC(GibbsKernel(gmm, prior), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="init_params isn't used"):
        mcmc.run(KEY, blobs, init_params={"weights": jnp.ones(2)})
    with pytest.raises(ValueError, match="x has 2 columns, but the mixture has 3"):
        mcmc.run(KEY, blobs[:, :2])


def test_no_known_prior():
    with pytest.raises(TypeError, match="prior must be a Prior or RichardsonGreen, got str"):
        draw_parameters("default", KEY, None, None, {})
