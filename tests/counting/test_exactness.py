"""`count_clusters` against what is exact: enumeration of all partitions, priors by recursion, Geweke's test, calibration."""

import dataclasses
from typing import ClassVar

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import scipy.interpolate
import scipy.special
import scipy.stats
from scipy.special import gammaln, logsumexp

import jaxgmm as jg
from jaxgmm.bayes.samplers.chains import Schedule, run_chains
from jaxgmm.counting import telescoping, until, verdict
from jaxgmm.counting.model import padded_data
from jaxgmm.counting.moves import birth_death, few_rows, split_merge
from jaxgmm.counting.partition import Data, expand
from jaxgmm.counting.partition_prior import PartitionPrior, draw_n_components, log_p_components
from jaxgmm.counting.telescoping import Telescoping, start, sweep
from jaxgmm.covariance import get_family
from jaxgmm.tools.special import log_gamma

KEY = jax.random.key(0)


N, MOST = 8, 6


@dataclasses.dataclass(frozen=True)
class Together(Telescoping):
    """The very same chains side by side in one program: for 64 of few rows four times as fast as in threads."""

    heavy: ClassVar = False


def component_prior(kind="full", d=2):
    scale = {"full": np.array([[2.0, 0.3], [0.3, 3.0]])[:d, :d], "diag": np.array([2.0, 3.0])[:d], "spherical": 2.0}[kind]
    return jg.Prior(1.0, np.array([0.3, 0.2])[:d], 0.3, 5.0, scale, kind)


def partition_prior(kind, alpha_prior=None, most=MOST):
    log_p = log_p_components("beta-negative-binomial" if kind != "dirichlet-process" else "uniform", most)
    return PartitionPrior(log_p, np.float64(0.8), kind, alpha_prior)


def small_rows(d=2):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, 2)) * [1, 2] + np.repeat([[0, 0], [2.5, 1]], N // 2, axis=0))[:, :d]


def make_data(x, prior, partition):
    family = get_family(prior.family)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), Data(expand(jnp.asarray(x), family), prior, partition))


def partitions(n):
    def grow(labels, used):
        if len(labels) == n:
            yield labels
            return
        for k in range(used + 1):
            yield from grow([*labels, k], max(used, k + 1))

    return [np.array(labels) for labels in grow([], 0)]


def log_block_evidence(x, prior):
    """Of one block under the conjugate prior, from sums about zero, as the textbooks have it."""
    n, d = x.shape
    kappa0, nu0, m0, psi0 = float(prior.mean_precision), float(prior.degrees_of_freedom), prior.mean, prior.scale
    kappa, nu = kappa0 + n, nu0 + n
    m = (kappa0 * m0 + x.sum(0)) / kappa
    scatter = x.T @ x + kappa0 * np.outer(m0, m0) - kappa * np.outer(m, m)
    if prior.family == "spherical":
        nu, psi = nu0 + n * d, psi0 + np.trace(scatter)
        gammas = gammaln(nu / 2) - gammaln(nu0 / 2) + nu0 / 2 * np.log(psi0) - nu / 2 * np.log(psi)
        return -n * d / 2 * np.log(np.pi) + d / 2 * np.log(kappa0 / kappa) + gammas
    if prior.family == "diag":  # each column by itself
        psi = psi0 + scatter.diagonal()
        gammas = d * (gammaln(nu / 2) - gammaln(nu0 / 2)) + (nu0 / 2 * np.log(psi0) - nu / 2 * np.log(psi)).sum()
        return -n * d / 2 * np.log(np.pi) + d / 2 * np.log(kappa0 / kappa) + gammas
    psi = psi0 + scatter
    gammas = sum(gammaln((nu - j) / 2) - gammaln((nu0 - j) / 2) for j in range(d))
    dets = nu0 / 2 * np.linalg.slogdet(psi0)[1] - nu / 2 * np.linalg.slogdet(psi)[1]
    return -n * d / 2 * np.log(np.pi) + d / 2 * np.log(kappa0 / kappa) + gammas + dets


