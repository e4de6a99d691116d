"""Padding: which numbers of rows share a program, and that it changes no result."""

import warnings

import jax
import numpy as np
import pytest
from helpers import FAMILIES, random_member

import jaxgmm as jg
from jaxgmm.data import ArraySource
from jaxgmm.data.padding import first_rows, on_device, pad_rows, padded_length, padded_rows

KEY = jax.random.key(3)


def blobs(n):
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 2)) + 4 * rng.integers(0, 3, size=(n, 1))


@pytest.fixture
def unpadded(monkeypatch):
    """Calls a function while nothing is padded."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr("jaxgmm.data.padding.padded_length", lambda n_samples, **_: n_samples)
            return function()

    return call


def assert_close(found, expected):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for a, b in leaves:
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


# Lengths


def test_lengths():
    """Up to 131 072 rows three of them; then eight for each factor of two, at most an eighth more."""
    numbers = np.unique(np.geomspace(1, 1e8, 5000).astype(int))
    lengths = np.array([padded_length(int(n)) for n in numbers])
    assert (lengths >= numbers).all()
    assert (np.diff(lengths) >= 0).all()
    assert np.unique(lengths[numbers <= 131_072]).tolist() == [2048, 16_384, 131_072]
    assert (lengths <= 1.125 * numbers)[numbers > 131_072].all()
    assert np.unique(lengths[(numbers > 2**20) & (numbers <= 2**21)]).size == 8
    assert all(padded_length(int(n)) == n for n in np.unique(lengths))
    lengths = np.array([padded_length(int(n), summed=False) for n in numbers])
    assert (lengths >= numbers).all()
    assert (lengths <= 1.125 * numbers + 1e-9).all()
    assert np.unique(lengths[(numbers > 1024) & (numbers <= 2048)]).size == 8


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.asarray, jax.numpy.asarray], ids=["numpy", "jax"])
def test_rows_and_back(dtype, kind):
    x, weight = np.arange(10, dtype=dtype).reshape(5, 2), np.arange(5.0)
    rows, w = padded_rows(kind(x)), pad_rows(kind(weight), 2048)
    assert (rows.dtype, rows.shape, w.shape) == (dtype, (2048, 2), (2048,))
    np.testing.assert_array_equal(rows, [*x, *np.repeat(x[-1:], 2043, axis=0)])
    np.testing.assert_array_equal(w, [*weight, *np.zeros(2043)])
    np.testing.assert_array_equal(first_rows(jax.device_put(rows), 5), x)
    assert padded_rows(rows) is rows


def test_traced_rows_are_left_alone():
    assert jax.jit(padded_rows)(np.zeros((5, 2))).shape == (5, 2)


def test_on_device():
    source = on_device(ArraySource(np.ones((3, 1)), np.ones(3), ("a",)))
    assert (source.n_samples, source.feature_names) == (2048, ("a",))
    assert source.reduce(lambda rows, weight: weight.sum()) == 3


# Results


@pytest.mark.parametrize(
    ("family", "init", "n", "prior"),
    [
        ("full", "k-means++", 300, "default"),
        ("tied", "random", 300, None),
        ("diag", "k-means++", 2500, None),
        ("spherical", "random", 5, "fraley-raftery"),
    ],
)
def test_a_fit_is_as_without(unpadded, family, init, n, prior):
    weight = np.random.default_rng(1).integers(0, 3, n).astype(float) if n > 5 else None

    def found():
        options = {"key": KEY, "family": family, "init": init, "prior": prior, "n_init": 3, "sample_weight": weight}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jg.FitWarning)
            fit = jg.fit(blobs(n), 2, max_steps=30, **options)
        return fit.gmm, fit.restarts.objective, fit.expected_rows

    assert_close(found(), unpadded(found))


@pytest.mark.parametrize("kind", ["labels", "responsibilities"])
def test_given_starts_are_as_without(unpadded, kind):
    x, labels = blobs(300), np.arange(300) % 3
    init = labels if kind == "labels" else np.eye(3)[labels]

    def found():
        fit, vb = jg.fit(x, key=KEY, init=init), jg.fit_vb(x, key=KEY, init=init)
        return fit.gmm, fit.objective, vb.mean, vb.elbo

    assert_close(found(), unpadded(found))


def test_a_comparison_is_as_without(unpadded):
    def found():
        options = {"families": ["diag"], "n_components": [1, 2], "n_init": 2, "held_out_folds": 3, "elbo": True}
        table = jg.compare(blobs(300), key=KEY, **options).table
        return table[["log_likelihood", "bic", "icl", "held_out", "elbo"]].to_numpy(float)

    assert_close(found(), unpadded(found))


@pytest.mark.parametrize(("family", "n"), [*zip(FAMILIES, (257, 255, 2049, 1), strict=True)])
def test_answers_are_as_without(unpadded, family, n):
    """Blocks of 256 of 2048 rows, and of 2048 of 16 384, that are full, begun and empty."""
    x, weight = blobs(n), np.random.default_rng(0).random(n)
    gmm = random_member(family, n_features=2)

    def answers():
        statistics = jg.e_step(gmm, x, weight)
        rows = gmm.log_prob(x), gmm.responsibilities(x), gmm.predict(x), gmm.log_prob(x[0])
        return *rows, gmm.bic(x, weight), gmm.icl(x), gmm.log_likelihood(x), statistics, jg.m_step(statistics, gmm)

    found = answers()
    assert [np.shape(answer) for answer in found[:4]] == [(n,), (n, 3), (n,), ()]
    assert_close(found, unpadded(answers))


OPTIONS = {"nuts": {"n_warmup": 4, "max_tree_depth": 4}, "laplace": {}}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_posterior_is_as_without(unpadded, method):
    """Densities, their gradients (NUTS goes by them) and second derivatives (Laplace's are made of them)."""
    x, key = jg.datasets.load_faithful().x, jax.random.key(1)
    fit = jg.fit(x, 2, key=KEY, n_init=2)

    def ask():
        tree = jg.posterior(x, fit, method=method, key=key, n_draws=4, n_chains=2, groups=["log_likelihood"], **OPTIONS[method])
        of_rows = jg.membership(jg.relabel(tree, fit.gmm))
        return [tree[name].to_dataset() for name in ("posterior", "log_likelihood", "sample_stats")] + [of_rows]

    for found, expected in zip(ask(), unpadded(ask), strict=True):
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-8, err_msg=name)


