"""Sufficient statistics: what they are, that they add up however the rows are cut, and that both engines agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import kept, nearest, random_member
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jaxgmm as jg
from jaxgmm.covariance import FAMILIES
from jaxgmm.model.engines import COMPLETE

ENGINES = ("moments", "whitened")


def brute_force(gmm, x, weight):
    """Responsibilities from scipy's densities; the log-likelihood of each row."""
    dense = np.asarray(gmm.dense_covariances())
    with np.errstate(divide="ignore"):
        joint = np.log(gmm.weights) + np.stack(
            [multivariate_normal(m, c).logpdf(x) for m, c in zip(gmm.means, dense, strict=True)], axis=1
        )
    log_prob = logsumexp(joint, axis=1)
    return weight[:, None] * np.exp(joint - log_prob[:, None]), weight @ log_prob


def assert_same(a, b, rtol):
    """Statistics agree, each field relative to its own size, and about the same centre."""
    for name in ("counts", "sums", "scatter", "centre", "log_likelihood", "total_weight"):
        mine, other = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        np.testing.assert_allclose(mine, other, rtol=rtol, atol=rtol * max(np.abs(other).max(), 1e-3), err_msg=name)


@pytest.mark.parametrize("sd", [1e-100, 1.0])
def test_rows_too_far_for_any_number(family, sd):
    """Where densities are 0 in float64 they are of no component more than its weight says; other rows don't suffer."""
    cov = nearest(family, np.tile(sd**2 * np.eye(2), (2, 1, 1)))
    gmm = jg.GMM([0.25, 0.75], [[0.0, 0.0], [3 * sd, 0.0]], np.asarray(cov), family)
    x = np.array([[0.0, sd], [3 * sd, sd], [1e300, 1e300]])
    near, both = jg.e_step(gmm, x[:2]), jg.e_step(gmm, x)
    assert float(both.log_likelihood) == gmm.log_likelihood(x) == -np.inf
    np.testing.assert_allclose(both.counts, np.add(near.counts, [0.25, 0.75]), rtol=1e-12)
    np.testing.assert_allclose(gmm.responsibilities(x)[2], [0.25, 0.75])
    assert gmm.predict(x).tolist() == [0, 1, 1]
    assert np.isfinite(both.sums).all()
    assert np.isfinite(both.scatter).all()
    absent = jg.e_step(gmm, x, [1, 1, 0])
    assert float(absent.log_likelihood) == pytest.approx(gmm.log_likelihood(x[:2]), rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_definition(blobs, row_counts, family, engine):
    gmm = random_member(family)
    statistics = jg.e_step(gmm, blobs, row_counts, engine=engine)
    r, log_likelihood = brute_force(gmm, blobs, row_counts.astype(float))
    shifted = blobs[:, None, :] - np.asarray(statistics.centre)
    scatter = np.einsum("nk,nki,nkj->kij", r, shifted, shifted)
    np.testing.assert_allclose(statistics.counts, r.sum(0), rtol=1e-11)
    np.testing.assert_allclose(statistics.sums, np.einsum("nk,nkd->kd", r, shifted), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(statistics.scatter, kept(family, scatter), rtol=1e-10, atol=1e-10)
    assert float(statistics.log_likelihood) == pytest.approx(log_likelihood, rel=1e-12)
    assert float(statistics.total_weight) == row_counts.sum()
    assert float(statistics.counts.sum()) == pytest.approx(row_counts.sum(), rel=1e-13)


def test_engines_agree(blobs, row_counts, family):
    gmm = random_member(family)
    moments, whitened = (jg.m_step(jg.e_step(gmm, blobs, row_counts, engine=engine), gmm) for engine in ENGINES)
    for a, b in zip(jax.tree.leaves(moments), jax.tree.leaves(whitened), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "engine", "block_size"),
    [
        *(("full", "moments", size) for size in (1, 7, 1000)),
        ("full", "whitened", 7),
        ("tied", "moments", 7),
        ("tied", "whitened", 1),
    ],
)
def test_blocks_add_up(blobs, row_counts, family, engine, block_size):
    gmm = random_member(family)
    whole = jg.e_step(gmm, blobs, row_counts, engine=engine)
    assert_same(jg.e_step(gmm, blobs, row_counts, engine=engine, block_size=block_size), whole, 1e-13)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["full", "tied"])