def log_partition(labels, kind, alpha, most=MOST):
    """log p(partition), K summed out, by scipy alone."""
    counts, n = np.bincount(labels), len(labels)
    t = len(counts)
    if kind == "dirichlet-process":
        return t * np.log(alpha) + gammaln(counts).sum() + gammaln(alpha) - gammaln(alpha + n)
    log_p = log_p_components("beta-negative-binomial", most)
    terms = []
    for k in range(t, most + 1):
        gamma = alpha if kind == "static" else alpha / k
        ways = gammaln(k + 1) - gammaln(k - t + 1) + gammaln(k * gamma) - gammaln(k * gamma + n)
        terms.append(log_p[k - 1] + ways + (gammaln(counts + gamma) - gammaln(gamma)).sum())
    return logsumexp(terms) if terms else -np.inf


@pytest.mark.parametrize(("kind", "d"), [("dynamic", 1), ("static", 2)])
def test_exact_enumeration(kind, d):
    """All 4140 partitions of eight rows.

    In threads, as `count_clusters` has its chains: these are the programs of the runs that stop for a verdict and of
    `test_kernel_for_numpyro`, too.
    """
    data = padded_data(small_rows(d), component_prior("full", d), partition_prior(kind))
    clusters = run_chains(Telescoping(2), starts(data, 0, 16), data, Schedule(100, 2000))["n_clusters"]
    check_bins(clusters, enumerated(kind, "full", d, MOST))


@pytest.mark.parametrize(
    ("kind", "family", "seed"), [("static", "diag", 0), ("dynamic", "spherical", 0), ("dirichlet-process", "full", 2)]
)
def test_exact_enumeration_of_other_families(kind, family, seed):
    most = 20 if kind == "dirichlet-process" else MOST  # sticks beyond are cut off
    data = make_data(small_rows(), component_prior(family), partition_prior(kind, most=most))
    clusters = run_chains(Together(2), starts(data, seed), data, Schedule(100, 2000))["n_clusters"]
    check_bins(clusters, enumerated(kind, family, 2, most))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("most", [6, 12])
def test_what_max_components_cuts_off_is_foreseen(kind, most):
    """From what is exact at J components, as so many draws, and told by what is exact at 200."""
    x, prior, joint = small_rows(1), component_prior("full", 1), np.full((201, N + 1), -np.inf)
    for labels in partitions(N):
        counts, blocks = np.bincount(labels), [x[labels == block] for block in range(labels.max() + 1)]
        k = np.arange(len(counts), 201)[:, None]
        gamma = np.broadcast_to(0.8 if kind == "static" else 0.8 / k, k.shape)
        ways = gammaln(k + 1) - gammaln(k - len(counts) + 1) + gammaln(k * gamma) - gammaln(k * gamma + N)
        own = ways[:, 0] + (gammaln(counts + gamma) - gammaln(gamma)).sum(1) + sum(log_block_evidence(b, prior) for b in blocks)
        joint[len(counts) :, len(counts)] = np.logaddexp(joint[len(counts) :, len(counts)], own)
    joint[1:] += log_p_components("beta-negative-binomial", 200)[:, None]
    exact = np.exp(logsumexp(joint, axis=0) - logsumexp(joint))
    cut = np.exp(joint[: most + 1] - logsumexp(joint[: most + 1]))
    draws = np.round(1e6 * cut).astype(int)
    components, clusters = (np.repeat(value.ravel(), draws.ravel()) for value in np.indices(draws.shape))
    p = np.bincount(clusters, minlength=most + 1)[1:] / clusters.size
    facts = {"model": "mixture", "n_components": "beta-negative-binomial"}
    foreseen, _ = verdict._cut_off(clusters[None], components[None], p, facts)
    change = np.abs(exact[1:] - cut.sum(0)[1:]).max()
    assert change > 1e-3
    assert foreseen == pytest.approx(change, rel=0.1)


