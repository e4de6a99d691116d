"""Cases that once gave wrong numbers or a muddle: each would pass a glance and fail a user."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

import jaxgmm as jg

KEY = jax.random.key(0)


def heights():
    """Centimetres, and the same in inches to four decimals: columns that are nearly collinear."""
    cm = np.random.default_rng(0).normal(170, 8, 2000)
    return np.column_stack([cm, np.round(cm / 2.54, 4)])


def repeated_column():
    column = np.random.default_rng(0).normal(170, 8, 2000)
    return np.column_stack([column, column])


@pytest.mark.filterwarnings("ignore:.* components have no rows:jaxgmm.FitWarning")
@pytest.mark.parametrize("data", [heights, repeated_column])
def test_nearly_collinear_columns(data):
    """Means near the centre hide an ill-conditioned covariance: the engine must be chosen by the rows' own spread."""
    x = data()
    fit = jg.fit(x, 2, key=KEY, n_init=3)
    assert {status.name for status in fit.restarts.status} == {"converged"}
    assert fit.log_likelihood == pytest.approx(fit.gmm.log_likelihood(x), rel=1e-9)


@pytest.mark.default_precision
def test_float64_data_keep_float64_parameters():
    """Seconds since 1970 in JAX's default configuration: float32 would move the means by up to 64 seconds."""
    rng = np.random.default_rng(0)
    x = 1.7e9 + np.concatenate([rng.normal(0, 10, 200), rng.normal(100, 10, 200)])[:, None]
    fit = jg.fit(x, 2, key=KEY)
    assert fit.gmm.means.dtype == np.float64
    np.testing.assert_allclose(np.sort(fit.gmm.means[:, 0]) - 1.7e9, [0, 100], atol=5)  # seven standard errors
    assert fit.log_likelihood == pytest.approx(fit.gmm.log_likelihood(x), rel=1e-9)


def percentages(rng):
    """Compositions: rows that add up to 100, but for rounding."""
    return 100 * rng.dirichlet([5, 5, 5], 300)


def nearly_a_line(rng):
    a = rng.normal(size=300)
    return np.c_[a, a + 3e-4 * rng.normal(size=300)]


def a_sum_column(rng):
    a, b = rng.normal(size=(2, 300))
    return np.c_[a, b, a + b]


FLOAT32 = {
    "percentages": percentages,
    "nearly a line": nearly_a_line,
    "a sum column": a_sum_column,
    "large": lambda rng: 1e18 * rng.normal(size=(300, 2)),
    "small": lambda rng: 1e-18 * rng.normal(size=(300, 2)),
}


@pytest.mark.default_precision
@pytest.mark.filterwarnings("ignore:.* components have no rows:jaxgmm.FitWarning")
@pytest.mark.parametrize(
    ("family", "rows"),
    [
        *(("full", rows) for rows in FLOAT32),
        ("tied", "percentages"),
        ("tied", "large"),
        ("diag", "a sum column"),
        ("diag", "small"),
    ],
)
def test_the_mixture_of_float32_rows_has_the_likelihood_of_its_fit(rows, family):
    for seed in range(3):
        x = FLOAT32[rows](np.random.default_rng(seed)).astype(np.float32)
        fit = jg.fit(x, 2, key=KEY, n_init=2, max_steps=2000, family=family)
        assert fit.converged
        assert fit.gmm.log_likelihood(x) == pytest.approx(fit.log_likelihood, rel=1e-5)
        assert np.isfinite(fit.gmm.log_prob(x)).all()


@pytest.mark.parametrize("total", [1e6, 3.3e8, 1e10])
def test_starts_agree_whatever_weights_add_up_to(total):
    """Survey weights that add up to a population: ten starts that agree to 1e-7 nats a unit of weight are one optimum."""
    grid = np.linspace(-5, 12, 341)
    p = 0.3 * np.exp(-0.5 * grid**2) + 0.7 / 1.5 * np.exp(-0.5 * ((grid - 2.5) / 1.5) ** 2)
    fit = jg.fit(grid[:, None], 2, key=KEY, max_steps=5000, sample_weight=total * p / p.sum())
    assert np.ptp(fit.restarts.objective) < 1e-7 * total
    assert fit.restarts.replication == 10
    assert fit.restarts.gap == np.inf