def test_parts_add_up(blobs, family, engine):
    """Chunks of a file, devices, hosts: whatever holds the rows, statistics just add."""
    gmm = random_member(family)
    parts = jg.e_step(gmm, blobs[:120], engine=engine) + jg.e_step(gmm, blobs[120:], engine=engine)
    assert isinstance(parts, jg.Statistics)
    assert_same(parts, jg.e_step(gmm, blobs, engine=engine), 1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_integer_weights_are_repeated_rows(blobs, row_counts, family, engine):
    gmm = random_member(family)
    weighted = jg.e_step(gmm, blobs, row_counts, engine=engine)
    assert_same(weighted, jg.e_step(gmm, np.repeat(blobs, row_counts, axis=0), engine=engine), 1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_weight_is_an_absent_row(blobs, row_counts, family, engine):
    """Whatever the row says: here it lies so far out that its density underflows."""
    gmm = random_member(family)
    x = np.where(row_counts[:, None] == 0, 1e12, blobs)
    assert_same(jg.e_step(gmm, x, row_counts, engine=engine), jg.e_step(gmm, blobs, row_counts, engine=engine), 1e-13)


def test_weights_scale(blobs, row_counts, family):
    gmm = random_member(family)
    once, often = (jg.m_step(jg.e_step(gmm, blobs, w * row_counts), gmm) for w in (1.0, 2.5))
    for mine, other in zip(jax.tree.leaves(once), jax.tree.leaves(often), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("engine", "with_prior"), [("moments", False), ("whitened", True)])
def test_padding_changes_nothing(blobs, family, engine, with_prior):
    """Components of weight zero stay at zero, and the others don't see them: how one compilation serves many K."""
    gmm, n_extra = random_member(family), 2
    prior = jg.Prior.default(blobs, 3, family) if with_prior else None
    covariances = np.asarray(gmm.covariances)
    if FAMILIES[family].per_component:
        covariances = np.concatenate([covariances, covariances[:n_extra]])
    padded = jg.GMM(
        np.concatenate([gmm.weights, np.zeros(n_extra)]),
        np.concatenate([gmm.means, np.full((n_extra, 3), 50.0)]),
        covariances,
        family,
    )
    a, b = jg.e_step(gmm, blobs, engine=engine), jg.e_step(padded, blobs, engine=engine)
    assert np.all(np.asarray(b.counts[3:]) == 0)
    np.testing.assert_allclose(b.counts[:3], a.counts, rtol=1e-12)
    np.testing.assert_allclose(b.sums[:3], a.sums, rtol=1e-11, atol=1e-11)
    assert float(b.log_likelihood) == pytest.approx(float(a.log_likelihood), rel=1e-13)

    a, b = jg.m_step(a, gmm, prior), jg.m_step(b, padded, prior)
    assert np.all(np.asarray(b.weights[3:]) == 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(b))
    np.testing.assert_allclose(b.weights[:3], a.weights, rtol=1e-12)
    np.testing.assert_allclose(b.means[:3], a.means, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(b.dense_covariances()[:3], a.dense_covariances(), rtol=1e-10, atol=1e-12)
    if with_prior:
        assert float(prior.log_prob(b)) == pytest.approx(float(prior.log_prob(a)), rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_far_rows(family, engine):
    """A row 1e6 standard deviations from every component has a density that underflows, and still belongs somewhere."""
    gmm = random_member(family)
    x = np.array([[1e6, 0.0, 0.0], [0.0, -1e6, 0.0], [0.0, 0.0, 0.0]])
    statistics = jg.e_step(gmm, x, engine=engine)
    _, log_likelihood = brute_force(gmm, x, np.ones(3))
    assert float(statistics.counts.sum()) == pytest.approx(3, rel=1e-12)
    assert float(statistics.log_likelihood) == pytest.approx(log_likelihood, rel=1e-9)


def test_auto_engine_keeps_digits(family):
    """At spread/sigma = 1e6 moments lose twelve digits; the choice must not."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 120)
    means = np.array([[-1e6, 0.0, 0.0], [1e6, 1.0, 0.0]])
    x = means[labels] + rng.normal(size=(240, 3))
    gmm = jg.GMM([0.5, 0.5], means, nearest(family, np.stack([np.eye(3)] * 2)), family)
    statistics = jg.e_step(gmm, x)
    _, log_likelihood = brute_force(gmm, x, np.ones(240))
    assert float(statistics.log_likelihood) == pytest.approx(log_likelihood, rel=1e-10)
    within = np.stack([np.cov(x[labels == k].T, bias=True) for k in (0, 1)])
    # The data themselves are rounded at 1e6 * 2e-16 = 2e-10.
    np.testing.assert_allclose(jg.m_step(statistics, gmm).covariances, nearest(family, within), atol=1e-8)


def test_traces(blobs, row_counts, family):
    """One EM step under jit and vmap over mixtures."""
    gmms = [random_member(family, seed=seed) for seed in range(2)]
    draws = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gmms)

    def step(gmm):
        return jg.m_step(jg.e_step(gmm, blobs, row_counts), gmm)

    batched = jax.jit(jax.vmap(step))(draws)
    for i, gmm in enumerate(gmms):
        for mine, other in zip(jax.tree.leaves(batched), jax.tree.leaves(step(gmm)), strict=True):
            np.testing.assert_allclose(mine[i], other, rtol=1e-11, atol=1e-12)


def test_gradient(blobs, row_counts):
    """The gradient of an E-step's log-likelihood against central differences."""
    gmm = random_member("full")

    @jax.jit
    @jax.value_and_grad
    def log_likelihood(means):
        return jg.e_step(jg.GMM(gmm.weights, means, gmm.covariances), blobs, row_counts).log_likelihood

    means, h = jnp.asarray(gmm.means), 1e-5
    direction = np.random.default_rng(0).normal(size=means.shape)
    slope = float((log_likelihood(means)[1] * direction).sum())
    difference = float(log_likelihood(means + h * direction)[0] - log_likelihood(means - h * direction)[0]) / (2 * h)
    # Central differences: h^2 from the third derivative, eps |L| / h from rounding.
    assert slope == pytest.approx(difference, rel=1e-6)


@pytest.mark.parametrize(("family", "dtype"), [("full", np.float32), *((family, np.float64) for family in FAMILIES)])
def test_exports_for_cpu_gpu_and_tpu(blobs, family, dtype):
    gmm = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), random_member(family))
    step = jax.jit(lambda gmm, x: jax.tree.leaves(jg.m_step(jg.e_step(gmm, x), gmm)))
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(gmm, blobs.astype(dtype))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert {aval.dtype for aval in exported.out_avals} == {np.dtype(dtype)}


@pytest.mark.default_precision
def test_float32(blobs, family):
    gmm, x = random_member(family), blobs.astype(np.float32)
    statistics = jg.e_step(gmm, x)
    new = jg.m_step(statistics, gmm)
    assert {leaf.dtype for leaf in jax.tree.leaves((statistics, new))} == {np.dtype(np.float64)}
    assert not jax.config.jax_enable_x64
    with jax.enable_x64(True):
        expected = jg.m_step(jg.e_step(gmm, x.astype(float)), gmm)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.default_precision
def test_float32_keeps_its_distance(family):
    """sd 0.01 at offset 1000: raw float32 moments would give a variance of 1.31 for 0.01 (and of 0 for 1e-4)."""
    rng = np.random.default_rng(0)
    x = (1000 + 0.1 * rng.normal(size=(2000, 3))).astype(np.float32)
    centred = x.astype(float) - x.astype(float).mean(0)
    gmm = jg.GMM([1.0], x[:1].astype(float), np.asarray(nearest(family, 0.01 * np.eye(3)[None])), family)
    for _ in range(2):
        gmm = jg.m_step(jg.e_step(gmm, x), gmm)
    variances = np.diagonal(np.asarray(gmm.dense_covariances())[0])
    truth = (centred**2).mean(0)
    np.testing.assert_allclose(variances, truth.mean() if FAMILIES[family].structure.isotropic else truth, rtol=1e-4)


@pytest.mark.parametrize(("n_features", "n_components"), [(8, 16), (16, 16)])
def test_operations_a_row(n_features, n_components):
    """XLA's own count, of the difference of two numbers of rows: two matrix products, and little else."""
    gmm = jg.GMM(
        np.full(n_components, 1 / n_components), np.ones((n_components, n_features)), [np.eye(n_features)] * n_components
    )

    def sums(gmm, x, weight):
        return COMPLETE.sums(jax.tree.map(lambda leaf: leaf[None], gmm.components()), x, weight, np.zeros(n_features))

    def flops(n_rows):
        compiled = jax.jit(sums).lower(gmm, np.zeros((n_rows, n_features)), np.ones(n_rows)).compile()
        return compiled.cost_analysis()["flops"]

    products = 4 * n_components * (1 + n_features + n_features * (n_features + 1) // 2)
    assert products <= (flops(600) - flops(200)) / 400 <= 1.1 * products


@pytest.mark.parametrize("engine", ENGINES)
def test_tangents_are_numbers_beside_a_component_that_takes_no_part(engine):
    x = np.random.default_rng(0).normal(size=(20, 2))
    gmm = jg.GMM([0.5, 0.5, 0.0], [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]], np.stack([np.eye(2)] * 3))

    def of(shift, rows):
        moved = jg.GMM.unchecked(gmm.weights, gmm.means + shift, gmm.covariances, gmm.family)
        return jg.e_step(moved, rows, engine=engine).log_likelihood

    for argument in (0, 1):
        tangent = jax.jit(jax.jacfwd(of, argument))(0.0, x)
        np.testing.assert_allclose(tangent, jax.jit(jax.grad(of, argument))(0.0, x), rtol=1e-10)