@pytest.mark.parametrize("facts", [{"model": "sparse"}, {"model": "mixture", "n_components": "uniform"}], ids=str)
def test_a_prior_that_ends_by_itself_is_judged_by_partitions_into_all_its_components(facts):
    for last, number in ((0.002, 0.02), (0.4, 1.0)):
        found, said = verdict._cut_off(np.ones((2, 4), int), np.full((2, 4), 3), np.array([0.5, 0.5 - last, last]), facts)
        assert found == pytest.approx(number)
        assert said == f"3 clusters, the most allowed, have probability {last:g}: ten times that is"


@pytest.mark.parametrize(
    ("move", "kind", "family"),
    [(few_rows, "static", "diag"), (split_merge, "dynamic", "full"), (birth_death, "dirichlet-process", "spherical")],
)
def test_each_move_is_exact_alone(move, kind, family, monkeypatch):
    """No others make up for what it would do wrong, but the allocations of a sweep."""
    monkeypatch.setattr(telescoping, "MOVES", (move,))
    most = 20 if kind == "dirichlet-process" else MOST  # sticks beyond are cut off
    data = make_data(small_rows(), component_prior(family), partition_prior(kind, most=most))
    kept = run_chains(Together(4), starts(data, 5), data, Schedule(100, 1000))  # 4 rounds: compiled for this test only
    check_bins(kept["n_clusters"], enumerated(kind, family, 2, most))


@pytest.mark.parametrize("continued", [False, True], ids=["one run", "continued"])
def test_runs_that_stop_for_a_verdict_are_unbiased(monkeypatch, continued):
    """Eager ones, that stop at an ESS of 40: their mean is exact, and their errors are what they are said to be."""
    monkeypatch.setattr(until, "_FIRST", 20)
    monkeypatch.setattr(until, "ESS", 40.0)
    exact = enumerated("dynamic", "full", 1, MOST)[1:]
    options = {"prior": component_prior("full", 1), "alpha": 0.8, "max_components": MOST, "n_warmup": 20}
    found, n_draws = [], []
    for seed in range(120):
        own = {"n_draws": 10} if continued else {}
        tree = jg.count_clusters(small_rows(1), key=jax.random.key(seed), **options, **own)
        tree = jg.continue_chains(tree) if continued else tree
        assert tree.attrs["stopped"] == "converged"
        found.append(jg.cluster_count(tree).table)
        n_draws.append(tree["allocations"].sizes["draw"])
    assert len(set(n_draws)) > 2
    p = np.array([table["posterior"] for table in found])
    likely = np.flatnonzero(exact > 0.05)
    z = (p.mean(0) - exact)[likely] / (p.std(0, ddof=1)[likely] / np.sqrt(len(p)))
    assert np.abs(z).max() < 3.5, (z, p.mean(0), exact)
    pulls = np.array([(table["posterior"] - exact) / table["mcse"] for table in found])[:, likely]
    assert pulls.std(0).min() > 0.7, pulls.std(0)
    assert pulls.std(0).max() < 1.6, pulls.std(0)  # an ESS of 40 is itself known to a fifth only


def enumerated(kind, family, d, most):
    """p(K+ = t | rows), t = 0..J, by all partitions of the eight rows."""
    prior, x = component_prior(family, d), small_rows(d)
    exact = np.full(N + 1, -np.inf)
    for labels in partitions(N):
        t = labels.max() + 1
        blocks = sum(log_block_evidence(x[labels == k], prior) for k in range(t))
        exact[t] = np.logaddexp(exact[t], log_partition(labels, kind, 0.8, most) + blocks)
    return np.exp(exact - logsumexp(exact[: most + 1]))[: most + 1]