@pytest.mark.default_precision
def test_host_functions_refuse_to_run_inside_jit():
    """Also on data that a closure brings in; and the refusal leaves no float64 behind."""
    x = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(TypeError, match="e_step"):
        jax.jit(lambda scale: jg.fit(x, 2, key=KEY).gmm.means * scale)(2.0)
    with pytest.raises(TypeError, match="initialise"):
        jax.jit(lambda scale: jg.initialise(x, 2, key=KEY).means * scale)(2.0)
    assert jnp.asarray(x).dtype == jnp.float32
    gmm = jg.fit(x, 2, key=KEY).gmm
    before = gmm.bic(x), gmm.log_prob(x), gmm.condition([0], [0.5]).mean(), jg.e_step(gmm, x).log_likelihood
    assert float(jax.jit(lambda scale: gmm.bic(x) * scale)(1.0)) == pytest.approx(gmm.bic(x), rel=1e-5)
    jax.jit(lambda scale: gmm.mean() * scale)(1.0)
    after = gmm.bic(x), gmm.log_prob(x), gmm.condition([0], [0.5]).mean(), jg.e_step(gmm, x).log_likelihood
    for one, other in zip(
        before, after, strict=True
    ):  # the same mixture, though its leaves were constants of a float32 program
        np.testing.assert_array_equal(one, other)


ASK = {
    "log_prob": lambda g: g.log_prob(np.zeros((3, 2))),
    "bic": lambda g: g.bic(np.zeros((3, 2))),
    "mean": lambda g: g.mean(),
    "covariance": lambda g: g.covariance(),
    "marginal": lambda g: g.marginal([0]),
    "condition": lambda g: g.condition([0], [0.0]),
    "sample": lambda g: g.sample(KEY, 3),
    "e_step": lambda g: jg.e_step(g, np.zeros((3, 2))),
}


@pytest.mark.parametrize("name", ASK)
def test_leading_axes_need_vmap(name):
    draws = jg.GMM(np.full((4, 2), 0.5), np.zeros((4, 2, 2)), np.ones((4, 2, 2)), "diag")
    with pytest.raises(ValueError, match="vmap"):
        ASK[name](draws)
    jax.vmap(ASK[name])(jax.tree.map(jnp.asarray, draws))


def test_statistics_of_two_mixtures_do_not_add():
    x = np.random.default_rng(0).normal(size=(50, 2))
    gmm = jg.initialise(x, 2, key=KEY)
    other = jg.GMM(gmm.weights, gmm.means + 1, gmm.covariances)
    with pytest.raises(ValueError, match="same mixture"):
        jg.e_step(gmm, x) + jg.e_step(other, x)


WITHOUT_A_MAXIMUM = {
    "a constant column": lambda rng: np.c_[rng.normal(size=60), np.full(60, 3.0)],
    "one value": lambda rng: np.ones((60, 2)),
    "two values": lambda rng: np.repeat([[0.0, 0], [1, 1]], 30, axis=0),
    "three values": lambda rng: np.repeat([[0.0, 0], [1, 1], [2, 0]], 20, axis=0),
    "collinear": lambda rng: rng.normal(size=(60, 1)) * [1.0, 2.0],
    "fewer rows than columns": lambda rng: rng.normal(size=(8, 10)),
    "a row a component": lambda rng: rng.normal(size=(4, 2)),
    "an atom": lambda rng: np.concatenate([rng.normal(size=(40, 2)), np.zeros((20, 2))]),
    "an outlier": lambda rng: np.concatenate([rng.normal(size=(59, 2)), [[1e6, 1e6]]]),
}


@pytest.mark.filterwarnings("ignore::jaxgmm.FitWarning")
@pytest.mark.parametrize("data", WITHOUT_A_MAXIMUM)
def test_maximum_likelihood_is_finite_or_an_error(data, family):
    """Every number of every start is that of a mixture with a density; where there is none, FitError says so."""
    x = WITHOUT_A_MAXIMUM[data](np.random.default_rng(0))
    ended = []
    for k in (1, 3, 4):  # one program, and that of `test_fit.fit_small`
        try:
            fit = jg.fit(x, k, key=KEY, family=family, prior=None, n_init=20, max_steps=5000)
        except jg.FitError:
            assert not has_density(x, family)
            continue
        ended.append(fit.status)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.gmm))
        assert np.isfinite(fit.restarts.objective).all()
        assert np.isfinite(np.concatenate(fit.restarts.trace)).all()
        np.testing.assert_allclose(fit.restarts.log_likelihood, fit.restarts.objective)
        assert fit.log_likelihood == pytest.approx(log_likelihood(fit.gmm, x), rel=1e-6)
    assert len(ended) == 3 * has_density(x, family)


