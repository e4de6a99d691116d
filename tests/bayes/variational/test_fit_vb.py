"""Variational Bayes against scikit-learn, exact evidence (chain rule, enumeration), and its own laws."""

import itertools
import warnings

import jax
import numpy as np
import pytest
from helpers import crossed, nearest
from scipy import stats
from scipy.special import betaln, gammaln, logsumexp, multigammaln

import jaxgmm as jg

# Most tests have one start, two features and up to four components: for each family and kind of weights that is one program.
KEY = jax.random.key(0)
WEIGHTS = ("dirichlet", "stick-breaking")
LABELS = np.repeat(np.arange(4), 60)  # of the rows below


@pytest.fixture(scope="module")
def rows(blobs):
    return blobs[:, :2]


def prior_of(family, d, concentration=0.7, seed=1):
    """A prior with nothing special about it."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d))
    dense = factor @ factor.T + np.eye(d)
    scale = {"full": dense, "tied": dense, "diag": np.diag(dense), "spherical": dense[0, 0]}[family]
    return jg.Prior(concentration, rng.normal(size=d), 0.3, d + 1.5, scale, family)


class Exact:
    """A conjugate posterior given allocated rows, one row at a time, in plain NumPy with SciPy's Student t."""

    def __init__(self, prior, n_components):
        self.family, d = prior.family, len(prior.mean)
        self.kappa = np.full(n_components, float(prior.mean_precision))
        self.mean = np.tile(np.asarray(prior.mean, float), (n_components, 1))
        shared = self.family == "tied"
        self.nu = np.full(1 if shared else n_components, float(prior.degrees_of_freedom))
        self.psi = np.array([np.asarray(prior.scale, float)] * (1 if shared else n_components))
        self.d = d

    def predictive(self, row, k):
        j, shrunk = 0 if self.family == "tied" else k, (self.kappa[k] + 1) / self.kappa[k]
        nu, psi = self.nu[j], self.psi[j] * shrunk
        if self.family == "diag":
            return stats.t.logpdf(row, nu, self.mean[k], np.sqrt(psi / nu)).sum()
        if self.family == "spherical":
            return stats.multivariate_t.logpdf(row, self.mean[k], psi / nu * np.eye(self.d), nu)
        df = nu - self.d + 1
        return stats.multivariate_t.logpdf(row, self.mean[k], psi / df, df)

    def add(self, row, k):
        j, away = 0 if self.family == "tied" else k, row - self.mean[k]
        outer = {"diag": away**2, "spherical": away @ away}.get(self.family, np.outer(away, away))
        self.psi[j] = self.psi[j] + self.kappa[k] / (self.kappa[k] + 1) * outer
        self.nu[j] += self.d if self.family == "spherical" else 1
        self.mean[k] += away / (self.kappa[k] + 1)
        self.kappa[k] += 1


def log_joint_of(x, labels, prior, n_components, weights="dirichlet"):
    """Log p(x, z), parameters integrated out."""
    exact, total = Exact(prior, n_components), 0.0
    for row, k in zip(x, labels, strict=True):
        total += exact.predictive(row, k)
        exact.add(row, k)
    counts = np.bincount(labels, minlength=n_components)
    if weights == "dirichlet":
        alpha = np.broadcast_to(np.asarray(prior.concentration), n_components)
        pochhammer = (gammaln(alpha + counts) - gammaln(alpha)).sum()
        return total + pochhammer + gammaln(alpha.sum()) - gammaln(alpha.sum() + len(x))
    later, gamma = counts[::-1].cumsum()[::-1] - counts, float(prior.concentration)
    return total + (betaln(1 + counts, gamma + later) - betaln(1, gamma)).sum()


def test_one_component_is_exact(family):
    """K = 1: q is the posterior, the bound is the evidence, the predictive density is the exact one."""
    x = np.random.default_rng(2).normal(size=(30, 2)) @ np.diag([1, 2]) + 3
    prior = prior_of(family, 2)
    labels = np.zeros(30, int)
    fit = jg.fit_vb(x, key=KEY, family=family, prior=prior, init=labels)
    np.testing.assert_allclose(fit.elbo, log_joint_of(x, labels, prior, 1), rtol=1e-11)
    exact = Exact(prior, 1)
    for row in x:
        exact.add(row, 0)
    new = np.random.default_rng(3).normal(size=(20, 2)) * 4
    np.testing.assert_allclose(fit.log_prob(new), [exact.predictive(row, 0) for row in new], rtol=1e-10)
    np.testing.assert_allclose(np.squeeze(fit.scale), np.squeeze(exact.psi), rtol=1e-10)
    sticks = jg.fit_vb(x, key=KEY, family=family, prior=prior, init=labels, weights="stick-breaking")
    np.testing.assert_allclose(sticks.elbo, log_joint_of(x, labels, prior, 1, "stick-breaking"), rtol=1e-11)