def starts(data, seed, n_chains=64):
    """Chains that start from partitions of one block, of two, ... in turn."""
    most = data.partition_prior.most
    labels = np.stack([np.arange(N) * (k % N + 1) // N % most for k in range(n_chains)])
    return start_all(jax.random.split(jax.random.key(seed), n_chains), labels, data)


start_all = jax.jit(jax.vmap(start, in_axes=(0, 0, None)))


@pytest.mark.parametrize(("kind", "family"), [("dynamic", "full"), ("static", "spherical"), ("dirichlet-process", "diag")])
def test_exact_enumeration_with_a_random_scale(kind, family):
    """The number of clusters and the scale, one for all of them: summed over its grid for each of the 255 possible blocks."""
    fixed, x = component_prior(family), small_rows() * [1, 0.3]
    prior, most = dataclasses.replace(fixed, least_scale=1e-3), 20 if kind == "dirichlet-process" else MOST
    log_s = np.linspace(np.log(1e-3), 0, 512)
    given = [
        dataclasses.replace(fixed, scale=fixed.scale * s, mean_precision=fixed.mean_precision * s) for s in np.exp(log_s)[::8]
    ]

    def log_block(rows):  # smooth in log s: every eighth value, and a cubic through them
        return scipy.interpolate.CubicSpline(log_s[::8], [log_block_evidence(rows, own) for own in given])(log_s)

    blocks = {mask: log_block(x[[i for i in range(N) if mask >> i & 1]]) for mask in range(1, 2**N)}
    exact = np.full((N + 1, 512), -np.inf)
    for labels in partitions(N):
        t = labels.max() + 1
        of_rows = sum(blocks[int((1 << np.flatnonzero(labels == k)).sum())] for k in range(t))
        exact[t] = np.logaddexp(exact[t], log_partition(labels, kind, 0.8, most) + of_rows)
    exact = np.exp(exact[: most + 1] - logsumexp(exact[: most + 1]))
    data = make_data(x, prior, partition_prior(kind, most=most))
    kept = run_chains(Together(2), starts(data, 2), data, Schedule(100, 750))
    check_bins(kept["n_clusters"], exact.sum(1))
    for drawn, values in ((np.log(kept["relative_scale"]), log_s), (kept["relative_scale"], np.exp(log_s))):
        ess = float(az.ess(drawn))
        assert ess > 2000
        assert abs(drawn.mean() - exact.sum(0) @ values) < 3 * drawn.std() / np.sqrt(ess)


def check_bins(clusters, exact):
    """Each count's share of the draws, against the exact one, counted from 0."""
    for t in range(1, 1 + np.flatnonzero(exact > 1e-3)[-1]):
        happened = (clusters == t).astype(float)
        ess = float(az.ess(happened, method="mean"))
        assert ess > 2000
        assert abs(happened.mean() - exact[t]) < 3 * happened.std() / np.sqrt(ess)


def test_exact_enumeration_with_richardson_green():
    """Their prior isn't conjugate: variances and rate by quadrature, for each of the 255 possible blocks."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=4), 4 + 0.5 * rng.normal(size=3), [9.0]])
    prior = dataclasses.replace(jg.RichardsonGreen.default(x[:, None]), concentration=np.ones(()))
    log_rate, log_tau = np.linspace(-14, 8, 150), np.linspace(-14, 18, 600)
    rate, tau = np.exp(log_rate), np.exp(log_tau)
    log_p_tau = scipy.stats.gamma(prior.shape, scale=1 / rate[:, None]).logpdf(tau) + log_tau  # of log tau
    log_p_rate = scipy.stats.gamma(prior.rate_shape, scale=1 / prior.rate_rate).logpdf(rate) + log_rate

    def log_block(rows):
        precision = 1 / prior.mean_variance + len(rows) * tau
        about = rows - prior.mean
        exponent = tau * (about**2).sum() - (tau * about.sum()) ** 2 / precision
        of_rows = (len(rows) * np.log(tau / (2 * np.pi)) - np.log(prior.mean_variance * precision) - exponent) / 2
        return logsumexp(of_rows + log_p_tau, axis=1) + np.log(log_tau[1] - log_tau[0])

    blocks = {mask: log_block(x[[i for i in range(N) if mask >> i & 1]]) for mask in range(1, 2**N)}
    log_p = log_p_components("uniform", MOST)
    exact = np.full((MOST + 1, len(rate)), -np.inf)
    for labels in partitions(N):
        counts = np.bincount(labels)
        t = len(counts)
        if t <= MOST:
            heads = [
                log_p[k - 1] + gammaln(k + 1) - gammaln(k - t + 1) + gammaln(k) - gammaln(k + N) for k in range(t, MOST + 1)
            ]
            of_rows = sum(blocks[int((1 << np.flatnonzero(labels == k)).sum())] for k in range(t))
            exact[t] = np.logaddexp(exact[t], logsumexp(heads) + gammaln(counts + 1).sum() + of_rows)
    exact = logsumexp(exact + log_p_rate, axis=1)
    exact = np.exp(exact - logsumexp(exact))
    data = make_data(x[:, None], prior, PartitionPrior(log_p, np.float64(1), "static"))
    clusters = run_chains(Together(2), starts(data, 0), data, Schedule(100, 500))["n_clusters"]
    check_bins(clusters, exact)


def test_implied_prior_is_the_exact_one():
    """Against the recursions' published figures, and the sum over all partitions of eight rows."""
    dp = PartitionPrior(np.zeros(50) - np.log(50), np.float64(1), "dirichlet-process")
    table = [0.01, 0.051774, 0.125852, 0.192986, 0.211204, 0.176717, 0.118151, 0.065101]
    np.testing.assert_allclose(dp.implied(100)[:8], table, atol=1e-6)
    static = PartitionPrior(log_p_components("uniform", 30), np.float64(1), "static").implied(82)
    np.testing.assert_allclose(static[:4], [0.03417, 0.03503, 0.03593, 0.03686], atol=1e-5)
    np.testing.assert_allclose(static @ np.arange(1, 31), 12.6091, atol=1e-4)
    dynamic = PartitionPrior(log_p_components("beta-negative-binomial", 200), np.float64(1), "dynamic").implied(82)
    np.testing.assert_allclose(dynamic[:5], [0.60755, 0.24782, 0.09705, 0.03365, 0.01027], atol=2e-5)
    for kind in ("static", "dynamic"):
        exact = np.zeros(MOST)
        for labels in partitions(N):
            if labels.max() < MOST:
                exact[labels.max()] += np.exp(log_partition(labels, kind, 0.8))
        np.testing.assert_allclose(partition_prior(kind).implied(N), exact, rtol=1e-10)


def test_without_evidence_the_posterior_is_the_implied_prior():
    """Components that the prior pins to one Gaussian tell no partition from another: what is left is the prior's recursion.

    Of a Dirichlet process; of a mixture Geweke's test below says so.
    """
    x = small_rows()
    pinned = jg.Prior(1.0, x.mean(0), 1e7, 1e7, 1e7 * np.cov(x.T), "full")
    run = {"max_components": 8, "n_draws": 800, "n_warmup": 50, "n_chains": 16, "n_moves": 1}
    tree = jg.count_clusters(x, key=KEY, prior=pinned, model="dirichlet-process", **run)
    clusters, implied = tree["allocations"]["n_clusters"].values, tree["cluster_count"]["prior"].values
    for t in np.flatnonzero(implied > 0.01) + 1:
        happened = (clusters == t).astype(float)
        ess = float(az.ess(happened, method="mean"))
        assert ess > 1000
        assert abs(happened.mean() - implied[t - 1]) < 3 * happened.std() / np.sqrt(ess)


def test_kernel_for_numpyro():
    """The kernel's chains are those of the sweep, from the partition that it is given."""
    x, prior, labels = small_rows(), component_prior(), np.array([np.arange(N) % 2, np.zeros(N, int)])
    kernel = jg.TelescopingKernel(prior, weights="static", alpha=0.8, max_components=MOST)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=2, num_samples=20, num_chains=2, chain_method="vectorized", progress_bar=False)
    mcmc.run(KEY, x, init_params=labels)
    drawn = mcmc.get_samples(group_by_chain=True)
    data = padded_data(x, prior, partition_prior("static"))
    chains = start_all(jax.random.split(KEY, 2), labels, data)
    ours = run_chains(Telescoping(2), chains, data, Schedule(2, 20))
    np.testing.assert_array_equal(drawn["labels"], ours["labels"])
    np.testing.assert_allclose(drawn["log_likelihood"], ours["log_likelihood"], rtol=1e-9)
    assert drawn["weights"].shape == (2, 20, MOST)


def test_kernel_refuses_what_it_cannot_use():
    with pytest.raises(TypeError, match=r"prior must be a Prior or RichardsonGreen, got str: Prior\.default\(x, 1\)"):
        jg.TelescopingKernel("default")
    with pytest.raises(ValueError, match="family 'tied' ties components together"):
        jg.TelescopingKernel(jg.Prior.default(small_rows(), 1, "tied"))
    with pytest.raises(ValueError, match="alpha must be a positive number"):
        jg.TelescopingKernel(component_prior(), alpha=0)
    kernel = jg.TelescopingKernel(component_prior(), max_components=3)
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="x has 1 columns"):
        mcmc.run(KEY, small_rows(1))
    with pytest.raises(ValueError, match="init_params has 8 clusters, but there are at most 3 components"):
        mcmc.run(KEY, small_rows(), init_params=np.arange(N))
    with pytest.raises(ValueError, match=r"init_params must be labels, whole numbers from 0 on of shape \(1, 8\)"):
        mcmc.run(KEY, small_rows(), init_params=np.zeros(3, int))
    with jax.enable_x64(False), pytest.raises(ValueError, match="TelescopingKernel needs float64"):
        mcmc.run(KEY, small_rows())


