"""mclust's fourteen families: what components share, that an M-step is the best of it, and what the rest makes of them."""

import functools
import importlib
import itertools

import jax
import numpy as np
import pytest
from helpers import load_x
from scipy import stats

import jaxgmm as jg
from jaxgmm import covariance

KEY = jax.random.key(0)
RESTRICTED = [name for name, family in covariance.FAMILIES.items() if family.restricted]
ALL = list(covariance.FAMILIES)
K, D = 3, 4
ROWS = np.array([40.0, 25.0, 60.0])


def letters(family):
    return covariance.FAMILIES[family].mclust


def scatters(seed=0):
    """Of three components that share nothing, (K, D, D)."""
    raw = np.random.default_rng(seed).normal(size=(K, D, 2 * D))
    return ROWS[:, None, None] * raw @ raw.transpose(0, 2, 1) / np.array([1.0, 4.0, 9.0])[:, None, None]


def kept(family, dense):
    """What the family's structure keeps of scatters."""
    kind = covariance.get_family(family)
    if kind.structure.isotropic:
        return np.trace(dense, axis1=1, axis2=2)
    if not kind.structure.dense:
        return np.diagonal(dense, axis1=1, axis2=2)
    return dense if kind.per_component else dense.sum(0)


@functools.cache
def fitted(family):
    """The M-step's covariances of these scatters (K, D, D): iterated, since some only climb."""
    kind = covariance.FAMILIES[family]

    @jax.jit
    def rounds(scatter, current):
        return jax.lax.fori_loop(0, 40, lambda _, now: kind.refit(scatter, ROWS, now, D, ROWS > 0, None), current)

    return np.asarray(kind.dense(rounds(kept(family, scatters()), kind.from_dense(np.tile(np.eye(D), (K, 1, 1)))), K, D))


def loss(dense, covariances, rows=ROWS):
    """What an M-step minimises."""
    return sum(
        n * np.linalg.slogdet(sigma)[1] + np.trace(np.linalg.solve(sigma, t))
        for n, sigma, t in zip(rows, covariances, dense, strict=True)
    )


def parts(sigma):
    """Volume, shape and axes of each, (K,), (K, D), (K, D, D)."""
    values, axes = np.linalg.eigh(sigma)
    volume = np.exp(np.log(values).mean(1))
    return volume, values / volume[:, None], axes


def shared(sigma):
    """mclust's three letters, as far as these matrices have them: what of volume, shape and axes they share."""
    volume, shape, _ = parts(sigma)
    equal = [np.ptp(value, axis=0).max() < 1e-6 for value in (volume, shape)]
    off = sigma - np.eye(D) * sigma
    axes = "I" if abs(off).max() < 1e-9 else "V"
    if axes == "V" and all(abs(a @ b - b @ a).max() < 1e-5 * abs(a @ b).max() for a, b in itertools.combinations(sigma, 2)):
        axes = "E"
    if axes == "I":  # shapes in the order of the features
        diagonal = np.diagonal(sigma, axis1=1, axis2=2) / volume[:, None]
        equal[1] = np.ptp(diagonal, axis=0).max() < 1e-6
        if abs(diagonal - 1).max() < 1e-9:
            return ("E" if equal[0] else "V") + "II"
    return "".join("E" if same else "V" for same in equal) + axes


@pytest.mark.parametrize("family", ALL)
def test_components_share_what_the_letters_say(family):
    assert shared(fitted(family)) == letters(family)