def climbs(trace):
    return (np.diff(trace) > -1e-9 * abs(trace[-1])).all()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_bound_is_below_the_evidence(family, weights):
    """Overlapping rows: 2^7 allocations summed exactly. Sticks: of the part of the evidence that K sticks have."""
    x = np.random.default_rng(4).normal(size=(7, 2)) * 2
    prior = prior_of(family, 2)
    allocations = itertools.product(range(2), repeat=7)
    evidence = logsumexp([log_joint_of(x, np.array(z), prior, 2, weights) for z in allocations])
    for labels in ([0, 0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1, 0]):
        fit = jg.fit_vb(x, family=family, prior=prior, weights=weights, init=labels, key=KEY)
        assert evidence - 3 < fit.elbo < evidence
        assert fit.converged
        assert climbs(fit.trace)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_bound_is_exact_where_allocations_are_known(family, weights):
    """Clusters far apart: all the posterior is one allocation and its relabellings, and given that q is exact."""
    rng = np.random.default_rng(5)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    centres = np.array([[0, 0], [1000, 0], [0, 1500]])
    x = rng.normal(size=(10, 2)) + centres[labels]
    prior = prior_of(family, 2)
    fit = jg.fit_vb(x, family=family, prior=prior, weights=weights, init=labels, key=KEY)
    exact = log_joint_of(x, labels, prior, 3, weights)
    assert exact < fit.elbo < exact + 1e-5  # the other allocations' share: t tails, 1000 standard deviations out
    assert fit.log_evidence - fit.elbo == pytest.approx(np.log(6) if weights == "dirichlet" else 0)
    assert fit.predict(x).tolist() == labels.tolist()


def test_labels_that_change_nothing_are_not_counted():
    """Idle components look alike; components with concentrations of their own have no symmetry."""
    x = np.concatenate([np.random.default_rng(6).normal(size=(40, 1)), np.random.default_rng(7).normal(size=(40, 1)) + 50])
    prior = jg.Prior(1e-3, [25.0], 0.01, 3.0, [[1.0]])
    fit = jg.fit_vb(x, 4, key=KEY, prior=prior, n_init=5)
    assert sorted(np.asarray(fit.counts).round(6).tolist()) == [0, 0, 40, 40]
    assert fit.log_evidence - fit.elbo == pytest.approx(np.log(24 / 2))
    own = jg.Prior([1.0, 2.0], [25.0], 0.01, 3.0, [[1.0]])
    fit = jg.fit_vb(x, init=np.repeat([0, 1], 40), key=KEY, prior=own)
    assert fit.log_evidence == fit.elbo


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equals_scikit_learn(weights):
    """ELBO = lower_bound_ + c, the constants that scikit-learn leaves out (#8823); and the same q."""
    from sklearn.mixture import BayesianGaussianMixture

    x = jg.datasets.load_iris().x
    (n, d), k = x.shape, 3
    prior = jg.Prior(0.8, x.mean(0) + 0.1, 0.5, d + 1.0, np.cov(x.T) / 2)
    theirs = BayesianGaussianMixture(
        n_components=k, tol=1e-12, reg_covar=0.0, max_iter=5000, random_state=0,
        weight_concentration_prior_type="dirichlet_distribution" if weights == "dirichlet" else "dirichlet_process",
        weight_concentration_prior=0.8, mean_precision_prior=0.5, mean_prior=x.mean(0) + 0.1,
        degrees_of_freedom_prior=d + 1.0, covariance_prior=np.cov(x.T) / 2,
    ).fit(x)  # fmt: skip
    fit = jg.fit_vb(x, prior=prior, weights=weights, init=theirs.predict_proba(x), rtol=1e-14, max_steps=5000, key=KEY)

    def log_z(psi, nu):
        return -nu / 2 * np.linalg.slogdet(psi)[1] + nu * d / 2 * np.log(2) + multigammaln(nu / 2, d)

    c = -n * d / 2 * np.log(2 * np.pi) + k * d / 2 * np.log(0.5)
    c -= k * (log_z(np.cov(x.T) / 2, d + 1.0) - d * (d - 1) / 4 * np.log(np.pi))
    c -= k * gammaln(0.8) - gammaln(k * 0.8) if weights == "dirichlet" else k * betaln(1, 0.8)
    assert fit.elbo == pytest.approx(theirs.lower_bound_ + c, abs=1e-6)
    concentration = np.transpose(theirs.weight_concentration_) if weights == "stick-breaking" else theirs.weight_concentration_
    for ours, sklearn in (
        (fit.concentration, concentration),
        (fit.mean, theirs.means_),
        (fit.mean_precision, theirs.mean_precision_),
        (fit.degrees_of_freedom, theirs.degrees_of_freedom_),
        (fit.scale, theirs.covariances_ * theirs.degrees_of_freedom_[:, None, None]),
        (fit.responsibilities(x), theirs.predict_proba(x)),
        (fit.expected_gmm().weights, theirs.weights_),
    ):
        np.testing.assert_allclose(ours, sklearn, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "weights"), [("full", "dirichlet"), ("tied", "stick-breaking"), ("spherical", "dirichlet")])