def test_prior_of_the_number_of_components():
    p = np.exp(log_p_components("beta-negative-binomial", 2000))[:8]
    np.testing.assert_allclose(p, [0.5714, 0.2143, 0.0952, 0.0476, 0.0260, 0.0152, 0.0093, 0.0060], atol=5e-5)
    for name, other in (("geometric", scipy.stats.geom(0.1, loc=-1)), ("poisson", scipy.stats.poisson(1))):
        expected = other.pmf(np.arange(10))
        np.testing.assert_allclose(np.exp(log_p_components(name, 10)), expected / expected.sum(), rtol=1e-10)
    np.testing.assert_allclose(np.exp(log_p_components([1, 1, 2.0], 3)), [0.25, 0.25, 0.5])
    draws = jax.vmap(lambda u: draw_n_components(u, jnp.log(jnp.array([0.2, 0.0, 0.8]))))(
        jnp.linspace(0, 1, 1000, endpoint=False)
    )
    np.testing.assert_allclose(np.bincount(draws, minlength=4) / 1000, [0, 0.2, 0, 0.8], atol=2e-3)


def test_log_gamma():
    x = np.concatenate([np.geomspace(1e-8, 1e8, 500), [1.0, 2.0, 0.5, 8.0]])
    truth = gammaln(x)
    np.testing.assert_allclose(log_gamma(x), truth, rtol=1e-14, atol=3e-14)