@pytest.mark.parametrize("family", ALL)
def test_no_neighbour_of_the_family_is_better(family):
    """Neighbours are built of volumes, shapes and axes, changed together or one by one as the letters say."""
    dense, rng, code = scatters(), np.random.default_rng(1), letters(family)
    best = fitted(family)
    axes = np.linalg.eigh(best)[1] if code[2] != "I" else np.tile(np.eye(D), (K, 1, 1))
    if code[2] == "E":
        axes = np.tile(np.linalg.eigh((best * np.array([1.0, 1.3, 1.7])[:, None, None]).sum(0))[1], (K, 1, 1))
    along = np.einsum("kia,kij,kja->ka", axes, best, axes)
    np.testing.assert_allclose((axes * along[:, None]) @ axes.transpose(0, 2, 1), best, atol=1e-5)

    def noise(letter, shape):
        return rng.normal(size=(1 if letter == "E" else K, *shape)) * np.ones((K, *(1,) * len(shape)))

    at_best = loss(dense, best)
    for size in np.repeat([1e-1, 1e-2, 1e-3], 20):
        volume, shape = size * noise(code[0], ()), np.zeros((K, D)) if code[1] == "I" else size * noise(code[1], (D,))
        shape -= shape.mean(1, keepdims=True)
        turn = np.zeros((K, D, D)) if code[2] == "I" else size * noise(code[2], (D, D))
        turned = axes @ np.linalg.qr(np.eye(D) + turn - turn.transpose(0, 2, 1))[0]
        variances = along * np.exp(volume[:, None] + shape)
        near = (turned * variances[:, None]) @ turned.transpose(0, 2, 1)
        assert loss(dense, near) > at_best - 1e-6


def test_families_within_others_are_no_better():
    at_best = {letters(family): loss(scatters(), fitted(family)) for family in ALL}
    order = {"I": 0, "E": 1, "V": 2}
    for inner, outer in itertools.permutations(at_best, 2):
        if all(order[a] <= order[b] for a, b in zip(inner, outer, strict=True)):
            assert at_best[inner] >= at_best[outer] - 1e-6, (inner, outer)


@pytest.mark.parametrize("family", ALL)
def test_parameters_are_counted_as_mclust_counts_them(family):
    """A volume, D - 1 numbers of a shape, and D (D - 1) / 2 of the axes, as often as there are different ones."""
    volume, shape, axes = letters(family)
    for k, d in itertools.product(range(1, 10), range(1, 11)):
        times = {"I": 0, "E": 1, "V": k}
        expected = times[volume] + times[shape] * (d - 1) + times[axes] * d * (d - 1) // 2
        assert covariance.FAMILIES[family].n_covariance_parameters(k, d) == expected


def start_of(family, means, dense):
    """A mixture of as many equal covariances."""
    covariances = np.tile(dense, (len(means), 1, 1))
    return jg.GMM.unchecked(np.full(len(means), 1 / len(means)), np.asarray(means), as_family(family, covariances), family)


@functools.cache
def mode(family, acceleration=None):
    """Of the default prior, from one start: a program for each family, and one for each acceleration."""
    x = load_x("diabetes")
    start = start_of(family, np.quantile(x, [0.2, 0.5, 0.8], axis=0), np.cov(x.T) / 3)
    return jg.fit(x, init=start, key=KEY, rtol=1e-13, max_steps=4000, acceleration=acceleration)


@pytest.mark.parametrize("family", ["EEI", "VEE", "EVE", "VEV"])
def test_em_climbs_to_what_squarem_finds(family):
    fit, fast = mode(family), mode(family, "squarem")
    assert fit.converged
    assert fast.converged
    assert fast.objective == pytest.approx(fit.objective, abs=1e-3)
    assert fast.n_steps < fit.n_steps or fit.n_steps < 40


@pytest.mark.parametrize("family", RESTRICTED)
def test_a_fit_with_the_default_prior_is_a_mode(family):
    """No mixture of the family near the fit has more likelihood and prior, the random scale summed out."""
    x, rng, kind = load_x("diabetes"), np.random.default_rng(2), covariance.FAMILIES[family]
    nearest = jax.jit(lambda moved, weights: kind.nearest(moved, weights, x.shape[1]))
    fit = mode(family)
    assert fit.converged
    assert (np.diff(fit.trace) > -1e-8).all()
    weights, own = np.asarray(fit.gmm.weights), np.asarray(fit.gmm.covariances)
    for size in np.repeat([1e-2, 1e-3], 10):
        noise = size * rng.normal(size=own.shape)
        moved = own * (1 + (noise + noise.swapaxes(-1, -2) if kind.structure.dense else noise))
        near = jg.GMM.unchecked(weights, fit.gmm.means, np.asarray(nearest(moved, weights)), family)
        assert near.log_likelihood(x) + float(fit.prior.log_prob(near)) < fit.objective + 1e-6