def test_the_bound_never_falls(rows, family, weights):
    """Of any start; for all families and weights, see above."""
    fit = jg.fit_vb(rows, 4, key=KEY, family=family, weights=weights, n_init=3, rtol=1e-7)
    for trace, status in zip(fit.restarts.trace, fit.restarts.status, strict=True):
        assert status is jg.Status.converged
        assert climbs(trace)
    assert fit.elbo == fit.trace[-1] == fit.restarts.objective.max()
    assert len(fit.trace) == fit.n_steps + 1


def test_weights_count_rows(rows, row_counts, family):
    """A weight of 2 is a row twice, in the bound and in q."""
    repeated, prior = np.repeat(rows, row_counts, axis=0), prior_of(family, 2)
    weighted = jg.fit_vb(rows, family=family, prior=prior, init=LABELS, sample_weight=row_counts, key=KEY)
    twice = jg.fit_vb(repeated, family=family, prior=prior, init=np.repeat(LABELS, row_counts), key=KEY)
    assert weighted.elbo == pytest.approx(twice.elbo, rel=1e-9)
    np.testing.assert_allclose(weighted.mean, twice.mean, rtol=1e-6)


@pytest.mark.parametrize(("family", "weights"), crossed(WEIGHTS))  # the default prior: programs of its own
def test_units_and_offsets_change_the_bound_by_the_jacobian(rows, family, weights):
    """And counts are those of the allocations."""
    settings = {"family": family, "weights": weights, "init": LABELS, "key": KEY}
    small, large = jg.fit_vb(rows, **settings), jg.fit_vb(1000 * rows + 1e6, **settings)
    assert large.elbo == pytest.approx(small.elbo - rows.size * np.log(1000), rel=1e-7)
    np.testing.assert_allclose(large.concentration, small.concentration, rtol=1e-4)
    r = small.responsibilities(rows)
    np.testing.assert_allclose(r.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(r.sum(0), small.counts, rtol=1e-9)
    np.testing.assert_array_equal(small.predict(rows), np.argmax(r, axis=1))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_predictive_density_integrates_to_one(family, weights):
    """On a grid that is even in asinh(x), so that it reaches the tails."""
    u = np.linspace(-12, 12, 200)
    step, spread = u[1] - u[0], np.cosh(u)
    rng = np.random.default_rng(8)
    x = np.concatenate([rng.normal(size=(10, 2)), rng.normal(size=(8, 2)) + 3])
    settings = {"key": KEY, "family": family, "weights": weights, "init": np.repeat([0, 1], [10, 8])}
    fit = jg.fit_vb(x, prior=prior_of(family, 2), **settings)
    grid = np.stack(np.meshgrid(np.sinh(u), np.sinh(u), indexing="ij"), -1).reshape(-1, 2)
    mass = np.exp(fit.log_prob(grid).reshape(200, 200)) * spread[:, None] * spread
    assert mass.sum() * step**2 == pytest.approx(1, abs=1e-5)
    if (family, weights) == ("full", "dirichlet"):
        line = jg.fit_vb(x[:, :1], prior=prior_of(family, 1), **settings)
        assert (np.exp(line.log_prob(np.sinh(u)[:, None])) * spread).sum() * step == pytest.approx(1, abs=1e-6)
        assert line.log_prob([0.5]).shape == ()


def test_starts_in_turn_are_those_of_a_batch(rows, monkeypatch):
    settings = {"n_components": 3, "key": KEY, "family": "diag", "n_init": 4}
    together = jg.fit_vb(rows, **settings)
    monkeypatch.setattr("jaxgmm.bayes.variational.fit_vb.TOGETHER", 1)
    in_turn = jg.fit_vb(rows, **settings)
    np.testing.assert_allclose(in_turn.restarts.objective, together.restarts.objective, rtol=1e-9)
    np.testing.assert_allclose(in_turn.mean, together.mean, rtol=1e-6)
    assert in_turn.elbo == in_turn.restarts.objective.max()


def two_clusters(family="full"):
    """Rows, and a mixture of two components that is near them."""
    rng = np.random.default_rng(10)
    x = np.concatenate([rng.normal(size=(60, 2)), rng.normal(size=(40, 2)) + 7])
    return x, jg.GMM([0.6, 0.4], [[0.0, 0.0], [7.0, 7.0]], nearest(family, np.tile(np.eye(2), (2, 1, 1))), family)


OF_DRAWS = {"method": "vb", "key": KEY, "n_draws": 1000, "n_chains": 2}


def test_posterior_takes_weights_that_are_not_whole():
    x, start = two_clusters()
    weight, prior = np.random.default_rng(11).uniform(0.2, 2.5, size=100), jg.Prior.default(x, 2)
    tree = jg.posterior(x, start, prior=prior, sample_weight=weight, **OF_DRAWS)
    vb = jg.fit_vb(x, init=start, prior=prior, sample_weight=weight, key=KEY)
    assert tree["sample_stats"].attrs["elbo"] == pytest.approx(vb.elbo, rel=1e-9)


def test_starts_from_a_mixture(rows):
    fit = jg.fit(rows, init=LABELS, key=KEY, family="diag")
    vb = jg.fit_vb(rows, init=fit, key=KEY)
    assert (vb.family, vb.n_components, len(vb.restarts.status)) == ("diag", 4, 1)
    assert vb.elbo < fit.objective + 100


@pytest.mark.default_precision
def test_float32_data_are_computed_in_float64(rows):
    """On a CPU, with x64 off: the bound is that of float64 rows of the same values; answers about rows are float32."""
    x = rows.astype(np.float32)
    single = jg.fit_vb(x, init=LABELS, key=KEY)
    double = jg.fit_vb(x.astype(float), init=LABELS, key=KEY)
    assert single.elbo == pytest.approx(double.elbo, rel=1e-9)
    assert single.log_prob(x).dtype == np.float32
    assert single.mean.dtype == single.expected_gmm().means.dtype == double.mean.dtype == np.float64


def test_no_mean_of_a_covariance():
    x = np.random.default_rng(9).normal(size=(6, 2))
    fit = jg.fit_vb(x, 2, key=KEY, prior=jg.Prior(1e-3, np.zeros(2), 1.0, 1.5, np.eye(2)), init=np.eye(2)[[0] * 5 + [1]])
    with pytest.raises(ValueError, match="must be more than 3 for the mean of a covariance"):
        fit.expected_gmm()


def test_running_out_of_steps_is_said(rows):
    with pytest.warns(jg.FitWarning, match="fit_vb ended as 'max_steps'"):
        fit = jg.fit_vb(rows, 3, key=KEY, n_init=1, max_steps=2)
    assert (fit.status, fit.n_steps, fit.converged) == (jg.Status.max_steps, 2, False)


def test_draws_are_of_q(family):
    """Against SciPy: means of the draws, the density of q, and the bound, which no draw of the parameters can raise."""
    x, start = two_clusters(family)
    prior = jg.Prior.default(x, 2, family)
    tree = jg.posterior(x, start, prior=prior, **OF_DRAWS)
    vb = jg.fit_vb(x, family=family, prior=prior, init=start, key=KEY)
    facts, sample_stats = tree["sample_stats"].attrs, tree["sample_stats"]
    assert facts["elbo"] == pytest.approx(vb.elbo, abs=1e-5)
    assert facts["pareto_k"] < 0.7
    expected = vb.expected_gmm()
    for name in ("weights", "means", "covariances"):
        draws = np.asarray(tree["posterior"][name])
        error = draws.std((0, 1)) / np.sqrt(2000)
        assert (abs(draws.mean((0, 1)) - np.asarray(getattr(expected, name))) < 4.5 * error + 1e-12).all()

    gmm = jax.tree.map(lambda leaf: np.asarray(leaf[0, 0], float), jg.draws_of(tree))
    log_q = stats.dirichlet.logpdf(gmm.weights / gmm.weights.sum(), vb.concentration)
    for k, sigma in enumerate(gmm.dense_covariances()):
        log_q += stats.multivariate_normal.logpdf(gmm.means[k], vb.mean[k], sigma / vb.mean_precision[k])
    if family in ("full", "tied"):
        nu, psi, sigma = (np.asarray(value) for value in (vb.degrees_of_freedom, vb.scale, gmm.covariances))
        blocks = zip(nu, psi, sigma, strict=True) if family == "full" else [(nu, psi, sigma)]
        log_q += sum(stats.invwishart.logpdf(s, float(n), p) for n, p, s in blocks)
    else:
        nu = np.reshape(vb.degrees_of_freedom, (2,) + (1,) * (np.ndim(vb.scale) - 1))
        log_q += stats.invgamma.logpdf(gmm.covariances, nu / 2, scale=vb.scale / 2).sum()
    assert float(sample_stats["log_q"][0, 0]) == pytest.approx(log_q, rel=1e-8)
    assert float(sample_stats["lp"][0, 0]) == pytest.approx(float(gmm.log_likelihood(x) + prior.log_prob(gmm)), rel=1e-9)
    log_ratio = np.asarray(sample_stats["log_p"] - sample_stats["log_q"])
    assert log_ratio.mean() > vb.elbo - 4.5 * log_ratio.std() / np.sqrt(2000)  # z summed out: the bound is tighter


def test_posterior_refuses_a_prior_that_is_not_conjugate():
    x = jg.datasets.load_galaxies().x
    gmm = jg.GMM([0.5, 0.5], [[10.0], [20.0]], [1.0, 1.0], "spherical")
    with pytest.raises(ValueError, match="method 'vb' needs a conjugate prior"):
        jg.posterior(x, gmm, method="vb", key=KEY, prior=jg.RichardsonGreen.default(x))


def test_posterior_says_where_q_is_not_to_be_trusted():
    """Overlapping components: allocations and parameters depend on each other, which q can't say."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    gmm = jg.GMM([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], np.tile(np.eye(2), (2, 1, 1)))
    with pytest.warns(jg.FitWarning) as caught:
        tree = jg.posterior(x, gmm, rtol=0, **OF_DRAWS)  # which never ends by itself
    said = [str(warning.message) for warning in caught]
    assert said[0].startswith("vb ended as 'max_steps'")
    assert "vb: Pareto k-hat is" in said[1]
    assert "the factorised q misses" in said[1]
    assert {warning.filename for warning in caught} == {__file__}
    assert not jg.diagnose(tree).ok


X = np.random.default_rng(0).normal(size=(20, 2))
BAD = [
    ({"weights": "dirichlett"}, ValueError, "unknown weights 'dirichlett'; did you mean 'dirichlet'"),
    ({"prior": jg.Prior.default(X, 2, "diag")}, ValueError, "prior is for family 'diag', the mixture is 'full'"),
    ({"prior": "defualt"}, ValueError, "unknown prior 'defualt'; did you mean 'default'"),
    ({"prior": None}, ValueError, "prior must be 'default', 'fraley-raftery' or a Prior, got None, maximum likelihood"),
    (
        {"prior": jg.Prior([1.0, 2.0], [0, 0], 1, 4, np.eye(2)), "weights": "stick-breaking"},
        ValueError,
        "gamma, for all sticks",
    ),
    ({"n_components": 0}, ValueError, "n_components must be at least 1, got 0"),
    ({"n_components": 2.0}, TypeError, "n_components must be a whole number"),
    ({"n_components": None}, ValueError, "n_components is needed"),
    ({"init": "k-meanz"}, ValueError, "did you mean 'k-means"),
    ({"init": np.zeros((20, 2))}, ValueError, "init responsibilities must be non-negative"),
    ({"init": np.zeros(19, int)}, ValueError, "init has shape"),
    ({"rtol": -1}, ValueError, "rtol must be a number >= 0"),
    ({"max_steps": 0}, ValueError, "max_steps must be at least 1"),
    ({"n_init": 0}, ValueError, "n_init must be at least 1"),
    ({"key": 0}, TypeError, "key must be one PRNG key"),
    ({"family": "fulll"}, ValueError, "did you mean 'full'"),
    ({"sample_weight": -np.ones(20)}, ValueError, "sample_weight is negative"),
    ({"x": np.full((20, 2), np.nan)}, ValueError, "no value at all in rows"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[f"{i}-{'-'.join(c)}" for i, (c, *_) in enumerate(BAD)])
def test_bad_input(change, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            jg.fit_vb(**{"x": X, "n_components": 2, "key": KEY} | change)


def test_not_inside_jit():
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: jg.fit_vb(x, 2, key=KEY).mean)(X)