CHAINS = 512


def draw_from_prior(rng, partition, prior):
    """Labels and rows of many small problems, by numpy and scipy alone."""
    d = np.size(prior.mean)
    alpha = (
        scipy.stats.f(6, 3).rvs(CHAINS, random_state=rng) if partition.alpha_prior else np.full(CHAINS, float(partition.alpha))
    )
    k = rng.choice(MOST, CHAINS, p=np.exp(partition.log_components)) + 1
    labels, x = np.zeros((CHAINS, N), int), np.zeros((CHAINS, N, d))
    for c in range(CHAINS):
        weights = rng.dirichlet(np.full(k[c], alpha[c] / k[c]))
        labels[c] = rng.choice(k[c], N, p=weights / weights.sum())
        x[c] = draw_rows(rng, labels[c], prior)
    return labels, x


def draw_rows(rng, labels, prior):
    x = np.zeros((len(labels), np.size(prior.mean)))
    for k in np.unique(labels):
        covariance = np.atleast_2d(scipy.stats.invwishart(float(prior.degrees_of_freedom), prior.scale).rvs(random_state=rng))
        mean = rng.multivariate_normal(prior.mean, covariance / prior.mean_precision)
        x[labels == k] = rng.multivariate_normal(mean, covariance, (labels == k).sum())
    return x