def has_density(x, family):
    """Whether the one Gaussian of the rows isn't singular."""
    centred = x - x.mean(0)
    if family in ("full", "tied"):
        return np.linalg.matrix_rank(centred) == x.shape[1]
    return bool({"diag": np.all, "spherical": np.any}[family](np.ptp(x, axis=0) > 0))


def log_likelihood(gmm, x):
    joint = []
    for weight, mean, covariance in zip(gmm.weights, gmm.means, gmm.dense_covariances(), strict=True):
        whitened = solve_triangular(np.linalg.cholesky(2 * np.pi * covariance), (x - mean).T, lower=True)
        joint.append(np.log(weight) - np.linalg.slogdet(2 * np.pi * covariance)[1] / 2 - np.pi * (whitened**2).sum(0))
    return logsumexp(joint, axis=0).sum()


def test_a_start_that_has_no_density_is_an_error():
    """Labels that put a component on one row, and there is no other start."""
    x = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(jg.FitError, match="collapsed at once"):
        jg.fit(x, key=KEY, init=np.eye(20, dtype=int)[0], prior=None)


def test_nan_debugging_finds_nothing():
    x = np.random.default_rng(0).normal(size=(50, 2))
    with jax.debug_nans(True):
        assert jg.fit(x, 2, key=KEY, n_init=2).converged


@pytest.mark.filterwarnings("ignore:.* components have no rows:jaxgmm.FitWarning")
def test_objective_is_the_prior_and_the_likelihood_even_where_weights_underflow():
    x = np.repeat([[0.0, 0], [1, 1], [2, 0]], 5, axis=0)
    fit = jg.fit(x, 8, key=KEY)
    assert fit.objective == pytest.approx(fit.log_likelihood + float(fit.prior.log_prob(fit.gmm)), rel=1e-6)


def test_fixed_covariances_cannot_collapse():
    x = np.column_stack([np.random.default_rng(0).normal(size=60), np.full(60, 3.0)])
    start = jg.GMM([0.5, 0.5], [[-1.0, 3.0], [1.0, 3.0]], np.tile(np.eye(2), (2, 1, 1)))
    assert jg.fit(x, key=KEY, init=start, fixed=("covariances",), prior=None, max_steps=2000).converged


@pytest.mark.parametrize("dtype", [">f8", np.longdouble, np.float16])
def test_any_float_dtype(dtype):
    x = np.random.default_rng(0).normal(size=(80, 2))
    fit = jg.fit(x.astype(dtype), 2, key=KEY, n_init=2)
    assert fit.converged
    np.testing.assert_allclose(fit.gmm.mean(), x.mean(0), atol=2e-2)


@pytest.mark.parametrize("scale", [1e-160, 1e-90, 1e-60, 1e60, 1e150, 1e300], ids=str)
def test_columns_beyond_the_range_of_squares(scale):
    """Sums of squares must neither overflow nor vanish: a clear error where they would, else the same fit in other units."""
    x = np.concatenate([np.random.default_rng(0).normal(size=(50, 2)) + centre for centre in (0, 8)])
    if 1e-70 < scale < 1e70:
        own, plain = (np.sort(jg.fit(rows, 2, key=KEY).gmm.means, axis=0) for rows in (x * scale, x))
        np.testing.assert_allclose(own / scale, plain, rtol=1e-6)
        return
    with pytest.raises(ValueError, match="columns too large or too small for float64"):
        jg.fit(x * scale, 2, key=KEY)


def test_weights_beside_which_the_prior_is_rounding():
    """Two rows cannot have a covariance in three dimensions but for the prior; with weights of 1e18 no float64 holds it."""
    x = np.array([[-1.5, -0.1, 0.4], [4.8, 7.5, 4.8]])
    weight = np.array([8.6e17, 5.8e16])
    prior = jg.Prior.default(x, 2, "tied", sample_weight=weight)
    with pytest.raises(ValueError, match=r"the prior is less than rounding\. Divide sample_weight"):
        jg.initialise(x, 2, key=KEY, family="tied", prior=prior, sample_weight=weight)
    assert np.isfinite(jg.initialise(x, 2, key=KEY, family="tied", prior=prior).covariances).all()