def test_fit_map_is_as_without(unpadded):
    x = jg.datasets.load_faithful().x
    start = jg.fit(x, 2, key=KEY, n_init=2)

    def ask():
        return jg.fit_map(x, init=start, key=KEY)

    found, expected = ask(), unpadded(ask)
    assert_close(found.gmm, expected.gmm)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)


def test_the_last_row_may_have_no_density():
    """It is what rows are padded with."""
    gmm = jg.GMM([1.0], [[0.0]], [1e-300], "spherical")
    assert gmm.log_likelihood([[0.0], [1e200]]) == -np.inf
    assert jg.e_step(gmm, [[0.0], [0.0]]).log_likelihood == pytest.approx(gmm.log_likelihood([[0.0], [0.0]]))


# Programs


def test_other_numbers_of_rows_compile_nothing(compilations):
    """What is compiled for 200 rows serves any number up to 2048."""

    def ask(n):
        x = blobs(n)
        fit = jg.fit(x, 3, key=KEY, n_init=2, max_steps=2000)
        statistics = jg.e_step(fit.gmm, x)
        jg.m_step(statistics, fit.gmm)
        fit.gmm.predict(x), fit.gmm.responsibilities(x), fit.gmm.log_prob(x), fit.gmm.bic(x)
        jg.fit_vb(x, 2, key=KEY, n_init=2, max_steps=2000)
        jg.compare(x, families=["diag"], n_components=[1, 2], key=KEY, n_init=2, max_steps=2000)
        jg.initialise(x, 3, key=KEY)

    jax.clear_caches()
    ask(200)
    assert "jit(_advance)" in compilations
    compilations.clear()
    for n in (201, 229, 1000, 2048):
        ask(n)
    assert not compilations


@pytest.mark.parametrize("method", [*OPTIONS, "gibbs", "svi", "vb", "sandwich"])
def test_posteriors_of_other_numbers_of_rows_compile_nothing(compilations, method):
    options = {"svi": {"n_steps": 50}, "gibbs": {"n_warmup": 4}}.get(method, OPTIONS.get(method, {}))

    def ask(x):
        fit = jg.fit_map(x, 2, key=KEY, n_init=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jg.FitWarning)  # of so few steps
            tree = jg.posterior(x, fit, method=method, key=KEY, n_draws=4, n_chains=2, **options)
        jg.membership(jg.relabel(tree, fit.gmm))

    x = jg.datasets.load_faithful().x
    ask(x)
    compilations.clear()
    ask(x[:260])
    assert not compilations