@pytest.mark.parametrize("family", [name for name in RESTRICTED if name not in ("VEE", "VEV")])
def test_copies_of_rows_do_not_collapse(family):
    """They are a component of their own where volumes differ, whose sums take a program more: VVE's shapes differ, too."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(100, 3)), np.tile([[5.0, 5.0, 5.0]], (40, 1)), rng.normal(size=(5, 3)) + 20])
    start = start_of(family, [[0.0] * 3, [5.0] * 3, [20.0] * 3], np.eye(3) / 4)
    fit = jg.fit(x, init=start, key=KEY, max_steps=4000)  # the program of `mode`
    assert letters(family)[0] == "E" or np.isclose(fit.weights[1], 40 / 145)
    assert np.linalg.eigvalsh(fit.gmm.dense_covariances()).min() > 1e-12
    assert np.isfinite(fit.gmm.log_likelihood(x))


def test_one_feature_has_two_families():
    x = load_x("faithful")[:, 0]
    r = np.exp(-((x[:, None] - [2.0, 4.0]) ** 2)) * [0.4, 0.6]
    r /= r.sum(1, keepdims=True)
    scatter = (r * (x[:, None] - r.T @ x / r.sum(0)) ** 2).sum(0)[:, None, None]

    def step(name):
        kind, counts = covariance.get_family(name), r.sum(0)
        refit = jax.jit(lambda scatter, current: kind.refit(scatter, counts, current, 1, counts > 0, None))
        return np.ravel(kind.dense(refit(kept(name, scatter), kind.from_dense(np.full((2, 1, 1), 0.5))), 2, 1))

    expected = {"E": step("E"), "V": step("V")}
    assert np.ptp(expected["E"]) == 0 < np.ptp(expected["V"])
    for name in ALL:
        np.testing.assert_allclose(step(name), expected[letters(name)[0]], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("family", RESTRICTED)
def test_marginals_and_conditionals(family):
    """Their densities are scipy's; where features can't share what all of them do, the family is the general one."""
    gmm = jg.GMM([0.2, 0.3, 0.5], np.arange(12.0).reshape(3, 4), as_family(family, fitted(family)), family)
    dense, x = np.asarray(gmm.dense_covariances()), np.random.default_rng(0).normal(size=(5, 2))
    part = gmm.marginal([2, 0])
    expected = sum(
        w * stats.multivariate_normal.pdf(x, m[[2, 0]], s[np.ix_([2, 0], [2, 0])])
        for w, m, s in zip(gmm.weights, gmm.means, dense, strict=True)
    )
    np.testing.assert_allclose(part.log_prob(x), np.log(expected), rtol=1e-9)
    both = np.column_stack([np.tile([0.5, -0.5], (5, 1)), x])
    rest = gmm.condition([0, 1], [0.5, -0.5])
    np.testing.assert_allclose(rest.log_prob(x), gmm.log_prob(both) - gmm.marginal([0, 1]).log_prob([0.5, -0.5]), rtol=1e-9)
    kind = covariance.FAMILIES[family]
    assert part.family == rest.family == (family if kind.closed else kind.general)


def as_family(family, dense):
    return np.asarray(covariance.get_family(family).from_dense(dense))


@pytest.mark.parametrize("family", RESTRICTED)
def test_covariances_of_another_family_are_refused(family):
    other = as_family(family, fitted("full"))
    with pytest.raises(ValueError, match=f"those of family '{family}' do: take family='(full|diag|spherical)'"):
        jg.GMM([0.2, 0.3, 0.5], np.zeros((K, D)), other, family)


@pytest.mark.parametrize("family", RESTRICTED)
def test_files_and_estimators(family, tmp_path):
    gmm = jg.GMM([0.2, 0.3, 0.5], np.arange(12.0).reshape(3, 4), as_family(family, fitted(family)), family)
    again = jg.load(gmm.save(tmp_path / "gmm.npz"))
    assert again.family == family
    x = gmm.sample(KEY, 50)[0]
    np.testing.assert_array_equal(again.log_prob(x), gmm.log_prob(x))
    from jaxgmm.sklearn import GaussianMixture

    np.testing.assert_allclose(GaussianMixture.from_gmm(gmm).score_samples(x), gmm.log_prob(x), rtol=1e-8)


@pytest.mark.parametrize("family", ["EII", "VEV"])
def test_what_needs_a_conjugate_prior_says_so(family):
    x, fit = load_x("diabetes"), mode(family)
    general = covariance.FAMILIES[family].general
    for call in (
        lambda: jg.posterior(x, fit, method="gibbs", key=KEY),
        lambda: jg.posterior(x, fit.gmm, method="nuts", key=KEY),
        lambda: jg.fit_vb(x, 2, family=family, key=KEY),
        lambda: jg.fit_map(x, 2, family=family, key=KEY),
        lambda: jg.numpyro_model(x, 2, family),
        lambda: jg.GibbsKernel(fit.gmm, fit.prior),
        lambda: jg.unconstrain(fit.gmm),
        lambda: jg.constrain(np.zeros(9), 2, 2, family),
        lambda: jg.compare(x, families=["full", family], n_components=[2], key=KEY, elbo=True),
        lambda: jg.compare(x, families=["full", family], n_components=[2], key=KEY, loo=True),
    ):
        with pytest.raises(ValueError, match=f"family '{family}', which restricts.*take '{general}'"):
            call()
    with pytest.raises(ValueError, match=f"'{family}' ties components together"):
        jg.count_clusters(x, key=KEY, family=family)


def test_compare_takes_all_by_one_word(monkeypatch):
    few = {name: covariance.FAMILIES[name] for name in ("EEI", "VEE")}
    monkeypatch.setattr(importlib.import_module("jaxgmm.comparing.compare"), "FAMILIES", few)
    x = load_x("diabetes")  # whose restricted fits are compared with mclust's
    comparison = jg.compare(x, families="all", n_components=[1], key=KEY, prior=None, n_init=20, max_steps=3000)
    assert comparison.names == [f"{family} 1" for family in few]
    covariances = {"EEI 1": np.diag(x.var(0)), "VEE 1": np.cov(x.T, bias=True)}
    for name, dense in covariances.items():
        expected = stats.multivariate_normal(x.mean(0), dense).logpdf(x).sum()
        assert comparison.table.loc[name, "log_likelihood"] == pytest.approx(expected)
    assert comparison.table["n_parameters"].tolist() == [6, 9]
    with pytest.raises(TypeError, match=r"'all' or a list of names, got 'VEV': families=\['VEV'\]"):
        jg.compare(load_x("faithful"), families="VEV", key=KEY)


# What starts, weights of zero and fixed parameters may spoil


@pytest.mark.parametrize("family", ["EII", "VEV", "EVE"])
def test_components_that_take_no_part_leave_no_trace(family):
    """A start with a component of weight 0, and one from labels, which is padded, end where others do."""
    x = load_x("diabetes")
    labels = np.searchsorted(np.quantile(x[:, 0], [1 / 3, 2 / 3]), x[:, 0])
    options = {"family": family, "key": KEY, "rtol": 1e-9, "max_steps": 4000}  # the program of `mode`
    plain = jg.fit(x, init=labels, **options)
    assert plain.converged
    assert (np.diff(plain.trace) > -1e-8).all()
    gmm, k = plain.gmm, plain.gmm.n_components
    far = 50 * np.asarray(gmm.covariances)[:1]
    start = jg.GMM(np.append(0, gmm.weights), np.append([[0.0] * 3], gmm.means, 0), np.append(far, gmm.covariances, 0), family)
    with pytest.warns(jg.FitWarning, match="1 of 4 components have no rows: 0"):
        again = jg.fit(x, init=start, prior=plain.prior, **options)
    assert again.converged
    assert again.objective == pytest.approx(plain.objective, abs=1e-5)
    assert again.objective == pytest.approx(again.log_likelihood + float(again.prior.log_prob(again.gmm)), abs=1e-6)
    assert np.count_nonzero(again.gmm.weights) == k


def test_groups_of_several_sizes_are_read_again(tmp_path):
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(60, 2)), np.concatenate([rng.normal(size=(40, 2)), 9 + rng.normal(size=(40, 2))])]
    fits = jg.fit_groups(groups, n_components=[1, 2], family="EII", key=KEY)
    assert fits.table["n_components"].tolist() == [1, 2]
    apart = np.array([[np.eye(2), 9 * np.diag([1.0, 2.0])], [np.eye(2) + 1, 3 * (np.eye(2) + 1)]])  # the first of one alone
    others = jg.GMM.unchecked(np.array([[1.0, 0.0], [0.5, 0.5]]), np.zeros((2, 2, 2)), apart, "VEE")
    for gmm in (fits.gmm, others):
        again = jg.load(gmm.save(tmp_path / f"{gmm.family}.npz"))
        np.testing.assert_array_equal(again.covariances, gmm.covariances)


def test_a_mixture_may_be_made_inside_jit():
    x = np.array([[0.5], [3.0]])
    with jax.enable_x64(False):
        made = jax.jit(lambda x: jg.GMM([0.3, 0.7], [[0.0], [4.0]], [1.0, 1.0], "EII").log_prob(x))(x.astype(np.float32))
        with pytest.raises(ValueError, match="don't share"):
            jg.GMM([0.3, 0.7], [[0.0], [4.0]], np.array([1.0, 9.0], np.float32), "EII")
    np.testing.assert_allclose(made, jg.GMM([0.3, 0.7], [[0.0], [4.0]], [1.0, 1.0], "spherical").log_prob(x), rtol=1e-5)


@pytest.mark.parametrize("family", ["EEE", "VEE", "EVE", "VVE", "EEV", "VEV", "EVV"])
def test_features_that_are_alike_are_correlated_all_the_same(family):
    """Both columns have the same scatter, so that no small turn of the axes shows that they should turn."""
    gmm = start_of(family, np.zeros((1, 2)), np.eye(2))
    x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0]])
    step = jg.m_step(jg.e_step(gmm, x), gmm)
    np.testing.assert_allclose(step.dense_covariances()[0], np.cov(x.T, bias=True), rtol=1e-9)


def test_fixed_covariances_stay_as_they_are_with_squarem():
    start = mode("EVE").gmm
    off = np.asarray(start.covariances) * (1 + 1e-5 * np.arange(3)[:, None, None])
    start = jg.GMM(start.weights, start.means, off, "EVE")
    fit = jg.fit(load_x("diabetes"), init=start, key=KEY, fixed=("covariances",), acceleration="squarem")
    np.testing.assert_array_equal(fit.gmm.covariances, off)


@pytest.mark.parametrize("family", RESTRICTED)
def test_the_power_of_a_random_scale(family):
    """Of one component it is that of the family it is a part of; of two of one volume in one feature, that of the integral."""
    kind = covariance.FAMILIES[family]
    general = covariance.FAMILIES[kind.general]
    for d in (1, 3, 6):
        own, whole = (float(each.scale_power(d + 2.0, d, 1)) for each in (kind, general))
        if kind.n_covariance_parameters(1, d) == general.n_covariance_parameters(1, d):
            assert own == pytest.approx(whole)
    if letters(family)[0] == "E" and family not in ("EII", "EEI"):
        nu, psi = 3.0, 2.0

        def log_integral(s):
            """Of the product of two inverse-gamma kernels at the same variance."""
            variance = np.exp(np.linspace(-12, 12, 20_001))
            kernel = np.exp(2 * (-(nu + 2) / 2 * np.log(variance) - s * psi / (2 * variance)))
            return np.log(np.trapezoid(kernel * variance, np.log(variance)))

        power = -(log_integral(2.0) - log_integral(1.0)) / np.log(2)
        assert float(kind.scale_power(nu, 1, 2)) == pytest.approx(power, rel=1e-6)