def many_data(x, prior, partition):
    rows = jax.vmap(lambda z: expand(z, get_family(prior.family)))(jnp.asarray(x))
    return Data(rows, *jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (prior, partition)))


AXES = Data(0, None, None)


@jax.jit
def many_starts(keys, labels, data):
    return jax.vmap(start, in_axes=(0, 0, AXES))(keys, labels, data)


@jax.jit
def many_sweeps(states, data, n_sweeps):
    one = jax.vmap(lambda state, own: sweep(state, own, 2), in_axes=(0, AXES))
    return jax.lax.fori_loop(0, n_sweeps, lambda _, states: one(states, data), states)


def test_calibration_and_geweke():
    """The true number of clusters has a uniform rank among draws from the posterior of its rows (Talts et al. 2018); and
    chains whose rows are redrawn between sweeps keep the prior of K, K+ and alpha (Geweke 2004).
    """
    prior, partition, rng = component_prior(), partition_prior("dynamic", "f"), np.random.default_rng(4)
    labels, x = draw_from_prior(rng, partition, prior)
    truth = np.array([np.unique(row).size for row in labels])
    strangers = np.zeros((CHAINS, N), int)
    data = many_data(x, prior, partition)
    states = many_starts(jax.random.split(KEY, CHAINS), jnp.asarray(strangers), data)
    states = many_sweeps(states, data, 40)  # four of five draws of a chain of so few rows are independent: 10 sweeps are many
    n_draws, below, equal = 7, np.zeros(CHAINS), np.zeros(CHAINS)
    for _ in range(n_draws):
        states = many_sweeps(states, data, 10)
        clusters = np.asarray(states.n_clusters)
        below, equal = below + (clusters < truth), equal + (clusters == truth)
    ranks = below + rng.integers(0, equal.astype(int) + 1)
    assert scipy.stats.chisquare(np.bincount(ranks.astype(int), minlength=n_draws + 1)).pvalue > 1e-3

    # Every chain is at a draw from the joint distribution now, if the sampler is right: Geweke's test begins there.
    sums = np.zeros((2, CHAINS, MOST))
    log_alpha = np.zeros(CHAINS)
    n_rounds = 60
    for _ in range(n_rounds):
        data = many_data(draw_rows_given(rng, states.labels, states.gmm), prior, partition)
        states = many_sweeps(states, data, 3)
        sums[0] += np.eye(MOST)[np.asarray(states.n_clusters) - 1]
        sums[1] += np.eye(MOST)[np.asarray(states.n_components) - 1]
        log_alpha += np.log(states.alpha)
    for total, expected in zip(sums / n_rounds, (partition.implied(N), np.exp(partition.log_components)), strict=True):
        # Six clusters of eight rows are seen twice, or never: five or six are one bin.
        total, expected = (np.append(each[..., :4], each[..., 4:].sum(-1, keepdims=True), -1) for each in (total, expected))
        z = (total.mean(0) - expected) / (total.std(0) / np.sqrt(CHAINS))
        assert (abs(z) < 4).all(), z
    points = scipy.stats.f(6, 3).ppf((np.arange(100_000) + 0.5) / 100_000)
    z = (log_alpha.mean() / n_rounds - np.log(points).mean()) / (log_alpha.std() / n_rounds / np.sqrt(CHAINS))
    assert abs(z) < 4


def draw_rows_given(rng, labels, gmm):
    means, scale = np.asarray(gmm.means), np.linalg.cholesky(gmm.covariances)
    chains = np.arange(CHAINS)[:, None]
    noise = rng.normal(size=(CHAINS, N, means.shape[-1], 1))
    return means[chains, labels] + (scale[chains, labels] @ noise)[..., 0]
